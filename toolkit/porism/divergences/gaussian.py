"""Closed forms of f-divergences between Gaussians with full covariances, in batches, for numpy and torch.

Every function is ``d(mean_p, cov_p, mean_q, cov_q)`` with p = N(mean_p, cov_p) first, means of shape (..., d) and
symmetric positive definite covariances of shape (..., d, d); batch axes broadcast, and one value per pair of
Gaussians comes back. All are computed from the Cholesky factor of p's covariance in coordinates in which q's is
the identity, so they keep their accuracy where both covariances are ill-conditioned in the same way. Bad shapes,
entries that are not finite, and covariances that are not symmetric positive definite raise
:class:`~porism.errors.ParameterError`, which names the argument. Distances that are no f-divergences are in
:mod:`porism.divergences.gaussian_distances`.
"""

from __future__ import annotations

import math

from porism.arrays import Array, check_number
from porism.divergences._arrays import excess_over_log, safe_sqrt, special
from porism.divergences._gaussian_pair import (
    GaussianPair,
    cholesky_where_definite,
    diagonal,
    gaussian_pair,
    log_det,
    solve_vector,
    square_norm,
)
from porism.errors import ParameterError

# Nearer to one than this, the Renyi divergence takes logarithms of 1 + x instead of dividing a small difference.
_NEAR_ONE = 1e-3


