"""What a model costs: FLOPs of one forward pass, and its latency on this machine beside the original's."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import resource
import statistics
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from porism.stats.intervals import median_interval
from porism.surgery import call, evaluating

# Latency: at most so many pairs of calls, and so many seconds.
PAIRS, SECONDS = 25, 6.0
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of mallopt(3)


@torch.no_grad()
def flops(model: nn.Module, batch: Any) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one forward pass.

    Examples
    --------
    >>> flops(nn.Linear(8, 4), torch.ones(2, 8))
    128
    """
    with evaluating(model), FlopCounterMode(display=False) as counter:
        call(model, batch)
    return int(counter.get_total_flops())


@torch.no_grad()
def latencies(
    before: nn.Module, after: nn.Module, batch: Any, *, device: torch.device | str, seconds: float | None = None
) -> dict[str, Any]:
    """Milliseconds of a forward pass of both models, called in turn; medians and the ratio after / before.

    At most 25 pairs of calls, and ``seconds`` (6 by default), but 3 pairs at least. The interval is the exact one of
    order statistics for the median of the ratios, at 95 %; its ends are None where there are too few pairs.
    """
    times: list[tuple[float, float]] = []
    with evaluating(before), evaluating(after):
        for model in (before, after):
            _milliseconds(model, batch, device)
        start = time.perf_counter()
        while len(times) < PAIRS and (
            len(times) < 3 or time.perf_counter() - start < (SECONDS if seconds is None else seconds)
        ):
            turn = (before, after) if len(times) % 2 else (after, before)
            took = {id(model): _milliseconds(model, batch, device) for model in turn}
            times.append((took[id(before)], took[id(after)]))
    low, high = median_interval([new / old for old, new in times])
    return {
        "before_ms": statistics.median(old for old, _ in times),
        "after_ms": statistics.median(new for _, new in times),
        "ratio": statistics.median(new / old for old, new in times),
        "ratio_low": low if math.isfinite(low) else None,
        "ratio_high": high if math.isfinite(high) else None,
        "pairs": len(times),
    }


def machine(device: str) -> dict[str, Any]:
    """Where the figures come from."""
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": device,
    }
    if "transformers" in sys.modules:
        found["transformers"] = str(sys.modules["transformers"].__version__)
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def peak_memory() -> int:
    """Most bytes that this process has held in memory so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int:
    """Bytes that a process can still take without swapping, under the limits of its control group as well."""
    found = [_kilobytes("/proc/meminfo", "MemAvailable", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(limit, encoding="ascii") as most, open(used, encoding="ascii") as now:
                found.append(int(most.read()) - int(now.read()))
        except (OSError, ValueError):
            continue
    for which, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(which)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(soft - _kilobytes("/proc/self/status", used, 0))
    return max(0, min(found))


def give_back_freed_memory() -> None:
    """Ask the C library to return each matrix to the system when it is freed, rather than to keep it for later ones.

    By default it learns from the sizes that are freed to keep ever larger ones, up to 32 MB, in a heap with holes.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 17)


def _kilobytes(path: str, name: str, otherwise: int) -> int:
    """A line ``name: 123 kB`` of a file of Linux, in bytes."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return otherwise


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _milliseconds(model: nn.Module, batch: Any, device: torch.device | str) -> float:
    cuda = str(device).startswith("cuda")
    if cuda:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call(model, batch)
    if cuda:
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)
