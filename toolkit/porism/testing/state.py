"""What a paper must leave as it found it: random generators, floating point, threads, files, and the process."""

from __future__ import annotations

import contextlib
import decimal
import gc
import locale
import os
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from porism.testing.leaks import held, leaked

# A change longer than this says nothing to a reader.
_LONGEST_SHOWN = 60


class Setting(NamedTuple):
    """Something global that can change a number, with how to read it (as plain values) and to put it back.

    A generator also has how to ``draw`` from it.
    """

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], Any]
    draw: Callable[[], Any] = lambda: None


def settings() -> list[Setting]:
    """Everything watched; torch's, matplotlib's and mpmath's only if they have been imported already."""
    return [
        Setting("the generator of random", random.getstate, random.setstate, random.random),
        Setting("numpy's global generator", _get_legacy_state, _set_legacy_state, np.random.random),
        Setting("numpy's error handling", np.geterr, lambda value: np.seterr(**value)),
        Setting("numpy's print options", np.get_printoptions, lambda value: np.set_printoptions(**value)),
        Setting("the flushing of denormals", _denormals_are_flushed, _flush_denormals),
        Setting("the precision of decimal", _get_decimal, _set_decimal),
        Setting("the working directory", os.getcwd, os.chdir),
        Setting("the environment", lambda: dict(os.environ), _set_environment),
        Setting("the module search path", lambda: list(sys.path), _set_path),
        Setting("the warning filters", lambda: list(warnings.filters), _set_filters),
        Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        Setting("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda v: locale.setlocale(locale.LC_ALL, v)),
        Setting("the signal handlers", _get_handlers, _set_handlers),
        Setting("the garbage collector", gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
        Setting("the standard streams", lambda: (sys.stdout, sys.stderr), _set_streams),
        *(setting for name, watched in _LIBRARIES.items() if name in sys.modules for setting in watched()),
    ]


def _torch() -> Iterator[Setting]:
    import torch

    def get_generator() -> bytes:
        return bytes(torch.get_rng_state().numpy())

    def set_generator(state: bytes) -> None:
        torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))

    yield Setting("torch's global generator", get_generator, set_generator, lambda: torch.rand(()))
    yield Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Setting("torch's default device", torch.get_default_device, torch.set_default_device)
    yield Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled)
    yield Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads)
    yield Setting(
        "torch's deterministic algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    )
    yield Setting(
        "torch's precision of matrix products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    )


def _matplotlib() -> Iterator[Setting]:
    import matplotlib

    yield Setting("matplotlib's rcParams", lambda: dict(matplotlib.rcParams.copy()), matplotlib.rcParams.update)


def _mpmath() -> Iterator[Setting]:
    mpmath = sys.modules["mpmath"]
    yield Setting("mpmath's precision", lambda: mpmath.mp.prec, lambda value: setattr(mpmath.mp, "prec", value))


_LIBRARIES: Mapping[str, Callable[[], Iterator[Setting]]] = {
    "torch": _torch,
    "matplotlib": _matplotlib,
    "mpmath": _mpmath,
}


@contextlib.contextmanager
def preserved() -> Iterator[list[str]]:
    """Put every setting back at the end, and fill the list with those that had changed and with what leaked.

    Each generator first draws a number, so that seeding it is seen even where it had that seed. The work is done in
    an empty folder, so that files left behind are seen, and what stands in the user's own is left alone.

    Examples
    --------
    >>> with preserved() as changed:
    ...     _ = random.random()
    >>> changed
    ['the generator of random']
    """
    watched = settings()
    original = [setting.get() for setting in watched]
    for setting in watched:
        setting.draw()
    changed: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        before = [setting.get() for setting in watched]
        there = held()
        try:
            yield changed
        finally:
            after = [setting.get() for setting in watched]
            for setting, first, old, new in zip(watched, original, before, after, strict=True):
                if old != new:
                    changed.append(_in_words(setting.name, old, new))
                if first != new:
                    setting.set(first)
            changed += leaked(there)
            changed += [f"the files of its working directory ({name} is left)" for name in sorted(os.listdir(folder))]


def snapshot() -> dict[str, Any]:
    """Every setting by name."""
    return {setting.name: setting.get() for setting in settings()}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two snapshots, in words.

    Examples
    --------
    >>> changes(snapshot(), snapshot())
    []
    """
    return [_in_words(name, before[name], after[name]) for name in before if before[name] != after[name]]


def _in_words(name: str, before: Any, after: Any) -> str:
    values = f"{before} -> {after}"
    return f"{name} ({values})" if len(values) <= _LONGEST_SHOWN else name


def _get_legacy_state() -> tuple[Any, ...]:
    name, words, *rest = np.random.get_state()  # noqa: NPY002 - to see whether somebody else uses it
    return (name, np.asarray(words).tobytes(), *rest)


def _set_legacy_state(state: tuple[Any, ...]) -> None:
    name, words, *rest = state
    np.random.set_state((name, np.frombuffer(words, np.uint32), *rest))  # noqa: NPY002


def _denormals_are_flushed() -> bool:
    """Whether this thread takes numbers below 2e-308 for zero, as some libraries set it when they are loaded."""
    return bool(np.multiply(np.float64(2.0**-1074), 1.0) == 0)


def _flush_denormals(value: bool) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(value)


def _get_decimal() -> tuple[int, str]:
    context = decimal.getcontext()
    return (context.prec, context.rounding)


def _set_decimal(value: tuple[int, str]) -> None:
    context = decimal.getcontext()
    context.prec, context.rounding = value


def _set_environment(value: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(value)


def _set_path(value: list[str]) -> None:
    sys.path[:] = value


def _set_filters(value: list[Any]) -> None:
    warnings.resetwarnings()  # the only public way to make Python forget what it decided by the old ones
    warnings.filters[:] = value  # type: ignore[index]


def _get_handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _set_handlers(value: dict[int, Any]) -> None:
    for number, handler in value.items():
        if handler is not signal.getsignal(number) and handler is not None:
            with contextlib.suppress(ValueError, OSError):  # not the main thread
                signal.signal(number, handler)


def _set_streams(value: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = value
