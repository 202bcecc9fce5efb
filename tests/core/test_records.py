"""Records survive kills, damage, newer versions and full disks; nothing is ever rewritten."""

from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porism import records
from porism.errors import PorismError
from porism.records import Record, RecordWarning, ShardWriter, read_records


def record(case: int, **fields: object) -> Record:
    base = {
        "paper": "toy",
        "claim": "c",
        "claim_hash": "h",
        "code_hash": "k",
        "root": 0,
        "arm": "main",
        "case": case,
        "status": "ok",
        "effect": 0.5,
    }
    return Record(**(base | fields))  # type: ignore[arg-type]


def write(folder: Path, *records: Record) -> Path:
    writer = ShardWriter(folder)
    for item in records:
        writer.append(item)
    writer.close()
    (shard,) = set((folder / "toy").glob("*.jsonl")) - set(write.seen)  # type: ignore[attr-defined]
    write.seen.append(shard)  # type: ignore[attr-defined]
    return shard


write.seen = []  # type: ignore[attr-defined]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    written = [record(0), record(1, status="error", effect=None, note="boom", parameters={"x": 1.5, "mode": "a"})]
    write(tmp_path, *written)
    assert read_records(tmp_path, "toy") == written


def test_the_first_record_of_an_identity_wins(tmp_path: Path) -> None:
    write(tmp_path, record(0), record(0, effect=9.0))
    assert [r.effect for r in read_records(tmp_path, "toy")] == [0.5]


@pytest.mark.parametrize(
    "change",
    [
        {"claim": "d"},
        {"claim_hash": "i"},
        {"code_hash": "l"},
        {"root": 1},
        {"arm": "control"},
        {"case": 1},
        {"parameters": {"x": 1}},
        {"status": "end"},
        {"status": "symbolic"},
    ],
    ids=str,
)
def test_a_record_of_another_identity_is_another_record(tmp_path: Path, change: dict[str, object]) -> None:
    write(tmp_path, record(0), Record(**(msgspec.structs.asdict(record(0)) | change)))
    assert len(read_records(tmp_path, "toy")) == 2


@given(st.integers(0, 10_000))
def test_a_shard_cut_anywhere_keeps_every_whole_record(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("records")
    shard = write(folder, *(record(i) for i in range(5)))
    whole = shard.read_bytes()
    cut %= len(whole) + 1
    shard.write_bytes(whole[:cut])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = read_records(folder, "toy")
    lines = whole[:cut].split(b"\n")
    complete = sum(line in whole.split(b"\n") and line != b"" for line in lines)
    assert [r.case for r in kept] == list(range(complete))
    assert bool(caught) == (complete < len([line for line in lines if line]))


def test_a_damaged_line_in_the_middle_is_skipped_with_one_warning(tmp_path: Path) -> None:
    shard = write(tmp_path, record(0), record(1), record(2))
    lines = shard.read_bytes().split(b"\n")
    lines[1] = b"\xff\x00 not json"
    shard.write_bytes(b"\n".join(lines))
    with pytest.warns(RecordWarning, match="line 2 is damaged") as caught:
        assert [r.case for r in read_records(tmp_path, "toy")] == [0, 2]
    assert len(caught) == 1


def test_damage_far_into_a_shard_is_found_at_its_line_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_BLOCK", 1000)
    shard = write(tmp_path, *(record(i) for i in range(100)))
    lines = shard.read_bytes().splitlines(keepends=True)
    lines[60] = lines[60].rstrip() + lines[60]  # two writers in one line
    lines.insert(30, b"\n")
    shard.write_bytes(b"".join(lines))
    with pytest.warns(RecordWarning, match="line 62 is damaged; skipped") as caught:
        assert [r.case for r in read_records(tmp_path, "toy")] == [i for i in range(100) if i != 60]
    assert len(caught) == 1


@pytest.mark.parametrize("extra", [{"unheard_of": 1}, {}])
def test_a_record_of_a_newer_version_is_left_alone(tmp_path: Path, extra: dict[str, int]) -> None:
    shard = write(tmp_path, record(0))
    newer = {**json.loads(shard.read_bytes()), "v": 99, **extra}
    with shard.open("a") as file:
        file.write(json.dumps(newer) + "\n")
    before = shard.read_bytes()
    with pytest.warns(RecordWarning, match=r"newer porism \(format 99\)"):
        assert len(read_records(tmp_path, "toy")) == 1
    assert shard.read_bytes() == before


def test_an_unreadable_shard_is_skipped_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write(tmp_path, record(0))
    write(tmp_path, record(1))
    real = Path.open

    def opened(self: Path, *arguments: str) -> object:
        if self == shard:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *arguments)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.warns(RecordWarning, match="cannot be read"):
        assert [r.case for r in read_records(tmp_path, "toy")] == [1]


def test_a_full_disk_leaves_no_half_record_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(tmp_path)
    writer.append(record(0))
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:20]))
    with pytest.raises(PorismError, match="no space left"):
        writer.append(record(1))
    monkeypatch.setattr(os, "write", real)
    writer.append(record(2))
    assert [r.case for r in read_records(tmp_path, "toy")] == [0, 2]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PorismError, match=r"cannot write .*file"):
        ShardWriter(tmp_path / "file").append(record(0))
