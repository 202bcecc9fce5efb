"""Gradient descent with large steps on f(x, y) = F(x y): its one-step map, its edge of stability, its thresholds.

Notation: ``s = x y``, ``u = x^2 + y^2``, ``D = x^2 - y^2``, ``g = F'(s)``; F has its minimum at ``s*`` with curvature
``k``; ``h`` is the step size. What is plain arithmetic takes sympy symbols as well as arrays; the statements at the
end are decided by sympy. All is derived here or in ``tests/papers/test_large_lr.py``, and checked by simulation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sympy

from porism_sims.large_steps.landscapes import Landscape


class Weights(NamedTuple):
    """Two weights, or symbols for them, with their invariants."""

    x: Any
    y: Any

    @property
    def product(self) -> Any:
        return self.x * self.y

    @property
    def squared_norm(self) -> Any:
        return self.x**2 + self.y**2

    @property
    def imbalance(self) -> Any:
        return self.x**2 - self.y**2


def step(at: Weights, pull: Any) -> Weights:
    """One step of gradient descent, with ``pull = h F'(x y)``."""
    return Weights(at.x - pull * at.y, at.y - pull * at.x)


def reduced_step(product: Any, squared_norm: Any, pull: Any) -> tuple[Any, Any]:
    """The same step for (s, u), which are a closed system together with the sign of D."""
    grown = 1 + pull**2
    return grown * product - pull * squared_norm, grown * squared_norm - 4 * pull * product


def edge_expansion(k: Any, third: Any, fourth: Any, minimiser: Any, step_size: Any) -> tuple[Any, Any]:
    """``(a, b)`` of ``e -> -e + a e^2 + b e^3``: one step of ``e = s - s*`` on the edge ``h k u = 2``, D held."""
    u = 2 / (step_size * k)
    first, second = 4 * minimiser / u, (4 / u - 16 * minimiser**2 / u**3) / 2  # of u(s) = sqrt(D^2 + 4 s^2)
    a = -step_size * (u * third / 2 + first * k) + step_size**2 * minimiser * k**2
    b = -step_size * (u * fourth / 6 + first * third / 2 + second * k)
    return a, b + step_size**2 * (k**2 + minimiser * k * third)


def flip_coefficient(landscape: Landscape, step_size: float) -> float:
    """``chi = a^2 + b``: two steps on the edge take e to ``e - 2 chi e^3``. For power(degree): 2 - degree + 2 h^4 s*^2.

    Where it is positive, a small stable 2-cycle holds gradient descent at the edge of stability; where it is
    negative, nothing does.
    """
    a, b = edge_expansion(landscape.curvature, landscape.third, landscape.fourth, landscape.minimiser, step_size)
    return float(a**2 + b)


def small_step_coefficient(landscape: Landscape) -> float:
    """Limit of :func:`flip_coefficient` for small steps: ``(F'''/k)^2 - F''''/(3k)``."""
    k = landscape.curvature
    return (landscape.third / k) ** 2 - landscape.fourth / (3 * k)


def deficit(landscape: Landscape) -> float:
    """``k^2 / chi``: where chi > 0, h S ends at ``2 - h^2 deficit + o(h^2)``, wherever above the edge it began."""
    return landscape.curvature**2 / small_step_coefficient(landscape)


def mirrored(step_ratio: Any, order: int = 1) -> Any:
    """Where h S ends for the square loss that begins near a minimum, just above the edge: ``4 - c``.

    To second order ``4 - c - (2/3) (c - 2)^2``: the invariant of :func:`mirror_invariant` at w = 0.
    """
    return 4 - step_ratio - (2 * (step_ratio - 2) ** 2 / 3 if order == 2 else 0)


def catapult_height(step_ratio: Any, step_size: Any) -> Any:
    """Largest loss on the way there, ``(c - 2)^2 / (4 h^2)``, to first order in c - 2 (k = 1)."""
    return (step_ratio - 2) ** 2 / (4 * step_size**2)


def critical_step(degree: Any, squared_norm: Any) -> Any:
    """``sqrt 2 (sqrt 8 / u)^(degree - 1)``: the step at which power(degree) has a 2-cycle from this u, far away.

    Steps above it diverge from far starts with this u, steps below it converge: 4/u for the square loss; for degree
    1 sqrt 2 from everywhere; the larger u, the less beside 4/u for a degree above 2. Derived: see
    :func:`two_cycle`, in the limit of u large beside s*, where F' is ``|s|^(degree - 1)``.
    """
    return 2**0.5 * (8**0.5 / squared_norm) ** (degree - 1)


# Statements


def one_step_identities(x: Any, y: Any, pull: Any, order: int = 2) -> Any:
    """What a step does to s, u, D and x +- y, where the pull enters D with its ``order`` 2."""
    before = Weights(x, y)
    after = step(before, pull)
    product, squared_norm = reduced_step(before.product, before.squared_norm, pull)
    return sympy.And(
        sympy.Eq(after.product, product),
        sympy.Eq(after.squared_norm, squared_norm),
        sympy.Eq(after.imbalance, (1 - pull**order) * before.imbalance),
        sympy.Eq(after.x + after.y, (1 - pull) * (x + y)),
        sympy.Eq(after.x - after.y, (1 + pull) * (x - y)),
    )


