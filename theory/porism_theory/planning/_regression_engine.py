"""What claims and figures on regressed log-ratios share: random prompts, steps by brute force, the binary case.

Everything exact is in ``porism_sims.policy_regression``; here it is compared with optimisers that know nothing of
Lambert's function, with limits at small temperature, and with its own fits on rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import binom

from porism.divergences import kl_divergence, pearson_chi2
from porism_sims import policy_regression as sim
from porism_sims.random_distributions import distribution

Array = NDArray[np.float64]
Rng = np.random.Generator


class Prompt(NamedTuple):
    """A policy over answers, and their rewards; shape (answers,) each."""

    policy: Array
    reward: Array


def prompt(rng: Rng, answers: int, spread: float, *, binary: bool = False) -> Prompt:
    """A random policy with log-weights of deviation ``spread``, and rewards in [0, 1] of which two differ.

    Examples
    --------
    >>> prompt(np.random.default_rng(0), 3, 1.0, binary=True).reward
    array([0., 0., 1.])
    """
    policy = distribution(rng, size=answers, spread=spread)
    reward = rng.random(answers)
    if binary:
        reward = (reward > np.median(reward)).astype(float)
    return Prompt(policy, reward)


def regress_numerically(policy: Array, reward: Array, temperature: float) -> Array:
    """The policy that minimises the loss of PMD-mean, by a quasi-Newton search over logits.

    Examples
    --------
    >>> regress_numerically(np.array([0.9, 0.1]), np.array([0.0, 1.0]), 0.05).round(3)
    array([0.1, 0.9])
    """
    target = (reward - policy @ reward) / temperature

    def loss(logits: Array) -> tuple[float, Array]:
        residual = policy * (target - log_softmax(logits) + np.log(policy))
        return float(residual**2 @ (1 / policy)) / 2, softmax(logits) * residual.sum() - residual

    return _search(loss, policy)


def regularise_numerically(policy: Array, reward: Array, temperature: float, weight: float) -> Array:
    """The policy that maximises ``E reward - temperature (KL + weight / 2 chi2)``, by the same search.

    Examples
    --------
    >>> regularise_numerically(np.array([0.9, 0.1]), np.array([0.0, 1.0]), 0.05, 1.7562).round(3)
    array([0.1, 0.9])
    """

    def loss(logits: Array) -> tuple[float, Array]:
        new = softmax(logits)
        value = new @ reward / temperature - kl_divergence(new, policy) - weight / 2 * pearson_chi2(new, policy)
        slope = reward / temperature - log_softmax(logits) + np.log(policy) - weight * new / policy
        return -float(value), -new * (slope - new @ slope)

    return _search(loss, policy)


def _search(loss: Callable[[Array], tuple[float, Array]], policy: Array) -> Array:
    found = minimize(loss, np.log(policy), jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 2000})
    return np.asarray(softmax(found.x))


class Binary(NamedTuple):
    """A step with two answers: ``lambda``, and the log-ratios of the right and of the wrong one."""

    multiplier: float
    right: float
    wrong: float


def binary_step(success: float, temperature: float, *, baseline: str = "mean") -> Binary:
    """The step of ``"mean"`` or ``"partition"`` where a right answer (reward 1) has probability ``success``.

    Examples
    --------
    >>> [round(value, 3) for value in binary_step(0.1, 0.05)]
    [1.756, 2.197, -2.195]
    """
    step = sim.regression_step if baseline == "mean" else sim.partition_step
    found = step([1 - success, success], [0.0, 1.0], temperature=temperature)
    return Binary(found.multiplier, float(found.log_ratio[1]), float(found.log_ratio[0]))


def binary_limit(success: float, temperature: float, *, baseline: str = "mean") -> Binary:
    """What :func:`binary_step` tends to at small temperature.

    Examples
    --------
    >>> [round(value, 3) for value in binary_limit(0.1, 0.05)]
    [1.8, 2.303, -2.0]
    """
    right = float(-np.log(success))
    if baseline == "partition":
        return Binary(0.0, right, right - 1 / temperature)
    return Binary(success * (1 - success) / temperature, right, -success / temperature)


class Deviations(NamedTuple):
    """Root mean squares of what the baselines of a group err by, in units of the regression's target."""

    mean: float
    partition: float


def baseline_deviations(success: float, rollouts: int, temperature: float) -> Deviations:
    """Errors of both baselines from a group of rollouts with rewards 0 and 1, exactly.

    The mean's is ``sqrt(p (1 - p) / n) / temperature``. The partition's is a sum over the binomial number of
    successes; without any, which has probability ``(1 - p)^n``, it misses by the whole log-partition, about
    ``1 / temperature - log(1 / p)``.

    Examples
    --------
    >>> [round(value, 2) for value in baseline_deviations(0.05, 16, 0.05)]
    [1.09, 11.29]
    """
    count = np.arange(rollouts + 1)
    missed = log_partition(count / rollouts, temperature) - log_partition(success, temperature)
    mean = np.sqrt(success * (1 - success) / rollouts) / temperature
    return Deviations(float(mean), float(np.sqrt(binom.pmf(count, rollouts, success) @ missed**2)))


def fitted(rng: Rng, start: Prompt, *, rollouts: int, temperature: float, groups: int) -> Array:
    """Log-ratios that gradient descent fits to groups of rollouts, shape (groups, answers)."""
    logits = np.tile(np.log(start.policy), (groups, 1))
    drawn = rng.choice(start.policy.size, p=start.policy, size=(groups, rollouts))
    advantages = sim.leave_one_out(start.reward[drawn])
    # Half the largest stable step, until the rarest answer that is sampled has been fitted.
    options = {"temperature": temperature, "step_size": 0.5 / temperature, "steps": 2000}
    return sim.fit(logits, drawn, advantages, **options) - logits


def share_of_losses(rng: Rng, method: sim.Method) -> float:
    """Share of the updates that lower the expected reward by a thousandth, where one reward in ten is wrong."""
    return float(np.mean(np.diff(sim.simulate(rng, method=method, noise=0.1)["reward"]) < -1e-3))


def final_reward(rng: Rng, method: sim.Method) -> float:
    """Mean expected reward of 100 bandits after 20 updates, where one reward in five is wrong."""
    return float(sim.simulate(rng, method=method, noise=0.2, repetitions=100)["reward"][:, -1].mean())


def log_partition(success: Any, temperature: float) -> Any:
    """``log E exp(reward / temperature)`` of rewards 0 and 1."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-success), np.log(success) + 1 / temperature)
