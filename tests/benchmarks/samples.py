"""Distances of samples beside scipy, POT, torch and geomloss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import geomloss
import numpy as np
import ot
import torch
from scipy import special, stats
from timing import Workload

from porism.discrepancies import energy_distance, mmd_squared
from porism.divergences import kl_divergence
from porism.transport import sliced_wasserstein, wasserstein_1d

POINTS = 1_000_000
CLOUD, DIMENSION, BANDWIDTH = 4_000, 64, 8.0


def workloads() -> Iterator[Workload]:
    """What is measured: a title, and calls by name; ours is called porism."""
    rng = np.random.default_rng(0)
    yield small_call(rng)
    yield from on_the_line(rng)
    yield sliced(rng)
    yield mmd()


def small_call(rng: np.random.Generator) -> Workload:
    """A thousand calls for 128 probabilities: what validation and dispatch cost."""
    p, q = rng.dirichlet(np.ones(128), size=2)

    def thousand(call: Callable[[], object]) -> Callable[[], None]:
        return lambda: [call() for _ in range(1000)] and None

    return "KL of two vectors of 128, a thousand calls", {
        "porism": thousand(lambda: kl_divergence(p, q)),
        "scipy.special.rel_entr(p, q).sum()": thousand(lambda: special.rel_entr(p, q).sum()),
    }


def on_the_line(rng: np.random.Generator) -> Iterator[Workload]:
    """A million points against a million, with and without weights."""
    x, y = rng.normal(size=POINTS), rng.normal(size=POINTS) + 0.1
    a, b = (w / w.sum() for w in rng.random((2, POINTS)))
    yield (
        "W1 on the line, n = m = 1,000,000, float64",
        {
            "porism": lambda: wasserstein_1d(x, y),
            "scipy.stats.wasserstein_distance": lambda: stats.wasserstein_distance(x, y),
            "ot.wasserstein_1d": lambda: ot.wasserstein_1d(x, y),
            "ot.emd2_1d": lambda: ot.emd2_1d(x, y, metric="euclidean"),
        },
    )
    yield (
        "the same with weights",
        {
            "porism": lambda: wasserstein_1d(x, y, x_weights=a, y_weights=b),
            "scipy.stats.wasserstein_distance": lambda: stats.wasserstein_distance(x, y, a, b),
            "ot.wasserstein_1d": lambda: ot.wasserstein_1d(x, y, a, b),
            "ot.emd2_1d": lambda: ot.emd2_1d(x, y, a, b, metric="euclidean"),
        },
    )
    yield (
        "energy distance on the line",
        {
            "porism": lambda: energy_distance(x, y),
            "scipy.stats.energy_distance": lambda: stats.energy_distance(x, y),
        },
    )


def sliced(rng: np.random.Generator) -> Workload:
    """The same directions for both."""
    x, y = rng.normal(size=(5_000, 16)), rng.normal(size=(5_000, 16)) + 0.1
    directions = rng.normal(size=(128, 16))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return "sliced W2, n = m = 5,000, d = 16, 128 directions, float64", {
        "porism": lambda: sliced_wasserstein(x, y, projections=directions),
        "ot.sliced_wasserstein_distance": lambda: ot.sliced_wasserstein_distance(x, y, projections=directions.T),
    }


def mmd() -> Workload:
    """Value and gradients in both samples."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(CLOUD, DIMENSION, generator=generator).requires_grad_() for _ in range(2))
    loss = geomloss.SamplesLoss("gaussian", blur=BANDWIDTH, backend="tensorized")

    def kernel_mean(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        squares = u.square().sum(1)[:, None] + v.square().sum(1) - 2 * u @ v.T
        return torch.exp(squares / (-2 * BANDWIDTH**2)).mean()

    def differentiated(value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(value(x, y), (x, y))

    return f"Gaussian MMD with gradients, n = m = {CLOUD:,}, d = {DIMENSION}, float32", {
        "porism": differentiated(functools.partial(mmd_squared, bandwidth=BANDWIDTH, estimator="biased")),
        "torch, products of matrices": differentiated(
            lambda x, y: kernel_mean(x, x) + kernel_mean(y, y) - 2 * kernel_mean(x, y)
        ),
        "geomloss, tensorized": differentiated(loss),
    }
