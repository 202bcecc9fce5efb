"""One sweep over rows of logits: the f-divergence of each row and the gradients to the logits, in chunks.

With ``p = softmax(x)``, ``q = softmax(y)`` and ``D = sum_k q_k f(p_k / q_k)``, a generator's perspective gives the
summand and the logarithmic slopes ``p_k dD/dp_k`` and ``q_k dD/dq_k``. The chain rule through a softmax is then

    dD/dy_k = q_slope_k - q_k sum_j q_slope_j        (and alike for x, with p)

so one exponential per element and side is enough, and the gradient is the only large allocation.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import array_api_compat.torch as xp
import torch

from porism.errors import ParameterError
from porism.kernels.memory import keep_freed_memory

if TYPE_CHECKING:
    from porism.divergences.generators import Generator

# Bytes of one buffer of a chunk for each thread: about ten are alive at a time and should stay in cache.
CHUNK_BYTES = 1 << 19
INFINITY = math.inf


class Swept(NamedTuple):
    """Values, one a row, and the gradients to the logits of the sides that were asked for."""

    values: torch.Tensor
    p_gradient: torch.Tensor | None
    q_gradient: torch.Tensor | None


def sweep(
    generator: Generator,
    p_logits: torch.Tensor,
    q_logits: torch.Tensor,
    *,
    needs: tuple[bool, bool],
    inverse_temperature: float = 1.0,
    overwrite: bool = False,
    names: tuple[str, str] = ("p_logits", "q_logits"),
) -> Swept:
    """Divergence of every row, and the gradients that are needed, by Triton on CUDA and by chunks elsewhere.

    Parameters
    ----------
    generator
        The f-divergence.
    p_logits, q_logits
        Unnormalised log-probabilities, shape ``(..., V)``, float16, bfloat16, float32 or float64; any strides.
    needs
        Which gradients to compute, (p side, q side).
    inverse_temperature
        Factor on both sides' logits.
    overwrite
        Write the gradients over the logits, which are lost then.
    names
        What errors call the two sides.

    Returns
    -------
    Swept
        Values of shape ``(...)`` in float32 (float64 if a side is), gradients in the dtype of their logits.

    Raises
    ------
    ParameterError
        If a row holds NaN or ``inf``, or nothing but ``-inf``. Triton's rows give NaN instead: to look at them
        would wait for the device.
    """
    sides = (p_logits, q_logits)
    dtype = torch.float64 if torch.float64 in (p_logits.dtype, q_logits.dtype) else torch.float32
    values = torch.empty((*p_logits.shape[:-1], 1), dtype=dtype, device=p_logits.device)
    gradients = [
        (side if overwrite else torch.empty(side.shape, dtype=side.dtype, device=side.device)) if need else None
        for side, need in zip(sides, needs, strict=True)
    ]
    rows = CHUNK_BYTES * torch.get_num_threads() // (p_logits.shape[-1] * dtype.itemsize)
    rows = max(1, min(rows, values.numel()))
    by_triton = p_logits.is_cuda and dtype == torch.float32 and _has_device_form(generator)
    if not p_logits.is_cuda:
        keep_freed_memory()
    work = None if by_triton else torch.empty((4, rows, p_logits.shape[-1]), dtype=dtype, device=p_logits.device)
    for x, y, value, *targets in _matrices([*sides, values, *gradients]):
        assert x is not None and y is not None and value is not None
        if work is None:
            from porism.kernels.triton_logits import sweep_rows

            sweep_rows(generator, inverse_temperature, x, y, value, *targets)
            continue
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            some = [None if target is None else target[part] for target in targets]
            _chunk(generator, names, inverse_temperature, x[part], y[part], value[part], some, work)
    return Swept(values.squeeze(-1), *gradients)


def _has_device_form(generator: Generator) -> bool:
    """Whether Triton is installed and the generator is one of the table."""
    if importlib.util.find_spec("triton") is None:
        return False
    from porism.kernels.triton_logits import device_form

    return device_form(generator) is not None


def _matrices(tensors: Sequence[torch.Tensor | None]) -> Iterator[Sequence[torch.Tensor | None]]:
    """The tensors with their leading axes merged: at once if all strides allow it, else piece by piece."""
    try:
        merged = [tensor if tensor is None else tensor.view(-1, tensor.shape[-1]) for tensor in tensors]
    except RuntimeError:
        length = next(tensor.shape[0] for tensor in tensors if tensor is not None)
        for i in range(length):
            yield from _matrices([tensor if tensor is None else tensor[i] for tensor in tensors])
    else:
        yield merged


def _chunk(
    generator: Generator,
    names: tuple[str, str],
    scale: float,
    x: torch.Tensor,
    y: torch.Tensor,
    values: torch.Tensor,
    gradients: Sequence[torch.Tensor | None],
    work: torch.Tensor,
) -> None:
    """Fill in the values and gradients of a few rows."""
    p, log_p, q, log_q = work[:, : len(x)]
    # Everything below is homogeneous in (p, q). Times a power of two near V, probabilities are near 1 and their
    # logarithms near 0, where float32 is three bits finer than near log(1/V).
    size = 2.0 ** round(math.log2(x.shape[-1]))
    _softmax(x, scale, size, p, log_p)
    _softmax(y, scale, size, q, log_q)
    term, *slopes = generator.perspective(log_p, log_q, p, q, xp)
    torch.sum(term, -1, keepdim=True, out=values).div_(size)
    totals = [
        None if gradient is None else slope.sum(-1, keepdim=True).div_(size)
        for slope, gradient in zip(slopes, gradients, strict=True)
    ]
    check = values
    for total in totals:
        check = check if total is None else check + total
    # Rare: infinite divergences, overflow, masked vocabularies. One number is looked at, not the chunk.
    rare = None
    if not math.isfinite(check.sum().item()):
        rare = ~torch.isfinite(check).squeeze(-1)
        exact = _exact(generator, names, x[rare], y[rare], scale)
    for slope, total, probability, scratch, gradient in zip(
        slopes, totals, (p, q), (log_p, log_q), gradients, strict=True
    ):
        if gradient is not None and total is not None:
            target = gradient if gradient.dtype == p.dtype else scratch
            torch.addcmul(slope, probability, total, value=-1, out=target).mul_(scale / size)
            if target is scratch:
                gradient.copy_(target)
    if rare is not None:
        for target_rows, rows in zip((values, *gradients), exact, strict=True):
            if target_rows is not None:
                target_rows[rare] = rows.to(target_rows.dtype)


def _softmax(
    logits: torch.Tensor, scale: float, size: float, probability: torch.Tensor, logarithm: torch.Tensor
) -> None:
    """``size * softmax(scale * logits)`` and its logarithm, for one exponential an element."""
    if logits.dtype != logarithm.dtype or scale != 1:
        logits = logarithm.copy_(logits).mul_(scale)
    top = logits.amax(-1, keepdim=True)
    torch.sub(logits, top, out=probability).exp_()
    total = probability.sum(-1, keepdim=True).div_(size)
    probability.div_(total)
    # Subtract log(sum(exp(logits)) / size) in two parts, so that large logits are not rounded.
    shift = top.double().add_(total.double().log_())
    coarse = shift.to(logarithm.dtype)
    torch.sub(logits, coarse, out=logarithm).sub_(shift.sub_(coarse).to(logarithm.dtype))


def _exact(
    generator: Generator, names: tuple[str, str], x: torch.Tensor, y: torch.Tensor, scale: float
) -> tuple[torch.Tensor, ...]:
    """Value and both gradients in float64, with the limits of f where a probability is zero.

    Where the value is infinite there is no gradient; zero stands in for it, so that a loss that leaves such rows
    out leaves them out of the gradient as well.
    """
    for name, logits in zip(names, (x, y), strict=True):
        if bool((torch.isnan(logits) | (logits == INFINITY)).any()):
            raise ParameterError(f"{name} must not contain NaN or inf")
        if bool((logits == -INFINITY).all(-1).any()):
            raise ParameterError(f"{name} has a row of -inf alone, which is no distribution")
    log_p, log_q = (torch.log_softmax(side.double() * scale, -1) for side in (x, y))
    p, q = log_p.exp(), log_q.exp()
    no_p, no_q = log_p == -INFINITY, log_q == -INFINITY
    either = no_p | no_q
    zero, one = torch.zeros_like(p), torch.ones_like(p)
    a, b = torch.where(either, zero, log_p), torch.where(either, zero, log_q)
    parts = generator.perspective(a, b, torch.where(either, one, p), torch.where(either, one, q), xp)
    # What is NaN now has both probabilities below the smallest float64.
    term, p_slope, q_slope = (torch.where(torch.isnan(part), zero, part) for part in parts)
    only_p, only_q = boundary_terms(generator, log_p, log_q)
    values = torch.where(either, only_p + only_q, term).sum(-1, keepdim=True)
    p_slope, q_slope = torch.where(either, only_p, p_slope), torch.where(either, only_q, q_slope)
    gradients = [
        torch.where(torch.isfinite(values), scale * (slope - probability * slope.sum(-1, keepdim=True)), zero)
        for slope, probability in ((p_slope, p), (q_slope, q))
    ]
    return values, *gradients


def boundary_terms(generator: Generator, log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``p f'(inf)`` where q alone is zero and ``q f(0)`` where p alone is zero, by -inf as logarithm; else 0."""
    no_p, no_q = log_p == -INFINITY, log_q == -INFINITY
    parts = []
    for logarithm, limit, alone in (
        (log_p, generator.slope_at_infinity, no_q & ~no_p),
        (log_q, generator.at_zero, no_p & ~no_q),
    ):
        # Infinity times a probability that underflows is infinity too: the true one is positive.
        part = torch.full_like(logarithm, limit) if limit == INFINITY else logarithm.exp() * limit
        parts.append(torch.where(alone, part, torch.zeros_like(part)))
    return parts[0], parts[1]
