"""Mirror descent for policies against the worst transitions in a rectangular uncertainty set (arXiv:2209.10579).

RPMD moves the policy of every state by a mirror step along its robust state-action values; with steps that grow
geometrically the gap shrinks linearly, and with estimated values (SRPMD, robust temporal differences) it does so up to
the noise. The abstract was seen, the paper was not: what is claimed here is derived or a measurement. The theorem's M
and M' are suprema over all kernels of the set; both are robust values of indicator costs and are computed exactly
(``_engine.py``). Of the rate for constant steps only the order is remembered; it is drawn and not claimed.

*What the checks find.* The potential contracts as derived, and steps that grow by the factor M' / rate are nearly what
that takes: from its power 0.95 down some problems break it. The bound on the gap is loose all the same. It grants
hundreds to thousands of iterations where three to eight do, since steps growing by M' (3 to 150 here) are policy
iteration in effect. The noise floor goes with the square of the noise, four orders below the theorem's at 0.1. On the
grid with a cliff the robust plan pays from radius 0.04 on where nature keeps to the nominal successors (claimed from
0.1); where it may send the walker anywhere, which no path is safe from, only from 0.16 on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval

from porism import Paper, Table, always, figure, proved, typically
from porism_sims.robust_mdp.environments import gridworld
from porism_sims.robust_mdp.mirror_descent import Geometry, Schedule, exact, gaussian_noise, simulate  # noqa: F401
from porism_sims.robust_mdp.uncertainty import Kind, Support, Uncertainty
from porism_theory.planning import _rpmd_figures as figures
from porism_theory.planning import _rpmd_margins as margins
from porism_theory.planning._engine import Game, game, nominal_values
from porism_theory.planning._rpmd_margins import Q

PAPER = Paper(
    key="rpmd",
    title="First-order Policy Optimization for Robust Markov Decision Process",
    authors=("Yan Li", "Guanghui Lan", "Tuo Zhao"),
    year=2022,
    ref="arXiv:2209.10579",
    kinds=("simulator",),
    family="planning",
    needs=("theory",),
    tags=("robust MDP", "policy gradient", "mirror descent", "temporal differences"),
    method="simulate",
)

Rng = np.random.Generator
Scale = Literal["quick", "paper"]
Share = Annotated[float, Interval(ge=0, le=1)]
Discount = Annotated[float, Interval(ge=0.1, le=0.99)]
Step = Annotated[float, Interval(ge=0.1, le=100)]
Positive = Annotated[float, Interval(ge=0.01, le=10)]
Amount = Annotated[float, Interval(ge=0, le=100)]
Ratio = Annotated[float, Interval(ge=1, le=1000)]


@proved("On two points the duals of TV, chi-squared and KL attain their sets", where="derived", control={"factor": 2})
def two_point_duals(
    *, odds: Positive = 1.0, tilt: Positive = 1.0, least: Amount = 0.0, width: Positive = 1.0, factor: Literal[1, 2] = 1
) -> Any:
    """At the radii of one distribution all three give its mean; the control takes the L1 radius for TV."""
    return margins.two_point_duals(odds, tilt, least, width, factor)


@proved("Steps that grow by M' / rate make the potential telescope", where="derived", control={"counts": False})
def potential_telescopes(
    *, gap: Amount = 1.0, distance: Amount = 1.0, left: Amount = 0.5, step: Step = 1.0, discount: Discount = 0.9,
    mismatch: Ratio = 10.0, change: Ratio = 30.0, counts: bool = True,
) -> Any:  # fmt: skip
    """The control forgets that M' pays for the next visitation."""
    return margins.telescoped(gap, distance, left, step, discount, mismatch, change, counts)


@always("Every set's worst distribution is inside and attains the dual; worst means are coherent", where="derived",
        control={"factor": 0.5}, beyond={"radius": Interval(ge=0, le=3)})  # fmt: skip
def worst_distributions_are_exact(
    rng: Rng, *, kind: Kind = "tv", support: Support = "full", radius: Share = 0.2,
    size: Annotated[int, Interval(ge=2, le=8)] = 5, factor: Annotated[float, Interval(ge=0.5, le=1)] = 1.0,
) -> float:  # fmt: skip
    """Duals to 1e-8 of the values' range (1e-6 for chi-squared and KL); the control halves the dual's radius."""
    nature = Uncertainty(kind, radius, support)
    return min(margins.inner_margin(rng, nature, size, factor), margins.coherence_margin(rng, nature, size))


