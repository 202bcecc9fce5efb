"""HomoDistil on any model: the student starts as its teacher and is narrowed while it is distilled."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import evaluating
from porism_plugins.distill._engine import Attentions, Custom, Distillation, Logits, States, Task, Term
from porism_plugins.distill._homodistil_blocks import feed_forward_blocks, update_config, width_of, width_share
from porism_plugins.distill._homodistil_path import Homotopy, Point, check_path
from porism_plugins.distill._layers import Layer, block_names
from porism_plugins.distill._outputs import shifts_labels

Loss = Callable[[nn.Module, Any], Tensor]
Weight = Annotated[float, Interval(ge=0, le=1e6)]
Share = Annotated[float, Interval(ge=0, le=1)]
CLIP = 1.0


def homodistil(
    model: nn.Module, /, *, remaining: Annotated[float, Interval(gt=0, le=1)] = 0.5, calibration: Iterable[Any],
    loss: Loss | None = None, steps: Annotated[int, Interval(ge=1)] = 1000,
    learning_rate: Annotated[float, Interval(gt=0, le=1)] = 1e-4,
    weight_decay: Annotated[float, Interval(ge=0, le=1)] = 0.01,
    task_weight: Annotated[float, Interval(gt=0, le=1e6)] = 1.0, logits_weight: Weight = 1.0,
    states_weight: Weight = 1.0, attentions_weight: Weight = 0.0,
    temperature: Annotated[float, Interval(gt=0, le=1000)] = 1.0, layers: Sequence[Layer] | None = None,
    begin: Share = 0.05, end: Share = 0.7, interval: Annotated[int, Interval(ge=1)] = 10,
    smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.85, seed: Annotated[int, Interval(ge=0)] = 0,
    history: list[Point] | None = None, inplace: bool = False, include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """Distil a model into a narrower copy of itself, whose neurons are taken out step by step on the way.

    Neurons are those of feed-forward blocks: of transformers' Llama, BERT, ViT and GPT-2, gated ones too, and the
    hidden layers of ``nn.Sequential``. Attention, embeddings and the width of hidden states stay.

    Parameters
    ----------
    model
        The teacher, and the student to begin with; left alone unless ``inplace``. All trainable parameters are trained.
    remaining
        Share of the weights of the blocks' linear layers that stays, in (0, 1], counted from what they were before any
        neuron was taken out. Each block keeps the same share of its neurons. At 1 nothing is trained.
    calibration
        Batches to train on, over and over: pairs (inputs, labels), or mappings as transformers models take them; for
        causal language models labels are the ``input_ids`` by default. On the model's device, in its dtype.
    loss
        ``loss(student, batch)``, a scalar, in place of the cross-entropy or the model's own loss. Batches without
        labels, a tensor alone even, then do. It costs a second pass of the student.
    steps, learning_rate, weight_decay
        Of AdamW, with a rate that falls in a straight line to 0; no decay of vectors.
    task_weight, logits_weight, states_weight, attentions_weight
        Of the loss, of KL(teacher || student), and of the mean squared errors of hidden states and attention
        probabilities. The task's must be positive, as it says which neurons go: at the start all other gradients are 0.
        Attention needs a model with ``attn_implementation="eager"``.
    temperature
        Of the logits' term.
    layers
        Whose outputs are compared: names, or numbers of blocks. By default all blocks of a transformers model, and
        none of another.
    begin, end, interval, smoothing
        See :class:`Homotopy`.
    seed
        Of dropout. Torch's global generators are left as they were.
    history
        A list to which the path is appended, one :class:`Point` every ``interval`` steps: the gap is that of the first
        batch, in evaluation mode.
    inplace
        Narrow the model itself instead of a copy; the teacher is then a copy.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`; a block is narrowed if all its layers match.

    Returns
    -------
    torch.nn.Module
        Ordinary modules of smaller sizes. The config of a transformers model says the new width.

    Raises
    ------
    ParameterError
        For options out of range, empty batches, a loss that is not finite, models without a block, and where nothing
        tells neurons apart.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> batches = [(torch.ones(2, 8), torch.tensor([0, 1]))]
    >>> path = []
    >>> small = homodistil(model, remaining=0.25, calibration=batches, steps=40, history=path)
    >>> small[0].out_features, path[0], path[-1].width
    (8, Point(step=0, width=1.0, gap=0.0), 0.25)
    """
    Parameter("remaining", float, 1.0, low=0.0, low_open=True, high=1.0).validate(remaining)
    Parameter("learning_rate", float, 1e-4, low=0.0, low_open=True).validate(learning_rate)
    Parameter("task_weight", float, 1.0, low=0.0, low_open=True).validate(
        task_weight
    )  # else nothing tells neurons apart
    check_path(total_steps=steps, begin=begin, end=end, interval=interval, smoothing=smoothing)
    batches = list(calibration)
    if not batches:
        raise ParameterError("calibration batches are empty; give at least one")
    for number, batch in enumerate(batches):
        if not all(bool(t.isfinite().all()) for t in _tensors(batch) if t.is_floating_point()):
            raise ParameterError(f"calibration: batch {number} has NaN or infinite numbers")
    teacher = copy.deepcopy(model) if inplace else model
    student = model if inplace else copy.deepcopy(model)
    blocks = feed_forward_blocks(student, include=include, exclude=exclude)
    if any(parameter.dtype == torch.float16 for parameter in student.parameters()):
        raise ParameterError(
            "model has float16 weights, on which AdamW's second moments vanish; use bfloat16 or float32"
        )
    width, before = width_share(student, blocks, remaining), {block: width_of(student, block) for block in blocks}
    if remaining == 1.0:
        return student
    path = Homotopy(student, width=width, total_steps=steps, begin=begin, end=end, interval=interval,
                    smoothing=smoothing, include=include, exclude=exclude)  # fmt: skip
    compared = _blocks_of(student) if layers is None else layers
    terms: list[Term] = [Task(task_weight), Logits(logits_weight, temperature=temperature)]
    current: list[Any] = []
    if loss is not None:
        terms[0] = Custom("task", lambda *_: loss(student, current[-1]), weight=task_weight, needs_teacher=False)
    if compared and states_weight:
        terms.append(States(compared, compared, weight=states_weight))
    if compared and attentions_weight:
        terms.append(Attentions(compared, compared, weight=attentions_weight))
    distillation = Distillation(student, teacher, terms, seed=seed)

    def on_batch(batch: Any) -> Tensor:
        current[:] = [batch]
        inputs, named = asked(student, batch)
        return distillation(*inputs, **named).loss

    def look(step: int) -> None:
        if history is not None and (step % interval == 0 or step == steps):
            history.append(Point(step, path.width, gap(student, teacher, batches[0])))

    with _training(student, seed):
        travel(student, batches, on_batch, path, steps=steps, learning_rate=learning_rate, weight_decay=weight_decay,
               look=look)  # fmt: skip
    update_config(student, blocks, before)
    return student


def travel(
    student: nn.Module, batches: Iterable[Any], loss: Callable[[Any], Tensor], path: Homotopy | None, *, steps: int,
    learning_rate: float, weight_decay: float = 0.01, look: Callable[[int], None] = lambda step: None,
) -> None:  # fmt: skip
    """Train a student by AdamW on batches, over and over, while a path narrows it; ``look`` sees every step.

    Raises
    ------
    ParameterError
        If the loss is not finite.
    """
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = [{"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
              {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    look(0)
    for step, batch in enumerate(itertools.islice(itertools.cycle(batches), steps)):
        optimizer.zero_grad()
        value = loss(batch)
        if not bool(value.isfinite()):
            raise ParameterError(f"calibration: the loss is {value.item()} at step {step}")
        value.backward()
        if path is not None:
            path.observe()
        nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        rate.step()
        if path is not None:
            path.narrow(optimizer)
        look(step + 1)
    optimizer.zero_grad()


@torch.no_grad()
def gap(student: nn.Module, teacher: nn.Module, batch: Any) -> float:
    """Mean KL(teacher || student) in nats on a batch, both in evaluation mode.

    Examples
    --------
    >>> model = nn.Linear(2, 3)
    >>> gap(model, copy.deepcopy(model), torch.ones(4, 2))
    0.0
    """
    inputs, named = asked(student, batch)
    with evaluating(student):
        return float(Distillation(student, teacher, [Logits()])(*inputs, **named).loss)


def asked(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for a distillation, of a batch in any of the usual forms.

    Raises
    ------
    ParameterError
        For other forms.
    """
    if isinstance(batch, Mapping):
        labels = {"labels": batch["input_ids"]} if "input_ids" in batch and shifts_labels(model) else {}
        return (), {**labels, **batch}
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, tuple | list) and len(batch) == 2:
        inputs, labels = batch
        if isinstance(inputs, Mapping):
            return (), {**inputs, "labels": labels}
        return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {"labels": labels}
    raise ParameterError("calibration: give pairs (inputs, labels), or mappings; a tensor alone goes with loss=")


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    for item in batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ():
        yield from _tensors(item)


def _blocks_of(model: nn.Module) -> Sequence[Layer]:
    """Numbers, which stand for a block's hidden states and for the attention in it alike."""
    return range(1, 1 + len(block_names(model))) if getattr(model, "config", None) is not None else ()


@contextlib.contextmanager
def _training(model: nn.Module, seed: int) -> Iterator[None]:
    """Train mode with dropout of a seed; modes and global generators are put back."""
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), evaluating(model):  # which puts each module's own mode back
        model.train()
        torch.manual_seed(seed)
        yield
