"""diffusion_manifold: exact scores against plain quadratures and mpmath; the expansion against curvatures written out;
the law of the empirical score against its variance integral."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, vonmises_fisher

from porism.errors import ParameterError
from porism.geometry import Ellipsoid, LinearSubspace, Product, RevolutionTorus, Sphere, SwissRoll, Torus
from porism_sims.diffusion.manifold_quadrature import (
    ellipse_score,
    exact_score,
    named_manifold,
    simulate,
    swiss_roll_score,
    torus_score,
)
from porism_sims.diffusion.manifolds import (
    bessel_ratio,
    embedded_score,
    product_score,
    segment_score,
    sphere_score,
    split_score,
)
from porism_sims.diffusion.process import diffuse, noise, signal, time_of_noise
from porism_theory.diffusion import _manifold_engine as theory

SEEDS = st.integers(0, 2**32 - 1)
TIMES = st.floats(0.02, 4)
NAMES: tuple[Any, ...] = ("sphere", "ellipse", "torus", "swiss_roll")
ROLL = SwissRoll(height=2.0, pitch=0.1)
ELLIPSE, TORUS = Ellipsoid((2.0, 1.0)), RevolutionTorus(2.0, 0.7)


def log_density(x: Any, t: float, nodes: Any, weights: Any) -> Any:
    """Unnormalised log density of noised point masses, written out."""
    squares = np.sum((x[:, None] - signal(t) * nodes) ** 2, axis=-1)
    return logsumexp(np.log(weights) - squares / (2 * noise(t)), axis=1)


def score_of_nodes(x: Any, t: float, nodes: Any, weights: Any) -> Any:
    """The same's score, one point at a time and from differences."""
    scores = []
    for point in x:
        gaps = signal(t) * nodes - point
        log = np.log(weights) - np.sum(gaps**2, axis=1) / (2 * noise(t))
        shares = np.exp(log - log.max())
        scores.append(shares @ gaps / shares.sum() / noise(t))
    return np.array(scores)


def ellipse_nodes(axes: tuple[float, float], count: int = 40_000) -> tuple[Any, Any]:
    angle = 2 * np.pi * np.arange(count) / count
    nodes = np.stack([axes[0] * np.cos(angle), axes[1] * np.sin(angle)], axis=1)
    return nodes, np.hypot(axes[0] * np.sin(angle), axes[1] * np.cos(angle))


def torus_nodes(torus: RevolutionTorus, around: int, tube: int) -> tuple[Any, Any]:
    """A grid over both angles."""
    u, v = np.meshgrid(2 * np.pi * np.arange(around) / around, 2 * np.pi * np.arange(tube) / tube)
    ring = (torus.major + torus.minor * np.cos(v)).ravel()
    nodes = np.stack([ring * np.cos(u.ravel()), ring * np.sin(u.ravel()), torus.minor * np.sin(v.ravel())], axis=1)
    return nodes, ring


def gauss(low: float, high: float, panels: int) -> tuple[Any, Any]:
    x, w = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(low, high, panels + 1)
    half = (edges[1] - edges[0]) / 2
    return ((edges[1:] + edges[:-1])[:, None] / 2 + half * x).ravel(), np.tile(half * w, panels)


# Scores in closed form


@pytest.mark.parametrize("dimension", [2, 3, 4, 11, 60, 500])
def test_bessel_ratios_are_those_of_mpmath(dimension: int) -> None:
    edge = 30 + 4 * dimension
    k = np.array([0, 1e-8, 0.01, 1, 7.5, dimension + 9, 0.5 * edge, 0.99 * edge, 1.01 * edge, 10.0 * edge, 1e5])
    with mpmath.workdps(40):
        order = mpmath.mpf(dimension) / 2
        exact = [float(mpmath.besseli(order, x) / mpmath.besseli(order - 1, x)) if x else 0.0 for x in k]
    np.testing.assert_allclose(bessel_ratio(k, dimension), exact, rtol=3e-15)


