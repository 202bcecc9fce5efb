"""DFT: a discriminative likelihood of answers among sampled negatives, with a moving-average normaliser.

The score of the given answer is raised against the log-partition over all answers, which is estimated from a few
answers of the base model and a moving average for each prompt: no preference data, no reward model. DFT2 normalises
scores by length and drops the reference model. Guo et al., ICML 2025, arXiv:2502.18679.

*Paper and code.* The released trainer keeps the averages outside its checkpoints and also moves them, and the schedule
of the factor, while it evaluates; here both are in the state dict and move in training mode only. Its factor counts
from 1 and misses the first step, the one that makes the start at log u = 0 harmless; here it starts at exactly 1. Its
negatives are tempered, truncated and otherwise prompted, its weights plain P_0. Its loss value has no meaning; ours is
the estimate of F. The name is also that of dynamic fine-tuning, ``loss_type="dft"`` of TRL, another paper.

*What the checks find.* In a small exact world negatives widen the ratio of right over wrong answers, but SFT stays more
accurate. The moving average makes up for few negatives: less bias, and no collapse at large learning rates.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from porism import Paired, Paper, Table, always, figure, paired, proved, typically
from porism_plugins.tune import _dft_experiments as measure
from porism_plugins.tune import _dft_figures as figures
from porism_plugins.tune import _dft_margins as margins
from porism_plugins.tune._dft_loss import DFTLoss, dft_step
from porism_plugins.tune._dft_negatives import draw_negatives

__all__ = ["PAPER", "DFTLoss", "dft_step", "draw_negatives"]

PAPER = Paper(
    key="dft", title="Discriminative Finetuning of Generative Large Language Models without Reward Models and Human "
                     "Preference Data",
    authors=("Siqi Guo", "Ilgee Hong", "Vicente Balmaseda", "Changlong Yu", "Liang Qiu", "Xin Liu", "Haoming Jiang",
             "Tuo Zhao", "Tianbao Yang"),
    year=2025, ref="arXiv:2502.18679", kinds=("loss",), family="tune", needs=("torch",),
    tags=("fine-tuning", "language models", "contrastive"), method="DFTLoss",
)  # fmt: skip

Rng = np.random.Generator
Tau = Annotated[float, Interval(ge=0.2, le=5)]
Factor = Annotated[float, Interval(ge=0.01, le=1)]
Partial = Annotated[float, Interval(ge=0.05, le=0.95)]
Count = Annotated[int, Interval(ge=2, le=32)]
Spread = Annotated[float, Interval(ge=0.1, le=10)]
Real = Annotated[float, Interval(ge=-5, le=5)]
Probability = Annotated[float, Interval(ge=0.01, le=1)]
Method = Literal["sft", "spin", "dft", "dft2"]
WORLD = "64 answers of 3 symbols, linear model, 128 prompts, 8 epochs of Adam, 1000 held-out prompts"
FIXED = "100 prompts, 30 visits each, a model that does not learn, tau 0.7"


def example_inputs(rng: Rng, *, batch: int) -> dict[str, Tensor]:
    """Log-likelihoods of a batch of answers, and of three negatives to each under model and reference."""
    sizes = {"answers": (batch,), "negatives": (batch, 3), "reference": (batch, 3)}
    return {name: torch.from_numpy(-rng.gamma(20, size=size)).float() for name, size in sizes.items()}


@proved("Without a moving average the pushes on a prompt's negatives sum to the pull on its answer", where="Eq. 7",
        control={"power": 0})  # fmt: skip
def pushes_balance_the_pull(*, a: Real = 0.0, b: Real = 1.0, tau: Tau = 0.5, p: Probability = 0.5, q: Probability = 0.2,
                            power: Literal[0, 1] = 1) -> Any:  # fmt: skip
    """For two negatives with scores a and b, drawn with probabilities p and q; the control lacks the factor tau."""
    import sympy

    term = tau**power * sympy.log((sympy.exp(a / tau) / p + sympy.exp(b / tau) / q) / 2)
    return sympy.Eq(sympy.simplify(term.diff(a) + term.diff(b)), 1)


@proved("At tau = 1 the log-partition over all answers has no gradient: the objective is that of SFT", where="derived",
        control={"power": 2})  # fmt: skip
def sft_at_temperature_one(*, a: Real = 0.0, b: Real = 1.0, power: Literal[1, 2] = 1) -> Any:
    """Of three answers with logits a, b and 0; ``power`` is 1 / tau."""
    import sympy

    shares = [sympy.exp(logit) / (sympy.exp(a) + sympy.exp(b) + 1) for logit in (a, b, 0)]
    return sympy.Eq(sympy.simplify(sympy.log(sum(share**power for share in shares)).diff(a)), 0)


@always("With every answer once as a negative the gradient is that of the exact objective", where="Eq. 6",
        control={"used": "one"})  # fmt: skip
def exact_expectation(rng: Rng, *, temperature: Tau = 0.5, spread: Annotated[float, Interval(ge=0.1, le=3)] = 1.0,
                      used: Literal["same", "one"] = "same") -> float:  # fmt: skip
    """In float64. The control takes the loss at temperature 1."""
    return margins.enumeration(rng, temperature=temperature, spread=spread, used=temperature if used == "same" else 1.0)


@always("Without a moving average the weights of a prompt's negatives have the mean 1", where="Eq. 7",
        control={"factor": 0.5})  # fmt: skip
def mean_weight_is_one(rng: Rng, *, negatives: Count = 3, spread: Spread = 2.0, temperature: Tau = 1.0,
                       factor: Literal[0.5, 1.0] = 1.0) -> float:  # fmt: skip
    return margins.weight_sum(rng, negatives=negatives, spread=spread, temperature=temperature, factor=factor)


@always("Before training, at tau = 1, all weights are 1, log u stays 0 and the value is that of SFT", where="derived",
        control={"temperature": 0.5})  # fmt: skip
def starts_as_sft(rng: Rng, *, negatives: Count = 3, spread: Spread = 2.0, factor: Factor = 0.85,
                  temperature: Literal[0.5, 1.0] = 1.0) -> float:  # fmt: skip
    return margins.start(rng, negatives=negatives, spread=spread, temperature=temperature, factor=factor)


@always("A prompt's average never leaves the interval between its old value and the new estimate", where="Eq. 8",
        control={"keep": "all"})  # fmt: skip
def average_stays_between(rng: Rng, *, spread: Spread = 2.0, factor: Partial = 0.85,
                          visits: Annotated[int, Interval(ge=1, le=20)] = 5,
                          keep: Literal["share", "all"] = "share") -> float:  # fmt: skip
    """The control forgets the factor 1 - gamma of the old value."""
    return margins.between(rng, spread=spread, factor=factor, visits=visits, keep=keep)


@always("A constant added to a prompt's log-weights and to its log u changes no gradient", where="Eq. 7",
        control={"where": "log-weights only"})  # fmt: skip
def shift_invariance(rng: Rng, *, spread: Spread = 2.0, factor: Partial = 0.5,
                     size: Annotated[float, Interval(ge=0.1, le=10)] = 3.0,
                     where: Literal["both", "log-weights only"] = "both") -> float:  # fmt: skip
    return margins.shift(rng, spread=spread, factor=factor, size=size, where=where)


@always("No weight exceeds the number of negatives over the factor, however far off the average is", where="derived",
        control={"bound": "1"})  # fmt: skip
def weights_are_bounded(rng: Rng, *, negatives: Count = 3, spread: Spread = 2.0, factor: Factor = 0.85,
                        bound: Literal["m / factor", "1"] = "m / factor") -> float:  # fmt: skip
    return margins.heaviest(rng, negatives=negatives, spread=spread, factor=factor, bound=bound)


@always("A gradient taken a few sequences at a time is that of the whole batch", where="derived",
        control={"normaliser": "of each part"})  # fmt: skip
def parts_make_the_whole(rng: Rng, *, negatives: Annotated[int, Interval(ge=2, le=6)] = 3,
                         rows: Annotated[int, Interval(ge=1, le=30)] = 2, variant: Literal["dft", "dft2"] = "dft",
                         normaliser: Literal["of all", "of each part"] = "of all") -> float:  # fmt: skip
    """In float64. The control accumulates over negatives, each with a normaliser of its own."""
    return margins.parts(rng, negatives=negatives, rows=rows, variant=variant, normaliser=normaliser)


@typically("The moving average lowers the bias of the log normaliser from two negatives", where="Sec. 4.2",
           at_least=0.01, control={"factor": 1.0}, scale=FIXED)  # fmt: skip
def average_lowers_bias(rng: Rng, *, factor: Factor = 0.85) -> Paired:
    """The threshold was set after a pilot on one other seed."""

    def arm(rng: Rng, factor: float) -> float:
        return abs(measure.estimates(rng, factor=factor).bias)

    return paired(arm, rng, ours={"factor": factor}, theirs={"factor": 1.0}, better="lower")


@typically("Four times the negatives at least halve the root mean square error of the log normaliser", where="Sec. 4.2",
           control={"negatives": 2}, scale=FIXED)  # fmt: skip
def negatives_lower_error(rng: Rng, *, negatives: Annotated[int, Interval(ge=1, le=64)] = 8) -> float:
    """With no moving average; the standard error of a mean of independent terms would halve exactly."""
    few, many = (measure.estimates(child, factor=1.0, negatives=count).error
                 for child, count in zip([np.random.default_rng(rng.integers(2**63)) for _ in "ab"], (2, negatives),
                                         strict=True))  # fmt: skip
    return float(np.log2(few / many)) - 1


@typically("Negatives drawn at temperature 0.7 and weighted by the plain base bias the log normaliser more than true "
           "samples", where="Sec. 5, the released sampler", at_least=0.05, control={"sampler": 1.0},
           scale=FIXED)  # fmt: skip
def mismatched_sampler(rng: Rng, *, sampler: Annotated[float, Interval(ge=0.3, le=1)] = 0.7) -> Paired:
    def arm(rng: Rng, sampler: float) -> float:
        return abs(measure.estimates(rng, sampler=sampler).bias)

    return paired(arm, rng, ours={"sampler": sampler}, theirs={"sampler": 1.0})


@typically("With two negatives the moving average aligns gradients better with those of the exact objective",
           where="Sec. 4.2", at_least=0.01, control={"factor": 1.0}, cap=24,
           scale="mean cosine over 50 steps of a small learning rate, 32 prompts, batch 16, tau 0.7")  # fmt: skip
def average_aligns_gradients(rng: Rng, *, factor: Factor = 0.85) -> Paired:
    return paired(measure.alignment, rng, ours={"factor": factor}, theirs={"factor": 1.0})


@typically("After the same steps right answers stand further above the base's wrong ones than after SFT",
           where="Sec. 5", at_least=0.1, control={"method": "sft"},
           scale=f"{WORLD}, learning rate 0.03, nats")  # fmt: skip
def larger_margin(rng: Rng, *, method: Method = "dft") -> Paired:
    """The threshold was set after a pilot on four other seeds."""
    return measure.against_sft(rng, method, by="margin")


@typically("DFT is more accurate than SFT, each at its best learning rate", where="Table 1", at_least=0.005,
           control={"method": "sft"}, cap=40, scale=WORLD)  # fmt: skip
def more_accurate(rng: Rng, *, method: Method = "dft") -> Paired:
    return measure.tuned_against(rng, ours={"method": method}, theirs={"method": "sft"}, by="accuracy")


@typically("DFT2 is more accurate than SFT, each at its best learning rate", where="Table 1", at_least=0.005,
           control={"method": "sft"}, cap=40, scale=WORLD)  # fmt: skip
def more_accurate_without_reference(rng: Rng, *, method: Method = "dft2") -> Paired:
    return measure.tuned_against(rng, ours={"method": method}, theirs={"method": "sft"}, by="accuracy")


@typically("From 16 prompts DFT is more accurate than SFT, each at its best learning rate", where="a boundary",
           at_least=0.005, control={"method": "sft"}, cap=40, scale=WORLD.replace("128", "16"))  # fmt: skip
def more_accurate_from_few(rng: Rng, *, method: Method = "dft") -> Paired:
    """The number of prompts is the smallest of a pilot on eight other seeds, in which DFT was ahead by a point."""
    return measure.tuned_against(rng, ours={"method": method}, theirs={"method": "sft"}, by="accuracy", train=16)


@typically("At a learning rate of 0.1 DFT2 is more accurate with the moving average than without",
           where="Sec. 5, ablation", at_least=0.01, control={"factor": 1.0}, cap=40, scale=WORLD)  # fmt: skip
def average_steadies_training(rng: Rng, *, factor: Factor = 0.9) -> Paired:
    """Stated after a pilot on four other seeds, in which the average made no difference at the best learning rate."""

    def arm(rng: Rng, factor: float) -> float:
        return measure.after_equal_steps(rng, measure.Arm("dft2", factor=factor), by="accuracy", learning_rate=0.1)

    return paired(arm, rng, ours={"factor": factor}, theirs={"factor": 1.0})


@typically("Right answers end up less likely under DFT than under SFT, each at its most accurate learning rate",
           where="a limitation", at_least=0.05, control={"method": "sft"}, cap=40, scale=f"{WORLD}, nats")  # fmt: skip
def likelihood_is_lost(rng: Rng, *, method: Method = "dft") -> Paired:
    """Stated after the same pilot."""
    return measure.tuned_against(rng, ours={"method": method}, theirs={"method": "sft"}, by="right", better="lower")


@figure("Held-out right and wrong answers over the epochs at learning rate 0.03; negatives pull both kinds down, SPIN "
        "is DPO against the same negatives. Means over replicates.", where="Fig. 2")  # fmt: skip
def epochs(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 4) -> Table:
    return figures.by_epoch(rng, replicates=replicates)


@figure("Accuracy and log-likelihood ratio by learning rate; dots are single replicates. The ratio grows with the rate "
        "for every loss, far beyond the rates that are accurate.", where="Table 1")  # fmt: skip
def learning_rates(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 3) -> Table:
    return figures.by_rate(rng, replicates=replicates)


@figure("Bias and error of the log normaliser against the number of negatives, for a model that does not learn.",
        where="Sec. 4.2")  # fmt: skip
def normaliser(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 2) -> Table:
    return figures.by_negatives(rng, replicates=replicates)


epochs.draw(figures.draw_epochs)
learning_rates.draw(figures.draw_rates)
normaliser.draw(figures.draw_negatives)


def demo(rng: Rng, *, negatives: Count = 2, temperature: Tau = 1.0, factor: Factor = 0.85,
         learning_rate: Annotated[float, Interval(ge=1e-4, le=1)] = 0.03) -> dict[str, float]:  # fmt: skip
    """Accuracy and margin on held-out prompts after DFT with these options, and after SFT."""
    return measure.compared(rng, negatives, temperature, factor, learning_rate)
