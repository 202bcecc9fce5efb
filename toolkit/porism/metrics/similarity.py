"""Similarity of kernels and of representations; keeps the backend and its gradients."""

from __future__ import annotations

from typing import Any

from porism.arrays import Array, Namespace, check_finite, floating
from porism.errors import ParameterError


def kernel_alignment(k: Any, l: Any) -> Array:
    """Cosine of the angle between two kernel matrices, ``<K, L> / (|K| |L|)``.

    Parameters
    ----------
    k, l
        Kernel matrices of the same points, shape (n, n), not zero.

    Returns
    -------
    Array
        Scalar in [-1, 1], and in [0, 1] for positive semidefinite kernels.

    Raises
    ------
    ParameterError
        For shapes that differ or are not square, values that are not finite, or a kernel that is zero.

    Notes
    -----
    Cristianini, Shawe-Taylor, Elisseeff, Kandola, NIPS 2001.

    Examples
    --------
    >>> round(float(kernel_alignment([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]])) ** 2, 10)
    0.5
    """
    xp, k, l = _kernels(k, l)
    return _cosine(xp, k, l, "k", "l")


def centered_kernel_alignment(k: Any, l: Any) -> Array:
    """:func:`kernel_alignment` after both kernels are centred in feature space: CKA of two kernels.

    Parameters
    ----------
    k, l
        Kernel matrices of the same points, shape (n, n), not constant.

    Returns
    -------
    Array
        Scalar in [-1, 1], and in [0, 1] for positive semidefinite kernels.

    Raises
    ------
    ParameterError
        For shapes that differ or are not square, values that are not finite, or a kernel that is zero once centred.

    Notes
    -----
    Cortes, Mohri, Rostamizadeh, JMLR 2012, definition 4.

    Examples
    --------
    >>> round(float(centered_kernel_alignment([[1.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [1.0, 2.0]])), 10)
    1.0
    """
    xp, k, l = _kernels(k, l)
    return _cosine(xp, _centre(xp, k, "k"), _centre(xp, l, "l"), "k", "l")


def cka(x: Any, y: Any) -> Array:
    """Linear centred kernel alignment of two representations of the same examples.

    Parameters
    ----------
    x, y
        Features in columns, shapes (n, p) and (n, q).

    Returns
    -------
    Array
        Scalar in [0, 1]; it does not change if x or y is rotated, scaled or shifted. With fewer examples than
        features it is biased upwards.

    Raises
    ------
    ParameterError
        For numbers of examples that differ, values that are not finite, or features that are all constant.

    Notes
    -----
    Kornblith, Norouzi, Lee, Hinton, ICML 2019, section 3; by products of features, so no n x n matrix is made.

    Examples
    --------
    >>> round(float(cka([[1.0], [2.0], [4.0]], [[3.0], [5.0], [9.0]])), 10)
    1.0
    """
    xp, (x, y) = floating(x=x, y=y)
    check_finite(x=x, y=y)
    for name, value in (("x", x), ("y", y)):
        if value.ndim != 2 or 0 in value.shape:
            raise ParameterError(f"{name} must have shape (n, features), not empty, got {tuple(value.shape)}")
    if x.shape[0] != y.shape[0]:
        raise ParameterError(f"x has {x.shape[0]} examples and y {y.shape[0]}: they must agree")
    x, y = _centred_columns(xp, x, "x"), _centred_columns(xp, y, "y")
    cross = xp.sum((x.T @ y) ** 2)
    return cross / (xp.sum((x.T @ x) ** 2) ** 0.5 * xp.sum((y.T @ y) ** 2) ** 0.5)


def _cosine(xp: Namespace, k: Array, l: Array, first: str, second: str) -> Array:
    k, l = _unit_scale(xp, k, first), _unit_scale(xp, l, second)
    return xp.sum(k * l) / (xp.sum(k**2) ** 0.5 * xp.sum(l**2) ** 0.5)


def _centred_columns(xp: Namespace, a: Array, name: str) -> Array:
    # the first row is taken off before the mean, so that equal rows become zeros and not rounding errors
    a = _unit_scale(xp, a, name)
    a = a - a[:1]
    return _unit_scale(xp, a - xp.mean(a, axis=0), name)


def _unit_scale(xp: Namespace, a: Array, name: str) -> Array:
    size = xp.max(abs(a))
    if not bool(size > 0):
        raise ParameterError(f"{name} must not be zero, or constant where it is centred")
    return a / size


def _centre(xp: Namespace, k: Array, name: str) -> Array:
    k = _unit_scale(xp, k, name)
    k = k - k[0, 0]
    rows = xp.mean(k, axis=0, keepdims=True)
    return k - rows - xp.mean(k, axis=1, keepdims=True) + xp.mean(rows)


def _kernels(k: Any, l: Any) -> tuple[Namespace, Array, Array]:
    xp, (k, l) = floating(k=k, l=l)
    check_finite(k=k, l=l)
    for name, value in (("k", k), ("l", l)):
        if value.ndim != 2 or 0 in value.shape or value.shape[0] != value.shape[1]:
            raise ParameterError(f"{name} must have shape (n, n), not empty, got {tuple(value.shape)}")
    if k.shape != l.shape:
        raise ParameterError(f"k has shape {tuple(k.shape)} and l {tuple(l.shape)}: they must agree")
    return xp, k, l
