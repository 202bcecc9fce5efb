"""Exact scores of noised data on manifolds in closed form: spheres, segments, and what is embedded or multiplied.

The noised law of data X_0 on a manifold M has the score (signal m(x) - x) / noise with m(x) = E[X_0 | X_t = x]. Every
score here is exact at all times. Those that need a quadrature are in :mod:`porism_sims.diffusion.manifold_quadrature`;
its ``exact_score`` finds the right one for a manifold of :mod:`porism.geometry`. After Zhang, Huang, Zhao, Wang and
Chen, *Diffusion Model for Manifold Data* (arXiv:2603.20645).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx

from porism.arrays import check_count, check_finite, check_number
from porism.errors import ParameterError
from porism.geometry import Manifold, Sphere
from porism_sims.diffusion.process import Score, noise, score_of_mean, signal

Array = NDArray[np.float64]

# Terms of the asymptotic series, which is used for concentrations above 30 + 4 dimension.
_TERMS = 20


class Split(NamedTuple):
    """A score as the pull to the nearest point of the shrunk manifold, and the rest: score = -normal / noise + rest.

    Attributes
    ----------
    nearest
        Nearest point of signal(t) M, shape (n, D).
    normal
        The point minus its nearest point, shape (n, D); its length is the distance.
    remainder
        (signal m(x) - nearest) / noise, shape (n, D): bounded as the noise vanishes. It is not tangential.
    """

    nearest: Array
    normal: Array
    remainder: Array


def check_points(points: ArrayLike, t: float, columns: int) -> Array:
    """Return points as float64 of shape (n, columns), finite, at a time t > 0.

    Raises
    ------
    ParameterError
        For another shape, entries that are not finite, or a time that is not positive.
    """
    check_number("t", t, above=0)
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or points.shape[1] != columns:
        raise ParameterError(f"points must have shape (n, {columns}), got {points.shape}")
    check_finite(points=points)
    return points


def bessel_ratio(concentration: ArrayLike, dimension: int) -> Array:
    """I_{D/2}(k) / I_{D/2-1}(k), the mean length of a von Mises-Fisher law with concentration k on the sphere in R^D.

    Parameters
    ----------
    concentration
        k >= 0, of any shape.
    dimension
        D >= 2, of the space around the sphere.

    Returns
    -------
    array
        In [0, 1), right to about 1e-15 for every k and D: from Gauss's continued fraction, and for large k from the
        asymptotic series whose coefficients follow from the ratio's Riccati equation A' = 1 - A^2 - (D - 1) A / k.

    Raises
    ------
    ParameterError
        For a dimension below 2 or a concentration that is negative or not finite.

    Examples
    --------
    For D = 3 it is coth(k) - 1/k.

    >>> bool(abs(bessel_ratio(2.0, 3) - (1 / np.tanh(2.0) - 1 / 2.0)) < 1e-15)
    True
    """
    check_count("dimension", dimension, 2)
    k = np.asarray(concentration, dtype=float)
    check_finite(concentration=k)
    if (k < 0).any():
        raise ParameterError("concentration must not be negative")
    large = k > 30 + 4 * dimension
    ratio = np.empty_like(k)
    ratio[large] = _ratio_by_series(k[large], dimension)
    ratio[~large] = _ratio_by_fraction(k[~large], dimension)
    return ratio


def sphere_score(points: ArrayLike, t: float, sphere: Sphere, *, pull: ArrayLike | None = None) -> Array:
    """Score of noised data on a sphere, uniform or von Mises-Fisher.

    Parameters
    ----------
    points
        Shape (n, D), D one above the sphere's dimension.
    t
        Time, positive.
    sphere
        Its radius R and dimension.
    pull
        The density at a point x_0 is proportional to exp(<pull, x_0> / R); shape (D,). None is uniform.

    Returns
    -------
    array of shape (n, D)

    Raises
    ------
    ParameterError
        For points or a pull of another shape, or a time that is not positive.

    Notes
    -----
    Given X_t = x the data are von Mises-Fisher with the vector w = signal R x / noise + pull, so that the posterior
    mean is R A(|w|) w / |w| with :func:`bessel_ratio` A (the paper's setting; derived). It has the rounding errors of
    (signal m - x) / noise: about 1e-16 R / noise.

    Examples
    --------
    On S^2 the pull to the sphere and half its mean curvature are the whole score, up to exp(-2 R |x| / noise).

    >>> score = sphere_score([[0.0, 0.0, 1.2]], 0.02, Sphere(2))[0, 2]
    >>> bool(abs(score + (1.2 - np.exp(-0.01)) / -np.expm1(-0.02) + 1 / 1.2) < 1e-12)
    True
    """
    points = check_points(points, t, sphere.ambient_dimension)
    toward = points * (signal(t) * sphere.radius / noise(t))
    if pull is not None:
        pull = np.asarray(pull, dtype=float)
        if pull.shape != points.shape[1:]:
            raise ParameterError(f"pull must have shape {points.shape[1:]}, got {pull.shape}")
        check_finite(pull=pull)
        toward = toward + pull
    concentration = np.linalg.norm(toward, axis=1, keepdims=True)
    direction = toward / np.where(concentration > 0, concentration, 1.0)
    mean = sphere.radius * bessel_ratio(concentration, sphere.ambient_dimension) * direction
    return score_of_mean(points, mean, t)


def segment_score(points: ArrayLike, t: float, *, length: float = 1.0) -> Array:
    """Score of noised data that are uniform on the segment [0, length], at points of shape (n, 1).

    Raises
    ------
    ParameterError
        For points of another shape, a time or a length that is not positive.

    Examples
    --------
    Far inside, the noised density is flat.

    >>> bool(abs(segment_score([[0.5]], 0.001)[0, 0]) < 1e-9)
    True
    """
    points = check_points(points, t, 1)
    check_number("length", length, above=0, below=np.inf)
    spread = np.sqrt(noise(t))
    low, high = points / spread, (points - signal(t) * length) / spread
    # (phi(near) - phi(far)) / (Phi(-near) - Phi(-far)) from the nearer end; erfcx keeps all digits in the tails
    beyond = low + high > 0
    near, far = np.where(beyond, high, -low), np.where(beyond, low, -high)
    fall = (far - near) * (far + near) / 2
    mass = erfcx(near / np.sqrt(2)) - np.exp(-fall) * erfcx(far / np.sqrt(2))
    return np.where(beyond, -1, 1) * np.sqrt(2 / np.pi) * -np.expm1(-fall) / mass / spread


def embedded_score(score: Score, frame: ArrayLike) -> Score:
    """Score of data frame @ z in R^D where z has the given score in R^k: the normal part is exactly -x / noise.

    Parameters
    ----------
    score
        For points of shape (n, k).
    frame
        Shape (D, k) with orthonormal columns.

    Raises
    ------
    ParameterError
        If the columns are not orthonormal.

    Examples
    --------
    >>> circle = embedded_score(lambda x, t: sphere_score(x, t, Sphere(1)), np.eye(5)[:, :2])
    >>> circle(np.ones((1, 5)), np.log(2)).round(4)
    array([[-1.3022, -1.3022, -2.    , -2.    , -2.    ]])
    """
    frame = np.asarray(frame, dtype=float)
    if frame.ndim != 2 or not np.allclose(frame.T @ frame, np.eye(frame.shape[-1]), rtol=0, atol=1e-10):
        raise ParameterError("frame must be a matrix with orthonormal columns")

    def embedded(points: Array, t: float) -> Array:
        points = check_points(points, t, len(frame))
        within = points @ frame
        return score(within, t) @ frame.T - (points - within @ frame.T) / noise(t)

    return embedded


def product_score(*factors: tuple[Score, int]) -> Score:
    """Score of independent data side by side: the factors' scores, concatenated.

    Parameters
    ----------
    *factors
        Pairs of a score and its number of coordinates.

    Examples
    --------
    >>> gaussian = lambda x, t: -x
    >>> product_score((gaussian, 1), (gaussian, 2))(np.ones((1, 3)), 0.5)
    array([[-1., -1., -1.]])
    """
    scores, sizes = zip(*factors, strict=True)
    edges = np.cumsum(sizes)

    def product(points: Array, t: float) -> Array:
        parts = np.split(check_points(points, t, int(edges[-1])), edges[:-1], axis=1)
        return np.concatenate([score(part, t) for score, part in zip(scores, parts, strict=True)], axis=1)

    return product


def split_score(manifold: Manifold, score: Score, points: ArrayLike, t: float) -> Split:
    """Split a score into the pull to the nearest point and the rest (M1; an identity wherever the point is).

    Parameters
    ----------
    manifold
        Where the data are at time 0.
    score
        Their exact score.
    points
        Shape (n, D). The nearest point is unique within signal(t) times the reach.
    t
        Time, positive.

    Examples
    --------
    The rest on a circle is half its curvature, towards the centre.

    >>> circle = Sphere(1)
    >>> split = split_score(circle, lambda x, t: sphere_score(x, t, circle), [[1.0, 0.0]], 0.001)
    >>> split.remainder.round(3) + 0.0
    array([[-0.5,  0. ]])
    """
    points = check_points(points, t, manifold.ambient_dimension)
    nearest = signal(t) * manifold.project(points / signal(t))
    normal = points - nearest
    return Split(nearest, normal, score(points, t) + normal / noise(t))


def _ratio_by_fraction(k: Array, dimension: int) -> Array:
    """Backwards through A_D = k / (D + k A_{D+2}), each step of which shrinks the error by A^2."""
    steps = int(6 * np.sqrt(k.max(initial=0.0))) + 20
    half = dimension / 2 + steps
    ratio = k / (half + np.hypot(half, k))
    for level in range(dimension + 2 * steps - 2, dimension - 1, -2):
        ratio = k / (level + k * ratio)
    return ratio


def _ratio_by_series(k: Array, dimension: int) -> Array:
    coefficients = [1.0, -(dimension - 1) / 2]
    for order in range(2, _TERMS):
        square = sum(coefficients[i] * coefficients[order - i] for i in range(1, order))
        coefficients.append(((order - dimension) * coefficients[-1] - square) / 2)
    return np.polynomial.polynomial.polyval(1 / k, coefficients)
