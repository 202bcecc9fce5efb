"""SinKD: distillation by the Sinkhorn distance between a batch of student and a batch of teacher outputs.

KL, reverse KL and JS compare a student output with its own teacher output, and are said to supervise poorly where the
two hardly overlap. SinKD adds an entropy-regularised transport cost between the two batches, so that distances across
samples enter the loss (1 - alpha) CE + alpha KD + beta SinKD. Cui et al., LREC-COLING 2024, arXiv:2402.17110.

*Paper and code.* The released loss sums over the batch, weighted by 0.8 x 0.002 (BERT on MNLI), and so grows with it;
here the mean is the default and ``reduction="sum"`` is theirs. It ignores its temperature argument in favour of 2 and
takes the softmax over axis 1, which is time for sequence logits. Its sample-wise variant moves a batch of one onto a
batch of one at the price of the L1 distance: ``group_size=1`` here. Its JS baseline gives probabilities to ``kl_div``,
which expects logarithms, and is not JS; the one here is.

*What the checks find.* At little overlap SinKD pulls less at the logits than reverse KL and JS and needs more steps.
Alone it loses the pairing. On digits, more KL does as well beside CE and KD as SinKD does.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from porism import Paired, Paper, Table, always, figure, paired, proved, typically, validated
from porism.drawing import columns, plot_by
from porism.errors import ParameterError
from porism_plugins.distill import _engine as engine

PAPER = Paper(
    key="sinkd", title="Sinkhorn Distance Minimization for Knowledge Distillation",
    authors=("Xiao Cui", "Yulei Qin", "Yuting Gao", "Enwei Zhang", "Zihan Xu", "Tong Wu", "Ke Li", "Xing Sun",
             "Wengang Zhou", "Houqiang Li"),
    year=2024, ref="arXiv:2402.17110", kinds=("loss",), family="distill", needs=("torch",),
    tags=("optimal transport", "logits"), method="SinKDLoss",
)  # fmt: skip

Positive = Annotated[float, Interval(ge=1e-3, le=1000)]
Iterations = Annotated[int, Interval(ge=1, le=1000)]
Size = Annotated[int, Interval(ge=2, le=24)]
Gap = Annotated[float, Interval(gt=0, le=30)]
COMPETITORS = {"reverse KL": engine.reverse_kl_divergence, "JS": engine.js_divergence}


class SinKDLoss(nn.Module):
    """Batch-wise Sinkhorn distillation loss; gradients flow through cost and plan, to the student only.

    Parameters
    ----------
    temperature
        Divides both logits before the softmax.
    epsilon
        Entropic regularisation, in units of the cost, an L1 distance in [0, 2].
    iterations
        Row and column scalings; the published 20 do not converge for peaked outputs.
    reduction
        ``"mean"`` divides the cost of the plan by the number of samples, for a loss in [0, 2]; ``"sum"`` does not.
    group_size
        Transport within consecutive groups of this many samples, all of them for 0; memory grows with it.

    Raises
    ------
    ParameterError
        For options out of range, and for logits that are empty, not floating, unequal in shape or device, or that
        do not divide into groups.

    Notes
    -----
    Equal outputs give not 0 but an entropic bias below epsilon log B, and the loss alone does not tie a student
    row to its own teacher row. Half precision is computed and returned in float32. Ties have gradient 0.

    Examples
    --------
    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 2.0]])
    >>> SinKDLoss()(student, teacher)  # of one sample the L1 distance, 2 sigmoid(1) - 1
    tensor(0.4621)
    """

    @validated
    def __init__(
        self, *, temperature: Positive = 2.0, epsilon: Positive = 0.1, iterations: Iterations = 20,
        reduction: Literal["mean", "sum"] = "mean", group_size: Annotated[int, Interval(ge=0)] = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.reduction, self.group_size = reduction, group_size

    def cost(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return D_ij = |p^s_i - p^t_j|_1, shape (groups, B, B), for logits (..., C); the teacher is detached."""
        engine.check_logits(student_logits, teacher_logits)
        samples = student_logits.shape[:-1].numel()
        group_size = self.group_size or samples
        if samples % group_size:
            raise ParameterError(f"group_size must divide the number of samples {samples}, got {group_size}")
        dtype = torch.promote_types(student_logits.dtype, torch.float32)  # float16 is too coarse for D / epsilon
        p_student, p_teacher = (
            (logits.reshape(-1, group_size, logits.shape[-1]).to(dtype) / self.temperature).softmax(-1)
            for logits in (student_logits, teacher_logits.detach())
        )
        return torch.cdist(p_student, p_teacher, p=1)

    def plan(self, cost: Tensor) -> Tensor:
        """Scale rows, then columns, of K = exp(-D / epsilon) to sum 1, ``iterations`` times; shape as ``cost``."""
        log_plan = -cost / self.epsilon
        for _ in range(self.iterations):  # to divide by a sum is to subtract its logarithm: log_softmax
            log_plan = log_plan.log_softmax(-1).log_softmax(-2)
        return log_plan.exp()

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss, a scalar; both logits have shape (..., C), where all axes but C count samples."""
        cost = self.cost(student_logits, teacher_logits)
        total = (self.plan(cost) * cost).sum()
        return total / cost.shape[:-1].numel() if self.reduction == "mean" else total


@proved("On one sample, if student and teacher prefer different ones of two classes by logit gaps s and t, reverse KL "
        "pulls (s + t) / 2 times as hard as SinKD", where="Abstract, against it", control={"divisor": 4})  # fmt: skip
def reverse_kl_pulls_harder(*, s: Gap = 4.0, t: Gap = 4.0, divisor: Literal[2, 4] = 2) -> Any:
    import sympy

    q, p = 1 / (1 + sympy.exp(s)), 1 / (1 + sympy.exp(-t))  # of the class that the teacher prefers
    reverse_kl = q * sympy.log(q / p) + (1 - q) * sympy.log((1 - q) / (1 - p))
    sinkd = 2 * (p - q)  # of one sample the L1 distance
    return sympy.Eq(reverse_kl.diff(s), (s + t) / divisor * sinkd.diff(s))


@always("Reordering either batch, or the classes of both, changes nothing", where="Method, batch-wise reformulation",
        control={"reorder": "student classes"})  # fmt: skip
def symmetries(rng: np.random.Generator, *, samples: Size = 8, classes: Size = 5, spread: Gap = 3.0,
               epsilon: Positive = 0.1, reorder: Literal["all", "student classes"] = "all") -> float:  # fmt: skip
    student, teacher = engine.random_logits(rng, samples=samples, classes=classes, spread=spread)
    rows, columns, order = rng.permutation(samples), rng.permutation(samples), rng.permutation(classes)
    moved = teacher[columns][:, order] if reorder == "all" else teacher
    loss = SinKDLoss(epsilon=epsilon)
    return 1e-8 - (loss(student, teacher) - loss(student[rows][:, order], moved)).abs().item()


@always("The mean loss is at most epsilon log B above the exact assignment cost, and not below it, up to the row error "
        "of the plan", where="Method, Sinkhorn distance", control={"bias": "none"})  # fmt: skip
def entropic_bias(rng: np.random.Generator, *, samples: Size = 8, classes: Size = 5, spread: Gap = 3.0,
                  epsilon: Positive = 0.1, iterations: Iterations = 20,
                  bias: Literal["epsilon log B", "none"] = "epsilon log B") -> float:  # fmt: skip
    loss = SinKDLoss(epsilon=epsilon, iterations=iterations)  # derived in tests/papers/test_sinkd.py
    cost = loss.cost(*engine.random_logits(rng, samples=samples, classes=classes, spread=spread))[0]
    plan = loss.plan(cost)
    above = float((plan * cost).sum() / samples - cost[linear_sum_assignment(cost)].mean())
    row_error = float((plan.sum(1) - 1).abs().mean())
    allowed = epsilon * math.log(samples) if bias == "epsilon log B" else 0.0
    return min(above, allowed - above) + row_error + 1e-8


@typically("Where teacher and student hardly overlap, SinKD matches the batches in fewer steps than reverse KL and JS",
           where="Abstract", at_least=0.15, control={"epsilon": 1000.0},
           scale="32 free logit vectors of 10 classes, log2 of steps at the best of 5 learning rates")  # fmt: skip
def fewer_steps(rng: np.random.Generator, *, epsilon: Positive = 0.1, gap: Gap = 6.0) -> Paired:
    """Any pairing of the two batches counts as a match. The control's plan is uniform: nothing is transported."""
    pair = engine.disjoint_logits(rng, samples=32, classes=10, gap=gap)
    ours = engine.fewest_steps(SinKDLoss(temperature=1.0, epsilon=epsilon), *pair)
    theirs = min(engine.fewest_steps(loss, *pair) for loss in COMPETITORS.values())
    return Paired(math.log2(ours), math.log2(theirs), "lower")


