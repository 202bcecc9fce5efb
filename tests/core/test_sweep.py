"""Sweeps: the points that are run give the numbers of `porism run`, none is run twice, and the command."""

# ruff: noqa: F811 - a fixture is imported, and named again as the argument of a test
from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_check import HEAD
from test_cli import Run, run  # noqa: F401

from porism.check import Subject
from porism.claims import Claim
from porism.errors import ParameterError, PorismError
from porism.home import home
from porism.runs import run_case, run_demo
from porism.sweep import Sweep, sweep
from porism.tables import read_table

MADE = '''
def log(*words):
    if "SWEEP_LOG" in os.environ:
        with open(os.environ["SWEEP_LOG"], "a") as file:
            file.write(" ".join(map(str, words)) + chr(10))


def demo(rng, *, rate: Annotated[float, Interval(gt=0, le=10)] = 0.1, size: Annotated[int, Interval(ge=1, le=50)] = 4,
         law: Literal["a", "b"] = "a", noisy: bool = True):
    """A sum, a curve and a word."""
    log("demo", rate, size, law, noisy)
    if rate > 5:
        raise ValueError("the rate is too large")
    x = rng.normal(size=size)
    return {"sum": float(x.sum()) * noisy + rate, "curve": x, "size": size, "word": law, "big": 1 / (rate - 2 + 1e-30)}


@typically("A shift raises a normal number", where="S", control={"shift": 0.0}, at_least=0.25)
def shifted(rng, *, shift: Annotated[float, Interval(ge=-4, le=4)] = 1.0) -> Paired:
    log("shifted", shift)
    assume(shift != 3)
    noise = rng.normal()
    return Paired(ours=noise + shift, theirs=noise)
'''


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    path = tmp_path / "made.py"
    path.write_text(HEAD + MADE)
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    return Subject.of(str(path))


def evaluations(tmp_path: Path) -> Counter[str]:
    path = tmp_path / "log"
    return Counter(path.read_text().splitlines() if path.exists() else [])


def swept(subject: Subject, over: dict[str, Any], **options: Any) -> Sweep:
    return sweep(subject, over, **{"engine": "serial", **options})


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


def test_a_demo_gives_the_numbers_of_run(made: Subject) -> None:
    found = swept(made, {"rate": "0.5,1", "law": "all"}, settings={"size": 3}, repeats=2, root=5)
    table = found.table
    assert list(table) == [
        "rate", "law", "seed", "status", "sum", "curve_mean", "curve_last", "size", "word", "big", "note",
    ]  # fmt: skip
    assert table["rate"].tolist() == [0.5] * 4 + [1.0] * 4
    assert table["law"].tolist() == ["a", "a", "b", "b"] * 2
    assert table["seed"].tolist() == [5, 6] * 4
    assert (table["status"] == "ok").all() and (table["size"] == 3).all() and found.remaining == 0
    for row in range(8):
        point = {name: table[name][row].item() for name in ("rate", "law")} | {"size": 3, "noisy": True}
        values = run_demo(made, point, root=int(table["seed"][row]))
        assert values["sum"] == table["sum"][row]
        assert values["curve"][-1] == table["curve_last"][row]
        assert np.mean(values["curve"]) == table["curve_mean"][row]


def test_a_claim_gives_the_margins_of_run(made: Subject) -> None:
    table = swept(made, {"shift": "-1,0,2,3"}, claim="shifted", repeats=2, root=7).table
    assert list(table) == ["shift", "case", "status", "effect", "margin", "ours", "theirs", "note"]
    claim: Claim = made.loaded.claims["shifted"]
    for row in range(6):
        case = run_case(made, claim, int(table["case"][row]), {"shift": float(table["shift"][row])}, root=7)
        assert (case["effect"], case["ours"]) == (table["effect"][row], table["ours"][row])
    np.testing.assert_allclose(table["margin"][:6], [-1.25, -1.25, -0.25, -0.25, 1.75, 1.75])
    assert table["status"][6:].tolist() == ["excluded"] * 2
    assert np.isnan(table["margin"][6:]).all()


def test_sweeps_leave_the_records_of_checks_alone(made: Subject) -> None:
    swept(made, {"shift": "1"}, claim="shifted")
    assert (home() / "sweeps" / "made").exists()
    assert not (home() / "records").exists()


