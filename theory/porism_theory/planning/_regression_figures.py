"""The figures on regressed log-ratios: their tables, and how these are drawn."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from porism import Table
from porism.drawing import columns, draw_limits, log_axes, mean_and_bar
from porism_sims import policy_regression as sim
from porism_theory.planning import _regression_engine as theory

Rng = np.random.Generator
Scale = Literal["quick", "paper"]

NAMES = {"mean": "PMD-mean", "partition": "PMD-part", "reinforce": "REINFORCE"}
MISSING = np.nan, np.nan


def ratios(rng: Rng, scale: Scale) -> Table:
    """Ratios of both steps on an even grid of rewards; fits to groups of rollouts where there are dots."""
    rows: list[tuple[Any, ...]] = []
    grid = theory.Prompt(np.full(21, 1 / 21), np.linspace(0, 1, 21))
    for temperature in (0.05, 0.2, 1.0):
        groups = 20 if scale == "quick" else 200
        fits = np.exp(theory.fitted(rng, grid, rollouts=4096, temperature=temperature, groups=groups))
        rules = sim.regression_step, sim.partition_step
        ours, exact = (np.exp(rule(*grid, temperature=temperature).log_ratio) for rule in rules)
        for k, reward in enumerate(grid.reward):
            rows.append((temperature, reward, ours[k], exact[k], *(MISSING if k % 2 else mean_and_bar(fits[:, k]))))
    return columns("temperature reward limit ideal simulated bar", rows)


def draw_ratios(table: Table, ax: Any) -> None:
    """One colour a temperature."""
    for number, temperature in enumerate(np.unique(table["temperature"])):
        part = {name: column[table["temperature"] == temperature] for name, column in table.items()}
        style = {"color": f"C{number}"}
        ax.plot(part["reward"], part["limit"], label=f"temperature {temperature:g}", **style)
        ax.plot(part["reward"], part["ideal"], linestyle="--", **style)
        ax.errorbar(part["reward"], part["simulated"], part["bar"], fmt="o", markersize=4, **style)
    ax.set(xlabel="reward", ylabel="ratio of new to old probability", yscale="log", ylim=(1e-9, 50))
    ax.legend()


def successes(rng: Rng, scale: Scale) -> Table:
    """``lambda`` and the log-ratio of the wrong answer, with their limits, the mirror-descent step's, and fits."""
    rows: list[tuple[Any, ...]] = []
    for temperature in (0.02, 0.05, 0.1):
        for k, success in enumerate(1 / (1 + np.exp(-np.linspace(-4.6, 4.6, 61)))):
            exact, limit = (f(success, temperature) for f in (theory.binary_step, theory.binary_limit))
            ideal = theory.binary_step(success, temperature, baseline="partition")
            dots = [MISSING, MISSING]
            if k % 6 == 3:
                two = theory.Prompt(np.array([1 - success, success]), np.array([0.0, 1.0]))
                groups = 20 if scale == "quick" else 200
                fits = theory.fitted(rng, two, rollouts=1024, temperature=temperature, groups=groups)
                dots = [mean_and_bar(-(fits @ two.policy)), mean_and_bar(-fits[:, 0])]
            rows.append((temperature, "lambda", success, exact.multiplier, limit.multiplier, np.nan, *dots[0]))
            rows.append((temperature, "wrong", success, -exact.wrong, -limit.wrong, -ideal.wrong, *dots[1]))
    return columns("temperature what success limit small ideal simulated bar", rows)


def draw_successes(table: Table, left: Any, right: Any) -> None:
    """``lambda`` on the left, the wrong answers on the right."""
    for ax, what in ((left, "lambda"), (right, "wrong")):
        for number, temperature in enumerate(np.unique(table["temperature"])):
            chosen = (table["temperature"] == temperature) & (table["what"] == what)
            part, style = {name: column[chosen] for name, column in table.items()}, {"color": f"C{number}"}
            ax.plot(part["success"], part["limit"], label=f"temperature {temperature:g}", **style)
            ax.plot(part["success"], part["small"], linestyle="--", **style)
            ax.plot(part["success"], part["ideal"], linestyle=":", **style)
            ax.errorbar(part["success"], part["simulated"], part["bar"], fmt="o", markersize=4, **style)
        ax.set(xlabel="success rate $p$")
    left.set(ylabel=r"weight $\lambda$ of $\chi^2$")
    log_axes(right, y=(0.1, 1, 10))
    right.set(ylabel=r"$-\log$ ratio of wrong answers")
    left.legend()


