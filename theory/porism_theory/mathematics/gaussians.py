"""Gaussians: closed forms of divergences, and the inequalities of Talagrand, log-Sobolev and HWI between them.

Otto and Villani (doi:10.1006/jfan.1999.3557) link relative entropy, the quadratic transport cost and Fisher's
information. Between Gaussians all three have closed forms, so the inequalities can be searched for a counterexample
exactly, and the closed forms themselves are held to sums over a grid. Covariances are random rotations of random
spectra. The Fisher divergence is E_p |grad log p / q|^2, without a half.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from porism import Paper, Table, always, divergences, figure, validated
from porism_theory.mathematics._engine import equal, ordered

PAPER = Paper(
    key="gaussians",
    title="Generalization of an Inequality by Talagrand and Links with the Logarithmic Sobolev Inequality",
    authors=("Felix Otto", "Cédric Villani"),
    year=2000,
    ref="doi:10.1006/jfan.1999.3557",
    kinds=("simulator",),
    family="mathematics",
    tags=("Gaussian", "Talagrand", "log-Sobolev", "Wasserstein", "Fisher information"),
    method="simulate",
)

Rng = np.random.Generator
Dimension = Annotated[int, Interval(ge=1, le=8)]
Shift = Annotated[float, Interval(ge=0, le=10)]
Spread = Annotated[float, Interval(ge=0, le=2)]
Constant = Annotated[float, Interval(gt=0, le=10)]
Gaussian = tuple[np.ndarray, np.ndarray]


def gaussian(rng: Rng, *, dimension: int, shift: float, spread: float) -> Gaussian:
    """A random mean of norm ``shift``, and a rotated covariance with log-variances of standard deviation ``spread``.

    Examples
    --------
    >>> mean, covariance = gaussian(np.random.default_rng(0), dimension=2, shift=3.0, spread=0.0)
    >>> round(float(mean @ mean), 6), covariance.round(6).tolist()
    (9.0, [[1.0, 0.0], [0.0, 1.0]])
    """
    direction = rng.standard_normal(dimension)
    rotation, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    covariance = (rotation * np.exp(spread * rng.standard_normal(dimension))) @ rotation.T
    return shift * direction / np.linalg.norm(direction), (covariance + covariance.T) / 2


def standard(dimension: int) -> Gaussian:
    """N(0, I)."""
    return np.zeros(dimension), np.eye(dimension)


@always("If q is standard normal, W2^2 <= 2 KL(p || q)", where="Talagrand, (2)", control={"constant": 1.9})
def talagrand(rng: Rng, *, dimension: Dimension = 1, shift: Shift = 1.0, spread: Spread = 0.1,
              constant: Constant = 2.0) -> float:  # fmt: skip
    """Sharp: equality for every shift of q."""
    pair = (*gaussian(rng, dimension=dimension, shift=shift, spread=spread), *standard(dimension))
    return ordered(divergences.gaussian_wasserstein_2_squared(*pair), constant * divergences.gaussian_kl(*pair))


@always("If -log q is rho-convex, KL(p || q) <= Fisher(p || q) / (2 rho)", where="log-Sobolev, (4)",
        control={"constant": 2.1})  # fmt: skip
def log_sobolev(rng: Rng, *, dimension: Dimension = 1, shift: Shift = 1.0, spread: Spread = 0.1,
                q_spread: Spread = 0.0, constant: Constant = 2.0) -> float:  # fmt: skip
    """rho is one over q's largest variance."""
    q = gaussian(rng, dimension=dimension, shift=0.0, spread=q_spread)
    pair = (*gaussian(rng, dimension=dimension, shift=shift, spread=spread), *q)
    largest = np.linalg.eigvalsh(q[1])[-1]
    fisher = divergences.gaussian_fisher_divergence(*pair)
    return ordered(divergences.gaussian_kl(*pair), fisher * largest / constant)


