"""Uncertainty sets around a nominal distribution, and the distribution in them with the largest mean.

Robust dynamic programming rests on one inner problem: over the distributions ``p`` in a set around the nominal one,
maximise ``p @ values``. Each of the six sets here has an exact solver that works on the last axis of its arguments
for any number of rows at once, in O(n log n) for n points (KL: a few dozen sweeps of O(n)).

The solvers are standard: Iyengar 2005 and Nilim and El Ghaoui 2005 (total variation, KL), interval models for the box;
the chi-squared one solves a quadratic for each number of points that keep mass (derived in
``tests/papers/test_rpmd.py``). All maximise; a set that minimises a reward is the same with the sign of the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from porism.arrays import check_finite, check_number
from porism.errors import ParameterError

Array = NDArray[np.float64]
Kind = Literal["contamination", "tv", "l1", "linf", "chi2", "kl"]
Support = Literal["full", "nominal"]

# Rows may miss 1 by this much.
SUM_TOLERANCE = 1e-9
# Precision at which a KL radius is met, and more sweeps than the bracketed Newton iteration ever takes.
_KL_PRECISION, _TILT_SWEEPS = 1e-15, 200
# The exponential of minus this is 0.
_VANISHED = 750.0


@dataclass(frozen=True)
class Uncertainty:
    """A set of distributions around each nominal row.

    Parameters
    ----------
    kind
        ``"contamination"``: ``(1 - radius) nominal + radius q`` with any ``q``. ``"tv"``: half the L1 distance is at
        most the radius. ``"l1"``: the L1 distance is (radius 2 is the whole simplex). ``"linf"``: no probability
        changes by more. ``"chi2"``: ``sum (p - nominal)^2 / nominal`` is at most the radius. ``"kl"``:
        ``KL(p || nominal)`` is, in nats.
    radius
        At least 0; for contamination at most 1.
    support
        ``"full"``: nature may send mass to every state; ``"nominal"``: only to those that have some. The two have
        other values. Sets of kind chi2 and kl keep to the nominal support anyway.

    Raises
    ------
    ParameterError
        For an unknown kind or support, or a radius out of its range.

    Examples
    --------
    >>> Uncertainty("tv", 0.2)
    Uncertainty(kind='tv', radius=0.2, support='full')
    """

    kind: Kind = "tv"
    radius: float = 0.0
    support: Support = "full"

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, Kind), ("support", self.support, Support)):
            if value not in get_args(known):
                raise ParameterError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
        most = 1.0 if self.kind == "contamination" else None
        check_finite(radius=np.asarray(check_number("radius", self.radius, at_least=0, at_most=most)))

    @property
    def reaches_everywhere(self) -> bool:
        """Whether mass may go to a state without nominal mass."""
        return self.support == "full" and self.kind not in ("chi2", "kl")


NOMINAL = Uncertainty("tv", 0.0)


def worst_distribution(uncertainty: Uncertainty, nominal: ArrayLike, values: ArrayLike) -> Array:
    """The distribution in the set with the largest mean of ``values``.

    Parameters
    ----------
    uncertainty
        Kind, radius and support of the set.
    nominal
        Distributions, shape (..., n), along the last axis.
    values
        Shape (..., n) or (n,), in any unit; rows broadcast.

    Returns
    -------
    array
        The maximisers, in the shape of ``nominal`` and ``values`` broadcast. Among equal values the choice is
        arbitrary but the same each time.

    Raises
    ------
    ParameterError
        If a row of ``nominal`` is no distribution, or the values are not finite or do not broadcast.

    Examples
    --------
    >>> worst_distribution(Uncertainty("tv", 0.25), [0.5, 0.25, 0.25], [0.0, 1.0, 2.0])
    array([0.25, 0.25, 0.5 ])
    """
    nominal, values = np.asarray(nominal, dtype=float), np.asarray(values, dtype=float)
    check_distributions(nominal=nominal)
    check_finite(values=values)
    try:
        nominal, values = np.broadcast_arrays(nominal, values)
    except ValueError:
        raise ParameterError(f"values must broadcast to {nominal.shape}, got shape {values.shape}") from None
    return solve_inner(uncertainty, nominal, values)


def worst_mean(uncertainty: Uncertainty, nominal: ArrayLike, values: ArrayLike) -> Array:
    """The largest mean of ``values`` over the set: the support function, for arguments of :func:`worst_distribution`.

    Examples
    --------
    >>> float(worst_mean(Uncertainty("contamination", 0.5), [1.0, 0.0], [0.0, 3.0]))
    1.5
    """
    return np.vecdot(worst_distribution(uncertainty, nominal, values), np.asarray(values, dtype=float))


def solve_inner(uncertainty: Uncertainty, nominal: Array, values: Array) -> Array:
    """:func:`worst_distribution` of arrays of one shape that are known to be right."""
    if uncertainty.radius == 0:
        return nominal.copy()
    # A state out of reach has the least value there is, so nothing is ever sent to it.
    reach = values if uncertainty.reaches_everywhere else np.where(nominal > 0, values, -np.inf)
    return _SOLVERS[uncertainty.kind](nominal, reach, uncertainty.radius)


def contaminate(nominal: Array, values: Array, radius: float) -> Array:
    """Send the share ``radius`` of the mass to the greatest value."""
    mixed = (1 - radius) * nominal
    top = np.argmax(values, axis=-1, keepdims=True)
    np.put_along_axis(mixed, top, np.take_along_axis(mixed, top, axis=-1) + radius, axis=-1)
    return mixed


def move_mass(nominal: Array, values: Array, radius: float) -> Array:
    """Move mass ``radius`` from the smallest values upwards to the greatest one."""
    order = _flat_order(values)
    p = nominal.take(order)
    below = np.cumsum(p, axis=-1) - p
    kept = p - np.minimum(np.maximum(radius - below, 0), p)  # np.clip is slower
    kept[..., -1] = p[..., -1] + np.minimum(radius, np.maximum(1 - p[..., -1], 0))
    return _back_in_place(kept, order)


def fill_box(nominal: Array, values: Array, radius: float) -> Array:
    """Start at the lower ends ``nominal - radius`` and fill up to the upper ends, from the greatest value down."""
    low = np.maximum(nominal - radius, 0)
    missing = 1 - low.sum(axis=-1, keepdims=True)
    order = _flat_order(values)
    # An upper end may exceed 1: there is never that much mass to fill in.
    room = np.where(values > -np.inf, nominal + radius - low, 0).take(order)
    filled = np.cumsum(room, axis=-1)
    above = filled[..., -1:] - filled
    return low + _back_in_place(np.minimum(np.maximum(missing - above, 0), room), order)


def tilt_linearly(nominal: Array, values: Array, radius: float) -> Array:
    """``p = c nominal max(values - threshold, 0)`` on the sphere of chi-squared radius ``radius``.

    With the k greatest values above the threshold, of mass P, mean m and variance s^2 under the nominal distribution
    given these, the radius asks for ``threshold = m - s / sqrt((1 + radius) P - 1)``; k is the one for which the
    threshold lies between the k-th and the next value.
    """
    depth, top = _depth(nominal, values)
    order = _flat_order(depth)
    p, ranked = nominal.take(order), depth.take(order)
    # Would a threshold at the k-th value leave too little divergence? Then it lies above, and fewer than k keep mass.
    # The first two moments above it are sums of positive parts: differences would lose masses below rounding.
    gap = np.diff(ranked, axis=-1, prepend=ranked[..., :1])
    before = _shifted(np.cumsum(p, axis=-1))
    excess = np.cumsum(before * gap, axis=-1)
    square_excess = np.cumsum(gap * (2 * _shifted(excess) + gap * before), axis=-1)
    too_deep = (square_excess <= (1 + radius) * excess**2) & (ranked > 0)
    last = np.where(too_deep.any(axis=-1), np.argmax(too_deep, axis=-1) - 1, p.shape[-1] - 1)[..., None]
    threshold = np.take_along_axis(ranked, last, axis=-1)
    kept, dropped = nominal * (depth <= threshold), nominal * (depth > threshold)
    mass = kept.sum(axis=-1, keepdims=True)
    mean = np.vecdot(kept, depth)[..., None] / mass
    deviation = np.sqrt(np.vecdot(kept, (depth - mean) ** 2)[..., None] / mass)
    # (1 + radius) mass - 1, which would lose a small radius in rounding.
    slope = np.sqrt(np.maximum(radius * mass - dropped.sum(axis=-1, keepdims=True), 0))
    weights = nominal * np.maximum((mean - depth) * slope + deviation, 0)
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), top)


def _shifted(sums: Array) -> Array:
    """Sums up to, but not including, each entry."""
    return np.concatenate([np.zeros_like(sums[..., :1]), sums[..., :-1]], axis=-1)


def tilt_exponentially(nominal: Array, values: Array, radius: float) -> Array:
    """``p = c nominal exp(tilt values)`` on the sphere of KL radius ``radius``."""
    depth, worst = _depth(nominal, values)
    # Where all mass on the greatest value is inside the set, that is the answer.
    inner = radius < -np.log(np.sum(nominal * (depth == 0), axis=-1))
    if inner.any():
        nominal, depth = nominal[inner], depth[inner]
        weights = nominal * np.exp(-_tilt(nominal, depth, radius)[:, None] * depth)
        worst[inner] = weights / weights.sum(axis=-1, keepdims=True)
    return worst


def check_distributions(**arrays: Array) -> None:
    """Raise :class:`ParameterError`, which names the argument, unless its last axis holds distributions."""
    for name, rows in arrays.items():
        if rows.ndim == 0 or rows.shape[-1] == 0:
            raise ParameterError(f"{name} must have at least one entry in each row, got shape {rows.shape}")
        check_finite(**{name: rows})
        if rows.size and rows.min() < 0:
            raise ParameterError(f"{name} must not be negative, got {rows.min():g}")
        sums = rows.sum(axis=-1)
        if np.any(np.abs(sums - 1) > SUM_TOLERANCE):
            raise ParameterError(f"{name} must have rows that sum to 1, got {sums.flat[np.argmax(np.abs(sums - 1))]:g}")


_SOLVERS: dict[str, Callable[[Array, Array, float], Array]] = {
    "contamination": contaminate,
    "tv": move_mass,
    "l1": lambda nominal, values, radius: move_mass(nominal, values, radius / 2),
    "linf": fill_box,
    "chi2": tilt_linearly,
    "kl": tilt_exponentially,
}


def _flat_order(values: Array) -> NDArray[np.intp]:
    """Positions in the flattened array, of each row's entries from the smallest to the greatest."""
    order = np.argsort(values, axis=-1)
    width = values.shape[-1]
    order += np.arange(0, values.size, width).reshape(*values.shape[:-1], 1)
    return order


