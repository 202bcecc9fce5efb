"""Tables and drawings of DFT's figures."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from porism.drawing import columns, log_axes
from porism.figures import Table
from porism_plugins.tune import _dft_experiments as measure
from porism_plugins.tune import _dft_world as world
from porism_plugins.tune._dft_experiments import Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS = {"SFT": Arm("sft"), "SPIN": Arm("spin"), "DFT": Arm("dft"), "DFT2": Arm("dft2"),
        "DFT2, no average": Arm("dft2", factor=1.0)}  # fmt: skip
RATES = (0.003, 0.01, 0.03, 0.1)


def by_epoch(rng: np.random.Generator, *, replicates: int, learning_rate: float = 0.03) -> Table:
    """Columns ``arm epoch replicate accuracy right wrong`` on held-out prompts, all arms at one learning rate."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        task = world.task(child)
        for name, arm in ARMS.items():
            path = [task.base, *measure.finetuned(task, copy.deepcopy(child), arm, learning_rate=learning_rate)]
            rows += [(name, epoch, replicate, *measure.judged(weights, task.base, *task.test))
                     for epoch, weights in enumerate(path)]  # fmt: skip
    return columns("arm epoch replicate accuracy right wrong", rows)


def by_rate(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``arm rate replicate accuracy right wrong`` after the last epoch."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        task = world.task(child)
        for name, arm in ARMS.items():
            for rate in RATES:
                *_, weights = measure.finetuned(task, copy.deepcopy(child), arm, learning_rate=rate)
                rows.append((name, rate, replicate, *measure.judged(weights, task.base, *task.test)))
    return columns("arm rate replicate accuracy right wrong", rows)


def by_negatives(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``factor negatives bias error``: means over replicates."""
    rows = []
    for factor in (1.0, 0.85, 0.5, 0.1):
        for negatives in (1, 2, 4, 8, 16, 32):
            children = copy.deepcopy(rng).spawn(replicates)
            found = [measure.estimates(child, factor=factor, negatives=negatives) for child in children]
            rows.append((factor, negatives, *np.mean(found, axis=0)))
    return columns("factor negatives bias error", rows)


def means(table: Table, chosen: np.ndarray, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of x, and the mean of y at each."""
    places = np.unique(table[x][chosen])
    return places, np.array([table[y][chosen & (table[x] == place)].mean() for place in places])


def draw_epochs(table: Table, left: Axes, right: Axes) -> None:
    """Means over replicates: right answers (solid) and wrong ones (dashed), and accuracy."""
    for number, name in enumerate(dict.fromkeys(table["arm"].tolist())):
        chosen = table["arm"] == name
        left.plot(*means(table, chosen, "epoch", "right"), color=f"C{number}")
        left.plot(*means(table, chosen, "epoch", "wrong"), "--", color=f"C{number}")
        epochs, shares = means(table, chosen, "epoch", "accuracy")
        right.plot(epochs, 100 * shares, color=f"C{number}", label=name)
    left.set(xlabel="epoch", ylabel="log-likelihood: right (solid), wrong (dashed)", ylim=(-9, 0))
    right.set(xlabel="epoch", ylabel="right answers on held-out prompts, %")
    right.legend()


def draw_rates(table: Table, left: Axes, right: Axes) -> None:
    """Means over replicates with single ones as dots."""
    values = {**table, "percent": 100 * table["accuracy"], "margin": table["right"] - table["wrong"]}
    for axes, y, label in ((left, "percent", "right answers, %"), (right, "margin", "log-likelihood ratio, nats")):
        for number, name in enumerate(dict.fromkeys(table["arm"].tolist())):
            chosen = table["arm"] == name
            axes.plot(*means(values, chosen, "rate", y), color=f"C{number}", label=name)
            axes.plot(table["rate"][chosen], values[y][chosen], ".", color=f"C{number}", alpha=0.5)
        log_axes(axes, x=RATES)
        axes.set(xlabel="learning rate", ylabel=label)
    right.set_yscale("log")
    right.legend()


def draw_negatives(table: Table, left: Axes, right: Axes) -> None:
    """The bias and the error of log u, one line for each factor."""
    for factor in dict.fromkeys(table["factor"].tolist()):
        chosen = table["factor"] == factor
        left.plot(table["negatives"][chosen], table["bias"][chosen], "o-", label=f"factor {factor:g}")
        right.plot(table["negatives"][chosen], table["error"][chosen], "o-")
    left.axhline(0, color="grey", linewidth=0.8)
    for axes, label in ((left, "bias of log u"), (right, "root mean square error of log u")):
        axes.set_xscale("log", base=2)
        axes.set_xticks((1, 2, 4, 8, 16, 32), labels=["1", "2", "4", "8", "16", "32"])
        axes.set(xlabel="negatives", ylabel=label)
    right.set_yscale("log")
    left.legend()
