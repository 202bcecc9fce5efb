"""TempNet: a temperature for each context, learned by a small network through a constrained robust loss.

The loss of a sample is the worst mean of z_j - z_y over distributions within KL divergence rho of uniform. Its dual
variable is a softmax temperature, and a network that reads the logits or features says it. Qiu et al., ICML 2024,
arXiv:2404.04575.

*Paper and code.* The released stand-alone script trains on raw logits and generates with logits less their maximum;
here the network subtracts it always. The released running shift of the contrastive sums only grows, so that a sum can
underflow; here logarithms are averaged. ``TempNetLoss()`` alone solves for each temperature; give it a network for the
paper's method. The published dropout of 0.5 draws from torch's generator, as every ``nn.Dropout`` does.

*What the checks find.* The temperature is an entropy rule: labels do not enter it. See docs/methods/tempnet.md.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval

from porism import Paired, Paper, Table, always, figure, proved, typically
from porism_plugins.tune import _tempnet_experiments as measure
from porism_plugins.tune import _tempnet_figures as draw
from porism_plugins.tune import _tempnet_invariants as invariant
from porism_plugins.tune._tempnet_contrastive import ContrastiveTempNetLoss
from porism_plugins.tune._tempnet_generation import TempNetLogitsProcessor, train_tempnet
from porism_plugins.tune._tempnet_loss import TempNetLoss
from porism_plugins.tune._tempnet_networks import FeatureTempNet, LogitTempNet
from porism_plugins.tune._tempnet_temperature import optimal_temperature

__all__ = [
    "ContrastiveTempNetLoss", "FeatureTempNet", "LogitTempNet", "TempNetLogitsProcessor", "TempNetLoss",
    "optimal_temperature", "train_tempnet",
]  # fmt: skip

PAPER = Paper(
    key="tempnet",
    title="To Cool or not to Cool? Temperature Network Meets Large Foundation Models via DRO",
    authors=("Zi-Hao Qiu", "Siqi Guo", "Mao Xu", "Tuo Zhao", "Lijun Zhang", "Tianbao Yang"),
    year=2024, ref="arXiv:2404.04575", kinds=("loss",), family="tune", needs=("hf",),
    tags=("temperature", "distributionally robust", "calibration"), method="TempNetLoss",
)  # fmt: skip

Rng = np.random.Generator
Classes = Annotated[int, Interval(ge=2, le=30)]
Samples = Annotated[int, Interval(ge=1, le=12)]
Spread = Annotated[float, Interval(ge=0.1, le=20)]
Share = Annotated[float, Interval(ge=0.05, le=0.95)]
Positive = Annotated[float, Interval(ge=0.05, le=5)]
Gap = Annotated[float, Interval(ge=-5, le=5)]
OnOff = Literal["on", "off"]
LLAMA = "tiny Llama of 96 characters, 3,800 rows to train 64 hidden units on, 3,800 held out"


@proved("The derivative of the robust loss in its temperature is rho less the divergence used, whatever the label",
        where="Eq. of the dual, derivative", control={"term": False})  # fmt: skip
def slope_in_temperature(*, a: Gap = 1.0, b: Gap = -2.0, tau: Positive = 1.0, rho: Positive = 0.5,
                         term: bool = True) -> Any:  # fmt: skip
    """Three classes; the control is without the term tau rho."""
    return invariant.slope_statement(a, b, tau, rho, term=term)


@proved("The dual is above every feasible value by tau times a divergence from softmax(z / tau): strong duality",
        where="Eq. of the dual", control={"side": -1})  # fmt: skip
def dual_gap(*, a: Gap = 1.0, b: Gap = -2.0, u: Positive = 2.0, v: Positive = 0.5, tau: Positive = 1.0,
             side: Literal[1, -1] = 1) -> Any:  # fmt: skip
    """Three classes; the control has the constraint's multiplier on the wrong side."""
    return invariant.gap_statement(a, b, u, v, tau, side=side)


@always("Both networks stay within their bounds, at any weights and inputs", where="Sec. on the architecture",
        control={"squash": "off"})  # fmt: skip
def within_bounds(rng: Rng, *, size: Annotated[float, Interval(ge=0.1, le=1e4)] = 10.0, tau_min: Positive = 0.05,
                  width: Positive = 1.0, squash: OnOff = "on") -> float:  # fmt: skip
    return invariant.bounds_margin(rng, size=size, tau_min=tau_min, width=width, extrapolate=squash == "off")


@always("The robust loss is convex in its temperature", where="Eq. of the dual", control={"scaled": False})
def convex_in_temperature(rng: Rng, *, classes: Classes = 8, spread: Spread = 2.0, rho: Share = 0.5,
                          scaled: bool = True) -> float:  # fmt: skip
    """The control is CE(z / tau) itself, without the factor tau: the usual temperature scaling."""
    return invariant.convexity_margin(rng, classes=classes, spread=spread, rho=rho, scaled=scaled)


