"""Where a claim really stops holding: rays that leave a theorem's range, and a map over two of its parameters.

A claim says by ``beyond`` how far a parameter's range may be left. A ray goes from the parameter's default outwards,
first in coarse steps; where the claim first fails, bisection finds the boundary. Other parameters stay at their
defaults on the first ray and are drawn from their ranges on the others; where there are none, one ray is all.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from porism.check import Subject
from porism.claims import Claim
from porism.drawing import columns
from porism.engines import mapped, worker_sandbox
from porism.errors import PorismError
from porism.home import home
from porism.parameters import Parameter, Value, widened
from porism.rounds import Progress
from porism.seeds import ROOT, generator
from porism.tables import read_table, write_table
from porism.worker import UNSATISFIED

Side = Literal["below", "above"]

CASES = {"always": 4, "typically": 7}  # margins at each point: all must be positive, or their median
_INSIDE, _OUTSIDE, _MAP = 4, 12, 15  # coarse steps of a ray up to the edge and beyond it; points a side of a map
_BISECTIONS = 8


@dataclasses.dataclass(frozen=True)
class Boundary:
    """Where a claim stops when one parameter leaves its range on one side.

    Attributes
    ----------
    claim, parameter, side
        What left what, and whether ``"below"`` or ``"above"``.
    edge
        Where the claim's own range ends.
    limit
        How far it was followed.
    breaks
        For each ray the first value at which the claim fails; infinite where it held all the way.
    """

    claim: str
    parameter: str
    side: Side
    edge: float
    limit: float
    breaks: tuple[float, ...]

    @property
    def nearest(self) -> float:
        """The break that is nearest to the range; infinite if there is none."""
        found = [value for value in self.breaks if math.isfinite(value)]
        return math.inf if not found else max(found) if self.side == "below" else min(found)

    @property
    def sentence(self) -> str:
        """The finding in words."""
        held = sum(map(math.isinf, self.breaks))
        name, rays = self.parameter, len(self.breaks)
        head = f"claimed {'down' if self.side == 'below' else 'up'} to {name} = {self.edge:g}"
        if held == rays:
            return f"{head}; holds to {self.limit:g}" + (f" on all {rays} rays" if rays > 1 else "")
        broken = sorted(value for value in self.breaks if math.isfinite(value))
        middle = broken[len(broken) // 2]
        slack = f", {self.nearest / self.edge:.3g} times as far" if self.edge * self.nearest > 0 else ""
        tail = f"; {held} of {rays} rays hold to {self.limit:g}" if held else ""
        among = f" (median of {len(broken)} rays {middle:.6g})" if len(broken) > 1 else ""
        return f"{head}; breaks from {self.nearest:.6g}{slack}{among}{tail}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; None where the claim held to the limit."""
        fields = dataclasses.asdict(self) | {"sentence": self.sentence}
        return fields | {"breaks": [value if math.isfinite(value) else None for value in self.breaks]}


@dataclasses.dataclass(frozen=True)
class Exploration:
    """All that was found of one claim.

    Attributes
    ----------
    claim
        The claim that was followed.
    boundaries
        One for each parameter and side on which it may be left.
    table
        Tidy, a row for each point. ``parameter``, ``side`` and ``ray``: the line it is part of, on the map the side
        ``"map"`` and ray -1. ``x``: the parameter's value; ``y``: on the map that of the second parameter, else not a
        number. ``margin``: -inf where the claim raised, not a number where it assumes the point away. ``breaks``:
        where the ray first fails, infinite for none.
    """

    claim: Claim
    boundaries: tuple[Boundary, ...]
    table: Mapping[str, np.ndarray]


def explore_beyond(
    subject: Subject,
    *,
    rays: int = 8,
    root: int = ROOT,
    jobs: int = -1,
    progress: Progress = lambda records, remaining: None,
) -> list[Exploration]:
    """Follow every claim of a paper that declares ``beyond`` out of its ranges.

    What an earlier run finished is kept in the project's folder and not done again.

    Parameters
    ----------
    subject
        The paper, or the one claim of it, to explore.
    rays
        Rays for each parameter and side, at least 1.
    root
        Root seed.
    jobs
        Workers; -1 for one a core.
    progress
        Called with no records and the number of rays that remain, as each is finished.

    Raises
    ------
    PorismError
        If no claim declares ``beyond``.
    """
    claims = [claim for claim in subject.loaded.claims.values() if claim.beyond]
    if not claims:
        raise PorismError(f"{subject.loaded.paper.key!r} has no claim that declares `beyond`")
    lines = {claim.name: list(_lines(subject, claim, rays, root)) for claim in claims}
    folder = home() / "tables" / subject.loaded.paper.key / "beyond"
    todo = [line for group in lines.values() for line in group if not (folder / line.file).exists()]
    for done, _ in enumerate(mapped(functools.partial(_follow, folder), todo, jobs=jobs), 1):
        progress([], len(todo) - done)
    return [_collect(claim, lines[claim.name], folder) for claim in claims]


