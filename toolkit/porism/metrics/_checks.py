"""Checks and conversions that the metrics share."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import is_torch_array

from porism.arrays import Array, Namespace, check_finite, check_not_nan, check_number, floating
from porism.errors import ParameterError


def to_numpy(**arrays: Any) -> tuple[np.ndarray, ...]:
    """Arrays or tensors as float64 on the CPU, without gradient; backends must not be mixed and NaN is an error."""
    floating(**arrays)  # raises, by name, for what is not real numbers of one backend
    converted = {name: _double(value) for name, value in arrays.items()}
    check_not_nan(**converted)
    return tuple(converted.values())


def to_whole_numbers(**arrays: Any) -> tuple[np.ndarray, ...]:
    """As :func:`to_numpy`, for classes and groups: integers stay as they are, where float64 would merge large ones."""
    whole = {}
    for (name, given), double in zip(arrays.items(), to_numpy(**arrays), strict=True):
        exact = given.detach().cpu().numpy() if is_torch_array(given) else np.asarray(given)
        if exact.dtype.kind not in "iu":
            if not bool(((double == np.floor(double)) & (abs(double) < 2**53)).all()):
                raise ParameterError(f"{name} must be whole numbers, of an integer dtype from 2^53 on")
            exact = double.astype(np.int64)
        whole[name] = exact
    return tuple(whole.values())


def paired_vectors(**arrays: Any) -> tuple[np.ndarray, ...]:
    """As :func:`to_numpy`, for one-dimensional arrays of one length that is not zero."""
    converted = dict(zip(arrays, to_numpy(**arrays), strict=True))
    check_same_length(**converted)
    for name, value in converted.items():
        if value.ndim != 1:
            raise ParameterError(f"{name} must be one-dimensional, its shape is {value.shape}")
    return tuple(converted.values())


def check_same_length(**arrays: Array) -> None:
    """Raise unless all arrays have a first axis of one length that is not zero."""
    lengths = {}
    for name, value in arrays.items():
        if value.ndim == 0 or value.shape[0] == 0:
            raise ParameterError(f"{name} must hold at least one example, its shape is {tuple(value.shape)}")
        lengths[name] = value.shape[0]
    if len(set(lengths.values())) > 1:
        listed = " and ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ParameterError(f"{listed} examples: their lengths must agree")


def check_binary(**arrays: Array) -> None:
    """Raise unless every entry is 0 or 1."""
    for name, value in arrays.items():
        if not bool(((value == 0) | (value == 1)).all()):
            raise ParameterError(f"{name} must hold 0 and 1 only")


def check_unit_interval(**arrays: Array) -> None:
    """Raise unless every entry is in [0, 1]."""
    for name, value in arrays.items():
        if not bool(((value >= 0) & (value <= 1)).all()):
            raise ParameterError(f"{name} must be in [0, 1]")


def check_labels(xp: Namespace, labels: Array, classes: int, name: str = "labels") -> None:
    """Raise unless ``labels`` is one-dimensional and holds whole numbers from 0 to ``classes - 1``."""
    if labels.ndim != 1:
        raise ParameterError(f"{name} must be one-dimensional, its shape is {tuple(labels.shape)}")
    if not bool(((labels >= 0) & (labels < classes) & (labels == xp.floor(labels))).all()):
        raise ParameterError(f"{name} must be whole numbers from 0 to {classes - 1}")


def check_fraction(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a number strictly between 0 and 1."""
    return check_number(name, value, above=0, below=1)


def check_tensor(**tensors: Any) -> None:
    """Raise unless each is a torch tensor of finite real numbers."""
    for name, value in tensors.items():
        if not is_torch_array(value) or value.is_complex():
            kind = value.dtype if is_torch_array(value) else type(value).__name__
            raise ParameterError(f"{name} must be a torch tensor of real numbers, got {kind}")
        if value.is_floating_point():
            check_finite(**{name: value})


def _double(value: Any) -> np.ndarray:
    if is_torch_array(value):
        return np.asarray(value.detach().cpu().double().numpy())
    return np.asarray(value, dtype=np.float64)
