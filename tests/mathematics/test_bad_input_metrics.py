"""Bad input of metrics, geometry and kernels: an error that names the argument, or the right number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from porism import geometry, metrics
from porism.divergences import (
    fused_linear_divergence,
    generator,
    sampled_divergence_logits,
    top_k_divergence_logits,
)
from porism.errors import ParameterError
from porism.kernels.logits import divergence_logits
from porism.kernels.mmd import gaussian_pair_sums

INF = math.inf
BIG = 2**53
W = torch.tensor([1.0, 2.0], requires_grad=True)
X = np.random.default_rng(0).normal(size=(30, 3))
SPHERE = geometry.Sphere(2)
ON = SPHERE.sample(np.random.default_rng(0), 5)
LOGITS = torch.zeros(2, 3)
HEADS = {
    "hidden_s": torch.ones(2, 3), "W_s": torch.ones(4, 3), "hidden_t": torch.ones(2, 3), "W_t": torch.ones(4, 3),
}  # fmt: skip


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def cubes() -> torch.Tensor:
    return (W**3).sum()


def linear(p, x):
    return x @ p["w"]


def circle(u):
    return np.concatenate([np.cos(u), np.sin(u)], axis=-1)


WEIGHTS = {"w": torch.ones(2, 3)}
BATCH = torch.ones(4, 2)


def sampled(density):
    return SPHERE.sample(rng(), 2, density=density, density_bound=1.0)


def refused(call, match):
    with pytest.raises(ParameterError, match=match):
        call()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.accuracy([0.9, 0.2], [1, 0]), "predictions must be whole numbers"),
        (lambda: metrics.accuracy([1], [INF]), "labels must be whole numbers"),
        (lambda: metrics.agreement([float(BIG)], [1]), "a must be whole numbers, of an integer dtype"),
        (lambda: metrics.group_accuracies([1, 0], [0.5, 1]), "groups must be whole numbers"),
        (lambda: metrics.accuracy(None, [1]), "predictions must be an array of real numbers, got None"),
        (lambda: metrics.accuracy(np.ma.masked_array([1, 0], [0, 1]), [1, 1]), "predictions must not be a masked"),
        (lambda: metrics.top_k_accuracy(np.ones((2, 0)), [0, 1], k=1), "scores must have shape"),
        (lambda: metrics.top_k_accuracy([[1.0, 2.0]], [0], k=1.5), "k must be a whole number"),
        (lambda: metrics.expected_calibration_error([0.5], [1], norm="2"), "norm must be a number at least 1"),
        (lambda: metrics.classwise_calibration_error([[0.5, 0.5]], [1], norm=None), "norm must be a number"),
        (lambda: metrics.reliability_diagram([0.5], [1], level="0.9"), "level must be a number above 0 and below 1"),
        (lambda: metrics.mean_width([math.nan], [1.0]), "low must not contain NaN"),
        (lambda: metrics.interval_score([0.0], [0.0], [1.0], alpha=[0.1]), "alpha must be a number"),
        (lambda: metrics.excess_aurc([0.1, 0.2], [INF, 0.0]), "losses must be finite"),
        (lambda: metrics.aurc([0.1, 0.2], [INF, -INF]), "losses must not be -inf"),
        (lambda: metrics.correlation_dimension(X, shares=0.5), "shares must be two numbers"),
        (lambda: metrics.correlation_dimension(X, shares=(0.1, 0.2, 0.3)), "shares must be two numbers"),
        (lambda: metrics.correlation_dimension(X, shares=None), "shares must be"),
        (lambda: metrics.two_nn(X, discard="0.1"), "discard must be a number"),
        (lambda: metrics.cka(np.full((3, 2), 1e308), X[:3]), "x must not be zero, or constant"),
        (lambda: metrics.cka(X[:3], np.full((3, 2), 0.1)), "y must not be zero, or constant"),
        (lambda: metrics.centered_kernel_alignment(np.full((3, 3), 0.1), np.eye(3)), "k must not be zero, or constant"),
        (lambda: metrics.participation_ratio(np.full((3, 2), 0.1)), "x must have rows that differ"),
        (lambda: metrics.participation_ratio(np.full((3, 2), 1e308)), "x must have rows that differ"),
    ],
)
def test_bad_input_of_metrics(call, match):
    refused(call, match)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda r: metrics.permutation_test([1.0], [2.0], lambda a, b: 0.0, permutations=9, rng=r), "rng must be"),
        (lambda r: metrics.mmd_test([1.0], [2.0], rng=r), "rng must be"),
        (lambda r: metrics.energy_test([1.0], [2.0], rng=r), "rng must be"),
        (lambda r: metrics.c2st([1.0, 2.0], [2.0, 3.0], rng=r), "rng must be"),
        (lambda r: metrics.sharpness(cubes, [W], rng=r), "rng must be"),
        (lambda r: metrics.hessian_trace(cubes, [W], rng=r), "rng must be"),
        (lambda r: metrics.spectral_density(cubes, [W], rng=r), "rng must be"),
        (lambda r: SPHERE.sample(r, 3), "rng must be"),
        (lambda r: geometry.LinearSubspace(np.eye(2)).sample_normal(r, 3), "rng must be"),
        (lambda r: sampled_divergence_logits("kl", LOGITS, LOGITS, samples=2, rng=r), "rng must be"),
    ],
)
@pytest.mark.parametrize("bad", [0, None, np.random.RandomState(0)])
def test_generators_of_random_numbers_are_checked(call, match, bad):
    refused(lambda: call(bad), match)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: metrics.mmd_test(X, X, kernel=lambda a, b: np.eye(40), rng=rng()),
            r"kernel must return shape \(60, 60",
        ),
        (lambda: metrics.mmd_test(X, X, kernel=lambda a, b: 1.0, rng=rng()), "kernel must return shape"),
        (lambda: metrics.mmd_test(X, X, kernel=lambda a, b: None, rng=rng()), "kernel must be an array"),
        (
            lambda: metrics.mmd_test(X, X, kernel=lambda a, b: np.full((60, 60), INF), rng=rng()),
            "kernel must be finite",
        ),
        (lambda: metrics.mmd_test(X, X, kernel=3, rng=rng()), "kernel must be a function"),
        (lambda: metrics.energy_test([1.5e308], [-1.5e308], rng=rng()), "distances of x and y must be finite"),
        (lambda: metrics.permutation_test(X, X, 3, rng=rng()), "statistic must be a function"),
        (lambda: metrics.permutation_test(X, X, lambda a, b: None, rng=rng()), "statistic must be a number"),
        (lambda: metrics.permutation_test(X, X, lambda a, b: "a", rng=rng()), "statistic must be a number"),
        (lambda: metrics.permutation_test(X, X, lambda a, b: np.ones(2), rng=rng()), "statistic must be a number"),
        (lambda: metrics.c2st(X, X, classifier="knn", rng=rng()), "classifier must be a function"),
        (lambda: metrics.c2st(X, X, classifier=lambda *_: None, rng=rng()), "classifier must be an array"),
        (lambda: metrics.c2st(X, X, held_out="half", rng=rng()), "held_out must be a number"),
    ],
)
def test_bad_input_of_two_sample_tests(call, match):
    refused(call, match)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        (W, "parameters must be a list of leaf tensors, got Tensor"),
        ([W * 2], "parameters must be a list of leaf tensors, not"),
        ([W.clone()], "parameters must be a list of leaf tensors, not"),
        ([torch.ones(2, requires_grad=True)], "loss must depend on the parameters"),
        ([torch.ones(2, requires_grad=True, dtype=torch.complex64)], "parameters must all be real"),
        ({"w": W}, "parameters must be a list of leaf tensors, got dict"),
        (None, "parameters must be a list of leaf tensors, got NoneType"),
        ([np.ones(2)], "parameters must be a list of leaf tensors, not"),
        ("a", "parameters must be a list of leaf tensors, not"),
        ([], "parameters must hold at least one entry"),
    ],
)
def test_bad_parameters_of_a_hessian(parameters, match):
    refused(lambda: metrics.hessian_operator(cubes, parameters), match)
    refused(lambda: metrics.sharpness(cubes, parameters, rng=rng()), match)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.hessian_operator(lambda: None, [W]), "loss must return a scalar tensor"),
        (lambda: metrics.hessian_operator(lambda: 1.0, [W]), "loss must return a scalar tensor"),
        (lambda: metrics.hessian_operator(lambda: cubes() * math.nan, [W]), "loss must be finite"),
        (lambda: metrics.hessian_operator(lambda: cubes() * 1j, [W]), "loss must be a torch tensor of real numbers"),
        (lambda: metrics.hessian_operator(3, [W]), "loss must be a function"),
        (lambda: metrics.hessian_vector_product(cubes, [W], [1.0, 2.0]), "vector must be a torch tensor"),
        (lambda: metrics.hessian_vector_product(cubes, [W], np.ones(2)), "vector must be a torch tensor"),
        (
            lambda: metrics.hessian_vector_product(cubes, [W], torch.ones(2) * 1j),
            "vector must be a torch tensor of real",
        ),
        (lambda: metrics.hessian_vector_product(cubes, [W], torch.tensor([math.nan, 1.0])), "vector must be finite"),
        (lambda: metrics.sharpness(cubes, [W], tolerance=math.nan, rng=rng()), "tolerance must be a number"),
        (lambda: metrics.sharpness(cubes, [W], tolerance="a", rng=rng()), "tolerance must be a number"),
        (lambda: metrics.sharpness(cubes, [W], tolerance=None, rng=rng()), "tolerance must be a number"),
        (lambda: metrics.sharpness(cubes, [W], tolerance=-1.0, rng=rng()), "tolerance must be a number"),
        (lambda: metrics.jacobian(linear, WEIGHTS, BATCH * math.nan), "x must be finite"),
        (lambda: metrics.fisher_matrix(linear, WEIGHTS, BATCH * INF), "x must be finite"),
        (
            lambda: metrics.fisher_diagonal(linear, {"w": WEIGHTS["w"] * math.nan}, BATCH),
            r"parameters\['w'\] must be fini",
        ),
        (
            lambda: metrics.empirical_fisher_diagonal(linear, WEIGHTS, BATCH * 1j, None),
            "x must be a torch tensor of real",
        ),
        (lambda: metrics.jacobian(linear, WEIGHTS, BATCH.numpy()), "x must be a torch tensor"),
        (lambda: metrics.jacobian(linear, WEIGHTS, None), "x must be a torch tensor"),
        (lambda: metrics.jacobian(linear, None, BATCH), "parameters must be a dictionary"),
        (lambda: metrics.jacobian(linear, [WEIGHTS["w"]], BATCH), "parameters must be a dictionary"),
        (lambda: metrics.jacobian(linear, {"w": np.ones((2, 3))}, BATCH), r"parameters\['w'\] must be a torch tensor"),
        (
            lambda: metrics.jacobian(linear, {"w": torch.ones(2, 3).int()}, BATCH),
            "parameters must be of floating dtype",
        ),
        (
            lambda: metrics.jacobian(linear, {"w": torch.ones(2, 0)}, BATCH),
            "parameters must be of floating dtype and not",
        ),
        (lambda: metrics.jacobian(lambda p, x: None, WEIGHTS, BATCH), "model must return outputs .* got NoneType"),
        (lambda: metrics.jacobian(3, WEIGHTS, BATCH), "model must be a function"),
        (lambda: metrics.empirical_ntk(linear, WEIGHTS, BATCH, BATCH[:0]), "y must hold at least one example"),
        (lambda: metrics.empirical_ntk(linear, WEIGHTS, BATCH, BATCH.numpy()), "y must be a torch tensor"),
        (
            lambda: metrics.empirical_fisher_matrix(linear, WEIGHTS, BATCH, [0, 1, 2, 0]),
            "labels must be a torch tensor",
        ),
        (lambda: metrics.empirical_fisher_matrix(linear, WEIGHTS, BATCH, None), "labels must be a torch tensor"),
        (lambda: metrics.fisher_vector_product(linear, WEIGHTS, BATCH, torch.ones(6) * 1j), "vector must be a torch"),
        (lambda: metrics.fisher_vector_product(linear, WEIGHTS, BATCH, torch.ones(6) * INF), "vector must be finite"),
        (lambda: metrics.fisher_vector_product(linear, WEIGHTS, BATCH, np.ones(6)), "vector must be a torch tensor"),
    ],
)
def test_bad_input_of_derivatives(call, match):
    refused(call, match)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: geometry.Ellipsoid(b"ab"), "axes must be an array of real numbers"),
        (lambda: geometry.Ellipsoid("123"), "axes must be an array of real numbers"),
        (lambda: geometry.Ellipsoid({1.0, 2.0}), "axes must be an array of real numbers"),
        (lambda: geometry.Ellipsoid(np.array([1.0, 2.0 + 1j])), "axes must be an array of real numbers"),
        (lambda: geometry.Ellipsoid(np.ma.masked_array([1.0, 2.0], [0, 1])), "axes must be an array of real numbers"),
        (lambda: geometry.Sphere(2, radius="1"), "radius must be a number above 0"),
        (lambda: geometry.Sphere(True), "dimension must be a whole number"),
        (lambda: geometry.SwissRoll(start=np.ones(2)), "start must be a number at least 0"),
        (lambda: geometry.scalar_curvature(X[:18].reshape(3, 3, 6)), "form must be symmetric"),
        (lambda: geometry.largest_curvature(X[:18].reshape(3, 3, 6)), "form must be symmetric"),
        (lambda: geometry.estimate_reach(np.eye(3), np.zeros((3, 3, 0))), "tangents must have shape .* with d > 0"),
        (lambda: geometry.Parametrised(lambda u: np.ones((*u.shape[:-1], 2)), [(0, 1)]), "map must not be constant"),
        (lambda: geometry.Parametrised(3, [(0, 1)]), "map must be a function"),
        (lambda: geometry.Parametrised(circle, [(0, 1)], jacobian=3), "jacobian must be a function"),
        (lambda: geometry.Parametrised(circle, [(0, 1)], periodic="a"), "periodic must be"),
        (lambda: geometry.Parametrised(circle, [(0, 1)], periodic=True), "periodic must be 1 booleans"),
        (lambda: geometry.Parametrised(circle, [(0, 1)]).project([1e308, 0.0]), "x must be within 1e8 times"),
        (lambda: geometry.SwissRoll().project([1e200, 1e200, 0.0]), "x must be within 1e8 times"),
        (lambda: sampled(3), "density must be a function"),
        (lambda: sampled(lambda x: "a"), "density must be an array of real numbers"),
        (lambda: sampled(lambda x: None), "density must be an array of real numbers"),
    ],
)
def test_bad_input_of_geometry(call, match):
    refused(call, match)


@pytest.mark.parametrize(
    "manifold",
    [
        SPHERE,
        geometry.Torus(2),
        geometry.Stiefel(3, 2),
        geometry.SwissRoll(),
        geometry.LinearSubspace(np.eye(3)[:, :2]),
        geometry.Product(SPHERE, geometry.Sphere(1)),
    ],
    ids=lambda manifold: type(manifold).__name__,
)
def test_pairs_of_points_that_do_not_broadcast(manifold):
    x = manifold.project(np.random.default_rng(1).normal(size=(5, manifold.ambient_dimension)))
    refused(lambda: manifold.exponential(x, 0 * x[:4]), "x is .* and v is .*: their shapes do not broadcast")
    one = manifold.exponential(x[0], 0 * x)
    assert one.shape == x.shape and np.allclose(one, x[0])
    if not isinstance(manifold, geometry.Stiefel):
        refused(lambda: manifold.geodesic_distance(x, x[:4]), "x is .* and y is .*: their shapes do not broadcast")
        refused(lambda: manifold.logarithm(x, x[:4]), "x is .* and y is .*: their shapes do not broadcast")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: divergence_logits("klx", LOGITS, LOGITS), "no f-divergence is called 'klx'"),
        (lambda: divergence_logits(None, LOGITS, LOGITS), "None"),
        (lambda: divergence_logits("kl", LOGITS, LOGITS, temperature="1"), "temperature must be a number above 0"),
        (lambda: divergence_logits("kl", LOGITS, LOGITS, temperature=None), "temperature must be a number above 0"),
        (lambda: top_k_divergence_logits("kl", LOGITS, LOGITS, k=2.5), "k must be a whole number"),
        (lambda: top_k_divergence_logits("kl", LOGITS, LOGITS, k=4), "k must be at most 3"),
        (lambda: sampled_divergence_logits("kl", LOGITS, LOGITS, samples=1.5, rng=rng()), "samples must be a whole"),
        (lambda: fused_linear_divergence(**HEADS, kind=None), "None"),
        (lambda: fused_linear_divergence(**HEADS, chunk=1.5), "chunk must be a whole number"),
        (lambda: fused_linear_divergence(**HEADS | {"hidden_s": None}), "hidden_s must be a torch tensor"),
        (lambda: fused_linear_divergence(**HEADS | {"W_s": None}), "W_s must be a torch tensor"),
        (lambda: fused_linear_divergence(**HEADS | {"W_t": None}), "W_t must be a torch tensor"),
        (lambda: fused_linear_divergence(**HEADS | {"W_s": torch.tensor(1.0)}), r"W_s must be \(V, H\)"),
        (lambda: gaussian_pair_sums(LOGITS, LOGITS + 1, *torch.ones(2, 2), [1e-300]), "bandwidth 1e-300 is too small"),
    ],
)
def test_bad_input_of_kernels(call, match):
    refused(call, match)


def test_names_of_generators_are_accepted_by_kernels():
    p, q = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0))
    for name in ("kl", "js"):
        f = generator(name)
        assert torch.equal(divergence_logits(name, p, q), divergence_logits(f, p, q))
        assert torch.equal(top_k_divergence_logits(name, p, q, k=2), top_k_divergence_logits(f, p, q, k=2))
        drawn = (sampled_divergence_logits(g, p, q, samples=9, rng=rng()) for g in (name, f))
        assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: metrics.accuracy([BIG + 1], [BIG]), 0.0),
        (lambda: metrics.accuracy(torch.tensor([BIG + 1]), torch.tensor([BIG + 1])), 1.0),
        (lambda: metrics.accuracy([1.0, 0.0], [True, True]), 0.5),
        (lambda: metrics.group_accuracies([1, 0], [BIG + 1, BIG])[1].tolist(), [0.0, 1.0]),
        (lambda: metrics.group_accuracies([1, 0], [BIG + 1, BIG])[0].tolist(), [BIG, BIG + 1]),
        (lambda: metrics.expected_calibration_error([0.1, 0.9], [1, 1], norm=5000), 0.9 * 0.5 ** (1 / 5000)),
        (lambda: metrics.expected_calibration_error([0.1, 0.9], [1, 1], norm=1e300), 0.9),
        (lambda: metrics.expected_calibration_error([0.0, 1.0], [0, 1], norm=3), 0.0),
        (lambda: metrics.classwise_calibration_error([[0.1, 0.9], [0.1, 0.9]], [0, 0], norm=1e6), 0.9),
        (lambda: metrics.pinball_loss([INF], [0.0], level=0.1), INF),
        (lambda: metrics.pinball_loss([0.0], [-INF], level=0.1), INF),
        (lambda: metrics.pinball_loss([INF, 1.0], [INF, 0.0], level=0.1), 0.05),
        (lambda: metrics.mean_width([INF, 0.0], [INF, 2.0]), 1.0),
        (lambda: metrics.interval_score([INF], [INF], [INF], alpha=0.1), 0.0),
        (lambda: metrics.interval_score([0.0], [INF], [INF], alpha=0.1), INF),
        (lambda: metrics.aurc([0.1, 0.2], [INF, 0.0]), INF),
        (lambda: metrics.stable_rank(np.full((3, 2), 1e308)), 1.0),
        (lambda: metrics.effective_rank(np.full((3, 2), 1e308)), 1.0),
        (lambda: metrics.cka(X * 1e300, X), 1.0),
        (lambda: metrics.two_nn(X * 1e200), metrics.two_nn(X)),
        (lambda: metrics.two_nn(X * 1e-200), metrics.two_nn(X)),
        (lambda: metrics.levina_bickel(X * 1e200), metrics.levina_bickel(X)),
        (lambda: metrics.correlation_dimension(X * 1e200), metrics.correlation_dimension(X)),
        (lambda: metrics.local_pca_dimension(X * 1e200).tolist(), metrics.local_pca_dimension(X).tolist()),
        (lambda: metrics.sharpness(cubes, (w for w in [W]), rng=rng()).tolist(), [12.0]),
        (lambda: metrics.hessian_trace(cubes, (w for w in [W]), rng=rng()), (18.0, 0.0)),
        (lambda: metrics.sharpness(cubes, [W], tolerance=torch.tensor(0.0), rng=rng()).tolist(), [12.0]),
        (lambda: geometry.SwissRoll(start=0).start, 0.0),
        (lambda: abs(geometry.Sphere(1).exponential([1.0, 0.0], [0.0, 1e300])).max() <= 1, True),
    ],
)
@pytest.mark.filterwarnings("error")
def test_right_numbers(call, value):
    assert call() == pytest.approx(value, rel=1e-6)


def test_a_vector_takes_the_dtype_of_the_parameters():
    for dtype in (torch.float64, torch.int32):
        product = metrics.fisher_vector_product(linear, WEIGHTS, BATCH, torch.arange(6).to(dtype))
        assert product.dtype == torch.float32
        assert torch.equal(product, metrics.fisher_vector_product(linear, WEIGHTS, BATCH, torch.arange(6.0)))


def test_tied_quantiles_keep_their_gradient():
    quantile = torch.tensor([1.0, 2.0, 2.0, INF], requires_grad=True)
    metrics.pinball_loss(torch.tensor([1.0, 3.0, 1.0, INF]), quantile, level=0.75).backward()
    assert (quantile.grad * 4).tolist() == [-0.25, -0.75, 0.25, 0.0]


def test_far_points_are_projected_right_or_refused():
    ellipse = geometry.Parametrised(lambda u: circle(u) * [2.0, 1.0], [(0, 2 * np.pi)], periodic=[True])
    far = np.random.default_rng(3).normal(size=(50, 2))
    exact = geometry.Ellipsoid((2.0, 1.0)).project(1e7 * far)
    assert ellipse.project(1e7 * far) == pytest.approx(exact, abs=1e-10)
    refused(lambda: ellipse.project(1e15 * far), "x must be within 1e8 times the manifold's extent")
