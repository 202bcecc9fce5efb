"""The record store under every accident: killed writers, damaged lines, merged shards; and what is written comes back."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from porism.errors import PorismError
from porism.records import Record, RecordWarning, ShardWriter, read_records
from porism.verdicts import ArmSummary, Verdict, append_verdicts, read_verdicts

text = st.text(st.characters(exclude_categories=["Cs"]))
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.booleans() | st.integers() | finite | text

IDENTITY = ("claim", "claim_hash", "code_hash", "root", "arm", "case")

# Few identities, so that the same work is recorded many times.
records = st.builds(
    Record,
    paper=st.just("toy"),
    claim=st.sampled_from(["first", "second"]),
    claim_hash=st.just("h"),
    code_hash=st.just("k"),
    root=st.integers(0, 1),
    arm=st.sampled_from(["main", "control"]),
    case=st.integers(0, 3),
    status=st.just("ok"),
    effect=finite,
    note=text,
)


def identity(record: Record) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in IDENTITY)


def reading(folder: Path, paper: str = "toy") -> tuple[list[Record], list[str]]:
    """What is read, and what is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_records(folder, paper)
    assert all(issubclass(warning.category, RecordWarning) for warning in caught)
    return found, [str(warning.message) for warning in caught]


@st.composite
def damaged(draw: st.DrawFn, line: bytes) -> bytes:
    """A line that is no record any more, made of one that was."""
    fields = json.loads(line)
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.binary(min_size=1).filter(lambda noise: b"\n" not in noise and not noise.isspace()))
    if kind == 1:  # no UTF-8
        return line.replace(b'"toy"', b'"t\xffy"')
    if kind == 2:  # JSON of another kind
        return draw(st.sampled_from([b"[]", b"3", b"null", b'"text"', b"{}", b'{"v":1}', b"[" * 10_000, b"\0" * 500]))
    if kind == 3:
        return json.dumps(
            fields | {"v": draw(st.integers(2, 10**30))} | draw(st.sampled_from([{}, {"new": [1]}]))
        ).encode()
    if kind == 4:  # no number
        name = draw(st.sampled_from(["effect", "seconds"]))
        wrong = draw(st.sampled_from(["NaN", "Infinity", "1e999", "0x1", "--1", "1.2.3", '"1"', "[1]"]))
        return json.dumps(fields | {name: "HERE"}).replace('"HERE"', wrong).encode()
    wrong_fields: dict[str, Any] = draw(
        st.sampled_from(
            [{"case": "3"}, {"status": "fine"}, {"arm": 1}, {"note": None}, {"parameters": []}, {"extra": 1}]
        )
    )
    return json.dumps(fields | wrong_fields).encode()


class RecordStore(RuleBasedStateMachine):
    """The store of one paper beside a model of its shards: for each line the record that it holds, or None."""

    writers = Bundle("writers")

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "records"
        self.shards: dict[Path, list[Record | None]] = {}
        self.shard_of: dict[ShardWriter, Path] = {}

    def teardown(self) -> None:
        for writer in self.shard_of:
            writer.close()
        shutil.rmtree(self.root)

    @rule(target=writers)
    def a_worker_starts(self) -> ShardWriter:
        return ShardWriter(self.folder)

    @rule(writer=writers, record=records)
    def a_worker_writes(self, writer: ShardWriter, record: Record) -> None:
        writer.append(record)
        if writer not in self.shard_of:
            (self.shard_of[writer],) = set((self.folder / "toy").glob("*.jsonl")) - set(self.shards)
        self.shards.setdefault(self.shard_of[writer], []).append(record)

    @rule(writer=writers, data=st.data())
    @precondition(lambda self: any(filter(None, (line for lines in self.shards.values() for line in lines))))
    def a_worker_writes_what_is_there(self, writer: ShardWriter, data: st.DataObject) -> None:
        there = [line for lines in self.shards.values() for line in lines if line is not None]
        self.a_worker_writes(writer, data.draw(st.sampled_from(there)))

    @rule(writer=consumes(writers), data=st.data())
    def a_worker_is_killed_as_it_writes(self, writer: ShardWriter, data: st.DataObject) -> None:
        """The last line is cut anywhere; without its line end it is still whole."""
        shard = self.shard_of.pop(writer, None)
        writer.close()
        if shard is None or not shard.exists():
            return
        *before, last = shard.read_bytes().splitlines(keepends=True)
        kept = data.draw(st.integers(0, len(last) - 1))
        shard.write_bytes(b"".join(before) + last[:kept])
        if kept == 0:
            self.shards[shard].pop()
        elif kept < len(last) - 1:
            self.shards[shard][-1] = None

    @rule(data=st.data())
    @precondition(lambda self: any(self.shards.values()))
    def a_line_is_damaged(self, data: st.DataObject) -> None:
        shard = data.draw(st.sampled_from([path for path, lines in self.shards.items() if lines]))
        whole = [number for number, record in enumerate(self.shards[shard]) if record is not None]
        if not whole:
            return
        number = data.draw(st.sampled_from(whole))
        lines = shard.read_bytes().split(b"\n")
        lines[number] = data.draw(damaged(lines[number]))
        shard.write_bytes(b"\n".join(lines))
        self.shards[shard][number] = None

    @rule(found=st.lists(records, max_size=3), name=st.sampled_from(["0", "~", "host-1-abcd"]))
    def shards_of_another_machine_are_merged(self, found: list[Record], name: str) -> None:
        other = ShardWriter(self.root / "other")
        for record in found:
            other.append(record)
        other.close()
        for shard in (self.root / "other").rglob("*.jsonl"):
            self._copy(shard, f"{name}-{len(self.shards)}.jsonl", list(found))
        shutil.rmtree(self.root / "other", ignore_errors=True)

    @rule(data=st.data())
    @precondition(lambda self: bool(self.shards))
    def a_shard_is_copied_under_another_name(self, data: st.DataObject) -> None:
        shard = data.draw(st.sampled_from(list(self.shards)))
        self._copy(shard, f"copy-{len(self.shards)}.jsonl", list(self.shards[shard]))
        self._copy(shard, "shard.jsonl.part", None)  # as a transfer that was broken off leaves it

    def _copy(self, shard: Path, name: str, lines: list[Record | None] | None) -> None:
        path = self.folder / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shard, path)
        if lines is not None:
            self.shards[path] = lines

    @invariant()
    def every_whole_record_is_read_once_and_nothing_else(self) -> None:
        if not hasattr(self, "folder"):
            return
        found, warned = reading(self.folder)
        written: dict[tuple[Any, ...], list[Record]] = {}
        for lines in self.shards.values():
            for record in filter(None, lines):
                written.setdefault(identity(record), []).append(record)
        assert sorted(map(identity, found)) == sorted(written)
        for record in found:
            assert record in written[identity(record)]
        spoilt = [path for path, lines in self.shards.items() if None in lines]
        assert len(warned) == len(spoilt)
        for shard in spoilt:
            assert sum(message.startswith(f"{shard}: line ") for message in warned) == 1


