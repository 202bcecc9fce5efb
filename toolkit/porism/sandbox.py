"""Running claims in a child process that can be killed: a time limit that holds in any C call.

The child (:mod:`porism.worker`) gets keys and parameters as lines of JSON and answers the same way. It
announces each case before it runs it, so the parent knows what to blame when nothing comes back.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

# Importing a paper may mean importing torch on a loaded machine; this is not a claim's time.
STARTUP_SECONDS = 300.0

# Who ends a pool of workers (loky, when one of them died or all are to stop) kills their children a moment before them.
# A worker that is still there after this time was not meant: its child was killed for reasons of its own.
_GRACE = 2.0

_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class Sandbox:
    """One child process, started when first needed and again after it was killed.

    Examples
    --------
    >>> with Sandbox() as sandbox:
    ...     [event["event"] for event in sandbox.run({"do": "ping"}, time_limit=60)]
    ['done']
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the sandbox
        self._buffer = b""
        self._busy = False

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and forget what it said; the sandbox is of no use afterwards."""
        self.kill()
        self._errors.close()

    def run(self, task: dict[str, Any], *, time_limit: float) -> Iterator[dict[str, Any]]:
        """Send a task and yield the child's events up to ``done``, ``timeout`` or ``died``.

        ``time_limit`` is in seconds and counts from each ``start`` event, so importing is not charged.
        """
        if self._busy:  # the task before was abandoned; its answers must not be taken for this one's
            self.kill()
        child = self._start()
        self._busy = True
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(task).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            pass  # reading below finds out why
        deadline = time.monotonic() + STARTUP_SECONDS
        while True:
            line = self._read_line(deadline)
            if line is None:
                code = child.poll()
                self.kill()
                if code == -signal.SIGKILL:
                    time.sleep(_GRACE)
                yield {"event": "timeout"} if code is None else {"event": "died", "note": self._last_words(code)}
                return
            event = json.loads(line)
            deadline = time.monotonic() + time_limit
            self._busy = event["event"] != "done"
            yield event
            if not self._busy:
                return

    def kill(self) -> None:
        """End the child at once."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None
        self._buffer, self._busy = b"", False

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.kill()
            self._errors.seek(0)
            self._errors.truncate()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "porism.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **_ONE_THREAD, "PYTHONHASHSEED": "0"},
                start_new_session=True,  # Ctrl-C is the parent's business
            )
        return self._child

    def _read_line(self, deadline: float) -> bytes | None:
        """The next line of the child, or None when it died or the deadline passed."""
        assert self._child is not None
        assert self._child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                chunk = os.read(self._child.stdout.fileno(), 65536)
                if not chunk:
                    self._child.wait()
                    return None
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last_words(self, code: int) -> str:
        """The last line of the child's stderr, or what its exit code says."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        silent = f"exit code {code}" if code >= 0 else f"killed by signal {-code} (9 may mean: out of memory)"
        return lines[-1] if lines else silent
