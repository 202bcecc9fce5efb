"""Transport on the line against scipy, POT, brute force and finite differences."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from scipy import stats

from porism.errors import ParameterError
from porism.testing.strategies import samples
from porism.transport import cdf_difference, crps_sample, quantile_coupling, wasserstein_1d

SAMPLES = samples(points=(1, 12))


def weights(rng: np.random.Generator, size: int) -> np.ndarray:
    drawn = rng.random(size) * (rng.random(size) > 0.3)
    drawn[0] += 0.1
    return drawn / drawn.sum()


def brute_force(x, y, p, a, b):
    """The linear programme, by POT."""
    gaps = np.abs(x[:, None] - y[None])
    if p == math.inf:
        levels = np.unique(gaps)
        return next(r for r in levels if ot.emd2(a, b, (gaps > r).astype(float)) < 1e-12)
    return ot.emd2(a, b, gaps**p) ** (1 / p)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (6, 6), (6, 4), (7, 5)])
def test_distance_is_that_of_the_linear_programme(p, n, m):
    rng = np.random.default_rng(n * 10 + m)
    x, y = rng.normal(size=n), rng.normal(size=m) + 0.5
    equal_x, equal_y, a, b = np.full(n, 1 / n), np.full(m, 1 / m), weights(rng, n), weights(rng, m)
    assert wasserstein_1d(x, y, p) == pytest.approx(brute_force(x, y, p, equal_x, equal_y), abs=1e-10)
    for given_a, given_b in ((a, b), (None, b), (a, None)):
        expected = brute_force(x, y, p, equal_x if given_a is None else a, equal_y if given_b is None else b)
        found = wasserstein_1d(x, y, p, x_weights=given_a, y_weights=given_b)
        assert found == pytest.approx(expected, abs=1e-10)


def test_scipy_and_pot_agree():
    rng = np.random.default_rng(0)
    x, y, a, b = rng.normal(size=500), rng.normal(size=300), weights(rng, 500), weights(rng, 300)
    assert wasserstein_1d(x, y) == pytest.approx(stats.wasserstein_distance(x, y), abs=1e-10)
    weighted = wasserstein_1d(x, y, x_weights=a, y_weights=b)
    assert weighted == pytest.approx(stats.wasserstein_distance(x, y, a, b), abs=1e-10)
    for p in (1, 2, 3):
        ours = wasserstein_1d(x, y, p, x_weights=a, y_weights=b) ** p
        assert ours == pytest.approx(float(ot.wasserstein_1d(x, y, a, b, p=p)), abs=1e-10)


@given(SAMPLES, SAMPLES)
def test_properties_of_a_distance(x, y):
    orders = [float(wasserstein_1d(x, y, p)) for p in (1, 1.5, 2, 4, math.inf)]
    scale = 1 + float(max(abs(x).max(), abs(y).max()))
    assert all(low <= high + 1e-9 * scale for low, high in pairwise(orders))
    for p in (1, 2, math.inf):
        value = float(wasserstein_1d(x, y, p))
        assert value == pytest.approx(float(wasserstein_1d(y, x, p)), abs=1e-9 * scale)
        assert value == pytest.approx(float(wasserstein_1d(x + 7, y + 7, p)), abs=1e-9 * scale)
        assert 3 * value == pytest.approx(float(wasserstein_1d(-3 * x, -3 * y, p)), abs=1e-9 * scale)
        assert float(wasserstein_1d(x, x[::-1], p)) == 0
        assert float(wasserstein_1d(x, np.repeat(x, 3), p)) == pytest.approx(0, abs=1e-12 * scale)
    as_weights = wasserstein_1d(x, y, 2, x_weights=np.full(len(x), 1 / len(x)), y_weights=np.full(len(y), 1 / len(y)))
    assert float(as_weights) == pytest.approx(orders[2], abs=1e-6 * scale)  # a root of rounding


@given(SAMPLES, SAMPLES)
def test_coupling_has_the_margins_and_the_cost(x, y):
    plan = quantile_coupling(x, y)
    assert (plan.mass > 0).all() and len(plan.mass) <= len(x) + len(y) - 1
    np.testing.assert_allclose(np.bincount(plan.x_index, plan.mass, len(x)), 1 / len(x), atol=1e-12)
    np.testing.assert_allclose(np.bincount(plan.y_index, plan.mass, len(y)), 1 / len(y), atol=1e-12)
    cost = plan.mass @ abs(x[plan.x_index] - y[plan.y_index])
    assert cost == pytest.approx(float(wasserstein_1d(x, y)), abs=1e-9)


def test_weighted_coupling_has_the_margins_of_unsorted_points():
    rng = np.random.default_rng(7)
    x, y, a, b = rng.normal(size=6), rng.normal(size=5), weights(rng, 6), weights(rng, 5)
    plan = quantile_coupling(x, y, x_weights=a, y_weights=b)
    np.testing.assert_allclose(np.bincount(plan.x_index, plan.mass, 6), a, atol=1e-12)
    np.testing.assert_allclose(np.bincount(plan.y_index, plan.mass, 5), b, atol=1e-12)
    assert plan.mass @ abs(x[plan.x_index] - y[plan.y_index]) == pytest.approx(
        float(wasserstein_1d(x, y, x_weights=a, y_weights=b)), abs=1e-12
    )


def test_masses_below_rounding_do_not_count_as_the_longest_way():
    """Partial sums of ten tenths are off by a rounding here and there; no mass moves."""
    x = np.arange(10.0)
    assert (np.cumsum(np.full(10, 0.1)) != np.arange(1, 11) / 10).any()
    assert wasserstein_1d(x, x, math.inf, x_weights=np.full(10, 0.1)) == 0


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_gradients_in_points_and_weights(p):
    rng = np.random.default_rng(3)
    x, y = (torch.tensor(rng.normal(size=s), requires_grad=True) for s in ((2, 6), (2, 4)))
    same = torch.tensor(rng.normal(size=(2, 6)), requires_grad=True)
    logits = torch.tensor(rng.normal(size=6), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: wasserstein_1d(x, y, p), (x, same))
    assert torch.autograd.gradcheck(lambda x, y: wasserstein_1d(x, y, p), (x, y))
    assert torch.autograd.gradcheck(lambda x, y, z: wasserstein_1d(x, y, p, x_weights=z.softmax(0)), (x, y, logits))


@pytest.mark.parametrize("p", [1, 1.5, 2, math.inf])
def test_gradients_at_zero_and_at_ties_are_finite(p):
    x = torch.tensor([0.0, 1.0, 1.0, 2.0], requires_grad=True)
    for y in (x.detach().clone(), torch.tensor([0.0, 1.0, 1.0, 5.0]), torch.tensor([1.0, 1.0])):
        (gradient,) = torch.autograd.grad(wasserstein_1d(x, y, p), x)
        assert gradient.isfinite().all()


def test_backends_dtypes_batches_and_strides():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(3, 1, 8)), rng.normal(size=(2, 5))
    expected = np.array([[float(wasserstein_1d(x[i, 0], y[j], 2)) for j in range(2)] for i in range(3)])
    np.testing.assert_allclose(wasserstein_1d(x, y, 2), expected, atol=1e-12)
    np.testing.assert_allclose(wasserstein_1d(torch.tensor(x), torch.tensor(y), 2), expected, atol=1e-12)
    moved = torch.tensor(x).transpose(0, 2)
    strided = wasserstein_1d(moved, torch.tensor(y).T[:, None, :, None], 2, axis=0)
    np.testing.assert_allclose(strided[0].T, expected, atol=1e-12)
    half = wasserstein_1d(torch.tensor(x).half(), torch.tensor(x).bfloat16())
    assert half.dtype == torch.float32 and half.max() < 0.02
    assert wasserstein_1d([1, 2], [2, 3]) == 1
    flipped = np.ascontiguousarray(x[0, 0])[::-1]
    assert wasserstein_1d(flipped, x[0, 0]) == 0


def test_extreme_values_do_not_overflow():
    assert wasserstein_1d([0.0, 1e300], [0.0, -1e300], 2) == pytest.approx(1e300)
    assert wasserstein_1d([0.0, 1e-300], [0.0, 0.0], 2) == pytest.approx(1e-300 / math.sqrt(2))
    assert wasserstein_1d([0.0, 9.0], [0.0], 3, x_weights=[1.0, 0.0]) == 0


def test_cdf_difference_integrates_to_the_distance():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(4, 9)), rng.normal(size=(4, 6))
    points, difference = cdf_difference(x, y)
    area = (abs(difference[:, :-1]) * np.diff(points)).sum(-1)
    np.testing.assert_allclose(area, wasserstein_1d(x, y), atol=1e-12)
    assert (difference[:, -1] == 0).all()


@given(SAMPLES, samples(points=1))
def test_crps_is_its_definition(x, one):
    (y,) = one
    n, scale = len(x), 1 + abs(x).max() + abs(y)
    pairs = abs(x[:, None] - x[None])
    assert float(crps_sample(x, y)) == pytest.approx(abs(x - y).mean() - pairs.mean() / 2, abs=1e-12 * scale)
    if n > 1:
        fair = abs(x - y).mean() - pairs.sum() / (2 * n * (n - 1))
        assert float(crps_sample(x, y, fair=True)) == pytest.approx(fair, abs=1e-12 * scale)
    doubled = crps_sample(np.repeat(x, 2), y, x_weights=np.full(2 * n, 0.5 / n))
    assert float(doubled) == pytest.approx(float(crps_sample(x, y)), abs=1e-12 * scale)


def test_fair_crps_of_a_weighted_ensemble_is_its_definition():
    """The mean of |X - X'| over pairs of different members: their masses sum to 1 - sum of squares."""
    rng = np.random.default_rng(8)
    x, a = rng.normal(size=7), weights(rng, 7)
    pairs = a @ abs(x[:, None] - x) @ a / (1 - a @ a)
    assert crps_sample(x, 0.4, x_weights=a, fair=True) == pytest.approx(a @ abs(x - 0.4) - pairs / 2, abs=1e-12)


