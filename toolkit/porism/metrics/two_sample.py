"""Two-sample tests with exact level: under the null hypothesis ``P(p_value <= alpha) <= alpha`` at any sample size.

The null hypothesis is that all observations are exchangeable, as they are if both samples come from one law. Samples
are brought to numpy in float64; nothing here has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from porism.arrays import check_callable, check_count, check_finite, check_generator, check_number
from porism.errors import ParameterError
from porism.metrics._checks import check_fraction, to_numpy

Statistic = Callable[[np.ndarray, np.ndarray], Any]
Kernel = Callable[[np.ndarray, np.ndarray], Any]
Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]

# Statistics closer than this, relative to the largest, are ties: the same split summed in another order.
_TIE = 1e-10
_MOST_SPLITS = 200_000


@dataclass(frozen=True)
class TwoSampleTest:
    """Outcome of a two-sample test.

    Attributes
    ----------
    statistic
        Of the samples as given; large values speak against the null hypothesis.
    p_value
        Valid: at most alpha with probability at most alpha under the null hypothesis.
    randomized_p_value
        Ties broken at random: uniform on [0, 1] under the null hypothesis, so the level is alpha exactly. It is at
        most ``p_value``.
    """

    statistic: float
    p_value: float
    randomized_p_value: float


def permutation_test(
    x: Any, y: Any, statistic: Statistic, *, permutations: int | None = 999, rng: np.random.Generator
) -> TwoSampleTest:
    """Compare a statistic with its values after random exchanges between the samples.

    Parameters
    ----------
    x, y
        Samples, shapes (n, ...) and (m, ...), one shape after the first axis.
    statistic
        Function of two such arrays (numpy, float64) that returns a number, large if the samples differ.
    permutations
        Number of random permutations; None goes through all ``C(n + m, n)`` splits, of which there may be 200,000.
        Splits are held as ``(permutations + 1) (n + m)`` bytes.
    rng
        Draws the permutations and breaks ties in ``randomized_p_value``.

    Returns
    -------
    TwoSampleTest
        ``p_value = (1 + #{permuted >= observed}) / (1 + permutations)``, at least ``1 / (1 + permutations)``; with
        all splits the share of those that reach the observed value.

    Raises
    ------
    ParameterError
        For empty samples, shapes that do not fit, values that are not finite, a statistic that is NaN or no number,
        too many splits, or an rng that is no Generator.

    Notes
    -----
    Phipson and Smyth, "Permutation p-values should never be zero", 2010; Hemerik and Goeman, TEST 2018, theorem 2.

    Examples
    --------
    >>> gap = lambda x, y: x.mean() - y.mean()
    >>> test = permutation_test([4, 5, 6], [1, 2, 3], gap, permutations=None, rng=np.random.default_rng(0))
    >>> test.statistic, test.p_value
    (3.0, 0.05)
    """
    check_generator(rng)
    check_callable(statistic=statistic)
    first, second = _samples(x, y)
    pooled, n = np.concatenate([first, second]), len(first)

    def evaluate(splits: np.ndarray) -> np.ndarray:
        return np.array([check_number("statistic", statistic(pooled[row], pooled[~row])) for row in splits])

    return _compare(evaluate, n, len(pooled), permutations, rng)


def mmd_test(
    x: Any,
    y: Any,
    *,
    kernel: str | Kernel = "gaussian",
    bandwidth: str | float | Sequence[float] = "median",
    permutations: int | None = 999,
    rng: np.random.Generator,
) -> TwoSampleTest:
    """Permutation test of the squared maximum mean discrepancy.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), or (n,) and (m,) for numbers.
    kernel, bandwidth
        As for :func:`porism.discrepancies.mmd_squared`. The median is that of the pooled sample in random order,
        which exchanges leave unchanged, so the level stays exact. The kernel is evaluated once.
    permutations, rng
        As for :func:`permutation_test`.

    Returns
    -------
    TwoSampleTest
        Its statistic is the biased estimate (the V-statistic) of the squared MMD, at least 0 up to rounding.

    Raises
    ------
    ParameterError
        As :func:`permutation_test`, or for an unknown kernel or one whose matrix has a wrong shape or is not finite.

    Notes
    -----
    Gretton, Borgwardt, Rasch, Schoelkopf, Smola, JMLR 2012, equation 5.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> mmd_test(rng.normal(size=40), rng.normal(2, 1, size=40), permutations=199, rng=rng).p_value
    0.005
    """
    from porism.discrepancies.radial import Distance, radial_kernel

    check_generator(rng)
    first, second = _rows(x, y)
    pooled = np.concatenate([first, second])
    if not isinstance(kernel, str):
        check_callable(kernel=kernel)
        gram: Kernel = kernel
    elif kernel == "energy":
        gram = Distance()
    else:
        # the bandwidth may look at some of the points: a random order keeps it from seeing which sample they are of
        gram = radial_kernel(kernel, bandwidth, pooled[rng.permutation(len(pooled))])
    return _quadratic_test("kernel", gram(pooled, pooled), len(first), len(pooled), permutations, rng)


def energy_test(x: Any, y: Any, *, permutations: int | None = 999, rng: np.random.Generator) -> TwoSampleTest:
    """Permutation test of the energy distance ``2 E|X - Y| - E|X - X'| - E|Y - Y'|``.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), or (n,) and (m,) for numbers.
    permutations, rng
        As for :func:`permutation_test`. Distances are computed once, on the pooled sample.

    Returns
    -------
    TwoSampleTest
        Its statistic is the V-statistic, not its root, at least 0 up to rounding.

    Raises
    ------
    ParameterError
        As :func:`permutation_test`.

    Notes
    -----
    Szekely and Rizzo, Journal of Statistical Planning and Inference 2013, equation 6.1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> test = energy_test([0.0, 1.0], [5.0, 7.0], permutations=None, rng=rng)
    >>> test.statistic, round(test.p_value, 10)
    (9.5, 0.3333333333)
    """
    from porism.discrepancies.radial import Distance

    check_generator(rng)
    first, second = _rows(x, y)
    pooled = np.concatenate([first, second])
    gram = 2 * Distance()(pooled, pooled)
    return _quadratic_test("distances of x and y", gram, len(first), len(pooled), permutations, rng)


def c2st(
    x: Any, y: Any, *, classifier: Classifier | None = None, held_out: float = 0.5, rng: np.random.Generator
) -> TwoSampleTest:
    """Classifier two-sample test: can a classifier tell held-out members of the samples apart?

    Parameters
    ----------
    x, y
        Samples, shapes (n, ...) and (m, ...), one shape after the first axis, at least two members each.
    classifier
        Function ``(train, labels, test)`` that returns the predicted labels of ``test``, 0 for x and 1 for y;
        None is the vote of the ``sqrt(len(train))`` nearest neighbours.
    held_out
        Share of each sample that the classifier does not see, in (0, 1).
    rng
        Splits the samples and breaks ties in ``randomized_p_value``.

    Returns
    -------
    TwoSampleTest
        Its statistic is the mean of the two samples' held-out accuracies, 1/2 if they cannot be told apart.

    Raises
    ------
    ParameterError
        For samples of fewer than two, shapes that do not fit, values that are not finite, predictions other than 0
        and 1, or an rng that is no Generator.

    Notes
    -----
    Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017. They approximate the null law of the
    accuracy by a normal; given the predictions and the sample sizes, the number of hits in y is hypergeometric
    under the null hypothesis, so the test here is Fisher's and its level is exact.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> test = c2st(rng.normal(size=(60, 2)), rng.normal(3, 1, size=(60, 2)), rng=rng)
    >>> test.statistic > 0.9, test.p_value < 1e-6
    (True, True)
    """
    from scipy.stats import hypergeom

    check_generator(rng)
    held_out = check_fraction("held_out", held_out)
    train, test = zip(
        *(_held_out(name, s, held_out, rng) for name, s in zip("xy", _samples(x, y), strict=True)), strict=True
    )
    labels = np.repeat([0, 1], [len(part) for part in train])
    pooled = np.concatenate(test)
    predict = _nearest_neighbours if classifier is None else classifier
    check_callable(classifier=predict)
    (predicted,) = to_numpy(classifier=predict(np.concatenate(train), labels, pooled))
    if predicted.shape != (len(pooled),) or not np.isin(predicted, (0, 1)).all():
        raise ParameterError(f"classifier must return a 0 or 1 for each of {len(pooled)} rows")
    n, m = len(test[0]), len(test[1])
    hits = int(predicted[n:].sum())
    null = hypergeom(n + m, int(predicted.sum()), m)
    statistic = (1 - predicted[:n].mean() + predicted[n:].mean()) / 2
    above = float(null.sf(hits))
    tied = float(null.pmf(hits))
    return TwoSampleTest(float(statistic), min(above + tied, 1.0), min(above + rng.uniform() * tied, 1.0))


def _quadratic_test(
    name: str, gram: Any, n: int, size: int, permutations: int | None, rng: np.random.Generator
) -> TwoSampleTest:
    """Statistic ``w' K w`` with w = 1/n on the first sample and -1/m on the second: the V-statistic of the MMD."""
    (matrix,) = to_numpy(**{name: gram})
    check_finite(**{name: matrix})
    if matrix.shape != (size, size):
        raise ParameterError(f"{name} must return shape {(size, size)} for the pooled sample, got {matrix.shape}")

    def evaluate(splits: np.ndarray) -> np.ndarray:
        w = np.where(splits, 1 / n, -1 / (size - n))
        return np.asarray(np.einsum("bi,bi->b", w @ matrix, w))

    return _compare(evaluate, n, size, permutations, rng, scale=float(abs(matrix).max()))


