"""Estimators from log-ratios at samples: KL (k1, k2, k3), Renyi, chi-square, self-normalised importance sampling.

All take log-ratios, never probabilities, and never clamp them. ``log_ratio`` is log p(x) − log q(x) at samples x of
p, the first argument of the divergence.
"""

from __future__ import annotations

import math
from typing import Literal

from porism.arrays import Array, Namespace, check_axis, check_finite, check_not_nan, check_number, floating
from porism.divergences._arrays import check_defined, log_sum_exp
from porism.divergences.evaluate import quiet
from porism.errors import ParameterError


def k1(log_ratio: Array) -> Array:
    """Terms whose mean estimates KL(p‖q) without bias: the log-ratio itself, which may be negative.

    Parameters
    ----------
    log_ratio
        log p(x) − log q(x) at samples x of p, any shape; ``inf`` where q(x) = 0.

    Returns
    -------
    Array
        One term per sample; ``inf`` where the log-ratio is.

    Raises
    ------
    ParameterError
        If there is a NaN.

    Notes
    -----
    As a loss differentiated through log p alone, samples fixed, its expected gradient is zero: E_p ∇log p = 0. It is
    right as a detached reward.

    Examples
    --------
    >>> k1([0.5, -0.25])
    array([ 0.5 , -0.25])
    """
    return _log_ratio(log_ratio)[1]


def k2(log_ratio: Array) -> Array:
    """Terms ½ log_ratio²: nonnegative, of low variance, biased in value by terms of third order.

    Parameters and errors are those of :func:`k1`.

    Returns
    -------
    Array
        One nonnegative term per sample.

    Notes
    -----
    As a loss differentiated through log p alone, its expected gradient E_p[log_ratio ∇log p] is that of KL(p‖q).

    Examples
    --------
    >>> k2([0.5, -2.0])
    array([0.125, 2.   ])
    """
    return _log_ratio(log_ratio)[1] ** 2 / 2


def k3(log_ratio: Array) -> Array:
    """Terms exp(−log_ratio) − 1 + log_ratio: unbiased for KL(p‖q) where p > 0 wherever q is, and nonnegative.

    Parameters and errors are those of :func:`k1`.

    Returns
    -------
    Array
        One nonnegative term per sample; ``inf`` where the log-ratio is infinite, and on overflow (a log-ratio below
        −709 in float64, −88 in float32).

    Notes
    -----
    The log-ratio with the control variate q/p − 1, of mean zero (minus the q-mass where p = 0). As a loss
    differentiated through log p alone its expected gradient is that of KL(q‖p), the other direction. Its variance is
    infinite where that of q/p under p is.

    Examples
    --------
    >>> k3([0.0, 1.0])
    array([0.        , 0.36787944])
    """
    xp, values = _log_ratio(log_ratio)
    impossible = values == -math.inf
    values = xp.where(impossible, 0, values)
    return xp.where(impossible, math.inf, xp.expm1(-values) + values)


