"""Hunting counterexamples beyond the cases of a check, and the parameters at which an effect is weakest.

What is found is kept, whatever stops the hunt, and a counterexample is replayed in every later check.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from porism.budget import Clock
from porism.check import Subject
from porism.claims import Claim
from porism.engines import Task, end_of
from porism.errors import PorismError
from porism.home import home
from porism.parameters import Value
from porism.records import Record, ShardWriter, read_records
from porism.rounds import Progress, work_off
from porism.stats import SignTest, anytime_median_interval
from porism.tasks import search_task
from porism.verdicts import counterexample_of, current, succeeded
from porism.weakest import AGAIN, free_parameters

# A longer hunt is cut into searches of this many cases, under a root each, so that every worker has one.
CASES_A_SEARCH = 500

TIME_UP, INTERRUPTED = "the time was up", "interrupted"


@dataclasses.dataclass(frozen=True, slots=True)
class Weakest:
    """The point at which the median effect of a ``typically`` claim was smallest, judged on fresh replicates.

    ``outcome`` is that of the sequential test there, ``not judged`` if the time was up before. ``effect`` is the median
    with its 90 % anytime-valid interval, None for an infinite number; ``points`` were looked at.
    """

    parameters: Mapping[str, Value]
    outcome: str
    effect: float | None
    low: float | None
    high: float | None
    replicates: int
    points: int


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What the hunt for one claim found.

    Attributes
    ----------
    claim, rung
        Name and rung of the claim.
    cases
        Cases or replicates that were looked at.
    smallest
        The smallest margin of a case; for ``typically`` of a point's median.
    counterexample
        Shrunk, with ``parameters``, ``case``, ``root`` and ``note``; None if there is none.
    weakest
        Of a ``typically`` claim.
    note
        What broke the hunt off, if anything did.
    """

    claim: str
    rung: str
    cases: int
    smallest: float | None
    counterexample: Mapping[str, Any] | None = None
    weakest: Weakest | None = None
    note: str = ""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        broken_off = f", then broken off: {self.note}" if self.note else ""
        if self.counterexample is not None:
            return f"refuted after {self.cases} cases: {self.counterexample['note']}"
        if self.rung != "typically":
            return f"no counterexample in {self.cases} cases{broken_off}"
        if self.weakest is None:
            return f"no point was judged in {self.cases} replicates{broken_off}"
        weak = self.weakest
        where = ", ".join(f"{name}={value}" for name, value in weak.parameters.items())
        there = f"it {weak.outcome} there" if weak.outcome == "holds" else f"{weak.outcome} there"
        return f"weakest of {weak.points} points at {where}: {there}{broken_off}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self) | {"sentence": self.sentence}


def explore(
    subject: Subject,
    *,
    cases: int = CASES_A_SEARCH,
    root: int | None = None,
    jobs: int = -1,
    budget: float | None = None,
    progress: Progress = lambda records, remaining: None,
) -> list[Finding]:
    """Hunt in the ranges of every claim of a paper.

    ``always`` and ``proved`` claims are searched for a counterexample; of ``typically`` claims the point is looked for
    at which the effect is weakest. Stopped by Ctrl-C or by the budget, it returns what was found until then.

    Parameters
    ----------
    subject
        The paper, or the one claim of it, to explore.
    cases
        Cases (replicates, for ``typically``) for each claim, at least 1.
    root
        Root seed of the first search; by default the first whose search is not finished yet, so that each run looks
        elsewhere.
    jobs
        Workers; -1 for one a core.
    budget
        Seconds after which to stop; None for as long as it takes.
    progress
        Called with the records of each finished search and the number of searches that remain.

    Raises
    ------
    PorismError
        If no claim of the paper can be explored.
    """
    hunts = [_Hunt(subject, claim) for claim in subject.loaded.claims.values() if _explorable(claim)]
    if not hunts:
        raise PorismError(f"{subject.loaded.paper.key!r} has no claim with ranges to explore")
    by_name = {hunt.claim.name: hunt for hunt in hunts}
    folder, committed = home() / "records", subject.committed()

    def read() -> None:
        _read(subject, by_name)

    def tasks() -> list[Task]:
        found = [
            search_task(subject, hunt.claim, hunt.records, committed, root=one, cap=cap, do=hunt.do)
            for hunt in hunts
            for one, cap in hunt.searches
            if not hunt.finished(one, cap)
        ]
        return sorted(found, key=lambda task: task.do == "weakest")  # a search takes as long as a few replicates

    read()
    for hunt in hunts:
        hunt.plan(cases, root)
    stopped = ""
    try:
        finished = work_off(
            tasks,
            lambda records: by_name[records[0].claim].records.extend(records),
            read,
            folder,
            jobs=jobs,
            clock=Clock(budget),
            progress=progress,
        )
        stopped = "" if finished else TIME_UP
    except KeyboardInterrupt:
        stopped = INTERRUPTED
        read()
    if stopped:
        _close_refuted(hunts, tasks())
    return [hunt.finding(stopped) for hunt in hunts]


def explored_weakest(subject: Subject) -> dict[str, Weakest]:
    """Where explorations before found the ``typically`` claims of a paper weakest, by the claim's name."""
    hunts = {c.name: _Hunt(subject, c) for c in subject.loaded.claims.values() if c.rung == "typically"}
    if hunts:
        _read(subject, hunts)
    return {name: weakest for name, hunt in hunts.items() if (weakest := hunt.weakest()) is not None}


