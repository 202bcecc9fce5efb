"""SlimMoE: every expert of a mixture made narrower, in stages, each repaired by distillation from the original.

Experts, router and layers stay; neurons go, whole triples of gate, up and down, the least sensitive of each expert
first. The student learns from the teacher's eight likeliest classes. Li et al., COLM 2025, arXiv:2506.18349.

*Paper and code.* There is no released code. How scores are added up, the spacing of stages and the split of the steps
are ours. Attention groups, which the paper prunes for its smallest model, are not pruned here. At the first cut the
student is the teacher: there KL has no gradient and the top-8 loss only that of its truncation. So the first scores
are taken with labels that the teacher draws itself, whose mean squares are the curvature of KL along each neuron.

*What the checks find.* On a small language model of characters slimming loses far less than dropping experts, before
repair and after. Two stages do not beat one shot: steps spent on a width that is cut later are worth less than steps
at the last one. The likeliest eight characters hold 82 % of the mass there; what is outside is unlearnt, and training
on the text, or distilling all classes, does better. The norm of activations ranks neurons as well as gradients do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor, nn

from porism import Paired, Paper, Table, always, figure, paired, proved, typically
from porism_plugins.moe import _slimmoe_experiments as measure
from porism_plugins.moe import _slimmoe_figures as figures
from porism_plugins.moe import _slimmoe_margins as margins
from porism_plugins.moe._slimmoe_loss import top_distillation
from porism_plugins.moe._slimmoe_method import slimmoe

__all__ = ["PAPER", "slimmoe", "top_distillation"]

PAPER = Paper(
    key="slimmoe",
    title="SlimMoE: Structured Compression of Large MoE Models via Expert Slimming and Distillation",
    authors=("Zichong Li", "Chen Liang", "Zixuan Zhang", "Ilgee Hong", "Young Jin Kim", "Weizhu Chen", "Tuo Zhao"),
    year=2025, ref="arXiv:2506.18349", kinds=("compressor",), family="moe", needs=("torch",),
    tags=("pruning", "distillation", "mixture of experts"), method="slimmoe",
)  # fmt: skip

Rng = np.random.Generator
Count = Annotated[int, Interval(ge=2, le=6)]
Inner = Annotated[int, Interval(ge=3, le=12)]
Kept = Annotated[int, Interval(ge=1, le=12)]
Share = Annotated[float, Interval(ge=0.1, le=0.9)]
Real = Annotated[float, Interval(ge=-3, le=3)]
Probability = Annotated[float, Interval(ge=0.01, le=0.45)]
TEXT = "characters, 1 layer of 8 experts of 48, width 48, two teachers; experts to a quarter, held-out nats"
TRAINED = f"{TEXT}, 40 steps of 4 windows of 64"


class Listed(nn.Module):
    """A mixture of plain feed-forward modules in a list called ``experts``, with a residual connection."""

    def __init__(self, width: int, experts: list[nn.Module], router: nn.Module) -> None:
        super().__init__()
        self.experts, self.router = nn.ModuleList(experts), router

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x of shape (rows, width)."""
        routing, total = self.router(x), x
        for number, expert in enumerate(self.experts):
            weight = (routing.scale * (routing.index == number)).sum(1, keepdim=True).to(x.dtype)
            total = total + weight * expert(x)
        return total


def example_model(rng: Rng) -> nn.Module:
    """For the conformance checks: four gated experts of 20 neurons as ordinary modules."""
    from porism_plugins.moe._engine import Experts, TopKRouter

    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    experts = Experts(4, 16, 20, activation=torch.nn.functional.silu, gated=True, generator=generator)
    return Listed(16, list(experts.to_modules()), TopKRouter(16, 4, k=2, renormalise=True, generator=generator))


def example_calibration(rng: Rng) -> list[Tensor]:
    """Batches for that model."""
    return [torch.from_numpy(rng.normal(size=(12, 16))).float() for _ in range(3)]


def example_options(rng: Rng) -> dict[str, Any]:
    """A short training for the conformance checks."""
    return {"steps": 10}


@proved("Of a gated neuron's three products of weight and gradient those of its two linear slices are equal",
        where="Sec. 3", control={"slice": "gate"})  # fmt: skip
def linear_slices_count_alike(*, gate: Real = 1.0, up: Real = 1.0, down: Real = 1.0, pull: Real = 1.0,
                              slice: Literal["up", "gate"] = "up") -> Any:  # fmt: skip
    """For one token and one input, ``pull`` being the gradient of the output; the gate's product is another number."""
    import sympy

    weights = {"gate": sympy.Dummy(), "up": sympy.Dummy(), "down": sympy.Dummy()}
    g, u, d = weights.values()
    loss = pull * d * u * g / (1 + sympy.exp(-g))
    at = {g: gate, u: up, d: down}
    first, second = ((w * loss.diff(w)).subs(at) for w in (weights[slice], d))
    return sympy.Eq(first, second)


