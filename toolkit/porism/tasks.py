"""What a claim needs next: replicates, a search, sympy's decision."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from porism.claims import Claim
from porism.engines import Task
from porism.errors import ParameterError
from porism.parameters import bind
from porism.records import Arm, Record
from porism.seeds import ROOT
from porism.stats import SignTest
from porism.verdicts import Verdict, counterexample_of, current, end_of_search, replicates, succeeded, summarise

if TYPE_CHECKING:
    from porism.check import Subject


def next_tasks(
    subject: Subject, claim: Claim, records: Sequence[Record], committed: Iterable[Verdict], root: int
) -> list[Task]:
    """What an unsettled claim needs before it could possibly be settled; ``records`` are all of the claim's."""
    own = current(claim, records, code_hash=subject.code_hash, root=root)
    arms: tuple[Arm, ...] = ("main",) if claim.control is None else ("main", "control")
    tasks: list[Task] = []
    for arm in arms:
        if summarise(claim, own, arm) is not None:
            continue
        if claim.rung == "typically":
            tasks += _replicates(subject, claim, own, arm, root)
            continue
        mine = [r for r in own if r.arm == arm]
        if claim.rung == "proved" and not any(r.status == "symbolic" for r in mine):
            tasks.append(_task("symbolic", subject, claim, arm, root))
        if end_of_search(claim, mine) is None:
            tasks.append(search_task(subject, claim, records, committed, root=root, cap=claim.cap, arm=arm))
    return tasks


def search_task(
    subject: Subject,
    claim: Claim,
    records: Iterable[Record],
    committed: Iterable[Verdict],
    *,
    root: int,
    cap: int,
    arm: Arm = "main",
    do: Literal["search", "weakest"] = "search",
) -> Task:
    """A search of one arm that knows its finished cases, and replays earlier counterexamples first.

    ``records`` are all of the claim's, those of other wordings and roots included, ``committed`` its paper's verdicts.
    """
    records = list(records)
    known = tuple(
        {"parameters": r.parameters, "case": r.case, "status": r.status, "effect": r.effect, "note": r.note}
        for r in current(claim, records, code_hash=subject.code_hash, root=root)
        if r.arm == arm and r.status not in ("end", "symbolic")
    )
    replay = tuple(counterexamples(claim, records, committed)) if (arm, do) == ("main", "search") else ()
    return dataclasses.replace(_task(do, subject, claim, arm, root), cap=cap, known=known, replay=replay)


def counterexamples(claim: Claim, records: Iterable[Record], committed: Iterable[Verdict]) -> Iterator[dict[str, Any]]:
    """Counterexamples ever found to a claim of this name that are still in its ranges: replayed ever after."""
    ends = [r for r in records if r.claim == claim.name and r.arm == "main" and r.values.get("counterexamples")]
    found = [counterexample_of(end) for end in ends]
    shipped = (v.main.counterexample for v in committed if v.claim == claim.name)
    found += [dict(example) for example in shipped if example is not None]
    seen = set()
    for example in found:
        # The control's switches stay where the arm has them.
        free = {name: value for name, value in example["parameters"].items() if name not in (claim.control or {})}
        point = {"parameters": free, "case": example["case"], "root": example.get("root", ROOT)}
        with contextlib.suppress(ParameterError):
            bind(claim.parameters, free)
            if repr(point) not in seen:
                yield point
            seen.add(repr(point))


def _replicates(subject: Subject, claim: Claim, records: Iterable[Record], arm: Arm, root: int) -> Iterator[Task]:
    """As many as it takes at the least until the test could stop, so that none is wasted on any number of workers."""
    records = list(records)
    test = SignTest.of((succeeded(claim, r) for r in replicates(claim, records, arm)), cap=claim.cap)
    point = claim.arm(arm)
    there = {r.case for r in records if r.arm == arm and r.parameters == point}
    template = _task("replicate", subject, claim, arm, root)
    for case in range(test.trials, min(claim.cap, test.trials + test.fewest_more)):
        if case not in there:
            yield dataclasses.replace(template, case=case, parameters=point)


def _task(
    do: Literal["replicate", "search", "symbolic", "weakest"], subject: Subject, claim: Claim, arm: Arm, root: int
) -> Task:
    return Task(
        do=do,
        # workers may be at home in another folder
        key=str(subject.loaded.path) if subject.key.endswith(".py") else subject.key,
        paper=subject.loaded.paper.key,
        claim=claim.name,
        claim_hash=claim.hash,
        code_hash=subject.code_hash,
        root=root,
        arm=arm,
        time_limit=claim.time_limit,
        cap=claim.cap,
    )
