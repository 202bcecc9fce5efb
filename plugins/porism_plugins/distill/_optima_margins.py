"""Margins of what must always hold for the bandit of OPTIMA, and for its rounds on models."""

from __future__ import annotations

import copy
import math
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from porism_plugins.distill import _optima_experiments as measure
from porism_plugins.distill._engine import Custom, Distillation, States, Task
from porism_plugins.distill._optima_bandit import DiscountedThompson
from porism_plugins.distill._optima_worlds import policy


def run(bandit: DiscountedThompson, rewards: np.ndarray) -> list[int]:
    """The arms chosen where arm a has the reward ``rewards[round, a]``."""
    chosen = []
    for row in rewards:
        chosen.append(bandit.choose())
        bandit.update(chosen[-1], float(row[chosen[-1]]))
    return chosen


def warmed_up(rng: np.random.Generator, *, arms: int, passes: int, rounds: int, chooser: str) -> float:
    """0.5 unless every arm is played ``passes`` times first, and one arm of those there in every round."""
    options = {"warm_up": passes} if chooser == "discounted" else {}
    bandit = DiscountedThompson(arms, rng, **options) if options else policy("uniform", arms, rng)
    chosen = run(bandit, rng.normal(size=(passes * arms + rounds, arms)))
    wrong = (np.bincount(chosen[: passes * arms], minlength=arms) != passes).sum() + (max(chosen) >= arms)
    if options:
        wrong += int(bandit.pulls.sum() != len(chosen)) + (bandit.pulls != np.bincount(chosen, minlength=arms)).sum()
    return 0.5 - float(wrong)


def total_count(rng: np.random.Generator, *, arms: int, rounds: int, discount: float, forgets: bool) -> float:
    """How far the counts' sum stays below 1 / (1 - discount), and how well it is the geometric sum."""
    bandit = DiscountedThompson(arms, rng, discount=discount if forgets else 1.0)
    run(bandit, rng.normal(size=(rounds, arms)))
    total, exact = bandit.counts.sum(), (1 - discount**rounds) / (1 - discount)
    return float(min(1 / (1 - discount) * (1 + 1e-9) - total, 1e-9 * exact - abs(total - exact) + 1e-12))


def in_hull(rng: np.random.Generator, *, arms: int, rounds: int, discount: float, scale: float, over: str) -> float:
    """How far inside the range of its arm's rewards the worst mean lies; the control divides by all pulls."""
    bandit, rewards = DiscountedThompson(arms, rng, discount=discount), rng.normal(1, scale, size=(rounds, arms))
    chosen, worst = [], math.inf
    for row in rewards:
        chosen.append(bandit.choose())
        bandit.update(chosen[-1], float(row[chosen[-1]]))
        arm = chosen[-1]
        seen = rewards[: len(chosen), arm][np.array(chosen) == arm]
        mean = bandit.means[arm] * (1 if over == "counts" else bandit.counts[arm] / bandit.pulls[arm])
        worst = min(worst, mean - seen.min(), seen.max() - mean)
    return float(worst + 1e-9 * (1 + scale))


class GivenNoise(DiscountedThompson):
    """As if the noise of rewards were known to be 1, as most samplers have it."""

    def noise(self) -> float:
        """One."""
        return 1.0


def affine(rng: np.random.Generator, *, arms: int, rounds: int, discount: float, factor: float, constant: float,
           noise: str) -> float:  # fmt: skip
    """0.5 unless rewards times a factor plus a constant change a choice."""
    kind = DiscountedThompson if noise == "estimated" else GivenNoise
    seed, rewards = rng.spawn(1)[0], rng.normal(size=(rounds, arms)) + rng.normal(size=arms)
    runs = [
        run(kind(arms, copy.deepcopy(seed), discount=discount), table)
        for table in (rewards, factor * rewards + constant)
    ]
    return 0.5 - float(np.not_equal(*runs).sum())


def stands_still(rng: np.random.Generator, *, decay: float, steps: int, unselected: Literal["free", "frozen"],
                 projections: bool = False) -> float:  # fmt: skip
    """0.5 unless a module not chosen (or its projection) moved by a bit within a round; AdamW and full moments."""
    world = measure.branches_world(rng)
    optima = measure.build(world, "round-robin", rng, unselected=unselected)
    optimizer = torch.optim.AdamW(optima.parameters(), lr=1e-2, weight_decay=decay)
    moved = 0
    for batch in measure.batches(world, rng, steps=2 * measure.ROUND + steps):
        optimizer.zero_grad(set_to_none=False)
        optima.begin()
        before = {name: _weights(optima, name, projections) for name in measure.NAMES}
        optima(batch).loss.backward()
        optimizer.step()
        others = [name for name in measure.NAMES if name not in optima.arm]
        optima.step()
        moved += sum(
            not torch.equal(a, b)
            for name in others
            for a, b in zip(before[name], _weights(optima, name, projections), strict=True)
        )
    return 0.5 - float(moved)


def _weights(optima: measure.OPTIMA, name: str, projections: bool) -> list[torch.Tensor]:
    module = optima.signals[name] if projections else optima.student.branches[name]
    return [parameter.detach().clone() for parameter in module.parameters()]


def one_module(rng: np.random.Generator, *, weight: float, used: float) -> float:
    """Relative distance of gradients: OPTIMA with a single module, and layer-wise distillation at weight ``used``."""
    world = measure.branches_world(rng)
    base = [Task(loss=F.mse_loss), Custom("output", measure.outputs)]
    layers = [f"branches.{name}" for name in measure.NAMES]
    optima = measure.OPTIMA(
        copy.deepcopy(world.student), world.teacher, {"all": (layers, layers)}, world.probe, base=base, weight=weight
    )
    states = States(layers, layers, weight=used * len(layers))
    plain = Distillation(copy.deepcopy(world.student), world.teacher, [*base, states], example=world.probe)
    optima(world.test).loss.backward()
    plain(world.test).loss.backward()
    pairs = zip(optima.parameters(), plain.parameters(), strict=True)
    off = max(float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs if b.grad is not None)
    return 1e-5 - off
