"""Judging prediction intervals and quantiles; all keep the backend and its gradients, but coverage has none."""

from __future__ import annotations

from typing import Any

from porism.arrays import Array, Namespace, check_not_nan, floating
from porism.errors import ParameterError
from porism.metrics._checks import check_fraction, check_same_length


def coverage(y: Any, low: Any, high: Any) -> Array:
    """Fraction of values inside their closed intervals.

    Parameters
    ----------
    y
        Observed values, any shape that is not empty.
    low, high
        Ends of the intervals, of the same shape; ``low <= high``, infinite ends allowed.

    Returns
    -------
    Array
        Scalar in [0, 1] of the input's backend.

    Raises
    ------
    ParameterError
        For shapes that differ, NaN, or an interval with ``low > high``.

    Examples
    --------
    >>> float(coverage([1.0, 2.0], [0.0, 2.5], [1.0, 3.0]))
    0.5
    """
    xp, (y, low, high) = _intervals(y=y, low=low, high=high)
    return xp.mean(xp.astype((low <= y) & (y <= high), y.dtype))


def mean_width(low: Any, high: Any) -> Array:
    """Mean length of the intervals.

    Parameters
    ----------
    low, high
        Ends of the intervals, one shape.

    Returns
    -------
    Array
        Scalar of the input's backend; ``inf`` if an interval is unbounded, 0 for one that is a point at infinity.

    Raises
    ------
    ParameterError
        For shapes that differ, NaN, or an interval with ``low > high``.

    Examples
    --------
    >>> float(mean_width([0.0, 1.0], [1.0, 4.0]))
    2.0
    """
    xp, (low, high) = _intervals(low=low, high=high)
    return xp.mean(_difference(xp, high, low))


def interval_score(y: Any, low: Any, high: Any, *, alpha: float) -> Array:
    """Winkler's score of central intervals: width, plus 2 / alpha times how far the value lies outside.

    Parameters
    ----------
    y
        Observed values, any shape that is not empty.
    low, high
        The alpha/2 and 1 - alpha/2 quantiles of the forecast, of the same shape.
    alpha
        One minus the nominal coverage, in (0, 1).

    Returns
    -------
    Array
        Mean score, a scalar of the input's backend, smaller is better; ``inf`` if an interval is unbounded.

    Raises
    ------
    ParameterError
        For shapes that differ, NaN, an interval with ``low > high``, or alpha outside (0, 1).

    Notes
    -----
    Gneiting and Raftery, JASA 2007, equation 43. It is 2 / alpha times the sum of the two quantiles'
    :func:`pinball_loss`, so it is minimised in mean by the true quantiles.

    Examples
    --------
    >>> float(interval_score([1.0, 5.0], [0.0, 0.0], [2.0, 4.0], alpha=0.5))
    5.0
    """
    alpha = check_fraction("alpha", alpha)
    xp, (y, low, high) = _intervals(y=y, low=low, high=high)
    inside = xp.zeros_like(y)
    below = xp.where(y < low, _difference(xp, low, y), inside)
    above = xp.where(y > high, _difference(xp, y, high), inside)
    return xp.mean(_difference(xp, high, low) + 2 / alpha * (below + above))


def pinball_loss(y: Any, quantile: Any, *, level: float) -> Array:
    """Quantile loss: ``level`` times the shortfall of the forecast, ``1 - level`` times its excess.

    Parameters
    ----------
    y
        Observed values, any shape that is not empty.
    quantile
        Forecast quantiles, of the same shape.
    level
        Which quantile, in (0, 1).

    Returns
    -------
    Array
        Mean loss, a scalar of the input's backend, at least 0; ``inf`` if one of the two is infinite, 0 for
        equal infinities.

    Raises
    ------
    ParameterError
        For shapes that differ, NaN, or a level outside (0, 1).

    Notes
    -----
    Koenker and Bassett, Econometrica 1978. At a tie the gradient is the mean of the one-sided ones.

    Examples
    --------
    >>> float(pinball_loss([1.0, 2.0], [0.0, 4.0], level=0.75))
    0.625
    """
    level = check_fraction("level", level)
    xp, (y, q) = floating(y=y, quantile=quantile)
    _check_one_shape(y=y, quantile=q)
    check_not_nan(y=y, quantile=q)
    gap = _difference(xp, y, q)
    zero = xp.zeros_like(gap)
    return xp.mean(level * xp.maximum(gap, zero) + (1 - level) * xp.maximum(-gap, zero))


def _difference(xp: Namespace, a: Array, b: Array) -> Array:
    """``a - b``, and 0 where both are the same infinity."""
    same = (a == b) & xp.isinf(a)
    zero = xp.zeros_like(a)
    return xp.where(same, zero, a) - xp.where(same, zero, b)


def _intervals(**arrays: Any) -> tuple[Namespace, tuple[Array, ...]]:
    xp, converted = floating(**arrays)
    named = dict(zip(arrays, converted, strict=True))
    _check_one_shape(**named)
    check_not_nan(**named)
    if bool((named["low"] > named["high"]).any()):
        raise ParameterError("low must not exceed high")
    return xp, converted


def _check_one_shape(**arrays: Array) -> None:
    check_same_length(**arrays)
    shapes = {name: tuple(value.shape) for name, value in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ParameterError(" and ".join(f"{name} is {shape}" for name, shape in shapes.items()) + ": one shape")
