"""What divergences, discrepancies and transport say to bad input, and their values where numbers are extreme."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy
import torch

from porism import arrays, discrepancies, divergences, transport
from porism.errors import ParameterError

d: Any = divergences
c: Any = discrepancies
t: Any = transport
P, Q = np.array([0.2, 0.8]), np.array([0.5, 0.5])
MASKED = np.ma.masked_array([0.2, 0.8, 9.0], mask=[False, False, True])
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 2)), RNG.normal(size=(30, 2)) + 0.5
COST = ((X[:, None] - Y[None]) ** 2).sum(-1)
GAUSSIANS = ([0.0], [[1.0]], [1.0], [[1.0]])
CORRELATED = np.full((3, 3), 0.9e308) + np.eye(3) * 0.1e308


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


BAD: list[tuple[str, Callable[[], Any]]] = [
    # arrays
    ("p must not be a masked array; fill or drop", lambda: d.kl_divergence(MASKED, MASKED)),
    (r"p must be an array of real numbers, got \['0.2'", lambda: d.kl_divergence(["0.2", "0.8"], Q)),
    ("p must be an array of real numbers, got b'0.5'", lambda: d.kl_divergence(b"0.5", Q)),
    ("p must be an array of real numbers, got None", lambda: d.kl_divergence(None, Q)),
    ("x must be an array of real numbers, got None", lambda: t.wasserstein_1d(None, Q)),
    ("log_ratio must be an array of real numbers, got None", lambda: d.k1(None)),
    ("score must be an array of real numbers, got None", lambda: c.kernel_stein_discrepancy(X, lambda x: None)),
    ("axis must be a whole number, got 0.5", lambda: d.kl_divergence(P, Q, axis=0.5)),
    ("axis must be a whole number, got None", lambda: d.kl_divergence(P, Q, axis=None)),
    ("axis must be a whole number, got '0'", lambda: d.js_divergence(P, Q, axis="0")),
    ("axis must be a whole number, got False", lambda: arrays.check_axis(False, p=P)),
    ("p must sum to 1 along axis -1 under weights, a sum is 0", lambda: d.tv_distance(P, Q, weights=[0.0, 0.0])),
    ("p sums to zero along axis -1 or overflows", lambda: d.tv_distance(0 * P, Q, normalize=True)),
    # weights
    ("x is 2 and weights is 1", lambda: d.generalised_kl(P, Q, weights=[[1.0], [2.0]])),
    ("x is 2 and weights is 3", lambda: d.itakura_saito(P, Q, weights=np.ones(3))),
    ("p is 2 and weights is 1", lambda: d.cauchy_schwarz_divergence(P, Q, weights=[[1.0], [2.0]])),
    ("intensity_p is 2 and weights is 1", lambda: d.point_process_kl(P, Q, weights=[[1.0], [2.0]])),
    ("p_weights must sum to 1", lambda: d.generator("kl").variational_bound(P, Q, p_weights=[1.0, 1.0])),
    # scalar parameters
    ("alpha must be a number, got '1'", lambda: d.alpha_divergence(P, Q, alpha="1")),
    ("weight must be a number, got None", lambda: d.generalised_js_divergence(P, Q, weight=None)),
    ("order must be a number at least 0, got '2'", lambda: d.renyi_divergence(P, Q, "2")),
    ("order must be a number above 0", lambda: d.gaussian_renyi(*GAUSSIANS, order=None)),
    ("order must be a number above 0", lambda: d.renyi_from_log_ratios(P, order=[1.0])),
    ("beta must be a number", lambda: d.beta_divergence(P, Q, beta="1")),
    ("beta must be nearer to 0", lambda: d.beta_divergence(P, Q, beta=1e300)),
    ("beta must be a number, got 'a'", lambda: d.generator("kl").link(P, beta="a")),
    ("confidence must be a number above 0 and below 1", lambda: d.mean_interval(P, confidence=None)),
    ("bounds must be two increasing", lambda: d.mean_interval(P, method="bernstein", bounds=0)),
    ("bounds must be two increasing", lambda: d.mean_interval(P, method="bernstein", bounds=(0, 1, 2))),
    ("the lower of bounds must be a number", lambda: d.mean_interval(P, method="bernstein", bounds=("0", "1"))),
    ("the variance of values must be", lambda: d.mean_interval([1e308, -1e308])),
    ("rate must be a number", lambda: d.donsker_varadhan_moving_average(P, Q, None, rate="1")),
    ("log_average must be a number", lambda: d.donsker_varadhan_moving_average(P, Q, math.nan)),
    ("bandwidth must be a number", lambda: d.gaussian_mmd_squared(*GAUSSIANS, bandwidth="1")),
    ("covariance over squared bandwidth", lambda: d.gaussian_mmd_squared(*GAUSSIANS, bandwidth=1e-170)),
    ("epsilon must be a number", lambda: d.gaussian_sinkhorn_divergence(*GAUSSIANS, epsilon="1")),
    ("smoothness must be a number", lambda: c.holder_ipm(X, Y, None)),
    ("ridge must be a number", lambda: c.restricted_chi2(X, Y, ridge="1")),
    ("p must be a number at least 1, got '2'", lambda: t.wasserstein_1d(P, Q, "2")),
    ("epsilon must be a number above 0", lambda: t.sinkhorn(COST, epsilon=[1.0])),
    ("tolerance must be a number at least 0", lambda: t.sinkhorn(COST, epsilon=1, tolerance=None)),
    ("unbalanced must be a number above 0", lambda: t.sinkhorn(COST, epsilon=1, unbalanced="1")),
    # counts
    ("k must be a whole number of at least 1, got 2.5", lambda: d.knn_entropy(X, k=2.5)),
    ("k must be a whole number of at least 1, got True", lambda: d.knn_kl(X, Y, k=True)),
    ("k must be a whole number", lambda: d.ksg_mutual_information(X, Y, k=torch.tensor(1.0))),
    ("algorithm must be at most 2", lambda: d.ksg_mutual_information(X, Y, algorithm=3)),
    ("iterations must be a whole number", lambda: t.sinkhorn(COST, epsilon=1, iterations=2.5)),
    ("max_iterations must be a whole number", lambda: t.exact_ot(COST, max_iterations=-1)),
    ("max_iterations must be a whole number", lambda: t.exact_ot(COST, max_iterations=math.nan)),
    ("starts must be a whole number", lambda: t.gromov_wasserstein(np.eye(3), np.eye(3), starts=1.5, rng=rng())),
    ("steps must be a whole number", lambda: t.max_sliced_wasserstein(X, Y, steps=-5, rng=rng())),
    ("projections must be a whole number", lambda: t.sliced_wasserstein(X, Y, projections=True, rng=rng())),
    ("projections must have shape", lambda: t.sliced_wasserstein(X, Y, projections=4.0, rng=rng())),
    ("projections must be real numbers", lambda: t.sliced_wasserstein(X, Y, projections=np.eye(2) + 1j)),
    ("projections must be an array of real", lambda: t.sliced_wasserstein(X, Y, projections="a")),
    ("projections must be an array of real", lambda: t.sliced_wasserstein(X, Y, projections=[["1", "0"]])),
    ("x_weights must have shape", lambda: t.max_sliced_wasserstein(X, Y, rng=rng(), x_weights=[1.0])),
    ("width must be a whole number", lambda: c.neural_ipm(X, Y, rng=rng(), width=2.5)),
    ("depth must be a whole number", lambda: c.neural_ipm(X, Y, rng=rng(), depth=None)),
    ("steps must be a whole number", lambda: c.neural_ipm(X, Y, rng=rng(), steps="a")),
    ("frequencies must be a whole number", lambda: c.holder_ipm_bound(X, Y, 1.0, rng=rng(), frequencies=1.5)),
    ("learning_rate must be a number above 0", lambda: c.neural_ipm(X, Y, rng=rng(), learning_rate=0)),
    ("learning_rate must be a number above 0", lambda: c.neural_ipm(X, Y, rng=rng(), learning_rate=-1)),
    ("learning_rate must be", lambda: c.holder_ipm_bound(X, Y, 1.0, rng=rng(), learning_rate=math.inf)),
    # generators of random numbers
    ("rng must be a numpy Generator", lambda: t.sliced_wasserstein(X, Y, rng=0)),
    ("rng must be a numpy Generator", lambda: t.gromov_wasserstein(np.eye(3), np.eye(3), starts=1, rng=1)),
    ("rng must be a numpy Generator", lambda: c.neural_ipm(X, Y, rng=np.random.RandomState(0))),
    ("rng must be a numpy Generator", lambda: c.holder_ipm_bound(X, Y, 1.0, rng=None)),
    # generators of divergences
    ("generator must be a Generator or a name", lambda: d.f_divergence(None, P, Q)),
    ("generator must be a Generator or a name", lambda: d.f_divergence(["kl"], P, Q)),
    ("generator must be a Generator or a name", lambda: d.f_divergence_logits(1, P, Q)),
    ("generator must be a Generator or a name", lambda: d.generator(None)),
    ("did you mean 'kl'", lambda: d.generator("KL")),
    ("did you mean 'kl'", lambda: d.f_divergence("KLD", P, Q)),
    ("there are kl, reverse_kl", lambda: d.generator("wasserstein")),
    ("f must be a function", lambda: d.Generator.from_sympy(3, name="mine")),
    ("must return a sympy expression, got None", lambda: d.Generator.from_sympy(lambda t: None, name="mine")),
    ("must return a sympy expression, got 't - 1'", lambda: d.Generator.from_sympy(lambda t: "t - 1", name="mine")),
    ("name must be a string", lambda: d.Generator.from_sympy(lambda t: t * sympy.log(t), name=None)),
    ("is a multiple of t - 1", lambda: d.Generator.from_sympy(lambda t: 2 * (t - 1), name="mine")),
    ("is a multiple of t - 1", lambda: d.Generator.from_sympy(lambda t: sympy.Integer(0), name="mine")),
    # infinities that cancel
    ("critic_p and critic_q must not hold infinities that", lambda: d.donsker_varadhan([math.inf], [math.inf])),
    ("critic_p and critic_q must not hold infinities that", lambda: d.donsker_varadhan([-math.inf], [-math.inf])),
    ("critic_p and critic_q must not hold", lambda: d.donsker_varadhan([math.inf, -math.inf], [0.0])),
    ("critic_p and critic_q must not hold", lambda: d.nguyen_wainwright_jordan([math.inf], [math.inf])),
    ("values must not hold infinities", lambda: d.self_normalised_expectation([math.inf, -math.inf], [0.0, 0.0])),
    ("t_p must not contain NaN", lambda: d.generator("kl").variational_bound([math.nan], [1.0])),
    ("t_p and t_q must not hold", lambda: d.generator("kl").variational_bound([math.inf], [math.inf])),
    # functions of the user
    ("potential must be a Potential", lambda: d.bregman_divergence("negative_entropy", P, Q)),
    ("potential must return shape", lambda: d.bregman_divergence(lambda x: x, P, Q, gradient=lambda x: x)),
    ("the value of potential must be an array", lambda: d.bregman_divergence(lambda x: None, torch.ones(2), torch.ones(2))),
    ("gradient must return shape", lambda: d.bregman_divergence(lambda x: x.sum(-1), P, Q, gradient=lambda x: x[:1])),
    ("gradient must be a function", lambda: d.bregman_divergence(lambda x: x.sum(-1), P, Q, gradient=1)),
    ("kernel must be a name or a function", lambda: c.mmd_squared(X, Y, kernel=3)),
    ("kernel must return shape", lambda: c.mmd_squared(X, Y, kernel=lambda x, y: np.ones(3))),
    ("the value of kernel must be finite", lambda: c.mmd_squared(X, Y, kernel=lambda x, y: x @ y.T * math.nan)),
    ("the value of kernel must be an array", lambda: c.mmd_squared(X, Y, kernel=lambda x, y: None)),
    # kernels
    ("bandwidth must be a number above 0", lambda: c.Laplace((-1.0,))),
    ("bandwidth must be a number above 0", lambda: c.Gaussian((math.nan,))),
    ("bandwidth must be a number above 0", lambda: c.Gaussian((0.0,))),
    ("bandwidth must be a number above 0", lambda: c.InverseMultiquadric((math.inf,))),
    ("bandwidths must be a tuple of numbers that is not empty", lambda: c.Gaussian(())),
    ("bandwidths must be a tuple of numbers", lambda: c.Gaussian(1.0)),
    ("exponent must be a number", lambda: c.InverseMultiquadric(exponent="a")),
    ("x and y must have shapes", lambda: c.Gaussian()(X, Y[:, :1])),
    ("x must be finite", lambda: c.Laplace()(X * math.nan, Y)),
    ("x is numpy and y is torch", lambda: c.Distance()(X, torch.tensor(Y))),
    ("x must be finite", lambda: c.Gaussian().gradient(X * math.nan, Y)),
    ("bandwidth must be a number", lambda: c.mmd_squared(X, Y, bandwidth=[[1.0, 2.0]])),
    ("bandwidth must be a number", lambda: c.mmd_squared(X, Y, bandwidth={"a": 1})),
    ("bandwidth must be a number", lambda: c.mmd_squared(X, Y, bandwidth=(1.0, "a"))),
    ("x must have shape", lambda: c.median_bandwidth(5.0)),
    ("x must have shape", lambda: c.median_bandwidth(np.ones((2, 2, 2)))),
    ("square of distance over bandwidth must be finite", lambda: c.cauchy_schwarz_squared(X, Y, bandwidth=1e-162)),
    ("the Stein kernel", lambda: c.kernel_stein_discrepancy(X, -X, bandwidth=1e-162)),
    ("p_features must be finite", lambda: c.restricted_chi2(X * math.nan, Y)),
    ("p_features must have shape", lambda: c.restricted_chi2(X[:0], Y)),
    ("second moments of q_features", lambda: c.restricted_chi2(X, Y * 1e300)),
    ("the spread of x and y", lambda: c.neural_ipm(X * 1e300, Y, rng=rng())),
    # costs
    ("x must be a floating tensor of shape", lambda: t.cost_matrix(torch.ones(4, 2))),
    ("x must be a floating tensor of shape", lambda: t.cost_matrix(X)),
    ("x must be a floating tensor of shape", lambda: t.cost_matrix(torch.ones(1, 4, 2, dtype=torch.int64))),
    ("x must be finite", lambda: t.cost_matrix(torch.ones(1, 4, 2) * math.nan)),
    ("x and y must have one dtype", lambda: t.cost_matrix(torch.ones(1, 4, 2), torch.ones(3, 4, 2))),
    ("x has points whose squared length overflows", lambda: t.entropic_ot(X * 1e160, Y, epsilon=1.0)),
    ("y has points whose squared length overflows", lambda: t.sinkhorn_divergence(X, Y * 1e160, epsilon=1.0)),
    ("epsilon must be at most 1e12 times the largest cost", lambda: t.sinkhorn(COST, epsilon=1e300)),
    ("epsilon must be at most 1e12 times the largest cost", lambda: t.sinkhorn_divergence(X, Y, epsilon=1e300)),
    ("the largest cost must be a number at most", lambda: t.sinkhorn(np.full((2, 2), 1e308), epsilon=1.0)),
    ("p must be smaller: powers 1e\\+06", lambda: t.exact_wasserstein(X, Y + 1, 1e6)),
    ("the product of the covariances' factors", lambda: d.gaussian_wasserstein_2(*2 * (np.zeros(3), CORRELATED))),
    ("the sum of p's parameters", lambda: d.beta_kl(1e308, 1e308, 1.0, 1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("named", "call"), BAD, ids=[f"{i}-{named}" for i, (named, _) in enumerate(BAD)])
def test_bad_input_is_named(named: str, call: Callable[[], Any]) -> None:
    with np.errstate(all="ignore"), pytest.raises(ParameterError, match=named):
        call()


def test_a_matrix_is_an_array() -> None:
    assert d.kl_divergence(np.matrix(P), np.matrix(Q)).tolist() == d.kl_divergence([P], [Q]).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_that_overflows_can_be_divided_by(dtype: Any) -> None:
    huge = np.full(2, np.finfo(dtype).max / 1.5, dtype)
    half = np.array([0.5, 0.5], dtype)
    assert float(d.kl_divergence(huge, half, normalize=True)) == 0
    assert float(d.kl_divergence(torch.tensor(huge), torch.tensor(half), normalize=True)) == 0
    assert float(t.wasserstein_1d([0.0, 1.0], [1.0], x_weights=huge, normalize=True)) == 0.5


@pytest.mark.parametrize("p", [1, 2, 8, 20, 30, 50, 100])
@pytest.mark.parametrize("n", [6, 30])
def test_exact_wasserstein_of_a_shift_is_the_shift(n: int, p: float) -> None:
    x = np.random.default_rng(0).normal(size=(n, 2)) * 0.1
    assert float(t.exact_wasserstein(x, x + 0.05, p)) == pytest.approx(0.05 * math.sqrt(2), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-300, 1e-16, 1e20, 1e300])
def test_exact_transport_does_not_depend_on_units(scale: float) -> None:
    assert float(t.exact_ot(COST * scale).value) / scale == pytest.approx(float(t.exact_ot(COST).value), rel=1e-9)
    expected = float(t.exact_wasserstein(X, Y))
    assert float(t.exact_wasserstein(X * scale, Y * scale)) / scale == pytest.approx(expected, rel=1e-9)


def test_one_forbidding_cost_does_not_hide_the_others() -> None:
    outlier = COST.copy()
    outlier[0, 0] = 1e30
    dear = COST.copy()
    dear[0, 0] = 1e6
    assert float(t.exact_ot(outlier).value) == pytest.approx(float(t.exact_ot(dear).value), rel=1e-9)
    assert float(t.exact_ot(np.full((2, 3), 1e308)).value) == pytest.approx(1e308)
    nearly = np.array([0.5 + 1e-12, 0.5 - 1e-12])
    assert float(t.exact_ot([[0.0, 1.0], [1.0, 0.0]], x_weights=nearly).value) == pytest.approx(1e-12, rel=1e-3)


def test_a_plan_that_is_not_proved_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from porism.transport import exact

    monkeypatch.setattr(exact, "_ROUNDS", 1)
    with pytest.raises(ParameterError, match="cost spans too many magnitudes"):
        t.exact_wasserstein(X / 10, X / 10 + 0.05, 50)


@pytest.mark.parametrize("scale", [1e-100, 1e-10, 1e-6, 1e6, 1e100])
def test_gromov_wasserstein_does_not_depend_on_units(scale: float) -> None:
    gaps = [np.linalg.norm(z[:, None] - z[None], axis=2) for z in (X, Y)]
    expected = float(t.gromov_wasserstein(*gaps).value)
    found = float(t.gromov_wasserstein(*(scale * gap for gap in gaps)).value)
    assert found / scale / scale == pytest.approx(expected, rel=1e-6)


def test_dudley_at_any_scale() -> None:
    w1 = float(t.exact_wasserstein(X, Y, 1))
    for scale in (1e-300, 1e-12, 1e-8):
        assert c.dudley_metric(X * scale, Y * scale) / scale == pytest.approx(w1, rel=1e-7)
    assert c.dudley_metric(X * 1e155, Y * 1e155) == pytest.approx(2)
    assert c.dudley_metric([0.0], [1e-9]) == pytest.approx(2e-9 / (2 + 1e-9), rel=1e-9)


@pytest.mark.parametrize("kernel", ["gaussian", "imq", "laplace", "energy"])
@pytest.mark.parametrize("backend", [np.asarray, torch.tensor])
@pytest.mark.parametrize("scale", [1e20, 1e-25])
def test_mmd_in_float32_does_not_depend_on_units(kernel: str, backend: Any, scale: float) -> None:
    x, y = X.astype(np.float32), Y.astype(np.float32)
    unit = np.float32(scale)
    found = float(c.mmd_squared(backend(x * unit), backend(y * unit), kernel=kernel))
    expected = float(c.mmd_squared(x, y, kernel=kernel)) * (scale if kernel == "energy" else 1)
    assert found == pytest.approx(expected, rel=1e-4)
    found = float(c.cauchy_schwarz_squared(backend(x * unit), backend(y * unit)))
    assert found == pytest.approx(float(c.cauchy_schwarz_squared(x, y)), rel=1e-4)


def test_extreme_bandwidths() -> None:
    for bandwidth in (1e-162, 1e160):
        assert float(c.mmd_squared(X, Y, bandwidth=bandwidth)) == pytest.approx(0, abs=1e-12)
    tiny = float(c.kernel_stein_discrepancy(X * 1e-20, -X * 1e20, bandwidth=1e-20))
    assert tiny == pytest.approx(float(c.kernel_stein_discrepancy(X, -X)) * 1e40)
    assert c.median_bandwidth(X * 1e300) == pytest.approx(c.median_bandwidth(X) * 1e300)
    assert float(d.gaussian_entropic_wasserstein_2(*GAUSSIANS, epsilon=1e155)) == pytest.approx(3)
    assert float(d.gaussian_mmd_squared(*GAUSSIANS, bandwidth=1e155)) == pytest.approx(0, abs=1e-15)


def test_large_shapes_do_not_cancel() -> None:
    for size in (1e10, 1e16, 1e17, 1e20, 1e100):
        # of a normal law of variance 1 / (8 size) from the uniform one
        expected = 0.5 * math.log(8 * size) - 0.5 * math.log(2 * math.pi * math.e)
        assert float(d.beta_kl(size, size, 1.0, 1.0)) == pytest.approx(expected, rel=1e-9)
        assert float(d.dirichlet_kl([size, size], [1.0, 1.0])) == pytest.approx(expected, rel=1e-9)
    assert float(d.gamma_kl(1e20, 1.0, 1e20 * (1 + 1e-9), 1.0)) == pytest.approx(50, rel=1e-6)
    assert float(d.gamma_kl(2.0, 1e308, 2.0, 1.0)) == pytest.approx(2 * math.log(1e308) - 2)
    assert float(d.gamma_kl(2.0, 1.0, 2.0, 1e308)) == math.inf


def test_gamma_and_dirichlet_kl_at_small_parameters_and_their_gradients() -> None:
    from scipy.special import digamma, gammaln

    a, b, r, s = 0.3, 20.0, 1.5, 0.2
    expected = (a - b) * digamma(a) - gammaln(a) + gammaln(b) + b * math.log(r / s) + a * (s - r) / r
    assert float(d.gamma_kl(a, r, b, s)) == pytest.approx(expected, rel=1e-12)
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, r, b, s)]
    assert torch.autograd.gradcheck(d.gamma_kl, leaves)
    p, q = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.3, 15.0, 2.0], [9.0, 0.5, 30.0]))
    assert torch.autograd.gradcheck(d.dirichlet_kl, (p, q))


def test_infinities_that_are_answers() -> None:
    assert d.k3([-math.inf, math.inf]).tolist() == [math.inf, math.inf]
    assert d.k3(torch.tensor([-math.inf])).tolist() == [math.inf]
    assert float(d.donsker_varadhan([math.inf], [0.0])) == math.inf
    assert float(d.donsker_varadhan([0.0], [math.inf])) == -math.inf
    assert float(d.cauchy_schwarz_divergence_logits([1e308, 0.0], [1e308, 0.0])) == 0


def test_huge_covariances() -> None:
    huge = np.eye(2) * 1e308
    assert float(d.gaussian_kl(np.zeros(2), huge, np.zeros(2), huge)) == 0
    assert float(d.gaussian_wasserstein_2(np.zeros(2), huge, np.zeros(2), huge)) == 0
    assert float(d.squared_mahalanobis([1e154, 0.0], [0.0, 0.0], huge)) == pytest.approx(1)
