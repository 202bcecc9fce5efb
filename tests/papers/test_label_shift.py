"""label_shift: the discriminant against plain linear algebra and scikit-learn; the closed forms against quadrature,
algebra of their own and simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import null_space
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import ks_2samp
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from porism.errors import ParameterError
from porism_sims import label_shift as sim
from porism_theory.statistics import _covariance_engine as general
from porism_theory.statistics import _engine as theory
from porism_theory.statistics import _label_shift_experiments as measure
from porism_theory.statistics import _phase_engine as phase

SEEDS = st.integers(0, 2**32 - 1)
INTERCEPTS: tuple[Any, ...] = ("none", "prior", "debiased")
LIMITS: tuple[Any, ...] = ("pseudo", "ridgeless")
PAIRS = [(signal, ratio) for signal in (4.0, 9.0, 25.0) for ratio in (1.5, 3.0, 10.0)]


def draw(seed: int, dimension: int, n0: int, n1: int, condition: float = 1.0) -> tuple[Any, Any, Any, Any]:
    """Two samples, the true means and variances."""
    rng = np.random.default_rng(seed)
    means, variances = sim.geometry(dimension, 9.0, condition)
    return sim.draw_class(rng, n0, means[0], variances), sim.draw_class(rng, n1, means[1], variances), means, variances


def pooled_covariance(class0: Any, class1: Any) -> Any:
    n0, n1 = len(class0), len(class1)
    return ((n0 - 1) * np.cov(class0.T) + (n1 - 1) * np.cov(class1.T)) / (n0 + n1 - 2)


def errors_of(class0: Any, class1: Any, means: Any, covariance: Any, **rule: Any) -> tuple[float, float]:
    return sim.class_errors(sim.discriminant(sim.summarise(class0, class1), **rule), means, covariance)


# The simulator


@pytest.mark.parametrize(("dimension", "ridge"), [(8, 0.0), (8, 0.3), (40, 0.0), (40, 0.3), (40, 1e-4), (24, 0.3)])
def test_weights_are_those_of_the_matrix_written_out(dimension: int, ridge: float) -> None:
    class0, class1, *_ = draw(0, dimension, 15, 10, condition=5.0)
    covariance = pooled_covariance(class0, class1)
    matrix = np.linalg.pinv(covariance, hermitian=True, rcond=1e-10)
    if ridge:
        matrix = np.linalg.inv(covariance + ridge * np.eye(dimension))
    rule = sim.discriminant(sim.summarise(class0, class1), ridge=ridge)
    np.testing.assert_allclose(rule.weights, matrix @ (class1.mean(axis=0) - class0.mean(axis=0)), rtol=1e-7, atol=1e-9)
    midpoint = (class0.mean(axis=0) + class1.mean(axis=0)) / 2
    assert rule.weights @ midpoint + rule.offset == pytest.approx(0, abs=1e-8)


def test_a_vanishing_ridge_keeps_what_the_pseudo_inverse_deletes() -> None:
    class0, class1, *_ = draw(1, 60, 20, 12)
    kernel = null_space(pooled_covariance(class0, class1), rcond=1e-10)
    piled = kernel @ (kernel.T @ (class1.mean(axis=0) - class0.mean(axis=0)))
    weights = sim.discriminant(sim.summarise(class0, class1), ridge=1e-8).weights
    np.testing.assert_allclose(weights / np.linalg.norm(weights), piled / np.linalg.norm(piled), atol=1e-6)
    assert abs(sim.discriminant(sim.summarise(class0, class1)).weights @ piled) < 1e-9


def test_agrees_with_scikit_learn_without_prior() -> None:
    # Of its solvers only svd pools the classes by their sizes whatever the priors; its scale, which does not
    # matter without a prior, is another one.
    class0, class1, *_ = draw(2, 6, 40, 20, condition=4.0)
    x, y = np.concatenate([class0, class1]), np.repeat([0, 1], [40, 20])
    peer = LinearDiscriminantAnalysis(solver="svd", priors=[0.5, 0.5]).fit(x, y)
    rule = sim.discriminant(sim.summarise(class0, class1))
    ours, theirs = np.append(rule.weights, rule.offset), np.append(peer.coef_[0], peer.intercept_[0])
    np.testing.assert_allclose(ours / np.linalg.norm(ours), theirs / np.linalg.norm(theirs), rtol=1e-8)


@pytest.mark.parametrize("solver", ["lsqr", "eigen"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.25])
def test_agrees_with_scikit_learn_with_prior_and_ridge(solver: str, shrinkage: float) -> None:
    class0, class1, *_ = draw(3, 6, 40, 20, condition=4.0)
    x, y = np.concatenate([class0, class1]), np.repeat([0, 1], [40, 20])
    peer = LinearDiscriminantAnalysis(solver=solver, shrinkage=shrinkage or None).fit(x, y)
    ridge = shrinkage / (1 - shrinkage) * np.trace(pooled_covariance(class0, class1)) / 6
    rule = sim.discriminant(sim.summarise(class0, class1), ridge=ridge, intercept="prior")
    scale = (1 - shrinkage) * 58 / 60  # its covariance has divisor n, and (1 - shrinkage) S + ...
    np.testing.assert_allclose(peer.coef_[0] * scale, rule.weights, rtol=1e-7)
    prior = np.log(20 / 40)
    np.testing.assert_allclose((peer.intercept_[0] - prior) * scale, rule.offset - prior, rtol=1e-7)


def test_class_errors_are_the_frequencies_on_a_test_set() -> None:
    rng = np.random.default_rng(4)
    root = rng.normal(size=(5, 5))
    means, rule = rng.normal(size=(2, 5)), sim.Discriminant(rng.normal(size=5), 0.3)
    exact = sim.class_errors(rule, means, root @ root.T)
    for k, wrong in enumerate((lambda score: score > 0, lambda score: score <= 0)):
        x = means[k] + rng.normal(size=(200_000, 5)) @ root.T
        assert wrong(x @ rule.weights + rule.offset).mean() == pytest.approx(exact[k], abs=0.004)
    diagonal = rng.uniform(1, 2, size=5)
    assert sim.class_errors(rule, means, diagonal) == pytest.approx(sim.class_errors(rule, means, np.diag(diagonal)))


@given(SEEDS, st.sampled_from([4, 30]), st.sampled_from([0.0, 0.5]), st.sampled_from(INTERCEPTS))
def test_swapping_labels_swaps_errors_and_rotations_change_nothing(
    seed: int, dimension: int, ridge: float, intercept: Any
) -> None:
    class0, class1, means, variances = draw(seed, dimension, 12, 7)
    rule = {"ridge": ridge, "intercept": intercept}
    errors = errors_of(class0, class1, means, variances, **rule)
    assert errors_of(class1, class0, means[::-1], variances, **rule)[::-1] == pytest.approx(errors, abs=1e-9)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))
    assert errors_of(class0 @ turn, class1 @ turn, means @ turn, variances, **rule) == pytest.approx(errors, abs=1e-9)


@given(SEEDS, st.floats(0.1, 10), st.sampled_from([0.0, 0.5]), st.sampled_from(["none", "debiased"]))
def test_units_do_not_matter_if_the_ridge_has_them(seed: int, unit: float, ridge: float, intercept: Any) -> None:
    for dimension in (4, 30):
        class0, class1, means, variances = draw(seed, dimension, 12, 7)
        errors = errors_of(class0, class1, means, variances, ridge=ridge, intercept=intercept)
        scaled = (class0 * unit, class1 * unit, means * unit, variances * unit**2)
        assert errors_of(*scaled, ridge=ridge * unit**2, intercept=intercept) == pytest.approx(errors, abs=1e-9)


@given(SEEDS, st.sampled_from(INTERCEPTS))
def test_affine_maps_change_nothing_below_the_peak(seed: int, intercept: Any) -> None:
    class0, class1, means, variances = draw(seed, 4, 12, 7)
    rng = np.random.default_rng(seed)
    a, shift = np.linalg.qr(rng.normal(size=(4, 4)))[0] * rng.uniform(0.5, 2, 4), rng.normal(size=4)
    mapped = (class0 @ a + shift, class1 @ a + shift, means @ a + shift, a.T @ np.diag(variances) @ a)
    plain = errors_of(class0, class1, means, variances, intercept=intercept)
    assert errors_of(*mapped, intercept=intercept) == pytest.approx(plain, abs=1e-9)


@given(SEEDS, st.integers(1, 30), st.integers(2, 40), st.integers(2, 20), st.floats(0, 10), st.sampled_from(INTERCEPTS))
def test_nobody_beats_bayes(seed: int, dimension: int, n0: int, n1: int, ridge: float, intercept: Any) -> None:
    sizes = {"dimension": dimension, "majority": n0, "minority": n1, "repetitions": 1}
    errors = sim.simulate(np.random.default_rng(seed), **sizes, ridge=ridge, intercept=intercept)
    assert errors["error"][0] >= ndtr(-1.5) - 1e-12
    assert 0 <= errors["majority_error"][0] <= 1
    assert 0 <= errors["minority_error"][0] <= 1


def test_both_samplings_see_the_same_training_sets() -> None:
    settings = {"dimension": 10, "majority": 30, "minority": 30, "repetitions": 4}
    np.testing.assert_allclose(sim.gain_of_keeping(np.random.default_rng(5), **settings), 0, atol=1e-12)
    first, second = (sim.simulate(np.random.default_rng(6), repetitions=3)["error"] for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(
    ("dimension", "ridge", "condition"), [(100, 0.0, 20), (100, 0.5, 20), (400, 0.5, 20), (400, 0, 1)]
)
def test_the_trace_behind_the_debiased_intercept_is_consistent(dimension: int, ridge: float, condition: float) -> None:
    class0, class1, _, variances = draw(7, dimension, 150, 100, condition)
    unit = 3.0  # isotropic is not the same as identity
    covariance = pooled_covariance(class0, class1) * unit
    matrix = (
        np.linalg.pinv(covariance, rcond=1e-10) if not ridge else np.linalg.inv(covariance + ridge * np.eye(dimension))
    )
    true = np.trace(matrix @ np.diag(variances)) * unit
    summary = sim.summarise(class0 * unit**0.5, class1 * unit**0.5)
    intercept = sim.discriminant(summary, ridge=ridge, intercept="debiased").offset
    intercept -= sim.discriminant(summary, ridge=ridge).offset
    assert intercept == pytest.approx(true * (1 / 100 - 1 / 150) / 2, rel=0.04)


def test_bad_input_is_named() -> None:
    rng, good = np.random.default_rng(8), np.eye(4, 3)
    with pytest.raises(ParameterError, match="ridge"):
        sim.simulate(rng, ridge=-1.0)
    with pytest.raises(ParameterError, match="class0 and class1 must have shapes"):
        sim.summarise(good, np.eye(4))
    with pytest.raises(ParameterError, match="at least 2 rows"):
        sim.summarise(good, good[:1])
    with pytest.raises(ParameterError, match="vary"):
        sim.summarise(np.ones((3, 3)), np.ones((3, 3)))
    with pytest.raises(ParameterError, match="ridge"):
        sim.discriminant(sim.summarise(good, good + 1), ridge=np.nan)
    with pytest.raises(ParameterError, match="intercept"):
        sim.discriminant(sim.summarise(good, good + 1), intercept="some")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="variances"):
        sim.known_discriminant(np.zeros((2, 2)), (3, 3), np.array([1.0, 0.0]))
    with pytest.raises(ParameterError, match="rule must have finite weights"):
        sim.class_errors(sim.Discriminant(np.zeros(2), 0.0), np.zeros((2, 2)), np.ones(2))
    for name, arguments in (("dimension", (0, 9.0)), ("signal", (3, -1.0)), ("condition", (3, 9.0, 0.5))):
        with pytest.raises(ParameterError, match=name):
            sim.geometry(*arguments)


SIZES: dict[str, Any] = {"dimension": 10, "majority": 9, "minority": 5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.moments(0.0), "gamma must be positive"),
        (lambda: theory.moments(1.0), "gamma must not be 1 without a ridge"),
        (lambda: theory.moments(0.5, ridge=-1), "ridge"),
        (lambda: theory.moments(0.5, limit="none"), "limit must be one of"),  # type: ignore[arg-type]
        (lambda: theory.wishart_moments(10, 12), "dimension must differ from degrees by more than 3"),
        (lambda: theory.errors(-1, 1, 9.0, moments=theory.moments(0.5)), "gamma0 and gamma1 must be positive"),
        (lambda: theory.errors(1, 1, 9.0, moments=theory.moments(0.5), intercept="some"), "intercept"),  # type: ignore[arg-type]
        (lambda: theory.predict(dimension=3, majority=1, minority=1), r"majority \+ minority must be above 2"),
        (
            lambda: theory.predict(dimension=12, majority=9, minority=5),
            r"dimension must differ from majority \+ minority",
        ),
        (lambda: theory.predict(dimension=20, majority=9, minority=5, condition=2.0), "condition must be 1"),
        (lambda: theory.predict(**SIZES, ridge=1.0, sizes="finite"), "sizes must be 'limit'"),
        (
            lambda: theory.exact_errors(np.random.default_rng(0), **SIZES | {"dimension": 2}, signal=9.0, draws=5),
            "dimension",
        ),
        (lambda: theory.exact_errors(np.random.default_rng(0), **SIZES, signal=-1.0, draws=5), "signal"),
        (lambda: phase.window(9.0, 1.0), "ratio must be a number above 1"),
        (lambda: phase.window(0.0, 2.0), "signal must be a number above 0"),
        (lambda: phase.window(9.0, 2.0, limit="known"), "limit must be"),
        (lambda: phase.critical_ridge(9.0, 1.0), "ratio must be a number above 1"),
        (lambda: general.errors_of_any_covariance(np.ones(3), np.ones(2), 5, 5), "variances"),
        (lambda: general.errors_of_any_covariance(-np.ones(3), np.ones(3), 5, 5), "variances"),
        (lambda: general.errors_of_any_covariance(np.ones(3), np.ones(3), 1, 5), "n0 must be"),
        (lambda: general.errors_of_any_covariance(np.ones(8), np.ones(8), 5, 5), "ridge must be positive where p ="),
        (lambda: general.errors_of_any_covariance(np.ones(3), np.ones(3), 5, 5, ridge=-1.0), "ridge"),
        (lambda: general.errors_of_any_covariance(np.ones(3), np.ones(3), 5, 5, intercept="no"), "intercept"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_of_the_formulas_is_named(call: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        call()


@pytest.mark.parametrize("dimension", [11, 12, 13])
def test_as_many_features_as_degrees_of_freedom_is_a_size_like_others(dimension: int) -> None:
    """At p = n0 + n1 - 2 = 12 the covariance is only just invertible; the simulator goes through, as the exact law."""
    seen = sim.simulate(np.random.default_rng(1), dimension=dimension, majority=9, minority=5, repetitions=400)
    exact = theory.exact_errors(
        np.random.default_rng(2), dimension=dimension, majority=9, minority=5, signal=9.0, draws=20_000
    )
    assert np.all(np.isfinite(seen["error"]))
    assert seen["error"].mean() == pytest.approx(np.mean(exact), abs=0.02)


def test_the_known_covariance_is_used_and_nothing_else() -> None:
    class0, class1, _, variances = draw(11, 6, 20, 10, condition=4.0)
    found = np.stack([class0.mean(axis=0), class1.mean(axis=0)])
    for intercept, added in (("none", 0.0), ("prior", np.log(0.5)), ("debiased", None)):
        rule = sim.known_discriminant(found, (20, 10), variances, ridge=0.3, intercept=intercept)  # type: ignore[arg-type]
        matrix = np.diag(1 / (variances + 0.3))
        weights = matrix @ (found[1] - found[0])
        added = np.trace(matrix @ np.diag(variances)) * (1 / 10 - 1 / 20) / 2 if added is None else added
        np.testing.assert_allclose(rule.weights, weights)
        assert rule.offset == pytest.approx(added - weights @ (found[0] + found[1]) / 2)
    errors = sim.simulate(np.random.default_rng(0), dimension=60, majority=40, minority=20, covariance="known")
    again = sim.simulate(np.random.default_rng(0), dimension=60, majority=40, minority=20)
    assert errors["error"].mean() < again["error"].mean()


# The closed forms


def spectral_mean(function: Any, gamma: float, at_zero: float) -> float:
    """Integral over the Marchenko-Pastur law, with ``at_zero`` the function's value on its atom."""
    low, high = (1 - gamma**0.5) ** 2, (1 + gamma**0.5) ** 2

    def integrand(angle: float) -> float:  # x = middle - half cos(angle): no singular ends
        x, width = (low + high) / 2 - (high - low) / 2 * np.cos(angle), (high - low) / 2 * np.sin(angle)
        return float(function(x) * width**2 / (2 * np.pi * gamma * x))

    return quad(integrand, 0, np.pi)[0] + max(0.0, 1 - 1 / gamma) * at_zero


