"""Margins of what is always true of LoSparse: its start, its masks, its budget, its compact layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porism.testbeds import mlp
from porism_plugins.prune._losparse_layer import (
    DecomposedLinear,
    LowRankSparseLinear,
    Structure,
    compact,
    decompose,
    factors,
)
from porism_plugins.prune._losparse_method import chosen, plan, row_pruner
from porism_plugins.prune._masks import line_masks, masks_of
from porism_plugins.prune._platon_experiments import batches, run, train
from porism_plugins.prune._upper_confidence import UpperConfidence


def gaussian(rng: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.from_numpy(rng.normal(size=shape))


def start_margin(rng: np.random.Generator, *, rows: int, inputs: int, rank: int, residual: str) -> float:
    """Rounding, minus the largest difference between a layer and its decomposition on five inputs.

    With ``residual`` of ``"the dense layer"`` S is W itself, so that the factors count twice.
    """
    layer = mlp((inputs, rows), rng)[0].double()
    split = DecomposedLinear(layer, min(rank, rows, inputs))
    if residual == "the dense layer":
        split.sparse.weight.data.copy_(layer.weight)
    x = gaussian(rng, 5, inputs)
    return 1e-12 - float((split(x) - layer(x)).detach().abs().max())


def tail_margin(rng: np.random.Generator, *, rows: int, inputs: int, rank: int, fit: str) -> float:
    """Rounding, minus the relative difference of ||S||^2 from the singular values beyond the rank."""
    weight = gaussian(rng, rows, inputs)
    rank = min(rank, rows, inputs)
    U, V = factors(weight, rank) if fit == "svd" else (gaussian(rng, rows, rank), gaussian(rng, rank, inputs))
    tail = torch.linalg.svdvals(weight)[rank:].square().sum()
    return 1e-12 - float(((weight - U @ V).square().sum() - tail).abs() / weight.square().sum())


def line_margin(rng: np.random.Generator, *, rows: int, inputs: int, remaining: float, unit: str) -> float:
    """Half a row, minus how many rows of a mask over two matrices are neither whole nor empty."""
    scores = _scores(rng, rows, inputs)
    masks = (line_masks(scores, remaining) if unit == "row" else masks_of(scores, remaining)).values()
    return 0.5 - sum(int((mask.any(1) != mask.all(1)).sum()) for mask in masks)


def mask_budget_margin(rng: np.random.Generator, *, rows: int, inputs: int, remaining: float, rule: str) -> float:
    """How far what is kept is within (budget - longest row, budget], in rows; by the released rule it is above."""
    scores = _scores(rng, rows, inputs)
    total, longest = sum(score.numel() for score in scores.values()), max(inputs, 7)
    budget = int(np.floor(round(remaining * total, 9)))
    kept = sum(int(mask.sum()) for mask in line_masks(scores, remaining).values())
    if rule == "<":
        flat = torch.cat([score.mean(1, keepdim=True).expand_as(score).flatten() for score in scores.values()])
        below = total - budget
        kept = int((flat >= flat.kthvalue(below).values).sum()) if below else total
    return min(budget - kept + 0.5, kept - (budget - longest) - 0.5) / longest


def _scores(rng: np.random.Generator, rows: int, inputs: int) -> dict[str, Tensor]:
    """Of a matrix rows x inputs and of one 5 x 7."""
    return {"wide": gaussian(rng, rows, inputs).abs(), "other": gaussian(rng, 5, 7).abs()}


def fan_in_margin(rng: np.random.Generator, *, rows: int, inputs: int, copies: int, how: str) -> float:
    """Half a row, minus the rows whose mask changes when a matrix has each of its inputs ``copies`` times.

    The budget is that of the same rows in both cases. With ``how`` of ``"sum"`` the longer rows are worth more.
    """

    def kept(scores: dict[str, Tensor], budget: int) -> dict[str, Tensor]:
        worth = {name: score * (score.shape[1] if how == "sum" else 1) for name, score in scores.items()}
        masks = line_masks(worth, (budget + 0.5) / sum(score.numel() for score in scores.values()))
        return {name: mask[:, 0] for name, mask in masks.items()}

    scores = {"wide": gaussian(rng, rows, inputs).abs(), "other": gaussian(rng, rows, inputs).abs()}
    before = kept(scores, rows * inputs)
    copied = {**scores, "wide": scores["wide"].repeat(1, copies)}
    after = kept(copied, sum(int(before[name].sum()) * score.shape[1] for name, score in copied.items()))
    return 0.5 - sum(int((before[name] != after[name]).sum()) for name in before)


def permutation_margin(rng: np.random.Generator, *, rows: int, inputs: int, remaining: float, how: str) -> float:
    """Half a weight, minus those whose mask does not follow when the outputs of a matrix are permuted."""
    scores = _scores(rng, rows, inputs)
    order = torch.from_numpy(rng.permutation(rows))
    moved = {**scores, "wide": scores["wide"][order]}
    if how == "position":
        ramp = torch.arange(rows, dtype=torch.float64)[:, None]
        scores, moved = ({**each, "wide": each["wide"] + ramp} for each in (scores, moved))
    plain, after = (line_masks(each, remaining)["wide"] for each in (scores, moved))
    return 0.5 - int((plain[order] != after).sum())


def compact_margin(
    rng: np.random.Generator, *, rows: int, inputs: int, rank: int, structure: Structure, alive: str
) -> float:
    """Rounding, minus the largest difference between masked layers and compact ones; one kept row sums to zero.

    With ``alive`` of ``"sum"`` rows are looked for by their sum, as in the released code.
    """
    model = nn.Sequential(mlp((inputs, rows), rng)[0].double())
    decompose(model, ["0"], {"0": rank})
    sparse: Any = model[0].sparse.weight.data
    lines = sparse if structure == "row" else sparse.T
    lines[rng.random(len(lines)) < 0.6] = 0
    lines[0] = 0
    lines[0, :2] = torch.tensor([1.0, -1.0])
    x = gaussian(rng, 2, 3, inputs)
    expected = model(x)
    if alive == "sum":
        lines[lines.sum(1) == 0] = 0
    return 1e-12 - float((compact(model, structure)(x) - expected).detach().abs().max())


def trained_margin(rng: np.random.Generator, *, hidden: int, remaining: float, low_rank: float, rule: str) -> float:
    """How far the numbers kept by a network after 40 steps are within (budget - longest row, budget], in rows.

    With ``rule`` of ``"rank for free"`` the budget pays for rows alone.
    """
    model = mlp((12, hidden, hidden, 3), rng).double()
    x, y = gaussian(rng, 16, 12), torch.from_numpy(rng.integers(3, size=16))
    layers = chosen(model, exclude=["4"])
    total = sum(layer.weight.numel() for layer in layers.values())
    ranks, share = plan(layers, remaining=remaining, low_rank=low_rank)
    spent = sum(rank * sum(layers[name].weight.shape) for name, rank in ranks.items())
    decompose(model, layers, ranks)
    pruner = row_pruner(model, UpperConfidence(beta2=1.0, interval=5), layers,
                        share if rule == "whole" else min(1.0, remaining + 0.5 / total), total_steps=40)  # fmt: skip
    run(train(model, x, y, batches(rng, 16, 8, 40), pruner))
    kept = spent + sum(int((model.get_submodule(name).sparse.weight != 0).any(1).sum()) * layer.weight.shape[1]
                       for name, layer in layers.items())  # fmt: skip
    budget, longest = int(np.floor(round(remaining * total, 9))), max(12, hidden)
    return min(budget - kept + 0.5, kept - (budget - longest) - 0.5) / longest


def counted(model: nn.Module) -> int:
    """Numbers in compact layers, and in those that are ordinary after all."""
    return sum(m.kept_weights if isinstance(m, LowRankSparseLinear) else m.weight.numel()
               for m in model.modules() if isinstance(m, LowRankSparseLinear | nn.Linear))  # fmt: skip
