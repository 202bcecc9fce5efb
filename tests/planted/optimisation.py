"""Planted claims on rates, step sizes and dynamic programming: each false one beside its mended twin."""

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from porism import Paper, always

PAPER = Paper(
    key="planted_optimisation",
    title="Planted claims on optimisation",
    authors=("Ada Author",),
    year=2020,
    ref="arXiv:2001.00001",
    kinds=("simulator",),
    family="planted",
)

Dimension = Annotated[int, Interval(ge=1, le=50)]
Condition = Annotated[float, Interval(ge=1, le=1000)]
Discount = Annotated[float, Interval(ge=0.5, le=0.999)]
States = Annotated[int, Interval(ge=2, le=20)]


def spectrum(condition: float, dimension: int) -> np.ndarray:
    """Curvatures from 1 / condition to 1."""
    return np.linspace(1 / condition, 1, dimension)


@always("The squared gradient is at least twice the mean curvature times the gap", where="true on average")
def gradient_bound(rng, *, dimension: Dimension = 50, condition: Condition = 10.0) -> float:
    curvature, x = spectrum(condition, dimension), rng.normal(size=dimension)
    return np.sum((curvature * x) ** 2) - curvature.mean() * (curvature @ x**2) + 1e-9


@always("The squared gradient is at least twice the smallest curvature times the gap", where="Polyak")
def gradient_bound_mended(rng, *, dimension: Dimension = 50, condition: Condition = 10.0) -> float:
    curvature, x = spectrum(condition, dimension), rng.normal(size=dimension)
    return np.sum((curvature * x) ** 2) - curvature.min() * (curvature @ x**2) + 1e-9


def rate_gap(rng: np.random.Generator, dimension: int, condition: float, steps: int, exponent: int) -> float:
    """By how much k steps of 2 / (L + mu) beat a power of (kappa - 1) / (kappa + 1), in units of the start."""
    curvature, x = spectrum(condition, dimension), rng.normal(size=dimension)
    left = (1 - 2 * curvature / (1 + 1 / condition)) ** steps * x
    return ((condition - 1) / (condition + 1)) ** exponent - np.linalg.norm(left) / np.linalg.norm(x) + 1e-9


@always("k steps contract by the (k + 1)st power of the rate", where="one step too many")
def rate(
    rng,
    *,
    dimension: Dimension = 5,
    condition: Condition = 10.0,
    steps: Annotated[int, Interval(ge=1, le=100)] = 10,
) -> float:
    return rate_gap(rng, dimension, condition, steps, steps + 1)


@always("k steps contract by the kth power of the rate", where="Polyak")
def rate_mended(
    rng,
    *,
    dimension: Dimension = 5,
    condition: Condition = 10.0,
    steps: Annotated[int, Interval(ge=1, le=100)] = 10,
) -> float:
    return rate_gap(rng, dimension, condition, steps, steps)


def descent(rng: np.random.Generator, dimension: int, condition: float, step: float) -> float:
    """By how much one step lowers a quadratic, in units of its value before."""
    curvature, x = spectrum(condition, dimension), rng.normal(size=dimension)
    before, after = curvature @ x**2, curvature @ ((1 - step * curvature) * x) ** 2
    return 1 - after / before + 1e-9


@always("Every step up to 2.02 / L lowers the loss", where="sharpness above two over the step size")
def step_size(
    rng,
    *,
    dimension: Dimension = 5,
    condition: Condition = 10.0,
    step: Annotated[float, Interval(gt=0, le=2.02)] = 1.0,
) -> float:
    return descent(rng, dimension, condition, step)


@always("Every step up to 2 / L lowers the loss", where="the descent lemma")
def step_size_mended(
    rng,
    *,
    dimension: Dimension = 5,
    condition: Condition = 10.0,
    step: Annotated[float, Interval(gt=0, le=2)] = 1.0,
) -> float:
    return descent(rng, dimension, condition, step)


Step = Annotated[int, Interval(ge=0, le=5000)]
Warmup = Annotated[int, Interval(ge=1, le=1000)]


@always("Warm-up never exceeds the peak rate", where="off by one where the warm-up ends")
def warmup_peak(rng, *, step: Step = 0, warmup: Warmup = 100) -> float:
    rate = (step + 1) / warmup if step <= warmup else (warmup / step) ** 0.5
    return 1 - rate + 1e-9


@always("Warm-up never exceeds the peak rate", where="mended")
def warmup_peak_mended(rng, *, step: Step = 0, warmup: Warmup = 100) -> float:
    rate = (step + 1) / warmup if step < warmup else (warmup / step) ** 0.5
    return 1 - rate + 1e-9


