"""What the mathematical entries share: margins of inequalities and identities in floating point."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Interval

from porism_sims.random_distributions import Pair, distribution, pair

Size = Annotated[int, Interval(ge=2, le=40)]
Spread = Annotated[float, Interval(ge=0, le=100)]
Distance = Annotated[float, Interval(ge=1e-3, le=100)]
Zeros = Annotated[float, Interval(ge=0, le=0.9)]

# Rounding: sums of a hundred float64 numbers of a size near 1 are right to far more digits than this.
TOLERANCE = 1e-10


def ordered(*values: Any) -> float:
    """Margin of ``values[0] <= values[1] <= ...``: the smallest step, relative to its size where that exceeds 1.

    Infinity is at most infinity. Rounding is allowed for, so equality has a positive margin of 1e-10.

    Examples
    --------
    >>> round(ordered(1.0, 2.0, np.inf), 6), ordered(2.0, 1.0) < 0
    (0.5, True)
    """
    return min(_step(float(low), float(high)) for low, high in itertools.pairwise(values))


def equal(left: Any, right: Any, *, tolerance: float = 1e-9) -> float:
    """Margin of ``left = right``, elementwise: the tolerance minus the relative difference (absolute below 1),
    and -1 at the least.

    Examples
    --------
    >>> equal(1.0, 1.0), equal(np.inf, np.inf), equal(1.0, 1.1) < 0
    (1e-09, 1e-09, True)
    """
    left, right = np.broadcast_arrays(np.asarray(left, dtype=float), np.asarray(right, dtype=float))
    different = left != right  # infinities that agree are equal
    if not different.any():
        return tolerance
    left, right = left[different], right[different]
    scale = np.maximum(1, np.minimum(np.abs(left), np.abs(right)))
    return max(-1.0, tolerance - float(np.max(np.abs(left - right) / scale)))


def draw(rng: np.random.Generator, size: int, spread: float, distance: float, zeros: float = 0.0) -> Pair:
    """A random pair of distributions; see :func:`porism_sims.random_distributions.pair`."""
    return pair(rng, size=size, spread=spread, distance=distance, zeros=zeros)


class Samples(NamedTuple):
    """Two weighted samples: points of shapes (n, d) and (m, d), their masses of shapes (n,) and (m,)."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray


def samples(
    rng: np.random.Generator, *, sizes: tuple[int, int], dimension: int = 1, shift: float = 1.0, zeros: float = 0.0
) -> Samples:
    """Normal points, y moved by ``shift`` and stretched; with some ``zeros`` also masses of zero, and ties.

    Examples
    --------
    >>> [part.shape for part in samples(np.random.default_rng(0), sizes=(3, 2), dimension=4)]
    [(3, 4), (2, 4), (3,), (2,)]
    """
    direction = rng.standard_normal(dimension)
    x, y = (rng.standard_normal((size, dimension)) for size in sizes)
    y = y * np.exp(0.5 * rng.standard_normal()) + shift * direction / np.linalg.norm(direction)
    if zeros > 0:
        x, y = x.round(), y.round()
    a, b = (distribution(rng, size=size, spread=1.0, zeros=zeros) for size in sizes)
    return Samples(x, y, a, b)


def _step(low: float, high: float) -> float:
    if low == high:
        return TOLERANCE
    if np.isinf(high) or np.isinf(low):
        return 1.0 if high > low else -1.0
    return min(1.0, (high - low) / max(1.0, abs(low), abs(high)) + TOLERANCE)
