"""The figures on robust policy mirror descent: their data as tidy tables, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from porism import Table
from porism.drawing import columns, draw_limits, log_axes, mean_and_bar, plot_by
from porism_sims.robust_mdp import environments
from porism_sims.robust_mdp.learning import td_estimate
from porism_sims.robust_mdp.mirror_descent import Geometry, gaussian_noise, mirror_descent, step_sizes
from porism_sims.robust_mdp.planning import evaluate, policy_iteration
from porism_sims.robust_mdp.uncertainty import NOMINAL, Kind, Uncertainty
from porism_theory.planning import _engine as theory
from porism_theory.planning._rpmd_margins import GEOMETRIES, LARGE, prices

Rng = np.random.Generator
# Gaps below this are rounding.
FLOOR = 1e-15
# Sets by name: kind, radius at which it lies inside the TV ball of a radius, and support.
MATCHED: dict[str, tuple[Kind, Any, str]] = {
    "TV, full support": ("tv", lambda radius: radius, "full"),
    "TV": ("tv", lambda radius: radius, "nominal"),
    "KL": ("kl", lambda radius: 2 * radius**2, "nominal"),
    "chi-squared": ("chi2", lambda radius: 4 * radius**2, "nominal"),
    "contamination": ("contamination", lambda radius: radius, "nominal"),
}


def convergence(rng: Rng, *, problems: int) -> Table:
    """Gaps over Garnet problems for each geometry and schedule, and the theorem's bound on its own schedule."""
    gaps: dict[tuple[str, str], list[Any]] = {}
    for _ in range(problems):
        game = theory.game(rng, "tv", 0.2, **LARGE)
        growth = theory.constants(game, policy_iteration(game.mdp, game.nature).policy).growth
        for geometry in GEOMETRIES:
            for name, factor in (("constant", 1.0), ("linear", 1.0), ("geometric", 1 / 0.9), ("theorem", growth)):
                steps = step_sizes("linear" if name == "linear" else "geometric", iterations=60, growth=factor)
                run = mirror_descent(game.mdp, game.nature, steps, geometry=geometry)
                gap, distance, found = theory.gaps_and_distances(game, run, geometry)
                gaps.setdefault((geometry, name), []).append(gap)
                if name == "theorem":
                    gaps.setdefault((geometry, "bound"), []).append(theory.bound(gap, distance, steps, found, 60))
    return columns("geometry schedule iteration gap low high", _quartiles(gaps))


def radii(rng: Rng, *, problems: int) -> Table:
    """Gaps for several radii of a total-variation set, geometric steps, the same problems for each."""
    seeds = rng.integers(2**32, size=problems)
    gaps = {
        (geometry, radius): [
            _gaps(theory.game(np.random.default_rng(s), "tv", radius, **LARGE), geometry) for s in seeds
        ]
        for geometry in GEOMETRIES
        for radius in (0.0, 0.05, 0.2, 0.5)
    }
    return columns("geometry radius iteration gap low high", _quartiles(gaps))


def certificates(rng: Rng, *, problems: int) -> Table:
    """The theorem's constants, exact and crude, and iterations to a gap of 1e-6 that it grants and that are taken."""
    seeds, rows = rng.integers(2**32, size=problems), []
    for radius in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4):
        found = []
        for seed in seeds:
            game = theory.game(np.random.default_rng(seed), "tv", radius, **LARGE)
            known = theory.constants(game, policy_iteration(game.mdp, game.nature).policy)
            taken = [np.argmax(_gaps(game, "kl", growth) <= 1e-6) for growth in (1 / 0.9, known.growth)]
            run = mirror_descent(game.mdp, game.nature, np.ones(1))
            gap, distance, _ = theory.gaps_and_distances(game, run, "kl")
            first = theory.potential(gap[0], distance[0], 1.0, known.mismatch, known.rate)
            granted = np.log(1e-6 / first) / np.log(known.rate)
            crude = 1 / game.start.min()
            found.append((known.mismatch, known.change, crude, crude * game.rise, granted, *taken))
        rows.append((radius, *np.median(found, axis=0)))
    return columns("radius M M' crude_M crude_M' granted geometric theorem", rows)


