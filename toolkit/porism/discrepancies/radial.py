"""Kernels that depend on the Euclidean distance, as small frozen callables, and the median heuristic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from porism.arrays import Array, check_finite, check_number, floating
from porism.discrepancies.samples import clouds, constant, distances, power_of_two, squared_distances
from porism.errors import ParameterError

# Points that the median heuristic looks at: more would cost more than what it is used for.
_MEDIAN_POINTS = 2000
Bandwidth: TypeAlias = "str | float | Sequence[float]"


class SmoothKernel(Protocol):
    """A kernel that is a twice differentiable function of the squared distance s."""

    def __call__(self, x: Array, y: Array) -> Array:
        """Gram matrix."""

    def derivatives(self, squares: Array) -> tuple[Array, Array, Array]:
        """The kernel, and its first and second derivative in s."""


@dataclass(frozen=True)
class Gaussian:
    r"""The sum over ``bandwidths`` of :math:`\exp(-|x - y|^2 / (2 \sigma^2))`.

    Examples
    --------
    >>> Gaussian((1.0,))(np.array([[0.0]]), np.array([[0.0], [2.0]])).round(4).tolist()
    [[1.0, 0.1353]]
    """

    bandwidths: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        _check_widths(self)

    def __call__(self, x: Array, y: Array) -> Array:
        """Gram matrix, shape (n, m), of samples of shapes (n, d) and (m, d)."""
        return _gram(self, x, y)

    def derivatives(self, squares: Array) -> tuple[Array, Array, Array]:
        """The kernel, and its first and second derivative in the squared distance."""
        value = slope = curvature = 0.0
        for bandwidth in self.bandwidths:
            rate = -0.5 / bandwidth**2
            term = _exp(squares * rate)
            value, slope, curvature = value + term, slope + rate * term, curvature + rate**2 * term
        return value, slope, curvature

    def gradient(self, x: Array, y: Array) -> Array:
        """Derivative of k(x, y) in x for each pair, shape (n, m, d)."""
        return _gradient(self, x, y)


@dataclass(frozen=True)
class InverseMultiquadric:
    r"""The sum over ``bandwidths`` of :math:`(1 + |x - y|^2 / \sigma^2)^b` with an exponent b in (-1, 0).

    With :math:`\sigma = c` this is :math:`(c^2 + |x-y|^2)^b` up to a factor :math:`c^{-2b}`.

    Examples
    --------
    >>> InverseMultiquadric((2.0,))(np.array([[0.0]]), np.array([[0.0], [2.0]])).round(4).tolist()
    [[1.0, 0.7071]]
    """

    bandwidths: tuple[float, ...] = (1.0,)
    exponent: float = -0.5

    def __post_init__(self) -> None:
        _check_widths(self)
        check_number("exponent", self.exponent, above=-1, below=0)

    def __call__(self, x: Array, y: Array) -> Array:
        """Gram matrix, shape (n, m), of samples of shapes (n, d) and (m, d)."""
        return _gram(self, x, y)

    def derivatives(self, squares: Array) -> tuple[Array, Array, Array]:
        """The kernel, and its first and second derivative in the squared distance."""
        value = slope = curvature = 0.0
        b = self.exponent
        for bandwidth in self.bandwidths:
            rate = 1 / bandwidth**2
            base = 1 + squares * rate
            term = base**b
            value = value + term
            slope = slope + b * rate * term / base
            curvature = curvature + b * (b - 1) * rate**2 * term / (base * base)
        return value, slope, curvature

    def gradient(self, x: Array, y: Array) -> Array:
        """Derivative of k(x, y) in x for each pair, shape (n, m, d)."""
        return _gradient(self, x, y)


@dataclass(frozen=True)
class Laplace:
    r"""The sum over ``bandwidths`` of :math:`\exp(-|x - y| / \sigma)`, with the Euclidean norm.

    Examples
    --------
    >>> Laplace((1.0,))(np.array([[0.0]]), np.array([[0.0], [2.0]])).round(4).tolist()
    [[1.0, 0.1353]]
    """

    bandwidths: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        _check_widths(self)

    def __call__(self, x: Array, y: Array) -> Array:
        """Gram matrix, shape (n, m), of samples of shapes (n, d) and (m, d)."""
        _, x, y, _, _ = clouds(x, y)
        unit = power_of_two(min(self.bandwidths))
        gaps = distances(x / unit, y / unit)
        total: Array = sum(_exp(gaps * (-unit / bandwidth)) for bandwidth in self.bandwidths)
        return total


@dataclass(frozen=True)
class Distance:
    """The kernel -|x - y| / 2 of the energy distance.

    It is positive definite on differences of distributions only; adding (|x| + |y|) / 2 makes it so
    everywhere and changes no MMD.

    Examples
    --------
    >>> Distance()(np.array([[0.0]]), np.array([[0.0], [2.0]])).tolist()
    [[-0.0, -1.0]]
    """

    def __call__(self, x: Array, y: Array) -> Array:
        """Gram matrix, shape (n, m), of samples of shapes (n, d) and (m, d)."""
        _, x, y, _, _ = clouds(x, y)
        return distances(x, y) / -2


def median_bandwidth(x: Array, y: Array | None = None) -> float:
    r"""Bandwidth of the pooled sample: :math:`\sigma^2` is half the median of :math:`|z - z'|^2` over its pairs.

    So the Gaussian kernel :math:`\exp(-|x-y|^2 / (2 \sigma^2))` is 1/e at the median distance. Other authors
    take the median distance itself, or pairs of x with y only.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d) or (n,) and (m,), finite. Of more than 2,000 points together, 2,000
        at even steps are looked at (no randomness, so the rows should be in no telling order).

    Returns
    -------
    float
        The bandwidth; no gradient flows through it.

    Raises
    ------
    ParameterError
        For NaN, infinities, other shapes, and if half of the pairs are equal points, so that the median is zero; pass
        a number instead.

    Examples
    --------
    >>> median_bandwidth([0.0, 2.0], [2.0])
    1.4142135623730951
    """
    if y is None:
        _, (pooled,) = floating(x=x)
        if pooled.ndim not in (1, 2) or 0 in pooled.shape:
            raise ParameterError(f"x must have shape (n, d) or (n,), not empty; it has {tuple(pooled.shape)}")
        check_finite(x=pooled)
        pooled = constant(pooled)
    else:
        _, x, y, _, _ = clouds(x, y)
        pooled = np.concatenate([constant(x), constant(y)])
    pooled = pooled[:, None] if pooled.ndim == 1 else pooled
    unit = power_of_two(float(abs(pooled).max()))  # whose squares do not overflow
    if len(pooled) > _MEDIAN_POINTS:
        pooled = pooled[np.linspace(0, len(pooled) - 1, _MEDIAN_POINTS).astype(int)]
    from scipy.spatial.distance import pdist

    squares = pdist(pooled / unit, "sqeuclidean")
    middle = float(np.median(squares)) if squares.size else 0.0
    if middle == 0:
        raise ParameterError('bandwidth="median" is zero because at least half of the pairs are equal; pass a number')
    return float(np.sqrt(middle / 2) * unit)


def radial_kernel(
    name: str, bandwidth: Bandwidth, x: Array, y: Array | None = None
) -> Gaussian | InverseMultiquadric | Laplace:
    """The kernel of a name, ``gaussian``, ``imq`` or ``laplace``, at a bandwidth or the sum over several."""
    kinds: dict[str, type[Gaussian] | type[InverseMultiquadric] | type[Laplace]] = {
        "gaussian": Gaussian,
        "imq": InverseMultiquadric,
        "laplace": Laplace,
    }
    if name not in kinds:
        raise ParameterError(f"kernel must be one of {', '.join(kinds)}, energy, or a callable; got {name!r}")
    kind = kinds[name]
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ParameterError(f'bandwidth must be "median", a number or a sequence of numbers, got {bandwidth!r}')
        return kind((median_bandwidth(x, y),))
    several = isinstance(bandwidth, (list, tuple)) or getattr(bandwidth, "ndim", 0) == 1
    return kind(tuple(bandwidth) if several else (bandwidth,))  # type: ignore[arg-type]


def smallest_unit(kernel: Gaussian | InverseMultiquadric) -> tuple[float, Any]:
    """Nearly the narrowest bandwidth, and the kernel for points that are measured in it and may be squared then."""
    unit = power_of_two(min(kernel.bandwidths))
    return unit, replace(kernel, bandwidths=tuple(width / unit for width in kernel.bandwidths))


def _check_widths(kernel: Gaussian | InverseMultiquadric | Laplace) -> None:
    given = kernel.bandwidths
    if not isinstance(given, (list, tuple)) or not given:
        raise ParameterError(f"bandwidths must be a tuple of numbers that is not empty, got {given!r:.80}")
    widths = tuple(check_number("bandwidth", width, above=0, below=float("inf")) for width in given)
    object.__setattr__(kernel, "bandwidths", widths)


def _gram(kernel: Gaussian | InverseMultiquadric, x: Array, y: Array) -> Array:
    _, x, y, _, _ = clouds(x, y)
    unit, kernel = smallest_unit(kernel)
    return kernel.derivatives(squared_distances(x / unit, y / unit))[0]


def _exp(values: Array) -> Array:
    return np.exp(values) if isinstance(values, np.ndarray) else values.exp()


def _gradient(kernel: Gaussian | InverseMultiquadric, x: Array, y: Array) -> Array:
    _, x, y, _, _ = clouds(x, y)
    unit, kernel = smallest_unit(kernel)
    x, y = x / unit, y / unit
    slope = kernel.derivatives(squared_distances(x, y))[1]
    return 2 * slope[..., None] * (x[:, None] - y[None]) / unit
