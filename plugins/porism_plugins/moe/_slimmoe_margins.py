"""Margins of what is always true of SlimMoE: its scores, its cuts, its budget, its loss."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.divergences import kl_divergence_logits
from porism.testbeds import torch_generator
from porism_plugins.moe._engine import Experts, MoE, TopKRouter
from porism_plugins.moe._slimmoe_loss import Objective, distillation, logits_of, own_labels, scores, top_distillation
from porism_plugins.moe._slimmoe_method import slimmoe
from porism_plugins.moe._slimmoe_sites import largest, narrow, sites

WIDTH, CLASSES = 6, 5


class Classifier(nn.Module):
    """Two mixtures of gated experts with residual connections, and a head; float64."""

    def __init__(self, rng: np.random.Generator, *, experts: int, inner: int, classes: int = CLASSES) -> None:
        super().__init__()
        generator = torch_generator(rng)
        self.mixtures = nn.ModuleList(
            MoE(
                Experts(experts, WIDTH, inner, activation=F.silu, gated=True, generator=generator),
                TopKRouter(WIDTH, experts, k=2, renormalise=True, generator=generator),
            )
            for _ in range(2)
        )
        self.head = nn.utils.skip_init(nn.Linear, WIDTH, classes)
        for tensor in self.head.parameters():
            nn.init.normal_(tensor, generator=generator)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of x of shape (rows, 6)."""
        for mixture in self.mixtures:
            x = x + mixture(x)
        found: Tensor = self.head(x)
        return found


def tokens(rng: np.random.Generator, rows: int) -> Tensor:
    """Standard normal inputs of shape (rows, 6), float64."""
    return torch.from_numpy(rng.normal(size=(rows, WIDTH)))


def curvature(rng: np.random.Generator, *, experts: int, inner: int, score: str, step: float = 1e-4) -> float:
    """A hundredth, minus the relative error of a score as KL's curvature along each neuron's weights.

    The score is the mean square over labels of one token, each as probable as the model says; or the squared score of
    the distillation loss. The curvature is 2 KL / step^2 where a neuron's slices are shrunk by the share ``step``.
    """
    model = Classifier(rng, experts=experts, inner=inner)
    x, name = tokens(rng, 1), "mixtures.0.experts"
    logits = model(x).detach()

    def squared(loss: Objective) -> Tensor:
        return scores(model, model, {name: sites(model)[name]}, [x], loss)[name].square()

    if score == "labels":
        found = sum(p * squared(_to_label(y)) for y, p in enumerate(logits.softmax(-1)[0]))
    else:
        found = squared(distillation(8))
    exact = torch.zeros(experts, inner, dtype=torch.float64)
    for expert, neuron in np.ndindex(experts, inner):
        exact[expert, neuron] = 2 * kl_divergence_logits(logits, _shrunk(model, expert, neuron, step)(x)) / step**2
    return 0.01 - float((found - exact).abs().max() / exact.max())


