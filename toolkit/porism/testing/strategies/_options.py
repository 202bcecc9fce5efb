"""What the strategies' options may be, checked where a strategy is made and not where it is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from hypothesis import strategies as st

from porism.arrays import check_count, check_number
from porism.errors import ParameterError, did_you_mean

# One size, or the smallest and the largest.
Sizes: TypeAlias = int | tuple[int, int]
# One number, or the least and the greatest.
Numbers: TypeAlias = float | tuple[float, float]


def size_range(name: str, value: Any, low: int) -> tuple[int, int]:
    """The smallest and the largest size, or :class:`ParameterError`.

    Examples
    --------
    >>> size_range("rows", 3, 1), size_range("rows", (2, 5), 1)
    ((3, 3), (2, 5))
    >>> size_range("rows", (5, 2), 1)
    Traceback (most recent call last):
    porism.errors.ParameterError: rows must be (smallest, largest) in this order, got (5, 2)
    """
    smallest, largest = (check_count(name, part, low) for part in _pair(name, value))
    if smallest > largest:
        raise ParameterError(f"{name} must be (smallest, largest) in this order, got {value!r}")
    return smallest, largest


def number_range(name: str, value: Any, **bounds: float) -> tuple[float, float]:
    """The least and the greatest number, each within the bounds of :func:`porism.arrays.check_number`.

    Examples
    --------
    >>> number_range("discount", (0, 0.9), at_least=0, below=1)
    (0.0, 0.9)
    """
    least, greatest = (check_number(name, part, **bounds) for part in _pair(name, value))
    if least > greatest:
        raise ParameterError(f"{name} must be (least, greatest) in this order, got {value!r}")
    return least, greatest


def names(name: str, value: Any, known: Sequence[str]) -> list[str]:
    """The names in ``value``, or all that are known if it is None, in the order of ``known``: the first is simplest.

    Examples
    --------
    >>> names("kinds", ["tv", "kl"], ["kl", "tv", "chi2"])
    ['kl', 'tv']
    >>> names("kinds", ["tvv"], ["kl", "tv", "chi2"])
    Traceback (most recent call last):
    porism.errors.ParameterError: kinds must be some of kl, tv, chi2, got 'tvv'; did you mean 'tv'?
    """
    chosen = list(known if value is None else [value] if isinstance(value, str) else value)
    for word in chosen:
        if word not in known:
            hint = did_you_mean(str(word), known)
            raise ParameterError(f"{name} must be some of {', '.join(known)}, got {word!r}{hint}")
    if not chosen:
        raise ParameterError(f"{name} must be some of {', '.join(known)}, got none")
    return [word for word in known if word in chosen]


def one_of(name: str, value: Any, known: Sequence[str]) -> str:
    """``value`` if it is one of the known names, or :class:`ParameterError`."""
    if value not in known:
        raise ParameterError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return str(value)


def numbers(least: float, greatest: float, *corners: float) -> st.SearchStrategy[float]:
    """Floats of a closed range: often one of the corners or an end, shrinking to the first of these in the range."""
    ends = [corner for corner in (*corners, least, greatest) if least <= corner <= greatest]
    return st.one_of(st.sampled_from(list(dict.fromkeys(ends))), st.floats(least, greatest))


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)):
        return value, value
    if len(value) != 2:
        raise ParameterError(f"{name} must be one number or two, the range's ends, got {value!r:.80}")
    return value[0], value[1]
