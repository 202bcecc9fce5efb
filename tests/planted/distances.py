"""Planted claims on divergences, distances and kernels: each false one beside its mended twin."""

from typing import Annotated

import numpy as np
from annotated_types import Interval
from scipy.special import comb

from porism import Paper, always

PAPER = Paper(
    key="planted_distances",
    title="Planted claims on distances",
    authors=("Ada Author",),
    year=2020,
    ref="arXiv:2001.00001",
    kinds=("simulator",),
    family="planted",
)

Outcomes = Annotated[int, Interval(ge=2, le=50)]
Concentration = Annotated[float, Interval(ge=0.1, le=10)]
Unit = Annotated[float, Interval(ge=0, le=1)]


def laws(rng: np.random.Generator, outcomes: int, concentration: float, count: int) -> np.ndarray:
    """Full-support distributions, shape (count, outcomes)."""
    drawn = rng.dirichlet(np.full(outcomes, concentration), count)
    return (1 - 1e-9) * drawn + 1e-9 / outcomes


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.sum(p * np.log(p / q)))


def js(p: np.ndarray, q: np.ndarray) -> float:
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


@always("The L1 distance is at most the root of half the KL divergence", where="L1 taken for total variation")
def pinsker(rng, *, outcomes: Outcomes = 50, concentration: Concentration = 0.1) -> float:
    p, q = laws(rng, outcomes, concentration, 2)
    return np.sqrt(kl(p, q) / 2) - np.abs(p - q).sum() + 1e-9


@always("Total variation is at most the root of half the KL divergence", where="Pinsker")
def pinsker_mended(rng, *, outcomes: Outcomes = 50, concentration: Concentration = 0.1) -> float:
    p, q = laws(rng, outcomes, concentration, 2)
    return np.sqrt(kl(p, q) / 2) - np.abs(p - q).sum() / 2 + 1e-9


@always("The KL divergence obeys the triangle inequality", where="a divergence taken for a metric")
def triangle(rng, *, outcomes: Outcomes = 5, concentration: Concentration = 1.0) -> float:
    p, q, r = laws(rng, outcomes, concentration, 3)
    return kl(p, q) + kl(q, r) - kl(p, r) + 1e-9


@always("The root of the Jensen–Shannon divergence obeys the triangle inequality", where="Endres and Schindelin")
def triangle_mended(rng, *, outcomes: Outcomes = 5, concentration: Concentration = 1.0) -> float:
    p, q, r = laws(rng, outcomes, concentration, 3)
    return np.sqrt(js(p, q)) + np.sqrt(js(q, r)) - np.sqrt(js(p, r)) + 1e-9


def renyi_gap(rng: np.random.Generator, outcomes: int, order: float) -> float:
    def renyi(p: np.ndarray, q: np.ndarray) -> float:
        return kl(p, q) if abs(order - 1) < 1e-6 else np.log(np.sum(p**order * q ** (1 - order))) / (order - 1)

    (p, r), (q, s) = laws(rng, outcomes, 1.0, 2), laws(rng, outcomes, 1.0, 2)
    return (renyi(p, q) + renyi(r, s)) / 2 - renyi((p + r) / 2, (q + s) / 2) + 1e-9


@always("The Rényi divergence of any order is jointly convex", where="true only up to order one")
def renyi_convexity(rng, *, outcomes: Outcomes = 5, order: Annotated[float, Interval(gt=0, le=3)] = 0.5) -> float:
    return renyi_gap(rng, outcomes, order)


@always("The Rényi divergence of order at most one is jointly convex", where="van Erven and Harremoës, Th. 11")
def renyi_convexity_mended(
    rng, *, outcomes: Outcomes = 5, order: Annotated[float, Interval(gt=0, le=1)] = 0.5
) -> float:
    return renyi_gap(rng, outcomes, order)


@always("Total variation is at most the Hellinger distance", where="its root of two lost")
def hellinger(rng, *, outcomes: Outcomes = 5, concentration: Concentration = 0.1) -> float:
    p, q = laws(rng, outcomes, concentration, 2)
    return np.sqrt(1 - np.sum(np.sqrt(p * q))) - np.abs(p - q).sum() / 2 + 1e-7


