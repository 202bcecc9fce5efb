"""Timing ours and a peer's call in turn, in one process: a machine that is busy then slows both."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# A title, and calls by name; ours is called "porism".
Workload = tuple[str, Mapping[str, Callable[[], Any]]]
PAGE = 4096  # bytes of a page of memory, as /proc counts them


def interleaved(calls: Mapping[str, Callable[[], Any]], *, repeats: int = 7) -> dict[str, list[float]]:
    """Seconds of each call, ``repeats`` times in turn after one warm-up each."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            gc.collect()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def extra_memory(call: Callable[[], Any]) -> float:
    """Peak resident megabytes during a call above those before it, looked at every millisecond (Linux)."""
    call()  # what is allocated once and kept does not count
    gc.collect()
    before = peak = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = call()
    peak = max(peak, _resident())
    done.set()
    watcher.join()
    del kept
    return (peak - before) / 2**20


def table(title: str, seconds: Mapping[str, list[float]], *, ours: str = "porism") -> str:
    """Medians in milliseconds with their spread, and the ratio of ours to each: the median of ratios in one turn."""
    rows = [f"### {title}", "", "| what | ms (median) | min to max | porism / it |", "|---|--:|--:|--:|"]
    for name, times in seconds.items():
        ms = [1000 * t for t in times]
        ratio = statistics.median(a / b for a, b in zip(seconds[ours], times, strict=True))
        rows.append(
            f"| {name} | {statistics.median(ms):.3g} | {min(ms):.3g} to {max(ms):.3g} "
            f"| {'' if name == ours else f'{ratio:.2f}'} |"
        )
    return "\n".join(rows) + "\n"


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
