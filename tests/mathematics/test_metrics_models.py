"""Curvature, tangent kernel, Fisher information, spectra, similarity, dimension: explicit matrices and known cases."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from porism import metrics
from porism.errors import ParameterError
from porism.testing.strategies import SmallModule, graphs, torch_modules


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# curvature


@pytest.fixture
def network():
    """A small network, its closure, its parameters and the Hessian by torch.func."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 2, (20,))
    parameters = dict(module.named_parameters())

    def flat_loss(vector):
        parts = torch.split(vector, [p.numel() for p in parameters.values()])
        given = {name: part.reshape(p.shape) for (name, p), part in zip(parameters.items(), parts, strict=True)}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(module, given, (x,)), y)

    flat = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    hessian = torch.func.hessian(flat_loss)(flat)
    return (lambda: torch.nn.functional.cross_entropy(module(x), y)), [*parameters.values()], hessian.numpy()


def test_products_and_eigenvalues_are_those_of_the_hessian(network):
    loss, parameters, hessian = network
    product = metrics.hessian_operator(loss, parameters)
    vector = torch.randn(len(hessian), dtype=torch.float64)
    assert product(vector).numpy() == pytest.approx(hessian @ vector.numpy(), abs=1e-12)
    assert torch.equal(product(vector), metrics.hessian_vector_product(loss, parameters, vector))
    values = np.linalg.eigvalsh(hessian)[::-1]
    for k in (1, 3, len(values)):
        assert metrics.sharpness(loss, parameters, k=k, rng=rng()) == pytest.approx(values[:k], abs=1e-6)


def test_trace_is_unbiased_and_its_error_is_right(network):
    loss, parameters, hessian = network
    trace, error = metrics.hessian_trace(loss, parameters, probes=2000, rng=rng())
    off = (hessian**2).sum() - (np.diag(hessian) ** 2).sum()
    assert error == pytest.approx((2 * off / 2000) ** 0.5, rel=0.15)
    assert abs(trace - np.trace(hessian)) < 4 * error


def test_spectral_density_has_the_moments_of_the_hessian(network):
    loss, parameters, hessian = network
    nodes, weights = metrics.spectral_density(loss, parameters, steps=20, probes=100, rng=rng())
    assert weights.sum() == pytest.approx(1, abs=1e-10)
    values = np.linalg.eigvalsh(hessian)
    assert nodes.min() >= values[0] - 1e-8 and nodes.max() == pytest.approx(values[-1], abs=1e-6)
    n = len(values)
    for power in (1, 2):
        moments = values**power
        # variance of v' M v for v uniform on the sphere
        variance = 2 / (n * (n + 2)) * ((moments**2).sum() - moments.sum() ** 2 / n) / 100
        assert abs(weights @ nodes**power - moments.mean()) < 4 * variance**0.5


def test_error_of_the_trace_is_that_of_a_mean_of_few():
    """The form s' H s of H = [[0, 1], [1, 0]] is 2 for equal signs and -2 for others."""
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    trace, error = metrics.hessian_trace(lambda: w[0] * w[1], [w], probes=3, rng=rng(1))
    signs = [2.0 * draws.integers(0, 2, 2) - 1 for draws in [rng(1)] for _ in range(3)]
    values = np.array([2 * s[0] * s[1] for s in signs])
    assert len(set(values)) == 2
    assert trace == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / 3**0.5)


def test_lanczos_keeps_its_vectors_orthogonal():
    """Without a second orthogonalisation the largest of eigenvalues that spread over sixteen orders comes back."""
    diagonal = torch.logspace(-16, 0, 60, dtype=torch.float64)
    w = torch.zeros(60, dtype=torch.float64, requires_grad=True)
    nodes, _ = metrics.spectral_density(lambda: (diagonal * w**2).sum() / 2, [w], steps=60, probes=1, rng=rng())
    found = nodes[nodes > 1e-10]
    assert found == pytest.approx(diagonal.numpy()[-len(found) :], rel=1e-4)


