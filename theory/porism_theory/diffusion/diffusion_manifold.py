"""Diffusion on data from a curved manifold: how the score splits near it, what curvature adds, what samples can tell.

Zhang, Huang, Zhao, Wang and Chen (arXiv:2603.20645) split the noised score of data on a d-dimensional manifold into a
pull to the nearest point and a bounded rest, and bound the errors of learned scores by d and the reach in place of the
ambient dimension. Only the abstract and second-hand notes were seen. The expansion of the rest, the Gaussian charts and
the law of the empirical score are our own derivation ("derived", ``_manifold_engine.py``), checked against exact scores
(``porism_sims.diffusion.manifolds``). ``noise_share`` is the noise over the squared reach of the shrunk manifold,
``height`` a share of its reach. The paper's rates are upper bounds for networks and no claims here, where only their
direction is claimed, for two estimators without networks.

*What the checks find*: the curvature term is all of the bounded rest to first order. That ends at focal points: at
noise 0.005 reach^2 orders are lost from 0.74 of the reach inwards, and outwards nowhere up to 3. The dimension shows in
the Hessian's trace up to noise 0.19 reach^2. The empirical score pays for noise-sized cells, in any ambient dimension
and at any reach; flat charts, six times better on a circle, also pay for curvature.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import sympy
from annotated_types import Interval

from porism import Paper, Table, always, figure, proved, typically
from porism.geometry import Ellipsoid, Sphere, Torus
from porism_sims.diffusion.manifold_quadrature import exact_score, named_manifold, simulate
from porism_sims.diffusion.manifolds import embedded_score, sphere_score
from porism_sims.diffusion.process import diffuse, noise, sample_backwards, signal, time_grid
from porism_theory.diffusion import _manifold_engine as theory
from porism_theory.diffusion import _manifold_figures as figures

PAPER = Paper(
    key="diffusion_manifold",
    title="Diffusion Model for Manifold Data: Score Decomposition, Curvature, and Statistical Complexity",
    authors=("Z. Zhang", "K. Huang", "T. Zhao", "M. Wang", "M. Chen"),
    year=2026,
    ref="arXiv:2603.20645",
    kinds=("simulator",),
    family="diffusion",
    needs=("theory",),
    tags=("score", "curvature", "reach", "intrinsic dimension"),
    method="simulate",
)
__all__ = ["PAPER", "simulate"]

Rng = np.random.Generator
Length = Annotated[float, Interval(ge=0.1, le=3)]
Angle = Annotated[float, Interval(ge=0, le=6.28)]
Height = Annotated[float, Interval(ge=-0.8, le=0.8)]
Aspect = Annotated[float, Interval(ge=1.2, le=4)]
Time = Annotated[float, Interval(ge=0.05, le=3)]
SmallNoise = Annotated[float, Interval(ge=1e-5, le=0.01)]
Strength = Annotated[float, Interval(ge=0.5, le=1)]
Shape = Literal["sphere", "ellipse", "torus", "swiss_roll"]
Scale = Literal["quick", "paper"]
ANY_NOISE = Interval(ge=1e-5, le=10)


@proved("The curvature term solves the transport equation of the heat flow", where="derived", control={"divisor": 1})
def curvature_term_is_transported(*, a: Length = 2.0, b: Length = 1.0, angle: Angle = 1.0, height: Length = 0.3,
                                  divisor: Literal[1, 2] = 2) -> Any:  # fmt: skip
    """Its slope is -laplacian(height) / 2 around an ellipse with axes a, b and a torus with radii a + b, b."""
    return theory.transport_equations(a, b, angle, height, divisor)


@proved("On S^2 the expansion is exact but for exp(-2k), and on S^d its next term is right",
        where="M4; claim 2", control={"gap": 1})  # fmt: skip
def spheres_in_closed_form(*, r: Length = 1.2, radius: Length = 1.0, h: Length = 0.1,
                           d: Annotated[int, Interval(ge=1, le=100)] = 3, gap: Literal[1, 2] = 2) -> Any:  # fmt: skip
    """At distance r from the centre and noise h, k = radius r / h. The mean of exp(k u) over [-1, 1] is sinh(k) / k."""
    k, left = radius * r / h, 2 * radius / h / (sympy.exp(2 * radius * r / h) - 1)
    density = sympy.exp(-(r**2 + radius**2) / (2 * h)) * (sympy.exp(k) - sympy.exp(-k)) / k
    slope, following = -d / (2 * r), -d * (d - gap) / (8 * radius * r)
    transported = sympy.Eq(2 * sympy.diff((r - radius) * following, r), sympy.diff(slope, r) + d / r * slope + slope**2)
    return sympy.Eq(sympy.diff(sympy.log(density), r), -(r - radius) / h - 1 / r + left), transported


@always("Around spheres each term of the expansion gains one power of the noise",
        where="M2, M4; claim 1", control={"curvature": False},
        beyond={"height": Interval(ge=-0.99, le=3), "noise_share": Interval(ge=5e-4, le=3)})  # fmt: skip
def orders_around_spheres(rng: Rng, *, dimension: Literal[1, 3, 5, 10] = 1,
                          height: Annotated[float, Interval(ge=-0.2, le=0.2)] = 0.1,
                          noise_share: Annotated[float, Interval(ge=5e-4, le=0.005)] = 0.005,
                          curvature: bool = True) -> float:  # fmt: skip
    """Exponents 0, 1 and 2, each within 0.05, when the noise is halved."""
    times = theory.time_of(noise_share, Sphere(1)), theory.time_of(noise_share / 2, Sphere(1))
    orders = theory.order(*(theory.sphere_errors(dimension, height, t) for t in times), times)
    return 0.05 - float(np.abs(orders - ([0, 1, 2] if curvature else [0, 0, 1])).max())


@typically("With the curvature term the rest is of first order and small, without it above 0.1",
           where="M2; claim 3", control={"curvature": False},
           scale="t=0.005, 0.0025; a random point within 0.3 of the reach of ellipse, torus, Swiss roll")  # fmt: skip
def curvature_term_is_the_bounded_rest(rng: Rng, *, curvature: bool = True) -> float:
    """Orders in [0.85, 1.2]; later errors below 0.002 (ellipse with density 1 + y/2) and 0.005."""
    order, projection, rest = theory.orders_around_surfaces(rng, curvature=curvature)
    small = np.log(np.array([0.002, 0.005, 0.005]) / rest)
    return float(np.min([order - 0.85, 1.2 - order, small, np.log(projection / 0.1)]))


@always("The curvature term removes at least half of what projection alone leaves",
        where="M2", control={"curvature": False},
        beyond={"height": Interval(ge=-3, le=3), "noise_share": ANY_NOISE})  # fmt: skip
def curvature_term_pays(
    rng: Rng, *, height: Height = 0.3, noise_share: SmallNoise = 0.001, angle: Angle = 0.1,
    aspect: Annotated[float, Interval(ge=1, le=2)] = 2.0, curvature: bool = True) -> float:  # fmt: skip
    """On ellipses, at heights within 0.8 of the reach and noise up to a hundredth of its square."""
    ellipse, foot = named_manifold("ellipse", aspect=aspect), np.array([[np.cos(angle), np.sin(angle) / aspect]])
    points, t = theory.raised(ellipse, foot, height), theory.time_of(noise_share, ellipse)
    errors = theory.expansion_errors(ellipse, points, t)
    return 0.5 - float((errors.curvature if curvature else errors.projection)[0] / errors.projection[0])


@always("On the manifold the posterior mean is displaced by half the mean curvature vector, whatever the density",
        where="M2, M3; Fig. 3", control={"half": 1}, beyond={"noise_share": ANY_NOISE})  # fmt: skip
def displacement_is_half_the_mean_curvature(
    rng: Rng, *, noise_share: SmallNoise = 0.001, shape: Literal["ellipse", "torus"] = "ellipse", aspect: Aspect = 2.0,
    slope: Annotated[float, Interval(ge=-0.5, le=0.5)] = 0.5, half: Literal[1, 2] = 2) -> float:  # fmt: skip
    """In the normal direction, over the noise, within a tenth of 1 / reach; density linear along the last axis."""
    manifold = named_manifold(shape, aspect=aspect)
    feet, score = manifold.sample(rng, 5), exact_score(manifold, lambda p: 1 + slope * aspect * p[:, -1])
    seen = theory.displacement(manifold, score, feet, theory.time_of(noise_share, manifold))
    return 0.1 - float(np.abs(seen - theory.curvature_sum(manifold, feet) / half).max() * manifold.reach)


@typically("Around spheres the rest has the energy of half the mean curvature",
           where="M9; claim 4", control={"time": 0.5}, scale="1e5 noised points around S^2, S^5; t=0.01")  # fmt: skip
def energy_of_the_rest(rng: Rng, *, time: Annotated[float, Interval(ge=1e-3, le=1)] = 0.01) -> float:
    """E|s + n/h|^2 within 2 % of (d^2 / 4) E|x|^-2; the control's noise is not small."""
    return 0.02 - max(theory.energy_gap(rng, Sphere(dimension), time) for dimension in (2, 5))


