"""Data on a linear subspace, x = A z: exact scores of the noised law, recovery of the subspace, what is generated.

The latent z has a Gaussian mixture law on R^d; one component is a Gaussian, point masses are a sample. For all of them
the score of the noised data splits into a latent part within the subspace and a linear pull towards it, -x / noise.
Process and samplers are those of :mod:`porism_sims.diffusion.process`. After Chen, Huang, Zhao, Wang, *Score
Approximation, Estimation and Distribution Recovery of Diffusion Models on Low-Dimensional Data* (arXiv:2302.07194).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from porism.arrays import check_count, check_finite, check_generator, check_number
from porism.divergences import tv_distance
from porism.errors import ParameterError
from porism.geometry import Stiefel
from porism.metrics import projection_distance
from porism.parameters import validated
from porism.transport import sliced_wasserstein
from porism_sims.diffusion.process import Sampler, Score, diffuse, noise, sample_backwards, signal, time_grid

Array = NDArray[np.float64]
# (latent coordinates of shape (n, d), time) -> signal times the expected latent, shape (n, d)
Denoiser = Callable[[Array, float], Array]

_BLOCK = 2**22  # pairs of points and components held at once


class Latent(NamedTuple):
    """A Gaussian mixture on R^d with K components; :func:`gaussian`, :func:`mixture` and :func:`empirical` make one.

    Attributes
    ----------
    weights, means
        Shapes (K,) and (K, d).
    variances, axes
        Eigenvalues (K, d) and eigenvectors in columns (K, d, d) of the covariances; eigenvalues may be zero.
    """

    weights: Array
    means: Array
    variances: Array
    axes: Array

    @property
    def dimension(self) -> int:
        """d."""
        return self.means.shape[1]


class ScoreParts(NamedTuple):
    """The two orthogonal parts of a score, shape (n, D) each: within the subspace, and normal to it."""

    along: Array
    normal: Array


def mixture(weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> Latent:
    """The mixture of N(means[k], covariances[k]) with the given weights.

    Parameters
    ----------
    weights
        Shape (K,), not negative, with sum 1.
    means, covariances
        Shapes (K, d) and (K, d, d); covariances symmetric and positive semidefinite.

    Raises
    ------
    ParameterError
        For other shapes, weights that are no distribution, and covariances that are none.

    Examples
    --------
    >>> mixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.1]], [[0.2]]]).variances.ravel()
    array([0.1, 0.2])
    """
    weights, means, covariances = (np.asarray(value, dtype=float) for value in (weights, means, covariances))
    if means.ndim != 2 or 0 in means.shape or weights.shape != means.shape[:1]:
        raise ParameterError(f"weights and means must have shapes (K,) and (K, d), got {weights.shape}, {means.shape}")
    if covariances.shape != (*means.shape, means.shape[1]):
        raise ParameterError(f"covariances must have shape {(*means.shape, means.shape[1])}, got {covariances.shape}")
    check_finite(weights=weights, means=means, covariances=covariances)
    if (weights < 0).any() or abs(weights.sum() - 1) > 1e-9:
        raise ParameterError(f"weights must not be negative and sum to 1, their sum is {weights.sum():.9g}")
    variances, axes = np.linalg.eigh(covariances)
    slack, asymmetry = 1e-12 * np.abs(covariances).max(), covariances - np.swapaxes(covariances, 1, 2)
    if (np.abs(asymmetry) > slack).any() or (variances < -slack).any():
        raise ParameterError("covariances must be symmetric and positive semidefinite")
    return Latent(weights, means, np.maximum(variances, 0), axes)


def gaussian(mean: ArrayLike, covariance: ArrayLike) -> Latent:
    """N(mean, covariance), of shapes (d,) and (d, d)."""
    return mixture([1.0], np.asarray(mean)[None], np.asarray(covariance)[None])


def empirical(points: ArrayLike) -> Latent:
    """The uniform law on finite points of shape (n, d): its noised law is a kernel density estimate."""
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or 0 in points.shape:
        raise ParameterError(f"points must have shape (n, d), not empty, got {points.shape}")
    check_finite(points=points)
    count, dimension = points.shape
    axes = np.broadcast_to(np.eye(dimension), (count, dimension, dimension))
    return Latent(np.full(count, 1 / count), points, np.zeros_like(points), axes)


def random_mixture(rng: np.random.Generator, dimension: int, components: int = 4) -> Latent:
    """A mixture on R^dimension with standard normal means and variances between 0.2 and 0.6 along random axes."""
    check_generator(rng)
    shape = (check_count("components", components, 1), check_count("dimension", dimension, 1))
    axes, weights = np.linalg.qr(rng.standard_normal((*shape, dimension)))[0], rng.uniform(0.5, 1.5, components)
    return Latent(weights / weights.sum(), rng.standard_normal(shape), rng.uniform(0.2, 0.6, shape), axes)


def draw_basis(rng: np.random.Generator, ambient: int, dimension: int) -> Array:
    """A uniformly random A of shape (ambient, dimension) with orthonormal columns, dimension < ambient."""
    check_count("dimension", dimension, 1, check_count("ambient", ambient, 2) - 1)
    return Stiefel(ambient, dimension).sample(rng, 1).reshape(ambient, dimension)


def draw_latent(rng: np.random.Generator, latent: Latent, count: int) -> Array:
    """Draw ``count`` latent points, shape (count, d)."""
    check_generator(rng)
    chosen = rng.choice(len(latent.weights), size=check_count("count", count, 0), p=latent.weights)
    spread = np.sqrt(latent.variances[chosen]) * rng.standard_normal((count, latent.dimension))
    return latent.means[chosen] + np.einsum("nde,ne->nd", latent.axes[chosen], spread)


def latent_log_density(latent: Latent, points: Array, t: float) -> Array:
    """Logarithm of the noised latent law's density at latent points (n, d) and time t > 0, shape (n,).

    Raises
    ------
    ParameterError
        If the points have another shape or the time is not positive.

    Examples
    --------
    >>> latent_log_density(gaussian([0.0], [[1.0]]), np.zeros((1, 1)), 0.3).round(6)  # invariant
    array([-0.918939])
    """
    return logsumexp(_log_joint(latent, _checked(latent.dimension, points, t), t), axis=1)


def latent_score(latent: Latent, points: Array, t: float) -> Array:
    """Gradient of :func:`latent_log_density` in the points, shape (n, d).

    Examples
    --------
    >>> latent_score(empirical([[0.0], [2.0]]), np.array([[np.exp(-0.5)]]), 1.0).round(12)
    array([[0.]])
    """
    _checked(latent.dimension, points, t)
    size = max(1, _BLOCK // latent.means.size)
    return np.concatenate([_latent_score(latent, points[k : k + size], t) for k in range(0, len(points), size)])


def split_score(latent: Latent, basis: Array, points: Array, t: float) -> ScoreParts:
    """The exact score at points (n, D) and time t > 0 of data x = basis @ z, in its two parts.

    Examples
    --------
    >>> parts = split_score(gaussian([0.0], [[1.0]]), np.array([[1.0], [0.0]]), np.array([[2.0, 1.0]]), np.log(2))
    >>> parts.along.round(12) + 0.0, parts.normal.round(12) + 0.0
    (array([[-2.,  0.]]), array([[ 0., -2.]]))
    """
    along = _checked(len(basis), points, t) @ basis
    return ScoreParts(latent_score(latent, along, t) @ basis.T, (along @ basis.T - points) / noise(t))


def exact_score(latent: Latent, basis: Array) -> Score:
    """The score of the noised data for :func:`porism_sims.diffusion.process.sample_backwards`."""
    return lambda points, t: np.add(*split_score(latent, basis, points, t))


def tied_score(basis: Array, denoiser: Denoiser) -> Score:
    """(V f(V'x, t) - x) / noise with V = ``basis``: encoder and decoder tied, and a skip connection (the paper's S_NN).

    It is the exact score where V spans the subspace and f is signal times the expected latent; whatever f is, the
    part normal to V is the pull -x / noise.
    """
    return lambda points, t: (denoiser(points @ basis, t) @ basis.T - points) / noise(t)


def latent_denoiser(latent: Latent) -> Denoiser:
    """f(z', t) = signal E[z | z'] = z' + noise times the score: what the network of the paper has to learn."""
    return lambda points, t: points + noise(t) * latent_score(latent, points, t)


def recover_subspace(clean: Array, noisy: Array, dimension: int, *, tied: bool = False) -> Array:
    """Encoder of the best linear denoiser: an orthonormal basis of shape (D, dimension).

    Parameters
    ----------
    clean, noisy
        Points X_0 on the subspace and one noised copy X_t of each, shapes (n, D), n > D.
    dimension
        d, below D.
    tied
        Least squares over V M V' with orthonormal V, the linear case of the paper's network, instead of over all
        matrices, where the rows of the minimiser span the encoder.

    Raises
    ------
    ParameterError
        Unless the shapes agree, n > D > dimension, and the noised points span R^D.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> basis = draw_basis(rng, 5, 2)
    >>> clean = rng.standard_normal((4000, 2)) @ basis.T
    >>> bool(subspace_error(recover_subspace(clean, diffuse(rng, clean, 0.5), 2), basis) < 0.02)
    True
    """
    if clean.ndim != 2 or clean.shape != noisy.shape or not len(clean) > clean.shape[1]:
        raise ParameterError(f"clean and noisy must have shapes (n, D) with n > D, got {clean.shape}, {noisy.shape}")
    check_count("dimension", dimension, 1, clean.shape[1] - 1)
    check_finite(clean=clean, noisy=noisy)
    across, within = clean.T @ noisy / len(clean), noisy.T @ noisy / len(clean)
    if np.linalg.matrix_rank(within, hermitian=True) < len(within):
        raise ParameterError("noisy must vary in every direction of R^D")
    *_, rows = np.linalg.svd(np.linalg.solve(within, across.T).T)
    free = rows[:dimension].T
    return _tied_basis(across, within, free) if tied else free


def learn_score(rng: np.random.Generator, clean: Array, dimension: int, *, noise_time: float) -> tuple[Array, Score]:
    """A tied score without a network, from points (n, D): its basis V (D, dimension), and the score itself.

    V is the tied least-squares encoder at one noise per point, the latent part is that of the encoded sample.
    """
    learned = recover_subspace(clean, diffuse(rng, clean, noise_time), dimension, tied=True)
    return learned, tied_score(learned, latent_denoiser(empirical(clean @ learned)))


def subspace_error(estimate: Array, basis: Array) -> float:
    """Squared Frobenius distance of the projections on two column spaces, in [0, 2 d]."""
    return 2 * float(projection_distance(estimate, basis)) ** 2


def align(estimate: Array, basis: Array) -> Array:
    """The basis of the columns of ``estimate`` that is nearest to ``basis``: V is known up to a rotation only."""
    left, _, right = np.linalg.svd(estimate.T @ basis)
    return estimate @ left @ right


def leakage(points: Array, basis: Array) -> float:
    """Mean square of the part of points (n, D) outside the basis, per normal dimension."""
    normal = points - points @ basis @ basis.T
    return float(np.mean(np.sum(normal**2, axis=1))) / (basis.shape[0] - basis.shape[1])


def support_distance(x: Array, y: Array, bins: int = 40) -> float:
    """Total variation of two samples (n, d), (m, d) on a common histogram with ``bins`` a side; d at most 2.

    Examples
    --------
    >>> support_distance(np.array([[0.0], [1.0]]), np.array([[0.0], [3.0]]))
    0.5
    """
    check_count("d", x.shape[1], 1, 2)
    both = np.concatenate([x, y])
    edges = [np.linspace(low, high, bins + 1) for low, high in zip(both.min(axis=0), both.max(axis=0), strict=True)]
    shares = (np.histogramdd(points, edges)[0].ravel() / len(points) for points in (x, y))
    return float(tv_distance(*shares))


@validated
def simulate(
    rng: np.random.Generator,
    *,
    ambient: Annotated[int, Interval(ge=2, le=1000)] = 16,
    dimension: Annotated[int, Interval(ge=1, le=20)] = 2,
    components: Annotated[int, Interval(ge=1, le=100)] = 4,
    samples: Annotated[int, Interval(ge=3, le=100_000)] = 1000,
    noise_time: Annotated[float, Interval(ge=0.01, le=5)] = 0.5,
    stop: Annotated[float, Interval(ge=1e-6, le=2)] = 0.1,
    start: Annotated[float, Interval(ge=3, le=20)] = 6.0,
    steps: Annotated[int, Interval(ge=1, le=10_000)] = 40,
    generated: Annotated[int, Interval(ge=2, le=100_000)] = 1000,
    sampler: Sampler = "ancestral",
) -> dict[str, Array]:
    """Learn a tied score from samples on a random subspace, run it backwards, and measure what it generates.

    Parameters
    ----------
    rng
        Draws everything.
    ambient, dimension, components
        D and d < D, and those of the latent mixture (:func:`random_mixture`).
    samples, noise_time
        Size n > D of the training set, and the time at which the subspace is learned (:func:`learn_score`).
    stop, start, steps
        Early-stopping time t0, time T at which the backward process starts, and steps between on a geometric grid.
    generated
        How many points are generated.
    sampler
        Of :func:`porism_sims.diffusion.process.sample_backwards`.

    Returns
    -------
    dict
        ``generated`` (generated, D); ``latent``, their aligned coordinates (generated, d); and of shape (1,):
        ``subspace_error``; ``leakage``, mean square off the learned subspace over its value at t0; ``distance``,
        sliced Wasserstein-1 distance of the latent coordinates to ten times as many fresh ones.

    Raises
    ------
    ParameterError
        If a parameter is outside its range, or not samples > ambient > dimension.

    Examples
    --------
    >>> result = simulate(np.random.default_rng(0), samples=4000)
    >>> bool(result["subspace_error"][0] < 0.05), bool(abs(result["leakage"][0] - 1) < 0.05)
    (True, True)
    """
    latent, basis = random_mixture(rng, dimension, components), draw_basis(rng, ambient, dimension)
    clean = draw_latent(rng, latent, samples) @ basis.T
    turned, score = learn_score(rng, clean, dimension, noise_time=noise_time)
    learned, ends = align(turned, basis), rng.standard_normal((generated, ambient))
    points = sample_backwards(rng, score, ends, time_grid(start, stop, steps), sampler=sampler)
    return {
        "generated": points,
        "latent": points @ learned,
        "subspace_error": np.array([subspace_error(learned, basis)]),
        "leakage": np.array([leakage(points, learned) / noise(stop)]),
        "distance": np.array([latent_distance(rng, points @ learned, latent)]),
    }


def latent_distance(rng: np.random.Generator, points: Array, latent: Latent, *, projections: int = 64) -> float:
    """Sliced Wasserstein-1 distance of latent points (n, d) to ten times as many drawn from the law."""
    fresh, count = draw_latent(rng, latent, 10 * len(points)), projections if latent.dimension > 1 else 1
    return float(sliced_wasserstein(points, fresh, p=1, projections=count, rng=rng))


def _checked(columns: int, points: Array, t: float) -> Array:
    check_number("t", t, above=0)
    if points.ndim != 2 or points.shape[1] != columns:
        raise ParameterError(f"points must have shape (n, {columns}), got {points.shape}")
    return points


def _log_joint(latent: Latent, points: Array, t: float) -> Array:
    """log of weight times density of each component, shape (n, K)."""
    spread = signal(t) ** 2 * latent.variances + noise(t)
    if latent.variances.any():
        quadratic = np.sum(_centred(latent, points, t) ** 2 / spread, axis=2)
    else:
        quadratic = cdist(points, signal(t) * latent.means, "sqeuclidean") / noise(t)
    with np.errstate(divide="ignore"):  # components without weight
        constant = np.log(latent.weights) - np.sum(np.log(2 * np.pi * spread), axis=1) / 2
    return constant - quadratic / 2


def _latent_score(latent: Latent, points: Array, t: float) -> Array:
    log = _log_joint(latent, points, t)
    shares = np.exp(log - log.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    if not latent.variances.any():  # no array of a size n K d
        return (signal(t) * (shares @ latent.means) - points) / noise(t)
    pulls = _centred(latent, points, t) / (signal(t) ** 2 * latent.variances + noise(t))
    return -np.einsum("nk,nke,kde->nd", shares, pulls, latent.axes, optimize=True)


def _centred(latent: Latent, points: Array, t: float) -> Array:
    """Coordinates about each component's centre along its axes, shape (n, K, d)."""
    return np.einsum("nkd,kde->nke", points[:, None] - signal(t) * latent.means, latent.axes)


def _tied_basis(across: Array, within: Array, begin: Array) -> Array:
    """Minimise E|V M V'y - x|^2 over orthonormal V from the moments E x y' and E y y'; M is solved for."""

    def loss_and_slope(flat: Array) -> tuple[float, Array]:
        basis, triangle = np.linalg.qr(flat.reshape(begin.shape))
        cross, gram = basis.T @ across @ basis, basis.T @ within @ basis
        middle = np.linalg.solve(gram, cross.T).T
        slope = within @ basis @ middle.T @ middle - across.T @ basis @ middle - across @ basis @ middle.T
        slope -= basis @ (basis.T @ slope)  # the loss depends on the column space only
        return -float(np.sum(middle * cross)), (2 * np.linalg.solve(triangle, slope.T).T).ravel()

    found = minimize(loss_and_slope, begin.ravel(), jac=True, method="L-BFGS-B", options={"gtol": 1e-12, "ftol": 0})
    return np.linalg.qr(found.x.reshape(begin.shape))[0]
