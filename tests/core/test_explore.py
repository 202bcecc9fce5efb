"""Hunting: counterexamples on every worker, the weakest point of a sampled claim, and what is kept when it stops."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from porism.check import Subject, check
from porism.cli.progress import recorded_since
from porism.errors import PorismError
from porism.explore import TIME_UP, explore
from porism.home import home
from porism.records import ShardWriter, read_records
from porism.weakest import AGAIN, REPLICATES, free_parameters

HEAD = """
import os, time
from typing import Annotated, Literal
from annotated_types import Interval
from hypothesis import assume
from porism import Paper, always, typically
PAPER = Paper(key="made", title="T", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")
"""
FADING = """
@typically("It helps", where="S", control={"method": "off"})
def fading(
    rng, *, noise: Annotated[float, Interval(ge=0, le=4)] = 0.5, size: Annotated[int, Interval(ge=1, le=9)] = 5,
    method: Literal["on", "off"] = "on",
):
    EXTRA
    return (3.0 - noise if method == "on" else -1.0) + 0.1 * rng.normal()
"""


def subject_of(tmp_path: Path, body: str) -> Subject:
    path = tmp_path / "made.py"
    path.write_text(HEAD + body)
    return Subject.of(str(path))


def fading(tmp_path: Path, extra: str = "pass") -> Subject:
    return subject_of(tmp_path, FADING.replace("EXTRA", extra))


def test_the_weakest_point_of_a_sampled_claim_is_found_and_judged_on_fresh_replicates(tmp_path: Path) -> None:
    subject = fading(tmp_path)
    (finding,) = explore(subject, jobs=1)
    weak = finding.weakest
    assert weak is not None
    assert weak.parameters["noise"] > 3.8
    assert weak.parameters["method"] == "on"
    assert weak.outcome == "refuted"
    assert weak.replicates == 7
    assert weak.effect == pytest.approx(3.0 - float(weak.parameters["noise"]), abs=0.15)
    assert weak.low is not None and weak.effect is not None and weak.low <= weak.effect
    assert 20 <= weak.points <= 500 // 7
    assert finding.counterexample is None, "the claim is about its own parameters"
    assert "refuted there" in finding.sentence
    fresh = [r for r in read_records(home() / "records", "made") if r.case >= AGAIN]
    assert {tuple(r.parameters.items()) for r in fresh} == {tuple(weak.parameters.items())}


def test_exploring_a_sampled_claim_changes_nothing_of_its_verdict(tmp_path: Path) -> None:
    subject = fading(tmp_path)
    (before,) = check([subject], engine="serial")
    explore(subject, root=0, cases=200, jobs=1)  # under the very root of the check
    (after,) = check([subject], engine="serial")
    assert dataclasses.replace(after, seconds=before.seconds) == before
    assert before.outcome == "holds"


@pytest.mark.parametrize("extra", ["if noise > 2: raise ValueError('too noisy')", "if noise > 2: os._exit(3)"])
def test_points_that_fail_are_weak_and_do_not_end_the_hunt(tmp_path: Path, extra: str) -> None:
    (finding,) = explore(fading(tmp_path, extra), cases=60, jobs=1)
    assert finding.weakest is not None
    assert finding.weakest.parameters["noise"] > 2
    assert (finding.weakest.outcome, finding.weakest.effect) == ("refuted", None)
    assert finding.weakest.points > 2


def test_points_that_the_claim_assumes_away_are_not_looked_at(tmp_path: Path) -> None:
    (finding,) = explore(fading(tmp_path, "assume(noise < 1)"), cases=100, jobs=1)
    assert finding.weakest is not None
    assert finding.weakest.parameters["noise"] < 1
    assert finding.weakest.outcome == "holds"


def test_the_search_for_the_weakest_is_the_same_on_any_worker_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    subject = fading(tmp_path, f"print(noise, size, file=open({str(log)!r}, 'a'))")
    (whole,) = explore(subject, cases=120, jobs=2)
    evaluated = len(log.read_text().splitlines())
    monkeypatch.setenv("PORISM_HOME", str(tmp_path / "half"))
    writer = ShardWriter(home() / "records")
    kept = [r for r in read_records(tmp_path / "porism-home" / "records", "made") if r.status != "end"][:50]
    for record in kept:
        writer.append(record)
    (resumed,) = explore(subject, cases=120, jobs=1)
    assert resumed == whole
    assert len(log.read_text().splitlines()) == 2 * evaluated - 50


def test_a_claim_with_nothing_but_its_switch_has_nothing_to_explore(tmp_path: Path) -> None:
    body = "@typically('x', where='S', control={'m': 2})\ndef claim(rng, *, m: Literal[1, 2] = 1): return 1.0\n"
    subject = subject_of(tmp_path, body)
    assert free_parameters(subject.loaded.claims["claim"]) == {}
    with pytest.raises(PorismError, match="no claim with ranges to explore"):
        explore(subject)
    both = subject_of(tmp_path, body + FADING.replace("EXTRA", "pass"))
    assert [f.claim for f in explore(both, cases=REPLICATES, jobs=1)] == ["fading"]


NARROW = """
@always("No number is forbidden", where="S")
def narrow(rng, *, n: Annotated[int, Interval(ge=0, le=100_000)] = 0):
    return 1.0 if not 70_000 <= n < 70_040 else -1.0
"""


def test_a_long_hunt_is_many_searches_that_look_at_different_cases(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, NARROW.replace("70_000 <= n < 70_040", "n < 0"))
    (finding,) = explore(subject, cases=1200, jobs=2)
    found = read_records(home() / "records", "made")
    ends = {r.root: r.values["cap"] for r in found if r.status == "end"}
    assert ends == {1: 500, 2: 500, 3: 200}
    cases = {(r.root, r.parameters["n"], r.case) for r in found if r.status == "ok"}
    assert finding.cases == len(cases) > 1000
    assert explore(subject, cases=1200, root=1, jobs=1) == [finding], "what is finished is not searched again"
    assert len(read_records(home() / "records", "made")) == len(found)


SHRINKS_SLOWLY = """
@always("Small", where="S")
def small(rng, *, n: Annotated[int, Interval(ge=0, le=10**9)] = 0):
    if n > 10**6:
        time.sleep(1.0)
    return 10**6 - n
"""


def test_what_was_found_when_the_time_is_up_is_kept_and_replayed(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, SHRINKS_SLOWLY)
    (finding,) = explore(subject, jobs=1, budget=6)
    assert finding.counterexample is not None
    assert "not shrunk to the end" in finding.sentence
    (verdict,) = check([subject], engine="serial", budget=60)
    assert verdict.outcome == "refuted"
    assert verdict.main.counterexample is not None
    assert verdict.main.counterexample["parameters"] == finding.counterexample["parameters"]


def test_nothing_found_in_time_is_said(tmp_path: Path) -> None:
    subject = fading(tmp_path, "time.sleep(30)")
    (finding,) = explore(subject, jobs=2, budget=1.5)
    assert finding.weakest is None
    assert finding.sentence == f"no point was judged in 0 replicates, then broken off: {TIME_UP}"


def test_ctrl_c_prints_what_was_found(tmp_path: Path) -> None:
    paper = tmp_path / "made.py"
    paper.write_text(HEAD + FADING.replace("EXTRA", "time.sleep(0.02)"))
    command = [sys.executable, "-m", "porism", "explore", str(paper), "--cases", "100000", "--json"]
    environment = {**os.environ, "PORISM_HOME": str(tmp_path / "home")}
    run = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored under nohup and in background jobs
    )
    count = recorded_since(tmp_path / "home" / "records")
    deadline = time.monotonic() + 60
    while count() < 40:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130
    (finding,) = json.loads(out)
    assert finding["weakest"]["outcome"] == "not judged"
    assert finding["weakest"]["points"] >= 3
    assert finding["note"] == "interrupted"
    assert err.strip() == "porism: stopped; what was finished is kept, run the same command again to go on"
