"""What AdaLoRA's claims measure: a small network must become another, which differs from it in one layer or in all."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism import Paired
from porism.testbeds import torch_generator
from porism_plugins.peft._adalora_method import adalora
from porism_plugins.peft._budget import Criterion, RankBudget
from porism_plugins.peft._engine import Adapter, adapt, adapters
from porism_plugins.peft._sensitivity import Layout, Magnitude, State, UpperConfidence
from porism_plugins.peft._svd import SVDLinear, penalty

WIDTH, DEPTH, CHANGED, CHANGE_RANK = 32, 4, 2, 5
STEPS, BATCH, NOISE = 300, 64, 0.05
# Of Adam, and of the penalty: the best on 3 seeds that no claim uses, of 0.003, 0.01, 0.03 and of 0.001, 0.01, 0.1.
LEARNING_RATE, GAMMA = {"adalora": 0.01, "lora": 0.01}, 0.001
Where = Literal["one layer", "all layers"]
Look = Callable[[RankBudget], None]
Score = Literal["upper confidence", "importance", "magnitude", "random"]


class LoRALinear(Adapter):
    """The rival: ``W + lora_B lora_A`` of a rank for good, B zero and A uniform at the start, as in peft."""

    def __init__(self, base: nn.Module, rank: int, generator: torch.Generator) -> None:
        super().__init__(base)
        bound = self.in_features**-0.5
        self.lora_A = nn.Parameter(torch.empty(rank, self.in_features).uniform_(-bound, bound, generator=generator))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank))

    def delta(self) -> Tensor:
        """The increment."""
        return self.lora_B @ self.lora_A


@dataclasses.dataclass
class Random:
    """A score that knows nothing: the control of every claim on where the budget goes."""

    generator: torch.Generator
    scores: Tensor | None = None

    def update(self, weights: Tensor, gradients: Tensor, state: State) -> None:
        """Nothing to do."""

    def score(self, layout: Layout, weights: Tensor, state: State) -> Tensor:
        """The same draw at every mask, so that the kept triplets train as long as others."""
        if self.scores is None:
            self.scores = torch.rand(layout.triplets, generator=self.generator)
        return self.scores


class Task(NamedTuple):
    """A network, inputs (steps, batch, width) with noisy targets to learn from, and 2000 with clean ones to test on."""

    start: nn.Sequential
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


@torch.no_grad()
def task(rng: np.random.Generator, where: Where = "one layer", steps: int = STEPS) -> Task:
    """A ReLU network of four layers of 32, and another that it must become.

    In ``"one layer"`` the third differs, by five singular values of 1; in ``"all layers"`` each, by two of equal total
    energy.
    """
    generator = torch_generator(rng)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layer = nn.Linear(WIDTH, WIDTH, bias=False, device="meta").to_empty(device="cpu")
        layer.weight.copy_(normal(WIDTH, WIDTH) * math.sqrt(2 / WIDTH))
        layers += [layer, nn.ReLU()]
    start = nn.Sequential(*layers[:-1])
    teacher = copy.deepcopy(start)
    changes = {CHANGED: (CHANGE_RANK, 1.0)} if where == "one layer" else dict.fromkeys(
        range(DEPTH), (2, math.sqrt(CHANGE_RANK / (2 * DEPTH)))
    )  # fmt: skip
    for number, (rank, size) in changes.items():
        left, right = (torch.linalg.qr(normal(WIDTH, rank)).Q for _ in range(2))
        teacher[2 * number].weight.add_(size * left @ right.T)  # type: ignore[operator, union-attr]
    x, x_test = normal(steps, BATCH, WIDTH), normal(2000, WIDTH)
    y = teacher(x)
    return Task(start, x, y + NOISE * normal(*y.shape), x_test, teacher(x_test))


def criterion(score: Score, rng: np.random.Generator) -> Criterion:
    """By name."""
    if score == "random":
        return Random(torch_generator(copy.deepcopy(rng)))
    return Magnitude() if score == "magnitude" else UpperConfidence(beta2=1.0 if score == "importance" else 0.85)


def trained_adalora(
    task: Task, rng: np.random.Generator, *, total: int, rank: int = 6, score: Score = "upper confidence",
    gamma: float = GAMMA, lr: float = LEARNING_RATE["adalora"], look: Look | None = None,
) -> tuple[nn.Module, RankBudget]:  # fmt: skip
    """AdaLoRA from ``rank`` triplets a layer to ``total`` over all, a tenth of the steps before and half after."""
    seed = int(copy.deepcopy(rng).integers(2**31))
    model = adalora(task.start, rank=rank, target_rank=1, alpha=rank, seed=seed, exclude=[])
    budget = RankBudget(model, total_steps=len(task.x), budget=total, interval=5, criterion=criterion(score, rng))
    _train(model, task, lr, gamma=gamma, budget=budget, look=look)
    return model, budget


def trained_lora(
    task: Task, rng: np.random.Generator, *, rank: int, lr: float = LEARNING_RATE["lora"]
) -> nn.Module:  # fmt: skip
    """LoRA of one rank in every layer."""
    generator = torch_generator(copy.deepcopy(rng))
    model = adapt(task.start, lambda _, layer: LoRALinear(layer, rank, generator), exclude=[])
    return _train(model, task, lr)


def _train(
    model: nn.Module,
    task: Task,
    lr: float,
    *,
    gamma: float = 0.0,
    budget: RankBudget | None = None,
    look: Look | None = None,
) -> nn.Module:
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=lr, fused=True)
    for x, y in zip(task.x, task.y, strict=True):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        (loss + penalty(model, weight=gamma) if gamma else loss).backward()
        optimizer.step()
        if budget is not None:
            budget.step()
            if look is not None:
                look(budget)
    return model


@torch.no_grad()
def log_error(model: nn.Module, task: Task) -> float:
    """Logarithm of the mean squared error on clean targets."""
    return math.log(float(F.mse_loss(model(task.x_test), task.y_test)))


def ranks(rng: np.random.Generator, score: Score, *, total: int = 8) -> list[int]:
    """Of each layer at the end, where one layer must change."""
    _, budget = trained_adalora(task(rng), rng, total=total, score=score)
    return list(budget.ranks().values())


def errors(rng: np.random.Generator, where: Where, score: Score, *, total: int = 8) -> tuple[float, float]:
    """Log errors of AdaLoRA and of LoRA with as many triplets in all, evenly spread."""
    one = task(rng, where)
    ours, _ = trained_adalora(one, rng, total=total, score=score)
    return log_error(ours, one), log_error(trained_lora(one, rng, rank=total // DEPTH), one)


def singular_vectors(model: nn.Module) -> float:
    """Mean over layers of ||P'P - I||_F and ||QQ' - I||_F."""
    return float(penalty(model, weight=1.0, form="mean").detach())


def spectrum_error(model: nn.Module) -> float:
    """Largest relative distance of the increment's singular values from sorted scale * |lambda|, over layers."""
    worst = 0.0
    for layer in adapters(model).values():
        assert isinstance(layer, SVDLinear)
        claimed = (layer.scale * layer.lora_E.detach().abs()).flatten().sort(descending=True).values
        actual = torch.linalg.svdvals(layer.delta().detach())[: len(claimed)]
        if claimed.any():
            worst = max(worst, float((actual - claimed).abs().max() / actual[0]))
    return worst


def penalty_margin(rng: np.random.Generator, gamma: float) -> float:
    """By how much, relative to its threshold, the worse of the two holds: a fifth of the distance, and 10 %."""
    one = task(rng)
    (ours, _), (without, _) = (trained_adalora(one, rng, total=8, gamma=g) for g in (gamma, 0.0))
    ratio, error = singular_vectors(ours) / singular_vectors(without), spectrum_error(ours)
    return min(1 - 5 * ratio, 1 - error / 0.1)


def against(rng: np.random.Generator, ours: dict[str, Any], theirs: dict[str, Any]) -> Paired:
    """Log errors of two variants of AdaLoRA with 8 triplets, where one layer must change."""
    one = task(rng)
    first, second = (log_error(trained_adalora(one, rng, total=8, **options)[0], one) for options in (ours, theirs))
    return Paired(first, second, "lower")
