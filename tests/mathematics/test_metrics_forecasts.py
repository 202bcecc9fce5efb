"""Calibration, Brier score, intervals, accuracy, selective prediction, robustness: peers, identities, bad input."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, brier_score_loss, mean_pinball_loss, top_k_accuracy_score

from porism import metrics
from porism.errors import ParameterError

FORECASTS = st.lists(
    st.tuples(st.sampled_from([0.0, 1e-300, 0.1, 0.2, 0.5, 0.7, 1 - 1e-16, 1.0]), st.integers(0, 1)),
    min_size=1,
    max_size=30,
)


def naive_ece(confidence, correct, bins, norm):
    """Guo's definition, bin by bin."""
    terms, weights = [], []
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = (confidence > low) & (confidence <= high) | ((k == 0) & (confidence == 0))
        if inside.any():
            terms.append(abs(confidence[inside].mean() - correct[inside].mean()))
            weights.append(inside.mean())
    return max(terms) if math.isinf(norm) else float(np.dot(weights, np.array(terms) ** norm)) ** (1 / norm)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("bins", [1, 4, 8])
def test_ece_is_its_definition(norm, bins):
    rng = np.random.default_rng(0)
    confidence = np.round(rng.uniform(size=200), 2)
    correct = rng.integers(0, 2, 200)
    ours = metrics.expected_calibration_error(confidence, correct, bins=bins, norm=norm)
    assert ours == pytest.approx(naive_ece(confidence, correct, bins, norm), abs=1e-12)


@given(FORECASTS, st.integers(1, 6), st.sampled_from(["width", "mass"]))
def test_ece_norms_are_ordered_and_equal_forecasts_share_a_bin(pairs, bins, scheme):
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    one, two, most = (
        metrics.expected_calibration_error(confidence, correct, bins=bins, scheme=scheme, norm=norm)
        for norm in (1, 2, math.inf)
    )
    assert 0 <= one <= two + 1e-12 <= most + 2e-12 <= 1 + 3e-12
    diagram = metrics.reliability_diagram(confidence, correct, bins=bins, scheme=scheme)
    assert diagram.count.sum() == len(pairs)
    assert abs(diagram.confidence @ diagram.count - confidence.sum()) < 1e-9
    order = np.random.default_rng(0).permutation(len(pairs))
    again = metrics.expected_calibration_error(confidence[order], correct[order], bins=bins, scheme=scheme)
    assert again == pytest.approx(one, abs=1e-12)


def test_equal_mass_bins_are_of_equal_mass():
    rng = np.random.default_rng(0)
    confidence = rng.beta(8, 1, size=103)
    counts = metrics.reliability_diagram(confidence, np.ones(103), bins=10, scheme="mass").count
    assert len(counts) == 10 and counts.min() >= 10 and counts.max() <= 11


def test_reliability_intervals_are_those_of_clopper_and_pearson():
    confidence, correct = np.repeat([0.1, 0.5, 0.9], 10), np.repeat([0, 1, 0, 1], [10, 4, 6, 10])
    diagram = metrics.reliability_diagram(confidence, correct, bins=5, level=0.9)
    for hits, low, high in zip([0, 4, 10], diagram.low, diagram.high, strict=True):
        exact = binomtest(hits, 10).proportion_ci(0.9, method="exact")
        assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-10)


def test_debiased_calibration_error_is_less_biased_than_the_plug_in():
    rng = np.random.default_rng(3)
    levels, gap = np.arange(1, 10) / 10, 0.05
    plain, debiased = [], []
    for _ in range(300):
        confidence = rng.choice(levels, 200)
        correct = rng.uniform(size=200) < confidence - gap
        plain.append(metrics.expected_calibration_error(confidence, correct, bins=10, norm=2) ** 2)
        debiased.append(metrics.squared_calibration_error(confidence, correct, bins=10, scheme="width"))
    truth = gap**2
    error = np.std(debiased) / 300**0.5
    assert abs(np.mean(debiased) - truth) < 4 * error
    assert np.mean(plain) - truth > 20 * error


