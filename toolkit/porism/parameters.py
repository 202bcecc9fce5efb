"""One signature serves all: ranges written once as ``Annotated`` keyword arguments.

From the signature of a claim, figure or simulator come validation, command-line flags, hypothesis
strategies and documentation. The ranges are :mod:`annotated_types` (``Interval``, ``Ge``, ``Gt``,
``Le``, ``Lt``, ``MultipleOf``); choices are ``Literal``; help text is ``annotated_types.doc``, or what the
docstring's numpy-style *Parameters* section says.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
import sys
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import annotated_types as at

from porism.errors import ParameterError, did_you_mean
from porism.ranges import Ends, divides, exact, float_ends, integer_ends, multiple_ends, number, shown

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Value = bool | int | float | str
Function = TypeVar("Function", bound=Callable[..., Any])

_WORDS_FOR_BOOL = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# Constraints of annotated_types that a range cannot express; ignoring them would accept what they forbid.
_NOT_RANGES = (at.MinLen, at.MaxLen, at.Predicate, at.Timezone)


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One keyword argument: its type, default and range.

    ``low`` and ``high`` are infinite where the range is open-ended; ``low_open`` and ``high_open`` say
    that the bound itself is excluded.

    Raises
    ------
    ParameterError
        If the range holds no value, or if a bound, a multiple or a choice is none.
    """

    name: str
    type: type
    default: Value
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    multiple_of: float | None = None
    choices: tuple[Value, ...] = ()
    doc: str = ""

    def __post_init__(self) -> None:
        problem = self._impossible()
        if problem:
            raise ParameterError(f"{self.name}: {problem}")

    @property
    def range_text(self) -> str:
        """The range in words, such as ``int in [2, 12]``."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        text = self.type.__name__
        bounded = -math.inf < self.low or self.high < math.inf
        if self.type in (int, float) and bounded:
            left = "(" if self.low_open or self.low == -math.inf else "["
            right = ")" if self.high_open or self.high == math.inf else "]"
            text += f" in {left}{number(self.low)}, {number(self.high)}{right}"
        if self.multiple_of is not None:
            text += f", a multiple of {number(self.multiple_of)}"
        return text

    @property
    def help_text(self) -> str:
        """What it means, as far as that is written down, without markup, and its range."""
        meaning = self.doc.replace("``", "").rstrip(".")
        return f"{meaning}; {self.range_text}" if meaning else self.range_text

    def validate(self, value: Any) -> Value:
        """Return ``value`` in the parameter's own type, or raise :class:`ParameterError` naming it.

        Examples
        --------
        >>> Parameter("ridge", float, 0.1, low=0.0).validate(2)
        2.0
        >>> Parameter("ridge", float, 0.1, low=0.0).validate(-1)
        Traceback (most recent call last):
            ...
        porism.errors.ParameterError: ridge must be float in [0, inf), got -1
        """
        converted = self._convert(value)
        if converted is None or not self._contains(converted):
            raise ParameterError(f"{self.name} must be {self.range_text}, got {shown(value)}")
        return converted

    def parse(self, text: str) -> Value:
        """Read the value of a command-line flag, then :meth:`validate` it."""
        if self.type is str or self.choices:
            return self.validate(next((c for c in self.choices if str(c) == text), text))
        if self.type is bool:
            return self.validate(_WORDS_FOR_BOOL.get(text.lower(), text))
        try:
            return self.validate(int(text) if self.type is int else float(text))
        except ValueError as error:
            if isinstance(error, ParameterError):
                raise
            raise ParameterError(f"{self.name} must be {self.range_text}, got {shown(text)}") from None

    def strategy(self) -> SearchStrategy[Any]:
        """The hypothesis strategy that draws from the whole range, and nothing but the range."""
        from hypothesis import strategies as st

        if self.choices:
            return st.sampled_from(self.choices)
        if self.type is bool:
            return st.booleans()
        if self.type in (int, float) and self.multiple_of is not None:
            step = exact(self.multiple_of)
            return st.integers(*self._ends()).map(lambda k: self.type(k * step)).filter(self._contains)
        if self.type is int:
            return st.integers(*self._ends())
        if self.type is float:
            return st.floats(*self._ends(), allow_nan=False, allow_infinity=False).filter(self._contains)
        raise ParameterError(f"{self.name} has type {self.type.__name__}, which has no finite range to search")

    def _convert(self, value: Any) -> Value | None:
        if self.choices:
            return next((c for c in self.choices if type(c) is type(value) and c == value), None)
        if self.type is bool:
            return value if isinstance(value, bool) else None
        if self.type is str:
            return value if isinstance(value, str) else None
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return None
        if self.type is int:
            return int(value) if isinstance(value, numbers.Integral) else None
        try:
            return float(value)
        except OverflowError:  # an integer beyond every float
            return None

    def _contains(self, value: Value) -> bool:
        if self.choices or isinstance(value, (bool, str)):
            return True
        if isinstance(value, float) and not math.isfinite(value):
            return False
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and (self.multiple_of is None or divides(self.multiple_of, value))

    def _ends(self) -> Ends:
        """The smallest and the largest value; with ``multiple_of`` the smallest and the largest factor of it."""
        between = integer_ends if self.type is int else float_ends
        ends = between(self.low, self.high, self.low_open, self.high_open)
        if self.multiple_of is None or ends.empty:
            return ends
        if self.type is float:  # a factor of something small could give an infinite product
            largest = sys.float_info.max
            ends = Ends(-largest if ends.first is None else ends.first, largest if ends.last is None else ends.last)
        return multiple_ends(ends, self.multiple_of)

    def _impossible(self) -> str:
        """Why no value can be in the range, or nothing."""
        if self.choices:
            return _impossible_choices(self.choices)
        if self.type not in (int, float):
            return ""
        bounds: dict[str, Any] = {"low": self.low, "high": self.high}
        for name, bound in bounds.items():
            if not _is_number(bound):
                return f"{name} must be a number, got {shown(bound)}"
        step: Any = self.multiple_of
        if step is not None and not (_is_number(step) and 0 < step < math.inf):
            return f"multiple_of must be a positive number, got {shown(step)}"
        if step is not None and self.type is int and step != int(step):
            return f"multiple_of must be a whole number for an int, got {shown(step)}"
        return f"no value is {self.range_text}" if self._ends().empty else ""


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Read the keyword-only parameters of ``function`` (of a class: of its ``__init__``), in order.

    Raises
    ------
    ParameterError
        If a parameter has no annotation, no default, an unsupported type, or a default outside its range.

    Examples
    --------
    >>> from typing import Annotated
    >>> from annotated_types import Interval
    >>> def simulate(rng, *, states: Annotated[int, Interval(ge=2, le=12)] = 6): ...
    >>> parameters_of(simulate)["states"].range_text
    'int in [2, 12]'
    """
    described = _described(inspect.getdoc(function) or "")
    if isinstance(function, type):
        function = function.__init__  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise ParameterError(f"an annotation of {function.__qualname__} cannot be read: {error}") from error
    found = {}
    for name, argument in inspect.signature(function).parameters.items():
        if argument.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if name not in hints:
            raise ParameterError(f"{name} has no annotation; write `{name}: Annotated[float, Interval(...)] = ...`")
        if argument.default is inspect.Parameter.empty:
            raise ParameterError(f"{name} has no default; every parameter needs one")
        parameter = _read(name, hints[name], argument.default)
        doc = parameter.doc or described.get(name, "")
        found[name] = dataclasses.replace(parameter, default=parameter.validate(argument.default), doc=doc)
    return found


