"""What the claims and figures of large_lr measure, each a few lines over the simulators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from porism_sims.large_steps.factorised import (
    Runs,
    descend,
    follow,
    hessian_eigenvalues,
    second_iterate,
    simulate,
    weights,
)
from porism_sims.large_steps.landscapes import Landscape, huber, log_cosh, power, rescaled, square, tanh_square
from porism_theory.optimization import _engine as theory

if TYPE_CHECKING:
    from porism_sims.large_steps import networks as nets

Rng = np.random.Generator
Array = NDArray[np.float64]
Family = Literal["power", "log cosh", "tanh"]

# Rounding, beside quantities of order one.
_ROUNDING = 1e-12


def landscape(family: Family, degree: float, minimiser: float) -> Landscape:
    """By name; the degree is the power's."""
    match family:
        case "log cosh":
            return log_cosh(minimiser)
        case "tanh":
            return tanh_square(minimiser)
    return power(degree, minimiser)


def far_starts(rng: Rng, starts: int, low: float = 20.0, high: float = 40.0) -> tuple[Array, Array, Array]:
    """u between two bounds, s within 0.4 u: ``(u, x, y)``."""
    squared_norm = rng.uniform(low, high, starts)
    return squared_norm, *weights(squared_norm, squared_norm * rng.uniform(-0.4, 0.4, starts))


# One or two steps


def coefficient_error(family: Family, degree: float, minimiser: float, step_size: float, sign: int) -> float:
    """Relative error of :func:`theory.edge_expansion` against the odd part of two steps, extrapolated from two offsets.

    ``sign`` -1 turns the fourth derivative round. Relative to ``a^2 + |b|``, as chi may vanish.
    """
    valley = landscape(family, degree, minimiser)
    step_size = step_size / valley.curvature
    imbalance = float(np.sqrt((2 / (step_size * valley.curvature)) ** 2 - 4 * minimiser**2))
    offsets = 0.02 * np.array([-2.0, -1.0, 1.0, 2.0])
    moved = second_iterate(valley, offsets, imbalance=imbalance, step_size=step_size) - offsets
    small, large = moved[2] - moved[1], moved[3] - moved[0]
    seen = -(32 * small - large) / (24 * 4 * 0.02**3)
    derivatives = (valley.curvature, valley.third, sign * valley.fourth)
    a, b = theory.edge_expansion(*derivatives, minimiser, step_size)
    return float(abs(seen - a**2 - b) / (a**2 + abs(b)))


def change_of_units(rng: Rng, *, degree: float, height: float, width: float, exponent: int) -> float:
    """Largest relative difference of 50 steps in other units, mirrored, and with the weights swapped.

    ``exponent`` 2 is right: lengths times ``sqrt(width)`` need steps times width.
    """
    squared_norm, x, y = far_starts(rng, 16, 5.0, 20.0)
    bowl, unit, sizes = power(degree), np.sqrt(width), rng.uniform(0.1, 1.9, 16) / squared_norm

    def products(bowl: Landscape, x: Array, y: Array, sizes: Array) -> Array:
        return follow(bowl, x, y, step_size=sizes, steps=50).product

    plain = products(bowl, x, y, sizes)
    others = [
        products(rescaled(bowl, height=height), x, y, sizes / height),
        products(rescaled(bowl, width=width), unit * x, unit * y, unit**exponent * sizes) / width,
        products(bowl, -x, -y, sizes),
        products(bowl, y, x, sizes),
    ]
    return float(max(np.abs(other - plain).max() for other in others) / np.abs(plain).max())


def descent_margin(rng: Rng, *, degree: float, step_ratio: float, along: bool) -> float:
    """By how much a step lowers the loss beyond ``h (1 - h L / 2) |gradient|^2``, relative, at the worst of 64 states.

    The step is ``step_ratio / L``, with L the largest sharpness ``along`` the step itself, or only at its start.
    """
    bowl, (_, x, y) = power(degree), far_starts(rng, 64, 2.5, 40.0)
    slope = bowl.slope(x * y)
    shares = np.linspace(0, 1, 33)[:, None] if along else np.zeros((1, 1))

    def sharpest(step_size: Array) -> Array:
        pull = shares * step_size * slope
        return hessian_eigenvalues(bowl, x - pull * y, y - pull * x)[..., 1].max(axis=0)

    low, high = np.zeros(64), np.full(64, 1e3)
    for _ in range(60):
        middle = (low + high) / 2
        short = middle * sharpest(middle) < step_ratio
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    after = bowl.value((x - low * slope * y) * (y - low * slope * x))
    promised = low * max(0.0, 1 - step_ratio / 2) * slope**2 * (x**2 + y**2)
    before = bowl.value(x * y)
    return float(((before - after - promised) / before).min())


def worst_growth(rng: Rng, *, slope: float, quantity: Literal["imbalance", "squared_norm"]) -> float:
    """Most that |D|, or u, grows in a step, as a share of its first value up to 1, where h |F'| reaches ``slope``.

    Below slope 1 also the most that D falls below 0 after a positive start.
    """
    _, x, y = far_starts(rng, 32, 20.0, 80.0)
    path = follow(huber(), x, y, step_size=slope, steps=200)
    seen = getattr(path, quantity) / getattr(path, quantity)[0]
    growth = min(float(np.diff(np.abs(seen), axis=0).max()), 1.0)
    return max(growth, float(-seen.min())) if slope < 1 else growth