@typically("Where teacher and student hardly overlap, SinKD pulls harder at the logits than reverse KL and JS",
           where="Abstract", at_least=0.1, control={"epsilon": 1000.0},
           scale="32 logit vectors of 10 classes, log10 of the median gradient norm of a sample")  # fmt: skip
def stronger_pull(rng: np.random.Generator, *, epsilon: Positive = 0.1, gap: Gap = 8.0) -> Paired:
    pair = engine.disjoint_logits(rng, samples=32, classes=10, gap=gap)
    losses = SinKDLoss(temperature=1.0, epsilon=epsilon), *COMPETITORS.values()
    ours, *theirs = (float(engine.gradient(loss, *pair).norm(dim=-1).median().log10()) for loss in losses)
    return Paired(ours, max(theirs))


@typically("Beside CE and KD, a Sinkhorn term raises the student's accuracy more than additional KL does",
           where="Experiments", at_least=0.005, control={"extra": "kl"}, cap=32,
           scale="100 digits, MLP 128-128 to MLP 8, weight chosen from 0.02, 0.2, 2 on 300 other digits")  # fmt: skip
def beats_more_kl(rng: np.random.Generator, *, extra: Literal["sinkhorn", "kl"] = "sinkhorn") -> Paired:
    terms = {"sinkhorn": SinKDLoss(), "kl": lambda student, teacher: engine.kl_divergence(student / 2, teacher / 2)}
    return paired(engine.tuned_accuracy, rng, ours={"extra": terms[extra]}, theirs={"extra": terms["kl"]})


