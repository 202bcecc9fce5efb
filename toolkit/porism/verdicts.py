"""Verdicts: derived from records, never edited; kept in append-only files beside the paper."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from porism.claims import Claim
from porism.errors import PorismError
from porism.home import writing
from porism.records import Arm, Record, RecordWarning, append_whole
from porism.stats import SignTest, anytime_median_interval

VERSION = 1

# What each rung may say; the first is what a claim hopes for. `void`: the control passed as well.
OUTCOMES: Mapping[str, tuple[str, ...]] = {
    "proved": ("proved", "refuted", "undecided", "void"),
    "always": ("unrefuted", "refuted", "inconclusive", "void"),
    "typically": ("holds", "refuted", "inconclusive", "void"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """What the records of one arm say.

    ``effect`` with ``low`` and ``high`` is the median with its 90 % anytime-valid interval for ``typically``
    claims, and the smallest effect seen for the others; None stands for an infinite or missing number.
    """

    outcome: str
    cases: int = 0
    errors: int = 0
    positive: int = 0
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    e_value: float | None = None
    counterexample: Mapping[str, Any] | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of one claim, with everything needed to read it alone."""

    paper: str
    claim: str
    hash: str
    code_hash: str
    root: int
    wording: Mapping[str, Any]
    where: str
    scale: str
    outcome: str
    reason: str
    main: ArmSummary
    control: ArmSummary | None
    seconds: float
    environment: str

    @property
    def rung(self) -> str:
        """``proved``, ``always`` or ``typically``."""
        return str(self.wording["rung"])

    @property
    def summary(self) -> str:
        """Outcome, reason, effect with interval, e-value and provenance in one line."""
        main = self.main
        effect = "" if main.effect is None else f"; effect {main.effect:.4g}"
        if main.e_value is not None:
            ends = (("-inf", main.low), ("inf", main.high))
            low, high = (missing if end is None else f"{end:.4g}" for missing, end in ends)
            effect += f" [{low}, {high}], e {main.e_value:.3g}"
        return f"{self.outcome}: {self.reason}{effect}; root {self.root}, code {self.code_hash}, {self.environment}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the format's version."""
        return {"v": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Verdict:
        """The inverse of :meth:`to_json`."""
        values = {name: value for name, value in fields.items() if name != "v"}
        if unknown := values.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
        return msgspec.convert(values, cls)


def judge(claim: Claim, records: Sequence[Record], *, paper: str, code_hash: str, root: int) -> Verdict | None:
    """Derive the verdict of a claim from its records, or None while it is not settled."""
    own = current(claim, records, code_hash=code_hash, root=root)
    main = summarise(claim, own, "main")
    control = summarise(claim, own, "control") if claim.control is not None else None
    if main is None or (claim.control is not None and control is None):
        return None
    outcome, reason = _conclude(claim, main, control)
    return Verdict(
        paper=paper,
        claim=claim.name,
        hash=claim.hash,
        code_hash=code_hash,
        root=root,
        wording=claim.wording,
        where=claim.where,
        scale=claim.scale,
        outcome=outcome,
        reason=reason,
        main=main,
        control=control,
        seconds=round(sum(r.seconds for r in own), 3),
        environment=next((r.environment for r in own if r.environment), ""),
    )


def current(claim: Claim, records: Iterable[Record], *, code_hash: str, root: int) -> list[Record]:
    """The records of a claim as it is now: same wording, same code, same root seed.

    A counterexample refutes whichever root it was found under.
    """
    name, wording = claim.name, claim.hash
    return [
        r
        for r in records
        if r.claim == name
        and r.claim_hash == wording
        and r.code_hash == code_hash
        and (r.root == root or (r.arm == "main" and r.values.get("counterexamples")))
    ]


def summarise(claim: Claim, records: Iterable[Record], arm: Arm) -> ArmSummary | None:
    """Summary of one arm, or None while it is not settled."""
    if claim.rung == "typically":
        return _sampled(claim, replicates(claim, records, arm))
    return _searched(claim, [r for r in records if r.arm == arm])


def replicates(claim: Claim, records: Iterable[Record], arm: Arm) -> list[Record]:
    """Replicates 0, 1, 2, ... of an arm up to the first that is missing, without those at other parameters."""
    point = claim.arm(arm)
    by_number = {r.case: r for r in records if (r.arm, r.parameters) == (arm, point) and r.status != "end"}
    ordered: list[Record] = []
    while len(ordered) in by_number:
        ordered.append(by_number[len(ordered)])
    return ordered


def succeeded(claim: Claim, record: Record) -> bool:
    """Whether a replicate or case came out as claimed.

    A failed one counts against the verdict: it is no success of the claim, and none of its control's failures.
    """
    if record.effect is None:
        return record.arm == "control"
    return record.effect > claim.at_least


def _sampled(claim: Claim, records: list[Record]) -> ArmSummary | None:
    test = SignTest.of((succeeded(claim, r) for r in records), cap=claim.cap)
    if test.outcome is None:
        return None
    used = records[: test.trials]
    failed = [r for r in used if r.status != "ok"]
    effects = [r.effect if r.effect is not None else math.copysign(math.inf, succeeded(claim, r) - 0.5) for r in used]
    low, high = anytime_median_interval(effects)
    crashed = len(failed) == len(used)
    return ArmSummary(
        outcome="inconclusive" if crashed else test.outcome,
        cases=test.trials,
        errors=len(failed),
        positive=test.successes,
        effect=_finite(sorted(effects)[len(effects) // 2] if len(effects) % 2 else _middle(effects)),
        low=_finite(low),
        high=_finite(high),
        e_value=test.e_value,
        note=f"every replicate failed: {failed[0].note}" if crashed else failed[0].note if failed else "",
    )


def _searched(claim: Claim, records: list[Record]) -> ArmSummary | None:
    end = end_of_search(claim, records)
    symbolic = next((r for r in records if r.status == "symbolic"), None)
    if end is None or (claim.rung == "proved" and symbolic is None):
        return None
    cases = [r for r in records if r.status not in ("end", "symbolic")]
    effects = [r.effect for r in cases if r.effect is not None]
    errors = len(cases) - len(effects)
    found = bool(end.values["counterexamples"])
    if cases and not effects:
        outcome, note = "inconclusive", f"every case failed: {cases[0].note}"
    elif found:
        outcome, note = "refuted", end.note
    elif end.note:
        outcome, note = "inconclusive", end.note
    elif not cases or not end.values["cases"]:
        outcome, note = "inconclusive", "no case drawn satisfied the claim's assumptions"
    else:
        outcome, note = "unrefuted", ""
    if symbolic is not None and outcome != "refuted":
        answer = symbolic.note.partition(":")[0]
        outcome = answer if outcome == "unrefuted" or answer == "refuted" else "undecided"
        note = note or (symbolic.note if answer == "undecided" else "")
    return ArmSummary(
        outcome=outcome,
        cases=int(end.values["cases"]),
        errors=errors,
        positive=sum(succeeded(claim, r) for r in cases),
        effect=None if claim.rung == "proved" else min(effects, default=None),
        counterexample=counterexample_of(end) if found else None,
        note=note,
    )


def end_of_search(claim: Claim, records: Iterable[Record]) -> Record | None:
    """The end that counts: one with a counterexample, else one of a search as long as the claim asks for."""
    ends = [r for r in records if r.status == "end"]
    full = [r for r in ends if r.values["counterexamples"] or r.values["cap"] >= claim.cap]
    # The last names decide between equals, so that the order of shards does not.
    return max(full, key=lambda r: (r.values["counterexamples"], r.values["cases"], -r.root, r.to_line()), default=None)


def counterexample_of(end: Record) -> dict[str, Any]:
    """The counterexample that a search ended with, and the root of its random numbers."""
    root = int(end.values.get("root", end.root))
    return {"parameters": dict(end.parameters), "case": end.case, "root": root, "note": end.note}


def _conclude(claim: Claim, main: ArmSummary, control: ArmSummary | None) -> tuple[str, str]:
    """The verdict's outcome and one sentence why."""
    if control is not None and main.outcome == OUTCOMES[claim.rung][0]:
        if claim.rung == "typically" and control.outcome == "holds":
            return "void", "the control holds too, so the claim does not measure the method"
        if claim.rung != "typically" and control.outcome != "refuted":
            return "void", f"the control was not refuted in {control.cases} cases, so the search has no teeth"
        if control.errors == control.cases:
            return "void", f"the control does not run ({control.note}), so it controls nothing"
    if claim.rung == "typically":
        errors = f", {main.errors} failed" if main.errors else ""
        reason = f"{main.positive} of {main.cases} replicates above {claim.at_least:g}{errors}"
        return main.outcome, f"{reason}; {main.note}" if main.note else reason
    if main.counterexample is not None:
        at = ", ".join(f"{k}={v}" for k, v in main.counterexample["parameters"].items())
        return main.outcome, f"{main.note} at {at} (case {main.counterexample['case']})"
    reason = f"no counterexample in {main.cases} cases"
    return main.outcome, f"{reason}; {main.note}" if main.note else reason


def _middle(effects: list[float]) -> float:
    ordered = sorted(effects)
    half = len(ordered) // 2
    return (ordered[half - 1] + ordered[half]) / 2


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def verdict_file(paper_file: Path) -> Path:
    """The committed verdicts of a paper stand beside its file."""
    return paper_file.with_name(f"{paper_file.stem}.verdicts.jsonl")


def read_verdicts(path: Path, *, strict: bool = True) -> list[Verdict]:
    """Every verdict of a file, oldest first.

    Raises
    ------
    PorismError
        If a line is damaged or written by a newer version: committed verdicts are never guessed at. With
        ``strict=False``, for files that can be derived again, such a line is skipped with a warning.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PorismError(f"cannot read {path}: {error.strerror}") from error
    verdicts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if fields["v"] > VERSION:
                raise ValueError(f"written by a newer porism, format {fields['v']}")
            verdicts.append(Verdict.from_json(fields))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problem = " ".join(f"{path}:{number} is not a verdict ({error})".split())
            if strict:
                raise PorismError(problem) from error
            warnings.warn(f"{problem}; skipped", RecordWarning, stacklevel=2)
    return verdicts


def latest(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    """The last verdict of each claim by name."""
    return {verdict.claim: verdict for verdict in verdicts}


def append_verdicts(path: Path, verdicts: Iterable[Verdict], *, strict: bool = True) -> int:
    """Append, in one write, those verdicts that say something new of their claim; return how many."""
    last = {(v.claim, v.root): v for v in read_verdicts(path, strict=strict)}
    new = [v for v in verdicts if _said(v) != _said(last.get((v.claim, v.root)))]
    lines = "".join(json.dumps(v.to_json(), separators=(",", ":")) + "\n" for v in new)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            append_whole(file, ("\n" * cut_off + lines).encode())
        finally:
            os.close(file)
    return len(new)


def _said(verdict: Verdict | None) -> tuple[Any, ...] | None:
    if verdict is None:
        return None
    return (verdict.hash, verdict.code_hash, verdict.root, verdict.outcome, verdict.main, verdict.control)
