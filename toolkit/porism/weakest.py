"""Where in its ranges a ``typically`` claim is weakest: hypothesis picks points, a short sequential test judges each.

The smallest of many noisy medians is too small, as it was picked for being so. So the weakest point is judged again,
on replicates that the search has not seen: that effect, its interval and its outcome are honest.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, given, reject, seed, settings, target
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable, UnsatisfiedAssumption

from porism.claims import FEWEST_TO_SETTLE, Claim
from porism.parameters import Parameter, Value
from porism.seeds import derive_seed
from porism.stats import SignTest

# Replicates of a point at most: nine straight ones settle it.
REPLICATES = 9
# The number of the first replicate that judges the weakest point again.
AGAIN = 10_000

Evaluate = Callable[[Mapping[str, Any], int, int], dict[str, Any]]


def free_parameters(claim: Claim) -> dict[str, Parameter]:
    """The parameters that exploring may change: all with a range or choices, but not the control's switch."""
    return {
        name: p
        for name, p in claim.parameters.items()
        if name not in (claim.control or {})
        and (p.choices or p.type is bool or (p.type in (int, float) and math.isfinite(p.high - p.low)))
    }


def weakest(claim: Claim, task: Mapping[str, Any], evaluate: Evaluate) -> dict[str, Any]:
    """Look for the parameters at which the median effect is smallest, and judge it there anew.

    Parameters
    ----------
    claim
        A ``typically`` claim with at least one free parameter.
    task
        ``root``, ``cap`` (replicates of the search) and ``known`` (replicates that a run before this one finished).
    evaluate
        ``evaluate(parameters, case, root) -> {"status": ..., "effect": ...}``.

    Returns
    -------
    dict
        ``cases``: replicates in all; ``weakest``: the parameters, None if no point satisfies the claim's assumptions;
        ``counterexample``: None, as a median at other
        parameters than the claim's own does not refute it.
    """
    root, fixed = task["root"], claim.arm("main")
    memory = {_point(known["parameters"], known["case"]): known for known in task["known"]}
    medians: dict[str, float] = {}
    spent = 0

    def replicates(parameters: Mapping[str, Value], first: int, cap: int) -> list[float]:
        """Effects until the test stops; a failed replicate counts as minus infinity."""
        nonlocal spent
        test, effects = SignTest(), []
        while test.outcome is None:
            point = _point(parameters, first + test.trials)
            if point not in memory:
                memory[point] = evaluate(parameters, first + test.trials, root)
            spent += 1
            effect = memory[point].get("effect")
            effects.append(-math.inf if effect is None else effect)
            test = test.after(effects[-1] > claim.at_least, cap=cap)
        return effects

    def look(parameters: Mapping[str, Value]) -> float:
        name = json.dumps(dict(parameters), sort_keys=True)
        if name not in medians:
            medians[name] = statistics.median(replicates(parameters, 0, REPLICATES))
        return medians[name]

    @seed(derive_seed(root, claim.name, "weakest"))
    @settings(
        max_examples=max(1, task["cap"] // FEWEST_TO_SETTLE),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.target),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.fixed_dictionaries({name: p.strategy() for name, p in free_parameters(claim).items()}))
    def look_at_drawn(drawn: dict[str, Value]) -> None:
        if spent + REPLICATES > task["cap"]:
            return  # hypothesis has no way to stop early that is not a failure
        try:
            median = look(fixed | drawn)
        except UnsatisfiedAssumption:
            reject()
        if math.isfinite(median):
            target(-median)

    with contextlib.suppress(UnsatisfiedAssumption):
        look(fixed)
    with contextlib.suppress(Unsatisfiable):
        look_at_drawn()
    if not medians:
        return {"cases": 0, "weakest": None, "counterexample": None}
    # The first in alphabetical order of equals, whatever order they were found in.
    found = json.loads(min(medians, key=lambda name: (medians[name], name)))
    replicates(found, AGAIN, claim.cap)
    return {"cases": spent, "weakest": found, "counterexample": None}


def _point(parameters: Mapping[str, Value], case: int) -> str:
    return json.dumps([dict(parameters), case], sort_keys=True)
