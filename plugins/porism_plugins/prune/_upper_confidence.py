"""PLATON's criterion, which LoSparse and AdaLoRA share: importance times its uncertainty, as running averages.

The importance of a weight on a batch is |w dL/dw|, of the weight after the optimiser's step and the gradient before it.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from porism.parameters import Parameter
from porism_plugins.prune._criteria import product
from porism_plugins.prune._engine import State


@dataclasses.dataclass(frozen=True)
class UpperConfidence:
    """PLATON's criterion for :class:`porism_plugins.prune._engine.Pruner`, which should have the same ``interval``.

    Parameters
    ----------
    beta1, beta2
        Of the running averages of importance and uncertainty, in [0, 1); at ``beta2 = 1`` the importance alone ranks.
    interval
        Steps over which the importance is averaged before it enters.

    Notes
    -----
    Three numbers a weight, in float32 at least. All start at 0, without correction, so nothing is known until two
    windows have closed.
    """

    beta1: float = 0.85
    beta2: float = 0.95
    interval: int = 10

    def __post_init__(self) -> None:
        Parameter("beta1", float, 0.85, low=0.0, high=1.0, high_open=True).validate(self.beta1)
        Parameter("beta2", float, 0.95, low=0.0, high=1.0).validate(self.beta2)
        Parameter("interval", int, 10, low=1).validate(self.interval)

    def update(self, weight: Tensor, gradient: Tensor, state: State, step: int) -> None:
        """Average |w dL/dw| over a window, and at its end I and U = |window - I| over windows."""
        sensitivity = product(weight, gradient).abs_()
        if not state:
            state.update({key: torch.zeros_like(sensitivity) for key in ("window", "importance", "uncertainty")})
        place = step % self.interval
        if place:
            state["window"].lerp_(sensitivity, 1 / (place + 1))
            return
        importance, window = state["importance"], state["window"]
        importance.lerp_(window, 1 - self.beta1)
        state["uncertainty"].lerp_(window.sub_(importance).abs_(), 1 - self.beta2)
        state["window"] = sensitivity

    def score(self, weight: Tensor, state: State) -> Tensor:
        """I times U."""
        return state["importance"] if self.beta2 == 1 else state["importance"] * state["uncertainty"]
