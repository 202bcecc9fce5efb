"""Margins of what must always hold for stochastic experts and their loss."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.testbeds import mlp, torch_generator
from porism_plugins.moe._engine import Experts
from porism_plugins.moe._thor_layer import StochasticExperts, inferring, set_inference
from porism_plugins.moe._thor_loss import IGNORED, consistency_of, thor_loss
from porism_plugins.moe._thor_sites import with_stochastic_experts

WIDTH, INNER, CLASSES, ROWS, TOKENS = 8, 12, 7, 3, 5


def layer(rng: np.random.Generator, experts: int, **options: str) -> StochasticExperts:
    """Stochastic experts in float64."""
    generator = torch_generator(rng)
    stack = Experts(experts, WIDTH, INNER, generator=generator).double()
    return StochasticExperts(stack, generator=generator, **options)  # type: ignore[arg-type]


def normal(rng: np.random.Generator, *shape: int, spread: float = 1.0) -> Tensor:
    """Normal numbers in float64."""
    return torch.from_numpy(rng.normal(scale=spread, size=shape))


def positive(rng: np.random.Generator, *, spread: float, second: str) -> float:
    """Of C: how far it is from symmetric, below 0, and from 0 at equal predictions."""
    p, q = normal(rng, 4, CLASSES, spread=spread), normal(rng, 4, CLASSES, spread=spread)
    there, back = consistency_of(p, q), consistency_of(q, p)
    if second == "one way":
        there, back = (F.softmax(a, -1) * (F.log_softmax(a, -1) - F.log_softmax(b, -1)) for a, b in ((p, q), (q, p)))
        there, back = there.sum(-1).mean(), back.sum(-1).mean()
    off = [abs(float(there - back)) / max(1.0, float(there)), -float(there), abs(float(consistency_of(p, p + 1.0)))]
    return 1e-9 - max(off)


def padded(rng: np.random.Generator, *, alpha: float, spread: float, labels: str) -> float:
    """How far loss and gradient move when rows without a label are added, which hold anything at all."""
    first, second = normal(rng, ROWS, TOKENS, CLASSES), normal(rng, ROWS, TOKENS, CLASSES)
    targets = torch.from_numpy(rng.integers(CLASSES, size=(ROWS, TOKENS)))
    more = [normal(rng, ROWS, 2, CLASSES, spread=spread) for _ in "ab"]
    value, gradient = _value(first, second, targets, alpha)
    ignored = torch.full((ROWS, 2), IGNORED if labels == "ignored" else 0)
    longer = [torch.cat(pair, 1) for pair in ((first, more[0]), (second, more[1]))]
    other, with_padding = _value(*longer, torch.cat([targets, ignored], 1), alpha)
    off = (value - other).abs(), (gradient - with_padding[:, :TOKENS]).abs().max(), with_padding[:, TOKENS:].abs().max()
    return 1e-9 - float(torch.stack(off).max())


def _value(first: Tensor, second: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    leaf = first.clone().requires_grad_()
    value = thor_loss(leaf, second, targets, alpha=alpha)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def undrawn(rng: np.random.Generator, *, experts: int, per: Literal["pass", "sequence", "token"],
            counted: str) -> float:  # fmt: skip
    """Largest gradient in experts that no token visited; all experts, if ``counted`` says so."""
    module = layer(rng, experts, training=per)
    module(normal(rng, ROWS, TOKENS, WIDTH)).square().sum().backward()
    idle = module.load.tokens == 0 if counted == "idle" else torch.ones(experts, dtype=torch.bool)
    sizes = [p.grad[idle].abs().max() for p in module.experts.parameters() if bool(idle.any())]
    return 1e-12 - max((float(size) for size in sizes), default=0.0)


def one_expert(rng: np.random.Generator, *, alpha: float, experts: int) -> float:
    """How far loss and gradients of a converted model with dropout are from R-Drop's of the model itself."""
    model = nn.Sequential(*mlp([WIDTH, INNER, WIDTH], rng), nn.Dropout(0.3), *mlp([WIDTH, CLASSES], rng)).double()
    converted = with_stochastic_experts(model, rng=rng, experts=experts, noise=0.5, training="token")
    x, y = normal(rng, ROWS, WIDTH), torch.from_numpy(rng.integers(CLASSES, size=ROWS))
    seed = int(rng.integers(2**31))
    values, gradients = [], []
    for net, loss in ((converted, thor_loss), (model, r_drop)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            value = loss(net(x), net(x), y, alpha=alpha)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, list(net.parameters())[-2:]))
    off = [values[0] - values[1], *(a - b for a, b in zip(*gradients, strict=True))]
    return 1e-9 - max(float(t.abs().max()) for t in off)


def r_drop(first: Tensor, second: Tensor, labels: Tensor, *, alpha: float) -> Tensor:
    """The formula of Wu et al. with label smoothing, written out: probabilities and their logarithms."""
    p, q = first.softmax(-1), second.softmax(-1)
    smooth = 0.1 / first.shape[-1] + 0.9 * F.one_hot(labels, first.shape[-1]).to(p.dtype)
    likelihood = -(smooth * (p.log() + q.log())).sum(-1)
    both = (p * (p.log() - q.log())).sum(-1) + (q * (q.log() - p.log())).sum(-1)
    return (likelihood + alpha * both / 2).mean()


def relabelled(rng: np.random.Generator, *, experts: int, by: str) -> float:
    """How far predictions move under another order of the experts: their average, and each with its new number."""
    one = layer(rng, experts, inference="average").eval()
    other = copy.deepcopy(one)
    order = torch.from_numpy(np.roll(np.arange(experts), 1))
    with torch.no_grad():
        for parameter in other.experts.parameters():
            parameter.copy_(parameter[order].clone())
    x = normal(rng, ROWS, TOKENS, WIDTH)
    off = [float((one(x) - other(x)).abs().max())]
    for place in range(experts):
        set_inference(one, int(order[place]) if by == "order" else place)
        with inferring(other, place):
            off.append(float((one(x) - other(x)).abs().max()))
    return 1e-9 - max(off)


def one_each(rng: np.random.Generator, *, experts: int, per: Literal["pass", "sequence", "token"],
             scope: str) -> float:  # fmt: skip
    """1 if each token has one expert, and the same one throughout what is drawn for; less otherwise."""
    module = layer(rng, experts, inference=per).eval()
    index = module.router(normal(rng, 16, 16, WIDTH)).index
    shaped = index.view(16, 16)
    same = {"pass": shaped.flatten(), "sequence": shaped[:, :1], "token": shaped[:, :1]}
    if scope == "wider":  # a draw per sequence is no draw per pass, one per token none per sequence
        alike = shaped == (shaped[:, :1] if per == "token" else shaped[0, 0])
    else:
        alike = shaped == {"pass": same["pass"][0], "sequence": shaped[:, :1], "token": shaped}[per]
    valid = index.shape[1] == 1 and bool(((index >= 0) & (index < experts)).all())
    return float(alike.all() and valid) - 0.5


def collapse(rng: np.random.Generator, *, experts: int, noise: float) -> float:
    """C between passes through experts with equal weights, however they are drawn, without dropout."""
    model = mlp([WIDTH, INNER, WIDTH, INNER, CLASSES], rng).double()
    converted = with_stochastic_experts(model, rng=rng, experts=experts, noise=noise, every=1, training="token")
    x = normal(rng, 32, WIDTH)
    with torch.no_grad():
        return 1e-9 - float(consistency_of(converted(x), converted(x)))
