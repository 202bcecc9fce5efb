"""Margins of what is always true of PLATON and of the engine's masks."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porism.testbeds import mlp
from porism_plugins.prune import _platon_experiments as measure
from porism_plugins.prune._engine import Criterion, Pruner, State, cubic
from porism_plugins.prune._masks import Scope, masks_of


def schedule_margin(remaining: float, warmup: int, between: int, cooldown: int, *, rising: bool) -> float:
    """Smallest fall from a step to the next, minus what the ends miss, plus rounding."""
    total, ends = warmup + between + cooldown, (remaining, 1.0) if rising else (1.0, remaining)
    shares = [
        cubic(t, total, warmup=warmup, cooldown=cooldown, initial=ends[0], remaining=ends[1]) for t in range(total)
    ]
    fall = min(a - b for a, b in itertools.pairwise(shares))
    return 1e-12 + min(fall, -abs(shares[warmup] - 1.0), -abs(shares[total - cooldown] - remaining))


def steady_step(s: Any, beta1: Any, beta2: Any, n: Any, power: int) -> Any:
    """The window after n of sensitivity s keeps the closed forms of I and of U; the truth has power 1.

    U is s beta1 (1 - beta2) (beta2^n - beta1^n) / (beta2 - beta1), as its steps are s - I = s beta1^n.
    """
    import sympy

    def bonus(x: Any, y: Any) -> Any:
        return s * beta1**power * (1 - beta2) * (y - x) / (beta2 - beta1)

    x, y = beta1**n, beta2**n
    importance = beta1 * s * (1 - x) + (1 - beta1) * s
    stepped = beta2 * bonus(x, y) + (1 - beta2) * (s - importance)
    return sympy.And(sympy.Eq(importance, s * (1 - beta1 * x)), sympy.Eq(stepped, bonus(beta1 * x, beta2 * y)))


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A bonus that does not scale with the loss as importance does."""

    inner: Any

    def update(self, weight: Tensor, gradient: Tensor, state: State, step: int) -> None:
        """As the inner one."""
        self.inner.update(weight, gradient, state, step)

    def score(self, weight: Tensor, state: State) -> Tensor:
        """I + U^2."""
        return state["importance"] + state["uncertainty"].square()


def scaling_margin(
    rng: np.random.Generator, criterion: Criterion, *, factor: float, rows: int, remaining: float
) -> float:
    """Half a weight, minus the weights whose mask depends on the units of the loss."""
    weights, gradients = _history(rng, rows)
    masks = [_masks(criterion, weights, c * gradients, remaining) for c in (1.0, factor)]
    return 0.5 - int((masks[0] != masks[1]).sum())


def exchange_margin(
    rng: np.random.Generator, criterion: Criterion, *, rows: int, remaining: float, scope: Scope
) -> float:
    """Half a weight, minus the weights whose mask does not follow when all are permuted, matrix borders ignored."""
    weights, gradients = _history(rng, rows)
    order = torch.from_numpy(rng.permutation(weights[0].numel()))

    def permuted(history: Tensor) -> Tensor:
        return history.flatten(1)[:, order].view(history.shape)

    plain = _masks(criterion, weights, gradients, remaining, scope)
    moved = _masks(criterion, permuted(weights), permuted(gradients), remaining, scope)
    return 0.5 - int((permuted(plain[None])[0] != moved).sum())


def _history(rng: np.random.Generator, rows: int, steps: int = 9) -> tuple[Tensor, Tensor]:
    """Weights and gradients of two matrices rows x 7, the second of them smaller, (steps, 2, rows, 7) in float64."""
    scale = np.array([3.0, 0.5])[:, None, None]
    weights, gradients = rng.normal(size=(2, steps, 2, rows, 7)) * scale
    return torch.from_numpy(weights), torch.from_numpy(gradients)


def _masks(
    criterion: Criterion, weights: Tensor, gradients: Tensor, remaining: float, scope: Scope = "global"
) -> Tensor:
    """The masks of both matrices at the end of a history, (2, rows, 7)."""
    scores = {}
    for name in (0, 1):
        state: State = {}
        for step, (weight, gradient) in enumerate(zip(weights[:, name], gradients[:, name], strict=True)):
            criterion.update(weight, gradient, state, step)
        scores[f"{name}"] = criterion.score(weights[-1, name], state)
    return torch.stack(list(masks_of(scores, remaining, scope).values()))


def range_margin(rng: np.random.Generator, criterion: Criterion, *, windows: int, signed: bool) -> float:
    """Distance of I and U from leaving [0, largest sensitivity], in units of the latter, plus rounding.

    With its sign the average of w dL/dw is that of its positive part less that of its negative one.
    """
    products = torch.from_numpy(rng.normal(size=(windows * 3 + 1, 6, 7)))
    averages = _averages(criterion, products.clamp(min=0) if signed else products)
    if signed:
        averages = averages - _averages(criterion, products.clamp(max=0))
    largest = products.abs().max()
    return 1e-12 + float(torch.minimum(averages, largest - averages).min() / largest)


def _averages(criterion: Criterion, products: Tensor) -> Tensor:
    """I and U after a history of w dL/dw."""
    state: State = {}
    for step, values in enumerate(products):
        criterion.update(values, torch.ones_like(values), state, step)
    return torch.stack([state["importance"], state["uncertainty"]])


def _trained(
    rng: np.random.Generator, criterion: Criterion | None, remaining: float, hidden: int
) -> tuple[nn.Module, Any]:
    """A small network after 40 steps on random data, and its pruner."""
    model = mlp((5, hidden, 4), rng)
    x, y = torch.from_numpy(rng.normal(size=(16, 5))).float(), torch.from_numpy(rng.integers(4, size=16))
    pruner = criterion and Pruner(model, criterion, remaining=remaining, total_steps=40, warmup=20, cooldown=9)
    measure.run(measure.train(model, x, y, measure.batches(rng, 16, 8, 40), pruner))
    return model, pruner


def budget_margin(
    rng: np.random.Generator, criterion: Criterion, remaining: float, hidden: int, *, released: bool
) -> float:
    """Half a weight, minus how many zeros there are too few, or too many."""
    _, pruner = _trained(rng, criterion, 1.0 if released else remaining, hidden)
    total = sum(layer.weight.numel() for layer in pruner.layers.values())
    asked = int(np.floor(round(total * (1 - remaining), 9)))
    if released:
        _released_mask(pruner, asked)
    zeros = sum(int((layer.weight == 0).sum()) for layer in pruner.layers.values())
    return 0.5 - abs(zeros - asked)


@torch.no_grad()
def _released_mask(pruner: Pruner, pruned: int) -> None:
    """What is strictly below the threshold goes."""
    scores = {n: pruner.criterion.score(layer.weight, pruner.state[n]) for n, layer in pruner.layers.items()}  # type: ignore[arg-type]
    if pruned:
        threshold = torch.cat([score.flatten() for score in scores.values()]).kthvalue(pruned).values
        for name, score in scores.items():
            pruner.layers[name].weight.masked_fill_(score < threshold, 0)  # type: ignore[operator]


def drift(rng: np.random.Generator, criterion: Criterion, remaining: float, hidden: int) -> float:
    """Largest difference between the weights of training with a pruner and without."""
    pruned, plain = (_trained(copy.deepcopy(rng), c, remaining, hidden)[0] for c in (criterion, None))
    differences = [(a - b).detach().abs().max() for a, b in zip(pruned.parameters(), plain.parameters(), strict=True)]
    return float(torch.stack(differences).max())
