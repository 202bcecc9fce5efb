"""THOR: experts that are drawn at random instead of chosen by a gate, and taught to agree by a consistency loss.

Each layer of experts draws one of its feed-forward networks, and two passes with fresh experts and dropout are tied by
their symmetric divergence. Zuo et al., ICLR 2022, arXiv:2110.04260.

*Paper and code.* The text draws experts for each input; the released training code draws one a layer for the whole
batch, which is the default here, and at inference one for each sentence. The released loss takes the logarithm of a
softmax; here it is in log space. Its label smoothing spreads over the other classes, torch's (and ours) over all. Its
released inference computes all experts and masks; here only the drawn one is computed.

*What the checks find.* The consistency makes experts agree. In a translation task of toy size and short training,
though, each expert sees half of the tokens, the gate learns something that chance cannot, and one network under the
same loss is better: see docs/methods/thor.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval
from torch import Tensor

from porism import Paired, Paper, Table, always, figure, proved, typically
from porism_plugins.moe import _thor_experiments as measure
from porism_plugins.moe import _thor_figures as figures
from porism_plugins.moe import _thor_margins as margins
from porism_plugins.moe._thor_experiments import Arm
from porism_plugins.moe._thor_layer import (
    StochasticExperts,
    StochasticRouter,
    inferring,
    reseed,
    set_inference,
    stochastic_layers,
)
from porism_plugins.moe._thor_loss import Step, consistency_of, thor_loss, thor_step
from porism_plugins.moe._thor_sites import single_expert, with_stochastic_experts

__all__ = ["PAPER", "Step", "StochasticExperts", "StochasticRouter", "consistency_of", "inferring", "reseed",
           "set_inference", "single_expert", "stochastic_layers", "thor_loss", "thor_step",
           "with_stochastic_experts"]  # fmt: skip

PAPER = Paper(
    key="thor", title="Taming Sparsely Activated Transformer with Stochastic Experts",
    authors=("Simiao Zuo", "Xiaodong Liu", "Jian Jiao", "Young Jin Kim", "Hany Hassan", "Ruofei Zhang", "Tuo Zhao",
             "Jianfeng Gao"),
    year=2022, ref="arXiv:2110.04260", kinds=("layer",), family="moe", needs=("torch",),
    tags=("mixture of experts", "regularisation", "translation"), method="StochasticExperts",
)  # fmt: skip

Rng = np.random.Generator
Positive = Annotated[float, Interval(ge=0.05, le=20)]
Alpha = Annotated[float, Interval(ge=0, le=20)]
Count = Annotated[int, Interval(ge=2, le=8)]
Spread = Annotated[float, Interval(ge=0.1, le=10)]
Per = Literal["pass", "sequence", "token"]
Kind = Literal["stochastic", "gate", "random", "hash", "dense", "none"]
WORLD = (f"3 languages of 6 words, sentences of 4, {measure.SENTENCES} to train on, an encoder of one layer, width 32, "
         f"2 experts of 32 neurons, {measure.UPDATES} updates of Adam")  # fmt: skip


def example_layer(rng: Rng) -> StochasticExperts:
    """Four small experts."""
    return margins.layer(rng, 4).float()


def example_inputs(rng: Rng, *, batch: int) -> dict[str, Tensor]:
    """A batch of sequences of five tokens."""
    return {"x": margins.normal(rng, batch, margins.TOKENS, margins.WIDTH).float()}


@proved("Half the sum of both divergences is half of sum (p - q)(log p - log q)", where="Eq. 4, the code's form",
        control={"sign": 1})  # fmt: skip
def forms_are_equal(*, a: Positive = 1.0, b: Positive = 2.0, c: Positive = 3.0, d: Positive = 1.0, e: Positive = 4.0,
                    f: Positive = 2.0, sign: Literal[-1, 1] = -1) -> Any:  # fmt: skip
    """For three classes of unnormalised probabilities a, b, c and d, e, f."""
    import sympy

    p, q = ([weight / sum(all_) for weight in all_] for all_ in ((a, b, c), (d, e, f)))
    log = sympy.log
    both = sum(x * (log(x) - log(y)) + y * (log(y) - log(x)) for x, y in zip(p, q, strict=True))
    short = sum((x + sign * y) * (log(x) - log(y)) for x, y in zip(p, q, strict=True))
    return sympy.Eq(sympy.expand_mul(both - short), 0)


@always("The consistency is at least 0, symmetric in the passes, and 0 for equal predictions", where="Eq. 4",
        control={"second": "one way"})  # fmt: skip
def consistency_is_symmetric(rng: Rng, *, spread: Spread = 2.0, second: Literal["both", "one way"] = "both") -> float:
    return margins.positive(rng, spread=spread, second=second)


@always("Padding has no part in the loss or its gradient, whatever stands there", where="Eq. 5",
        control={"labels": "a class"})  # fmt: skip
def padding_is_nothing(rng: Rng, *, alpha: Alpha = 5.0, spread: Spread = 5.0,
                       labels: Literal["ignored", "a class"] = "ignored") -> float:  # fmt: skip
    return margins.padded(rng, alpha=alpha, spread=spread, labels=labels)


@always("Experts that no token visits have a gradient of zero", where="Sec. 4", control={"counted": "all"})
def undrawn_experts_rest(rng: Rng, *, experts: Count = 4, per: Per = "pass",
                         counted: Literal["idle", "all"] = "idle") -> float:  # fmt: skip
    return margins.undrawn(rng, experts=experts, per=per, counted=counted)


@always("With one expert it is R-Drop of the model itself, loss and gradients, dropout and all", where="derived",
        control={"experts": 4})  # fmt: skip
def one_expert_is_r_drop(rng: Rng, *, alpha: Alpha = 5.0, experts: Literal[1, 4] = 1) -> float:
    """In float64, on a converted model; the control has four experts that differ."""
    return margins.one_expert(rng, alpha=alpha, experts=experts)


@always("Experts in another order make the same predictions under their new numbers, and the same average",
        where="derived", control={"by": "place"})  # fmt: skip
def labels_of_experts_are_nothing(rng: Rng, *, experts: Count = 4, by: Literal["order", "place"] = "order") -> float:
    return margins.relabelled(rng, experts=experts, by=by)


@always("Each token has exactly one expert, the same throughout a pass or sequence", where="Sec. 4, inference",
        control={"scope": "wider"})  # fmt: skip
def one_expert_each(rng: Rng, *, experts: Count = 4, per: Per = "sequence",
                    scope: Literal["its own", "wider"] = "its own") -> float:  # fmt: skip
    """On 16 sequences of 16 tokens. The control asks for what the next wider draw would promise."""
    return margins.one_each(rng, experts=experts, per=per, scope=scope)


@always("Experts of equal weights agree however they are drawn", where="derived", control={"noise": 0.5})
def equal_experts_agree(rng: Rng, *, experts: Count = 4, noise: Literal[0.0, 0.5] = 0.0) -> float:
    return margins.collapse(rng, experts=experts, noise=noise)


@typically("A learnt gate is at most two points more accurate than a draw for each token", where="Sec. 3",
           control={"kind": "none"}, cap=24, scale=WORLD)  # fmt: skip
def chance_is_as_good_as_a_gate(rng: Rng, *, kind: Kind = "random") -> float:
    """Without the consistency, one pass each. The control has no feed-forward network at all."""
    seed = measure.seed_of(rng)
    chance = measure.trained(seed, measure.GATE._replace(kind=kind))
    return 0.02 - (measure.trained(seed, measure.GATE).accuracy - chance.accuracy)


@typically("The consistency at least halves the variance of predictions over experts", where="Sec. 4",
           control={"alpha": 0.0}, cap=24, scale=WORLD)  # fmt: skip
def experts_come_to_agree(rng: Rng, *, alpha: Alpha = 5.0) -> float:
    """The logarithm to the base 2 of the ratio, less 1."""
    seed = measure.seed_of(rng)
    apart, together = (measure.trained(seed, measure.THOR._replace(alpha=a)).spread for a in (0.0, alpha))
    return float(np.log2(apart / together)) - 1


@typically("A randomly drawn expert translates better for the consistency", where="Sec. 5, ablation", at_least=0.01,
           control={"alpha": 0.0}, cap=24, scale=WORLD)  # fmt: skip
def consistency_helps(rng: Rng, *, alpha: Alpha = 5.0) -> Paired:
    return measure.compared(rng, measure.THOR._replace(alpha=alpha), measure.THOR._replace(alpha=0.0), by="single")


@typically("Two experts translate better than one network under the same loss, which is R-Drop", where="Sec. 5",
           at_least=0.01, control={"experts": 1}, cap=24, scale=WORLD)  # fmt: skip
def experts_beat_one_network(rng: Rng, *, experts: Annotated[int, Interval(ge=1, le=4)] = 2) -> Paired:
    """Two networks of parameters against one, at equal updates and equal work."""
    return measure.compared(rng, measure.THOR._replace(experts=experts), measure.R_DROP)


@typically("Random experts with the consistency loss translate better than a top-1 gate of equal parameters",
           where="Table 1", at_least=0.01, control={"kind": "gate"}, cap=24, scale=WORLD)  # fmt: skip
def better_than_a_gate(rng: Rng, *, kind: Kind = "stochastic") -> Paired:
    """At equal updates. The gate has its balance loss and no consistency; THOR makes two passes to its one."""
    ours = measure.GATE if kind == "gate" else Arm(kind)
    return measure.compared(rng, ours, measure.GATE)


@typically("Also where the gate has twice the updates, for equal compute", where="Table 1", at_least=0.01,
           control={"kind": "gate"}, cap=24, scale=f"{WORLD}, 480 for the gate")  # fmt: skip
def better_at_equal_compute(rng: Rng, *, kind: Kind = "stochastic") -> Paired:
    ours = measure.LONGER if kind == "gate" else Arm(kind)
    return measure.compared(rng, ours, measure.LONGER)


@figure("Test accuracy of THOR and its rivals; dots are single replicates.", where="Table 1")
def translators(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 1) -> Table:
    return figures.by_arm(rng, replicates=replicates)


@figure("Accuracy of one expert and of their average, and how far experts are apart, against the weight of the "
        "consistency.", where="Sec. 5, ablation")  # fmt: skip
def weights_of_consistency(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 1) -> Table:
    return figures.by_alpha(rng, replicates=replicates)


translators.draw(figures.draw_arms)
weights_of_consistency.draw(figures.draw_alphas)


def demo(rng: Rng, *, experts: Annotated[int, Interval(ge=1, le=8)] = 2, alpha: Alpha = 5.0) -> dict[str, float]:
    """Test accuracies of a small translator with these options, and how far its experts are apart."""
    return measure.summary(rng, Arm(experts=experts, alpha=alpha))
