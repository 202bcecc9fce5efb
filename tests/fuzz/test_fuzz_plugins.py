"""Whatever stands in a plugin's folder, listing goes on: a broken row or nothing, and never an import."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from porism.cli import main
from porism.errors import PorismError
from porism.paper import Paper
from porism.registry import find, listing, load
from porism.scan import Listing

FIELDS: dict[str, Any] = {
    "key": "made",
    "title": "T",
    "authors": ("A",),
    "year": 2020,
    "ref": "arXiv:2001.00001",
    "kinds": ("loss",),
    "family": "f",
}
# What importing would do, and listing must not.
IMPORTED = "\nraise SystemExit('this file was imported')\n"


def paper(**fields: Any) -> str:
    """The source of a paper's file; a field of None is left out, a `raw` one is source."""
    given = {name: value for name, value in (FIELDS | fields).items() if value is not None}
    return f"PAPER = Paper({', '.join(f'{name}={value!r}' for name, value in given.items())}){IMPORTED}"


class Site:
    """A folder on ``sys.path`` with one package of papers, installed as pip would leave it."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "fuzzed"
        self.info = folder / "fuzzed-1.0.dist-info"
        for made in (self.package, self.info):
            made.mkdir(parents=True)
        (self.package / "__init__.py").write_text(IMPORTED)
        (self.package / "good.py").write_text(paper(key="good"))
        (self.info / "METADATA").write_text("Metadata-Version: 2.1\nName: fuzzed\nVersion: 1.0\n")
        (self.info / "entry_points.txt").write_text("[porism.collections]\nfuzzed = fuzzed\n")

    @property
    def rows(self) -> Listing:
        """What is listed of this package; the rest of the environment must be as it was."""
        found = listing()
        assert "sinkd" in found.entries
        entries = {key: entry for key, entry in found.entries.items() if entry.distribution == "fuzzed"}
        broken = [b for b in found.broken if str(self.package.parent) in b.where or "fuzzed" in b.where]
        for item in broken:
            assert len(item.reason.splitlines()) == 1, item.reason
        return Listing(entries, broken)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for many examples, of which each writes ``odd.py`` anew; its own index is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORISM_CACHE", str(tmp_path_factory.mktemp("cache")))
        with site(tmp_path_factory) as made:
            yield made


@contextlib.contextmanager
def site(factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield Site(folder)
        assert "fuzzed" not in sys.modules


literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.complex_numbers()
    | st.text(alphabet=st.characters())
    | st.binary()
    | st.just(...),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=2)
    ),
    max_leaves=5,
)
names = st.sampled_from([*FIELDS, "needs", "tags", "method", "titel", "for", "None"])


@given(names, literals)
@example("title", "\ud800")
@example("title", "two\nlines")
@example("authors", ("\x1b[2J",))
@example("key", "k" * 5000)
@example("year", True)
def test_a_field_of_any_value_gives_a_paper_or_a_broken_row(shared: Site, name: str, value: Any) -> None:
    (shared.package / "odd.py").write_text(paper(**{name: value}), encoding="utf-8", errors="backslashreplace")
    rows = shared.rows
    assert "good" in rows.entries
    assert len(rows.entries) + len(rows.broken) == 2
    for entry in rows.entries.values():
        shown = [entry.paper.title, *entry.paper.authors, entry.paper.family, *entry.paper.tags]
        assert all(len(text.splitlines()) < 2 and text.encode() is not None for text in shown)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_file_of_any_bytes_leaves_the_others_alone(shared: Site, noise: bytes, place: int) -> None:
    whole = paper().encode()
    place %= len(whole)
    (shared.package / "odd.py").write_bytes(whole[:place] + noise + whole[place:])
    rows = shared.rows
    assert "good" in rows.entries
    assert len(rows.entries) + len(rows.broken) <= 2


SOURCES: dict[str, tuple[bytes, str]] = {
    "byte order mark": (b"\xef\xbb\xbf" + paper().encode(), ""),
    "latin 1 declared": (b"# coding: latin-1\n" + paper(title="Caf\xe9").encode("latin-1"), ""),
    "latin 1 undeclared": (paper(title="Caf\xe9").encode("latin-1"), "SyntaxError"),
    "unknown encoding": (b"# coding: klingon\n" + paper().encode(), "SyntaxError"),
    "null bytes": (paper().encode() + b"\0", "null bytes"),
    "carriage returns": (paper().replace("\n", "\r").encode(), ""),
    "annotated": (paper().replace("PAPER =", "PAPER: Paper =").encode(), ""),
    "a method of a module": (paper().replace("Paper(", "porism.Paper(").encode(), ""),
    "deeply nested": (b"PAPER = " + b"(" * 10_000 + b")" * 10_000, "SyntaxError"),
    "many signs": (b"PAPER = Paper(year=" + b"-" * 200_000 + b"1)", "Error"),
    "a number too long": (b"PAPER = Paper(year=" + b"9" * 10_000 + b")", "Error"),
    "huge": (paper().encode() + b"\n#" + b"x" * 2**21, "at most"),
    "a call": (b"PAPER = Paper(key=str(1))", "literals only"),
    "an operation": (b"PAPER = Paper(key='a' * 10**9)", "literals only"),
    "an f-string": (b"PAPER = Paper(key=f'{1}')", "literals only"),
    "unhashable": (b"PAPER = Paper(tags={[]})", "literals only"),
    "starred": (b"PAPER = Paper(**{'key': 'a'})", "keyword arguments only"),
    "positional": (b"PAPER = Paper('a')", "keyword arguments only"),
    "no call": (b"PAPER = 3", "must be a call"),
    "another name": (b"PAPER = Book(key='a')", "must be a call"),
    "a field twice": (paper().replace("title=", "key='two', title=").encode(), "twice"),
    "assigned twice": ((paper() + paper(key="two")).encode(), "more than once"),
    "assigned in a chain": (paper().replace("PAPER =", "PAPER = OTHER =").encode(), ""),
    "never assigned": (b"PAPER: Paper\nprint(PAPER)\n", "nothing"),
    "in a function": (b"def f():\n    " + paper().encode().partition(b"\n")[0], "nothing"),
    "empty": (b"", "nothing"),
    "an invalid escape": (b"'PAPER \\d'\n" + paper().encode(), ""),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.filterwarnings("error")
def test_sources_that_people_write(shared: Site, name: str) -> None:
    source, expected = SOURCES[name]
    path = shared.package / "odd.py"
    path.write_bytes(source)
    rows = shared.rows
    assert "good" in rows.entries
    assert ("made" in rows.entries) == (expected == "")
    assert bool(rows.broken) == (expected not in ("", "nothing"))
    if rows.broken:
        assert expected in rows.broken[0].reason
    with contextlib.suppress(PorismError):
        assert find(str(path)).paper.key == "made"


def test_what_is_no_file_is_a_broken_row_or_left_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    with site(tmp_path_factory) as made:
        folder = made.package
        (folder / "dangling.py").symlink_to(folder / "nowhere.py")
        (folder / "itself.py").symlink_to(folder / "itself.py")
        os.mkfifo(folder / "pipe.py")
        (folder / "folder.py").mkdir()
        (folder / "folder.py" / "inner.py").write_text(paper(key="inner"))
        (folder / "deep").mkdir()
        (folder / "deep" / "up").symlink_to(folder)
        (folder / "deep" / "paper.py").write_text(paper(key="deep"))
        (folder / "self").symlink_to("self")
        (folder / "dotted.name.py").write_text(paper(key="dotted"))
        rows = made.rows
        assert set(rows.entries) == {"good", "deep"}
        reasons = {Path(b.where).name: b.reason for b in rows.broken}
        assert set(reasons) == {"dangling.py", "itself.py", "pipe.py"}
        assert "no regular file" in reasons["pipe.py"]
        assert all("cannot be read" in reasons[name] for name in ("dangling.py", "itself.py"))
        with pytest.raises(PorismError, match="is not a file"):
            find(str(folder / "folder.py"))


def test_names_that_are_not_utf8_can_be_listed(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    with site(tmp_path_factory) as made:
        with open(os.fsencode(made.package) + b"/odd\xff.py", "w") as file:
            file.write("PAPER = (")
        for arguments in (["list"], ["list", "--json"]):
            with pytest.raises(SystemExit) as stop:
                main(arguments)
            assert not stop.value.code
        assert json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_that_may_not_be_read_are_broken_rows(tmp_path_factory: pytest.TempPathFactory) -> None:
    with site(tmp_path_factory) as made:
        (made.package / "locked.py").write_text(paper())
        (made.package / "locked.py").chmod(0)
        (made.package / "deep").mkdir(mode=0)
        rows = made.rows
        assert set(rows.entries) == {"good"}
        assert {Path(b.where).name for b in rows.broken} == {"locked.py", "deep"}
        (made.package / "locked.py").chmod(0o644)
        assert set(made.rows.entries) == {"good", "made"}, "who mends the permission is believed"


def test_a_file_that_cannot_be_opened_is_a_broken_row_until_it_can(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for root, who may read everything."""
    real = open

    def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith("locked.py"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    with site(tmp_path_factory) as made:
        path = made.package / "locked.py"
        path.write_text(paper())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("builtins.open", refuse)
            assert "Permission denied" in made.rows.broken[0].reason
        path.chmod(0o600)
        assert set(made.rows.entries) == {"good", "made"}


entry_points = st.sampled_from(
    [
        "[porism.collections]\nfuzzed = nowhere\n",
        "[porism.collections]\nfuzzed = fuzzed.nowhere.at_all\n",
        "[porism.collections]\nfuzzed = ..fuzzed\n",
        "[porism.collections]\nfuzzed = /etc\n",
        "[porism.collections]\nfuzzed = fuzzed./etc\n",
        "[porism.collections]\nfuzzed = fuzzed.good\n",
        "[porism.collections]\nfuzzed = sys\n",
        "[porism.papers]\nfuzzed = fuzzed.nowhere:PAPER\n",
        "[porism.papers]\nfuzzed = fuzzed:PAPER\n",
        "[porism.papers]\nfuzzed = :PAPER\n",
        "[porism.papers]\nfuzzed =\n",
        "[porism.papers]\nfuzzed\n",
        "fuzzed = fuzzed\n",
        "[porism.collections\nfuzzed = fuzzed\n",
        "\0[porism.collections]\n\0 = \0\n",
    ]
)


@given(entry_points.map(str.encode) | st.binary(max_size=40).map(b"[porism.collections]\nfuzzed = ".__add__))
@example(b"[porism.collections]\nfuzzed = \xff\n")
def test_entry_points_that_lead_nowhere_never_stop_the_listing(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    with site(tmp_path_factory) as made:
        (made.info / "entry_points.txt").write_bytes(text)
        assert set(made.rows.entries) <= {"good"}


@pytest.mark.parametrize("text", [b"", b"Name: ", b"\xff\xfe", b"Name: fuzzed\nName: other\n"], ids=str)
def test_metadata_that_cannot_be_read_never_stops_the_listing(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    with site(tmp_path_factory) as made:
        (made.info / "METADATA").write_bytes(text)
        listing()


def test_metadata_that_raises_is_a_broken_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    with site(tmp_path_factory) as made:
        (made.info / "entry_points.txt").write_text("[porism.papers]\nno equals sign\n")
        assert "its metadata cannot be read" in made.rows.broken[0].reason


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of an index that is whole."""
    cache = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORISM_CACHE", str(cache))
        listing()
        (path,) = cache.glob("index-*.json")
        yield path


@pytest.fixture(scope="module")
def whole(index: Path) -> bytes:
    return index.read_bytes()


@pytest.fixture(scope="module")
def expected(index: Path) -> Listing:
    return listing()


@given(st.integers(0), st.binary(min_size=1, max_size=9))
def test_a_damaged_index_is_made_anew(index: Path, whole: bytes, expected: Listing, at: int, noise: bytes) -> None:
    """Also where it is still JSON, and only a title or a size in it has changed."""
    at %= len(whole)
    index.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORISM_CACHE", str(index.parent))
        assert listing() == expected
    assert index.read_bytes() == whole


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"sources": 3}', '{"files": []}', "[" * 100_000], ids=lambda t: t[:20]
)
def test_an_index_of_another_form_is_made_anew(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORISM_CACHE", str(tmp_path))
    before = listing()
    (index,) = tmp_path.glob("index-*.json")
    index.write_text(text)
    assert listing() == before


@pytest.mark.parametrize("kind", ["claim", "figure"])
def test_two_of_one_name_are_refused_as_one_would_be_lost(tmp_path: Path, kind: str) -> None:
    made = {"claim": "always('A', where='B')(inner)", "figure": "figure('A', where='B')(inner)"}[kind]
    source = (
        "from porism import Paper, always, figure\n"
        + paper().replace(IMPORTED, "\n")
        + f"def make(n):\n    def inner(rng):\n        return n\n    return {made}\n"
        + "first = make(1)\nagain = first\n"
    )
    path = tmp_path / "made.py"
    path.write_text(source)
    assert len(load(str(path)).claims) + len(load(str(path)).figures) == 1
    path.write_text(source + "second = make(2)\n")
    with pytest.raises(PorismError, match="two of its functions are named 'inner'"):
        load(str(path))


def test_the_fuzzed_paper_is_a_paper() -> None:
    assert Paper(**FIELDS).key == "made"
