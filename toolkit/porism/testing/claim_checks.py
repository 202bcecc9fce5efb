"""Checks of a paper's claims: how they are stated, and what running one replicate shows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from porism.claims import Claim
from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.records import Arm
from porism.registry import LoadedPaper
from porism.seeds import ROOT, generator
from porism.tasks import counterexamples
from porism.testing.replicates import Replicate, replicate
from porism.verdicts import latest, read_verdicts, verdict_file


def check_has_a_claim(loaded: LoadedPaper) -> None:
    """A paper states something that a machine can check."""
    assert loaded.claims, "the file states no claim; decorate a margin function with @always, @typically or @proved"


def check_claim_wording(loaded: LoadedPaper) -> None:
    """A claim is a sentence without its full stop, and has a place in the paper."""
    for name, claim in loaded.claims.items():
        require_sentence(f"claim {name}: its text", claim.text)
        assert not claim.text.endswith((".", ",", ";")), f"claim {name}: no stop at the end of {claim.text!r}"
        assert claim.where.strip(), f"claim {name} has no place in the paper; write where='Theorem 2'"


def check_claim_parameters(loaded: LoadedPaper) -> None:
    """Every parameter of a claim has a finite range or a list of choices, which can be searched and swept."""
    for name, claim in loaded.claims.items():
        require_ranges(f"claim {name}", claim)


def check_typical_claims_state_their_scale(loaded: LoadedPaper) -> None:
    """A sampled verdict is printed with the size of its experiment."""
    for name, claim in _typical(loaded):
        assert claim.scale.strip(), f"claim {name} has no scale; say in words how large its experiment is"


def check_comparisons_state_the_smallest_effect(loaded: LoadedPaper) -> None:
    """Beating a competitor by nothing is no claim: what returns ``Paired`` has ``at_least`` above 0.

    Where any difference matters, say why as the reason of an expected failure.
    """
    for name, claim in _typical(loaded):
        assert math.isfinite(claim.at_least), f"claim {name}: at_least must be finite, got {claim.at_least}"
        compares = "ours" in replicate(loaded, claim).values
        assert not compares or claim.at_least > 0, (
            f"claim {name} compares two arms with at_least={claim.at_least:g}; state the smallest effect worth having"
        )


def check_control_is_another_point(loaded: LoadedPaper) -> None:
    """The control is inside the ranges and differs from the defaults."""
    for name, claim in _controlled(loaded):
        try:
            control = claim.arm("control")
        except ParameterError as error:
            raise AssertionError(f"claim {name}: its control is outside its own ranges: {error}") from error
        assert control != claim.arm("main"), f"claim {name}: its control equals the defaults; switch the method off"


def check_replicate_is_finite(loaded: LoadedPaper) -> None:
    """One replicate runs at the defaults and returns a finite margin."""
    for claim in loaded.claims.values():
        _succeeds(claim, replicate(loaded, claim), "main")


def check_control_runs(loaded: LoadedPaper) -> None:
    """One replicate of the control runs and returns a finite margin: a control that crashes controls nothing."""
    for _, claim in _controlled(loaded):
        _succeeds(claim, replicate(loaded, claim, arm="control"), "control")


def check_replicate_keeps_its_time_limit(loaded: LoadedPaper) -> None:
    """One replicate takes less than the claim's ``time_limit``, beyond which it would count as failed."""
    for name, claim in loaded.claims.items():
        seconds = min(replicate(loaded, claim, again=again).seconds for again in (0, 1))
        assert seconds <= claim.time_limit, (
            f"claim {name} takes {seconds:.3g} s, its time_limit is {claim.time_limit:g} s; make it smaller or raise it"
        )


def check_same_seed_same_bits(loaded: LoadedPaper) -> None:
    """The same generator gives the same numbers, bit for bit."""
    for name, claim in loaded.claims.items():
        first, second = replicate(loaded, claim), replicate(loaded, claim, again=1)
        assert first.numbers == second.numbers, (
            f"claim {name} gives {first.effect} and then {second.effect} for one seed; draw everything from the `rng` "
            "that is passed in, and keep nothing between calls"
        )


