"""Stochastic experts: a mixture-of-experts layer whose router is a generator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.testbeds import torch_generator
from porism_plugins.moe._engine import Experts, MoE, Routing

Per = Literal["pass", "sequence", "token"]
# What is drawn at inference, or no draw: the average of all experts, or one of them by its number.
Inference = Per | Literal["average"] | int


class StochasticRouter(nn.Module):
    """Experts drawn uniformly from a generator of the layer's own, whose state is saved with the weights.

    Evaluation mode draws from a second generator, seeded by the first and not saved, so that looking at a model between
    two epochs changes nothing in its training.

    Parameters
    ----------
    experts
        N.
    generator
        Where draws come from, on the CPU; never torch's global one.
    training
        Whether each pass, sequence or token makes a draw in training mode; the paper's code draws once a pass.
    inference
        The same in evaluation mode; or ``"average"`` of all experts, or the number of one.
    batch_axis
        The axis of sequences in the input.

    Examples
    --------
    >>> router = StochasticRouter(4, generator=torch.Generator().manual_seed(0))
    >>> len(router(torch.zeros(5, 3, 8)).index.unique())
    1
    """

    def __init__(
        self,
        experts: int,
        *,
        generator: torch.Generator,
        training: Per = "pass",
        inference: Inference = "sequence",
        batch_axis: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
            raise ParameterError(f"generator must be a torch.Generator on the CPU, got {generator!r}")
        if training not in get_args(Per):
            raise ParameterError(f"training must be one of {', '.join(get_args(Per))}, got {training!r}")
        self.experts, self.batch_axis = experts, batch_axis
        self.seed(generator)
        self.when_training = training
        self.inference = inference

    def seed(self, generator: torch.Generator) -> None:
        """Draw from this generator from now on, and seed that of evaluation mode by it."""
        self.generator, self.evaluation = generator, torch.Generator()
        self.evaluation.manual_seed(int(torch.randint(2**62, (), generator=generator)))

    @property
    def inference(self) -> Inference:
        """What evaluation mode does."""
        return self._inference

    @inference.setter
    def inference(self, mode: Inference) -> None:
        named = (*get_args(Per), "average")
        if mode not in named and (type(mode) is not int or not 0 <= mode < self.experts):
            raise ParameterError(
                f"inference must be one of {', '.join(named)}, or 0 to {self.experts - 1}, got {mode!r}"
            )
        self._inference = mode

    def forward(self, x: Tensor, token_ids: Tensor | None = None) -> Routing:
        """Experts for x of shape (..., d)."""
        mode = self.when_training if self.training else self.inference
        rows = x.shape[:-1]
        if mode == "average":
            index = torch.arange(self.experts, device=x.device).expand(rows.numel(), -1)
            return Routing(index, torch.full(index.shape, 1 / self.experts, dtype=x.dtype, device=x.device))
        if isinstance(mode, int):
            return Routing(torch.full((rows.numel(), 1), mode, device=x.device))
        return Routing(self._draw(mode, rows).expand(rows).reshape(-1, 1).to(x.device))

    def _draw(self, per: Per, rows: torch.Size) -> Tensor:
        if torch._C._current_graph_task_id() != -1:
            raise ParameterError(
                "experts cannot be drawn again in the backward pass; switch gradient checkpointing off"
            )
        shape = list(rows) if per == "token" else [1] * len(rows)
        if per == "sequence":
            shape[self.batch_axis] = rows[self.batch_axis]
        return torch.randint(self.experts, shape, generator=self.generator if self.training else self.evaluation)

    def get_extra_state(self) -> Tensor:
        """The state of the generator for training, so that a resumed run draws what it would have drawn."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from a saved state."""
        self.generator.set_state(state.cpu())

    def extra_repr(self) -> str:
        """Sizes, as printing a model shows them."""
        return f"experts={self.experts}, training={self.when_training!r}, inference={self.inference!r}"


class StochasticExperts(MoE):
    """N feed-forward networks of which one is drawn: for each pass in training, for each sequence at inference.

    Parameters
    ----------
    experts
        N stacked networks, :class:`porism_plugins.moe._engine.Experts`.
    generator, training, inference, batch_axis
        As in :class:`StochasticRouter`.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> layer = StochasticExperts(Experts(4, 8, 16, generator=generator), generator=generator)
    >>> layer(torch.ones(2, 5, 8)).shape, sorted(layer.load.tokens.tolist())
    (torch.Size([2, 5, 8]), [0, 0, 0, 10])
    """

    router: StochasticRouter

    def __init__(
        self,
        experts: Experts,
        *,
        generator: torch.Generator,
        training: Per = "pass",
        inference: Inference = "sequence",
        batch_axis: int = 0,
    ) -> None:
        router = StochasticRouter(
            experts.experts, generator=generator, training=training, inference=inference, batch_axis=batch_axis
        )
        super().__init__(experts, router)


def stochastic_layers(model: nn.Module) -> dict[str, StochasticExperts]:
    """The layers of stochastic experts of a model, by name.

    Raises
    ------
    ParameterError
        If there is none.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, StochasticExperts)}
    if not found:
        raise ParameterError("model has no stochastic experts; convert it by with_stochastic_experts")
    return found


def set_inference(model: nn.Module, mode: Inference) -> None:
    """Choose for all layers what evaluation mode does: a draw per token, sequence or pass, the average, or one expert.

    Raises
    ------
    ParameterError
        If the model has no stochastic experts, or the mode is unknown.
    """
    for layer in stochastic_layers(model).values():
        layer.router.inference = mode


def reseed(model: nn.Module, rng: np.random.Generator) -> None:
    """Begin new draws in all layers, each with a seed of its own."""
    for layer in stochastic_layers(model).values():
        layer.router.seed(torch_generator(rng))


@contextlib.contextmanager
def inferring(model: nn.Module, mode: Inference) -> Iterator[None]:
    """:func:`set_inference` within the block; each layer's own mode is put back after."""
    before = {name: layer.router.inference for name, layer in stochastic_layers(model).items()}
    set_inference(model, mode)
    try:
        yield
    finally:
        for name, layer in stochastic_layers(model).items():
            layer.router.inference = before[name]