def test_one_lanczos_probe_is_a_gauss_quadrature():
    """It is exact in its own vector for polynomials up to degree 2 steps - 1."""
    diagonal = torch.linspace(-1, 3, 40, dtype=torch.float64)
    w = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    nodes, weights = metrics.spectral_density(lambda: (diagonal * w**2).sum() / 2, [w], steps=6, probes=1, rng=rng(3))
    start = rng(3).standard_normal(40)
    start /= np.linalg.norm(start)
    for degree in range(12):
        assert weights @ nodes**degree == pytest.approx(start**2 @ diagonal.numpy() ** degree, rel=1e-9)


def test_curvature_of_linear_losses_unused_parameters_and_float32():
    w, unused = torch.ones(30, requires_grad=True), torch.ones(2, requires_grad=True)
    assert metrics.sharpness(lambda: w.sum(), [w], k=2, rng=rng()).tolist() == [0, 0]
    assert metrics.hessian_trace(lambda: w.sum(), [w, unused], probes=2, rng=rng()) == (0, 0)
    scale = torch.arange(30.0)
    values = metrics.sharpness(lambda: (scale * w**2).sum() / 2, [unused, w], k=2, rng=rng())
    assert values == pytest.approx([29, 28], rel=1e-5)
    one = torch.ones((), requires_grad=True)
    assert metrics.sharpness(lambda: -(one**2), [one], rng=rng()).tolist() == [-2]
    nodes, weights = metrics.spectral_density(lambda: (w**2).sum(), [w], probes=1, rng=rng())
    assert nodes == pytest.approx([2]) and weights == pytest.approx([1])


# tangent kernel and Fisher information


@pytest.fixture
def model():
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 4)).double()
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    return (lambda p, x: torch.func.functional_call(module, p, (x,))), parameters, torch.randn(5, 2).double(), module


def explicit_jacobian(module, x):
    rows = []
    for example in module(x):
        for output in example:
            gradients = torch.autograd.grad(output, [*module.parameters()], retain_graph=True)
            rows.append(torch.cat([g.reshape(-1) for g in gradients]))
    return torch.stack(rows).reshape(len(x), -1, rows[0].numel())


def test_tangent_kernel_is_the_product_of_jacobians(model):
    function, parameters, x, module = model
    jacobian = explicit_jacobian(module, x)
    assert torch.allclose(metrics.jacobian(function, parameters, x), jacobian, atol=1e-12)
    kernel = metrics.empirical_ntk(function, parameters, x, x[:2])
    assert torch.allclose(kernel, torch.einsum("nkp,mlp->nmkl", jacobian, jacobian[:2]), atol=1e-12)
    assert torch.allclose(metrics.empirical_ntk(function, parameters, x)[:, :2], kernel, atol=1e-12)


MODULES = torch_modules(batch=(1, 3), width=(1, 3), outputs=(1, 3), dtype=torch.float64)


@given(MODULES)
def test_tangent_kernels_of_any_module_are_products_of_jacobians(drawn: SmallModule):
    """Shared layers, embeddings, attention and convolutions, and examples that are alike."""
    module, x, _ = drawn
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def function(p, x):
        return torch.func.functional_call(module, p, (x,))

    expected = explicit_jacobian(module, x)
    scale = 1 + float(expected.abs().max())
    assert torch.allclose(metrics.jacobian(function, parameters, x), expected, atol=1e-12 * scale)
    kernel = metrics.empirical_ntk(function, parameters, x)
    assert torch.allclose(kernel, torch.einsum("nkp,mlp->nmkl", expected, expected), atol=1e-11 * scale**2)


@given(MODULES)
def test_fisher_matrices_of_any_module_are_covariances_of_scores(drawn: SmallModule):
    """E over labels of the squared score: symmetric, not negative, and zero along what leaves the output alone."""
    module, x, _ = drawn
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def function(p, x):
        return torch.func.functional_call(module, p, (x,))

    fisher = metrics.fisher_matrix(function, parameters, x)
    outputs, jacobian = torch.softmax(module(x), -1).detach(), explicit_jacobian(module, x)
    metric = torch.diag_embed(outputs) - outputs[:, :, None] * outputs[:, None]
    expected = torch.einsum("nkp,nkl,nlq->pq", jacobian, metric, jacobian) / len(x)
    scale = 1 + float(expected.abs().max())
    assert torch.allclose(fisher, expected, atol=1e-11 * scale)
    assert float(torch.linalg.eigvalsh(fisher).min()) >= -1e-11 * scale * len(fisher)


