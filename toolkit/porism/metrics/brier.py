"""The Brier score and its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from porism.arrays import Array, floating, probabilities
from porism.errors import ParameterError
from porism.metrics._checks import check_binary, check_labels, check_same_length, check_unit_interval, paired_vectors
from porism.metrics.calibration import Bins, Scheme, assign


@dataclass(frozen=True)
class BrierDecomposition:
    """Parts of a binary Brier score.

    ``score = reliability - resolution + uncertainty + within_variance - within_covariance`` exactly.

    Attributes
    ----------
    reliability
        Mean squared gap between a bin's mean forecast and its frequency; 0 if calibrated.
    resolution
        Variance of the frequencies over the bins.
    uncertainty
        Variance of the event, the score of the constant forecast of its frequency.
    within_variance, within_covariance
        Variance of the forecasts within bins, and twice their covariance with the event; both are zero where
        each bin holds one distinct forecast.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def score(self) -> float:
        """The Brier score that the parts add up to."""
        calibrated = self.reliability - self.resolution + self.uncertainty
        return calibrated + self.within_variance - self.within_covariance


def brier_score(forecast: Any, labels: Any) -> Array:
    """Mean squared distance between forecast and outcome.

    Parameters
    ----------
    forecast
        Probabilities of the event, shape (n,), or distributions over classes, shape (n, classes).
    labels
        Outcomes, 0 or 1, or classes, shape (n,).

    Returns
    -------
    Array
        Scalar of the input's backend, with gradient: ``mean (p - y)^2`` in [0, 1] for one event, and Brier's
        own ``mean sum_k (p_k - y_k)^2`` in [0, 2] over classes (for two classes twice the former).

    Raises
    ------
    ParameterError
        For lengths that differ, rows that are not distributions, or labels outside the classes.

    Notes
    -----
    Brier, Monthly Weather Review 1950, equation 2.

    Examples
    --------
    >>> round(float(brier_score([0.9, 0.2], [1, 0])), 10)
    0.025
    >>> round(float(brier_score([[0.1, 0.9], [0.8, 0.2]], [1, 0])), 10)
    0.05
    """
    xp, (p, y) = floating(forecast=forecast, labels=labels)
    check_same_length(forecast=p, labels=y)
    if p.ndim == 1:
        check_unit_interval(forecast=p)
        check_labels(xp, y, 2)
        return xp.mean((p - y) ** 2)
    if p.ndim != 2:
        raise ParameterError(f"forecast must have one or two axes, its shape is {tuple(p.shape)}")
    (p,) = probabilities(xp, axis=-1, forecast=p)
    check_labels(xp, y, p.shape[1])
    truth = xp.astype(y[:, None] == xp.arange(p.shape[1], dtype=p.dtype, device=p.device), p.dtype)
    return xp.mean(xp.sum((p - truth) ** 2, axis=-1))


def brier_decomposition(
    forecast: Any, outcome: Any, *, bins: int | None = None, scheme: Scheme = "width"
) -> BrierDecomposition:
    """Reliability, resolution and uncertainty of binary forecasts.

    Parameters
    ----------
    forecast
        Probabilities of the event, shape (n,).
    outcome
        0 or 1, shape (n,).
    bins
        None gives each distinct forecast its own bin, which is Murphy's decomposition; a number bins as
        :func:`expected_calibration_error` and leaves two terms for what varies within bins.
    scheme
        As for :func:`expected_calibration_error`.

    Returns
    -------
    BrierDecomposition
        Its parts add up to :func:`brier_score`, up to rounding, with any bins.

    Raises
    ------
    ParameterError
        As :func:`expected_calibration_error`.

    Notes
    -----
    Murphy, Journal of Applied Meteorology 1973; terms within bins: Stephenson, Coelho, Jolliffe, Weather and
    Forecasting 2008.

    Examples
    --------
    >>> parts = brier_decomposition([0.9, 0.9, 0.2, 0.2], [1, 0, 0, 0])
    >>> round(parts.reliability, 10), round(parts.resolution, 10), round(parts.uncertainty, 10)
    (0.1, 0.0625, 0.1875)
    """
    p, y = paired_vectors(forecast=forecast, outcome=outcome)
    check_unit_interval(forecast=p)
    check_binary(outcome=y)
    index = np.unique(p, return_inverse=True)[1] if bins is None else assign(p, bins, scheme)
    table = Bins(p, y, index)
    share = table.count / len(p)
    variance = np.mean((p - table.forecast[table.index]) ** 2)
    covariance = np.mean((p - table.forecast[table.index]) * (y - table.outcome[table.index]))
    return BrierDecomposition(
        reliability=float(share @ (table.forecast - table.outcome) ** 2),
        resolution=float(share @ (table.outcome - y.mean()) ** 2),
        uncertainty=float(y.mean() * (1 - y.mean())),
        within_variance=float(variance),
        within_covariance=float(2 * covariance),
    )
