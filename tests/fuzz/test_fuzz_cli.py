"""Any arguments to any command: an exit code that means something, one line for a mistake, and never a traceback."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import joblib
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from porism.cli import COMMANDS, main
from porism.errors import PorismError
from porism.sandbox import Sandbox

TOY: str = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))["TOY"]

# What a shell can pass on: any text but NUL, with halves of surrogate pairs for bytes that are no UTF-8.
words = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]) | st.just("\udcff"), max_size=12)
numbers = st.sampled_from(
    [
        "0",
        "1",
        "-1",
        "-0",
        "nan",
        "inf",
        "1e999",
        "-1e999",
        "9" * 40,
        "9" * 5000,
        "1.5",
        "0x10",
        "1_0",
        "١",
        " 1",
        "",
        "True",
    ]
)
places = st.sampled_from(
    ["", ".", "..", "/", "/nowhere/at/all", "toy.py", "toy.py/below", "folder", "folder.py", "x" * 300, "\udcff", "-"]
)
members = st.sampled_from(
    ["", ".", ".shift_helps", ".shift_help", ".parabola", ".é", "..", ".py", ".py.py", ".\udcff", ".a.b"]
)
keys = st.builds(
    str.__add__,
    st.sampled_from(["toy.py", "./toy.py", "sinkd", "sinkdd", "ghost.py", "broken.py", "folder", ""]) | words,
    members,
)
settings_of_toy = st.builds(
    "{}={}".format, st.sampled_from(["points", "x", "number", "steps", "", "é"]), numbers | words
)


class NoWork(PorismError):
    """What stands here for the work that a command would begin."""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a toy paper, a broken one, and things of the wrong kind; no work is done in it."""
    made = tmp_path_factory.mktemp("cli")
    (made / "toy.py").write_text(TOY)
    (made / "broken.py").write_text("PAPER = Paper(")
    (made / "folder").mkdir()
    (made / "folder.py").mkdir()

    def refuse(*_: Any, **__: Any) -> Any:
        raise NoWork("no work in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setenv("PORISM_HOME", str(made / "home"))
        patch.setenv("PORISM_CACHE", str(made / "cache"))
        patch.setattr(joblib.Parallel, "__call__", refuse)
        patch.setattr(Sandbox, "run", refuse)
        patch.setattr("porism.report.build_report", lambda output, *_, **__: output / "index.html")
        with contextlib.suppress(ImportError):
            patch.setattr("distributed.Client", refuse)
        yield made


def porism(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, with streams that are as strict as real ones."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        pytest.raises(SystemExit) as stop,
    ):
        main(list(arguments))
    printed, said = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return int(stop.value.code or 0), printed, said


def behaves(*arguments: str) -> None:
    code, out, err = porism(*arguments)
    assert code in (0, 1, 2, 130)
    assert "Traceback" not in err
    if code == 2:
        *remarks, last = err.removesuffix("\n").split("\n")
        assert last.startswith("porism: ")
        assert len(last) > len("porism: ")
        assert all(line.startswith(("porism: ", "broken: ", "left out: ")) for line in remarks)
    elif code == 0 and "--json" in arguments and "--help" not in arguments and "-h" not in arguments:
        json.loads(out)


def options_of(name: str) -> st.SearchStrategy[list[str]]:
    """Options of a command as it declares them, with values that fit and values that do not."""
    command: click.Command = importlib.import_module(f"porism.cli.{name}_").command
    drawn: list[st.SearchStrategy[list[str]]] = []
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        flags = st.sampled_from([*option.opts, *option.secondary_opts])
        if option.is_flag:
            drawn.append(flags.map(lambda flag: [flag]))
        else:
            value = numbers | places | words | settings_of_toy
            drawn.append(st.tuples(flags, value).map(list))
            drawn.append(st.tuples(flags, value).map(lambda pair: [f"{pair[0]}={pair[1]}"]))
    return st.one_of(drawn)


def arguments_of(name: str) -> st.SearchStrategy[list[str]]:
    tokens = st.one_of(
        options_of(name),
        keys.map(lambda key: [key]),
        (numbers | places | words).map(lambda word: [word]),
        st.sampled_from([["--"], ["-h"], ["--help"], ["-"], ["--no-such-option"], ["--json=1"], ["-o"], ["--seed"]]),
    )
    first = st.one_of(st.just([]), keys.map(lambda key: [key]), st.just(["toy.py"]), st.just(["toy.py.parabola"]))
    return st.builds(
        lambda first, rest: [*first, *(word for token in rest for word in token)], first, st.lists(tokens, max_size=4)
    )


@pytest.mark.parametrize("name", COMMANDS)
@given(data=st.data())
def test_any_arguments_of_a_command(name: str, data: st.DataObject) -> None:
    behaves(name, *data.draw(arguments_of(name)))


@given(st.lists(words | numbers | places | st.sampled_from([*COMMANDS, "--version", "-h", "--help"]), max_size=3))
@example(["\udcff"])
@example(["-"])
def test_any_words_in_place_of_a_command(arguments: list[str]) -> None:
    if arguments and not set(arguments) & set(COMMANDS):
        behaves(*arguments)


@given(st.sampled_from(["x", "y", "sign", "case", "seed", "number", "é", ""]), numbers | words, st.booleans())
def test_any_flag_of_a_claim(name: str, value: str, joined: bool) -> None:
    flag = [f"--{name}={value}"] if joined else [f"--{name}", value]
    behaves("run", "toy.py.square_is_convex", *flag)


@pytest.mark.parametrize("command", ["show", "check", "explore", "figure", "run", "report"])
@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"\xff\xfe",
        b"PAPER = Paper(",
        TOY.replace("import sympy", "raise SystemExit(3)").encode(),
        TOY.replace("import sympy", "raise KeyboardInterrupt").encode(),
        TOY.replace("import sympy", "1 / 0").encode(),
        TOY.replace("import sympy", "raise RuntimeError('two\\nlines \\udcff')").encode(),
        TOY.replace("Interval(ge=2, le=100)", "Interval(ge=100, le=2)").encode(),
        TOY.replace('control={"sign": -1}', 'control={"sign": 3}').encode(),
        TOY.replace("def below_fifty", "def square_is_convex").encode(),
        TOY.replace("title=", "title='\\udcff' or ").encode(),
    ],
    ids=[
        "empty",
        "no text",
        "syntax",
        "exits",
        "interrupts",
        "raises",
        "raises lines",
        "range",
        "control",
        "twice",
        "title",
    ],
)
def test_a_broken_paper_is_one_line_for_every_command(folder: Path, command: str, source: bytes) -> None:
    path = folder / f"bad_{abs(hash(source))}.py"
    path.write_bytes(source)
    behaves(command, str(path))


