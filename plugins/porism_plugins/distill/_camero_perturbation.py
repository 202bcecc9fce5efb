"""What is added to a model's embeddings, or to its input: Gaussian noise, or a direction that moves the prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism_plugins.distill._consistency import disagreement

Delta = Tensor | float | Callable[[Tensor], Tensor]
TINY = 1e-6
PROBE = 1e-2  # of the root mean square of what is perturbed


class Perturbed:
    """A pass through a model, with the perturbation that was set for it added where it belongs.

    Parameters
    ----------
    model
        Any module.
    where
        Name of the submodule whose output is perturbed, ``""`` for the model's first argument.
    """

    def __init__(self, model: nn.Module, where: str) -> None:
        self.model, self.where, self.seen = model, where, torch.empty(0)

    @contextlib.contextmanager
    def by(self, delta: Delta) -> Iterator[None]:
        """While this lasts, ``delta``, or what it makes of the embeddings, is added; ``seen`` is to what, detached."""
        if self.where:
            module = self.model.get_submodule(self.where)
            handle = module.register_forward_hook(lambda module, args, output: self._add(output, delta))
        else:
            handle = self.model.register_forward_pre_hook(
                lambda module, args: (self._add(args[0] if args else None, delta), *args[1:])
            )
        try:
            yield
        finally:
            handle.remove()

    def _add(self, x: Any, delta: Delta) -> Tensor:
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            place = f"the output of {self.where!r}" if self.where else "the model's first positional argument"
            raise ParameterError(f"{place} is no tensor of floats; name in embeddings= the submodule to perturb")
        self.seen = x.detach()
        return x + (delta(self.seen) if callable(delta) else delta)


def size(x: Tensor, strength: float) -> Tensor:
    """``strength`` times the root mean square of each sample of x, shape (batch, 1, ...), float32."""
    axes = tuple(range(1, x.dim()))
    return strength * x.float().square().mean(axes, keepdim=True).sqrt()


def gaussian(x: Tensor, strength: float) -> Tensor:
    """Noise of the shape and dtype of x from torch's generator of its device; standard deviation :func:`size`."""
    return (torch.randn_like(x, dtype=torch.float32) * size(x, strength)).to(x.dtype)


def normalised(direction: Tensor) -> Tensor:
    """Each token's vector over its largest entry: below 1 in absolute value, and 0 where the vector is."""
    largest = direction.abs().amax(-1, keepdim=True)
    return direction / (largest + TINY * largest.amax().clamp_min(1e-30))


def adversarial(
    perturbed: Perturbed, predict: Callable[[], Tensor], *, strength: float, steps: int, divergence: str
) -> Tensor:
    """The perturbation, no entry above :func:`size`, that moves the prediction most, to first order.

    From a small random start the gradient of the divergence from the calm prediction gives the direction, as in virtual
    adversarial training; its entries are divided by the largest of their token.

    Parameters
    ----------
    perturbed
        What is perturbed, and where.
    predict
        Runs one pass and returns its logits, shape (batch, ..., C); must give the same numbers each time.
    strength
        In units of each sample's root mean square.
    steps
        Gradients taken, each from where the last one points.
    divergence
        By which the prediction moves.

    Returns
    -------
    Tensor
        Detached, of the shape and dtype of what is perturbed.
    """
    with torch.no_grad(), perturbed.by(0.0):
        calm = predict()
    x = perturbed.seen
    # Far enough to be seen in the dtype of x, near enough for the direction to be that of the steepest ascent.
    probe = size(x, max(PROBE, 8 * torch.finfo(x.dtype).eps))
    direction = torch.randn_like(x, dtype=torch.float32)
    for _ in range(steps):
        start = (probe * direction).requires_grad_()
        with torch.enable_grad(), perturbed.by(start.to(x.dtype)):
            (slope,) = torch.autograd.grad(disagreement(predict(), calm, divergence).sum(), start)
        direction = normalised(slope)
    return (size(x, strength) * direction).to(x.dtype)