@always("If q is standard normal, KL <= W2 sqrt(Fisher) - W2^2 / 2", where="HWI, Theorem 3", control={"factor": 1.05})
def hwi(rng: Rng, *, dimension: Dimension = 1, shift: Shift = 1.0, spread: Spread = 0.1,
        factor: Constant = 0.5) -> float:  # fmt: skip
    """The control subtracts twice as much."""
    pair = (*gaussian(rng, dimension=dimension, shift=shift, spread=spread), *standard(dimension))
    w2, fisher = divergences.gaussian_wasserstein_2(*pair), divergences.gaussian_fisher_divergence(*pair)
    return ordered(divergences.gaussian_kl(*pair), w2 * np.sqrt(fisher) - factor * w2**2)


@always("Along the heat flow KL falls at half the Fisher divergence", where="de Bruijn", control={"rate": 1.0})
def de_bruijn(rng: Rng, *, dimension: Dimension = 2, shift: Shift = 1.0, spread: Spread = 0.5,
              rate: Constant = 0.5) -> float:  # fmt: skip
    """Both are convolved with N(0, t I); a central difference at t = 0.1, to 1e-5."""
    p, q = (gaussian(rng, dimension=dimension, shift=s, spread=spread) for s in (shift, 0.0))
    step, identity = 1e-4, np.eye(dimension)

    def at(t: float) -> tuple[np.ndarray, ...]:
        return p[0], p[1] + t * identity, q[0], q[1] + t * identity

    slope = (divergences.gaussian_kl(*at(0.1 + step)) - divergences.gaussian_kl(*at(0.1 - step))) / (2 * step)
    return equal(-slope, rate * divergences.gaussian_fisher_divergence(*at(0.1)), tolerance=1e-4)


@always("Half the Cauchy-Schwarz divergence of Gaussians is at most KL", where="derived", control={"share": 1.0})
def half_cauchy_schwarz(rng: Rng, *, dimension: Dimension = 1, shift: Shift = 8.0, spread: Spread = 1.0,
                        share: Constant = 0.5) -> float:  # fmt: skip
    """The whole one, the control, exceeds KL where p is the narrower one and far away."""
    p, q = gaussian(rng, dimension=dimension, shift=shift, spread=spread), standard(dimension)
    return ordered(share * divergences.gaussian_cauchy_schwarz(*p, *q), divergences.gaussian_kl(*p, *q))


GRID = np.linspace(-30, 30, 12_001)  # to where the standard density is 1e-196: neither tail is cut off


@always("The closed forms of KL, Renyi, H2, chi2 and Cauchy-Schwarz are the integrals", where="closed forms",
        control={"arguments": "swapped"})  # fmt: skip
def closed_forms(
    rng: Rng, *, shift: Annotated[float, Interval(ge=0, le=3)] = 1.0,
    ratio: Annotated[float, Interval(ge=0.5, le=1.2)] = 0.8,
    order: Annotated[float, Interval(ge=0.05, le=0.95)] = 0.3, arguments: Literal["kept", "swapped"] = "kept",
) -> float:  # fmt: skip
    """In one dimension on a grid, where sums are exact to rounding; ``ratio`` is p's standard deviation."""
    mean, variance = np.array([shift]), np.array([[ratio**2]])
    p, q = np.exp(-((GRID - shift) ** 2) / (2 * ratio**2)) / ratio, np.exp(-(GRID**2) / 2)
    p, q = p / p.sum(), q / q.sum()
    if arguments == "swapped":
        p, q = q, p
    pair = (mean, variance, *standard(1))
    sums = (
        (divergences.gaussian_kl(*pair), divergences.kl_divergence(p, q)),
        (divergences.gaussian_renyi(*pair, order=order), divergences.renyi_divergence(p, q, order=order)),
        (divergences.gaussian_squared_hellinger(*pair), divergences.squared_hellinger(p, q)),
        (divergences.gaussian_chi2(*pair), divergences.pearson_chi2(p, q)),
        (divergences.gaussian_cauchy_schwarz(*pair), divergences.cauchy_schwarz_divergence(p, q)),
    )
    return min(equal(closed, total, tolerance=1e-7) for closed, total in sums)


