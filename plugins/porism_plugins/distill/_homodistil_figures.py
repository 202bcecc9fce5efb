"""Tables and drawings of HomoDistil's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from porism.drawing import columns, log_axes
from porism.figures import Table
from porism_plugins.distill import _homodistil_experiments as measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATHS: tuple[measure.Arm, ...] = ("gradual", "linear", "at once", "at the end", "random student")
ARMS: tuple[measure.Arm, ...] = ("gradual", "at once", "at the end", "random student", "magnitude")
WIDTHS = (0.0625, 0.125, 0.25)
LENGTHS = (75, 150, 300, 600)


def along_the_path(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``arm replicate step width gap``."""
    rows = [
        (arm, replicate, *point)
        for replicate, child in enumerate(rng.spawn(replicates))
        for arm, found in measure.compared(child, PATHS, every=measure.INTERVAL).items()
        for point in found.points
    ]
    return columns("arm replicate step width gap", rows)


def by_width(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``arm width replicate gap accuracy`` at the end of the path."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        world = measure.digits_world(child)
        for width in WIDTHS:
            for arm in ARMS:
                found = measure.journey(world, arm, child.spawn(1)[0], width=width)
                rows.append((arm, width, replicate, found.last_gap, found.accuracy))
    return columns("arm width replicate gap accuracy", rows)


def by_length(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``arm steps replicate gap accuracy`` at the end of the path, of two arms."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        world = measure.digits_world(child, steps=max(LENGTHS))
        for steps in LENGTHS:
            for arm in ARMS[:2]:
                found = measure.journey(world, arm, child.spawn(1)[0], steps=steps, every=steps)
                rows.append((arm, steps, replicate, found.last_gap, found.accuracy))
    return columns("arm steps replicate gap accuracy", rows)


def draw_path(table: Table, left: Axes, right: Axes) -> None:
    """Geometric means of the gap over replicates, and widths."""
    for number, arm in enumerate(PATHS):
        chosen = table["arm"] == arm
        steps = np.unique(table["step"][chosen])
        gaps = np.array([table["gap"][chosen & (table["step"] == step)] for step in steps])
        widths = [table["width"][chosen & (table["step"] == step)].mean() for step in steps]
        shown = np.maximum(gaps, 1e-3)  # the copy itself has none
        left.plot(steps, np.exp(np.log(shown).mean(1)), color=f"C{number}", label=arm)
        left.plot(steps, shown, color=f"C{number}", linewidth=0.5, alpha=0.5)
        right.plot(steps, 100 * np.array(widths), color=f"C{number}", drawstyle="steps-post")
    left.set_yscale("log")
    left.set(xlabel="step", ylabel="KL(teacher || student), nats", ylim=(5e-3, None))
    left.legend()
    right.set(xlabel="step", ylabel="neurons still there, %", ylim=(0, 102))


def draw_quality(table: Table, left: Axes, right: Axes) -> None:
    """By the width, see :func:`_draw`."""
    _draw(table, left, right, "width", WIDTHS, (0.03, 0.1, 0.3, 1.0))
    left.set_xlabel("share of the neurons that stays")
    right.set_xlabel("share of the neurons that stays")


def draw_lengths(table: Table, left: Axes, right: Axes) -> None:
    """By the number of steps, see :func:`_draw`."""
    _draw(table, left, right, "steps", LENGTHS, (0.01, 0.03, 0.1, 0.3, 1.0))
    left.set_xlabel("steps in all")
    right.set_xlabel("steps in all")


def _draw(
    table: Table, left: Axes, right: Axes, x: str, places: tuple[float, ...], ticks: tuple[float, ...]
) -> None:  # fmt: skip
    """Means over replicates with single ones as dots."""
    for arm in dict.fromkeys(table["arm"].tolist()):
        chosen, color = table["arm"] == arm, f"C{ARMS.index(arm)}"
        for axes, values in ((left, table["gap"]), (right, 100 * table["accuracy"])):
            means = [values[chosen & (table[x] == place)].mean() for place in places]
            axes.plot(places, means, "o-", color=color, label=arm, markersize=3)
            axes.plot(table[x][chosen], values[chosen], ".", color=color, alpha=0.4)
    log_axes(left, x=places, y=ticks)
    log_axes(right, x=places)
    left.set_ylabel("KL(teacher || student), nats")
    right.set_ylabel("accuracy, %")
    left.legend()
