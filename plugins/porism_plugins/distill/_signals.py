"""What a student is asked to match: the task, the teacher's logits, hidden states, attention, or anything else.

A term is a small frozen description. ``bind`` looks its layers up in the two models and makes a :class:`Signal`, the
module that turns what both models gave into a scalar and owns the filters that train.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism_plugins.distill import _layers
from porism_plugins.distill._layers import Layer

IGNORED = -100
# A number, or a function of the progress of training in [0, 1].
Weight = float | Callable[[float], float]
Batch = Mapping[str, Any]


class Seen(NamedTuple):
    """What a model gave in one pass: its output, and what the term's modules returned, by their names in order."""

    output: Any
    layers: dict[str, Any]


class Pair(NamedTuple):
    """What a term is bound to: two models, how to learn their widths, and where new filters draw their weights from."""

    student: nn.Module
    teacher: nn.Module | None
    widths: Callable[[nn.Module, Sequence[str]], list[int | None]]
    generator: torch.Generator


class Companions(nn.Module):
    """A module with others that move where it moves, and are neither its parameters nor in its state dict."""

    def __init__(self, companions: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.companions = list(dict.fromkeys(companions))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for module in self.companions:
            module._apply(fn, recurse)
        return super()._apply(fn, recurse)


class Signal(Companions):
    """A bound term: ``signal(student, teacher, batch)`` is a scalar, from :class:`Seen` of both and the batch.

    Attributes
    ----------
    student_modules, teacher_modules
        Names of the modules whose output it reads.
    needs_teacher, needs_loss
        Whether it reads anything of the teacher's, and the loss that the student itself computes from labels.
    """

    needs_teacher, needs_loss = True, False

    def __init__(self, student_modules: Sequence[str] = (), teacher_modules: Sequence[str] = (),
                 companions: Iterable[nn.Module] = ()) -> None:  # fmt: skip
        super().__init__(companions)
        self.student_modules, self.teacher_modules = tuple(student_modules), tuple(teacher_modules)


class Term(Protocol):
    """What :class:`Distillation` takes: a name, a weight, and how to bind to a pair of models."""

    name: str
    weight: Weight

    def bind(self, pair: Pair) -> Signal:
        """Look the layers up and make the filters."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Custom:
    """A term of one's own: ``value(student, teacher, batch) -> scalar``, both :class:`Seen`.

    Parameters
    ----------
    name
        Of the part.
    value
        Given outputs and what the layers returned, as the modules returned it; the teacher's has no graph. A module
        with parameters trains along.
    student_layers, teacher_layers
        Names or numbers of the layers it reads, none by default.
    weight
        A number that is not negative, or a function of the progress.
    needs_teacher
        False lets the term do without a teacher's pass; it is given None where no other term needs one.
    """

    name: str
    value: Callable[[Seen, Seen | None, Batch], Tensor]
    student_layers: Sequence[Layer] = ()
    teacher_layers: Sequence[Layer] = ()
    weight: Weight = 1.0
    needs_teacher: bool = True

    def bind(self, pair: Pair) -> Signal:
        """Look up the layers."""
        student = _layers.layer_names(pair.student, self.student_layers, of="student") if self.student_layers else ()
        layers = self.teacher_layers
        teacher = _layers.layer_names(teacher_of(pair, self.name), layers, of="teacher") if layers else ()
        return _Custom(self, student, teacher)


class _Custom(Signal):
    def __init__(self, term: Custom, student: Sequence[str], teacher: Sequence[str]) -> None:
        super().__init__(student, teacher)
        self.value, self.needs_teacher = term.value, term.needs_teacher

    def forward(self, student: Seen, teacher: Seen | None, batch: Batch) -> Tensor:
        return self.value(student, teacher, batch)


def teacher_of(pair: Pair, name: str) -> nn.Module:
    """The teacher.

    Raises
    ------
    ParameterError
        If there is none.
    """
    if pair.teacher is None:
        raise ParameterError(f"{name} reads layers of a teacher, but teacher is None; cached logits do not do")
    return pair.teacher


def flat_rows(kept: Tensor | None, *tensors: Tensor) -> list[Tensor]:
    """Rows (N, C) of tensors (..., C), those that are kept; nothing is copied if all are."""
    flat = [tensor.flatten(0, -2) for tensor in tensors]
    if kept is None or bool(kept.all()):
        return flat
    chosen = kept.flatten().nonzero()[:, 0].to(flat[0].device)
    return [tensor.index_select(0, chosen) for tensor in flat]


def check_mask(mask: Tensor, shape: Sequence[int], name: str | None) -> None:
    """Raise :class:`ParameterError` unless a mask is a tensor of this shape."""
    if not isinstance(mask, Tensor) or tuple(mask.shape) != tuple(shape):
        found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ParameterError(f"{name} must have shape {tuple(shape)}, got {found}; or set mask=None to count padding")


def shapes(*tensors: Tensor) -> str:
    """Shapes for an error."""
    return " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
