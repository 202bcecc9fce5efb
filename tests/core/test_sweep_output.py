"""What a sweep leaves: tidy tables as CSV and Parquet, and the figure that follows from what was varied."""

# ruff: noqa: F811 - a fixture is imported, and named again as the argument of a test
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sweep import assert_same, made, swept  # noqa: F401

from porism.check import Subject
from porism.errors import MissingExtraError, PorismError
from porism.records import Record
from porism.render import draw
from porism.sweep import Sweep
from porism.sweep_figure import figure_of, render_sweep, results_of
from porism.sweep_table import Row, long_table, wide_table, write_sweep_table
from porism.tables import read_table


def recorded(values: dict[str, Any], x: float = 0.0, **fields: Any) -> Row:
    names = {"paper": "p", "claim": "", "claim_hash": "", "code_hash": "c", "root": 0, "arm": "main", "case": 0}
    return Row({"x": x}, Record(**{**names, "status": "ok", "values": values, **fields}))


def test_every_kind_of_result_has_its_columns() -> None:
    values = {
        "count": 3, "flag": True, "lost": None, "x": 1.5, "status": 2.0, "word": "so",
        "curve": [1.0, None, 4.0], "grid": [[1, 2], [3, 4]], "one": [7.0], "ragged": [[1.0], [2.0, 3.0]],
        "names": ["a", "b"], "nested": {"a": 1.0, "b": [1, 3]}, "none": [],
    }  # fmt: skip
    table = wide_table([recorded(values), recorded({}, 1.0, status="timeout", note="slow")], None)
    cells = {name: column[0].item() for name, column in table.items()}
    assert math.isnan(cells.pop("lost")) and math.isnan(cells.pop("none_mean")) and math.isnan(cells.pop("none_last"))
    assert cells == {
        "x": 0.0, "seed": 0, "status": "ok", "count": 3, "flag": 1.0, "result_x": 1.5, "result_status": 2.0,
        "word": "so", "curve_mean": 2.5, "curve_last": 4.0, "curve_finite": pytest.approx(2 / 3), "grid_mean": 2.5,
        "grid_last": 3.0, "one": 7.0, "ragged_mean": 2.0, "ragged_last": 3.0, "nested_a": 1.0, "nested_b_mean": 2.0,
        "nested_b_last": 3.0, "none_finite": 0.0, "note": "",
    }  # fmt: skip
    assert (table["status"][1], table["note"][1]) == ("timeout", "slow")
    assert np.isnan(table["count"][1])


def test_infinite_numbers_read_the_same_before_and_after_the_disk() -> None:
    fresh = wide_table([recorded({"a": math.inf, "b": [1.0, math.nan]})], None)
    from_disk = wide_table([recorded({"a": None, "b": [1.0, None]})], None)
    assert_same(fresh, from_disk)


def test_a_long_table_has_a_row_for_each_entry() -> None:
    rows = [
        recorded({"t": [0.0, 1.0, 2.0], "cloud": [[1, 2], [3, 4]], "scale": 5.0, "words": ["a", "b", "c"]}),
        recorded({}, 1.0, status="error", note="no"),
    ]
    table = long_table(rows, None)
    assert table["index"].tolist() == [0, 1, 2, -1]
    assert table["x"].tolist() == [0, 0, 0, 1]
    assert table["scale"].tolist()[:3] == [5.0] * 3
    assert table["words"].tolist() == ["a", "b", "c", ""]
    np.testing.assert_array_equal(table["t"], [0, 1, 2, np.nan])
    np.testing.assert_array_equal(table["cloud_1"], [2, 4, np.nan, np.nan])
    assert table["note"].tolist() == ["", "", "", "no"]


def test_a_csv_comes_back(made: Subject, tmp_path: Path) -> None:
    table = swept(made, {"noisy": "all", "rate": "1,6"}).table
    write_sweep_table(tmp_path / "t.csv", table)
    back = read_table(tmp_path / "t.csv")
    assert list(back) == list(table)
    assert back["noisy"].tolist() == ["false", "false", "true", "true"]
    for name in ("rate", "sum", "status", "note"):
        np.testing.assert_array_equal(back[name], table[name])


