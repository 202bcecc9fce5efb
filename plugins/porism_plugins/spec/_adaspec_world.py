"""A world in which it is known which tokens a draft can learn: half of the contexts are of low rank, half are not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from porism.divergences import kl_divergence_logits
from porism.metrics import roc_auc
from porism.testbeds import torch_generator
from porism_plugins.spec._adaspec_experiments import Chosen, Way
from porism_plugins.spec._adaspec_loss import acceptance, token_gaps

CONTEXTS, VOCABULARY, RANK, BATCH, STEPS, LEARNING_RATE = 128, 32, 4, 64, 150, 0.03


class World(NamedTuple):
    """The target's logits (contexts, vocabulary), which contexts are ``easy``, and the weights that drafts start at."""

    target: Tensor
    easy: Tensor
    left: Tensor
    right: Tensor


class Outcome(NamedTuple):
    """After training: acceptance, KL on easy and on hard contexts, the share of easy ones among all trained on, and how
    well the gaps told them apart halfway (area under the curve)."""

    accepted: float
    easy: float
    hard: float
    share: float
    area: float


def world(rng: np.random.Generator, spread: float = 2.0) -> World:
    """Logits of one variance: of ``RANK`` at easy contexts, free at hard ones."""
    easy = torch.arange(CONTEXTS) < CONTEXTS // 2
    low = rng.normal(size=(CONTEXTS, RANK)) @ rng.normal(size=(RANK, VOCABULARY)) / RANK**0.5
    logits = spread * np.where(easy[:, None], low, rng.normal(size=low.shape))
    left, right = (torch.from_numpy(0.1 * rng.normal(size=size)) for size in ((CONTEXTS, RANK), (RANK, VOCABULARY)))
    return World(torch.from_numpy(logits), easy, left, right)


def trained(place: World, rng: np.random.Generator, *, kept: float, way: Way = "top",
            reference: Tensor | None = None) -> tuple[Tensor, Outcome]:  # fmt: skip
    """A softmax table of rank ``RANK`` after Adam, and what came of it; without a reference on all tokens."""
    left, right = (weights.clone().requires_grad_() for weights in (place.left, place.right))
    loss, optimizer = Chosen(kept, way, torch_generator(rng)), torch.optim.Adam([left, right], lr=LEARNING_RATE)
    goal = place.target if reference is None else reference
    shares, area = [], float("nan")
    for step in range(STEPS):
        rows = torch.from_numpy(rng.permutation(CONTEXTS)[:BATCH])
        logits = left[rows] @ right
        losses = kl_divergence_logits(place.target[rows], logits)
        with torch.no_grad():
            gaps = losses - kl_divergence_logits(place.target[rows], goal[rows])
            chosen = loss.select(losses, gaps)
            shares.append(float(place.easy[rows][chosen].double().mean()))
            if step == STEPS // 2:
                area = halfway(place, left @ right, goal)
        optimizer.zero_grad()
        losses[chosen].mean().backward()
        optimizer.step()
    logits = (left @ right).detach()
    final = kl_divergence_logits(place.target, logits)
    found = (acceptance(logits, place.target).mean(), final[place.easy].mean(), final[~place.easy].mean())
    return logits, Outcome(*map(float, found), float(np.mean(shares)), area)


def halfway(place: World, logits: Tensor, goal: Tensor) -> float:
    """Area under the curve of the gaps as a test for easy contexts."""
    return roc_auc(token_gaps(logits, place.target, goal)[1].numpy(), place.easy.numpy())


def outcomes(rng: np.random.Generator, ways: dict[str, dict[str, Any]], spread: float = 2.0) -> dict[str, Outcome]:
    """Of several ways to train in one world from one start, with the reference ``"all"`` that each of them uses."""
    place, seed = world(rng, spread), int(rng.integers(2**63))
    reference, found = trained(place, np.random.default_rng(seed), kept=1.0)
    others = {name: trained(place, np.random.default_rng(seed), reference=reference, **options)[1]
              for name, options in ways.items()}  # fmt: skip
    return {"all": found, **others}
