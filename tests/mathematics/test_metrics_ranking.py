"""Ranking, Pareto fronts and two-sample tests: peers, enumeration of small cases, bad input."""

from __future__ import annotations

import math
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from porism import metrics
from porism.discrepancies import energy_distance, mmd_squared
from porism.errors import ParameterError
from porism.metrics.two_sample import _nearest_neighbours, _p_values

SCORES = st.lists(
    st.tuples(st.sampled_from([-1e300, 0.0, 1e-300, 0.1, 0.5, 1.0]), st.integers(0, 1)), min_size=2, max_size=20
)


@given(SCORES)
def test_auc_and_average_precision_are_those_of_sklearn(pairs):
    scores, labels = map(np.array, zip(*pairs, strict=True))
    if labels.any():
        ours = metrics.average_precision(scores, labels)
        assert ours == pytest.approx(average_precision_score(labels, scores), abs=1e-10)
    if labels.any() and not labels.all():
        ours = metrics.roc_auc(scores, labels)
        assert ours == pytest.approx(roc_auc_score(labels, scores), abs=1e-10)
        assert metrics.roc_auc(-scores, labels) == pytest.approx(1 - ours, abs=1e-12)
        assert metrics.roc_auc(torch.tensor(scores), torch.tensor(labels)) == ours


@pytest.mark.parametrize("k", [None, 1, 3, 6])
def test_ndcg_is_that_of_sklearn(k):
    rng = np.random.default_rng(0)
    scores, gains = rng.integers(0, 4, (20, 6)), rng.integers(0, 3, (20, 6)) + np.eye(6)[rng.integers(0, 6, 20)]
    assert metrics.ndcg(scores, gains, k=k) == pytest.approx(ndcg_score(gains, scores, k=k), abs=1e-10)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=6).filter(
        lambda pairs: any(label for _, label in pairs)
    )
)
def test_ranks_are_means_over_orders_of_ties(pairs):
    scores, relevant = map(np.array, zip(*pairs, strict=True))
    first = []
    for order in permutations(range(len(pairs))):
        ranked = sorted(order, key=lambda i: -scores[i])
        first.append(1 + next(place for place, item in enumerate(ranked) if relevant[item]))
    first = np.array(first)
    assert metrics.mean_reciprocal_rank([scores], [relevant]) == pytest.approx(np.mean(1 / first), abs=1e-12)
    for k in range(1, len(pairs) + 1):
        assert metrics.hit_rate([scores], [relevant], k=k) == pytest.approx(np.mean(first <= k), abs=1e-12)


# Pareto fronts

POINTS = st.integers(2, 4).flatmap(
    lambda d: st.lists(st.lists(st.integers(0, 4), min_size=d, max_size=d), min_size=1, max_size=8)
)


@given(POINTS)
def test_front_and_hypervolume_by_counting_and_by_inclusion_and_exclusion(points):
    p = np.array(points, dtype=float)
    front = metrics.pareto_front(p)
    assert front.tolist() == [not any((q <= r).all() and (q < r).any() for q in p) for r in p]
    volume = metrics.hypervolume(p, np.full(p.shape[1], 4.0))
    cells = np.array(list(product(range(4), repeat=p.shape[1])))
    assert volume == (cells[:, None] >= p[None]).all(axis=2).any(axis=1).sum()
    excluded = 0.0
    for size in range(1, min(len(p), 8) + 1):
        for some in combinations(range(len(p)), size):
            excluded -= (-1) ** size * np.prod(np.maximum(4 - p[list(some)].max(axis=0), 0))
    assert volume == pytest.approx(excluded, abs=1e-9)
    assert volume == pytest.approx(metrics.hypervolume(p[front], np.full(p.shape[1], 4.0)), abs=1e-9)


@pytest.mark.parametrize("dimension", [3, 5])
def test_hypervolume_against_monte_carlo(dimension):
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(25, dimension))
    draws = rng.uniform(size=(100_000, dimension))
    share = np.zeros(len(draws), dtype=bool)
    for point in points:
        share |= (draws >= point).all(axis=1)
    assert metrics.hypervolume(points, np.ones(dimension)) == pytest.approx(share.mean(), abs=4 * 0.5 / 100_000**0.5)


def test_r2_igd_and_lattice():
    weights = metrics.simplex_lattice(3, 4)
    assert weights.shape == (15, 3) and np.allclose(weights.sum(axis=1), 1) and len(np.unique(weights, axis=0)) == 15
    assert metrics.simplex_lattice(1, 3).tolist() == [[1.0]]
    rng = np.random.default_rng(0)
    points, ideal = rng.uniform(size=(6, 3)), np.zeros(3)
    by_hand = np.mean([min(max(w * a) for a in points) for w in weights])
    assert metrics.r2_indicator(points, weights, ideal) == pytest.approx(by_hand)
    assert metrics.r2_indicator(points * 0.9, weights, ideal) < by_hand
    front = rng.uniform(size=(5, 3))
    plus = np.mean([min(np.linalg.norm(np.maximum(a - z, 0)) for a in points) for z in front])
    assert metrics.igd_plus(points, front) == pytest.approx(plus)
    assert metrics.igd_plus(front - 0.1, front) == 0


