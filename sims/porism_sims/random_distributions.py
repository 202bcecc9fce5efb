"""Random pairs of distributions on finitely many points, from nearly equal to disjoint, and their divergences."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from porism import divergences
from porism.parameters import validated

Array = NDArray[np.float64]
Size = Annotated[int, Interval(ge=2, le=200)]
Spread = Annotated[float, Interval(ge=0, le=300)]
Share = Annotated[float, Interval(ge=0, le=0.9)]


class Pair(NamedTuple):
    """Two distributions on the same points, shape (size,) each."""

    p: Array
    q: Array


def distribution(rng: np.random.Generator, *, size: int, spread: float, zeros: float = 0.0) -> Array:
    """A distribution with normal log-weights of standard deviation ``spread``, some of its points without mass.

    Examples
    --------
    >>> distribution(np.random.default_rng(0), size=3, spread=1.0).round(3)
    array([0.29 , 0.224, 0.486])
    """
    return _weights(rng, spread * rng.standard_normal(size), zeros)


def pair(
    rng: np.random.Generator, *, size: int, spread: float = 1.0, distance: float = 1.0, zeros: float = 0.0
) -> Pair:
    """A random p, and a q whose log-weights differ from it by normals of standard deviation ``distance``.

    Parameters
    ----------
    rng
        Draws everything.
    size
        Number of points, at least 2.
    spread, distance
        Standard deviations of the log-weights of p, and of their difference to those of q, in nats.
    zeros
        Share of the points that lose their mass, drawn for p and for q on their own; one point at least keeps it.

    Examples
    --------
    >>> p, q = pair(np.random.default_rng(0), size=4, distance=0.0)
    >>> bool((p == q).all())
    True
    """
    logs = spread * rng.standard_normal(size)
    shift = distance * rng.standard_normal(size)
    return Pair(_weights(rng, logs, zeros), _weights(rng, logs + shift, zeros))


def channel(rng: np.random.Generator, *, inputs: int, outputs: int, spread: float = 1.0, zeros: float = 0.0) -> Array:
    """A random channel: each row, shape (inputs, outputs), is the distribution of the output given the input.

    Examples
    --------
    >>> channel(np.random.default_rng(0), inputs=2, outputs=3).sum(axis=1)
    array([1., 1.])
    """
    return np.stack([distribution(rng, size=outputs, spread=spread, zeros=zeros) for _ in range(inputs)])


@validated
def simulate(
    rng: np.random.Generator,
    *,
    size: Size = 3,
    spread: Spread = 1.0,
    distance: Spread = 1.0,
    zeros: Share = 0.0,
    pairs: Annotated[int, Interval(ge=1, le=100_000)] = 200,
) -> dict[str, Array]:
    """Divergences of many random pairs: the cloud in which inequalities between them are edges.

    Parameters
    ----------
    rng
        Draws the pairs.
    size, spread, distance, zeros
        As :func:`pair` has them; ``distance`` is the largest, each pair has a uniform share of it.
    pairs
        How many.

    Returns
    -------
    dict of str to ndarray
        ``tv``, ``kl``, ``reverse_kl``, ``js``, ``squared_hellinger``, ``pearson_chi2``, ``triangular`` in nats or
        without unit, shape (pairs,) each; infinite where p has mass and q has none (or the other way round).

    Raises
    ------
    ParameterError
        For a parameter out of its range.

    Examples
    --------
    >>> bool((simulate(np.random.default_rng(0), pairs=10)["tv"] <= 1).all())
    True
    """
    drawn = [pair(rng, size=size, spread=spread, distance=distance * rng.random(), zeros=zeros) for _ in range(pairs)]
    p, q = np.stack([d.p for d in drawn]), np.stack([d.q for d in drawn])
    return {
        "tv": divergences.tv_distance(p, q),
        "kl": divergences.kl_divergence(p, q),
        "reverse_kl": divergences.kl_divergence(q, p),
        "js": divergences.js_divergence(p, q),
        "squared_hellinger": divergences.squared_hellinger(p, q),
        "pearson_chi2": divergences.pearson_chi2(p, q),
        "triangular": divergences.triangular_discrimination(p, q),
    }


def _weights(rng: np.random.Generator, logs: Array, zeros: float) -> Array:
    lost = rng.random(len(logs)) < zeros
    lost[rng.integers(len(logs))] = False
    logs = np.where(lost, -np.inf, logs)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()
