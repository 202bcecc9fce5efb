"""Bregman and Cauchy-Schwarz divergences: identities, limits, peers, gradients, edges, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from scipy.spatial.distance import mahalanobis

from porism.divergences import bregman as b
from porism.divergences.cauchy_schwarz import (
    cauchy_schwarz_divergence,
    cauchy_schwarz_divergence_logits,
    half_cauchy_schwarz_divergence,
)
from porism.errors import ParameterError
from porism.testing.strategies import distributions

POTENTIALS = [
    b.squared_euclidean,
    b.negative_entropy,
    b.burg_entropy,
    b.binary_entropy,
    b.poisson_log_partition,
    b.exponential_log_partition,
    b.bernoulli_log_partition,
    b.categorical_log_partition,
]
DUALS = [
    (b.squared_euclidean, b.squared_euclidean),
    (b.negative_entropy, b.poisson_log_partition),
    (b.burg_entropy, b.exponential_log_partition),
    (b.binary_entropy, b.bernoulli_log_partition),
]


def points(potential: b.Potential, number: int, seed: int = 0, d: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    inside = rng.uniform(0.05, 0.95, size=(number, 5, d))
    return list(-inside if potential is b.exponential_log_partition else inside)


@pytest.mark.parametrize("potential", POTENTIALS, ids=lambda p: p.name)
def test_identities_of_every_potential(potential: b.Potential) -> None:
    x, y, z = points(potential, 3)

    def divergence(left, right):
        return b.bregman_divergence(potential, left, right)

    assert (divergence(x, y) > -1e-14).all() and np.allclose(divergence(x, x), 0, atol=1e-14)
    extra = np.sum((potential.gradient(y) - potential.gradient(z)) * (x - y), axis=-1)
    assert np.allclose(divergence(x, z), divergence(x, y) + divergence(y, z) + extra, atol=1e-12)
    middle = divergence((x + z) / 2, y)  # convex in the first argument
    assert (middle <= (divergence(x, y) + divergence(z, y)) / 2 + 1e-12).all()
    leaves = [torch.tensor(v).requires_grad_() for v in (x, y)]
    assert torch.autograd.gradcheck(divergence, leaves)
    # the written gradient is that of the potential
    automatic = torch.autograd.grad(potential.value(leaves[1]).sum(), leaves[1])[0]
    assert torch.allclose(automatic, potential.gradient(leaves[1]), rtol=1e-12)
    assert np.allclose(b.bregman_divergence(potential.value, *leaves).detach().numpy(), divergence(x, y), atol=1e-13)


@pytest.mark.parametrize(("potential", "dual"), DUALS, ids=lambda p: p.name)
def test_duality(potential: b.Potential, dual: b.Potential) -> None:
    x, y = points(potential, 2, seed=1)
    swapped = b.bregman_divergence(dual, potential.gradient(y), potential.gradient(x))
    assert np.allclose(b.bregman_divergence(potential, x, y), swapped, atol=1e-12)


def test_log_partitions_give_kl_with_swapped_arguments() -> None:
    x, y = points(b.squared_euclidean, 2, seed=2)
    log_p, log_q = special.log_softmax(x, -1), special.log_softmax(y, -1)
    kl = np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)
    assert np.allclose(b.bregman_divergence(b.categorical_log_partition, y, x), kl, atol=1e-13)
    p, q = special.expit(x), special.expit(y)
    bernoulli = np.sum(special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q), axis=-1)
    assert np.allclose(b.bregman_divergence(b.bernoulli_log_partition, y, x), bernoulli, atol=1e-13)
    poisson = np.sum(special.kl_div(np.exp(x), np.exp(y)), axis=-1)
    assert np.allclose(b.bregman_divergence(b.poisson_log_partition, y, x), poisson, atol=1e-13)
    exponential = np.sum(np.log(x / y) + y / x - 1, axis=-1)  # rates x and y
    assert np.allclose(b.bregman_divergence(b.exponential_log_partition, -y, -x), exponential, atol=1e-12)


def test_potentials_of_the_user() -> None:
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    x, y = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    value = b.bregman_divergence(lambda v: (weights * v**2).sum(-1), x, y)
    assert float(value.detach()) == pytest.approx(3.0)
    value.backward()  # to what the potential is made of
    assert torch.allclose(weights.grad, torch.ones(2).double())
    assert not b.bregman_divergence(lambda v: (v**2).sum(-1), x, y).requires_grad
    with torch.no_grad():
        assert float(b.bregman_divergence(lambda v: (v**2).sum(-1), x, y)) == pytest.approx(2.0)
    with pytest.raises(ParameterError, match="gradient must be given"):
        b.bregman_divergence(lambda v: (v**2).sum(-1), [1.0], [2.0])


def test_named_divergences_are_those_of_their_potentials_and_of_peers() -> None:
    from sklearn.decomposition._nmf import _beta_divergence

    x, y = points(b.negative_entropy, 2, seed=3)
    assert np.allclose(b.generalised_kl(x, y), special.kl_div(x, y).sum(-1), atol=1e-14)
    assert np.allclose(b.generalised_kl(x, y), b.bregman_divergence(b.negative_entropy, x, y), atol=1e-13)
    assert np.allclose(b.itakura_saito(x, y), b.bregman_divergence(b.burg_entropy, x, y), atol=1e-12)
    assert np.allclose(b.beta_divergence(x, y, beta=2.0), b.bregman_divergence(b.squared_euclidean, x, y), atol=1e-14)
    for beta in (-1.5, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0):
        peer = _beta_divergence(x, y, np.eye(y.shape[1]), beta)
        assert b.beta_divergence(x, y, beta=beta).sum() == pytest.approx(peer, rel=1e-10)
        if beta not in (0.0, 1.0):
            potential = (lambda v, k=beta: (v**k).sum(-1) / (k * (k - 1)), lambda v, k=beta: v ** (k - 1) / (k - 1))
            general = b.bregman_divergence(potential[0], x, y, gradient=potential[1])
            assert np.allclose(b.beta_divergence(x, y, beta=beta), general, atol=1e-10)


def test_density_power_divergence_is_its_definition_with_its_limits() -> None:
    x, y = points(b.negative_entropy, 2, seed=4)
    for beta in (0.25, 1.0, 2.0):
        direct = np.sum(y ** (1 + beta) - (1 + 1 / beta) * x * y**beta + x ** (1 + beta) / beta, axis=-1)
        assert np.allclose(b.density_power_divergence(x, y, beta=beta), direct, atol=1e-13)
    assert np.allclose(b.density_power_divergence(x, y, beta=1.0), np.sum((x - y) ** 2, axis=-1), atol=1e-14)
    assert np.allclose(b.density_power_divergence(x, y, beta=1e-10), b.generalised_kl(x, y), rtol=1e-8)
    assert np.isfinite(b.density_power_divergence([0.5, 0.5], [1.0, 0.0], beta=0.5))
    assert math.isinf(b.density_power_divergence([0.5, 0.5], [1.0, 0.0], beta=0.0))


def test_beta_divergence_is_continuous_where_its_formula_is_not_and_accurate_near_equality() -> None:
    x, y = points(b.negative_entropy, 2, seed=5)
    for beta in (0.0, 1.0):
        here = b.beta_divergence(x, y, beta=beta)
        for step in (1e-12, -1e-12, 1e-9, -1e-9):
            assert np.allclose(b.beta_divergence(x, y, beta=beta + step), here, rtol=1e-7)
    for beta in (-1.0, 0.0, 0.3, 1.0, 1.7):
        near = b.beta_divergence([3.0], [3.0 * (1 + 1e-6)], beta=beta)
        assert near == pytest.approx(3.0**beta * 0.5e-12, rel=1e-4, abs=0)
        assert b.beta_divergence([3.0], [3.0], beta=beta) == 0


@pytest.mark.parametrize("beta", [-1.0, 0.0, 0.3, 1.7])
def test_beta_divergence_of_neighbours_keeps_its_digits(beta: float) -> None:
    """It is x^beta e^2 / 2 for y = (1 + e) x; the logarithms of x and y apart lose 1e-16 / e^2 of it."""
    near = b.beta_divergence([3.0], [3.0 * (1 + 1e-7)], beta=beta)
    assert near == pytest.approx(3.0**beta * 0.5e-14, rel=1e-6, abs=0)


def test_zeros_and_extreme_values() -> None:
    x, y = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 2.0])
    table = {2.0: [0, 0.5, 2.0], 1.5: [0, 4 / 3, 2**1.5 / 1.5], 1.0: [0, math.inf, 2], 0.75: [0, math.inf, 2**0.75 / 0.75],
             0.25: [0, math.inf, 2**0.25 / 0.25], 0.0: [0, math.inf, math.inf], -1.0: [0, math.inf, math.inf]}  # fmt: skip
    for beta, expected in table.items():
        values = [float(b.beta_divergence([u], [v], beta=beta)) for u, v in zip(x, y, strict=True)]
        assert values == pytest.approx(expected)
        leaves = [torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64, requires_grad=True) for _ in range(2)]
        b.beta_divergence(*leaves, beta=beta).sum().backward()
        assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)
    assert b.generalised_kl([1e-300], [1e300]) == pytest.approx(1e300)
    assert b.generalised_kl([1e300], [1e-300]) == pytest.approx(1e300 * (600 * math.log(10) - 1))
    assert b.generalised_kl([1.0, 2.0], [0.0, 2.0], weights=[0.0, 1.0]) == 0
    assert b.generalised_kl(np.ones((3, 0, 2)), np.ones((3, 0, 2)), axis=-1).shape == (3, 0)
    half = b.generalised_kl(torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16))
    assert half.dtype == torch.float32
    batch = np.random.default_rng(0).uniform(size=(4, 3, 5))
    turned = b.generalised_kl(batch.transpose(2, 0, 1), batch[0].T[:, None], axis=0)  # not contiguous
    assert np.allclose(turned, b.generalised_kl(batch, batch[0]))


def test_gradients_of_the_named() -> None:
    x, y = (torch.tensor(v).requires_grad_() for v in points(b.negative_entropy, 2, seed=6))
    for beta in (-1.0, 0.0, 0.3, 0.7, 1.0, 2.5):
        assert torch.autograd.gradcheck(lambda u, v, k=beta: b.beta_divergence(u, v, beta=k), (x, y))
    equal = [torch.full((1,), 3.0, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    b.itakura_saito(*equal).backward()
    assert all(float(leaf.grad) == 0 for leaf in equal)


def test_mahalanobis_against_scipy() -> None:
    rng = np.random.default_rng(7)
    x, y, root = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(3, 3))
    cov = root @ root.T + np.eye(3)
    inverse = np.linalg.inv(cov)
    assert b.squared_mahalanobis(x, y, cov) == pytest.approx(mahalanobis(x, y, inverse) ** 2, rel=1e-12)
    general = b.bregman_divergence(
        lambda v: np.einsum("...i,ij,...j", v, inverse, v) / 2, x, y, gradient=lambda v: v @ inverse
    )
    assert b.squared_mahalanobis(x, y, cov) == pytest.approx(2 * float(general), rel=1e-12)
    assert b.squared_mahalanobis(np.stack([x, y]), y, cov).shape == (2,)


def test_cauchy_schwarz_is_its_definition_and_the_half_is_half() -> None:
    rng = np.random.default_rng(8)
    p, q = rng.dirichlet(np.ones(6), size=(2, 7))
    direct = -np.log(np.sum(p * q, -1) ** 2 / (np.sum(p * p, -1) * np.sum(q * q, -1)))
    assert np.allclose(cauchy_schwarz_divergence(p, q), direct, atol=1e-13)
    assert np.allclose(half_cauchy_schwarz_divergence(p, q), direct / 2, atol=1e-13)
    assert np.allclose(cauchy_schwarz_divergence_logits(np.log(p) + 3, np.log(q) - 800), direct, atol=1e-12)
    assert np.allclose(cauchy_schwarz_divergence(7 * p, q, normalize=True), direct, atol=1e-13)
    assert (cauchy_schwarz_divergence(p, p) == 0).all()
    near = cauchy_schwarz_divergence([0.5 + 1e-9, 0.5 - 1e-9], [0.5, 0.5])
    assert near == pytest.approx(4e-18, rel=1e-6, abs=0)
    x = np.linspace(-12, 12, 4001)
    grid = cauchy_schwarz_divergence(
        stats.norm.pdf(x, 1), stats.norm.pdf(x, 0, 1.5), weights=np.full(4001, x[1] - x[0])
    )
    from porism.divergences.gaussian_distances import gaussian_cauchy_schwarz

    assert grid == pytest.approx(float(gaussian_cauchy_schwarz([1.0], [[1.0]], [0.0], [[2.25]])), abs=1e-10)


def test_half_cauchy_schwarz_may_exceed_kl_between_categoricals_and_grow_under_channels() -> None:
    p, q = np.random.default_rng(9).dirichlet(0.3 * np.ones(3), size=(2, 2000))
    kl = special.rel_entr(p, q).sum(-1)
    assert (half_cauchy_schwarz_divergence(p, q) > kl).any()
    merged = cauchy_schwarz_divergence(p @ np.array([[1, 0], [1, 0], [0, 1]]), q @ np.array([[1, 0], [1, 0], [0, 1]]))
    assert (merged > cauchy_schwarz_divergence(p, q) + 1e-6).any()


def test_cauchy_schwarz_edges_and_gradients() -> None:
    assert math.isinf(cauchy_schwarz_divergence([1.0, 0.0], [0.0, 1.0]))
    assert np.isfinite(cauchy_schwarz_divergence([1.0, 1e-300], [1e-300, 1.0]))
    logits = torch.tensor([[0.0, -math.inf], [1.0, 0.0]], requires_grad=True)
    other = torch.tensor([[-math.inf, 0.0], [1.0, 0.0]], requires_grad=True)
    values = cauchy_schwarz_divergence_logits(logits, other)
    assert math.isinf(values[0].detach())
    values[1].backward()
    assert torch.isfinite(logits.grad).all() and torch.isfinite(other.grad).all()
    rng = np.random.default_rng(10)
    for spread in (0.5, 6.0):
        leaves = [torch.tensor(spread * rng.normal(size=(3, 5))).requires_grad_() for _ in range(2)]
        assert torch.autograd.gradcheck(cauchy_schwarz_divergence_logits, leaves)
        assert torch.autograd.gradcheck(
            lambda u, v: cauchy_schwarz_divergence(u.softmax(-1), v.softmax(-1)), leaves, atol=1e-6
        )
    ends = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    p, q = ends.clone().requires_grad_(), ends[[0, 0]].clone().requires_grad_()
    torch.where(torch.isfinite(v := cauchy_schwarz_divergence(p, q)), v, 0).sum().backward()
    assert torch.isfinite(p.grad).all() and torch.isfinite(q.grad).all()


@given(distributions(rows=2, classes=(2, 6), zeros=False), st.floats(-2, 3, allow_subnormal=False))
def test_nonnegative_and_symmetric_where_it_should_be(pair: np.ndarray, beta: float) -> None:
    x, y = pair
    assert b.beta_divergence(x, y, beta=beta) >= 0
    assert b.density_power_divergence(x, y, beta=abs(beta)) >= 0
    assert cauchy_schwarz_divergence(x, y) == pytest.approx(float(cauchy_schwarz_divergence(y, x)), rel=1e-12)
    assert cauchy_schwarz_divergence(x, y) >= 0
    assert b.itakura_saito(3 * x + 1e-9, 3 * y + 1e-9) == pytest.approx(
        float(b.itakura_saito(x + 1e-9 / 3, y + 1e-9 / 3)), rel=1e-9
    )


def test_bad_input_is_named() -> None:
    for call, message in [
        (lambda: b.generalised_kl([-1.0], [1.0]), "x must not be negative"),
        (lambda: b.generalised_kl([1.0], [math.nan]), "y must be finite"),
        (lambda: b.generalised_kl([1.0, 2.0], [1.0]), "sizes along axis"),
        (lambda: b.generalised_kl([1.0], [1.0], weights=[-1.0]), "weights must not be negative"),
        (lambda: b.generalised_kl([], []), "x is empty"),
        (lambda: b.beta_divergence([1.0], [1.0], beta=math.inf), "beta"),
        (lambda: b.density_power_divergence([1.0], [1.0], beta=-0.5), "beta"),
        (lambda: b.bregman_divergence(b.burg_entropy, [0.0], [1.0]), "x must be positive"),
        (lambda: b.bregman_divergence(b.binary_entropy, [0.5], [1.0]), "y must be in"),
        (lambda: b.bregman_divergence(b.squared_euclidean, np.ones(2), torch.ones(2)), "one library"),
        (lambda: b.squared_mahalanobis([1.0], [0.0], [[-1.0]]), "cov must be positive definite"),
        (lambda: b.squared_mahalanobis([1.0], [0.0], np.eye(2)), "cov must have shape"),
        (lambda: cauchy_schwarz_divergence([0.5, 0.6], [0.5, 0.5]), "p must sum to 1"),
        (lambda: cauchy_schwarz_divergence([0.5, 0.5], [1.5, -0.5]), "q must not be negative"),
        (lambda: cauchy_schwarz_divergence_logits([-math.inf], [0.0]), "p_logits"),
        (lambda: cauchy_schwarz_divergence_logits([0.0], [math.nan]), "q_logits"),
    ]:
        with pytest.raises(ParameterError, match=message):
            call()


def test_a_potential_takes_no_second_gradient() -> None:
    from porism.divergences import bregman_divergence, squared_euclidean

    with pytest.raises(ParameterError, match="gradient is for a function of yours; squared_euclidean has its own"):
        bregman_divergence(squared_euclidean, [1.0], [0.0], gradient=lambda y: 2 * y)