def _compare(
    evaluate: Callable[[np.ndarray], np.ndarray],
    n: int,
    size: int,
    permutations: int | None,
    rng: np.random.Generator,
    scale: float = 0.0,
) -> TwoSampleTest:
    """Rank the observed split, the first n, among others; ``evaluate`` maps boolean rows to statistics."""
    observed = np.arange(size) < n
    if permutations is None:
        if comb(size, n) > _MOST_SPLITS:
            raise ParameterError(
                f"permutations must be given: there are {comb(size, n)} splits, too many to go through"
            )
        splits = np.zeros((comb(size, n), size), dtype=bool)
        for row, members in zip(splits, combinations(range(size), n), strict=True):
            row[list(members)] = True  # the observed split comes first
    else:
        count = check_count("permutations", permutations, 1)
        splits = np.concatenate([observed[None], rng.permuted(np.tile(observed, (count, 1)), axis=1)])
    values = evaluate(splits)
    if np.isnan(values).any():
        raise ParameterError("statistic must not be NaN")
    p_value, randomized = _p_values(values, rng.uniform(), scale)
    return TwoSampleTest(float(values[0]), p_value, randomized)


def _p_values(values: np.ndarray, uniform: float, scale: float = 0.0) -> tuple[float, float]:
    """p-values of the first of exchangeable values, plain and with ties broken by a uniform number."""
    finite = values[np.isfinite(values)]
    slack = _TIE * max(scale, float(abs(finite).max(initial=0.0)))
    ties = (values == values[0]) | (abs(values - values[0]) <= slack) if np.isfinite(values[0]) else values == values[0]
    above = int(((values > values[0]) & ~ties).sum())
    tied = int(ties.sum())
    return (above + tied) / len(values), (above + uniform * tied) / len(values)


