"""A language model of characters with one mixture of experts, trained once for each machine: the teacher of claims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.testbeds import corpus, digest, trained_once, windows
from porism.testbeds.language import ALPHABET
from porism_plugins.moe._engine import Experts, MoE, TopKRouter, auxiliary_loss

WIDTH, EXPERTS, INNER, CHOSEN, HEADS, LENGTH = 48, 8, 48, 2, 4, 64


class Prediction(NamedTuple):
    """Logits (batch, length, characters), and the loss where labels were given."""

    logits: Tensor
    loss: Tensor | None


class CharacterMoE(nn.Module):
    """Embedding, causal attention, a mixture of gated experts, and a head; both parts residual and normalised."""

    def __init__(self, *, width: int = WIDTH, experts: int = EXPERTS, inner: int = INNER, k: int = CHOSEN) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        self.embedding, self.place = nn.Embedding(len(ALPHABET), width), nn.Embedding(LENGTH, width)
        self.before, self.between, self.after = (nn.LayerNorm(width) for _ in range(3))
        self.read, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        weights = Experts(experts, width, inner, activation=F.silu, gated=True, bias=False, generator=generator)
        self.moe = MoE(weights, TopKRouter(width, experts, k=k, renormalise=True, balance=0.01, generator=generator))
        self.head = nn.Linear(width, len(ALPHABET))

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Prediction:
        """Predict each next character of (batch, length up to 64); ``labels`` are the characters themselves."""
        x = self.embedding(input_ids) + self.place.weight[: input_ids.shape[1]]
        parts = self.read(self.before(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.mix(F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.moe(self.between(x))
        logits = self.head(self.after(x))
        if labels is None:
            return Prediction(logits, None)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return Prediction(logits, loss + auxiliary_loss(self) if self.training else loss)


def teacher(seed: int, *, steps: int = 600) -> tuple[CharacterMoE, np.ndarray, np.ndarray]:
    """A trained model with the text that it was trained on and one that it was not, as codes."""
    data = corpus(np.random.default_rng(0))

    def batches(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        while True:
            ids = torch.from_numpy(windows(rng, data.train, batch=16, length=LENGTH))
            yield {"input_ids": ids, "labels": ids}

    model = trained_once(
        "slimmoe-teacher", CharacterMoE, batches, seed=seed, steps=steps, learning_rate=6e-3,
        key={"data": digest(data.train), "length": LENGTH},
    )  # fmt: skip
    return model, data.train, data.test
