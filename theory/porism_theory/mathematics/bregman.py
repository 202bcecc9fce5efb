"""Bregman divergences: the gap between a convex potential and its tangent, and what follows for exponential families.

Banerjee, Merugu, Dhillon and Ghosh (doi:10.1137/1.9781611972740.22) tie clustering to B(x, y) = phi(x) - phi(y) -
<grad phi(y), x - y>: the mean is the best centre for every phi, and each exponential family has one. Each property is
searched for a counterexample on random vectors over every potential of ``porism.divergences``; the control is a usual
slip. Where a result has a name, ``where`` is its name.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from porism import Paper, Table, always, divergences, figure, validated
from porism.divergences import Potential, bregman_divergence
from porism_theory.mathematics._engine import equal, ordered

PAPER = Paper(
    key="bregman",
    title="Clustering with Bregman Divergences",
    authors=("Arindam Banerjee", "Srujana Merugu", "Inderjit S. Dhillon", "Joydeep Ghosh"),
    year=2004,
    ref="doi:10.1137/1.9781611972740.22",
    kinds=("simulator",),
    family="mathematics",
    tags=("Bregman divergence", "exponential family", "clustering"),
    method="simulate",
)

Rng = np.random.Generator
Size = Annotated[int, Interval(ge=1, le=20)]
Spread = Annotated[float, Interval(ge=1e-3, le=3)]
Name = Literal["squared_euclidean", "negative_entropy", "burg_entropy", "binary_entropy", "categorical_log_partition"]


def potential(name: str) -> Potential:
    """The potential of this name."""
    return getattr(divergences, name)


def points(rng: Rng, name: str, count: int, size: int, spread: float) -> np.ndarray:
    """Random vectors in a potential's domain, shape (count, size).

    Examples
    --------
    >>> bool(points(np.random.default_rng(0), "burg_entropy", 2, 3, 1.0).min() > 0)
    True
    """
    normal = spread * rng.standard_normal((count, size))
    match name:
        case "negative_entropy" | "burg_entropy":
            return np.exp(normal)
        case "binary_entropy":
            return 1 / (1 + np.exp(-normal))
    return normal


@always("B(x, y) is at least 0, convex in x, and 0 at x = y", where="Section 2", control={"slope": 0.9})
def nonnegative_and_convex(rng: Rng, *, name: Name = "negative_entropy", size: Size = 3, spread: Spread = 1.0,
                           slope: Annotated[float, Interval(gt=0, le=2)] = 1.0) -> float:  # fmt: skip
    """The control takes nine tenths of the tangent's slope."""
    phi = potential(name)
    x, y, z = points(rng, name, 3, size, spread)
    share = rng.random()

    def d(x: np.ndarray) -> float:
        return bregman_divergence(phi, x, y) + (1 - slope) * (phi.gradient(y) @ (x - y))

    mixed = d(share * x + (1 - share) * z)
    return min(ordered(0.0, d(x)), ordered(mixed, share * d(x) + (1 - share) * d(z)), equal(d(y), 0.0))


@always("B(x, z) = B(x, y) + B(y, z) + <grad phi(y) - grad phi(z), x - y>", where="three points", control={"sign": -1})
def three_points(rng: Rng, *, name: Name = "negative_entropy", size: Size = 3, spread: Spread = 1.0,
                 sign: Literal[-1, 1] = 1) -> float:  # fmt: skip
    phi = potential(name)
    x, y, z = points(rng, name, 3, size, spread)
    tangent = sign * ((phi.gradient(y) - phi.gradient(z)) @ (x - y))
    return equal(bregman_divergence(phi, x, z), bregman_divergence(phi, x, y) + bregman_divergence(phi, y, z) + tangent)


DUALS = {
    "negative_entropy": "poisson_log_partition",
    "burg_entropy": "exponential_log_partition",
    "binary_entropy": "bernoulli_log_partition",
    "squared_euclidean": "squared_euclidean",
}


@always("B of phi at (x, y) is B of its conjugate at the gradients, with the arguments swapped", where="duality",
        control={"swap": False})  # fmt: skip
def dual(rng: Rng, *, size: Size = 3, spread: Spread = 1.0, swap: bool = True,
         name: Literal["negative_entropy", "burg_entropy", "binary_entropy", "squared_euclidean"] = "negative_entropy",
         ) -> float:  # fmt: skip
    phi, conjugate = potential(name), potential(DUALS[name])
    x, y = points(rng, name, 2, size, spread)
    pair = (phi.gradient(x), phi.gradient(y))
    return equal(bregman_divergence(phi, x, y), bregman_divergence(conjugate, *pair[:: -1 if swap else 1]))


@always("The mean is the centre c of the least mean B(x, c), and what is left is phi's Jensen gap", where="Theorem 1",
        control={"argument": "first"})  # fmt: skip
