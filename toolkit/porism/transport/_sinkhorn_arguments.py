"""What the functions of entropic transport accept, brought to float64 weights and a batch of problems."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from porism.arrays import check_count, check_finite, check_number, floating
from porism.errors import ParameterError

# Above this multiple of the largest cost a value in float64 is rounding of the regularisation.
_LARGEST_EPSILON = 1e12
# Sums of costs beyond this may overflow.
_LARGEST_COST = 1e300


def tensors(**arrays: Any) -> tuple[bool, tuple[Any, ...]]:
    """Whether the arguments are numpy's, and all of them as tensors that share memory with them."""
    _, values = floating(optional=("a", "b"), **arrays)
    numpy = any(isinstance(value, np.ndarray) for value in values)
    if not numpy:
        return False, values
    return True, tuple(None if v is None else torch.from_numpy(np.require(v, requirements=["C", "W"])) for v in values)


def weights(name: str, given: Tensor | None, batch: tuple[int, ...], like: Tensor, *, sum_to_one: bool) -> Tensor:
    """Weights (B, size) in float64; uniform ones of sum one for None."""
    size = like.shape[-1]
    if given is None:
        return torch.full((math.prod(batch), size), 1 / size, dtype=torch.float64, device=like.device)
    if given.ndim == 0 or given.shape[-1] != size:
        raise ParameterError(f"{name} must have {size} entries on its last axis, its shape is {tuple(given.shape)}")
    values = given.detach()
    check_finite(**{name: values})
    if bool((values < 0).any()):
        raise ParameterError(f"{name} must not be negative")
    try:
        wide = given.double().expand(*batch, size).reshape(-1, size)
    except RuntimeError:
        shapes = f"{tuple(given.shape)} and {(*batch, size)}"
        raise ParameterError(f"{name} does not broadcast to the batch: shapes {shapes}") from None
    total = wide.detach().sum(-1)
    if not bool((total > 0).all()):
        raise ParameterError(f"{name} sums to zero")
    if sum_to_one:
        worst = float(total[(total - 1).abs().argmax()])
        if abs(worst - 1) > max(1e-6, 8 * torch.finfo(given.dtype).eps):
            raise ParameterError(f"{name} must sum to 1 along its last axis, a sum is {worst:.6g}")
        wide = wide / total.unsqueeze(1)  # what float32 left
    return wide


def cost_batch(cost: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """The leading axes, and the cost as (B, n, m)."""
    if cost.ndim < 2 or 0 in cost.shape:
        raise ParameterError(f"cost must have shape (..., n, m) and not be empty, its shape is {tuple(cost.shape)}")
    if not float(cost.detach().amin()) > -math.inf:  # false for NaN
        raise ParameterError("cost must not contain NaN or -inf; inf forbids a pair")
    return tuple(cost.shape[:-2]), cost.reshape(-1, *cost.shape[-2:])


def points(x: Tensor, y: Tensor) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """The common leading axes, and both samples as (B, n, d) and (B, m, d)."""
    for name, value in (("x", x), ("y", y)):
        if value.ndim < 2 or 0 in value.shape:
            raise ParameterError(f"{name} must have shape (..., n, d), not empty, its shape is {tuple(value.shape)}")
        check_finite(**{name: value.detach()})
        if not bool(value.detach().square().sum(-1).isfinite().all()):
            raise ParameterError(f"{name} has points whose squared length overflows {value.dtype}; rescale them")
    if x.shape[-1] != y.shape[-1]:
        raise ParameterError(f"x has points of dimension {x.shape[-1]}, y of dimension {y.shape[-1]}")
    try:
        batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ParameterError(f"the leading axes of x and y do not broadcast: shapes {shapes}") from None
    return batch, *(v.expand(*batch, *v.shape[-2:]).reshape(-1, *v.shape[-2:]) for v in (x, y))  # type: ignore[return-value]


def check_allowed(cost: Tensor, a: Tensor, b: Tensor, epsilon: float) -> None:
    """Every point with weight needs a partner with weight, and epsilon must leave something of the costs."""
    lowest, highest = (float(end) for end in torch.aminmax(cost))
    limited = highest == math.inf
    if limited:
        highest = float(cost.masked_fill(cost.isinf(), lowest).amax())
    largest = check_number("the largest cost", max(-lowest, highest), at_most=_LARGEST_COST)
    if 0 < largest < epsilon / _LARGEST_EPSILON:
        raise ParameterError(f"epsilon must be at most 1e12 times the largest cost, {largest:g}, got {epsilon:g}")
    if not limited:
        return
    forbidden = cost.isinf()
    rows = (forbidden | (b == 0).unsqueeze(1)).all(2) & (a > 0)
    columns = (forbidden | (a == 0).unsqueeze(2)).all(1) & (b > 0)
    for name, bad in (("row", rows), ("column", columns)):
        if bool(bad.any()):
            raise ParameterError(f"cost is inf for every pair of {name} {int(bad.nonzero()[0, 1])}, which has weight")


def penalties(unbalanced: Any) -> tuple[float, float]:
    """The strengths of both marginals' penalties; infinity is a hard constraint."""
    if unbalanced is None:
        return math.inf, math.inf
    pair = unbalanced if isinstance(unbalanced, tuple) else (unbalanced, unbalanced)
    if len(pair) != 2:
        raise ParameterError(f"unbalanced must be a positive number, a pair of these or None, got {unbalanced!r:.80}")
    return check_number("unbalanced", pair[0], above=0), check_number("unbalanced", pair[1], above=0)


def check_options(epsilon: Any, iterations: Any, tolerance: Any, gradient: Any) -> tuple[float, int, float]:
    """The regularisation, the number of iterations and the tolerance; every option in its range."""
    if gradient not in ("implicit", "unroll"):
        raise ParameterError(f"gradient must be 'implicit' or 'unroll', got {gradient!r}")
    return (
        check_number("epsilon", epsilon, above=0, below=math.inf),
        check_count("iterations", iterations, 1),
        check_number("tolerance", tolerance, at_least=0),
    )
