"""Designs of sweeps: what a SPEC means, and which points a grid or a draw has."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porism.design import axes_of, axis_of, drawn, grid, split_over
from porism.errors import PorismError
from porism.parameters import Parameter, Value

RATE = Parameter("rate", float, 0.1, low=0.0, high=10.0, low_open=True)
SIZE = Parameter("size", int, 10, low=1, high=1000)
LAW = Parameter("law", str, "a", choices=("a", "b"))
NOISY = Parameter("noisy", bool, True)
PARAMETERS = {p.name: p for p in (RATE, SIZE, LAW, NOISY)}


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["rate=1,2"], {"rate": "1,2"}),
        (["rate=1,2,law=a,b"], {"rate": "1,2", "law": "a,b"}),
        (["rate=1,2", "law=a,b"], {"rate": "1,2", "law": "a,b"}),
        (["a=x,b=log:1e-3:1:20"], {"a": "x", "b": "log:1e-3:1:20"}),
        (["step-size=1:2:3"], {"step_size": "1:2:3"}),
        (["rate,size"], {"rate": "", "size": ""}),
        (["rate=log:1:2,size,law=a"], {"rate": "log:1:2", "size": "", "law": "a"}),
        (["law=4 / L,x"], {"law": "4 / L,x"}),
    ],
)
def test_over_is_split_into_parameters(texts: list[str], found: dict[str, str]) -> None:
    assert split_over(texts) == found


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["rate=1,rate=2"], "--over names 'rate' twice"),
        (["rate=1", "rate=2"], "--over names 'rate' twice"),
        (["rate="], "--over rate= has no values"),
        (["=1"], "--over takes NAME=SPEC"),
        ([""], "--over takes NAME=SPEC"),
        (["1,2"], "--over takes NAME=SPEC"),
    ],
)
def test_a_bad_over_says_what_is_wanted(texts: list[str], message: str) -> None:
    with pytest.raises(PorismError, match=message):
        split_over(texts)


@pytest.mark.parametrize(
    ("parameter", "spec", "values"),
    [
        (RATE, "1,2.5,1", (1.0, 2.5)),
        (RATE, "1:3:3", (1.0, 2.0, 3.0)),
        (RATE, "0.1:1:10", tuple(tenth / 10 for tenth in range(1, 11))),
        (RATE, "log:0.001:10:5", (0.001, 0.01, 0.1, 1.0, 10.0)),
        (RATE, "1:3:1", (1.0,)),
        (RATE, [1, 2], (1.0, 2.0)),
        (RATE, np.linspace(1, 2, 3), (1.0, 1.5, 2.0)),
        (SIZE, "1:3:9", (1, 2, 3)),
        (SIZE, "log:1:1000:4", (1, 10, 100, 1000)),
        (SIZE, "1:2:4", (1, 2)),
        (LAW, "b,a", ("b", "a")),
        (LAW, "all", ("a", "b")),
        (LAW, "", ("a", "b")),
        (NOISY, "all", (False, True)),
        (NOISY, "no,yes", (False, True)),
        (Parameter("mode", str, "all", choices=("all", "one")), "all", ("all",)),
        (Parameter("name", str, "x"), "a:b:c", ("a:b:c",)),
        (Parameter("even", int, 2, low=0, high=9, multiple_of=2), "1:8:8", (0, 2, 4, 6, 8)),
        (Parameter("tenths", float, 0.1, low=0, high=1, multiple_of=0.1), "0:0.6:4", (0.0, 0.2, 0.4, 0.6)),
    ],
)
def test_a_spec_gives_these_values(parameter: Parameter, spec: Any, values: tuple[Value, ...]) -> None:
    axis = axis_of(parameter, spec)
    assert axis.values == values
    assert {type(value) for value in axis.values} == {parameter.type}


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"rat": "1"}, "unknown parameter 'rat'; did you mean 'rate'"),
        ({}, "at least one parameter"),
        ({"rate": "0,1"}, r"rate must be float in \(0, 10\], got '0'|got 0.0"),
        ({"rate": "1:11:3"}, r"rate must be float in \(0, 10\], got 11.0"),
        ({"rate": "log:0:1:3"}, "rate: log needs a positive LOW"),
        ({"rate": "2:1:3"}, "rate: LOW must be below HIGH"),
        ({"rate": "1:2:0"}, "rate: COUNT must be a positive whole number"),
        ({"rate": "1:2:2.5"}, "rate: COUNT must be a positive whole number"),
        ({"rate": "1:2:3:4"}, "rate: COUNT must be a positive whole number"),
        ({"rate": "1:nan:3"}, "rate: LOW must be below HIGH"),
        ({"rate": "1:2:inf"}, "rate: LOW must be below HIGH and all must be finite"),
        ({"rate": "1:2:2000000"}, "rate: COUNT must be at most 1000000"),
        ({"rate": "lin:1:2:3"}, "rate: a,b,c or LOW:HIGH:COUNT or log:LOW:HIGH:COUNT expected"),
        ({"rate": "all"}, "rate must be float"),
        ({"rate": []}, "rate must have at least one value"),
        ({"law": "c"}, "law must be one of a, b, got 'c'"),
        ({"size": "1.5,2"}, "size must be int in"),
    ],
)
def test_a_bad_spec_names_the_parameter_and_its_range(over: dict[str, Any], message: str) -> None:
    with pytest.raises(PorismError, match=message):
        axes_of(PARAMETERS, over)


@given(st.lists(RATE.strategy(), min_size=1), st.lists(SIZE.strategy(), min_size=1))
def test_values_written_out_come_back(rates: list[float], sizes: list[int]) -> None:
    text = f"rate={','.join(map(repr, rates))},size={','.join(map(str, sizes))}"
    rate, size = axes_of(PARAMETERS, split_over([text]))
    assert rate.values == tuple(dict.fromkeys(rates))
    assert size.values == tuple(dict.fromkeys(sizes))
    assert grid([rate, size]) == [{"rate": r, "size": s} for r in rate.values for s in size.values]


@given(
    st.floats(1e-6, 4, allow_subnormal=False),
    st.floats(5, 10),
    st.integers(2, 40),
    st.booleans(),
)
def test_ranges_keep_their_ends_their_number_and_their_spacing(low: float, high: float, count: int, log: bool) -> None:
    axis = axis_of(RATE, f"{'log:' * log}{low!r}:{high!r}:{count}")
    values = np.array(axis.values)
    assert (values[0], values[-1], len(values)) == (low, high, count)
    steps = np.diff(np.log(values) if log else values)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-6)


@given(st.integers(0, 2**32))
def test_drawn_points_stay_in_their_ranges_and_fewer_are_the_first_of_more(seed: int) -> None:
    thirds = Parameter("thirds", int, 3, low=3, high=11, multiple_of=3)
    axes = [axis_of(RATE, "log:1e-3:1"), axis_of(SIZE, "log:1:9"), axis_of(thirds, ""), axis_of(LAW, "")]
    many = drawn(axes, 64, np.random.default_rng(seed))
    assert drawn(axes, 16, np.random.default_rng(seed)) == many[:16]
    assert len({json.dumps(point) for point in many}) == len(many)
    for point in many:
        assert 1e-3 <= point["rate"] <= 1
        assert point["size"] in range(1, 10) and type(point["size"]) is int
        assert point["thirds"] in (3, 6, 9)
        assert point["law"] in ("a", "b")
    rates = np.sort(np.log10([point["rate"] for point in many]))
    np.testing.assert_allclose(rates, np.linspace(-3, 0, 64), atol=0.15)  # evenly spread, on the logarithm
    assert min(Counter(point["thirds"] for point in many).values()) >= 16
    own = [point["rate"] for point in drawn([axis_of(RATE, "")], 64, np.random.default_rng(seed))]
    np.testing.assert_allclose(np.sort(own), np.linspace(0, 10, 64), atol=0.4)


def test_a_grid_needs_values_and_is_not_endless() -> None:
    with pytest.raises(PorismError, match="a grid needs values of rate"):
        grid([axis_of(RATE, "1:2")])
    axes = [axis_of(RATE, "1:2:2000"), axis_of(SIZE, "1:1000:1000")]
    with pytest.raises(PorismError, match="a grid of 2000000 points is too large"):
        grid(axes)
    with pytest.raises(PorismError, match="--random takes a number of points"):
        drawn(axes, 0, np.random.default_rng(0))
    with pytest.raises(PorismError, match="has no two ends; give LOW:HIGH"):
        axis_of(Parameter("free", float, 0.0), "")
