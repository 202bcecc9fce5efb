"""Manifolds that the user gives as a map from a box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from porism.arrays import check_callable, check_count
from porism.errors import ParameterError
from porism.geometry import curvature
from porism.geometry.charts import Chart
from porism.geometry.checks import TOLERANCE, on_manifold, points, positive, real
from porism.geometry.frames import complement, norm
from porism.geometry.protocol import Density, Points, not_closed
from porism.geometry.sampling import accept_reject, draw


@dataclass(frozen=True, eq=False)
class Parametrised:
    """The image of a box under a smooth map; its methods are those of :class:`Manifold`.

    Parameters
    ----------
    map
        Takes float64 parameters ``(..., d)`` and returns points ``(..., D)``, d <= D; one to one up to sets of measure
        zero, smooth on the box (and beyond its seams on periodic axes).
    bounds
        d pairs (low, high) with low < high.
    jacobian
        Takes ``(..., d)`` and returns ``(..., D, d)``. None is finite differences.
    periodic
        For each axis, whether its two ends are glued; None is no axis. The other ends are the manifold's boundary,
        unless the map collapses them, as at the poles of a sphere.
    element_bound
        A number that ``volume_element`` nowhere exceeds, which makes sampling exact. None takes 1.05 times its
        largest value on the grid. Every proposal is checked against it and raises where it fails.
    resolution
        Nodes on each axis of the grid where the search for the nearest point starts; None is about 4096 in all.
        Features of the map that are finer than the grid can be missed.

    Raises
    ------
    ParameterError
        For bounds out of order, a map or a Jacobian that is no function or of the wrong shape, NaN in it, or a map that
        is constant. Methods raise for points beyond 1e8 times the manifold's extent.

    Notes
    -----
    Finite differences are of sixth order with steps of 1/1024 of the box: for maps that vary on the scale of the box,
    tangents are right to about 1e-12 and the second fundamental form to about 1e-9 (1e-12 with ``jacobian``), both
    relative, and worse towards points where the Jacobian loses rank (poles); there, methods that need a tangent basis
    raise.

    The nearest point is found by Newton's method on the parameters from several nodes of a grid, the boundary included;
    it is exact to rounding if the grid tells the basins apart. The reach is an *estimate*, computed once: the smaller
    of the smallest radius of curvature and of the refined minimum of Federer's ratios (bottlenecks); on a boundary, the
    tangent cone is taken face by face. It is above the truth if the grid misses a feature, within about 1e-6 of it
    otherwise, and infinite beyond 1e6 times the extent. The volume is a Gauss-Legendre or trapezoidal sum with up to
    64 nodes an axis. Geodesics have no closed form.

    Examples
    --------
    >>> circle = Parametrised(
    ...     lambda u: np.concatenate([2 * np.cos(u), 2 * np.sin(u)], axis=-1), [(0, 2 * np.pi)], periodic=[True]
    ... )
    >>> circle.project([0.0, 5.0]).round(9) + 0.0
    array([0., 2.])
    >>> round(circle.volume / np.pi, 9), round(circle.reach, 6)
    (4.0, 2.0)
    """

    map: Callable[[Points], Points]
    bounds: Sequence[tuple[float, float]]
    jacobian: Callable[[Points], Points] | None = None
    periodic: Sequence[bool] | None = None
    element_bound: float | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        bounds = real("bounds", self.bounds)
        if bounds.ndim != 2 or bounds.shape[0] == 0 or bounds.shape[1] != 2:
            raise ParameterError(f"bounds must be pairs (low, high), got shape {bounds.shape}")
        if not bool((bounds[:, 0] < bounds[:, 1]).all()):
            raise ParameterError("bounds must have low < high on every axis")
        size = len(bounds)
        if self.periodic is not None and real("periodic", self.periodic).shape != (size,):
            raise ParameterError(f"periodic must be {size} booleans, got {self.periodic!r:.80}")
        if self.element_bound is not None:
            positive("element_bound", self.element_bound)
        if self.resolution is not None:
            check_count("resolution", self.resolution, 4)
        object.__setattr__(self, "bounds", tuple((float(low), float(high)) for low, high in bounds))
        check_callable(map=self.map)
        inside = bounds[:, 0] + np.diff(bounds)[:, 0] * np.random.default_rng(0).random((2, 3, size))
        value = real("map", self.map(inside))
        if value.shape[:-1] != (2, 3) or value.ndim != 3 or value.shape[-1] < size:
            raise ParameterError(f"map must take (..., {size}) to (..., D) with D >= {size}, got {value.shape}")
        if bool((value == value[0, 0]).all()):
            raise ParameterError("map must not be constant")
        if self.jacobian is None:
            return
        check_callable(jacobian=self.jacobian)
        if real("jacobian", self.jacobian(inside)).shape != (*value.shape, size):
            raise ParameterError(f"jacobian must take (..., {size}) to (..., {value.shape[-1]}, {size})")

    @cached_property
    def _chart(self) -> Chart:
        low, high = np.array(self.bounds).T
        periodic = np.zeros(len(low), bool) if self.periodic is None else np.array(self.periodic, bool)
        resolution = self.resolution or max(4, int(4096 ** (1 / len(low)) + 1e-9))
        return Chart(self.map, low, high, periodic, self.jacobian, resolution)

    @property
    def dimension(self) -> int:
        """d, the number of parameters."""
        return len(self.bounds)

    @cached_property
    def ambient_dimension(self) -> int:
        """D, the length of the map's values."""
        return int(self.map(self._chart.lower[None]).shape[-1])

    @property
    def volume(self) -> float:
        """Integral of the volume element by quadrature."""
        return self._chart.volume

    @property
    def reach(self) -> float:
        """Estimate; see the notes of the class."""
        return self._chart.reach

    def volume_element(self, u: ArrayLike) -> Points:
        """``sqrt(det(J' J))`` at parameters ``(..., d)``."""
        return self._chart.volume_element(points("u", u, self.dimension))

    def parameters(self, x: ArrayLike) -> Points:
        """Parameters ``(..., d)`` of the nearest point; for periodic axes between low and high."""
        array = points("x", x, self.ambient_dimension)
        nearest = self._chart.nearest(array.reshape(-1, self.ambient_dimension))
        return nearest.reshape(*array.shape[:-1], self.dimension)

    def sample(
        self, rng: np.random.Generator, n: int, density: Density | None = None, density_bound: float | None = None
    ) -> Points:
        """Draw ``(n, D)`` points, uniform or with a density; see :meth:`Manifold.sample`."""
        chart = self._chart

        def uniform(m: int) -> Points:
            box = accept_reject(
                rng,
                m,
                lambda k: rng.uniform(chart.lower, chart.upper, (k, self.dimension)),
                chart.volume_element,
                self._element_bound,
                "element",
            )
            return self.map(box)

        return draw(rng, n, uniform, density, density_bound)

    def project(self, x: ArrayLike) -> Points:
        """Nearest point; on the medial axis one of them, by the order of the grid."""
        return self.map(self.parameters(x))

    def distance(self, x: ArrayLike) -> Points:
        """Distance to the manifold."""
        return norm(points("x", x, self.ambient_dimension) - self.project(x))

    def tangent_basis(self, x: ArrayLike) -> Points:
        """Orthonormalised columns of the Jacobian."""
        basis, triangle = self._chart.frame(self._on(x))
        if not bool(self._chart.regular(triangle).all()):
            raise ParameterError(
                "x is at a point where the Jacobian of map loses rank, so that it has no tangents here"
            )
        return basis

    def normal_basis(self, x: ArrayLike) -> Points:
        """Orthonormal basis of the complement of the tangents."""
        return complement(self.tangent_basis(x))

    def second_fundamental_form(self, x: ArrayLike) -> Points:
        """Normal part of the second derivatives of the map."""
        form = self._chart.second_fundamental_form(self._on(x))
        if not bool(np.isfinite(form).all()):
            raise ParameterError(
                "x is at a point where the Jacobian of map loses rank, so that it has no tangents here"
            )
        return form

    def mean_curvature(self, x: ArrayLike) -> Points:
        """``trace(II) / d``."""
        return curvature.mean_curvature(self.second_fundamental_form(x))

    geodesic_distance = not_closed
    exponential = not_closed
    logarithm = not_closed

    @cached_property
    def _element_bound(self) -> float:
        if self.element_bound is not None:
            return float(self.element_bound)
        return 1.05 * float(self._chart.volume_element(self._chart.grid(self._chart.resolution)).max())

    def _on(self, x: ArrayLike) -> Points:
        array = points("x", x, self.ambient_dimension)
        parameters = self.parameters(array)
        feet = self.map(parameters)
        # 1e-8 of the point's own size where the manifold is far from the origin
        size = max(float(np.abs(feet).max(initial=0.0)), TOLERANCE)
        on_manifold("x", norm(array - feet), size)
        return parameters
