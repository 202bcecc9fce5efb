"""What follows from a generator f(t): derivatives, limits, conjugate, swap, series, log-space forms, LaTeX.

Run as ``python -m porism.divergences.derive`` it writes the generated modules again (see
:mod:`porism.divergences.emit`); they are committed, so that nothing else needs sympy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sympy

from porism.divergences.declared import DECLARATIONS, Declaration, Parameter, t

u = sympy.Symbol("u", real=True)
# Log-space symbols: logarithms, values, log of the mixture, q / mixture, log(p / q), sign of p - q.
log_p, log_q = sympy.symbols("log_p log_q", real=True)
p, q = sympy.symbols("p q", positive=True)
log_mixture = sympy.Symbol("log_mixture", real=True)
share = sympy.Symbol("share", positive=True)
log_ratio = sympy.Symbol("log_ratio", real=True)
sign = sympy.Symbol("sign", real=True)
_log_t, _log_m, _inverse = sympy.symbols("log_t log_m inverse", real=True)
_n = sympy.Symbol("n", positive=True)
_exp = sympy.Function("exp_unsplit")  # sympy.expand would make a product of exponentials, which overflow one by one

SERIES_TERMS = 8
expm1, log1p = sympy.Function("expm1"), sympy.Function("log1p")
# Powers t^a with a near 0 or 1 are written with these: (t^e - 1)/e without the division, and its inverse's log.
q_log = sympy.Function("q_log")
log_q_exp = sympy.Function("log_q_exp")


@dataclass(frozen=True)
class Limits:
    """One range of the parameter, by a condition on it, and what f and f' tend to there."""

    condition: str
    at_zero: sympy.Expr
    slope_at_infinity: sympy.Expr
    derivative_at_zero: sympy.Expr
    q_slope_at_infinity: sympy.Expr


@dataclass(frozen=True)
class Forms:
    """q f(p/q), p f'(p/q) and q (f - t f')(p/q) in log space."""

    term: sympy.Expr
    p_slope: sympy.Expr
    q_slope: sympy.Expr
    mixture: sympy.Expr | None  # what log_mixture and share are of


@dataclass(frozen=True)
class Derived:
    """Everything that follows from one declaration."""

    f: sympy.Expr
    derivative: sympy.Expr
    second_derivative: sympy.Expr
    curvature: sympy.Expr
    limits: tuple[Limits, ...]
    conjugate: sympy.Expr | None  # None: no elementary form, solved by Newton at run time
    optimum: sympy.Expr | None  # where that is known through special functions: t with u = f'(t)
    link: sympy.Expr
    series: tuple[sympy.Expr, ...]
    forms: Forms | None  # None for an f beyond powers, logarithms and one mixture


def derive(declaration: Declaration) -> Derived:
    """Derive everything from one declaration.

    Examples
    --------
    >>> from porism.divergences.declared import DECLARATIONS
    >>> kl = derive(DECLARATIONS[0])
    >>> kl.derivative, kl.conjugate, kl.curvature
    (log(t), expm1(u), 1)
    """
    f = declaration.canonical()
    corner = f.has(sympy.Abs)
    derivative = _tidy(f.diff(t))
    second = sympy.Integer(0) if corner else sympy.factor(sympy.simplify(f.diff(t, 2)))
    curvature = sympy.oo if corner else sympy.factor(second.subs(t, 1))
    conjugate = _corner_conjugate(f) if corner else _conjugate(f, derivative, declaration)
    return Derived(
        f=_tidy(f),
        derivative=derivative,
        second_derivative=second,
        curvature=curvature,
        limits=tuple(_limits(f, declaration)),
        conjugate=conjugate,
        optimum=None if corner or conjugate is not None else next(iter(_optima(derivative)), None),
        link=sympy.expand_log(derivative).as_independent(t, as_Add=True)[1],
        series=() if corner else tuple(_series(second)),
        forms=_forms_or_none(f),
    )


def swap(f: sympy.Expr) -> sympy.Expr:
    """The generator t f(1/t) of the divergence with its arguments swapped."""
    return sympy.simplify(t * f.subs(t, 1 / t))


