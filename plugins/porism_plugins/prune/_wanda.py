"""Wanda: the size of a weight times the norm of its input. Sun et al. 2023, arXiv:2306.11695; a baseline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from porism_plugins.prune import _engine as engine


def squares(before: Tensor | None, inputs: Tensor) -> Tensor:
    """Sum of squares of each input, shape (inputs,)."""
    total = inputs.square().sum(0)
    return total if before is None else before + total


def score(weight: Tensor, total: Tensor) -> Tensor:
    """|W_ij| |X_j|, compared within rows."""
    return weight.abs() * total.sqrt().to(weight.device)


def wanda(model: nn.Module, *, remaining: float, calibration: Iterable[Any], **options: Any) -> nn.Module:
    """Prune each row to its largest scores; ``options`` as in :func:`porism_plugins.prune._engine.prune`."""
    calls = {"remaining": remaining, "calibration": calibration, "scope": "row"} | options
    return engine.prune(model, score, accumulate=squares, **calls)
