"""Functions that the array API lacks, and a square root with a gradient at zero, for numpy and torch alike."""

from __future__ import annotations

from typing import Any

import array_api_compat

from porism.arrays import Array, Namespace
from porism.errors import ParameterError


def special(xp: Namespace) -> Any:
    """Return the module of special functions: :mod:`torch.special` or :mod:`scipy.special`, which share names."""
    if array_api_compat.is_torch_namespace(xp):
        return xp.special
    import scipy.special  # 60 ms, and only some functions need it

    return scipy.special


def safe_sqrt(xp: Namespace, x: Array) -> Array:
    """Square root of ``max(x, 0)`` whose gradient at zero is zero, not infinite.

    Examples
    --------
    >>> import numpy as np
    >>> safe_sqrt(np, np.array([4.0, 0.0, -1e-17]))
    array([2., 0., 0.])
    """
    positive = x > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, x, 1)), 0)


def check_defined(names: str, value: Array) -> None:
    """Raise :class:`ParameterError` if a result is inf - inf, as infinities of both signs among ``names`` make it."""
    if bool((value != value).any()):
        raise ParameterError(f"{names} must not hold infinities that cancel: inf - inf is no number")


def excess_over_log(xp: Namespace, x: Array, y: Array) -> Array:
    """``x/y - 1 - log(x/y)`` of positive arrays, to full relative accuracy also where x is near y.

    Examples
    --------
    >>> import numpy as np
    >>> excess_over_log(np, np.array([1 + 2**-20, 1e-300]), np.array([1.0, 1.0])).round(16)
    array([4.54700000e-13, 6.89775528e+02])
    """
    excess = (x - y) / y
    near = abs(excess) < 0.5
    log_ratio = xp.where(near, xp.log1p(xp.where(near, excess, 0)), xp.log(x) - xp.log(y))
    return excess - log_ratio


def log_sum_exp(xp: Namespace, x: Array, axis: int) -> Array:
    """``log(sum(exp(x)))`` along ``axis``: ``inf`` if one entry is, ``-inf`` if all are, with gradient zero there.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(log_sum_exp(np, np.array([1000.0, 1000.0]), axis=-1)), 6)
    1000.693147
    """
    top = xp.max(x, axis=axis, keepdims=True)
    # The shift is a constant to the gradient, which the quotient of sums restores.
    top = top.detach() if hasattr(top, "detach") else top
    finite = abs(top) < float("inf")
    shift = xp.where(finite, top, xp.zeros_like(top))
    total = xp.log(xp.sum(xp.exp(xp.where(finite, x - shift, xp.zeros_like(x))), axis=axis, keepdims=True))
    return xp.squeeze(xp.where(finite, total + shift, top), axis=axis)
