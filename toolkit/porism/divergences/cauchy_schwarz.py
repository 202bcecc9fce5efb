"""The Cauchy-Schwarz divergence of densities or probabilities, in its two conventions, each named.

It is no f-divergence: processing data may raise it, and it is not bounded by KL. The form for samples is in
:mod:`porism.discrepancies`, that for Gaussians in :mod:`porism.divergences.gaussian_distances`.
"""

from __future__ import annotations

import math

from porism.arrays import Array, Namespace, check_axis, floating, probabilities
from porism.divergences import evaluate
from porism.divergences._arrays import log_sum_exp


def cauchy_schwarz_divergence(
    p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Cauchy-Schwarz divergence −log((∫pq)²/(∫p² ∫q²)): the full convention, twice the half one.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis
        The axis that is summed.
    weights
        Quadrature weights or base measure, nonnegative.
    normalize
        Divide p and q by their sums instead of checking them; the value does not depend on scale.

    Returns
    -------
    Array
        Without ``axis``; nonnegative, symmetric, 0 only at p = q, and ``inf`` where the supports are disjoint.

    Raises
    ------
    ParameterError
        For negative entries, sums that are not one, NaN, or shapes that do not fit; it names the argument.

    Notes
    -----
    Principe, Information Theoretic Learning, 2010, ch. 2.

    Examples
    --------
    >>> round(float(cauchy_schwarz_divergence([0.5, 0.5], [1.0, 0.0])), 6)
    0.693147
    >>> float(cauchy_schwarz_divergence([0.0, 1.0], [1.0, 0.0]))
    inf
    """
    xp, (p, q, weights) = floating(optional=("weights",), p=p, q=q, weights=weights)
    check_axis(axis, p=p, q=q)
    weights = evaluate.along(xp, weights, p, axis)
    p, q = probabilities(xp, axis=axis, weights=weights, normalize=normalize, p=p, q=q)
    root = 1.0 if weights is None else xp.sqrt(weights)
    p, q = _unit(xp, p * root, axis), _unit(xp, q * root, axis)
    cosine = xp.sum(p * q, axis=axis)
    # near 1 the cosine is told from 1 by the distance of the unit vectors, which does not cancel
    near = cosine > 0.5
    gap = xp.where(near, xp.sum((p - q) ** 2, axis=axis), 0)
    some = cosine > 0
    far = xp.where(some, -2 * xp.log(xp.where(some, cosine, 1)), math.inf)
    return xp.where(near, -2 * xp.log1p(-gap / 2), far)


def half_cauchy_schwarz_divergence(
    p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Minus the logarithm of the cosine between p and q: half of :func:`cauchy_schwarz_divergence`.

    Parameters, infinities and errors are those of :func:`cauchy_schwarz_divergence`.

    Examples
    --------
    >>> round(float(half_cauchy_schwarz_divergence([0.5, 0.5], [1.0, 0.0])), 6)
    0.346574
    """
    return cauchy_schwarz_divergence(p, q, axis=axis, weights=weights, normalize=normalize) / 2


def cauchy_schwarz_divergence_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """:func:`cauchy_schwarz_divergence` (full convention) of the softmax of logits.

    Parameters
    ----------
    p_logits, q_logits
        Logits along ``axis``; ``-inf`` for impossible classes. They need no normalisation.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; nonnegative but for rounding; ``inf`` where the supports are disjoint.

    Raises
    ------
    ParameterError
        For NaN, ``+inf``, rows that are all ``-inf``, or shapes that do not fit.

    Examples
    --------
    >>> round(float(cauchy_schwarz_divergence_logits([0.0, 0.0], [0.0, -float("inf")])), 6)
    0.693147
    """
    xp, (p_logits, q_logits) = floating(p_logits=p_logits, q_logits=q_logits)
    check_axis(axis, p_logits=p_logits, q_logits=q_logits)
    with evaluate.quiet():
        log_p = evaluate.log_softmax(xp, axis=axis, p_logits=p_logits)
        log_q = evaluate.log_softmax(xp, axis=axis, q_logits=q_logits)
        squares = log_sum_exp(xp, 2 * log_p, axis) + log_sum_exp(xp, 2 * log_q, axis)
        return squares - 2 * log_sum_exp(xp, log_p + log_q, axis)


def _unit(xp: Namespace, vector: Array, axis: int) -> Array:
    """Divide by the Euclidean norm, and first by the largest entry, whose square could overflow."""
    vector = vector / xp.max(vector, axis=axis, keepdims=True)
    return vector / xp.sqrt(xp.sum(vector**2, axis=axis, keepdims=True))
