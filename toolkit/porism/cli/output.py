"""What the commands share for printing: tables, JSON, and numbers in few digits."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    pass

_WHOLE = ("rung", "outcome", "control")
_ROOMY = 110  # columns of a terminal that has room for a table's last, wordy column
OUTCOME_STYLES = {
    "holds": "green",
    "proved": "green",
    "unrefuted": "green",
    "refuted": "red",
    "void": "magenta",
    "inconclusive": "yellow",
    "undecided": "yellow",
    "not checked": "dim",
    "stale": "dim",
}


def print_json(document: Any) -> None:
    """One JSON document on stdout, and nothing else."""
    click.echo(json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    """JSON has no infinite numbers and no NaN: they become null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """A table that fits the terminal; tab-separated where stdout is a pipe, so that other tools can read it.

    Where there is little room the last column, which explains the others, is left out.
    """
    rows = list(rows)
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            click.echo("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shown = len(columns) if console.width >= _ROOMY else len(columns) - 1
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns[:shown]):
        # Names are there to be copied, and outcomes to be read at a glance.
        table.add_column(column, no_wrap=place == 0 or column in _WHOLE, overflow="fold")
    for row in rows:
        cells = (
            f"[{OUTCOME_STYLES[cell]}]{cell}[/]" if cell in OUTCOME_STYLES else _escape(cell) for cell in row[:shown]
        )
        table.add_row(*cells)
    console.print(table)


def print_columns(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Like :func:`print_table` without rich, whose import and layout of 300 rows take 0.15 s."""
    rows = [columns, *rows]
    if not sys.stdout.isatty():
        click.echo("\n".join("\t".join(row) for row in rows))
        return
    room = os.get_terminal_size(sys.stdout.fileno()).columns or 80
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines = [line if len(line) <= room else line[: room - 1] + "…" for line in lines]
    click.echo("\n".join([click.style(lines[0], bold=True), *lines[1:]]))


def say(text: str) -> None:
    """A remark to the person at the terminal, on stderr, never mixed into results."""
    click.echo(text, err=True)


def number(value: float | None, missing: str = "–") -> str:
    """Three significant digits, as people read them.

    Examples
    --------
    >>> number(0.123456), number(31.875), number(None), number(12345.0)
    ('0.123', '31.9', '–', '1.23e+04')
    """
    return missing if value is None else f"{value:.3g}"


def interval(low: float | None, high: float | None) -> str:
    """An interval whose missing ends are infinite."""
    return f"[{number(low, '-inf')}, {number(high, 'inf')}]"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
