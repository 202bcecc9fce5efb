"""A budget of ranks over a whole model: what each singular triplet is worth, the cubic schedule, masks, freed memory.

A paper that allocates ranks feeds :class:`RankBudget` with its criterion: an object with ``update(weights, gradients,
state)``, called after every optimiser step, and ``score(layout, weights, state)``, called when a mask is due.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism_plugins.peft._engine import adapters
from porism_plugins.peft._schedule import cubic, keep_largest
from porism_plugins.peft._sensitivity import Layout, State, UpperConfidence
from porism_plugins.peft._svd import SVDLinear, resize

# Which dimension of lora_A, lora_B and lora_E counts triplets.
_DIMS = (0, 1, 0)


class Criterion(Protocol):
    """What a paper thinks a triplet is worth."""

    def update(self, weights: Tensor, gradients: Tensor, state: State) -> None:
        """Take in one step: every entry of all adapters as one vector, of a layout; ``state`` is empty at first."""
        ...

    def score(self, layout: Layout, weights: Tensor, state: State) -> Tensor:
        """One number for each triplet, layer by layer; the largest stay."""
        ...


class RankBudget:
    """Take triplets away while training, globally: ``loss.backward(); optimizer.step(); budget.step()``.

    Parameters
    ----------
    model
        With :class:`SVDLinear` layers, as ``adalora`` makes it.
    total_steps
        Optimiser steps of the training, T.
    budget
        Triplets at the end over all layers, at least 1; by default the sum of the layers' ``target_rank``.
    warmup, cooldown
        Steps before the first mask, t_i, and steps with the final triplets, t_f; by default a tenth and half of all.
    interval
        Steps between masks while the budget falls.
    criterion
        See :class:`Criterion`; by default the paper's.

    Attributes
    ----------
    steps
        Taken so far.
    skipped
        Steps whose gradients were not finite, as a ``GradScaler`` meets them; the scores leave these out.

    Raises
    ------
    ParameterError
        For options out of range; in a step without gradients, in one with merged layers, and at a mask when parameters
        are not finite.

    Examples
    --------
    >>> from porism_plugins.peft.adalora import adalora
    >>> model = adalora(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), rank=4, target_rank=2)
    >>> optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    >>> budget = RankBudget(model, total_steps=40)
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(2, 8)).square().sum().backward()
    ...     optimizer.step()
    ...     budget.step()
    >>> sum(budget.ranks().values())
    4
    """

    def __init__(
        self, model: nn.Module, *, total_steps: int, budget: int | None = None, warmup: int | None = None,
        cooldown: int | None = None, interval: int = 10, criterion: Criterion | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.layers = {name: layer for name, layer in adapters(model).items() if isinstance(layer, SVDLinear)}
        if not self.layers:
            raise ParameterError("model has no layers whose rank can change; make it with adalora")
        self.initial = sum(layer.initial_rank for layer in self.layers.values())
        self.final = sum(layer.target_rank for layer in self.layers.values()) if budget is None else budget
        Parameter("budget", int, 1, low=1, high=self.initial).validate(self.final)
        warmup = total_steps // 10 if warmup is None else warmup
        cooldown = total_steps // 2 if cooldown is None else cooldown
        for name, value, low in (("total_steps", total_steps, 1), ("interval", interval, 1), ("warmup", warmup, 0),
                                 ("cooldown", cooldown, 0)):  # fmt: skip
            Parameter(name, int, low, low=low).validate(value)
        if warmup + cooldown >= total_steps:
            raise ParameterError(
                f"warmup and cooldown must be less than total_steps {total_steps} together, got {warmup} + {cooldown}"
            )
        self.total_steps, self.warmup, self.cooldown, self.interval = total_steps, warmup, cooldown, interval
        self.criterion: Criterion = UpperConfidence() if criterion is None else criterion
        self.steps = self.skipped = 0
        self.state: State = {}
        self.layout = Layout(list(self.layers.values()))
        self.kept = {name: torch.ones(layer.rank, dtype=torch.bool) for name, layer in self.layers.items()}

    def triplets(self, step: int) -> int:
        """How many stay after ``step``, counted from 1."""
        return cubic(step, self.total_steps, warmup=self.warmup, cooldown=self.cooldown, initial=self.initial,
                     final=self.final)  # fmt: skip

    def ranks(self) -> dict[str, int]:
        """Triplets that the last mask left to each layer."""
        return {name: int(kept.sum()) for name, kept in self.kept.items()}

    @property
    def settled(self) -> bool:
        """Whether the kept triplets are the final ones."""
        return self.steps >= self.total_steps - self.cooldown

    @torch.no_grad()
    def step(self) -> None:
        """Take in the gradients that stand in the parameters, and mask if it is time to."""
        if self.settled:
            self.steps += 1
            self._mask()
            return
        self._take_in()
        self.steps += 1
        if self.settled or (self.steps > self.warmup and self.steps % self.interval == 0):
            self._choose(self.triplets(self.steps))

    def finish(self, optimizer: torch.optim.Optimizer | None = None) -> nn.Module:
        """Free what the final budget leaves out, whatever the step, and return the model.

        Parameters stay the same objects with fewer triplets, so an optimiser goes on with them; give it, so that its
        state for them shrinks along.

        Raises
        ------
        ParameterError
            If the optimiser's state for a parameter has another shape and cannot be cut. Nothing is changed then.
        """
        if not self.settled:
            self._choose(self.final)
            self.steps = self.total_steps - self.cooldown
        state: Mapping[Any, Any] = {} if optimizer is None else optimizer.state
        sizes = {parameter: parameter.shape for layer in self.layers.values() for parameter in layer.triplets()}
        for parameter, shape in sizes.items():
            for key, value in state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.dim() and value.shape != shape:
                    raise ParameterError(
                        f"optimizer: its {key} has shape {tuple(value.shape)} for a parameter of shape {tuple(shape)}, "
                        "and cannot be cut; call finish() without it and make a new optimiser"
                    )
        for name, layer in self.layers.items():
            if not bool(self.kept[name].all()):
                _cut(layer, self.kept[name].nonzero().flatten(), state)
                self.kept[name] = torch.ones(layer.rank, dtype=torch.bool)
        self.state, self.layout = {}, Layout(list(self.layers.values()))
        return self.model

    def _take_in(self) -> None:
        if any(layer.merged for layer in self.layers.values()):
            raise ParameterError(
                "layers are merged, so that no gradient reaches their adapters; unmerge(model) to train"
            )
        parameters = self.layout.parameters
        found = [parameter.grad for parameter in parameters]
        if all(gradient is None for gradient in found):
            raise ParameterError("no adapter has a gradient; call step() after loss.backward() and before zero_grad()")
        gradients = self.layout.gather(
            [
                torch.zeros_like(p) if gradient is None else gradient
                for p, gradient in zip(parameters, found, strict=True)
            ]
        )
        if bool(gradients.sum().isfinite()):
            self.criterion.update(self.layout.gather(parameters), gradients, self.state)
        else:
            self.skipped += 1

    def _choose(self, count: int) -> None:
        """Keep the ``count`` triplets of the largest scores, and mask the rest."""
        kept = torch.ones(self.initial, dtype=torch.bool)
        if count < self.initial:
            weights = self.layout.gather(self.layout.parameters)
            if not bool(weights.sum().isfinite()):
                raise ParameterError(f"adapters are not finite at step {self.steps}: the training has diverged")
            if self.steps == self.skipped:
                raise ParameterError("there are no scores yet; call step() after loss.backward()")
            kept = keep_largest(self.criterion.score(self.layout, weights, self.state), count).cpu()
        ranks = [layer.rank for layer in self.layers.values()]
        self.kept = dict(zip(self.layers, kept.split(ranks), strict=True))
        self._mask()

    @torch.no_grad()
    def _mask(self) -> None:
        for name, layer in self.layers.items():
            kept = self.kept[name]
            if not bool(kept.all()):
                layer.lora_E.masked_fill_(~kept.to(layer.lora_E.device)[:, None], 0)

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on bit for bit, beside the states of the model and the optimiser."""
        return {
            "steps": self.steps, "skipped": self.skipped, "kept": dict(self.kept), "state": dict(self.state),
        }  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a saved state, after the model's; raises ParameterError if it is another model's."""
        ranks = {name: layer.rank for name, layer in self.layers.items()}
        saved = {name: len(kept) for name, kept in state_dict["kept"].items()}
        if saved != ranks:
            raise ParameterError(f"state_dict has layers with ranks {saved}, the model {ranks}")
        for key, value in state_dict["state"].items():
            if value.shape != (self.layout.size,):
                raise ParameterError(
                    f"state_dict: {key} has {value.numel():,} entries, the adapters of the model {self.layout.size:,}"
                )
        self.steps, self.skipped = int(state_dict["steps"]), int(state_dict["skipped"])
        self.kept = {name: kept.to("cpu", copy=True) for name, kept in state_dict["kept"].items()}
        self.state = {key: value.to(self.layout.device, copy=True) for key, value in state_dict["state"].items()}


def _cut(layer: SVDLinear, kept: Tensor, state: Mapping[Any, Any]) -> None:
    """Shrink a layer's parameters to these triplets, and an optimiser's state for them."""
    for parameter, dim in zip(layer.triplets(), _DIMS, strict=True):
        for key, value in state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim():
                state[parameter][key] = value.index_select(dim, kept.to(value.device)).contiguous()
        resize(parameter, dim, kept)
