"""Tables and drawings of TED's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from porism.drawing import columns
from porism.figures import Table
from porism_plugins.distill import _ted_experiments as measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS: tuple[measure.Arm, ...] = ("KD", "LWD", "random filters", "TED")
WIDTHS = (8, 32)


def by_student(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``width arm replicate accuracy gap`` of students of two widths."""
    rows = [
        (width, arm, replicate, result.test, result.gap)
        for replicate, child in enumerate(rng.spawn(replicates))
        for width in WIDTHS
        for arm, result in measure.compared(child.spawn(1)[0], ARMS, width=width).items()
    ]
    return columns("width arm replicate accuracy gap", rows)


def by_width(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``what width replicate nuisance accuracy``."""
    rows = [
        (what, width, replicate, *kept)
        for replicate, child in enumerate(rng.spawn(replicates))
        for (what, width), kept in measure.nuisance_kept(child, widths=(2, 4, 8, 16, 32)).items()
    ]
    return columns("what width replicate nuisance accuracy", rows)


def draw_students(table: Table, left: Axes, right: Axes) -> None:
    """Means over replicates with single ones as dots."""
    for number, arm in enumerate(ARMS):
        chosen = table["arm"] == arm
        widths = np.unique(table["width"][chosen])
        for axes, values in ((left, 100 * table["accuracy"]), (right, table["gap"])):
            if np.isnan(values[chosen]).any():
                continue
            means = [values[chosen & (table["width"] == width)].mean() for width in widths]
            axes.plot(widths, means, "o-", color=f"C{number}", label=arm, markersize=4)
            axes.plot(table["width"][chosen], values[chosen], ".", color=f"C{number}", alpha=0.4, markersize=3)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(WIDTHS, labels=list(map(str, WIDTHS)))
        axes.set_xlabel("width of the student")
    left.set_ylabel("test accuracy, %")
    right.set_ylabel("layer loss / variance of the target")
    left.legend()


def draw_widths(table: Table, left: Axes, right: Axes) -> None:
    """What is kept against the width of the map; the layer itself as a line."""
    for number, what in enumerate(("filter", "random map")):
        chosen = table["what"] == what
        widths = np.unique(table["width"][chosen])
        for axes, values in ((left, table["nuisance"]), (right, 100 * table["accuracy"])):
            means = [values[chosen & (table["width"] == width)].mean() for width in widths]
            axes.plot(widths, means, "o-", color=f"C{number}", label=what)
            axes.plot(table["width"][chosen], values[chosen], ".", color=f"C{number}", alpha=0.5)
    layer = table["what"] == "layer"
    left.axhline(table["nuisance"][layer].mean(), color="grey", linewidth=0.8, label="the layer itself")
    right.axhline(100 * table["accuracy"][layer].mean(), color="grey", linewidth=0.8)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks((2, 4, 8, 16, 32), labels=["2", "4", "8", "16", "32"])
        axes.set_xlabel("width of the filter")
    left.set_ylabel("R² of the nuisance factors")
    right.set_ylabel("accuracy of a linear probe, %")
    left.legend()