def noise_levels(rng: Rng, *, runs: int) -> Table:
    """Two panels: SRPMD with robust TD by samples spent in an iteration, and with normal errors by their size.

    ``x`` is the number of samples so far, with the mean of the last ten iterates for ``floor``; or the deviation of the
    errors, with the theorem's.
    """
    rows: list[Any] = []
    game = theory.game(rng, "contamination", 0.15, states=10, successors=4, discount=0.8)
    optimum, steps = policy_iteration(game.mdp, game.nature).values, _geometric(30, 1 / 0.8)
    for batch in (300, 3_000, 30_000):
        learners = (td_estimate(rng, game.mdp, game.nature, samples=batch) for _ in range(runs))
        found = [mirror_descent(game.mdp, game.nature, steps, estimate=learner).values for learner in learners]
        gaps = np.mean((np.array(found) - optimum) @ game.start, axis=0)
        floor = gaps[-10:].mean()
        rows += [("learned", batch, batch * k, max(gap, FLOOR), np.nan, floor) for k, gap in enumerate(gaps) if k]
    seeds = rng.integers(2**32, size=5 * runs)
    for noise in (0.003, 0.01, 0.03, 0.1, 0.3):
        gaps, floors = np.empty((2, len(seeds)))
        for place, seed in enumerate(seeds):
            game = theory.game(np.random.default_rng(seed), "tv", 0.2, **LARGE)
            plan = policy_iteration(game.mdp, game.nature)
            run = mirror_descent(game.mdp, game.nature, _geometric(60, 1 / 0.9), estimate=gaussian_noise(rng, noise))
            gaps[place] = np.mean((run.values[-10:] - plan.values) @ game.start)
            floors[place] = theory.floor(theory.constants(game, plan.policy), game, run.errors.mean())
        rows.append(("disturbed", 0, noise, *mean_and_bar(gaps), floors.mean()))
    return columns("panel batch x gap bar floor", rows)


def price(*, points: int) -> Table:
    """Costs of the nominal and of the robust plan when nothing and when the worst happens, against the radius."""
    rows = []
    cases = {
        "gridworld": environments.gridworld,
        "inventory": environments.inventory,
        "river swim": environments.river_swim,
    }
    for name, make in cases.items():
        problem = make()
        for radius in np.linspace(0, 0.5, points):
            found = prices(theory.Game(*problem, Uncertainty("tv", float(radius), "nominal")))
            for plan, costs in found._asdict().items():
                rows += [
                    (name, radius, plan.replace("_", " "), case, cost)
                    for case, cost in zip(("nominal", "worst"), costs, strict=True)
                ]
    return columns("problem radius plan case cost", rows)


def inner_work(rng: Rng, *, rows: int) -> Table:
    """Comparisons in the sort of an inner problem by the number of successors: all else is a few passes over them.

    A count is the same on every machine; tests/benchmarks/robust_mdp.py has the times.
    """
    found = []
    for size in 2 ** np.arange(2, 11):
        counts = np.empty(rows)
        for row in range(rows):
            Compared.count = 0
            np.sort(np.array([Compared(value) for value in rng.random(size)], dtype=object))
            counts[row] = Compared.count
        found.append(("comparisons", size, size * np.log2(size), *mean_and_bar(counts)))
    return columns("method successors limit simulated bar", found)


def matched_sets(rng: Rng, *, problems: int) -> Table:
    """Sets inside the same total-variation ball: what they add to the optimal cost, and the gaps at radius 0.2.

    ``x`` is the radius in the panel "excess" and the iteration in the panel "gap".
    """
    seeds, rows = rng.integers(2**32, size=problems), []
    for name, (kind, scale, support) in MATCHED.items():

        def game(
            seed: int, radius: float, kind: Kind = kind, scale: Any = scale, support: str = support
        ) -> theory.Game:
            return theory.game(np.random.default_rng(seed), kind, scale(radius), support=support, **LARGE)

        for radius in np.linspace(0, 0.5, 11):
            games = [game(seed, radius) for seed in seeds]
            plans = [[policy_iteration(g.mdp, nature).values for nature in (g.nature, NOMINAL)] for g in games]
            rows.append(("excess", name, radius, np.mean([robust - nominal for robust, nominal in plans])))
        gaps = np.median([_gaps(game(seed, 0.2), "kl") for seed in seeds], axis=0)
        rows += [("gap", name, k, max(gap, FLOOR)) for k, gap in enumerate(gaps)]
    return columns("panel set x y", rows)


