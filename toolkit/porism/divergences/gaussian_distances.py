"""Closed forms of distances between Gaussians that are no f-divergences: Cauchy-Schwarz, Fisher, MMD, Wasserstein.

Arguments, batches and errors are those of :mod:`porism.divergences.gaussian`: ``d(mean_p, cov_p, mean_q, cov_q)``.
"""

from __future__ import annotations

import math

from porism.arrays import Array, check_finite, check_number
from porism.divergences._arrays import safe_sqrt
from porism.divergences._gaussian_pair import (
    GaussianPair,
    cholesky,
    gaussian_pair,
    log_det,
    solve_lower,
    solve_vector,
    square_norm,
)


def gaussian_cauchy_schwarz(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Cauchy-Schwarz divergence −log((∫pq)²/(∫p² ∫q²)) between Gaussians: the full convention, twice the half one.

    Parameters
    ----------
    mean_p, mean_q
        Means, shape (..., d).
    cov_p, cov_q
        Covariances, shape (..., d, d), symmetric positive definite.

    Returns
    -------
    Array
        Shape (...), nonnegative (but for rounding), finite, symmetric.

    Notes
    -----
    Kampa, Hasanbelliu, Principe, Closed-form Cauchy-Schwarz PDF divergence for mixture of Gaussians, IJCNN 2011:
    Δᵀ(S0+S1)⁻¹Δ + log|(S0+S1)/2| − ½ log|S0| − ½ log|S1|. It can exceed KL; the half convention, between
    Gaussians, cannot.

    Examples
    --------
    >>> round(float(gaussian_cauchy_schwarz([2.0], [[1.0]], [0.0], [[1.0]])), 6)
    2.0
    """
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    xp, factor = pair.xp, pair.mean_factor()
    determinants = log_det(xp, factor) - (log_det(xp, pair.factor_p) + log_det(xp, pair.factor_q)) / 2
    return square_norm(xp, solve_vector(xp, factor, pair.shift)) / 2 + determinants


def gaussian_half_cauchy_schwarz(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """−log of the cosine between two Gaussian densities in L²: half of :func:`gaussian_cauchy_schwarz`.

    Returns
    -------
    Array
        Shape (...), nonnegative (but for rounding), symmetric, at most KL(p‖q).

    Examples
    --------
    >>> round(float(gaussian_half_cauchy_schwarz([2.0], [[1.0]], [0.0], [[1.0]])), 6)
    1.0
    """
    return gaussian_cauchy_schwarz(mean_p, cov_p, mean_q, cov_q) / 2


def gaussian_fisher_divergence(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Fisher divergence E_p |∇log p − ∇log q|² between Gaussians (without the half of score matching).

    Parameters are those of :func:`gaussian_cauchy_schwarz`.

    Returns
    -------
    Array
        Shape (...), nonnegative, finite; not symmetric.

    Notes
    -----
    The scores differ by an affine function of x, so it is tr(A S0 Aᵀ) + |S1⁻¹Δ|² with A = S1⁻¹ − S0⁻¹.

    Examples
    --------
    >>> round(float(gaussian_fisher_divergence([1.0], [[1.0]], [0.0], [[2.0]])), 6)
    0.5
    """
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    xp = pair.xp
    # A L0 = S1⁻¹ (S0 − S1) L0⁻ᵀ: the difference is taken before the inverses
    right = xp.matrix_transpose(solve_lower(xp, pair.factor_p, xp.matrix_transpose(pair.cov_p - pair.cov_q)))
    both = (_solve(pair, right), _solve(pair, pair.shift[..., None]))
    return xp.sum(both[0] ** 2, axis=(-2, -1)) + xp.sum(both[1] ** 2, axis=(-2, -1))


def gaussian_mmd_squared(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array, *, bandwidth: float) -> Array:
    """Squared maximum mean discrepancy between Gaussians for the kernel exp(−|x − y|²/(2 bandwidth²)).

    Parameters
    ----------
    mean_p, mean_q
        Means, shape (..., d).
    cov_p, cov_q
        Covariances, shape (..., d, d), symmetric positive definite.
    bandwidth
        Standard deviation of the kernel, positive.

    Returns
    -------
    Array
        Shape (...), in [0, 2] but for rounding.

    Notes
    -----
    E k(x, y) = |I + (S0+S1)/σ²|^(−½) exp(−½ Δᵀ(σ²I + S0 + S1)⁻¹Δ), a Gaussian integral; three such terms.

    Examples
    --------
    >>> round(float(gaussian_mmd_squared([1.0], [[1.0]], [0.0], [[1.0]], bandwidth=1.0)), 6)
    0.177268
    """
    bandwidth = check_number("bandwidth", bandwidth, above=0, below=math.inf)
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    xp, zero = pair.xp, pair.shift * 0
    inner_p = _mean_kernel(pair, zero, 2 * pair.cov_p, bandwidth)
    inner_q = _mean_kernel(pair, zero, 2 * pair.cov_q, bandwidth)
    return (
        xp.exp(inner_p)
        + xp.exp(inner_q)
        - 2 * xp.exp(_mean_kernel(pair, pair.shift, pair.cov_p + pair.cov_q, bandwidth))
    )


def gaussian_wasserstein_2_squared(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """Squared 2-Wasserstein distance between Gaussians: |Δ|² plus the squared Bures distance of the covariances.

    Parameters are those of :func:`gaussian_cauchy_schwarz`.

    Returns
    -------
    Array
        Shape (...), nonnegative, exactly 0 or of rounding's square at equal arguments.

    Notes
    -----
    Computed as min over rotations Q of |L0 − L1 Q|² for Cholesky factors (Bhatia, Jain, Lim, On the Bures-Wasserstein
    distance between positive definite matrices, Expositiones Mathematicae 37, 2019), which equals
    tr(S0 + S1 − 2 (S1^½ S0 S1^½)^½) but does not cancel for near covariances. Gradients hold the best Q fixed, which
    is exact for first derivatives (envelope theorem) also at repeated eigenvalues; second derivatives are not those
    of the distance.

    Examples
    --------
    >>> round(float(gaussian_wasserstein_2_squared([1.0], [[4.0]], [0.0], [[1.0]])), 6)
    2.0
    """
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    return square_norm(pair.xp, pair.shift) + _bures_squared(pair)


def gaussian_wasserstein_2(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> Array:
    """2-Wasserstein distance between Gaussians, the root of :func:`gaussian_wasserstein_2_squared`.

    Returns
    -------
    Array
        Shape (...), a metric. At equal arguments, where it has a kink, the gradient is zero.

    Examples
    --------
    >>> cov = [[4.0, 0.0], [0.0, 1.0]]
    >>> round(float(gaussian_wasserstein_2([3.0, 0.0], cov, [0.0, 4.0], cov)), 6)
    5.0
    """
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    return safe_sqrt(pair.xp, square_norm(pair.xp, pair.shift) + _bures_squared(pair))


def gaussian_entropic_wasserstein_2(
    mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array, *, epsilon: float
) -> Array:
    """Entropic optimal transport between Gaussians: min over couplings π of E_π|x − y|² + epsilon KL(π‖p⊗q).

    Parameters
    ----------
    mean_p, mean_q
        Means, shape (..., d).
    cov_p, cov_q
        Covariances, shape (..., d, d), symmetric positive definite.
    epsilon
        Weight of the entropy, positive; the cost is |x − y|², without a half.

    Returns
    -------
    Array
        Shape (...); at least the squared Wasserstein distance, to which it falls as epsilon goes to 0, and at most
        |Δ|² + tr S0 + tr S1, to which it rises. Not zero at equal arguments: see :func:`gaussian_sinkhorn_divergence`.

    Notes
    -----
    The best coupling is Gaussian, with canonical correlations s that each minimise −2 s τ − (epsilon/2) log(1 − s²),
    where the τ are the singular values of L1ᵀL0. With r = √(epsilon² + 16 τ²) that is s = (r − epsilon)/(4τ). It is
    Janati, Muzellec, Peyré, Cuturi, Entropic optimal transport between unbalanced Gaussian measures has a closed
    form, NeurIPS 2020, theorem 1, with epsilon = 2σ².

    Examples
    --------
    >>> round(float(gaussian_entropic_wasserstein_2([1.0], [[1.0]], [0.0], [[1.0]], epsilon=1.0)), 6)
    1.908754
    """
    epsilon = check_number("epsilon", epsilon, above=0, below=math.inf)
    pair = gaussian_pair(mean_p, cov_p, mean_q, cov_q)
    return square_norm(pair.xp, pair.shift) + _bures_squared(pair) + _entropic_excess(pair, epsilon)


def gaussian_sinkhorn_divergence(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array, *, epsilon: float) -> Array:
    """Debiased entropic transport OT(p, q) − ½ OT(p, p) − ½ OT(q, q) between Gaussians, for the cost |x − y|².

    Parameters are those of :func:`gaussian_entropic_wasserstein_2`.

    Returns
    -------
    Array
        Shape (...), nonnegative (but for rounding), 0 at equal arguments; the squared Wasserstein distance as epsilon
        goes to 0, |Δ|² as it grows.

    Examples
    --------
    >>> round(float(gaussian_sinkhorn_divergence([1.0], [[1.0]], [0.0], [[1.0]], epsilon=1.0)), 6)
    1.0
    """
    joint = gaussian_entropic_wasserstein_2(mean_p, cov_p, mean_q, cov_q, epsilon=epsilon)
    own_p = gaussian_entropic_wasserstein_2(mean_p, cov_p, mean_p, cov_p, epsilon=epsilon)
    return joint - (own_p + gaussian_entropic_wasserstein_2(mean_q, cov_q, mean_q, cov_q, epsilon=epsilon)) / 2


def _solve(pair: GaussianPair, right: Array) -> Array:
    """Inverse of q's covariance times a matrix."""
    xp = pair.xp
    lower = solve_lower(xp, pair.factor_q, right)
    return xp.linalg.solve(xp.matrix_transpose(pair.factor_q), lower)


def _mean_kernel(pair: GaussianPair, shift: Array, cov: Array, bandwidth: float) -> Array:
    """Logarithm of E exp(−|z|²/(2 bandwidth²)) for z ~ N(shift, cov)."""
    xp = pair.xp
    identity = xp.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    ratio = cov / bandwidth / bandwidth
    check_finite(**{"covariance over squared bandwidth": ratio})
    factor = cholesky(xp, "covariance plus bandwidth", identity + ratio)
    return -log_det(xp, factor) / 2 - square_norm(xp, solve_vector(xp, factor, shift / bandwidth)) / 2


def _alignment(pair: GaussianPair) -> Array:
    return pair.xp.matrix_transpose(pair.factor_q) @ pair.factor_p


def _bures_squared(pair: GaussianPair) -> Array:
    xp, product = pair.xp, _alignment(pair)
    check_finite(**{"the product of the covariances' factors": product})
    left, _, right = xp.linalg.svd(product.detach() if hasattr(product, "detach") else product, full_matrices=False)
    return xp.sum((pair.factor_p - pair.factor_q @ (left @ right)) ** 2, axis=(-2, -1))


def _entropic_excess(pair: GaussianPair, epsilon: float) -> Array:
    """How much entropic transport exceeds the squared Wasserstein distance; every summand is nonnegative."""
    xp = pair.xp
    tau = xp.linalg.svdvals(_alignment(pair))
    root = xp.hypot(4 * tau, epsilon * xp.ones_like(tau))
    cost = 2 * tau * (root + epsilon - 4 * tau) / (root + epsilon)
    return xp.sum(cost + epsilon / 2 * xp.log1p(8 * (tau / (root + epsilon)) * (tau / epsilon)), axis=-1)