@always("At the temperature solved for, dual and primal value are one, and rho is used up", where="Eq. of the dual",
        control={"exact": False})  # fmt: skip
def dual_equals_primal(rng: Rng, *, classes: Classes = 8, spread: Spread = 2.0, rho: Share = 0.5,
                       exact: bool = True) -> float:  # fmt: skip
    return invariant.duality_margin(rng, classes=classes, spread=spread, rho=rho, exact=exact)


@always("The best temperature is proportional to the logits and forgets constants", where="Eq. of the dual",
        control={"shifted": False})  # fmt: skip
def proportional_temperature(rng: Rng, *, classes: Classes = 8, spread: Spread = 2.0, rho: Share = 0.5,
                             factor: Annotated[float, Interval(ge=0.1, le=10)] = 3.0, shifted: bool = True,
                             ) -> float:  # fmt: skip
    """Hence a network that sees normalised logits only cannot say it; the control adds squares instead of constants."""
    return invariant.symmetry_margin(rng, classes=classes, spread=spread, rho=rho, factor=factor, shifted=shifted)


@always("The loss's gradients are softmax(z / tau) - onehot and rho - KL", where="Sec. on training",
        control={"right": False})  # fmt: skip
def gradients(rng: Rng, *, classes: Classes = 8, samples: Samples = 5, spread: Spread = 2.0, rho: Share = 0.5,
              right: bool = True) -> float:  # fmt: skip
    """The control is the gradient in the temperature without rho."""
    return invariant.gradient_margin(rng, classes=classes, samples=samples, spread=spread, rho=rho, right=right)


@always("At temperature 1 and rho = log V the robust loss is cross-entropy", where="Eq. of the dual",
        control={"share": 0.9})  # fmt: skip
def cross_entropy_is_a_case(rng: Rng, *, classes: Classes = 8, samples: Samples = 5, spread: Spread = 2.0,
                            share: Literal[1.0, 0.9] = 1.0) -> float:  # fmt: skip
    return invariant.entropy_loss_margin(rng, classes=classes, samples=samples, spread=spread, share=share)


@typically("On contexts it has not seen TempNet says the exact temperature: rank correlation above 0.9, median "
           "relative error below 15 %", where="Sec. on TempNet for language models", control={"kind": "constant"},
           cap=24, scale=f"{LLAMA}, 1000 steps, rho half of log V")  # fmt: skip
def learns_the_exact_temperature(rng: Rng, *, kind: Literal["published", "constant"] = "published") -> float:
    task = measure.language(rng)
    correlation, error = measure.closeness(
        rng, kind, task.train[0], task.test[0], 0.5 * math.log(96), steps=1000
    )  # fmt: skip
    return min(correlation - 0.9, 0.15 - error)


@typically("Where the scale of the logits varies, a network that sees their norm is nearer to the exact temperature "
           "than the published one", where="against Sec. on the architecture", control={"kind": "published"},
           at_least=0.05,
           scale="synthetic logits of 50 classes, scales from 1/3 to 3, 600 steps, median relative error",
           cap=24)  # fmt: skip
def the_norm_is_missing(rng: Rng, *, kind: Literal["scale", "published"] = "scale") -> Paired:
    train, fresh = (measure.synthetic(rng, rows, scale=3.0) for rows in (4000, 1000))
    seed = int(rng.integers(2**63))
    ours, theirs = (measure.closeness(np.random.default_rng(seed), name, train, fresh, 1.5, steps=600)[1]
                    for name in (kind, "published"))  # fmt: skip
    return Paired(ours, theirs, "lower")


@typically("Beside a frozen language model TempNet's likelihood is better than at the best global temperature",
           where="Experiments, language models", control={"kind": "constant"}, at_least=0.005, cap=24,
           scale=f"{LLAMA}, rho of 4 and temperature of 17 chosen on 1,900 other rows, nats a character")  # fmt: skip
def beats_global_in_language(rng: Rng, *, kind: Literal["published", "constant"] = "published") -> Paired:
    task = measure.language(rng)
    return Paired(measure.best_network(rng, task, kind), measure.best_global(task), "lower")


@typically("Where contexts differ in the scale of their logits and not in how certain one can be, personalised "
           "temperatures beat the best global one in likelihood", where="Abstract, personalised temperatures",
           control={"kind": "constant"}, at_least=0.05, cap=24,
           scale="synthetic labels of 50 classes, logits off by factors from 1/3 to 3, rho of 4 and temperature of 17 "
                 "chosen on 1,000, a network that sees the norm, nats")  # fmt: skip
