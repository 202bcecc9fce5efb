"""Judging predictions, models, spectra and samples.

Every name is loaded when it is first used: importing this package imports neither torch nor scipy.
"""

from __future__ import annotations

from porism.lazy import lazily

_NAMES = {
    "brier": ("BrierDecomposition", "brier_decomposition", "brier_score"),
    "calibration": (
        "ReliabilityDiagram",
        "classwise_calibration_error",
        "expected_calibration_error",
        "reliability_diagram",
        "squared_calibration_error",
        "top_label",
    ),
    "classification": ("accuracy", "agreement", "top_k_accuracy"),
    # not called sharpness: importing a module of a function's name would hide the function
    "curvature": (
        "hessian_operator",
        "hessian_trace",
        "hessian_vector_product",
        "sharpness",
        "spectral_density",
    ),
    "dimension": ("correlation_dimension", "levina_bickel", "local_pca_dimension", "two_nn"),
    "intervals": ("coverage", "interval_score", "mean_width", "pinball_loss"),
    "pareto": ("hypervolume", "igd_plus", "pareto_front", "r2_indicator", "simplex_lattice"),
    "ranking": ("average_precision", "hit_rate", "mean_reciprocal_rank", "ndcg", "roc_auc"),
    "robustness": (
        "accuracy_strength_area",
        "group_accuracies",
        "mean_corruption_error",
        "retained_accuracy",
        "worst_case_accuracy",
        "worst_group_accuracy",
    ),
    "selective": ("aurc", "excess_aurc", "risk_coverage"),
    "similarity": ("centered_kernel_alignment", "cka", "kernel_alignment"),
    "spectra": (
        "effective_rank",
        "participation_ratio",
        "projection_distance",
        "stable_rank",
        "subspace_affinity",
        "subspace_angles",
    ),
    "tangent": (
        "empirical_fisher_diagonal",
        "empirical_fisher_matrix",
        "empirical_ntk",
        "fisher_diagonal",
        "fisher_matrix",
        "fisher_vector_product",
        "jacobian",
    ),
    "two_sample": ("TwoSampleTest", "c2st", "energy_test", "mmd_test", "permutation_test"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_HOME]


__getattr__, __dir__ = lazily(__name__, _HOME)