# Whole runs


def distance_kept(rng: Rng, *, degree: float, step_ratio: float, squared_norm: float) -> float:
    """Largest distance from a minimum with ``h k u = step_ratio`` in 200 steps, as a share of the first, at most 2."""
    offsets = rng.choice([-1e-6, 1e-6], 16) * rng.uniform(0.5, 1, 16)
    # the start has the D of the minimum
    x, y = weights(np.sqrt(squared_norm**2 + 4 * offsets * (2 + offsets)), 1 + offsets)
    path = follow(power(degree), x, y, step_size=step_ratio / squared_norm, steps=200)
    return float(np.max(np.fmin(np.abs(path.product[1:] - 1), 2 * np.abs(offsets)) / np.abs(offsets)))


def sharpest_limit(rng: Rng, *, degree: float, minimiser: float, flat_ratio: float) -> float:
    """Largest ``h k u`` at which one of 32 runs converged, 0 if none did; ``flat_ratio`` is ``h k |s*|``."""
    bowl, step_size = power(degree, minimiser), flat_ratio / minimiser
    squared_norm = rng.uniform(2.5, 20, 32) * minimiser
    x, y = weights(squared_norm, squared_norm * rng.uniform(-0.4, 0.4, 32))
    runs = descend(bowl, x, y, step_size=step_size, steps=2000, tolerance=1e-8)
    return float(np.max(step_size * runs.squared_norm, where=runs.status == "converged", initial=0.0))


def lost_share(rng: Rng, *, degree: float, step_share: float, law: Literal["4 / L", "2-cycle"]) -> float:
    """Share of 64 far starts, u from 20 to 40, that do not come to rest.

    The step is ``step_share`` times that of the 2-cycle for u + 4, or for ``"4 / L"`` times ``4 / (u + 4)``.
    """
    squared_norm, *starts = far_starts(rng, 64)
    sizes = step_share * theory.critical_step(degree if law == "2-cycle" else 2.0, squared_norm + 4)
    runs = descend(power(degree), *starts, step_size=sizes, steps=10_000, tolerance=1e-3)
    return float(np.mean(runs.status != "converged"))


class Landing(NamedTuple):
    """Runs from beside a minimum: shape (runs,) each; ``height`` is the largest loss on the way."""

    ratio: Array
    balance: Array
    height: Array
    status: NDArray[np.str_]


def landing(
    rng: Rng, valley: Landscape, ratios: ArrayLike, *, step_size: float, steps: int = 200_000, tolerance: float = 1e-9
) -> Landing:
    """Start within 1e-2 of a minimum with ``h k u = ratios``, and run until it comes to rest."""
    ratios = np.atleast_1d(np.asarray(ratios, float))
    offsets = rng.choice([-1.0, 1.0], ratios.size) * rng.uniform(1e-3, 1e-2, ratios.size)
    k, s = valley.curvature, valley.minimiser
    x, y = weights(ratios / (step_size * k), s + offsets)
    runs: Runs = descend(valley, x, y, step_size=step_size, steps=steps, tolerance=tolerance)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio, balance = step_size * k * runs.squared_norm, np.abs(runs.imbalance / (x**2 - y**2))
    lost = runs.status == "diverged"
    return Landing(*(np.where(lost, np.inf, a) for a in (ratio, balance, runs.peak(valley))), runs.status)


def mirror_errors(
    rng: Rng, *, step_ratio: float, step_size: float, law: Literal["mirror", "edge"]
) -> tuple[float, float]:
    """Largest errors of 8 runs on the square loss: of where h S ends, and of the catapult's height, relative."""
    seen = landing(rng, square(), np.full(8, step_ratio), step_size=step_size, steps=20_000)
    expected = theory.mirrored(step_ratio) if law == "mirror" else 2.0
    height = np.abs(seen.height / theory.catapult_height(step_ratio, step_size) - 1)
    return tuple(float(np.minimum(error, 1e6).max()) for error in (np.abs(seen.ratio - expected), height))


def deficit_errors(rng: Rng, *, low: float, high: float) -> Array:
    """Relative error of ``(2 - h S) / h^2`` beside its limit, in units of a tolerance, for six landscapes.

    The worse of two starts with h S between ``low`` and ``high``, and ``h k = 0.05``.
    """
    tolerances = (0.015, 0.015, 0.015, 0.04, 0.005, 0.001)
    errors = []
    for valley in (*map(power, (1.0, 1.25, 1.5, 1.75)), log_cosh(), tanh_square()):
        step_size = 0.05 / valley.curvature
        seen = landing(rng, valley, rng.uniform(low, high, 2), step_size=step_size)
        errors.append(np.abs((2 - seen.ratio) / step_size**2 / theory.deficit(valley) - 1).max())
    return np.divide(errors, tolerances)


