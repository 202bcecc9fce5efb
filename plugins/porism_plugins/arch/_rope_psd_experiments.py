"""What the claims and figures of RoPE-PSD measure: recall by position of the evidence, and text."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import nn

from porism import Paired, paired
from porism.testbeds import Corpus, bits_per_character, corpus, tiny_llama, torch_generator, train, windows
from porism_plugins.arch import _rope_psd_recall as recall
from porism_plugins.arch._rope_psd_loss import RoPEPerturbedSelfDistillation

# The rate at which plain language modelling is best on other seeds.
STEPS, LEARNING_RATE = 16, 8e-3
# Share of the questions whose evidence is in the last third.
LATE = 0.8


class Arm(NamedTuple):
    """A way of adapting: ``weight`` 0 is language modelling alone; the rest as in the objective."""

    weight: float = 0.5
    perturbation: Any = "suffix"
    direction: Any = "reverse"
    detach: bool = True
    max_offset: int | None = None
    only_labelled: bool = True
    longer: float = 1.0


PSD, CLM = Arm(), Arm(weight=0.0)


def objective(arm: Arm, rng: np.random.Generator) -> RoPEPerturbedSelfDistillation:
    """The training objective of an arm, with a generator seeded from ``rng``."""
    return RoPEPerturbedSelfDistillation(
        arm.weight, perturbation=arm.perturbation, direction=arm.direction, detach=arm.detach,
        max_offset=arm.max_offset, only_labelled=arm.only_labelled, generator=torch_generator(rng),
    )  # fmt: skip


def adapted(rng: np.random.Generator, arm: Arm, *, late: float = LATE) -> tuple[nn.Module, np.random.Generator]:
    """A base adapted to the long length, and the generator of test sequences. All arms see the same batches."""
    data, views, test = rng.spawn(3)
    model = recall.base(int(rng.integers(recall.BASES)))
    steps = round(STEPS * arm.longer)
    recall.adapted(model, data, objective(arm, views), steps=steps, learning_rate=LEARNING_RATE, late=late)
    return model, test


def spread(rng: np.random.Generator, arm: Arm) -> float:
    """Standard deviation of the accuracy over eight positions of the evidence."""
    return float(recall.by_position(*adapted(rng, arm)).std())


def mean(rng: np.random.Generator, arm: Arm, *, slots: int = recall.LONG) -> float:
    """Accuracy with evidence anywhere among as many slots."""
    return recall.overall(*adapted(rng, arm), slots)


def entropy(rng: np.random.Generator, arm: Arm) -> float:
    """Of the standard view's answers."""
    return recall.entropy(*adapted(rng, arm))


def compared(measure: Any, rng: np.random.Generator, ours: Arm, theirs: Arm, *,
             better: Literal["higher", "lower"] = "higher", **options: Any) -> Paired:  # fmt: skip
    """Two arms by one measure, on the same base, batches and test sequences."""
    arms = ({"arm": arm, **options} for arm in (ours, theirs))
    return paired(measure, rng, ours=next(arms), theirs=next(arms), better=better)


@functools.cache
def _manual() -> Corpus:
    return corpus(np.random.default_rng(0))


def bits(rng: np.random.Generator, arm: Arm, *, steps: int = 12, length: int = 128) -> float:
    """Bits per character on held-out text, standard positions, after training a Llama on with other text of its kind.

    The Llama was trained at this length before.
    """
    data, views, test = rng.spawn(3)
    text = _manual()
    model = tiny_llama(text.train)
    draws = ({"input_ids": ids, "labels": ids} for ids in _windows(data, text.validation, steps, length))
    train(recall.Bound(model, objective(arm, views)), draws, steps=steps, learning_rate=1e-3)
    held_out = windows(test, text.test, batch=16, length=length)
    return bits_per_character(model, held_out.ravel(), length=length)


def _windows(rng: np.random.Generator, tokens: np.ndarray, steps: int, length: int) -> Any:
    import torch

    return (torch.from_numpy(windows(rng, tokens, batch=4, length=length)) for _ in range(steps))