def swapped_name(declaration: Declaration) -> tuple[str, sympy.Expr | None] | None:
    """The declared family that the swapped generator belongs to, and its parameter in terms of this one's."""
    swapped = t * declaration.canonical().subs(t, 1 / t)
    mine = declaration.parameter
    for other in DECLARATIONS:
        if (other.parameter is None) != (mine is None):
            continue
        for value in [None] if mine is None else [mine.symbol, 1 - mine.symbol]:
            theirs = other.canonical()
            if other.parameter is not None:
                theirs = theirs.subs(other.parameter.symbol, value)
            if _same(swapped, theirs):
                return other.name, value
    return None


def perspective_forms(f: sympy.Expr) -> Forms:
    """Expand q f(p/q) and its two slopes in log space, where nothing overflows and no ratio is formed."""
    mixtures: set[sympy.Expr] = set()
    slope = _tidy(f.diff(t))
    rest = sympy.expand_log(sympy.expand(f)) - sympy.expand_log(sympy.expand(t * slope))
    forms = _perspective(f, mixtures, q), _perspective(slope, mixtures, p), _perspective(rest, mixtures, q)
    if len(mixtures) > 1:
        raise NotImplementedError("two different mixtures of p and q")
    return Forms(*forms, next(iter(mixtures), None))


def _forms_or_none(f: sympy.Expr) -> Forms | None:
    try:
        forms = perspective_forms(f)
    except (NotImplementedError, sympy.PolynomialError):
        return None
    return None if any(form.has(t) for form in (forms.term, forms.p_slope, forms.q_slope)) else forms


def near(g: sympy.Expr, alpha: sympy.Symbol, point: int) -> sympy.Expr:
    """Rewrite t^alpha with ``q_log`` so that the division by (alpha - point) disappears."""
    gap = alpha - point
    phi = sympy.Symbol("phi")
    powers = g.expand().replace(
        lambda e: e.is_Pow and e.base == t and e.exp.has(alpha),
        lambda e: t ** (e.exp - gap) * (1 + gap * phi),
    )
    return sympy.cancel(sympy.simplify(powers)).subs(phi, q_log(sympy.log(t), gap))


def near_forms(derived: Derived, alpha: sympy.Symbol, point: int) -> Forms:
    """The log-space forms near a removable point of the parameter."""
    f, slope = derived.f, derived.derivative
    term, p_slope, q_slope = (
        _perspective(near(g, alpha, point), set(), base) for g, base in ((f, q), (slope, p), (f - t * slope, q))
    )
    return Forms(term, p_slope, q_slope, None)


def _tidy(expression: sympy.Expr) -> sympy.Expr:
    """The shortest of a few equal forms, without t in an exponent and without a corner spelled as cases."""
    simple, expanded = sympy.simplify(expression), sympy.expand_log(sympy.expand(expression))
    terms = sum(sympy.powsimp(sympy.simplify(term)) for term in sympy.Add.make_args(expanded))
    candidates = [terms, sympy.factor_terms(terms), expression, simple, expanded]
    rational = expanded - (logs := sum(term for term in sympy.Add.make_args(expanded) if term.has(sympy.log)))
    if rational.is_rational_function(t):
        candidates.append(logs + sympy.apart(sympy.together(rational), t))
    plain = [c for c in candidates if not c.has(sympy.Piecewise) and not any(e.exp.has(t) for e in c.atoms(sympy.Pow))]
    return min(plain, key=sympy.count_ops)


def _same(left: sympy.Expr, right: sympy.Expr) -> bool:
    difference = left - right
    for value in (sympy.Rational(1, 7), sympy.Rational(13, 5)):
        point = {symbol: sympy.Rational(2, 9) for symbol in difference.free_symbols - {t}} | {t: value}
        if abs(difference.subs(point).evalf(30)) > 1e-20:
            return False
    return True


