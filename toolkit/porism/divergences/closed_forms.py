"""KL divergences between members of classical families: exponential, Poisson, gamma, beta, Dirichlet, Laplace.

p's parameters come first. Parameters broadcast; numpy and torch, with gradients. Parameters that are not positive
where they must be, NaN, infinities and shapes that do not broadcast raise
:class:`~porism.errors.ParameterError`, which names the argument. Bernoulli and categorical distributions need no
closed form: their divergences are exact sums.
"""

from __future__ import annotations

import math

import numpy as np

from porism.arrays import Array, Namespace, check_axis, check_finite, floating
from porism.divergences._arrays import excess_over_log, special
from porism.divergences.evaluate import along, quiet
from porism.errors import ParameterError

# Of x^-13, x^-11, ..., x^-1 in Stirling's series of log Γ.
_STIRLING = (1 / 156, -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12)


def exponential_kl(rate_p: Array, rate_q: Array) -> Array:
    """KL(p‖q) between exponential distributions.

    Parameters
    ----------
    rate_p, rate_q
        Rates (inverse means), positive, any shapes that broadcast.

    Returns
    -------
    Array
        The broadcast shape; nonnegative and finite.

    Notes
    -----
    log(rate_p/rate_q) + rate_q/rate_p − 1.

    Examples
    --------
    >>> round(float(exponential_kl(1.0, 2.0)), 6)
    0.306853
    """
    xp, (rate_p, rate_q) = _parameters(positive=("rate_p", "rate_q"), rate_p=rate_p, rate_q=rate_q)
    return excess_over_log(xp, rate_q, rate_p)


def poisson_kl(rate_p: Array, rate_q: Array) -> Array:
    """KL(p‖q) between Poisson distributions, and per unit of time between Poisson processes of constant rates.

    Parameters
    ----------
    rate_p, rate_q
        Means, nonnegative, any shapes that broadcast.

    Returns
    -------
    Array
        The broadcast shape; nonnegative; ``inf`` where rate_q is 0 and rate_p is not. At rate_p = 0 the value is
        rate_q, and the gradient in rate_p, which is −inf there, is given as finite.

    Notes
    -----
    rate_p log(rate_p/rate_q) − rate_p + rate_q.

    Examples
    --------
    >>> round(float(poisson_kl(2.0, 1.0)), 6)
    0.386294
    """
    xp, (rate_p, rate_q) = _parameters(nonnegative=("rate_p", "rate_q"), rate_p=rate_p, rate_q=rate_q)
    return relative_entropy(xp, rate_p, rate_q)


def point_process_kl(intensity_p: Array, intensity_q: Array, *, weights: Array, axis: int = -1) -> Array:
    """KL(p‖q) between Poisson processes, from their intensities at the nodes of a quadrature.

    Parameters
    ----------
    intensity_p, intensity_q
        Intensities at the nodes, nonnegative, nodes along ``axis``, the others broadcast.
    weights
        Quadrature weights (lengths of time), nonnegative, shape (nodes,) or broadcastable.
    axis
        The axis that is integrated.

    Returns
    -------
    Array
        The broadcast shape without ``axis``; nonnegative; ``inf`` where q has no events and p does.

    Notes
    -----
    ∫ λ_p log(λ_p/λ_q) − λ_p + λ_q dt. For other point processes the same integral of conditional intensities, averaged
    over histories of p, is the divergence of their paths (Brémaud, Point Processes and Queues, 1981, ch. VI).

    Examples
    --------
    >>> round(float(point_process_kl([2.0, 2.0], [1.0, 1.0], weights=[0.5, 0.5])), 6)
    0.386294
    """
    names = ("intensity_p", "intensity_q", "weights")
    arrays = {"intensity_p": intensity_p, "intensity_q": intensity_q, "weights": weights}
    xp, (left, right, weights) = floating(**arrays)
    check_axis(axis, intensity_p=left, intensity_q=right)
    lengths: Array = along(xp, weights, left, axis, names=("weights", "intensity_p"))
    _check(names, strict=False, intensity_p=left, intensity_q=right, weights=lengths)
    # a node of no length counts nothing, also where the integrand is infinite
    rate = xp.where(lengths > 0, relative_entropy(xp, left, right), 0)
    return xp.sum(lengths * rate, axis=axis)


