"""Accuracy under perturbation, corruption and in groups; computed in numpy, in float64, without gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from porism.arrays import check_finite
from porism.errors import ParameterError
from porism.metrics._checks import check_binary, check_unit_interval, paired_vectors, to_numpy, to_whole_numbers


def worst_case_accuracy(correct: Any) -> float:
    """Fraction of examples that are right under every perturbation.

    Parameters
    ----------
    correct
        0 or 1, shape (n, perturbations).

    Returns
    -------
    float
        At most the least accuracy of any one perturbation, and an upper bound of the accuracy against all
        perturbations of which these are some.

    Raises
    ------
    ParameterError
        For an empty or misshapen array, or entries other than 0 and 1.

    Examples
    --------
    >>> worst_case_accuracy([[1, 1], [1, 0], [0, 1], [1, 1]])
    0.5
    """
    (right,) = to_numpy(correct=correct)
    if right.ndim != 2 or right.size == 0:
        raise ParameterError(f"correct must have shape (n, perturbations), not empty, got {right.shape}")
    check_binary(correct=right)
    return float(np.mean(right.all(axis=1)))


def group_accuracies(correct: Any, groups: Any) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy in each group.

    Parameters
    ----------
    correct
        0 or 1, shape (n,).
    groups
        Number of each example's group, whole, shape (n,).

    Returns
    -------
    names, accuracies
        Sorted numbers of the groups, as integers, and their accuracies, shape (groups,).

    Raises
    ------
    ParameterError
        For lengths that differ, entries of ``correct`` other than 0 and 1, groups that are not whole numbers, or
        nothing at all.

    Examples
    --------
    >>> names, accuracies = group_accuracies([1, 0, 1, 1], [0, 0, 1, 1])
    >>> accuracies.tolist()
    [0.5, 1.0]
    """
    right, group = paired_vectors(correct=correct, groups=groups)[0], to_whole_numbers(groups=groups)[0]
    check_binary(correct=right)
    names, index, count = np.unique(group, return_inverse=True, return_counts=True)
    return names, np.bincount(index, right) / count


def worst_group_accuracy(correct: Any, groups: Any) -> float:
    """Least accuracy of any group.

    Parameters
    ----------
    correct, groups
        As for :func:`group_accuracies`.

    Returns
    -------
    float
        In [0, 1], at most the accuracy over all.

    Raises
    ------
    ParameterError
        As :func:`group_accuracies`.

    Notes
    -----
    Sagawa, Koh, Hashimoto, Liang, ICLR 2020.

    Examples
    --------
    >>> worst_group_accuracy([1, 0, 1, 1], [0, 0, 1, 1])
    0.5
    """
    return float(group_accuracies(correct, groups)[1].min())


def retained_accuracy(clean: float, perturbed: float) -> float:
    """Accuracy under perturbation relative to the clean one.

    Parameters
    ----------
    clean, perturbed
        Accuracies in [0, 1].

    Returns
    -------
    float
        ``perturbed / clean``: 1 if nothing is lost; above 1 if the perturbation helps.

    Raises
    ------
    ParameterError
        For values outside [0, 1], or a clean accuracy of zero.

    Examples
    --------
    >>> retained_accuracy(0.8, 0.4)
    0.5
    """
    before, after = to_numpy(clean=clean, perturbed=perturbed)
    check_unit_interval(clean=before, perturbed=after)
    if before.ndim or after.ndim:
        raise ParameterError("clean and perturbed must be single numbers")
    if float(before) == 0:
        raise ParameterError("clean must be above zero")
    return float(after / before)


def mean_corruption_error(errors: Any, baseline: Any) -> float:
    """Error summed over severities, relative to a baseline's, mean over corruptions.

    Parameters
    ----------
    errors, baseline
        Error rates in [0, 1] of the model and of the baseline, shape (corruptions, severities). Subtract the clean
        error of each beforehand, clipped at zero, for the relative form.

    Returns
    -------
    float
        Below 1 if the model is more robust than the baseline.

    Raises
    ------
    ParameterError
        For shapes that differ, values outside [0, 1], or a corruption without any error of the baseline.

    Notes
    -----
    Hendrycks and Dietterich, ICLR 2019, section 4.3 (there times 100).

    Examples
    --------
    >>> mean_corruption_error([[0.1, 0.2], [0.2, 0.4]], [[0.2, 0.4], [0.2, 0.4]])
    0.75
    """
    ours, theirs = to_numpy(errors=errors, baseline=baseline)
    if ours.ndim != 2 or ours.size == 0 or ours.shape != theirs.shape:
        raise ParameterError(
            f"errors and baseline must have one shape (corruptions, severities), got {ours.shape} and {theirs.shape}"
        )
    check_unit_interval(errors=ours, baseline=theirs)
    scale = theirs.sum(axis=1)
    if (scale == 0).any():
        raise ParameterError("baseline must err on each corruption")
    return float(np.mean(ours.sum(axis=1) / scale))


def accuracy_strength_area(strengths: Any, accuracies: Any) -> float:
    """Mean height of the curve of accuracy against the strength of an attack or corruption.

    Parameters
    ----------
    strengths
        Finite and increasing, shape (n,), n at least 2; pass logarithms for a logarithmic axis.
    accuracies
        In [0, 1], shape (n,).

    Returns
    -------
    float
        Area under the straight lines between the points, over the length of the axis; in [0, 1].

    Raises
    ------
    ParameterError
        For lengths that differ, fewer than two points, strengths that do not increase, or values out of range.

    Examples
    --------
    >>> accuracy_strength_area([0.0, 1.0, 3.0], [1.0, 0.5, 0.0])
    0.4166666666666667
    """
    x, y = paired_vectors(strengths=strengths, accuracies=accuracies)
    check_finite(strengths=x)
    check_unit_interval(accuracies=y)
    if len(x) < 2 or not (np.diff(x) > 0).all():
        raise ParameterError("strengths must be at least two increasing numbers")
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))
