"""RoPE-PSD: the same predictions wherever RoPE says that the context is, by self-distillation between two numberings.

Beside language modelling in the usual positions, a second pass sees the same tokens with a random suffix moved away and
is to predict what the first one does, which is the teacher. Li et al., 2026, arXiv:2604.14339.

*Paper and code.* No code is known, and the laws of the split and the offset, the weight and the averaging are not in
the sources that this file rests on: uniform, 0.5 and a mean over each suffix are choices made here. The term takes
logits and is a loss like any other (:class:`RoPEPSDLoss`, of which the kind's checks speak); the objective calls the
model twice and draws numbers, and is what a training loop calls (:class:`RoPEPerturbedSelfDistillation`).

*What the checks find.* The invariants hold; the mask must be explicit, or transformers takes a jump for a new document.
In a small recall task with evidence mostly late the spread over positions is no smaller than after language modelling,
and larger than after 1.6 times its steps: a few early examples teach recall at a distance directly, while the reverse
divergence hardly corrects a student that is sure of a wrong answer, and the teacher is wrong where recall is poor.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from porism import Paired, Paper, Table, always, figure, proved, typically
from porism_plugins.arch import _rope_psd_experiments as measure
from porism_plugins.arch import _rope_psd_figures as figures
from porism_plugins.arch import _rope_psd_margins as margins
from porism_plugins.arch._rope_psd_experiments import Arm
from porism_plugins.arch._rope_psd_loss import Parts, RoPEPerturbedSelfDistillation, RoPEPSDLoss
from porism_plugins.arch._rope_psd_views import cyclic_shift, suffix_jump

__all__ = ["PAPER", "Parts", "RoPEPSDLoss", "RoPEPerturbedSelfDistillation", "cyclic_shift", "suffix_jump"]

PAPER = Paper(
    key="rope_psd", title="Shuffle the Context: RoPE-Perturbed Self-Distillation for Long-Context Adaptation",
    authors=("Zichong Li", "Chen Liang", "Liliang Ren", "Tuo Zhao", "Yelong Shen", "Weizhu Chen"),
    year=2026, ref="arXiv:2604.14339", kinds=("loss",), family="arch", needs=("hf",),
    tags=("long context", "positions", "language models", "self-distillation"), method="RoPEPSDLoss",
)  # fmt: skip

Rng = np.random.Generator
Real = Annotated[float, Interval(ge=-3, le=3)]
Position = Annotated[float, Interval(ge=0, le=100)]
Offset = Annotated[int, Interval(ge=1, le=256)]
Weight = Annotated[float, Interval(ge=0, le=1000)]
Perturbation = Literal["suffix", "cyclic", "permutation"]
RECALL = "6 facts in 96 slots, 2-layer Llama that recalls in 8 slots; 16 steps of 8 sequences, evidence 80% late"
TEXT = "character Llama, 12 steps of 4 windows of 128, judged on 16 windows"


def example_inputs(rng: Rng, *, batch: int) -> dict[str, Tensor]:
    """Logits of both views for a batch of sequences of three tokens."""
    names = ("perturbed_logits", "teacher_logits")
    return {name: torch.from_numpy(rng.normal(size=(batch, 3, 7))).float() for name in names}


# 20 at first, then 12 and 9 to save time, then raised as most claims had not settled at 9: the test is valid at any
# stopping time.
CAP, LIMIT = 24, 120


@proved("The score of a rotated query and a rotated key depends on the difference of their positions only",
        where="Sec. 2", control={"moved": "query"})  # fmt: skip
def scores_depend_on_differences(*, m: Position = 5.0, n: Position = 2.0, shift: Position = 7.0, angle: Real = 0.5,
                                 a: Real = 1.0, b: Real = 2.0, c: Real = -1.0, d: Real = 0.5,
                                 moved: Literal["both", "query"] = "both") -> Any:  # fmt: skip
    """For one pair of coordinates; RoPE turns each pair on its own. The control moves the query alone."""
    import sympy

    def turned(position: Any, *vector: Any) -> Any:
        cosine, sine = sympy.cos(angle * position), sympy.sin(angle * position)
        return sympy.Matrix([[cosine, -sine], [sine, cosine]]) * sympy.Matrix(vector)

    def score(m: Any, n: Any) -> Any:
        return turned(m, a, b).dot(turned(n, c, d))

    return sympy.Eq(score(m + shift, n + shift if moved == "both" else n), score(m, n))


@always("Moving all positions by the same number changes no output beyond rounding", where="Sec. 2",
        control={"moved": "suffix"}, cap=40, time_limit=60)  # fmt: skip
def shift_invariance(rng: Rng, *, by: Offset = 100, moved: Literal["all", "suffix"] = "all") -> float:
    """Rounding: a thousandth of the logits' standard deviation, in float32. So a split at 0 teaches nothing."""
    return margins.shift(rng, by=by, moved_from=0 if moved == "all" else margins.LENGTH // 2)


@always("A suffix jump leaves every output before the split as it is, bit for bit", where="Sec. 3",
        control={"jump": "token 1"}, cap=40, time_limit=60)  # fmt: skip
def prefix_is_untouched(rng: Rng, *, by: Offset = 100, split: Annotated[int, Interval(ge=2, le=15)] = 8,
                        jump: Literal["split", "token 1"] = "split") -> float:  # fmt: skip
    return margins.causality(rng, split=split, by=by, jump_at=split if jump == "split" else 1)


@always("In the perturbed view the last token still depends on the first", where="Sec. 3",
        control={"mask": "inferred"}, cap=40, time_limit=60)  # fmt: skip
def mask_is_untouched(rng: Rng, *, by: Offset = 100, mask: Literal["explicit", "inferred"] = "explicit") -> float:
    """The control leaves the mask to transformers, which takes the jump for the start of a packed document."""
    return margins.reach(rng, by=by, mask=mask)


@always("With jumps of 0 the gradient is that of language modelling, bit for bit", where="Eq. 1",
        control={"offset": 8}, cap=40, time_limit=60)  # fmt: skip
def nothing_without_jumps(rng: Rng, *, weight: Annotated[float, Interval(ge=0.1, le=10)] = 0.5,
                          offset: Literal[0, 8] = 0) -> float:  # fmt: skip
    return margins.no_jump(rng, weight=weight, offset=offset)


@always("No gradient reaches the standard view through the consistency term", where="Sec. 3",
        control={"detach": False})  # fmt: skip
def teacher_is_fixed(rng: Rng, *, spread: Annotated[float, Interval(ge=0.1, le=100)] = 1.0,
                     direction: Literal["reverse", "forward"] = "reverse", detach: bool = True) -> float:  # fmt: skip
    return margins.teacher_gradient(rng, spread=spread, direction=direction, detach=detach)


@always("A model without rotations agrees with itself in every view", where="derived",
        control={"frequencies": "usual"}, cap=40, time_limit=60)  # fmt: skip
def nothing_without_positions(rng: Rng, *, perturbation: Perturbation = "suffix",
                              frequencies: Literal["zero", "usual"] = "zero") -> float:  # fmt: skip
    return margins.positionless(rng, perturbation=perturbation, frequencies=frequencies)


@typically("After the same steps accuracy varies less over the position of the evidence than after language modelling",
           where="Abstract", at_least=0.01, control={"weight": 0.0}, cap=CAP, time_limit=LIMIT,
           scale=f"{RECALL}; standard deviation over 8 positions")  # fmt: skip
def lowers_variance(rng: Rng, *, weight: Weight = 0.5) -> Paired:
    """The design was changed after a look: at first all tokens of the suffix were compared, of which two in a hundred
    are answers, beside a likelihood of the answers alone. So the term weighed next to nothing, and the claim, with the
    same threshold, was refuted (6 of 7 replicates). Now the two speak of the same tokens, as they do on text; the task
    became a little smaller with it (96 slots for 100, batches of 8 for 16, 16 steps a stage for 24).
    """
    return measure.compared(measure.spread, rng, Arm(weight), measure.CLM, better="lower")


@typically("Accuracy varies less over the position of the evidence than after language modelling with 1.6 times the "
           "steps", where="Abstract, at equal compute", at_least=0.005, control={"weight": 0.0}, cap=CAP,
           time_limit=LIMIT, scale=f"{RECALL}; standard deviation over 8 positions")  # fmt: skip
def lowers_variance_at_equal_compute(rng: Rng, *, weight: Weight = 0.5) -> Paired:
    """The paper reports 1.6 times the time of a step; two passes of equal length take nearly twice the time here.

    With the first design of :func:`lowers_variance` it was refuted (7 of 7).
    """
    return measure.compared(measure.spread, rng, Arm(weight), Arm(0.0, longer=1.6), better="lower")


@typically("After the same steps recall is more accurate over all positions than after language modelling",
           where="Abstract", at_least=0.005, control={"weight": 0.0}, cap=CAP, time_limit=LIMIT,
           scale=RECALL)  # fmt: skip
def raises_accuracy(rng: Rng, *, weight: Weight = 0.5) -> Paired:
    return measure.compared(measure.mean, rng, Arm(weight), measure.CLM)


@typically("At twice the trained length recall is more accurate than after language modelling", where="Abstract",
           at_least=0.01, control={"weight": 0.0}, cap=CAP, time_limit=LIMIT,
           scale=f"{RECALL}; judged in 192 slots")  # fmt: skip
def extrapolates(rng: Rng, *, weight: Weight = 0.5) -> Paired:
    return measure.compared(measure.mean, rng, Arm(weight), measure.CLM, slots=192)


@typically("A suffix jump ends more accurate than a random permutation of all positions", where="ablation",
           at_least=0.01, control={"perturbation": "permutation"}, cap=CAP, time_limit=LIMIT, scale=RECALL)  # fmt: skip
def jump_beats_permutation(rng: Rng, *, perturbation: Perturbation = "suffix") -> Paired:
    theirs = Arm(perturbation="permutation")
    return measure.compared(measure.mean, rng, Arm(perturbation=perturbation), theirs)


@typically("Without the stop-gradient the predictions of the standard view are less certain", where="ablation",
           at_least=0.01, control={"detach": True}, cap=CAP, time_limit=LIMIT,
           scale=f"{RECALL}; mean entropy in nats")  # fmt: skip
def detaching_keeps_certainty(rng: Rng, *, detach: bool = False) -> Paired:
    return measure.compared(measure.entropy, rng, Arm(detach=detach), measure.PSD)


@typically("Distilling from a permutation of positions costs more bits on text than from a suffix jump",
           where="ablation", at_least=0.01, control={"perturbation": "suffix"}, cap=CAP, time_limit=LIMIT,
           scale=TEXT)  # fmt: skip
def permutation_costs_bits(rng: Rng, *, perturbation: Perturbation = "permutation") -> Paired:
    """First the bits were those above language modelling alone: there a suffix jump, the control, cost 0.02 bits
    itself after so few steps and held as well, so that the claim said nothing of permutations.
    """
    return measure.compared(measure.bits, rng, Arm(perturbation=perturbation), measure.PSD)


@typically("Text at the trained length costs at most 1% more bits than after language modelling", where="Sec. 5",
           control={"weight": 100.0}, cap=CAP, time_limit=LIMIT, scale=TEXT)  # fmt: skip
def safe_at_short_lengths(rng: Rng, *, weight: Weight = 0.5) -> float:
    found = measure.compared(measure.bits, rng, Arm(weight), measure.CLM)
    return 0.01 - (found.ours / found.theirs - 1)


@figure("Recall by the place of the evidence at the trained length (left), and at other lengths (right); all arms saw "
        "the same batches.", where="Fig. 1")  # fmt: skip
def positions(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 2) -> Table:
    return figures.by_position(rng, replicates=replicates)


@figure("Wrong answers, and their spread over the place of the evidence, by the weight of the consistency (jumps up to "
        "100) and by the largest jump (weight 0.5).", where="ablation")  # fmt: skip
def options(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 2) -> Table:
    return figures.by_option(rng, replicates=replicates)


positions.draw(figures.draw_positions)
options.draw(figures.draw_options)
