"""Linear discriminants with any covariance: limits of their errors by deterministic equivalents.

The isotropic limits of ``_engine.py`` depend on three aspect ratios; here every eigenvalue of the covariance counts,
and how much of the classes' difference lies along it. Derived, and checked in ``tests/papers/test_label_shift.py``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from porism.arrays import check_count, check_number
from porism.errors import ParameterError

Array = NDArray[np.float64]
Intercept = Literal["none", "prior", "debiased"]


def errors_of_any_covariance(
    variances: Array,
    difference: Array,
    n0: int,
    n1: int,
    *,
    ridge: float = 0.0,
    intercept: Intercept = "none",
    known: bool = False,
) -> tuple[float, float]:
    """Errors for a general covariance, by its deterministic equivalent.

    Parameters
    ----------
    variances
        Eigenvalues of the true covariance, positive, shape (p,).
    difference
        ``mean1 - mean0`` in the eigenbasis, shape (p,).
    n0, n1
        Class sizes, at least 2 each.
    ridge
        At 0 the inverse, or for ``p > n0 + n1 - 2`` the limit of a vanishing ridge (not the pseudo-inverse).
    intercept
        ``"none"``; ``"prior"``, ``log(n1 / n0)``; ``"debiased"``, which makes both errors equal.
    known
        Whether the rule has the true covariance in place of the sample's; then every ``p`` will do.

    Raises
    ------
    ParameterError
        If shapes differ, a variance is not positive, a class has fewer than 2 samples, the ridge is negative, the
        intercept unknown, or ``p = n0 + n1 - 2`` without a ridge, where the limits from both sides differ.

    Examples
    --------
    >>> variances = np.geomspace(1, 20, 60)
    >>> e0, e1 = errors_of_any_covariance(variances, np.sqrt(9 * variances / 60), 90, 45)
    >>> round(e0, 3), round(e1, 3)
    (0.14, 0.176)
    """
    variances, difference = np.asarray(variances, dtype=float), np.asarray(difference, dtype=float)
    if variances.ndim != 1 or variances.shape != difference.shape or not np.all(variances > 0):
        raise ParameterError("variances must be positive, and difference of the same shape (p,)")
    check_count("n0", n0, 2)
    check_count("n1", n1, 2)
    check_number("ridge", ridge, at_least=0, below=np.inf)
    if intercept not in ("none", "prior", "debiased"):
        raise ParameterError(f"intercept must be one of none, prior, debiased, got {intercept!r}")
    degrees = np.inf if known else float(n0 + n1 - 2)
    kappa = effective_ridge_of_any_covariance(variances, degrees, ridge)
    shrunk = 1 / (variances + kappa)
    effective = np.sum(variances * shrunk)
    lean = effective * (1 / n1 - 1 / n0) / 2
    # ridge / kappa, the scale of the weights, is also 1 - effective / degrees.
    added = {"none": 0.0, "prior": (1 - effective / degrees) * np.log(n1 / n0), "debiased": lean}[intercept]
    blur = (1 / n0 + 1 / n1) * np.sum((variances * shrunk) ** 2)
    direction = np.sum(difference**2 * variances * shrunk**2)
    width = np.sqrt((direction + blur) / (1 - np.sum((variances * shrunk) ** 2) / degrees))
    half = np.sum(difference**2 * shrunk) / 2
    return float(ndtr(-(half + lean - added) / width)), float(ndtr(-(half - lean + added) / width))


def effective_ridge_of_any_covariance(variances: Array, degrees: float, ridge: float) -> float:
    """``kappa = ridge + kappa tr[Sigma (Sigma + kappa)^-1] / degrees``; infinite degrees leave the ridge.

    Examples
    --------
    >>> round(effective_ridge_of_any_covariance(np.ones(10), 10, 0.5), 12)  # isotropic with gamma = 1
    1.0
    """
    if degrees == np.inf or (ridge == 0 and variances.size < degrees):
        return ridge
    if ridge == 0 and variances.size == degrees:
        raise ParameterError(f"ridge must be positive where p = n0 + n1 - 2, here {variances.size}")
    largest = variances.max()
    upper = ridge + 10 * largest * (1 + variances.size / degrees)

    def gap(kappa: float) -> float:
        return float(kappa - ridge - kappa * np.sum(variances / (variances + kappa)) / degrees)

    return float(brentq(gap, max(ridge, 1e-14 * largest), upper, xtol=1e-15, rtol=1e-14))
