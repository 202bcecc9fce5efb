"""Writing the report's files: pages from templates, figures from their tables, one style sheet, one script."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from joblib import cpu_count

from porism import __version__
from porism.beyond import explored_beyond
from porism.beyond_figure import figure_of, render_beyond
from porism.check import Subject
from porism.errors import PorismError
from porism.figures import Figure
from porism.home import replacing
from porism.kinds import KINDS
from porism.ledger import FDR
from porism.parameters import Parameter, bind, parameters_of
from porism.registry import method
from porism.render import Rendered, render, table_of
from porism.report import intervals, prose
from porism.report.rows import RUNGS, STATUSES, Overview, PaperPage, papers_to_show

_ASSETS = ("report.css", "report.js", "icon.svg")
_LIGHT = 500_000  # bytes; a heavier SVG (a scatter of many points) is shown as PNG, and linked


@dataclasses.dataclass(frozen=True, slots=True)
class FigureCard:
    """A figure's files by their addresses from the report's folder, or why there are none."""

    paper: PaperPage
    figure: Figure
    command: str
    svg: str = ""
    png: str = ""
    csv: str = ""
    shown: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def anchor(self) -> str:
        """Where on its paper's page the figure stands."""
        return f"figure-{self.figure.name}"

    @property
    def ratio(self) -> float:
        """Width over height; that of one panel where nothing was drawn."""
        return round(self.width / self.height, 2) if self.height else 1.35


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """How a paper's method is imported, and what it takes."""

    code: str
    summary: str
    parameters: Mapping[str, Parameter]


def write_site(folder: Path, keys: Sequence[str] | None, progress: Callable[[str], None]) -> Path:
    """Write every file of the report; see :func:`porism.report.build_report`."""
    for name in _ASSETS:  # first, so that a folder that cannot be written is found at once
        _write(folder / "assets" / name, files("porism.report").joinpath("assets", name).read_text(encoding="utf-8"))
    progress("loading papers")
    pages, broken = papers_to_show(keys)
    ledger = Overview.of([row for page in pages for row in page.rows])
    with _tables_of(pages) as tables:
        cards = [card for page in pages for card in _figures(page, tables, folder / "figures", progress)]
    progress(f"writing {len(pages) + 1} pages")
    templates = _templates(ledger)
    page_template = templates.get_template("paper.html")
    for page in pages:
        own = [card for card in cards if card.paper is page]
        how = method_of(page.subject) if page.subject else None
        _write(folder / page.href, page_template.render(root="../", page=page, figures=own, method=how))
    index = folder / "index.html"
    _write(index, templates.get_template("index.html").render(root="", pages=pages, broken=broken, figures=cards))
    return index


def method_of(subject: Subject) -> Method | None:
    """How to import what the paper's ``PAPER.method`` names, or None."""
    loaded, name = subject.loaded, subject.loaded.paper.method
    target = method(loaded)
    if target is None:
        return None
    parameters: Mapping[str, Parameter] = {}
    with contextlib.suppress(PorismError, TypeError, ValueError, NameError):  # not every signature is made of ranges
        parameters = parameters_of(target)  # type: ignore[arg-type]
    module = loaded.module.__name__
    lone_file = subject.key.endswith(".py")
    code = f'{name} = porism.load("{subject.key}").module.{name}' if lone_file else f"from {module} import {name}"
    summary = (inspect.getdoc(target) or "").partition("\n\n")[0]
    return Method(f"import porism\n\n{code}" if lone_file else code, summary, parameters)


@contextlib.contextmanager
def _tables_of(pages: Sequence[PaperPage]) -> Iterator[dict[tuple[str, str], Future[Path]]]:
    """The tables of all figures by paper and name, computed ahead of their drawing in as many processes as cores."""
    pool = ThreadPoolExecutor(cpu_count())  # each thread waits for a process of its own
    try:
        yield {
            (page.paper.key, figure.name): pool.submit(table_of, page.subject, figure, bind(figure.parameters, {}))
            for page in pages
            if page.subject
            for figure in page.subject.loaded.figures.values()
        }
    finally:
        pool.shutdown(cancel_futures=True)


def _figures(
    page: PaperPage, tables: Mapping[tuple[str, str], Future[Path]], folder: Path, progress: Callable[[str], None]
) -> Iterator[FigureCard]:
    subject = page.subject
    if subject is None:
        return
    for figure in subject.loaded.figures.values():
        progress(f"{page.paper.key}: figure {figure.name}")
        table = tables[page.paper.key, figure.name]
        command = f"porism figure {page.key}.{figure.name}"
        yield _card(page, figure, command, functools.partial(_drawn, subject, figure, table, folder))
    for found in explored_beyond(subject):
        command = f"porism explore {page.key}.{found.claim.name} --beyond"
        yield _card(page, figure_of(found), command, functools.partial(render_beyond, page.paper.key, found, folder))


def _drawn(subject: Subject, figure: Figure, table: Future[Path], folder: Path) -> Rendered:
    table.result()  # raises what went wrong, which is not tried again
    return render(subject, figure, folder)


def _card(page: PaperPage, figure: Figure, command: str, draw: Callable[[], Rendered]) -> FigureCard:
    try:
        drawn = draw()
    except PorismError as error:
        if isinstance(error.__cause__, OSError):  # the report's folder, not the figure
            raise
        return FigureCard(page, figure, command, problem=str(error))
    except Exception as error:  # a draw function may raise anything; the other figures are still drawn
        return FigureCard(page, figure, command, problem=f"{type(error).__name__}: {error}")
    svg, png, csv = (f"figures/{path.name}" for path in (drawn.svg, drawn.png, drawn.csv))
    shown = svg if drawn.svg.stat().st_size <= _LIGHT else png
    return FigureCard(page, figure, command, svg, png, csv, shown, *_size(drawn.svg))


def _size(svg: Path) -> tuple[int, int]:
    """Width and height in CSS pixels, so that a page does not jump while its figures load."""
    with svg.open(encoding="utf-8") as file:
        head = file.read(2000)
    width, height = (float(x) * 96 / 72 for x in re.findall(r'(?:width|height)="([\d.]+)pt"', head)[:2])
    return round(width), round(height)


def _templates(ledger: Overview) -> Environment:
    environment = Environment(
        loader=PackageLoader("porism.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": prose.number,
        "paragraphs": prose.paragraphs,
        "sentence": prose.sentence,
        "in_words": intervals.in_words,
    }
    environment.globals |= {
        "version": __version__,
        "ledger": ledger,
        "statuses": STATUSES,
        "rungs": RUNGS,
        "kinds": KINDS,
        "fdr": FDR,
        "axis_over": intervals.Axis.over,
        "interval": intervals.interval,
        "axis_labels": intervals.labels,
    }
    return environment


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)
