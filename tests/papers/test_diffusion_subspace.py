"""diffusion_subspace: scores against densities, quadrature and peers; recovery constants and laws of samplers against
simulation; the network's structure.

*Recovery constants.* Let x = A z, y = alpha x + sqrt(h) e, v = alpha^2 lambda + h in a latent direction. Least squares
of alpha x on y has the error covariance (residual) x (E y y')^-1 / n; its normal columns, h^-1 times the residual
variance alpha^2 lambda h / v over n, divided by the squared gain (alpha^2 lambda / v)^2, are the squared tangents of
the angles: (D - d) v / (n alpha^2 lambda) for each direction, and |VV' - AA'|^2 is twice their sum. Tied, with
V = A + W off the subspace and the gain m = alpha^2 lambda / v, the loss is E r^2 + 2 m w'(mean of r e sqrt(h)) +
m^2 (h + v) |w|^2 for each direction, where the residual r has variance m h: the minimiser has E|w|^2 =
(D - d) h^2 / (n m (h + v)^2), which is (h / (h + v))^2 times the other.

*The trigamma law.* For small times h = t, so Euler-Maruyama's step from t + s to t multiplies a normal variance by
(t / (t + s))^2 and adds s: V(t0) / t0^2 = sum of s / (t0 + k s)^2 over k >= 0 = psi'(t0 / s) / s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from scipy.integrate import quad, solve_ivp
from scipy.linalg import orthogonal_procrustes, subspace_angles
from scipy.optimize import linprog
from scipy.special import polygamma
from scipy.stats import multivariate_normal, norm, wasserstein_distance
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity

from porism.divergences import gaussian_wasserstein_2
from porism.errors import ParameterError
from porism_sims.diffusion import process
from porism_sims.diffusion import subspace as sim
from porism_sims.diffusion.score_network import TiedScoreNetwork, train_score
from porism_theory.diffusion import _subspace_engine as theory

SEEDS = st.integers(0, 2**32 - 1)
TIMES = st.floats(0.01, 4)
SAMPLERS: tuple[Any, ...] = ("ancestral", "deterministic", "euler-maruyama", "euler")


def case(seed: int, t: float, dimension: int = 2, normal: int = 3, count: int = 6) -> tuple[sim.Latent, Any, Any]:
    return theory.draw_case(np.random.default_rng(seed), dimension, normal, t, count)


def covariances(latent: sim.Latent) -> Any:
    return np.einsum("kde,ke,kfe->kdf", latent.axes, latent.variances, latent.axes)


# Scores


@given(SEEDS, TIMES, st.integers(1, 3))
def test_the_latent_density_is_that_of_scipy(seed: int, t: float, dimension: int) -> None:
    latent, basis, x = case(seed, t, dimension)
    alpha, h = np.exp(-t / 2), 1 - np.exp(-t)
    terms = [
        weight * multivariate_normal(alpha * mean, alpha**2 * covariance + h * np.eye(dimension)).pdf(x @ basis)
        for weight, mean, covariance in zip(latent.weights, latent.means, covariances(latent), strict=True)
    ]
    np.testing.assert_allclose(np.exp(sim.latent_log_density(latent, x @ basis, t)), sum(terms), rtol=1e-9)
    again = sim.mixture(latent.weights, latent.means, covariances(latent))
    np.testing.assert_allclose(sim.latent_score(again, x @ basis, t), sim.latent_score(latent, x @ basis, t), rtol=1e-6)


@given(SEEDS, TIMES)
def test_the_score_of_a_sample_is_that_of_a_kernel_density(seed: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    sample, points = rng.standard_normal((30, 2)), rng.standard_normal((5, 2))
    alpha, h = float(process.signal(t)), float(process.noise(t))
    peer = KernelDensity(bandwidth=h**0.5, rtol=1e-12).fit(alpha * sample)
    latent = sim.empirical(sample)
    np.testing.assert_allclose(sim.latent_log_density(latent, points, t), peer.score_samples(points), rtol=1e-7)
    kernels = np.exp(-np.sum((points[:, None] - alpha * sample) ** 2, axis=2) / (2 * h))
    mean = kernels @ sample / kernels.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(sim.latent_score(latent, points, t), (alpha * mean - points) / h, rtol=1e-6, atol=1e-8)


def test_long_samples_are_done_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    latent, points = sim.empirical(rng.standard_normal((50, 2))), rng.standard_normal((23, 2))
    whole = sim.latent_score(latent, points, 0.3)
    monkeypatch.setattr(sim, "_BLOCK", 400)
    np.testing.assert_allclose(sim.latent_score(latent, points, 0.3), whole, rtol=1e-12)


@given(SEEDS, TIMES)
def test_the_split_is_orthogonal_and_the_gradient(seed: int, t: float) -> None:
    latent, basis, x = case(seed, t)
    along, normal = sim.split_score(latent, basis, x, t)
    off = np.eye(5) - basis @ basis.T
    np.testing.assert_allclose(normal, -(x @ off) / process.noise(t), atol=1e-9 / process.noise(t))
    np.testing.assert_allclose(along @ off, 0, atol=1e-9 / process.noise(t))
    moved = sim.split_score(latent, basis, x + 3 * (x**2 @ off), t).along
    np.testing.assert_allclose(moved, along, rtol=1e-6, atol=1e-8 / process.noise(t))
    exact = theory.numeric_score(latent, basis, x[:1], t)
    np.testing.assert_allclose(sim.exact_score(latent, basis)(x[:1], t)[0], exact, rtol=1e-6, atol=1e-7)


@given(SEEDS, TIMES)
def test_turning_space_turns_the_score_and_turning_the_latent_leaves_it(seed: int, t: float) -> None:
    latent, basis, x = case(seed, t)
    rng = np.random.default_rng(seed)
    q, u = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (5, 2))
    turned = latent._replace(means=latent.means @ u, axes=u.T @ latent.axes)
    score = sim.exact_score(latent, basis)(x, t)
    np.testing.assert_allclose(sim.exact_score(turned, q @ basis @ u)(x @ q.T, t) @ q, score, rtol=1e-7, atol=1e-8)
    network_like = sim.tied_score(basis @ u, sim.latent_denoiser(turned))
    np.testing.assert_allclose(network_like(x, t), score, rtol=1e-7, atol=1e-8)


@given(SEEDS, TIMES)
def test_the_hessian_has_a_posterior_covariance_in_it(seed: int, t: float) -> None:
    latent, basis, x = case(seed, t, count=1)
    score, step = sim.exact_score(latent, basis), 1e-4 * float(np.sqrt(process.noise(t))) * np.eye(5)
    hessian = (score(x + step, t) - score(x - step, t)) / (2 * step[0, 0])
    values = np.linalg.eigvalsh(-process.noise(t) * (hessian + hessian.T) / 2)
    np.testing.assert_allclose(values[2:], 1, atol=1e-5)
    assert values.max() < 1 + 1e-5


@given(SEEDS, TIMES)
def test_what_is_denoised_lies_in_the_hull_of_the_data(seed: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    sample, basis, x = rng.standard_normal((12, 2)), sim.draw_basis(rng, 4, 2), 2 * rng.standard_normal((3, 4))
    denoised = (x + process.noise(t) * sim.exact_score(sim.empirical(sample), basis)(x, t)) / process.signal(t)
    np.testing.assert_allclose(denoised @ basis @ basis.T, denoised, atol=1e-9)
    for point in denoised @ basis:
        rows, total = np.vstack([sample.T, np.ones(12)]), np.append(point, 1)
        slack = np.hstack([rows, np.eye(3), -np.eye(3)])
        cost = np.append(np.zeros(12), np.ones(6))
        assert linprog(cost, A_eq=slack, b_eq=total).fun < 1e-7


def test_mean_of_the_score_is_zero_and_stein_holds() -> None:
    rng = np.random.default_rng(1)
    latent, basis = sim.random_mixture(rng, 2), sim.draw_basis(rng, 6, 2)
    for t in (0.05, 1.0):
        x = process.diffuse(rng, sim.draw_latent(rng, latent, 100_000) @ basis.T, t)
        score = sim.exact_score(latent, basis)(x, t)
        assert np.all(np.abs(score.mean(axis=0)) < 5 * score.std(axis=0) / 100_000**0.5)
        stein = np.sum(x * score, axis=1)
        assert abs(stein.mean() + 6) < 5 * stein.std() / 100_000**0.5


def test_late_and_standard_scores_are_minus_x() -> None:
    latent, basis, x = case(3, 1.0)
    gaps = [np.abs(sim.exact_score(latent, basis)(x, t) + x).max() for t in (20.0, 22.0)]
    assert gaps[1] / gaps[0] == pytest.approx(np.exp(-1), rel=1e-3)
    standard = sim.gaussian(np.zeros(2), np.eye(2))
    for t in (0.01, 2.0):
        np.testing.assert_allclose(sim.split_score(standard, basis, x, t).along, -x @ basis @ basis.T, rtol=1e-9)


def test_draws_have_the_moments_of_the_mixture() -> None:
    rng = np.random.default_rng(2)
    latent = sim.random_mixture(rng, 3)
    z = sim.draw_latent(rng, latent, 200_000)
    mean = latent.weights @ latent.means
    second = np.einsum(
        "k,kde->de", latent.weights, covariances(latent) + latent.means[:, :, None] * latent.means[:, None]
    )
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(z.T @ z / len(z), second, atol=0.04)


# Closed forms


@pytest.mark.parametrize("variance", [0.0, 0.3, 1.0, 2.0])
def test_laws_of_the_samplers_solve_their_equations(variance: float) -> None:
    def drift(sampler: str) -> Any:
        v = lambda t: 1 + (variance - 1) * np.exp(-t)  # noqa: E731
        if sampler == "ancestral":
            return lambda t, generated: -(1 - 2 / v(t)) * generated - 1
        return lambda t, generated: -(1 - 1 / v(t)) * generated

    for sampler in ("ancestral", "deterministic"):
        path = solve_ivp(drift(sampler), (3.0, 0.05), [1.0], rtol=1e-10, atol=1e-12)
        assert theory.generated_variance(variance, 0.05, 3.0, sampler) == pytest.approx(path.y[0, -1], rel=1e-7)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("variance", [0.0, 0.3, 2.0])
def test_recursions_of_variances_are_those_of_the_samplers(sampler: Any, variance: float) -> None:
    rng, times = np.random.default_rng(4), process.time_grid(3.0, 0.2, 5)
    latent = sim.gaussian([0.0], [[variance]])
    ends = rng.standard_normal((200_000, 1))
    points = process.sample_backwards(rng, lambda x, t: sim.latent_score(latent, x, t), ends, times, sampler=sampler)
    assert points.var() == pytest.approx(theory.simulated_variance(variance, times, sampler), rel=0.015)


@pytest.mark.parametrize("sampler", ["ancestral", "deterministic"])
def test_the_better_samplers_are_exact_off_the_subspace_and_of_first_order_on_it(sampler: str) -> None:
    for late, early in ((5.0, 0.01), (0.3, 0.2)):
        kept = theory.step_variance(process.noise(late), 0.0, late, early, sampler)
        assert kept == pytest.approx(process.noise(early), rel=1e-10)
    for variance in (0.3, 2.0):
        exact = theory.generated_variance(variance, 0.05, 8.0, sampler)
        errors = [
            theory.simulated_variance(variance, process.time_grid(8.0, 0.05, n), sampler) - exact for n in (400, 800)
        ]
        assert errors[0] / errors[1] == pytest.approx(2, rel=0.03)


def test_energies_and_the_loss_floor_are_expectations() -> None:
    rng = np.random.default_rng(5)
    latent, basis, t = theory.standard(), sim.draw_basis(rng, 7, 3), 0.2
    noised = process.diffuse(rng, sim.draw_latent(rng, latent, 100_000) @ basis.T, t)
    along, normal = (np.mean(np.sum(part**2, axis=1)) for part in sim.split_score(latent, basis, noised, t))
    assert along == pytest.approx(theory.along_energy(theory.VARIANCES, t), rel=0.02)
    assert normal == pytest.approx(4 / process.noise(t), rel=0.02)
    floor = theory.loss_floor(theory.VARIANCES, t)
    assert floor == pytest.approx(
        7 / process.noise(t) - theory.along_energy(theory.VARIANCES, t) - 4 / process.noise(t)
    )
    assert theory.denoising_loss(rng, t, ambient=7, draws=100_000).mean() == pytest.approx(floor, rel=0.02)


@given(st.floats(0.01, 4), st.floats(0, 4), TIMES)
def test_the_early_stopping_bias_is_a_wasserstein_distance(first: float, second: float, t: float) -> None:
    variances, zero = np.array([first, second + 0.01]), np.zeros(2)
    noised = np.diag(np.exp(-t) * variances + 1 - np.exp(-t))
    exact, shrinking, spreading = theory.early_stopping_bias(variances, t)
    assert exact == pytest.approx(float(gaussian_wasserstein_2(zero, np.diag(variances), zero, noised)), abs=1e-6)
    assert exact <= shrinking + spreading


def test_the_trigamma_law() -> None:
    for share in (0.2, 1.0, 5.0):
        times = np.arange(1e-3, 4, share * 1e-3)[::-1]
        leaks = theory.simulated_variance(0.0, times, "euler-maruyama") / process.noise(1e-3)
        assert leaks == pytest.approx(polygamma(1, 1 / share) / share, rel=1e-3)


def test_a_held_score_grows_from_the_limit_on() -> None:
    h = float(process.noise(0.05))
    for ratio, growth in ((0.25, 0.5), (1.0, 1.0), (1.5, 2.0)):
        step = ratio * 2 * h / (1 - h / 2)
        assert theory.frozen_growth(np.random.default_rng(6), step=step, stop=0.05) == pytest.approx(growth, rel=1e-6)


# Recovery


@pytest.mark.parametrize("tied", [False, True])
def test_recovery_constants(tied: bool) -> None:
    for t in (0.2, 1.0):
        errors = 3000 * theory.recovery_errors(np.random.default_rng(7), 3000, ambient=10, t=t, repeats=150, tied=tied)
        foreseen = theory.recovery_constant(theory.VARIANCES, t, normal=7, tied=tied)
        assert abs(errors.mean() - foreseen) < 4 * errors.std() / 150**0.5 + 0.03 * foreseen


def test_encoders_minimise_their_losses() -> None:
    rng = np.random.default_rng(8)
    basis = sim.draw_basis(rng, 6, 2)
    clean = sim.draw_latent(rng, sim.random_mixture(rng, 2), 200) @ basis.T
    noisy = process.diffuse(rng, clean, 0.5)
    matrix = np.linalg.lstsq(noisy, clean, rcond=None)[0].T
    np.testing.assert_allclose(
        PCA(2).fit(clean - clean.mean(axis=0)).components_ @ (np.eye(6) - basis @ basis.T), 0, atol=1e-9
    )
    encoder = np.linalg.svd(matrix)[2][:2].T
    assert sim.subspace_error(sim.recover_subspace(clean, noisy, 2), encoder) < 1e-15

    def loss(free: Any) -> float:
        code = noisy @ np.linalg.qr(free)[0]
        middle = np.linalg.lstsq(code, clean @ np.linalg.qr(free)[0], rcond=None)[0]
        return float(np.mean(np.sum((code @ middle @ np.linalg.qr(free)[0].T - clean) ** 2, axis=1)))

    tied = sim.recover_subspace(clean, noisy, 2, tied=True)
    assert loss(tied) < min(loss(encoder), loss(basis))
    for _ in range(20):
        assert loss(tied) < loss(tied + 1e-3 * rng.standard_normal((6, 2)))


@given(SEEDS)
def test_distances_of_subspaces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = sim.draw_basis(rng, 6, 2), sim.draw_basis(rng, 6, 2)
    direct = np.sum((one @ one.T - two @ two.T) ** 2)
    assert sim.subspace_error(one, two) == pytest.approx(direct)
    assert direct == pytest.approx(2 * np.sum(np.sin(subspace_angles(one, two)) ** 2))
    np.testing.assert_allclose(sim.align(one, two), one @ orthogonal_procrustes(one, two)[0], atol=1e-9)
    points = rng.standard_normal((4, 6))
    assert sim.leakage(points, one) == pytest.approx(np.mean(np.sum((points - points @ one @ one.T) ** 2, axis=1)) / 4)


# What is generated


@pytest.mark.parametrize("stop", [0.003, 0.2])
def test_the_blurred_sample_against_quadrature(stop: float) -> None:
    rng = np.random.default_rng(9)
    latent = sim.random_mixture(rng, 1)
    sample = sim.draw_latent(rng, latent, 40)[:, 0]
    alpha, width = float(process.signal(stop)), float(process.noise(stop)) ** 0.5
    grid = np.linspace(-8, 8, 20_001)
    density = norm.pdf(grid[:, None], alpha * sample, width).mean(axis=1)
    noised, data = (np.exp(sim.latent_log_density(latent, grid[:, None], t)) for t in (stop, 1e-9))
    seen = theory.blurred_sample(sample, latent, stop)
    assert seen.variation == pytest.approx(np.sum(np.abs(density - noised)) * 0.0008 / 2, rel=0.01)
    assert seen.distance == pytest.approx(wasserstein_distance(grid, grid, density, data), rel=0.01)


def test_the_score_of_a_sample_generates_the_blurred_sample() -> None:
    rng = np.random.default_rng(10)
    latent = sim.random_mixture(rng, 1)
    sample = sim.draw_latent(rng, latent, 50)
    memory = sim.empirical(sample)
    blurred = process.diffuse(rng, sample[rng.integers(50, size=20_000)], 0.05)
    for sampler in ("ancestral", "deterministic"):
        ends = rng.standard_normal((3000, 1))
        times = process.time_grid(8.0, 0.05, 150)
        made = process.sample_backwards(rng, lambda x, t: sim.latent_score(memory, x, t), ends, times, sampler=sampler)
        assert wasserstein_distance(made[:, 0], blurred[:, 0]) < 0.05
        assert sim.support_distance(made, blurred, bins=20) < 0.06
        fresh = sim.draw_latent(rng, latent, 50_000)[:, 0]
        foreseen = theory.blurred_sample(sample[:, 0], latent, 0.05).distance
        assert wasserstein_distance(made[:, 0], fresh) == pytest.approx(foreseen, abs=0.04)


def test_support_distance_is_a_share_of_cells() -> None:
    x, y = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    assert sim.support_distance(x, y, bins=2) == pytest.approx(0.25)
    one, two = norm.rvs(size=(2, 100_000, 1), random_state=11)
    integral = quad(lambda z: abs(norm.pdf(z) - norm.pdf(z - 1)) / 2, -8, 9)[0]
    assert sim.support_distance(one, two + 1) == pytest.approx(integral, abs=0.01)


def test_simulation_repeats_and_tells_bad_sizes() -> None:
    settings: dict[str, Any] = {"samples": 300, "generated": 400, "steps": 15}
    first, second = (sim.simulate(np.random.default_rng(12), **settings) for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert first["generated"].shape == (400, 16) and first["latent"].shape == (400, 2)
    assert first["leakage"][0] == pytest.approx(1, abs=0.08)
    more = sim.simulate(np.random.default_rng(12), **settings | {"samples": 6000})
    assert more["subspace_error"][0] < first["subspace_error"][0] / 4
    with pytest.raises(ParameterError, match="n > D"):
        sim.simulate(np.random.default_rng(0), ambient=20, samples=20)
    with pytest.raises(ParameterError, match="dimension must be at most 3"):
        sim.simulate(np.random.default_rng(0), ambient=4, dimension=4)
    with pytest.raises(ParameterError, match="stop"):
        sim.simulate(np.random.default_rng(0), stop=0.0)


def test_bad_laws_and_points_are_named() -> None:
    eye = np.eye(2)[None]
    for arguments, match in (
        (([0.5, 0.6], np.zeros((2, 1)), np.ones((2, 1, 1))), "sum to 1"),
        (([1.0], np.zeros((1, 2)), np.ones((1, 1, 1))), "covariances must have shape"),
        (([1.0], np.zeros((1, 2)), -eye), "positive semidefinite"),
        (([1.0], np.zeros((1, 2)), eye + np.triu(np.ones((2, 2)), 1)), "symmetric"),
        (([1.0], np.zeros(2), eye), "weights and means"),
        (([1.0], np.full((1, 2), np.nan), eye), "means"),
    ):
        with pytest.raises(ParameterError, match=match):
            sim.mixture(*arguments)
    latent = sim.gaussian(np.zeros(2), np.eye(2))
    with pytest.raises(ParameterError, match="every direction"):
        sim.recover_subspace(np.ones((9, 3)), np.ones((9, 3)), 1)
    with pytest.raises(ParameterError, match="t must be"):
        sim.latent_score(latent, np.zeros((1, 2)), 0.0)
    with pytest.raises(ParameterError, match=r"points must have shape \(n, 2\)"):
        sim.latent_score(latent, np.zeros((1, 3)), 1.0)
    with pytest.raises(ParameterError, match="not empty"):
        sim.empirical(np.zeros((0, 2)))
    with pytest.raises(ParameterError, match="d must be at most 2"):
        sim.support_distance(np.zeros((2, 3)), np.zeros((2, 3)))


# The network


def network(seed: int = 0, ambient: int = 7, latent: int = 2) -> TiedScoreNetwork:
    return TiedScoreNetwork(ambient, latent, generator=torch.Generator().manual_seed(seed))


def test_the_network_pulls_to_its_subspace_whatever_its_weights() -> None:
    net = network()
    torch.nn.init.normal_(net.body[-1].weight, generator=torch.Generator().manual_seed(1))
    x = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t = torch.full((9,), 0.3, dtype=torch.float64)
    basis, h = net.basis(), -torch.expm1(-t)[:, None]
    torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))
    off = torch.eye(7, dtype=torch.float64) - basis @ basis.T
    torch.testing.assert_close(net(x, t) @ off, -(x @ off) / h)
    torch.testing.assert_close(net(x, t), (net.denoised(x, t) - x) / h)
    np.testing.assert_allclose(net.as_score()(x.numpy(), 0.3), net(x, t).detach().numpy(), rtol=1e-12)


def test_the_network_survives_safetensors() -> None:
    net, other = network(0), network(1)
    other.load_state_dict(load(save(net.state_dict())))
    x = np.random.default_rng(13).standard_normal((3, 7))
    assert other.as_score()(x, 0.1).tobytes() == net.as_score()(x, 0.1).tobytes()


def test_training_finds_score_and_subspace_and_repeats() -> None:
    rng = np.random.default_rng(14)
    latent, basis = sim.random_mixture(rng, 2), sim.draw_basis(rng, 10, 2)
    points = sim.draw_latent(rng, latent, 2000) @ basis.T
    before = torch.get_rng_state()
    first, second = (train_score(np.random.default_rng(15), points, 2, steps=300) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert sim.subspace_error(first.basis().detach().numpy(), basis) < 0.05
    x = process.diffuse(rng, points, 0.3)
    exact = sim.exact_score(latent, basis)(x, 0.3)
    errors = [np.mean((net.as_score()(x, 0.3) - exact) ** 2) for net in (first, network(0, ambient=10))]
    assert errors[0] < errors[1] / 50


def test_the_network_checks_its_arguments() -> None:
    points = np.zeros((5, 3))
    for arguments, match in (
        ({"points": np.zeros(3)}, "points must have shape"),
        ({"points": np.full((2, 3), np.inf)}, "points must be finite"),
        ({"latent": 4}, "latent must be at most 3"),
        ({"stop": 0.0}, "stop must be"),
        ({"stop": 7.0}, "start must be"),
        ({"noise_draws": 0}, "noise_draws must be"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"steps": 0}, "steps must be"),
    ):
        with pytest.raises(ParameterError, match=match):
            train_score(np.random.default_rng(0), **{"points": points, "latent": 1} | arguments)