@always("The von Mises-Fisher score is that of the quadrature", where="M5; claim 5", control={"pulled": False})
def von_mises_fisher_in_closed_form(rng: Rng, *, time: Time = 0.5, radius: Length = 1.0,
                                    concentration: Annotated[float, Interval(ge=0.1, le=10)] = 2.0,
                                    pulled: bool = True) -> float:  # fmt: skip
    """Posterior means on the circle agree to 1e-12."""
    pull, x = np.array([0.6, -0.8]) * concentration, diffuse(rng, Sphere(1, radius).sample(rng, 10), time)
    closed = sphere_score(x, time, Sphere(1, radius), pull=pull if pulled else None)
    score = exact_score(Ellipsoid((radius, radius)), lambda p: np.exp(p @ pull / radius))
    return 1e-12 - float(noise(time) * np.abs(closed - score(x, time)).max())


@typically("With the exact score a hundred ancestral steps generate a circle in R^3",
           where="claim 6", control={"strength": 0.8}, scale="20,000 points; geometric from T=6 to 0.001")  # fmt: skip
def exact_score_generates_the_circle(rng: Rng, *, strength: Strength = 1.0) -> float:
    """Both normal variances within 4 % of the noise, the mean direction shorter than 0.02."""
    score, begin = embedded_score(exact_score(Sphere(1)), np.eye(3)[:, :2]), rng.standard_normal((20_000, 3))
    x = sample_backwards(rng, lambda points, t: strength * score(points, t), begin, time_grid(6.0, 0.001, 100))
    length = np.linalg.norm(x[:, :2], axis=1)
    variances = np.array([np.mean((length - signal(0.001)) ** 2), np.mean(x[:, 2] ** 2)]) / noise(0.001)
    centre = np.linalg.norm(np.mean(x[:, :2] / length[:, None], axis=0))
    return float(min(0.04 - np.abs(variances - 1).max(), 0.02 - centre))