def test_fisher_is_the_expected_outer_product(model):
    function, parameters, x, module = model
    p = torch.softmax(module(x), -1).detach()
    expected = torch.zeros(1)
    for i in range(5):
        for label in range(4):
            loss = -torch.log_softmax(module(x[i : i + 1]), -1)[0, label]
            g = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, [*module.parameters()])])
            expected = expected + p[i, label] * torch.outer(g, g) / 5
    fisher = metrics.fisher_matrix(function, parameters, x)
    assert torch.allclose(fisher, expected, atol=1e-12)
    diagonal = metrics.fisher_diagonal(function, parameters, x)
    assert torch.allclose(torch.cat([v.reshape(-1) for v in diagonal.values()]), expected.diagonal(), atol=1e-12)
    vector = torch.randn(len(expected), dtype=torch.float64)
    assert torch.allclose(metrics.fisher_vector_product(function, parameters, x, vector), expected @ vector, atol=1e-12)
    block = {name: value for name, value in parameters.items() if name.startswith("2.")}
    assert torch.allclose(metrics.fisher_matrix(function, block, x), expected[-16:, -16:], atol=1e-12)


def test_fisher_of_softmax_regression_is_its_closed_form():
    x = torch.tensor(rng().normal(size=(7, 3)))
    w = torch.tensor(rng(1).normal(size=(3, 4)))
    p = torch.softmax(x @ w, -1)
    closed = (
        sum(torch.kron(torch.outer(a, a), torch.diag(b) - torch.outer(b, b)) for a, b in zip(x, p, strict=True)) / 7
    )
    assert torch.allclose(metrics.fisher_matrix(lambda q, x: x @ q["w"], {"w": w}, x), closed, atol=1e-12)


def test_empirical_fisher_is_the_mean_outer_product_of_gradients(model):
    function, parameters, x, module = model
    labels = torch.tensor([0, 3, 1, 1, 2])
    expected = 0
    for i in range(5):
        loss = torch.nn.functional.cross_entropy(module(x[i : i + 1]), labels[i : i + 1])
        g = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, [*module.parameters()])])
        expected = expected + torch.outer(g, g) / 5
    assert torch.allclose(metrics.empirical_fisher_matrix(function, parameters, x, labels), expected, atol=1e-12)
    diagonal = metrics.empirical_fisher_diagonal(function, parameters, x, labels)
    assert torch.allclose(torch.cat([v.reshape(-1) for v in diagonal.values()]), expected.diagonal(), atol=1e-12)


# spectra and similarity


@pytest.mark.parametrize("shape", [(3, 3), (2, 5, 3), (2, 3, 5)])
def test_ranks_by_hand(shape):
    a = rng().normal(size=shape)
    values = np.linalg.svd(a, compute_uv=False)
    p = values / values.sum(-1, keepdims=True)
    assert metrics.effective_rank(a) == pytest.approx(np.exp(-(p * np.log(p)).sum(-1)), abs=1e-10)
    assert metrics.stable_rank(a) == pytest.approx((values**2).sum(-1) / values[..., 0] ** 2, abs=1e-10)
    for one in a.reshape(-1, *shape[-2:]):
        eigenvalues = np.linalg.eigvalsh(np.cov(one.T))
        expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
        assert float(metrics.participation_ratio(one)) == pytest.approx(expected, abs=1e-10)


@given(st.integers(1, 4), st.sampled_from([1e-150, 1.0, 1e150]))
def test_ranks_of_projections_are_their_ranks_at_any_scale(rank, scale):
    q = np.linalg.qr(rng(rank).normal(size=(6, rank)))[0]
    a = scale * q @ q.T
    assert float(metrics.effective_rank(a)) == pytest.approx(rank, rel=1e-10)
    assert float(metrics.stable_rank(a)) == pytest.approx(rank, rel=1e-10)
    assert 1 - 1e-9 <= float(metrics.participation_ratio(a)) <= rank + 1e-9


