"""SinKD: distillation by the Sinkhorn distance between a batch of student and a batch of teacher outputs.

KL, reverse KL and JS compare a student output with its own teacher output, and are said to supervise poorly where the
two hardly overlap. SinKD adds an entropy-regularised transport cost between the two batches, so that distances across
samples enter the loss (1 - alpha) CE + alpha KD + beta SinKD. Cui et al., LREC-COLING 2024, arXiv:2402.17110.

*Paper and code.* The released loss sums over the batch; here the mean is the default and ``reduction="sum"`` is theirs.
It ignores its temperature argument in favour of 2 and takes the softmax over axis 1, which is time for sequence logits.
Its sample-wise variant is ``group_size=1`` here, and ``sample_wise_loss`` with prices between classes. Its JS gives
probabilities to ``kl_div``, which expects logarithms, and is not JS; the one here is.

*What the checks find.* On disjoint supports only forward KL keeps its gradient. SinKD puts less than KL between a
teacher's modes and more than JS on the smaller one, but alone it loses the pairing and learns other samples' teachers.
Beside CE and KD, more KL does as well on digits and for an encoder, and better for a decoder.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any, Literal

from annotated_types import Interval

from porism import Paired, Paper, Table, always, figure, paired, proved, typically
from porism_plugins.distill import _losses as losses
from porism_plugins.distill import _sinkd_experiments as measure
from porism_plugins.distill import _sinkd_figures as figures
from porism_plugins.distill import _sinkd_margins as margins
from porism_plugins.distill import _sinkd_mixture as mixture
from porism_plugins.distill import _sinkd_models as models
from porism_plugins.distill._sinkd_loss import Iterations, Positive, SinKDLoss, sample_wise_loss
from porism_plugins.distill._sinkd_margins import Gap, Replicates, Rng, Size, Wide

__all__ = ["PAPER", "SinKDLoss", "sample_wise_loss"]

PAPER = Paper(
    key="sinkd", title="Sinkhorn Distance Minimization for Knowledge Distillation",
    authors=("Xiao Cui", "Yulei Qin", "Yuting Gao", "Enwei Zhang", "Zihan Xu", "Tong Wu", "Ke Li", "Xing Sun",
             "Wengang Zhou", "Houqiang Li"),
    year=2024, ref="arXiv:2402.17110", kinds=("loss",), family="distill", needs=("hf",), method="SinKDLoss",
    tags=("optimal transport", "logits"),
)  # fmt: skip

COMPETITORS = figures.COMPETITORS
MIXTURE = "32 contexts of 48 bins, modes 8 widths apart with 0.7 and 0.3, 150 steps of Adam"


@proved("On one sample, if student and teacher prefer different ones of two classes by logit gaps s and t, reverse KL "
        "pulls (s + t) / 2 times as hard as SinKD", where="Abstract, against it", control={"divisor": 4})  # fmt: skip
def reverse_kl_pulls_harder(*, s: Gap = 4.0, t: Gap = 4.0, divisor: Literal[2, 4] = 2) -> Any:
    import sympy

    q, p = 1 / (1 + sympy.exp(s)), 1 / (1 + sympy.exp(-t))  # of the class that the teacher prefers
    reverse_kl = q * sympy.log(q / p) + (1 - q) * sympy.log((1 - q) / (1 - p))
    sinkd = 2 * (p - q)  # of one sample the L1 distance
    return sympy.Eq(reverse_kl.diff(s), (s + t) / divisor * sinkd.diff(s))


@proved("On one sample of two classes forward KL pulls with the missing probability p - q and SinKD with 2 q (1 - q), "
        "which vanishes as the student moves away", where="Abstract, against it", control={"factor": 1})  # fmt: skip
def kl_keeps_its_pull(*, s: Gap = 4.0, t: Gap = 4.0, factor: Literal[1, 2] = 2) -> Any:
    import sympy

    q, p = 1 / (1 + sympy.exp(s)), 1 / (1 + sympy.exp(-t))  # student and teacher, of the teacher's class
    kl = p * sympy.log(p / q) + (1 - p) * sympy.log((1 - p) / (1 - q))
    return sympy.Eq(factor * q * (1 - q) * kl.diff(s), (2 * (p - q)).diff(s) * (p - q))


@always("Reordering either batch, or the classes of both, changes nothing", where="Method, batch-wise reformulation",
        control={"reorder": "student classes"})  # fmt: skip
def symmetries(rng: Rng, *, samples: Size = 8, classes: Size = 5, spread: Gap = 3.0, epsilon: Positive = 0.1,
               reorder: Literal["all", "student classes"] = "all") -> float:  # fmt: skip
    return margins.symmetry(rng, samples=samples, classes=classes, spread=spread, epsilon=epsilon, reorder=reorder)


@always("The mean loss is at most epsilon log B above the exact assignment cost, and not below it, up to the row error "
        "of the plan", where="Method, Sinkhorn distance", control={"bias": "none"})  # fmt: skip
def entropic_bias(rng: Rng, *, samples: Size = 8, classes: Size = 5, spread: Gap = 3.0, epsilon: Positive = 0.1,
                  iterations: Iterations = 20,
                  bias: Literal["epsilon log B", "none"] = "epsilon log B") -> float:  # fmt: skip
    sizes = {"samples": samples, "classes": classes, "spread": spread, "epsilon": epsilon, "iterations": iterations}
    return margins.bracket(rng, **sizes, allowed=epsilon * math.log(samples) * (bias != "none"))


@always("The loss is that of converged entropic transport, up to the row error of the plan",
        where="Method, Sinkhorn distance", control={"reference": "2 epsilon"})  # fmt: skip
def converges(rng: Rng, *, samples: Size = 8, classes: Size = 5, spread: Gap = 3.0, epsilon: Wide = 0.1,
              iterations: Annotated[int, Interval(ge=100, le=1000)] = 1000,
              reference: Literal["epsilon", "2 epsilon"] = "epsilon") -> float:  # fmt: skip
    """Against :func:`porism.transport.sinkhorn` in float64. The row error is summed over the rows."""
    sizes = {"samples": samples, "classes": classes, "spread": spread, "epsilon": epsilon}
    return margins.convergence(rng, **sizes, iterations=iterations, factor=1 if reference == "epsilon" else 2)


@always("The batch-wise loss is at most epsilon log B above the sample-wise one, up to the row error of the plan",
        where="Method, batch-wise reformulation", control={"larger": "batch-wise"})  # fmt: skip
def batch_below_sample_wise(rng: Rng, *, samples: Size = 8, classes: Size = 5, spread: Gap = 3.0,
                            epsilon: Positive = 0.01, likeness: Annotated[float, Interval(ge=0, le=1)] = 0.0,
                            larger: Literal["sample-wise", "batch-wise"] = "sample-wise") -> float:  # fmt: skip
    """To pair each sample with its own teacher is one plan of many. The control has the two exchanged."""
    sizes = {"samples": samples, "classes": classes, "spread": spread, "epsilon": epsilon}
    return margins.below_sample_wise(rng, **sizes, likeness=likeness, larger=larger)


@always("Transport between the classes of one sample, at one price, is its L1 distance and at most epsilon log C more, "
        "up to the row error of the plan", where="Method, sample-wise variant", control={"bias": "none"})  # fmt: skip
def sample_wise_is_l1(rng: Rng, *, samples: Size = 4, classes: Size = 5, spread: Gap = 3.0, epsilon: Positive = 0.1,
                      iterations: Annotated[int, Interval(ge=1, le=200)] = 100,
                      bias: Literal["epsilon log C", "none"] = "epsilon log C") -> float:  # fmt: skip
    sizes = {"samples": samples, "classes": classes, "spread": spread, "epsilon": epsilon, "iterations": iterations}
    return margins.sample_wise_bracket(rng, **sizes, allowed=epsilon * math.log(classes) * (bias != "none"))


@typically("Where teacher and student hardly overlap, SinKD matches the batches in fewer steps than reverse KL and JS",
           where="Abstract", at_least=0.15, control={"epsilon": 1000.0},
           scale="32 free logit vectors of 10 classes, log2 of steps at the best of 5 learning rates")  # fmt: skip
def fewer_steps(rng: Rng, *, epsilon: Positive = 0.1, gap: Gap = 6.0) -> Paired:
    """Any pairing of the two batches counts as a match. The control's plan is uniform: nothing is transported."""
    pair = measure.disjoint_logits(rng, samples=32, classes=10, gap=gap)
    ours = measure.fewest_steps(SinKDLoss(temperature=1.0, epsilon=epsilon), *pair)
    theirs = min(measure.fewest_steps(loss, *pair) for loss in COMPETITORS.values())
    return Paired(math.log2(ours), math.log2(theirs), "lower")


