"""The decorator and the lists behind it: what a stranger gets wrong is said, not passed over."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from porism.errors import PorismError
from porism.registry import BrokenPaperError
from porism.scan import Broken, Listing
from porism.testing import checks_for, papers_in, parametrize_with_checks
from porism.testing import conformance as module

BROKEN = Path(__file__).parents[1] / "broken_plugins"
NAN = BROKEN / "check_replicate_is_finite.py"


def outcomes(folder: Path, expected: Mapping[str, Mapping[str, str]]) -> str:
    """Run the three lines on a broken plugin in a pytest of its own, and return its report."""
    (folder / "test_it.py").write_text(
        "from porism.testing import parametrize_with_checks\n"
        f"@parametrize_with_checks([{str(NAN)!r}], {expected!r})\n"
        "def test_porism(paper, check): check(paper)\n"
    )
    command = [sys.executable, "-m", "pytest", "-rA", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_expected_failures_are_run_and_strict(tmp_path: Path) -> None:
    key = NAN.stem
    report = outcomes(tmp_path, {key: {key: "the paper says infinity", "check_has_a_claim": "it has one"}})
    assert f"XFAIL test_it.py::test_porism[{key}-{key}] - the paper says infinity" in report
    assert f"FAILED test_it.py::test_porism[{key}-check_has_a_claim]" in report
    assert "[XPASS(strict)] it has one" in report
    assert f"PASSED test_it.py::test_porism[{key}-check_claim_wording]" in report
    assert re.search(r"(?<!\d)1 failed, .*(?<!\d)1 xfailed", report)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"check_replicate_is_finit": {}}, "not checked here; did you mean 'check_replicate_is_finite'"),
        ({NAN.stem: {"check_has_claim": "why"}}, "no check 'check_has_claim'; did you mean 'check_has_a_claim'"),
    ],
)
def test_unknown_names_in_expected_failures(expected: dict[str, dict[str, str]], message: str) -> None:
    with pytest.raises(PorismError, match=message):
        parametrize_with_checks([str(NAN)], expected)


def test_no_papers_are_no_success() -> None:
    with pytest.raises(PorismError, match="no papers"):
        parametrize_with_checks([])


def test_papers_of_a_package() -> None:
    assert "sinkd" in papers_in("porism_plugins")
    assert "sinkd" in papers_in("porism_plugins.distill")
    assert "label_shift" not in papers_in("porism_plugins")
    with pytest.raises(PorismError, match="no installed paper is in package 'porism_plug'"):
        papers_in("porism_plug")


def test_a_broken_paper_of_the_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import porism_plugins

    path = str(Path(porism_plugins.__file__).parent / "distill" / "bad.py")
    monkeypatch.setattr(module, "listing", lambda: Listing(broken=[Broken(path, "SyntaxError: no")]))
    with pytest.raises(BrokenPaperError, match=r"bad\.py: SyntaxError: no"):
        papers_in("porism_plugins")


def test_a_missing_extra_skips_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_extras", lambda paper: ["hf"])
    (parameter,) = parametrize_with_checks([str(NAN)], {NAN.stem: {"check_has_a_claim": "why"}}).args[1]
    assert [mark.name for mark in parameter.marks] == ["skip"]
    assert "porism[hf]" in parameter.marks[0].kwargs["reason"]


def test_checks_follow_from_the_kinds() -> None:
    loss = {check.name for check in checks_for(str(BROKEN / "check_loss_on_cuda.py"))}
    pipeline = {check.name for check in checks_for(str(NAN))}
    assert pipeline < loss
    assert {name.startswith("check_loss") for name in loss - pipeline} == {True}
