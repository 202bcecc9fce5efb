"""Small trainings on which optimisers are compared: digits, and a character language model of Python's manual.

A problem fixes data, batches and initial weights, so that every optimiser sees the same ones.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.testbeds import digits
from porism.testbeds.language import ALPHABET, corpus, windows
from porism_plugins.optim._engine import counted, matrix_and_other_parameters

# (parameters or groups, lr) -> optimiser
Make = Callable[..., torch.optim.Optimizer]
# The same for every optimiser; all of them scale their steps to AdamW's.
LEARNING_RATES = (1e-3, 3e-3, 1e-2)


class Problem(NamedTuple):
    """Initial weights, ``loss(model, t)`` on the batch of step t, and losses on data for choosing and for judging."""

    model: nn.Module
    loss: Callable[[nn.Module, int], Tensor]
    choose: Callable[[nn.Module], Tensor]
    judge: Callable[[nn.Module], Tensor]


class Trained(NamedTuple):
    """Training losses, (steps,), the final losses for choosing and judging, and numbers in the optimiser's state."""

    losses: np.ndarray
    choose: float
    judge: float
    state: int


def train(problem: Problem, make: Make, *, lr: float, steps: int) -> Trained:
    """Train a copy of the model with a learning rate that falls linearly to 0."""
    model = copy.deepcopy(problem.model)
    optimizer = make(matrix_and_other_parameters(model), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)
    losses = []
    for t in range(steps):
        optimizer.zero_grad()
        loss = problem.loss(model, t)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    with torch.no_grad():
        final = problem.choose(model).item(), problem.judge(model).item()
    worst = math.log(1000)  # what diverged is charged a finite loss
    return Trained(np.array(losses), *(min(x, worst) if math.isfinite(x) else worst for x in final), counted(optimizer))


def tuned(problem: Problem, make: Make, *, steps: int, rates: Sequence[float] = LEARNING_RATES) -> Trained:
    """Of the trainings at several learning rates the one with the best loss for choosing."""
    return min((train(problem, make, lr=lr, steps=steps) for lr in rates), key=lambda run: run.choose)


def digits_problem(rng: np.random.Generator, *, steps: int, batch: int = 64, width: int = 128) -> Problem:
    """An MLP 64-width-width-10 on 1000 digits, judged by its training loss."""
    data = digits(rng, train=1000, validation=300)
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    rows = torch.from_numpy(rng.integers(len(x), size=(steps, batch)))
    sizes = (64, width, width, 10)

    def build() -> nn.Module:
        layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    model = initialised(build, rng)

    def whole(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(x), y)

    return Problem(model, lambda model, t: F.cross_entropy(model(x[rows[t]]), y[rows[t]]), whole, whole)


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query, self.key, self.value, self.project = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        normed = self.norms[0](x)
        q, k, v = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class LanguageModel(nn.Module):
    """Characters to logits of the next ones."""

    def __init__(self, *, width: int = 64, heads: int = 4, blocks: int = 1, length: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(len(ALPHABET), width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(ALPHABET), bias=False)

    def forward(self, codes: Tensor) -> Tensor:
        """(batch, length) to (batch, length, characters)."""
        x = self.embed(codes) + self.place.weight[: codes.shape[-1]]
        return self.head(self.norm(self.blocks(x)))


def language_problem(
    rng: np.random.Generator, *, steps: int, batch: int = 8, length: int = 32, **sizes: Any
) -> Problem:
    """A transformer on the manual's characters; validation chooses, the test topics judge, 8192 characters each."""
    data = corpus(rng)
    held = 256

    def drawn(tokens: np.ndarray, many: int) -> Tensor:
        return torch.from_numpy(windows(rng, tokens, batch=many, length=length + 1))

    batches = drawn(data.train, steps * batch).reshape(steps, batch, length + 1)
    choose, judge = (drawn(part, held) for part in (data.validation, data.test))
    model = initialised(lambda: LanguageModel(length=length, **sizes), rng)

    def loss(model: nn.Module, codes: Tensor) -> Tensor:
        return F.cross_entropy(model(codes[:, :-1]).flatten(0, 1), codes[:, 1:].flatten())

    return Problem(
        model,
        lambda model, t: loss(model, batches[t]),
        lambda model: loss(model, choose),
        lambda model: loss(model, judge),
    )


def initialised(build: Callable[[], nn.Module], rng: np.random.Generator) -> nn.Module:
    """Draw a new model's weights: matrices uniform on +-1/sqrt(columns), as ``nn.Linear`` does, embeddings normal.

    Biases are 0. What the layers draw themselves does not count, nor does it move torch's global generator.
    """
    with torch.random.fork_rng(devices=[]):
        model = build()
    generator = torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) in embeddings:
                parameter.normal_(std=0.02, generator=generator)
            elif parameter.ndim == 2:
                parameter.uniform_(-(parameter.shape[1] ** -0.5), parameter.shape[1] ** -0.5, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
    return model
