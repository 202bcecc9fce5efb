"""What NoWag's claims and figures measure: output errors of single layers on digits, and a trained language model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from porism.surgery import HEADS, input_statistics
from porism.testbeds import corpus, digits, perplexity, tiny_llama, torch_generator, windows
from porism_plugins.quant import _nowag_method as method
from porism_plugins.quant import _nowag_normalise as nw
from porism_plugins.quant._codebooks import Points, weighted_kmeans
from porism_plugins.quant._engine import Layer as Parts
from porism_plugins.quant._engine import Quantiser, QuantizedLinear, chosen, compress_linears

# Rounds of k-means, for every arm alike.
ROUNDS = 40
# Standard deviation of the logarithms of unequal scales.
SPREAD = 1.0
# A language model of characters, one for each seed, trained once for each machine.
MODELS, STEPS, HIDDEN = 3, 300, 64
# What is left out of NoWag-VQ, by the name of what remains.
ABLATIONS = {
    "NoWag-VQ": {}, "weighted only": {"normalised": False}, "normalised only": {"weighted": False},
    "plain k-means": {"normalised": False, "weighted": False},
}  # fmt: skip


class Problem(NamedTuple):
    """A matrix, (out, in); the mean squares of its inputs, (in,); and other inputs to judge by, (n, in)."""

    weight: Tensor
    h: Tensor
    inputs: Tensor


def problem(rng: np.random.Generator, *, rows: float = 0.0, columns: float = 0.0, inputs: str = "digits") -> Problem:
    """A Gaussian matrix of 256 x 64 with log-normal scales of rows and columns, and pixels of digits or noise."""
    weight = rng.normal(size=(256, 64)) * np.exp(rows * rng.normal(size=(256, 1)) + columns * rng.normal(size=64))
    if inputs == "digits":
        data = digits(rng, train=300, validation=0)
        seen, judged = data.x_train, data.x_test
    else:
        seen, judged = rng.normal(size=(300, 64)), rng.normal(size=(1000, 64))
    found = (torch.from_numpy(np.asarray(array, np.float32)) for array in (weight, np.square(seen).mean(0), judged))
    return Problem(*found)


def quantised(
    one: Problem, rng: np.random.Generator, *, bits: int = 2, subvector: int = 4, weighted: bool = True, **options: Any
) -> Tensor:
    """The matrix after vector quantisation; ``options`` are ``normalised`` and ``objective``."""
    h = one.h if weighted else torch.ones_like(one.h)
    generator = torch_generator(copy.deepcopy(rng))
    return method.quantised(
        one.weight, h, subvector=subvector, code_bits=bits * subvector, generator=generator, iterations=ROUNDS,
        **options,
    ).weight  # fmt: skip


def output_error(one: Problem, found: Tensor) -> float:
    """Norm of the error of the outputs over that of the outputs."""
    return float((one.inputs @ (one.weight - found).T).norm() / (one.inputs @ one.weight.T).norm())


def row_error(one: Problem, found: Tensor) -> float:
    """Mean over outputs of the relative error of each."""
    errors, sizes = ((one.inputs @ matrix.T).norm(dim=0) for matrix in (one.weight - found, one.weight))
    return float((errors / sizes).mean())


def log_error(
    one: Problem,
    rng: np.random.Generator,
    *,
    measure: Callable[[Problem, Tensor], float] = output_error,
    **options: Any,
) -> float:
    """Logarithm of the error of :func:`quantised`."""
    return math.log(measure(one, quantised(one, rng, **options)))


def gain_of_eight(rng: np.random.Generator, *, init: str) -> float:
    """Log ratio of the losses from random centres and from ``init`` that 8 of 10 pairs of runs reach: the third least.

    It is positive where the loss from ``init`` is the lower one in 8 pairs or more.
    """
    one = problem(rng, rows=SPREAD)
    points = Points(nw.normalise(one.weight).matrix.reshape(-1, 4), nw.floored(one.h).view(-1, 4))

    def loss(start: str) -> float:
        return weighted_kmeans(points, 256, torch_generator(rng), iterations=ROUNDS, init=start).losses[-1]

    return sorted(math.log(loss("random") / loss(init)) for _ in range(10))[2]


# From a matrix and the mean squares of its inputs to scores, and where these are compared.
SCORES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "NoWag-P": (lambda weight, h: nw.scores(weight, h, "normalised"), "unstructured"),
    "NoWag-P, objective output": (lambda weight, h: nw.scores(weight, h, "output"), "unstructured"),
    "Wanda": (lambda weight, h: weight.abs() * h.sqrt(), "row"),
    "magnitude": (lambda weight, h: weight.abs(), "unstructured"),
    "at random": (lambda weight, h: torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)), "row"),
}


def mask(weight: Tensor, h: Tensor, by: str, share: float) -> Tensor:
    """Of the weights that stay by one of :data:`SCORES`."""
    score, pattern = SCORES[by]
    return nw.mask(score(weight, h), share, pattern)


def pruned_error(one: Problem, by: str, share: float = 0.5) -> float:
    """Logarithm of the mean relative error of outputs after pruning."""
    return math.log(row_error(one, one.weight * mask(one.weight, one.h, by, share)))


class Language(NamedTuple):
    """A trained model, the mean squares of its layers' inputs, and text that neither has seen."""

    model: nn.Module
    moments: dict[str, Tensor]
    text: np.ndarray

    def perplexity(self, fit: Callable[[str, Tensor, Tensor], nn.Module] | None = None) -> float:
        """Of the model, with its layers but the head replaced by ``fit(name, weight, h)`` if given."""
        model = copy.deepcopy(self.model)
        if fit:
            compress_linears(model, lambda name, weight: fit(name, weight, self.moments[name]))
        return perplexity(model, self.text)


