"""Sorting, merging and gathering along the last axis, for numpy and torch."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from porism.arrays import Array, Namespace


def merge_levels(xp: Namespace, x: Array, y: Array, u: Array | None, v: Array | None) -> tuple[Array, Array, Array]:
    """Pieces between neighbouring levels of either distribution function: ranks in x, ranks in y, masses."""
    n, m = x.shape[-1], y.shape[-1]
    total = 1
    if u is None and v is None:  # whole numbers, so that equal levels are equal
        common = math.gcd(n, m)
        u = xp.arange(1, n + 1, device=x.device) * (m // common)
        v = xp.arange(1, m + 1, device=x.device) * (n // common)
        total = n // common * m
    u = xp.arange(1, n + 1, dtype=x.dtype, device=x.device) / n if u is None else u
    v = xp.arange(1, m + 1, dtype=x.dtype, device=x.device) / m if v is None else v
    batch = np.broadcast_shapes(u.shape[:-1], v.shape[:-1])
    levels = xp.concat([xp.broadcast_to(u, (*batch, n)), xp.broadcast_to(v, (*batch, m))], axis=-1)
    order = argsort(xp, levels, stable=True)  # a stable sort of two sorted runs is one merge
    ends = take(levels, order)
    mass = xp.concat([ends[..., :1], ends[..., 1:] - ends[..., :-1]], axis=-1)
    mass = xp.astype(mass, x.dtype) / total
    from_x = xp.astype(order < n, order.dtype)
    i = xp.cumulative_sum(from_x, axis=-1) - from_x  # levels of x before the end of each piece
    j = xp.arange(n + m, device=x.device) - i
    return xp.clip(i, None, n - 1), xp.clip(j, None, m - 1), mass


def sort_values(xp: Namespace, x: Array) -> Array:
    """Sorted along the last axis. On the CPU numpy sorts ten times faster than torch."""
    if not array_api_compat.is_torch_array(x):
        return np.sort(x, axis=-1)
    if x.device.type != "cpu":
        return xp.sort(x, axis=-1)
    if x.requires_grad:
        return take(x, argsort(xp, x))
    return xp.asarray(np.sort(x.numpy(), axis=-1))


def argsort(xp: Namespace, x: Array, *, stable: bool = False) -> Array:
    """Order along the last axis; the unstable one is faster unless ``x`` consists of a few sorted runs."""
    kind: Any = "stable" if stable else None
    if not array_api_compat.is_torch_array(x):
        return np.argsort(x, axis=-1, kind=kind)
    if x.device.type != "cpu":
        return xp.argsort(x, axis=-1, stable=stable)
    return xp.asarray(np.argsort(x.detach().numpy(), axis=-1, kind=kind))


def take(x: Array, index: Array) -> Array:
    """Along the last axis; leading axes broadcast."""
    batch: Any = np.broadcast_shapes(x.shape[:-1], index.shape[:-1])
    if not array_api_compat.is_torch_array(x):
        if index.ndim == 1:  # much faster than the general way
            return np.take(x, index, axis=-1)
        index = np.broadcast_to(index, (*batch, index.shape[-1]))
        return np.take_along_axis(np.broadcast_to(x, (*batch, x.shape[-1])), index, axis=-1)
    return x.expand(*batch, x.shape[-1]).gather(-1, index.expand(*batch, index.shape[-1]))


def on_cpu_without_gradient(*arrays: Array | None) -> bool:
    """Whether these are torch tensors whose memory numpy can work on unnoticed."""
    given = [values for values in arrays if values is not None]
    return all(
        array_api_compat.is_torch_array(values) and values.device.type == "cpu" and not values.requires_grad
        for values in given
    )
