"""Tables and drawings of SinKD's figures."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from porism.drawing import columns, plot_by
from porism.figures import Table
from porism.stats import median_interval
from porism_plugins.distill import _sinkd_experiments as measure
from porism_plugins.distill import _sinkd_mixture as mixture
from porism_plugins.distill import _sinkd_models as models
from porism_plugins.distill._losses import (
    Objective,
    js_divergence,
    kl_divergence,
    mixed_objective,
    reverse_kl_divergence,
)
from porism_plugins.distill._sinkd_loss import SinKDLoss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rng = np.random.Generator
COMPETITORS = {"reverse KL": reverse_kl_divergence, "JS": js_divergence}


def overlap(rng: Rng, *, points: int, gap: float) -> Table:
    """Columns ``loss overlap value pull`` along straight lines from wrong classes to the teachers."""
    (start, teacher), rows = measure.disjoint_logits(rng, samples=32, classes=10, gap=gap), []
    for name, loss in {"KL": kl_divergence, **COMPETITORS, "SinKD": SinKDLoss(temperature=1.0)}.items():
        for student in (start + way * (teacher - start) for way in np.linspace(0, 0.75, points)):
            shared = torch.minimum(student.softmax(-1), teacher.softmax(-1)).sum(-1).median()
            pull = measure.gradient(loss, student, teacher).norm(dim=-1).median()
            rows.append((name, shared.item(), loss(student, teacher).item(), pull.item()))
    return columns("loss overlap value pull", rows)


def draw_overlap(table: Table, left: Axes, right: Axes) -> None:
    """Loss and gradient, each over the overlap."""
    for axes, y, label in ((left, "value", "loss"), (right, "pull", "gradient norm at the logits")):
        plot_by(axes, table, "overlap", y, "loss")
        axes.set(xscale="log", yscale="log", xlabel="overlap of student and teacher, 1 - TV", ylabel=label)
    right.legend()


def bias(rng: Rng, *, samples: int, spread: float) -> Table:
    """Columns ``iterations epsilon excess error``."""
    pair, rows = measure.random_logits(rng, samples=samples, classes=10, spread=spread), []
    for iterations in (1, 3, 10, 20, 100, 1000):
        for epsilon in np.geomspace(0.01, 10, 31):
            loss = SinKDLoss(epsilon=epsilon, iterations=iterations)
            cost = loss.cost(*pair)[0]
            excess = loss(*pair) - cost[linear_sum_assignment(cost)].mean()
            rows.append((iterations, epsilon, excess.item(), (loss.plan(cost).sum(1) - 1).abs().max().item()))
    return columns("iterations epsilon excess error", rows)


def draw_bias(table: Table, left: Axes, right: Axes) -> None:
    """Excess and row error, each over epsilon."""
    for axes, y, label in ((left, "excess", "loss - exact assignment cost"), (right, "error", "largest row error")):
        plot_by(axes, table, "epsilon", y, "iterations")
        axes.set(xscale="log", xlabel="epsilon", ylabel=label)
    right.set(yscale="log", ylim=(1e-8, 20))
    left.legend(title="iterations", loc="lower right")


def accuracy_table(rng: np.random.Generator, objectives: Mapping[str, Objective], *, replicates: int) -> Table:
    """Columns ``replicate``, ``arm`` and ``accuracy`` of :func:`measure.distil_digits` on fresh splits and teachers."""
    rows = (
        (replicate, arm, score.test)
        for replicate, child in enumerate(rng.spawn(replicates))
        for arm, score in measure.distil_digits(child, objectives).items()
    )
    return columns("replicate arm accuracy", list(rows))


def draw_paired(table: Table, left: Axes, right: Axes) -> None:
    """Draw an :func:`accuracy_table` of :func:`arms`: each replicate a line, and its differences from CE+KD.

    Diamonds are medians, on the right with exact 95 % intervals.
    """
    percent = {arm: 100 * table["accuracy"][table["arm"] == arm] for arm in dict.fromkeys(table["arm"].tolist())}
    left.plot(list(percent), np.array(list(percent.values())), "o-", color="0.75", markersize=3, linewidth=0.7)
    left.plot(list(percent), [np.median(values) for values in percent.values()], "D", color="C0")
    left.set_ylabel("test accuracy in %")
    baseline = percent.pop("CE+KD")
    for place, values in enumerate(percent.values()):
        difference = values - baseline
        middle, (low, high) = np.median(difference), median_interval(difference)
        right.plot(np.full(len(difference), place), difference, "o", color="0.75", markersize=3)
        right.errorbar(place, middle, [[middle - low], [high - middle]], fmt="D", color="C0", capsize=4)
    right.axhline(0, color="0.3", linewidth=0.7)
    right.set(xticks=range(len(percent)), xticklabels=list(percent), ylabel="points of accuracy above CE+KD")


def hyper_parameters(rng: Rng, *, replicates: int) -> Table:
    """Columns ``option value replicate gain``: accuracy above CE+KD of one option changed, the others as they are."""
    options = {
        "temperature": (0.5, 2.0, 8.0),
        "epsilon": (0.01, 0.1, 1.0),
        "iterations": (1, 20, 100),
        "weight": (0.08, 0.8, 8.0),
    }
    arms: dict[str, Objective] = {"CE+KD": functools.partial(mixed_objective, beta=0.0)}
    for option, values in options.items():
        for value in values:
            loss = SinKDLoss(**({} if option == "weight" else {option: value}))
            weight = value if option == "weight" else 0.8
            arms[f"{option} {value}"] = functools.partial(mixed_objective, beta=weight, extra=loss)
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        scores = measure.distil_digits(copy.deepcopy(child), arms, epochs=30)
        base = scores.pop("CE+KD").test
        rows += [(*arm.split(), replicate, score.test - base) for arm, score in scores.items()]
        for size in (4, 16, 64):
            rows.append(("batch size", size, replicate, measure.gain(child, extra=SinKDLoss(), batch_size=size)))
    table = columns("option value replicate gain", rows)
    return {**table, "value": table["value"].astype(float)}


def draw_hyper_parameters(table: Table, first: Axes, second: Axes, third: Axes, fourth: Axes, fifth: Axes) -> None:
    """A panel for each option: dots are replicates, the line their mean."""
    axes = first, second, third, fourth, fifth
    for ax, option in zip(axes, dict.fromkeys(table["option"].tolist()), strict=True):
        chosen = table["option"] == option
        values = np.unique(table["value"][chosen])
        percent = 100 * table["gain"]
        ax.plot(table["value"][chosen], percent[chosen], ".", color="0.6")
        ax.plot(values, [percent[chosen & (table["value"] == value)].mean() for value in values], "o-")
        ax.axhline(0, color="0.3", linewidth=0.7)
        ax.set_xscale("log")
        ax.set_xticks(values, labels=[f"{value:g}" for value in values])
        ax.set_xticks([], minor=True)
        ax.set_xlabel(option)
    axes[0].set_ylabel("points of accuracy above CE+KD")
    axes[-1].set_ylabel("points above as much KL")


def fits(rng: Rng) -> Table:
    """Columns ``share loss position mass``: the first context's teacher and the students that losses fit to it."""
    rows = []
    for share in (0.5, 0.7):
        teacher = mixture.teachers(copy.deepcopy(rng), share=share)
        fitted = {name: mixture.fitted(copy.deepcopy(rng), teacher.logits, loss)
                  for name, loss in mixture.LOSSES.items()}  # fmt: skip
        for name, logits in {"teacher": teacher.logits, **fitted}.items():
            masses = logits[0].softmax(-1).tolist()
            rows += [(share, name, *place) for place in zip(mixture.POSITIONS.tolist(), masses, strict=True)]
    return columns("share loss position mass", rows)


