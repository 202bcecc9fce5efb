"""Tidy tables as CSV: what is written comes back bit for bit."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from porism.errors import PorismError
from porism.home import replacing


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """Write columns of equal length; floats in their shortest exact form.

    Raises
    ------
    PorismError
        If a column is not one-dimensional or holds what is no text, if lengths differ, or if the table is empty.
    """
    columns = {name: _column(name, values) for name, values in table.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if not columns or len(set(lengths.values())) != 1:
        raise PorismError(f"a table needs columns of one length, got {lengths or 'none'}")
    if not all(lengths.values()):
        raise PorismError("a table needs at least one row")
    rows = [list(columns), *zip(*(map(_cell, values) for values in columns.values()), strict=True)]
    # Python quotes a carriage return only since 3.13, and reads it as the end of a row.
    returns = any("\r" in cell for row in rows for cell in row)
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
        writer.writerows(rows)


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Read what :func:`write_table` wrote: columns of int64 (uint64 where they must), float64 or str.

    A column of strings that are all numbers as :func:`write_table` writes them comes back as numbers.

    Raises
    ------
    PorismError
        If the file cannot be read or is no table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file, _any_length():
            names, *rows = csv.reader(file, strict=True)
        columns = zip(*rows, strict=True) if rows else ([] for _ in names)
        table = {name: _parse(list(cells)) for name, cells in zip(names, columns, strict=True)}
    except OSError as error:
        raise PorismError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise PorismError(f"{path} is not a table: {error}") from error
    if not table or len(table) < len(names):
        raise PorismError(f"{path} is not a table: its columns must have names of their own")
    return table


@contextlib.contextmanager
def _any_length() -> Iterator[None]:
    """Let a cell be as long as it is written; csv itself stops at 128 KiB."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _column(name: str, values: Any) -> np.ndarray:
    try:
        column = np.asarray(values)
        "".join([str(name), *(column.ravel() if column.dtype.kind == "U" else ())]).encode()
    except UnicodeEncodeError:
        raise PorismError(f"column {name!r} holds text that is no Unicode") from None
    except ValueError as error:
        raise PorismError(f"column {name!r} is no array: {error}") from error
    if column.ndim != 1:
        raise PorismError(f"column {name!r} must be one-dimensional, got shape {column.shape}")
    if column.dtype.kind not in "biufU":
        raise PorismError(f"column {name!r} must hold numbers or strings, got {column.dtype}")
    return column


def _cell(value: Any) -> str:
    if isinstance(value, (np.floating, float)):
        return repr(float(value))
    return str(int(value)) if isinstance(value, (np.integer, np.bool_)) else str(value)


def _parse(cells: list[str]) -> np.ndarray:
    converters: tuple[Callable[[str], Any], ...] = (int, float)
    for convert in converters:
        try:
            values = np.array([convert(cell) for cell in cells])
        except (ValueError, OverflowError):
            continue
        if values.dtype.kind != "O" and [_cell(value) for value in values] == cells:
            return values
    return np.array(cells)