def validated(function: Function) -> Function:
    """Check the keyword-only arguments of a function against its signature's ranges on every call.

    Values arrive in their parameter's own type. For simulators, testbeds and the ``__init__`` of modules; claims
    and figures are checked by the engine.

    Raises
    ------
    ParameterError
        From the call, as :func:`bind`.

    Examples
    --------
    >>> from typing import Annotated
    >>> from annotated_types import Interval
    >>> @validated
    ... def simulate(rng, *, states: Annotated[int, Interval(ge=2, le=12)] = 6): return states
    >>> simulate(None, states=1)
    Traceback (most recent call last):
        ...
    porism.errors.ParameterError: states must be int in [2, 12], got 1
    """
    parameters: dict[str, Parameter] = {}

    @functools.wraps(function)
    def checked(*arguments: Any, **values: Any) -> Any:
        if not parameters:  # at the first call, when every name in the annotations exists
            parameters.update(parameters_of(function))
        return function(*arguments, **bind(parameters, values))

    return cast(Function, checked)


def bind(parameters: Mapping[str, Parameter], values: Mapping[str, Any]) -> dict[str, Value]:
    """Return a value for every parameter: the given ones validated, the others by default.

    Raises
    ------
    ParameterError
        If a name is unknown (with the closest known one) or a value is out of its range.
    """
    for name in values:
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise ParameterError(f"unknown parameter {name!r}{did_you_mean(name, parameters)} (known: {known})")
    return {name: p.validate(values[name]) if name in values else p.default for name, p in parameters.items()}


