"""Arrays that methods are fed: logits, distributions, samples of points."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from porism.arrays import check_number
from porism.errors import ParameterError
from porism.testing.strategies._options import Sizes, numbers, size_range

# How far apart the points of a sample are that nearly coincide, as a share of `magnitude`.
NEARLY = 1e-9


def logits(
    *,
    rows: Sizes = (1, 6),
    classes: Sizes = (2, 8),
    magnitude: float = 1e4,
    masked: bool = False,
    dtype: type[np.floating[Any]] = np.float64,
) -> st.SearchStrategy[NDArray[Any]]:
    """Logits of shape (rows, classes): ordinary, tied, one class far above, or all of them huge.

    Parameters
    ----------
    rows, classes
        How many, or the smallest and largest number of each.
    magnitude
        Largest absolute value, which must be finite in ``dtype``.
    masked
        Whether entries may be ``-inf``, never all of a row; without them everything is finite.
    dtype
        Such as ``np.float32``; ``torch.from_numpy`` takes the array as it is.

    Returns
    -------
    strategy of ndarrays of shape (rows, classes)
        Shrinks to few rows of few zeros.

    Raises
    ------
    ParameterError
        For sizes below 1, a dtype that is not floating, or a magnitude that is not positive or overflows.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(logits(), lambda drawn: True)
    array([[0., 0.]])
    """
    shape = _shape(rows=rows, classes=classes)
    if np.dtype(dtype).kind != "f" or np.dtype(dtype).itemsize not in (2, 4, 8):
        raise ParameterError(f"dtype must be a floating type of 16, 32 or 64 bits, got {dtype!r:.80}")
    greatest = _rounded_down(check_number("magnitude", magnitude, above=0, at_most=float(np.finfo(dtype).max)), dtype)
    ordinary = _rounded_down(min(10.0, greatest), dtype)
    if not greatest:
        raise ParameterError(f"magnitude must not vanish in {np.dtype(dtype)}, got {magnitude:g}")
    bits = cast(Literal[16, 32, 64], np.dtype(dtype).itemsize * 8)
    tied = [0.0, ordinary, -ordinary, greatest, -greatest, *([-np.inf] if masked else [])]
    elements = st.one_of(st.sampled_from(tied), st.floats(-ordinary, ordinary, width=bits))
    return shape.flatmap(lambda s: npst.arrays(dtype, s, elements=elements, fill=st.nothing())).map(_unmask_one)


def distributions(
    *, rows: Sizes = (1, 4), classes: Sizes = (2, 8), zeros: bool = True
) -> st.SearchStrategy[NDArray[np.float64]]:
    """Probability vectors of shape (rows, classes), float64: with ties, exact zeros, and entries near 0 and 1.

    ``p, q = drawn`` unpacks two of them with ``rows=2``.

    Parameters
    ----------
    rows, classes
        How many, or the smallest and largest number of each.
    zeros
        Whether an entry may be exactly 0 or as small as 1e-300 over the number of classes; without, 1e-12 over it.

    Returns
    -------
    strategy of ndarrays of shape (rows, classes)
        Rows are not negative and sum to 1 up to rounding. Shrinks to few uniform rows.

    Raises
    ------
    ParameterError
        For sizes below 1.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(distributions(), lambda drawn: True)
    array([[0.5, 0.5]])
    >>> find(distributions(), lambda drawn: (drawn == 0).any())
    array([[1., 0.]])
    """
    # The first choice is the simplest, so that every row shrinks to the uniform distribution.
    simple = [1.0, 0.0, 1e-12, 1e-300] if zeros else [1.0, 1e-12]
    elements = st.one_of(st.sampled_from(simple), st.floats(1e-300 if zeros else 1e-12, 1.0))
    shape = _shape(rows=rows, classes=classes)
    return shape.flatmap(lambda s: npst.arrays(np.float64, s, elements=elements, fill=st.nothing())).map(normalised)


def samples(
    *, points: Sizes = (1, 10), dimension: Sizes | None = None, magnitude: float = 1e3
) -> st.SearchStrategy[NDArray[np.float64]]:
    """Samples of points, float64: with ties, points that coincide or nearly do, and tiny and large coordinates.

    Parameters
    ----------
    points
        How many, or the smallest and largest number.
    dimension
        The same for the coordinates of each; None is the line, where a sample has shape (points,).
    magnitude
        Largest absolute coordinate; points that nearly coincide differ by 1e-9 of it.

    Returns
    -------
    strategy of ndarrays of shape (points,) or (points, dimension)
        Shrinks to few points at the origin.

    Raises
    ------
    ParameterError
        For sizes below 1, or a magnitude that is not positive and finite.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(samples(dimension=2), lambda drawn: True)
    array([[0., 0.]])
    >>> find(samples(points=3), lambda drawn: len(set(drawn)) == 2)
    array([0., 0., 1.])
    """
    count = size_range("points", points, 1)
    width = (1, 1) if dimension is None else size_range("dimension", dimension, 1)
    greatest = check_number("magnitude", magnitude, above=0, at_most=float(np.finfo(float).max))
    drawn = _samples(count, width, greatest)
    return drawn.map(lambda x: x[:, 0]) if dimension is None else drawn


def normalised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows divided by their sums; a row without mass puts all of it on its first entry.

    Examples
    --------
    >>> normalised(np.array([[1.0, 3.0], [0.0, 0.0]]))
    array([[0.25, 0.75],
           [1.  , 0.  ]])
    """
    weights = weights.copy()
    weights[weights.sum(axis=1) == 0, 0] = 1.0
    weights /= weights.max(axis=1, keepdims=True)  # subnormal sums would lose digits
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


@st.composite
def _samples(draw: st.DrawFn, count: tuple[int, int], width: tuple[int, int], greatest: float) -> NDArray[np.float64]:
    shape = draw(st.integers(*count)), draw(st.integers(*width))
    coordinates = numbers(-greatest, greatest, 0.0, 1.0, -1.0, 1e-300, greatest).map(lambda x: x + 0.0)  # no -0.0
    points: NDArray[np.float64] = draw(npst.arrays(np.float64, shape, elements=coordinates, fill=st.nothing()))
    for place in range(1, len(points)):
        match draw(st.sampled_from(["own", "own", "same", "near"])):
            case "same":
                points[place] = points[draw(st.integers(0, place - 1))]
            case "near":
                shift = np.sign(points[place]) * NEARLY * greatest
                points[place] = np.clip(points[draw(st.integers(0, place - 1))] + shift, -greatest, greatest)
    return points


def _shape(**sizes: Sizes) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*(st.integers(*size_range(name, size, 1)) for name, size in sizes.items()))


def _rounded_down(value: float, dtype: type[np.floating[Any]]) -> float:
    """The nearest number of a dtype that is not above a positive value."""
    rounded = dtype(value)
    return float(rounded if float(rounded) <= value else np.nextafter(rounded, dtype(0)))


def _unmask_one(logits: NDArray[Any]) -> NDArray[Any]:
    logits[np.isneginf(logits).all(axis=1), 0] = 0.0
    return logits
