"""Fisher's discriminant trained on unbalanced classes and used on balanced ones, in high dimension.

The paper (arXiv:2212.00700) trains it on n0 > n1 samples of two Gaussian classes whose dimension p grows with n,
and asks whether throwing majority samples away helps. With more features than samples the answer changes sign, a
phase transition, and a strong ridge makes it vanish. That much is in the abstract. The authors' theorems were not
seen: the formulas (``_engine.py``), and which inverse and intercept they are for, are our own derivation ("derived"),
checked against ``porism_sims.label_shift``. The load is ``g = p / (2 n1)``, the aspect ratio of the down-sampled
set; the ratio ``r = n0 / n1``; the signal the classes' squared Mahalanobis distance; "debiased" corrects the threshold.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import sympy
from annotated_types import Interval
from hypothesis import assume

from porism import Paired, Paper, Table, always, figure, paired, proved, typically
from porism.drawing import columns, draw_limits, log_axes, mean_and_bar
from porism_sims.label_shift import gain_of_keeping, mean_error, simulate
from porism_theory.statistics import _engine as theory

PAPER = Paper(
    key="label_shift",
    title="High Dimensional Binary Classification under Label Shift: Phase Transition and Regularization",
    authors=("Jiahui Cheng", "Minshuo Chen", "Hao Liu", "Tuo Zhao", "Wenjing Liao"),
    year=2022,
    ref="arXiv:2212.00700",
    kinds=("simulator",),
    family="statistics",
    needs=("theory",),
    tags=("linear discriminant", "class imbalance", "double descent", "random matrices"),
    method="simulate",
)

Rng = np.random.Generator
Signal = Annotated[float, Interval(ge=0.1, le=25)]
Ratio = Annotated[float, Interval(ge=1.01, le=20)]
Ridge = Annotated[float, Interval(ge=0, le=10)]
Repetitions = Annotated[int, Interval(ge=2, le=1000)]
MISSING = np.full(2, np.nan)


@proved("The ridge's moments are those of the Marchenko-Pastur law", where="derived", control={"power": 1})
def ridge_moments_are_marchenko_pastur(
    *,
    gamma: Annotated[float, Interval(ge=0.05, le=20)] = 1.0,
    ridge: Annotated[float, Interval(ge=0.001, le=100)] = 0.5,
    power: Literal[1, 2] = 2,
) -> Any:
    """m solves ``gamma ridge m^2 + (1 - gamma + ridge) m = 1``; m2 = -dm/dridge; rho^2 = 1 - gamma/(1 + kappa)^2."""
    kappa = (gamma + ridge - 1 + sympy.sqrt((gamma + ridge - 1) ** 2 + 4 * ridge)) / 2
    m = theory.ridge_moments(gamma, ridge, kappa)
    law = sympy.Eq(gamma * ridge * m.first**2 + (1 - gamma + ridge) * m.first, 1)
    slope = sympy.Eq(m.second, -sympy.diff(m.first, ridge))
    return sympy.And(law, slope, sympy.Eq(m.rho_squared, 1 - gamma / (1 + kappa) ** power))


@proved("All data and down-sampled data err alike at g+, in closed form", where="derived", control={"order": -1})
def upper_load_is_where_errors_cross(*, signal: Signal = 9.0, ratio: Ratio = 3.0, order: Literal[-1, 1] = 1) -> Any:
    """For the pseudo-inverse and for the vanishing ridge; the control takes each one's g+ for the other."""
    loads = [upper(signal, ratio, sympy.sqrt) for upper in (theory.pseudo_upper_load, theory.ridgeless_upper_load)]
    crossings = []
    for moments, g in zip((theory.pseudo_moments, theory.ridgeless_moments), loads[::order], strict=True):
        keep = moments(2 * g / (1 + ratio)).rho_squared / (signal + 2 * g * (1 + ratio) / ratio)
        crossings.append(sympy.Eq(keep, moments(g).rho_squared / (signal + 4 * g)))
    return sympy.And(*crossings)


@always("With p < n and no intercept, keeping all data wins", where="derived", control={"intercept": "prior"})
def keeping_wins_below_the_peak(
    rng: Rng,
    *,
    load: Annotated[float, Interval(ge=0.01, le=0.99)] = 0.5,
    ratio: Ratio = 3.0,
    signal: Signal = 9.0,
    intercept: Literal["none", "prior"] = "none",
) -> float:
    """With the training prior in the rule, strong imbalance is better thrown away."""
    keep, down = theory.keep_and_down(load, ratio, signal, intercept=intercept)
    return down - keep


