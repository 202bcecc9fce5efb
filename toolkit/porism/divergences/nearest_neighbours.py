"""Nearest-neighbour estimators from samples: entropy, KL, and mutual information (KSG).

Numbers come back as floats: these estimators are not differentiable, and tensors that want gradients are refused.
Tied points, which the textbook formulas turn into log 0 or NaN, are counted as what they are; no noise is added.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from porism.arrays import Array, check_count, check_finite, floating
from porism.errors import ParameterError


def knn_entropy(x: Array, *, k: int = 3) -> float:
    """Differential entropy of a sample by nearest neighbours (Kozachenko and Leonenko).

    Parameters
    ----------
    x
        Sample, shape (n, d) or (n,), more than ``k`` points.
    k
        Which neighbour, at least 1. Larger is smoother: less variance, more bias.

    Returns
    -------
    float
        In nats. A point with k or more copies uses its nearest distinct neighbour, with k replaced by that one's
        rank: finite, but rough, as rounded data have no density. Dither them over their rounding width first.

    Raises
    ------
    ParameterError
        For NaN, infinities, too few points, all points equal, or a tensor that wants gradients.

    Notes
    -----
    ψ(n) − mean ψ(k) + log c_d + d mean log ρ_k, c_d the volume of the unit ball: Kozachenko and Leonenko, Problems of
    Information Transmission 23, 1987; with k as in Kraskov, Stögbauer, Grassberger, Phys. Rev. E 69, 2004, eq. 20.

    Examples
    --------
    >>> round(knn_entropy(np.random.default_rng(0).uniform(0, 2, 4000)), 1)
    0.7
    """
    from scipy.special import digamma

    points = _points("x", x)
    n, d = points.shape
    k = _check_k(k, n - 1, "x")
    radius, rank = _radii(_tree(points), points, k, 1, "x")
    unit_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    return float(digamma(n) - np.mean(digamma(rank)) + unit_ball + d * np.mean(np.log(radius)))


def knn_kl(x: Array, y: Array, *, k: int = 1) -> float:
    """KL(p‖q) from samples x of p and y of q by nearest neighbours (Wang, Kulkarni and Verdú).

    Parameters
    ----------
    x
        Sample of p, shape (n, d) or (n,), more than ``k`` points.
    y
        Sample of q, shape (m, d) or (m,), at least ``k`` points.
    k
        Which neighbour, at least 1.

    Returns
    -------
    float
        In nats; may be negative from finite samples, and is finite, also where atoms make the divergence infinite.

    Raises
    ------
    ParameterError
        For NaN, infinities, shapes that do not fit, too few points, all points equal, or a tensor that wants
        gradients.

    Notes
    -----
    mean[d log(ν_l/ρ_k) + ψ(k) − ψ(l)] + log(m/(n−1)), ρ_k the distance to the k-th other x and ν_l to the l-th y:
    Divergence estimation for multidimensional densities via k-nearest-neighbor distances, IEEE Trans. Inf. Theory
    55, 2009, with ranks adapted to the point as in its section on data-dependent k. Here k and l are ``k``, except
    that at a point with that many copies they are the rank of the nearest distinct neighbour. So ties need no noise,
    and rounded data are compared at the resolution they have.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> round(knn_kl(rng.uniform(0, 1, 2000), rng.uniform(0, 2, 2000), k=5), 1)
    0.7
    """
    from scipy.special import digamma

    points, others = _points("x", x), _points("y", y)
    (n, d), m = points.shape, others.shape[0]
    if others.shape[1] != d:
        raise ParameterError(f"y must have {d} columns as x has, got {others.shape[1]}")
    k = _check_k(k, n - 1, "x")
    _check_k(k, m, "y")
    inner, rank = _radii(_tree(points), points, k, 1, "x")
    outer, other_rank = _radii(_tree(others), points, k, 0, "y")
    terms = d * (np.log(outer) - np.log(inner)) + digamma(rank) - digamma(other_rank)
    return float(np.mean(terms) + math.log(m / (n - 1)))


def ksg_mutual_information(x: Array, y: Array, *, k: int = 3, algorithm: Literal[1, 2] = 1) -> float:
    """Mutual information of paired samples (Kraskov, Stögbauer and Grassberger).

    Parameters
    ----------
    x, y
        Paired samples, shapes (n, d) or (n,) and (n, e) or (n,), more than ``k`` pairs. Bring them to comparable
        scales first if they have more than one column.
    k
        Which neighbour in the joint space, at least 1.
    algorithm
        1: balls of the maximum norm. 2: rectangles, with less bias and more variance; it refuses tied pairs.

    Returns
    -------
    float
        In nats; may be slightly negative from finite samples.

    Raises
    ------
    ParameterError
        For NaN, infinities, different numbers of rows, too few pairs, ties in algorithm 2, or a tensor that wants
        gradients.

    Notes
    -----
    ψ(k) + ψ(n) − mean[ψ(n_x + 1) + ψ(n_y + 1)] and ψ(k) − 1/k + ψ(n) − mean[ψ(n_x) + ψ(n_y)]: Estimating mutual
    information, Phys. Rev. E 69, 2004, eqs. 8 and 9. In algorithm 1 a pair with k or more copies has no ball: there k
    is the number of its copies and n_x, n_y the numbers of equal x and y, itself included in all three, which makes
    discrete data and mixtures consistent (Gao, Kannan, Oh, Viswanath, Estimating mutual information for
    discrete-continuous mixtures, NeurIPS 2017).

    Examples
    --------
    >>> x = np.repeat([0.0, 1.0], 500)
    >>> round(ksg_mutual_information(x, x), 2)
    0.69
    """
    left, right = _points("x", x), _points("y", y)
    n = left.shape[0]
    if right.shape[0] != n:
        raise ParameterError(f"y must have {n} rows as x has, got {right.shape[0]}")
    k = _check_k(k, n - 1, "x")
    return (_ksg_balls if check_count("algorithm", algorithm, 1, 2) == 1 else _ksg_rectangles)(left, right, k)


def _ksg_balls(x: np.ndarray, y: np.ndarray, k: int) -> float:
    from scipy.special import digamma

    joint = np.hstack([x, y])
    tree = _tree(joint)
    radius = tree.query(joint, k=[k + 1], p=np.inf)[0][:, 0]
    tied = radius == 0
    inside = np.where(tied, 0.0, np.nextafter(radius, 0))  # strictly inside the ball; at ties, exact copies
    count_x, count_y = _counts(x, inside), _counts(y, inside)
    ranks = np.full(len(x), float(k))
    if tied.any():
        ranks[tied] = tree.query_ball_point(joint[tied], 0.0, p=np.inf, return_length=True)
    return float(digamma(len(x)) + np.mean(digamma(ranks) - digamma(count_x) - digamma(count_y)))


def _ksg_rectangles(x: np.ndarray, y: np.ndarray, k: int) -> float:
    from scipy.special import digamma

    joint = np.hstack([x, y])
    distance, index = _tree(joint).query(joint, k=k + 1, p=np.inf)
    if (distance[:, -1] == 0).any():
        raise ParameterError("x and y must not have a pair with k or more copies in algorithm 2; use algorithm 1")
    own = index == np.arange(len(x))[:, None]
    neighbours = np.where(own, index[:, -1:], index)  # k others: a point is not its own neighbour
    widths = [np.abs(part[neighbours] - part[:, None]).max(axis=(1, 2)) for part in (x, y)]
    counts = [_counts(part, np.nextafter(width, np.inf)) - 1 for part, width in zip((x, y), widths, strict=True)]
    return float(digamma(k) - 1 / k + digamma(len(x)) - np.mean(digamma(counts[0]) + digamma(counts[1])))


def _counts(points: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How many points lie within each point's radius in the maximum norm, itself included."""
    counts: np.ndarray = _tree(points).query_ball_point(points, radius, p=np.inf, return_length=True)
    return counts


