"""Sweeps: a simulator, a demo or a claim's margin over a grid or points drawn at random, resumable, on any engine.

Records go into a folder of their own, ``sweeps``, so that no sweep can touch a verdict. A point that is there is never
computed again, whichever sweep asked for it, as long as the code is the same.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from porism.budget import Clock
from porism.check import Subject
from porism.claims import Claim
from porism.design import Axis, Spec, axes_of, drawn, grid
from porism.engines import Engine, Task
from porism.errors import ParameterError, PorismError, did_you_mean
from porism.home import home
from porism.parameters import Parameter, Value, bind, parameters_of
from porism.records import Record, read_records
from porism.rounds import Progress, work_off
from porism.runs import TIME_LIMIT, runnable
from porism.seeds import ROOT, generator
from porism.sweep_table import Row, long_table, wide_table


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep found so far.

    Attributes
    ----------
    paper
        The paper's key.
    claim
        The claim whose margin was swept; None for the demo or simulator.
    axes
        What was varied.
    random
        Whether points were drawn, or stand on a grid.
    repeats
        Runs at each point.
    points
        How many points the design has.
    rows
        The finished runs, in the design's order.
    """

    paper: str
    claim: Claim | None
    axes: tuple[Axis, ...]
    random: bool
    repeats: int
    points: int
    rows: tuple[Row, ...]

    @property
    def remaining(self) -> int:
        """Runs that are not finished."""
        return self.points * self.repeats - len(self.rows)

    @property
    def stem(self) -> str:
        """Name of its files, such as ``large_lr-sweep-degree-step_ratio``."""
        return "-".join((self.paper, *([self.claim.name] if self.claim else []), "sweep", *(a.name for a in self.axes)))

    @functools.cached_property
    def table(self) -> dict[str, np.ndarray]:
        """Tidy, a row for each run; see :func:`porism.sweep_table.wide_table`."""
        return wide_table(self.rows, self.claim)

    @functools.cached_property
    def long(self) -> dict[str, np.ndarray]:
        """Tidy, a row for each entry of the arrays of each run; see :func:`porism.sweep_table.long_table`."""
        return long_table(self.rows, self.claim)


def sweep(
    subject: Subject,
    over: Mapping[str, Spec],
    *,
    claim: str | None = None,
    settings: Mapping[str, Any] | None = None,
    random: int | None = None,
    repeats: int = 1,
    root: int = ROOT,
    engine: Engine = "loky",
    jobs: int = -1,
    budget: float | None = None,
    progress: Progress = lambda records, remaining: None,
) -> Sweep:
    """Run a demo, a simulator or the cases of a claim at every point of a design that is not recorded yet.

    Parameters
    ----------
    subject
        The paper.
    over
        By parameter, its values: a sequence, or a SPEC as for :func:`porism.design.axis_of`.
    claim
        A claim whose margin is swept; by default what ``porism run KEY`` runs.
    settings
        Values of other parameters.
    random
        How many points to draw from the ranges; by default all combinations of the values.
    repeats
        Runs at each point, at least 1: roots ``root``, ``root + 1``, ... of a demo, cases 0, 1, ... of a claim. Every
        point sees the same random numbers.
    root
        Root seed.
    engine, jobs
        As for :func:`porism.engines.run_tasks`.
    budget
        Seconds after which no more is begun; None for as long as it takes, 0 to see what is there.
    progress
        Called with the records of each finished run and the number of runs that remain.

    Raises
    ------
    ParameterError
        If a parameter is unknown or a value out of its range.
    PorismError
        If there is nothing to run, the design is too large, or records cannot be read or written.
    """
    if repeats < 1:
        raise PorismError(f"repeats must be at least 1, got {repeats}")
    chosen = _claim(subject, claim)
    parameters = swept_parameters(subject, claim)
    axes = axes_of(parameters, over)
    fixed = _fixed(parameters, settings or {}, axes)
    names = (subject.loaded.paper.key, chosen.name if chosen else "demo", "sweep", *(axis.name for axis in axes))
    points = grid(axes) if random is None else drawn(axes, random, generator(root, *names))
    template = _task(subject, chosen, root)
    tasks = {
        _identity(task): task
        for point in points
        for task in _repeated(dataclasses.replace(template, parameters={**fixed, **point}), repeats)
    }
    order = _spread(list(tasks), repeats, generator(root, *names, "order"))
    done: dict[str, Record] = {}
    folder = home() / "sweeps"

    def take(records: Sequence[Record]) -> None:
        for record in records:
            identity = _identity(record)
            if identity not in tasks:
                raise PorismError(f"a worker answered for parameters that nobody asked for: {record.parameters}")
            done.setdefault(identity, record)

    def mine(record: Record) -> bool:
        same = all(getattr(record, name) == getattr(template, name) for name in ("claim", "claim_hash", "code_hash"))
        return same and _identity(record) in tasks

    def reread() -> None:
        take(read_records(folder, template.paper, keep=mine))

    reread()
    work_off(
        lambda: [tasks[identity] for identity in order if identity not in done],
        take,
        reread,
        folder,
        engine=engine,
        jobs=jobs,
        clock=Clock(budget),
        progress=progress,
    )
    rows = [
        Row({axis.name: task.parameters[axis.name] for axis in axes}, done[identity])
        for identity, task in tasks.items()
        if identity in done
    ]
    return Sweep(template.paper, chosen, axes, random is not None, repeats, len(points), tuple(rows))


