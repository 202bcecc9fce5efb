"""Large steps of gradient descent: 10,000 runs beside plain numpy, and the sharpness of a network by Lanczos."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from timing import Workload

from porism.metrics import hessian_operator, sharpness
from porism_sims.large_steps import networks as nets
from porism_sims.large_steps.factorised import Array, descend, weights
from porism_sims.large_steps.landscapes import Landscape, power

RUNS, STEPS = 10_000, 2_000
WIDTHS = (64, 260, 320)  # 100,160 weights


def workloads() -> Iterator[Workload]:
    """What is measured: a title, and calls by name; ours is called porism."""
    for degree in (2.0, 1.0, 1.5):
        yield descent(degree)
    yield spectrum()


def descent(degree: float) -> Workload:
    """Starts far and near; ``all steps`` switches off that runs end when they have converged."""
    rng = np.random.default_rng(0)
    squared_norm = rng.uniform(5, 40, RUNS)
    x, y = weights(squared_norm, squared_norm * rng.uniform(-0.4, 0.4, RUNS))
    bowl, sizes = power(degree), rng.uniform(0.5, 3.5, RUNS) / (squared_norm + 4)
    return f"{RUNS:,} runs of {STEPS:,} steps, degree {degree:g}", {
        "porism": lambda: descend(bowl, x, y, step_size=sizes, steps=STEPS, tolerance=1e-300),
        "porism, runs end when converged": lambda: descend(bowl, x, y, step_size=sizes, steps=STEPS),
        "numpy, all runs at once": lambda: plain(bowl, x, y, sizes),
    }


def plain(bowl: Landscape, x: Array, y: Array, sizes: Array) -> tuple[Array, Array]:
    """The loop as one writes it first."""
    for _ in range(STEPS):
        pull = sizes * bowl.slope(x * y)
        x, y = x - pull * y, y - pull * x
    return x, y


def network() -> tuple[Callable[[], torch.Tensor], list[torch.Tensor]]:
    """Square loss of 200 points in 64 dimensions, float64."""
    rng = np.random.default_rng(0)
    task = nets.problem(*nets.classes(rng))
    parameters = [matrix.requires_grad_() for matrix in nets.random_weights(rng, WIDTHS)]
    return lambda: nets.losses(parameters, task).sum(), parameters


def spectrum() -> Workload:
    """To one part in a thousand, beside the power iterations of fixed number that papers use."""
    loss, parameters = network()
    return "sharpness of 100,160 weights, 200 points, float64", {
        "porism": lambda: sharpness(loss, parameters, tolerance=1e-3, rng=np.random.default_rng(0)),
        "60 power iterations": lambda: power_iterations(loss, parameters),
    }


def power_iterations(loss: Callable[[], torch.Tensor], parameters: list[torch.Tensor], count: int = 60) -> float:
    """Rayleigh quotient at the end."""
    product = hessian_operator(loss, parameters)
    vector = torch.randn(sum(p.numel() for p in parameters), generator=torch.Generator().manual_seed(0)).double()
    for _ in range(count):
        vector = product(vector / vector.norm())
    unit = vector / vector.norm()
    return float(unit @ product(unit))


def accuracy() -> str:
    """Relative errors beside Lanczos to machine precision."""
    loss, parameters = network()
    exact = sharpness(loss, parameters, rng=np.random.default_rng(1))[0]
    ours = sharpness(loss, parameters, tolerance=1e-3, rng=np.random.default_rng(0))[0]
    theirs = power_iterations(loss, parameters)
    return f"relative error of the sharpness: porism {abs(ours / exact - 1):.1e}, power {abs(theirs / exact - 1):.1e}"
