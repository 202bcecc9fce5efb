"""Tables and drawings of AdaSPEC's figures."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from porism.drawing import columns, plot_by
from porism.figures import Table
from porism_plugins.spec import _adaspec_experiments as measure
from porism_plugins.spec import _adaspec_world as world

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEPT = (0.2, 0.4, 0.8, 1.0)
WAYS = {"largest gap (AdaSPEC)": "top", "random": "random", "largest loss": "hardest"}


def by_kept(rng: np.random.Generator, *, steps: int) -> Table:
    """Columns ``way kept accepted greedy``: a draft of a tiny Llama for each way and kept fraction."""
    rows = []
    for name, way in WAYS.items():
        for kept in KEPT:
            if kept == 1 and way != "top":  # all tokens, whatever the way
                rows.append((name, *rows[len(KEPT) - 1][1:]))
                continue
            found = measure.judged(measure.drafted(copy.deepcopy(rng), kept=kept, way=way, steps=steps))
            rows.append((name, kept, found.accepted, found.greedy))
    return columns("way kept accepted greedy", rows)


def by_arm(rng: np.random.Generator, *, length: int, steps: int) -> Table:
    """Columns ``arm kept left accepted tokens``: KL where the loss trains and where not, and real decoding."""
    arms = {"before": None, "all tokens": 1.0, "AdaSPEC": 0.4}
    rows = []
    for name, kept in arms.items():
        child = copy.deepcopy(rng)
        start = measure.fresh(child) if kept is None else measure.drafted(child, kept=kept, steps=steps)
        found, real = measure.judged(start), measure.decoded(start.draft, np.random.default_rng(0), length=length)
        rows.append((name, found.kept, found.left, found.accepted, real.tokens_per_call))
    return columns("arm kept left accepted tokens", rows)


def by_spread(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``arm spread accepted easy hard share`` of the world with known easy contexts: means over worlds."""
    rows = []
    for spread in (0.5, 1.0, 2.0, 4.0):
        found = [world.outcomes(child, {"AdaSPEC": {"kept": 0.4}, "random": {"kept": 0.4, "way": "random"}}, spread)
                 for child in copy.deepcopy(rng).spawn(replicates)]  # fmt: skip
        rows += [(name, spread, *np.mean([one[name][:4] for one in found], axis=0)) for name in found[0]]
    return columns("arm spread accepted easy hard share", rows)


def draw_kept(table: Table, left: Axes, right: Axes) -> None:
    """Acceptance of sampling and of greedy decoding by kept fraction, a line for each way."""
    for axes, y, label in ((left, "accepted", "mean of 1 - TV"), (right, "greedy", "greedy agreement")):
        plot_by(axes, table, "kept", y, "way", "o-")
        axes.set(xlabel="kept fraction of the tokens", ylabel=label)
    left.legend()


def draw_arms(table: Table, left: Axes, right: Axes) -> None:
    """Bars: KL on the tokens of the largest gaps and on the others; new tokens for each call of the target."""
    places = np.arange(len(table["arm"]))
    left.bar(places - 0.2, table["kept"], 0.4, label="the 40 % of largest gap")
    left.bar(places + 0.2, table["left"], 0.4, label="the others")
    right.bar(places, table["tokens"], 0.5, color="C2")
    for axes, label in ((left, "KL, nats"), (right, "new tokens for a call of the target")):
        axes.set_xticks(places, labels=table["arm"].tolist())
        axes.set_ylabel(label)
    right.set_ylim(1, None)
    left.legend()


def draw_spread(table: Table, left: Axes, right: Axes) -> None:
    """Acceptance, and the share of easy contexts among those trained on."""
    for axes, y, label in ((left, "accepted", "mean of 1 - TV"), (right, "share", "easy ones among those trained on")):
        plot_by(axes, table, "spread", y, "arm", "o-")
        axes.set_xscale("log", base=2)
        axes.set_xticks((0.5, 1, 2, 4), labels=["0.5", "1", "2", "4"])
        axes.set(xlabel="standard deviation of the target's logits", ylabel=label)
    left.legend()
