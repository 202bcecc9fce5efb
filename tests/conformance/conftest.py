"""What of conformance is left to `make test-all`: running the claims and figures of papers that train models."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

TRAINING = frozenset({"cosmos", "gear", "loftq", "platon"})
RUNNING = ("check_replicate", "check_control_runs", "check_comparisons", "check_figure_", "check_demo")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if parameters.get("paper") in TRAINING and parameters["check"].name.startswith(RUNNING):
            item.add_marker(pytest.mark.slow)
