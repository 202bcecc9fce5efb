"""How fast the discrepancies of samples are, beside peers, interleaved in one process. Run by ``make benchmark``.

Each round runs every contender once; the table gives medians over rounds and ratios to ours. Sorting and
kernels use up to two threads; peers that are not installed are left out.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats

from porism.discrepancies import energy_distance, mmd_squared
from porism.transport import sliced_wasserstein, wasserstein_1d

POINTS = 1_000_000
CLOUD, DIMENSION, BANDWIDTH = 4_000, 64, 8.0
ROUNDS = 5

Contenders = dict[str, Callable[[], float]]


def compare(title: str, contenders: Contenders) -> None:
    """Print a table; the first contender is ours."""
    values = {name: run() for name, run in contenders.items()}  # also the warm-up
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    print(f"\n{title}")
    ours = statistics.median(next(iter(times.values())))
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"  {name:34} {median * 1e3:8.1f} ms  {median / ours:6.1f} x ours   value {values[name]:.9g}")


def on_the_line() -> None:
    """W_1 of a million points, plain and weighted, and the energy distance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=POINTS), rng.normal(size=POINTS) + 0.1
    a, b = rng.random(POINTS), rng.random(POINTS)
    a, b = a / a.sum(), b / b.sum()
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    plain: Contenders = {
        "porism": lambda: float(wasserstein_1d(x, y)),
        "porism, torch": lambda: float(wasserstein_1d(*tensors)),
        "scipy.stats.wasserstein_distance": lambda: float(stats.wasserstein_distance(x, y)),
    }
    weighted: Contenders = {
        "porism": lambda: float(wasserstein_1d(x, y, x_weights=a, y_weights=b)),
        "scipy.stats.wasserstein_distance": lambda: float(stats.wasserstein_distance(x, y, a, b)),
    }
    squared: Contenders = {"porism": lambda: float(wasserstein_1d(x, y, 2)) ** 2}
    if ot is not None:
        plain["ot.wasserstein_1d"] = lambda: float(ot.wasserstein_1d(x, y))
        plain["ot.emd2_1d"] = lambda: float(ot.emd2_1d(x, y, metric="euclidean"))
        weighted["ot.wasserstein_1d"] = lambda: float(ot.wasserstein_1d(x, y, a, b))
        weighted["ot.emd2_1d"] = lambda: float(ot.emd2_1d(x, y, a, b, metric="euclidean"))
        squared["ot.emd2_1d"] = lambda: float(ot.emd2_1d(x, y))
    compare(f"W_1 on the line, n = m = {POINTS:,}, float64", plain)
    compare("the same with weights", weighted)
    compare("W_2 squared", squared)
    energy: Contenders = {
        "porism": lambda: float(energy_distance(x, y)),
        "scipy.stats.energy_distance": lambda: float(stats.energy_distance(x, y)) ** 2,
    }
    compare("energy distance", energy)


def sliced() -> None:
    """SW_2 over 128 directions."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5_000, 16)), rng.normal(size=(5_000, 16)) + 0.1
    directions = rng.normal(size=(128, 16))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    contenders: Contenders = {"porism": lambda: float(sliced_wasserstein(x, y, projections=directions))}
    if ot is not None:
        contenders["ot.sliced_wasserstein_distance"] = lambda: float(
            ot.sliced_wasserstein_distance(x, y, projections=directions.T)
        )
    compare("sliced W_2, n = m = 5,000, d = 16, 128 directions, float64", contenders)


def mmd() -> None:
    """Gaussian MMD and its gradients in both samples."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(CLOUD, DIMENSION, generator=generator).requires_grad_()
    y = (torch.randn(CLOUD, DIMENSION, generator=generator) + 0.1).requires_grad_()

    def differentiated(value: Callable[[], torch.Tensor]) -> Callable[[], float]:
        def run() -> float:
            x.grad = y.grad = None
            found = value()
            found.backward()
            return float(found.detach())

        return run

    def kernel_mean(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        squares = u.square().sum(1)[:, None] + v.square().sum(1) - 2 * u @ v.T
        return torch.exp(squares / (-2 * BANDWIDTH**2)).mean()

    contenders: Contenders = {
        "porism": differentiated(lambda: mmd_squared(x, y, bandwidth=BANDWIDTH, estimator="biased")),
        "torch, by products of matrices": differentiated(
            lambda: kernel_mean(x, x) + kernel_mean(y, y) - 2 * kernel_mean(x, y)
        ),
    }
    if geomloss is not None:
        loss = geomloss.SamplesLoss("gaussian", blur=BANDWIDTH, backend="tensorized")
        contenders["geomloss, tensorized"] = differentiated(lambda: 2 * loss(x, y))  # it halves the square
    exact = float(mmd_squared(x.detach().double(), y.detach().double(), bandwidth=BANDWIDTH, estimator="biased"))
    compare(f"Gaussian MMD with gradients, n = m = {CLOUD:,}, d = {DIMENSION}, float32", contenders)
    print(f"  in float64 {'':53} value {exact:.9g}")


def main() -> None:
    """All tables."""
    torch.set_num_threads(2)
    on_the_line()
    sliced()
    mmd()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        import ot
    except ImportError:
        ot = None
    try:
        import geomloss
    except ImportError:
        geomloss = None
    main()