@proved("Where student and teacher agree, the loss pulls on the likeliest classes by their truncated mass alone",
        where="derived", control={"targets": "as they are"})  # fmt: skip
def only_truncation_pulls(*, p: Probability = 0.4, q: Probability = 0.3,
                          targets: Literal["renormalised", "as they are"] = "renormalised") -> Any:  # fmt: skip
    """Of three classes with probabilities p, q and the rest, two being learnt from: the gradient is -p (1 - M) / M."""
    import sympy

    mass = p + q
    share = mass if targets == "renormalised" else sympy.Integer(1)
    a, b, c = sympy.symbols("a b c", real=True)
    total = sympy.log(sympy.exp(a) + sympy.exp(b) + sympy.exp(c))
    loss = -(p / share * (a - total) + q / share * (b - total))
    at = {sympy.exp(a): p, sympy.exp(b): q, sympy.exp(c): 1 - p - q}
    return sympy.Eq(sympy.simplify(loss.diff(a).subs(at)), sympy.simplify(-p * (1 - mass) / mass))


@always("At the teacher a neuron's score by the teacher's own labels is the curvature of KL along its weights",
        where="derived", control={"score": "top 8"}, cap=40)  # fmt: skip
def score_is_curvature(rng: Rng, *, experts: Count = 4, inner: Inner = 6,
                       score: Literal["labels", "top 8"] = "labels") -> float:  # fmt: skip
    """The mean square over labels, in float64. The control scores by the distillation loss, which is flat there."""
    return margins.curvature(rng, experts=experts, inner=inner, score=score)


@always("A cut expert computes what the whole one does with the other neurons silent", where="Sec. 3",
        control={"gates": "of others"})  # fmt: skip
def cut_is_masked(rng: Rng, *, experts: Count = 4, inner: Inner = 6, kept: Kept = 3,
                  gates: Literal["own", "of others"] = "own") -> float:  # fmt: skip
    return margins.cut_is_masked(rng, experts=experts, inner=inner, kept=kept, gates=gates)


@always("How neurons are numbered within an expert changes nothing", where="Sec. 3", control={"rule": "position"})
def numbering_is_free(rng: Rng, *, experts: Count = 4, inner: Inner = 6, kept: Kept = 3,
                      rule: Literal["score", "position"] = "score") -> float:  # fmt: skip
    return margins.permutation(rng, experts=experts, inner=inner, kept=kept, rule=rule)


@always("After all stages every expert of every layer has the share asked for, rounded down, and no tensor is larger",
        where="Sec. 3", control={"rule": "over all"}, cap=40)  # fmt: skip
def widths_are_equal(rng: Rng, *, experts: Count = 4, inner: Inner = 8, remaining: Share = 0.5,
                     stages: Annotated[int, Interval(ge=1, le=3)] = 2,
                     rule: Literal["each expert", "over all"] = "each expert") -> float:  # fmt: skip
    """The control ranks the neurons of all experts together."""
    return margins.budget(rng, experts=experts, inner=inner, remaining=remaining, stages=stages, rule=rule)


@always("The loss is at least the entropy of its targets, and with few classes the cross-entropy to the teacher",
        where="Sec. 3", control={"targets": "as they are"})  # fmt: skip
def loss_is_bounded(rng: Rng, *, classes: Annotated[int, Interval(ge=2, le=30)] = 12,
                    top: Annotated[int, Interval(ge=2, le=16)] = 8, noise: Annotated[float, Interval(ge=0, le=3)] = 0.5,
                    targets: Literal["renormalised", "as they are"] = "renormalised") -> float:  # fmt: skip
    return margins.bound(rng, classes=classes, top=top, noise=noise, targets=targets)


@typically("Before any repair slimming is nearer to the teacher in KL than dropping experts, at equal numbers",
           where="Sec. 4", at_least=0.05, control={"ours": "drop"}, cap=24, scale=TEXT)  # fmt: skip
def slimming_beats_dropping(rng: Rng, *, ours: measure.Cut = "own labels") -> Paired:
    return paired(measure.before_repair, rng, ours={"rule": ours}, theirs={"rule": "drop"}, better="lower")


