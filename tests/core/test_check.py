"""The engine: every outcome of every rung, on any number of workers, with nothing done twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from porism.check import Subject, check
from porism.engines import run_tasks
from porism.errors import PorismError
from porism.explore import explore
from porism.home import home
from porism.ledger import current_verdicts
from porism.records import RecordWarning, ShardWriter, read_records
from porism.verdicts import Verdict, append_verdicts, read_verdicts, verdict_file

HEAD = """
import os, time
from typing import Annotated, Literal
import numpy as np
from annotated_types import Interval
from hypothesis import assume
from porism import Paper, Paired, always, typically
PAPER = Paper(key="made", title="T", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")
"""


def subject_of(tmp_path: Path, body: str) -> Subject:
    path = tmp_path / "made.py"
    path.write_text(HEAD + body)
    return Subject.of(str(path))


def sampled(body: str, decorator: str = "") -> str:
    """A `typically` claim whose control never holds."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return (
        f"@typically('It is so', where='S', control={{'method': 'off'}}{decorator})\n"
        "def claim(rng, *, method: Literal['on', 'off'] = 'on'):\n"
        "    if method == 'off':\n        return -1.0\n" + lines
    )


def verdicts_of(subject: Subject, **options: Any) -> dict[str, Verdict]:
    options = {"engine": "serial", **options}
    return {verdict.claim: verdict for verdict in check([subject], **options)}


def test_every_rung_settles(toy: str) -> None:
    verdicts = verdicts_of(Subject.of(toy))
    assert {name: v.outcome for name, v in verdicts.items()} == {
        "shift_helps": "holds",
        "square_is_convex": "unrefuted",
        "below_fifty": "refuted",
        "binomial": "proved",
    }
    assert {name: v.control and v.control.outcome for name, v in verdicts.items()} == {
        "shift_helps": "refuted",
        "square_is_convex": "refuted",
        "below_fifty": None,
        "binomial": "refuted",
    }
    assert verdicts["shift_helps"].main.cases == 9
    assert verdicts["below_fifty"].main.counterexample["parameters"] == {"number": 50}  # shrunk


def test_any_number_of_workers_gives_the_same_records(
    toy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = {}
    for name, options in {"serial": {"engine": "serial"}, "loky": {"engine": "loky", "jobs": 2}}.items():
        monkeypatch.setenv("PORISM_HOME", str(tmp_path / name))
        verdicts = check([Subject.of(toy)], **options)  # type: ignore[arg-type]
        found[name] = [dataclasses.replace(v, seconds=0.0) for v in verdicts]
        workers = {shard.name.split("-")[-2] for shard in (home() / "records" / "toy").iterdir()}
        assert len(workers) <= options.get("jobs", 1)
    assert found["serial"] == found["loky"]


def test_a_second_run_computes_nothing(toy: str) -> None:
    calls: list[Any] = []
    verdicts_of(Subject.of(toy))
    again = check([Subject.of(toy)], engine="serial", progress=lambda *call: calls.append(call))
    assert not calls
    assert len(again) == 4


def test_changed_code_is_checked_again(tmp_path: Path) -> None:
    body = "@always('small', where='S')\ndef claim(rng, *, n: Annotated[int, Interval(ge=0, le=3)] = 0):\n    return limit() - n\n"
    first = verdicts_of(subject_of(tmp_path, "def limit():\n    return 9\n" + body))
    second = verdicts_of(subject_of(tmp_path, "def limit():\n    return 2\n" + body))
    assert first["claim"].hash == second["claim"].hash  # the claim itself did not change
    assert (first["claim"].outcome, second["claim"].outcome) == ("unrefuted", "refuted")


@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        ("return 1.0", "holds", "9 of 9 replicates above 0"),
        ("print('noise', flush=True)\nreturn 1.0", "holds", "9 of 9 replicates above 0"),
        ("return -1.0", "refuted", "0 of 7"),
        ("return 0.0", "refuted", "0 of 7"),
        ("return float(rng.random() - 0.5)", "inconclusive", "of 64"),
        (
            "return float('nan')",
            "inconclusive",
            "every replicate failed: ValueError: claim claim returned a margin that",
        ),
        ("raise RuntimeError('boom')", "inconclusive", "every replicate failed: RuntimeError: boom"),
        ("return None", "inconclusive", "must return a float or Paired"),
        ("os._exit(3)", "inconclusive", "its process died"),
        ("while True: pass", "inconclusive", "did not return within 0.5 s"),
        ("if rng.random() < 0.9: raise RuntimeError('boom')\nreturn 1.0", "refuted", "failed; RuntimeError: boom"),
    ],
)
def test_outcomes_of_a_sampled_claim(tmp_path: Path, body: str, outcome: str, reason: str) -> None:
    verdict = verdicts_of(subject_of(tmp_path, sampled(body, ", time_limit=0.5")))["claim"]
    assert verdict.outcome == outcome
    assert reason in verdict.reason


