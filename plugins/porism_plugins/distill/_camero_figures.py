"""Tables and drawings of CAMERO's figures."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from porism.drawing import columns
from porism.figures import Table
from porism_plugins.distill import _camero_experiments as measure
from porism_plugins.distill._camero_experiments import ARMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALPHAS = (0.0, 0.1, 1.0, 10.0, 100.0)


def by_alpha(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``alpha replicate nll accuracy divergence calm``; the latter two are mean symmetric KLs over pairs."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        data = measure.task(child)
        for alpha in ALPHAS:
            found = measure.judged(
                measure.trained(copy.deepcopy(child), data, ARMS["CAMERO"]._replace(alpha=alpha)), data
            )
            names = ("nll", "accuracy", "divergence", "calm divergence")
            rows.append((alpha, replicate, *(found[name] for name in names)))
    return columns("alpha replicate nll accuracy divergence calm", rows)


def by_arm(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``arm replicate parameters accuracy nll disagreement calm``."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        data = measure.task(child)
        for name, arm in ARMS.items():
            found = measure.judged(measure.trained(copy.deepcopy(child), data, arm), data)
            names = ("parameters", "accuracy", "nll", "disagreement", "calm disagreement")
            rows.append((name, replicate, *(found[by] for by in names)))
    return columns("arm replicate parameters accuracy nll disagreement calm", rows)


def draw_alpha(table: Table, left: Axes, right: Axes) -> None:
    """Means over replicates with single ones as dots; the place of 0 is left of the logarithmic axis."""
    place = {alpha: max(alpha, 0.01) for alpha in ALPHAS}
    x = np.array([place[alpha] for alpha in table["alpha"].tolist()])
    left.plot(x, table["nll"], ".", color="0.7")
    for axes, y, label in ((left, "nll", None), (right, "divergence", "in training"), (right, "calm", "at inference")):
        means = [table[y][table["alpha"] == alpha].mean() for alpha in ALPHAS]
        axes.plot(list(place.values()), means, "o-", label=label)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="weight alpha of the penalty")
        axes.set_xticks(list(place.values()), labels=[f"{alpha:g}" for alpha in ALPHAS])
        axes.set_xticks([], minor=True)
    left.set_yscale("log")
    left.set_yticks((0.3, 0.5, 1, 2), labels=["0.3", "0.5", "1", "2"])
    left.set_yticks([], minor=True)
    left.set_ylabel("NLL of the averaged logits, nats")
    right.set(yscale="log", ylabel="symmetric KL between members")
    right.legend()


def draw_accuracy(table: Table, left: Axes, right: Axes) -> None:
    """Each arm's mean with the standard error of its difference from the single model, over parameters."""
    single = table["arm"] == "single"
    for number, name in enumerate(ARMS):
        chosen = table["arm"] == name
        for axes, y, factor in ((left, "accuracy", 100), (right, "nll", 1)):
            apart = factor * (table[y][chosen] - table[y][single])
            bar = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else 0.0
            axes.errorbar(table["parameters"][chosen][0] / 1000, apart.mean(), bar, fmt="osD^v"[number % 5],
                          color=f"C{number}", label=name, capsize=3)  # fmt: skip
    for axes, label in ((left, "points of accuracy above the single model"), (right, "NLL above the single model's")):
        axes.axhline(0, color="0.3", linewidth=0.7)
        axes.set(xscale="log", xlabel="thousand parameters", ylabel=label)
        axes.set_xticks((25, 50, 100), labels=["25", "50", "100"])
        axes.set_xticks([], minor=True)
    right.legend(fontsize="small")


def draw_diversity(table: Table, ax: Axes) -> None:
    """Bars of the pairwise disagreement in training mode and at inference."""
    names = [name for name, arm in ARMS.items() if arm.members > 1]
    for shift, (y, label) in enumerate((("disagreement", "in training"), ("calm", "at inference"))):
        means = [100 * table[y][table["arm"] == name].mean() for name in names]
        ax.barh(np.arange(len(names)) + 0.4 * shift, means, 0.4, label=label)
    ax.set_yticks(np.arange(len(names)) + 0.2, labels=names)
    ax.invert_yaxis()
    ax.set_xlabel("test digits on which two members differ, %")
    ax.legend()