@always("I + h Hessian log p is a covariance, of trace d on the manifold; posterior means lie no farther out than data",
        where="M1, M2; Fig. 4", control={"weight": 2}, beyond={"noise_share": ANY_NOISE})  # fmt: skip
def posterior_knows_the_dimension(rng: Rng, *, noise_share: SmallNoise = 0.001, shape: Shape = "torus",
                                  weight: Literal[1, 2] = 1) -> float:  # fmt: skip
    """The trace within a tenth of d, eigenvalues at least -1e-6; also at noised data and in the open."""
    manifold = named_manifold(shape)
    trace, lowest, mean = theory.posterior_moments(rng, manifold, theory.time_of(noise_share, manifold), weight)
    return float(min(0.1 - np.abs(trace / manifold.dimension - 1).max(), lowest + 1e-6, 1 + 1e-9 - mean))


@always("At large noise the score is that of Gaussian charts, weighted by their posterior probabilities",
        where="M10", control={"weighted": False}, beyond={"chart_size": Interval(ge=0.1, le=8)})  # fmt: skip
def gaussian_charts_at_large_noise(rng: Rng, *, chart_size: Annotated[float, Interval(ge=0.1, le=1)] = 1.0,
                                   time: Time = 0.3, weighted: bool = True) -> float:  # fmt: skip
    """The circle in arcs of length chart_size sqrt(h): the error times sqrt(h) is below 0.02."""
    charts = int(np.ceil(2 * np.pi * signal(time) / (chart_size * np.sqrt(noise(time)))))
    return 0.02 - float(theory.chart_errors(rng, time, charts, weighted=weighted).max())