def gamma_kl(shape_p: Array, rate_p: Array, shape_q: Array, rate_q: Array) -> Array:
    """KL(p‖q) between gamma distributions; chi-square and exponential ones are among them.

    Parameters
    ----------
    shape_p, rate_p, shape_q, rate_q
        Shapes and rates (inverse scales), positive, any array shapes that broadcast.

    Returns
    -------
    Array
        The broadcast shape; nonnegative and finite but for rounding and overflow.

    Notes
    -----
    (a_p − a_q) ψ(a_p) − log Γ(a_p) + log Γ(a_q) + a_q log(b_p/b_q) + a_p (b_q − b_p)/b_p, computed with log Γ split as
    Stirling did, so that large shapes do not cancel.

    Examples
    --------
    >>> round(float(gamma_kl(2.0, 1.0, 1.0, 1.0)), 6)
    0.422784
    """
    names = ("shape_p", "rate_p", "shape_q", "rate_q")
    given = {"shape_p": shape_p, "rate_p": rate_p, "shape_q": shape_q, "rate_q": rate_q}
    xp, (shape_p, rate_p, shape_q, rate_q) = _parameters(positive=names, **given)
    with quiet():
        mean = shape_p * (rate_q / rate_p)
    finite = mean < math.inf
    entropy = relative_entropy(xp, shape_q, xp.where(finite, mean, 1))
    return xp.where(finite, entropy + _gamma_remainder(xp, shape_q, shape_p), math.inf)


def beta_kl(alpha_p: Array, beta_p: Array, alpha_q: Array, beta_q: Array) -> Array:
    """KL(p‖q) between beta distributions.

    Parameters
    ----------
    alpha_p, beta_p, alpha_q, beta_q
        Parameters, positive, any shapes that broadcast.

    Returns
    -------
    Array
        The broadcast shape; nonnegative and finite but for rounding.

    Notes
    -----
    :func:`dirichlet_kl` with two components.

    Examples
    --------
    >>> round(float(beta_kl(2.0, 1.0, 1.0, 1.0)), 6)
    0.193147
    """
    names = ("alpha_p", "beta_p", "alpha_q", "beta_q")
    given = {"alpha_p": alpha_p, "beta_p": beta_p, "alpha_q": alpha_q, "beta_q": beta_q}
    xp, (alpha_p, beta_p, alpha_q, beta_q) = _parameters(positive=names, **given)
    p = xp.stack(xp.broadcast_arrays(alpha_p, beta_p), axis=-1)
    q = xp.stack(xp.broadcast_arrays(alpha_q, beta_q), axis=-1)
    return _dirichlet_kl(xp, p, q)


def dirichlet_kl(concentration_p: Array, concentration_q: Array) -> Array:
    """KL(p‖q) between Dirichlet distributions.

    Parameters
    ----------
    concentration_p, concentration_q
        Concentrations, positive, shape (..., k); leading axes broadcast.

    Returns
    -------
    Array
        Shape (...); nonnegative and finite but for rounding.

    Notes
    -----
    log Γ(Σa) − Σ log Γ(a) − log Γ(Σb) + Σ log Γ(b) + Σ (a − b)(ψ(a) − ψ(Σa)) for concentrations a of p and b of q,
    computed as :func:`gamma_kl` is.

    Examples
    --------
    >>> round(float(dirichlet_kl([2.0, 1.0, 1.0], [1.0, 1.0, 1.0])), 6)
    0.265279
    """
    names = ("concentration_p", "concentration_q")
    given = {"concentration_p": concentration_p, "concentration_q": concentration_q}
    xp, (p, q) = floating(**given)
    check_axis(-1, concentration_p=p, concentration_q=q)
    _check(names, strict=True, concentration_p=p, concentration_q=q)
    return _dirichlet_kl(xp, p, q)


def laplace_kl(loc_p: Array, scale_p: Array, loc_q: Array, scale_q: Array) -> Array:
    """KL(p‖q) between Laplace distributions.

    Parameters
    ----------
    loc_p, scale_p, loc_q, scale_q
        Locations, and scales, which are positive; any shapes that broadcast.

    Returns
    -------
    Array
        The broadcast shape; nonnegative and finite.

    Notes
    -----
    log(s_q/s_p) + (s_p exp(−|Δ|/s_p) + |Δ|)/s_q − 1 for Δ = loc_p − loc_q.

    Examples
    --------
    >>> round(float(laplace_kl(1.0, 1.0, 0.0, 1.0)), 6)
    0.367879
    """
    given = {"loc_p": loc_p, "scale_p": scale_p, "loc_q": loc_q, "scale_q": scale_q}
    xp, (loc_p, scale_p, loc_q, scale_q) = _parameters(positive=("scale_p", "scale_q"), **given)
    gap = abs(loc_p - loc_q)
    return excess_over_log(xp, scale_p, scale_q) + (scale_p * xp.expm1(-gap / scale_p) + gap) / scale_q


