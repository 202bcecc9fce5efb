"""Whether to keep unbalanced data: where the debiased discriminant gains from them, and what a ridge does to that.

The load is ``g = p / (2 n1)``, the aspect ratio of the set that is down-sampled to the minority's size; the ratio
``r = n0 / n1``; the signal the squared Mahalanobis distance. Derived from the limits in ``_engine.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from porism.arrays import check_number
from porism.errors import ParameterError
from porism_theory.statistics._covariance_engine import Intercept
from porism_theory.statistics._engine import Limit, errors, moments, pseudo_moments, ridgeless_moments

Array = NDArray[np.float64]

# Loads on which a critical ridge is sought, in units of (1 + ratio)/2, where the full data sit on the peak.
_LOADS = np.geomspace(0.05, 20, 600)


def separation(gamma: ArrayLike, spread: ArrayLike, signal: ArrayLike, **matrix: Any) -> Array:
    """``F = rho^2 / (signal + spread)``; the debiased rule errs with probability ``Phi(-signal sqrt(F) / 2)``.

    ``spread`` is ``gamma0 + gamma1``. Keyword arguments go to :func:`moments`.
    """
    return moments(gamma, **matrix).rho_squared / (np.asarray(signal) + spread)


def advantage(load: ArrayLike, ratio: ArrayLike, signal: ArrayLike, **matrix: Any) -> Array:
    """Whether keeping all data beats down-sampling the majority, for the debiased rule.

    Parameters
    ----------
    load
        ``g = p / (2 n1)``: the aspect ratio of the down-sampled set.
    ratio
        ``r = n0 / n1 >= 1``.
    signal
        Squared Mahalanobis distance.
    **matrix
        To :func:`moments`.

    Returns
    -------
    array
        ``(F_all - F_down) / (F_all + F_down)`` in [-1, 1], positive where keeping is better.
    """
    load, ratio = np.asarray(load, dtype=float), np.asarray(ratio, dtype=float)
    keep = separation(2 * load / (1 + ratio), 2 * load * (1 + ratio) / ratio, signal, **matrix)
    down = separation(load, 4 * load, signal, **matrix)
    return (keep - down) / (keep + down)


def keep_and_down(
    load: ArrayLike, ratio: ArrayLike, signal: ArrayLike, *, intercept: Intercept = "none", **matrix: Any
) -> tuple[Array, Array]:
    """Errors on balanced classes with all data and with the down-sampled set, for any intercept.

    Parameters are those of :func:`advantage` and the ``intercept`` of :func:`errors`.
    """
    gamma1 = 2 * np.asarray(load, dtype=float)
    whole, half = moments(gamma1 / (1 + np.asarray(ratio)), **matrix), moments(gamma1 / 2, **matrix)
    keep = errors(gamma1 / ratio, gamma1, signal, moments=whole, intercept=intercept)
    down = errors(gamma1, gamma1, signal, moments=half, intercept=intercept)
    return (keep[0] + keep[1]) / 2, (down[0] + down[1]) / 2


def smallest_gain(ratio: float, signal: float, *, intercept: Intercept = "debiased", **matrix: Any) -> float:
    """Smallest gain in error from keeping all data over 60 loads from 0.1 to 40.

    Examples
    --------
    >>> smallest_gain(3.0, 9.0, ridge=0.5) > 0 > smallest_gain(3.0, 9.0, ridge=0.05)
    True
    """
    keep, down = keep_and_down(np.geomspace(0.1, 40, 60), ratio, signal, intercept=intercept, **matrix)
    return float(np.min(down - keep))


def pseudo_upper_load(signal: Any, ratio: Any, sqrt: Callable[[Any], Any] = np.sqrt) -> Any:
    """``g+`` of the pseudo-inverse: the load above which keeping all data wins again."""
    a, c = 8 / ratio, signal * (ratio + 3) / (ratio + 1)
    b = 2 * signal / (1 + ratio) - 4 * (ratio + 2) / ratio
    return (-b + sqrt(b**2 + 4 * a * c)) / (2 * a)


def ridgeless_upper_load(signal: Any, ratio: Any, sqrt: Callable[[Any], Any] = np.sqrt) -> Any:
    """``g+`` of the vanishing ridge."""
    return (ratio + 1 + sqrt((ratio + 1) ** 2 + ratio * signal)) / 2


def upper_load_at_balance(signal: Any, sqrt: Callable[[Any], Any] = np.sqrt) -> Any:
    """``g*``: limit of the pseudo-inverse's ``g+`` for ``ratio -> 1``, in (3/2, 2)."""
    return (12 - signal + sqrt((12 - signal) ** 2 + 64 * signal)) / 16


def crossings_at_upper_loads(signal: Any, ratio: Any, order: int = 1) -> Any:
    """That both rules have equal errors at their own ``g+`` (or, for ``order=-1``, at the other's), for sympy."""
    loads = [upper(signal, ratio, sympy.sqrt) for upper in (pseudo_upper_load, ridgeless_upper_load)]
    crossings = []
    for limit, g in zip((pseudo_moments, ridgeless_moments), loads[::order], strict=True):
        keep = limit(2 * g / (1 + ratio)).rho_squared / (signal + 2 * g * (1 + ratio) / ratio)
        crossings.append(sympy.Eq(keep, limit(g).rho_squared / (signal + 4 * g)))
    return sympy.And(*crossings)


def window(signal: float, ratio: float, *, limit: Limit = "pseudo") -> tuple[float, float]:
    """Loads ``(g-, g+)`` between which down-sampling wins without a ridge (debiased rule).

    The window holds ``g = (1 + ratio)/2``, where the full data sit on the interpolation peak.

    Raises
    ------
    ParameterError
        If ``ratio`` is not above 1, ``signal`` not positive, or ``limit`` is ``"known"``, which has no window.

    Examples
    --------
    >>> [round(g, 3) for g in window(9.0, 3.0)]
    [1.597, 2.693]
    """
    _check_signal_and_ratio(signal, ratio)
    if limit not in ("pseudo", "ridgeless"):
        raise ParameterError(f"limit must be 'pseudo' or 'ridgeless', got {limit!r}")
    upper = (pseudo_upper_load if limit == "pseudo" else ridgeless_upper_load)(signal, ratio)
    peak, tiny = (1 + ratio) / 2, 1e-12 * (ratio - 1)
    lower = brentq(lambda load: advantage(load, ratio, signal, limit=limit), 1 + tiny, peak - tiny, xtol=1e-14)
    return float(lower), float(upper)


def critical_ridge(signal: float, ratio: float) -> float:
    """Smallest ridge with which keeping all data wins at every load (debiased rule), sought on 600 loads.

    Raises
    ------
    ParameterError
        If ``ratio`` is not above 1 or ``signal`` is not positive.

    Examples
    --------
    >>> round(critical_ridge(9.0, 3.0), 3)
    0.186
    """
    _check_signal_and_ratio(signal, ratio)

    def worst(log_ridge: float) -> float:
        return float(np.min(advantage(_LOADS * (1 + ratio) / 2, ratio, signal, ridge=np.exp(log_ridge))))

    return float(np.exp(brentq(worst, np.log(1e-6), np.log(1e3), xtol=1e-6)))


def _check_signal_and_ratio(signal: float, ratio: float) -> None:
    check_number("signal", signal, above=0, below=np.inf)
    check_number("ratio", ratio, above=1, below=np.inf)
