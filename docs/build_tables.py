"""Write the generated parts of docs/divergences.md: run ``python docs/build_tables.py`` after changing a generator.

A part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; the rest of the page is written by hand.
A test compares the page with what this writes.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from porism.divergences import Generator, generator
from porism.divergences._facts import FACTS

PAGE = Path(__file__).parent / "divergences.md"
# A value at which the limits and the bound of a family are printed.
EXAMPLE = {"weight": 0.5, "skew": 0.5, "alpha": 0.5}


def formulas() -> str:
    """One row a generator: f, f', f*, f''(1), as the code was derived."""
    rows = ["| name | $f(t)$ | $f'(t)$ | $f^*(u)$ | $f''(1)$ |", "|---|---|---|---|---|"]
    for name, facts in FACTS.items():
        latex = facts.latex
        conjugate = f"${_math(latex['conjugate'])}$" if "conjugate" in latex else "numeric"
        curvature = _math(latex["curvature"]).replace("\\infty", "\\infty")
        rows.append(
            f"| `{name}` | ${_math(latex['f'])}$ | ${_math(latex['derivative'])}$ | {conjugate} | ${curvature}$ |"
        )
    return "\n".join(rows)


def limits() -> str:
    """One row a generator: range, what a zero costs, symmetry."""
    rows = [
        "| name | $f(0)$: where p has no mass | $f'(\\infty)$: where q has none | largest value | symmetric |",
        "|---|---|---|---|---|",
    ]
    for member in _members():
        given = "".join(f" ({key} {value:g})" for key, value in member.parameters.items())
        values = [_number(x) for x in (member.at_zero, member.slope_at_infinity, member.bound)]
        rows.append(f"| `{member.name}`{given} | {' | '.join(values)} | {'yes' if member.symmetric else 'no'} |")
    return "\n".join(rows)


def built(page: str) -> str:
    """The page with its generated parts made anew."""
    for name, write in (("formulas", formulas), ("limits", limits)):
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        page = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{write()}\n{end}", page, flags=re.DOTALL)  # noqa: B023
    return page


def _members() -> list[Generator]:
    return [
        generator(name, **({} if facts.parameter is None else {facts.parameter[0]: EXAMPLE[facts.parameter[0]]}))
        for name, facts in FACTS.items()
    ]


def _math(latex: str) -> str:
    """Bars would end a table's cell."""
    return latex.replace("\\left|", "\\left\\lvert ").replace("\\right|", "\\right\\rvert ").replace("|", "\\vert ")


def _number(x: float) -> str:
    known = {math.inf: "$\\infty$", math.log(2): "$\\log 2$", math.log(2) / 2: "$\\tfrac{1}{2} \\log 2$"}
    for value, text in known.items():
        if x == value or math.isclose(x, value, rel_tol=1e-12):
            return text
    return f"{x:.4g}"


if __name__ == "__main__":
    PAGE.write_text(built(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
