"""What all f-divergences have in common: data processing, convexity, duality, and the identities of single families.

Liese and Vajda (doi:10.1109/TIT.2006.881731) treat D_f(p || q) = sum of q f(p / q), with f convex and f(1) = 0, as
one object. Here each general property is searched for a counterexample over every generator of ``porism.divergences``,
and the control is a divergence that is no f-divergence, or a formula with a usual slip. Where a result has a name,
``where`` is its name. The variational form is that of Nguyen, Wainwright and Jordan (arXiv:0809.0853).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from hypothesis import assume

from porism import Paper, Table, always, divergences, figure, validated
from porism.divergences import Generator, cauchy_schwarz_divergence, generator, kl_divergence
from porism_sims.random_distributions import channel, distribution
from porism_theory.mathematics._engine import Distance, Size, Spread, Zeros, draw, equal, ordered

PAPER = Paper(
    key="f_divergences",
    title="On Divergences and Informations in Statistics and Information Theory",
    authors=("Friedrich Liese", "Igor Vajda"),
    year=2006,
    ref="doi:10.1109/TIT.2006.881731",
    kinds=("simulator",),
    family="mathematics",
    needs=("torch",),
    tags=("f-divergence", "data processing", "variational bound"),
    method="simulate",
)

Rng = np.random.Generator
Near = Annotated[float, Interval(ge=1e-3, le=4)]
Inside = Annotated[float, Interval(ge=0.05, le=0.95)]
Name = Literal[
    "kl", "reverse_kl", "jeffreys", "js", "generalised_js", "skew_kl", "tv", "squared_hellinger", "pearson_chi2",
    "neyman_chi2", "alpha", "triangular",
]  # fmt: skip


def member(name: str, inside: float) -> Generator:
    """The generator of this name; ``inside`` in (0, 1) sets the weight or skew, or an alpha in (-2, 3)."""
    parameters = {"generalised_js": {"weight": inside}, "skew_kl": {"skew": inside}, "alpha": {"alpha": 5 * inside - 2}}
    return generator(name, **parameters.get(name, {}))


@always("No channel raises an f-divergence", where="data processing", control={"divergence": "cauchy_schwarz"})
def data_processing(
    rng: Rng, *, name: Name = "kl", inside: Inside = 0.3, size: Size = 4, outputs: Size = 2, spread: Spread = 1.0,
    distance: Distance = 1.0, zeros: Zeros = 0.0, divergence: Literal["f", "cauchy_schwarz"] = "f",
) -> float:  # fmt: skip
    """Random channels, with outputs that some inputs never give; the control is no f-divergence."""
    p, q = draw(rng, size, spread, distance, zeros)
    noisy = channel(rng, inputs=size, outputs=outputs, spread=2.0, zeros=zeros)
    d = member(name, inside).divergence if divergence == "f" else cauchy_schwarz_divergence
    after = [values / values.sum() for values in (p @ noisy, q @ noisy)]
    return ordered(d(*after), d(p, q))


@always("Splitting points in proportions that p and q share changes nothing", where="sufficiency",
        control={"divergence": "cauchy_schwarz"})  # fmt: skip
def sufficiency(
    rng: Rng, *, name: Name = "kl", inside: Inside = 0.3, size: Size = 4, distance: Near = 1.0, zeros: Zeros = 0.0,
    divergence: Literal["f", "cauchy_schwarz"] = "f",
) -> float:  # fmt: skip
    p, q = draw(rng, size, 1.0, distance, zeros)
    share = rng.uniform(0.05, 0.95, size)
    d = member(name, inside).divergence if divergence == "f" else cauchy_schwarz_divergence
    return equal(d(p, q), d(*(np.concatenate([x * share, x * (1 - share)]) for x in (p, q))))


@always("An f-divergence is convex in both arguments together", where="joint convexity", cap=300,
        control={"divergence": "cauchy_schwarz"})  # fmt: skip
def joint_convexity(
    rng: Rng, *, name: Name = "kl", inside: Inside = 0.3, size: Size = 3, spread: Spread = 10.0,
    distance: Distance = 3.0, zeros: Zeros = 0.0, divergence: Literal["f", "cauchy_schwarz"] = "f",
) -> float:  # fmt: skip
    (p, q), (r, s) = (draw(rng, size, spread, distance, zeros) for _ in range(2))
    share = rng.random()
    d = member(name, inside).divergence if divergence == "f" else cauchy_schwarz_divergence
    mixed = d(share * p + (1 - share) * r, share * q + (1 - share) * s)
    return ordered(mixed, share * d(p, q) + (1 - share) * d(r, s))


@always("D_f(q || p) is the divergence of t f(1 / t), and f and f + c(t - 1) have one divergence", where="duality",
        control={"swap": False})  # fmt: skip
def duality(rng: Rng, *, name: Name = "kl", inside: Inside = 0.3, size: Size = 4, distance: Near = 1.0,
            zeros: Zeros = 0.0, swap: bool = True) -> float:  # fmt: skip
    """The control compares D_f(q || p) with D_f(p || q), which agree for the symmetric ones only."""
    p, q = draw(rng, size, 1.0, distance, zeros)
    f = member(name, inside)
    return equal(f.divergence(q, p), (f.swapped() if swap else f).divergence(p, q))


@always("0 <= D_f <= f(0) + f'(inf), and disjoint supports attain it", where="range", control={"share": 0.9})
def range_of_values(
    rng: Rng, *, name: Name = "js", inside: Inside = 0.3, size: Size = 4, spread: Spread = 1.0,
    distance: Distance = 9.0, zeros: Zeros = 0.0, share: Annotated[float, Interval(gt=0, le=1)] = 1.0,
) -> float:  # fmt: skip
    p, q = draw(rng, size, spread, distance, zeros)
    f = member(name, inside)
    disjoint = f.divergence(np.concatenate([p, 0 * p]), np.concatenate([0 * q, q]))
    return min(ordered(0.0, f.divergence(p, q), share * f.bound), equal(disjoint, f.bound))


@always("D_f(q + d || q) is f''(1) / 2 sum d^2 / q up to third order", where="local", control={"factor": 1.1})
def local_behaviour(
    rng: Rng, *, name: Name = "kl", inside: Inside = 0.3, size: Size = 4,
    factor: Annotated[float, Interval(gt=0, le=2)] = 1.0,
) -> float:  # fmt: skip
    """At relative changes up to 0.001, within 1 %; total variation has no second derivative and is left out."""
    q = distribution(rng, size=size, spread=1.0)
    relative = rng.standard_normal(size)
    relative -= relative @ q
    relative *= 1e-3 / np.abs(relative).max()
    f = member("kl" if name == "tv" else name, inside)
    quadratic = factor * f.curvature / 2 * (relative**2 @ q)
    return 0.01 - abs(f.divergence(q * (1 + relative), q) / quadratic - 1)


@always("E_p T - E_q f*(T) <= D_f for every T, with equality at T = f'(p / q)", where="Nguyen et al., Lemma 1",
        control={"conjugate": "shifted"})  # fmt: skip
def variational_bound(
    rng: Rng, *, name: Name = "kl", inside: Inside = 0.3, size: Size = 4, distance: Near = 1.0, noise: Near = 0.1,
    conjugate: Literal["own", "shifted"] = "own",
) -> float:  # fmt: skip
    """T = f'(t) for a t that is p / q times log-normal noise; the control takes f* of f + 0.01 for that of f."""
    p, q = draw(rng, size, 1.0, distance)
    f, ratio = member(name, inside), p / q
    shift = 0.01 if conjugate == "shifted" else 0.0

    def bound(t: np.ndarray) -> float:
        critic = f.derivative(t)
        return float(p @ critic - q @ f.conjugate(critic) + shift)

    value = f.divergence(p, q)
    return min(ordered(bound(ratio * np.exp(noise * rng.standard_normal(size))), value), ordered(bound(ratio), value))


