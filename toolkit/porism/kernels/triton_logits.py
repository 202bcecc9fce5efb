"""The sweep of :mod:`porism.kernels.sweep` as one Triton kernel: a program per row, three passes over its blocks.

The passes are the running log-sum-exp of both sides, then the sums of the summand and of the slopes, then the
gradients. The generator enters as a device function, a compile-time argument of the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from porism.divergences._table import FUNCTIONS
from porism.kernels import _triton_forms

if TYPE_CHECKING:
    from porism.divergences.generators import Generator

LARGEST_BLOCK = 8192
ELEMENTS_A_WARP = 512


@triton.jit  # type: ignore[untyped-decorator]
def _normaliser(logits, step, size, scale, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Largest scaled logit of a row and the sum of exp(logit - largest); NaN if there is no distribution."""
    top = -float("inf")
    total = 0.0
    for start in range(0, size, BLOCK):
        offsets = start + tl.arange(0, BLOCK).to(tl.int64)
        x = tl.load(logits + offsets * step, mask=offsets < size, other=-float("inf")).to(tl.float32) * scale
        higher = tl.maximum(top, tl.max(x, 0))
        # Nothing but -inf so far: any finite reference keeps -inf - reference from being NaN.
        reference = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(top - reference) + tl.sum(tl.exp(x - reference), 0)
        top = higher
    return top, tl.where(total > 0, total, float("nan"))


@triton.jit  # type: ignore[untyped-decorator]
def _parts(  # type: ignore[no-untyped-def]
    x, y, p_top, p_total, q_top, q_total, parameter, at_zero, at_infinity,
    FORM: tl.constexpr,
):  # fmt: skip
    """Probabilities, summand and slopes, with the limits of f where a logit is -inf."""
    no_p = x == -float("inf")
    no_q = y == -float("inf")
    log_p = x - p_top - tl.log(p_total)
    log_q = y - q_top - tl.log(q_total)
    p = tl.exp(x - p_top) / p_total
    q = tl.exp(y - q_top) / q_total
    either = no_p | no_q
    term, p_slope, q_slope = FORM(
        tl.where(either, 0.0, log_p), tl.where(either, 0.0, log_q), tl.where(either, 1.0, p), tl.where(either, 1.0, q),
        parameter,
    )  # fmt: skip
    # Infinity times a probability that underflows is infinity too: the true one is positive.
    only_p = tl.where(no_q & (no_p == 0), tl.where(at_infinity == float("inf"), at_infinity, p * at_infinity), 0.0)
    only_q = tl.where(no_p & (no_q == 0), tl.where(at_zero == float("inf"), at_zero, q * at_zero), 0.0)
    term = tl.where(either, only_p + only_q, term)
    return p, q, term, tl.where(either, only_p, p_slope), tl.where(either, only_q, q_slope)


@triton.jit  # type: ignore[untyped-decorator]
def sweep_kernel(  # type: ignore[no-untyped-def]
    p_logits, q_logits, values, p_gradient, q_gradient,
    p_row, p_step, q_row, q_step,
    p_gradient_row, p_gradient_step, q_gradient_row, q_gradient_step, size,
    scale, parameter, at_zero, at_infinity,
    FORM: tl.constexpr, NEED_P: tl.constexpr, NEED_Q: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Value of row ``program_id(0)`` and the gradients that are needed, which may lie over the logits."""
    row = tl.program_id(0).to(tl.int64)
    p_logits += row * p_row
    q_logits += row * q_row
    p_top, p_total = _normaliser(p_logits, p_step, size, scale, BLOCK)
    q_top, q_total = _normaliser(q_logits, q_step, size, scale, BLOCK)
    lanes = tl.arange(0, BLOCK).to(tl.int64)
    value = tl.zeros([BLOCK], tl.float32)
    p_sum = tl.zeros([BLOCK], tl.float32)
    q_sum = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        inside = start + lanes < size
        x = tl.load(p_logits + (start + lanes) * p_step, mask=inside, other=-float("inf")).to(tl.float32) * scale
        y = tl.load(q_logits + (start + lanes) * q_step, mask=inside, other=-float("inf")).to(tl.float32) * scale
        _p, _q, term, p_slope, q_slope = _parts(
            x, y, p_top, p_total, q_top, q_total, parameter, at_zero, at_infinity, FORM
        )
        value += term
        p_sum += p_slope
        q_sum += q_slope
    value_sum = tl.sum(value, 0)
    # A row of -inf alone has masked every summand above; its normaliser is NaN.
    value_sum = tl.where((p_total > 0) & (q_total > 0), value_sum, float("nan"))
    tl.store(values + row, value_sum)
    if NEED_P or NEED_Q:
        p_total_slope = tl.sum(p_sum, 0)
        q_total_slope = tl.sum(q_sum, 0)
        infinite = value_sum == float("inf")
        for start in range(0, size, BLOCK):
            inside = start + lanes < size
            x = tl.load(p_logits + (start + lanes) * p_step, mask=inside, other=-float("inf")).to(tl.float32) * scale
            y = tl.load(q_logits + (start + lanes) * q_step, mask=inside, other=-float("inf")).to(tl.float32) * scale
            p, q, term, p_slope, q_slope = _parts(
                x, y, p_top, p_total, q_top, q_total, parameter, at_zero, at_infinity, FORM
            )
            if NEED_P:
                to_p = tl.where(infinite, 0.0, (p_slope - p * p_total_slope) * scale)
                tl.store(p_gradient + row * p_gradient_row + (start + lanes) * p_gradient_step, to_p, mask=inside)
            if NEED_Q:
                to_q = tl.where(infinite, 0.0, (q_slope - q * q_total_slope) * scale)
                tl.store(q_gradient + row * q_gradient_row + (start + lanes) * q_gradient_step, to_q, mask=inside)


def device_form(generator: Generator) -> Any:
    """The device function of a generator of the table; None for a user's own."""
    if FUNCTIONS.get(generator.name) is not generator.functions:
        return None
    return getattr(_triton_forms, generator.name)


def sweep_rows(
    generator: Generator,
    scale: float,
    p_logits: torch.Tensor,
    q_logits: torch.Tensor,
    values: torch.Tensor,
    p_gradient: torch.Tensor | None,
    q_gradient: torch.Tensor | None,
) -> None:
    """Run the kernel over the rows of two matrices.

    Parameters
    ----------
    generator
        One that has a :func:`device_form`.
    scale
        Factor on all logits.
    p_logits, q_logits
        Shape (n, V); float16, bfloat16 or float32.
    values
        Shape (n, 1), float32, written.
    p_gradient, q_gradient
        Shape (n, V) in any of these dtypes, written; None where not needed. They may be the logits themselves.
    """
    rows, size = p_logits.shape
    if rows == 0:
        return
    block = min(triton.next_power_of_2(size), LARGEST_BLOCK)
    to_p = p_logits if p_gradient is None else p_gradient
    to_q = q_logits if q_gradient is None else q_gradient
    sweep_kernel[(rows,)](
        p_logits, q_logits, values, to_p, to_q,
        *p_logits.stride(), *q_logits.stride(), *to_p.stride(), *to_q.stride(), size,
        float(scale), next(iter(generator.parameters.values()), 0.0), generator.at_zero, generator.slope_at_infinity,
        FORM=device_form(generator), NEED_P=p_gradient is not None, NEED_Q=q_gradient is not None, BLOCK=block,
        num_warps=min(16, max(4, block // ELEMENTS_A_WARP)),
    )  # fmt: skip
