"""Inequalities between f-divergences: which of them bound which, and how tightly.

Sason and Verdu (arXiv:1508.00335) collect and sharpen the inequalities between relative entropy, total variation,
chi-squared, Hellinger and Jensen-Shannon divergences. Here each is searched for a counterexample on random pairs of
distributions on up to 40 points, from nearly equal to almost disjoint, with and without points of mass zero. TV is in
[0, 1] (half the L1 distance), H2 in [0, 1], JS in [0, log 2], Delta (triangular) in [0, 2], all logarithms natural.
Where a result has a name, ``where`` is its name; constants are derived from the ratio of the generators' second
derivatives (``tests/mathematics/test_divergence_inequalities.py``). A control makes a constant better, or slips.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from scipy.special import entr

from porism import Paper, Table, always, figure
from porism.divergences import (
    generalised_js_divergence,
    js_divergence,
    kl_divergence,
    neyman_chi2,
    pearson_chi2,
    squared_hellinger,
    triangular_discrimination,
    tv_distance,
)
from porism_sims.random_distributions import simulate
from porism_theory.mathematics._engine import Distance, Size, Spread, Zeros, draw, ordered

PAPER = Paper(
    key="divergences",
    title="f-Divergence Inequalities",
    authors=("Igal Sason", "Sergio Verdú"),
    year=2016,
    ref="arXiv:1508.00335",
    kinds=("simulator",),
    family="mathematics",
    tags=("f-divergence", "total variation", "relative entropy", "Hellinger", "Jensen-Shannon"),
    method="simulate",
)

Rng = np.random.Generator
Constant = Annotated[float, Interval(gt=0, le=10)]
LOG2 = float(np.log(2))


@always("KL >= 2 TV^2", where="Pinsker", control={"constant": 2.1})
def pinsker(rng: Rng, *, size: Size = 2, spread: Spread = 0.0, distance: Distance = 0.1, zeros: Zeros = 0.0,
            constant: Constant = 2.0) -> float:  # fmt: skip
    """The constant is best: two equal masses, moved a little, come arbitrarily near."""
    p, q = draw(rng, size, spread, distance, zeros)
    return ordered(constant * tv_distance(p, q) ** 2, kl_divergence(p, q))


@always("TV <= sqrt(1 - exp(-KL)) <= 1 - exp(-KL) / 2", where="Bretagnolle-Huber", control={"half": False})
def bretagnolle_huber(rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 1.0, zeros: Zeros = 0.0,
                      half: bool = True) -> float:  # fmt: skip
    """Unlike Pinsker's it says something however large KL is; the control forgets to halve."""
    p, q = draw(rng, size, spread, distance, zeros)
    shrunk = np.exp(-kl_divergence(p, q))
    return ordered(tv_distance(p, q), np.sqrt(1 - shrunk), 1 - shrunk / 2 if half else 1 - shrunk)


@always("H2 <= TV <= sqrt(H2 (2 - H2))", where="Hellinger and TV", control={"total": 1.5})
def hellinger_and_tv(rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 1.0, zeros: Zeros = 0.0,
                     total: Constant = 2.0) -> float:  # fmt: skip
    p, q = draw(rng, size, spread, distance, zeros)
    hellinger = squared_hellinger(p, q)
    return ordered(hellinger, tv_distance(p, q), np.sqrt(hellinger * max(total - hellinger, 0)))


@always("2 H2 <= -2 log(1 - H2) <= KL <= log(1 + chi2) <= chi2", where="chain", control={"chi2": "neyman"})
def chain_from_hellinger_to_chi2(
    rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 1.0, zeros: Zeros = 0.0,
    chi2: Literal["pearson", "neyman"] = "pearson",
) -> float:  # fmt: skip
    """The control takes the chi-squared divergence of the other direction."""
    p, q = draw(rng, size, spread, distance, zeros)
    largest = (pearson_chi2 if chi2 == "pearson" else neyman_chi2)(p, q)
    hellinger = squared_hellinger(p, q)
    kl, affinity = kl_divergence(p, q), 1 - hellinger  # whose logarithm would magnify its rounding near H2 = 1
    renyi_half = -2 * np.log(affinity) if affinity > 0 else np.inf
    return min(
        ordered(2 * hellinger, renyi_half), ordered(np.exp(-kl / 2), affinity), ordered(kl, np.log1p(largest), largest)
    )


