"""f-divergences between distributions given by logits, for vocabularies: fast, with analytic gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from porism.arrays import check_number
from porism.divergences.named import resolve
from porism.errors import ParameterError
from porism.kernels.sweep import sweep

if TYPE_CHECKING:
    from porism.divergences.generators import Generator


def divergence_logits(
    generator: Generator | str,
    p_logits: torch.Tensor,
    q_logits: torch.Tensor,
    *,
    temperature: float = 1.0,
) -> torch.Tensor:
    """D_f(softmax(p_logits) || softmax(q_logits)) over the last axis.

    Value and gradient come from one sweep over chunks of a few rows; the gradient is the only large allocation,
    and only sides that require one get it. On CUDA a Triton kernel does the sweep where Triton is installed
    and the generator is one of the table; a generator of the user's own takes the chunked path there.

    Parameters
    ----------
    generator
        An f-divergence, such as ``generator("kl")`` of :mod:`porism.divergences`, or its name.
    p_logits, q_logits
        Tensors of shape ``(..., V)`` on one device; float16, bfloat16, float32 or float64; leading axes broadcast.
        ``-inf`` masks an entry.
    temperature
        Positive; divides both sides' logits.

    Returns
    -------
    torch.Tensor
        Shape ``(...)``, float32 for logits of at most 32 bits, else float64. ``inf`` where an entry is masked on
        one side only and the generator's f(0) (p masked) or f'(inf) (q masked) is infinite; the gradient of such a
        row is zero, so that a loss which leaves the row out leaves it out of the gradient too. Gradients have
        the dtype of their logits. Second derivatives are not provided.

    Raises
    ------
    ParameterError
        For an unknown divergence, shapes, devices or dtypes that do not fit, a temperature that is not positive, NaN or
        ``inf`` among the logits, or a row of ``-inf`` alone (on CUDA such rows give NaN: looking would wait for the
        device).

    Notes
    -----
    The gradient to the logits of q is ``q_k (h_k - sum_j q_j h_j)`` with ``h = f(t) - t f'(t)`` at ``t = p/q``; for
    the logits of p, h is ``f'(t)`` and p takes the place of q (chain rule through a softmax).

    Examples
    --------
    >>> from porism.divergences.generators import generator
    >>> p_logits = torch.tensor([0.0, 0.0], dtype=torch.float64)
    >>> q_logits = torch.log(torch.tensor([0.25, 0.75], dtype=torch.float64)).requires_grad_()
    >>> value = divergence_logits(generator("kl"), p_logits, q_logits)
    >>> round(float(value), 6)  # log(2) - log(3) / 2 + ...
    0.143841
    >>> value.backward()
    >>> q_logits.grad
    tensor([-0.2500,  0.2500], dtype=torch.float64)
    """
    generator = resolve(generator, {})
    check_logits(p_logits=p_logits, q_logits=q_logits)
    p_logits, q_logits = broadcast(p_logits, q_logits)
    scale = inverse(temperature)
    if torch.is_grad_enabled() and (p_logits.requires_grad or q_logits.requires_grad):
        values: torch.Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
            generator, scale, p_logits, q_logits
        )
        return values
    return sweep(
        generator, p_logits.detach(), q_logits.detach(), needs=(False, False), inverse_temperature=scale
    ).values


def check_logits(**logits: torch.Tensor) -> None:
    """Raise :class:`ParameterError` unless these are floating tensors with a last axis, on one device."""
    for name, value in logits.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise ParameterError(f"{name} must be a torch tensor of floating dtype")
        if value.ndim == 0 or value.shape[-1] == 0:
            raise ParameterError(f"{name} must have logits along its last axis, its shape is {tuple(value.shape)}")
    devices = {name: str(value.device) for name, value in logits.items()}
    if len(set(devices.values())) > 1:
        raise ParameterError(" and ".join(f"{name} is on {device}" for name, device in devices.items()))


def broadcast(p_logits: torch.Tensor, q_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Broadcast leading axes; the last ones must agree."""
    shapes = f"p_logits has shape {tuple(p_logits.shape)} and q_logits {tuple(q_logits.shape)}"
    if p_logits.shape[-1] != q_logits.shape[-1]:
        raise ParameterError(f"{shapes}: their last axes must agree")
    try:
        p_logits, q_logits = torch.broadcast_tensors(p_logits, q_logits)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ParameterError(f"{shapes}: they do not broadcast") from None
    return p_logits, q_logits


def inverse(temperature: float) -> float:
    """One over a temperature, which must be positive and finite."""
    return 1 / check_number("temperature", temperature, above=0, below=float("inf"))


class _Divergence(torch.autograd.Function):
    """The sweep computes the gradient with the value; backward scales it in place."""

    @staticmethod
    def forward(
        ctx: Any, generator: Generator, scale: float, p_logits: torch.Tensor, q_logits: torch.Tensor
    ) -> torch.Tensor:
        swept = sweep(generator, p_logits, q_logits, needs=ctx.needs_input_grad[2:], inverse_temperature=scale)
        ctx.save_for_backward(p_logits, q_logits)
        ctx.generator, ctx.scale, ctx.gradients = generator, scale, swept[1:]
        return swept.values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[None, None, torch.Tensor | None, torch.Tensor | None]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward over a retained graph: the first one gave its buffers away
            logits = ctx.saved_tensors
            swept = sweep(ctx.generator, *logits, needs=ctx.needs_input_grad[2:], inverse_temperature=ctx.scale)
            gradients = swept[1:]
        # The usual upstream is 1, and a pass over the gradients is not free; on CUDA neither is the question.
        if upstream.is_cuda or not bool((upstream == 1).all()):
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(upstream.unsqueeze(-1))
        return None, None, *gradients
