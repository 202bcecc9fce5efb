"""Which points a sweep visits: what ``NAME=SPEC`` says, the grid of all combinations, and points drawn at random."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from porism.errors import ParameterError, PorismError, did_you_mean
from porism.parameters import Parameter, Value

Spec = str | Sequence[Value]

MOST = 1_000_000  # points of one design
_FORMS = "a,b,c or LOW:HIGH:COUNT or log:LOW:HIGH:COUNT"
# Digits that a computed value keeps, so that 0:1:11 holds 0.3 and not 0.30000000000000004.
_DIGITS = 12
_RANGE = re.compile(r"\s*(log:|[-+.\d][^:]*:)")


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One parameter of a sweep.

    Attributes
    ----------
    parameter
        What is varied.
    values
        Its values in a grid, each once; none where only a range to draw from was given.
    span
        The range to draw from; None where one of ``values`` is drawn.
    log
        Whether values are spaced, drawn and shown on a logarithmic scale.
    """

    parameter: Parameter
    values: tuple[Value, ...]
    span: tuple[float, float] | None = None
    log: bool = False

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.parameter.name

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers on a scale, not choices."""
        return self.parameter.type in (int, float) and not self.parameter.choices


def split_over(texts: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=SPEC`` texts; one text may hold several: a comma before ``NAME=``, or after a range, starts the next.

    Raises
    ------
    PorismError
        If a parameter has no name, or is named twice.

    Examples
    --------
    >>> split_over(["degree=1,2", "step_ratio=log:1e-3:1:20,law=a,b"])
    {'degree': '1,2', 'step_ratio': 'log:1e-3:1:20', 'law': 'a,b'}
    >>> split_over(["degree,step_ratio=1:2,law"])
    {'degree': '', 'step_ratio': '1:2', 'law': ''}
    """
    found: dict[str, str] = {}
    for text in texts:
        last = None
        for part in text.split(","):
            named = re.fullmatch(r"\s*([A-Za-z_][\w-]*)=(.*)", part, re.DOTALL)
            if named is None and last is not None and found[last] and not _RANGE.match(found[last]):
                found[last] += f",{part}"
                continue
            name, spec = named.groups() if named else (part.strip(), "")
            last = name.replace("-", "_")
            if not last.isidentifier():
                raise PorismError(f"--over takes NAME=SPEC, where SPEC is {_FORMS}; got {text!r}")
            if last in found:
                raise PorismError(f"--over names {last!r} twice")
            if named and not spec:
                raise PorismError(f"--over {last}= has no values; give {_FORMS}")
            found[last] = spec
    return found


def axes_of(parameters: Mapping[str, Parameter], over: Mapping[str, Spec]) -> tuple[Axis, ...]:
    """The axes of a sweep, each value checked against its parameter's range.

    Raises
    ------
    ParameterError
        If a name is unknown or a value is out of its range; the message names both.
    """
    if not over:
        raise PorismError("a sweep needs at least one parameter to vary")
    for name in over:
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise ParameterError(f"unknown parameter {name!r}{did_you_mean(name, parameters)} (known: {known})")
    return tuple(axis_of(parameters[name], spec) for name, spec in over.items())


def axis_of(parameter: Parameter, spec: Spec) -> Axis:
    """Read one SPEC.

    Parameters
    ----------
    parameter
        What is varied.
    spec
        ``"a,b,c"`` or a sequence of values; ``"LOW:HIGH:COUNT"`` evenly spaced, ``"log:LOW:HIGH:COUNT"``
        geometrically, both to 12 digits, and rounded to what an int or ``multiple_of`` allows; without ``:COUNT``
        only to draw from; ``"all"`` or ``""`` every choice, ``""`` for a number the parameter's own range to draw from.

    Examples
    --------
    >>> axis_of(Parameter("rate", float, 0.1, low=0.0), "log:0.001:1:4").values
    (0.001, 0.01, 0.1, 1.0)
    >>> axis_of(Parameter("steps", int, 3, low=1), "1:3:9").values
    (1, 2, 3)
    """
    choices: tuple[Value, ...] = (False, True) if parameter.type is bool else parameter.choices
    if not isinstance(spec, str):
        return Axis(parameter, _distinct(parameter, np.asarray(spec, dtype=object).tolist()))
    if choices and (spec == "" or (spec == "all" and "all" not in choices)):
        return Axis(parameter, choices)
    if choices or parameter.type is str or (spec and ":" not in spec):
        if not spec:
            raise PorismError(f"{parameter.name} has no range of its own to sweep; give a,b,c")
        return Axis(parameter, _distinct(parameter, [parameter.parse(text.strip()) for text in spec.split(",")]))
    return _range(parameter, spec) if spec else _own_range(parameter)