@always("TV costs at least what contamination, KL 2 r^2 and chi2 4 r^2 do", where="derived", control={"constant": 4})
def matched_sets_are_nested(rng: Rng, *, radius: Share = 0.2, constant: Literal[1, 4] = 1) -> float:
    """By Pinsker and Cauchy-Schwarz; the control takes four times these radii."""
    return margins.nesting_margin(rng, radius, constant)


@always("The robust Bellman operator contracts in the sup norm", where="derived", control={"norm": "euclidean"},
        beyond={"discount": Interval(ge=0, le=1.5), "radius": Interval(ge=0, le=2)})  # fmt: skip
def operator_contracts(
    rng: Rng, *, discount: Annotated[float, Interval(ge=0, lt=1)] = 0.9, radius: Share = 0.2,
    norm: Literal["sup", "euclidean"] = "sup",
) -> float:  # fmt: skip
    """Contamination, written out; it should stop where ``discount max(1, 2 radius - 1) = 1``."""
    return 1 + 1e-12 - margins.contraction_ratio(rng, discount, radius, norm=np.inf if norm == "sup" else 2)


@always("Robust Q and worst visitations bound changes of value and give the gradient", where="derived",
        control={"q": "nominal"})  # fmt: skip
def worst_kernels_give_the_gradient(
    rng: Rng, *, kind: Kind = "tv", radius: Share = 0.2, discount: Discount = 0.9, q: Q = "robust"
) -> float:
    """Gradient against central differences; the control visits states by the nominal kernel."""
    return margins.derivative_margin(rng, game(rng, kind, radius, discount=discount), q)


@always("No iteration raises the robust value of any state", where="derived", control={"q": "nominal"})
def values_never_rise(
    rng: Rng, *, kind: Kind = "tv", geometry: Geometry = "kl", radius: Share = 0.2, step: Step = 1.0, q: Q = "robust"
) -> float:
    """To 1e-10, in 12 iterations; the control steps along the nominal values."""
    return 1e-10 - margins.largest_rise(game(rng, kind, radius), geometry, step, q)


@always("A step along Q with errors e raises no state's value by more than step e^2 / (4 (1 - discount))",
        where="derived", control={"allowed": False}, beyond={"noise_share": Interval(ge=0, le=30)})  # fmt: skip
def noisy_steps_raise_little(
    rng: Rng, *, geometry: Geometry = "kl", step: Step = 1.0, noise_share: Share = 0.5, allowed: bool = True
) -> float:
    """The error, of ``noise_share`` times the size allowed for, works against the values."""
    noise = rng.uniform(0.01, 1)
    rise = margins.rise_after_noise(rng, game(rng, "tv", 0.2), geometry, step, noise_share * noise)
    return 1e-9 + (10 * step * noise**2 / 4 if allowed else 0) - rise


@always("With steps growing by M' / rate or faster the potential contracts by the rate, 1 - (1 - discount) / M",
        where="abstract: linear convergence", control={"q": "nominal"},
        beyond={"power": Interval(ge=-1, le=4)})  # fmt: skip
def potential_contracts(
    rng: Rng, *, kind: Kind = "tv", geometry: Geometry = "kl", radius: Share = 0.2, discount: Discount = 0.9,
    power: Annotated[float, Interval(ge=1, le=2)] = 1.5, q: Q = "robust",
) -> float:  # fmt: skip
    """Steps grow by the theorem's factor to this power, so constant ones have power 0; M and M' are exact."""
    played = game(rng, kind, radius, discount=discount)
    return margins.potential_margin(played, geometry, power, exact if q == "robust" else nominal_values(played))


@always("With Q off by e the potential contracts by the rate up to 2 e / (1 - discount)",
        where="abstract: up to the noise level", control={"counted": False})  # fmt: skip
def potential_contracts_up_to_noise(
    rng: Rng, *, kind: Kind = "tv", geometry: Geometry = "kl", discount: Discount = 0.9, noise: Share = 0.1,
    counted: bool = True,
) -> float:  # fmt: skip
    """In the limit a gap of ``2 M e / (1 - discount)^2``; the control forgets the errors, which are normal."""
    played = game(rng, kind, 0.2, discount=discount)
    return margins.potential_margin(played, geometry, 1.0, gaussian_noise(rng, noise), counted=counted)


@always("At worst robust plans cost no more, nominally no less", where="abstract", control={"plans": "swapped"})
def robust_plans_pay(
    rng: Rng, *, kind: Kind = "tv", radius: Share = 0.2, plans: Literal["own", "swapped"] = "own"
) -> float:
    """To 1e-9, against the plan for the nominal process."""
    nominal, robust = margins.prices(game(rng, kind, radius))[:: 1 if plans == "own" else -1]
    return 1e-9 + min(nominal[1] - robust[1], robust[0] - nominal[0])


