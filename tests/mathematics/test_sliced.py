"""Sliced, max-sliced and exact transport: inequalities, POT, seeds, gradients."""

from __future__ import annotations

import sys

import numpy as np
import ot
import pytest
import torch

from porism.errors import MissingExtraError, ParameterError
from porism.transport import (
    exact_ot,
    exact_wasserstein,
    gromov_wasserstein,
    max_sliced_direction,
    max_sliced_wasserstein,
    sliced_wasserstein,
    wasserstein_1d,
)
from porism.transport.sliced import _gradient


def clouds(seed: int, n: int = 20, m: int = 15, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) * rng.random(d) * 2 + rng.normal(size=d)


def test_sliced_agrees_with_pot_on_the_same_directions():
    x, y = clouds(0)
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    a = rng.random(20)
    a /= a.sum()
    for p in (1, 2):
        theirs = ot.sliced_wasserstein_distance(x, y, a, None, projections=directions.T, p=p)
        assert sliced_wasserstein(x, y, p, projections=directions, x_weights=a) == pytest.approx(theirs, abs=1e-10)
        theirs = ot.max_sliced_wasserstein_distance(x, y, a, None, projections=directions.T, p=p)
        found = max_sliced_wasserstein(x, y, p, projections=directions, steps=0, x_weights=a)
        assert found >= theirs - 1e-10


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("p", [1, 2, 3])
def test_sliced_is_below_max_sliced_is_below_full(seed, p):
    x, y = clouds(seed)
    sliced = sliced_wasserstein(x, y, p, projections=50, rng=np.random.default_rng(seed))
    largest = max_sliced_wasserstein(x, y, p, projections=50, rng=np.random.default_rng(seed))
    full = exact_wasserstein(x, y, p)
    assert sliced <= largest + 1e-12 <= full + 2e-12
    assert sliced_wasserstein(x, x[::-1], p, projections=5, rng=np.random.default_rng(0)) == 0


def test_sliced_square_is_at_most_a_dth_of_the_full_square():
    # Orthonormal directions turn the expectation over directions into an average over frames.
    for seed in range(5):
        x, y = clouds(seed)
        rng = np.random.default_rng(seed)
        frames = np.concatenate([np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(20)])
        assert sliced_wasserstein(x, y, 2, projections=frames) ** 2 <= exact_wasserstein(x, y, 2) ** 2 / 3 + 1e-12
    shift = np.array([3.0, 0.0, 4.0])
    assert sliced_wasserstein(x, x + shift, 2, projections=frames) ** 2 == pytest.approx(25 / 3)


def test_max_sliced_finds_the_direction_of_a_shift_and_of_a_spread():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 10))
    shift = rng.normal(size=10)
    found = max_sliced_direction(x, x + shift, rng=np.random.default_rng(0))
    assert abs(found @ shift) == pytest.approx(np.linalg.norm(shift), rel=1e-6)
    # With equal means only the climb from random starts can find the direction.
    stretched = rng.normal(size=(200, 10)) * np.r_[3.0, np.ones(9)]
    x, stretched = x - x.mean(0), stretched - stretched.mean(0)
    found = max_sliced_direction(x, stretched, rng=np.random.default_rng(0))
    assert abs(found[0]) > 0.97 and np.linalg.norm(found) == pytest.approx(1)
    start, end = (max_sliced_wasserstein(x, stretched, rng=np.random.default_rng(0), steps=k) for k in (0, 50))
    assert end > 1.1 * start


def test_seeds_blocks_and_backends_give_the_same_numbers(monkeypatch):
    x, y = clouds(3)
    first = [sliced_wasserstein(x, y, rng=np.random.default_rng(7)) for _ in range(2)]
    assert first[0] == first[1]
    monkeypatch.setattr("porism.transport.sliced._BLOCK", 100)
    assert sliced_wasserstein(x, y, rng=np.random.default_rng(7)) == pytest.approx(first[0], rel=1e-14)
    tensors = sliced_wasserstein(torch.tensor(x), torch.tensor(y), rng=np.random.default_rng(7))
    assert float(tensors) == pytest.approx(first[0], rel=1e-12)
    single = sliced_wasserstein(torch.tensor(x).float(), torch.tensor(y).float(), rng=np.random.default_rng(7))
    assert single.dtype == torch.float32 and float(single) == pytest.approx(first[0], rel=1e-5)
    assert float(max_sliced_wasserstein(x, y, rng=np.random.default_rng(7))) == pytest.approx(
        float(max_sliced_wasserstein(torch.tensor(x), torch.tensor(y), rng=np.random.default_rng(7)))
    )


