"""The f-divergences, each declared once as a sympy expression of t = p/q.

Everything else (derivatives, conjugates, limits, log-space forms, LaTeX) is derived from these by
:mod:`porism.divergences.derive`. Only those that take part in it (and a generator of
a user's own) import sympy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import sympy

t = sympy.Symbol("t", positive=True)


@dataclass(frozen=True)
class Parameter:
    """The parameter of a family of generators, and its range; ``[`` and ``]`` mark ends that belong to it."""

    symbol: sympy.Symbol
    low: float
    high: float
    closed: str  # "(]" is low < parameter <= high

    @property
    def name(self) -> str:
        """Its name as a keyword argument."""
        return str(self.symbol)


@dataclass(frozen=True)
class Declaration:
    """A convex f(t) on t > 0 with f(1) = 0; an affine multiple of (t - 1) may be missing or too much."""

    name: str
    title: str
    expression: sympy.Expr
    parameter: Parameter | None = None
    # Parameters at which the expression reads 0/0 and the family goes on continuously.
    removable: tuple[int, ...] = ()

    def canonical(self) -> sympy.Expr:
        """f with f(1) = 0 and f'(1) = 0, so that f >= 0: subtract f'(1)(t - 1).

        At a corner sympy's ``sign(0) = 0`` picks the sub-gradient 0.
        """
        slope = sympy.simplify(self.expression.diff(t).subs(t, 1))
        return self.expression - slope * (t - 1)


_alpha = sympy.Symbol("alpha", real=True)
_weight = sympy.Symbol("weight", positive=True)
_skew = sympy.Symbol("skew", positive=True)
_mixture = _weight * t + 1 - _weight
_half = sympy.Rational(1, 2)

DECLARATIONS = (
    Declaration("kl", "Kullback-Leibler KL(p||q)", t * sympy.log(t)),
    Declaration("reverse_kl", "reverse Kullback-Leibler KL(q||p)", -sympy.log(t)),
    Declaration("jeffreys", "Jeffreys KL(p||q) + KL(q||p)", (t - 1) * sympy.log(t)),
    Declaration("js", "Jensen-Shannon", _half * (t * sympy.log(t) - (1 + t) * sympy.log((1 + t) / 2))),
    Declaration(
        "generalised_js",
        "Jensen-Shannon with weight on p",
        _weight * t * sympy.log(t) - _mixture * sympy.log(_mixture),
        Parameter(_weight, 0, 1, "()"),
    ),
    Declaration(
        "skew_kl",
        "skew Kullback-Leibler KL(p||(1-s)p + sq)",
        t * (sympy.log(t) - sympy.log((1 - _skew) * t + _skew)),
        Parameter(_skew, 0, 1, "(]"),
    ),
    Declaration("tv", "total variation", sympy.Abs(t - 1) / 2),
    Declaration("squared_hellinger", "squared Hellinger", (sympy.sqrt(t) - 1) ** 2 / 2),
    Declaration("pearson_chi2", "Pearson chi-squared", (t - 1) ** 2),
    Declaration("neyman_chi2", "Neyman chi-squared", (t - 1) ** 2 / t),
    Declaration(
        "alpha",
        "Amari alpha",
        (t**_alpha - _alpha * t - (1 - _alpha)) / (_alpha * (_alpha - 1)),
        Parameter(_alpha, -math.inf, math.inf, "()"),
        removable=(0, 1),
    ),
    Declaration("triangular", "triangular discrimination", (t - 1) ** 2 / (t + 1)),
)
