"""What the claims and figures of CAMERO measure: ensembles of perceptrons on 150 handwritten digits."""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism import Paired, paired
from porism.metrics import accuracy, agreement
from porism.testbeds import digits, mlp, torch_generator
from porism_plugins.distill._camero_method import CAMERO
from porism_plugins.distill._camero_perturbation import Perturbed, adversarial, normalised, size
from porism_plugins.distill._consistency import consistency, disagreement

Rng = np.random.Generator
HIDDEN, DROPOUT = 128, 0.2
LABELS, EPOCHS, BATCH, LEARNING_RATE = 150, 24, 50, 5e-3
HEAD = ["6"]  # of `network`


class Task(NamedTuple):
    """Digits to train and to test on, images (n, 64) and labels (n,)."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


class Trained(NamedTuple):
    """Test logits of the members without perturbation, (members, n, 10); train-mode ones; parameters of the whole."""

    calm: Tensor
    perturbed: Tensor
    parameters: int


class Arm(NamedTuple):
    """How to train: ``"camero"`` and the like with :class:`CAMERO`'s options, ``"independent"`` for separate models."""

    kind: str = "camero"
    members: int = 4
    perturbation: str = "dropout"
    alpha: float = 1.0
    form: str = "ring"
    own: tuple[str, ...] = ()
    heads: tuple[str, ...] = tuple(HEAD)
    hidden: int = HIDDEN


# Widths that give a single model as many parameters as the ensemble of four heads, and the ones the claims compare.
WIDE = 140
ARMS = {
    "single": Arm(members=1),
    "single, wider": Arm(members=1, hidden=WIDE),
    "shared": Arm(perturbation="none", alpha=0.0),
    "shared, dropout": Arm(alpha=0.0),
    "R-Drop": Arm(members=2, heads=()),
    "CAMERO, 2": Arm(members=2),
    "CAMERO": Arm(),
    "CAMERO, own layer": Arm(own=("3",)),
    "independent": Arm("independent"),
}


def task(rng: Rng, *, labels: int = LABELS) -> Task:
    """A random split of the digits."""
    data = digits(rng, train=labels, validation=0)
    return Task(*map(torch.from_numpy, (data.x_train, data.y_train, data.x_test, data.y_test)))


def network(rng: Rng, hidden: int = HIDDEN, dropout: float = DROPOUT) -> nn.Sequential:
    """64-hidden-hidden-10 with dropout after each activation; the head is layer 6."""
    first, act, second, also, head = mlp([64, hidden, hidden, 10], rng)
    return nn.Sequential(first, act, nn.Dropout(dropout), second, also, nn.Dropout(dropout), head)


def fitted(rng: Rng, data: Task, arm: Arm, *, epochs: int = EPOCHS) -> CAMERO:
    """Train by Adam; initial weights, batches and masks come from ``rng``."""
    ensemble = CAMERO(
        network(rng, arm.hidden), arm.heads, arm.own, members=arm.members, perturbation=arm.perturbation,
        form=arm.form, alpha=arm.alpha, seed=int(rng.integers(2**62)),
    )  # fmt: skip
    batches = torch_generator(rng)
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=LEARNING_RATE, foreach=False)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.x), generator=batches).split(BATCH):
            optimizer.zero_grad()
            ensemble(data.x[rows], labels=data.y[rows]).loss.backward()
            optimizer.step()
    return ensemble


def trained(rng: Rng, data: Task, arm: Arm) -> Trained:
    """Fit an arm and run it on the test digits; independent models each have their own stream of randomness."""
    if arm.kind == "independent":
        singles = [trained(child, data, Arm(members=1)) for child in rng.spawn(arm.members)]
        calm, perturbed = (torch.cat([getattr(one, name) for one in singles]) for name in ("calm", "perturbed"))
        return Trained(calm, perturbed, sum(one.parameters for one in singles))
    ensemble = fitted(rng, data, arm)
    with torch.no_grad():
        perturbed = ensemble(data.x_test).members
    return Trained(ensemble.member_logits(data.x_test), perturbed, weights_in(ensemble))


def weights_in(model: nn.Module) -> int:
    """Numbers that training sets."""
    return sum(p.numel() for p in model.parameters())