def test_crps_less_its_least_is_the_squared_area():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=20), rng.normal(size=30)
    excess = crps_sample(x[None], y).mean() - crps_sample(y[None], y).mean()
    points, difference = cdf_difference(x, y)
    assert excess == pytest.approx((difference[:-1] ** 2 * np.diff(points)).sum(), abs=1e-12)
    scores = torch.tensor(x, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: crps_sample(x, torch.tensor(0.3)), (scores,))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([], [1.0]), "x is empty"),
        (([1.0, math.nan], [1.0, 2.0]), "x must be finite"),
        (([1.0], [1.0, math.inf]), "y must be finite"),
        (([1.0], [1.0], 0.5), "p must be"),
        (([1.0], [1.0], math.nan), "p must be"),
        ((np.zeros((2, 3)), np.zeros((3, 3))), "do not broadcast"),
        ((np.zeros(3), torch.zeros(3)), "one library"),
    ],
)
def test_bad_input_names_the_argument(arguments, named):
    with pytest.raises(ParameterError, match=named):
        wasserstein_1d(*arguments)


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.5, -0.5], [1.0], [math.nan, 1.0]])
def test_bad_weights_name_the_argument(bad):
    with pytest.raises(ParameterError, match="y_weights"):
        wasserstein_1d([1.0, 2.0], [1.0, 2.0], y_weights=bad)
    assert wasserstein_1d([0.0, 1.0], [1.0], x_weights=[1.0, 3.0], normalize=True) == 0.25


def test_crps_rejects_what_it_cannot_score():
    with pytest.raises(ParameterError, match="fair"):
        crps_sample([1.0], 0.0, fair=True)
    with pytest.raises(ParameterError, match="y must"):
        crps_sample(np.zeros((3, 4)), np.zeros(2))
