"""A small translation task between made-up languages, and a small encoder for it with any kind of experts.

Each language has a dictionary, in which a word's translation also depends on the class of the word before, and a word
order. The first token of a sentence names the language, as for multilingual models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.testbeds import torch_generator
from porism_plugins.moe._engine import Experts, HashRouter, MoE, RandomRouter, TopKRouter, random_table
from porism_plugins.moe._thor_layer import StochasticExperts

LANGUAGES, WORDS, LENGTH, CLASSES = 3, 6, 4, 2
WIDTH, INNER, HEADS = 32, 32, 2


class Task(NamedTuple):
    """Sentences (n, 1 + LENGTH) and their translations (n, LENGTH), to train and to test on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def task(rng: np.random.Generator, *, train: int = 512, test: int = 512) -> Task:
    """Draw the languages, and sentences of words with frequencies that fall as in a text."""
    dictionaries = rng.permuted(np.broadcast_to(np.arange(WORDS), (LANGUAGES, CLASSES, WORDS)), axis=-1)
    places = np.arange(LENGTH)
    orders = np.stack([places, places[::-1], places ^ 1])
    frequency = 1 / np.arange(2, WORDS + 2)

    def sentences(count: int) -> tuple[Tensor, Tensor]:
        language = rng.integers(LANGUAGES, size=count)[:, None]
        words = rng.choice(WORDS, size=(count, LENGTH), p=frequency / frequency.sum())
        before = np.roll(words, 1, axis=1) % CLASSES
        translated = dictionaries[language, before, words]
        x = np.concatenate([WORDS + language, words], axis=1)
        return torch.from_numpy(x), torch.from_numpy(np.take_along_axis(translated, orders[language[:, 0]], axis=1))

    return Task(*sentences(train), *sentences(test))


class Dropout(nn.Module):
    """Dropout from a generator of its own."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__()
        self.p, self.generator = p, generator

    def forward(self, x: Tensor) -> Tensor:
        """Apply it in training mode."""
        if not self.training or not self.p:
            return x
        return x * torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator) / (1 - self.p)


class Block(nn.Module):
    """Attention and a feed-forward network, each after a LayerNorm and beside a residual connection."""

    def __init__(self, feed_forward: nn.Module, dropout: Dropout, generator: torch.Generator) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixed, self.out = linear(WIDTH, 3 * WIDTH, generator), linear(WIDTH, WIDTH, generator)
        self.feed_forward, self.dropout = feed_forward, dropout

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Apply it to x (batch, length, WIDTH)."""
        rows, length, _ = x.shape
        q, k, v = self.mixed(self.first(x)).view(rows, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.dropout(self.out(attended))
        normal = self.second(x)
        experts = isinstance(self.feed_forward, MoE)
        return x + self.dropout(self.feed_forward(normal, ids) if experts else self.feed_forward(normal))


class Translator(nn.Module):
    """An encoder of one layer that predicts a translation's words all at once."""

    def __init__(self, kind: str, experts: int, rng: np.random.Generator, *, dropout: float = 0.1) -> None:
        super().__init__()
        weights, noise = torch_generator(rng), torch_generator(rng)
        self.words, self.places = (nn.Parameter(torch.randn(n, WIDTH, generator=weights))
                                   for n in (WORDS + LANGUAGES, LENGTH))  # fmt: skip
        drops = Dropout(dropout, noise)
        self.block = Block(feed_forward(kind, experts, rng), drops, weights)
        self.norm, self.head = nn.LayerNorm(WIDTH), linear(WIDTH, WORDS, weights)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, LENGTH, WORDS) of sentences (batch, 1 + LENGTH)."""
        found = F.embedding(ids, self.words)
        x = found[:, 1:] + found[:, :1] + self.places
        return self.head(self.norm(self.block(x, ids[:, 1:])))


def feed_forward(kind: str, experts: int, rng: np.random.Generator) -> nn.Module:
    """A feed-forward network, or experts that are chosen as ``kind`` says; ``"none"`` is nothing at all."""
    weights, draws = torch_generator(rng), torch_generator(rng)
    table = random_table(WORDS + LANGUAGES, experts, rng)
    if kind == "none":
        return Nothing()
    if kind == "dense":
        return Experts(1, WIDTH, INNER, activation=F.relu, generator=weights).to_modules()[0]
    stack = Experts(experts, WIDTH, INNER, activation=F.relu, generator=weights)
    if kind == "stochastic":
        return StochasticExperts(stack, generator=draws)
    router = {
        "gate": lambda: TopKRouter(WIDTH, experts, balance=0.01, generator=draws),
        "random": lambda: RandomRouter(experts, generator=draws),
        "hash": lambda: HashRouter(table),
    }[kind]()
    return MoE(stack, router)


class Nothing(nn.Module):
    """No network."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(x)


def linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """Weights and bias uniform on +-1/sqrt(fan_in)."""
    layer = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
    for tensor in layer.parameters():
        nn.init.uniform_(tensor, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
    return layer
