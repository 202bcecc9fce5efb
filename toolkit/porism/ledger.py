"""The ledger: the verdict that counts for each claim now, and what all of them together say."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from porism.check import Subject
from porism.claims import Claim
from porism.seeds import ROOT
from porism.stats import e_bh
from porism.verdicts import Verdict, latest, read_verdicts

FDR = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A claim with its last verdict.

    ``state`` is the verdict's outcome, ``stale`` where wording or code changed since, or ``not checked``.
    ``committed`` says that the verdict shipped with the paper. ``elsewhere`` are the verdicts under other root seeds
    that came out otherwise, for the same wording and code.
    """

    subject: Subject
    claim: Claim
    verdict: Verdict | None
    state: str
    committed: bool
    elsewhere: tuple[Verdict, ...] = ()


def current_verdicts(subject: Subject) -> list[Row]:
    """One row a claim: the project's own verdict if it fits the claim as it is now, else the committed one.

    Only verdicts under the default root seed count, so that trying other seeds changes nothing here.
    """
    found, committed = read_verdicts(subject.verdict_file, strict=False), subject.committed()
    own = latest(v for v in found if v.root == ROOT)
    shipped = latest(v for v in committed if v.root == ROOT)
    rows = []
    for claim in subject.loaded.claims.values():
        candidates = [v for v in (own.get(claim.name), shipped.get(claim.name)) if v is not None]
        fitting = [v for v in candidates if (v.hash, v.code_hash) == (claim.hash, subject.code_hash)]
        verdict = next(iter([*fitting, *candidates]), None)
        state = "not checked" if verdict is None else verdict.outcome if fitting else "stale"
        is_shipped = verdict is not None and verdict is shipped.get(claim.name)
        elsewhere = _elsewhere([*committed, *found], verdict) if verdict is not None and fitting else ()
        rows.append(Row(subject, claim, verdict, state, is_shipped, elsewhere))
    return rows


def _elsewhere(verdicts: Sequence[Verdict], counts: Verdict) -> tuple[Verdict, ...]:
    same = ("claim", "hash", "code_hash")
    others = [v for v in verdicts if all(getattr(v, name) == getattr(counts, name) for name in same)]
    by_root = {v.root: v for v in others if v.root != counts.root}
    return tuple(v for _, v in sorted(by_root.items()) if v.outcome != counts.outcome)


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A claim whose verdict is not what the ledger that ships with its paper says.

    ``kind`` is ``contradiction`` (the same claim under the same root seed), ``disagreement`` (the same claim under
    another root seed), ``restated`` (wording or source of the claim changed since), ``new`` or ``gone``.
    """

    kind: str
    before: Verdict | None
    now: Verdict | None

    @property
    def name(self) -> str:
        """``paper.claim``."""
        verdict = self.now or self.before
        return f"{verdict.paper}.{verdict.claim}" if verdict else ""

    @property
    def alarming(self) -> bool:
        """Whether a reader must be told: nothing that was said of the claim explains it."""
        return self.kind in ("contradiction", "disagreement")

    @property
    def sentence(self) -> str:
        """The difference in words."""
        before, now = self.before, self.now
        if now is None:
            return f"gone: {self.name} was committed as {before.outcome if before else '?'} and is no claim any more"
        if before is None:
            return f"new: {self.name} {now.outcome}"
        seed = f" under root seed {now.root}" if self.kind == "disagreement" else ""
        return f"{self.kind}: {self.name} was committed as {before.outcome}, is now {now.outcome}{seed}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, both verdicts whole."""
        sides = {"before": self.before, "now": self.now}
        return {"kind": self.kind, "claim": self.name} | {name: v and v.to_json() for name, v in sides.items()}

    @property
    def records(self) -> list[str]:
        """What both verdicts rest on, a line each."""
        named = (("before", self.before), ("now", self.now))
        return [f"{name}: {verdict.summary}" for name, verdict in named if verdict is not None]


def differences(subjects: Sequence[Subject], verdicts: Sequence[Verdict]) -> list[Difference]:
    """What new verdicts of these papers change against the verdicts that ship with them."""
    found = []
    for subject in subjects:
        key = subject.loaded.paper.key
        committed = latest(v for v in subject.committed() if v.root == ROOT)
        now = {v.claim: v for v in verdicts if v.paper == key}
        for name in {**committed, **now}:
            kind = _difference(
                committed.get(name), now.get(name), isinstance(getattr(subject.loaded.module, name, None), Claim)
            )
            if kind:
                found.append(Difference(kind, committed.get(name), now.get(name)))
    return found


def _difference(before: Verdict | None, now: Verdict | None, there: bool) -> str:
    if before is None:
        return "new"
    if now is None:
        return "" if there else "gone"
    if before.outcome == now.outcome:
        return ""
    if before.hash != now.hash:
        return "restated"
    return "contradiction" if before.root == now.root else "disagreement"


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """A ledger in numbers.

    ``survivors`` of the ``tested`` sampled claims are discoveries by e-BH at a false-discovery rate of 5 %.
    """

    outcomes: dict[str, int]
    tested: int
    survivors: int


def summarise_ledger(verdicts: Sequence[Verdict]) -> Summary:
    """Count outcomes and apply e-BH to every ``typically`` verdict; a void one is no evidence."""
    sampled = [v for v in verdicts if v.rung == "typically"]
    e_values = [0.0 if v.outcome == "void" or v.main.e_value is None else v.main.e_value for v in sampled]
    survivors = int(e_bh(e_values, FDR).sum()) if e_values else 0
    return Summary(dict(Counter(v.outcome for v in verdicts)), len(sampled), survivors)
