"""Feed-forward networks of many experts at once: tokens sorted by expert, one product for each group.

On the CPU a group is a slice that is multiplied by oneDNN where torch has it and by torch's own product otherwise; on
CUDA, in half precision, torch's grouped product takes all groups in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]
# Compute capability from which torch's grouped product runs, and the types that it takes there.
_GROUPED_FROM, _GROUPED_TYPES = (8, 0), (torch.bfloat16, torch.float16)
# Multiplications from which oneDNN's product pays, and what numbers of rows are rounded up to: oneDNN compiles a kernel
# for each shape, which costs as much as some products, and groups have as many rows as the router likes.
_FEWEST_PRODUCTS, _ROWS = 2**22, 32


class Stacked(NamedTuple):
    """Weights of N two-layer networks: ``down(act(up x))``, or ``down(act(gate x) * (up x))`` where gated.

    ``up`` has shape (N, inner, d), or (N, 2 inner, d) where gated, the gate's rows first; ``down`` (N, d, inner).
    Biases have shape (N, rows) or are None.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    activation: Activation
    gated: bool


def by_group(x: Tensor, index: Tensor, scale: Tensor | None, weights: Stacked) -> Tensor:
    """Sum of the chosen experts' outputs for rows x (T, d), choices ``index`` (T, k) and factors ``scale`` (T, k).

    An index of -1 is a choice that was dropped. Half precision is summed in float32.
    """
    choices = index.shape[1]
    flat = index.reshape(-1)
    dropped, *sizes = torch.bincount(flat + 1, minlength=len(weights.up) + 1).tolist()
    order = flat.argsort(stable=True)[dropped:]  # what was dropped sorts first
    tokens = order if choices == 1 else order // choices
    factors = None if scale is None else scale.reshape(-1, 1).index_select(0, order)
    parts = _grouped_product if _has_grouped_product(x) else _segments
    half = x.dtype in (torch.bfloat16, torch.float16)
    total = torch.zeros(x.shape, dtype=torch.float32 if half else x.dtype, device=x.device)
    start = 0
    for found in parts(x, tokens, sizes, weights):
        rows = slice(start, start := start + len(found))
        if factors is not None:
            found = found * factors[rows]
        total.index_add_(0, tokens[rows], found.to(total.dtype))
    if not start:  # nobody was served: zero, in the graph of whatever is trained
        total = total + 0 * (x.sum() + weights.up.sum() + weights.down.sum())
    return total.to(x.dtype)


def _segments(x: Tensor, tokens: Tensor, sizes: list[int], weights: Stacked) -> Iterator[Tensor]:
    """Outputs of one expert after the other for ``tokens``, rows of x sorted by expert."""
    ups, downs = weights.up.unbind(0), weights.down.unbind(0)  # one gradient for all, where indexing makes one for each
    up_biases, down_biases = _unbound(weights.up_bias, len(sizes)), _unbound(weights.down_bias, len(sizes))
    padded = [-(-size // _ROWS) * _ROWS for size in sizes] if _onednn(x, ups[0], sum(sizes) // len(sizes)) else sizes
    gathered = x.index_select(0, tokens if padded is sizes else _repeated(tokens, sizes, padded))
    for expert, rows in enumerate(gathered.split(padded)):
        if len(rows):
            hidden = _activated(linear(rows, ups[expert], up_biases[expert]), weights)
            yield linear(hidden, downs[expert], down_biases[expert])[: sizes[expert]]


def _repeated(tokens: Tensor, sizes: list[int], padded: list[int]) -> Tensor:
    """The tokens of each group, and its last one again until the group has its padded size."""
    groups = torch.tensor([sizes, padded])
    ends = groups.cumsum(1)
    group = torch.repeat_interleave(groups[1])
    place = torch.arange(len(group)) - (ends - groups)[1][group] + (ends - groups)[0][group]
    return tokens[torch.minimum(place, ends[0][group] - 1)]


def by_loop(x: Tensor, index: Tensor, scale: Tensor | None, weights: Stacked) -> Tensor:
    """The oracle: a loop over experts that masks, gathers, multiplies and adds, for x (T, d) and ``index`` (T, k).

    An index of -1 is a choice that was dropped. Any dtype, float64 for reference; slow on purpose.
    """
    output = torch.zeros_like(x)
    for expert in range(len(weights.up)):
        token, choice = torch.where(index == expert)
        if not len(token):
            continue
        up_bias = None if weights.up_bias is None else weights.up_bias[expert]
        down_bias = None if weights.down_bias is None else weights.down_bias[expert]
        hidden = _activated(F.linear(x[token], weights.up[expert], up_bias), weights)
        found = F.linear(hidden, weights.down[expert], down_bias)
        if scale is not None:
            found = found * scale[token, choice, None].to(found.dtype)
        output.index_add_(0, token, found.to(output.dtype))
    return output


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` for rows x, through oneDNN in float32 on the CPU: twice as fast where MKL has no fast path.

    Gradients are right; second derivatives exist only in other dtypes than float32.
    """
    if _onednn(x, weight, len(x)):
        found: Tensor = _Linear.apply(x, weight, bias)
        return found
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """x W^T + b and its gradients, each product by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if needs[0] else None,
            _product(gradient.t(), x.t()) if needs[1] else None,
            gradient.sum(0) if needs[2] else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def _has_onednn() -> bool:
    """Whether this torch has the operator, with the arguments that are passed here."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x, weight = torch.ones(2, 3), torch.ones(4, 3)
        return torch.equal(_product(x, weight, torch.zeros(4)), F.linear(x, weight))
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False


_ONEDNN = _has_onednn()


def _onednn(x: Tensor, weight: Tensor, rows: int) -> bool:
    """Whether oneDNN multiplies so many rows like x."""
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    pays = rows * weight.numel() >= _FEWEST_PRODUCTS
    return _ONEDNN and plain and pays and not torch.is_autocast_enabled("cpu")


def _has_grouped_product(x: Tensor) -> bool:
    """Whether torch's grouped product takes x: CUDA of compute capability 8.0 on, half precision."""
    return (
        x.is_cuda
        and x.dtype in _GROUPED_TYPES
        and hasattr(F, "grouped_mm")
        and torch.cuda.get_device_capability(x.device) >= _GROUPED_FROM
    )


def _grouped_product(x: Tensor, tokens: Tensor, sizes: list[int], weights: Stacked) -> Iterator[Tensor]:
    """The outputs of all experts at once by ``torch.nn.functional.grouped_mm``."""
    counts = torch.tensor(sizes, device=x.device)
    ends, expert = counts.cumsum(0).to(torch.int32), torch.repeat_interleave(counts, output_size=len(tokens))

    def multiplied(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product = F.grouped_mm(rows.contiguous(), weight.transpose(1, 2), offs=ends)
        return product if bias is None else product + bias[expert]

    hidden = _activated(multiplied(x.index_select(0, tokens), weights.up, weights.up_bias), weights)
    yield multiplied(hidden, weights.down, weights.down_bias)


def _activated(hidden: Tensor, weights: Stacked) -> Tensor:
    if not weights.gated:
        return weights.activation(hidden)
    gate, up = hidden.chunk(2, dim=-1)
    return weights.activation(gate) * up


def _unbound(bias: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    return (None,) * count if bias is None else bias.unbind(0)
