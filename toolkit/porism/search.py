"""Hunting the smallest margin of an ``always`` claim with hypothesis."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, given, reject, seed, settings, target
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable, UnsatisfiedAssumption
from hypothesis.internal.conjecture import providers

from porism.claims import Claim
from porism.errors import ParameterError
from porism.parameters import Parameter, Value
from porism.seeds import derive_seed

# The name under which the number that seeds a case is drawn beside the claim's own parameters.
CASE = "case"
_CASES = st.integers(0, 2**16 - 1)

# Hypothesis also draws literals that it finds in whatever local modules are loaded, so the same seed would search
# other cases in a worker with a history, or where porism is installed differently. There is no public switch.
providers._get_local_constants = lambda: providers._local_constants

Evaluate = Callable[[Mapping[str, Any], int, int], dict[str, Any]]


class _CounterexampleFound(Exception):
    """A case with a margin that is not positive, or that failed."""


def search(claim: Claim, task: Mapping[str, Any], evaluate: Evaluate) -> dict[str, Any]:
    """Search the ranges of a claim for a counterexample and shrink it.

    Parameters
    ----------
    claim
        An ``always`` or ``proved`` claim.
    task
        ``arm``, ``root``, ``cap`` (cases), ``known`` (cases that a run before this one finished, never
        evaluated again) and ``replay`` (earlier counterexamples with their roots, tried first).
    evaluate
        ``evaluate(parameters, case, root) -> {"status": ..., "effect": ...}``.

    Returns
    -------
    dict
        ``cases``: how many distinct cases were looked at; ``counterexample``: None, or its ``parameters``,
        ``case`` and ``root``, and the ``note`` saying what went wrong.
    """
    root = task["root"]
    memory = {_point(known["parameters"], known["case"], root): {**known, "root": root} for known in task["known"]}
    looked_at: set[str] = set()
    failures: list[dict[str, Any]] = []

    def look(parameters: Mapping[str, Any], case: int, root: int = root) -> dict[str, Any]:
        point = _point(parameters, case, root)
        if point not in memory:
            memory[point] = evaluate(parameters, case, root)
        looked_at.add(point)
        outcome: dict[str, Any] = memory[point]
        return outcome

    def fails(outcome: Mapping[str, Any]) -> bool:
        """An error refutes the claim, but a control that crashes shows nothing."""
        if outcome["status"] != "ok":
            return bool(task["arm"] == "main")
        return bool(outcome["effect"] <= claim.at_least)

    # What the control sets is the claim's switch: in either arm it stays where the arm has it.
    fixed = claim.arm(task["arm"])
    switches = claim.control or {}
    free = {name: parameter.strategy() for name, parameter in claim.parameters.items() if name not in switches}

    # The default point comes first: if every case fails, the code is broken rather than the claim refuted.
    default = None
    with contextlib.suppress(UnsatisfiedAssumption):
        default = look(fixed, 0)
    for earlier in task["replay"]:
        with contextlib.suppress(UnsatisfiedAssumption):
            outcome = look(fixed | earlier["parameters"], earlier["case"], earlier["root"])
            if fails(outcome):
                return {"cases": len(looked_at), "counterexample": _counterexample(outcome)}

    @seed(derive_seed(root, claim.name, task["arm"]))
    @settings(
        max_examples=task["cap"],
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(_points(claim, free))
    def look_at_drawn(drawn: dict[str, Any]) -> None:
        case = drawn.pop(CASE, 0)
        try:
            outcome = look(fixed | drawn, case)
        except UnsatisfiedAssumption:
            reject()
        if fails(outcome):
            failures.append(outcome)
            raise _CounterexampleFound
        if outcome["status"] == "ok":
            target(-outcome["effect"])

    try:
        look_at_drawn()
    except _CounterexampleFound:
        # Hypothesis runs the shrunk example last.
        return {"cases": len(looked_at), "counterexample": _counterexample(failures[-1])}
    except Unsatisfiable:
        pass  # no draw satisfied the claim's assumptions; the default may have
    if default is not None and fails(default):
        return {"cases": len(looked_at), "counterexample": _counterexample(default)}
    return {"cases": len(looked_at), "counterexample": None}


def _points(claim: Claim, free: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Points of the box; one in four has about half of its numbers at an end of their range.

    Theorems break where several parameters are extreme at once, which independent draws hardly ever are.
    """
    case = {} if claim.rung == "proved" else {CASE: _CASES}
    anywhere = st.fixed_dictionaries({**free, **case})
    ends = {name: _ends(claim.parameters[name]) for name in free}
    if sum(map(bool, ends.values())) < 2:
        return anywhere
    extreme = {name: st.one_of(s, st.sampled_from(ends[name])) if ends[name] else s for name, s in free.items()}
    return st.one_of(anywhere, anywhere, anywhere, st.fixed_dictionaries({**extreme, **case}))


def _ends(parameter: Parameter) -> list[Value]:
    """The finite ends of a numeric range that belong to it."""
    found = []
    for end in (parameter.low, parameter.high):
        if parameter.type in (int, float) and not parameter.choices and math.isfinite(end):
            with contextlib.suppress(ParameterError):
                found.append(parameter.validate(parameter.type(end)))
    return found


def _counterexample(outcome: Mapping[str, Any]) -> dict[str, Any]:
    note = outcome.get("note") or f"margin {outcome['effect']:.6g}"
    return {name: outcome[name] for name in ("parameters", "case", "root")} | {"note": note}


def _point(parameters: Mapping[str, Any], case: int, root: int) -> str:
    return json.dumps([dict(parameters), case, root], sort_keys=True)
