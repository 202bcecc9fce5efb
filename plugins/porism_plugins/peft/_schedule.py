"""How many triplets stay after each step, and which: exact in number."""

from __future__ import annotations

import torch
from torch import Tensor


def cubic(step: int, total_steps: int, *, warmup: int, cooldown: int, initial: int, final: int) -> int:
    """Triplets that stay after ``step``, counted from 1: integer arithmetic, so that no rounding costs one.

    Examples
    --------
    >>> [cubic(t, 10, warmup=2, cooldown=4, initial=12, final=4) for t in (1, 2, 3, 4, 5, 6, 10)]
    [12, 12, 7, 5, 4, 4, 4]
    """
    if step <= warmup:
        return initial
    left, span = max(total_steps - cooldown - step, 0), total_steps - cooldown - warmup
    return final + (initial - final) * left**3 // span**3


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """Which ``count`` scores are the largest; of equal ones the first.

    Examples
    --------
    >>> keep_largest(torch.tensor([1.0, 2.0, 1.0, 1.0]), 3)
    tensor([ True,  True,  True, False])
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[scores.argsort(descending=True, stable=True)[:count]] = True
    return kept
