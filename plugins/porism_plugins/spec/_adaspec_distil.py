"""Distilling a draft of one's own target, with a reference trained on the way where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import evaluating
from porism_plugins.spec._adaspec_loss import IGNORED, AdaSPECLoss, Average

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Distilled(NamedTuple):
    """The ``reference`` that was used, and what each step's loss was, float64: the draft's and the reference's own."""

    reference: nn.Module
    losses: np.ndarray
    reference_losses: np.ndarray


def distil_draft(
    draft: Any,
    target: Any,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    reference: Any = None,
    kept: float = 0.4,
    average: Average = "kept",
    epochs: int = 1,
    learning_rate: float = 1e-4,
    optimizer: Optimizer | None = None,
) -> Distilled:
    """Train a draft for speculative decoding on the tokens that are worth it; the draft is changed in place.

    Parameters
    ----------
    draft, target
        Causal language models of transformers with one vocabulary, on any devices. The target is run without gradient
        in evaluation mode; nothing of it moves.
    batches
        Each with ``input_ids`` (B, T) and, if any, ``attention_mask`` and ``labels`` as transformers has them (-100 at
        what does not count; nothing is shifted). Without labels every token that the mask does not leave out counts.
        They are kept in a list, as both trainings and every epoch see them, in this order.
    reference
        A model like the draft, distilled already; None: a copy of the draft, distilled here on all tokens over the same
        batches, which takes as many steps again.
    kept, average
        As in :class:`AdaSPECLoss`.
    epochs
        Times that the batches are seen, at least 1.
    learning_rate
        Of AdamW.
    optimizer
        Instead of that, a function from parameters to an optimiser: ``functools.partial(torch.optim.SGD, lr=0.1)``.

    Returns
    -------
    Distilled
        The reference, which serves another run with another ``kept``, and losses of shape (steps,).

    Raises
    ------
    ParameterError
        For options out of range, no batches, batches of which nothing is to be learned, models of unlike vocabularies,
        and logits that are NaN or infinite.
    """
    Parameter("epochs", int, 1, low=1).validate(epochs)
    Parameter("learning_rate", float, 1e-4, low=0.0, low_open=True).validate(learning_rate)
    loss, everything = AdaSPECLoss(kept, average=average), AdaSPECLoss(1.0)
    seen = [_prepared(batch) for batch in batches]
    if not any(bool((labels != IGNORED).any()) for _, labels in seen):
        raise ParameterError("batches must have at least one token that counts, got none")
    make: Optimizer = optimizer or (lambda parameters: torch.optim.AdamW(parameters, lr=learning_rate))
    plan = seen * epochs
    before = np.empty(0)
    with evaluating(target):
        if reference is None:
            reference = copy.deepcopy(draft)
            before = _trained(reference, target, None, plan, everything, make(_moving(reference)))
        with evaluating(reference):
            losses = _trained(draft, target, reference, plan, loss, make(_moving(draft)))
    return Distilled(reference, losses, before)


def _trained(
    draft: Any, target: Any, reference: Any, plan: list[tuple[dict[str, Tensor], Tensor]], loss: AdaSPECLoss,
    optimizer: torch.optim.Optimizer,
) -> np.ndarray:  # fmt: skip
    modes = {module: module.training for module in draft.modules()}
    draft.train()
    found = []
    try:
        for inputs, labels in plan:
            ours = _next_logits(draft, inputs)
            with torch.no_grad():
                theirs = _next_logits(target, inputs).to(ours.device)
                goal = ours.detach() if reference is None else _next_logits(reference, inputs).to(ours.device)
            value = loss(ours, theirs, goal, labels.to(ours.device))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            found.append(value.detach())
    finally:
        for module, training in modes.items():
            module.training = training
    return torch.stack(found).double().cpu().numpy()


def _next_logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits of every position that has a token after it, shape (B, T - 1, V)."""
    device = next(model.parameters()).device
    logits: Tensor = model(**{name: tensor.to(device) for name, tensor in inputs.items()}, use_cache=False).logits
    return logits[:, :-1]


def _prepared(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """What models are called with, and the labels of :class:`AdaSPECLoss`: each position's is the token after it."""
    ids = batch.get("input_ids")
    if ids is None or ids.ndim != 2 or ids.shape[1] < 2:
        got = "none" if ids is None else tuple(ids.shape)
        raise ParameterError(f"batches must have input_ids of shape (B, T) with T at least 2, got {got}")
    mask = batch.get("attention_mask")
    labels = batch.get("labels")
    if labels is None:
        labels = ids if mask is None else ids.masked_fill(mask == 0, IGNORED)
    if labels.shape != ids.shape:
        raise ParameterError(f"labels must have the shape of input_ids, {tuple(ids.shape)}, got {tuple(labels.shape)}")
    inputs = {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
    return inputs, labels[:, 1:]


def _moving(model: nn.Module) -> list[nn.Parameter]:
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not moving:
        raise ParameterError("draft has no parameter that requires a gradient")
    return moving
