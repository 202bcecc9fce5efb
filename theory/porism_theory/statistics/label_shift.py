"""Fisher's linear discriminant trained on unbalanced classes and used on balanced ones, in high dimension.

The paper (arXiv:2212.00700) trains it on n0 > n1 samples of two Gaussian classes whose dimension p grows with n, and
asks whether throwing majority samples away helps: with more features than samples the answer changes sign, a phase
transition, which a strong ridge undoes. That much is in the abstract; the theorems were not seen. The formulas, and
which inverse and intercept they are for, are our own ("derived"), checked against ``porism_sims.label_shift``. The load
is ``g = p / (2 n1)``, the aspect ratio of the down-sampled set; the ratio ``r = n0 / n1``; the signal the classes'
squared Mahalanobis distance; "debiased" corrects the threshold. What is true by algebra is only tested.
*What the checks find*: the transition is there on real data too; re-weighting and over-sampling do not undo it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval
from hypothesis import assume

from porism import Paired, Paper, Table, always, figure, paired, proved, typically
from porism_sims.label_shift import Intercept, gain_of_keeping, mean_error, simulate  # noqa: F401  (the method)
from porism_theory.statistics import _engine as theory
from porism_theory.statistics import _label_shift_experiments as measure
from porism_theory.statistics import _label_shift_figures as figures
from porism_theory.statistics import _phase_engine as phase

PAPER = Paper(
    key="label_shift",
    title="High Dimensional Binary Classification under Label Shift: Phase Transition and Regularization",
    authors=("Jiahui Cheng", "Minshuo Chen", "Hao Liu", "Tuo Zhao", "Wenjing Liao"),
    year=2022, ref="arXiv:2212.00700", kinds=("simulator",), family="statistics", needs=("theory",), method="simulate",
    tags=("linear discriminant", "class imbalance", "double descent", "random matrices"),
)  # fmt: skip

Rng = np.random.Generator
Signal = Annotated[float, Interval(ge=0.1, le=25)]
Ratio = Annotated[float, Interval(ge=1.01, le=20)]
Ridge = Annotated[float, Interval(ge=0, le=10)]
Load = Annotated[float, Interval(ge=0.05, le=20)]
Size = Annotated[int, Interval(ge=3, le=40)]
Repetitions = Annotated[int, Interval(ge=2, le=1000)]
Scale = Literal["quick", "paper"]


@proved("The ridge's moments are those of the Marchenko-Pastur law", where="derived", control={"power": 1})
def ridge_moments_are_marchenko_pastur(*, gamma: Annotated[float, Interval(ge=0.05, le=20)] = 1.0,
                                       ridge: Annotated[float, Interval(ge=0.001, le=100)] = 0.5,
                                       power: Literal[1, 2] = 2) -> Any:  # fmt: skip
    """m solves ``gamma ridge m^2 + (1 - gamma + ridge) m = 1``; m2 = -dm/dridge; rho^2 = 1 - gamma/(1 + kappa)^2."""
    return theory.marchenko_pastur_laws(gamma, ridge, power)


@proved("All data and down-sampled data err alike at g+, in closed form", where="derived", control={"order": -1})
def upper_load_is_where_errors_cross(*, signal: Signal = 9.0, ratio: Ratio = 3.0, order: Literal[-1, 1] = 1) -> Any:
    """For the pseudo-inverse and for the vanishing ridge; the control takes each one's g+ for the other."""
    return phase.crossings_at_upper_loads(signal, ratio, order)


@always("With p < n and no intercept, keeping all data wins", where="derived", control={"intercept": "prior"},
        beyond={"load": Interval(ge=0.01, le=20), "ratio": Interval(ge=1.01, le=200)})  # fmt: skip
def keeping_wins_below_the_peak(rng: Rng, *, load: Annotated[float, Interval(ge=0.01, le=0.99)] = 0.5,
                                ratio: Ratio = 3.0, signal: Signal = 9.0,
                                intercept: Literal["none", "prior"] = "none") -> float:  # fmt: skip
    """With the training prior in the rule, strong imbalance is better thrown away."""
    keep, down = phase.keep_and_down(load, ratio, signal, intercept=intercept)
    return down - keep


