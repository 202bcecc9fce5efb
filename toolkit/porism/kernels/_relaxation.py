"""How far to over-relax Sinkhorn's iterations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A factor near 2 is best for slow problems; beyond this many times the best error it was too much.
_LAST_RELAXATION, _PATIENCE = 1.98, 10


class Relaxation:
    """Over-relaxation factors of the problems, from the rate at which their errors fall."""

    def __init__(self, batch: int, like: Tensor) -> None:
        self.factor = torch.ones(batch, dtype=torch.float64, device=like.device)
        self.bound = torch.full_like(self.factor, _LAST_RELAXATION)
        self.error = torch.full_like(self.factor, math.inf)
        self.best = torch.full_like(self.factor, math.inf)
        self.floor, self.dtype = 100 * torch.finfo(like.dtype).eps, like.dtype

    def update(self, error: Tensor, count: int) -> Tensor:
        """Young's relation (rate + w - 1)^2 = rate w^2 mu^2 gives mu, and mu the best factor of the next block."""
        rate, factor = (error / self.error).pow(1 / count), self.factor
        mu2 = ((rate + factor - 1) / factor).square() / rate
        better = 2 / (1 + (1 - mu2).clamp(min=0).sqrt())
        known = (rate > factor - 1) & (rate > 0) & (rate < 1) & (error > self.floor)
        self.factor = torch.where(known, better.clamp(min=1.0).minimum(self.bound), factor)
        # an error far above the best, or numbers that are not finite: plain iterations, then smaller factors
        failed = ~((error < _PATIENCE * self.best) | (error <= self.floor))
        self.bound = torch.where(failed, (1 + self.bound) / 2, self.bound)
        self.factor = torch.where(failed, 1.0, self.factor)
        self.error, self.best = error, torch.where(failed & ~error.isnan(), error, self.best.fmin(error))
        return self.factor[:, None, None].to(self.dtype)

    def keep(self, index: Tensor) -> None:
        """Drop the other problems."""
        for name in ("factor", "bound", "error", "best"):
            setattr(self, name, getattr(self, name)[index])


def relaxed(old: Tensor, new: Tensor, factor: Tensor | None) -> Tensor:
    """``old (new / old)^factor``: the step in the log domain that over-relaxation takes; None takes ``new``."""
    # pow, as the library behind exp and log would wake threads beside those of numpy's BLAS
    return new if factor is None else torch.div(new, old).pow_(factor).mul_(old)
