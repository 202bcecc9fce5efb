"""The f-divergences by their names, between distributions given by logits."""

from __future__ import annotations

import math  # noqa: F401  (the examples use it)

from porism.arrays import Array
from porism.divergences.generators import Generator, generator
from porism.divergences.named import resolve

_KL = generator("kl")
_REVERSE_KL = generator("reverse_kl")
_JEFFREYS = generator("jeffreys")
_JS = generator("js")
_TV = generator("tv")
_SQUARED_HELLINGER = generator("squared_hellinger")
_PEARSON_CHI2 = generator("pearson_chi2")
_NEYMAN_CHI2 = generator("neyman_chi2")
_TRIANGULAR = generator("triangular")


def f_divergence_logits(
    generator: Generator | str, p_logits: Array, q_logits: Array, *, axis: int = -1, **parameters: float
) -> Array:
    """D_f(softmax(p_logits)||softmax(q_logits)) of any generator, in log space.

    Parameters
    ----------
    generator
        A :class:`Generator`, or the name of one of the table with its ``**parameters``.
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; other axes broadcast. ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``, from 0 to ``generator.bound``. Entries that both mask add nothing and have gradient zero;
        one that only p masks adds q f(0), one that only q masks p f'(inf), which is ``inf`` for some generators.

    Raises
    ------
    ParameterError
        For NaN, ``inf``, nothing but ``-inf`` along the axis, shapes that do not broadcast, mixed libraries.

    Notes
    -----
    Tensors are computed by :mod:`porism.kernels`, whose gradient is analytic and of first order; for higher
    orders pass ``softmax`` of the logits to :func:`f_divergence`.

    Examples
    --------
    >>> round(float(f_divergence_logits("alpha", [0.0, 0.0], [0.0, math.log(3)], alpha=2)), 6)
    0.166667
    """
    return resolve(generator, parameters).divergence_logits(p_logits, q_logits, axis=axis)


def kl_divergence_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """Kullback-Leibler divergence KL(p||q) of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`kl_divergence`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`.

    Examples
    --------
    >>> round(float(kl_divergence_logits([0.0, 0.0], [0.0, math.log(3)])), 6)
    0.143841
    """
    return _KL.divergence_logits(p_logits, q_logits, axis=axis)


def reverse_kl_divergence_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """Reverse Kullback-Leibler divergence KL(q||p) of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`reverse_kl_divergence`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`.

    Examples
    --------
    >>> round(float(reverse_kl_divergence_logits([0.0, 0.0], [0.0, math.log(3)])), 6)
    0.130812
    """
    return _REVERSE_KL.divergence_logits(p_logits, q_logits, axis=axis)


def jeffreys_divergence_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """Jeffreys divergence of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`jeffreys_divergence`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`.

    Examples
    --------
    >>> round(float(jeffreys_divergence_logits([0.0, 0.0], [0.0, math.log(3)])), 6)
    0.274653
    """
    return _JEFFREYS.divergence_logits(p_logits, q_logits, axis=axis)


def js_divergence_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """Jensen-Shannon divergence of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`js_divergence`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`.

    Examples
    --------
    >>> round(float(js_divergence_logits([0.0, 0.0], [0.0, math.log(3)])), 6)
    0.033822
    """
    return _JS.divergence_logits(p_logits, q_logits, axis=axis)


def generalised_js_divergence_logits(p_logits: Array, q_logits: Array, *, weight: float, axis: int = -1) -> Array:
    """Weighted Jensen-Shannon divergence of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    weight
        Of p in the mixture m, between 0 and 1, both excluded.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`generalised_js_divergence`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`, and for weight out of its range.

    Examples
    --------
    >>> round(float(generalised_js_divergence_logits([0.0, 0.0], [0.0, math.log(3)], weight=0.5)), 6)
    0.033822
    """
    return generator("generalised_js", weight=weight).divergence_logits(p_logits, q_logits, axis=axis)


def skew_kl_divergence_logits(p_logits: Array, q_logits: Array, *, skew: float, axis: int = -1) -> Array:
    """Skew Kullback-Leibler divergence of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    skew
        Of q in the mixture, over 0 and up to 1, where it is KL(p||q).
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`skew_kl_divergence`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`, and for skew out of its range.

    Examples
    --------
    >>> round(float(skew_kl_divergence_logits([0.0, 0.0], [0.0, math.log(3)], skew=0.5)), 6)
    0.032269
    """
    return generator("skew_kl", skew=skew).divergence_logits(p_logits, q_logits, axis=axis)


def tv_distance_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """Total variation distance of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`tv_distance`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`.

    Examples
    --------
    >>> round(float(tv_distance_logits([0.0, 0.0], [0.0, math.log(3)])), 6)
    0.25
    """
    return _TV.divergence_logits(p_logits, q_logits, axis=axis)


def squared_hellinger_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """Squared Hellinger distance of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`squared_hellinger`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`.

    Examples
    --------
    >>> round(float(squared_hellinger_logits([0.0, 0.0], [0.0, math.log(3)])), 6)
    0.034074
    """
    return _SQUARED_HELLINGER.divergence_logits(p_logits, q_logits, axis=axis)


def pearson_chi2_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """Pearson's chi-squared divergence of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`pearson_chi2`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`.

    Examples
    --------
    >>> round(float(pearson_chi2_logits([0.0, 0.0], [0.0, math.log(3)])), 6)
    0.333333
    """
    return _PEARSON_CHI2.divergence_logits(p_logits, q_logits, axis=axis)


def neyman_chi2_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """Neyman's chi-squared divergence of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`neyman_chi2`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`.

    Examples
    --------
    >>> round(float(neyman_chi2_logits([0.0, 0.0], [0.0, math.log(3)])), 6)
    0.25
    """
    return _NEYMAN_CHI2.divergence_logits(p_logits, q_logits, axis=axis)


def alpha_divergence_logits(p_logits: Array, q_logits: Array, *, alpha: float, axis: int = -1) -> Array:
    """Amari's alpha-divergence of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    alpha
        Any finite number: 0 is KL(q||p), 1 is KL(p||q), 1/2 four times the squared Hellinger distance, 2 half of
        Pearson's and -1 half of Neyman's chi-squared; continuous through all of them.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`alpha_divergence`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`, and for alpha out of its range.

    Examples
    --------
    >>> round(float(alpha_divergence_logits([0.0, 0.0], [0.0, math.log(3)], alpha=0.5)), 6)
    0.136297
    """
    return generator("alpha", alpha=alpha).divergence_logits(p_logits, q_logits, axis=axis)


def triangular_discrimination_logits(p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
    """Triangular discrimination of p = softmax(p_logits) and q = softmax(q_logits).

    Parameters
    ----------
    p_logits, q_logits
        Unnormalised log-probabilities along ``axis``; ``-inf`` masks an entry.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Without ``axis``; see :func:`triangular_discrimination`.

    Raises
    ------
    ParameterError
        As :func:`f_divergence_logits`.

    Examples
    --------
    >>> round(float(triangular_discrimination_logits([0.0, 0.0], [0.0, math.log(3)])), 6)
    0.133333
    """
    return _TRIANGULAR.divergence_logits(p_logits, q_logits, axis=axis)
