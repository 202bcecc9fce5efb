"""From the records of a sweep to tidy tables, and to CSV or Parquet."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from porism.claims import Claim
from porism.errors import MissingExtraError
from porism.home import replacing
from porism.parameters import Value
from porism.records import Record
from porism.tables import write_table
from porism.worker import UNSATISFIED

Format = Literal["csv", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "parquet")

Cells = dict[str, Any]


class Row(NamedTuple):
    """One finished run: the values of what was varied, and what was recorded there."""

    point: Mapping[str, Value]
    record: Record


def wide_table(rows: Sequence[Row], claim: Claim | None) -> dict[str, np.ndarray]:
    """A row for each run.

    Parameters
    ----------
    rows
        The runs, in the order wanted.
    claim
        The claim that was run; None for a demo or simulator.

    Returns
    -------
    dict
        Columns of shape (runs,): each varied parameter; ``seed`` (of a demo) or ``case`` (of a claim); ``status``:
        ``ok``, ``error``, ``timeout``, or ``excluded`` where the claim assumes the point away; for a claim ``effect``
        and ``margin``, which is positive where the claim is true; what was returned, by name; ``note``: the error.
        Of an array there are ``NAME_mean`` and ``NAME_last``, the mean of the last entries of its last axis, both over
        the entries that are finite numbers, and ``NAME_finite``, their share, where that is not 1 everywhere; one
        that never has more than one entry is a number. What has no value, or none that is finite, is not a number.
    """
    names = {name for row in rows for name in row.point}
    single = _single(rows)

    def summary(name: str, value: Any) -> Cells:
        return _summary(name, value[0] if name in single and isinstance(value, list) else value)

    found = [_head(row, claim) | _results(row, claim, names, summary) | {"note": row.record.note} for row in rows]
    table = _columns(found)
    whole = [name for name in table if name.endswith("_finite") and f"{name[:-7]}_mean" in table]
    return {name: column for name, column in table.items() if name not in whole or (column < 1).any()}


def long_table(rows: Sequence[Row], claim: Claim | None) -> dict[str, np.ndarray]:
    """A row for each entry along the first axis of the arrays that a run returned.

    As :func:`wide_table`, with ``index`` counting the entries from 0, or -1 for a run without any. What is no array
    is repeated, a shorter array is filled up with what is not a number, and an array of more axes has a column
    ``NAME_0``, ``NAME_1``, ... for each of its entries beyond the first axis.
    """
    names = {name for row in rows for name in row.point} | {"index"}
    found: list[Cells] = []
    for row in rows:
        results = _results(row, claim, names, _entries)
        lengths = [len(value) for value in results.values() if isinstance(value, list)]
        for index in range(max(lengths, default=1)):
            entry = {name: _entry(value, index) for name, value in results.items()}
            place = index if lengths else -1
            found.append(_head(row, claim) | {"index": place} | entry | {"note": row.record.note})
    return _columns(found)


def write_sweep_table(path: Path, table: Mapping[str, np.ndarray]) -> None:
    """Write ``.csv`` or ``.parquet``, as the path's ending says; truth values of a CSV are ``true`` and ``false``.

    Raises
    ------
    PorismError
        If the table has no rows, or the file cannot be written.
    MissingExtraError
        If Parquet is asked for and pyarrow is not installed.
    """
    if path.suffix == ".parquet":
        require("parquet")
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
        columns = {name: arrow.array(column) for name, column in table.items()}
        with replacing(path, "wb") as file:
            parquet.write_table(arrow.table(columns), file)
        return
    words = np.array(["false", "true"])
    write_table(path, {name: words[c.astype(int)] if c.dtype == bool else c for name, c in table.items()})


def require(form: Format) -> None:
    """Raise :class:`MissingExtraError` before any work is done if a format cannot be written here."""
    if form == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("Parquet needs pyarrow, which is large and optional: pip install pyarrow (or take csv)")


def _head(row: Row, claim: Claim | None) -> Cells:
    record = row.record
    repeat = {"case": record.case} if claim else {"seed": record.root}
    return {**row.point, **repeat, "status": "excluded" if record.note == UNSATISFIED else record.status}


def _results(row: Row, claim: Claim | None, taken: Iterable[str], cells: Callable[[str, Any], Cells]) -> Cells:
    """What a run returned; a name that the table needs itself gets ``result_`` before it."""
    record = row.record
    found: Cells = {}
    if claim:
        effect = math.nan if record.effect is None else record.effect
        found = {"effect": effect, "margin": effect - claim.at_least}
    reserved = {*taken, *found, "seed", "case", "status", "note"}
    for name, value in record.values.items():
        for column, cell in cells(name, value).items():
            found[f"result_{column}" if column in reserved else column] = cell
    return found


def _single(rows: Sequence[Row]) -> set[str]:
    """The results that are lists of one entry wherever they are lists: as good as numbers."""
    lengths: dict[str, set[int]] = {}
    for row in rows:
        for name, value in row.record.values.items():
            if isinstance(value, list):
                lengths.setdefault(name, set()).add(len(value) if value and not isinstance(value[0], list) else 0)
    return {name for name, found in lengths.items() if found == {1}}


def _summary(name: str, value: Any) -> Cells:
    """The cells of one result in a wide table."""
    if isinstance(value, dict):
        return {key: cell for part in value for key, cell in _summary(f"{name}_{part}", value[part]).items()}
    if not isinstance(value, list):
        return {name: math.nan if value is None else value}
    array = _array(value)
    if array is None:
        return {}
    finite = np.isfinite(array)
    share = float(finite.mean()) if array.size else 0.0
    last = array[..., -1][finite[..., -1]] if array.size else array
    return {
        f"{name}_mean": _mean(array[finite]),
        f"{name}_last": _mean(last),
        f"{name}_finite": share,
    }


def _entries(name: str, value: Any) -> Cells:
    """The cells of one result in a long table; those that are lists have an entry for each row."""
    if isinstance(value, dict):
        return {key: cell for part in value for key, cell in _entries(f"{name}_{part}", value[part]).items()}
    if not isinstance(value, list):
        return {name: math.nan if value is None else value}
    array = _array(value)
    if array is None or array.ndim == 1:
        plain = all(not isinstance(item, list | dict) for item in value)
        return {name: [math.nan if item is None else item for item in value]} if plain else {}
    flat = array.reshape(len(array), -1)
    return {f"{name}_{number}": column.tolist() for number, column in enumerate(flat.T)}


def _entry(value: Any, index: int) -> Any:
    if not isinstance(value, list):
        return value
    return value[index] if index < len(value) else None


def _array(value: list[Any]) -> np.ndarray | None:
    """The numbers of a list, flat where its rows differ in length; None where they are no numbers."""
    try:
        return np.array(value, dtype=float)
    except (ValueError, TypeError):
        pass
    try:
        parts = [np.array(part, dtype=float).ravel() for part in value]
    except (ValueError, TypeError):
        return None
    return np.concatenate(parts)


def _mean(numbers: np.ndarray) -> float:
    return float(numbers.mean()) if numbers.size else math.nan


def _columns(rows: Sequence[Cells]) -> dict[str, np.ndarray]:
    """Columns in the order in which names appear, notes last."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "note"]
    return {name: _column([row.get(name) for row in rows]) for name in [*names, "note"]}


def _column(cells: Sequence[Any]) -> np.ndarray:
    """Of text, truth values, int64 or float64: the narrowest that holds all; what is missing is "" or not a number."""
    kinds = {type(cell) for cell in cells}
    if str in kinds:
        return np.array(["" if cell is None else str(cell) for cell in cells])
    if kinds == {bool}:
        return np.array(cells, dtype=bool)
    if kinds == {int} and all(-(2**63) <= cell < 2**63 for cell in cells):
        return np.array(cells, dtype=np.int64)
    numbers = np.array([math.nan if cell is None else float(cell) for cell in cells])
    return np.where(np.isfinite(numbers), numbers, math.nan)
