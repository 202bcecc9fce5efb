"""numpy or torch behind one namespace, and the checks that functions of arrays share.

Importing this module imports numpy only; torch is touched when a tensor is passed.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

from porism.errors import ParameterError

# numpy.ndarray or torch.Tensor; both have the operators and, through `xp`, the functions of the array API.
Array: TypeAlias = Any
Namespace: TypeAlias = Any


def floating(*, optional: Collection[str] = (), **arrays: Any) -> tuple[Namespace, tuple[Array, ...]]:
    """Bring named arguments to one backend, one device and one floating dtype of at least 32 bits.

    Lists and numbers become numpy arrays. Integers become the backend's default float, float16 and bfloat16
    become float32 (sums over a vocabulary need it), and the widest dtype wins.

    Parameters
    ----------
    optional
        Names of arguments that may be None, which they stay.
    **arrays
        numpy arrays, torch tensors, or nested lists of numbers, by the argument's name.

    Returns
    -------
    xp
        The array API namespace (:mod:`array_api_compat`) of the arrays.
    arrays
        In the order given. Gradients flow through the conversion.

    Raises
    ------
    ParameterError
        If backends or devices are mixed, or if an argument is not made of real numbers (None, strings and masked
        arrays are not); it names the argument.

    Examples
    --------
    >>> xp, (p, q) = floating(p=[1, 2], q=np.float32([1, 2]))
    >>> p.dtype, q.dtype
    (dtype('float64'), dtype('float64'))
    """
    given = {name: _convert(name, value) for name, value in arrays.items() if value is not None or name not in optional}
    backends = {name: type(value).__module__.partition(".")[0] for name, value in given.items()}
    if len(set(backends.values())) > 1:
        raise ParameterError(f"{_listed(backends)}: pass arrays of one library")
    devices = {name: str(value.device) for name, value in given.items()}
    if len(set(devices.values())) > 1:
        raise ParameterError(f"{_listed(devices)}: move them to one device")
    xp = array_api_compat.array_namespace(*given.values())
    default = xp.float64 if "numpy" in backends.values() else xp.asarray(0.0).dtype
    dtypes = [_working_dtype(xp, name, value, default) for name, value in given.items()]
    dtype = xp.result_type(*dtypes) if len(set(dtypes)) > 1 else dtypes[0]
    cast = {name: value if value.dtype == dtype else xp.astype(value, dtype) for name, value in given.items()}
    return xp, tuple(cast.get(name) for name in arrays)


def check_not_nan(**arrays: Array) -> None:
    """Raise :class:`ParameterError`, which names the argument, if one holds a NaN."""
    for name, value in arrays.items():
        # bool of a zero-dimensional tensor waits for the device; there is no way to raise without
        if bool((value != value).any()):
            raise ParameterError(f"{name} must not contain NaN")


def check_finite(**arrays: Array) -> None:
    """Raise :class:`ParameterError`, which names the argument, if one holds a NaN or an infinity."""
    for name, value in arrays.items():
        if not bool((abs(value) < float("inf")).all()):
            raise ParameterError(f"{name} must be finite, without NaN or infinities")


def check_axis(axis: int, **arrays: Array) -> None:
    """Raise :class:`ParameterError` unless every array has ``axis``, not empty, and all agree on its size.

    Other axes may broadcast.
    """
    try:
        if isinstance(axis, bool):
            raise TypeError
        operator.index(axis)
    except TypeError:
        raise ParameterError(f"axis must be a whole number, got {axis!r:.80}") from None
    for name, value in arrays.items():
        if not -value.ndim <= axis < value.ndim:
            raise ParameterError(f"{name} has shape {tuple(value.shape)}, which has no axis {axis}")
        if value.shape[axis] == 0:
            raise ParameterError(f"{name} is empty along axis {axis}, its shape is {tuple(value.shape)}")
    sizes = {name: value.shape[axis] for name, value in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise ParameterError(f"{_listed(sizes)}: their sizes along axis {axis} must agree")
    shapes = {name: tuple(value.shape) for name, value in arrays.items()}
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        raise ParameterError(f"{_listed(shapes)}: their shapes do not broadcast") from None


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """Return ``value`` as a float if it is one real number within the bounds.

    Integers, numpy scalars and zero-dimensional arrays and tensors are numbers; booleans and strings are not. An
    infinity passes where no bound excludes it, NaN never.

    Raises
    ------
    ParameterError
        Naming the argument and the rule.

    Examples
    --------
    >>> check_number("bandwidth", 2, above=0)
    2.0
    >>> check_number("bandwidth", "2", above=0)
    Traceback (most recent call last):
    porism.errors.ParameterError: bandwidth must be a number above 0, got '2'
    """
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    rule = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)
    try:
        if isinstance(value, (bool, np.bool_, str, bytes)) or getattr(value, "ndim", 0) != 0:
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ParameterError(f"{name} must be a number {rule}".rstrip() + f", got {value!r:.80}") from None
    inside = (
        (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if number != number or not inside:
        raise ParameterError(f"{name} must be a number {rule}".rstrip() + f", got {number:g}")
    return number


def check_count(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int if it is a whole number of at least ``low`` and at most ``high``.

    Raises
    ------
    ParameterError
        Naming the argument and the rule; booleans and floats are no counts.

    Examples
    --------
    >>> check_count("k", 2.5, 1)
    Traceback (most recent call last):
    porism.errors.ParameterError: k must be a whole number of at least 1, got 2.5
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ParameterError(f"{name} must be a whole number of at least {low}, got {value!r:.80}") from None
    if number < low:
        raise ParameterError(f"{name} must be a whole number of at least {low}, got {number}")
    if high is not None and number > high:
        raise ParameterError(f"{name} must be at most {high}, got {number}")
    return number


def check_callable(**functions: Any) -> None:
    """Raise :class:`ParameterError`, which names the argument, unless each can be called."""
    for name, value in functions.items():
        if not callable(value):
            raise ParameterError(f"{name} must be a function, got {value!r:.80}")


def check_generator(rng: Any, name: str = "rng") -> np.random.Generator:
    """Return ``rng`` if it is a numpy Generator.

    Raises
    ------
    ParameterError
        Saying how to make one, for seeds and legacy generators.
    """
    if not isinstance(rng, np.random.Generator):
        raise ParameterError(f"{name} must be a numpy Generator such as np.random.default_rng(0), got {rng!r:.80}")
    return rng


def probabilities(
    xp: Namespace, *, axis: int, weights: Array | None = None, normalize: bool | None = None, **arrays: Array
) -> tuple[Array, ...]:
    """Check that arrays are probability distributions along ``axis``, or make them so.

    Parameters
    ----------
    xp
        As :func:`floating` gave it.
    axis
        The axis that is summed.
    weights
        Quadrature weights or a base measure: then the arrays are densities and ``sum(weights * p) = 1``.
    normalize
        Divide by the sum instead of checking it. None, like False, checks, for functions that do not offer it:
        the message then tells nobody to pass it.
    **arrays
        What to check, by the argument's name.

    Raises
    ------
    ParameterError
        For negative entries, NaN, infinities, or a sum further from 1 than 1e-6 or 8 epsilons of the dtype.

    Examples
    --------
    >>> p, = probabilities(np, axis=-1, normalize=True, p=np.array([1.0, 3.0]))
    >>> p
    array([0.25, 0.75])
    >>> probabilities(np, axis=-1, normalize=False, p=np.array([0.5, 0.6]))
    Traceback (most recent call last):
    porism.errors.ParameterError: p must sum to 1 along axis -1, a sum is 1.1; pass normalize=True to divide by it
    """
    if weights is not None:
        check_finite(weights=weights)
        if bool((weights < 0).any()):
            raise ParameterError("weights must not be negative")
    checked = []
    for name, value in arrays.items():
        check_finite(**{name: value})
        if bool((value < 0).any()):
            raise ParameterError(f"{name} must not be negative")
        total = _total(xp, value, weights, axis)
        along = f"along axis {axis}" + ("" if weights is None else " under weights")
        if not normalize:
            remedy = "divide by it first" if normalize is None else "pass normalize=True to divide by it"
            _check_sums(name, np.asarray(total.tolist()), along, float(xp.finfo(value.dtype).eps), remedy)
        elif not bool(((total > 0) & (total < float("inf"))).all()):
            largest = xp.max(value, axis=axis, keepdims=True)
            value = value / xp.where(largest > 0, largest, xp.ones_like(largest))  # then its sum does not overflow
            total = _total(xp, value, weights, axis)
            if not bool(((total > 0) & (total < float("inf"))).all()):
                raise ParameterError(f"{name} sums to zero {along} or overflows, and cannot be normalized")
        checked.append(value / total if normalize else value)
    return tuple(checked)


def _total(xp: Namespace, value: Array, weights: Array | None, axis: int) -> Array:
    with np.errstate(over="ignore"):  # the caller looks
        return xp.sum(value if weights is None else value * weights, axis=axis, keepdims=True)


def _check_sums(name: str, sums: np.ndarray, along: str, eps: float, remedy: str) -> None:
    if not sums.size:
        return
    worst = sums.flat[np.argmax(abs(sums - 1))]
    if abs(worst - 1) > max(1e-6, 8 * eps):
        raise ParameterError(f"{name} must sum to 1 {along}, a sum is {worst:.6g}; {remedy}")


def _convert(name: str, value: Any) -> Array:
    if type(value) is np.ndarray or array_api_compat.is_torch_array(value):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise ParameterError(f"{name} must not be a masked array; fill or drop the masked entries")
    try:
        array = np.asarray(value)
        if value is None or array.dtype.kind not in "biufcO":  # a string would be parsed
            raise TypeError
        return array if hasattr(value, "dtype") else np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ParameterError(f"{name} must be an array of real numbers, got {value!r:.80}") from None


def _working_dtype(xp: Namespace, name: str, value: Array, default: Any) -> Any:
    if xp.isdtype(value.dtype, ("integral", "bool")):
        return default
    if value.dtype == xp.float64 or str(value.dtype) in ("longdouble", "float128", "float96"):
        return xp.float64
    if xp.isdtype(value.dtype, "real floating") or str(value.dtype).endswith(("float16", "bfloat16")):
        return xp.float32
    raise ParameterError(f"{name} must be real numbers, got dtype {value.dtype}")


def _listed(facts: dict[str, Any]) -> str:
    return " and ".join(f"{name} is {fact}" for name, fact in facts.items())
