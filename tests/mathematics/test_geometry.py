"""What holds for every manifold: sampling, projection, frames, curvature, reach."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porism.errors import ParameterError
from porism.geometry import (
    AffineSubspace,
    Ellipsoid,
    LinearSubspace,
    Manifold,
    Parametrised,
    Product,
    RevolutionTorus,
    Sphere,
    Stiefel,
    SwissRoll,
    Torus,
    estimate_reach,
    largest_curvature,
)
from porism.testing.strategies import PointsOnManifold, manifolds, manifolds_with_points, samples


def torus_map(u):
    ring = 3 + np.cos(u[..., 1])
    return np.stack([ring * np.cos(u[..., 0]), ring * np.sin(u[..., 0]), np.sin(u[..., 1])], axis=-1)


def torus_jacobian(u):
    around, tube = u[..., 0], u[..., 1]
    ring, zero = 3 + np.cos(tube), np.zeros_like(tube)
    first = [-ring * np.sin(around), ring * np.cos(around), zero]
    second = [-np.sin(tube) * np.cos(around), -np.sin(tube) * np.sin(around), np.cos(tube)]
    return np.stack([np.stack(first, -1), np.stack(second, -1)], axis=-1)


def sphere_map(u):
    sine = np.sin(u[..., 0])
    return 2 * np.stack([sine * np.cos(u[..., 1]), sine * np.sin(u[..., 1]), np.cos(u[..., 0])], axis=-1)


TURN = 2 * np.pi
PARAMETRISED_TORUS = Parametrised(torus_map, [(0, TURN), (0, TURN)], torus_jacobian, [True, True], element_bound=4.0)
PARAMETRISED_SPHERE = Parametrised(sphere_map, [(0, np.pi), (0, TURN)], periodic=[False, True])
HELIX = Parametrised(
    lambda u: np.concatenate([np.cos(u), np.sin(u), 0.4 * u], axis=-1), [(0.0, 10.0)], element_bound=1.1
)

BOUNDED: dict[str, Manifold] = {
    "circle": Sphere(1, radius=0.5),
    "sphere": Sphere(2, radius=2.0),
    "sphere5": Sphere(5),
    "torus": Torus(3, radius=1.5),
    "revolution": RevolutionTorus(3.0, 1.0),
    "fat": RevolutionTorus(1.0, 0.8),
    "ellipse": Ellipsoid((2.0, 0.7)),
    "ellipsoid": Ellipsoid((1.0, 3.0, 2.0)),
    "ellipsoid5": Ellipsoid((1.0, 0.3, 2.0, 1.0, 0.7)),
    "stiefel": Stiefel(4, 2),
    "rotations": Stiefel(3, 3),
    "roll": SwissRoll(),
    "product": Product(Sphere(2, radius=2.0), RevolutionTorus(2.0, 0.5)),
    "parametrised torus": PARAMETRISED_TORUS,
    "parametrised sphere": PARAMETRISED_SPHERE,
    "helix": HELIX,
}
ALL: dict[str, Manifold] = BOUNDED | {
    "plane": LinearSubspace(np.array([[1.0, 1.0], [0.0, 2.0], [1.0, 0.0]])),
    "line": AffineSubspace([[1.0], [2.0]], offset=[3.0, 1.0]),
    "cylinder": Product(Sphere(1, radius=2.0), LinearSubspace([[1.0]])),
}
each = pytest.mark.parametrize("manifold", ALL.values(), ids=ALL.keys())
each_bounded = pytest.mark.parametrize("manifold", BOUNDED.values(), ids=BOUNDED.keys())


def on(manifold: Manifold, n: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.isfinite(manifold.volume):
        return manifold.sample(rng, n)
    return manifold.project(rng.normal(size=(n, manifold.ambient_dimension)))


def near(manifold: Manifold, n: int = 40, share: float = 0.9, seed: int = 1) -> np.ndarray:
    """Points within a share of the reach: their nearest points are unique."""
    rng = np.random.default_rng(seed)
    x = on(manifold, n, seed)
    noise = rng.normal(size=x.shape)
    length = share * min(manifold.reach, 10.0) * rng.uniform(size=(n, 1))
    return x + length * noise / np.linalg.norm(noise, axis=-1, keepdims=True)


@each
def test_dimensions(manifold) -> None:
    x = on(manifold).reshape(2, 20, -1)
    d, size = manifold.dimension, manifold.ambient_dimension
    assert x.shape == (2, 20, size)
    assert x.dtype == np.float64
    assert manifold.project(x).shape == (2, 20, size)
    assert manifold.distance(x).shape == (2, 20)
    assert manifold.tangent_basis(x).shape == (2, 20, size, d)
    assert manifold.normal_basis(x).shape == (2, 20, size, size - d)
    assert manifold.second_fundamental_form(x).shape == (2, 20, d, d, size)
    assert manifold.mean_curvature(x[0, 0]).shape == (size,)
    assert manifold.project(x[:0]).shape == (0, 20, size)
    assert manifold.tangent_basis(x[:0]).shape == (0, 20, size, d)
    # not contiguous, and float32
    np.testing.assert_allclose(manifold.project(np.asfortranarray(x)[:, ::2]), manifold.project(x)[:, ::2], atol=1e-12)
    assert manifold.project(x.astype(np.float32)).dtype == np.float64


@each
def test_points_of_the_manifold_stay(manifold) -> None:
    x = on(manifold)
    np.testing.assert_allclose(manifold.project(x), x, atol=1e-11)
    np.testing.assert_allclose(manifold.distance(x), 0, atol=1e-11)


@each
def test_projection_is_the_nearest_point(manifold) -> None:
    rng = np.random.default_rng(2)
    away = rng.normal(size=(40, manifold.ambient_dimension)) * 3
    competitors = on(manifold, 2000, seed=3)
    for x in (near(manifold), away):
        foot, distance = manifold.project(x), manifold.distance(x)
        np.testing.assert_allclose(np.linalg.norm(x - foot, axis=-1), distance, atol=1e-11)
        np.testing.assert_allclose(manifold.project(foot), foot, atol=1e-10)
        others = np.linalg.norm(x[:, None] - competitors, axis=-1).min(axis=1)
        assert (distance <= others + 1e-11).all()
        close = manifold.project(foot[:, None] + 0.01 * rng.normal(size=(40, 20, x.shape[-1])))
        assert (distance[:, None] <= np.linalg.norm(x[:, None] - close, axis=-1) + 1e-11).all()


@each
def test_residual_of_the_projection_is_normal(manifold) -> None:
    x = near(manifold)
    foot = manifold.project(x)
    slope = np.einsum("nDi,nD->ni", manifold.tangent_basis(foot), x - foot)
    edge = np.zeros(len(x), bool)
    if isinstance(manifold, SwissRoll):
        flat = manifold.coordinates(foot)
        edge = (
            np.isclose(flat, [manifold.start, 0], atol=1e-9) | np.isclose(flat, [manifold.end, manifold.height])
        ).any(-1)
    if manifold is HELIX:
        parameters = manifold.parameters(foot)[:, 0]
        edge = (parameters < 1e-9) | (parameters > 10 - 1e-9)
    assert edge.mean() < 0.6
    np.testing.assert_allclose(slope[~edge], 0, atol=1e-9)


@each
def test_frames_are_orthonormal_and_complementary(manifold) -> None:
    x = on(manifold)
    frame = np.concatenate([manifold.tangent_basis(x), manifold.normal_basis(x)], axis=-1)
    identity = np.broadcast_to(np.eye(frame.shape[-1]), frame.shape)
    np.testing.assert_allclose(np.swapaxes(frame, -1, -2) @ frame, identity, atol=1e-11)


@each
def test_second_fundamental_form_is_how_the_projection_bends(manifold) -> None:
    """The nearest point of x + t v is x + t v + t^2 II(v, v) / 2, to second order, for tangent v."""
    x = on(manifold, 60)
    if isinstance(manifold, SwissRoll):
        flat = manifold.coordinates(x)
        x = x[((flat > [5.0, 0.1]) & (flat < [14.0, 20.9])).all(-1)]
    if manifold is HELIX:
        x = x[(manifold.parameters(x)[:, 0] > 0.1) & (manifold.parameters(x)[:, 0] < 9.9)]
    if manifold is PARAMETRISED_SPHERE:
        x = x[np.abs(x[:, 2]) < 1.9]
    basis = manifold.tangent_basis(x)
    rng = np.random.default_rng(4)
    along = rng.normal(size=(len(x), manifold.dimension))
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    form = manifold.second_fundamental_form(x)
    expected = np.einsum("nijD,ni,nj->nD", form, along, along)
    tangent = np.einsum("nDi,ni->nD", basis, along)
    step = 2e-4 * min(manifold.reach, 1.0)
    bend = (manifold.project(x + step * tangent) + manifold.project(x - step * tangent) - 2 * x) / step**2
    np.testing.assert_allclose(bend, expected, atol=2e-4 / min(manifold.reach, 1.0))
    np.testing.assert_allclose(form, np.swapaxes(form, 1, 2), atol=1e-9)
    np.testing.assert_allclose(np.einsum("nijD,nDk->nijk", form, basis), 0, atol=1e-9)
    np.testing.assert_allclose(np.einsum("niiD->nD", form) / manifold.dimension, manifold.mean_curvature(x), atol=1e-9)


@each
def test_reach_is_below_every_radius_of_curvature_and_every_ratio_of_federer(manifold) -> None:
    x = on(manifold, 400)
    bent = largest_curvature(manifold.second_fundamental_form(x)).max()
    assert bent == 0 or manifold.reach * bent <= 1 + 1e-6
    assert manifold.reach <= estimate_reach(x, manifold.tangent_basis(x)) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("manifold", "slack"),
    [
        (Sphere(2, radius=2.0), 1e-9),
        (Torus(2, radius=0.5), 0.02),
        (RevolutionTorus(3.0, 1.0), 0.02),
        (RevolutionTorus(1.0, 0.8), 0.1),
        (Ellipsoid((2.0, 1.0)), 0.01),
        (Ellipsoid((1.5, 1.0, 1.2)), 0.1),
        (Stiefel(2, 2), 0.02),
        (Stiefel(3, 1), 1e-9),
        (SwissRoll(height=0.01), 0.01),
        (HELIX, 0.02),
    ],
    ids=lambda value: "helix" if value is HELIX else str(value),
)
def test_reach_is_nearly_attained_on_dense_samples(manifold, slack) -> None:
    x = on(manifold, 1500)
    estimate = estimate_reach(x, manifold.tangent_basis(x))
    assert manifold.reach * (1 - 1e-6) <= estimate <= manifold.reach * (1 + slack)


def test_reach_of_flat_things_is_infinite() -> None:
    plane = LinearSubspace(np.eye(3)[:, :2])
    x = plane.sample_normal(np.random.default_rng(0), 30)
    assert estimate_reach(x, plane.tangent_basis(x)) == np.inf
    assert estimate_reach([[1.0, 2.0]], [[[1.0], [0.0]]]) == np.inf
    square = Parametrised(lambda u: u @ np.array([[1.0, 2.0, 0.5], [0.3, 1.0, 2.0]]), [(0, 1), (-2, 3)])
    assert square.reach == np.inf


def test_reach_of_a_boundary_counts_the_bottleneck_between_edges() -> None:
    """A half ring that nearly closes: the gap between its two ends, not its curvature, is the reach."""
    gap = 0.2
    arc = Parametrised(lambda u: np.concatenate([np.cos(u), np.sin(u)], -1), [(gap, TURN - gap)])
    assert arc.reach == pytest.approx(np.sin(gap), rel=1e-6)


# ---- sampling ----


@each_bounded
def test_density_is_followed(manifold) -> None:
    """E_density f = E f density / E density, for density 1 + tanh of a coordinate, against the uniform sample."""
    rng = np.random.default_rng(5)
    n = 4000 if isinstance(manifold, Parametrised) else 20_000

    def density(x):
        return 1 + np.tanh(x[:, 0])

    uniform = manifold.sample(rng, n)
    weights = density(uniform)
    expected = (weights * uniform[:, 0]).mean() / weights.mean()
    residual = weights * (uniform[:, 0] - expected) / weights.mean()
    drawn = manifold.sample(rng, n, density, density_bound=2.0)[:, 0]
    error = np.sqrt(residual.var() / n + drawn.var() / n)
    assert abs(drawn.mean() - expected) < 4.5 * error


@each_bounded
def test_seeds_repeat_and_counts_hold(manifold) -> None:
    one, two = (manifold.sample(np.random.default_rng(7), 50) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert manifold.sample(np.random.default_rng(7), 0).shape == (0, manifold.ambient_dimension)


@each_bounded
def test_volume_agrees_with_the_share_of_small_balls(manifold) -> None:
    """Away from the boundary a ball of radius h holds the share vol(B_d) h^d / volume (1 + O(h^2)) of the points."""
    d = manifold.dimension
    if d > 3:
        pytest.skip("balls are too empty")
    from scipy.special import gamma

    rng = np.random.default_rng(8)
    n = 3000
    h = 0.35 * min(manifold.reach, 3.0) if d < 3 else 0.6 * min(manifold.reach, 3.0)
    x, y = manifold.sample(rng, n), manifold.sample(rng, n)
    if isinstance(manifold, SwissRoll):
        flat = manifold.coordinates(x)
        x = x[((flat > [5.5, 1.2]) & (flat < [14.0, 19.8])).all(-1)]
    if manifold is HELIX:
        x = x[(manifold.parameters(x)[:, 0] > 0.5) & (manifold.parameters(x)[:, 0] < 9.5)]
    squares = (x**2).sum(-1)[:, None] + (y**2).sum(-1) - 2 * x @ y.T
    share = (squares < h * h).mean()
    ball = np.pi ** (d / 2) / gamma(d / 2 + 1) * h**d
    assert share * manifold.volume / ball == pytest.approx(1, abs=0.06 if d < 3 else 0.15)


def test_points_are_judged_relative_to_the_size_of_the_manifold() -> None:
    """A point may be 1e-8 of the size away: rounding is 1e-16 of it."""
    rng = np.random.default_rng(0)
    for radius in (1e-9, 1.0, 1e9):
        sphere = Sphere(2, radius)
        x = sphere.sample(rng, 5)
        assert sphere.tangent_basis(x).shape == (5, 3, 2)
        with pytest.raises(ParameterError, match="must lie on the manifold"):
            sphere.tangent_basis(x * (1 + 2e-8))
    plane = LinearSubspace([[1.0], [2.0], [3.0]])
    x = plane.project(1e9 * rng.normal(size=(5, 3)))
    assert plane.tangent_basis(x).shape == (5, 3, 1)
    frames = Stiefel(4, 4)  # of size sqrt(4): the limit is 2e-8
    x = frames.sample(rng, 5)
    with pytest.raises(ParameterError, match="must lie on the manifold"):
        frames.tangent_basis(x + 3e-8 * frames.normal_basis(x)[..., 0])


def test_velocities_are_judged_relative_to_their_length() -> None:
    sphere, rng = Sphere(2), np.random.default_rng(1)
    x = sphere.sample(rng, 5)
    along = np.einsum("nDi,ni->nD", sphere.tangent_basis(x), rng.normal(size=(5, 2)))
    for length in (1e-12, 1.0, 1e9):
        assert sphere.exponential(x, length * along).shape == (5, 3)
        with pytest.raises(ParameterError, match="v must be tangent"):
            sphere.exponential(x, length * (along + x))


def test_frames_at_the_ends_of_the_axes() -> None:
    """The reflection that makes them has two mirrors; one of them vanishes at -e_1, the other at e_1."""
    for direction in (*np.eye(3), *-np.eye(3), [-1.0, 1e-12, 0.0]):
        x = Sphere(2).project(direction)
        frame = np.concatenate([Sphere(2).tangent_basis(x), x[:, None]], axis=-1)
        np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-14)


def test_a_density_may_attain_its_bound() -> None:
    """And exceed it by a rounding."""
    for value in (1.0, 1 + 1e-12):
        x = Sphere(1).sample(np.random.default_rng(2), 50, lambda x, value=value: np.full(len(x), value), 1.0)
        assert x.shape == (50, 2)


def chi_square(counts: np.ndarray, shares: np.ndarray) -> float:
    expected = counts.sum() * shares
    return float(((counts - expected) ** 2 / expected).sum())


def test_sphere_is_uniform_in_height_and_angle() -> None:
    """Archimedes: the height on the 2-sphere is uniform; the chi-square of 64 cells has mean 63, deviation 11.2."""
    x = Sphere(2, radius=3.0).sample(np.random.default_rng(9), 20_000)
    counts, *_ = np.histogram2d(x[:, 2] / 3, np.arctan2(x[:, 1], x[:, 0]), bins=8, range=[[-1, 1], [-np.pi, np.pi]])
    assert chi_square(counts.ravel(), np.full(64, 1 / 64)) < 63 + 4.5 * np.sqrt(126)


def test_tori_are_uniform() -> None:
    for manifold in (RevolutionTorus(3.0, 2.0), Parametrised(torus_map, [(0, TURN), (0, TURN)], periodic=[1, 1])):
        x = manifold.sample(np.random.default_rng(10), 20_000)
        major, minor = (3.0, 2.0) if isinstance(manifold, RevolutionTorus) else (3.0, 1.0)
        tube = np.arctan2(x[:, 2], np.hypot(x[:, 0], x[:, 1]) - major)
        edges = np.linspace(-np.pi, np.pi, 17)
        shares = np.diff(major * edges + minor * np.sin(edges)) / (TURN * major)
        counts, *_ = np.histogram2d(tube, np.arctan2(x[:, 1], x[:, 0]), bins=[edges, np.linspace(-np.pi, np.pi, 5)])
        assert chi_square(counts.ravel(), np.repeat(shares, 4) / 4) < 63 + 4.5 * np.sqrt(126)


def test_ellipsoid_of_revolution_is_uniform_in_its_area() -> None:
    """Area between heights, from the closed element 2 pi rho ds integrated by Gauss-Legendre."""
    a, c = 1.0, 3.0
    x = Ellipsoid((a, a, c)).sample(np.random.default_rng(11), 20_000)
    edges = np.linspace(-c, c, 21)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    z = (edges[:-1, None] + edges[1:, None]) / 2 + np.diff(edges)[:, None] / 2 * nodes
    element = TURN * a * np.sqrt(1 - (z / c) ** 2 + (a * z / c**2) ** 2)
    area = (element * weights).sum(-1) * np.diff(edges) / 2
    assert area.sum() == pytest.approx(Ellipsoid((a, a, c)).volume, rel=1e-10)
    counts, _ = np.histogram(x[:, 2], bins=edges)
    assert chi_square(counts, area / area.sum()) < 19 + 4.5 * np.sqrt(38)


def test_stiefel_is_invariant_in_its_moments() -> None:
    """Of Haar measure: E x = 0, E x x' = I / n, and the fourth moment 3 / (n (n + 2)) of one entry."""
    n, k, size = 4, 3, 20_000
    x = Stiefel(n, k).sample(np.random.default_rng(12), size)
    assert np.abs(x.mean(0)).max() < 4.5 / np.sqrt(n * size)
    assert np.abs(x.T @ x / size - np.eye(n * k) / n).max() < 5 * np.sqrt(3 / 24 / size)
    assert abs((x**4).mean() - 3 / (n * (n + 2))) < 5 * np.sqrt(0.1 / size)


