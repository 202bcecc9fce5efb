"""Margins of what is always true of MoEBERT: the deal, exact corners, renamed neurons, one expert a token."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porism.testbeds import mlp, torch_generator
from porism_plugins.moe._engine import Experts, layers
from porism_plugins.moe._moebert_method import convert
from porism_plugins.moe._moebert_sites import sites
from porism_plugins.moe._moebert_split import dealt, importance


def deal_margin(rng: np.random.Generator, *, experts: int, shared: int, own: int, rule: str) -> float:
    """Half, minus how many neurons are not where the rule has them: shared by all, dealt to one, or in the top ranks.

    ``"overlapping"`` gives every expert its own part from the same place in the ranking.
    """
    neurons = shared + experts * own + int(rng.integers(5))
    score = torch.from_numpy(rng.permutation(neurons).astype(float))
    index = dealt(score, experts=experts, inner=shared + own, shared=shared)
    if rule == "overlapping":
        index = torch.cat([index[:, :shared], index[:1, shared:].expand(experts, -1)], 1)
    times = torch.bincount(index.flatten(), minlength=neurons)
    ranked = times[score.argsort(descending=True)]
    top = shared + experts * own
    expected = torch.cat([torch.full((shared,), experts), torch.ones(top - shared), torch.zeros(neurons - top)])
    return 0.5 - float((ranked != expected).sum())


def whole_margin(rng: np.random.Generator, *, width: int, neurons: int, keep: str) -> float:
    """Rounding, minus the largest difference between a network and its split into one expert of all its neurons."""
    model, batches, x = _network(rng, width, neurons)
    share = 1.0 if keep == "all" else 1 - 1 / neurons
    student = _split(model, batches, rng, experts=1, expert_width=share)
    return 1e-12 - _difference(student, model, x)


def routing_margin(rng: np.random.Generator, *, experts: int, neurons: int, shared: float) -> float:
    """Rounding, minus the largest difference between two routings where experts share this much of themselves."""
    model, batches, x = _network(rng, 6, neurons)
    first, second = (
        _split(model, batches, np.random.default_rng(seed), experts=experts, expert_width=0.5 if shared == 1 else 0.2,
               shared=shared)
        for seed in rng.integers(2**32, size=2)
    )  # fmt: skip
    return 1e-12 - _difference(first, second, x)


def renamed_margin(rng: np.random.Generator, *, width: int, neurons: int, order: str) -> float:
    """Rounding, minus the largest difference between splits of a network and of itself with its neurons permuted."""
    model, batches, x = _network(rng, width, neurons)
    renamed: Any = copy.deepcopy(model)
    places = torch.from_numpy(rng.permutation(neurons))
    with torch.no_grad():
        for tensor, axis in ((renamed[0].weight, 0), (renamed[0].bias, 0), (renamed[2].weight, 1)):
            tensor.copy_(tensor.index_select(axis, places))
    seed = int(rng.integers(2**32))
    first, second = (_split(m, batches, np.random.default_rng(seed), order=order) for m in (model, renamed))
    return 1e-10 - _difference(first, second, x)


def one_expert_margin(rng: np.random.Generator, *, experts: int, tokens: int, order: str) -> float:
    """Rounding, minus the largest difference between a layer's rows and each token through its own expert alone.

    ``"sorted"`` leaves rows in the order of their experts.
    """
    generator = torch_generator(rng)
    stacked = Experts(experts, 5, 7, generator=generator).double()
    x = torch.randn(tokens, 5, generator=generator, dtype=torch.float64)
    index = torch.randint(experts, (tokens, 1), generator=generator)
    found = stacked(x, index)
    if order == "sorted":
        found = found[index.flatten().argsort(stable=True)]
    modules = stacked.to_modules()
    alone = torch.stack([modules[int(expert)](row) for row, expert in zip(x, index, strict=True)])
    return 1e-12 - float((found - alone).detach().abs().max())


def _network(rng: np.random.Generator, width: int, neurons: int) -> tuple[nn.Module, list[Any], Tensor]:
    """A network of one hidden layer and a head, three batches with labels, and further inputs, all in float64."""
    model = mlp((width, neurons, width, 3), rng).double()
    model[1], model[3] = nn.GELU(), nn.GELU()  # neurons behind a ReLU that nothing wakes are all worth nothing
    batches = [
        (torch.from_numpy(rng.normal(size=(8, width))), torch.from_numpy(rng.integers(3, size=8))) for _ in range(3)
    ]
    return model, batches, torch.from_numpy(rng.normal(size=(12, width)))


def _split(
    model: nn.Module, batches: list[Any], rng: np.random.Generator, *, order: str = "importance", **options: Any
) -> nn.Module:
    found = sites(model)
    score = importance(model, found, batches)
    if order == "random":
        score = {name: torch.from_numpy(rng.random(len(value))) for name, value in score.items()}
    student = copy.deepcopy(model)
    convert(student, score, batches, rng=rng, **options)
    assert list(layers(student))
    return student


@torch.no_grad()
def _difference(first: nn.Module, second: nn.Module, x: Tensor) -> float:
    return float((first(x) - second(x)).abs().max())
