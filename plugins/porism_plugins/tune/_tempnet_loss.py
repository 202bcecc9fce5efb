"""The robust loss of logits at a temperature for each row, without a second tensor of their size."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from porism.errors import ParameterError
from porism_plugins.tune._tempnet_networks import LogitTempNet
from porism_plugins.tune._tempnet_temperature import (
    check_bounds,
    check_floating,
    check_positive,
    chunks,
    optimal_temperature,
)

# The paper's rho of 8.5 for 32,000 tokens, as a share of log V.
SHARE = 8.5 / math.log(32_000)


class TempNetLoss(nn.Module):
    """max over p with KL(p || uniform) <= rho of sum_j p_j (z_j - z_y), in its dual form with a temperature a row.

    For a row z with label y and temperature tau it is tau CE(z / tau, y) + tau (rho - log V). Its gradient in z is
    softmax(z / tau) - onehot(y), that in tau is rho - KL(softmax(z / tau) || uniform).

    Parameters
    ----------
    temperature
        Where the temperatures come from. A module such as :class:`LogitTempNet`, called with detached inputs, which
        this loss trains as well: give the optimiser its parameters. A number: one fixed temperature; at 1 with
        ``rho = log V`` the loss is cross-entropy. None: the best temperature of each row, solved for.
    rho
        In (0, log V]; None is 0.82 log V, the paper's share.
    tau_min, tau_max
        Bounds where it is solved for; a network has its own.
    ignore_index
        Rows with this target are left out, whatever their logits.
    reduction
        ``"mean"`` over the rows that are not left out, ``"sum"``, or ``"none"``, with 0 where a row is left out.

    Raises
    ------
    ParameterError
        For options out of range; logits that are not floating, NaN or infinite; targets out of range or of another
        shape; temperatures that are not positive and finite.

    Notes
    -----
    If every row is left out, the loss is 0 and so is its gradient. A class whose logit is -inf does not exist: V counts
    the others. Half precision is computed and returned in float32. Differentiable once.

    Examples
    --------
    >>> logits, targets = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([1])
    >>> TempNetLoss(1.0, rho=math.log(3))(logits, targets)
    tensor(0.4076)
    >>> nn.functional.cross_entropy(logits, targets)
    tensor(0.4076)
    """

    def __init__(
        self, temperature: nn.Module | float | None = None, *, rho: float | None = None, tau_min: float = 0.01,
        tau_max: float = 2.0, ignore_index: int = -100, reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> None:  # fmt: skip
        super().__init__()
        check_bounds(tau_min, tau_max)
        if rho is not None:
            check_positive("rho", rho)
        if temperature is not None and not isinstance(temperature, nn.Module):
            check_positive("temperature", temperature)
        if reduction not in ("mean", "sum", "none"):
            raise ParameterError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        self.temperature, self.rho, self.tau_min, self.tau_max = temperature, rho, tau_min, tau_max
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(
        self, logits: Tensor, targets: Tensor, *, mask: Tensor | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        """Return the loss.

        Parameters
        ----------
        logits
            Shape (..., V).
        targets
            Classes, int64 of shape (...).
        mask
            Boolean, or 0 and 1, of shape (...): rows that count.
        inputs
            What the temperature network sees, (..., d); the logits by default.
        """
        losses, keep = self._rows(logits, targets, mask, inputs)
        if self.reduction == "none":
            return losses.new_zeros(len(keep)).masked_scatter(keep, losses).reshape(targets.shape)
        return losses.sum() / max(len(losses), 1) if self.reduction == "mean" else losses.sum()

    def next_token(self, logits: Tensor, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """The loss of a causal model: logits (batch, length, V) against ``labels`` (batch, length) one place further.

        ``num_items_in_batch`` divides the sum, as in :class:`transformers.Trainer`; None is the mean.
        """
        if labels.dim() == 0:
            raise ParameterError("labels must have shape (batch, length)")
        ahead = torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], self.ignore_index)], -1)
        losses, _ = self._rows(logits, ahead, None, None)
        return losses.sum() / (max(len(losses), 1) if num_items_in_batch is None else num_items_in_batch)

    def _rows(
        self, logits: Tensor, targets: Tensor, mask: Tensor | None, inputs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The losses of the rows that count, and which of all rows these are."""
        check_floating("logits", logits)
        keep = self._kept(logits, targets, mask)
        if inputs is not None and inputs.shape[:-1] != targets.shape:
            raise ParameterError(f"inputs of shape {tuple(inputs.shape)} must have one row for each target")
        flat, labels = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
        rows = None if bool(keep.all()) else keep.nonzero().squeeze(-1)
        if rows is not None and len(rows) == 0:
            nothing: Tensor = flat[:0].to(torch.promote_types(flat.dtype, torch.float32)).sum(-1)
            return nothing, keep
        seen = flat if inputs is None else inputs.reshape(-1, inputs.shape[-1])
        tau = self._temperatures(seen, rows, self._rho(flat.shape[-1]))
        losses = _RowLoss.apply(flat, tau, rows, labels if rows is None else labels[rows], self._rho(flat.shape[-1]))
        if not losses.isfinite().all():
            raise ParameterError("logits must be finite (-inf only for classes that are no target), got NaN or inf")
        return losses, keep

    def _rho(self, classes: int) -> float:
        most = math.log(classes)
        if self.rho is None:
            return SHARE * most
        if self.rho > most + 1e-6:
            raise ParameterError(
                f"rho must be at most log({classes}) = {most:.4g} for {classes} classes, got {self.rho}"
            )
        return self.rho

    def _kept(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
        """Which rows count, flat."""
        if targets.shape != logits.shape[:-1] or targets.is_floating_point() or targets.dtype == torch.bool:
            raise ParameterError(
                f"targets must be classes of shape {tuple(logits.shape[:-1])}, got {targets.dtype} of "
                f"{tuple(targets.shape)}"
            )
        keep = targets != self.ignore_index
        if mask is not None:
            if mask.shape != targets.shape:
                raise ParameterError(f"mask must have the shape of targets, {tuple(targets.shape)}, got {mask.shape}")
            keep = keep & mask.bool()
        if bool((keep & ((targets < 0) | (targets >= logits.shape[-1]))).any()):
            raise ParameterError(f"targets must be in 0..{logits.shape[-1] - 1} or {self.ignore_index}")
        return keep.reshape(-1)

    def _temperatures(self, inputs: Tensor, rows: Tensor | None, rho: float) -> Tensor:
        inputs = inputs.detach()
        if isinstance(self.temperature, LogitTempNet):
            tau = self.temperature(inputs, rows)  # takes the rows out chunk by chunk
        else:
            inputs = inputs if rows is None else inputs[rows]
            if self.temperature is None:
                return optimal_temperature(inputs, rho, tau_min=self.tau_min, tau_max=self.tau_max)
            if not isinstance(self.temperature, nn.Module):
                return inputs.new_full((len(inputs),), self.temperature, dtype=torch.float64)
            tau = self.temperature(inputs)
        return checked_temperatures(tau, len(inputs) if rows is None else len(rows))


def checked_temperatures(tau: Tensor, count: int) -> Tensor:
    """Temperatures that a network said, if they are so many positive, finite numbers."""
    if tau.shape != (count,):
        raise ParameterError(f"temperature must give shape ({count},), one number a row, got {tuple(tau.shape)}")
    if not bool(((tau > 0) & tau.isfinite()).all()):
        raise ParameterError("temperature must give positive and finite numbers; are its inputs NaN or infinite?")
    return tau


class _RowLoss(torch.autograd.Function):
    """The loss of each row; softmax(z / tau) is made again, chunk by chunk, where the gradient is asked for."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tau: Tensor, rows: Tensor | None, labels: Tensor, rho: float) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        loss, slope = (logits.new_empty(len(labels), dtype=dtype) for _ in range(2))
        for part in chunks(logits, len(labels)):
            z = logits[part if rows is None else rows[part]].to(dtype)
            t = tau[part].to(dtype)
            z = z - z.amax(-1, keepdim=True)
            log_classes = (z > -math.inf).sum(-1).to(dtype).log()
            scaled = z / t[:, None]
            dual = scaled.logsumexp(-1) + rho - log_classes
            loss[part] = t * dual - z.gather(-1, labels[part, None])[:, 0]
            slope[part] = dual - (scaled.softmax(-1) * scaled.clamp_min(-1e30)).sum(-1)  # 0 times -inf would be NaN
        ctx.save_for_backward(logits, tau, rows, labels, slope)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        logits, tau, rows, labels, slope = ctx.saved_tensors
        in_logits = None
        if ctx.needs_input_grad[0]:
            in_logits = torch.empty_like(logits) if rows is None else torch.zeros_like(logits)
            for part in chunks(logits, len(labels)):
                where = part if rows is None else rows[part]
                pull = (logits[where].to(slope.dtype) / tau[part, None].to(slope.dtype)).softmax(-1)
                pull.scatter_add_(-1, labels[part, None], pull.new_full((len(pull), 1), -1.0))
                in_logits[where] = (pull * gradient[part, None]).to(logits.dtype)
        in_tau = (gradient * slope).to(tau.dtype) if ctx.needs_input_grad[1] else None
        return in_logits, in_tau, None, None, None