@typically("Where teacher and student hardly overlap, SinKD pulls harder at the logits than reverse KL and JS",
           where="Abstract", at_least=0.1, control={"epsilon": 1000.0},
           scale="32 logit vectors of 10 classes, log10 of the median gradient norm of a sample")  # fmt: skip
def stronger_pull(rng: Rng, *, epsilon: Positive = 0.1, gap: Gap = 8.0) -> Paired:
    pair = measure.disjoint_logits(rng, samples=32, classes=10, gap=gap)
    losses = SinKDLoss(temperature=1.0, epsilon=epsilon), *COMPETITORS.values()
    ours, *theirs = (float(measure.gradient(loss, *pair).norm(dim=-1).median().log10()) for loss in losses)
    return Paired(ours, max(theirs))


@typically("Beside CE and KD, a Sinkhorn term raises the student's accuracy more than additional KL does",
           where="Experiments", at_least=0.005, control={"extra": "kl"}, cap=32,
           scale="100 digits, MLP 128-128 to MLP 8, weight chosen from 0.02, 0.2, 2 on 300 other digits")  # fmt: skip
def beats_more_kl(rng: Rng, *, extra: Literal["sinkhorn", "kl"] = "sinkhorn") -> Paired:
    terms = {"sinkhorn": SinKDLoss(), "kl": measure.more_of_kd}
    return paired(measure.tuned_accuracy, rng, ours={"extra": terms[extra]}, theirs={"extra": terms["kl"]})


