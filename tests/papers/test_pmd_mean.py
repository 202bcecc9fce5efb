"""pmd_mean: Lambert's form against plain arithmetic and searches, its identities, leave-one-out baselines against loops,
gradients against finite differences, the closed forms against sums of their own, and messages for bad input.

Derived here. The loss E (t - s)^2 / 2 under the old policy, with E exp(s) = 1 and a multiplier lambda, is stationary
where s + lambda exp(s) = t; with w = lambda exp(s) that is w exp(w) = lambda exp(t), Lambert's equation, whatever the
baseline in t. In x = t + log lambda it reads w + log w = x, Wright's omega, which does not overflow. Averaged under the
old policy it says lambda = E t + KL(old || new); under new minus old, that the reward gained is
tau (KL(new || old) + KL(old || new) + lambda chi2). As exp(s) falls where lambda rises, lambda >= 0 just as
E exp(t) >= 1, that is for baselines up to tau log E exp(r / tau). For lambda < 0 the branch ends where w = -1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, brentq
from scipy.special import lambertw, log_softmax
from scipy.stats import binom

from porism.divergences import kl_divergence, pearson_chi2
from porism.errors import ParameterError
from porism_sims import policy_regression as sim
from porism_theory.planning import _regression_engine as theory

SEEDS = st.integers(0, 2**32 - 1)
TEMPERATURES = st.floats(0.01, 100)


def drawn(seed: int, answers: int = 6, spread: float = 1.0, binary: bool = False) -> theory.Prompt:
    return theory.prompt(np.random.default_rng(seed), answers, spread, binary=binary)


# Steps


@pytest.mark.parametrize(
    ("success", "multiplier", "right", "wrong", "new", "ideal"),
    [
        (0.01, 0.426, 3.636, -0.467, 0.379, -15.4),
        (0.1, 1.756, 2.197, -2.195, 0.900, -17.7),
        (0.5, 4.654, 0.693, -10.0, 1, -19.3),
    ],
)
def test_reference_values_at_temperature_005(
    success: float, multiplier: float, right: float, wrong: float, new: float, ideal: float
) -> None:
    step = sim.regression_step([1 - success, success], [0, 1], temperature=0.05)
    assert step.multiplier == pytest.approx(multiplier, abs=5e-4)
    np.testing.assert_allclose(step.log_ratio, [wrong, right], atol=5e-4)
    assert step.policy[1] == pytest.approx(new, abs=5e-4)
    exact = sim.partition_step([1 - success, success], [0, 1], temperature=0.05)
    assert exact.log_ratio[0] == pytest.approx(ideal, abs=0.05)


@given(SEEDS, st.floats(0.05, 100), st.booleans())
def test_the_step_is_lamberts_function_written_out(seed: int, temperature: float, binary: bool) -> None:
    policy, reward = drawn(seed, binary=binary)
    target = (reward - policy @ reward) / temperature
    # scipy's Lambert function with the exponential that the simulator avoids, and a root of its own
    total = lambda lam: policy @ (lambertw(lam * np.exp(target)).real / lam) - 1  # noqa: E731
    lam = brentq(total, 1e-12, target.max() + 1e-9, xtol=1e-15, rtol=1e-14)
    step = sim.regression_step(policy, reward, temperature=temperature)
    assert step.multiplier == pytest.approx(lam, rel=1e-5, abs=1e-11)
    np.testing.assert_allclose(step.policy, policy * lambertw(lam * np.exp(target)).real / lam, rtol=1e-6)
    np.testing.assert_allclose(step.log_ratio + step.multiplier * np.exp(step.log_ratio), target, atol=1e-9)


@given(SEEDS, TEMPERATURES, st.floats(-2, 1))
def test_other_baselines_solve_their_equation(seed: int, temperature: float, share: float) -> None:
    policy, reward = drawn(seed)
    mean, top = policy @ reward, sim.log_partition(policy, reward, temperature=temperature)
    baseline = mean + share * (top - mean)
    step = sim.regression_step(policy, reward, temperature=temperature, baseline=baseline)
    target = (reward - baseline) / temperature
    np.testing.assert_allclose(step.log_ratio + step.multiplier * np.exp(step.log_ratio), target, atol=1e-9, rtol=1e-9)
    assert step.policy.sum() == pytest.approx(1, abs=1e-9)
    assert step.multiplier >= -1e-9
    assert step.multiplier == pytest.approx((mean - baseline) / temperature - policy @ step.log_ratio, abs=1e-9)


def test_the_log_partition_for_baseline_gives_the_exact_step_and_a_little_more_a_negative_multiplier() -> None:
    policy, reward = drawn(3)
    top = sim.log_partition(policy, reward, temperature=0.2)
    exact = sim.partition_step(policy, reward, temperature=0.2)
    same = sim.regression_step(policy, reward, temperature=0.2, baseline=top)
    np.testing.assert_allclose(same.policy, exact.policy, atol=1e-12)
    assert abs(same.multiplier) < 1e-12
    above = sim.regression_step(policy, reward, temperature=0.2, baseline=top + 0.01)
    assert above.multiplier < 0
    np.testing.assert_allclose(
        above.log_ratio + above.multiplier * np.exp(above.log_ratio), (reward - top - 0.01) / 0.2, atol=1e-9
    )
    assert above.policy.sum() == pytest.approx(1, abs=1e-12)
    with pytest.raises(ParameterError, match="baseline must not be so far above the log-partition"):
        sim.regression_step(policy, reward, temperature=0.2, baseline=top + 1)


def test_the_branch_is_followed_to_its_end() -> None:
    low, high = sim.log_partition([0.9, 0.1], [0, 1], temperature=0.2), 1.5
    for _ in range(60):
        middle = (low + high) / 2
        try:
            step = sim.regression_step([0.9, 0.1], [0, 1], temperature=0.2, baseline=middle)
            low = middle
        except ParameterError:
            high = middle
    step = sim.regression_step([0.9, 0.1], [0, 1], temperature=0.2, baseline=low)
    assert step.policy.sum() == pytest.approx(1, abs=1e-9)
    assert step.multiplier * np.exp(step.log_ratio[1]) == pytest.approx(-1, abs=1e-3)  # where W is -1


def test_the_exact_step_is_the_tilted_policy() -> None:
    policy, reward = drawn(4)
    tilted = policy * np.exp(reward / 0.3)
    step = sim.partition_step(policy, reward, temperature=0.3)
    np.testing.assert_allclose(step.policy, tilted / tilted.sum(), rtol=1e-12)
    assert sim.log_partition(policy, reward, temperature=0.3) == pytest.approx(0.3 * np.log(tilted.sum()))
    np.testing.assert_allclose(step.log_ratio, (reward - 0.3 * np.log(tilted.sum())) / 0.3, rtol=1e-12)


@given(SEEDS, TEMPERATURES, st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.booleans())
def test_properties_of_the_step(seed: int, temperature: float, offset: float, unit: float, binary: bool) -> None:
    policy, reward = drawn(seed, spread=2.0, binary=binary)
    step = sim.regression_step(policy, reward, temperature=temperature)
    assert step.policy.sum() == pytest.approx(1, abs=1e-10)
    assert step.multiplier > 0
    assert np.all(np.diff(step.log_ratio[np.argsort(reward)]) >= -1e-12 / temperature)
    assert np.all(step.log_ratio <= (reward - policy @ reward) / temperature + 1e-12)
    moved = sim.regression_step(policy, unit * reward + offset, temperature=unit * temperature)
    np.testing.assert_allclose(
        moved.log_ratio, step.log_ratio, atol=1e-11 * (1 + abs(offset) / unit) / temperature + 1e-9
    )
    forward, backward = kl_divergence(step.policy, policy, normalize=True), -policy @ step.log_ratio
    squared = pearson_chi2(step.policy, policy, normalize=True)
    gained = (step.policy - policy) @ reward / temperature
    assert gained == pytest.approx(forward + backward + step.multiplier * squared, rel=1e-5)


def test_tiny_and_huge_temperatures() -> None:
    policy, reward = np.array([0.899, 0.1, 0.001]), np.array([0.0, 0.5, 1.0])
    step = sim.regression_step(policy, reward, temperature=1e-6)  # exp of a million
    assert np.all(np.isfinite(step.log_ratio))
    assert step.policy.sum() == pytest.approx(1)
    assert step.multiplier == pytest.approx(-policy @ step.log_ratio)
    for temperature in (1e3, 1e6, 1e9):  # half the variance of the target, to first order
        step = sim.regression_step(policy, reward, temperature=temperature)
        variance = policy @ (reward - policy @ reward) ** 2 / temperature**2
        assert step.multiplier == pytest.approx(variance / 2, rel=1e-2)


def test_constant_rewards_and_answers_without_mass() -> None:
    still = sim.regression_step([0.25, 0.75], [2.0, 2.0], temperature=0.1)
    assert still.multiplier == 0
    np.testing.assert_array_equal(still.policy, [0.25, 0.75])
    # The best answer has no mass and keeps none; the others do not see it.
    step = sim.regression_step([0.9, 0.1, 0.0], [0.0, 1.0, 50.0], temperature=0.05)
    two = sim.regression_step([0.9, 0.1], [0.0, 1.0], temperature=0.05)
    np.testing.assert_allclose(step.policy, [*two.policy, 0.0], atol=1e-12)
    assert sim.partition_step([0.9, 0.1, 0.0], [0.0, 1.0, 50.0], temperature=0.05).policy[2] == 0


@given(SEEDS, st.floats(0.02, 10), st.booleans())
def test_searches_find_the_step(seed: int, temperature: float, binary: bool) -> None:
    policy, reward = drawn(seed, 5, binary=binary)
    step = sim.regression_step(policy, reward, temperature=temperature)
    np.testing.assert_allclose(theory.regress_numerically(policy, reward, temperature), step.policy, atol=1e-6)
    found = theory.regularise_numerically(policy, reward, temperature, step.multiplier)
    np.testing.assert_allclose(found, step.policy, atol=1e-5)


def test_the_small_temperature_limits_are_limits() -> None:
    for success in (0.05, 0.3, 0.9):
        for baseline in ("mean", "partition"):
            found, limit = (f(success, 1e-4, baseline=baseline) for f in (theory.binary_step, theory.binary_limit))
            np.testing.assert_allclose(found, limit, rtol=1e-3)


# Baselines of groups


@given(SEEDS, st.integers(2, 9), st.floats(0.01, 5), st.sampled_from([0.0, 1e-8, 0.1]))
def test_leave_one_out_is_a_loop(seed: int, group: int, temperature: float, floor: float) -> None:
    rewards = np.random.default_rng(seed).random((3, group))
    means, partitions = np.empty_like(rewards), np.empty_like(rewards)
    for row, i in np.ndindex(*rewards.shape):
        others = np.delete(rewards[row], i)
        means[row, i] = rewards[row, i] - others.mean()
        best = rewards[row].max()
        mean = max(np.mean(np.exp((others - best) / temperature)), floor)
        partitions[row, i] = rewards[row, i] - best - temperature * np.log(mean)
    options: dict[str, Any] = {"temperature": temperature, "baseline": "partition", "floor": floor}
    np.testing.assert_allclose(sim.leave_one_out(rewards), means, atol=1e-12)
    np.testing.assert_allclose(sim.leave_one_out(rewards, **options), partitions, atol=1e-9)
    np.testing.assert_allclose(sim.leave_one_out(rewards).sum(axis=1), 0, atol=1e-12)


def test_the_only_success_of_a_group_and_the_floor_of_the_program() -> None:
    rewards = np.array([1.0, 0.0, 0.0, 0.0])
    exact = sim.leave_one_out(rewards, temperature=0.01, baseline="partition")
    assert exact[0] == pytest.approx(1)  # its baseline is 0, the others' common reward
    np.testing.assert_allclose(exact[1:], -1 - 0.01 * np.log(1 / 3), atol=1e-12)
    floored = sim.leave_one_out(rewards, temperature=0.01, baseline="partition", floor=1e-8)
    assert floored[0] == pytest.approx(0.184, abs=1e-3)
    assert np.all(sim.leave_one_out(np.zeros(4), temperature=0.01, baseline="partition") == 0)


@pytest.mark.parametrize(("success", "rollouts", "temperature"), [(0.05, 16, 0.05), (0.4, 16, 0.05), (0.3, 5, 0.3)])
def test_deviations_of_baselines_are_sums_over_groups(success: float, rollouts: int, temperature: float) -> None:
    reward = np.arange(2.0)
    truth = sim.log_partition([1 - success, success], reward, temperature=temperature) / temperature
    squares = 0.0
    for count in range(rollouts + 1):
        share = count / rollouts
        missed = sim.log_partition([1 - share, share], reward, temperature=temperature) / temperature - truth
        squares += binom.pmf(count, rollouts, success) * missed**2
    found = theory.baseline_deviations(success, rollouts, temperature)
    assert found.partition == pytest.approx(squares**0.5, rel=1e-9)
    share = np.random.default_rng(0).binomial(rollouts, success, size=200_000) / rollouts
    assert found.mean == pytest.approx((share / temperature).std(), rel=0.01)


def test_without_a_success_the_partition_misses_by_all_of_it() -> None:
    success, temperature = 0.01, 0.02
    miss = theory.log_partition(success, temperature) - theory.log_partition(0.0, temperature)
    assert miss == pytest.approx(1 / temperature - np.log(1 / success), abs=1e-6)


# Fits on rollouts and bandits


@pytest.mark.parametrize("penalty", [True, False])
def test_a_gradient_step_is_that_of_the_loss(penalty: bool) -> None:
    rng = np.random.default_rng(0)
    logits, stale = rng.normal(size=(2, 1, 5))
    answers, advantages = rng.integers(5, size=(1, 8)), rng.normal(size=(1, 8))
    tau = 0.3

    def loss(theta: Any) -> float:
        s = (log_softmax(theta) - log_softmax(stale[0]))[answers[0]]
        return float(np.mean(tau / 2 * (advantages[0] / tau - s) ** 2 if penalty else -advantages[0] * s))

    rule = {"temperature": tau, "step_size": 0.1, "steps": 1}
    new = sim.fit(logits, answers, advantages, **rule, sampled_from=stale, penalty=penalty)
    expected = log_softmax(logits[0] - 0.1 * approx_fprime(logits[0], loss, 1e-7))
    np.testing.assert_allclose(new[0], expected, atol=1e-6)


def test_a_fit_to_many_rollouts_is_the_population_step() -> None:
    given_prompt = theory.Prompt(np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.4, 0.0]))
    step = sim.regression_step(*given_prompt, temperature=0.2)
    fits = theory.fitted(np.random.default_rng(1), given_prompt, rollouts=20_000, temperature=0.2, groups=10)
    np.testing.assert_allclose(fits.mean(axis=0), step.log_ratio, atol=0.03)


def test_rollouts_have_the_probabilities_of_the_policy() -> None:
    logits = np.log([[0.1, 0.2, 0.7], [0.5, 0.5, 1e-300]])
    answers = sim._sample(np.random.default_rng(2), logits, 40_000)
    for row, policy in zip(answers, np.exp(logits), strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / 40_000, policy, atol=0.01)


def test_bandits_learn_repeat_and_start_where_they_are_told() -> None:
    settings: dict[str, Any] = {"updates": 6, "repetitions": 8, "success": 0.2}
    for method in sim.METHODS:
        first, again = (sim.simulate(np.random.default_rng(3), method=method, **settings) for _ in range(2))
        assert first["reward"].tobytes() == again["reward"].tobytes()
        assert first["reward"].shape == (8, 7) and first["kl"].shape == (8, 6)
        np.testing.assert_allclose(first["reward"][:, 0], 0.2)
        assert first["reward"][:, -1].mean() > 0.6
        assert np.all(first["kl"] >= 0)
        assert np.all(np.diff(first["reward"]) > -1e-9)  # with right rewards none of them loses any


@pytest.mark.parametrize("method", sim.METHODS)
def test_an_update_is_sampling_judging_and_fitting(method: sim.Method) -> None:
    settings: dict[str, Any] = {
        "answers": 6,
        "good": 2,
        "success": 0.3,
        "rollouts": 5,
        "noise": 0.4,
        "temperature": 0.2,
    }
    found = sim.simulate(np.random.default_rng(6), method=method, **settings, updates=1, repetitions=7, inner_steps=9)
    rng, policy = np.random.default_rng(6), np.array([0.15, 0.15, 0.175, 0.175, 0.175, 0.175])
    logits = np.log(np.tile(policy, (7, 1)))
    answers = sim._sample(rng, logits, 5)
    rewards = np.abs((answers < 2) - 1.0 * (rng.random((7, 5)) < 0.4))
    baseline: Any = "partition" if method == "partition" else "mean"
    advantages = sim.leave_one_out(rewards, temperature=0.2, baseline=baseline)
    rule: dict[str, Any] = {"temperature": 0.2, "step_size": 10.0, "steps": 9, "penalty": method != "reinforce"}
    new = np.exp(sim.fit(logits, answers, advantages, **rule))
    np.testing.assert_allclose(found["reward"][:, 1], new[:, :2].sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(found["kl"][:, 0], kl_divergence(np.tile(policy, (7, 1)), new), rtol=1e-6)


def test_a_delay_looks_back_and_the_first_updates_see_the_start() -> None:
    settings: dict[str, Any] = {"updates": 1, "repetitions": 3}
    now, late = (sim.simulate(np.random.default_rng(4), delay=delay, **settings)["reward"] for delay in (0, 5))
    np.testing.assert_array_equal(now, late)
    settings["updates"] = 3
    now, late = (sim.simulate(np.random.default_rng(4), delay=delay, **settings)["reward"] for delay in (0, 1))
    np.testing.assert_array_equal(now[:, :2], late[:, :2])
    assert not np.array_equal(now[:, 2:], late[:, 2:])


def test_the_first_inner_step_is_reinforces() -> None:
    settings: dict[str, Any] = {"inner_steps": 1, "noise": 0.2, "updates": 4}
    mean, reinforce = (
        sim.simulate(np.random.default_rng(5), method=m, **settings)["reward"] for m in ("mean", "reinforce")
    )
    np.testing.assert_allclose(mean, reinforce, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sim.regression_step([0.5, 0.6], [0, 1], temperature=1), "policy"),
        (lambda: sim.regression_step([-0.5, 1.5], [0, 1], temperature=1), "policy"),
        (lambda: sim.regression_step([0.5, 0.5], [0, 1, 2], temperature=1), "policy and reward must have one shape"),
        (lambda: sim.regression_step([], [], temperature=1), "policy"),
        (lambda: sim.regression_step([0.5, 0.5], [0, np.inf], temperature=1), "reward must be finite"),
        (lambda: sim.regression_step([0.5, 0.5], [0, 1], temperature=0), "temperature must be a number above 0"),
        (lambda: sim.partition_step([0.5, 0.5], [0, 1], temperature=np.inf), "temperature"),
        (lambda: sim.regression_step([0.5, 0.5], [0, 1], temperature=1, baseline=np.nan), "baseline must be a number"),
        (lambda: sim.log_partition([0.5, 0.5], [0, np.nan], temperature=1), "reward must be finite"),
        (lambda: sim.leave_one_out([1.0]), "rewards must have at least 2 rollouts"),
        (lambda: sim.leave_one_out([1.0, np.nan]), "rewards must be finite"),
        (lambda: sim.leave_one_out([1.0, 0.0], baseline="median"), "baseline must be 'mean' or 'partition'"),  # type: ignore[arg-type]
        (lambda: sim.leave_one_out([1.0, 0.0], floor=2.0), "floor must be a number at least 0"),
        (lambda: sim.leave_one_out([1.0, 0.0], temperature=-1.0), "temperature must be a number above 0"),
        (lambda: sim.simulate(np.random.default_rng(0), good=50), "good must be below answers"),
        (lambda: sim.simulate(np.random.default_rng(0), rollouts=1), "rollouts must be"),
        (lambda: sim.simulate(7), "rng must be a numpy Generator"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        call()
