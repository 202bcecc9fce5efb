"""Cauchy-Schwarz divergence between kernel density estimates of two samples."""

from __future__ import annotations

import array_api_compat

from porism.arrays import Array, Namespace, check_finite
from porism.discrepancies.radial import Bandwidth, radial_kernel
from porism.discrepancies.samples import clouds, masses, power_of_two, squared_distances


def cauchy_schwarz_squared(
    x: Array,
    y: Array,
    *,
    bandwidth: Bandwidth = "median",
    x_weights: Array | None = None,
    y_weights: Array | None = None,
) -> Array:
    r"""Cauchy-Schwarz divergence with the square inside, :math:`-\log\frac{(\int pq)^2}{\int p^2 \int q^2}`.

    The densities are Gaussian kernel estimates, each with the bandwidth divided by the root of two, so that the
    integrals are means of Gaussian kernels at ``bandwidth`` over all pairs (equal points included).

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), or (n,) and (m,) for d = 1; finite.
    bandwidth
        ``"median"`` (:func:`~porism.discrepancies.radial.median_bandwidth`), a number, or several, over which
        the kernel is summed.
    x_weights, y_weights
        Masses of the points, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.

    Returns
    -------
    Array
        A number, not negative up to rounding and finite even where the kernels between the samples underflow.
        For torch it has gradients in the points and the weights.

    Raises
    ------
    ParameterError
        For NaN, infinities, a bandwidth that is not positive or too small for the distances, and weights that are no
        distribution.

    Notes
    -----
    J. Principe, D. Xu, J. Fisher, *Information-Theoretic Learning* (2000). It holds n m numbers at once.

    Examples
    --------
    >>> float(cauchy_schwarz_squared([0.0], [3.0], bandwidth=1.0))
    9.0
    """
    xp, x, y, a, b = clouds(x, y, x_weights, y_weights)
    widths = radial_kernel("gaussian", bandwidth, x, y).bandwidths
    a, b = masses(xp, a, x), masses(xp, b, y)
    return _log_mean(xp, x, x, a, a, widths) + _log_mean(xp, y, y, b, b, widths) - 2 * _log_mean(xp, x, y, a, b, widths)


def cauchy_schwarz_half(
    x: Array,
    y: Array,
    *,
    bandwidth: Bandwidth = "median",
    x_weights: Array | None = None,
    y_weights: Array | None = None,
) -> Array:
    r"""Half of :func:`cauchy_schwarz_squared`: :math:`-\log` of the cosine between the two densities.

    Parameters
    ----------
    x, y, bandwidth, x_weights, y_weights
        As for :func:`cauchy_schwarz_squared`.

    Returns
    -------
    Array
        A number, as for :func:`cauchy_schwarz_squared`.

    Raises
    ------
    ParameterError
        As for :func:`cauchy_schwarz_squared`.

    Examples
    --------
    >>> float(cauchy_schwarz_half([0.0], [3.0], bandwidth=1.0))
    4.5
    """
    return cauchy_schwarz_squared(x, y, bandwidth=bandwidth, x_weights=x_weights, y_weights=y_weights) / 2


def _log_mean(xp: Namespace, x: Array, y: Array, a: Array, b: Array, widths: tuple[float, ...]) -> Array:
    unit = power_of_two(min(widths))  # points are measured in it before they are squared
    squares = squared_distances(x / unit, y / unit)
    check_finite(**{"the square of distance over bandwidth": squares})
    exponents = xp.stack([squares * (-0.5 * (unit / width) ** 2) for width in widths])
    # Points of no weight must not set the scale.
    carried = (a[:, None] * b[None, :]) > 0
    exponents = xp.where(carried, exponents, xp.full_like(exponents, -float("inf")))
    largest = xp.max(exponents.detach() if array_api_compat.is_torch_array(exponents) else exponents)
    kernels = xp.sum(xp.exp(exponents - largest), axis=0)
    return largest + xp.log(a @ (kernels @ b))
