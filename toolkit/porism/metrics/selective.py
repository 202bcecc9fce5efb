"""Selective prediction: the risk that remains if the least confident examples are left out.

Computed in numpy, in float64, without gradient. Losses of tied confidences are replaced by their mean, which is
the exact expectation over random orders of the ties.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from porism.arrays import check_finite
from porism.errors import ParameterError
from porism.metrics._checks import paired_vectors


def risk_coverage(confidence: Any, losses: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of the k most confident examples, for k from 1 to n.

    Parameters
    ----------
    confidence
        Larger is surer, shape (n,).
    losses
        Loss of each example, shape (n,), above ``-inf``; 0 and 1 for errors.

    Returns
    -------
    coverage, risk
        ``k / n`` and the mean loss of the k most confident, shape (n,).

    Raises
    ------
    ParameterError
        For lengths that differ, NaN, a loss of ``-inf``, or nothing at all.

    Notes
    -----
    El-Yaniv and Wiener, JMLR 2010.

    Examples
    --------
    >>> coverage, risk = risk_coverage([0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1])
    >>> coverage.tolist(), risk[1], risk[3]
    ([0.25, 0.5, 0.75, 1.0], np.float64(0.0), np.float64(0.5))
    """
    sure, loss = paired_vectors(confidence=confidence, losses=losses)
    if (loss == -np.inf).any():
        raise ParameterError("losses must not be -inf")
    _, group, sizes = np.unique(-sure, return_inverse=True, return_counts=True)
    ordered = np.repeat(np.bincount(group, loss) / sizes, sizes)
    n = np.arange(1, len(loss) + 1)
    return n / len(loss), np.cumsum(ordered) / n


def aurc(confidence: Any, losses: Any) -> float:
    """Area under the risk-coverage curve: the mean over k of the risk of the k most confident.

    Parameters
    ----------
    confidence, losses
        As for :func:`risk_coverage`.

    Returns
    -------
    float
        Smaller is better; a constant confidence gives the mean loss.

    Raises
    ------
    ParameterError
        As :func:`risk_coverage`.

    Notes
    -----
    Geifman, Uziel, El-Yaniv, "Bias-reduced uncertainty estimation", ICLR 2019, section 3.

    Examples
    --------
    >>> round(aurc([0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1]), 10)
    0.2083333333
    """
    return float(risk_coverage(confidence, losses)[1].mean())


def excess_aurc(confidence: Any, losses: Any) -> float:
    """AURC above that of the best confidence, which orders examples by their loss.

    Parameters
    ----------
    confidence, losses
        As for :func:`risk_coverage`.

    Returns
    -------
    float
        At least 0, and 0 if confidence falls as the loss rises.

    Raises
    ------
    ParameterError
        As :func:`risk_coverage`, or for an infinite loss.

    Notes
    -----
    Geifman, Uziel, El-Yaniv, ICLR 2019, equation 1; the best area is computed exactly instead of by its limit
    ``r + (1 - r) log(1 - r)`` for error rate r.

    Examples
    --------
    >>> excess_aurc([0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1])
    0.0
    """
    (loss,) = paired_vectors(losses=losses)
    check_finite(losses=loss)
    return max(aurc(confidence, losses) - aurc(-loss, loss), 0.0)