def swept_parameters(subject: Subject, claim: str | None = None) -> dict[str, Parameter]:
    """What a sweep of the paper's demo or simulator, or of one claim, may vary."""
    chosen = _claim(subject, claim)
    return chosen.parameters if chosen else parameters_of(runnable(subject))


def _claim(subject: Subject, name: str | None) -> Claim | None:
    claims = subject.loaded.claims
    if name is not None and name not in claims:
        known = ", ".join(claims) or "none"
        raise PorismError(
            f"paper {subject.key!r} has no claim {name!r}{did_you_mean(name, claims)} (known: {known})",
        )
    return None if name is None else claims[name]


def _fixed(parameters: Mapping[str, Parameter], settings: Mapping[str, Any], axes: Sequence[Axis]) -> dict[str, Value]:
    """A value for every parameter, those that vary included."""
    for axis in axes:
        if axis.name in settings:
            raise ParameterError(f"{axis.name} is both set and varied")
    return bind(parameters, settings)


def _task(subject: Subject, claim: Claim | None, root: int) -> Task:
    return Task(
        do="replicate" if claim else "demo",
        key=str(subject.loaded.path) if subject.key.endswith(".py") else subject.key,  # workers may run elsewhere
        paper=subject.loaded.paper.key,
        claim=claim.name if claim else "",
        claim_hash=claim.hash if claim else "",
        code_hash=subject.code_hash,
        root=root,
        arm="main",
        time_limit=claim.time_limit if claim else TIME_LIMIT,
        case=0,
    )


def _repeated(task: Task, repeats: int) -> list[Task]:
    """A demo under one root after the other, a claim case by case."""
    if task.do == "demo":
        return [dataclasses.replace(task, root=task.root + repeat) for repeat in range(repeats)]
    return [dataclasses.replace(task, case=case) for case in range(repeats)]


def _spread(identities: Sequence[str], repeats: int, rng: np.random.Generator) -> list[str]:
    """First all points once, in mixed order: a sweep that is cut short has looked everywhere a little."""
    points = rng.permutation(len(identities) // repeats)
    return [identities[int(point) * repeats + repeat] for repeat in range(repeats) for point in points]


def _identity(of: Task | Record) -> str:
    return json.dumps([of.root, of.case, dict(of.parameters)], sort_keys=True)
