"""The command line as a person meets it: exit codes, JSON, one line for a mistake."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from porism.cli import COMMANDS, main
from porism.scan import Broken, Entry, Listing, read_paper

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        code = stop.value.code
        captured = capsys.readouterr()
        return int(code or 0), captured.out, captured.err

    return call


def test_help_names_every_command_and_each_has_an_example(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in COMMANDS:
        assert command in out
        code, text, _ = run(command, "--help")
        assert code == 0
        assert f"Example: porism {command}" in " ".join(text.split())


def test_every_command_has_json(run: Run) -> None:
    for command in COMMANDS:
        assert "--json" in run(command, "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lst",), "no command 'lst'; did you mean 'list'?"),
        (("show", "sinkdd"), "no paper 'sinkdd'; did you mean 'sinkd'?"),
        (("check",), "name the papers to check, or give --all"),
        (("check", "TOY", "--jobs", "0"), "--jobs must be -1 or a positive number"),
        (("check", "TOY", "--engine", "lokey"), "--engine must be one of serial, loky, dask, ray"),
        (("check", "TOY.shift_help"), "did you mean 'shift_helps'?"),
        (("check", "TOY", "--job", "1"), "No such option '--job'"),
        (("list", "--kind", "los"), "no kind 'los'; did you mean 'loss'?"),
        (("list", "--family", "distil"), "did you mean 'distill'?"),
        (("figure", "TOY.parabla"), "did you mean 'parabola'?"),
        (("figure", "TOY", "--set", "points"), "--set takes name=value"),
        (("figure", "TOY", "--set", "points=1"), "points must be int in [2, 100], got 1"),
        (("figure", "TOY", "--set", "pts=5"), "did you mean 'points'?"),
        (("run", "TOY", "--steps", "0"), "steps must be int in [1, 100], got 0"),
        (("run", "TOY", "--steps", "many"), "steps must be int in [1, 100], got 'many'"),
        (("run", "TOY", "--step", "3"), "No such option '--step'"),
        (("show", "no_file.py"), "no file no_file.py"),
        (("show", "TOY.nope"), "no claim 'nope'"),
        (("check", "."), "neither a paper's key nor a Python file"),
        (("check", "./folder"), "neither a paper's key nor a Python file"),
        (("explore", "TOY", "--jobs", "0"), "--jobs must be -1 or a positive number"),
        (("explore", "TOY.shift_helps"), "has no claim with ranges to explore"),
        (("explore", "TOY", "--beyond"), "has no claim that declares `beyond`"),
        (("explore", "TOY", "--beyond", "--cases", "9"), "--beyond takes --rays"),
        (("explore", "TOY", "--rays", "9"), "--rays and --output are for --beyond"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(run: Run, toy: str, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*(argument.replace("TOY", toy) for argument in arguments))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""


def test_list_as_table_and_json(run: Run) -> None:
    _, out, _ = run("list", "--kind", "loss")
    assert "sinkd\tloss\tdistill\t2024" in out
    assert "label_shift" not in out
    _, out, _ = run("list", "--family", "distill")
    assert "sinkd\tloss\tdistill\t2024" in out
    assert {line.split("\t")[2] for line in out.splitlines()[1:]} == {"distill"}
    keys = [paper["key"] for paper in json.loads(run("list", "--json")[1])["papers"]]
    assert {"label_shift", "sinkd"} <= set(keys)


def test_show_says_how_to_call_it_and_how_to_cite_it(run: Run, toy: str) -> None:
    code, out, _ = run("show", toy)
    assert code == 0
    for part in ("A toy", "simulate(rng", "not checked", "Every number is below fifty", "@article{toy2020"):
        assert part in out
    document = json.loads(run("show", toy, "--json")[1])
    assert [claim["name"] for claim in document["claims"]][0] == "shift_helps"


def test_check_show_and_contradiction(run: Run, toy: str) -> None:
    code, out, _ = run("check", toy, "--jobs", "2", "--commit")
    assert code == 0
    assert "toy.shift_helps\ttypically\tholds" in out
    assert "1 of the 1 sampled claims here survive e-BH at 5 % FDR" in out
    assert "refuted" in run("show", toy)[1]
    committed = Path(toy).with_name("toy.verdicts.jsonl")
    lines = committed.read_text().splitlines()
    flipped = json.loads(lines[0]) | {"outcome": "refuted"}
    committed.write_text("\n".join([*lines, json.dumps(flipped)]) + "\n")
    code, out, err = run("check", toy, "--json")
    assert code == 1
    assert [(d["kind"], d["claim"]) for d in json.loads(out)["differences"]] == [("contradiction", "toy.shift_helps")]
    assert "contradiction: toy.shift_helps was committed as refuted, is now holds" in err
    assert "before: refuted: 9 of 9" in err and "now: holds: 9 of 9" in err


def test_a_paper_named_twice_counts_once(run: Run, toy: str) -> None:
    verdicts = json.loads(run("check", toy, f"{toy}.binomial", toy, "--json")[1])["verdicts"]
    assert len(verdicts) == 4


def test_check_one_claim_only(run: Run, toy: str) -> None:
    verdicts = json.loads(run("check", f"{toy}.binomial", "--json")[1])["verdicts"]
    assert [verdict["claim"] for verdict in verdicts] == ["binomial"]


def test_show_takes_the_verdict_that_fits_the_code(run: Run, toy: str) -> None:
    def state() -> str:
        (claim,) = (c for c in json.loads(run("show", toy, "--json")[1])["claims"] if c["name"] == "shift_helps")
        return str(claim["state"])

    path, name = Path(toy), f"{toy}.shift_helps"
    source = path.read_text()
    run("check", name, "--commit")
    path.write_text(source.replace("1.0 if shift", "-1.0 if shift"))
    assert state() == "stale"
    run("check", name)
    assert state() == "refuted"
    path.write_text(source)  # only the committed verdict fits again
    assert state() == "holds"


def test_check_one_claim_only_under_another_seed(run: Run, toy: str) -> None:
    verdicts = json.loads(run("check", f"{toy}.binomial", "--seed", "5", "--json")[1])["verdicts"]
    assert [(verdict["claim"], verdict["root"]) for verdict in verdicts] == [("binomial", 5)]


def test_a_void_verdict_is_exit_code_one(run: Run, toy: str) -> None:
    path = Path(toy)
    path.write_text(path.read_text().replace('control={"shift": "off"}', 'control={"shift": "on"}'))
    code, out, _ = run("check", f"{toy}.shift_helps")
    assert code == 1
    assert "toy.shift_helps\ttypically\tvoid" in out
    assert "0 of the 1 sampled claims here survive" in out


@pytest.fixture
def three_installed(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A paper that works, one whose import fails and one that cannot even be listed."""
    (tmp_path / "bad.py").write_text(Path(toy).read_text().replace('"toy"', '"bad"') + "raise RuntimeError('boom')\n")
    good = Entry(read_paper(toy), "", toy, "file")
    bad = Entry(dataclasses.replace(good.paper, key="bad"), "", str(tmp_path / "bad.py"), "file")
    found = Listing({"toy": good, "bad": bad}, [Broken("somewhere", "SyntaxError: never closed")])
    monkeypatch.setattr("porism.registry.listing", lambda: found)


