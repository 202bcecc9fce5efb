"""Discrepancies between samples, or a sample and a score.

Every name is loaded when it is first used: importing this package does not import torch.
"""

from __future__ import annotations

from porism.lazy import lazily

_HOME = {
    "Distance": "radial",
    "Gaussian": "radial",
    "InverseMultiquadric": "radial",
    "Laplace": "radial",
    "median_bandwidth": "radial",
    "mmd_squared": "mmd",
    "cauchy_schwarz_half": "cauchy_schwarz",
    "cauchy_schwarz_squared": "cauchy_schwarz",
    "energy_distance": "energy",
    "fisher_divergence": "stein",
    "kernel_stein_discrepancy": "stein",
    "stein_gram": "stein",
    "dudley_metric": "ipm",
    "holder_ipm": "ipm",
    "kolmogorov_smirnov": "ipm",
    "holder_ipm_bound": "critics",
    "neural_ipm": "critics",
    "restricted_chi2": "chi2",
}

__all__ = [*_HOME]


__getattr__, __dir__ = lazily(__name__, _HOME)
