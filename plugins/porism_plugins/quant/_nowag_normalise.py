"""What both modes of NoWag share: normalised matrices, what an entry of them weighs, and masks of exact counts."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from porism.errors import ParameterError

Objective = Literal["normalised", "output"]

# Added to norms.
EPSILON = 1e-5
# Share of the mean below which no input is weighed in vector quantisation: one that is dead in the calibration gets the
# nearest codes all the same, at no cost to the others.
FLOOR = 1e-6
_PATTERN = re.compile(r"([1-9]\d*):([1-9]\d*)")


class Normalised(NamedTuple):
    """A matrix of nearly unit rows, (out, in), and the scales of rows, (out,), and columns, (in,), taken out of it."""

    matrix: Tensor
    rows: Tensor
    columns: Tensor


def normalise(weight: Tensor, padding: int = 0) -> Normalised:
    """Divide columns by their norms, then rows by theirs; the matrix gets ``padding`` columns of zeros.

    Examples
    --------
    >>> normalise(torch.tensor([[3.0, 0.0], [4.0, 1.0]])).columns
    tensor([5.0000, 1.0000])
    """
    columns = weight.norm(dim=0) + EPSILON
    scaled = F.pad(weight, (0, padding)) if padding else weight.clone()
    scaled[:, : len(columns)].div_(columns)
    rows = scaled.norm(dim=1) + EPSILON
    return Normalised(scaled.div_(rows[:, None]), rows, columns)


def denormalise(normalised: Normalised) -> Tensor:
    """The matrix that :func:`normalise` was given."""
    matrix, rows, columns = normalised
    return matrix * rows[:, None] * columns


def input_weights(h: Tensor, columns: Tensor, objective: Objective) -> Tensor:
    """What the squared error of a normalised entry weighs, up to its row's part: h, or h r1^2 for the output's error.

    With the squared row norms as well, the latter is the error of W itself under h.
    """
    return h if objective == "normalised" else h * columns.square()


def floored(h: Tensor) -> Tensor:
    """h with no input below :data:`FLOOR` of the mean; ones if all are zero."""
    mean = h.mean()
    return torch.where(mean > 0, h.clamp(min=FLOOR * mean), 1.0)


def scores(weight: Tensor, h: Tensor, objective: Objective) -> Tensor:
    """What each weight is worth: its squared normalised value times h, or W^2 h for the output's error."""
    matrix = weight if objective == "output" else normalise(weight).matrix
    return matrix.square() * h


def kept_count(total: int, remaining: float) -> int:
    """ceil(total remaining), in exact decimals.

    Examples
    --------
    >>> kept_count(10, 0.3), math.ceil(100 * 0.07), kept_count(100, 0.07)
    (3, 8, 7)
    """
    return math.ceil(Fraction(repr(float(remaining))) * total)


def mask(worth: Tensor, remaining: float, pattern: str) -> Tensor:
    """Where the largest scores are: over the whole matrix, in each ``"row"``, or N of M consecutive ones by ``"N:M"``.

    Of equal scores those that come first stay.

    Examples
    --------
    >>> mask(torch.tensor([[4.0, 3.0, 2.0, 9.0]]), 0.5, "2:4")
    tensor([[ True, False, False,  True]])
    """
    if groups := group_of(pattern):
        kept, size = groups
        return _largest(worth.reshape(-1, size), kept).view(worth.shape)
    rows = worth if pattern == "row" else worth.reshape(1, -1)
    return _largest(rows, kept_count(rows.shape[1], remaining)).view(worth.shape)


def group_of(pattern: str) -> tuple[int, int] | None:
    """N and M of ``"N:M"``, None for ``"unstructured"`` and ``"row"``.

    Raises
    ------
    ParameterError
        If it is none of these, or N is larger than M.
    """
    if pattern in ("unstructured", "row"):
        return None
    found = _PATTERN.fullmatch(pattern)
    if not found or int(found[1]) > int(found[2]):
        raise ParameterError(f"pattern must be unstructured, row, or N:M with N up to M, got {pattern!r}")
    return int(found[1]), int(found[2])


def _largest(rows: Tensor, kept: int) -> Tensor:
    if kept == rows.shape[1]:
        return torch.ones_like(rows, dtype=torch.bool)
    threshold = rows.kthvalue(rows.shape[1] - kept + 1, dim=1, keepdim=True).values
    above, equal = rows > threshold, rows == threshold
    missing = kept - above.sum(1, keepdim=True)
    return above | (equal & (equal.cumsum(1, dtype=torch.int32) <= missing))
