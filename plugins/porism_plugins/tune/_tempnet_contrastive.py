"""The robust loss of two views of the same samples, with running normalisers for batches that are too small."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism_plugins.tune._tempnet_loss import checked_temperatures
from porism_plugins.tune._tempnet_temperature import check_bounds, check_floating, check_positive, optimal_temperature

# The paper's rho of 7 for the 3 million pairs of CC3M, as a share of the logarithm of the number of negatives.
SHARE = 7 / math.log(3_000_000)


class ContrastiveTempNetLoss(nn.Module):
    """tau_i log mean_{j != i} exp((s_ij - s_ii) / tau_i) + tau_i rho, averaged over rows and over columns.

    Parameters
    ----------
    rows, columns
        Where the temperatures of the two sides come from: a module such as :class:`FeatureTempNet`, a fixed number, or
        None: the best temperature of each sample, solved for within the batch.
    rho
        Positive; None is 0.47 log(negatives), the paper's share. From log(negatives) on the temperatures go to tau_min.
    tau_min, tau_max
        Bounds where it is solved for; a network has its own.
    samples
        Size of the training set: each sample keeps a moving average of its sum over negatives, by ``indices``. None:
        the batch alone.
    momentum
        gamma in (0, 1], the weight of the batch in that average.

    Raises
    ------
    ParameterError
        For options out of range; a similarity that is not square, not finite or of a single pair; temperatures,
        features, indices or a mask that do not fit.

    Notes
    -----
    The averages are kept as logarithms, one number a sample and side: the released running shift, which only grows,
    lets a sum underflow. In evaluation mode they rest, and the batch alone counts. Half precision is computed and
    returned in float32.

    Examples
    --------
    >>> ContrastiveTempNetLoss(0.1, 0.1, rho=math.log(2))(torch.eye(3))  # all negatives are 1 below the positive
    tensor(-0.9307)
    """

    def __init__(
        self, rows: nn.Module | float | None = None, columns: nn.Module | float | None = None, *,
        rho: float | None = None, tau_min: float = 0.005, tau_max: float = 0.05, samples: int | None = None,
        momentum: float = 0.8,
    ) -> None:  # fmt: skip
        super().__init__()
        check_bounds(tau_min, tau_max)
        for name, value in (("rho", rho), ("rows", rows), ("columns", columns)):
            if value is not None and not isinstance(value, nn.Module):
                check_positive(name, value)
        if not 0 < momentum <= 1:
            raise ParameterError(f"momentum must be in (0, 1], got {momentum}")
        if samples is not None and samples < 2:
            raise ParameterError(f"samples must be at least 2, got {samples}")
        self.rows, self.columns, self.rho, self.momentum = rows, columns, rho, momentum
        self.tau_min, self.tau_max, self.samples = tau_min, tau_max, samples
        self.register_buffer("log_sums", None if samples is None else torch.full((2, samples), math.nan))

    def forward(
        self, similarity: Tensor, row_features: Tensor | None = None, column_features: Tensor | None = None, *,
        indices: Tensor | None = None, negatives: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the loss, a scalar; its gradient is that of the paper's stochastic estimate.

        Parameters
        ----------
        similarity
            s, shape (B, B), of unit features; pairs stand on the diagonal.
        row_features, column_features
            What the networks see, (B, d).
        indices
            Where the pairs of the batch stand in the training set, int64 of shape (B,); wanted with ``samples``.
        negatives
            Boolean (B, B): pairs that count as negatives; all but the diagonal by default. A row without one is left
            out.
        """
        check_floating("similarity", similarity)
        size = len(similarity)
        if similarity.shape != (size, size) or size < 2:
            raise ParameterError(f"similarity must have shape (B, B) with B >= 2, got {tuple(similarity.shape)}")
        if not similarity.isfinite().all():
            raise ParameterError("similarity must be finite, got NaN or inf")
        places = self._places(indices, size)
        allowed = ~torch.eye(size, dtype=torch.bool, device=similarity.device)
        if negatives is not None:
            if negatives.shape != similarity.shape:
                raise ParameterError(f"negatives must have shape {tuple(similarity.shape)}, got {negatives.shape}")
            allowed &= negatives.bool()
        s = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
        first = self._side(0, s, allowed, self.rows, row_features, places)
        return (first + self._side(1, s.T, allowed.T, self.columns, column_features, places)) / 2

    def _places(self, indices: Tensor | None, size: int) -> Tensor | None:
        if self.samples is None or not self.training:
            return None
        if indices is None or indices.shape != (size,) or indices.is_floating_point():
            raise ParameterError(f"indices must be integers of shape ({size},) where samples is given")
        if int(indices.min()) < 0 or int(indices.max()) >= self.samples:
            raise ParameterError(f"indices must be in 0..{self.samples - 1}")
        return indices

    def _side(
        self, side: int, s: Tensor, allowed: Tensor, temperature: nn.Module | float | None, features: Tensor | None,
        places: Tensor | None,
    ) -> Tensor:  # fmt: skip
        chosen = allowed.any(-1)
        if not bool(chosen.any()):
            return s.sum() * 0
        h = (s - s.diagonal()[:, None])[chosen]
        allowed, names = allowed[chosen], ("row_features", "column_features")
        below = h.detach().masked_fill(~allowed, -math.inf)
        count = allowed.sum(-1).to(s.dtype)
        rho = SHARE * math.log(max((self.samples or len(s)) - 1, 2)) if self.rho is None else self.rho
        if temperature is None:
            tau = optimal_temperature(below, rho, tau_min=self.tau_min, tau_max=self.tau_max).to(s.dtype)
        elif isinstance(temperature, nn.Module):
            if features is None or len(features) != len(s):
                raise ParameterError(f"{names[side]} must be given, one row for each of {len(s)} samples")
            tau = checked_temperatures(temperature(features.detach()[chosen]), len(h)).to(s.dtype)
        else:
            tau = h.new_full((len(h),), temperature)
        with torch.no_grad():
            scaled = below / tau[:, None]
            log_sum = scaled.logsumexp(-1)
            if places is not None:
                log_sum = self._averaged(side, places[chosen], log_sum)
            weights = (scaled - log_sum[:, None]).exp()
            dual = log_sum - count.log() + rho
            slope = dual - (weights * scaled.clamp_min(-1e30)).sum(-1)
        surrogate = (weights * h).sum(-1) + tau * slope
        return (tau.detach() * dual + surrogate - surrogate.detach()).mean()

    def _averaged(self, side: int, places: Tensor, log_sum: Tensor) -> Tensor:
        """Take the logarithms of the sums into the moving averages, and return those."""
        before = self.log_sums[side, places].to(log_sum.dtype)
        if self.momentum < 1:
            mixed = torch.logaddexp(before + math.log1p(-self.momentum), log_sum + math.log(self.momentum))
            log_sum = torch.where(before.isnan(), log_sum, mixed)
        self.log_sums[side, places] = log_sum.to(self.log_sums.dtype)
        return log_sum
