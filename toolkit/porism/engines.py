"""Carrying out tasks on this machine or on many, through joblib.

Workers get keys and parameters, never live objects. Each worker drives a sandbox of its own and appends
to a shard of its own before it reports, so what is finished stays finished whatever dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import joblib

from porism.errors import PorismError
from porism.parameters import Value
from porism.records import Arm, Record, ShardWriter
from porism.sandbox import Sandbox

Engine = Literal["serial", "loky", "dask", "ray"]
ENGINES: tuple[Engine, ...] = ("serial", "loky", "dask", "ray")

Item = TypeVar("Item")
Result = TypeVar("Result")

# What joblib's loky and dask raise when the process of a worker is gone.
_DEATHS = ("TerminatedWorkerError", "BrokenProcessPool", "KilledWorker")

_worker = threading.local()


class WorkersDied(PorismError):
    """A worker was killed by somebody else, such as the system for want of memory."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One piece of work for a worker: a replicate, a search, a symbolic decision, or one run of a demo.

    ``key`` finds the paper (a key or a file's path); ``parameters`` are those that differ from the arm's own; the
    other names are those of :class:`Record`.
    """

    do: Literal["replicate", "search", "symbolic", "weakest", "demo"]
    key: str
    paper: str
    claim: str
    claim_hash: str
    code_hash: str
    root: int
    arm: Arm
    time_limit: float
    case: int = -1
    parameters: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    cap: int = 0
    known: tuple[dict[str, Any], ...] = ()
    replay: tuple[dict[str, Any], ...] = ()

    def record(self, **fields: Any) -> Record:
        """A record that belongs to this task."""
        names = ("paper", "claim", "claim_hash", "code_hash", "root", "arm")
        fields |= {"note": fields.get("note", "").encode(errors="replace").decode()}  # half a surrogate is no text
        return Record(**({name: getattr(self, name) for name in names} | {"case": self.case} | fields))

    def message(self) -> dict[str, Any]:
        """What the child process is told."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def run_tasks(
    tasks: Sequence[Task], folder: Path, *, engine: Engine = "loky", jobs: int = -1
) -> Iterator[list[Record]]:
    """Yield the records of each task as it finishes, in any order; they are on disk already.

    Parameters
    ----------
    tasks
        What to do.
    folder
        Where the shards are written; on many machines a folder that all of them share.
    engine
        ``serial`` (this process), ``loky`` (processes here), ``dask`` or ``ray`` (the client or cluster that
        is connected, else a local one).
    jobs
        Number of workers; -1 for one a core.

    Raises
    ------
    PorismError
        If the engine's package is not installed, or the records cannot be written.
    WorkersDied
        If a worker was killed; what it had finished is on disk.
    """
    if engine not in ENGINES:
        raise PorismError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    parent = os.getpid() if engine == "loky" else None
    with _backend(engine, jobs), contextlib.ExitStack() as stack:
        if engine == "serial":
            stack.callback(_close_worker)
        # Ray's backend cannot return results as they come.
        parallel = joblib.Parallel(return_as="list" if engine == "ray" else "generator_unordered")
        try:
            yield from parallel(joblib.delayed(perform)(task, folder, parent) for task in tasks)
        except Exception as error:
            if type(error).__name__ in _DEATHS:
                raise WorkersDied(str(error).partition("\n")[0]) from error
            raise


def mapped(function: Callable[[Item], Result], items: Sequence[Item], *, jobs: int = -1) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in any order, from processes here (from this one for ``jobs=1``)."""
    engine: Engine = "serial" if jobs == 1 else "loky"
    with _backend(engine, jobs), contextlib.ExitStack() as stack:
        if engine == "serial":
            stack.callback(_close_worker)
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        yield from parallel(joblib.delayed(function)(item) for item in items)


def worker_sandbox(key: str, code_hash: str) -> Sandbox:
    """This worker's own sandbox, which lives as long as the worker and holds no older code of the paper."""
    if not hasattr(_worker, "sandbox"):
        _worker.sandbox = Sandbox()
        _worker.code = {}
    sandbox: Sandbox = _worker.sandbox
    if _worker.code.setdefault(key, code_hash) != code_hash:
        sandbox.kill()
        _worker.code = {key: code_hash}
    return sandbox


