"""Policy mirror descent on one prompt: exact steps, regressions of log-ratios on rollouts, and softmax bandits.

A policy is a distribution over finitely many answers. The mirror-descent step at a temperature maximises the mean
reward minus ``temperature * KL(new || old)``. Trainers of language models fit it instead: they regress the log-ratio
of the new policy to the old one on ``(reward - baseline) / temperature``, over a group of rollouts. With the
log-partition for the baseline that is the mirror-descent step; with the mean reward it is another one, which
:func:`regression_step` finds exactly by Lambert's function.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import lambertw, log_softmax, logsumexp, wrightomega

from porism.arrays import check_finite, check_generator, check_number, floating, probabilities
from porism.divergences import kl_divergence_logits
from porism.errors import ParameterError
from porism.parameters import validated

Array = NDArray[np.float64]
Baseline = Literal["mean", "partition"]
Method = Literal["mean", "partition", "reinforce"]
METHODS: tuple[Method, ...] = ("mean", "partition", "reinforce")

# exp of more than this overflows; a ratio that large decides the sign of the normalisation all the same.
_LARGEST_EXPONENT = 700.0


class Step(NamedTuple):
    """One step from an old policy to a new one.

    Attributes
    ----------
    policy
        The new policy, shape (answers,).
    log_ratio
        ``log(new / old)`` in nats, shape (answers,).
    multiplier
        ``lambda``, of the constraint that the new policy sums to one: the weight of the squared ratio that the
        regression adds to the mirror-descent objective, in units of the temperature. 0 for the exact step.
    """

    policy: Array
    log_ratio: Array
    multiplier: float


def log_partition(policy: ArrayLike, reward: ArrayLike, *, temperature: float) -> float:
    """``temperature * log E exp(reward / temperature)`` under the policy, in units of reward.

    Raises
    ------
    ParameterError
        As :func:`regression_step`.

    Examples
    --------
    >>> round(log_partition([0.5, 0.5], [0.0, 1.0], temperature=0.1), 4)
    0.9307
    """
    policy, reward, temperature = _checked(policy, reward, temperature)
    return float(temperature * logsumexp(reward / temperature, b=policy))


def partition_step(policy: ArrayLike, reward: ArrayLike, *, temperature: float) -> Step:
    """The mirror-descent step: maximises ``E reward - temperature * KL(new || policy)``.

    Parameters and errors are those of :func:`regression_step`.

    Examples
    --------
    >>> partition_step([0.9, 0.1], [0.0, 1.0], temperature=0.5).policy.round(4)
    array([0.5491, 0.4509])
    """
    policy, reward, temperature = _checked(policy, reward, temperature)
    log_ratio = reward / temperature - logsumexp(reward / temperature, b=policy)
    return Step(policy * np.exp(np.where(policy > 0, log_ratio, 0.0)), log_ratio, 0.0)


def regression_step(policy: ArrayLike, reward: ArrayLike, *, temperature: float, baseline: float | None = None) -> Step:
    """The policy whose log-ratio ``s`` to the old one is nearest to ``(reward - baseline) / temperature``.

    Minimises ``E (target - s)^2`` under the old policy over normalised policies, in the limit of infinitely many
    rollouts. The solution is ``s + lambda exp(s) = target``, that is ``exp(s) = W(lambda exp(target)) / lambda``
    with Lambert's W, for the ``lambda`` with which the policy sums to one.

    Parameters
    ----------
    policy
        The old policy, shape (answers,). Answers without mass keep none.
    reward
        Shape (answers,), finite.
    temperature
        Positive, in units of reward.
    baseline
        What is taken off the reward, in its units; None is the mean reward under the policy (PMD-mean). At the
        :func:`log_partition` ``lambda`` is 0 and the step exact; a little above it ``lambda`` is negative.

    Returns
    -------
    Step
        With the mean reward for baseline, ``multiplier`` is ``KL(policy || new)``.

    Raises
    ------
    ParameterError
        If the policy is no distribution, the shapes differ, the reward is not finite, the temperature is not
        positive, or the baseline is so far above the log-partition that no policy satisfies the equation on W's
        principal branch.

    References
    ----------
    arXiv:2602.05933, population solution of PMD-mean; other baselines and the form without overflow (Wright's
    function ``W(exp(x))``) are derived in ``tests/papers/test_pmd_mean.py``.

    Examples
    --------
    >>> step = regression_step([0.9, 0.1], [0.0, 1.0], temperature=0.05)
    >>> step.policy.round(3), round(step.multiplier, 3)
    (array([0.1, 0.9]), 1.756)
    """
    policy, reward, temperature = _checked(policy, reward, temperature)
    centre = policy @ reward if baseline is None else check_number("baseline", baseline)
    # Centred first, lest a large common reward take the digits of small differences.
    target = ((reward - policy @ reward) - (centre - policy @ reward)) / temperature
    support = policy > 0
    multiplier = _multiplier(policy[support], target[support])
    log_ratio = _log_ratio(target, multiplier)
    return Step(policy * np.exp(np.where(support, log_ratio, 0.0)), log_ratio, multiplier)


def leave_one_out(
    rewards: ArrayLike, *, temperature: float = 1.0, baseline: Baseline = "mean", floor: float = 0.0
) -> Array:
    """Advantages of rollouts over a baseline from the other rollouts of their group.

    Parameters
    ----------
    rewards
        Shape (..., rollouts), one group in each row, at least two rollouts.
    temperature
        Of the partition, positive; without effect on the mean.
    baseline
        ``"mean"`` of the others; ``"partition"``, ``temperature * log mean exp(reward / temperature)`` of them.
    floor
        Smallest value, in [0, 1], of the mean exponential relative to the group's best. The authors' program has
        1e-8: then the only success of a group sees a baseline 18.4 temperatures below its own reward.

    Returns
    -------
    array of the shape of ``rewards``
        With the mean they sum to 0 in each group.

    Raises
    ------
    ParameterError
        If there is only one rollout in a group, rewards are not finite, or a parameter is out of its range.

    Examples
    --------
    >>> leave_one_out([1.0, 0.0, 0.0, 0.0]).round(3)
    array([ 1.   , -0.333, -0.333, -0.333])
    """
    _, (rewards,) = floating(rewards=rewards)
    check_finite(rewards=rewards)
    check_number("temperature", temperature, above=0)
    check_number("floor", floor, at_least=0, at_most=1)
    if rewards.ndim == 0 or rewards.shape[-1] < 2:
        raise ParameterError(f"rewards must have at least 2 rollouts in a group, got shape {rewards.shape}")
    group = rewards.shape[-1]
    if baseline == "mean":
        return group / (group - 1) * (rewards - rewards.mean(axis=-1, keepdims=True))
    if baseline != "partition":
        raise ParameterError(f"baseline must be 'mean' or 'partition', got {baseline!r}")
    best = rewards.max(axis=-1, keepdims=True)
    # A difference of sums would lose the others beside one large exponential.
    others = np.where(np.eye(group, dtype=bool), -np.inf, ((rewards - best) / temperature)[..., None, :])
    with np.errstate(divide="ignore"):
        mean = np.maximum(logsumexp(others, axis=-1) - np.log(group - 1), np.log(floor))
    return rewards - best - temperature * mean


def fit(
    logits: Array,
    answers: NDArray[np.int64],
    advantages: Array,
    *,
    temperature: float,
    step_size: float,
    steps: int,
    sampled_from: Array | None = None,
    penalty: bool = True,
) -> Array:
    """Full-batch gradient steps on a group of rollouts; many bandits at once.

    The loss of one rollout is ``temperature / 2 * (advantage / temperature - s)^2`` with the log-ratio ``s`` of its
    answer to the policy that it was sampled from. Its first gradient step is REINFORCE's.

    Parameters
    ----------
    logits
        Of the policies to start from, shape (bandits, answers).
    answers, advantages
        The sampled answers and their advantages, shape (bandits, rollouts).
    temperature
        Positive, in units of reward. The loss has curvature ``temperature`` in ``s``: ``step_size * temperature``
        of about 1 is as far as steps may go.
    step_size, steps
        Of gradient descent on the logits.
    sampled_from
        Logits of the policies that the rollouts come from, where these are stale; None is ``logits``.
    penalty
        Without it the log-ratio does not hold steps back: REINFORCE, neither clipped nor re-weighted.

    Returns
    -------
    array of shape (bandits, answers)
        The new logits, as log-probabilities.

    Examples
    --------
    >>> start, drawn = np.zeros((1, 3)), np.array([[0, 1]])
    >>> options = {"temperature": 1.0, "step_size": 0.5, "steps": 200}
    >>> np.exp(fit(start, drawn, np.array([[0.5, -0.5]]), **options)).round(3)  # exp(0.5) / 3, exp(-0.5) / 3, the rest
    array([[0.55 , 0.202, 0.248]])
    """
    size = logits.shape[-1]
    drawn = answers[..., None] == np.arange(size)
    share, advantage = drawn.mean(axis=1), np.mean(drawn * advantages[..., None], axis=1)
    start = log_softmax(logits if sampled_from is None else sampled_from, axis=-1)
    current = log_softmax(logits, axis=-1)
    for _ in range(steps):
        pull = advantage - temperature * share * (current - start) if penalty else advantage
        # d s_y / d logit_k = (y = k) - policy_k
        current = current + step_size * (pull - np.exp(current) * pull.sum(axis=-1, keepdims=True))
        current = log_softmax(current, axis=-1)
    return current


@validated
def simulate(
    rng: np.random.Generator,
    *,
    method: Method = "mean",
    answers: Annotated[int, Interval(ge=2, le=2000)] = 50,
    good: Annotated[int, Interval(ge=1, le=1000)] = 3,
    success: Annotated[float, Interval(gt=0, lt=1)] = 0.05,
    noise: Annotated[float, Interval(ge=0, le=0.5)] = 0.0,
    rollouts: Annotated[int, Interval(ge=2, le=1024)] = 16,
    temperature: Annotated[float, Interval(gt=0, le=1000)] = 0.05,
    step_size: Annotated[float, Interval(gt=0, le=1e6)] = 10.0,
    inner_steps: Annotated[int, Interval(ge=1, le=10_000)] = 200,
    updates: Annotated[int, Interval(ge=1, le=10_000)] = 20,
    delay: Annotated[int, Interval(ge=0, le=100)] = 0,
    repetitions: Annotated[int, Interval(ge=1, le=10_000)] = 20,
) -> dict[str, Array]:
    """Train softmax bandits on groups of rollouts, from a policy that rarely succeeds.

    Parameters
    ----------
    rng
        Draws rollouts and mistakes of the rewards.
    method
        Regression with a leave-one-out ``"mean"`` or ``"partition"`` for baseline, or ``"reinforce"`` with the mean.
    answers, good
        Number of answers, and how many of them are right (reward 1, others 0), fewer than ``answers``.
    success
        Probability of a right answer at the start, shared evenly among these; the wrong ones share the rest.
    noise
        Probability that a rollout's reward is the wrong one, as of a verifier that errs.
    rollouts
        In the group of one update.
    temperature, step_size, inner_steps
        As :func:`fit`; a small step size times many inner steps fits the regression to its end.
    updates
        Groups in succession.
    delay
        Updates that rollouts come late: they are sampled from the policy of so many updates ago.
    repetitions
        Independent bandits.

    Returns
    -------
    dict
        ``reward``, the exact probability of a right answer after each update, shape (repetitions, updates + 1), and
        ``kl``, of the old policy to the new one in nats, shape (repetitions, updates).

    Raises
    ------
    ParameterError
        If a parameter is out of its range, or ``good`` is not below ``answers``.

    Examples
    --------
    >>> simulate(np.random.default_rng(0), updates=5)["reward"].shape
    (20, 6)
    """
    check_generator(rng)
    if good >= answers:
        raise ParameterError(f"good must be below answers, got {good} of {answers}")
    right = np.arange(answers) < good
    start = np.where(right, success / good, (1 - success) / (answers - good))
    history = [np.tile(np.log(start), (repetitions, 1))]
    for update in range(updates):
        behind = history[max(0, update - delay)]
        drawn = _sample(rng, behind, rollouts)
        flipped = rng.random(drawn.shape) < noise
        rewards = np.where(right[drawn] ^ flipped, 1.0, 0.0)
        baseline: Baseline = "partition" if method == "partition" else "mean"
        advantages = leave_one_out(rewards, temperature=temperature, baseline=baseline)
        rule: dict[str, Any] = {"temperature": temperature, "step_size": step_size, "steps": inner_steps}
        new = fit(history[-1], drawn, advantages, **rule, sampled_from=behind, penalty=method != "reinforce")
        history.append(new)
    reward = np.stack([np.exp(logits)[:, right].sum(axis=1) for logits in history], axis=1)
    steps = [kl_divergence_logits(old, new) for old, new in itertools.pairwise(history)]
    return {"reward": reward, "kl": np.stack(steps, axis=1)}


def _sample(rng: np.random.Generator, logits: Array, rollouts: int) -> NDArray[np.int64]:
    """Answers of shape (bandits, rollouts) from log-probabilities of shape (bandits, answers)."""
    cumulative = np.cumsum(np.exp(logits), axis=-1)
    drawn = rng.random((len(logits), rollouts)) * cumulative[:, -1:]
    return np.sum(drawn[..., None] > cumulative[:, None, :], axis=-1)


def _checked(policy: ArrayLike, reward: ArrayLike, temperature: float) -> tuple[Array, Array, float]:
    xp, (policy, reward) = floating(policy=policy, reward=reward)
    if policy.ndim != 1 or policy.shape != reward.shape:
        raise ParameterError(f"policy and reward must have one shape (answers,), got {policy.shape} and {reward.shape}")
    check_finite(reward=reward)
    (policy,) = probabilities(xp, axis=-1, policy=policy)
    return policy / policy.sum(), reward, check_number("temperature", temperature, above=0, below=np.inf)


def _log_ratio(target: Array, multiplier: float) -> Array:
    """The ``s`` with ``s + multiplier exp(s) = target``, on the branch through ``s = target`` at 0."""
    if multiplier == 0:
        return target
    shifted = target + np.log(abs(multiplier))
    if multiplier < 0:
        return target - lambertw(-np.exp(shifted)).real
    # W(exp(x)) without the exponential; of two equal forms the one that does not cancel.
    lambert = wrightomega(shifted)
    with np.errstate(divide="ignore"):
        return np.where(shifted > 0, np.log(lambert) - np.log(multiplier), target - lambert)


def _multiplier(policy: Array, target: Array) -> float:
    """The ``lambda`` with which ``policy * exp(s)`` sums to one; it falls as ``lambda`` rises."""

    def excess(multiplier: float) -> float:
        return float(policy @ np.expm1(np.minimum(_log_ratio(target, multiplier), _LARGEST_EXPONENT)))

    largest = float(target.max())
    if excess(0.0) > 0:
        # Where lambda is at least every target, no s is positive. From there downwards in longer and longer strides.
        high, stride = np.log(largest), 1.0
        while excess(np.exp(high - stride)) <= 0:
            high, stride = high - stride, 2 * stride
            if high < -_LARGEST_EXPONENT:
                return 0.0
        return float(np.exp(brentq(lambda log: excess(np.exp(log)), high - stride, high, xtol=1e-15, rtol=1e-14)))
    # The branch ends at -1/e; Lambert's function is no number if rounding falls beyond.
    last = float(np.exp(-1 - largest)) * (1 - 1e-12)
    if excess(-last) < 0:
        raise ParameterError("baseline must not be so far above the log-partition: no policy solves the equation")
    return 0.0 - float(brentq(lambda multiplier: excess(-multiplier), 0.0, last, xtol=1e-300, rtol=1e-14))
