"""AdaSPEC: distil a draft for speculative decoding on the tokens where it lags a distilled copy of itself most.

A draft is too small to match its target everywhere. The reference, a copy of it that was distilled on all tokens, shows
which tokens are within reach; the draft is trained on the fraction k of tokens where it lags the reference most. Hu et
al., NeurIPS 2025, arXiv:2510.19779.

*Paper and code.* "Filtering out hard tokens" means: the largest gaps of draft to reference are kept, not the smallest
losses. The released trainer divides by the number of all supervised tokens where its trainer counts them, and by the
number kept elsewhere; here ``average`` says which. Its quantile is that of one micro-batch, and so is ours; ours is
exact in the number of tokens, and takes batches of any size.

*What the checks find.* At this scale, after as many steps, a draft that was distilled on 40 % of the tokens is accepted
less often, by half a point, than one that was distilled on all; 80 % are about as good. The reference matters: tokens
chosen by their loss alone are far worse.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from porism import Paired, Paper, Table, always, figure, proved, typically
from porism_plugins.spec import _adaspec_experiments as measure
from porism_plugins.spec import _adaspec_figures as figures
from porism_plugins.spec import _adaspec_margins as margins
from porism_plugins.spec import _adaspec_world as world
from porism_plugins.spec._adaspec_distil import Distilled, distil_draft
from porism_plugins.spec._adaspec_loss import (
    AdaSPECLoss,
    acceptance,
    greedy_acceptance,
    kept_count,
    select_tokens,
    token_gaps,
)

__all__ = [
    "PAPER", "AdaSPECLoss", "Distilled", "acceptance", "distil_draft", "greedy_acceptance", "kept_count",
    "select_tokens", "token_gaps",
]  # fmt: skip

PAPER = Paper(
    key="adaspec", title="AdaSPEC: Selective Knowledge Distillation for Efficient Speculative Decoders",
    authors=("Yuezhou Hu", "Jiaxin Guo", "Xinyu Feng", "Tuo Zhao"), year=2025, ref="arXiv:2510.19779", kinds=("loss",),
    family="spec", needs=("hf",), tags=("speculative decoding", "distillation", "language models"),
    method="AdaSPECLoss",
)  # fmt: skip

Rng = np.random.Generator
Kept = Annotated[float, Interval(ge=0.05, le=1)]
Tokens = Annotated[int, Interval(ge=1, le=60)]
Spread = Annotated[float, Interval(ge=0.1, le=5)]
Rate = Annotated[float, Interval(ge=0.01, le=0.99)]
Mass = Annotated[float, Interval(gt=0, le=1)]
Vocabulary = Annotated[int, Interval(ge=2, le=50)]
Steps = Annotated[int, Interval(ge=5, le=10_000)]
TEXT = ("draft of 1 layer of 24, target of 2 of 96, characters of Python's manual; 80 steps of 8 windows of 64 from "
        "one of 3 pretrained drafts; held-out windows")  # fmt: skip
WORLD = "softmax tables of rank 4, 128 contexts of 32 tokens, half of them of rank 4 and half free, 150 steps of Adam"


def example_inputs(rng: Rng, *, batch: int) -> dict[str, Tensor]:
    """Logits of three models for a few tokens of each sequence, and labels, of which the last is ignored."""
    names = ("draft_logits", "target_logits", "reference_logits")
    given = {name: torch.from_numpy(rng.normal(size=(batch, 4, 11))).float() for name in names}
    return {**given, "labels": torch.tensor([1, 0, 10, -100]).repeat(batch, 1)}


@proved("What speculative sampling accepts, the sum of min(p, q), is 1 - TV(p, q)", where="Sec. 2",
        control={"factor": "1"})  # fmt: skip
def overlap(*, p: Mass = 0.2, q: Mass = 0.5, r: Mass = 0.3, a: Mass = 0.6, b: Mass = 0.1, c: Mass = 0.3,
            factor: Literal["1/2", "1"] = "1/2") -> Any:  # fmt: skip
    """Three tokens with any masses, which are normalised; the control lacks the half."""
    import sympy

    target, draft = [m / (p + q + r) for m in (p, q, r)], [m / (a + b + c) for m in (a, b, c)]
    apart = sum(sympy.Abs(x - y) for x, y in zip(target, draft, strict=True)) * sympy.Rational(factor)
    overlapping = sum(sympy.Min(x, y).rewrite(sympy.Abs) for x, y in zip(target, draft, strict=True))
    return sympy.Eq(sympy.simplify(overlapping + apart), 1)


@proved("A call of the target yields (1 - a^(n+1)) / (1 - a) tokens where each of n drafts is accepted with "
        "probability a, independently", where="Sec. 2", control={"bonus": 0})  # fmt: skip
def tokens_per_call(*, rate: Rate = 0.7, drafts: Literal[1, 2, 4, 8] = 4, bonus: Literal[0, 1] = 1) -> Any:
    """By the law of the number accepted; the control forgets the token after a draft that was accepted whole."""
    import sympy

    stopped = sum((n + 1) * rate**n * (1 - rate) for n in range(drafts))
    expected = stopped + (drafts + bonus) * rate**drafts
    return sympy.Eq(sympy.simplify(expected * (1 - rate) - (1 - rate ** (drafts + 1))), 0)


@always("Of N tokens with distinct gaps N - ceil((1 - k)(N - 1)) are kept, exactly", where="Sec. 3.2",
        control={"rule": "round"})  # fmt: skip
def exact_budget(rng: Rng, *, tokens: Tokens = 10, kept: Kept = 0.4,
                 rule: Literal["quantile", "round"] = "quantile") -> float:  # fmt: skip
    """The control expects kN, rounded."""
    return margins.budget(rng, tokens=tokens, kept=kept, rule=rule)


@always("The gradient is (q - p) / Z at kept tokens, 0 at others, and there is none in target and reference",
        where="Eq. 3", control={"used": "all"})  # fmt: skip
def gradient_at_kept_tokens(rng: Rng, *, tokens: Tokens = 10, kept: Kept = 0.4, spread: Spread = 1.0,
                            used: Literal["kept", "all"] = "kept") -> float:  # fmt: skip
    return margins.gradient(rng, tokens=tokens, kept=kept, spread=spread, used=kept if used == "kept" else 1.0)


@always("Acceptance is in [0, 1] and at least 1 - sqrt(KL / 2)", where="Pinsker", control={"root": False})
def acceptance_bound(rng: Rng, *, vocabulary: Vocabulary = 10, spread: Spread = 1.0,
                     apart: Annotated[float, Interval(ge=1e-3, le=10)] = 1.0, root: bool = True) -> float:  # fmt: skip
    """The control is without the root: at small divergences acceptance falls with their root."""
    return margins.pinsker(rng, vocabulary=vocabulary, spread=spread, apart=apart, root=root)


@always("A token drawn from any draft and verified has the target's law", where="Sec. 2",
        control={"after": "target"})  # fmt: skip
def lossless(rng: Rng, *, vocabulary: Vocabulary = 10, spread: Spread = 1.0,
             after: Literal["residual", "target"] = "residual") -> float:  # fmt: skip
    """By enumeration; the control draws from the target itself after a rejection."""
    return margins.lossless(rng, vocabulary=vocabulary, spread=spread, after=after)


@always("Constants at logits, the order of tokens and that of the vocabulary change neither loss nor selection",
        where="Eq. 3", control={"alike": False})  # fmt: skip
def symmetries(rng: Rng, *, tokens: Tokens = 10, kept: Kept = 0.4, spread: Spread = 1.0, alike: bool = True) -> float:
    """The control leaves the draft's vocabulary in its order."""
    return margins.symmetry(rng, tokens=tokens, kept=kept, spread=spread, alike=alike)


