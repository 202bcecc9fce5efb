"""Margins of what must always hold for the loss of AdaSPEC and for acceptance, in float64."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from porism.divergences import kl_divergence_logits
from porism_plugins.spec import _verify as verify
from porism_plugins.spec._adaspec_loss import AdaSPECLoss, acceptance, select_tokens, token_gaps

TOLERANCE = 1e-9


def logits(rng: np.random.Generator, *shape: int, spread: float) -> Tensor:
    """Normal, of a standard deviation."""
    return torch.from_numpy(rng.normal(scale=spread, size=shape))


def budget(rng: np.random.Generator, *, tokens: int, kept: float, rule: Literal["quantile", "round"]) -> float:
    """Half less the distance of the number kept from that of the integers 0..N-1 above their own quantile."""
    level = (1 - Fraction(str(kept))) * (tokens - 1)
    expected = sum(i >= level for i in range(tokens)) if rule == "quantile" else round(kept * tokens)
    gaps = torch.from_numpy(rng.permutation(np.cumsum(rng.uniform(0.1, 1, size=tokens))))
    return 0.5 - abs(int(select_tokens(gaps, kept).sum()) - expected)


def gradient(rng: np.random.Generator, *, tokens: int, kept: float, spread: float, used: float) -> float:
    """Largest distance of the gradient from (q - p) / Z at kept tokens and 0 at others."""
    draft, target, reference = (logits(rng, tokens, 7, spread=spread).requires_grad_() for _ in range(3))
    AdaSPECLoss(used)(draft, target, reference, torch.zeros(tokens, dtype=torch.long)).backward()
    if target.grad is not None or reference.grad is not None:
        return -1.0
    chosen = select_tokens(token_gaps(draft.detach(), target.detach(), reference.detach())[1], kept)
    expected = chosen[:, None] * (draft.softmax(1) - target.softmax(1)).detach() / chosen.sum()
    return TOLERANCE - float((draft.grad - expected).abs().max())


def pinsker(rng: np.random.Generator, *, vocabulary: int, spread: float, apart: float, root: bool) -> float:
    """Slack of acceptance above 1 - sqrt(KL / 2), within [0, 1]; ``apart`` scales how draft and target differ."""
    target = logits(rng, vocabulary, spread=spread)
    draft = target + apart * logits(rng, vocabulary, spread=1.0)
    alpha, half = float(acceptance(draft, target)), float(kl_divergence_logits(target, draft)) / 2
    return min(alpha, 1 - alpha, alpha - 1 + (half**0.5 if root else half)) + TOLERANCE


def lossless(
    rng: np.random.Generator, *, vocabulary: int, spread: float, after: Literal["residual", "target"]
) -> float:
    """Distance from the target of the law of a token that was drawn from the draft and verified, by enumeration."""
    p, q = (logits(rng, vocabulary, spread=spread).softmax(0) for _ in range(2))
    taken = torch.minimum(q, p)
    left = verify.residual(p, q, 0) if after == "residual" else p
    return TOLERANCE - float((taken + (1 - taken.sum()) * left - p).abs().max())


def symmetry(rng: np.random.Generator, *, tokens: int, kept: float, spread: float, alike: bool) -> float:
    """Change of loss and mask under constants at rows, another order of tokens, and another order of the vocabulary."""
    given = [logits(rng, tokens, 7, spread=spread) for _ in range(3)]
    words, order = (torch.from_numpy(rng.permutation(n)) for n in (7, tokens))
    shifts = torch.from_numpy(rng.normal(scale=spread, size=(3, tokens, 1)))
    moved = [(one[:, words] + shift)[order] for one, shift in zip(given, shifts, strict=True)]
    if not alike:
        moved[0] = (given[0] + shifts[0])[order]
    labels = torch.zeros(tokens, dtype=torch.long)
    losses = [float(AdaSPECLoss(kept)(*three, labels)) for three in (given, moved)]
    masks = [select_tokens(token_gaps(*three)[1], kept) for three in (given, moved)]
    if not torch.equal(masks[0][order], masks[1]):
        return -1.0
    return TOLERANCE * (1 + losses[0]) - abs(losses[0] - losses[1])
