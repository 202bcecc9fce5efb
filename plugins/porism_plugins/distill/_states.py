"""Terms of a distillation that read layers: hidden states through filters, and attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism_plugins.distill import _layers
from porism_plugins.distill._layers import Layer
from porism_plugins.distill._signals import Batch, Pair, Seen, Signal, Weight, check_mask, flat_rows, shapes, teacher_of

# One module for every pair, one for each, "linear" for a new projection; None: a projection where widths differ.
Filter = nn.Module | Sequence[nn.Module] | str | None


@dataclasses.dataclass(frozen=True, eq=False)
class States:
    """Hidden states: the mean squared error between filtered outputs of layers, averaged over the pairs.

    Parameters
    ----------
    student_layers, teacher_layers
        As many of one as of the other: names of modules, or numbers of a transformers model's blocks from 1 on
        (negative from the end). See :func:`match_layers`.
    student_filter
        Applied to the student's states, and trained with it: one module for all pairs, or one for each. ``"linear"``
        makes a linear map to the teacher's width for each; None does so only where widths differ.
    teacher_filter
        Applied to the teacher's, never trained: None (nothing), one module, or one for each.
    weight
        A number that is not negative, or a function of the progress.
    mask
        Entry of the batch, shape (B, T), that is 0 at padding, which then does not count in states (B, T, width).
        A batch without it counts everything, as does None.
    name
        Of the part.
    """

    student_layers: Sequence[Layer]
    teacher_layers: Sequence[Layer]
    student_filter: Filter = None
    teacher_filter: nn.Module | Sequence[nn.Module] | None = None
    weight: Weight = 1.0
    mask: str | None = "attention_mask"
    name: str = "states"

    def bind(self, pair: Pair) -> Signal:
        """Look up the layers and make projections; needs a teacher."""
        student, teacher = _paired(self, pair, _layers.layer_names)
        targets = _filters(self.teacher_filter, len(teacher), "teacher_filter")
        filters = _filters(self.student_filter, len(student), "student_filter")
        if self.student_filter is None or self.student_filter == "linear":
            filters = _projections(pair, student, teacher, targets, always=self.student_filter == "linear")
        return _States(student, teacher, filters, targets, self.mask)


class _States(Signal):
    def __init__(self, student: Sequence[str], teacher: Sequence[str], filters: list[nn.Module],
                 targets: list[nn.Module], mask: str | None) -> None:  # fmt: skip
        super().__init__(student, teacher, companions=targets)
        self.filters, self.targets, self.mask = nn.ModuleList(filters), targets, mask

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        mask = batch.get(self.mask) if self.mask else None
        values = []
        for ours, theirs, student_filter, teacher_filter in zip(
            self.student_modules, self.teacher_modules, self.filters, self.targets, strict=True
        ):
            state = _filtered(student_filter, _layers.state_of(student.layers[ours], ours))
            with torch.no_grad():
                target = _filtered(teacher_filter, _layers.state_of(teacher.layers[theirs], theirs))
            if state.shape[-1] != target.shape[-1]:
                raise ParameterError(
                    f"{ours} of the student is {state.shape[-1]} wide and {theirs} of the teacher {target.shape[-1]}; "
                    "give States(student_filter=...), or Distillation(example=a batch) to have projections made"
                )
            if state.shape != target.shape:
                raise ParameterError(f"{ours} and {theirs} differ in shape: {shapes(state, target)}")
            values.append(mean_squared_error(state, target, mask, name=self.mask or "mask"))
        return torch.stack(values).mean()


@dataclasses.dataclass(frozen=True, eq=False)
class Attentions:
    """Attention probabilities: the mean squared error between maps (B, heads, T, T), averaged over the pairs.

    Models must run with ``attn_implementation="eager"``, as others do not keep the probabilities. Where the numbers of
    heads differ, both are averaged over their heads.

    Parameters
    ----------
    student_layers, teacher_layers
        Numbers of blocks, or names of attention modules, which return a tuple with the probabilities second.
    weight, mask, name
        As of :class:`States`; a padded query does not count. A padded key has probability 0 in both.
    distance
        ``distance(student_maps, teacher_maps) -> scalar`` on rows of probabilities (N, T), in place of that mean.
    """

    student_layers: Sequence[Layer]
    teacher_layers: Sequence[Layer]
    weight: Weight = 1.0
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    mask: str | None = "attention_mask"
    name: str = "attentions"

    def bind(self, pair: Pair) -> Signal:
        """Look up the layers; needs a teacher."""
        return _Attentions(self, *_paired(self, pair, _layers.attention_names))


class _Attentions(Signal):
    def __init__(self, term: Attentions, student: Sequence[str], teacher: Sequence[str]) -> None:
        super().__init__(student, teacher)
        self.distance, self.mask = term.distance or F.mse_loss, term.mask

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        mask, values = batch.get(self.mask) if self.mask else None, []
        for ours, theirs in zip(self.student_modules, self.teacher_modules, strict=True):
            maps = _layers.attention_of(student.layers[ours], ours)
            target = _layers.attention_of(teacher.layers[theirs], theirs).detach()
            if maps.shape[1] != target.shape[1]:
                maps, target = maps.mean(1, keepdim=True), target.mean(1, keepdim=True)
            if maps.shape != target.shape:
                raise ParameterError(f"{ours} and {theirs} differ in shape: {shapes(maps, target)}")
            dtype = torch.promote_types(torch.promote_types(maps.dtype, target.dtype), torch.float32)
            kept = None
            if mask is not None:
                check_mask(mask, (maps.shape[0], maps.shape[2]), self.mask)
                kept = mask.bool()[:, None].expand(maps.shape[:3])
            maps, target = flat_rows(kept, maps.to(dtype), target.to(maps.device, dtype))
            values.append(self.distance(maps, target) if len(maps) else maps.sum())
        return torch.stack(values).mean()


def mean_squared_error(states: Tensor, targets: Tensor, mask: Tensor | None = None, *, name: str = "mask") -> Tensor:
    """Mean of squared differences over entries whose position is not masked, in float32 or wider; 0 of nothing.

    Parameters
    ----------
    states, targets
        One shape, (B, T, width) where a mask is to apply; targets are moved to the device of the states.
    mask
        Shape (B, T), 0 at padding; what stands there, NaN even, neither counts nor has a gradient. None: all count.
    name
        Of the mask, for errors.

    Raises
    ------
    ParameterError
        If the mask has another shape.

    Examples
    --------
    >>> mean_squared_error(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), torch.tensor([[1, 0]]))
    tensor(1.)
    """
    dtype = torch.promote_types(torch.promote_types(states.dtype, targets.dtype), torch.float32)
    states, targets = states.to(dtype), targets.to(states.device, dtype)
    if mask is None or states.dim() < 3:
        return F.mse_loss(states, targets)
    check_mask(mask, states.shape[:2], name)
    states, targets = flat_rows(mask.bool(), states.flatten(2), targets.flatten(2))
    return F.mse_loss(states, targets) if len(states) else states.sum()


def projection(inputs: int, outputs: int, generator: torch.Generator, *, like: nn.Module | None = None) -> nn.Linear:
    """A linear layer drawn as :class:`torch.nn.Linear` draws it, from a generator on the CPU.

    Parameters
    ----------
    inputs, outputs
        Widths.
    like
        Its first floating parameter's dtype and device are taken.

    Examples
    --------
    >>> projection(3, 2, torch.Generator().manual_seed(0)).weight.shape
    torch.Size([2, 3])
    """
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")  # no draw from the global generator
    for weights in layer.parameters():
        nn.init.uniform_(weights, -(inputs**-0.5), inputs**-0.5, generator=generator)
    model = next((p for p in like.parameters() if p.is_floating_point()), None) if like is not None else None
    return layer if model is None else layer.to(model.device, model.dtype)


def _paired(term: States | Attentions, pair: Pair, names: Callable[..., tuple[str, ...]]) -> tuple[Any, Any]:
    student = names(pair.student, term.student_layers, of="student")
    teacher = names(teacher_of(pair, term.name), term.teacher_layers, of="teacher")
    if len(student) != len(teacher):
        raise ParameterError(
            f"{term.name}: student_layers and teacher_layers must be as many, got {len(student)} and {len(teacher)}"
        )
    return student, teacher


def _filters(given: Any, count: int, name: str) -> list[nn.Module]:
    if given is None or (name == "student_filter" and given == "linear"):
        return [nn.Identity() for _ in range(count)]
    filters = [given] * count if isinstance(given, nn.Module) else list(given)
    if isinstance(given, str) or len(filters) != count or not all(isinstance(f, nn.Module) for f in filters):
        raise ParameterError(f"{name} must be one module, or one for each of {count} pairs, got {given!r}")
    return filters


def _projections(pair: Pair, student: Sequence[str], teacher: Sequence[str], targets: Sequence[nn.Module],
                 *, always: bool) -> list[nn.Module]:  # fmt: skip
    """A linear map to the target's width for each pair that needs one, or for all."""
    ours, theirs = pair.widths(pair.student, student), pair.widths(teacher_of(pair, "States"), teacher)
    made: list[nn.Module] = []
    for width, teacher_width, target in zip(ours, theirs, targets, strict=True):
        goal = None if teacher_width is None else _output_width(target, teacher_width)
        if (width is None or goal is None) and always:
            raise ParameterError("student_filter='linear' needs the widths; give Distillation(example=a batch)")
        needed = always or (None not in (width, goal) and width != goal)
        made.append(projection(width, goal, pair.generator, like=pair.student) if needed else nn.Identity())
    return made


@torch.no_grad()
def _output_width(filter: nn.Module, width: int) -> int:
    parameter = next(filter.parameters(), torch.empty(0))
    return filter(torch.zeros(1, 1, width, dtype=parameter.dtype, device=parameter.device)).shape[-1]


def _filtered(filter: nn.Module, state: Tensor) -> Tensor:
    """Filter a state where and in what precision the filter is, if it has parameters."""
    parameter = next(filter.parameters(), None)
    return filter(state if parameter is None else state.to(parameter.device, parameter.dtype))
