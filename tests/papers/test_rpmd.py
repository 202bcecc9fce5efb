"""rpmd: uncertainty sets against linear programs, duals and formulas of their own; planning against brute force; the
mirror steps against optimisers; the theorem's constants against random kernels; learning against counting.

Derivation of the theorem, with ``d`` the optimal policy's visitation in the worst kernel of the current policy, ``D``
the distance of the optimal policy to the current one, ``Q`` the robust values and ``f`` the mean value over the start.
The mirror step gives, in every state, ``step <Q, new - optimal> <= D(old) - D(new)`` and ``A = <Q, new - old> <= 0``.
Take means over d. The lower bound on changes of value makes ``E_d <Q, old - optimal> >= (1 - discount) gap``; as
``d <= M start`` and, by the upper bound, ``E_start A >= gap' - gap``, one has ``E_d A >= M (gap' - gap)``. Together
``gap' <= (1 - (1 - discount) / M) gap + E_d [D(old) - D(new)] / (M step)``. The next distance is taken in another
visitation, at most M' times this one; steps that grow by M' / rate pay for that. With values off by e, ``A <= 2 e``
replaces ``A <= 0`` and ``<error, new - optimal>`` is at most ``2 e``: in all ``2 e / (1 - discount)`` in each step.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, get_args

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from porism import divergences
from porism.errors import ParameterError
from porism.testing.strategies import (
    FiniteMDP,
    UncertaintySet,
    distributions,
    kernel_sets,
    mdps,
    samples,
    stochastic_matrices,
    uncertainty_sets,
)
from porism_sims.robust_mdp import environments, learning, mirror_descent, planning
from porism_sims.robust_mdp import uncertainty as sets
from porism_sims.robust_mdp.planning import MDP, Kernel, evaluate
from porism_sims.robust_mdp.uncertainty import NOMINAL, Uncertainty, worst_distribution, worst_mean
from porism_theory.planning import _engine as theory
from porism_theory.planning import _rpmd_margins as margins

SEEDS = st.integers(0, 2**32 - 1)
KINDS: tuple[Any, ...] = get_args(sets.Kind)
CORNERED: tuple[Any, ...] = ("contamination", "tv", "l1", "linf")
SUPPORTS: tuple[Any, ...] = ("full", "nominal")
PROBLEMS = ("garnet", "gridworld", "inventory", "machine replacement", "river swim")


def inner_problem(rng: np.random.Generator) -> tuple[Any, Any, float]:
    """A nominal distribution, at times with zeros; values, at times with ties; a radius up to 1."""
    size = int(rng.integers(2, 9))
    nominal = rng.dirichlet(np.full(size, rng.choice([0.3, 1.0, 5.0]))) * (rng.random(size) < rng.choice([0.6, 1.0]))
    nominal = nominal / nominal.sum() if nominal.sum() > 0 else np.full(size, 1 / size)
    values = rng.normal(size=size)
    return nominal, np.round(values) if rng.random() < 0.3 else values, float(rng.choice([0.01, 0.1, 0.4, 1.0]))


def by_linear_program(kind: str, nominal: Any, values: Any, radius: float, support: str) -> float:
    """The inner maximum of a set with corners, by HiGHS."""
    size, ones = len(nominal), np.ones(len(nominal))
    most = np.where((nominal > 0) | (support == "full"), 1.0, 0.0)
    if kind == "contamination":
        bounds = np.stack([(1 - radius) * nominal, most], axis=1)
        return -linprog(-values, A_eq=[ones], b_eq=[1], bounds=bounds).fun
    if kind == "linf":
        bounds = np.stack([np.maximum(nominal - radius, 0), np.minimum(nominal + radius, 1) * most], axis=1)
        return -linprog(-values, A_eq=[ones], b_eq=[1], bounds=bounds).fun
    eye, length = np.eye(size), 2 * radius if kind == "tv" else radius
    rows = np.block([[eye, -eye], [-eye, -eye], [np.zeros(size), ones]])
    limits = np.concatenate([nominal, -nominal, [length]])
    bounds = [(0, m) for m in most] + [(0, None)] * size
    target = np.concatenate([-values, np.zeros(size)])
    return -linprog(target, rows, limits, [np.concatenate([ones, np.zeros(size)])], [1], bounds).fun


def a_game(seed: int, kind: Any = "tv", radius: float = 0.2, **sizes: Any) -> theory.Game:
    return theory.game(np.random.default_rng(seed), kind, radius, **sizes)


# Uncertainty sets


@pytest.mark.parametrize("kind", CORNERED)
@pytest.mark.parametrize("support", SUPPORTS)
def test_sets_with_corners_agree_with_a_linear_program(kind: Any, support: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        nominal, values, radius = inner_problem(rng)
        ours = worst_mean(Uncertainty(kind, radius, support), nominal, values)
        assert ours == pytest.approx(by_linear_program(kind, nominal, values, radius, support), abs=1e-7)


def test_a_backup_of_the_benchmark_agrees_with_linear_programs() -> None:
    """Garnet(200, 10, 20) with TV 0.1, on a few pairs, to 1e-9."""
    rng = np.random.default_rng(1)
    mdp, _ = environments.garnet(rng, states=200, actions=10, successors=20, discount=0.95)
    values = rng.random(200)
    q = planning.robust_q(mdp, Uncertainty("tv", 0.1), values)
    dense = mdp.kernel.dense()
    for state, action in rng.integers([200, 10], size=(4, 2)):
        worst = by_linear_program("tv", dense[state, action], values, 0.1, "full")
        assert q[state, action] == pytest.approx(mdp.costs[state, action] + 0.95 * worst, abs=1e-9)


def dual_of_chi2(nominal: Any, values: Any, radius: float) -> float:
    """Exact, segment by segment: the least of ``t + sqrt((1 + radius) E max(v - t, 0)^2)``, convex in t."""
    p, v = nominal[nominal > 0], values[nominal > 0]
    best = float(v.max())
    for level in np.unique(v):
        kept = v >= level
        mass, mean = p[kept].sum(), p[kept] @ v[kept] / p[kept].sum()
        if (1 + radius) * mass > 1:
            spread = p[kept] @ (v[kept] - mean) ** 2 / mass
            t = mean - np.sqrt(spread / ((1 + radius) * mass - 1))
            best = min(best, t + np.sqrt((1 + radius) * p @ np.maximum(v - t, 0) ** 2))
    return best


# Values are equal or at least 1e-9 apart.
INNER = st.integers(1, 8).flatmap(
    lambda n: st.tuples(
        distributions(rows=1, classes=n).map(np.ravel),
        samples(points=n, magnitude=1.0).map(lambda values: values.round(9)),
        st.floats(1e-3, 1),
    )
)


@given(INNER)
def test_chi2_sets_attain_their_dual(drawn: tuple[Any, Any, float]) -> None:
    nominal, values, radius = drawn
    worst = worst_distribution(Uncertainty("chi2", radius), nominal, values)
    assert worst @ values == pytest.approx(dual_of_chi2(nominal, values, radius), abs=1e-9)
    assert divergences.pearson_chi2(worst, nominal) <= radius * (1 + 1e-7)


@pytest.mark.parametrize(("mass", "mean"), [(1e-17, 3.16e-9), (1e-300, 1e-150)])
def test_a_chi2_set_weighs_a_mass_below_rounding(mass: float, mean: float) -> None:
    nature = Uncertainty("chi2", 1.0)
    assert worst_mean(nature, np.array([mass, 1.0]), np.array([1.0, 0.0])) == pytest.approx(mean, rel=1e-2)


@given(INNER)
def test_kl_sets_attain_their_dual(drawn: tuple[Any, Any, float]) -> None:
    nominal, values, radius = drawn
    nature = Uncertainty("kl", radius)
    worst = worst_distribution(nature, nominal, values)
    assert worst @ values == pytest.approx(margins.dual_mean(nature, nominal, values), abs=1e-8)
    assert divergences.kl_divergence(worst, nominal) <= radius * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_an_optimiser_finds_nothing_worse_in_smooth_sets(kind: Any) -> None:
    rng = np.random.default_rng(2)
    reached = {"chi2": lambda p, q: np.sum((p - q) ** 2 / q), "kl": lambda p, q: np.sum(p * np.log(p / q))}[kind]
    for _ in range(5):
        nominal, values, radius = rng.dirichlet(np.ones(4)), rng.normal(size=4), 0.15
        constraints = [
            {"type": "eq", "fun": lambda p: p.sum() - 1},
            {"type": "ineq", "fun": lambda p, q=nominal, r=radius: r - reached(np.maximum(p, 1e-12), q)},
        ]
        worst = worst_distribution(Uncertainty(kind, radius), nominal, values)
        first = 0.8 * worst + 0.2 * nominal
        found = minimize(lambda p, v=values: -p @ v, first, bounds=[(1e-12, 1)] * 4, constraints=constraints)
        assert worst @ values == pytest.approx(-found.fun, abs=1e-4)


@pytest.mark.parametrize("radius", [1e-18, 1e-12, 1e-6])
def test_small_radii_are_not_lost_in_rounding(radius: float) -> None:
    """To first order both sets add the root of (twice, for KL) the radius times the variance."""
    rng = np.random.default_rng(3)
    nominal, values = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    deviation = np.sqrt(nominal @ (values - nominal @ values) ** 2)
    for kind, factor in (("chi2", 1), ("kl", 2)):
        added = worst_mean(Uncertainty(kind, radius), nominal, values) - nominal @ values  # type: ignore[arg-type]
        assert added == pytest.approx(
            np.sqrt(factor * radius) * deviation, rel=2e-3 if radius > 1e-9 else 1e-5, abs=3e-16
        )


@given(INNER, uncertainty_sets(), SEEDS)
def test_maximisers_are_in_their_sets_and_move_with_values(
    drawn: tuple[Any, Any, float], set_: UncertaintySet, seed: int
) -> None:
    rng, nature = np.random.default_rng(seed), Uncertainty(*set_)
    (nominal, values, _), (kind, radius, support) = drawn, set_
    worst = worst_distribution(nature, nominal, values)
    assert worst.min() >= 0
    assert worst.sum() == pytest.approx(1, abs=1e-12)
    assert margins.reach(nature, worst, nominal) <= radius * (1 + 1e-7) + 1e-12
    if support == "nominal" or kind in ("chi2", "kl"):
        assert np.all(worst[nominal == 0] == 0)
    order = rng.permutation(len(nominal))
    assert worst_mean(nature, nominal[order], values[order]) == pytest.approx(worst @ values, abs=1e-12)
    assert worst_mean(nature, nominal, values + 5) == pytest.approx(worst @ values + 5, abs=1e-12)


def test_rows_are_solved_on_their_own_and_limits_are_right() -> None:
    rng = np.random.default_rng(4)
    nominal, values = rng.dirichlet(np.ones(5), size=(3, 2)), rng.normal(size=(3, 2, 5))
    for kind in KINDS:
        nature = Uncertainty(kind, 0.3)
        whole = worst_distribution(nature, nominal, values)
        for place in np.ndindex(3, 2):
            np.testing.assert_allclose(
                worst_distribution(nature, nominal[place], values[place]), whole[place], atol=1e-15
            )
        np.testing.assert_array_equal(worst_distribution(Uncertainty(kind, 0.0), nominal, values), nominal)
        np.testing.assert_allclose(worst_distribution(nature, nominal, np.ones(5)).sum(-1), 1)
        everything = worst_mean(Uncertainty(kind, 1.0 if kind == "contamination" else 1e9), nominal, values)
        np.testing.assert_allclose(everything, values.max(axis=-1), atol=1e-12)
    tv, l1 = worst_mean(Uncertainty("tv", 0.3), nominal, values), worst_mean(Uncertainty("l1", 0.6), nominal, values)
    np.testing.assert_array_equal(tv, l1)


# Planning


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("support", SUPPORTS)
def test_compact_and_dense_kernels_give_the_same_values(kind: Any, support: Any) -> None:
    rng = np.random.default_rng(5)
    mdp, _ = environments.garnet(rng, states=7, actions=2, successors=3)
    nature, values = Uncertainty(kind, 0.3, support), rng.normal(size=7)
    dense = mdp.kernel.dense()
    plain = mdp.costs + mdp.discount * worst_mean(nature, dense, values)
    np.testing.assert_allclose(planning.robust_q(mdp, nature, values), plain, atol=1e-12)
    again = MDP(mdp.costs, dense, mdp.discount)  # type: ignore[arg-type]
    np.testing.assert_allclose(again.kernel.dense(), dense, atol=1e-15)
    policy = theory.random_policy(rng, mdp)
    first, second = (evaluate(m, nature, policy) for m in (mdp, again))
    np.testing.assert_allclose(first.values, second.values, atol=1e-12)
    np.testing.assert_allclose(first.kernel.mean(first.values), second.kernel.mean(second.values), atol=1e-12)
    np.testing.assert_allclose(
        first.kernel.under(policy), np.einsum("sa,sat->st", policy, first.kernel.dense()), atol=1e-15
    )


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_the_fixed_point_and_the_worst_of_kernels(kind: Any) -> None:
    rng = np.random.default_rng(6)
    mdp, start, nature = theory.game(rng, kind, 0.3, discount=0.95)
    policy = theory.random_policy(rng, mdp)
    found, values = evaluate(mdp, nature, policy), np.zeros(6)
    for _ in range(600):
        values = np.vecdot(policy, planning.robust_q(mdp, nature, values))
    np.testing.assert_allclose(found.values, values, atol=1e-11)
    np.testing.assert_allclose(np.vecdot(found.q, policy), found.values, atol=1e-12)
    for _ in range(20):  # no other kernel of the set is worse
        other = planning.worst_kernel(mdp, nature, rng.normal(size=6))
        chain = np.eye(6) - mdp.discount * other.under(policy)
        assert np.all(np.linalg.solve(chain, np.vecdot(policy, mdp.costs)) <= found.values + 1e-12)
    chain = np.eye(6) - mdp.discount * mdp.kernel.under(policy)
    nominal = np.linalg.solve(chain, np.vecdot(policy, mdp.costs))
    np.testing.assert_allclose(evaluate(mdp, NOMINAL, policy).values, nominal, atol=1e-12)
    assert np.all(found.values >= nominal - 1e-12)
    seen = planning.visitation(mdp, found.kernel, policy, start)
    assert seen.sum() == pytest.approx(1)
    assert seen @ np.vecdot(policy, mdp.costs) / (1 - mdp.discount) == pytest.approx(start @ found.values)


@pytest.mark.parametrize("kind", KINDS)
def test_policy_iteration_beats_every_deterministic_policy(kind: Any) -> None:
    mdp, _, nature = a_game(7, kind, 0.3, states=4, actions=3, successors=2)
    plan = planning.policy_iteration(mdp, nature)
    brute = [
        evaluate(mdp, nature, np.eye(3)[list(actions)]).values for actions in itertools.product(range(3), repeat=4)
    ]
    np.testing.assert_allclose(plan.values, np.min(brute, axis=0), atol=1e-12)
    assert plan.residual < 1e-12
    by_values = planning.value_iteration(mdp, nature, tolerance=1e-6)
    assert np.max(np.abs(by_values.values - plan.values)) < 1e-6
    np.testing.assert_array_equal(by_values.policy, plan.policy)


@given(SEEDS, st.sampled_from(KINDS), st.floats(0, 1))
def test_plans_keep_the_symmetries(seed: int, kind: Any, radius: float) -> None:
    rng = np.random.default_rng(seed)
    mdp, _, nature = theory.game(rng, kind, radius, states=5)
    values = planning.policy_iteration(mdp, nature).values
    dense, order = mdp.kernel.dense(), rng.permutation(5)
    moved = MDP(mdp.costs[order], dense[order][:, :, order], mdp.discount)  # type: ignore[arg-type]
    np.testing.assert_allclose(planning.policy_iteration(moved, nature).values, values[order], atol=1e-9)
    scaled = dataclasses.replace(mdp, costs=3 * mdp.costs[:, ::-1], kernel=dense[:, ::-1])  # type: ignore[arg-type]
    np.testing.assert_allclose(planning.policy_iteration(scaled, nature).values, 3 * values, atol=1e-9)
    more = Uncertainty(kind, min(1.0, 1.5 * radius), nature.support)
    assert np.all(planning.policy_iteration(mdp, more).values >= values - 1e-9)


def simulated(drawn: FiniteMDP) -> MDP:
    return MDP(drawn.costs, drawn.transitions, drawn.discount)  # type: ignore[arg-type]


@given(mdps(), uncertainty_sets(), st.data())
def test_the_robust_bellman_operator_contracts_and_keeps_order(
    drawn: FiniteMDP, set_: UncertaintySet, data: st.DataObject
) -> None:
    mdp, nature = simulated(drawn), Uncertainty(*set_)
    v, w = (data.draw(samples(points=len(drawn.start), magnitude=10.0)) for _ in range(2))
    backed_v, backed_w = (planning.robust_q(mdp, nature, u).min(axis=1) for u in (v, w))
    assert np.abs(backed_v - backed_w).max() <= drawn.discount * np.abs(v - w).max() + 1e-9
    higher = planning.robust_q(mdp, nature, np.maximum(v, w)).min(axis=1)
    assert (higher >= np.maximum(backed_v, backed_w) - 1e-9).all()
    raised = planning.robust_q(mdp, nature, v + 1).min(axis=1)
    np.testing.assert_allclose(raised, backed_v + drawn.discount, atol=1e-9)


@given(mdps(discount=(0.0, 0.9)), uncertainty_sets())
def test_plans_solve_the_optimality_equation_at_the_corners(drawn: FiniteMDP, set_: UncertaintySet) -> None:
    """With absorbing states, tied actions and sets of radius zero: a policy's robust values are what the plan says."""
    mdp, nature = simulated(drawn), Uncertainty(*set_)
    plan = planning.policy_iteration(mdp, nature)
    np.testing.assert_allclose(planning.robust_q(mdp, nature, plan.values).min(axis=1), plan.values, atol=1e-9)
    np.testing.assert_allclose(evaluate(mdp, nature, plan.policy).values, plan.values, atol=1e-9)
    assert (np.abs(plan.values) <= np.abs(drawn.rewards).max() / (1 - drawn.discount) + 1e-9).all()