def explored_beyond(subject: Subject, *, rays: int = 8, root: int = ROOT) -> list[Exploration]:
    """What earlier runs of :func:`explore_beyond` with these options found, of the claims that they finished."""
    folder = home() / "tables" / subject.loaded.paper.key / "beyond"
    claims = [claim for claim in subject.loaded.claims.values() if claim.beyond]
    lines = {claim.name: list(_lines(subject, claim, rays, root)) for claim in claims}
    finished = [claim for claim in claims if all((folder / line.file).exists() for line in lines[claim.name])]
    return [_collect(claim, lines[claim.name], folder) for claim in finished]


@dataclasses.dataclass(frozen=True)
class _Template:
    """What a worker must know of a claim: names and numbers, never live objects."""

    key: str
    code_hash: str
    claim: str
    claim_hash: str
    at_least: float
    time_limit: float
    rung: str
    root: int


@dataclasses.dataclass(frozen=True)
class _Line:
    """Points to look at in order: a ray, which is bisected where it first fails, or a row of a map at ``y``."""

    claim: _Template
    parameter: str
    side: str
    ray: int
    whole: bool
    fixed: tuple[tuple[str, Value], ...]
    values: tuple[float, ...]
    y: float = math.nan

    @property
    def file(self) -> str:
        """Its table's name, made of all that it depends on."""
        content = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{self.claim.claim}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.csv"


def _lines(subject: Subject, claim: Claim, rays: int, root: int) -> Iterator[_Line]:
    """The rays of every parameter and side, and the rows of the map."""
    paper, names = subject.loaded.paper.key, list(claim.beyond or {})
    template = _Template(
        subject.key,
        subject.code_hash,
        claim.name,
        claim.hash,
        claim.at_least,
        claim.time_limit,
        claim.rung,
        root,
    )
    for name in names:
        whole = claim.parameters[name].type is int
        alone = set(claim.parameters) <= {name, *(claim.control or {})}  # all rays would be one
        for side, values in _sides(claim, name):
            for ray in range(1 if alone else rays):
                drawn = _drawn(claim, generator(root, paper, claim.name, ray)) if ray else {}
                others = {key: value for key, value in (claim.arm("main") | drawn).items() if key != name}
                yield _Line(template, name, side, ray, whole, tuple(others.items()), values)
    if len(names) == 2:
        x, y = (claim.parameters[name] for name in names)
        row = _grid(x, _outside(claim, x.name), _MAP)
        for value in _grid(y, _outside(claim, y.name), _MAP):
            others = {k: v for k, v in (claim.arm("main") | {y.name: _typed(y, value)}).items() if k != x.name}
            yield _Line(template, x.name, "map", -1, x.type is int, tuple(others.items()), row, float(value))


def _outside(claim: Claim, name: str) -> Parameter:
    return widened(claim.parameters[name], (claim.beyond or {})[name])


def _sides(claim: Claim, name: str) -> Iterator[tuple[Side, tuple[float, ...]]]:
    """The sides on which a range may be left, with the coarse steps of a ray."""
    inside, outside = claim.parameters[name], _outside(claim, name)
    ends: dict[Side, tuple[float, float]] = {"below": (inside.low, outside.low), "above": (inside.high, outside.high)}
    for side, (edge, limit) in ends.items():
        if edge != limit:
            start = float(inside.default)
            steps = [*_steps(start, edge, _INSIDE), *_steps(edge, limit, _OUTSIDE)]
            steps[-1] = _within(outside, steps[-1])
            yield side, tuple(dict.fromkeys(round(x) if inside.type is int else x for x in steps))


def _steps(start: float, end: float, count: int) -> list[float]:
    """From ``start``, left out, to ``end``; geometric over more than a decade."""
    wide = start * end > 0 and max(start / end, end / start) > 10
    return [float(x) for x in (np.geomspace if wide else np.linspace)(start, end, count + 1)[1:]]


def _grid(inside: Parameter, outside: Parameter, count: int) -> tuple[float, ...]:
    """Points over the whole of what may be looked at."""
    low, high = _within(outside, outside.low), _within(outside, outside.high)
    points = [low, *_steps(low, high, count - 1)]
    return tuple(dict.fromkeys(round(x) if inside.type is int else x for x in points))