@pytest.mark.parametrize("command", [("figure", "toy.py"), ("new", "made", "--kind", "loss"), ("report", "toy.py")])
def test_an_output_that_cannot_be_a_folder_is_one_line(folder: Path, command: tuple[str, ...]) -> None:
    for output in ("toy.py", "toy.py/below", "x" * 300, "/proc/none"):
        behaves(*command, "-o", output)
    assert (folder / "toy.py").read_text() == TOY


@pytest.mark.parametrize("name", ["PORISM_HOME", "PORISM_CACHE", "PORISM_PLUGINS", "PORISM_STRICT"])
@given(value=(places | words | numbers).filter(lambda value: len(value) < 200))
def test_any_value_of_the_environment(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        behaves("list", "--json")
        behaves("show", "toy.py", "--json")


def test_a_home_whose_name_is_too_long_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORISM_HOME", "x" * 300)
    behaves("show", "toy.py")


def test_no_arguments_show_the_help() -> None:
    _, out, err = porism()
    assert "Commands:" in out + err
    assert not err.startswith("porism: ")


def test_a_mistake_with_a_line_end_is_one_line() -> None:
    behaves("list", "two\nlines")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are always text")
def test_a_paper_whose_name_is_no_utf8_can_be_shown_and_named(folder: Path) -> None:
    path = folder / "odd\udcff.py"
    path.write_text(TOY)
    for arguments in (["show", str(path)], ["show", str(path), "--json"], ["run", str(path), "--help"]):
        assert porism(*arguments)[0] == 0
        behaves(*arguments)