@pytest.mark.parametrize("gamma", [0.3, 0.9, 1.2, 4.0])
def test_moments_are_integrals_over_the_spectrum(gamma: float) -> None:
    for ridge in (0.01, 0.5, 20.0):
        integrals = [spectral_mean(lambda x: (x + ridge) ** -power, gamma, ridge**-power) for power in (1, 2)]  # noqa: B023
        np.testing.assert_allclose(theory.moments(gamma, ridge=ridge), integrals, rtol=1e-7)
    integrals = [spectral_mean(lambda x: x**-power, gamma, 0.0) for power in (1, 2)]  # noqa: B023
    np.testing.assert_allclose(theory.moments(gamma), integrals, rtol=1e-7)
    if gamma > 1:
        rho_squared = theory.moments(gamma, ridge=1e-9).rho_squared
        np.testing.assert_allclose(theory.moments(gamma, limit="ridgeless").rho_squared, rho_squared, rtol=1e-7)


@pytest.mark.parametrize(("dimension", "degrees"), [(10, 25), (25, 10)])
def test_wishart_moments_are_expectations(dimension: int, degrees: int) -> None:
    rng = np.random.default_rng(9)
    z = rng.normal(size=(40_000, min(dimension, degrees), max(dimension, degrees)))
    # Of p x n and n x p Gaussian matrices the positive eigenvalues are the same.
    eigenvalues = np.linalg.eigvalsh(z @ z.transpose(0, 2, 1) / degrees)
    draws = np.stack([np.sum(eigenvalues**-power, axis=1) / dimension for power in (1.0, 2.0)])
    deviation = (draws.mean(axis=1) - theory.wishart_moments(dimension, degrees)) / (draws.std(axis=1) / 200)
    assert np.all(np.abs(deviation) < 4)
    large = theory.wishart_moments(dimension * 10**5, degrees * 10**5)
    np.testing.assert_allclose(large, theory.moments(dimension / degrees), rtol=1e-4)


