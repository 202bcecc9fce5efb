"""One trainer and measures of quality, for the tiny models and a user's own alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from porism import metrics
from porism.errors import ParameterError
from porism.parameters import validated
from porism.surgery import call, evaluating
from porism.testbeds.language import blocks


@validated
def train(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    steps: Annotated[int, Interval(ge=1, le=10_000_000)] = 800,
    learning_rate: Annotated[float, Interval(gt=0, le=1)] = 5e-3,
    weight_decay: Annotated[float, Interval(ge=0, le=1)] = 0.1,
    warmup: Annotated[float, Interval(ge=0, le=1)] = 0.1,
    clip: Annotated[float, Interval(gt=0, le=1e6)] = 1.0,
) -> np.ndarray:
    """Train by AdamW with a linear warm-up and a cosine down to zero; the model is changed in place.

    Parameters
    ----------
    model
        Its output must have a ``loss`` (in transformers: where labels are given). Only parameters that require a
        gradient move.
    batches
        What the model is called with, as in :func:`porism.surgery.call`; at least ``steps`` of them.
    steps
        Batches used.
    learning_rate
        At its peak.
    weight_decay
        On matrices; vectors (biases, norms) have none.
    warmup
        Share of the steps.
    clip
        Largest norm of a step's gradient.

    Returns
    -------
    ndarray of float64, shape (steps,)
        The loss of each batch, before its step. The model is in evaluation mode.

    Raises
    ------
    ParameterError
        If a value is out of its range, there are too few batches, nothing can be trained, or the loss becomes
        infinite or not a number.

    Examples
    --------
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    >>> model = BertForSequenceClassification(BertConfig(vocab_size=4, **size))
    >>> batch = {"input_ids": torch.tensor([[0, 1], [2, 3]]), "labels": torch.tensor([0, 1])}
    >>> losses = train(model, [batch] * 20, steps=20)
    >>> bool(losses[-1] < losses[0])
    True
    """
    moving = [p for p in model.parameters() if p.requires_grad]
    if not moving:
        raise ParameterError("model has no parameter that requires a gradient")
    matrices, vectors = [p for p in moving if p.dim() > 1], [p for p in moving if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_cosine(steps, warmup))
    losses: list[Tensor] = []
    model.train()
    for batch in itertools.islice(batches, steps):
        loss: Tensor = call(model, batch).loss
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(moving, clip)
        optimizer.step()
        rate.step()
        losses.append(loss.detach())
    model.eval()
    if len(losses) < steps:
        raise ParameterError(f"batches end after {len(losses)} of {steps} steps")
    found: np.ndarray = torch.stack(losses).double().cpu().numpy()
    if not np.isfinite(found).all():
        raise ParameterError(
            f"the loss is not finite from step {np.argmin(np.isfinite(found))} on; lower learning_rate"
        )
    return found


def _warmup_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    def factor(step: int) -> float:
        rise = (step + 1) / (warmup * steps) if warmup else 1.0
        return min(1.0, rise, (1 + math.cos(math.pi * step / steps)) / 2)

    return factor


def bits_per_character(model: nn.Module, tokens: np.ndarray, *, length: int = 128, batch: int = 32) -> float:
    """What a causal language model pays for each token of a text: mean of -log2 p(next token).

    Parameters
    ----------
    model
        Called with ``input_ids`` of shape (batch, length), gives ``logits`` of shape (batch, length, vocabulary).
        Run in evaluation mode on its own device; its mode is put back.
    tokens
        Integers of shape (n,). Cut into consecutive windows; the first token of each is given, the others predicted.
    length
        Tokens in a window, at least 2. Longer ones give more context.
    batch
        Windows at a time.

    Raises
    ------
    ParameterError
        If there are fewer than ``length`` tokens, or a size is out of range.
    """
    if length < 2 or batch < 1:
        raise ParameterError(f"length must be at least 2 and batch at least 1, got {length} and {batch}")
    total, count = 0.0, 0
    for rows, logits in _outputs(model, torch.as_tensor(blocks(tokens, length)), batch):
        nats = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="none")
        total += float(nats.double().sum())
        count += nats.numel()
    return total / count / math.log(2)


def perplexity(model: nn.Module, tokens: np.ndarray, *, length: int = 128, batch: int = 32) -> float:
    """Perplexity a token, 2 to the power of :func:`bits_per_character`, with the same arguments and errors."""
    return float(2.0 ** bits_per_character(model, tokens, length=length, batch=batch))


def accuracy(model: nn.Module, inputs: Any, labels: Any, *, batch: int = 256) -> float:
    """Fraction of inputs whose largest logit is that of their label.

    Parameters
    ----------
    model
        Called with a batch of inputs as its first argument, gives ``logits`` of shape (batch, classes). Run in
        evaluation mode on its own device; its mode is put back.
    inputs
        Array or tensor of shape (n, ...): windows of tokens, or images.
    labels
        Integers of shape (n,).

    Raises
    ------
    ParameterError
        If there is nothing to judge, or not a label for each input.
    """
    if batch < 1 or len(inputs) == 0:
        raise ParameterError(f"batch must be at least 1 and inputs not empty, got {batch} and {len(inputs)} inputs")
    predicted = [logits.argmax(-1).cpu() for _, logits in _outputs(model, torch.as_tensor(inputs), batch)]
    return float(metrics.accuracy(torch.cat(predicted), torch.as_tensor(labels).cpu()))


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Tensor, batch: int) -> list[tuple[Tensor, Tensor]]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with evaluating(model):
        return [(rows, model(rows).logits) for rows in torch.split(inputs.to(device), batch)]
