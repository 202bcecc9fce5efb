"""Optimal transport on the line, where sorting solves it, and what else two distribution functions give."""

from __future__ import annotations

import math
from typing import NamedTuple

import array_api_compat
import numpy as np

from porism.arrays import Array, Namespace, check_axis, check_finite, check_number, floating, probabilities
from porism.errors import ParameterError
from porism.transport.sorting import argsort, merge_levels, on_cpu_without_gradient, sort_values, take


class Coupling(NamedTuple):
    """A transport plan in sparse form: ``mass[k]`` goes from ``x[x_index[k]]`` to ``y[y_index[k]]``."""

    x_index: Array
    y_index: Array
    mass: Array


def wasserstein_1d(
    x: Array,
    y: Array,
    p: float = 1.0,
    *,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    axis: int = -1,
    normalize: bool = False,
) -> Array:
    r"""Exact Wasserstein distance W_p of two samples on the line (the distance, not its p-th power).

    Parameters
    ----------
    x, y
        Samples along ``axis``, sizes n and m, finite. The other axes are a batch and broadcast.
    p
        Order, in [1, inf]; ``inf`` gives the longest way that any mass goes.
    x_weights, y_weights
        Masses of the points, shape (n,) or that of ``x``; not negative, with sum 1. Equal if not given.
    axis
        Axis of the samples.
    normalize
        Divide the weights by their sum instead of checking it.

    Returns
    -------
    Array
        W_p, of the batch's shape. Always finite. For torch it has gradients in the points and the weights;
        where the distance is not differentiable (ties, a distance of zero) they are one subgradient.

    Raises
    ------
    ParameterError
        For p below 1, NaN, infinities, empty samples, and weights that are no distribution.

    Notes
    -----
    :math:`W_p^p = \int_0^1 |F^{-1}(u) - G^{-1}(u)|^p du`: C. Villani, *Topics in Optimal Transportation*
    (2003), Theorem 2.18. Two sorts and, for weights or unequal sizes, one merge of two sorted arrays. With
    float weights and p = inf, pieces of a mass below rounding, 8 (n + m) epsilons, are left out.

    Examples
    --------
    >>> float(wasserstein_1d([0.0, 1.0, 3.0], [5.0, 6.0, 8.0]))
    5.0
    >>> float(wasserstein_1d([0.0, 1.0], [0.0, 4.0], p=2, x_weights=[0.5, 0.5], y_weights=[0.75, 0.25]))
    1.5811388300841898
    """
    p = check_order(p)
    xp, x, y, a, b = _samples(x, y, x_weights, y_weights, axis, normalize)
    if on_cpu_without_gradient(x, y, a, b):  # there numpy is faster than torch
        x, y, a, b = (None if values is None else np.asarray(values) for values in (x, y, a, b))
        return xp.asarray(_distance(np, x, y, a, b, p))
    return _distance(xp, x, y, a, b, p)


def quantile_coupling(
    x: Array, y: Array, *, x_weights: Array | None = None, y_weights: Array | None = None, normalize: bool = False
) -> Coupling:
    """Monotone coupling of two samples on the line, optimal for every convex cost of ``x - y``.

    Parameters
    ----------
    x, y
        Samples, shapes (n,) and (m,), finite.
    x_weights, y_weights
        Masses of the points, not negative, with sum 1. Equal if not given.
    normalize
        Divide the weights by their sum instead of checking it.

    Returns
    -------
    Coupling
        At most n + m - 1 pieces of positive mass, by rising quantile; the indices refer to ``x`` and ``y``
        as given.

    Raises
    ------
    ParameterError
        For NaN, infinities, empty samples, more than one axis, and weights that are no distribution.

    Examples
    --------
    >>> plan = quantile_coupling([3.0, 1.0], [0.0, 2.0, 4.0])
    >>> plan.x_index.tolist(), plan.y_index.tolist()
    ([1, 1, 0, 0], [0, 1, 1, 2])
    """
    xp, x, y, a, b = _samples(x, y, x_weights, y_weights, -1, normalize)
    if x.ndim != 1 or y.ndim != 1:
        raise ParameterError(f"x and y must have one axis, their shapes are {tuple(x.shape)} and {tuple(y.shape)}")
    check_finite(x=x, y=y)
    x_order, y_order = argsort(xp, x, stable=True), argsort(xp, y, stable=True)
    u = _cumulative(xp, None if a is None else take(a, x_order))
    v = _cumulative(xp, None if b is None else take(b, y_order))
    i, j, mass = merge_levels(xp, x, y, u, v)
    kept = mass > 0
    return Coupling(x_order[i[kept]], y_order[j[kept]], mass[kept])


