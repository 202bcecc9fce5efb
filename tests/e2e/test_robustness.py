"""Two checks at once, full disks, denied folders, jumping clocks, memory, killed workers: nothing lost, same verdicts."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from porism.check import Subject, check
from porism.errors import PorismError
from porism.records import read_records
from porism.verdicts import append_verdicts, read_verdicts

STEADY = '''"""A paper whose every case may take a moment."""
import os, time
from typing import Annotated, Literal
from annotated_types import Interval
from porism import Paper, always, typically

PAPER = Paper(key="steady", title="T", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")


@typically("Half of the replicates are positive", where="S", control={"method": "off"}, cap=40)
def coin(rng, *, method: Literal["on", "off"] = "on"):
    time.sleep(float(os.environ.get("STEADY", 0)))
    return rng.random() - 0.5 if method == "on" else -rng.random()


@always("No number is above seventy", where="S", cap=40)
def seventy(rng, *, n: Annotated[int, Interval(ge=0, le=100)] = 0):
    time.sleep(float(os.environ.get("STEADY", 0)))
    return 70.0 - n
'''
OUTCOMES = {"coin": "inconclusive", "seventy": "refuted"}
# Each case takes long enough for something to happen meanwhile.
SLOWLY = {"STEADY": "0.02"}


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    path = tmp_path / "steady.py"
    path.write_text(STEADY)
    return path


def start(home: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PORISM_HOME": str(home), **options.pop("environment", {})}
    command = [sys.executable, "-m", "porism", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def porism(home: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    running = start(home, *arguments, **options)
    try:
        out, err = running.communicate(timeout=120)
    except BaseException:
        running.kill()
        raise
    return subprocess.CompletedProcess(arguments, running.returncode, out, err)


def verdicts_in(output: str) -> dict[str, Any]:
    """What a check says of each claim, without what differs between two runs of the same thing."""
    own = ("seconds", "environment")
    return {
        verdict["claim"]: {name: value for name, value in verdict.items() if name not in own}
        for verdict in json.loads(output)["verdicts"]
    }


class Alone(NamedTuple):
    """A check that nobody disturbs: its verdicts, and the folder of its records."""

    verdicts: dict[str, Any]
    home: Path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    (folder / "steady.py").write_text(STEADY)
    done = porism(folder, "check", str(folder / "steady.py"), "--engine", "serial", "--json")
    assert done.returncode == 0, done.stderr
    found = verdicts_in(done.stdout)
    assert {claim: verdict["outcome"] for claim, verdict in found.items()} == OUTCOMES
    return Alone(found, folder)


def recorded(home: Path, key: str = "steady") -> list[bytes]:
    return [
        line for shard in sorted((home / "records" / key).glob("*.jsonl")) for line in shard.read_bytes().splitlines()
    ]


def identity(line: bytes) -> str:
    names = ("claim", "arm", "status", "case", "parameters", "effect")
    return json.dumps([json.loads(line)[name] for name in names], sort_keys=True)


# What stderr says of records that cannot be read, and of what nobody foresaw.
DAMAGE = {"damaged;", "off;", "skipped", "Traceback"}


def finished(run: subprocess.CompletedProcess[str], alone: Alone) -> None:
    """The check came to the same verdicts as one that nobody disturbs."""
    assert run.returncode == 0, run.stderr
    assert not DAMAGE & set(run.stderr.split()), run.stderr
    assert verdicts_in(run.stdout) == alone.verdicts


def one_line(run: subprocess.CompletedProcess[str], message: str) -> None:
    assert run.returncode == 2, run.stderr
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("porism: ")


@pytest.mark.parametrize("engine", ["serial", pytest.param("loky", marks=pytest.mark.slow)])
def test_two_checks_at_once_agree_with_one(paper: Path, tmp_path: Path, alone: Alone, engine: str) -> None:
    home = tmp_path / "home"
    command = ("check", str(paper), "--engine", engine, "--jobs", "2", "--json")
    running = [start(home, *command, environment=SLOWLY) for _ in range(2)]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    for out, err in ended:
        assert verdicts_in(out) == alone.verdicts
        assert not DAMAGE & set(err.split())
    lines = recorded(home)
    # What both did is there twice and the same; what one did is there at least once.
    assert {identity(line) for line in lines} == {identity(line) for line in recorded(alone.home)}
    assert {v.claim: v.outcome for v in read_verdicts(home / "verdicts" / "steady.jsonl")} == OUTCOMES
    again = porism(home, *command)
    assert verdicts_in(again.stdout) == alone.verdicts
    assert recorded(home) == lines, "what is recorded twice is not run a third time"


def small_files(largest: int) -> Callable[[], None]:
    """For ``preexec_fn``: no file may grow beyond so many bytes, as on a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