RecordStore.TestCase.settings = settings(settings(), stateful_step_count=20)
TestRecordStore = RecordStore.TestCase


@given(
    st.builds(
        Record,
        paper=st.just("toy"),
        claim=text,
        claim_hash=text,
        code_hash=text,
        root=st.integers(),
        arm=st.sampled_from(["main", "control"]),
        case=st.integers(),
        status=st.sampled_from(["ok", "error", "timeout", "end", "symbolic"]),
        parameters=st.dictionaries(text, values, max_size=3),
        effect=st.none() | finite,
        values=st.dictionaries(text, finite | st.integers(), max_size=3),
        note=text,
        seconds=finite,
        environment=text,
    )
)
def test_any_record_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, record: Record) -> None:
    folder = tmp_path_factory.mktemp("records")
    writer = ShardWriter(folder)
    writer.append(record)
    writer.close()
    (shard,) = (folder / "toy").iterdir()
    assert shard.read_bytes().count(b"\n") == 1
    (back,), warned = reading(folder)
    assert not warned
    assert back == record
    assert back.identity == record.identity
    for name in ("effect", "seconds"):  # 0.0 is not -0.0
        assert repr(getattr(back, name)) == repr(getattr(record, name))
    assert {name: repr(value) for name, value in back.parameters.items()} == {
        name: repr(value) for name, value in record.parameters.items()
    }


def plain(**fields: Any) -> Record:
    base = {"paper": "toy", "claim": "c", "claim_hash": "h", "code_hash": "k", "root": 0, "arm": "main", "case": 0}
    return Record(**({**base, "status": "ok"} | fields))


