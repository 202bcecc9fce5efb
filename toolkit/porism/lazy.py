"""Packages whose names are imported when they are first used, so that importing the package stays cheap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__`` (PEP 562).

    Parameters
    ----------
    package
        The package's ``__name__``.
    homes
        Which module each public name is in: a full name, or one relative to the package.

    Examples
    --------
    >>> __getattr__, __dir__ = lazily("porism", {"kl_divergence": "divergences"})
    >>> __getattr__("kl_divergence").__module__
    'porism.divergences.entropic'
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        return getattr(import_module(home if home.startswith("porism.") else f"{package}.{home}"), name)

    def names() -> list[str]:
        return sorted({*vars(import_module(package)), *homes})

    return get, names