def adam_update(gradients: np.ndarray, beta1: float, beta2: float) -> float:
    """Length of the last step of one coordinate in units of the learning rate."""
    age = np.arange(len(gradients))[::-1]
    first, second = beta1**age * (1 - beta1), beta2**age * (1 - beta2)
    first, second = first / first.sum(), second / second.sum()
    return abs(first @ gradients) / np.sqrt(second @ gradients**2)


Beta = Annotated[float, Interval(ge=0.8, le=0.9999)]
Steps = Annotated[int, Interval(ge=1, le=200)]


@always("A step of Adam never exceeds the learning rate", where="untrue after a spike")
def adam(rng, *, beta1: Beta = 0.9, beta2: Beta = 0.999, steps: Steps = 50) -> float:
    return 1 - adam_update(rng.standard_t(3, size=steps), beta1, beta2) + 1e-9


@always("A step of Adam never exceeds what Cauchy and Schwarz allow", where="mended")
def adam_mended(rng, *, beta1: Beta = 0.9, beta2: Beta = 0.999, steps: Steps = 50) -> float:
    age = np.arange(steps)
    first, second = beta1**age, beta2**age
    bound = np.sqrt(np.sum((first / first.sum()) ** 2 / (second / second.sum())))
    return bound - adam_update(rng.standard_t(3, size=steps), beta1, beta2) + 1e-9


def transitions(rng: np.random.Generator, states: int, concentration: float) -> np.ndarray:
    """A stochastic matrix; a low concentration makes it nearly deterministic."""
    drawn = rng.gamma(concentration, size=(states, states)) + 1e-300
    return drawn / drawn.sum(1, keepdims=True)


Concentration = Annotated[float, Interval(ge=0.01, le=10)]


@always("A Bellman operator contracts Euclidean distances", where="the wrong norm")
def contraction(rng, *, states: States = 5, discount: Discount = 0.9, concentration: Concentration = 1.0) -> float:
    apart = rng.normal(size=states)
    after = discount * transitions(rng, states, concentration) @ apart
    return discount * np.linalg.norm(apart) - np.linalg.norm(after) + 1e-9


@always("A Bellman operator contracts largest distances", where="mended")
def contraction_mended(
    rng, *, states: States = 5, discount: Discount = 0.9, concentration: Concentration = 1.0
) -> float:
    apart = rng.normal(size=states)
    after = discount * transitions(rng, states, concentration) @ apart
    return discount * np.abs(apart).max() - np.abs(after).max() + 1e-9


@always("500 sweeps leave one per cent of the error at every discount below one", where="no rate near one")
def sweeps(rng, *, discount: Annotated[float, Interval(ge=0, lt=1)] = 0.9) -> float:
    return 0.01 - discount**500


@always("Five over one minus the discount sweeps leave one per cent of the error", where="mended")
def sweeps_mended(rng, *, discount: Annotated[float, Interval(ge=0, lt=1)] = 0.9) -> float:
    return 0.01 - discount ** np.ceil(5 / (1 - discount))


def bellman_error(rng: np.random.Generator, states: int, discount: float, sweeps: int) -> tuple[float, float]:
    """Distance to the value, and length of the next change, after so many sweeps from zero."""
    matrix, reward = transitions(rng, states, 1.0), rng.normal(size=states)
    value = np.linalg.solve(np.eye(states) - discount * matrix, reward)
    guess = np.zeros(states)
    for _ in range(sweeps):
        guess = reward + discount * matrix @ guess
    change = reward + discount * matrix @ guess - guess
    return np.abs(guess - value).max(), np.abs(change).max()


Sweeps = Annotated[int, Interval(ge=0, le=50)]


@always("The error before a sweep is at most its change times g / (1 - g)", where="the bound of the iterate after")
def stopping(rng, *, states: States = 5, discount: Discount = 0.99, sweeps: Sweeps = 1) -> float:
    error, change = bellman_error(rng, states, discount, sweeps)
    return change * discount / (1 - discount) - error + 1e-9


@always("The error before a sweep is at most its change over 1 - g", where="mended")
def stopping_mended(rng, *, states: States = 5, discount: Discount = 0.99, sweeps: Sweeps = 1) -> float:
    error, change = bellman_error(rng, states, discount, sweeps)
    return change / (1 - discount) - error + 1e-9


