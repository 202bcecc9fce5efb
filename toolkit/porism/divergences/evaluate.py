"""How a generator is evaluated on arrays: edges, masks, series near p = q, conjugates without a formula."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import array_api_compat
import numpy as np

from porism.arrays import Array, Namespace, check_axis, check_not_nan, floating, probabilities
from porism.errors import ParameterError

if TYPE_CHECKING:
    from porism.divergences.generators import Generator

INF = math.inf


def quiet() -> contextlib.AbstractContextManager[object]:
    """Limits are taken by masks, so numpy need not warn about the entries that a mask replaces."""
    return np.errstate(all="ignore")


def detached(x: Array) -> Array:
    """The values without their gradient."""
    return x.detach() if array_api_compat.is_torch_array(x) else x


def divergence(generator: Generator, p: Array, q: Array, *, axis: int, weights: Array | None, normalize: bool) -> Array:
    """Validate p, q, weights and sum the terms q f(p/q)."""
    xp, (p, q, weights) = floating(optional=("weights",), p=p, q=q, weights=weights)
    check_axis(axis, p=p, q=q)
    weights = along(xp, weights, p, axis)
    with quiet():
        p, q = probabilities(xp, axis=axis, weights=weights, normalize=normalize, p=p, q=q)
        return total(generator, p, q, xp, axis=axis, weights=weights)


def total(generator: Generator, p: Array, q: Array, xp: Namespace, *, axis: int, weights: Array | None = None) -> Array:
    """The weighted sum of the terms of distributions that were checked before."""
    term = terms(generator, p, q, xp)
    if weights is not None:
        term = xp.where(weights > 0, weights * xp.where(weights > 0, term, 0 * weights), 0 * weights)
    return xp.sum(term, axis=axis)


def along(
    xp: Namespace, weights: Array | None, values: Array, axis: int, *, names: tuple[str, str] = ("weights", "p")
) -> Array | None:
    """Weights of shape (n,) laid along the axis of the values; others as they are. The names are for errors."""
    if weights is None:
        return None
    if weights.ndim == 1 and values.ndim > 1:
        shape = [1] * values.ndim
        shape[axis] = weights.shape[0]
        weights = xp.reshape(weights, tuple(shape))
    check_axis(axis, **{names[1]: values, names[0]: weights})
    return weights


def terms(generator: Generator, p: Array, q: Array, xp: Namespace) -> Array:
    """q f(p/q) elementwise for finite p, q >= 0, with the limits at zeros."""
    if _moderate(p) and _moderate(q):
        term = generator.perspective(xp.log(p), xp.log(q), p, q, xp)[0]
        return _near_one(generator, p, q, term, xp)
    both = (p > 0) & (q > 0)
    one = xp.ones_like(p * q)
    p_in, q_in = xp.where(both, p, one), xp.where(both, q, one)
    # q f(p/q) is homogeneous: dividing by the larger keeps 1e300 and 1e-300 within range
    scale = detached(xp.maximum(p_in, q_in))
    log_scale = xp.log(scale)
    logs = xp.log(p_in) - log_scale, xp.log(q_in) - log_scale
    term = scale * generator.perspective(*logs, p_in / scale, q_in / scale, xp)[0]
    return xp.where(both, _near_one(generator, p_in, q_in, term, xp), _edge(generator, p, q, xp))


def _moderate(x: Array) -> bool:
    """Whether there are neither zeros nor extremes, so that masks and scaling may be left out."""
    x = detached(x)
    size = x.size if isinstance(x, np.ndarray) else x.numel()
    return size > 0 and bool(x.min() > 1e-15) and bool(x.max() < 1e15)


def _near_one(generator: Generator, p: Array, q: Array, term: Array, xp: Namespace) -> Array:
    """The terms, by their series where p is close to q and the formula would cancel."""
    if not generator.series:
        return term
    close = abs(detached(p - q)) < radius(generator.series, xp.finfo(term.dtype).eps) * detached(q)
    one = xp.ones_like(term)
    p_near, q_near = xp.where(close, p, one), xp.where(close, q, one)
    return xp.where(close, q_near * expansion(generator.series, (p_near - q_near) / q_near), term)


def _edge(generator: Generator, p: Array, q: Array, xp: Namespace) -> Array:
    """Terms where p or q is zero. Slopes that are infinite there have the gradient zero."""
    limits = generator.limits
    only_q = _line(q, limits.at_zero, p, limits.derivative_at_zero)
    only_p = _line(p, limits.slope_at_infinity, q, limits.q_slope_at_infinity)
    none = 0 * (p + q)
    return xp.where(q > 0, only_q, xp.where(p > 0, only_p, none))


def _line(x: Array, slope: float, zero: Array, slope_of_zero: float) -> Array:
    if slope == INF:
        return 0 * detached(x + zero) + INF
    return slope * x + (slope_of_zero if math.isfinite(slope_of_zero) else 0.0) * zero


def radius(series: Sequence[float], eps: float) -> float:
    """How far from t = 1 the series serves: its last term is below eps there, and less where coefficients grow."""
    growth = max([1.0, *(abs(b / a) for a, b in itertools.pairwise(series) if a != 0)])
    smallness: float = float(eps) ** (1 / len(series))
    return smallness / growth


def expansion(series: Sequence[float], gap: Array) -> Array:
    """sum_k c_k gap^k, k = 2, 3, ..."""
    total = series[-1]
    for coefficient in reversed(series[:-1]):
        total = total * gap + coefficient
    return gap * gap * total


def swapped_series(series: Sequence[float]) -> tuple[float, ...]:
    """Coefficients of t f(1/t) around 1 from those of f: (t - 1)^k goes to (1 - t)^k t^(1 - k)."""
    out = [0.0] * len(series)
    for i, c in enumerate(series):
        k = i + 2
        factor = (-1.0) ** k * c
        for j in range(len(series) - i):
            out[i + j] += factor * (-1.0) ** j * math.comb(k - 2 + j, j)
    return tuple(out)


def divergence_logits(generator: Generator, p_logits: Array, q_logits: Array, *, axis: int) -> Array:
    """Terms in log space; tensors go to the fast core."""
    if array_api_compat.is_torch_array(p_logits) and array_api_compat.is_torch_array(q_logits):
        from porism.kernels.logits import divergence_logits as fast

        check_axis(axis, p_logits=p_logits, q_logits=q_logits)
        return fast(generator, p_logits.movedim(axis, -1), q_logits.movedim(axis, -1))
    return divergence_log_space(generator, p_logits, q_logits, axis=axis)


def divergence_log_space(generator: Generator, p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """The same by any backend and with gradients of every order; the reference of the fast core."""
    xp, (p_logits, q_logits) = floating(p_logits=p_logits, q_logits=q_logits)
    check_axis(axis, p_logits=p_logits, q_logits=q_logits)
    with quiet():
        log_p = log_softmax(xp, axis=axis, p_logits=p_logits)
        log_q = log_softmax(xp, axis=axis, q_logits=q_logits)
        p, q = xp.exp(log_p), xp.exp(log_q)
        no_p, no_q = log_p == -INF, log_q == -INF
        both, zero = ~(no_p | no_q), xp.zeros_like(p * q)
        a, b = xp.where(both, log_p, zero), xp.where(both, log_q, zero)
        term = generator.perspective(a, b, xp.exp(a), xp.exp(b), xp)[0]
        if generator.series:
            close = abs(detached(a - b)) < radius(generator.series, xp.finfo(a.dtype).eps)
            gap = xp.expm1(xp.where(close, a - b, zero))
            term = xp.where(close, xp.exp(b) * expansion(generator.series, gap), term)
        term = xp.where(both, term, _edge(generator, xp.where(no_p, zero, p), xp.where(no_q, zero, q), xp))
        # a probability that underflows beside one that does not still has its logarithm above; only here it is 0
        return xp.sum(xp.where(no_p & no_q, zero, term), axis=axis)


def log_softmax(xp: Namespace, *, axis: int, **logits: Array) -> Array:
    """Logits minus their logsumexp; the one keyword argument names them in errors."""
    ((name, value),) = logits.items()
    check_not_nan(**logits)
    if bool((value == INF).any()):
        raise ParameterError(f"{name} must not contain inf")
    top = detached(xp.max(value, axis=axis, keepdims=True))
    if bool((top == -INF).any()):
        raise ParameterError(f"{name} has nothing but -inf along axis {axis}, which is no distribution")
    shifted = value - top
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


def f_at(generator: Generator, t: Array, xp: Namespace) -> Array:
    """f at t >= 0: the term of p = t and q = 1."""
    top = INF if generator.slope_at_infinity > 0 else -generator.at_zero
    with quiet():
        finite = t < INF
        one = xp.ones_like(t)
        return xp.where(finite, terms(generator, xp.where(finite, t, one), one, xp), top * one)


def derivative_at(generator: Generator, t: Array, xp: Namespace) -> Array:
    """f' at t >= 0, with its limits at both ends."""
    with quiet():
        inside = (t > 0) & (t < INF)
        one = xp.ones_like(t)
        value = generator.functions.derivative(xp.where(inside, t, one), xp, **generator.parameters)
        # f' rises from one limit to the other; rounding must not carry it beyond, where f* is infinite
        value = xp.clip(value, generator.limits.derivative_at_zero, generator.slope_at_infinity)
        edge = xp.where(t > 0, generator.slope_at_infinity * one, generator.limits.derivative_at_zero * one)
        return xp.where(inside, value, edge)


