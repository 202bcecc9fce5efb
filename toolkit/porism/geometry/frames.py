"""Lengths that do not overflow and orthonormal bases of complements, batched."""

from __future__ import annotations

import numpy as np

from porism.geometry.protocol import Points


def norm(x: Points) -> Points:
    """Euclidean length along the last axis, without overflow or underflow of the squares.

    Examples
    --------
    >>> float(norm(np.array([3e300, 4e300])))
    5e+300
    """
    largest = np.abs(x).max(axis=-1, keepdims=True, initial=0.0)
    scaled = x / np.where(largest > 0, largest, 1.0)
    length: Points = largest[..., 0] * np.sqrt((scaled * scaled).sum(-1))
    return length


def unit(x: Points) -> Points:
    """``x / |x|`` along the last axis; the zero vector goes to the first coordinate direction.

    Examples
    --------
    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [1. , 0. ]])
    """
    largest = np.abs(x).max(axis=-1, keepdims=True)
    first = np.zeros(x.shape[-1])
    first[0] = 1.0
    scaled = np.where(largest > 0, x / np.where(largest > 0, largest, 1.0), first)
    direction: Points = scaled / np.sqrt((scaled * scaled).sum(-1, keepdims=True))
    return direction


def hyperplane_basis(normal: Points) -> Points:
    """Orthonormal basis ``(..., D, D - 1)`` of the complement of unit vectors ``(..., D)``, by one reflection.

    Examples
    --------
    >>> hyperplane_basis(np.array([0.0, 1.0]))
    array([[-1.],
           [ 0.]])
    """
    size = normal.shape[-1]
    mirror = normal.copy()
    mirror[..., 0] += np.where(normal[..., 0] >= 0, 1.0, -1.0)
    squared = (mirror * mirror).sum(-1)[..., None, None]
    reflection = np.eye(size) - 2 * mirror[..., :, None] * mirror[..., None, :] / squared
    basis: Points = reflection[..., :, 1:]
    return basis


def complement(frame: Points) -> Points:
    """Orthonormal basis ``(..., D, D - c)`` of the complement of independent columns ``(..., D, c)``.

    Examples
    --------
    >>> np.abs(complement(np.eye(3)[:, :2])).ravel()
    array([0., 0., 1.])
    """
    count = frame.shape[-1]
    basis: Points = np.linalg.qr(frame, mode="complete")[0][..., :, count:]
    return basis