def test_a_replicate_is_seeded_by_root_claim_and_case_but_not_by_its_arm(tmp_path: Path) -> None:
    body = "@typically('x', where='S', control={'sign': -1})\ndef NAME(rng, *, sign: Literal[1, -1] = 1):\n    return sign * rng.random()\n"
    subject = subject_of(tmp_path, body.replace("NAME", "one") + body.replace("NAME", "two"))
    for root in (0, 1):
        verdicts_of(subject, root=root)
    records = read_records(home() / "records", "made")
    main, control = ({abs(r.effect or 0.0) for r in records if r.arm == arm} for arm in ("main", "control"))
    assert len(main) == 2 * 2 * 9
    assert control < main


def test_no_replicate_is_run_beyond_the_cap_or_twice(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, sampled("return float(rng.random() - 0.5)", ", cap=10"))
    assert verdicts_of(subject)["claim"].outcome == "inconclusive"
    folder = home() / "records" / "made"
    shard = min(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(line for line in lines if b'"case":3,' not in line))  # whose worker died over it
    verdicts_of(subject)
    assert sum(len(path.read_bytes().splitlines()) for path in folder.iterdir()) == 10 + 7


@pytest.mark.parametrize(("effect", "outcome"), [(1.0, "refuted"), (1.1, "holds")])
def test_an_effect_must_exceed_the_smallest_worth_having(tmp_path: Path, effect: float, outcome: str) -> None:
    body = sampled(f"return {effect}", ", at_least=1")
    assert verdicts_of(subject_of(tmp_path, body))["claim"].outcome == outcome


def test_a_worker_computes_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    body = sampled("return 1.5 - int(os.environ['OMP_NUM_THREADS'])")
    assert verdicts_of(subject_of(tmp_path, body))["claim"].outcome == "holds"


def test_importing_is_not_charged_to_a_claim(tmp_path: Path) -> None:
    body = "time.sleep(0.7)\n" + sampled("return 1.0", ", time_limit=0.5")
    assert verdicts_of(subject_of(tmp_path, body))["claim"].outcome == "holds"


def test_a_late_answer_is_not_taken_for_that_of_another_replicate(tmp_path: Path) -> None:
    body = sampled("if rng.random() < 0.3: time.sleep(0.4)\nreturn rng.random()", ", time_limit=0.2")
    verdicts_of(subject_of(tmp_path, body))
    lines = [line for shard in (home() / "records" / "made").iterdir() for line in shard.read_text().splitlines()]
    replicates = [(r["arm"], r["case"]) for r in map(json.loads, lines)]
    assert len(replicates) == len(set(replicates))


def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORISM_MEMORY_GIB", "0.5")
    verdict = verdicts_of(subject_of(tmp_path, sampled("return float(np.ones(2**28).sum())")))["claim"]
    assert "MemoryError" in verdict.reason


def test_a_control_that_holds_makes_the_verdict_void(tmp_path: Path) -> None:
    body = (
        "@typically('x', where='S', control={'method': 'off'})\n"
        "def claim(rng, *, method: Literal['on', 'off'] = 'on'):\n    return 1.0\n"
    )
    verdict = verdicts_of(subject_of(tmp_path, body))["claim"]
    assert verdict.outcome == "void"
    assert "control holds too" in verdict.reason


