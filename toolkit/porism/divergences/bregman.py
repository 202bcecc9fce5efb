"""Bregman divergences: of a given potential, and the named ones with formulas of their own that do not cancel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import array_api_compat

from porism.arrays import Array, Namespace, check_axis, check_finite, check_number, floating
from porism.divergences._arrays import log_sum_exp
from porism.divergences._gaussian_pair import cholesky, solve_vector, square_norm, symmetric
from porism.divergences.closed_forms import relative_entropy
from porism.divergences.evaluate import along
from porism.errors import ParameterError


@dataclass(frozen=True)
class Potential:
    """A strictly convex potential on vectors, reduced over the last axis.

    Attributes
    ----------
    name
        For messages.
    value
        Maps (..., d) to (...).
    gradient
        Maps (..., d) to (..., d).
    domain
        Maps an array to the truth values of being inside, elementwise.
    rule
        The domain in words.
    """

    name: str
    value: Callable[[Array], Array]
    gradient: Callable[[Array], Array]
    domain: Callable[[Array], Array] = lambda x: abs(x) < math.inf
    rule: str = "finite"


def _xp(x: Array) -> Namespace:
    return array_api_compat.array_namespace(x)


def _sum(x: Array) -> Array:
    return _xp(x).sum(x, axis=-1)


def _softmax(x: Array) -> Array:
    return _xp(x).exp(x - log_sum_exp(_xp(x), x, -1)[..., None])


def _x_log_x(x: Array) -> Array:
    return x * _xp(x).log(_xp(x).where(x > 0, x, 1))


# Convex duals: squared_euclidean of itself, negative_entropy of poisson_log_partition, burg_entropy of
# exponential_log_partition (up to a constant), binary_entropy of bernoulli_log_partition.
squared_euclidean = Potential("squared_euclidean", lambda x: _sum(x**2) / 2, lambda x: x)
negative_entropy = Potential(
    "negative_entropy", lambda x: _sum(_x_log_x(x) - x), lambda x: _xp(x).log(x), lambda x: x > 0, "positive"
)
burg_entropy = Potential("burg_entropy", lambda x: -_sum(_xp(x).log(x)), lambda x: -1 / x, lambda x: x > 0, "positive")
binary_entropy = Potential(
    "binary_entropy",
    lambda x: _sum(_x_log_x(x) + _x_log_x(1 - x)),
    lambda x: _xp(x).log(x) - _xp(x).log1p(-x),
    lambda x: (x > 0) & (x < 1),
    "in (0, 1)",
)
# Log-partition functions of exponential families: the divergence of natural parameters is
# KL between the members with the arguments swapped, B_A(a, b) = KL(member of b ‖ member of a).
poisson_log_partition = Potential("poisson_log_partition", lambda x: _sum(_xp(x).exp(x)), lambda x: _xp(x).exp(x))
exponential_log_partition = Potential(
    "exponential_log_partition", lambda x: -_sum(_xp(x).log(-x)), lambda x: -1 / x, lambda x: x < 0, "negative"
)
bernoulli_log_partition = Potential(
    "bernoulli_log_partition", lambda x: _sum(_xp(x).logaddexp(x, 0 * x)), lambda x: 0.5 + 0.5 * _xp(x).tanh(x / 2)
)
categorical_log_partition = Potential("categorical_log_partition", lambda x: log_sum_exp(_xp(x), x, -1), _softmax)


def bregman_divergence(
    potential: Potential | Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    gradient: Callable[[Array], Array] | None = None,
) -> Array:
    """Bregman divergence φ(x) − φ(y) − ⟨∇φ(y), x − y⟩ of a strictly convex potential φ.

    Parameters
    ----------
    potential
        One of this module's potentials (``squared_euclidean``, ``negative_entropy``, ``burg_entropy``,
        ``binary_entropy``, ``bernoulli_log_partition``, ``categorical_log_partition``, ``poisson_log_partition``,
        ``exponential_log_partition``), or a function from (..., d) to (...) that treats leading axes as batches.
    x, y
        Points of the potential's domain, shape (..., d); leading axes broadcast.
    gradient
        Gradient of a function ``potential``; torch tensors may leave it to automatic differentiation.

    Returns
    -------
    Array
        Shape (...); nonnegative but for rounding, which this general form does not avoid where x is near y (the
        named functions of this module do).

    Raises
    ------
    ParameterError
        For points outside the domain, shapes that do not fit, those of what the functions return among them, no
        gradient for numpy arrays, or one beside a :class:`Potential`.

    Notes
    -----
    Bregman, The relaxation method of finding the common point of convex sets, USSR Comput. Math. and Math. Phys. 7,
    1967. Dual: B_φ(x, y) = B_φ*(∇φ(y), ∇φ(x)).
    For points on the boundary, where a gradient is infinite, use :func:`generalised_kl` and its kin.

    Examples
    --------
    >>> float(bregman_divergence(squared_euclidean, [1.0, 3.0], [0.0, 1.0]))
    2.5
    >>> float(bregman_divergence(lambda x: (x**4).sum(-1), [1.0], [2.0], gradient=lambda y: 4 * y**3))
    17.0
    """
    xp, (x, y) = floating(x=x, y=y)
    check_axis(-1, x=x, y=y)
    check_finite(x=x, y=y)
    if isinstance(potential, Potential):
        if gradient is not None:
            raise ParameterError(f"gradient is for a function of yours; {potential.name} has its own")
        for name, value in {"x": x, "y": y}.items():
            if not bool(potential.domain(value).all()):
                raise ParameterError(f"{name} must be {potential.rule} for {potential.name}")
        function, gradient = potential.value, potential.gradient
    elif callable(potential):
        function = potential
    else:
        raise ParameterError(f"potential must be a Potential of this package or a function, got {potential!r:.80}")
    if gradient is None and not array_api_compat.is_torch_namespace(xp):
        raise ParameterError("gradient must be given for numpy arrays; torch tensors are differentiated automatically")
    if not (gradient is None or callable(gradient)):
        raise ParameterError(f"gradient must be a function, got {gradient!r:.80}")
    at_x, at_y = (_returned("potential", function(z), z, tuple(z.shape[:-1])) for z in (x, y))
    slope = _torch_gradient(function, y) if gradient is None else _returned("gradient", gradient(y), y, tuple(y.shape))
    return at_x - at_y - xp.sum(slope * (x - y), axis=-1)


def generalised_kl(x: Array, y: Array, *, axis: int = -1, weights: Array | None = None) -> Array:
    """Generalised Kullback-Leibler (I-)divergence Σ x log(x/y) − x + y of nonnegative vectors, whatever their sums.

    Parameters
    ----------
    x, y
        Nonnegative, finite; they broadcast but for ``axis``.
    axis
        The axis that is summed.
    weights
        Base measure, nonnegative, along ``axis`` or broadcastable.

    Returns
    -------
    Array
        Without ``axis``; nonnegative; ``inf`` where a y is 0 and its x is not. It is KL(x‖y) when both sum to 1.

    Raises
    ------
    ParameterError
        For negative or infinite entries, NaN, or shapes that do not fit.

    Notes
    -----
    Csiszár, Why least squares and maximum entropy?, Annals of Statistics 19, 1991.

    Examples
    --------
    >>> round(float(generalised_kl([1.0, 0.0], [2.0, 3.0])), 6)
    3.306853
    """
    xp, (x, y), weights = _nonnegative(axis, weights, x=x, y=y)
    return _weighted_sum(xp, relative_entropy(xp, x, y), axis, weights)


def itakura_saito(x: Array, y: Array, *, axis: int = -1, weights: Array | None = None) -> Array:
    """Itakura-Saito divergence Σ x/y − log(x/y) − 1 of nonnegative vectors; it does not change with their scale.

    Parameters and errors are those of :func:`generalised_kl`.

    Returns
    -------
    Array
        Without ``axis``; nonnegative; ``inf`` where exactly one of x and y is 0, and two zeros count 0.

    Notes
    -----
    Itakura and Saito, Analysis synthesis telephony based on the maximum likelihood method, ICA 1968.

    Examples
    --------
    >>> round(float(itakura_saito([1.0], [2.0])), 6)
    0.193147
    """
    return beta_divergence(x, y, beta=0.0, axis=axis, weights=weights)


def beta_divergence(x: Array, y: Array, *, beta: float, axis: int = -1, weights: Array | None = None) -> Array:
    """Beta-divergence in the convention of matrix factorisation: 2 half the squares, 1 generalised KL, 0 Itakura-Saito.

    Parameters
    ----------
    x, y
        Nonnegative, finite; they broadcast but for ``axis``.
    beta
        Any finite number.
    axis
        The axis that is summed.
    weights
        Base measure, nonnegative, along ``axis`` or broadcastable.

    Returns
    -------
    Array
        Without ``axis``; nonnegative; ``inf`` where y = 0 < x and beta ≤ 1, and where x = 0 < y and beta ≤ 0; two
        zeros count 0.

    Raises
    ------
    ParameterError
        For ``beta`` not finite, and as :func:`generalised_kl`.

    Notes
    -----
    Σ (x^β + (β−1) y^β − β x y^(β−1)) / (β(β−1)): Févotte and Idier, Algorithms for nonnegative matrix factorization
    with the β-divergence, Neural Computation 23, 2011. It is y^β times a function of x/y that is written with
    (exp(e z) − 1)/e, so that beta near 0 and 1 needs no special case. The density power divergence is another scale:
    see :func:`density_power_divergence`.

    Examples
    --------
    >>> round(float(beta_divergence([1.0], [3.0], beta=2.0)), 6)
    2.0
    """
    beta = check_number("beta", beta, above=-math.inf, below=math.inf)
    xp, (x, y), weights = _nonnegative(axis, weights, x=x, y=y)
    return _weighted_sum(xp, _beta_terms(xp, x, y, beta), axis, weights)


def density_power_divergence(p: Array, q: Array, *, beta: float, axis: int = -1, weights: Array | None = None) -> Array:
    """Density power divergence Σ q^(1+β) − (1 + 1/β) p q^β + p^(1+β)/β, robust to outliers in p.

    Parameters
    ----------
    p, q
        Densities or masses, nonnegative, finite; they broadcast but for ``axis``. They need not be normalised.
    beta
        Nonnegative: 0 gives KL(p‖q) (generalised), 1 the squared L² distance.
    axis
        The axis that is summed.
    weights
        Base measure, nonnegative, along ``axis`` or broadcastable.

    Returns
    -------
    Array
        Without ``axis``; nonnegative; finite for beta > 0; for beta = 0 ``inf`` where q = 0 < p.

    Raises
    ------
    ParameterError
        For ``beta`` negative or not finite, and as :func:`generalised_kl`.

    Notes
    -----
    Basu, Harris, Hjort, Jones, Robust and efficient estimation by minimising a density power divergence, Biometrika
    85, 1998. It is (1 + β) times :func:`beta_divergence` of order 1 + β, so that Itakura-Saito is not in the family.

    Examples
    --------
    >>> round(float(density_power_divergence([0.25, 0.75], [0.5, 0.5], beta=1.0)), 6)
    0.125
    """
    beta = check_number("beta", beta, at_least=0, below=math.inf)
    xp, (p, q), weights = _nonnegative(axis, weights, p=p, q=q)
    return (1 + beta) * _weighted_sum(xp, _beta_terms(xp, p, q, 1.0 + beta), axis, weights)


def squared_mahalanobis(x: Array, y: Array, cov: Array) -> Array:
    """Squared Mahalanobis distance (x − y)ᵀ cov⁻¹ (x − y), twice the Bregman divergence of ½ xᵀ cov⁻¹ x.

    Parameters
    ----------
    x, y
        Points, shape (..., d).
    cov
        Symmetric positive definite, shape (..., d, d).

    Returns
    -------
    Array
        Shape (...), nonnegative.

    Raises
    ------
    ParameterError
        For shapes that do not fit, entries that are not finite, or ``cov`` not symmetric positive definite.

    Examples
    --------
    >>> round(float(squared_mahalanobis([2.0, 0.0], [0.0, 0.0], [[4.0, 0.0], [0.0, 1.0]])), 6)
    1.0
    """
    xp, (x, y, cov) = floating(x=x, y=y, cov=cov)
    check_axis(-1, x=x, y=y)
    check_finite(x=x, y=y, cov=cov)
    d = x.shape[-1]
    if cov.ndim < 2 or tuple(cov.shape[-2:]) != (d, d):
        raise ParameterError(f"cov must have shape (..., {d}, {d}), got {tuple(cov.shape)}")
    return square_norm(xp, solve_vector(xp, cholesky(xp, "cov", symmetric(xp, "cov", cov)), x - y))


def _beta_terms(xp: Namespace, x: Array, y: Array, beta: float) -> Array:
    if beta == 1:
        return relative_entropy(xp, x, y)
    both = (x > 0) & (y > 0)
    safe_x, safe_y = xp.where(both, x, 1), xp.where(both, y, 1)
    near = abs(safe_x - safe_y) < safe_y / 2
    excess = xp.where(near, safe_x - safe_y, 0) / safe_y
    log_ratio = xp.where(near, xp.log1p(excess), xp.log(safe_x) - xp.log(safe_y))
    if beta > 0.5:
        # [t ((t^(β-1) - 1)/(β-1)) - (t - 1)]/β, times y^β and without the quotient t = x/y, which may overflow
        power = safe_y ** (beta - 1)
        inside = (safe_x * _power_log(xp, log_ratio, beta - 1) - (safe_x - safe_y)) * power / beta
    else:
        inside = ((safe_x - safe_y) / safe_y - _power_log(xp, log_ratio, beta)) * safe_y**beta / (1 - beta)
    only_x = xp.where(x > 0, x, 1) ** beta / (beta * (beta - 1)) if beta > 1 else x * 0 + math.inf
    only_y = xp.where(y > 0, y, 1) ** beta / beta if beta > 0 else y * 0 + math.inf
    one = xp.where(x > 0, only_x, xp.where(y > 0, only_y, 0))
    terms = xp.where(both, inside, one)
    if bool((terms != terms).any()):
        raise ParameterError(f"beta must be nearer to 0: powers of order {beta:g} of these entries overflow")
    return terms


def _power_log(xp: Namespace, log_ratio: Array, order: float) -> Array:
    """(t^order − 1)/order for t = exp(log_ratio), and log t at order 0."""
    return log_ratio if order == 0 else xp.expm1(order * log_ratio) / order


def _nonnegative(axis: int, weights: Array | None, **given: Array) -> tuple[Namespace, tuple[Array, ...], Array | None]:
    xp, (*arrays, weights) = floating(optional=("weights",), **given, weights=weights)
    named = dict(zip(given, arrays, strict=True))
    check_axis(axis, **named)
    if weights is not None:
        named["weights"] = weights
    check_finite(**named)
    for name, value in named.items():
        if bool((value < 0).any()):
            raise ParameterError(f"{name} must not be negative")
    return xp, tuple(arrays), along(xp, weights, arrays[0], axis, names=("weights", next(iter(given))))


def _weighted_sum(xp: Namespace, terms: Array, axis: int, weights: Array | None) -> Array:
    if weights is not None:
        terms = weights * xp.where(weights > 0, terms, 0)  # an infinite term of no weight counts nothing
    return xp.sum(terms, axis=axis)


def _returned(name: str, value: Array, points: Array, shape: tuple[int, ...]) -> Array:
    _, (_, value) = floating(points=points, **{f"the value of {name}": value})
    if tuple(value.shape) != shape:
        wanted = f"shape {shape} for points of shape {tuple(points.shape)}"
        raise ParameterError(f"{name} must return {wanted}, got {tuple(value.shape)}")
    check_finite(**{f"the value of {name}": value})
    return value


def _torch_gradient(function: Callable[[Array], Array], y: Array) -> Array:
    """Gradient of the potential at y, differentiable again in y and in whatever the potential is made of."""
    import torch

    return torch.func.grad(lambda point: function(point).sum())(y)
