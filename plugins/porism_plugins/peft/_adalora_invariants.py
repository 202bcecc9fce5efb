"""Margins of what is always true of AdaLoRA: its start, its budget, its schedule, its scores, and merging."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from porism.testbeds import mlp
from porism_plugins.peft._adalora_method import adalora
from porism_plugins.peft._budget import RankBudget
from porism_plugins.peft._engine import adapters, merge, unmerge
from porism_plugins.peft._schedule import cubic, keep_largest
from porism_plugins.peft._sensitivity import Layout, State, UpperConfidence
from porism_plugins.peft._svd import SVDLinear, penalty, resize


def adapted(rng: np.random.Generator, width: int, rank: int, target_rank: int = 1) -> tuple[nn.Module, Tensor]:
    """A network of two layers with adapters at their start, and inputs (5, 6)."""
    model = adalora(
        mlp((6, width, 6), rng), rank=min(rank, width, 6), target_rank=target_rank, seed=int(rng.integers(2**31))
    )
    return model, torch.from_numpy(rng.normal(size=(5, 6))).float()


@torch.no_grad()
def shaken(model: nn.Module, rng: np.random.Generator) -> list[SVDLinear]:
    """Give every parameter of the adapters a normal value, as training would; returns the adapted layers."""
    layers = [layer for layer in adapters(model).values() if isinstance(layer, SVDLinear)]
    for layer in layers:
        for parameter in layer.triplets():
            parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    return layers


def start_margin(rng: np.random.Generator, *, width: int, rank: int, start: Literal["zero", "normal"]) -> float:
    """Minus the largest difference of the outputs at the start; half of the smallest float32 step is allowed."""
    model, x = adapted(rng, width, rank)
    with torch.no_grad():
        for layer in adapters(model).values() if start == "normal" else ():
            values = rng.normal(scale=0.02, size=tuple(layer.lora_E.shape))  # type: ignore[operator, arg-type]
            layer.lora_E.copy_(torch.from_numpy(values))  # type: ignore[operator]
        base = nn.Sequential(*(getattr(module, "base", module) for module in model))  # type: ignore[arg-type]
        return 1e-30 - float((model(x) - base(x)).abs().max())


def schedule_margin(initial: int, final: int, warmup: int, between: int, cooldown: int, *, rising: bool) -> float:
    """Half a triplet more than the smallest fall from a step to the next, less what the ends miss."""
    total, ends = warmup + between + cooldown, (final, initial) if rising else (initial, final)
    budgets = [cubic(t, total, warmup=warmup, cooldown=cooldown, initial=ends[0], final=ends[1])
               for t in range(1, total + 1)]  # fmt: skip
    fall = min((a - b for a, b in itertools.pairwise(budgets)), default=0)
    first, last = budgets[max(warmup - 1, 0)], budgets[total - cooldown - 1]
    missed = (abs(first - initial) if warmup else 0) + abs(last - final)
    return 0.5 + min(fall, -missed)


def budget_margin(
    rng: np.random.Generator, *, triplets: int, kept: float, ties: float, rule: Literal["exact", "<="]
) -> float:
    """Half a triplet, less by how many the mask misses its count; a share of scores is zero, as at the start."""
    scores = torch.from_numpy(np.where(rng.uniform(size=triplets) < ties, 0.0, rng.uniform(size=triplets)))
    count = max(1, round(kept * triplets))
    if rule == "exact":
        mask = keep_largest(scores, count)
    else:
        mask = scores > scores.kthvalue(triplets - count).values if count < triplets else torch.ones(triplets) > 0
    return 0.5 - abs(int(mask.sum()) - count)


def trained_budget_margin(
    rng: np.random.Generator, *, width: int, rank: int, total: float, masked: bool, steps: int = 12
) -> float:
    """Half a triplet, less the largest miss of non-zero lambda in a training whose budget falls at every step."""
    model, x = adapted(rng, width, rank)
    layers = [layer for layer in adapters(model).values() if isinstance(layer, SVDLinear)]
    initial = sum(layer.rank for layer in layers)
    budget = RankBudget(
        model, total_steps=steps, budget=max(1, round(total * initial)), warmup=1, cooldown=steps // 3, interval=1
    )
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    missed = 0
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if masked:
            budget.step()
        allowed = budget.triplets(step)
        missed = max(missed, sum(int((layer.lora_E != 0).sum()) for layer in layers) - allowed)
        missed = max(missed, abs(sum(budget.ranks().values()) - allowed))
    return 0.5 - missed


class Mixed(UpperConfidence):
    """A score that adds what scales with the loss to what scales with its square."""

    def score(self, layout: Layout, weights: Tensor, state: State) -> Tensor:
        """I + U^2."""
        return layout.by_triplet(state["importance"] + state["uncertainty"].square())


def scaling_margin(rng: np.random.Generator, *, factor: float, rank: int, kept: float, score: str) -> float:
    """Half a triplet, less those whose mask depends on the units of the loss."""
    model, _ = adapted(rng, 7, rank)
    layers = shaken(model.double(), rng)
    layout, criterion = Layout(layers), Mixed() if score == "I + U^2" else UpperConfidence()
    weights = layout.gather(layout.parameters)
    history = [torch.from_numpy(rng.normal(size=layout.size)) for _ in range(4)]
    masks = []
    for c in (1.0, factor):
        state: State = {}
        for gradients in history:
            criterion.update(weights, c * gradients, state)
        masks.append(keep_largest(criterion.score(layout, weights, state), max(1, round(kept * layout.triplets))))
    return 0.5 - int((masks[0] != masks[1]).sum())


@torch.no_grad()
def merging_margin(rng: np.random.Generator, *, width: int, rank: int, freed: int, divisor: str) -> float:
    """1e-5 less the relative difference of merged and unmerged outputs after some triplets were freed.

    Unmerging must restore the outputs exactly. The control divides by the rank that is left, as a reload would.
    """
    model, x = adapted(rng, width, rank)
    layers = shaken(model, rng)
    for layer in layers:
        kept = torch.arange(min(freed, layer.rank - 1), layer.rank)
        layer.lora_E[: int(kept[0])] = 0
    before = model(x)
    for layer in layers:
        kept = torch.arange(min(freed, layer.rank - 1), layer.rank)
        for parameter, dim in zip(layer.triplets(), (0, 1, 0), strict=True):
            resize(parameter, dim, kept)
        if divisor == "what is left":
            layer.scale *= layer.initial_rank / layer.rank
    alone = model(x)
    merged = merge(model)(x)
    exact = torch.equal(unmerge(model)(x), alone)
    return 1e-5 - float((merged - before).abs().max() / before.abs().max()) - (0.0 if exact else 1.0)


@torch.no_grad()
def penalty_margin(rng: np.random.Generator, *, width: int, rank: int, turned: bool) -> float:
    """1e-4 less how far the penalty is from zero at orthonormal vectors, and how much a rotation of P changes it.

    The control turns triplets by a shear instead of the space by a rotation.
    """
    model, _ = adapted(rng, width, rank)
    layers = shaken(model, rng)

    def value() -> float:
        return float(penalty(model, weight=1.0))

    before = value()
    for layer in layers:
        size = layer.out_features
        turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(size, size))).float()).Q
        layer.lora_B.copy_((turn if turned else turn.triu()) @ layer.lora_B)
    moved = abs(value() - before) / before
    for layer in layers:
        layer.lora_B.copy_(torch.linalg.qr(layer.lora_B).Q)
        layer.lora_A.copy_(torch.linalg.qr(layer.lora_A.T).Q.T)
    return 1e-4 - max(moved, value())


def squared_distance(a: Any, b: Any, x: Any, y: Any, power: int) -> Any:
    """That ||P'P - I||_F^2 is the sum of (sigma^2 - 1)^2 for P with singular values a and b; the truth has power 2."""
    import sympy

    u, v = (sympy.Matrix([[sympy.cos(t), -sympy.sin(t)], [sympy.sin(t), sympy.cos(t)]]) for t in (x, y))
    p = u * sympy.diag(a, b) * v.T
    excess = p.T * p - sympy.eye(2)
    return sympy.Eq(sum(entry**2 for entry in excess), (a**power - 1) ** 2 + (b**power - 1) ** 2)
