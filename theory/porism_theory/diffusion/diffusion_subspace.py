"""Diffusion models for data x = A z on an unknown d-dimensional subspace of R^D.

The paper (arXiv:2302.07194) splits the score into a latent part and a linear pull to the subspace, fits it with a tied
encoder-decoder network, and bounds subspace, latent law and leakage at rates set by d. The abstract was seen, the
statements come in part from memory: upper bounds with unknown constants, so claims ask for *at least* the exponent.
Score approximation and estimation have no constant to check and are claimed through what they lead to. What is
"derived" is checked in ``tests/papers/test_diffusion_subspace.py``.

*What the checks find.* Tying the encoder to the decoder divides the subspace error by more than 4. Euler-Maruyama's
step limit 2h / (1 - h/2) binds for a score held at one time only: a grid that ends at a small t0 just leaks more.
With the sample's own score in d = 1, stopping at n^-e / 2 still works at twelve times the paper's e = 1 / (d + 5).
"""

from __future__ import annotations

import copy
import itertools
from typing import Annotated, Any, Literal

import numpy as np
import sympy
from annotated_types import Interval
from scipy.special import polygamma

from porism import Paired, Paper, Table, always, figure, paired, proved, typically
from porism.drawing import columns
from porism_sims.diffusion import process, subspace
from porism_sims.diffusion.subspace import simulate  # noqa: F401  (the method)
from porism_theory.diffusion import _subspace_engine as theory
from porism_theory.diffusion import _subspace_figures as rows

PAPER = Paper(
    key="diffusion_subspace",
    title="Score Approximation, Estimation and Distribution Recovery of Diffusion Models on Low-Dimensional Data",
    authors=("Minshuo Chen", "Kaixuan Huang", "Tuo Zhao", "Mengdi Wang"),
    year=2023,
    ref="arXiv:2302.07194",
    kinds=("simulator",),
    family="diffusion",
    needs=("theory", "torch"),
    tags=("score matching", "subspace recovery", "intrinsic dimension", "early stopping"),
    method="simulate",
)

Rng = np.random.Generator
Scale = Literal["quick", "paper"]
Time = Annotated[float, Interval(ge=0.01, le=4)]
Dimension = Annotated[int, Interval(ge=1, le=3)]
Real = Annotated[float, Interval(ge=-2, le=2)]
Variance = Annotated[float, Interval(ge=0, le=4)]
Stop = Annotated[float, Interval(ge=0.005, le=0.1)]


@proved("For every latent law the score is a latent part and the pull -x/h off the subspace", where="decomposition",
        control={"pull": "whole"})  # fmt: skip
def score_splits(*, a: Real = 0.5, b: Real = -0.3, c: Real = 0.8, x1: Real = 1.0, x2: Real = -0.5, x3: Real = 0.3,
                 z1: Real = 0.7, z2: Real = -1.0, signal: Annotated[float, Interval(ge=0.05, le=0.95)] = 0.7,
                 pull: Literal["off", "whole"] = "off") -> Any:  # fmt: skip
    """D = 3, d = 2, for each kernel exp(-|x - alpha A z|^2 / 2h), over which p_t integrates the latent law."""
    basis, x, z, h = theory.frame(a, b, c), sympy.Matrix([x1, x2, x3]), sympy.Matrix([z1, z2]), 1 - signal**2
    log_kernel = -sum(entry**2 for entry in x - signal * basis * z) / (2 * h)
    pulled = x - basis * basis.T * x if pull == "off" else x
    split = basis * (signal * z - basis.T * x) / h - pulled / h
    return sympy.And(*(sympy.Eq(sympy.diff(log_kernel, v), part) for v, part in zip(x, split, strict=True)))


@proved("Exact samplers generate the stated variance in every eigendirection", where="derived",
        control={"flow": "ancestral"})  # fmt: skip
def sampler_laws(*, variance: Annotated[float, Interval(ge=0.1, le=4)] = 0.3, t: Time = 0.1,
                 start: Annotated[float, Interval(ge=4, le=8)] = 5.0,
                 flow: Literal["euler", "ancestral"] = "euler") -> Any:  # fmt: skip
    """dV/dt = -(1 - 2/v) V - 1 and -(1 - 1/v) V from V = 1; the control takes the SDE's law for the ODE's."""
    v = theory.noised_variance(variance, t, sympy.exp)
    sde, ode = (theory.generated_variance(variance, t, start, s, sympy.exp) for s in ("ancestral", flow))
    begins = (sympy.Eq(law.subs(t, start), 1) for law in (sde, ode))
    drifts = sympy.Eq(sympy.diff(sde, t), -(1 - 2 / v) * sde - 1), sympy.Eq(sympy.diff(ode, t), -(1 - 1 / v) * ode)
    return sympy.And(*drifts, *begins)


