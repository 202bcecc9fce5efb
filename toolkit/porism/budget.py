"""A budget of time: when it is spent, long work stops the way Ctrl-C stops it, and what is finished stays."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from porism.errors import PorismError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class TimeUp(BaseException):
    """The budget is spent; no error, so nothing that handles errors may swallow it."""


def seconds_of(text: str) -> float:
    """Read a duration such as ``90``, ``90s``, ``30m``, ``1.5h`` or ``2d``.

    Raises
    ------
    PorismError
        If it is not a positive number with one of these units.

    Examples
    --------
    >>> seconds_of("30m"), seconds_of("1.5h"), seconds_of("90")
    (1800.0, 5400.0, 90.0)
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([smhd]?)\s*", text.lower())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise PorismError(f"a budget is a positive time such as 90s, 30m or 2h, got {text!r}")
    return seconds


class Clock:
    """What is left of a budget, by a clock that nobody can set.

    Examples
    --------
    >>> Clock(None).left
    inf
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0; infinite without a budget."""
        return max(0.0, self._end - time.monotonic())

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Raise :class:`TimeUp` in the block when the time is over.

        Only the main thread can be interrupted; elsewhere the block itself must look at :attr:`left`.
        """
        if math.isinf(self._end) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            raise TimeUp

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-6))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
