"""Timing ours and a peer's call in turn, in one process: a machine that is busy then slows both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

# A title, and calls by name; ours is called "porism".
Workload = tuple[str, Mapping[str, Callable[[], Any]]]


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
