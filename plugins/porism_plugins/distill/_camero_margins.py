"""Margins of what is always true of the ensemble and its penalty, on small random networks in float64."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.testbeds import mlp
from porism_plugins.distill._camero_experiments import weights_in
from porism_plugins.distill._camero_method import CAMERO
from porism_plugins.distill._camero_perturbation import Perturbed, adversarial, size
from porism_plugins.distill._consistency import consistency

Rng = np.random.Generator
ROUNDING = 1e-9
FEATURES, WIDTH = 5, 8


def model(rng: Rng, classes: int, scale: float = 1.0) -> nn.Sequential:
    """5-8-8-classes with dropout of 0.3, float64, weights times ``scale``; the head is layer 6."""
    first, act, second, also, head = mlp([FEATURES, WIDTH, WIDTH, classes], rng)
    network = nn.Sequential(first, act, nn.Dropout(0.3), second, also, nn.Dropout(0.3), head).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(scale)
    return network


def batch(rng: Rng, samples: int, classes: int) -> tuple[Tensor, Tensor]:
    """Normal inputs (samples, 5) and uniform labels."""
    return torch.from_numpy(rng.normal(size=(samples, FEATURES))), torch.from_numpy(rng.integers(classes, size=samples))


def random_predictions(rng: Rng, members: int, samples: int, classes: int, spread: float) -> Tensor:
    """Normal logits (members, samples, classes), float64."""
    return torch.from_numpy(rng.normal(scale=spread, size=(members, samples, classes)))


def zero_iff_equal(rng: Rng, *, members: int, classes: int, spread: float, divergence: str, equal: bool) -> float:
    """Rounding less the penalty of members that agree, or that do not; the latter's own penalty must be above 0."""
    z = random_predictions(rng, members, 3, classes, spread)
    same = z[:1].expand_as(z) if equal else z
    forms = ("ring", "mean", "all")
    agreeing = max(float(consistency(same, divergence=divergence, form=form)) for form in forms)
    apart = min(float(consistency(z, divergence=divergence, form=form)) for form in forms)
    return min(ROUNDING * (1 + spread**2) - agreeing, apart)


def ensemble_loss(rng: Rng, *, members: int, classes: int, scale: float, than: str) -> float:
    """Members' mean (or least) training loss less that of their averaged logits."""
    ensemble = CAMERO(model(rng, classes, scale), ["6"], members=members, seed=int(rng.integers(2**62)))
    x, y = batch(rng, 6, classes)
    members_logits = ensemble(x, labels=y).members.detach()
    each = torch.stack([F.cross_entropy(z, y) for z in members_logits])
    bound = each.mean() if than == "mean" else each.min()
    return float(bound - F.cross_entropy(members_logits.mean(0), y)) + ROUNDING * scale**3


def relabelling(rng: Rng, *, members: int, classes: int, spread: float, form: str) -> float:
    """Rounding less the change of the penalty when two members change places; the ring in the given order."""
    z = random_predictions(rng, members, 3, classes, spread)
    swapped = z[[1, 0, *range(2, members)]]
    values = [float(consistency(one, form=form)) for one in (z, swapped)]
    return ROUNDING * (1 + spread) - abs(values[0] - values[1])


def ring_average(rng: Rng, *, members: int, classes: int, spread: float, draws: str) -> float:
    """Rounding less the distance of the ring's mean over all orders, or of one ring, from the mean over all pairs."""
    z = random_predictions(rng, members, 2, classes, spread)
    orders = list(itertools.permutations(range(members)))
    if draws == "one" or members < 4:  # of two or three members every ring has all pairs
        orders = orders[:1]
    rings = np.mean([float(consistency(z, form="ring", order=list(order))) for order in orders])
    return ROUNDING * (1 + spread) - abs(rings - float(consistency(z, form="all")))


def without_penalty(rng: Rng, *, members: int, classes: int, alpha: float) -> float:
    """Rounding less the distance of the gradient from that of the members' mean cross-entropy, taken by hand."""
    ensemble = CAMERO(model(rng, classes), ["6"], members=members, alpha=alpha, seed=int(rng.integers(2**62)))
    x, y = batch(rng, 6, classes)
    out = ensemble(x, labels=y)
    by_hand = sum(F.cross_entropy(z, y) for z in out.members) / members
    weights = list(ensemble.parameters())
    ours, theirs = (torch.autograd.grad(one, weights, retain_graph=True) for one in (out.loss, by_hand))
    return ROUNDING - max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def one_member(rng: Rng, *, classes: int, perturbation: str) -> float:
    """Rounding less the change of the weights' gradients by making an ensemble of one of a model without dropout."""
    plain = model(rng, classes)
    plain[2].p = plain[5].p = 0.0
    ensemble = CAMERO(copy.deepcopy(plain), ["6"], members=1, perturbation=perturbation)
    x, y = batch(rng, 6, classes)
    ensemble(x, labels=y).loss.backward()
    F.cross_entropy(plain(x), y).backward()
    pairs = zip(ensemble.parameters(), plain.parameters(), strict=True)
    return ROUNDING - max(float((a.grad - b.grad).abs().max()) for a, b in pairs)


def evaluation(rng: Rng, *, members: int, classes: int, own: bool, samples: int, of: str) -> float:
    """Rounding less the distance of the output from the mean over the members as separate models (or the first)."""
    ensemble = CAMERO(model(rng, classes), ["6"], ["3"] if own else [], members=members, seed=int(rng.integers(2**62)))
    with torch.no_grad():
        for weight in ensemble.parameters():
            weight.add_(torch.from_numpy(rng.normal(scale=0.1, size=weight.shape)))
        x, _ = batch(rng, samples, classes)
        separate = torch.stack([ensemble.member(j).eval()(x) for j in range(members)])
        expected = separate.mean(0) if of == "all" else separate[0]
        return ROUNDING - float((ensemble.eval()(x).logits - expected).abs().max())


def costs(rng: Rng, *, members: int, classes: int, own: bool, training: bool) -> float:
    """0.5 less what differs from shared + members x own parameters and from one run of the shared layer."""
    plain = model(rng, classes)
    separate = weights_in(plain[6]) + own * weights_in(plain[3])
    expected = weights_in(plain) + (members - 1) * separate
    ensemble = CAMERO(plain, ["6"], ["3"] if own else [], members=members).train(training)
    runs: list[Any] = []
    plain[0].register_forward_hook(lambda *_: runs.append(1))
    ensemble(batch(rng, 4, classes)[0])
    return 0.5 - abs(weights_in(ensemble) - expected) - abs(len(runs) - 1)


def bounded(rng: Rng, *, classes: int, scale: float, strength: float, share: float) -> float:
    """How far the adversarial perturbation's largest entry is below ``share`` of the size asked for, relatively."""
    network, (x, _) = model(rng, classes, scale).eval(), batch(rng, 4, classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        delta = adversarial(
            Perturbed(network, ""), lambda: network(x), strength=strength, steps=1, divergence="symmetric_kl"
        )
    return float((share - (delta / size(x, strength)).abs()).min()) + 1e-6
