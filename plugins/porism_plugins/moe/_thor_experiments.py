"""What the claims and figures of THOR measure: arms trained on the small translation task, and how they predict."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from porism import Paired, paired
from porism.metrics import accuracy
from porism_plugins.moe import _thor_world as world
from porism_plugins.moe._engine import auxiliary_loss
from porism_plugins.moe._thor_layer import inferring
from porism_plugins.moe._thor_loss import thor_loss

SENTENCES, UPDATES, BATCH, LEARNING_RATE, SMOOTHING = 192, 240, 64, 2e-2, 0.1
Kind = Literal["stochastic", "gate", "random", "hash", "dense", "none"]


class Arm(NamedTuple):
    """How to translate and to train: two passes and their consistency, unless ``alpha`` is None."""

    kind: Kind = "stochastic"
    experts: int = 2
    alpha: float | None = 5.0
    updates: int = UPDATES
    sentences: int = SENTENCES


# Each by its published recipe: THOR and R-Drop with two passes, the others with one.
THOR, R_DROP = Arm(), Arm(experts=1)
GATE = Arm("gate", alpha=None)
LONGER = GATE._replace(updates=2 * UPDATES)


class Result(NamedTuple):
    """Test accuracies in the arm's own inference, of single experts on average, and of their average; and how far
    apart experts are: the variance of probabilities over experts, summed over words and averaged over tokens."""

    accuracy: float
    single: float
    average: float
    spread: float


@functools.lru_cache(maxsize=64)  # claim and control have the same seeds, and often an arm in common
def trained(seed: int, arm: Arm) -> Result:
    """Train an arm and judge it; data, batches and whatever arms have in common depend on the seed alone."""
    data, weights, batches = (np.random.default_rng([seed, part]) for part in range(3))
    task = world.task(data, train=arm.sentences)
    model = world.Translator(arm.kind, arm.experts, weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(_rate, updates=arm.updates))
    for _ in range(arm.updates):
        rows = torch.from_numpy(batches.integers(len(task.x), size=BATCH))
        optimizer.zero_grad()
        _loss(model, task.x[rows], task.y[rows], arm.alpha).backward()
        optimizer.step()
        rate.step()
    return judged(model.eval(), task, arm)


def _rate(update: int, *, updates: int) -> float:
    return min((update + 1) / (0.1 * updates), 1) * (1 - update / updates)


def _loss(model: torch.nn.Module, x: Tensor, y: Tensor, alpha: float | None) -> Tensor:
    first = model(x)
    balance = auxiliary_loss(model)
    if alpha is None:
        return F.cross_entropy(first.flatten(0, 1), y.flatten(), label_smoothing=SMOOTHING) + balance
    second = model(x)
    return thor_loss(first, second, y, alpha=alpha, smoothing=SMOOTHING) + balance + auxiliary_loss(model)


@torch.no_grad()
def judged(model: torch.nn.Module, task: world.Task, arm: Arm) -> Result:
    """Accuracy on test words, in the arm's own inference and otherwise."""
    own = _score(model(task.test_x), task.test_y)
    if arm.kind != "stochastic":
        return Result(own, own, own, 0.0)
    each = []
    for expert in range(arm.experts):
        with inferring(model, expert):
            each.append(model(task.test_x))
    with inferring(model, "average"):
        average = _score(model(task.test_x), task.test_y)
    spread = float(torch.stack(each).softmax(-1).var(0, correction=0).sum(-1).mean())
    return Result(own, float(np.mean([_score(logits, task.test_y) for logits in each])), average, spread)


def _score(logits: Tensor, y: Tensor) -> float:
    return float(accuracy(logits.argmax(-1).flatten(), y.flatten()))


def compared(rng: np.random.Generator, ours: Arm, theirs: Arm, *, by: str = "accuracy") -> Paired:
    """Two arms on the same data, batches and initial weights as far as they share them."""

    def measured(rng: np.random.Generator, arm: Arm) -> float:
        return float(getattr(trained(seed_of(rng), arm), by))

    return paired(measured, rng, ours={"arm": ours}, theirs={"arm": theirs})


def seed_of(rng: np.random.Generator) -> int:
    """A draw that stands for all of a replicate's."""
    return int(rng.integers(2**63 - 1))


def summary(rng: np.random.Generator, arm: Arm) -> dict[str, Any]:
    """What became of an arm, for the demonstration."""
    return trained(seed_of(rng), arm)._asdict()
