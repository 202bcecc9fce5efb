"""The data of the figures of ``diffusion_manifold``, and how they are drawn."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from porism import Table
from porism.drawing import columns, log_axes, mean_and_bar, plot_by
from porism.geometry import Ellipsoid, Manifold, Sphere, Torus
from porism_sims.diffusion.manifold_quadrature import exact_score
from porism_sims.diffusion.manifolds import embedded_score
from porism_sims.diffusion.process import diffuse, noise, signal, time_of_noise
from porism_theory.diffusion import _manifold_engine as theory

Array = NDArray[np.float64]
Rng = np.random.Generator
Scale = Literal["quick", "paper"]

SPHERES = {"circle": 1, "S²": 2, "S³": 3, "S¹⁰": 10}


def orders(rng: Rng, scale: Scale) -> Table:
    """Errors of the score with the projection term, the curvature term and, on spheres, the next one.

    On spheres at |x| = 1.2 signal; elsewhere the root mean square over points within 0.3 of the reach.
    """
    rows, count = [], {"quick": 12, "paper": 200}[scale]
    times = np.geomspace(1e-4, 0.2, {"quick": 12, "paper": 34}[scale])
    for name, dimension in SPHERES.items():
        for t in times:
            rows.append((name, noise(t), *theory.sphere_errors(dimension, 0.2, t)))
    for name, manifold in theory.SURFACES.items():
        feet = theory.feet(rng, manifold, count)
        points = theory.raised(manifold, feet, rng.uniform(-0.3, 0.3, (count, 1)))
        for t in times:
            errors = theory.expansion_errors(manifold, points, t)
            rows.append((name, noise(t), *(np.sqrt(np.mean(e**2)) for e in errors), np.nan))
    return columns("manifold noise projection curvature second", rows)


def draw_orders(table: Table, left: Any, middle: Any, right: Any) -> None:
    """One panel a number of terms; dotted lines have slopes 0, 1 and 2."""
    titles = {"projection": "projection", "curvature": "… and curvature", "second": "… and the next term"}
    for slope, (ax, (term, title)) in enumerate(zip((left, middle, right), titles.items(), strict=True)):
        plot_by(ax, table, "noise", term, "manifold", ".-")
        h = np.array([1e-4, 0.1])
        ax.plot(h, {0: 0.08, 1: 12.0, 2: 300.0}[slope] * h**slope, ":", color="0.3")
        ax.set(xscale="log", yscale="log", xlabel="noise $h$", title=title, ylim=(1e-16, 30))
    left.set_ylabel("length of the rest of the score")
    left.legend(ncols=2, loc="lower left")


def ring(rng: Rng, scale: Scale) -> Table:
    """Logarithms of both errors on a grid over an ellipse with axes 1 and 1/2, at noise 0.002."""
    ellipse, t = Ellipsoid((1.0, 0.5)), float(time_of_noise(0.002))
    size = {"quick": 121, "paper": 401}[scale]
    x, y = np.meshgrid(np.linspace(-1.35, 1.35, size), np.linspace(-0.85, 0.85, size))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    with np.errstate(all="ignore"):  # on the medial axis the expansion is infinite
        errors = theory.expansion_errors(ellipse, points, t)
    return {"x": points[:, 0], "y": points[:, 1], **{k: np.log10(v) for k, v in errors._asdict().items()}}


def draw_ring(table: Table, left: Any, right: Any) -> None:
    """Both on one scale; white: the ellipse and its evolute."""
    size = round(np.sqrt(len(table["x"])))
    angle = np.linspace(0, 2 * np.pi, 400)
    for ax, name, title in ((left, "projection", "projection term only"), (right, "curvature", "and curvature term")):
        x, y, error = (np.asarray(table[column]).reshape(size, size) for column in ("x", "y", name))
        image = ax.pcolormesh(x, y, np.clip(error, -4, 2), vmin=-4, vmax=2, rasterized=True)
        ax.plot(np.cos(angle), np.sin(angle) / 2, color="w", linewidth=1)
        ax.plot(0.75 * np.cos(angle) ** 3, -1.5 * np.sin(angle) ** 3, color="w", linewidth=1, linestyle=":")
        ax.set(aspect="equal", title=title, xlim=(-1.35, 1.35), ylim=(-0.85, 0.85))
        ax.grid(visible=False)
    right.figure.colorbar(image, ax=[left, right], label="$\\log_{10}$ of the rest's length", shrink=0.7)


def displaced(rng: Rng, scale: Scale) -> Table:
    """Normal displacement of the posterior mean over the noise, on the manifold, at noise 0.01 squared reach."""
    count = {"quick": 15, "paper": 60}[scale]
    circles = [Sphere(1, radius) for radius in (0.25, 0.5, 1, 2)]
    rows = [("circles", 1 / c.radius, _displacement(c, np.array([[c.radius, 0.0]]))[0]) for c in circles]
    ellipse, torus = theory.SURFACES["ellipse"], theory.SURFACES["torus"]
    for name, manifold, density in (
        ("ellipse", ellipse, None),
        ("ellipse, density $1 + y/2$", ellipse, lambda p: 1 + p[:, 1] / 2),
        ("torus", torus, None),
    ):
        feet = manifold.sample(rng, count)
        seen = zip(-theory.curvature_sum(manifold, feet), _displacement(manifold, feet, density), strict=True)
        rows += [(name, *pair) for pair in seen]
    return columns("manifold curvature displacement", rows)


def _displacement(manifold: Manifold, feet: Array, density: Any = None) -> Array:
    score, t = exact_score(manifold, density), theory.time_of(0.01, manifold)
    return theory.displacement(manifold, score, feet, t)


def draw_displaced(table: Table, ax: Any) -> None:
    """Dots on the line of slope -1/2."""
    line = np.array([0.0, 4.2])
    ax.plot(line, -line / 2, color="0.3", label="half the mean curvature vector")
    plot_by(ax, table, "curvature", "displacement", "manifold", "o")
    ax.set(xlabel="sum of principal curvatures", ylabel="displacement of the posterior mean / $h$")
    ax.legend()


def spectrum(rng: Rng, scale: Scale) -> Table:
    """Eigenvalues of -noise Hessian of log p at a point of M_t against the noise in squared reaches."""
    rows, frame = [], np.linalg.qr(rng.standard_normal((5, 3)))[0]
    ellipse, torus = theory.SURFACES["ellipse"], theory.SURFACES["torus"]
    cases = (
        ("S² in R⁵", 1.0, embedded_score(exact_score(Sphere(2)), frame), frame @ [0.0, 0.0, 1.0]),
        ("ellipse, tip", ellipse.reach, exact_score(ellipse), [2.0, 0.0]),
        ("torus, outside", torus.reach, exact_score(torus), [2.7, 0.0, 0.0]),
    )
    for name, reach, score, point in cases:
        for relative in np.geomspace(1e-3, 100, {"quick": 30, "paper": 120}[scale]):
            t = float(np.log1p(relative * reach**2))
            covariance = theory.posterior_covariance(score, signal(t) * np.array([point]), t)[0]
            values = np.sort(1 - np.linalg.eigvalsh((covariance + covariance.T) / 2))
            rows += [(name, relative, index, value) for index, value in enumerate(values)]
    return columns("manifold noise index eigenvalue", rows)


def draw_spectrum(table: Table, left: Any, middle: Any, right: Any) -> None:
    """One panel a manifold, one line an eigenvalue."""
    for ax, name in zip((left, middle, right), dict.fromkeys(table["manifold"]), strict=True):
        part = {key: column[table["manifold"] == name] for key, column in table.items()}
        tangent = 1 if "ellipse" in name else 2
        for index in np.unique(part["index"]):
            rows = part["index"] == index
            color = "C1" if index < tangent else "C0"
            ax.plot(part["noise"][rows], part["eigenvalue"][rows], color=color, linestyle="-" if index % 2 else "--")
        log_axes(ax, x=(0.001, 0.01, 0.1, 1, 10, 100))
        ax.set(xlabel="noise / reach²", title=f"{name}: d = {tangent}", ylim=(-0.03, 1.06))
    left.set_ylabel("eigenvalues of $-h \\nabla^2 \\log p$")


def regimes(rng: Rng, scale: Scale) -> Table:
    """Share of noised points of S² in R^D inside the tube, and errors of both descriptions of the circle's score."""
    count, rows = {"quick": 4000, "paper": 100_000}[scale], []
    times = np.geomspace(1e-3, 3, {"quick": 25, "paper": 60}[scale])
    for ambient in (3, 10, 50):
        for t in times:
            x = diffuse(rng, np.pad(Sphere(2).sample(rng, count), ((0, 0), (0, ambient - 3))), t)
            off = np.hypot(np.linalg.norm(x[:, :3], axis=1) - signal(t), np.linalg.norm(x[:, 3:], axis=1))
            inside = mean_and_bar((off < signal(t)).astype(float))
            rows.append(("inside", str(ambient), t, *inside))
    points = {"quick": 200, "paper": 2000}[scale]
    for t in times:
        rows.append(("error", "8 charts", t, np.median(theory.chart_errors(rng, t, 8, count=points)), 0.0))
        x = diffuse(rng, Sphere(1).sample(rng, points), t)
        rest = theory.expansion_errors(Sphere(1), x / signal(t), t).curvature
        rows.append(("error", "expansion", t, np.median(np.sqrt(noise(t)) * rest), 0.0))
    return columns("what which time value bar", rows)