def test_swiss_roll_is_uniform_in_arc_length() -> None:
    roll = SwissRoll(start=0.0, end=7.0, height=2.0, pitch=0.5)
    x = roll.sample(np.random.default_rng(13), 10_000)
    flat = roll.coordinates(x)
    t = np.linspace(0, 7, 200_001)
    arc = np.concatenate([[0], np.cumsum(np.hypot(*(np.diff(0.5 * t * f(t)) for f in (np.cos, np.sin))))])
    assert roll.volume == pytest.approx(2 * arc[-1], rel=1e-8)
    uniform = np.interp(flat[:, 0], t, arc) / arc[-1]
    counts, *_ = np.histogram2d(uniform, flat[:, 1] / 2, bins=6, range=[[0, 1], [0, 1]])
    assert chi_square(counts.ravel(), np.full(36, 1 / 36)) < 35 + 4.5 * np.sqrt(70)


# ---- one rule for bad input ----


@each
def test_bad_points_are_named(manifold) -> None:
    x = on(manifold, 3)
    for method in ("project", "distance", "tangent_basis", "second_fundamental_form"):
        call = getattr(manifold, method)
        with pytest.raises(ParameterError, match="x must have shape"):
            call(np.zeros(manifold.ambient_dimension + 1))
        with pytest.raises(ParameterError, match="x must have shape"):
            call(1.0)
        with pytest.raises(ParameterError, match="x must be finite"):
            call(np.where(np.arange(x.size).reshape(x.shape) == 0, np.nan, x))
        with pytest.raises(ParameterError, match="x must be an array of real numbers"):
            call(x.astype(complex))
    off = x + 1e-3 * manifold.normal_basis(x)[..., 0]
    for method in ("tangent_basis", "normal_basis", "second_fundamental_form", "mean_curvature"):
        with pytest.raises(ParameterError, match="must lie on the manifold"):
            getattr(manifold, method)(off)


