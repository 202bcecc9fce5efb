"""Tables of every shape come back bit for bit, and what is no table is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from porism.errors import PorismError
from porism.tables import read_table, write_table

text = st.text(st.characters(exclude_categories=["Cs"]))

columns = st.integers(1, 5).flatmap(
    lambda rows: st.dictionaries(
        text,
        st.one_of(
            st.lists(st.floats(), min_size=rows, max_size=rows).map(lambda column: np.array(column, dtype=float)),
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=rows, max_size=rows).map(
                lambda column: np.array(column, dtype=np.int64)
            ),
            st.lists(text | st.sampled_from(TRAPS), min_size=rows, max_size=rows).map(np.array),
        ),
        min_size=1,
        max_size=4,
    )
)
# Strings that look like numbers, or that a reader of CSV may take apart.
TRAPS = [
    "1",
    "01",
    "1.0",
    "1e5",
    "nan",
    "-inf",
    " 1",
    "1_0",
    "9" * 30,
    "",
    '"',
    '""',
    "a,b",
    "a\nb",
    "a\rb",
    "\r\n",
    "é",
    "'",
    "#",
]


@given(columns)
@example({"": np.array([""])})
@example({"a\rb": np.array(["\r", "x"])})
@example({"big": np.array([2**64 - 1], dtype=np.uint64)})
@example({"digits": np.array(["9" * 30])})
@example({"long": np.array(["x" * 200_000])})
def test_any_table_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, np.ndarray]
) -> None:
    """But for strings that are all numbers as a table writes them: they come back as those numbers."""
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    write_table(path, table)
    back = read_table(path)
    assert list(back) == list(table)
    for name, column in table.items():
        if column.dtype.kind == "U" and back[name].dtype.kind != "U":
            assert [repr(value.item()) for value in back[name]] == list(column)
            continue
        assert back[name].dtype.kind == column.dtype.kind
        np.testing.assert_array_equal(back[name], column)
        if column.dtype.kind == "f":
            numbers = ~np.isnan(column)
            np.testing.assert_array_equal(np.signbit(back[name])[numbers], np.signbit(column)[numbers])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "columns of one length"),
        ({"x": []}, "at least one row"),
        ({"x": [1, 2], "y": [1]}, "columns of one length"),
        ({"x": [[1]]}, "one-dimensional"),
        ({"x": 3}, "one-dimensional"),
        ({"x": [1, None]}, "numbers or strings"),
        ({"x": [1j]}, "numbers or strings"),
        ({"x": ["\ud800"]}, "column 'x' holds text that is no Unicode"),
        ({"\ud800": [1]}, "no Unicode"),
    ],
    ids=str,
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    with pytest.raises(PorismError, match=message):
        write_table(tmp_path / "table.csv", table)
    assert not list(tmp_path.iterdir()), "nothing half-written"


@given(st.binary(max_size=200))
@example(b"")
@example(b"a,b\n1\n")
@example(b'a\n"1')
@example(b"a,a\n1,2\n")
def test_a_damaged_table_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    path.write_bytes(noise)
    try:
        table = read_table(path)
    except PorismError as error:
        assert str(path) in str(error)
        assert len(str(error).splitlines()) == 1
    else:
        assert len({len(column) for column in table.values()}) == 1
