"""Several objectives at once, all to be minimised (negate what is to be maximised).

Computed in numpy, in float64, without gradient.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from porism.arrays import check_count, check_finite
from porism.errors import ParameterError
from porism.metrics._checks import to_numpy


def pareto_front(points: Any) -> np.ndarray:
    """Which points are not dominated: none is as small in every objective and smaller in one.

    Parameters
    ----------
    points
        Shape (n, objectives); equal points do not dominate each other.

    Returns
    -------
    numpy.ndarray
        Boolean, shape (n,).

    Raises
    ------
    ParameterError
        If ``points`` is empty, not a matrix, or holds NaN.

    Examples
    --------
    >>> pareto_front([[1, 3], [2, 2], [3, 3], [3, 1]]).tolist()
    [True, True, False, True]
    """
    (p,) = to_numpy(points=points)
    _check_points(points=p)
    return _front(p)


def hypervolume(points: Any, reference: Any) -> float:
    """Volume that the points dominate below a reference point, exactly.

    Parameters
    ----------
    points
        Shape (n, objectives); what is not below the reference in every objective adds nothing.
    reference
        Shape (objectives,), finite.

    Returns
    -------
    float
        At least 0; ``inf`` if a point that counts has an objective of minus infinity.

    Raises
    ------
    ParameterError
        For an empty or misshapen array, or NaN.

    Notes
    -----
    Zitzler and Thiele, IEEE TEC 1999; by recursion on exclusive volumes, as in While, Bradstreet, Barone, IEEE
    TEC 2012, with a sweep in two dimensions. The time grows exponentially with the objectives in the worst case:
    hundreds of points in three or four, dozens in eight.

    Examples
    --------
    >>> hypervolume([[1, 2], [2, 1]], [3, 3])
    3.0
    """
    p, r = to_numpy(points=points, reference=reference)
    _check_points(points=p)
    _check_reference(r, p)
    inside = p[(p < r).all(axis=1)]
    if np.isinf(inside).any():
        return float("inf")
    # minus the reference, a point is the corner of a box at the origin; sizes are positive
    return _union_of_boxes(r - inside)


def r2_indicator(points: Any, weights: Any, ideal: Any) -> float:
    """Mean over weights of the best weighted Chebyshev distance to the ideal point.

    Parameters
    ----------
    points
        Shape (n, objectives), finite.
    weights
        Not negative, shape (m, objectives), as :func:`simplex_lattice` gives them.
    ideal
        Shape (objectives,), at most the least value of each objective.

    Returns
    -------
    float
        At least 0, smaller is better.

    Raises
    ------
    ParameterError
        For an empty or misshapen array, values that are not finite, negative weights, or a point below the ideal.

    Notes
    -----
    Hansen and Jaszkiewicz 1998 (IMM-REP-1998-7); the unary form of Brockhoff, Wagner, Trautmann, GECCO 2012.

    Examples
    --------
    >>> r2_indicator([[0, 1], [1, 0]], [[1, 0], [0.5, 0.5], [0, 1]], [0, 0])
    0.16666666666666666
    """
    p, w, z = to_numpy(points=points, weights=weights, ideal=ideal)
    check_finite(points=p, weights=w, ideal=z)
    _check_points(points=p, weights=w)
    _check_reference(z, p, "ideal")
    if w.shape[1] != p.shape[1]:
        raise ParameterError(f"weights must have {p.shape[1]} columns, one for each objective, got {w.shape[1]}")
    if (w < 0).any():
        raise ParameterError("weights must not be negative")
    if (p < z).any():
        raise ParameterError("ideal must not exceed the points")
    return float(np.mean([np.min(np.max(row * (p - z), axis=1)) for row in w]))


def igd_plus(points: Any, front: Any) -> float:
    """Mean distance from a reference front to what the points reach, counting only how far they fall short.

    Parameters
    ----------
    points
        Shape (n, objectives), finite.
    front
        Points of the true or best known front, shape (m, objectives), finite.

    Returns
    -------
    float
        At least 0, and 0 exactly if each point of the front is weakly dominated.

    Raises
    ------
    ParameterError
        For an empty or misshapen array, or values that are not finite.

    Notes
    -----
    Ishibuchi, Masuda, Tanigaki, Nojima, EMO 2015. Unlike IGD it never prefers a dominated set.

    Examples
    --------
    >>> igd_plus([[0, 2], [2, 0]], [[0, 1], [1, 0]])
    1.0
    """
    p, z = to_numpy(points=points, front=front)
    check_finite(points=p, front=z)
    _check_points(points=p, front=z)
    if p.shape[1] != z.shape[1]:
        raise ParameterError(f"front must have {p.shape[1]} columns, one for each objective, got {z.shape[1]}")
    return float(np.mean([np.sqrt((np.maximum(p - row, 0) ** 2).sum(axis=1).min()) for row in z]))


def simplex_lattice(objectives: int, divisions: int) -> np.ndarray:
    """Weights that are multiples of ``1 / divisions`` and sum to one.

    Parameters
    ----------
    objectives
        At least 1.
    divisions
        At least 1.

    Returns
    -------
    numpy.ndarray
        All of them, shape (C(divisions + objectives - 1, objectives - 1), objectives).

    Raises
    ------
    ParameterError
        For numbers below 1.

    Notes
    -----
    Das and Dennis, SIAM Journal on Optimization 1998.

    Examples
    --------
    >>> simplex_lattice(2, 2).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    objectives = check_count("objectives", objectives, 1)
    divisions = check_count("divisions", divisions, 1)
    places = divisions + objectives - 1
    # bars between stars: the gaps are the parts
    bars = np.array(list(combinations(range(places), objectives - 1)), dtype=float)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, places)))
    return np.asarray((np.diff(edges, axis=1) - 1) / divisions)


def _front(p: np.ndarray) -> np.ndarray:
    # in lexicographic order no point is dominated by a later one
    order = np.lexsort(p.T[::-1])
    front = np.zeros(len(p), dtype=bool)
    kept = np.empty_like(p)
    size = 0
    for i in order:
        earlier = kept[:size]
        if not ((earlier <= p[i]).all(axis=1) & (earlier < p[i]).any(axis=1)).any():
            front[i] = True
            kept[size] = p[i]
            size += 1
    return front


def _union_of_boxes(sizes: np.ndarray) -> float:
    """Volume of the union of boxes [0, size]."""
    if len(sizes) == 0:
        return 0.0
    if sizes.shape[1] == 1:
        return float(sizes.max())
    # largest first in the last direction, so that every box sees the others clipped to as little as may be
    sizes = sizes[_front(-sizes)]
    sizes = sizes[np.argsort(-sizes[:, -1], kind="stable")]
    if sizes.shape[1] == 2:
        heights = np.maximum.accumulate(sizes[:, 0])
        return float(np.sum(np.diff(heights, prepend=0) * sizes[:, 1]))
    total = 0.0
    for i, box in enumerate(sizes):
        # what the earlier boxes leave of this one; they reach its full last side
        total += box[-1] * (np.prod(box[:-1]) - _union_of_boxes(np.minimum(sizes[:i, :-1], box[:-1])))
    return float(total)


def _check_points(**arrays: np.ndarray) -> None:
    for name, value in arrays.items():
        if value.ndim != 2 or value.size == 0:
            raise ParameterError(f"{name} must have shape (n, objectives), not empty, got {value.shape}")


def _check_reference(reference: np.ndarray, points: np.ndarray, name: str = "reference") -> None:
    check_finite(**{name: reference})
    if reference.shape != (points.shape[1],):
        raise ParameterError(f"{name} must have shape ({points.shape[1]},), got {reference.shape}")
