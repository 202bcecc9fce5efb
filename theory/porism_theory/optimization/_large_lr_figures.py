"""The figures of large_lr: their tables, and how these are drawn."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np

from porism import Table
from porism.drawing import columns, plot_by
from porism_sims.large_steps.factorised import descend, follow, simulate, weights
from porism_sims.large_steps.landscapes import power
from porism_theory.optimization import _engine as theory
from porism_theory.optimization import _large_lr_experiments as experiments

Rng = np.random.Generator
Scale = Literal["quick", "paper"]


def traces(rng: Rng, scale: Scale) -> Table:
    """One start, four degrees, step 0.1 and h S = 2.5 at first."""
    rows, x, y = [], *weights(25.0, 1 + rng.uniform(1e-3, 1e-2))
    for degree in (1.0, 1.5, 2.0, 2.5):
        path = follow(power(degree), x, y, step_size=0.1, steps=800)
        for step, u, loss in zip(path.step, path.squared_norm[:, 0], path.loss[:, 0], strict=True):
            if not (loss < 1e8 and u < 1e8):
                break
            rows.append((degree, step, 0.1 * u, max(loss, 1e-16)))
    return columns("degree step ratio loss", rows)


def draw_traces(table: Table, left: Any, right: Any) -> None:
    """Sharpness with the edge, and the loss."""
    plot_by(left, table, "step", "ratio", "degree", label="degree {:g}")
    plot_by(right, table, "step", "loss", "degree", label="degree {:g}")
    left.axhline(2, color="0.4", linestyle=":")
    left.set(xlabel="step", ylabel="step size times sharpness, $h k u$", ylim=(0, 3.5))
    right.set(xlabel="step", ylabel="loss", yscale="log", ylim=(1e-13, 1e8))
    left.legend()


def landings(rng: Rng, scale: Scale) -> Table:
    """Where runs from beside a minimum end, against how far above the edge they begin; for the square also far ones."""
    rows: list[tuple[Any, ...]] = []
    ratios = np.linspace(0.5, 10, 58 if scale == "quick" else 381)
    for degree in (1.0, 1.5, 2.0, 2.5):
        seen = experiments.landing(rng, power(degree), ratios, step_size=0.1)
        rows += [("near", degree, *row) for row in zip(ratios, *seen[:3], strict=True) if np.isfinite(row).all()]
    for ratio in rng.uniform(0.5, 4, 60 if scale == "quick" else 400):
        ends = simulate(rng, degree=2.0, step_ratio=float(ratio), starts=1)
        rows.append(("far", 2.0, ratio, ends["final_ratio"][0], ends["balance"][0], np.nan))
    return columns("start degree ratio last balance height", rows)


def draw_landings(table: Table, left: Any, middle: Any, right: Any) -> None:
    """Dots: runs; lines: the laws for degree 1 and for the square."""
    near, far = ({n: c[table["start"] == start] for n, c in table.items()} for start in ("near", "far"))
    for ax, name in ((left, "last"), (middle, "balance"), (right, "height")):
        plot_by(ax, near, "ratio", name, "degree", ".", label="degree {:g}")
        ax.set(xlabel="$c = h S$ at first")
    middle.plot(far["ratio"], far["balance"], "x", color="0.6", markersize=4, label="degree 2, far start", zorder=0)
    small, high = np.linspace(2, 3.2, 50), np.linspace(2.02, 10, 100)
    edge = 2 - 0.1**2 * theory.deficit(power(1.0))
    left.plot([0.5, edge, 10], [0.5, edge, edge], color="k", linewidth=1)
    left.plot(small, theory.mirrored(small, order=2), color="k", linestyle="--", linewidth=1)
    middle.plot([0.5, 2, *high], [1, 1, *(2 / high)], color="k", linewidth=1)
    right.plot(high, (high - 2) / 2, color="k", linewidth=1)
    right.plot(small[1:], theory.catapult_height(small[1:], 0.1), color="k", linestyle="--", linewidth=1)
    left.set(ylabel="$h S$ at the end", ylim=(0, 2.2))
    middle.set(ylabel="$|D|$ at the end, share of the first", ylim=(0, 1.1))
    right.set(ylabel="largest loss on the way", yscale="log", ylim=(1e-3, 200))
    middle.legend()


def deficits(rng: Rng, scale: Scale) -> Table:
    """How far below the edge runs stop, in units of the squared step, for three steps."""
    rows = []
    for step_size in (0.1, 0.05, 0.02):
        for degree in np.linspace(0.8, 1.8, 6 if scale == "quick" else 41):
            seen = experiments.landing(rng, power(degree), [2.3, 2.5], step_size=step_size, steps=10**6)
            rows += [(step_size, degree, (2 - ratio) / step_size**2) for ratio in seen.ratio]
    return columns("step_size degree deficit", rows)


def draw_deficits(table: Table, ax: Any) -> None:
    """Dots: runs; line: the law."""
    degree = np.linspace(0.75, 1.85, 100)
    ax.plot(degree, 1 / (2 - degree), color="k", label=r"$1 / (2 - \beta)$")
    plot_by(ax, table, "degree", "deficit", "step_size", "o", label="$h = {:g}$")
    ax.set(xlabel=r"degree of regularity $\beta$", ylabel="$(2 - h S) / h^2$ at the end", ylim=(0, 7))
    ax.legend()


def regimes(rng: Rng, scale: Scale) -> Table:
    """Share of runs from far starts, u between 20 and 80, that come to rest; over first h u and degree."""
    cells, starts, steps = (26, 20, 5000) if scale == "quick" else (101, 60, 20_000)
    rows = []
    ratios = np.linspace(0.25, 10, cells)
    for degree in np.linspace(1, 4, cells):
        squared_norm, x, y = experiments.far_starts(rng, cells * starts, 20.0, 80.0)
        sizes = np.repeat(ratios, starts) / squared_norm
        runs = descend(power(degree), x, y, step_size=sizes, steps=steps, tolerance=1e-3)
        ended = runs.status.reshape(cells, starts)
        shares = [np.mean(ended != "diverged", axis=1), np.mean(ended == "unfinished", axis=1)]
        rows += [(degree, *row) for row in zip(ratios, *shares, strict=True)]
    return columns("degree ratio bounded unfinished", rows)


def draw_regimes(table: Table, ax: Any) -> None:
    """Shade: share of runs that stay bounded; lines: the 2-cycle's law for the smallest and the largest start."""
    ratio, degree = np.unique(table["ratio"]), np.unique(table["degree"])
    shares = table["bounded"].reshape(len(degree), len(ratio))
    shade = ax.pcolormesh(ratio, degree, shares, cmap="Blues", vmin=0, vmax=1, shading="nearest")
    ax.figure.colorbar(shade, ax=ax, label="share of runs that do not diverge")
    fine = np.linspace(1, 4, 200)
    for u, style in ((20.0, "-"), (80.0, "--")):
        ax.plot(u * theory.critical_step(fine, u), fine, color="C1", linestyle=style, label=f"2-cycle, $u = {u:g}$")
    ax.plot([4], [2], "o", color="k")
    ax.annotate("square loss, $4 / L$", (4, 2), (5.6, 2.5), arrowprops={"arrowstyle": "-"})
    ax.set(xlabel="$c = h u$ at first", ylabel=r"degree of regularity $\beta$", xlim=(0.25, 10), ylim=(1, 4))
    ax.legend(loc="upper right")