def test_a_control_that_settles_nothing_leaves_the_claim_alone(tmp_path: Path) -> None:
    body = sampled("return 1.0").replace("return -1.0", "return float(rng.random() - 0.5)")
    verdict = verdicts_of(subject_of(tmp_path, body))["claim"]
    assert (verdict.outcome, verdict.control and verdict.control.outcome) == ("holds", "inconclusive")


def test_a_search_control_that_is_not_refuted_makes_the_verdict_void(tmp_path: Path) -> None:
    body = (
        "@always('x', where='S', control={'sign': -1})\n"
        "def claim(rng, *, sign: Literal[1, -1] = 1, n: Annotated[int, Interval(ge=0, le=9)] = 0):\n    return 1.0\n"
    )
    assert verdicts_of(subject_of(tmp_path, body))["claim"].outcome == "void"


@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        ("return 1.0 if n < 70 else 1 / (n - n)", "refuted", "ZeroDivisionError"),
        ("return 1 / 0", "inconclusive", "every case failed: ZeroDivisionError"),
        ("if n > 50: os._exit(3)\nreturn 1.0", "inconclusive", "its process died: exit code 3"),
        ("while n > 50: time.sleep(9)\nreturn 1.0", "inconclusive", "did not return within 0.5 s"),
        ("assume(n == 0)\nreturn 1.0", "unrefuted", "no counterexample"),
        ("assume(n > 100)\nreturn 1.0", "inconclusive", "no case drawn satisfied"),
        ("assume(n % 2 == 0)\nreturn 1.0 - n % 2", "unrefuted", "no counterexample"),
        ("return 1.0 if n != 73 else -1.0", "unrefuted", "no counterexample"),
    ],
)
def test_outcomes_of_a_search(tmp_path: Path, body: str, outcome: str, reason: str) -> None:
    lines = "\n".join("    " + line for line in body.splitlines())
    source = (
        "@always('x', where='S', time_limit=0.5, cap=30)\n"
        f"def claim(rng, *, n: Annotated[int, Interval(ge=0, le=100)] = 0):\n{lines}\n"
    )
    verdict = verdicts_of(subject_of(tmp_path, source))["claim"]
    assert (verdict.outcome, reason in verdict.reason) == (outcome, True), verdict.reason


@pytest.mark.parametrize(
    ("arm", "outcome", "reason"),
    [
        ("raise RuntimeError('boom')", "void", "the control does not run (every replicate failed: RuntimeError: boom)"),
        ("return -1.0", "holds", ""),
        ("if rng.random() < 0.7: raise RuntimeError('boom')\n        return 1.0", "void", "the control holds too"),
    ],
)
def test_errors_of_a_control_never_speak_for_the_claim(tmp_path: Path, arm: str, outcome: str, reason: str) -> None:
    body = (
        "@typically('x', where='S', control={'method': 'off'})\n"
        "def claim(rng, *, method: Literal['on', 'off'] = 'on'):\n"
        f"    if method == 'off':\n        {arm}\n    return 1.0 + rng.random()\n"
    )
    verdict = verdicts_of(subject_of(tmp_path, body))["claim"]
    assert (verdict.outcome, reason in verdict.reason) == (outcome, True), verdict.reason


