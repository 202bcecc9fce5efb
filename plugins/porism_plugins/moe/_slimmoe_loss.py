"""What a slimmed model learns from, and what its neurons are worth: the top-8 loss and gradient-times-weight scores."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.surgery import call, evaluating
from porism_plugins.moe._slimmoe_sites import Site, wide

# (student, teacher, batch) -> scalar
Objective = Callable[[nn.Module, nn.Module, Any], Tensor]


def top_distillation(student_logits: Tensor, teacher_logits: Tensor, *, top: int = 8) -> Tensor:
    """Mean cross-entropy of the student to the teacher's ``top`` likeliest classes, their probabilities renormalised.

    Parameters
    ----------
    student_logits, teacher_logits
        Shape (rows, classes).
    top
        From 1 on; with as many as there are classes it is the full cross-entropy to the teacher.

    Returns
    -------
    Tensor
        A scalar in nats, at least the entropy of the renormalised probabilities; computed in float32 at least.

    Raises
    ------
    ParameterError
        If the shapes differ, or ``top`` is below 1.

    Examples
    --------
    >>> top_distillation(torch.zeros(1, 4), torch.tensor([[9.0, 9.0, -9.0, -9.0]]), top=2).item()  # log 4
    1.3862943649291992
    """
    if student_logits.shape != teacher_logits.shape or student_logits.dim() != 2:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ParameterError(f"student and teacher must give logits of one shape (rows, classes), got {shapes}")
    if top < 1:
        raise ParameterError(f"top must be at least 1, got {top}")
    theirs, ours = (wide(logits) for logits in (teacher_logits, student_logits))
    kept, index = theirs.topk(min(top, theirs.shape[-1]), dim=-1)
    return -(kept.softmax(-1) * ours.log_softmax(-1).gather(-1, index)).sum(-1).mean()


def logits_of(model: nn.Module, batch: Any) -> Tensor:
    """Logits (rows, classes) of a model for what a batch holds beside labels, without positions of padding."""
    inputs, mask = batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        inputs = batch[0]
    elif isinstance(batch, Mapping):
        inputs, mask = {name: value for name, value in batch.items() if name != "labels"}, batch.get("attention_mask")
    output = call(model, inputs)
    logits: Tensor = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        raise ParameterError(f"model must return logits (..., classes) or an output with them, got {type(output)}")
    if mask is not None and logits.shape[:-1] == mask.shape:
        return logits[mask.bool()]
    return logits.reshape(-1, logits.shape[-1])


def distillation(top: int) -> Objective:
    """The paper's loss between two models on a batch."""

    def loss(student: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            theirs = logits_of(teacher, batch)
        return top_distillation(logits_of(student, batch), theirs, top=top)

    return loss


def own_labels(seed: int) -> Objective:
    """Cross-entropy to labels drawn from the teacher's own probabilities: what to score by while both coincide.

    Where the student is the teacher, KL has no gradient and the top-8 loss only that of its truncation. What removing a
    neuron costs is of second order there, half the Fisher information along its weights, and that is the mean square
    of this loss's gradient times weight: gradients of different positions are uncorrelated given their inputs.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def loss(student: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
        logits = wide(logits_of(student, batch))
        if logits.device not in generators:
            generators[logits.device] = torch.Generator(logits.device).manual_seed(seed)
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generators[logits.device])[:, 0]
        return F.cross_entropy(logits, labels)

    return loss


def scores(
    student: nn.Module, teacher: nn.Module, found: Mapping[str, Site], batches: Iterable[Any], loss: Objective
) -> dict[str, Tensor]:
    """Of every neuron the absolute sum of weight times gradient over its slices, averaged over batches.

    Both models evaluate meanwhile, and are left as they were.

    Returns
    -------
    dict
        Shape (experts, inner) by name, in float32 at least, from 0 on; 0 throughout for an expert without tokens.

    Raises
    ------
    ParameterError
        For no batch, a loss or scores that are not finite, and a layer that no gradient reaches.
    """
    tensors = [part.tensor for site in found.values() for part in site.parts]
    totals = {name: site.zeros() for name, site in found.items()}
    count = 0
    with contextlib.ExitStack() as stack:
        for context in (evaluating(teacher), evaluating(student), torch.enable_grad(), _trainable(tensors)):
            stack.enter_context(context)
        for batch in batches:
            value = finite(loss(student, teacher, batch), count)
            gradients = iter(torch.autograd.grad(value, tensors, allow_unused=True))
            for name, site in found.items():
                mine = [next(gradients) for _ in site.parts]
                if all(gradient is None for gradient in mine):
                    raise ParameterError(f"calibration: no gradient reaches {name} at batch {count}")
                products = [
                    torch.zeros_like(part.tensor) if gradient is None else wide(part.tensor.detach()) * wide(gradient)
                    for part, gradient in zip(site.parts, mine, strict=True)
                ]
                totals[name] += site.summed(products).abs()
            count += 1
    if not count:
        raise ParameterError("calibration batches are empty; give at least one")
    if bad := [name for name, total in totals.items() if not bool(total.isfinite().all())]:
        raise ParameterError(f"calibration: scores of {', '.join(bad[:12])} are not finite")
    return {name: total / count for name, total in totals.items()}


def finite(value: Tensor, step: int) -> Tensor:
    """The loss, or an error that names it."""
    if not bool(value.isfinite()):
        raise ParameterError(f"calibration: the loss is {value.item()} at batch {step}")
    return value


@contextlib.contextmanager
def _trainable(tensors: Iterable[nn.Parameter]) -> Any:
    """Gradients for these in the block, frozen ones as well."""
    frozen = [tensor for tensor in tensors if not tensor.requires_grad]
    for tensor in frozen:
        tensor.requires_grad_()
    try:
        yield
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)
