"""Margins of SinKD's invariants: how far the losses are from what they must be, in float64."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Interval
from scipy.optimize import linear_sum_assignment

from porism.transport import sinkhorn
from porism_plugins.distill._sinkd_experiments import random_logits
from porism_plugins.distill._sinkd_loss import SinKDLoss, class_plan, probabilities, sample_wise_loss

Rng = np.random.Generator
Size = Annotated[int, Interval(ge=2, le=24)]
Gap = Annotated[float, Interval(gt=0, le=30)]
Wide = Annotated[float, Interval(ge=0.1, le=1000)]
Replicates = Annotated[int, Interval(ge=1, le=100)]
ROUNDING = 1e-8


def symmetry(
    rng: Rng, *, samples: int, classes: int, spread: float, epsilon: float, reorder: Literal["all", "student classes"]
) -> float:
    """Minus the change of the loss where rows of either batch, and the classes of both or one, are reordered."""
    student, teacher = random_logits(rng, samples=samples, classes=classes, spread=spread)
    rows, columns, order = rng.permutation(samples), rng.permutation(samples), rng.permutation(classes)
    moved = teacher[columns][:, order] if reorder == "all" else teacher
    loss = SinKDLoss(epsilon=epsilon)
    return ROUNDING - (loss(student, teacher) - loss(student[rows][:, order], moved)).abs().item()


def bracket(
    rng: Rng, *, samples: int, classes: int, spread: float, epsilon: float, iterations: int, allowed: float
) -> float:
    """How far inside [assignment cost, assignment cost + allowed] the loss is, give or take the plan's row error."""
    loss = SinKDLoss(epsilon=epsilon, iterations=iterations)  # derived in tests/papers/test_sinkd.py
    cost = loss.cost(*random_logits(rng, samples=samples, classes=classes, spread=spread))[0]
    plan = loss.plan(cost)
    above = float((plan * cost).sum() / samples - cost[linear_sum_assignment(cost)].mean())
    row_error = float((plan.sum(1) - 1).abs().mean())
    return min(above, allowed - above) + row_error + ROUNDING


def convergence(
    rng: Rng, *, samples: int, classes: int, spread: float, epsilon: float, iterations: int, factor: float
) -> float:
    """The plan's summed row error less the distance to converged transport at ``factor`` times epsilon."""
    loss = SinKDLoss(epsilon=epsilon, iterations=iterations)
    cost = loss.cost(*random_logits(rng, samples=samples, classes=classes, spread=spread))[0]
    plan = loss.plan(cost)
    converged = sinkhorn(cost, epsilon=factor * epsilon, iterations=100_000, tolerance=1e-10)
    value = float((plan * cost).sum() / samples)
    away = abs(value - float((torch.as_tensor(converged.plan()) * cost).sum()))
    return float((plan.sum(1) - 1).abs().sum()) + ROUNDING - away


def below_sample_wise(
    rng: Rng, *, samples: int, classes: int, spread: float, epsilon: float, likeness: float, larger: str
) -> float:
    """By how much the batch-wise loss is below the sample-wise one, up to its entropic bias and row error.

    The student's logits are its own teacher's by the share ``likeness``, the rest is noise.
    """
    noise, teacher = random_logits(rng, samples=samples, classes=classes, spread=spread)
    student = likeness * teacher + (1 - likeness) * noise
    batch_wise = SinKDLoss(epsilon=epsilon)
    cost = batch_wise.cost(student, teacher)[0]
    allowed = epsilon * math.log(samples) + float((batch_wise.plan(cost).sum(1) - 1).abs().mean()) + ROUNDING
    below = float(SinKDLoss(group_size=1)(student, teacher) - batch_wise(student, teacher))
    return allowed + (below if larger == "sample-wise" else -below)


def sample_wise_bracket(
    rng: Rng, *, samples: int, classes: int, spread: float, epsilon: float, iterations: int, allowed: float
) -> float:
    """How far inside [L1, L1 + allowed] transport between classes at one price is, up to the plan's row error."""
    student, teacher = random_logits(rng, samples=samples, classes=classes, spread=spread)
    options = {"epsilon": epsilon, "iterations": iterations}
    above = float(sample_wise_loss(student, teacher, **options) - SinKDLoss(group_size=1)(student, teacher))
    rows, columns = (probabilities(logits, 2.0, log=True) for logits in (student, teacher))
    plan = class_plan(rows, columns, 2 * (1 - torch.eye(classes, dtype=rows.dtype)), **options)
    row_error = float((plan.sum(-1) - rows.exp()).abs().sum(-1).mean())
    return min(above, allowed - above) + row_error + ROUNDING
