"""A mixture-of-experts layer as an ordinary module: a router, experts, a capacity, and what the load was.

``MoE(experts, router)`` takes the place of a feed-forward network. Experts are in :mod:`porism_plugins.moe._experts`,
routers in :mod:`porism_plugins.moe._routers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism_plugins.moe._experts import Experts
from porism_plugins.moe._feed_forward import FeedForward, feed_forward
from porism_plugins.moe._routers import (
    HashRouter,
    RandomRouter,
    Routing,
    TokenIds,
    TopKRouter,
    balance_loss,
    balanced_table,
    random_table,
)

__all__ = [
    "Experts",
    "FeedForward",
    "HashRouter",
    "Load",
    "MoE",
    "RandomRouter",
    "Routing",
    "TokenIds",
    "TopKRouter",
    "auxiliary_loss",
    "balance_loss",
    "balanced_table",
    "feed_forward",
    "layers",
    "limited",
    "loads",
    "random_table",
]


class Load(NamedTuple):
    """What experts had to do: ``tokens``, int64 of shape (N,), served by each, and how many choices were ``dropped``.

    Loads of several passes are added with :meth:`plus`.
    """

    tokens: Tensor
    dropped: int = 0

    @property
    def share_dropped(self) -> float:
        """Of all choices, in [0, 1]."""
        choices = int(self.tokens.sum()) + self.dropped
        return self.dropped / choices if choices else 0.0

    @property
    def balance(self) -> float:
        """Mean over largest number of tokens, in [1/N, 1]; 1 is even, and what no token at all counts as."""
        largest = int(self.tokens.max())
        return float(self.tokens.double().mean()) / largest if largest else 1.0

    def plus(self, other: Load) -> Load:
        """Both together."""
        return Load(self.tokens + other.tokens, self.dropped + other.dropped)


class MoE(nn.Module):
    """A mixture of experts: each token goes through the experts that its router chooses.

    Parameters
    ----------
    experts
        N stacked feed-forward networks.
    router
        A module ``router(x, token_ids) -> Routing``.
    capacity_factor
        No expert takes more than this times its even share of the choices, rounded up; those beyond are dropped and add
        nothing, so that with a residual connection the token passes by. None is no limit.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> layer = MoE(Experts(4, 8, 16, generator=generator), TopKRouter(8, 4, k=2, generator=generator))
    >>> layer(torch.ones(2, 5, 8)).shape, int(layer.load.tokens.sum())
    (torch.Size([2, 5, 8]), 20)
    """

    def __init__(self, experts: Experts, router: nn.Module, *, capacity_factor: float | None = None) -> None:
        super().__init__()
        if capacity_factor is not None and not (math.isfinite(capacity_factor) and capacity_factor > 0):
            raise ParameterError(f"capacity_factor must be a number above 0 or None, got {capacity_factor!r}")
        self.experts, self.router, self.capacity_factor = experts, router, capacity_factor
        self.routing: Routing | None = None

    def forward(self, x: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Apply the layer.

        Parameters
        ----------
        x
            Shape (..., d).
        token_ids
            int64 of x's shape without its last axis, for routers that look at them.

        Returns
        -------
        Tensor
            As x in shape and dtype. ``routing`` keeps where tokens went, and the router's loss, until the next pass.
        """
        if x.dim() < 2 or x.shape[-1] != self.experts.width:
            raise ParameterError(f"x must have shape (..., {self.experts.width}), got {tuple(x.shape)}")
        routing = self.router(x, token_ids)
        if self.capacity_factor is not None:
            capacity = math.ceil(self.capacity_factor * routing.index.numel() / self.experts.experts)
            routing = routing._replace(index=limited(routing.index, self.experts.experts, capacity))
        self.routing = routing
        return self.experts(x.reshape(-1, x.shape[-1]), routing.index, routing.scale).reshape(x.shape)

    @property
    def load(self) -> Load:
        """The load of the last pass.

        Raises
        ------
        ParameterError
            If there was none.
        """
        if self.routing is None:
            raise ParameterError("the layer has not been called yet, and has no load")
        counts = torch.bincount(self.routing.index.reshape(-1) + 1, minlength=self.experts.experts + 1)
        return Load(counts[1:], int(counts[0]))

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which start without a last pass."""
        return {**self.__dict__, "routing": None}


def limited(index: Tensor, experts: int, capacity: int) -> Tensor:
    """Choices (T, k) with -1 where an expert has had ``capacity`` before: first choices first, in the order of tokens.

    Examples
    --------
    >>> limited(torch.tensor([[0], [0], [1], [0]]), 2, 2).flatten()
    tensor([ 0,  0,  1, -1])
    """
    flat = index.t().reshape(-1)
    chosen, order = flat.sort(stable=True)
    starts = torch.searchsorted(chosen, torch.arange(experts, device=index.device))
    place = torch.arange(len(flat), device=index.device) - starts[chosen.clamp(min=0)]
    kept = torch.empty_like(flat).index_copy_(0, order, torch.where(place < capacity, chosen, -1))
    return kept.view(index.shape[1], index.shape[0]).t().contiguous()


def layers(model: nn.Module) -> Iterator[tuple[str, MoE]]:
    """The MoE layers of a model by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, MoE))


def loads(model: nn.Module) -> dict[str, Load]:
    """The load of each MoE layer in the last pass, by name."""
    return {name: layer.load for name, layer in layers(model)}


def auxiliary_loss(model: nn.Module) -> Tensor:
    """Sum of the routers' losses in the last pass, to be added to the training loss; 0 where they have none."""
    found = [layer.routing.loss for _, layer in layers(model) if layer.routing and layer.routing.loss is not None]
    place = next((p for p in model.parameters()), torch.zeros(()))
    return torch.stack(found).sum() if found else torch.zeros((), device=place.device)
