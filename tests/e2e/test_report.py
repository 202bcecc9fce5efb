"""The report as its readers meet it: opened from disk in a real browser, and written twice."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse

import pytest

from porism.check import Subject, check
from porism.report import build_report
from porism.verdicts import append_verdicts, verdict_file

PAPER = '''"""A toy whose claims come out in every way.

It looks at *numbers* ``n < 50``::

    x < 1 & y > 2
"""

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval, doc

from porism import Paper, always, figure, typically

PAPER = Paper(
    key="toy", title="Toys <b>& Co", authors=("Ada Author", "Otto Other"), year=2020, ref="arXiv:2001.00001",
    kinds=("simulator",), family="toys", tags=("playing",), method="simulate",
)


def simulate(rng, *, steps: Annotated[int, Interval(ge=1, le=100), doc("how many")] = 3) -> dict[str, float]:
    """Sum of ``steps`` numbers."""
    return {"sum": float(rng.normal(size=steps).sum())}


@typically("A shift raises it", where="Sec. 1", control={"shift": "off"}, at_least=0.1, scale="one number")
def shift_helps(rng, *, shift: Literal["on", "off"] = "on"):
    return float(rng.normal() * 0.1 + (1.0 if shift == "on" else -1.0))


@typically("A shift lowers it", where="Sec. 1", control={"shift": "off"}, at_least=0.1)
def shift_hurts(rng, *, shift: Literal["on", "off"] = "on"):
    return float(rng.normal() * 0.1 - 1.0)


@typically("Nothing matters", where="Sec. 2", control={"shift": "off"})
def void(rng, *, shift: Literal["on", "off"] = "on"):
    return 1.0 + rng.random()


@always("Every number is <i>below</i> fifty & \\"small\\"", where="Sec. 3")
def below_fifty(rng, *, number: Annotated[int, Interval(ge=0, le=100)] = 0) -> float:
    return 50 - number


@always("Every number is finite", where="Sec. 3")
def finite(rng, *, number: Annotated[int, Interval(ge=0, le=100)] = 0) -> float:
    return 1.0


@figure("A parabola.", where="Fig. 1")
def parabola(rng, *, points: Annotated[int, Interval(ge=2, le=100)] = 10) -> dict[str, np.ndarray]:
    x = np.linspace(-1, 1, points)
    return {"x": x, "y": x**2 + 0.01 * rng.normal(size=points)}


@parabola.draw
def _(table, left, right):
    left.plot(table["x"], table["y"])
    right.plot(table["y"])


@figure("A drawing that fails.", where="Fig. 2")
def failing(rng) -> dict[str, np.ndarray]:
    return {"x": np.arange(3)}


@failing.draw
def _(table, axes):
    axes.plot(table["missing"])
'''
LATER = """

@always("Added later", where="Sec. 4")
def later(rng) -> float:
    return 1.0
