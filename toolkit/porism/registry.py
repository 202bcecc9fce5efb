"""Finding papers: entry points, a cached scan that imports nothing, and loading one paper by key."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from porism.errors import MissingExtraError, PorismError, did_you_mean
from porism.paper import Paper
from porism.scan import Entry, Listing, scan

if TYPE_CHECKING:
    from porism.claims import Claim
    from porism.figures import Figure

Declared = TypeVar("Declared", "Claim", "Figure")


@dataclasses.dataclass(frozen=True)
class LoadedPaper:
    """A paper whose file has been imported, with what the file declares."""

    paper: Paper
    path: Path
    module: ModuleType
    claims: dict[str, Claim]
    figures: dict[str, Figure]


class BrokenPaperError(PorismError):
    """A paper's file cannot be imported; the traceback is in ``details``."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def listing() -> Listing:
    """Every paper installed here, and every one that is broken, without importing any.

    With ``PORISM_STRICT=1`` the first broken one raises :class:`BrokenPaperError` instead.
    """
    found = scan()
    if found.broken and os.environ.get("PORISM_STRICT") == "1":
        first = found.broken[0]
        raise BrokenPaperError(f"{first.where}: {first.reason}", first.details)
    return found


def papers() -> dict[str, Paper]:
    """Every paper installed here by key, without importing any.

    Examples
    --------
    >>> import porism
    >>> porism.papers()["sinkd"].kinds
    ('loss',)
    """
    return {key: entry.paper for key, entry in listing().entries.items()}


def find(key: str) -> Entry:
    """Return the entry of a key, or of a file given by its path (``./my_paper.py``).

    Raises
    ------
    PorismError
        If no paper has this key, with the closest known one; if two claim it; if the file is unreadable.
    """
    if key.endswith(".py"):
        return _entry_of_file(Path(key))
    if os.sep in key or key in ("", ".", ".."):
        raise PorismError(f"{key or 'an empty key'} is neither a paper's key nor a Python file (.py)")
    found = listing()
    if key in found.entries:
        return found.entries[key]
    for broken in found.broken:
        if broken.key == key:
            raise BrokenPaperError(f"paper {key!r} is broken: {broken.reason}", broken.details)
    raise PorismError(f"no paper {key!r}{did_you_mean(key, found.entries)} (`porism list` shows all)")


def load(key: str) -> LoadedPaper:
    """Import one paper's file and collect its claims and figures.

    Raises
    ------
    MissingExtraError
        If an extra in ``needs`` is not installed; checked before the import.
    BrokenPaperError
        If the import raises.

    Examples
    --------
    >>> import porism
    >>> list(porism.load("label_shift").figures)[0]
    'error_curve'
    """
    from porism.claims import Claim
    from porism.figures import Figure

    entry = find(key)
    require_extras(entry.paper)
    module = _import(entry)

    declared = list(vars(module).values())
    claims = [c for c in declared if isinstance(c, Claim) and c.function.__module__ == module.__name__]
    figures = [f for f in declared if isinstance(f, Figure) and f.data.__module__ == module.__name__]
    return LoadedPaper(entry.paper, Path(entry.path), module, _by_name(entry, claims), _by_name(entry, figures))


def _by_name(entry: Entry, declared: Iterable[Declared]) -> dict[str, Declared]:
    """By the names of their functions, of which no two may be alike."""
    found: dict[str, Declared] = {}
    for item in declared:
        if found.setdefault(item.name, item) is not item:
            raise BrokenPaperError(
                f"paper {entry.paper.key!r} is broken: two of its functions are named {item.name!r}; "
                "a claim or figure goes by its function's name"
            )
    return found


def method(loaded: LoadedPaper) -> object:
    """What the paper offers its user: the attribute its ``PAPER.method`` names, or None."""
    return getattr(loaded.module, loaded.paper.method, None) if loaded.paper.method else None


def require_extras(paper: Paper) -> None:
    """Raise :class:`MissingExtraError`, which says what to install, if an extra in ``paper.needs`` is missing."""
    missing = missing_extras(paper)
    if missing:
        raise MissingExtraError(f"paper {paper.key!r} needs more packages: pip install 'porism[{','.join(missing)}]'")


def missing_extras(paper: Paper) -> list[str]:
    """The extras in ``paper.needs`` with a distribution that is not installed."""
    if not paper.needs:
        return []
    return [extra for extra in paper.needs if not all(map(_installed, distributions_of(extra)))]


def distributions_of(extra: str) -> list[str]:
    """The distributions that one of porism's own extras stands for, from its metadata."""
    import re
    from importlib.metadata import requires

    names = []
    for requirement in requires("porism") or ():
        head, _, marker = requirement.partition(";")
        if re.search(rf"extra == ['\"]{extra}['\"]", marker):
            name = re.match(r"[A-Za-z0-9._-]+", head.strip())
            nested = re.search(r"porism\[([^\]]+)\]", head)
            if nested:
                names += [d for e in nested.group(1).split(",") for d in distributions_of(e.strip())]
            elif name:
                names.append(name.group())
    return names


def _installed(distribution: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    with contextlib.suppress(PackageNotFoundError):
        return bool(version(distribution))
    return False


def _entry_of_file(path: Path) -> Entry:
    from porism.scan import read_paper

    if not os.path.exists(path):
        raise PorismError(f"no file {path}")
    if not path.is_file():
        raise PorismError(f"{path} is not a file")
    try:
        return Entry(read_paper(str(path)), "", str(path.absolute()), "file")
    except OSError as error:
        raise PorismError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # whatever stands in the file
        reason = " ".join(f"{path}: {error}".split())
        raise BrokenPaperError(reason, traceback.format_exc()) from error


def _import(entry: Entry) -> ModuleType:
    """Import a paper's file; what it prints is swallowed, what it raises is explained."""
    key = entry.paper.key
    try:
        with _stdout_to_stderr():
            _drop_stale_bytecode(os.path.dirname(entry.path))
            if entry.module:
                return importlib.import_module(entry.module)
            return _import_file(Path(entry.path))
    except (Exception, SystemExit) as error:  # a plugin may call sys.exit() as it is imported
        if os.environ.get("PORISM_STRICT") == "1":
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BrokenPaperError(f"paper {key!r} fails to import: {reason}", traceback.format_exc()) from error


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep stdout for the command's own answer, whatever prints, in Python or in C."""
    sys.stdout.flush()
    with contextlib.redirect_stdout(sys.stderr):
        kept = os.dup(1)
        os.dup2(2, 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _drop_stale_bytecode(folder: str) -> None:
    """Remove what Python compiled of files that have changed since.

    Python itself compares size and modification time in whole seconds, so an edit within a second, or one that
    keeps the time, may go unseen; the change time of a file cannot be set.
    """
    cache = os.path.dirname(importlib.util.cache_from_source(os.path.join(folder, "x.py")))
    with contextlib.suppress(OSError), os.scandir(cache) as items:
        for item in items:
            source = os.path.join(folder, item.name.partition(".")[0] + ".py")
            with contextlib.suppress(OSError):  # no such file any more, or a folder that is read-only
                if item.stat().st_mtime_ns <= os.stat(source).st_ctime_ns:
                    os.unlink(item.path)


def _import_file(path: Path) -> ModuleType:
    name = f"porism_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PorismError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # type hints of its functions are looked up here
    spec.loader.exec_module(module)
    return module
