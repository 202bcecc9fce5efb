"""The hash of the code follows what it does, and neither its layout nor the version of Python."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from porism.fingerprint import code_hash
from porism.source import normalise, source_of

BEFORE = '''
"""Module."""

def f(x, y):
    """Doc."""
    # why
    z = {"a": 1, 'b': [x, y]}
    if x:
        return f"{x + y:.3f} # {z['a']}"

    return x
'''

LAYOUT = """
def f(
    x,
    y  # an argument
):
    z = {
        "a": 1,
        'b': [x, y]
    }
    if x:
        return f"{x + y:.3f} # {z['a']}"
    return x
"""


def test_layout_does_not_count() -> None:
    assert normalise(BEFORE) == normalise(LAYOUT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x + y", "x - y"),
        (".3f", ".4f"),
        ('"a": 1', '"a": 2'),
        ("    return x\n", "        return x\n"),
        ("# {z", "{z"),
        ('"a"', '" a"'),
        ("'b'", "'b '"),
        ("[x, y]", "[x, y,]"),
    ],
)
def test_what_the_code_does_counts(old: str, new: str) -> None:
    changed = BEFORE.replace(old, new)
    assert changed != BEFORE
    ast.parse(changed)
    assert normalise(changed) != normalise(BEFORE)


def _decorate(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@_decorate
@_decorate
def decorated(x: int) -> int:  # a comment
    """Doc."""

    def inner() -> int:
        return x + 1

    return inner()


class Methods:
    async def method(self) -> int:
        return 1

    # the end


@pytest.mark.parametrize(
    "function",
    [decorated, Methods.method, lambda x: x, functools.partial],
    ids=["decorated", "method", "lambda", "class"],
)
def test_the_source_of_a_function_is_what_inspect_finds(function: Callable[..., Any]) -> None:
    expected = normalise(textwrap.dedent(inspect.getsource(function)))
    assert normalise(source_of(function)) == expected


def test_the_text_is_the_same_on_every_python() -> None:
    """No piece of it comes from a tree, nor from the tokens of an f-string, which differ between versions."""
    assert normalise(BEFORE) == (
        "deff(x,y):\n{\nz={\"a\":1,'b':[x,y]}\nifx:\n{\nreturnf\"{x+y:.3f}#{z['a']}\"\n}\nreturnx\n}"
    )


def test_imported_files_of_ours_count_and_the_engine_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "engine.py").write_text("FACTOR = 2\n")
    (package / "other.py").write_text("UNUSED = 2\n")
    paper = package / "paper.py"
    paper.write_text("import numpy\nfrom porism.claims import typically\nfrom pack.engine import FACTOR\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code_hash(paper, "pack.paper")
    (package / "other.py").write_text("UNUSED = 33\n")
    (package / "engine.py").write_text('"""Doc."""\nFACTOR = 2  # two\n')
    assert code_hash(paper, "pack.paper") == before
    (package / "engine.py").write_text("FACTOR = 33\n")
    assert code_hash(paper, "pack.paper") != before


@pytest.mark.parametrize(
    "line", ["from .engine import FACTOR", "import pack.engine", "from pack import engine", "import pack"]
)
def test_every_way_to_import_counts(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("from pack import engine\n")
    (package / "engine.py").write_text("import pack.paper\nFACTOR = 2\n")  # a circle
    paper = package / "paper.py"
    paper.write_text(line + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code_hash(paper, "pack.paper")
    (package / "engine.py").write_text("import pack.paper\nFACTOR = 33\n")
    assert code_hash(paper, "pack.paper") != before


def test_shared_mathematics_counts() -> None:
    from porism import fingerprint

    assert fingerprint._counts("porism.testbeds.digits", "porism_plugins")
    assert fingerprint._counts("porism_sims.label_shift", "porism_theory")
    assert fingerprint._counts("porism.stats", "porism_plugins")
    assert not fingerprint._counts("porism.check", "porism_plugins")
    assert not fingerprint._counts("numpy", "porism_plugins")


def test_modules_that_a_package_loads_when_they_are_used_count() -> None:
    from porism import fingerprint

    names = {name for name, _ in fingerprint._files("porism.transport")}
    assert {"porism.transport", "porism.transport.entropic", "porism.transport.one_dimensional"} <= names
    assert [name for name, _ in fingerprint._files("porism.claims")] == ["porism.claims"]
    assert list(fingerprint._files("numpy.no_such_module")) == []
