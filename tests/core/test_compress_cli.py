"""The command ``porism compress``: flags from the method's signature, and mistakes that are found before any model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from porism.cli import compress_, main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["compress", *arguments])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


def test_help_lists_the_flags_of_a_method_with_their_ranges(run: Run) -> None:
    code, out, _ = run("--with", "platon", "--help")
    assert code == 0
    said = " ".join(out.split())
    for part in (
        "--remaining",
        "(default 0.2)",
        "--beta2",
        "--warmup",
        "(default none)",
        "--structured",
        "--include PATTERN",
    ):
        assert part in said
    assert "--loss" not in said and "--inplace" not in said and "--calibration " not in said
    said = " ".join(run("--with=nowag", "--help")[1].split())
    assert "one of vq, prune (default vq)" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("m", "--with", "platon", "--remainin", "0.5", "-o", "x"),
            "No such option '--remainin'. Did you mean '--remaining'?",
        ),
        (("m", "-o", "x", "--remaining", "0.5"), "--with KEY says by which method; compressors here:"),
        (("m", "--with", "gear", "-o", "x"), "gear is a cache: give it to model.generate(past_key_values=...)"),
        (("m", "--with", "platn", "-o", "x"), "no paper 'platn'; did you mean 'platon'?"),
        (("m", "--with", "nowag", "--mode", "prun", "-o", "x"), "mode must be one of vq, prune, got 'prun'"),
        (("m", "--with", "platon", "--steps", "many", "-o", "x"), "steps must be int"),
        (("m", "--with", "platon"), "Missing option '-o'"),
        (
            ("m", "--with", "platon", "-o", "x", "--memory", "much"),
            "--memory takes a size such as 2GB or 500MiB, got 'much'",
        ),
        (("m", "--with", "platon", "-o", "x"), "there is no folder m; nothing is downloaded"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("1.5 kB", 1500), ("3MiB", 3 * 2**20), ("70", 70), ("1g", 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert compress_._Bytes().convert(text, None, None) == size


def test_flags_reach_the_method(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def compress(model: str, key: str, output: Path, **given: object) -> dict[str, object]:
        seen.update(given, model=model, key=key, output=output)
        return {"told": 1}

    monkeypatch.setattr("porism.compress.run.compress", compress)
    code, out, _ = run("m", "--with", "platon", "-o", "x", "--remaining", "0.3", "--structured", "--include", "a", "--include",
                       "b", "--memory", "2KB", "--json")  # fmt: skip
    assert code == 0 and '"told": 1' in out
    assert seen["options"] == {"remaining": 0.3, "structured": True}
    assert (seen["include"], seen["exclude"], seen["memory"]) == (["a", "b"], None, 2000)
    assert (seen["model"], seen["key"], seen["output"]) == ("m", "platon", Path("x"))
