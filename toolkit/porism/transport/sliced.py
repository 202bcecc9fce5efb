"""Sliced transport: one-dimensional distances of projections, averaged or at the worst direction."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from porism.arrays import Array, Namespace, check_count, check_finite, check_generator, floating
from porism.errors import ParameterError
from porism.transport.one_dimensional import check_order, power_mean, quantile_coupling, wasserstein_1d, weights_of

# Numbers that the projections of one block may take, so that memory stays bounded.
_BLOCK = 2**22


def sliced_wasserstein(
    x: Array,
    y: Array,
    p: float = 2.0,
    *,
    projections: int | Array = 128,
    rng: np.random.Generator | None = None,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    normalize: bool = False,
) -> Array:
    r"""Sliced Wasserstein distance SW_p of two samples (the distance, not its p-th power).

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), finite.
    p
        Order, in [1, inf).
    projections
        How many random directions, drawn from ``rng``; or the directions themselves, shape (k, d), which are
        scaled to unit length. The same directions for every pair that is compared lower the noise.
    rng
        Needed when ``projections`` is a number; the same state gives the same directions.
    x_weights, y_weights
        Masses of the points, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.
    normalize
        Divide the weights by their sum instead of checking it.

    Returns
    -------
    Array
        A number. Its p-th power is an unbiased Monte Carlo estimate over directions of
        :math:`SW_p^p = E_\theta W_p^p(\theta_\# P, \theta_\# Q)`. It has gradients in the points for torch.

    Raises
    ------
    ParameterError
        For NaN, infinities, samples of other shapes, a zero direction, weights that are no distribution, or a number
        of directions without an ``rng``.

    Notes
    -----
    J. Rabin, G. Peyre, J. Delon, M. Bernot, *Wasserstein Barycenter and its Application to Texture Mixing*
    (2011). :math:`SW_p \le W_p` and :math:`SW_2^2 \le W_2^2 / d` in expectation over directions.

    Examples
    --------
    >>> directions = [[1.0, 0.0], [0.0, 1.0]]
    >>> float(sliced_wasserstein([[0.0, 0.0]], [[3.0, 4.0]], projections=directions))
    3.5355339059327378
    """
    p = check_order(p)
    if p == math.inf:
        raise ParameterError("p must be finite: the mean over directions has no limit of order inf")
    xp, x, y, a, b = _clouds(x, y, x_weights, y_weights, normalize)
    directions = _directions(xp, x, projections, rng)
    block = max(1, _BLOCK // (x.shape[0] + y.shape[0]))
    distances = [
        wasserstein_1d(part @ x.T, part @ y.T, p, x_weights=a, y_weights=b)
        for part in (directions[k : k + block] for k in range(0, directions.shape[0], block))
    ]
    return power_mean(xp, xp.concat(distances), None, p)


def max_sliced_wasserstein(
    x: Array,
    y: Array,
    p: float = 2.0,
    *,
    projections: int | Array = 128,
    rng: np.random.Generator | None = None,
    steps: int = 50,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    normalize: bool = False,
) -> Array:
    """Wasserstein distance W_p of the projections on the worst direction that :func:`max_sliced_direction` finds.

    Parameters
    ----------
    x, y, p, projections, rng, steps, x_weights, y_weights, normalize
        As for :func:`max_sliced_direction`.

    Returns
    -------
    Array
        A number: a lower bound of the maximum over all directions (a local search need not find it), and not
        below :func:`sliced_wasserstein` with the same ``projections`` and state of ``rng``. For torch it has
        gradients in the points, with the direction held fixed (the envelope theorem).

    Raises
    ------
    ParameterError
        As for :func:`max_sliced_direction`.

    Notes
    -----
    I. Deshpande et al., *Max-Sliced Wasserstein Distance and its use for GANs* (2019), equation 9.

    Examples
    --------
    >>> round(float(max_sliced_wasserstein([[0.0, 0.0]], [[3.0, 4.0]], rng=np.random.default_rng(0))), 9)
    5.0
    """
    _, x, y, a, b = _clouds(x, y, x_weights, y_weights, normalize)
    direction = max_sliced_direction(x, y, p, projections=projections, rng=rng, steps=steps, x_weights=a, y_weights=b)
    return wasserstein_1d(x @ direction, y @ direction, p, x_weights=a, y_weights=b)


def max_sliced_direction(
    x: Array,
    y: Array,
    p: float = 2.0,
    *,
    projections: int | Array = 128,
    rng: np.random.Generator | None = None,
    steps: int = 50,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    normalize: bool = False,
) -> Array:
    """A unit direction on which the projections of two samples are far apart in W_p.

    Starts from the best of the given directions and from the difference of means, and climbs on the sphere:
    the step along the gradient (one monotone coupling) is doubled after a success and quartered after a failure.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), finite.
    p
        Order, in [1, inf).
    projections
        How many random directions to start from, drawn from ``rng``; or the directions, shape (k, d).
    rng
        Needed when ``projections`` is a number; the same state gives the same direction.
    steps
        Steps of the climb, from each of the best three starts.
    x_weights, y_weights
        Masses of the points, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.
    normalize
        Divide the weights by their sum instead of checking it.

    Returns
    -------
    Array
        Shape (d,), of length one, without a gradient.

    Raises
    ------
    ParameterError
        As for :func:`sliced_wasserstein`.

    Examples
    --------
    >>> x = np.array([[0.0, 0.0], [0.0, 1.0]])
    >>> abs(max_sliced_direction(x, x + [2.0, 0.0], rng=np.random.default_rng(0))).round(9).tolist()
    [1.0, 0.0]
    """
    p, steps = check_order(p), check_count("steps", steps, 0)
    if p == math.inf:
        raise ParameterError("p must be finite for a search by gradients")
    xp, x, y, a, b = _clouds(x, y, x_weights, y_weights, normalize)
    starts = _numpy(_directions(xp, x, projections, rng))
    cloud_x, cloud_y = _numpy(x), _numpy(y)
    a, b = (None if v is None else _numpy(v) for v in (a, b))
    weights: dict[str, Any] = {"x_weights": a, "y_weights": b}
    means: Array = np.average(cloud_y, axis=0, weights=b) - np.average(cloud_x, axis=0, weights=a)
    if np.linalg.norm(means) > 0:
        starts = np.concatenate([starts, means[None] / np.linalg.norm(means)])
    reached = np.array([float(wasserstein_1d(cloud_x @ t, cloud_y @ t, p, **weights)) for t in starts])
    best = [
        _climb(cloud_x, cloud_y, p, starts[k], float(reached[k]), steps, weights)
        for k in np.argsort(-reached, kind="stable")[:3]
    ]
    direction = max(best, key=lambda found: found[0])[1]
    return xp.asarray(direction, dtype=x.dtype, device=x.device)


def _climb(
    x: Array, y: Array, p: float, direction: Array, value: float, steps: int, weights: dict[str, Any]
) -> tuple[float, Array]:
    """Gradient ascent on the sphere; the value never falls."""
    size = 1.0
    gradient = _gradient(x, y, p, direction, weights)
    for _ in range(steps):
        length = np.linalg.norm(gradient)
        if length == 0 or size < 1e-9:
            break
        trial = direction + size * gradient / length
        trial = trial / np.linalg.norm(trial)
        reached = float(wasserstein_1d(x @ trial, y @ trial, p, **weights))
        if reached > value:
            direction, value, size = trial, reached, 2 * size
            gradient = _gradient(x, y, p, direction, weights)
        else:
            size /= 4
    return value, direction


def _gradient(x: Array, y: Array, p: float, direction: Array, weights: dict[str, Any]) -> Array:
    """Of W_p ** p at a direction, up to a factor, tangent to the sphere."""
    i, j, mass = quantile_coupling(x @ direction, y @ direction, **weights)
    moves = x[i] - y[j]
    along = moves @ direction
    largest = max(float(np.abs(along).max()), np.finfo(along.dtype).tiny)
    ambient: Array = (mass * np.sign(along) * np.abs(along / largest) ** (p - 1)) @ moves
    return ambient - (ambient @ direction) * direction


def _clouds(
    x: Array, y: Array, x_weights: Array | None, y_weights: Array | None, normalize: bool
) -> tuple[Namespace, Array, Array, Array | None, Array | None]:
    """The namespace, and both samples and their weights, checked."""
    xp, (x, y, a, b) = floating(optional=("x_weights", "y_weights"), x=x, y=y, x_weights=x_weights, y_weights=y_weights)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ParameterError(f"x and y must have shapes (n, d) and (m, d), none of them zero; they are {shapes}")
    check_finite(x=x, y=y)
    a = weights_of(xp, "x_weights", a, x[:, 0], 0, normalize)
    return xp, x, y, a, weights_of(xp, "y_weights", b, y[:, 0], 0, normalize)


def _directions(xp: Namespace, x: Array, projections: int | Array, rng: np.random.Generator | None) -> Array:
    """Unit vectors, shape (k, d), drawn in float64 whatever the samples are, so that they do not depend on these."""
    d = x.shape[1]
    if isinstance(projections, (int, np.integer)):
        drawn = check_generator(rng).standard_normal((check_count("projections", projections, 1), d))
    else:
        drawn = np.asarray(_numpy(floating(projections=projections)[1][0]), dtype=np.float64)
        if drawn.ndim != 2 or drawn.shape[0] == 0 or drawn.shape[1] != d:
            raise ParameterError(f"projections must have shape (k, {d}), it has {drawn.shape}")
        check_finite(projections=drawn)
    lengths = np.linalg.norm(drawn, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ParameterError("projections must not contain a zero direction")
    return xp.asarray(drawn / lengths, dtype=x.dtype, device=x.device)


def _numpy(values: Array) -> Array:
    return values.detach().cpu().numpy() if array_api_compat.is_torch_array(values) else np.asarray(values)