def check_replicates_differ(loaded: LoadedPaper) -> None:
    """A sampled claim measures something random: replicates draw from their generator, and it matters.

    Integers may agree, as outcomes that are counts do; other numbers must not agree in three replicates.
    """
    for name, claim in _typical(loaded):
        first = replicate(loaded, claim)
        assert first.drew or first.error, (
            f"claim {name} draws nothing from its `rng`, so its replicates are one number; draw data, or use @always"
        )
        if all(float(number).is_integer() for number in (first.effect or 0.0, *first.values.values())):
            continue
        assert any(replicate(loaded, claim, case=case).numbers != first.numbers for case in (1, 2)), (
            f"claim {name} gives {first.effect} in three replicates, so what it draws does not matter; "
            "derive the data and the weights from `rng`"
        )


def check_replicate_keeps_global_state(loaded: LoadedPaper) -> None:
    """Running a claim changes nothing global and leaves no thread, process or file behind.

    The second run is looked at: in the first, libraries may be imported, and some of them draw numbers then.
    """
    for name, claim in loaded.claims.items():
        changed = replicate(loaded, claim, again=1).changed
        assert not changed, (
            f"running claim {name} changes {', '.join(changed)}; use `rng`, and `with` for what must end with it"
        )


def check_counterexamples_decide(loaded: LoadedPaper) -> None:
    """What once refuted a claim does so still where it is committed as refuted, and nowhere else."""
    committed = read_verdicts(verdict_file(loaded.path), strict=False)
    last = latest(verdict for verdict in committed if verdict.root == ROOT)
    commit = f"run `porism check {loaded.paper.key} --commit`"
    for name, claim in loaded.claims.items():
        verdict = last.get(name)
        if verdict is None or verdict.hash != claim.hash:
            continue  # check_committed_verdicts says so
        refuting = [point for point in counterexamples(claim, [], committed) if _refutes(loaded, claim, point)]
        if verdict.outcome != "refuted":
            assert not refuting, (
                f"claim {name} is committed as {verdict.outcome}, but {refuting[0]} refutes it again; {commit}"
            )
        elif example := verdict.main.counterexample:
            assert refuting, f"claim {name} is committed as refuted, but {dict(example)} refutes it no more; {commit}"


def require_sentence(what: str, text: str) -> None:
    """Shared with figures: a text is there, begins with a capital and has no stray blanks."""
    assert text.strip(), f"{what} is empty; write one sentence"
    assert not text[0].islower(), f"{what} must begin with a capital letter: {text!r}"
    assert text == " ".join(text.split()), f"{what} has stray blanks or line ends: {text!r}"


def require_ranges(what: str, owner: Any) -> None:
    """Shared with figures: the parameters of ``owner`` can be read, and each has a finite range."""
    try:
        parameters: Mapping[str, Parameter] = owner.parameters
    except ParameterError as error:
        raise AssertionError(f"{what}: {error}") from error
    for name, parameter in parameters.items():
        numeric = parameter.type in (int, float) and math.isfinite(parameter.low) and math.isfinite(parameter.high)
        assert parameter.choices or parameter.type is bool or numeric, (
            f"{what}: parameter {name} has no finite range ({parameter.range_text}); write "
            f"`{name}: Annotated[{parameter.type.__name__}, Interval(ge=..., le=...)]`, or Literal choices"
        )


def _succeeds(claim: Claim, outcome: Replicate, arm: Arm) -> None:
    if outcome.error is not None:
        problem = f"{type(outcome.error).__name__}: {outcome.error}"
        raise AssertionError(f"claim {claim.name} fails at its {arm} arm: {problem}") from outcome.error


def _typical(loaded: LoadedPaper) -> list[tuple[str, Claim]]:
    return [(name, claim) for name, claim in loaded.claims.items() if claim.rung == "typically"]


def _controlled(loaded: LoadedPaper) -> list[tuple[str, Claim]]:
    return [(name, claim) for name, claim in loaded.claims.items() if claim.control is not None]


def _refutes(loaded: LoadedPaper, claim: Claim, point: Mapping[str, Any]) -> bool:
    from hypothesis.errors import HypothesisDeprecationWarning, UnsatisfiedAssumption

    from porism.symbolic import numeric_margin

    parameters = claim.arm("main") | point["parameters"]
    rng = generator(point["root"], loaded.paper.key, claim.name, point["case"])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisDeprecationWarning)  # `assume` outside of a search
        try:
            proved = claim.rung == "proved"
            margin = numeric_margin(claim, "main", parameters) if proved else claim.function(rng, **parameters)
            return claim.effect(margin)[0] <= claim.at_least
        except UnsatisfiedAssumption:
            return False
        except Exception:
            return True
