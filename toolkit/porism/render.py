"""From a figure to files: a table cached by content, drawn in one style as SVG and PNG.

The table is computed in the sandbox (one thread, derived seed) and always drawn from its CSV, so a second
run draws the same bytes without computing anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porism.check import Subject
from porism.errors import MissingExtraError, PorismError
from porism.figures import Figure
from porism.home import home, replacing
from porism.parameters import Value, bind
from porism.sandbox import Sandbox
from porism.seeds import ROOT
from porism.tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

TIME_LIMIT = 600.0
_PANEL_INCHES = (4.6, 3.4)
_DPI = 150

STYLE: Mapping[str, Any] = {
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e8",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#55555f",
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "image.cmap": "cividis",
    # Okabe and Ito's colours, told apart by colour-blind readers, dark ones first.
    "axes.prop_cycle": "cycler('color', ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#444444'])",
    "svg.hashsalt": "porism",  # the same figure gives the same bytes
    "svg.fonttype": "path",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """The files of one figure."""

    svg: Path
    png: Path
    csv: Path


def render(
    subject: Subject, figure: Figure, folder: Path, *, parameters: Mapping[str, Value] | None = None, root: int = ROOT
) -> Rendered:
    """Compute (or reuse) a figure's table, draw it, and write ``KEY-NAME.{svg,png,csv}`` into ``folder``.

    Raises
    ------
    ParameterError
        If a parameter is unknown or out of its range.
    PorismError
        If the data function fails, or the folder cannot be written.
    """
    values = bind(figure.parameters, parameters or {})
    table_file = table_of(subject, figure, values, root)
    stem = f"{subject.loaded.paper.key}-{figure.name}"
    return write(draw(figure, read_table(table_file)), table_file, folder, stem)


def write(canvas: Canvas, table_file: Path, folder: Path, stem: str) -> Rendered:
    """Write a drawing and its table as ``STEM.{svg,png,csv}`` into ``folder``."""
    import matplotlib

    files = Rendered(folder / f"{stem}.svg", folder / f"{stem}.png", folder / f"{stem}.csv")
    with matplotlib.rc_context(dict(STYLE)):
        with replacing(files.svg, "wb") as file:
            canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        with replacing(files.png, "wb") as file:
            canvas.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    if table_file != files.csv:
        with replacing(files.csv, "wb") as file:
            file.write(table_file.read_bytes())
    return files


def table_of(subject: Subject, figure: Figure, parameters: Mapping[str, Value], root: int = ROOT) -> Path:
    """The CSV of a figure's table, computed unless the same code, parameters and seed made it before."""
    key = subject.loaded.paper.key
    content = json.dumps([subject.code_hash, figure.name, dict(parameters), root], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    path = home() / "tables" / key / f"{figure.name}-{digest}.csv"
    if not path.exists():
        task = {
            "do": "table",
            "key": subject.key,
            "figure": figure.name,
            "parameters": dict(parameters),
            "root": root,
            "path": str(path),
        }
        with Sandbox() as sandbox:
            *_, last = sandbox.run(task, time_limit=TIME_LIMIT)
        if last["event"] != "done" or not path.exists():
            problem = last.get("note") or f"its data did not come within {TIME_LIMIT:g} s"
            raise PorismError(f"figure {key}.{figure.name} failed: {problem}")
    return path


def draw(figure: Figure, table: Mapping[str, Any]) -> Canvas:
    """Draw a table in porism's style; panels stand side by side, at most three in a row."""
    try:
        import matplotlib
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise MissingExtraError("figures need more packages: pip install 'porism[plots]'") from None

    panels = figure.panels
    if figure.draw_function is None or panels < 1:
        raise PorismError(f"the draw function of figure {figure.name} needs at least one axes parameter")
    columns = panels if panels <= 3 else math.ceil(panels / 2)
    rows = math.ceil(panels / columns)
    with matplotlib.rc_context(dict(STYLE)):
        canvas = Canvas(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows))
        axes = canvas.subplots(rows, columns, squeeze=False).ravel()
        for unused in axes[panels:]:
            unused.remove()
        try:
            figure.draw_function(table, *axes[:panels])
        except Exception as error:
            raise PorismError(f"drawing {figure.name} failed: {type(error).__name__}: {error}") from error
    return canvas
