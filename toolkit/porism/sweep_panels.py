"""The panels of a sweep's figure: each draws one result of a tidy table on one pair of axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from porism.design import Axis
from porism.drawing import mean_and_bar
from porism.parameters import Value

Table = Mapping[str, np.ndarray]

LINES = 7  # in one panel: as many as there are colours
_DECADES = 100.0  # a ratio beyond which positive numbers are drawn on a logarithmic scale


def draw_lines(table: Table, x: Axis, others: Sequence[Axis], result: str, ax: Any) -> None:
    """Means over repeats, and over axes that are not named, joined by a line for each group."""
    for number, (name, rows) in enumerate(groups_of(table, others)):
        style: dict[str, Any] = {"color": f"C{number % LINES}", "linestyle": "--" if number % 2 else "-"}
        _draw_means(ax, *_means(table[x.name][rows], table[result][rows]), label=name, markersize=3.5, **style)
    _finish(ax, table, x, result)
    _legend(ax, others)


def draw_dots(table: Table, x: Axis, others: Sequence[Axis], result: str, ax: Any) -> None:
    """Means over repeats at each choice, groups beside each other."""
    groups = groups_of(table, others)
    if len(groups) > LINES:
        others = [max(others, key=lambda axis: effect_of(table, axis, result))]
        groups = groups_of(table, others)
    places = {value: place for place, value in enumerate(x.values)}
    for number, (name, rows) in enumerate(groups):
        shift = 0.5 * ((number + 0.5) / len(groups) - 0.5)
        values, means, bars = _means(table[x.name][rows], table[result][rows])
        at = np.array([places[value] + shift for value in values.tolist()])
        _draw_means(ax, at, means, bars, label=name, color=f"C{number % LINES}", linestyle="")
    ax.set_xticks(range(len(places)), labels=[_value(value) for value in places])
    ax.set(xlabel=readable(x.name), ylabel=readable(result), xlim=(-0.5, len(places) - 0.5))
    _zero(ax, result)
    _legend(ax, others)


def _draw_means(ax: Any, x: np.ndarray, means: Sequence[float], bars: Sequence[float], **style: Any) -> None:
    """Dots with bars; without where nothing was repeated."""
    ax.errorbar(x, means, bars if any(bars) else None, marker="o", capsize=2, **style)


def _legend(ax: Any, axes: Sequence[Axis]) -> None:
    """In a figure's first panel only, as all have the same groups."""
    if axes and ax is ax.figure.axes[0]:
        title = readable(axes[0].name) if len(axes) == 1 else None
        ax.legend(title=title, frameon=True, framealpha=0.8, edgecolor="none")


def draw_map(table: Table, x: Axis, y: Axis, result: str, title: str, look: Mapping[str, Any], ax: Any) -> None:
    """Mean of each cell; the line is where a margin changes its sign, what has no value stays white."""
    xs, ys = np.unique(table[x.name]), np.unique(table[y.name])
    means = np.full((len(ys), len(xs)), math.nan)
    for row, column in np.ndindex(means.shape):
        cell = table[result][(table[x.name] == xs[column]) & (table[y.name] == ys[row])]
        means[row, column] = _mean(cell)
    logs = _log(x, xs), _log(y, ys)
    mesh = ax.pcolormesh(_edges(xs, logs[0]), _edges(ys, logs[1]), means, **look)
    if result == "margin" and np.nanmin(means) < 0 < np.nanmax(means) and min(means.shape) > 1:
        ax.contour(xs, ys, np.ma.masked_invalid(means), levels=[0], colors="0.1", linewidths=1.2)
    for log, scale in zip(logs, (ax.set_xscale, ax.set_yscale), strict=True):
        scale("log" if log else "linear")
    ax.grid(visible=False)
    ax.set(xlabel=readable(x.name), ylabel=readable(y.name), title=title)
    _colour_bar(ax, mesh, result)


def draw_plane(table: Table, x: Axis, y: Axis, result: str, ax: Any) -> None:
    """Points where they were drawn, coloured by the result."""
    values = table[result].astype(float)
    look = colours_of(values, result)
    dots = ax.scatter(table[x.name], table[y.name], c=values, s=22, edgecolors="0.3", linewidths=0.3, **look)
    for axis, scale in ((x, ax.set_xscale), (y, ax.set_yscale)):
        scale("log" if _log(axis, table[axis.name]) else "linear")
    ax.set(xlabel=readable(x.name), ylabel=readable(y.name), title=readable(result))
    _colour_bar(ax, dots, result)


def draw_cloud(table: Table, x: Axis, result: str, alone: bool, ax: Any) -> None:
    """The result over one axis; where others vary too, with the mean over each choice or eighth of the points."""
    values, column = table[result].astype(float), table[x.name]
    if not x.numeric:
        place = {value: number for number, value in enumerate(x.values)}
        column = np.array([place[value] for value in column.tolist()])
        ax.set_xticks(range(len(place)), labels=[_value(value) for value in place])
    ax.plot(column, values, "o", color="C0", alpha=0.45, markersize=3.5, markeredgewidth=0)
    if not alone:
        bins = _bins(column)
        means = [(float(np.mean(column[bins == b])), _mean(values[bins == b])) for b in np.unique(bins)]
        ax.plot(*zip(*means, strict=True), "_" if not x.numeric else "-", color="C1", markersize=22, markeredgewidth=2)
    if x.numeric:
        _finish(ax, table, x, result)
    else:
        ax.set(xlabel=readable(x.name), ylabel=readable(result), xlim=(-0.5, len(x.values) - 0.5))
        _zero(ax, result)


