"""A sweep on a real dask cluster of processes, one of them killed in the middle; and on ray where it is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porism.check import Subject
from porism.home import home
from porism.records import read_records
from porism.sweep import Sweep, sweep
from porism.tables import read_table

distributed = pytest.importorskip("distributed")

PAPER = '''"""A paper whose every run takes a moment and leaves a line in a log."""
import os, time
from typing import Annotated
from annotated_types import Interval
from porism import Paper

PAPER = Paper(key="slow", title="T", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")


def demo(rng, *, x: Annotated[float, Interval(ge=0, le=9)] = 0.0):
    """A number."""
    with open(os.environ["SLOW_LOG"], "a") as file:
        file.write(f"{x} {os.getppid()}" + chr(10))
    time.sleep(0.05)
    return {"y": float(rng.normal()) + x}
'''
OVER = {"x": "0:9:60"}
WORKERS = 3


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    path = tmp_path / "slow.py"
    path.write_text(PAPER)
    monkeypatch.setenv("SLOW_LOG", str(tmp_path / "log"))
    return Subject.of(str(path))


@pytest.fixture
def cluster(slow: Subject) -> Iterator[Any]:
    """Three worker processes, started after the environment is set that they inherit."""
    options = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as found:
        yield found


def runs(tmp_path: Path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "log").read_text().splitlines()]


def assert_same(first: Sweep, second: Sweep) -> None:
    assert list(first.table) == list(second.table)
    for name, column in first.table.items():
        np.testing.assert_array_equal(column, second.table[name])


def test_a_worker_killed_in_the_middle_costs_what_it_had_in_hand(
    slow: Subject, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []

    def kill_one(records: Any, remaining: int) -> None:
        if remaining <= 40 and not killed:
            # the parent of a child that computed something is a worker at work
            killed.append(next(int(pid) for _, pid in reversed(runs(tmp_path))))
            os.kill(killed[0], signal.SIGKILL)

    with distributed.Client(cluster):
        found = sweep(slow, OVER, engine="dask", progress=kill_one)
    assert (len(found.rows), found.remaining) == (60, 0)
    assert (found.table["status"] == "ok").all()
    assert len(killed) == 1
    workers = {pid for _, pid in runs(tmp_path)}
    assert len(workers) > 1, "one worker did all"
    evaluated = Counter(x for x, _ in runs(tmp_path))
    assert len(evaluated) == 60
    # joblib sends short runs in batches: one that died with its worker was begun again from its start
    again = [x for x, count in evaluated.items() if count > 1]
    dead = {x for x, pid in runs(tmp_path) if pid == str(killed[0])}
    assert set(again) <= dead
    records = read_records(home() / "sweeps", "slow")
    assert len(records) == 60

    monkeypatch.setenv("PORISM_HOME", str(tmp_path / "serial"))
    assert_same(sweep(slow, OVER, engine="serial"), found)


def test_the_command_works_on_a_cluster_that_runs_already(slow: Subject, cluster: Any, tmp_path: Path) -> None:
    command = ["sweep", slow.key, "--over", "x=0:1:4", "--scheduler", cluster.scheduler_address, "--no-figure"]
    done = subprocess.run(
        [sys.executable, "-m", "porism", *command, "-o", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "4 points, 4 runs: 4 ok"
    assert len(read_table(tmp_path / "slow-sweep-x.csv")["y"]) == 4
    pids = {worker.pid for worker in cluster.workers.values()}
    assert {int(pid) for _, pid in runs(tmp_path)} <= pids


def test_a_killed_sweep_is_finished_by_the_next(slow: Subject, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "porism", "sweep", slow.key, "--over", "x=0:9:60", "--jobs", "2", "--no-figure"]
    command += ["-o", str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() or len(runs(tmp_path)) < 20:
        assert time.monotonic() < deadline
        assert first.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.01)
    first.kill()
    first.wait()
    kept = {record.parameters["x"] for record in read_records(home() / "sweeps", "slow")}
    assert 18 <= len(kept) < 60, "more was lost than each worker had in hand"
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[0] == "60 points, 60 runs: 60 ok"
    again = {float(x) for x, count in Counter(x for x, _ in runs(tmp_path)).items() if count > 1}
    assert not again & kept, "something finished was done again"


@pytest.mark.slow
def test_ray_gives_the_same_table(slow: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    try:
        found = sweep(slow, OVER, engine="ray", jobs=2)
    finally:
        ray.shutdown()
    monkeypatch.setenv("PORISM_HOME", str(tmp_path / "serial"))
    assert_same(sweep(slow, OVER, engine="serial"), found)