def balance_error(rng: Rng, *, low: float, high: float) -> float:
    """Largest relative error of ``|D_last / D_first| = 2 / c`` for ``h = 0.05`` and degrees 1 and 1.5."""
    errors = []
    for degree in (1.0, 1.5):
        ratios = rng.uniform(low, high, 4)
        seen = landing(rng, power(degree), ratios, step_size=0.05, tolerance=1e-6)
        errors.append(np.abs(seen.balance * ratios / 2 - 1).max())
    return float(max(errors))


def far_ends(rng: Rng, *, low: float, high: float) -> tuple[Array, Array]:
    """Last imbalance as a share of the first, and last h S, of 600 far starts on the square loss that converged."""
    runs = [simulate(rng, degree=2.0, step_ratio=ratio) for ratio in rng.uniform(low, high, 20)]
    kept = np.concatenate([run["converged"] for run in runs])
    balance, ratio = (np.concatenate([run[name] for run in runs])[kept] for name in ("balance", "final_ratio"))
    return balance, ratio


def regimes_as_expected(rng: Rng, *, spread: float) -> int:
    """How many of ten settings do as expected: all 30 far starts, u from 20 to 80, converge, or none.

    All to degree 2 for c = 3 and to 1.5 for c = 6; at degree 2.25 and c = 3 a tenth may. ``spread`` 0 gives all the
    degree 2.
    """
    right = 0
    for ratio, bounds in ((3.0, (1, 1, 1, 0.1, 0)), (6.0, (1, 1, 0, 0, 0))):
        for degree, bound in zip((1, 1.5, 2, 2.25, 2.5), bounds, strict=True):
            runs = simulate(rng, degree=2 + spread * (degree - 2), step_ratio=ratio, steps=40_000)
            share = runs["converged"].mean()
            right += bool(share == 1 if bound == 1 else share <= bound)
    return right


# Networks; torch is imported when one is trained


class Trained(NamedTuple):
    """A training, and the step sizes; rows of networks are settings, then seeds."""

    history: nets.History
    step_size: Array

    @property
    def ratio(self) -> Array:
        """Step size times sharpness, shape (records, networks)."""
        return self.history.curvature * self.step_size

    @property
    def last(self) -> Array:
        """The last of these, 9 for a network that is lost."""
        return np.nan_to_num(self.ratio[-1], nan=9.0)


def wave_networks(
    rng: Rng,
    settings: Sequence[tuple[float, float]],
    *,
    seeds: int,
    steps: int,
    every: int | None = None,
    activation: nets.Activation = "tanh",
) -> Trained:
    """Networks for every pair of a loss's degree and a step, the latter over the network's own first sharpness.

    3 inputs, 20 hidden units, 10 points; each pair gets the same ``seeds`` networks and data.
    """
    from porism_sims.large_steps import networks as nets

    (inputs, targets), copies = nets.wave(rng, networks=seeds), len(settings)
    degrees, ratios = np.repeat(settings, seeds, axis=0).T
    task = nets.problem(
        np.tile(inputs, (copies, 1, 1)), np.tile(targets, (copies, 1)), degree=degrees, activation=activation
    )
    start = nets.random_weights(rng, (3, 20), networks=seeds, gains=(3**0.5, 1.0))
    return _trained(rng, [matrix.repeat(copies, 1, 1) for matrix in start], task, ratios, steps, every)


def relu_imbalance(rng: Rng, ratios: Sequence[float], *, seeds: int) -> Array:
    """Imbalance of ReLU networks on the square loss after 2000 steps, as a share of the first; 9 if lost.

    Shape (ratios, seeds).
    """
    settings = [(2.0, ratio) for ratio in ratios]
    imbalance = wave_networks(rng, settings, seeds=seeds, steps=2000, activation="relu").history.imbalance
    return np.nan_to_num(imbalance[-1] / imbalance[0], nan=9.0).reshape(len(ratios), seeds)


def deep_networks(
    rng: Rng, *, normalisation: nets.Normalisation, step_ratio: float, seeds: int, steps: int, every: int | None = None
) -> Trained:
    """Linear networks with two hidden layers of 32 on the square loss of two classes: 16 inputs, 60 points."""
    from porism_sims.large_steps import networks as nets

    data = nets.classes(rng, networks=seeds, points=60, features=16)
    task = nets.problem(*data, activation="linear", normalisation=normalisation)
    start = nets.random_weights(rng, (16, 32, 32), networks=seeds)
    return _trained(rng, start, task, np.full(seeds, step_ratio), steps, every)


def _trained(
    rng: Rng, start: Sequence[Any], task: nets.Problem, ratios: Array, steps: int, every: int | None
) -> Trained:
    """Sharpness at every record, or at the last one if no interval is asked for."""
    from porism_sims.large_steps import networks as nets

    sizes = ratios / nets.largest_curvatures(rng, start, task)
    history = nets.train(
        rng,
        start,
        task,
        step_size=sizes,
        steps=steps,
        every=every or steps // 10,
        spectra="always" if every else "last",
    )
    return Trained(history, sizes)