@always("The split is the gradient of the D-dimensional log-density, to 1e-7", where="decomposition",
        control={"pull": "1/t"})  # fmt: skip
def split_is_the_gradient(rng: Rng, *, t: Time = 0.1, dimension: Dimension = 2, normal: Dimension = 3,
                          pull: Literal["1/h", "1/t"] = "1/h") -> float:  # fmt: skip
    latent, basis, x = theory.draw_case(rng, dimension, normal, t)
    along, off = subspace.split_score(latent, basis, x, t)
    score = (along + off * (process.noise(t) / t if pull == "1/t" else 1))[0]
    return 1e-7 - float(np.linalg.norm(theory.numeric_score(latent, basis, x, t) - score) / np.linalg.norm(score))


@always("Early stopping costs at most (1-alpha) sqrt(E|z|^2) + sqrt(hd) in W2", where="recovery of the law",
        control={"spread": 0})  # fmt: skip
def stopping_bias(rng: Rng, *, t: Time = 0.1, first: Variance = 1.0, second: Variance = 0.0,
                  spread: Literal[0, 1] = 1) -> float:  # fmt: skip
    """Gaussian latent, d = 2; the control forgets the noise."""
    exact, shrinking, spreading = theory.early_stopping_bias([first, second], t)
    return 1e-9 + shrinking + spread * spreading - exact


@typically("The denoising loss has the floor d/h - sum 1/v, whatever D, within 1%", where="decomposition",
           control={"all_noise": True}, scale="Gaussian latent, d=3; D=8, 32; t=0.1, 0.5, 2; 2e5 draws")  # fmt: skip
def loss_floor(rng: Rng, *, all_noise: bool = False) -> float:
    """The control adds (D - d) / h, as if the noise off the subspace could not be seen."""
    cases = itertools.product((8, 32), (0.1, 0.5, 2.0))
    return 0.01 - max(theory.floor_error(rng, t, ambient=ambient, all_noise=all_noise) for ambient, t in cases)


@typically("Least squares finds the subspace with n E|VV'-AA'|^2 = 2(D-d) sum(1 + h/(alpha^2 lambda)) to 7%, slope -1",
           where="derived", control={"noise": False}, beyond={"samples_per_dimension": Interval(ge=1.1, le=60)},
           scale="D=16, d=3, t=0.5; means of 60 at n/D = 31, 125, 500")  # fmt: skip
def recovery_constant(rng: Rng, *, samples_per_dimension: Annotated[float, Interval(ge=30, le=60)] = 31.25,
                      noise: bool = True) -> float:  # fmt: skip
    """At once, four and sixteen times the parameter, slope to 0.08; the control forgets the noise in the regressor."""
    sizes = [round(16 * samples_per_dimension * k) for k in (1, 4, 16)]
    constant = theory.recovery_constant(theory.VARIANCES, 0.5, normal=13) if noise else 2 * 13 * 3
    means = [theory.recovery_errors(rng, n, repeats=60).mean() for n in sizes]
    worst = np.abs(np.multiply(sizes, means) / constant - 1).max()
    return float(min(0.07 - worst, 0.08 - abs(theory.slope(sizes, means) + 1)))


@typically("Tying the encoder to the decoder divides the squared subspace error by more than 4", where="derived",
           control={"tied": False}, at_least=1.3863, scale="D=16, d=3, t=0.5, n=2000; means of 20; logs")  # fmt: skip
def tying_helps(rng: Rng, *, tied: bool = True) -> Paired:
    """By least squares over V M V' instead of all matrices."""
    return paired(theory.log_recovery_error, rng, ours={"tied": tied}, theirs={"tied": False}, better="lower")


@always("Variances that Euler's samplers generate converge with order 1, within 0.1", where="derived",
        control={"limit": "other"})  # fmt: skip
