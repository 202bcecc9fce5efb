"""Divergences between distributions: f-divergences from one symbolic generator each, and those that are none.

Between probabilities, densities with weights, logits, closed families (Gaussians and others), and from samples.

Every function takes numpy arrays or torch tensors, p first; importing this package imports neither torch nor sympy.
"""

from __future__ import annotations

from porism.divergences.bregman import (
    Potential,
    bernoulli_log_partition,
    beta_divergence,
    binary_entropy,
    bregman_divergence,
    burg_entropy,
    categorical_log_partition,
    density_power_divergence,
    exponential_log_partition,
    generalised_kl,
    itakura_saito,
    negative_entropy,
    poisson_log_partition,
    squared_euclidean,
    squared_mahalanobis,
)
from porism.divergences.cauchy_schwarz import (
    cauchy_schwarz_divergence,
    cauchy_schwarz_divergence_logits,
    half_cauchy_schwarz_divergence,
)
from porism.divergences.closed_forms import (
    beta_kl,
    dirichlet_kl,
    exponential_kl,
    gamma_kl,
    laplace_kl,
    point_process_kl,
    poisson_kl,
)
from porism.divergences.entropic import (
    generalised_js_divergence,
    jeffreys_divergence,
    js_divergence,
    kl_divergence,
    reverse_kl_divergence,
    skew_kl_divergence,
)
from porism.divergences.estimators import (
    chi2_from_log_ratios,
    effective_sample_size,
    k1,
    k2,
    k3,
    mean_interval,
    renyi_from_log_ratios,
    self_normalised_expectation,
    self_normalised_weights,
)
from porism.divergences.gaussian import (
    gaussian_bhattacharyya_coefficient,
    gaussian_chi2,
    gaussian_jeffreys,
    gaussian_kl,
    gaussian_renyi,
    gaussian_squared_hellinger,
    gaussian_total_variation,
)
from porism.divergences.gaussian_distances import (
    gaussian_cauchy_schwarz,
    gaussian_entropic_wasserstein_2,
    gaussian_fisher_divergence,
    gaussian_half_cauchy_schwarz,
    gaussian_mmd_squared,
    gaussian_sinkhorn_divergence,
    gaussian_wasserstein_2,
    gaussian_wasserstein_2_squared,
)
from porism.divergences.generators import Generator, generator
from porism.divergences.named import (
    alpha_divergence,
    f_divergence,
    neyman_chi2,
    pearson_chi2,
    squared_hellinger,
    triangular_discrimination,
    tv_distance,
)
from porism.divergences.named_logits import (
    alpha_divergence_logits,
    f_divergence_logits,
    generalised_js_divergence_logits,
    jeffreys_divergence_logits,
    js_divergence_logits,
    kl_divergence_logits,
    neyman_chi2_logits,
    pearson_chi2_logits,
    reverse_kl_divergence_logits,
    skew_kl_divergence_logits,
    squared_hellinger_logits,
    triangular_discrimination_logits,
    tv_distance_logits,
)
from porism.divergences.nearest_neighbours import knn_entropy, knn_kl, ksg_mutual_information
from porism.divergences.renyi import renyi_cross_entropy, renyi_divergence, renyi_divergence_logits
from porism.divergences.variational import donsker_varadhan, donsker_varadhan_moving_average, nguyen_wainwright_jordan
from porism.lazy import lazily

# These need torch and are imported when they are first used.
_LAZY = {
    "fused_linear_divergence": "porism.kernels.fused_linear",
    "sampled_divergence_logits": "porism.kernels.vocabulary",
    "top_k_divergence_logits": "porism.kernels.vocabulary",
}

__all__ = [
    "Generator",
    "Potential",
    "alpha_divergence",
    "alpha_divergence_logits",
    "bernoulli_log_partition",
    "beta_divergence",
    "beta_kl",
    "binary_entropy",
    "bregman_divergence",
    "burg_entropy",
    "categorical_log_partition",
    "cauchy_schwarz_divergence",
    "cauchy_schwarz_divergence_logits",
    "chi2_from_log_ratios",
    "density_power_divergence",
    "dirichlet_kl",
    "donsker_varadhan",
    "donsker_varadhan_moving_average",
    "effective_sample_size",
    "exponential_kl",
    "exponential_log_partition",
    "f_divergence",
    "f_divergence_logits",
    "fused_linear_divergence",
    "gamma_kl",
    "gaussian_bhattacharyya_coefficient",
    "gaussian_cauchy_schwarz",
    "gaussian_chi2",
    "gaussian_entropic_wasserstein_2",
    "gaussian_fisher_divergence",
    "gaussian_half_cauchy_schwarz",
    "gaussian_jeffreys",
    "gaussian_kl",
    "gaussian_mmd_squared",
    "gaussian_renyi",
    "gaussian_sinkhorn_divergence",
    "gaussian_squared_hellinger",
    "gaussian_total_variation",
    "gaussian_wasserstein_2",
    "gaussian_wasserstein_2_squared",
    "generalised_js_divergence",
    "generalised_js_divergence_logits",
    "generalised_kl",
    "generator",
    "half_cauchy_schwarz_divergence",
    "itakura_saito",
    "jeffreys_divergence",
    "jeffreys_divergence_logits",
    "js_divergence",
    "js_divergence_logits",
    "k1",
    "k2",
    "k3",
    "kl_divergence",
    "kl_divergence_logits",
    "knn_entropy",
    "knn_kl",
    "ksg_mutual_information",
    "laplace_kl",
    "mean_interval",
    "negative_entropy",
    "neyman_chi2",
    "neyman_chi2_logits",
    "nguyen_wainwright_jordan",
    "pearson_chi2",
    "pearson_chi2_logits",
    "point_process_kl",
    "poisson_kl",
    "poisson_log_partition",
    "renyi_cross_entropy",
    "renyi_divergence",
    "renyi_divergence_logits",
    "renyi_from_log_ratios",
    "reverse_kl_divergence",
    "reverse_kl_divergence_logits",
    "sampled_divergence_logits",
    "self_normalised_expectation",
    "self_normalised_weights",
    "skew_kl_divergence",
    "skew_kl_divergence_logits",
    "squared_euclidean",
    "squared_hellinger",
    "squared_hellinger_logits",
    "squared_mahalanobis",
    "top_k_divergence_logits",
    "triangular_discrimination",
    "triangular_discrimination_logits",
    "tv_distance",
    "tv_distance_logits",
]

__getattr__, __dir__ = lazily(__name__, _LAZY)
