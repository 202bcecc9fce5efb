"""Records: one replicate or case each, in append-only JSONL shards, one shard a writer.

A shard is never opened twice for writing, and a record is one ``write`` of one line, so a process that is
killed leaves at most a cut-off last line. Nothing here deletes or rewrites anything.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import secrets
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from porism.errors import PorismError
from porism.home import writing

VERSION = 1

Arm = Literal["main", "control"]
Status = Literal["ok", "error", "timeout", "end", "symbolic"]


class RecordWarning(UserWarning):
    """Something recorded could not be read; it was left as it is."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """One replicate (``typically``), one case (``always``), or the end of a search.

    Attributes
    ----------
    v
        The format's version.
    paper, claim, claim_hash, code_hash, root, arm, parameters, case
        Together the identity: the same identity gives the same bits, so it is never computed twice.
        ``case`` is the replicate's number, or the number that seeds a searched case.
    status
        ``ok``; ``error`` or ``timeout`` (both count against the claim); ``end`` closes a search and holds
        its counterexample, if any, in ``parameters``; ``symbolic`` holds sympy's answer in ``note``.
    effect
        What the claim measured; None where it failed.
    values
        More results by name, such as the scores of both arms; what is not finite is recorded as None.
    note
        The error in one line, or sympy's answer.
    seconds
        Wall-clock time.
    environment
        Versions that ran it.
    """

    v: int = VERSION
    paper: str
    claim: str
    claim_hash: str
    code_hash: str
    root: int
    arm: Arm
    case: int
    status: Status
    parameters: dict[str, bool | int | float | str] = {}
    effect: float | None = None
    values: dict[str, Any] = {}
    note: str = ""
    seconds: float = 0.0
    environment: str = ""

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes two records the same piece of work."""
        point = msgspec.json.encode(self.parameters, order="sorted")
        what = (self.claim, self.claim_hash, self.code_hash, self.root, self.arm, self.case, point)
        if self.status == "end":
            return (*what, self.values.get("cap"))
        return (*what, "symbolic") if self.status == "symbolic" else what

    def to_line(self) -> bytes:
        """The record as one line of JSON.

        Raises
        ------
        PorismError
            If a parameter, the effect or the seconds are not finite, which JSON cannot say.
        """
        for number in (*self.parameters.values(), self.effect, self.seconds):
            if isinstance(number, float) and not math.isfinite(number):
                raise PorismError(f"{self.claim}: a record holds finite parameters, effect and seconds, got {number}")
        return msgspec.json.encode(self) + b"\n"


class _Version(msgspec.Struct):
    v: int


# Bytes of a shard that are decoded at once.
_BLOCK = 1 << 18

_decoder = msgspec.json.Decoder(Record)
_version = msgspec.json.Decoder(_Version)


class ShardWriter:
    """Appends records to shards of its own, one a paper, created at the paper's first record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, int] = {}

    def append(self, record: Record) -> None:
        """Write one record durably enough to survive the death of this process.

        Raises
        ------
        PorismError
            If the disk is full or the folder cannot be written; nothing half-written is left behind.
        """
        folder = self._folder / record.paper
        with writing(folder):
            if record.paper not in self._files:
                folder.mkdir(parents=True, exist_ok=True)
                name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
                self._files[record.paper] = os.open(folder / name, flags, 0o644)
            append_whole(self._files[record.paper], record.to_line())

    def close(self) -> None:
        """Close the shards; the next record would open a new one."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()


def append_whole(file: int, data: bytes) -> None:
    """Append all of ``data`` in one write, or raise and leave the file as it was."""
    before = os.fstat(file).st_size
    try:
        if os.write(file, data) < len(data):
            raise OSError(errno.ENOSPC, "no space left for a whole record")
    except OSError:
        os.ftruncate(file, before)
        raise


def read_records(folder: Path, paper: str, *, keep: Callable[[Record], bool] = lambda record: True) -> list[Record]:
    """Read those records of a paper that one wants to ``keep``, the first of each identity only.

    A cut-off last line, a damaged line, an unreadable shard or a record written by a newer version is
    skipped with one :class:`RecordWarning` a shard, and left where it is.

    Raises
    ------
    PorismError
        If the folder is there but cannot be listed, so that nothing recorded is taken for missing.
    """
    seen: set[tuple[Any, ...]] = set()
    records = []
    for shard in shards(folder, paper):
        for record in itertools.chain.from_iterable(_read_shard(shard)):
            if keep(record) and (identity := record.identity) not in seen:
                seen.add(identity)
                # One copy of what is long and thousands of records repeat.
                msgspec.structs.force_setattr(record, "environment", sys.intern(record.environment))
                records.append(record)
    return records


def shards(folder: Path, paper: str) -> list[Path]:
    """The files of a paper's records, in the order of their names."""
    try:
        return [folder / paper / name for name in sorted(os.listdir(folder / paper)) if name.endswith(".jsonl")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PorismError(f"cannot read {folder / paper}: {error.strerror}") from error


def _read_shard(shard: Path) -> Iterator[list[Record]]:
    """The records of a shard, block by block, so that a large one is never in memory whole."""
    skipped: list[str] = []
    first = 1
    try:
        with shard.open("rb") as file:
            while lines := file.readlines(_BLOCK):
                yield _read_lines(lines, first, skipped)
                first += len(lines)
    except OSError as error:
        skipped.append(f"cannot be read ({error.strerror})")
    if skipped:
        more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        warnings.warn(f"{shard}: {skipped[0]}{more}; skipped", RecordWarning, stacklevel=3)


def _read_lines(lines: list[bytes], first: int, skipped: list[str]) -> list[Record]:
    """The records of some lines; what is wrong with the others goes to ``skipped``."""
    try:
        records = _decoder.decode_lines(b"".join(lines))
        if len(records) == len(lines) and all(record.v <= VERSION for record in records):
            return records
    except (ValueError, RecursionError):
        pass
    return list(_read_line_by_line(lines, first, skipped))


def _read_line_by_line(lines: list[bytes], first: int, skipped: list[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, first):
        if line.isspace():
            continue
        try:
            record = _decoder.decode(line)
        except (ValueError, RecursionError):
            skipped.append(f"line {number} {_damage(line)}")
            continue
        if record.v > VERSION:
            skipped.append(f"line {number} {_damage(line)}")
        else:
            yield record


def _damage(line: bytes) -> str:
    """What is wrong with a line that is no record."""
    try:
        version = _version.decode(line).v
        if version > VERSION:
            return f"was written by a newer porism (format {version})"
    except (ValueError, RecursionError):
        pass
    return "is damaged" if line.endswith(b"\n") else "is cut off"
