"""Tables and drawings of TempNet's figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from porism.drawing import columns
from porism.figures import Table
from porism_plugins.tune import _tempnet_experiments as measure
from porism_plugins.tune._tempnet_temperature import optimal_temperature

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("constant", "published", "scale")


def language_table(rng: np.random.Generator, shares: tuple[float, ...], *, steps: int) -> Table:
    """Columns ``source``, ``value`` (tau or rho / log V), ``nll``, and ``mean`` and ``spread`` of the entropy."""
    task, rows = measure.language(rng), []
    logits, y = task.test
    for tau in measure.TEMPERATURES:
        rows.append(("one temperature", tau, measure.nll(logits, y, tau), *_entropy(logits, tau)))
    for share, child in zip(shares, rng.spawn(len(shares)), strict=True):
        rho = share * math.log(96)
        exact = optimal_temperature(logits, rho, tau_min=0.05, tau_max=4.0).float()
        rows.append(("exact", share, measure.nll(logits, y, exact), *_entropy(logits, exact)))
        net = measure.fitted(child, "published", task.train[0], rho, steps=steps)
        tau = measure.said(net, logits)
        rows.append(("TempNet", share, measure.nll(logits, y, tau), *_entropy(logits, tau)))
    return columns("source value nll mean spread", rows)


def _entropy(logits: torch.Tensor, tau: torch.Tensor | float) -> tuple[float, float]:
    found = measure.entropies(logits, tau)
    return float(found.mean()), float(found.std())


def draw_language(table: Table, left: Axes, right: Axes) -> None:
    """NLL and spread of the entropy against its mean, which puts all temperatures on one axis."""
    for source, style in (("one temperature", "k.-"), ("TempNet", "o-"), ("exact", "s--")):
        rows = (table["source"] == source) & (table["mean"] > 0.5) & (table["mean"] < 3.2)
        for axes, name in ((left, "nll"), (right, "spread")):
            axes.plot(table["mean"][rows], table[name][rows], style, label=source)
    left.set(xlabel="mean entropy, nats", ylabel="test NLL, nats a character")
    right.set(xlabel="mean entropy, nats", ylabel="standard deviation of the entropy")
    left.legend()


def closeness_table(rng: np.random.Generator, *, scale: float, steps: int) -> Table:
    """Columns ``kind``, ``exact`` and ``said``: temperatures of 300 fresh synthetic logits."""
    train, fresh, rows = measure.synthetic(rng, 4000, scale=scale), measure.synthetic(rng, 300, scale=scale), []
    exact = optimal_temperature(fresh, 1.5, tau_min=0.05, tau_max=4.0)
    for kind, child in zip(KINDS, rng.spawn(len(KINDS)), strict=True):
        tau = measure.said(measure.fitted(child, kind, train, 1.5, steps=steps), fresh)
        rows += [(kind, float(a), float(b)) for a, b in zip(exact, tau, strict=True)]
    return columns("kind exact said", rows)


def draw_closeness(table: Table, ax: Axes) -> None:
    """What the networks say over what is best, with the diagonal."""
    for kind, label in zip(KINDS, ("one number", "as published", "with the norm"), strict=True):
        rows = table["kind"] == kind
        ax.plot(table["exact"][rows], table["said"][rows], ".", markersize=3, label=label)
    ax.plot([0.1, 4], [0.1, 4], "k", linewidth=0.8)
    ax.set(xscale="log", yscale="log", xlabel="exact temperature", ylabel="temperature that the network says")
    ax.legend()