"""
BROKEN = '''"""Broken."""
from porism import Paper
PAPER = Paper(key="broken", title="A broken paper", authors=("X",), year=2021, ref="arXiv:2101.00001",
              kinds=("layer",), family="other")
import no_such_module_at_all
'''
ANSWERS = {
    "shift_helps": "holds",
    "shift_hurts": "refuted",
    "void": "void",
    "below_fifty": "refuted",
    "finite": "stale",
    "later": "not checked",
}
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A paper with verdicts of its project, one claim reworded since, and a paper that is broken."""
    folder = tmp_path_factory.mktemp("papers")
    toy, broken = folder / "toy.py", folder / "broken.py"
    broken.write_text(BROKEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORISM_HOME", str(folder / "home"))
        patch.setenv("PORISM_CACHE", str(folder / "cache"))
        toy.write_text(PAPER)
        verdicts = check([Subject.of(str(toy))], engine="serial", jobs=1)
        append_verdicts(verdict_file(toy), verdicts)
        toy.write_text(PAPER.replace("Every number is finite", "All numbers are finite") + LATER)
        # As after a second check of the claims that are still worded as they were.
        now = Subject.of(str(toy))
        append_verdicts(
            now.verdict_file, [dataclasses.replace(verdict, code_hash=now.code_hash) for verdict in verdicts]
        )
    yield [str(toy), str(broken)]


@pytest.fixture(autouse=True)
def same_home(keys: list[str], isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here reads the verdicts made once."""
    monkeypatch.setenv("PORISM_HOME", str(Path(keys[0]).parent / "home"))
    monkeypatch.setenv("PORISM_CACHE", str(Path(keys[0]).parent / "cache"))


@pytest.fixture(scope="module")
def site(keys: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORISM_HOME", str(Path(keys[0]).parent / "home"))
        patch.setenv("PORISM_CACHE", str(Path(keys[0]).parent / "cache"))
        return build_report(tmp_path_factory.mktemp("site") / "report & co", keys).parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium; nothing is downloaded."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no browser to look at the report with: none of {', '.join(names)} is installed")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright, which drives the browser, is not installed"
    )
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield chromium
        chromium.close()


class Visit:
    """One page open in a fresh profile, with what the browser complained about and asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith("file://")] == []

    @staticmethod
    def shown(page: Any) -> list[str]:
        """The names of the claims in the table, as they stand, without those filtered away."""
        links = page.locator("#claims tbody tr:not([hidden]) .claim a")
        return [link.rpartition("#claim-")[2] for link in links.evaluate_all("links => links.map(a => a.href)")]


@pytest.fixture(scope="module")
def paths(site: Path) -> list[Path]:
    """Every page of the report."""
    return [site / "index.html", *sorted((site / "papers").glob("*.html"))]


def test_a_second_build_writes_the_same_bytes(site: Path, keys: list[str], tmp_path: Path) -> None:
    lines: list[str] = []
    again = build_report(tmp_path / "again", keys, progress=lines.append).parent
    files = sorted(path.relative_to(site) for path in site.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [path for path in files if (site / path).read_bytes() != (again / path).read_bytes()] == []
    assert "toy: figure parabola" in lines
    assert {path.name for path in files} >= {"index.html", "toy.html", "broken.html", "toy-parabola.svg"}


def test_every_page_is_silent_and_complete(browser: Any, paths: list[Path]) -> None:
    for path in paths:
        with Visit(browser, path) as page:
            page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; })")
            page.wait_for_function("[...document.images].every(image => image.complete)")
            assert (
                page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)") == []
            )
            undefined = (
                "[...document.querySelectorAll('use')].filter(use => !document.querySelector(use.getAttribute('href')))"
            )
            assert page.evaluate(f"{undefined}.length") == 0


def test_every_internal_link_leads_somewhere(browser: Any, paths: list[Path]) -> None:
    targets = {}
    for path in paths:
        with Visit(browser, path) as page:
            targets[path] = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    for path in paths:
        with Visit(browser, path) as page:
            links = page.evaluate("[...document.links].map(link => link.href)")
        assert len(links) > 5
        for link in links:
            address, anchor = urldefrag(link)
            if address.startswith("file://"):
                target = Path(unquote(urlparse(address).path))
                assert target.is_file(), f"{path.name}: {link}"
                assert not anchor or anchor in targets[target], f"{path.name}: {link}"
            else:
                assert address == "https://arxiv.org/abs/2001.00001" or address == "https://arxiv.org/abs/2101.00001"


def test_the_ledger_says_what_the_verdicts_say(browser: Any, site: Path) -> None:
    with Visit(browser, site / "index.html") as page:
        assert Visit.shown(page) == list(ANSWERS)
        assert page.locator("#claims .outcome").all_inner_texts() == list(ANSWERS.values())
        tiles = page.locator(".tiles > div").evaluate_all("all => all.map(x => x.innerText.split(/\\s*\\n\\s*/))")
        counts = {name: int(count) for name, count in tiles}
        assert counts == {name: list(ANSWERS.values()).count(name) for name in ANSWERS.values()}
        assert "1 of 3 typically verdicts survive e-BH at 5 % FDR" in " ".join(page.inner_text(".fdr").split())
        assert page.inner_text("#claims tr:nth-child(4) .claim a") == 'Every number is <i>below</i> fifty & "small"'
        drawings = page.locator("#claims .interval")
        assert drawings.count() == 3
        assert all(box["width"] > 50 for box in (drawings.nth(i).bounding_box() for i in range(3)))
        assert page.locator("#broken").inner_text().count("no_such_module_at_all") == 1
        assert page.locator(".gallery li").count() == 2
        assert "could not be drawn" in page.locator(".gallery").inner_text()