@always("Without ridge, down-sampling wins just for g in (g-, g+)", where="abstract", control={"edges": "ridgeless"})
def window_of_down_sampling(rng: Rng, *, load: Annotated[float, Interval(ge=0.01, le=40)] = 2.5, ratio: Ratio = 3.0,
                            signal: Signal = 9.0, limit: Literal["pseudo", "ridgeless"] = "pseudo",
                            edges: Literal["own", "ridgeless"] = "own") -> float:  # fmt: skip
    """Debiased rule; the control takes the edges of the vanishing ridge for those of the pseudo-inverse."""
    low, high = phase.window(signal, ratio, limit=limit if edges == "own" else "ridgeless")
    assume(all(abs(load / edge - 1) > 1e-6 for edge in (low, high, 1.0, (1 + ratio) / 2)))
    gain = float(phase.advantage(load, ratio, signal, limit=limit))
    return -gain if low < load < high else gain


@always("At slight imbalance down-sampling wins 3 % below g*, and keeping all data 3 % above", where="derived",
        control={"law": "fixed"}, beyond={"imbalance": Interval(ge=1e-5, le=2)})  # fmt: skip
def threshold_at_balance(rng: Rng, *, signal: Signal = 9.0, law: Literal["own", "fixed"] = "own",
                         imbalance: Annotated[float, Interval(ge=1e-5, le=1e-3)] = 1e-4) -> float:  # fmt: skip
    """No intercept; gains are counted in units of the imbalance r - 1. The control has g* = 1.75."""
    load = phase.upper_load_at_balance(signal) if law == "own" else 1.75
    (keep, down), (more, less) = (phase.keep_and_down(s * load, 1 + imbalance, signal) for s in (0.97, 1.03))
    return float(min(keep - down, less - more)) / imbalance


@always("With ridge 1/2 the debiased rule always gains from all data", where="abstract", control={"ridge": 0.05},
        beyond={"signal": Interval(ge=0.1, le=400), "ratio": Interval(ge=1.01, le=200)})  # fmt: skip
def strong_ridge_closes_the_window(rng: Rng, *, load_over_peak: Load = 1.0, ratio: Ratio = 3.0, signal: Signal = 9.0,
                                   ridge: Ridge = 0.5) -> float:  # fmt: skip
    """The full data sit on the peak at the load ``(1 + r) / 2``."""
    return float(phase.advantage(load_over_peak * (1 + ratio) / 2, ratio, signal, ridge=ridge))


@always("Above the critical ridge, and with a known covariance, keeping wins at every load", where="abstract",
        control={"intercept": "none"}, beyond={"ridge_share": Interval(ge=0.1, le=10)})  # fmt: skip
def critical_ridge_closes_the_window(rng: Rng, *, ridge_share: Annotated[float, Interval(ge=1.01, le=10)] = 2.0,
                                     ratio: Ratio = 3.0, signal: Signal = 9.0,
                                     intercept: Intercept = "debiased") -> float:  # fmt: skip
    """At 60 loads. The control has no intercept: the midpoint's bias opens a window at large loads for any ridge."""
    rules = ({"ridge": ridge_share * phase.critical_ridge(signal, ratio)}, {"limit": "known"})
    return min(phase.smallest_gain(ratio, signal, intercept=intercept, **rule) for rule in rules)


@always("More ridge never hurts the debiased rule where the covariance is isotropic, and nobody beats Bayes",
        where="derived", control={"intercept": "prior"}, beyond={"condition": Interval(ge=1, le=1000)})  # fmt: skip
def more_ridge_is_better(rng: Rng, *, gamma: Load = 1.3, ratio: Ratio = 3.0, signal: Signal = 9.0,
                         ridge: Annotated[float, Interval(ge=1e-3, le=100)] = 1.0, intercept: Intercept = "debiased",
                         condition: Annotated[float, Interval(ge=1, le=1)] = 1.0) -> float:  # fmt: skip
    """Twice as much, at 60 features; beside a strong ridge the training prior outweighs the data."""
    weak, strong = measure.errors_by_ridge(gamma, ratio, signal, condition, (ridge, 2 * ridge), intercept)
    return 1e-12 + min(weak - strong, strong - theory.bayes_error(signal))


@always("Swapped labels swap errors; units, rotations and, with p < n and no ridge, linear maps change nothing",
        where="derived", control={"ridge": 1.0})  # fmt: skip
