"""What every manifold offers, as a protocol: one place for the conventions of all families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from porism.errors import ParameterError

Points: TypeAlias = NDArray[np.float64]
Density: TypeAlias = Callable[[Points], ArrayLike]


class Manifold(Protocol):
    """A submanifold M of R^D of dimension d, with its volume measure and the metric of R^D.

    All arrays are float64; points are ``(..., D)`` and batches are leading axes.

    Notes
    -----
    Methods that speak of the geometry *at* a point want the point on the manifold, to 1e-8 of the manifold's size,
    and raise :class:`~porism.errors.ParameterError` otherwise; ``project`` and ``distance`` take any point (where they
    search numerically, within 1e8 times the manifold's extent). Methods of two arguments broadcast the leading axes.
    Where the nearest point is not unique (on the medial axis), ``project`` returns one of the nearest points; each
    family says which.

    Examples
    --------
    >>> from porism.geometry import Manifold, Sphere
    >>> def codimension(manifold: Manifold) -> int:
    ...     return manifold.ambient_dimension - manifold.dimension
    >>> codimension(Sphere(2))
    1
    """

    @property
    def dimension(self) -> int:
        """Dimension d of the manifold."""

    @property
    def ambient_dimension(self) -> int:
        """Dimension D of the space around it."""

    @property
    def volume(self) -> float:
        """d-dimensional volume; ``inf`` for linear subspaces."""

    @property
    def reach(self) -> float:
        """Largest t such that every point closer than t has a unique nearest point; ``inf`` for subspaces."""

    def sample(
        self, rng: np.random.Generator, n: int, density: Density | None = None, density_bound: float | None = None
    ) -> Points:
        """Draw ``(n, D)`` independent points.

        Parameters
        ----------
        rng
            Source of randomness.
        n
            How many points.
        density
            Takes points ``(m, D)`` and returns ``(m,)`` values of an unnormalised density with respect to the volume
            measure; None is the uniform distribution.
        density_bound
            A number that the density nowhere exceeds; rejection from the uniform distribution needs it.

        Raises
        ------
        ParameterError
            If the density is negative, NaN or above its bound somewhere, or so small that nothing is accepted.
        """

    def project(self, x: ArrayLike) -> Points:
        """Nearest point of the manifold."""

    def distance(self, x: ArrayLike) -> Points:
        """Euclidean distance to the manifold, ``(...,)``."""

    def tangent_basis(self, x: ArrayLike) -> Points:
        """Orthonormal basis of the tangent space, ``(..., D, d)``."""

    def normal_basis(self, x: ArrayLike) -> Points:
        """Orthonormal basis of the normal space, ``(..., D, D - d)``."""

    def second_fundamental_form(self, x: ArrayLike) -> Points:
        """Normal vectors ``II(e_i, e_j)``, ``(..., d, d, D)``, with ``e`` the columns of ``tangent_basis(x)``."""

    def mean_curvature(self, x: ArrayLike) -> Points:
        """Mean curvature vector ``trace(II) / d``, ``(..., D)``."""

    def geodesic_distance(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Length of the shortest path inside the manifold, ``(...,)``; ParameterError where there is no closed form."""

    def exponential(self, x: ArrayLike, v: ArrayLike) -> Points:
        """Where the geodesic from x with velocity v is at time one; ParameterError where there is no closed form."""

    def logarithm(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Shortest v with ``exponential(x, v) = y``; ParameterError on the cut locus or without a closed form."""


def not_closed(manifold: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """Stand in for a geodesic method without a closed form: raises :class:`~porism.errors.ParameterError`."""
    raise ParameterError(f"{type(manifold).__name__} has no closed form for this: its geodesics solve an equation")
