"""Rounds of tasks until none is left, the time is up, or workers die again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from porism.budget import Clock, TimeUp
from porism.engines import Engine, Task, WorkersDied, run_tasks
from porism.errors import PorismError
from porism.records import Record

# Called with the records of each finished task, and with the number of tasks that are known to remain.
Progress = Callable[[Sequence[Record], int], None]

# Rounds in a row in which workers may die before it is the work's own fault.
_DEATHS = 3


def work_off(
    next_tasks: Callable[[], Sequence[Task]],
    take: Callable[[Sequence[Record]], None],
    reread: Callable[[], None],
    folder: Path,
    *,
    engine: Engine = "loky",
    jobs: int = -1,
    clock: Clock | None = None,
    progress: Progress = lambda records, remaining: None,
) -> bool:
    """Run what ``next_tasks`` asks for, round by round, and say whether all of it was finished in time.

    Parameters
    ----------
    next_tasks
        The tasks of the next round; none when the work is done.
    take
        Receives the records of each finished task.
    reread
        Reads the records from disk anew, where more is finished than was reported: after a worker's death, and when
        the time is up.
    folder
        Where the shards are written.
    engine, jobs
        As for :func:`~porism.engines.run_tasks`.
    clock
        The budget; None for as long as it takes.
    progress
        Called with the records of each finished task and the number of tasks that remain.

    Raises
    ------
    PorismError
        If records cannot be written, or if workers died in three rounds in a row.
    """
    clock = clock or Clock(None)
    deaths = 0
    try:
        with clock.running():
            while clock.left and (tasks := next_tasks()):
                remaining = len(tasks)
                try:
                    for done in run_tasks(
                        tasks, folder, engine=engine, jobs=min(jobs, remaining) if jobs > 0 else jobs
                    ):
                        take(done)
                        remaining -= 1
                        progress(done, remaining)
                        deaths = 0
                        if not clock.left:
                            raise TimeUp
                except WorkersDied as error:
                    deaths += 1
                    if deaths == _DEATHS:
                        raise PorismError(f"workers died in {_DEATHS} rounds in a row: {error}") from error
                    reread()
    except TimeUp:
        reread()
        return False
    return bool(clock.left)
