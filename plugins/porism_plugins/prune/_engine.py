"""What pruning papers share: exact masks, the cubic schedule, pruning in a training loop and in one shot.

A paper adds its criterion. In a training loop that is an object with ``update(weight, gradient, state, step)``, called
after every optimiser step, and ``score(weight, state)``, called when a mask is due; ``state`` is a dict of tensors, one
for each matrix. In one shot it is a function ``score(weight, statistic)`` with the statistic of the inputs that
``accumulate`` makes (:func:`porism.surgery.input_statistics`). Large scores stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import input_statistics, linear_layers, matrix
from porism_plugins.prune import _structured as structured_
from porism_plugins.prune._masks import Scope, Unit, apply_masks, check_remaining, line_masks, masks_of

State = dict[str, Tensor]


class Criterion(Protocol):
    """What a paper thinks a weight is worth."""

    def update(self, weight: Tensor, gradient: Tensor, state: State, step: int) -> None:
        """Take in one optimiser step; ``step`` counts from 0, ``state`` is empty at first."""
        ...

    def score(self, weight: Tensor, state: State) -> Tensor:
        """Shape of ``weight``; the largest stay."""
        ...


def cubic(step: int, total_steps: int, *, warmup: int, cooldown: int, remaining: float, initial: float = 1.0) -> float:
    """Share that stays at ``step``: the initial one up to ``warmup``, the final one for the last ``cooldown`` steps.

    Between them the part still to be removed shrinks with the cube of the time left.

    Examples
    --------
    >>> [round(cubic(t, 100, warmup=20, cooldown=40, remaining=0.2), 3) for t in (0, 20, 40, 60, 99)]
    [1.0, 1.0, 0.3, 0.2, 0.2]
    """
    if step <= warmup:
        return initial
    if step >= total_steps - cooldown:
        return remaining
    left = 1 - (step - warmup) / (total_steps - warmup - cooldown)
    return remaining + (initial - remaining) * left**3


def schedule(
    total_steps: int, *, warmup: int | None = None, cooldown: int | None = None, interval: int = 10
) -> tuple[int, int]:
    """Steps before the first mask and with the final share, see :class:`Pruner`, or a :class:`ParameterError`.

    Examples
    --------
    >>> schedule(1000)
    (55, 275)
    """
    warmup = max(2 * interval, round(0.055 * total_steps)) if warmup is None else warmup
    cooldown = round(0.275 * total_steps) if cooldown is None else cooldown
    for name, value, low in (("total_steps", total_steps, 1), ("interval", interval, 1), ("warmup", warmup, 0),
                             ("cooldown", cooldown, 0)):  # fmt: skip
        Parameter(name, int, low, low=low).validate(value)
    if warmup + cooldown >= total_steps:
        raise ParameterError(
            f"warmup and cooldown must be less than total_steps {total_steps} together, got {warmup} + {cooldown}"
        )
    return warmup, cooldown


def trained_layers(
    model: nn.Module, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> dict[str, nn.Module]:
    """Those of :func:`porism.surgery.linear_layers` that gradients reach; a frozen one that is named is an error."""
    found = linear_layers(model, include=include, exclude=exclude)
    layers = {name: layer for name, layer in found.items() if layer.weight.requires_grad}
    if not layers or (list(include) != ["*"] and len(layers) < len(found)):
        frozen = ", ".join(name for name in found if name not in layers)
        raise ParameterError(f"{frozen}: frozen, so that no gradient says what its weights are worth; exclude it")
    return layers


def hold_zeros(model: nn.Module, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()) -> nn.Module:
    """Keep the zeros of a pruned model zero while it is trained further, by :mod:`torch.nn.utils.prune`.

    ``torch.nn.utils.prune.remove(layer, "weight")`` makes a layer ordinary again. Returns the model.
    """
    for layer in linear_layers(model, include=include, exclude=exclude).values():
        weight: Any = layer.weight
        torch.nn.utils.prune.custom_from_mask(layer, "weight", weight != 0)
    return model


class Pruner:
    """Prune while training: ``loss.backward(); optimizer.step(); pruner.step()``, and ``pruner.finish()`` at the end.

    Weights are set to zero in place, so that the model stays an ordinary one; until the end the optimiser may bring a
    weight back. Masks are due every ``interval`` steps of the cubic schedule and at every step of the cooldown.

    Parameters
    ----------
    model
        Its linear layers that are trained are pruned; those that no gradient ever reached are left alone, and are not
        counted.
    criterion
        See :class:`Criterion`.
    remaining
        Share of the weights, or of the groups, that stays, in (0, 1]; at 1 nothing is ever changed.
    total_steps
        Steps of training.
    warmup, cooldown
        Steps before the first mask, and steps with the final share; by default 5.5 % (two intervals at least) and
        27.5 % of all, as for MNLI in the PLATON paper.
    interval
        Steps between masks.
    scope
        Whether matrices compete with one another; ``"row"`` prunes within each row.
    unit
        What competes: single weights, or whole rows or columns by their mean score, over all matrices. These stay
        matrices of the same shape with lines of zeros, see :func:`porism_plugins.prune._masks.line_masks`.
    structured
        Prune whole channels and attention heads, which :meth:`finish` takes out: see ``_structured.py``.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`.

    Raises
    ------
    ParameterError
        For options out of range, for layers that cannot be pruned, and for scores that are not finite.

    Examples
    --------
    >>> from porism_plugins.prune._criteria import Magnitude
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> pruner = Pruner(model, Magnitude(), remaining=0.5, total_steps=40, interval=2)
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(2, 4)).square().sum().backward()
    ...     optimizer.step()
    ...     pruner.step()
    >>> sum(int(torch.count_nonzero(m.weight)) for m in pruner.finish() if isinstance(m, nn.Linear))
    10
    """

    def __init__(
        self, model: nn.Module, criterion: Criterion, *, remaining: float, total_steps: int,
        warmup: int | None = None, cooldown: int | None = None, interval: int = 10, scope: Scope = "global",
        unit: Unit = "weight", structured: bool = False, include: Sequence[str] = ("*",), exclude: Sequence[str] = (),
    ) -> None:  # fmt: skip
        check_remaining(remaining)
        if scope not in ("global", "layer", "row"):
            raise ParameterError(f"scope must be 'global', 'layer' or 'row', got {scope!r}")
        if unit not in ("weight", "row", "column"):
            raise ParameterError(f"unit must be 'weight', 'row' or 'column', got {unit!r}")
        if unit != "weight" and (structured or scope != "global"):
            raise ParameterError(f"unit={unit!r} goes with scope='global' and without structured only")
        self.warmup, self.cooldown = schedule(total_steps, warmup=warmup, cooldown=cooldown, interval=interval)
        self.layers = trained_layers(model, include=include, exclude=exclude)
        self.blocks = structured_.blocks_of(model, self.layers) if structured else []
        self.model, self.criterion, self.remaining, self.total_steps = model, criterion, remaining, total_steps
        self.interval, self.scope, self.unit = interval, scope, unit
        self.steps = 0
        self.state: dict[str, State] = {}

    def share(self, step: int) -> float:
        """The share that stays after ``step``, counted from 0."""
        return cubic(step, self.total_steps, warmup=self.warmup, cooldown=self.cooldown, remaining=self.remaining)

    @torch.no_grad()
    def step(self) -> None:
        """Take in the gradients that stand in the parameters, and mask if it is time to."""
        for name, layer in self.layers.items():
            weight: Any = layer.weight
            if weight.grad is not None:
                self.criterion.update(weight, weight.grad, self.state.setdefault(name, {}), self.steps)
        final = self.steps >= self.total_steps - self.cooldown
        if self.steps > self.warmup and (final or self.steps % self.interval == 0):
            self._mask(self.share(self.steps))
        self.steps += 1

    def finish(self) -> nn.Module:
        """Prune to the final share, whatever the step, and return the model; channels and heads are taken out."""
        groups = self._mask(self.remaining)
        if groups:
            structured_.shrink(self.model, self.blocks, groups)
        return self.model

    def _mask(self, remaining: float) -> dict[str, Tensor]:
        """Set weights to zero; returns the masks of the groups, if pruning is structured."""
        if remaining == 1.0:
            return {}
        scores = {}
        for name, state in self.state.items():
            layer = self.layers[name]
            score = self.criterion.score(layer.weight, state)  # type: ignore[arg-type]
            scores[name] = score if isinstance(layer, nn.Linear) else score.T
        if not scores:
            raise ParameterError("no gradient has reached a layer to prune; call pruner.step() after loss.backward()")
        if not self.blocks:
            whole = self.unit == "weight"
            masks = masks_of(scores, remaining, self.scope) if whole else line_masks(scores, remaining, self.unit)
            apply_masks(self.layers, masks)
            return {}
        groups = structured_.group_masks(self.blocks, scores, remaining)
        apply_masks(self.layers, structured_.weight_masks(self.blocks, self.layers, groups))
        return groups

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on bit for bit, beside the states of the model and the optimiser."""
        return {"steps": self.steps, "state": {name: dict(state) for name, state in self.state.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a saved state; raises ParameterError if it is another model's."""
        for name, state in state_dict["state"].items():
            if name not in self.layers:
                raise ParameterError(f"state_dict has a layer {name!r} that is not pruned here")
            shape = self.layers[name].weight.shape
            for key, value in state.items():
                if value.shape != shape:
                    raise ParameterError(
                        f"state_dict: {key} of {name} has shape {tuple(value.shape)}, not {tuple(shape)}"
                    )
        device = {name: layer.weight.device for name, layer in self.layers.items()}
        self.steps = int(state_dict["steps"])
        self.state = {
            name: {key: value.to(device[name], copy=True) for key, value in state.items()}
            for name, state in state_dict["state"].items()
        }


def prune(
    model: nn.Module, score: Callable[[Tensor, Any], Tensor], *, remaining: float, calibration: Iterable[Any] = (),
    accumulate: Callable[[Tensor | None, Tensor], Tensor] | None = None, scope: Scope = "layer",
    structured: bool = False, inplace: bool = False, include: Sequence[str] = ("*",), exclude: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """Prune in one shot by ``score(weight, statistic)``, weight (outputs, inputs).

    Parameters
    ----------
    model
        Any module with linear layers.
    score
        The largest stay; shape of the weight.
    remaining
        Share that stays, in (0, 1]; at 1 the weights come back as they are.
    calibration, accumulate
        Batches, and how the statistic of a layer's inputs grows with them, if the score needs one.
    scope, structured, include, exclude
        As in :class:`Pruner`.
    inplace
        Change the model itself instead of a copy.

    Examples
    --------
    >>> model = prune(nn.Linear(10, 10), lambda weight, _: weight.abs(), remaining=0.25)
    >>> int(torch.count_nonzero(model.weight))
    25
    """
    check_remaining(remaining)
    model = model if inplace else copy.deepcopy(model)
    layers = linear_layers(model, include=include, exclude=exclude)
    blocks = structured_.blocks_of(model, layers) if structured else []
    statistics = {} if accumulate is None else input_statistics(model, layers, calibration, accumulate)
    if remaining == 1.0:
        return model
    with torch.no_grad():
        scores = {name: score(matrix(layer).detach(), statistics.get(name)) for name, layer in layers.items()}
    if blocks:
        return structured_.shrink(model, blocks, structured_.group_masks(blocks, scores, remaining))
    apply_masks(layers, masks_of(scores, remaining, scope))
    return model
