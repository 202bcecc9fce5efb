"""What distillation papers share: checks of logits, the divergences to compete with, and the usual mixed objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from porism.divergences import js_divergence_logits, kl_divergence_logits
from porism.errors import ParameterError

# (student logits, teacher logits) -> scalar
LogitLoss = Callable[[Tensor, Tensor], Tensor]
# (student logits, teacher logits, labels, progress in [0, 1]) -> scalar
Objective = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def check_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raise :class:`ParameterError` unless both are floating, not empty, and agree in shape and device."""
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ParameterError(f"student_logits and teacher_logits must have one shape, got {shapes}")
    if student_logits.device != teacher_logits.device:
        devices = f"{student_logits.device} and {teacher_logits.device}"
        raise ParameterError(f"student_logits and teacher_logits must be on one device, got {devices}")
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        if not logits.is_floating_point():
            raise ParameterError(f"{name} must be floating, got {logits.dtype}")
        if logits.dim() == 0 or logits.numel() == 0:
            raise ParameterError(f"{name} must have shape (..., classes) and not be empty, got {tuple(logits.shape)}")


def flat_logits(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Both logits as (N, C): every axis but the last counts samples, of which the mask keeps some.

    Parameters
    ----------
    student_logits, teacher_logits
        Shape (..., C).
    mask
        Shape (...), boolean or of zeros and ones; true keeps. An attention mask, or ``labels != -100``. None: all.

    Raises
    ------
    ParameterError
        As :func:`check_logits`; for a mask of another shape or device or with other values, or that keeps nothing.

    Examples
    --------
    >>> import torch
    >>> logits, labels = torch.zeros(2, 3, 5), torch.tensor([[1, 2, -100], [4, -100, -100]])
    >>> flat_logits(logits, logits, labels != -100)[0].shape
    torch.Size([3, 5])
    """
    check_logits(student_logits, teacher_logits)
    student, teacher = (logits.reshape(-1, logits.shape[-1]) for logits in (student_logits, teacher_logits))
    if mask is None:
        return student, teacher
    if mask.shape != student_logits.shape[:-1] or mask.device != student_logits.device:
        wanted = f"shape {tuple(student_logits.shape[:-1])} on {student_logits.device}"
        raise ParameterError(f"mask must have {wanted}, got {tuple(mask.shape)} on {mask.device}")
    keep = mask.reshape(-1).bool()
    if not torch.equal(keep.to(mask.dtype), mask.reshape(-1)):
        raise ParameterError("mask must be boolean or of zeros and ones; of labels it is labels != -100")
    if not keep.any():
        raise ParameterError(f"mask must keep a sample, got none of {keep.numel()}: all labels ignored, or all padding")
    return student[keep], teacher[keep]


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Forward KL(teacher || student) in nats, shape (N, C) each, averaged over the rows.

    Examples
    --------
    >>> import torch
    >>> kl_divergence(torch.zeros(1, 2), torch.tensor([[0.0, -100.0]])).item()  # log 2
    0.6931471824645996
    """
    return kl_divergence_logits(teacher_logits, student_logits).mean()


def reverse_kl_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Reverse KL(student || teacher) in nats, shape (N, C) each, averaged over the rows."""
    return kl_divergence_logits(student_logits, teacher_logits).mean()


def js_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, in [0, log 2], shape (N, C) each, averaged over the rows."""
    return js_divergence_logits(student_logits, teacher_logits).mean()


def mixed_objective(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    progress: float,
    *,
    alpha: float = 0.8,
    beta: float = 0.8,
    temperature: float = 3.0,
    extra: LogitLoss = kl_divergence,
) -> Tensor:
    """The training loss (1 - alpha) CE + alpha KD + beta extra of many distillation papers, a scalar.

    KD is the soft cross-entropy at a temperature that falls linearly to 1, without a factor of its square.

    Parameters
    ----------
    student_logits, teacher_logits
        Shape (N, C).
    labels
        Class indices, shape (N,).
    progress
        From 0 in the first epoch to 1 in the last.
    alpha, beta
        Share of KD in [0, 1], and the weight of the extra term.
    temperature
        Of KD, in the first epoch.
    extra
        The paper's own loss.

    Examples
    --------
    >>> import torch
    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 9.0]])
    >>> mixed_objective(student, teacher, torch.tensor([1]), 1.0, alpha=0.5, beta=0.0).item()  # log 2
    0.6931471824645996
    """
    annealed = temperature + (1 - temperature) * progress
    hard = F.cross_entropy(student_logits, labels)
    soft = F.cross_entropy(student_logits / annealed, (teacher_logits.detach() / annealed).softmax(-1))
    mixed = (1 - alpha) * hard + alpha * soft
    return mixed + beta * extra(student_logits, teacher_logits) if beta else mixed