def test_debiased_calibration_error_is_exactly_unbiased():
    """All outcomes of four forecasts of one bin, weighted by their probabilities."""
    confidence, chance = np.array([0.5, 0.6, 0.7, 0.9]), 0.4
    # forecasts are drawn with the outcomes: all pairs of the joint law of (forecast, outcome), n = 3
    mean = 0.0
    cells = [(c, y, (chance if y else 1 - chance) / 4) for c in confidence for y in (0, 1)]
    for a in cells:
        for b in cells:
            for c in cells:
                f, y, p = zip(a, b, c, strict=True)
                mean += math.prod(p) * metrics.squared_calibration_error(f, y, bins=1)
    assert mean == pytest.approx((confidence.mean() - chance) ** 2, abs=1e-12)


def test_debiased_calibration_error_with_constant_forecasts_is_that_of_kumar():
    correct = np.array([1, 0, 1, 1, 0, 1, 1])
    ours = metrics.squared_calibration_error(np.full(7, 0.9), correct, bins=3, scheme="width")
    rate = correct.mean()
    assert ours == pytest.approx((0.9 - rate) ** 2 - rate * (1 - rate) / 6, abs=1e-12)


def test_edges_of_equal_mass_bins_are_rounded_up():
    """Rank ceil(n k / bins): of ten forecasts in three bins the edges are the 4th and the 7th."""
    diagram = metrics.reliability_diagram((np.arange(10) + 0.5) / 10, np.ones(10), bins=3, scheme="mass")
    assert diagram.count.tolist() == [4, 3, 3]


def test_bins_of_one_forecast_are_left_out_of_the_debiased_error():
    pair, alone = [0.1, 0.2], [0.9]
    together = metrics.squared_calibration_error(pair + alone, [1, 0, 0], bins=2, scheme="width")
    assert together == pytest.approx(metrics.squared_calibration_error(pair, [1, 0], bins=2, scheme="width"))
    # of two forecasts the only pair: (0.1 - 1) (0.2 - 0)
    assert together == pytest.approx(-0.18)


def test_classwise_and_top_label():
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet(np.ones(4), 50), rng.integers(0, 4, 50)
    by_hand = np.mean([naive_ece(p[:, k], (labels == k).astype(float), 15, 1) for k in range(4)])
    assert metrics.classwise_calibration_error(p, labels) == pytest.approx(by_hand, abs=1e-12)
    confidence, correct = metrics.top_label(torch.tensor(p), torch.tensor(labels))
    assert np.array_equal(confidence, p.max(1)) and np.array_equal(correct, p.argmax(1) == labels)


def test_brier_score_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    p, y = rng.uniform(size=30), rng.integers(0, 2, 30)
    assert float(metrics.brier_score(p, y)) == pytest.approx(brier_score_loss(y, p), abs=1e-10)
    rows, labels = rng.dirichlet(np.ones(3), 30), rng.integers(0, 3, 30)
    peer = brier_score_loss(labels, rows, labels=[0, 1, 2], scale_by_half=False)
    assert float(metrics.brier_score(rows, labels)) == pytest.approx(peer, abs=1e-10)
    t = torch.tensor(rows, requires_grad=True)
    metrics.brier_score(t, torch.tensor(labels)).backward()
    assert t.grad.numpy() == pytest.approx(2 * (rows - np.eye(3)[labels]) / 30, abs=1e-12)


@given(FORECASTS, st.one_of(st.none(), st.integers(1, 5)), st.sampled_from(["width", "mass"]))
def test_brier_parts_add_up(pairs, bins, scheme):
    forecast, outcome = zip(*pairs, strict=True)
    parts = metrics.brier_decomposition(forecast, outcome, bins=bins, scheme=scheme)
    assert parts.score == pytest.approx(float(metrics.brier_score(forecast, outcome)), abs=1e-12)
    assert min(parts.reliability, parts.resolution, parts.uncertainty, parts.within_variance) >= 0
    if bins is None:
        assert max(parts.within_variance, abs(parts.within_covariance)) < 1e-30


