"""Planted claims that sympy is asked to prove: each false one beside its mended twin."""

from typing import Annotated

import sympy
from annotated_types import Interval

from porism import Paper, proved

PAPER = Paper(
    key="planted_proofs",
    title="Planted proofs",
    authors=("Ada Author",),
    year=2020,
    ref="arXiv:2001.00001",
    kinds=("simulator",),
    family="planted",
    needs=("theory",),
)

Real = Annotated[float, Interval(ge=-5, le=5)]
Positive = Annotated[float, Interval(gt=0, le=5)]
Unit = Annotated[float, Interval(ge=0, le=1)]


def second_moment(w, m, n, s, t):
    return w * (s**2 + m**2) + (1 - w) * (t**2 + n**2)


@proved("The variance of a mixture is the mean variance and half the spread of means", where="half the coefficient")
def mixture_variance(*, w: Unit = 0.5, m: Real = 0.0, n: Real = 0.0, s: Positive = 1.0, t: Positive = 1.0):
    variance = second_moment(w, m, n, s, t) - (w * m + (1 - w) * n) ** 2
    return sympy.Eq(variance, w * s**2 + (1 - w) * t**2 + w * (1 - w) * (m - n) ** 2 / 2)


@proved("The variance of a mixture is the mean variance and the spread of means", where="mended")
def mixture_variance_mended(*, w: Unit = 0.5, m: Real = 0.0, n: Real = 0.0, s: Positive = 1.0, t: Positive = 1.0):
    variance = second_moment(w, m, n, s, t) - (w * m + (1 - w) * n) ** 2
    return sympy.Eq(variance, w * s**2 + (1 - w) * t**2 + w * (1 - w) * (m - n) ** 2)


Count = Annotated[int, Interval(ge=1, le=100)]


@proved("A Gaussian mean has the posterior variance s^2 t^2 / (s^2 + n t^2)", where="prior and noise exchanged")
def posterior_variance(*, s: Positive = 1.0, t: Positive = 1.0, n: Count = 1):
    return sympy.Eq(1 / (1 / s**2 + n / t**2), s**2 * t**2 / (s**2 + n * t**2))


@proved("A Gaussian mean has the posterior variance s^2 t^2 / (t^2 + n s^2)", where="mended")
def posterior_variance_mended(*, s: Positive = 1.0, t: Positive = 1.0, n: Count = 1):
    return sympy.Eq(1 / (1 / s**2 + n / t**2), s**2 * t**2 / (t**2 + n * s**2))


@proved("Three points obey the law of cosines", where="a wrong sign")
def three_points(*, x: Real = 0.0, y: Real = 0.0, z: Real = 1.0):
    return sympy.Eq((x - z) ** 2, (x - y) ** 2 + (y - z) ** 2 - 2 * (x - y) * (y - z))


@proved("Three points obey the law of cosines", where="mended")
def three_points_mended(*, x: Real = 0.0, y: Real = 0.0, z: Real = 1.0):
    return sympy.Eq((x - z) ** 2, (x - y) ** 2 + (y - z) ** 2 + 2 * (x - y) * (y - z))


@proved("(1 + x)^r is at least 1 + r x", where="true from r = 1 on")
def bernoulli(*, x: Positive = 1.0, r: Annotated[float, Interval(ge=0.9, le=10)] = 2.0):
    return sympy.Ge((1 + x) ** r, 1 + r * x)


@proved("From r = 1 on, (1 + x)^r is at least 1 + r x", where="mended")
def bernoulli_mended(*, x: Positive = 1.0, r: Annotated[float, Interval(ge=1, le=10)] = 2.0):
    return sympy.Ge((1 + x) ** r, 1 + r * x)


@proved("x^4 y^2 + x^2 y^4 + 1 is at least 3.03 x^2 y^2", where="Motzkin's three rounded up by a hundredth")
def motzkin(*, x: Real = 0.5, y: Real = 0.5):
    return sympy.Ge(x**4 * y**2 + x**2 * y**4 + 1, sympy.Rational(303, 100) * x**2 * y**2)


@proved("x^4 y^2 + x^2 y^4 + 1 is at least 3 x^2 y^2", where="Motzkin")
def motzkin_mended(*, x: Real = 0.5, y: Real = 0.5):
    return sympy.Ge(x**4 * y**2 + x**2 * y**4 + 1, 3 * x**2 * y**2)


@proved("The second difference of a cubic is six times its step squared", where="right at x = 1 only")
def second_difference(*, x: Positive = 1.0, h: Positive = 0.1):
    return sympy.Eq((x + h) ** 3 - 2 * x**3 + (x - h) ** 3, 6 * h**2)


@proved("The second difference of a cubic is six times its place and its step squared", where="mended")
def second_difference_mended(*, x: Positive = 1.0, h: Positive = 0.1):
    return sympy.Eq((x + h) ** 3 - 2 * x**3 + (x - h) ** 3, 6 * x * h**2)
