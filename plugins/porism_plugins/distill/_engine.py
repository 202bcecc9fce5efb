"""Distillation of any pair of torch models: what to match, through which filters, by which schedule, in which layers.

>>> student, teacher = (nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)) for width in (8, 32))
>>> terms = [Task(), Logits(temperature=2.0), States(["1"], ["1"], weight=ramp(1.0, 0.0))]
>>> distillation = Distillation(student, teacher, terms, example=torch.zeros(1, 4))
>>> distillation.progress = 0.5
>>> found = distillation(torch.ones(2, 4), labels=torch.tensor([0, 1]))
>>> sorted(found.parts), found.output.shape
(['logits', 'states', 'task'], torch.Size([2, 3]))
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.surgery import call, evaluating
from porism_plugins.distill._layers import capturing, device_of, match_layers, state_of, width_of
from porism_plugins.distill._outputs import Logits, Task, shifts_labels
from porism_plugins.distill._signals import IGNORED, Companions, Custom, Pair, Seen, Signal, Term
from porism_plugins.distill._states import Attentions, States

__all__ = [
    "Attentions", "Custom", "Distillation", "Distilled", "Logits", "Seen", "States", "Task", "Term", "match_layers",
    "ramp", "state_of",
]  # fmt: skip


class Distilled(NamedTuple):
    """The loss to differentiate; each term's value, detached and without its weight; the student's own output."""

    loss: Tensor
    parts: dict[str, Tensor]
    output: Any


class Distillation(Companions):
    """A student, a frozen teacher, and what the one is to learn from the other.

    Called with what the student is called with, it runs the teacher (evaluation mode, no gradient), then the student,
    and returns :class:`Distilled`. Layers are read through forward hooks that do not outlive the call.

    Parameters
    ----------
    student
        Any module; the submodule ``student``, so that it and the student-side filters are the parameters.
    teacher
        Any module, on any device and in any floating dtype, or None where each call brings ``teacher_logits``. It
        moves with ``to``, but is neither in ``parameters()`` nor in ``state_dict()``, and its mode is left alone.
    terms
        :class:`Task`, :class:`Logits`, :class:`States`, :class:`Attentions`, :class:`Custom`, or others with their
        members. Names must differ.
    example
        A batch, as the student is called with: both models run on it once to learn the widths of layers. Without it
        widths are those of transformers' configurations, or taken to be equal.
    teacher_inputs
        ``teacher_inputs(batch) -> batch`` for a teacher that takes others: from keyword arguments without labels to
        the like.
    seed
        Of the weights of projections that are made here.

    Attributes
    ----------
    progress
        How far training has come, in [0, 1], or a function that says so; only needed where a weight is a function.

    Raises
    ------
    ParameterError
        For terms, layers, filters and inputs that do not fit; for weights of a model on the meta device.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        terms: Sequence[Term],
        *,
        example: Any = None,
        teacher_inputs: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__([] if teacher is None else [teacher])
        check_terms(terms)
        for name, model in (("student", student), ("teacher", teacher)):
            if model is not None and any(parameter.is_meta for parameter in model.parameters()):
                raise ParameterError(
                    f"the {name} has weights on the meta device, which holds no numbers; load them first"
                )
        self.student, self.terms, self.teacher_inputs = student, tuple(terms), teacher_inputs
        self.progress: float | Callable[[], float] | None = None
        pair = Pair(student, teacher, self._widths(example), torch.Generator().manual_seed(seed))
        self.signals = nn.ModuleDict({term.name: term.bind(pair) for term in terms})
        self._takes_labels = _takes_labels(student)
        self._shift = shifts_labels(student)
        self._replicas = 1

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher."""
        return self.companions[0] if self.companions else None

    def forward(self, *inputs: Any, **batch: Any) -> Distilled:
        """Run both models and compare them.

        Parameters
        ----------
        *inputs, **batch
            What the student is called with; one mapping stands for its entries. Two of them are for the distillation:
            ``labels``, which go to the student as well if it takes them, and ``teacher_logits``, which take the place
            of the teacher's pass.

        Raises
        ------
        ParameterError
            For what the terms cannot compare, and if all weights are 0.
        """
        return self._run(self.student, inputs, batch)

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # fmt: skip
        """Stand in for ``transformers.Trainer.compute_loss``; see :meth:`attach`.

        Parameters
        ----------
        model
            The student, or a wrapper around it, which is run in its place.
        inputs
            A batch of the student's, with ``labels`` and ``teacher_logits`` as in :meth:`forward`.
        return_outputs
            Return the loss and the student's output.
        num_items_in_batch
            Labels in all batches of one optimiser step. The loss is then weighted by this batch's share of them, so
            that accumulated gradients are those of the whole, however unequal the parts.

        Raises
        ------
        ParameterError
            If ``model`` is not around the student, and as :meth:`forward`.
        """
        if not any(module is self.student for module in model.modules()):
            raise ParameterError("model must be the student of this distillation, or a wrapper around it")
        found = self._run(model, (inputs,), {})
        loss = found.loss
        if num_items_in_batch is not None:
            labels = inputs["labels"][..., 1:] if self._shift else inputs["labels"]
            loss = loss * (labels != IGNORED).sum() / num_items_in_batch * self._replicas
        return (loss, found.output) if return_outputs else loss

    def attach(self, trainer: Any) -> None:
        """Make a ``transformers.Trainer`` of the student distil: its loss, its progress, its device, its optimiser.

        ``trainer.compute_loss = distillation.compute_loss`` alone is enough where no filter trains and no weight is a
        function. Filters join the optimiser as a group of their own; the Trainer's clipping does not see them.

        Raises
        ------
        ParameterError
            If the trainer has made its optimiser already, without the filters, or has several processes.
        """
        filters = [p for p in self.signals.parameters() if p.requires_grad]
        if filters and trainer.accelerator.num_processes > 1:
            raise ParameterError("filters train in one process only, as nothing averages their gradients over several")
        create = trainer.create_optimizer

        def create_optimizer(*args: Any, **options: Any) -> Any:
            optimizer = create(*args, **options)
            there = {id(p) for group in optimizer.param_groups for p in group["params"]}
            if missing := [p for p in filters if id(p) not in there]:
                optimizer.add_param_group({"params": missing})
            return optimizer

        made = getattr(trainer, "optimizer", None)
        there = {id(p) for group in made.param_groups for p in group["params"]} if made is not None else set()
        if made is not None and any(id(p) not in there for p in filters):
            raise ParameterError(
                "give the trainer an optimizer of distillation.parameters(), or none; its own lacks filters"
            )
        self.to(trainer.args.device)
        if trainer.args.average_tokens_across_devices:
            self._replicas = trainer.accelerator.num_processes
        self.progress = lambda: trainer.state.global_step / max(trainer.state.max_steps, 1)
        trainer.compute_loss, trainer.create_optimizer = self.compute_loss, create_optimizer

    def weights(self) -> dict[str, float]:
        """Each term's weight at the present progress.

        Raises
        ------
        ParameterError
            If a weight is a function and ``progress`` is not set or not in [0, 1], or if it gives a negative number.
        """
        return {term.name: _number(term, self.progress) for term in self.terms}

    def _run(self, model: nn.Module, inputs: tuple[Any, ...], batch: dict[str, Any]) -> Distilled:
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            inputs, batch = (), {**inputs[0], **batch}
        teacher_logits = batch.pop("teacher_logits", None)
        weights = {name: weight for name, weight in self.weights().items() if weight}
        if not weights:
            raise ParameterError("the weights of all terms are 0; nothing is left to learn from")
        signals: dict[str, Signal] = {name: self.signals[name] for name in weights}
        plain = {name: value for name, value in batch.items() if name != "labels"}
        taught = self._teach(signals, inputs, plain, teacher_logits)
        needs_labels = self._takes_labels and any(signal.needs_loss for signal in signals.values())
        names = [name for signal in signals.values() for name in signal.student_modules]
        with capturing(self.student, names) as layers:
            output = model(*inputs, **(batch if needs_labels else plain))
        values = {
            name: signal(
                Seen(output, {layer: layers[layer] for layer in signal.student_modules}),
                taught and Seen(taught.output, {layer: taught.layers[layer] for layer in signal.teacher_modules}),
                batch,
            )
            for name, signal in signals.items()
        }
        loss = sum(weights[name] * value for name, value in values.items())
        return Distilled(loss, {name: value.detach() for name, value in values.items()}, output)

    @torch.no_grad()
    def _teach(
        self, signals: Mapping[str, Signal], inputs: tuple[Any, ...], batch: dict[str, Any], logits: Tensor | None
    ) -> Seen | None:
        """What the teacher gives, if any of the signals needs it."""
        reads = [name for signal in signals.values() for name in signal.teacher_modules]
        if logits is not None and not reads:
            return Seen(logits, {})
        if not any(signal.needs_teacher for signal in signals.values()):
            return None
        if self.teacher is None:
            raise ParameterError("teacher is None; give teacher_logits with the batch")
        if self.teacher_inputs is not None:
            batch = dict(self.teacher_inputs(batch))
        device = device_of(self.teacher)
        inputs, batch = (
            tuple(_moved(value, device) for value in inputs),
            {n: _moved(v, device) for n, v in batch.items()},
        )
        still = evaluating(self.teacher) if self.teacher.training else contextlib.nullcontext()
        with still, capturing(self.teacher, reads) as layers:
            output = self.teacher(*inputs, **batch)
        return Seen(output if logits is None else logits, layers)

    def _widths(self, example: Any) -> Callable[[nn.Module, Sequence[str]], list[int | None]]:
        @torch.no_grad()
        def widths(model: nn.Module, names: Sequence[str]) -> list[int | None]:
            if example is None:
                return [width_of(model)] * len(names)
            batch = example
            if isinstance(batch, Mapping):
                batch = {n: v for n, v in batch.items() if n not in ("labels", "teacher_logits")}
                if model is self.teacher and self.teacher_inputs is not None:
                    batch = self.teacher_inputs(batch)
                batch = {name: _moved(value, device_of(model)) for name, value in batch.items()}
            elif isinstance(batch, Tensor):
                batch = _moved(batch, device_of(model))
            with evaluating(model), capturing(model, names) as layers:
                call(model, batch)
            return [state_of(layers[name], name).shape[-1] for name in names]

        return widths


def ramp(first: float, last: float, *, begin: float = 0.0, end: float = 1.0) -> Callable[[float], float]:
    """A weight that goes in a straight line from ``first`` at progress ``begin`` to ``last`` at ``end``.

    Raises
    ------
    ParameterError
        Unless ``0 <= begin < end <= 1``.

    Examples
    --------
    >>> [ramp(1.0, 0.0, begin=0.5)(progress) for progress in (0.0, 0.5, 0.75, 1.0)]
    [1.0, 1.0, 0.5, 0.0]
    """
    if not 0 <= begin < end <= 1:
        raise ParameterError(f"begin and end must have 0 <= begin < end <= 1, got {begin} and {end}")

    def weight(progress: float) -> float:
        share = min(max((progress - begin) / (end - begin), 0.0), 1.0)
        return (1 - share) * first + share * last

    return weight


def check_terms(terms: Sequence[Term]) -> None:
    """Raise :class:`ParameterError` for no terms, names that clash, and weights that are negative or infinite."""
    names = [term.name for term in terms]
    if not names or len(set(names)) != len(names):
        raise ParameterError(f"terms must be at least one, with names of their own, got {names}; give name=...")
    if bad := [name for name in names if not name or "." in name or hasattr(nn.ModuleDict, name)]:
        raise ParameterError(f"names of terms must not be empty, have a dot or be a method of dict, got {bad}")
    for term in terms:
        if not callable(term.weight):
            _check_weight(term.weight, term.name)


def _check_weight(weight: float, name: str) -> None:
    if not 0 <= weight < math.inf:
        raise ParameterError(f"weight of {name} must be at least 0 and finite, got {weight}")


def _number(term: Term, progress: float | Callable[[], float] | None) -> float:
    weight = term.weight
    if not callable(weight):
        return float(weight)
    now = progress() if callable(progress) else progress
    if now is None or not 0 <= now <= 1:
        raise ParameterError(
            f"the weight of {term.name} is a function; set distillation.progress in [0, 1], it is {now}"
        )
    number = float(weight(float(now)))
    _check_weight(number, term.name)
    return number


def _takes_labels(model: nn.Module) -> bool:
    """Whether labels can be given to a model: by name, or as one of any keyword arguments if transformers made it."""
    parameters = inspect.signature(model.forward).parameters.values()
    anything = hasattr(model, "config") and any(p.kind is p.VAR_KEYWORD for p in parameters)
    return anything or any(p.name == "labels" for p in parameters)


def _moved(value: Any, device: torch.device | None) -> Any:
    return value.to(device) if isinstance(value, Tensor) and device is not None else value
