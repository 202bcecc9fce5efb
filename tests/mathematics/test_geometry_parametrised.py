"""Parametrised against the closed families, and bad input to every constructor."""

from __future__ import annotations

import numpy as np
import pytest

from porism.errors import ParameterError
from porism.geometry import (
    AffineSubspace,
    Ellipsoid,
    LinearSubspace,
    Parametrised,
    Product,
    RevolutionTorus,
    Sphere,
    Stiefel,
    SwissRoll,
    Torus,
    estimate_reach,
    largest_curvature,
    scalar_curvature,
)

TURN = 2 * np.pi


def closed_against(manifold, chart, away, slack: float) -> None:
    x = manifold.project(away)
    np.testing.assert_allclose(chart.project(away), x, atol=1e-9)
    assert chart.volume == pytest.approx(manifold.volume, rel=1e-10)
    assert chart.reach == pytest.approx(manifold.reach, rel=slack)
    one, two = chart.tangent_basis(x), manifold.tangent_basis(x)
    turn = np.swapaxes(one, -1, -2) @ two
    np.testing.assert_allclose(one @ turn, two, atol=1e-9)
    form = np.einsum("nijD,nia,njb->nabD", chart.second_fundamental_form(x), turn, turn)
    np.testing.assert_allclose(form, manifold.second_fundamental_form(x), atol=1e-7)


def test_parametrised_reproduces_the_sphere_and_the_torus() -> None:
    def sphere(u):
        sine = np.sin(u[..., 0])
        return 2 * np.stack([sine * np.cos(u[..., 1]), sine * np.sin(u[..., 1]), np.cos(u[..., 0])], axis=-1)

    def torus(u):
        ring = 2 + 0.5 * np.cos(u[..., 1])
        return np.stack([ring * np.cos(u[..., 0]), ring * np.sin(u[..., 0]), 0.5 * np.sin(u[..., 1])], axis=-1)

    rng = np.random.default_rng(4)
    away = 2 * rng.normal(size=(200, 3))
    away = away[(np.linalg.norm(away, axis=-1) > 0.2) & (np.hypot(away[:, 0], away[:, 1]) > 0.2)]
    closed_against(Sphere(2, 2.0), Parametrised(sphere, [(0, np.pi), (0, TURN)], periodic=[False, True]), away, 1e-6)
    shape = RevolutionTorus(2.0, 0.5)
    away = away[np.hypot(np.hypot(away[:, 0], away[:, 1]) - 2, away[:, 2]) > 0.1]
    closed_against(shape, Parametrised(torus, [(0, TURN), (0, TURN)], periodic=[True, True]), away, 1e-6)


def test_parametrised_finds_the_spiral_of_the_roll() -> None:
    roll = SwissRoll()
    chart = Parametrised(
        lambda u: np.stack([u[..., 0] * np.cos(u[..., 0]), u[..., 1], u[..., 0] * np.sin(u[..., 0])], -1),
        [(roll.start, roll.end), (0.0, roll.height)],
        resolution=200,
    )
    x = np.random.default_rng(5).uniform(-12, 12, size=(200, 3)) + np.array([0, 10, 0])
    np.testing.assert_allclose(chart.distance(x), roll.distance(x), atol=1e-9)
    assert chart.volume == pytest.approx(roll.volume, rel=1e-10)


def test_parametrised_says_where_it_cannot() -> None:
    def sphere(u):
        sine = np.sin(u[..., 0])
        return np.stack([sine * np.cos(u[..., 1]), sine * np.sin(u[..., 1]), np.cos(u[..., 0])], axis=-1)

    chart = Parametrised(sphere, [(0, np.pi), (0, TURN)], periodic=[False, True])
    with pytest.raises(ParameterError, match="loses rank"):
        chart.tangent_basis([0.0, 0.0, 1.0])
    low = Parametrised(sphere, [(0, np.pi), (0, TURN)], periodic=[False, True], element_bound=0.9)
    with pytest.raises(ParameterError, match="element reaches"):
        low.sample(np.random.default_rng(0), 1000)
    np.testing.assert_allclose(chart.volume_element([[0.3, 1.0], [1.0, 2.0]]), np.sin([0.3, 1.0]), rtol=1e-10)
    with pytest.raises(ParameterError, match="u must have shape"):
        chart.volume_element([1.0])


def test_differences_at_an_edge_stay_in_the_box() -> None:
    def arc(u):
        inside = (u >= 0) & (u <= 2)
        return np.where(inside, np.concatenate([np.cos(u), np.sin(u)], axis=-1), np.nan)

    chart = Parametrised(arc, [(0.0, 2.0)])
    ends = np.array([[0.0], [2.0]])
    velocity = np.concatenate([-np.sin(ends), np.cos(ends)], axis=-1)
    np.testing.assert_allclose(np.abs((chart.tangent_basis(arc(ends))[..., 0] * velocity).sum(-1)), 1, atol=1e-12)
    np.testing.assert_allclose(chart.mean_curvature(arc(ends)), -arc(ends), atol=1e-7)


