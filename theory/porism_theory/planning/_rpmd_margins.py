"""Margins of the claims on robust policy mirror descent, each positive where the claim is true."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np
import sympy
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from porism import divergences
from porism_sims.robust_mdp.environments import garnet
from porism_sims.robust_mdp.learning import robust_td
from porism_sims.robust_mdp.mirror_descent import (
    Estimate,
    Geometry,
    Schedule,
    entropic_step,
    euclidean_step,
    exact,
    mirror_descent,
    step_sizes,
)
from porism_sims.robust_mdp.planning import Evaluation, evaluate, policy_iteration, visitation
from porism_sims.robust_mdp.uncertainty import NOMINAL, Uncertainty, worst_distribution, worst_mean
from porism_theory.planning._engine import (
    Game,
    constants,
    contraction,
    game,
    gaps_and_distances,
    next_gap,
    nominal_values,
    potential,
    random_policy,
)

Array = NDArray[np.float64]
Rng = np.random.Generator
# Which state-action values a step or a gradient uses: the control's know nothing of nature's worst.
Q = Literal["robust", "nominal"]
# The Garnet problem of the figures and the sampled claims.
LARGE = {"states": 30, "actions": 5, "successors": 4}
GEOMETRIES: tuple[Geometry, ...] = ("kl", "euclidean")


# What sympy decides


def two_point_duals(odds: Any, tilt: Any, least: Any, width: Any, factor: int) -> Any:
    """On two values, ``least`` and ``width`` above it: the three duals at the radii that a distribution has.

    The greater value has nominal odds ``odds`` and odds ``odds exp(tilt)`` under that distribution; ``factor``
    multiplies its total variation.
    """
    p, worst = (o / (1 + o) for o in (odds, odds * sympy.exp(tilt)))
    rise, log_mean = (worst - p) * width, sympy.log((1 + odds * sympy.exp(tilt)) / (1 + odds))
    moved, square, tilted = worst - p, (worst - p) ** 2 / (p * (1 - p)), worst * tilt - log_mean
    return sympy.And(
        sympy.Eq(factor * moved * width, rise),  # total variation moves mass from the smaller to the greater
        sympy.Eq(square * p * (1 - p) * width**2, rise**2),  # mean + sqrt(radius Var)
        sympy.Eq(least + width * (log_mean + tilted) / tilt, least + width * worst),  # (log E exp + radius) / tilt
    )


def telescoped(
    gap: Any, distance: Any, left: Any, step_size: Any, discount: Any, mismatch: Any, change: Any, counts: bool
) -> Any:
    """The one-step bound and a step that grows by ``change / rate`` make the potential contract by the rate.

    The next distance is at most ``change * left``, as it is taken in another visitation.
    """
    rate = contraction(mismatch, discount)
    larger = step_size * (change if counts else 1) / rate
    after = next_gap(gap, distance, left, step_size, mismatch, rate)
    contracted = rate * potential(gap, distance, step_size, mismatch, rate)
    return sympy.Eq(potential(after, change * left, larger, mismatch, rate), contracted)


# Uncertainty sets


def dual_mean(nature: Uncertainty, nominal: Array, values: Array) -> float:
    """The largest mean over the set by its dual, one row; for sets with corners the minimum is at a value."""
    radius, top = nature.radius, values[(nominal > 0) | nature.reaches_everywhere].max()
    if radius == 0:
        return float(nominal @ values)
    match nature.kind:
        case "contamination":
            return float((1 - radius) * nominal @ values + radius * top)
        case "tv" | "l1":
            share = radius if nature.kind == "tv" else radius / 2
            levels = values[values <= top]
            return min(float(nominal @ np.maximum(values, level)) + share * (top - level) for level in levels)
        case "linf":
            low = np.maximum(nominal - radius, 0)
            high = np.where(values <= top, np.minimum(nominal + radius, 1), 0)
            high = np.where((nominal > 0) | nature.reaches_everywhere, high, 0)
            lines = (
                level + high @ np.maximum(values - level, 0) - low @ np.maximum(level - values, 0) for level in values
            )
            return float(min(lines))
    held = nominal > 0
    p, below = nominal[held], values[held] - top
    width = -below.min() or 1.0

    def upper(log_scale: float) -> float:
        scale = width * np.exp(log_scale)
        if nature.kind == "kl":
            return float(scale * (logsumexp(below / scale, b=p) + radius))
        return float(-scale + np.sqrt((1 + radius) * p @ np.maximum(below + scale, 0) ** 2))

    return float(top) + min(
        minimize_scalar(upper, bounds=ends, method="bounded", options={"xatol": 1e-9}).fun
        for ends in ((-20, -5), (-5, 0), (0, 5), (5, 20))
    )


def inner_margin(rng: Rng, nature: Uncertainty, size: int, factor: float = 1.0) -> float:
    """How far one random inner problem is from being wrong: primal against dual, and the maximiser in its set.

    ``factor`` multiplies the radius of the dual.
    """
    nominal = rng.dirichlet(np.ones(size)) * (rng.random(size) < 0.8)
    nominal = nominal / nominal.sum() if nominal.sum() > 0 else np.full(size, 1 / size)
    values = rng.standard_normal(size)
    worst = worst_distribution(nature, nominal, values)
    wrong = dataclasses.replace(nature, radius=nature.radius * factor) if factor != 1 else nature
    duality = abs(dual_mean(wrong, nominal, values) - worst @ values) / np.ptp(values)
    outside = max(-worst.min(), abs(worst.sum() - 1), reach(nature, worst, nominal) - nature.radius)
    return min((1e-6 if nature.kind in ("chi2", "kl") else 1e-8) - duality, 1e-8 - outside)


def reach(nature: Uncertainty, worst: Array, nominal: Array) -> float:
    """The radius at which a distribution lies on the edge of a set of this kind."""
    change = worst - nominal
    match nature.kind:
        case "contamination":
            return float(1 - np.min(worst[nominal > 0] / nominal[nominal > 0]))
        case "linf":
            return float(np.max(np.abs(change)))
        case "chi2":
            return float(divergences.pearson_chi2(worst, nominal, normalize=True))
        case "kl":
            return float(divergences.kl_divergence(worst, nominal, normalize=True))
    distance = float(divergences.tv_distance(worst, nominal, normalize=True))
    return distance if nature.kind == "tv" else 2 * distance


def coherence_margin(rng: Rng, nature: Uncertainty, size: int, *, adverse: bool = True) -> float:
    """The least slack of what makes a support function of a set of distributions: monotone, additive for constants,
    positively homogeneous, convex, growing with the radius, at most the greatest value."""
    nominal, (v, w) = rng.dirichlet(np.ones(size)), rng.standard_normal((2, size))
    smaller = dataclasses.replace(nature, radius=nature.radius * rng.random())

    def worst(values: Array, nature: Uncertainty = nature) -> float:
        return float(worst_mean(nature, nominal, values) if adverse else -worst_mean(nature, nominal, -values))

    shift, scale, share = rng.normal(), rng.exponential(), rng.random()
    return 1e-9 + min(
        worst(np.maximum(v, w)) - worst(v),
        -abs(worst(v + shift) - worst(v) - shift),
        -abs(worst(scale * v) - scale * worst(v)),
        share * worst(v) + (1 - share) * worst(w) - worst(share * v + (1 - share) * w),
        worst(v) - worst(v, smaller),
        worst(v) - nominal @ v,
        v.max() - worst(v),
    )


def nesting_margin(rng: Rng, radius: float, constant: float) -> float:
    """How far robust values of smaller sets stay below those of the total-variation set of this radius.

    Contamination of the same share, KL of radius 2 radius^2 (Pinsker) and chi-squared of radius 4 radius^2
    (Cauchy-Schwarz) lie inside; ``constant`` multiplies the last two.
    """
    mdp, _, outer = game(rng, "tv", radius, support="nominal", successors=2)
    policy = random_policy(rng, mdp)
    inner = {"contamination": min(radius, 1), "kl": 2 * constant * radius**2, "chi2": 4 * constant * radius**2}
    whole = evaluate(mdp, outer, policy).values
    sets = (Uncertainty(kind, size, "nominal") for kind, size in inner.items())  # type: ignore[arg-type]
    return 1e-9 + float(min(np.min(whole - evaluate(mdp, nature, policy).values) for nature in sets))


# Operators and derivatives


def contraction_ratio(rng: Rng, discount: float, radius: float, *, norm: float = np.inf) -> float:
    """Largest ratio of the distances of two value functions after and before a robust backup with contamination.

    Written out, so that the discount may reach 1 and the radius exceed it. The pairs: a constant shift, one state
    above and all others below, one state alone, and random ones.
    """
    mdp = garnet(rng, states=6, actions=2, successors=2).mdp

    def backup(values: Array) -> Array:
        mixed = (1 - radius) * mdp.kernel.mean(values) + radius * values.max()
        return (mdp.costs + discount * mixed).min(axis=1)

    states, one = np.eye(6), np.ones(6)
    pairs = [
        (one, 0 * one),
        *((2 * e, one) for e in states),
        *((e, 0 * e) for e in states),
        *rng.normal(size=(8, 2, 6)),
    ]
    return max(float(np.linalg.norm(backup(v) - backup(w), norm) / np.linalg.norm(v - w, norm)) for v, w in pairs)


def derivative_margin(rng: Rng, game: Game, q: Q) -> float:
    """Slack of the two bounds on a policy's change of value, and of the gradient against differences.

    Both take visitations in worst kernels; ``q="nominal"`` takes them in the nominal one.
    """
    old, new = (random_policy(rng, game.mdp) for _ in range(2))
    before, after = (evaluate(game.mdp, game.nature, policy) for policy in (old, new))
    step = np.vecdot(before.q, new - old)

    def seen(policy: Array, evaluation: Evaluation) -> Array:
        kernel = game.mdp.kernel if q == "nominal" else evaluation.kernel
        return game.rise * visitation(game.mdp, kernel, policy, game.start)

    change = game.start @ (after.values - before.values)
    h = 1e-5
    ends = (evaluate(game.mdp, game.nature, old + sign * h * (new - old)).values for sign in (1, -1))
    slope = game.start @ np.subtract(*ends) / (2 * h)
    return float(
        min(
            change - seen(new, before) @ step + 1e-9,
            seen(new, after) @ step - change + 1e-9,
            1e-4 * game.rise - abs(slope - seen(old, before) @ step),
        )
    )


# Mirror descent


def largest_rise(game: Game, geometry: Geometry, step_size: float, q: Q, *, iterations: int = 12) -> float:
    """The most by which any state's value rises in any iteration of constant step size."""
    steps = step_sizes("constant", iterations=iterations, step_size=step_size)
    estimate = exact if q == "robust" else nominal_values(game)
    run = mirror_descent(game.mdp, game.nature, steps, geometry=geometry, estimate=estimate)
    return float(np.max(np.diff(run.values, axis=0)))