@given(graphs(nodes=(2, 6), connected=True, weighted=True), st.integers(0, 99))
def test_ranks_of_laplacians_are_those_of_the_graph(adjacency, seed):
    """Between 1 and n - 1, as constant functions are in the kernel, whatever the nodes are called."""
    laplacian = np.diag(adjacency.sum(axis=1)) - adjacency
    order = rng(seed).permutation(len(adjacency))
    for rank in (metrics.effective_rank, metrics.stable_rank):
        value = float(rank(laplacian))
        assert 1 - 1e-9 <= value <= len(adjacency) - 1 + 1e-6
        assert float(rank(laplacian[np.ix_(order, order)])) == pytest.approx(value, rel=1e-9)


@given(graphs(nodes=(2, 5), connected=True), graphs(nodes=(2, 5), connected=True))
def test_the_rank_of_two_graphs_is_that_of_their_parts(one, two):
    """Of a disjoint union: singular values are joined, so exp(H) mixes by their sums."""
    weights = np.array([np.linalg.svd(part, compute_uv=False).sum() for part in (one, two)])
    shares = weights / weights.sum()
    ranks = np.array([float(metrics.effective_rank(part)) for part in (one, two)])
    expected = np.exp(shares @ np.log(ranks) - shares @ np.log(shares))
    assert float(metrics.effective_rank(scipy.linalg.block_diag(one, two))) == pytest.approx(expected, rel=1e-9)


def test_spectral_gradients():
    a = torch.tensor(rng().normal(size=(2, 4, 3)), requires_grad=True)
    b = torch.tensor(rng(1).normal(size=(2, 4, 3)), requires_grad=True)
    for measure in (metrics.effective_rank, metrics.stable_rank, metrics.participation_ratio):
        assert torch.autograd.gradcheck(measure, (a,))
    for measure in (metrics.projection_distance, metrics.subspace_affinity):
        assert torch.autograd.gradcheck(measure, (a[..., :2], b[..., :2]))
    for measure in (metrics.kernel_alignment, metrics.centered_kernel_alignment):
        assert torch.autograd.gradcheck(measure, (a[0, :3], b[0, :3]))
    assert torch.autograd.gradcheck(metrics.cka, (a[0], b[0]))
    low = torch.diag(torch.tensor([1.0, 1.0, 0.0])).requires_grad_()
    metrics.effective_rank(low).backward()
    assert torch.isfinite(low.grad).all()
    metrics.projection_distance(a[0], a[0]).backward()
    assert torch.isfinite(a.grad).all()


@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1e-9, 0.1, 1.0]))
def test_subspaces_against_scipy(p, q, tilt):
    a = rng(p).normal(size=(6, p))
    b = np.concatenate([a, rng(9).normal(size=(6, 3))], axis=1)[:, :q] + tilt * rng(q).normal(size=(6, q))
    angles = scipy.linalg.subspace_angles(a, b)
    assert metrics.subspace_angles(a, b) == pytest.approx(angles, abs=1e-12)
    affinity = np.sqrt(np.mean(np.cos(angles) ** 2))
    assert float(metrics.subspace_affinity(a * 1e200, b)) == pytest.approx(affinity, abs=1e-10)
    if p == q:
        distance = np.sqrt(np.sum(np.sin(angles) ** 2))
        assert float(metrics.projection_distance(torch.tensor(a), torch.tensor(b))) == pytest.approx(distance, rel=1e-5)
        gap = scipy.linalg.orth(a) @ scipy.linalg.orth(a).T - scipy.linalg.orth(b) @ scipy.linalg.orth(b).T
        assert distance == pytest.approx(np.linalg.norm(gap) / 2**0.5, abs=1e-7)


def test_alignment_is_invariant_and_linear_cka_is_that_of_linear_kernels():
    x, y = rng().normal(size=(20, 3)), rng(1).normal(size=(20, 5))
    expected = float(metrics.centered_kernel_alignment(x @ x.T, y @ y.T))
    assert float(metrics.cka(x, y)) == pytest.approx(expected, abs=1e-12)
    q = np.linalg.qr(rng(2).normal(size=(3, 3)))[0]
    assert float(metrics.cka(3e150 * x @ q + 1e150, y)) == pytest.approx(expected, abs=1e-10)
    assert float(metrics.cka(x, x)) == pytest.approx(1, abs=1e-12)
    k, l = x @ x.T, y @ y.T
    cosine = (k * l).sum() / np.linalg.norm(k) / np.linalg.norm(l)
    assert float(metrics.kernel_alignment(k, l)) == pytest.approx(cosine, abs=1e-12)


