"""Margins of TED's claims that must hold always, each on small random models."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.testbeds import mlp, torch_generator
from porism_plugins.distill._engine import Distillation, Logits, States, Task
from porism_plugins.distill._layers import capturing
from porism_plugins.distill._ted_filters import FilterHeads, fit_filters, task_loss

LAYERS = ("1", "3")


class Tokens(nn.Module):
    """A layer on each position (B, T, width), that has padding."""

    def __init__(self, width: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.layer = mlp([width, width], rng)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.layer(x)


def problem(rng: np.random.Generator, rows: int = 12) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    """A student, a wider teacher, and a batch."""
    student, teacher = mlp([5, 6, 6, 3], rng), mlp([5, 9, 9, 3], rng)
    x, y = rng.normal(size=(rows, 5)), rng.integers(3, size=rows)
    return student, teacher, {"input": torch.from_numpy(x).float(), "labels": torch.from_numpy(y)}


def heads_of(model: nn.Module, batch: dict[str, Tensor], rng: np.random.Generator, width: int) -> FilterHeads:
    """Untaught filters and heads."""
    return FilterHeads(model, LAYERS, batch, width=width, generator=torch_generator(rng))


def largest(differences: Any) -> float:
    """The largest absolute entry of some tensors."""
    return max(float(one.detach().abs().max()) for one in differences)


def frozen(rng: np.random.Generator, *, width: int, steps: int, trained: str) -> float:
    """How little both stages move what they must leave alone."""
    student, teacher, batch = problem(rng)
    before = copy.deepcopy((student, teacher))
    filters = []
    for model in (student, teacher):
        heads = heads_of(model, batch, rng, width)
        if trained == "filters":
            fit_filters(heads, [batch], steps=steps, learning_rate=0.1)
        else:
            _fit_everything(model, heads, batch, steps)
        filters.append(list(heads.filters))
    moved = [a - b for ours, theirs in zip((student, teacher), before, strict=True)
             for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]  # fmt: skip
    fixed = copy.deepcopy(filters[1])
    distillation = Distillation(student, teacher, [Task(), States(LAYERS, LAYERS, *filters)])
    optimizer = torch.optim.AdamW(distillation.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        distillation(batch).loss.backward()
        optimizer.step()
    moved += [a - b for a, b in zip(teacher.parameters(), before[1].parameters(), strict=True)]
    moved += [a - b for ours, theirs in zip(filters[1], fixed, strict=True)
              for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]  # fmt: skip
    return 1e-12 - largest(moved)


def _fit_everything(model: nn.Module, heads: FilterHeads, batch: dict[str, Tensor], steps: int) -> None:
    optimizer = torch.optim.AdamW([*heads.parameters(), *model.parameters()], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        with capturing(model, LAYERS) as found:
            model(batch["input"])
        sum(_loss(heads, found[name], batch, k) for k, name in enumerate(LAYERS)).backward()
        optimizer.step()


def _loss(heads: FilterHeads, state: Tensor, batch: dict[str, Tensor], k: int) -> Tensor:
    return task_loss(heads.heads[k](heads.filters[k](state)), batch["labels"], shift=False)


def separate(rng: np.random.Generator, *, width: int, factor: Literal["K", "1"]) -> float:
    """How near a filter's gradient in joint training, times K, is to that of training it alone."""
    _, teacher, batch = problem(rng)
    heads = heads_of(teacher, batch, rng, width)
    states, _ = heads.read(batch)
    joint = torch.autograd.grad(heads(**batch).loss, list(heads.parameters()))
    times = len(LAYERS) if factor == "K" else 1
    alone = [
        gradient
        for modules in (heads.filters, heads.heads)  # in the order of heads.parameters()
        for k, module in enumerate(modules)
        for gradient in torch.autograd.grad(_loss(heads, states[k], batch, k), list(module.parameters()))
    ]
    return 1e-5 - largest(times * a - b for a, b in zip(joint, alone, strict=True))


def reduces_to_kd(rng: np.random.Generator, *, temperature: float, weight: float) -> float:
    """How near the student's gradient is to that of cross-entropy and KL written by hand."""
    student, teacher, batch = problem(rng)
    filters = [list(heads_of(model, batch, rng, 4).filters) for model in (student, teacher)]
    terms = [Task(), Logits(temperature=temperature), States(LAYERS, LAYERS, *filters, weight=weight)]
    moving = list(student.parameters())
    ours = torch.autograd.grad(Distillation(student, teacher, terms)(batch).loss, moving)
    logits, target = student(batch["input"]), teacher(batch["input"]).detach()
    q = (target / temperature).softmax(-1)
    soft = F.cross_entropy(logits / temperature, q)  # KL but for the entropy of q, a constant
    theirs = torch.autograd.grad(F.cross_entropy(logits, batch["labels"]) + temperature**2 * soft, moving)
    return 1e-4 - largest(a - b for a, b in zip(ours, theirs, strict=True))


def padding(rng: np.random.Generator, *, width: int, length: int, scale: float, mask: str | None) -> float:
    """How little the layer term changes with what stands at padding."""
    student, teacher = Tokens(width, rng), Tokens(width, rng)
    x = torch.from_numpy(rng.normal(size=(3, length, width))).float()
    kept = (torch.arange(length) < torch.tensor([[length], [length - 1], [1]])).long()
    other = torch.where(kept[..., None] == 1, x, x + scale)
    distillation = Distillation(student, teacher, [States(["layer"], ["layer"], mask=mask)])
    values = [distillation(x=one, attention_mask=kept).loss.detach() for one in (x, other)]
    return 1e-6 - float((values[0] - values[1]).abs())


def same_models(rng: np.random.Generator, *, width: int, filters: Literal["same", "other"]) -> float:
    """How near 0 the loss is where student and teacher, and their filters, are the same."""
    _, teacher, batch = problem(rng)
    first = list(heads_of(teacher, batch, rng, width).filters)
    second = copy.deepcopy(first) if filters == "same" else list(heads_of(teacher, batch, rng, width).filters)
    terms = [Logits(temperature=2.0), States(LAYERS, LAYERS, first, second)]
    return 1e-6 - float(Distillation(copy.deepcopy(teacher), teacher, terms)(batch).loss.detach().abs())
