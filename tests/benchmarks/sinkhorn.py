"""Entropic transport beside POT and geomloss: times, and the accuracy that each of them reached."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import ot
import torch
from geomloss import SamplesLoss
from timing import Workload
from torch import Tensor

from porism.transport import sinkhorn, sinkhorn_divergence

PAIRS, POINTS, DIMENSION, EPSILON, ITERATIONS = 64, 128, 8, 1.0, 100
LARGE = 2000
Divergence = Callable[[Tensor, Tensor], Tensor]


def workloads() -> Iterator[Workload]:
    """What is measured on the CPU."""
    yield from batched()
    yield large()


def batched(device: str = "cpu") -> Iterator[Workload]:
    """Debiased divergences of many small pairs, and their gradients in x."""
    x, y = samples(device)
    what = f"{PAIRS} debiased Sinkhorn divergences, n = m = {POINTS}, d = {DIMENSION}, float32, epsilon {EPSILON:g}"
    named = competitors()
    yield f"{what}, at most {ITERATIONS} iterations", {n: functools.partial(v, x, y) for n, v in named.items()}
    yield "the same with gradients", {n: functools.partial(gradient, v, x, y) for n, v in named.items()}


def competitors() -> dict[str, Divergence]:
    """By name, each (x, y) to (pairs,)."""
    geomloss = SamplesLoss("sinkhorn", p=2, blur=(EPSILON / 2) ** 0.5, backend="tensorized")  # of half the cost
    return {
        "porism": ours(1e-5),
        "porism, tolerance 1e-3": ours(1e-3),
        "POT, solve_sample_batch(method='sinkhorn')": lambda x, y: pot_divergence(x, y)[0],
        "geomloss, annealed": lambda x, y: 2 * geomloss(x, y),
    }


def ours(tolerance: float) -> Divergence:
    """Value alone."""
    options = {"epsilon": EPSILON, "iterations": ITERATIONS, "tolerance": tolerance}
    return lambda x, y: sinkhorn_divergence(x, y, **options).value


def pot_divergence(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Three of POT's batched kernel-domain solves, and the cross term's plan."""
    from ot.batch import solve_sample_batch

    options = {"reg": EPSILON, "method": "sinkhorn", "max_iter": ITERATIONS, "reg_type": "kl"}
    cross, self_x, self_y = (solve_sample_batch(p, q, **options) for p, q in ((x, y), (x, x), (y, y)))
    return cross.value - (self_x.value + self_y.value) / 2, cross.plan


def samples(device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Standard normal points, (pairs, points, dimension)."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn((PAIRS, POINTS, DIMENSION), generator=generator).to(device) for _ in range(2))
    return x, y


def gradient(value: Divergence, x: Tensor, y: Tensor) -> None:
    """One forward and backward pass."""
    leaf = x.detach().requires_grad_()
    value(leaf, y).sum().backward()


def large() -> Workload:
    """One problem in float64, 100 iterations without early stop."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(LARGE, DIMENSION, generator=generator, dtype=torch.float64) for _ in range(2))
    cost = torch.cdist(x, y).square()
    numpy_cost, uniform = cost.numpy(), torch.full((LARGE,), 1 / LARGE, dtype=torch.float64).numpy()

    def pot(**options: Any) -> object:
        return ot.sinkhorn(uniform, uniform, numpy_cost, EPSILON, numItermax=ITERATIONS, warn=False, **options)

    def solve(accelerate: bool) -> object:
        return sinkhorn(cost, epsilon=EPSILON, iterations=ITERATIONS, tolerance=0, accelerate=accelerate)

    return f"one entropic problem, {LARGE:,} x {LARGE:,}, float64, epsilon {EPSILON:g}, {ITERATIONS} iterations", {
        "porism": lambda: solve(True),
        "porism, plain iterations": lambda: solve(False),
        "ot.sinkhorn": lambda: pot(stopThr=0),
    }


def accuracy() -> str:
    """Largest marginal error (L1) of the cross term and largest error of the debiased value, as a table."""
    x, y = samples()
    exact = sinkhorn_divergence(x.double(), y.double(), epsilon=EPSILON, iterations=100_000, tolerance=1e-13).value
    rows = ["| what | marginal error | error of the value |", "|---|--:|--:|"]
    for name, value in competitors().items():
        error = float((value(x, y) - exact).abs().max())
        rows.append(f"| {name} | {violation(name, x, y)} | {error:.1e} |")
    return "\n".join([*rows, f"\nThe values are between {float(exact.min()):.2f} and {float(exact.max()):.2f}."])


def violation(name: str, x: Tensor, y: Tensor) -> str:
    """How far the plan of the cross term is from its marginals; geomloss gives no plan."""
    if name.startswith("geomloss"):
        return ""
    if name.startswith("POT"):
        plan = pot_divergence(x, y)[1]
        sums = ((plan.sum(axis) - 1 / POINTS).abs().sum(1) for axis in (1, 2))
        return f"{float(sum(sums).max()):.1e}"
    tolerance = 1e-3 if name.endswith("1e-3") else 1e-5
    solved = sinkhorn_divergence(x, y, epsilon=EPSILON, iterations=ITERATIONS, tolerance=tolerance)
    return f"{float(solved.cross.marginal_error.max()):.1e}"