def test_nothing_is_run_twice_whichever_sweep_asked(made: Subject, tmp_path: Path) -> None:
    swept(made, {"rate": "1:3:3"})
    calls: list[Any] = []
    wider = swept(made, {"law": "a,b", "rate": "1:4:4"}, repeats=2, progress=lambda *call: calls.append(call))
    assert [remaining for _, remaining in calls] == list(reversed(range(13)))
    # two repeats of eight points, of which three had one each before
    assert sum(evaluations(tmp_path).values()) == 16
    assert set(evaluations(tmp_path).values()) == {2}  # the two roots of a point
    again = swept(made, {"law": "a,b", "rate": "1:4:4"}, repeats=2)
    assert sum(evaluations(tmp_path).values()) == 16
    assert_same(again.table, wider.table)


def test_changed_code_is_run_again(made: Subject, tmp_path: Path) -> None:
    before = swept(made, {"rate": "1,2"}).table["sum"]
    path = Path(made.key)
    path.write_text(path.read_text().replace("* noisy + rate", "* noisy - rate"))
    after = swept(Subject.of(made.key), {"rate": "1,2"}).table["sum"]
    assert sum(evaluations(tmp_path).values()) == 4
    np.testing.assert_allclose(after, before - [2, 4])


def test_an_interrupted_sweep_goes_on_where_it_was(made: Subject, tmp_path: Path) -> None:
    def stop(records: Any, remaining: int) -> None:
        if remaining == 5:
            raise KeyboardInterrupt

    over = {"rate": "1:4:9"}
    with pytest.raises(KeyboardInterrupt):
        swept(made, over, progress=stop)
    partial = swept(made, over, budget=0)
    assert (len(partial.rows), partial.remaining) == (4, 5)
    assert sum(evaluations(tmp_path).values()) == 4
    whole = swept(made, over)
    assert set(evaluations(tmp_path).values()) == {1}
    assert partial.table["rate"].tolist() == [r for r in whole.table["rate"] if r in partial.table["rate"]]
    # what is cut short has not looked at one end only
    assert partial.table["rate"].tolist() != whole.table["rate"][:4].tolist()


def test_any_engine_gives_the_same_bits(made: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tables = []
    for engine in ("serial", "loky"):
        monkeypatch.setenv("PORISM_HOME", str(tmp_path / engine))
        found = sweep(made, {"rate": "", "size": "1:50"}, random=12, engine=engine, jobs=2)  # type: ignore[arg-type]
        tables.append(found.table)
    assert_same(*tables)
    assert "error" in tables[0]["status"] and "ok" in tables[0]["status"]


def test_another_seed_draws_other_points(made: Subject) -> None:
    rates = [swept(made, {"rate": "1:4"}, random=3, root=root).table["rate"].tolist() for root in (0, 0, 1)]
    assert rates[0] == rates[1] != rates[2]


def test_a_file_is_found_by_workers_in_other_folders(made: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(made.key).parent)
    subject = Subject.of("./made.py")
    monkeypatch.chdir("/")
    assert swept(subject, {"rate": "1"}).table["status"].tolist() == ["ok"]


def test_errors_are_rows(made: Subject) -> None:
    table = swept(made, {"rate": "1,2,6"}).table
    assert table["status"].tolist() == ["ok", "ok", "error"]
    assert table["note"].tolist() == ["", "", "ValueError: the rate is too large"]
    assert np.isnan(table["sum"][2]) and table["word"][2] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"claim": "shited"}, "has no claim 'shited'; did you mean 'shifted'"),
        ({"settings": {"rate": 1.0}}, "rate is both set and varied"),
        ({"settings": {"size": 0}}, r"size must be int in \[1, 50\], got 0"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"engine": "lokey"}, "engine must be one of"),
    ],
)
def test_a_mistake_names_the_argument(made: Subject, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PorismError, match=message):
        swept(made, {"rate": "1"}, **options)


def test_a_paper_without_anything_to_run_says_so(tmp_path: Path) -> None:
    path = tmp_path / "made.py"
    path.write_text(HEAD + MADE.partition("def demo")[0])
    with pytest.raises(PorismError, match="has nothing to run"):
        swept(Subject.of(str(path)), {"rate": "1"})