def rise_after_noise(rng: Rng, game: Game, geometry: Geometry, step_size: float, noise: float) -> float:
    """The most by which a state's value rises in one step from a random policy, with an error of norm ``noise``.

    The error pulls the values of a state together, or apart the wrong way. Its norm is the dual one in each state: the
    largest entry for KL, the Euclidean one for Euclid.
    """
    policy = random_policy(rng, game.mdp)
    before = evaluate(game.mdp, game.nature, policy)
    q = before.q
    error = q.mean(axis=1, keepdims=True) - q
    error = np.sign(error) if geometry == "kl" else error / np.linalg.norm(error, axis=1, keepdims=True)
    q = q + noise * error
    if geometry == "kl":
        after = np.exp(entropic_step(np.log(policy), q, step_size))
    else:
        after = euclidean_step(policy, q, step_size)
    return float(np.max(evaluate(game.mdp, game.nature, after).values - before.values))


def potential_margin(
    game: Game, geometry: Geometry, power: float, estimate: Estimate = exact, *, counted: bool = False
) -> float:
    """By how much the potential stays below what the theorem allows, in units of its first value; least over steps.

    Steps grow by ``(M' / rate) ** power``; with ``counted`` the errors of the estimate are allowed for.
    """
    optimal = policy_iteration(game.mdp, game.nature).policy
    steps = step_sizes("geometric", iterations=10, growth=constants(game, optimal).growth ** power)
    run = mirror_descent(game.mdp, game.nature, steps, geometry=geometry, estimate=estimate)
    gaps, distances, found = gaps_and_distances(game, run, geometry)
    now = potential(gaps[:-1], distances[:-1], steps, found.mismatch, found.rate)
    errors = 2 * game.rise * run.errors[:-1] if counted else 0
    return 1e-10 + float(np.min(found.rate * now[:-1] + errors - now[1:]) / now[0])