def mean_interval(
    values: Array,
    *,
    confidence: float = 0.95,
    method: Literal["normal", "bernstein"] = "normal",
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Interval for the mean of independent terms, such as those of :func:`k1` or :func:`k3`.

    Parameters
    ----------
    values
        Independent observations, shape (n,), n ≥ 2, finite.
    confidence
        Coverage, in (0, 1).
    method
        ``normal``: mean ± z s/√n, valid as n grows. ``bernstein``: the empirical Bernstein bound, valid at every n
        for values known to lie in ``bounds``.
    bounds
        Lowest and highest possible value; needed by ``bernstein``, and refused by ``normal``.

    Returns
    -------
    low, high
        The ends, not cut at the bounds.

    Raises
    ------
    ParameterError
        For fewer than two values, values outside the bounds, or an argument out of range.

    Notes
    -----
    Maurer and Pontil, Empirical Bernstein bounds and sample-variance penalization, COLT 2009, theorem 4, on each
    side: √(2 V log(2/δ)/n) + 7 (b − a) log(2/δ)/(3(n − 1)) with δ half of 1 − confidence.

    Examples
    --------
    >>> low, high = mean_interval([0.0, 1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (0.235, 2.765)
    """
    xp, (values,) = floating(values=values)
    check_finite(values=values)
    if values.ndim != 1 or values.shape[0] < 2:
        raise ParameterError(f"values must have shape (n,) with n at least 2, got {tuple(values.shape)}")
    confidence = check_number("confidence", confidence, above=0, below=1)
    values = values.detach() if hasattr(values, "detach") else values
    with quiet():
        n, mean, variance = values.shape[0], float(xp.mean(values)), float(xp.var(values, correction=1))
    check_number("the variance of values", variance, below=math.inf)
    if method == "normal":
        if bounds is not None:
            raise ParameterError("bounds are used by method 'bernstein' only")
        from statistics import NormalDist

        radius = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance / n)
    elif method == "bernstein":
        if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
            raise ParameterError(f"bounds must be two increasing finite numbers for method 'bernstein', got {bounds!r}")
        low = check_number("the lower of bounds", bounds[0], above=-math.inf)
        high = check_number("the upper of bounds", bounds[1], above=low, below=math.inf)
        if not low <= float(xp.min(values)) <= float(xp.max(values)) <= high:
            raise ParameterError(f"values must lie in the bounds {bounds}")
        log_term = math.log(4 / (1 - confidence))
        radius = math.sqrt(2 * variance * log_term / n) + 7 * (high - low) * log_term / (3 * (n - 1))
    else:
        raise ParameterError(f"method must be 'normal' or 'bernstein', got {method!r}")
    return mean - radius, mean + radius


def renyi_from_log_ratios(log_ratio: Array, *, order: float, axis: int = -1) -> Array:
    """Renyi divergence of an order from log-ratios at samples of p.

    Parameters
    ----------
    log_ratio
        log p(x) − log q(x) at samples x of p, samples along ``axis``.
    order
        Order, positive and finite; 1 gives the mean of :func:`k1`.
    axis
        The axis of the samples.

    Returns
    -------
    Array
        Without ``axis``; ``inf`` where a log-ratio is, for order ≥ 1 (for order < 1 such samples count nothing).

    Raises
    ------
    ParameterError
        If there is a NaN or no sample, or for ``order`` out of range.

    Notes
    -----
    log(mean exp((order − 1) log_ratio))/(order − 1), consistent, and by Jensen's inequality biased downwards where
    order > 1 and upwards where order < 1. The variance is finite only if the divergence of order 2 order − 1 is.

    Examples
    --------
    >>> round(float(renyi_from_log_ratios([0.0, 1.0], order=2.0)), 6)
    0.620115
    """
    order = check_number("order", order, above=0, below=math.inf)
    xp, values = _log_ratio(log_ratio)
    check_axis(axis, log_ratio=values)
    if order == 1:
        return xp.mean(values, axis=axis)
    infinite = values == math.inf
    exponents = xp.where(infinite, -math.inf if order < 1 else 0.0, (order - 1) * xp.where(infinite, 0, values))
    mean = (log_sum_exp(xp, exponents, axis) - math.log(values.shape[axis])) / (order - 1)
    return xp.where(xp.any(infinite, axis=axis), math.inf, mean) if order > 1 else mean


def chi2_from_log_ratios(log_ratio: Array, *, axis: int = -1) -> Array:
    """Pearson chi-square divergence of p from q, without bias, from log-ratios at samples of p.

    Parameters
    ----------
    log_ratio
        log p(x) − log q(x) at samples x of p, samples along ``axis``.
    axis
        The axis of the samples.

    Returns
    -------
    Array
        Without ``axis``; may be negative; ``inf`` where a log-ratio is, and on overflow.

    Raises
    ------
    ParameterError
        If there is a NaN or no sample.

    Notes
    -----
    χ²(p‖q) = E_p[p/q − 1].

    Examples
    --------
    >>> round(float(chi2_from_log_ratios([0.0, 1.0])), 6)
    0.859141
    """
    xp, values = _log_ratio(log_ratio)
    check_axis(axis, log_ratio=values)
    return xp.mean(xp.expm1(values), axis=axis)


def self_normalised_weights(log_weights: Array, *, axis: int = -1) -> Array:
    """Importance weights that sum to one, from unnormalised log-weights.

    Parameters
    ----------
    log_weights
        log target(x) − log proposal(x) up to a constant, at samples of the proposal along ``axis``; ``-inf`` where
        the target is 0.
    axis
        The axis of the samples.

    Returns
    -------
    Array
        The shape of ``log_weights``, in [0, 1].

    Raises
    ------
    ParameterError
        If there is a NaN, ``+inf``, or no sample of positive weight.

    Examples
    --------
    >>> self_normalised_weights([1000.0, 1000.0])
    array([0.5, 0.5])
    """
    xp, log_weights = _log_weights(log_weights, axis)
    weights = xp.exp(log_weights - xp.max(log_weights, axis=axis, keepdims=True))
    return weights / xp.sum(weights, axis=axis, keepdims=True)


def self_normalised_expectation(values: Array, log_weights: Array, *, axis: int = -1) -> Array:
    """Self-normalised importance sampling: an expectation under a target known up to a constant.

    Parameters
    ----------
    values
        The function at samples of the proposal, samples along ``axis``.
    log_weights
        log target(x) − log proposal(x) up to a constant, broadcastable to ``values``.
    axis
        The axis of the samples.

    Returns
    -------
    Array
        Without ``axis``; consistent, with a bias of order 1/n. Report :func:`effective_sample_size` with it.

    Raises
    ------
    ParameterError
        For NaN, infinite values of both signs, shapes that do not fit, or no sample of positive weight.

    Examples
    --------
    >>> float(self_normalised_expectation([1.0, 3.0], [0.0, 0.0]))
    2.0
    """
    xp, (values, log_weights) = floating(values=values, log_weights=log_weights)
    check_axis(axis, values=values, log_weights=log_weights)
    check_not_nan(values=values)
    weights = self_normalised_weights(log_weights, axis=axis)
    # a value where the target has no mass counts nothing, were it infinite
    with quiet():
        expectation = xp.sum(weights * xp.where(weights > 0, values, 0), axis=axis)
    check_defined("values", expectation)
    return expectation


def effective_sample_size(log_weights: Array, *, axis: int = -1) -> Array:
    """Kish's effective sample size (Σw)²/Σw² of importance weights.

    Parameters
    ----------
    log_weights
        Log-weights up to a constant, samples along ``axis``.
    axis
        The axis of the samples.

    Returns
    -------
    Array
        Without ``axis``; between 1 and the number of samples.

    Raises
    ------
    ParameterError
        As :func:`self_normalised_weights`.

    Notes
    -----
    Kish, Survey Sampling, 1965. n over it estimates 1 + χ²(target‖proposal).

    Examples
    --------
    >>> round(float(effective_sample_size([0.0, 0.0, -float("inf")])), 6)
    2.0
    """
    weights = self_normalised_weights(log_weights, axis=axis)
    return 1 / (weights**2).sum(axis)


def _log_ratio(log_ratio: Array) -> tuple[Namespace, Array]:
    xp, (values,) = floating(log_ratio=log_ratio)
    check_not_nan(log_ratio=values)
    return xp, values


def _log_weights(log_weights: Array, axis: int) -> tuple[Namespace, Array]:
    xp, (values,) = floating(log_weights=log_weights)
    check_axis(axis, log_weights=values)
    check_not_nan(log_weights=values)
    if not bool((abs(xp.max(values, axis=axis)) < math.inf).all()):
        raise ParameterError("log_weights must be below infinity, with a finite entry among the samples")
    return xp, values