@always("Pearson's chi2 >= 4 TV^2", where="chi2 and TV", control={"constant": 4.2})
def chi2_and_tv(rng: Rng, *, size: Size = 2, spread: Spread = 0.0, distance: Distance = 0.1, zeros: Zeros = 0.0,
                constant: Constant = 4.0) -> float:  # fmt: skip
    p, q = draw(rng, size, spread, distance, zeros)
    return ordered(constant * tv_distance(p, q) ** 2, pearson_chi2(p, q))


@always("TV^2 / 2 <= JS <= TV log 2 <= log 2", where="JS and TV", control={"factor": 0.5})
def js_and_tv(rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 1.0, zeros: Zeros = 0.0,
              factor: Constant = 1.0) -> float:  # fmt: skip
    p, q = draw(rng, size, spread, distance, zeros)
    tv = tv_distance(p, q)
    return ordered(tv**2 / 2, js_divergence(p, q), factor * LOG2 * tv, LOG2)


@always("H2 log 2 <= JS <= H2", where="JS and Hellinger", control={"factor": 0.95})
def js_and_hellinger(rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 1.0, zeros: Zeros = 0.0,
                     factor: Constant = 1.0) -> float:  # fmt: skip
    p, q = draw(rng, size, spread, distance, zeros)
    hellinger = squared_hellinger(p, q)
    return ordered(LOG2 * hellinger, js_divergence(p, q), factor * hellinger)


@always("Delta / 4 <= JS <= Delta log(2) / 2", where="Topsoe", control={"divisor": 3.8})
def js_and_triangular(rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 1.0, zeros: Zeros = 0.0,
                      divisor: Constant = 4.0) -> float:  # fmt: skip
    p, q = draw(rng, size, spread, distance, zeros)
    triangular = triangular_discrimination(p, q)
    return ordered(triangular / divisor, js_divergence(p, q), LOG2 * triangular / 2)


@always("2 TV^2 <= Delta <= 2 TV, and 2 H2 <= Delta <= 4 H2", where="Le Cam", control={"factor": 3.8})
def triangular_and_others(rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 1.0,
                          zeros: Zeros = 0.0, factor: Constant = 4.0) -> float:  # fmt: skip
    p, q = draw(rng, size, spread, distance, zeros)
    tv, hellinger, triangular = tv_distance(p, q), squared_hellinger(p, q), triangular_discrimination(p, q)
    return min(ordered(2 * tv**2, triangular, 2 * tv), ordered(2 * hellinger, triangular, factor * hellinger))


@always("JS <= (KL + reverse KL) / 8", where="derived", control={"divisor": 8.4})
def js_and_jeffreys(rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 0.1, zeros: Zeros = 0.0,
                    divisor: Constant = 8.0) -> float:  # fmt: skip
    """Twice as sharp as convexity gives: the ratio of second derivatives t / (2 (1 + t)^2) is at most 1/8."""
    p, q = draw(rng, size, spread, distance, zeros)
    return ordered(js_divergence(p, q), (kl_divergence(p, q) + kl_divergence(q, p)) / divisor)


@always("Generalised JS with weight w is at most h(w) TV", where="derived", control={"factor": 0.9})
def generalised_js_and_tv(
    rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 30.0, zeros: Zeros = 0.5,
    weight: Annotated[float, Interval(ge=0.01, le=0.99)] = 0.5, factor: Constant = 1.0,
) -> float:  # fmt: skip
    """h is the binary entropy; equality where the supports are disjoint."""
    p, q = draw(rng, size, spread, distance, zeros)
    bound = factor * (entr(weight) + entr(1 - weight)) * tv_distance(p, q)
    return ordered(generalised_js_divergence(p, q, weight=weight), bound)


@always("Pearson's chi2 <= 2 TV^2 / min q, so KL <= log(1 + 2 TV^2 / min q)", where="reverse Pinsker",
        control={"factor": 1.0})  # fmt: skip