def _ranges(declaration: Declaration) -> Iterable[tuple[str, dict[Any, Any], dict[Any, Any]]]:
    """Ranges of the parameter with one behaviour each: condition, substitution by a positive n, and back."""
    parameter = declaration.parameter
    if parameter is None:
        yield "", {}, {}
    elif not declaration.removable:
        s = parameter.symbol
        yield "", {s: 1 / (1 + _n)}, {_n: 1 / s - 1}
    else:
        s = parameter.symbol
        yield f"{s} < 0", {s: -_n}, {_n: -s}
        yield f"{s} == 0", {s: sympy.Integer(0)}, {}
        yield f"{s} < 1", {s: 1 / (1 + _n)}, {_n: 1 / s - 1}
        yield f"{s} == 1", {s: sympy.Integer(1)}, {}
        yield "", {s: 1 + _n}, {_n: s - 1}


def _limits(f: sympy.Expr, declaration: Declaration) -> Iterable[Limits]:
    for condition, there, back in _ranges(declaration):
        here = f
        for symbol, value in there.items():
            here = sympy.limit(f, symbol, value) if value in declaration.removable else f.subs(symbol, value)
        slope = _powers(here.diff(t))
        values = (
            sympy.limit(here, t, 0, "+"),
            sympy.limit(_powers(here / t), t, sympy.oo),
            sympy.limit(slope, t, 0, "+"),
            sympy.limit(_powers(sympy.expand_log(here - t * slope)), t, sympy.oo),
        )
        yield Limits(condition, *(sympy.simplify(value.subs(back)) for value in values))


def _powers(expression: sympy.Expr) -> sympy.Expr:
    """A sum with one power of t a term; sympy takes wrong limits of t^n when its quotients are spread out."""
    return sum(sympy.powsimp(sympy.factor(term)) for term in sympy.Add.make_args(sympy.expand(expression)))


def _conjugate(f: sympy.Expr, derivative: sympy.Expr, declaration: Declaration) -> sympy.Expr | None:
    """u t - f(t) where u = f'(t), for u between f'(0) and f'(inf)."""
    if declaration.removable and declaration.parameter is not None:
        return _power_conjugate(f, derivative, declaration.parameter)
    slope = sympy.limit(sympy.expand(f / t), t, sympy.oo) if declaration.parameter is None else sympy.oo
    gap = sympy.Symbol("gap", positive=True)
    for solution in _optima(derivative):
        if solution.has(sympy.LambertW):
            continue
        here = solution.subs(u, slope - gap) if slope.is_finite else solution
        value = (u if not slope.is_finite else slope - gap) * here - f.subs(t, here)
        value = sympy.simplify(sympy.expand_log(sympy.expand(sympy.simplify(value)), force=True))
        value = _expm1(sympy.simplify(value.subs(gap, slope - u)))
        if _is_conjugate(value, f, derivative):
            return value
    return None


@functools.cache
def _optima(derivative: sympy.Expr) -> list[sympy.Expr]:
    """Solutions t of u = f'(t); none where sympy finds none."""
    try:
        return list(sympy.solve(sympy.expand_log(derivative) - u, t))
    except (NotImplementedError, TypeError):  # TypeError: it could not order two powers
        return []


def _power_conjugate(f: sympy.Expr, derivative: sympy.Expr, parameter: Parameter) -> sympy.Expr:
    """The conjugate of (t^a - ...)/(a(a-1)) without its removable divisions, checked against the definition."""
    alpha = parameter.symbol
    value = q_log(log_q_exp(u, alpha - 1), alpha)
    plain = value.replace(q_log, lambda x, e: (sympy.exp(e * x) - 1) / e)
    plain = plain.replace(log_q_exp, lambda x, e: sympy.log(1 + e * x) / e)
    if not _is_conjugate(plain, f, derivative):
        raise ValueError("the power family's conjugate does not satisfy f*(f'(t)) = t f'(t) - f(t)")
    return value


def _corner_conjugate(f: sympy.Expr) -> sympy.Expr:
    """Of a piecewise linear f with its corner at 1: the larger of the lines through t = 0 and t = 1."""
    return sympy.Max(-f.subs(t, 0), u)


