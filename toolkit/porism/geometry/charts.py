"""Numerics of one parametrised patch: derivatives, nearest parameters, volume and an estimate of the reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from porism.errors import ParameterError
from porism.geometry.curvature import federer_ratios, largest_curvature
from porism.geometry.protocol import Points

Map = Callable[[Points], Points]

_NODES = np.arange(-3.0, 4.0)
# Lagrange's polynomials of the nodes, as coefficients of powers
_LAGRANGE = np.linalg.inv(np.vander(_NODES, increasing=True))
_CHUNK = 1024
# Relative rank of the Jacobian below which a point is too close to a pole for estimates of the reach.
_POLE = 1e-2


@dataclass(frozen=True, eq=False)
class Chart:
    """A map from a box to R^D with its numerics; parameters are ``(..., d)``.

    Parameters
    ----------
    map
        Takes ``(..., d)`` and returns ``(..., D)``.
    lower, upper
        Corners of the box, ``(d,)``.
    periodic
        Which axes close up, ``(d,)`` booleans.
    exact_jacobian
        Takes ``(..., d)`` and returns ``(..., D, d)``; None is finite differences.
    resolution
        Nodes on each axis of the grid where searches start.

    Examples
    --------
    >>> box = dict(lower=np.zeros(1), upper=np.array([2 * np.pi]), periodic=np.array([True]))
    >>> circle = Chart(lambda u: np.concatenate([np.cos(u), np.sin(u)], -1), **box, exact_jacobian=None, resolution=64)
    >>> float(circle.nearest(np.array([[0.0, 3.0]]))[0, 0].round(12)) == round(np.pi / 2, 12)
    True
    """

    map: Map
    lower: Points
    upper: Points
    periodic: np.ndarray[tuple[int], np.dtype[np.bool_]]
    exact_jacobian: Map | None
    resolution: int

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.lower)

    def derivative(self, function: Map, u: Points) -> Points:
        """Derivative of ``function`` at u, on a new last axis.

        Seven nodes, 1/1024 of the box apart, moved inward at the edges: of sixth order, with relative rounding of
        about 1e-13 inside and 1e-12 at an edge, for functions that vary on the scale of the box.
        """
        columns = []
        for axis in range(self.dimension):
            step = (self.upper[axis] - self.lower[axis]) / 1024
            at = u[..., axis]
            centre = (
                at if self.periodic[axis] else np.clip(at, self.lower[axis] + 3 * step, self.upper[axis] - 3 * step)
            )
            offset = (at - centre) / step
            powers = np.stack([np.zeros_like(offset), *(k * offset ** (k - 1) for k in range(1, 7))], axis=-1)
            nodes = np.repeat(u[..., None, :], 7, axis=-2)
            nodes[..., axis] = centre[..., None] + step * _NODES
            values = function(nodes)
            trailing = values.ndim - u.ndim
            weights = (powers @ _LAGRANGE / step).reshape(*u.shape[:-1], 7, *[1] * trailing)
            columns.append((weights * values).sum(u.ndim - 1))
        return np.stack(columns, axis=-1)

    def jacobian(self, u: Points) -> Points:
        """``(..., D, d)``."""
        return self.derivative(self.map, u) if self.exact_jacobian is None else self.exact_jacobian(u)

    def second_derivatives(self, u: Points) -> Points:
        """``(..., D, d, d)``: the derivative of the Jacobian, made symmetric."""
        second = self.derivative(self.jacobian, u)
        symmetric: Points = (second + np.swapaxes(second, -1, -2)) / 2
        return symmetric

    def volume_element(self, u: Points) -> Points:
        """``sqrt(det(J' J))``, as the product of the singular values."""
        element: Points = np.linalg.svd(self.jacobian(u), compute_uv=False).prod(-1)
        return element

    def frame(self, u: Points) -> tuple[Points, Points]:
        """Orthonormal tangent basis Q and the triangle R of ``J = Q R``; R is singular where the chart is."""
        basis, triangle = np.linalg.qr(self.jacobian(u))
        return basis, triangle

    def second_fundamental_form(self, u: Points) -> Points:
        """Normal part of the second derivatives, in the basis of :meth:`frame`; NaN where the chart is singular."""
        basis, triangle = self.frame(u)
        singular = ~self.regular(triangle)
        triangle = np.where(singular[..., None, None], np.eye(self.dimension), triangle)
        inverse = np.linalg.inv(triangle)
        second = np.einsum("...Dij,...ia,...jb->...abD", self.second_derivatives(u), inverse, inverse)
        along = np.einsum("...abD,...Di->...abi", second, basis)
        form: Points = second - np.einsum("...abi,...Di->...abD", along, basis)
        form = (form + np.swapaxes(form, -3, -2)) / 2
        return np.where(singular[..., None, None, None], np.nan, form)

    def regular(self, triangle: Points, tolerance: float = 1e-6) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Whether the Jacobian on the unit box has full rank, relatively; ``triangle`` is from :meth:`frame`."""
        scaled = np.abs(triangle) * (self.upper - self.lower)
        diagonal = np.diagonal(scaled, axis1=-2, axis2=-1)
        return np.asarray((diagonal > tolerance * scaled.max((-2, -1))[..., None]).all(-1))

    def grid(self, per_axis: int) -> Points:
        """Nodes ``(m, d)``, with the edges of axes that do not close up."""
        axes = [
            np.linspace(low, high, per_axis, endpoint=not closed)
            for low, high, closed in zip(self.lower, self.upper, self.periodic, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, self.dimension)

    @cached_property
    def volume(self) -> float:
        """Integral of the volume element: Gauss-Legendre, or the trapezoidal rule on axes that close up."""
        count = min(64, max(4, int((2**18) ** (1 / self.dimension))))
        gauss, gauss_weights = np.polynomial.legendre.leggauss(count)
        nodes, weights = [], []
        for low, high, closed in zip(self.lower, self.upper, self.periodic, strict=True):
            if closed:
                nodes.append(np.linspace(low, high, count, endpoint=False))
                weights.append(np.full(count, (high - low) / count))
            else:
                nodes.append((low + high) / 2 + (high - low) / 2 * gauss)
                weights.append((high - low) / 2 * gauss_weights)
        u = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1).reshape(-1, self.dimension)
        weight = np.stack(np.meshgrid(*weights, indexing="ij"), axis=-1).reshape(-1, self.dimension).prod(-1)
        parts = range(0, len(u), 16 * _CHUNK)
        return float(sum(weight[k : k + 16 * _CHUNK] @ self.volume_element(u[k : k + 16 * _CHUNK]) for k in parts))

    @cached_property
    def _tree(self) -> tuple[Points, cKDTree]:
        nodes = self.grid(self.resolution)
        return nodes, cKDTree(self.map(nodes))

    @cached_property
    def _extent(self) -> float:
        return float(np.ptp(self._tree[1].data, axis=0).max())

    def nearest(self, x: Points) -> Points:
        """Parameters ``(m, d)`` of the points nearest to x ``(m, D)``.

        Raises for points beyond ``1e8`` times the manifold's extent: with rounding, all of it is equally far from them.
        From the ``4 2^d`` nearest nodes of the grid a few Gauss-Newton steps find the basin, then Newton's method
        with full second derivatives finishes in the best one.
        """
        nodes, tree = self._tree
        if not bool((np.abs(x - tree.data[0]) <= 1e8 * self._extent).all()):
            raise ParameterError("x must be within 1e8 times the manifold's extent: rounding hides what is nearest")
        best = np.empty((len(x), self.dimension))
        for start in range(0, len(x), _CHUNK):
            part = x[start : start + _CHUNK]
            count = min(4 * 2**self.dimension, len(nodes))
            starts = nodes[tree.query(part, k=np.arange(1, count + 1))[1]]
            wide = np.broadcast_to(part[:, None], (*starts.shape[:-1], x.shape[-1]))
            tried = self._descend(wide.reshape(-1, x.shape[-1]), starts.reshape(-1, self.dimension), 6, newton=False)
            squares = ((self.map(tried).reshape(wide.shape) - wide) ** 2).sum(-1)
            winner = tried.reshape(starts.shape)[np.arange(len(part)), squares.argmin(-1)]
            best[start : start + _CHUNK] = self._descend(part, winner, 60, newton=True)
        wrapped = self.lower + (best - self.lower) % (self.upper - self.lower)
        return np.where(self.periodic, wrapped, best)

    def _descend(self, x: Points, u: Points, steps: int, *, newton: bool) -> Points:
        """Minimise ``|map(u) - x|^2`` in the box from u, all rows at once; rows that stand still are done."""
        u = u.copy()
        width = self.upper - self.lower
        damping = np.zeros(len(u))
        going = np.arange(len(u))
        for _ in range(steps):
            if not going.size:
                break
            at, goal = u[going], x[going]
            residual = self.map(at) - goal
            jacobian = self.jacobian(at) * width
            slope = np.einsum("...Di,...D->...i", jacobian, residual)
            bend = np.einsum("...Di,...Dj->...ij", jacobian, jacobian)
            if newton:
                second = self.second_derivatives(at) * (width[:, None] * width)
                bend = bend + np.einsum("...Dij,...D->...ij", second, residual)
            blocked = ~self.periodic & (((at <= self.lower) & (slope > 0)) | ((at >= self.upper) & (slope < 0)))
            held = blocked[..., :, None] | blocked[..., None, :]
            slope = np.where(blocked, 0.0, slope)
            bend = np.where(held, 0.0, bend)
            values, axes = np.linalg.eigh(bend)
            size = np.abs(values)
            size = np.maximum(size, 1e-12 * size.max(-1, keepdims=True)) + damping[going, None] * size.max(
                -1, keepdims=True
            )
            turned = np.einsum("...ji,...j->...i", axes, slope) / np.where(size > 0, size, 1.0)
            trial = at - width * np.einsum("...ij,...j->...i", axes, turned)
            trial = np.where(self.periodic, trial, np.clip(trial, self.lower, self.upper))
            moved = self.map(trial)
            before, after = (residual**2).sum(-1), ((moved - goal) ** 2).sum(-1)
            # near the minimum the value cannot tell good steps from bad ones, so that ties are accepted
            better = after <= before + 1e-14 * ((moved**2).sum(-1) + (goal**2).sum(-1))
            u[going] = np.where(better[:, None], trial, at)
            damping[going] = np.where(better, damping[going] * 0.1, np.maximum(10 * damping[going], 1e-2))
            still = (np.abs(trial - at) <= 1e-14 * width).all(-1)
            going = going[~still]
        return u

    @cached_property
    def reach(self) -> float:
        """Estimate of the reach: the smallest radius of curvature and the smallest of Federer's ratios.

        Both are minimised on a grid of about a thousand nodes and refined by random search, with a fixed seed, from
        the best ones, so that it errs upward (beyond rounding), and only by a narrow pit between nodes. Points close
        to poles, where differences of the map lose digits, are left out.
        """
        per_axis = min(self.resolution, max(4, int(1024 ** (1 / self.dimension))))
        nodes = self.grid(per_axis)
        nodes = nodes[self.regular(self.frame(nodes)[1], _POLE)]
        local = self._refine(self._radius, nodes[np.argsort(self._radius(nodes))[:2]], 1 / per_axis)
        rows = max(1, 4_000_000 // (len(nodes) * self.map(nodes).shape[-1]))
        best: list[tuple[float, int, int]] = []
        for start in range(0, len(nodes), rows):
            ratios = self._ratios(nodes[start : start + rows, None], nodes)
            for index in np.argpartition(ratios, min(5, ratios.size - 1), axis=None)[:5]:
                one, two = np.unravel_index(index, ratios.shape)
                best.append((float(ratios[one, two]), start + int(one), int(two)))
        pairs = np.array([np.concatenate([nodes[one], nodes[two]]) for _, one, two in sorted(best)[:3]])
        reach = min(local, self._refine(self._pair_ratio, pairs, 1 / per_axis))
        return reach if reach < 1e6 * self._extent else float("inf")  # rounding makes flat patches a little curved

    def _radius(self, u: Points) -> Points:
        form = self.second_fundamental_form(u)
        bent = largest_curvature(np.nan_to_num(form))
        usable = (bent > 0) & self.regular(self.frame(u)[1], _POLE)
        return np.where(usable, 1 / np.where(usable, bent, 1.0), np.inf)

    def _ratios(self, u: Points, v: Points) -> Points:
        basis, triangle = self.frame(u)
        regular = self.regular(triangle, _POLE)[..., None, None]
        # gradients of the parameters along the surface: they leave it where a parameter is at its bound
        leaving = basis @ np.swapaxes(np.linalg.inv(np.where(regular, triangle, np.eye(self.dimension))), -1, -2)
        leaving = np.swapaxes(leaving / np.linalg.norm(leaving, axis=-2, keepdims=True), -1, -2)
        side = np.where(u >= self.upper, 1.0, np.where(u <= self.lower, -1.0, 0.0)) * ~self.periodic
        ratios = federer_ratios(self.map(u), basis, self.map(v), leaving * side[..., None])
        # pairs so close that rounding shows are left to the curvature
        apart = np.linalg.norm(self.map(v) - self.map(u), axis=-1)
        return np.where((apart > 1e-3 * self._extent) & regular[..., 0, 0], ratios, np.inf)

    def _pair_ratio(self, pair: Points) -> Points:
        return self._ratios(pair[..., : self.dimension], pair[..., self.dimension :])

    def _refine(self, function: Callable[[Points], Points], starts: Points, step: float) -> float:
        """Minimise from each start: 48 random steps a round, of a length that halves when none is better."""
        rng = np.random.default_rng(0)
        copies = starts.shape[-1] // self.dimension
        lower, upper = np.tile(self.lower, copies), np.tile(self.upper, copies)
        closed = np.tile(self.periodic, copies)
        at, least, steps = starts, function(starts), np.full(len(starts), step)
        while (steps > 1e-7).any():
            moves = steps[:, None, None] * (upper - lower) * rng.standard_normal((len(at), 48, at.shape[-1]))
            trial = at[:, None] + moves
            trial = np.where(closed, trial, np.clip(trial, lower, upper))
            values = function(trial)
            winner = values.argmin(-1)
            rows = np.arange(len(at))
            better = values[rows, winner] < least * (1 - 1e-13)
            at = np.where(better[:, None], trial[rows, winner], at)
            least = np.where(better, values[rows, winner], least)
            steps = np.where(better, steps, steps / 2)
        return float(least.min())