def language(rng: np.random.Generator) -> Language:
    """One of :data:`MODELS` models, calibrated on 8 random windows and judged by 4,096 characters, both drawn anew."""
    text = corpus(np.random.default_rng(0))
    model = tiny_llama(text.train, seed=int(rng.integers(MODELS)), hidden=HIDDEN, steps=STEPS)
    layers = chosen(model, include=["*"], exclude=HEADS)
    batch = torch.from_numpy(windows(rng, text.validation, batch=8)).long()
    sums = input_statistics(model, layers, [batch], method.squares)
    moments = {name: sums[name][:-1] / sums[name][-1] for name in layers}
    return Language(model, moments, windows(rng, text.test, batch=32).reshape(-1))


def pruned_perplexity(one: Language, by: str, share: float = 0.5) -> float:
    """After each matrix was pruned by one of :data:`SCORES`."""
    return one.perplexity(lambda name, weight, h: method.pruned(weight, mask(weight, h, by, share)))


def quantised_perplexity(
    one: Language, rng: np.random.Generator, *, bits: int = 2, subvector: int = 2, **options: Any
) -> tuple[float, float]:
    """Perplexity and bits of a weight, codebooks and scales included, with options of :func:`quantised`."""
    sizes = []

    def fit(name: str, weight: Tensor, h: Tensor) -> nn.Module:
        h = h if options.get("weighted", True) else torch.ones_like(h)
        rest = {key: value for key, value in options.items() if key != "weighted"}
        layer = method.quantised(
            weight, h, subvector=subvector, code_bits=bits * subvector, generator=torch_generator(copy.deepcopy(rng)),
            iterations=ROUNDS, **rest,
        )  # fmt: skip
        sizes.append((8 * layer.nbytes(), weight.numel()))
        return layer

    return one.perplexity(fit), _bits(sizes)


def scalar_perplexity(one: Language, bits: int) -> tuple[float, float]:
    """The same of NormalFloat in blocks of 64."""
    sizes = []

    def fit(name: str, weight: Tensor, h: Tensor) -> nn.Module:
        layer = QuantizedLinear.of(Parts(Quantiser(bits=bits).quantise(weight)))
        sizes.append((8 * layer.nbytes(), weight.numel()))
        return layer

    return one.perplexity(fit), _bits(sizes)


def _bits(sizes: list[tuple[int, int]]) -> float:
    return sum(bits for bits, _ in sizes) / sum(weights for _, weights in sizes)
