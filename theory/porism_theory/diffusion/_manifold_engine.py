"""The score near a curved manifold, expanded in the noise: curvature term, its range, and what samples can tell.

M_t = signal M is the shrunk manifold, q the nearest point of it, n = x - q, and S = <n, II_q> the shape operator of M_t
in the direction n. In y = x / signal and v = noise / signal^2 the noised density solves the heat equation
dp/dv = laplacian(p) / 2. Put log p = -|n|^2 / 2v - (D - d)/2 log v + a + v b + ... into it. The terms in 1/v ask that
<n, grad a> = (D - d - laplacian(|n|^2 / 2)) / 2, and a = log density on M. So a = log density(q) - log det(I - S) / 2,
as det(I - S) is the volume element of the tube. The next terms ask that b + <n, grad b> = (laplacian a + |grad a|^2)/2.
This derivation needs neither Laplace's method nor coordinates; two ``proved`` claims of the paper check its solutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import sympy
from numpy.typing import NDArray

from porism.geometry import Ellipsoid, Manifold, RevolutionTorus, Sphere, SwissRoll, Torus
from porism.geometry.protocol import Density
from porism_sims.diffusion.manifold_quadrature import exact_score
from porism_sims.diffusion.manifolds import embedded_score, sphere_score, split_score
from porism_sims.diffusion.process import Score, diffuse, noise, posterior_mean, signal
from porism_sims.diffusion.subspace import empirical, latent_score, mixture

Array = NDArray[np.float64]

# Central differences of sixth order: offsets in steps, and weights.
_OFFSETS = np.array([-3, -2, -1, 1, 2, 3])
_WEIGHTS = np.array([-1, 9, -45, 45, -9, 1]) / 60


SURFACES: dict[str, Manifold] = {
    "ellipse": Ellipsoid((2.0, 1.0)),
    "torus": RevolutionTorus(2.0, 0.7),
    "Swiss roll": SwissRoll(height=2.0, pitch=0.1),
}


class Errors(NamedTuple):
    """Lengths (n,) of what is left of the score after the projection term, and after the curvature term too."""

    projection: Array
    curvature: Array


def time_of(relative_noise: float, manifold: Manifold) -> float:
    """The time at which noise = relative_noise times the squared reach of the shrunk manifold."""
    return float(np.log1p(relative_noise * manifold.reach**2))


def gradient(function: Callable[[Array], Array], points: Array, step: float) -> Array:
    """Derivative of a function of points (n, D) with values (n, ...), on a last axis of length D, to sixth order."""
    count, columns = points.shape
    moves = step * _OFFSETS[:, None, None] * np.eye(columns)
    values = function((points[:, None, None] + moves).reshape(-1, columns))
    values = values.reshape(count, len(_OFFSETS), columns, *values.shape[1:])
    return np.moveaxis(np.einsum("nkd...,k->nd...", values, _WEIGHTS), 1, -1) / step


def potential(manifold: Manifold, points: Array, t: float, density: Density | None = None) -> Array:
    """log density(q / signal) - log |det(I - S)| / 2 at points (n, D), shape (n,); infinite at focal points."""
    clean = manifold.project(points / signal(t))
    normal = points / signal(t) - clean
    shape = np.einsum("nijD,nD->nij", manifold.second_fundamental_form(clean), normal)
    value = -np.linalg.slogdet(np.eye(manifold.dimension) - shape)[1] / 2
    return value if density is None else value + np.log(density(clean))


def transport_equations(a: Any, b: Any, angle: Any, height: Any, divisor: int = 2) -> list[sympy.Eq]:
    """d/d height of log det(I - S) / divisor = laplacian(height) / 2, around an ellipse and a torus, in symbols.

    ``height`` is the signed distance; its Laplacian is the logarithmic growth of the tube's volume element. Both sides
    are multiplied by that element and the determinant. The ellipse has the axes a and b, the torus the radii a + b and
    b; ``angle`` is the ellipse's parameter or the angle around the tube.
    """
    c, s = sympy.cos(angle), sympy.sin(angle)
    speed, ring = sympy.sqrt(a**2 * s**2 + b**2 * c**2), a + b + (b + height) * c
    ellipse = a * c + height * b * c / speed, b * s + height * a * s / speed
    meridian = ring, (b + height) * s

    def area(x: Any, y: Any) -> Any:
        return sympy.diff(x, angle) * sympy.diff(y, height) - sympy.diff(y, angle) * sympy.diff(x, height)

    volumes = area(*ellipse), ring * area(*meridian)  # the torus, once around its axis
    determinants = 1 + height * a * b / speed**3, (1 + height / b) * (1 + height * c / (a + b + b * c))
    return [
        sympy.Eq(2 * sympy.diff(determinant, height) * volume, divisor * sympy.diff(volume, height) * determinant)
        for determinant, volume in zip(determinants, volumes, strict=True)
    ]


def expected_remainder(manifold: Manifold, points: Array, t: float, density: Density | None = None) -> Array:
    """The score without its projection term up to O(noise), shape (n, D): the gradient of :func:`potential` (M2).

    The nearest point moves with x, and S with it; the normal derivative of S alone is half the mean curvature.
    """
    step = 0.002 * signal(t) * manifold.reach
    return gradient(lambda x: potential(manifold, x, t, density), points, step)


def expansion_errors(manifold: Manifold, points: Array, t: float, density: Density | None = None) -> Errors:
    """Errors of the expansion at ``signal(t)`` times points (n, D), so that halving t keeps the foot and the frame."""
    shrunk = signal(t) * points
    remainder = split_score(manifold, exact_score(manifold, density), shrunk, t).remainder
    expected = expected_remainder(manifold, shrunk, t, density)
    return Errors(np.linalg.norm(remainder, axis=1), np.linalg.norm(remainder - expected, axis=1))


def sphere_errors(dimension: int, height: float, t: float, radius: float = 1.0) -> Array:
    """Errors (3,) of the radial score with no, the curvature and the next term, at |x| = (1 + height) signal R (M4).

    Radial score = -(|x| - signal R) / h - d / (2 |x|) + d (d - 2) h / (8 signal R |x|^2), noise h, dimension d.
    """
    sphere, shrunk, h = Sphere(dimension, radius), signal(t) * radius, noise(t)
    length = (1 + height) * shrunk
    point = np.zeros((1, dimension + 1))
    point[0, 0] = length
    left = sphere_score(point, t, sphere)[0, 0] + (length - shrunk) / h
    first = dimension / (2 * length)
    second = dimension * (dimension - 2) * h / (8 * shrunk * length**2)
    return np.abs([left, left + first, left + first - second])


def order(early: Array, late: Array, times: tuple[float, float]) -> Array:
    """Exponent of the noise in errors that were measured at two times; noise in units of the shrunk manifold."""
    smallest = np.finfo(float).tiny
    ratio = np.maximum(early, smallest) / np.maximum(late, smallest)
    return np.log(ratio) / np.log(np.expm1(times[0]) / np.expm1(times[1]))


def orders_around_surfaces(rng: np.random.Generator, *, curvature: bool = True) -> tuple[Array, Array, Array]:
    """Order of the rest from t = 0.005 to 0.0025, and the projection's and the rest's errors at the later time, (3,).

    At one random point each within 0.3 of the reach of :data:`SURFACES`, the ellipse with density 1 + y/2. Without
    ``curvature`` the rest is all but the projection term.
    """
    found = []
    for manifold in SURFACES.values():
        points = raised(manifold, feet(rng, manifold, 1), rng.uniform(-0.3, 0.3))
        density = (lambda p: 1 + p[:, 1] / 2) if isinstance(manifold, Ellipsoid) else None
        early, late = (expansion_errors(manifold, points, t, density) for t in (0.005, 0.0025))
        first, second = (e.curvature if curvature else e.projection for e in (early, late))
        found.append((order(first, second, (0.005, 0.0025)), late.projection, second))
    orders, projection, rest = np.array(found)[..., 0].T
    return orders, projection, rest


def feet(rng: np.random.Generator, manifold: Manifold, count: int) -> Array:
    """Uniform points of the manifold (count, D); on a Swiss roll away from its edges."""
    if not isinstance(manifold, SwissRoll):
        return manifold.sample(rng, count)
    points = manifold.sample(rng, 20 * count)
    angle, across = manifold.coordinates(points).T
    inside = (angle > manifold.start + 1) & (angle < manifold.end - 1)
    inside &= np.abs(across / manifold.height - 0.5) < 0.3
    return points[inside][:count]


def raised(manifold: Manifold, points: Array, height: float | Array) -> Array:
    """Points moved by ``height`` times the reach along the first normal: outwards on spheres, ellipses and tori."""
    return points + height * manifold.reach * manifold.normal_basis(points)[..., 0]


def farthest(manifold: Manifold) -> float:
    """Largest distance of a point of the manifold from the origin."""
    match manifold:
        case Sphere():
            return manifold.radius
        case Ellipsoid():
            return max(manifold.axes)
        case RevolutionTorus():
            return manifold.major + manifold.minor
    assert isinstance(manifold, SwissRoll)
    return float(np.hypot(manifold.pitch * manifold.end, manifold.height))


def dilated(manifold: Manifold, factor: float) -> Manifold:
    """The manifold blown up about the origin."""
    match manifold:
        case Sphere():
            return Sphere(manifold.dimension, factor * manifold.radius)
        case Ellipsoid():
            return Ellipsoid([factor * axis for axis in manifold.axes])
        case RevolutionTorus():
            return RevolutionTorus(factor * manifold.major, factor * manifold.minor)
    assert isinstance(manifold, SwissRoll)
    return SwissRoll(manifold.start, manifold.end, factor * manifold.height, factor * manifold.pitch)


def split_gap(manifold: Manifold, points: Array, t: float, *, shrunk: bool = True) -> float:
    """How far the split at ``signal(t)`` times points is from: n normal, |n| the distance, n the slope of |n|^2 / 2.

    As a share of the reach; without ``shrunk`` the nearest point is sought on M instead of M_t.
    """
    scale = signal(t) if shrunk else 1.0
    x = signal(t) * points

    def normal(x: Array) -> Array:
        return x - scale * manifold.project(x / scale)

    n, basis = normal(x), manifold.tangent_basis(manifold.project(x / scale))
    slope = gradient(lambda x: np.sum(normal(x) ** 2, axis=1) / 2, x, 0.002 * manifold.reach)
    length = np.linalg.norm(n, axis=1) - signal(t) * manifold.distance(points)
    gaps = np.einsum("nDi,nD->ni", basis, n), length, slope - n
    return float(max(np.abs(gap).max() for gap in gaps) / (signal(t) * manifold.reach))


def dilation_gap(manifold: Manifold, points: Array, t: float, factor: float, *, matched: bool = True) -> float:
    """Change of ``signal factor score`` if data, points and the noise's deviation grow by ``factor``, relatively.

    Without ``matched`` the time stays.
    """
    later = float(np.log1p(factor**2 * np.expm1(t))) if matched else t
    before = signal(t) * exact_score(manifold)(signal(t) * points, t)
    after = signal(later) * factor * exact_score(dilated(manifold, factor))(signal(later) * factor * points, later)
    return float(np.abs(after - before).max() / np.abs(before).max())


def assembly_gap(rng: np.random.Generator, t: float, *, codimension: int = 3) -> float:
    """Largest difference between scores by embedding and product and those of point masses in the whole space.

    A circle in a random plane and a product of two circles, times the noise's standard deviation.
    """
    angles = np.linspace(0, 2 * np.pi, 40 + int(10 / np.sqrt(noise(t))), endpoint=False)
    circle, score = np.stack([np.cos(angles), np.sin(angles)], axis=1), exact_score(Sphere(1))
    frame, _ = np.linalg.qr(rng.standard_normal((2 + codimension, 2)))
    pairs = np.concatenate([np.repeat(circle, len(circle), axis=0), np.tile(circle, (len(circle), 1))], axis=1)
    gaps = []
    for nodes, built in ((circle @ frame.T, embedded_score(score, frame)), (pairs, exact_score(Torus(2)))):
        x = diffuse(rng, rng.choice(nodes, 3), t)
        gaps.append(np.abs(built(x, t) - empirical_score(nodes)(x, t)).max())
    return float(max(gaps) * np.sqrt(noise(t)))


def curvature_sum(manifold: Manifold, points: Array) -> Array:
    """Mean curvature vector tr II along the first normal, shape (n,): minus the sum of curvatures for convex bodies."""
    along = np.einsum("nD,nD->n", manifold.mean_curvature(points), manifold.normal_basis(points)[..., 0])
    return manifold.dimension * along


def posterior_covariance(score: Score, points: Array, t: float) -> Array:
    """I + noise times the Hessian of log p, shape (n, D, D): the covariance of signal X_0 given x over the noise."""
    slope = gradient(lambda x: score(x, t), points, 0.02 * np.sqrt(noise(t)))
    return np.eye(points.shape[1]) + noise(t) * slope


def posterior_moments(
    rng: np.random.Generator, manifold: Manifold, t: float, weight: float = 1.0
) -> tuple[Array, float, float]:
    """Traces of the posterior covariance at five points of M_t, over the noise; its lowest eigenvalue; longest mean.

    The last two also at noised data and in the open; the mean's length is relative to the data's. ``weight`` multiplies
    the score.
    """
    points, exact = feet(rng, manifold, 5), exact_score(manifold)

    def score(x: Array, t: float) -> Array:
        return weight * exact(x, t)

    x = np.concatenate([signal(t) * points, diffuse(rng, points, t), rng.standard_normal(points.shape)])
    covariance = posterior_covariance(score, x, t)
    mean = np.linalg.norm(posterior_mean(x, score(x, t), t), axis=1).max() / farthest(manifold)
    return np.trace(covariance[:5], axis1=1, axis2=2), float(np.linalg.eigvalsh(covariance).min()), float(mean)


def displacement(manifold: Manifold, score: Score, points: Array, t: float) -> Array:
    """(m - x / signal) / v along the first normal at x = ``signal(t)`` times points (n, D) of M, shape (n,)."""
    remainder = split_score(manifold, score, signal(t) * points, t).remainder
    return signal(t) * np.einsum("nD,nD->n", remainder, manifold.normal_basis(points)[..., 0])


def energy_gap(rng: np.random.Generator, sphere: Sphere, t: float) -> float:
    """Relative gap of E|s + n/h|^2 from (d^2 / 4) E|x|^-2 over 1e5 noised points (M9)."""
    x = diffuse(rng, sphere.sample(rng, 100_000), t)
    energy = np.mean(np.sum(split_score(sphere, exact_score(sphere), x, t).remainder ** 2, axis=1))
    return float(abs(energy / (sphere.dimension**2 / 4 * np.mean(1 / np.sum(x**2, axis=1))) - 1))


def stein_gap(rng: np.random.Generator, manifold: Manifold, t: float, strength: float = 1.0) -> float:
    """Largest gap in E s = 0, times sqrt(h), and E<x, s> = -D, relatively, over 10,000 noised points."""
    x = diffuse(rng, manifold.sample(rng, 10_000), t)
    score = strength * exact_score(manifold)(x, t)
    product = np.mean(np.sum(x * score, axis=1)) / x.shape[1] + 1
    return float(max(abs(product), np.sqrt(noise(t)) * np.abs(score.mean(axis=0)).max()))


def chart_score(points: Array, t: float, *, charts: int, weighted: bool = True) -> Array:
    """Score of data on the unit circle, cut into arcs and each arc made a Gaussian of the same moments (M10).

    Without ``weighted`` all charts count alike, instead of by their posterior probabilities.
    """
    half = np.pi / charts
    middle = 2 * half * np.arange(charts)
    across, along = np.array([np.cos(middle), np.sin(middle)]).T, np.array([-np.sin(middle), np.cos(middle)]).T
    mean, second = np.sinc(half / np.pi), (1 + np.sinc(2 * half / np.pi)) / 2  # of the cosine over an arc
    covariances = (second - mean**2) * across[:, :, None] * across[:, None]
    covariances += (1 - second) * along[:, :, None] * along[:, None]
    if weighted:
        return latent_score(mixture(np.full(charts, 1 / charts), mean * across, covariances), points, t)
    single = (mixture([1.0], mean * across[k : k + 1], covariances[k : k + 1]) for k in range(charts))
    return np.mean([latent_score(chart, points, t) for chart in single], axis=0)


def chart_errors(rng: np.random.Generator, t: float, charts: int, *, weighted: bool = True, count: int = 50) -> Array:
    """Errors of :func:`chart_score` at noised data, times sqrt(h), shape (count,)."""
    x = diffuse(rng, Sphere(1).sample(rng, count), t)
    gap = chart_score(x, t, charts=charts, weighted=weighted) - exact_score(Sphere(1))(x, t)
    return np.sqrt(noise(t)) * np.linalg.norm(gap, axis=1)


def empirical_score(data: Array) -> Score:
    """The exact score of the sample, which minimises the empirical loss over all functions."""
    return lambda points, t: latent_score(empirical(data), points, t)


def flat_chart_score(manifold: Manifold, data: Array, bandwidth: float) -> Score:
    """Every sample made a Gaussian of this standard deviation along its tangent space (manifold Parzen windows)."""
    basis = manifold.tangent_basis(data)
    covariances = bandwidth**2 * basis @ np.swapaxes(basis, 1, 2)
    charts = mixture(np.full(len(data), 1 / len(data)), data, covariances)
    return lambda points, t: latent_score(charts, points, t)


def predicted_excess(volume: float, dimension: float, count: int, t: float) -> float:
    """Leading excess of the empirical score: d/2 times the noise-sized cells of M_t, per sample (derived).

    The posterior mean over n samples has the variance (d noise / 2) / (n f (4 pi noise)^(d/2)) along M_t, f the density
    there; the codimension does not enter.
    """
    cells = volume * signal(t) ** dimension / (4 * np.pi * noise(t)) ** (dimension / 2)
    return float(dimension / 2 * cells / count)


def excesses(
    rng: np.random.Generator, manifold: Manifold, count: int, t: float, bandwidths: Array | tuple[()] = ()
) -> Array:
    """noise E|estimate - score|^2 at 300 fresh noised points, for estimates from ``count`` samples.

    First the empirical score's, then those of flat charts with bandwidths in units of the noise's standard deviation.
    """
    data, x = manifold.sample(rng, count), diffuse(rng, manifold.sample(rng, 300), t)
    widths = np.sqrt(noise(t)) * np.asarray(bandwidths)
    estimates = [empirical_score(data), *(flat_chart_score(manifold, data, width) for width in widths)]
    exact = exact_score(manifold)(x, t)
    return np.array([noise(t) * np.mean(np.sum((score(x, t) - exact) ** 2, axis=1)) for score in estimates])


def excess_gap(
    rng: np.random.Generator, manifold: Manifold, *, count: int = 4000, t: float = 0.02, ambient: bool = False
) -> float:
    """Relative gap of the empirical score's excess, a mean of 12 data sets, from :func:`predicted_excess`.

    With ``ambient`` the space's dimension is put in for the manifold's.
    """
    seen = np.mean([excesses(rng, manifold, count, t)[0] for _ in range(12)])
    dimension = manifold.ambient_dimension if ambient else manifold.dimension
    return float(abs(seen / predicted_excess(manifold.volume, dimension, count, t) - 1))


def ellipse_of_length(length: float, aspect: float) -> Ellipsoid:
    """The ellipse with this ratio of its axes and this perimeter."""
    unit = length / Ellipsoid((1.0, 1 / aspect)).volume
    return Ellipsoid((unit, unit / aspect))


def price_of_curvature(rng: np.random.Generator, aspect: float, *, count: int = 500, t: float = 0.001) -> Array:
    """Excesses (2,) on an ellipse of length 2 pi: the empirical score's, and that of flat charts at their best."""
    found = excesses(rng, ellipse_of_length(2 * np.pi, aspect), count, t, np.geomspace(0.7, 3.5, 4))
    return np.array([found[0], found[1:].min()])
