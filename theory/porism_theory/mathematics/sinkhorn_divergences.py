"""Sinkhorn divergences: entropic transport without its bias, between a transport cost and a kernel distance.

Feydy, Sejourne, Vialard, Amari, Trouve and Peyre (arXiv:1810.08278) debias OT_eps(a, b) = min over plans P of
<C, P> + eps KL(P || a x b) to S_eps(a, b) = OT_eps(a, b) - OT_eps(a, a) / 2 - OT_eps(b, b) / 2. Each property is
searched for a counterexample on random weighted samples, with masses of zero and ties among them. What is compared
is the interval that is certified to hold a value, because Sinkhorn's algorithm is slow at small eps.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval
from scipy.special import entr

from porism import Paper, Table, always, figure, transport, validated
from porism.discrepancies.samples import distances, squared_distances
from porism.divergences import kl_divergence
from porism.divergences.gaussian_distances import gaussian_entropic_wasserstein_2, gaussian_sinkhorn_divergence
from porism_sims.random_distributions import distribution
from porism_theory.mathematics._engine import Samples, Zeros, equal, ordered, samples

PAPER = Paper(
    key="sinkhorn_divergences",
    title="Interpolating between Optimal Transport and MMD using Sinkhorn Divergences",
    authors=("Jean Feydy", "Thibault Séjourné", "François-Xavier Vialard", "Shun-ichi Amari", "Alain Trouvé",
             "Gabriel Peyré"),
    year=2018,
    ref="arXiv:1810.08278",
    kinds=("simulator",),
    family="mathematics",
    needs=("torch",),
    tags=("optimal transport", "Sinkhorn", "entropic regularisation", "kernel"),
    method="simulate",
)  # fmt: skip

Rng = np.random.Generator
Size = Annotated[int, Interval(ge=2, le=12)]
Dimension = Annotated[int, Interval(ge=1, le=3)]
Shift = Annotated[float, Interval(ge=0, le=5)]
Epsilon = Annotated[float, Interval(ge=0.05, le=100)]
Factor = Annotated[float, Interval(gt=0, le=10)]
Cost = Literal["sqeuclidean", "euclidean"]
LONG: dict[str, Any] = {"iterations": 5000, "tolerance": 1e-11}


def divergence(pair: Samples, epsilon: float, **options: Any) -> Any:
    """S_eps of a pair, after many iterations unless the options say otherwise."""
    return transport.sinkhorn_divergence(pair.x, pair.y, a=pair.a, b=pair.b, epsilon=epsilon, **LONG | options)


def overlap(first: Any, second: Any) -> float:
    """Margin of two intervals (lower, upper) to have a point in common."""
    return min(ordered(first[0], second[1]), ordered(second[0], first[1]))


@always("S_eps is at least 0 and convex in a for every cost |x - y|^r with r up to 2, whose kernel is positive",
        where="Theorem 1", control={"positive": False})  # fmt: skip
def nonnegative_and_convex(
    rng: Rng, *, n: Size = 5, dimension: Dimension = 1, zeros: Zeros = 0.0, epsilon: Epsilon = 20.0,
    exponent: Annotated[float, Interval(ge=0.3, le=2)] = 2.0, positive: bool = True,
) -> float:  # fmt: skip
    """Mixtures of two distributions on common points; r = 4, whose exp(-C / eps) is not positive, is the control."""
    points, share, power = rng.standard_normal((n, dimension)), rng.random(), exponent if positive else 4.0
    first, second, b = (distribution(rng, size=n, spread=1.0, zeros=zeros) for _ in range(3))
    weights = (share * first + (1 - share) * second, first, second)

    def cost(x: Any, y: Any) -> Any:
        return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1) ** (power / 2)

    d = [divergence(Samples(points, points, a, b), epsilon, cost=cost) for a in weights]
    return min(ordered(d[0].lower, share * d[1].upper + (1 - share) * d[2].upper), *(ordered(0.0, s.upper) for s in d))


@always("S_eps is 0 for equal measures and symmetric, and for squared distances S_eps(x + c, y) = S_eps(x, y) + |c|^2 "
        "+ 2 c (E x - E y)", where="Theorem 1", control={"debiased": False})  # fmt: skip
def zero_symmetric_and_translated(
    rng: Rng, *, n: Size = 4, m: Size = 3, dimension: Dimension = 2, zeros: Zeros = 0.0, epsilon: Epsilon = 1.0,
    cost: Cost = "sqeuclidean", debiased: bool = True,
) -> float:  # fmt: skip
    """The equal measure has its points in another order and one of them split in two; the control is OT_eps(a, a)."""
    x, y, a, b = samples(rng, sizes=(n, m), dimension=dimension, zeros=zeros)
    order, share, c = np.append(rng.permutation(n), 0), np.ones(n + 1), rng.standard_normal(dimension)
    share[[int(np.argmin(order)), n]] = 0.3, 0.7
    pairs = ((x, x[order], a, share * a[order]), (x, y, a, b), (y, x, b, a), (x + c, y, a, b))
    same, there, back, moved = (divergence(Samples(*pair), epsilon, cost=cost) for pair in pairs)
    zero = (same.lower, same.upper) if debiased else (same.cross.value, same.cross.value + same.cross.gap)
    gain = c @ c + 2 * c @ (a @ x - b @ y)
    gained = overlap((there.lower + gain, there.upper + gain), (moved.lower, moved.upper))
    return min(overlap(zero, (0.0, 0.0)), overlap((there.lower, there.upper), (back.lower, back.upper)),
               gained if cost == "sqeuclidean" else 1.0)  # fmt: skip


@always("W <= OT_eps <= W + eps min(H(a), H(b)) for the transport cost W, so OT_eps and S_eps tend to it",
        where="small eps", control={"share": 0.9})  # fmt: skip
def near_the_transport_cost(
    rng: Rng, *, n: Size = 4, m: Size = 4, shift: Shift = 1.0, zeros: Zeros = 0.0, uniform: bool = True,
    epsilon: Annotated[float, Interval(ge=1e-3, le=100)] = 1e-3, cost: Cost = "sqeuclidean", share: Factor = 1.0,
) -> float:  # fmt: skip
    """W is exact on the line; eps log n for two uniform samples of size n, which is attained as eps goes to 0."""
    pair = samples(rng, sizes=(n, m), shift=shift, zeros=zeros)
    if uniform:
        pair = pair._replace(a=np.full(n, 1 / n), b=np.full(m, 1 / m))
    order = 2 if cost == "sqeuclidean" else 1
    exact = transport.wasserstein_1d(pair.x[:, 0], pair.y[:, 0], order, x_weights=pair.a, y_weights=pair.b) ** order
    entropies, d = (entr(pair.a).sum(), entr(pair.b).sum()), divergence(pair, epsilon, cost=cost)
    above, below = exact + share * epsilon * min(entropies), exact - epsilon * sum(entropies) / 2
    biased = overlap((d.cross.value, d.cross.value + d.cross.gap), (exact, above))
    return min(biased, overlap((d.lower, d.upper), (below, above)))


@always("The plan has marginals a and b and the dual value <C, P> + eps KL(P || a x b), whose slope in eps is that KL",
        where="strong duality", control={"entropy": False})  # fmt: skip
def plan_and_value(rng: Rng, *, n: Size = 4, m: Size = 3, dimension: Dimension = 2, shift: Shift = 1.0,
                   zeros: Zeros = 0.0, epsilon: Epsilon = 1.0, entropy: bool = True,
                   ratio: Annotated[float, Interval(ge=1.01, le=10)] = 1.1) -> float:  # fmt: skip
    """OT_eps is concave in eps: tangents at both ends. To 1e-7 and what the certificates leave open."""
    x, y, a, b = samples(rng, sizes=(n, m), dimension=dimension, shift=shift, zeros=zeros)
    cost, step, exact, slopes = squared_distances(x, y), (ratio - 1) * epsilon, [], []
    low, high = (transport.sinkhorn(cost, a, b, epsilon=e, **LONG) for e in (epsilon, ratio * epsilon))
    left = 1e-7 + 10 * float(low.gap + high.gap + low.marginal_error + high.marginal_error)
    for solved, e in ((low, epsilon), (high, ratio * epsilon)):
        plan = solved.plan()
        slopes.append(kl_divergence(plan.ravel(), np.outer(a, b).ravel(), normalize=True) if entropy else 0.0)
        pairs = ((plan.sum(1), a), (plan.sum(0), b), ((cost * plan).sum() + e * slopes[-1], solved.value))
        exact += [equal(found, wanted, tolerance=left) for found, wanted in pairs]
    return min(*exact, ordered(step * slopes[1], high.value - low.value + left, step * slopes[0] + 2 * left))


@always("S_eps is within osc(C)^2 / (8 eps) of the distance of the kernel -C, so it tends to it", where="large eps",
        control={"debiased": False})  # fmt: skip
def near_the_kernel_distance(rng: Rng, *, n: Size = 4, m: Size = 3, dimension: Dimension = 2, shift: Shift = 1.0,
                             zeros: Zeros = 0.0, cost: Cost = "sqeuclidean", debiased: bool = True,
                             epsilon: Annotated[float, Interval(ge=0.1, le=1e6)] = 1e4) -> float:  # fmt: skip
    """By Hoeffding's lemma. It is half the energy distance for |x - y|, and |E x - E y|^2 for its square."""
    pair = samples(rng, sizes=(n, m), dimension=dimension, shift=shift, zeros=zeros)
    between = squared_distances if cost == "sqeuclidean" else distances
    matrices = [between(pair[i], pair[j]) for i, j in ((0, 1), (0, 0), (1, 1))]
    limit = pair.a @ matrices[0] @ pair.b - (pair.a @ matrices[1] @ pair.a + pair.b @ matrices[2] @ pair.b) / 2
    slack = max(float(np.ptp(matrix)) for matrix in matrices) ** 2 / (8 * epsilon)
    d = divergence(pair, epsilon, cost=cost)
    low, high = (d.lower, d.upper) if debiased else (d.cross.value, d.cross.value + d.cross.gap)
    return overlap((low, high), (limit - slack, limit + slack))


