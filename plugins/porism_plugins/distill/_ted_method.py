"""TED on any pair of models: :func:`prepare` is its first stage, :func:`ted` both."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Interval
from torch import nn

from porism.errors import ParameterError
from porism.testbeds import train
from porism_plugins.distill import _ted_filters as stage_one
from porism_plugins.distill._engine import Distillation, Logits, States, Task, check_terms, match_layers
from porism_plugins.distill._layers import Layer, capturing, layer_names, state_of
from porism_plugins.distill._ted_filters import Kind, Pool

Weight = Annotated[float, Interval(ge=0, le=1e6)]
Steps = Annotated[int, Interval(ge=0, le=10_000_000)]
Rate = Annotated[float, Interval(gt=0, le=1)]
# Numbers or names, of the student and of the teacher; None: all of the shallower one, spread over the deeper one.
Layers = tuple[Sequence[Layer], Sequence[Layer]] | None


class Taught(NamedTuple):
    """The student, trained in place; the losses of stage I of student and teacher, and of stage II, by step."""

    student: nn.Module
    student_filter_losses: list[float]
    teacher_filter_losses: list[float]
    losses: list[float]


class Prepared(NamedTuple):
    """What stage II trains, and the losses of stage I by step."""

    distillation: Distillation
    student_filter_losses: list[float]
    teacher_filter_losses: list[float]


def prepare(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Any], *, layers: Layers = None, kind: Kind = "linear",
    width: int | None = None, pool: Pool = "auto", filter_steps: Steps = 500, filter_learning_rate: Rate = 1e-3,
    temperature: Annotated[float, Interval(gt=0, le=1000)] = 2.0, logits_weight: Weight = 1.0,
    states_weight: Weight = 1.0, padding: Literal["masked", "counted"] = "masked",
    learned: Literal["both", "teacher", "student", "none"] = "both", seed: int = 0,
) -> Prepared:  # fmt: skip
    """Stage I: filters for both models, taught by the task on frozen layers; neither model changes.

    Parameters are those of :func:`ted`. Returned is the :class:`Distillation` of stage II, to be trained by a loop of
    one's own or by ``transformers.Trainer`` (``distillation.attach(trainer)``).

    Raises
    ------
    ParameterError
        As :func:`ted`.
    """
    batches = list(batches)
    if not batches:
        raise ParameterError("batches are empty; give at least one")
    chosen = match_layers(student, teacher) if layers is None else layers
    names = layer_names(student, chosen[0], of="student"), layer_names(teacher, chosen[1], of="teacher")
    mask = "attention_mask" if padding == "masked" else None
    terms = [Task(), Logits(logits_weight, temperature=temperature), States(*names, weight=states_weight, mask=mask)]
    check_terms(terms)  # before the minutes that stage I may take
    if len(names[0]) != len(names[1]):
        raise ParameterError(f"layers must be as many of both models, got {len(names[0])} and {len(names[1])}")
    generator = torch.Generator().manual_seed(seed)
    wide = _width(teacher, names[1], batches[0]) if width is None else width
    if wide < 1:
        raise ParameterError(f"width must be at least 1, got {width}")
    filters, losses = [], []
    for who, model, where in (("student", student, names[0]), ("teacher", teacher, names[1])):
        heads = stage_one.FilterHeads(model, where, batches[0], width=wide, kind=kind, pool=pool, generator=generator)
        taught = filter_steps and learned in ("both", who)
        losses.append(
            stage_one.fit_filters(heads, batches, steps=filter_steps, learning_rate=filter_learning_rate)
            if taught
            else []
        )
        filters.append(list(heads.filters))
    terms[-1] = dataclasses.replace(terms[-1], student_filter=filters[0], teacher_filter=filters[1])
    ours, theirs = (stage_one.first_argument(model) for model in (student, teacher))

    def renamed(batch: dict[str, Any]) -> dict[str, Any]:
        return {theirs if name == ours else name: value for name, value in batch.items()}

    pairs = ours != theirs and not isinstance(batches[0], Mapping)
    distillation = Distillation(student, teacher, terms, teacher_inputs=renamed if pairs else None, seed=seed)
    return Prepared(distillation, *losses)


def ted(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Any], *, layers: Layers = None, kind: Kind = "linear",
    width: int | None = None, pool: Pool = "auto", filter_steps: Steps = 500, filter_learning_rate: Rate = 1e-3,
    steps: Steps = 1000, learning_rate: Rate = 1e-4, weight_decay: Annotated[float, Interval(ge=0, le=1)] = 0.01,
    temperature: Annotated[float, Interval(gt=0, le=1000)] = 2.0, logits_weight: Weight = 1.0,
    states_weight: Weight = 1.0, padding: Literal["masked", "counted"] = "masked",
    learned: Literal["both", "teacher", "student", "none"] = "both", seed: int = 0,
) -> Taught:  # fmt: skip
    """Task-aware layer-wise distillation: teach a student, in place, what the task needs of a teacher's layers.

    Both models should have been fine-tuned on the task. With token labels (``labels = input_ids`` of a causal language
    model, or masked ones) the task is language modelling, and this is the paper's continual pre-training.

    Parameters
    ----------
    student, teacher
        Any modules that give logits; the teacher is never changed.
    batches
        Mappings as transformers models take them, with ``labels``, or pairs (inputs, labels); used over and over in
        their order by both stages.
    layers
        Layers of the student and as many of the teacher, by name or number; by default all of the shallower model,
        spread over the deeper one.
    kind, width
        Of the filters: ``"linear"``, or ``"mlp"`` of two layers; the teacher's width by default.
    pool
        The token that stands for a sequence in stage I: ``"first"``, ``"last"``, or by the kind of model.
    filter_steps, filter_learning_rate
        Of stage I, for each model.
    steps, learning_rate, weight_decay
        Of stage II: AdamW, warmed up over a tenth of the steps, then down a cosine; no decay of vectors.
    temperature, logits_weight, states_weight
        Of the logits' KL divergence, times the square of the temperature, and of the filtered states' mean squared
        error. Its scale is that of the filters: tune the weight for your task.
    padding
        ``"counted"`` lets padding enter the mean squared error, as the released code does.
    learned
        Whose filters stage I teaches; others stay random. For ablations.
    seed
        Of filters, heads and dropout. Torch's global generators are left as they were.

    Returns
    -------
    Taught
        The student, in evaluation mode, and losses by step. Filters are gone.

    Raises
    ------
    ParameterError
        For no batches, batches without labels, layers that are not there, and a loss that is not finite.
    """
    batches = list(batches)
    devices = sorted({p.device.index for p in student.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        prepared = prepare(
            student, teacher, batches, layers=layers, kind=kind, width=width, pool=pool, filter_steps=filter_steps,
            filter_learning_rate=filter_learning_rate, temperature=temperature, logits_weight=logits_weight,
            states_weight=states_weight, padding=padding, learned=learned, seed=seed,
        )  # fmt: skip
        found = distil(prepared.distillation, batches, steps=steps, learning_rate=learning_rate,
                       weight_decay=weight_decay)  # fmt: skip
    return Taught(student, prepared.student_filter_losses, prepared.teacher_filter_losses, found)


def distil(distillation: Distillation, batches: Iterable[Any], *, steps: int, learning_rate: float,
           weight_decay: float = 0.01) -> list[float]:  # fmt: skip
    """Train a distillation on batches, over and over; the loss of each step. The student is left evaluating."""
    if not steps:
        return []
    keyword = (stage_one.keyword_batch(distillation.student, batch) for batch in itertools.cycle(batches))
    found = train(distillation, keyword, steps=steps, learning_rate=learning_rate, weight_decay=weight_decay)
    return found.tolist()


@torch.no_grad()
def _width(model: nn.Module, names: Sequence[str], batch: Any) -> int:
    """The width of the widest of some layers."""
    inputs = {n: value for n, value in stage_one.keyword_batch(model, batch).items() if n != "labels"}
    with stage_one.evaluating(model), capturing(model, names) as found:
        model(**inputs)
    return max(state_of(found[name], name).shape[-1] for name in names)
