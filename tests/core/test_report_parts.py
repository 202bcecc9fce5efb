"""The report's pure parts: text, drawings, rows, and what happens to a paper that fails."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from porism.check import Subject, check
from porism.errors import MissingExtraError, PorismError
from porism.explore import explore
from porism.registry import BrokenPaperError
from porism.report import build_report
from porism.report.intervals import Axis, in_words, interval
from porism.report.prose import number, paragraphs
from porism.report.rows import STATUSES, Overview, changes, command, history, papers_to_show
from porism.verdicts import OUTCOMES, ArmSummary, Verdict, append_verdicts, verdict_file

FINITE = st.floats(-1e6, 1e6)


def verdict_of(subject: Subject, claim: str, **fields: object) -> Verdict:
    """A verdict that fits the claim as it is, but for the fields given."""
    declared = subject.loaded.claims[claim]
    made = Verdict(
        paper="toy",
        claim=claim,
        hash=declared.hash,
        code_hash=subject.code_hash,
        root=0,
        wording=declared.wording,
        where=declared.where,
        scale=declared.scale,
        outcome="holds",
        reason="7 of 7 replicates above 0.1",
        main=ArmSummary(outcome="holds", cases=7, positive=7, effect=1.0, low=0.9, high=1.1, e_value=31.875),
        control=ArmSummary(outcome="refuted", cases=7, effect=0.0, e_value=0.125),
        seconds=1.0,
        environment="porism",
    )
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_keeps_three_digits_and_its_sign(value: float) -> None:
    text = number(value)
    mantissa, _, power = text.replace("−", "-").rpartition("\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}")
    plain = (mantissa or power).translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    if mantissa:
        exponent = power.removeprefix("10").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        assert math.isclose(float(f"{plain}e{exponent}"), value, rel_tol=5.1e-3)
    elif not re.search("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]", text):
        assert math.isclose(float(plain), value, rel_tol=5.1e-3)
    assert text.startswith("−") == (value < 0 or str(value).startswith("-"))


@given(st.text())
@example("*a* <script>alert(1)</script> ``<b>``\n\n    <i>")
def test_a_docstring_never_becomes_markup(text: str) -> None:
    html = paragraphs(text)
    assert set(re.findall(r"</?(\w+)", html)) <= {"p", "pre", "ul", "li", "h3", "code", "em", "strong"}
    assert "<script" not in html


def test_docstrings_keep_their_shape() -> None:
    html = paragraphs(
        "Title: *one* & ``a < b``.\n\nStep::\n\n    x = y\n\n    z\n\nNotes\n-----\n- first\n  line\n- :func:`~m.f`\n"
    )
    assert html.splitlines() == [
        "<p>Title: <em>one</em> &amp; <code>a &lt; b</code>.</p>",
        "<p>Step:</p>",
        "<pre>x = y",
        "",
        "z</pre>",
        "<h3>Notes</h3>",
        "<ul><li>first",
        "  line</li><li><code>m.f</code></li></ul>",
    ]


@given(FINITE, FINITE, FINITE, FINITE)
def test_everything_drawn_lies_inside_the_drawing(low: float, effect: float, high: float, at_least: float) -> None:
    low, effect, high = sorted([low, effect, high])
    arm = ArmSummary(outcome="holds", effect=effect, low=low, high=high)
    drawing = interval(arm, Axis.over([arm], at_least))
    positions = [float(x) for x in re.findall(r'(?:x1|x2|cx)="([-\d.]+)%"', drawing)]
    assert len(positions) in (5, 7)  # zero, bar, dot, and a threshold unless it is zero itself
    assert all(0 <= x <= 100 for x in positions)
    bar = re.search(r'class="bar" x1="([\d.]+)%" x2="([\d.]+)%"', drawing)
    dot = re.search(r'cx="([\d.]+)%"', drawing)
    assert bar
    assert dot
    assert float(bar[1]) <= float(dot[1]) <= float(bar[2])


def test_an_interval_without_an_end_runs_to_the_edge_and_says_so() -> None:
    arm = ArmSummary(outcome="inconclusive", effect=0.5, high=1.0)
    assert 'class="bar" x1="0%"' in interval(arm, Axis.over([arm], 0.0))
    assert in_words(arm) == "0.5 (−∞ to 1)"
    assert in_words(ArmSummary(outcome="refuted")) == "—"


def test_every_outcome_has_a_tone_and_an_icon() -> None:
    icons = (Path(__file__).parents[2] / "toolkit/porism/report/templates/_macros.html").read_text()
    for status in {outcome for outcomes in OUTCOMES.values() for outcome in outcomes} | {"stale", "not checked"}:
        assert status in STATUSES
        assert f'id="i-{status.replace(" ", "-")}"' in icons


def test_changes_name_each_part() -> None:
    before = {"text": "A", "at_least": 0.3, "control": None, "ranges": {"n": "int", "m": "int"}}
    after = {"text": "A", "at_least": 0.1, "control": {"n": 1}, "ranges": {"n": "float"}}
    found = {change.part: (change.before, change.after) for change in changes(before, after)}
    assert found == {
        "at_least": ("0.3", "0.1"),
        "control": ("none", "{'n': 1}"),
        "range of n": ("int", "float"),
        "range of m": ("int", "none"),
    }
    assert changes(after, after) == ()


def test_history_has_one_stage_a_hash(toy: str) -> None:
    subject = Subject.of(toy)
    claim = subject.loaded.claims["shift_helps"]
    old_wording = {**claim.wording, "at_least": 0.5}
    old = verdict_of(subject, "shift_helps", hash="0" * 12, wording=old_wording, outcome="inconclusive")
    again = dataclasses.replace(old, outcome="refuted")
    stages = history([old, again, verdict_of(subject, "shift_helps")], claim)
    assert [stage.outcome for stage in stages] == ["refuted", "holds"]
    assert [change.part for change in stages[1].changes] == ["at_least"]
    assert [stage.outcome for stage in history([old], claim)] == ["inconclusive", "not checked"]
    assert history([], claim) == ()


def test_rows_show_which_verdict_counts(toy: str) -> None:
    subject = Subject.of(toy)
    append_verdicts(verdict_file(Path(toy)), [verdict_of(subject, "shift_helps")])
    append_verdicts(subject.verdict_file, [verdict_of(subject, "binomial", hash="0" * 12, outcome="proved")])
    (page,), broken = papers_to_show([toy])
    rows = {row.claim.name: row for row in page.rows}
    assert broken == []
    assert (rows["shift_helps"].status, rows["shift_helps"].committed) == ("holds", True)
    assert (rows["binomial"].status, rows["binomial"].verdict) == ("stale", None)
    assert rows["binomial"].outdated is not None
    assert rows["below_fifty"].status == "not checked"
    assert rows["shift_helps"].control == ("good", "fails")


def test_only_verdicts_that_count_enter_the_false_discovery_rate(toy: str) -> None:
    subject = Subject.of(toy)

    def overview(**fields: object) -> Overview:
        append_verdicts(subject.verdict_file, [verdict_of(subject, "shift_helps", **fields)])
        (page,), _ = papers_to_show([toy])
        return Overview.of(page.rows)

    good = overview()
    assert (good.tested, good.survivors) == (1, 1)
    assert [row.claim.name for row in good.rows if good.survives(row)] == ["shift_helps"]
    weak = overview(main=ArmSummary(outcome="holds", cases=7, e_value=19.0))
    assert (weak.tested, weak.survivors) == (1, 0)
    assert not any(map(weak.survives, weak.rows))
    void = overview(outcome="void")
    assert (void.tested, void.survivors) == (1, 0)
    assert not any(map(void.survives, void.rows))
    stale = overview(hash="0" * 12)
    assert (stale.tested, stale.survivors, stale.counts["stale"]) == (0, 0, 1)


LIFTED = """