@always("After however few iterations [value, value + gap] holds OT_eps, and [lower, upper] holds S_eps",
        where="weak duality", control={"share": 0.01})  # fmt: skip
def certificate(
    rng: Rng, *, n: Size = 6, m: Size = 5, shift: Shift = 1.0, zeros: Zeros = 0.0, epsilon: Epsilon = 0.2,
    iterations: Annotated[int, Interval(ge=1, le=50)] = 2, single: bool = False, accelerate: bool = True,
    problem: Literal["hard", "one penalty", "penalties", "divergence"] = "hard", share: Factor = 1.0,
) -> float:  # fmt: skip
    """Against many iterations on the same numbers, in float64; the control shortens the gap."""
    pair = samples(rng, sizes=(n, m), dimension=2, shift=shift, zeros=zeros)
    parts = [part.astype(np.float32 if single else float) for part in (squared_distances(*pair[:2]), *pair[2:])]
    few = {"iterations": iterations, "tolerance": 0.0, "accelerate": accelerate}
    if problem == "divergence":
        bounds = [(d.lower, d.gap) for d in (divergence(pair, epsilon, **options) for options in (few, LONG))]
    else:
        penalty = {"one penalty": (1.0, np.inf), "penalties": 2.0}.get(problem)
        solve = functools.partial(transport.sinkhorn, epsilon=epsilon, unbalanced=penalty)
        bounds = [(s.value, s.gap) for s in (solve(*parts, **few), solve(*(p.astype(float) for p in parts), **LONG))]
    return overlap(*((low, low + part * gap) for part, (low, gap) in zip((share, 1.0), bounds, strict=True)))