@typically("SinKD alone loses the pairing: far fewer students than under KL end with their own teacher's largest class",
           where="Method, batch-wise reformulation (a limitation)", at_least=0.2, control={"group_size": 1},
           scale="32 free logit vectors of 10 classes, share of samples at the best of 5 learning rates")  # fmt: skip
def pairing_is_lost(rng: Rng, *, group_size: Literal[0, 1] = 0) -> Paired:
    """The control transports every sample onto its own teacher only."""
    pair = measure.random_logits(rng, samples=32, classes=10, spread=2.0)
    sinkd = SinKDLoss(temperature=1.0, group_size=group_size)
    return Paired(measure.best_agreement(losses.kl_divergence, *pair), measure.best_agreement(sinkd, *pair))


@typically("On disjoint supports SinKD keeps a useful gradient for more samples than KL, reverse KL and JS do",
           where="Abstract", at_least=0.1, control={"epsilon": 1000.0},
           scale="32 logit vectors of 10 classes, share of samples with a gradient norm of 1e-6 or more")  # fmt: skip
def useful_gradient(rng: Rng, *, epsilon: Positive = 0.1, temperature: Positive = 1.0, gap: Gap = 16.0) -> Paired:
    """All at one temperature; at the published 2 every loss keeps this much gradient at this gap."""
    pair = measure.disjoint_logits(rng, samples=32, classes=10, gap=gap)
    terms = SinKDLoss(temperature=1.0, epsilon=epsilon), losses.kl_divergence, *COMPETITORS.values()
    ours, *theirs = (measure.share_with_gradient(loss, *pair, temperature=temperature) for loss in terms)
    return Paired(ours, max(theirs))


@typically("Where the student cannot hold the teacher's mixture, SinKD puts less between the modes than KL does",
           where="Abstract, mode-averaging", at_least=0.05, control={"loss": "KL"}, scale=MIXTURE)  # fmt: skip
def averages_less_than_kl(rng: Rng, *, loss: Literal["SinKD", "KL"] = "SinKD") -> Paired:
    return mixture.against(rng, loss, "KL", of="between")


@typically("Where the student cannot hold the teacher's mixture, SinKD loses fewer modes than reverse KL does",
           where="Abstract, mode-collapsing", at_least=0.05, control={"loss": "reverse KL"}, scale=MIXTURE)  # fmt: skip
def loses_fewer_modes(rng: Rng, *, loss: Literal["SinKD", "reverse KL"] = "SinKD") -> Paired:
    """A mode is lost that gets less than a tenth of the teacher's probability."""
    return mixture.against(rng, loss, "reverse KL", of="lost")


@typically("Where the student cannot hold the teacher's mixture, SinKD gives the smaller mode more than JS does",
           where="Abstract, mode-underestimation", at_least=0.05, control={"loss": "JS"}, scale=MIXTURE)  # fmt: skip
