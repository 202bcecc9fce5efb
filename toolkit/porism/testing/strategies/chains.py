"""Stochastic matrices: channels, and Markov chains with the structure that a theorem asks for."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from porism.errors import ParameterError
from porism.testing.strategies._options import Sizes, numbers, one_of, size_range
from porism.testing.strategies._paths import reach, strongly_connected
from porism.testing.strategies.arrays import normalised

Array = NDArray[np.float64]
Chain = Literal["any", "irreducible", "ergodic", "absorbing"]

# The smallest weight that is not 0: a transition this rare nearly cuts a chain in two.
RARE = 1e-12
# What mends a chain: an ordinary transition, or one that hardly ever happens.
_MENDING = st.sampled_from([1.0, RARE])


def stochastic_matrices(
    *,
    rows: Sizes = (1, 5),
    columns: Sizes | None = None,
    chain: Chain = "any",
    zeros: bool = True,
    doubly: bool = False,
) -> st.SearchStrategy[Array]:
    """Matrices whose rows are distributions, float64: with ties, deterministic rows, and nearly reducible ones.

    Parameters
    ----------
    rows
        How many, or the smallest and largest number.
    columns
        The same; None is square.
    chain
        Of square matrices: ``"irreducible"`` (each state leads to each other), ``"ergodic"`` (and some power is
        positive), ``"absorbing"`` (each state leads to one that is never left), or ``"any"``.
    zeros
        Whether an entry may be exactly 0. Others are at least 1e-12 over the number of columns.
    doubly
        Whether columns sum to 1 too; such matrices are means of up to four permutations (Birkhoff).

    Returns
    -------
    strategy of ndarrays of shape (rows, columns)
        Sums are 1 up to rounding. Shrinks to few uniform rows; doubly stochastic ones to the identity.

    Raises
    ------
    ParameterError
        For sizes below 1, columns together with a chain or ``doubly``, an unknown chain, or an absorbing chain without
        zeros or with ``doubly``.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(stochastic_matrices(rows=2), lambda drawn: True)
    array([[0.5, 0.5],
           [0.5, 0.5]])
    >>> find(stochastic_matrices(rows=2, chain="absorbing"), lambda drawn: True)
    array([[1. , 0. ],
           [0.5, 0.5]])
    >>> find(stochastic_matrices(rows=2, chain="irreducible"), lambda drawn: drawn[0, 0] == 0 and drawn[1, 1] == 0)
    array([[0., 1.],
           [1., 0.]])
    """
    height = size_range("rows", rows, 1)
    one_of("chain", chain, get_args(Chain))
    if columns is not None:
        if doubly or chain != "any":
            raise ParameterError(f"columns must be None, for a square matrix, with a chain or doubly, got {columns!r}")
        width = size_range("columns", columns, 1)
        return st.tuples(st.integers(*height), st.integers(*width)).flatmap(lambda s: stochastic_rows(*s, zeros=zeros))
    if chain == "absorbing" and (doubly or not zeros):
        raise ParameterError("chain must not be 'absorbing' with doubly or without zeros: its states are never left")
    return (_permutations if doubly else _chains)(height, chain, zeros)


def stochastic_rows(rows: int, columns: int, *, zeros: bool) -> st.SearchStrategy[Array]:
    """Any stochastic matrix of a shape; see :func:`stochastic_matrices`."""
    return row_weights(rows, columns, zeros=zeros).map(normalised)


def row_weights(rows: int, columns: int, *, zeros: bool) -> st.SearchStrategy[Array]:
    """What becomes a stochastic matrix of a shape when its rows are normalised."""
    return st.lists(_weights(columns, zeros), min_size=rows, max_size=rows).map(np.array)


def _weights(columns: int, zeros: bool) -> st.SearchStrategy[list[float]]:
    """Weights of a row, not normalised: any, or those of a deterministic one."""
    simple = [1.0, 0.0, RARE] if zeros else [1.0, RARE]
    entries = st.one_of(st.sampled_from(simple), st.floats(RARE, 1.0))
    row = st.lists(entries, min_size=columns, max_size=columns)
    # Drawn in either case: hypothesis holds an example of fewer choices for simpler, and uniform rows are to be that.
    return st.builds(_greatest_alone, row, st.booleans()) if zeros else row


def _greatest_alone(row: list[float], alone: bool) -> list[float]:
    return [float(place == row.index(max(row))) for place in range(len(row))] if alone else row


@st.composite
def _chains(draw: st.DrawFn, rows: tuple[int, int], chain: Chain, zeros: bool) -> Array:
    states = draw(st.integers(*rows))
    # Cut from the front of the largest size, so that hypothesis can take out a state and leave the others.
    weights = normalised(draw(row_weights(rows[1], rows[1], zeros=zeros))[-states:, -states:])
    if chain == "absorbing":
        _absorb(draw, weights)
    elif chain != "any":
        _connect(draw, weights, chain)
    return normalised(weights)


def _absorb(draw: st.DrawFn, weights: Array) -> None:
    """Make some states absorbing, and lead those states there that did not find the way."""
    states = len(weights)
    kept = draw(st.lists(st.integers(0, states - 1), min_size=1, max_size=states, unique=True))
    weights[kept] = np.eye(states)[kept]
    for state in np.flatnonzero(~reach(weights > 0)[:, kept].any(axis=1)):
        weights[state, draw(st.sampled_from(kept))] = draw(_MENDING)


def _connect(draw: st.DrawFn, weights: Array, chain: Chain) -> None:
    """Add a cycle through all states unless each leads to each, at times in place of all else, and for ergodic chains
    loops unless some power is positive. Where all sums of rows and columns were equal, they still are."""
    states = len(weights)
    if not strongly_connected(weights > 0):
        cycle = draw(st.permutations(range(states)))
        weights *= draw(st.sampled_from([1.0, 0.0]))
        weights[cycle, np.roll(cycle, -1)] += draw(_MENDING)
    if chain == "ergodic" and not _primitive(weights > 0):
        weights += draw(_MENDING) * np.eye(states)


def _primitive(support: NDArray[np.bool_]) -> bool:
    """Whether some power of a matrix with this support is positive: if any, then Wielandt's."""
    return bool(np.linalg.matrix_power(support, (len(support) - 1) ** 2 + 1).all())


@st.composite
def _permutations(draw: st.DrawFn, rows: tuple[int, int], chain: Chain, zeros: bool) -> Array:
    states = draw(st.integers(*rows))
    orders = draw(st.lists(st.permutations(range(states)), min_size=1, max_size=4))
    matrix = np.zeros((states, states))
    for order in orders:
        matrix += draw(numbers(RARE, 1.0, 1.0)) * np.eye(states)[order]
    matrix /= matrix[0].sum()
    if chain != "any":
        _connect(draw, matrix, chain)
    if not zeros:
        matrix += RARE
    doubly: Array = matrix / matrix[0].sum()
    return doubly
