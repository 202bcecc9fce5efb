"""Optimal transport: exact on the line, sliced, exact by linear programming, and entropic.

Every name is loaded when it is first used: importing this package imports neither torch nor POT.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "cdf_difference": "one_dimensional",
    "crps_sample": "one_dimensional",
    "quantile_coupling": "one_dimensional",
    "wasserstein_1d": "one_dimensional",
    "max_sliced_direction": "sliced",
    "max_sliced_wasserstein": "sliced",
    "sliced_wasserstein": "sliced",
    "exact_ot": "exact",
    "exact_wasserstein": "exact",
    "gromov_wasserstein": "exact",
    "cost_matrix": "costs",
    "entropic_ot": "entropic",
    "sinkhorn": "entropic",
    "sinkhorn_divergence": "entropic",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
