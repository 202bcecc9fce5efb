"""Arms whose rewards change, with the truth known, and what else chooses among them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from porism_plugins.distill._optima_bandit import DiscountedThompson

World = Literal["abrupt", "drifting", "decaying", "fixed"]
Policy = Literal["discounted", "plain", "greedy", "uniform", "round-robin"]
ARMS, ROUNDS, PERIOD, NOISE = 4, 400, 100, 0.05
# Expected rewards in [0, 1] of all arms, by round and by how often each has been played.
Means = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]


class Uniform:
    """Every arm is equally likely in every round."""

    def __init__(self, arms: int, rng: np.random.Generator) -> None:
        self.arms, self.rng = arms, rng

    def choose(self) -> int:
        """Any arm."""
        return int(self.rng.integers(self.arms))

    def update(self, arm: int, reward: float) -> None:
        """Learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        """The generator."""
        return {"rng": copy.deepcopy(self.rng.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.rng.bit_generator.state = copy.deepcopy(state["rng"])


class RoundRobin:
    """The arms in turn, in a random order."""

    def __init__(self, arms: int, rng: np.random.Generator) -> None:
        self.order, self.played = rng.permutation(arms).tolist(), 0

    def choose(self) -> int:
        """The next one in line."""
        return int(self.order[self.played % len(self.order)])

    def update(self, arm: int, reward: float) -> None:
        """Go on to the next."""
        self.played += 1

    def state_dict(self) -> dict[str, Any]:
        """Order and place."""
        return {"order": list(self.order), "played": self.played}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.order, self.played = list(state["order"]), int(state["played"])


def policy(name: Policy, arms: int, rng: np.random.Generator, *, discount: float = 0.95) -> Any:
    """What chooses; only ``"discounted"`` and ``"greedy"`` use the discount."""
    if name == "uniform":
        return Uniform(arms, rng)
    if name == "round-robin":
        return RoundRobin(arms, rng)
    options = {"plain": {"discount": 1.0}, "greedy": {"discount": discount, "exploration": 0.0}}
    return DiscountedThompson(arms, rng, **options.get(name, {"discount": discount}))


def world(kind: World, rng: np.random.Generator) -> Means:
    """Arms that change abruptly, drift, are worn out by being played and change their ranks, or stay as they are."""
    levels = np.linspace(0, 1, ARMS)
    orders = np.array([rng.permutation(ARMS) for _ in range(-(-ROUNDS // PERIOD))])
    for before, after in itertools.pairwise(orders):
        if before.argmax() == after.argmax():  # a change of the best arm, or it is none
            after[:] = np.roll(after, 1)
    if kind == "fixed":
        return lambda now, pulls: levels[orders[0]]
    if kind == "abrupt":
        return lambda now, pulls: levels[orders[now // PERIOD]]
    if kind == "decaying":
        return lambda now, pulls: levels[orders[now // PERIOD]] * 0.98**pulls
    path = levels[orders[0]] + rng.normal(scale=0.05, size=(ROUNDS, ARMS)).cumsum(0)
    path = 1 - np.abs(path % 2 - 1)  # reflected at 0 and 1
    return lambda now, pulls: path[now]


class Played(NamedTuple):
    """By round: the arm, its expected reward, and the largest of all arms at that moment; shape (rounds,) each."""

    arms: NDArray[np.int64]
    expected: NDArray[np.float64]
    best: NDArray[np.float64]
    best_arm: NDArray[np.int64]


def play(chooser: Any, means: Means, rng: np.random.Generator, *, rounds: int = ROUNDS,
         noise: float = NOISE) -> Played:  # fmt: skip
    """Let it choose and see rewards with Gaussian noise; the noise of a round is the same whatever it chooses."""
    errors, pulls = rng.normal(scale=noise, size=rounds), np.zeros(ARMS, dtype=np.int64)
    arms, expected, best, best_arm = (np.zeros(rounds, kind) for kind in (np.int64, float, float, np.int64))
    for now in range(rounds):
        truth, arm = means(now, pulls), chooser.choose()
        chooser.update(arm, float(truth[arm] + errors[now]))
        arms[now], expected[now], best[now], best_arm[now] = arm, truth[arm], truth.max(), truth.argmax()
        pulls[arm] += 1
    return Played(arms, expected, best, best_arm)


def played(rng: np.random.Generator, kind: World, name: Policy, *, discount: float = 0.95) -> Played:
    """A policy in a world of this kind; worlds and noise do not depend on the policy."""
    theirs, noise, ours = rng.spawn(3)
    return play(policy(name, ARMS, ours, discount=discount), world(kind, theirs), noise)


def mean_reward(rng: np.random.Generator, *, kind: World, name: Policy, discount: float = 0.95) -> float:
    """Expected reward a round, in [0, 1]."""
    return float(played(rng, kind, name, discount=discount).expected.mean())


def readaptation(rng: np.random.Generator, *, discount: float, window: int = 20) -> float:
    """Rounds after the first change of an abrupt world until more than half of the last 20 are of the new best arm.

    At most the rounds of the period.
    """
    found = played(rng, "abrupt", "discounted", discount=discount)
    new = found.best_arm[PERIOD]
    right = found.arms == new
    for after in range(1, PERIOD + 1):
        if right[PERIOD + after - window : PERIOD + after].mean() > 0.5:
            return float(after)
    return float(PERIOD)
