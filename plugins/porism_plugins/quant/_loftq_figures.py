"""Tables and drawings of LoftQ's figures."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from porism.drawing import columns, plot_by
from porism.figures import Table
from porism_plugins.quant import _loftq_experiments as experiments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BITS = (2, 3, 4, 8)
RANKS = (4, 8, 16, 32)


def rounds_table(rng: np.random.Generator, *, rounds: int) -> Table:
    """Columns ``rank``, ``bits``, ``round`` and ``error``, the last over QLoRA's."""
    weight = experiments.gaussian(rng)
    rows = [
        (rank, bits, number, error / errors[0])
        for rank in (4, 16)
        for bits in BITS
        for errors in [experiments.alternate(weight, rng, bits=bits, rank=rank, rounds=rounds).errors]
        for number, error in enumerate(errors)
    ]
    return columns("rank bits round error", rows)


def draw_rounds(table: Table, left: Axes, right: Axes) -> None:
    """One panel a rank."""
    for axes, rank in ((left, 4), (right, 16)):
        chosen = table["rank"] == rank
        part = {name: column[chosen] for name, column in table.items()}
        plot_by(axes, part, "round", "error", "bits", style="o-", label="{} bits")
        axes.set(title=f"rank {rank}", xlabel="rounds", ylabel="error / error of QLoRA")
    right.legend()


def storage_table(rng: np.random.Generator, *, side: int) -> Table:
    """Columns ``start``, ``size`` in bits a weight, and ``error``, for 2 to 8 bits."""
    weight = experiments.gaussian(rng, side, side)
    rows: list[tuple[str, float, float]] = []
    for bits in range(2, 9):
        plain, size = experiments.plain_error(weight, bits), experiments.bits_per_weight(bits, side, 0)
        rows.append(("codes alone", size, plain))
        rows.append(("QLoRA, rank 16", experiments.bits_per_weight(bits, side, 16), plain))
    for rank in RANKS:
        for bits in range(2, 9) if rank == 16 else (2, 3, 4):
            found = experiments.alternate(weight, rng, bits=bits, rank=rank, keep="best")
            size = experiments.bits_per_weight(bits, side, rank)
            rows.append((f"LoftQ, rank {rank}", size, experiments.error(weight, found.layer)))
    return columns("start size error", rows)


def draw_storage(table: Table, axes: Axes) -> None:
    """Everything against what it takes on the disk."""
    plot_by(axes, table, "size", "error", "start", style="o-")
    axes.set(yscale="log", xlabel="bits a weight: codes, scales, 16-bit factors", ylabel="relative error")
    axes.legend()


def quality_table(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``replicate``, ``start``, ``bits``, and accuracies ``before`` and ``after`` adapting the factors."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        model, task, shifted = experiments.trained(child, "one pixel")
        for bits in (2, 3, 4):
            for start in ("loftq", "qlora", "random"):
                one = experiments.quantised(model, copy.deepcopy(child), bits=bits, start=start)
                after = experiments.adapted(one, shifted, copy.deepcopy(child))
                rows.append((replicate, start, bits, experiments.score(one, task.test), after))
    return columns("replicate start bits before after", rows)


def draw_quality(table: Table, left: Axes, right: Axes) -> None:
    """Medians as lines, replicates as dots."""
    names = {"loftq": "LoftQ", "qlora": "QLoRA", "random": "random factors"}
    for axes, column in ((left, "before"), (right, "after")):
        for number, (start, name) in enumerate(names.items()):
            chosen = table["start"] == start
            bits, values = table["bits"][chosen], 100 * table[column][chosen]
            medians = [np.median(values[bits == each]) for each in np.unique(bits)]
            place = 0.06 * (number - 1)
            axes.plot(bits + place, values, ".", color=f"C{number}", alpha=0.5)
            axes.plot(np.unique(bits) + place, medians, "-", color=f"C{number}", label=name)
        axes.set(xlabel="bits", ylabel="test accuracy in %", xticks=np.unique(table["bits"]))
    left.set_title("the digits it was trained on, at the start")
    right.set_title("digits moved by a pixel, after 300 steps")
    left.legend()
