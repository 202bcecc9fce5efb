"""What NoWag's invariants measure: each function returns how far the worst quantity is inside its tolerance."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from porism.testbeds import torch_generator
from porism_plugins.quant import _codebooks as books
from porism_plugins.quant import _nowag_method as method
from porism_plugins.quant import _nowag_normalise as nw


def _gaussian(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


def round_trip(rng: np.random.Generator, *, rows: int, columns: int, spread: float, dropped: str) -> float:
    """Denormalising gives the matrix back, and rows have unit norm; the control forgets one of the scales."""
    scales = torch.exp(spread * _gaussian(rng, rows, 1)) * torch.exp(spread * _gaussian(rng, columns))
    weight = _gaussian(rng, rows, columns) * scales
    one = nw.normalise(weight)
    norms = one.matrix.norm(dim=1) * (one.rows / (one.rows - nw.EPSILON))
    if dropped == "rows":
        one = one._replace(rows=torch.ones_like(one.rows))
    error = (nw.denormalise(one) - weight).abs() / weight.abs().clamp(min=1e-30)
    return float(1e-5 - torch.maximum(error.max(), (norms - 1).abs().max()))


def scaling(rng: np.random.Generator, *, rows: int, columns: int, factor: float, parts: list[str]) -> float:
    """The normalised matrix before and after each of some parts of the matrix was multiplied by ``factor``."""
    weight, worst = _gaussian(rng, rows, columns), 0.0
    before = nw.normalise(weight).matrix
    for name in parts:
        scaled = weight.clone()
        part = {"matrix": scaled, "column": scaled[:, 0], "row": scaled[0]}[name]
        part *= factor
        worst = max(worst, float((nw.normalise(scaled).matrix - before).abs().max()))
    return 1e-3 - worst


def counts(rng: np.random.Generator, *, rows: int, groups: int, remaining: float, levels: int, rule: str) -> float:
    """Half a weight, minus what a count misses, over the matrix, in rows and in 2:4, with weights that are often equal.

    The control keeps whatever reaches the threshold, as masks by comparison do.
    """
    worth = torch.from_numpy(rng.integers(levels, size=(rows, 4 * groups)).astype(np.float32))
    total, kept = worth.numel(), nw.kept_count(worth.numel(), remaining)
    whole = nw.mask(worth, remaining, "unstructured")
    if rule == "threshold":
        whole = worth >= worth.flatten().sort(descending=True).values[kept - 1]
    inside = nw.mask(worth, remaining, "row").sum(1) - nw.kept_count(4 * groups, remaining)
    pairs = nw.mask(worth, 0.5, "2:4").view(-1, 4).sum(1) - 2
    best = worth[whole].sum() - worth.flatten().topk(min(int(whole.sum()), total)).values.sum()
    return 0.5 - max(abs(int(whole.sum()) - kept), int(inside.abs().max()), int(pairs.abs().max()), float(best.abs()))


def descent(rng: np.random.Generator, *, count: int, d: int, k: int, spread: float, update: str) -> float:
    """The least fall of the loss from a round to the next, over the loss of zeros; the control takes plain means."""
    points = books.Points(_gaussian(rng, count, d), torch.exp(spread * _gaussian(rng, count, d)))
    plain = books.Points(points.vectors, torch.ones_like(points.weights))
    if update == "weighted":
        losses = books.weighted_kmeans(points, k, torch_generator(rng), iterations=20).losses
    else:
        codebook, codes, losses = points.vectors[:k].clone(), torch.full((count,), -1, dtype=torch.int32), ()
        for _ in range(20):
            costs = books._assign(points, codebook, codes)[1]
            losses = (*losses, float(costs.sum()))
            codebook = books._means(plain, codes, codebook)
    falls = [before - after for before, after in itertools.pairwise(losses)]
    return min(falls, default=0.0) / float((points.weights * points.vectors.square()).sum()) + 1e-5


def units_of_inputs(rng: np.random.Generator, *, rows: int, exponent: int, change: str) -> float:
    """Half an entry, minus the masks and codes that depend on the unit of the inputs, a power of two."""
    weight, h, c = _gaussian(rng, rows, 8), torch.exp(_gaussian(rng, 8)), 2.0**exponent
    found = []
    for moments in (h, c * h if change == "times" else c + h):
        mask = nw.mask(nw.scores(weight, moments, "normalised"), 0.5, "unstructured")
        generator = torch.Generator().manual_seed(0)
        layer = method.quantised(weight, moments, subvector=2, code_bits=3, generator=generator)
        found.append(torch.cat([mask.flatten(), layer.codes]))
    return 0.5 - int((found[0] != found[1]).sum())


def enough_codes(rng: np.random.Generator, *, distinct: int, copies: int, spare: int, start: str) -> float:
    """What is lost with as many centres as there are distinct vectors, or more; the control reseeds none."""
    order = torch.from_numpy(rng.permutation((copies + 1) * distinct))
    vectors = _gaussian(rng, distinct, 3).repeat(copies + 1, 1)[order]
    weights = torch.exp(_gaussian(rng, len(vectors), 3))
    k, careless = min(distinct + spare, len(vectors)), start == "random, none reseeded"
    options = {"init": "random", "reseed": False} if careless else {}
    loss = books.weighted_kmeans(books.Points(vectors, weights), k, torch_generator(rng), **options).losses[-1]
    return 1e-6 - loss


def size(rng: np.random.Generator, *, outputs: int, groups: int, subvector: int, bits: int, stored: str) -> float:
    """How near the bytes of a layer are to (log2 k) / d for each weight, 16 k d, and 16 for each row and column."""
    weight = _gaussian(rng, outputs, groups * subvector)
    layer = method.quantised(
        weight, torch.ones(weight.shape[1]), subvector=subvector, code_bits=bits * subvector, iterations=1,
        generator=torch_generator(rng), init="random",
    )  # fmt: skip
    k = 2 ** (bits * subvector)
    theory = bits * weight.numel() + 16 * k * subvector + 16 * sum(weight.shape)
    unpacked = 16 * layer.count - 8 * layer.codes.nbytes if stored == "16-bit codes" else 0
    return 0.02 - abs((8 * layer.nbytes() + unpacked) / theory - 1)
