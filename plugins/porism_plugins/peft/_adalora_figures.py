"""Tables and drawings of AdaLoRA's figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from porism.drawing import columns, log_axes
from porism.figures import Table
from porism_plugins.peft import _adalora_experiments as measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOTALS = (4, 8, 16)
NAMES: dict[measure.Score, str] = {
    "upper confidence": "AdaLoRA", "magnitude": "by |lambda|", "random": "by random scores"
}  # fmt: skip
UNIFORM = "LoRA of one rank"


def budget_table(rng: np.random.Generator, *, replicates: int, steps: int) -> Table:
    """Columns ``change``, ``method``, ``total``, ``replicate`` and ``error``."""
    rows: list[tuple[Any, ...]] = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        for change in get_args(measure.Where):
            one = measure.task(child, change, steps)
            for total in TOTALS:
                models = {name: measure.trained_adalora(one, child, total=total, score=score)[0]
                          for score, name in NAMES.items()}  # fmt: skip
                models[UNIFORM] = measure.trained_lora(one, child, rank=total // measure.DEPTH)
                rows += [(change, name, total, replicate, math.exp(measure.log_error(model, one)))
                         for name, model in models.items()]  # fmt: skip
    return columns("change method total replicate error", rows)


def draw_budgets(table: Table, left: Axes, right: Axes) -> None:
    """One panel for each kind of change."""
    for axes, change, title in ((left, "one layer", "one layer must change"), (right, "all layers", "all layers must")):
        for number, method in enumerate((*NAMES.values(), UNIFORM)):
            rows = (table["change"] == change) & (table["method"] == method)
            totals = np.unique(table["total"][rows])
            medians = [np.median(table["error"][rows & (table["total"] == total)]) for total in totals]
            colour, marker = f"C{number}", "^" if method == UNIFORM else "o"
            axes.plot(totals, medians, "--" if method == UNIFORM else "-", color=colour)
            axes.plot(table["total"][rows], table["error"][rows], marker, color=colour, markersize=4, label=method)
        log_axes(axes, x=TOTALS)
        axes.set(
            yscale="log", ylim=(5e-5, 0.2), xlabel="triplets in all layers", ylabel="mean squared error", title=title
        )
    left.legend()


def rank_table(rng: np.random.Generator, *, steps: int) -> Table:
    """Columns ``step``, ``layer``, ``rank`` and ``budget``, every fifth step."""
    one, rows = measure.task(rng, steps=steps), []

    def look(budget: Any) -> None:
        if budget.steps % 5 == 0:
            allowed = budget.triplets(budget.steps)
            rows.extend(
                (budget.steps, number + 1, rank, allowed) for number, rank in enumerate(budget.ranks().values())
            )

    measure.trained_adalora(one, rng, total=6, look=look)
    return columns("step layer rank budget", rows)


def draw_ranks(table: Table, left: Axes, right: Axes) -> None:
    """Ranks by layer, and their sum beside the schedule."""
    for layer in np.unique(table["layer"]):
        rows = table["layer"] == layer
        left.step(
            table["step"][rows], table["rank"][rows], where="post", label=f"layer {layer}", linewidth=1 + (layer == 3)
        )
    left.set(xlabel="step", ylabel="rank")
    left.legend()
    first = table["layer"] == table["layer"][0]
    steps = table["step"][first]
    right.step(steps, [table["rank"][table["step"] == s].sum() for s in steps], where="post", label="ranks in all")
    right.plot(steps, table["budget"][first], "k--", label="schedule")
    right.set(xlabel="step", ylabel="triplets", ylim=(0, None))
    right.legend()