def test_gradients():
    x, y = (torch.tensor(v[:6], requires_grad=True) for v in clouds(4))
    directions = torch.tensor(np.random.default_rng(0).normal(size=(5, 3)))
    for p in (1, 2):
        assert torch.autograd.gradcheck(lambda x, y, p=p: sliced_wasserstein(x, y, p, projections=directions), (x, y))
        assert torch.autograd.gradcheck(lambda x, y, p=p: exact_wasserstein(x, y, p), (x, y))
    value = max_sliced_wasserstein(x, y, rng=np.random.default_rng(0))
    (slope,) = torch.autograd.grad(value, x)
    assert slope.isfinite().all() and slope.abs().sum() > 0
    same = exact_wasserstein(x, x.detach())
    assert float(same) == 0 and torch.autograd.grad(same, x)[0].isfinite().all()
    logits = torch.tensor(np.random.default_rng(1).normal(size=6), requires_grad=True)
    cost = torch.tensor(np.random.default_rng(2).random((6, 4)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda c, z: exact_ot(c, x_weights=z.softmax(0)).value, (cost, logits))


def test_exact_transport_certifies_itself():
    rng = np.random.default_rng(5)
    cost, a, b = rng.random((12, 9)), rng.random(12), rng.random(9)
    a[3] = 0
    a, b = a / a.sum(), b / b.sum()
    found = exact_ot(cost, x_weights=a, y_weights=b)
    assert found.value == pytest.approx(ot.emd2(a, b, cost), abs=1e-12)
    assert (found.x_potential[:, None] + found.y_potential <= cost + 1e-15).all()
    assert abs(found.value - a @ found.x_potential - b @ found.y_potential) < 1e-12
    np.testing.assert_allclose(found.plan.sum(1), a, atol=1e-12)
    np.testing.assert_allclose(found.plan.sum(0), b, atol=1e-12)


def test_exact_agrees_with_the_line_and_is_monotone_in_the_order():
    x, y = clouds(6, d=1)
    for p in (1, 2, 3):
        assert exact_wasserstein(x, y, p) == pytest.approx(wasserstein_1d(x[:, 0], y[:, 0], p), abs=1e-10)
    x, y = clouds(7)
    assert exact_wasserstein(x, y, 1) <= exact_wasserstein(x, y, 2) + 1e-12
    assert exact_wasserstein(3 * x + 1, 3 * y + 1) == pytest.approx(3 * exact_wasserstein(x, y))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_climb_follows_the_gradient_of_the_projected_cost(p):
    """Against central differences of W_p^p along great circles; the direction matters, not the length."""
    x, y = clouds(10)
    direction = np.array([0.6, 0.0, 0.8])
    tangents = np.array([[0.8, 0.0, -0.6], [0.0, 1.0, 0.0]])
    step = 1e-6

    def cost(t):
        return float(wasserstein_1d(x @ t, y @ t, p)) ** p

    slopes = [
        (cost(np.cos(step) * direction + np.sin(step) * t) - cost(np.cos(step) * direction - np.sin(step) * t))
        / (2 * step)
        for t in tangents
    ]
    found = _gradient(x, y, float(p), direction, {})
    assert found @ direction == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(tangents @ found / np.linalg.norm(found), slopes / np.linalg.norm(slopes), atol=1e-6)


def test_exact_distance_of_weighted_samples_is_that_on_the_line():
    rng = np.random.default_rng(11)
    x, y, a, b = rng.normal(size=6), rng.normal(size=4), rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(4))
    planar = exact_wasserstein(np.c_[x, 0 * x], np.c_[y, 0 * y], x_weights=a, y_weights=b)
    assert planar == pytest.approx(float(wasserstein_1d(x, y, 2, x_weights=a, y_weights=b)), abs=1e-10)


def test_gromov_wasserstein_ignores_isometries():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(8, 2))
    turned = (x @ np.linalg.qr(rng.normal(size=(2, 2)))[0] + 3)[rng.permutation(8)]
    distances = [np.linalg.norm(v[:, None] - v[None], axis=-1) for v in (x, turned, 2 * x)]
    assert gromov_wasserstein(distances[0], distances[1], starts=5, rng=rng).value < 1e-10
    found = gromov_wasserstein(distances[0], distances[2], starts=5, rng=rng)
    value = sum(
        (distances[0][i, k] - distances[2][j, l]) ** 2 * found.plan[i, j] * found.plan[k, l]
        for i in range(8)
        for j in range(8)
        for k in range(8)
        for l in range(8)
    )
    assert found.value == pytest.approx(value, abs=1e-10)
    assert found.value <= gromov_wasserstein(distances[0], distances[2]).value + 1e-12
    inner = torch.tensor(distances[0], requires_grad=True)
    gromov_wasserstein(inner, torch.tensor(distances[2])).value.backward()
    assert inner.grad.isfinite().all()


def test_bad_input_names_the_argument():
    x, y = clouds(9)
    rng = np.random.default_rng(0)
    cases = [
        (lambda: sliced_wasserstein(x, y), "rng"),
        (lambda: sliced_wasserstein(x, y, projections=0, rng=rng), "projections"),
        (lambda: sliced_wasserstein(x, y, projections=[[0.0, 0.0, 0.0]]), "projections"),
        (lambda: sliced_wasserstein(x, y, projections=[[1.0, 0.0]]), "projections"),
        (lambda: sliced_wasserstein(x, y[:, :2], rng=rng), "x and y"),
        (lambda: sliced_wasserstein(x, y * np.nan, rng=rng), "y must be finite"),
        (lambda: sliced_wasserstein(x, y, np.inf, rng=rng), "p must"),
        (lambda: sliced_wasserstein(x, y, rng=rng, x_weights=np.ones(20)), "x_weights"),
        (lambda: max_sliced_wasserstein(x[:0], y, rng=rng), "x and y"),
        (lambda: exact_ot(np.zeros(3)), "cost"),
        (lambda: exact_ot(np.full((2, 2), np.inf)), "cost"),
        (lambda: exact_ot(np.zeros((2, 2)), y_weights=[0.5, 0.6]), "y_weights"),
        (lambda: exact_wasserstein(x, y, 0.5), "p must"),
        (lambda: gromov_wasserstein(x, y), "x_distances"),
        (lambda: gromov_wasserstein(np.triu(np.ones((3, 3))), np.ones((3, 3))), "x_distances must be symmetric"),
        (lambda: gromov_wasserstein(np.ones((3, 3)), np.ones((3, 3)), starts=2), "rng"),
    ]
    for call, named in cases:
        with pytest.raises(ParameterError, match=named):
            call()


def test_without_pot_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtraError, match=r"porism\[transport\]"):
        exact_ot(np.zeros((2, 2)))
