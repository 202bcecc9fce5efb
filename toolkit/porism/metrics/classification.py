"""Accuracy and its relatives; computed in numpy, in float64, without gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from porism.arrays import check_count
from porism.errors import ParameterError
from porism.metrics._checks import check_labels, check_same_length, to_numpy, to_whole_numbers


def agreement(a: Any, b: Any) -> float:
    """Fraction of entries at which two lists of predictions are equal.

    Parameters
    ----------
    a, b
        Classes or token numbers, one shape that is not empty.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ParameterError
        For shapes that differ, entries that are not whole numbers, or nothing at all.

    Examples
    --------
    >>> agreement([0, 1, 2, 2], [0, 1, 1, 2])
    0.75
    """
    return _agreement(a=a, b=b)


def accuracy(predictions: Any, labels: Any) -> float:
    """Fraction of predictions that are right.

    Parameters
    ----------
    predictions, labels
        Predicted and true classes, one shape that is not empty.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ParameterError
        For shapes that differ, entries that are not whole numbers, or nothing at all.

    Examples
    --------
    >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
    0.75
    """
    return _agreement(predictions=predictions, labels=labels)


def top_k_accuracy(scores: Any, labels: Any, *, k: int) -> float:
    """Fraction of examples whose class is among the k of highest score.

    Parameters
    ----------
    scores
        Logits or probabilities, shape (n, classes).
    labels
        True classes, whole numbers, shape (n,).
    k
        From 1 to the number of classes.

    Returns
    -------
    float
        In [0, 1]. Ties are broken at random and the expectation over that is exact, so equal scores for all
        classes give k / classes.

    Raises
    ------
    ParameterError
        For lengths that differ, labels outside the classes, NaN, or k out of range.

    Examples
    --------
    >>> top_k_accuracy([[3, 2, 1], [3, 2, 1]], [1, 2], k=2)
    0.5
    >>> top_k_accuracy([[1, 1, 1, 1]], [2], k=1)
    0.25
    """
    values, classes = to_numpy(scores=scores, labels=labels)
    if values.ndim != 2 or values.size == 0:
        raise ParameterError(f"scores must have shape (n, classes), not empty, got {values.shape}")
    check_same_length(scores=values, labels=classes)
    check_labels(np, classes, values.shape[1])
    k = check_count("k", k, 1, values.shape[1])
    own = np.take_along_axis(values, classes.astype(int)[:, None], axis=1)
    above, tied = (values > own).sum(axis=1), (values == own).sum(axis=1)
    return float(np.mean(np.clip((k - above) / tied, 0, 1)))


def _agreement(**arrays: Any) -> float:
    first, second = to_whole_numbers(**arrays)
    check_same_length(**dict(zip(arrays, (first, second), strict=True)))
    if first.shape != second.shape:
        names = " and ".join(arrays)
        raise ParameterError(f"{names} must have one shape, got {first.shape} and {second.shape}")
    return float(np.mean(first == second))
