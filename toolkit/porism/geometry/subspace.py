"""Linear and affine subspaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from porism.arrays import check_axis, check_count, check_generator
from porism.errors import ParameterError
from porism.geometry.checks import on_manifold, points, real, tangent
from porism.geometry.frames import complement, norm
from porism.geometry.protocol import Density, Points


@dataclass(frozen=True, eq=False)
class AffineSubspace:
    """The subspace ``offset + span(basis)`` of R^D; its methods are those of :class:`Manifold`.

    Parameters
    ----------
    basis
        ``(D, d)`` with independent columns, 1 <= d <= D. It is stored orthonormalised; a basis that is orthonormal
        already is kept.
    offset
        ``(D,)``, any point of the subspace; it is stored as the point nearest to the origin. None is the origin.

    Raises
    ------
    ParameterError
        For wrong shapes, NaN, infinities or dependent columns.

    Notes
    -----
    Volume and reach are infinite, and the curvature is zero. There is no uniform distribution, so that ``sample``
    raises; ``sample_normal`` draws a Gaussian. For a uniform piece use :class:`Parametrised` with an affine map.

    Examples
    --------
    >>> line = AffineSubspace([[1.0], [1.0]], offset=[2.0, 0.0])
    >>> line.project([0.0, 0.0])
    array([ 1., -1.])
    >>> line.volume, line.reach
    (inf, inf)
    """

    basis: ArrayLike
    offset: ArrayLike | None = None

    def __post_init__(self) -> None:
        basis = real("basis", self.basis)
        if basis.ndim != 2 or not 1 <= basis.shape[1] <= basis.shape[0]:
            raise ParameterError(f"basis must have shape (D, d) with 1 <= d <= D, got {basis.shape}")
        scaled = basis / np.where(norm(basis.T) > 0, norm(basis.T), 1.0)
        frame, triangle = np.linalg.qr(scaled)
        diagonal = np.diagonal(triangle)
        if not bool((np.abs(diagonal) > 1e-12).all()):
            raise ParameterError("basis must have independent columns")
        frame = frame * np.sign(diagonal)
        offset = np.zeros(len(basis)) if self.offset is None else points("offset", self.offset, len(basis))
        if offset.ndim != 1:
            raise ParameterError(f"offset must have shape ({len(basis)},), got {offset.shape}")
        object.__setattr__(self, "basis", frame)
        object.__setattr__(self, "offset", offset - frame @ (frame.T @ offset))

    @property
    def dimension(self) -> int:
        """d, the number of columns."""
        return int(self._frame.shape[1])

    @property
    def ambient_dimension(self) -> int:
        """D."""
        return int(self._frame.shape[0])

    @property
    def volume(self) -> float:
        """Infinite."""
        return float("inf")

    @property
    def reach(self) -> float:
        """Infinite."""
        return float("inf")

    def sample(
        self, rng: np.random.Generator, n: int, density: Density | None = None, density_bound: float | None = None
    ) -> Points:
        """Raise: infinite volume has no uniform distribution to draw or to reject from."""
        raise ParameterError(
            "a subspace has infinite volume, so no uniform distribution; use sample_normal, "
            "or Parametrised with an affine map for a bounded piece"
        )

    def sample_normal(self, rng: np.random.Generator, n: int, scale: float | ArrayLike = 1.0) -> Points:
        """Draw ``(n, D)`` points with independent Gaussian coordinates in the stored basis about the offset.

        Parameters
        ----------
        rng
            Source of randomness.
        n
            How many points.
        scale
            Standard deviation, a number or one for each column; not negative.

        Raises
        ------
        ParameterError
            For an rng that is no Generator, a number of points below 0, or a scale of another shape or sign.
        """
        check_generator(rng)
        deviations = real("scale", scale)
        if deviations.shape not in {(), (self.dimension,)} or bool((deviations < 0).any()):
            raise ParameterError(f"scale must be a number or shape ({self.dimension},), not negative")
        coordinates = deviations * rng.standard_normal((check_count("n", n, 0), self.dimension))
        return self._origin + coordinates @ self._frame.T

    def project(self, x: ArrayLike) -> Points:
        """Orthogonal projection."""
        array = points("x", x, self.ambient_dimension)
        return self._origin + (array @ self._frame) @ self._frame.T

    def distance(self, x: ArrayLike) -> Points:
        """Length of the normal part."""
        array = points("x", x, self.ambient_dimension)
        return norm(array - self.project(array))

    def tangent_basis(self, x: ArrayLike) -> Points:
        """The stored basis at every point."""
        return self._everywhere(x, self._frame)

    def normal_basis(self, x: ArrayLike) -> Points:
        """One orthonormal basis of the complement at every point."""
        return self._everywhere(x, complement(self._frame))

    def second_fundamental_form(self, x: ArrayLike) -> Points:
        """Zero."""
        return self._everywhere(x, np.zeros((self.dimension, self.dimension, self.ambient_dimension)))

    def mean_curvature(self, x: ArrayLike) -> Points:
        """Zero."""
        return self._everywhere(x, np.zeros(self.ambient_dimension))

    def geodesic_distance(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Euclidean distance."""
        return norm(self.logarithm(x, y))

    def exponential(self, x: ArrayLike, v: ArrayLike) -> Points:
        """``x + v``."""
        start, velocity = self._on("x", x), tangent("v", v, self._frame)
        check_axis(-1, x=start, v=velocity)
        return start + velocity

    def logarithm(self, x: ArrayLike, y: ArrayLike) -> Points:
        """``y - x``."""
        start, end = self._on("x", x), self._on("y", y)
        check_axis(-1, x=start, y=end)
        return end - start

    @property
    def _frame(self) -> Points:
        return np.asarray(self.basis, dtype=np.float64)

    @property
    def _origin(self) -> Points:
        return np.asarray(self.offset, dtype=np.float64)

    def _on(self, name: str, x: ArrayLike) -> Points:
        array = points(name, x, self.ambient_dimension)
        # a subspace has no size of its own: rounding grows with the points
        on_manifold(name, self.distance(array), np.maximum(norm(array), 1.0))
        return array

    def _everywhere(self, x: ArrayLike, value: Points) -> Points:
        return np.broadcast_to(value, (*self._on("x", x).shape[:-1], *value.shape)).copy()


def LinearSubspace(basis: ArrayLike) -> AffineSubspace:
    """Return the subspace spanned by the columns of ``basis`` (D, d), through the origin.

    Parameters
    ----------
    basis
        As for :class:`AffineSubspace`.

    Raises
    ------
    ParameterError
        For wrong shapes, NaN, infinities or dependent columns.

    Examples
    --------
    >>> LinearSubspace([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).distance([3.0, 4.0, -2.0])
    np.float64(2.0)
    """
    return AffineSubspace(basis)
