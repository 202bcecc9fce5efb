"""The round sphere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from porism.arrays import check_axis, check_count
from porism.errors import ParameterError
from porism.geometry import curvature
from porism.geometry.checks import on_manifold, points, positive, tangent
from porism.geometry.frames import hyperplane_basis, norm, unit
from porism.geometry.protocol import Density, Points
from porism.geometry.sampling import draw


@dataclass(frozen=True)
class Sphere:
    """The sphere of a radius about the origin of R^(dimension + 1); its methods are those of :class:`Manifold`.

    Parameters
    ----------
    dimension
        d, at least 1; 1 is the circle.
    radius
        Positive.

    Raises
    ------
    ParameterError
        For a dimension below 1 or a radius that is not positive.

    Notes
    -----
    The reach is the radius. The medial axis is the centre, which ``project`` sends to the first coordinate direction.
    Sampling is exact (a normalised Gaussian).

    Examples
    --------
    >>> sphere = Sphere(2, radius=2.0)
    >>> sphere.project([0.0, 3.0, 4.0])
    array([0. , 1.2, 1.6])
    >>> round(sphere.volume / np.pi, 12), sphere.reach
    (16.0, 2.0)
    >>> float(np.linalg.norm(sphere.mean_curvature([2.0, 0.0, 0.0])))
    0.5
    """

    dimension: int
    radius: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimension", check_count("dimension", self.dimension, 1))
        object.__setattr__(self, "radius", positive("radius", self.radius))

    @property
    def ambient_dimension(self) -> int:
        """D = d + 1."""
        return self.dimension + 1

    @property
    def volume(self) -> float:
        """``2 pi^(D/2) / Gamma(D/2) radius^d``."""
        half = self.ambient_dimension / 2
        log = np.log(2.0) + half * np.log(np.pi) - gammaln(half) + self.dimension * np.log(self.radius)
        return float(np.exp(log))

    @property
    def reach(self) -> float:
        """The radius."""
        return self.radius

    def sample(
        self, rng: np.random.Generator, n: int, density: Density | None = None, density_bound: float | None = None
    ) -> Points:
        """Draw ``(n, D)`` points, uniform or with a density; see :meth:`Manifold.sample`."""
        size = self.ambient_dimension
        return draw(rng, n, lambda m: self.radius * unit(rng.standard_normal((m, size))), density, density_bound)

    def project(self, x: ArrayLike) -> Points:
        """Nearest point; the centre goes to the first coordinate direction."""
        return self.radius * unit(points("x", x, self.ambient_dimension))

    def distance(self, x: ArrayLike) -> Points:
        """``| |x| - radius |``."""
        distance: Points = np.abs(norm(points("x", x, self.ambient_dimension)) - self.radius)
        return distance

    def tangent_basis(self, x: ArrayLike) -> Points:
        """Orthonormal basis of the complement of x."""
        return hyperplane_basis(self._normal("x", x))

    def normal_basis(self, x: ArrayLike) -> Points:
        """The outward unit normal, ``(..., D, 1)``."""
        return self._normal("x", x)[..., None]

    def second_fundamental_form(self, x: ArrayLike) -> Points:
        """``II(u, v) = -<u, v> x / radius^2``."""
        normal = self._normal("x", x)
        return -np.eye(self.dimension)[:, :, None] * normal[..., None, None, :] / self.radius

    def mean_curvature(self, x: ArrayLike) -> Points:
        """``-x / radius^2``."""
        return curvature.mean_curvature(self.second_fundamental_form(x))

    def geodesic_distance(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Radius times the angle, accurate for tiny and for nearly straight angles."""
        one, two = self._pair(x, y)
        angle: Points = 2 * np.arctan2(norm(one - two), norm(one + two))
        return self.radius * angle

    def exponential(self, x: ArrayLike, v: ArrayLike) -> Points:
        """Walk along the great circle."""
        normal = self._normal("x", x)
        velocity = tangent("v", v, hyperplane_basis(normal))
        angle = norm(velocity)[..., None] / self.radius
        return self.radius * np.cos(angle) * normal + np.sinc(angle / np.pi) * velocity

    def logarithm(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Initial velocity of the shortest great arc; ParameterError for antipodes, where it is not unique."""
        one, two = self._pair(x, y)
        if bool((norm(one + two) < 1e-14).any()):
            raise ParameterError("y is the antipode of x: no unique shortest path")
        across = two - one
        across = across - one * (across * one).sum(-1, keepdims=True)
        length = norm(across)[..., None]
        direction = across / np.where(length > 0, length, 1.0)
        velocity: Points = self.geodesic_distance(x, y)[..., None] * direction
        return velocity

    def _pair(self, x: ArrayLike, y: ArrayLike) -> tuple[Points, Points]:
        one, two = self._normal("x", x), self._normal("y", y)
        check_axis(-1, x=one, y=two)
        return one, two

    def _normal(self, name: str, x: ArrayLike) -> Points:
        array = points(name, x, self.ambient_dimension)
        on_manifold(name, np.abs(norm(array) - self.radius), self.radius)
        return unit(array)
