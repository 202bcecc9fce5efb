"""Relative entropy and its family: what KL alone has, and how Renyi's divergences of all orders lie around it.

Van Erven and Harremoes (arXiv:1206.2459) survey R_a(p || q) = log(sum of p^a q^(1 - a)) / (a - 1), with KL at order 1.
Each property is searched for a counterexample on random pairs of distributions; the control is a usual slip. Where a
result has a name, ``where`` is its name.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from porism import Paper, Table, always, figure, validated
from porism.divergences import k1, k2, k3, kl_divergence, pearson_chi2, renyi_divergence, squared_hellinger
from porism_sims.random_distributions import channel
from porism_theory.mathematics._engine import Distance, Size, Spread, Zeros, draw, equal, ordered

PAPER = Paper(
    key="relative_entropy",
    title="Rényi Divergence and Kullback-Leibler Divergence",
    authors=("Tim van Erven", "Peter Harremoës"),
    year=2012,
    ref="arXiv:1206.2459",
    kinds=("simulator",),
    family="mathematics",
    tags=("relative entropy", "Rényi divergence", "Donsker-Varadhan", "Gibbs"),
    method="simulate",
)

Rng = np.random.Generator
Near = Annotated[float, Interval(ge=1e-3, le=4)]
Order = Annotated[float, Interval(gt=0, le=20)]
ESTIMATORS = {"k2": k2, "k3": k3}


@always("E_p g - log E_q exp(g) <= KL, with equality at g = log p / q", where="Donsker-Varadhan",
        control={"normaliser": "mean"})  # fmt: skip
def donsker_varadhan(
    rng: Rng, *, size: Size = 4, distance: Near = 1.0, noise: Near = 0.1, normaliser: Literal["log", "mean"] = "log",
) -> float:  # fmt: skip
    """The control subtracts E_q g instead."""
    p, q = draw(rng, size, 1.0, distance)
    best = np.log(p / q)

    def bound(g: np.ndarray) -> float:
        return float(p @ g - (np.log(q @ np.exp(g)) if normaliser == "log" else q @ g))

    kl = kl_divergence(p, q)
    return min(ordered(bound(best + noise * rng.standard_normal(size)), kl), equal(bound(best), kl))


@always("E_p r - beta KL(p || q) is largest, beta log E_q exp(r / beta), at p ~ q exp(r / beta)", where="Gibbs",
        control={"direction": "reverse"})  # fmt: skip
def gibbs(rng: Rng, *, size: Size = 4, distance: Near = 1.0, beta: Annotated[float, Interval(ge=0.1, le=10)] = 1.0,
          direction: Literal["forward", "reverse"] = "forward") -> float:  # fmt: skip
    """The identity behind KL-regularised policies; the control penalises KL(q || p)."""
    p, q = draw(rng, size, 1.0, distance)
    reward = rng.standard_normal(size)
    tilted = q * np.exp(reward / beta)
    optimum = beta * np.log(tilted.sum())

    def value(p: np.ndarray) -> float:
        return float(p @ reward - beta * (kl_divergence(p, q) if direction == "forward" else kl_divergence(q, p)))

    return min(ordered(value(p), optimum), equal(value(tilted / tilted.sum()), optimum))


@always("KL of a joint is KL of the first plus the mean KL of the second given the first", where="chain rule",
        control={"mean_under": "q"})  # fmt: skip
def chain_rule(rng: Rng, *, size: Size = 3, outputs: Size = 3, distance: Near = 1.0, zeros: Zeros = 0.0,
               mean_under: Literal["p", "q"] = "p") -> float:  # fmt: skip
    p, q = draw(rng, size, 1.0, distance)
    rows = [draw(rng, outputs, 1.0, distance, zeros) for _ in range(size)]
    p_second, q_second = np.stack([row.p for row in rows]), np.stack([row.q for row in rows])
    joint = kl_divergence((p[:, None] * p_second).ravel(), (q[:, None] * q_second).ravel())
    return equal(joint, kl_divergence(p, q) + (p if mean_under == "p" else q) @ kl_divergence(p_second, q_second))


@always("Over independent pairs KL and Renyi add up, 1 - H2 and 1 + chi2 multiply", where="product measures",
        control={"repeated": True})  # fmt: skip
def tensorisation(rng: Rng, *, size: Size = 3, distance: Near = 1.0, order: Order = 2.0,
                  repeated: bool = False) -> float:  # fmt: skip
    """The control claims the same of a pair whose second half repeats the first."""
    (p, q), (r, s) = (draw(rng, size, 1.0, distance) for _ in range(2))
    pair = [np.diag(x).ravel() if repeated else np.outer(x, y).ravel() for x, y in ((p, r), (q, s))]
    if repeated:
        r, s = p, q
    h, chi2 = squared_hellinger, pearson_chi2
    sums = [(d(*pair), d(p, q) + d(r, s)) for d in (kl_divergence, functools.partial(renyi_divergence, order=order))]
    products = [(1 - h(*pair), (1 - h(p, q)) * (1 - h(r, s))), (1 + chi2(*pair), (1 + chi2(p, q)) * (1 + chi2(r, s)))]
    return min(equal(left, right) for left, right in sums + products)


@always("From samples of p, k1 and k3 estimate KL without bias, and k3 is never negative; as losses k2 descends KL and "
        "k3 reverse KL", where="k1, k2, k3", control={"second": "k2"})  # fmt: skip
def log_ratio_estimators(rng: Rng, *, size: Size = 4, distance: Near = 1.0,
                         second: Literal["k2", "k3"] = "k3") -> float:  # fmt: skip
    """Exact expectations. Through the logits of p, E grad k1 = 0; the control takes k2 for an unbiased estimate."""
    p, q = draw(rng, size, 1.0, distance)
    ratio = np.log(p / q)
    values, kl, reverse = ESTIMATORS[second](ratio), kl_divergence(p, q), kl_divergence(q, p)
    score = np.eye(size) - p  # row k: the gradient of log p_k in the logits
    k2_slope, k3_slope = (p * ratio) @ score, (p * -np.expm1(-ratio)) @ score
    tilt = np.exp(1e-5 * np.outer([1, -1], rng.standard_normal(size)))
    moved = p * tilt / (tilt @ p)[:, None]
    along = np.log(tilt[0]) / 1e-5
    slopes = [(d[0] - d[1]) / 2e-5 for d in (kl_divergence(moved, q), kl_divergence(np.stack([q, q]), moved))]
    return min(
        equal(p @ k1(ratio), kl), equal(p @ values, kl), ordered(0.0, values.min()), equal(p @ score, 0.0),
        equal(k2_slope @ along, slopes[0], tolerance=1e-5 * (1 + kl)),
        equal(k3_slope @ along, slopes[1], tolerance=1e-5 * (1 + reverse)),
    )  # fmt: skip


@always("R_a grows with its order a, from -log q(p > 0) at 0 to log max p / q at infinity", where="Theorem 3",
        control={"order": "falling"})  # fmt: skip
def grows_with_order(
    rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 1.0, zeros: Zeros = 0.0, low: Order = 0.5,
    high: Order = 2.0, order: Literal["rising", "falling"] = "rising",
) -> float:  # fmt: skip
    """With R_(1/2) = -2 log(1 - H2), R_1 = KL and R_2 = log(1 + chi2) on the way."""
    p, q = draw(rng, size, spread, distance, zeros)
    first, second = sorted((low, high), reverse=order == "falling")
    rising = ordered(*(renyi_divergence(p, q, order=a) for a in (0.0, first, second, np.inf)))
    half, one, two = (renyi_divergence(p, q, order=a) for a in (0.5, 1.0, 2.0))
    return min(
        rising,
        equal(np.exp(-half / 2), 1 - squared_hellinger(p, q)),
        equal(one, kl_divergence(p, q)),
        equal(two, np.log1p(pearson_chi2(p, q))),
    )


@always("(1 - a) R_a(p || q) = a R_(1 - a)(q || p) for orders a in (0, 1)", where="Proposition 2",
        control={"factor": False})  # fmt: skip
def skew_symmetry(rng: Rng, *, size: Size = 4, distance: Near = 1.0, zeros: Zeros = 0.0, factor: bool = True,
                  order: Annotated[float, Interval(ge=0.01, le=0.99)] = 0.3) -> float:  # fmt: skip
    """The control leaves the factors out, as if R_a were symmetric."""
    p, q = draw(rng, size, 1.0, distance, zeros)
    here, there = renyi_divergence(p, q, order=order), renyi_divergence(q, p, order=1 - order)
    return equal((1 - order) * here, order * there) if factor else equal(here, there)


@always("No channel raises R_a, whatever the order", where="Theorem 9", control={"order_after": 2.0})
def data_processing(rng: Rng, *, size: Size = 4, outputs: Size = 2, spread: Spread = 1.0, distance: Distance = 1.0,
                    zeros: Zeros = 0.0, order: Order = 0.5,
                    order_after: Annotated[float, Interval(ge=1, le=4)] = 1.0) -> float:  # fmt: skip
    """The control multiplies the order after the channel."""
    p, q = draw(rng, size, spread, distance, zeros)
    noisy = channel(rng, inputs=size, outputs=outputs, spread=9.0, zeros=zeros)
    after = [x / x.sum() for x in (p @ noisy, q @ noisy)]
    return ordered(renyi_divergence(*after, order=order * order_after), renyi_divergence(p, q, order=order))


@always("R_a is convex in q for every order, and in both up to order 1", where="Theorems 11 and 12",
        control={"jointly_up_to": 20.0})  # fmt: skip
def convexity(rng: Rng, *, size: Size = 3, spread: Spread = 1.0, distance: Distance = 3.0, order: Order = 0.5,
              jointly_up_to: Annotated[float, Interval(ge=0, le=20)] = 1.0) -> float:  # fmt: skip
    (p, q), (r, s) = (draw(rng, size, spread, distance) for _ in range(2))
    share = rng.random()
    second = r if order <= jointly_up_to else p
    d = functools.partial(renyi_divergence, order=order)
    mixed = d(share * p + (1 - share) * second, share * q + (1 - share) * s)
    return ordered(mixed, share * d(p, q) + (1 - share) * d(second, s))


@validated
def simulate(
    rng: Rng, *, size: Size = 5, spread: Spread = 1.0, distance: Distance = 4.0, zeros: Zeros = 0.0,
    pairs: Annotated[int, Interval(ge=1, le=1000)] = 8, largest: Annotated[float, Interval(gt=0, le=100)] = 6.0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Renyi divergences of random pairs at 61 orders from 0 to ``largest``.

    Parameters
    ----------
    rng
        Draws the pairs.
    size, spread, distance, zeros
        As :func:`porism_sims.random_distributions.pair` has them; the pairs are spaced evenly up to ``distance``.
    pairs
        How many.
    largest
        The largest order.

    Returns
    -------
    dict of str to ndarray
        ``order`` of shape (61,) and ``value`` of shape (pairs, 61), in nats; infinite for disjoint supports,
        and from order 1 on where q lacks a point of p.

    Examples
    --------
    >>> simulate(np.random.default_rng(0), pairs=2)["value"].shape
    (2, 61)
    """
    orders = np.linspace(0, largest, 61)
    drawn = [draw(rng, size, spread, distance * (n + 1) / pairs, zeros) for n in range(pairs)]
    values = [[float(renyi_divergence(*pair, order=float(order))) for order in orders] for pair in drawn]
    return {"order": orders, "value": np.array(values)}


@figure("Renyi divergence over its order for random pairs on five points, from nearly equal to far apart: it never "
        "falls, and is above zero at order 0 where p lacks a point that q has.", where="Theorem 3")  # fmt: skip
def over_the_order(rng: Rng, *, pairs: Annotated[int, Interval(ge=1, le=50)] = 8) -> Table:
    curves = simulate(rng, pairs=pairs, zeros=0.1)
    number, order = np.meshgrid(np.arange(pairs), curves["order"], indexing="ij")
    return {"pair": number.ravel(), "order": order.ravel(), "value": curves["value"].ravel()}


@over_the_order.draw
def _(table, axes):
    for number in np.unique(table["pair"]):
        chosen = (table["pair"] == number) & np.isfinite(table["value"])
        axes.plot(table["order"][chosen], table["value"][chosen])
    axes.axvline(1, color="0.7", lw=0.8)
    axes.set(xlabel="order (KL at 1)", ylabel="R(p || q), nats")
