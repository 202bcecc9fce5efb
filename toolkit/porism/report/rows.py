"""What the pages show, derived from papers and their verdicts: plain values, no HTML."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shlex
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from porism.check import Subject
from porism.claims import Claim
from porism.errors import PorismError
from porism.explore import Weakest, explored_weakest
from porism.ledger import FDR, current_verdicts, summarise_ledger
from porism.paper import Paper
from porism.parameters import Value
from porism.registry import BrokenPaperError, find, listing
from porism.scan import Broken, Entry
from porism.seeds import ROOT
from porism.verdicts import ArmSummary, Verdict

# What a row may say, in the order of the headline, with the tone of its colour and one line of explanation.
STATUSES: Mapping[str, tuple[str, str]] = {
    "proved": ("good", "computer algebra decided it, and sampling agrees"),
    "holds": ("good", "the median replicate has the effect, at an e-value of 20 or more"),
    "unrefuted": ("good", "a search over the whole range found no counterexample; that is not a proof"),
    "inconclusive": ("open", "the replicates or cases allowed did not settle it"),
    "undecided": ("open", "computer algebra found neither a proof nor a refutation"),
    "void": ("void", "the control passes as well, so the check does not measure the method"),
    "refuted": ("bad", "it failed here: with a counterexample, or for the median replicate"),
    "stale": ("none", "its wording or its code changed after the last verdict"),
    "not checked": ("none", "no verdict yet"),
}

RUNGS: Mapping[str, str] = {
    "proved": "Decided by computer algebra for every value in the ranges, then sampled numerically.",
    "always": "Must be true at every point of the ranges: a search, steered towards small margins, tries to break it.",
    "typically": "Must be true of the median random replicate: replicates with fresh seeds run until a sequential "
    "sign test settles the claim either way.",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One part of a claim's wording that is not what it was."""

    part: str
    before: str
    after: str