def kink(*, points: int) -> Table:
    """Robust objective of the two-state problem along its policies: closed form, and evaluation at some points."""
    mdp, start = environments.kink()
    rows = []
    for radius in (0.0, 0.2, 0.4):
        for step, x in enumerate(np.linspace(0, 1, points)):
            limit = ((x + 0.5) / 2 + mdp.discount * radius * abs(x - 0.5)) / (1 - mdp.discount)
            policy = np.array([[0.5, 0.5], [1 - x, x]])
            seen = start @ evaluate(mdp, Uncertainty("tv", radius), policy).values if step % 5 == 0 else np.nan
            rows.append((radius, x, limit, seen, 0.0))
    return columns("radius x limit simulated bar", rows)


class Compared(float):
    """A number that counts how often it is compared."""

    count = 0

    def __lt__(self, other: Any) -> bool:
        Compared.count += 1
        return float.__lt__(self, other)


def _geometric(iterations: int, growth: float) -> np.ndarray:
    return step_sizes("geometric", iterations=iterations, growth=growth)


def _gaps(game: theory.Game, geometry: Geometry, growth: float = 1 / 0.9) -> np.ndarray:
    run = mirror_descent(game.mdp, game.nature, _geometric(60, growth), geometry=geometry)
    return (run.values - policy_iteration(game.mdp, game.nature).values) @ game.start


def draw_convergence(table: Table, left: Any, right: Any) -> None:
    """One panel a geometry, one line a schedule, quartiles as bands."""
    _draw_gaps(table, "schedule", "{}", left, right)
    for ax, geometry in zip((left, right), GEOMETRIES, strict=True):
        for number, name in enumerate(("constant", "linear", "geometric", "theorem")):
            part = _part(table, geometry=geometry, schedule=name)
            ax.fill_between(part["iteration"], part["low"], part["high"], color=f"C{number}", alpha=0.15, linewidth=0)


def draw_radii(table: Table, left: Any, right: Any) -> None:
    """One panel a geometry, one line a radius."""
    _draw_gaps(table, "radius", "radius {:g}", left, right)


def draw_certificates(table: Table, left: Any, right: Any) -> None:
    """The constants, and what they grant."""
    lines = {"M": "C0-", "crude_M": "C0--", "M'": "C1-", "crude_M'": "C1--"}
    names = {"M": "$M$, exact", "crude_M": "$M$, crude", "M'": "$M'$, exact", "crude_M'": "$M'$, crude"}
    for column, style in lines.items():
        left.plot(table["radius"], table[column], style, label=names[column])
    right.plot(table["radius"], table["granted"], label="granted by the theorem")
    right.plot(table["radius"], table["geometric"], label="taken, growth $1/\\gamma$")
    right.plot(table["radius"], table["theorem"], label="taken, growth of the theorem")
    for ax in (left, right):
        log_axes(ax, x=(0.01, 0.03, 0.1, 0.3))
        ax.set(xlabel="TV radius", yscale="log")
        ax.legend()
    left.set(ylabel="constant")
    right.set(ylabel="iterations to a gap of 1e-6", ylim=(1, 1e5))


