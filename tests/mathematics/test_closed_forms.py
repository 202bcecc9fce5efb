"""Closed forms between Gaussians and other families: quadrature, peers, gradients, inequalities, bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from porism.divergences import closed_forms as forms
from porism.divergences import gaussian as g
from porism.divergences import gaussian_distances as gd
from porism.errors import ParameterError

ONE_D = [((0.3,), ((1.2,),), (-0.5,), ((0.9,),)), ((2.0,), ((0.5,),), (0.0,), ((1.0,),))]
EVERY = [
    g.gaussian_kl,
    g.gaussian_jeffreys,
    lambda *a: g.gaussian_renyi(*a, order=0.3),
    lambda *a: g.gaussian_renyi(*a, order=0.9999),
    lambda *a: g.gaussian_renyi(*a, order=1.2),
    g.gaussian_bhattacharyya_coefficient,
    g.gaussian_squared_hellinger,
    g.gaussian_chi2,
    gd.gaussian_cauchy_schwarz,
    gd.gaussian_half_cauchy_schwarz,
    gd.gaussian_fisher_divergence,
    lambda *a: gd.gaussian_mmd_squared(*a, bandwidth=1.3),
    gd.gaussian_wasserstein_2_squared,
    gd.gaussian_wasserstein_2,
    lambda *a: gd.gaussian_entropic_wasserstein_2(*a, epsilon=0.7),
    lambda *a: gd.gaussian_sinkhorn_divergence(*a, epsilon=0.7),
]


def pair(seed: int, d: int, batch: tuple[int, ...] = (), spread: float = 0.4) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    root = spread * rng.normal(size=(2, *batch, d, d))
    covs = root @ np.swapaxes(root, -1, -2) + np.eye(d)
    means = rng.normal(size=(2, *batch, d))
    return means[0], covs[0], means[1], covs[1]


def density(mean, cov):
    return stats.multivariate_normal(mean, cov).pdf


def integral(function, d: int) -> float:
    if d == 1:
        return integrate.quad(lambda x: function(np.array([x])), -30, 30, epsabs=1e-13, limit=400, points=[-3, 0, 3])[0]
    # the trapezoid rule converges geometrically for analytic functions that decay
    axis = np.linspace(-16, 16, 641)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    return float(np.sum(function(grid)) * (axis[1] - axis[0]) ** 2)


@pytest.mark.parametrize("args", [*ONE_D, pair(0, 2)])
def test_f_divergences_and_cauchy_schwarz_are_their_integrals(args) -> None:
    d = len(args[0])
    p, q = density(*args[:2]), density(*args[2:])

    def value(integrand):
        return integral(lambda x: integrand(p(x), q(x)), d)

    safe = np.finfo(float).tiny
    assert g.gaussian_kl(*args) == pytest.approx(value(lambda p, q: p * np.log((p + safe) / (q + safe))), abs=1e-9)
    for alpha in (0.5, 0.7, 1.3):
        mixed = value(lambda p, q: (p + safe) ** alpha * (q + safe) ** (1 - alpha))  # noqa: B023
        assert g.gaussian_renyi(*args, order=alpha) == pytest.approx(math.log(mixed) / (alpha - 1), abs=1e-8)
    coefficient = value(lambda p, q: np.sqrt(p * q))
    assert g.gaussian_bhattacharyya_coefficient(*args) == pytest.approx(coefficient, abs=1e-10)
    assert g.gaussian_squared_hellinger(*args) == pytest.approx(1 - coefficient, abs=1e-9)
    overlap, own_p, own_q = value(lambda p, q: p * q), value(lambda p, q: p * p), value(lambda p, q: q * q)
    full = -math.log(overlap**2 / (own_p * own_q))
    assert gd.gaussian_cauchy_schwarz(*args) == pytest.approx(full, abs=1e-9)
    assert gd.gaussian_half_cauchy_schwarz(*args) == pytest.approx(full / 2, abs=1e-9)


@pytest.mark.parametrize("args", [ONE_D[0], ((0.1, 0.2), np.diag([1.1, 0.7]), (0.0, -0.3), np.diag([1.0, 1.0]))])
def test_chi2_with_unequal_covariances_is_its_integral(args) -> None:
    p, q = density(*args[:2]), density(*args[2:])
    tiny = np.finfo(float).tiny
    expected = integral(lambda x: (p(x) - q(x)) ** 2 / (q(x) + tiny), len(args[0]))
    assert g.gaussian_chi2(*args) == pytest.approx(expected, rel=1e-8)


def test_chi2_and_renyi_are_infinite_exactly_where_the_integral_diverges() -> None:
    ones, zero = np.ones((3, 1, 1)), np.zeros(1)
    variances = np.array([1.9, 2.0, 2.1])[:, None, None] * ones
    assert list(np.isfinite(g.gaussian_chi2(zero, variances, zero, ones))) == [True, False, False]
    assert np.isfinite(g.gaussian_renyi(zero, variances, zero, ones, order=1.5)).all()
    assert np.isinf(g.gaussian_renyi(zero, 5 * variances, zero, ones, order=1.5)).all()
    mean = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    values = g.gaussian_chi2(mean, torch.tensor(variances), torch.ones(1).double(), torch.tensor(ones))
    values[torch.isfinite(values)].sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert math.isinf(g.gaussian_chi2([1e3], [[1.0]], [0.0], [[1.0]]))  # by overflow


def test_equal_covariances() -> None:
    mean_p, cov, mean_q, _ = pair(1, 3)
    square = (mean_p - mean_q) @ np.linalg.solve(cov, mean_p - mean_q)
    assert g.gaussian_chi2(mean_p, cov, mean_q, cov) == pytest.approx(math.expm1(square), rel=1e-12)
    assert g.gaussian_total_variation(mean_p, cov, mean_q, cov) == pytest.approx(
        2 * stats.norm.cdf(square**0.5 / 2) - 1
    )
    with pytest.raises(ParameterError, match="cov_q must equal cov_p"):
        g.gaussian_total_variation(mean_p, cov, mean_q, 1.01 * cov)
    line = integral(lambda x: abs(stats.norm.pdf(x[0]) - stats.norm.pdf(x[0], 1.5)) / 2, 1)
    assert g.gaussian_total_variation([0.0], [[1.0]], [1.5], [[1.0]]) == pytest.approx(line, abs=1e-8)


def test_fisher_mmd_and_transport_against_monte_carlo_quadrature_and_peers() -> None:
    import ot

    args = mean_p, cov_p, mean_q, cov_q = pair(2, 3)
    rng = np.random.default_rng(3)
    x = rng.multivariate_normal(mean_p, cov_p, 200_000)
    scores = np.linalg.solve(cov_p, (x - mean_p).T) - np.linalg.solve(cov_q, (x - mean_q).T)
    terms = np.sum(scores**2, axis=0)
    assert abs(gd.gaussian_fisher_divergence(*args) - terms.mean()) < 5 * terms.std() / len(x) ** 0.5
    y = rng.multivariate_normal(mean_q, cov_q, 200_000)

    def kernel(a, b):
        return np.exp(-np.sum((a - b) ** 2, axis=-1) / (2 * 1.3**2))

    half = len(x) // 2
    h = (
        kernel(x[:half], x[half:])
        + kernel(y[:half], y[half:])
        - kernel(x[:half], y[half:])
        - kernel(x[half:], y[:half])
    )
    assert abs(gd.gaussian_mmd_squared(*args, bandwidth=1.3) - h.mean()) < 5 * h.std() / half**0.5
    for seed, d in ((4, 2), (5, 5), (6, 20)):
        args = pair(seed, d)
        peer = ot.gaussian.bures_wasserstein_distance(args[0], args[2], args[1], args[3])
        assert gd.gaussian_wasserstein_2(*args) == pytest.approx(float(peer), abs=1e-8)


def test_entropic_transport_is_the_minimum_over_correlations_and_has_its_limits() -> None:
    from scipy.optimize import minimize_scalar

    s, t, gap, epsilon = 1.3, 0.7, 0.4, 0.9
    args = ([gap], [[s**2]], [0.0], [[t**2]])
    best = minimize_scalar(
        lambda r: gap**2 + s**2 + t**2 - 2 * r * s * t - epsilon / 2 * math.log(1 - r**2), bounds=(-1, 1), method="bounded",
        options={"xatol": 1e-12},
    ).fun  # fmt: skip
    assert gd.gaussian_entropic_wasserstein_2(*args, epsilon=epsilon) == pytest.approx(best, abs=1e-10)
    args = pair(7, 4)
    exact, product = gd.gaussian_wasserstein_2_squared(*args), None
    product = np.sum((args[0] - args[2]) ** 2) + np.trace(args[1] + args[3])
    values = [gd.gaussian_entropic_wasserstein_2(*args, epsilon=e) for e in (1e-9, 0.1, 1.0, 10.0, 1e7)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(exact, abs=1e-6) and values[-1] == pytest.approx(product, rel=1e-5)
    assert gd.gaussian_sinkhorn_divergence(*args, epsilon=1e-9) == pytest.approx(exact, abs=1e-6)
    assert gd.gaussian_sinkhorn_divergence(*args, epsilon=1e8) == pytest.approx(
        np.sum((args[0] - args[2]) ** 2), rel=1e-5
    )
    assert gd.gaussian_sinkhorn_divergence(*args[:2], *args[:2], epsilon=0.3) == pytest.approx(0, abs=1e-12)


def test_entropic_transport_agrees_with_sinkhorn_on_a_grid() -> None:
    import ot

    x = np.linspace(-7, 7, 201)
    p, q = stats.norm.pdf(x, 0.5, 0.8), stats.norm.pdf(x, -0.3, 1.1)
    p, q = p / p.sum(), q / q.sum()
    cost = (x[:, None] - x) ** 2
    plan = ot.bregman.sinkhorn_log(p, q, cost, 1.0, stopThr=1e-12, numItermax=2000)
    value = np.sum(plan * cost) + np.sum(plan * np.log((plan + 1e-300) / (p[:, None] * q)))
    assert gd.gaussian_entropic_wasserstein_2([0.5], [[0.64]], [-0.3], [[1.21]], epsilon=1.0) == pytest.approx(
        value, abs=1e-4
    )


def test_torch_distributions_agree_to_ten_digits() -> None:
    args = pair(8, 4, (5,))
    tensors = [torch.tensor(a) for a in args]
    normal = torch.distributions.MultivariateNormal
    peer = torch.distributions.kl_divergence(normal(*tensors[:2]), normal(*tensors[2:]))
    assert torch.allclose(g.gaussian_kl(*tensors), peer, rtol=1e-10, atol=1e-10)
    assert np.allclose(g.gaussian_kl(*args), peer.numpy(), rtol=1e-10, atol=1e-10)
    rng = np.random.default_rng(9)
    a, b, c, e = (torch.tensor(rng.gamma(2, size=(6,))) for _ in range(4))
    laws = torch.distributions
    cases = [
        (forms.exponential_kl, (a,), (b,), laws.Exponential, (a, b)),
        (forms.poisson_kl, (a,), (b,), laws.Poisson, (a, b)),
        (forms.gamma_kl, (a, b), (c, e), laws.Gamma, (a, b, c, e)),
        (forms.beta_kl, (a, b), (c, e), laws.Beta, (a, b, c, e)),
        (forms.dirichlet_kl, (a,), (b,), laws.Dirichlet, (a, b)),
        (forms.laplace_kl, (a, b), (c, e), laws.Laplace, (a, b, c, e)),
    ]
    for ours, p, q, law, inputs in cases:
        peer = laws.kl_divergence(law(*p), law(*q))
        assert torch.allclose(ours(*inputs), peer, rtol=1e-10, atol=1e-10), ours
        assert np.allclose(ours(*(x.numpy() for x in inputs)), peer.numpy(), rtol=1e-10, atol=1e-10), ours
        leaves = tuple(x.clone().requires_grad_() for x in inputs)
        assert torch.autograd.gradcheck(ours, leaves), ours


@pytest.mark.parametrize("divergence", EVERY)
@pytest.mark.parametrize("equal", [False, True], ids=["apart", "equal covariances"])
def test_gradients_against_finite_differences(divergence, equal: bool) -> None:
    mean_p, cov_p, mean_q, cov_q = (torch.tensor(a) for a in pair(10, 3))
    roots = [torch.linalg.cholesky(cov_p), torch.linalg.cholesky(cov_p if equal else cov_q)]
    leaves = tuple(x.clone().requires_grad_() for x in (mean_p, roots[0], mean_q, roots[1]))
    assert torch.autograd.gradcheck(
        lambda m, a, n, b: divergence(m, a @ a.mT, n, b @ b.mT), leaves, atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize("divergence", [*EVERY, g.gaussian_total_variation])
def test_gradients_have_no_nan_at_equal_arguments(divergence) -> None:
    mean, cov, _, _ = (torch.tensor(a) for a in pair(11, 3))
    cov = torch.eye(3, dtype=torch.float64)  # repeated eigenvalues too
    leaves = [x.clone().requires_grad_() for x in (mean, cov, mean, cov)]
    divergence(*leaves).backward()
    assert all(torch.isfinite(x.grad).all() for x in leaves if x.grad is not None)


def test_hessian_of_kl_at_equal_arguments_is_the_fisher_information() -> None:
    _, cov, _, _ = (torch.tensor(a) for a in pair(12, 3))
    mean = torch.zeros(3, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda m: g.gaussian_kl(mean, cov, m, cov), mean)
    assert torch.allclose(hessian, torch.linalg.inv(cov), atol=1e-12)


@pytest.mark.parametrize("divergence", EVERY)
def test_batches_are_loops(divergence) -> None:
    args = pair(13, 2, (3, 4))
    values = divergence(*args)
    assert values.shape == (3, 4)
    assert np.allclose(values[1, 2], divergence(*(a[1, 2] for a in args)), atol=1e-13)
    shared = divergence(args[0], args[1][0, 0], args[2][0, 0], args[3][0, 0])  # means in a batch, one covariance
    assert np.allclose(shared[2, 3], divergence(args[0][2, 3], args[1][0, 0], args[2][0, 0], args[3][0, 0]))
    assert np.allclose(divergence(*(torch.tensor(a) for a in args)).numpy(), values, atol=1e-12)
    empty = divergence(*(a[:0] for a in args))
    assert empty.shape == (0, 4)


def test_near_singular_covariances_shared_by_both_keep_their_digits() -> None:
    scale = np.diag([1.0, 1e-6, 1e6])
    mean_p, cov_p, mean_q, cov_q = pair(14, 3)
    far = (scale @ mean_p, scale @ cov_p @ scale, scale @ mean_q, scale @ cov_q @ scale)
    for divergence in (g.gaussian_kl, g.gaussian_squared_hellinger, lambda *a: g.gaussian_renyi(*a, order=0.8)):
        assert divergence(*far) == pytest.approx(float(divergence(mean_p, cov_p, mean_q, cov_q)), rel=1e-9)
    near = cov_p * (1 + 1e-9)
    zero = np.zeros(3)
    assert g.gaussian_kl(zero, near, zero, cov_p) == pytest.approx(3 / 4 * 1e-18, rel=1e-5, abs=0)
    assert gd.gaussian_wasserstein_2_squared(zero, near, zero, cov_p) == pytest.approx(
        np.trace(cov_p) / 4 * 1e-18, rel=1e-4
    )
    assert g.gaussian_kl([0.0], [[1e-300]], [0.0], [[1.0]]) == pytest.approx((300 * math.log(10) - 1) / 2)
    assert forms.exponential_kl(1e300, 1.0) == pytest.approx(300 * math.log(10) - 1)
    assert forms.exponential_kl(1.0, 1 + 1e-9) == pytest.approx(5e-19, rel=1e-6, abs=0)
    assert g.gaussian_renyi(*pair(15, 2), order=1 + 1e-12) == pytest.approx(
        float(g.gaussian_kl(*pair(15, 2))), rel=1e-9
    )


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.1, 0.5, 2.0]))
def test_inequalities_of_the_reference(seed: int, d: int, spread: float) -> None:
    args = pair(seed, d, spread=spread)
    swapped = (*args[2:], *args[:2])
    kl, slack = float(g.gaussian_kl(*args)), 1e-9
    orders = [float(g.gaussian_renyi(*args, order=a)) for a in (0.1, 0.5, 0.999, 1.0, 1.001, 1.5, 2.0, 5.0)]
    assert all(low <= high + slack * (1 + abs(low)) for low, high in itertools.pairwise(orders))
    hellinger = float(g.gaussian_squared_hellinger(*args))
    assert -slack <= 2 * hellinger <= orders[1] + slack
    assert g.gaussian_chi2(*args) >= math.expm1(min(kl, 700)) * (1 - 1e-9) - slack
    assert gd.gaussian_half_cauchy_schwarz(*args) <= kl + slack
    for symmetric in (gd.gaussian_cauchy_schwarz, g.gaussian_jeffreys, gd.gaussian_wasserstein_2):
        assert symmetric(*args) == pytest.approx(float(symmetric(*swapped)), rel=1e-9)
    # q standard normal: Talagrand, HWI, log-Sobolev
    standard = (*args[:2], np.zeros(d), np.eye(d))
    kl, fisher = float(g.gaussian_kl(*standard)), float(gd.gaussian_fisher_divergence(*standard))
    distance = float(gd.gaussian_wasserstein_2(*standard))
    assert distance**2 <= 2 * kl + slack
    assert kl <= distance * fisher**0.5 - distance**2 / 2 + slack * (1 + fisher)
    assert kl <= fisher / 2 + slack


def test_full_cauchy_schwarz_exceeds_kl_and_the_half_does_not() -> None:
    args = ([3.0], [[0.1]], [0.0], [[1.0]])
    assert gd.gaussian_cauchy_schwarz(*args) > g.gaussian_kl(*args) > gd.gaussian_half_cauchy_schwarz(*args)


def test_de_bruijn() -> None:
    mean_p, cov_p, mean_q, cov_q = pair(16, 3)

    def kl(t):
        return float(g.gaussian_kl(mean_p, cov_p + t * np.eye(3), mean_q, cov_q + t * np.eye(3)))

    slope = (kl(1e-5) - kl(-1e-5)) / 2e-5
    assert slope == pytest.approx(-float(gd.gaussian_fisher_divergence(mean_p, cov_p, mean_q, cov_q)) / 2, rel=1e-7)


def test_families_without_a_torch_peer_and_at_their_edges() -> None:
    assert list(forms.poisson_kl([0.0, 0.0, 1.0], [0.0, 2.0, 0.0])) == [0.0, 2.0, math.inf]
    assert forms.poisson_kl(1.0, 1 + 1e-9) == pytest.approx(5e-19, rel=1e-6, abs=0)
    edge = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    forms.poisson_kl(edge, torch.tensor([0.0, 2.0, 3.0])).sum().backward()
    assert torch.isfinite(edge.grad).all()
    time = np.linspace(0, 2, 2001)
    weights = np.full(2001, 1e-3)
    weights[[0, -1]] /= 2
    p, q = 1 + time, 2 + 0 * time
    exact = integrate.quad(lambda t: (1 + t) * math.log((1 + t) / 2) - (1 + t) + 2, 0, 2)[0]
    assert forms.point_process_kl(p, q, weights=weights) == pytest.approx(exact, abs=1e-6)
    assert forms.point_process_kl(np.stack([p, p], 1), q[:, None], weights=weights, axis=0).shape == (2,)
    assert forms.point_process_kl([1.0, 2.0], [0.0, 2.0], weights=[0.0, 1.0]) == 0
    assert forms.gamma_kl(np.float16(2), np.float16(1), np.float16(1), np.float16(1)).dtype == np.float32


BAD = [
    (([np.nan], [[1.0]], [0.0], [[1.0]]), "mean_p"),
    (([0.0], [[1.0]], [0.0, 1.0], [[1.0]]), "mean_q"),
    (([0.0], [[-1.0]], [0.0], [[1.0]]), "cov_p must be positive definite"),
    (([0.0], [[1.0]], [0.0], [[0.0]]), "cov_q must be positive definite"),
    (([0.0, 0.0], [[1.0, 0.2], [0.0, 1.0]], [0.0, 0.0], np.eye(2)), "cov_p must be symmetric"),
    (([0.0, 0.0], np.eye(2), [0.0, 0.0], np.eye(3)), "cov_q must have shape"),
    (([], np.eye(0), [], np.eye(0)), "mean_p must have shape"),
    ((np.zeros((2, 1)), np.eye(1), np.zeros((3, 1)), np.eye(1)), "do not broadcast"),
    (([0.0], [[np.inf]], [0.0], [[1.0]]), "cov_p must be finite"),
]


@pytest.mark.parametrize(("args", "message"), BAD)
@pytest.mark.parametrize("divergence", [g.gaussian_kl, g.gaussian_chi2, gd.gaussian_wasserstein_2])
def test_bad_gaussians_are_named(divergence, args, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        divergence(*args)


def test_other_bad_input_is_named() -> None:
    good = ([0.0], [[1.0]], [0.0], [[1.0]])
    for call, message in [
        (lambda: g.gaussian_renyi(*good, order=0.0), "order"),
        (lambda: g.gaussian_renyi(*good, order=math.nan), "order"),
        (lambda: gd.gaussian_mmd_squared(*good, bandwidth=0.0), "bandwidth"),
        (lambda: gd.gaussian_entropic_wasserstein_2(*good, epsilon=-1.0), "epsilon"),
        (lambda: g.gaussian_kl(torch.zeros(1), *good[1:]), "one library"),
        (lambda: forms.exponential_kl(0.0, 1.0), "rate_p must be positive"),
        (lambda: forms.poisson_kl(1.0, -1.0), "rate_q must be nonnegative"),
        (lambda: forms.gamma_kl(1.0, 1.0, math.nan, 1.0), "shape_q"),
        (lambda: forms.dirichlet_kl([1.0, 2.0], [1.0, 2.0, 3.0]), "sizes along axis"),
        (lambda: forms.laplace_kl(0.0, 1.0, 0.0, -1.0), "scale_q must be positive"),
        (lambda: forms.beta_kl([1.0, 1.0], 1.0, [1.0, 1.0, 1.0], 1.0), "do not broadcast"),
        (lambda: forms.point_process_kl([1.0], [1.0], weights=[-1.0]), "weights must be nonnegative"),
    ]:
        with pytest.raises(ParameterError, match=message):
            call()
