"""Checks of the arguments of manifolds; each names the argument and the rule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from porism.arrays import check_axis, check_finite, check_number
from porism.errors import ParameterError
from porism.geometry.frames import norm
from porism.geometry.protocol import Points

# Relative to the manifold's size; float64 points that a sampler or a projection gave are off by about 1e-15.
TOLERANCE = 1e-8


def positive(name: str, value: Any) -> float:
    """Return ``value`` as a float, positive and finite."""
    return check_number(name, value, above=0, below=math.inf)


def real(name: str, value: ArrayLike) -> Points:
    """Return ``value`` as a finite float64 array."""
    try:
        array = np.asarray(value)
        if isinstance(value, np.ma.MaskedArray) or array.dtype.kind not in "fiub":
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ParameterError(f"{name} must be an array of real numbers, got {type(value).__name__}") from None
    check_finite(**{name: array})
    return array


def points(name: str, value: ArrayLike, width: int) -> Points:
    """Return ``value`` as a finite float64 array of shape ``(..., width)``."""
    array = real(name, value)
    if array.ndim == 0 or array.shape[-1] != width:
        raise ParameterError(f"{name} must have shape (..., {width}), got {array.shape}")
    return array


def on_manifold(name: str, distance: Points, size: float | Points) -> None:
    """Raise unless every distance is at most 1e-8 of the manifold's size."""
    if not bool((distance <= TOLERANCE * size).all()):
        raise ParameterError(
            f"{name} must lie on the manifold, a point is {float(distance.max()):.3g} away; project it first"
        )


def tangent(name: str, value: ArrayLike, basis: Points) -> Points:
    """Return ``value`` as vectors ``(..., D)`` of the span of the orthonormal ``basis`` (..., D, d)."""
    vectors = points(name, value, basis.shape[-2])
    check_axis(-1, x=basis[..., 0], **{name: vectors})
    inside = np.einsum("...Di,...Ei,...E->...D", basis, basis, vectors)
    if not bool((norm(vectors - inside) <= TOLERANCE * norm(vectors)).all()):
        raise ParameterError(f"{name} must be tangent to the manifold at x")
    return vectors
