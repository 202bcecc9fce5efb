"""The small networks that say a temperature for each row of logits, or for each feature vector."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from porism.errors import ParameterError
from porism_plugins.tune._tempnet_temperature import check_bounds, check_floating, chunks


class _Bounded(nn.Module):
    """Keeps bounds beside the state, as floats that no cast can round, and maps any number into them."""

    def __init__(self, tau_min: float, tau_max: float) -> None:
        super().__init__()
        check_bounds(tau_min, tau_max)
        self.tau_min, self.tau_max = float(tau_min), float(tau_max)

    def get_extra_state(self) -> Tensor:
        """The bounds: weights learned for one interval mean something else in another."""
        return torch.tensor([self.tau_min, self.tau_max], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the bounds of a saved network."""
        self.tau_min, self.tau_max = state.tolist()

    def _bounded(self, q: Tensor) -> Tensor:
        tau = (self.tau_max - self.tau_min) * q.sigmoid() + self.tau_min
        return tau.clamp(self.tau_min, self.tau_max)


class LogitTempNet(_Bounded):
    """Temperatures from logits: TempNet for language models and classifiers.

    The logits less their maximum, scaled to norm 1 and detached, pass a hidden layer of sigmoids and a linear one, h.
    The temperature is (tau_max - tau_min) sigmoid(a'((w - 1/H) h) + b) + tau_min with w = softmax(h / exp(kappa)).

    Parameters
    ----------
    classes
        V, the last axis of the logits.
    hidden
        H.
    tau_min, tau_max
        Bounds of the temperatures; they travel with the state dict.
    dropout
        After the sigmoids, in training only; 0.5 as published.
    scale
        Not in the paper: let the network see the norm, which scaling to norm 1 hides although the best temperature is
        proportional to it. Adds ``k log norm`` inside the last sigmoid, with a learnable k that starts at 0.

    Raises
    ------
    ParameterError
        For options out of range, and logits that are not floating or of another number of classes.

    Examples
    --------
    >>> LogitTempNet(10)(torch.zeros(4, 10)).shape
    torch.Size([4])
    """

    def __init__(
        self, classes: int, *, hidden: int = 256, tau_min: float = 0.01, tau_max: float = 2.0, dropout: float = 0.5,
        scale: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(tau_min, tau_max)
        _check_sizes(dropout, classes=classes, hidden=hidden)
        self.classes = classes
        self.project, self.mix = nn.Linear(classes, hidden), nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.log_sharpness = nn.Parameter(torch.zeros(()))
        self.weight, self.bias = nn.Parameter(torch.ones(hidden)), nn.Parameter(torch.zeros(()))
        self.scale = nn.Parameter(torch.zeros(())) if scale else None

    def forward(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Temperatures of shape (...) for logits (..., V), at least float32; of the ``rows`` of a matrix if given.

        No copy of the logits is kept for the backward pass, which goes to the network alone.
        """
        check_floating("logits", logits)
        if logits.shape[-1] != self.classes:
            raise ParameterError(f"logits must have {self.classes} classes, got shape {tuple(logits.shape)}")
        flat = logits.detach().reshape(-1, self.classes)
        with torch.autocast(flat.device.type, enabled=False):
            projected, norm = _Project.apply(flat, self.project.weight, rows)
            dtype = projected.dtype
            h = self.dropout((projected + self.project.bias.to(dtype)).sigmoid())
            h = F.linear(h, self.mix.weight.to(dtype), self.mix.bias.to(dtype))
            centred = (h / self.log_sharpness.to(dtype).exp()).softmax(-1) - 1 / h.shape[-1]
            q = (centred * h) @ self.weight.to(dtype) + self.bias.to(dtype)
            if self.scale is not None:
                q = q + self.scale.to(dtype) * norm.clamp_min(1e-6).log()
            tau = self._bounded(q)
        return tau if rows is not None else tau.reshape(logits.shape[:-1])


class FeatureTempNet(_Bounded):
    """Temperatures from features: TempNet for contrastive learning, one network for each side.

    Features, detached, pass a linear layer and sigmoids; p are their inner products with normalised prototypes. The
    temperature is (tau_max - tau_min) sigmoid(a'((w - 1/P) sigmoid(p)) + b) + tau_min with w = softmax(p / exp(kappa)).

    Parameters
    ----------
    width
        d, the last axis of the features.
    prototypes
        P.
    tau_min, tau_max, dropout
        As for :class:`LogitTempNet`.

    Raises
    ------
    ParameterError
        For options out of range, and features that are not floating or of another width.

    Examples
    --------
    >>> FeatureTempNet(8)(torch.zeros(4, 8)).shape
    torch.Size([4])
    """

    def __init__(
        self, width: int, *, prototypes: int = 256, tau_min: float = 0.005, tau_max: float = 0.05,
        dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__(tau_min, tau_max)
        _check_sizes(dropout, width=width, prototypes=prototypes)
        self.project, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)
        self.prototypes = nn.Parameter(torch.randn(prototypes, width))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(0.01)))
        self.weight, self.bias = nn.Parameter(torch.ones(prototypes)), nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Temperatures of shape (...) for features (..., d), at least float32."""
        check_floating("features", features)
        if features.shape[-1] != self.prototypes.shape[-1]:
            raise ParameterError(
                f"features must have width {self.prototypes.shape[-1]}, got shape {tuple(features.shape)}"
            )
        dtype = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            weight, bias = self.project.weight.to(dtype), self.project.bias.to(dtype)
            hidden = self.dropout(F.linear(features.detach().to(dtype), weight, bias).sigmoid())
            p = hidden @ F.normalize(self.prototypes.to(dtype), dim=-1).T
            centred = (p / self.log_sharpness.to(dtype).exp()).softmax(-1) - 1 / p.shape[-1]
            return self._bounded((centred * p.sigmoid()) @ self.weight.to(dtype) + self.bias.to(dtype))


class _Project(torch.autograd.Function):
    """Normalised logits times a matrix, chunk after chunk; the normalised logits are made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, weight: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        count = len(logits) if rows is None else len(rows)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        out, norms = logits.new_empty(count, len(weight), dtype=dtype), logits.new_empty(count, dtype=dtype)
        matrix = weight.to(dtype).T
        for part in chunks(logits, count):
            unit, norms[part] = _unit(logits[part if rows is None else rows[part]])
            torch.mm(unit, matrix, out=out[part])
        ctx.save_for_backward(logits, weight, rows)
        ctx.mark_non_differentiable(norms)
        return out, norms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[None, Tensor, None]:
        logits, weight, rows = ctx.saved_tensors
        total = torch.zeros_like(weight, dtype=gradient.dtype)
        for part in chunks(logits, len(gradient)):
            total.addmm_(gradient[part].T, _unit(logits[part if rows is None else rows[part]])[0])
        return None, total.to(weight.dtype), None


def _unit(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less their maximum, over their norm, and the norm; -inf counts as the row's smallest number."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    z = z - z.amax(-1, keepdim=True)
    z = torch.maximum(z, z.masked_fill(z.isneginf(), 0).amin(-1, keepdim=True))
    norm = z.norm(dim=-1)
    return z / norm.clamp_min(1e-12)[:, None], norm


def _check_sizes(dropout: float, **sizes: int) -> None:
    if not 0 <= dropout < 1:
        raise ParameterError(f"dropout must be in [0, 1), got {dropout}")
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ParameterError(f"{name} must be an integer of at least 1, got {size!r}")