def the_mean_is_the_best_centre(
    rng: Rng, *, name: Name = "negative_entropy", size: Size = 3, spread: Spread = 1.0,
    count: Annotated[int, Interval(ge=2, le=20)] = 4, argument: Literal["first", "second"] = "second",
) -> float:  # fmt: skip
    """The control puts the centre first, where another mean is best."""
    phi, x = potential(name), points(rng, name, count, size, spread)
    weights = rng.dirichlet(np.ones(count))
    mean = weights @ x

    def cost(c: np.ndarray) -> float:
        pair = (x, c) if argument == "second" else (np.broadcast_to(c, x.shape), x)
        return float(weights @ bregman_divergence(phi, *np.broadcast_arrays(*pair)))

    others = [share * mean + (1 - share) * points(rng, name, 1, size, spread)[0] for share in (0.99, 0.5)]
    jensen = weights @ phi.value(x) - phi.value(mean)
    return min(*(ordered(cost(mean), cost(c)) for c in others), equal(cost(mean), jensen))


@always("B of a log-partition at (b, a) is KL from the member at a to that at b", where="Theorem 4",
        control={"swapped": True})  # fmt: skip
def exponential_families(
    rng: Rng, *, size: Size = 3, spread: Spread = 1.0, swapped: bool = False,
    family: Literal["categorical", "bernoulli", "poisson", "exponential"] = "categorical",
) -> float:  # fmt: skip
    """Natural parameters: logits, the logarithm of a rate, minus a rate. The control forgets that the order turns."""
    a, b = spread * rng.standard_normal((2, size))
    match family:
        case "categorical":
            kl = divergences.kl_divergence_logits(a, b)
        case "bernoulli":
            kl = divergences.kl_divergence_logits(np.stack([a, 0 * a], -1), np.stack([b, 0 * b], -1)).sum()
        case "poisson":
            kl = divergences.poisson_kl(np.exp(a), np.exp(b)).sum()
        case "exponential":
            a, b = -np.exp(a), -np.exp(b)
            kl = divergences.exponential_kl(-a, -b).sum()
    pair = (a, b) if swapped else (b, a)
    return equal(bregman_divergence(potential(f"{family}_log_partition"), *pair), kl)


@always("Generalised KL, Itakura-Saito and half the squared distance are the beta family at 1, 0 and 2",
        where="beta family", control={"offset": 0.05})  # fmt: skip
def beta_family(rng: Rng, *, size: Size = 3, spread: Spread = 1.0,
                offset: Annotated[float, Interval(ge=0, le=1)] = 0.0) -> float:  # fmt: skip
    """And they are Bregman's of the negative entropy, Burg's entropy and the squared norm."""
    x, y = points(rng, "burg_entropy", 2, size, spread)
    named = {1.0: divergences.generalised_kl(x, y), 0.0: divergences.itakura_saito(x, y), 2.0: ((x - y) ** 2).sum() / 2}
    potentials = {1.0: "negative_entropy", 0.0: "burg_entropy", 2.0: "squared_euclidean"}
    members = [equal(divergences.beta_divergence(x, y, beta=beta + offset), value) for beta, value in named.items()]
    same = [equal(bregman_divergence(potential(potentials[beta]), x, y), value) for beta, value in named.items()]
    return min(*members, *same)


@validated
def simulate(
    rng: Rng, *, name: Name = "negative_entropy", size: Size = 1, spread: Spread = 1.0,
    pairs: Annotated[int, Interval(ge=1, le=10_000)] = 200,
) -> dict[str, np.ndarray]:  # fmt: skip
    """A Bregman divergence of random pairs in both orders.

    Parameters
    ----------
    rng
        Draws the pairs.
    name, size, spread
        The potential, the dimension, and how far the points scatter.
    pairs
        How many.

    Returns
    -------
    dict of str to ndarray
        ``there`` and ``back``, B(x, y) and B(y, x), shape (pairs,) each.

    Examples
    --------
    >>> seen = simulate(np.random.default_rng(0), name="squared_euclidean")
    >>> bool(np.allclose(seen["there"], seen["back"]))
    True
    """
    x, y = points(rng, name, 2 * pairs, size, spread).reshape(2, pairs, size)
    there, back = (bregman_divergence(potential(name), *pair) for pair in ((x, y), (y, x)))
    return {"there": there, "back": back}


@figure("B(x, 1) over x: the gap between a potential and its tangent at 1. Only the squared distance is symmetric; "
        "Itakura-Saito depends on the ratio alone.", where="Section 2")  # fmt: skip
def gaps(rng: Rng, *, largest: Annotated[float, Interval(gt=1, le=100)] = 4.0) -> Table:
    x = np.linspace(0.02, largest, 300)
    names = ("squared_euclidean", "negative_entropy", "burg_entropy")
    values = [bregman_divergence(potential(name), x[:, None], np.ones((300, 1))) for name in names]
    return {"name": np.repeat(names, 300), "x": np.tile(x, 3), "divergence": np.concatenate(values)}


@gaps.draw
def _(table, axes):
    labels = {"squared_euclidean": "half squared distance", "negative_entropy": "generalised KL",
              "burg_entropy": "Itakura-Saito"}  # fmt: skip
    for name, label in labels.items():
        chosen = table["name"] == name
        axes.plot(table["x"][chosen], table["divergence"][chosen], label=label)
    axes.set(xlabel="x", ylabel="B(x, 1)", ylim=(0, 3))
    axes.legend()