@pytest.mark.parametrize("largest", [5_000, *(pytest.param(n, marks=pytest.mark.slow) for n in (700, 12_000))])
def test_a_check_on_a_full_disk_is_finished_when_there_is_room(
    paper: Path, tmp_path: Path, alone: Alone, largest: int
) -> None:
    home = tmp_path / "home"
    command = ("check", str(paper), "--engine", "serial", "--json")
    one_line(porism(home, *command, preexec_fn=small_files(largest)), "cannot write")
    kept = recorded(home)
    assert kept
    assert all(json.loads(line)["v"] for line in kept), "nothing is half-written"
    finished(porism(home, *command), alone)
    assert recorded(home).count(kept[0]) == 1
    assert len(recorded(home)) == len({identity(line) for line in recorded(home)}), "something was done twice"


@contextlib.contextmanager
def disk_of(size: str, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let the test mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_disk_that_fills_up_and_is_emptied(paper: Path, tmp_path: Path, alone: Alone, jobs: str) -> None:
    with disk_of("64k", tmp_path / "disk") as disk:
        (disk / "ballast").write_bytes(b"0" * 50_000)
        command = ("check", str(paper), "--jobs", jobs, "--json")
        one_line(porism(disk, *command), "cannot write")
        kept = {identity(line) for line in recorded(disk)}
        (disk / "ballast").unlink()
        finished(porism(disk, *command), alone)
        assert kept <= {identity(line) for line in recorded(disk)}


def test_a_disk_that_is_full_when_the_verdicts_are_written(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = check([Subject.of(toy)], engine="serial")
    path = tmp_path / "toy.verdicts.jsonl"
    append_verdicts(path, verdicts[:1])
    before = path.read_bytes()
    real = os.write
    for written in (0, 1, 200):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data, written=written: real(file, data[:written]))
            with pytest.raises(PorismError, match="no space left"):
                append_verdicts(path, verdicts)
        assert path.read_bytes() == before
    assert append_verdicts(path, verdicts) == len(verdicts) - 1


@pytest.mark.parametrize("place", ["", "records", "records/steady", "verdicts"])
def test_a_file_where_a_folder_should_be_is_one_line(
    paper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    home = tmp_path / "home"
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    (home / place).write_text("mine")
    monkeypatch.setenv("PORISM_HOME", str(home))
    with pytest.raises(PorismError, match=re.escape(str(home / place))) as caught:
        check([Subject.of(str(paper))], engine="serial")
    assert len(str(caught.value).splitlines()) == 1
    assert (home / place).read_text() == "mine"
    (home / place).unlink()
    assert {v.claim: v.outcome for v in check([Subject.of(str(paper))], engine="serial")} == OUTCOMES


def without_override() -> None:
    """For ``preexec_fn``: root, too, has to keep to permissions."""
    if os.geteuid() == 0:
        drop_from_bounding_set, capabilities = 24, (1, 2)  # DAC_OVERRIDE, DAC_READ_SEARCH
        for capability in capabilities:
            if ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0):
                raise OSError("cannot give up a capability")


@pytest.mark.skipif(sys.platform != "linux", reason="gives up a capability of Linux")
@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("", 0o500),
        ("verdicts", 0o500),
        pytest.param("records/steady", 0o000, marks=pytest.mark.slow),
        pytest.param("verdicts", 0o000, marks=pytest.mark.slow),
    ],
)
def test_a_folder_that_may_not_be_used_is_one_line(
    paper: Path, tmp_path: Path, alone: Alone, place: str, mode: int
) -> None:
    home = tmp_path / "home"
    (home / place).mkdir(parents=True)
    (home / place).chmod(mode)
    command = ("check", str(paper), "--engine", "serial", "--json")
    try:
        one_line(porism(home, *command, preexec_fn=without_override), "Permission denied")
    finally:
        (home / place).chmod(0o700)
    finished(porism(home, *command, preexec_fn=without_override), alone)