@given(mdps(discount=(0.0, 0.9)).flatmap(lambda m: st.tuples(st.just(m), kernel_sets(m.transitions, radius=0.3))))
def test_contamination_is_at_least_as_bad_as_every_kernel_within_its_radius(drawn: tuple[FiniteMDP, Any]) -> None:
    mdp, kernels = drawn
    policy = np.full(mdp.rewards.shape, 1 / mdp.rewards.shape[1])
    worst = evaluate(simulated(mdp), Uncertainty("contamination", 0.3), policy).values
    for kernel in kernels:
        chain = np.eye(len(mdp.start)) - mdp.discount * np.einsum("sa,sat->st", policy, kernel)
        assert (np.linalg.solve(chain, np.vecdot(policy, mdp.costs)) <= worst + 1e-9).all()


@given(stochastic_matrices(chain="ergodic"), st.floats(0, 0.99), st.data())
def test_visitation_is_stationary_from_the_stationary_distribution(chain: Any, discount: float, data: Any) -> None:
    """A chain that starts in its stationary distribution spends that share of any discounted time in each state."""
    states = len(chain)
    system = np.vstack([chain.T - np.eye(states), np.ones(states)])
    stationary = np.linalg.lstsq(system, np.eye(states + 1)[-1], rcond=None)[0]
    mdp = MDP(np.zeros((states, 1)), chain[:, None], discount)  # type: ignore[arg-type]
    seen = planning.visitation(mdp, mdp.kernel, np.ones((states, 1)), stationary)
    np.testing.assert_allclose(seen, stationary, atol=1e-9)
    start = data.draw(distributions(rows=1, classes=states))[0]
    seen = planning.visitation(mdp, mdp.kernel, np.ones((states, 1)), start)
    assert seen.sum() == pytest.approx(1)
    np.testing.assert_allclose(seen - discount * seen @ chain, (1 - discount) * start, atol=1e-12)


