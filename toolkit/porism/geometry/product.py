"""Products of manifolds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from porism.errors import ParameterError
from porism.geometry import curvature
from porism.geometry.checks import points
from porism.geometry.frames import norm
from porism.geometry.protocol import Density, Manifold, Points
from porism.geometry.sampling import draw


class Product:
    """The product of manifolds, in the product of their spaces; its methods are those of :class:`Manifold`.

    Parameters
    ----------
    *factors
        Manifolds, at least one. Coordinates follow each other in this order.

    Raises
    ------
    ParameterError
        Without factors, or for a factor that is no manifold.

    Notes
    -----
    Volumes multiply, the reach is the smallest one, bases and the second fundamental form are block diagonal, and
    squared geodesic distances add where every factor has them.

    Examples
    --------
    >>> from porism.geometry import LinearSubspace, Product, Sphere
    >>> cylinder = Product(Sphere(1, radius=2.0), LinearSubspace([[1.0]]))
    >>> cylinder.project([1.0, 0.0, 7.0]), cylinder.reach
    (array([2., 0., 7.]), 2.0)
    >>> round(Product(Sphere(1), Sphere(1)).volume / np.pi**2, 12)
    4.0
    """

    def __init__(self, *factors: Manifold) -> None:
        if not factors:
            raise ParameterError("factors must be at least one manifold")
        for factor in factors:
            if not hasattr(type(factor), "second_fundamental_form"):
                raise ParameterError(f"factors must be manifolds, got {type(factor).__name__}")
        self._factors = factors

    def __repr__(self) -> str:
        return f"Product({', '.join(map(repr, self._factors))})"

    @property
    def factors(self) -> tuple[Manifold, ...]:
        """The factors in order."""
        return self._factors

    @property
    def dimension(self) -> int:
        """Sum of the dimensions."""
        return sum(factor.dimension for factor in self._factors)

    @property
    def ambient_dimension(self) -> int:
        """Sum of the ambient dimensions."""
        return sum(factor.ambient_dimension for factor in self._factors)

    @property
    def volume(self) -> float:
        """Product of the volumes."""
        return float(np.prod([factor.volume for factor in self._factors]))

    @property
    def reach(self) -> float:
        """Smallest reach."""
        return min(factor.reach for factor in self._factors)

    def sample(
        self, rng: np.random.Generator, n: int, density: Density | None = None, density_bound: float | None = None
    ) -> Points:
        """Draw ``(n, D)`` points, uniform or with a density; see :meth:`Manifold.sample`."""

        def uniform(m: int) -> Points:
            return np.concatenate([factor.sample(rng, m) for factor in self._factors], axis=-1)

        return draw(rng, n, uniform, density, density_bound)

    def project(self, x: ArrayLike) -> Points:
        """Nearest point, factor by factor."""
        return self._join(lambda factor, part: factor.project(part), self._split("x", x))

    def distance(self, x: ArrayLike) -> Points:
        """Root of the summed squares of the distances."""
        return norm(self._stack(lambda factor, part: factor.distance(part), self._split("x", x)))

    def tangent_basis(self, x: ArrayLike) -> Points:
        """Block diagonal."""
        return self._blocks([factor.tangent_basis(part) for factor, part in self._pairs(x)])

    def normal_basis(self, x: ArrayLike) -> Points:
        """Block diagonal."""
        return self._blocks([factor.normal_basis(part) for factor, part in self._pairs(x)])

    def second_fundamental_form(self, x: ArrayLike) -> Points:
        """Block diagonal: zero on directions of different factors."""
        batch = points("x", x, self.ambient_dimension).shape[:-1]
        form = np.zeros((*batch, self.dimension, self.dimension, self.ambient_dimension))
        row = column = 0
        for factor, part in self._pairs(x):
            rows = slice(row, row + factor.dimension)
            columns = slice(column, column + factor.ambient_dimension)
            form[..., rows, rows, columns] = factor.second_fundamental_form(part)
            row, column = rows.stop, columns.stop
        return form

    def mean_curvature(self, x: ArrayLike) -> Points:
        """``trace(II) / d``."""
        return curvature.mean_curvature(self.second_fundamental_form(x))

    def geodesic_distance(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Root of the summed squares of the factors' distances."""
        parts = self._split("x", x), self._split("y", y)
        return norm(self._stack(lambda factor, one, two: factor.geodesic_distance(one, two), *parts))

    def exponential(self, x: ArrayLike, v: ArrayLike) -> Points:
        """Factor by factor."""
        parts = self._split("x", x), self._split("v", v)
        return self._join(lambda factor, part, velocity: factor.exponential(part, velocity), *parts)

    def logarithm(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Factor by factor."""
        parts = self._split("x", x), self._split("y", y)
        return self._join(lambda factor, one, two: factor.logarithm(one, two), *parts)

    def _split(self, name: str, x: ArrayLike) -> list[Points]:
        array = points(name, x, self.ambient_dimension)
        ends = np.cumsum([factor.ambient_dimension for factor in self._factors])
        return np.split(array, ends[:-1], axis=-1)

    def _pairs(self, x: ArrayLike) -> list[tuple[Manifold, Points]]:
        return list(zip(self._factors, self._split("x", x), strict=True))

    def _join(self, call: Callable[..., Points], *parts: list[Points]) -> Points:
        return np.concatenate([call(*args) for args in zip(self._factors, *parts, strict=True)], axis=-1)

    def _stack(self, call: Callable[..., Points], *parts: list[Points]) -> Points:
        return np.stack([call(*args) for args in zip(self._factors, *parts, strict=True)], axis=-1)

    def _blocks(self, frames: list[Points]) -> Points:
        height, width = (sum(frame.shape[axis] for frame in frames) for axis in (-2, -1))
        blocks = np.zeros((*frames[0].shape[:-2], height, width))
        row = column = 0
        for frame in frames:
            rows, columns = slice(row, row + frame.shape[-2]), slice(column, column + frame.shape[-1])
            blocks[..., rows, columns] = frame
            row, column = rows.stop, columns.stop
        return blocks
