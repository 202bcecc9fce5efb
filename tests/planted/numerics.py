"""Planted claims on floating point and small algorithms: each false one beside its mended twin."""

import math
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from scipy.special import erf, expit, log_softmax, logsumexp, softmax

from porism import Paper, always

PAPER = Paper(
    key="planted_numerics",
    title="Planted claims on numerics",
    authors=("Ada Author",),
    year=2020,
    ref="arXiv:2001.00001",
    kinds=("simulator",),
    family="planted",
)

Shift = Annotated[float, Interval(ge=-1000, le=1000)]
Temperature = Annotated[float, Interval(gt=0, le=10)]
Count = Annotated[int, Interval(ge=1, le=1000)]
Angle = Annotated[float, Interval(ge=0, le=3.14)]


@always("Log-sum-exp is shifted with its arguments", where="exp overflows")
def log_sum_exp(rng, *, shift: Shift = 0.0) -> float:
    x = rng.normal(size=5)
    return 1e-6 - abs(np.log(np.exp(x + shift).sum()) - np.log(np.exp(x).sum()) - shift)


@always("Log-sum-exp is shifted with its arguments", where="mended")
def log_sum_exp_mended(rng, *, shift: Shift = 0.0) -> float:
    x = rng.normal(size=5)
    return 1e-6 - abs(logsumexp(x + shift) - logsumexp(x) - shift)


@always("A softmax sums to one at every temperature", where="exp overflows at a small one")
def temperature_softmax(rng, *, temperature: Temperature = 1.0) -> float:
    raised = np.exp(rng.normal(size=5) / temperature)
    return 1e-6 - abs((raised / raised.sum()).sum() - 1)


@always("A softmax sums to one at every temperature", where="mended")
def temperature_softmax_mended(rng, *, temperature: Temperature = 1.0) -> float:
    return 1e-6 - abs(softmax(rng.normal(size=5) / max(temperature, 1e-300)).sum() - 1)


@always("The variance does not change when data is shifted", where="cancellation in one pass")
def shifted_variance(rng, *, shift: Annotated[float, Interval(ge=0, le=1e6)] = 0.0) -> float:
    x = rng.normal(size=100)
    return 1e-4 - abs(np.mean((x + shift) ** 2) - np.mean(x + shift) ** 2 - x.var())


@always("The variance does not change when data is shifted", where="mended")
def shifted_variance_mended(rng, *, shift: Annotated[float, Interval(ge=0, le=1e6)] = 0.0) -> float:
    x = rng.normal(size=100)
    return 1e-4 - abs(np.var(x + shift) - x.var())


@always("log(1 + x) keeps six digits", where="cancellation for a tiny x")
def small_logarithm(rng, *, x: Annotated[float, Interval(ge=1e-12, le=1)] = 0.5) -> float:
    return 1e-6 - abs(np.log(1 + x) / np.log1p(x) - 1)


@always("log(1 + x) keeps six digits", where="mended by one term of its series")
def small_logarithm_mended(rng, *, x: Annotated[float, Interval(ge=1e-12, le=1)] = 0.5) -> float:
    return 1e-6 - abs((x - x * x / 2 if x < 1e-5 else np.log(1 + x)) / np.log1p(x) - 1)