@given(st.floats(0.01, 100), st.floats(1e-8, 100), st.floats(1.01, 10))
def test_rho_rises_with_the_ridge_and_is_at_most_one(gamma: float, ridge: float, factor: float) -> None:
    kappa = float(theory.effective_ridge(gamma, ridge))
    assert kappa == pytest.approx(ridge + gamma * kappa / (1 + kappa), rel=1e-9)
    weak, strong = (float(theory.moments(gamma, ridge=value).rho_squared) for value in (ridge, ridge * factor))
    assert 0 < weak <= strong + 1e-12
    assert strong <= 1 + 1e-12
    near = [float(theory.moments(1 + side * 1e-9, ridge=ridge).rho_squared) for side in (-1, 1)]
    assert near[0] == pytest.approx(near[1], abs=1e-4)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(("signal", "ratio"), PAIRS)
def test_edges_of_the_window_are_roots_of_the_errors(signal: float, ratio: float, limit: Any) -> None:
    def gain(load: float) -> float:
        keep, down = phase.keep_and_down(load, ratio, signal, intercept="debiased", limit=limit)
        return float(np.log(down / keep))

    low, high = phase.window(signal, ratio, limit=limit)
    peak = (1 + ratio) / 2
    assert 1 < low < peak < high
    assert low == pytest.approx(brentq(gain, 1 + 1e-9, peak - 1e-9, xtol=1e-13), abs=1e-9)
    assert high == pytest.approx(brentq(gain, peak + 1e-9, 10 * high, xtol=1e-13), abs=1e-9)