def test_bessel_ratio_is_the_mean_length_of_von_mises_fisher_draws() -> None:
    draws = vonmises_fisher([0, 0, 0, 1], 3.0).rvs(100_000, random_state=np.random.default_rng(0))
    assert float(bessel_ratio(3.0, 4)) == pytest.approx(np.linalg.norm(draws.mean(axis=0)), abs=0.005)


@pytest.mark.parametrize("t", [1e-3, 0.05, 0.5, 3.0])
def test_sphere_scores_are_quadratures(t: float) -> None:
    rng = np.random.default_rng(1)
    circle, pull = Sphere(1, 1.3), np.array([0.4, -2.0])
    nodes, _ = ellipse_nodes((1.3, 1.3))
    x = np.concatenate([diffuse(rng, circle.sample(rng, 5), t), rng.normal(size=(5, 2))])
    for vector in (None, pull):
        weights = np.ones(len(nodes)) if vector is None else np.exp(nodes @ vector / 1.3)
        expected = score_of_nodes(x, t, nodes, weights)
        np.testing.assert_allclose(sphere_score(x, t, circle, pull=vector), expected, atol=1e-10 / noise(t))


@pytest.mark.parametrize("t", [0.05, 0.5, 3.0])
def test_sphere_scores_in_space_are_quadratures(t: float) -> None:
    rng = np.random.default_rng(2)
    cosine, w = np.polynomial.legendre.leggauss(80)
    around = 2 * np.pi * np.arange(80) / 80
    ring = np.sqrt(1 - cosine**2)[:, None]
    height = np.broadcast_to(cosine[:, None], (80, 80))
    nodes = 0.8 * np.stack([ring * np.cos(around), ring * np.sin(around), height], axis=-1).reshape(-1, 3)
    pull = np.array([1.0, -0.5, 2.0])
    x = np.concatenate([diffuse(rng, Sphere(2, 0.8).sample(rng, 4), t), np.zeros((1, 3))])
    expected = score_of_nodes(x, t, nodes, np.repeat(w, 80) * np.exp(nodes @ pull / 0.8))
    np.testing.assert_allclose(sphere_score(x, t, Sphere(2, 0.8), pull=pull), expected, atol=1e-11)


def test_on_the_sphere_in_space_the_first_order_is_exact() -> None:
    """Claim 2 of the card, in numbers; k is at least 14."""
    for t in (0.001, 0.01, 0.04):
        for height in (-0.5, 0.0, 0.5):
            assert np.all(theory.sphere_errors(2, height, t, radius=1.3)[1:] < 1e-10)


@pytest.mark.parametrize("t", [1e-6, 1e-3, 0.1, 2.0, 12.0])
def test_segment_scores_are_those_of_mpmath(t: float) -> None:
    x, width = np.linspace(-1, 2.5, 15)[:, None], 1.5 * float(signal(t))

    def exact(y: float) -> float:
        if y > width / 2:  # where the tails are computed without cancellation
            return -exact(width - y)
        low, high = y / mpmath.sqrt(noise(t)), (y - width) / mpmath.sqrt(noise(t))
        mass = (mpmath.erfc(-low / mpmath.sqrt(2)) - mpmath.erfc(-high / mpmath.sqrt(2))) / 2
        return float((mpmath.npdf(low) - mpmath.npdf(high)) / mass / mpmath.sqrt(noise(t)))

    with mpmath.workdps(60):
        expected = [exact(float(y)) for y in x[:, 0]]
    np.testing.assert_allclose(segment_score(x, t, length=1.5)[:, 0], expected, rtol=1e-10, atol=1e-12)


