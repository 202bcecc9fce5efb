"""Our own papers do what every porism paper must do."""

from __future__ import annotations

from typing import Any

import pytest

from porism.check import Subject
from porism.ledger import current_verdicts
from porism.registry import listing
from porism.testing import Check, papers_in, parametrize_with_checks

# {"key": {"check_name": "reason"}}; such a check is run, and must fail.
EXPECTED_FAILURES: dict[str, dict[str, str]] = {}
# What runs claims, figures and demos of papers that train models, or simulate for long, is left to `make test-all`:
# `test_verdicts_are_of_the_code_as_it_is` sees a change that nobody checked anyway.
LONG = frozenset({"diffusion_subspace", "label_shift", "large_lr", "pmd_mean", "rpmd"})
RUNNING = (
    "check_replicate",
    "check_same_seed",
    "check_control_runs",
    "check_comparisons",
    "check_figure_",
    "check_demo",
)
# These make every figure of ours a second time.
TWICE = frozenset({"check_figure_is_deterministic", "check_figure_keeps_global_state"})

METHODS = papers_in("porism_plugins")
every_check = parametrize_with_checks([*METHODS, *papers_in("porism_theory")], EXPECTED_FAILURES)


def _slow(parameter: Any) -> bool:
    key, check = parameter.values
    long = key in LONG or key in METHODS
    return check.name in TWICE or (long and check.name.startswith(RUNNING))


@pytest.mark.parametrize(
    every_check.args[0],
    [pytest.param(*p.values, id=p.id, marks=[*p.marks, *[pytest.mark.slow] * _slow(p)]) for p in every_check.args[1]],
)
def test_porism(paper: str, check: Check) -> None:
    check(paper)


def test_no_paper_is_left_out() -> None:
    ours = {key for key, entry in listing().entries.items() if entry.distribution == "porism"}
    assert {parameter.values[0] for parameter in every_check.args[1]} == ours


@pytest.mark.parametrize("paper", dict.fromkeys(parameter.values[0] for parameter in every_check.args[1]))
def test_verdicts_are_of_the_code_as_it_is(paper: str) -> None:
    """Each claim has a committed verdict, on this wording and this code: `porism check KEY --commit` makes one."""
    states = {row.claim.name: row.state for row in current_verdicts(Subject.of(paper))}
    assert not {name: state for name, state in states.items() if state in ("stale", "not checked", "void")}