def underestimates_less_than_js(rng: Rng, *, loss: Literal["SinKD", "JS"] = "SinKD") -> Paired:
    """As a share of what the own teacher gives it, whatever else the student gets wrong."""
    return mixture.against(rng, loss, "JS", of="minor")


@typically("Beside CE and KD, SinKD helps a small encoder more than additional KL does", where="Experiments, BERT",
           at_least=0.005, control={"arm": "KL"}, cap=12,
           scale="BERT of 2 layers to its first, 512 missing vowels, 30 steps, weight tuned, accuracy")  # fmt: skip
def helps_an_encoder(rng: Rng, *, arm: Literal["SinKD", "KL"] = "SinKD") -> Paired:
    return paired(functools.partial(models.score, kind="encoder"), rng, ours={"arm": arm}, theirs={"arm": "KL"})


@typically("Beside CE and KD, SinKD helps a small decoder more than additional KL does", where="Experiments, GPT-Neo",
           at_least=0.005, control={"arm": "KL"}, cap=12,
           scale="Llama of 2 layers to its first, 160 windows, 30 steps, weight tuned, bits a character")  # fmt: skip
def helps_a_decoder(rng: Rng, *, arm: Literal["SinKD", "KL"] = "SinKD") -> Paired:
    return paired(functools.partial(models.score, kind="decoder"), rng, ours={"arm": arm}, theirs={"arm": "KL"})


@figure("Loss and gradient while 32 students move in a straight line from wrong classes to their teachers: at little "
        "overlap only forward KL keeps its pull, and SinKD is as weak as JS.", where="Abstract")  # fmt: skip
def overlap(rng: Rng, *, points: Annotated[int, Interval(ge=5, le=500)] = 60, gap: Gap = 10.0) -> Table:
    return figures.overlap(rng, points=points, gap=gap)


@figure("Single bumps fitted to a mixture of two by each loss, in one of 32 contexts.", where="Abstract")
def mixture_fits(rng: Rng) -> Table:
    return figures.fits(rng)


@figure("Mode averaging, collapsing and underestimation against the distance of the two modes.", where="Abstract")
def mode_faults(rng: Rng, *, replicates: Replicates = 2) -> Table:
    return figures.faults(rng, replicates=replicates)


@figure("Accuracy of an 8-unit student of digits; diamonds are medians, with exact 95 % intervals", where="Experiments")
def digits_accuracy(rng: Rng, *, replicates: Annotated[int, Interval(ge=2, le=100)] = 6) -> Table:
    return figures.accuracy_table(rng, measure.arms("SinKD", SinKDLoss()), replicates=replicates)


@figure("On digits, one option changed; on the right the gain over as much KL, at equal steps", where="Experiments")
def hyper_parameters(rng: Rng, *, replicates: Replicates = 1) -> Table:
    return figures.hyper_parameters(rng, replicates=replicates)


@figure("First layers of a BERT and a Llama taught by the whole, extra terms at their best weight", where="Experiments")
def small_transformers(rng: Rng, *, replicates: Replicates = 1) -> Table:
    return figures.small_transformers(rng, replicates=replicates)


@figure("The loss above the exact assignment cost, and the plan's largest row error", where="Method, Sinkhorn distance")
def bias_and_convergence(rng: Rng, *, samples: Size = 24, spread: Gap = 8.0) -> Table:
    return figures.bias(rng, samples=samples, spread=spread)


overlap.draw(figures.draw_overlap)
mixture_fits.draw(figures.draw_fits)
mode_faults.draw(figures.draw_faults)
digits_accuracy.draw(figures.draw_paired)
hyper_parameters.draw(figures.draw_hyper_parameters)
small_transformers.draw(figures.draw_transformers)
bias_and_convergence.draw(figures.draw_bias)


def demo(rng: Rng, *, alpha: Annotated[float, Interval(ge=0, le=1)] = 0.8,
         beta: Annotated[float, Interval(ge=0, le=100)] = 0.8, epsilon: Positive = 0.1, iterations: Iterations = 20,
         labels: Annotated[int, Interval(ge=20, le=600)] = 100) -> dict[str, float]:  # fmt: skip
    """Test accuracy of a small student of digits under CE, and with KD and SinKD of these weights."""
    arms = measure.arms("SinKD", SinKDLoss(epsilon=epsilon, iterations=iterations), alpha=alpha, beta=beta)
    return {name: score.test for name, score in measure.distil_digits(rng, arms, labels=labels).items()}
