"""Layer-wise distillation of a model into its mixture of experts: hidden states, and symmetric KL of the outputs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.divergences import jeffreys_divergence_logits
from porism.errors import ParameterError
from porism.surgery import evaluating
from porism_plugins.moe._engine import auxiliary_loss
from porism_plugins.moe._moebert_sites import Site
from porism_plugins.moe._moebert_split import Loss


@contextlib.contextmanager
def watched(model: nn.Module, found: Mapping[str, Site]) -> Iterator[dict[str, Tensor]]:
    """Collect what flows into the first network and out of each block, and the logits; the hooks go at the end."""
    states: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            states[name] = output[0] if isinstance(output, tuple | list) else output

        return look

    def first_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        states["embedding"] = inputs[0]

    def logits(module: nn.Module, inputs: Any, output: Any) -> None:
        states["logits"] = getattr(output, "logits", output)

    with contextlib.ExitStack() as stack:
        for name, site in found.items():
            stack.callback(model.get_submodule(site.block).register_forward_hook(keep(name)).remove)
        entry = model.get_submodule(next(iter(found.values())).entry)
        stack.callback(entry.register_forward_pre_hook(first_input).remove)
        stack.callback(model.register_forward_hook(logits).remove)
        yield states


def distance(student: dict[str, Tensor], teacher: dict[str, Tensor], *, layerwise: bool = True) -> Tensor:
    """Sum over layers of the mean squared difference of hidden states, plus half the symmetric KL of the logits.

    ``layerwise=False`` leaves the hidden states out. Outputs of one column are regressions, compared by their squared
    difference. All in float32 at least.
    """
    logits, theirs = student["logits"], teacher["logits"]
    if logits.shape[-1] == 1:
        total = F.mse_loss(_wide(logits), _wide(theirs))
    else:
        total = jeffreys_divergence_logits(_wide(theirs), _wide(logits)).mean() / 2
    if layerwise:
        for name in student.keys() - {"logits"}:
            total = total + F.mse_loss(_wide(student[name]), _wide(teacher[name]))
    return total


def distil(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Any], found: Mapping[str, Site], *, steps: int,
    learning_rate: float, weight: float, layerwise: bool = True, loss: Loss, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Train the student in place by Adam, its rate falling linearly to 0: task loss, distance, the routers' losses.

    ``found`` are the networks of the teacher, whose blocks stand at the same names in the student. The batches are used
    over and over in their order. Modules train and are put back to their own mode; torch's global generators are left
    as they were.

    Returns
    -------
    ndarray of shape (steps,)
        The loss of each step.

    Raises
    ------
    ParameterError
        For no batch, or a loss that is not finite.
    """
    kept = list(batches)
    if not kept:
        raise ParameterError("calibration batches are empty; give at least one")
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    devices = sorted({p.device.index for p in trained if p.is_cuda})
    losses = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(evaluating(student))
        stack.enter_context(evaluating(teacher))
        ours = stack.enter_context(watched(student, found))
        theirs = stack.enter_context(watched(teacher, found))
        student.train()
        torch.manual_seed(seed)
        for step, batch in enumerate(itertools.islice(itertools.cycle(kept), steps)):
            value = loss(student, batch) + auxiliary_loss(student)
            if weight:
                with torch.no_grad():
                    loss(teacher, batch)
                value = value + weight * distance(ours, theirs, layerwise=layerwise)
            if not bool(value.isfinite()):
                raise ParameterError(f"calibration: the loss is {value.item()} at step {step}")
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            rate.step()
            losses.append(value.detach())
    optimizer.zero_grad()
    return torch.stack(losses).double().cpu().numpy()


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
