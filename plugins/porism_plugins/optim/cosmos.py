"""COSMOS: SOAP on the leading eigendirections of a gradient's second moment, Muon on the rest of the momentum.

A few directions U carry most of the curvature. Inside them the step is Adam's in that basis (SOAP); what is left of
the momentum gets Muon's orthogonalised step. State of an m x n matrix at rank r: (m + r) (n + r) numbers, against
Adam's 2 m n and SOAP's 2 m n + 2 m^2 + 2 n^2. Liu et al., 2025, arXiv:2502.17410.

*Paper and code.* One of the two released files never stores U and S, so that every step starts from the first basis
(figure ``tracking``), puts U on the other side, cuts fused QKV matrices into three, and ignores weight decay. The newer
file is ``variant="code"``: a plain sum as momentum, a Nesterov look ahead, weight decay at the rate of the other
parameters. It writes into the gradients and fixes beta1 = 0.9 in Adam's correction; here gradients are kept and the
rest is torch's AdamW. The paper's epsilon is said to be inside the root, where 1e-8 is 1e-4 of a gradient; here it is
outside, as in both files.

*What the checks find.* On digits it beats Muon, and on a small language model AdamW and SOAP, at equal steps with less
state. The orthogonalised part does most of that: without it (gamma = 0) every comparison is lost, while rank 0 is not
clearly worse than rank 8. On the language model COSMOS and Muon are one, whatever the rank.
"""

from __future__ import annotations

import copy
import functools
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval
from hypothesis import assume

from porism import Paired, Paper, Table, always, figure, proved, typically
from porism_plugins.optim import _baselines as baselines
from porism_plugins.optim import _cosmos_experiments as measure
from porism_plugins.optim import _cosmos_figures as figures
from porism_plugins.optim._cosmos_engine import COSMOS, matrix_and_other_parameters

__all__ = ["COSMOS", "matrix_and_other_parameters"]

PAPER = Paper(
    key="cosmos",
    title="COSMOS: A Hybrid Adaptive Optimizer for Memory-Efficient Training of LLMs",
    authors=("Liming Liu", "Zhenghao Xu", "Zixuan Zhang", "Hao Kang", "Zichong Li", "Chen Liang", "Weizhu Chen",
             "Tuo Zhao"),
    year=2025, ref="arXiv:2502.17410", kinds=("optimizer",), family="optim", needs=("torch",),
    tags=("second order", "memory"), method="COSMOS",
)  # fmt: skip

Rng = np.random.Generator
Size = Annotated[int, Interval(ge=2, le=24)]
Rank = Annotated[int, Interval(ge=1, le=24)]
Steps = Annotated[int, Interval(ge=2, le=12)]
Real = Annotated[float, Interval(ge=1, le=1e4)]
Decade = Annotated[float, Interval(ge=-6, le=6)]
Gamma = Annotated[float, Interval(ge=0, le=1)]
DIGITS = "MLP 64-64-64-10, 1000 digits, 300 steps, rank 8, log10 of the training loss at the best of 3 learning rates"
LANGUAGE = (
    "transformer of width 32, Python's manual, 100 steps of 256 characters, rank 8, test loss at the best of 3 rates"
)


@proved("A square matrix's state is smaller than Adam's exactly while r < (sqrt 2 - 1) n", where="Memory",
        control={"less": 0})  # fmt: skip
def smaller_than_adam(*, n: Real = 100.0, r: Real = 8.0, less: Literal[0, 1] = 1) -> Any:
    """(n + r)^2 - 2 n^2 has the sign of the first factor."""
    import sympy

    root = sympy.sqrt(2)
    return sympy.Eq((n + r) ** 2 - 2 * n**2, (r - (root - less) * n) * (r + (root + less) * n))


@proved("At any rank the state is smaller than SOAP's", where="Memory", control={"soap": "diagonal"})
def smaller_than_soap(*, r: Real = 8.0, more: Real = 2.0, yet_more: Real = 2.0,
                      soap: Literal["full", "diagonal"] = "full") -> Any:  # fmt: skip
    """With sides n = r + more and m = n + yet_more; the control's SOAP keeps no more than Adam."""
    n, m = r + more, r + more + yet_more
    theirs = 2 * m * n + (2 * m**2 + 2 * n**2 if soap == "full" else 0)
    return (theirs - (m + r) * (n + r)).expand() > 0