def test_a_search_control_that_crashes_has_no_teeth(tmp_path: Path) -> None:
    body = (
        "@always('x', where='S', control={'sign': -1})\n"
        "def claim(rng, *, sign: Literal[1, -1] = 1, n: Annotated[int, Interval(ge=0, le=9)] = 0):\n"
        "    return 1.0 if sign == 1 else 1 / 0\n"
    )
    assert verdicts_of(subject_of(tmp_path, body))["claim"].outcome == "void"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "control={'typo': 1})\ndef claim(rng, *, n: Literal[1, 2] = 1): return 1.0",
            "its control is impossible: unknown",
        ),
        (
            "control={'n': 3})\ndef claim(rng, *, n: Literal[1, 2] = 1): return 1.0",
            "its control is impossible: n must be",
        ),
        (")\ndef claim(rng, *, case: Literal[1, 2] = 1): return 1.0", "a parameter cannot be named 'case'"),
        (")\ndef claim(rng, n=1): return 1.0", "n must be keyword-only"),
        (")\ndef claim(rng, *, n=1): return 1.0", "claim claim: n has no annotation"),
        (")\ndef claim(rng, *, n: Unknown = 1): return 1.0", "fails to import"),
    ],
)
def test_a_claim_that_cannot_be_checked_names_itself(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(PorismError, match=message):
        subject_of(tmp_path, "@always('x', where='S', " + source + "\n")


@pytest.mark.parametrize(("rung", "option"), [("typically", "cap=6"), ("always", "cap=0"), ("always", "time_limit=0")])
def test_limits_that_settle_nothing_are_refused(tmp_path: Path, rung: str, option: str) -> None:
    control = "control={'n': 2}, " if rung == "typically" else ""
    with pytest.raises(PorismError, match="must be"):
        subject_of(
            tmp_path,
            f"@{rung}('x', where='S', {control}{option})\ndef claim(rng, *, n: Literal[1, 2] = 1): return 1.0\n",
        )


def test_a_counterexample_outside_the_present_ranges_is_not_replayed(tmp_path: Path) -> None:
    source = (
        "@always('x', where='S', cap=50)\n"
        "def claim(rng, *, n: Annotated[int, Interval(ge=0, le=60)] = 0):\n    return 50.0 - n\n"
    )
    assert verdicts_of(subject_of(tmp_path, source))["claim"].outcome == "refuted"
    assert verdicts_of(subject_of(tmp_path, source.replace("le=60", "le=49")))["claim"].outcome == "unrefuted"
    assumed = source.replace("    return", "    assume(n < 50)\n    return")
    assert verdicts_of(subject_of(tmp_path, assumed))["claim"].outcome == "unrefuted"


def test_a_short_search_under_the_same_seed_does_not_settle_a_claim(tmp_path: Path) -> None:
    source = (
        "@always('x', where='S', cap=60)\n"
        "def claim(rng, *, n: Annotated[int, Interval(ge=0, le=10**6)] = 0):\n    return 1.0 + n\n"
    )
    subject = subject_of(tmp_path, source)
    explore(subject, cases=2, root=0, jobs=1)
    for _ in range(2):
        assert verdicts_of(subject)["claim"].main.cases > 20


def test_an_abandoned_check_does_not_answer_for_the_next(tmp_path: Path) -> None:
    """Ctrl-C in a notebook leaves a task half done; its answers are not those of the next one."""
    source = "\n".join(
        f"@always('x', where='S', cap=40)\n"
        f"def {name}(rng, *, n: Annotated[int, Interval(ge=0, le=999)] = 0):\n    time.sleep(0.01)\n    return {value}\n"
        for name, value in (("first", 1.0), ("second", -1.0))
    )
    subject = subject_of(tmp_path, source)

    class Interrupt(Exception):
        pass

    real = ShardWriter.append
    count = 0

    def append(self: ShardWriter, record: Any) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise Interrupt
        real(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardWriter, "append", append)
        patch.setattr("porism.engines._close_worker", lambda: None)  # as loky's idle workers keep theirs
        with pytest.raises(Interrupt):
            check([subject], engine="serial")
    outcomes = {name: v.outcome for name, v in verdicts_of(subject).items()}
    assert outcomes == {"first": "unrefuted", "second": "refuted"}


def test_each_paper_has_its_own_shards(tmp_path: Path, toy: str) -> None:
    other = tmp_path / "other.py"
    other.write_text(Path(toy).read_text().replace('key="toy"', 'key="other"'))
    check([Subject.of(toy), Subject.of(str(other))], engine="serial")
    for key in ("toy", "other"):
        assert {r.paper for r in read_records(home() / "records", key)} == {key}
    assert len(read_records(home() / "records", "toy")) == len(read_records(home() / "records", "other"))


def test_other_seeds_do_not_change_what_counts(toy: str) -> None:
    subject = Subject.of(toy)
    verdicts_of(subject)
    verdicts_of(subject, root=11)
    assert {row.verdict.root for row in current_verdicts(subject) if row.verdict} == {0}


def test_the_verdict_tells_roots_wordings_and_versions_apart(tmp_path: Path) -> None:
    """The same home holds records of two roots and two wordings of one claim; none leaks into another's verdict."""
    body = sampled("return 1.0 + rng.random()")
    for source in (body, body.replace("It is so", "It was so"), body + "\nextra = 1\n"):
        subject = subject_of(tmp_path, source)
        for root in (0, 1):
            verdict = verdicts_of(subject, root=root)["claim"]
            records = read_records(home() / "records", "made")
            mine = [
                r for r in records if (r.claim_hash, r.code_hash, r.root) == (verdict.hash, subject.code_hash, root)
            ]
            assert len(mine) == 9 + 7
            assert verdict.seconds == round(sum(r.seconds for r in mine), 3)
            assert verdict.main.effect == sorted(r.effect or 0.0 for r in mine if r.arm == "main")[4]


def test_the_search_is_steered_to_small_margins(tmp_path: Path) -> None:
    """An octahedron with 3e-4 of the volume of its cube: 300 uniform draws meet it with probability 8 %."""
    ranges = ", ".join(f"{name}: Annotated[int, Interval(ge=0, le=1000)] = 0" for name in "xyz")
    source = (
        "@always('x', where='S', cap=300)\n"
        f"def claim(rng, *, {ranges}):\n    return abs(x - 777) + abs(y - 432) + abs(z - 123) - 60\n"
    )
    assert verdicts_of(subject_of(tmp_path, source))["claim"].outcome == "refuted"


def test_what_explore_finds_is_replayed_by_every_later_check(tmp_path: Path) -> None:
    """A needle that 30 cases miss and 3000 find; afterwards 30 cases find it too, also for changed code."""
    source = (
        "@always('x', where='S', cap=30)\n"
        "def claim(rng, *, n: Annotated[int, Interval(ge=0, le=2000)] = 0):\n    return 1.0 if n != 1234 else -1.0\n"
    )
    subject = subject_of(tmp_path, source)
    assert verdicts_of(subject)["claim"].outcome == "unrefuted"
    assert any(explore(subject, cases=3000, jobs=1)[0].counterexample for _ in range(2))
    assert verdicts_of(subject)["claim"].main.counterexample["parameters"] == {"n": 1234}  # nothing has changed
    edited = subject_of(tmp_path, source + "\nextra = 1\n")
    assert verdicts_of(edited)["claim"].main.counterexample["parameters"] == {"n": 1234}


def test_a_counterexample_keeps_its_random_numbers(tmp_path: Path) -> None:
    """One replicate in two thousand fails: what explore finds under another root fails again in every later check."""
    source = (
        "@always('x', where='S', cap=20)\n"
        "def claim(rng, *, n: Annotated[int, Interval(ge=0, le=1)] = 0):\n    return rng.random() - 5e-4\n"
    )
    subject = subject_of(tmp_path, source)
    assert verdicts_of(subject)["claim"].outcome == "unrefuted"
    found = [explore(subject, cases=2000, jobs=1)[0].counterexample for _ in range(3)]
    example = next(filter(None, found))
    edited = subject_of(tmp_path, source + "\nextra = 1\n")
    verdict = verdicts_of(edited)["claim"]
    assert verdict.root == 0
    assert {**verdict.main.counterexample, "note": ""} == {**example, "note": ""}
    assert verdict.main.cases == 2  # the default point, then the replay


def test_explore_says_when_a_search_was_broken_off(tmp_path: Path) -> None:
    source = (
        "@always('x', where='S', time_limit=0.5)\n"
        "def claim(rng, *, n: Annotated[int, Interval(ge=0, le=100)] = 0):\n    if n > 50: os._exit(3)\n    return 1.0\n"
    )
    (finding,) = explore(subject_of(tmp_path, source), cases=50, jobs=1)
    assert finding.counterexample is None
    assert "then broken off: its process died: exit code 3" in finding.sentence


def test_explore_looks_elsewhere_each_time(tmp_path: Path) -> None:
    source = (
        "@always('x', where='S', cap=20)\n"
        "def claim(rng, *, n: Annotated[int, Interval(ge=0, le=10**9)] = 0):\n    return 1.0 + n\n"
    )
    subject = subject_of(tmp_path, source)
    for _ in range(2):
        explore(subject, cases=20, jobs=1)
    records = [r for r in read_records(home() / "records", "made") if r.status == "ok"]
    assert {r.root for r in records} == {1, 2}
    points = [{r.parameters["n"] for r in records if r.root == root} for root in (1, 2)]
    assert len(points[0] & points[1]) < 10


def test_a_killed_search_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "@always('x', where='S', cap=40)\n"
        "def claim(rng, *, n: Annotated[int, Interval(ge=0, le=10**6)] = 0):\n    return 1.0 + n\n"
    )
    subject = subject_of(tmp_path, source)
    verdicts_of(subject)
    (shard,) = (home() / "records" / "made").glob("*.jsonl")
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(lines[:20]) + lines[20][:30])  # as kill -9 in the middle of a write would leave it
    with pytest.warns(UserWarning, match="cut off"):
        verdicts_of(subject)
    with pytest.warns(UserWarning, match="cut off"):
        records = read_records(home() / "records", "made")
    assert len(list((home() / "records" / "made").glob("*.jsonl"))) == 2
    assert len([r for r in records if r.status == "ok"]) == len(lines) - 1


