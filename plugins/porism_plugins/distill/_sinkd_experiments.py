"""What the claims of SinKD measure on free logits and on digits.

Everything random comes from a :class:`numpy.random.Generator`; torch's global generator is never touched.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from porism.divergences import tv_distance
from porism.metrics import accuracy
from porism.testbeds import digits, mlp, torch_generator
from porism_plugins.distill._losses import LogitLoss, Objective, kl_divergence, mixed_objective

# For free logits, where nothing but the loss sets the scale of a step.
LEARNING_RATES = (1.0, 4.0, 16.0, 64.0, 256.0)


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


def gain(rng: np.random.Generator, *, extra: LogitLoss, batch_size: int, steps: int = 300, labels: int = 100) -> float:
    """What ``extra`` adds beside CE and KD, less what KL adds, in accuracy, after the same steps of any batch size."""
    mixed = {"ours": extra, "KL": more_of_kd}
    epochs = max(1, steps // math.ceil(labels / batch_size))
    found = distil_digits(
        rng,
        {name: functools.partial(mixed_objective, extra=loss) for name, loss in mixed.items()},
        labels=labels, epochs=epochs, batch_size=batch_size,
    )  # fmt: skip
    return found["ours"].test - found["KL"].test


def more_of_kd(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL at the temperature 2 that SinKD has."""
    return kl_divergence(student_logits / 2, teacher_logits / 2)


def share_with_gradient(loss: LogitLoss, student: Tensor, teacher: Tensor, *, temperature: float) -> float:
    """Share of samples whose gradient has a norm of 1e-6 or more, both logits divided by a temperature."""
    pulls = gradient(lambda a, b: loss(a / temperature, b / temperature), student, teacher).norm(dim=-1)
    return float((pulls >= 1e-6).double().mean())