def judged(result: Trained, data: Task) -> dict[str, float]:
    """By name: test accuracy and NLL of the averaged logits, members' spread and diversity, parameters."""
    mean, members, y = result.calm.mean(0), result.calm, data.y_test
    each = torch.stack([F.cross_entropy(one, y) for one in members])
    return {
        "accuracy": accuracy(mean.argmax(1), y),
        "nll": float(F.cross_entropy(mean, y)),
        "member accuracy": float(np.mean([accuracy(one.argmax(1), y) for one in members])),
        "spread": float(each.var(correction=0)),
        "log2 row spread": float(np.log2(max(row_spread(result.perturbed, y), 1e-12))),
        "calm disagreement": disagreement_rate(members),
        "disagreement": disagreement_rate(result.perturbed),
        "divergence": float(consistency(result.perturbed, form="all")),
        "calm divergence": float(consistency(members, form="all")),
        "parameters": float(result.parameters),
    }


def row_spread(members: Tensor, y: Tensor) -> float:
    """Mean over digits of the variance over members of the log-loss."""
    losses = torch.stack([F.cross_entropy(one, y, reduction="none") for one in members])
    return float(losses.var(0, correction=0).mean())


def disagreement_rate(members: Tensor) -> float:
    """Mean over pairs of members of the share of rows with different classes."""
    classes = members.argmax(-1)
    pairs = [(a, b) for a in range(len(classes)) for b in range(a)]
    return float(np.mean([1 - agreement(classes[a], classes[b]) for a, b in pairs])) if pairs else 0.0


def score(rng: Rng, *, arm: str, by: str, **options: Any) -> float:
    """One number of :func:`judged` after training an arm, with changes."""
    data = task(rng)
    return judged(trained(rng, data, ARMS[arm]._replace(**options)), data)[by]


def against(rng: Rng, ours: dict[str, Any], theirs: dict[str, Any], *, by: str = "accuracy",
            better: Any = "higher") -> Paired:  # fmt: skip
    """Two arms on the same digits, initial weights and batches."""
    return paired(functools.partial(score, by=by), rng, ours=ours, theirs=theirs, better=better)


def inner_optimum(rng: Rng, *, alpha: float) -> Paired:
    """Test NLL at ``alpha`` and the lower one of no penalty and of one of 100."""
    nll = functools.partial(score, arm="CAMERO", by="nll")
    ours, none = (nll(copy.deepcopy(rng), alpha=weight) for weight in (alpha, 0.0))
    return Paired(ours, min(none, nll(rng, alpha=100.0)), "lower")


def moved(rng: Rng, *, direction: str, strength: float = 0.1) -> float:
    """log2 of the mean symmetric KL by which a perturbation of a given largest entry moves a trained model.

    ``"gradient"`` is ours, ``"released"`` that of the released constants, ``"random"`` normal; all normalised alike.
    """
    data = task(rng)
    ensemble = fitted(rng, data, ARMS["single"])
    model, x = ensemble.member(0).eval(), data.x_test[:300]
    draws = torch_generator(rng)
    calm = model(x).detach()
    if direction == "gradient":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            delta = adversarial(
                Perturbed(model, ""), lambda: model(x), strength=strength, steps=1, divergence="symmetric_kl"
            )
    else:
        delta = torch.randn(x.shape, generator=draws)
        if direction == "released":
            delta = released_direction(model, x, 1e-5 * delta, calm)
        delta = size(x, strength) * normalised(delta)
    with torch.no_grad():
        return float(disagreement(model(x + delta), calm).mean().log2())


def moved_against(rng: Rng, direction: str) -> Paired:
    """A direction against the released one on the same model and digits."""
    return paired(moved, rng, ours={"direction": direction}, theirs={"direction": "released"})


def compared(rng: Rng, **options: Any) -> dict[str, float]:
    """CAMERO with these options and a single model."""
    data = task(rng)
    ours, single = (judged(trained(copy.deepcopy(rng), data, arm), data)
                    for arm in (ARMS["CAMERO"]._replace(**options), ARMS["single"]))  # fmt: skip
    return {"CAMERO": ours["accuracy"], "its members": ours["member accuracy"], "single": single["accuracy"],
            "parameters": ours["parameters"], "single's parameters": single["parameters"]}  # fmt: skip


def released_direction(model: nn.Module, x: Tensor, start: Tensor, calm: Tensor, step: float = 1e-3) -> Tensor:
    """The start and ``step`` times the gradient of the released surrogate, whose log-odds ratios are constants."""
    delta = start.clone().requires_grad_()
    p, q = model(x + delta).softmax(-1), calm.softmax(-1)
    surrogate = (2 * p * (p.logit(1e-6) - q.logit(1e-6)).detach()).sum()
    (slope,) = torch.autograd.grad(surrogate, delta)
    return (delta + step * slope).detach()
