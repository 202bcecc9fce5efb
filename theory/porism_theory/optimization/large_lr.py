"""Large steps of gradient descent: edge of stability, balancing and catapult, and which losses show them.

The paper (arXiv:2310.17087) proves that gradient descent on losses such as F(x y) converges for steps far beyond the
classical bound if F has good regularity, and that the three effects are one. Only the abstract was seen: "degree of
regularity" is here the exponent with which F grows, and the coefficient chi of the flip on the edge; the authors'
definition, constants and rates may differ. What is marked derived is so in ``_engine.py``, or in its tests.

*What the checks find*: the square's bound h (u + 4 |s*|) < 4 breaks 6 % beyond 4. The step of the 2-cycle continues it
to other degrees, a conjecture of ours that holds for 1.75 to 3; at 1.5 it is 2 % too long.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval

from porism import Paper, Table, always, figure, proved, typically
from porism_sims.large_steps.factorised import simulate as simulate
from porism_theory.optimization import _engine as theory
from porism_theory.optimization import _large_lr_experiments as measure
from porism_theory.optimization import _large_lr_figures as figures

PAPER = Paper(
    key="large_lr",
    title="Good regularity creates large learning rate implicit biases: edge of stability, balancing, and catapult",
    authors=("Yuqing Wang", "Zhenghao Xu", "Tuo Zhao", "Molei Tao"),
    year=2023,
    ref="arXiv:2310.17087",
    kinds=("simulator",),
    family="optimization",
    needs=("theory", "torch"),
    tags=("learning rate", "edge of stability", "implicit bias", "sharpness"),
    method="simulate",
)

Rng = np.random.Generator
Sign, Order = Literal[-1, 1], Literal[1, 2]
Real = Annotated[float, Interval(ge=-5, le=5)]
Positive = Annotated[float, Interval(ge=0.1, le=5)]
Degree = Annotated[float, Interval(ge=1, le=4)]
Tame = Annotated[float, Interval(ge=1, le=2.5)]
Good = Annotated[float, Interval(ge=1, le=2)]
Small = Annotated[float, Interval(ge=0.02, le=0.1)]


@proved("A step multiplies D by 1 - h^2 g^2 and x +- y by 1 -+ h g", where="derived", control={"order": 1})
def one_step_identities(*, x: Real = 2.0, y: Real = 0.5, pull: Real = 0.3, order: Order = 2) -> Any:
    """Balancing is exact, and due to steps that are finite. ``pull`` is h F'(x y)."""
    return theory.one_step_identities(x, y, pull, order)


@proved("At a minimum the Hessian has eigenvalues 0 and k u >= 2 k |s|", where="derived", control={"slope": 1})
def curvature_of_minima(*, x: Real = 2.0, y: Real = 0.5, k: Positive = 1.0, slope: Literal[0, 1] = 0) -> Any:
    return theory.curvature_of_minima(x, y, k, slope)


@proved("Two steps on the edge take e to e - 2 chi e^3", where="derived", control={"spread": 0}, cap=25)
def flip_coefficient(*, k: Positive = 1.0, third: Real = 0.0, fourth: Real = -3.0, s: Positive = 1.0, h: Small = 0.05,
                     spread: Literal[0, 1] = 1) -> Any:  # fmt: skip
    """A small stable 2-cycle, e^2 = mu / chi, if chi > 0. The control forgets that u changes with s."""
    return theory.two_steps_on_the_edge(k, third, fourth, s, h, spread)


@proved("The drift along the edge ends at mu = -h^2 k^2 / chi, for the square loss at -mu", where="derived",
        control={"sign": -1})  # fmt: skip
def slow_drift(*, mu: Real = 0.1, chi: Positive = 1.0, rate: Positive = 0.1, constant: Positive = 1.0,
               sign: Sign = 1) -> Any:  # fmt: skip
    """mu is h k u - 2. To second order the square loss keeps E + mu^2/2 + mu^3/3, and ends at -mu - 2/3 mu^2."""
    return theory.slow_drift(mu, chi, rate, constant, sign)


@proved("Where F is even about s* it has a 2-cycle with h |F'| = sqrt 2 at u = sqrt 2 (2 e +- s*)", where="derived",
        control={"root": 1})  # fmt: skip
