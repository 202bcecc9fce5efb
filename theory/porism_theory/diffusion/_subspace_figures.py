"""The figures of ``diffusion_subspace``: rows of their tables, then drawings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import ndtri

from porism import Table
from porism.drawing import draw_limits, log_axes, mean_and_bar, plot_by
from porism.transport import wasserstein_1d
from porism_sims.diffusion import process, subspace
from porism_theory.diffusion._subspace_engine import (
    VARIANCES,
    Array,
    Rng,
    along_energy,
    blurred_sample,
    denoising_loss,
    generated_variance,
    loss_floor,
    network_recovery,
    recovery_constant,
    recovery_errors,
    simulated_variance,
    slope,
    standard,
    trained_score,
)

Row = tuple[Any, ...]
NOT = float("nan")


def energies(rng: Rng, draws: int) -> Iterator[Row]:
    """curve, t, limit, simulated, bar: mean squares of the two parts of the score."""
    times, latent = np.geomspace(1e-4, 5, 37), standard()
    for t in times:
        yield "latent part, every D", t, along_energy(VARIANCES, t), NOT, NOT
    for ambient in (8, 32, 128):
        for k, t in enumerate(times):
            curve, limit = f"normal part, D = {ambient}", (ambient - len(VARIANCES)) / process.noise(t)
            if k % 6 != ambient.bit_length() % 6:
                yield curve, t, limit, NOT, NOT
                continue
            basis = subspace.draw_basis(rng, ambient, len(VARIANCES))
            noised = process.diffuse(rng, subspace.draw_latent(rng, latent, draws) @ basis.T, t)
            along, normal = (np.sum(part**2, axis=1) for part in subspace.split_score(latent, basis, noised, t))
            yield curve, t, limit, *mean_and_bar(normal)
            yield "latent part, every D", t, NOT, *mean_and_bar(along)


def floors(rng: Rng, draws: int) -> Iterator[Row]:
    """curve, t, limit, simulated, bar: the denoising loss of the exact score."""
    for shift, ambient in enumerate((8, 32, 128)):
        for k, t in enumerate(np.geomspace(0.01, 5, 37)):
            seen = denoising_loss(rng, t, ambient=ambient, draws=draws) if k % 6 == 2 * shift else np.full(2, NOT)
            yield f"D = {ambient}", t, float(loss_floor(VARIANCES, t)), *mean_and_bar(seen)


def recoveries(rng: Rng, scale: str) -> Iterator[Row]:
    """curve, samples, limit, simulated, bar: subspace errors, D = 16, Gaussian latent, time 1/2 for the linear."""
    repeats, trainings, every = {"quick": (20, 3, 2), "paper": (200, 20, 1)}[scale]
    sizes = 2 ** np.arange(7, 14)
    for estimator, tied in (("least squares", False), ("tied least squares", True)):
        constant = recovery_constant(VARIANCES, 0.5, normal=16 - len(VARIANCES), tied=tied)
        for n in sizes:
            errors = recovery_errors(rng, n, repeats=repeats, tied=tied)
            yield estimator, n, constant / n, *mean_and_bar(errors)
    for n in sizes[::every]:
        errors = np.array([network_recovery(rng, n, standard()) for _ in range(trainings)])
        yield "trained network", n, NOT, *mean_and_bar(errors)


def stopping_times(rng: Rng, scale: str) -> Iterator[Row]:
    """source, samples, stop, distance, variation: d = 1; the law of the sample's score, its sampler, a network.

    The sampler is the probability flow from quantiles of N(0, 1), which in d = 1 has no sampling error.
    """
    repeats, generated = {"quick": (4, 400), "paper": (20, 2000)}[scale]
    latent, times = clusters(1), np.geomspace(1e-4, 2, 25)
    fresh = subspace.draw_latent(rng, latent, 100_000)
    samples = {n: subspace.draw_latent(rng, latent, n * repeats).reshape(repeats, n) for n in (64, 512, 4096)}
    for n, drawn in samples.items():
        for t in times:
            yield "law", n, t, *np.mean([blurred_sample(sample, latent, t) for sample in drawn], axis=0)
    quantiles = ndtri((np.arange(generated) + 0.5) / generated)[:, None]
    drawn, basis, count = samples[512][..., None], subspace.draw_basis(rng, 16, 1), 10 * generated
    memories, network = [_memory(sample) for sample in drawn], trained_score(rng, drawn[0] @ basis.T)
    for t in times[::4]:
        grid = process.time_grid(6.0, t, 40)
        runs = [process.sample_backwards(rng, m, quantiles, grid, sampler="deterministic") for m in memories]
        yield "sampler", 512, t, np.mean([wasserstein_1d(run, fresh, axis=0) for run in runs]), NOT
        points = process.sample_backwards(rng, network, rng.standard_normal((count, 16)), grid[::2]) @ basis
        variation = subspace.support_distance(points, process.diffuse(rng, fresh, t), bins=20)
        yield "network", 512, t, float(wasserstein_1d(points, fresh, axis=0)[0]), variation


def clusters(dimension: int) -> subspace.Latent:
    """Equal clusters of variance 0.2 about the corners of a cube, second moment 1 in each coordinate."""
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=dimension))) * np.sqrt(0.8)
    spreads = np.broadcast_to(0.2 * np.eye(dimension), (len(corners), dimension, dimension))
    return subspace.mixture(np.full(len(corners), 1 / len(corners)), corners, spreads)


def _memory(sample: Array) -> process.Score:
    latent = subspace.empirical(sample)
    return lambda points, t: subspace.latent_score(latent, points, t)


def rates(rng: Rng, scale: str) -> Iterator[Row]:
    """ambient, dimension, samples, simulated, bar: sliced W_1 of what a learned score generates."""
    sizes, repeats, generated = {"quick": ((128, 512, 2048), 6, 1000), "paper": (2 ** np.arange(7, 14), 6, 2000)}[scale]
    for dimension, ambient, n in itertools.product((1, 2, 4), (16, 64), sizes):
        latent, times = clusters(dimension), process.time_grid(6.0, float(n) ** (-1 / (dimension + 5)) / 2, 16)
        errors = []
        for _ in range(repeats):
            basis = subspace.draw_basis(rng, ambient, dimension)
            clean = subspace.draw_latent(rng, latent, int(n)) @ basis.T
            learned, score = subspace.learn_score(rng, clean, dimension, noise_time=0.5)
            points = process.sample_backwards(rng, score, rng.standard_normal((generated, ambient)), times)
            errors.append(subspace.latent_distance(rng, points @ subspace.align(learned, basis), latent))
        yield ambient, dimension, n, *mean_and_bar(np.array(errors))


def accuracies() -> Iterator[Row]:
    """direction, sampler, steps, error: |variance generated - its limit| from T = 8 to 0.05."""
    for variance, direction in ((0.3, "latent"), (0.0, "normal")):
        for sampler in ("euler-maruyama", "euler", "ancestral", "deterministic"):
            limit = generated_variance(variance, 0.05, 8.0, sampler)
            for steps in (25, 50, 100, 200, 400, 800, 1600):
                seen = simulated_variance(variance, process.time_grid(8.0, 0.05, steps), sampler)
                yield direction, sampler, steps, max(abs(seen - limit), 1e-18)


def portrait(rng: Rng) -> Iterator[Row]:
    """t, x, y, u, v: the score in the plane of a line that carries two clusters and one of its normals in R^3."""
    latent = subspace.mixture([0.6, 0.4], [[-1.2], [1.0]], [[[0.05]], [[0.1]]])
    basis = subspace.draw_basis(rng, 3, 1)
    plane = np.column_stack([basis, np.linalg.svd(basis)[0][:, 2]])
    places = np.stack(np.meshgrid(np.linspace(-2.4, 2.4, 17), np.linspace(-1.5, 1.5, 11)), axis=-1).reshape(-1, 2)
    for t in (0.05, 0.5, 2.0):
        arrows = np.add(*subspace.split_score(latent, basis, places @ plane.T, t)) @ plane
        yield from ((t, *place, *arrow) for place, arrow in zip(places, arrows, strict=True))


def draw_energy_split(table: Table, ax: Any) -> None:
    draw_limits(ax, table, "t", by="curve")
    log_axes(ax, x=(1e-4, 1e-3, 1e-2, 0.1, 1))
    ax.set(xlabel="time $t$", ylabel="mean square", yscale="log")
    ax.legend()


def draw_denoising_floor(table: Table, ax: Any) -> None:
    draw_limits(ax, table, "t", by="curve")
    log_axes(ax, x=(0.01, 0.1, 1), y=(0.1, 1, 10, 100))
    ax.set(xlabel="time $t$", ylabel="denoising loss")
    ax.legend()


def draw_subspace_recovery(table: Table, ax: Any) -> None:
    draw_limits(ax, table, "samples", by="curve")
    sizes = np.unique(table["samples"])
    ax.plot(sizes, 0.5 * (sizes / sizes[0]) ** (-2 / 8), ":", color="0.4", label="slope $-2/(d+5)$")
    ax.set(xlabel="samples $n$", ylabel="$|VV' - AA'|_F^2$", xscale="log", yscale="log", ylim=(2e-5, 60))
    ax.legend(ncols=2)


def draw_early_stopping(table: Table, left: Any, right: Any) -> None:
    for ax, column in ((left, "distance"), (right, "variation")):
        for colour, n in enumerate((64, 512, 4096)):
            rows = (table["source"] == "law") & (table["samples"] == n)
            ax.plot(table["stop"][rows], table[column][rows], color=f"C{colour}", label=f"sample's score, n = {n}")
            ax.axvline(n ** (-1 / 6), color=f"C{colour}", linestyle=":", linewidth=1)
        for source, style, label in (("sampler", "C1o", None), ("network", "C3s", "network, n = 512")):
            rows = (table["source"] == source) & ~np.isnan(table[column])
            ax.plot(table["stop"][rows], table[column][rows], style, label=label)
        log_axes(ax, x=(1e-4, 1e-3, 1e-2, 0.1, 1), y=(0.01, 0.03, 0.1, 0.3))
        ax.set(xlabel="stopping time $t_0$")
    left.set(ylabel="$W_1$ to the law of the data")
    right.set(ylabel="total variation to the noised law")
    right.legend(loc="lower left")


def draw_rates_by_dimension(table: Table, left: Any, right: Any) -> None:
    for ax, ambient in zip((left, right), np.unique(table["ambient"]), strict=True):
        for colour, d in enumerate(np.unique(table["dimension"])):
            rows = (table["ambient"] == ambient) & (table["dimension"] == d)
            n, error, bar = (table[name][rows] for name in ("samples", "simulated", "bar"))
            measured = slope(n, error)
            ax.errorbar(n, error, bar, fmt="o-", color=f"C{colour}", label=f"d = {d:g}: slope {measured:.2f}")
            guaranteed = error[0] * (n / n[0]) ** (-1 / (2 * (d + 5)))
            ax.plot(n, guaranteed, ":", color=f"C{colour}")
        log_axes(ax, x=tuple(np.unique(table["samples"])), y=(0.05, 0.1, 0.2, 0.4))
        ax.set(xlabel="samples $n$", title=f"D = {ambient:g}")
        ax.legend()
    left.set(ylabel="sliced $W_1$")


def draw_sampler_accuracy(table: Table, left: Any, right: Any) -> None:
    for ax, direction in ((left, "latent"), (right, "normal")):
        chosen = {name: column[table["direction"] == direction] for name, column in table.items()}
        plot_by(ax, chosen, "steps", "error", "sampler", style="o-")
        log_axes(ax, x=(25, 100, 400, 1600))
        ax.set(xlabel="steps", yscale="log", title=f"{direction} direction")
    left.set(ylabel="error of the variance")
    right.legend()


def draw_phase_portrait(table: Table, left: Any, middle: Any, right: Any) -> None:
    for ax, t in zip((left, middle, right), np.unique(table["t"]), strict=True):
        x, y, u, v = (table[name][table["t"] == t] for name in ("x", "y", "u", "v"))
        length = np.hypot(u, v)
        ax.axhline(0, color="0.4")
        arrows = ax.quiver(x, y, u / length, v / length, np.log10(length), pivot="mid", scale=24, clim=(-1, 1.5))
        ax.set(xlabel="along the subspace", title=f"t = {t:g}", aspect="equal")
    left.set(ylabel="off the subspace")
    left.figure.colorbar(arrows, ax=(left, middle, right), shrink=0.7, label="$\\log_{10}$ length", extend="min")