def training_set_symmetries(rng: Rng, *, dimension: Size = 10, majority: Size = 20, minority: Size = 10,
                            intercept: Intercept = "none", ridge: Ridge = 0.0) -> float:  # fmt: skip
    """Of the simulated rule, to 1e-6; the control maps features linearly although it has a ridge."""
    return 1e-6 - measure.change_by_map(rng, dimension, (majority, minority), ridge=ridge, intercept=intercept)


@always("On real data the ridge rule is scikit-learn's discriminant with equal priors and shrinkage", where="peer",
        control={"intercept": "prior"})  # fmt: skip
def scikit_learn_agrees(rng: Rng, *, data: Literal["breast_cancer", "digits_1_7", "digits_3_8"] = "digits_3_8",
                        ridge: Annotated[float, Interval(ge=0.01, le=10)] = 0.5, majority: Size = 30,
                        minority: Size = 10, intercept: Intercept = "none") -> float:  # fmt: skip
    """Direction and threshold, to 1e-8; the control keeps the training prior."""
    return 1e-8 - measure.difference_from_scikit_learn(rng, data, (majority, minority), ridge, intercept)


@typically("Each class's error is within 0.015 of its limit, below and above the peak", where="derived",
           control={"bias": False}, scale="p=200; p/n=0.5 and 1.7; n0/n1=3; means of 60 training sets")  # fmt: skip
def limits_match_simulation(rng: Rng, *, bias: bool = True) -> float:
    """The control forgets that the midpoint of the sample means leans towards the minority."""
    sizes = ({"dimension": 200, "majority": 3 * minority, "minority": minority} for minority in (100, 30))
    assumed = {"intercept": "none" if bias else "debiased"}
    return 0.015 - max(measure.largest_miss(rng, settings, assumed) for settings in sizes)


@typically("With a ridge of 1/2 or 5 the error is within 0.004 of its limit, with and without the training prior",
           where="derived", control={"share": 0.2}, scale="p=200, n0=120, n1=40; means of 60 sets")  # fmt: skip
def ridge_limits_match_simulation(rng: Rng, *, share: Annotated[float, Interval(ge=0.1, le=1)] = 1.0) -> float:
    """The control's formula has a fifth of the ridge."""
    return 0.004 - measure.largest_ridge_miss(rng, share)


@typically("For any covariance errors are within 0.015 of their limits: with a ridge, in its limit, inverse, known",
           where="derived", control={"condition": 1.0}, scale="p=200, 60; n0=90, n1=45; means of 60")  # fmt: skip
def any_covariance_matches_simulation(rng: Rng, *, condition: Annotated[float, Interval(ge=1, le=100)] = 20.0) -> float:
    """The control's formula takes the covariance for isotropic."""
    return 0.015 - max(measure.largest_miss(rng, case, {"condition": condition}) for case in measure.ANISOTROPIC)


@typically("Exact moments of M and the exact law of errors foresee small samples better than limits", where="derived",
           control={"sizes": "limit"}, at_least=0.05, scale="p, n: 20, 40 and 40, 20; means of 500")  # fmt: skip
def finite_sizes_have_exact_laws(rng: Rng, *, sizes: Literal["exact", "limit"] = "exact") -> Paired:
    return paired(measure.small_sample_miss, rng, ours={"sizes": sizes}, theirs={"sizes": "limit"}, better="lower")


@typically("As the load grows, keeping all data wins, then down-sampling, then keeping again", where="abstract",
           control={"ridge": 1.0}, at_least=0.01,
           scale="g=1.2, 2, 4 at n1=50, n0=150; pseudo-inverse; means of 30 training sets")  # fmt: skip
def ordering_reverses_twice(rng: Rng, *, ridge: Ridge = 0.0) -> float:
    """The smallest of three differences in error, each counted from the side that should win."""
    sizes = {"majority": 150, "minority": 50, "repetitions": 30, "ridge": ridge}
    gains = [gain_of_keeping(rng, dimension=dimension, **sizes).mean() for dimension in (120, 200, 400)]
    return float(min(gains[0], -gains[1], gains[2]))


@typically("Near the peak, down-sampling wins with a weak ridge and loses with a strong one", where="abstract",
           control={"load": 0.5}, at_least=0.01,
           scale="ridge 0.05 and 1 at n1=50, n0=150; debiased; means of 30 training sets")  # fmt: skip