def test_the_threshold_at_balance_is_the_limit_and_a_sign_change() -> None:
    signal, r = sympy.symbols("signal r", positive=True)
    limit = phase.pseudo_upper_load(signal, r, sympy.sqrt).subs(r, 1)
    assert sympy.simplify(limit - phase.upper_load_at_balance(signal, sympy.sqrt)) == 0
    for value in (0.1, 1.0, 9.0, 25.0):
        threshold = phase.upper_load_at_balance(value)
        assert 1.5 < threshold < 2
        # Without any intercept too: the midpoint's bias is of second order in the imbalance.
        below, above = (phase.keep_and_down(threshold * f, 1 + 1e-5, value) for f in (0.97, 1.03))
        assert below[0] > below[1]
        assert above[0] < above[1]


@pytest.mark.parametrize(("signal", "ratio"), PAIRS)
def test_the_critical_ridge_is_critical(signal: float, ratio: float) -> None:
    ridge, loads = phase.critical_ridge(signal, ratio), np.geomspace(0.1, 20, 200)
    assert np.all(phase.advantage(loads, ratio, signal, ridge=1.02 * ridge) > 0)
    assert np.any(phase.advantage(loads, ratio, signal, ridge=ridge / 3) < 0)


@given(st.floats(0.05, 5), st.floats(0.1, 5), st.floats(0.5, 20), st.floats(0.01, 10))
def test_limits_of_errors_have_the_symmetries(gamma0: float, gamma1: float, signal: float, ridge: float) -> None:
    matrix = theory.moments(1 / (1 / gamma0 + 1 / gamma1), ridge=ridge)
    for intercept in INTERCEPTS:
        e0, e1 = theory.errors(gamma0, gamma1, signal, moments=matrix, intercept=intercept)
        np.testing.assert_allclose(theory.errors(gamma1, gamma0, signal, moments=matrix, intercept=intercept), (e1, e0))
        assert (e0 + e1) / 2 >= ndtr(-np.sqrt(signal) / 2) - 1e-12
    e0, e1 = theory.errors(gamma0, gamma1, signal, moments=matrix, intercept="debiased")
    assert e0 == pytest.approx(e1)
    bayes = theory.errors(1e-9, 1e-9, signal, moments=theory.moments(5e-10))
    np.testing.assert_allclose(bayes, ndtr(-np.sqrt(signal) / 2), rtol=1e-6)


