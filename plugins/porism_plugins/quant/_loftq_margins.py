"""What LoftQ's invariants measure: each function returns how far the worst quantity is inside its tolerance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from porism_plugins.quant import _loftq_experiments as experiments
from porism_plugins.quant._quantisers import Quantiser


def tail(rng: np.random.Generator, *, rows: int, columns: int, rank: int, **options: Any) -> float:
    """The error is the norm of the residual's singular values beyond the rank."""
    weight, rank = experiments.gaussian(rng, rows, columns), min(rank, rows, columns)
    (quantised, lora_B, lora_A), _ = experiments.alternate(weight, rng, rank=rank, **options)
    residual = (weight - quantised.dequantise()).double()
    beyond = torch.linalg.svdvals(residual)[rank:].norm()
    error = (residual - lora_B.double() @ lora_A.double()).norm()
    return float(1e-5 - (error - beyond).abs() / weight.norm())


def equivariance(
    rng: np.random.Generator, *, rows: int, columns: int, rank: int, bits: int, c: float, power: float
) -> float:
    """c W has the codes of W, c times its error, and factors larger by c to the power."""
    weight, rank = experiments.gaussian(rng, rows, columns), min(rank, rows, columns)
    once, scaled = (experiments.alternate(w, rng, bits=bits, rank=rank, rounds=1) for w in (weight, c * weight))
    levels = (scaled.layer.quantised.dequantise() - c * once.layer.quantised.dequantise()).abs().max() / c
    factors = (scaled.layer.lora_A / c**power).norm() - once.layer.lora_A.norm()
    return 1e-4 - max(float(levels), float(factors.abs()), abs(scaled.errors[-1] - once.errors[-1]))


def gram(rng: np.random.Generator, *, rows: int, columns: int, rank: int, bits: int, rounds: int, roots: str) -> float:
    """Both factors have the Gram matrix of the singular values that they explain."""
    weight, rank = experiments.gaussian(rng, rows, columns), min(rank, rows, columns)
    (quantised, lora_B, lora_A), _ = experiments.alternate(weight, rng, bits=bits, rank=rank, rounds=rounds)
    sigma = torch.linalg.svdvals(weight - quantised.dequantise())[:rank]
    if roots == "one side":
        lora_B, lora_A = lora_B * sigma.sqrt(), lora_A / sigma.sqrt().clamp(min=1e-9)[:, None]
    off = [(product - sigma.diag()).abs().max() for product in (lora_B.T @ lora_B, lora_A @ lora_A.T)]
    return float(1e-4 - max(off) / weight.norm())


def repetition(rng: np.random.Generator, *, rows: int, columns: int, zeros: float, **options: Any) -> float:
    """Quantising again changes nothing, and nothing exceeds the largest magnitude; a share of the rows is zero."""
    weight = experiments.gaussian(rng, rows, columns) * torch.from_numpy(rng.random((rows, 1)) >= zeros)
    quantiser = Quantiser(**options)
    once = quantiser.quantise(weight).dequantise()
    change = (quantiser.quantise(once).dequantise() - once).abs().max()
    return float(1e-6 - torch.maximum(change, once.abs().max() - weight.abs().max()))


def another_round(
    rng: np.random.Generator, *, rows: int, columns: int, rank: int, rounds: int, **options: Any
) -> float:
    """By how much the error falls from ``rounds`` to one more, up to rounding."""
    weight, rank = experiments.gaussian(rng, rows, columns), min(rank, rows, columns)
    before, after = (
        experiments.error(weight, experiments.alternate(weight, rng, rank=rank, rounds=number, **options).layer)
        for number in (rounds, rounds + 1)
    )
    return before - after + 1e-6


def rise(rng: np.random.Generator, *, bits: int) -> float:
    """Log of the error after ten rounds over the least; negative if that came before the second round."""
    errors = experiments.alternate(experiments.gaussian(rng), rng, bits=bits, rank=16, rounds=10).errors
    risen = math.log(errors[-1] / min(errors))
    return risen if errors.index(min(errors)) >= 2 else -risen
