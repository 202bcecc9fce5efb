"""Fine-tuning while a pruner looks on, so that a pruning paper is a function of a model and batches as well."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.surgery import call, evaluating
from porism_plugins.prune._engine import Pruner

Loss = Callable[[nn.Module, Any], Tensor]


def task_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a batch speaks of.

    Pairs ``(inputs, labels)`` give the cross-entropy. Mappings give what a transformers model returns as ``loss``; one
    without labels has its ``input_ids`` for labels, if the model takes labels.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        output = call(model, batch[0])
        return F.cross_entropy(getattr(output, "logits", output), batch[1])
    if isinstance(batch, Mapping):
        takes_labels = "labels" in inspect.signature(model.forward).parameters
        if "labels" not in batch and "input_ids" in batch and takes_labels:
            batch = {**batch, "labels": batch["input_ids"]}
        loss = getattr(call(model, batch), "loss", None)
        if loss is not None:
            return loss
    raise ParameterError("calibration: give pairs (inputs, labels), mappings with labels, or say how by loss=")


def finetune(
    model: nn.Module, calibration: Iterable[Any], pruner: Pruner, *, loss: Loss = task_loss, learning_rate: float,
    seed: int = 0,
) -> nn.Module:  # fmt: skip
    """Train with Adamax for the pruner's steps, the batches over and over in their order, and return the pruned model.

    Modules train and are put back to their own mode; torch's global generators are left as they were.

    Raises
    ------
    ParameterError
        If there is no batch, or a loss is not finite.
    """
    batches = list(calibration)
    if not batches:
        raise ParameterError("calibration batches are empty; give at least one")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adamax(trained, lr=learning_rate)
    devices = sorted({parameter.device.index for parameter in trained if parameter.is_cuda})
    with torch.random.fork_rng(devices=devices), evaluating(model):  # which puts each module's own mode back
        model.train()
        torch.manual_seed(seed)
        for batch in itertools.islice(itertools.cycle(batches), pruner.total_steps - pruner.steps):
            optimizer.zero_grad()
            value = loss(model, batch)
            if not bool(value.isfinite()):
                raise ParameterError(f"calibration: the loss is {value.item()} at step {pruner.steps}")
            value.backward()
            optimizer.step()
            pruner.step()
    optimizer.zero_grad()
    return pruner.finish()
