"""What figures share: tidy tables from rows, theory as lines beside simulation as dots with bars, logarithmic axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def columns(names: str, rows: list[tuple[Any, ...]]) -> dict[str, NDArray[Any]]:
    """A tidy table from rows, one name a column.

    Parameters
    ----------
    names
        The columns' names, with spaces between them.
    rows
        Tuples of as many values.

    Returns
    -------
    dict
        Arrays of shape (rows,) by name.

    Examples
    --------
    >>> columns("x y", [(1, 2.0), (3, 4.0)])["y"]
    array([2., 4.])
    """
    return dict(zip(names.split(), map(np.array, zip(*rows, strict=True)), strict=True))


def mean_and_bar(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Mean over repetitions and twice its standard error.

    Parameters
    ----------
    values
        Shape (repetitions,), at least two.

    Examples
    --------
    >>> mean_and_bar(np.array([1.0, 3.0]))
    (2.0, 2.0)
    """
    return float(values.mean()), 2 * float(values.std(ddof=1) / np.sqrt(values.size))


def draw_limits(ax: Any, table: Any, x: str, *, by: str) -> None:
    """For each value of column ``by``: ``limit`` against ``x`` as a line, ``simulated`` and its ``bar`` as dots.

    Rows whose ``simulated`` or ``limit`` is not a number have no dot or no line; every other group's line is dashed,
    lest it hide another.
    """
    for number, group in enumerate(dict.fromkeys(table[by])):
        rows = table[by] == group
        line = {"color": f"C{number}", "linestyle": "--" if number % 2 else "-"}
        ax.plot(table[x][rows], table["limit"][rows], label=str(group), **line)
        dots = rows & ~np.isnan(table["simulated"])
        ax.errorbar(table[x][dots], table["simulated"][dots], table["bar"][dots], fmt="o", color=line["color"])


def plot_by(ax: Any, table: Any, x: str, y: str, by: str, style: str = "-", label: str = "{}") -> None:
    """Draw ``y`` over ``x``, one labelled line for each value of ``by`` in order of appearance."""
    for value in dict.fromkeys(table[by].tolist()):
        chosen = table[by] == value
        ax.plot(table[x][chosen], table[y][chosen], style, label=label.format(value))


def log_axes(ax: Any, **ticks: tuple[float, ...]) -> None:
    """Make the axes ``x`` and ``y`` logarithmic, with the given ticks written out."""
    for name, places in ticks.items():
        getattr(ax, f"set_{name}scale")("log")
        getattr(ax, f"set_{name}ticks")(places, labels=[f"{place:g}" for place in places])
        getattr(ax, f"set_{name}ticks")([], minor=True)
