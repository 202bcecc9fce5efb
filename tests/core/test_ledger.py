"""The ledger: what changed against the committed verdicts, and roots that disagree."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from porism.check import Subject, check
from porism.ledger import current_verdicts, differences
from porism.report.site import write_site
from porism.verdicts import Verdict, append_verdicts, verdict_file

# Holds under root seed 0 and is refuted under root seed 1.
TWO_FACED = """
from typing import Literal
from porism import Paper, typically
PAPER = Paper(key="two", title="Two", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")
ZERO = ZEROS


@typically("It depends", where="S", control={"method": "off"})
def depends(rng, *, method: Literal["on", "off"] = "on"):
    return 1.0 if method == "on" and rng.integers(2**62) in ZERO else -1.0


@typically("It is so", where="S", control={"method": "off"})
def steady(rng, *, method: Literal["on", "off"] = "on"):
    return 1.0 if method == "on" else -1.0
"""


@pytest.fixture
def two(tmp_path: Path) -> Subject:
    from porism.seeds import generator

    zeros = {int(generator(0, "two", "depends", case).integers(2**62)) for case in range(9)}
    path = tmp_path / "two.py"
    path.write_text(TWO_FACED.replace("ZEROS", repr(zeros)))
    return Subject.of(str(path))


def checked(subject: Subject, root: int = 0) -> list[Verdict]:
    return check([subject], engine="serial", root=root)


def test_roots_that_disagree_are_shown_not_hidden(two: Subject, tmp_path: Path) -> None:
    assert [v.outcome for v in checked(two)] == ["holds", "holds"]
    assert [v.outcome for v in checked(two, root=1)] == ["refuted", "holds"]
    depends, steady = current_verdicts(two)
    assert (depends.state, [(v.root, v.outcome) for v in depends.elsewhere]) == ("holds", [(1, "refuted")])
    assert steady.elsewhere == ()
    write_site(tmp_path / "site", [two.key], print)
    page = tmp_path / "site" / "papers" / "two.html"
    text = " ".join(page.read_text().split())
    assert "Under root seed 1 it came out otherwise, <strong>refuted</strong>: 0 of 7" in text
    assert "refuted under seed 1" in (tmp_path / "site" / "index.html").read_text()


def test_a_verdict_under_another_root_is_said_again_only_when_it_changes(two: Subject) -> None:
    for root in (0, 1, 0, 1):
        checked(two, root)
    assert len(two.verdict_file.read_text().splitlines()) == 4


def test_what_changed_against_the_committed_ledger_has_a_name(two: Subject) -> None:
    verdicts = checked(two)
    file = verdict_file(Path(two.key))
    assert [d.kind for d in differences([two], verdicts)] == ["new", "new"]
    append_verdicts(file, verdicts)
    assert differences([two], verdicts) == []

    (other,) = (d for d in differences([two], checked(two, root=1)))
    assert (other.kind, other.name, other.alarming) == ("disagreement", "two.depends", True)
    assert other.sentence.endswith("was committed as holds, is now refuted under root seed 1")
    assert [line.partition(";")[0] for line in other.records] == [
        "before: holds: 9 of 9 replicates above 0",
        "now: refuted: 0 of 7 replicates above 0",
    ]

    def against(**changes: str) -> list[tuple[str, bool]]:
        now = [dataclasses.replace(verdicts[0], **changes), verdicts[1]]  # type: ignore[arg-type]
        return [(d.kind, d.alarming) for d in differences([two], now)]

    assert against(outcome="refuted") == [("contradiction", True)]
    assert against(outcome="refuted", code_hash="other") == [("contradiction", True)]
    assert against(outcome="refuted", hash="other") == [("restated", False)]
    assert against(hash="other") == []

    renamed = Path(two.key).read_text().replace("def steady", "def firm")
    Path(two.key).write_text(renamed)
    subject = Subject.of(two.key)
    assert {(d.kind, d.name) for d in differences([subject], checked(subject))} == {
        ("gone", "two.steady"),
        ("new", "two.firm"),
    }


def test_a_claim_that_was_not_asked_for_is_not_gone(two: Subject) -> None:
    append_verdicts(verdict_file(Path(two.key)), checked(two))
    one = dataclasses.replace(
        two, loaded=dataclasses.replace(two.loaded, claims={"steady": two.loaded.claims["steady"]})
    )
    assert differences([one], checked(one)) == []
