"""PLATON: pruning while training by an upper confidence bound of what a weight is worth.

The importance of a weight on one batch is noisy, so that a weight may look useless for a while. PLATON ranks weights by
the product of their smoothed importance and of how much it fluctuates, so that an uncertain weight is kept for longer.
Zhang et al., ICML 2022; PMLR 162, 26809-26823, arXiv:2206.12562.

*Paper and code.* The importance |w dL/dw| is taken after the optimiser's step, of the new weight and the old gradient,
as in the released code; the paper writes both at one iterate. The released threshold is strict and prunes one weight
less, more with ties; here exactly floor(N (1 - r)) go. Its ``beta2 = 2`` fails and is not offered; ``beta2 = 1`` is
importance alone, as there. Steps count from 0, so that the first window is whole.

*What the checks find.* On digits at 3 % PLATON beats magnitude by about half a point, and at 10 % not at all. The
smoothing does it: uncertainty adds nothing to importance alone, less with noisy batches, and few weights come back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor, nn

from porism import Paired, Paper, Table, always, figure, proved, typically
from porism.parameters import Parameter
from porism_plugins.prune import _engine as engine
from porism_plugins.prune import _platon_experiments as measure
from porism_plugins.prune import _platon_invariants as invariant
from porism_plugins.prune._criteria import Magnitude, Movement, Sensitivity
from porism_plugins.prune._masks import check_remaining
from porism_plugins.prune._training import Loss, finetune, task_loss
from porism_plugins.prune._upper_confidence import UpperConfidence

PAPER = Paper(
    key="platon", title="PLATON: Pruning Large Transformer Models with Upper Confidence Bound of Weight Importance",
    authors=("Qingru Zhang", "Simiao Zuo", "Chen Liang", "Alexander Bukharin", "Pengcheng He", "Weizhu Chen",
             "Tuo Zhao"),
    year=2022, ref="arXiv:2206.12562", kinds=("compressor",), family="prune", needs=("torch",),
    tags=("pruning", "transformers"), method="platon",
)  # fmt: skip

Rng = np.random.Generator
Remaining = Annotated[float, Interval(ge=0.01, le=1)]
Beta = Annotated[float, Interval(ge=0, le=1)]
Size = Annotated[int, Interval(ge=2, le=12)]
Order = Literal[1, 2]
Low = Annotated[float, Interval(ge=0.5, le=0.85)]
High = Annotated[float, Interval(ge=0.9, le=0.99)]
Name = Literal["platon", "magnitude", "movement", "sensitivity"]
CRITERIA = {"platon": UpperConfidence(), "importance alone": UpperConfidence(beta2=1.0), "magnitude": Magnitude(),
            "movement": Movement(), "sensitivity": Sensitivity()}  # fmt: skip
DIGITS = "digits, MLP 64-128-64-10, 800 to train on, 1500 steps with pruning after 200, Adam"


def platon(
    model: nn.Module, /, *, remaining: float = 0.2, calibration: Iterable[Any], loss: Loss = task_loss,
    steps: int = 1000, learning_rate: float = 8e-5, beta1: float = 0.85, beta2: float = 0.95, interval: int = 10,
    warmup: int | None = None, cooldown: int | None = None, structured: bool = False, seed: int = 0,
    inplace: bool = False, include: Sequence[str] = ("*",), exclude: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """Fine-tune a model with PLATON and return it pruned; in a training loop of your own use ``Pruner``.

    Parameters
    ----------
    model
        Left alone unless ``inplace``; its linear layers are pruned, all of its trainable parameters are trained.
    remaining
        Share of the weights that stays, in (0, 1]. At 1 there is nothing to do, and nothing is trained.
    calibration
        Batches to train on, over and over: pairs (inputs, labels), or mappings that a transformers model is called
        with. They must be on the model's device, and in its dtype.
    loss
        ``loss(model, batch)``, a scalar, for batches of any other form.
    steps, learning_rate
        Of Adamax, as in the paper's runs of BERT.
    beta1, beta2, interval
        See :class:`UpperConfidence`.
    warmup, cooldown, include, exclude
        See :class:`porism_plugins.prune._engine.Pruner`.
    structured
        Take whole channels and attention heads out, so that the model gets smaller and faster.
    seed
        Of dropout.
    inplace
        Change the model itself instead of a copy.

    Raises
    ------
    ParameterError
        For options out of range, empty batches, a loss that is not finite, and layers that cannot be pruned.

    Examples
    --------
    >>> batches = [(torch.ones(2, 8), torch.tensor([0, 1]))]
    >>> pruned = platon(nn.Linear(8, 5), remaining=0.25, calibration=batches, steps=100)
    >>> int(torch.count_nonzero(pruned.weight))
    10
    """
    check_remaining(remaining)
    Parameter("learning_rate", float, 8e-5, low=0.0, low_open=True).validate(learning_rate)
    criterion = UpperConfidence(beta1, beta2, interval)
    model = model if inplace else copy.deepcopy(model)
    pruner = engine.Pruner(
        model, criterion, remaining=remaining, total_steps=steps, warmup=warmup, cooldown=cooldown, interval=interval,
        structured=structured, include=include, exclude=exclude,
    )  # fmt: skip
    if remaining == 1.0:
        return model
    return finetune(model, calibration, pruner, loss=loss, learning_rate=learning_rate, seed=seed)


def example_calibration(rng: Rng) -> list[tuple[Tensor, Tensor]]:
    """Batches for the model of the conformance checks: pairs, as a model is to be trained on them."""
    return [(torch.from_numpy(rng.normal(size=(8, 16))).float(), torch.from_numpy(rng.integers(8, size=8)))
            for _ in range(4)]  # fmt: skip


@proved("The uncertainty of a window is beta1 times its distance from the importance before it", where="Sec. 3",
        control={"power": 2})  # fmt: skip
def uncertainty_is_surprise(*, window: Beta = 0.5, before: Beta = 0.2, beta1: Beta = 0.85, power: Order = 1) -> Any:
    import sympy

    return sympy.Eq(window - (beta1 * before + (1 - beta1) * window), beta1**power * (window - before))


@proved("If all windows have sensitivity s, after n of them I is s (1 - beta1^n), and U vanishes geometrically as well",
        where="derived", control={"power": 2})  # fmt: skip
def certainty_loses_the_bonus(*, s: Annotated[float, Interval(ge=0.1, le=10)] = 1.0, low: Low = 0.8, high: High = 0.95,
                              n: Annotated[int, Interval(ge=0, le=50)] = 3, power: Order = 1) -> Any:  # fmt: skip
    """The step of the induction, for beta1 = ``low`` and beta2 = ``high``."""
    return invariant.steady_step(s, low, high, n, power)


@always("The share falls with the step, from 1 at the end of the warm-up to the budget at the cooldown",
        where="Eq. 10", control={"rising": True})  # fmt: skip
def schedule_falls(rng: Rng, *, remaining: Remaining = 0.1, warmup: Size = 3, between: Size = 5, cooldown: Size = 4,
                   rising: bool = False) -> float:  # fmt: skip
    return invariant.schedule_margin(remaining, warmup, between, cooldown, rising=rising)


@always("A loss in other units has the same mask", where="Sec. 3", control={"score": "I + U^2"})
def units_of_the_loss(rng: Rng, *, factor: Annotated[float, Interval(ge=0.001, le=1000)] = 3.0, rows: Size = 5,
                      remaining: Remaining = 0.3, score: Literal["I U", "I + U^2"] = "I U") -> float:  # fmt: skip
    criterion = UpperConfidence(interval=2) if score == "I U" else invariant.Mixed(UpperConfidence(interval=2))
    return invariant.scaling_margin(rng, criterion, factor=factor, rows=rows, remaining=remaining)


@always("Exchanging weights, between matrices too, exchanges their masks", where="Sec. 3", control={"scope": "layer"})
def exchangeable(rng: Rng, *, rows: Size = 5, remaining: Remaining = 0.3,
                 scope: Literal["global", "layer"] = "global") -> float:  # fmt: skip
    """The control has a threshold for each matrix."""
    return invariant.exchange_margin(rng, UpperConfidence(interval=2), rows=rows, remaining=remaining, scope=scope)


@always("Importance and uncertainty lie between 0 and the largest sensitivity seen", where="Sec. 3",
        control={"signed": True})  # fmt: skip
def averages_stay_in_range(rng: Rng, *, beta1: Annotated[float, Interval(ge=0, le=0.99)] = 0.85, beta2: Beta = 0.95,
                           windows: Size = 4, signed: bool = False) -> float:  # fmt: skip
    """The control averages w dL/dw with its sign."""
    return invariant.range_margin(rng, UpperConfidence(beta1, beta2, 3), windows=windows, signed=signed)


@always("Exactly floor(N (1 - r)) weights are zero at the end", where="Eq. 10", control={"rule": "<"}, cap=40)
def budget_is_exact(rng: Rng, *, remaining: Remaining = 0.2, hidden: Size = 6, criterion: Name = "platon",
                    rule: Literal["exact", "<"] = "exact") -> float:  # fmt: skip
    """Of a network trained for 40 steps. The control is the strict threshold of the released code."""
    return invariant.budget_margin(rng, CRITERIA[criterion], remaining, hidden, released=rule == "<")


@always("With the whole budget training is what it is without a pruner", where="Eq. 10", control={"remaining": 0.5},
        cap=40)  # fmt: skip
def whole_budget_changes_nothing(rng: Rng, *, hidden: Size = 6, remaining: Literal[0.5, 1.0] = 1.0) -> float:
    return 1e-12 - invariant.drift(rng, UpperConfidence(), remaining, hidden)


@typically("At 3 % of the weights PLATON is more accurate than magnitude pruning with the same schedule",
           where="Table 1", at_least=0.005, control={"ours": "magnitude"}, cap=40, scale=DIGITS)  # fmt: skip
def beats_magnitude(rng: Rng, *, remaining: Remaining = 0.03, ours: Name = "platon") -> Paired:
    return Paired(*measure.accuracies(rng, [CRITERIA[ours], CRITERIA["magnitude"]], remaining))


@typically("At 3 % of the weights uncertainty raises the accuracy above that of importance alone",
           where="Sec. 4, ablation", at_least=0.002, control={"beta2": 1.0}, cap=40, scale=DIGITS)  # fmt: skip
def uncertainty_helps(rng: Rng, *, remaining: Remaining = 0.03, beta2: Beta = 0.95) -> Paired:
    return Paired(*measure.accuracies(rng, [UpperConfidence(beta2=beta2), CRITERIA["importance alone"]], remaining))


@typically("At 10 % of the weights PLATON is at most 0.3 points above magnitude pruning", where="a boundary",
           control={"theirs": "sensitivity"}, cap=40, scale=DIGITS)  # fmt: skip
def no_gain_at_moderate_sparsity(rng: Rng, *, remaining: Remaining = 0.1, theirs: Name = "magnitude") -> float:
    """The control compares with |w dL/dw| of the last batch, which PLATON beats by points."""
    ours, other = measure.accuracies(rng, [CRITERIA["platon"], CRITERIA[theirs]], remaining)
    return 0.003 - (ours - other)


@typically("What uncertainty adds to importance shrinks from batches of 4 to full batches", where="Sec. 3", cap=24,
           at_least=0.005, control={"beta2": 1.0}, scale=f"{DIGITS}; but 600 steps, differences of gains")  # fmt: skip
def noise_makes_the_case(rng: Rng, *, remaining: Remaining = 0.03, beta2: Beta = 0.95) -> float:
    return measure.gain_of_noise(rng, UpperConfidence(beta2=beta2), CRITERIA["importance alone"], remaining)


@typically("In a noisy regression PLATON recovers more of the support than importance alone", where="Abstract",
           at_least=0.02, control={"beta2": 1.0}, cap=40,
           scale="F1 of 20 active features of 200, 400 samples, noise 5, batches of 8")  # fmt: skip
def recovers_support(rng: Rng, *, beta2: Beta = 0.95) -> Paired:
    return Paired(*measure.recovered_share(rng, [UpperConfidence(beta2=beta2), CRITERIA["importance alone"]]))


@typically("With uncertainty more of the weights that a mask zeroed are back after the next", where="Sec. 3", cap=40,
           at_least=0.001, control={"beta2": 1.0}, scale=f"{DIGITS}; the mean over the cubic phase")  # fmt: skip
def uncertain_weights_return(rng: Rng, *, remaining: Remaining = 0.03, beta2: Beta = 0.95) -> Paired:
    arms = [UpperConfidence(beta2=beta2), CRITERIA["importance alone"]]
    return Paired(*measure.mean_returns(rng, arms, remaining))


@figure("Accuracy on digits against the share of the weights that stays, five criteria with one schedule; dots are "
        "single replicates, lines their means.", where="Table 1")  # fmt: skip
def sparsity(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=50)] = 2,
             steps: Annotated[int, Interval(ge=60, le=5000)] = 450) -> Table:  # fmt: skip
    return measure.accuracy_table(rng, CRITERIA, (0.02, 0.05, 0.1, 0.3), replicates=replicates, steps=steps)


@figure("The cubic schedule, and how many of the weights that a mask set to zero are back after the next.",
        where="Eq. 10")  # fmt: skip
def churn(rng: Rng, *, remaining: Remaining = 0.03, steps: Annotated[int, Interval(ge=150, le=5000)] = 1500) -> Table:
    return measure.churn_table(rng, CRITERIA, remaining=remaining, steps=steps)


sparsity.draw(measure.draw_accuracies)
churn.draw(measure.draw_churn)


def demo(rng: Rng, *, remaining: Remaining = 0.03, beta1: Annotated[float, Interval(ge=0, le=0.99)] = 0.85,
         beta2: Beta = 0.95, steps: Annotated[int, Interval(ge=100, le=5000)] = 600) -> dict[str, float]:  # fmt: skip
    """Test accuracy on digits with this share of the weights, by PLATON with these options and by its rivals."""
    criteria = CRITERIA | {"platon": UpperConfidence(beta1, beta2)}
    return dict(zip(criteria, measure.accuracies(rng, criteria.values(), remaining, steps=steps), strict=True))
