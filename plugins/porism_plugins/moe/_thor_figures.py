"""Tables and drawings of THOR's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from porism.drawing import columns
from porism.figures import Table
from porism_plugins.moe import _thor_experiments as measure
from porism_plugins.moe._thor_experiments import GATE, LONGER, R_DROP, THOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS = {
    "THOR": THOR,
    "THOR, alpha 0": THOR._replace(alpha=0.0),
    "R-Drop, one network": R_DROP,
    "gate": GATE,
    "gate, twice the updates": LONGER,
    "random for each token, one pass": GATE._replace(kind="random"),
    "one network, one pass": GATE._replace(kind="dense"),
}
ALPHAS = (0.0, 1.0, 5.0, 20.0)


def by_arm(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``arm replicate accuracy``."""
    seeds = [measure.seed_of(child) for child in rng.spawn(replicates)]
    rows = [(name, number, measure.trained(seed, arm).accuracy)
            for name, arm in ARMS.items() for number, seed in enumerate(seeds)]  # fmt: skip
    return columns("arm replicate accuracy", rows)


def by_alpha(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``alpha replicate single average spread``."""
    seeds = [measure.seed_of(child) for child in rng.spawn(replicates)]
    found = [(alpha, number, measure.trained(seed, THOR._replace(alpha=alpha)))
             for alpha in ALPHAS for number, seed in enumerate(seeds)]  # fmt: skip
    rows = [(alpha, number, result.single, result.average, result.spread) for alpha, number, result in found]
    return columns("alpha replicate single average spread", rows)


def draw_arms(table: Table, ax: Axes) -> None:
    """Means as bars, replicates as dots."""
    names = list(dict.fromkeys(table["arm"].tolist()))
    for place, name in enumerate(names):
        shares = 100 * table["accuracy"][table["arm"] == name]
        ax.barh(place, shares.mean(), color="C0" if name.startswith("THOR") else "C1", alpha=0.7)
        ax.plot(shares, np.full(len(shares), place), "k.", markersize=4)
    ax.set_yticks(range(len(names)), labels=names)
    ax.invert_yaxis()
    ax.set(xlabel="words translated rightly, %")


def draw_alphas(table: Table, left: Axes, right: Axes) -> None:
    """Accuracies, and the variance over experts, against alpha."""
    places = np.arange(len(ALPHAS))

    def means(name: str) -> np.ndarray:
        return np.array([table[name][table["alpha"] == alpha].mean() for alpha in ALPHAS])

    left.plot(places, 100 * means("single"), "o-", label="one expert")
    left.plot(places, 100 * means("average"), "s--", label="average of experts")
    right.plot(places, means("spread"), "o-")
    for ax, label in ((left, "words translated rightly, %"), (right, "variance of probabilities over experts")):
        ax.set_xticks(places, labels=[f"{alpha:g}" for alpha in ALPHAS])
        ax.set(xlabel="alpha", ylabel=label)
    right.set_yscale("log")
    left.legend()
