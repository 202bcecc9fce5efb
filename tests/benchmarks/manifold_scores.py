"""Exact scores on manifolds at 100,000 points beside plain quadratures: ``python tests/benchmarks/manifold_scores.py``.

Targets: under 1 s for the sphere and under 10 s for the torus, with errors below 1e-6 of high-order quadrature. The
plain ones sum over the whole tube with as many nodes as the noise asks for, or divide scipy's Bessel functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import i0e, i1e, ive
from timing import Workload, interleaved, table

from porism.geometry import Ellipsoid, RevolutionTorus, Sphere
from porism_sims.diffusion.manifold_quadrature import ellipse_score, torus_score
from porism_sims.diffusion.manifolds import sphere_score
from porism_sims.diffusion.process import diffuse, noise, score_of_mean, signal, time_of_noise

POINTS = 100_000
NOISES = (1e-4, 1e-2, 0.3)
TORUS = RevolutionTorus(2.0, 0.7)


def bessel(x: Any, t: float) -> Any:
    """S^2 by two Bessel functions of scipy."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    k = signal(t) * length / noise(t)
    return score_of_mean(x, ive(1.5, k) / ive(0.5, k) * x / length, t)


def whole_tube(x: Any, t: float, count: int | None = None) -> Any:
    """The torus by the trapezoidal rule around the whole tube, as in the setting of the paper (M8)."""
    count = count or 40 + int(8.5 * np.sqrt(1.5 * TORUS.minor / noise(t)))
    tube = 2 * np.pi * np.arange(count) / count
    u, sine = TORUS.major + TORUS.minor * np.cos(tube), TORUS.minor * np.sin(tube)
    mean, size = np.empty_like(x), max(1, 2**16 // count)
    for part in (slice(start, start + size) for start in range(0, len(x), size)):
        ring = np.hypot(x[part, :1], x[part, 1:2])
        log = (ring - signal(t) * u) ** 2 + (x[part, 2:] - signal(t) * sine) ** 2
        weights = u * np.exp((log.min(axis=1, keepdims=True) - log) / (2 * noise(t)))
        k = signal(t) / noise(t) * ring * u
        around = weights * i0e(k)
        total = around.sum(axis=1, keepdims=True)
        mean[part, :2] = (weights * i1e(k) @ u[:, None]) / total * x[part, :2] / ring
        mean[part, 2:] = around @ sine[:, None] / total
    return score_of_mean(x, mean, t)


def workloads() -> Iterator[Workload]:
    """What is measured: a title, and calls by name; ours is called porism."""
    rng = np.random.default_rng(0)
    for h in NOISES:
        t = float(time_of_noise(h))
        x, y = diffuse(rng, Sphere(2).sample(rng, POINTS), t), diffuse(rng, TORUS.sample(rng, POINTS), t)
        yield (
            f"S^2, {POINTS:,} points, noise {h:g}",
            {
                "porism": lambda x=x, t=t: sphere_score(x, t, Sphere(2)),
                "ive(D/2, k) / ive(D/2 - 1, k)": lambda x=x, t=t: bessel(x, t),
            },
        )
        yield (
            f"torus, {POINTS:,} points, noise {h:g}",
            {
                "porism": lambda y=y, t=t: torus_score(y, t, TORUS),
                "trapezoid around the whole tube": lambda y=y, t=t: whole_tube(y, t),
            },
        )
    z = diffuse(rng, Ellipsoid((2.0, 1.0)).sample(rng, POINTS), float(time_of_noise(1e-3)))
    ellipse = lambda: ellipse_score(z, float(time_of_noise(1e-3)), Ellipsoid((2.0, 1.0)))  # noqa: E731
    yield f"ellipse, {POINTS:,} points, noise 0.001", {"porism": ellipse}


def accuracy() -> str:
    """Largest relative errors over 500 points: the torus against 20,000 nodes, the sphere against coth k - 1/k."""
    rng, rows = np.random.default_rng(1), ["| noise | sphere | torus |", "|--:|--:|--:|"]
    for h in NOISES:
        t = float(time_of_noise(h))
        x, y = diffuse(rng, Sphere(2).sample(rng, 500), t), diffuse(rng, TORUS.sample(rng, 500), t)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        k = signal(t) * length / h
        exact = score_of_mean(x, (1 / np.tanh(k) - 1 / k) * x / length, t)
        pairs = (sphere_score(x, t, Sphere(2)), exact), (torus_score(y, t, TORUS), whole_tube(y, t, 20_000))
        errors = [np.max(np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)) for a, b in pairs]
        rows.append(f"| {h:g} | " + " | ".join(f"{error:.1e}" for error in errors) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    for title, calls in workloads():
        print(table(title, interleaved(calls, repeats=3)), flush=True)
    print(accuracy())
