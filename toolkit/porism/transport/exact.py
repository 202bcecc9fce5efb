"""Exact optimal transport and Gromov-Wasserstein plans, computed by POT (the extra ``transport``)."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from porism.arrays import Array, Namespace, check_count, check_finite, check_generator, floating, probabilities
from porism.discrepancies.samples import distances, power_of_two
from porism.errors import MissingExtraError, ParameterError
from porism.transport.one_dimensional import check_order

# How often a problem is solved again with its largest costs cut off.
_ROUNDS = 12


class ExactTransport(NamedTuple):
    """An optimal plan with its certificate.

    ``value - (x_weights @ x_potential + y_weights @ y_potential)`` is not negative and bounds the error, because
    the potentials are feasible: ``x_potential[i] + y_potential[j] <= cost[i, j]``.
    """

    value: Array
    plan: Array
    x_potential: Array
    y_potential: Array


class GromovWasserstein(NamedTuple):
    """A plan between two metric spaces and its cost, an upper bound of the minimum."""

    value: Array
    plan: Array


def exact_ot(
    cost: Array,
    *,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    normalize: bool = False,
    max_iterations: int = 1_000_000,
) -> ExactTransport:
    """Least total cost of moving one discrete distribution to another, by the network simplex.

    Parameters
    ----------
    cost
        Cost of a unit of mass from i to j, shape (n, m), finite.
    x_weights, y_weights
        Masses, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.
    normalize
        Divide the weights by their sum instead of checking it.
    max_iterations
        Of the simplex; too few raise an error.

    Returns
    -------
    ExactTransport
        The value, an optimal plan of shape (n, m) and feasible dual potentials. For torch the value has
        gradients in the cost (the plan) and in the weights (the potentials, up to a constant, which is right
        along changes that keep the sum).

    Raises
    ------
    MissingExtraError
        Without POT.
    ParameterError
        For NaN, infinities, weights that are no distribution or have another size, too few iterations, or costs of
        magnitudes so different that the solver does not find the optimum (the potentials tell).

    Notes
    -----
    The linear programme of L. Kantorovich, *On the Translocation of Masses* (1942).

    Examples
    --------
    >>> found = exact_ot([[0.0, 2.0], [2.0, 1.0]])
    >>> float(found.value), found.plan.tolist()
    (0.5, [[0.5, 0.0], [0.0, 0.5]])
    """
    xp, (cost, a, b) = floating(
        optional=("x_weights", "y_weights"), cost=cost, x_weights=x_weights, y_weights=y_weights
    )
    max_iterations = check_count("max_iterations", max_iterations, 1)
    if cost.ndim != 2 or 0 in cost.shape:
        raise ParameterError(f"cost must have shape (n, m), neither zero; it has {tuple(cost.shape)}")
    check_finite(cost=cost)
    a = _masses(xp, "x_weights", a, cost.shape[0], cost, normalize)
    b = _masses(xp, "y_weights", b, cost.shape[1], cost, normalize)
    costs, left, right = (np.asarray(_numpy(v), dtype=np.float64) for v in (cost, a, b))
    scale = float(abs(costs).max()) or 1.0
    least = float((costs / scale).min())
    plan, u, v = _solved(costs / scale - least, left / left.sum(), right / right.sum(), max_iterations)
    plan, u, v = (_like(xp, values, cost) for values in (plan, (u + least) * scale, v * scale))
    # The envelope theorem: what is added is zero and has the derivatives in the weights.
    value = xp.sum(plan * cost) + _zero(xp, a) @ u + _zero(xp, b) @ v
    return ExactTransport(value, plan, u, v)


def exact_wasserstein(
    x: Array,
    y: Array,
    p: float = 2.0,
    *,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    normalize: bool = False,
) -> Array:
    """Exact Wasserstein distance W_p of two point clouds with the Euclidean metric (not its p-th power).

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), finite. Time grows like n m (n + m); for one dimension use
        :func:`~porism.transport.one_dimensional.wasserstein_1d`.
    p
        Order, in [1, inf).
    x_weights, y_weights
        Masses, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.
    normalize
        Divide the weights by their sum instead of checking it.

    Returns
    -------
    Array
        W_p. For torch it has gradients in the points and the weights; at a distance of zero they are zero.
        As an estimate of the distance of two laws it is biased upwards, by a term of order n ** (-1 / d).

    Raises
    ------
    MissingExtraError
        Without POT.
    ParameterError
        As for :func:`exact_ot`, and for p outside [1, inf).

    Examples
    --------
    >>> float(exact_wasserstein([[0.0, 0.0], [1.0, 0.0]], [[1.0, 2.0], [0.0, 2.0]]))
    2.0
    """
    p = check_order(p)
    if p == float("inf"):
        raise ParameterError("p must be finite; on the line wasserstein_1d takes p = inf")
    xp, (x, y, a, b) = floating(optional=("x_weights", "y_weights"), x=x, y=y, x_weights=x_weights, y_weights=y_weights)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ParameterError(f"x and y must have shapes (n, d) and (m, d), none of them zero; they are {shapes}")
    check_finite(x=x, y=y)
    gaps = distances(x, y)
    scale = float(_numpy(gaps).max())
    if scale == 0:
        return xp.sum(gaps) * 0
    found = exact_ot((gaps / scale) ** p, x_weights=a, y_weights=b, normalize=normalize)
    value, moved = found.value, found.value > 0
    if not bool(moved) and bool(((found.plan > 0) & (gaps > 0)).any()):
        raise ParameterError(f"p must be smaller: powers {p:g} of these distances underflow")
    root = scale * xp.where(moved, value, xp.ones_like(value)) ** (1 / p)
    return xp.where(moved, root, xp.zeros_like(root))


def gromov_wasserstein(
    x_distances: Array,
    y_distances: Array,
    *,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    starts: int = 0,
    rng: np.random.Generator | None = None,
    normalize: bool = False,
) -> GromovWasserstein:
    r"""A plan between two spaces that distorts their distances little, by conditional gradients.

    Parameters
    ----------
    x_distances, y_distances
        Distances (or similarities) within each space, shapes (n, n) and (m, m), symmetric, finite.
    x_weights, y_weights
        Masses, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.
    starts
        Random plans to start from beside the product plan; the best result is kept.
    rng
        Needed when ``starts`` is positive.
    normalize
        Divide the weights by their sum instead of checking it.

    Returns
    -------
    GromovWasserstein
        :math:`\sum (A_{ik} - B_{jl})^2 P_{ij} P_{kl}` and the plan P. The problem is not convex: the value is
        that of a local minimum, hence an upper bound of :math:`GW_2^2`. For torch the value has gradients in
        the distances, with the plan held fixed.

    Raises
    ------
    MissingExtraError
        Without POT.
    ParameterError
        For NaN, infinities, matrices that are not symmetric, weights that are no distribution, or ``starts`` without
        an ``rng``.

    Notes
    -----
    F. Memoli, *Gromov-Wasserstein Distances and the Metric Approach to Object Matching* (2011), section 5;
    the conditional gradients are those of T. Vayer et al., *Optimal Transport for structured data* (2019).

    Examples
    --------
    >>> triangle = np.array([[0.0, 3.0, 4.0], [3.0, 0.0, 5.0], [4.0, 5.0, 0.0]])
    >>> bool(gromov_wasserstein(triangle, triangle[::-1, ::-1]).value < 1e-12)
    True
    """
    xp, (a_matrix, b_matrix, a, b) = floating(
        optional=("x_weights", "y_weights"),
        x_distances=x_distances,
        y_distances=y_distances,
        x_weights=x_weights,
        y_weights=y_weights,
    )
    for name, matrix in (("x_distances", a_matrix), ("y_distances", b_matrix)):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
            raise ParameterError(f"{name} must be a square matrix, its shape is {tuple(matrix.shape)}")
        check_finite(**{name: matrix})
        if not bool((abs(matrix - matrix.T) <= 1e-6 * xp.max(abs(matrix))).all()):
            raise ParameterError(f"{name} must be symmetric")
    starts = check_count("starts", starts, 0)
    if starts:
        check_generator(rng)
    a = _masses(xp, "x_weights", a, a_matrix.shape[0], a_matrix, normalize)
    b = _masses(xp, "y_weights", b, b_matrix.shape[0], b_matrix, normalize)
    scale = power_of_two(max(float(abs(_numpy(matrix)).max()) for matrix in (a_matrix, b_matrix)))
    a_matrix, b_matrix = a_matrix / scale, b_matrix / scale  # the solver's tolerances are absolute
    ot = _pot()
    inner, outer, left, right = (np.asarray(_numpy(v), dtype=np.float64) for v in (a_matrix, b_matrix, a, b))
    left, right = left / left.sum(), right / right.sum()
    plans = [np.outer(left, right)]
    for _ in range(starts):
        assert rng is not None
        plans.append(ot.emd(left, right, rng.random((left.size, right.size))))
    found = [ot.gromov.gromov_wasserstein(inner, outer, left, right, "square_loss", G0=start) for start in plans]
    plan = min(found, key=lambda candidate: _distortion(np, inner, outer, candidate))
    coupling = _like(xp, plan, a_matrix)
    return GromovWasserstein(_distortion(xp, a_matrix, b_matrix, coupling) * scale * scale, coupling)


def _solved(costs: Array, left: Array, right: Array, max_iterations: int) -> tuple[Array, Array, Array]:
    """An optimal plan and feasible potentials of costs from 0 on, to a relative accuracy of the value.

    The simplex rounds relative to the largest cost. So where the potentials do not prove the plan, it is solved again
    with the costs cut off above what an optimal plan is likely to use; the potentials prove that it did not.
    """
    ot, limit = _pot(), float(costs.max()) or 1.0
    for _ in range(_ROUNDS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns about is in the log
            cut = np.minimum(costs / limit, 1.0)
            plan, log = ot.emd(left, right, cut, numItermax=max_iterations, log=True)
        if log["warning"]:
            raise ParameterError(f"max_iterations is too small or the problem is degenerate: {log['warning']}")
        plan[plan < 1e-12 * np.minimum(left[:, None], right)] = 0  # what rounding of the marginals left over
        v = log["v"] * limit
        u = (costs - v).min(axis=1)  # feasible beyond rounding; unreached points get a potential too
        v = (costs - u[:, None]).min(axis=0)
        value = float((plan * costs).sum())
        gap = float((plan * (costs - u[:, None] - v)).sum())
        rounding = np.finfo(float).eps * float(left @ abs(u) + right @ abs(v))
        if value == 0 or (gap <= 1e-9 * value and rounding <= 1e-2 * value):
            return plan, u, v
        limit = min(limit / 10, 10 * value * len(left) * len(right) / (len(left) + len(right)))
    raise ParameterError("cost spans too many magnitudes for the solver")


def _distortion(xp: Namespace, inner: Array, outer: Array, plan: Array) -> Array:
    # Expanding the square would cancel; the differences need n m times as much memory, so go row by row.
    total = 0.0
    for i in range(inner.shape[0]):
        # sum over j, k, l of (A_ik - B_jl)^2 P_ij P_kl, with the square expanded about this row's mean
        centre = (inner[i] @ plan.sum(1)) / plan.sum()
        shifted, others = inner[i] - centre, outer - centre
        squares = (shifted**2) @ plan.sum(1) + (others**2) @ plan.sum(0) - 2 * others @ (shifted @ plan)
        total = total + plan[i] @ xp.clip(squares, 0, None)
    return total


def _masses(xp: Namespace, name: str, weights: Array | None, size: int, like: Array, normalize: bool) -> Array:
    if weights is None:
        return xp.ones(size, dtype=like.dtype, device=like.device) / size
    if tuple(weights.shape) != (size,):
        raise ParameterError(f"{name} must have shape ({size},), it has {tuple(weights.shape)}")
    return probabilities(xp, axis=-1, normalize=normalize, **{name: weights})[0]


def _zero(xp: Namespace, values: Array) -> Array:
    return values - values.detach() if array_api_compat.is_torch_array(values) else xp.zeros_like(values)


def _like(xp: Namespace, values: Array, like: Array) -> Array:
    return xp.asarray(values, dtype=like.dtype, device=like.device)


def _numpy(values: Array) -> Array:
    return values.detach().cpu().numpy() if array_api_compat.is_torch_array(values) else values


def _pot() -> Any:
    try:
        return import_module("ot")
    except ImportError:
        raise MissingExtraError("exact transport needs POT: pip install 'porism[transport]'") from None
