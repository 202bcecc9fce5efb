"""The figures on label shift: their tables, and how these are drawn."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np

from porism import Table
from porism.drawing import columns, draw_limits, log_axes, mean_and_bar, plot_by
from porism_sims import imbalance_baselines as baselines
from porism_sims.label_shift import gain_of_keeping, simulate
from porism_theory.statistics import _engine as theory
from porism_theory.statistics import _phase_engine as phase

Rng = np.random.Generator
Scale = Literal["quick", "paper"]
Rows = list[tuple[Any, ...]]

MISSING = np.full(2, np.nan)


def repeated(repetitions: int, scale: Scale) -> int:
    """Ten times as many training sets for publication."""
    return repetitions if scale == "quick" else 10 * repetitions


def error_curve(rng: Rng, scale: Scale, *, dimension: int, ratio: int, repetitions: int) -> Table:
    """Error against p/n for some matrices; 1e-6 stands for a vanishing ridge."""
    repetitions = repeated(repetitions, scale)
    rows: Rows = []
    u = np.linspace(-1.12, 1.16, 145)
    rules: dict[str, dict[str, Any]] = {
        "pseudo-inverse": {"ridge": 0.0},
        "ridge → 0": {"ridge": 1e-6},
        "ridge 0.1": {"ridge": 0.1},
        "ridge 1": {"ridge": 1.0},
        "known covariance": {"covariance": "known"},
    }
    for matrix, rule in rules.items():
        for step, gamma in enumerate(np.exp(u / 3 + u**3)):
            dot, minority = step % 12 == 6, dimension / gamma / (1 + ratio)
            minority = max(2, round(minority)) if dot else minority
            sizes = {"dimension": dimension, "majority": ratio * minority, "minority": minority, **rule}
            if sizes["majority"] + minority <= 2 or sizes["majority"] + minority - 2 == dimension:
                continue
            limit = np.mean(theory.predict(**sizes, signal=9.0))
            seen = simulate(rng, **sizes, repetitions=repetitions)["error"] if dot else MISSING
            rows.append((matrix, dimension / ((1 + ratio) * minority - 2), limit, *mean_and_bar(seen)))
    return columns("matrix gamma limit simulated bar", rows)


def draw_error_curve(table: Table, ax: Any) -> None:
    """The peak at as many features as samples."""
    draw_limits(ax, table, "gamma", by="matrix")
    log_axes(ax, x=(0.2, 0.5, 1, 2, 5))
    ax.set(xlabel="features per sample, $p/n$", ylabel="error on balanced classes", ylim=(0, 0.52))
    ax.legend()


def phase_diagram(rng: Rng, scale: Scale, *, signal: float, repetitions: int) -> Table:
    """Advantage of keeping over load and imbalance; ``simulated`` is the gain in standard errors."""
    repetitions = repeated(repetitions, scale)
    rows: Rows = []
    for ridge in (0.0, 0.05, 0.5):
        rule: dict[str, Any] = {"signal": signal, "ridge": ridge, "intercept": "debiased", "repetitions": repetitions}
        for i, ratio in enumerate(np.geomspace(1.2, 10, 49)):
            for j, load in enumerate(np.geomspace(0.3, 12, 81)):
                sizes = {"dimension": round(60 * load), "majority": round(30 * ratio), "minority": 30}
                gain = gain_of_keeping(rng, **sizes, **rule) if (i % 12, j % 10) == (6, 5) else MISSING
                mean, bar = mean_and_bar(gain)
                rows.append((ridge, ratio, load, phase.advantage(load, ratio, signal, ridge=ridge), 2 * mean / bar))
    return columns("ridge ratio load advantage simulated", rows)


def draw_phase_diagram(table: Table, left: Any, middle: Any, right: Any) -> None:
    """One panel a ridge; dotted where all data have n = p."""
    for ax, ridge in zip((left, middle, right), np.unique(table["ridge"]), strict=True):
        ratio, load, gain, seen = (table[name][table["ridge"] == ridge] for name in table if name != "ridge")
        x, y = np.unique(load), np.unique(ratio)
        ax.contourf(x, y, gain.reshape(len(y), len(x)), levels=[-1, 0, 1], colors=["C1", "C0"], alpha=0.4)
        ax.plot((1 + y) / 2, y, color="0.2", linestyle=":")
        for marker, rows in (("^", seen > 2), ("v", seen < -2), ("x", np.abs(seen) <= 2)):
            ax.plot(load[rows], ratio[rows], marker, color="k", markersize=4)
        log_axes(ax, x=(0.5, 1, 2, 5, 10), y=(2, 5, 10))
        ax.set(xlabel="load $p / 2 n_1$", title=f"ridge {ridge:g}" if ridge else "pseudo-inverse")
    left.set(ylabel="imbalance $n_0 / n_1$")


def class_errors(rng: Rng, scale: Scale, *, ridge: float, signal: float, repetitions: int) -> Table:
    """Errors of both classes against imbalance for three intercepts, at p = 200 and n1 = 50."""
    repetitions = repeated(repetitions, scale)
    rows: Rows = []
    for intercept in ("none", "debiased", "prior"):
        rule: dict[str, Any] = {"signal": signal, "ridge": ridge, "intercept": intercept}
        for step, ratio in enumerate(np.geomspace(1, 10, 73)):
            sizes = {"dimension": 200, "majority": round(50 * ratio), "minority": 50}
            errors = simulate(rng, **sizes, **rule, repetitions=repetitions) if step % 9 == 0 else {}
            for name, limit in zip(("majority", "minority"), theory.predict(**sizes, **rule), strict=True):
                seen = mean_and_bar(errors.get(f"{name}_error", MISSING))
                rows.append((intercept, name, sizes["majority"] / 50, limit, *seen))
    return columns("intercept group ratio limit simulated bar", rows)


def draw_class_errors(table: Table, left: Any, middle: Any, right: Any) -> None:
    """One panel an intercept."""
    for ax, intercept in zip((left, middle, right), ("none", "debiased", "prior"), strict=True):
        draw_limits(ax, _part(table, intercept=intercept), "ratio", by="group")
        log_axes(ax, x=(1, 2, 5, 10))
        ax.set(xlabel="imbalance $n_0 / n_1$", title=f"intercept: {intercept}", ylim=(0, 0.6))
    left.set_ylabel("error of the class")
    left.legend()


def sample_descent(rng: Rng, scale: Scale) -> Table:
    """Error against the size of the majority at p = 120 and n1 = 36, by the ridge."""
    repetitions = repeated(20, scale)
    rows: Rows = []
    for ridge in (0.0, 0.05, 1.0):
        for step, majority in enumerate(np.geomspace(36, 360, 481)):
            dot = step % 40 == 20
            sizes: dict[str, Any] = {"dimension": 120, "majority": round(majority) if dot else majority, "minority": 36}
            rule = {"ridge": ridge, "intercept": "debiased"}
            if sizes["majority"] + 36 - 2 == 120:
                continue  # as many features as samples: without a ridge nothing is foreseen
            limit = np.mean(theory.predict(**sizes, **rule))
            balanced = np.mean(theory.predict(**sizes, **rule, sampling="down"))
            seen = simulate(rng, **sizes, **rule, repetitions=repetitions)["error"] if dot else MISSING
            rows.append(
                (f"ridge {ridge:g}" if ridge else "pseudo-inverse", majority, limit, balanced, *mean_and_bar(seen))
            )
    return columns("matrix majority limit balanced simulated bar", rows)


def draw_sample_descent(table: Table, ax: Any) -> None:
    """Dashed: what the balanced set of 36 and 36 gives."""
    for number, matrix in enumerate(dict.fromkeys(table["matrix"].tolist())):
        part, color = _part(table, matrix=matrix), f"C{number}"
        ax.plot(part["majority"], part["limit"], color=color, label=matrix)
        ax.plot(part["majority"], part["balanced"], color=color, linestyle="--", linewidth=1)
        ax.errorbar(part["majority"], part["simulated"], part["bar"], fmt="o", color=color)
    log_axes(ax, x=(40, 60, 100, 200, 300))
    ax.set(xlabel="majority samples $n_0$", ylabel="error on balanced classes", ylim=(0, 0.52))
    ax.legend()


def balance_threshold(rng: Rng, scale: Scale) -> Table:
    """``g*`` against signal, and the sign of the gain from keeping 172 samples beside 160, drawn from its exact law."""
    draws = repeated(50_000, scale)
    rows: Rows = [("limit", s, phase.upper_load_at_balance(s), np.nan) for s in np.geomspace(0.1, 100, 61)]
    for signal in (0.3, 1.0, 3.0, 10.0, 30.0):
        for load in np.linspace(1.2, 2.4, 13):
            sizes: dict[str, Any] = {"dimension": round(320 * load), "minority": 160, "signal": signal, "draws": draws}
            keep, down = (np.mean(theory.exact_errors(rng, **sizes, majority=n0), axis=0) for n0 in (172, 160))
            bar = np.sqrt((keep.var() + down.var()) / draws)
            rows.append(("simulated", signal, sizes["dimension"] / 320, (down.mean() - keep.mean()) / bar))
    return columns("what signal load gain", rows)


def draw_balance_threshold(table: Table, ax: Any) -> None:
    """Triangles up where keeping wins, down where down-sampling does, crosses where it is not clear."""
    line, dots = _part(table, what="limit"), _part(table, what="simulated")
    ax.plot(line["signal"], line["load"], label="threshold $g^*$")
    marks = (("^", dots["gain"] > 2, "keeping wins"), ("v", dots["gain"] < -2, "down-sampling wins"))
    for marker, rows, label in (*marks, ("x", np.abs(dots["gain"]) <= 2, "below 2 s.e.")):
        ax.plot(dots["signal"][rows], dots["load"][rows], marker, color="k", markersize=5, label=label)
    log_axes(ax, x=(0.1, 1, 10, 100))
    ax.set(xlabel="signal, squared distance of the classes", ylabel="load $p / 2 n_1$", ylim=(1, 2.9))
    ax.legend(loc="upper center", ncols=2)


def critical_ridges(scale: Scale) -> Table:
    """The critical ridge over signal and imbalance."""
    points = 16 if scale == "quick" else 64
    pairs = [(s, r) for s in np.geomspace(0.5, 50, points) for r in np.geomspace(1.1, 30, points)]
    return columns("signal ratio ridge", [(s, r, phase.critical_ridge(s, r)) for s, r in pairs])


def draw_critical_ridges(table: Table, ax: Any) -> None:
    """A map with lines of equal ridge."""
    x, y = np.unique(table["signal"]), np.unique(table["ratio"])
    ridge = table["ridge"].reshape(len(x), len(y)).T
    mesh = ax.pcolormesh(x, y, ridge, cmap="viridis", shading="gouraud")
    lines = ax.contour(x, y, ridge, levels=(0.05, 0.1, 0.15, 0.2, 0.3, 0.4), colors="w", linewidths=1)
    ax.clabel(lines, fmt="%g")
    log_axes(ax, x=(0.5, 1, 2, 5, 10, 20, 50), y=(1.2, 2, 5, 10, 30))
    ax.grid(visible=False)
    ax.set(xlabel="signal, squared distance of the classes", ylabel="imbalance $n_0 / n_1$")
    ax.figure.colorbar(mesh, ax=ax, label="critical ridge")


def finite_sizes(rng: Rng, scale: Scale) -> Table:
    """Error against p/n at small p, for the limit and for the exact moments."""
    repetitions = repeated(120, scale)
    rows: Rows = []
    for dimension in (10, 20, 80):
        for degrees in np.unique(np.round(dimension / np.geomspace(0.15, 3, 25))):
            minority = (int(degrees) + 2) // 4
            sizes: dict[str, Any] = {"dimension": dimension, "minority": minority}
            sizes["majority"] = int(degrees) + 2 - minority
            if minority < 2 or abs(dimension - degrees) <= 3:
                continue
            lines = [np.mean(theory.predict(**sizes, sizes=which)) for which in ("limit", "finite")]
            exact = np.mean(theory.exact_errors(rng, **sizes, signal=9.0, draws=repeated(20_000, scale)))
            seen = simulate(rng, **sizes, repetitions=repetitions)["error"]
            rows.append((dimension, dimension / degrees, *lines, exact, *mean_and_bar(seen)))
    return columns("dimension gamma limit finite exact simulated bar", rows)


def draw_finite_sizes(table: Table, left: Any, middle: Any, right: Any) -> None:
    """What both formulas miss by, one panel a dimension."""
    for ax, dimension in zip((left, middle, right), np.unique(table["dimension"]), strict=True):
        part = _part(table, dimension=dimension)
        kinds = ("limit", "limit"), ("finite", "exact moments"), ("exact", "exact law")
        for number, (name, label) in enumerate(kinds):
            miss, beside = part["simulated"] - part[name], part["gamma"] * 1.03 ** (number - 1)
            ax.errorbar(beside, miss, part["bar"], fmt="o", color=f"C{number}", markersize=3, label=label)
        ax.axhline(0, color="0.3", linewidth=1)
        log_axes(ax, x=(0.2, 0.5, 1, 2))
        ax.set(xlabel="features per sample, $p/n$", title=f"{dimension} features", ylim=(-0.08, 0.03))
    left.set_ylabel("simulated minus foreseen error")
    left.legend(loc="lower left")


def any_covariance(rng: Rng, scale: Scale) -> Table:
    """Error against p/n for three condition numbers, with the inverse or a vanishing ridge, and with a ridge."""
    repetitions = repeated(40, scale)
    rows: Rows = []
    for ridge in (1e-6, 0.5):
        for condition in (1.0, 10.0, 100.0):
            for step, minority in enumerate(np.unique(np.round(np.geomspace(4, 80, 61)))):
                rule = {"dimension": 80, "minority": int(minority), "majority": 3 * int(minority), "ridge": ridge}
                limit = theory.predict(**rule, condition=condition)
                seen = MISSING
                if step % 6 == 3:
                    seen = simulate(rng, **rule, condition=condition, repetitions=repetitions)["error"]
                name = f"condition {condition:g}"
                rows.append((ridge, name, 80 / (4 * minority - 2), np.mean(limit), *mean_and_bar(seen)))
    return columns("ridge covariance gamma limit simulated bar", rows)


def draw_any_covariance(table: Table, left: Any, right: Any) -> None:
    """A vanishing ridge on the left, a strong one on the right."""
    for ax, ridge, title in ((left, 1e-6, "ridge → 0"), (right, 0.5, "ridge 0.5")):
        draw_limits(ax, _part(table, ridge=ridge), "gamma", by="covariance")
        log_axes(ax, x=(0.5, 1, 2, 5))
        ax.set(xlabel="features per sample, $p/n$", title=title, ylim=(0, 0.52))
    left.set_ylabel("error on balanced classes")
    left.legend()


def real_data(rng: Rng, scale: Scale) -> Table:
    """Test errors of all strategies on real data, three majority samples to one."""
    repetitions = repeated(15, scale)
    rows: Rows = []
    sizes = (4, 6, 8, 11, 14, 19, 25, 34, 45)
    sources = rng.spawn(len(sizes))  # the same splits for every strategy
    for data in ("breast_cancer", "digits_3_8"):
        for ridge in (0.0, 0.5):
            for strategy in baselines.STRATEGIES:
                for minority, source in zip(sizes, sources, strict=True):
                    rule: dict[str, Any] = {"data": data, "strategy": strategy, "ridge": ridge}
                    rule |= {"majority": 3 * minority, "minority": minority, "repetitions": repetitions}
                    seen = baselines.simulate(copy.deepcopy(source), **rule)["error"]
                    rows.append((data, ridge, strategy, minority, *mean_and_bar(seen)))
    return columns("data ridge strategy minority error bar", rows)


def draw_real_data(table: Table, first: Any, second: Any, third: Any, fourth: Any) -> None:
    """Data in pairs of panels, without and with a ridge; dotted where all data have as many samples as features."""
    panels = [(data, ridge) for data in dict.fromkeys(table["data"].tolist()) for ridge in np.unique(table["ridge"])]
    for ax, (data, ridge) in zip((first, second, third, fourth), panels, strict=True):
        part = _part(table, data=data, ridge=ridge)
        plot_by(ax, part, "minority", "error", "strategy", "o-")
        ax.axvline((baselines.load(data).class0.shape[1] + 2) / 4, color="0.3", linestyle=":")
        log_axes(ax, x=(4, 8, 16, 32), y=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4))
        name = data.replace("_", " ")
        ax.set(xlabel="minority samples $n_1$", title=f"{name}, ridge {ridge:g}" if ridge else name, ylim=(0.008, 0.5))
    first.set_ylabel("test error")
    third.set_ylabel("test error")
    fourth.legend(fontsize="small")


def _part(table: Table, **wanted: Any) -> dict[str, Any]:
    rows = np.all([table[name] == value for name, value in wanted.items()], axis=0)
    return {name: column[rows] for name, column in table.items()}