@typically("A draft distilled on the 40 % of tokens that lag the reference most is accepted more often than one "
           "distilled on all tokens, after as many steps", where="Table 1", at_least=0.002, cap=24,
           control={"kept": 1.0}, scale=TEXT)  # fmt: skip
def more_accepted(rng: Rng, *, kept: Kept = 0.4) -> Paired:
    """Mean of 1 - TV. The pretrained drafts are of the manual since a pilot in which drafts pretrained on source code,
    which are farther from what they can reach, lost more by the selection."""
    return measure.gain(rng, {"kept": kept}, {"kept": 1.0})


@typically("A draft distilled on the 80 % of tokens that lag the reference most is accepted more often than one "
           "distilled on all tokens, after as many steps", where="a milder filter", at_least=0.001, cap=24,
           control={"kept": 1.0}, scale=TEXT)  # fmt: skip
def milder_filter(rng: Rng, *, kept: Kept = 0.8) -> Paired:
    """Stated after a look at the figure of kept fractions, drawn from another seed."""
    return measure.gain(rng, {"kept": kept}, {"kept": 1.0})


@typically("Training on the largest gaps is better than on tokens at random, and that than on the smallest gaps",
           where="Sec. 4, ablation", at_least=0.002, cap=24, control={"order": "reversed"}, scale=TEXT)  # fmt: skip
