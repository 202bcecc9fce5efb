"""Python blocks in the pages run, and the example paper of CONTRIBUTING.md is a real one."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from porism.check import Subject, check

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # pages may save models
    file = tmp_path / "block.py"
    file.write_text(block)
    runpy.run_path(str(file))


def test_the_example_paper_holds_what_it_promises(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    path = tmp_path / "shrinkage.py"
    path.write_text(block)
    verdicts = check([Subject.of(str(path))], engine="serial")
    assert {v.claim: v.outcome for v in verdicts} == {"lower_error": "holds", "same_direction": "unrefuted"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_generated_tables_are_those_of_the_code() -> None:
    build = runpy.run_path(str(ROOT / "docs" / "build_tables.py"))
    page = (ROOT / "docs" / "divergences.md").read_text()
    assert build["built"](page) == page, "run python docs/build_tables.py"
