"""Planted claims on samples, tails and estimators: each false one beside its mended twin."""

from typing import Annotated

import numpy as np
from annotated_types import Interval
from scipy.special import gammaln, logsumexp
from scipy.stats import binom, rankdata

from porism import Paper, always

PAPER = Paper(
    key="planted_samples",
    title="Planted claims on statistics",
    authors=("Ada Author",),
    year=2020,
    ref="arXiv:2001.00001",
    kinds=("simulator",),
    family="planted",
)

Sample = Annotated[int, Interval(ge=2, le=100)]


def tail_gap(chance: float, n: int, excess: float, variance: float) -> float:
    """Log of the sub-Gaussian bound for a binomial tail over the tail itself."""
    tail = binom.sf(np.ceil(n * (chance + excess) - 1e-9) - 1, n, chance)
    return 700.0 if tail < 1e-300 else -n * excess**2 / (2 * variance) - np.log(tail) + 1e-9


Chance = Annotated[float, Interval(ge=0.01, le=0.99)]
Draws = Annotated[int, Interval(ge=1, le=500)]
Excess = Annotated[float, Interval(ge=0, le=1)]


@always("A Bernoulli mean has sub-Gaussian tails with its own variance", where="too light for a rare event")
def bernoulli_tail(rng, *, chance: Chance = 0.5, n: Draws = 100, excess: Excess = 0.1) -> float:
    return tail_gap(chance, n, excess, chance * (1 - chance))


@always("A Bernoulli mean has sub-Gaussian tails with variance one quarter", where="Hoeffding")
def bernoulli_tail_mended(rng, *, chance: Chance = 0.5, n: Draws = 100, excess: Excess = 0.1) -> float:
    return tail_gap(chance, n, excess, 0.25)


def value_at_risk(x: np.ndarray, level: float) -> float:
    return float(np.sort(x)[int(np.ceil(level * len(x) - 1e-9)) - 1])


def expected_shortfall(x: np.ndarray, level: float) -> float:
    cut = value_at_risk(x, level)
    return cut + float(np.mean(np.maximum(x - cut, 0))) / (1 - level)


Level = Annotated[float, Interval(ge=0.5, le=0.99)]


@always("A quantile of losses is subadditive", where="only an expected shortfall is")
def subadditive(rng, *, level: Level = 0.9, n: Sample = 50) -> float:
    x, y = rng.lognormal(size=(2, n))
    return value_at_risk(x, level) + value_at_risk(y, level) - value_at_risk(x + y, level) + 1e-9