def two_directions(rng: np.random.Generator, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors of R^5 with this angle between them."""
    x, y = np.linalg.qr(rng.normal(size=(5, 2)))[0].T
    return x, np.cos(angle) * x + np.sin(angle) * y


@always("An angle is found to nine digits", where="the arc cosine is flat at one")
def small_angle(rng, *, angle: Angle = 1.0) -> float:
    x, y = two_directions(rng, angle)
    return 1e-9 - abs(np.arccos(np.clip(x @ y, -1, 1)) - angle)


@always("An angle is found to nine digits", where="mended")
def small_angle_mended(rng, *, angle: Angle = 1.0) -> float:
    x, y = two_directions(rng, angle)
    return 1e-9 - abs(2 * np.arctan2(np.linalg.norm(x - y), np.linalg.norm(x + y)) - angle)


@always("A grid of step 1 / n has n points below one", where="arange of floats")
def grid(rng, *, n: Annotated[int, Interval(ge=1, le=100)] = 10) -> float:
    return 0.5 - abs(len(np.arange(0, 1, 1 / n)) - n)


@always("A grid of step 1 / n has n points below one", where="mended")
def grid_mended(rng, *, n: Annotated[int, Interval(ge=1, le=100)] = 10) -> float:
    return 0.5 - abs(len(np.arange(n) / n) - n)


@always("A number has one digit more than the whole part of its logarithm", where="log(1000) / log(10) is below 3")
def digits(rng, *, n: Annotated[int, Interval(ge=1, le=5000)] = 10) -> float:
    return 0.5 - abs(1 + math.floor(math.log(n) / math.log(10)) - len(str(n)))


@always("A number has one digit more than the whole part of its logarithm", where="mended")
def digits_mended(rng, *, n: Annotated[int, Interval(ge=1, le=5000)] = 10) -> float:
    return 0.5 - abs(1 + math.floor(math.log10(n)) - len(str(n)))


@always("Uniform probabilities in half precision sum to one within five per cent", where="for many classes")
def half_precision(rng, *, classes: Annotated[int, Interval(ge=1, le=5000)] = 10) -> float:
    return 0.05 - abs(float(np.cumsum(np.full(classes, 1 / classes, np.float16), dtype=np.float16)[-1]) - 1)


@always("Uniform probabilities in half precision sum to one within five per cent", where="mended: summed in single")
def half_precision_mended(rng, *, classes: Annotated[int, Interval(ge=1, le=5000)] = 10) -> float:
    return 0.05 - abs(float(np.cumsum(np.full(classes, 1 / classes, np.float16), dtype=np.float32)[-1]) - 1)


def floored(p: np.ndarray, floor: float) -> np.ndarray:
    """Clip to the floor and normalise, which is no projection."""
    clipped = np.maximum(p, floor)
    return clipped / clipped.sum()


def projected(p: np.ndarray, floor: float) -> np.ndarray:
    """Euclidean projection to probabilities of at least ``floor``."""
    room = 1 - len(p) * floor
    ordered = np.sort(p - floor)[::-1]
    excess = (np.cumsum(ordered) - room) / np.arange(1, len(p) + 1)
    return floor + np.maximum(p - floor - excess[np.flatnonzero(ordered > excess)[-1]], 0)


Outcomes = Annotated[int, Interval(ge=2, le=50)]
Floor = Annotated[float, Interval(ge=0, le=0.01)]


@always("Keeping probabilities above a floor twice is doing it once", where="not where the floor is met")
def idempotent(rng, *, outcomes: Outcomes = 5, floor: Floor = 1e-4) -> float:
    once = floored(rng.dirichlet(np.full(outcomes, 5.0)), floor)
    return 1e-9 - np.abs(floored(once, floor) - once).max()


@always("Keeping probabilities above a floor twice is doing it once", where="mended: a projection")
def idempotent_mended(rng, *, outcomes: Outcomes = 5, floor: Floor = 1e-4) -> float:
    once = projected(rng.dirichlet(np.full(outcomes, 5.0)), floor)
    return 1e-9 - np.abs(projected(once, floor) - once).max()


Batch = Annotated[int, Interval(ge=1, le=256)]
Micro = Literal[1, 2, 4, 8]
Reduction = Literal["sum", "mean"]


def accumulated(x: np.ndarray, micro: int, reduction: str, weighted: bool) -> float:
    """The reduction of a batch, from that of its micro-batches."""
    parts = np.split(x, range(micro, len(x), micro))
    if reduction == "sum":
        return sum(part.sum() for part in parts)
    weights = [len(part) if weighted else 1 for part in parts]
    return float(np.average([part.mean() for part in parts], weights=weights))


@always("Accumulated micro-batches give the gradient of the batch", where="not the mean with a remainder")
def accumulation(rng, *, batch: Batch = 64, micro: Micro = 4, reduction: Reduction = "sum") -> float:
    x = rng.normal(size=batch)
    return 1e-9 - abs(accumulated(x, micro, reduction, False) - getattr(np, reduction)(x))


@always("Accumulated micro-batches give the gradient of the batch", where="mended")
def accumulation_mended(rng, *, batch: Batch = 64, micro: Micro = 4, reduction: Reduction = "sum") -> float:
    x = rng.normal(size=batch)
    return 1e-9 - abs(accumulated(x, micro, reduction, True) - getattr(np, reduction)(x))


def gelu_error(x: float) -> float:
    """How far the tanh approximation of GELU is off."""
    approximate = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return abs(approximate - x / 2 * (1 + erf(x / np.sqrt(2))))


Wide = Annotated[float, Interval(ge=-50, le=50)]


@always("The tanh form of GELU is within 0.00045 of it", where="0.00047 near 2.7")
def gelu_tanh(rng, *, x: Wide = 0.0) -> float:
    return 4.5e-4 - gelu_error(x)


@always("The tanh form of GELU is within 0.0005 of it", where="mended")
def gelu_tanh_mended(rng, *, x: Wide = 0.0) -> float:
    return 5e-4 - gelu_error(x)


def swish_slope(x: float) -> float:
    s = expit(x)
    return s + x * s * (1 - s)


@always("The slope of swish is at most 1.08", where="two per cent too low")
def swish(rng, *, x: Wide = 0.0) -> float:
    return 1.08 - swish_slope(x)


@always("The slope of swish is at most 1.1", where="Ramachandran et al.")
def swish_mended(rng, *, x: Wide = 0.0) -> float:
    return 1.1 - swish_slope(x)


def softmax_slope(gap: float, depth: float, classes: int) -> float:
    """Spectral norm of the softmax's Jacobian at two logits ``gap`` apart, the others ``depth`` below."""
    p = softmax(np.concatenate([[gap, 0.0], np.full(classes - 2, -depth)]))
    return float(np.linalg.norm(np.diag(p) - np.outer(p, p), 2))


Gap = Annotated[float, Interval(ge=-10, le=10)]
Depth = Annotated[float, Interval(ge=0, le=20)]
Classes = Annotated[int, Interval(ge=2, le=50)]


@always("The softmax is 0.49-Lipschitz", where="two per cent too low")
def lipschitz(rng, *, gap: Gap = 1.0, depth: Depth = 1.0, classes: Classes = 10) -> float:
    return 0.49 - softmax_slope(gap, depth, classes) + 1e-9


@always("The softmax is 0.5-Lipschitz", where="Gao and Pavel")
def lipschitz_mended(rng, *, gap: Gap = 1.0, depth: Depth = 1.0, classes: Classes = 10) -> float:
    return 0.5 - softmax_slope(gap, depth, classes) + 1e-9


def slope(function, x: float, step: float = 1e-6) -> float:
    return (function(x + step) - function(x - step)) / (2 * step)


@always("The gradient of softened cross-entropy is p - y", where="its temperature lost")
def soft_gradient(rng, *, temperature: Annotated[float, Interval(ge=0.5, le=5)] = 1.0) -> float:
    z = rng.normal(size=5)
    found = slope(lambda t: -log_softmax((z + t * np.eye(5)[0]) / temperature)[0], 0.0)
    return 1e-4 - abs(found - (softmax(z / temperature)[0] - 1))


@always("The gradient of softened cross-entropy is (p - y) / T", where="Hinton et al., Eq. 2")
def soft_gradient_mended(rng, *, temperature: Annotated[float, Interval(ge=0.5, le=5)] = 1.0) -> float:
    z = rng.normal(size=5)
    found = slope(lambda t: -log_softmax((z + t * np.eye(5)[0]) / temperature)[0], 0.0)
    return 1e-4 - abs(found - (softmax(z / temperature)[0] - 1) / temperature)


Mean = Annotated[float, Interval(ge=-3, le=3)]
Scale = Annotated[float, Interval(ge=0.1, le=3)]


def gaussian_kl(mean: float, scale: float, other: float) -> float:
    return np.log(other / scale) + (scale**2 + mean**2) / (2 * other**2) - 0.5


@always("The KL divergence falls by (s^2 - m^2) / t^2 - 1 with log t", where="a wrong sign, unseen at equal means")
def gaussian_gradient(rng, *, mean: Mean = 0.0, scale: Scale = 1.0, other: Scale = 1.0) -> float:
    found = slope(lambda t: gaussian_kl(mean, scale, other * np.exp(t)), 0.0)
    return 1e-3 - abs(-found - ((scale**2 - mean**2) / other**2 - 1)) / (1 + abs(found))


@always("The KL divergence falls by (s^2 + m^2) / t^2 - 1 with log t", where="mended")
def gaussian_gradient_mended(rng, *, mean: Mean = 0.0, scale: Scale = 1.0, other: Scale = 1.0) -> float:
    found = slope(lambda t: gaussian_kl(mean, scale, other * np.exp(t)), 0.0)
    return 1e-3 - abs(-found - ((scale**2 + mean**2) / other**2 - 1)) / (1 + abs(found))


def huber(x: float, delta: float) -> float:
    return x * x / 2 if abs(x) <= delta else delta * (abs(x) - delta / 2)


Residual = Annotated[float, Interval(ge=-5, le=5)]
Delta = Annotated[float, Interval(ge=0.1, le=2)]


@always("Huber's gradient is clipped to one", where="right for a threshold of one only")
def huber_gradient(rng, *, residual: Residual = 0.5, delta: Delta = 1.0) -> float:
    clipped = residual if abs(residual) <= delta else np.sign(residual)
    return 1e-4 - abs(slope(lambda x: huber(x, delta), residual) - clipped)


@always("Huber's gradient is clipped to its threshold", where="mended")
def huber_gradient_mended(rng, *, residual: Residual = 0.5, delta: Delta = 1.0) -> float:
    clipped = residual if abs(residual) <= delta else delta * np.sign(residual)
    return 1e-4 - abs(slope(lambda x: huber(x, delta), residual) - clipped)
