"""What the claims of HomoDistil that hold always measure: counts, relabelling, removal, and a start without a task."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.testbeds import mlp
from porism_plugins.distill._engine import Distillation, Logits, States, Task
from porism_plugins.distill._homodistil_method import gap
from porism_plugins.distill._homodistil_path import Homotopy, Scope, sensitivity

INPUTS, CLASSES = 5, 3


def counts(
    rng: np.random.Generator, *, hidden: int, other: int, width: float, interval: int, scope: Scope
) -> float:  # fmt: skip
    """Half a neuron less the largest distance of a block from its target after any of 30 steps."""
    steps, begin, end = 30, 3, 21
    model = mlp((INPUTS, hidden, other, CLASSES), rng)
    path = Homotopy(model, width=width, total_steps=steps, begin=0.1, end=0.7, interval=interval, scope=scope)
    share, final, worst = 1.0, Fraction(repr(width)), 0
    for step in range(1, steps + 1):
        for parameter in model.parameters():
            parameter.grad = torch.from_numpy(rng.normal(size=parameter.shape)).float()
        path.observe()
        path.narrow()
        if begin < step < end and (step - begin) % interval == 0:
            share = width + (1 - width) * (1 - (step - begin) / (end - begin)) ** 3
        targets = [math.ceil((final if step >= end else Fraction(repr(share))) * size) for size in (hidden, other)]
        found = [model[0].out_features, model[2].out_features]
        worst = max(worst, *(abs(f - t) for f, t in zip(found, targets, strict=True)))
    return 0.5 - worst


def relabelling(
    rng: np.random.Generator, *, hidden: int, width: float, score: Literal["sensitivity", "position"]
) -> float:  # fmt: skip
    """1e-9 less the difference between students of a network and of the same one with its neurons in another order."""
    model, data = mlp((INPUTS, hidden, CLASSES), rng).double(), batches(rng)
    order = torch.from_numpy(rng.permutation(hidden))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight[order]), other[0].bias.copy_(model[0].bias[order])
        other[2].weight.copy_(model[2].weight[:, order])
    of = sensitivity if score == "sensitivity" else _position
    outputs = [trained(each, data, width=width, score=of)(data[0][0]) for each in (model, other)]
    return 1e-9 - float((outputs[0] - outputs[1]).detach().abs().max())


def removal(
    rng: np.random.Generator, *, hidden: int, width: float, moments: Literal["kept", "forgotten"]
) -> float:  # fmt: skip
    """1e-9 less the difference between neurons taken out and neurons masked in the forward pass, both trained."""
    model, data = mlp((INPUTS, hidden, CLASSES), rng).double(), batches(rng)
    masked = masked_training(copy.deepcopy(model), data, width=width)
    removed = trained(model, data, width=width, forget=moments == "forgotten")
    return 1e-9 - float((removed(data[0][0]) - masked).detach().abs().max())


def without_task(rng: np.random.Generator, *, hidden: int, task: float) -> float:
    """1e-12 less the largest score at the start, and less the gap after some steps, at full width."""
    teacher, data = mlp((INPUTS, hidden, CLASSES), rng).double(), batches(rng)
    student = copy.deepcopy(teacher)
    terms = [Task(task), Logits(), States(["1"], ["1"])]
    distillation = Distillation(student, teacher, terms, example=data[0][0])
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    path = Homotopy(student, width=1.0, total_steps=len(data), smoothing=0.0)
    largest = 0.0
    for x, y in data:
        optimizer.zero_grad()
        distillation(x, labels=y).loss.backward()
        path.observe()
        largest = max(largest, *(float(scores.max()) for scores in path.scores.values()))
        optimizer.step()
    return 1e-12 - max(largest, gap(student, teacher, data[0][0]))


def batches(rng: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
    """Twelve of eight samples."""
    return [(torch.from_numpy(rng.normal(size=(8, INPUTS))), torch.from_numpy(rng.integers(CLASSES, size=8)))
            for _ in range(12)]  # fmt: skip


def trained(
    model: nn.Module, data: list[tuple[Tensor, Tensor]], *, width: float,
    score: Callable[[nn.Parameter], Tensor] = sensitivity, forget: bool = False,
) -> nn.Module:  # fmt: skip
    """A network narrowed while it is trained by Adam on the labels; ``forget`` clears the optimiser as neurons go."""
    path = Homotopy(model, width=width, total_steps=len(data), begin=0.2, end=0.7, interval=2, score=score)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        path.observe()
        optimizer.step()
        before = path.width
        path.narrow(optimizer)
        if forget and path.width < before:
            optimizer.state.clear()
    return model


def masked_training(model: nn.Module, data: list[tuple[Tensor, Tensor]], *, width: float) -> Tensor:
    """Outputs on the first batch of a network trained alike, whose neurons are multiplied by a mask."""
    first, second = model[0], model[2]
    mask = torch.ones(first.out_features, dtype=torch.float64)
    score = torch.zeros_like(mask)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    begin, end = round(0.2 * len(data)), round(0.7 * len(data))
    for step, (x, y) in zip(itertools.count(1), data, strict=False):
        optimizer.zero_grad()
        F.cross_entropy(second(first(x).relu() * mask), y).backward()
        products = [(p * p.grad).abs().detach() for p in (first.weight, first.bias, second.weight)]
        score = 0.85 * score + 0.15 * (products[0].sum(1) + products[1] + products[2].sum(0))
        optimizer.step()
        if step >= end or (step > begin and (step - begin) % 2 == 0):
            share = width if step >= end else width + (1 - width) * (1 - (step - begin) / (end - begin)) ** 3
            kept = math.ceil(Fraction(repr(share)) * len(mask))
            alive = torch.where(mask > 0, score, -1.0)
            mask = torch.zeros_like(mask).index_fill(0, alive.argsort(descending=True, stable=True)[:kept], 1.0)
    return second(first(data[0][0]).relu() * mask).detach()


def _position(parameter: nn.Parameter) -> Tensor:
    """A score that looks at the place of an entry only."""
    return torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape)
