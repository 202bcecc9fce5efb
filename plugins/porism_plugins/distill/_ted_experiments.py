"""What the claims and figures of TED measure: students of digits and of text, and what filters let through."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.metrics import accuracy
from porism.testbeds import digits, mlp, torch_generator, train
from porism_plugins.distill._engine import Distillation, Logits, States, Task
from porism_plugins.distill._layers import capturing
from porism_plugins.distill._ted_filters import FilterHeads, fit_filters

Arm = Literal["fine-tuning", "KD", "LWD", "TED", "random filters", "teacher's filters", "student's filters"]
# Whose filters stage I teaches.
LEARNED = {"TED": (True, True), "random filters": (False, False), "teacher's filters": (False, True),
           "student's filters": (True, False)}  # fmt: skip
WEIGHTS = (0.1, 1.0, 10.0)
LAYERS = ("1", "3")
STEPS, FILTER_STEPS, BATCH = 150, 80, 50
RATE = 2e-2


class World(NamedTuple):
    """A trained teacher, a student that is half trained, and the parts of the data as (x, y)."""

    teacher: nn.Module
    student: nn.Module
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Result(NamedTuple):
    """Accuracies of one student in [0, 1], and the layers' loss over the variance of the target, on the test set."""

    validation: float
    test: float
    gap: float


def digits_world(rng: np.random.Generator, *, width: int = 16, rows: int = 300) -> World:
    """Teacher MLP 2 x 128 and student 2 x ``width`` of digits, both trained on the same rows."""
    data = digits(rng, train=rows, validation=300)
    parts = [tuple(map(torch.from_numpy, pair)) for pair in ((data.x_train, data.y_train),
             (data.x_validation, data.y_validation), (data.x_test, data.y_test))]  # fmt: skip
    teacher, student = mlp([64, 128, 128, 10], rng), mlp([64, width, width, 10], rng)
    for model, steps in ((teacher, 120), (student, 100)):
        fit(Distillation(model, None, [Task()]), parts[0], rng, steps=steps)
    return World(teacher, student, *parts)


def batches(data: tuple[Tensor, Tensor], rng: np.random.Generator) -> Iterator[dict[str, Tensor]]:
    """Shuffled batches without an end."""
    generator = torch_generator(rng)
    while True:
        for chosen in torch.randperm(len(data[0]), generator=generator).split(BATCH):
            yield {"input": data[0][chosen], "labels": data[1][chosen]}


def fit(model: nn.Module, data: tuple[Tensor, Tensor], rng: np.random.Generator, *, steps: int) -> np.ndarray:
    """Train whatever has a loss; the losses."""
    return train(model, batches(data, rng), steps=steps, learning_rate=RATE, weight_decay=0.0, clip=1e6)


def filters_of(model: nn.Module, data: tuple[Tensor, Tensor], rng: np.random.Generator, *, width: int,
               learned: bool) -> list[nn.Module]:  # fmt: skip
    """Filters on all hidden layers, taught by the labels or left as they are drawn."""
    example = {"input": data[0][:2], "labels": data[1][:2]}
    heads = FilterHeads(model, LAYERS, example, width=width, generator=torch_generator(rng))
    stream = list(itertools.islice(batches(data, rng), FILTER_STEPS))
    if learned:
        fit_filters(heads, stream, steps=FILTER_STEPS, learning_rate=RATE)
    return list(heads.filters)


def states_of(world: World, arm: Arm, rng: np.random.Generator, *, width: int = 168) -> dict[str, Any]:
    """What the layer term of an arm is made of."""
    if arm == "LWD":
        return {"student_filter": "linear"}
    student, teacher = LEARNED[arm]
    return {
        "student_filter": filters_of(world.student, world.train, rng, width=width, learned=student),
        "teacher_filter": filters_of(world.teacher, world.train, rng, width=width, learned=teacher),
    }


def taught(world: World, arm: Arm, rng: np.random.Generator, *, weights: Sequence[float] = WEIGHTS) -> Result:
    """A student at the weight of the layer term that is best on the validation set, which is tuned for every arm alike.

    All arms have the same student to begin with, the same batches in stage II and as many steps of it.
    """
    layered = arm not in ("fine-tuning", "KD")
    states = states_of(world, arm, copy.deepcopy(rng)) if layered else {}
    terms = [Task()] if arm == "fine-tuning" else [Task(), Logits(temperature=2.0)]
    results = []
    for weight in weights if layered else (0.0,):
        own = copy.deepcopy((world.student, states))
        extra = [States(LAYERS, LAYERS, weight=weight, **own[1])] if layered else []
        example = world.train[0][:1]
        distillation = Distillation(own[0], world.teacher, [*terms, *extra], example=example)
        fit(distillation, world.train, copy.deepcopy(rng), steps=STEPS)
        scores = [score(own[0], *part) for part in (world.validation, world.test)]
        results.append(Result(*scores, gap(distillation, world.test[0]) if layered else np.nan))
    return max(results, key=lambda result: result.validation)