# intrinsic dimension


def sphere(n, dimension, seed=0):
    points = rng(seed).normal(size=(n, dimension + 1))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def swiss_roll(n):
    t, height = 1.5 * np.pi * (1 + 2 * rng().uniform(size=n)), 20 * rng(1).uniform(size=n)
    return np.stack([t * np.cos(t), height, t * np.sin(t)], axis=1)


@pytest.mark.parametrize(
    ("cloud", "dimension"),
    [
        (np.pad(sphere(1500, 2), ((0, 0), (0, 4))), 2),
        (sphere(2000, 4), 4),
        (swiss_roll(2000), 2),
        (rng().normal(size=(2000, 1)) @ rng(1).normal(size=(1, 8)), 1),
        (rng().uniform(size=(2000, 3)) @ np.linalg.qr(rng(1).normal(size=(6, 3)))[0].T, 3),
    ],
)
def test_dimension_of_known_manifolds(cloud, dimension):
    assert metrics.two_nn(cloud) == pytest.approx(dimension, rel=0.1)
    assert metrics.levina_bickel(cloud, neighbours=10) == pytest.approx(dimension, rel=0.12)
    assert metrics.correlation_dimension(cloud, shares=(0.0005, 0.005)) == pytest.approx(dimension, rel=0.15)
    assert np.median(metrics.local_pca_dimension(cloud, neighbours=15, variance=0.9)) == dimension


def test_dimensions_are_their_formulas_on_few_points():
    """Distances to the first and second neighbour from the matrix of all."""
    cloud = rng(3).normal(size=(12, 2))
    ordered = np.sort(np.linalg.norm(cloud[:, None] - cloud, axis=-1), axis=1)[:, 1:]
    # F_i = i / n of the sorted ratios; discard = 0.25 keeps nine of twelve
    ratios = np.sort(np.log(ordered[:, 1] / ordered[:, 0]))[:9]
    tail = -np.log(1 - np.arange(1, 10) / 12)
    assert metrics.two_nn(cloud, discard=0.25) == pytest.approx(tail @ ratios / (ratios @ ratios))
    logs = np.log(ordered[:, [4]] / ordered[:, :4])  # j below k = 5
    assert metrics.levina_bickel(cloud, neighbours=5) == pytest.approx(1 / logs.mean())


def test_correlation_dimension_counts_all_pairs_at_a_radius():
    """Of 0, 1, 2, 3 on a line three pairs are at 1 and five within 2: ties at a radius count whole."""
    line = np.arange(4.0)[:, None]
    assert metrics.correlation_dimension(line, shares=(0.2, 0.8)) == pytest.approx(math.log(5 / 3) / math.log(2))


def test_local_dimension_counts_the_point_itself():
    """The corner (0, 0) and its neighbours (1, 0) and (0, 1) span a plane; these two alone a line."""
    corner = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [50.0, 50.0], [51.0, 50.0], [50.0, 51.0]]
    assert metrics.local_pca_dimension(corner, neighbours=2, variance=0.9).tolist() == [2] * 6