def draw_regimes(table: Table, left: Any, right: Any) -> None:
    """Left: dotted where the noise's length is the reach. Right: the circle, k = 1 dotted."""
    inside = {key: column[table["what"] == "inside"] for key, column in table.items()}
    for number, ambient in enumerate(dict.fromkeys(inside["which"])):
        rows, color = inside["which"] == ambient, f"C{number}"
        x, y, bar = (inside[name][rows] for name in ("time", "value", "bar"))
        left.errorbar(x, y, bar, fmt="o-", color=color, label=f"D = {ambient}")
        left.axvline(np.log1p(1 / (int(ambient) - 2)), color=color, linestyle=":")
    left.set(xscale="log", xlabel="time", ylabel="share of points inside the tube")
    left.legend()
    errors = {key: column[table["what"] == "error"] for key, column in table.items()}
    plot_by(right, errors, "time", "value", "which", ".-")
    right.axvline(np.log(2), color="0.3", linestyle=":")
    right.set(xscale="log", yscale="log", xlabel="time", ylabel="error of the score $\\cdot \\sqrt{h}$ (median)")
    right.legend()


def rates(rng: Rng, scale: Scale) -> Table:
    """Excess errors against samples by dimension, and against the reach for ellipses of one length."""
    repetitions, rows = {"quick": 6, "paper": 40}[scale], []
    sizes = [125, 250, 500, 1000, 2000] + ([4000, 8000] if scale == "paper" else [])
    manifolds = {"S¹ ⊂ R²": Sphere(1), "S² ⊂ R³": Sphere(2), "T² ⊂ R⁴": Torus(2), "S³ ⊂ R⁴": Sphere(3)}
    for name, manifold in manifolds.items():
        for n in sizes:
            draws = [theory.excesses(rng, manifold, n, 0.02)[0] for _ in range(repetitions)]
            limit = theory.predicted_excess(manifold.volume, manifold.dimension, n, 0.02)
            rows.append(("samples", name, n, limit, *mean_and_bar(np.array(draws))))
    for aspect in (1.0, 1.5, 2.0, 3.0, 4.0):
        draws = np.array([theory.price_of_curvature(rng, aspect) for _ in range(repetitions)])
        limits = theory.predicted_excess(2 * np.pi, 1, 500, 0.001), np.nan
        bend = 1 / theory.ellipse_of_length(2 * np.pi, aspect).reach
        for name, limit, values in zip(("empirical score", "flat charts, best"), limits, draws.T, strict=True):
            rows.append(("reach", name, bend, limit, *mean_and_bar(values)))
    return columns("what which x limit simulated bar", rows)


def draw_rates(table: Table, left: Any, right: Any) -> None:
    """Dots: simulated, with two standard errors; lines: derived."""
    for ax, what, label in ((left, "samples", "samples n"), (right, "reach", "1 / reach")):
        part = {key: column[table["what"] == what] for key, column in table.items()}
        for number, name in enumerate(dict.fromkeys(part["which"])):
            rows, color = part["which"] == name, f"C{number}"
            ax.plot(part["x"][rows], part["limit"][rows], color=color)
            ax.errorbar(part["x"][rows], part["simulated"][rows], part["bar"][rows], fmt="o", color=color, label=name)
        ax.set_xlabel(label)
        ax.legend()
    log_axes(left, x=tuple(np.unique(table["x"][table["what"] == "samples"])), y=(0.001, 0.01, 0.1, 1))
    log_axes(right, x=(1, 2, 5, 10), y=(0.01, 0.02, 0.05, 0.1))
    left.set(ylabel="excess error, $h\\, E|\\hat s - s|^2$", title="empirical score, t = 0.02")
    right.set_title("ellipses of length 2π, n = 500, t = 0.001")
