"""One-dimensional losses F with one minimum, of every degree of regularity: :func:`power` and its relatives.

They are what :mod:`porism_sims.large_steps.factorised` descends. How fast F grows decides what large steps do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from porism.arrays import check_number
from porism.errors import ParameterError

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


class Landscape(NamedTuple):
    """A function F of the product s = x y, as far as gradient descent and its stability need it.

    Attributes
    ----------
    value, slope, bend
        F, F' and F'' of arrays of any shape; F falls up to ``minimiser`` and rises after it, and is 0 there.
    minimiser
        s*.
    curvature, third, fourth
        Derivatives of order two, three and four at s*.
    """

    value: Function
    slope: Function
    bend: Function
    minimiser: float
    curvature: float = 1.0
    third: float = 0.0
    fourth: float = 0.0


def power(degree: float = 1.0, minimiser: float = 1.0) -> Landscape:
    """``F(s) = ((1 + (s - s*)^2)^(degree/2) - 1) / degree``, which grows as ``|s|^degree`` and has F''(s*) = 1.

    Degree 1 is the pseudo-Huber loss, 2 the square, 4 a square with a quartic.

    Parameters
    ----------
    degree
        In (0, 16].
    minimiser
        s*, not 0.

    Raises
    ------
    ParameterError
        For a degree or a minimiser out of range.

    Examples
    --------
    >>> power(1.0).value(np.array([1.0, 2.0])).round(4)
    array([0.    , 0.4142])
    """
    check_number("degree", degree, above=0, at_most=16)
    _check_minimiser(minimiser)
    half = degree / 2

    def value(s: Array) -> Array:
        return np.expm1(half * np.log1p((s - minimiser) ** 2)) / degree

    def slope(s: Array) -> Array:
        e = s - minimiser
        return e if half == 1 else e * (1 + e * e) ** (half - 1)

    def bend(s: Array) -> Array:
        square = (s - minimiser) ** 2
        return (1 + square) ** (half - 2) * (1 + (degree - 1) * square)

    return Landscape(value, slope, bend, minimiser, fourth=3 * (degree - 2))


def log_cosh(minimiser: float = 1.0) -> Landscape:
    """``F(s) = log cosh(s - s*)``, of degree 1 like :func:`power`, without its slow tails.

    Examples
    --------
    >>> log_cosh().slope(np.array([1.0, 1000.0]))
    array([0., 1.])
    """
    _check_minimiser(minimiser)

    def value(s: Array) -> Array:
        size = np.abs(s - minimiser)
        return size + np.log1p(np.exp(-2 * size)) - np.log(2)

    def bend(s: Array) -> Array:
        decay = np.exp(-2 * np.abs(s - minimiser))
        return 4 * decay / (1 + decay) ** 2

    return Landscape(value, lambda s: np.tanh(s - minimiser), bend, minimiser, fourth=-2.0)


def tanh_square(minimiser: float = 0.5) -> Landscape:
    """``F(s) = (tanh s - tanh s*)^2 / 2``: the square loss behind a saturating activation.

    Examples
    --------
    >>> round(tanh_square().curvature, 4)
    0.6185
    """
    _check_minimiser(minimiser)
    target = np.tanh(minimiser)
    # derivatives of tanh at s*
    d1 = 1 - target**2
    d2, d3 = -2 * target * d1, -2 * d1 * (1 - 3 * target**2)

    def slope(s: Array) -> Array:
        t = np.tanh(s)
        return (t - target) * (1 - t * t)

    def bend(s: Array) -> Array:
        t = np.tanh(s)
        return (1 - t * t) * ((1 - t * t) - 2 * t * (t - target))

    derivatives = (d1**2, 3 * d1 * d2, 3 * d2**2 + 4 * d1 * d3)
    return Landscape(lambda s: (np.tanh(s) - target) ** 2 / 2, slope, bend, minimiser, *map(float, derivatives))


def huber(threshold: float = 1.0, minimiser: float = 1.0) -> Landscape:
    """Half the square of ``s - s*`` up to ``threshold`` > 0, and linear from there: tame far away, a square nearby.

    Examples
    --------
    >>> huber(2.0).value(np.array([2.0, 4.0]))
    array([0.5, 4. ])
    """
    check_number("threshold", threshold, above=0)
    _check_minimiser(minimiser)

    def slope(s: Array) -> Array:
        return np.clip(s - minimiser, -threshold, threshold)

    def value(s: Array) -> Array:
        clipped = slope(s)
        return clipped * (s - minimiser - clipped / 2)

    return Landscape(value, slope, lambda s: (np.abs(s - minimiser) <= threshold).astype(float), minimiser)


def square(minimiser: float = 1.0) -> Landscape:
    """``F(s) = (s - s*)^2 / 2``, which is :func:`power` of degree 2."""
    return power(2.0, minimiser)


def rescaled(landscape: Landscape, *, height: float = 1.0, width: float = 1.0) -> Landscape:
    """``height F(s / width)``: the same landscape in other units, both positive.

    Examples
    --------
    >>> rescaled(square(), height=2.0, width=4.0).curvature
    0.125
    """
    check_number("height", height, above=0)
    check_number("width", width, above=0)
    functions = (landscape.value, landscape.slope, landscape.bend)

    def scaled(function: Function, factor: float) -> Function:
        return lambda s: factor * function(s / width)

    orders = [height / width**order for order in range(5)]
    derivatives = (landscape.curvature, landscape.third, landscape.fourth)
    return Landscape(
        *(scaled(function, factor) for function, factor in zip(functions, orders[:3], strict=True)),
        landscape.minimiser * width,
        *(derivative * factor for derivative, factor in zip(derivatives, orders[2:], strict=True)),
    )


def _check_minimiser(minimiser: float) -> None:
    if check_number("minimiser", minimiser, above=-np.inf, below=np.inf) == 0:
        raise ParameterError("minimiser must not be 0, where the minimisers of F(x y) cross")
