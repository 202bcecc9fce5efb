"""What the generated table is made of, and the few functions that its formulas call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from porism.arrays import Array, Namespace

# Added to mixtures of p and q that both underflow, so that 0/0 reads 0; far below what a sum of 1 notices.
TINY = 1e-37
# So close to a removable 0/0 of its parameter a family is written with q_log.
NEAR = 0.05


class Functions(NamedTuple):
    """The elementwise functions of a generator; each takes the array, the namespace, and the parameter."""

    f: Callable[..., Array]
    derivative: Callable[..., Array]
    second_derivative: Callable[..., Array]
    conjugate: Callable[..., Array] | None
    perspective: Callable[..., tuple[Array, Array, Array]]


class Limits(NamedTuple):
    """f(0), f(t)/t at infinity, f'(0), and f - t f' at infinity."""

    at_zero: float
    slope_at_infinity: float
    derivative_at_zero: float
    q_slope_at_infinity: float


class Facts(NamedTuple):
    """What else is known of a generator; callables take the parameter."""

    title: str
    parameter: tuple[str, float, float, str] | None
    limits: Callable[..., Limits]
    curvature: Callable[..., float]
    series: Callable[..., tuple[float, ...]]
    swap: tuple[str, Callable[[float], float] | None] | None
    latex: dict[str, str]


def scalar_log(x: float) -> float:
    """Logarithm of a parameter, minus infinity at zero."""
    return math.log(x) if x > 0 else -math.inf


def smallest(x: Array, xp: Namespace) -> float:
    """The smallest normal number of the dtype: added to a divisor that may underflow, so that 0/0 reads 0."""
    return float(xp.finfo(x.dtype).smallest_normal)


def q_log(x: Array, e: float, xp: Namespace) -> Array:
    """(exp(e x) - 1)/e, which is x at e = 0; capped below overflow so that zero times it is zero."""
    if e == 0:
        return x
    return xp.expm1(xp.clip(e * x, None, math.log(float(xp.finfo(x.dtype).max)))) / e


def log_q_exp(x: Array, e: float, xp: Namespace) -> Array:
    """log(1 + e x)/e, the inverse of :func:`q_log`; plus or minus infinity beyond its domain."""
    if e == 0:
        return x
    inside: Any = xp.clip(e * x, -1.0, None)
    return xp.log1p(inside) / e