@typically("After the same distillation slimming is nearer to the teacher's likeliest characters than dropping experts",
           where="Sec. 4", at_least=0.002, control={"ours": "drop"}, cap=16, scale=TRAINED)  # fmt: skip
def slimming_beats_dropping_after_repair(rng: Rng, *, ours: measure.Cut = "own labels") -> Paired:
    return paired(measure.after_repair, rng, ours={"rule": ours}, theirs={"rule": "drop"}, better="lower")


@typically("Scored by the teacher's own labels the cut loses less KL than scored by the distillation loss, which is "
           "flat there", where="a pitfall", at_least=0.01, control={"ours": "top 8"}, cap=24, scale=TEXT)  # fmt: skip
def first_scores_need_labels(rng: Rng, *, ours: measure.Cut = "own labels") -> Paired:
    return paired(measure.before_repair, rng, ours={"rule": ours}, theirs={"rule": "top 8"}, better="lower")


@typically("Scored by gradient times weight the cut loses less KL than by the norm of the weights", where="Sec. 3",
           at_least=0.01, control={"ours": "magnitude"}, cap=24, scale=TEXT)  # fmt: skip
def sensitivity_beats_magnitude(rng: Rng, *, ours: measure.Cut = "own labels") -> Paired:
    return paired(measure.before_repair, rng, ours={"rule": ours}, theirs={"rule": "magnitude"}, better="lower")


@typically("Scored by gradient times weight the cut loses less KL than by the norm of activations", where="Sec. 3",
           at_least=0.01, control={"ours": "activation"}, cap=24, scale=TEXT)  # fmt: skip
def sensitivity_beats_activations(rng: Rng, *, ours: measure.Cut = "own labels") -> Paired:
    """The pilot, on one other seed, went against it."""
    return paired(measure.before_repair, rng, ours={"rule": ours}, theirs={"rule": "activation"}, better="lower")


@typically("Expert slimming with staged distillation: two stages beat one shot at equal budget", where="Sec. 3",
           at_least=0.001, control={"stages": 1}, cap=24, scale=TRAINED.replace("40 steps", "60 steps"))  # fmt: skip
def stages_help(rng: Rng, *, stages: Literal[1, 2] = 2) -> Paired:
    """Judged by the paper's loss on held-out text, above its least value."""
    return paired(measure.after_stages, rng, ours={"stages": stages}, theirs={"stages": 1}, better="lower")


@typically("After the same steps distillation from the likeliest eight gives a lower NLL than training on the text",
           where="Sec. 4", at_least=0.005, control={"loss": "text"}, cap=16, scale=TRAINED)  # fmt: skip
def distillation_beats_text(rng: Rng, *, loss: measure.Loss = "top 8") -> Paired:
    """The pilot went against it: here the likeliest eight have 82 % of the mass, and the rest is unlearnt."""
    return paired(measure.after_repair, rng, ours={"loss": loss, "by": "nll"}, theirs={"loss": "text", "by": "nll"},
                  better="lower")  # fmt: skip


@typically("Distillation from all characters gives a lower NLL than from the likeliest eight", where="a limitation",
           at_least=0.02, control={"loss": "top 8"}, cap=16, scale=TRAINED)  # fmt: skip
def truncation_costs(rng: Rng, *, loss: measure.Loss = "all") -> Paired:
    """Stated after the same pilot."""
    return paired(measure.after_repair, rng, ours={"loss": loss, "by": "nll"}, theirs={"loss": "top 8", "by": "nll"},
                  better="lower")  # fmt: skip


@figure("KL from the teacher after the cut alone, against the share of the experts' numbers that stays; dots are "
        "single replicates.", where="Sec. 4")  # fmt: skip
def shares(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=50)] = 2) -> Table:
    return figures.by_share(rng, replicates=replicates)


@figure("Held-out loss while a model at a quarter is repaired, in one, two or three stages of equal length: the "
        "paper's loss above its least value, and what the text costs.", where="Sec. 3")  # fmt: skip
def repair(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=50)] = 1,
           steps: Annotated[int, Interval(ge=12, le=5000)] = 120) -> Table:  # fmt: skip
    return figures.by_step(rng, replicates=replicates, steps=steps)


shares.draw(figures.draw_shares)
repair.draw(figures.draw_steps)


def demo(rng: Rng, *, stages: Annotated[int, Interval(ge=1, le=4)] = 2,
         steps: Annotated[int, Interval(ge=4, le=5000)] = 100) -> dict[str, float]:  # fmt: skip
    """Held-out nats a character of the teacher, of dropping experts, and of slimming, before and after repair."""
    return measure.compared(rng, stages=stages, steps=steps)
