"""Orthonormal frames in the Frobenius metric."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import expm
from scipy.special import multigammaln

from porism.arrays import check_count
from porism.errors import ParameterError
from porism.geometry import curvature
from porism.geometry.checks import on_manifold, points, tangent
from porism.geometry.frames import complement, norm
from porism.geometry.protocol import Density, Points, not_closed
from porism.geometry.sampling import draw


@dataclass(frozen=True)
class Stiefel:
    """The matrices ``(n, k)`` with orthonormal columns in R^(n k); its methods are those of :class:`Manifold`.

    Parameters
    ----------
    n
        Rows, at least 2.
    k
        Columns, 1 <= k <= n. With k = n it is the orthogonal group, of two components.

    Raises
    ------
    ParameterError
        For sizes out of range.

    Notes
    -----
    Points are the matrices row after row; ``matrices`` gives ``(..., n, k)``. The metric is that of R^(n k): the volume
    is 2^(k (k - 1) / 4) times that of the canonical metric. The reach is 1, the distance from a frame to the nearest
    matrix of lower rank; such matrices are the medial axis, and ``project`` uses whichever polar factor the singular
    value decomposition gives. ``exponential`` is closed by matrix exponentials (Edelman, Arias and Smith, "The
    geometry of algorithms with orthogonality constraints", 1998, section 2.2.2); distance and logarithm are not.
    Sampling is exact, by the polar factor of a Gaussian matrix.

    Examples
    --------
    >>> frames = Stiefel(3, 2)
    >>> frames.dimension, frames.reach
    (3, 1.0)
    >>> frames.project([2.0, 0.0, 0.0, 3.0, 0.0, 0.0]).reshape(3, 2).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    >>> round(Stiefel(3, 1).volume / np.pi, 12)
    4.0
    """

    n: int
    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", check_count("n", self.n, 2))
        object.__setattr__(self, "k", check_count("k", self.k, 1))
        if self.k > self.n:
            raise ParameterError(f"k must be at most n = {self.n}, got {self.k}")

    @property
    def dimension(self) -> int:
        """``n k - k (k + 1) / 2``."""
        return self.n * self.k - self.k * (self.k + 1) // 2

    @property
    def ambient_dimension(self) -> int:
        """``n k``."""
        return self.n * self.k

    @property
    def volume(self) -> float:
        """``2^(k + k (k - 1) / 4) pi^(n k / 2) / Gamma_k(n / 2)``."""
        power = self.k + self.k * (self.k - 1) / 4
        log = power * np.log(2.0) + self.n * self.k / 2 * np.log(np.pi) - multigammaln(self.n / 2, self.k)
        return float(np.exp(log))

    @property
    def reach(self) -> float:
        """1."""
        return 1.0

    def matrices(self, x: ArrayLike) -> Points:
        """Reshape points ``(..., n k)`` to ``(..., n, k)``."""
        array = points("x", x, self.ambient_dimension)
        return array.reshape(*array.shape[:-1], self.n, self.k)

    def sample(
        self, rng: np.random.Generator, n: int, density: Density | None = None, density_bound: float | None = None
    ) -> Points:
        """Draw ``(n, D)`` points, uniform or with a density; see :meth:`Manifold.sample`."""
        size = self.ambient_dimension
        return draw(rng, n, lambda m: self.project(rng.standard_normal((m, size))), density, density_bound)

    def project(self, x: ArrayLike) -> Points:
        """Polar factor: ``U V'`` of the thin singular value decomposition."""
        left, _, right = np.linalg.svd(self.matrices(x), full_matrices=False)
        return self._flat(left @ right)

    def distance(self, x: ArrayLike) -> Points:
        """Frobenius distance: the length of the singular values minus one."""
        values = np.asarray(np.linalg.svd(self.matrices(x), compute_uv=False), dtype=np.float64)
        return norm(values - 1)

    def tangent_basis(self, x: ArrayLike) -> Points:
        """``X (E_ij - E_ji) / sqrt(2)`` for i < j, then ``X' E_ij`` with X' a complement of X."""
        frames = self._on(x)
        turns = np.zeros((self.k * (self.k - 1) // 2, self.k, self.k))
        for index, (i, j) in enumerate(combinations(range(self.k), 2)):
            turns[index, i, j], turns[index, j, i] = np.sqrt(0.5), -np.sqrt(0.5)
        inner = np.einsum("...nk,aki->...nia", frames, turns)
        outer = np.einsum("...nr,ij->...nirj", complement(frames), np.eye(self.k))
        outer = outer.reshape(*inner.shape[:-1], (self.n - self.k) * self.k)
        return self._flat_columns(np.concatenate([inner, outer], axis=-1))

    def normal_basis(self, x: ArrayLike) -> Points:
        """``X E_ii``, then ``X (E_ij + E_ji) / sqrt(2)`` for i < j."""
        symmetric = [np.diag(row) for row in np.eye(self.k)]
        for i, j in combinations(range(self.k), 2):
            pair = np.zeros((self.k, self.k))
            pair[i, j] = pair[j, i] = np.sqrt(0.5)
            symmetric.append(pair)
        return self._flat_columns(np.einsum("...nk,aki->...nia", self._on(x), np.array(symmetric)))

    def second_fundamental_form(self, x: ArrayLike) -> Points:
        """``II(U, V) = -X (U' V + V' U) / 2``."""
        frames = self._on(x)
        basis = self.tangent_basis(x)
        basis = basis.reshape(*frames.shape, self.dimension)
        products = np.einsum("...nka,...nlb->...abkl", basis, basis)
        symmetric = (products + np.swapaxes(products, -1, -2)) / 2
        form: Points = np.einsum("...nk,...abkl->...abnl", -frames, symmetric)
        return form.reshape(*form.shape[:-2], self.ambient_dimension)

    def mean_curvature(self, x: ArrayLike) -> Points:
        """``trace(II) / d``."""
        return curvature.mean_curvature(self.second_fundamental_form(x))

    def exponential(self, x: ArrayLike, v: ArrayLike) -> Points:
        """Geodesic of the Frobenius metric at time one, by two matrix exponentials."""
        frames = self._on(x)
        velocity = self.matrices(tangent("v", v, self.tangent_basis(x)))
        frames, velocity = np.broadcast_arrays(frames, velocity)
        turn = np.swapaxes(frames, -1, -2) @ velocity
        square = np.swapaxes(velocity, -1, -2) @ velocity
        identity = np.broadcast_to(np.eye(self.k), turn.shape)
        block = np.concatenate(
            [np.concatenate([turn, -square], axis=-1), np.concatenate([identity, turn], axis=-1)], axis=-2
        )
        moved = np.concatenate([frames, velocity], axis=-1) @ expm(block)[..., : self.k] @ expm(-turn)
        return self._flat(moved)

    geodesic_distance = not_closed
    logarithm = not_closed

    def _flat(self, matrices: Points) -> Points:
        return matrices.reshape(*matrices.shape[:-2], self.ambient_dimension)

    def _flat_columns(self, columns: Points) -> Points:
        return columns.reshape(*columns.shape[:-3], self.ambient_dimension, columns.shape[-1])

    def _on(self, x: ArrayLike) -> Points:
        on_manifold("x", self.distance(x), np.sqrt(self.k))
        return self.matrices(x)