def beats_global_where_scales_vary(rng: Rng, *, kind: Literal["scale", "published", "constant"] = "scale") -> Paired:
    """The robust loss wants one entropy in all contexts, so this is where it should help; added after the others."""
    task = measure.distorted(rng)
    return Paired(measure.best_network(rng, task, kind, (0.25, 0.35, 0.45, 0.55)), measure.best_global(task), "lower")


@typically("Where a frozen classifier meets images of any contrast, a network that sees the norm as well gives a "
           "better likelihood than the best global temperature", where="Abstract, personalised temperatures",
           control={"kind": "constant"}, at_least=0.01, cap=24,
           scale="digits, MLP 64-64-10, contrast from 0.2 to 1, rho of 5 and temperature of 17 chosen on 200",
           )  # fmt: skip
def beats_global_under_contrast(rng: Rng, *, kind: Literal["scale", "published", "constant"] = "scale") -> Paired:
    task = measure.contrasts(rng)
    ours = measure.best_network(rng, task, kind, (0.7, 0.8, 0.9, 0.95, 0.98))
    return Paired(ours, measure.best_global(task), "lower")


@typically("TempNet makes the entropy of next characters vary less over contexts than one temperature of the same mean "
           "entropy does", where="Sec. on the robust loss", control={"kind": "constant"}, at_least=0.1, cap=24,
           scale=f"{LLAMA}, 500 steps, rho half of log V, nats")  # fmt: skip
def evens_out_entropy(rng: Rng, *, kind: Literal["published", "constant"] = "published") -> Paired:
    return Paired(*measure.spread_of_entropy(rng, kind, 0.5), "lower")


@typically("Contrastive learning with TempNet retrieves better than with the best fixed temperature",
           where="Experiments, CLIP", control={"kind": "constant"}, at_least=0.01, cap=16,
           scale="halves of 600 digits, MLPs 32-64-32, 80 steps, 3 values a side chosen on 300, recall at 1",
           )  # fmt: skip
def retrieves_better(rng: Rng, *, kind: Literal["network", "constant"] = "network") -> Paired:
    """After a first look recall is a mean over three groups, for less noise, and steps are 80 instead of 120."""
    seed = int(rng.integers(2**63))
    arms = ((kind, (1.0, 1.5, 2.2)), ("fixed", (0.05, 0.1, 0.2)))
    ours, theirs = (measure.halves(np.random.default_rng(seed), name, values) for name, values in arms)
    return Paired(ours, theirs)


@typically("A classifier trained together with TempNet is more accurate than by cross-entropy at the best fixed "
           "temperature", where="Abstract", control={"kind": "constant"}, at_least=0.005, cap=12,
           scale="100 digits, MLP 64-32-10, 250 steps, 3 values a side chosen on 300")  # fmt: skip
def classifies_better(rng: Rng, *, kind: Literal["published", "constant"] = "published") -> Paired:
    seed = int(rng.integers(2**63))
    arms = ((kind, (0.5, 0.7, 0.9)), ("fixed", (0.5, 1.0, 2.0)))
    ours, theirs = (measure.joint_accuracy(np.random.default_rng(seed), name, values) for name, values in arms)
    return Paired(ours, theirs)


@figure("Left: likelihood of a tiny Llama against mean entropy; the nearer to the exact temperature of each context, "
        "the worse. Right: what the temperatures are for, entropies that vary less.",
        where="Experiments, language models")  # fmt: skip
def language_models(rng: Rng, *, steps: Annotated[int, Interval(ge=10, le=10_000)] = 500) -> Table:
    return draw.language_table(rng, (0.45, 0.55, 0.65, 0.75), steps=steps)


language_models.draw(draw.draw_language)


@figure("Temperatures of fresh synthetic logits whose scale varies ninefold: a network that sees normalised logits "
        "cannot tell scales apart.", where="Sec. on the architecture")  # fmt: skip
def said_and_exact(rng: Rng, *, scale: Annotated[float, Interval(ge=1, le=10)] = 3.0,
                   steps: Annotated[int, Interval(ge=10, le=10_000)] = 600) -> Table:  # fmt: skip
    return draw.closeness_table(rng, scale=scale, steps=steps)


said_and_exact.draw(draw.draw_closeness)


def demo(rng: Rng, *, rho: Annotated[float, Interval(ge=0.1, le=2.3)] = 2.1) -> dict[str, float]:
    """Test NLL of a frozen classifier of digits of varying contrast, by where the temperature comes from."""
    task = measure.contrasts(rng)
    found = {"temperature 1": measure.nll(*task.test, 1.0), "best global": measure.best_global(task)}
    exact = optimal_temperature(task.test[0], rho).to(torch.float32)
    found["exact"] = measure.nll(*task.test, exact)
    for name, kind in (("TempNet", "published"), ("TempNet with the norm", "scale")):
        net = measure.fitted(rng, kind, task.train[0], rho)
        found[name] = measure.nll(*task.test, measure.said(net, task.test[0]))
    return found
