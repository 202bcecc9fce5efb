"""Claims: one sentence of a paper, a margin that is positive where it is true, and a control.

Three rungs share that one convention. ``proved`` is decided by sympy and then sampled; ``always`` must
hold at every point of its ranges; ``typically`` must hold for the median random replicate.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from annotated_types import Interval

from porism.errors import ParameterError
from porism.parameters import Parameter, Value, bind, parameters_of, widened
from porism.source import normalise, source_of

Rung = Literal["proved", "always", "typically"]

# Names of flags that `porism run KEY.CLAIM` has anyway.
RESERVED = frozenset({"case", "seed", "json", "help"})
# Seven straight replicates are the fewest that settle a sampled claim either way.
FEWEST_TO_SETTLE = 7


@dataclasses.dataclass(frozen=True, slots=True)
class Paired:
    """The scores of two arms on the same data, seed and budget.

    Parameters
    ----------
    ours, theirs
        Score of the paper's method and of its competitor.
    better
        Whether a higher or a lower score is better.

    Examples
    --------
    >>> Paired(ours=2.0, theirs=3.0, better="lower").effect
    1.0
    """

    ours: float
    theirs: float
    better: Literal["higher", "lower"] = "higher"

    @property
    def effect(self) -> float:
        """By how much ours is better; positive when it is."""
        difference = float(self.ours) - float(self.theirs)
        return difference if self.better == "higher" else -difference


def paired(
    arm: Callable[..., float],
    rng: np.random.Generator,
    *,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    better: Literal["higher", "lower"] = "higher",
) -> Paired:
    """Run ``arm(rng, **ours)`` and ``arm(rng, **theirs)`` on common random numbers.

    Both arms see the same stream from the same state, so they differ in their arguments only.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> paired(lambda rng, shift: rng.normal() + shift, rng, ours={"shift": 1.0}, theirs={"shift": 0.0}).effect
    1.0
    """
    first = arm(copy.deepcopy(rng), **ours)
    second = arm(rng, **theirs)
    return Paired(float(first), float(second), better)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim as its decorator makes it; calling it calls the function it wraps.

    Attributes
    ----------
    rung
        ``"proved"``, ``"always"`` or ``"typically"``.
    text, where
        The sentence, and its place in the paper ("Theorem 2", "Table 1").
    function
        The margin function; for ``proved`` the function that builds the sympy statement.
    at_least
        Smallest effect worth having; the margin is the effect minus this.
    control
        Parameters that switch the method's active part off; the claim must fail under them.
    cap
        Most replicates (``typically``) or cases searched (``always``, ``proved``).
    time_limit
        Seconds that one replicate or case may take before it counts as failed.
    scale
        The size of the experiment in words, printed beside every verdict.
    beyond
        By parameter, how far ``porism explore --beyond`` may leave its range, to see where the claim really stops.
    """

    rung: Rung
    text: str
    where: str
    function: Callable[..., Any]
    at_least: float = 0.0
    control: Mapping[str, Value] | None = None
    cap: int = 64
    time_limit: float = 60.0
    scale: str = ""
    beyond: Mapping[str, Interval] | None = None

    def __post_init__(self) -> None:
        fewest = FEWEST_TO_SETTLE if self.rung == "typically" else 1
        if self.cap < fewest:
            raise ParameterError(f"claim {self.name}: cap must be at least {fewest} for {self.rung!r}, got {self.cap}")
        if not (self.time_limit > 0 and math.isfinite(self.at_least)):
            raise ParameterError(f"claim {self.name}: time_limit must be positive and at_least finite")
        # What help() and inspect.signature() read; the dataclass is frozen for everybody else.
        for name, value in (("__doc__", self.function.__doc__), ("__wrapped__", self.function)):
            object.__setattr__(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name, unique within its paper."""
        return self.function.__name__

    @functools.cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The ranges, read from the signature.

        Raises
        ------
        ParameterError
            If the signature cannot serve; the message names the claim.
        """
        try:
            found = parameters_of(self.function)
        except ParameterError as error:
            raise ParameterError(f"claim {self.name}: {error}") from error
        for name in RESERVED & set(found):
            raise ParameterError(
                f"claim {self.name}: a parameter cannot be named {name!r}, which is a flag of porism's"
            )
        self._check_beyond(found)
        arguments = inspect.signature(self.function).parameters.values()
        loose = [a.name for a in arguments if a.kind is not a.KEYWORD_ONLY][self.rung != "proved" :]
        if loose:
            raise ParameterError(f"claim {self.name}: {', '.join(loose)} must be keyword-only, after `*`")
        return found

    def _check_beyond(self, parameters: Mapping[str, Parameter]) -> None:
        if len(self.beyond or {}) > 2:
            raise ParameterError(f"claim {self.name}: beyond must name one or two parameters")
        for name, interval in (self.beyond or {}).items():
            inside = parameters.get(name)
            if inside is None or inside.type not in (int, float) or inside.choices:
                raise ParameterError(f"claim {self.name}: beyond must name parameters with a range, got {name!r}")
            outside = widened(inside, interval)
            if not (
                outside.low <= inside.low and inside.high <= outside.high and outside.high < math.inf > -outside.low
            ):
                raise ParameterError(f"claim {self.name}: beyond must widen the range of {name}, to finite bounds")

    def arm(self, which: Literal["main", "control"]) -> dict[str, Value]:
        """The parameters of one arm: the defaults, with the control's changes if asked for."""
        parameters = self.parameters
        try:
            return bind(parameters, (self.control or {}) if which == "control" else {})
        except ParameterError as error:
            raise ParameterError(f"claim {self.name}: its control is impossible: {error}") from error

    @functools.cached_property
    def wording(self) -> dict[str, Any]:
        """What the claim asserts, without its code: the part whose changes a reader must see."""
        return {
            "rung": self.rung,
            "text": self.text,
            "at_least": self.at_least,
            "control": dict(self.control) if self.control is not None else None,
            "cap": self.cap,
            "ranges": {name: f"{p.range_text} = {p.default}" for name, p in self.parameters.items()},
        }

    @functools.cached_property
    def hash(self) -> str:
        """Twelve hex digits over wording and source; comments and layout do not change it."""
        code = normalise(source_of(self.function))
        text = json.dumps([self.wording, code], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def effect(self, result: Any) -> tuple[float, dict[str, float]]:
        """Turn what the function returned into (effect, values to record).

        Raises
        ------
        TypeError
            If the result is neither a real number nor :class:`Paired`.
        ValueError
            If the effect is not finite.
        """
        values = {}
        if isinstance(result, Paired):
            values = {"ours": float(result.ours), "theirs": float(result.theirs)}
            result = result.effect
        try:
            if isinstance(result, str | bytes | bool | np.bool_):
                raise TypeError
            effect = float(result)
        except (TypeError, ValueError):
            raise TypeError(f"claim {self.name} must return a float or Paired, got {type(result).__name__}") from None
        if not math.isfinite(effect):
            raise ValueError(f"claim {self.name} returned a margin that is not finite: {effect}")
        return effect, values


def typically(
    text: str,
    *,
    where: str,
    control: Mapping[str, Value],
    at_least: float = 0.0,
    scale: str = "",
    cap: int = 64,
    time_limit: float = 60.0,
    beyond: Mapping[str, Interval] | None = None,
) -> Callable[[Callable[..., Any]], Claim]:
    """Claim that the median random replicate has an effect above ``at_least``.

    The function takes ``(rng, *, ...)`` and returns :class:`Paired` or a float. The control is the same
    claim with the method's active part off, and must not hold.

    Examples
    --------
    >>> from typing import Literal
    >>> @typically("A shifted mean is larger", where="Sec. 1", control={"shift": "off"}, at_least=0.1)
    ... def larger(rng, *, shift: Literal["on", "off"] = "on") -> float:
    ...     return rng.normal() * 0.1 + (1.0 if shift == "on" else 0.0)
    >>> larger.name, larger.arm("control")
    ('larger', {'shift': 'off'})
    """
    return lambda function: Claim("typically", text, where, function, at_least, control, cap, time_limit, scale, beyond)


def always(
    text: str,
    *,
    where: str,
    control: Mapping[str, Value] | None = None,
    at_least: float = 0.0,
    scale: str = "",
    cap: int = 100,
    time_limit: float = 10.0,
    beyond: Mapping[str, Interval] | None = None,
) -> Callable[[Callable[..., Any]], Claim]:
    """Claim that every point of the ranges has a margin above ``at_least``.

    The function takes ``(rng, *, ...)`` and returns a float. ``cap`` cases are searched, steered towards
    small margins. A control (a wrong sign, a wrong factor) must be refuted within the same number of cases.
    ``beyond={"step_ratio": Interval(gt=0, le=12)}`` lets ``porism explore --beyond`` leave that parameter's range.
    """
    return lambda function: Claim("always", text, where, function, at_least, control, cap, time_limit, scale, beyond)


def proved(
    text: str,
    *,
    where: str,
    control: Mapping[str, Value] | None = None,
    scale: str = "",
    cap: int = 100,
    time_limit: float = 30.0,
) -> Callable[[Callable[..., Any]], Claim]:
    """Claim that sympy can decide, and that is then sampled like an ``always`` claim.

    The function takes its numeric keyword parameters as symbols with the assumptions of their ranges
    (choices and booleans arrive as values) and returns an equation, an inequality, or a conjunction of them.
    """
    return lambda function: Claim("proved", text, where, function, 0.0, control, cap, time_limit, scale)