def _back_in_place(rows: Array, order: NDArray[np.intp]) -> Array:
    placed = np.empty(rows.size)
    placed[order.ravel()] = rows.ravel()
    return placed.reshape(rows.shape)


def _depth(nominal: Array, values: Array) -> tuple[Array, Array]:
    """How far values are below the greatest one on the support, in [0, 1], and the nominal distribution at that one."""
    held = nominal > 0
    greatest = np.max(values, axis=-1, keepdims=True, where=held, initial=-np.inf)
    least = np.min(values, axis=-1, keepdims=True, where=held, initial=np.inf)
    depth = np.where(held, greatest - values, 0) / np.where(greatest > least, greatest - least, 1)
    top = nominal * (depth == 0)
    return np.where(held, depth, 1), top / top.sum(axis=-1, keepdims=True)


def _tilt(nominal: Array, depth: Array, radius: float) -> Array:
    """The tilt at which ``KL(p || nominal)`` is the radius, for rows that have one, shape (rows,).

    KL rises with the tilt, by Hoeffding's lemma at most like ``tilt^2 / 8`` for values of range 1. Newton's method on
    log KL against log tilt, nearly a line, within a bracket. At its upper end all but the greatest value have vanished.
    """
    tilt = np.full(len(depth), np.sqrt(8 * radius))
    low, high = tilt.copy(), _VANISHED / np.maximum(np.min(depth, axis=-1, where=depth > 0, initial=1), 1e-300)
    for _ in range(_TILT_SWEEPS):
        exponent = -tilt[:, None] * depth
        weights = nominal * np.exp(exponent)
        total = weights.sum(axis=-1)
        mean = np.vecdot(weights, depth) / total
        variance = np.vecdot(weights, (depth - mean[:, None]) ** 2) / total
        # Near 1 the total would lose a small radius, which goes with the square of the tilt.
        small = np.maximum(np.vecdot(nominal, np.expm1(exponent)), -0.5)
        log_total = np.where(total > 0.5, np.log1p(small), np.log(total))
        reached = -tilt * mean - log_total
        precision = _KL_PRECISION * (radius + np.minimum(tilt, 1))
        moving = (np.abs(reached - radius) > precision) & (high > low * (1 + _KL_PRECISION))
        if not moving.any():
            break
        np.copyto(low, tilt, where=reached <= radius)
        np.copyto(high, tilt, where=reached > radius)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            newton = tilt * np.exp(np.log(radius / reached) * reached / (tilt**2 * variance))
        proposed = np.where((newton > low) & (newton < high), newton, np.sqrt(low) * np.sqrt(high))
        tilt = np.where(moving, proposed, tilt)
    return tilt