def gaussian_kl(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Kullback-Leibler divergence KL(p‖q) between Gaussians.

    Parameters
    ----------
    mean_p, mean_q
        Means, shape (..., d).
    cov_p, cov_q
        Covariances, shape (..., d, d), symmetric positive definite.

    Returns
    -------
    Array
        Shape (...), nonnegative and finite. KL(q‖p) is the same with the arguments swapped.

    Raises
    ------
    ParameterError
        See the module.

    Notes
    -----
    ½[tr(S1⁻¹S0) + Δᵀ S1⁻¹ Δ − d + log(|S1|/|S0|)]: Kullback, Information Theory and Statistics, 1959, ch. 9.
    The trace and the log-determinants are joined on the diagonal of one triangular factor, so nothing cancels
    between large terms.

    Examples
    --------
    >>> round(float(gaussian_kl([1.0], [[1.0]], [0.0], [[2.0]])), 6)
    0.346574
    """
    return _kl(gaussian_pair(mean_p, cov_p, mean_q, cov_q))


def gaussian_jeffreys(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Jeffreys' divergence KL(p‖q) + KL(q‖p) between Gaussians (the sum, not its half).

    Parameters and errors are those of :func:`gaussian_kl`.

    Returns
    -------
    Array
        Shape (...), nonnegative, finite and symmetric.

    Examples
    --------
    >>> round(float(gaussian_jeffreys([1.0], [[1.0]], [0.0], [[1.0]])), 6)
    1.0
    """
    return gaussian_kl(mean_p, cov_p, mean_q, cov_q) + gaussian_kl(mean_q, cov_q, mean_p, cov_p)


def gaussian_renyi(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array, *, order: float) -> Array:
    """Renyi divergence of a given order between Gaussians.

    Parameters
    ----------
    mean_p, mean_q
        Means, shape (..., d).
    cov_p, cov_q
        Covariances, shape (..., d, d), symmetric positive definite.
    order
        Order, positive and finite; 1 gives KL(p‖q).

    Returns
    -------
    Array
        Shape (...), nonnegative; ``inf`` where order > 1 and order S1 + (1 − order) S0 is not positive definite.

    Raises
    ------
    ParameterError
        For ``order`` out of range, and as the module says.

    Notes
    -----
    Gil, Alajaji, Linder, Renyi divergence measures for commonly used univariate continuous distributions,
    Information Sciences 249, 2013, whose multivariate form this is.

    Examples
    --------
    >>> round(float(gaussian_renyi([1.0], [[1.0]], [0.0], [[1.0]], order=2.0)), 6)
    1.0
    >>> float(gaussian_renyi([0.0], [[3.0]], [0.0], [[1.0]], order=2.0))
    inf
    """
    order = check_number("order", order, above=0, below=math.inf)
    return _renyi(gaussian_pair(mean_p, cov_p, mean_q, cov_q), order)


def gaussian_bhattacharyya_coefficient(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Bhattacharyya coefficient ∫ √(p q) between Gaussians, one minus the squared Hellinger distance.

    Parameters and errors are those of :func:`gaussian_kl`.

    Returns
    -------
    Array
        Shape (...), in [0, 1], symmetric; 0 only by underflow.

    Notes
    -----
    Kailath, The divergence and Bhattacharyya distance measures in signal selection, IEEE Trans. Comm. 15, 1967.

    Examples
    --------
    >>> round(float(gaussian_bhattacharyya_coefficient([2.0], [[1.0]], [0.0], [[1.0]])), 6)
    0.606531
    """
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    return pair.xp.exp(-_renyi(pair, 0.5) / 2)


def gaussian_squared_hellinger(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Squared Hellinger distance ½ ∫ (√p − √q)² between Gaussians.

    Parameters and errors are those of :func:`gaussian_kl`.

    Returns
    -------
    Array
        Shape (...), in [0, 1], symmetric.

    Examples
    --------
    >>> round(float(gaussian_squared_hellinger([2.0], [[1.0]], [0.0], [[1.0]])), 6)
    0.393469
    """
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    return -pair.xp.expm1(-_renyi(pair, 0.5) / 2)


def gaussian_chi2(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Pearson's chi-square divergence ∫ (p − q)²/q between Gaussians; Neyman's is the same with arguments swapped.

    Parameters and errors are those of :func:`gaussian_kl`.

    Returns
    -------
    Array
        Shape (...), nonnegative; ``inf`` where 2 S1 − S0 is not positive definite, and on overflow.

    Notes
    -----
    One plus it is the exponential of the Renyi divergence of order 2; with equal covariances exp(Δᵀ S⁻¹ Δ) − 1.

    Examples
    --------
    >>> round(float(gaussian_chi2([1.0], [[1.0]], [0.0], [[1.0]])), 6)
    1.718282
    """
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    exponent = _renyi(pair, 2.0)
    limit = math.log(float(pair.xp.finfo(exponent.dtype).max))
    finite = exponent <= limit
    return pair.xp.where(finite, pair.xp.expm1(pair.xp.where(finite, exponent, 0)), math.inf)


def gaussian_total_variation(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Total variation ½ ∫ |p − q| between Gaussians with one covariance; others have no closed form.

    Parameters
    ----------
    mean_p, mean_q
        Means, shape (..., d).
    cov_p, cov_q
        Covariances, shape (..., d, d), symmetric positive definite, equal to the root of the dtype's epsilon.

    Returns
    -------
    Array
        Shape (...), in [0, 1]. At equal means, where it has a kink, the gradient is zero. The gradient in the common
        covariance goes to ``cov_q``.

    Raises
    ------
    ParameterError
        If the covariances differ, and as the module says.

    Notes
    -----
    2 Φ(½ √(Δᵀ S⁻¹ Δ)) − 1, by projecting on S⁻¹Δ.

    Examples
    --------
    >>> round(float(gaussian_total_variation([2.0], [[1.0]], [0.0], [[1.0]])), 6)
    0.682689
    """
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    xp = pair.xp
    tolerance = xp.max(abs(pair.cov_p), axis=(-2, -1), keepdims=True) * float(xp.finfo(pair.cov_p.dtype).eps) ** 0.5
    if not bool((abs(pair.cov_p - pair.cov_q) <= tolerance).all()):
        raise ParameterError("cov_q must equal cov_p: total variation has no closed form otherwise")
    distance = safe_sqrt(xp, square_norm(xp, pair.white_shift()))
    return special(xp).erf(distance / math.sqrt(8))


def _kl(pair: GaussianPair) -> Array:
    xp, factor = pair.xp, pair.white_factor()
    ends, q_ends = diagonal(xp, pair.factor_p), diagonal(xp, pair.factor_q)
    # the squared diagonal b² of the factor enters as b² - 1 - log b², with b² - 1 = (b - 1)² + 2 (b - 1)
    diagonals = 2 * excess_over_log(xp, ends, q_ends) + ((ends - q_ends) / q_ends) ** 2
    off = xp.tril(factor, k=-1) if pair.shift.shape[-1] > 1 else factor * 0
    covariances = xp.sum(diagonals, axis=-1) + xp.sum(off**2, axis=(-2, -1))
    return (covariances + square_norm(xp, pair.white_shift())) / 2


def _renyi(pair: GaussianPair, order: float) -> Array:
    if order == 1:
        return _kl(pair)
    xp, factor = pair.xp, pair.white_factor()
    white = factor @ xp.matrix_transpose(factor)
    identity = xp.eye(white.shape[-1], dtype=white.dtype, device=white.device)
    mixed, definite = cholesky_where_definite(xp, order * identity + (1 - order) * white)
    if abs(1 - order) < _NEAR_ONE:
        # log-determinant of I + (1 - order)(white - I), divided by 1 - order without losing digits
        excess = xp.linalg.eigvalsh(white - identity) * (1 - order)
        log_mixed = xp.sum(xp.log1p(xp.where(excess > -1, excess, 0)), axis=-1)
    else:
        log_mixed = log_det(xp, mixed)
    covariances = log_mixed / (2 * (1 - order)) - (log_det(xp, pair.factor_p) - log_det(xp, pair.factor_q)) / 2
    means = order / 2 * square_norm(xp, solve_vector(xp, mixed, pair.white_shift()))
    return xp.where(definite, means + covariances, math.inf)
