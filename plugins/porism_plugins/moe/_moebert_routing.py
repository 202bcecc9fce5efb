"""Which expert a token goes to in MoEBERT: tables of token ids, of input patterns where there are no ids, or a gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.surgery import call, evaluating, input_statistics
from porism.testbeds import torch_generator
from porism_plugins.moe._engine import HashRouter, Routing, TokenIds, TopKRouter, balanced_table, random_table
from porism_plugins.moe._moebert_sites import Site

Kind = Literal["hash", "balanced", "gate"]
# Bits of an input's pattern where there are no token ids.
BITS = 8


class RecordingEmbedding(nn.Embedding):
    """A model's token embedding, with the same weight, that notes the ids of the present pass for the routers."""

    def __init__(self, embedding: nn.Embedding, source: TokenIds) -> None:
        super().__init__(
            *embedding.weight.shape, embedding.padding_idx, embedding.max_norm, embedding.norm_type, device="meta"
        )
        self.weight, self.source = embedding.weight, source
        self.train(embedding.training)

    def forward(self, input: Tensor) -> Tensor:
        """Look up ids of shape (...)."""
        self.source.ids = input
        return super().forward(input)


class PatternRouter(HashRouter):
    """Hash routing where there are no token ids: the signs of the input along random directions are its id."""

    directions: Tensor

    def __init__(self, table: Tensor, directions: Tensor) -> None:
        super().__init__(table)
        self.register_buffer("directions", directions)

    def forward(self, x: Tensor, token_ids: Tensor | None = None) -> Routing:
        """Look up the pattern of x of shape (..., d)."""
        return super().forward(x, patterns(x, self.directions))


def patterns(x: Tensor, directions: Tensor) -> Tensor:
    """Signs of x (..., d) along directions (d, bits), as a number from 0 to 2^bits - 1."""
    bits = (x.detach() @ directions.to(x.dtype) > 0).long()
    return (bits << torch.arange(directions.shape[1], device=x.device)).sum(-1)


def token_embedding(model: nn.Module) -> tuple[str, nn.Embedding] | None:
    """A model's embedding of its token ids: what transformers says it is, or its first; None without any."""
    getter = getattr(model, "get_input_embeddings", None)
    chosen = getter() if getter is not None else None
    every = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    return next(((n, m) for n, m in every.items() if chosen is None or m is chosen), None)


def record_ids(model: nn.Module) -> TokenIds | None:
    """Make the token embedding note its ids, in place; None if the model has none."""
    found = token_embedding(model)
    if found is None:
        return None
    name, embedding = found
    if type(embedding) is not nn.Embedding:
        raise ParameterError(f"{name} is a {type(embedding).__name__}, not a plain nn.Embedding; use routing='gate'")
    source = TokenIds()
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, RecordingEmbedding(embedding, source))
    return source


@torch.no_grad()
def frequencies(model: nn.Module, batches: Iterable[Any]) -> np.ndarray:
    """How often each token id stands in the batches, float64 of shape (vocabulary,)."""
    name, embedding = token_embedding(model)
    counts = torch.zeros(embedding.num_embeddings, dtype=torch.int64)

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counts.add_(torch.bincount(inputs[0].reshape(-1).cpu(), minlength=len(counts)))

    handle = model.get_submodule(name).register_forward_pre_hook(count)
    try:
        with evaluating(model):
            for batch in batches:
                call(model, batch[0] if isinstance(batch, tuple | list) else batch)
    finally:
        handle.remove()
    return counts.double().numpy()


def router(
    kind: Kind, site: Site, experts: int, rng: np.random.Generator, *, source: TokenIds | None, shares: np.ndarray,
    balance: float = 0.0,
) -> nn.Module:  # fmt: skip
    """A router of a kind for one network, with a table or weights of its own.

    ``shares`` is how often each token id occurs, or each pattern where there is no ``source`` of ids.
    """
    weight = site.network.up.weight
    if kind == "gate":
        gate = TopKRouter(weight.shape[1], experts, balance=balance, generator=torch_generator(rng))
        return gate.to(weight.device, weight.dtype)
    table = balanced_table(shares, experts, rng) if kind == "balanced" else random_table(len(shares), experts, rng)
    if source is not None:
        return HashRouter(table, source=source).to(weight.device)
    return PatternRouter(table, directions(site)).to(weight.device)


def directions(site: Site) -> Tensor:
    """Random directions for the patterns of a network's inputs, (d, bits), the same for every network of this width."""
    width = site.network.up.in_features
    return torch.from_numpy(np.random.default_rng(width).normal(size=(width, BITS))).float()


@torch.no_grad()
def pattern_frequencies(model: nn.Module, found: Mapping[str, Site], batches: Iterable[Any]) -> dict[str, np.ndarray]:
    """How often each pattern flows into each network, float64 of shape (2^bits,) by name."""
    layers = {name: model.get_submodule(site.up) for name, site in found.items()}

    def count(name: str) -> Callable[[Tensor | None, Tensor], Tensor]:
        def add(before: Tensor | None, rows: Tensor) -> Tensor:
            seen = torch.bincount(patterns(rows.cpu(), directions(found[name])), minlength=2**BITS)
            return seen if before is None else before + seen

        return add

    inputs = [batch[0] if isinstance(batch, tuple | list) else batch for batch in batches]
    counted = {name: input_statistics(model, {name: layer}, inputs, count(name)) for name, layer in layers.items()}
    return {name: counts[name].double().numpy() for name, counts in counted.items()}
