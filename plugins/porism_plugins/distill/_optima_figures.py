"""Tables and drawings of OPTIMA's figures."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from porism.drawing import columns, log_axes, plot_by
from porism.figures import Table
from porism_plugins.distill import _optima_experiments as measure
from porism_plugins.distill import _optima_worlds as worlds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHOICES: tuple[measure.Choice, ...] = ("OPTIMA", "uniform", "round-robin", "all at once")
POLICIES: tuple[worlds.Policy, ...] = ("discounted", "plain", "greedy", "uniform")


def by_round(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``choice round replicate loss rank``: the criterion after a round; importance of the arm, 0 the most."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        for choice in CHOICES:
            own = copy.deepcopy(child)
            world = measure.branches_world(own)
            found = measure.trained(world, choice, own)
            rank = [measure.ranked(world).index(name) for name in measure.NAMES]
            rows += [
                (choice, number, replicate, loss, rank[arm] if choice != "all at once" else -1)
                for number, (arm, loss) in enumerate(zip(found.arms, found.course, strict=True))
            ]
    return columns("choice round replicate loss rank", rows)


def regrets(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``world policy round regret``: expected reward missed so far, averaged over replicates."""
    rows = []
    for kind in ("abrupt", "drifting", "decaying", "fixed"):
        for name in POLICIES:
            runs = [worlds.played(child, kind, name) for child in copy.deepcopy(rng).spawn(replicates)]
            missed = np.mean([(one.best - one.expected).cumsum() for one in runs], axis=0)
            rows += [(kind, name, now, missed[now]) for now in range(0, worlds.ROUNDS, 5)]
    return columns("world policy round regret", rows)


def by_discount(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``world discount reward``: expected reward a round, averaged over replicates."""
    rows = []
    for kind in ("abrupt", "drifting", "decaying", "fixed"):
        for discount in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0):
            children = copy.deepcopy(rng).spawn(replicates)
            found = [worlds.mean_reward(c, kind=kind, name="discounted", discount=discount) for c in children]
            rows.append((kind, discount, float(np.mean(found))))
    return columns("world discount reward", rows)


def draw_rounds(table: Table, left: Axes, right: Axes) -> None:
    """Pulls of OPTIMA by importance over the rounds, in means over replicates; the criterion for all choices."""
    ours = table["choice"] == "OPTIMA"
    rounds = np.unique(table["round"])
    replicates = len(np.unique(table["replicate"]))
    for rank, importance in enumerate(measure.IMPORTANCE):
        pulls = [np.sum(ours & (table["round"] == now) & (table["rank"] == rank)) / replicates for now in rounds]
        left.plot(rounds, np.cumsum(pulls), label=f"importance {importance:g}")
    left.plot(rounds, (rounds + 1) / len(measure.IMPORTANCE), color="grey", linewidth=0.8, label="uniform")
    left.set(xlabel="round", ylabel="rounds given to a module so far")
    left.legend()
    for number, choice in enumerate(CHOICES):
        chosen = table["choice"] == choice
        means = [np.exp(np.log(table["loss"][chosen & (table["round"] == now)]).mean()) for now in rounds]
        right.plot(rounds * measure.ROUND, means, "-" if number < 2 else "--", color=f"C{number}", label=choice)
    log_axes(right, y=(1.5, 2.0, 3.0, 4.0, 6.0))
    right.set(xlabel="step", ylabel="criterion on the probe batch")
    right.legend()


def draw_regrets(table: Table, abrupt: Axes, drifting: Axes, decaying: Axes, fixed: Axes) -> None:
    """One panel a world."""
    for ax, kind in zip((abrupt, drifting, decaying, fixed), dict.fromkeys(table["world"].tolist()), strict=True):
        chosen = {name: values[table["world"] == kind] for name, values in table.items()}
        plot_by(ax, chosen, "round", "regret", "policy")
        ax.set(xlabel="round", ylabel="regret" if ax is abrupt else "", title=kind)
    abrupt.legend()


def draw_discounts(table: Table, ax: Axes) -> None:
    """One line a world, over how many rounds are remembered."""
    ticks = list(dict.fromkeys(table["discount"].tolist()))
    for number, kind in enumerate(dict.fromkeys(table["world"].tolist())):
        ax.plot(range(len(ticks)), table["reward"][table["world"] == kind], "o-", color=f"C{number}", label=kind)
    ax.set_xticks(range(len(ticks)), labels=[f"{tick:g}" for tick in ticks])
    ax.set(xlabel="discount", ylabel="expected reward a round")
    ax.legend()
