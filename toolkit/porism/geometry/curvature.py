"""Numbers from the second fundamental form, and the reach of a set of points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from porism.errors import ParameterError
from porism.geometry.checks import real
from porism.geometry.protocol import Points


def mean_curvature(form: Points) -> Points:
    """Mean curvature vector ``trace(II) / d`` of a second fundamental form ``(..., d, d, D)``.

    Examples
    --------
    >>> mean_curvature(-np.eye(2)[:, :, None] * np.array([0.0, 0.0, 1.0]))
    array([ 0.,  0., -1.])
    """
    trace: Points = np.einsum("...iiD->...D", form) / form.shape[-2]
    return trace


def scalar_curvature(form: ArrayLike) -> Points:
    """Intrinsic scalar curvature from a second fundamental form, by the Gauss equation.

    Parameters
    ----------
    form
        ``(..., d, d, D)`` in an orthonormal tangent basis, as ``second_fundamental_form`` returns it.

    Returns
    -------
    curvature
        ``(...,)``: ``|trace II|^2 - |II|^2``, twice the Gauss curvature of a surface.

    Raises
    ------
    ParameterError
        For a wrong shape, NaN, infinities, or a form that is not symmetric.

    Notes
    -----
    The Gauss equation ``R(i, j, j, i) = <II(i, i), II(j, j)> - |II(i, j)|^2`` summed over i and j
    (do Carmo, "Riemannian geometry", chapter 6, theorem 2.5).

    Examples
    --------
    >>> from porism.geometry import Sphere
    >>> float(scalar_curvature(Sphere(2, radius=2.0).second_fundamental_form([0.0, 0.0, 2.0])))
    0.5
    """
    form = _form(form)
    trace = np.einsum("...iiD->...D", form)
    curvature: Points = (trace * trace).sum(-1) - (form * form).sum((-3, -2, -1))
    return curvature


def largest_curvature(form: ArrayLike) -> Points:
    """Largest normal curvature ``max |II(v, v)|`` over unit tangent vectors v.

    Parameters
    ----------
    form
        ``(..., d, d, D)`` in an orthonormal tangent basis.

    Returns
    -------
    curvature
        ``(...,)``; its inverse bounds the reach from above.

    Raises
    ------
    ParameterError
        For a wrong shape, NaN, infinities, or a form that is not symmetric.

    Notes
    -----
    Exact for curves. Otherwise by alternation: the best normal n for v is ``II(v, v)``, the best v for n the leading
    eigenvector of ``<II, n>``; each round increases the value. It starts from d^2 directions, so that it is exact
    for hypersurfaces, and a lower bound that is met in practice in higher codimension.

    Examples
    --------
    >>> float(largest_curvature(np.diag([1.0, -3.0])[:, :, None]))
    3.0
    """
    form = _form(form)
    size = form.shape[-2]
    identity = np.eye(size)
    pairs = [(identity[i] + sign * identity[j]) for i in range(size) for j in range(i) for sign in (1, -1)]
    starts = np.array([*identity, *pairs])
    vectors = np.broadcast_to(
        starts / np.linalg.norm(starts, axis=-1, keepdims=True), (*form.shape[:-3], *starts.shape)
    )
    for _ in range(30 if size > 1 else 0):
        normals = np.einsum("...ijD,...si,...sj->...sD", form, vectors, vectors)
        shapes = np.einsum("...ijD,...sD->...sij", form, normals)
        values, axes = np.linalg.eigh(shapes)
        largest = np.abs(values).argmax(-1)[..., None, None]
        vectors = np.take_along_axis(axes, largest, axis=-1)[..., 0]
    normals = np.einsum("...ijD,...si,...sj->...sD", form, vectors, vectors)
    curvature: Points = np.linalg.norm(normals, axis=-1).max(-1)
    return curvature


def federer_ratios(points: Points, tangents: Points, others: Points, outward: Points | None = None) -> Points:
    """``|y - x|^2 / (2 dist(y - x, T_x))`` for x in ``points`` and y in ``others``, both (..., D), broadcast.

    ``inf`` where y - x lies in the tangent space, or so close to it (2e-10 of the size) that rounding shows.
    ``outward`` (..., c, D) holds unit tangent vectors that leave the manifold at boundary points (zero vectors
    elsewhere); the tangent cone is taken as the half-space that each cuts off.
    """
    between = others - points
    along = np.einsum("...D,...Di->...i", between, tangents)
    residual = between - np.einsum("...i,...Di->...D", along, tangents)
    height = np.linalg.norm(residual, axis=-1)
    if outward is not None:
        leaving = np.maximum(np.einsum("...D,...cD->...c", between, outward), 0.0).max(-1)
        height = np.hypot(height, leaving)
    size = max(float(np.abs(points).max(initial=0.0)), float(np.abs(others).max(initial=0.0)))
    curved = height > 1e6 * np.finfo(np.float64).eps * size
    ratios: Points = np.where(curved, (between * between).sum(-1) / (2 * np.where(curved, height, 1.0)), np.inf)
    return ratios


def estimate_reach(points: ArrayLike, tangents: ArrayLike) -> float:
    """Upper bound of the reach of a manifold from points on it and their tangent spaces.

    Parameters
    ----------
    points
        ``(n, D)``, on the manifold.
    tangents
        ``(n, D, d)``, orthonormal bases of the tangent spaces.

    Returns
    -------
    reach
        Never below the true reach (up to 1e-6, relatively, from rounding), and close to it when the points are dense;
        ``inf`` if all points lie in each other's tangent spaces, or if there is one point only.

    Raises
    ------
    ParameterError
        For wrong shapes, NaN, infinities, or bases that are not orthonormal.

    Notes
    -----
    Federer's formula: the reach is the infimum of ``|y - x|^2 / (2 dist(y - x, T_x))`` over pairs (Federer, "Curvature
    measures", 1959, theorem 4.18; as an estimator: Aamari, Kim, Chazal, Michel, Rinaldo and Wasserman, "Estimating the
    reach of a manifold", 2019). Takes n^2 D d operations.

    Examples
    --------
    >>> from porism.geometry import Sphere
    >>> circle = Sphere(1, radius=2.0)
    >>> x = circle.sample(np.random.default_rng(0), 50)
    >>> round(estimate_reach(x, circle.tangent_basis(x)), 9)
    2.0
    """
    points = real("points", points)
    tangents = real("tangents", tangents)
    if points.ndim != 2 or points.shape[0] == 0:
        raise ParameterError(f"points must have shape (n, D) with n > 0, got {points.shape}")
    if tangents.ndim != 3 or tangents.shape[:2] != points.shape or tangents.shape[2] == 0:
        raise ParameterError(f"tangents must have shape {(*points.shape, 'd')} with d > 0, got {tangents.shape}")
    gram = np.einsum("nDi,nDj->nij", tangents, tangents)
    if not bool((np.abs(gram - np.eye(tangents.shape[2])) <= 1e-8).all()):
        raise ParameterError("tangents must have orthonormal columns")
    rows = max(1, 4_000_000 // points.size)
    best = np.inf
    for start in range(0, len(points), rows):
        chunk = slice(start, start + rows)
        best = min(best, float(federer_ratios(points[chunk, None], tangents[chunk, None], points).min()))
    return best


def _form(form: ArrayLike) -> Points:
    array = real("form", form)
    if array.ndim < 3 or array.shape[-3] != array.shape[-2] or array.shape[-2] == 0:
        raise ParameterError(f"form must have shape (..., d, d, D), got {array.shape}")
    size = np.abs(array).max(initial=0.0)
    if not bool((np.abs(array - np.swapaxes(array, -3, -2)) <= 1e-8 * size).all()):
        raise ParameterError("form must be symmetric in its two tangent axes")
    return array
