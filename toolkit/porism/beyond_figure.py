"""Drawing where a claim stops: margins along rays and a map, beside the range that the theorem itself covers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from porism.beyond import Exploration
from porism.figures import Figure, Table
from porism.parameters import Parameter, widened
from porism.render import Rendered, draw, write
from porism.tables import write_table


def render_beyond(key: str, found: Exploration, folder: Path) -> Rendered:
    """Write ``KEY-CLAIM-beyond.{svg,png,csv}`` into ``folder``."""
    stem = f"{key}-{found.claim.name}-beyond"
    csv = folder / f"{stem}.csv"
    write_table(csv, found.table)
    return write(draw(figure_of(found), found.table), csv, folder, stem)


def figure_of(found: Exploration) -> Figure:
    """One panel for each parameter: thin lines are margins along rays (the dark one with all others at their defaults),
    triangles where a ray first fails, the shade is the claim's own range.

    With two parameters a map beside them: blue where the claim holds, orange where it fails, in the frame the claim's
    own ranges.
    """
    claim = found.claim
    boundaries = "; ".join(boundary.sentence for boundary in found.boundaries)
    # the number of axes is read off the function's signature
    panels: dict[int, Callable[..., None]] = {
        1: lambda table, left: _draw(found, table, left),
        2: lambda table, left, middle, right: _draw(found, table, left, middle, right),
    }
    caption = f"Beyond the theorem: {claim.text}. {boundaries[0].upper()}{boundaries[1:]}."
    return Figure(caption, claim.where, claim.function, panels[len(claim.beyond or {})])


def _draw(found: Exploration, table: Table, *axes: Any) -> None:
    names = list(found.claim.beyond or {})
    for ax, name in zip(axes, names, strict=False):
        _draw_rays(ax, found, table, name)
    if len(names) == 2:
        _draw_map(axes[2], found, table, *names)
    axes[0].set_ylabel("margin: the claim holds above 0")


def _draw_rays(ax: Any, found: Exploration, table: Table, name: str) -> None:
    inside = found.claim.parameters[name]
    rows = (table["parameter"] == name) & (table["side"] != "map")
    finite = table["margin"][rows & np.isfinite(table["margin"])]
    unit = float(np.median(np.abs(finite))) or 1.0
    ax.set_yscale("function", functions=(lambda y: np.arcsinh(3 * y / unit), lambda y: np.sinh(y) * unit / 3))
    ticks = unit * np.array([-100, -10, -1, 0, 1, 10, 100])
    seen = (ticks >= finite.min() - unit) & (ticks <= finite.max() + unit)
    ax.set_yticks(ticks[seen], labels=[f"{tick:.2g}" for tick in ticks[seen]])
    ax.axvspan(*_visible(found, inside), color="C0", alpha=0.12, lw=0, label="claimed here")
    ax.axhline(0, color="0.4", lw=0.8)
    for side in ("below", "above"):
        for ray in np.unique(table["ray"][rows]):
            line = rows & (table["side"] == side) & (table["ray"] == ray)
            ax.plot(
                table["x"][line], table["margin"][line], color="0.15" if ray == 0 else "0.7", lw=1.6 - 0.8 * (ray > 0)
            )
    breaks = [value for b in found.boundaries if b.parameter == name for value in b.breaks if math.isfinite(value)]
    ax.plot(breaks, np.zeros(len(breaks)), "v", color="C1", label="breaks here")
    _scale(ax.set_xscale, found, name)
    ax.set(xlabel=name.replace("_", " "))
    ax.legend()


def _draw_map(ax: Any, found: Exploration, table: Table, first: str, second: str) -> None:
    rows = table["side"] == "map"
    x, y = np.unique(table["x"][rows]), np.unique(table["y"][rows])
    order = np.lexsort((table["x"][rows], table["y"][rows]))
    margin = table["margin"][rows][order].reshape(len(y), len(x))
    holds = np.ma.masked_invalid(np.where(np.isnan(margin), np.nan, margin > 0))
    ax.pcolormesh(x, y, holds, cmap=_two_colours(), vmin=0, vmax=1, alpha=0.45, shading="nearest")
    (left, right), (low, high) = (_visible(found, found.claim.parameters[name]) for name in (first, second))
    ax.plot([left, right, right, left, left], [low, low, high, high, low], color="0.1", label="claimed inside")
    _scale(ax.set_xscale, found, first)
    _scale(ax.set_yscale, found, second)
    ax.set(xlabel=first.replace("_", " "), ylabel=second.replace("_", " "))
    ax.legend(loc="upper right")


@functools.cache
def _two_colours() -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap(["#d55e00", "#0072b2"])


def _visible(found: Exploration, inside: Parameter) -> tuple[float, float]:
    """The claim's range, cut off where nothing was looked at."""
    outside = widened(inside, (found.claim.beyond or {})[inside.name])
    return max(inside.low, outside.low), min(inside.high, outside.high)


def _scale(set_scale: Any, found: Exploration, name: str) -> None:
    """Logarithmic over more than two decades of positive numbers."""
    looked_at = found.table["x"][found.table["parameter"] == name]
    if looked_at.size and looked_at.min() > 0 and looked_at.max() / looked_at.min() > 100:
        set_scale("log")
