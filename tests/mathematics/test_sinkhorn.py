"""Entropic transport: values, certificates, gradients, limits, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from porism.errors import ParameterError
from porism.kernels import sinkhorn as core
from porism.kernels._relaxation import Relaxation
from porism.transport import entropic_ot, sinkhorn, sinkhorn_divergence
from porism.transport._sinkhorn_certificate import certify
from porism.transport.costs import cost_matrix

EXACT: dict[str, Any] = {"iterations": 50_000, "tolerance": 1e-14}


def points(n: int = 7, m: int = 9, d: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two weighted samples, one point of the first without weight."""
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    if n > 1:
        a[1] = 0
        a /= a.sum()
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.5, a, b


def primal(plan: np.ndarray, cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float) -> float:
    """<C, P> + epsilon KL(P || a x b) of a plan of mass one."""
    product = a[:, None] * b
    used = plan > 0
    entropy = plan[used] * np.log(plan[used] / product[used])
    return float((cost * plan).sum() + epsilon * entropy.sum())


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [5.0, 0.5, 0.1])
def test_value_and_plan_are_those_of_pot_at_convergence(epsilon: float) -> None:
    x, y, a, b = points()
    a = np.full(7, 1 / 7)
    cost = ot.dist(x, y)
    plan = ot.sinkhorn(a, b, cost, epsilon, numItermax=100_000, stopThr=1e-15, method="sinkhorn_log", warn=False)
    ours = sinkhorn(cost, a, b, epsilon=epsilon, **EXACT)
    assert ours.value == pytest.approx(primal(plan, cost, a, b, epsilon), abs=1e-10)
    assert abs(ours.plan() - plan).max() < 1e-10
    linear = ot.sinkhorn2(a, b, cost, epsilon, numItermax=100_000, stopThr=1e-15, method="sinkhorn_log", warn=False)
    assert (cost * ours.plan()).sum() == pytest.approx(float(linear), abs=1e-10)


@pytest.mark.parametrize("rho", [0.3, (1.0, 4.0), (2.0, math.inf)])
def test_unbalanced_plan_is_that_of_pot(rho: float | tuple[float, float]) -> None:
    x, y, a, b = points()
    a, cost = np.full(7, 1 / 7), ot.dist(x, y)
    mass = 1.5 if rho != (2.0, math.inf) else 1.0
    plan = ot.unbalanced.sinkhorn_unbalanced(
        a, mass * b, cost, 0.5, rho, reg_type="kl", numItermax=100_000, stopThr=1e-15
    )
    ours = sinkhorn(cost, a, mass * b, epsilon=0.5, unbalanced=rho, **EXACT)
    assert abs(ours.plan() - plan).max() < 1e-10
    assert 0 <= ours.gap < 1e-10


def test_divergence_is_that_of_pot() -> None:
    x, y, _, b = points()
    epsilon, options = 0.7, {"numItermax": 100_000, "stopThr": 1e-15, "method": "sinkhorn_log", "warn": False}
    a = np.full(7, 1 / 7)
    parts = []
    for p, q, v, w in ((x, y, a, b), (x, x, a, a), (y, y, b, b)):
        cost = ot.dist(p, q)
        parts.append(primal(ot.sinkhorn(v, w, cost, epsilon, **options), cost, v, w, epsilon))
    ours = sinkhorn_divergence(x, y, a=a, b=b, epsilon=epsilon, **EXACT)
    assert ours.value == pytest.approx(parts[0] - parts[1] / 2 - parts[2] / 2, abs=1e-10)
    # POT's own debiased loss leaves the entropies out
    theirs = ot.bregman.empirical_sinkhorn_divergence(
        x, y, epsilon, a=a, b=b, numIterMax=100_000, stopThr=1e-15, warn=False
    )
    linear = [
        (ot.dist(p, q) * r.plan()).sum() for p, q, r in ((x, y, ours.cross), (x, x, ours.self_x), (y, y, ours.self_y))
    ]
    assert linear[0] - linear[1] / 2 - linear[2] / 2 == pytest.approx(float(theirs), abs=1e-7)


def test_divergence_is_that_of_geomloss_within_its_scaling_error() -> None:
    from geomloss import SamplesLoss

    x, y, _a, _b = (torch.from_numpy(v) for v in points(30, 40))
    epsilon = 0.5
    loss = SamplesLoss("sinkhorn", p=2, blur=math.sqrt(epsilon / 2), scaling=0.99, backend="tensorized")
    ours = sinkhorn_divergence(x, y, epsilon=epsilon, **EXACT).value
    assert float(ours) == pytest.approx(2 * float(loss(x, y)), rel=1e-2)


@pytest.mark.parametrize("rho", [None, 0.5, (0.5, math.inf), (math.inf, 0.5)])
def test_log_domain_and_products_agree(rho: Any) -> None:
    x, y, a, b = (torch.from_numpy(v)[None] for v in points(20, 12))
    problem = core.Problem(cost_matrix(x, y), a, b, (math.inf, math.inf) if rho is None else core_rho(rho))
    for epsilon in (1.0, 0.05):
        fast, slow = (
            core.solve(problem, epsilon, iterations=20_000, tolerance=1e-13, log_domain=log) for log in (False, True)
        )
        t = (slow.f - fast.f).mean() if rho is None else 0.0
        assert torch.allclose(fast.f + t, slow.f, atol=1e-10)
        assert torch.allclose(fast.g - t, slow.g, atol=1e-10)


