"""Small structures: graphs as adjacency matrices, and sequences of events in time."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from porism.arrays import check_number
from porism.testing.strategies._options import Sizes, numbers, size_range
from porism.testing.strategies._paths import strongly_connected

Array = NDArray[np.float64]

# The least and the greatest: weights of edges, and times between events, long enough that sums keep them apart.
_WEIGHTS = 1e-9, 1e3
_GAPS = 1e-6, 1e3


class EventSequence(NamedTuple):
    """Events that were seen up to a horizon.

    Attributes
    ----------
    times
        In order, from 0 to the horizon, shape (n,); n may be 0.
    types
        Of each event, whole numbers from 0, shape (n,).
    horizon
        End of the observation, positive.
    """

    times: Array
    types: NDArray[np.int64]
    horizon: float


def graphs(
    *,
    nodes: Sizes = (1, 6),
    directed: bool = False,
    connected: bool = False,
    loops: bool = False,
    weighted: bool = False,
) -> st.SearchStrategy[Array]:
    """Graphs as adjacency matrices, float64: 0 where there is no edge, else its weight, from row to column.

    ``networkx.from_numpy_array(drawn)`` makes a graph of one (``create_using=networkx.DiGraph`` for a directed one),
    ``scipy.sparse.csr_array(drawn)`` a sparse matrix, ``np.argwhere(drawn)`` a list of edges,
    ``np.diag(drawn.sum(axis=1)) - drawn`` the Laplacian.

    Parameters
    ----------
    nodes
        How many, or the smallest and largest number.
    directed
        Without, matrices are symmetric.
    connected
        Whether each node leads to each other.
    loops
        Whether a node may have an edge to itself.
    weighted
        Weights from 1e-9 to 1000, with ties; otherwise all are 1.

    Returns
    -------
    strategy of ndarrays of shape (nodes, nodes)
        Shrinks to few nodes without edges; connected ones to paths and cycles.

    Raises
    ------
    ParameterError
        For fewer than one node.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(graphs(nodes=2), lambda drawn: True)
    array([[0., 0.],
           [0., 0.]])
    >>> find(graphs(nodes=3, connected=True), lambda drawn: True)
    array([[0., 1., 0.],
           [1., 0., 1.],
           [0., 1., 0.]])
    """
    return _graphs(size_range("nodes", nodes, 1), directed, connected, loops, weighted)


def event_sequences(
    *, events: Sizes = (0, 8), types: Sizes = (1, 3), ties: bool = False, horizon: float | None = None
) -> st.SearchStrategy[EventSequence]:
    """Sequences of events in time: none at all, bursts, long silences, events at the very end.

    Parameters
    ----------
    events
        How many, or the smallest and largest number.
    types
        How many types there are, or the smallest and largest number; not all of them need occur.
    ties
        Whether events may be at one time, and the first at time 0. Without, times are positive and increase strictly.
    horizon
        End of the observation; None draws it.

    Returns
    -------
    strategy of :class:`EventSequence`
        Shrinks to few events of type 0 at the times 1, 2, ... (for a given horizon, equally far apart).

    Raises
    ------
    ParameterError
        For a number of events below 0, of types below 1, or a horizon that is not positive and finite.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(event_sequences(), lambda drawn: True)
    EventSequence(times=array([], dtype=float64), types=array([], dtype=int64), horizon=1.0)
    >>> find(event_sequences(events=2), lambda drawn: True)
    EventSequence(times=array([1., 2.]), types=array([0, 0]), horizon=3.0)
    """
    if horizon is not None:
        horizon = check_number("horizon", horizon, above=0, at_most=float(np.finfo(float).max))
    return _event_sequences(size_range("events", events, 0), size_range("types", types, 1), ties, horizon)


@st.composite
def _graphs(
    draw: st.DrawFn, nodes: tuple[int, int], directed: bool, connected: bool, loops: bool, weighted: bool
) -> Array:
    count = draw(st.integers(*nodes))
    weight = numbers(*_WEIGHTS, 1.0) if weighted else st.just(1.0)
    pairs = [(i, j) for i in range(count) for j in range(0 if directed else i, count) if loops or i != j]
    # As many choices whatever is chosen, so that an edge is left out wherever that can be.
    present = draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    weights = np.array(draw(st.lists(weight, min_size=len(pairs), max_size=len(pairs)))) * present
    # A path and, in a directed graph, the way back: drawn in any case, so that a graph that needs it counts as simple.
    order, mending = (draw(st.permutations(range(count))), draw(weight)) if connected else ([], 0.0)
    adjacency = _adjacency(count, pairs, weights, directed)
    if connected and not strongly_connected(adjacency > 0):
        way = [*pairwise([*order, order[0]] if directed and count > 1 else order)]
        adjacency = np.maximum(adjacency, _adjacency(count, way, np.full(len(way), mending), directed))
    return adjacency


def _adjacency(count: int, edges: list[tuple[int, int]], weights: Array, directed: bool) -> Array:
    adjacency = np.zeros((count, count))
    for edge, weight in zip(edges, weights, strict=True):
        adjacency[edge] = weight
    return adjacency if directed else np.maximum(adjacency, adjacency.T)


@st.composite
def _event_sequences(
    draw: st.DrawFn, events: tuple[int, int], types: tuple[int, int], ties: bool, horizon: float | None
) -> EventSequence:
    known = draw(st.integers(*types))
    gap = numbers(0.0 if ties else _GAPS[0], _GAPS[1], 1.0, _GAPS[0])
    # Pairs, so that hypothesis takes out an event as a whole.
    found = draw(st.lists(st.tuples(gap, st.integers(0, known - 1)), min_size=events[0], max_size=events[1]))
    silence = draw(numbers(0.0, _GAPS[1], 1.0))
    times = np.cumsum(np.array([gap for gap, _ in found], dtype=np.float64))
    end = float(times[-1] if found else 0.0) + silence or 1.0
    if horizon is not None:
        times, end = np.minimum(times * (horizon / end), horizon), horizon
    return EventSequence(times, np.array([mark for _, mark in found], dtype=np.int64), end)
