"""Energy distance between two samples."""

from __future__ import annotations

from typing import Literal

from porism.arrays import Array, Namespace
from porism.discrepancies.mmd import mmd_squared
from porism.discrepancies.samples import clouds, masses, off_diagonal_mass
from porism.errors import ParameterError
from porism.transport.one_dimensional import cdf_difference, mean_gap


def energy_distance(
    x: Array,
    y: Array,
    *,
    estimator: Literal["biased", "unbiased"] = "biased",
    x_weights: Array | None = None,
    y_weights: Array | None = None,
) -> Array:
    r"""Energy distance :math:`2 E|X-Y| - E|X-X'| - E|Y-Y'|` (not its square root, which SciPy returns).

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), or (n,) and (m,) for d = 1; finite. For d = 1 sorting takes the place
        of all pairs.
    estimator
        ``"biased"`` is the distance of the empirical measures and not negative; ``"unbiased"`` leaves out the
        pairs of a point with itself and may be negative.
    x_weights, y_weights
        Masses of the points, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.

    Returns
    -------
    Array
        A number, always finite. For torch it has gradients in the points and the weights.

    Raises
    ------
    ParameterError
        For NaN, infinities, an unknown estimator, weights that are no distribution, and fewer than two points
        for ``"unbiased"``.

    Notes
    -----
    G. Szekely, M. Rizzo, *Energy statistics* (2013), equations 2.1 and, in one dimension,
    :math:`2 \int (F - G)^2`. Twice the squared MMD of the kernel :math:`-|x-y|/2`.

    Examples
    --------
    >>> float(energy_distance([0.0, 2.0], [1.0]))
    1.0
    """
    if estimator not in ("biased", "unbiased"):
        raise ParameterError(f'estimator must be "biased" or "unbiased", got {estimator!r}')
    xp, x, y, a, b = clouds(x, y, x_weights, y_weights)
    if x.shape[1] > 1:
        return 2 * mmd_squared(x, y, kernel="energy", estimator=estimator, x_weights=a, y_weights=b)
    x, y = x[:, 0], y[:, 0]
    points, difference = cdf_difference(x, y, x_weights=a, y_weights=b)
    distance = 2 * xp.sum(difference[:-1] ** 2 * (points[1:] - points[:-1]))
    if estimator == "biased":
        return distance
    return distance - _excess(xp, "x", x, masses(xp, a, x)) - _excess(xp, "y", y, masses(xp, b, y))


def _excess(xp: Namespace, name: str, x: Array, weights: Array) -> Array:
    """How much E|X - X'| grows when pairs of a point with itself are left out."""
    rest = off_diagonal_mass(xp, name, weights)
    return mean_gap(xp, x, weights) * (1 - rest) / rest
