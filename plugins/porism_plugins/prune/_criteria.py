"""What pruning papers are compared with: magnitude, movement and plain sensitivity, in the engine's training loop."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from porism_plugins.prune._engine import State


def product(weight: Tensor, gradient: Tensor) -> Tensor:
    """Weight times gradient, in float32 at least: in float16 most of these products are 0."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach().to(dtype) * gradient.detach().to(dtype)


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """The size of a weight (Han et al. 2015; with the cubic schedule Zhu and Gupta 2017)."""

    def update(self, weight: Tensor, gradient: Tensor, state: State, step: int) -> None:
        """Nothing to remember."""

    def score(self, weight: Tensor, state: State) -> Tensor:
        """|w|."""
        return weight.detach().abs()


@dataclasses.dataclass(frozen=True)
class Movement:
    """How far weights have moved away from zero, the running sum of -w dL/dw (Sanh et al. 2020).

    There a straight-through estimate keeps pruned weights at their values; here they start again from zero.
    """

    def update(self, weight: Tensor, gradient: Tensor, state: State, step: int) -> None:
        """Add one step."""
        state["movement"] = state.get("movement", 0) - product(weight, gradient)

    def score(self, weight: Tensor, state: State) -> Tensor:
        """The sum, with its sign."""
        return state["movement"]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """|w dL/dw| on the last batch: to first order, how the loss changes if the weight is removed."""

    def update(self, weight: Tensor, gradient: Tensor, state: State, step: int) -> None:
        """Remember the last batch."""
        state["sensitivity"] = product(weight, gradient).abs_()

    def score(self, weight: Tensor, state: State) -> Tensor:
        """Of the last batch alone."""
        return state["sensitivity"]