def portraits(rng: Rng, scale: Scale) -> Table:
    """Runs from h k u = 2.5 with step 0.1 in the plane of product and squared norm."""
    rows, x, y = [], *weights(25.0, 1 + rng.uniform(1e-3, 1e-2))
    for degree, steps in ((1.0, 700), (2.0, 200)):
        path = follow(power(degree), x, y, step_size=0.1, steps=steps)
        rows += [(degree, *row) for row in zip(path.step, path.product[:, 0], path.squared_norm[:, 0], strict=True)]
    return columns("degree step product squared_norm", rows)


def draw_portraits(table: Table, left: Any, right: Any) -> None:
    """Each with the curve h F'' u = 2, the cone u >= 2 |s| and the valley s = 1."""
    for ax, degree, half, low in ((left, 1.0, 1.1, 19.0), (right, 2.0, 5.5, 12.0)):
        rows = table["degree"] == degree
        s = np.linspace(1 - half, 1 + half, 200)
        ax.plot(s, 20 / power(degree).bend(s), color="k", linestyle="--", label="$h F''(s) u = 2$")
        ax.fill_between(s, 0, 2 * np.abs(s), color="0.8", label="$u < 2 |s|$")
        ax.axvline(1, color="0.6", linewidth=1)
        at, u, step = (table[name][rows] for name in ("product", "squared_norm", "step"))
        ax.plot(at, u, color="0.7", linewidth=0.5, zorder=1)
        ax.scatter(at, u, c=np.sqrt(step), s=8, cmap="viridis", zorder=2)
        ax.set(xlabel="$s = x y$", title=f"degree {degree:g}", xlim=(1 - half, 1 + half), ylim=(low, 26))
    left.set_ylabel("$u = x^2 + y^2$")
    left.legend(loc="upper right")


