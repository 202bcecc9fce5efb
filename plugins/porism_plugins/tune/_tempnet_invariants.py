"""Margins of what is always true of the robust loss, its best temperature, and the networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from porism.divergences import kl_divergence
from porism_plugins.tune._tempnet_experiments import seeded
from porism_plugins.tune._tempnet_loss import TempNetLoss
from porism_plugins.tune._tempnet_networks import FeatureTempNet, LogitTempNet
from porism_plugins.tune._tempnet_temperature import optimal_temperature

Rng = np.random.Generator
WIDE = {"tau_min": 1e-6, "tau_max": 1e6}


def random_logits(rng: Rng, samples: int, classes: int, spread: float) -> Tensor:
    """Normal logits, float64."""
    return torch.from_numpy(rng.normal(scale=spread, size=(samples, classes)))


def bounds_margin(rng: Rng, *, size: float, tau_min: float, width: float, extrapolate: bool) -> float:
    """Distance of the networks' temperatures from leaving their bounds, with weights blown up by ``size``."""
    tau_max, found = tau_min + width, []
    x = torch.from_numpy(rng.normal(scale=size, size=(9, 6))).float()
    with seeded(rng), torch.no_grad():
        for net in (LogitTempNet(6, hidden=5, tau_min=tau_min, tau_max=tau_max),
                    FeatureTempNet(6, prototypes=5, tau_min=tau_min, tau_max=tau_max)):  # fmt: skip
            net.eval().weight.mul_(100 * size)
            tau = net(x)
            if extrapolate:  # the logit of the temperature's place between the bounds, not squashed
                tau = tau_min + width * ((tau - tau_min) / width).clamp(1e-6, 1 - 1e-6).logit()
            found.append(torch.minimum(tau - tau_min, tau_max - tau))
    return float(torch.cat(found).min()) + 1e-6 * tau_max


def convexity_margin(rng: Rng, *, classes: int, spread: float, rho: float, scaled: bool) -> float:
    """Smallest second difference of the loss over equally spaced temperatures, or of CE(z / tau), plus rounding."""
    z, y = random_logits(rng, 1, classes, spread), torch.from_numpy(rng.integers(classes, size=1))
    taus = np.linspace(0.2, 5, 25).tolist()
    if scaled:
        values = [float(TempNetLoss(tau, rho=rho * math.log(classes))(z, y)) for tau in taus]
    else:
        values = [float(F.cross_entropy(z / tau, y)) for tau in taus]
    return float(np.diff(values, 2).min()) + 1e-10


def duality_margin(rng: Rng, *, classes: int, spread: float, rho: float, exact: bool) -> float:
    """Rounding less the gap of the dual to the primal value at q = softmax(z / tau), and less what q breaks of rho."""
    z, y, rho = random_logits(rng, 1, classes, spread), torch.zeros(1, dtype=torch.long), rho * math.log(classes)
    tau = optimal_temperature(z, rho, **WIDE) if exact else torch.ones(1, dtype=torch.float64)
    dual, q = float(TempNetLoss(float(tau), rho=rho)(z, y)), (z / tau[:, None]).softmax(-1)[0]
    primal = float(q @ (z[0] - z[0, 0]))
    used = float(kl_divergence(q, torch.full_like(q, 1 / classes)))
    return 1e-6 - abs(dual - primal) / spread - max(0.0, used - rho)


def symmetry_margin(rng: Rng, *, classes: int, spread: float, rho: float, factor: float, shifted: bool) -> float:
    """Rounding less how far tau(c z + b) is from c tau(z), relatively; a tau of z less its mean square is no such."""
    z, rho = random_logits(rng, 4, classes, spread), rho * math.log(classes)
    moved = factor * z + (torch.from_numpy(rng.normal(size=(4, 1))) if shifted else z.square() / spread)
    tau, other = (optimal_temperature(logits, rho, **WIDE) for logits in (z, moved))
    return 1e-6 - float((other / (factor * tau) - 1).abs().max())


def gradient_margin(rng: Rng, *, classes: int, samples: int, spread: float, rho: float, right: bool) -> float:
    """Rounding less the distance of autograd's gradients from softmax(z / tau) - onehot and rho - KL, by float64."""
    z, y = random_logits(rng, samples, classes, spread), torch.from_numpy(rng.integers(classes, size=samples))
    tau, rho = torch.from_numpy(rng.uniform(0.3, 3, size=samples)), rho * math.log(classes)
    z.requires_grad_()
    tau.requires_grad_()
    loss = TempNetLoss(_Given(tau), rho=rho, reduction="sum")(z, y)
    by_z, by_tau = torch.autograd.grad(loss, (z, tau))
    q = (z / tau[:, None]).softmax(-1).detach()
    uniform = torch.full_like(q, 1 / classes)
    slope = (rho if right else 0.0) - kl_divergence(q, uniform)
    return 1e-9 - float(torch.maximum((by_z - q + F.one_hot(y, classes)).abs().amax(), (by_tau - slope).abs().amax()))


def entropy_loss_margin(rng: Rng, *, classes: int, samples: int, spread: float, share: float) -> float:
    """Rounding less the distance of the loss at temperature 1 from cross-entropy, where rho is ``share`` of log V."""
    z, y = random_logits(rng, samples, classes, spread), torch.from_numpy(rng.integers(classes, size=samples))
    return 1e-9 - abs(float(TempNetLoss(1.0, rho=share * math.log(classes))(z, y) - F.cross_entropy(z, y)))


class _Given(torch.nn.Module):
    def __init__(self, tau: Tensor) -> None:
        super().__init__()
        self.tau = tau

    def forward(self, inputs: Tensor) -> Tensor:
        return self.tau


def slope_statement(a: Any, b: Any, tau: Any, rho: Any, *, term: bool) -> Any:
    """For three classes with logits 0, a, b: d/dtau [tau log mean e^(z / tau) + tau rho] = rho - KL(q || uniform)."""
    import sympy

    weights = [sympy.Integer(1), sympy.exp(a / tau), sympy.exp(b / tau)]
    total = sum(weights)
    dual = tau * sympy.log(total / 3) + tau * rho
    used = sum(w / total * (z / tau - sympy.log(total / 3)) for w, z in zip(weights, (0, a, b), strict=True))
    return sympy.Eq(dual.diff(tau), (rho if term else 0) - used)


def gap_statement(a: Any, b: Any, u: Any, v: Any, tau: Any, *, side: int) -> Any:
    """For any p: tau log mean e^(z / tau) + tau KL(p || uniform) - E_p z = tau KL(p || q), which is at least 0.

    Three classes with logits 0, a, b, and p proportional to 1, u, v. With KL(p || uniform) <= rho the left side is at
    most the dual less the primal value: the dual bounds it from above, and meets it where p = q has KL = rho.
    """
    import sympy

    weights, z = [sympy.Integer(1), sympy.exp(a / tau), sympy.exp(b / tau)], (0, a, b)
    total, odds, mass = sum(weights), (sympy.Integer(1), u, v), 1 + u + v
    dual = tau * sympy.log(total / 3)
    used = sum(o / mass * (sympy.log(o) - sympy.log(mass) + sympy.log(3)) for o in odds)
    value = sum(o / mass * x for o, x in zip(odds, z, strict=True))
    apart = sum(o / mass * (sympy.log(o) - sympy.log(mass) - x / tau + sympy.log(total))
                for o, x in zip(odds, z, strict=True))  # fmt: skip
    return sympy.Eq(dual + side * tau * used - value, tau * apart)
