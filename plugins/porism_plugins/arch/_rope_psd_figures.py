"""Tables and drawings of the figures of RoPE-PSD."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from porism.drawing import columns
from porism.figures import Table
from porism_plugins.arch import _rope_psd_experiments as measure
from porism_plugins.arch import _rope_psd_recall as recall
from porism_plugins.arch._rope_psd_experiments import Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS = {
    "CLM": Arm(0.0),
    "CLM, 1.6 x steps": Arm(0.0, longer=1.6),
    "suffix jump": Arm(),
    "suffix jump, forward KL": Arm(direction="forward"),
    "cyclic shift": Arm(perturbation="cyclic"),
    "permutation": Arm(perturbation="permutation"),
    "no positions": Arm(perturbation="none"),
}
LENGTHS = (48, 96, 192)
WEIGHTS, OFFSETS = (0.0, 0.1, 0.5, 2.0), (4, 20, 100, 300)


def by_position(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``arm replicate slots part accuracy``: by eighth of the slots, at each length."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        for name, arm in ARMS.items():
            model, test = measure.adapted(copy.deepcopy(child), arm)
            for slots in LENGTHS:
                found = recall.by_position(model, test, slots)
                rows += [(name, replicate, slots, part, value) for part, value in enumerate(found)]
    return columns("arm replicate slots part accuracy", rows)


def by_option(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``option value replicate mean spread``: accuracy over positions at the long length."""
    arms = [("weight", weight, Arm(weight)) for weight in WEIGHTS]
    arms += [("offset", offset, Arm(max_offset=offset)) for offset in OFFSETS]
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        for option, value, arm in arms:
            found = recall.by_position(*measure.adapted(copy.deepcopy(child), arm))
            rows.append((option, value, replicate, float(found.mean()), float(found.std())))
    return columns("option value replicate mean spread", rows)


def means(table: Table, chosen: np.ndarray, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of x, and the mean of y at each, in per cent."""
    places = np.unique(table[x][chosen])
    return places, np.array([100 * table[y][chosen & (table[x] == place)].mean() for place in places])


def draw_positions(table: Table, left: Axes, right: Axes) -> None:
    """Accuracy against the evidence's place at the trained length, and against the length."""
    for name in dict.fromkeys(table["arm"].tolist()):
        chosen = table["arm"] == name
        parts, accuracy = means(table, chosen & (table["slots"] == recall.LONG), "part", "accuracy")
        left.plot(12.5 * parts + 6.25, accuracy, label=name)
        right.plot(*means(table, chosen, "slots", "accuracy"), "o-", markersize=3)
    left.set(xlabel="place of the evidence, % of the sequence", ylabel="right answers, %")
    right.axvline(recall.LONG, color="grey", linewidth=0.8, linestyle=":")
    right.set(xlabel="slots (trained at 96)", ylabel="right answers, evidence anywhere, %")
    left.legend()


def draw_options(table: Table, left: Axes, right: Axes) -> None:
    """Mean and standard deviation of the accuracy over positions, against the weight and the largest jump."""
    for axes, option, label in ((left, "weight", "weight of the consistency"), (right, "offset", "largest jump")):
        chosen = table["option"] == option
        places, _ = means(table, chosen, "value", "mean")
        for y, style in (("mean", "o-"), ("spread", "s--")):
            _, values = means(table, chosen, "value", y)
            shown = 100 - values if y == "mean" else values
            axes.plot(range(len(places)), shown, style, label="wrong answers" if y == "mean" else "spread")
        axes.set_xticks(range(len(places)), labels=[f"{place:g}" for place in places])
        axes.set(xlabel=label, ylabel="%", ylim=(0, None))
    left.legend()
