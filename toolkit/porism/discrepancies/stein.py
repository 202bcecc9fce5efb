"""Discrepancies that need the score of the target, its gradient of the log-density, and no normalising constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from porism.arrays import Array, Namespace, check_finite, floating
from porism.discrepancies.radial import (
    Bandwidth,
    Gaussian,
    InverseMultiquadric,
    SmoothKernel,
    radial_kernel,
    smallest_unit,
)
from porism.discrepancies.samples import masses, off_diagonal_mass, squared_distances, weights_of
from porism.errors import ParameterError

# Entries of a Gram matrix that are held at once.
_BLOCK = 2**22


def fisher_divergence(p_scores: Array, q_scores: Array, *, x_weights: Array | None = None) -> Array:
    r"""Fisher divergence :math:`F(p \| q) = E_p |\nabla \log p - \nabla \log q|^2` from scores at samples of p.

    Parameters
    ----------
    p_scores, q_scores
        Scores of p and of q at the same points, which are drawn from p; shape (n, d), finite.
    x_weights
        Masses of the points, shape (n,); not negative, with sum 1. Equal if not given.

    Returns
    -------
    Array
        A number; no factor 1/2. For torch it has gradients in the scores.

    Raises
    ------
    ParameterError
        For NaN, infinities, shapes that differ, and weights that are no distribution.

    Notes
    -----
    A. Hyvarinen, *Estimation of Non-Normalized Statistical Models by Score Matching* (2005), equation 2, has
    half of it. It compares scores only: laws with separated modes of other masses are nearly the same to it.

    Examples
    --------
    >>> float(fisher_divergence([[0.0, 1.0]], [[2.0, 2.0]]))
    5.0
    """
    xp, (p_scores, q_scores, a) = floating(
        optional=("x_weights",), p_scores=p_scores, q_scores=q_scores, x_weights=x_weights
    )
    if p_scores.ndim != 2 or tuple(p_scores.shape) != tuple(q_scores.shape) or 0 in p_scores.shape:
        shapes = f"{tuple(p_scores.shape)} and {tuple(q_scores.shape)}"
        raise ParameterError(f"p_scores and q_scores must have one shape (n, d), not empty; they have {shapes}")
    check_finite(p_scores=p_scores, q_scores=q_scores)
    squares = xp.sum((p_scores - q_scores) ** 2, axis=1)
    a = weights_of(xp, "x_weights", a, p_scores)
    return xp.mean(squares) if a is None else a @ squares


def kernel_stein_discrepancy(
    x: Array,
    score: Array | Callable[[Array], Array],
    *,
    kernel: str | SmoothKernel = "imq",
    bandwidth: Bandwidth = 1.0,
    estimator: Literal["biased", "unbiased"] = "biased",
    x_weights: Array | None = None,
) -> Array:
    r"""Kernel Stein discrepancy of a sample to a target with a known score, :math:`E_{x,x'} u_q(x, x')`.

    In the convention of Liu, Lee and Jordan; Gorham and Mackey call its square root by this name.

    Parameters
    ----------
    x
        Sample, shape (n, d), finite.
    score
        Score of the target at the points, shape (n, d), or a function that gives it. The target's density must
        vanish at the edge of its domain.
    kernel
        ``"imq"`` (1 + r^2 / s^2)^(-1/2), ``"gaussian"`` exp(-r^2 / (2 s^2)), which from three dimensions on
        does not see samples that fail to converge, or a kernel with ``derivatives`` such as
        :class:`~porism.discrepancies.radial.InverseMultiquadric`.
    bandwidth
        A number s, several (the kernel is summed over them) or ``"median"``.
    estimator
        ``"biased"`` averages over all pairs (V-statistic, not negative); ``"unbiased"`` leaves out the pairs of
        a point with itself (U-statistic, may be negative).
    x_weights
        Masses of the points, shape (n,); not negative, with sum 1. Equal if not given.

    Returns
    -------
    Array
        A number. For torch it has gradients in the points and the scores.

    Raises
    ------
    ParameterError
        For NaN, infinities, shapes that differ, a kernel without derivatives, and fewer than two points for
        ``"unbiased"``.

    Notes
    -----
    Q. Liu, J. Lee, M. Jordan, *A Kernelized Stein Discrepancy for Goodness-of-fit Tests* (2016), equations 6
    and 14; the inverse multiquadric is from J. Gorham, L. Mackey, *Measuring Sample Quality with Kernels* (2017).

    Examples
    --------
    >>> float(kernel_stein_discrepancy([[1.0]], lambda x: -x))
    2.0
    """
    xp, (x, a) = floating(optional=("x_weights",), x=x, x_weights=x_weights)
    _check_points("x", x)
    scores = score(x) if callable(score) else score
    xp, (x, scores, a) = floating(optional=("x_weights",), x=x, score=scores, x_weights=a)
    if estimator not in ("biased", "unbiased"):
        raise ParameterError(f'estimator must be "biased" or "unbiased", got {estimator!r}')
    _check_score("score", scores, x)
    smooth = _smooth(kernel, bandwidth, x)
    given = weights_of(xp, "x_weights", a, x)
    a = masses(xp, given, x)
    rows = max(1, _BLOCK // x.shape[0])
    total, diagonal = 0.0, 0.0
    for k in range(0, x.shape[0], rows):
        block = slice(k, k + rows)
        gram = _gram(xp, x[block], scores[block], x, scores, smooth)
        total = total + a[block] @ (gram @ a)
        diagonal = diagonal + xp.sum(a[block] ** 2 * xp.linalg.diagonal(gram[:, block]))
    if estimator == "biased":
        return total
    return (total - diagonal) / off_diagonal_mass(xp, "x", a)


def stein_gram(
    x: Array,
    x_scores: Array,
    y: Array,
    y_scores: Array,
    *,
    kernel: str | SmoothKernel = "imq",
    bandwidth: Bandwidth = 1.0,
) -> Array:
    r"""The Stein kernel :math:`u_q(x_i, y_j)`, whose mean over y drawn from q is zero at every x.

    Parameters
    ----------
    x, y
        Points, shapes (n, d) and (m, d), finite.
    x_scores, y_scores
        Scores of q there, of the same shapes.
    kernel, bandwidth
        As for :func:`kernel_stein_discrepancy`; ``"median"`` is that of x alone.

    Returns
    -------
    Array
        Shape (n, m): :math:`s^T s' k + s^T \nabla_{x'} k + s'^T \nabla_x k + \mathrm{tr} \nabla_x \nabla_{x'} k`.

    Raises
    ------
    ParameterError
        For NaN, infinities, shapes that differ, and a kernel without derivatives.

    Notes
    -----
    Q. Liu, J. Lee, M. Jordan (2016), theorem 3.6.

    Examples
    --------
    >>> stein_gram([[1.0]], [[-1.0]], [[1.0]], [[-1.0]]).tolist()
    [[2.0]]
    """
    xp, (x, s, y, t) = floating(x=x, x_scores=x_scores, y=y, y_scores=y_scores)
    _check_points("x", x)
    _check_points("y", y)
    if x.shape[1] != y.shape[1]:
        raise ParameterError(f"x and y must have one dimension, theirs are {x.shape[1]} and {y.shape[1]}")
    _check_score("x_scores", s, x)
    _check_score("y_scores", t, y)
    return _gram(xp, x, s, y, t, _smooth(kernel, bandwidth, x))


def _gram(xp: Namespace, x: Array, s: Array, y: Array, t: Array, kernel: SmoothKernel) -> Array:
    unit = 1.0
    if isinstance(kernel, (Gaussian, InverseMultiquadric)):
        unit, kernel = smallest_unit(kernel)
        x, s, y, t = x / unit, s * unit, y / unit, t * unit
    squares = squared_distances(x, y)
    value, slope, curvature = kernel.derivatives(squares)
    # s.(x - y) - t.(x - y), by products of matrices
    along = xp.sum(s * x, axis=1)[:, None] - s @ y.T - x @ t.T + xp.sum(t * y, axis=1)[None, :]
    gram = value * (s @ t.T) - 2 * slope * (along + x.shape[1]) - 4 * curvature * squares
    gram = gram / unit / unit
    check_finite(**{"the Stein kernel of these points, scores and bandwidth": gram})
    return gram


def _smooth(kernel: str | SmoothKernel, bandwidth: Bandwidth, x: Array) -> SmoothKernel:
    if not isinstance(kernel, str):
        if not hasattr(kernel, "derivatives"):
            raise ParameterError("kernel must have a method derivatives, as Gaussian and InverseMultiquadric do")
        return kernel
    found = radial_kernel(kernel, bandwidth, x) if kernel in ("imq", "gaussian") else None
    if found is None or not hasattr(found, "derivatives"):
        raise ParameterError(f'kernel must be "imq", "gaussian" or a kernel with derivatives, got {kernel!r}')
    return found


def _check_points(name: str, x: Array) -> None:
    if x.ndim != 2 or 0 in x.shape:
        raise ParameterError(f"{name} must have shape (n, d), not empty; it has {tuple(x.shape)}")
    check_finite(**{name: x})


def _check_score(name: str, score: Array, x: Array) -> None:
    if tuple(score.shape) != tuple(x.shape):
        raise ParameterError(f"{name} must have the shape of the points, {tuple(x.shape)}; it has {tuple(score.shape)}")
    check_finite(**{name: score})