def first_order(rng: Rng, *, steps: Annotated[int, Interval(ge=200, le=400)] = 300,
                variance: Literal[0.0, 0.3, 2.0] = 0.3, stochastic: bool = True,
                limit: Literal["own", "other"] = "own") -> float:  # fmt: skip
    """From T = 6 to 0.05, geometric grid; the control takes the ODE's limit for the SDE and the other way round."""
    sampler, other = ("euler-maruyama", "euler")[:: 1 if stochastic else -1]
    exact = theory.generated_variance(variance, 0.05, 6.0, sampler if limit == "own" else other)
    grids = (process.time_grid(6.0, 0.05, k) for k in (steps, 2 * steps))
    errors = [abs(theory.simulated_variance(variance, times, sampler) - exact) for times in grids]
    return 0.1 - abs(float(np.log2(errors[0] / errors[1])) - 1)


@always("A tied score leaks (D-d) h(t0) whatever its latent part and however few the steps, within 10%",
        where="recovery of the law", control={"sampler": "euler-maruyama"})  # fmt: skip
def leakage(rng: Rng, *, stop: Annotated[float, Interval(ge=1e-3, le=0.5)] = 0.05,
            normal: Annotated[int, Interval(ge=4, le=30)] = 14, steps: Annotated[int, Interval(ge=1, le=40)] = 10,
            sampler: Literal["ancestral", "euler-maruyama"] = "ancestral") -> float:  # fmt: skip
    """Random V and f, 20,000 / (D - d) points, so that 0.1 is ten standard errors."""
    return 0.1 - abs(theory.leakage_of_tied_score(rng, stop=stop, steps=steps, normal=normal, sampler=sampler) - 1)


@always("With the score held at t0, Euler-Maruyama steps up to 2h/(1-h/2) let nothing off the subspace grow",
        where="derived", control={"share": 2}, beyond={"step_ratio": Interval(ge=0.01, le=3)})  # fmt: skip
def step_limit(rng: Rng, *, step_ratio: Annotated[float, Interval(ge=0.01, le=1)] = 0.8, stop: Stop = 0.05,
               share: Literal[1, 2] = 1) -> float:  # fmt: skip
    h = float(process.noise(stop))
    return 1 + 1e-9 - theory.frozen_growth(rng, step=share * step_ratio * 2 * h / (1 - h / 2), stop=stop)


@always("On a uniform grid to a small t0 Euler-Maruyama leaks u trigamma(u) h, u = t0/step, within a factor 1 + t0",
        where="derived", control={"law": "exact"})  # fmt: skip
def uniform_grid_leaks(rng: Rng, *, step_share: Annotated[float, Interval(ge=0.1, le=5)] = 1.0, stop: Stop = 0.05,
                       law: Literal["trigamma", "exact"] = "trigamma") -> float:  # fmt: skip
    """The limit of the held score is step_share = 2; yet no step is unstable, as each is taken at a later time."""
    leaks = theory.simulated_variance(0.0, np.arange(stop, 4, step_share * stop)[::-1], "euler-maruyama")
    foreseen = polygamma(1, 1 / step_share) / step_share if law == "trigamma" else 1.0
    return stop - abs(float(leaks / process.noise(stop) / foreseen) - 1)


@typically("With the sample's score, stopped at n^-e/2, W1 falls as n^(-e/2) and TV as n^(e/2 - 1/(d+5)) or faster",
           where="recovery of the law", control={"fixed": True}, beyond={"exponent_share": Interval(ge=0.5, le=13)},
           scale="d=1, mixture of 4; n=200, 800, 3200; means of 4 samples; exact laws")  # fmt: skip
def memorising_rate(rng: Rng, *, exponent_share: Annotated[float, Interval(ge=0.5, le=2)] = 1.0,
                    fixed: bool = False) -> float:  # fmt: skip
    """``exponent_share`` is e (d + 5): at 1 both rates are 1 / (2 (d + 5)); from 2 on the bound on TV does not fall,
    and the claim is only that both distances still do. The control stops at t = 1 for every n."""
    exponent = None if fixed else exponent_share / 6
    distance, variation = theory.memorising_slopes(rng, exponent=exponent, sizes=(200, 800, 3200), repeats=4)
    rates = (exponent_share, 2 - exponent_share) if exponent_share < 2 else (0, 0)
    return min(-distance - rates[0] / 12, -variation - rates[1] / 12)


