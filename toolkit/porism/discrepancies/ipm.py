"""Integral probability metrics that are exact on samples: bounded Lipschitz, Holder up to order one, Kolmogorov."""

from __future__ import annotations

import numpy as np

from porism.arrays import Array, check_number
from porism.discrepancies.samples import clouds, constant, distances, masses
from porism.errors import ParameterError
from porism.transport.one_dimensional import cdf_difference


def dudley_metric(x: Array, y: Array, *, x_weights: Array | None = None, y_weights: Array | None = None) -> float:
    r"""Bounded-Lipschitz distance, the supremum of E f(x) - E f(y) over :math:`|f|_\infty + Lip(f) \le 1`.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), or (n,) and (m,) for d = 1; finite. One linear programme with n m
        constraints: for hundreds of points, not thousands.
    x_weights, y_weights
        Masses of the points, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.

    Returns
    -------
    float
        The distance of the empirical measures, in [0, 2), without a gradient.

    Raises
    ------
    ParameterError
        For NaN, infinities, and weights that are no distribution.

    Notes
    -----
    R. Dudley, *Real Analysis and Probability* (2002), section 11.3. Two points at distance r are
    2 r / (2 + r) apart.

    Examples
    --------
    >>> round(dudley_metric([0.0], [3.0]), 9)
    1.2
    """
    return holder_ipm(x, y, 1.0, x_weights=x_weights, y_weights=y_weights)


def holder_ipm(
    x: Array, y: Array, smoothness: float, *, x_weights: Array | None = None, y_weights: Array | None = None
) -> float:
    r"""Integral probability metric of the Holder ball of order up to one, exact for two samples.

    The supremum of E f(x) - E f(y) over :math:`|f|_\infty + \sup |f(u) - f(v)| / |u - v|^s \le 1`.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), or (n,) and (m,) for d = 1; finite; hundreds of points, not thousands.
    smoothness
        The order s, in (0, 1]; 1 is :func:`dudley_metric`. For higher orders see
        :func:`~porism.discrepancies.critics.holder_ipm_bound`.
    x_weights, y_weights
        Masses of the points, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.

    Returns
    -------
    float
        The distance of the empirical measures, in [0, 2), without a gradient.

    Raises
    ------
    ParameterError
        For a smoothness outside (0, 1], NaN, infinities, and weights that are no distribution.

    Notes
    -----
    A function on the samples extends to the space without growing in either term (E. McShane, *Extension of
    range of functions*, 1934), so that a linear programme over its values is exact. Only f(x_i) - f(y_j) need
    be constrained: mass goes from x to y.

    Examples
    --------
    >>> round(holder_ipm([0.0], [9.0], 0.5), 9)
    1.2
    """
    smoothness = check_number("smoothness", smoothness, above=0)
    if smoothness > 1:
        raise ParameterError(f"smoothness must be in (0, 1], got {smoothness}; holder_ipm_bound takes higher orders")
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    xp, x, y, a, b = clouds(x, y, x_weights, y_weights)
    a, b = (constant(v).astype(np.float64) for v in (masses(xp, a, x), masses(xp, b, y)))
    left, right = constant(x).astype(np.float64), constant(y).astype(np.float64)
    # At a distance beyond 1e100 the slope is 0 to rounding; where it overflows, that is all one need know of it.
    gaps = np.minimum(distances(left, right).ravel() ** smoothness, 1e100)
    if not gaps.any():
        return 0.0
    scale = gaps.max() / (1 + gaps.max() / 2)  # no f oscillates by more, so that f / scale is of order one
    units = np.maximum(gaps, scale)
    n, m = a.size, b.size
    # Unknowns: f / scale at x and y, the bound, the slope. Rows: f(x_i) - f(y_j) <= slope * gap, |f| <= bound, and
    # bound + slope <= 1, the first two divided by what leaves the solver coefficients of at most one.
    pairs, points = np.arange(n * m), np.arange(n + m)
    rows = np.concatenate([pairs, pairs, pairs, n * m + points, n * m + points, [n * m + n + m] * 2])
    columns = np.concatenate(
        [pairs // m, n + pairs % m, np.full(n * m, n + m + 1), points, np.full(n + m, n + m), [n + m, n + m + 1]]
    )
    signs = np.where(points < n, 1.0, -1.0)
    slopes, ones = scale / units, np.ones(n + m)
    entries = np.concatenate([slopes, -slopes, -gaps / units, signs, -ones, [scale, 1.0]])
    limits = np.zeros(n * m + n + m + 1)
    limits[-1] = 1
    found = linprog(
        np.concatenate([-a, b, [0.0, 0.0]]),
        A_ub=coo_array((entries, (rows, columns)), shape=(limits.size, n + m + 2)).tocsr(),
        b_ub=limits,
        bounds=[(None, None)] * (n + m) + [(0, None), (0, 1)],
        method="highs",
    )
    if not found.success:  # pragma: no cover - the programme is feasible and bounded
        raise RuntimeError(f"the linear programme was not solved: {found.message}")
    return max(0.0, -float(found.fun) * float(scale))


def kolmogorov_smirnov(
    x: Array,
    y: Array,
    *,
    axis: int = -1,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
    normalize: bool = False,
) -> Array:
    """Kolmogorov-Smirnov distance, the largest difference of the two distribution functions.

    Parameters
    ----------
    x, y
        Samples along ``axis``, sizes n and m, finite. The other axes are a batch and broadcast.
    axis
        Axis of the samples.
    x_weights, y_weights
        Masses of the points, shape (n,) or that of ``x``; not negative, with sum 1. Equal if not given.
    normalize
        Divide the weights by their sum instead of checking it.

    Returns
    -------
    Array
        In [0, 1], of the batch's shape. Its gradient in the points is zero wherever it has one.

    Raises
    ------
    ParameterError
        For NaN, infinities, empty samples, and weights that are no distribution.

    Examples
    --------
    >>> float(kolmogorov_smirnov([1.0, 2.0, 3.0, 4.0], [3.0, 4.0]))
    0.5
    """
    points, difference = cdf_difference(x, y, x_weights=x_weights, y_weights=y_weights, axis=axis, normalize=normalize)
    # Partial sums between equal points are no values of F - G.
    gaps = abs(difference[..., :-1]) * (points[..., 1:] > points[..., :-1])
    return gaps.max(-1) if isinstance(gaps, np.ndarray) else gaps.amax(-1)
