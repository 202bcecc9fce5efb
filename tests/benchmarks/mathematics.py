"""The shared mathematics beside its peers, in one process: prints tables, and ``--write`` puts them into the docs.

``python tests/benchmarks/mathematics.py [NAME...] [--repeats N] [--write]`` with names among logits, sinkhorn, samples.
Needs the extra ``bench``; run by ``make benchmark``.
"""

from __future__ import annotations

import argparse
import platform
import re
import warnings
from importlib import import_module
from pathlib import Path

import torch
from timing import interleaved, table

NAMES = ("logits", "sinkhorn", "samples")
THREADS = 2
PAGE = Path(__file__).parents[2] / "docs" / "divergences.md"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/divergences.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    report = [f"{machine()}, {THREADS} threads, torch {torch.__version__}, {arguments.repeats} turns.\n"]
    print(report[0])
    for name in arguments.names or NAMES:
        module = import_module(name)
        for title, calls in module.workloads():
            report.append(table(title, interleaved(calls, repeats=arguments.repeats)))
            print(report[-1], flush=True)
        for extra in ("accuracy", "memory"):
            if hasattr(module, extra):
                report.append(getattr(module, extra)() + "\n")
                print(report[-1], flush=True)
    if arguments.write:
        text = PAGE.read_text(encoding="utf-8")
        part = "<!-- begin benchmarks -->\n" + "\n".join(report) + "<!-- end benchmarks -->"
        PAGE.write_text(
            re.sub("<!-- begin benchmarks -->.*<!-- end benchmarks -->", lambda _: part, text, flags=re.DOTALL),
            encoding="utf-8",
        )


def machine() -> str:
    """The processor's name, where Linux tells it."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
