"""Entropic transport beside POT and geomloss: times, and the accuracy that each of them reached.

Every repeat runs all competitors in turn, in one process; the table has medians and the ratio of the first line's
competitor to ours. Run by ``make benchmark``; :func:`sinkhorn_rows` is also called by the GPU script.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from porism.transport import sinkhorn, sinkhorn_divergence

PAIRS, POINTS, DIMENSION, EPSILON, ITERATIONS = 64, 128, 8, 1.0, 100
LARGE = 2000
REPEATS = 9


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Median milliseconds of each run, all of them in every round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(repeats + 1):
        for name, run in runs.items():
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            if round_:  # the first warms up
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def pot_divergence(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Three of POT's batched kernel-domain solves, and the cross term's plan."""
    from ot.batch import solve_sample_batch

    options = {"reg": EPSILON, "method": "sinkhorn", "max_iter": ITERATIONS, "reg_type": "kl"}
    cross, self_x, self_y = (solve_sample_batch(p, q, **options) for p, q in ((x, y), (x, x), (y, y)))
    return cross.value - (self_x.value + self_y.value) / 2, cross.plan


def samples(device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Standard normal points, (pairs, points, dimension)."""
    generator = torch.Generator().manual_seed(0)
    shape = (PAIRS, POINTS, DIMENSION)
    return tuple(torch.randn(shape, generator=generator).to(device) for _ in range(2))  # type: ignore[return-value]


def gradient(value: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> None:
    """One forward and backward pass."""
    leaf = x.detach().requires_grad_()
    value(leaf, y).sum().backward()


def sinkhorn_rows(device: str = "cpu", repeats: int = REPEATS) -> list[tuple[str, float]]:
    """Milliseconds of the batched workload on ``device``: (name, median)."""
    from geomloss import SamplesLoss

    x, y = samples(device)
    geomloss = SamplesLoss("sinkhorn", p=2, blur=(EPSILON / 2) ** 0.5, backend="tensorized")

    def ours(tolerance: float) -> Callable[[Tensor, Tensor], Tensor]:
        options = {"epsilon": EPSILON, "iterations": ITERATIONS, "tolerance": tolerance}
        return lambda x, y: sinkhorn_divergence(x, y, **options).value

    values = {
        "porism, tolerance 1e-5": ours(1e-5),
        "porism, tolerance 1e-3": ours(1e-3),
        "POT solve_sample_batch": lambda x, y: pot_divergence(x, y)[0],
        "geomloss (annealed)": lambda x, y: 2 * geomloss(x, y),
    }
    runs: dict[str, Callable[[], Any]] = {}
    for name, value in values.items():
        runs[name] = lambda value=value: value(x, y)
        runs[f"{name}, with gradient"] = lambda value=value: gradient(value, x, y)
    return list(interleaved(runs, repeats, device).items())


def accuracy() -> list[tuple[str, float, float]]:
    """(name, largest marginal error of the cross term, largest error of the debiased value) of each competitor."""
    from geomloss import SamplesLoss

    x, y = samples()
    exact = sinkhorn_divergence(x.double(), y.double(), epsilon=EPSILON, iterations=100_000, tolerance=1e-13).value
    rows = []
    for tolerance in (1e-5, 1e-3):
        solved = sinkhorn_divergence(x, y, epsilon=EPSILON, iterations=ITERATIONS, tolerance=tolerance)
        error = float((solved.value - exact).abs().max())
        rows.append((f"porism, tolerance {tolerance:g}", float(solved.cross.marginal_error.max()), error))
    value, plan = pot_divergence(x, y)
    uniform = 1 / POINTS
    violation = (plan.sum(2) - uniform).abs().sum(1) + (plan.sum(1) - uniform).abs().sum(1)
    rows.append(("POT solve_sample_batch", float(violation.max()), float((value - exact).abs().max())))
    value = 2 * SamplesLoss("sinkhorn", p=2, blur=(EPSILON / 2) ** 0.5, backend="tensorized")(x, y)
    rows.append(("geomloss (annealed)", float("nan"), float((value - exact).abs().max())))
    return rows


def large_rows() -> list[tuple[str, float]]:
    """One large problem in float64, 100 iterations without early stop; POT's plain and its stable solver."""
    import ot

    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(LARGE, DIMENSION, generator=generator, dtype=torch.float64) for _ in range(2))
    cost = torch.cdist(x, y).square()
    numpy_cost, uniform = cost.numpy(), torch.full((LARGE,), 1 / LARGE, dtype=torch.float64).numpy()
    options = {"numItermax": ITERATIONS, "stopThr": 0, "warn": False}

    def ours(accelerate: bool, tolerance: float = 0) -> Any:
        return sinkhorn(cost, epsilon=EPSILON, iterations=ITERATIONS, tolerance=tolerance, accelerate=accelerate)

    runs = {
        "porism, tolerance 0": lambda: ours(True),
        "porism, tolerance 0, plain iterations": lambda: ours(False),
        "ot.sinkhorn, stopThr 0": lambda: ot.sinkhorn(uniform, uniform, numpy_cost, EPSILON, **options),
        "porism, tolerance 1e-9": lambda: ours(True, 1e-9),
        "ot.sinkhorn, stopThr 1e-9": lambda: ot.sinkhorn(
            uniform, uniform, numpy_cost, EPSILON, **{**options, "stopThr": 1e-9}
        ),
    }
    rows = list(interleaved(runs, 3).items())
    stable = {
        "ot.sinkhorn, sinkhorn_log": lambda: ot.sinkhorn(
            uniform, uniform, numpy_cost, EPSILON, method="sinkhorn_log", **options
        )
    }
    rows += interleaved(stable, 1).items()
    for name, accelerate in (("over-relaxed", True), ("plain", False)):
        solved = ours(accelerate)
        print(f"{LARGE} x {LARGE}, {name}: gap {float(solved.gap):.1e}, error {float(solved.marginal_error):.1e}")
    plan = ot.sinkhorn(uniform, uniform, numpy_cost, EPSILON, **options)
    print(f"{LARGE} x {LARGE}, ot.sinkhorn: error {abs(plan.sum(1) - uniform).sum():.1e}")
    return rows


def table(title: str, rows: list[tuple[str, float]]) -> None:
    """Print medians and how many times ours each of them is."""
    print(f"\n{title}")
    for name, median in rows:
        print(f"  {name:44} {median:8.1f} ms  {median / rows[0][1]:6.2f} x")


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    rows = sinkhorn_rows()
    for wanted in (False, True):
        title = f"{PAIRS} pairs, {POINTS} points, d = {DIMENSION}, float32, eps = {EPSILON:g}, {ITERATIONS} iterations"
        table(title, [row for row in rows if row[0].endswith("gradient") == wanted])
    print("\nlargest marginal error (L1) and largest error of the debiased value")
    for name, violation, error in accuracy():
        print(f"  {name:44} {violation:.1e}  {error:.1e}")
    print()
    table(f"one {LARGE} x {LARGE} problem, float64, {ITERATIONS} iterations", large_rows())


if __name__ == "__main__":
    main()
