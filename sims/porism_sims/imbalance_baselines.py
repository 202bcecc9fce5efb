"""What people do about unbalanced classes before they train a linear discriminant, on Gaussian and on real data.

Keep all data, throw majority samples away, draw minority samples again, or weigh the classes: each gives a linear rule,
whose error on balanced classes is exact for Gaussians and counted on the samples left out for scikit-learn's bundled
data. scikit-learn's own discriminant and logistic regression stand beside them.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from porism.arrays import check_count, check_generator, check_number
from porism.errors import ParameterError
from porism.parameters import validated
from porism_sims.label_shift import (
    Discriminant,
    class_errors,
    discriminant,
    down_sample,
    draw_class,
    geometry,
    summarise,
)

Array = NDArray[np.float64]
Strategy = Literal["all", "down", "over", "weighted", "logistic", "scikit-learn"]
Data = Literal["gaussian", "breast_cancer", "digits_1_7", "digits_3_8", "digits_4_9"]

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
REAL: tuple[Data, ...] = get_args(Data)[1:]


class Classes(NamedTuple):
    """Samples of two classes, shapes (n0, p) and (n1, p)."""

    class0: Array
    class1: Array


class Split(NamedTuple):
    """A training set, and the samples of both classes that are not in it."""

    train: Classes
    test: Classes


def load(data: Data) -> Classes:
    """Two classes of real data that scikit-learn brings along, the larger one first.

    Parameters
    ----------
    data
        ``"breast_cancer"``: 357 benign and 212 malignant tumours, 30 measurements. ``"digits_1_7"``, ``"digits_3_8"``
        and ``"digits_4_9"``: about 180 handwritten digits of each kind, 8 x 8 pixels, without those that never vary.

    Returns
    -------
    Classes
        Every feature with mean 0 and variance 1 over both classes together.

    Raises
    ------
    ParameterError
        If the data have another name.

    Examples
    --------
    >>> [part.shape for part in load("breast_cancer")]
    [(357, 30), (212, 30)]
    """
    return Classes(*(part.copy() for part in _loaded(data)))


def split(rng: np.random.Generator, classes: Classes, *, majority: int, minority: int) -> Split:
    """Draw a training set of ``majority`` and ``minority`` samples without replacement; the rest is for testing.

    Raises
    ------
    ParameterError
        If a size is below 2, or leaves fewer than 10 samples of its class for the test.

    Examples
    --------
    >>> train, test = split(np.random.default_rng(0), load("breast_cancer"), majority=60, minority=20)
    >>> len(train.class1), len(test.class1)
    (20, 192)
    """
    check_generator(rng)
    parts = []
    for name, size, samples in zip(("majority", "minority"), (majority, minority), classes, strict=True):
        check_count(name, size, 2, len(samples) - 10)
        parts.append(np.split(rng.permutation(samples), [size]))
    return Split(*(Classes(parts[0][k], parts[1][k]) for k in range(2)))


def train(strategy: Strategy, rng: np.random.Generator, classes: Classes, *, ridge: float = 0.0) -> Discriminant:
    """The linear rule of a strategy, without the training prior: both classes count alike.

    Parameters
    ----------
    strategy
        ``"all"``: the discriminant on all data. ``"down"``: on equally many of both classes. ``"over"``: with minority
        samples drawn again at random until the classes are equal. ``"weighted"``: with the mean of the classes' own
        covariances for the pooled one, which is the discriminant on samples of weight 1 / class size.
        ``"logistic"``: logistic regression with balanced class weights. ``"scikit-learn"``: its discriminant with
        equal priors, by singular values or, with a ridge, by the shrinkage that has the same direction as ``"all"``.
    rng
        Draws what is thrown away or drawn again.
    classes
        The training set, at least 2 samples of each.
    ridge
        In units of the features' variance; 0 is the (pseudo-)inverse, and no penalty for ``"logistic"``, which has
        ``ridge * n / 2`` times the squared weights beside its sum of losses.

    Raises
    ------
    ParameterError
        If the strategy is unknown, or the samples or the ridge do not suit the discriminant.

    Examples
    --------
    >>> data = split(np.random.default_rng(0), load("breast_cancer"), majority=60, minority=20)
    >>> rule = train("weighted", np.random.default_rng(1), data.train, ridge=0.1)
    >>> rule.weights.shape
    (30,)
    """
    check_generator(rng)
    check_number("ridge", ridge, at_least=0, below=np.inf)
    match strategy:
        case "all":
            return discriminant(summarise(*classes), ridge=ridge)
        case "down":
            return discriminant(summarise(*down_sample(rng, *classes)), ridge=ridge)
        case "over":
            return discriminant(summarise(*_drawn_again(rng, classes)), ridge=ridge)
        case "weighted":
            return discriminant(summarise(*_weighted(classes)), ridge=ridge)
        case "logistic":
            return _logistic(classes, ridge)
        case "scikit-learn":
            return _scikit_learn(classes, ridge)
    raise ParameterError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")


@validated
def simulate(
    rng: np.random.Generator,
    *,
    data: Data = "digits_3_8",
    strategy: Strategy = "all",
    majority: Annotated[int, Interval(ge=2, le=20_000)] = 60,
    minority: Annotated[int, Interval(ge=2, le=20_000)] = 20,
    ridge: Annotated[float, Interval(ge=0, le=1e6)] = 0.0,
    dimension: Annotated[int, Interval(ge=1, le=4000)] = 60,
    signal: Annotated[float, Interval(ge=0, le=400)] = 9.0,
    repetitions: Annotated[int, Interval(ge=1, le=10_000)] = 20,
) -> dict[str, Array]:
    """Train on unbalanced classes by a strategy, and return the error on each class.

    Parameters
    ----------
    rng
        Draws training sets; all strategies see the same ones from the same generator.
    data
        ``"gaussian"``, or the name of real data as :func:`load` has them.
    strategy, ridge
        As :func:`train`.
    majority, minority
        Sizes of the training classes; real data keep at least 10 samples of each class for the test.
    dimension, signal
        Number of features and squared Mahalanobis distance of Gaussian classes; real data have their own.
    repetitions
        Independent training sets.

    Returns
    -------
    dict
        ``majority_error``, ``minority_error`` and their mean ``error``, shape (repetitions,) each.

    Raises
    ------
    ParameterError
        If a parameter is out of its range or the data are too few.

    Examples
    --------
    >>> errors = simulate(np.random.default_rng(0), data="breast_cancer", ridge=1.0, repetitions=5)
    >>> bool(errors["error"].mean() < 0.1)
    True
    """
    means, variances = geometry(dimension, signal)
    errors = np.empty((repetitions, 2))
    for row in errors:
        # Drawn from a child, so that the training sets are the same whatever the strategy draws.
        (child,) = rng.spawn(1)
        if data == "gaussian":
            sizes = (majority, minority)
            classes = Classes(
                *(draw_class(rng, size, mean, variances) for size, mean in zip(sizes, means, strict=True))
            )
            row[:] = class_errors(train(strategy, child, classes, ridge=ridge), means, variances)
        else:
            parts = split(rng, Classes(*_loaded(data)), majority=majority, minority=minority)
            row[:] = error_rates(train(strategy, child, parts.train, ridge=ridge), parts.test)
    return {"majority_error": errors[:, 0], "minority_error": errors[:, 1], "error": errors.mean(axis=1)}


def error_rates(rule: Discriminant, classes: Classes) -> tuple[float, float]:
    """Shares of the samples of both classes that the rule takes for the other one.

    Examples
    --------
    >>> error_rates(Discriminant(np.array([1.0]), 0.0), Classes(np.array([[-1.0], [2.0]]), np.array([[3.0]])))
    (0.5, 0.0)
    """
    score0, score1 = (samples @ rule.weights + rule.offset for samples in classes)
    return float(np.mean(score0 > 0)), float(np.mean(score1 <= 0))


@functools.cache
def _loaded(data: Data) -> Classes:
    from sklearn.datasets import load_breast_cancer, load_digits

    if data not in REAL:
        raise ParameterError(f"data must be one of {', '.join(REAL)}, got {data!r}")
    x, y = (load_breast_cancer if data == "breast_cancer" else load_digits)(return_X_y=True)
    first, second = (1, 0) if data == "breast_cancer" else (int(digit) for digit in data.split("_")[1:])
    chosen = np.isin(y, (first, second))
    x, y = x[chosen], y[chosen]
    x = x[:, x.std(axis=0) > 0]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    classes = x[y == first], x[y == second]
    return Classes(*sorted(classes, key=len, reverse=True))


def _drawn_again(rng: np.random.Generator, classes: Classes) -> Classes:
    size = max(map(len, classes))
    more = (rng.integers(len(samples), size=size - len(samples)) for samples in classes)
    return Classes(*(np.concatenate([x, x[extra]]) for x, extra in zip(classes, more, strict=True)))


def _weighted(classes: Classes) -> Classes:
    """Samples with the same means, whose pooled covariance is the mean of the classes' (divisor n_k - 1)."""
    degrees = sum(map(len, classes)) - 2
    parts = []
    for samples in classes:
        mean = samples.mean(axis=0)
        parts.append(mean + (samples - mean) * np.sqrt(degrees / (2 * (len(samples) - 1))))
    return Classes(*parts)