def _read(subject: Subject, hunts: Mapping[str, _Hunt]) -> None:
    """Give each hunt, by the name of its claim, the records of the claim as it is, and the ends of others."""

    def relevant(record: Record) -> bool:
        hunt = hunts.get(record.claim)
        if hunt is None:
            return False
        as_it_is = (record.claim_hash, record.code_hash) == (hunt.claim.hash, subject.code_hash)
        return as_it_is or record.status == "end"

    for hunt in hunts.values():
        hunt.records = []
    for record in read_records(home() / "records", subject.loaded.paper.key, keep=relevant):
        hunts[record.claim].records.append(record)


def _explorable(claim: Claim) -> bool:
    return claim.rung != "typically" or bool(free_parameters(claim))


class _Hunt:
    """The searches of one claim, and all of its records."""

    def __init__(self, subject: Subject, claim: Claim) -> None:
        self.subject, self.claim = subject, claim
        self.do: Any = "weakest" if claim.rung == "typically" else "search"
        self.records: list[Record] = []
        self.searches: list[tuple[int, int]] = []  # root and cases of each

    def plan(self, cases: int, root: int | None) -> None:
        """Share the cases among searches; those of a ``typically`` claim stay together, as one point needs many."""
        a_search = cases if self.do == "weakest" else CASES_A_SEARCH
        caps = [min(a_search, cases - done) for done in range(0, cases, a_search)]
        roots: Iterable[int] = itertools.count(root) if root is not None else self._fresh_roots()
        self.searches = list(zip(roots, caps, strict=False))

    def finished(self, root: int, cap: int) -> bool:
        return any(
            end.root == root and (end.values["counterexamples"] or end.values["cap"] >= cap) for end in self._ends()
        )

    def finding(self, stopped: str) -> Finding:
        """What the records say of the searches, those of an interrupted run before included."""
        roots = {root for root, _ in self.searches}
        ends = [end for end in self._ends() if end.root in roots]
        unfinished = any(not self.finished(root, cap) for root, cap in self.searches)
        own = self._own_cases(roots)
        note = stopped if unfinished else next((end.note for end in ends if end.note), "")
        if self.do == "weakest":
            points = _points(r for r in own if r.case < AGAIN)
            smallest = min((statistics.median(effects) for effects in points.values()), default=None)
            return Finding(
                self.claim.name,
                self.claim.rung,
                len(own),
                None if smallest is None else smallest - self.claim.at_least,
                weakest=self._weakest(points, own) if points else None,
                note=note,
            )
        refuting = [end for end in ends if end.values["counterexamples"]]
        return Finding(
            self.claim.name,
            self.claim.rung,
            sum(int(end.values["cases"]) for end in ends) or len(own),
            min((r.effect - self.claim.at_least for r in own if r.effect is not None), default=None),
            counterexample=counterexample_of(refuting[0]) if refuting else None,
            note="" if refuting else note,
        )

    def weakest(self) -> Weakest | None:
        """The weakest point of all searches that ended."""
        own = self._own_cases({end.root for end in self._ends()})
        points = _points(r for r in own if r.case < AGAIN)
        return self._weakest(points, own) if points else None

    def failures(self, root: int) -> list[Record]:
        """The cases of a search that refute the claim, in the order in which they were found."""
        return [r for r in self._own_cases({root}) if r.status in ("ok", "error") and not succeeded(self.claim, r)]

    def _weakest(self, points: Mapping[str, list[float]], own: Sequence[Record]) -> Weakest:
        chosen = json.loads(min(points, key=lambda name: (statistics.median(points[name]), name)))
        again = sorted((r for r in own if r.case >= AGAIN and r.parameters == chosen), key=lambda r: r.case)
        effects = [-math.inf if r.effect is None else r.effect for r in again]
        test = SignTest.of((succeeded(self.claim, r) for r in again), cap=self.claim.cap)
        numbers = (statistics.median(effects), *anytime_median_interval(effects)) if effects else (math.nan,) * 3
        effect, low, high = (value if math.isfinite(value) else None for value in numbers)
        return Weakest(chosen, test.outcome or "not judged", effect, low, high, len(again), len(points))

    def _own_cases(self, roots: set[int]) -> list[Record]:
        code = self.subject.code_hash
        own = (r for root in sorted(roots) for r in current(self.claim, self.records, code_hash=code, root=root))
        return [r for r in own if r.arm == "main" and r.status not in ("end", "symbolic") and r.root in roots]

    def _ends(self) -> list[Record]:
        as_it_is = (self.claim.hash, self.subject.code_hash, "main", "end")
        return [r for r in self.records if (r.claim_hash, r.code_hash, r.arm, r.status) == as_it_is]

    def _fresh_roots(self) -> Iterator[int]:
        """The roots after the check's own that have no finished search of this claim as it is now."""
        finished = {end.root for end in self._ends()}
        return (root for root in itertools.count(1) if root not in finished)


def _points(records: Iterable[Record]) -> dict[str, list[float]]:
    """Effects by parameters; a failed replicate counts as minus infinity."""
    points: defaultdict[str, list[float]] = defaultdict(list)
    for record in records:
        name = json.dumps(record.parameters, sort_keys=True)
        points[name].append(-math.inf if record.effect is None else record.effect)
    return dict(points)


def _close_refuted(hunts: Sequence[_Hunt], unfinished: Iterable[Task]) -> None:
    """Keep the last failing case of a search that was stopped while it shrank one, to be replayed ever after."""
    by_name = {hunt.claim.name: hunt for hunt in hunts}
    writer = ShardWriter(home() / "records")
    for task in unfinished:
        hunt = by_name[task.claim]
        if task.do == "search" and (failures := hunt.failures(task.root)):
            last = failures[-1]
            note = last.note or f"margin {last.effect:.6g}"
            example = {"parameters": last.parameters, "case": last.case, "root": last.root, "note": note}
            end = end_of(task, len(hunt.failures(task.root)), example | {"note": f"{note} (not shrunk to the end)"})
            writer.append(end)
            hunt.records.append(end)
    writer.close()