def test_the_command_writes_table_and_figure_and_counts(run: Run, made: Subject) -> None:
    command = ("sweep", made.key, "--over", "rate=1:6:3,law=a,b", "--set", "size=2", "--engine", "serial", "-o", "out")
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "6 points, 6 runs: 4 ok, 2 error",
        *(f"  out/made-sweep-rate-law.{kind}" for kind in ("csv", "svg", "png")),
    ]
    assert (read_table(Path("out/made-sweep-rate-law.csv"))["rate"] == [1, 1, 3.5, 3.5, 6, 6]).all()
    document = json.loads(run(*command, "--json", "--long")[1])
    assert (document["points"], document["remaining"], document["runs"]) == (6, 0, {"ok": 4, "error": 2})
    assert len(read_table(Path(document["files"]["table"]))["index"]) == 4 * 2 + 2


def test_the_command_sweeps_a_claim_at_random(run: Run, made: Subject) -> None:
    command = ("sweep", f"{made.key}.shifted", "--over", "shift", "--random", "5", "--engine", "serial", "--no-figure")
    code, out, _ = run(*command)
    assert code == 0
    assert out.splitlines()[1:] == ["  sweeps/made-shifted-sweep-shift.csv"]
    table = read_table(Path("sweeps/made-shifted-sweep-shift.csv"))
    np.testing.assert_allclose(table["margin"], table["shift"] - 0.25)


def test_ctrl_c_leaves_the_table_of_what_is_finished(
    run: Run,
    made: Subject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import porism.engines

    perform, calls = porism.engines.perform, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return perform(*arguments)

    monkeypatch.setattr("porism.engines.perform", interrupted)
    code, _, err = run("sweep", made.key, "--over", "rate=1:4:5", "--engine", "serial", "-o", "out")
    assert code == 130
    assert "what was finished is kept" in err
    assert len(read_table(Path("out/made-sweep-rate.csv"))["rate"]) == 2


def test_a_sweep_that_only_fails_says_why(run: Run, made: Subject) -> None:
    code, out, err = run("sweep", made.key, "--over", "rate=6,7", "--engine", "serial")
    assert code == 1
    assert "every run failed, the first with: ValueError: the rate is too large" in err
    assert out.splitlines() == ["2 points, 2 runs: 2 error", "  sweeps/made-sweep-rate.csv"]


def test_words_alone_have_a_table_and_no_figure(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "made.py"
    path.write_text(f"{HEAD}\ndef demo(rng, *, law: Literal['a', 'b'] = 'a'):\n    return {{'word': law * 2}}\n")
    code, _, err = run("sweep", str(path), "--over", "law", "--engine", "serial")
    assert (code, err) == (0, "no figure: made-sweep-law has no numbers to draw\n")
    assert read_table(Path("sweeps/made-sweep-law.csv"))["word"].tolist() == ["aa", "bb"]


def test_without_matplotlib_the_table_is_there(
    run: Run,
    made: Subject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run("sweep", made.key, "--over", "rate=1,2", "--engine", "serial")
    assert code == 0
    assert "no figure: figures need more packages: pip install 'porism[plots]'" in err
    assert out.splitlines()[1:] == ["  sweeps/made-sweep-rate.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--over", "rate=11"), "rate must be float in (0, 10], got 11.0"),
        (("--over", "rte=1"), "did you mean 'rate'?"),
        (("--over", "rate=1", "--engine", "lokey"), "--engine must be one of serial, loky, dask, ray"),
        (("--over", "rate=1", "--format", "xlsx"), "--format must be csv or parquet, got 'xlsx'"),
        (("--over", "rate=1", "--set", "rate=1"), "rate is both set and varied"),
        (("--over", "rate=1", "--budget", "soon"), "a budget is a positive time"),
        (("--over", "rate=1:2"), "a grid needs values of rate"),
        ((), "Missing option '--over'"),
    ],
)
def test_a_mistake_is_one_line(run: Run, made: Subject, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("sweep", made.key, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_scheduler_that_is_not_there_is_one_line(run: Run, made: Subject) -> None:
    dask = pytest.importorskip("dask")
    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        code, _, err = run("sweep", made.key, "--over", "rate=1", "--scheduler", "tcp://127.0.0.1:1")
    assert (code, err.count("\n")) == (2, 1)
    assert "--scheduler tcp://127.0.0.1:1 cannot be reached" in err


def test_a_parameter_error_is_raised_for_the_api(made: Subject) -> None:
    with pytest.raises(ParameterError):
        swept(made, {"rate": [99.0]})