def _stacked(classes: Classes) -> tuple[Array, NDArray[np.int64]]:
    return np.concatenate(classes), np.repeat([0, 1], [len(samples) for samples in classes])


def _logistic(classes: Classes, ridge: float) -> Discriminant:
    from sklearn.linear_model import LogisticRegression

    x, y = _stacked(classes)
    strength = 1 / (ridge * len(y)) if ridge > 0 else np.inf
    fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000).fit(x, y)
    return Discriminant(fitted.coef_[0], float(fitted.intercept_[0]))


def _scikit_learn(classes: Classes, ridge: float) -> Discriminant:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, y = _stacked(classes)
    # Its shrinkage is (1 - s) S + s tr(S)/p I, with divisor n and with priors for weights of the classes: these make
    # it pool by size. Equal priors come back as the offset below.
    share = np.bincount(y) / len(y)
    if ridge > 0:
        residuals = np.concatenate([samples - samples.mean(axis=0) for samples in classes])
        scale = np.mean(residuals**2) * len(y) / (len(y) - 2) / ridge
        fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1 / (1 + scale), priors=share).fit(x, y)
        return Discriminant(fitted.coef_[0], float(fitted.intercept_[0] - np.log(share[1] / share[0])))
    fitted = LinearDiscriminantAnalysis(solver="svd", priors=[0.5, 0.5]).fit(x, y)
    return Discriminant(fitted.coef_[0], float(fitted.intercept_[0]))
