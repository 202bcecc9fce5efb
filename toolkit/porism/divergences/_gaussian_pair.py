"""Two Gaussians, checked and factored once, for the closed forms between them."""

from __future__ import annotations

from dataclasses import dataclass

import array_api_compat
import numpy as np

from porism.arrays import Array, Namespace, check_finite, floating
from porism.errors import ParameterError


@dataclass(frozen=True)
class GaussianPair:
    """N(mean_p, cov_p) and N(mean_q, cov_q) with Cholesky factors; ``shift`` is mean_p - mean_q."""

    xp: Namespace
    shift: Array
    cov_p: Array
    cov_q: Array
    factor_p: Array
    factor_q: Array

    def white_factor(self) -> Array:
        """Lower triangular B with B Bᵀ the covariance of p in coordinates in which q's is the identity."""
        return solve_lower(self.xp, self.factor_q, self.factor_p)

    def white_shift(self) -> Array:
        """``shift`` in the coordinates in which q's covariance is the identity, shape (..., d)."""
        return solve_vector(self.xp, self.factor_q, self.shift)

    def mean_factor(self) -> Array:
        """Cholesky factor of the average of the two covariances."""
        return self.xp.linalg.cholesky(self.cov_p / 2 + self.cov_q / 2)


def gaussian_pair(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> GaussianPair:
    """Check means (..., d) and covariances (..., d, d) and factor the covariances.

    Raises
    ------
    ParameterError
        For shapes that do not fit, entries that are not finite, or a covariance that is not symmetric (to the
        root of the dtype's epsilon, relatively) or not positive definite.
    """
    xp, (mean_p, cov_p, mean_q, cov_q) = floating(mean_p=mean_p, cov_p=cov_p, mean_q=mean_q, cov_q=cov_q)
    check_finite(mean_p=mean_p, cov_p=cov_p, mean_q=mean_q, cov_q=cov_q)
    if mean_p.ndim == 0 or mean_p.shape[-1] == 0:
        raise ParameterError(f"mean_p must have shape (..., d) with d > 0, got {tuple(mean_p.shape)}")
    d = mean_p.shape[-1]
    if mean_q.ndim == 0 or mean_q.shape[-1] != d:
        raise ParameterError(f"mean_q must have shape (..., {d}) as mean_p has, got {tuple(mean_q.shape)}")
    for name, cov in {"cov_p": cov_p, "cov_q": cov_q}.items():
        if cov.ndim < 2 or tuple(cov.shape[-2:]) != (d, d):
            raise ParameterError(f"{name} must have shape (..., {d}, {d}), got {tuple(cov.shape)}")
    batches = [tuple(mean_p.shape[:-1]), tuple(cov_p.shape[:-2]), tuple(mean_q.shape[:-1]), tuple(cov_q.shape[:-2])]
    try:
        np.broadcast_shapes(*batches)
    except ValueError:
        raise ParameterError(
            f"the batch axes of mean_p, cov_p, mean_q and cov_q, {batches}, do not broadcast"
        ) from None
    cov_p, cov_q = (symmetric(xp, name, cov) for name, cov in (("cov_p", cov_p), ("cov_q", cov_q)))
    factor_p, factor_q = (cholesky(xp, name, cov) for name, cov in (("cov_p", cov_p), ("cov_q", cov_q)))
    return GaussianPair(xp, mean_p - mean_q, cov_p, cov_q, factor_p, factor_q)


def symmetric(xp: Namespace, name: str, matrix: Array) -> Array:
    """Return the symmetric part of a matrix that is symmetric but for rounding."""
    other = xp.matrix_transpose(matrix)
    error, scale = abs(matrix - other), xp.max(abs(matrix), axis=(-2, -1), keepdims=True)
    if bool((error > scale * float(xp.finfo(matrix.dtype).eps) ** 0.5).any()):
        raise ParameterError(f"{name} must be symmetric, entries differ by {float(error.max()):.3g}")
    return matrix / 2 + other / 2  # in halves, whose sum does not overflow


def cholesky(xp: Namespace, name: str, matrix: Array) -> Array:
    """Lower Cholesky factor, or a :class:`ParameterError` that names the argument."""
    factor, definite = cholesky_where_definite(xp, matrix)
    if not bool(definite.all()):
        raise ParameterError(f"{name} must be positive definite")
    return factor


def cholesky_where_definite(xp: Namespace, matrix: Array) -> tuple[Array, Array]:
    """Cholesky factors of a batch (the identity's where there is none), and which matrices have one."""
    if array_api_compat.is_torch_namespace(xp):
        definite = xp.linalg.cholesky_ex(matrix.detach()).info == 0
    else:
        flat = matrix.reshape((-1, *matrix.shape[-2:]))
        definite = np.array([_is_definite(one) for one in flat], dtype=bool).reshape(matrix.shape[:-2])
    identity = xp.eye(matrix.shape[-1], dtype=matrix.dtype, device=array_api_compat.device(matrix))
    return xp.linalg.cholesky(xp.where(definite[..., None, None], matrix, identity)), definite


def solve_lower(xp: Namespace, factor: Array, right: Array) -> Array:
    """Solve ``factor @ x = right`` for a lower triangular factor; batch axes broadcast."""
    if array_api_compat.is_torch_namespace(xp):
        return xp.linalg.solve_triangular(factor, right, upper=False)
    return np.linalg.solve(factor, right)  # numpy has no triangular solver, and scipy's has no batches before 1.15


def solve_vector(xp: Namespace, factor: Array, vector: Array) -> Array:
    """:func:`solve_lower` for vectors of shape (..., d)."""
    return solve_lower(xp, factor, vector[..., None])[..., 0]


def log_det(xp: Namespace, factor: Array) -> Array:
    """Log-determinant of ``factor @ factor.T``."""
    return 2 * xp.sum(xp.log(diagonal(xp, factor)), axis=-1)


def diagonal(xp: Namespace, matrix: Array) -> Array:
    """Diagonals of a batch of matrices, shape (..., d)."""
    return xp.linalg.diagonal(matrix)


def square_norm(xp: Namespace, vector: Array) -> Array:
    """Squared Euclidean norm along the last axis."""
    return xp.sum(vector**2, axis=-1)


def _is_definite(matrix: np.ndarray) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True
