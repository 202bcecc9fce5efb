"""f-divergences between two language-model heads, from hidden states, without the logits of all tokens at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from porism.arrays import check_count
from porism.divergences.generators import Generator
from porism.divergences.named import resolve
from porism.errors import ParameterError
from porism.kernels.logits import inverse
from porism.kernels.sweep import sweep

NAMES = ("hidden_t @ W_t.T", "hidden_s @ W_s.T")
# Rows of a half-precision weight gradient that are formed at a time before they are added in float32.
ROWS_OF_HALF = 8192
# Logits in one chunk on CUDA.
LOGITS_ON_CUDA = 1 << 27


class _Side(NamedTuple):
    """A head: hidden states (n, H), weight (V, H), bias (V,); and where the gradients to them are summed."""

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    hidden_sum: torch.Tensor | None
    weight_sum: torch.Tensor | None
    bias_sum: torch.Tensor | None


def fused_linear_divergence(
    hidden_s: torch.Tensor,
    W_s: torch.Tensor,
    hidden_t: torch.Tensor,
    W_t: torch.Tensor,
    *,
    kind: str | Generator = "kl",
    bias_s: torch.Tensor | None = None,
    bias_t: torch.Tensor | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    mask: torch.Tensor | None = None,
    chunk: int | None = None,
    **parameters: float,
) -> torch.Tensor:
    """D_f(teacher || student) over the vocabulary, a few tokens at a time.

    The teacher is p, the student is q: ``kind="kl"`` is KL(teacher || student), ``kind="reverse_kl"`` is
    KL(student || teacher). With "mean" and "sum" the gradients are computed along with the value, so that logits
    exist for one chunk of tokens only and each head's product is formed once; with "none" the weights of the tokens
    are not known until backward, which then forms the chunks again.

    Parameters
    ----------
    hidden_s, hidden_t
        Hidden states, shapes ``(..., H_s)`` and ``(..., H_t)`` with the same leading axes.
    W_s, W_t
        Weights of the heads, ``(V, H_s)`` and ``(V, H_t)`` as in :class:`torch.nn.Linear`. Products are formed in
        their dtype, all else in float32 (float64 if that is theirs).
    kind
        An f-divergence of :mod:`porism.divergences.generators`, or its name.
    bias_s, bias_t
        Biases of the heads, shape ``(V,)``.
    temperature
        Positive; divides all logits. The loss is not multiplied by its square.
    reduction
        "mean" over the tokens that count (0 if there is none), "sum", or "none".
    mask
        Tokens that count, boolean, of the leading axes' shape; the others are never computed.
    chunk
        Tokens at a time. By default the two chunks of logits take half of a weight's size on the
        CPU, and more on CUDA, where larger products pay.
    **parameters
        The generator's parameters, such as ``alpha``.

    Returns
    -------
    torch.Tensor
        A scalar, or with "none" one value a token, 0 where masked. Gradients go to every input that requires one,
        the teacher's too.

    Raises
    ------
    ParameterError
        For shapes, dtypes or devices that do not fit, an unknown kind or reduction, or NaN in logits on the CPU.

    Notes
    -----
    Infinities are those of :func:`porism.kernels.logits.divergence_logits`.

    Examples
    --------
    >>> hidden = torch.eye(2, dtype=torch.float64)
    >>> student = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    >>> loss = fused_linear_divergence(hidden, student, hidden, teacher)
    >>> round(loss.item(), 6)
    0.123284
    >>> loss.backward()
    >>> student.grad[:, 0]
    tensor([-0.1214,  0.0607,  0.0607], dtype=torch.float64)
    """
    kind = resolve(kind, parameters)
    if reduction not in ("mean", "sum", "none"):
        raise ParameterError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if chunk is not None:
        chunk = check_count("chunk", chunk, 1)
    _check_heads(hidden_s=hidden_s, W_s=W_s, bias_s=bias_s, hidden_t=hidden_t, W_t=W_t, bias_t=bias_t, mask=mask)
    count = hidden_s.shape[:-1].numel() if mask is None else int(mask.sum())
    plan = _Plan(
        generator=kind,
        scale=inverse(temperature),
        chunk=_default_chunk(W_s) if chunk is None else chunk,
        tokens=None if mask is None else mask.reshape(-1).nonzero().squeeze(-1),
        weight=None if reduction == "none" else 1 / max(count, 1) if reduction == "mean" else 1.0,
    )
    student = (hidden_s.reshape(-1, hidden_s.shape[-1]), W_s, bias_s)
    teacher = (hidden_t.reshape(-1, hidden_t.shape[-1]), W_t, bias_t)
    loss: torch.Tensor = _FusedLinear.apply(  # type: ignore[no-untyped-call]
        plan, torch.is_grad_enabled(), *student, *teacher
    )
    return loss.reshape(hidden_s.shape[:-1]) if reduction == "none" else loss


class _Plan(NamedTuple):
    """How to go through the tokens."""

    generator: Generator
    scale: float
    chunk: int
    tokens: torch.Tensor | None  # indices of those that count; None: all
    weight: float | None  # of each token in the loss; None: known in backward only


def _check_heads(**arguments: torch.Tensor | None) -> None:
    given = {name: value for name, value in arguments.items() if value is not None}
    for name, value in arguments.items():
        if value is None and name in ("bias_s", "bias_t", "mask"):
            continue
        if not isinstance(value, torch.Tensor) or (name != "mask" and not value.is_floating_point()):
            raise ParameterError(f"{name} must be a torch tensor{'' if name == 'mask' else ' of floating dtype'}")
        if value.device != given["hidden_s"].device:
            raise ParameterError(f"{name} is on {value.device} and hidden_s on {given['hidden_s'].device}")
    leading, vocabulary = given["hidden_s"].shape[:-1], given["W_s"].shape[:1].numel()
    for side in "st":
        weight, hidden = given[f"W_{side}"], given[f"hidden_{side}"]
        if weight.ndim != 2 or weight.shape[0] != vocabulary or vocabulary == 0:
            raise ParameterError(f"W_{side} must be (V, H) with V that of W_s, its shape is {tuple(weight.shape)}")
        if hidden.ndim == 0 or hidden.shape[-1] != weight.shape[1] or hidden.shape[:-1] != leading:
            raise ParameterError(
                f"hidden_{side} has shape {tuple(hidden.shape)}: its last axis must be that of W_{side}, "
                f"{weight.shape[1]}, and the others those of hidden_s, {tuple(leading)}"
            )
        bias = given.get(f"bias_{side}")
        if bias is not None and bias.shape != (vocabulary,):
            raise ParameterError(f"bias_{side} must have shape ({vocabulary},), it has {tuple(bias.shape)}")
    mask = given.get("mask")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != leading):
        raise ParameterError(
            f"mask must be boolean of shape {tuple(leading)}, it is {mask.dtype} of shape {tuple(mask.shape)}"
        )


def _default_chunk(weight: torch.Tensor) -> int:
    """Tokens at a time: enough that re-reading the weight and its gradient is cheap beside the products."""
    vocabulary, width = weight.shape
    if weight.is_cuda:
        return min(8192, max(512, LOGITS_ON_CUDA // vocabulary))
    return min(1024, max(64, width // 4))


class _FusedLinear(torch.autograd.Function):
    """Loss of the tokens; unless their weights are known in backward only, the gradients come with it."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, enabled: bool, *tensors: torch.Tensor | None) -> torch.Tensor:
        ctx.plan = plan
        ctx.needs = tuple(enabled and need for need in ctx.needs_input_grad[2:])
        ctx.save_for_backward(*tensors)
        values, ctx.sums = _through(plan, tensors, None, (False,) * 6 if plan.weight is None else ctx.needs)
        if plan.weight is not None:
            return values.sum() * plan.weight
        if plan.tokens is None:
            return values
        hidden = tensors[0]
        assert hidden is not None
        return values.new_zeros(len(hidden)).index_copy_(0, plan.tokens, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan: _Plan = ctx.plan
        sums, ctx.sums = ctx.sums, None
        tensors: tuple[torch.Tensor | None, ...] = ctx.saved_tensors
        if plan.weight is None:
            weights = upstream if plan.tokens is None else upstream[plan.tokens]
            sums = _through(plan, tensors, weights.unsqueeze(-1), ctx.needs)[1]
        else:
            if sums is None:  # a second backward over a retained graph: the first one gave its buffers away
                sums = _through(plan, tensors, None, ctx.needs)[1]
            for total in sums:
                if total is not None:
                    total.mul_(upstream * plan.weight)
        gradients = (
            None if total is None or tensor is None else total.to(tensor.dtype)
            for total, tensor in zip(sums, tensors, strict=True)
        )
        return None, None, *gradients


def _through(
    plan: _Plan, tensors: Sequence[torch.Tensor | None], weights: torch.Tensor | None, needs: tuple[bool, ...]
) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """Values of the tokens that count, and the gradients of their (weighted) sum, a chunk of tokens at a time."""
    sums = [_zeros(tensor) if need else None for tensor, need in zip(tensors, needs, strict=True)]
    student, teacher = _side(*tensors[:3], *sums[:3]), _side(*tensors[3:], *sums[3:])
    count = len(student.hidden) if plan.tokens is None else len(plan.tokens)
    rows = min(plan.chunk, max(count, 1))
    buffers = [side.weight.new_empty((rows, side.weight.shape[0])) for side in (teacher, student)]
    dtype = torch.float64 if torch.float64 in {buffer.dtype for buffer in buffers} else torch.float32
    values = torch.empty(count, dtype=dtype, device=student.hidden.device)
    # Under autocast the products below would change dtype.
    with torch.autocast(student.hidden.device.type, enabled=False):
        for start in range(0, count, rows):
            part = slice(start, min(start + rows, count))
            which = part if plan.tokens is None else plan.tokens[part]
            p_logits, q_logits = (
                _logits(side, which, buffer) for side, buffer in zip((teacher, student), buffers, strict=True)
            )
            swept = sweep(
                plan.generator, p_logits, q_logits, needs=(any(needs[3:]), any(needs[:3])),
                inverse_temperature=plan.scale, overwrite=True, names=NAMES,
            )  # fmt: skip
            values[part] = swept.values
            for side, gradient in ((teacher, swept.p_gradient), (student, swept.q_gradient)):
                if gradient is not None:
                    _accumulate(side, which, gradient, None if weights is None else weights[part])
    return values, tuple(sums)


def _side(hidden: torch.Tensor | None, weight: torch.Tensor | None, *rest: torch.Tensor | None) -> _Side:
    assert hidden is not None and weight is not None
    return _Side(hidden, weight, *rest)


def _zeros(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Where a gradient is summed, in float32 at least."""
    if tensor is None:
        return None
    dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
    return torch.zeros(tensor.shape, dtype=dtype, device=tensor.device)


def _logits(side: _Side, which: slice | torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    hidden = side.hidden[which].to(side.weight.dtype)
    logits = torch.mm(hidden, side.weight.T, out=buffer[: len(hidden)])
    return logits if side.bias is None else logits.add_(side.bias)


def _accumulate(side: _Side, which: slice | torch.Tensor, gradient: torch.Tensor, weights: torch.Tensor | None) -> None:
    """Add a chunk's share. The tokens' weights are multiplied into the small matrices, not into the logits'."""
    if side.hidden_sum is not None:
        share = torch.mm(gradient, side.weight)
        side.hidden_sum[which] = (share if weights is None else share * weights).to(side.hidden_sum.dtype)
    if side.weight_sum is not None:
        hidden = side.hidden[which]
        hidden = (hidden if weights is None else hidden * weights).to(gradient.dtype)
        if side.weight_sum.dtype == gradient.dtype:
            side.weight_sum.addmm_(gradient.T, hidden)
        else:
            for start in range(0, len(side.weight_sum), ROWS_OF_HALF):
                block = slice(start, start + ROWS_OF_HALF)
                side.weight_sum[block] += gradient[:, block].T @ hidden
    if side.bias_sum is not None:
        weighted = gradient if weights is None else gradient * weights
        side.bias_sum.add_(weighted.sum(0, dtype=side.bias_sum.dtype))
