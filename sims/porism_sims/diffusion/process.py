"""The Ornstein-Uhlenbeck forward process of unit speed and samplers that run it backwards with a given score.

dX = -X/2 dt + dW, so X_t = signal(t) X_0 + sqrt(noise(t)) Z with signal = exp(-t/2), noise = 1 - exp(-t), and
signal^2 + noise = 1. In DDPM's notation alpha-bar is signal squared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from porism.arrays import check_count, check_generator, check_number
from porism.errors import ParameterError

Array = NDArray[np.float64]
# (points of shape (n, D), time) -> score of shape (n, D)
Score = Callable[[Array, float], Array]
Sampler = Literal["ancestral", "deterministic", "euler-maruyama", "euler"]


def signal(t: ArrayLike) -> Array:
    """exp(-t/2): what is left of the data at time ``t``, of any shape.

    Examples
    --------
    >>> signal([0.0, 2.0]).round(4)
    array([1.    , 0.3679])
    """
    return np.exp(-np.asarray(t, dtype=float) / 2)


def noise(t: ArrayLike) -> Array:
    """1 - exp(-t): variance of the noise at time ``t``, without cancellation at small times.

    Examples
    --------
    >>> float(noise(1e-20))
    1e-20
    """
    return -np.expm1(-np.asarray(t, dtype=float))


def time_of_noise(variance: ArrayLike) -> Array:
    """The time at which :func:`noise` has this value in [0, 1)."""
    return -np.log1p(-np.asarray(variance, dtype=float))


def diffuse(rng: np.random.Generator, points: Array, t: float) -> Array:
    """Draw X_t given X_0, for points of shape (n, D)."""
    return signal(t) * points + np.sqrt(noise(t)) * rng.standard_normal(points.shape)


def posterior_mean(points: Array, score: Array, t: float) -> Array:
    """E[X_0 | X_t] by Tweedie's formula, from points (n, D) at time ``t`` and their scores."""
    return (points + noise(t) * score) / signal(t)


def score_of_mean(points: Array, mean: Array, t: float) -> Array:
    """The score (signal E[X_0 | X_t] - X_t) / noise: the inverse of :func:`posterior_mean`."""
    return (signal(t) * mean - points) / noise(t)


def time_grid(start: float, stop: float, steps: int) -> Array:
    """Times from ``start`` down to ``stop`` > 0, shape (steps + 1,), geometric because the stiffness is 1 / noise.

    Raises
    ------
    ParameterError
        Unless 0 < stop < start and steps is at least 1.

    Examples
    --------
    >>> time_grid(4.0, 1.0, 2).round(6)
    array([4., 2., 1.])
    """
    check_number("start", start, above=check_number("stop", stop, above=0))
    return np.geomspace(start, stop, check_count("steps", steps, 1) + 1)


def sample_backwards(
    rng: np.random.Generator, score: Score, points: Array, times: Array, *, sampler: Sampler = "ancestral"
) -> Array:
    """Run the process backwards along ``times``, from points of the first time to points of the last.

    Parameters
    ----------
    rng
        Draws the noise of the random samplers.
    score
        Called once a step with all points and the time.
    points
        Shape (n, D); standard normal for a generator that starts at a large time.
    times
        Decreasing and positive, shape (steps + 1,); see :func:`time_grid`. The last one is the early-stopping time.
    sampler
        ``"ancestral"``: the Gaussian transition given the predicted X_0 (DDPM). ``"deterministic"``: DDIM, a
        first-order solver of the probability flow. Both are exact in directions where the data do not vary.
        ``"euler-maruyama"`` and ``"euler"`` discretise the reverse SDE and the probability-flow ODE directly.

    Returns
    -------
    array of shape (n, D)

    Raises
    ------
    ParameterError
        If the times do not decrease or are not positive, or the sampler is unknown.

    Examples
    --------
    A standard normal stays one: its score is -x.

    >>> rng = np.random.default_rng(0)
    >>> end = sample_backwards(rng, lambda x, t: -x, rng.standard_normal((20_000, 1)), time_grid(3.0, 0.01, 200))
    >>> bool(abs(end.std() - 1) < 0.05)
    True
    """
    check_generator(rng)
    times = np.asarray(times, dtype=float)
    if times.ndim != 1 or len(times) < 2 or not (np.diff(times) < 0).all() or not times[-1] > 0:
        raise ParameterError("times must be a decreasing sequence of at least two positive numbers")
    steps = {"ancestral": _ancestral, "deterministic": _deterministic, "euler-maruyama": _maruyama, "euler": _euler}
    if sampler not in steps:
        raise ParameterError(f"sampler must be one of {', '.join(steps)}, got {sampler!r}")
    for late, early in itertools.pairwise(times):
        points = steps[sampler](rng, points, score(points, float(late)), float(late), float(early))
    return points


def _ancestral(rng: np.random.Generator, points: Array, score: Array, late: float, early: float) -> Array:
    """X_early given X_late and the predicted X_0: a Gaussian bridge."""
    between = noise(late - early)
    mean = signal(late - early) * noise(early) / noise(late) * points
    mean += signal(early) * between / noise(late) * posterior_mean(points, score, late)
    return mean + np.sqrt(noise(early) * between / noise(late)) * rng.standard_normal(points.shape)


def _deterministic(rng: np.random.Generator, points: Array, score: Array, late: float, early: float) -> Array:
    predicted = posterior_mean(points, score, late)
    return signal(early) * predicted + np.sqrt(noise(early) / noise(late)) * (points - signal(late) * predicted)


def _maruyama(rng: np.random.Generator, points: Array, score: Array, late: float, early: float) -> Array:
    step = late - early
    return points + step * (points / 2 + score) + np.sqrt(step) * rng.standard_normal(points.shape)


def _euler(rng: np.random.Generator, points: Array, score: Array, late: float, early: float) -> Array:
    return points + (late - early) / 2 * (points + score)
