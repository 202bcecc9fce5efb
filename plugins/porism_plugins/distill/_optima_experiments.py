"""What the claims and figures of OPTIMA measure: a regressor of three branches that matter unequally."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from porism.testbeds import mlp, torch_generator
from porism_plugins.distill._engine import Custom, Seen, Task
from porism_plugins.distill._optima_method import OPTIMA
from porism_plugins.distill._optima_worlds import Policy, policy

Choice = Literal["OPTIMA", "uniform", "round-robin", "all at once", "base only"]
IMPORTANCE, DOMINATED = (1.0, 0.5, 0.2), (1.0, 0.1, 0.1)
NAMES = ("first", "second", "third")
INPUTS, TEACHER, STUDENT = 6, 24, 12
DISCOUNT = 0.9
TRAIN, STEPS, ROUND, BATCH, RATE = 64, 160, 4, 32, 1e-2


class Branches(nn.Module):
    """Each branch reads inputs of its own; a linear map reads what all of them say, times their importance."""

    def __init__(self, width: int, importance: Sequence[float], rng: np.random.Generator) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {
                name: nn.Sequential(*mlp([INPUTS, width, width], rng), nn.ReLU(), Scale(value))
                for name, value in zip(NAMES, importance, strict=True)
            }
        )
        self.head = mlp([width * len(NAMES), 1], rng)

    def forward(self, input: Tensor) -> Tensor:
        """Values of shape (rows, 1) for inputs of shape (rows, branches * inputs)."""
        parts = zip(NAMES, input.split(INPUTS, 1), strict=True)
        return self.head(torch.cat([self.branches[name](part) for name, part in parts], 1))


class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    def forward(self, states: Tensor) -> Tensor:
        """The states, times the constant."""
        return states * self.value


class World(NamedTuple):
    """A teacher that is the truth, a student of half its width, importance by module, and held-out inputs."""

    teacher: Branches
    student: Branches
    importance: dict[str, float]
    probe: dict[str, Tensor]
    test: dict[str, Tensor]


class Trained(NamedTuple):
    """After training: the criterion and the error against the truth on held-out data; the course of the former."""

    loss: float
    error: float
    shares: dict[str, float]
    arms: list[int]
    course: list[float]


def branches_world(rng: np.random.Generator, importance: Sequence[float] = IMPORTANCE) -> World:
    """The importance of the branches is dealt out at random; what a branch says has variance 1 before it."""
    dealt = rng.permutation(importance)
    teacher, student = (Branches(width, dealt, rng) for width in (TEACHER, STUDENT))
    with torch.no_grad():
        x = rows(rng, 2000)["input"]
        for name, part in zip(NAMES, x.split(INPUTS, 1), strict=True):
            branch = teacher.branches[name]
            spread = branch[:-1](part).std()
            branch[2].weight /= spread
            branch[2].bias /= spread
        teacher.head[0].weight /= teacher(x).std()
    probe, test = ({**(batch := rows(rng, count)), "labels": labels(teacher, batch)} for count in (128, 512))
    return World(teacher.eval(), student, dict(zip(NAMES, dealt.tolist(), strict=True)), probe, test)


def rows(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
    """Standard normal inputs."""
    return {"input": torch.from_numpy(rng.standard_normal((count, INPUTS * len(NAMES)), dtype=np.float32))}


@torch.no_grad()
def labels(teacher: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The truth."""
    return teacher(batch["input"])


def batches(world: World, rng: np.random.Generator, *, steps: int, noise: float = 0.3) -> Iterator[dict[str, Tensor]]:
    """So many batches of the same few rows, whose labels are noisy."""
    few = rows(rng, TRAIN)
    truth = labels(world.teacher, few)
    noisy = truth + noise * torch.randn(truth.shape, generator=torch_generator(rng))
    for _ in range(steps):
        chosen = torch.from_numpy(rng.permutation(TRAIN)[:BATCH])
        yield {"input": few["input"][chosen], "labels": noisy[chosen]}