@always("The expected shortfall is subadditive", where="Rockafellar and Uryasev")
def subadditive_mended(rng, *, level: Level = 0.9, n: Sample = 50) -> float:
    x, y = rng.lognormal(size=(2, n))
    return expected_shortfall(x, level) + expected_shortfall(y, level) - expected_shortfall(x + y, level) + 1e-9


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Expected calibration error with bins of one width."""
    label = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(label, weights=confidence - correct, minlength=bins)).sum() / len(confidence))


Bins = Annotated[int, Interval(ge=2, le=20)]


@always("More bins show a larger calibration error", where="unless the bins are not nested")
def more_bins(rng, *, bins: Bins = 10, more: Bins = 5) -> float:
    confidence = rng.uniform(size=200)
    correct = rng.uniform(size=200) < confidence**2
    return calibration(confidence, correct, bins + more) - calibration(confidence, correct, bins) + 1e-9


@always("Bins cut into more show a larger calibration error", where="the triangle inequality")
def more_bins_mended(rng, *, bins: Bins = 10, more: Bins = 5) -> float:
    confidence = rng.uniform(size=200)
    correct = rng.uniform(size=200) < confidence**2
    return calibration(confidence, correct, bins * more) - calibration(confidence, correct, bins) + 1e-9


Spread = Annotated[float, Interval(ge=0, le=5)]


@always("One more importance sample raises the bound", where="in expectation only")
def importance_bound(rng, *, n: Sample = 5, spread: Spread = 1.0) -> float:
    weights = spread * rng.normal(size=n)
    return logsumexp(weights) - np.log(n) - (logsumexp(weights[:-1]) - np.log(n - 1)) + 1e-9


@always("The bound is at least the mean of those that leave one sample out", where="Burda et al., Th. 1")
def importance_bound_mended(rng, *, n: Sample = 5, spread: Spread = 1.0) -> float:
    weights = spread * rng.normal(size=n)
    others = [logsumexp(np.delete(weights, i)) - np.log(n - 1) for i in range(n)]
    return logsumexp(weights) - np.log(n) - np.mean(others) + 1e-9


@always("A random projection to 50 dimensions keeps squared lengths within 47 %", where="but one time in fifty")
def projection(rng, *, dimension: Annotated[int, Interval(ge=50, le=200)] = 100) -> float:
    x = rng.normal(size=dimension)
    image = rng.normal(size=(50, dimension)) @ x / np.sqrt(50)
    return 0.47 - abs(image @ image / (x @ x) - 1)


@always("A random rotation keeps squared lengths within 47 %", where="mended: it keeps them")
def projection_mended(rng, *, dimension: Annotated[int, Interval(ge=50, le=200)] = 100) -> float:
    x = rng.normal(size=dimension)
    image = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0] @ x
    return 0.47 - abs(image @ image / (x @ x) - 1)


def rank_change(rng: np.random.Generator, levels: int, method: str) -> float:
    """By how much a rank correlation changes when the items are listed in another order."""
    x, y = rng.integers(levels, size=(2, 20))
    order = rng.permutation(20)
    return abs(
        np.corrcoef(rankdata(x, method), rankdata(y, method))[0, 1]
        - np.corrcoef(rankdata(x[order], method), rankdata(y[order], method))[0, 1]
    )


@always("A rank correlation does not depend on the order of items", where="it does where ties are broken by it")
def rank_order(rng, *, levels: Annotated[int, Interval(ge=3, le=10**6)] = 10**6) -> float:
    return 1e-9 - rank_change(rng, levels, "ordinal")


@always("A rank correlation does not depend on the order of items", where="mended: ties share their ranks")
def rank_order_mended(rng, *, levels: Annotated[int, Interval(ge=3, le=10**6)] = 10**6) -> float:
    return 1e-9 - rank_change(rng, levels, "average")


@always("The corrected AIC penalises more than the AIC", where="untrue for fewer samples than parameters")
def corrected_aic(
    rng,
    *,
    samples: Annotated[int, Interval(ge=5, le=1000)] = 100,
    parameters: Annotated[int, Interval(ge=1, le=20)] = 3,
) -> float:
    return 2 * parameters * (parameters + 1) / (samples - parameters - 1)


@always("The corrected AIC penalises more than the AIC", where="mended: from 30 samples on")
def corrected_aic_mended(
    rng,
    *,
    samples: Annotated[int, Interval(ge=30, le=1000)] = 100,
    parameters: Annotated[int, Interval(ge=1, le=20)] = 3,
) -> float:
    return 2 * parameters * (parameters + 1) / (samples - parameters - 1)


def discrepancy(rng: np.random.Generator, n: int, shift: float, *, unbiased: bool) -> float:
    """The squared mean discrepancy of two samples under the Gaussian kernel."""
    x, y = rng.normal(size=(2, n)) + np.array([[0.0], [shift]])

    def mean(a: np.ndarray, b: np.ndarray, *, same: bool) -> float:
        kernel = np.exp(-((a[:, None] - b) ** 2) / 2)
        return (kernel.sum() - n) / (n * n - n) if same and unbiased else kernel.mean()

    return mean(x, x, same=True) + mean(y, y, same=True) - 2 * mean(x, y, same=False) + 1e-9


Distance = Annotated[float, Interval(ge=0, le=3)]


@always("The unbiased estimate of a squared discrepancy is not negative", where="it is unbiased at zero")
def unbiased_discrepancy(rng, *, n: Sample = 20, shift: Distance = 1.0) -> float:
    return discrepancy(rng, n, shift, unbiased=True)


@always("The plug-in estimate of a squared discrepancy is not negative", where="Gretton et al., Eq. 5")
def unbiased_discrepancy_mended(rng, *, n: Sample = 20, shift: Distance = 1.0) -> float:
    return discrepancy(rng, n, shift, unbiased=False)


def log_volume(dimension: int) -> float:
    return dimension / 2 * np.log(np.pi) - gammaln(dimension / 2 + 1)


@always("The unit ball shrinks with every dimension", where="from five on")
def ball_volume(rng, *, dimension: Annotated[int, Interval(ge=1, le=1000)] = 10) -> float:
    return log_volume(dimension) - log_volume(dimension + 1)


@always("From five on, the unit ball shrinks with every dimension", where="mended")
def ball_volume_mended(rng, *, dimension: Annotated[int, Interval(ge=5, le=1000)] = 10) -> float:
    return log_volume(dimension) - log_volume(dimension + 1)


@always("There are at least as many subsets as pairs", where="not of three")
def subsets(rng, *, n: Annotated[int, Interval(ge=1, le=1000)] = 10) -> float:
    return n * np.log(2) - 2 * np.log(n) + 1e-9


@always("From four on, there are at least as many subsets as pairs", where="mended")
def subsets_mended(rng, *, n: Annotated[int, Interval(ge=4, le=1000)] = 10) -> float:
    return n * np.log(2) - 2 * np.log(n) + 1e-9


def growth(strength: float, steps: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A stable upper triangular matrix, and where it takes a unit vector."""
    matrix = np.diag(rng.uniform(0.1, 0.9, 3)) + strength * np.triu(rng.normal(size=(3, 3)), 1)
    x = rng.normal(size=3)
    return matrix, np.linalg.matrix_power(matrix, steps) @ (x / np.linalg.norm(x))


Strength = Annotated[float, Interval(ge=0, le=3)]
Steps = Annotated[int, Interval(ge=1, le=50)]


@always("A state never grows if all eigenvalues are below one", where="unless the matrix is not normal")
def transient(rng, *, strength: Strength = 0.1, steps: Steps = 10) -> float:
    return 1 - np.linalg.norm(growth(strength, steps, rng)[1]) + 1e-9


@always("A state grows by at most the power of the largest singular value", where="mended")
def transient_mended(rng, *, strength: Strength = 0.1, steps: Steps = 10) -> float:
    matrix, state = growth(strength, steps, rng)
    return 1 - np.linalg.norm(state) / np.linalg.norm(matrix, 2) ** steps + 1e-9


def interpolation_risk(features: int, samples: int = 500) -> float:
    """Risk of the shortest least-squares fit, isotropic features, signal and noise of variance one."""
    ratio = features / samples
    return ratio / (1 - ratio) if ratio < 1 else 1 - 1 / ratio + 1 / (ratio - 1)


@always("Features never raise the risk of least squares a hundredfold", where="but where they interpolate")
def interpolation(rng, *, features: Annotated[int, Interval(ge=1, le=1000)] = 100) -> float:
    return 100 - interpolation_risk(features)


@always("Features fewer than samples never raise the risk of least squares a hundredfold", where="mended: by a tenth")
def interpolation_mended(rng, *, features: Annotated[int, Interval(ge=1, le=450)] = 100) -> float:
    return 100 - interpolation_risk(features)
