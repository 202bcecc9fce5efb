"""The Swiss roll: a flat strip, rolled up along the spiral of Archimedes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from porism.arrays import check_axis, check_number
from porism.errors import ParameterError
from porism.geometry import curvature
from porism.geometry.charts import Chart
from porism.geometry.checks import TOLERANCE, on_manifold, points, positive, tangent
from porism.geometry.frames import norm
from porism.geometry.protocol import Density, Points
from porism.geometry.sampling import draw


@dataclass(frozen=True)
class SwissRoll:
    """The surface ``(pitch t cos t, h, pitch t sin t)`` in R^3; its methods are those of :class:`Manifold`.

    Parameters
    ----------
    start, end
        Range of the angle t, ``0 <= start < end``. The default is the customary 1.5 pi to 4.5 pi.
    height
        h runs from 0 to it. The default is the customary 21.
    pitch
        Growth of the radius per radian.

    Raises
    ------
    ParameterError
        For an empty range or sizes that are not positive.

    Notes
    -----
    The roll is isometric to the rectangle of arc length ``s(t) = pitch (t sqrt(1 + t^2) + asinh t) / 2`` and h, which
    is convex: sampling is exact (uniform in s and h), and geodesics are straight lines there. ``exponential`` raises
    where a line leaves the rectangle. The nearest point is found by Newton's method on t from several starts, edges
    included; on the medial axis it is one of the nearest ones. The reach is an *estimate*: the smaller of the closed
    smallest radius of curvature and half the numerically narrowest gap between turns, edges included.

    Examples
    --------
    >>> roll = SwissRoll()
    >>> roll.project([-7.0, 30.0, 0.0]).round(3) + 0.0
    array([-9.382, 21.   ,  0.342])
    >>> round(roll.volume, 6), round(roll.reach, 6)
    (1876.838769, 3.111346)
    """

    start: float = 1.5 * np.pi
    end: float = 4.5 * np.pi
    height: float = 21.0
    pitch: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", check_number("start", self.start, at_least=0, below=np.inf))
        for name in ("end", "height", "pitch"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        if self.start >= self.end:
            raise ParameterError(f"start must be below end, got start {self.start:g} and end {self.end:g}")

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
        """Arc length times height."""
        low, high = self._arc_range
        return (high - low) * self.height

    @property
    def reach(self) -> float:
        """Estimate; see the notes of the class."""
        sharpest = self.pitch * (1 + self.start**2) ** 1.5 / (2 + self.start**2)
        return float(min(sharpest, self._spiral.reach))

    def sample(
        self, rng: np.random.Generator, n: int, density: Density | None = None, density_bound: float | None = None
    ) -> Points:
        """Draw ``(n, 3)`` points, uniform or with a density; see :meth:`Manifold.sample`."""

        def uniform(m: int) -> Points:
            return self._at(self._angle(rng.uniform(*self._arc_range, m)), rng.uniform(0, self.height, m))

        return draw(rng, n, uniform, density, density_bound)

    def coordinates(self, x: ArrayLike) -> Points:
        """Angle t and height h ``(..., 2)`` of the nearest point."""
        array = points("x", x, 3)
        angle = self._spiral.nearest(array[..., [0, 2]].reshape(-1, 2)).reshape(array.shape[:-1])
        return np.stack([angle, np.clip(array[..., 1], 0.0, self.height)], axis=-1)

    def project(self, x: ArrayLike) -> Points:
        """Nearest point, edges included."""
        flat = self.coordinates(x)
        return self._at(flat[..., 0], flat[..., 1])

    def distance(self, x: ArrayLike) -> Points:
        """Distance to the roll."""
        return norm(points("x", x, 3) - self.project(x))

    def tangent_basis(self, x: ArrayLike) -> Points:
        """Directions of growing t and of growing h."""
        along, _ = self._directions(self._on("x", x)[..., 0])
        return np.stack([along, np.broadcast_to([0.0, 1.0, 0.0], along.shape)], axis=-1)

    def normal_basis(self, x: ArrayLike) -> Points:
        """The unit normal towards the inside, ``(..., 3, 1)``."""
        return self._directions(self._on("x", x)[..., 0])[1][..., None]

    def second_fundamental_form(self, x: ArrayLike) -> Points:
        """``II(e_t, e_t) = (2 + t^2) / (pitch (1 + t^2)^(3/2)) n``, else zero."""
        angle = self._on("x", x)[..., 0]
        bent = (2 + angle**2) / (self.pitch * (1 + angle**2) ** 1.5)
        form = np.zeros((*angle.shape, 2, 2, 3))
        form[..., 0, 0, :] = bent[..., None] * self._directions(angle)[1]
        return form

    def mean_curvature(self, x: ArrayLike) -> Points:
        """``trace(II) / 2``."""
        return curvature.mean_curvature(self.second_fundamental_form(x))

    def geodesic_distance(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Length of the straight line in the unrolled rectangle."""
        return norm(self._between(x, y))

    def exponential(self, x: ArrayLike, v: ArrayLike) -> Points:
        """Walk straight in the unrolled rectangle; ParameterError where that leaves it."""
        basis = self.tangent_basis(x)
        moved = self._unrolled("x", x) + np.einsum("...Di,...D->...i", basis, tangent("v", v, basis))
        low, high = np.array([self._arc_range, (0.0, self.height)]).T
        slack = TOLERANCE * (high - low)
        if not bool(((moved >= low - slack) & (moved <= high + slack)).all()):
            raise ParameterError("v leads over the edge of the Swiss roll")
        moved = np.clip(moved, low, high)
        return self._at(self._angle(moved[..., 0]), moved[..., 1])

    def logarithm(self, x: ArrayLike, y: ArrayLike) -> Points:
        """Initial velocity of the straight line in the unrolled rectangle."""
        velocity: Points = np.einsum("...Di,...i->...D", self.tangent_basis(x), self._between(x, y))
        return velocity

    @cached_property
    def _spiral(self) -> Chart:
        def spiral(u: Points) -> Points:
            return self.pitch * np.concatenate([u * np.cos(u), u * np.sin(u)], axis=-1)

        def speed(u: Points) -> Points:
            cosine, sine = np.cos(u), np.sin(u)
            return self.pitch * np.stack([cosine - u * sine, sine + u * cosine], axis=-2)

        resolution = max(1024, int(64 * (self.end - self.start)))
        low, high = np.array([self.start]), np.array([self.end])
        return Chart(spiral, low, high, np.array([False]), speed, resolution)

    @property
    def _arc_range(self) -> tuple[float, float]:
        low, high = self._arc(np.array([self.start, self.end]))
        return float(low), float(high)

    def _arc(self, angle: Points) -> Points:
        arc: Points = self.pitch * (angle * np.sqrt(1 + angle**2) + np.arcsinh(angle)) / 2
        return arc

    def _angle(self, arc: Points) -> Points:
        """Inverse of ``_arc``: it is convex, so that Newton's method falls monotonically from sqrt(2 s / pitch)."""
        angle = np.sqrt(2 * arc / self.pitch)
        for _ in range(60):
            moved = angle - (self._arc(angle) - arc) / (self.pitch * np.sqrt(1 + angle**2))
            if bool((np.abs(moved - angle) <= 4e-16 * angle).all()):
                break
            angle = moved
        return np.clip(angle, self.start, self.end)

    def _at(self, angle: Points, height: Points) -> Points:
        return np.stack([self.pitch * angle * np.cos(angle), height, self.pitch * angle * np.sin(angle)], axis=-1)

    @staticmethod
    def _directions(angle: Points) -> tuple[Points, Points]:
        cosine, sine = np.cos(angle), np.sin(angle)
        zero = np.zeros_like(angle)
        speed = np.sqrt(1 + angle**2)
        first, third = (cosine - angle * sine) / speed, (sine + angle * cosine) / speed
        return np.stack([first, zero, third], axis=-1), np.stack([-third, zero, first], axis=-1)

    def _on(self, name: str, x: ArrayLike) -> Points:
        array = points(name, x, 3)
        flat = self.coordinates(array)
        size = max(self.pitch * self.end, self.height)
        on_manifold(name, norm(array - self._at(flat[..., 0], flat[..., 1])), size)
        return flat

    def _between(self, x: ArrayLike, y: ArrayLike) -> Points:
        start, end = self._unrolled("x", x), self._unrolled("y", y)
        check_axis(-1, x=start, y=end)
        return end - start

    def _unrolled(self, name: str, x: ArrayLike) -> Points:
        flat = self._on(name, x)
        return np.stack([self._arc(flat[..., 0]), flat[..., 1]], axis=-1)
