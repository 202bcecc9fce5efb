"""Planted comparisons: each false one beside its mended twin."""

from typing import Literal

import numpy as np

from porism import Paired, Paper, paired, typically

PAPER = Paper(
    key="planted_experiments",
    title="Planted comparisons",
    authors=("Ada Author",),
    year=2020,
    ref="arXiv:2001.00001",
    kinds=("simulator",),
    family="planted",
)

Switch = Literal["on", "off"]
OFF = {"method": "off"}


def shrunk_error(rng: np.random.Generator, factor: float, length: float = 1.0) -> float:
    """Squared error of a shrunken observation of a mean in 20 dimensions."""
    mean = np.full(20, length / np.sqrt(20))
    return float(np.sum((factor * (mean + rng.normal(size=20)) - mean) ** 2))


def shrinking(rng: np.random.Generator, method: str, factor: float, length: float = 1.0) -> Paired:
    ours = {"factor": factor if method == "on" else 1.0, "length": length}
    return paired(shrunk_error, rng, ours=ours, theirs={"factor": 1.0, "length": length}, better="lower")


@typically("Shrinking lowers the error", where="a factor of one shrinks nothing", control=OFF, scale="toy")
def no_effect(rng, *, method: Switch = "on") -> Paired:
    return shrinking(rng, method, 1.0)


@typically("Shrinking lowers the error", where="mended", control=OFF, scale="toy")
def no_effect_mended(rng, *, method: Switch = "on") -> Paired:
    return shrinking(rng, method, 0.5)


@typically("Shrinking lowers the error far from zero", where="the wrong sign", control=OFF, scale="toy")
def wrong_sign(rng, *, method: Switch = "on") -> Paired:
    return shrinking(rng, method, 0.5, 20.0)


@typically("Shrinking lowers the error close to zero", where="mended", control=OFF, scale="toy")
def wrong_sign_mended(rng, *, method: Switch = "on") -> Paired:
    return shrinking(rng, method, 0.5, 0.2)


@typically("Shrinking by 1 % lowers the error by 1", where="by 0.4", control=OFF, at_least=1.0, scale="toy")
def too_small(rng, *, method: Switch = "on") -> Paired:
    return shrinking(rng, method, 0.99)


@typically("Shrinking by 1 % lowers the error by 0.1", where="mended", control=OFF, at_least=0.1, scale="toy")
def too_small_mended(rng, *, method: Switch = "on") -> Paired:
    return shrinking(rng, method, 0.99)


def with_normaliser(rng: np.random.Generator, method: str, normalise: bool) -> float:
    """A method whose normaliser does the work, compared with neither."""
    error = 1.0 - 0.5 * normalise - 0.2 * (method == "on")
    return 1.0 - error + 0.05 * rng.normal()


@typically("The method lowers the error", where="its normaliser does", control=OFF, at_least=0.1, scale="toy")
def in_the_control_too(rng, *, method: Switch = "on") -> float:
    return with_normaliser(rng, method, normalise=True)


@typically("The method lowers the error", where="mended", control=OFF, at_least=0.1, scale="toy")
def in_the_control_too_mended(rng, *, method: Switch = "on") -> float:
    return with_normaliser(rng, method, normalise=False)


def best_of(rng: np.random.Generator, seeds: int, gain: float) -> float:
    return float(np.max(gain + rng.normal(size=seeds)))


@typically("The tuned method wins", where="the best of ten seeds against one", control=OFF, scale="toy")
def best_seed(rng, *, method: Switch = "on") -> Paired:
    return Paired(best_of(rng, 10, 0.0), best_of(rng, 1, 0.0))


@typically("The tuned method wins", where="mended: ten seeds each, and better", control=OFF, scale="toy")
def best_seed_mended(rng, *, method: Switch = "on") -> Paired:
    return Paired(best_of(rng, 10, 3.0 if method == "on" else -3.0), best_of(rng, 10, 0.0))


@typically("The lottery pays", where="on average, not typically", control=OFF, scale="toy")
def lottery(rng, *, method: Switch = "on") -> float:
    return 10.0 * (rng.random() < 0.15) - 1.0 if method == "on" else -1.0


@typically("The insurance pays", where="mended: typically, not on average", control=OFF, scale="toy")
def lottery_mended(rng, *, method: Switch = "on") -> float:
    return 1.0 - 10.0 * (rng.random() < 0.15) if method == "on" else -1.0


@typically("One seed beats another", where="a coin decides", control=OFF, scale="toy")
def coin(rng, *, method: Switch = "on") -> float:
    return rng.normal() if method == "on" else -1.0


@typically("One seed beats another", where="mended: a biased coin", control=OFF, scale="toy")
def coin_mended(rng, *, method: Switch = "on") -> float:
    return 1.5 + rng.normal() if method == "on" else -1.0


@typically("The method helps", where="in four replicates of ten", control=OFF, scale="toy")
def sometimes(rng, *, method: Switch = "on") -> float:
    return float(rng.random() < 0.4) - 0.5 if method == "on" else -1.0


@typically("The method helps", where="mended: in nine of ten", control=OFF, scale="toy")
def sometimes_mended(rng, *, method: Switch = "on") -> float:
    return float(rng.random() < 0.9) - 0.5 if method == "on" else -1.0
