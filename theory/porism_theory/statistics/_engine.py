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

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from porism.errors import ParameterError

Array = NDArray[np.float64]
Limit = Literal["pseudo", "ridgeless"]

# Loads on which a critical ridge is sought, in units of (1 + ratio)/2, where the full data sit on the peak.
_LOADS = np.geomspace(0.05, 20, 600)


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
    """Moments at any aspect ratio but 1 (any, with a ridge).

    Parameters
    ----------
    gamma
        ``p / n``, positive.
    ridge
        0 for the inverse, which for ``gamma > 1`` is replaced by what ``limit`` says.
    limit
        ``"pseudo"``: the pseudo-inverse. ``"ridgeless"``: the direction in which a vanishing ridge leaves the
        rule; it is another one, because a small ridge amplifies what the pseudo-inverse deletes.

    Raises
    ------
    ParameterError
        If ``gamma`` is not positive or ``ridge`` is negative.

    Examples
    --------
    >>> [float(moments(2.0, limit=limit).rho_squared) for limit in ("pseudo", "ridgeless")]
    [0.25, 0.5]
    """
    gamma = np.asarray(gamma, dtype=float)
    if not np.all(gamma > 0):
        raise ParameterError("gamma must be positive")
    if not ridge >= 0:
        raise ParameterError(f"ridge must not be negative, got {ridge!r}")
    if ridge > 0:
        return ridge_moments(gamma, ridge, effective_ridge(gamma, ridge))
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
    gamma0: ArrayLike, gamma1: ArrayLike, signal: ArrayLike, *, moments: Moments, intercept: str = "none"
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

    Examples
    --------
    >>> e0, e1 = errors(0.2, 0.6, 9.0, moments=inverse_moments(0.15))
    >>> round(float(e0), 4), round(float(e1), 4)
    (0.0832, 0.1027)
    """
    gamma0, gamma1, signal = (np.asarray(value, dtype=float) for value in (gamma0, gamma1, signal))
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


def predict(
    *,
    dimension: int,
    majority: int,
    minority: int,
    signal: float,
    ridge: float = 0.0,
    intercept: str = "none",
    sampling: str = "all",
) -> tuple[float, float]:
    """Errors that the limit foresees for the settings of ``porism_sims.label_shift.simulate`` (isotropic)."""
    if sampling == "down":
        majority = minority = min(majority, minority)
    matrix = moments(dimension / (majority + minority - 2), ridge=ridge)
    e0, e1 = errors(dimension / majority, dimension / minority, signal, moments=matrix, intercept=intercept)
    return float(e0), float(e1)


def separation(gamma: ArrayLike, spread: ArrayLike, signal: ArrayLike, **matrix: Any) -> Array:
    """``F = rho^2 / (signal + spread)``; the debiased rule errs with probability ``Phi(-signal sqrt(F) / 2)``.

    ``spread`` is ``gamma0 + gamma1``. Keyword arguments go to :func:`moments`.
    """
    return moments(gamma, **matrix).rho_squared / (np.asarray(signal) + spread)


def advantage(load: ArrayLike, ratio: ArrayLike, signal: ArrayLike, **matrix: Any) -> Array:
    """Whether keeping all data beats down-sampling the majority, for the debiased rule.

    Parameters
    ----------
    load
        ``g = p / (2 n1)``: the aspect ratio of the down-sampled set.
    ratio
        ``r = n0 / n1 >= 1``.
    signal
        Squared Mahalanobis distance.
    **matrix
        To :func:`moments`.

    Returns
    -------
    array
        ``(F_all - F_down) / (F_all + F_down)`` in [-1, 1], positive where keeping is better.
    """
    load, ratio = np.asarray(load, dtype=float), np.asarray(ratio, dtype=float)
    keep = separation(2 * load / (1 + ratio), 2 * load * (1 + ratio) / ratio, signal, **matrix)
    down = separation(load, 4 * load, signal, **matrix)
    return (keep - down) / (keep + down)


def keep_and_down(
    load: ArrayLike, ratio: ArrayLike, signal: ArrayLike, *, intercept: str = "none", **matrix: Any
) -> tuple[Array, Array]:
    """Errors on balanced classes with all data and with the down-sampled set, for any intercept.

    Parameters are those of :func:`advantage` and the ``intercept`` of :func:`errors`.
    """
    gamma1 = 2 * np.asarray(load, dtype=float)
    whole, half = moments(gamma1 / (1 + np.asarray(ratio)), **matrix), moments(gamma1 / 2, **matrix)
    keep = errors(gamma1 / ratio, gamma1, signal, moments=whole, intercept=intercept)
    down = errors(gamma1, gamma1, signal, moments=half, intercept=intercept)
    return (keep[0] + keep[1]) / 2, (down[0] + down[1]) / 2


def pseudo_upper_load(signal: Any, ratio: Any, sqrt: Callable[[Any], Any] = np.sqrt) -> Any:
    """``g+`` of the pseudo-inverse: the load above which keeping all data wins again."""
    a, c = 8 / ratio, signal * (ratio + 3) / (ratio + 1)
    b = 2 * signal / (1 + ratio) - 4 * (ratio + 2) / ratio
    return (-b + sqrt(b**2 + 4 * a * c)) / (2 * a)


def ridgeless_upper_load(signal: Any, ratio: Any, sqrt: Callable[[Any], Any] = np.sqrt) -> Any:
    """``g+`` of the vanishing ridge."""
    return (ratio + 1 + sqrt((ratio + 1) ** 2 + ratio * signal)) / 2


def upper_load_at_balance(signal: Any, sqrt: Callable[[Any], Any] = np.sqrt) -> Any:
    """``g*``: limit of the pseudo-inverse's ``g+`` for ``ratio -> 1``, in (3/2, 2)."""
    return (12 - signal + sqrt((12 - signal) ** 2 + 64 * signal)) / 16


