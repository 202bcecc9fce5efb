"""Rényi divergence and Rényi cross entropy of any order, in log space."""

from __future__ import annotations

import math

from porism.arrays import Array, Namespace, check_axis, check_number, floating, probabilities
from porism.divergences import evaluate
from porism.divergences._arrays import log_sum_exp
from porism.divergences.generators import generator
from porism.divergences.parts import log_q_exp, q_log

# Below this distance of the sum from 1 its logarithm is taken by log1p, above it by logsumexp.
_NEAR_ONE = 0.5
# Below this 1 / order overflows, and the divergence has reached its limit at 0.
_NO_ORDER = 1e-300


def renyi_divergence(
    p: Array, q: Array, order: float, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Rényi divergence R_a(p||q) = log(sum p^a q^(1-a))/(a - 1) of order a in [0, inf].

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    order
        From 0 to ``inf``, both included: R_0 = -log q(p > 0), R_1 = KL(p||q), R_inf = log max p/q.
    axis, weights, normalize
        As for :func:`porism.divergences.f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, inf]. ``inf`` if p and q share no support; from order 1 on also if p has mass where
        q has none.

    Raises
    ------
    ParameterError
        For a negative order or NaN, and for p and q that are not distributions.

    Notes
    -----
    Van Erven and Harremoës 2014, "Rényi divergence and Kullback-Leibler divergence", equation 9 and section II.
    Continuous through order 1: ``R_a = log(1 + a(a-1) D_a)/(a - 1)`` with Amari's D_a while the sum is near one.
    Infinite one-sided slopes at zero probabilities have the gradient zero, as in ``f_divergence``.

    Examples
    --------
    >>> round(float(renyi_divergence([0.5, 0.5], [0.25, 0.75], 2)), 6)  # log(4/3)
    0.287682
    """
    order = check_number("order", order, at_least=0)
    xp, (p, q, weights) = floating(optional=("weights",), p=p, q=q, weights=weights)
    check_axis(axis, p=p, q=q)
    weights = evaluate.along(xp, weights, p, axis)
    with evaluate.quiet():
        p, q = probabilities(xp, axis=axis, weights=weights, normalize=normalize, p=p, q=q)
        if _NO_ORDER <= order < math.inf:
            amari = evaluate.total(generator("alpha", alpha=order), p, q, xp, axis=axis, weights=weights)
        else:
            amari = None
        zero, one = xp.zeros_like(p * q), xp.ones_like(p * q)
        log_p = xp.where(p > 0, xp.log(xp.where(p > 0, p, one)), zero - math.inf)
        log_q = xp.where(q > 0, xp.log(xp.where(q > 0, q, one)), zero - math.inf)
        log_w = zero
        if weights is not None:
            log_w = xp.where(weights > 0, xp.log(xp.where(weights > 0, weights, one)), zero - math.inf)
        return _renyi(xp, log_p, log_q, log_w, order, amari, axis)


def renyi_divergence_logits(p_logits: Array, q_logits: Array, order: float, *, axis: int = -1) -> Array:
    """Rényi divergence of softmax(p_logits) from softmax(q_logits); see :func:`renyi_divergence`.

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    order
        From 0 to ``inf``.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``, in [0, inf].

    Raises
    ------
    ParameterError
        For a negative order, NaN, ``inf``, or nothing but ``-inf`` along the axis.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(renyi_divergence_logits([0.0, 0.0], np.log([0.25, 0.75]), 2)), 6)
    0.287682
    """
    order = check_number("order", order, at_least=0)
    xp, (p_logits, q_logits) = floating(p_logits=p_logits, q_logits=q_logits)
    check_axis(axis, p_logits=p_logits, q_logits=q_logits)
    with evaluate.quiet():
        log_p = evaluate.log_softmax(xp, axis=axis, p_logits=p_logits)
        log_q = evaluate.log_softmax(xp, axis=axis, q_logits=q_logits)
        amari = None
        if _NO_ORDER <= order < math.inf:
            amari = evaluate.divergence_log_space(generator("alpha", alpha=order), p_logits, q_logits, axis=axis)
        return _renyi(xp, log_p, log_q, 0 * xp.exp(log_p + log_q), order, amari, axis)


def renyi_cross_entropy(
    p: Array, q: Array, order: float, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Rényi cross entropy H_t(p, q) = log(sum p q^(t-1))/(1 - t); at t = 1 it is -sum p log q.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    order
        t, from 0 to ``inf``, both included; at ``inf`` it is -log max of q where p > 0.
    axis, weights, normalize
        As for :func:`porism.divergences.f_divergence`.

    Returns
    -------
    Array
        Without ``axis``. ``inf`` if p has mass where q has none (up to order 1), or only there (beyond order 1).

    Raises
    ------
    ParameterError
        For a negative order or NaN, and for p and q that are not distributions.

    Notes
    -----
    Thierrin, Alajaji and Linder 2022, "Rényi cross-entropy measures", equation 3.

    Examples
    --------
    >>> round(float(renyi_cross_entropy([0.5, 0.5], [0.25, 0.75], 2)), 6)  # -log(1/2)
    0.693147
    """
    order = check_number("order", order, at_least=0)
    xp, (p, q, weights) = floating(optional=("weights",), p=p, q=q, weights=weights)
    check_axis(axis, p=p, q=q)
    weights = evaluate.along(xp, weights, p, axis)
    with evaluate.quiet():
        p, q = probabilities(xp, axis=axis, weights=weights, normalize=normalize, p=p, q=q)
        zero, one = xp.zeros_like(p * q), xp.ones_like(p * q)
        mass = p + zero if weights is None else p * weights + zero
        log_q = xp.where(q > 0, xp.log(xp.where(q > 0, q, one)), zero - math.inf)
        if order == math.inf:
            return -xp.max(xp.where(mass > 0, log_q, zero - math.inf), axis=axis)
        gap = order - 1
        inside = (mass > 0) & (q > 0)
        powers = xp.where(inside, q_log(xp.where(inside, log_q, zero), gap, xp), zero)
        lost = zero - (math.inf if gap <= 0 else 1 / gap)  # (q^gap - 1)/gap at q = 0
        powers = xp.where((mass > 0) & (q == 0), lost, powers)
        near = -log_q_exp(xp.sum(xp.where(mass > 0, mass * powers, zero), axis=axis), gap, xp)
        if gap == 0:
            return near
        log_mass = xp.where(mass > 0, xp.log(xp.where(mass > 0, mass, one)), zero - math.inf)
        exponent = xp.where(mass > 0, log_mass + gap * xp.where(inside, log_q, one), zero - math.inf)
        exponent = xp.where((mass > 0) & (q == 0), zero - gap * math.inf, exponent)
        far = -log_sum_exp(xp, exponent, axis) / gap
        return xp.where(abs(gap * evaluate.detached(far)) < _NEAR_ONE, near, far)


def _renyi(xp: Namespace, log_p: Array, log_q: Array, log_w: Array, order: float, amari: Array, axis: int) -> Array:
    least = log_w * 0 - math.inf
    if order < _NO_ORDER:
        return -log_sum_exp(xp, xp.where(log_p > -math.inf, log_q + log_w, least), axis)
    support = (log_p > -math.inf) & (log_w > -math.inf)
    shared = support & (log_q > -math.inf)
    zero = xp.zeros_like(least)
    a, b = xp.where(shared, log_p, zero), xp.where(shared, log_q, zero)
    if order == math.inf:
        ratio = xp.where(shared, a - b, xp.where(support, zero + math.inf, zero - math.inf))
        return xp.max(ratio, axis=axis)
    gap = order - 1
    if gap == 0:
        return amari
    beyond = zero + math.inf if order > 1 else zero - math.inf
    exponent = xp.where(shared, b + order * (a - b) + xp.where(shared, log_w, zero), xp.where(support, beyond, least))
    far = log_sum_exp(xp, exponent, axis) / gap
    small = abs(gap * evaluate.detached(far)) < _NEAR_ONE
    near = log_q_exp(order * xp.where(small, amari, 0 * amari), gap, xp)
    return xp.where(small, near, far)