# Mirror descent


@pytest.mark.parametrize("step", [0.1, 1.0, 30.0])
def test_mirror_steps_minimise_their_objective(step: float) -> None:
    rng = np.random.default_rng(8)
    policy, q = rng.dirichlet(np.ones(4)), rng.normal(size=4)
    entropic = np.exp(mirror_descent.entropic_step(np.log(policy), q, step))
    euclidean = mirror_descent.euclidean_step(policy, q, step)

    def objective(p: Any, geometry: str) -> float:
        distance = divergences.kl_divergence(p, policy) if geometry == "kl" else 0.5 * np.sum((p - policy) ** 2)
        return float(step * q @ p + distance)

    for geometry, found in (("kl", entropic), ("euclidean", euclidean)):
        assert found.sum() == pytest.approx(1)
        for other in rng.dirichlet(np.ones(4), size=200):
            for share in (1e-3, 1.0):
                moved = (1 - share) * found + share * other
                assert objective(moved / moved.sum(), geometry) >= objective(found, geometry) - 1e-12
    np.testing.assert_allclose(mirror_descent.entropic_step(np.log(policy), q + 7, step), np.log(entropic), atol=1e-12)
    np.testing.assert_allclose(mirror_descent.euclidean_step(policy, q + 7, step), euclidean, atol=1e-12)


