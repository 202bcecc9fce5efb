"""SinKD and its competitors on small transformers: a BERT that fills in vowels, a Llama that predicts characters.

Every arm has the same teacher, data, initial weights, batches and steps, and its weight is chosen on validation data.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from porism.testbeds import accuracy, bits_per_character, corpus, missing_vowels, train, windows
from porism_plugins.distill._losses import (
    LogitLoss,
    Objective,
    js_divergence,
    kl_divergence,
    mixed_objective,
    reverse_kl_divergence,
)
from porism_plugins.distill._sinkd_loss import SinKDLoss

Kind = Literal["encoder", "decoder"]
LENGTH = 32
# Of the extra term, chosen for each arm alike.
WEIGHTS = (0.2, 2.0)


def softened(loss: LogitLoss, temperature: float = 2.0) -> LogitLoss:
    """The loss between outputs at the temperature that SinKD has."""
    return lambda student, teacher: loss(student / temperature, teacher / temperature)


EXTRAS: dict[str, LogitLoss] = {
    "KL": softened(kl_divergence),
    "RKL": softened(reverse_kl_divergence),
    "JS": softened(js_divergence),
    "SinKD": SinKDLoss(group_size=64),
}


class Task(NamedTuple):
    """Inputs (n, length), labels and teacher logits of the training set, a new student, and scores; higher is better.

    Labels are (n,) and logits (n, classes) for the encoder, (n, length - 1) and (n, length - 1, vocabulary) for the
    decoder, whose last output predicts nothing.
    """

    inputs: Tensor
    labels: Tensor
    teacher_logits: Tensor
    student: nn.Module
    validation: Callable[[nn.Module], float]
    test: Callable[[nn.Module], float]


class Distilled(nn.Module):
    """A student whose output has the objective for its loss, as :func:`porism.testbeds.train` wants it."""

    def __init__(self, student: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.student, self.objective = student, objective

    def forward(self, inputs: Tensor, labels: Tensor, teacher_logits: Tensor, progress: float) -> SimpleNamespace:
        """Run the student and compare."""
        logits = self.student(inputs).logits
        if logits.dim() == 3:  # the last position has no next character
            logits = logits[:, :-1].flatten(0, 1)
        return SimpleNamespace(loss=self.objective(logits, teacher_logits.flatten(0, -2), labels.flatten(), progress))


@functools.cache
def _encoder_teacher() -> tuple[Any, ...]:
    from porism.testbeds import tiny_bert  # transformers, which the loss alone does not need

    text = corpus(np.random.default_rng(0))
    parts = tuple(missing_vowels(part, length=LENGTH) for part in (text.train, text.validation, text.test))
    return *parts, tiny_bert(parts[0].x, parts[0].y)


@functools.cache
def _decoder_teacher() -> tuple[Any, ...]:
    from porism.testbeds import tiny_llama

    text = corpus(np.random.default_rng(0))
    return text.train, text.validation, text.test, tiny_llama(text.train)


def encoder(rng: np.random.Generator, *, labelled: int = 512) -> Task:
    """A BERT of one layer for one of two, from few windows with a missing vowel."""
    gaps, checked, tested, teacher = _encoder_teacher()
    x, y = (torch.from_numpy(a) for a in _chosen(rng, gaps, labelled))
    parts = (_chosen(rng, part, 1000) for part in (checked, tested))
    with torch.no_grad():
        scores = (functools.partial(_accuracy, data=part) for part in parts)
        return Task(x, y, teacher(x).logits, _first_layer(teacher), *scores)


def decoder(rng: np.random.Generator, *, texts: int = 160) -> Task:
    """A Llama of one layer for one of two, from few windows of characters."""
    text, checked, tested, teacher = _decoder_teacher()
    x = torch.from_numpy(windows(rng, text, batch=texts, length=LENGTH + 1))
    parts = (windows(rng, part, batch=100, length=64).reshape(-1) for part in (checked, tested))
    with torch.no_grad():
        scores = (functools.partial(_negative_bits, tokens=part) for part in parts)
        return Task(x, x[:, 1:], teacher(x, use_cache=False).logits[:, :-1], _first_layer(teacher), *scores)


TASKS: dict[Kind, Callable[[np.random.Generator], Task]] = {"encoder": encoder, "decoder": decoder}


def objectives(arm: str) -> list[Objective]:
    """What an arm may train by, one for each weight: CE, CE+KD, or these and a term of :data:`EXTRAS`."""
    if arm in EXTRAS:
        return [functools.partial(mixed_objective, beta=weight, extra=EXTRAS[arm]) for weight in WEIGHTS]
    return [functools.partial(mixed_objective, alpha=0.0 if arm == "CE" else 0.8, beta=0.0)]


def distilled(rng: np.random.Generator, task: Task, objective: Objective, *, steps: int = 30) -> nn.Module:
    """A student after the same steps and batches for every objective."""
    size = 32 if task.labels.dim() == 1 else 8

    def batches() -> Iterator[dict[str, Any]]:
        for step in range(steps):
            rows = torch.from_numpy(rng.integers(len(task.inputs), size=size))
            parts = {name: getattr(task, name)[rows] for name in ("inputs", "labels", "teacher_logits")}
            yield {**parts, "progress": step / (steps - 1)}

    student = copy.deepcopy(task.student)
    train(Distilled(student, objective), batches(), steps=steps, learning_rate=1e-2)
    return student


def score(rng: np.random.Generator, *, arm: str, kind: Kind) -> float:
    """Test score at the weight that does best on validation data: accuracy, or minus bits a character."""
    task = TASKS[kind](rng)
    students = [distilled(copy.deepcopy(rng), task, objective) for objective in objectives(arm)]
    return task.test(max(students, key=task.validation))


def _chosen(rng: np.random.Generator, gaps: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    rows = rng.choice(len(gaps.y), size=count, replace=False)
    return gaps.x[rows], gaps.y[rows]


def _first_layer(teacher: nn.Module) -> nn.Module:
    """A student of one layer that starts as the teacher's embedding, first layer and head, as small BERTs do."""
    student = copy.deepcopy(teacher)
    student.config.num_hidden_layers = 1
    body = student.bert.encoder if hasattr(student, "bert") else student.model
    name = "layer" if hasattr(student, "bert") else "layers"
    setattr(body, name, getattr(body, name)[:1])
    return student


def _accuracy(model: nn.Module, data: tuple[np.ndarray, np.ndarray]) -> float:
    return accuracy(model, *data)


def _negative_bits(model: nn.Module, tokens: np.ndarray) -> float:
    return -bits_per_character(model, tokens, length=64)