JUMPING = """
import itertools
_jumps = itertools.cycle([0.0, 1e9, -1e9, 3e5, -3e5])
_real = time.time
time.time = lambda: _real() + next(_jumps)
"""


def test_a_clock_that_jumps_ends_no_case_and_no_check(
    paper: Path, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only clocks that never go back decide about time limits and durations, here and in the child."""
    paper.write_text(STEADY.replace("\n\n\n@typically", f"\n{JUMPING}\n\n@typically", 1))
    real, jumps = time.time, itertools.cycle([0.0, 1e9, -1e9])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    verdicts = {verdict.claim: verdict for verdict in check([Subject.of(str(paper))], engine="serial")}
    assert {claim: v.outcome for claim, v in verdicts.items()} == OUTCOMES
    assert {claim: v.main.cases for claim, v in verdicts.items()} == {
        claim: v["main"]["cases"] for claim, v in alone.verdicts.items()
    }
    records = read_records(Path(os.environ["PORISM_HOME"]) / "records", "steady")
    assert all(0 <= record.seconds < 60 for record in records)
    assert {record.status for record in records} == {"ok", "end"}


LIMIT = '''"""A paper whose claim depends on one digit."""
from typing import Annotated
from annotated_types import Interval
from porism import Paper, always

PAPER = Paper(key="digit", title="TITLE 9", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")


@always("Small", where="S", cap=20)
def small(rng, *, n: Annotated[int, Interval(ge=0, le=3)] = 0):
    return 9.5 - n
'''
SECOND = 10**9


def installed(site: Path) -> Path:
    """The paper in a package of its own, as pip would leave it."""
    info = site / "digits-1.0.dist-info"
    for folder in (site / "digits", info):
        folder.mkdir(parents=True)
    (site / "digits" / "__init__.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: digits\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[porism.collections]\ndigits = digits\n")
    return site / "digits" / "digit.py"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(-7 * SECOND, id="older"),
        pytest.param(0, id="same"),
        pytest.param(SECOND // 1000, id="near", marks=pytest.mark.slow),
        pytest.param(SECOND * SECOND, id="future", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("form", ["file", "package"])
def test_new_code_is_used_whatever_its_time_says(tmp_path: Path, form: str, change: int) -> None:
    """The new file is as long as the old one; Python's own cache would go by that and whole seconds."""
    path = installed(tmp_path / "site") if form == "package" else tmp_path / "digit.py"
    key = "digit" if form == "package" else str(path)
    search = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    # An empty word means that Python may keep what it compiles.
    environment = {"PYTHONPATH": search, "PORISM_CACHE": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": ""}
    outcomes = []
    for digit in ("9", "2"):
        modified = path.stat().st_mtime_ns + change if path.exists() else None
        path.write_text(LIMIT.replace("9", digit))
        if modified is not None:
            os.utime(path, ns=(modified, modified))
        done = porism(tmp_path / "home", "check", key, "--engine", "serial", "--json", environment=environment)
        outcomes += [verdict["outcome"] for verdict in verdicts_in(done.stdout).values()]
    assert outcomes == ["unrefuted", "refuted"]
    shown = porism(tmp_path / "home", "show", key, "--json", environment=environment)
    assert json.loads(shown.stdout)["paper"]["title"] == "TITLE 2"


def test_new_code_of_the_same_time_is_used_within_one_process(tmp_path: Path) -> None:
    path = tmp_path / "digit.py"
    outcomes = []
    for digit in ("9", "2"):
        path.write_text(LIMIT.replace("9", digit))
        os.utime(path, ns=(SECOND, SECOND))
        outcomes += [verdict.outcome for verdict in check([Subject.of(str(path))], engine="serial")]
    assert outcomes == ["unrefuted", "refuted"]


GREEDY = (
    STEADY.split("@typically")[0].replace('"steady"', '"greedy"')
    + """
@typically("It takes four GiB", where="S", control={"method": "off"})
def takes(rng, *, method: Literal["on", "off"] = "on"):
    return float(len(bytearray(2**32))) if method == "on" else -1.0


@typically("It takes nothing", where="S", control={"method": "off"})
def modest(rng, *, method: Literal["on", "off"] = "on"):
    return 1.0 if method == "on" else -1.0
"""
)


def test_a_claim_that_takes_too_much_memory_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "greedy.py"
    path.write_text(GREEDY)
    environment = {"PORISM_MEMORY_GIB": "1"}
    done = porism(tmp_path / "home", "check", str(path), "--jobs", "2", "--json", environment=environment)
    found = verdicts_in(done.stdout)
    assert {claim: v["outcome"] for claim, v in found.items()} == {"takes": "inconclusive", "modest": "holds"}
    assert "MemoryError" in found["takes"]["reason"]


def processes_below(parent: int) -> dict[int, str]:
    """Process ids and command lines of all descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(above, []).append(int(folder.name))
    found: dict[int, str] = {}
    waiting = list(children.get(parent, ()))
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        waiting += children.get(pid, ())
    return found


def kill_during(running: subprocess.Popen[str], home: Path, what: str, *, at_records: int, how_many: int) -> None:
    """Kill processes of a check by a part of their command line, once it has recorded something."""
    deadline = time.monotonic() + 60
    while len(recorded(home)) < at_records:
        assert running.poll() is None, "the check ended before anything could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victims = [pid for pid, command in processes_below(running.pid).items() if what in command]
    assert len(victims) >= how_many
    for pid in victims[:how_many]:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("how_many", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_worker_costs_nothing_but_time(paper: Path, tmp_path: Path, alone: Alone, how_many: int) -> None:
    home = tmp_path / "home"
    running = start(home, "check", str(paper), "--jobs", "2", "--json", environment=SLOWLY)
    kill_during(running, home, "loky.backend.popen", at_records=10, how_many=how_many)
    out, err = running.communicate(timeout=120)
    finished(subprocess.CompletedProcess((), running.returncode, out, err), alone)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
@pytest.mark.parametrize("engine", ["serial", pytest.param("loky", marks=pytest.mark.slow)])
def test_a_killed_child_costs_the_case_at_hand(paper: Path, tmp_path: Path, engine: str) -> None:
    """It counts as failed, as whatever took the process down may have been the claim's own doing."""
    home = tmp_path / "home"
    running = start(home, "check", f"{paper}.coin", "--engine", engine, "--jobs", "2", "--json", environment=SLOWLY)
    kill_during(running, home, "-m porism.worker", at_records=10, how_many=1)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert verdicts_in(out)["coin"]["outcome"] == OUTCOMES["coin"]
    lines = [json.loads(line) for line in recorded(home)]
    failed = [line for line in lines if line["status"] != "ok"]
    assert len(failed) <= 1
    assert all("killed by signal 9" in line["note"] for line in failed)
    assert len(lines) == len({(line["arm"], line["case"]) for line in lines})