def relative_entropy(xp: Namespace, x: Array, y: Array) -> Array:
    """Elementwise ``x log(x/y) − x + y`` of nonnegative arrays: y at x = 0, and inf at y = 0 < x.

    Examples
    --------
    >>> relative_entropy(np, np.array([2.0, 0.0, 1.0]), np.array([2.0, 3.0, 0.0]))
    array([ 0.,  3., inf])
    """
    both = (x > 0) & (y > 0)
    safe_x, safe_y = xp.where(both, x, 1), xp.where(both, y, 1)
    near = abs(safe_y - safe_x) < safe_x / 2
    excess = xp.where(near, safe_y - safe_x, 0) / safe_x
    close = safe_x * (excess - xp.log1p(excess))
    far = safe_x * (xp.log(safe_x) - xp.log(safe_y)) - safe_x + safe_y
    return xp.where(both, xp.where(near, close, far), xp.where(x > 0, float("inf"), y))


def _dirichlet_kl(xp: Namespace, p: Array, q: Array) -> Array:
    with quiet():
        p_total, q_total = xp.sum(p, axis=-1, keepdims=True), xp.sum(q, axis=-1, keepdims=True)
    check_finite(**{"the sum of p's parameters": p_total, "the sum of q's parameters": q_total})
    terms = relative_entropy(xp, q, p * (q_total / p_total)) + _gamma_remainder(xp, q, p)
    return xp.sum(terms, axis=-1) - _gamma_remainder(xp, q_total, p_total)[..., 0]


def _gamma_remainder(xp: Namespace, x: Array, y: Array) -> Array:
    """log Γ(x) − log Γ(y) − ψ(y)(x − y), less the same of x log x − x, which :func:`relative_entropy` gives."""
    (of_x, _), (of_y, slope) = _stirling(xp, x), _stirling(xp, y)
    return excess_over_log(xp, x, y) / 2 + of_x - of_y - slope * (x - y)


def _stirling(xp: Namespace, x: Array) -> tuple[Array, Array]:
    """What log Γ(x) has beyond (x − ½) log x − x + ½ log 2π, and its derivative."""
    functions, large = special(xp), x > 10
    small = xp.where(large, 1, x)
    logs = xp.log(small)
    value = functions.gammaln(small) - (small - 0.5) * logs + small - 0.5 * math.log(2 * math.pi)
    slope = functions.digamma(small) - logs + 0.5 / small
    inverse = 1 / xp.where(large, x, 10)
    series, derivative = 0 * inverse, 0 * inverse
    for power, coefficient in zip(range(13, 0, -2), _STIRLING, strict=True):
        series = series * inverse**2 + coefficient
        derivative = derivative * inverse**2 - power * coefficient
    return xp.where(large, series * inverse, value), xp.where(large, derivative * inverse**2, slope)


def _parameters(
    *, positive: tuple[str, ...] = (), nonnegative: tuple[str, ...] = (), **given: Array
) -> tuple[Namespace, tuple[Array, ...]]:
    xp, arrays = floating(**given)
    named = dict(zip(given, arrays, strict=True))
    _check(positive, strict=True, **named)
    _check(nonnegative, strict=False, **named)
    return xp, arrays


def _check(names: tuple[str, ...], *, strict: bool, **arrays: Array) -> None:
    """Finite everywhere, shapes that broadcast, and the named ones positive, or nonnegative unless ``strict``."""
    check_finite(**arrays)
    for name in names:
        bad = arrays[name] <= 0 if strict else arrays[name] < 0
        if bool(bad.any()):
            raise ParameterError(f"{name} must be {'positive' if strict else 'nonnegative'}")
    shapes = [tuple(value.shape) for value in arrays.values()]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ParameterError(f"the shapes of {', '.join(arrays)}, {shapes}, do not broadcast") from None