@pytest.mark.parametrize("shrunk", [False, True])
def test_a_search_killed_after_a_failure_still_names_the_counterexample(tmp_path: Path, shrunk: bool) -> None:
    source = (
        "@always('x', where='S', cap=40)\n"
        "def claim(rng, *, n: Annotated[int, Interval(ge=0, le=10**6)] = 0):\n    return 5e5 - n\n"
    )
    subject = subject_of(tmp_path, source)
    whole = verdicts_of(subject)["claim"]
    (shard,) = (home() / "records" / "made").glob("*.jsonl")
    lines = shard.read_bytes().splitlines(keepends=True)
    failing = next(i for i, line in enumerate(lines) if b'"effect":-' in line)
    shard.write_bytes(b"".join(lines[:-1] if shrunk else lines[: failing + 1]))
    resumed = verdicts_of(subject)["claim"]
    assert resumed.main.counterexample == whole.main.counterexample == {**whole.main.counterexample, "note": "margin 0"}
    assert resumed.main.counterexample["parameters"] == {"n": 500000}


def test_errors_of_the_records_folder_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: str) -> None:
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("PORISM_HOME", str(tmp_path / "blocked"))
    with pytest.raises(PorismError, match="cannot read"):
        check([Subject.of(toy)], engine="serial")