def _finish(ax: Any, table: Table, x: Axis, result: str) -> None:
    ax.set(xlabel=readable(x.name), ylabel=readable(result))
    if _log(x, table[x.name]):
        ax.set_xscale("log")
    if result != "margin" and _wide(table[result]):
        ax.set_yscale("log", nonpositive="clip")
    _zero(ax, result)


def _zero(ax: Any, result: str) -> None:
    """The line above which a claim holds."""
    if result == "margin":
        ax.axhline(0, color="0.4", lw=0.8, zorder=1)


def groups_of(table: Table, axes: Sequence[Axis]) -> list[tuple[str, np.ndarray]]:
    """The rows of each combination of values that occurs, after its name."""
    groups = [("", np.ones(len(table["status"]), dtype=bool))]
    for axis in axes:
        groups = [
            (_name(name, axis, value, alone=len(axes) == 1), both)
            for name, old in groups
            for value in axis.values
            if (both := old & (table[axis.name] == value)).any()
        ]
    return groups


def _name(group: str, axis: Axis, value: Value, *, alone: bool) -> str:
    """``a = 1, b = x``; of one axis alone only the value, as its name stands above."""
    return _value(value) if alone else f"{group}, {readable(axis.name)} = {_value(value)}".removeprefix(", ")


def only(table: Table, rows: np.ndarray) -> Table:
    """Some rows of a table."""
    return {name: column[rows] for name, column in table.items()}


def _means(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, list[float], list[float]]:
    """Mean and bar of what is finite at each x."""
    places = np.unique(x)
    pairs = []
    for place in places:
        own = y[x == place].astype(float)
        own = own[np.isfinite(own)]
        pairs.append(mean_and_bar(own) if own.size > 1 else (_mean(own), 0.0))
    return places, [mean for mean, _ in pairs], [bar for _, bar in pairs]


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)] if values.size else values
    return float(finite.mean()) if finite.size else math.nan


def effect_of(table: Table, axis: Axis, result: str) -> float:
    """The variance of the result's mean along one axis."""
    values, bins = table[result].astype(float), _bins(table[axis.name])
    means = np.array([_mean(values[bins == b]) for b in bins])
    finite = means[np.isfinite(means)]
    return float(finite.var()) if finite.size else 0.0


def _bins(column: np.ndarray, most: int = 8) -> np.ndarray:
    """A number for each value; for each of ``most`` equal parts where there are more values."""
    distinct, codes = np.unique(column, return_inverse=True)
    return codes if len(distinct) <= most else codes * most // len(distinct)


def _wide(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() / finite.min() > _DECADES)


def _log(axis: Axis, values: np.ndarray) -> bool:
    """As the axis was asked to be; single values that were written out speak for themselves."""
    return axis.log or (axis.span is None and _wide(values))


def _edges(centres: np.ndarray, log: bool) -> np.ndarray:
    """The borders of cells around sorted places."""
    places = np.log(centres) if log else centres.astype(float)
    half = np.diff(places) / 2 if len(places) > 1 else np.array([0.5])
    edges: np.ndarray = np.append(places - np.insert(half, 0, half[0])[: len(places)], places[-1] + half[-1])
    return np.exp(edges) if log else edges


def colours_of(values: np.ndarray, result: str) -> dict[str, Any]:
    """White at 0 of a margin, to full blue above and full orange below; else dark to light."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, TwoSlopeNorm

    finite = values[np.isfinite(values)]
    if result != "margin":
        ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        return {"norm": (LogNorm if _wide(values) else Normalize)(*ends)}
    below, above = -finite[finite < 0], finite[finite > 0]
    low, high = (float(np.quantile(side, 0.95)) if side.size else 0.0 for side in (below, above))
    colours = LinearSegmentedColormap.from_list("margin", ["#d55e00", "#f7f7f7", "#0072b2"])
    return {"cmap": colours, "norm": TwoSlopeNorm(0, -(low or high or 1.0), high or low or 1.0)}


def _colour_bar(ax: Any, coloured: Any, result: str) -> None:
    bar = ax.figure.colorbar(coloured, ax=ax, extend="both" if result == "margin" else "neither")
    if result == "margin":
        norm = coloured.norm
        ticks = (norm.vmin, norm.vmin / 2, 0, norm.vmax / 2, norm.vmax)
        bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])


def readable(name: str) -> str:
    """A column's name as people read it."""
    stem, _, tail = name.rpartition("_")
    return (
        f"{stem.replace('_', ' ')} ({tail})" if stem and tail in ("mean", "last", "finite") else name.replace("_", " ")
    )


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
