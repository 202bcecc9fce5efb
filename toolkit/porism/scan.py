"""Listing papers without importing them: literals read by ``ast``, remembered until a file changes.

This module is on the path of ``porism list``, so it imports nothing that is not needed when everything is
already in the index: no pathlib, no ast, no importlib.metadata.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from porism import __version__
from porism.home import cache_folder
from porism.paper import Paper

GROUPS = ("porism.collections", "porism.papers")

# Raise it when what the index holds changes its form.
_INDEX_FORMAT = 2
_LARGEST_FILE = 2**20  # bytes; parsing takes a hundred times as much memory


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A paper that can be loaded: ``module`` is its dotted name (empty for a lone file)."""

    paper: Paper
    module: str
    path: str
    distribution: str


@dataclasses.dataclass(frozen=True, slots=True)
class Broken:
    """Something installed that cannot be listed, and why."""

    where: str
    reason: str
    key: str = ""
    details: str = ""


@dataclasses.dataclass(slots=True)
class Listing:
    """The papers installed here by key, and what is broken."""

    entries: dict[str, Entry] = dataclasses.field(default_factory=dict)
    broken: list[Broken] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """One entry point, resolved to a folder to walk or a file to read."""

    group: str
    name: str
    value: str
    distribution: str
    path: str
    problem: str = ""

    @property
    def where(self) -> str:
        return f"{self.distribution} ({self.group}: {self.name})" if self.group else self.distribution


def scan() -> Listing:
    """Read every entry point's papers; a file is parsed again only when it has changed."""
    index_path = os.path.join(cache_folder(), f"index-{_environment_key():08x}.json")
    index = _read_index(index_path)
    before = json.dumps(index)
    stamps = _path_stamps()
    if index.get("stamps") != stamps:
        index["stamps"] = stamps
        index["sources"] = [dataclasses.astuple(source) for source in _discover()]
    sources = [_Source(*fields) for fields in index["sources"]]
    known: dict[str, Any] = index.get("files", {})
    files: dict[str, Any] = {}
    index["files"] = files
    found: list[Entry | Broken] = []
    for source in filter(_wanted, sources):
        found += _entries(source, known, files)
    if json.dumps(index) != before:
        _write_index(index_path, index)
    return _without_duplicates(found)


def read_paper(path: str) -> Paper:
    """Read ``PAPER = Paper(...)`` from a file without importing it.

    Raises
    ------
    ValueError
        If there is none, if it has anything but literals, or if a field breaks its rule.
    SyntaxError
        If the file is not Python.
    """
    with open(path, "rb") as file:
        fields = _literal_fields(file.read(), path)
    if fields is None:
        raise ValueError(f"{path} declares no `PAPER = Paper(...)` at its top level")
    return Paper(**fields)


def locate(module: str) -> str | None:
    """File of a module, or folder of a package, without importing it or its parents."""
    from importlib.util import find_spec

    top, *rest = module.split(".")
    if not all(part.isidentifier() for part in (top, *rest)):
        return None
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        return spec.origin if not rest else None
    for folder in spec.submodule_search_locations:
        path = os.path.join(folder, *rest)
        if os.path.isdir(path):
            return path
        if os.path.isfile(path + ".py"):
            return path + ".py"
    return None


def _entries(source: _Source, known: dict[str, Any], files: dict[str, Any]) -> Iterator[Entry | Broken]:
    if not source.path:
        yield Broken(source.where, source.problem or f"package {source.value!r} cannot be found")
        return
    walked: Iterator[tuple[str, str] | Broken] = iter([(source.path, source.value.partition(":")[0])])
    if source.group == "porism.collections":
        walked = _walk(source.path, source.value)
    for item in walked:
        if isinstance(item, Broken):
            yield item
            continue
        path, module = item
        try:
            row = files[path] = _row(path, known)
        except OSError as error:
            yield Broken(path, f"cannot be read ({error.strerror})")
            continue
        fields, problem = row[-2:]
        if problem:
            yield Broken(path, *problem)
        elif fields is not None:
            values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
            yield Entry(Paper(**values), module, path, source.distribution)
        elif source.group == "porism.papers":
            yield Broken(source.where, f"{path} declares no `PAPER = Paper(...)` at its top level")


def _row(path: str, known: dict[str, Any]) -> list[Any]:
    """``[*stamp, fields or None, problem or None]``, from the index where it is still true."""
    status = os.stat(path)
    # The change time cannot be set back, as the modification time is by tools that restore or copy files.
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    row: list[Any] | None = known.get(path)
    if row is not None and row[:3] == stamp:
        return row
    fields, problem = None, None
    try:
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("this is no regular file")
        with open(path, "rb") as file:
            source = file.read()
        if b"PAPER" in source:
            fields = _literal_fields(source, path)
            if fields is not None:
                Paper(**fields)
    except Exception as error:
        import traceback

        key = str((fields or {}).get("key", ""))
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        fields, problem = None, [reason, key, traceback.format_exc()]
    return [*stamp, fields, problem]


