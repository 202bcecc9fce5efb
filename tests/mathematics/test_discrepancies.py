"""Discrepancies of samples: definitions, identities, scipy, bounds, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import stats

from porism.discrepancies import (
    Distance,
    Gaussian,
    InverseMultiquadric,
    Laplace,
    cauchy_schwarz_half,
    cauchy_schwarz_squared,
    dudley_metric,
    energy_distance,
    fisher_divergence,
    holder_ipm,
    holder_ipm_bound,
    kernel_stein_discrepancy,
    kolmogorov_smirnov,
    median_bandwidth,
    mmd_squared,
    neural_ipm,
    restricted_chi2,
    stein_gram,
)
from porism.errors import ParameterError
from porism.testing.strategies import samples
from porism.transport import exact_wasserstein, wasserstein_1d

KERNELS = ("gaussian", "laplace", "imq", "energy")
LINE = samples(points=(2, 10), magnitude=100.0)


def clouds(seed: int, n: int = 17, m: int = 12, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.5


def masses(seed: int, size: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).random(size)
    return drawn / drawn.sum()


def naive_mmd(k, x, y, a, b, estimator):
    xx, yy, xy = k(x, x), k(y, y), k(x, y)
    if estimator == "biased":
        return a @ xx @ a + b @ yy @ b - 2 * a @ xy @ b
    xx, yy = xx - np.diag(np.diag(xx)), yy - np.diag(np.diag(yy))
    return a @ xx @ a / (1 - a @ a) + b @ yy @ b / (1 - b @ b) - 2 * a @ xy @ b


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("bandwidth", [1.3, (0.5, 1.0, 4.0)])
def test_mmd_is_its_definition_on_both_backends(kernel, estimator, bandwidth, monkeypatch):
    monkeypatch.setattr("porism.kernels.mmd._BLOCK", 5)
    monkeypatch.setattr("porism.discrepancies.mmd._BLOCK", 60)
    x, y = clouds(0)
    widths = np.atleast_1d(bandwidth)
    radius = lambda u, v: np.linalg.norm(u[:, None] - v[None], axis=-1)  # noqa: E731
    k = {
        "gaussian": lambda u, v: sum(np.exp(-(radius(u, v) ** 2) / (2 * s * s)) for s in widths),
        "laplace": lambda u, v: sum(np.exp(-radius(u, v) / s) for s in widths),
        "imq": lambda u, v: sum((1 + radius(u, v) ** 2 / s**2) ** -0.5 for s in widths),
        "energy": lambda u, v: -radius(u, v) / 2,
    }[kernel]
    for a, b in ((None, None), (masses(1, 17), masses(2, 12))):
        full_a, full_b = (np.full(17, 1 / 17), np.full(12, 1 / 12)) if a is None else (a, b)
        expected = naive_mmd(k, x, y, full_a, full_b, estimator)
        settings = {"kernel": kernel, "bandwidth": bandwidth, "estimator": estimator}
        assert mmd_squared(x, y, x_weights=a, y_weights=b, **settings) == pytest.approx(expected, abs=1e-12)
        ta, tb = (None, None) if a is None else (torch.tensor(a), torch.tensor(b))
        tensors = mmd_squared(torch.tensor(x), torch.tensor(y), x_weights=ta, y_weights=tb, **settings)
        assert float(tensors) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_mmd_estimators_relate_as_they_should(kernel):
    x, y = clouds(1, 12, 12)
    settings = {"kernel": kernel, "bandwidth": 1.0}
    biased = mmd_squared(x, y, estimator="biased", **settings)
    unbiased = mmd_squared(x, y, estimator="unbiased", **settings)
    gram = {"gaussian": Gaussian(), "laplace": Laplace(), "imq": InverseMultiquadric(), "energy": Distance()}[kernel]
    top = gram(x[:1], x[:1])[0, 0]
    # The biased mean of pairs is (n - 1)/n of the unbiased one plus k(x, x)/n.
    own = sum((v.sum() - 12 * top) / (12 * 11) for v in (gram(x, x), gram(y, y)))
    assert biased - unbiased == pytest.approx(2 * top / 12 - own / 12, abs=1e-12)
    assert biased >= 0
    assert mmd_squared(x, x[::-1], estimator="biased", **settings) == pytest.approx(0, abs=1e-12)
    # The linear estimator is the mean of Gretton's h over pairs; its mean over all orders is the unbiased one.
    h = [
        gram(x[i : i + 1], x[i + 1 : i + 2])
        + gram(y[i : i + 1], y[i + 1 : i + 2])
        - gram(x[i : i + 1], y[i + 1 : i + 2])
        - gram(x[i + 1 : i + 2], y[i : i + 1])
        for i in range(0, 12, 2)
    ]
    assert mmd_squared(x, y, estimator="linear", **settings) == pytest.approx(np.mean(h), abs=1e-12)


def test_unbiased_estimate_is_unbiased():
    # All samples of size three of a law on three points, by enumeration.
    points, p, q = np.array([0.0, 1.0, 3.0]), np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.1, 0.3])
    truth = mmd_squared(points, points, bandwidth=1.0, estimator="biased", x_weights=p, y_weights=q)
    total = 0.0
    for i in np.ndindex(3, 3, 3, 3):
        value = mmd_squared(points[list(i[:2])], points[list(i[2:])], bandwidth=1.0)
        total += float(value) * p[i[0]] * p[i[1]] * q[i[2]] * q[i[3]]
    assert total == pytest.approx(float(truth), abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
def test_mmd_gradients(kernel, estimator, monkeypatch):
    monkeypatch.setattr("porism.kernels.mmd._BLOCK", 3)
    x, y = (torch.tensor(v, requires_grad=True) for v in clouds(2, 6, 4))
    assert torch.autograd.gradcheck(
        lambda x, y: mmd_squared(x, y, kernel=kernel, bandwidth=(1.0, 2.0), estimator=estimator), (x, y)
    )
    if estimator != "linear":
        logits = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda z: mmd_squared(x, y, kernel=kernel, bandwidth=1.0, estimator=estimator, x_weights=z.softmax(0)),
            (logits,),
        )


def test_mmd_in_float32_is_near_float64_and_far_from_the_origin():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(700, 16, generator=generator), torch.randn(600, 16, generator=generator) * 1.2 + 0.2
    x.requires_grad_()
    for shift, bandwidth in ((0.0, 4.0), (1000.0, 4.0), (0.0, 0.1)):
        near = mmd_squared(x + shift, y + shift, bandwidth=bandwidth, estimator="biased")
        exact = mmd_squared((x + shift).double(), (y + shift).double(), bandwidth=bandwidth, estimator="biased")
        assert float(near.detach()) == pytest.approx(float(exact.detach()), rel=1e-6, abs=2e-7)
        ours, theirs = (torch.autograd.grad(v, x)[0] for v in (near, exact))
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max() + 1e-9


def test_median_bandwidth_convention():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(20, 2))
    pooled = np.concatenate([x, y])
    squares = ((pooled[:, None] - pooled[None]) ** 2).sum(-1)[np.triu_indices(50, 1)]
    assert median_bandwidth(x, y) == pytest.approx(math.sqrt(np.median(squares) / 2))
    explicit = mmd_squared(x, y, bandwidth=median_bandwidth(x, y))
    assert mmd_squared(x, y) == pytest.approx(float(explicit), abs=1e-14)
    long = rng.normal(size=5000)
    assert median_bandwidth(long) == pytest.approx(0.6745, rel=0.05)


def test_standard_error_of_a_critic_is_that_of_two_means():
    x, y = clouds(11, 5, 6, 1)
    found = holder_ipm_bound(x, y, 1.0, rng=np.random.default_rng(0), steps=3)
    held = [found.critic(points).numpy() for points in (found.x_held_out, found.y_held_out)]
    assert [len(values) for values in held] == [2, 3]
    assert found.value == pytest.approx(held[0].mean() - held[1].mean(), abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(sum(v.var(ddof=1) / len(v) for v in held)), rel=1e-12)


def test_median_of_many_points_looks_at_both_samples():
    """Pairs within a sample are at most 1 apart; those between, a little more than half of all, at least 99."""
    x, y = np.linspace(0, 1, 2000), np.linspace(100, 101, 2000)
    assert median_bandwidth(x, y) == pytest.approx(99 / math.sqrt(2), rel=0.02)


@given(LINE, LINE)
def test_energy_distance_identities(x, y):
    scale = 1 + abs(np.r_[x, y]).max()
    value = float(energy_distance(x, y))
    cross = lambda u, v: abs(u[:, None] - v[None])  # noqa: E731
    direct = 2 * cross(x, y).mean() - cross(x, x).mean() - cross(y, y).mean()
    assert value == pytest.approx(direct, abs=1e-12 * scale)
    assert value == pytest.approx(float(stats.energy_distance(x, y)) ** 2, abs=1e-10 * scale)
    assert value == pytest.approx(2 * float(mmd_squared(x, y, kernel="energy", estimator="biased")), abs=1e-12 * scale)
    planar = energy_distance(np.c_[x, 0 * x], np.c_[y, 0 * y])
    assert value == pytest.approx(float(planar), abs=1e-12 * scale)
    unbiased = float(energy_distance(x, y, estimator="unbiased"))
    two = 2 * float(mmd_squared(x, y, kernel="energy"))
    assert unbiased == pytest.approx(two, abs=1e-12 * scale)
    # A kernel that is positive definite everywhere gives the same.
    pinned = lambda u, v: (abs(u) + abs(v).T - abs(u - v.T)) / 2  # noqa: E731
    assert value == pytest.approx(2 * float(mmd_squared(x, y, kernel=pinned, estimator="biased")), abs=1e-11 * scale)


def test_energy_distance_weights_and_gradients():
    x, y = clouds(4)
    a, b = masses(5, 17), masses(6, 12)
    weighted = energy_distance(x[:, 0], y[:, 0], x_weights=a, y_weights=b)
    assert weighted == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0], a, b) ** 2, abs=1e-10)
    for d in (1, 3):
        tensors = [torch.tensor(v[:5, :d].copy(), requires_grad=True) for v in (x, y)]
        for estimator in ("biased", "unbiased"):
            assert torch.autograd.gradcheck(lambda x, y, e=estimator: energy_distance(x, y, estimator=e), tensors)


@given(LINE, LINE)
def test_kolmogorov_smirnov_is_scipys(x, y):
    assert float(kolmogorov_smirnov(x, y)) == pytest.approx(stats.ks_2samp(x, y).statistic, abs=1e-14)
    assert float(kolmogorov_smirnov(torch.tensor(x), torch.tensor(y))) == float(kolmogorov_smirnov(x, y))


def test_kolmogorov_smirnov_in_batches_and_with_weights():
    x = np.array([[0.0, 1.0, 1.0], [5.0, 5.0, 5.0]])
    np.testing.assert_allclose(kolmogorov_smirnov(x, [1.0, 1.0]), [1 / 3, 1.0])
    assert kolmogorov_smirnov([0.0, 1.0], [0.0, 1.0], x_weights=[0.8, 0.2]) == pytest.approx(0.3)


def test_dudley_and_holder_metrics_keep_their_bounds():
    for seed in range(3):
        x, y = clouds(seed, 8, 6)
        dudley = dudley_metric(x, y)
        assert 0 < dudley <= float(exact_wasserstein(x, y, 1)) + 1e-9
        assert dudley < 2
        assert dudley == pytest.approx(dudley_metric(y, x), abs=1e-8)
        assert dudley_metric(x, x[::-1]) == pytest.approx(0, abs=1e-9)
        # A function of the class, not the best one
        f = lambda v: np.clip(v[:, 0], -0.5, 0.5) / 1.5  # noqa: E731
        assert abs(f(x).mean() - f(y).mean()) <= dudley + 1e-9
    near = holder_ipm([0.0], [0.01], 0.5)
    assert near == pytest.approx(2 * 0.1 / 2.1) and near > dudley_metric([0.0], [0.01])
    assert dudley_metric([0.0, 9.0], [0.0], x_weights=[1.0, 0.0]) == pytest.approx(0, abs=1e-9)


def test_critics_are_below_what_they_bound():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)) + 1, rng.normal(size=(80, 2))
    found = neural_ipm(x, y, rng=np.random.default_rng(1), steps=60)
    held = (found.x_held_out.numpy(), found.y_held_out.numpy())
    assert 0.5 < found.value <= float(exact_wasserstein(*held, 1)) + 1e-9
    points = torch.tensor(rng.normal(size=(200, 2)) * 10)
    values = found.critic(points).detach()
    slopes = (values[:, None] - values[None]).abs() / (torch.cdist(points, points) + 1e-12)
    assert slopes.max() <= 1 + 1e-9
    again = neural_ipm(x, y, rng=np.random.default_rng(1), steps=60)
    assert again.value == found.value
    for order in (0.5, 1.0):
        bound = holder_ipm_bound(x, y, order, rng=np.random.default_rng(2), steps=30)
        held = (bound.x_held_out.numpy(), bound.y_held_out.numpy())
        assert 0.1 < bound.value <= holder_ipm(*held, order) + 1e-9
    smooth = [holder_ipm_bound(x, y, s, rng=np.random.default_rng(2), steps=60).value for s in (1.0, 3.0)]
    assert smooth[0] > 0 and smooth[1] > 0
    alike = neural_ipm(x, rng.permutation(x), rng=np.random.default_rng(3), steps=20)
    assert abs(alike.value) < 5 * alike.standard_error


@pytest.mark.parametrize("kernel", ["imq", "gaussian"])
def test_stein_kernel_has_mean_zero_and_is_its_definition(kernel):
    # q is a normal law; Gauss-Hermite quadrature over y.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    mean, deviation = 0.7, 1.3
    y = (mean + deviation * nodes)[:, None]
    score = lambda v: -(v - mean) / deviation**2  # noqa: E731
    x = np.linspace(-3, 3, 7)[:, None]
    gram = stein_gram(x, score(x), y, score(y), kernel=kernel, bandwidth=2.0)
    np.testing.assert_allclose(gram @ weights, 0, atol=2e-4 if kernel == "imq" else 1e-8)
    # In two dimensions, from the kernel by automatic differentiation.
    u, v, s, t = (torch.tensor(row, requires_grad=True) for row in np.random.default_rng(0).normal(size=(4, 2)))

    def k(u, v):
        square = ((u - v) ** 2).sum()
        return (1 + square / 4) ** -0.5 if kernel == "imq" else torch.exp(-square / 8)

    in_u, in_v = (torch.autograd.functional.jacobian(k, (u, v))[i] for i in (0, 1))
    mixed = torch.autograd.functional.hessian(k, (u, v))[0][1].trace()
    expected = s @ t * k(u, v) + s @ in_v + t @ in_u + mixed
    found = stein_gram(u[None], s[None], v[None], t[None], kernel=kernel, bandwidth=2.0)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)


def test_stein_statistics(monkeypatch):
    monkeypatch.setattr("porism.discrepancies.stein._BLOCK", 50)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2))
    gram = stein_gram(x, -x, x, -x)
    assert kernel_stein_discrepancy(x, -x) == pytest.approx(gram.mean(), abs=1e-12)
    off = (gram.sum() - np.trace(gram)) / (40 * 39)
    assert kernel_stein_discrepancy(x, lambda v: -v, estimator="unbiased") == pytest.approx(off, abs=1e-12)
    a = masses(3, 40)
    assert kernel_stein_discrepancy(x, -x, x_weights=a) == pytest.approx(a @ gram @ a, abs=1e-12)
    assert np.linalg.eigvalsh(gram).min() > -1e-10
    assert kernel_stein_discrepancy(x + 1, lambda v: -v) > 3 * kernel_stein_discrepancy(x, lambda v: -v)
    points = torch.tensor(x[:5], requires_grad=True)
    for kernel in ("imq", "gaussian"):
        assert torch.autograd.gradcheck(
            lambda x, k=kernel: kernel_stein_discrepancy(x, lambda v: -v, kernel=k, estimator="unbiased"), (points,)
        )


def test_kernels_have_the_right_gradients():
    x, y = (torch.tensor(v, requires_grad=True) for v in clouds(5, 3, 2))
    for kernel in (Gaussian((1.0, 2.0)), InverseMultiquadric((1.5,), -0.3)):
        jacobian = torch.autograd.functional.jacobian(lambda u, k=kernel: k(u, y.detach()), x)
        found = kernel.gradient(x, y)
        for i in range(3):
            torch.testing.assert_close(found[i], jacobian[i, :, i])


def test_fisher_divergence_of_gaussians():
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    p, q = (0.3, 0.8), (-0.5, 1.7)
    x = (p[0] + p[1] * nodes)[:, None]
    scores = [-(x - m) / s**2 for m, s in (p, q)]
    found = fisher_divergence(*scores, x_weights=weights / weights.sum())
    slope = 1 / q[1] ** 2 - 1 / p[1] ** 2
    assert found == pytest.approx(slope**2 * p[1] ** 2 + ((p[0] - q[0]) / q[1] ** 2) ** 2, abs=1e-12)
    assert fisher_divergence(scores[0], scores[0]) == 0


def test_restricted_chi2_against_the_full_one():
    rng = np.random.default_rng(2)
    p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    chi2 = ((p - q) ** 2 / q).sum()
    everything = np.eye(6)
    assert restricted_chi2(everything, everything, x_weights=p, y_weights=q).value == pytest.approx(chi2)
    for k in (1, 2, 4):
        features = np.c_[np.ones(6), rng.normal(size=(6, k))]
        plain = restricted_chi2(features, features, x_weights=p, y_weights=q)
        centred = restricted_chi2(features, features, centred=True, x_weights=p, y_weights=q)
        assert -1e-12 <= plain.value <= chi2 + 1e-10
        assert plain.value == pytest.approx(centred.value, abs=1e-9)
        assert (plain.rank, centred.rank) == (k + 1, k)
        doubled = restricted_chi2(np.c_[features, features], np.c_[features, features], x_weights=p, y_weights=q)
        assert doubled.value == pytest.approx(plain.value, abs=1e-9) and doubled.rank == k + 1
        ridged = restricted_chi2(features, features, ridge=1e-3, x_weights=p, y_weights=q)
        assert ridged.value < plain.value
        ratio = restricted_chi2(np.c_[features, p / q], np.c_[features, p / q], x_weights=p, y_weights=q)
        assert ratio.value == pytest.approx(chi2, abs=1e-9)
    assert restricted_chi2([[0.0, 1.0]], [[1.0, 0.0]]).value == math.inf
    tensors = [torch.tensor(rng.normal(size=(8, 3)), requires_grad=True) for _ in range(2)]
    for settings in ({}, {"centred": True}, {"ridge": 0.1}):
        assert torch.autograd.gradcheck(lambda x, y, s=settings: restricted_chi2(x, y, **s).value, tensors)


def test_cauchy_schwarz_conventions():
    x, y = clouds(7)
    k = Gaussian((1.3,))
    direct = math.log(k(x, x).mean()) + math.log(k(y, y).mean()) - 2 * math.log(k(x, y).mean())
    assert cauchy_schwarz_squared(x, y, bandwidth=1.3) == pytest.approx(direct, abs=1e-12)
    assert cauchy_schwarz_half(x, y, bandwidth=1.3) == pytest.approx(direct / 2, abs=1e-12)
    assert cauchy_schwarz_squared(x, x) == pytest.approx(0, abs=1e-12)
    assert cauchy_schwarz_squared([0.0], [1000.0], bandwidth=1.0) == 1e6
    left_out = cauchy_schwarz_squared([0.0, 500.0], [0.0], bandwidth=1.0, x_weights=[1.0, 0.0])
    assert left_out == pytest.approx(0, abs=1e-12)
    # a point of no weight may be near where those that have some are far: exponents up to 1000^2 / 2
    assert cauchy_schwarz_squared([0.0, 1000.0], [1000.0], bandwidth=1.0, x_weights=[1.0, 0.0]) == 1e6
    tensors = [torch.tensor(v[:4], requires_grad=True) for v in (x, y)]
    assert torch.autograd.gradcheck(lambda x, y: cauchy_schwarz_squared(x, y, bandwidth=1.0), tensors)


def test_wasserstein_bounds_means_and_energy():
    x, y = clouds(8, d=1)
    w1 = float(wasserstein_1d(x[:, 0], y[:, 0]))
    assert abs(np.sin(x).mean() - np.sin(y).mean()) <= w1 + 1e-12
    # |F - G| <= 1, so that 2 int (F - G)^2 <= 2 W_1
    assert float(energy_distance(x, y)) <= 2 * w1 + 1e-12


def test_dtypes_and_strides():
    x, y = clouds(9)
    for function in (mmd_squared, energy_distance, cauchy_schwarz_squared):
        expected = float(function(x, y))
        assert float(function(np.asfortranarray(x), y[::-1])) == pytest.approx(expected, abs=1e-12)
        assert float(function(torch.tensor(x.T.copy()).T, torch.tensor(y))) == pytest.approx(expected, abs=1e-12)
        half = function(torch.tensor(x).half(), torch.tensor(y).half())
        assert half.dtype == torch.float32 and float(half) == pytest.approx(expected, abs=0.02)
        assert np.isfinite(float(function([1, 2, 4], [2, 3, 9])))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda x, y: mmd_squared(x, y[:, :2]), "x and y"),
        (lambda x, y: mmd_squared(x[:0], y), "x and y"),
        (lambda x, y: mmd_squared(x * np.nan, y), "x must be finite"),
        (lambda x, y: mmd_squared(x, torch.tensor(y)), "one library"),
        (lambda x, y: mmd_squared(x, y, kernel="cubic"), "kernel"),
        (lambda x, y: mmd_squared(x, y, bandwidth=-1.0), "bandwidth"),
        (lambda x, y: mmd_squared(x, y, bandwidth="mean"), "bandwidth"),
        (lambda x, y: mmd_squared(x, y, bandwidth=[]), "bandwidth"),
        (lambda x, y: mmd_squared(np.ones((4, 2)), np.ones((4, 2))), "bandwidth"),
        (lambda x, y: mmd_squared(x, y, estimator="both"), "estimator"),
        (lambda x, y: mmd_squared(x[:1], y), "x needs"),
        (lambda x, y: mmd_squared(x, y[:1], estimator="linear"), "two points"),
        (lambda x, y: mmd_squared(x, y, estimator="linear", x_weights=np.full(17, 1 / 17)), "x_weights"),
        (lambda x, y: mmd_squared(x, y, y_weights=np.ones(12)), "y_weights"),
        (lambda x, y: mmd_squared(x, y, y_weights=np.ones(3) / 3), "y_weights"),
        (lambda x, y: energy_distance(x, y, estimator="linear"), "estimator"),
        (lambda x, y: energy_distance(x[:1, 0], y[:, 0], estimator="unbiased"), "x needs"),
        (lambda x, y: fisher_divergence(x, y), "p_scores"),
        (lambda x, y: kernel_stein_discrepancy(x, y), "score"),
        (lambda x, y: kernel_stein_discrepancy(x, x, kernel="laplace"), "kernel"),
        (lambda x, y: kernel_stein_discrepancy(x, x * np.inf), "score"),
        (lambda x, y: stein_gram(x, x, y, x), "y_scores"),
        (lambda x, y: holder_ipm(x, y, 2.0), "smoothness"),
        (lambda x, y: holder_ipm_bound(x, y, 0.0, rng=np.random.default_rng(0)), "smoothness"),
        (lambda x, y: neural_ipm(x[:3], y, rng=np.random.default_rng(0)), "x needs"),
        (lambda x, y: neural_ipm(x, y, rng=np.random.default_rng(0), width=0), "width"),
        (lambda x, y: kolmogorov_smirnov([], [1.0]), "x is empty"),
        (lambda x, y: restricted_chi2(x, y[:, :2]), "p_features"),
        (lambda x, y: restricted_chi2(x, y, ridge=-1.0), "ridge"),
        (lambda x, y: InverseMultiquadric(exponent=0.5), "exponent"),
        (lambda x, y: cauchy_schwarz_half(x, y, bandwidth=0.0), "bandwidth"),
    ],
)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ParameterError, match=named):
        call(*clouds(10))


def test_a_feature_that_is_constant_under_q_is_no_feature_once_centred() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        weights = rng.dirichlet(np.ones(10), size=2)
        found = restricted_chi2(
            np.ones((10, 1)), np.ones((10, 1)), centred=True, x_weights=weights[0], y_weights=weights[1]
        )
        assert (float(found.value), found.rank) == (0.0, 0)