@pytest.mark.parametrize("geometry", ["kl", "euclidean"])
def test_radius_zero_is_policy_mirror_descent_and_large_steps_policy_iteration(geometry: Any) -> None:
    mdp, _, nature = a_game(9)
    run = mirror_descent.mirror_descent(mdp, NOMINAL, np.ones(5), geometry=geometry)
    policy = np.full(mdp.shape, 1 / 3)
    for k in range(5):  # written out, with the nominal kernel
        chain = np.eye(6) - mdp.discount * np.einsum("sa,sat->st", policy, mdp.kernel.dense())
        q = mdp.costs + mdp.discount * mdp.kernel.dense() @ np.linalg.solve(chain, np.vecdot(policy, mdp.costs))
        policy = policy * np.exp(-q) if geometry == "kl" else mirror_descent.project(policy - q)
        policy = policy / policy.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(run.policies[k + 1], policy, atol=1e-10)
    huge = mirror_descent.mirror_descent(mdp, nature, np.full(8, 1e50), geometry=geometry)
    plan = planning.policy_iteration(mdp, nature)
    np.testing.assert_allclose(huge.values[-1], plan.values, atol=1e-12)
    assert np.all(np.isfinite(huge.log_policies)) == (geometry == "kl")
    first = np.eye(3)[np.argmin(evaluate(mdp, nature, np.full(mdp.shape, 1 / 3)).q, axis=1)]
    np.testing.assert_allclose(huge.policies[1], first, atol=1e-12)


