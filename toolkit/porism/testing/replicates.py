"""Running a claim or a figure once for all the checks that look at it."""

from __future__ import annotations

import dataclasses
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from porism.claims import Claim
from porism.records import Arm
from porism.registry import LoadedPaper
from porism.seeds import ROOT, generator
from porism.testing.state import preserved

Result = TypeVar("Result")

# Cases that are tried before the defaults of a claim are said to contradict its own assumptions.
CASES_TRIED = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Replicate:
    """What one run of a claim gave and did.

    ``drew`` says whether it took anything from its generator; ``changed`` names global state it left changed.
    """

    effect: float | None
    values: Mapping[str, float]
    error: Exception | None
    seconds: float
    drew: bool
    changed: tuple[str, ...]

    @property
    def numbers(self) -> tuple[Any, ...]:
        """Everything that must come out alike when the same seed is run again."""
        return (self.effect, *sorted(self.values.items()), repr(self.error))


def replicate(
    loaded: LoadedPaper, claim: Claim, *, arm: Arm = "main", case: int | None = None, again: int = 0
) -> Replicate:
    """Run one case of a claim as ``porism check`` would, in this process, and remember the outcome.

    ``case`` is by default the first that satisfies the claim's own assumptions; ``again=1`` runs it anew.
    """
    if case is None:
        case = _first_case(loaded, claim, arm)
    return remember(claim.function, (arm, case, again), lambda: _run(loaded, claim, arm, case))


_memory: weakref.WeakKeyDictionary[Callable[..., Any], dict[Any, Any]] = weakref.WeakKeyDictionary()


def remember(function: Callable[..., Any], point: Any, compute: Callable[[], Result]) -> Result:
    """Compute once for each function and point; forgotten with the function, so an edited file runs anew."""
    known = _memory.setdefault(function, {})
    if point not in known:
        known[point] = compute()
    result: Result = known[point]
    return result


def error_of(call: Callable[[], Any]) -> Exception | None:
    """What a call raises, or None."""
    try:
        call()
    except Exception as error:
        return error
    return None


def _first_case(loaded: LoadedPaper, claim: Claim, arm: Arm) -> int:
    from hypothesis.errors import UnsatisfiedAssumption

    for case in range(CASES_TRIED):
        if not isinstance(replicate(loaded, claim, arm=arm, case=case).error, UnsatisfiedAssumption):
            return case
    raise AssertionError(
        f"claim {claim.name}: at its defaults ({arm} arm) none of {CASES_TRIED} cases satisfies its `assume`; "
        f"choose defaults for which the claim says something"
    )


def _run(loaded: LoadedPaper, claim: Claim, arm: Arm, case: int) -> Replicate:
    from hypothesis.errors import HypothesisDeprecationWarning

    rng = generator(ROOT, loaded.paper.key, claim.name, case)
    fresh = _position(rng)
    effect: float | None = None
    values: dict[str, float] = {}
    error: Exception | None = None
    began = time.perf_counter()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisDeprecationWarning)  # `assume` outside of a search
        with preserved() as changed:  # inside, so that it sees what the claim does to these two
            try:
                effect, values = claim.effect(_margin(claim, arm, rng))
            except Exception as problem:
                error = problem
    seconds = time.perf_counter() - began
    return Replicate(effect, values, error, seconds, _position(rng) != fresh, tuple(changed))


def _margin(claim: Claim, arm: Arm, rng: np.random.Generator) -> Any:
    parameters = claim.arm(arm)
    if claim.rung != "proved":
        return claim.function(rng, **parameters)
    from porism.symbolic import numeric_margin

    return numeric_margin(claim, arm, parameters)


def _position(rng: np.random.Generator) -> tuple[Any, ...]:
    """Where a generator stands: it moves with every draw and every child."""
    sequence = rng.bit_generator.seed_seq
    return (repr(rng.bit_generator.state), getattr(sequence, "n_children_spawned", 0))
