"""Terms of a distillation that read the models' outputs: the task's own loss and the teacher's logits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism_plugins.distill import _layers
from porism_plugins.distill._losses import LogitLoss, kl_divergence
from porism_plugins.distill._signals import IGNORED, Batch, Pair, Seen, Signal, Weight, check_mask, flat_rows, shapes


@dataclasses.dataclass(frozen=True)
class Task:
    """The task's own loss: what the student returns as ``loss``, or the cross-entropy of its logits.

    Parameters
    ----------
    weight
        A number that is not negative, or a function of the progress.
    loss
        ``loss(student_output, labels) -> scalar`` in place of that.
    name
        Of the part. Where all labels are ignored (-100), the value is 0 with gradient 0.
    """

    weight: Weight = 1.0
    loss: Callable[[Any, Tensor], Tensor] | None = None
    name: str = "task"

    def bind(self, pair: Pair) -> Signal:
        """Return the signal; no layers are read."""
        return _Task(self)


class _Task(Signal):
    needs_teacher = False

    def __init__(self, term: Task) -> None:
        super().__init__()
        self.loss, self.needs_loss = term.loss, term.loss is None

    def forward(self, student: Seen, teacher: Seen | None, batch: Batch) -> Tensor:
        labels = batch.get("labels")
        if labels is None:
            raise ParameterError("a Task term needs labels; give labels=, or leave the term out")
        if self.loss is not None:
            value = self.loss(student.output, labels)
        else:
            own = student.output.get("loss") if isinstance(student.output, Mapping) else None
            value = own if own is not None else _cross_entropy(student.output, labels)
        if labels.is_floating_point():
            return value
        return torch.where((labels != IGNORED).any(), value, torch.zeros_like(value))  # a mean over nothing is NaN


def _cross_entropy(output: Any, labels: Tensor) -> Tensor:
    logits = _layers.logits_of(output, "student")
    if labels.is_floating_point() or logits.shape[:-1] != labels.shape:
        shapes = f"{labels.dtype} of shape {tuple(labels.shape)} beside logits of shape {tuple(logits.shape)}"
        raise ParameterError(
            f"labels must be classes, one for each row of logits, got {shapes}; or give Task(loss=...)"
        )
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


@dataclasses.dataclass(frozen=True)
class Logits:
    """The teacher's logits: a divergence at a temperature, times its square.

    Parameters
    ----------
    weight
        A number that is not negative, or a function of the progress.
    temperature
        Divides both logits. The value is multiplied by its square, which keeps the size of gradients.
    divergence
        ``divergence(student_logits, teacher_logits) -> scalar`` on (N, C), by default KL(teacher || student) in nats
        averaged over the rows. Rows whose label is ignored (-100) or that are padding are not among the N.
    classes
        Compare the first so many only, for vocabularies that were padded to different lengths.
    mask
        Entry of the batch that is 0 at padding; an encoder-decoder's is ``decoder_attention_mask``.
    name
        Of the part.
    """

    weight: Weight = 1.0
    temperature: float = 1.0
    divergence: LogitLoss = kl_divergence
    classes: int | None = None
    mask: str | None = "attention_mask"
    name: str = "logits"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ParameterError(f"temperature must be positive and finite, got {self.temperature}")
        if self.classes is not None and self.classes < 1:
            raise ParameterError(f"classes must be at least 1, got {self.classes}")

    def bind(self, pair: Pair) -> Signal:
        """Return the signal; a divergence that is a module with parameters trains along."""
        mask = self.mask
        if mask == "attention_mask" and getattr(getattr(pair.student, "config", None), "is_encoder_decoder", False):
            mask = "decoder_attention_mask"
        return _Logits(self, mask, shifts_labels(pair.student))


class _Logits(Signal):
    def __init__(self, term: Logits, mask: str | None, shift: bool) -> None:
        super().__init__()
        self.divergence, self.mask, self.shift = term.divergence, mask, shift
        self.temperature, self.classes = term.temperature, term.classes

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        ours, theirs = _layers.logits_of(student.output, "student"), _layers.logits_of(teacher.output, "teacher")
        if self.classes is not None:
            if self.classes > min(ours.shape[-1], theirs.shape[-1]):
                raise ParameterError(
                    f"classes must be at most {min(ours.shape[-1], theirs.shape[-1])}, got {self.classes}"
                )
            ours, theirs = ours[..., : self.classes], theirs[..., : self.classes]
        if ours.shape[-1] != theirs.shape[-1]:
            raise ParameterError(
                f"student and teacher have {ours.shape[-1]} and {theirs.shape[-1]} classes; logits over different "
                "vocabularies have no common meaning. If the first ones are the same, give Logits(classes=...)"
            )
        if ours.shape != theirs.shape:
            raise ParameterError(f"student and teacher logits differ in shape: {shapes(ours, theirs)}")
        dtype = torch.promote_types(ours.dtype, theirs.dtype)
        ours, theirs = ours.to(dtype), theirs.to(ours.device, dtype)
        kept = self._kept(ours, batch)
        if self.shift and batch.get("labels") is not None:
            ours, theirs = ours[:, :-1], theirs[:, :-1]
        ours, theirs = flat_rows(kept, ours, theirs)
        if not len(ours):
            return ours.sum()  # of nothing: 0, with gradient 0
        if self.temperature == 1:
            return self.divergence(ours, theirs)
        return self.temperature**2 * self.divergence(ours / self.temperature, theirs / self.temperature)

    def _kept(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """Which rows count, of the shape of the logits without their last axis (and position, if shifted)."""
        labels, mask = batch.get("labels"), batch.get(self.mask) if self.mask else None
        rows, kept = tuple(logits.shape[:-1]), None
        if labels is not None and not labels.is_floating_point():
            if labels.shape != rows:
                raise ParameterError(f"labels must have shape {rows} beside these logits, got {tuple(labels.shape)}")
            kept = labels != IGNORED
        if mask is not None and len(rows) == 2:
            check_mask(mask, rows, self.mask)
            kept = mask.bool() if kept is None else kept & mask.bool()
        if kept is not None and self.shift and labels is not None:
            kept = kept[:, 1:]
        return kept


def shifts_labels(model: nn.Module) -> bool:
    """Whether the label at a position is predicted one before, by the rule of transformers' Trainer."""
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    return getattr(getattr(model, "loss_function", None), "__name__", "") == "ForCausalLMLoss"