def network_traces(rng: Rng, scale: Scale) -> Table:
    """Three losses, three steps, the same networks and data; h times sharpness every so many steps."""
    seeds, steps, every = (1, 3000, 75) if scale == "quick" else (3, 6000, 50)
    settings = [(degree, ratio) for degree in (1.0, 2.0, 4.0) for ratio in (1.0, 2.5, 4.0)]
    trained = experiments.wave_networks(rng, settings, seeds=seeds, steps=steps, every=every)
    rows = []
    for (degree, ratio), seed, trace in zip(
        np.repeat(settings, seeds, axis=0), np.tile(np.arange(seeds), len(settings)), trained.ratio.T, strict=True
    ):
        rows += [(degree, ratio, seed, *point) for point in zip(trained.history.step, trace, strict=True)]
    return columns("degree ratio seed step product", rows)


def draw_network_traces(table: Table, left: Any, middle: Any, right: Any) -> None:
    """One panel a loss, one colour a step."""
    names = ("pseudo-Huber (degree 1)", "square (degree 2)", "quartic (degree 4)")
    for ax, degree, name in zip((left, middle, right), (1.0, 2.0, 4.0), names, strict=True):
        for number, ratio in enumerate(np.unique(table["ratio"])):
            for seed in np.unique(table["seed"]):
                rows = (table["degree"] == degree) & (table["ratio"] == ratio) & (table["seed"] == seed)
                label = f"$h = {ratio:g} / S_0$" if seed == 0 else None
                ax.plot(table["step"][rows], table["product"][rows], color=f"C{number}", label=label)
        ax.axhline(2, color="0.4", linestyle=":")
        ax.set(xlabel="step", title=name, ylim=(0, 5))
    left.set_ylabel("step size times sharpness")
    right.legend()


def normalised_traces(rng: Rng, scale: Scale) -> Table:
    """Linear networks with and without batch normalisation, from the same weights and data; balance of ReLU ones."""
    seeds, every, ratios = (2, 20, np.linspace(0.5, 4, 15)) if scale == "quick" else (8, 5, np.linspace(0.5, 4, 36))
    rows: list[tuple[Any, ...]] = []
    for normalisation in ("none", "batch"):
        trained = experiments.deep_networks(
            copy.deepcopy(rng), normalisation=normalisation, step_ratio=3.0, seeds=seeds, steps=600, every=every
        )
        for seed in range(seeds):
            points = zip(trained.history.step, trained.ratio[:, seed], strict=True)
            rows += [(normalisation, seed, *point) for point in points]
    shares = experiments.relu_imbalance(rng, ratios.tolist(), seeds=seeds)
    rows += [("relu", seed, ratios[i], share) for (i, seed), share in np.ndenumerate(shares)]
    return columns("kind seed x y", rows)


def draw_normalised_traces(table: Table, left: Any, right: Any) -> None:
    """One colour a network's kind, one line a network."""
    for number, (kind, label) in enumerate({"none": "plain", "batch": "batch normalisation"}.items()):
        for seed in np.unique(table["seed"]):
            rows = (table["kind"] == kind) & (table["seed"] == seed)
            name = label if seed == 0 else None
            left.plot(table["x"][rows], table["y"][rows], color=f"C{number}", alpha=0.7, label=name)
    left.axhline(2, color="0.4", linestyle=":")
    left.set(xlabel="step", ylabel="step size times sharpness", ylim=(0, 4), title="linear, $h = 3 / S_0$")
    left.legend()
    rows = table["kind"] == "relu"
    right.plot(table["x"][rows], table["y"][rows], "o")
    right.axvline(2, color="0.4", linestyle=":")
    right.set(xlabel="$h S_0$", ylabel="imbalance at the end, share of the first", ylim=(0, 1.1), title="ReLU")