def test_dimension_is_invariant_under_motion_and_scale():
    cloud = sphere(300, 2)
    moved = 1e-3 * cloud @ np.linalg.qr(rng(5).normal(size=(3, 3)))[0] + 7
    for estimate in (metrics.two_nn, metrics.levina_bickel, metrics.correlation_dimension):
        assert estimate(moved) == pytest.approx(estimate(cloud), rel=1e-6)
        assert estimate(torch.tensor(cloud)) == estimate(cloud)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m: m.two_nn([[0.0], [0.0], [1.0]]), "distinct"),
        (lambda m: m.two_nn([[0.0], [1.0]]), "x must"),
        (lambda m: m.two_nn([0.0, 1.0, 2.0]), "x must"),
        (lambda m: m.two_nn([[0.0], [1.0], [3.0]], discard=1), "discard"),
        (lambda m: m.levina_bickel([[0.0], [1.0], [3.0]], neighbours=3), "neighbours"),
        (lambda m: m.local_pca_dimension([[0.0], [1.0], [math.inf]]), "x must"),
        (lambda m: m.correlation_dimension([[0.0], [1.0], [3.0]], shares=(0.5, 0.1)), "shares"),
        (lambda m: m.effective_rank([[0.0, 0.0]]), "matrix"),
        (lambda m: m.effective_rank([1.0]), "matrix"),
        (lambda m: m.stable_rank([[math.nan]]), "matrix"),
        (lambda m: m.participation_ratio([[1.0, 2.0], [1.0, 2.0]]), "rows that differ"),
        (lambda m: m.projection_distance([[1.0], [0.0]], [[1.0], [0.0], [0.0]]), "rows"),
        (lambda m: m.projection_distance(np.eye(3)[:, :1], np.eye(3)[:, :2]), "spans"),
        (lambda m: m.subspace_affinity(np.ones((3, 2)), np.eye(3)), "a must have linearly"),
        (lambda m: m.subspace_affinity(np.eye(3), np.zeros((3, 1))), "b must have linearly"),
        (lambda m: m.subspace_angles([[1.0]], [1.0]), "b must"),
        (lambda m: m.cka([[1.0], [1.0]], [[1.0], [2.0]]), "x must not"),
        (lambda m: m.cka([[1.0], [2.0]], [[1.0]]), "examples"),
        (lambda m: m.kernel_alignment([[1.0, 2.0]], [[1.0]]), "k must"),
        (lambda m: m.sharpness(lambda: W.sum(), [], rng=rng()), "parameters"),
        (lambda m: m.sharpness(lambda: W.sum(), [W.detach()], rng=rng()), "require a gradient"),
        (lambda m: m.sharpness(lambda: W * 1, [W], rng=rng()), "scalar"),
        (lambda m: m.sharpness(lambda: torch.zeros(()), [W], rng=rng()), "depend"),
        (lambda m: m.sharpness(lambda: W.sum(), [W], k=4, rng=rng()), "k must"),
        (lambda m: m.sharpness(lambda: W.sum(), [W, W], rng=rng()), "twice"),
        (lambda m: m.hessian_vector_product(lambda: W.sum(), [W], torch.ones(2)), "vector"),
        (lambda m: m.hessian_trace(lambda: W.sum(), [W], probes=1, rng=rng()), "probes"),
        (lambda m: m.spectral_density(lambda: W.sum(), [W], steps=0, rng=rng()), "steps"),
        (lambda m: m.jacobian(lambda p, x: x, {}, torch.ones(1, 1)), "parameters"),
        (lambda m: m.jacobian(lambda p, x: x[:, 0] * p["w"], {"w": torch.ones(())}, torch.ones(1, 1)), "model"),
        (lambda m: m.jacobian(LINEAR, {"w": torch.ones(1, 2)}, torch.ones(0, 1)), "x must"),
        (lambda m: m.fisher_vector_product(LINEAR, {"w": torch.ones(1, 2)}, torch.ones(1, 1), torch.ones(3)), "vector"),
        (
            lambda m: m.empirical_fisher_matrix(LINEAR, {"w": torch.ones(1, 2)}, torch.ones(1, 1), torch.tensor([2])),
            "labels",
        ),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ParameterError, match=named):
        call(metrics)


W = torch.ones(3, requires_grad=True)


def LINEAR(p, x):
    return x @ p["w"]


def test_importing_metrics_is_light_and_no_function_is_hidden_by_a_module():
    code = (
        "import sys, porism.metrics as m; "
        "assert not {'torch', 'scipy', 'sklearn'} & {*sys.modules}, 'heavy'; "
        "assert m.accuracy([1], [1]) == 1 and 'torch' not in sys.modules; "
        "assert all(callable(getattr(m, name)) for name in m.__all__ for _ in '12'); "
        "assert set(m.__all__) <= set(dir(m))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metrics.nothing  # noqa: B018