@typically("SinKD alone loses the pairing: far fewer students than under KL end with their own teacher's largest class",
           where="Method, batch-wise reformulation (a limitation)", at_least=0.2, control={"group_size": 1},
           scale="32 free logit vectors of 10 classes, share of samples at the best of 5 learning rates")  # fmt: skip
def pairing_is_lost(rng: np.random.Generator, *, group_size: Literal[0, 1] = 0) -> Paired:
    """The control transports every sample onto its own teacher only."""
    pair = engine.random_logits(rng, samples=32, classes=10, spread=2.0)
    sinkd = SinKDLoss(temperature=1.0, group_size=group_size)
    return Paired(engine.best_agreement(engine.kl_divergence, *pair), engine.best_agreement(sinkd, *pair))


@figure("Loss and gradient while 32 students move in a straight line from wrong classes to their teachers: at little "
        "overlap only forward KL keeps its pull, and SinKD has the weakest.", where="Abstract")  # fmt: skip
def overlap(rng: np.random.Generator, *, points: Annotated[int, Interval(ge=5, le=500)] = 60, gap: Gap = 10.0) -> Table:
    (start, teacher), rows = engine.disjoint_logits(rng, samples=32, classes=10, gap=gap), []
    for name, loss in {"KL": engine.kl_divergence, **COMPETITORS, "SinKD": SinKDLoss(temperature=1.0)}.items():
        for student in (start + way * (teacher - start) for way in np.linspace(0, 0.75, points)):
            shared = torch.minimum(student.softmax(-1), teacher.softmax(-1)).sum(-1).median()
            pull = engine.gradient(loss, student, teacher).norm(dim=-1).median()
            rows.append((name, shared.item(), loss(student, teacher).item(), pull.item()))
    return columns("loss overlap value pull", rows)


@overlap.draw
def _(table, left, right):
    for axes, y, label in ((left, "value", "loss"), (right, "pull", "gradient norm at the logits")):
        plot_by(axes, table, "overlap", y, "loss")
        axes.set(xscale="log", yscale="log", xlabel="overlap of student and teacher, 1 - TV", ylabel=label)
    right.legend()


@figure("Accuracy of an 8-unit student of digits, paired over data splits, teachers and initial weights; diamonds are "
        "medians, with exact 95 % intervals for the median difference.", where="Experiments")  # fmt: skip
def digits_accuracy(rng: np.random.Generator, *, replicates: Annotated[int, Interval(ge=2, le=100)] = 10) -> Table:
    return engine.accuracy_table(rng, engine.arms("SinKD", SinKDLoss()), replicates=replicates)


digits_accuracy.draw(engine.draw_paired)


@figure("Left: the loss above the exact assignment cost; at convergence it is below epsilon log B, and before that it "
        "can be negative. Right: the plan's largest row error.", where="Method, Sinkhorn distance")  # fmt: skip
def bias_and_convergence(rng: np.random.Generator, *, samples: Size = 24, spread: Gap = 8.0) -> Table:
    pair, rows = engine.random_logits(rng, samples=samples, classes=10, spread=spread), []
    for iterations in (1, 3, 10, 20, 100, 1000):
        for epsilon in np.geomspace(0.01, 10, 31):
            loss = SinKDLoss(epsilon=epsilon, iterations=iterations)
            cost = loss.cost(*pair)[0]
            excess = loss(*pair) - cost[linear_sum_assignment(cost)].mean()
            rows.append((iterations, epsilon, excess.item(), (loss.plan(cost).sum(1) - 1).abs().max().item()))
    return columns("iterations epsilon excess error", rows)


@bias_and_convergence.draw
def _(table, left, right):
    for axes, y, label in ((left, "excess", "loss - exact assignment cost"), (right, "error", "largest row error")):
        plot_by(axes, table, "epsilon", y, "iterations")
        axes.set(xscale="log", xlabel="epsilon", ylabel=label)
    right.set(yscale="log", ylim=(1e-8, 20))
    left.legend(title="iterations", loc="lower right")


def demo(rng: np.random.Generator, *, alpha: Annotated[float, Interval(ge=0, le=1)] = 0.8,
         beta: Annotated[float, Interval(ge=0, le=100)] = 0.8, epsilon: Positive = 0.1, iterations: Iterations = 20,
         labels: Annotated[int, Interval(ge=20, le=600)] = 100) -> dict[str, float]:  # fmt: skip
    """Test accuracy of a small student of digits under CE, and with KD and SinKD of these weights."""
    arms = engine.arms("SinKD", SinKDLoss(epsilon=epsilon, iterations=iterations), alpha=alpha, beta=beta)
    return {name: score.test for name, score in engine.distil_digits(rng, arms, labels=labels).items()}