def _radii(tree: Any, points: np.ndarray, k: int, own: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the k-th neighbour (beyond ``own`` copies of the point itself) and its rank, k but for ties.

    Where that distance is zero the nearest distinct neighbour is taken.
    """
    radius = tree.query(points, k=[k + own])[0][:, 0]
    rank = np.full(len(points), k)
    tied = np.flatnonzero(radius == 0)
    if tied.size:
        copies = tree.query_ball_point(points[tied], 0.0, return_length=True)
        if (copies == tree.n).any():
            raise ParameterError(f"{name} must not be copies of one point")
        for number in np.unique(copies):
            rows = tied[copies == number]
            radius[rows] = tree.query(points[rows], k=[number + 1])[0][:, 0]
            rank[rows] = number + 1 - own
    return radius, rank


def _tree(points: np.ndarray) -> Any:
    from scipy.spatial import cKDTree  # 60 ms

    return cKDTree(points)


def _points(name: str, sample: Array) -> np.ndarray:
    _, (sample,) = floating(**{name: sample})
    check_finite(**{name: sample})
    if not isinstance(sample, np.ndarray):
        if sample.requires_grad:
            raise ParameterError(f"{name} wants gradients, which nearest-neighbour estimators lack; detach it")
        sample = sample.cpu().numpy()
    if sample.ndim == 1:
        sample = sample[:, None]
    if sample.ndim != 2 or 0 in sample.shape:
        raise ParameterError(f"{name} must have shape (n, d) or (n,), not empty, got {sample.shape}")
    # a copy in float64: trees compare sums of squares
    return np.array(sample, dtype=np.float64, order="C")


def _check_k(k: int, most: int, name: str) -> int:
    if check_count("k", k, 1) > most:
        raise ParameterError(f"k must be at least 1 and at most {most} for this many points of {name}, got {k}")
    return check_count("k", k, 1)
