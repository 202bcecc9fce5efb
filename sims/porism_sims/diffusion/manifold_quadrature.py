"""Exact scores of noised data on ellipses, tori of revolution and Swiss rolls, by quadratures as fine as the noise.

Posterior means are ratios of integrals over one parameter of the manifold whose integrands have the width of the noise.
The number of nodes grows with it only for curves; on the torus, the window of the quadrature shrinks instead.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.special import i0e, i1e

from porism.arrays import check_generator
from porism.errors import ParameterError
from porism.geometry import Ellipsoid, Manifold, Product, RevolutionTorus, Sphere, SwissRoll, Torus
from porism.geometry.protocol import Density
from porism.parameters import validated
from porism_sims.diffusion.manifolds import check_points, product_score, segment_score, sphere_score, split_score
from porism_sims.diffusion.process import Score, diffuse, noise, score_of_mean, signal

Array = NDArray[np.float64]
Name = Literal["sphere", "ellipse", "torus", "swiss_roll"]

# Pairs of points and nodes that are held at once: the working arrays stay in the cache.
_BLOCK = 2**16
# Weights below exp(-36) = 2e-16 of the largest one, and Fourier coefficients below it, are left out.
_DIGITS = 36.0
_PANEL_NODES, _PANEL_WEIGHTS = np.polynomial.legendre.leggauss(16)


def ellipse_score(points: ArrayLike, t: float, ellipse: Ellipsoid, *, density: Density | None = None) -> Array:
    """Score of noised data on an ellipse.

    Parameters
    ----------
    points
        Shape (n, 2).
    t
        Time, positive.
    ellipse
        With two axes.
    density
        Smooth and positive, per length; takes points (m, 2) of the ellipse. None is uniform.

    Returns
    -------
    array of shape (n, 2)

    Raises
    ------
    ParameterError
        For points of another shape, another number of axes, or a time that is not positive.

    Notes
    -----
    The trapezoidal rule in the angle, whose error falls as exp(-N^2 / 2 K) with N nodes if the exponent of the
    integrand bends by at most K: about sqrt(72 K) nodes, K ~ 1 / noise, leave rounding errors only (derived). The
    speed of a flat ellipse needs some more, as it is singular at the complex angle i artanh(b / a).

    Examples
    --------
    The ellipse is symmetric, and so is the score.

    >>> ellipse_score([[1.5, 0.0], [-1.5, 0.0]], 0.1, Ellipsoid((2.0, 1.0))).round(4) + 0.0
    array([[ 2.3826,  0.    ],
           [-2.3826,  0.    ]])
    """
    if ellipse.ambient_dimension != 2:
        raise ParameterError(f"ellipse must have two axes, got {ellipse.ambient_dimension}")
    points = check_points(points, t, 2)
    a, b = ellipse.axes
    far = signal(t) * np.linalg.norm(points, axis=1).max(initial=0.0)
    bend = (far * max(a, b) + signal(t) ** 2 * abs(a * a - b * b)) / noise(t)
    with np.errstate(divide="ignore"):  # on a circle the speed is constant
        of_speed = _DIGITS / np.arctanh(min(a, b) / max(a, b))
    count = 32 + int(of_speed + np.sqrt(2 * _DIGITS * bend))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    nodes = np.stack([a * np.cos(angles), b * np.sin(angles)], axis=1)
    weights = np.hypot(a * np.sin(angles), b * np.cos(angles)) * _values(density, nodes)
    return _score_of_atoms(points, t, nodes, weights)


def torus_score(points: ArrayLike, t: float, torus: RevolutionTorus, *, density: Density | None = None) -> Array:
    """Score of noised data on a torus of revolution.

    Parameters
    ----------
    points
        Shape (n, 3).
    t
        Time, positive.
    torus
        Its two radii.
    density
        Smooth and positive, per area, and the same all around the axis; takes points (m, 3) of the torus, which are
        those of the meridian in the half-plane y = 0, x > 0. None is uniform.

    Returns
    -------
    array of shape (n, 3)

    Raises
    ------
    ParameterError
        For points of another shape or a time that is not positive.

    Notes
    -----
    The integral about the axis is a Bessel function. In the angle around the tube the exponent is that of a von Mises
    law, with its peak towards the point and concentration signal r |x - core| / noise; what multiplies it is smooth.
    So the trapezoidal rule on a window of 12 standard deviations needs the same number of nodes for every noise, and
    only a torus that nearly closes its hole needs more (derived; against 2-d quadrature in the tests).

    Examples
    --------
    >>> torus_score([[2.7, 0.0, 0.1]], 0.01, RevolutionTorus(2.0, 0.7)).round(4) + 0.0
    array([[-2.9116,  0.    , -0.4094]])
    """
    points = check_points(points, t, 3)
    fewest = 44 + int(_DIGITS / np.arccosh(torus.major / torus.minor))
    grid = (2 * np.arange(fewest) + 1) / fewest - 1
    mean = np.empty_like(points)
    for part in _parts(len(points), fewest):
        mean[part] = _mean_on_torus(points[part], t, torus, density, grid)
    return score_of_mean(points, mean, t)


def swiss_roll_score(points: ArrayLike, t: float, roll: SwissRoll) -> Array:
    """Score of noised data that are uniform on a Swiss roll, at points of shape (n, 3).

    The roll is the product of a spiral and a segment: a quadrature along the spiral (16 Gauss-Legendre nodes on panels
    of six standard deviations, finer ones at the ends), and a closed form across.

    Raises
    ------
    ParameterError
        For points of another shape or a time that is not positive.

    Examples
    --------
    >>> swiss_roll_score([[0.0, 1.0, -1.0]], 0.01, SwissRoll(height=2.0, pitch=0.1)).round(3) + 0.0
    array([[-0.887,  0.   , -8.864]])
    """
    points = check_points(points, t, 3)
    spiral = _spiral_score(points[:, [0, 2]], t, roll)
    across = segment_score(points[:, 1:2], t, length=roll.height)
    return np.stack([spiral[:, 0], across[:, 0], spiral[:, 1]], axis=1)


def exact_score(manifold: Manifold, density: Density | None = None) -> Score:
    """The exact score of noised data on a manifold of :mod:`porism.geometry`, for the samplers of the process.

    Parameters
    ----------
    manifold
        Sphere, Ellipsoid with two axes, RevolutionTorus, SwissRoll, flat Torus, or a Product of these.
    density
        For ellipses and tori of revolution; None is uniform.

    Raises
    ------
    ParameterError
        For another manifold, or a density on a manifold whose score takes none.

    Examples
    --------
    >>> from porism_sims.diffusion.process import sample_backwards, time_grid
    >>> rng = np.random.default_rng(0)
    >>> score = exact_score(Sphere(1))
    >>> points = sample_backwards(rng, score, rng.standard_normal((100, 2)), time_grid(6.0, 1e-4, 50))
    >>> bool(abs(np.linalg.norm(points, axis=1) - 1).max() < 0.05)
    True
    """
    match manifold:
        case Ellipsoid():
            return lambda points, t: ellipse_score(points, t, manifold, density=density)
        case RevolutionTorus():
            return lambda points, t: torus_score(points, t, manifold, density=density)
        case _ if density is not None:
            raise ParameterError(f"density must be None on {type(manifold).__name__}")
        case Sphere():
            return lambda points, t: sphere_score(points, t, manifold)
        case SwissRoll():
            return lambda points, t: swiss_roll_score(points, t, manifold)
        case Torus():
            circle = exact_score(Sphere(1, manifold.radius))
            return product_score(*[(circle, 2)] * manifold.dimension)
        case Product():
            return product_score(*((exact_score(factor), factor.ambient_dimension) for factor in manifold.factors))
    raise ParameterError(f"manifold must be one with an exact score, got {type(manifold).__name__}")


def named_manifold(name: Name, *, dimension: int = 2, aspect: float = 2.0) -> Manifold:
    """A manifold of about unit size: a unit sphere of this dimension, or an ellipse or a torus with radii 1, 1/aspect.

    The Swiss roll is the customary one at a tenth of its size, of height 2.

    Examples
    --------
    >>> named_manifold("ellipse", aspect=4.0).reach
    0.0625
    """
    match name:
        case "sphere":
            return Sphere(dimension)
        case "ellipse":
            return Ellipsoid((1.0, 1 / aspect))
        case "torus":
            return RevolutionTorus(1.0, 1 / aspect)
        case "swiss_roll":
            return SwissRoll(height=2.0, pitch=0.1)
    raise ParameterError(f"manifold must be sphere, ellipse, torus or swiss_roll, got {name!r}")


@validated
def simulate(
    rng: np.random.Generator,
    *,
    manifold: Name = "ellipse",
    dimension: Annotated[int, Interval(ge=1, le=100)] = 2,
    aspect: Annotated[float, Interval(gt=1, le=20)] = 2.0,
    time: Annotated[float, Interval(ge=1e-6, le=20)] = 0.05,
    points: Annotated[int, Interval(ge=1, le=100_000)] = 1000,
) -> dict[str, Array]:
    """Draw data on a manifold, noise them, and split their exact scores into the pull to the manifold and the rest.

    Parameters
    ----------
    rng
        Draws data and noise.
    manifold
        As in :func:`named_manifold`.
    dimension
        Of the sphere; 1 is the circle.
    aspect
        Ratio of the radii of the ellipse or torus.
    time
        t, where the noise has variance 1 - exp(-t).
    points
        How many.

    Returns
    -------
    dict
        ``clean`` and ``noised`` points, ``score``, ``nearest`` point of the shrunk manifold, ``normal`` and
        ``remainder`` (score = -normal / noise + remainder), of shape (points, D); ``distance`` to the shrunk manifold
        as a share of its reach, shape (points,).

    Raises
    ------
    ParameterError
        If a parameter is outside its range.

    Examples
    --------
    >>> result = simulate(np.random.default_rng(0), manifold="torus", time=0.001)
    >>> bool(result["distance"].max() < 1)
    True
    """
    check_generator(rng)
    surface = named_manifold(manifold, dimension=dimension, aspect=aspect)
    clean = surface.sample(rng, points)
    noised = diffuse(rng, clean, time)
    split = split_score(surface, exact_score(surface), noised, time)
    return {
        "clean": clean,
        "noised": noised,
        "score": split.remainder - split.normal / noise(time),
        "nearest": split.nearest,
        "normal": split.normal,
        "remainder": split.remainder,
        "distance": np.linalg.norm(split.normal, axis=1) / (signal(time) * surface.reach),
    }


def _mean_on_torus(points: Array, t: float, torus: RevolutionTorus, density: Density | None, grid: Array) -> Array:
    """E[X_0 | X_t] by the trapezoidal rule in the angle around the tube, on ``grid`` over [-1, 1] times a window."""
    shrunk, variance = signal(t), noise(t)
    ring = np.hypot(points[:, 0], points[:, 1])
    outward, upward = ring - shrunk * torus.major, points[:, 2]
    from_core = np.hypot(outward, upward)
    concentration = shrunk * torus.minor * from_core / variance
    narrow = 2 * concentration > _DIGITS
    half_window = np.where(
        narrow, np.arcsin(np.sqrt(_DIGITS / np.where(narrow, 2 * concentration, _DIGITS))), np.pi / 2
    )
    sine, cosine = np.sin(half_window[:, None] * grid), np.cos(half_window[:, None] * grid)
    tilt = np.arctan2(upward, outward)[:, None]
    turn_cos, turn_sin = 1 - 2 * sine * sine, 2 * sine * cosine
    tube_cos = np.cos(tilt) * turn_cos - np.sin(tilt) * turn_sin
    tube_sin = np.sin(tilt) * turn_cos + np.cos(tilt) * turn_sin
    to_axis = torus.major + torus.minor * tube_cos
    pull = (shrunk / variance * ring)[:, None] * to_axis
    weights = np.exp(-2 * concentration[:, None] * sine * sine) * to_axis
    if density is not None:
        meridian = np.stack([to_axis, np.zeros_like(to_axis), torus.minor * tube_sin], axis=-1)
        weights *= _values(density, meridian.reshape(-1, 3)).reshape(weights.shape)
    around = weights * i0e(pull)
    total = around.sum(axis=1)
    mean_ring = np.sum(weights * i1e(pull) * to_axis, axis=1) / total
    mean_height = torus.minor * np.sum(around * tube_sin, axis=1) / total
    direction = points[:, :2] / np.where(ring > 0, ring, 1.0)[:, None]
    return np.concatenate([mean_ring[:, None] * direction, mean_height[:, None]], axis=1)


def _spiral_score(points: Array, t: float, roll: SwissRoll) -> Array:
    sharpest = (2 + roll.start**2) / (roll.pitch * (1 + roll.start**2) ** 1.5)
    size = roll.pitch * roll.end
    far = np.linalg.norm(points, axis=1).max(initial=0.0) + signal(t) * size
    # The exponent bends by at most this per squared length: the integrand is not narrower than its inverse root.
    bend = (signal(t) ** 2 + signal(t) * far * sharpest) / noise(t)
    length = roll.volume / roll.height
    panels = 2 + int(length * np.sqrt(bend) / 6)
    # From beyond an end, the integrand falls within noise / distance of it: the outer panels are halved until then.
    halvings = max(0, int(np.ceil(np.log2(length / panels * signal(t) * far / noise(t)))))
    towards = 0.5 ** np.arange(halvings, -1, -1) / panels
    shares = np.concatenate([[0], towards, np.arange(2, panels - 1) / panels, 1 - towards[::-1], [1]])
    edges = np.sqrt(roll.start**2 + shares * (roll.end**2 - roll.start**2))  # of about equal length
    middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    angles = (middle[:, None] + half[:, None] * _PANEL_NODES).ravel()
    weights = (half[:, None] * _PANEL_WEIGHTS).ravel() * np.sqrt(1 + angles**2)
    nodes = roll.pitch * angles[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _score_of_atoms(points, t, nodes, weights)


def _score_of_atoms(points: Array, t: float, nodes: Array, weights: Array) -> Array:
    """Score of noised point masses: ``weights`` (m,) at ``nodes`` (m, D)."""
    shrunk, log_weights = signal(t) * nodes, np.log(weights)
    mean = np.empty_like(points)
    for part in _parts(len(points), len(nodes)):
        log = cdist(points[part], shrunk, "sqeuclidean")
        log *= -1 / (2 * noise(t))
        log += log_weights
        log -= log.max(axis=1, keepdims=True)
        shares = np.exp(log, out=log)
        mean[part] = shares @ nodes / shares.sum(axis=1, keepdims=True)
    return score_of_mean(points, mean, t)


def _parts(count: int, nodes: int) -> list[slice]:
    size = max(1, _BLOCK // nodes)
    return [slice(start, start + size) for start in range(0, count, size)]


def _values(density: Density | None, nodes: Array) -> Array:
    if density is None:
        return np.ones(len(nodes))
    values = np.asarray(density(nodes), dtype=float)
    if values.shape != nodes.shape[:1] or not (values > 0).all():
        raise ParameterError(f"density must be positive, of shape {nodes.shape[:1]}, got shape {values.shape}")
    return values
