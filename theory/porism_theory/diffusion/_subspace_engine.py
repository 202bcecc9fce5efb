"""Diffusion models on a linear subspace: closed forms for Gaussian latents, exact laws of samplers, experiments.

``variances`` are the eigenvalues of the latent covariance, ``normal`` is D - d, and t is a time of the forward process
``porism_sims.diffusion.process``, whose signal^2 is exp(-t) and whose noise is 1 - exp(-t). What says "derived" is
derived in ``tests/papers/test_diffusion_subspace.py`` or checked there by simulation. Formulas that are plain
arithmetic take sympy symbols as well; the network is imported where it is used, since torch is slow to import.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from porism.divergences import tv_distance
from porism.transport import wasserstein_1d
from porism_sims.diffusion import process, subspace

Array = NDArray[np.float64]
Rng = np.random.Generator
VARIANCES = np.array([0.5, 1.0, 2.0])  # of the Gaussian latent in d = 3


def standard() -> subspace.Latent:
    """The Gaussian latent of the experiments, N(0, diag(VARIANCES))."""
    return subspace.gaussian(0 * VARIANCES, np.diag(VARIANCES))


# Closed forms


def noised_variance(variance: Any, t: Any, exp: Callable[[Any], Any] = np.exp) -> Any:
    """v_t = 1 + (variance - 1) exp(-t): of X_t in a direction in which the data have this variance."""
    return 1 + (variance - 1) * exp(-t)


def generated_variance(variance: Any, t: Any, start: Any, sampler: str, exp: Callable[[Any], Any] = np.exp) -> Any:
    """Variance at time t that a sampler of exact steps generates from N(0, 1) at ``start`` (derived).

    Parameters
    ----------
    variance
        Of the data in this direction; 0 in normal ones.
    t, start
        Times, t <= start.
    sampler
        ``"ancestral"`` or ``"euler-maruyama"``: the reverse SDE; the others: the probability flow.
    exp
        ``sympy.exp`` for symbols.

    Examples
    --------
    >>> float(generated_variance(1.0, 0.1, 5.0, "euler")), round(float(generated_variance(0.0, 0.1, 5.0, "euler")), 4)
    (1.0, 0.0958)
    """
    now, then = noised_variance(variance, t, exp), noised_variance(variance, start, exp)
    if sampler in ("ancestral", "euler-maruyama"):
        return now + (1 - variance) * exp(t - 2 * start) * (now / then) ** 2
    return now / then


def step_variance(generated: Any, variance: Any, late: Any, early: Any, sampler: str) -> Any:
    """Variance after one step of a sampler of ``porism_sims.diffusion.process`` with the exact Gaussian score."""
    noise, signal, width = process.noise, process.signal, late - early
    score = -1 / noised_variance(variance, late)
    predicted = (1 + noise(late) * score) / signal(late)
    share = noise(early) / noise(late)
    if sampler == "ancestral":
        factor = signal(width) * share + signal(early) * noise(width) / noise(late) * predicted
        return factor**2 * generated + share * noise(width)
    if sampler == "deterministic":
        return (signal(early) * predicted + np.sqrt(share) * (1 - signal(late) * predicted)) ** 2 * generated
    if sampler == "euler-maruyama":
        return (1 + width * (0.5 + score)) ** 2 * generated + width
    return (1 + width * (1 + score) / 2) ** 2 * generated


def simulated_variance(variance: float, times: Array, sampler: str) -> float:
    """Variance that a sampler generates along ``times`` from N(0, 1), by recursion: no sampling error."""
    generated = 1.0
    for late, early in itertools.pairwise(times):
        generated = step_variance(generated, variance, late, early, sampler)
    return float(generated)


def loss_floor(variances: ArrayLike, t: ArrayLike) -> Array:
    """min E|s + Z / sqrt(noise)|^2 = d / noise - sum 1 / v_t of denoising score matching, without D in it."""
    variances, t = np.asarray(variances, dtype=float), np.asarray(t, dtype=float)[..., None]
    return np.sum(variances * np.exp(-t) / noised_variance(variances, t), axis=-1) / process.noise(t[..., 0])


def along_energy(variances: ArrayLike, t: ArrayLike) -> Array:
    """E|latent part of the score|^2 = sum 1 / v_t; that of the normal part is normal / noise."""
    return np.sum(1 / noised_variance(np.asarray(variances), np.asarray(t, dtype=float)[..., None]), axis=-1)


def recovery_constant(variances: ArrayLike, t: float, *, normal: int, tied: bool = False) -> float:
    """Limit of n E|VV' - AA'|_F^2 for ``subspace.recover_subspace`` at time t (derived).

    With v the variance of X_t and a = v - noise, each latent direction adds 2 normal v / a. Tying the encoder to the
    decoder multiplies this by (noise / (noise + v))^2 < 1/4.

    Examples
    --------
    >>> [round(recovery_constant([1.0], np.log(2), normal=3, tied=tied), 6) for tied in (False, True)]
    [12.0, 1.333333]
    """
    v, noise = noised_variance(np.asarray(variances, dtype=float), t), process.noise(t)
    gain = (noise / (noise + v)) ** 2 if tied else 1.0
    return float(2 * normal * np.sum(gain * v / (v - noise)))


def early_stopping_bias(variances: ArrayLike, t: float) -> tuple[float, float, float]:
    """W_2 of the Gaussian latent law to its noised one; (1 - signal) sqrt(E|z|^2) and sqrt(noise d), which bound it."""
    variances = np.asarray(variances, dtype=float)
    exact = np.sqrt(np.sum((np.sqrt(variances) - np.sqrt(noised_variance(variances, t))) ** 2))
    shrinking = (1 - process.signal(t)) * np.sqrt(variances.sum())
    return float(exact), float(shrinking), float(np.sqrt(process.noise(t) * len(variances)))


def frame(a: Any, b: Any, c: Any) -> sympy.Matrix:
    """First two columns of the rotation of the quaternion (1, a, b, c): orthonormal and rational in the symbols."""
    turn = sympy.Matrix([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    return (sympy.eye(3) + 2 * (turn + turn**2) / (1 + a**2 + b**2 + c**2))[:, :2]


def ambient_log_density(latent: subspace.Latent, basis: Array, points: Array, t: float) -> Array:
    """log p_t at points (n, D), with the D x D covariances written out: knows nothing of the split."""
    terms = []
    for weight, mean, variance, axes in zip(*latent, strict=True):
        spread = basis @ (axes * variance) @ axes.T @ basis.T
        covariance = process.signal(t) ** 2 * spread + process.noise(t) * np.eye(len(basis))
        gap = points - process.signal(t) * basis @ mean
        _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
        quadratic = np.sum(gap * np.linalg.solve(covariance, gap.T).T, axis=1)
        terms.append(np.log(weight) - (quadratic + log_determinant) / 2)
    return logsumexp(terms, axis=0)


def numeric_score(latent: subspace.Latent, basis: Array, point: Array, t: float) -> Array:
    """Gradient of :func:`ambient_log_density` at a point (1, D) by central differences of fourth order, shape (D,)."""
    step = 1e-3 * float(np.sqrt(process.noise(t)))
    moves = step * np.eye(len(basis))

    def difference(k: int) -> Array:
        ahead, behind = (ambient_log_density(latent, basis, point + sign * k * moves, t) for sign in (1, -1))
        return ahead - behind

    return (8 * difference(1) - difference(2)) / (12 * step)


def slope(sizes: Iterable[float], errors: Iterable[float]) -> float:
    """Exponent of a power law, by least squares on logarithms."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(errors)), 1)[0])