def two_cycles(*, e: Positive = 5.0, s: Positive = 1.0, root: Order = 2) -> Any:
    """So no convergence theorem for the square loss reaches beyond h (u + sqrt 2 |s*|) = 4."""
    return theory.two_cycle(e, s, root)


@always("Two simulated steps on the edge have the derived chi, to 0.1 % of its terms", where="derived",
        control={"sign": -1})  # fmt: skip
def simulated_flip(rng: Rng, *, family: measure.Family = "power", degree: Tame = 1.0, h: Small = 0.05, sign: Sign = 1,
                   minimiser: Annotated[float, Interval(ge=0.5, le=2)] = 1.0) -> float:  # fmt: skip
    """Relative to a^2 + |b|, as chi = a^2 + b may vanish; for powers it is 2 - degree + 2 h^4 s*^2."""
    return 1e-3 - measure.coefficient_error(family, degree, minimiser, h, sign)


@always("While h |F'| <= sqrt 2 no step raises |D|, while it is below 1 none turns its sign", where="derived",
        control={"quantity": "squared_norm"}, beyond={"slope": Interval(gt=0, le=3)})  # fmt: skip
def imbalance_never_grows(rng: Rng, *, slope: Annotated[float, Interval(gt=0, le=2**0.5)] = 1.0,
                          quantity: Literal["imbalance", "squared_norm"] = "imbalance") -> float:  # fmt: skip
    """On Huber's loss; ``slope`` is h times the largest slope there is."""
    return 1e-12 - measure.worst_growth(rng, slope=slope, quantity=quantity)


@always("Units of loss and length, a common sign and the weights' order change nothing", where="derived",
        control={"exponent": 1})  # fmt: skip
def units_change_nothing(rng: Rng, *, degree: Good = 1.0, height: Positive = 3.0, width: Positive = 0.3,
                         exponent: Order = 2) -> float:  # fmt: skip
    return 1e-9 - measure.change_of_units(rng, degree=degree, height=height, width=width, exponent=exponent)


@always("A step h lowers the loss by h (1 - h L/2) |gradient|^2 at least: D drifts by O(h) only", where="derived",
        control={"along": False}, beyond={"step_ratio": Interval(ge=0.01, le=6)})  # fmt: skip
def small_steps_descend(rng: Rng, *, step_ratio: Annotated[float, Interval(ge=0.01, le=2)] = 1.0, degree: Degree = 1.0,
                        along: bool = True) -> float:  # fmt: skip
    """``step_ratio`` is h L, L the largest sharpness along the step. |gradient|^2 = g^2 u, so h^2 g^2 sums to O(h)."""
    return 1e-9 + measure.descent_margin(rng, degree=degree, step_ratio=step_ratio, along=along)


@always("A minimum holds gradient descent nearby while h k u < 2", where="derived", control={"times": 2},
        beyond={"step_ratio": Interval(ge=0.05, le=4)})  # fmt: skip
def flat_minima_hold(rng: Rng, *, step_ratio: Annotated[float, Interval(ge=0.05, lt=2)] = 1.5, degree: Degree = 1.0,
                     u: Annotated[float, Interval(ge=2.01, le=40)] = 10.0, times: Order = 1) -> float:  # fmt: skip
    return 1e-5 + 1 - measure.distance_kept(rng, degree=degree, step_ratio=times * step_ratio, squared_norm=u)


@always("Every limit has h k u <= 2, so that nothing comes to rest if h k |s*| > 1", where="derived",
        control={"edge": 1})  # fmt: skip
def limits_are_stable(rng: Rng, *, flat_ratio: Annotated[float, Interval(ge=0.05, le=2)] = 0.5, degree: Tame = 1.0,
                      minimiser: Positive = 1.0, edge: Order = 2) -> float:  # fmt: skip
    """``flat_ratio`` is h k |s*|; where it exceeds 1 every limit would break the bound."""
    return edge + 1e-4 - measure.sharpest_limit(rng, degree=degree, minimiser=minimiser, flat_ratio=flat_ratio)


@always("From far starts it converges if the degree is at most 2 and h (u + 4 |s*|) < 4", where="abstract",
        control={"worse_by": 1},
        beyond={"step_ratio": Interval(ge=0.5, le=12), "degree": Interval(ge=1, le=4)})  # fmt: skip
