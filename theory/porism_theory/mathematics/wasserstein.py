"""Wasserstein distances: what holds for them on samples, and how they lie to other distances.

Panaretos and Zemel (arXiv:1806.05500) review W_p(P, Q)^p = min over plans of the mean of |x - y|^p. Each property is
searched for a counterexample on random weighted samples, with masses of zero and ties among them, by the exact
distance on the line, or in more dimensions by linear programming. TV is in [0, 1]. Where a result has a name,
``where`` is its name.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Interval

from porism import Paper, Table, always, discrepancies, figure, transport, validated
from porism.discrepancies.samples import distances
from porism.divergences import pearson_chi2, tv_distance
from porism.divergences.gaussian_distances import gaussian_wasserstein_2_squared
from porism_sims.random_distributions import distribution
from porism_theory.mathematics._engine import Distance, Zeros, draw, equal, ordered, samples

PAPER = Paper(
    key="wasserstein",
    title="Statistical Aspects of Wasserstein Distances",
    authors=("Victor M. Panaretos", "Yoav Zemel"),
    year=2018,
    ref="arXiv:1806.05500",
    kinds=("simulator",),
    family="mathematics",
    needs=("transport",),
    tags=("optimal transport", "Wasserstein", "sliced", "Kantorovich-Rubinstein"),
    method="simulate",
)

Rng = np.random.Generator
Size = Annotated[int, Interval(ge=2, le=15)]
Dimension = Annotated[int, Interval(ge=1, le=4)]
Shift = Annotated[float, Interval(ge=0, le=5)]
Order = Annotated[float, Interval(ge=1, le=8)]
Near = Annotated[float, Interval(ge=0.1, le=3)]
Factor = Annotated[float, Interval(gt=0, le=10)]


def on_line(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, p: float = 1.0) -> float:
    """W_p of weighted points of shape (n, 1) or (n,)."""
    return float(transport.wasserstein_1d(x.ravel(), y.ravel(), p, x_weights=a, y_weights=b))


def exact(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, p: float = 2.0) -> float:
    """W_p of weighted points of shape (n, d)."""
    return float(transport.exact_wasserstein(x, y, p, x_weights=a, y_weights=b))


@always("W_p grows with p, up to p = infinity", where="Jensen", control={"root": False})
def grows_with_order(rng: Rng, *, n: Size = 4, m: Size = 5, shift: Shift = 0.0, zeros: Zeros = 0.0, low: Order = 1.0,
                     high: Order = 2.0, root: bool = True) -> float:  # fmt: skip
    """The control leaves out the root of order p."""
    x, y, a, b = samples(rng, sizes=(n, m), shift=shift, zeros=zeros)
    orders = sorted((low, high))
    values = [on_line(x / 4, y / 4, a, b, p) ** (1 if root else p) for p in orders]
    return ordered(*values, on_line(x / 4, y / 4, a, b, np.inf))


@always("W_p is a metric, and W_p(s P + c, s Q + c) = |s| W_p(P, Q)", where="basic properties", control={"power": 2.0})
def metric(rng: Rng, *, n: Size = 4, m: Size = 5, dimension: Dimension = 1, shift: Shift = 5.0, zeros: Zeros = 0.0,
           order: Order = 2.0, scale: Annotated[float, Interval(ge=-10, le=10)] = -2.0,
           power: Factor = 1.0) -> float:  # fmt: skip
    """By way of a third sample between the two; zero as W_p^p, as the root magnifies what rounding moves."""
    x, y, a, b = samples(rng, sizes=(n, m), dimension=dimension, shift=shift, zeros=zeros)
    z, d, c = (x[:1] + y) / 2, on_line if dimension == 1 else exact, rng.standard_normal(dimension)
    way = d(x, z, a, b, order) ** power + d(z, y, b, b, order) ** power
    there, back, same = d(x, y, a, b, order), d(y, x, b, a, order), d(x, x[::-1], a, a[::-1], order)
    moved = d(scale * x + c, scale * y + c, a, b, order)
    return min(ordered(there**power, way), equal(there, back), equal(same**order, 0.0),
               equal(moved, abs(scale) * there))  # fmt: skip


@always("W_1 is the integral of |F - G|, and the cost of the monotone plan", where="one dimension",
        control={"power": 2.0})  # fmt: skip
def area_between_distribution_functions(rng: Rng, *, n: Size = 4, m: Size = 5, shift: Shift = 1.0, zeros: Zeros = 0.0,
                                        power: Factor = 1.0) -> float:  # fmt: skip
    """F and G counted point by point; the plan also has the marginals. The control squares F - G."""
    x, y, a, b = (part.reshape(len(part)) for part in samples(rng, sizes=(n, m), shift=shift, zeros=zeros))
    z = np.sort(np.concatenate([x, y]))
    difference = (x <= z[:, None]) @ a - (y <= z[:, None]) @ b
    i, j, mass = transport.quantile_coupling(x, y, x_weights=a, y_weights=b)
    w1 = on_line(x, y, a, b)
    area, marginals = np.abs(difference[:-1]) ** power @ np.diff(z), (np.bincount(i, mass, n), np.bincount(j, mass, m))
    return min(equal(w1, area), equal(w1, mass @ np.abs(x[i] - y[j])), *map(equal, marginals, (a, b)))


@always("Least distance times TV <= W_1 <= diameter times TV", where="basic properties", control={"share": 0.8})
def tv_and_w1(rng: Rng, *, n: Size = 2, dimension: Dimension = 1, distance: Distance = 1.0, zeros: Zeros = 0.0,
              share: Factor = 1.0) -> float:  # fmt: skip
    """On common points; with two of them both are equalities."""
    points, (p, q) = rng.standard_normal((n, dimension)), draw(rng, n, 1.0, distance, zeros)
    tv, gaps = tv_distance(p, q), distances(points, points)[np.triu_indices(n, 1)]
    w1 = on_line(points, points, p, q) if dimension == 1 else exact(points, points, p, q, 1.0)
    return ordered(gaps.min() * tv, w1, share * gaps.max() * tv)


@always("|E_p g - E_q g| is at most Lip(g) W_1, osc(g) TV and sqrt(chi2 Var_q g), with equality at the best g of each",
        where="Kantorovich-Rubinstein", control={"share": 0.9})  # fmt: skip
def duality(rng: Rng, *, n: Size = 4, distance: Near = 1.0, zeros: Zeros = 0.0, share: Factor = 1.0) -> float:
    """On common points of the line. The best: a slope of sign(G - F), the indicator of p > q, and p / q."""
    points, (p, q) = np.sort(rng.standard_normal(n)), draw(rng, n, 1.0, distance, zeros)
    potential = np.cumsum(np.append(0, np.sign(np.cumsum(q - p)[:-1]) * np.diff(points)))
    indicator, ratio = (p > q) * 1.0, np.where(q > 0, p / np.where(q > 0, q, 1), 0)
    w1, tv, chi2 = on_line(points, points, p, q), tv_distance(p, q), pearson_chi2(p, q)

    def bounds(g: np.ndarray) -> tuple[float, float, float, float]:
        variance = q @ (g - q @ g) ** 2
        lipschitz = np.max(np.abs(np.diff(g)) / np.diff(points))
        root = np.sqrt(chi2 * variance) if np.isfinite(chi2) else np.inf
        return abs((p - q) @ g), *(share * bound for bound in (lipschitz * w1, np.ptp(g) * tv, root))

    margins = [ordered(gap, min(rest)) for gap, *rest in map(bounds, (rng.standard_normal(n), potential, indicator))]
    attained = [equal(bounds(potential)[0], w1), equal(bounds(indicator)[0], tv)]
    if np.isfinite(chi2):
        attained.append(equal(bounds(ratio)[0], chi2))
    return min(*margins, *attained)


@always("The mean of W_2^2 over an orthonormal basis is at most W_2^2 / d, and sliced <= max-sliced <= W_p",
        where="sliced", cap=60, control={"share": 0.5})  # fmt: skip
def sliced(rng: Rng, *, n: Size = 4, m: Size = 4, dimension: Annotated[int, Interval(ge=2, le=4)] = 2,
           shift: Shift = 5.0, zeros: Zeros = 0.0, order: Order = 2.0, share: Factor = 1.0) -> float:  # fmt: skip
    """So SW_2^2 <= W_2^2 / d over all directions, with equality for a translate; the control halves it once more."""
    x, y, a, b = samples(rng, sizes=(n, m), dimension=dimension, shift=shift, zeros=zeros)
    basis, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    weights = {"projections": basis.T, "x_weights": a, "y_weights": b}
    mean, largest = transport.sliced_wasserstein, transport.max_sliced_wasserstein
    found = (mean(x, y, order, **weights), largest(x, y, order, steps=20, **weights), exact(x, y, a, b, order))
    return min(ordered(*found), ordered(mean(x, y, **weights) ** 2, share * exact(x, y, a, b) ** 2 / dimension))


@always("2 W_1 / (2 + diameter) <= Dudley <= min(W_1, 2 TV), and Kolmogorov-Smirnov <= TV", where="Dudley",
        control={"tv_factor": 0.5})  # fmt: skip
def weaker_metrics(rng: Rng, *, n: Size = 2, spacing: Annotated[float, Interval(ge=0.01, le=100)] = 10.0,
                   distance: Distance = 1.0, zeros: Zeros = 0.0, tv_factor: Factor = 1.0) -> float:  # fmt: skip
    """On common points; with two of them the first is an equality. The control forgets that TV is in [0, 1]."""
    points, (p, q) = spacing * rng.standard_normal(n), draw(rng, n, 1.0, distance, zeros)
    w1, tv, weights = on_line(points, points, p, q), tv_factor * tv_distance(p, q), {"x_weights": p, "y_weights": q}
    dudley = discrepancies.dudley_metric(points, points, **weights) + 1e-8 * np.array([1, -1])  # of a linear programme
    kolmogorov = discrepancies.kolmogorov_smirnov(points, points, **weights)
    return min(ordered(2 * w1 / (2 + np.ptp(points)), dudley[0]), ordered(dudley[1], min(w1, 2 * tv)),
               ordered(kolmogorov, tv))  # fmt: skip


@always("The linear programme agrees with the formula of the line, and its potentials certify it", where="duality",
        control={"offset": 0.1})  # fmt: skip
def linear_programme(rng: Rng, *, n: Size = 4, m: Size = 5, shift: Shift = 1.0, zeros: Zeros = 0.0,
                     order: Order = 2.0, offset: Annotated[float, Interval(ge=0, le=1)] = 0.0) -> float:  # fmt: skip
    """Plan with its marginals, potentials below the costs, one value; the control has another order on the line."""
    x, y, a, b = samples(rng, sizes=(n, m), shift=shift, zeros=zeros)
    cost = distances(x, y) ** order
    found = transport.exact_ot(cost, x_weights=a, y_weights=b)
    u, v, line = found.x_potential, found.y_potential, on_line(x, y, a, b, order + offset)
    pairs = ((found.plan.sum(1), a), (found.plan.sum(0), b), (found.value, a @ u + b @ v), (found.value, line**order))
    feasible = min(ordered(0.0, found.plan.min()), ordered(0.0, (cost - u[:, None] - v).min() / (1 + cost.max())))
    return min(feasible, *(equal(left / (1 + cost.max()), right / (1 + cost.max())) for left, right in pairs))


@always("W_2^2 is at least that of the Gaussians with the same means and covariances, and equal to it for an affine "
        "image under a positive matrix", where="Gelbrich", cap=60, control={"positive": False})  # fmt: skip
def gelbrich(rng: Rng, *, dimension: Dimension = 2, shift: Shift = 1.0, extra: Size = 4,
             positive: bool = True) -> float:  # fmt: skip
    """The control's matrix is negative, and then pairing each point with its image is not optimal."""
    x, y, a, b = samples(rng, sizes=(dimension + extra,) * 2, dimension=dimension, shift=shift)
    root = rng.standard_normal((dimension, dimension))
    image = x @ (root @ root.T + 0.1 * np.eye(dimension)) * (1 if positive else -1) + shift

    def moments(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centred = points - weights @ points
        return weights @ points, (centred * weights[:, None]).T @ centred

    below = gaussian_wasserstein_2_squared(*moments(x, a), *moments(y, b))
    affine = gaussian_wasserstein_2_squared(*moments(x, a), *moments(image, a))
    paired, squared = a @ ((x - image) ** 2).sum(1), exact(x, image, a, a) ** 2
    return min(ordered(below, exact(x, y, a, b) ** 2), *(equal(w, squared) for w in (paired, affine)))


@always("W_p^p is convex in both laws together, and no map of Lipschitz constant 1 raises W_p",
        where="basic properties", control={"power": False})  # fmt: skip
def convex_and_contracting(rng: Rng, *, n: Size = 3, m: Size = 4, shift: Shift = 5.0, zeros: Zeros = 0.0,
                           order: Annotated[float, Interval(ge=2, le=8)] = 2.0,
                           power: bool = True) -> float:  # fmt: skip
    """W_p itself is not convex, as the control claims; the map is the sine."""
    x, y, a, b = samples(rng, sizes=(n, m), shift=shift, zeros=zeros)
    c, share, k = distribution(rng, size=n, spread=1.0, zeros=zeros), rng.random(), order if power else 1.0
    mixture = np.concatenate([share * c, (1 - share) * b])
    mixed = on_line(x, np.concatenate([x, y]), share * a + (1 - share) * c, mixture, order)
    parts = share * on_line(x, x, a, c, order) ** k + (1 - share) * on_line(x, y, c, b, order) ** k
    contracted = on_line(np.sin(x), np.sin(y), a, b, order)
    return min(ordered(mixed**k, parts), ordered(contracted, on_line(x, y, a, b, order)))


@validated
def simulate(
    rng: Rng, *, size: Annotated[int, Interval(ge=2, le=500)] = 32, dimension: Dimension = 2,
    repeats: Annotated[int, Interval(ge=1, le=1000)] = 20,
) -> dict[str, np.ndarray]:  # fmt: skip
    """W_1 between two uniform samples of one size from one law, the uniform one of the unit cube.

    Parameters
    ----------
    rng
        Draws the samples.
    size, dimension
        Of each sample, and of its points.
    repeats
        How many pairs of samples.

    Returns
    -------
    dict of str to ndarray
        ``w1``, shape (repeats,); of order size^(-1/2) on the line and size^(-1/d) for d > 2.

    Examples
    --------
    >>> small, large = (simulate(np.random.default_rng(0), size=size)["w1"].mean() for size in (16, 64))
    >>> bool(large < small)
    True
    """
    pairs, equal_masses = rng.random((repeats, 2, size, dimension)), np.full(size, 1 / size)
    d = on_line if dimension == 1 else exact
    return {"w1": np.array([d(x, y, equal_masses, equal_masses, 1.0) for x, y in pairs])}


@figure("W_1 between two samples of the uniform law on the cube: it falls like n^(-1/d) in d > 2 dimensions, but "
        "on the line like n^(-1/2) (both dotted).", where="empirical rates")  # fmt: skip
def empirical_rates(rng: Rng, *, repeats: Annotated[int, Interval(ge=1, le=1000)] = 40) -> Table:
    shapes = [(dimension, size) for dimension in (1, 2, 4) for size in (8, 16, 32, 64, 128)]
    means = [simulate(rng, size=size, dimension=d, repeats=repeats)["w1"].mean() for d, size in shapes]
    dimension, size = np.array(shapes).T
    return {"dimension": dimension, "size": size, "w1": np.array(means)}


@empirical_rates.draw
def _(table, axes):
    for number in np.unique(table["dimension"]):
        chosen = table["dimension"] == number
        n, w1 = table["size"][chosen], table["w1"][chosen]
        axes.plot(n, w1, "o-", label=f"d = {number}")
        if number != 2:  # where a logarithm comes in
            axes.plot(n, w1[-1] * (n / n[-1]) ** -(1 / max(2, number)), ":", color="0.5")
    axes.set(xscale="log", yscale="log", xlabel="n", ylabel="mean W_1")
    axes.legend()