def _nearest_neighbours(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    k = max(int(len(train) ** 0.5), 1)
    _, nearest = cKDTree(train.reshape(len(train), -1)).query(test.reshape(len(test), -1), k=[*range(1, k + 1)])
    return np.asarray(labels[nearest].mean(axis=1) > labels.mean())


def _held_out(name: str, sample: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if len(sample) < 2:
        raise ParameterError(f"{name} must have at least two members, one to train on and one to test")
    shuffled = sample[rng.permutation(len(sample))]
    size = min(max(round(share * len(sample)), 1), len(sample) - 1)
    return shuffled[size:], shuffled[:size]


def _samples(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = to_numpy(x=x, y=y)
    check_finite(x=first, y=second)
    for name, value in (("x", first), ("y", second)):
        if value.ndim == 0 or value.size == 0:
            raise ParameterError(f"{name} must hold at least one member, its shape is {value.shape}")
    if first.shape[1:] != second.shape[1:]:
        raise ParameterError(f"x has shape {first.shape} and y {second.shape}: they must agree after the first axis")
    return first, second


def _rows(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = _samples(x, y)
    if first.ndim > 2:
        raise ParameterError(f"x must have shape (n, d) or (n,), got {first.shape}")
    return first.reshape(len(first), -1), second.reshape(len(second), -1)