@pytest.mark.parametrize(("dimension", "ridge"), [(50, 0.0), (50, 0.3), (300, 0.3)])
@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_the_general_covariance_contains_the_isotropic_one(dimension: int, ridge: float, intercept: str) -> None:
    means, variances = sim.geometry(dimension, 9.0)
    found = general.errors_of_any_covariance(variances, means[1], 90, 40, ridge=ridge, intercept=intercept)
    sizes = {"dimension": dimension, "majority": 90, "minority": 40, "signal": 9.0}
    assert found == pytest.approx(theory.predict(**sizes, ridge=ridge, intercept=intercept), abs=1e-9)


@pytest.mark.parametrize(
    ("dimension", "majority", "minority"), [(3, 6, 3), (10, 24, 8), (10, 8, 8), (20, 9, 3), (12, 9, 5), (40, 30, 20)]
)
def test_exact_law_of_the_errors_is_that_of_simulations(dimension: int, majority: int, minority: int) -> None:
    sizes: dict[str, Any] = {"dimension": dimension, "majority": majority, "minority": minority, "signal": 9.0}
    seen = sim.simulate(np.random.default_rng(12), **sizes, repetitions=1500)
    exact = theory.exact_errors(np.random.default_rng(13), **sizes, draws=20_000)
    for name, law in zip(("majority_error", "minority_error"), exact, strict=True):
        assert ks_2samp(seen[name], law).pvalue > 1e-3
    assert ks_2samp(seen["error"], np.mean(exact, axis=0)).pvalue > 1e-3


