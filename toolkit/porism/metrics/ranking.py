"""Ranking and retrieval; computed in numpy, in float64, without gradient.

Equal scores carry no order, and every function says what they are worth: one half in the AUC, one threshold in the
average precision, and for measures of a query the exact expectation over random orders of the ties.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from porism.arrays import check_count
from porism.errors import ParameterError
from porism.metrics._checks import check_binary, paired_vectors, to_numpy


def roc_auc(scores: Any, labels: Any) -> float:
    """Probability that a positive scores above a negative, ties counting one half.

    Parameters
    ----------
    scores
        Larger means more likely positive, shape (n,); infinities are ordered like numbers.
    labels
        0 or 1, shape (n,).

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ParameterError
        For lengths that differ, NaN, labels other than 0 and 1, or one class only, where it is undefined.

    Notes
    -----
    The Mann-Whitney statistic over the number of pairs: Hanley and McNeil, Radiology 1982.

    Examples
    --------
    >>> roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    score, label = _scores_and_labels(scores, labels)
    if label.all() or not label.any():
        raise ParameterError("labels must hold both classes, the AUC is undefined for one")
    negatives, positives = np.sort(score[label == 0]), score[label == 1]
    # twice the wins, in integers: exact for any number of pairs below 2^62
    wins = np.searchsorted(negatives, positives, side="left").sum()
    wins += np.searchsorted(negatives, positives, side="right").sum()
    return float(wins / (2 * len(negatives) * len(positives)))


def average_precision(scores: Any, labels: Any) -> float:
    """Mean precision at the positives, ``sum_t (recall_t - recall_(t-1)) precision_t``.

    Parameters
    ----------
    scores
        Larger means more likely positive, shape (n,).
    labels
        0 or 1, shape (n,).

    Returns
    -------
    float
        In (0, 1]. The sum is over distinct scores, so tied examples are retrieved together.

    Raises
    ------
    ParameterError
        For lengths that differ, NaN, labels other than 0 and 1, or no positive.

    Notes
    -----
    Without interpolation, as in Su, Yuan, Zhu, ICTIR 2015.

    Examples
    --------
    >>> round(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 10)
    0.8333333333
    """
    score, label = _scores_and_labels(scores, labels)
    if not label.any():
        raise ParameterError("labels must hold a positive, precision at positives is undefined without")
    _, group = np.unique(-score, return_inverse=True)
    hits = np.bincount(group, label)
    precision = np.cumsum(hits) / np.cumsum(np.bincount(group))
    return float(hits @ precision / label.sum())


def hit_rate(scores: Any, relevant: Any, *, k: int) -> float:
    """HIT@k: fraction of queries with a relevant item among the k of highest score.

    Parameters
    ----------
    scores
        Score of each item for each query, shape (queries, items).
    relevant
        0 or 1, same shape, at least one 1 for each query.
    k
        From 1 to the number of items.

    Returns
    -------
    float
        In [0, 1]; the expectation over random orders of tied items.

    Raises
    ------
    ParameterError
        For shapes that differ, NaN, entries other than 0 and 1, a query without a relevant item, or k out of range.

    Examples
    --------
    >>> hit_rate([[3, 2, 1], [3, 2, 1]], [[1, 0, 0], [0, 0, 1]], k=2)
    0.5
    >>> round(hit_rate([[1, 1, 1]], [[0, 1, 0]], k=1), 10)
    0.3333333333
    """
    from scipy.special import gammaln

    above, tied, relevant_tied = _first_relevant(scores, relevant)
    k = check_count("k", k, 1, np.shape(scores)[1])
    drawn = np.clip(k - above, 0, tied)
    others = tied - relevant_tied

    # all of the tied items that still fit are irrelevant: C(others, drawn) / C(tied, drawn)
    def log_choose(n: np.ndarray, r: np.ndarray) -> np.ndarray:
        return np.asarray(gammaln(n + 1) - gammaln(r + 1) - gammaln(n - r + 1))

    possible = drawn <= others
    drawn_if = np.where(possible, drawn, 0)
    miss = np.where(possible, np.exp(log_choose(others, drawn_if) - log_choose(tied, drawn_if)), 0.0)
    return float(np.mean(1 - miss))