def _literal_fields(source: bytes, path: str) -> dict[str, Any] | None:
    import ast
    import warnings

    if len(source) > _LARGEST_FILE:
        raise ValueError(f"a paper's file has at most {_LARGEST_FILE} bytes, this one has {len(source)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes and the like; whoever imports the file sees them
        body = ast.parse(source, path).body
    values = [value for value in map(_value_of_paper, body) if value is not None]
    if not values:
        return None
    calls = [value for value in values if _calls_paper(value)]
    if len(calls) > 1:
        raise ValueError("PAPER = Paper(...) stands there more than once")
    if not calls:
        raise ValueError("PAPER must be a call Paper(key=..., ...) with keyword arguments only")
    call = calls[0]
    try:
        fields = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, TypeError):
        raise ValueError("PAPER must be made of literals only, so that listing need not import it") from None
    if len(fields) < len(call.keywords):
        raise ValueError("PAPER names a field twice")
    return fields


def _value_of_paper(statement: Any) -> Any:
    """What ``PAPER = ...`` or ``PAPER: ... = ...`` assigns, or None."""
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return getattr(statement, "value", None) if any(getattr(t, "id", "") == "PAPER" for t in targets) else None


def _calls_paper(value: Any) -> bool:
    """Whether an expression is ``Paper(...)`` with keyword arguments that are named."""
    function = getattr(value, "func", None)
    name = getattr(function, "attr", getattr(function, "id", ""))
    return name == "Paper" and not value.args and all(keyword.arg for keyword in value.keywords)


def _without_duplicates(found: list[Entry | Broken]) -> Listing:
    listing = Listing(broken=[item for item in found if isinstance(item, Broken)])
    by_key: dict[str, list[Entry]] = {}
    for item in found:
        if isinstance(item, Entry):
            by_key.setdefault(item.paper.key, []).append(item)
    for key, claimants in sorted(by_key.items()):
        if len({entry.path for entry in claimants}) == 1:
            listing.entries[key] = claimants[0]
            continue
        for entry in claimants:
            others = ", ".join(other.path for other in claimants if other is not entry)
            listing.broken.append(Broken(entry.path, f"key {key!r} is also claimed by {others}; neither is used", key))
    return listing


def _walk(folder: str, package: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[str, str] | Broken]:
    """Public modules under a package as (path, dotted name), in name order, and what cannot be read."""
    try:
        status = os.stat(folder)
        with os.scandir(folder) as items:
            entries = sorted(items, key=lambda item: item.name)
    except OSError as error:
        yield Broken(folder, f"cannot be read ({error.strerror})")
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return  # a link that leads back up
    for item in entries:
        if item.name.startswith(("_", ".")):
            continue
        name, _, ending = item.name.partition(".")
        if _is_folder(item):
            if not ending:  # no module's name has a dot
                yield from _walk(item.path, f"{package}.{name}", (*above, here))
        elif ending == "py":
            yield item.path, f"{package}.{name}"


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _discover() -> Iterator[_Source]:
    from importlib.metadata import distributions

    seen = set()
    for distribution in distributions():
        name = ""
        try:
            name = distribution.metadata["Name"] or ""
            if name in seen:
                continue  # shadowed by an earlier entry of sys.path
            seen.add(name)
            points = [point for point in distribution.entry_points if point.group in GROUPS]
        except Exception as error:  # whoever wrote the metadata of some package here, listing goes on
            where = name or str(getattr(distribution, "_path", "a distribution"))
            yield _Source("", "", "", where, "", f"its metadata cannot be read ({type(error).__name__}: {error})")
            continue
        for point in points:
            path = locate(point.value.partition(":")[0]) or ""
            if point.group == "porism.papers" and os.path.isdir(path):
                path = os.path.join(path, "__init__.py")
            yield _Source(point.group, point.name, point.value, name, path)


def _wanted(source: _Source) -> bool:
    """``PORISM_PLUGINS=a,b`` keeps these distributions besides porism's own; empty keeps none."""
    chosen = os.environ.get("PORISM_PLUGINS")
    if chosen is None or source.distribution == "porism":
        return True
    return source.distribution in [name.strip() for name in chosen.split(",")]


def _environment_key() -> int:
    return zlib.crc32(os.fsencode("\0".join([__version__, str(_INDEX_FORMAT), sys.version, sys.prefix, *sys.path])))


def _path_stamps() -> list[list[Any]]:
    """Folders of sys.path with their mtimes: installing or removing a distribution changes one."""
    return [[path, os.stat(path).st_mtime_ns] for path in map(os.path.abspath, sys.path) if os.path.isdir(path)]


def _read_index(path: str) -> dict[str, Any]:
    """The index, or an empty one where a single bit of it is damaged."""
    try:
        with open(path, "rb") as file:
            checksum, _, text = file.read().partition(b"\n")
        index: dict[str, Any] = json.loads(text) if checksum == _checksum(text) else {}
        return index
    except (OSError, ValueError):
        return {}


def _write_index(path: str, index: dict[str, Any]) -> None:
    import contextlib

    from porism.errors import PorismError
    from porism.home import replacing

    text = json.dumps(index).encode()
    with contextlib.suppress(PorismError), replacing(path, "wb") as file:  # without a cache it is only slower
        file.write(_checksum(text) + b"\n" + text)


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
