"""Checks of a paper's figures and of its demo.

Figures are made with every whole-numbered parameter at the lower end of its range: quick, and a promise kept.
Their full size is for ``porism figure`` and ``porism report``.
"""

from __future__ import annotations

import io
import math
import tempfile
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from porism.errors import MissingExtraError, PorismError
from porism.figures import Figure
from porism.parameters import Parameter
from porism.registry import LoadedPaper
from porism.seeds import ROOT, generator
from porism.tables import read_table, write_table
from porism.testing.claim_checks import require_ranges, require_sentence
from porism.testing.replicates import remember
from porism.testing.state import preserved


def check_figure_declaration(loaded: LoadedPaper) -> None:
    """A figure has a caption, a place in the paper, finite ranges, and a draw function with at least one axes."""
    for name, figure in loaded.figures.items():
        require_sentence(f"figure {name}: its caption", figure.caption)
        assert figure.where.strip(), f"figure {name} has no place in the paper; write where='Fig. 2'"
        require_ranges(f"figure {name}", figure)
        assert figure.draw_function is not None, f"figure {name} is not drawn; add `@{name}.draw` on def _(table, ax)"
        assert figure.panels >= 1, f"figure {name}: its draw function needs axes after the table: def _(table, ax)"


def check_figure_table(loaded: LoadedPaper) -> None:
    """The data function returns columns of one length, of numbers or strings, with at least one row."""
    for name, figure in loaded.figures.items():
        table = _table(loaded, figure)
        try:
            rows = len(next(iter(_as_stored(table).values())))
        except PorismError as error:
            raise AssertionError(f"figure {name}: {error}; return one row an observation") from error
        assert rows, f"figure {name}: its table has no rows"


def check_figure_is_deterministic(loaded: LoadedPaper) -> None:
    """The same generator gives the same table, bit for bit."""
    for name, figure in loaded.figures.items():
        first, second = _table(loaded, figure), _table(loaded, figure, again=1)
        differing = [column for column in first if not _alike(first[column], second.get(column))]
        assert not differing and len(first) == len(second), (
            f"figure {name}: column {', '.join(differing)} differs between two runs of one seed; "
            "draw everything from the `rng` that is passed in"
        )


def check_figure_keeps_global_state(loaded: LoadedPaper) -> None:
    """Making a figure's table changes nothing global and leaves no thread, process or file behind."""
    for name, figure in loaded.figures.items():
        changed = _run(loaded, figure, again=1)[1]
        assert not changed, (
            f"figure {name} changes {', '.join(changed)}; use `rng`, and `with` for what must end with it"
        )


def check_figure_draws(loaded: LoadedPaper) -> None:
    """Each panel gets something to show, from the table as it comes back from its file."""
    from porism.render import draw

    for name, figure in loaded.figures.items():
        if figure.draw_function is None or figure.panels < 1:
            continue  # check_figure_declaration says so
        try:
            canvas = draw(figure, _as_stored(_table(loaded, figure)))
        except MissingExtraError as error:
            raise unittest.SkipTest(str(error)) from error
        except PorismError:
            continue  # check_figure_table says so
        canvas.savefig(io.BytesIO(), format="png")
        empty = [str(number) for number, axes in enumerate(canvas.axes, 1) if not axes.has_data()]
        assert not empty, f"figure {name} leaves panel {', '.join(empty)} empty; draw on it, or take fewer axes"


def check_demo_returns_numbers(loaded: LoadedPaper) -> None:
    """``demo``, if there is one, runs at its defaults and returns finite numbers by name."""
    demo = getattr(loaded.module, "demo", None)
    if demo is None:
        return
    result = demo(generator(ROOT, loaded.paper.key, "demo"))
    assert isinstance(result, Mapping), f"demo must return a mapping of names to numbers, got {type(result).__name__}"
    assert result, "demo returns no numbers"
    for name, value in result.items():
        finite = isinstance(value, (int, float, np.number)) and math.isfinite(value)
        assert isinstance(name, str) and finite, f"demo must return finite numbers by name, got {name!r}: {value!r}"


def _table(loaded: LoadedPaper, figure: Figure, again: int = 0) -> Mapping[str, Any]:
    return _run(loaded, figure, again)[0]


def _run(loaded: LoadedPaper, figure: Figure, again: int) -> tuple[Mapping[str, Any], list[str]]:
    """The table and what making it changed."""

    def compute() -> tuple[Mapping[str, Any], list[str]]:
        with preserved() as changed:
            table = figure(generator(ROOT, loaded.paper.key, figure.name), **smallest)
        return table, changed

    smallest = {name: math.ceil(p.low) + p.low_open for name, p in figure.parameters.items() if _is_a_size(p)}
    return remember(figure.data, again, compute)


def _is_a_size(parameter: Parameter) -> bool:
    return parameter.type is int and not parameter.choices and math.isfinite(parameter.low)


def _as_stored(table: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The table written to a file and read again, as the core draws it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write_table(path, table)
        return read_table(path)


def _alike(first: Any, second: Any) -> bool:
    if second is None:
        return False
    first, second = np.asarray(first), np.asarray(second)
    return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