def test_filters_filter(browser: Any, site: Path) -> None:
    with Visit(browser, site / "index.html") as page:
        page.locator("select[name=outcome]").select_option("refuted")
        assert Visit.shown(page) == ["shift_hurts", "below_fifty"]
        page.locator("select[name=rung]").select_option("always")
        assert Visit.shown(page) == ["below_fifty"]
        assert page.inner_text("#count") == "1 of 6 claims"
        page.get_by_role("button", name="Clear").click()
        page.wait_for_function("document.querySelectorAll('#claims tbody tr[hidden]').length === 0")
        page.get_by_label("Search").fill("SHIFT  raises")
        assert Visit.shown(page) == ["shift_helps"]
        page.get_by_label("Search").fill("otto")  # an author
        assert len(Visit.shown(page)) == 6
        page.locator("select[name=kind]").select_option("layer")
        assert Visit.shown(page) == []
        assert page.inner_text("#count") == "0 of 6 claims"
        page.locator("select[name=kind]").select_option("simulator")
        page.locator("select[name=family]").select_option("toys")
        page.locator("select[name=paper]").select_option("toy")
        assert len(Visit.shown(page)) == 6


def test_sorting_sorts(browser: Any, site: Path) -> None:
    with Visit(browser, site / "index.html") as page:
        header = page.get_by_role("columnheader", name="Effect")
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == "ascending"
        up = Visit.shown(page)
        numbers = [
            float(cell) for cell in page.locator("#claims .effect").evaluate_all("all => all.map(c => c.dataset.sort)")
        ]
        assert numbers == sorted(numbers)
        assert len(set(numbers)) == 4
        assert set(up[-2:]) == {"finite", "later"}  # no number
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == "descending"
        down = Visit.shown(page)
        assert down[:4] == up[:4][::-1]
        assert set(down[-2:]) == {"finite", "later"}
        page.get_by_role("columnheader", name="Claim").get_by_role("button").click()
        assert Visit.shown(page) == sorted(ANSWERS)
        assert page.locator("[aria-sort]").count() == 1


def test_dark_and_light(browser: Any, site: Path) -> None:
    def lightness(page: Any) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(float, colour.removeprefix("rgb(").rstrip(")").split(","))) / 765

    with Visit(browser, site / "papers/toy.html", color_scheme="light") as page:
        assert lightness(page) > 0.9
        button = page.get_by_role("button", name="Dark")
        assert button.get_attribute("aria-pressed") == "false"
        button.click()
        assert lightness(page) < 0.2
        assert button.get_attribute("aria-pressed") == "true"
        page.reload()
        assert lightness(page) < 0.2  # remembered
        plate = page.locator("figure .plate").first.evaluate("plate => getComputedStyle(plate).backgroundColor")
        assert plate == "rgb(255, 255, 255)"
    with Visit(browser, site / "index.html", color_scheme="dark") as page:
        assert lightness(page) < 0.2
        page.get_by_role("button", name="Dark").click()
        assert lightness(page) > 0.9


def test_the_outline_never_lies_on_a_figure(browser: Any, site: Path) -> None:
    with Visit(browser, site / "papers/toy.html", viewport={"width": 1200, "height": 700}) as page:
        page.locator(".figures figure").last.scroll_into_view_if_needed()
        bottom = page.locator(".outline").evaluate("element => element.getBoundingClientRect().bottom")
        top = page.locator(".figures").evaluate("element => element.getBoundingClientRect().top")
        assert top < 700  # in view
        assert bottom <= top


def test_a_phone_never_scrolls_sideways(browser: Any, paths: list[Path]) -> None:
    for path in paths:
        with Visit(browser, path, viewport={"width": 360, "height": 720}) as page:
            page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path.name


def test_the_keyboard_reaches_everything(browser: Any, site: Path) -> None:
    with Visit(browser, site / "index.html") as page:
        reached: list[str] = []
        for _ in range(100):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                "() => { const e = document.activeElement; const s = getComputedStyle(e);"
                " return e === document.body ? null : [e.name || e.id || e.textContent.trim(), s.outlineStyle]; }"
            )
            if focused is None:  # past the end of the page
                break
            assert focused[1] != "none", f"no visible focus on {focused[0]}"
            reached.append(focused[0])
        wanted = ["Skip to the content", "theme", "text", "outcome", "rung", "paper", "family", "kind", "e-value"]
        assert [name for name in wanted if name not in reached] == []
        assert reached.index("theme") < reached.index("text") < reached.index("kind") < reached.index("e-value")