def test_products_and_embeddings_are_quadratures_of_the_whole_space() -> None:
    rng = np.random.default_rng(3)
    for t in (0.02, 0.4, 2.0):
        assert theory.assembly_gap(rng, t) < 1e-9
    flat, product = exact_score(Torus(2, 0.7)), exact_score(Product(Sphere(1, 0.7), Sphere(1, 0.7)))
    x = rng.normal(size=(4, 4))
    np.testing.assert_array_equal(flat(x, 0.3), product(x, 0.3))


# Scores by quadrature


@pytest.mark.parametrize("axes", [(2.0, 1.0), (1.0, 1.0), (0.2, 1.0)])
@pytest.mark.parametrize("t", [1e-4, 0.01, 0.3, 5.0])
def test_ellipse_scores_are_those_of_many_nodes(axes: tuple[float, float], t: float) -> None:
    rng = np.random.default_rng(4)
    ellipse = Ellipsoid(axes)
    x = np.concatenate([diffuse(rng, ellipse.sample(rng, 6), t), rng.normal(size=(6, 2)), [[1e-3, 2e-3], [4.0, 3.0]]])
    nodes, speed = ellipse_nodes(axes)
    for density in (None, lambda p: 1 + 0.5 * p[:, 1] / axes[1]):
        expected = score_of_nodes(x, t, nodes, speed * (1 if density is None else density(nodes)))
        error = np.linalg.norm(ellipse_score(x, t, ellipse, density=density) - expected, axis=1)
        assert np.all(error < 1e-8 * np.linalg.norm(expected, axis=1) + 1e-9)


@pytest.mark.parametrize("torus", [TORUS, RevolutionTorus(1.0, 0.3), RevolutionTorus(1.0, 0.97)])
@pytest.mark.parametrize("t", [0.02, 0.3, 3.0])
def test_torus_scores_are_quadratures_over_both_angles(torus: RevolutionTorus, t: float) -> None:
    rng = np.random.default_rng(5)
    core = signal(t) * np.array([[torus.major, 0.0, 0.0], [0.0, torus.major, 1e-9]])
    x = [diffuse(rng, torus.sample(rng, 4), t), rng.normal(size=(4, 3)), core, [[0, 0, 0.1], [1e-9, 0, 0]]]
    nodes, ring = torus_nodes(torus, 240, 160)
    for density in (None, lambda p: 1 + 0.8 * p[:, 2] / torus.minor):
        weights = ring if density is None else ring * density(nodes)
        expected = score_of_nodes(np.concatenate(x), t, nodes, weights)
        error = np.linalg.norm(torus_score(np.concatenate(x), t, torus, density=density) - expected, axis=1)
        assert np.all(error < 1e-9 * np.linalg.norm(expected, axis=1) + 1e-10)


@pytest.mark.parametrize("t", [1e-5, 1e-4, 1e-3])
def test_the_window_on_the_torus_loses_nothing_at_small_noise(t: float) -> None:
    """Against 20,000 nodes around the whole tube; 1e-6 is what is promised, 1e-9 what rounding allows."""
    from scipy.special import i0e, i1e

    rng = np.random.default_rng(6)
    x, tube = diffuse(rng, TORUS.sample(rng, 20), t), 2 * np.pi * np.arange(20_000) / 20_000
    ring, u = np.hypot(x[:, :1], x[:, 1:2]), TORUS.major + TORUS.minor * np.cos(tube)
    log = -((ring - signal(t) * u) ** 2 + (x[:, 2:] - signal(t) * TORUS.minor * np.sin(tube)) ** 2) / (2 * noise(t))
    weights, k = u * np.exp(log - log.max(axis=1, keepdims=True)), signal(t) / noise(t) * ring * u
    total = np.sum(weights * i0e(k), axis=1)
    radial = np.sum(weights * i1e(k) * u, axis=1) / total
    height = TORUS.minor * np.sum(weights * i0e(k) * np.sin(tube), axis=1) / total
    mean = np.concatenate([radial[:, None] * x[:, :2] / ring, height[:, None]], axis=1)
    expected = (signal(t) * mean - x) / noise(t)
    error = np.linalg.norm(torus_score(x, t, TORUS) - expected, axis=1)
    assert np.all(error < 1e-9 * np.linalg.norm(expected, axis=1))


