"""What MoEBERT's claims and figures measure: digits through two feed-forward networks, and a tiny BERT."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.divergences import kl_divergence_logits
from porism.drawing import columns, plot_by
from porism.figures import Table
from porism.metrics import accuracy
from porism.testbeds import corpus, digits, missing_vowels, mlp, tiny_bert
from porism_plugins.moe._moebert_distil import distil
from porism_plugins.moe._moebert_method import convert
from porism_plugins.moe._moebert_sites import sites
from porism_plugins.moe._moebert_split import importance, magnitude, task_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Order = Literal["importance", "magnitude", "random"]
Arm = Literal["MoEBERT", "random split", "magnitude split", "output only", "no distillation", "dense student", "gate",
              "balanced", "nothing shared"]  # fmt: skip
WIDTHS = (64, 128, 64, 128, 64, 10)
DENSE_STEPS, DENSE_RATE, STEPS, RATE = 200, 1e-3, 100, 2e-3

# What an arm changes about the split, and about training.
_SPLIT: dict[str, dict[str, Any]] = {
    "dense student": {"experts": 1, "shared": 0.0},
    "gate": {"routing": "gate", "balance": 0.01},
    "balanced": {"routing": "balanced"},
    "nothing shared": {"shared": 0.0},
}
_TRAINING: dict[str, dict[str, Any]] = {"output only": {"layerwise": False}, "no distillation": {"weight": 0.0}}
_ORDER: dict[str, Order] = {"random split": "random", "magnitude split": "magnitude"}


class Task(NamedTuple):
    """A trained dense network, batches for importance and training, and what it is judged on."""

    dense: nn.Module
    batches: list[Any]
    inputs: Tensor
    labels: Tensor


def digits_task(rng: np.random.Generator) -> Task:
    """800 digits, a network 64-128-64-128-64-10 trained on them, and 25 batches of 32."""
    data = digits(rng, train=800, validation=0)
    x, y, x_test, y_test = map(torch.from_numpy, (data.x_train, data.y_train, data.x_test, data.y_test))
    dense = mlp(WIDTHS, rng)
    optimizer = torch.optim.Adam(dense.parameters(), lr=DENSE_RATE)
    batches = [(x[rows], y[rows]) for rows in torch.from_numpy(rng.permutation(800)).split(32)]
    for step in range(DENSE_STEPS):
        inputs, labels = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(dense(inputs), labels).backward()
        optimizer.step()
    return Task(dense, batches, x_test, y_test)


def bert_task(rng: np.random.Generator) -> Task:
    """A tiny BERT that guesses hidden vowels (trained once for all replicates), and fresh windows of the text."""
    text = corpus(np.random.default_rng(0))
    gaps, held = missing_vowels(text.train), missing_vowels(text.test)
    dense = tiny_bert(gaps.x, gaps.y)
    rows, tests = rng.permutation(len(gaps.x))[:256], rng.permutation(len(held.x))[:512]
    ids, labels = torch.from_numpy(gaps.x[rows]), torch.from_numpy(gaps.y[rows])
    pairs = zip(ids.split(32), labels.split(32), strict=True)
    batches = [{"input_ids": i, "labels": y} for i, y in pairs]
    return Task(dense, batches, torch.from_numpy(held.x[tests]), torch.from_numpy(held.y[tests]))


def split(task: Task, rng: np.random.Generator, order: Order = "importance", **options: Any) -> nn.Module:
    """The network split by an order of its neurons, before training."""
    found = sites(task.dense)
    if order == "importance":
        score = importance(task.dense, found, task.batches)
    elif order == "magnitude":
        score = {name: magnitude(site) for name, site in found.items()}
    else:
        score = {n: torch.from_numpy(rng.random(site.network.up.out_features)) for n, site in found.items()}
    student = copy.deepcopy(task.dense)
    convert(student, score, task.batches, rng=rng, **options)
    return student


def trained(task: Task, arm: Arm, rng: np.random.Generator, *, steps: int = STEPS) -> nn.Module:
    """The network split and distilled as an arm does it."""
    student = split(task, rng, _ORDER.get(arm, "importance"), **_SPLIT.get(arm, {}))
    if steps:
        options = {"weight": 5.0, "steps": steps, "learning_rate": RATE, "loss": task_loss, **_TRAINING.get(arm, {})}
        distil(student, task.dense, task.batches, sites(task.dense), **options)
    return student


@torch.no_grad()
def logits_of(task: Task, model: nn.Module) -> Tensor:
    """Logits of what the task is judged on."""
    output = model(task.inputs)
    found: Tensor = getattr(output, "logits", output)
    return found


def held_out_accuracy(task: Task, model: nn.Module) -> float:
    """On what was not trained on."""
    return accuracy(logits_of(task, model).argmax(-1), task.labels)


def distance_to_dense(task: Task, model: nn.Module) -> float:
    """KL of the dense network's probabilities from the model's, in nats, on what was not trained on."""
    return float(kl_divergence_logits(logits_of(task, task.dense), logits_of(task, model)).mean())


def accuracies(rng: np.random.Generator, arms: Sequence[Arm], *, steps: int = STEPS) -> list[float]:
    """Accuracy on digits of each arm, from the same dense network, batches and tables."""
    task = digits_task(rng)
    children = [copy.deepcopy(rng) for _ in arms]
    return [
        held_out_accuracy(task, trained(task, arm, child, steps=steps))
        for arm, child in zip(arms, children, strict=True)
    ]


def distances(
    rng: np.random.Generator, orders: Sequence[Order], *, model: Literal["digits", "BERT"], **options: Any
) -> list[float]:
    """Distance to the dense network of each split, before training."""
    task = digits_task(rng) if model == "digits" else bert_task(rng)
    children = [copy.deepcopy(rng) for _ in orders]
    return [
        distance_to_dense(task, split(task, child, order, **options))
        for order, child in zip(orders, children, strict=True)
    ]


def training_table(rng: np.random.Generator, arms: Sequence[Arm], lengths: Sequence[int], *, replicates: int) -> Table:
    """Columns ``arm``, ``steps``, ``replicate``, ``accuracy`` in percent; the dense network stands at 0 steps."""
    rows: list[tuple[Any, ...]] = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        task = digits_task(child)
        rows.append(("dense", 0, replicate, 100 * held_out_accuracy(task, task.dense)))
        for arm in arms:
            for steps in lengths:
                model = trained(task, arm, copy.deepcopy(child), steps=steps)
                rows.append((arm, steps, replicate, 100 * held_out_accuracy(task, model)))
    return columns("arm steps replicate accuracy", rows)


def sharing_table(rng: np.random.Generator, shares: Sequence[float], *, replicates: int) -> Table:
    """Columns ``model``, ``order``, ``shared``, ``replicate``, ``distance`` before training."""
    rows: list[tuple[Any, ...]] = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        for name, task in {"digits": digits_task(child), "BERT": bert_task(child)}.items():
            for order in ("importance", "magnitude", "random"):
                for share in shares:
                    model = split(task, copy.deepcopy(child), order, shared=share)
                    rows.append((name, order, share, replicate, distance_to_dense(task, model)))
    return columns("model order shared replicate distance", rows)


def draw_training(table: Table, axes: Axes) -> None:
    """Means over replicates against the steps of training, the dense network as a line."""
    dense = table["arm"] == "dense"
    axes.axhline(table["accuracy"][dense].mean(), color="0.6", linestyle="--", label="dense, all neurons")
    for arm in dict.fromkeys(table["arm"][~dense].tolist()):
        mine = table["arm"] == arm
        steps = np.unique(table["steps"][mine])
        means = [table["accuracy"][mine & (table["steps"] == s)].mean() for s in steps]
        axes.plot(steps, means, "o-", label=arm, markersize=3)
    axes.set(xlabel="steps of training", ylabel="test accuracy in %", ylim=(0, 100))
    axes.legend(loc="lower right")


def draw_sharing(table: Table, left: Axes, right: Axes) -> None:
    """One panel for each model."""
    for axes, model in zip((left, right), ("digits", "BERT"), strict=True):
        chosen = table["model"] == model
        orders = dict.fromkeys(table["order"].tolist())
        shares = np.unique(table["shared"])
        rows = [
            (order, share, table["distance"][chosen & (table["order"] == order) & (table["shared"] == share)].mean())
            for order in orders
            for share in shares
        ]
        plot_by(axes, columns("order shared distance", rows), "shared", "distance", "order", "o-")
        axes.set(xlabel="share of an expert that all share", title=model)
        axes.set_ylim(bottom=0)
    left.set_ylabel("KL(dense || experts) in nats, untrained")
    right.legend()
