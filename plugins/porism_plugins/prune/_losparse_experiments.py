"""What LoSparse's claims and figures measure: errors of made-up matrices, and a classifier of digits."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from porism.drawing import columns, log_axes, plot_by
from porism.figures import Table
from porism.metrics import accuracy
from porism.surgery import matrix
from porism.testbeds import digits, mlp
from porism_plugins.prune._engine import State
from porism_plugins.prune._losparse_layer import compact, decompose, factors, rank_of
from porism_plugins.prune._losparse_method import chosen, plan, row_pruner
from porism_plugins.prune._masks import line_masks
from porism_plugins.prune._platon_experiments import Task, batches, run, train
from porism_plugins.prune._upper_confidence import UpperConfidence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arm = Literal["LoSparse", "rows only", "low rank only", "in one go", "row norm"]
WIDTHS, HEAD = (64, 256, 256, 10), "4"
DENSE_STEPS, STEPS = 200, 400
SIDE, RANK, ROWS = 128, 8, 12


class RowNorm:
    """The Euclidean norm of a row of S, by its square."""

    def update(self, weight: Tensor, gradient: Tensor, state: State, step: int) -> None:
        """Only that a gradient has come."""
        state.setdefault("seen", torch.ones(()))

    def score(self, weight: Tensor, state: State) -> Tensor:
        """S squared."""
        return weight.detach().square()


def made_up(
    rng: np.random.Generator, *, rank: int = RANK, rows: int = ROWS, strength: float = 1.0, noise: float = 0.1
) -> Tensor:
    """A product of this rank with entries of variance 1, plus free rows ``strength`` as large, plus noise."""
    low = rng.normal(size=(SIDE, rank)) @ rng.normal(size=(rank, SIDE)) / math.sqrt(max(rank, 1))
    strong = np.zeros((SIDE, SIDE))
    strong[rng.choice(SIDE, rows, replace=False)] = strength * rng.normal(size=(rows, SIDE))
    return torch.from_numpy(low + strong + noise * rng.normal(size=(SIDE, SIDE)))


def error(weight: Tensor, remaining: float, low_rank: float) -> float:
    """Relative Frobenius error of the best factors of a share ``low_rank`` and the residual's largest rows.

    The rank is rounded down where there are no rows, so that nobody has more numbers than ``remaining`` allows.
    """
    rank = rank_of(*weight.shape, low_rank)
    if rank * sum(weight.shape) > remaining * weight.numel():
        rank -= 1
    left = remaining - rank * sum(weight.shape) / weight.numel()
    residual = weight
    if rank:
        U, V = factors(weight, rank)
        residual = weight - U @ V
    mask = line_masks({"": residual.square()}, left + 0.5 / weight.numel())[""]
    return float(residual.masked_fill(mask, 0).norm() / weight.norm())


def errors(weight: Tensor, remaining: float = 0.25) -> dict[str, float]:
    """Of both parts, half each, and of either alone."""
    shares = {"both": remaining / 2, "low rank only": remaining, "rows only": 0.0}
    return {name: error(weight, remaining, share) for name, share in shares.items()}


def alternated(weight: Tensor, remaining: float = 0.25, *, rounds: int = 30) -> float:
    """The error of both parts, half each, when factors and rows are fitted in turn instead of one after the other."""
    rank = rank_of(*weight.shape, remaining / 2)
    sparse, rows = torch.zeros_like(weight), int(remaining / 2 * len(weight))
    for _ in range(rounds):
        U, V = factors(weight - sparse, rank)
        residual = weight - U @ V
        stays = residual.square().sum(1).topk(rows).indices
        sparse = torch.zeros_like(weight).index_copy_(0, stays, residual[stays])
    return float((residual - sparse).norm() / weight.norm())


def digits_task(rng: np.random.Generator, *, steps: int = STEPS) -> Task:
    """800 digits, an MLP 64-256-256-10 trained on them, and the batches of the steps that compress it."""
    data = digits(rng, train=800, validation=0)
    x, y, x_test, y_test = map(torch.from_numpy, (data.x_train, data.y_train, data.x_test, data.y_test))
    dense = mlp(WIDTHS, rng)
    run(train(dense, x, y, batches(rng, len(x), 32, DENSE_STEPS)))
    return Task(dense, x, y, x_test, y_test, batches(rng, len(x), 32, steps))


def compressed(task: Task, arm: Arm, *, remaining: float, low_rank: float) -> nn.Module:
    """The network after training in this way, both hidden layers compressed.

    Low rank alone has its ranks rounded up, and so a little more than the others.
    """
    model, steps, criterion = copy.deepcopy(task.dense), len(task.rows), UpperConfidence(beta2=1.0)
    layers = chosen(model, exclude=[HEAD])
    if arm == "low rank only":
        decompose(model, layers, {n: rank_of(*matrix(m).shape, remaining) for n, m in layers.items()})
        drop_residuals(model, layers)
        run(train(model, task.x, task.y, task.rows))
        return compact(model)
    ranks, share = plan(layers, remaining=remaining, low_rank=0.0 if arm == "rows only" else low_rank)
    decompose(model, layers, ranks)
    timing: dict[str, Any] = {"total_steps": steps, "warmup": steps // 15, "cooldown": 4 * steps // 15}
    if arm == "in one go":  # as soon as a window has said what rows are worth
        timing |= {"warmup": 10, "cooldown": steps - 11}
    pruner = row_pruner(model, RowNorm() if arm == "row norm" else criterion, layers, share, **timing)
    run(train(model, task.x, task.y, task.rows, pruner))
    return compact(model)


@torch.no_grad()
def drop_residuals(model: nn.Module, layers: Iterable[str]) -> None:
    """Set S to zero and freeze it."""
    for name in layers:
        sparse: Any = model.get_submodule(name).sparse
        sparse.weight.zero_().requires_grad_(False)


def held_out_accuracy(task: Task, model: nn.Module) -> float:
    """On the digits that were not trained on."""
    with torch.no_grad():
        return accuracy(model(task.x_test).argmax(-1), task.y_test)


def accuracies(
    rng: np.random.Generator, arms: Sequence[Arm], *, remaining: float = 0.15, low_rank: float = 0.05,
    steps: int = STEPS,
) -> list[float]:  # fmt: skip
    """Test accuracy of each arm, all from the same dense network and batches."""
    task = digits_task(rng, steps=steps)
    return [held_out_accuracy(task, compressed(task, arm, remaining=remaining, low_rank=low_rank)) for arm in arms]


def accuracy_table(
    rng: np.random.Generator, arms: Sequence[Arm], shares: Sequence[float], *, lengths: Sequence[int], replicates: int
) -> Table:
    """Columns ``method``, ``steps``, ``remaining``, ``replicate``, ``accuracy`` in percent; a third is low rank.

    The dense network, trained no further, stands at ``remaining`` 1.
    """
    rows: list[tuple[str, int, float, int, float]] = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        for steps in lengths:
            task = digits_task(copy.deepcopy(child), steps=steps)
            rows.append(("dense", steps, 1.0, replicate, 100 * held_out_accuracy(task, task.dense)))
            for arm in arms:
                for share in shares:
                    model = compressed(task, arm, remaining=share, low_rank=share / 3)
                    rows.append((arm, steps, share, replicate, 100 * held_out_accuracy(task, model)))
    return columns("method steps remaining replicate accuracy", rows)


def draw_accuracies(table: Table, left: Axes, right: Axes) -> None:
    """Means over replicates, with single ones, against the share that stays: short training, and long."""
    for axes, steps in zip((left, right), np.unique(table["steps"]), strict=True):
        here = {name: column[table["steps"] == steps] for name, column in table.items()}
        dense = here["method"] == "dense"
        shares = np.unique(here["remaining"][~dense])
        axes.axhline(here["accuracy"][dense].mean(), color="0.6", linestyle="--", label="dense")
        for number, name in enumerate(dict.fromkeys(here["method"][~dense].tolist())):
            found = np.array([here["accuracy"][(here["method"] == name) & (here["remaining"] == s)] for s in shares])
            axes.plot(shares, found.mean(1), "-", color=f"C{number}", label=name)
            axes.plot(shares, found, ".", color=f"C{number}", markersize=5)
        log_axes(axes, x=tuple(shares.tolist()))
        axes.set(xlabel="share of the weights that stays", title=f"after {steps} steps", ylim=(70, 100))
    left.set_ylabel("test accuracy in %")
    right.legend()


def error_table(rng: np.random.Generator, shares: Sequence[float]) -> Table:
    """Columns ``matrix``, ``parts``, ``remaining`` and ``error``: three kinds of matrix, both parts or either alone."""
    kinds = {
        "rank 8 and 12 free rows": made_up(rng),
        "rows 3 times as large": made_up(rng, strength=3.0),
        "32 free rows": made_up(rng, rank=0, rows=32),
    }
    rows = [(kind, name, share, value) for kind, weight in kinds.items() for share in shares
            for name, value in errors(weight, share).items()]  # fmt: skip
    return columns("matrix parts remaining error", rows)


def draw_errors(table: Table, left: Axes, middle: Axes, right: Axes) -> None:
    """One panel for each kind of matrix."""
    for axes, kind in zip((left, middle, right), dict.fromkeys(table["matrix"].tolist()), strict=True):
        chosen = table["matrix"] == kind
        part = {name: column[chosen] for name, column in table.items()}
        plot_by(axes, {**part, "percent": 100 * part["remaining"]}, "percent", "error", "parts", "o-")
        axes.set(xlabel="numbers kept, %", ylabel="relative error", title=kind, ylim=(0, 1))
    left.legend()
