"""A hundred times kill -9 at random moments: nothing finished is lost or repeated, and the verdicts are those of peace.

Killed is the check itself, or one of its workers and half a second later the check. (A sandboxed process that dies is
no accident to a check but the outcome of its replicate, so none is killed here.)
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from porism.check import Subject, check
from porism.records import Record, RecordWarning, read_records

KILLS = 100

PAPER = '''"""Two thousand replicates and as many cases, of a few milliseconds each."""
import time
from typing import Annotated, Literal
from annotated_types import Interval
from porism import Paper, always, typically

PAPER = Paper(key="soak", title="T", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")
'''
COIN = """

@typically("Half of the replicates are positive", where="S", control={"method": "off"})
def coin_N(rng, *, method: Literal["on", "off"] = "on"):
    time.sleep(0.01)
    value = rng.random()
    return value - 0.5 if method == "on" else -value
"""
SQUARE = """

@always("No square is negative", where="S", cap=400)
def square_N(rng, *, x: Annotated[float, Interval(ge=-9, le=9)] = 0.0):
    time.sleep(0.01)
    return x * x + rng.random()
"""


def workers_of(pid: int) -> list[int]:
    """The loky workers of a check: its children that have children of their own."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    return [child for child in children.get(pid, []) if children.get(child)]


def recorded(home: Path) -> list[Record]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordWarning)  # lines that a kill cut off
        return read_records(home / "records", "soak")


def lines(home: Path) -> int:
    """Whole lines of all shards, duplicates included."""
    shards = (home / "records" / "soak").glob("*.jsonl")
    return sum(line.endswith(b"}") for shard in shards for line in shard.read_bytes().split(b"\n"))


def wait_for_work(run: subprocess.Popen[bytes], home: Path, before: int) -> None:
    """Until something more is recorded, or all is settled."""
    deadline = time.monotonic() + 120
    while run.poll() is None and lines(home) <= before:
        assert time.monotonic() < deadline, "the check records nothing"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_hundred_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = tmp_path / "soak.py"
    paper.write_text(PAPER + "".join(COIN.replace("_N", f"_{n}") for n in range(30)) + "".join(SQUARE.replace("_N", f"_{n}") for n in range(5)))  # fmt: skip
    monkeypatch.setenv("PORISM_HOME", str(tmp_path / "peace"))
    reference = [dataclasses.replace(v, seconds=0.0) for v in check([Subject.of(str(paper))], engine="loky", jobs=2)]

    rng = random.Random(0)
    command = [sys.executable, "-m", "porism", "check", str(paper), "--jobs", "2", "--json"]
    home, rounds, kills, killed_workers, cut_off = tmp_path / "war0", 0, 0, 0, 0
    while kills < KILLS:
        environment = {**os.environ, "PORISM_HOME": str(home)}
        run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = {record.identity: record for record in recorded(home)}
        if rng.random() < 0.9:  # else it dies while it starts
            wait_for_work(run, home, len(before))
        time.sleep(rng.uniform(0.0, 1.0))
        workers = workers_of(run.pid)
        if workers and rng.random() < 0.3:
            os.kill(rng.choice(workers), signal.SIGKILL)
            killed_workers += 1
            time.sleep(rng.uniform(0.0, 1.0))
        if run.poll() is None:
            run.kill()
            kills += 1
        run.wait()
        after = {record.identity: record for record in recorded(home)}
        assert all(after.get(identity) == record for identity, record in before.items()), "something finished was lost"
        if run.returncode == 0:  # all is settled: begin anew elsewhere
            rounds += 1
            home = tmp_path / f"war{rounds}"
    for war in range(rounds + 1):
        monkeypatch.setenv("PORISM_HOME", str(tmp_path / f"war{war}"))
        final = check([Subject.of(str(paper))], engine="loky", jobs=2)
        assert [dataclasses.replace(v, seconds=0.0) for v in final] == reference
        found = recorded(tmp_path / f"war{war}")
        assert lines(tmp_path / f"war{war}") == len(found), "something finished was done again"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read_records(tmp_path / f"war{war}" / "records", "soak")
        cut_off += len(caught)
    print(
        f"{kills} kills, {killed_workers} of a worker first, {rounds + 1} ledgers, {cut_off} shards with a cut-off line"
    )
