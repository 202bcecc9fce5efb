"""Our own papers do what every porism paper must do."""

from __future__ import annotations

from typing import Any

import pytest

from porism.registry import listing
from porism.testing import Check, papers_in, parametrize_with_checks

# {"key": {"check_name": "reason"}}; such a check is run, and must fail.
EXPECTED_FAILURES: dict[str, dict[str, str]] = {}
# Replicates of these kinds train models: what runs them is left to `make test-all`.
TRAINING = frozenset({"adapter", "cache", "compressor", "optimizer"})
TRAINING_TOO = frozenset({"tempnet"})
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

every_check = parametrize_with_checks([*papers_in("porism_plugins"), *papers_in("porism_theory")], EXPECTED_FAILURES)


def _slow(parameter: Any) -> bool:
    key, check = parameter.values
    if check.name in TWICE:
        return True
    trains = key in TRAINING_TOO or not TRAINING.isdisjoint(listing().entries[key].paper.kinds)
    return trains and check.name.startswith(RUNNING)


@pytest.mark.parametrize(
    every_check.args[0],
    [pytest.param(*p.values, id=p.id, marks=[*p.marks, *[pytest.mark.slow] * _slow(p)]) for p in every_check.args[1]],
)
def test_porism(paper: str, check: Check) -> None:
    check(paper)


def test_no_paper_is_left_out() -> None:
    ours = {key for key, entry in listing().entries.items() if entry.distribution == "porism"}
    assert {parameter.values[0] for parameter in every_check.args[1]} == ours
