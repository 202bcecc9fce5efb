"""Tables and drawings of NoWag's figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from porism.drawing import columns, plot_by
from porism.figures import Table
from porism_plugins.quant import _nowag_experiments as experiments
from porism_plugins.quant._engine import Quantiser

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is drawn of vector quantisation, and with which options.
DRAWN: dict[str, dict[str, Any]] = {
    "NoWag-VQ": {}, "NoWag-VQ, objective output": {"objective": "output"},
    **{name: options for name, options in experiments.ABLATIONS.items() if name != "NoWag-VQ"},
}  # fmt: skip
SCALES = {"equal": (0.0, 0.0), "unequal rows": (1.0, 0.0), "unequal columns": (0.0, 1.0)}
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def layer_table(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``scales``, ``by``, ``bits`` of a weight with all that is stored, and ``error``, a geometric mean."""
    rows = []
    children = rng.spawn(replicates)
    for scales, (across, along) in SCALES.items():
        ones = [experiments.problem(child, rows=across, columns=along) for child in children]
        for bits in (1, 2, 3):
            for by, options in DRAWN.items():
                errors = [
                    experiments.log_error(one, child, bits=bits, subvector=3, **options)
                    for one, child in zip(ones, children, strict=True)
                ]
                rows.append((scales, by, _layer_bits(*ones[0].weight.shape, bits), math.exp(np.mean(errors))))
        for bits in (2, 3):
            found = [Quantiser(bits=bits).quantise(one.weight).dequantise() for one in ones]
            errors = [math.log(experiments.output_error(one, each)) for one, each in zip(ones, found, strict=True)]
            rows.append((scales, "NormalFloat", bits + 32 / 64, math.exp(np.mean(errors))))
    return columns("scales by bits error", rows)


def draw_layers(table: Table, left: Axes, middle: Axes, right: Axes) -> None:
    """One panel for each kind of scales."""
    for axes, scales in zip((left, middle, right), SCALES, strict=True):
        part = {name: column[table["scales"] == scales] for name, column in table.items()}
        plot_by(axes, part, "bits", "error", "by", style="o-")
        axes.set(title=f"scales: {scales}", xlabel="bits a weight, all that is stored", yscale="log")
    left.set_ylabel("relative error of the output")
    left.legend(loc="lower left")


def language_table(rng: np.random.Generator, *, replicates: int) -> Table:
    """Columns ``kind``, ``by``, ``size`` (a share or bits of a weight) and ``perplexity``, a geometric mean."""
    runs: dict[tuple[str, str, float], list[float]] = {}

    def add(kind: str, by: str, size: float, perplexity: float) -> None:
        runs.setdefault((kind, by, size), []).append(math.log(perplexity))

    for child in rng.spawn(replicates):
        one = experiments.language(child)
        add("dense", "as it is", 1.0, one.perplexity())
        for share in SHARES:
            for by in (by for by in experiments.SCORES if by != "at random"):
                add("pruned", by, share, experiments.pruned_perplexity(one, by, share))
        for bits, subvector in ((1, 3), (2, 2), (3, 2), (4, 1)):
            for by, options in DRAWN.items():
                found, size = experiments.quantised_perplexity(one, child, bits=bits, subvector=subvector, **options)
                add("quantised", by, size, found)
        for bits in (2, 3, 4):
            found, size = experiments.scalar_perplexity(one, bits)
            add("quantised", "NormalFloat", size, found)
    rows = [(*key, math.exp(np.mean(logs))) for key, logs in runs.items()]
    return columns("kind by size perplexity", rows)


def draw_language(table: Table, left: Axes, right: Axes) -> None:
    """Pruning and quantisation beside one another, the model as it is a dotted line."""
    (dense,) = table["perplexity"][table["kind"] == "dense"]
    for axes, kind, label in ((left, "pruned", "share of the weights that stays"),
                              (right, "quantised", "bits a weight, all that is stored")):  # fmt: skip
        part = {name: column[table["kind"] == kind] for name, column in table.items()}
        plot_by(axes, part, "size", "perplexity", "by", style="o-")
        axes.axhline(dense, color="black", linestyle=":", label="as it is")
        axes.set(yscale="log", xlabel=label, ylabel="perplexity")
        axes.legend()


def _layer_bits(outputs: int, inputs: int, bits: int, subvector: int = 3) -> float:
    weights = outputs * inputs
    codes = outputs * -(-inputs // subvector) * bits * subvector
    return (codes + 16 * 2 ** (bits * subvector) * subvector + 16 * (outputs + inputs)) / weights