@always("Implicit and unrolled gradients in points and weights are those of finite differences", where="envelope",
        control={"factor": 1.05})  # fmt: skip
def gradients(rng: Rng, *, n: Size = 4, m: Size = 3, dimension: Dimension = 2, shift: Shift = 1.0,
              epsilon: Annotated[float, Interval(ge=1, le=100)] = 2.0, cost: Cost = "sqeuclidean",
              factor: Factor = 1.0) -> float:  # fmt: skip
    """Along random directions, of sum zero for the weights; eps from 1 on, where plain iterations converge."""
    import torch

    pair = [torch.from_numpy(part) for part in samples(rng, sizes=(n, m), dimension=dimension, shift=shift)]
    along = [torch.from_numpy(rng.standard_normal(part.shape)) for part in pair]
    along[2:] = [part * (v - part @ v) / 10 for part, v in zip(pair[2:], along[2:], strict=True)]
    solve = {"cost": cost, "tolerance": 1e-13, "iterations": 400}

    def slope(**options: Any) -> float:
        parts = [part.clone().requires_grad_() for part in pair]
        found = torch.autograd.grad(divergence(Samples(*parts), epsilon, **solve | options).value, parts)
        return factor * sum(float((g * v).sum()) for g, v in zip(found, along, strict=True))

    moved = [[p + s * v for p, v in zip(pair, along, strict=True)] for s in (1e-5, -1e-5)]
    ends = [float(divergence(Samples(*parts), epsilon, **solve).value) for parts in moved]
    slopes = (slope(), slope(gradient="unroll", iterations=200))
    return min(equal(found, (ends[0] - ends[1]) / 2e-5, tolerance=1e-4) for found in slopes)