@always("The alpha family is 4 H2 at 1/2, chi2 / 2 at 2, tends to KL at 1 and to reverse KL at 0, and 1 - alpha for "
        "alpha swaps p and q", where="power divergences", control={"offset": 0.05})  # fmt: skip
def alpha_family(rng: Rng, *, size: Size = 4, distance: Near = 1.0, zeros: Zeros = 0.0,
                 alpha: Annotated[float, Interval(ge=-3, le=4)] = 0.3,
                 offset: Annotated[float, Interval(ge=0, le=1)] = 0.0) -> float:  # fmt: skip
    p, q = draw(rng, size, 1.0, distance, zeros)
    assume(zeros == 0 or min(abs(alpha), abs(1 - alpha)) > 1e-6)  # closer, 1 - alpha is rounded and a zero costs 1 / it
    d, tiny = divergences.alpha_divergence, 1e-9
    exact = {0.5: 4 * divergences.squared_hellinger(p, q), 2.0: divergences.pearson_chi2(p, q) / 2}
    limits = {1 - tiny: kl_divergence(p, q), tiny: kl_divergence(q, p)} if zeros == 0 else {}
    return min(
        equal(d(p, q, alpha=alpha), d(q, p, alpha=1 - alpha + offset)),
        *(equal(d(p, q, alpha=order + offset), value) for order, value in exact.items()),
        *(equal(d(p, q, alpha=order), value, tolerance=1e-6) for order, value in limits.items()),
    )