def core_rho(rho: float | tuple[float, float]) -> tuple[float, float]:
    return rho if isinstance(rho, tuple) else (rho, rho)


def test_textbook_iterations() -> None:
    x, y, _, b = points(m=5)
    a, cost, epsilon = np.full(7, 1 / 7), ot.dist(x, y), 0.5
    g = np.zeros(5)
    for _ in range(3):
        f = -epsilon * np.log((b * np.exp((g - cost) / epsilon)).sum(1))
        g = -epsilon * np.log((a[:, None] * np.exp((f[:, None] - cost) / epsilon)).sum(0))
    ours = sinkhorn(cost, a, b, epsilon=epsilon, iterations=3, tolerance=0, accelerate=False)
    assert ours.iterations == 3 and not ours.converged
    assert ours.value == pytest.approx(a @ f + b @ g, abs=1e-12)


# --- the engines and their parts -----------------------------------------------------------------------------------


def dual_value(problem: core.Problem, epsilon: float, f: Tensor, g: Tensor) -> Tensor:
    """The certified lower bound at these potentials."""
    return certify(problem, epsilon, f, g).lower


@pytest.mark.parametrize("rho", [(math.inf, math.inf), (100.0, 400.0), (200.0, math.inf)])
@pytest.mark.parametrize("factor", [None, 1.5])
def test_both_engines_take_the_same_steps_and_measure_the_same_errors(rho: Any, factor: float | None) -> None:
    """Relaxed or not, also after a shift, and after the scalings were absorbed."""
    x, y, a, b = (torch.from_numpy(v)[None] for v in points(6, 8))
    # costs from 90 to 190 epsilon: the first scalings leave the soft limit of 70, never the hard one of 300
    cost = cost_matrix(x, y)
    cost = 90 + cost * (100 / float(cost.max()))
    problem, zero = core.Problem(cost, a, b, rho), torch.zeros_like
    relaxation = None if factor is None else torch.full((1, 1, 1), factor, dtype=torch.float64)
    engines = [engine(problem, 1.0, zero(a), zero(b)) for engine in (core._LogDomain, core._Scaling)]
    for number, shift in enumerate((None, None, torch.tensor([[0.3]], dtype=torch.float64), None)):
        for engine in engines:
            engine.shift(shift)
        slow, fast = (engine.run(2, relaxation) for engine in engines)
        assert number > 0 or torch.equal(engines[1].absorbed_f, engines[1].f)
        assert float(fast) == pytest.approx(float(slow), rel=1e-9)
        for name in ("f", "g", "exact_g"):
            torch.testing.assert_close(getattr(engines[1], name), getattr(engines[0], name), rtol=0, atol=1e-10)


def test_a_block_whose_scalings_leave_the_safe_range_is_repeated_in_the_log_domain() -> None:
    """K_01 underflows in float32, but the scalings would multiply it by exp(120): it must not count as zero."""
    cost = torch.tensor([[[60.0, 110.0], [0.0, 60.0]]])
    half = torch.full((1, 2), 0.5, dtype=torch.float64)
    engines = [
        engine(core.Problem(cost, half, half), 1.0, torch.zeros_like(half), torch.zeros_like(half))
        for engine in (core._LogDomain, core._Scaling)
    ]
    slow, fast = (engine.run(3, None) for engine in engines)
    assert float(fast) == pytest.approx(float(slow), abs=1e-6)
    torch.testing.assert_close(engines[1].f, engines[0].f, rtol=0, atol=1e-4)