@always("Without ridge, down-sampling wins just for g in (g-, g+)", where="abstract", control={"edges": "ridgeless"})
def window_of_down_sampling(
    rng: Rng,
    *,
    load: Annotated[float, Interval(ge=0.01, le=40)] = 2.5,
    ratio: Ratio = 3.0,
    signal: Signal = 9.0,
    limit: Literal["pseudo", "ridgeless"] = "pseudo",
    edges: Literal["own", "ridgeless"] = "own",
) -> float:
    """Debiased rule; the control takes the edges of the vanishing ridge for those of the pseudo-inverse."""
    low, high = theory.window(signal, ratio, limit=limit if edges == "own" else "ridgeless")
    assume(all(abs(load / edge - 1) > 1e-6 for edge in (low, high, 1.0, (1 + ratio) / 2)))
    gain = float(theory.advantage(load, ratio, signal, limit=limit))
    return -gain if low < load < high else gain


@always("With ridge 1/2 the debiased rule always gains from all data", where="abstract", control={"ridge": 0.05})
def strong_ridge_closes_the_window(
    rng: Rng,
    *,
    load_over_peak: Annotated[float, Interval(ge=0.05, le=20)] = 1.0,
    ratio: Ratio = 3.0,
    signal: Signal = 9.0,
    ridge: Ridge = 0.5,
) -> float:
    """The full data sit on the peak at the load ``(1 + r) / 2``."""
    return float(theory.advantage(load_over_peak * (1 + ratio) / 2, ratio, signal, ridge=ridge))


@typically(
    "Each class's error is within 0.015 of its limit, below and above the peak",
    where="derived",
    control={"bias": False},
    scale="p=200; p/n=0.5 and 1.7; n0/n1=3; means of 60 training sets",
)
def limits_match_simulation(rng: Rng, *, bias: bool = True) -> float:
    """The control forgets that the midpoint of the sample means leans towards the minority."""
    worst = 0.0
    for minority in (100, 30):
        sizes = {"dimension": 200, "majority": 3 * minority, "minority": minority, "signal": 9.0}
        foreseen = theory.predict(**sizes, intercept="none" if bias else "debiased")
        errors = simulate(rng, **sizes, repetitions=60)
        seen = [errors[f"{group}_error"].mean() for group in ("majority", "minority")]
        worst = max(worst, *np.abs(np.subtract(seen, foreseen)))
    return 0.015 - worst


@typically(
    "As the load grows, keeping all data wins, then down-sampling, then keeping again",
    where="abstract",
    control={"ridge": 1.0},
    at_least=0.01,
    scale="g=1.2, 2, 4 at n1=50, n0=150; pseudo-inverse; means of 30 training sets",
)
def ordering_reverses_twice(rng: Rng, *, ridge: Ridge = 0.0) -> float:
    """The smallest of three differences in error, each counted from the side that should win."""
    sizes = {"majority": 150, "minority": 50, "repetitions": 30, "ridge": ridge}
    gains = [gain_of_keeping(rng, dimension=dimension, **sizes).mean() for dimension in (120, 200, 400)]
    return float(min(gains[0], -gains[1], gains[2]))


@typically(
    "Near the peak, down-sampling wins with a weak ridge and loses with a strong one",
    where="abstract",
    control={"load": 0.5},
    at_least=0.01,
    scale="ridge 0.05 and 1 at n1=50, n0=150; debiased; means of 30 training sets",
)
def ridge_undoes_the_reversal(rng: Rng, *, load: Annotated[float, Interval(ge=0.1, le=10)] = 2.3) -> float:
    """The control has more samples than features, where keeping all data wins with either ridge."""
    sizes = {"dimension": round(100 * load), "majority": 150, "minority": 50, "repetitions": 30}
    weak, strong = (gain_of_keeping(rng, **sizes, intercept="debiased", ridge=ridge).mean() for ridge in (0.05, 1.0))
    return float(min(-weak, strong))


@typically(
    "Above the peak a vanishing ridge is another rule than the pseudo-inverse, and a better one",
    where="derived",
    control={"dimension": 60},
    at_least=0.02,
    scale="p=200, n0=75, n1=40; ridge 1e-6; means of 20 training sets",
)
def small_ridge_is_not_pseudo_inverse(rng: Rng, *, dimension: Annotated[int, Interval(ge=2, le=999)] = 200) -> Paired:
    """The control has more samples than features, where the two are one."""
    sizes = {"dimension": dimension, "majority": 75, "minority": 40}
    return paired(mean_error, rng, ours={**sizes, "ridge": 1e-6}, theirs=sizes, better="lower")


@figure("Error on balanced classes against features per sample; dots: simulations +-2 s.e.", where="derived")
def error_curve(rng: Rng, *, ratio: Annotated[int, Interval(ge=1, le=10)] = 3, repetitions: Repetitions = 20) -> Table:
    """The peak at as many features as samples, and how a ridge lowers it; 1e-6 stands for a vanishing ridge."""
    rows, u = [], np.linspace(-1.12, 1.16, 145)
    for matrix, ridge in {"pseudo-inverse": 0.0, "ridge → 0": 1e-6, "ridge 0.1": 0.1, "ridge 1": 1.0}.items():
        for step, gamma in enumerate(np.exp(u / 3 + u**3)):
            dot, minority = step % 12 == 6, 300 / gamma / (1 + ratio)
            minority = round(minority) if dot else minority
            sizes = {"dimension": 300, "majority": ratio * minority, "minority": minority, "ridge": ridge}
            limit = np.mean(theory.predict(**sizes, signal=9.0))
            seen = simulate(rng, **sizes, repetitions=repetitions)["error"] if dot else MISSING
            rows.append((matrix, 300 / ((1 + ratio) * minority - 2), limit, *mean_and_bar(seen)))
    return columns("matrix gamma limit simulated bar", rows)