def _expm1(value: sympy.Expr) -> sympy.Expr:
    """Write exp(x) - 1 and log(1 + x) as functions of their own, exact at small arguments."""
    value = value.replace(sympy.exp, lambda x: 1 + expm1(x))

    def logarithm(x: sympy.Expr) -> sympy.Expr:
        above, below = sympy.simplify(x - 1), sympy.simplify(1 / x - 1)
        return log1p(above) if sympy.count_ops(above) < sympy.count_ops(below) else -log1p(below)

    return sympy.factor_terms(value.replace(sympy.log, logarithm)) if value.has(sympy.log, expm1) else value


def _is_conjugate(value: sympy.Expr, f: sympy.Expr, derivative: sympy.Expr) -> bool:
    value = value.replace(expm1, lambda x: sympy.exp(x) - 1).replace(log1p, lambda x: sympy.log(1 + x))
    return _same(value.subs(u, derivative), t * derivative - f)


def _series(second: sympy.Expr) -> Iterable[sympy.Expr]:
    """Coefficients c_k of f(t) = sum_k c_k (t - 1)^k, k = 2, 3, ..."""
    for k in range(2, 2 + SERIES_TERMS):
        yield sympy.factor(second.subs(t, 1)) / sympy.factorial(k)
        second = sympy.factor(second.diff(t))


def _perspective(g: sympy.Expr, mixtures: set[sympy.Expr], base: sympy.Symbol) -> sympy.Expr:
    """base g(p/q): powers of t become exponentials of logs, log(At + B) and 1/(At + B) those of a mixture."""
    if not g.free_symbols - {t} and g.is_rational_function(t):
        g = sympy.apart(sympy.together(g), t)

    def line(argument: sympy.Expr) -> sympy.Expr | None:
        """(A + B) if the argument is At + B, both not zero; the mixture is remembered."""
        polynomial = sympy.Poly(sympy.expand(argument), t) if argument.is_polynomial(t) else None
        if polynomial is None or polynomial.degree() != 1 or polynomial.TC() == 0:
            return None
        total = sympy.simplify(polynomial.LC() + polynomial.TC())
        of_p, of_q = (sympy.simplify(c / total) for c in polynomial.all_coeffs())
        mixtures.add(of_p * p + of_q * q)
        return total

    def logarithm(argument: sympy.Expr) -> sympy.Expr:
        if argument == t:
            return _log_t
        total = line(argument)
        return sympy.log(argument) if total is None else _log_m + sympy.log(total)

    def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        total = line(base) if exponent.is_Integer and exponent < 0 else None
        return base**exponent if total is None else (_inverse / total) ** (-exponent)

    g = sympy.expand_log(g).replace(sympy.log, logarithm).replace(sympy.Pow, power)
    g = g.replace(sympy.Abs, lambda x: x * sign).replace(sympy.sign, lambda x: sign)
    total = sympy.Integer(0)
    for term in sympy.Add.make_args(sympy.expand(g)):
        # expand multiplies denominators out; factor takes t from them again
        rest, powers = sympy.powsimp(sympy.factor(term)).as_independent(t, as_Add=False)
        factors = [factor.as_base_exp() for factor in sympy.Mul.make_args(powers) if factor != 1]
        if any(base_of != t for base_of, _ in factors):
            raise NotImplementedError(f"no log-space form of {term}")
        exponent = sympy.simplify(sum((e for _, e in factors), sympy.Integer(0)))
        total += rest * _monomial(exponent + int(base == p))
    total = total.subs({_log_t: log_p - log_q, _log_m: log_mixture - log_q, _inverse: share})
    return _shortest(sympy.expand(total))


def _monomial(exponent: sympy.Expr) -> sympy.Expr:
    """q (p/q)^k."""
    if exponent in (0, 1):
        return p if exponent == 1 else q
    if exponent.is_number:
        return _exp(exponent * log_p + (1 - exponent) * log_q)
    return _exp(log_q + exponent * log_ratio)


def _shortest(expression: sympy.Expr) -> sympy.Expr:
    expression = expression.expand()
    collected = sympy.collect(expression, [p, q])
    factored = sympy.collect(expression, [p, q], func=sympy.factor)
    candidates = [expression, collected, factored, sympy.factor_terms(collected), sympy.factor(expression)]
    return min(candidates, key=sympy.count_ops).replace(_exp, sympy.exp)


if __name__ == "__main__":
    from porism.divergences.emit import main

    main()
