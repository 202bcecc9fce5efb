"""Estimators: exact enumeration where it is possible, fixed seeds and standard errors where it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from porism.divergences import estimators as e
from porism.divergences.closed_forms import gamma_kl
from porism.divergences.gaussian import gaussian_kl
from porism.divergences.nearest_neighbours import knn_entropy, knn_kl, ksg_mutual_information
from porism.divergences.variational import (
    donsker_varadhan,
    donsker_varadhan_moving_average,
    nguyen_wainwright_jordan,
)
from porism.errors import ParameterError


def categoricals(seed: int, classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=classes), requires_grad=True)
    return logits, torch.tensor(np.log(rng.dirichlet(np.ones(classes))))


@pytest.mark.parametrize("seed", range(5))
def test_k1_k2_k3_by_exact_enumeration(seed: int) -> None:
    logits, log_q = categoricals(seed)

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    log_p = logits.log_softmax(0)
    p = log_p.exp().detach()  # samples are fixed: only log p is differentiated
    ratio = log_p - log_q
    kl = (log_p.exp() * ratio).sum()
    reverse = (log_q.exp() * (log_q - log_p)).sum()
    assert float((p * e.k1(ratio)).sum().detach()) == pytest.approx(float(kl.detach()), abs=1e-12)
    assert float((p * e.k3(ratio)).sum().detach()) == pytest.approx(float(kl.detach()), abs=1e-12)
    assert bool((e.k2(ratio) >= 0).all()) and bool((e.k3(ratio) >= 0).all())
    assert torch.allclose(gradient((p * e.k1(ratio)).sum()), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(gradient((p * e.k2(ratio)).sum()), gradient(kl), atol=1e-12)
    assert torch.allclose(gradient((p * e.k3(ratio)).sum()), gradient(reverse), atol=1e-12)
    # k1 as a detached reward of the score function has the right gradient
    assert torch.allclose(gradient((p * ratio.detach() * log_p).sum()), gradient(kl), atol=1e-12)


def test_k2_is_biased_by_third_order_and_k3_keeps_small_ratios() -> None:
    q = np.array([0.2, 0.3, 0.5])
    direction = np.array([0.1, -0.3, 0.2])
    gaps = []
    for step in (1e-2, 5e-3):
        p = q + step * direction
        gaps.append(np.sum(p * e.k2(np.log(p / q))) - special.rel_entr(p, q).sum())
    assert gaps[0] / gaps[1] == pytest.approx(8, rel=0.05)
    assert e.k3(np.array([1e-8]))[0] == pytest.approx(0.5e-16, rel=0.5, abs=0)
    assert e.k3(np.array([-5.0]))[0] == pytest.approx(math.exp(5) - 6)
    assert list(e.k3(np.array([math.inf]))) == [math.inf] and list(e.k1(np.array([math.inf]))) == [math.inf]


def test_estimates_from_log_ratios_are_within_their_standard_errors() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 0.9, size=50_000)
    ratio = stats.norm.logpdf(x, 0.3, 0.9) - stats.norm.logpdf(x)
    kl = float(gaussian_kl([0.3], [[0.81]], [0.0], [[1.0]]))
    for terms in (e.k1(ratio), e.k3(ratio)):
        low, high = e.mean_interval(terms, confidence=0.9999)
        assert low < kl < high
    from porism.divergences.gaussian import gaussian_chi2, gaussian_renyi

    chi2, error = float(gaussian_chi2([0.3], [[0.81]], [0.0], [[1.0]])), np.std(np.expm1(ratio)) / len(x) ** 0.5
    assert abs(e.chi2_from_log_ratios(ratio) - chi2) < 4 * error
    assert e.renyi_from_log_ratios(ratio, order=1.0) == pytest.approx(np.mean(ratio))
    for order in (0.5, 1.5):
        exact = float(gaussian_renyi([0.3], [[0.81]], [0.0], [[1.0]], order=order))
        powers = np.exp((order - 1) * ratio)
        error = powers.std() / len(x) ** 0.5 / powers.mean() / abs(order - 1)
        assert abs(e.renyi_from_log_ratios(ratio, order=order) - exact) < 4 * error
    assert math.isinf(e.renyi_from_log_ratios([0.0, math.inf], order=2.0))
    assert e.renyi_from_log_ratios([0.0, math.inf], order=0.5) == pytest.approx(2 * math.log(2))


def test_mean_intervals_cover() -> None:
    rng = np.random.default_rng(1)
    draws = rng.uniform(size=(400, 50)) ** 2
    normal = [low < 1 / 3 < high for low, high in (e.mean_interval(row, confidence=0.9) for row in draws)]
    exact = [e.mean_interval(row, confidence=0.9, method="bernstein", bounds=(0, 1)) for row in draws]
    assert 0.85 < np.mean(normal) < 0.95
    assert all(low < 1 / 3 < high for low, high in exact)
    values = np.array([0.0, 1.0, 2.0, 3.0])
    peer = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert e.mean_interval(values) == pytest.approx(peer)
    assert e.mean_interval(torch.tensor(values)) == pytest.approx(peer)
    log_term = math.log(2 / 0.025)
    radius = math.sqrt(2 * values.var(ddof=1) * log_term / 4) + 7 * 4 * log_term / 9
    assert e.mean_interval(values, method="bernstein", bounds=(0, 4))[1] == pytest.approx(1.5 + radius)


def test_self_normalised_importance_sampling() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1.5, size=100_000)
    log_weights = stats.norm.logpdf(x, 0.5) - stats.norm.logpdf(x, 0, 1.5) + 900
    weights = e.self_normalised_weights(log_weights)
    assert weights.sum() == pytest.approx(1)
    error = math.sqrt(np.sum(weights**2 * (x - 0.5) ** 2))
    assert abs(e.self_normalised_expectation(x, log_weights) - 0.5) < 4 * error
    from porism.divergences.gaussian import gaussian_chi2

    chi2 = float(gaussian_chi2([0.5], [[1.0]], [0.0], [[2.25]]))
    assert e.effective_sample_size(log_weights) == pytest.approx(len(x) / (1 + chi2), rel=0.02)
    assert e.effective_sample_size(np.zeros((3, 7)), axis=0) == pytest.approx(np.full(7, 3.0))
    assert e.self_normalised_expectation([math.inf, 2.0], [-math.inf, 0.0]) == 2
    leaf = torch.tensor([0.1, -0.4, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: e.self_normalised_expectation(torch.tensor([1.0, 2.0, 5.0]), w), (leaf,))
    assert torch.autograd.gradcheck(e.effective_sample_size, (leaf,))


@pytest.mark.parametrize("seed", range(3))
def test_variational_bounds_at_population_level(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # equal masses of a sample space of 200 points for q, multiples of them for p: means are expectations
    p_index = rng.integers(0, 40, size=200)
    p = np.bincount(p_index, minlength=40) / 200
    kl = np.sum(special.rel_entr(p, 1 / 40))
    with np.errstate(divide="ignore"):
        best = np.log(p * 40)
    assert donsker_varadhan(best[p_index], best + 3 - 3) == pytest.approx(kl, abs=1e-12)
    assert donsker_varadhan(best[p_index] + 5, best + 5) == pytest.approx(kl, abs=1e-12)
    assert nguyen_wainwright_jordan(1 + best[p_index], 1 + best) == pytest.approx(kl, abs=1e-12)
    for _ in range(20):
        critic = rng.normal(size=40)
        looser = nguyen_wainwright_jordan(critic[p_index], critic)
        assert looser <= donsker_varadhan(critic[p_index], critic) + 1e-12 <= kl + 2e-12


def test_gradients_of_the_variational_bounds() -> None:
    rng = np.random.default_rng(3)
    leaves = tuple(torch.tensor(rng.normal(size=n), requires_grad=True) for n in (4, 6))
    assert torch.autograd.gradcheck(donsker_varadhan, leaves)
    assert torch.autograd.gradcheck(nguyen_wainwright_jordan, leaves)
    value, average = donsker_varadhan_moving_average(*leaves, None)
    plain = torch.autograd.grad(donsker_varadhan(*leaves), leaves)
    moving = torch.autograd.grad(value, leaves)
    assert all(torch.allclose(a, b) for a, b in zip(plain, moving, strict=True))
    value, new = donsker_varadhan_moving_average(*leaves, average + 2.0, rate=0.25)
    assert float(value.detach()) == pytest.approx(float(donsker_varadhan(*leaves).detach()))
    mean = float(leaves[1].exp().mean().detach())
    assert math.exp(new) == pytest.approx(0.75 * math.exp(average + 2) + 0.25 * mean)
    moving = torch.autograd.grad(value, leaves)
    assert torch.allclose(moving[1], -leaves[1].exp().detach() / 6 / math.exp(new))
    # the moving average removes the overflow too
    assert math.isfinite(donsker_varadhan_moving_average([0.0], [2000.0], 1990.0)[1])


@pytest.mark.parametrize("d", [1, 3])
def test_knn_entropy_and_kl_are_consistent(d: int) -> None:
    rng = np.random.default_rng(4 + d)
    entropies, divergences = [], []
    for _ in range(12):
        x, y = rng.normal(size=(1500, d)), 0.5 + 1.2 * rng.normal(size=(1800, d))
        entropies.append(knn_entropy(x, k=3))
        divergences.append(knn_kl(x, y, k=3))
    exact = d / 2 * math.log(2 * math.pi * math.e)
    kl = float(gaussian_kl(np.zeros(d), np.eye(d), 0.5 * np.ones(d), 1.44 * np.eye(d)))
    for values, truth in ((entropies, exact), (divergences, kl)):
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / len(values) ** 0.5 + 0.015 * d


def test_knn_kl_is_the_textbook_formula_without_ties() -> None:
    rng = np.random.default_rng(6)
    x, y, k = rng.normal(size=(40, 2)), rng.normal(size=(50, 2)), 4
    inner = np.sort(np.linalg.norm(x[:, None] - x, axis=-1), axis=1)[:, k]
    outer = np.sort(np.linalg.norm(x[:, None] - y, axis=-1), axis=1)[:, k - 1]
    assert knn_kl(x, y, k=k) == pytest.approx(2 * np.mean(np.log(outer / inner)) + math.log(50 / 39))
    assert knn_kl(torch.tensor(x), torch.tensor(y), k=k) == knn_kl(x, y, k=k)
    assert knn_kl(x[:, :1], y[:, :1]) == knn_kl(x[:, 0], y[:, 0])
    x, y = rng.gamma(2, size=4000), rng.gamma(3, size=4000)
    assert knn_kl(x, y, k=5) == pytest.approx(float(gamma_kl(2.0, 1.0, 3.0, 1.0)), abs=0.06)


def test_ties_give_numbers_that_make_sense_and_do_not_touch_global_randomness() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=3000), 0.5 + 1.2 * rng.normal(size=3000)
    rounded = knn_kl(np.round(x, 1), np.round(y, 1), k=3)
    assert rounded == pytest.approx(knn_kl(x, y, k=3), abs=0.1)
    assert rounded == knn_kl(np.round(x, 1), np.round(y, 1), k=3)
    assert math.isfinite(knn_entropy(np.round(x, 1)))
    assert math.isfinite(knn_kl(x[:50], x[:50]))
    # by hand: the twins at 0 take their second neighbour, and psi(2) - psi(1) = 1
    assert knn_kl([0.0, 0.0, 1.0], [0.5, 3.0], k=1) == pytest.approx(math.log(0.5) + 2 / 3)
    assert knn_kl([0.0, 1.0, 3.0], [0.0, 0.0, 9.0], k=1) == pytest.approx(
        (math.log(9) - 1.5 + 0 + math.log(3 / 2)) / 3 + math.log(3 / 2)
    )
    labels = rng.integers(0, 4, size=2000)
    noisy = np.where(rng.uniform(size=2000) < 0.8, labels, rng.integers(0, 4, size=2000))
    table = np.histogram2d(labels, noisy, bins=4)[0] / 2000
    plug_in = special.rel_entr(table, table.sum(1, keepdims=True) * table.sum(0)).sum()
    assert ksg_mutual_information(labels, noisy) == pytest.approx(plug_in, abs=0.01)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize("algorithm", [1, 2])
def test_ksg_on_correlated_gaussians(algorithm: int) -> None:
    rng = np.random.default_rng(8)
    for correlation in (0.0, 0.6, 0.95):
        values = []
        for _ in range(6):
            x = rng.normal(size=800)
            y = correlation * x + math.sqrt(1 - correlation**2) * rng.normal(size=800)
            values.append(ksg_mutual_information(x, y, k=4, algorithm=algorithm))
        exact = -math.log(1 - correlation**2) / 2
        assert abs(np.mean(values) - exact) < 4 * np.std(values) / 6**0.5 + 0.02


def test_ksg_against_scikit_learn_and_invariances() -> None:
    from sklearn.feature_selection._mutual_info import _compute_mi_cc

    rng = np.random.default_rng(9)
    x = rng.normal(size=300)
    y = x + rng.normal(size=300)
    assert ksg_mutual_information(x, y, k=3) == pytest.approx(_compute_mi_cc(x, y, 3), abs=1e-10)
    assert ksg_mutual_information(y, x, k=3) == pytest.approx(ksg_mutual_information(x, y, k=3), abs=1e-12)
    wide = ksg_mutual_information(np.stack([x, rng.normal(size=300)], 1), y)
    assert math.isfinite(wide)
    for order in (1, 2):
        shuffled = rng.permutation(300)
        value = ksg_mutual_information(x[shuffled], y[shuffled], algorithm=order)
        assert value == pytest.approx(ksg_mutual_information(x, y, algorithm=order), abs=1e-12)


@given(st.integers(0, 1000), st.sampled_from([0.5, 2.0, 1e-6]))
def test_knn_kl_does_not_change_with_units(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(25, 2))
    assert knn_kl(scale * x, scale * y) == pytest.approx(knn_kl(x, y), abs=1e-9)
    assert knn_entropy(scale * x) == pytest.approx(knn_entropy(x) + 2 * math.log(scale), abs=1e-9)


def test_bad_input_is_named() -> None:
    x = np.arange(5.0)
    for call, message in [
        (lambda: e.k1([math.nan]), "log_ratio"),
        (lambda: e.mean_interval([1.0]), "values must have shape"),
        (lambda: e.mean_interval(x, confidence=1.0), "confidence"),
        (lambda: e.mean_interval(x, method="bernstein"), "bounds"),
        (lambda: e.mean_interval(x, method="bernstein", bounds=(0, 1)), "values must lie"),
        (lambda: e.mean_interval(x, bounds=(0, 9)), "bounds"),
        (lambda: e.mean_interval(x, method="other"), "method"),
        (lambda: e.renyi_from_log_ratios(x, order=-1.0), "order"),
        (lambda: e.chi2_from_log_ratios([]), "log_ratio is empty"),
        (lambda: e.self_normalised_weights([-math.inf, -math.inf]), "log_weights"),
        (lambda: e.self_normalised_expectation(x, x[:2]), "sizes along axis"),
        (lambda: donsker_varadhan([math.nan], [0.0]), "critic_p"),
        (lambda: donsker_varadhan([0.0], []), "critic_q is empty"),
        (lambda: donsker_varadhan_moving_average([0.0], [0.0], None, rate=0.0), "rate"),
        (lambda: knn_kl(x, np.ones((4, 2))), "y must have 1 columns"),
        (lambda: knn_kl(x, x, k=5), "k must be"),
        (lambda: knn_kl(np.ones(5), x), "x must not be copies"),
        (lambda: knn_kl(x, [math.inf]), "y must be finite"),
        (lambda: knn_entropy([]), "x must have shape"),
        (lambda: knn_entropy(torch.ones(4, requires_grad=True)), "x wants gradients"),
        (lambda: ksg_mutual_information(x, x[:3]), "y must have 5 rows"),
        (lambda: ksg_mutual_information(x, x, algorithm=3), "algorithm"),
        (lambda: ksg_mutual_information(np.ones(9), np.ones(9), algorithm=2), "use algorithm 1"),
    ]:
        with pytest.raises(ParameterError, match=message):
            call()
