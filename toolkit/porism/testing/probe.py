"""Importing one paper in a fresh process to see what that does: ``python -m porism.testing.probe KEY``.

Everything that the file imports from elsewhere is imported first, so that what is seen is its own doing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from porism.registry import LoadedPaper, find
from porism.scan import Entry

TIME_LIMIT = 300.0


class Seen(NamedTuple):
    """What importing a paper did: the text on stdout, global state that changed, the error it raised."""

    printed: str
    changed: list[str]
    error: str


def probe(loaded: LoadedPaper) -> Seen:
    """Import the paper in a process of its own; one process for each version of the file."""
    key = loaded.paper.key
    with contextlib.suppress(Exception):
        if find(key).path == str(loaded.path):
            return _probe(key, loaded.path.stat().st_ctime_ns)
    return _probe(str(loaded.path), loaded.path.stat().st_ctime_ns)


@functools.lru_cache(maxsize=32)
def _probe(reference: str, changed: int) -> Seen:
    command = [sys.executable, "-m", "porism.testing.probe", reference]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    if done.returncode != 0:
        return Seen("", [], (done.stderr.strip().splitlines() or ["the process died"])[-1])
    return Seen(*json.loads(done.stdout))


def main(reference: str) -> Seen:
    """Import the paper here and now, and report."""
    from porism.testing.imports import foreign_imports
    from porism.testing.leaks import held, leaked
    from porism.testing.state import changes, snapshot

    entry = find(reference)
    for module, name in sorted(foreign_imports(Path(entry.path), entry.module or Path(entry.path).stem)):
        with contextlib.suppress(ImportError, AttributeError):
            imported = importlib.import_module(module)
            if name not in ("", "*"):
                getattr(imported, name)
    error = ""
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)
        before, there = snapshot(), held()
        try:
            _import(entry)
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        sys.stdout.flush()
        printed.seek(0)
        text = printed.read().decode(errors="replace")
        return Seen(text, changes(before, snapshot()) + leaked(there), error)


def _import(entry: Entry) -> None:
    if entry.module:
        importlib.import_module(entry.module)
    else:
        runpy.run_path(entry.path, run_name=f"porism_file_{Path(entry.path).stem}")


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    answers.write(json.dumps(main(sys.argv[1])))
    answers.close()
