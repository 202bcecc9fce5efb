"""LoSparse: every matrix as a low-rank part that neurons share plus the few whole rows that do not fit it.

Each linear layer becomes U V + S with the best factors of a low rank and S the whole residual, so that training starts
from the model itself. Whole rows of S are then pruned while everything is fine-tuned, those of the smallest mean
sensitivity first, over all layers. Li et al., ICML 2023; PMLR 202, 20336-20350, arXiv:2306.11222.

*Paper and code.* Rows are output neurons, the released default; its columns are here too. The released threshold lies
between weights, so that a row more than asked for stays and ranks are rounded up for free; here ranks, rows and all are
at most the budget. It looks for rows by their sum, which drops one that cancels, keeps a buffer for one batch size, and
needs biases; none of this is so here. Distillation is left to ``loss``.

*What the checks find.* On digits at 15 % no rival differs by half a point. At 5 % LoSparse beats low rank alone, and
rows alone only if training is short. No gain shows of the gradual schedule or of sensitivity over norms. In matrices
with rows much larger than the rest the singular vectors are spent on these rows.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from porism import Paired, Paper, Table, always, figure, proved, typically
from porism_plugins.prune import _losparse_experiments as measure
from porism_plugins.prune import _losparse_invariants as invariant
from porism_plugins.prune._losparse_experiments import Arm
from porism_plugins.prune._losparse_layer import LowRankSparseLinear, Structure, dense
from porism_plugins.prune._losparse_method import losparse

__all__ = ["LAYERS", "PAPER", "LowRankSparseLinear", "dense", "losparse"]

PAPER = Paper(
    key="losparse",
    title="LoSparse: Structured Compression of Large Language Models based on Low-Rank and Sparse Approximation",
    authors=("Yixiao Li", "Yifan Yu", "Qingru Zhang", "Chen Liang", "Pengcheng He", "Weizhu Chen", "Tuo Zhao"),
    year=2023, ref="arXiv:2306.11222", kinds=("compressor",), family="prune", needs=("torch",),
    tags=("pruning", "low rank", "transformers"), method="losparse",
)  # fmt: skip
LAYERS = (LowRankSparseLinear,)

Rng = np.random.Generator
Rows = Annotated[int, Interval(ge=2, le=24)]
Inputs = Annotated[int, Interval(ge=2, le=24)]
Rank = Annotated[int, Interval(ge=0, le=24)]
Side = Annotated[int, Interval(ge=1, le=100_000)]
Share = Annotated[float, Interval(ge=0.01, le=0.9)]
Power = Literal[3, 2]
ARMS: tuple[Arm, ...] = ("LoSparse", "rows only", "low rank only", "in one go", "row norm")
MADE_UP = "128 x 128, 25 % of the numbers; logarithms of relative Frobenius errors"
DIGITS = "digits, MLP 64-256-256-10, both hidden layers at 15 % (5 % low rank), 800 to train on, 400 steps, Adam"

LITTLE = DIGITS.replace("15 % (5 % low rank)", "5 % (2 % low rank)")


def example_calibration(rng: Rng) -> list[tuple[Tensor, Tensor]]:
    """Batches for the model of the conformance checks: pairs, as a model is to be trained on them."""
    return [(torch.from_numpy(rng.normal(size=(8, 16))).float(), torch.from_numpy(rng.integers(8, size=8)))
            for _ in range(4)]  # fmt: skip


def example_options(rng: Rng) -> dict[str, Any]:
    """A short training for the conformance checks."""
    return {"steps": 100, "learning_rate": 1e-3}


@proved("Of what the cubic schedule takes out of S, a quarter is still there on average", where="Algorithm 1",
        control={"power": 2})  # fmt: skip
def mean_of_the_schedule(*, p: Share = 0.1, power: Power = 3) -> Any:
    """Over the time between warm-up and cooldown, which sets what training costs."""
    import sympy

    time = sympy.Symbol("time", positive=True)
    mean = sympy.integrate(p + (1 - p) * (1 - time) ** power, (time, 0, 1))
    return sympy.Eq(mean, p + (1 - p) / 4)


@proved("The factors hold the share of the numbers that was asked for, and less than one rank more", where="Sec. 3",
        control={"rounding": "down"})  # fmt: skip
def rank_rule(*, rows: Side = 64, inputs: Side = 256, share: Share = 0.05,
              rounding: Literal["up", "down"] = "up") -> Any:  # fmt: skip
    """In units of one rank, which holds d1 + d2 numbers."""
    import sympy

    exact = share * rows * inputs / (rows + inputs)
    rank = sympy.ceiling(exact) if rounding == "up" else sympy.floor(exact)
    more = rank.rewrite(sympy.frac) - exact
    return sympy.And(more >= 0, more < 1)


@always("At the start every layer computes what it did, whatever the rank", where="Sec. 3",
        control={"residual": "the dense layer"})  # fmt: skip
def start_is_exact(rng: Rng, *, rows: Rows = 6, inputs: Inputs = 8, rank: Annotated[int, Interval(ge=1, le=24)] = 2,
                   residual: Literal["S", "the dense layer"] = "S") -> float:  # fmt: skip
    return invariant.start_margin(rng, rows=rows, inputs=inputs, rank=rank, residual=residual)


@always("At the start ||S||^2 is the sum of the squared singular values beyond the rank", where="Sec. 3",
        control={"fit": "random"})  # fmt: skip
def residual_is_the_tail(rng: Rng, *, rows: Rows = 6, inputs: Inputs = 8, rank: Rank = 2,
                         fit: Literal["svd", "random"] = "svd") -> float:  # fmt: skip
    return invariant.tail_margin(rng, rows=rows, inputs=inputs, rank=rank, fit=fit)


@always("A mask keeps rows of S whole or not at all", where="Algorithm 1", control={"unit": "weight"})
def rows_are_whole(rng: Rng, *, rows: Rows = 6, inputs: Inputs = 8, remaining: Share = 0.3,
                   unit: Literal["row", "weight"] = "row") -> float:  # fmt: skip
    return invariant.line_margin(rng, rows=rows, inputs=inputs, remaining=remaining, unit=unit)


@always("A mask keeps as many weights as were asked for or fewer, by less than one row", where="Algorithm 1",
        control={"rule": "<"})  # fmt: skip
def mask_meets_the_budget(rng: Rng, *, rows: Rows = 6, inputs: Inputs = 8, remaining: Share = 0.3,
                          rule: Literal["fits", "<"] = "fits") -> float:  # fmt: skip
    """The control is the strict threshold of the released code, which keeps the row that it falls into."""
    return invariant.mask_budget_margin(rng, rows=rows, inputs=inputs, remaining=remaining, rule=rule)


@always("After training, factors and rows hold at most the budget, and less than one row below it", where="Sec. 3",
        control={"rule": "rank for free"}, cap=40)  # fmt: skip
def budget_is_met(rng: Rng, *, hidden: Annotated[int, Interval(ge=8, le=24)] = 16,
                  remaining: Annotated[float, Interval(ge=0.4, le=0.9)] = 0.5,
                  low_rank: Annotated[float, Interval(ge=0, le=0.15)] = 0.1,
                  rule: Literal["whole", "rank for free"] = "whole") -> float:  # fmt: skip
    """Before layers whose parts hold no fewer numbers than the matrix are merged, which makes a model smaller yet."""
    return invariant.trained_margin(rng, hidden=hidden, remaining=remaining, low_rank=low_rank, rule=rule)


@always("The compact layer computes what the masked one does, also where a kept row sums to zero", where="Sec. 3",
        control={"alive": "sum"})  # fmt: skip
def compact_is_masked(rng: Rng, *, rows: Rows = 6, inputs: Inputs = 8, rank: Annotated[int, Interval(ge=0, le=3)] = 1,
                      structure: Structure = "row", alive: Literal["any", "sum"] = "any") -> float:  # fmt: skip
    return invariant.compact_margin(rng, rows=rows, inputs=inputs, rank=rank, structure=structure, alive=alive)


@always("How long rows are does not decide which stay: a matrix with every input twice keeps the same", where="Sec. 3",
        control={"how": "sum"})  # fmt: skip
def fan_in_is_no_merit(rng: Rng, *, rows: Rows = 6, inputs: Inputs = 8,
                       copies: Annotated[int, Interval(ge=2, le=9)] = 2,
                       how: Literal["mean", "sum"] = "mean") -> float:  # fmt: skip
    return invariant.fan_in_margin(rng, rows=rows, inputs=inputs, copies=copies, how=how)


@always("Permuting output neurons permutes their masks", where="Algorithm 1", control={"how": "position"})
def permutation(rng: Rng, *, rows: Rows = 6, inputs: Inputs = 8, remaining: Share = 0.5,
                how: Literal["score", "position"] = "score") -> float:  # fmt: skip
    return invariant.permutation_margin(rng, rows=rows, inputs=inputs, remaining=remaining, how=how)


@typically("A matrix of low rank with some free rows is nearer to both parts together than to factors alone, and these "
           "are nearer than rows alone", where="Sec. 1", at_least=0.05, control={"rows": 0},
           scale=f"{MADE_UP}; rank 8, 12 rows as large as the rest, noise 0.1, the lesser difference")  # fmt: skip
def both_parts_fit(rng: Rng, *, rows: Literal[12, 0] = 12) -> float:
    """A first run had rows three times as large, and was refuted: see ``large_rows_mislead_the_start``."""
    found = measure.errors(measure.made_up(rng, rows=rows))
    both, low, rows_only = (found[name] for name in ("both", "low rank only", "rows only"))
    return float(min(np.log(low / both), np.log(rows_only / low)))


@typically("Where free rows are three times as large as the rest, singular vectors are spent on them: fitting factors "
           "and rows in turn has a much lower error than the paper's start", where="against Sec. 3", at_least=0.5,
           control={"strength": 1}, scale=f"{MADE_UP}; rank 8, 12 rows, noise 0.1, 30 rounds")  # fmt: skip
def large_rows_mislead_the_start(rng: Rng, *, strength: Literal[3, 1] = 3) -> Paired:
    """Worded after the first run of ``both_parts_fit``."""
    weight = measure.made_up(rng, strength=strength)
    return Paired(float(np.log(measure.alternated(weight))), float(np.log(measure.errors(weight)["both"])), "lower")


@typically("Where there is only one structure both parts do not help: factors alone fit a matrix of low rank better, "
           "and rows alone one of free rows", where="a boundary", at_least=0.01, control={"matrix": "mixed"},
           scale=f"{MADE_UP}; rank 8, or 32 rows, noise 0.1, the lesser of both differences")  # fmt: skip
def one_structure_needs_one_part(rng: Rng, *, matrix: Literal["pure", "mixed"] = "pure") -> float:
    parts = ({"rows": 0}, {"rank": 0, "rows": 32}) if matrix == "pure" else ({}, {})
    low, rows = (measure.errors(measure.made_up(rng, **part)) for part in parts)
    return float(min(np.log(low["both"] / low["low rank only"]), np.log(rows["both"] / rows["rows only"])))


@typically("LoSparse is more accurate than the same pruning of rows without a low-rank part", where="Table 1", cap=24,
           at_least=0.005, control={"ours": "rows only"}, scale=DIGITS)  # fmt: skip
def beats_rows_only(rng: Rng, *, ours: Arm = "LoSparse") -> Paired:
    return Paired(*measure.accuracies(rng, [ours, "rows only"]))


@typically("LoSparse is more accurate than its low-rank part alone", where="Table 1", cap=24, at_least=0.005,
           control={"ours": "low rank only"}, scale=DIGITS)  # fmt: skip
def beats_low_rank_only(rng: Rng, *, ours: Arm = "LoSparse") -> Paired:
    """The rival's ranks are rounded up, so that it has no fewer numbers."""
    return Paired(*measure.accuracies(rng, [ours, "low rank only"]))


