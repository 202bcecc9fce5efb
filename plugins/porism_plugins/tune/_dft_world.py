"""A world small enough to enumerate: 64 answers of three symbols to a prompt, models with exact likelihoods.

A prompt is a vector of features, a model a matrix of weights for each prefix of an answer: the next symbol has a
softmax that is linear in the features. What a loss on samples estimates can be summed over all answers here.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SYMBOLS, LENGTH, FEATURES = 4, 3, 8
ANSWERS = SYMBOLS**LENGTH
_STRINGS = list(itertools.product(range(SYMBOLS), repeat=LENGTH))
_PREFIXES = {prefix: number for number, prefix in enumerate(
    prefix for size in range(LENGTH) for prefix in itertools.product(range(SYMBOLS), repeat=size))}  # fmt: skip
# For each answer and position the entry of (prefix, symbol) among all, shape (ANSWERS, LENGTH).
_ENTRIES = torch.tensor([[SYMBOLS * _PREFIXES[string[:place]] + string[place] for place in range(LENGTH)]
                         for string in _STRINGS])  # fmt: skip


def random_weights(rng: np.random.Generator, scale: float = 1.0) -> Tensor:
    """A model: float64 of shape (FEATURES, prefixes, SYMBOLS); logits have this standard deviation."""
    shape = (FEATURES, len(_PREFIXES), SYMBOLS)
    return torch.from_numpy(rng.normal(size=shape) * scale / np.sqrt(FEATURES))


def prompts(rng: np.random.Generator, count: int) -> Tensor:
    """Features of that many prompts, shape (count, FEATURES)."""
    return torch.from_numpy(rng.normal(size=(count, FEATURES)))


def log_likelihoods(weights: Tensor, x: Tensor) -> Tensor:
    """Of every answer to every prompt, shape (prompts, ANSWERS)."""
    logits = (x @ weights.flatten(1)).view(len(x), len(_PREFIXES), SYMBOLS)
    return logits.log_softmax(-1).flatten(1)[:, _ENTRIES].sum(-1)


def tempered(weights: Tensor, x: Tensor, temperature: float) -> Tensor:
    """:func:`log_likelihoods` of a sampler with a temperature on every symbol, as ``generate`` has it."""
    return log_likelihoods(weights / temperature, x)


def draw(rng: np.random.Generator, log_probabilities: Tensor, count: int) -> Tensor:
    """Answers drawn with these log-probabilities, shape (prompts, count)."""
    noise = torch.from_numpy(rng.gumbel(size=(count, *log_probabilities.shape)))
    return (log_probabilities + noise).argmax(-1).T


def objective(scores: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """The paper's F with the sum over all answers: scores of shape (prompts, ANSWERS), answers of shape (prompts,)."""
    given = scores.gather(1, answers[:, None])[:, 0]
    return (temperature * (scores / temperature).logsumexp(1) - given).mean()


class Task(NamedTuple):
    """Prompts with right answers, a base model that also gives plausible wrong ones, and held-out prompts."""

    base: Tensor
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def task(rng: np.random.Generator, *, train: int = 128) -> Task:
    """Right answers are the likeliest of a hidden model; the base is halfway between this model and another one."""
    truth, error = random_weights(rng, 2.0), random_weights(rng, 2.0)
    parts = []
    for count in (train, 400, 1000):
        x = prompts(rng, count)
        parts.append((x, log_likelihoods(truth, x).argmax(1)))
    return Task((truth + error) / 2, *parts)
