"""The checks and sums that discrepancies of point clouds share."""

from __future__ import annotations

import math

import array_api_compat
import numpy as np

from porism.arrays import Array, Namespace, check_finite, floating, probabilities
from porism.errors import ParameterError


def clouds(
    x: Array, y: Array, x_weights: Array | None = None, y_weights: Array | None = None
) -> tuple[Namespace, Array, Array, Array | None, Array | None]:
    """Samples of shapes (n, d) and (m, d), or (n,) and (m,) for d = 1, and their weights, checked."""
    xp, (x, y, a, b) = floating(optional=("x_weights", "y_weights"), x=x, y=y, x_weights=x_weights, y_weights=y_weights)
    if x.ndim == 1 and y.ndim == 1:
        x, y = x[:, None], y[:, None]
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ParameterError(f"x and y must have shapes (n, d) and (m, d), or (n,) and (m,), not empty; got {shapes}")
    check_finite(x=x, y=y)
    return xp, x, y, weights_of(xp, "x_weights", a, x), weights_of(xp, "y_weights", b, y)


def weights_of(xp: Namespace, name: str, weights: Array | None, x: Array) -> Array | None:
    """Masses of the rows of ``x``, checked and divided by their sum, which the check lets be one plus a little."""
    if weights is None:
        return None
    if tuple(weights.shape) != (x.shape[0],):
        raise ParameterError(f"{name} must have shape ({x.shape[0]},), it has {tuple(weights.shape)}")
    (weights,) = probabilities(xp, axis=-1, **{name: weights})
    return weights / xp.sum(weights)


def masses(xp: Namespace, weights: Array | None, x: Array) -> Array:
    """The weights, or equal ones."""
    return xp.ones(x.shape[0], dtype=x.dtype, device=x.device) / x.shape[0] if weights is None else weights


def off_diagonal_mass(xp: Namespace, name: str, weights: Array) -> Array:
    """The mass of pairs of different points, by which unbiased estimators divide."""
    rest = 1 - xp.sum(weights * weights)
    if not bool(rest > 1e-12):
        raise ParameterError(f"{name} needs at least two points of positive weight for an unbiased estimate")
    return rest


def distances(x: Array, y: Array) -> Array:
    """Euclidean distances between rows, shape (n, m), exact where points nearly agree; gradient zero at zero."""
    unit = power_of_two(max(float(abs(constant(points)).max()) for points in (x, y)))
    x, y = x / unit, y / unit  # whose squares do not overflow
    if array_api_compat.is_torch_array(x):
        import torch

        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") * unit
    from scipy.spatial.distance import cdist

    return (cdist(x, y) * unit).astype(x.dtype, copy=False)


def squared_distances(x: Array, y: Array) -> Array:
    """Squares of :func:`distances`, with a second derivative for torch."""
    if array_api_compat.is_torch_array(x):
        return distances(x, y) ** 2
    from scipy.spatial.distance import cdist

    return cdist(x, y, "sqeuclidean").astype(x.dtype, copy=False)


def power_of_two(size: float) -> float:
    """The largest power of two up to a positive number: numbers divided by it keep their digits."""
    return math.ldexp(0.5, math.frexp(size)[1])


def constant(x: Array) -> Array:
    """As a numpy array without gradient."""
    return x.detach().cpu().numpy() if array_api_compat.is_torch_array(x) else np.asarray(x)