@always("The state of a matrix is (m + r) (n + r) numbers", where="Memory", control={"spectrum": "left out"})
def state_is_counted(rng: Rng, *, rows: Size = 6, columns: Size = 9, rank: Rank = 4,
                     spectrum: Literal["counted", "left out"] = "counted") -> float:  # fmt: skip
    state = measure.follow(COSMOS, measure.gradients(rng, rows, columns, 1), rank=rank).state
    r = min(rank, rows, columns)
    expected = (rows + r) * (columns + r) - (r * r if spectrum == "left out" else 0)
    return 0.5 - abs(sum(x.numel() for name, x in state.items() if name != "step") - expected)


@always("U stays orthonormal, S and V positive semi-definite", where="Algorithm 1", control={"basis": "loose"})
def basis_is_orthonormal(rng: Rng, *, rows: Size = 9, columns: Size = 6, rank: Rank = 3, steps: Steps = 5,
                         basis: Literal["QR", "loose"] = "QR") -> float:  # fmt: skip
    """The control divides columns by their lengths, where the paper takes the QR factor."""
    make = COSMOS if basis == "QR" else measure.LooseBasis
    return 1e-9 - measure.basis_error(make, measure.gradients(rng, rows, columns, steps), rank=rank)


@always("A step has entries of root mean square rho eta, at any size of the gradients", where="Algorithm 1",
        control={"optimizer": "SOAP"})  # fmt: skip
def steps_have_one_size(rng: Rng, *, rows: Size = 9, columns: Size = 6, steps: Steps = 3, decade: Decade = 0.0,
                        optimizer: Literal["COSMOS", "SOAP"] = "COSMOS") -> float:  # fmt: skip
    found = 10**decade * measure.gradients(rng, rows, columns, steps)
    if optimizer == "SOAP":
        return 1e-9 - measure.size_error(baselines.SOAP, found, size=1e-3, lr=1e-3)
    return 1e-9 - measure.size_error(COSMOS, found, size=1e-3, lr=1e-2, matrix_lr_ratio=0.1, rank=3)


@always("Multiplying all gradients by a number changes nothing", where="Algorithm 1", control={"eps": 0.1})
def scale_changes_nothing(rng: Rng, *, rows: Size = 9, columns: Size = 6, steps: Steps = 3, decade: Decade = 1.0,
                          eps: Annotated[float, Interval(ge=0, le=1)] = 0.0) -> float:  # fmt: skip
    found = measure.gradients(rng, rows, columns, steps)
    run = functools.partial(measure.follow, COSMOS, rank=3, eps=eps)
    return 1e-6 - measure.path_error(run(found).weights, run(10**decade * found).weights)


@always("Rotating the columns of the gradients rotates the steps", where="Algorithm 1", control={"side": "rows"})
def columns_may_be_rotated(rng: Rng, *, rows: Size = 9, columns: Size = 6, steps: Steps = 3, rank: Rank = 3,
                           side: Literal["columns", "rows"] = "columns") -> float:  # fmt: skip
    """Not the rows: inside U each entry is divided by its own second moment."""
    found, turn = (
        measure.gradients(rng, rows, columns, steps),
        measure.rotation(rng, columns if side == "columns" else rows),
    )
    plain, turned = (measure.follow(COSMOS, x, rank=rank).weights for x in (found, measure.act(turn, found, side)))
    return 1e-6 - measure.path_error(measure.act(turn, plain, side), turned)


@always("Outside U the step is the orthogonalised rest of the momentum, of which nothing is inside",
        where="Algorithm 1", control={"of": "momentum"})  # fmt: skip
def parts_are_orthogonal(rng: Rng, *, rows: Size = 9, columns: Size = 6, steps: Steps = 3, rank: Rank = 2,
                         of: Literal["rest", "momentum"] = "rest") -> float:  # fmt: skip
    assume(rank < columns)  # or there is no rest
    return 1e-8 - measure.parts_error(COSMOS, measure.gradients(rng, rows, columns, steps), rank=rank, of=of)


@typically("One power step for each gradient brings U within 10 degrees of the true space in 50 steps",
           where="Method", control={"stored": False},
           scale="8 of 64 directions with 3 times the others' deviation")  # fmt: skip
def basis_follows(rng: Rng, *, stored: bool = True, gap: Annotated[float, Interval(ge=1, le=100)] = 3.0) -> float:
    """Degrees left. The control makes every U from the first one, as a released file does."""
    return 10 - float(measure.angles(rng, steps=50, gap=gap, stored=stored)[-1])


@typically("Leading part and rest together train faster than either alone", where="Method", at_least=0.1,
           control={"gamma": 0.0}, cap=20,
           scale=DIGITS)  # fmt: skip
