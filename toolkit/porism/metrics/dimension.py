"""Intrinsic dimension of a point cloud.

Computed in numpy and scipy, in float64, without gradient. All but :func:`correlation_dimension` look at nearest
neighbours, so they need distinct points and are local: with n points in dimension D the neighbours are at a distance
of order n^(-1/D), and above ten dimensions or so every estimator here comes out too small.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from porism.arrays import check_count, check_finite
from porism.errors import ParameterError
from porism.metrics._checks import check_fraction, to_numpy


def two_nn(x: Any, *, discard: float = 0.1) -> float:
    """Dimension from the ratio of the distances to the two nearest neighbours.

    Parameters
    ----------
    x
        Distinct points, shape (n, d), n at least 3.
    discard
        Share of the largest ratios that is left out, in (0, 1).

    Returns
    -------
    float
        The slope, through the origin, of ``-log(1 - F)`` against the log ratio, F its empirical law; ``inf`` if all
        kept points have two neighbours at one distance.

    Raises
    ------
    ParameterError
        For points that are not finite, not distinct, or fewer than three.

    Notes
    -----
    Facco, d'Errico, Rodriguez, Laio, Scientific Reports 2017. Where the density is locally constant the ratio has
    the law ``F(r) = 1 - r^-dimension``, whatever the density.

    Examples
    --------
    >>> plane = np.random.default_rng(0).uniform(size=(1000, 2)) @ np.array([[1.0, 0, 1], [0, 1, 1]])
    >>> round(two_nn(plane))
    2
    """
    discard = check_fraction("discard", discard)
    distances, _ = _neighbours(_points(x, 3), 2)
    ratios = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    n = len(ratios)
    kept = max(min(int(n * (1 - discard)), n - 1), 1)
    tail = -np.log1p(-np.arange(1, kept + 1) / n)
    ratios = ratios[:kept]
    return float(tail @ ratios / (ratios @ ratios)) if ratios.any() else float("inf")


def levina_bickel(x: Any, *, neighbours: int = 20) -> float:
    """Maximum likelihood dimension from the distances to the nearest neighbours.

    Parameters
    ----------
    x
        Distinct points, shape (n, d).
    neighbours
        k, from 2 to n - 1; more lowers the variance and raises the bias by curvature and boundary.

    Returns
    -------
    float
        ``1 / mean_i mean_(j<k) log(T_k(i) / T_j(i))``; ``inf`` if all k neighbours of every point are at one
        distance.

    Raises
    ------
    ParameterError
        For points that are not finite or not distinct, or neighbours out of range.

    Notes
    -----
    Levina and Bickel, NIPS 2004, equation 8. Their mean over points of the local estimates is biased upwards; as
    in MacKay and Ghahramani's comment (2005) the inverses are averaged instead, the likelihood's own answer.

    Examples
    --------
    >>> angles = np.random.default_rng(0).uniform(0, 2 * np.pi, size=500)
    >>> circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    >>> abs(levina_bickel(circle) - 1) < 0.05
    True
    """
    points = _points(x, 3)
    neighbours = check_count("neighbours", neighbours, 2, len(points) - 1)
    distances, _ = _neighbours(points, neighbours)
    inverse = np.mean(np.log(distances[:, -1:] / distances[:, :-1]))
    return float(1 / inverse) if inverse > 0 else float("inf")


def local_pca_dimension(x: Any, *, neighbours: int = 20, variance: float = 0.95) -> np.ndarray:
    """Principal components that a neighbourhood needs to keep a share of its variance.

    Parameters
    ----------
    x
        Distinct points, shape (n, d).
    neighbours
        Size of the neighbourhood besides the point itself, from 2 to n - 1; an upper limit of the answer.
    variance
        Share to keep, in (0, 1).

    Returns
    -------
    numpy.ndarray
        Whole numbers, one for each point, shape (n,); their median is a robust answer for all.

    Raises
    ------
    ParameterError
        For points that are not finite or not distinct, or neighbours out of range.

    Notes
    -----
    Fukunaga and Olsen, IEEE Transactions on Computers 1971. The answer depends on ``variance`` as much as on x:
    uniform in a D-ball, each direction holds 1 / D of it, so the share must exceed ``1 - 1 / D``.

    Examples
    --------
    >>> plane = np.random.default_rng(0).uniform(size=(200, 2)) @ np.array([[1.0, 0, 1], [0, 1, 1]])
    >>> int(np.median(local_pca_dimension(plane)))
    2
    """
    variance = check_fraction("variance", variance)
    points = _points(x, 3)
    neighbours = check_count("neighbours", neighbours, 2, len(points) - 1)
    _, members = _neighbours(points, neighbours)
    dimensions = np.empty(len(points), dtype=int)
    for i, near in enumerate(members):
        cloud = points[[i, *near]]
        squares = np.linalg.svd(cloud - cloud.mean(axis=0), compute_uv=False) ** 2
        dimensions[i] = np.searchsorted(np.cumsum(squares), variance * squares.sum()) + 1
    return dimensions


def correlation_dimension(x: Any, *, shares: tuple[float, float] = (0.005, 0.05)) -> float:
    """Growth exponent of the number of pairs within a radius.

    Parameters
    ----------
    x
        Points, shape (n, d), n at least 3; equal points count as pairs at distance zero.
    shares
        Two shares of pairs, increasing, in (0, 1): the radii are the distances that so many pairs do not exceed.

    Returns
    -------
    float
        ``log(C(r2) / C(r1)) / log(r2 / r1)``; ``inf`` if the radii are equal, 0 if the smaller one is zero.

    Raises
    ------
    ParameterError
        For points that are not finite or fewer than three, or shares that do not increase in (0, 1).

    Notes
    -----
    Grassberger and Procaccia, Physica D 1983. All ``n (n - 1) / 2`` distances are held at once.

    Examples
    --------
    >>> line = np.linspace(0, 1, 400)[:, None] * np.ones(3)
    >>> abs(correlation_dimension(line) - 1) < 0.1
    True
    """
    from scipy.spatial.distance import pdist

    (ends,) = to_numpy(shares=shares)
    if ends.shape != (2,) or not 0 < ends[0] < ends[1] < 1:
        raise ParameterError(f"shares must be two numbers that increase in (0, 1), got {shares!r:.80}")
    distances = np.sort(pdist(_points(x, 3)))
    ranks = [max(int(np.ceil(share * len(distances))), 1) for share in ends]
    small, large = distances[ranks[0] - 1], distances[ranks[1] - 1]
    if small == large:
        return float("inf")
    counts = np.searchsorted(distances, [small, large], side="right")
    return float(np.log(counts[1] / counts[0]) / np.log(large / small)) if small > 0 else 0.0


def _points(x: Any, fewest: int) -> np.ndarray:
    (points,) = to_numpy(x=x)
    check_finite(x=points)
    if points.ndim != 2 or points.shape[1] == 0 or len(points) < fewest:
        raise ParameterError(f"x must have shape (n, d) with n at least {fewest}, got {points.shape}")
    # no dimension depends on the scale: by a power of two, which is exact, squares neither overflow nor vanish
    return np.asarray(np.ldexp(points, -np.frexp(abs(points).max())[1]))


def _neighbours(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the k nearest other points, and which they are."""
    from scipy.spatial import cKDTree

    distances, members = cKDTree(points).query(points, k=k + 1)
    if (distances[:, 1] == 0).any():
        raise ParameterError("x must hold distinct points; drop duplicates, by numpy.unique(x, axis=0)")
    return distances[:, 1:], members[:, 1:]