def cdf_difference(
    x: Array,
    y: Array,
    *,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    axis: int = -1,
    normalize: bool = False,
) -> tuple[Array, Array]:
    """Pooled sorted points z, and F - G just after each: the difference of the two distribution functions.

    Between equal points the value is that of a partial sum; only the last of them is F - G. Integrals
    against ``diff(z)`` need not care, because such points are no distance apart.

    Parameters
    ----------
    x, y
        Samples along ``axis``, sizes n and m, finite. The other axes are a batch and broadcast.
    x_weights, y_weights
        Masses of the points, shape (n,) or that of ``x``; not negative, with sum 1. Equal if not given.
    axis
        Axis of the samples.
    normalize
        Divide the weights by their sum instead of checking it.

    Returns
    -------
    points, difference
        Shape (..., n + m). Without weights the difference is exact up to one rounding.

    Raises
    ------
    ParameterError
        For NaN, infinities, empty samples, and weights that are no distribution.

    Examples
    --------
    >>> points, difference = cdf_difference([0.0, 2.0], [1.0])
    >>> points.tolist(), difference.tolist()
    ([0.0, 1.0, 2.0], [0.5, -0.5, 0.0])
    """
    xp, x, y, a, b = _samples(x, y, x_weights, y_weights, axis, normalize)
    (x, a), (y, b) = _ordered(xp, x, a), _ordered(xp, y, b)
    _check_ends(x=x, y=y)
    return _pooled(xp, x, y, a, b)


def crps_sample(
    x: Array, y: Array, *, x_weights: Array | None = None, axis: int = -1, fair: bool = False, normalize: bool = False
) -> Array:
    r"""Continuous ranked probability score of an ensemble, :math:`E|X-y| - \frac12 E|X-X'|`; smaller is better.

    Parameters
    ----------
    x
        Ensemble along ``axis``, size n, finite.
    y
        Observations, of the shape of ``x`` without ``axis`` (broadcasts), finite.
    x_weights
        Masses of the members, shape (n,) or that of ``x``; not negative, with sum 1. Equal if not given.
    axis
        Axis of the ensemble.
    fair
        Average |X - X'| over different members, which is unbiased for the law that the members are drawn
        from; needs n >= 2. The score of a finite ensemble as a law in itself (the default) is not negative.
    normalize
        Divide the weights by their sum instead of checking it.

    Returns
    -------
    Array
        The score, of the shape of ``y``.

    Raises
    ------
    ParameterError
        For NaN, infinities, an empty ensemble, weights that are no distribution, or ``fair`` with one member.

    Notes
    -----
    T. Gneiting, A. Raftery, *Strictly Proper Scoring Rules* (2007), equation 21; the fair form is
    C. Ferro, *Fair scores for ensemble forecasts* (2014). One sort: E|X-X'| is linear in the order statistics.

    Examples
    --------
    >>> float(crps_sample([0.0, 2.0], 1.0))
    0.5
    """
    xp, (x, y, a) = floating(optional=("x_weights",), x=x, y=y, x_weights=x_weights)
    check_axis(axis, x=x)
    a = weights_of(xp, "x_weights", a, x, axis, normalize)
    x = xp.moveaxis(x, axis, -1)
    check_finite(x=x, y=y)
    try:
        np.broadcast_shapes(x.shape[:-1], y.shape)
    except ValueError:
        shapes = f"{tuple(y.shape)} and {tuple(x.shape[:-1])}"
        raise ParameterError(
            f"y must have the shape of x without the axis of the ensemble; they are {shapes}"
        ) from None
    a = _equal_masses(xp, x) if a is None else a
    spread = mean_gap(xp, x, a)
    if fair:
        rest = 1 - xp.sum(a * a, axis=-1)
        if not bool((rest > 0).all()):
            raise ParameterError("fair needs two members of positive weight in x")
        spread = spread / rest
    return xp.sum(a * abs(x - y[..., None]), axis=-1) - spread / 2


