"""The child process that runs foreign code: ``python -m porism.worker``, JSON lines in and out.

What a paper prints goes to stderr, never into the answers. Each case gets its own generator, derived
from its names; the global state of numpy and torch is never touched here.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis.errors import HypothesisDeprecationWarning, UnsatisfiedAssumption

from porism.claims import Claim
from porism.errors import PorismError
from porism.parameters import Value
from porism.registry import LoadedPaper, distributions_of, load
from porism.seeds import generator

# Private anonymous memory that one child may take, in GiB.
MEMORY_GIB = 8.0

# The note of a case that a claim's own `assume` rules out.
UNSATISFIED = "the case does not satisfy the claim's own assumptions"

Send = Callable[[dict[str, Any]], None]


def main() -> None:
    """Answer tasks from stdin until it closes."""
    _die_with_parent()
    _limit_memory()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(event: dict[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")

    for line in sys.stdin:
        perform(json.loads(line), send)
        send({"event": "done"})


def perform(task: Mapping[str, Any], send: Send) -> None:
    """Carry out one task, sending a ``start`` and a ``case`` event for everything that it evaluates."""
    if task["do"] == "ping":
        return
    if task["do"] == "import":
        send({"event": "start", "case": -1, "parameters": {}})
        _import(task["key"], send)
        return
    loaded = _load(task["key"])
    if task["do"] == "table":
        send({"event": "start", "case": -1, "parameters": {}})
        _write_figure_table(loaded, task)
        return
    if task["do"] == "demo":
        _run_demo(loaded, task, send)
        return
    claim = loaded.claims[task["claim"]]
    run = functools.partial(_evaluate, loaded, claim, task, send)
    if task["do"] == "replicate":
        run(claim.arm(task["arm"]) | task.get("parameters", {}), task["case"])
    elif task["do"] == "symbolic":
        from porism.symbolic import decide

        send({"event": "start", "case": -1, "parameters": {}})
        began = time.perf_counter()
        answer = decide(claim, task["arm"])
        send({"event": "symbolic", "note": answer, "seconds": time.perf_counter() - began})
    elif task["do"] == "search":
        from porism.search import search

        send({"event": "end", **search(claim, task, run)})
    elif task["do"] == "weakest":
        from porism.weakest import weakest

        send({"event": "end", **weakest(claim, task, run)})


def _evaluate(
    loaded: LoadedPaper,
    claim: Claim,
    task: Mapping[str, Any],
    send: Send,
    parameters: Mapping[str, Value],
    case: int,
    root: int | None = None,
) -> dict[str, Any]:
    """Run one case and send its outcome.

    ``root`` is the task's own, or that of an earlier counterexample, whose random numbers it gives again.
    """
    root = task["root"] if root is None else root

    def margin() -> Any:
        if claim.rung == "proved":
            from porism.symbolic import numeric_margin

            return numeric_margin(claim, task["arm"], parameters)
        return claim.function(generator(root, loaded.paper.key, claim.name, case), **parameters)

    def measured() -> dict[str, Any]:
        try:
            effect, values = claim.effect(margin())
        except UnsatisfiedAssumption:
            if task["do"] in ("search", "weakest"):
                raise  # hypothesis draws another case
            return {"status": "error", "note": UNSATISFIED}
        return {"effect": effect, "values": values}

    return _timed(measured, loaded, {"case": case, "root": root, "parameters": dict(parameters)}, send)


def _run_demo(loaded: LoadedPaper, task: Mapping[str, Any], send: Send) -> None:
    from porism.runs import demo_values

    point = {"case": task["case"], "root": task["root"], "parameters": task["parameters"]}
    _timed(lambda: {"values": demo_values(loaded, task["parameters"], task["root"])}, loaded, point, send)


def _timed(
    measured: Callable[[], dict[str, Any]], loaded: LoadedPaper, point: dict[str, Any], send: Send
) -> dict[str, Any]:
    """Announce a point, measure there and send the outcome; an exception is an outcome like any other."""
    send({"event": "start", **point})
    began = time.perf_counter()
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # `assume` is fine here: what it raises is handled.
            warnings.simplefilter("ignore", HypothesisDeprecationWarning)
            outcome = {"status": "ok", **measured()}
    except UnsatisfiedAssumption:
        raise
    except Exception as error:
        outcome = {"status": "error", "note": f"{type(error).__name__}: {error}".splitlines()[0][:500]}
    outcome |= {
        "event": "case",
        "seconds": time.perf_counter() - began,
        "environment": environment(loaded.paper.needs),
        **point,
    }
    send(outcome)
    return outcome


def _import(key: str, send: Send) -> None:
    """Import a paper; why that fails is an answer like any other."""
    try:
        _load(key)
    except PorismError as error:
        send({"event": "broken", "reason": str(error), "details": getattr(error, "details", "")})


def _write_figure_table(loaded: LoadedPaper, task: Mapping[str, Any]) -> None:
    from pathlib import Path

    from porism.tables import write_table

    rng = generator(task["root"], loaded.paper.key, task["figure"])
    write_table(Path(task["path"]), loaded.figures[task["figure"]](rng, **task["parameters"]))


@functools.cache
def _load(key: str) -> LoadedPaper:
    return load(key)


@functools.cache
def environment(needs: tuple[str, ...]) -> str:
    """The versions that a record was made with: of Python, numpy, scipy and what the paper's extras stand for.

    Examples
    --------
    >>> environment(("theory",)).split()[0::2][:2]
    ['porism', 'python']
    """
    from importlib.metadata import version

    names = ["porism", "numpy", "scipy", *(name for extra in needs for name in distributions_of(extra))]
    first, *others = (f"{name} {version(name)}" for name in dict.fromkeys(names))
    system = f"{platform.system()} {platform.machine()}"
    return ", ".join([first, f"python {platform.python_version()}", *others, system])


def _die_with_parent() -> None:
    """Ask Linux to kill this process with the worker that drives it.

    Where the worker of a killed check outlives it for a moment (loky), so does the case at hand, unrecorded.
    """
    if sys.platform == "linux":
        import ctypes
        import signal

        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def _limit_memory() -> None:
    import resource

    limit = int(float(os.environ.get("PORISM_MEMORY_GIB", MEMORY_GIB)) * 2**30)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
