"""The temperature that solves the constrained problem exactly, one number for each row of logits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from porism.errors import ParameterError

# Numbers of a chunk of rows: what is computed from it fits the cache of a large core, and is little beside any model.
CHUNK = 1 << 20
MOST_STEPS = 80


def optimal_temperature(logits: Tensor, rho: float, *, tau_min: float = 0.01, tau_max: float = 2.0) -> Tensor:
    """The minimiser of tau log mean_j exp(z_j / tau) + tau rho in [tau_min, tau_max], for each row z.

    Its derivative is rho - KL(softmax(z / tau) || uniform), which grows with tau: inside the bounds the root makes
    the entropy of softmax(z / tau) log V - rho. Newton's method on log tau, kept in a bracket that only shrinks.

    Parameters
    ----------
    logits
        Shape (..., V), any floating dtype. A class whose logit is -inf does not exist: V counts the others.
    rho
        Largest KL divergence from uniform, positive. From log V on there is nothing to constrain: tau_min.
    tau_min, tau_max
        Bounds, 0 < tau_min <= tau_max.

    Returns
    -------
    Tensor
        float64 of shape (...), without a gradient.

    Raises
    ------
    ParameterError
        For a rho or bounds out of range, and logits with NaN, +inf, or a row without a class.

    Examples
    --------
    >>> optimal_temperature(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), 0.3)  # twice the logits, twice the temperature
    tensor([0.5349, 1.0697], dtype=torch.float64)
    """
    check_bounds(tau_min, tau_max)
    check_positive("rho", rho)
    check_floating("logits", logits)
    flat = logits.detach().reshape(-1, logits.shape[-1])
    found = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
    for part in chunks(flat):
        found[part] = _solve(flat[part].double(), rho, tau_min, tau_max)
    return found.reshape(logits.shape[:-1])


def chunks(flat: Tensor, rows: int | None = None) -> Iterator[slice]:
    """Slices of 0, 1, ..., rows - 1, so many rows at a time of a matrix as :data:`CHUNK` allows."""
    rows, step = len(flat) if rows is None else rows, max(1, CHUNK // flat.shape[-1])
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def check_bounds(tau_min: float, tau_max: float) -> None:
    """Refuse bounds that are no interval of positive numbers."""
    if not 0 < tau_min <= tau_max < math.inf:
        raise ParameterError(f"tau_min and tau_max must satisfy 0 < tau_min <= tau_max, got {tau_min} and {tau_max}")


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ParameterError(f"{name} must be positive and finite, got {value!r}")


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is no (..., V) with V >= 1 of floats."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise ParameterError(f"{name} must be a floating tensor, got {getattr(tensor, 'dtype', type(tensor).__name__)}")
    if tensor.dim() == 0 or tensor.shape[-1] == 0:
        raise ParameterError(f"{name} must have shape (..., V) with V >= 1, got {tuple(tensor.shape)}")


def _solve(z: Tensor, rho: float, tau_min: float, tau_max: float) -> Tensor:
    if z.isnan().any() or z.isposinf().any() or z.isneginf().all(-1).any():
        raise ParameterError("logits must hold no NaN and no inf, and a finite number in every row")
    z = z - z.amax(-1, keepdim=True)
    low, high = (torch.full_like(z[:, 0], math.log(tau)) for tau in (tau_min, tau_max))
    at_low, at_high = _excess(z, low, rho)[0] <= 0, _excess(z, high, rho)[0] >= 0
    x, inside = (low + high) / 2, ~(at_low | at_high)
    for _ in range(MOST_STEPS):
        excess, slope = _excess(z, x, rho)
        low, high = torch.where(excess > 0, x, low), torch.where(excess > 0, high, x)
        step = x - excess / slope
        new = torch.where((step > low) & (step < high), step, (low + high) / 2)  # False where a step is NaN
        moved, x = (new - x).abs() * inside, new
        if not bool((moved > 1e-12).any()):  # Newton's next step would be the square of this one
            break
    tau = torch.where(at_low, tau_min, torch.where(at_high, tau_max, x.exp()))
    return tau.clamp(tau_min, tau_max)


def _excess(z: Tensor, log_tau: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """KL(softmax(z / tau) || uniform) - rho for rows z with maximum 0, and its derivative in log tau."""
    scaled = z / log_tau.exp()[:, None]
    q, exponent = scaled.softmax(-1), scaled.clamp_min(-1e300)  # 0 times -inf would be NaN
    mean = (q * exponent).sum(-1)
    variance = (q * (exponent - mean[:, None]).clamp_min(-1e150).square()).sum(-1)
    return mean - scaled.logsumexp(-1) + (z > -math.inf).sum(-1).double().log() - rho, -variance
