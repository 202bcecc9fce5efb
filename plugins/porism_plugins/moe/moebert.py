"""MoEBERT: the feed-forward networks of a fine-tuned model become experts, of which each token visits one.

Neurons are ranked by the products of their weights and gradients. The most important ones go into every expert, the
next are dealt out in turn, and the rest is left out; tokens choose by a fixed table of their ids; layer-wise
distillation from the dense model repairs what is lost. Zuo et al., NAACL 2022, arXiv:2204.07675.

*Paper and code.* Importance is that of single samples, read off the neurons' inputs and outputs in one backward pass a
batch; the sum over w_j . dL/dw_j is the same number. Tables are buffers, saved with the weights; the released ones must
be drawn again by the same seed. A gate's probability multiplies the network's output before the residual is added and
not after LayerNorm, which would shrink the whole residual stream. Models without token ids, which the paper does not
have, are hashed by the signs of a layer's input along random directions.

*What the checks find.* After distillation a split by importance beats a random one by 6 points on digits. Before it,
importance is the best order in BERT, if by little, and the size of the weights on digits. With 800 digits and 100 steps
labels alone teach more than the dense network's hidden states, and a dense network as narrow as an expert is no worse.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor, nn

from porism import Paired, Paper, Table, always, figure, proved, typically
from porism.testbeds import mlp
from porism_plugins.moe import _moebert_experiments as measure
from porism_plugins.moe import _moebert_invariants as invariant
from porism_plugins.moe._engine import auxiliary_loss, layers, loads
from porism_plugins.moe._moebert_experiments import Arm, Order
from porism_plugins.moe._moebert_method import moebert

__all__ = ["PAPER", "auxiliary_loss", "layers", "loads", "moebert"]

PAPER = Paper(
    key="moebert",
    title="MoEBERT: from BERT to Mixture-of-Experts via Importance-Guided Adaptation",
    authors=("Simiao Zuo", "Qingru Zhang", "Chen Liang", "Pengcheng He", "Tuo Zhao", "Weizhu Chen"),
    year=2022, ref="arXiv:2204.07675", kinds=("compressor",), family="moe", needs=("torch",),
    tags=("mixture of experts", "distillation", "transformers"), method="moebert",
)  # fmt: skip

Rng = np.random.Generator
Few = Annotated[int, Interval(ge=2, le=6)]
Neurons = Annotated[int, Interval(ge=20, le=60)]
Width = Annotated[int, Interval(ge=2, le=8)]
DIGITS = ("digits, MLP 64-128-64-128-64-10, both networks split into 4 experts of 32 neurons (21 shared), 800 to train "
          "on, 100 steps of 32, Adam")  # fmt: skip
UNTRAINED = DIGITS.partition(", 100 steps")[0] + "; before training"
BERT = "tiny BERT of 2 layers, width 64, 128 neurons, 4 experts of 32 (21 shared), 256 windows; before training"


def example_model(rng: Rng) -> nn.Module:
    """A network whose two ends are equally wide, and a head."""
    return mlp((16, 96, 16, 8), rng)


def example_calibration(rng: Rng) -> list[tuple[Tensor, Tensor]]:
    """Batches for the model of the conformance checks: pairs, as a model is to be trained on them."""
    return [(torch.from_numpy(rng.normal(size=(8, 16))).float(), torch.from_numpy(rng.integers(8, size=8)))
            for _ in range(2)]  # fmt: skip


def example_options(rng: Rng) -> dict[str, Any]:
    """Two experts of a quarter each, so that the weights take less memory too, and a short training."""
    return {"experts": 2, "steps": 3}


@proved("The balance loss is 1 when the gate's probabilities are even, wherever the tokens go", where="Sec. 3.3",
        control={"gate": "uneven"})  # fmt: skip
def balance_of_an_even_gate(
    *, first: Annotated[float, Interval(ge=0, le=1)] = 0.5, second: Annotated[float, Interval(ge=0, le=1)] = 0.25,
    gate: Literal["even", "uneven"] = "even",
) -> Any:  # fmt: skip
    """For three experts; ``first`` is the share of tokens of one, ``second`` the next one's share of the others."""
    import sympy

    shares = (first, (1 - first) * second, (1 - first) * (1 - second))
    third = sympy.Rational(1, 3)
    probabilities = (third, third, third) if gate == "even" else (third / 2, third, 3 * third / 2)
    return sympy.Eq(sympy.expand(3 * sum(p * f for p, f in zip(probabilities, shares, strict=True))), 1)


@always("Every expert has the most important neurons, and the next ones belong to one expert each", where="Sec. 3.2",
        control={"rule": "overlapping"})  # fmt: skip
def experts_share_the_top(rng: Rng, *, experts: Few = 4, shared: Annotated[int, Interval(ge=0, le=8)] = 3,
                          own: Annotated[int, Interval(ge=1, le=8)] = 2,
                          rule: Literal["dealt", "overlapping"] = "dealt") -> float:  # fmt: skip
    return invariant.deal_margin(rng, experts=experts, shared=shared, own=own, rule=rule)


@always(
    "One expert of all neurons computes what the dense network does", where="Sec. 3.1", control={"keep": "one less"}
)
def one_expert_is_the_network(rng: Rng, *, width: Width = 5, neurons: Neurons = 24,
                              keep: Literal["all", "one less"] = "all") -> float:  # fmt: skip
    return invariant.whole_margin(rng, width=width, neurons=neurons, keep=keep)


@always("Where experts share all their neurons, routing does not matter before training", where="Sec. 3.2",
        control={"shared": 0})  # fmt: skip