@dataclasses.dataclass(frozen=True, slots=True)
class Revision:
    """A claim as it once stood: what had changed since the one before, and what came of it."""

    outcome: str
    changes: tuple[Change, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRow:
    """A claim with the verdict that counts for it, if there is one.

    ``status`` is one of :data:`STATUSES`. ``verdict`` is None unless it is about the claim as it stands now;
    ``outdated`` is the last one otherwise. ``elsewhere`` are those under other root seeds that came out otherwise,
    ``weakest`` is where exploring found a ``typically`` claim weakest.
    """

    subject: Subject
    claim: Claim
    status: str
    verdict: Verdict | None
    outdated: Verdict | None
    committed: bool
    elsewhere: tuple[Verdict, ...]
    weakest: Weakest | None
    history: tuple[Revision, ...]

    @property
    def key(self) -> str:
        """The paper's key, or the path of its file, as it was given."""
        return self.subject.key

    @property
    def paper(self) -> Paper:
        """The paper that makes the claim."""
        return self.subject.loaded.paper

    @property
    def anchor(self) -> str:
        """Where on its paper's page the claim stands."""
        return f"claim-{self.claim.name}"

    @property
    def control(self) -> tuple[str, str] | None:
        """Tone and word for the control, which should fail."""
        arm = self.verdict.control if self.verdict else None
        if arm is None:
            return None
        if arm.outcome == "refuted":
            return "good", "fails"
        return ("bad", "passes") if self.claim.rung != "typically" or arm.outcome == "holds" else ("open", "unsettled")

    @property
    def arms(self) -> list[ArmSummary]:
        """The method's arm and the control's, as far as there are any."""
        return [arm for arm in (self.verdict.main, self.verdict.control) if arm] if self.verdict else []

    @property
    def control_changes(self) -> list[Change]:
        """What the control switches."""
        usual = self.claim.parameters
        return [Change(n, str(usual[n].default), str(v)) for n, v in (self.claim.control or {}).items() if n in usual]

    @property
    def stale_changes(self) -> tuple[Change, ...]:
        """What changed in the wording since the outdated verdict."""
        return changes(self.outdated.wording, self.claim.wording) if self.outdated else ()

    @property
    def reproduce(self) -> str:
        """The command that runs the counterexample again."""
        verdict = self.verdict
        if verdict is None or verdict.main.counterexample is None:
            return ""
        example = verdict.main.counterexample
        name = f"{self.key}.{self.claim.name}"
        return command(name, example["parameters"], case=example["case"], root=example["root"])


@dataclasses.dataclass(slots=True)
class PaperPage:
    """A paper with its claims, or with the reason why it cannot be loaded."""

    key: str
    paper: Paper
    subject: Subject | None = None
    rows: list[ClaimRow] = dataclasses.field(default_factory=list)
    problem: str = ""
    details: str = ""

    @property
    def href(self) -> str:
        """The page's address from the report's folder."""
        return f"papers/{self.paper.key}.html"


@dataclasses.dataclass(frozen=True, slots=True)
class Overview:
    """All claims together; ``threshold`` is the e-value from which a ``typically`` claim survives e-BH."""

    rows: list[ClaimRow]
    counts: dict[str, int]
    tested: int
    survivors: int
    threshold: float

    @classmethod
    def of(cls, rows: Sequence[ClaimRow]) -> Overview:
        """Count every status, and sum up the verdicts that count."""
        counted = Counter(row.status for row in rows)
        summary = summarise_ledger([row.verdict for row in rows if row.verdict is not None])
        # e-BH keeps the k largest of m where the k-th is at least m / (FDR k).
        threshold = summary.tested / (FDR * summary.survivors) if summary.survivors else math.inf
        counts = {status: counted[status] for status in STATUSES if counted[status]}
        return cls(list(rows), counts, summary.tested, summary.survivors, threshold)

    def survives(self, row: ClaimRow) -> bool:
        """Whether a claim is among those that e-BH keeps."""
        verdict = row.verdict
        if verdict is None or verdict.main.e_value is None or verdict.outcome == "void":
            return False
        return verdict.main.e_value >= self.threshold


def papers_to_show(keys: Sequence[str] | None) -> tuple[list[PaperPage], list[Broken]]:
    """Load every paper asked for; one that fails comes back with its reason.

    Raises
    ------
    PorismError
        If a key is unknown.
    """
    found, broken = _found(keys)
    pages: dict[str, PaperPage] = {}
    for key, entry in found:
        other = pages.get(entry.paper.key)
        if other is None:
            pages[entry.paper.key] = _page(key, entry.paper)
        elif find(other.key).path != entry.path:
            broken.append(Broken(key, f"key {entry.paper.key!r} is also claimed by {other.key}", entry.paper.key))
    return list(pages.values()), broken


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """The parts of a claim's wording that differ; none if only its code does.

    Examples
    --------
    >>> changes({"at_least": 0.1, "ranges": {}}, {"at_least": 0.0, "ranges": {}})
    (Change(part='at_least', before='0.1', after='0.0'),)
    """
    old, new = _flat(before), _flat(after)
    return tuple(
        Change(part, old.get(part, "none"), new.get(part, "none"))
        for part in dict.fromkeys([*old, *new])
        if old.get(part) != new.get(part)
    )


def command(claim: str, parameters: Mapping[str, Value], *, case: int, root: int) -> str:
    """The shell command that runs one case of a claim.

    Examples
    --------
    >>> command("toy.small", {"sample_size": 50, "name": "a b"}, case=3, root=0)
    "porism run toy.small --case 3 --sample-size 50 --name 'a b'"
    """
    given = {"case": case} | ({"seed": root} if root != ROOT else {}) | dict(parameters)
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return shlex.join(["porism", "run", claim, *flags])


def history(verdicts: Iterable[Verdict], claim: Claim) -> tuple[Revision, ...]:
    """How the claim was worded in its committed verdicts, oldest first, and as it stands now."""
    own = [verdict for verdict in verdicts if verdict.claim == claim.name]
    stages = [list(same)[-1] for _, same in itertools.groupby(own, key=lambda verdict: verdict.hash)]
    wordings = [(stage.outcome, stage.wording) for stage in stages]
    if stages and stages[-1].hash != claim.hash:
        wordings.append(("not checked", claim.wording))
    first = [Revision(outcome, ()) for outcome, _ in wordings[:1]]
    later = [Revision(b[0], changes(a[1], b[1])) for a, b in itertools.pairwise(wordings)]
    return (*first, *later)


def _found(keys: Sequence[str] | None) -> tuple[list[tuple[str, Entry]], list[Broken]]:
    if keys is None:
        listed = listing()
        return list(listed.entries.items()), list(listed.broken)
    found, broken = [], []
    for key in keys:
        try:
            found.append((key, find(key)))
        except BrokenPaperError as error:
            broken.append(Broken(key, str(error), key, error.details))
    return found, broken


def _page(key: str, paper: Paper) -> PaperPage:
    try:
        subject = Subject.of(key)
        return PaperPage(key, paper, subject, list(_rows(subject)))
    except (Exception, SystemExit) as error:
        if os.environ.get("PORISM_STRICT") == "1":
            raise
        if isinstance(error, PorismError):
            return PaperPage(key, paper, problem=str(error), details=getattr(error, "details", ""))
        return PaperPage(key, paper, problem=f"{type(error).__name__}: {error}", details=traceback.format_exc())


def _rows(subject: Subject) -> Iterator[ClaimRow]:
    committed, weakest = subject.committed(), explored_weakest(subject)
    for row in current_verdicts(subject):
        stale = row.state == "stale"
        yield ClaimRow(
            subject=subject,
            claim=row.claim,
            status=row.state,
            verdict=None if stale else row.verdict,
            outdated=row.verdict if stale else None,
            committed=row.committed,
            elsewhere=row.elsewhere,
            weakest=weakest.get(row.claim.name),
            history=history(committed, row.claim),
        )


def _flat(wording: Mapping[str, Any]) -> dict[str, str]:
    """The parts of a wording as text, one an item; each range for itself."""
    parts = {name: str(value) for name, value in wording.items() if name != "ranges" and value is not None}
    return parts | {f"range of {name}": str(value) for name, value in wording.get("ranges", {}).items()}
