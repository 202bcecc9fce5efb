"""Choosing how to draw a sweep: lines over one number, a map over two, dots for choices and for random points."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from porism.design import Axis
from porism.errors import PorismError, did_you_mean
from porism.figures import Figure
from porism.render import draw, write
from porism.sweep import Sweep
from porism.sweep_panels import (
    LINES,
    colours_of,
    draw_cloud,
    draw_dots,
    draw_lines,
    draw_map,
    draw_plane,
    effect_of,
    groups_of,
    only,
    readable,
)

Table = Mapping[str, np.ndarray]
Panel = Callable[[Any], None]

_PANELS = 6  # in one figure
_RESULTS = 3  # drawn unless some are named
_NUMBERS_AS_LINES = 5  # a second number with more values makes a map


def render_sweep(found: Sweep, folder: Path, values: Sequence[str] = ()) -> tuple[Path, Path]:
    """Write ``STEM.svg`` and ``STEM.png`` into ``folder``, and return their paths.

    Raises
    ------
    PorismError
        If no run succeeded, if a value is not in the table, or if the folder cannot be written.
    MissingExtraError
        If matplotlib is not installed.
    """
    figure = figure_of(found, values)
    files = write(draw(figure, found.table), folder / f"{found.stem}.csv", folder, found.stem)
    return files.svg, files.png


def results_of(found: Sweep, names: Sequence[str] = ()) -> list[str]:
    """The columns to draw: those named, of an array the mean; by default a claim's margin, else the first three.

    Raises
    ------
    PorismError
        If a name is no column of numbers, or if there is none.
    """
    table = found.table
    numbers = [name for name in list(table)[_first_result(found) :] if table[name].dtype.kind in "bif"]
    if not numbers:
        raise PorismError(f"{found.stem} has no numbers to draw")
    if not names:
        return ["margin"] if found.claim else _by_default(numbers)[:_RESULTS]
    for name in names:
        if name not in numbers and f"{name}_mean" not in numbers:
            raise PorismError(f"no result {name!r}{did_you_mean(name, numbers)} (known: {', '.join(numbers)})")
    return [name if name in numbers else f"{name}_mean" for name in names][:_PANELS]


def figure_of(found: Sweep, values: Sequence[str] = ()) -> Figure:
    """The figure of a sweep, its panels chosen by what was varied.

    One number: mean and twice its standard error over repeats, a line for each combination of the others if these are
    few. Two numbers: a map of the means, for a margin blue where the claim holds. Choices only: dots. Points drawn at
    random: dots in the plane of two numbers, else over each of the three parameters with the largest effect.
    """
    if not (found.table["status"] == "ok").any():
        raise PorismError(f"no run of {found.stem} succeeded, so there is nothing to draw")
    panels = list(_panels(found, results_of(found, values)))[:_PANELS]

    def draw_all(table: Table, *axes: Any) -> Any:
        for panel, ax in zip(panels, axes, strict=True):
            panel(ax)

    # the number of axes is read off the signature
    names = ["table", *(f"ax{number}" for number in range(len(panels)))]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    draw_all.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    what = found.claim.text if found.claim else found.paper
    return Figure(f"{what} over {', '.join(axis.name for axis in found.axes)}", "", draw_all, draw_all)


def _first_result(found: Sweep) -> int:
    return list(found.table).index("status") + 1


def _by_default(numbers: Sequence[str]) -> list[str]:
    """Without the last entries of arrays and the shares of finite ones, where their mean is there."""
    tails = ("_last", "_finite")
    return [n for n in numbers if not (n.endswith(tails) and f"{n.rpartition('_')[0]}_mean" in numbers)]


def _panels(found: Sweep, results: Sequence[str]) -> list[Panel]:
    ok = found.table["status"] == "ok"
    table = {name: column[ok] for name, column in found.table.items()}
    axes = [axis for axis in found.axes if len(np.unique(table[axis.name])) > 1] or list(found.axes[:1])
    numeric = sorted((a for a in axes if a.numeric), key=lambda a: -len(np.unique(table[a.name])))
    if found.random:
        return _scatters(table, axes, numeric, results)
    if not numeric:
        first, *others = sorted(axes, key=lambda a: -len(a.values))
        return [functools.partial(draw_dots, table, first, others, result) for result in results]
    x, *more = numeric
    others = [axis for axis in axes if axis is not x]
    lines = math.prod(len(axis.values) for axis in others)
    if lines <= LINES and all(len(axis.values) <= _NUMBERS_AS_LINES for axis in more):
        return [functools.partial(draw_lines, table, x, others, result) for result in results]
    if more:
        y = more[0]
        return _maps(table, x, y, [axis for axis in others if axis is not y], results)
    most = max(others, key=lambda axis: effect_of(table, axis, results[0]))
    return [functools.partial(draw_lines, table, x, [most], result) for result in results]


def _maps(table: Table, x: Axis, y: Axis, others: Sequence[Axis], results: Sequence[str]) -> list[Panel]:
    """A map for each result; with other axes of the first result only, one for each of their combinations."""
    groups = groups_of(table, others)
    chosen = results if not others else results[:1]
    looks = {result: colours_of(table[result].astype(float), result) for result in chosen}
    maps = [(table, result, "") for result in chosen]
    if others and len(groups) > _PANELS:
        maps = [(table, chosen[0], f", mean over {', '.join(readable(axis.name) for axis in others)}")]
    elif others:
        name = f"{readable(others[0].name)} = " if len(others) == 1 else ""
        maps = [(only(table, rows), chosen[0], f", {name}{group}") for group, rows in groups]
    return [
        functools.partial(draw_map, part, x, y, result, readable(result) + more, looks[result])
        for part, result, more in maps
    ]


def _scatters(table: Table, axes: Sequence[Axis], numeric: Sequence[Axis], results: Sequence[str]) -> list[Panel]:
    if len(axes) == len(numeric) == 2:
        x, y = axes
        return [functools.partial(draw_plane, table, x, y, result) for result in results]
    if len(axes) == 1:
        return [functools.partial(draw_cloud, table, axes[0], result, True) for result in results]
    leading = sorted(axes, key=lambda axis: -effect_of(table, axis, results[0]))[:_RESULTS]
    return [functools.partial(draw_cloud, table, axis, results[0], False) for axis in leading]