@given(st.floats(-300, 300), st.integers(0, 2**32 - 1))
def test_projection_takes_any_size(exponent, seed) -> None:
    rng = np.random.default_rng(seed)
    for name in ("sphere", "torus", "revolution", "ellipsoid5", "stiefel", "product"):
        manifold = BOUNDED[name]
        x = rng.normal(size=manifold.ambient_dimension) * 10.0**exponent
        foot = manifold.project(x)
        assert manifold.distance(foot) < 1e-12
        assert np.isfinite(manifold.distance(x))


@given(manifolds_with_points())
def test_points_stay_and_frames_split_space(drawn: PointsOnManifold) -> None:
    """At poles, at points that coincide, on thin ellipsoids and tight tori."""
    manifold, x = drawn
    size = max(1.0, float(np.abs(x).max()))
    np.testing.assert_allclose(manifold.project(x), x, atol=1e-9 * size)
    frame = np.concatenate([manifold.tangent_basis(x), manifold.normal_basis(x)], axis=-1)
    identity = np.broadcast_to(np.eye(frame.shape[-1]), frame.shape)
    np.testing.assert_allclose(np.swapaxes(frame, -1, -2) @ frame, identity, atol=1e-10)


@given(manifolds_with_points(), st.data())
def test_no_point_is_nearer_than_the_projection(drawn: PointsOnManifold, data: st.DataObject) -> None:
    manifold, others = drawn
    (x,) = data.draw(samples(points=1, dimension=manifold.ambient_dimension, magnitude=30.0))
    distance = manifold.distance(x)
    slack = 1e-10 * (1 + np.abs(x).max())
    assert distance == pytest.approx(np.linalg.norm(x - manifold.project(x)), abs=slack)
    assert (distance <= np.linalg.norm(x - others, axis=-1) + slack).all()


@given(manifolds_with_points(families=("sphere", "torus", "subspace", "product"), points=(3, 4)))
def test_geodesic_distance_is_a_metric_above_the_chord(drawn: PointsOnManifold) -> None:
    manifold, x = drawn
    inside = manifold.geodesic_distance(x[:, None], x[None])
    chord = np.linalg.norm(x[:, None] - x[None], axis=-1)
    slack = 1e-12 * (1 + inside.max())
    assert (inside >= chord - slack).all()
    np.testing.assert_allclose(inside, inside.T, atol=slack)
    assert (inside[:, None] <= inside[:, :, None] + inside[None] + slack).all()  # d(i, k) <= d(i, j) + d(j, k)


@given(manifolds(bounded=True), st.integers(0, 2**32 - 1))
def test_samples_lie_on_the_manifold(manifold: Manifold, seed: int) -> None:
    x = manifold.sample(np.random.default_rng(seed), 5)
    np.testing.assert_allclose(manifold.distance(x), 0, atol=1e-11 * max(1.0, float(np.abs(x).max())))
