"""Fisher's linear discriminant on two unbalanced Gaussian classes, with its error known exactly.

Two classes ``N(mean_k, covariance)`` of unequal size are drawn, the discriminant is trained on them, and
its error on each class follows from the trained weights in closed form: no test set, hence no test noise.

All the matrices ``M`` that stand in for the inverse of the pooled covariance ``S`` are functions of its
spectrum, so one eigendecomposition of the smaller Gram matrix serves the inverse, the pseudo-inverse and
every ridge at once. Who knows the true covariance needs none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray
from scipy.special import ndtr

from porism.arrays import check_count, check_number
from porism.errors import ParameterError
from porism.parameters import validated

Array = NDArray[np.float64]
Intercept = Literal["none", "prior", "debiased"]

# Eigenvalues below this share of the largest one are the zeros that centring leaves, not data.
RANK_TOLERANCE = 1e-10
# A positive ridge below this has reached its limit; its weights, which grow as 1 / ridge, would overflow.
SMALLEST_RIDGE = 1e-100


class Summary(NamedTuple):
    """What the discriminant needs to know of two samples.

    Attributes
    ----------
    means
        Sample means, shape (2, p).
    counts
        Sample sizes ``(n0, n1)``.
    eigenvalues, basis
        Positive eigenvalues of the pooled covariance, shape (k,), and its eigenvectors, shape (p, k).
    """

    means: Array
    counts: tuple[int, int]
    eigenvalues: Array
    basis: Array

    @property
    def degrees(self) -> int:
        """Degrees of freedom ``n0 + n1 - 2``: the divisor of the pooled covariance."""
        return sum(self.counts) - 2


class Discriminant(NamedTuple):
    """Predicts class 1 where ``x @ weights + offset > 0``; ``weights`` has shape (p,)."""

    weights: Array
    offset: float


def draw_class(rng: np.random.Generator, count: int, mean: Array, variances: Array) -> Array:
    """Draw ``count`` points of ``N(mean, diag(variances))``, shape (count, p)."""
    return mean + rng.standard_normal((count, mean.size)) * np.sqrt(variances)


def geometry(dimension: int, signal: float, condition: float = 1.0) -> tuple[Array, Array]:
    """Means and variances of two classes at squared Mahalanobis distance ``signal``.

    Returns
    -------
    means : array of shape (2, p)
        The origin, and a point as many standard deviations away from it in every coordinate.
    variances : array of shape (p,)
        Geometric from 1 to ``condition``.

    Raises
    ------
    ParameterError
        If ``dimension`` is below 1, ``signal`` negative, or ``condition`` below 1.

    Examples
    --------
    >>> means, variances = geometry(4, 9.0, condition=8.0)
    >>> float(np.sum((means[1] - means[0]) ** 2 / variances))
    9.0
    """
    check_count("dimension", dimension, 1)
    check_number("signal", signal, at_least=0, below=np.inf)
    check_number("condition", condition, at_least=1, below=np.inf)
    variances = np.geomspace(1.0, condition, dimension)
    return np.stack([np.zeros(dimension), np.sqrt(variances * signal / dimension)]), variances


def summarise(class0: Array, class1: Array) -> Summary:
    """Means and pooled covariance (divisor ``n - 2``, each class about its own mean), as a spectrum.

    Parameters
    ----------
    class0, class1
        Samples of shape (n0, p) and (n1, p), with at least two rows each.

    Raises
    ------
    ParameterError
        If the samples are not matrices with the same number of columns, are too small, or do not vary.
    """
    if class0.ndim != 2 or class1.ndim != 2 or class0.shape[1] != class1.shape[1]:
        raise ParameterError(f"class0 and class1 must have shapes (n0, p), (n1, p), got {class0.shape}, {class1.shape}")
    counts = len(class0), len(class1)
    if min(counts) < 2:
        raise ParameterError(f"class0 and class1 must have at least 2 rows each, got {counts}")
    means = np.stack([class0.mean(axis=0), class1.mean(axis=0)])
    residuals = np.concatenate([class0 - means[0], class1 - means[1]]) / np.sqrt(sum(counts) - 2)
    wide = residuals.shape[1] > len(residuals)
    eigenvalues, vectors = np.linalg.eigh(residuals @ residuals.T if wide else residuals.T @ residuals)
    kept = eigenvalues > RANK_TOLERANCE * eigenvalues[-1]
    if not kept.any():
        raise ParameterError("class0 and class1 must vary within at least one class")
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    # An eigenvector u of the Gram matrix Z Z' gives the eigenvector Z' u / sqrt(eigenvalue) of Z' Z.
    basis = residuals.T @ (vectors / np.sqrt(eigenvalues)) if wide else vectors
    return Summary(means, counts, eigenvalues, basis)


def discriminant(summary: Summary, *, ridge: float = 0.0, intercept: Intercept = "none") -> Discriminant:
    """Fisher's rule ``w = M (mean1 - mean0)`` with its threshold at the midpoint of the sample means.

    Parameters
    ----------
    summary
        From :func:`summarise`.
    ridge
        ``M = (S + ridge I)^-1``; at 0 the inverse of the pooled covariance ``S``, or its pseudo-inverse
        where it is singular. The limit of a vanishing ridge is another rule: take a small one for it.
    intercept
        What is added to the score: ``"none"``; ``"prior"``, ``log(n1 / n0)`` of the training classes;
        ``"debiased"``, an estimate of what the unequal errors of the two means take away.

    Raises
    ------
    ParameterError
        If ``ridge`` is negative or not finite, or ``intercept`` is unknown.
    """
    _check_ridge(ridge)
    ridge = max(ridge, SMALLEST_RIDGE) if ridge else 0.0
    difference = summary.means[1] - summary.means[0]
    along = summary.basis.T @ difference
    weights = summary.basis @ (along / (summary.eigenvalues + ridge))
    if ridge > 0 and len(summary.eigenvalues) < difference.size:
        # Directions in which the sample does not vary: the pseudo-inverse drops them, a ridge does not.
        weights += (difference - summary.basis @ along) / ridge
    added = _intercept(summary.counts, intercept, lambda: _trace_of_m_sigma(summary, ridge))
    return Discriminant(weights, float(added - weights @ summary.means.mean(axis=0)))


def known_discriminant(
    means: Array, counts: tuple[int, int], variances: Array, *, ridge: float = 0.0, intercept: Intercept = "none"
) -> Discriminant:
    """Fisher's rule with the true covariance in place of the pooled one; only the means are estimated.

    Parameters
    ----------
    means
        Sample means, shape (2, p).
    counts
        Sample sizes ``(n0, n1)``, at least 1 each.
    variances
        Diagonal of the true covariance in its eigenbasis, positive, shape (p,).
    ridge, intercept
        As in :func:`discriminant`.

    Raises
    ------
    ParameterError
        As :func:`discriminant`, or if a variance or a count is not positive.

    Examples
    --------
    >>> known_discriminant(np.array([[0.0, 0.0], [2.0, 2.0]]), (5, 5), np.array([1.0, 4.0])).weights
    array([2. , 0.5])
    """
    _check_ridge(ridge)
    if np.any(variances <= 0) or min(counts) < 1:
        raise ParameterError("variances and counts must be positive")
    shrunk = 1 / (variances + ridge)
    weights = shrunk * (means[1] - means[0])
    added = _intercept(counts, intercept, lambda: float(np.sum(variances * shrunk)))
    return Discriminant(weights, float(added - weights @ means.mean(axis=0)))


def class_errors(rule: Discriminant, means: Array, covariance: Array) -> tuple[float, float]:
    """Exact misclassification probabilities of the two classes ``N(means[k], covariance)``.

    Parameters
    ----------
    rule
        From :func:`discriminant`.
    means
        True means, shape (2, p).
    covariance
        True covariance, shape (p, p), or its diagonal, shape (p,).

    Examples
    --------
    >>> rule = Discriminant(np.array([1.0]), -1.0)
    >>> e0, e1 = class_errors(rule, np.array([[0.0], [2.0]]), np.array([1.0]))
    >>> round(e0, 6), round(e1, 6)
    (0.158655, 0.158655)

    Raises
    ------
    ParameterError
        If all weights are 0 or one is not finite: such a rule has no direction.
    """
    weights = rule.weights
    if not (np.all(np.isfinite(weights)) and weights.any()):
        raise ParameterError("rule must have finite weights that are not all 0")
    spread = covariance @ weights if covariance.ndim == 2 else covariance * weights
    score0, score1 = (means @ weights + rule.offset) / np.sqrt(weights @ spread)
    return float(ndtr(score0)), float(ndtr(-score1))


def down_sample(rng: np.random.Generator, class0: Array, class1: Array) -> tuple[Array, Array]:
    """Throw rows of the larger class away at random until both classes have the size of the smaller one."""
    size = min(len(class0), len(class1))
    return rng.permutation(class0)[:size], rng.permutation(class1)[:size]


@validated
def simulate(
    rng: np.random.Generator,
    *,
    dimension: Annotated[int, Interval(ge=1, le=4000)] = 200,
    majority: Annotated[int, Interval(ge=2, le=20000)] = 150,
    minority: Annotated[int, Interval(ge=2, le=20000)] = 50,
    signal: Annotated[float, Interval(ge=0, le=400)] = 9.0,
    condition: Annotated[float, Interval(ge=1, le=1e4)] = 1.0,
    ridge: Annotated[float, Interval(ge=0, le=1e6)] = 0.0,
    intercept: Intercept = "none",
    covariance: Literal["pooled", "known"] = "pooled",
    sampling: Literal["all", "down"] = "all",
    repetitions: Annotated[int, Interval(ge=1, le=10000)] = 20,
) -> dict[str, Array]:
    """Train on unbalanced classes, and return the exact error on each class.

    Parameters
    ----------
    dimension
        Number of features p.
    majority, minority
        Training sizes n0 and n1.
    signal
        Squared Mahalanobis distance of the two classes.
    condition
        Condition number of the true covariance; 1 is isotropic.
    ridge, intercept
        As in :func:`discriminant`.
    covariance
        Whether the rule has the pooled covariance of the sample or the true one.
    sampling
        ``"down"`` throws data away until the classes are equal. Both choices draw the same training sets
        from the same generator.
    repetitions
        Number of independent training sets.

    Returns
    -------
    dict
        ``majority_error``, ``minority_error`` and their mean ``error`` (the error on balanced classes),
        each of shape (repetitions,).

    Raises
    ------
    ParameterError
        If a parameter is outside its range.

    Examples
    --------
    >>> errors = simulate(np.random.default_rng(0), dimension=20, majority=4000, minority=2000)
    >>> bool(abs(errors["error"].mean() - 0.067) < 0.002)  # Bayes: Phi(-3/2) = 0.0668
    True
    """
    means, variances = geometry(dimension, signal, condition)
    errors = np.empty((repetitions, 2))
    for row in errors:
        classes = draw_class(rng, majority, means[0], variances), draw_class(rng, minority, means[1], variances)
        # Drawn from a child, so that the parent's stream is the same with and without down-sampling.
        (child,) = rng.spawn(1)
        kept = down_sample(child, *classes) if sampling == "down" else classes
        if covariance == "known":
            counts, found = (len(kept[0]), len(kept[1])), np.stack([x.mean(axis=0) for x in kept])
            rule = known_discriminant(found, counts, variances, ridge=ridge, intercept=intercept)
        else:
            rule = discriminant(summarise(*kept), ridge=ridge, intercept=intercept)
        row[:] = class_errors(rule, means, variances)
    return {"majority_error": errors[:, 0], "minority_error": errors[:, 1], "error": errors.mean(axis=1)}


def mean_error(rng: np.random.Generator, **settings: Any) -> float:
    """Mean over training sets of the ``error`` that :func:`simulate` returns with these settings."""
    return float(simulate(rng, **settings)["error"].mean())


def gain_of_keeping(rng: np.random.Generator, **settings: Any) -> Array:
    """Error after down-sampling minus error on all data, on the same training sets.

    Parameters
    ----------
    rng
        Source of the training sets.
    **settings
        Those of :func:`simulate`, but ``sampling``.

    Returns
    -------
    array of shape (repetitions,)
        Positive where keeping all data is better.

    Examples
    --------
    >>> gain = gain_of_keeping(np.random.default_rng(0), dimension=20, majority=400, minority=40)
    >>> bool(gain.mean() > 0)
    True
    """
    same = copy.deepcopy(rng)
    return simulate(same, **settings, sampling="down")["error"] - simulate(rng, **settings)["error"]


def _check_ridge(ridge: float) -> None:
    if not 0 <= ridge < np.inf:
        raise ParameterError(f"ridge must be finite and not negative, got {ridge!r}")


def _intercept(counts: tuple[int, int], intercept: Intercept, trace_of_m_sigma: Callable[[], float]) -> float:
    n0, n1 = counts
    if intercept == "none":
        return 0.0
    if intercept == "prior":
        return float(np.log(n1 / n0))
    if intercept != "debiased":
        raise ParameterError(f"intercept must be one of none, prior, debiased, got {intercept!r}")
    # The error of the sample midpoint leans towards the minority: its mean score is off by
    # trace(M Sigma) (1/n0 - 1/n1) / 2.
    return 0.5 * trace_of_m_sigma() * (1 / n1 - 1 / n0)


def _trace_of_m_sigma(summary: Summary, ridge: float) -> float:
    """Consistent estimate of ``trace(M Sigma)`` from the sample (derived in the tests of the paper).

    With ``d = trace(S (S + ridge)^-1)`` it is ``d / (1 - d / degrees)`` for every covariance. The
    pseudo-inverse of a singular ``S`` has no such estimate; there the features are taken to be isotropic.
    """
    eigenvalues, dimension = summary.eigenvalues, summary.means.shape[1]
    if ridge == 0 and dimension >= summary.degrees:
        return float(np.sum(1 / eigenvalues) * np.sum(eigenvalues) / dimension)
    effective = np.sum(eigenvalues / (eigenvalues + ridge))
    # degrees - effective, without cancellation
    rest = np.sum(ridge / (eigenvalues + ridge)) + (summary.degrees - eigenvalues.size)
    return float(effective * summary.degrees / rest)
