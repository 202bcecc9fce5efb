"""A hash of the code behind a paper's margins, so that records of other code are never reused."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

from porism.scan import locate
from porism.source import normalise

# Raise it when the core changes what a margin, a case or a seed is (search, symbolic, seeds, claims): every record
# made before counts for nothing then.
ENGINE = 2
# Whose code can change a margin beside that.
_MATHEMATICS = tuple(
    f"porism.{name}"
    for name in (
        "arrays",
        "divergences",
        "discrepancies",
        "transport",
        "metrics",
        "geometry",
        "kernels",
        "testbeds",
        "stats",
        "surgery",
        "packing",
    )
)
_PACKAGES = ("porism_sims", "porism_theory", "porism_plugins")


def code_hash(path: Path, module: str = "") -> str:
    """Twelve hex digits over a paper's file and every file of ours that it imports, directly or not.

    Docstrings, comments and layout do not count.
    """
    own = module.partition(".")[0]
    visited: dict[str, str] = {}
    _visit(module or path.stem, str(path), own, visited)
    text = f"engine {ENGINE}\n" + "\n".join(f"{name}:{source}" for name, source in sorted(visited.items()))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]


def _visit(module: str, path: str, own: str, visited: dict[str, str]) -> None:
    there = os.stat(path)
    source, imported = _read(path, module, (there.st_size, there.st_mtime_ns, there.st_ctime_ns))
    visited[module] = source
    for name in imported:
        if _counts(name, own):
            for part, file in _files(name):
                if part not in visited:
                    _visit(part, file, own, visited)


def _files(module: str) -> Iterator[tuple[str, str]]:
    """The files that importing a module may run, with their names.

    For a package of the mathematics all in it, as these load their modules when a name is first used.
    """
    found = locate(module)
    if not found or not os.path.isdir(found):
        if found and os.path.isfile(found) and found.endswith(".py"):
            yield module, found
        return
    whole = module.startswith(_MATHEMATICS)
    for name in sorted(os.listdir(found)) if whole else ["__init__.py"]:
        path = os.path.join(found, name)
        if name.endswith(".py") and os.path.isfile(path):
            yield (module if name == "__init__.py" else f"{module}.{name[:-3]}"), path


def _counts(module: str, own: str) -> bool:
    if module.startswith(_MATHEMATICS):
        return True
    top = module.partition(".")[0]
    return top in _PACKAGES or (top == own and top != "porism")


@functools.cache
def _read(path: str, module: str, version: tuple[int, int, int]) -> tuple[str, tuple[str, ...]]:
    """The normalised source of a file and the modules it may import; ``version`` keeps the cache honest."""
    source = Path(path).read_text(encoding="utf-8")
    tree = ast.parse(source, path)
    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
    imported = tuple(dict.fromkeys(_imports(tree, package)))
    return normalise(source), imported


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = resolve_name("." * node.level + base, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