def good_regularity_converges(rng: Rng, *, step_ratio: Annotated[float, Interval(ge=0.5, lt=4)] = 3.0,
                              degree: Good = 2.0, worse_by: Literal[0, 1] = 0) -> float:  # fmt: skip
    """64 starts, u in (20, 40). The square's bound is of the predecessor, arXiv:2110.03677; control: a worse degree."""
    return 1 / 128 - measure.lost_share(rng, degree=degree + worse_by, step_share=step_ratio / 4, law="4 / L")


@always("From far starts it converges below the 2-cycle's step, sqrt 2 (sqrt 8 / (u + 4 |s*|))^(degree - 1)",
        where="derived", control={"law": "4 / L"},
        beyond={"step_share": Interval(ge=0.2, le=3), "degree": Interval(ge=1, le=4)})  # fmt: skip
def two_cycle_is_the_edge(rng: Rng, *, step_share: Annotated[float, Interval(ge=0.2, lt=1)] = 0.8,
                          degree: Annotated[float, Interval(ge=1.75, le=3)] = 2.0,
                          law: Literal["2-cycle", "4 / L"] = "2-cycle") -> float:  # fmt: skip
    """Conjectured from the 2-cycle and the square's theorem. ``step_share``: of that step; 64 starts, u in (20, 40)."""
    return 1 / 128 - measure.lost_share(rng, degree=degree, step_share=step_share, law=law)


@always("From beside a minimum the square loss is catapulted to (c - 2)^2 / (4 h^2) and ends at h S = 4 - c",
        where="derived", control={"law": "edge"}, beyond={"step_ratio": Interval(ge=2.01, le=3.9)})  # fmt: skip
def square_loss_mirrors(rng: Rng, *, step_ratio: Annotated[float, Interval(ge=2.01, le=2.1)] = 2.05,
                        step_size: Annotated[float, Interval(ge=0.002, le=0.02)] = 0.01,
                        law: Literal["mirror", "edge"] = "mirror") -> float:  # fmt: skip
    """To 0.01 and to 10 %: the second order is 2/3 (c - 2)^2 below, and 2/3 (c - 2) of the height above."""
    end, height = measure.mirror_errors(rng, step_ratio=step_ratio, step_size=step_size, law=law)
    return min(0.01 - end, (0.1 - height) / 10)


@typically("Above the edge h S ends at 2 - h^2 k^2 / chi: six losses, each within its tolerance", where="derived",
           control={"large": False}, scale="h k = 0.05, c in (2.2, 2.5), two starts each")  # fmt: skip
def deficit_law(rng: Rng, *, large: bool = True) -> float:
    """1.5 % for degrees 1, 1.25 and 1.5, 4 % for 1.75, 0.5 % for log cosh, 0.1 % for tanh; the control starts below."""
    return float(1 - measure.deficit_errors(rng, low=2.2 if large else 1.0, high=2.5 if large else 1.5).max())


@typically("At c = 3 degrees to 2 converge, 2.25 and 2.5 do not; at c = 6 neither does 2", where="abstract",
           control={"spread": 0}, at_least=9.0, scale="ten settings, 30 far starts each, u in (20, 80)")  # fmt: skip
def degree_decides(rng: Rng, *, spread: Literal[0, 1] = 1) -> float:
    """How many of ten settings do so; of degree 2.25 a tenth may converge at c = 3. The control gives all degree 2."""
    return measure.regimes_as_expected(rng, spread=spread)


@typically("Above the edge |D| shrinks to 2 / c of its start, the square's to 0.1 to 0.5", where="abstract",
           control={"large": False}, scale="8 starts by minima, c in (2.1, 8); 600 far, c in (2, 3.9)")  # fmt: skip
def large_steps_balance(rng: Rng, *, large: bool = True) -> float:
    """2 / c to 2 % for degrees 1 and 1.5; the square's median from far starts, whose limits are flatter than 2 / h."""
    error = measure.balance_error(rng, low=2.1 if large else 0.5, high=8.0 if large else 1.9)
    balance, ratio = measure.far_ends(rng, low=2.0 if large else 0.5, high=3.9 if large else 1.9)
    return float(min(0.02 - error, 0.2 - abs(np.median(balance) - 0.3), 2 - ratio.max()))


@typically("Pseudo-Huber networks with steps of 2.5 / S_0 end at the edge, |h S - 2| <= 0.05", where="abstract",
           control={"degree": 2}, scale="the worst of 3 tanh networks 3-20-1, 10 points, 6000 steps")  # fmt: skip