@always("Nearest points, dilations, embeddings and products act on the score as they must",
        where="M1, M6", control={"kept": False})  # fmt: skip
def score_follows_the_geometry(rng: Rng, *, shape: Shape = "ellipse", height: Height = 0.3,
                               time: Time = 0.1, factor: Length = 2.0, kept: bool = True) -> float:  # fmt: skip
    """Gaps below 1e-6. The control forgets that the manifold shrinks and that noise grows with it."""
    manifold = named_manifold(shape)
    points = theory.raised(manifold, theory.feet(rng, manifold, 3), height)
    split = theory.split_gap(manifold, points, time, shrunk=kept)
    dilation = theory.dilation_gap(manifold, points, time, factor, matched=kept)
    return 1e-6 - max(split, dilation, theory.assembly_gap(rng, time))


@typically("The score has mean zero, and its product with the point has mean -D", where="Stein's identities",
           control={"strength": 0.8}, scale="10,000 points around four manifolds; t=0.05, 0.5, 2")  # fmt: skip
def score_satisfies_stein(rng: Rng, *, strength: Strength = 1.0) -> float:
    """In units of 1/sqrt(h) and D, within 0.05."""
    shapes: tuple[Shape, ...] = ("sphere", "ellipse", "torus", "swiss_roll")
    return 0.05 - max(theory.stein_gap(rng, named_manifold(s), t, strength) for s in shapes for t in (0.05, 0.5, 2.0))


@typically("The empirical score's excess error is d/2 times the noise-sized cells of the manifold, per sample",
           where="derived; M11 in direction", control={"ambient": True},
           scale="n=4000, t=0.02, 12 data sets on S^1, S^2, S^3 and the flat torus in R^4; within 25 %")  # fmt: skip
def excess_is_governed_by_the_dimension(rng: Rng, *, ambient: bool = False) -> float:
    """The control puts D in the place of d."""
    return 0.25 - max(theory.excess_gap(rng, m, ambient=ambient) for m in (Sphere(1), Sphere(2), Sphere(3), Torus(2)))


@typically("The best flat charts pay for a smaller reach", where="derived; M11 in direction", control={"aspect": 1.0},
           at_least=0.1, scale="n=500, t=0.001; ellipses of length 2 pi, aspects 4 and 1; 2 data sets")  # fmt: skip
def flat_charts_pay_for_curvature(rng: Rng, *, aspect: Annotated[float, Interval(ge=1, le=4)] = 4.0) -> float:
    """Logarithm of the ratio of excess errors at the best of four bandwidths."""
    errors = [np.mean([theory.price_of_curvature(rng, each)[1] for _ in range(2)]) for each in (aspect, 1.0)]
    return float(np.log(errors[0] / errors[1]))


@figure("Rest of the score after each term; dotted: slopes 0, 1, 2; S² has rounding errors only.", where="M2, M4")
def orders(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.orders(rng, scale)


@figure("Rest of the score around an ellipse at h = 0.002; dotted: its evolute.", where="M2")
def ring(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.ring(rng, scale)


@figure("Displacement of the posterior mean on the manifold at h = reach²/100.", where="M3")
def displaced(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.displaced(rng, scale)


@figure("Spectrum of the noised density's Hessian on the manifold; orange: the d lowest eigenvalues.", where="M2")
def spectrum(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.spectrum(rng, scale)


@figure("S² in R^D leaves its tube where (D-d)h = reach²; the circle's score by expansion and by charts.", where="M10")
def regimes(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.regimes(rng, scale)


@figure("Excess error of two estimates against samples and reach; lines: derived.", where="M11")
def rates(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.rates(rng, scale)


orders.draw(figures.draw_orders)
ring.draw(figures.draw_ring)
displaced.draw(figures.draw_displaced)
spectrum.draw(figures.draw_spectrum)
regimes.draw(figures.draw_regimes)
rates.draw(figures.draw_rates)