def deviations(rng: Rng, scale: Scale) -> Table:
    """Root mean squares of what both baselines err by, exactly and in simulated groups."""
    rows: list[tuple[Any, ...]] = []
    rules = {"mean": lambda share, temperature: share / temperature, "partition": theory.log_partition}
    for k, success in enumerate(np.geomspace(0.005, 0.9, 61)):
        for name, limit in theory.baseline_deviations(success, 16, 0.05)._asdict().items():
            seen = MISSING
            if k % 6 == 3:
                share = rng.binomial(16, success, size=20_000 if scale == "quick" else 1_000_000) / 16
                middle, bar = mean_and_bar((rules[name](share, 0.05) - rules[name](success, 0.05)) ** 2)
                seen = np.sqrt(middle), bar / (2 * np.sqrt(middle))
            rows.append((NAMES[name], success, limit, *seen))
    return columns("baseline success limit simulated bar", rows)


def draw_deviations(table: Table, ax: Any) -> None:
    """Both baselines on logarithmic axes."""
    draw_limits(ax, table, "success", by="baseline")
    log_axes(ax, x=(0.01, 0.1, 0.5), y=(0.1, 1, 10))
    ax.set(xlabel="success rate $p$", ylabel="error of the baseline, r.m.s.")
    ax.legend()


def noises(rng: Rng, scale: Scale) -> Table:
    """Expected reward after each update for three rules, where some rewards are wrong."""
    rows: list[tuple[Any, ...]] = []
    for noise in (0.0, 0.1, 0.2):
        for method in sim.METHODS:
            bandits = 400 if scale == "quick" else 4000
            reward = sim.simulate(rng, method=method, noise=noise, repetitions=bandits)["reward"]
            rows += [(noise, NAMES[method], update, *mean_and_bar(seen)) for update, seen in enumerate(reward.T)]
    return columns("noise method updates reward bar", rows)


def draw_noises(table: Table, left: Any, middle: Any, right: Any) -> None:
    """One panel a share of wrong rewards."""
    for ax, noise in zip((left, middle, right), np.unique(table["noise"]), strict=True):
        _draw_rewards(ax, {name: column[table["noise"] == noise] for name, column in table.items()}, "updates")
        ax.set(xlabel="updates", title=f"{noise:.0%} of rewards wrong", ylim=(0, 1.03), xticks=range(0, 21, 5))
    left.set_ylabel("expected reward")
    left.legend()


def stale(rng: Rng, scale: Scale) -> Table:
    """Final reward against gradient steps on each group, and against the delay of rollouts."""
    rows: list[tuple[Any, ...]] = []
    rule: dict[str, Any] = {"noise": 0.2, "step_size": 20.0, "repetitions": 100 if scale == "quick" else 1000}
    for method in sim.METHODS:
        for steps in (1, 2, 4, 8, 16, 32, 64):
            seen = sim.simulate(rng, method=method, inner_steps=steps, **rule)["reward"][:, -1]
            rows.append(("steps", NAMES[method], steps, *mean_and_bar(seen)))
        for delay in (0, 1, 2, 4, 8):
            seen = sim.simulate(rng, method=method, inner_steps=4, delay=delay, updates=40, **rule)["reward"][:, -1]
            rows.append(("delay", NAMES[method], delay, *mean_and_bar(seen)))
    return columns("what method amount reward bar", rows)


def draw_stale(table: Table, left: Any, right: Any) -> None:
    """Steps on the left, delays on the right."""
    for ax, what in ((left, "steps"), (right, "delay")):
        _draw_rewards(ax, {name: column[table["what"] == what] for name, column in table.items()}, "amount")
        ax.set(ylim=(0, 1.03))
    log_axes(left, x=(1, 2, 4, 8, 16, 32, 64))
    left.set(xlabel="gradient steps on each group", ylabel="final expected reward", title="20 groups")
    right.set(xlabel="updates that rollouts are late", title="40 groups, 4 steps on each")
    left.legend()


def _draw_rewards(ax: Any, table: Table, x: str) -> None:
    for number, method in enumerate(dict.fromkeys(table["method"].tolist())):
        chosen = table["method"] == method
        values, low = table["reward"][chosen], table["bar"][chosen]
        ax.plot(table[x][chosen], values, color=f"C{number}", marker="o", markersize=4, label=method)
        ax.fill_between(table[x][chosen], values - low, values + low, color=f"C{number}", alpha=0.2, linewidth=0)
