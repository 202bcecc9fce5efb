"""Simulations behind the claims on label shift: what theory misses by, and what real data show."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from porism_sims import imbalance_baselines as baselines
from porism_sims import label_shift as sim
from porism_theory.statistics import _covariance_engine as general
from porism_theory.statistics import _engine as theory

Rng = np.random.Generator

# A ridge, one that has reached its limit (which for p > n is not the pseudo-inverse), the inverse, the true covariance.
_SIZES: dict[str, Any] = {"dimension": 200, "majority": 90, "minority": 45, "condition": 20.0}
ANISOTROPIC: tuple[dict[str, Any], ...] = (
    _SIZES | {"ridge": 0.5, "intercept": "debiased"},
    _SIZES | {"ridge": 5.0, "intercept": "prior"},
    _SIZES | {"ridge": 1e-6},
    _SIZES | {"dimension": 60},
    _SIZES | {"covariance": "known"},
)


def largest_miss(rng: Rng, settings: dict[str, Any], assumed: dict[str, Any], repetitions: int = 60) -> float:
    """Largest difference, over both classes, of mean simulated error and theory's with other settings assumed."""
    seen = sim.simulate(rng, **settings, repetitions=repetitions)
    means = [seen[f"{group}_error"].mean() for group in ("majority", "minority")]
    return float(np.max(np.abs(np.subtract(means, theory.predict(**settings | assumed)))))


def largest_ridge_miss(rng: Rng, share: float, repetitions: int = 60) -> float:
    """Largest difference of mean simulated error and theory's, which is told a share of the ridge."""
    misses = []
    for ridge in (0.5, 5.0):
        for intercept in ("none", "prior"):
            rule: dict[str, Any] = {"dimension": 200, "majority": 120, "minority": 40, "intercept": intercept}
            seen = sim.simulate(rng, **rule, ridge=ridge, repetitions=repetitions)["error"].mean()
            misses.append(abs(seen - np.mean(theory.predict(**rule, ridge=share * ridge))))
    return float(max(misses))


def small_sample_miss(rng: Rng, *, sizes: str, draws: int = 500) -> float:
    """Largest log-ratio of simulated means to the foreseen ones: of tr M, tr M^2 and both errors, at 20 and 40."""
    ratios: list[float] = []
    for dimension, majority, minority in ((20, 31, 11), (40, 16, 6)):
        degrees = majority + minority - 2
        z = rng.standard_normal((draws, min(dimension, degrees), max(dimension, degrees)))
        eigenvalues = np.linalg.eigvalsh(z @ z.transpose(0, 2, 1) / degrees)
        seen = [np.mean(np.sum(eigenvalues**-power, axis=1)) / dimension for power in (1.0, 2.0)]
        rule: dict[str, Any] = {"dimension": dimension, "majority": majority, "minority": minority, "signal": 9.0}
        errors = sim.simulate(rng, **rule, repetitions=draws)
        seen += [errors[f"{group}_error"].mean() for group in ("majority", "minority")]
        if sizes == "exact":
            law = [error.mean() for error in theory.exact_errors(rng, **rule, draws=100 * draws)]
            foreseen = [*theory.wishart_moments(dimension, degrees), *law]
        else:
            foreseen = [*theory.moments(dimension / degrees), *theory.predict(**rule)]
        ratios += list(np.abs(np.log(np.divide(seen, foreseen))))
    return float(max(ratios))


def errors_by_ridge(
    gamma: float, ratio: float, signal: float, condition: float, ridges: tuple[float, ...], intercept: general.Intercept
) -> list[float]:
    """Balanced errors at 60 features for some ridges; ``gamma`` and ``ratio`` up to rounding of class sizes."""
    means, variances = sim.geometry(60, signal, condition)
    n1 = max(2, round(60 / gamma / (1 + ratio)))
    n0 = max(2, round(ratio * n1))
    rule = {"intercept": intercept}
    return [
        float(np.mean(general.errors_of_any_covariance(variances, means[1], n0, n1, ridge=ridge, **rule)))
        for ridge in ridges
    ]


def change_by_map(rng: Rng, dimension: int, counts: tuple[int, int], *, ridge: float, intercept: Any) -> float:
    """How much errors change when labels are swapped, units are changed, and features are mapped.

    The map is linear where samples leave room for it or a ridge is given, and else a rotation; then, and only then,
    a ridge of 1 is added, because at as many samples as features rounding is all that one would see.
    """
    wide = ridge == 0 and dimension > sum(counts) - 5
    ridge, affine = ridge + wide, not wide
    means, variances = sim.geometry(dimension, 9.0, 5.0)
    samples = [sim.draw_class(rng, n, mean, variances) for n, mean in zip(counts, means, strict=True)]
    turn, _ = np.linalg.qr(rng.normal(size=(dimension, dimension)))
    matrix = turn * (rng.uniform(0.5, 2, dimension) if affine else 1.0)

    def errors(classes: list[Any], means: Any, covariance: Any, ridge: float = ridge) -> Any:
        rule = sim.discriminant(sim.summarise(*classes), ridge=ridge, intercept=intercept)
        return np.array(sim.class_errors(rule, means, covariance))

    plain = errors(samples, means, variances)
    mapped = errors([x @ matrix for x in samples], means @ matrix, matrix.T @ (variances[:, None] * matrix))
    swapped = errors(samples[::-1], means[::-1], variances)[::-1]
    scaled = plain  # the prior's intercept is no score of the data's unit
    if intercept != "prior":
        scaled = errors([3 * x for x in samples], 3 * means, 9 * variances, ridge=9 * ridge)
    return float(max(np.abs(other - plain).max() for other in (mapped, swapped, scaled)))


def transition_on_real_data(rng: Rng, ridge: float, repetitions: int = 40) -> float:
    """The smallest of five differences in error from down-sampling, each counted from the side that should win."""

    def gain(strategy: baselines.Strategy, minority: int, ridge: float) -> float:
        rule: dict[str, Any] = {"data": "breast_cancer", "ridge": ridge, "repetitions": repetitions}
        sizes = {"majority": 3 * minority, "minority": minority}
        down = baselines.simulate(copy.deepcopy(rng), **rule, **sizes, strategy="down")["error"]
        return float(np.mean(down - baselines.simulate(rng, **rule, **sizes, strategy=strategy)["error"]))

    peak = [-gain(strategy, 8, ridge) for strategy in ("all", "weighted", "over")]
    return min(*peak, gain("all", 20, 0.0), gain("all", 8, 0.5))


def difference_from_scikit_learn(rng: Rng, data: Any, sizes: tuple[int, int], ridge: float, intercept: Any) -> float:
    """Largest difference of the two rules' weights and offsets, each scaled to length 1."""
    train = baselines.split(rng, baselines.load(data), majority=sizes[0], minority=sizes[1]).train
    ours = sim.discriminant(sim.summarise(*train), ridge=ridge, intercept=intercept)
    theirs = baselines.train("scikit-learn", rng, train, ridge=ridge)
    units = [np.append(rule.weights, rule.offset) / np.linalg.norm(rule.weights) for rule in (ours, theirs)]
    return float(np.max(np.abs(np.subtract(*units))))