@always("Along a cliff the robust plan is strictly better at worst, from radius 0.1 on", where="derived",
        control={"slip": 0.0}, beyond={"radius": Interval(ge=0, le=1)})  # fmt: skip
def robust_plans_keep_off_the_cliff(
    rng: Rng, *, radius: Annotated[float, Interval(ge=0.1, le=1)] = 0.3, slip: Share = 0.1
) -> float:
    """TV on the nominal successors of the 4 x 4 grid; without slip nature has no choice."""
    nominal, robust = margins.prices(Game(*gridworld(slip=slip), Uncertainty("tv", radius, "nominal")))
    return nominal[1] - robust[1]


@typically("After 59 geometric steps the gap is below 1e-4 and a hundredth of that of constant ones",
           where="abstract: linear convergence", control={"schedule": "constant"},
           scale="Garnet 30/5/4, TV 0.2, discount 0.9, growth 1 / discount; the worse of KL and Euclid, powers of ten",
           )  # fmt: skip
def geometric_steps_beat_constant_ones(rng: Rng, *, schedule: Schedule = "geometric") -> float:
    """In one problem of five constant Euclidean steps end at the optimum too, and then this fails."""
    return margins.schedule_margin(rng, schedule)


@typically("The noise floor rises like a power of the noise between 1 and 3.5, from below 1e-4",
           where="abstract: up to the noise level", control={"shared": True},
           scale="means over 10 Garnets 30/5/4, TV 0.2, KL, last 10 of 60 iterates; noise 0, 0.01, 0.03, 0.1",
           )  # fmt: skip
def noise_floor_rises_with_noise(rng: Rng, *, shared: bool = False) -> float:
    """The control gives all actions of a state the same error, which mirror descent does not see."""
    return margins.floor_margin(rng, 10, shared=shared)


@typically("The error of robust temporal differences falls like the root of the number of samples",
           where="abstract: sample complexity", control={"learned_radius": 0.0},
           scale="Garnet 10/3/4, contamination 0.15, discount 0.8, 3e3 to 1e5 samples, 10 runs; slope -0.5 +- 0.15",
           )  # fmt: skip
def robust_td_has_the_root_rate(rng: Rng, *, learned_radius: Share = 0.15) -> float:
    """The control leaves nature out of the backups."""
    return margins.learning_margin(rng, learned_radius)


@figure(
    "Gaps for three schedules and the theorem's own, with its bound; medians, quartiles (TV 0.2).", where="abstract"
)
def convergence(rng: Rng, *, scale: Scale = "quick") -> Table:
    """Geometric steps grow by 1 / discount, the theorem's by M' / rate; the latter are policy iteration in effect."""
    return figures.convergence(rng, problems=5 if scale == "quick" else 50)


@figure("Median gaps for four radii of a TV set, steps growing by 1 / discount (Garnet 30/5/4).", where="abstract")
def radii(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.radii(rng, problems=5 if scale == "quick" else 50)


@figure("The theorem's constants; iterations to a gap of 1e-6 that it grants and that KL steps take.", where="derived")
def certificates(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.certificates(rng, problems=4 if scale == "quick" else 40)


@figure("SRPMD: gap against samples of robust TD (left), and against noise in Q, +-2 s.e. (right).", where="abstract")
def noise_levels(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.noise_levels(rng, runs=4 if scale == "quick" else 40)


@figure("Cost of the nominal and of the robust plan when nothing and when the worst happens (TV).", where="abstract")
def price_of_robustness(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.price(points=21 if scale == "quick" else 101)


@figure("Comparisons in the sort of one inner problem, +-2 s.e.; all else is a few passes.", where="derived")
def inner_work(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.inner_work(rng, rows=10 if scale == "quick" else 200)


@figure("Sets inside one TV ball: what they add to the optimal cost, and gaps at radius 0.2.", where="derived")
def matched_sets(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.matched_sets(rng, problems=4 if scale == "quick" else 40)


@figure("A kink where the worst kernel flips: the objective of a two-state problem; dots: evaluated.", where="derived")
def kink(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.kink(points=41 if scale == "quick" else 401)


convergence.draw(figures.draw_convergence)
radii.draw(figures.draw_radii)
certificates.draw(figures.draw_certificates)
noise_levels.draw(figures.draw_noise_levels)
price_of_robustness.draw(figures.draw_price)
inner_work.draw(figures.draw_inner_work)
matched_sets.draw(figures.draw_matched_sets)
kink.draw(figures.draw_kink)
