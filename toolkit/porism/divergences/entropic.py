"""The divergences built from Kullback and Leibler's, between probabilities or densities."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from porism.arrays import Array
from porism.divergences.generators import generator

_KL = generator("kl")
_REVERSE_KL = generator("reverse_kl")
_JEFFREYS = generator("jeffreys")
_JS = generator("js")


def kl_divergence(
    p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Kullback-Leibler divergence KL(p||q) = sum p log(p/q), in nats.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis, weights, normalize
        As for :func:`porism.divergences.f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, inf]; ``inf`` where p has mass and q has none.

    Raises
    ------
    ParameterError
        As :func:`porism.divergences.f_divergence`.

    Notes
    -----
    With p the target this is the "forward" KL of a model q. Kullback and Leibler 1951, equation 2.4.

    Examples
    --------
    >>> round(float(kl_divergence([0.5, 0.5], [0.25, 0.75])), 6)
    0.143841
    """
    if weights is None and not normalize and (value := _short_kl(p, q, axis)) is not None:
        return value
    return _KL.divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def reverse_kl_divergence(
    p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Reverse Kullback-Leibler divergence KL(q||p) = sum q log(q/p), in nats.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis, weights, normalize
        As for :func:`porism.divergences.f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, inf]; ``inf`` where q has mass and p has none.

    Raises
    ------
    ParameterError
        As :func:`porism.divergences.f_divergence`.

    Notes
    -----
    ``kl_divergence`` with its arguments swapped; mode-seeking for a model q of a target p.

    Examples
    --------
    >>> round(float(reverse_kl_divergence([0.5, 0.5], [0.25, 0.75])), 6)
    0.130812
    """
    if weights is None and not normalize and (value := _short_kl(q, p, axis)) is not None:
        return value
    return _REVERSE_KL.divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def jeffreys_divergence(
    p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Jeffreys divergence KL(p||q) + KL(q||p) = sum (p - q) log(p/q), in nats.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis, weights, normalize
        As for :func:`porism.divergences.f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, inf]; ``inf`` where one has mass and the other none.

    Raises
    ------
    ParameterError
        As :func:`porism.divergences.f_divergence`.

    Notes
    -----
    Jeffreys 1946. Some libraries halve it and say "symmetric KL".

    Examples
    --------
    >>> round(float(jeffreys_divergence([0.5, 0.5], [0.25, 0.75])), 6)
    0.274653
    """
    return _JEFFREYS.divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def js_divergence(
    p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Jensen-Shannon divergence (KL(p||m) + KL(q||m))/2 with m = (p + q)/2, in nats.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis, weights, normalize
        As for :func:`porism.divergences.f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, log 2]; log 2 for disjoint supports.

    Raises
    ------
    ParameterError
        As :func:`porism.divergences.f_divergence`.

    Notes
    -----
    Lin 1991. Its square root is a metric, and what ``scipy.spatial.distance.jensenshannon`` returns. The generator
    ``u log u - (u + 1) log((u + 1)/2)`` of the GAN literature gives twice this.

    Examples
    --------
    >>> round(float(js_divergence([0.5, 0.5], [0.25, 0.75])), 6)
    0.033822
    """
    return _JS.divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def generalised_js_divergence(
    p: Array, q: Array, *, weight: float, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Jensen-Shannon divergence w KL(p||m) + (1-w) KL(q||m) with m = w p + (1-w) q, in nats.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    weight
        Of p in the mixture m, between 0 and 1, both excluded.
    axis, weights, normalize
        As for :func:`porism.divergences.f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, -w log w - (1-w) log(1-w)], its largest value for disjoint supports.

    Raises
    ------
    ParameterError
        As :func:`porism.divergences.f_divergence`, and for weight out of its range.

    Notes
    -----
    Lin 1991, section IV; the JSD(beta) of on-policy distillation with beta = w. Divided by w it tends to KL(p||q) as
    w goes to 0, divided by 1 - w to KL(q||p) as w goes to 1.

    Examples
    --------
    >>> round(float(generalised_js_divergence([0.5, 0.5], [0.25, 0.75], weight=0.5)), 6)
    0.033822
    """
    return generator("generalised_js", weight=weight).divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def skew_kl_divergence(
    p: Array, q: Array, *, skew: float, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Skew Kullback-Leibler divergence KL(p||(1-s) p + s q), in nats.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    skew
        Of q in the mixture, over 0 and up to 1, where it is KL(p||q).
    axis, weights, normalize
        As for :func:`porism.divergences.f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, -log(1-s)]; at s = 1 as ``kl_divergence``.

    Raises
    ------
    ParameterError
        As :func:`porism.divergences.f_divergence`, and for skew out of its range.

    Notes
    -----
    Lee 1999. The weight is that of q: others write the skew divergence with that of p.

    Examples
    --------
    >>> round(float(skew_kl_divergence([0.5, 0.5], [0.25, 0.75], skew=0.5)), 6)
    0.032269
    """
    return generator("skew_kl", skew=skew).divergence(p, q, axis=axis, weights=weights, normalize=normalize)


@functools.cache
def _kl_div() -> Any:
    from scipy.special import kl_div  # 30 ms to import, so when first needed

    return kl_div


def _short_kl(p: Array, q: Array, axis: int) -> Array | None:
    """KL of float64 arrays of one shape in a few microseconds; None for anything that wants care.

    A value that is finite and not tiny shows that no entry is negative, NaN or infinite; the sums remain.
    """
    if type(p) is not np.ndarray or type(q) is not np.ndarray or p.shape != q.shape:
        return None
    if p.dtype != np.float64 or q.dtype != np.float64 or type(axis) is not int or not -p.ndim <= axis < p.ndim:
        return None
    add = np.add.reduce
    value = add(_kl_div()(p, q), axis)
    if p.ndim == 1:
        fine = 1e-4 < value < math.inf and -1e-6 < add(p) - 1 < 1e-6 and -1e-6 < add(q) - 1 < 1e-6
    else:
        fine = value.size > 0 and value.min() > 1e-4 and value.max() < math.inf
        fine = fine and all(abs(add(x, axis) - 1).max() < 1e-6 for x in (p, q))
    return value if fine else None