@pytest.mark.parametrize("t", [1e-4, 0.01, 0.5])
def test_swiss_roll_scores_are_quadratures(t: float) -> None:
    rng = np.random.default_rng(7)
    x = np.concatenate([diffuse(rng, ROLL.sample(rng, 8), t), 0.6 * rng.normal(size=(4, 3))])
    angle, w = gauss(ROLL.start, ROLL.end, 1500)
    nodes = ROLL.pitch * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    spiral = score_of_nodes(x[:, [0, 2]], t, nodes, w * np.sqrt(1 + angle**2))
    height, w = gauss(0, ROLL.height, 1500)
    across = score_of_nodes(x[:, 1:2], t, height[:, None], w)
    expected = np.stack([spiral[:, 0], across[:, 0], spiral[:, 1]], axis=1)
    np.testing.assert_allclose(swiss_roll_score(x, t, ROLL), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_gradients_of_a_log_density(name: Any) -> None:
    """The density is that of a large sample on a deterministic grid; its slope is taken by differences."""
    t, rng = 0.4, np.random.default_rng(8)
    manifold = named_manifold(name)
    match manifold:
        case Ellipsoid():
            nodes, weights = ellipse_nodes((1.0, 0.5), 2000)
        case RevolutionTorus():
            nodes, weights = torus_nodes(manifold, 120, 120)
        case Sphere():
            z, w = np.polynomial.legendre.leggauss(60)
            u, v = np.meshgrid(2 * np.pi * np.arange(60) / 60, z)
            ring = np.sqrt(1 - v**2)
            nodes = np.stack([ring * np.cos(u), ring * np.sin(u), v], axis=-1).reshape(-1, 3)
            weights = np.repeat(w, 60)
        case _:
            (angle, a), (height, b) = gauss(ROLL.start, ROLL.end, 12), gauss(0, ROLL.height, 4)
            u, v = np.meshgrid(angle, height)
            nodes = np.stack([0.1 * u * np.cos(u), v, 0.1 * u * np.sin(u)], axis=-1).reshape(-1, 3)
            weights = np.outer(b, a * np.sqrt(1 + angle**2)).ravel()
    x = diffuse(rng, manifold.sample(rng, 3), t)
    slope = theory.gradient(lambda y: log_density(y, t, nodes, weights), x, 0.02)
    np.testing.assert_allclose(exact_score(manifold)(x, t), slope, atol=1e-8)


# Properties


@given(SEEDS, TIMES, st.sampled_from(NAMES))
def test_posterior_means_stay_in_the_hull_and_points_split(seed: int, t: float, name: Any) -> None:
    rng, manifold = np.random.default_rng(seed), named_manifold(name)
    x = np.concatenate([diffuse(rng, manifold.sample(rng, 3), t), 3 * rng.normal(size=(3, manifold.ambient_dimension))])
    score, split = exact_score(manifold)(x, t), split_score(manifold, exact_score(manifold), x, t)
    mean = np.linalg.norm(x + noise(t) * score, axis=1)
    assert np.all(mean < signal(t) * theory.farthest(manifold) * (1 + 1e-9))
    np.testing.assert_allclose(split.remainder - split.normal / noise(t), score, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(split.nearest + split.normal, x, atol=1e-12)
    # at large noise the score tends to -x: signal m - x = -x + O(signal)
    bound = signal(t) * (theory.farthest(manifold) + signal(t) * np.linalg.norm(x, axis=1)) / noise(t)
    assert np.all(np.linalg.norm(score + x, axis=1) <= bound * (1 + 1e-9))


@given(SEEDS, TIMES, st.integers(1, 12), st.floats(0.2, 3))
def test_uniform_spheres_are_radial_odd_and_bend_inwards(seed: int, t: float, dimension: int, radius: float) -> None:
    rng, sphere = np.random.default_rng(seed), Sphere(dimension, radius)
    x = rng.normal(size=(4, dimension + 1))
    score = sphere_score(x, t, sphere)
    np.testing.assert_allclose(sphere_score(-x, t, sphere), -score, rtol=1e-12)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    along = np.sum(score * unit, axis=1)
    np.testing.assert_allclose(score, along[:, None] * unit, atol=1e-11 * np.abs(score).max())
    assert np.all(sphere_score(np.zeros((1, dimension + 1)), t, sphere) == 0)
    remainder = split_score(sphere, exact_score(sphere), x, t).remainder
    assert np.all(np.sum(remainder * unit, axis=1) < 0)  # towards the centre, at every noise


@given(SEEDS, TIMES, st.sampled_from(NAMES), st.floats(0.3, 3))
def test_scores_scale_with_the_data(seed: int, t: float, name: Any, factor: float) -> None:
    manifold = named_manifold(name)
    points = np.random.default_rng(seed).normal(size=(3, manifold.ambient_dimension))
    assert theory.dilation_gap(manifold, points, t, factor) < 1e-7


@given(SEEDS, TIMES)
def test_scores_turn_with_the_data(seed: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, 2))
    turned = ellipse_score(x[:, ::-1], t, Ellipsoid((0.6, 1.5)))[:, ::-1]
    np.testing.assert_allclose(ellipse_score(x, t, Ellipsoid((1.5, 0.6))), turned, rtol=1e-9, atol=1e-9)
    angle, x = rng.uniform(0, 2 * np.pi), rng.normal(size=(3, 3))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    np.testing.assert_allclose(torus_score(x @ turn, t, TORUS), torus_score(x, t, TORUS) @ turn, rtol=1e-9, atol=1e-9)


@given(SEEDS, st.floats(0.02, 1), st.sampled_from(NAMES), st.floats(-0.8, 0.8))
def test_nearest_points_of_the_shrunk_manifold(seed: int, t: float, name: Any, height: float) -> None:
    manifold = named_manifold(name)
    points = theory.raised(manifold, theory.feet(np.random.default_rng(seed), manifold, 2), height)
    assert theory.split_gap(manifold, points, t) < 1e-8
    assert theory.split_gap(manifold, points, t, shrunk=False) > 1e-3


def test_more_ambient_dimensions_change_no_estimate() -> None:
    """Zeros appended to the data add the same to all squared distances: the empirical score does not see them."""
    rng, t = np.random.default_rng(9), 0.05
    data = Sphere(2).sample(rng, 50)
    x = diffuse(rng, np.pad(data[:5], ((0, 0), (0, 20))), t)
    wide = theory.empirical_score(np.pad(data, ((0, 0), (0, 20))))(x, t)
    np.testing.assert_allclose(wide[:, :3], theory.empirical_score(data)(x[:, :3], t), atol=1e-9)
    np.testing.assert_allclose(wide[:, 3:], -x[:, 3:] / noise(t), atol=1e-9)


# The expansion


def hypersurface(normal: Any, tangents: Any, curvatures: Any, slopes: Any, height: float) -> Any:
    """M3 written out: ``slopes[i][j]`` is the derivative of curvature i along tangent j, per length on the manifold."""
    grown = [1 + height * k for k in curvatures]
    rest = -0.5 * sum(k / g for k, g in zip(curvatures, grown, strict=True)) * normal
    for j, tangent in enumerate(tangents):
        bent = sum(height * slopes[i][j] / grown[i] for i in range(len(grown)))
        rest = rest - 0.5 * bent / grown[j] * tangent
    return rest


@pytest.mark.parametrize("height", [-0.35, 0.0, 0.4])
@pytest.mark.parametrize("angle", [0.0, 0.7, 2.5, 4.0])
def test_the_curvature_term_on_ellipses_is_that_of_curvatures_written_out(angle: float, height: float) -> None:
    a, b, t = 2.0, 1.0, 0.01
    s, c = np.sin(angle), np.cos(angle)
    speed = np.hypot(a * s, b * c)
    curvature, slope = a * b / speed**3, -3 * a * b * (a * a - b * b) * s * c / speed**6
    normal, tangent = np.array([b * c, a * s]) / speed, np.array([-a * s, b * c]) / speed
    point = signal(t) * (np.array([[a * c, b * s]]) + height * normal)
    expected = hypersurface(normal, [tangent], [curvature], [[slope]], height) / signal(t)
    np.testing.assert_allclose(theory.expected_remainder(ELLIPSE, point, t)[0], expected, atol=1e-9)
    # the density f = 1 + y/2 adds its logarithmic slope along the curve, spread by 1 + height curvature
    density = 0.5 * tangent[1] / (1 + b * s / 2) / (1 + height * curvature) / signal(t) * tangent
    found = theory.expected_remainder(ELLIPSE, point, t, lambda p: 1 + p[:, 1] / 2)[0]
    np.testing.assert_allclose(found, expected + density, atol=1e-9)


@pytest.mark.parametrize("height", [-0.3, 0.0, 0.5])
@pytest.mark.parametrize("tube", [0.3, 2.0, np.pi])
def test_the_curvature_term_on_tori_is_that_of_curvatures_written_out(tube: float, height: float) -> None:
    t, (major, minor) = 0.02, (TORUS.major, TORUS.minor)
    ring, normal = major + minor * np.cos(tube), np.array([np.cos(tube), 0, np.sin(tube)])
    tangents = np.array([[-np.sin(tube), 0, np.cos(tube)], [0, 1, 0]])
    around = np.cos(tube) / ring
    slope = -np.sin(tube) * major / ring**2 / minor  # along the tube, per length
    point = signal(t) * (np.array([[ring, 0, minor * np.sin(tube)]]) + height * normal)
    expected = hypersurface(normal, tangents, [1 / minor, around], [[0, 0], [slope, 0]], height) / signal(t)
    np.testing.assert_allclose(theory.expected_remainder(TORUS, point, t)[0], expected, atol=1e-9)


def test_the_curvature_term_in_higher_codimension_is_that_of_the_factors() -> None:
    t, product = 0.01, Product(Sphere(1), Ellipsoid((2.0, 1.0)))
    rng = np.random.default_rng(10)
    points = signal(t) * product.sample(rng, 4) + 0.1 * rng.normal(size=(4, 4))
    parts = [theory.expected_remainder(m, points[:, c], t) for m, c in ((Sphere(1), [0, 1]), (ELLIPSE, [2, 3]))]
    np.testing.assert_allclose(theory.expected_remainder(product, points, t), np.concatenate(parts, axis=1), atol=1e-8)
    errors = [theory.expansion_errors(product, points / signal(t), each) for each in (0.002, 0.001)]
    np.testing.assert_allclose(theory.order(*(e.curvature for e in errors), (0.002, 0.001)), 1, atol=0.05)


def test_orders_on_the_swiss_roll_and_signs_on_the_circle() -> None:
    rng, times = np.random.default_rng(11), (0.002, 0.001)
    feet = theory.feet(rng, ROLL, 10)
    assert len(feet) == 10
    points = theory.raised(ROLL, feet, rng.uniform(-0.3, 0.3, (10, 1)))
    errors = [theory.expansion_errors(ROLL, points, t) for t in times]
    np.testing.assert_allclose(theory.order(*(e.curvature for e in errors), times), 1, atol=0.05)
    np.testing.assert_allclose(
        theory.expected_remainder(Sphere(1), np.array([[1.2, 0.0]]), 0.1), [[-0.5 / 1.2, 0]], atol=1e-9
    )


def test_energy_of_the_rest_is_that_of_curvature_and_density() -> None:
    """E|s_M|^2 -> E|grad log f|^2 + |H|^2 / 4 on an ellipse (M9), both by quadrature over the curve and its normals."""
    t = 1e-4
    nodes, speed = ellipse_nodes((2.0, 1.0), 400)
    normal = ELLIPSE.normal_basis(nodes)[..., 0]
    tangent = np.stack([-normal[:, 1], normal[:, 0]], axis=1)
    weights = speed * (1 + nodes[:, 1] / 2)
    weights /= weights.sum()
    intrinsic = 0.5 * tangent[:, 1] / (1 + nodes[:, 1] / 2)
    limit = weights @ (intrinsic**2 + theory.curvature_sum(ELLIPSE, nodes) ** 2 / 4)
    z, w = np.polynomial.hermite_e.hermegauss(9)
    score = exact_score(ELLIPSE, lambda p: 1 + p[:, 1] / 2)
    energy = 0.0
    for height, weight in zip(np.sqrt(noise(t)) * z, w / w.sum(), strict=True):
        remainder = split_score(ELLIPSE, score, signal(t) * nodes + height * normal, t).remainder
        energy += weight * float(weights @ np.sum(remainder**2, axis=1))
    assert energy == pytest.approx(limit, rel=0.005)


def test_half_of_the_points_leave_the_tube_where_noise_and_reach_meet() -> None:
    rng, t = np.random.default_rng(12), float(np.log1p(1 / 48))
    x = diffuse(rng, np.pad(Sphere(2).sample(rng, 4000), ((0, 0), (0, 47))), t)
    distance = np.hypot(np.linalg.norm(x[:, :3], axis=1) - signal(t), np.linalg.norm(x[:, 3:], axis=1))
    assert np.mean(distance < signal(t)) == pytest.approx(0.5, abs=0.1)


def test_charts_have_the_moments_of_their_arcs() -> None:
    """One chart is a Gaussian of variance 1/2 on both axes; for three, moments by quadrature and slopes by differences."""
    x, t = np.array([[0.3, -0.8], [1.0, 0.2]]), 0.7
    one = -x / (signal(t) ** 2 / 2 + noise(t))
    np.testing.assert_allclose(theory.chart_score(x, t, charts=1), one, atol=1e-12)
    components = []
    for middle in 2 * np.pi * np.arange(3) / 3:
        angle, w = gauss(middle - np.pi / 3, middle + np.pi / 3, 4)
        arc, w = np.stack([np.cos(angle), np.sin(angle)], axis=1), w / w.sum()
        centred = arc - w @ arc
        covariance = signal(t) ** 2 * (centred * w[:, None]).T @ centred + noise(t) * np.eye(2)
        components.append(multivariate_normal(signal(t) * (w @ arc), covariance))
    slope = theory.gradient(lambda y: np.log(sum(c.pdf(y) for c in components)), x, 0.01)
    np.testing.assert_allclose(theory.chart_score(x, t, charts=3), slope, atol=1e-9)


# What samples can tell


def test_the_excess_of_the_empirical_score_is_its_variance_integral() -> None:
    """On the circle: the variance of a ratio of sample means, by quadrature over data and over where x falls."""
    t, n, angle = 0.005, 100_000, 2 * np.pi * np.arange(4000) / 4000
    nodes = signal(t) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    z, w = np.polynomial.hermite_e.hermegauss(15)
    total = 0.0
    for height, weight in zip(np.sqrt(noise(t)) * z, w / w.sum(), strict=True):
        x = np.array([signal(t) + height, 0.0])
        kernel = np.exp(-np.sum((nodes - x) ** 2, axis=1) / (2 * noise(t)))
        mean = kernel @ nodes / kernel.sum()
        variance = kernel**2 @ np.sum((nodes - mean) ** 2, axis=1) * len(angle) / kernel.sum() ** 2
        total += weight * variance / n / noise(t)
    assert total == pytest.approx(theory.predicted_excess(2 * np.pi, 1, n, t), rel=0.01)


def test_flat_charts_of_no_width_are_the_sample_and_are_right_on_a_line() -> None:
    rng, t = np.random.default_rng(13), 0.05
    data = Sphere(1).sample(rng, 30)
    x = diffuse(rng, data[:4], t)
    thin = theory.flat_chart_score(Sphere(1), data, 1e-9)(x, t)
    np.testing.assert_allclose(thin, theory.empirical_score(data)(x, t), atol=1e-7)
    line = LinearSubspace([[1.0], [0.0]])
    one = theory.flat_chart_score(line, np.zeros((1, 2)), 2.0)(x, t)
    expected = -x / (np.array([4 * signal(t) ** 2, 0]) + noise(t))
    np.testing.assert_allclose(one, expected, atol=1e-9)


def test_ellipses_of_one_length() -> None:
    for aspect in (1.0, 2.0, 4.0):
        ellipse = theory.ellipse_of_length(5.0, aspect)
        assert ellipse.volume == pytest.approx(5.0)
        assert max(ellipse.axes) / min(ellipse.axes) == pytest.approx(aspect)


# The simulator and bad input


@pytest.mark.parametrize("name", NAMES)
def test_the_simulator_splits_what_it_draws(name: Any) -> None:
    first, second = (simulate(np.random.default_rng(14), manifold=name, points=20, time=0.01) for _ in range(2))
    for key in first:
        assert first[key].tobytes() == second[key].tobytes()
    surface = named_manifold(name)
    np.testing.assert_allclose(first["score"], exact_score(surface)(first["noised"], 0.01), atol=1e-9)
    np.testing.assert_allclose(surface.distance(first["clean"]), 0, atol=1e-9)
    shrunk = float(signal(0.01))
    np.testing.assert_allclose(first["distance"], surface.distance(first["noised"] / shrunk) / surface.reach, atol=1e-9)
    assert float(time_of_noise(noise(0.01))) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sphere_score(np.ones((2, 3)), 0.1, Sphere(1)), r"points must have shape \(n, 2\)"),
        (lambda: sphere_score(np.ones((2, 2)), 0.0, Sphere(1)), "t must be a number above 0"),
        (lambda: sphere_score(np.full((1, 2), np.nan), 0.1, Sphere(1)), "points must be finite"),
        (lambda: sphere_score(np.ones((1, 2)), 0.1, Sphere(1), pull=[1.0]), "pull must have shape"),
        (lambda: Sphere(2, radius=0.0), "radius"),
        (lambda: RevolutionTorus(1.0, 1.0), "minor must be below major"),
        (lambda: Ellipsoid((1.0, 0.0)), "axes"),
        (lambda: ellipse_score(np.ones((1, 3)), 0.1, Ellipsoid((1, 1, 1))), "ellipse must have two axes"),
        (lambda: exact_score(ELLIPSE, lambda p: -p[:, 0])(np.ones((1, 2)), 0.1), "density must be positive"),
        (lambda: exact_score(Sphere(2), lambda p: p[:, 0]), "density must be None on Sphere"),
        (lambda: exact_score(LinearSubspace([[1.0], [0.0]])), "manifold must be one with an exact score"),
        (lambda: bessel_ratio(-1.0, 2), "concentration must not be negative"),
        (lambda: bessel_ratio(1.0, 1), "dimension must be a whole number of at least 2"),
        (lambda: segment_score([[0.0]], 0.1, length=0.0), "length must be a number above 0"),
        (lambda: embedded_score(lambda x, t: x, [[1.0], [1.0]]), "orthonormal"),
        (lambda: product_score((lambda x, t: x, 1))(np.ones((2, 2)), 0.1), "points must have shape"),
        (lambda: simulate(np.random.default_rng(0), aspect=1.0), "aspect"),
        (lambda: simulate(np.random.default_rng(0), manifold="cone"), "manifold"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        call()