def widened(parameter: Parameter, interval: at.Interval) -> Parameter:
    """The same parameter with another range.

    Examples
    --------
    >>> widened(Parameter("step", float, 0.1, low=0.0, high=4.0), at.Interval(ge=0, le=12)).range_text
    'float in [0, 12]'
    """
    free = dataclasses.replace(parameter, low=-math.inf, high=math.inf, low_open=False, high_open=False)
    return _narrowed(free, interval)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and bool(value == value)


def _impossible_choices(choices: tuple[Any, ...]) -> str:
    if any(type(c) not in (bool, int, float, str) or c in (math.inf, -math.inf) or c != c for c in choices):
        return f"choices must be bool, int, finite float or str, got {shown(choices)}"
    if len(set(map(str, choices))) < len(choices):
        return f"choices must differ when they are written out, got {shown(choices)}"
    return ""


def _described(docstring: str) -> dict[str, str]:
    """What a numpy-style *Parameters* section says of each name, on one line."""
    _, _, section = docstring.partition("Parameters\n----------\n")
    described: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line.startswith(" "):
            for name in names:
                described[name] = f"{described.get(name, '')} {line.strip()}".strip()
        elif set(line) == {"-"}:  # the underline of the next section
            break
        else:
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
    return described


def _read(name: str, hint: Any, default: Any) -> Parameter:
    metadata: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *rest = typing.get_args(hint)
        metadata = tuple(rest)
    parameter = Parameter(name, str, default)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if not choices:
            raise ParameterError(f"{name} has no choices; write `Literal[...]` with at least one")
        parameter = dataclasses.replace(parameter, type=type(choices[0]), choices=choices)
    elif hint in (bool, int, float, str):
        parameter = dataclasses.replace(parameter, type=hint)
    else:
        raise ParameterError(f"{name} has type {hint!r}; use bool, int, float, str or Literal")
    for item in metadata:
        parameter = _narrowed(parameter, item)
    return parameter


def _narrowed(parameter: Parameter, constraint: Any) -> Parameter:
    """The parameter under one constraint more: a bound never undoes a tighter one."""
    for part in constraint if isinstance(constraint, at.GroupedMetadata) else (constraint,):
        if isinstance(part, _NOT_RANGES):
            raise ParameterError(f"{parameter.name}: a range cannot have {shown(part)}; use Interval or MultipleOf")
        new = dataclasses.replace(parameter, **_bounds(part))
        if (parameter.low, parameter.low_open) > (new.low, new.low_open):
            new = dataclasses.replace(new, low=parameter.low, low_open=parameter.low_open)
        if (-parameter.high, parameter.high_open) > (-new.high, new.high_open):
            new = dataclasses.replace(new, high=parameter.high, high_open=parameter.high_open)
        parameter = new
    return parameter


def _bounds(part: Any) -> dict[str, Any]:
    match part:
        case at.Ge(low):
            return {"low": low, "low_open": False}
        case at.Gt(low):
            return {"low": low, "low_open": True}
        case at.Le(high):
            return {"high": high, "high_open": False}
        case at.Lt(high):
            return {"high": high, "high_open": True}
        case at.MultipleOf(step):
            return {"multiple_of": step}
    documentation = getattr(part, "documentation", None)  # PEP 727, wherever its class lives
    return {} if documentation is None else {"doc": documentation}
