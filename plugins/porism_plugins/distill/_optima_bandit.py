"""Thompson sampling for arms whose rewards change: it trusts recent rewards, and knows no scale of its own."""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from porism.errors import ParameterError
from porism.parameters import validated

Discount = Annotated[float, Interval(gt=0, le=1)]
Exploration = Annotated[float, Interval(ge=0, le=1e6)]
LeastCount = Annotated[float, Interval(gt=0, le=1)]
WarmUp = Annotated[int, Interval(ge=1, le=1000)]
# Weight below which nothing is known of the noise.
_NOTHING = 1e-12
_STATE = ("counts", "squares", "means", "pulls", "scatter", "waiting", "last", "rng")


class DiscountedThompson:
    """Gaussian Thompson sampling with discounted statistics.

    In every round all weights are multiplied by the discount and the reward of the arm that was played joins with
    weight 1. An arm's mean is the weighted mean of its rewards, its variance that of the noise, pooled over the arms
    and estimated from the rewards, over its weight: an arm left alone becomes uncertain and is tried again. Rewards of
    any scale and with any constant added give the same choices.

    Parameters
    ----------
    arms
        Number of arms, at least 1.
    rng
        Draws the order of the warm-up and the samples; part of the state.
    discount
        In (0, 1]; 1 is Thompson sampling of arms that do not change. About 1 / (1 - discount) rounds are remembered.
    exploration
        Factor of the samples' standard deviation: 0 plays the largest mean.
    least_count
        Weight below which an arm becomes no more uncertain.
    warm_up
        How often each arm is played first, in a random order.

    Attributes
    ----------
    counts, means
        Discounted number of pulls and weighted mean reward, shape (arms,). The mean of an arm never played is 0.
    pulls
        Number of pulls, shape (arms,).

    Raises
    ------
    ParameterError
        For values out of range.

    Examples
    --------
    >>> bandit = DiscountedThompson(2, np.random.default_rng(0), discount=0.9)
    >>> for _ in range(50):
    ...     arm = bandit.choose()
    ...     bandit.update(arm, [0.0, 1.0][arm])
    >>> bool(bandit.pulls[1] > 40), bool(bandit.counts.sum() < 1 / (1 - 0.9))
    (True, True)
    """

    @validated
    def __init__(
        self, arms: int, rng: np.random.Generator, *, discount: Discount = 0.95, exploration: Exploration = 1.0,
        least_count: LeastCount = 0.05, warm_up: WarmUp = 1,
    ) -> None:  # fmt: skip
        if isinstance(arms, bool) or not isinstance(arms, int) or arms < 1:
            raise ParameterError(f"arms must be a whole number, at least 1, got {arms!r}")
        if not isinstance(rng, np.random.Generator):
            raise ParameterError(f"rng must be a numpy Generator, got {type(rng).__name__}")
        self.rng, self.discount, self.exploration, self.least_count = rng, discount, exploration, least_count
        self.counts, self.means, self.pulls = np.zeros(arms), np.zeros(arms), np.zeros(arms, dtype=np.int64)
        self._squares, self._scatter, self._last = np.zeros(arms), 0.0, -1
        self._waiting = [int(arm) for _ in range(warm_up) for arm in rng.permutation(arms)]

    @property
    def arms(self) -> int:
        """Number of arms."""
        return len(self.counts)

    def noise(self) -> float:
        """Standard deviation of rewards about their arm's mean, infinite as long as no arm was played twice."""
        there = self.counts > _NOTHING
        freedom = float((self.counts[there] - self._squares[there] / self.counts[there]).sum())
        return math.sqrt(self._scatter / freedom) if freedom > _NOTHING else math.inf

    def deviations(self) -> NDArray[np.float64]:
        """Standard deviation of each arm's samples, shape (arms,)."""
        if self.exploration == 0:
            return np.zeros(self.arms)
        return self.exploration * self.noise() / np.sqrt(np.maximum(self.counts, self.least_count))

    def choose(self) -> int:
        """The arm to play next: in warm-up the next in line, then the one with the largest sample.

        Where nothing is known of the noise yet, all arms are equally likely.
        """
        if self._waiting:
            self._last = self._waiting[0]
            return self._last
        samples, deviations = self.rng.standard_normal(self.arms), self.deviations()
        if np.isfinite(deviations).all():
            samples = self.means + deviations * samples
        self._last = int(samples.argmax())
        return self._last

    def update(self, arm: int, reward: float) -> None:
        """Take in the reward of an arm.

        Parameters
        ----------
        arm
            In [0, arms); any arm, whether it was chosen or not.
        reward
            Finite; larger is better.

        Raises
        ------
        ParameterError
            For an arm that is not there, or a reward that is not finite. Nothing has changed then.
        """
        if not 0 <= arm < self.arms:
            raise ParameterError(f"arm must be in [0, {self.arms}), got {arm}")
        if not math.isfinite(reward):
            raise ParameterError(f"reward must be finite, got {reward}")
        if arm in self._waiting:
            self._waiting.remove(arm)
        self.counts *= self.discount
        self._squares *= self.discount**2
        before = self.counts[arm]
        self.counts[arm] += 1
        self._squares[arm] += 1
        # Means and deviations from them, not sums: these stay exact when the weight of an arm underflows.
        surprise = float(reward) - self.means[arm]
        self.means[arm] += surprise / self.counts[arm]
        self._scatter = float(self.discount * self._scatter + before / self.counts[arm] * surprise**2)
        self.pulls[arm] += 1

    def step(self, reward: float | None = None) -> int:
        """Take in the reward of the arm chosen last, and choose the next; the first call has no reward.

        Raises
        ------
        ParameterError
            As :meth:`update`; for a reward before the first choice, and for none after it.
        """
        if (reward is None) != (self._last < 0):
            raise ParameterError("reward must be given for the arm chosen last, and not before the first choice")
        if reward is not None:
            self.update(self._last, reward)
        return self.choose()

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, the generator among it; JSON can hold it."""
        return {
            "counts": self.counts.tolist(), "squares": self._squares.tolist(), "means": self.means.tolist(),
            "pulls": self.pulls.tolist(), "scatter": self._scatter, "waiting": list(self._waiting), "last": self._last,
            "rng": copy.deepcopy(self.rng.bit_generator.state),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; options are those of this bandit.

        Raises
        ------
        ParameterError
            If entries are missing, or the state is of another number of arms or another kind of generator.
        """
        if missing := [name for name in _STATE if name not in state]:
            raise ParameterError(f"state must have {', '.join(_STATE)}; missing: {', '.join(missing)}")
        if sizes := {len(state[name]) for name in ("counts", "squares", "means", "pulls")} - {self.arms}:
            raise ParameterError(f"state must be of {self.arms} arms, got {max(sizes)}")
        kind, ours = state["rng"]["bit_generator"], self.rng.bit_generator.state["bit_generator"]
        if kind != ours:
            raise ParameterError(f"state must be of a generator {ours}, got {kind}")
        self.rng.bit_generator.state = copy.deepcopy(state["rng"])
        self.counts, self._squares, self.means = (np.array(state[n], float) for n in ("counts", "squares", "means"))
        self.pulls = np.array(state["pulls"], dtype=np.int64)
        self._scatter, self._waiting, self._last = float(state["scatter"]), list(state["waiting"]), int(state["last"])