def direction(rng: Rng, *, order: Literal["largest", "reversed"] = "largest") -> float:
    """The smaller of both differences in mean 1 - TV."""
    ways: tuple[measure.Way, ...] = ("top", "random", "bottom")
    return measure.direction(rng, ways if order == "largest" else ways[::-1])


@typically("AdaSPEC moves divergence: less KL than distilling all tokens where the gap was large, more elsewhere",
           where="Sec. 4", at_least=0.005, cap=24, control={"kept": 1.0}, scale=f"{TEXT}, nats")  # fmt: skip
def moves_divergence(rng: Rng, *, kept: Kept = 0.4) -> float:
    """The smaller of both differences; gaps are those before training, on held-out text."""
    return measure.moved(rng, kept)


@typically("The share of drafts that real speculative sampling accepts is the mean of 1 - TV at these positions",
           where="Sec. 2", control={"by": "coincidence"}, cap=24,
           scale="pretrained drafts of 1 layer of 24, 8 prompts, 64 new tokens each, drafts of 4, within 0.05",
           )  # fmt: skip
def decoding_accepts_as_it_should(rng: Rng, *, by: Literal["overlap", "coincidence"] = "overlap") -> float:
    """Two standard errors of some 450 positions are 0.045. The control is the sum of p q, the chance that two draws
    are one token."""
    found = measure.decoded(measure.fresh(rng).draft, rng)
    return 0.05 - abs(found.measured - getattr(found, by))


@typically("Where half of the contexts are beyond the draft's rank, more than half of the tokens trained on are of the "
           "others", where="Sec. 3.2", at_least=0.05, cap=24, control={"way": "random"}, scale=WORLD)  # fmt: skip
def learnable_tokens_are_chosen(rng: Rng, *, way: Literal["top", "random"] = "top") -> float:
    return world.outcomes(rng, {"ours": {"kept": 0.4, "way": way}})["ours"].share - 0.5


@typically("Where half of the contexts are beyond the draft's rank, AdaSPEC is accepted more often than all tokens",
           where="Sec. 3.2", at_least=0.002, cap=24, control={"kept": 1.0}, scale=WORLD)  # fmt: skip
def more_accepted_where_known(rng: Rng, *, kept: Kept = 0.4) -> Paired:
    """The world that the paper's argument describes."""
    found = world.outcomes(rng, {"ours": {"kept": kept}})
    return Paired(found["ours"].accepted, found["all"].accepted)


@typically("Choosing by the gap to a reference is accepted more often than choosing by the loss alone",
           where="Sec. 3.1", at_least=0.01, cap=24, control={"way": "hardest"}, scale=WORLD)  # fmt: skip
def the_reference_matters(rng: Rng, *, way: Literal["top", "hardest"] = "top") -> Paired:
    found = world.outcomes(rng, {"ours": {"kept": 0.4, "way": way}, "theirs": {"kept": 0.4, "way": "hardest"}})
    return Paired(found["ours"].accepted, found["theirs"].accepted)


@figure("Acceptance by kept fraction and by what tokens are chosen by; at 1 all tokens are distilled. One start.",
        where="Table 1")  # fmt: skip
def kept_fractions(rng: Rng, *, steps: Steps = 80) -> Table:
    return figures.by_kept(rng, steps=steps)


@figure("Left: held-out KL on the tokens whose gap was large before training, and on the others. Right: new tokens for "
        "each call of the target in real speculative sampling. One start.", where="Table 1")  # fmt: skip
def divergence_and_decoding(rng: Rng, *, steps: Steps = 80, length: Annotated[int, Interval(ge=1, le=16)] = 4) -> Table:
    return figures.by_arm(rng, length=length, steps=steps)


@figure("A world with known easy contexts: acceptance, and what is trained on. Means over worlds.",
        where="Sec. 3.2")  # fmt: skip
def known_contexts(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 1) -> Table:
    return figures.by_spread(rng, replicates=replicates)


kept_fractions.draw(figures.draw_kept)
divergence_and_decoding.draw(figures.draw_arms)
known_contexts.draw(figures.draw_spread)


def demo(rng: Rng, *, kept: Kept = 0.4, steps: Steps = 80) -> dict[str, float]:
    """Acceptance, greedy agreement and tokens for each call of the target, for AdaSPEC and for all tokens."""
    return measure.compared(rng, kept=kept, steps=steps)