def sharing_all_makes_routing_idle(rng: Rng, *, experts: Few = 4, neurons: Neurons = 40,
                                   shared: Literal[1, 0] = 1) -> float:  # fmt: skip
    """The control's experts are of a sixth of the neurons at most, none of them shared."""
    experts = experts if shared else min(experts, 5)
    return invariant.routing_margin(rng, experts=experts, neurons=neurons, shared=float(shared))


@always("Renaming the neurons of a network changes nothing about its split", where="Sec. 3.2, Eq. 3",
        control={"order": "random"})  # fmt: skip
def names_do_not_matter(rng: Rng, *, width: Width = 5, neurons: Neurons = 24,
                        order: Literal["importance", "random"] = "importance") -> float:  # fmt: skip
    """With GELU: it was refuted first with ReLU, where neurons that no sample wakes tie at importance zero."""
    return invariant.renamed_margin(rng, width=width, neurons=neurons, order=order)


@always("Each token goes through its own expert alone, and comes back to its place", where="Sec. 3.3",
        control={"order": "sorted"})  # fmt: skip
def tokens_come_back(rng: Rng, *, experts: Few = 4, tokens: Annotated[int, Interval(ge=12, le=60)] = 20,
                     order: Literal["restored", "sorted"] = "restored") -> float:  # fmt: skip
    return invariant.one_expert_margin(rng, experts=experts, tokens=tokens, order=order)


@typically("A split by importance keeps more of the dense accuracy after distillation than a random split", cap=16,
           where="Table 4", at_least=0.005, control={"ours": "random split"}, scale=DIGITS)  # fmt: skip
def beats_random_split(rng: Rng, *, ours: Arm = "MoEBERT") -> Paired:
    """The sentence of the catalogue."""
    return Paired(*measure.accuracies(rng, [ours, "random split"]))


@typically("A split by importance starts nearer to the dense network than a random one", where="Sec. 3.2", cap=16,
           at_least=0.1, control={"ours": "random"}, scale=f"{UNTRAINED}; KL in nats")  # fmt: skip
def starts_nearer_than_random(rng: Rng, *, ours: Order = "importance") -> Paired:
    return Paired(*measure.distances(rng, [ours, "random"], model="digits"), "lower")


@typically("A split by importance starts nearer to the dense network than one by the size of the weights", cap=16,
           where="a hypothesis", at_least=0.02, control={"ours": "magnitude"},
           scale=f"{UNTRAINED}; KL in nats")  # fmt: skip
def starts_nearer_than_magnitude(rng: Rng, *, ours: Order = "importance") -> Paired:
    return Paired(*measure.distances(rng, [ours, "magnitude"], model="digits"), "lower")


@typically("In BERT a split by importance starts nearer to the dense model than a random one", where="Sec. 3.2", cap=16,
           at_least=0.02, control={"ours": "random"}, scale=f"{BERT}; KL in nats")  # fmt: skip
def starts_nearer_in_bert(rng: Rng, *, ours: Order = "importance") -> Paired:
    return Paired(*measure.distances(rng, [ours, "random"], model="BERT"), "lower")


@typically("In BERT a split by importance starts nearer to the dense model than one by the size of the weights", cap=16,
           where="a boundary", at_least=0.02, control={"ours": "magnitude"}, scale=f"{BERT}; KL in nats")  # fmt: skip
def starts_nearer_than_magnitude_in_bert(rng: Rng, *, ours: Order = "importance") -> Paired:
    """Worded after a look at the figure of sharing; on digits it is the other way round."""
    return Paired(*measure.distances(rng, [ours, "magnitude"], model="BERT"), "lower")


@typically("Layer-wise distillation makes the experts more accurate than training on labels alone", where="Table 4",
           cap=16, at_least=0.005, control={"ours": "no distillation"}, scale=DIGITS)  # fmt: skip
def distillation_helps(rng: Rng, *, ours: Arm = "MoEBERT") -> Paired:
    """In so short a training hidden states, which half the neurons cannot reproduce, weigh more than the labels."""
    return Paired(*measure.accuracies(rng, [ours, "no distillation"]))


@typically("Experts are more accurate than a dense network as wide as one of them, distilled in the same way", cap=16,
           where="Sec. 5", at_least=0.005, control={"ours": "dense student"}, scale=DIGITS)  # fmt: skip
def beats_the_dense_student(rng: Rng, *, ours: Arm = "MoEBERT") -> Paired:
    """The claim of capacity: as many neurons at work for each token, twice as many there.

    Digits have no token ids, so that routing by the signs of the input need not be a meaningful one.
    """
    return Paired(*measure.accuracies(rng, [ours, "dense student"]))


@figure("Accuracy on digits against the steps of training, for ways to split and to train.", where="Table 4")
def training(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=50)] = 1,
             steps: Annotated[int, Interval(ge=30, le=1000)] = 100) -> Table:  # fmt: skip
    arms: tuple[Arm, ...] = ("MoEBERT", "magnitude split", "random split", "no distillation", "dense student", "gate")
    return measure.training_table(rng, arms, (0, steps // 3, steps), replicates=replicates)


@figure("Distance of the experts from the dense model before training, against the share that all have.",
        where="Fig. 3")  # fmt: skip
def sharing(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=50)] = 2) -> Table:
    return measure.sharing_table(rng, (0.0, 1 / 3, 2 / 3, 1.0), replicates=replicates)


training.draw(measure.draw_training)
sharing.draw(measure.draw_sharing)


def demo(rng: Rng, *, steps: Annotated[int, Interval(ge=1, le=2000)] = 100) -> dict[str, float]:
    """Test accuracy on digits of the dense network, of MoEBERT and of its rivals, with 32 of 128 neurons at work."""
    arms: tuple[Arm, ...] = ("MoEBERT", "random split", "dense student", "no distillation", "gate")
    found = measure.accuracies(rng, arms, steps=steps)
    return dict(zip(arms, found, strict=True))