def test_pandas_reads_the_csv(made: Subject, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = swept(made, {"noisy": "all", "rate": "1,6"}).table
    write_sweep_table(tmp_path / "t.csv", table)
    frame = pandas.read_csv(tmp_path / "t.csv", keep_default_na=True)
    assert frame["noisy"].dtype == bool
    assert frame.groupby("noisy")["sum"].count().tolist() == [1, 1]


def test_parquet_keeps_every_type(made: Subject, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = swept(made, {"noisy": "all", "rate": "1,6"}, repeats=2).table
    write_sweep_table(tmp_path / "t.parquet", table)
    back = parquet.read_table(tmp_path / "t.parquet")
    assert back.column_names == list(table)
    assert [str(back.schema.field(name).type) for name in ("noisy", "seed", "sum", "word")] == [
        "bool", "int64", "double", "string",
    ]  # fmt: skip
    for name, column in table.items():
        np.testing.assert_array_equal(back[name].to_numpy().astype(column.dtype), column)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install pyarrow"):
        write_sweep_table(tmp_path / "t.parquet", {"x": np.array([1.0])})


def drawn_kinds(found: Sweep, values: tuple[str, ...] = ()) -> list[str]:
    """What each panel holds: lines, a map, or dots; and how many groups have a name."""
    axes = [ax for ax in draw(figure_of(found, values), found.table).axes if ax.get_label() != "<colorbar>"]
    kinds = []
    for ax in axes:
        mesh = any(type(c).__name__ == "QuadMesh" for c in ax.collections)
        cloud = any(type(c).__name__ == "PathCollection" for c in ax.collections)
        names = len(ax.get_legend().get_texts()) if ax.get_legend() else 0
        kinds.append("map" if mesh else "plane" if cloud else f"lines {names}" if ax.containers else "cloud")
    return kinds


@pytest.mark.parametrize(
    ("over", "options", "kinds"),
    [
        ({"rate": "1:4:5"}, {"repeats": 2}, ["lines 0"] * 3),
        ({"rate": "1:4:5", "law": "all"}, {}, ["lines 2", "lines 0", "lines 0"]),
        ({"rate": "1:4:6", "size": "1,2,3"}, {}, ["lines 3", "lines 0", "lines 0"]),
        ({"rate": "1:4:6", "size": "1:6:6"}, {}, ["map"] * 3),
        ({"rate": "1:4:6", "size": "1:6:6", "law": "all"}, {}, ["map"] * 2),
        ({"law": "all", "noisy": "all"}, {}, ["lines 2", "lines 0", "lines 0"]),
        ({"rate": "1:6:2", "law": "a"}, {}, ["lines 0"] * 3),
        ({"rate": "1:4"}, {"random": 8}, ["cloud"] * 3),
        ({"rate": "1:4", "size": ""}, {"random": 8}, ["plane"] * 3),
        ({"rate": "1:4", "size": "", "law": ""}, {"random": 8}, ["cloud"] * 3),
    ],
)
def test_the_figure_follows_from_what_was_varied(
    made: Subject, over: dict[str, str], options: dict[str, Any], kinds: list[str]
) -> None:
    assert drawn_kinds(swept(made, over, **options)) == kinds


def test_a_claim_is_drawn_by_its_margin_with_a_line_at_zero(made: Subject) -> None:
    found = swept(made, {"shift": "-2:2:5"}, claim="shifted", repeats=2)
    assert results_of(found) == ["margin"]
    (ax,) = draw(figure_of(found), found.table).axes
    assert ax.get_ylabel() == "margin"
    (bars,) = ax.containers
    np.testing.assert_allclose(bars.lines[0].get_ydata(orig=False), [-2.25, -1.25, -0.25, 0.75, 1.75])
    assert any(np.asarray(line.get_ydata()).tolist() == [0, 0] for line in ax.lines)


def test_results_to_draw_are_named_or_the_first_three(made: Subject) -> None:
    found = swept(made, {"rate": "1,2"})
    assert results_of(found) == ["sum", "curve_mean", "size"]
    assert results_of(found, ("curve", "curve_last")) == ["curve_mean", "curve_last"]
    with pytest.raises(PorismError, match="no result 'sun'; did you mean 'sum'"):
        results_of(found, ("sun",))


def test_a_drawing_is_the_same_bytes_again(made: Subject, tmp_path: Path) -> None:
    found = swept(made, {"rate": "1:4:4", "law": "all"}, repeats=2)
    first, _ = render_sweep(found, tmp_path / "a")
    second, png = render_sweep(found, tmp_path / "b")
    assert first.name == "made-sweep-rate-law.svg" and png.stat().st_size > 5_000
    assert first.read_bytes() == second.read_bytes()