def tame_networks_end_at_the_edge(rng: Rng, *, degree: Order = 1) -> float:
    return 0.05 - float(np.abs(measure.wave_networks(rng, [(degree, 2.5)], seeds=3, steps=6000).last - 2).max())


@typically("Square-loss networks with steps of 2.5 / S_0 end below the edge, h S in [1.5, 1.95]", where="abstract",
           control={"degree": 1}, scale="the median of 7 tanh networks 3-20-1, 10 points, 6000 steps")  # fmt: skip
def square_networks_end_below(rng: Rng, *, degree: Order = 2) -> float:
    median = np.median(measure.wave_networks(rng, [(degree, 2.5)], seeds=7, steps=6000).last)
    return float(min(median - 1.5, 1.95 - median))


@typically("With steps of 4 / S_0 square-loss networks diverge, pseudo-Huber ones do not", where="abstract",
           at_least=0.9, control={"step_ratio": 1.0}, scale="shares of 5, 3-20-1, 10 points, 6000 steps")  # fmt: skip
def loss_decides_divergence(rng: Rng, *, step_ratio: Annotated[float, Interval(ge=0.5, le=10)] = 4.0) -> float:
    trained = measure.wave_networks(rng, [(1, step_ratio), (2, step_ratio)], seeds=5, steps=6000)
    tame, square = trained.history.diverged.reshape(2, 5).mean(axis=1)
    return float(square - tame)


@typically("ReLU networks balance: with steps of 2.5 / S_0 they lose a tenth of their imbalance", where="abstract",
           control={"step_ratio": 0.5}, at_least=0.1, scale="the mean of 3, 3-20-1, 10 points, 2000 steps")  # fmt: skip
def networks_balance(rng: Rng, *, step_ratio: Annotated[float, Interval(ge=0.1, le=4)] = 2.5) -> float:
    """Square loss; gradient flow would keep it."""
    return 1 - float(measure.relu_imbalance(rng, [step_ratio], seeds=3).mean())


@typically("Batch-normalised linear networks with steps of 3 / S_0 end with |h S - 2| <= 0.05", where="abstract",
           control={"normalisation": "none"}, scale="the worst of 3, 16-32-32-1, 60 points, 600 steps")  # fmt: skip
def normalisation_brings_the_edge(rng: Rng, *, normalisation: Literal["none", "batch"] = "batch") -> float:
    trained = measure.deep_networks(rng, normalisation=normalisation, step_ratio=3.0, seeds=3, steps=600)
    return 0.05 - float(np.abs(trained.last - 2).max())


@figure("Step size times sharpness, and loss, from one start above the edge", where="abstract")
def traces(rng: Rng, *, scale: figures.Scale = "quick") -> Table:
    return figures.traces(rng, scale)


@figure("Where h S, D and the largest loss end up, against h S at first; h = 0.1; lines: laws", where="derived")
def landings(rng: Rng, *, scale: figures.Scale = "quick") -> Table:
    return figures.landings(rng, scale)


@figure("How far below the edge runs stop, against the degree of regularity", where="derived")
def deficits(rng: Rng, *, scale: figures.Scale = "quick") -> Table:
    return figures.deficits(rng, scale)


@figure("Share of far starts that do not diverge; lines: steps of the 2-cycle", where="derived")
def regimes(rng: Rng, *, scale: figures.Scale = "quick") -> Table:
    return figures.regimes(rng, scale)


@figure("Along the edge and over it: runs from h S = 2.5 with h = 0.1, dark to light", where="derived")
def portraits(rng: Rng, *, scale: figures.Scale = "quick") -> Table:
    return figures.portraits(rng, scale)


@figure("Step size times sharpness in tanh networks 3-20-1, by loss and step", where="abstract")
def network_traces(rng: Rng, *, scale: figures.Scale = "quick") -> Table:
    return figures.network_traces(rng, scale)


@figure("Sharpness of linear networks, plain and normalised; balance of ReLU networks", where="abstract")
def normalised_traces(rng: Rng, *, scale: figures.Scale = "quick") -> Table:
    return figures.normalised_traces(rng, scale)


for _shown in (traces, landings, deficits, regimes, portraits, network_traces, normalised_traces):
    _shown.draw(getattr(figures, f"draw_{_shown.name}"))
