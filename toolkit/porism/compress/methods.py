"""What a compressor's file says of how it is called: its flags, its layers, whether it needs calibration."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from porism.errors import ParameterError, PorismError, did_you_mean
from porism.parameters import Parameter, Value, parameters_of
from porism.registry import LoadedPaper, load, method, papers

# Arguments that are no flags: what is compressed, what the command has options of its own for, what is no plain value.
SKIPPED = ("model", "calibration", "include", "exclude", "loss", "inplace")
# What to do with a method of another kind.
_INSTEAD = {
    "cache": "is a cache: give it to model.generate(past_key_values=...)",
    "adapter": "is an adapter: call it on the model, then train what it leaves trainable",
    "optimizer": "is an optimiser: give it model.parameters() in a training loop",
    "loss": "is a loss: train with it",
    "layer": "is a layer: build a model with it",
    "decoder": "is a way to decode: give it to model.generate",
}


@dataclasses.dataclass(frozen=True)
class Method:
    """A compressor as it is found in its file."""

    key: str
    loaded: LoadedPaper
    function: Callable[..., Any]
    parameters: dict[str, Parameter]
    optional: frozenset[str]
    takes: frozenset[str]
    calibrated: bool
    needs_calibration: bool
    trains: bool
    layers: dict[str, type[Any]]
    one_layer: Callable[..., Any] | None

    def patterns(self, name: str, given: list[str] | None) -> list[str] | None:
        """The patterns of ``include`` or ``exclude``: those given, else the method's own, else None."""
        if given is not None and name not in self.takes:
            raise ParameterError(f"{self.loaded.paper.key} takes no --{name}: it chooses its layers itself")
        if given is not None or name not in self.takes:
            return given
        default = inspect.signature(self.function).parameters[name].default
        return list(default) if default is not inspect.Parameter.empty else None


def method_of(key: str) -> Method:
    """A compressor by its key, or by the path of its file.

    Raises
    ------
    PorismError
        If there is no such paper, or it is no compressor; the message says what to do with it instead.

    Examples
    --------
    >>> method_of("platon").parameters["remaining"].default
    0.2
    """
    loaded = load(key)
    paper, function = loaded.paper, method(loaded)
    if "compressor" not in paper.kinds or not callable(function):
        instead = next((_INSTEAD[kind] for kind in paper.kinds if kind in _INSTEAD), f"is of kind {paper.kinds[0]}")
        known = ", ".join(compressors()) or "none"
        raise PorismError(f"{paper.key} {instead} (`porism show {paper.key}` says how); compressors here: {known}")
    arguments = inspect.signature(function).parameters
    parameters, optional = _flags(function)
    calibration = arguments.get("calibration")
    return Method(
        key=key,
        loaded=loaded,
        function=function,
        parameters=parameters,
        optional=frozenset(optional),
        takes=frozenset(arguments),
        calibrated=calibration is not None,
        needs_calibration=calibration is not None and calibration.default is inspect.Parameter.empty,
        trains="loss" in arguments,
        layers={layer.__name__: layer for layer in getattr(loaded.module, "LAYERS", ())},
        one_layer=getattr(loaded.module, "compress_layer", None),
    )


def compressors() -> list[str]:
    """Keys of all compressors installed here; no file is imported."""
    return [key for key, paper in papers().items() if "compressor" in paper.kinds]


def checked(chosen: Method, options: Mapping[str, Any]) -> dict[str, Value]:
    """The options given, in their parameters' own types.

    Raises
    ------
    ParameterError
        If one is unknown (with the closest known) or out of its range.
    """
    for name in options:
        if name not in chosen.parameters:
            known = ", ".join(chosen.parameters) or "none"
            raise ParameterError(
                f"{chosen.loaded.paper.key} has no option {name!r}{did_you_mean(name, chosen.parameters)} "
                f"(known: {known})"
            )
    return {
        name: chosen.parameters[name].validate(value)
        for name, value in options.items()
        if not (value is None and name in chosen.optional)
    }


def _flags(function: Callable[..., Any]) -> tuple[dict[str, Parameter], set[str]]:
    """The parameters that can be flags, one by one, and which of them may be left unset (``int | None``)."""
    hints = typing.get_type_hints(function, include_extras=True)
    found: dict[str, Parameter] = {}
    optional: set[str] = set()
    for name, argument in inspect.signature(function).parameters.items():
        if argument.kind is not inspect.Parameter.KEYWORD_ONLY or name in SKIPPED or name not in hints:
            continue
        hint, default = hints[name], argument.default
        inner = _without_none(hint)
        if inner is not hint and default is None:
            found[name], missing = _parameter(function, name, inner, None), True
        else:
            found[name], missing = _parameter(function, name, hint, default), False
        if found[name] is None:
            del found[name]
        elif missing:
            optional.add(name)
    return found, optional


def _parameter(function: Callable[..., Any], name: str, hint: Any, default: Any) -> Any:
    """One parameter by :func:`porism.parameters.parameters_of`, or None if its type can be no flag."""
    candidates = [0, 1, 0.5, 2, "", *typing.get_args(hint)] if default is None else [default]
    for candidate in candidates:  # a value in the range, where the default is that there is none

        def one(**_: Any) -> None: ...

        one.__doc__ = function.__doc__
        one.__annotations__ = {name: hint}
        kind = inspect.Parameter.KEYWORD_ONLY
        argument = inspect.Parameter(name, kind, default=candidate, annotation=hint)
        one.__signature__ = inspect.Signature([argument])  # type: ignore[attr-defined]
        try:
            return parameters_of(one)[name]
        except ParameterError:
            continue
    return None


def _without_none(hint: Any) -> Any:
    """``X`` of ``X | None``; any other hint as it is."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(rest) == 1 and len(typing.get_args(hint)) == 2:
            return rest[0]
    return hint
