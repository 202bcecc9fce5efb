"""Optimal transport: exact on the line, sliced, exact by linear programming, and entropic.

Every name is loaded when it is first used: importing this package imports neither torch nor POT.
"""

from __future__ import annotations

from porism.lazy import lazily

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


__getattr__, __dir__ = lazily(__name__, _HOME)
