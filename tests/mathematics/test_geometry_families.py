"""What is known of single families: closed forms, geodesics, Gauss-Bonnet, hard cases of the projection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special

from porism.errors import ParameterError
from porism.geometry import (
    AffineSubspace,
    Ellipsoid,
    LinearSubspace,
    Product,
    RevolutionTorus,
    Sphere,
    Stiefel,
    SwissRoll,
    Torus,
    largest_curvature,
    scalar_curvature,
)

TURN = 2 * np.pi
CLOSED = {
    "circle": Sphere(1, radius=2.0),
    "sphere": Sphere(3, radius=0.5),
    "torus": Torus(3, radius=0.7),
    "plane": AffineSubspace([[1.0, 0.0], [2.0, 1.0], [0.0, 1.0]], offset=[1.0, 2.0, 3.0]),
    "roll": SwissRoll(),
    "product": Product(Sphere(2, radius=2.0), SwissRoll(pitch=0.5), Torus(1)),
}
closed = pytest.mark.parametrize("manifold", CLOSED.values(), ids=CLOSED.keys())


def pair(manifold, seed: int = 0, n: int = 30):
    rng = np.random.default_rng(seed)
    if isinstance(manifold, AffineSubspace):
        return manifold.sample_normal(rng, n), manifold.sample_normal(rng, n)
    return manifold.sample(rng, n), manifold.sample(rng, n)


# ---- geodesics ----


@closed
def test_logarithm_inverts_the_exponential(manifold) -> None:
    x, y = pair(manifold)
    velocity = manifold.logarithm(x, y)
    np.testing.assert_allclose(manifold.exponential(x, velocity), y, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(velocity, axis=-1), manifold.geodesic_distance(x, y), rtol=1e-9)
    np.testing.assert_allclose(manifold.exponential(x, 0 * velocity), x, atol=1e-10)
    np.testing.assert_allclose(manifold.logarithm(x, x), 0, atol=1e-10)


@closed
def test_geodesics_have_the_length_of_their_small_steps(manifold) -> None:
    x, y = pair(manifold, n=5)
    velocity = manifold.logarithm(x, y)
    steps = 400
    times = np.linspace(0, 1, steps + 1)
    path = np.stack([manifold.exponential(x, time * velocity) for time in times])
    np.testing.assert_allclose(manifold.distance(path), 0, atol=1e-10)
    length = np.linalg.norm(np.diff(path, axis=0), axis=-1)
    np.testing.assert_allclose(length.sum(0), manifold.geodesic_distance(x, y), rtol=1e-4)
    # unit speed, and acceleration normal with the second fundamental form
    np.testing.assert_allclose(length, np.broadcast_to(length.mean(0), length.shape), rtol=1e-3)
    basis = manifold.tangent_basis(x)
    inside = np.einsum("nDi,nD->ni", basis, velocity)
    bend = np.einsum("nijD,ni,nj->nD", manifold.second_fundamental_form(x), inside, inside)
    short = 1e-4
    first, second = (manifold.exponential(x, k * short * velocity) for k in (1, 2))
    np.testing.assert_allclose((second - 2 * first + x) / short**2, bend, atol=0.005 * (1 + np.abs(bend).max()))


@closed
def test_geodesic_distance_is_a_metric_above_the_chord(manifold) -> None:
    x, y = pair(manifold)
    z, _ = pair(manifold, seed=5)
    there = manifold.geodesic_distance(x, y)
    np.testing.assert_allclose(manifold.geodesic_distance(y, x), there, rtol=1e-12)
    assert (there >= np.linalg.norm(x - y, axis=-1) - 1e-12).all()
    assert (there <= manifold.geodesic_distance(x, z) + manifold.geodesic_distance(z, y) + 1e-9).all()


def test_sphere_distance_is_accurate_for_extreme_angles() -> None:
    circle = Sphere(1)
    for angle in (1e-12, 1e-5, 1.0, np.pi - 1e-9):
        there = circle.geodesic_distance([1.0, 0.0], [np.cos(angle), np.sin(angle)])
        assert there == pytest.approx(angle, rel=1e-9)


def test_cut_loci_and_absent_geodesics_are_named() -> None:
    with pytest.raises(ParameterError, match="y is the antipode"):
        Sphere(2).logarithm([0.0, 0.0, 1.0], [0.0, 0.0, -1.0])
    with pytest.raises(ParameterError, match="y is opposite"):
        Torus(2).logarithm([1.0, 0.0, 1.0, 0.0], [1.0, 0.0, -1.0, 0.0])
    roll = SwissRoll()
    x = roll.project([0.0, 10.0, 10.0])
    with pytest.raises(ParameterError, match="v leads over the edge"):
        roll.exponential(x, [0.0, 12.0, 0.0])
    with pytest.raises(ParameterError, match="v must be tangent"):
        Sphere(1).exponential([1.0, 0.0], [1.0, 1.0])
    with pytest.raises(ParameterError, match="y must lie on"):
        Sphere(1).geodesic_distance([1.0, 0.0], [1.0, 1.0])
    product = Product(Sphere(1), Ellipsoid((2.0, 1.0)))
    x = product.sample(np.random.default_rng(0), 2)
    with pytest.raises(ParameterError, match="Ellipsoid has no closed form"):
        product.geodesic_distance(x, x)
    for manifold in (Stiefel(3, 2), RevolutionTorus(2.0, 1.0), Ellipsoid((2.0, 1.0))):
        with pytest.raises(ParameterError, match="has no closed form"):
            manifold.geodesic_distance(0.0, 0.0)


# ---- curvature ----


@pytest.mark.parametrize(("dimension", "radius"), [(1, 0.3), (2, 2.0), (6, 5.0)])
def test_sphere_curves_like_its_radius(dimension, radius) -> None:
    sphere = Sphere(dimension, radius)
    x = sphere.sample(np.random.default_rng(0), 10)
    form = sphere.second_fundamental_form(x)
    np.testing.assert_allclose(np.linalg.norm(sphere.mean_curvature(x), axis=-1), 1 / radius)
    np.testing.assert_allclose(sphere.mean_curvature(x), -x / radius**2)
    np.testing.assert_allclose(largest_curvature(form), 1 / radius)
    np.testing.assert_allclose(scalar_curvature(form), dimension * (dimension - 1) / radius**2, atol=1e-12)


@pytest.mark.parametrize(
    ("manifold", "euler"),
    [(Ellipsoid((1.0, 2.0, 0.7)), 2), (Ellipsoid((1.0, 1.0, 3.0)), 2), (RevolutionTorus(3.0, 1.2), 0)],
    ids=str,
)
def test_gauss_bonnet(manifold, euler) -> None:
    """Integral of the Gauss curvature, half the scalar one, is 2 pi times the Euler characteristic."""
    gauss, weights = np.polynomial.legendre.leggauss(120)
    around = np.arange(120) * TURN / 120
    if isinstance(manifold, RevolutionTorus):
        tube, other = np.meshgrid(around, around, indexing="ij")
        ring = manifold.major + manifold.minor * np.cos(tube)
        x = np.stack([ring * np.cos(other), ring * np.sin(other), manifold.minor * np.sin(tube)], -1)
        area = manifold.minor * ring * (TURN / 120) ** 2
    else:
        height, other = np.meshgrid(gauss, around, indexing="ij")
        rim = np.sqrt(1 - height**2)
        sphere = np.stack([rim * np.cos(other), rim * np.sin(other), height], -1)
        axes = np.array(manifold.axes)
        x = sphere * axes
        area = np.prod(axes) * np.linalg.norm(sphere / axes, axis=-1) * weights[:, None] * TURN / 120
    gauss_curvature = scalar_curvature(manifold.second_fundamental_form(x)) / 2
    assert area.sum() == pytest.approx(manifold.volume, rel=1e-9)
    assert (gauss_curvature * area).sum() == pytest.approx(TURN * euler, abs=1e-7)


@pytest.mark.parametrize(
    "manifold", [Torus(3), SwissRoll(), LinearSubspace(np.eye(4)[:, :3])], ids=["torus", "roll", "space"]
)
def test_flat_manifolds_are_flat(manifold) -> None:
    x, _ = pair(manifold)
    np.testing.assert_allclose(scalar_curvature(manifold.second_fundamental_form(x)), 0, atol=1e-12)


def test_rotations_have_the_curvature_of_a_round_projective_space() -> None:
    """SO(3) in the Frobenius metric is the 3-sphere of radius 2 sqrt(2) halved: scalar curvature 6 / 8."""
    rotations = Stiefel(3, 3)
    x = rotations.sample(np.random.default_rng(0), 5)
    np.testing.assert_allclose(scalar_curvature(rotations.second_fundamental_form(x)), 6 / 8)
    assert rotations.volume == pytest.approx(2 * Sphere(3, radius=2 * np.sqrt(2)).volume / 2)


def test_largest_curvature_in_higher_codimension() -> None:
    rng = np.random.default_rng(1)
    form = rng.normal(size=(20, 3, 3, 4))
    form = form + np.swapaxes(form, 1, 2)
    directions = rng.normal(size=(20_000, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    tried = np.linalg.norm(np.einsum("nijD,si,sj->nsD", form, directions, directions), axis=-1).max(-1)
    found = largest_curvature(form)
    assert (found >= tried - 1e-12).all()
    np.testing.assert_allclose(found, tried, rtol=2e-3)


def test_largest_curvature_starts_from_differences_of_directions_too() -> None:
    """From the other starts the alternation ends at 5.47 of 6.18; a grid of directions as a judge."""
    form = np.array([[[-2.0, -2.0, -4.0], [-3.0, -3.0, 3.0]], [[-3.0, -3.0, 3.0], [2.0, 0.0, 0.0]]])
    angles = np.linspace(0, np.pi, 100_001)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    tried = np.linalg.norm(np.einsum("ijD,si,sj->sD", form, directions, directions), axis=-1).max()
    assert largest_curvature(form) == pytest.approx(tried, rel=1e-8)


# ---- volumes ----


def test_volumes_of_spheres_and_tori() -> None:
    assert Sphere(1, 2.0).volume == pytest.approx(2 * TURN)
    assert Sphere(2, 0.5).volume == pytest.approx(np.pi)
    assert Sphere(3).volume == pytest.approx(2 * np.pi**2)
    assert Torus(3, 2.0).volume == pytest.approx((2 * TURN) ** 3)
    assert Product(Torus(2), Sphere(2), Ellipsoid((1.0, 1.0))).volume == pytest.approx(TURN**3 * 4 * np.pi)
    assert Product(Torus(2), LinearSubspace([[1.0]])).volume == np.inf


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=3))
def test_area_of_ellipsoids_against_carlson(axes) -> None:
    if len(axes) == 2:
        low, high = sorted(axes)
        expected = 4 * high * special.ellipe(1 - (low / high) ** 2)
    else:
        a, b, c = (axis**2 for axis in axes)
        expected = 4 * np.pi * special.elliprg(a * b, a * c, b * c)
    assert Ellipsoid(axes).volume == pytest.approx(expected, rel=1e-12)


def test_area_of_ellipsoids_in_higher_dimension() -> None:
    """The body of revolution (a, ..., a, c) in R^6, by one closed integral."""
    a, c = 1.3, 0.4
    # rho = a sin, z = c cos; the cross sections are 4-spheres of radius rho
    element = integrate.quad(lambda t: np.sin(t) ** 4 * np.hypot(a * np.cos(t), c * np.sin(t)), 0, np.pi)[0]
    assert Ellipsoid((a,) * 5 + (c,)).volume == pytest.approx(Sphere(4).volume * a**4 * element, rel=1e-10)
    assert Ellipsoid((2.0,) * 40).volume == pytest.approx(Sphere(39, 2.0).volume, rel=1e-12)


def test_volumes_of_stiefel_manifolds() -> None:
    """Circles and spheres; and the fibration over the first column, which stretches by sqrt(2) for each turn."""
    assert Stiefel(2, 1).volume == pytest.approx(TURN)
    assert Stiefel(2, 2).volume == pytest.approx(2 * np.sqrt(2) * TURN)
    assert Stiefel(5, 1).volume == pytest.approx(Sphere(4).volume)
    assert Stiefel(4, 2).volume == pytest.approx(np.sqrt(2) * Sphere(3).volume * Sphere(2).volume)


# ---- the projection's hard cases ----


@given(
    st.lists(st.sampled_from([1e-3, 0.5, 1.0, 1.0, 2.0, 1e3]), min_size=2, max_size=5),
    st.lists(st.sampled_from([0.0, -0.0, 1e-300, 1e-9, 1e-3, -0.3, 1.0, 1e3, -1e8, 1e300]), min_size=5, max_size=5),
)
def test_ellipsoid_projection_meets_the_optimality_conditions(axes, x) -> None:
    """On the surface; x - y = t y / a^2 with t >= -min(a)^2, which is sufficient for the global minimum."""
    ellipsoid, x = Ellipsoid(axes), np.array(x[: len(axes)])
    y = ellipsoid.project(x)
    a = np.array(ellipsoid.axes)
    assert np.square(y / a).sum() == pytest.approx(1, abs=1e-12)
    steep = y / a**2
    scale = max(np.abs(x).max(), a.max())
    direction = steep / np.linalg.norm(steep)
    residual = x / scale - y / scale
    multiplier = residual @ direction
    assert np.linalg.norm(residual - multiplier * direction) < 1e-10
    assert multiplier * scale >= -(a.min() ** 2) * np.linalg.norm(steep) * (1 + 1e-9) - 1e-13 * scale
    assert (y * x >= 0).all()


def test_ellipsoid_on_its_medial_axis() -> None:
    """The centre and the focal segment: the nearest point has a positive coordinate on the first smallest axis."""
    ellipsoid = Ellipsoid((1000.0, 1.0, 1.0))
    np.testing.assert_array_equal(ellipsoid.project([0.0, 0.0, 0.0]), [0.0, 1.0, 0.0])
    assert ellipsoid.distance([0.0, 0.0, 0.0]) == 1.0
    y = ellipsoid.project([500.0, 0.0, 0.0])
    assert y[1] > 0 and y[2] == 0
    # a grid of the ellipse as a judge
    t = np.linspace(0, np.pi, 1_000_001)
    assert ellipsoid.distance([500.0, 0.0, 0.0]) == pytest.approx(
        np.hypot(1000 * np.cos(t) - 500, np.sin(t)).min(), rel=1e-6
    )
    # past the centre of curvature, 1/1000 from the tip, the tip itself is nearest
    np.testing.assert_allclose(ellipsoid.project([999.9995, 0.0, 0.0]), [1000.0, 0.0, 0.0])
    np.testing.assert_allclose(ellipsoid.project([2000.0, 0.0, 0.0]), [1000.0, 0.0, 0.0])
    assert ellipsoid.reach == pytest.approx(1e-3)


def test_round_ellipsoids_are_spheres() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    ellipsoid, sphere = Ellipsoid((2.0,) * 4), Sphere(3, 2.0)
    np.testing.assert_allclose(ellipsoid.project(x), sphere.project(x), atol=1e-14)
    y = sphere.project(x)
    np.testing.assert_allclose(ellipsoid.second_fundamental_form(y), sphere.second_fundamental_form(y), atol=1e-13)


def test_medial_axes_of_the_others() -> None:
    np.testing.assert_array_equal(Sphere(2, 3.0).project(np.zeros(3)), [3.0, 0.0, 0.0])
    np.testing.assert_array_equal(Torus(2).project([0.0, 0.0, 0.0, -2.0]), [1.0, 0.0, 0.0, -1.0])
    torus = RevolutionTorus(3.0, 1.0)
    np.testing.assert_array_equal(torus.project([3.0, 0.0, 0.0]), [4.0, 0.0, 0.0])
    np.testing.assert_allclose(torus.project([0.0, 0.0, 0.0]), [2.0, 0.0, 0.0], atol=1e-15)
    assert torus.distance([0.0, 0.0, 0.0]) == pytest.approx(2.0)
    frames = Stiefel(3, 2)
    assert frames.distance(frames.project(np.zeros(6))) < 1e-14
    assert frames.distance(np.zeros(6)) == pytest.approx(np.sqrt(2))


def test_swiss_roll_projection_against_a_dense_grid() -> None:
    roll = SwissRoll(start=0.0, end=15.0, height=3.0)
    x = np.random.default_rng(3).uniform(-18, 18, size=(300, 3))
    t = np.linspace(0, 15, 100_001)
    curve = np.stack([t * np.cos(t), t * np.sin(t)], -1)
    planar = np.array([np.linalg.norm(curve - point, axis=-1).min() for point in x[:, [0, 2]]])
    off = np.maximum(np.maximum(-x[:, 1], x[:, 1] - 3), 0)
    np.testing.assert_allclose(roll.distance(x), np.hypot(planar, off), rtol=1e-5, atol=1e-5)


def test_stiefel_frames_stay_orthonormal() -> None:
    frames = Stiefel(5, 3)
    x = frames.sample(np.random.default_rng(0), 20)
    velocity = np.einsum("nDi,ni->nD", frames.tangent_basis(x), np.random.default_rng(1).normal(size=(20, 9)))
    for time in (0.3, 2.0):
        moved = frames.matrices(frames.exponential(x, time * velocity))
        np.testing.assert_allclose(
            np.swapaxes(moved, -1, -2) @ moved, np.broadcast_to(np.eye(3), (20, 3, 3)), atol=1e-12
        )
    step = 1e-3
    ahead, back = frames.exponential(x, step * velocity), frames.exponential(x, -step * velocity)
    np.testing.assert_allclose((ahead - back) / (2 * step), velocity, atol=1e-3)
    inside = np.einsum("nDi,nD->ni", frames.tangent_basis(x), velocity)
    bend = np.einsum("nijD,ni,nj->nD", frames.second_fundamental_form(x), inside, inside)
    np.testing.assert_allclose((ahead + back - 2 * x) / step**2, bend, atol=1e-3)


# ---- consistency between families ----


def test_torus_is_the_product_of_circles() -> None:
    torus, product = Torus(2, 1.5), Product(Sphere(1, 1.5), Sphere(1, 1.5))
    rng = np.random.default_rng(0)
    x, y, away = torus.sample(rng, 20), torus.sample(rng, 20), rng.normal(size=(20, 4))
    assert torus.volume == pytest.approx(product.volume)
    assert torus.reach == product.reach
    np.testing.assert_allclose(torus.project(away), product.project(away), atol=1e-14)
    np.testing.assert_allclose(torus.distance(away), product.distance(away), atol=1e-14)
    np.testing.assert_allclose(torus.geodesic_distance(x, y), product.geodesic_distance(x, y), rtol=1e-12)
    np.testing.assert_allclose(torus.logarithm(x, y), product.logarithm(x, y), atol=1e-12)
    np.testing.assert_allclose(torus.mean_curvature(x), product.mean_curvature(x), atol=1e-14)


def test_columns_of_stiefel_are_spheres() -> None:
    frames, sphere = Stiefel(4, 1), Sphere(3)
    x = np.random.default_rng(0).normal(size=(20, 4))
    np.testing.assert_allclose(frames.project(x), sphere.project(x), atol=1e-14)
    y = sphere.project(x)
    np.testing.assert_allclose(frames.mean_curvature(y), sphere.mean_curvature(y), atol=1e-14)


def test_subspaces_keep_orthonormal_bases_and_draw_gaussians() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 2)))[0]
    plane = AffineSubspace(basis, offset=np.arange(6.0))
    np.testing.assert_allclose(plane.basis, basis, atol=1e-14)
    x = plane.sample_normal(np.random.default_rng(1), 5000, scale=[1.0, 3.0])
    np.testing.assert_allclose(plane.project(x), x, atol=1e-12)
    np.testing.assert_allclose(np.std((x - plane.offset) @ basis, axis=0), [1.0, 3.0], rtol=0.05)
    with pytest.raises(ParameterError, match="scale"):
        plane.sample_normal(np.random.default_rng(1), 5, scale=[1.0, -3.0])
