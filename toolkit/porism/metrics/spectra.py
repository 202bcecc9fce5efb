"""How many directions a matrix uses, and how far two subspaces are apart.

All but :func:`subspace_angles` keep the backend and its gradients, and take leading axes as batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from porism.arrays import Array, Namespace, check_finite, floating
from porism.errors import ParameterError
from porism.metrics._checks import to_numpy


def effective_rank(matrix: Any) -> Array:
    """Exponential of the entropy of the normalised singular values.

    Parameters
    ----------
    matrix
        Finite and not zero, shape (..., m, n).

    Returns
    -------
    Array
        Shape (...), from 1 to ``min(m, n)``, which it reaches for equal singular values.

    Raises
    ------
    ParameterError
        For fewer than two axes, an empty or zero matrix, or values that are not finite.

    Notes
    -----
    Roy and Vetterli, EUSIPCO 2007, definition 1. At a singular value of zero the slope is infinite; the gradient
    given there leaves that direction out.

    Examples
    --------
    >>> round(float(effective_rank([[3.0, 0.0], [0.0, 3.0]])), 10)
    2.0
    """
    xp, a = _matrices(matrix)
    values = xp.linalg.svdvals(a)
    p = values / xp.sum(values, axis=-1, keepdims=True)
    inside = xp.where(p > 0, p, xp.ones_like(p))
    return xp.exp(-xp.sum(inside * xp.log(inside), axis=-1))


def stable_rank(matrix: Any) -> Array:
    """Squared Frobenius norm over squared spectral norm.

    Parameters
    ----------
    matrix
        Finite and not zero, shape (..., m, n).

    Returns
    -------
    Array
        Shape (...), from 1 to the rank.

    Raises
    ------
    ParameterError
        For fewer than two axes, an empty or zero matrix, or values that are not finite.

    Notes
    -----
    Rudelson and Vershynin, Journal of the ACM 2007.

    Examples
    --------
    >>> float(stable_rank([[2.0, 0.0], [0.0, 1.0]]))
    1.25
    """
    xp, a = _matrices(matrix)
    # singular values are sorted; relative to the largest, squares do not vanish
    values = xp.linalg.svdvals(a)
    return xp.sum((values / values[..., :1]) ** 2, axis=-1)


def participation_ratio(x: Any) -> Array:
    """Squared trace of the covariance over the trace of its square, ``(sum l)^2 / sum l^2`` of its eigenvalues.

    Parameters
    ----------
    x
        Observations in rows, shape (..., n, d); columns are centred here.

    Returns
    -------
    Array
        Shape (...), from 1 to ``min(n - 1, d)``.

    Raises
    ------
    ParameterError
        For fewer than two axes, rows that are all equal, or values that are not finite.

    Notes
    -----
    Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", 2017.

    Examples
    --------
    >>> round(float(participation_ratio([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 10)
    2.0
    """
    xp, a = _matrices(x, "x")
    centred = a - a[..., :1, :]  # so that equal rows become zeros and not rounding errors
    centred = centred - xp.mean(centred, axis=-2, keepdims=True)
    size = xp.max(abs(centred), axis=(-2, -1), keepdims=True)
    if not bool((size > 0).all()):
        raise ParameterError("x must have rows that differ")
    centred = centred / size
    across = xp.matrix_transpose(centred)
    gram = centred @ across if centred.shape[-2] < centred.shape[-1] else across @ centred
    return xp.sum(centred**2, axis=(-2, -1)) ** 2 / xp.sum(gram**2, axis=(-2, -1))


def subspace_angles(a: Any, b: Any) -> np.ndarray:
    """Principal angles between the column spaces of two matrices, largest first.

    Parameters
    ----------
    a, b
        Finite, shapes (n, p) and (n, q).

    Returns
    -------
    numpy.ndarray
        Radians in [0, pi/2], float64, without gradient; as many as the smaller of the two ranks.

    Raises
    ------
    ParameterError
        For matrices that are empty, of different heights, or not finite.

    Notes
    -----
    By :func:`scipy.linalg.subspace_angles`, accurate at small angles too: Knyazev and Argentati, SIAM Journal on
    Scientific Computing 2002.

    Examples
    --------
    >>> subspace_angles([[1.0], [0.0]], [[1.0], [1.0]]).round(10).tolist()
    [0.7853981634]
    """
    from scipy import linalg

    first, second = to_numpy(a=a, b=b)
    check_finite(a=first, b=second)
    _check_heights(first, second)
    if first.ndim != 2 or second.ndim != 2:
        raise ParameterError(f"a and b must be matrices, got shapes {first.shape} and {second.shape}")
    return np.asarray(linalg.subspace_angles(first, second))


def projection_distance(a: Any, b: Any) -> Array:
    """Chordal distance of two subspaces: the root of the sum of the squared sines of the principal angles.

    Parameters
    ----------
    a, b
        Bases in columns, linearly independent, both of shape (..., n, p).

    Returns
    -------
    Array
        Shape (...), from 0 to ``sqrt(p)``: ``|P_a - P_b|_F / sqrt(2)`` for the orthogonal projections.

    Raises
    ------
    ParameterError
        For shapes that differ, columns that are linearly dependent, or values that are not finite.

    Notes
    -----
    Conway, Hardin, Sloane, Experimental Mathematics 1996. At distance zero the gradient is set to zero.

    Examples
    --------
    >>> round(float(projection_distance([[1.0], [0.0]], [[1.0], [1.0]])) ** 2, 10)
    0.5
    """
    xp, qa, qb = _bases(a, b)
    if qa.shape[-1] != qb.shape[-1]:
        raise ParameterError(f"a spans {qa.shape[-1]} dimensions and b {qb.shape[-1]}: they must agree")
    # the part of b outside of a: no cancellation at small angles, unlike p minus the cosines
    outside = xp.sum((qb - qa @ (xp.matrix_transpose(qa) @ qb)) ** 2, axis=(-2, -1))
    positive = outside > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, outside, xp.ones_like(outside))), xp.zeros_like(outside))


def subspace_affinity(a: Any, b: Any) -> Array:
    """Root mean square cosine of the principal angles.

    Parameters
    ----------
    a, b
        Bases in columns, linearly independent, shapes (..., n, p) and (..., n, q).

    Returns
    -------
    Array
        Shape (...), from 0 for orthogonal subspaces to 1 if one contains the other.

    Raises
    ------
    ParameterError
        For heights that differ, columns that are linearly dependent, or values that are not finite.

    Notes
    -----
    Soltanolkotabi and Candes, Annals of Statistics 2012, definition 1.2, divided by the root of the smaller
    dimension. At affinity zero the gradient is set to zero.

    Examples
    --------
    >>> round(float(subspace_affinity([[1.0], [0.0]], [[1.0], [1.0]])) ** 2, 10)
    0.5
    """
    xp, qa, qb = _bases(a, b)
    square = xp.sum((xp.matrix_transpose(qa) @ qb) ** 2, axis=(-2, -1)) / min(qa.shape[-1], qb.shape[-1])
    positive = square > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, square, xp.ones_like(square))), xp.zeros_like(square))


def _matrices(matrix: Any, name: str = "matrix") -> tuple[Namespace, Array]:
    xp, (a,) = floating(**{name: matrix})
    if a.ndim < 2 or 0 in a.shape:
        raise ParameterError(f"{name} must have shape (..., m, n), not empty, got {tuple(a.shape)}")
    check_finite(**{name: a})
    size = xp.max(abs(a), axis=(-2, -1), keepdims=True)
    if not bool((size > 0).all()):
        raise ParameterError(f"{name} must not be zero")
    return xp, a / size  # no measure here depends on the scale


def _bases(a: Any, b: Any) -> tuple[Namespace, Array, Array]:
    xp, (a, b) = floating(a=a, b=b)
    check_finite(a=a, b=b)
    _check_heights(a, b)
    bases = []
    for name, value in (("a", a), ("b", b)):
        if value.shape[-1] > value.shape[-2]:
            raise ParameterError(f"{name} must not have more columns than rows, its shape is {tuple(value.shape)}")
        # a basis of any scale spans the same; of size one its squares neither overflow nor vanish
        size = xp.max(abs(value), axis=(-2, -1), keepdims=True)
        q, r = xp.linalg.qr(value / xp.where(size > 0, size, xp.ones_like(size)))
        diagonal = abs(xp.linalg.diagonal(r))
        largest = xp.sum(r**2, axis=(-2, -1)) ** 0.5
        if not bool((diagonal > largest[..., None] * value.shape[-2] * xp.finfo(value.dtype).eps).all()):
            raise ParameterError(f"{name} must have linearly independent columns")
        bases.append(q)
    return xp, bases[0], bases[1]


def _check_heights(a: Array, b: Array) -> None:
    for name, value in (("a", a), ("b", b)):
        if value.ndim < 2 or 0 in value.shape:
            raise ParameterError(f"{name} must have shape (..., n, p), not empty, got {tuple(value.shape)}")
    if a.shape[-2] != b.shape[-2]:
        raise ParameterError(f"a has {a.shape[-2]} rows and b {b.shape[-2]}: they must agree")