def mean_reciprocal_rank(scores: Any, relevant: Any) -> float:
    """Mean over queries of one over the rank of the first relevant item.

    Parameters
    ----------
    scores
        Score of each item for each query, shape (queries, items).
    relevant
        0 or 1, same shape, at least one 1 for each query.

    Returns
    -------
    float
        In (0, 1]; the expectation over random orders of tied items.

    Raises
    ------
    ParameterError
        For shapes that differ, NaN, entries other than 0 and 1, or a query without a relevant item.

    Notes
    -----
    Voorhees, TREC-8 1999. With r relevant among t tied items the first relevant one is at place j with
    probability C(t - j, r - 1) / C(t, r).

    Examples
    --------
    >>> mean_reciprocal_rank([[3, 2, 1], [3, 2, 1]], [[1, 0, 0], [0, 1, 1]])
    0.75
    >>> mean_reciprocal_rank([[1, 1]], [[0, 1]])
    0.75
    """
    above, tied, relevant_tied = _first_relevant(scores, relevant)
    total = 0.0
    for g, t, r in zip(above, tied, relevant_tied, strict=True):
        others = t - r
        places = np.arange(1, others + 2)
        # P(first relevant is later than j) = prod_(i<=j) (others - i + 1) / (t - i + 1)
        later = np.cumprod(np.concatenate([[1.0], (others - places[:-1] + 1) / (t - places[:-1] + 1)]))
        at = later * r / (t - places + 1)
        total += float(np.sum(at / (g + places)))
    return total / len(above)


def ndcg(scores: Any, relevance: Any, *, k: int | None = None) -> float:
    """Discounted cumulative gain over that of the best order, mean over queries.

    Parameters
    ----------
    scores
        Score of each item for each query, shape (queries, items).
    relevance
        Gain of each item, same shape, not negative, some positive for each query. Gains are linear; pass
        ``2**grade - 1`` for exponential ones.
    k
        Count the first k places only; None counts all.

    Returns
    -------
    float
        In [0, 1]; tied items have their mean gain, the expectation over random orders.

    Raises
    ------
    ParameterError
        For shapes that differ, NaN, negative or infinite gains, a query without any, or k out of range.

    Notes
    -----
    Jarvelin and Kekalainen, ACM TOIS 2002, with discount ``1 / log2(1 + rank)``; ties: McSherry and Najork,
    ECIR 2008.

    Examples
    --------
    >>> round(ndcg([[3, 2, 1]], [[0, 1, 0]]), 10)
    0.6309297536
    """
    score, gain = _queries(scores=scores, relevance=relevance)
    if not bool(((gain >= 0) & (gain < np.inf)).all()):
        raise ParameterError("relevance must be finite and not negative")
    if not gain.any(axis=1).all():
        raise ParameterError("relevance must be positive for some item of each query")
    places = score.shape[1]
    discount = 1 / np.log2(np.arange(2, places + 2))
    discount[places if k is None else check_count("k", k, 1, places) :] = 0
    best = np.sort(gain, axis=1)[:, ::-1] @ discount
    return float(np.mean([_tied_gain(s, g) @ discount for s, g in zip(score, gain, strict=True)] / best))


def _tied_gain(score: np.ndarray, gain: np.ndarray) -> np.ndarray:
    _, group, sizes = np.unique(-score, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(group, gain) / sizes, sizes)


def _first_relevant(scores: Any, relevant: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items above the best relevant one, items tied with it, and the relevant ones among these, for each query."""
    score, label = _queries(scores=scores, relevant=relevant)
    check_binary(relevant=label)
    if not label.any(axis=1).all():
        raise ParameterError("relevant must hold a 1 for each query")
    best = np.where(label == 1, score, -np.inf).max(axis=1, keepdims=True)
    tied = score == best
    return (score > best).sum(axis=1), tied.sum(axis=1), (tied & (label == 1)).sum(axis=1)


def _queries(**arrays: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = to_numpy(**arrays)
    for name, value in zip(arrays, (first, second), strict=True):
        if value.ndim != 2 or value.size == 0:
            raise ParameterError(f"{name} must have shape (queries, items), not empty, got {value.shape}")
    if first.shape != second.shape:
        raise ParameterError(f"{' and '.join(arrays)} must have one shape, got {first.shape} and {second.shape}")
    return first, second


def _scores_and_labels(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    score, label = paired_vectors(scores=scores, labels=labels)
    check_binary(labels=label)
    return score, label
