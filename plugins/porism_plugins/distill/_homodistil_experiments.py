"""What the claims and figures of HomoDistil measure: students of digits on their way to an eighth of a teacher."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.metrics import accuracy
from porism.testbeds import digits, mlp, torch_generator
from porism_plugins.distill._engine import Distillation, Logits, Task
from porism_plugins.distill._homodistil_method import gap, travel
from porism_plugins.distill._homodistil_path import Homotopy, Point

Arm = Literal["gradual", "linear", "at once", "at the end", "random student", "magnitude", "random neurons", "global"]
HIDDEN, TEACHER_STEPS, STEPS, BATCH, INTERVAL = 128, 200, 150, 32, 5
BEGIN, END = 0.05, 0.7
WIDTH = 0.125
RATE = 5e-3
# What differs from the method, as options of Homotopy.
DIFFERS: Mapping[Arm, Mapping[str, Any]] = {
    "linear": {"power": 1}, "at once": {"end": BEGIN}, "at the end": {"begin": END},
    "magnitude": {"score": lambda parameter: parameter.detach().abs()}, "global": {"scope": "global"},
}  # fmt: skip


class World(NamedTuple):
    """A teacher of digits, batches (x, y, its logits) to train on, and digits that neither sees, as (x, y)."""

    teacher: nn.Module
    batches: list[tuple[Tensor, Tensor, Tensor]]
    validation: tuple[Tensor, Tensor]


class Journey(NamedTuple):
    """The path with its gap on the validation set, and where it ends: accuracy in [0, 1], width of each layer."""

    points: list[Point]
    accuracy: float
    widths: tuple[int, ...]

    @property
    def largest_gap(self) -> float:
        """In nats."""
        return max(point.gap for point in self.points)

    @property
    def last_gap(self) -> float:
        """In nats."""
        return self.points[-1].gap


def digits_world(rng: np.random.Generator, *, steps: int = STEPS) -> World:
    """A teacher MLP 64-128-128-10 of 800 digits, and the batches of a student's steps."""
    data = digits(rng, train=800, validation=300)
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    teacher = mlp((64, HIDDEN, HIDDEN, 10), rng)
    rows = [torch.from_numpy(rng.choice(len(x), BATCH, replace=False)) for _ in range(max(TEACHER_STEPS, steps))]
    travel(teacher, rows, lambda chosen: F.cross_entropy(teacher(x[chosen]), y[chosen]), None, steps=TEACHER_STEPS,
           learning_rate=RATE)  # fmt: skip
    with torch.no_grad():
        logits = teacher(x)
    batches = [(x[chosen], y[chosen], logits[chosen]) for chosen in rows]
    return World(teacher, batches, (torch.from_numpy(data.x_validation), torch.from_numpy(data.y_validation)))


def journey(
    world: World, arm: Arm, rng: np.random.Generator, *, width: float = WIDTH, steps: int = STEPS, every: int = STEPS
) -> Journey:
    """A student of this share of the teacher's neurons; all arms have the same batches, steps and losses.

    The gap is measured ``every`` so many steps, by default at both ends only.
    """
    hidden = math.ceil(width * HIDDEN)
    small = arm == "random student"
    student = mlp((64, hidden, hidden, 10), rng) if small else copy.deepcopy(world.teacher)
    options = {"score": random_scores(rng)} if arm == "random neurons" else DIFFERS.get(arm, {})
    path = None if small else Homotopy(student, width=width, total_steps=steps,
                                       **{"interval": INTERVAL, "begin": BEGIN, "end": END, **options})  # fmt: skip
    distillation = Distillation(student, None, [Task(), Logits()])
    points: list[Point] = []

    def look(step: int) -> None:
        if step % every == 0 or step == steps:
            found = gap(student, world.teacher, world.validation[0])
            points.append(Point(step, width if path is None else path.width, found))

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, y, logits = batch
        return distillation(x, labels=y, teacher_logits=logits).loss

    travel(student, world.batches, loss, path, steps=steps, learning_rate=RATE, look=look)
    x, y = world.validation
    with torch.no_grad():
        right = float(accuracy(student(x).argmax(-1), y))
    return Journey(points, right, tuple(m.out_features for m in student if isinstance(m, nn.Linear))[:-1])


def random_scores(rng: np.random.Generator) -> Callable[[nn.Parameter], Tensor]:
    """Scores that say nothing."""
    generator = torch_generator(rng)
    return lambda parameter: torch.rand(parameter.shape, generator=generator)


def compared(rng: np.random.Generator, arms: Iterable[Arm], **options: Any) -> dict[Arm, Journey]:
    """Arms in one world, each once."""
    world = digits_world(rng, steps=options.get("steps", STEPS))
    return {arm: journey(world, arm, copy.deepcopy(rng), **options) for arm in dict.fromkeys(arms)}


def log_gaps(rng: np.random.Generator, ours: Arm, theirs: Arm, *, steps: int = STEPS) -> tuple[float, float]:
    """Logarithms of two arms' gaps at the end."""
    found = compared(rng, (ours, theirs), steps=steps)
    return math.log(found[ours].last_gap), math.log(found[theirs].last_gap)


def margin_along_the_path(rng: np.random.Generator, ours: Arm) -> float:
    """By how much the logarithm of our largest gap is below both rivals', the lesser difference."""
    rivals: tuple[Arm, Arm] = ("at once", "random student")
    found = {arm: math.log(j.largest_gap) for arm, j in compared(rng, (ours, *rivals), every=INTERVAL).items()}
    return min(found[arm] for arm in rivals) - found[ours]


def least_share(rng: np.random.Generator, arm: Arm) -> float:
    """The narrowest layer's width over the mean one."""
    widths = compared(rng, (arm,))[arm].widths
    return min(widths) / float(np.mean(widths))
