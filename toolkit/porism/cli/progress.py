"""Progress on stderr: finished tasks, and the cases that workers have recorded meanwhile."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from porism.records import Record
    from porism.rounds import Progress


@contextlib.contextmanager
def progress_bar(folder: Path | None = None) -> Iterator[Progress]:
    """A bar on stderr that counts finished tasks, or nothing where nobody watches.

    One search may run for minutes, so the records that appear in ``folder`` are counted as well.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda records, remaining: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.text import Text

    count = recorded_since(folder) if folder else lambda: 0

    class Recorded(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{count():,} cases", style="progress.data.speed")

    columns = [BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")]
    with Progress(*columns, *([Recorded()] if folder else []), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        done = 0

        def report(records: Sequence[Record], remaining: int) -> None:
            nonlocal done
            done += 1
            name = f"{records[-1].paper}.{records[-1].claim}".rstrip(".") if records else ""
            bar.update(task, total=done + remaining, completed=done, description=name)

        yield report


def recorded_since(folder: Path) -> Callable[[], int]:
    """A function that counts the records written to the shards of a folder from now on.

    Shards only grow, and those that nobody writes to any more are not read again.
    """
    sizes = {shard: shard.stat().st_size for shard in folder.glob("*/*.jsonl")}
    found = 0

    def count() -> int:
        nonlocal found
        with contextlib.suppress(OSError):
            for shard in folder.glob("*/*.jsonl"):
                size, known = shard.stat().st_size, sizes.get(shard, 0)
                if size > known:
                    with shard.open("rb") as file:
                        file.seek(known)
                        found += file.read(size - known).count(b"\n")
                    sizes[shard] = size
        return found

    return count