def _within(parameter: Parameter, value: float) -> float:
    """The value, moved inside by a hundredth of the range where its end is excluded."""
    margin = (parameter.high - parameter.low) / 100
    low = parameter.low + margin if parameter.low_open else parameter.low
    high = parameter.high - margin if parameter.high_open else parameter.high
    return min(max(value, low), high)


def _drawn(claim: Claim, rng: np.random.Generator) -> dict[str, Value]:
    """The parameters that the control leaves alone, drawn from their ranges."""
    free = {name: p for name, p in claim.parameters.items() if name not in (claim.control or {})}
    return {name: _draw(parameter, rng) for name, parameter in free.items()}


def _draw(parameter: Parameter, rng: np.random.Generator) -> Value:
    choices: Sequence[Value] = (False, True) if parameter.type is bool else parameter.choices
    if choices:
        return choices[int(rng.integers(len(choices)))]
    if parameter.type is str or not math.isfinite(parameter.high - parameter.low):
        return parameter.default
    low, high = _within(parameter, parameter.low), _within(parameter, parameter.high)
    wide = low > 0 and high / low > 100
    value = float(np.exp(rng.uniform(np.log(low), np.log(high))) if wide else rng.uniform(low, high))
    return _typed(parameter, min(max(value, low), high))


def _typed(parameter: Parameter, value: float) -> Value:
    return round(value) if parameter.type is int else float(value)


def _follow(folder: Path, line: _Line) -> None:
    """Look at a line's points, bisect if it is a ray, and write its table."""
    margins: dict[float, float] = {}

    def margin(x: float) -> float:
        if x not in margins:
            point = {**dict(line.fixed), line.parameter: round(x) if line.whole else float(x)}
            margins[x] = _margin(line.claim, point)
        return margins[x]

    breaks, before = math.inf, None
    for x in line.values:
        if margin(x) <= 0 and line.side != "map" and breaks == math.inf:
            breaks = x if before is None else _bisect(margin, before, x, whole=line.whole)
        before = x
    rows = [(line.parameter, line.side, line.ray, x, line.y, margins[x], breaks) for x in sorted(margins)]
    write_table(folder / line.file, columns("parameter side ray x y margin breaks", rows))


def _bisect(margin: Callable[[float], float], holds: float, fails: float, *, whole: bool) -> float:
    """The first failing value between one that holds and one that does not."""
    for _ in range(64 if whole else _BISECTIONS):
        middle = float(round((holds + fails) / 2)) if whole else (holds + fails) / 2
        if middle in (holds, fails):
            break
        holds, fails = (holds, middle) if margin(middle) <= 0 else (middle, fails)
    return fails


def _margin(claim: _Template, parameters: Mapping[str, Value]) -> float:
    """Smallest margin of some cases at one point, or their median; -inf where the claim raised or did not return.

    Not a number, which is no failure, where no case satisfies the claim's assumptions.
    """
    task = {"do": "replicate", "key": claim.key, "claim": claim.claim, "arm": "main", "root": claim.root}
    margins = []
    for case in range(CASES[claim.rung]):
        sandbox = worker_sandbox(claim.key, claim.code_hash)
        point = task | {"case": case, "parameters": dict(parameters)}
        *events, last = sandbox.run(point, time_limit=claim.time_limit)
        outcome = next((event for event in events if event["event"] == "case"), last)
        if outcome.get("status") == "ok":
            margins.append(outcome["effect"] - claim.at_least)
        elif outcome.get("note") != UNSATISFIED:
            margins.append(-math.inf)
    if not margins:
        return math.nan
    return float(np.median(margins) if claim.rung == "typically" else min(margins))


def _collect(claim: Claim, lines: Sequence[_Line], folder: Path) -> Exploration:
    tables = [read_table(folder / line.file) for line in lines]
    table = {name: np.concatenate([t[name].astype(object) for t in tables]) for name in tables[0]}
    for name in table:
        table[name] = table[name].astype(str if name in ("parameter", "side") else float)
    boundaries = []
    for name in claim.beyond or {}:
        for side, values in _sides(claim, name):
            chosen = [t for line, t in zip(lines, tables, strict=True) if (line.parameter, line.side) == (name, side)]
            edge = claim.parameters[name].low if side == "below" else claim.parameters[name].high
            breaks = tuple(float(t["breaks"][0]) for t in chosen)
            boundaries.append(Boundary(claim.name, name, side, float(edge), float(values[-1]), breaks))
    return Exploration(claim, tuple(boundaries), table)
