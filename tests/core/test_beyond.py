"""Leaving a theorem's ranges: where rays break, what counts as a failure, and what is kept for the next run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from test_check import subject_of

from porism.beyond import Boundary, explore_beyond
from porism.beyond_figure import render_beyond
from porism.errors import ParameterError, PorismError
from porism.home import home

CONTRACTS = """
@always("Descent contracts below 2 / L", where="Th. 1", beyond={"step": Interval(gt=0, le=5)})
def contracts(
    rng, *, step: Annotated[float, Interval(gt=0, lt=2)] = 1.0, slack: Annotated[float, Interval(ge=0, le=1)] = 0.0
) -> float:
    return 1 + slack - abs(1 - step)
"""


def test_a_ray_finds_where_the_claim_stops_and_keeps_the_others_in_their_ranges(tmp_path: Path) -> None:
    (found,) = explore_beyond(subject_of(tmp_path, CONTRACTS), rays=5, jobs=1)
    (boundary,) = found.boundaries
    assert (boundary.parameter, boundary.side, boundary.edge, boundary.limit) == ("step", "above", 2.0, 5.0)
    assert boundary.breaks[0] == 2.0  # with no slack just at the theorem's edge
    assert all(2 < value <= 3 for value in boundary.breaks[1:])
    assert len(set(boundary.breaks)) == 5
    slack = found.table["margin"][found.table["x"] == 1.25] - 0.75
    # eight halvings of a coarse step of a quarter
    np.testing.assert_allclose(np.sort(boundary.breaks), 2 + np.sort(slack), atol=0.25 / 2**8 + 1e-12)


def test_integers_are_bisected_to_the_neighbour_and_medians_decide_for_typical_claims(tmp_path: Path) -> None:
    source = """
@typically("Enough samples", where="S", control={"shift": 0.0}, beyond={"n": Interval(ge=1, le=200)})
def enough(
    rng, *, n: Annotated[int, Interval(ge=50, le=200)] = 100, shift: Annotated[float, Interval(ge=0, le=1)] = 1.0
) -> float:
    return shift * n - 30.5 + 1e-9 * rng.normal()
"""
    (found,) = explore_beyond(subject_of(tmp_path, source), rays=2, jobs=1)
    assert found.boundaries == (Boundary("enough", "n", "below", 50.0, 1.0, (30.0,)),)


def test_a_claim_that_raises_fails_and_one_that_assumes_is_skipped(tmp_path: Path) -> None:
    source = """
@always("Positive", where="S", beyond={"x": Interval(ge=-4, le=8)})
def positive(rng, *, x: Annotated[float, Interval(ge=0, le=1)] = 0.5) -> float:
    assume(x > -1)
    if x > 4:
        raise ValueError("too far")
    return 1.0
"""
    (found,) = explore_beyond(subject_of(tmp_path, source), rays=1, jobs=1)
    below, above = found.boundaries
    assert below.breaks == (math.inf,)
    assert above.breaks[0] == pytest.approx(4, abs=7 / 12 / 2**7)
    assert above.breaks[0] > 4
    assert np.isnan(found.table["margin"][found.table["x"] < -1]).all()
    assert below.sentence.endswith("holds to -4")
    assert "breaks from 4.0" in above.sentence


def test_two_parameters_get_a_map(tmp_path: Path) -> None:
    source = """
@always("Inside", where="S", beyond={"x": Interval(ge=0, le=4), "y": Interval(ge=0, le=4)})
def inside(
    rng, *, x: Annotated[float, Interval(ge=0, le=1)] = 0.5, y: Annotated[float, Interval(ge=0, le=1)] = 0.5
) -> float:
    return 4 - x * x - y * y
"""
    subject = subject_of(tmp_path, source)
    (found,) = explore_beyond(subject, rays=1, jobs=1)
    rows = found.table["side"] == "map"
    assert rows.sum() == 15 * 15
    x, y = found.table["x"][rows], found.table["y"][rows]
    np.testing.assert_array_equal(found.table["margin"][rows], 4 - x * x - y * y)
    files = render_beyond("made", found, tmp_path / "figures")
    assert files.svg.read_text().startswith("<?xml") and files.png.stat().st_size > 10_000
    before = files.svg.read_bytes()
    assert render_beyond("made", found, tmp_path / "figures").svg.read_bytes() == before


def test_what_is_finished_is_not_done_again_and_workers_change_nothing(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, CONTRACTS)
    (first,) = explore_beyond(subject, rays=3, jobs=2)
    files = sorted((home() / "tables" / "made" / "beyond").glob("*.csv"))
    assert len(files) == 3
    files[0].unlink()
    stamps = {file: file.stat().st_mtime_ns for file in files[1:]}
    (again,) = explore_beyond(subject, rays=3, jobs=1)
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == stamps
    assert again.boundaries == first.boundaries
    assert all((again.table[name] == first.table[name]).all() for name in ("parameter", "x", "margin"))


@pytest.mark.parametrize(
    ("beyond", "message"),
    [
        ("{'depth': Interval(ge=0, le=9)}", "beyond must name parameters with a range, got 'depth'"),
        ("{'step': Interval(ge=0.5, le=1)}", "beyond must widen the range of step, to finite bounds"),
        ("{'step': Interval(gt=0)}", "beyond must widen the range of step, to finite bounds"),
        ("{'a': 1, 'b': 2, 'c': 3}", "beyond must name one or two parameters"),
    ],
)
def test_a_bad_declaration_names_the_claim(tmp_path: Path, beyond: str, message: str) -> None:
    source = CONTRACTS.replace('{"step": Interval(gt=0, le=5)}', beyond)
    with pytest.raises(ParameterError, match=f"claim contracts: {message}"):
        subject_of(tmp_path, source)


def test_a_paper_without_such_claims_says_so(tmp_path: Path) -> None:
    with pytest.raises(PorismError, match="has no claim that declares `beyond`"):
        explore_beyond(subject_of(tmp_path, CONTRACTS.replace(', beyond={"step": Interval(gt=0, le=5)}', "")))


def test_the_report_shows_what_was_explored(tmp_path: Path) -> None:
    from porism.report import build_report

    subject = subject_of(tmp_path, CONTRACTS)
    page = build_report(tmp_path / "before", [subject.key]).parent / "papers" / "made.html"
    assert "Beyond the theorem" not in page.read_text()
    explore_beyond(subject, jobs=1)
    page = build_report(tmp_path / "after", [subject.key]).parent / "papers" / "made.html"
    assert "Beyond the theorem: Descent contracts below 2 / L. Claimed up to step = 2" in page.read_text()
    assert f"porism explore {subject.key}.contracts --beyond" in page.read_text()
    assert (tmp_path / "after" / "figures" / "made-contracts-beyond.svg").exists()