def conjugate(generator: Generator, u: Array, xp: Namespace) -> Array:
    """f*(u), by its formula between f'(0) and f'(inf), and by its definition beyond."""
    limits = generator.limits
    inside = (u > limits.derivative_at_zero) & (u < limits.slope_at_infinity)
    safe = xp.where(inside, u, xp.zeros_like(u))  # 0 = f'(1) is inside always
    with quiet():
        if generator.functions.conjugate is not None:
            value = generator.functions.conjugate(safe, xp, **generator.parameters)
        else:
            value = _solved(generator, safe, xp)
        above = xp.where(u == limits.slope_at_infinity, xp.full_like(u, -limits.q_slope_at_infinity), INF + 0 * u)
        below = xp.full_like(u, -limits.at_zero)
        return xp.where(inside, value, xp.where(u <= limits.derivative_at_zero, below, above))


def _solved(generator: Generator, u: Array, xp: Namespace) -> Array:
    """-(f - t f')(t) where f'(t) = u: log t is found by halving its range to the last bit.

    Unlike u t - f(t) this does not cancel at large t. First and second gradients are t and 1/f''.
    """
    functions, given = generator.functions, generator.parameters
    target = detached(u)
    widest = 0.99 * math.log(float(xp.finfo(u.dtype).max))
    low, high = xp.full_like(target, -widest), xp.full_like(target, widest)
    for _ in range(64):
        x = (low + high) / 2
        below = functions.derivative(xp.exp(x), xp, **given) < target
        low, high = xp.where(below, x, low), xp.where(below, high, x)
    x = (low + high) / 2
    t, one = xp.exp(x), xp.ones_like(x)
    value = -generator.perspective(x, 0 * x, t, one, xp)[2]
    curvature = functions.second_derivative(t, xp, **given)
    gap = u - target  # zero, with the gradient of u
    return value + gap * t + gap**2 / (2 * xp.where(curvature > 0, curvature, INF * one))


def mean(xp: Namespace, values: Array, weights: Array | None, axis: int, *, names: tuple[str, str]) -> Array:
    """Mean over an axis of values that may be infinite, with probabilities as weights if given."""
    laid = along(xp, weights, values, axis, names=names)
    with quiet():
        if laid is None:
            return xp.mean(values, axis=axis)
        (laid,) = probabilities(xp, axis=axis, **{names[0]: laid})
        return xp.sum(xp.where(laid > 0, laid * xp.where(laid > 0, values, 0 * values), 0 * values), axis=axis)