@always("Total variation is at most root two times the Hellinger distance", where="Le Cam")
def hellinger_mended(rng, *, outcomes: Outcomes = 5, concentration: Concentration = 0.1) -> float:
    p, q = laws(rng, outcomes, concentration, 2)
    return np.sqrt(2 * (1 - np.sum(np.sqrt(p * q)))) - np.abs(p - q).sum() / 2 + 1e-7


def product_distance(p: float, q: float, n: int) -> float:
    """Total variation between n-fold products of two Bernoulli laws."""
    heads = np.arange(n + 1)
    first, second = (comb(n, heads) * r**heads * (1 - r) ** (n - heads) for r in (p, q))
    return float(np.abs(first - second).sum() / 2)


@always("n observations are at most root n times as far apart as one", where="wrong where one law is nearly sure")
def product(rng, *, p: Unit = 0.5, q: Unit = 0.6, n: Annotated[int, Interval(ge=1, le=50)] = 10) -> float:
    return np.sqrt(n) * abs(p - q) - product_distance(p, q, n) + 1e-9


@always("n observations are at most n times as far apart as one", where="a union bound")
def product_mended(rng, *, p: Unit = 0.5, q: Unit = 0.6, n: Annotated[int, Interval(ge=1, le=50)] = 10) -> float:
    return n * abs(p - q) - product_distance(p, q, n) + 1e-9


def cosines(rng: np.random.Generator, dimension: int) -> np.ndarray:
    """Cosines between x and y, y and z, x and z."""
    x, y, z = (v / np.linalg.norm(v) for v in rng.normal(size=(3, dimension)))
    return np.clip([x @ y, y @ z, x @ z], -1, 1)


@always("Cosine distance obeys the triangle inequality", where="one minus a cosine taken for a metric")
def cosine(rng, *, dimension: Annotated[int, Interval(ge=2, le=100)] = 10) -> float:
    xy, yz, xz = 1 - cosines(rng, dimension)
    return xy + yz - xz + 1e-7


@always("The angle obeys the triangle inequality", where="the sphere's own metric")
def cosine_mended(rng, *, dimension: Annotated[int, Interval(ge=2, le=100)] = 10) -> float:
    xy, yz, xz = np.arccos(cosines(rng, dimension))
    return xy + yz - xz + 1e-7


def on_the_circle(rng: np.random.Generator, points: int) -> np.ndarray:
    """Arc lengths between random points of the unit circle."""
    angle = rng.uniform(0, 2 * np.pi, points)
    apart = np.abs(angle[:, None] - angle)
    return np.minimum(apart, 2 * np.pi - apart)


@always("The Gaussian kernel of the arc length is positive definite", where="the circle is not flat")
def circle_kernel(
    rng,
    *,
    points: Annotated[int, Interval(ge=2, le=30)] = 5,
    width: Annotated[float, Interval(ge=0.1, le=10)] = 0.5,
) -> float:
    kernel = np.exp(-(on_the_circle(rng, points) ** 2) / (2 * width**2))
    return np.linalg.eigvalsh(kernel)[0] + 1e-9


@always("The Laplace kernel of the arc length is positive definite", where="Feragen et al., Th. 2")
def circle_kernel_mended(
    rng,
    *,
    points: Annotated[int, Interval(ge=2, le=30)] = 5,
    width: Annotated[float, Interval(ge=0.1, le=10)] = 0.5,
) -> float:
    kernel = np.exp(-on_the_circle(rng, points) / width)
    return np.linalg.eigvalsh(kernel)[0] + 1e-9


def power_kernel_margin(rng: np.random.Generator, points: int, exponent: float) -> float:
    x = rng.normal(size=points)
    return np.linalg.eigvalsh(np.exp(-(np.abs(x[:, None] - x) ** exponent)))[0] + 1e-9


@always("exp(-|x - y|^a) is positive definite", where="true up to the exponent two only")
def power_kernel(
    rng,
    *,
    points: Annotated[int, Interval(ge=2, le=30)] = 5,
    exponent: Annotated[float, Interval(gt=0, le=2.2)] = 1.0,
) -> float:
    return power_kernel_margin(rng, points, exponent)


@always("exp(-|x - y|^a) is positive definite for a up to two", where="Schoenberg")
def power_kernel_mended(
    rng,
    *,
    points: Annotated[int, Interval(ge=2, le=30)] = 5,
    exponent: Annotated[float, Interval(gt=0, le=2)] = 1.0,
) -> float:
    return power_kernel_margin(rng, points, exponent)
