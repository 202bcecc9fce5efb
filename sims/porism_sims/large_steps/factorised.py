"""Gradient descent with large steps on f(x, y) = F(x y): one hidden neuron, two weights, every effect of large steps.

F is a :class:`~porism_sims.large_steps.landscapes.Landscape` with its minimum at a product s* != 0, so that f is least
on the hyperbola x y = s*. Across it f has curvature ``F''(s*) (x^2 + y^2)``, along it none: the steps decide how sharp
a minimum gradient descent ends in. Thousands of starts run at once; that one diverges is a status, not an error.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray

from porism.arrays import check_count, check_finite, check_number
from porism.errors import ParameterError
from porism.parameters import validated
from porism_sims.large_steps.landscapes import Landscape, power

Array = NDArray[np.float64]

# Runs are looked at once in so many steps, and fit the cache so many at a time.
_LOOK, _CHUNK = 50, 8192


def weights(squared_norm: ArrayLike, product: ArrayLike) -> tuple[Array, Array]:
    """The weights ``x >= |y|`` with ``x^2 + y^2 = squared_norm`` and ``x y = product``, broadcast.

    Raises
    ------
    ParameterError
        Unless ``squared_norm`` is finite, positive, and at least twice the product's size.

    Examples
    --------
    >>> x, y = weights(5.0, 2.0)
    >>> float(x), float(y)
    (2.0, 1.0)
    """
    u, s = np.broadcast_arrays(np.asarray(squared_norm, float), np.asarray(product, float))
    check_finite(squared_norm=u, product=s)
    if not np.all((u > 0) & (u >= 2 * np.abs(s))):
        raise ParameterError("squared_norm must be positive and at least twice the size of product")
    x = np.sqrt((u + np.sqrt((u - 2 * s) * (u + 2 * s))) / 2)
    return x, s / x


class Runs(NamedTuple):
    """Where runs ended; every array has shape (runs,).

    Attributes
    ----------
    x, y
        Last weights; not finite, or large, where a run diverged.
    status
        ``"converged"``, ``"diverged"`` or ``"unfinished"``.
    steps
        Steps made, up to the next multiple of 50.
    lowest, highest
        Extremes of the product on the way; infinite where a run diverged.
    """

    x: Array
    y: Array
    status: NDArray[np.str_]
    steps: NDArray[np.int64]
    lowest: Array
    highest: Array

    @property
    def squared_norm(self) -> Array:
        """``u = x^2 + y^2``: times F''(s*), the curvature across the hyperbola of minimisers."""
        return self.x**2 + self.y**2

    @property
    def imbalance(self) -> Array:
        """``D = x^2 - y^2``, which gradient flow conserves."""
        return (self.x - self.y) * (self.x + self.y)

    def peak(self, landscape: Landscape) -> Array:
        """Largest loss on the way; infinite where a run diverged."""
        with np.errstate(over="ignore", invalid="ignore"):
            heights = np.fmax(landscape.value(self.lowest), landscape.value(self.highest))
        return np.where(self.status == "diverged", np.inf, heights)


def descend(
    landscape: Landscape,
    x: ArrayLike,
    y: ArrayLike,
    *,
    step_size: ArrayLike,
    steps: int = 2000,
    tolerance: float = 1e-11,
    bound: float = 1e8,
) -> Runs:
    """Run gradient descent from many starts, each until it has converged or diverged.

    Parameters
    ----------
    landscape
        F.
    x, y
        First weights; they and ``step_size`` broadcast to shape (runs,).
    step_size
        Positive, one for all or one for each run.
    steps
        Most steps, at least 1.
    tolerance
        A run has converged when its gradient is shorter than this.
    bound
        A run has diverged when ``|x| + |y|`` exceeds this or is not a number.

    Raises
    ------
    ParameterError
        For arrays that do not broadcast to one dimension or are not finite, and numbers out of range.

    Notes
    -----
    Runs are looked at every 50 steps and dropped when they have ended. A pass over them makes about ten numpy calls:
    20 ns a step for each run of thousands, 5 µs for a single one.

    Examples
    --------
    Twice the step that is stable where it starts, and a minimum in which it is stable:

    >>> runs = descend(power(1.0), *weights([40.0], [1.001]), step_size=0.1, steps=20_000)
    >>> runs.status.item(), round(0.1 * runs.squared_norm.item(), 3)
    ('converged', 1.99)
    """
    x, y, h = _starts(x, y, step_size)
    check_count("steps", steps, 1)
    check_number("tolerance", tolerance, above=0)
    check_number("bound", bound, above=0)
    runs = Runs(
        np.empty(x.size),
        np.empty(x.size),
        np.full(x.size, "unfinished"),
        np.full(x.size, steps),
        np.empty(x.size),
        np.empty(x.size),
    )
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, x.size, _CHUNK):
            part = slice(first, first + _CHUNK)
            _descend(landscape, x[part], y[part], h[part], steps, tolerance, bound, Runs(*(a[part] for a in runs)))
    return runs


def _descend(
    landscape: Landscape, x: Array, y: Array, h: Array, steps: int, tolerance: float, bound: float, runs: Runs
) -> None:
    """Fill ``runs``; the working arrays shrink as runs end, ``alive`` says which they are."""
    alive = np.arange(x.size)
    x, y, s = x.copy(), y.copy(), x * y
    lowest, highest = s.copy(), s.copy()
    done = 0
    while done < steps and alive.size:
        for _ in range(min(_LOOK, steps - done)):
            s = x * y
            np.minimum(lowest, s, out=lowest)
            np.maximum(highest, s, out=highest)
            pull = landscape.slope(s)
            pull *= h
            step = pull * y
            pull *= x
            x -= step
            y -= pull
        done = min(done + _LOOK, steps)
        gradient = np.abs(landscape.slope(x * y)) * np.hypot(x, y)
        diverged = ~(np.abs(x) + np.abs(y) <= bound)
        converged = ~diverged & (gradient < tolerance)
        ended = diverged | converged | (done == steps)
        if ended.any():
            where = alive[ended]
            runs.x[where], runs.y[where] = x[ended], y[ended]
            runs.status[alive[diverged]], runs.status[alive[converged]] = "diverged", "converged"
            runs.steps[where] = done
            runs.lowest[where] = np.where(diverged, -np.inf, np.minimum(lowest, x * y))[ended]
            runs.highest[where] = np.where(diverged, np.inf, np.maximum(highest, x * y))[ended]
            alive, x, y, h, lowest, highest = (a[~ended] for a in (alive, x, y, h, lowest, highest))


class Path(NamedTuple):
    """What runs did step by step; arrays of shape (recorded steps, runs), the first row the start.

    Attributes
    ----------
    step
        Shape (recorded steps,).
    product, squared_norm, imbalance, loss
        ``s = x y``, ``u = x^2 + y^2``, ``D = x^2 - y^2`` and F(s); not finite after a divergence.
    """

    step: NDArray[np.int64]
    product: Array
    squared_norm: Array
    imbalance: Array
    loss: Array


def follow(
    landscape: Landscape, x: ArrayLike, y: ArrayLike, *, step_size: ArrayLike, steps: int = 200, every: int = 1
) -> Path:
    """Run gradient descent and record every ``every``-th step.

    Parameters
    ----------
    landscape, x, y, step_size
        As for :func:`descend`.
    steps, every
        At least 1.

    Raises
    ------
    ParameterError
        As :func:`descend`.

    Examples
    --------
    >>> bool(follow(power(2.0), *weights(40.0, 1.001), step_size=0.06, steps=100).loss.max() > 14)
    True
    """
    x, y, h = _starts(x, y, step_size)
    check_count("every", every, 1)
    recorded = np.arange(0, check_count("steps", steps, 1) + 1, every)
    places = np.empty((2, recorded.size, x.size))
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(recorded[-1] + 1):
            if step % every == 0:
                places[:, step // every] = x, y
            pull = h * landscape.slope(x * y)
            x, y = x - pull * y, y - pull * x
        x, y = places
        return Path(recorded, x * y, x**2 + y**2, (x - y) * (x + y), landscape.value(x * y))


def hessian_eigenvalues(landscape: Landscape, x: ArrayLike, y: ArrayLike) -> Array:
    """Both eigenvalues of the Hessian of F(x y), exactly: shape (..., 2), the smaller one first.

    Examples
    --------
    >>> hessian_eigenvalues(power(2.0), 2.0, 0.5)
    array([0.  , 4.25])
    """
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    s = x * y
    bend = landscape.bend(s)
    middle, radius = bend * (x**2 + y**2) / 2, np.hypot(bend * (x**2 - y**2) / 2, landscape.slope(s) + bend * s)
    return np.stack([middle - radius, middle + radius], axis=-1)


def second_iterate(landscape: Landscape, offset: ArrayLike, *, imbalance: float, step_size: float) -> Array:
    """Where two steps take a product ``s* + offset``, less s*, while the imbalance is held.

    Parameters
    ----------
    landscape, step_size
        As for :func:`descend`.
    offset
        Of any shape.
    imbalance
        D; a step of gradient descent itself multiplies it by ``1 - (step_size F')^2``.

    Examples
    --------
    >>> second_iterate(power(2.0), [0.0, 0.01], imbalance=0.0, step_size=0.1).round(4)
    array([0.    , 0.0064])
    """
    s = landscape.minimiser + np.asarray(offset, float)
    for _ in range(2):
        pull = step_size * landscape.slope(s)
        s = s + pull * (pull * s - np.sqrt(imbalance**2 + 4 * s**2))
    return s - landscape.minimiser


@validated
def simulate(
    rng: np.random.Generator,
    *,
    degree: Annotated[float, Interval(gt=0, le=8)] = 1.0,
    step_ratio: Annotated[float, Interval(gt=0, le=100)] = 3.0,
    smallest: Annotated[float, Interval(ge=3, le=1e4)] = 20.0,
    largest: Annotated[float, Interval(ge=3, le=1e4)] = 80.0,
    starts: Annotated[int, Interval(ge=1, le=100_000)] = 30,
    steps: Annotated[int, Interval(ge=1, le=1_000_000)] = 3000,
) -> dict[str, Array]:
    """Descend ``F(x y)`` for F = :func:`~porism_sims.large_steps.landscapes.power` from random starts far away.

    Parameters
    ----------
    rng
        Draws the starts: x^2 + y^2 between ``smallest`` and ``largest``, x y within 0.4 times that.
    degree
        Degree of regularity: F grows as ``|s|^degree`` and has its minimum, with curvature 1, at s = 1.
    step_ratio
        The step is this over the first x^2 + y^2, about the sharpness there; above 2 it is large.
    smallest, largest
        Range of the first x^2 + y^2.
    starts, steps
        How many runs, and the most steps of each.

    Returns
    -------
    dict
        Arrays of shape (starts,): ``converged`` and ``diverged``, true or false; ``steps``; ``final_ratio``, the step
        times the sharpness of a minimum with the last x^2 + y^2; ``balance``, the last imbalance as a share of the
        first; ``catapult``, the largest loss over the first. Of a run that diverged the first two are no numbers, and
        the last is infinite.

    Raises
    ------
    ParameterError
        If a parameter is out of its range, or ``largest`` is less than ``smallest``.

    Examples
    --------
    >>> ends = simulate(np.random.default_rng(0), degree=2.0, step_ratio=3.0)
    >>> bool(ends["converged"].all()), bool(ends["final_ratio"].max() < 2)
    (True, True)
    """
    if largest < smallest:
        raise ParameterError(f"largest must be at least smallest, got {largest:g} < {smallest:g}")
    landscape = power(degree)
    squared_norm = rng.uniform(smallest, largest, starts)
    x, y = weights(squared_norm, squared_norm * rng.uniform(-0.4, 0.4, starts))
    step_size = step_ratio / squared_norm
    runs = descend(landscape, x, y, step_size=step_size, steps=steps)
    lost = runs.status == "diverged"
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            "converged": runs.status == "converged",
            "diverged": lost,
            "steps": runs.steps,
            "final_ratio": np.where(lost, np.nan, step_size * runs.squared_norm),
            "balance": np.where(lost, np.nan, np.abs(runs.imbalance / (x**2 - y**2))),
            "catapult": runs.peak(landscape) / landscape.value(x * y),
        }


def _starts(x: ArrayLike, y: ArrayLike, step_size: ArrayLike) -> tuple[Array, Array, Array]:
    """First weights and step sizes of shape (runs,), checked."""
    try:
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(a, float)) for a in (x, y, step_size)))
    except ValueError:
        raise ParameterError("x, y and step_size must broadcast") from None
    if arrays[0].ndim > 1:
        raise ParameterError(f"x, y and step_size must broadcast to one dimension, got {arrays[0].ndim}")
    check_finite(x=arrays[0], y=arrays[1], step_size=arrays[2])
    if not np.all(arrays[2] > 0):
        raise ParameterError("step_size must be positive")
    return arrays[0], arrays[1], arrays[2]