def both_parts_matter(rng: Rng, *, gamma: Gamma = 0.2) -> Paired:
    """Alone: gamma = 0, or rank 0, which orthogonalises the whole momentum. The control has no rest."""
    return measure.against(
        measure.digits_loss, rng, measure.cosmos(gamma=gamma), measure.cosmos(gamma=0.0), measure.cosmos(rank=0)
    )


@typically("It trains faster than Muon", where="Experiments", at_least=0.1, control={"gamma": 0.0}, cap=20,
           scale=DIGITS)  # fmt: skip
def faster_than_muon(rng: Rng, *, gamma: Gamma = 0.2) -> Paired:
    return measure.against(measure.digits_loss, rng, measure.cosmos(gamma=gamma), baselines.Muon)


@typically("It reaches a lower loss than AdamW in as many steps, with less state", where="Experiments", at_least=0.05,
           control={"matrices": "AdamW"}, cap=20, scale=LANGUAGE)  # fmt: skip
def better_than_adamw(rng: Rng, *, matrices: Literal["COSMOS", "AdamW"] = "COSMOS") -> Paired:
    make = measure.cosmos() if matrices == "COSMOS" else baselines.AdamW
    return measure.against(measure.language_loss, rng, make, baselines.AdamW)


@typically("It reaches a lower loss than Muon in as many steps", where="Experiments", at_least=0.01,
           control={"rank": 0}, cap=20, scale=LANGUAGE)  # fmt: skip
def better_than_muon(rng: Rng, *, rank: Annotated[int, Interval(ge=0, le=32)] = 8) -> Paired:
    return measure.against(measure.language_loss, rng, measure.cosmos(rank=rank), baselines.Muon)


@typically("It comes within 0.02 of SOAP's loss or below, with a quarter of its state", where="Experiments",
           control={"matrices": "AdamW"}, cap=20, scale=LANGUAGE)  # fmt: skip
def as_good_as_soap(rng: Rng, *, matrices: Literal["COSMOS", "AdamW"] = "COSMOS") -> float:
    """The first control, gamma = 0, was as good as SOAP as well: so short a training asks for no more."""
    make = measure.cosmos() if matrices == "COSMOS" else baselines.AdamW
    return 0.02 + measure.against(measure.language_loss, rng, make, baselines.SOAP).effect


@typically("The loss falls with the rank: at 8 below 1", where="Experiments", at_least=0.01,
           control={"rank": 1}, cap=20, scale=LANGUAGE)  # fmt: skip
def more_directions_help(rng: Rng, *, rank: Annotated[int, Interval(ge=0, le=32)] = 8) -> Paired:
    return measure.against(measure.language_loss, rng, measure.cosmos(rank=rank), measure.cosmos(rank=1))


@figure("Training loss, and loss on other topics at its end, of a character language model at equal steps, each at the "
        "best of three learning rates.", where="Experiments")  # fmt: skip
def loss_curves(rng: Rng, *, steps: Annotated[int, Interval(ge=20, le=5000)] = 100) -> Table:
    return figures.curves(rng, steps=steps)


@figure("Test loss of the language model against the size of the optimiser's state, each at the best of three learning "
        "rates.", where="Experiments")  # fmt: skip
def loss_and_memory(rng: Rng, *, steps: Annotated[int, Interval(ge=20, le=5000)] = 100) -> Table:
    return figures.memory(rng, steps=steps)


@figure("How fast U turns to the true leading space after that has changed, by the ratio of standard deviations inside "
        "and outside; dashed: the released file that never stores U.", where="Method")  # fmt: skip
def tracking(rng: Rng, *, steps: Annotated[int, Interval(ge=5, le=1000)] = 50) -> Table:
    return figures.tracking(rng, steps=steps)


loss_curves.draw(figures.draw_curves)
loss_and_memory.draw(figures.draw_memory)
tracking.draw(figures.draw_tracking)


def demo(rng: Rng, *, rank: Annotated[int, Interval(ge=0, le=64)] = 8, gamma: Gamma = 0.2) -> dict[str, float]:
    """Log10 of the training loss on digits of COSMOS, Muon and AdamW, each at the best of three learning rates."""
    arms = {"COSMOS": measure.cosmos(rank=rank, gamma=gamma), "Muon": baselines.Muon, "AdamW": baselines.AdamW}
    return {name: measure.digits_loss(copy.deepcopy(rng), make) for name, make in arms.items()}