@typically("Where 5 % of the weights stay, LoSparse is more accurate than rows alone", where="Table 1", cap=24,
           at_least=0.005, control={"ours": "rows only"}, scale=LITTLE)  # fmt: skip
def beats_rows_only_where_little_stays(rng: Rng, *, ours: Arm = "LoSparse") -> Paired:
    return Paired(*measure.accuracies(rng, [ours, "rows only"], remaining=0.05, low_rank=0.02))


@typically("Where 5 % of the weights stay, LoSparse is more accurate than low rank alone", where="Table 1", cap=24,
           at_least=0.005, control={"ours": "low rank only"}, scale=LITTLE)  # fmt: skip
def beats_low_rank_only_where_little_stays(rng: Rng, *, ours: Arm = "LoSparse") -> Paired:
    return Paired(*measure.accuracies(rng, [ours, "low rank only"], remaining=0.05, low_rank=0.02))


@typically("Where 5 % of the weights stay and training is short, LoSparse is more accurate than rows alone", cap=24,
           where="a boundary", at_least=0.02, control={"steps": 800},
           scale=LITTLE.replace("400 steps", "200 steps"))  # fmt: skip
def short_training_wants_low_rank(rng: Rng, *, steps: Literal[200, 800] = 200) -> Paired:
    """Worded after a look at a figure: longer training, the control, makes rows alone the better."""
    return Paired(*measure.accuracies(rng, ["LoSparse", "rows only"], remaining=0.05, low_rank=0.02, steps=steps))