@torch.no_grad()
def gap(distillation: Distillation, x: Tensor) -> float:
    """Mean squared error of the filtered states over the variance of the teacher's, averaged over the layers."""
    signal, found = distillation.signals["states"], []
    with (capturing(distillation.student, signal.student_modules) as ours,
          capturing(distillation.teacher, signal.teacher_modules) as theirs):  # fmt: skip
        distillation.student(x), distillation.teacher(x)
    for here, there, filter, target in zip(signal.student_modules, signal.teacher_modules, signal.filters,
                                           signal.targets, strict=True):  # fmt: skip
        goal = target(theirs[there])
        found.append(F.mse_loss(filter(ours[here]), goal) / goal.var(0, correction=0).mean())
    return float(torch.stack(found).mean())


@torch.no_grad()
def score(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy of the largest logit."""
    return accuracy(model(x).argmax(-1), y)


def arm_score(rng: np.random.Generator, *, arm: Arm, by: str = "test", width: int = 16) -> float:
    """One number of :func:`taught` in a world of its own."""
    return float(getattr(taught(digits_world(rng, width=width), arm, rng), by))


def compared(rng: np.random.Generator, arms: Sequence[Arm], *, width: int = 16) -> Mapping[str, Result]:
    """Arms in one world."""
    world = digits_world(rng, width=width)
    return {arm: taught(world, arm, copy.deepcopy(rng)) for arm in arms}


class Kept(NamedTuple):
    """What a linear map of the last layer keeps, on fresh data: R^2 of the nuisance, accuracy of a probe."""

    nuisance: float
    accuracy: float


def factors(rng: np.random.Generator, mixing: np.ndarray, rows: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Mixed factors (rows, 16), labels that the first four decide, and the twelve others."""
    hidden = rng.normal(size=(rows, len(mixing)))
    return torch.from_numpy(hidden @ mixing).float(), torch.from_numpy(hidden[:, :4].argmax(1)), hidden[:, 4:]


def nuisance_kept(rng: np.random.Generator, *, widths: Sequence[int], steps: int = 300) -> dict[tuple[str, int], Kept]:
    """Of a teacher that predicts label and all factors: what learned filters and random ones of these widths keep.

    Returned by name and width; ``("layer", 64)`` is the last hidden layer itself.
    """
    mixing = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    (x, y, rest), (fresh_x, fresh_y, fresh_rest) = (factors(rng, mixing, rows) for rows in (1000, 1000))
    teacher, target = mlp([16, 64, 64, 20], rng), x @ torch.from_numpy(mixing.T).float()

    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output[:, :4], labels[:, 0].long()) + F.mse_loss(output[:, 4:], labels[:, 1:])

    both = torch.cat([y[:, None].float(), target], 1)
    fit(Distillation(teacher, None, [Task(loss=loss)]), (x, both), rng, steps=steps)
    with torch.no_grad():
        layer, fresh = teacher[:4](x), teacher[:4](fresh_x)
        found = {("layer", 64): judged(layer, y, rest, fresh, fresh_y, fresh_rest)}
        for width, (name, learned) in itertools.product(widths, (("filter", True), ("random map", False))):
            with torch.enable_grad():
                example = {"input": x[:2], "labels": y[:2]}
                heads = FilterHeads(teacher, ["3"], example, width=width, generator=torch_generator(copy.deepcopy(rng)))
                if learned:
                    fit_filters(heads, list(itertools.islice(batches((x, y), copy.deepcopy(rng)), steps)), steps=steps,
                                learning_rate=RATE)  # fmt: skip
            through = heads.filters[0]
            found[name, width] = judged(through(layer), y, rest, through(fresh), fresh_y, fresh_rest)
    return found


def judged(states: Tensor, y: Tensor, rest: np.ndarray, fresh: Tensor, fresh_y: Tensor,
           fresh_rest: np.ndarray) -> Kept:  # fmt: skip
    """Ridge regressions from states to the nuisance and to the classes, judged on fresh rows."""
    a, b = (np.column_stack([s.double().numpy(), np.ones(len(s))]) for s in (states, fresh))
    solve = np.linalg.solve(a.T @ a + 1e-3 * np.eye(a.shape[1]), a.T)
    missed = ((b @ (solve @ rest) - fresh_rest) ** 2).sum() / ((fresh_rest - fresh_rest.mean(0)) ** 2).sum()
    classes = (b @ (solve @ np.eye(4)[y.numpy()])).argmax(1)
    return Kept(1 - float(missed), accuracy(classes, fresh_y.numpy()))