def draw_fits(table: Table, left: Axes, right: Axes) -> None:
    """The teacher as an area, students as lines; one panel for each share of the larger mode."""
    for ax, share in zip((left, right), np.unique(table["share"]), strict=True):
        half = {name: column[table["share"] == share] for name, column in table.items()}
        chosen = half["loss"] == "teacher"
        ax.fill_between(half["position"][chosen], half["mass"][chosen], color="0.85", label="teacher")
        plot_by(ax, {name: column[~chosen] for name, column in half.items()}, "position", "mass", "loss")
        ax.set(xlabel="class", ylabel="probability", title=f"larger mode {share:g}")
    right.legend(fontsize=7)


def faults(rng: Rng, *, replicates: int) -> Table:
    """Columns ``loss separation replicate between lost minor distance``."""
    losses = {name: loss for name, loss in mixture.LOSSES.items() if name != "sample-wise, ordered"}  # much as KL, slow
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        for separation in (4.0, 6.0, 8.0):
            teacher = mixture.teachers(copy.deepcopy(child), separation=separation)
            for name, loss in losses.items():
                student = mixture.fitted(copy.deepcopy(child), teacher.logits, loss)
                rows.append((name, separation, replicate, *mixture.faults(student, teacher)))
    return columns("loss separation replicate between lost minor distance", rows)


def draw_faults(table: Table, first: Axes, second: Axes, third: Axes, fourth: Axes) -> None:
    """Means over replicates against the distance of the modes."""
    labels = {
        "between": "mass between the modes",
        "lost": "share of modes lost",
        "minor": "smaller mode, over the teacher's",
        "distance": "total variation to the own teacher",
    }
    for ax, (fault, label) in zip((first, second, third, fourth), labels.items(), strict=True):
        for name in dict.fromkeys(table["loss"].tolist()):
            chosen = table["loss"] == name
            places = np.unique(table["separation"][chosen])
            means = [table[fault][chosen & (table["separation"] == place)].mean() for place in places]
            ax.plot(places, means, "o-", label=name)
        ax.set(xlabel="distance of the modes, in widths", ylabel=label)
    first.legend(fontsize=7)


def small_transformers(rng: Rng, *, replicates: int) -> Table:
    """Columns ``kind arm replicate score``: accuracy of the encoder, bits a character of the decoder, negative."""
    arms = ("CE", "CE+KD", *models.EXTRAS)
    rows = [
        (kind, arm, replicate, models.score(copy.deepcopy(child), arm=arm, kind=kind))
        for kind in models.TASKS
        for replicate, child in enumerate(rng.spawn(replicates))
        for arm in arms
    ]
    return columns("kind arm replicate score", rows)


def draw_transformers(table: Table, left: Axes, right: Axes) -> None:
    """Replicates as lines, medians as diamonds; higher is better on the left, lower on the right."""
    panels = (left, "encoder", 100, "right vowels, %"), (right, "decoder", -1, "bits a character")
    for ax, kind, sign, label in panels:
        rows = table["kind"] == kind
        arms = list(dict.fromkeys(table["arm"][rows].tolist()))
        values = np.array([sign * table["score"][rows & (table["arm"] == arm)] for arm in arms])
        names = [arm if arm.startswith("CE") else f"+{arm}" for arm in arms]
        ax.plot(names, values, "o-", color="0.75", markersize=3, linewidth=0.7)
        ax.plot(names, np.median(values, axis=1), "D", color="C0")
        ax.set(ylabel=label, title=f"{kind} of one layer")