def curvature_of_minima(x: Any, y: Any, k: Any, slope: Any) -> Any:
    """The Hessian where ``F' = slope`` and ``F'' = k``: at a minimum its eigenvalues are 0 and k u >= 2 k |s|."""
    at = Weights(x, y)
    beside = slope + k * at.product
    hessian = sympy.Matrix([[k * y**2, beside], [beside, k * x**2]])
    eigenvalues = sympy.And(sympy.Eq(hessian.det(), 0), sympy.Eq(hessian.trace(), k * at.squared_norm))
    return sympy.And(eigenvalues, *(sympy.Ge(at.squared_norm + side * 2 * at.product, 0) for side in (-1, 1)))


def two_steps_on_the_edge(k: Any, third: Any, fourth: Any, minimiser: Any, step_size: Any, spread: int = 1) -> Any:
    """Taylor coefficients of one and of two steps at fixed D; ``spread`` 0 forgets that u depends on s."""
    e, u = sympy.Dummy("e", real=True), 2 / (step_size * k)
    width = sympy.sqrt(u**2 - 4 * minimiser**2 + 4 * (minimiser + spread * e) ** 2)
    width = sum(sympy.diff(width, e, n).subs(e, 0) * e**n / sympy.factorial(n) for n in range(3))
    pull = step_size * (k * e + third * e**2 / 2 + fourth * e**3 / 6)
    once = _truncated(reduced_step(minimiser + e, width, pull)[0] - minimiser, e)
    a, b = edge_expansion(k, third, fourth, minimiser, step_size)
    expected = -e + a * e**2 + b * e**3
    twice = -expected + a * _truncated(expected**2, e) + b * _truncated(expected**3, e)
    pairs = [(once, expected), (twice, e - 2 * (a**2 + b) * e**3)]
    differences = [sympy.expand(left - right) for left, right in pairs]
    return sympy.And(*(sympy.Eq(difference.coeff(e, n), 0) for difference in differences for n in range(4)))


def slow_drift(excess: Any, chi: Any, rate: Any, constant: Any, sign: int = 1) -> Any:
    """``mu = h k u - 2`` and ``E = e^2`` drift along the edge by ``dE/dmu = (chi E - mu) / rate``, ``rate = h^2 k^2``.

    Its slow manifold, ``constant`` 0, reaches E = 0 at ``mu = -rate/chi``; for chi = 0 it keeps ``E + mu^2/(2 rate)``,
    so that mu ends at its opposite; and the square loss keeps what :func:`mirror_invariant` says.
    """
    energy = excess / chi + sign * rate / chi**2 + constant * sympy.exp(chi * excess / rate)
    slow = energy.subs(constant, 0).subs(excess, -rate / chi)
    mirror = sympy.diff(constant - excess**2 / (2 * rate), excess)
    return sympy.And(
        sympy.Eq(rate * sympy.diff(energy, excess), chi * energy - excess),
        sympy.Eq(slow, 0),
        sympy.Eq(mirror, -excess / rate),
        mirror_invariant(constant, excess, sign),
    )


def mirror_invariant(energy: Any, excess: Any, sign: int = 1) -> Any:
    """The square loss keeps ``E + mu^2/2 + sign mu^3/3`` to fourth order, where w = h e, E = w^2, mu = h u - 2.

    As h -> 0 its step is ``w -> (w^2 - mu - 1) w``, ``mu -> mu - (2 - mu) w^2``; here mu is of order one, E of two.
    """
    size = sympy.Dummy("size", positive=True)
    e, m = size**2 * energy, size * excess
    after_e, after_m = (e - m - 1) ** 2 * e, m - (2 - m) * e
    change = sympy.expand(after_e - e + (after_m**2 - m**2) / 2 + sign * (after_m**3 - m**3) / 3)
    return sympy.And(*(sympy.Eq(change.coeff(size, order), 0) for order in range(5)))


def two_cycle(offset: Any, minimiser: Any, square: int = 2) -> Any:
    """If ``h F'(s* +- offset) = +- sqrt 2``, two steps from ``u = sqrt 2 (s* + 2 offset)`` bring s and |D| back.

    For the square loss ``h u = 4 +- sqrt 2 h s*`` on the cycle. The statement is true for ``square`` 2 only.
    """
    pull = sympy.sqrt(square)
    far, near = (sympy.sqrt(2) * (2 * offset + side * minimiser) for side in (1, -1))
    there = reduced_step(minimiser + offset, far, pull)
    back = reduced_step(minimiser - offset, near, -pull)
    pairs = [(there, (minimiser - offset, near)), (back, (minimiser + offset, far))]
    returns = [sympy.Eq(got, expected) for pair in pairs for got, expected in zip(*pair, strict=True)]
    return sympy.And(*returns, sympy.Eq((1 - pull**2) ** 2, 1))


def _truncated(polynomial: Any, e: Any) -> Any:
    """Its terms up to the third power."""
    expanded = sympy.expand(polynomial)
    return sum(expanded.coeff(e, n) * e**n for n in range(1, 4))
