"""Arrays that are slow to make, made once: a teacher trained for one replicate serves the next run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from porism.errors import ParameterError, PorismError
from porism.home import cache_folder, replacing
from porism.parameters import Value

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_DIGEST = hashlib.sha256().digest_size


def cached(
    name: str, build: Callable[[], Mapping[str, np.ndarray]], *, key: Mapping[str, Value]
) -> dict[str, np.ndarray]:
    """Return what ``build()`` returns, from the user's cache folder if it is there.

    Parameters
    ----------
    name
        What the arrays are, ``[a-z][a-z0-9_-]*``; it begins the file's name.
    build
        Makes the arrays. Everything it depends on, seeds included, belongs into ``key``.
    key
        Parameters that identify the arrays; a change of any of them is another file.

    Returns
    -------
    dict of str to ndarray
        As stored: numbers, booleans or strings, never Python objects.

    Raises
    ------
    ParameterError
        If the name breaks its rule, the key is not plain values, or an array holds Python objects.

    Notes
    -----
    Files are ``.npz`` without pickle, followed by their SHA-256, and written whole or not at all. One that is damaged
    is made again, and a folder that cannot be written costs time only.

    Examples
    --------
    >>> import os, tempfile
    >>> os.environ["PORISM_CACHE"] = tempfile.mkdtemp()
    >>> cached("squares", lambda: {"squares": np.arange(4) ** 2}, key={"size": 4})["squares"]
    array([0, 1, 4, 9])
    >>> cached("squares", lambda: 1 / 0, key={"size": 4})["squares"]  # not built again
    array([0, 1, 4, 9])
    """
    path = Path(cache_folder()) / f"{name}-{_digest(name, key)}.npz"
    if stored := _read(path):
        with np.load(io.BytesIO(stored), allow_pickle=False) as archive:
            return dict(archive)
    arrays = {label: np.asarray(array) for label, array in build().items()}
    for label, array in arrays.items():
        if array.dtype.hasobject:
            raise ParameterError(f"array {label!r} of {name!r} holds Python objects, which are not cached")
    whole = io.BytesIO()
    np.savez(whole, allow_pickle=False, **arrays)
    with contextlib.suppress(PorismError), replacing(path, "wb") as file:
        file.write(whole.getvalue() + hashlib.sha256(whole.getvalue()).digest())
    return arrays


def _read(path: Path) -> bytes:
    """The archive in a file, or nothing where the file is missing or damaged: formats notice only some of it."""
    try:
        content = path.read_bytes()
    except OSError:
        return b""
    archive, digest = content[:-_DIGEST], content[-_DIGEST:]
    return archive if hashlib.sha256(archive).digest() == digest else b""


def _digest(name: str, key: Mapping[str, Value]) -> str:
    if not _NAME.fullmatch(name):
        raise ParameterError(f"name must match {_NAME.pattern}, got {name!r}")
    for label, value in key.items():
        if not isinstance(value, bool | int | float | str):
            raise ParameterError(f"key {label!r} must be a bool, int, float or str, got {type(value).__name__}")
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:16]
