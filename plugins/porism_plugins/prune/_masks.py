"""Masks of exactly as many weights as were asked for: one threshold over all matrices, a matrix, or a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import matrix

Scope = Literal["global", "layer", "row"]
Unit = Literal["weight", "row", "column"]

_REMAINING = Parameter("remaining", float, 1.0, low=0.0, low_open=True, high=1.0)
# Above this many numbers a threshold is looked for between two quantiles of a sample.
_SAMPLED_ABOVE = 1 << 18
# Numbers compared at a time on the CPU, so that they are still in its cache.
_CHUNK = 1 << 18


def check_remaining(remaining: float) -> float:
    """The share itself, or a :class:`ParameterError` unless it is in (0, 1]."""
    return float(_REMAINING.validate(remaining))


def kept_count(total: int, remaining: float) -> int:
    """How many of ``total`` weights stay: all but floor(total (1 - remaining)), in exact decimals.

    Examples
    --------
    >>> kept_count(10, 0.8), kept_count(10, 0.81), math.floor(10 * (1 - 0.8))  # floats lose a weight
    (8, 9, 1)
    """
    return math.ceil(Fraction(repr(float(remaining))) * total)


def keep_largest(scores: Tensor, kept: int) -> Tensor:
    """Mask of exactly ``kept`` largest scores, of equal ones those that come first.

    Parameters
    ----------
    scores
        Any shape, floating, without NaN.
    kept
        In [0, scores.numel()].

    Examples
    --------
    >>> keep_largest(torch.tensor([3.0, 1.0, 2.0, 2.0]), 2)
    tensor([ True, False,  True, False])
    """
    flat = scores.detach().reshape(-1)
    if not 0 <= kept <= flat.numel():
        raise ParameterError(f"kept must be in [0, {flat.numel()}], got {kept}")
    if flat.numel() and not bool(flat.sum().isfinite()) and bool(flat.isnan().any()):
        raise ParameterError("scores are NaN; weights or gradients are not finite")
    if kept in (0, flat.numel()):
        return torch.full_like(scores, kept > 0, dtype=torch.bool)
    candidates, above = _candidates(flat, kept)
    rank = kept - above
    threshold = candidates.kthvalue(candidates.numel() - rank + 1).values
    missing = rank - int(torch.count_nonzero(candidates > threshold))
    if missing == int(torch.count_nonzero(candidates == threshold)):
        return (flat >= threshold).view(scores.shape)
    mask = flat > threshold
    mask[(flat == threshold).nonzero()[:missing, 0]] = True
    return mask.view(scores.shape)


def _candidates(flat: Tensor, kept: int) -> tuple[Tensor, int]:
    """Numbers with the ``kept``-th largest and all its equals among them, and how many are larger than all of these."""
    if flat.numel() <= _SAMPLED_ABOVE:
        return flat, 0
    # Two quantiles of an evenly spaced sample almost surely have the threshold between them, and few others.
    sample = flat[:: flat.numel() >> 14].sort().values
    place, spread = (1 - kept / flat.numel()) * len(sample), 2 * len(sample) ** 0.5
    low = sample[max(int(place - spread), 0)]
    high = sample[min(int(place + spread), len(sample) - 1)]
    above, between = 0, []
    for chunk in flat.split(_CHUNK if flat.device.type == "cpu" else flat.numel()):
        above += int(torch.count_nonzero(chunk > high))
        between.append(chunk[(chunk >= low) & (chunk <= high)])
    candidates = torch.cat(between)
    return (candidates, above) if above < kept <= above + candidates.numel() else (flat, 0)


def masks_of(scores: Mapping[str, Tensor], remaining: float, scope: Scope = "global") -> dict[str, Tensor]:
    """Masks by name, of matrices that compete over all of them, within a matrix, or within a row of it.

    Examples
    --------
    >>> masks_of({"a": torch.tensor([[4.0, 1.0]]), "b": torch.tensor([[3.0, 2.0]])}, 0.5)["a"]
    tensor([[ True, False]])
    """
    if scope == "global":
        flat = [score.reshape(-1) for score in scores.values()]
        ranked = flat[0] if len(flat) == 1 else torch.cat([score.to(flat[0].device) for score in flat])
        parts = keep_largest(ranked, kept_count(ranked.numel(), remaining)).split([score.numel() for score in flat])
        return {n: part.view(s.shape).to(s.device) for (n, s), part in zip(scores.items(), parts, strict=True)}
    if scope == "layer":
        return {name: keep_largest(score, kept_count(score.numel(), remaining)) for name, score in scores.items()}
    return {name: _largest_in_rows(score, kept_count(score.shape[1], remaining)) for name, score in scores.items()}


def _largest_in_rows(scores: Tensor, kept: int) -> Tensor:
    if bool(scores.isnan().any()):
        raise ParameterError("scores are NaN; weights or activations are not finite")
    if kept == scores.shape[1]:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(scores.shape[1] - kept + 1, dim=1, keepdim=True).values
    mask, ties = scores > threshold, scores == threshold
    missing = kept - mask.sum(1, keepdim=True)
    return mask | (ties & (ties.cumsum(1) <= missing))


def line_masks(scores: Mapping[str, Tensor], remaining: float, unit: Unit = "row") -> dict[str, Tensor]:
    """Masks of whole rows or columns that compete over all matrices by the mean score of their weights.

    From the largest mean down lines stay as long as they fit: no more than floor(remaining N) of the N weights, and
    fewer by less than the line at which that ended. Of equal lines those that come first stay.

    Examples
    --------
    >>> masks = line_masks({"a": torch.tensor([[4.0, 1.0], [3.0, 3.0]]), "b": torch.tensor([[2.0], [5.0]])}, 0.5)
    >>> [mask[:, 0].tolist() for mask in masks.values()]
    [[False, True], [False, True]]
    """
    axis = 1 if unit == "row" else 0
    means = [s.mean(axis, dtype=torch.promote_types(s.dtype, torch.float32)) for s in scores.values()]
    flat = torch.cat([mean.to(means[0].device) for mean in means])
    if bool(flat.isnan().any()):
        raise ParameterError("scores are NaN; weights or gradients are not finite")
    lengths = torch.cat([torch.full((len(m),), s.shape[axis]) for m, s in zip(means, scores.values(), strict=True)])
    order = flat.argsort(descending=True, stable=True).cpu()
    budget = math.floor(Fraction(repr(float(remaining))) * sum(score.numel() for score in scores.values()))
    stays = torch.zeros(len(lengths), dtype=torch.bool)
    stays[order[lengths[order].cumsum(0) <= budget]] = True
    parts = stays.split([len(mean) for mean in means])
    return {
        n: part.to(s.device).unsqueeze(axis).expand_as(s) for (n, s), part in zip(scores.items(), parts, strict=True)
    }


@torch.no_grad()
def apply_masks(layers: Mapping[str, nn.Module], masks: Mapping[str, Tensor]) -> None:
    """Set the weights outside the masks to zero in place; a layer without a mask is left alone."""
    for name, mask in masks.items():
        matrix(layers[name]).masked_fill_(~mask, 0)
