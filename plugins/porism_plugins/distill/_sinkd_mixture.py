"""A controlled experiment: students that are one bump are fitted to teachers that are two, by each loss.

A teacher's output is a mixture of two discretised Gaussians over ordered bins, another one in each context; the student
has a position and a width for each context, and so cannot hold the mixture. The loss decides what it gives up.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from porism import Paired, paired
from porism.divergences import tv_distance
from porism_plugins.distill._losses import LogitLoss, js_divergence, kl_divergence, reverse_kl_divergence
from porism_plugins.distill._sinkd_loss import SinKDLoss, sample_wise_loss

BINS, WIDTH = 48, 0.05
POSITIONS = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS
# From one bin to another, in [0, 2] like the cost between outputs.
BIN_COST = 2 * (POSITIONS[:, None] - POSITIONS).abs()

LOSSES: dict[str, LogitLoss] = {
    "KL": kl_divergence,
    "reverse KL": reverse_kl_divergence,
    "JS": js_divergence,
    "SinKD": SinKDLoss(temperature=1.0),
    "SinKD, groups of one": SinKDLoss(temperature=1.0, group_size=1),
    "sample-wise, ordered": lambda student, teacher: sample_wise_loss(student, teacher, BIN_COST, temperature=1.0),
}


class Teachers(NamedTuple):
    """Log-probabilities (contexts, bins), and the place of the larger and the smaller mode, (contexts,) each."""

    logits: Tensor
    major: Tensor
    minor: Tensor


class Faults(NamedTuple):
    """Means over contexts, each student against its own teacher.

    ``between``: probability between the modes, 2 widths off each. ``lost``: share of modes that get less than a tenth
    of the teacher's probability. ``minor``: probability on the smaller mode, over the teacher's, and so above 1 where
    the student has more. ``distance``: total variation, to see what the others are worth.
    """

    between: float
    lost: float
    minor: float
    distance: float


def teachers(rng: np.random.Generator, *, contexts: int = 32, separation: float = 8.0, share: float = 0.7) -> Teachers:
    """Mixtures whose modes stand ``separation`` widths apart, the larger one with probability ``share``.

    Where the pair stands, and which of them is the larger, differs from context to context.
    """
    half = separation * WIDTH / 2
    centre = torch.from_numpy(rng.uniform(half + 2 * WIDTH, 1 - half - 2 * WIDTH, size=contexts))
    side = torch.from_numpy(rng.choice([-1.0, 1.0], size=contexts))
    major, minor = centre + side * half, centre - side * half
    parts = torch.stack([bump(place, torch.full_like(place, math.log(WIDTH))).log_softmax(-1)
                         for place in (major, minor)])  # fmt: skip
    weights = torch.tensor([share, 1 - share], dtype=parts.dtype).log()
    return Teachers((parts + weights[:, None, None]).logsumexp(0), major, minor)


def bump(place: Tensor, log_width: Tensor) -> Tensor:
    """Logits of discretised Gaussians, shape (contexts, bins)."""
    return -((POSITIONS - place[:, None]) / log_width.exp()[:, None]).square() / 2


def fitted(rng: np.random.Generator, target: Tensor, loss: LogitLoss, *, steps: int = 150) -> Tensor:
    """The student's logits after Adam from random places and three times a mode's width, equal for every loss."""
    place = torch.from_numpy(rng.uniform(0.2, 0.8, size=len(target))).requires_grad_()
    log_width = torch.full_like(place, math.log(0.15)).requires_grad_()
    optimizer = torch.optim.Adam([place, log_width], lr=0.03, foreach=False)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(bump(place, log_width), target).backward()
        optimizer.step()
    return bump(place, log_width).detach()


def faults(student: Tensor, teacher: Teachers) -> Faults:
    """What the student gave up."""
    p, q = teacher.logits.softmax(-1), student.softmax(-1)
    near = torch.stack([(POSITIONS - place[:, None]).abs() <= 2 * WIDTH for place in (teacher.major, teacher.minor)])
    low, high = (extreme(teacher.major, teacher.minor)[:, None] for extreme in (torch.minimum, torch.maximum))
    between = (low < POSITIONS) & (high > POSITIONS) & ~near.any(0)
    covered = (q * near).sum(-1) / (p * near).sum(-1)
    found = (q * between).sum(-1), (covered < 0.1).double(), covered[1], tv_distance(p, q)
    return Faults(*(float(values.mean()) for values in found))


def fault(rng: np.random.Generator, *, loss: str, of: str, separation: float = 8.0) -> float:
    """One of the :class:`Faults` after a fit."""
    teacher = teachers(rng, separation=separation)
    return float(getattr(faults(fitted(rng, teacher.logits, LOSSES[loss]), teacher), of))


def against(rng: np.random.Generator, ours: str, theirs: str, *, of: str) -> Paired:
    """Both losses on the same teachers from the same start."""
    better = "higher" if of == "minor" else "lower"
    return paired(functools.partial(fault, of=of), rng, ours={"loss": ours}, theirs={"loss": theirs}, better=better)