def test_interval_scores():
    rng = np.random.default_rng(0)
    y, low = rng.normal(size=40), rng.normal(-1, 1, size=40)
    high = low + rng.exponential(size=40)
    assert float(metrics.coverage(y, low, high)) == np.mean([a <= v <= b for v, a, b in zip(y, low, high, strict=True)])
    assert float(metrics.mean_width(low, high)) == pytest.approx(np.mean(high - low))
    pinballs = metrics.pinball_loss(y, low, level=0.1) + metrics.pinball_loss(y, high, level=0.9)
    score = metrics.interval_score(y, low, high, alpha=0.2)
    assert float(score) == pytest.approx(float(pinballs) * 2 / 0.2, abs=1e-10)
    assert float(metrics.pinball_loss(y, low, level=0.3)) == pytest.approx(
        mean_pinball_loss(y, low, alpha=0.3), abs=1e-10
    )


def test_intervals_are_closed_at_both_ends():
    assert float(metrics.coverage([0.0, 1.0, 2.0], [0.0, 0.0, 2.0], [1.0, 1.0, 2.0])) == 1


def test_corruption_error_weighs_corruptions_alike():
    """1/2 of the baseline's error for the first, all of it for the second, however large these are."""
    errors, baseline = [[0.1, 0.1], [0.8, 0.9]], [[0.2, 0.2], [0.8, 0.9]]
    assert metrics.mean_corruption_error(errors, baseline) == pytest.approx((1 / 2 + 1) / 2)


def test_interval_scores_have_gradients_and_accept_infinite_ends():
    y = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64, requires_grad=True)
    low = torch.tensor([-1.0, 1.5, 0.0], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: metrics.interval_score(*a, alpha=0.1), (y, low, high))
    assert torch.autograd.gradcheck(lambda *a: metrics.pinball_loss(*a, level=0.3), (y, low))
    assert float(metrics.interval_score([0.0], [-np.inf], [np.inf], alpha=0.1)) == np.inf
    assert float(metrics.coverage([0.0], [-np.inf], [np.inf])) == 1


def test_accuracies():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 6)), rng.integers(0, 6, 50)
    for k in range(1, 7):
        peer = top_k_accuracy_score(labels, scores, k=k, labels=range(6)) if k < 6 else 1.0
        assert metrics.top_k_accuracy(scores, labels, k=k) == pytest.approx(peer, abs=1e-12)
    predicted = scores.argmax(1)
    assert metrics.accuracy(predicted, labels) == accuracy_score(labels, predicted)
    assert metrics.agreement(torch.tensor([2**53 - 1]), torch.tensor([2**53 - 2])) == 0


def test_tied_top_k_is_the_mean_over_orders():
    scores, label = np.array([2.0, 1.0, 1.0, 1.0, 0.0]), 2
    for k in range(1, 6):
        hits = []
        for order in permutations(range(5)):
            ranked = sorted(order, key=lambda i: -scores[i])
            hits.append(label in ranked[:k])
        assert metrics.top_k_accuracy([scores], [label], k=k) == pytest.approx(np.mean(hits), abs=1e-12)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.9]), st.integers(0, 1)), min_size=1, max_size=6))
def test_risk_coverage_is_the_mean_over_orders_of_ties(pairs):
    confidence, losses = map(np.array, zip(*pairs, strict=True))
    curves = []
    for order in permutations(range(len(pairs))):
        ranked = sorted(order, key=lambda i: -confidence[i])
        curves.append(np.cumsum(losses[ranked]) / np.arange(1, len(pairs) + 1))
    _, risk = metrics.risk_coverage(confidence, losses)
    assert risk == pytest.approx(np.mean(curves, axis=0), abs=1e-12)
    assert metrics.aurc(confidence, losses) == pytest.approx(np.mean(curves), abs=1e-12)
    excess = metrics.excess_aurc(confidence, losses)
    best = min(np.mean(np.cumsum(np.sort(losses)) / np.arange(1, len(pairs) + 1)), np.mean(curves))
    assert excess == pytest.approx(np.mean(curves) - best, abs=1e-12)


def test_best_aurc_tends_to_its_known_limit():
    losses = np.repeat([0, 1], [8000, 2000])
    limit = 0.2 + 0.8 * math.log(0.8)
    assert metrics.aurc(-losses, losses) == pytest.approx(limit, abs=1e-3)


