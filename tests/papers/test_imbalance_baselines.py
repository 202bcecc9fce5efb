"""What people do about unbalanced classes: each strategy against plain linear algebra or scikit-learn, on real data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from porism.errors import ParameterError
from porism_sims import imbalance_baselines as baselines
from porism_sims import label_shift as sim

SEEDS = st.integers(0, 2**32 - 1)


def training_set(seed: int = 0, data: Any = "breast_cancer", majority: int = 60, minority: int = 20) -> Any:
    return baselines.split(
        np.random.default_rng(seed), baselines.load(data), majority=majority, minority=minority
    ).train


def direction(rule: Any) -> Any:
    weights, offset = (rule.weights, rule.offset) if hasattr(rule, "weights") else (rule.coef_[0], rule.intercept_[0])
    return np.append(weights, offset) / np.linalg.norm(weights)


@pytest.mark.parametrize("data", baselines.REAL)
def test_real_data_are_standardised_and_unbalanced_the_same_way(data: Any) -> None:
    class0, class1 = baselines.load(data)
    assert len(class0) >= len(class1) > 150
    both = np.concatenate([class0, class1])
    np.testing.assert_allclose(both.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(both.std(axis=0), 1)
    class0[:] = 0  # a caller's change does not reach the next one
    assert baselines.load(data).class0.any()


@given(SEEDS, st.integers(2, 100), st.integers(2, 100))
def test_training_and_test_samples_are_disjoint_and_complete(seed: int, majority: int, minority: int) -> None:
    data = baselines.load("breast_cancer")
    train, test = baselines.split(np.random.default_rng(seed), data, majority=majority, minority=minority)
    assert (len(train.class0), len(train.class1)) == (majority, minority)
    for whole, first, second in zip(data, train, test, strict=True):
        together = np.concatenate([first, second])
        np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(whole, axis=0))


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_weights_of_classes_weigh_their_covariances(ridge: float) -> None:
    train = training_set()
    covariance = (np.cov(train.class0.T) + np.cov(train.class1.T)) / 2 + ridge * np.eye(30)
    means = [samples.mean(axis=0) for samples in train]
    weights = np.linalg.solve(covariance, means[1] - means[0])
    expected = np.append(weights, -weights @ (means[0] + means[1]) / 2) / np.linalg.norm(weights)
    found = baselines.train("weighted", np.random.default_rng(0), train, ridge=ridge)
    np.testing.assert_allclose(direction(found), expected, atol=1e-7)


def test_drawing_again_tends_to_weights() -> None:
    train = training_set(majority=300, minority=100)
    weighted = direction(baselines.train("weighted", np.random.default_rng(0), train, ridge=1.0))
    drawn = [direction(baselines.train("over", np.random.default_rng(seed), train, ridge=1.0)) for seed in range(60)]
    whole = direction(baselines.train("all", np.random.default_rng(0), train, ridge=1.0))
    mean = np.mean(drawn, axis=0)
    # The means of the samples drawn again scatter, so the midpoint does; the direction tends to that of weights.
    assert np.linalg.norm(mean - weighted) < 0.3 * np.linalg.norm(whole - weighted)


def test_drawing_again_keeps_every_sample_and_balances() -> None:
    train = training_set()
    class0, class1 = baselines._drawn_again(np.random.default_rng(1), train)
    assert len(class0) == len(class1) == 60
    np.testing.assert_array_equal(class0, train.class0)
    np.testing.assert_array_equal(class1[:20], train.class1)
    assert {row.tobytes() for row in class1} == {row.tobytes() for row in train.class1}


def test_all_and_down_are_the_discriminant_on_their_samples() -> None:
    train = training_set()
    whole = sim.discriminant(sim.summarise(*train), ridge=0.2)
    np.testing.assert_array_equal(
        baselines.train("all", np.random.default_rng(2), train, ridge=0.2).weights, whole.weights
    )
    half = sim.discriminant(sim.summarise(*sim.down_sample(np.random.default_rng(2), *train)), ridge=0.2)
    np.testing.assert_array_equal(
        baselines.train("down", np.random.default_rng(2), train, ridge=0.2).weights, half.weights
    )


@pytest.mark.parametrize("data", baselines.REAL)
@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_scikit_learns_shrinkage_is_a_ridge_on_real_data(data: Any, ridge: float) -> None:
    train = training_set(3, data, 24, 9)
    ours, theirs = (baselines.train(s, np.random.default_rng(0), train, ridge=ridge) for s in ("all", "scikit-learn"))
    np.testing.assert_allclose(direction(ours), direction(theirs), atol=1e-9)


def test_scikit_learn_with_equal_priors_is_the_rule_without_an_intercept() -> None:
    train = training_set()
    x, y = np.concatenate(train), np.repeat([0, 1], [60, 20])
    peer = LinearDiscriminantAnalysis(solver="svd", priors=[0.5, 0.5]).fit(x, y)
    np.testing.assert_allclose(
        direction(baselines.train("all", np.random.default_rng(0), train)), direction(peer), atol=1e-6
    )
    np.testing.assert_allclose(
        direction(baselines.train("scikit-learn", np.random.default_rng(0), train)), direction(peer), atol=1e-12
    )


def test_logistic_regression_minimises_its_weighted_loss() -> None:
    train, ridge = training_set(), 0.1
    x, sign = np.concatenate(train), np.repeat([-1.0, 1.0], [60, 20])
    weight = np.repeat([40 / 60, 40 / 20], [60, 20])  # n / (2 n_k)
    rule = baselines.train("logistic", np.random.default_rng(0), train, ridge=ridge)
    slope = -weight * sign / (1 + np.exp(sign * (x @ rule.weights + rule.offset)))
    np.testing.assert_allclose(x.T @ slope + ridge * 80 * rule.weights, 0, atol=0.02)
    assert slope.sum() == pytest.approx(0, abs=0.02)
    peer = LogisticRegression(C=1 / 8, class_weight="balanced", max_iter=2000).fit(x, sign)
    np.testing.assert_allclose(direction(rule), direction(peer), atol=1e-3)


def test_errors_are_counted_on_the_other_samples() -> None:
    errors = baselines.simulate(np.random.default_rng(4), data="digits_3_8", ridge=1.0, repetitions=3)
    again = baselines.simulate(np.random.default_rng(4), data="digits_3_8", ridge=1.0, repetitions=3)
    assert errors["error"].tobytes() == again["error"].tobytes()
    np.testing.assert_allclose(errors["error"], (errors["majority_error"] + errors["minority_error"]) / 2)
    assert np.all(np.round(errors["majority_error"] * 123) == pytest.approx(errors["majority_error"] * 123))  # 183 - 60
    rule = sim.Discriminant(np.array([1.0, 0.0]), -0.5)
    classes = baselines.Classes(np.array([[0.0, 9.0], [1.0, 0.0], [0.2, 0.0]]), np.array([[0.0, 0.0], [2.0, 0.0]]))
    assert baselines.error_rates(rule, classes) == (pytest.approx(1 / 3), 0.5)


def test_strategies_see_the_same_training_sets() -> None:
    """On balanced classes there is nothing to throw away, to draw again or to weigh."""
    for data in ("gaussian", "digits_4_9"):
        rule: dict[str, Any] = {"data": data, "majority": 30, "minority": 30, "ridge": 0.5, "repetitions": 2}
        found = [
            baselines.simulate(np.random.default_rng(5), **rule, strategy=strategy)["error"]
            for strategy in ("all", "down", "over", "weighted", "scikit-learn")
        ]
        for other in found[1:]:
            np.testing.assert_allclose(other, found[0], atol=1e-9)


def test_gaussian_errors_are_those_of_the_discriminants_simulator() -> None:
    sizes = {"dimension": 40, "majority": 45, "minority": 15, "signal": 4.0, "ridge": 0.3, "repetitions": 3}
    ours = baselines.simulate(np.random.default_rng(6), data="gaussian", **sizes)
    theirs = sim.simulate(np.random.default_rng(6), **sizes)
    assert ours["error"].mean() == pytest.approx(theirs["error"].mean(), abs=0.1)
    assert np.all(ours["error"] > 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baselines.load("iris"), "data must be one of breast_cancer"),  # type: ignore[arg-type]
        (lambda: baselines.simulate(np.random.default_rng(0), majority=180), "majority must be at most"),
        (lambda: baselines.simulate(np.random.default_rng(0), minority=1), "minority must be"),
        (lambda: baselines.simulate(np.random.default_rng(0), ridge=-1.0), "ridge"),
        (lambda: baselines.train("none", np.random.default_rng(0), training_set()), "strategy must be one of all"),  # type: ignore[arg-type]
        (lambda: baselines.train("all", np.random.default_rng(0), training_set(), ridge=np.inf), "ridge"),
        (lambda: baselines.split(3, baselines.load("breast_cancer"), majority=5, minority=5), "rng must be"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        call()