# two-sample tests


@given(st.lists(st.integers(0, 4), min_size=2, max_size=7), st.integers(1, 6))
def test_level_over_all_splits(pool, n):
    """Under the null hypothesis every split of the pool is equally likely: enumerate them."""
    if n >= len(pool):
        return
    pool = np.array(pool) * 0.1
    p, low = [], []
    for members in combinations(range(len(pool)), n):
        x, y = pool[list(members)], np.delete(pool, members)
        test = metrics.permutation_test(
            x, y, lambda a, b: abs(a.mean() - b.mean()), permutations=None, rng=np.random.default_rng(0)
        )
        p.append(test.p_value)
        low.append(test.randomized_p_value)
        assert test.randomized_p_value <= test.p_value
    for alpha in np.unique(p):
        assert np.mean(np.array(p) <= alpha) <= alpha + 1e-12


def test_level_of_random_permutations_by_enumeration():
    """Statistics of observed and two permuted splits are independent draws from the values of all splits."""
    values = np.array([1.0, 1.0, 2.0, 3.0, 3.0, 5.0])
    grid = (np.arange(60) + 0.5) / 60
    p, randomized = [], []
    for draw in product(values, repeat=3):
        p.append(_p_values(np.array(draw), 0.0)[0])
        randomized.extend(_p_values(np.array(draw), u)[1] for u in grid)
    for alpha in (1 / 3, 2 / 3, 1):
        assert np.mean(np.array(p) <= alpha + 1e-12) <= alpha + 1e-12
    # the randomised one has the level itself, at levels that the grid of uniforms resolves
    for alpha in (1 / 3, 2 / 3):
        assert np.mean(np.array(randomized) <= alpha) == pytest.approx(alpha, abs=1e-9)
    assert np.mean(randomized) == pytest.approx(0.5, abs=1e-9)


def test_ties_survive_rounding():
    """0.1 + 0.2 and 0.3 + 0.0 are equal but for rounding, which must not make the p-value smaller."""
    test = metrics.permutation_test(
        [0.1, 0.2], [0.3, 0.0], lambda a, b: a.sum() - b.sum(), permutations=None, rng=np.random.default_rng(0)
    )
    assert test.statistic > 0
    assert test.p_value == pytest.approx(4 / 6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_kernel_tests_have_exact_level_and_the_value_of_the_discrepancy(n):
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(6, 2))
    for run in (metrics.mmd_test, metrics.energy_test):
        p = []
        for members in combinations(range(6), n):
            x, y = pool[list(members)], np.delete(pool, members, axis=0)
            test = run(x, y, permutations=None, rng=rng)
            p.append(test.p_value)
            expected = mmd_squared(x, y, estimator="biased") if run is metrics.mmd_test else energy_distance(x, y)
            assert test.statistic == pytest.approx(float(expected), abs=1e-10)
        for alpha in np.unique(p):
            assert np.mean(np.array(p) <= alpha) <= alpha + 1e-12


def test_kernel_test_is_the_general_one():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 1)), rng.normal(1, 1, size=(5, 1))

    def statistic(a, b):
        return float(mmd_squared(a, b, bandwidth=1.0, estimator="biased"))

    fast = metrics.mmd_test(x, y, bandwidth=1.0, permutations=None, rng=rng)
    slow = metrics.permutation_test(x, y, statistic, permutations=None, rng=rng)
    assert fast.p_value == slow.p_value and fast.statistic == pytest.approx(slow.statistic, abs=1e-12)


def test_tests_hold_their_level_and_have_power():
    rng = np.random.default_rng(1)
    for run, options in (
        (metrics.mmd_test, {"permutations": 19}),
        (metrics.energy_test, {"permutations": 19}),
        (metrics.c2st, {}),
    ):
        null = [
            run(rng.normal(size=15), rng.normal(size=10), rng=rng, **options).randomized_p_value for _ in range(150)
        ]
        assert abs(np.mean(np.array(null) <= 0.2) - 0.2) < 4 * (0.16 / 150) ** 0.5
        other = run(rng.normal(size=40), rng.normal(2.5, 1, size=40), rng=rng, **options)
        assert other.p_value <= 0.05


def test_c2st_is_fishers_test():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(1, 1, size=(24, 2))
    seen = {}

    def threshold(train, labels, test):
        assert len(train) == len(labels) == 22
        seen["predicted"] = (test[:, 0] > 0.5).astype(int)
        return seen["predicted"]

    test = metrics.c2st(x, y, classifier=threshold, rng=rng)
    truth = np.repeat([0, 1], [10, 12])
    table = [[np.sum((truth == a) & (seen["predicted"] == b)) for b in (1, 0)] for a in (1, 0)]
    assert test.p_value == pytest.approx(fisher_exact(table, alternative="greater").pvalue, abs=1e-10)