@typically("A trained tied network finds the subspace at n^(-2/(d+5)) or faster", where="recovery of the subspace",
           control={"support": "full"}, scale="D=16, d=2, mixture of 4; n=128, 2048; 500 steps of Adam")  # fmt: skip
def network_finds_subspace(rng: Rng, *, support: Literal["subspace", "full"] = "subspace") -> float:
    """One time and noise per sample: with fresh ones any n >= d would do. On full support there is nothing to find."""
    latent, sizes = subspace.random_mixture(rng, 2), (128, 2048)
    return -2 / 7 - theory.slope(sizes, [theory.network_recovery(rng, n, latent, support=support) for n in sizes])


@typically("A d-dimensional tied encoder learns the score with half the error of a D-dimensional one",
           where="network class", control={"encoder": 16}, at_least=0.6931,
           scale="D=16, d=2, n=1000, 500 steps of Adam; log ratio of E h |error|^2")  # fmt: skip
def bottleneck_helps(rng: Rng, *, encoder: Literal[2, 16] = 2) -> Paired:
    """Equal width, data and steps."""
    return paired(theory.log_score_error, rng, ours={"encoder": encoder}, theirs={"encoder": 16}, better="lower")


@typically("From D=16 to D=64 the error of the learned score grows less than 1.5-fold", where="abstract",
           control={"encoder": "full"}, scale="d=2, mixture of 4, n=1000, 500 steps; E h |error|^2")  # fmt: skip
def ambient_dimension_is_free(rng: Rng, *, encoder: Literal["latent", "full"] = "latent") -> float:
    """The same law in both; the control has a D-dimensional encoder, so that it must find out what it may ignore."""
    small, large = (theory.log_score_error(same, ambient=D, encoder=2 if encoder == "latent" else D)
                    for same, D in ((copy.deepcopy(rng), 16), (rng, 64)))  # fmt: skip
    return float(np.log(1.5)) - (large - small)


@figure("Mean squares of the parts of the score, d=3. Only the normal one knows D; it blows up.", where="decomposition")
def energy_split(rng: Rng, *, scale: Scale = "quick") -> Table:
    return columns("curve t limit simulated bar", list(rows.energies(rng, 2000 if scale == "quick" else 50_000)))


@figure("Floor of the denoising loss, d=3: d/h - sum 1/v, and the exact score's loss.", where="decomposition")
def denoising_floor(rng: Rng, *, scale: Scale = "quick") -> Table:
    return columns("curve t limit simulated bar", list(rows.floors(rng, 2000 if scale == "quick" else 50_000)))


@figure("Subspace error, D=16, d=3; least squares at t=0.5 with derived lines.", where="recovery of the subspace")
def subspace_recovery(rng: Rng, *, scale: Scale = "quick") -> Table:
    return columns("curve samples limit simulated bar", list(rows.recoveries(rng, scale)))


@figure("Error against t0, d=1: exact law of a sample's score (lines), its sampler (dots), a network's, D=16 "
        "(squares). Dotted: n^(-1/6).", where="recovery of the law")  # fmt: skip
def early_stopping(rng: Rng, *, scale: Scale = "quick") -> Table:
    return columns("source samples stop distance variation", list(rows.stopping_times(rng, scale)))


@figure("Sliced W1 of generated latents, t0=n^(-1/(d+5))/2. Dotted: slope -1/(2(d+5)).", where="recovery of the law")
def rates_by_dimension(rng: Rng, *, scale: Scale = "quick") -> Table:
    return columns("ambient dimension samples simulated bar", list(rows.rates(rng, scale)))


@figure(
    "Error of the generated variance from T=8 to 0.05, data variances 0.3 (latent) and 0 (normal).", where="derived"
)
def sampler_accuracy(rng: Rng) -> Table:
    return columns("direction sampler steps error", list(rows.accuracies()))


@figure("The score about a line in R^3 with two clusters: directions, colour: log10 of length.", where="decomposition")
def phase_portrait(rng: Rng) -> Table:
    return columns("t x y u v", list(rows.portrait(rng)))


energy_split.draw(rows.draw_energy_split)
denoising_floor.draw(rows.draw_denoising_floor)
subspace_recovery.draw(rows.draw_subspace_recovery)
early_stopping.draw(rows.draw_early_stopping)
rates_by_dimension.draw(rows.draw_rates_by_dimension)
sampler_accuracy.draw(rows.draw_sampler_accuracy)
phase_portrait.draw(rows.draw_phase_portrait)