LINE = json.dumps(
    {"v": 1, "paper": "toy", "claim": "c", "claim_hash": "h", "code_hash": "k", "root": 0, "arm": "main", "case": 7}
    | {"status": "ok", "effect": 0.5, "values": {}, "note": ""}
).encode()
DAMAGED = {
    "noise": b"\xff\x00 noise",
    "no UTF-8": LINE.replace(b'"toy"', b'"t\xffy"'),
    "null bytes": b"\0" * 4096,
    "half": LINE[:50],
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "an empty object": b"{}",
    "only a version": b'{"v":1}',
    "a version of another kind": LINE.replace(b'"v": 1', b'"v": "x"'),
    "a future version": LINE.replace(b'"v": 1', b'"v": 2'),
    "a version beyond 64 bits": LINE.replace(b'"v": 1', b'"v": ' + b"9" * 30),
    "a future version with more fields": LINE.replace(b'"v": 1', b'"v": 2, "new": [1]'),
    "an unknown field": LINE.replace(b'"v": 1', b'"v": 1, "new": [1]'),
    "NaN": LINE.replace(b"0.5", b"NaN"),
    "infinite": LINE.replace(b"0.5", b"1e999"),
    "a text for a number": LINE.replace(b"0.5", b'"0.5"'),
    "a status that is none": LINE.replace(b'"ok"', b'"fine"'),
    "an arm that is none": LINE.replace(b'"main"', b'"third"'),
    "a missing field": LINE.replace(b'"case": 7, ', b""),
    "brackets without end": LINE.replace(b"{}", b"[" * 100_000),
    "two records in one line": LINE + LINE,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_is_named_and_costs_no_other(tmp_path: Path, name: str) -> None:
    writer = ShardWriter(tmp_path)
    for case in (1, 2):
        writer.append(plain(case=case))
    writer.close()
    (shard,) = (tmp_path / "toy").iterdir()
    first, second = shard.read_bytes().splitlines()
    before = b"\n".join([first, DAMAGED[name], second, b""])
    shard.write_bytes(before)
    found, (warned,) = reading(tmp_path)
    assert [record.case for record in found] == [1, 2]
    assert warned.startswith(f"{shard}: line 2 ")
    assert ("newer porism" in warned) == name.startswith(("a future version", "a version beyond"))
    assert shard.read_bytes() == before, "nothing is ever rewritten"


def test_the_line_that_is_damaged_here_was_a_record(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "shard.jsonl").write_bytes(LINE + b"\n")
    (record,), warned = reading(tmp_path)
    assert (record.case, warned) == (7, [])


@pytest.mark.parametrize(
    "fields",
    [
        {"effect": math.nan},
        {"effect": math.inf},
        {"values": {"ours": math.nan}},
        {"parameters": {"x": math.inf}},
        {"note": "half a pair: \udcff"},
        {"parameters": {"x": "\ud800"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_json_cannot_say_is_refused_or_read_without_damage(tmp_path: Path, fields: dict[str, Any]) -> None:
    writer = ShardWriter(tmp_path)
    writer.append(plain(case=1))
    try:
        writer.append(plain(**fields))
        expected = 2
    except (PorismError, ValueError):
        expected = 1
    writer.append(plain(case=2))
    writer.close()
    found, warned = reading(tmp_path)
    assert not warned, "what was written must be readable"
    assert len(found) == expected + 1
    for record in found:
        assert record.effect is None or math.isfinite(record.effect)


def test_a_shard_of_another_paper_answers_for_its_own_claims_only(tmp_path: Path) -> None:
    """Somebody may copy a shard to the wrong folder."""
    writer = ShardWriter(tmp_path)
    writer.append(plain(paper="other"))
    writer.close()
    (shard,) = (tmp_path / "other").iterdir()
    (tmp_path / "toy").mkdir()
    shutil.copy(shard, tmp_path / "toy")
    assert [record.paper for record in read_records(tmp_path, "toy")] in ([], ["other"])


summaries = st.builds(
    ArmSummary,
    outcome=text,
    cases=st.integers(0, 2**40),
    effect=st.none() | finite,
    e_value=st.none() | finite,
    counterexample=st.none() | st.dictionaries(text, values, max_size=2),
    note=text,
)
verdicts = st.builds(
    Verdict,
    paper=text,
    claim=text,
    hash=text,
    code_hash=text,
    root=st.integers(),
    wording=st.dictionaries(text, values, max_size=2).map(lambda wording: wording | {"rung": "always"}),
    where=text,
    scale=text,
    outcome=text,
    reason=text,
    main=summaries,
    control=st.none() | summaries,
    seconds=finite,
    environment=text,
)


@given(st.lists(verdicts, max_size=3, unique_by=lambda verdict: verdict.claim))
def test_any_verdict_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, written: list[Verdict]) -> None:
    path = tmp_path_factory.mktemp("verdicts") / "toy.verdicts.jsonl"
    assert append_verdicts(path, written) == len(written)
    assert read_verdicts(path) == written
    assert append_verdicts(path, written) == 0
    assert path.read_bytes().count(b"\n") == len(written)


@given(verdicts, st.data())
@example(None, None)
def test_a_damaged_verdict_is_named_or_skipped_and_never_guessed_at(
    tmp_path_factory: pytest.TempPathFactory, verdict: Verdict | None, data: st.DataObject | None
) -> None:
    path = tmp_path_factory.mktemp("verdicts") / "toy.verdicts.jsonl"
    if verdict is None or data is None:
        path.write_bytes(b"\xff\xfe\n")
        whole = []
    else:
        whole = [verdict, dataclasses.replace(verdict, claim=verdict.claim + "'")]
        append_verdicts(path, whole)
        lines = path.read_bytes().split(b"\n")
        noise = data.draw(
            st.binary(min_size=1).filter(lambda noise: b"\n" not in noise and not noise.isspace())
            | st.sampled_from([b"[]", b"3", b"null", b"{}", b'{"v":1}', b'{"v":"x"}', b'{"v":99}', b"[" * 10_000])
            | st.integers(1, len(lines[0]) - 1).map(lambda kept: lines[0][:kept])
            | st.sampled_from(["main", "control", "wording", "outcome", "root"]).map(
                lambda name: json.dumps(json.loads(lines[0]) | {name: 3.5}).encode()
            )
        )
        lines.insert(1, noise)
        path.write_bytes(b"\n".join(lines))
    with pytest.raises(PorismError, match=r"toy\.verdicts\.jsonl") as caught:
        read_verdicts(path)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.warns(RecordWarning, match=r"toy\.verdicts\.jsonl"):
        assert read_verdicts(path, strict=False) == whole
