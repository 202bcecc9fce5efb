"""What distillation papers share: losses to compete with, small networks, and the loops that train them.

Everything random comes from a :class:`numpy.random.Generator`; torch's global generator is never touched.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from porism.divergences import js_divergence_logits, kl_divergence_logits, tv_distance
from porism.drawing import columns
from porism.errors import ParameterError
from porism.figures import Table
from porism.metrics import accuracy
from porism.stats import median_interval
from porism.testbeds import digits, mlp, torch_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# (student logits, teacher logits) -> scalar
LogitLoss = Callable[[Tensor, Tensor], Tensor]
# (student logits, teacher logits, labels, progress in [0, 1]) -> scalar
Objective = Callable[[Tensor, Tensor, Tensor, float], Tensor]

# For free logits, where nothing but the loss sets the scale of a step.
LEARNING_RATES = (1.0, 4.0, 16.0, 64.0, 256.0)


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


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Forward KL(teacher || student) in nats, shape (N, C) each, averaged over the rows.

    Examples
    --------
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


def batch_variation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean total variation between two batches at their best pairing, whichever row is whose, a scalar."""
    cost = tv_distance(student_logits.softmax(-1).unsqueeze(1), teacher_logits.softmax(-1))
    return cost[linear_sum_assignment(cost)].mean()


def fit(
    model: nn.Module,
    inputs: Tensor,
    loss: Callable[[Tensor, Tensor, int], Tensor],
    rng: np.random.Generator,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float = 0.01,
) -> nn.Module:
    """Train with Adam on ``loss(logits, rows, epoch)``, where ``rows`` says which inputs the logits belong to.

    Rows are shuffled in every epoch; the last batch may be smaller.
    """
    generator = torch_generator(rng)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, foreach=False)
    for epoch in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(batch_size):
            optimizer.zero_grad()
            loss(model(inputs[rows]), rows, epoch).backward()
            optimizer.step()
    return model


@torch.no_grad()
def score(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Accuracy of the class with the largest logit."""
    return accuracy(model(inputs).argmax(-1), labels)


def random_logits(rng: np.random.Generator, *, samples: int, classes: int, spread: float) -> Tensor:
    """Student and teacher logits, normal with standard deviation ``spread``, float64, (2, samples, classes)."""
    return torch.from_numpy(rng.normal(scale=spread, size=(2, samples, classes)))


def disjoint_logits(rng: np.random.Generator, *, samples: int, classes: int, gap: float) -> tuple[Tensor, Tensor]:
    """Student and teacher logits that hardly overlap, float64, shape (samples, classes) each.

    Every teacher row has its peak in the first half of the classes and every student row in the second, so
    that the two batches, not only their paired rows, are far apart. A peak stands ``gap`` above the rest, up to
    a normal jitter of standard deviation 0.1.
    """
    student, teacher = rng.normal(scale=0.1, size=(2, samples, classes))
    rows = np.arange(samples)
    teacher[rows, rng.integers(0, classes // 2, samples)] += gap
    student[rows, rng.integers(classes // 2, classes, samples)] += gap
    return torch.from_numpy(student), torch.from_numpy(teacher)


def gradient(loss: LogitLoss, student: Tensor, teacher: Tensor) -> Tensor:
    """Gradient per sample at the student's logits, shape (N, C): that of the averaged loss times N."""
    logits = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(logits, teacher), logits)[0] * len(student)


def descend(loss: LogitLoss, student: Tensor, teacher: Tensor, *, steps: int, learning_rate: float) -> Iterator[Tensor]:
    """Plain gradient descent on free student logits: yields them before the first step and after each."""
    yield student
    for _ in range(steps):
        student = student - learning_rate * gradient(loss, student, teacher)
        yield student


def fewest_steps(
    loss: LogitLoss,
    student: Tensor,
    teacher: Tensor,
    *,
    within: float = 0.1,
    steps: int = 200,
    learning_rates: Sequence[float] = LEARNING_RATES,
) -> int:
    """Steps of :func:`descend` until :func:`batch_variation` is below ``within``, at the best learning rate.

    Any pairing of the rows will do. A loss that never gets there is charged all ``steps``.
    """
    counts = [steps]
    for learning_rate in learning_rates:
        path = descend(loss, student, teacher, steps=min(counts), learning_rate=learning_rate)
        counts += [n for n, logits in enumerate(path) if batch_variation(logits, teacher) < within][:1]
    return min(counts)


def best_agreement(
    loss: LogitLoss,
    student: Tensor,
    teacher: Tensor,
    *,
    steps: int = 200,
    learning_rates: Sequence[float] = LEARNING_RATES,
) -> float:
    """Share of samples whose student ends up with its teacher's largest class, at the best learning rate."""
    shares = []
    for learning_rate in learning_rates:
        *_, logits = descend(loss, student, teacher, steps=steps, learning_rate=learning_rate)
        shares.append(float((logits.argmax(-1) == teacher.argmax(-1)).double().mean()))
    return max(shares)