@typically("Pruning rows gradually is better than all at once, as soon as their sensitivity is known", where="Sec. 3",
           cap=24, at_least=0.005, control={"ours": "in one go"}, scale=DIGITS)  # fmt: skip
def gradually(rng: Rng, *, ours: Arm = "LoSparse") -> Paired:
    return Paired(*measure.accuracies(rng, [ours, "in one go"]))


@typically("Rows chosen by sensitivity make a better network than rows chosen by their norm", where="a hypothesis",
           cap=24, at_least=0.005, control={"ours": "row norm"}, scale=DIGITS)  # fmt: skip
def sensitivity_beats_norm(rng: Rng, *, ours: Arm = "LoSparse") -> Paired:
    return Paired(*measure.accuracies(rng, [ours, "row norm"]))


@figure("Accuracy on digits against the share of the weights that stays, a third of it low rank, after a short and a "
        "longer training.", where="Table 1")  # fmt: skip
def quality(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=50)] = 1,
            steps: Annotated[int, Interval(ge=60, le=2000)] = 200) -> Table:  # fmt: skip
    return measure.accuracy_table(rng, ARMS, (0.05, 0.15, 0.4), lengths=(steps, 3 * steps), replicates=replicates)


@figure("Error against the numbers kept, for three made-up matrices: both parts win where the budget just holds them, "
        "and not where rows are large.", where="Sec. 1")  # fmt: skip
def approximation(rng: Rng, *, points: Annotated[int, Interval(ge=2, le=30)] = 12) -> Table:
    return measure.error_table(rng, np.linspace(0.06, 0.5, points).tolist())


quality.draw(measure.draw_accuracies)
approximation.draw(measure.draw_errors)


def demo(rng: Rng, *, remaining: Annotated[float, Interval(ge=0.03, le=0.9)] = 0.15,
         low_rank: Annotated[float, Interval(ge=0, le=0.5)] = 0.05,
         steps: Annotated[int, Interval(ge=60, le=5000)] = 400) -> dict[str, float]:  # fmt: skip
    """Test accuracy on digits of a network compressed to this share, by LoSparse and by its rivals."""
    found = measure.accuracies(rng, ARMS, remaining=remaining, low_rank=low_rank, steps=steps)
    return dict(zip(ARMS, found, strict=True))
