"""Chi-squared divergence restricted to a linear class of functions."""

from __future__ import annotations

from typing import NamedTuple

import array_api_compat

from porism.arrays import Array, check_finite, check_number, floating
from porism.discrepancies.samples import clouds, masses
from porism.errors import ParameterError


class RestrictedChi2(NamedTuple):
    """The value, and how many directions of the features the second law sees."""

    value: Array
    rank: int


def restricted_chi2(
    p_features: Array,
    q_features: Array,
    *,
    centred: bool = False,
    ridge: float = 0.0,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
) -> RestrictedChi2:
    r"""Chi-squared divergence over the class of linear functions of features.

    Parameters
    ----------
    p_features, q_features
        Features at samples of p and of q, shapes (n, k) and (m, k), finite.
    centred
        :math:`\sup_f (E_p f - E_q f)^2 / \mathrm{Var}_q f` instead of :math:`\sup_f (E_p f)^2 / E_q f^2 - 1`.
        They agree, and are not negative, when a combination of the features is constant.
    ridge
        Added to the diagonal of the second moments, times their mean; 0 takes the pseudoinverse.
    x_weights, y_weights
        Masses of the points, shapes (n,) and (m,); not negative, with sum 1. Equal if not given. With all
        points of a finite space and their probabilities the value is exact.

    Returns
    -------
    RestrictedChi2
        The value and the rank of the second moments (of the covariance if centred). Never above chi-squared of
        the two laws themselves, and equal to it when the class holds p/q. Infinite, without a ridge, where a
        function of the class vanishes under q and has another mean under p. For torch it has gradients in the
        features and the weights.

    Raises
    ------
    ParameterError
        For NaN, infinities, widths that differ, a negative ridge, and weights that are no distribution.

    Notes
    -----
    :math:`\mu_p^T \Sigma_q^+ \mu_p - 1`; moments below 1e-10 (1e-5 in float32) of the largest count as zero. In
    samples m should be well above k: the inverse of an empirical moment matrix is biased upwards.

    Examples
    --------
    >>> found = restricted_chi2([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], x_weights=[0.75, 0.25])
    >>> float(found.value), found.rank
    (0.25, 2)
    """
    ridge = check_number("ridge", ridge, at_least=0, below=float("inf"))
    _, (p_features, q_features) = floating(p_features=p_features, q_features=q_features)
    for name, values in (("p_features", p_features), ("q_features", q_features)):
        if values.ndim != 2 or 0 in values.shape:
            raise ParameterError(f"{name} must have shape (n, k), not empty, it has {tuple(values.shape)}")
        check_finite(**{name: values})
    if p_features.shape[1] != q_features.shape[1]:
        widths = f"{p_features.shape[1]} and {q_features.shape[1]}"
        raise ParameterError(f"p_features and q_features must have one number of columns, they have {widths}")
    xp, x, y, a, b = clouds(p_features, q_features, x_weights, y_weights)
    a, b = masses(xp, a, x), masses(xp, b, y)
    torch = array_api_compat.is_torch_array(x)
    size = max(float(xp.max(abs(z.detach() if torch else z))) for z in (x, y))  # what rounding is relative to
    if centred:
        centre = b @ y
        x, y = x - centre, y - centre
    mean, moments = a @ x, (y * b[:, None]).T @ y
    check_finite(**{"the second moments of q_features": moments, "the squared mean of p_features": mean * mean})
    fixed_mean, fixed = (mean.detach(), moments.detach()) if torch else (mean, moments)
    roots, axes = xp.linalg.eigh(fixed)
    level = float(roots[-1])
    # a feature that is constant under q is only rounding once it is centred
    cut = max((1e-10 if x.dtype == xp.float64 else 1e-5) * level, (8 * float(xp.finfo(x.dtype).eps) * size) ** 2)
    kept = roots > cut
    rank = int(xp.sum(xp.astype(kept, x.dtype)))
    along = axes.T @ fixed_mean
    lost = xp.sum(xp.where(kept, xp.zeros_like(along), along) ** 2)
    offset = 0.0 if centred else 1.0
    shift = ridge * float(xp.sum(roots)) / x.shape[1]
    # Is there a mean, beyond rounding, along which q has no second moment?
    if shift == 0 and float(lost) ** 0.5 > (1e-7 if x.dtype == xp.float64 else 1e-3) * size:
        return RestrictedChi2(xp.sum(mean) * 0 + float("inf"), rank)
    usable = kept if shift == 0 else roots + shift > 0
    safe = xp.where(usable, roots + shift, xp.ones_like(roots))
    best = axes @ (xp.where(usable, along, xp.zeros_like(along)) / safe)
    # The supremum in its variational form: at the best function it has the value and, by the envelope theorem,
    # the gradient of mu' inv(Sigma) mu, without differentiating an eigendecomposition.
    penalty = xp.linalg.trace(moments) * (ridge / x.shape[1])
    value = 2 * (best @ mean) - best @ (moments @ best) - penalty * (best @ best)
    return RestrictedChi2(value - offset, rank)
