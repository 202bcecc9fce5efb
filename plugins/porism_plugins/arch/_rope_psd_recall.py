"""Recall at any distance: facts among fillers, then a question, and a Llama that learnt it at a short length.

A fact is one token for a key with its value, a question is the key's token, the answer the value's. Facts stand in
random slots; the slot of the fact that is asked for is where the evidence is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from porism.metrics import accuracy
from porism.testbeds import train, trained_once
from porism_plugins.arch._rope_psd_loss import IGNORED, RoPEPerturbedSelfDistillation

KEYS = VALUES = 8
FILLERS = 16
QUESTION = KEYS * VALUES
ANSWER = QUESTION + KEYS
FILLER = ANSWER + VALUES
FACTS = 6
BASES = 4
SHORT, LONG, BINS = 8, 96, 8
BATCH, QUESTIONS = 8, 2
# Test sequences of one judgement.
EXAMS = 768


def sequences(rng: np.random.Generator, asked: np.ndarray, slots: int) -> dict[str, Tensor]:
    """Token ids and labels of sequences that ask for the facts in these slots, shape (batch, questions)."""
    batch, questions = asked.shape
    row = np.arange(batch)[:, None]
    order = rng.random((batch, slots))
    order[row, asked] = 2  # last, as they have their fact already
    places = np.concatenate([asked, order.argsort(1)[:, : FACTS - questions]], 1)
    keys = rng.permuted(np.tile(np.arange(KEYS), (batch, 1)), axis=1)[:, :FACTS]
    values = rng.integers(VALUES, size=(batch, FACTS))
    body = FILLER + rng.integers(FILLERS, size=(batch, slots))
    body[row, places] = keys * VALUES + values
    exam = np.stack([QUESTION + keys, ANSWER + values], 2)[:, :questions]
    ids = torch.from_numpy(np.concatenate([body, exam.reshape(batch, -1)], 1))
    labels = torch.full_like(ids, IGNORED)
    labels[:, slots + 1 :: 2] = ids[:, slots + 1 :: 2]
    return {"input_ids": ids, "labels": labels}


def distinct(rng: np.random.Generator, batch: int, count: int, among: int) -> np.ndarray:
    """Different whole numbers below ``among`` in each row, shape (batch, count)."""
    return rng.random((batch, among)).argsort(1)[:, :count]


def evidence(rng: np.random.Generator, slots: int, late: float, batch: int, questions: int) -> np.ndarray:
    """Slots to ask for, all different: in the last third with probability ``late``; shape (batch, questions)."""
    first = slots - slots // 3
    early_ones, late_ones = distinct(rng, batch, questions, first), distinct(rng, batch, questions, slots - first)
    return np.where(rng.random((batch, questions)) < late, first + late_ones, early_ones)


def base(number: int) -> Any:
    """A Llama of two layers that answers at a length of 8 slots, wherever the evidence is; trained in seconds."""
    config = LlamaConfig(
        vocab_size=FILLER + FILLERS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, initializer_range=0.05, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip

    def batches(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        while True:
            yield {**sequences(rng, distinct(rng, 32, 4, SHORT), SHORT), "use_cache": False}

    return trained_once(
        "recall-llama",
        lambda: LlamaForCausalLM(config),
        batches,
        seed=number,
        steps=250,
        learning_rate=1e-2,
        key={"config": config.to_json_string()},
    )


class Bound(nn.Module):
    """A model with its objective, as :func:`porism.testbeds.train` calls it."""

    def __init__(self, model: nn.Module, objective: RoPEPerturbedSelfDistillation) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, **batch: Any) -> Any:
        return self.objective(self.model, batch)


def adapted(model: nn.Module, rng: np.random.Generator, objective: RoPEPerturbedSelfDistillation, *, steps: int,
            learning_rate: float, late: float) -> nn.Module:  # fmt: skip
    """Train the model, in place, at the long length with evidence mostly in the last third."""
    draws = (sequences(rng, evidence(rng, LONG, late, BATCH, QUESTIONS), LONG) for _ in range(steps))
    train(Bound(model, objective), draws, steps=steps, learning_rate=learning_rate)
    return model


@torch.no_grad()
def answers(model: nn.Module, rng: np.random.Generator, slots: int) -> tuple[Tensor, Tensor]:
    """Logits at the question, shape (slots, each, vocabulary), and the right tokens, by slot of the evidence."""
    each = max(1, EXAMS // slots)
    batch = sequences(rng, np.repeat(np.arange(slots), each)[:, None], slots)
    rows = batch["input_ids"][:, :-1].split(500)
    logits = torch.cat([model(row, logits_to_keep=1, use_cache=False).logits[:, 0] for row in rows])
    return logits.unflatten(0, (slots, each)), batch["labels"][:, -1].view(slots, each)


def by_position(model: nn.Module, rng: np.random.Generator, slots: int = LONG) -> np.ndarray:
    """Accuracy in each eighth of the slots in which the evidence may be, shape (8,)."""
    logits, right = answers(model, rng, slots)
    hits = (logits.argmax(-1) == right).double().mean(1)
    return np.array([float(part.mean()) for part in hits.tensor_split(BINS)])


def overall(model: nn.Module, rng: np.random.Generator, slots: int = LONG) -> float:
    """Accuracy with evidence anywhere."""
    logits, right = answers(model, rng, slots)
    return accuracy(logits.argmax(-1).flatten(), right.flatten())


def entropy(model: nn.Module, rng: np.random.Generator, slots: int = LONG) -> float:
    """Mean entropy of the answers in nats, with evidence anywhere."""
    logits, _ = answers(model, rng, slots)
    return float(torch.distributions.Categorical(logits=logits.double()).entropy().mean())
