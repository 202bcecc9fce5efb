"""Tables and drawings of SlimMoE's figures."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, get_args

import numpy as np

from porism.drawing import columns, log_axes
from porism.figures import Table
from porism_plugins.moe import _slimmoe_experiments as measure
from porism_plugins.moe._slimmoe_experiments import EXPERTS, INNER
from porism_plugins.moe._slimmoe_models import CharacterMoE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (0.125, 0.25, 0.5, 0.75)


def by_share(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``rule share replicate kl nll`` after the cut alone; the share of neurons, or of experts dropped."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        at = measure.world(child, steps=0)
        for rule in get_args(measure.Cut):
            for share in SHARES:
                if rule == "drop" and share * EXPERTS < 2:  # fewer than the router chooses
                    continue
                if rule == "drop":
                    student = measure.dropped(at, round(share * EXPERTS))
                else:
                    student = measure.slimmed(at, copy.deepcopy(at.model), round(share * INNER), rule)
                losses = (measure.judged(at, student, by) for by in ("kl", "nll"))
                rows.append((rule, share, replicate, *losses))
    return columns("rule share replicate kl nll", rows)


def by_step(rng: np.random.Generator, *, replicates: int, steps: int, points: int = 12) -> Table:
    """Columns ``stages step replicate loss nll``: one rate for the stage, falling to 0 at its end."""
    rows: list[tuple[float, ...]] = []
    every = max(1, steps // points)
    for replicate, child in enumerate(rng.spawn(replicates)):
        at = measure.world(child, steps=steps)
        for stages in (1, 2, 3):

            def look(student: CharacterMoE, step: int, replicate: int = replicate, stages: int = stages) -> None:
                if step % every == 0:
                    losses = (measure.judged(at, student, by) for by in ("top 8", "nll"))  # noqa: B023
                    rows.append((stages, step, replicate, *losses))

            measure.staged(at, stages, look=look)
    return columns("stages step replicate loss nll", rows)


def draw_shares(table: Table, left: Axes, right: Axes) -> None:
    """Means over replicates, and single ones as dots."""
    for axes, y, label in ((left, "kl", "KL from the teacher, nats"), (right, "nll", "cost of the text, nats")):
        for number, rule in enumerate(dict.fromkeys(table["rule"].tolist())):
            chosen = table["rule"] == rule
            places = np.unique(table["share"][chosen])
            found = [table[y][chosen & (table["share"] == place)] for place in places]
            name = "experts dropped" if rule == "drop" else rule
            axes.plot(100 * places, [values.mean() for values in found], color=f"C{number}", label=name)
            axes.plot(100 * table["share"][chosen], table[y][chosen], ".", color=f"C{number}", markersize=4)
        log_axes(axes, x=tuple(100 * share for share in SHARES))
        axes.set(xlabel="numbers of the experts that stay, %", ylabel=label)
    left.set_yscale("log")
    right.legend()


def draw_steps(table: Table, left: Axes, right: Axes) -> None:
    """Means over replicates."""
    for axes, y, label in (
        (left, "loss", "top-8 loss above its least, nats"),
        (right, "nll", "cost of the text, nats"),
    ):
        for stages in np.unique(table["stages"]).tolist():
            chosen = table["stages"] == stages
            places = np.unique(table["step"][chosen])
            values = [table[y][chosen & (table["step"] == place)].mean() for place in places]
            axes.plot(places, values, "o-", markersize=3, label=f"{stages} stage{'s' if stages > 1 else ''}")
        axes.set(xlabel="steps of distillation", ylabel=label)
    left.set_yscale("log")
    left.legend()
