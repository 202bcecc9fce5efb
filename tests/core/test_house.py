"""The house's own rules: who imports whom, how long files are, what the docs must name."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "porism": ROOT / "toolkit" / "porism",
    "porism_sims": ROOT / "sims" / "porism_sims",
    "porism_theory": ROOT / "theory" / "porism_theory",
    "porism_plugins": ROOT / "plugins" / "porism_plugins",
}
MAY_IMPORT = {
    "porism": set(),
    "porism_sims": {"porism"},
    "porism_theory": {"porism", "porism_sims"},
    "porism_plugins": {"porism", "porism_sims", "porism_theory"},
}
FILES = [(package, path) for package, folder in SOURCES.items() for path in sorted(folder.rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names |= {node.module or ""}
    return names


def is_paper(path: Path) -> bool:
    return "\nPAPER = Paper(" in path.read_text()


@pytest.mark.parametrize(("package", "path"), FILES, ids=lambda value: getattr(value, "name", value))
def test_imports_go_one_way(package: str, path: Path) -> None:
    ours = {name for name in imported(path) if name.partition(".")[0] in SOURCES}
    foreign = {name for name in ours if name.partition(".")[0] != package}
    assert {name.partition(".")[0] for name in foreign} <= MAY_IMPORT[package]
    if is_paper(path):
        for name in ours:
            other = SOURCES[name.partition(".")[0]].joinpath(*name.split(".")[1:]).with_suffix(".py")
            assert not (other.exists() and is_paper(other)), f"{path.name} imports another paper: {name}"


@pytest.mark.parametrize("path", [path for _, path in FILES], ids=lambda path: path.name)
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    limit = 250 if is_paper(path) else 400
    assert len(path.read_text().splitlines()) <= limit


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(path) for _, path in FILES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_public_functions_of_the_core_are_documented_and_typed() -> None:
    lacking = []
    for package, path in FILES:
        if package == "porism":
            for node in ast.parse(path.read_text()).body:
                public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
                if public and not ast.get_docstring(node):
                    lacking.append(f"{path.name}: {node.name}")
    assert not lacking


def test_extras_in_the_code_are_those_of_the_package() -> None:
    import tomllib

    from porism.paper import EXTRAS

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) <= set(declared)
    everything = " ".join(requirement for extra in declared.values() for requirement in extra)
    assert "torchvision" not in everything  # its wheel breaks transformers beside the CPU build of torch


def test_importing_porism_stays_cheap() -> None:
    """A generous multiple of bare Python, so that it fails for a new heavy import and not for a slow machine."""

    def best(code: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
            times.append(time.perf_counter() - start)
        return min(times)

    assert best("import porism") < 4 * best("pass") + 0.02


def test_pages_name_every_command_and_public_name() -> None:
    import porism
    from porism.cli import COMMANDS

    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    assert [name for name in COMMANDS if f"porism {name}" not in text] == []
    assert [name for name in porism.__all__ if name not in text] == []


# What a divergence, a metric or a two-sample test is called, and the functions of libraries that compute one.
MATHEMATICS = re.compile(
    r"(divergence|(^|_)(kl|js|jsd|tv|chi2|mmd|ece|auc|hellinger|wasserstein)($|_)|^accuracy$|total_variation|energy_distance"
    r"|calibration_error|permutation_test|two_sample|effective_rank|sharpness)"
)
THEIRS = {
    "brier_score_loss",
    "emd2",
    "jensenshannon",
    "kl_div",
    "ks_2samp",
    "rel_entr",
    "roc_auc_score",
    "sinkhorn2",
    "wasserstein_distance",
}


@pytest.mark.parametrize(
    ("package", "path"), [f for f in FILES if f[0] != "porism"], ids=lambda v: getattr(v, "name", v)
)
def test_divergences_and_metrics_are_written_in_the_core_only(package: str, path: Path) -> None:
    """A paper may be about one and then names it in a claim; what it computes comes from the core."""
    tree = ast.parse(path.read_text())
    decorated = {node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.decorator_list}
    own = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node not in decorated
        and MATHEMATICS.search(node.name)
        and not any(isinstance(part, ast.Name | ast.Attribute) and _from_core(tree, part) for part in ast.walk(node))
    ]
    assert own == [], f"{path.name} writes {', '.join(own)} of its own; porism has a room for it"
    calls = {getattr(n.func, "attr", getattr(n.func, "id", "")) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert calls & THEIRS == set()


def _from_core(tree: ast.Module, part: ast.Name | ast.Attribute) -> bool:
    """Whether an expression is a name that the file imports from the core's mathematics."""
    rooms = ("divergences", "discrepancies", "transport", "metrics", "geometry")
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    names = {
        alias.asname or alias.name
        for node in imports
        for alias in node.names
        if str(node.module).startswith(tuple(f"porism.{room}" for room in rooms))
        or (node.module == "porism" and alias.name in rooms)
    }
    return isinstance(part, ast.Name) and part.id in names