def test_pages_are_accessible(browser: Any, paths: list[Path]) -> None:
    for path in paths:
        with Visit(browser, path) as page:
            page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
            assert page.evaluate("document.documentElement.lang") == "en"
            assert page.title()
            assert page.locator("h1").count() == 1
            assert page.locator("main").count() == 1
            levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
            assert levels[0] == 1
            assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
            assert page.locator("img:not([alt])").count() == 0
            unlabelled = "[...document.querySelectorAll('input, select')].filter(field => !field.labels.length)"
            assert page.evaluate(f"{unlabelled}.length") == 0
            nameless = "[...document.querySelectorAll('a, button')].filter(e => !(e.innerText || e.ariaLabel || e.querySelector('img[alt]')))"
            assert page.evaluate(f"{nameless}.map(e => e.outerHTML)") == []
            ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
            assert len(ids) == len(set(ids))
            references = (
                "[...document.querySelectorAll('[aria-labelledby]')].map(e => e.getAttribute('aria-labelledby'))"
            )
            assert set(page.evaluate(references)) <= set(ids)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Any, paths: list[Path], scheme: str) -> None:
    """At least the ratio 4.5 of WCAG AA, against the nearest ground that is painted."""
    measure = """() => {
        const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const luminance = (colour) => channels(colour).slice(0, 3).map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (e) => {
            const colour = getComputedStyle(e).backgroundColor;
            return e.parentElement && (channels(colour)[3] ?? 1) < 1 ? ground(e.parentElement) : colour;
        };
        return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
            && e instanceof HTMLElement && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
            .map((e) => [luminance(getComputedStyle(e).color), luminance(ground(e)), e.outerHTML.slice(0, 120)])
            .map(([a, b, e]) => [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e])
            .filter(([ratio]) => ratio < 4.5);
    }"""
    for path in paths:
        with Visit(browser, path, color_scheme=scheme) as page:
            page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
            assert page.evaluate(measure) == []


def test_a_paper_page_says_what_its_reader_needs(browser: Any, site: Path) -> None:
    with Visit(browser, site / "papers/toy.html") as page:
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        text = " ".join(page.inner_text("main").split())
        for sentence in [
            "Toys <b>& Co",
            "Ada Author, Otto Other · 2020 · arXiv:2001.00001",
            "x < 1 & y > 2",
            ".module.simulate",
            "9 of 9 replicates above 0.1.",
            "shift is off instead of on. It fails: 0 of 7 replicates",
            "The control holds too, so the claim does not measure the method.",
            "A verdict at this scale: one number. It says nothing about the paper’s own scale.",
            "toy.py.below_fifty --case 0 --number 50",
            "text Every number is finite became All numbers are finite",
            "Wording changed once since the first verdict",
            "how many",
            "This figure could not be drawn: drawing failing failed: KeyError: 'missing'",
            "toy.py.parabola",
            "@article{toy2020,",
        ]:
            assert sentence in text, sentence
        copy = page.locator("#cite button.copy")
        copy.click()
        page.wait_for_function("['Copied', 'Selected'].includes(document.querySelector('#cite .copy').textContent)")
    with Visit(browser, site / "papers/broken.html") as page:
        assert "no_such_module_at_all" in page.inner_text("main")
        assert "Traceback" in page.inner_text("main")


def test_without_scripts_everything_is_there(browser: Any, site: Path) -> None:
    with Visit(browser, site / "index.html", java_script_enabled=False) as page:
        assert page.locator("#claims tbody tr").count() == 6
        assert page.locator("#claims tbody tr").last.is_visible()
        assert not page.locator("#filters").is_visible()
        assert not page.locator("#theme").is_visible()
        assert page.get_by_role("columnheader", name="Effect").inner_text() == "Effect"


def test_a_printed_page_is_light_and_complete(browser: Any, site: Path) -> None:
    with Visit(browser, site / "papers/toy.html", color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator(".copy").first.is_visible()
        assert page.locator("details table").first.is_visible()
