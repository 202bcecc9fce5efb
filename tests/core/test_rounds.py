"""Rounds of tasks: budgets of time, workers that are killed, and who goes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from porism.budget import Clock, TimeUp, seconds_of
from porism.check import Subject, check
from porism.costs import Job, job_of, longest_first, most_settled_within
from porism.engines import Task
from porism.errors import PorismError
from porism.home import home
from porism.records import Record, read_records

HEAD = """
import os, signal, time
from pathlib import Path
from typing import Annotated, Literal
from annotated_types import Interval
from porism import Paper, always, typically
PAPER = Paper(key="made", title="T", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")
HERE = Path(__file__).parent
"""
CLAIM = """
@typically("It is so", where="S", control={"method": "off"})
def NAME(rng, *, method: Literal["on", "off"] = "on"):
    BODY
    return 1.0 if method == "on" else -1.0
"""
# Kills the worker that drives its process, as many times as there are files to remove.
KILLS_ITS_WORKER = """if fuses := sorted(HERE.glob("fuse*")):
        fuses[0].unlink()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)"""


def subject_of(folder: Path, *claims: tuple[str, str]) -> Subject:
    path = folder / "made.py"
    path.write_text(HEAD + "".join(CLAIM.replace("NAME", name).replace("BODY", body) for name, body in claims))
    return Subject.of(str(path))


def task(**fields: Any) -> Task:
    names = {"do": "replicate", "arm": "main", "time_limit": 60.0, "root": 0}
    texts = dict.fromkeys(("key", "paper", "claim", "claim_hash", "code_hash"), "x")
    return Task(**(names | texts | fields))


@pytest.mark.parametrize("text", ["", "m", "-1", "0", "0m", "1e3", "inf", "nan", "3 weeks", "1h30m", "1.2.3s"])
def test_a_budget_is_a_positive_time(text: str) -> None:
    with pytest.raises(PorismError, match="a budget is a positive time such as 90s, 30m or 2h"):
        seconds_of(text)


def test_a_clock_interrupts_the_main_thread_and_leaves_the_others_alone() -> None:
    with pytest.raises(TimeUp), Clock(0.05).running():
        time.sleep(60)
    finished = []

    def elsewhere() -> None:
        clock = Clock(0.01)
        with clock.running():
            time.sleep(0.1)
        finished.append(clock.left)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert finished == [0.0]


def test_a_budget_that_is_over_stops_a_check_in_the_middle_of_a_replicate(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, ("quick", "pass"), ("slow", "time.sleep(50)"))
    began = time.monotonic()
    verdicts = check([subject], engine="loky", jobs=2, budget=4)
    assert time.monotonic() - began < 40
    assert [(v.claim, v.outcome) for v in verdicts] == [("quick", "holds")]
    assert check([subject.__class__.of(subject.key)], engine="serial", budget=0.2)[0].claim == "quick"


@pytest.mark.parametrize("fuses", [1, 2])
def test_what_a_killed_worker_left_undone_is_done_by_another(tmp_path: Path, fuses: int) -> None:
    for number in range(fuses):
        (tmp_path / f"fuse{number}").touch()
    subject = subject_of(tmp_path, ("deadly", KILLS_ITS_WORKER), ("harmless", "time.sleep(0.02)"))
    verdicts = check([subject], engine="loky", jobs=2)
    assert [(v.claim, v.outcome, v.main.cases, v.main.errors) for v in verdicts] == [
        ("deadly", "holds", 9, 0),
        ("harmless", "holds", 9, 0),
    ]
    found = read_records(home() / "records", "made")
    assert len(found) == 2 * (9 + 7)
    lines = sum(len(shard.read_bytes().splitlines()) for shard in (home() / "records" / "made").iterdir())
    assert lines == len(found), "what was recorded was done again"


def test_workers_that_always_die_end_the_check_with_a_sentence(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"fuse{number}").touch()
    subject = subject_of(tmp_path, ("deadly", KILLS_ITS_WORKER))
    with pytest.raises(PorismError, match="workers died in 3 rounds in a row"):
        check([subject], engine="loky", jobs=2)


def test_the_dearest_task_is_started_first() -> None:
    cheap = Job([task(claim="cheap", case=0), task(claim="cheap", case=1)], 1.0, 2.0, False)
    dear = Job([task(claim="dear", case=0)], 9.0, 9.0, True)
    search = Job([task(claim="search", do="search", cap=100)], 0.5, 50.0, False)
    assert [t.claim for t in longest_first([cheap, dear, search])] == ["search", "dear", "cheap", "cheap"]


def test_a_budget_goes_to_what_was_never_judged_and_then_to_what_is_cheap() -> None:
    def job(name: str, seconds: float, judged: bool) -> Job:
        return Job([task(claim=name, case=case) for case in range(9)], seconds / 9, seconds, judged)

    jobs = [job("dear", 1000.0, False), job("old", 5.0, True), job("older", 50.0, True), job("new", 30.0, False)]

    def chosen(seconds: float, workers: int) -> list[str]:
        return list(dict.fromkeys(t.claim for t in most_settled_within(jobs, seconds, workers=workers)))

    assert chosen(40.0, 1) == ["new", "old"]
    assert chosen(40.0, 2) == ["new", "old"]  # 80 s in all, of which 35 are given out; older needs 50
    assert chosen(45.0, 2) == ["new", "old", "older"]
    assert chosen(3.0, 2) == ["new"]  # not to be settled in time, but begun
    assert chosen(2000.0, 1) == ["new", "dear", "old", "older"]


def test_costs_come_from_records_then_from_the_last_verdict(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, ("quick", "time.sleep(0.01)"))
    (verdict,) = check([subject], engine="serial")
    tasks = [task(case=case) for case in range(9)]
    unknown, from_verdict = job_of(tasks, [], None), job_of(tasks, [], verdict)
    assert unknown.case_seconds == 1.0
    assert not unknown.judged
    assert from_verdict.case_seconds == pytest.approx(verdict.seconds / 16)
    assert from_verdict.to_settle == pytest.approx(9 * verdict.seconds / 16)
    own = [Record(**(dict.fromkeys(("paper", "claim", "claim_hash", "code_hash"), "x") | {"root": 0, "arm": "main", "case": 0, "status": "ok", "seconds": 3.0}))]  # fmt: skip
    assert job_of(tasks, own, verdict).case_seconds == 3.0


def test_papers_of_one_key_are_not_checked_together(tmp_path: Path) -> None:
    subjects: Sequence[Subject] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        subjects = [*subjects, subject_of(tmp_path / name, ("quick", "pass"))]
    with pytest.raises(PorismError, match="the same key"):
        check(subjects, engine="serial")