def _to_label(label: int) -> Objective:
    def loss(student: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
        logits = logits_of(student, batch)
        return F.cross_entropy(logits, torch.full((len(logits),), label))

    return loss


@torch.no_grad()
def _shrunk(model: Classifier, expert: int, neuron: int, share: float) -> Classifier:
    """A copy with all slices of one neuron of the first mixture times 1 - share, its biases as well."""
    other = copy.deepcopy(model).requires_grad_(False)
    for part in sites(other)["mixtures.0.experts"].parts:
        rows = part.tensor[expert].movedim(part.axis - 1, 0)
        rows.unflatten(0, (part.blocks, -1))[:, neuron] *= 1 - share
    return other


def cut_is_masked(rng: np.random.Generator, *, experts: int, inner: int, kept: int, gates: str) -> float:
    """Rounding, minus the difference between cut experts and whole ones with the other neurons silenced.

    With ``gates`` of ``"of others"`` each gate is that of the next neuron.
    """
    model, x = Classifier(rng, experts=experts, inner=inner), tokens(rng, 20)
    stays = largest(torch.from_numpy(rng.normal(size=(experts, inner))), min(kept, inner))
    small, masked = copy.deepcopy(model), copy.deepcopy(model)
    if gates == "of others":
        up = small.mixtures[0].experts.up.data
        up[:, :inner] = up[:, :inner].roll(1, 1)
    narrow(sites(small)["mixtures.0.experts"], stays)
    silent = torch.ones(experts, inner, dtype=torch.bool).scatter(1, stays, False)
    masked.mixtures[0].experts.down.data.masked_fill_(silent[:, None], 0)
    return 1e-10 - _distance(small(x), masked(x))


def permutation(rng: np.random.Generator, *, experts: int, inner: int, kept: int, rule: str) -> float:
    """Rounding, minus what a relabelling of neurons within experts changes in the outputs after the cut."""
    model, x = Classifier(rng, experts=experts, inner=inner), tokens(rng, 20)
    other, results = copy.deepcopy(model), []
    order = torch.from_numpy(np.stack([rng.permutation(inner) for _ in range(experts)]))
    narrow(sites(other)["mixtures.0.experts"], order)
    for each in (model, other):
        site = sites(each)["mixtures.0.experts"]
        worth = scores(each, each, {"": site}, [x], own_labels(0))[""]
        if rule == "position":
            worth = -torch.arange(inner).expand(experts, -1)
        narrow(site, largest(worth, min(kept, inner)))
        results.append(each(x))
    return 1e-10 - _distance(*results)


def budget(rng: np.random.Generator, *, experts: int, inner: int, remaining: float, stages: int, rule: str) -> float:
    """Half a neuron, minus the largest difference of an expert's neurons from the share asked for, rounded down.

    With ``rule`` of ``"over all"`` the same share of all neurons stays, those of the largest scores of all experts.
    """
    model, x = Classifier(rng, experts=experts, inner=inner), tokens(rng, 20)
    wanted = max(1, int(np.floor(remaining * inner + 1e-9)))
    if rule == "over all":
        worth = scores(model, model, sites(model), [x], own_labels(0))
        flat = torch.cat([score.flatten() for score in worth.values()])
        stays = torch.zeros_like(flat).index_fill(0, flat.topk(2 * experts * wanted).indices, 1)
        counts = stays.view(2, experts, inner).sum(2)
    else:
        small = slimmoe(model, calibration=[x], remaining=remaining, stages=stages, steps=stages, seed=0)
        counts = torch.tensor([[site.inner] * site.experts for site in sites(small).values()])
        experts_size = experts * wanted * (3 * WIDTH + 2) + experts * WIDTH
        size = sum(p.numel() for mixture in small.mixtures for p in mixture.experts.parameters())
        counts = counts + (size - 2 * experts_size)
    return 0.5 - float((counts - wanted).abs().max())


def bound(rng: np.random.Generator, *, classes: int, top: int, noise: float, targets: str) -> float:
    """How far the loss is above the entropy of its targets; with as many classes as ``top``, also of the full loss.

    With ``targets`` of ``"as they are"`` the teacher's probabilities are not renormalised.
    """
    teacher = torch.from_numpy(rng.normal(size=(4, classes)))
    student = teacher + noise * torch.from_numpy(rng.normal(size=(4, classes)))
    kept = teacher.topk(min(top, classes)).values
    loss = top_distillation(student, teacher, top=top)
    if targets == "as they are":
        index = teacher.topk(min(top, classes)).indices
        loss = -(teacher.softmax(-1) * student.log_softmax(-1)).gather(1, index).sum(1).mean()
    margin = float(loss - torch.distributions.Categorical(logits=kept).entropy().mean())
    if classes <= top:
        full = F.cross_entropy(student, teacher.softmax(-1))
        margin = min(margin, 1e-12 - float((loss - full).abs()))
    return margin + 1e-12


def _distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).detach().abs().max())