def schedule_margin(rng: Rng, schedule: Schedule) -> float:
    """How far the gap after 59 steps is below 1e-4 and below a hundredth of that of constant ones, in powers of ten."""
    problem, margins = game(rng, "tv", 0.2, **LARGE), []
    optimum = policy_iteration(problem.mdp, problem.nature).values
    for geometry in GEOMETRIES:
        last = []
        for name in (schedule, "constant"):
            steps = step_sizes(name, iterations=59, growth=1 / 0.9)  # type: ignore[arg-type]
            run = mirror_descent(problem.mdp, problem.nature, steps, geometry=geometry)
            last.append(np.log10(max((run.values[-1] - optimum) @ problem.start, 1e-14)))
        margins += [-4 - last[0], last[1] - last[0] - 2]
    return float(min(margins))


def floor_margin(rng: Rng, problems: int, *, shared: bool) -> float:
    """How far the noise floor is from not rising like a power between 1 and 3.5, or from 1e-4 without noise.

    The floor is the mean gap of the last ten of 60 iterates over Garnet problems. ``shared`` noise is the same for all
    actions of a state.
    """
    levels, floors = np.array([0.0, 0.01, 0.03, 0.1]), np.zeros(4)
    steps = step_sizes("geometric", iterations=60, growth=1 / 0.9)
    for _ in range(problems):
        problem = game(rng, "tv", 0.2, **LARGE)
        optimum = policy_iteration(problem.mdp, problem.nature).values
        for place, level in enumerate(levels):

            def estimate(policy: Array, evaluation: Evaluation, level: float = level) -> Array:
                return evaluation.q + level * rng.standard_normal((len(policy), 1 if shared else policy.shape[1]))

            run = mirror_descent(problem.mdp, problem.nature, steps, estimate=estimate)
            floors[place] += ((run.values[-10:] - optimum) @ problem.start).mean() / problems
    logs = np.log10(np.maximum(floors, 1e-15))
    power = np.polyfit(np.log10(levels[1:]), logs[1:], 1)[0]
    return float(min(power - 1, 3.5 - power, *np.diff(logs), -4 - logs[0]))