def mean_gap(xp: Namespace, x: Array, weights: Array) -> Array:
    """E|X - X'| of a weighted sample along the last axis, equal members included, by one sort."""
    order = argsort(xp, x)
    x, a = take(x, order), take(xp.broadcast_to(weights, x.shape), order)
    # Differences to a median keep the sum from cancelling where the points are far from zero.
    x = x - x[..., x.shape[-1] // 2, None]
    below = xp.cumulative_sum(a, axis=-1)
    return 2 * xp.sum(a * x * (2 * below - a - below[..., -1:]), axis=-1)


def power_mean(xp: Namespace, gaps: Array, mass: Array | None, p: float) -> Array:
    """``sum(mass * gaps ** p) ** (1 / p)`` along the last axis, without overflow and with a gradient at zero."""
    if p == 1:
        return xp.mean(gaps, axis=-1) if mass is None else xp.sum(mass * gaps, axis=-1)
    if p == math.inf:
        if mass is not None:
            noise = 8 * gaps.shape[-1] * float(xp.finfo(gaps.dtype).eps)
            gaps = xp.where(mass > noise, gaps, xp.zeros_like(gaps))
        return xp.max(gaps, axis=-1)
    # The value does not depend on the scale, so that no gradient need flow through it.
    constant = gaps.detach() if array_api_compat.is_torch_array(gaps) else gaps
    scale = xp.max(constant, axis=-1, keepdims=True)
    positive = scale > 0
    powers = (gaps / xp.where(positive, scale, xp.ones_like(scale))) ** p
    total = xp.mean(powers, axis=-1) if mass is None else xp.sum(mass * powers, axis=-1)
    moved = total > 0
    root = scale[..., 0] * xp.where(moved, total, xp.ones_like(total)) ** (1 / p)
    return xp.where(moved, root, xp.zeros_like(root))


def check_order(p: float) -> float:
    """The order of a Wasserstein distance as a float, or :class:`ParameterError`."""
    return check_number("p", p, at_least=1)


def weights_of(xp: Namespace, name: str, weights: Array | None, x: Array, axis: int, normalize: bool) -> Array | None:
    """Masses of the points of ``x`` along ``axis``, checked, with their axis moved to the end."""
    if weights is None:
        return None
    if tuple(weights.shape) == tuple(x.shape):
        weights = xp.moveaxis(weights, axis, -1)
    elif tuple(weights.shape) != (x.shape[axis],):
        shapes = f"({x.shape[axis]},) or {tuple(x.shape)}"
        raise ParameterError(f"{name} must have shape {shapes}, it has {tuple(weights.shape)}")
    (weights,) = probabilities(xp, axis=-1, normalize=normalize, **{name: weights})
    return weights / xp.sum(weights, axis=-1, keepdims=True)  # what the check lets pass must not add up


def _samples(
    x: Array, y: Array, x_weights: Array | None, y_weights: Array | None, axis: int, normalize: bool
) -> tuple[Namespace, Array, Array, Array | None, Array | None]:
    """The namespace, both samples with their axis moved to the end, and their weights."""
    xp, (x, y, a, b) = floating(optional=("x_weights", "y_weights"), x=x, y=y, x_weights=x_weights, y_weights=y_weights)
    check_axis(axis, x=x)
    check_axis(axis, y=y)
    a = weights_of(xp, "x_weights", a, x, axis, normalize)
    b = weights_of(xp, "y_weights", b, y, axis, normalize)
    x, y = xp.moveaxis(x, axis, -1), xp.moveaxis(y, axis, -1)
    try:
        np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    except ValueError:
        shapes = f"{tuple(x.shape[:-1])} and {tuple(y.shape[:-1])}"
        raise ParameterError(f"x and y have batch shapes {shapes}, which do not broadcast") from None
    return xp, x, y, a, b


def _equal_masses(xp: Namespace, x: Array) -> Array:
    return xp.ones_like(x[(0,) * (x.ndim - 1)]) / x.shape[-1]


def _check_ends(**ordered: Array) -> None:
    """Finite all along, for sorted arrays: NaN sort to the end, infinities to either."""
    for name, values in ordered.items():
        check_finite(**{name: values[..., :: max(1, values.shape[-1] - 1)]})


def _distance(xp: Namespace, x: Array, y: Array, a: Array | None, b: Array | None, p: float) -> Array:
    """W_p along the last axis of checked samples."""
    (x, a), (y, b) = _ordered(xp, x, a), _ordered(xp, y, b)
    _check_ends(x=x, y=y)
    if a is None and b is None and x.shape[-1] == y.shape[-1]:
        return power_mean(xp, abs(x - y), None, p)
    if p == 1:  # the area between the distribution functions needs less gathering than that between quantiles
        points, difference = _pooled(xp, x, y, a, b)
        return xp.sum(abs(difference[..., :-1]) * (points[..., 1:] - points[..., :-1]), axis=-1)
    i, j, mass = merge_levels(xp, x, y, _cumulative(xp, a), _cumulative(xp, b))
    return power_mean(xp, abs(take(x, i) - take(y, j)), mass, p)


def _ordered(xp: Namespace, x: Array, weights: Array | None) -> tuple[Array, Array | None]:
    """Sorted points and the masses in their order."""
    if weights is None:
        return sort_values(xp, x), None
    order = argsort(xp, x)
    return take(x, order), take(xp.broadcast_to(weights, x.shape), order)


def _cumulative(xp: Namespace, masses: Array | None) -> Array | None:
    """Partial sums, the last exactly one."""
    if masses is None:
        return None
    sums = xp.cumulative_sum(masses, axis=-1)
    return sums / sums[..., -1:]


def _pooled(xp: Namespace, x: Array, y: Array, a: Array | None, b: Array | None) -> tuple[Array, Array]:
    """Merge two sorted samples; partial sums of the masses of x less those of y."""
    n, m = x.shape[-1], y.shape[-1]
    batch = np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    pooled = xp.concat([xp.broadcast_to(x, (*batch, n)), xp.broadcast_to(y, (*batch, m))], axis=-1)
    order = argsort(xp, pooled, stable=True)  # of two sorted runs: one merge
    points = take(pooled, order)
    if a is None and b is None:  # whole numbers, so that equal functions differ by zero
        common = math.gcd(n, m)
        step = xp.where(order < n, m // common, -(n // common))
        return points, xp.astype(xp.cumulative_sum(step, axis=-1), x.dtype) / (n // common * m)
    a = _equal_masses(xp, x) if a is None else a
    b = _equal_masses(xp, y) if b is None else b
    step = xp.concat([xp.broadcast_to(a, (*batch, n)), xp.broadcast_to(-b, (*batch, m))], axis=-1)
    return points, xp.cumulative_sum(take(step, order), axis=-1)
