"""Robust policy mirror descent: the theorem's constants computed, its potential and its bound.

Notation of the paper beside the names: ``mismatch`` M, the largest ratio of the optimal policy's visitation in any
kernel of the set to the start; ``change`` M', the largest ratio of two such visitations; ``rate`` 1 - (1 - discount)/M.
The two suprema are robust values themselves: the share of time in a state is the value of a cost that is 1 there, so
one robust evaluation for each state and sign gives them exactly. All is derived in ``tests/papers/test_rpmd.py``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from porism_sims.robust_mdp import planning
from porism_sims.robust_mdp.environments import garnet
from porism_sims.robust_mdp.mirror_descent import (
    Estimate,
    Geometry,
    Trajectory,
)
from porism_sims.robust_mdp.planning import MDP, evaluate, policy_iteration, visitation
from porism_sims.robust_mdp.uncertainty import NOMINAL, Kind, Uncertainty

Array = NDArray[np.float64]
Rng = np.random.Generator


class Game(NamedTuple):
    """A process, the distribution of its first state, and nature's freedom."""

    mdp: MDP
    start: Array
    nature: Uncertainty

    @property
    def rise(self) -> float:
        """``1 / (1 - discount)``, the sum of all discounts."""
        return 1 / (1 - self.mdp.discount)


class Constants(NamedTuple):
    """M, M' and the rate of the theorem."""

    mismatch: float
    change: float
    rate: float

    @property
    def growth(self) -> float:
        """Factor by which the theorem lets steps grow."""
        return self.change / self.rate


def game(rng: Rng, kind: Kind, radius: float, *, support: Any = "full", **sizes: Any) -> Game:
    """A Garnet of 6 states, 3 actions and 3 successors unless told otherwise, with an uncertainty set."""
    mdp, start = garnet(rng, **{"states": 6, "actions": 3, "successors": 3} | sizes)
    return Game(mdp, start, Uncertainty(kind, radius, support))


def random_policy(rng: Rng, mdp: MDP) -> Array:
    """Rows drawn uniformly from the simplex."""
    return rng.dirichlet(np.ones(mdp.shape[1]), size=mdp.shape[0])


# The theorem


def contraction(mismatch: Any, discount: Any) -> Any:
    """The rate ``1 - (1 - discount) / M``."""
    return 1 - (1 - discount) / mismatch


def potential(gap: Any, distance: Any, step_size: Any, mismatch: Any, rate: Any) -> Any:
    """What contracts: the gap plus ``distance / (rate M step)``; numbers, arrays or symbols."""
    return gap + distance / (rate * mismatch * step_size)


def next_gap(gap: Any, distance: Any, left: Any, step_size: Any, mismatch: Any, rate: Any) -> Any:
    """The most that the gap can be after a step, when ``left`` remains of the distance (in the same visitation)."""
    return rate * gap + (distance - left) / (mismatch * step_size)


def constants(game: Game, policy: Array) -> Constants:
    """M and M' of a deterministic optimal policy, exactly, by two robust evaluations for each state."""
    mdp, states = game.mdp.restricted(policy.argmax(axis=1)), len(game.start)
    ones = np.ones((states, 1))

    def largest(costs: Array) -> float:
        charged = dataclasses.replace(mdp, costs=costs[:, None])
        return float(game.start @ evaluate(charged, game.nature, ones).values) / game.rise

    most = np.array([largest(row) for row in np.eye(states)])
    least = np.array([-largest(-row) for row in np.eye(states)])
    mismatch = float(np.max(most / game.start))
    return Constants(mismatch, float(np.max(most / least)), contraction(mismatch, mdp.discount))


def gaps_and_distances(game: Game, run: Trajectory, geometry: Geometry) -> tuple[Array, Array, Constants]:
    """Gaps ``f(policy) - f*`` and mean distances of the optimal policy to each policy, shape (K + 1,) both.

    The mean is over the optimal policy's visitation in the worst kernel of the current one.
    """
    plan = policy_iteration(game.mdp, game.nature)
    gaps = (run.values - plan.values) @ game.start
    distances = []
    for values, policy, logs in zip(run.values, run.policies, run.log_policies, strict=True):
        kernel = planning.worst_kernel(game.mdp, game.nature, values)
        # The KL divergence from a vertex is minus the logarithm of one probability.
        each = -logs[plan.policy == 1] if geometry == "kl" else np.sum((plan.policy - policy) ** 2, axis=1) / 2
        distances.append(visitation(game.mdp, kernel, plan.policy, game.start) @ each)
    return gaps, np.array(distances), constants(game, plan.policy)


def bound(gaps: Array, distances: Array, steps: Array, found: Constants, count: int) -> Array:
    """The theorem's bound on the gap after 0, 1, ..., ``count`` iterations."""
    first = potential(gaps[0], distances[0], steps[0], found.mismatch, found.rate)
    return first * found.rate ** np.arange(count + 1)


def floor(found: Constants, game: Game, error: float) -> float:
    """What the theorem leaves of the gap when the state-action values are off by ``error``."""
    return 2 * found.mismatch * error * game.rise**2


def nominal_values(game: Game) -> Estimate:
    """For controls: state-action values without nature's worst."""
    return lambda policy, evaluation: evaluate(game.mdp, NOMINAL, policy).q