# What the score of a sample generates


class BlurredSample(NamedTuple):
    """Errors of the law that a sample's own score generates, d = 1.

    Attributes
    ----------
    distance
        W_1 to the law of the data.
    variation
        Total variation to the noised law at the stopping time, which an exact score would generate.
    """

    distance: float
    variation: float


def blurred_sample(sample: Array, latent: subspace.Latent, stop: float) -> BlurredSample:
    """Errors of the backward process with the score of the sample, shape (n,), stopped early; no sampling error.

    The exact reverse of the process that began at the sample ends in the sample blurred up to ``stop``: a kernel
    density estimate of bandwidth sqrt(noise).
    """
    centres, bandwidth = process.signal(stop) * sample, float(np.sqrt(process.noise(stop)))
    reach = 6 + float(np.abs(sample).max())
    cells = int(2 ** np.ceil(np.log2(np.clip(12 * reach / bandwidth, 2**11, 2**17))))
    grid, width = np.linspace(-reach, reach, cells, endpoint=False, retstep=True)
    place, part = np.divmod((centres + reach) / width, 1)
    masses = sum(np.bincount(place.astype(int) + k, w, cells) for k, w in ((0, 1 - part), (1, part)))
    frequencies = 2 * np.pi * np.fft.rfftfreq(cells, width)
    generated = np.fft.irfft(np.fft.rfft(masses) * np.exp(-((frequencies * bandwidth) ** 2) / 2), cells)
    generated = np.maximum(generated, 0)
    # The law of the data is smooth: a rough grid will do for it.
    rough = grid.reshape(2**11, -1).mean(axis=1)
    data, noised = (np.exp(subspace.latent_log_density(latent, rough[:, None], t)) for t in (1e-12, stop))
    variation = tv_distance(generated, np.interp(grid, rough, noised), normalize=True)
    weights = generated.reshape(2**11, -1).sum(axis=1)
    distance = wasserstein_1d(rough, rough, x_weights=weights, y_weights=data, normalize=True)
    return BlurredSample(float(distance), float(variation))