def draw_noise_levels(table: Table, left: Any, right: Any) -> None:
    """Gap against samples; gap against noise, with the theorem's floor."""
    learned = _part(table, panel="learned")
    plot_by(left, learned, "x", "gap", "batch", ".-", "{:,} samples an iteration")
    left.set_prop_cycle(None)
    plot_by(left, learned, "x", "floor", "batch", ":", "_")
    left.set(xlabel="samples", ylabel="gap (dotted: mean of the last ten)", ylim=(1e-5, 3))
    part = _part(table, panel="disturbed")
    noise, gap = part["x"], part["gap"]
    right.errorbar(noise, gap, np.minimum(part["bar"], 0.9 * gap), fmt="o", label="mean of iterates 51 to 60")
    right.plot(noise, part["floor"], label=r"theorem, $2 M e / (1 - \gamma)^2$")
    right.plot(noise, gap[-1] * (noise / noise[-1]) ** 2, "k:", label="slope 2")
    right.set(xlabel="standard deviation of the noise")
    for ax in (left, right):
        ax.set(xscale="log", yscale="log")
        ax.legend()


def draw_price(table: Table, left: Any, middle: Any, right: Any) -> None:
    """One panel a problem; the colour is the plan, dashed the worst case."""
    for ax, problem in zip((left, middle, right), dict.fromkeys(table["problem"].tolist()), strict=True):
        for case, style in (("nominal", "-"), ("worst", "--")):
            part = _part(table, problem=problem, case=case)
            ax.set_prop_cycle(None)
            plot_by(ax, part, "radius", "cost", "plan", style, f"{{}}, {case} case")
        ax.set(xlabel="TV radius", title=problem)
    left.set(ylabel="discounted cost from the start")
    left.legend()


def draw_inner_work(table: Table, ax: Any) -> None:
    """Counted comparisons on the line ``n log n``."""
    ax.plot(table["successors"], table["limit"], label=r"$n \log_2 n$")
    ax.errorbar(table["successors"], table["simulated"], table["bar"], fmt="o", label="comparisons, counted")
    ax.set(xscale="log", yscale="log", xlabel="successors $n$", ylabel="comparisons for one state and action")
    ax.legend()


def draw_matched_sets(table: Table, left: Any, right: Any) -> None:
    """Excess cost against the radius, and gaps."""
    plot_by(left, _part(table, panel="excess"), "x", "y", "set")
    left.set(xlabel="TV radius $r$ (chi-squared $4 r^2$, KL $2 r^2$)", ylabel="robust minus nominal optimal cost")
    plot_by(right, _part(table, panel="gap"), "x", "y", "set")
    right.set(yscale="log", xlabel="iteration at $r = 0.2$", ylabel="gap to the robust optimum")
    left.legend()


def draw_kink(table: Table, ax: Any) -> None:
    """The closed form as lines, evaluations as dots."""
    draw_limits(ax, table, "x", by="radius")
    ax.set(xlabel="probability of the costly action", ylabel="robust objective")
    ax.legend(title="TV radius")


def _draw_gaps(table: Table, by: str, label: str, *axes: Any) -> None:
    """Medians as lines; a bound is dashed and black."""
    for ax, geometry in zip(axes, GEOMETRIES, strict=True):
        part = _part(table, geometry=geometry)
        plot_by(ax, part, "iteration", "gap", by, "-", label)
        for line in ax.lines:
            if line.get_label() == "bound":
                line.set(color="k", linestyle="--")
        ax.set(yscale="log", xlabel="iteration", title={"kl": "KL", "euclidean": "Euclidean"}[geometry])
    axes[0].set(ylabel="gap to the robust optimum")
    axes[-1].legend(loc="center right")


def _quartiles(gaps: Mapping[tuple[Any, ...], Any]) -> list[tuple[Any, ...]]:
    """A row for each key and iteration: median and quartiles over the problems, not below rounding."""
    rows = []
    for key, found in gaps.items():
        middle, low, high = np.maximum(np.quantile(found, (0.5, 0.25, 0.75), axis=0), FLOOR)
        rows += [(*key, k, *row) for k, row in enumerate(zip(middle, low, high, strict=True))]
    return rows


def _part(table: Table, **chosen: Any) -> Table:
    """The rows in which columns have the values given."""
    rows = np.logical_and.reduce([table[name] == value for name, value in chosen.items()])
    return {name: column[rows] for name, column in table.items()}