def test_robustness():
    correct = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1]])
    assert metrics.worst_case_accuracy(correct) == 0.5 <= correct.mean(axis=0).min()
    names, values = metrics.group_accuracies([1, 1, 0, 0, 1], [7, 7, 7, 3, 3])
    assert names.tolist() == [3, 7] and values == pytest.approx([1 / 2, 2 / 3])
    assert metrics.worst_group_accuracy([1, 1, 0, 0, 1], [7, 7, 7, 3, 3]) == 0.5
    assert metrics.retained_accuracy(0.8, 0.4) == 0.5
    assert metrics.mean_corruption_error(correct[:, :2] * 0.25, np.full((4, 2), 0.5)) == pytest.approx(3 / 8)
    assert metrics.accuracy_strength_area([0, 1, 2], [1, 0.5, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m: m.expected_calibration_error([0.5, 0.5], [1]), "confidence has 2"),
        (lambda m: m.expected_calibration_error([1.5], [1]), "confidence"),
        (lambda m: m.expected_calibration_error([math.nan], [1]), "confidence"),
        (lambda m: m.expected_calibration_error([0.5], [2]), "correct"),
        (lambda m: m.expected_calibration_error([], []), "confidence"),
        (lambda m: m.expected_calibration_error([0.5], [1], bins=0), "bins"),
        (lambda m: m.expected_calibration_error([0.5], [1], norm=0.5), "norm"),
        (lambda m: m.expected_calibration_error([0.5], [1], scheme="wide"), "scheme"),
        (lambda m: m.squared_calibration_error([0.1, 0.9], [1, 0], bins=2), "fewer bins"),
        (lambda m: m.reliability_diagram([0.5], [1], level=1), "level"),
        (lambda m: m.top_label([[0.5, 0.6]], [0]), "probabilities must sum"),
        (lambda m: m.top_label([[0.5, 0.5]], [2]), "labels"),
        (lambda m: m.top_label([[0.5, 0.5]], torch.tensor([1])), "one library"),
        (lambda m: m.top_label([[0.5, 0.5]], [0.5]), "labels"),
        (lambda m: m.brier_score([0.5], [2]), "labels"),
        (lambda m: m.brier_score([-0.5], [1]), "forecast"),
        (lambda m: m.brier_score([[0.5, 0.2]], [1]), "forecast"),
        (lambda m: m.brier_decomposition([0.5], [0.5]), "outcome"),
        (lambda m: m.coverage([1.0], [2.0], [1.0]), "low"),
        (lambda m: m.coverage([1.0, 2.0], [[0.0], [0.0]], [[1.0], [1.0]]), "one shape"),
        (lambda m: m.interval_score([1.0], [0.0], [math.nan], alpha=0.1), "high"),
        (lambda m: m.interval_score([1.0], [0.0], [1.0], alpha=1.0), "alpha"),
        (lambda m: m.pinball_loss([], [], level=0.5), "y must hold"),
        (lambda m: m.pinball_loss([1.0], [1.0], level=0), "level"),
        (lambda m: m.accuracy([1, 2], [1]), "predictions has 2"),
        (lambda m: m.top_k_accuracy([[1.0, 2.0]], [0], k=3), "k must be at most 2"),
        (lambda m: m.top_k_accuracy([[1.0, math.nan]], [0], k=1), "scores"),
        (lambda m: m.aurc([0.5], [math.nan]), "losses"),
        (lambda m: m.worst_case_accuracy([[0.5]]), "correct"),
        (lambda m: m.retained_accuracy(0, 0.5), "clean"),
        (lambda m: m.mean_corruption_error([[0.1]], [[0.0]]), "baseline"),
        (lambda m: m.accuracy_strength_area([0, 0], [1, 1]), "strengths"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ParameterError, match=named):
        call(metrics)


def test_low_precision_and_strided_input():
    half = torch.tensor([0.5, 0.25, 0.75, 1.0], dtype=torch.bfloat16)[::2]
    assert float(metrics.brier_score(half, torch.tensor([1, 0]))) == pytest.approx((0.25 + 0.5625) / 2)
    assert metrics.expected_calibration_error(half, torch.tensor([1, 0])) == pytest.approx(0.625)
    assert metrics.brier_score(np.float16([0.5]), [1]).dtype in (np.float32, np.float64)