def test_unknown_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PorismError, match="engine must be one of"):
        list(run_tasks([], tmp_path, engine="slurm"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("engine", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_cluster_gives_the_same_verdicts(toy: str, engine: str, package: str) -> None:
    """Ray is in no extra (300 MB); the test runs where somebody installed it."""
    pytest.importorskip(package)
    verdicts = verdicts_of(Subject.of(toy), engine=engine, jobs=2)
    assert verdicts["shift_helps"].outcome == "holds"
    assert verdicts["below_fifty"].main.counterexample["parameters"] == {"number": 50}


def test_committed_verdicts_are_append_only_and_compared(toy: str) -> None:
    subject = Subject.of(toy)
    verdicts = check([subject], engine="serial")
    path = verdict_file(Path(toy))
    assert append_verdicts(path, verdicts) == 4
    assert append_verdicts(path, verdicts) == 0  # nothing new to say
    assert read_verdicts(path) == verdicts
    flipped = [dataclasses.replace(v, outcome="refuted") for v in verdicts if v.claim == "shift_helps"]
    assert append_verdicts(path, flipped) == 1
    assert len(read_verdicts(path)) == 5


def test_a_cut_off_line_of_the_projects_own_verdicts_is_skipped(toy: str) -> None:
    subject = Subject.of(toy)
    first = verdicts_of(subject)
    subject.verdict_file.write_bytes(subject.verdict_file.read_bytes()[:-20])
    with pytest.warns(RecordWarning, match="skipped"):
        assert len(current_verdicts(subject)) == 4
    with pytest.warns(RecordWarning, match="skipped"):
        assert verdicts_of(subject) == first
    with pytest.warns(RecordWarning, match="skipped"):
        assert [row.state for row in current_verdicts(subject)] == [v.outcome for v in first.values()]


@pytest.mark.parametrize(("line", "message"), [("{", "is not a verdict"), ('{"v": 99}', "newer porism")])
def test_a_damaged_verdict_file_is_never_guessed_at(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.verdicts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(PorismError, match=message):
        read_verdicts(path)
