"""Tables and drawings of COSMOS's figures."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from porism.drawing import columns, plot_by
from porism.figures import Table
from porism_plugins.optim import _baselines as baselines
from porism_plugins.optim import _cosmos_experiments as measure
from porism_plugins.optim import _workloads as workloads
from porism_plugins.optim._workloads import Make

# Training losses are averaged over so many steps.
SMOOTHING = 10
SIZES = {"width": 32}


ARMS: dict[str, Make] = {
    "COSMOS": measure.cosmos(),
    "leading part only": measure.cosmos(gamma=0.0),
    "Muon": baselines.Muon,
    "SOAP": baselines.SOAP,
    "AdamW": baselines.AdamW,
}


def curves(rng: np.random.Generator, *, steps: int) -> Table:
    """Training loss of the language model by step, each at its best of three learning rates."""
    problem, rows = workloads.language_problem(rng, steps=steps, **SIZES), []
    for name, make in ARMS.items():
        run = workloads.tuned(problem, make, steps=steps, rates=measure.LANGUAGE_RATES)
        smooth = run.losses[: steps // SMOOTHING * SMOOTHING].reshape(-1, SMOOTHING).mean(1)
        rows += [(name, (i + 0.5) * SMOOTHING, loss, run.judge) for i, loss in enumerate(smooth)]
    return columns("optimizer step loss test", rows)


def draw_curves(table: Any, left: Any, right: Any) -> None:
    """Curves, and where they end on topics that were not trained on."""
    plot_by(left, table, "step", "loss", "optimizer")
    left.set(xlabel="step", ylabel="training loss, nats a character", ylim=(None, 4))
    left.legend()
    names = list(dict.fromkeys(table["optimizer"].tolist()))
    ends = [table["test"][table["optimizer"] == name][0] for name in names]
    for place, end in enumerate(ends):
        right.plot(end, place, "o", color=f"C{place}")
        right.annotate(f"{end:.3f}", (end, place), (6, -3), textcoords="offset points")
    right.set(yticks=range(len(names)), yticklabels=names, xlabel="test loss, nats a character")
    right.margins(x=0.25)
    right.invert_yaxis()


def memory(rng: np.random.Generator, *, steps: int) -> Table:
    """Test loss of the language model and numbers in the optimiser's state for each number in the weights."""
    problem = workloads.language_problem(rng, steps=steps, **SIZES)
    weights = sum(parameter.numel() for parameter in problem.model.parameters())
    arms = {f"COSMOS, r = {rank}": measure.cosmos(rank=rank) for rank in (1, 8, 32)}
    arms |= {"AdamW": baselines.AdamW, "Muon": baselines.Muon, "SOAP": baselines.SOAP}
    arms["SOAP, one side"] = functools.partial(baselines.SOAP, sides="right")
    rows = []
    for name, arm in arms.items():
        run = workloads.tuned(problem, arm, steps=steps, rates=measure.LANGUAGE_RATES)
        rows.append((name, run.state / weights, run.judge))
    return columns("optimizer state loss", rows)


def draw_memory(table: Any, ax: Any) -> None:
    """A line for COSMOS and a point for each of the others."""
    ours = np.char.startswith(table["optimizer"].astype(str), "COSMOS")
    ax.plot(table["state"][ours], table["loss"][ours], "o-", label="COSMOS")
    for name, x, y in zip(table["optimizer"][ours], table["state"][ours], table["loss"][ours], strict=True):
        ax.annotate(str(name).removeprefix("COSMOS, "), (x, y), (-4, 8), textcoords="offset points", fontsize="small")
    for name, x, y in zip(table["optimizer"][~ours], table["state"][~ours], table["loss"][~ours], strict=True):
        ax.plot(x, y, "D", label=str(name))
    ax.set(xlabel="numbers in the state for each number in the weights", ylabel="test loss, nats a character")
    ax.legend()


def tracking(rng: np.random.Generator, *, steps: int) -> Table:
    """Angle to the true leading space by step and gap, for the stored basis and for the one always made anew."""
    rows = []
    for gap, child in zip((2.0, 3.0, 10.0), rng.spawn(3), strict=True):
        for name, stored in (("stored", True), ("from the first basis", False)):
            found = measure.angles(copy.deepcopy(child), steps=steps, gap=gap, stored=stored)
            rows += [(name, gap, t, angle) for t, angle in enumerate(found, 1)]
    return columns("basis gap step angle", rows)


def draw_tracking(table: Any, ax: Any) -> None:
    """Full lines for what the paper does, dashed ones for what a released file does."""
    for number, gap in enumerate(dict.fromkeys(table["gap"].tolist())):
        for name, style in (("stored", "-"), ("from the first basis", "--")):
            rows = (table["gap"] == gap) & (table["basis"] == name)
            ax.plot(table["step"][rows], table["angle"][rows], style, color=f"C{number}", label=f"{name}, gap {gap:g}")
    ax.axhline(10, color="0.3", linewidth=0.7)
    ax.set(xlabel="step", ylabel="largest angle to the true space, degrees", ylim=(0, 90))
    ax.legend(fontsize="small")
