"""Ranges of every shape: what is drawn, validated, parsed, printed and widened agrees, and empty ones are refused."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MultipleOf, Predicate
from hypothesis import given
from hypothesis import strategies as st

from porism.errors import ParameterError
from porism.parameters import Parameter, bind, parameters_of, widened
from porism.ranges import integer_ends

LARGEST = sys.float_info.max
SMALLEST = math.ulp(0.0)  # a denormal

bounds = (
    st.integers(-20, 20)
    | st.floats(-20, 20, width=16)
    | st.sampled_from([SMALLEST, -SMALLEST, 1e-310, 0.1, 1 / 3, LARGEST, -LARGEST, 2**53 + 1, -(2**64), 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
)
steps = st.none() | st.integers(1, 9) | st.sampled_from([0.1, 0.25, 3.7, 1e-300, 1e300, 10**30])

# What people write, and what they write by mistake.
DECLARATIONS = [Ge, Gt, Le, Lt]


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    """Keyword arguments of a :class:`Parameter`, of a possible or an empty range."""
    return {
        "type": draw(st.sampled_from([int, float])),
        "low": draw(bounds | st.just(-math.inf)),
        "high": draw(bounds | st.just(math.inf)),
        "low_open": draw(st.booleans()),
        "high_open": draw(st.booleans()),
        "multiple_of": draw(steps),
    }


def parameter_of(fields: dict[str, Any]) -> Parameter | None:
    """The parameter, or None where it is refused, which names the parameter in one line."""
    try:
        return Parameter("x", default=0, **fields)
    except ParameterError as error:
        assert re.fullmatch(r"x: .+", str(error))
        return None


def between(fields: dict[str, Any], value: Any) -> bool:
    """Whether a number is between the bounds; Python compares integers with floats exactly."""
    above = fields["low"] < value if fields["low_open"] else fields["low"] <= value
    below = value < fields["high"] if fields["high_open"] else value <= fields["high"]
    return bool(above and below)


def candidates(fields: dict[str, Any]) -> Iterator[int | float]:
    """Numbers of the right type at the ends of a range and in its middle, some of them outside."""
    ends = [end for end in (fields["low"], fields["high"]) if -math.inf < end < math.inf]
    if fields["type"] is int:
        yield from {n + by for end in ends for n in [math.floor(end)] for by in (-1, 0, 1, 2)}
        return
    near = [min(max(end, -LARGEST), LARGEST) for end in ends] + [0.0]
    for end in map(float, near):
        yield from (end, math.nextafter(end, -math.inf), math.nextafter(end, math.inf))
    yield math.fsum(near) / len(near) if max(map(abs, near)) < 1e300 else 1.0


@given(ranges(), st.data())
def test_what_is_drawn_is_valid_and_survives_its_own_text(fields: dict[str, Any], data: st.DataObject) -> None:
    parameter = parameter_of(fields)
    if parameter is None:
        return
    value = data.draw(parameter.strategy())
    assert type(value) is fields["type"]
    assert between(fields, value)
    assert parameter.validate(value) == value
    assert parameter.parse(str(value)) == value
    assert bind({"x": parameter}, {"x": value}) == {"x": value}


@given(ranges())
def test_a_range_is_refused_only_where_it_is_empty_and_accepts_exactly_itself(fields: dict[str, Any]) -> None:
    fields["multiple_of"] = None
    parameter = parameter_of(fields)
    for value in candidates(fields):
        expected = between(fields, value) and -math.inf < value < math.inf
        if parameter is None:
            assert not expected, f"{value} is in a range that is said to be empty"
        elif expected:
            assert parameter.validate(value) == value
        else:
            with pytest.raises(ParameterError, match="x must be"):
                parameter.validate(value)


HALVES = [n / 2 for n in range(-5, 6)]


@pytest.mark.parametrize(("low_open", "high_open"), [(False, False), (False, True), (True, False), (True, True)])
def test_the_integers_between_two_bounds_are_all_of_them(low_open: bool, high_open: bool) -> None:
    for low, high in itertools.product([-math.inf, *HALVES], [*HALVES, math.inf]):
        bounds = {"low": low, "high": high, "low_open": low_open, "high_open": high_open}
        inside = [n for n in range(-4, 5) if between(bounds, n)]
        first, last = integer_ends(low, high, low_open, high_open)
        assert [n for n in range(-4, 5) if (first is None or first <= n) and (last is None or n <= last)] == inside
        assert integer_ends(low, high, low_open, high_open).empty == (not inside)


@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 20))
def test_multiples_are_refused_only_where_there_is_none(low: int, high: int, step: int) -> None:
    multiples = [n for n in range(low, high + 1) if n % step == 0]
    for kind in (int, float):
        fields = {"type": kind, "low": low, "high": high, "multiple_of": step}
        parameter = parameter_of(fields)
        assert (parameter is None) == (not multiples)
        accepted = [n for n in range(-35, 36) if parameter is not None and _accepts(parameter, n)]
        assert accepted == multiples


@given(st.integers(-(10**6), 10**6), st.sampled_from([0.1, 0.05, 1e-3, 0.3]))
def test_multiples_of_a_decimal_are_those_that_are_written(k: int, step: float) -> None:
    parameter = Parameter("x", float, 0.0, multiple_of=step)
    assert parameter.validate(k * step) == k * step
    assert not _accepts(parameter, (k + 0.5) * step)


@given(ranges(), st.data())
def test_the_words_for_a_range_give_its_bounds(fields: dict[str, Any], data: st.DataObject) -> None:
    """Integers in full, other bounds to six digits; an infinite end is always open."""
    parameter = parameter_of({**fields, "multiple_of": None})
    if parameter is None or (parameter.low, parameter.high) == (-math.inf, math.inf):
        return
    words = re.fullmatch(r"(int|float) in ([\[(])(.+), (.+)([\])])", parameter.range_text)
    assert words is not None
    kind, left, low, high, right = words.groups()
    assert kind == fields["type"].__name__
    assert (left, right) == (
        "(" if fields["low_open"] or fields["low"] == -math.inf else "[",
        ")" if fields["high_open"] or fields["high"] == math.inf else "]",
    )
    for text, bound in ((low, fields["low"]), (high, fields["high"])):
        if text.endswith("…"):
            assert str(bound).startswith(text[:-1])
        elif isinstance(bound, int):
            assert float(text) == bound if abs(bound) < 2**53 else int(text) == bound
        else:
            assert float(text) == pytest.approx(bound, rel=1e-5, abs=0)


@given(ranges(), bounds, bounds)
def test_widening_replaces_the_range_and_nothing_else(fields: dict[str, Any], low: float, high: float) -> None:
    parameter = parameter_of({**fields, "multiple_of": None})
    if parameter is None:
        return
    try:
        outside = widened(parameter, Interval(gt=low, le=high))
    except ParameterError:
        assert parameter_of({"type": fields["type"], "low": low, "low_open": True, "high": high}) is None
        return
    assert (outside.low, outside.low_open, outside.high, outside.high_open) == (low, True, high, False)
    assert (outside.name, outside.type, outside.default) == ("x", parameter.type, parameter.default)


@given(st.lists(st.tuples(st.sampled_from(DECLARATIONS), st.integers(-5, 5)), max_size=4), st.integers(-7, 7))
def test_every_constraint_that_is_written_holds(written: list[tuple[Any, int]], default: int) -> None:
    """Wherever it stands, also behind an alias; and so does the default."""
    constraints = [kind(bound) for kind, bound in written]

    def function(rng: Any, *, x: int = default) -> None: ...

    function.__annotations__["x"] = Annotated[int, 0, *constraints]
    inside = [n for n in range(-7, 8) if all(_holds(kind, n, bound) for kind, bound in written)]
    try:
        parameter = parameters_of(function)["x"]
    except ParameterError:
        assert default not in inside
        return
    assert [n for n in range(-7, 8) if _accepts(parameter, n)] == inside
    assert parameter.default in inside


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (Annotated[float, Interval(ge=2, le=1)], r"x: no value is float in \[2, 1\]"),
        (Annotated[float, Interval(gt=1, le=1)], r"x: no value is float in \(1, 1\]"),
        (Annotated[float, Interval(gt=0, lt=SMALLEST)], "x: no value is"),
        (Annotated[float, Ge(math.inf)], "x: no value is"),
        (Annotated[float, Ge(10**400)], "x: no value is"),
        (Annotated[int, Interval(ge=1.2, le=1.8)], r"x: no value is int in \[1.2, 1.8\]"),
        (Annotated[int, Interval(ge=1, le=4), MultipleOf(5)], "x: no value is .* a multiple of 5"),
        (Annotated[int, MultipleOf(0.5)], "multiple_of must be a whole number"),
        (Annotated[float, MultipleOf(0)], "multiple_of must be a positive number, got 0"),
        (Annotated[float, MultipleOf(math.nan)], "multiple_of must be a positive number, got nan"),
        (Annotated[float, Ge(math.nan)], "low must be a number, got nan"),
        (Annotated[float, Le("2")], "high must be a number, got '2'"),  # type: ignore[arg-type]
        (Annotated[float, Len(3)], "a range cannot have MinLen"),
        (Annotated[int, Predicate(bool)], "a range cannot have Predicate"),
        (Literal[()], "x has no choices"),
        (Literal[1, "1"], "choices must differ when they are written out"),
        (Literal[None, 1], "choices must be bool, int, finite float or str"),
        ("list[", "cannot be read"),
        ("math.no_such_name", "cannot be read"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_declarations_that_mean_nothing_are_refused_in_one_line(hint: Any, message: str) -> None:
    def function(rng: Any, *, x: int = 1) -> None: ...

    function.__annotations__["x"] = hint
    with pytest.raises(ParameterError, match=message) as caught:
        parameters_of(function)
    assert "\n" not in str(caught.value)


@given(
    st.integers()
    | st.floats()
    | st.text(alphabet=st.characters())
    | st.none()
    | st.booleans()
    | st.binary()
    | st.lists(st.integers())
    | st.just(10**5000)
    | st.just(np.arange(1000).reshape(10, 100))
    | st.just(np.float32("nan"))
)
def test_any_value_is_accepted_or_refused_in_one_short_line(value: Any) -> None:
    for parameter in (
        Parameter("x", int, 1, low=0, high=9),
        Parameter("x", float, 1.0, low=0, multiple_of=0.5),
        Parameter("x", bool, True),
        Parameter("x", str, ""),
        Parameter("x", str, "a", choices=("a", "b")),
    ):
        try:
            assert parameter.validate(value) == (float(value) if parameter.type is float else value)
        except ParameterError as error:
            assert str(error).startswith("x must be ")
            assert len(str(error).splitlines()) == 1
            assert len(str(error)) < 250


@given(
    st.text(alphabet=st.characters())
    | st.sampled_from(["nan", "1e999", "-inf", "0x10", "9" * 5000, "1_0", "१", "", " 1 "])
)
def test_any_text_of_a_flag_is_read_or_refused_in_one_short_line(text: str) -> None:
    for kind in (int, float, bool):
        parameter = Parameter("x", kind, 1)
        try:
            value = parameter.parse(text)
        except ParameterError as error:
            assert len(str(error).splitlines()) == 1
            assert len(str(error)) < 250
        else:
            assert parameter.validate(value) == value


def _accepts(parameter: Parameter, value: Any) -> bool:
    try:
        parameter.validate(value)
    except ParameterError:
        return False
    return True


def _holds(kind: Any, value: int, bound: int) -> bool:
    return {Ge: value >= bound, Gt: value > bound, Le: value <= bound, Lt: value < bound}[kind]
