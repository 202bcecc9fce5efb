"""Arguments that several commands take, and flags made from a signature."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from porism.errors import ParameterError, PorismError, did_you_mean


def complete_keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion of paper keys."""
    from porism.registry import listing

    return [key for key in listing().entries if key.startswith(incomplete)]


def split_member(key: str) -> tuple[str, str]:
    """Split ``KEY.MEMBER``; a path to a file may be followed by a member too.

    Examples
    --------
    >>> split_member("sinkd.accuracy"), split_member("./my.py"), split_member("./my.py.curve")
    (('sinkd', 'accuracy'), ('./my.py', ''), ('./my.py', 'curve'))
    """
    file = re.fullmatch(r"(.+\.py)(?:\.(\w*))?", key)
    if file:
        return file[1], file[2] or ""
    if os.sep in key:
        return key, ""
    key, _, member = key.partition(".")
    return key, member


def choose(members: Mapping[str, Any], name: str, what: str, key: str) -> dict[str, Any]:
    """All members, or the one that is named; an unknown name is an error with the closest one."""
    if not name:
        return dict(members)
    if name not in members:
        known = ", ".join(members) or "none"
        raise PorismError(f"paper {key!r} has no {what} {name!r}{did_you_mean(name, members)} (known: {known})")
    return {name: members[name]}


def subjects_of(keys: Sequence[str]) -> list[Any]:
    """Load papers by ``KEY`` or ``KEY.CLAIM``, each paper and claim once."""
    from porism.check import Subject

    subjects: dict[str, Any] = {}
    chosen: dict[str, dict[str, Any]] = {}
    for given in keys:
        key, name = split_member(given)
        if key not in subjects:
            subjects[key], chosen[key] = Subject.of(key), {}
        chosen[key] |= choose(subjects[key].loaded.claims, name, "claim", key)
    return [
        dataclasses.replace(subject, loaded=dataclasses.replace(subject.loaded, claims=chosen[key]))
        for key, subject in subjects.items()
    ]


def check_jobs(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """Callback of ``--jobs``: -1 for one worker a core, or a positive number."""
    if value == 0 or value < -1:
        raise PorismError(f"--jobs must be -1 or a positive number, got {value}")
    return value


class _Ranged(click.ParamType[Any]):
    """A flag whose range comes from the signature."""

    def __init__(self, parameter: Any) -> None:
        self.parameter = parameter
        self.name = parameter.type.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.parameter.parse(value) if isinstance(value, str) else value
        except ParameterError as error:
            raise PorismError(str(error)) from None


def parse_flags(name: str, parameters: Mapping[str, Any], arguments: Sequence[str], *, about: str) -> dict[str, Any]:
    """Read ``--name value`` flags made from a signature; ``--help`` lists them with their ranges."""
    options = [
        click.Option(
            [f"--{parameter.name.replace('_', '-')}", parameter.name],
            type=_Ranged(parameter),
            default=parameter.default,
            help=f"{parameter.help_text} (default {parameter.default})",
        )
        for parameter in parameters.values()
    ]
    values: dict[str, Any] = {}
    command = click.Command(name, params=list(options), callback=lambda **given: values.update(given), help=about)
    command.main(list(arguments), prog_name=f"porism run {name}", standalone_mode=False)
    if not values and options:
        raise SystemExit(0)  # --help was shown
    return values


def parse_settings(settings: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Read ``name=value`` settings."""
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise PorismError(f"--set takes name=value, got {setting!r}")
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise PorismError(f"unknown parameter {name!r}{did_you_mean(name, parameters)} (known: {known})")
        values[name] = parameters[name].parse(text)
    return values