@always("Entropic transport grows with epsilon from W2^2, and debiased it goes from W2^2 to the squared shift",
        where="Gaussian Sinkhorn", control={"debiased": False})  # fmt: skip
def entropic_transport(
    rng: Rng, *, dimension: Dimension = 2, shift: Shift = 1.0, spread: Spread = 1.0,
    epsilon: Annotated[float, Interval(ge=1e-3, le=1e3)] = 1.0, debiased: bool = True,
) -> float:  # fmt: skip
    """The control leaves the debiasing out, and the limit of large epsilon is another one."""
    pair = tuple(x for s in (shift, 0.0) for x in gaussian(rng, dimension=dimension, shift=s, spread=spread))
    entropic, w2 = divergences.gaussian_entropic_wasserstein_2, divergences.gaussian_wasserstein_2_squared(*pair)
    d = divergences.gaussian_sinkhorn_divergence if debiased else entropic
    ends = (float(d(*pair, epsilon=1e-7)), float(d(*pair, epsilon=1e9)))
    grows = ordered(w2, entropic(*pair, epsilon=epsilon), entropic(*pair, epsilon=2 * epsilon))
    limits = min(equal(ends[0], w2, tolerance=1e-4), equal(ends[1], shift**2, tolerance=1e-4))
    return min(grows, limits, ordered(0.0, divergences.gaussian_sinkhorn_divergence(*pair, epsilon=epsilon)))


@validated
def simulate(rng: Rng, *, dimension: Dimension = 2, shift: Shift = 2.0, spread: Spread = 0.7,
             pairs: Annotated[int, Interval(ge=1, le=10_000)] = 200) -> dict[str, np.ndarray]:  # fmt: skip
    """KL, W2^2 and Fisher divergence of random Gaussians to the standard one.

    Parameters
    ----------
    rng
        Draws the Gaussians.
    dimension, shift, spread
        Of :func:`gaussian`; each has a uniform share of the shift.
    pairs
        How many.

    Returns
    -------
    dict of str to ndarray
        ``kl``, ``w2_squared``, ``fisher``, shape (pairs,) each.

    Examples
    --------
    >>> seen = simulate(np.random.default_rng(0))
    >>> bool((seen["w2_squared"] <= 2 * seen["kl"]).all())
    True
    """
    drawn = [gaussian(rng, dimension=dimension, shift=shift * rng.random(), spread=spread) for _ in range(pairs)]
    means, covariances = (np.stack(part) for part in zip(*drawn, strict=True))
    pair = (means, covariances, *standard(dimension))
    return {
        "kl": divergences.gaussian_kl(*pair),
        "w2_squared": divergences.gaussian_wasserstein_2_squared(*pair),
        "fisher": divergences.gaussian_fisher_divergence(*pair),
    }


@figure("Random Gaussians against the standard one: half the squared transport cost is at most KL (Talagrand), and KL "
        "at most half the Fisher divergence (log-Sobolev).", where="(2) and (4)")  # fmt: skip
def between_transport_and_fisher(rng: Rng, *, pairs: Annotated[int, Interval(ge=1, le=10_000)] = 300) -> Table:
    seen = [simulate(rng, dimension=dimension, pairs=pairs) for dimension in (1, 2, 4)]
    table = {name: np.concatenate([part[name] for part in seen]) for name in seen[0]}
    return {"dimension": np.repeat([1, 2, 4], pairs), **table}


@between_transport_and_fisher.draw
def _(table, axes):
    for column, label in (("w2_squared", "W2^2 / 2"), ("fisher", "Fisher / 2")):
        axes.plot(table["kl"], table[column] / 2, ".", ms=3, label=label)
    ends = np.array([table["kl"].min(), table["kl"].max()])
    axes.plot(ends, ends, "k-", label="KL")
    axes.set(xlabel="KL(p || N(0, I))", xscale="log", yscale="log")
    axes.legend()