def test_exact_law_has_the_right_degrees_of_freedom() -> None:
    """At three features one degree too many changes the error by 0.01, eight standard errors here."""
    sizes: dict[str, Any] = {"dimension": 3, "majority": 3, "minority": 3, "signal": 9.0}
    seen = sim.simulate(np.random.default_rng(15), **sizes, repetitions=8000)["error"]
    exact = np.mean(theory.exact_errors(np.random.default_rng(16), **sizes, draws=400_000), axis=0)
    assert seen.mean() == pytest.approx(exact.mean(), abs=4 * seen.std() / 8000**0.5)


@pytest.mark.parametrize("dimension", [40, 300])
def test_exact_law_tends_to_the_limit(dimension: int) -> None:
    sizes = {"dimension": 500 * dimension, "majority": 500 * 120, "minority": 500 * 40, "signal": 9.0}
    exact = theory.exact_errors(np.random.default_rng(14), **sizes, draws=200)
    np.testing.assert_allclose([law.mean() for law in exact], theory.predict(**sizes), atol=1e-3)


def test_the_known_covariance_is_the_limit_of_a_strong_ridge() -> None:
    for ratio in (1.5, 3.0, 10.0):
        strong, known = (phase.advantage(2.0, ratio, 9.0, **rule) for rule in ({"ridge": 1e6}, {"limit": "known"}))
        assert strong == pytest.approx(known, abs=1e-5)
        assert known > 0
    sizes: dict[str, Any] = {"dimension": 50, "majority": 90, "minority": 40}
    for intercept in INTERCEPTS:
        isotropic = theory.predict(**sizes, ridge=0.7, covariance="known", intercept=intercept)
        variances, difference = np.ones(50), np.full(50, 3 / 50**0.5)
        rule = {"ridge": 0.7, "intercept": intercept, "known": True}
        assert general.errors_of_any_covariance(variances, difference, 90, 40, **rule) == pytest.approx(isotropic)


