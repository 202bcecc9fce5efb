"""Calibration: does a forecast of 70 % come true in 70 % of the cases?

Calibration errors are those of a binary forecast: ``confidence`` in [0, 1] and ``correct`` in {0, 1}. Reduce a
classifier to one by :func:`top_label`, or average over its classes by :func:`classwise_calibration_error`.
Bins are intervals (low, high], the first one closed, so equal forecasts share a bin. Binned errors are computed
in numpy, in float64, and have no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from porism.arrays import check_count, check_number, probabilities
from porism.errors import ParameterError
from porism.metrics._checks import (
    check_binary,
    check_fraction,
    check_labels,
    check_same_length,
    check_unit_interval,
    paired_vectors,
    to_numpy,
)

Scheme = Literal["width", "mass"]


@dataclass(frozen=True)
class ReliabilityDiagram:
    """What a reliability diagram draws, one entry for each bin that is not empty.

    Attributes
    ----------
    confidence, accuracy
        Mean forecast and frequency of the event in the bin.
    count
        Forecasts in the bin.
    low, high
        Clopper-Pearson interval of the frequency.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    low: np.ndarray
    high: np.ndarray


def top_label(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of the predicted class, and whether it is right.

    Parameters
    ----------
    probabilities
        Predicted distributions over classes, shape (n, classes).
    labels
        True classes, whole numbers, shape (n,).

    Returns
    -------
    confidence, correct
        Shape (n,), float64; the first of tied classes counts as predicted.

    Raises
    ------
    ParameterError
        For rows that are not distributions, or labels outside the classes.

    Examples
    --------
    >>> confidence, correct = top_label([[0.7, 0.3], [0.4, 0.6]], [0, 0])
    >>> confidence.tolist(), correct.tolist()
    ([0.7, 0.6], [1.0, 0.0])
    """
    rows, classes = _distributions(probabilities, labels)
    predicted = rows.argmax(axis=1)
    return rows.max(axis=1), (predicted == classes).astype(float)


def expected_calibration_error(
    confidence: Any, correct: Any, *, bins: int = 15, scheme: Scheme = "width", norm: float = 1
) -> float:
    """Binned gap between confidence and accuracy, ``(sum_b n_b / n |conf_b - acc_b|^norm)^(1/norm)``.

    Parameters
    ----------
    confidence
        Forecasts in [0, 1], shape (n,).
    correct
        Outcomes, 0 or 1, shape (n,).
    bins
        Number of bins.
    scheme
        ``"width"`` for bins of equal width, ``"mass"`` for bins of (nearly) equal counts, the adaptive form.
    norm
        At least 1: 1 is the usual ECE, 2 the root mean square, ``math.inf`` the maximum over bins (MCE).

    Returns
    -------
    float
        In [0, 1]. Biased upwards: noise within a bin counts as miscalibration, see
        :func:`squared_calibration_error` for a form without that bias.

    Raises
    ------
    ParameterError
        For lengths that differ, values outside their range, NaN, or nothing at all.

    Notes
    -----
    Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017, equations 3 and 5;
    equal-mass bins: Nguyen and O'Connor, EMNLP 2015.

    Examples
    --------
    >>> round(expected_calibration_error([0.9, 0.9, 0.6, 0.6], [1, 0, 1, 0]), 10)
    0.25
    """
    norm = check_number("norm", norm, at_least=1)
    forecast, outcome = _binary_forecast(confidence, correct)
    table = Bins(forecast, outcome, assign(forecast, bins, scheme))
    gaps = abs(table.forecast - table.outcome)
    largest = float(gaps.max())
    if math.isinf(norm) or largest == 0:
        return largest
    # relative to the largest gap, a high power does not underflow
    return float(largest * (table.count @ (gaps / largest) ** norm / len(forecast)) ** (1 / norm))


def squared_calibration_error(confidence: Any, correct: Any, *, bins: int = 15, scheme: Scheme = "mass") -> float:
    """Binned squared L2 calibration error without the bias of the plug-in.

    Parameters
    ----------
    confidence, correct, bins, scheme
        As for :func:`expected_calibration_error`.

    Returns
    -------
    float
        Estimate of ``sum_b P(b) E[confidence - correct | b]^2``. It can be negative, which says that the error
        is below the noise; a root of its positive part is the debiased L2 error, no longer unbiased.

    Raises
    ------
    ParameterError
        As :func:`expected_calibration_error`, or if no bin holds two forecasts.

    Notes
    -----
    With d_i = confidence_i - correct_i independent of mean mu and variance s^2 in a bin of n_b,
    ``E mean(d)^2 = mu^2 + s^2 / n_b``; the sample variance over n_b estimates the excess without bias, so
    ``mean(d)^2 - var(d) / n_b``, the mean of d_i d_j over pairs i != j, is unbiased for mu^2. If forecasts are
    constant in each bin, it is the estimator of Kumar, Liang, Ma, "Verified uncertainty calibration", NeurIPS 2019,
    section 4, which subtracts ``acc_b (1 - acc_b) / (n_b - 1)``; its Brier analogue is Broecker, Climate Dynamics
    2012. A bin of one forecast cannot be corrected and is left out. The binned error is itself a lower bound of the
    error without bins.

    Examples
    --------
    >>> round(squared_calibration_error([0.9, 0.9, 0.9, 0.9], [1, 0, 1, 0], bins=1), 10)
    0.0766666667
    """
    forecast, outcome = _binary_forecast(confidence, correct)
    index = assign(forecast, bins, scheme)
    count = np.bincount(index)
    gap = forecast - outcome
    total, squares = np.bincount(index, gap), np.bincount(index, gap**2)
    usable = count > 1
    if not usable.any():
        raise ParameterError("confidence must have a bin that holds two forecasts; use fewer bins")
    count, total, squares = count[usable], total[usable], squares[usable]
    pairs = (total**2 - squares) / (count * (count - 1))
    return float(count @ pairs / count.sum())


def classwise_calibration_error(
    probabilities: Any, labels: Any, *, bins: int = 15, scheme: Scheme = "width", norm: float = 1
) -> float:
    """Mean over classes of the calibration error of "the class is k".

    Parameters
    ----------
    probabilities
        Predicted distributions over classes, shape (n, classes).
    labels
        True classes, whole numbers, shape (n,).
    bins, scheme, norm
        As for :func:`expected_calibration_error`.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ParameterError
        For rows that are not distributions, or labels outside the classes.

    Notes
    -----
    Kull et al., "Beyond temperature scaling", NeurIPS 2019, equation 5 (norm 1).

    Examples
    --------
    >>> round(classwise_calibration_error([[0.7, 0.3], [0.7, 0.3]], [0, 1]), 10)
    0.2
    """
    rows, classes = _distributions(probabilities, labels)
    errors = [
        expected_calibration_error(rows[:, k], (classes == k).astype(float), bins=bins, scheme=scheme, norm=norm)
        for k in range(rows.shape[1])
    ]
    return float(np.mean(errors))


def reliability_diagram(
    confidence: Any, correct: Any, *, bins: int = 15, scheme: Scheme = "width", level: float = 0.95
) -> ReliabilityDiagram:
    """Confidence, accuracy with its interval, and count of each bin that is not empty.

    Parameters
    ----------
    confidence, correct, bins, scheme
        As for :func:`expected_calibration_error`.
    level
        Coverage of each bin's interval, in (0, 1); the bins are not adjusted for being many.

    Returns
    -------
    ReliabilityDiagram
        Arrays in the order of the bins.

    Raises
    ------
    ParameterError
        As :func:`expected_calibration_error`.

    Notes
    -----
    DeGroot and Fienberg, The Statistician 1983; intervals: Clopper and Pearson, Biometrika 1934. They are exact for
    a bin whose forecasts share one probability of the event.

    Examples
    --------
    >>> diagram = reliability_diagram([0.9, 0.9, 0.2], [1, 0, 0], bins=5)
    >>> diagram.accuracy.tolist(), diagram.count.tolist()
    ([0.0, 0.5], [1, 2])
    """
    from scipy.special import betaincinv

    side = (1 - check_fraction("level", level)) / 2
    forecast, outcome = _binary_forecast(confidence, correct)
    table = Bins(forecast, outcome, assign(forecast, bins, scheme))
    hits, n = np.rint(table.outcome * table.count), table.count
    low = np.where(hits == 0, 0.0, betaincinv(np.maximum(hits, 1), n - hits + 1, side))
    high = np.where(hits == n, 1.0, betaincinv(hits + 1, np.maximum(n - hits, 1), 1 - side))
    return ReliabilityDiagram(table.forecast, table.outcome, n, low, high)


class Bins:
    """Count, mean forecast and mean outcome of the bins that are not empty, and each example's place among them."""

    def __init__(self, forecast: np.ndarray, outcome: np.ndarray, index: np.ndarray) -> None:
        _, self.index, self.count = np.unique(index, return_inverse=True, return_counts=True)
        self.forecast = np.bincount(self.index, forecast) / self.count
        self.outcome = np.bincount(self.index, outcome) / self.count


def assign(forecast: np.ndarray, bins: int, scheme: str) -> np.ndarray:
    """Number of each forecast's bin, from 0 to ``bins - 1``."""
    bins = check_count("bins", bins, 1)
    if scheme == "width":
        edges = np.linspace(0, 1, bins + 1)[1:-1]
    elif scheme == "mass":
        n = len(forecast)
        # integer arithmetic: the k-th edge is the value of rank ceil(n k / bins)
        edges = np.sort(forecast)[[max(-(-n * k // bins), 1) - 1 for k in range(1, bins)]]
    else:
        raise ParameterError(f"scheme must be 'width' or 'mass', got {scheme!r}")
    return np.searchsorted(edges, forecast, side="left")


def _binary_forecast(confidence: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    forecast, outcome = paired_vectors(confidence=confidence, correct=correct)
    check_unit_interval(confidence=forecast)
    check_binary(correct=outcome)
    return forecast, outcome


def _distributions(given: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    rows, classes = to_numpy(probabilities=given, labels=labels)
    check_same_length(probabilities=rows, labels=classes)
    if rows.ndim != 2:
        raise ParameterError(f"probabilities must have shape (n, classes), got {rows.shape}")
    probabilities(np, axis=-1, probabilities=rows)
    check_labels(np, classes, rows.shape[1])
    return rows, classes