class Score(NamedTuple):
    """Accuracies of one student, in [0, 1]."""

    validation: float
    test: float


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
    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 9.0]])
    >>> mixed_objective(student, teacher, torch.tensor([1]), 1.0, alpha=0.5, beta=0.0).item()  # log 2
    0.6931471824645996
    """
    annealed = temperature + (1 - temperature) * progress
    hard = F.cross_entropy(student_logits, labels)
    soft = F.cross_entropy(student_logits / annealed, (teacher_logits.detach() / annealed).softmax(-1))
    mixed = (1 - alpha) * hard + alpha * soft
    return mixed + beta * extra(student_logits, teacher_logits) if beta else mixed


def distil_digits(
    rng: np.random.Generator,
    objectives: Mapping[str, Objective],
    *,
    labels: int = 100,
    epochs: int = 60,
    batch_size: int = 20,
) -> dict[str, Score]:
    """Teach one small student per objective, all from the same digits, teacher, initial weights and batches.

    The teacher, an MLP 128-128, is trained on 600 digits that the student never sees and is right on 96 %; the
    student has 8 hidden units. With few labels plain KD helps it (by some 2 points over CE at 100), so that there
    is something to improve.

    Parameters
    ----------
    objectives
        By name.
    labels
        Labelled digits of the student; 300 others are for validation and the rest for the test.
    """
    data = digits(rng, train=labels + 600, validation=300)
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    (x, teacher_x), (y, teacher_y) = x.split([labels, 600]), y.split([labels, 600])
    teacher = mlp([64, 128, 128, 10], rng)
    fit(teacher, teacher_x, lambda z, rows, _: F.cross_entropy(z, teacher_y[rows]), rng, epochs=20, batch_size=50)
    with torch.no_grad():
        teacher_logits = teacher(x)
    scores = {}
    for name, objective in objectives.items():
        same = copy.deepcopy(rng)
        student = mlp([64, 8, 10], same)

        def loss(logits: Tensor, rows: Tensor, epoch: int, objective: Objective = objective) -> Tensor:
            return objective(logits, teacher_logits[rows], y[rows], epoch / max(epochs - 1, 1))

        fit(student, x, loss, same, epochs=epochs, batch_size=batch_size)
        parts = ((data.x_validation, data.y_validation), (data.x_test, data.y_test))
        scores[name] = Score(*(score(student, torch.from_numpy(a), torch.from_numpy(b)) for a, b in parts))
    return scores


def tuned_accuracy(rng: np.random.Generator, *, extra: LogitLoss, weights: Sequence[float] = (0.02, 0.2, 2.0)) -> float:
    """Test accuracy with ``extra`` in :func:`mixed_objective`, at the weight that does best on the validation set."""
    mixed = functools.partial(mixed_objective, extra=extra)
    scores = distil_digits(rng, {f"{beta}": functools.partial(mixed, beta=beta) for beta in weights})
    return max(scores.values(), key=lambda score: score.validation).test


def arms(name: str, extra: LogitLoss, *, alpha: float = 0.8, beta: float = 0.8) -> dict[str, Objective]:
    """Objectives CE, CE+name, CE+KD and CE+KD+name, to see what the extra term adds to each."""
    weights = {"CE": (0.0, 0.0), f"CE+{name}": (0.0, beta), "CE+KD": (alpha, 0.0), f"CE+KD+{name}": (alpha, beta)}
    mixed = functools.partial(mixed_objective, extra=extra)
    return {arm: functools.partial(mixed, alpha=a, beta=b) for arm, (a, b) in weights.items()}


def accuracy_table(rng: np.random.Generator, objectives: Mapping[str, Objective], *, replicates: int) -> Table:
    """Columns ``replicate``, ``arm`` and ``accuracy`` of :func:`distil_digits` on fresh splits and teachers."""
    rows = (
        (replicate, arm, score.test)
        for replicate, child in enumerate(rng.spawn(replicates))
        for arm, score in distil_digits(child, objectives).items()
    )
    return columns("replicate arm accuracy", list(rows))


def draw_paired(table: Table, left: Axes, right: Axes) -> None:
    """Draw an :func:`accuracy_table` of :func:`arms`: each replicate a line, and its differences from CE+KD.

    Diamonds are medians, on the right with exact 95 % intervals.
    """
    percent = {arm: 100 * table["accuracy"][table["arm"] == arm] for arm in dict.fromkeys(table["arm"].tolist())}
    left.plot(list(percent), np.array(list(percent.values())), "o-", color="0.75", markersize=3, linewidth=0.7)
    left.plot(list(percent), [np.median(values) for values in percent.values()], "D", color="C0")
    left.set_ylabel("test accuracy in %")
    baseline = percent.pop("CE+KD")
    for place, values in enumerate(percent.values()):
        difference = values - baseline
        middle, (low, high) = np.median(difference), median_interval(difference)
        right.plot(np.full(len(difference), place), difference, "o", color="0.75", markersize=3)
        right.errorbar(place, middle, [[middle - low], [high - middle]], fmt="D", color="C0", capsize=4)
    right.axhline(0, color="0.3", linewidth=0.7)
    right.set(xticks=range(len(percent)), xticklabels=list(percent), ylabel="points of accuracy above CE+KD")