def perform(task: Task, folder: Path, parent: int | None = None) -> list[Record]:
    """Carry out one task in this worker's sandbox and record what comes back.

    With ``parent`` given, a worker whose parent has died ends and records nothing: the work may be in other hands.
    """
    _end_if_orphaned(parent)
    sandbox = worker_sandbox(task.key, task.code_hash)
    if getattr(_worker, "folder", None) != folder:
        _worker.folder, _worker.shard = folder, ShardWriter(folder)
    records = []
    for record in _records(task, sandbox):
        _end_if_orphaned(parent)
        _worker.shard.append(record)
        records.append(record)
    return records


def _end_if_orphaned(parent: int | None) -> None:
    if parent is not None and os.getppid() != parent and os.getpid() != parent:
        os._exit(1)  # an exception would be taken for the task's, and the next one begun


def _records(task: Task, sandbox: Sandbox) -> Iterator[Record]:
    """Translate the sandbox's events into records."""
    running: dict[str, Any] = {"case": task.case, "root": task.root, "parameters": dict(task.parameters)}
    known = list(task.known)
    goes_on = True
    while goes_on:
        goes_on = False
        for event in sandbox.run({**task.message(), "known": known}, time_limit=task.time_limit):
            fields = {name: value for name, value in event.items() if name != "event"}
            match event["event"]:
                case "start":
                    running = fields
                case "case":
                    known.append(fields)
                    yield task.record(**fields)
                case "symbolic":
                    yield task.record(status="symbolic", **fields)
                case "end":
                    yield end_of(task, **fields)
                case "timeout" | "died":
                    timeout = event["event"] == "timeout"
                    status: Literal["timeout", "error"] = "timeout" if timeout else "error"
                    note = f"did not return within {task.time_limit:g} s" if timeout else _death(event["note"])
                    yield from _failed(task, running, len(known), status, note)
                    # A point where replicates fail is a weak one; the search for the weakest does not end there.
                    goes_on = task.do == "weakest" and running["case"] >= 0
                    known.append({**running, "status": status})


def _death(last_words: str) -> str:
    return f"its process died: {last_words}"[:500]


def _failed(
    task: Task, running: dict[str, Any], evaluated: int, status: Literal["timeout", "error"], note: str
) -> Iterator[Record]:
    """The case that took the child with it; a search ends there, unsettled, as the machine may be to blame."""
    if task.do == "symbolic":
        yield task.record(status="symbolic", note=f"undecided: {note}")
        return
    yield task.record(status=status, note=note, **running)
    if task.do == "search" or (task.do == "weakest" and running["case"] < 0):
        where = "".join(f", {name}={value}" for name, value in running["parameters"].items())
        yield end_of(task, evaluated + 1, None, note=f"{note} at case {running['case']}{where}")


def end_of(
    task: Task,
    cases: int,
    counterexample: Mapping[str, Any] | None,
    weakest: Mapping[str, Value] | None = None,
    note: str = "",
) -> Record:
    """Close a search; a ``note`` without a counterexample says what broke it off."""
    found = counterexample or {"case": -1, "root": task.root, "parameters": weakest or {}, "note": note}
    what = {name: found[name] for name in ("case", "parameters", "note")}
    counts = {
        "cases": cases,
        "cap": task.cap,
        "counterexamples": int(counterexample is not None),
        "root": found["root"],
    }
    return task.record(status="end", values=counts, **what)


def _close_worker() -> None:
    if hasattr(_worker, "sandbox"):
        _worker.sandbox.close()
        if hasattr(_worker, "shard"):
            _worker.shard.close()
        _worker.__dict__.clear()


@contextlib.contextmanager
def _backend(engine: Engine, jobs: int) -> Iterator[None]:
    """Make an engine joblib's default here, with a local cluster where none is connected."""
    with contextlib.ExitStack() as stack:
        if engine == "dask":
            stack.enter_context(_dask_client(jobs))
        elif engine == "ray":
            try:
                from ray.util.joblib import register_ray
            except ImportError:
                raise PorismError("engine 'ray' needs ray: pip install ray") from None
            register_ray()
        name = "sequential" if engine == "serial" else engine
        stack.enter_context(joblib.parallel_config(backend=name, n_jobs=1 if engine == "serial" else jobs))
        yield


@contextlib.contextmanager
def _dask_client(jobs: int) -> Iterator[None]:
    try:
        import distributed
    except ImportError:
        raise PorismError("engine 'dask' needs more packages: pip install 'porism[sweep]'") from None
    with contextlib.suppress(ValueError):
        distributed.get_client()
        yield
        return
    workers = joblib.cpu_count() if jobs == -1 else jobs
    with distributed.Client(  # type: ignore[no-untyped-call]
        n_workers=workers, threads_per_worker=1, dashboard_address=":0"
    ):
        yield