@typically("It is lifted", where="Sec. 5", control={"on": False}, at_least=0.1)
def lifted(rng, *, height: Annotated[int, Interval(ge=1, le=3)] = 2, on: bool = True):
    return (height if on else 0) + 0.01 * rng.normal()
"""


def test_the_page_says_where_exploring_found_an_effect_weakest(toy: str, tmp_path: Path) -> None:
    with Path(toy).open("a") as file:
        file.write(LIFTED)
    subject = Subject.of(toy)
    (page,), _ = papers_to_show([toy])
    assert {row.weakest for row in page.rows} == {None}
    explore(subject, cases=60, jobs=1)
    build_report(tmp_path / "report", [toy])
    text = " ".join(re.sub("<[^>]+>", "", (tmp_path / "report/papers/toy.html").read_text()).split())
    assert re.search(
        r"Of 3 points that .* the effect was smallest at height=1, on=True\. Judged there on \d+ fresh", text
    )
    assert re.search(r"fresh replicates: holds, median effect (0\.99|1|1\.0)\d* \(", text)


def test_the_command_of_a_counterexample_can_be_run(toy: str) -> None:
    from click.testing import CliRunner

    from porism.cli import app

    check([Subject.of(toy)], engine="serial", jobs=1)
    (page,), _ = papers_to_show([toy])
    (row,) = [row for row in page.rows if row.reproduce]
    program, *arguments = row.reproduce.split()
    ran = CliRunner().invoke(app, arguments)
    assert (program, ran.exit_code) == ("porism", 0), ran.output
    assert re.search(r"^effect\t-?0$", ran.output, re.M), ran.output


def test_the_seed_is_named_where_it_is_not_the_usual_one() -> None:
    assert command("toy.small", {}, case=1, root=0) == "porism run toy.small --case 1"
    assert command("toy.small", {}, case=1, root=5) == "porism run toy.small --case 1 --seed 5"


@pytest.mark.parametrize("line", ["import no_such_module", "raise SystemExit(3)", "1 / 0"])
def test_a_paper_that_fails_to_import_is_a_page(toy: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(toy).write_text(Path(toy).read_text() + f"\n{line}\n")
    (page,), _ = papers_to_show([toy])
    assert page.problem
    assert line in page.details
    monkeypatch.setenv("PORISM_STRICT", "1")
    with pytest.raises((ModuleNotFoundError, SystemExit, ZeroDivisionError, BrokenPaperError)):
        papers_to_show([toy])


def test_damaged_verdicts_break_their_paper_only(toy: str) -> None:
    verdict_file(Path(toy)).write_text("{}\n")
    (page,), _ = papers_to_show([toy])
    assert "is not a verdict" in page.problem


def test_two_files_with_one_key_are_both_named(toy: str, tmp_path: Path) -> None:
    (tmp_path / "twin.py").write_text(Path(toy).read_text())
    pages, (broken,) = papers_to_show([toy, str(tmp_path / "twin.py"), toy])
    assert len(pages) == 1
    assert toy in broken.reason
    assert "twin.py" in broken.where


def test_what_is_not_a_paper_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("PAPER = (")
    pages, (broken,) = papers_to_show([str(tmp_path / "half.py")])
    assert pages == []
    assert "never closed" in broken.reason
    assert "SyntaxError" in broken.details
    with pytest.raises(PorismError, match="no paper 'no_such_key'"):
        papers_to_show(["no_such_key"])


def test_the_report_says_which_extra_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("porism.report.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'porism\[plots\]'"):
        build_report(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(toy: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PorismError, match="cannot write"):
        build_report(tmp_path / "file", [toy])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").write_text("in the way")
    with pytest.raises(PorismError, match="cannot write"):
        build_report(tmp_path / "out", [toy])