def window(signal: float, ratio: float, *, limit: Limit = "pseudo") -> tuple[float, float]:
    """Loads ``(g-, g+)`` between which down-sampling wins without a ridge (debiased rule).

    The window holds ``g = (1 + ratio)/2``, where the full data sit on the interpolation peak.

    Raises
    ------
    ParameterError
        If ``ratio`` is not above 1.

    Examples
    --------
    >>> [round(g, 3) for g in window(9.0, 3.0)]
    [1.597, 2.693]
    """
    if not ratio > 1:
        raise ParameterError(f"ratio must be above 1, got {ratio!r}")
    upper = (pseudo_upper_load if limit == "pseudo" else ridgeless_upper_load)(signal, ratio)
    peak, tiny = (1 + ratio) / 2, 1e-12 * (ratio - 1)
    lower = brentq(lambda load: advantage(load, ratio, signal, limit=limit), 1 + tiny, peak - tiny, xtol=1e-14)
    return float(lower), float(upper)


def critical_ridge(signal: float, ratio: float) -> float:
    """Smallest ridge with which keeping all data wins at every load (debiased rule).

    Examples
    --------
    >>> round(critical_ridge(9.0, 3.0), 3)
    0.186
    """

    def worst(log_ridge: float) -> float:
        return float(np.min(advantage(_LOADS * (1 + ratio) / 2, ratio, signal, ridge=np.exp(log_ridge))))

    return float(np.exp(brentq(worst, np.log(1e-6), np.log(1e3), xtol=1e-6)))


def errors_of_any_covariance(
    variances: Array, difference: Array, n0: int, n1: int, *, ridge: float = 0.0, intercept: str = "none"
) -> tuple[float, float]:
    """Errors for a general covariance, by its deterministic equivalent.

    Parameters
    ----------
    variances
        Eigenvalues of the true covariance, shape (p,).
    difference
        ``mean1 - mean0`` in the eigenbasis, shape (p,).
    n0, n1
        Class sizes.
    ridge
        At 0 the inverse, or for ``p > n0 + n1 - 2`` the limit of a vanishing ridge (not the pseudo-inverse).
    intercept
        As in :func:`errors`.
    """
    degrees = n0 + n1 - 2
    kappa = _effective_ridge_of_any_covariance(variances, degrees, ridge)
    shrunk = 1 / (variances + kappa)
    effective = np.sum(variances * shrunk)
    lean = effective * (1 / n1 - 1 / n0) / 2
    # ridge / kappa, the scale of the weights, is also 1 - effective / degrees.
    scale = 1 - effective / degrees
    added = {"none": 0.0, "prior": scale * np.log(n1 / n0), "debiased": lean}[intercept]
    blur = (1 / n0 + 1 / n1) * np.sum((variances * shrunk) ** 2)
    direction = np.sum(difference**2 * variances * shrunk**2)
    width = np.sqrt((direction + blur) / (1 - np.sum((variances * shrunk) ** 2) / degrees))
    half = np.sum(difference**2 * shrunk) / 2
    return float(ndtr(-(half + lean - added) / width)), float(ndtr(-(half - lean + added) / width))


def _effective_ridge_of_any_covariance(variances: Array, degrees: int, ridge: float) -> float:
    """``kappa = ridge + kappa tr[Sigma (Sigma + kappa)^-1] / degrees``."""
    if ridge == 0 and variances.size < degrees:
        return 0.0
    largest = variances.max()
    upper = ridge + 10 * largest * (1 + variances.size / degrees)

    def gap(kappa: float) -> float:
        return float(kappa - ridge - kappa * np.sum(variances / (variances + kappa)) / degrees)

    return float(brentq(gap, max(ridge, 1e-14 * largest), upper, xtol=1e-15, rtol=1e-14))