@always("KL - w chi2 <= JS_w / w <= KL for the generalised JS with weight w on p, so it tends to KL as w goes to 0",
        where="derived", control={"end": "far"})  # fmt: skip
def generalised_js_limits(rng: Rng, *, size: Size = 4, distance: Near = 1.0, zeros: Zeros = 0.0,
                          weight: Annotated[float, Interval(ge=1e-4, le=0.99)] = 1e-3,
                          end: Literal["near", "far"] = "near") -> float:  # fmt: skip
    """From log(1 + x) <= x under E_p, and as q is no better a centre than the mixture; the control takes 1 - w."""
    p, q = draw(rng, size, 1.0, distance, zeros)
    scaled = divergences.generalised_js_divergence(p, q, weight=weight if end == "near" else 1 - weight) / weight
    kl, chi2 = kl_divergence(p, q), divergences.pearson_chi2(p, q)
    return ordered(kl - weight * chi2 if np.isfinite(chi2) else 0.0, scaled, kl)


@always("The gradients at both logits are those of finite differences, and sum to zero", where="derived",
        control={"factor": 1.01})  # fmt: skip
def gradients_at_logits(rng: Rng, *, name: Name = "kl", inside: Inside = 0.3, size: Size = 4, distance: Near = 1.0,
                        factor: Annotated[float, Interval(gt=0, le=2)] = 1.0) -> float:  # fmt: skip
    """Central differences in float64 along a random direction; shifting all logits changes nothing."""
    import torch

    f, step = member(name, inside), 1e-5
    p, q, *along = torch.from_numpy(rng.standard_normal((4, size)) * np.array([[1], [distance], [1], [1]]))
    p.requires_grad_(), q.requires_grad_()
    gradients = torch.autograd.grad(f.divergence_logits(p, q), (p, q))
    with torch.no_grad():
        ends = [f.divergence_logits(*(x + s * v for x, v in zip((p, q), along, strict=True))) for s in (step, -step)]
    slope = factor * sum(float(g @ v) for g, v in zip(gradients, along, strict=True))
    shift = max(abs(float(g.sum() / g.abs().max())) for g in gradients)
    return min(equal(slope, (ends[0] - ends[1]) / (2 * step), tolerance=1e-5), ordered(shift, 0.0))


@validated
def simulate(rng: Rng, *, name: Name = "kl", inside: Inside = 0.3, size: Size = 5, outputs: Size = 3,
             pairs: Annotated[int, Interval(ge=1, le=10_000)] = 200) -> dict[str, np.ndarray]:  # fmt: skip
    """An f-divergence of random pairs before and after a random channel.

    Parameters
    ----------
    rng
        Draws pairs and channels.
    name, inside
        The generator, and its parameter where it has one: a weight, a skew, or alpha = 5 inside - 2.
    size, outputs
        Points before and after the channel.
    pairs
        How many.

    Returns
    -------
    dict of str to ndarray
        ``before`` and ``after``, shape (pairs,) each; after is never larger.

    Examples
    --------
    >>> seen = simulate(np.random.default_rng(0))
    >>> bool((seen["after"] <= seen["before"]).all())
    True
    """
    d, seen = member(name, inside).divergence, []
    for _ in range(pairs):
        p, q = draw(rng, size, 1.0, 1.0)
        noisy = channel(rng, inputs=size, outputs=outputs, spread=2.0)
        seen.append((d(p, q), d(p @ noisy, q @ noisy)))
    before, after = np.array(seen, dtype=float).T
    return {"before": before, "after": after}


@figure("The generators, each divided by f''(1) so that all agree near t = 1: what they charge for a p / q of t.",
        where="f-divergences")  # fmt: skip
def generators(rng: Rng, *, largest: Annotated[float, Interval(gt=1, le=100)] = 4.0) -> Table:
    t = np.linspace(0.02, largest, 300)
    names = ("kl", "reverse_kl", "js", "squared_hellinger", "pearson_chi2", "neyman_chi2", "triangular")
    members = [generator(name) for name in names]
    values = np.concatenate([f.f(t) / f.curvature for f in members])
    return {"name": np.repeat(names, len(t)), "t": np.tile(t, len(names)), "f": values}


@generators.draw
def _(table, axes):
    for name in dict.fromkeys(table["name"]):
        chosen = table["name"] == name
        axes.plot(table["t"][chosen], table["f"][chosen], label=str(name).replace("_", " "))
    axes.set(xlabel="t = p / q", ylabel="f(t) / f''(1)", ylim=(0, 3))
    axes.legend()