def memorising_slopes(rng: Rng, *, exponent: float | None, sizes: tuple[int, ...], repeats: int) -> tuple[float, float]:
    """Slopes in n of both errors of :func:`blurred_sample`, stopped at n^-exponent / 2 (None: at 1), d = 1."""
    latent = subspace.random_mixture(rng, 1)
    errors = []
    for n in sizes:
        stop = 1.0 if exponent is None else n**-exponent / 2
        drawn = (subspace.draw_latent(rng, latent, n)[:, 0] for _ in range(repeats))
        errors.append(np.mean([blurred_sample(sample, latent, stop) for sample in drawn], axis=0))
    distance, variation = (slope(sizes, column) for column in zip(*errors, strict=True))
    return distance, variation


# Experiments


def draw_case(rng: Rng, dimension: int, normal: int, t: float, count: int = 1) -> tuple[subspace.Latent, Array, Array]:
    """A random mixture, a basis, and points (count, D) of the noised law at time t."""
    latent, basis = subspace.random_mixture(rng, dimension), subspace.draw_basis(rng, dimension + normal, dimension)
    return latent, basis, process.diffuse(rng, subspace.draw_latent(rng, latent, count) @ basis.T, t)


def leakage_of_tied_score(rng: Rng, *, stop: float, steps: int, normal: int, sampler: process.Sampler) -> float:
    """Leakage over the noise at t0 for a tied score with a random encoder and a latent part that is nonsense."""
    basis = subspace.draw_basis(rng, normal + 2, 2)
    inner, outer = rng.standard_normal((2, 2, 8))
    score = subspace.tied_score(basis, lambda z, t: np.tanh(z @ inner + t) @ outer.T)
    ends, times = rng.standard_normal((20_000 // normal, normal + 2)), process.time_grid(8.0, stop, steps)
    points = process.sample_backwards(rng, score, ends, times, sampler=sampler)
    return subspace.leakage(points, basis) / float(process.noise(stop))


def recovery_errors(rng: Rng, n: int, *, repeats: int, ambient: int = 16, t: float = 0.5, tied: bool = False) -> Array:
    """Subspace errors of :func:`porism_sims.diffusion.subspace.recover_subspace`, shape (repeats,)."""
    latent, dimension = standard(), len(VARIANCES)
    errors = np.empty(repeats)
    for k in range(repeats):
        basis = subspace.draw_basis(rng, ambient, dimension)
        clean = subspace.draw_latent(rng, latent, n) @ basis.T
        learned = subspace.recover_subspace(clean, process.diffuse(rng, clean, t), dimension, tied=tied)
        errors[k] = subspace.subspace_error(learned, basis)
    return errors


def log_recovery_error(rng: Rng, *, tied: bool) -> float:
    """Logarithm of the mean of :func:`recovery_errors` at n = 2000."""
    return float(np.log(recovery_errors(rng, 2000, repeats=20, tied=tied).mean()))


def network_recovery(
    rng: Rng, n: int, latent: subspace.Latent, *, ambient: int = 16, support: str = "subspace"
) -> float:
    """Subspace error of a trained network, with one time and noise per sample; full support has nothing to find."""
    from porism_sims.diffusion.score_network import train_score

    basis = subspace.draw_basis(rng, ambient, latent.dimension)
    points = rng.standard_normal((n, ambient))
    if support == "subspace":
        points = subspace.draw_latent(rng, latent, n) @ basis.T
    network = train_score(rng, points, latent.dimension, noise_draws=1, steps=500)
    return subspace.subspace_error(network.basis().detach().numpy(), basis)


def log_score_error(rng: Rng, *, encoder: int, n: int = 1000, ambient: int = 16) -> float:
    """log of the mean of noise |learned - exact score|^2 over log t, d = 2, for an encoder with as many columns."""
    from porism_sims.diffusion.score_network import train_score

    law, basis = subspace.random_mixture(rng, 2), subspace.draw_basis(rng, ambient, 2)
    points, fresh = (subspace.draw_latent(rng, law, n) @ basis.T for _ in range(2))
    learned, exact = train_score(rng, points, encoder, steps=500).as_score(), subspace.exact_score(law, basis)
    errors = []
    for t in process.time_grid(6.0, 0.01, 15):
        noised = process.diffuse(rng, fresh, t)
        errors.append(process.noise(t) * np.mean(np.sum((learned(noised, t) - exact(noised, t)) ** 2, axis=1)))
    return float(np.log(np.mean(errors)))


def trained_score(rng: Rng, points: Array, *, latent: int = 1, stop: float = 1e-4) -> process.Score:
    """The score of a network trained on points (n, D) with fresh noise."""
    from porism_sims.diffusion.score_network import train_score

    return train_score(rng, points, latent, stop=stop).as_score()


def denoising_loss(rng: Rng, t: float, *, ambient: int, draws: int) -> Array:
    """|s + Z / sqrt(noise)|^2 of the exact score at draws of X_t, Gaussian latent; shape (draws,)."""
    latent, basis = standard(), subspace.draw_basis(rng, ambient, len(VARIANCES))
    z = rng.standard_normal((draws, ambient))
    noised = process.signal(t) * subspace.draw_latent(rng, latent, draws) @ basis.T + np.sqrt(process.noise(t)) * z
    residual = subspace.exact_score(latent, basis)(noised, t) + z / np.sqrt(process.noise(t))
    return np.sum(residual**2, axis=1)


def floor_error(rng: Rng, t: float, *, ambient: int, all_noise: bool, draws: int = 200_000) -> float:
    """Relative error of :func:`loss_floor`, or of it with the normal noise, against :func:`denoising_loss`."""
    floor = loss_floor(VARIANCES, t) + all_noise * (ambient - len(VARIANCES)) / process.noise(t)
    return abs(float(denoising_loss(rng, t, ambient=ambient, draws=draws).mean() / floor) - 1)


def frozen_growth(rng: Rng, *, step: float, stop: float) -> float:
    """Growth per step of a normal displacement in ten Euler-Maruyama steps with the score held at time ``stop``."""
    basis, steps = subspace.draw_basis(rng, 6, 2), 10
    score = subspace.exact_score(subspace.random_mixture(rng, 2), basis)
    ends = rng.standard_normal((1, 6))
    moved = ends + np.linalg.svd(basis)[0][:, -1]
    times = stop + step * np.arange(steps, -1, -1)
    run = functools.partial(process.sample_backwards, score=lambda x, _: score(x, stop), sampler="euler-maruyama")
    first, second = (run(copy.deepcopy(rng), points=points, times=times) for points in (ends, moved))
    return float(np.linalg.norm(second - first) ** (1 / steps))
