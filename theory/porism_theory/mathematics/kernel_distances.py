"""Distances by kernels: energy distance and MMD are one, and what else kernels tell about two samples, or a score.

Sejdinovic, Sriperumbudur, Gretton and Fukumizu (arXiv:1207.6076) show that the energy distance is twice the squared
maximum mean discrepancy of the kernel (|x - z| + |y - z| - |x - y|) / 2, whatever z is. Around that, each property of
``porism.discrepancies`` is searched for a counterexample on random weighted samples, with masses of zero and ties
among them, or held to sums over a grid. Kernel Stein discrepancies are those of Liu, Lee and Jordan
(arXiv:1602.03253), not rooted.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from porism import Paper, Table, always, discrepancies, figure, transport, validated
from porism.discrepancies import energy_distance as energy
from porism.discrepancies import mmd_squared
from porism.discrepancies.radial import radial_kernel
from porism.discrepancies.samples import distances
from porism.divergences import pearson_chi2, tv_distance
from porism.divergences.cauchy_schwarz import cauchy_schwarz_divergence
from porism.divergences.gaussian_distances import gaussian_mmd_squared
from porism_theory.mathematics._engine import Distance, Zeros, draw, equal, ordered, samples

PAPER = Paper(
    key="kernel_distances",
    title="Equivalence of Distance-Based and RKHS-Based Statistics in Hypothesis Testing",
    authors=("Dino Sejdinovic", "Bharath Sriperumbudur", "Arthur Gretton", "Kenji Fukumizu"),
    year=2012,
    ref="arXiv:1207.6076",
    kinds=("simulator",),
    family="mathematics",
    tags=("MMD", "energy distance", "kernel", "Stein discrepancy", "CRPS"),
    method="simulate",
)

Rng = np.random.Generator
Size = Annotated[int, Interval(ge=2, le=20)]
Dimension = Annotated[int, Interval(ge=1, le=4)]
Shift = Annotated[float, Interval(ge=0, le=5)]
Width = Annotated[float, Interval(ge=0.1, le=10)]
Near = Annotated[float, Interval(ge=1e-2, le=2)]
Factor = Annotated[float, Interval(gt=0, le=10)]
Bounded = Literal["gaussian", "laplace", "imq"]
Kernel = Literal["gaussian", "laplace", "imq", "energy"]


@always("Energy distance = 2 MMD^2 with the kernel (|x - z| + |y - z| - |x - y|) / 2 for every z", where="equivalence",
        control={"half": 1.0})  # fmt: skip
def energy_is_mmd(rng: Rng, *, n: Size = 4, m: Size = 5, dimension: Dimension = 2, shift: Shift = 1.0,
                  zeros: Zeros = 0.0, half: Factor = 0.5) -> float:  # fmt: skip
    """Also unbiased, for equal masses; the control leaves the half out of the kernel."""
    x, y, a, b = samples(rng, sizes=(n, m), dimension=dimension, shift=shift, zeros=zeros)
    z = rng.standard_normal((1, dimension))

    def induced(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return half * (distances(x, z) + distances(z, y) - distances(x, y))

    kinds = ({"estimator": "biased", "x_weights": a, "y_weights": b}, {"estimator": "unbiased"})
    pairs = [(energy(x, y, **kind), 2 * mmd_squared(x, y, kernel=induced, **kind)) for kind in kinds]
    return min(equal(*pair) for pair in pairs)


@always("On the line the energy distance is twice the integral of (F - G)^2", where="Cramer", control={"twice": 1.0})
def energy_on_the_line(rng: Rng, *, n: Size = 4, m: Size = 5, shift: Shift = 1.0, zeros: Zeros = 0.0,
                       twice: Factor = 2.0) -> float:  # fmt: skip
    """F and G counted point by point, against all pairs, the sorted form and the mean CRPS above its least."""
    x, y, a, b = map(np.ravel, samples(rng, sizes=(n, m), shift=shift, zeros=zeros))
    z = np.sort(np.concatenate([x, y]))
    integral = ((x <= z[:, None]) @ a - (y <= z[:, None]) @ b)[:-1] ** 2 @ np.diff(z)
    cross, own_x, own_y = (c @ abs(u[:, None] - v) @ e for u, v, c, e in ((x, y, a, b), (x, x, a, a), (y, y, b, b)))
    scores = [transport.crps_sample(np.tile(u, (m, 1)), y, x_weights=c) @ b for u, c in ((x, a), (y, b))]
    found = (energy(x, y, x_weights=a, y_weights=b), 2 * cross - own_x - own_y, 2 * (scores[0] - scores[1]))
    return equal(found, twice * integral)


@always("The biased MMD^2 is at least 0, and 0 for equal measures, for every kernel", where="V-statistic",
        control={"estimator": "unbiased"})  # fmt: skip
def biased_is_nonnegative(
    rng: Rng, *, n: Size = 4, m: Size = 5, dimension: Dimension = 2, shift: Shift = 0.0, zeros: Zeros = 0.0,
    kernel: Kernel = "gaussian", width: Width = 1.0, estimator: Literal["biased", "unbiased"] = "biased",
) -> float:  # fmt: skip
    x, y, a, b = samples(rng, sizes=(n, m), dimension=dimension, shift=shift, zeros=zeros)
    a, b = (a + 1 / n) / 2, (b + 1 / m) / 2  # the U-statistic needs two points with mass
    order, options = rng.permutation(n), {"kernel": kernel, "bandwidth": width, "estimator": estimator}
    same = mmd_squared(x, x[order], **options, x_weights=a, y_weights=a[order])
    return min(ordered(0.0, mmd_squared(x, y, **options, x_weights=a, y_weights=b)), equal(same, 0.0))


@always("|E_p f - E_q f| <= |f| MMD for f in the kernel's space, with equality at the witness", where="RKHS ball",
        control={"share": 0.9})  # fmt: skip
def witness(rng: Rng, *, n: Size = 4, m: Size = 5, dimension: Dimension = 2, shift: Shift = 1.0, zeros: Zeros = 0.0,
            kernel: Bounded = "gaussian", width: Width = 1.0, share: Factor = 1.0) -> float:  # fmt: skip
    """f is a random combination of kernels at random points, or the difference of the mean embeddings."""
    x, y, a, b = samples(rng, sizes=(n, m), dimension=dimension, shift=shift, zeros=zeros)
    both, masses, gram = np.concatenate([x, y]), np.concatenate([a, -b]), radial_kernel(kernel, width, x)
    squared = mmd_squared(x, y, kernel=kernel, bandwidth=width, estimator="biased", x_weights=a, y_weights=b)

    def bound(centres: np.ndarray, heights: np.ndarray) -> float:
        gap, norm = heights @ gram(centres, both) @ masses, heights @ gram(centres, centres) @ heights
        return ordered(abs(gap), share * np.sqrt(max(norm, 0) * max(squared, 0)))

    margins = bound(rng.standard_normal((3, dimension)), rng.standard_normal(3)), bound(both, masses)
    return min(*margins, equal(masses @ gram(both, both) @ masses, squared))


@always("For a kernel from 0 to 1, MMD^2 <= 2 TV^2, and MMD <= W_1 / s for the Gaussian one of bandwidth s",
        where="derived", control={"factor": 1.8})  # fmt: skip
def mmd_is_weaker(rng: Rng, *, n: Size = 2, distance: Distance = 1.0, zeros: Zeros = 0.0, width: Width = 0.1,
                  kernel: Bounded = "gaussian", factor: Factor = 2.0) -> float:  # fmt: skip
    """On common points, which are far apart by bandwidths where the first is sharp."""
    points, (p, q) = rng.standard_normal(n), draw(rng, n, 1.0, distance, zeros)
    d = {"bandwidth": width, "estimator": "biased", "x_weights": p, "y_weights": q}
    transported = transport.wasserstein_1d(points, points, x_weights=p, y_weights=q) / width
    return min(ordered(mmd_squared(points, points, kernel=kernel, **d), factor * tv_distance(p, q) ** 2),
               ordered(mmd_squared(points, points, kernel="gaussian", **d), transported**2))  # fmt: skip


@always("The roots of the energy distance and of MMD^2 are metrics, and scale as they should", where="metrics",
        control={"power": 2})  # fmt: skip
def roots_are_metrics(rng: Rng, *, n: Size = 4, dimension: Dimension = 2, shift: Shift = 5.0, zeros: Zeros = 0.0,
                      kernel: Kernel = "energy", width: Width = 1.0, scale: Width = 2.0,
                      power: Literal[1, 2] = 1) -> float:  # fmt: skip
    """By way of the mixture; turned and scaled with its bandwidth MMD stays, and energy has the scale as a factor."""
    x, y, a, b = samples(rng, sizes=(n, n + 1), dimension=dimension, shift=shift, zeros=zeros)

    def d(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, width: float = width) -> float:
        found = mmd_squared(x, y, kernel=kernel, bandwidth=width, estimator="biased", x_weights=a, y_weights=b)
        return max(float(found), 0.0) + 1e-12  # whose root is above that of what rounding leaves

    middle, share, (turn, _) = np.concatenate([x, y]), rng.random(), np.linalg.qr(rng.normal(size=(dimension,) * 2))
    mixed = np.concatenate([share * a, (1 - share) * b])
    there, ways = d(x, y, a, b), (d(x, middle, a, mixed), d(middle, y, mixed, b))
    moved = d(scale * x @ turn, scale * y @ turn, a, b, scale * width)
    return min(ordered(there ** (power / 2), sum(way ** (power / 2) for way in ways)),
               equal(moved, there * (scale if kernel == "energy" else 1)))  # fmt: skip


def normal(grid: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """A normal distribution on a grid, with sum one."""
    density = np.exp(-((grid - mean) ** 2) / (2 * deviation**2))
    return density / density.sum()


@always("The closed form of MMD^2 between Gaussians is that of a grid", where="closed form", control={"factor": 1.4})
def gaussian_closed_form(
    rng: Rng, *, shift: Annotated[float, Interval(ge=0, le=3)] = 1.0, width: Width = 1.0, factor: Factor = 1.0,
    ratio: Annotated[float, Interval(ge=0.5, le=1.5)] = 0.8,
) -> float:  # fmt: skip
    """The control takes the bandwidth for that of exp(-r^2 / s^2)."""
    grid = np.linspace(-12, 14, 521)
    masses = {"x_weights": normal(grid, shift, ratio), "y_weights": normal(grid, 0.0, 1.0)}
    sums = mmd_squared(grid, grid, bandwidth=width, estimator="biased", **masses)
    closed = (np.array([shift]), np.array([[ratio**2]]), np.zeros(1), np.eye(1))
    return equal(gaussian_mmd_squared(*closed, bandwidth=factor * width), sums)


@always("The Cauchy-Schwarz divergence of samples is that of their kernel densities, each with s / sqrt(2)",
        where="information potential", control={"share": 1.0})  # fmt: skip
def cauchy_schwarz(rng: Rng, *, n: Size = 4, m: Size = 5, shift: Shift = 1.0, zeros: Zeros = 0.0,
                   width: Annotated[float, Interval(ge=0.2, le=3)] = 1.0,
                   share: Factor = 0.5**0.5) -> float:  # fmt: skip
    """On a grid, symmetric and at least 0; the control gives each density the bandwidth s."""
    (x, y, a, b), grid = samples(rng, sizes=(n, m), shift=shift, zeros=zeros), np.linspace(-25, 25, 1001)
    p, q = (c @ np.exp(-((grid - u) ** 2) / (2 * (share * width) ** 2)) for u, c in ((x, a), (y, b)))
    found = discrepancies.cauchy_schwarz_squared(x, y, bandwidth=width, x_weights=a, y_weights=b)
    back = discrepancies.cauchy_schwarz_squared(y, x, bandwidth=width, x_weights=b, y_weights=a)
    whole = cauchy_schwarz_divergence(p, q, normalize=True)
    return min(ordered(0.0, found), equal(found, back), equal(found, whole, tolerance=1e-6))


@always("E_q u_q(x, .) = 0 for the Stein kernel of q, and KSD(p, q) = E_pp (s_p - s_q) k (s_p - s_q)", where="Stein",
        control={"factor": 1.05})  # fmt: skip
def stein(
    rng: Rng, *, mean: Annotated[float, Interval(ge=0, le=3)] = 1.0, factor: Factor = 1.0,
    width: Annotated[float, Interval(ge=0.3, le=10)] = 1.0, kernel: Literal["imq", "gaussian"] = "imq",
) -> float:  # fmt: skip
    """Mixtures of two normals, their weights other for p than for q, on a grid that resolves kernels from 0.3 on."""
    grid, shares = np.linspace(-14, 14, 561), rng.uniform(0.1, 0.9, 2)
    parts = np.stack([normal(grid, mean, 1.0), normal(grid, -mean, rng.uniform(0.7, 1.3))])
    slopes = np.gradient(np.log(parts), grid, axis=1, edge_order=2)  # exact for parabolas
    p, q = (np.array([share, 1 - share]) @ parts for share in shares)
    s, t = (np.array([share, 1 - share]) @ (parts * slopes) / law for share, law in zip(shares, (p, q), strict=True))
    points, scores = grid[:, None], factor * t[:, None]
    some, d = slice(200, 360, 20), {"kernel": kernel, "bandwidth": width}
    gram = discrepancies.stein_gram(points[some], scores[some], points, scores, **d)
    found = discrepancies.kernel_stein_discrepancy(points, scores, x_weights=p, **d)
    gap, smooth = p * (s - t), radial_kernel(kernel, width, points)(points, points)
    return min(equal(gram @ q / np.abs(gram).max(), 0.0), equal(found, gap @ smooth @ gap))


@always("The restricted chi2 grows with the class up to chi2, which the class of all functions attains",
        where="restricted chi2", control={"share": 0.9})  # fmt: skip
def restricted_chi2(rng: Rng, *, n: Size = 4, distance: Near = 1.0, share: Factor = 1.0) -> float:
    """Centred or not, as constants are in every class; all masses are above the 1e-10 that count as zero."""
    (p, q), features = draw(rng, n, 1.0, distance), np.hstack([np.ones((n, 1)), rng.standard_normal((n, 2)), np.eye(n)])

    def value(width: int, centred: bool = False) -> float:
        part = features[:, :width]
        return float(discrepancies.restricted_chi2(part, part, centred=centred, x_weights=p, y_weights=q).value)

    chi2, widths = share * pearson_chi2(p, q), (1, 2, 3, n + 3)
    growing = [value(width) for width in widths]
    agree = [equal(value(width), value(width, centred=True), tolerance=1e-6) for width in widths]
    return min(ordered(0.0, *growing[:3], chi2), *agree, equal(growing[-1], chi2, tolerance=1e-6))


@validated
def simulate(rng: Rng, *, size: Annotated[int, Interval(ge=2, le=2000)] = 100, shift: Shift = 1.0,
             width: Width = 1.0) -> dict[str, np.ndarray]:  # fmt: skip
    """Unbiased estimates of three distances between two normal samples on the line, one of them shifted.

    Parameters
    ----------
    rng
        Draws the two samples.
    size, shift, width
        Of each sample, of the second, and of the Gaussian and the inverse multiquadric kernel.

    Returns
    -------
    dict of str to ndarray
        ``energy``, half the energy distance, and ``gaussian`` and ``imq``, MMD^2; numbers, which may be negative.

    Examples
    --------
    >>> bool(simulate(np.random.default_rng(0), shift=5.0)["energy"] > 1)
    True
    """
    x, y = rng.standard_normal((2, size))
    return {k: np.asarray(mmd_squared(x, y + shift, kernel=k, bandwidth=width)) for k in ("energy", "gaussian", "imq")}


@figure("Normal samples of 100, one shifted: half the energy distance grows on, MMD^2 with a kernel that vanishes far "
        "away levels off; near zero all are quadratic, and as estimates may be negative.", where="kernels")  # fmt: skip
def over_the_shift(rng: Rng, *, repeats: Annotated[int, Interval(ge=1, le=100)] = 5) -> Table:
    shifts = np.repeat(np.linspace(0, 5, 21), repeats)
    seen = [simulate(rng, shift=float(shift)) for shift in shifts]
    return {"shift": shifts, **{name: np.array([part[name] for part in seen]) for name in seen[0]}}


@over_the_shift.draw
def _(table, axes):
    for name, label in (("energy", "energy / 2"), ("gaussian", "MMD^2, Gaussian"), ("imq", "MMD^2, imq")):
        axes.plot(table["shift"], table[name], ".", ms=4, label=label)
    axes.set(xlabel="shift", ylabel="estimate")
    axes.legend()