def reverse_pinsker(rng: Rng, *, size: Size = 2, spread: Annotated[float, Interval(ge=0, le=10)] = 1.0,
                    distance: Distance = 1.0, factor: Constant = 2.0) -> float:  # fmt: skip
    """With two points the first is an equality for equal masses; it says little once a mass of q is tiny."""
    p, q = draw(rng, size, spread, distance)
    bound = factor * tv_distance(p, q) ** 2 / q.min()
    return min(ordered(pearson_chi2(p, q), bound), ordered(kl_divergence(p, q), np.log1p(bound)))


METRICS = {
    "root_js": lambda p, q: np.sqrt(js_divergence(p, q)),
    "hellinger": lambda p, q: np.sqrt(squared_hellinger(p, q)),
    "tv": tv_distance,
    "root_triangular": lambda p, q: np.sqrt(triangular_discrimination(p, q)),
}


@always("The roots of JS, H2 and Delta, and TV, are metrics", where="Endres-Schindelin", control={"power": 2})
def roots_are_metrics(
    rng: Rng, *, size: Size = 4, spread: Spread = 1.0, distance: Distance = 1.0, zeros: Zeros = 0.0,
    name: Literal["root_js", "hellinger", "tv", "root_triangular"] = "root_js", power: Literal[1, 2] = 1,
) -> float:  # fmt: skip
    """Triangle inequality and symmetry for three distributions; the control leaves the root out (squares TV)."""
    p, q = draw(rng, size, spread, distance, zeros)
    middle = (p + q) / 2 if rng.random() < 0.5 else draw(rng, size, spread, distance, zeros).p
    d = METRICS[name]
    way_around = d(p, middle) ** power + d(middle, q) ** power
    return min(ordered(d(p, q) ** power, way_around), ordered(abs(d(p, q) - d(q, p)), 0.0))


@figure("Random pairs on 2 to 5 points (dots) and the inequalities that bound them (lines). Left: Pinsker is sharp for "
        "small KL, Bretagnolle-Huber for large. Middle: H2 and TV. Right: JS lies between TV^2 / 2 and TV log 2.",
        where="divergence inequalities")  # fmt: skip
def joint_ranges(rng: Rng, *, pairs: Annotated[int, Interval(ge=10, le=10_000)] = 400) -> Table:
    shapes = list(itertools.product((2, 3, 5), (0.0, 2.0), (2.0, 12.0)))
    each = pairs // 10
    clouds = [simulate(rng, size=size, spread=spread, distance=far, pairs=each) for size, spread, far in shapes]
    columns = ("tv", "kl", "squared_hellinger", "js")
    table = {name: np.concatenate([cloud[name] for cloud in clouds]) for name in columns}
    return {"size": np.repeat([shape[0] for shape in shapes], each), **table}


@joint_ranges.draw
def _(table, left, middle, right):
    tv = np.linspace(0, 1, 400)[:-1]
    panels = (
        (left, "kl", "tv", "KL", "TV"),
        (middle, "squared_hellinger", "tv", "H2", "TV"),
        (right, "tv", "js", "TV", "JS"),
    )
    for axes, x, y, x_label, y_label in panels:
        for size in (5, 3, 2):
            chosen = table["size"] == size
            axes.plot(table[x][chosen], table[y][chosen], ".", ms=3, label=f"{size} points")
        axes.set(xlabel=x_label, ylabel=y_label)
    kl = np.linspace(0, 5, 400)
    left.plot(kl, np.minimum(1, np.sqrt(kl / 2)), "k-", label="Pinsker")
    left.plot(kl, np.sqrt(1 - np.exp(-kl)), "k--", label="Bretagnolle-Huber")
    left.set(xlim=(0, 5))
    middle.plot(tv, tv, "k-", label="H2 = TV")
    middle.plot(tv, np.sqrt(tv * (2 - tv)), "k--", label="TV^2 = H2 (2 - H2)")
    right.plot(tv, tv * LOG2, "k-", label="JS = TV log 2")
    right.plot(tv, tv**2 / 2, "k--", label="JS = TV^2 / 2")
    for axes in (left, middle, right):
        axes.legend(fontsize="small")