def test_check_all_names_what_it_leaves_out(run: Run, three_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr("porism.check.check", lambda subjects, **_: checked.extend(s.key for s in subjects) or [])
    code, _, err = run("check", "--all")
    assert (code, checked) == (0, ["toy"])
    assert "broken: somewhere: SyntaxError: never closed" in err
    assert "left out: paper 'bad' fails to import: RuntimeError: boom" in err


def test_explore_prints_a_command_that_reproduces_the_counterexample(run: Run, toy: str) -> None:
    code, out, _ = run("explore", f"{toy}.below_fifty", "--cases", "50")
    assert code == 1
    (command,) = [line.strip() for line in out.splitlines() if line.startswith("  porism run")]
    assert "--seed 1" in command  # not the root of a check
    code, out, _ = run(*command.split()[1:])
    assert code == 0
    assert "true here\tno" in out
    assert "effect\t0" in out


def test_explore_beyond_prints_the_boundary_and_the_files(run: Run, toy: str, tmp_path: Path) -> None:
    source = Path(toy).read_text()
    Path(toy).write_text(
        source.replace('where="Sec. 3")', 'where="Sec. 3", beyond={"number": Interval(ge=-9, le=200)})')
    )
    code, out, _ = run("explore", f"{toy}.below_fifty", "--beyond", "--rays", "1", "-o", str(tmp_path / "drawn"))
    assert code == 0
    assert "below_fifty: claimed down to number = 0; holds to -9" in out
    assert "claimed up to number = 100; breaks from 50" in out
    assert all((tmp_path / "drawn" / f"toy-below_fifty-beyond.{kind}").exists() for kind in ("svg", "png", "csv"))
    code, out, _ = run("explore", f"{toy}.below_fifty", "--beyond", "--rays", "1", "--json")
    assert [row["breaks"] for row in json.loads(out)] == [[None], [50.0]]


def test_run_demo_and_flags(run: Run, toy: str) -> None:
    first, again, other = (run("run", toy, "--steps", "9", "--seed", seed)[1] for seed in ("0", "0", "1"))
    assert first == again != other
    assert set(json.loads(run("run", toy, "--json")[1])) == {"sum"}
    help_text = " ".join(run("run", toy, "--help")[1].split())
    assert "--steps INT int in [1, 100] (default 3)" in help_text


def test_figure_writes_three_files(run: Run, toy: str, tmp_path: Path) -> None:
    code, out, _ = run("figure", f"{toy}.parabola", "-o", "out")
    assert code == 0
    assert out.split() == [f"out/toy-parabola.{kind}" for kind in ("svg", "png", "csv")]
    assert all((tmp_path / line).stat().st_size for line in out.split())


def test_a_figure_follows_its_seed(run: Run, toy: str) -> None:
    for seed in ("0", "1"):
        assert run("figure", toy, "--seed", seed, "-o", seed)[0] == 0
    assert Path("0/toy-parabola.csv").read_text() != Path("1/toy-parabola.csv").read_text()


def test_settings_need_one_figure(run: Run, toy: str) -> None:
    path = Path(toy)
    path.write_text(path.read_text() + '\n\n@figure("Two", where="Fig. 2")\ndef second(rng):\n    return {}\n')
    code, _, err = run("figure", toy, "--set", "points=5")
    assert (code, err) == (2, "porism: --set needs one figure: KEY.FIGURE\n")


def test_doctor_names_what_is_broken(run: Run, three_installed: None) -> None:
    code, out, _ = run("doctor")
    assert code == 1
    assert "2 papers, 0 wait for an extra, 2 broken" in out
    assert "RuntimeError: boom" in out
    assert "SyntaxError: never closed" in out


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("while True: pass", "its import does not end within 2 s"),
        ("import os; os._exit(3)", "its import ends the process: exit code 3"),
    ],
)
def test_doctor_outlives_what_it_imports(
    run: Run, three_installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, reason: str
) -> None:
    monkeypatch.setattr("porism.cli.doctor_.IMPORT_SECONDS", 2.0)
    with (tmp_path / "bad.py").open("a") as file:
        file.write(f"\n{line}\n")
    source = (tmp_path / "bad.py").read_text()
    (tmp_path / "bad.py").write_text(source.replace("raise RuntimeError('boom')", ""))
    code, out, _ = run("doctor")
    assert code == 1
    assert reason in out
    assert "2 papers, 0 wait for an extra, 2 broken" in out


def test_doctor_is_content_where_nothing_is_broken(run: Run) -> None:
    code, out, _ = run("doctor", "--no-imports")
    assert code == 0
    assert "extra torch" in out
    document = json.loads(run("doctor", "--no-imports", "--json")[1])
    assert document["broken"] == []


def test_an_interrupt_says_that_nothing_is_lost(run: Run, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("porism.check.check", interrupted)
    code, _, err = run("check", toy)
    assert code == 130
    assert "what was finished is kept" in err
