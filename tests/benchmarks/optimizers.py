"""A step of COSMOS beside torch's Muon and AdamW and a SOAP, in turns: milliseconds, and bytes of their states.

``python tests/benchmarks/optimizers.py [--matrices N] [--size N] [--repeats N] [--threads N]``. With one thread the
thread's own processor time is taken, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import timing
import torch
from torch import nn

from porism_plugins.optim._baselines import SOAP
from porism_plugins.optim._engine import counted
from porism_plugins.optim.cosmos import COSMOS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrices", type=int, default=24)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.threads == 1:
        timing.time.perf_counter = time.thread_time
    optimizers = {name: prepared(make, arguments) for name, make in makers().items()}
    what = f"{arguments.matrices} matrices of {arguments.size}^2, float32, {arguments.threads} threads"
    seconds = timing.interleaved({n: o.step for n, o in optimizers.items()}, repeats=arguments.repeats)
    print(timing.table(f"One step on {what}, torch {torch.__version__}", seconds))
    numbers = arguments.matrices * arguments.size**2
    for name, optimizer in optimizers.items():
        print(f"{name}: {4 * counted(optimizer) / 2**20:.1f} MiB of state, {counted(optimizer) / numbers:.3f} a weight")


def makers() -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """By name; SOAP refreshes its bases every 10 steps, the tenth of which is not among few repeats."""
    found: dict[str, Callable[..., Any]] = {"porism": COSMOS}
    if hasattr(torch.optim, "Muon"):
        found["torch.optim.Muon"] = torch.optim.Muon
    found |= {
        "torch.optim.AdamW, foreach": lambda params: torch.optim.AdamW(params, foreach=True),
        "torch.optim.AdamW, fused": lambda params: torch.optim.AdamW(params, fused=True),
        "SOAP, both sides, bases renewed at each step": lambda params: SOAP(params, frequency=1),
    }
    return found


def prepared(make: Callable[..., torch.optim.Optimizer], arguments: argparse.Namespace) -> torch.optim.Optimizer:
    """After its first step, which is made of other work."""
    generator = torch.Generator().manual_seed(0)
    shape = arguments.size, arguments.size
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(arguments.matrices)]
    for parameter in parameters:
        parameter.grad = torch.randn(shape, generator=generator)
    optimizer = make(parameters)
    optimizer.step()
    return optimizer


if __name__ == "__main__":
    main()
