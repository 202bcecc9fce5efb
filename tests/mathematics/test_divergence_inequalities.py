"""Constants of inequalities between f-divergences, derived: D_f <= c D_g wherever f'' <= c g''."""

from __future__ import annotations

import pytest
import sympy

from porism.divergences.declared import DECLARATIONS, t

F = {declaration.name: declaration.canonical() for declaration in DECLARATIONS}


@pytest.mark.parametrize(
    ("small", "constant", "large"),
    [
        ("js", sympy.Rational(1, 8), "jeffreys"),
        ("js", 1, "squared_hellinger"),
        ("triangular", 4, "js"),
        ("triangular", 4, "squared_hellinger"),
        ("squared_hellinger", sympy.Rational(1, 8), "jeffreys"),
    ],
)
def test_the_ratio_of_second_derivatives_is_at_most_the_constant_and_attains_it(small, constant, large) -> None:
    """Both canonical generators vanish with their slopes at t = 1, so f'' <= c g'' integrates to f <= c g."""
    ratio = sympy.simplify(F[small].diff(t, 2) / F[large].diff(t, 2))
    s = sympy.Symbol("s", positive=True)
    slack = sympy.factor(sympy.simplify((constant - ratio).subs(t, s**2)))
    numerator, denominator = sympy.fraction(slack)
    assert sympy.simplify(ratio.subs(t, 1)) == constant
    for part in (numerator, denominator):
        assert all(
            root.is_negative or multiplicity % 2 == 0
            for root, multiplicity in sympy.roots(part, s).items()
            if root.is_real
        )
    assert slack.subs(s, 2) > 0
