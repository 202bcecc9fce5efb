"""Running one thing of a paper once: its demo or simulator, or one case of a claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from porism.check import Subject
from porism.claims import Claim
from porism.errors import PorismError
from porism.parameters import Value
from porism.registry import LoadedPaper, method
from porism.sandbox import Sandbox

TIME_LIMIT = 600.0


def runnable(subject: Subject) -> Callable[..., Any]:
    """The function behind ``porism run KEY``: the file's ``demo``, else the simulator itself."""
    return _runnable(subject.loaded)


def _runnable(loaded: LoadedPaper) -> Callable[..., Any]:
    demo = getattr(loaded.module, "demo", None)
    target: Any = demo if demo is not None else method(loaded) if "simulator" in loaded.paper.kinds else None
    if not callable(target):
        raise PorismError(f"paper {loaded.paper.key!r} has nothing to run; its file may define demo(rng, *, ...)")
    function: Callable[..., Any] = target
    return function


def run_demo(subject: Subject, parameters: Mapping[str, Value], *, root: int) -> dict[str, Any]:
    """Run the demo in the sandbox and return its numbers by name."""
    outcome = _run(subject, {"do": "demo", "case": 0, "parameters": dict(parameters), "root": root}, TIME_LIMIT)
    if outcome["status"] != "ok":
        raise PorismError(f"{subject.loaded.paper.key} failed: {outcome['note']}")
    return dict(outcome["values"])


def run_case(
    subject: Subject, claim: Claim, case: int, parameters: Mapping[str, Value], *, root: int
) -> dict[str, Any]:
    """Run one case of a claim in the sandbox; the same names give the same bits as in a check."""
    task = {
        "do": "replicate",
        "claim": claim.name,
        "arm": "main",
        "case": case,
        "parameters": dict(parameters),
        "root": root,
    }
    outcome = _run(subject, task, claim.time_limit)
    if outcome["status"] != "ok":
        return {"status": outcome["status"], "note": outcome["note"]}
    holds = outcome["effect"] > claim.at_least
    return {
        "effect": outcome["effect"],
        "at_least": claim.at_least,
        **outcome["values"],
        "true here": "yes" if holds else "no",
    }


def demo_values(loaded: LoadedPaper, parameters: Mapping[str, Value], root: int) -> dict[str, Any]:
    """Call the demo; arrays become lists."""
    from porism.seeds import generator

    result = _runnable(loaded)(generator(root, loaded.paper.key, "demo"), **parameters)
    if not isinstance(result, Mapping):
        raise TypeError(
            f"what `porism run` calls must return a mapping of names to numbers, got {type(result).__name__}"
        )
    return {str(name): value.tolist() if hasattr(value, "tolist") else value for name, value in result.items()}


def _run(subject: Subject, task: dict[str, Any], time_limit: float) -> dict[str, Any]:
    with Sandbox() as sandbox:
        events = list(sandbox.run({**task, "key": subject.key}, time_limit=time_limit))
    for event in events:
        if event["event"] == "case":
            return event
    last = events[-1]
    reason = f"did not return within {time_limit:g} s" if last["event"] == "timeout" else last.get("note", "no answer")
    raise PorismError(f"{subject.loaded.paper.key} failed: {reason}")
