"""What a claim is expected to cost, from its records or its last verdict, and the order that follows from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from porism.engines import Task
from porism.records import Record
from porism.stats import SignTest
from porism.verdicts import Verdict

# Seconds a case where nothing is known.
_UNKNOWN = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What a claim needs next, and what it will probably take.

    Attributes
    ----------
    tasks
        Its tasks of the coming round.
    case_seconds
        Seconds of one case.
    to_settle
        Seconds of one worker until the claim is settled.
    judged
        Whether an earlier version of it has a verdict.
    """

    tasks: Sequence[Task]
    case_seconds: float
    to_settle: float
    judged: bool

    def cost(self, task: Task) -> float:
        """Seconds that one of its tasks will probably take."""
        cases = max(task.cap - len(task.known), 1) if task.do in ("search", "weakest") else 1
        return cases * self.case_seconds


def job_of(tasks: Sequence[Task], records: Sequence[Record], earlier: Verdict | None) -> Job:
    """Expect of a claim what its own records cost, else what its last verdict did."""
    case_seconds = _case_seconds(records, earlier)
    cases = 0
    for arm in {task.arm for task in tasks}:
        own = [task for task in tasks if task.arm == arm]
        there = sum(r.arm == arm and r.status not in ("end", "symbolic") for r in records)
        if own[0].do == "replicate":
            cases += max(len(own), _replicates(earlier, arm) - there)
        else:
            cases += sum(max(task.cap - len(task.known), 1) for task in own)
    return Job(tasks, case_seconds, cases * case_seconds, earlier is not None)


def longest_first(jobs: Iterable[Job]) -> list[Task]:
    """All tasks, those first on which everybody would have to wait at the end."""
    costed = [(job.cost(task), task) for job in jobs for task in job.tasks]
    return [task for _, task in sorted(costed, key=lambda pair: -pair[0])]


def most_settled_within(jobs: Iterable[Job], seconds: float, *, workers: int) -> list[Task]:
    """The tasks by which most claims will be settled in the time: never judged ones first, then the cheapest.

    What will probably not be settled in time waits, as long as there is work for every worker.

    Examples
    --------
    >>> dear, cheap = (Job([name] * 9, cost, 9 * cost, True) for name, cost in (("dear", 50.0), ("cheap", 1.0)))
    >>> set(most_settled_within([dear, cheap], 60.0, workers=2))
    {'cheap'}
    """
    chosen: list[Task] = []
    purse = seconds * workers
    for job in sorted(jobs, key=lambda job: (job.judged, job.to_settle)):
        if job.to_settle <= purse or len(chosen) < workers:
            chosen += job.tasks
            purse -= job.to_settle
    return chosen


def _case_seconds(records: Sequence[Record], earlier: Verdict | None) -> float:
    seconds = [r.seconds for r in records if r.status not in ("end", "symbolic")]
    if seconds:
        return sum(seconds) / len(seconds)
    if earlier is None:
        return _UNKNOWN
    cases = earlier.main.cases + (earlier.control.cases if earlier.control else 0)
    return earlier.seconds / cases if cases else _UNKNOWN


def _replicates(earlier: Verdict | None, arm: str) -> int:
    """How many replicates settled an arm before; the fewest that can, where it never was."""
    summary = None if earlier is None else earlier.main if arm == "main" else earlier.control
    return summary.cases if summary is not None else SignTest().fewest_more