def test_euclidean_steps_may_leave_a_vertex_where_it_is() -> None:
    policy, q = np.eye(3)[[0]], np.array([[0.0, 0.5, 0.9]])
    np.testing.assert_array_equal(mirror_descent.euclidean_step(policy, q, 0.3), policy)


def test_simulations_repeat_and_noise_is_reported() -> None:
    first, second = (mirror_descent.simulate(np.random.default_rng(1), noise=0.1, iterations=5) for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert first["gap"].shape == (6,)
    assert np.all(first["gap"] >= -1e-12)
    mdp, _, nature = a_game(10)
    noisy = mirror_descent.gaussian_noise(np.random.default_rng(0), 0.5)
    run = mirror_descent.mirror_descent(mdp, nature, np.ones(3), estimate=noisy)
    assert np.all(run.errors > 0.1)


# The theorem


@pytest.mark.parametrize("kind", ["tv", "linf", "kl"])
def test_constants_are_suprema_over_kernels(kind: Any) -> None:
    rng = np.random.default_rng(11)
    game = theory.game(rng, kind, 0.3, states=5)
    policy = planning.policy_iteration(game.mdp, game.nature).policy
    found = theory.constants(game, policy)
    crude = 1 / game.start.min()
    assert 1 <= found.mismatch <= crude
    assert found.mismatch - 1e-9 <= found.change * found.mismatch
    assert found.change <= crude * game.rise

    def seen(values: Any) -> Any:
        kernel = planning.worst_kernel(game.mdp, game.nature, values)
        return planning.visitation(game.mdp, kernel, policy, game.start)

    visits = np.array([seen(values) for values in rng.normal(size=(200, 5))])
    assert np.max(visits / game.start) <= found.mismatch + 1e-9
    assert np.max(visits.max(axis=0) / visits.min(axis=0)) <= found.change + 1e-9
    one = game.mdp.restricted(policy.argmax(axis=1))
    ones = np.ones((5, 1))
    extremes = []
    for sign, state in itertools.product((1, -1), range(5)):  # kernels that attain them
        charged = dataclasses.replace(one, costs=sign * np.eye(5)[state][:, None])
        kernel = evaluate(charged, game.nature, ones).kernel
        extremes.append(planning.visitation(one, kernel, ones, game.start))
    assert np.max(np.array(extremes) / game.start) == pytest.approx(found.mismatch)
    ratios = [np.max(a / b) for a, b in itertools.product(extremes, repeat=2)]
    assert max(ratios) == pytest.approx(found.change)


@pytest.mark.parametrize("geometry", ["kl", "euclidean"])
def test_gaps_stay_below_the_bound(geometry: Any) -> None:
    for seed in range(5):
        game = a_game(seed, "tv", 0.1)
        found = theory.constants(game, planning.policy_iteration(game.mdp, game.nature).policy)
        steps = mirror_descent.step_sizes("geometric", iterations=8, growth=found.growth)
        run = mirror_descent.mirror_descent(game.mdp, game.nature, steps, geometry=geometry)
        gaps, distances, _ = theory.gaps_and_distances(game, run, geometry)
        bounds = theory.bound(gaps, distances, steps, found, 8)
        assert np.all(gaps <= bounds + 1e-12)
        first = gaps[0] + distances[0] / (found.mismatch - 1 + game.mdp.discount)  # as the theorem writes it
        np.testing.assert_allclose(bounds, first * (1 - (1 - game.mdp.discount) / found.mismatch) ** np.arange(9))
        if geometry == "kl":
            assert distances[0] == pytest.approx(np.log(3))


def test_the_noise_allowance_is_the_largest_of_what_it_trades() -> None:
    """Pinsker twice: a move of L1 length x gains ``x^2 / step`` and loses at most ``e x``; likewise for Euclid."""
    x, step, error = sympy.symbols("x step error", positive=True)
    loss = error * x - x**2 / step
    assert sympy.simplify(step * error**2 / 4 - loss - (x - step * error / 2) ** 2 / step) == 0


def test_the_threshold_of_chi2_solves_its_equation() -> None:
    mass, spread, radius = sympy.symbols("mass spread radius", positive=True)
    depth = sympy.sqrt(spread / ((1 + radius) * mass - 1))  # mean of the kept values minus the threshold
    first, second = mass * depth, mass * (spread + depth**2)
    assert sympy.simplify(second - (1 + radius) * first**2) == 0


def test_the_objective_of_the_kink_is_the_closed_form() -> None:
    mdp, start = environments.kink()
    for x, radius in itertools.product((0.0, 0.3, 0.5, 0.9), (0.0, 0.25, 0.5)):
        seen = start @ evaluate(mdp, Uncertainty("tv", radius), np.array([[0.5, 0.5], [1 - x, x]])).values
        assert seen == pytest.approx(((x + 0.5) / 2 + 0.9 * radius * abs(x - 0.5)) / 0.1)


def test_margins_turn_negative_where_the_claims_are_wrong() -> None:
    rng = np.random.default_rng(12)
    assert (
        margins.inner_margin(rng, Uncertainty("tv", 0.3), 5)
        > 0
        > margins.inner_margin(rng, Uncertainty("tv", 0.3), 5, 0.5)
    )
    assert margins.contraction_ratio(rng, 0.9, 1.2) == pytest.approx(0.9 * 1.4)
    assert margins.contraction_ratio(rng, 1.1, 0.5) == pytest.approx(1.1)
    game = a_game(13, "tv", 0.5)
    assert margins.potential_margin(game, "kl", 1.0) > 0
    assert margins.potential_margin(game, "kl", -2.0) < 0


# Learning


def test_robust_td_agrees_with_sampling_written_out() -> None:
    """One run, one trajectory of sweeps, in a loop over pairs."""
    mdp, _, nature = a_game(14, "contamination", 0.2, states=4, actions=2, successors=2)
    policy = np.full((4, 2), 0.5)
    ours = learning.robust_td(np.random.default_rng(0), mdp, nature, policy, samples=80).q[-1, 0]
    rng, q = np.random.default_rng(0), np.zeros((4, 2))
    for sweep in range(10):
        drawn, values, before = rng.random((1, 4, 2, 1))[0, ..., 0], np.vecdot(policy, q), q.copy()
        for s, a in np.ndindex(4, 2):
            place = int(drawn[s, a] >= mdp.kernel.probabilities[s, a, 0])
            target = 0.8 * values[mdp.kernel.successors[s, a, place]] + 0.2 * values.max()
            step = 1 / (1 + 0.5 * (1 - mdp.discount) * sweep)
            q[s, a] += step * (mdp.costs[s, a] + mdp.discount * target - before[s, a])
    np.testing.assert_allclose(ours, q, atol=1e-12)


@pytest.mark.parametrize("sampling", ["generative", "online"])
def test_robust_td_finds_the_robust_values(sampling: Any) -> None:
    mdp, _, nature = a_game(15, "contamination", 0.15, discount=0.7)
    policy = np.full(mdp.shape, 1 / 3)
    learned = learning.robust_td(
        np.random.default_rng(1), mdp, nature, policy, samples=[2_000, 20_000], sampling=sampling, runs=20
    )
    errors = np.abs(learned.q.mean(axis=1) - evaluate(mdp, nature, policy).q).max(axis=(1, 2))
    assert errors[1] < 0.02
    assert errors[1] < errors[0]


@pytest.mark.parametrize("kind", KINDS)
def test_plug_in_estimates_converge_for_every_set(kind: Any) -> None:
    mdp, _, nature = a_game(16, kind, 0.1, discount=0.7)
    policy = np.full(mdp.shape, 1 / 3)
    learned = learning.plug_in(np.random.default_rng(2), mdp, nature, policy, samples_per_pair=100_000)
    assert np.max(np.abs(learned - evaluate(mdp, nature, policy).q)) < 0.02


# Environments and bad input


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_processes_with_costs_in_the_unit_interval(name: Any) -> None:
    mdp, start = environments.problem(np.random.default_rng(3), name)
    assert mdp.costs.min() >= 0
    assert mdp.costs.max() <= 1
    assert start.sum() == pytest.approx(1)
    np.testing.assert_allclose(mdp.kernel.dense().sum(axis=-1), 1, atol=1e-12)


def test_known_plans_of_the_problems() -> None:
    swim = planning.policy_iteration(environments.river_swim(discount=0.95).mdp, NOMINAL).policy.argmax(axis=1)
    np.testing.assert_array_equal(swim, np.ones(6))
    replace = planning.policy_iteration(environments.machine_replacement().mdp, NOMINAL).policy.argmax(axis=1)
    assert replace[:8].tolist() == sorted(replace[:8])  # repair from some stage on
    assert 0 < replace[:8].sum() < 8
    orders = planning.policy_iteration(environments.inventory().mdp, NOMINAL).policy.argmax(axis=1)
    levels = (np.arange(10) + orders)[orders > 0]
    assert len(set(levels)) == 1  # order up to one level
    along = planning.policy_iteration(environments.gridworld(slip=0).mdp, NOMINAL).values[12]
    assert along == pytest.approx(0.1 * (1 - 0.9**5) / 0.1)  # five steps, just above the cliff


def test_bad_input_is_named() -> None:
    rng, eye = np.random.default_rng(0), np.eye(2)[:, None]
    good = MDP(np.zeros((2, 1)), eye, 0.9)  # type: ignore[arg-type]
    stack: list[tuple[str, Any]] = [
        ("radius must be a number at least 0", lambda: Uncertainty("tv", -0.1)),
        ("radius must be a number at least 0 and at most 1", lambda: Uncertainty("contamination", 1.1)),
        ("radius must be finite", lambda: Uncertainty("kl", np.inf)),
        ("kind must be one of", lambda: Uncertainty("total variation", 0.1)),  # type: ignore[arg-type]
        ("support must be one of", lambda: Uncertainty("tv", 0.1, "half")),  # type: ignore[arg-type]
        ("nominal must have rows that sum to 1", lambda: worst_mean(NOMINAL, [0.5, 0.4], [0, 1])),
        ("nominal must not be negative", lambda: worst_mean(NOMINAL, [1.5, -0.5], [0, 1])),
        ("values must broadcast", lambda: worst_mean(NOMINAL, [0.5, 0.5], [0, 1, 2])),
        ("values must be finite", lambda: worst_mean(NOMINAL, [0.5, 0.5], [0, np.nan])),
        ("discount must be a number", lambda: MDP(np.zeros((2, 1)), eye, 1.0)),  # type: ignore[arg-type]
        ("one of each at least", lambda: MDP(np.zeros((2, 0)), np.zeros((2, 0, 2)), 0.9)),  # type: ignore[arg-type]
        ("kernel must have shape", lambda: MDP(np.zeros((2, 1)), np.eye(2), 0.9)),  # type: ignore[arg-type]
        ("like costs", lambda: MDP(np.zeros((2, 2)), eye, 0.9)),  # type: ignore[arg-type]
        ("kernel must have rows that sum to 1", lambda: MDP(np.zeros((2, 1)), 0.5 * eye, 0.9)),  # type: ignore[arg-type]
        ("costs must be finite", lambda: MDP(np.full((2, 1), np.inf), eye, 0.9)),  # type: ignore[arg-type]
        ("twice", lambda: MDP(np.zeros((2, 1)), Kernel(np.zeros((2, 1, 2), int), np.full((2, 1, 2), 0.5)), 0.9)),
        (
            "whole numbers from 0 to 1",
            lambda: MDP(np.zeros((2, 1)), Kernel(np.full((2, 1, 1), 2), np.ones((2, 1, 1))), 0.9),
        ),
        ("policy must have shape", lambda: evaluate(good, NOMINAL, np.ones((1, 2)))),
        ("policy must have rows", lambda: evaluate(good, NOMINAL, np.full((2, 1), 0.5))),
        ("tolerance", lambda: planning.value_iteration(good, NOMINAL, tolerance=0.0)),
        ("steps must be positive", lambda: mirror_descent.mirror_descent(good, NOMINAL, np.array([1.0, 0.0]))),
        ("steps must be finite", lambda: mirror_descent.mirror_descent(good, NOMINAL, np.array([np.nan]))),
        ("growth", lambda: mirror_descent.step_sizes("geometric", iterations=3, growth=-1.0)),
        ("schedule", lambda: mirror_descent.step_sizes("cosine", iterations=3)),  # type: ignore[arg-type]
        (
            "uncertainty must be of kind contamination",
            lambda: learning.robust_td(rng, good, Uncertainty("tv", 0.1), np.ones((2, 1)), samples=5),
        ),
        ("samples must increase", lambda: learning.robust_td(rng, good, NOMINAL, np.ones((2, 1)), samples=[5, 5])),
        (
            "q must have shape",
            lambda: learning.robust_td(rng, good, NOMINAL, np.ones((2, 1)), samples=5, q=np.zeros(3)),
        ),
        ("successors must not exceed", lambda: environments.garnet(rng, states=3, successors=4)),
        ("discount", lambda: environments.gridworld(discount=1.0)),
    ]
    for message, call in stack:
        with pytest.raises(ParameterError, match=message):
            call()
    inside = np.array([[1.0, 0.0]] * 2)
    two = MDP(np.zeros((2, 2)), np.repeat(eye, 2, axis=1), 0.9)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="inside the simplex"):
        mirror_descent.mirror_descent(two, NOMINAL, np.ones(1), policy=inside)