def greedy_loss(rng: np.random.Generator, states: int, actions: int, discount: float, error: float) -> float:
    """What acting greedily on values off by at most ``error`` costs, over error * discount / (1 - discount)."""
    matrix = np.stack([transitions(rng, states, 0.2) for _ in range(actions)])
    reward = rng.uniform(size=(actions, states))

    def worth(policy: np.ndarray) -> np.ndarray:
        here = np.arange(states)
        return np.linalg.solve(np.eye(states) - discount * matrix[policy, here], reward[policy, here])

    best = np.zeros(states, dtype=int)
    for _ in range(50):
        best = (reward + discount * matrix @ worth(best)).argmax(0)
    noisy = worth(best) + error * rng.choice([-1.0, 1.0], size=states)
    greedy = (reward + discount * matrix @ noisy).argmax(0)
    return float(np.max(worth(best) - worth(greedy)) * (1 - discount) / (discount * error))


Error = Annotated[float, Interval(ge=0.01, le=1)]


@always("Acting greedily on values off by e costs at most g e / (1 - g)", where="the two lost")
def greedy(
    rng,
    *,
    states: Annotated[int, Interval(ge=2, le=6)] = 4,
    actions: Annotated[int, Interval(ge=2, le=4)] = 3,
    discount: Discount = 0.9,
    error: Error = 0.1,
) -> float:
    return 1 - greedy_loss(rng, states, actions, discount, error) + 1e-9


@always("Acting greedily on values off by e costs at most 2 g e / (1 - g)", where="Singh and Yee")
def greedy_mended(
    rng,
    *,
    states: Annotated[int, Interval(ge=2, le=6)] = 4,
    actions: Annotated[int, Interval(ge=2, le=4)] = 3,
    discount: Discount = 0.9,
    error: Error = 0.1,
) -> float:
    return 2 - greedy_loss(rng, states, actions, discount, error) + 1e-9


Count = Annotated[int, Interval(ge=1, le=1000)]


@always("The sum of n steps 1 / sqrt(k) is at most 2 sqrt(n) - 1.4", where="true from n = 69 on")
def step_sum(rng, *, n: Count = 500) -> float:
    return 2 * np.sqrt(n) - 1.4 - np.sum(np.arange(1, n + 1) ** -0.5) + 1e-9


@always("The sum of n steps 1 / sqrt(k) is at most 2 sqrt(n) - 1", where="mended")
def step_sum_mended(rng, *, n: Count = 500) -> float:
    return 2 * np.sqrt(n) - 1 - np.sum(np.arange(1, n + 1) ** -0.5) + 1e-9


def amplitude(frequency: float, damping: float, steps: int = 1000) -> float:
    """Largest value of a linear oscillator driven by cos(k)."""
    before = now = largest = 0.0
    for k in range(steps):
        before, now = now, 2 * damping * np.cos(frequency) * now - damping**2 * before + np.cos(k)
        largest = max(largest, abs(now))
    return largest


Frequency = Annotated[float, Interval(ge=0.1, le=3)]


@always("Undamped momentum under a periodic gradient stays below 100 for 1000 steps", where="not at resonance")
def resonance(rng, *, frequency: Frequency = 2.0) -> float:
    return 100 - amplitude(frequency, 1.0)


@always("Damped momentum under a periodic gradient stays below 100 for 1000 steps", where="mended")
def resonance_mended(rng, *, frequency: Frequency = 2.0) -> float:
    return 100 - amplitude(frequency, 0.9)


Batch = Annotated[int, Interval(ge=1, le=512)]


def deviations(rng: np.random.Generator, batch: int, micro: int, unbiased: bool, smallest: int) -> np.ndarray:
    """The standard deviation of each micro-batch that is not too small."""
    parts = [part for part in np.split(rng.normal(size=batch), range(micro, batch, micro)) if len(part) >= smallest]
    return np.array([part.std(ddof=int(unbiased)) for part in parts])


@always("Every micro-batch can be normalised", where="not a last one of a single example")
def micro_batches(rng, *, batch: Batch = 64, micro: Literal[8, 16, 32] = 8, unbiased: bool = False) -> float:
    return 1.0 if np.isfinite(deviations(rng, batch, micro, unbiased, 1)).all() else -1.0


@always("Every micro-batch of two or more can be normalised", where="mended")
def micro_batches_mended(rng, *, batch: Batch = 64, micro: Literal[8, 16, 32] = 8, unbiased: bool = False) -> float:
    return 1.0 if np.isfinite(deviations(rng, batch, micro, unbiased, 2)).all() else -1.0