@always("On a grid OT_eps and S_eps of Gaussians are their closed forms", where="Gaussian Sinkhorn", cap=40,
        control={"factor": 2.0})  # fmt: skip
def gaussian_closed_form(
    rng: Rng, *, shift: Annotated[float, Interval(ge=0, le=2)] = 1.0, factor: Factor = 1.0,
    ratio: Annotated[float, Interval(ge=0.5, le=1.5)] = 0.8, epsilon: Annotated[float, Interval(ge=0.2, le=20)] = 1.0,
) -> float:  # fmt: skip
    """Sums over the grid are exact to rounding; the control takes the eps of another convention, twice this one."""
    grid = np.linspace(-14, 14, 169)[:, None]
    p, q = (np.exp(-((grid[:, 0] - mean) ** 2) / (2 * s**2)) for mean, s in ((shift, ratio), (0.0, 1.0)))
    d = divergence(Samples(grid, grid, p / p.sum(), q / q.sum()), epsilon)
    closed = (np.array([shift]), np.array([[ratio**2]]), np.zeros(1), np.eye(1))
    pairs = ((gaussian_entropic_wasserstein_2, d.cross.value), (gaussian_sinkhorn_divergence, d.value))
    return min(equal(f(*closed, epsilon=factor * epsilon), value, tolerance=1e-7) for f, value in pairs)


@validated
def simulate(rng: Rng, *, size: Size = 6, dimension: Dimension = 1, shift: Shift = 1.0) -> dict[str, np.ndarray]:
    """S_eps and OT_eps of two random weighted samples over eps, for squared distances.

    Parameters
    ----------
    rng
        Draws the samples.
    size, dimension, shift
        Points of each sample, their dimension, the distance of the centres.

    Returns
    -------
    dict of str to ndarray
        ``epsilon``, ``debiased``, ``biased``, and the limit ``mean_shift`` at large eps; shape (31,) each.

    Examples
    --------
    >>> bool((simulate(np.random.default_rng(0))["debiased"] > 0).all())
    True
    """
    pair, epsilon = samples(rng, sizes=(size, size), dimension=dimension, shift=shift), np.geomspace(0.01, 1e3, 31)
    found = [divergence(pair, float(e)) for e in epsilon]
    limit = np.full(31, ((pair.a @ pair.x - pair.b @ pair.y) ** 2).sum())
    values = {"debiased": [d.value for d in found], "biased": [d.cross.value for d in found]}
    return {"epsilon": epsilon, "mean_shift": limit, **{name: np.array(v, float) for name, v in values.items()}}


@figure("Random samples on the line: OT_eps (dashed) rises to the mean of all costs, S_eps (solid) goes from the "
        "transport cost to the squared distance of the means (dotted).", where="interpolation")  # fmt: skip
def between_transport_and_kernel(rng: Rng, *, pairs: Annotated[int, Interval(ge=1, le=6)] = 3) -> Table:
    seen = [simulate(rng, shift=1.0 + number) for number in range(pairs)]
    return {"pair": np.repeat(np.arange(pairs), 31), **{k: np.concatenate([s[k] for s in seen]) for k in seen[0]}}


@between_transport_and_kernel.draw
def _(table, axes):
    for number in np.unique(table["pair"]):
        chosen = table["pair"] == number
        for name, style in (("debiased", "-"), ("biased", "--"), ("mean_shift", ":")):
            label = name.replace("_", " ") if number == 0 else None
            axes.plot(table["epsilon"][chosen], table[name][chosen], style, color=f"C{number}", label=label)
    axes.set(xscale="log", xlabel="eps", ylabel="cost")
    axes.legend()
