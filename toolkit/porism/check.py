"""Checking claims: run replicates and searches until every claim is settled, or the time is up."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import joblib

from porism.budget import Clock
from porism.claims import Claim
from porism.costs import Job, job_of, longest_first, most_settled_within
from porism.engines import Engine, Task
from porism.errors import PorismError
from porism.fingerprint import code_hash
from porism.home import home
from porism.records import Record, read_records
from porism.registry import LoadedPaper, load
from porism.rounds import Progress, work_off
from porism.seeds import ROOT
from porism.tasks import next_tasks
from porism.verdicts import Verdict, append_verdicts, judge, latest, read_verdicts, verdict_file


@dataclasses.dataclass(frozen=True)
class Subject:
    """A paper under check: its key as the user gave it, what its file declares, and the hash of its code."""

    key: str
    loaded: LoadedPaper
    code_hash: str

    @classmethod
    def of(cls, key: str) -> Subject:
        """Load a paper by key or path, and read what its claims state."""
        loaded = load(key)
        for claim in loaded.claims.values():
            claim.arm("control")
        return cls(key, loaded, code_hash(loaded.path, loaded.module.__name__))

    @property
    def verdict_file(self) -> Path:
        """Where this paper's latest verdicts are kept in the project's folder."""
        return home() / "verdicts" / f"{self.loaded.paper.key}.jsonl"

    def committed(self) -> list[Verdict]:
        """The verdicts that ship with the paper."""
        return read_verdicts(verdict_file(self.loaded.path))


def check(
    subjects: Sequence[Subject],
    *,
    engine: Engine = "loky",
    jobs: int = -1,
    root: int = ROOT,
    budget: float | None = None,
    progress: Progress = lambda records, remaining: None,
) -> list[Verdict]:
    """Settle the claims of the papers and return the verdicts, in the papers' own order.

    What is recorded already is not run again. In each round a claim gets exactly as many replicates as it
    needs before it could possibly be settled, so the verdict does not depend on the number of workers.

    Parameters
    ----------
    subjects
        The papers, or some of their claims.
    engine, jobs
        As for :func:`~porism.engines.run_tasks`.
    root
        Root seed.
    budget
        Seconds after which to stop; then claims that are not settled have no verdict. None for as long as it takes.
    progress
        Called with the records of each finished task, and with the number of tasks that are known to remain.

    Raises
    ------
    PorismError
        If records cannot be read or written, or if two of the papers have the same key.
    """
    clock = Clock(budget)
    work = [_Claims(subject, root) for subject in subjects]
    by_key = {claims.key: claims for claims in work}
    if len(by_key) < len(work):
        raise PorismError("two of the papers have the same key; check them one after the other")

    def tasks() -> list[Task]:
        wanted = [job for claims in work for job in claims.jobs()]
        if budget is None:
            return longest_first(wanted)
        return most_settled_within(wanted, clock.left, workers=joblib.cpu_count() if jobs == -1 else jobs)

    def take(records: Sequence[Record]) -> None:
        by_key[records[0].paper].take(records)

    def reread() -> None:
        for claims in work:
            claims.read()

    work_off(tasks, take, reread, home() / "records", engine=engine, jobs=jobs, clock=clock, progress=progress)
    for claims in work:
        append_verdicts(claims.subject.verdict_file, claims.in_order(), strict=False)
    return [
        claims.verdicts[name] for claims in work for name in claims.subject.loaded.claims if name in claims.verdicts
    ]


class _Claims:
    """The claims of one paper under check: verdicts of those that are settled, records of those that are not."""

    def __init__(self, subject: Subject, root: int) -> None:
        self.subject, self.root = subject, root
        self.key = subject.loaded.paper.key
        self.committed = subject.committed()
        self._earlier = latest([*self.committed, *read_verdicts(subject.verdict_file, strict=False)])
        self.verdicts: dict[str, Verdict] = {}
        self._records: dict[str, list[Record]] = {}
        self.read()

    def read(self) -> None:
        """Read the records of the claims that are not settled, and judge them."""
        unsettled = [c for c in self.subject.loaded.claims.values() if c.name not in self.verdicts]
        keep = relevant(unsettled, self.subject.code_hash, self.root)
        by_claim: defaultdict[str, list[Record]] = defaultdict(list)
        for record in read_records(home() / "records", self.key, keep=keep):
            by_claim[record.claim].append(record)
        self._records = {claim.name: by_claim[claim.name] for claim in unsettled}
        self._judge(unsettled)

    def in_order(self) -> list[Verdict]:
        """The verdicts so far, in the order of the paper's file."""
        return [self.verdicts[name] for name in self.subject.loaded.claims if name in self.verdicts]

    def take(self, records: Sequence[Record]) -> None:
        self._records[records[0].claim] += records

    def jobs(self) -> list[Job]:
        """What the claims that are not settled need next."""
        unsettled = [self.subject.loaded.claims[name] for name in self._records]
        self._judge(unsettled)
        found = []
        for claim in unsettled:
            if claim.name in self._records:
                records = self._records[claim.name]
                tasks = next_tasks(self.subject, claim, records, self.committed, self.root)
                found.append(job_of(tasks, records, self._earlier.get(claim.name)))
        return found

    def _judge(self, claims: Sequence[Claim]) -> None:
        """Settle what can be settled; a settled claim's records are not needed any more."""
        for claim in claims:
            records, code = self._records[claim.name], self.subject.code_hash
            verdict = judge(claim, records, paper=self.key, code_hash=code, root=self.root)
            if verdict is not None:
                self.verdicts[claim.name] = verdict
                del self._records[claim.name]


def relevant(claims: Sequence[Claim], code_hash: str, root: int) -> Callable[[Record], bool]:
    """Whether a record is about one of the claims as they are now, or ends some search of them."""
    hashes = {claim.name: claim.hash for claim in claims}

    def keep(record: Record) -> bool:
        wording = hashes.get(record.claim)
        if wording is None:
            return False
        as_it_is = record.root == root and record.claim_hash == wording and record.code_hash == code_hash
        return as_it_is or record.status == "end"

    return keep