def test_statistic_of_c2st_is_the_mean_of_both_accuracies_on_the_share_held_out():
    """Of 8 and 40, a quarter is held out: 2 and 10. The classifier is right on all of x and half of y."""
    sizes = []

    def half_right(train, labels, test):
        sizes.append((len(train), labels.sum(), len(test)))
        return np.repeat([0, 1, 0], [2, 5, 5])

    test = metrics.c2st(np.zeros(8), np.ones(40), classifier=half_right, held_out=0.25, rng=np.random.default_rng(0))
    assert sizes == [(36, 30, 12)]
    assert test.statistic == pytest.approx((1 + 1 / 2) / 2)


def test_neighbours_vote_against_the_share_of_each_sample():
    """A test point whose neighbours are half x, half y is of the smaller sample, here y."""
    train = np.array([0.0, 1.0, *np.arange(100.0, 107.0)])[:, None]
    labels = np.array([0, 1, 0, 0, 0, 0, 0, 0, 1])
    # three neighbours of nine: at 0.4 these are 0, 1 and 100, of y one third, more than 2/9
    assert _nearest_neighbours(train, labels, np.array([[0.4], [101.0]])).tolist() == [True, False]


def test_tests_repeat_with_their_generator():
    x, y = np.arange(5.0), np.arange(6.0) + 0.5
    runs = [metrics.energy_test(x, y, permutations=99, rng=np.random.default_rng(4)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert (
        metrics.energy_test(torch.tensor(x), torch.tensor(y), permutations=99, rng=np.random.default_rng(4)) == runs[0]
    )


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m: m.roc_auc([1.0, 2.0], [1, 1]), "both classes"),
        (lambda m: m.roc_auc([1.0, math.nan], [1, 0]), "scores"),
        (lambda m: m.roc_auc([1.0], [1, 0]), "scores has 1"),
        (lambda m: m.roc_auc([1.0, 2.0], [1, 2]), "labels"),
        (lambda m: m.average_precision([1.0], [0]), "positive"),
        (lambda m: m.average_precision([], []), "scores"),
        (lambda m: m.ndcg([[1.0, 2.0]], [[0, 0]]), "relevance"),
        (lambda m: m.ndcg([[1.0, 2.0]], [[-1, 1]]), "relevance"),
        (lambda m: m.ndcg([[1.0, 2.0]], [[0, 1]], k=3), "k must"),
        (lambda m: m.hit_rate([[1.0]], [[0]], k=1), "relevant"),
        (lambda m: m.hit_rate([[1.0]], [[1]], k=0), "k must"),
        (lambda m: m.mean_reciprocal_rank([[1.0, 2.0]], [[1]]), "one shape"),
        (lambda m: m.pareto_front([]), "points"),
        (lambda m: m.hypervolume([[1.0, 2.0]], [3.0]), "reference"),
        (lambda m: m.hypervolume([[1.0, math.nan]], [3.0, 3.0]), "points"),
        (lambda m: m.r2_indicator([[1.0]], [[-1.0]], [0.0]), "weights"),
        (lambda m: m.r2_indicator([[1.0]], [[1.0]], [2.0]), "ideal"),
        (lambda m: m.igd_plus([[1.0]], [[1.0, 2.0]]), "front"),
        (lambda m: m.simplex_lattice(0, 2), "objectives"),
        (lambda m: m.energy_test([], [1.0], rng=RNG), "x must"),
        (lambda m: m.energy_test([1.0, math.inf], [1.0], rng=RNG), "x must"),
        (lambda m: m.energy_test([[1.0, 2.0]], [[1.0]], rng=RNG), "agree"),
        (lambda m: m.energy_test([1.0], [2.0], permutations=0, rng=RNG), "permutations"),
        (lambda m: m.energy_test(np.ones(40), np.ones(40), permutations=None, rng=RNG), "permutations"),
        (lambda m: m.mmd_test([1.0], [2.0], kernel=lambda a, b: np.ones((1, 1)), rng=RNG), "kernel"),
        (lambda m: m.mmd_test([1.0], [2.0], kernel="gauss", rng=RNG), "kernel"),
        (lambda m: m.permutation_test([1.0], [2.0], lambda a, b: math.nan, rng=RNG), "statistic"),
        (lambda m: m.c2st([1.0], [1.0, 2.0], rng=RNG), "x must"),
        (lambda m: m.c2st([1.0, 2.0], [1.0, 2.0], classifier=lambda *_: [0.5, 0.5], rng=RNG), "classifier"),
        (lambda m: m.c2st([1.0, 2.0], [1.0, 2.0], held_out=1.0, rng=RNG), "held_out"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ParameterError, match=named):
        call(metrics)
