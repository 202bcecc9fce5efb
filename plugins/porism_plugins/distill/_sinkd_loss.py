"""The losses of SinKD: transport between two batches of outputs, and between the classes of one output."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from porism import validated
from porism.errors import ParameterError
from porism_plugins.distill._losses import check_logits, flat_logits

Positive = Annotated[float, Interval(ge=1e-3, le=1000)]
Iterations = Annotated[int, Interval(ge=1, le=1000)]


class SinKDLoss(nn.Module):
    """Batch-wise Sinkhorn distillation loss; gradients flow through cost and plan, to the student only.

    Parameters
    ----------
    temperature
        Divides both logits before the softmax.
    epsilon
        Entropic regularisation, in units of the cost, an L1 distance in [0, 2].
    iterations
        Row and column scalings; the published 20 do not converge for peaked outputs.
    reduction
        ``"mean"`` divides the cost of the plan by the number of samples, for a loss in [0, 2]; ``"sum"`` does not.
    group_size
        Transport within consecutive groups of this many samples, all of them for 0; what is left at the end is a
        smaller group. Time and memory of n samples grow as n times this: 1 is the sample-wise L1 distance.

    Raises
    ------
    ParameterError
        For options out of range; for logits that are empty, not floating, unequal in shape or device; for a mask
        that does not fit or keeps nothing.

    Notes
    -----
    Equal outputs give not 0 but an entropic bias below epsilon log B, and the loss alone does not tie a student
    row to its own teacher row. Half precision is computed and returned in float32. Ties have gradient 0.

    Examples
    --------
    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 2.0]])
    >>> SinKDLoss()(student, teacher)  # of one sample the L1 distance, 2 sigmoid(1) - 1
    tensor(0.4621)
    """

    @validated
    def __init__(
        self, *, temperature: Positive = 2.0, epsilon: Positive = 0.1, iterations: Iterations = 20,
        reduction: Literal["mean", "sum"] = "mean", group_size: Annotated[int, Interval(ge=0)] = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.reduction, self.group_size = reduction, group_size

    def cost(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return D_ij = |p^s_i - p^t_j|_1, shape (groups, B, B), for logits (..., C); the teacher is detached."""
        check_logits(student_logits, teacher_logits)
        samples = student_logits.shape[:-1].numel()
        group_size = min(self.group_size or samples, samples)
        if samples % group_size:
            raise ParameterError(f"group_size must divide the number of samples {samples}, got {group_size}")
        p_student, p_teacher = (
            probabilities(logits, self.temperature).reshape(-1, group_size, logits.shape[-1])
            for logits in (student_logits, teacher_logits.detach())
        )
        return torch.cdist(p_student, p_teacher, p=1)

    def plan(self, cost: Tensor) -> Tensor:
        """Scale rows, then columns, of K = exp(-D / epsilon) to sum 1, ``iterations`` times; shape as ``cost``."""
        log_plan = -cost / self.epsilon
        for _ in range(self.iterations):  # to divide by a sum is to subtract its logarithm: log_softmax
            log_plan = log_plan.log_softmax(-1).log_softmax(-2)
        return log_plan.exp()

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar.

        Parameters
        ----------
        student_logits, teacher_logits
            Shape (..., C), where all axes but C count samples: (N, C) of a classifier, (B, T, V) of a language model.
        mask
            Shape (...), boolean or of zeros and ones: the samples or tokens that count. None: all.
        """
        student, teacher = flat_logits(student_logits, teacher_logits, mask)
        in_groups = len(student) - len(student) % min(self.group_size or len(student), len(student))
        costs = map(self.cost, student.split(in_groups), teacher.split(in_groups))  # the rest is a group of its own
        total = torch.stack([(self.plan(cost) * cost).sum() for cost in costs]).sum()
        return total / len(student) if self.reduction == "mean" else total


@validated
def sample_wise_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    class_cost: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    temperature: Positive = 2.0,
    epsilon: Positive = 0.1,
    iterations: Iterations = 20,
) -> Tensor:
    """Entropic transport of each student output onto its own teacher's, class by class, averaged over samples.

    What the batch-wise form takes the place of. The paper does not fix the price of moving probability from one class
    to another, so it is an argument here. The plan's column sums are the teacher's probabilities, its row sums the
    student's only at convergence.

    Parameters
    ----------
    student_logits, teacher_logits, mask
        As for :class:`SinKDLoss`.
    class_cost
        Shape (C, C), finite and at least 0. None: 2 between any two classes, at which exact transport costs the L1
        distance, the batch-wise loss with ``group_size=1``; converged entropic transport up to epsilon log C more.
    temperature, epsilon, iterations
        As for :class:`SinKDLoss`. Memory grows as N C^2 times the iterations: for tens of classes.

    Raises
    ------
    ParameterError
        As :class:`SinKDLoss`, and for costs of another shape or that are not finite and at least 0.

    Examples
    --------
    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 2.0]])
    >>> sample_wise_loss(student, teacher, epsilon=0.1, iterations=100)
    tensor(0.4621)
    """
    student, teacher = flat_logits(student_logits, teacher_logits.detach(), mask)
    rows, columns = (probabilities(logits, temperature, log=True) for logits in (student, teacher))
    classes = student.shape[-1]
    if class_cost is None:
        class_cost = 2 * (1 - torch.eye(classes, device=student.device))
    if class_cost.shape != (classes, classes) or not bool((class_cost.isfinite() & (class_cost >= 0)).all()):
        raise ParameterError(f"class_cost must be ({classes}, {classes}), finite and at least 0")
    cost = class_cost.to(rows)
    return (class_plan(rows, columns, cost, epsilon, iterations) * cost).sum((-2, -1)).mean()


def class_plan(rows: Tensor, columns: Tensor, cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Plans (N, C, C) between log-probabilities ``rows`` and ``columns``, (N, C) each; the columns' sums are exact."""
    log_plan = (-cost / epsilon).expand(len(rows), *cost.shape)
    for _ in range(iterations):
        log_plan = log_plan.log_softmax(-1) + rows.unsqueeze(-1)
        log_plan = log_plan.log_softmax(-2) + columns.unsqueeze(-2)
    return log_plan.exp()


def probabilities(logits: Tensor, temperature: float, *, log: bool = False) -> Tensor:
    """Softmax over the last axis or its logarithm, at least in float32: float16 is too coarse for D / epsilon."""
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return scaled.log_softmax(-1) if log else scaled.softmax(-1)