def test_parameters_of_a_closed_axis_are_within_its_bounds() -> None:
    circle = Parametrised(lambda u: np.concatenate([np.cos(u), np.sin(u)], -1), [(0.0, TURN)], periodic=[True])
    angles = np.array([-1e-3, 1e-3, -1.0, 3.0])
    found = circle.parameters(np.stack([np.cos(angles), np.sin(angles)], axis=-1))[:, 0]
    np.testing.assert_allclose(found, angles % TURN, atol=1e-12)


def test_newton_descends_where_the_distance_is_concave() -> None:
    """From (2, 0) the squared distance to the unit circle is 5 - 4 cos: concave beyond 90 degrees, least at 0."""
    circle = Parametrised(lambda u: np.concatenate([np.cos(u), np.sin(u)], -1), [(0.0, TURN)], periodic=[True])
    starts = np.linspace(0.1, TURN - 0.1, 14)[:, None]  # none at the maximum, where the slope is zero
    reached = circle._chart._descend(np.broadcast_to([2.0, 0.0], (14, 2)), starts, 60, newton=True)
    np.testing.assert_allclose(np.cos(reached), 1, atol=1e-14)


# ---- bad input ----


def test_bad_densities_are_named() -> None:
    circle, rng = Sphere(1), np.random.default_rng(0)
    with pytest.raises(ParameterError, match="density_bound must be given"):
        circle.sample(rng, 3, lambda x: x[:, 0])
    with pytest.raises(ParameterError, match="density_bound is given without density"):
        circle.sample(rng, 3, density_bound=1.0)
    with pytest.raises(ParameterError, match="above density_bound"):
        circle.sample(rng, 300, lambda x: 1 + x[:, 0], density_bound=1.5)
    with pytest.raises(ParameterError, match="density must not be negative"):
        circle.sample(rng, 300, lambda x: x[:, 0], density_bound=1.5)
    with pytest.raises(ParameterError, match="density must return shape"):
        circle.sample(rng, 300, lambda x: x, density_bound=1.5)
    with pytest.raises(ParameterError, match="too small"):
        circle.sample(rng, 3, lambda x: 0 * x[:, 0], density_bound=1.0)
    with pytest.raises(ParameterError, match="n must be"):
        circle.sample(rng, -1)
    with pytest.raises(ParameterError, match="rng must be"):
        circle.sample(np.random, 1)
    with pytest.raises(ParameterError, match="infinite volume"):
        LinearSubspace(np.eye(2)).sample(rng, 1)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: Sphere(0), "dimension"),
        (lambda: Sphere(1.5), "dimension"),
        (lambda: Sphere(2, radius=-1), "radius"),
        (lambda: Sphere(2, radius=np.nan), "radius"),
        (lambda: Sphere(2, radius="a"), "radius"),
        (lambda: Torus(0), "dimension"),
        (lambda: RevolutionTorus(1.0, 1.0), "minor"),
        (lambda: RevolutionTorus(np.inf, 1.0), "major"),
        (lambda: Ellipsoid((1.0,)), "axes"),
        (lambda: Ellipsoid((1.0, 0.0)), "axes"),
        (lambda: Ellipsoid(3.0), "axes"),
        (lambda: Stiefel(2, 3), "k"),
        (lambda: Stiefel(1, 1), "n"),
        (lambda: LinearSubspace([1.0, 2.0]), "basis"),
        (lambda: LinearSubspace([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]]), "basis"),
        (lambda: AffineSubspace([[1.0], [0.0]], offset=[1.0]), "offset"),
        (lambda: LinearSubspace([[np.nan], [0.0]]), "basis"),
        (lambda: SwissRoll(start=3.0, end=2.0), "start"),
        (lambda: SwissRoll(start=-1.0), "start"),
        (lambda: SwissRoll(height=0.0), "height"),
        (Product, "factors"),
        (lambda: Product(1.0), "factors"),
        (lambda: Parametrised(np.cos, [(1.0, 0.0)]), "bounds"),
        (lambda: Parametrised(np.cos, [1.0, 2.0]), "bounds"),
        (lambda: Parametrised(lambda u: u[..., 0], [(0.0, 1.0), (0.0, 1.0)]), "map"),
        (lambda: Parametrised(np.log, [(-2.0, -1.0)]), "map"),
        (lambda: Parametrised(np.cos, [(0.0, 1.0)], jacobian=np.sin), "jacobian"),
        (lambda: Parametrised(np.cos, [(0.0, 1.0)], periodic=[True, False]), "periodic"),
        (lambda: Parametrised(np.cos, [(0.0, 1.0)], element_bound=-1.0), "element_bound"),
        (lambda: estimate_reach([1.0], [1.0]), "points"),
        (lambda: estimate_reach([[1.0, 0.0]], [[1.0]]), "tangents"),
        (lambda: estimate_reach([[1.0, 0.0]], [[[2.0], [0.0]]]), "tangents"),
        (lambda: scalar_curvature([1.0]), "form"),
        (lambda: largest_curvature([[[np.nan]]]), "form"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in log")
def test_bad_manifolds_are_named(build, name) -> None:
    with pytest.raises(ParameterError, match=rf"^{name}"):
        build()