def outputs(student: Seen, teacher: Seen | None, batch: object) -> Tensor:
    """Squared difference of both models' values."""
    assert teacher is not None
    return F.mse_loss(student.output, teacher.output)


def build(world: World, choice: Choice | tuple[str, ...], rng: np.random.Generator, *, discount: float = DISCOUNT,
          unselected: Literal["free", "frozen"] = "free") -> OPTIMA:  # fmt: skip
    """Distillation of a copy of the student, by a way of choosing or always of these modules."""
    arms: list[tuple[str, ...]] = [(name,) for name in NAMES]
    if choice in ("all at once", "base only"):
        arms = [NAMES]
    elif isinstance(choice, tuple):
        arms = [choice]
    chosen: Policy = choice if choice in ("uniform", "round-robin") else "discounted"
    chooser = policy(chosen, len(arms), rng.spawn(1)[0], discount=discount)
    return OPTIMA(
        copy.deepcopy(world.student), world.teacher, {name: ([f"branches.{name}"],) * 2 for name in NAMES}, world.probe,
        base=[Task(loss=F.mse_loss), Custom("output", outputs)], weight=1e-9 if choice == "base only" else 1.0,
        arms=arms, steps=ROUND, bandit=chooser, unselected=unselected,
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def fit(optima: OPTIMA, stream: Iterable[dict[str, Tensor]], *, rate: float = RATE) -> None:
    """A step of Adam on each batch."""
    optimizer = torch.optim.Adam(optima.parameters(), lr=rate)
    for batch in stream:
        optimizer.zero_grad()
        optima(batch).loss.backward()
        optimizer.step()
        optima.step()


@torch.no_grad()
def judged(optima: OPTIMA, batch: dict[str, Tensor]) -> tuple[float, float]:
    """The criterion on other data than the probe, and the squared error against the truth over its variance."""
    probe, optima.probe = optima.probe, batch
    try:
        loss = optima.criterion()
    finally:
        optima.probe = probe
    missed = F.mse_loss(optima.student(batch["input"]), batch["labels"])
    return loss, float(missed / batch["labels"].var())


def trained(world: World, choice: Choice | tuple[str, ...], rng: np.random.Generator, *, steps: int = STEPS,
            discount: float = DISCOUNT, unselected: Literal["free", "frozen"] = "free") -> Trained:  # fmt: skip
    """All choices see the same batches in the same order, and begin with the same student and projections."""
    data, ours = rng.spawn(2)
    optima = build(world, choice, ours, discount=discount, unselected=unselected)
    fit(optima, batches(world, data, steps=steps))
    loss, error = judged(optima, world.test)
    return Trained(loss, error, optima.shares(), [one.arm for one in optima.rounds],
                   [one.after for one in optima.rounds])  # fmt: skip


def log_loss(rng: np.random.Generator, *, choice: Choice, importance: Sequence[float] = IMPORTANCE) -> float:
    """Natural logarithm of the held-out criterion, so that differences are relative."""
    return float(np.log(trained(branches_world(rng, importance), choice, rng).loss))


def ranked(world: World) -> list[str]:
    """Modules from the most important to the least."""
    return sorted(NAMES, key=lambda name: -world.importance[name])


def module_error(rng: np.random.Generator, *, rank: int) -> float:
    """Logarithm of the error against the truth after matching one module only: the most important has rank 0."""
    world = branches_world(rng)
    return float(np.log(trained(world, (ranked(world)[rank],), rng).error))


def allocation(rng: np.random.Generator, *, choice: Choice) -> float:
    """Spearman correlation between rounds given to modules and their importance, in [-1, 1]."""
    world = branches_world(rng)
    shares = trained(world, choice, rng).shares
    return float(spearmanr([shares[n] for n in NAMES], [world.importance[n] for n in NAMES]).statistic)
