"""What a paper may leave running or open: threads, child processes and files."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

# A thread that ends by itself within this time is none that leaks.
_SECONDS_TO_END = 1.0


def held() -> dict[str, Any]:
    """What this process holds now, by kind; open files and all child processes on Linux only.

    Examples
    --------
    >>> before = held()
    >>> file = open(os.devnull)
    >>> leaked(before)
    ['the open files (/dev/null)']
    >>> file.close()
    >>> leaked(before)
    []
    """
    return {"the threads": _threads(), "the child processes": _children(), "the open files": _files()}


def leaked(before: dict[str, Any]) -> list[str]:
    """What is held now and was not before, in words."""
    for thread in threading.enumerate():
        if thread not in before["the threads"].values() and thread is not threading.current_thread():
            thread.join(_SECONDS_TO_END)
    words = []
    for kind, after in held().items():
        new = [str(getattr(what, "name", what)) for key, what in after.items() if key not in before[kind]]
        if new:
            words.append(f"{kind} ({', '.join(sorted(new))})")
    return words


def _threads() -> dict[int, threading.Thread]:
    return {id(thread): thread for thread in threading.enumerate()}


def _children() -> dict[int, str]:
    found: dict[int, str] = {child.pid or 0: child.name for child in multiprocessing.active_children()}
    for listed in Path("/proc/self/task").glob("*/children"):
        try:
            found |= {int(pid): Path("/proc", pid, "comm").read_text().strip() for pid in listed.read_text().split()}
        except OSError:  # a thread or a process that has just ended
            continue
    return found


def _files() -> dict[tuple[str, str], str]:
    found = {}
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the folder's own, closed by now
            continue
        found[number, target] = target
    return found