def grid(axes: Sequence[Axis]) -> list[dict[str, Value]]:
    """All combinations, the last axis varying fastest.

    Raises
    ------
    PorismError
        If an axis has no values, or if there are more than a million points.
    """
    for axis in axes:
        if not axis.values:
            raise PorismError(f"a grid needs values of {axis.name}: {_FORMS}; a range alone is for --random")
    size = math.prod(len(axis.values) for axis in axes)
    if size > MOST:
        raise PorismError(f"a grid of {size} points is too large, the most is {MOST}; take --random N")
    return [dict(zip((axis.name for axis in axes), point, strict=True)) for point in _product(axes)]


def drawn(axes: Sequence[Axis], count: int, rng: np.random.Generator) -> list[dict[str, Value]]:
    """Points of a scrambled Halton sequence: evenly spread, and those of a smaller ``count`` are the first of them.

    Parameters
    ----------
    axes
        What is varied; a COUNT says nothing here.
    count
        How many points, at least 1; fewer come where choices and integers repeat themselves.
    rng
        Scrambles the sequence.
    """
    from scipy.stats import qmc

    if not 1 <= count <= MOST:
        raise PorismError(f"--random takes a number of points from 1 to {MOST}, got {count}")
    uniform = qmc.Halton(len(axes), scramble=True, seed=rng).random(count)
    points = [{axis.name: _at(axis, u) for axis, u in zip(axes, row, strict=True)} for row in uniform.tolist()]
    return [dict(point) for point in dict.fromkeys(tuple(point.items()) for point in points)]


def _product(axes: Sequence[Axis]) -> Any:
    return itertools.product(*(axis.values for axis in axes))


def _range(parameter: Parameter, spec: str) -> Axis:
    log = spec.startswith("log:")
    try:
        low, high, *count = (float(part) for part in spec.removeprefix("log:").split(":"))
    except ValueError:
        raise PorismError(f"{parameter.name}: {_FORMS} expected, got {spec!r}") from None
    if len(count) > 1 or not all(number >= 1 and number == int(number) for number in count if math.isfinite(number)):
        raise PorismError(f"{parameter.name}: COUNT must be a positive whole number, got {spec!r}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high and all(map(math.isfinite, count))):
        raise PorismError(f"{parameter.name}: LOW must be below HIGH and all must be finite, got {spec!r}")
    if log and low <= 0:
        raise PorismError(f"{parameter.name}: log needs a positive LOW, got {spec!r}")
    for end in (low, high):
        parameter.validate(_snapped(parameter, end))
    if not count:
        return Axis(parameter, (), (low, high), log)
    if count[0] > MOST:
        raise PorismError(f"{parameter.name}: COUNT must be at most {MOST}, got {spec!r}")
    inner = (np.geomspace if log else np.linspace)(low, high, int(count[0]))[1:-1]
    ends = (low, high) if count[0] > 1 else (low,)
    points = [ends[0], *(float(f"{x:.{_DIGITS}g}") for x in inner), *ends[1:]]
    return Axis(parameter, _distinct(parameter, [_snapped(parameter, x) for x in points]), (low, high), log)


def _own_range(parameter: Parameter) -> Axis:
    """The parameter's own range, to draw from; geometrically over more than two decades."""
    low, high = float(parameter.low), float(parameter.high)
    if not math.isfinite(high - low):
        raise PorismError(f"{parameter.name} is {parameter.range_text}, which has no two ends; give LOW:HIGH")
    return Axis(parameter, (), (low, high), log=low > 0 and high / low > 100)


def _distinct(parameter: Parameter, values: Sequence[Any]) -> tuple[Value, ...]:
    if not len(values):
        raise ParameterError(f"{parameter.name} must have at least one value")
    return tuple(dict.fromkeys(parameter.validate(value) for value in values))


def _snapped(parameter: Parameter, value: float) -> float:
    """The nearest value that an int or a ``multiple_of`` allows."""
    step = parameter.multiple_of or (1 if parameter.type is int else None)
    if step is None:
        return value
    nearest = round(value / step) * step
    return int(nearest) if parameter.type is int else float(f"{nearest:.{_DIGITS}g}")


def _at(axis: Axis, u: float) -> Value:
    """The value at the place ``u`` in [0, 1) of an axis."""
    parameter = axis.parameter
    if axis.span is None:
        return axis.values[int(u * len(axis.values))]
    low, high = axis.span
    if axis.log:
        value = low * (high / low) ** u
    elif step := parameter.multiple_of or (1 if parameter.type is int else None):
        first, last = math.ceil(low / step), math.floor(high / step)  # each with the same chance
        value = (first + math.floor(u * (last - first + 1))) * step
    else:
        value = low + (high - low) * u
    value = _snapped(parameter, float(f"{value:.{_DIGITS}g}"))
    if parameter.type is float:  # an end that the range leaves out is met once in 10^16
        value = max(value, math.nextafter(low, high) if parameter.low_open else low)
        value = min(value, math.nextafter(high, low) if parameter.high_open else high)
    return parameter.validate(value)
