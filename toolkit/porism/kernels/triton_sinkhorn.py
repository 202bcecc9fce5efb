"""The half-step of Sinkhorn's algorithm on CUDA: one launch updates one potential of every problem of a batch.

Each program owns some rows of one problem and passes over its columns once, with the running maximum and sum of
a stable log-sum-exp; costs are read where they lie, so the other half-step is the same kernel with the strides
exchanged. Exponents are formed in the potentials' dtype and raised in that of the cost. ``TRITON_INTERPRET=1`` before
the first import of triton runs the kernel on the CPU. Import this module only where triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 16, 128


@triton.jit  # type: ignore[untyped-decorator]
def half_step(  # type: ignore[no-untyped-def]
    potential, cost, weights, out, n, m, epsilon, stride_batch, stride_n, stride_m,
    rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """One potential of some rows of one problem; ``epsilon`` is a pointer: a scalar would arrive in float32."""
    batch = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * rows + tl.arange(0, rows)
    dtype = cost.dtype.element_ty
    scale = tl.load(epsilon)
    largest = tl.full((rows,), -float("inf"), potential.dtype.element_ty)
    total = tl.zeros((rows,), dtype)
    start = cost + batch * stride_batch + i.to(tl.int64)[:, None] * stride_n
    for first in range(0, m, columns):
        j = first + tl.arange(0, columns)
        inside = j < m
        g = tl.load(potential + batch * m + j, mask=inside, other=0.0)
        weight = tl.load(weights + batch * m + j, mask=inside, other=0.0).to(dtype)
        c = tl.load(start + j.to(tl.int64)[None, :] * stride_m, mask=(i < n)[:, None] & inside[None, :], other=0.0)
        # points without weight must not set the maximum, which would flush the others
        exponent = tl.where(weight[None, :] > 0, (g[None, :] - c) / scale, -float("inf"))
        new = tl.maximum(largest, tl.max(exponent, 1))
        shift = tl.where(new == -float("inf"), 0.0, new)
        power = tl.exp((exponent - shift[:, None]).to(dtype))
        total = total * tl.exp((largest - shift).to(dtype)) + tl.sum(weight[None, :] * power, 1)
        largest = new
    tl.store(out + batch * n + i, -scale * (largest + tl.log(total).to(largest.dtype)), mask=i < n)


def soft_minimum(potential: Tensor, cost: Tensor, weights: Tensor, epsilon: float, dim: int) -> Tensor:
    """-epsilon log sum_j w_j exp((potential_j - C_ij) / epsilon) over axis ``dim`` of the cost.

    Parameters
    ----------
    potential
        (B, m) for ``dim`` 2, (B, n) for ``dim`` 1; float32 or float64, and so is the result.
    cost
        (B, n, m), any strides; ``inf`` forbids a pair.
    weights
        As ``potential``, not negative; zeros count for nothing.
    epsilon
        The regularisation.
    dim
        1 or 2.

    Returns
    -------
    Tensor
        (B, n) or (B, m).
    """
    n, m = cost.shape[3 - dim], cost.shape[dim]
    out = torch.empty((cost.shape[0], n), dtype=potential.dtype, device=cost.device)
    scale = torch.full((1,), epsilon, dtype=potential.dtype, device=cost.device)
    strides = (cost.stride(0), cost.stride(3 - dim), cost.stride(dim))
    launch: Any = half_step[(cost.shape[0], triton.cdiv(n, _ROWS))]
    launch(potential.contiguous(), cost, weights.contiguous(), out, n, m, scale, *strides, rows=_ROWS, columns=_COLUMNS)
    return out
