"""Linear discriminants when features and samples grow together: limits of their errors in closed form.

Two Gaussian classes with common covariance (here ``I`` unless said otherwise) at squared Mahalanobis distance
``signal``; ``p / n_k -> gamma_k`` for the class sizes and ``p / n -> gamma`` for the pooled sample, so that
``1/gamma = 1/gamma0 + 1/gamma1``. The rule is ``w = M (mean1 - mean0)`` with a function ``M`` of the pooled
covariance. Since that covariance is independent of the means and invariant to rotations, only two numbers of
``M`` matter: ``m1 = lim tr(M)/p`` and ``m2 = lim tr(M^2)/p``.

The formulas are derived in ``tests/papers/test_label_shift.py`` or checked there against independent ones.
Those that are plain arithmetic take sympy symbols as well as arrays.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from porism.arrays import check_count, check_number
from porism.errors import ParameterError
from porism_sims.label_shift import geometry
from porism_theory.statistics._covariance_engine import Intercept, errors_of_any_covariance

Array = NDArray[np.float64]
Limit = Literal["pseudo", "ridgeless", "known"]


class Moments(NamedTuple):
    """``m1 = lim tr(M)/p`` and ``m2 = lim tr(M^2)/p``: arrays, or symbols."""

    first: Any
    second: Any

    @property
    def rho_squared(self) -> Any:
        """``m1^2 / m2`` in (0, 1]: the share of the squared separation that estimating the covariance leaves."""
        return self.first**2 / self.second


def inverse_moments(gamma: Any) -> Moments:
    """Moments of the inverse, ``gamma < 1``."""
    return Moments(1 / (1 - gamma), 1 / (1 - gamma) ** 3)


def pseudo_moments(gamma: Any) -> Moments:
    """Moments of the pseudo-inverse, ``gamma > 1``."""
    return Moments(1 / (gamma * (gamma - 1)), 1 / (gamma - 1) ** 3)


def ridgeless_moments(gamma: Any) -> Moments:
    """Moments of ``lim ridge (S + ridge)^-1``, ``gamma > 1``: the projection on the null space of ``S``."""
    return Moments(1 - 1 / gamma, 1 - 1 / gamma)


def ridge_moments(gamma: Any, ridge: Any, kappa: Any) -> Moments:
    """Moments of ``(S + ridge)^-1``; ``first`` is the Stieltjes transform of Marchenko-Pastur at ``-ridge``.

    Parameters
    ----------
    gamma, ridge
        Aspect ratio and ridge, positive.
    kappa
        ``effective_ridge(gamma, ridge)``.
    """
    first = kappa / (ridge * (1 + kappa))
    return Moments(first, first**2 / (1 - gamma / (1 + kappa) ** 2))


def known_moments(ridge: Any = 0.0) -> Moments:
    """Moments of ``(Sigma + ridge)^-1`` with the true covariance ``Sigma = I``, at every aspect ratio."""
    return Moments(1 / (1 + ridge), 1 / (1 + ridge) ** 2)


def effective_ridge(gamma: ArrayLike, ridge: ArrayLike) -> Array:
    """The ``kappa > 0`` with ``kappa = ridge + gamma kappa / (1 + kappa)``, without cancellation.

    Examples
    --------
    >>> float(effective_ridge(1.0, 0.5))
    1.0
    """
    gap = np.asarray(1 - gamma - np.asarray(ridge, dtype=float))
    root = np.sqrt(gap**2 + 4 * np.asarray(ridge))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap > 0, 2 * np.asarray(ridge) / (root + gap), (root - gap) / 2)


def moments(gamma: ArrayLike, *, ridge: float = 0.0, limit: Limit = "pseudo") -> Moments:
    """Moments at any aspect ratio; without a ridge the sample's covariance excludes 1.

    Parameters
    ----------
    gamma
        ``p / n``, positive.
    ridge
        0 for the inverse, which for ``gamma > 1`` is replaced by what ``limit`` says.
    limit
        ``"pseudo"``: the pseudo-inverse. ``"ridgeless"``: the direction in which a vanishing ridge leaves the
        rule; it is another one, because a small ridge amplifies what the pseudo-inverse deletes. ``"known"``: the
        true covariance in place of the sample's, at every aspect ratio.

    Raises
    ------
    ParameterError
        If ``gamma`` is not positive and finite, ``ridge`` is negative, ``limit`` is unknown, or ``gamma`` is 1 without
        a ridge, where the moments are infinite.

    Examples
    --------
    >>> [float(moments(2.0, limit=limit).rho_squared) for limit in ("pseudo", "ridgeless")]
    [0.25, 0.5]
    """
    gamma = np.asarray(gamma, dtype=float)
    if not np.all((gamma > 0) & (gamma < np.inf)):
        raise ParameterError("gamma must be positive and finite")
    check_number("ridge", ridge, at_least=0, below=np.inf)
    if limit not in ("pseudo", "ridgeless", "known"):
        raise ParameterError(f"limit must be one of pseudo, ridgeless, known, got {limit!r}")
    if limit == "known":
        return Moments(*(np.broadcast_to(moment, gamma.shape) for moment in known_moments(ridge)))
    if ridge > 0:
        return ridge_moments(gamma, ridge, effective_ridge(gamma, ridge))
    if np.any(gamma == 1):
        raise ParameterError("gamma must not be 1 without a ridge: there the moments are infinite")
    with np.errstate(divide="ignore", invalid="ignore"):
        below, above = inverse_moments(gamma), (pseudo_moments if limit == "pseudo" else ridgeless_moments)(gamma)
    return Moments(*(np.where(gamma < 1, low, high) for low, high in zip(below, above, strict=True)))


def wishart_moments(dimension: int, degrees: int) -> Moments:
    """Exact expectations of ``tr(M)/p`` and ``tr(M^2)/p`` at finite size, (pseudo-)inverse.

    Raises
    ------
    ParameterError
        If ``abs(dimension - degrees) <= 3``, where an expectation is infinite.
    """
    p, n = dimension, degrees
    if abs(p - n) <= 3:
        raise ParameterError(f"dimension must differ from degrees by more than 3, got {p} and {n}")
    if n > p:
        return Moments(n / (n - p - 1), n**2 * (n - 1) / ((n - p) * (n - p - 1) * (n - p - 3)))
    return Moments(n**2 / (p * (p - n - 1)), n**3 * (p - 1) / (p * (p - n) * (p - n - 1) * (p - n - 3)))


def errors(
    gamma0: ArrayLike, gamma1: ArrayLike, signal: ArrayLike, *, moments: Moments, intercept: Intercept = "none"
) -> tuple[Array, Array]:
    """Limits of the two classes' errors.

    Parameters
    ----------
    gamma0, gamma1
        ``p / n0`` and ``p / n1``.
    signal
        Squared Mahalanobis distance of the classes.
    moments
        Of the matrix in the rule, at ``1/gamma = 1/gamma0 + 1/gamma1``.
    intercept
        ``"none"``; ``"prior"``, the logarithm of ``n1 / n0``; ``"debiased"``, ``m1 (gamma1 - gamma0) / 2``.

    Raises
    ------
    ParameterError
        If ``gamma0`` or ``gamma1`` is not positive, ``signal`` is negative, or ``intercept`` is unknown.

    Examples
    --------
    >>> e0, e1 = errors(0.2, 0.6, 9.0, moments=inverse_moments(0.15))
    >>> round(float(e0), 4), round(float(e1), 4)
    (0.0832, 0.1027)
    """
    gamma0, gamma1, signal = (np.asarray(value, dtype=float) for value in (gamma0, gamma1, signal))
    if not (np.all(gamma0 > 0) and np.all(gamma1 > 0) and np.all(signal >= 0)):
        raise ParameterError("gamma0 and gamma1 must be positive, and signal must not be negative")
    if intercept not in ("none", "prior", "debiased"):
        raise ParameterError(f"intercept must be one of none, prior, debiased, got {intercept!r}")
    first, second = moments
    added = {
        "none": 0.0,
        "prior": np.log(gamma0 / gamma1),
        "debiased": first * (gamma1 - gamma0) / 2,
    }[intercept]
    # Each sample mean errs by a vector of squared length gamma_k: together they blur the direction, and what
    # is left of them in the midpoint moves the threshold towards the smaller class.
    width = np.sqrt(second * (signal + gamma0 + gamma1))
    score0 = first * (signal + gamma1 - gamma0) / 2 - added
    score1 = first * (signal + gamma0 - gamma1) / 2 + added
    return ndtr(-score0 / width), ndtr(-score1 / width)


def bayes_error(signal: float) -> float:
    """Error of who knows means and covariance: ``Phi(-sqrt(signal) / 2)``.

    Examples
    --------
    >>> round(bayes_error(9.0), 4)
    0.0668
    """
    return float(ndtr(-np.sqrt(check_number("signal", signal, at_least=0)) / 2))


def marchenko_pastur_laws(gamma: Any, ridge: Any, power: int = 2) -> Any:
    """What makes :func:`ridge_moments` those of the Marchenko-Pastur law, as a statement for sympy.

    The Stieltjes transform's quadratic, ``m2 = -dm/dridge``, and ``rho^2 = 1 - gamma / (1 + kappa)^power`` (power 2).
    """
    kappa = (gamma + ridge - 1 + sympy.sqrt((gamma + ridge - 1) ** 2 + 4 * ridge)) / 2
    m = ridge_moments(gamma, ridge, kappa)
    law = sympy.Eq(gamma * ridge * m.first**2 + (1 - gamma + ridge) * m.first, 1)
    slope = sympy.Eq(m.second, -sympy.diff(m.first, ridge))
    return sympy.And(law, slope, sympy.Eq(m.rho_squared, 1 - gamma / (1 + kappa) ** power))


def exact_errors(
    rng: np.random.Generator, *, dimension: int, majority: int, minority: int, signal: float, draws: int
) -> tuple[Array, Array]:
    """Draws from the exact law of both errors at finite size, without any matrix (isotropic, no ridge, no intercept).

    Up to its length ``w`` is ``rho u + sqrt(1 - rho^2) v``: ``u`` points along the difference of the sample means,
    ``v`` is uniform on the sphere across it, and rho^2 has a Beta law. For ``p > n`` the pseudo-inverse sees a random
    n-dimensional subspace only, so that a second Beta variable is a factor. Derived.

    Parameters
    ----------
    rng
        Draws six numbers for each pair of errors, seven for the pseudo-inverse.
    dimension, majority, minority, signal
        As in ``porism_sims.label_shift.simulate``; at least 3 features.
    draws
        How many training sets.

    Returns
    -------
    majority_error, minority_error : array of shape (draws,)

    Raises
    ------
    ParameterError
        If there are fewer than 3 features, 2 samples of a class, or 1 draw.

    Examples
    --------
    >>> e0, e1 = exact_errors(
    ...     np.random.default_rng(0), dimension=10**6, majority=3 * 10**6, minority=10**6, signal=9.0, draws=100
    ... )
    >>> round(float(e0.mean()), 3), round(float(e1.mean()), 3)  # the limit, at a size that no computer holds
    (0.096, 0.131)
    """
    for name, value, low in (("dimension", dimension, 3), ("majority", majority, 2), ("minority", minority, 2)):
        check_count(name, value, low)
    p, degrees = dimension, majority + minority - 2
    small, large = min(p, degrees), max(p, degrees)
    rho_squared = rng.beta((large - small + 2) / 2, (small - 1) / 2, size=check_count("draws", draws, 1))
    if p > degrees:
        rho_squared *= rng.beta(degrees / 2, (p - degrees) / 2, size=draws)
    # The difference of the sample means, along the true one and across it.
    spread, distance = 1 / majority + 1 / minority, np.sqrt(check_number("signal", signal, at_least=0))
    along = distance + np.sqrt(spread) * rng.standard_normal(draws)
    across = np.sqrt(spread * rng.chisquare(p - 1, size=draws))
    length = np.hypot(along, across)
    # A coordinate of v in the plane of both differences, and the midpoint's part that is independent of them.
    normal = rng.standard_normal(draws)
    sideways = np.sqrt(1 - rho_squared) * normal / np.sqrt(normal**2 + rng.chisquare(p - 2, size=draws))
    rho = np.sqrt(rho_squared)
    true = distance * (rho * along - sideways * across) / length
    lean = (majority - minority) / (majority + minority) / 2
    midpoint = lean * (rho * length - true) + rng.standard_normal(draws) / np.sqrt(majority + minority)
    return ndtr(-(true / 2 + midpoint)), ndtr(-(true / 2 - midpoint))


def predict(
    *,
    dimension: int,
    majority: float,
    minority: float,
    signal: float = 9.0,
    condition: float = 1.0,
    ridge: float = 0.0,
    intercept: Intercept = "none",
    covariance: Literal["pooled", "known"] = "pooled",
    sampling: Literal["all", "down"] = "all",
    sizes: Literal["limit", "finite"] = "limit",
) -> tuple[float, float]:
    """Errors that theory foresees for the settings of ``porism_sims.label_shift.simulate``.

    Parameters
    ----------
    dimension, majority, minority, signal, condition, ridge, intercept, covariance, sampling
        As there; sizes of classes need not be whole numbers where the covariance is isotropic.
    sizes
        ``"limit"``, or ``"finite"`` for the exact moments of Wishart matrices in the limit's formula: without a
        ridge and isotropic only.

    Raises
    ------
    ParameterError
        If there are at most 2 samples, if ``dimension`` is the ``majority + minority - 2`` degrees of freedom and
        there is no ridge, if the pseudo-inverse of an anisotropic covariance is asked for, which no formula here
        covers, or from the formulas.

    Examples
    --------
    >>> [round(error, 4) for error in predict(dimension=200, majority=150, minority=50, ridge=0.5)]
    [0.0912, 0.2345]
    """
    if sampling == "down":
        majority = minority = min(majority, minority)
    degrees = majority + minority - 2
    if min(majority, minority) <= 0 or degrees <= 0:
        raise ParameterError(f"majority + minority must be above 2, got {majority} and {minority}")
    known = covariance == "known"
    if not known and ridge == 0 and dimension == degrees:
        raise ParameterError(f"dimension must differ from majority + minority - 2 = {degrees} without a ridge")
    if condition != 1:
        if not known and ridge == 0 and dimension > degrees:
            raise ParameterError("condition must be 1 for the pseudo-inverse: no formula covers another covariance")
        means, variances = geometry(dimension, signal, condition)
        rule = {"ridge": ridge, "intercept": intercept, "known": known}
        return errors_of_any_covariance(variances, means[1], int(majority), int(minority), **rule)
    if sizes == "finite" and (ridge > 0 or known):
        raise ParameterError("sizes must be 'limit' with a ridge or a known covariance")
    finite = sizes == "finite"
    matrix = (
        wishart_moments(dimension, int(degrees))
        if finite
        else moments(dimension / degrees, ridge=ridge, limit="known" if known else "pseudo")
    )
    e0, e1 = errors(dimension / majority, dimension / minority, signal, moments=matrix, intercept=intercept)
    return float(e0), float(e1)