def ridge_undoes_the_reversal(rng: Rng, *, load: Annotated[float, Interval(ge=0.1, le=10)] = 2.3) -> float:
    """The control has more samples than features, where keeping all data wins with either ridge."""
    sizes = {"dimension": round(100 * load), "majority": 150, "minority": 50, "repetitions": 30}
    weak, strong = (gain_of_keeping(rng, **sizes, intercept="debiased", ridge=ridge).mean() for ridge in (0.05, 1.0))
    return float(min(-weak, strong))


@typically("Above the peak a vanishing ridge is another rule than the pseudo-inverse, and a better one",
           where="derived", control={"dimension": 60}, at_least=0.02,
           scale="p=200, n0=75, n1=40; ridge 1e-6; means of 20 training sets")  # fmt: skip
def small_ridge_is_not_pseudo_inverse(rng: Rng, *, dimension: Annotated[int, Interval(ge=2, le=999)] = 200) -> Paired:
    """The control has more samples than features, where the two are one."""
    sizes = {"dimension": dimension, "majority": 75, "minority": 40}
    return paired(mean_error, rng, ours={**sizes, "ridge": 1e-6}, theirs=sizes, better="lower")


@typically("On real data with n = p down-sampling beats all data, re-weighting and over-sampling; with more data, or "
           "ridge 1/2, keeping all wins", where="abstract", control={"ridge": 0.5}, at_least=0.01,
           scale="breast cancer, p=30; n0=24, n1=8 and n0=60, n1=20; means over 40 splits")  # fmt: skip
def real_data_have_the_transition(rng: Rng, *, ridge: Ridge = 0.0) -> float:
    """The control has the ridge where n = p as well."""
    return measure.transition_on_real_data(rng, ridge)


@figure("Error on balanced classes against features per sample; dots: simulations +-2 s.e.", where="derived")
def error_curve(rng: Rng, *, scale: Scale = "quick", dimension: Annotated[int, Interval(ge=50, le=2000)] = 300,
                ratio: Annotated[int, Interval(ge=1, le=10)] = 3, repetitions: Repetitions = 20) -> Table:  # fmt: skip
    return figures.error_curve(rng, scale, dimension=dimension, ratio=ratio, repetitions=repetitions)


@figure("Where all data (blue) or down-sampled (orange) win; triangles: simulated, crosses: < 2 s.e.", where="abstract")
def phase_diagram(rng: Rng, *, scale: Scale = "quick", signal: Signal = 9.0, repetitions: Repetitions = 30) -> Table:
    return figures.phase_diagram(rng, scale, signal=signal, repetitions=repetitions)


@figure("Error of each class against imbalance, for three intercepts; dots: simulations +-2 s.e.", where="derived")
def class_errors(rng: Rng, *, scale: Scale = "quick", ridge: Ridge = 0.5, signal: Signal = 9.0,
                 repetitions: Repetitions = 40) -> Table:  # fmt: skip
    return figures.class_errors(rng, scale, ridge=ridge, signal=signal, repetitions=repetitions)


@figure("More samples can hurt: p=120, n1=36, debiased; dashed: 36 of each class. Dots: +-2 s.e.", where="derived")
def sample_descent(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.sample_descent(rng, scale)


@figure("Threshold g* of the load at slight imbalance, and who wins with 172 samples and 160", where="derived")
def balance_threshold(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.balance_threshold(rng, scale)


@figure("Ridge above which keeping all data wins at every load (debiased rule).", where="abstract")
def critical_ridges(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.critical_ridges(scale)


@figure("Simulated minus foreseen error at small p: limit, exact moments in it, exact law; +-2 s.e.", where="derived")
def finite_sizes(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.finite_sizes(rng, scale)


@figure("Error for three covariances, p=80, n0 = 3 n1; dots: simulations +-2 s.e.", where="derived")
def any_covariance(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.any_covariance(rng, scale)


@figure("Test error on real data, n0 = 3 n1, means over splits; dotted: n = p.", where="derived")
def real_data(rng: Rng, *, scale: Scale = "quick") -> Table:
    return figures.real_data(rng, scale)


for drawn in (error_curve, phase_diagram, class_errors, sample_descent, balance_threshold, critical_ridges,
              finite_sizes, any_covariance, real_data):  # fmt: skip
    drawn.draw(getattr(figures, f"draw_{drawn.name}"))