# Learning and plans


def learning_margin(rng: Rng, radius: float) -> float:
    """How far the slope of the error of robust TD against samples is within 0.15 of -1/2, for contamination 0.15.

    ``radius`` is the one that the learner believes in.
    """
    mdp, _, nature = game(rng, "contamination", 0.15, states=10, successors=4, discount=0.8)
    policy, samples = np.full(mdp.shape, 1 / 3), [3_000, 10_000, 30_000, 100_000]
    learned = robust_td(rng, mdp, dataclasses.replace(nature, radius=radius), policy, samples=samples, runs=10)
    errors = np.abs(learned.q - evaluate(mdp, nature, policy).q).max(axis=(2, 3)).mean(axis=1)
    return float(0.15 - abs(np.polyfit(np.log(samples), np.log(errors), 1)[0] + 0.5))


class Prices(NamedTuple):
    """Costs of the plan for the nominal process and of the robust plan: under the nominal kernel, and at worst."""

    nominal_plan: tuple[float, float]
    robust_plan: tuple[float, float]


def prices(game: Game) -> Prices:
    """What robustness costs when nothing happens, and what it saves when the worst does."""
    plans = (policy_iteration(game.mdp, nature).policy for nature in (NOMINAL, game.nature))
    cost = lambda plan, nature: float(game.start @ evaluate(game.mdp, nature, plan).values)  # noqa: E731
    return Prices(*((cost(plan, NOMINAL), cost(plan, game.nature)) for plan in plans))
