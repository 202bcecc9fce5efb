"""Maximum mean discrepancy between two samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import array_api_compat

from porism.arrays import Array, Namespace, check_finite, floating
from porism.discrepancies.radial import (
    Bandwidth,
    Distance,
    Gaussian,
    InverseMultiquadric,
    Laplace,
    radial_kernel,
)
from porism.discrepancies.samples import clouds, masses, off_diagonal_mass
from porism.errors import ParameterError

# Entries of a Gram matrix that are held at once.
_BLOCK = 2**22

Estimator = Literal["unbiased", "biased", "linear"]


def mmd_squared(
    x: Array,
    y: Array,
    *,
    kernel: str | Callable[[Array, Array], Array] = "gaussian",
    bandwidth: Bandwidth = "median",
    estimator: Estimator = "unbiased",
    x_weights: Array | None = None,
    y_weights: Array | None = None,
) -> Array:
    r"""Squared maximum mean discrepancy, :math:`E k(x,x') + E k(y,y') - 2 E k(x,y)`.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), or (n,) and (m,) for d = 1; finite.
    kernel
        ``"gaussian"`` exp(-r^2 / (2 s^2)), ``"laplace"`` exp(-r / s), ``"imq"`` (1 + r^2 / s^2)^(-1/2),
        ``"energy"`` -r/2 (no bandwidth), or a function of two samples that gives their Gram matrix.
    bandwidth
        ``"median"`` (:func:`~porism.discrepancies.radial.median_bandwidth` of both samples, held fixed by
        gradients), a number s, or several, over which the kernel is summed.
    estimator
        ``"unbiased"`` leaves out pairs of a point with itself and may be negative; ``"biased"`` is the
        discrepancy of the empirical measures and is not; ``"linear"`` averages over disjoint quadruples, takes
        time O(n) and is unbiased, with a larger variance.
    x_weights, y_weights
        Masses of the points, shapes (n,) and (m,); not negative, with sum 1. Equal if not given.

    Returns
    -------
    Array
        A number, always finite. For torch it has gradients in the points and the weights; with the Gaussian
        kernel they can be taken once only.

    Raises
    ------
    ParameterError
        For NaN, infinities, an unknown kernel or estimator, a kernel function that returns no finite Gram matrix,
        weights that are no distribution, fewer than two points for ``"unbiased"`` or ``"linear"``, and weights with
        ``"linear"``.

    Notes
    -----
    A. Gretton et al., *A Kernel Two-Sample Test* (2012): equations 3 (unbiased) and 5 (biased), lemma 14
    (linear). Sums of float32 carry a relative error of about 1e-6 of the kernel's mean, which for small
    discrepancies is larger than they are; use float64 there.

    Examples
    --------
    >>> round(float(mmd_squared([0.0, 2.0], [1.0, 3.0], bandwidth=1.0, estimator="biased")), 6)
    0.219985
    """
    if estimator not in ("unbiased", "biased", "linear"):
        raise ParameterError(f'estimator must be "unbiased", "biased" or "linear", got {estimator!r}')
    xp, x, y, a, b = clouds(x, y, x_weights, y_weights)
    gram = _kernel(kernel, bandwidth, x, y)
    if estimator == "linear":
        if a is not None or b is not None:
            raise ParameterError('x_weights and y_weights cannot be used with estimator="linear"')
        return _linear(xp, gram, x, y)
    a, b = masses(xp, a, x), masses(xp, b, y)
    if isinstance(gram, Gaussian) and array_api_compat.is_torch_array(x):
        from porism.kernels.mmd import gaussian_pair_sums

        within_x, within_y, between = gaussian_pair_sums(x, y, a, b, gram.bandwidths)
        a, b, top = a.double(), b.double(), float(len(gram.bandwidths))
        diagonals = (top * (a @ a), top * (b @ b))
    else:
        between = _between(gram, x, y, a, b)
        within_x, x_diagonal = _within(xp, gram, x, a)
        within_y, y_diagonal = _within(xp, gram, y, b)
        diagonals = (x_diagonal, y_diagonal)
    if estimator == "biased":
        value = within_x + diagonals[0] + within_y + diagonals[1] - 2 * between
    else:
        value = within_x / off_diagonal_mass(xp, "x", a) + within_y / off_diagonal_mass(xp, "y", b) - 2 * between
    return xp.astype(value, x.dtype, copy=False)


def _kernel(
    kernel: str | Callable[[Array, Array], Array], bandwidth: Bandwidth, x: Array, y: Array
) -> Callable[[Array, Array], Array]:
    if isinstance(kernel, str):
        return Distance() if kernel == "energy" else radial_kernel(kernel, bandwidth, x, y)
    if isinstance(kernel, (Distance, Gaussian, InverseMultiquadric, Laplace)):
        return kernel
    if not callable(kernel):
        raise ParameterError(f"kernel must be a name or a function of two samples, got {kernel!r:.80}")
    return lambda left, right: _checked_gram(kernel(left, right), left, right)


def _checked_gram(gram: Array, x: Array, y: Array) -> Array:
    """What a kernel of the user's gave, if it is a finite Gram matrix."""
    _, (_, gram) = floating(x=x, **{"the value of kernel": gram})
    if tuple(gram.shape) != (x.shape[0], y.shape[0]):
        raise ParameterError(f"kernel must return shape {(x.shape[0], y.shape[0])}, got {tuple(gram.shape)}")
    check_finite(**{"the value of kernel": gram})
    return gram


def _between(gram: Callable[[Array, Array], Array], x: Array, y: Array, a: Array, b: Array) -> Array:
    rows = max(1, _BLOCK // y.shape[0])
    total: Array = sum(a[k : k + rows] @ (gram(x[k : k + rows], y) @ b) for k in range(0, x.shape[0], rows))
    return total


def _within(xp: Namespace, gram: Callable[[Array, Array], Array], x: Array, a: Array) -> tuple[Array, Array]:
    """Sums over pairs of different points, and over each point with itself."""
    rows = max(1, _BLOCK // x.shape[0])
    pairs, diagonal = 0.0, 0.0
    for k in range(0, x.shape[0], rows):
        matrix = gram(x[k : k + rows], x)
        size = matrix.shape[0]
        own = xp.linalg.diagonal(matrix[:, k : k + size])
        itself = xp.sum(a[k : k + size] ** 2 * own)
        pairs = pairs + a[k : k + size] @ (matrix @ a) - itself
        diagonal = diagonal + itself
    return pairs, diagonal


def _linear(xp: Namespace, gram: Callable[[Array, Array], Array], x: Array, y: Array) -> Array:
    """Mean of k(x1, x2) + k(y1, y2) - k(x1, y2) - k(x2, y1) over disjoint pairs, by diagonals of small blocks."""
    pairs = min(x.shape[0], y.shape[0]) // 2
    if pairs == 0:
        raise ParameterError('x and y need at least two points each for estimator="linear"')
    total = 0.0
    size = 64
    for k in range(0, pairs, size):
        rows = slice(2 * k, 2 * min(k + size, pairs))
        x1, x2, y1, y2 = x[rows][::2], x[rows][1::2], y[rows][::2], y[rows][1::2]
        for sign, left, right in ((1, x1, x2), (1, y1, y2), (-1, x1, y2), (-1, x2, y1)):
            total = total + sign * xp.sum(xp.linalg.diagonal(gram(left, right)))
    return total / pairs
