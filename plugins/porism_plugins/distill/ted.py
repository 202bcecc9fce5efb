"""TED: layer-wise distillation through filters that the task has taught, one on each layer of teacher and student.

To match raw hidden states makes a small student copy what its task never uses. Stage I teaches a small filter for every
matched layer of the frozen models to predict the task's labels; stage II distils the states behind the filters, beside
task loss and logits. Liang et al., ICML 2023, arXiv:2210.01351.

*Paper and code.* The released loss averages over padding as well; here padding is masked, and ``padding="counted"`` is
theirs. Their backbone keeps its dropout on while filters learn; here it runs in evaluation mode, so that it stays as it
is to the bit, statistics of batch norms included. They choose what trains by the parameters' names; here the backbone
is not a part of what is trained. A missing checkpoint of filters gives them random ones silently; here both stages
are one call. Heads have no dropout. The width of the filters is the teacher's by default, so that widths may differ.

*What the checks find.* On digits the student comes nearer to its teacher behind taught filters, but gains no
accuracy on plain layer-wise distillation. A filter as wide as the teacher filters little, a narrow one much.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval

from porism import Paired, Paper, Table, always, figure, paired, proved, typically
from porism_plugins.distill import _ted_experiments as measure
from porism_plugins.distill import _ted_figures as figures
from porism_plugins.distill import _ted_margins as margins
from porism_plugins.distill._ted_method import prepare, ted

__all__ = ["PAPER", "prepare", "ted"]

PAPER = Paper(
    key="ted", title="Less is More: Task-aware Layer-wise Distillation for Language Model Compression",
    authors=("Chen Liang", "Simiao Zuo", "Qingru Zhang", "Pengcheng He", "Weizhu Chen", "Tuo Zhao"),
    year=2023, ref="arXiv:2210.01351", kinds=("pipeline",), family="distill", needs=("hf",),
    tags=("hidden states", "language models"), method="ted",
)  # fmt: skip

Rng = np.random.Generator
Width = Annotated[int, Interval(ge=1, le=24)]
Real = Annotated[float, Interval(ge=-5, le=5)]
Temperature = Annotated[float, Interval(ge=0.5, le=10)]
DIGITS = (
    "300 digits, MLP 128-128 to MLP 16-16, half trained; 150 steps, layer weight chosen from 0.1, 1, 10 on 300 others"
)


@proved("Scaling both filters by c scales the layer term by c squared", where="derived, a limitation",
        control={"power": 1})  # fmt: skip
def scale_is_free(*, c: Real = 2.0, w: Real = 1.0, h: Real = 1.0, v: Real = 0.5, g: Real = 2.0,
                  power: Literal[1, 2] = 2) -> Any:  # fmt: skip
    """One entry: student state h behind weight w, teacher state g behind weight v. The loss has no scale of its own."""
    import sympy

    return sympy.Eq(sympy.expand((c * w * h - c * v * g) ** 2), sympy.expand(c**power * (w * h - v * g) ** 2))


@always("Stage I leaves both backbones, and stage II the teacher and its filters, identical to the bit",
        where="Sec. 3.2", control={"trained": "everything"})  # fmt: skip
def frozen_stays_frozen(rng: Rng, *, width: Width = 4, steps: Annotated[int, Interval(ge=1, le=5)] = 3,
                        trained: Literal["filters", "everything"] = "filters") -> float:  # fmt: skip
    return margins.frozen(rng, width=width, steps=steps, trained=trained)


@always("Filters trained jointly have the gradients of filters trained one by one, over their number", where="Eq. 3",
        control={"factor": "1"})  # fmt: skip
def filters_are_independent(rng: Rng, *, width: Width = 4, factor: Literal["K", "1"] = "K") -> float:
    return margins.separate(rng, width=width, factor=factor)


@always("Without the layer term the student's gradient is that of plain distillation", where="Eq. 5",
        control={"weight": 1.0})  # fmt: skip
def reduces_to_distillation(rng: Rng, *, temperature: Temperature = 2.0, weight: Literal[0.0, 1.0] = 0.0) -> float:
    return margins.reduces_to_kd(rng, temperature=temperature, weight=weight)


@always("What stands at padding does not enter the layer term", where="derived", control={"padding": "counted"})
def padding_is_masked(rng: Rng, *, width: Width = 4, length: Annotated[int, Interval(ge=2, le=12)] = 5,
                      scale: Annotated[float, Interval(ge=1, le=100)] = 10.0,
                      padding: Literal["masked", "counted"] = "masked") -> float:  # fmt: skip
    return margins.padding(rng, width=width, length=length, scale=scale,
                           mask="attention_mask" if padding == "masked" else None)  # fmt: skip


@always("A student that is its teacher, with its filters, has no loss", where="Eq. 4", control={"filters": "other"})
def no_loss_of_equals(rng: Rng, *, width: Width = 4, filters: Literal["same", "other"] = "same") -> float:
    return margins.same_models(rng, width=width, filters=filters)


@typically("Task-aware filters beat plain layer-wise distillation for the same student of digits", where="Table 1",
           at_least=0.003, control={"arm": "random filters"}, cap=24, scale=f"{DIGITS}, accuracy")  # fmt: skip
def beats_layerwise(rng: Rng, *, arm: measure.Arm = "TED") -> Paired:
    return paired(measure.arm_score, rng, ours={"arm": arm}, theirs={"arm": "LWD"})


@typically("Behind task-aware filters the student comes nearer to its teacher than without, relative to the variance",
           where="Sec. 4.4", at_least=0.05, control={"arm": "random filters"}, cap=24,
           scale=f"{DIGITS}, mean squared error over variance on the test set")  # fmt: skip
def smaller_gap(rng: Rng, *, arm: measure.Arm = "TED") -> Paired:
    return paired(measure.arm_score, rng, ours={"arm": arm, "by": "gap"}, theirs={"arm": "LWD", "by": "gap"},
                  better="lower")  # fmt: skip


@typically(
    "A task-aware filter keeps less of what the task does not need than a random map of its width",
    where="Sec. 1",
    at_least=0.05,
    control={"what": "random map"},
    cap=24,
    scale="4 factors decide the label, 12 do not; teacher MLP 64-64 of all, width 16, R2 on fresh data",
)
def filters_drop_nuisance(rng: Rng, *, what: Literal["filter", "random map"] = "filter") -> Paired:
    kept = measure.nuisance_kept(rng, widths=(16,))
    return Paired(kept[what, 16].nuisance, kept["random map", 16].nuisance, "lower")


@figure("Students of digits by their width: all arms from the same half-trained student, in as many steps. Dots are "
        "single replicates.", where="Table 1")  # fmt: skip
def students(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 1) -> Table:
    return figures.by_student(rng, replicates=replicates)


@figure("What a filter of a layer keeps of twelve factors that the task does not need, and how well a probe reads the "
        "task from it, by its width.", where="Sec. 1")  # fmt: skip
def nuisance(rng: Rng, *, replicates: Annotated[int, Interval(ge=1, le=100)] = 2) -> Table:
    return figures.by_width(rng, replicates=replicates)


students.draw(figures.draw_students)
nuisance.draw(figures.draw_widths)


def demo(rng: Rng, *, width: Annotated[int, Interval(ge=4, le=64)] = 16) -> dict[str, float]:
    """Test accuracy of students of digits of this width, by arm."""
    return {arm: result.test for arm, result in measure.compared(rng, figures.ARMS, width=width).items()}
