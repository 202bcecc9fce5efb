"""Writing a folder whole or not at all: everything goes to a hidden sibling, which takes the name at the end."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from porism.errors import PorismError
from porism.home import writing

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it may be replaced.

    Raises
    ------
    PorismError
        If it exists and ``overwrite`` is false, or is a file, or its parent is no folder.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise PorismError(f"{path} is not a folder; choose another name with -o")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise PorismError(f"{above} is not a folder, so that {path} cannot be in it")
    if path.exists() and not overwrite:
        raise PorismError(f"{path} exists; choose another name with -o, or give --overwrite")
    if path.exists() and not (path / "porism.json").exists() and any(path.iterdir()):
        raise PorismError(f"{path} was not written by porism compress, so it is not overwritten; choose another name")


@contextlib.contextmanager
def staged(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A hidden folder beside ``path`` that takes its name when the block ends well, and is removed when it does not.

    What runs that were killed left there is removed first; a run that still goes on holds a lock on its own.

    Raises
    ------
    PorismError
        If another run has taken the name meanwhile, and ``overwrite`` is false.
    """
    path = path.absolute()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
    lock = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staging
        check_output(path, overwrite=overwrite)
        with writing(path):
            _publish(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def _prefix(path: Path) -> str:
    return f".{path.name}.porism-"


def _sweep(path: Path) -> None:
    for left in path.parent.glob(f"{_prefix(path)}*"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(lock)


def _publish(staging: Path, path: Path) -> None:
    """Flush everything to the disk, then take the name in one step; an older folder of that name goes after."""
    staging.chmod(0o755)
    for folder, _, files in os.walk(staging):
        for name in files:
            _flush(Path(folder) / name)
        _flush(Path(folder))
    if path.exists():
        _exchange(staging, path)
    else:
        os.rename(staging, path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders at once, so that no moment is without the one or the other."""
    library = ctypes.CDLL(None, use_errno=True)
    swap = getattr(library, "renameat2", None)
    if swap is not None and swap(_HERE, os.fsencode(new), _HERE, os.fsencode(old), _EXCHANGE) == 0:
        return
    aside = new.with_name(f"{new.name}-old")  # a system without such a call: two steps
    os.rename(old, aside)
    os.rename(new, old)
    shutil.rmtree(aside, ignore_errors=True)
