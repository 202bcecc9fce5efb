"""Tori: the flat product of circles, and the surface of revolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from porism.arrays import check_axis, check_count
from porism.errors import ParameterError
from porism.geometry import curvature
from porism.geometry.checks import on_manifold, points, positive, tangent
from porism.geometry.frames import norm, unit
from porism.geometry.protocol import Density, Points, not_closed
from porism.geometry.sampling import accept_reject, draw


@dataclass(frozen=True)
class Torus:
    """The flat torus, a product of circles in R^(2 dimension); its methods are those of :class:`Manifold`.

    Parameters
    ----------
    dimension
        Number d of circles, at least 1. Circle i lies in the coordinates 2i and 2i + 1.
    radius
        Radius of each circle, positive. For different radii use ``Product(Sphere(1, a), Sphere(1, b))``.

    Raises
    ------
    ParameterError
        For a dimension below 1 or a radius that is not positive.

    Notes
    -----
    The reach is the radius. A centre of a circle is sent to angle zero by ``project``. Sampling is exact.

    Examples
    --------
    >>> torus = Torus(2, radius=2.0)
    >>> torus.project([1.0, 0.0, 0.0, -3.0])
    array([ 2.,  0.,  0., -2.])
    >>> float(torus.geodesic_distance([2.0, 0.0, 2.0, 0.0], [-2.0, 0.0, 2.0, 0.0]) / np.pi)
    2.0
    """

    dimension: int
    radius: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimension", check_count("dimension", self.dimension, 1))
        object.__setattr__(self, "radius", positive("radius", self.radius))

    @property
    def ambient_dimension(self) -> int:
        """D = 2 d."""
        return 2 * self.dimension

    @property
    def volume(self) -> float:
        """``(2 pi radius)^d``."""
        return float((2 * np.pi * self.radius) ** self.dimension)

    @property
    def reach(self) -> float:
        """The radius."""
        return self.radius

    def sample(
        self, rng: np.random.Generator, n: int, density: Density | None = None, density_bound: float | None = None
    ) -> Points:
        """Draw ``(n, D)`` points, uniform or with a density; see :meth:`Manifold.sample`."""
        return draw(rng, n, lambda m: self._at(rng.uniform(0, 2 * np.pi, (m, self.dimension))), density, density_bound)

    def project(self, x: ArrayLike) -> Points:
        """Nearest point, circle by circle; centres go to angle zero."""
        circles = self._circles(points("x", x, self.ambient_dimension))
        return self._flat(self.radius * unit(circles))

    def distance(self, x: ArrayLike) -> Points:
        """Distance to the torus."""
        return norm(norm(self._circles(points("x", x, self.ambient_dimension))) - self.radius)

    def tangent_basis(self, x: ArrayLike) -> Points:
        """One unit tangent for each circle, against the clock."""
        normals = self._normals("x", x)
        return self._frame(np.stack([-normals[..., 1], normals[..., 0]], axis=-1))

    def normal_basis(self, x: ArrayLike) -> Points:
        """One outward unit normal for each circle."""
        return self._frame(self._normals("x", x))

    def second_fundamental_form(self, x: ArrayLike) -> Points:
        """``II(e_i, e_i) = -n_i / radius``, zero for different circles."""
        normals = self.normal_basis(x)
        form: Points = np.einsum("ij,...Di->...ijD", np.eye(self.dimension), normals) / -self.radius
        return form

    def mean_curvature(self, x: ArrayLike) -> Points:
        """``-x / (d radius^2)``."""
        return curvature.mean_curvature(self.second_fundamental_form(x))

    def geodesic_distance(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Root of the summed squares of the arcs."""
        return self.radius * norm(self._angles(x, y))

    def exponential(self, x: ArrayLike, v: ArrayLike) -> Points:
        """Turn each circle by its part of v."""
        array = points("x", x, self.ambient_dimension)
        basis = self.tangent_basis(array)
        turns = np.einsum("...Di,...D->...i", basis, tangent("v", v, basis)) / self.radius
        circles = self._circles(array)
        return self._at(np.arctan2(circles[..., 1], circles[..., 0]) + turns)

    def logarithm(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Initial velocity of the shortest path; ParameterError where a circle holds antipodes."""
        angles = self._angles(x, y)
        if bool((np.abs(angles) > np.pi - 1e-14).any()):
            raise ParameterError("y is opposite to x on a circle: no unique shortest path")
        turned: Points = self.radius * np.einsum("...Di,...i->...D", self.tangent_basis(x), angles)
        return turned

    def _at(self, angles: Points) -> Points:
        return self._flat(self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1))

    def _circles(self, x: Points) -> Points:
        return x.reshape(*x.shape[:-1], self.dimension, 2)

    def _flat(self, circles: Points) -> Points:
        return circles.reshape(*circles.shape[:-2], self.ambient_dimension)

    def _frame(self, vectors: Points) -> Points:
        frame: Points = np.einsum("ij,...ic->...icj", np.eye(self.dimension), vectors)
        return frame.reshape(*vectors.shape[:-2], self.ambient_dimension, self.dimension)

    def _normals(self, name: str, x: ArrayLike) -> Points:
        array = points(name, x, self.ambient_dimension)
        on_manifold(name, self.distance(array), self.radius)
        return unit(self._circles(array))

    def _angles(self, x: ArrayLike, y: ArrayLike) -> Points:
        one, two = self._normals("x", x), self._normals("y", y)
        check_axis(-1, x=self._flat(one), y=self._flat(two))
        cross = one[..., 0] * two[..., 1] - one[..., 1] * two[..., 0]
        angles: Points = np.arctan2(cross, (one * two).sum(-1))
        return angles


@dataclass(frozen=True)
class RevolutionTorus:
    """The torus of revolution about the third axis of R^3; its methods are those of :class:`Manifold`.

    Parameters
    ----------
    major
        Distance R from the axis to the centre of the tube, above ``minor``.
    minor
        Radius r of the tube, positive.

    Raises
    ------
    ParameterError
        For radii that are not positive or ``minor >= major``, where the surface meets itself.

    Notes
    -----
    The reach is ``min(minor, major - minor)``. On the medial axis, ``project`` takes angle zero about the third axis
    for its points, and the outer equator for the core circle of the tube. The angle about the axis is sampled exactly,
    that of the tube by rejection with volume element ``R + r cos``, bounded by ``R + r``. Geodesics have no closed
    form.

    Examples
    --------
    >>> torus = RevolutionTorus(3.0, 1.0)
    >>> torus.project([5.0, 0.0, 0.0]), torus.reach
    (array([4., 0., 0.]), 1.0)
    >>> round(torus.volume / np.pi**2, 12)
    12.0
    """

    major: float
    minor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "major", positive("major", self.major))
        object.__setattr__(self, "minor", positive("minor", self.minor))
        if self.minor >= self.major:
            raise ParameterError(f"minor must be below major, got minor {self.minor:g} and major {self.major:g}")

    @property
    def dimension(self) -> int:
        """2."""
        return 2

    @property
    def ambient_dimension(self) -> int:
        """3."""
        return 3

    @property
    def volume(self) -> float:
        """``4 pi^2 R r``."""
        return float(4 * np.pi**2 * self.major * self.minor)

    @property
    def reach(self) -> float:
        """``min(r, R - r)``."""
        return min(self.minor, self.major - self.minor)

    def sample(
        self, rng: np.random.Generator, n: int, density: Density | None = None, density_bound: float | None = None
    ) -> Points:
        """Draw ``(n, 3)`` points, uniform or with a density; see :meth:`Manifold.sample`."""

        def uniform(m: int) -> Points:
            tube = accept_reject(
                rng,
                m,
                lambda k: rng.uniform(0, 2 * np.pi, (k, 1)),
                lambda v: self.major + self.minor * np.cos(v[:, 0]),
                self.major + self.minor,
                "volume element",
            )[:, 0]
            around = rng.uniform(0, 2 * np.pi, m)
            ring = self.major + self.minor * np.cos(tube)
            return np.stack([ring * np.cos(around), ring * np.sin(around), self.minor * np.sin(tube)], axis=-1)

        return draw(rng, n, uniform, density, density_bound)

    def project(self, x: ArrayLike) -> Points:
        """Nearest point, in closed form."""
        around, tube = self._directions(points("x", x, 3))
        ring = self.major + self.minor * tube[..., :1]
        return np.concatenate([ring * around, self.minor * tube[..., 1:]], axis=-1)

    def distance(self, x: ArrayLike) -> Points:
        """Distance to the surface."""
        array = points("x", x, 3)
        meridian = np.stack([norm(array[..., :2]) - self.major, array[..., 2]], axis=-1)
        distance: Points = np.abs(norm(meridian) - self.minor)
        return distance

    def tangent_basis(self, x: ArrayLike) -> Points:
        """Directions about the axis and about the tube."""
        around, tube = self._on("x", x)
        zero = np.zeros_like(around[..., :1])
        first = np.concatenate([-around[..., 1:], around[..., :1], zero], axis=-1)
        second = np.concatenate([-tube[..., 1:] * around, tube[..., :1]], axis=-1)
        return np.stack([first, second], axis=-1)

    def normal_basis(self, x: ArrayLike) -> Points:
        """The outward unit normal, ``(..., 3, 1)``."""
        around, tube = self._on("x", x)
        return np.concatenate([tube[..., :1] * around, tube[..., 1:]], axis=-1)[..., None]

    def second_fundamental_form(self, x: ArrayLike) -> Points:
        """Diagonal, with curvatures ``cos / (R + r cos)`` and ``1 / r`` against the outward normal."""
        _, tube = self._on("x", x)
        cosine = tube[..., 0]
        curvatures = np.stack([cosine / (self.major + self.minor * cosine), np.full_like(cosine, 1 / self.minor)], -1)
        form: Points = np.einsum("ij,...i,...D->...ijD", -np.eye(2), curvatures, self.normal_basis(x)[..., 0])
        return form

    def mean_curvature(self, x: ArrayLike) -> Points:
        """``trace(II) / 2``."""
        return curvature.mean_curvature(self.second_fundamental_form(x))

    geodesic_distance = not_closed
    exponential = not_closed
    logarithm = not_closed

    def _directions(self, x: Points) -> tuple[Points, Points]:
        """Unit vectors about the axis (x, y) and about the tube (outward, z)."""
        around = unit(x[..., :2])
        return around, unit(np.stack([norm(x[..., :2]) - self.major, x[..., 2]], axis=-1))

    def _on(self, name: str, x: ArrayLike) -> tuple[Points, Points]:
        array = points(name, x, 3)
        on_manifold(name, self.distance(array), self.minor)
        return self._directions(array)