@error_curve.draw
def _(table: Table, ax: Any) -> None:
    draw_limits(ax, table, "gamma", by="matrix")
    log_axes(ax, x=(0.2, 0.5, 1, 2, 5))
    ax.set(xlabel="features per sample, $p/n$", ylabel="error on balanced classes", ylim=(0, 0.52))
    ax.legend()


@figure("Where all data (blue) or down-sampled (orange) win; triangles: simulated, crosses: < 2 s.e.", where="abstract")
def phase_diagram(rng: Rng, *, signal: Signal = 9.0, repetitions: Repetitions = 30) -> Table:
    """Debiased rule; ``simulated`` is the gain of keeping in standard errors. Dotted: all data have n = p."""
    rows = []
    for ridge in (0.0, 0.05, 0.5):
        rule = {"signal": signal, "ridge": ridge, "intercept": "debiased", "repetitions": repetitions}
        for i, ratio in enumerate(np.geomspace(1.2, 10, 49)):
            for j, load in enumerate(np.geomspace(0.3, 12, 81)):
                sizes = {"dimension": round(60 * load), "majority": round(30 * ratio), "minority": 30}
                gain = gain_of_keeping(rng, **sizes, **rule) if (i % 12, j % 10) == (6, 5) else MISSING
                mean, bar = mean_and_bar(gain)
                rows.append((ridge, ratio, load, theory.advantage(load, ratio, signal, ridge=ridge), 2 * mean / bar))
    return columns("ridge ratio load advantage simulated", rows)


@phase_diagram.draw
def _(table: Table, left: Any, middle: Any, right: Any) -> None:
    for ax, ridge in zip((left, middle, right), np.unique(table["ridge"]), strict=True):
        ratio, load, gain, seen = (table[name][table["ridge"] == ridge] for name in table if name != "ridge")
        x, y = np.unique(load), np.unique(ratio)
        ax.contourf(x, y, gain.reshape(len(y), len(x)), levels=[-1, 0, 1], colors=["C1", "C0"], alpha=0.4)
        ax.plot((1 + y) / 2, y, color="0.2", linestyle=":")
        for marker, rows in (("^", seen > 2), ("v", seen < -2), ("x", np.abs(seen) <= 2)):
            ax.plot(load[rows], ratio[rows], marker, color="k", markersize=4)
        log_axes(ax, x=(0.5, 1, 2, 5, 10), y=(2, 5, 10))
        ax.set(xlabel="load $p / 2 n_1$", title=f"ridge {ridge:g}" if ridge else "pseudo-inverse")
    left.set(ylabel="imbalance $n_0 / n_1$")


@figure("Error of each class against imbalance, for three intercepts; dots: simulations +-2 s.e.", where="derived")
def class_errors(rng: Rng, *, ridge: Ridge = 0.5, signal: Signal = 9.0, repetitions: Repetitions = 40) -> Table:
    """Sizes p = 200 and n1 = 50: without a correction the minority pays, with the training prior it pays more."""
    rows = []
    for intercept in ("none", "debiased", "prior"):
        rule = {"signal": signal, "ridge": ridge, "intercept": intercept}
        for step, ratio in enumerate(np.geomspace(1, 10, 73)):
            sizes = {"dimension": 200, "majority": round(50 * ratio), "minority": 50}
            errors = simulate(rng, **sizes, **rule, repetitions=repetitions) if step % 9 == 0 else {}
            for name, limit in zip(("majority", "minority"), theory.predict(**sizes, **rule), strict=True):
                seen = mean_and_bar(errors.get(f"{name}_error", MISSING))
                rows.append((intercept, name, sizes["majority"] / 50, limit, *seen))
    return columns("intercept group ratio limit simulated bar", rows)


@class_errors.draw
def _(table: Table, left: Any, middle: Any, right: Any) -> None:
    for ax, intercept in zip((left, middle, right), ("none", "debiased", "prior"), strict=True):
        part = {name: column[table["intercept"] == intercept] for name, column in table.items()}
        draw_limits(ax, part, "ratio", by="group")
        log_axes(ax, x=(1, 2, 5, 10))
        ax.set(xlabel="imbalance $n_0 / n_1$", title=f"intercept: {intercept}", ylim=(0, 0.6))
    left.set_ylabel("error of the class")
    left.legend()