def test_matrices_in_pieces_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that fill the cache only in part, and products without the transposed copy."""
    x, y, a, b = (torch.from_numpy(np.stack([v, v + 0.0])) for v in points(7, 5))
    problem = core.Problem(cost_matrix(x, y), a, b)
    whole = core.solve(problem, 0.5, iterations=30, tolerance=0.0)
    monkeypatch.setattr(core, "_BLOCK", 20)  # pieces of four rows: seven are one and a rest
    monkeypatch.setattr(core, "_TRANSPOSED", 0)
    parts = core.solve(problem, 0.5, iterations=30, tolerance=0.0)
    torch.testing.assert_close(parts.f, whole.f, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.g, whole.g, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rho", [(0.5, 2.0), (0.5, math.inf), (math.inf, 2.0)])
def test_the_shift_of_penalised_potentials_is_the_best_one(rho: tuple[float, float]) -> None:
    x, y, a, b = (torch.from_numpy(v)[None] for v in points(6, 8))
    problem = core.Problem(cost_matrix(x, y), a, 3 * b, rho)
    f, g = torch.linspace(0, 1, 6, dtype=torch.float64)[None], torch.linspace(1, -1, 8, dtype=torch.float64)[None]
    best = core._best_shift(problem, f, g)
    assert best is not None
    values = [float(dual_value(problem, 0.5, f + best + by, g - best - by)) for by in (-1e-2, 0.0, 1e-2)]
    assert values[1] > max(values[0], values[2])
    # at a maximum what differs between both sides is of third order in the step of 1e-2, what they share of second
    assert abs(values[0] - values[2]) < (2 * values[1] - values[0] - values[2]) / 10
    assert core._best_shift(core.Problem(problem.cost, a, b), f, g) is None


def test_first_stages_fall_to_epsilon_and_count_as_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[tuple[float, int]] = []

    class Recorded(core._Scaling):
        def run(self, count: int, relaxation: Tensor | None) -> Tensor:
            stages.append((self.epsilon, count))
            return super().run(count, relaxation)

    monkeypatch.setattr(core, "_Scaling", Recorded)
    x, y, a, b = (torch.from_numpy(v)[None] for v in points(8, 6))
    cost = cost_matrix(x, y)
    epsilon = float(cost.max()) * 1e-4  # the first stage is at 0.01 of the largest cost: 4^3 <= 100 < 4^4
    solved = core.solve(core.Problem(cost, a, b), epsilon, iterations=100, tolerance=0.0)
    assert [stage for stage, _ in stages[:4]] == pytest.approx([64 * epsilon, 16 * epsilon, 4 * epsilon, epsilon])
    assert sum(count for _, count in stages) == int(solved.iterations)


def test_textbook_iterations_of_a_sample_with_itself() -> None:
    """From f = 0: f <- (f + T f) / 2."""
    x, _, _, _ = points(5)
    cost, f = ot.dist(x, x), np.zeros(5)
    for count in (1, 2, 3):
        f = (f - 0.5 * np.log(np.exp((f - cost) / 0.5).mean(1))) / 2
        ours = sinkhorn_divergence(x, x, epsilon=0.5, iterations=count, tolerance=0, accelerate=False)
        np.testing.assert_allclose(ours.self_x.f, f, atol=1e-12)


def test_without_acceleration_a_tolerance_below_rounding_is_kept() -> None:
    """With it, a tolerance is at least eight roundings of the dtype: there is nothing left to gain."""
    x, y, _, _ = (v.astype(np.float32) for v in points())
    rounding = 8 * float(np.finfo(np.float32).eps)
    fine, coarse = (
        sinkhorn(ot_dist(x, y), epsilon=0.3, iterations=1000, tolerance=tolerance, accelerate=False)
        for tolerance in (rounding / 8, rounding)
    )
    assert fine.converged and fine.iterations > coarse.iterations


@pytest.mark.parametrize("factor", [1.0, 1.2, 1.4])
def test_relaxation_reads_the_best_factor_off_the_rate_of_any(factor: float) -> None:
    """Young: at a factor w below the best one, the root s of the rate solves s^2 - w mu s + w - 1 = 0."""
    mu = math.sqrt(0.9)
    root = (factor * mu + math.sqrt(factor**2 * mu**2 - 4 * (factor - 1))) / 2
    relaxation = Relaxation(1, torch.empty(1, dtype=torch.float64))
    relaxation.factor.fill_(factor)
    relaxation.error.fill_(1.0)
    found = relaxation.update(torch.tensor([root**20], dtype=torch.float64), 10)
    assert float(found) == pytest.approx(2 / (1 + math.sqrt(1 - mu**2)), rel=1e-9)


def test_relaxation_gives_up_where_the_error_grows() -> None:
    relaxation = Relaxation(1, torch.empty(1, dtype=torch.float64))
    for error in (1.0, 0.5):
        relaxation.update(torch.tensor([error], dtype=torch.float64), 10)
    bound = float(relaxation.bound)
    for error in (100.0, math.inf):
        assert float(relaxation.update(torch.tensor([error], dtype=torch.float64), 10)) == 1
        assert float(relaxation.bound) == pytest.approx((1 + bound) / 2)
        bound = float(relaxation.bound)


# --- small epsilon, extreme numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_epsilon_is_finite_and_certified(scale: float, dtype: torch.dtype) -> None:
    x, y, a, b = points(30, 40, 3)
    cost = torch.from_numpy(ot.dist(x, y)).to(dtype)
    epsilon = scale * float(cost.max())
    ours = sinkhorn(
        cost, torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype), epsilon=epsilon, iterations=3000
    )
    fields = (ours.value, ours.gap, ours.f, ours.g, ours.plan(), ours.marginal_error)
    assert all(bool(torch.isfinite(field).all()) for field in fields)
    exact = sinkhorn(cost.double(), torch.from_numpy(a), torch.from_numpy(b), epsilon=epsilon, **EXACT)
    assert ours.value <= exact.value + exact.gap + 1e-6
    assert ours.value + ours.gap >= exact.value - 1e-6
    assert ours.gap < 0.02 * float(cost.mean())


def test_float32_is_as_exact_as_its_costs() -> None:
    x, y, _a, _b = points(40, 50, 3)
    cost = ot.dist(x, y).astype(np.float32)
    for epsilon in (1.0, 0.1):
        single = sinkhorn(cost, epsilon=epsilon, tolerance=1e-6, iterations=5000)
        double = sinkhorn(cost.astype(np.float64), epsilon=epsilon, **EXACT)
        assert single.value.dtype == np.float32
        assert single.value == pytest.approx(double.value, rel=3e-7)
        assert abs(single.plan() - double.plan()).max() < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smallest", [1e-12, 1e-35, 1e-300])
def test_tiny_weights(smallest: float, dtype: Any) -> None:
    x, y, a, b = points(6, 6)
    a[0] = b[2] = smallest
    a, b = (a / a.sum()).astype(dtype), (b / b.sum()).astype(dtype)
    for epsilon in (1.0, 0.01):
        ours = entropic_ot(x.astype(dtype), y.astype(dtype), a=a, b=b, epsilon=epsilon, iterations=3000)
        assert np.isfinite([ours.value, ours.gap, *ours.f, *ours.g]).all()
        assert ours.gap < 1e-4


@pytest.mark.parametrize("rho", [1e-3, 1e-1, 1e2])
@pytest.mark.parametrize("epsilon", [1e-3, 1.0])
def test_unbalanced_extremes_in_float32(rho: float, epsilon: float) -> None:
    x, y, a, b = (v.astype(np.float32) for v in points(20, 25))
    ours = entropic_ot(x, y, a=a, b=2 * b, epsilon=epsilon, unbalanced=rho, iterations=5000)
    exact = entropic_ot(
        *(v.astype(float) for v in (x, y)),
        a=a.astype(float),
        b=2 * b.astype(float),
        epsilon=epsilon,
        unbalanced=rho,
        **EXACT,
    )
    assert ours.value == pytest.approx(exact.value, rel=1e-4, abs=1e-5)
    assert np.isfinite(ours.f).all() and 0 <= ours.gap < 1e-2


def test_large_numbers_and_one_point() -> None:
    far = sinkhorn(np.full((3, 4), 1e150), epsilon=1.0)
    assert far.value == pytest.approx(1e150) and far.gap <= 1e-10 * 1e150
    assert float(entropic_ot(np.zeros((1, 2)), np.ones((1, 2)), epsilon=1e-3).value) == 2.0


def test_forbidden_pairs() -> None:
    cost = np.array([[0.0, np.inf], [1.0, 2.0]])
    ours = sinkhorn(cost, np.array([0.3, 0.7]), np.array([0.5, 0.5]), epsilon=0.5, **EXACT)
    plan = ours.plan()
    assert plan[0, 1] == 0 and abs(plan.sum(1) - [0.3, 0.7]).max() < 1e-12
    assert ours.value == pytest.approx(
        primal(plan, np.where(np.isinf(cost), 0, cost), np.array([0.3, 0.7]), np.array([0.5, 0.5]), 0.5)
    )
    blocked = sinkhorn(cost, np.array([0.7, 0.3]), np.array([0.5, 0.5]), epsilon=0.5, iterations=50)
    assert np.isinf(blocked.gap) and not blocked.converged


# --- certificates and properties -----------------------------------------------------------------------------------


def test_the_upper_bound_is_that_of_the_plan_made_feasible() -> None:
    """Of mass t P' + (1 - t) R, by convexity: t F(P' / t) + (1 - t) F(R), with F the primal value."""
    x, y, _, b = points(6, 8)
    a, cost = np.full(6, 1 / 6), ot.dist(x, y)
    ours = sinkhorn(cost, a, b, epsilon=0.3, iterations=2, tolerance=0, accelerate=False)
    plan = ours.plan()
    plan = plan * np.minimum(1, a / plan.sum(1))[:, None]
    plan = plan / max(1, (plan.sum(0) / b).max())
    missing_a, missing_b, mass = a - plan.sum(1), b - plan.sum(0), plan.sum()
    assert 1 - mass > 1e-3  # far from feasible, so that the second part matters
    rest = np.outer(missing_a, missing_b) / (1 - mass) ** 2
    bound = mass * primal(plan / mass, cost, a, b, 0.3) + (1 - mass) * primal(rest, cost, a, b, 0.3)
    assert ours.value + ours.gap == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize("rho", [0.3, (1.0, 4.0), (math.inf, 0.5)])
def test_marginal_error_of_penalised_marginals_is_the_distance_to_their_optimality(rho: Any) -> None:
    x, y, a, b = points()
    ends = core_rho(rho)
    for iterations in (3, 20_000):
        ours = sinkhorn(ot.dist(x, y), a, b, epsilon=0.5, unbalanced=rho, iterations=iterations, tolerance=1e-14)
        rows, columns = ours.plan().sum(1), ours.plan().sum(0)
        expected = abs(rows - a * np.exp(-ours.f / ends[0])).sum() + abs(columns - b * np.exp(-ours.g / ends[1])).sum()
        assert ours.marginal_error == pytest.approx(expected, abs=1e-12)
    assert ours.marginal_error < 1e-12


def test_bounds_of_the_divergence_are_made_of_the_gaps_of_its_parts() -> None:
    """S >= value - (gaps of both samples with themselves) / 2, and S <= value + gap of the cross term."""
    x, y, a, b = points(6, 8)
    exact = sinkhorn_divergence(x, y, a=a, b=b, epsilon=0.1, iterations=2000, tolerance=1e-10).value
    for iterations in (1, 3):
        ours = sinkhorn_divergence(x, y, a=a, b=b, epsilon=0.1, iterations=iterations, tolerance=0, accelerate=False)
        assert ours.self_x.gap > 1e-7  # far above the tolerance of what follows
        assert ours.lower == pytest.approx(ours.value - (ours.self_x.gap + ours.self_y.gap) / 2, abs=1e-12)
        assert ours.upper == pytest.approx(ours.value + ours.cross.gap, abs=1e-12)
        assert ours.lower - 1e-12 <= exact <= ours.upper + 1e-12


def test_weights_whose_sum_is_one_but_for_rounding_are_normalised() -> None:
    x, y, a, b = points()
    options: dict[str, Any] = {"epsilon": 0.5, **EXACT}
    want = entropic_ot(x, y, a=a, b=b, **options)
    ours = entropic_ot(x, y, a=a * (1 + 5e-7), b=b * (1 - 5e-7), **options)
    assert ours.converged and ours.value == pytest.approx(want.value, abs=1e-12)


def test_squared_distances_keep_their_digits_far_from_the_origin() -> None:
    """Their error is some float32 roundings (6e-8) of the squared diameter, wherever the points lie."""
    x, y, _, _ = points(20, 30, 3)
    far_x, far_y = (torch.from_numpy(v + 1000).float()[None] for v in (x, y))
    for other in (far_y, None):
        exact = ot_dist(far_x.double().numpy(), (far_x if other is None else other).double().numpy())
        assert abs(cost_matrix(far_x, other).numpy() - exact).max() < 1e-5 * exact.max()
    assert bool((cost_matrix(far_x).diagonal(dim1=1, dim2=2) == 0).all())


@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    log_epsilon=st.floats(-4, 2),
    iterations=st.integers(1, 30),
    zeros=st.booleans(),
    rho=st.sampled_from([None, 0.3, 20.0, (1.0, math.inf), (math.inf, 0.2)]),
    single=st.booleans(),
)
def test_the_optimum_lies_in_the_certified_interval(
    seed: int, sizes: tuple[int, int], log_epsilon: float, iterations: int, zeros: bool, rho: Any, single: bool
) -> None:
    rng = np.random.default_rng(seed)
    n, m = sizes
    cost = rng.exponential(size=(n, m)).astype(np.float32 if single else float)
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    if zeros:
        a[rng.integers(n) :] *= n == 1
        b[: rng.integers(m)] = 0
        a[0] += 0.1
        b[-1] += 0.1
        a, b = a / a.sum(), b / b.sum()
    options = {"epsilon": math.exp(log_epsilon), "unbalanced": rho}
    rough = sinkhorn(cost, a.astype(cost.dtype), b.astype(cost.dtype), iterations=iterations, tolerance=0.0, **options)
    wide = [w.astype(cost.dtype).astype(float) for w in (a, b)]
    if rho is None:
        wide = [w / w.sum() for w in wide]
    exact = sinkhorn(cost.astype(float), *wide, iterations=4000, tolerance=1e-12, **options)
    slack = 1e-12 * (1 + abs(float(exact.value)))
    assert rough.gap >= 0 and exact.gap >= 0
    assert float(rough.value) <= exact.value + exact.gap + slack
    assert float(rough.value) + float(rough.gap) >= exact.value - slack
    low, high = float(rough.value), float(rough.value) + float(rough.gap)
    if rho is None:
        plan = exact.plan().clip(0)
        assert low - slack <= primal(plan, cost.astype(float), *wide, options["epsilon"]) + 1e-6 and high >= low


@given(seed=st.integers(0, 10_000), epsilon=st.floats(0.02, 10), equal=st.booleans())
def test_divergence_is_nonnegative_and_zero_for_equal_measures(seed: int, epsilon: float, equal: bool) -> None:
    x, y, a, b = points(6, 8, seed=seed)
    if equal:
        y, b = x[::-1].copy(), a[::-1].copy()
    ours = sinkhorn_divergence(x, y, a=a, b=b, epsilon=epsilon, iterations=3000, tolerance=1e-10)
    assert ours.lower - 1e-12 <= ours.value <= ours.upper + 1e-12
    assert ours.upper >= -1e-12 and ours.value >= -ours.gap - 1e-12
    if equal:
        assert abs(ours.value) <= ours.gap + 1e-12
    else:
        assert ours.lower > 0


def test_unbalanced_divergence_of_unequal_masses() -> None:
    x, y, a, b = points(6, 8)
    for epsilon, rho in ((10.0, 0.1), (0.5, 1.0)):
        options: dict[str, Any] = {"epsilon": epsilon, "unbalanced": rho, **EXACT}
        ours = sinkhorn_divergence(x, y, a=a, b=3 * b, **options)
        parts = (
            entropic_ot(*p, a=v, b=w, **options).value
            for *p, v, w in ((x, y, a, 3 * b), (x, x, a, a), (y, y, 3 * b, 3 * b))
        )
        cross, self_x, self_y = parts
        assert ours.value == pytest.approx(cross - self_x / 2 - self_y / 2 + epsilon / 2 * (1 - 3) ** 2, abs=1e-9)
        assert ours.lower - 1e-12 <= ours.value <= ours.upper + 1e-12 and ours.lower > 0
        assert sinkhorn_divergence(x, x, a=a, b=a, **options).value == pytest.approx(0, abs=1e-9)


@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50), scale=st.floats(0.1, 10))
def test_translation_scaling_and_permutation(seed: int, shift: float, scale: float) -> None:
    x, y, a, b = points(6, 5, seed=seed)
    options: dict[str, Any] = {"iterations": 3000, "tolerance": 1e-12}
    base = entropic_ot(x, y, a=a, b=b, epsilon=0.5, **options)
    moved = entropic_ot(scale * x + shift, scale * y + shift, a=a, b=b, epsilon=0.5 * scale**2, **options)
    assert moved.value == pytest.approx(scale**2 * base.value, rel=1e-8, abs=1e-8)
    p, q = np.random.default_rng(seed).permutation(6), np.random.default_rng(seed).permutation(5)
    other = entropic_ot(x[p], y[q], a=a[p], b=b[q], epsilon=0.5, **options)
    assert other.value == pytest.approx(base.value, abs=1e-9)
    assert abs(other.plan() - base.plan()[p][:, q]).max() < 1e-8
    assert abs(other.f - base.f[p]).max() < 1e-6
    lifted = sinkhorn(ot.dist(x, y) + shift, a, b, epsilon=0.5, **options)
    assert lifted.value == pytest.approx(base.value + shift, abs=1e-8)


def test_limits_of_epsilon() -> None:
    x, y, a, b = points(8, 6)
    cost = ot.dist(x, y)
    exact = ot.emd2(a, b, cost)
    near = sinkhorn(cost, a, b, epsilon=2e-3, iterations=4000)
    assert exact - 1e-9 <= near.value + near.gap and near.value <= exact + 2e-3 * math.log(8 * 6)
    far = sinkhorn_divergence(x, y, a=a, b=b, epsilon=1e6, **EXACT).value
    mmd = a @ cost @ b - a @ ot.dist(x, x) @ a / 2 - b @ ot.dist(y, y) @ b / 2
    assert far == pytest.approx(mmd, rel=1e-5)
    values = [
        sinkhorn(cost, a, b, epsilon=e, iterations=5000, tolerance=1e-10).value for e in np.geomspace(0.02, 100, 12)
    ]
    assert (np.diff(values) > 0).all()
    assert values[-1] <= a @ cost @ b + 1e-12


def test_marginals_and_potentials() -> None:
    x, y, a, b = points()
    ours = entropic_ot(x, y, a=a, b=b, epsilon=0.3, **EXACT)
    plan = ours.plan()
    assert abs(plan.sum(1) - a).sum() < 1e-12 and abs(plan.sum(0) - b).sum() < 1e-12
    assert a @ ours.f == pytest.approx(b @ ours.g) and a @ ours.f + b @ ours.g == pytest.approx(ours.value)
    assert ours.marginal_error < 1e-12 and ours.converged


def test_batch_is_loop() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 10, 2)), rng.normal(size=(3, 12, 2)) * rng.uniform(0.1, 3, size=(3, 1, 1))
    a = rng.dirichlet(np.ones(10), size=(2, 3))
    options: dict[str, Any] = {"epsilon": 0.2, "iterations": 5000, "tolerance": 1e-11}
    batch = sinkhorn_divergence(x, y, a=a, **options)
    whole = sinkhorn(ot_dist(x, y), a, epsilon=0.2, iterations=5000, tolerance=1e-6)
    assert (
        batch.value.shape == (2, 3) and batch.cross.f.shape == (2, 3, 10) and batch.cross.plan().shape == (2, 3, 10, 12)
    )
    for i in np.ndindex(2, 3):
        alone = sinkhorn_divergence(x[i], y[i[1]], a=a[i], **options)
        assert batch.value[i] == pytest.approx(alone.value, abs=1e-9)
        assert abs(batch.cross.plan()[i] - alone.cross.plan()).max() < 1e-9
    assert len(set(whole.iterations.ravel())) > 1 and whole.converged.all()


def ot_dist(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)


def test_inputs_of_any_layout() -> None:
    x, y, _, _ = points(8, 6)
    want = entropic_ot(x, y, epsilon=1.0).value
    frozen = x.copy()
    frozen.setflags(write=False)
    assert entropic_ot(frozen, np.asfortranarray(y), epsilon=1.0).value == pytest.approx(want)
    assert entropic_ot(x[::-1], y.tolist(), epsilon=1.0).value == pytest.approx(want)
    half = entropic_ot(torch.from_numpy(x).bfloat16(), torch.from_numpy(y).bfloat16(), epsilon=1.0).value
    assert half.dtype == torch.float32 and float(half) == pytest.approx(want, rel=0.05)
    assert entropic_ot(torch.from_numpy(x).half(), torch.from_numpy(y).half(), epsilon=1).value.dtype == torch.float32


# --- gradients -----------------------------------------------------------------------------------------------------

Function = Callable[..., Any]


def gradient_inputs() -> tuple[Tensor, ...]:
    x, y, _, _ = points(4, 5)
    leaves = (x, y, np.linspace(-1, 1, 4), np.linspace(0.5, -0.5, 5))
    return tuple(torch.tensor(v, requires_grad=True) for v in leaves)


@pytest.mark.parametrize("gradient", ["implicit", "unroll"])
@pytest.mark.parametrize("rho", [None, (1.0, 2.0), (1.0, math.inf), (math.inf, 0.7)])
def test_gradients_of_value_potentials_and_plan(gradient: Any, rho: Any) -> None:
    def everything(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        a, b = (a.softmax(0), b.softmax(0)) if rho is None else (a.exp(), b.exp())
        solved = entropic_ot(
            x, y, a=a, b=b, epsilon=1.0, unbalanced=rho, gradient=gradient, iterations=400, tolerance=1e-15
        )
        return solved.value, solved.f, solved.g, solved.plan()

    assert torch.autograd.gradcheck(everything, gradient_inputs(), fast_mode=True)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", lambda x, y: torch.cdist(x, y, p=1)])
def test_gradients_of_the_divergence(cost: Any) -> None:
    def divergence(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        options: dict[str, Any] = {"epsilon": 0.5, "iterations": 3000, "tolerance": 1e-15, "cost": cost}
        return sinkhorn_divergence(x, y, a=a.softmax(0), b=b.softmax(0), **options).value

    assert torch.autograd.gradcheck(divergence, gradient_inputs())


def test_gradient_in_the_cost_is_the_plan_and_both_ways_agree() -> None:
    x, y, a, b = (torch.from_numpy(v) for v in points())
    grads = []
    for gradient in ("implicit", "unroll"):
        cost, wa, wb = (
            cost_matrix(x[None], y[None])[0].requires_grad_(),
            a.clone().requires_grad_(),
            b.clone().requires_grad_(),
        )
        solved = sinkhorn(cost, wa, wb, epsilon=0.5, gradient=gradient, iterations=3000, tolerance=1e-14)
        grads.append(torch.autograd.grad(solved.value, (cost, wa, wb)))
        assert torch.allclose(grads[-1][0], solved.plan(), atol=1e-10)
    for first, second in zip(*grads, strict=True):
        constant = (first - second).mean() if first.ndim == 1 else 0.0  # directions of sum zero do not see it
        assert torch.allclose(first, second + constant, atol=1e-8)


@pytest.mark.parametrize("rho", [None, 0.7])
def test_unrolled_batches_run_until_the_last_problem_has_converged(rho: Any) -> None:
    """A wide and a narrow problem in one batch, and the terms of a sample with itself."""
    x, y, _, _ = (torch.from_numpy(v) for v in points(5, 6))
    batch_x = torch.stack([0.1 * x, x]).requires_grad_()
    options: dict[str, Any] = {"epsilon": 0.5, "unbalanced": rho, "iterations": 3000, "tolerance": 1e-12}
    unrolled, implicit = (
        sinkhorn_divergence(batch_x, torch.stack([0.1 * y, y]), gradient=gradient, **options)  # type: ignore[arg-type]
        for gradient in ("unroll", "implicit")
    )
    assert bool((unrolled.cross.marginal_error < 1e-11).all())
    torch.testing.assert_close(unrolled.value, implicit.value, rtol=0, atol=1e-9)


def test_gradients_are_finite_at_ties_and_zero_at_the_minimum() -> None:
    x = torch.from_numpy(points(6, 6)[0])
    x[1] = x[0]
    for cost in ("sqeuclidean", "euclidean"):
        leaf = x.clone().requires_grad_()
        value = sinkhorn_divergence(leaf, x, epsilon=0.3, cost=cost, iterations=10_000, tolerance=1e-13).value  # type: ignore[arg-type]
        (grad,) = torch.autograd.grad(value, leaf)
        assert torch.isfinite(grad).all()
        assert grad.abs().max() < 1e-6


def test_float32_gradients() -> None:
    x, y, _, _ = (torch.from_numpy(v) for v in points(20, 20, 3))
    grads = []
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype).requires_grad_()
        sinkhorn_divergence(leaf, y.to(dtype), epsilon=0.5).value.backward()
        grads.append(leaf.grad.double())
    assert torch.allclose(*grads, atol=2e-6)


# --- refusals ------------------------------------------------------------------------------------------------------


GOOD = np.ones((2, 3))
BAD: list[tuple[str, Callable[[], Any]]] = [
    ("epsilon", lambda: sinkhorn(GOOD, epsilon=0.0)),
    ("epsilon", lambda: sinkhorn(GOOD, epsilon=-1.0)),
    ("epsilon", lambda: sinkhorn(GOOD, epsilon=math.nan)),
    ("epsilon", lambda: sinkhorn(GOOD, epsilon="small")),  # type: ignore[arg-type]
    ("iterations", lambda: sinkhorn(GOOD, epsilon=1, iterations=0)),
    ("tolerance", lambda: sinkhorn(GOOD, epsilon=1, tolerance=-1e-3)),
    ("gradient", lambda: sinkhorn(GOOD, epsilon=1, gradient="none")),  # type: ignore[arg-type]
    ("unbalanced", lambda: sinkhorn(GOOD, epsilon=1, unbalanced=0.0)),
    ("unbalanced", lambda: sinkhorn(GOOD, epsilon=1, unbalanced=(1.0, -1.0))),
    ("unbalanced", lambda: sinkhorn_divergence(GOOD, GOOD, epsilon=1, unbalanced=(1.0, 1.0))),  # type: ignore[arg-type]
    ("cost", lambda: sinkhorn(np.array([[math.nan, 1.0]]), epsilon=1)),
    ("cost", lambda: sinkhorn(np.array([[-math.inf, 1.0]]), epsilon=1)),
    ("cost", lambda: sinkhorn(np.ones(3), epsilon=1)),
    ("cost", lambda: sinkhorn(np.ones((0, 3)), epsilon=1)),
    ("cost", lambda: sinkhorn(np.array([[math.inf, math.inf], [0.0, 1.0]]), epsilon=1)),
    ("pair of row 0", lambda: sinkhorn(np.array([[0, math.inf], [0, 0]]), None, np.array([0.0, 1.0]), epsilon=1)),
    ("pair of column 0", lambda: sinkhorn(np.array([[0, 0], [math.inf, 0]]), np.array([0.0, 1.0]), epsilon=1)),
    ("cost", lambda: sinkhorn(np.ones((2, 2)) * 1j, epsilon=1)),
    ("a must not be negative", lambda: sinkhorn(GOOD, np.array([1.5, -0.5]), epsilon=1)),
    ("a must sum to 1", lambda: sinkhorn(GOOD, np.array([0.5, 0.6]), epsilon=1)),
    ("b must sum to 1", lambda: sinkhorn(GOOD, None, np.full(3, 0.5), epsilon=1)),
    ("a sums to zero", lambda: sinkhorn(GOOD, np.zeros(2), epsilon=1, unbalanced=1.0)),
    ("b must have 3", lambda: sinkhorn(GOOD, None, np.full(2, 0.5), epsilon=1)),
    ("a must be finite", lambda: sinkhorn(GOOD, np.array([math.nan, 1.0]), epsilon=1)),
    ("a does not broadcast", lambda: sinkhorn(GOOD, np.full((4, 2), 0.5), epsilon=1)),
    ("a is torch", lambda: sinkhorn(GOOD, torch.full((2,), 0.5), epsilon=1)),
    ("x has points of dimension 3", lambda: entropic_ot(GOOD, np.ones((2, 2)), epsilon=1)),
    ("x must be finite", lambda: entropic_ot(np.array([[math.nan]]), np.ones((2, 1)), epsilon=1)),
    ("x must have shape", lambda: entropic_ot(np.ones(3), np.ones(3), epsilon=1)),
    ("leading axes", lambda: entropic_ot(np.ones((2, 3, 1)), np.ones((3, 3, 1)), epsilon=1)),
    ("cost must be", lambda: entropic_ot(GOOD, GOOD, epsilon=1, cost="cosine")),  # type: ignore[arg-type]
    ("cost must return", lambda: entropic_ot(GOOD, GOOD, epsilon=1, cost=lambda x, y: x.sum())),
    ("symmetric", lambda: sinkhorn_divergence(np.eye(3), np.eye(3), epsilon=1, cost=lambda x, y: (x @ y.mT) + x.cumsum(1)[..., -1:])),
]  # fmt: skip


@pytest.mark.parametrize(("named", "call"), BAD, ids=[f"{i}-{name}" for i, (name, _) in enumerate(BAD)])
def test_bad_input_is_named(named: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ParameterError, match=named):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tolerance_of_zero_runs_every_iteration(dtype: torch.dtype) -> None:
    """Also where the measured error is exactly zero long before."""
    cost = torch.rand(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    solved = sinkhorn(cost, epsilon=5.0, iterations=100, tolerance=0, accelerate=False)
    assert int(solved.iterations) == 100


def test_unrolling_says_how_many_iterations_it_took() -> None:
    cost = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"epsilon": 1.0, "iterations": 1000, "tolerance": 1e-9}
    counts = [
        int(sinkhorn(cost.clone().requires_grad_(wanted), **options, accelerate=False, gradient="unroll").iterations)
        for wanted in (True, False)
    ]
    # without gradients the error is looked at every ten iterations only
    assert 1 < counts[0] <= counts[1] < counts[0] + 20


def test_a_relaxed_error_that_is_no_number_is_a_failure() -> None:
    relaxation = Relaxation(1, torch.zeros(1, dtype=torch.float64))
    for error in (1.0, 0.5):
        relaxation.update(torch.tensor([error], dtype=torch.float64), 10)
    assert float(relaxation.factor) > 1
    bound = float(relaxation.bound)
    relaxation.update(torch.tensor([math.nan], dtype=torch.float64), 10)
    assert (float(relaxation.factor), float(relaxation.best)) == (1.0, 0.5)
    assert float(relaxation.bound) == (1 + bound) / 2
    relaxation.update(torch.tensor([0.4], dtype=torch.float64), 10)
    assert float(relaxation.bound) == (1 + bound) / 2  # a good block is not punished for the one before
