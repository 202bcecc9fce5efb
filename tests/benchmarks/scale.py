"""What the core adds to the work itself: the engine beside plain joblib, and a ledger of a million records.

    python tests/benchmarks/scale.py                     # about two minutes
    python tests/benchmarks/scale.py --records 100000

Plain joblib runs the same function on as many processes, without isolation, time limit or records. The ledger is opened
in a fresh process, where all of its claims are settled: papers loaded, records read, judged and summarised.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
from timing import interleaved, table

from porism.check import Subject
from porism.engines import Task, run_tasks
from porism.records import Record, ShardWriter

HEAD = '''"""A synthetic paper, arXiv:2001.00001."""
import time
from typing import Annotated, Literal
from annotated_types import Interval
from porism import Paper, always, typically
PAPER = Paper(key="KEY", title="T", authors=("A",), year=2020, ref="arXiv:2001.00001", kinds=("simulator",), family="f")
'''
WORK = """
@typically("It is so", where="S", control={"method": "off"})
def busy(rng, *, ms: Annotated[float, Interval(ge=0, le=1000)] = 0.0, method: Literal["on", "off"] = "on"):
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return 1.0
"""
SAMPLED = """
@typically("It is so", where="S", control={"method": "off"})
def sampled_N(rng, *, method: Literal["on", "off"] = "on"):
    return 1.0 if method == "on" else -1.0
"""
SEARCHED = """
@always("It is so", where="S", control={"sign": -1})
def searched_N(rng, *, size: Annotated[int, Interval(ge=1, le=99)] = 5, rate: Annotated[float, Interval(ge=0, le=1)] = 0.1,
               sign: Literal[1, -1] = 1):
    return sign * 1.0
"""
PAPERS, SAMPLED_CLAIMS, SEARCHED_CLAIMS = 300, 4, 8
ENVIRONMENT = "porism 0.1.0, python 3.11.7, numpy 2.4.6, scipy 1.17.1, torch 2.13.0, scikit-learn 1.9.1, Linux x86_64"


def busy(ms: float) -> float:
    """What a replicate does, for plain joblib."""
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return 1.0


def engine(folder: Path, replicates: int, jobs: int) -> None:
    """Overhead of a replicate and the ratio to plain joblib, by how long the replicate itself takes."""
    path = folder / "work.py"
    path.write_text(HEAD.replace("KEY", "work") + WORK)
    subject = Subject.of(str(path))
    claim = subject.loaded.claims["busy"]
    turn = iter(range(10**6))

    def tasks(ms: float, count: int) -> list[Task]:
        names = {"key": subject.key, "paper": "work", "claim": "busy", "claim_hash": claim.hash}
        point = {"ms": ms, "method": "on"}
        return [
            Task(do="replicate", code_hash=subject.code_hash, root=0, arm="main", time_limit=60, case=case,
                 parameters=point, **names)
            for case in range(count)
        ]  # fmt: skip

    for ms, count in ((0.0, replicates), (1.0, replicates // 4), (10.0, replicates // 20)):
        work = tasks(ms, count)

        def ours(work: list[Task] = work) -> int:
            return sum(1 for _ in run_tasks(work, folder / f"records{next(turn)}", jobs=jobs))

        def plain(batch_size: str | int, ms: float = ms, count: int = count) -> int:
            parallel = joblib.Parallel(n_jobs=jobs, batch_size=batch_size)
            return len(parallel(joblib.delayed(busy)(ms) for _ in range(count)))

        calls = {"porism": ours, "joblib": lambda: plain("auto"), "joblib, batches of one": lambda: plain(1)}
        seconds = interleaved(calls, repeats=5)
        print(table(f"{count:,} replicates of {ms:g} ms on {jobs} processes", seconds))
        extra = statistics.median(seconds["porism"]) * jobs / count * 1000 - ms
        print(f"Overhead of a replicate: {extra:.3f} ms of one process\n")


def write_ledger(folder: Path, total: int) -> int:
    """Papers and settled records of all their claims, as workers would have written them."""
    a_claim = total // (PAPERS * SEARCHED_CLAIMS * 2)
    writer, written = ShardWriter(folder / "home" / "records"), 0
    for number in range(PAPERS):
        key = f"paper_{number}"
        path = folder / f"{key}.py"
        claims = [SAMPLED.replace("_N", f"_{n}") for n in range(SAMPLED_CLAIMS)]
        claims += [SEARCHED.replace("_N", f"_{n}") for n in range(SEARCHED_CLAIMS)]
        path.write_text(HEAD.replace("KEY", key) + "".join(claims))
        subject = Subject.of(str(path))
        for claim in subject.loaded.claims.values():
            for arm in ("main", "control"):
                names = {"paper": key, "claim": claim.name, "claim_hash": claim.hash, "code_hash": subject.code_hash}
                shared = names | {"root": 0, "arm": arm, "environment": ENVIRONMENT}
                sign = 1.0 if arm == "main" else -1.0
                point = claim.arm(arm)
                cases = a_claim if claim.rung == "always" else 9
                for case in range(cases):
                    drawn = point if claim.rung == "typically" else point | {"size": 1 + case % 99, "rate": case / 1e6}
                    writer.append(
                        Record(case=case, status="ok", parameters=drawn, effect=sign, seconds=0.001, **shared)
                    )
                    written += 1
                if claim.rung == "always":
                    counts = {"cases": cases, "cap": claim.cap, "counterexamples": int(arm == "control"), "root": 0}
                    writer.append(Record(case=0, status="end", parameters=point, values=counts, **shared))
                    written += 1
        writer.close()
    return written


OPEN = """
import json, resource, sys, time
from pathlib import Path
began = time.perf_counter()
from porism.check import Subject, check
from porism.ledger import differences, summarise_ledger
subjects = [Subject.of(str(path)) for path in sorted(Path(sys.argv[1]).glob("paper_*.py"))]
loaded = time.perf_counter()
ran = []
verdicts = check(subjects, engine="serial", progress=lambda *call: ran.append(call))
summary = summarise_ledger(verdicts)
differences(subjects, verdicts)
ended = time.perf_counter()
assert not ran, "something was not settled"
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"claims": len(verdicts), "load": loaded - began, "open": ended - loaded, "peak_mb": peak}))
"""


def ledger(folder: Path, total: int, repeats: int = 3) -> None:
    """Seconds and memory of opening and summarising a settled ledger in a fresh process."""
    written = write_ledger(folder, total)
    size = sum(shard.stat().st_size for shard in (folder / "home" / "records").glob("*/*.jsonl"))
    found = []
    for _ in range(repeats):
        environment = {**os.environ, "PORISM_HOME": str(folder / "home")}
        run = subprocess.run(
            [sys.executable, "-c", OPEN, str(folder)], env=environment, check=True, capture_output=True, text=True
        )
        found.append(json.loads(run.stdout))
    print(
        f"### A ledger of {written:,} records ({size / 1e6:.0f} MB) of {found[0]['claims']:,} claims of {PAPERS} papers\n"
    )
    print("| what | median | min to max |\n|---|--:|--:|")
    rows = {"load": "loading the papers, s", "open": "reading, judging, summarising, s", "peak_mb": "peak memory, MB"}
    for name, what in rows.items():
        values = [one[name] for one in found]
        print(f"| {what} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")


def main() -> None:
    """Print both tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--records", type=int, default=1_000_000)
    arguments.add_argument("--replicates", type=int, default=10_000)
    arguments.add_argument("--jobs", type=int, default=2)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        engine(Path(name), chosen.replicates, chosen.jobs)
        ledger(Path(name), chosen.records)


if __name__ == "__main__":
    main()
