"""Arithmetic of ranges: which integers, floats and multiples lie between two bounds, and how bounds are written."""

from __future__ import annotations

import math
import numbers
import sys
from fractions import Fraction
from typing import Any, NamedTuple

_LONGEST_SHOWN = 80


class Ends(NamedTuple):
    """The smallest and the largest value of a range; None where there is none."""

    first: Any
    last: Any

    @property
    def empty(self) -> bool:
        """Whether nothing lies between."""
        if self.first == math.inf or self.last == -math.inf:
            return True
        return self.first is not None and self.last is not None and bool(self.first > self.last)


def integer_ends(low: float, high: float, low_open: bool, high_open: bool) -> Ends:
    """The integers between two bounds, each infinite or excluded where asked for.

    Examples
    --------
    >>> integer_ends(0.5, 4, False, True), integer_ends(1.2, 1.8, False, False).empty
    (Ends(first=1, last=3), True)
    """
    if low == math.inf or high == -math.inf:
        return Ends(1, 0)
    return Ends(
        None if low == -math.inf else math.floor(low) + 1 if low_open else math.ceil(low),
        None if high == math.inf else math.ceil(high) - 1 if high_open else math.floor(high),
    )


def float_ends(low: float, high: float, low_open: bool, high_open: bool) -> Ends:
    """The finite floats between two bounds.

    Examples
    --------
    >>> float_ends(0, 1, True, False), float_ends(2**53 + 1, 10**400, False, False)
    (Ends(first=5e-324, last=1.0), Ends(first=9007199254740994.0, last=1.7976931348623157e+308))
    """
    return Ends(
        None if low == -math.inf else _float_above(low, strictly=low_open),
        None if high == math.inf else 0.0 - _float_above(-high, strictly=high_open),  # never -0.0
    )


def multiple_ends(ends: Ends, step: float) -> Ends:
    """The factors k for which k times ``step`` lies between the ends.

    Examples
    --------
    >>> multiple_ends(Ends(0.3, 1.0), 0.1)
    Ends(first=3, last=10)
    """
    return Ends(
        None if ends.first is None else math.ceil(exact(ends.first) / exact(step)),
        None if ends.last is None else math.floor(exact(ends.last) / exact(step)),
    )


def divides(step: float, value: float) -> bool:
    """Whether ``value`` is a multiple of ``step``: exactly for an integer, to nine digits for a float.

    Examples
    --------
    >>> divides(0.1, 0.1 + 0.2), divides(3, 10**18 + 1)
    (True, False)
    """
    quotient = exact(value) / exact(step)
    tolerance = abs(quotient) / 10**9 if isinstance(value, float) else 0
    return abs(quotient - round(quotient)) <= tolerance


def exact(value: float) -> Fraction:
    """The number as it is written, so that 0.3 is three times 0.1."""
    return Fraction(value) if isinstance(value, numbers.Integral) else Fraction(str(float(value)))


def number(bound: float) -> str:
    """A bound as a person writes it: integers in full, others in six digits.

    Examples
    --------
    >>> number(12.0), number(2**64), number(2**0.5)
    ('12', '18446744073709551616', '1.41421')
    """
    whole = -math.inf < bound < math.inf and bound == int(bound)
    return shown(int(bound)) if whole and (isinstance(bound, int) or abs(bound) < 1e15) else f"{bound:g}"


def shown(value: Any) -> str:
    """A value in one short line, whatever it is.

    Examples
    --------
    >>> shown("two"), shown(10**5000), len(shown("x" * 10**6))
    ("'two'", 'int too long to show', 81)
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes out no integer of more than 4300 digits
        return f"{type(value).__name__} too long to show"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _float_above(bound: float, *, strictly: bool) -> float:
    """The smallest float at or above a bound, infinite where there is none."""
    try:
        value = float(bound)
    except OverflowError:  # an integer beyond every float
        return math.inf if bound > 0 else -sys.float_info.max
    return math.nextafter(value, math.inf) if value < bound or (strictly and value == bound) else value
