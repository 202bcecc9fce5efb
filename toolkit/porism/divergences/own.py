"""Generators of a user's own, derived when they are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy

from porism.arrays import Array, Namespace
from porism.divergences import derive
from porism.divergences.declared import Declaration, t
from porism.divergences.emit import latex
from porism.divergences.generators import Generator
from porism.divergences.parts import TINY, Functions, Limits
from porism.errors import ParameterError

# Where convexity is tried if sympy cannot tell: ratios of probabilities over twelve decades, and both sides of 1.
_GRID = [sympy.Rational(10) ** sympy.Rational(k, 4) for k in range(-24, 25)]
_CORNERS = (sympy.Abs, sympy.Max, sympy.Min, sympy.Piecewise, sympy.sign, sympy.Heaviside)


def compiled(build: Callable[[sympy.Symbol], sympy.Expr], name: str) -> Generator:
    """Check a user's f, derive what follows, and compile it for numpy and torch."""
    if not callable(build):
        raise ParameterError(f"f must be a function of a sympy symbol, got {build!r:.80}")
    if not isinstance(name, str) or not name:
        raise ParameterError(f"name must be a string that is not empty, got {name!r:.80}")
    try:
        expression = sympy.sympify(build(t), strict=True)  # strict: a string is no expression
    except sympy.SympifyError:
        raise ParameterError(f"f of {name!r} must return a sympy expression, got {build(t)!r:.80}") from None
    _check(expression, name)
    declaration = Declaration(name, name, expression)
    f = declaration.canonical()
    if sympy.simplify(f) == 0:
        raise ParameterError(f"f of {name!r} is a multiple of t - 1, whose divergence is zero everywhere")
    if f.has(*_CORNERS):
        return _with_corners(f, name)
    derived = derive.derive(declaration)
    forms = derived.forms
    limits = derived.limits[0]
    return Generator(
        name=name,
        title=name,
        functions=Functions(
            _elementwise(t, derived.f),
            _elementwise(t, derived.derivative),
            _elementwise(t, derived.second_derivative),
            None if derived.conjugate is None else _elementwise(derive.u, derived.conjugate),
            _direct(_elementwise(t, derived.f), _elementwise(t, derived.derivative))
            if forms is None
            else _perspective(forms, derived.f, derived.derivative),
        ),
        limits=Limits(*(_number(getattr(limits, part), name) for part in Limits._fields)),
        curvature=_number(derived.curvature, name),
        series=tuple(_number(c, name) for c in derived.series),
        latex=latex(derived),
        symmetric=_symmetric(f),
    )


def _with_corners(f: sympy.Expr, name: str) -> Generator:
    """Without a series or closed conjugate; slopes at corners are sympy's choice among the sub-gradients."""
    slope = sympy.piecewise_fold(f.diff(t))
    values = _limit(f, 0), _limit(f / t, math.inf), _limit(slope, 0), _limit(f - t * slope, math.inf)
    second = slope.diff(t).replace(sympy.DiracDelta, lambda *_: sympy.Integer(0))
    at_one = [abs(float(second.subs(t, 1 + side * sympy.Rational(1, 10**9)))) for side in (-1, 1)]
    jump = float(slope.subs(t, 1 + sympy.Rational(1, 10**9)) - slope.subs(t, 1 - sympy.Rational(1, 10**9)))
    functions = _elementwise(t, f), _elementwise(t, slope), _elementwise(t, second)
    return Generator(
        name=name,
        title=name,
        functions=Functions(*functions, None, _direct(functions[0], functions[1])),
        limits=Limits(*values),
        curvature=math.inf if jump > 1e-6 else max(at_one),
        series=(),
        latex={"f": str(sympy.latex(f)), "derivative": str(sympy.latex(slope))},
        symmetric=_symmetric(f),
    )


def _limit(expression: sympy.Expr, point: float) -> float:
    """Numerically, as sympy takes no limits of Max or Piecewise: a value that stops changing, or an infinity."""
    places = [sympy.Integer(10) ** (k if point else -k) for k in (30, 60)]
    early, late = (float(expression.subs(t, place).evalf(100)) for place in places)
    return round(late, 12) if abs(early - late) < 1e-9 * (1 + abs(late)) else math.copysign(math.inf, late)