def test_equal_classes_have_equal_errors_and_no_bias() -> None:
    for ridge in (0.0, 0.5):
        errors = {
            i: theory.predict(dimension=60, majority=50, minority=50, ridge=ridge, intercept=i) for i in INTERCEPTS
        }
        assert errors["none"] == pytest.approx(errors["debiased"])
        assert errors["none"] == pytest.approx(errors["prior"])
        assert errors["none"][0] == pytest.approx(errors["none"][1])


def test_the_other_region_without_an_intercept() -> None:
    """At large loads the midpoint's bias outweighs what a strong ridge gains from all data; the pseudo-inverse, which
    loses more on the smaller set, keeps them (here; the window at its peak is between)."""
    loads = np.array([0.5, 2.1, 4.0, 40.0])
    for rule, expected in (({}, [1, 0, 1, 1]), ({"ridge": 5.0}, [1, 1, 0, 0]), ({"limit": "known"}, [1, 1, 0, 0])):
        keep, down = phase.keep_and_down(loads, 3.0, 9.0, **rule)
        assert (down > keep).astype(int).tolist() == expected
    assert phase.smallest_gain(3.0, 9.0, ridge=5.0, intercept="none") < 0 < phase.smallest_gain(3.0, 9.0, ridge=5.0)


def test_the_map_of_features_is_linear_only_where_it_may_be() -> None:
    rng = np.random.default_rng
    for dimension, ridge in ((4, 0.0), (30, 0.0)):
        assert measure.change_by_map(rng(0), dimension, (12, 7), ridge=ridge, intercept="none") < 1e-8
    assert measure.change_by_map(rng(0), 4, (12, 7), ridge=1.0, intercept="none") > 1e-4


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"covariance": "known", "condition": 20.0},
        {"covariance": "known", "ridge": 2.0, "intercept": "prior"},
        {"covariance": "known", "ridge": 2.0, "intercept": "debiased", "condition": 20.0},
        {"sampling": "down"},
        {"dimension": 80},
        {"dimension": 340, "intercept": "debiased"},
        {"ridge": 0.5, "intercept": "prior"},
        {"ridge": 1e-6, "dimension": 340, "condition": 20.0},
        {"ridge": 0.5, "intercept": "debiased", "condition": 20.0},
        {"ridge": 5.0, "intercept": "prior", "condition": 20.0},
        {"dimension": 80, "intercept": "debiased", "condition": 20.0},
    ],
)
def test_limits_agree_with_simulation(rule: dict[str, Any]) -> None:
    settings = {"dimension": 240, "majority": 120, "minority": 40, "signal": 9.0} | rule
    seen = sim.simulate(np.random.default_rng(10), **settings, repetitions=60)
    foreseen = theory.predict(**settings)
    for name, limit in zip(("majority_error", "minority_error"), foreseen, strict=True):
        standard_error = seen[name].std(ddof=1) / 60**0.5
        assert abs(seen[name].mean() - limit) < max(4 * standard_error, 0.008)