def _check(f: sympy.Expr, name: str) -> None:
    if extra := f.free_symbols - {t}:
        raise ParameterError(f"f of {name!r} must depend on t alone, it has {', '.join(sorted(map(str, extra)))} too")
    at_one = complex(f.subs(t, 1).evalf())
    if not abs(at_one) < 1e-12:
        raise ParameterError(f"f of {name!r} must be 0 at t = 1, it is {at_one.real:g}")
    if not f.has(*_CORNERS):
        second = sympy.simplify(f.diff(t, 2))
        if second.is_nonnegative:
            return
        for point in _GRID:
            value = complex(second.subs(t, point).evalf())
            if not (value.real >= -1e-12 and abs(value.imag) < 1e-12):
                at = _nice(second)
                raise ParameterError(
                    f"f of {name!r} must be convex on t > 0, but f''(t) = {second} is negative at t = {at}"
                )
        return
    values = [float(f.subs(t, point)) for point in _GRID]
    points = [float(point) for point in _GRID]
    slopes = [(values[i + 1] - values[i]) / (points[i + 1] - points[i]) for i in range(len(values) - 1)]
    for before, after, point in zip(slopes, slopes[1:], points[1:], strict=False):
        if after < before - 1e-9 * (1 + abs(before)):
            raise ParameterError(f"f of {name!r} must be convex on t > 0, but its slope falls around t = {point:g}")


def _nice(second: sympy.Expr) -> str:
    """A round t at which the second derivative is negative, or not real."""
    for point in (sympy.Integer(1), sympy.Integer(2), sympy.Rational(1, 2), *_GRID):
        value = complex(second.subs(t, point).evalf())
        if not (value.real >= -1e-12 and abs(value.imag) < 1e-12):
            return f"{float(point):g}"
    raise AssertionError("the caller found one")


def _number(value: sympy.Expr, name: str) -> float:
    try:
        number = float(value)
    except TypeError:
        raise ParameterError(f"f of {name!r}: sympy found the limit {value}, which is no number") from None
    if math.isnan(number):
        raise ParameterError(f"f of {name!r}: sympy found no limit at 0 or infinity")
    return number


def _symmetric(f: sympy.Expr) -> bool:
    gaps = [(t * f.subs(t, 1 / t) - f).subs(t, sympy.Rational(*point)).evalf() for point in ((1, 7), (2, 3), (9, 2))]
    return all(abs(complex(gap)) < 1e-12 for gap in gaps)


def _heaviside(x: Array, at_zero: float = 0.5) -> Array:
    return 1.0 * (x > 0) + at_zero * (x == 0)


def _lambdified(arguments: list[sympy.Symbol], value: Any) -> Callable[..., Any]:
    """value as a function of (namespace, arguments)."""
    cache: dict[str, Callable[..., Any]] = {}

    def run(xp: Namespace, *arrays: Array) -> Any:
        library = "torch" if "torch" in xp.__name__ else "numpy"
        if library not in cache:
            extra = {"expm1": xp.expm1, "log1p": xp.log1p, "Heaviside": _heaviside, "heaviside": _heaviside}
            cache[library] = sympy.lambdify(arguments, value, modules=[extra, library], cse=True)
        return cache[library](*arrays)

    return run


def _elementwise(argument: sympy.Symbol, value: sympy.Expr) -> Callable[..., Array]:
    if value.has(sympy.Max, sympy.Min):
        value = value.rewrite(sympy.Piecewise)  # torch's max takes no number
    run = _lambdified([argument], value)

    def function(x: Array, xp: Namespace) -> Array:
        out = run(xp, x)
        return out + 0 * x if value.is_number else out

    return function


def _perspective(forms: derive.Forms, f: sympy.Expr, slope: sympy.Expr) -> Callable[..., tuple[Array, Array, Array]]:
    """The log-space forms where derive found them, else f itself at a ratio that is kept from overflowing."""
    mixture = None if forms.mixture is None else forms.mixture + TINY
    meaning = {derive.sign: sympy.sign(derive.p - derive.q)}
    if mixture is not None:
        meaning |= {derive.log_mixture: sympy.log(mixture), derive.share: derive.q / mixture}
    meaning |= {derive.log_ratio: derive.log_p - derive.log_q}
    parts = [form.subs(meaning) for form in (forms.term, forms.p_slope, forms.q_slope)]
    arguments = [derive.log_p, derive.log_q, derive.p, derive.q]
    if any(part.free_symbols - set(arguments) for part in parts):
        return _direct(_elementwise(t, f), _elementwise(t, slope))
    run = _lambdified(arguments, parts)

    def perspective(log_p: Array, log_q: Array, p: Array, q: Array, xp: Namespace) -> tuple[Array, Array, Array]:
        term, p_slope, q_slope = run(xp, log_p, log_q, p, q)
        zero = 0 * p  # a part may be a constant
        return term + zero, p_slope + zero, q_slope + zero

    return perspective


def _direct(f: Callable[..., Array], slope: Callable[..., Array]) -> Callable[..., tuple[Array, Array, Array]]:
    def perspective(log_p: Array, log_q: Array, p: Array, q: Array, xp: Namespace) -> tuple[Array, Array, Array]:
        widest = 0.9 * math.log(float(xp.finfo(p.dtype).max))
        ratio = xp.exp(xp.clip(log_p - log_q, -widest, widest))
        value, slope_there = f(ratio, xp), slope(ratio, xp)
        return q * value, p * slope_there, q * (value - ratio * slope_there)

    return perspective
