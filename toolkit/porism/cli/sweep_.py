"""``porism sweep``: a demo, a simulator or a claim's margin over a grid or points drawn at random."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porism.cli.arguments import check_jobs, complete_keys, parse_settings, split_member
from porism.cli.output import print_json, say
from porism.cli.progress import progress_bar
from porism.errors import MissingExtraError, PorismError

if TYPE_CHECKING:
    from porism.sweep import Sweep


@click.command(
    "sweep",
    help="Run a simulator, a demo or a claim over a grid of parameters, or over points drawn at random."
    " Example: porism sweep large_lr --over step_ratio=1:6:11,degree=1,2 --repeats 3",
)
@click.argument("key", metavar="KEY[.CLAIM]", shell_complete=complete_keys)
@click.option(
    "--over",
    multiple=True,
    required=True,
    metavar="NAME=SPEC",
    help="What varies: a,b,c or LOW:HIGH:COUNT or log:LOW:HIGH:COUNT or all; more after a comma or another --over.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter that stays.")
@click.option("--random", type=click.IntRange(min=1), help="Draw so many points from the ranges instead of a grid.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs at each point, under further seeds; of a claim further cases.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Root seed of the first run.")
@click.option("--engine", default="loky", show_default=True, help="serial, loky, dask or ray.")
@click.option("--scheduler", metavar="ADDRESS", help="Of a running dask cluster, or the file it wrote; implies dask.")
@click.option("--jobs", type=int, default=-1, callback=check_jobs, help="Workers; -1 for one a core.")
@click.option("--budget", metavar="TIME", help="Stop after 90s, 30m or 2h; the same command goes on later.")
@click.option("--value", "values", multiple=True, metavar="NAME", help="A result to draw; by default the first three.")
@click.option("--long", is_flag=True, help="A row for each entry of the arrays that are returned.")
@click.option("--format", "form", default="csv", show_default=True, help="Of the table: csv or parquet.")
@click.option("--no-figure", is_flag=True, help="Write the table only.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("sweeps"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(
    key: str,
    over: tuple[str, ...],
    settings: tuple[str, ...],
    random: int | None,
    repeats: int,
    seed: int,
    engine: str,
    scheduler: str | None,
    jobs: int,
    budget: str | None,
    values: tuple[str, ...],
    long: bool,
    form: str,
    no_figure: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Compute what is not there yet, write table and figure; exit with 1 where no run at all succeeded."""
    from porism.budget import seconds_of
    from porism.check import Subject
    from porism.design import split_over
    from porism.engines import ENGINES
    from porism.sweep import sweep, swept_parameters
    from porism.sweep_table import FORMATS, require

    if engine not in ENGINES:
        raise PorismError(f"--engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if form not in FORMATS:
        raise PorismError(f"--format must be csv or parquet, got {form!r}")
    require(form)  # before hours of work
    name, member = split_member(key)
    subject = Subject.of(name)
    claim = member or None
    options: dict[str, Any] = {
        "claim": claim,
        "settings": parse_settings(settings, swept_parameters(subject, claim)),
        "random": random,
        "repeats": repeats,
        "root": seed,
        "engine": "dask" if scheduler else engine,
        "jobs": jobs,
    }
    seconds = None if budget is None else seconds_of(budget)
    varied = split_over(over)
    try:
        with _connected(scheduler), progress_bar() as report:
            found = sweep(subject, varied, **options, budget=seconds, progress=report)
    except KeyboardInterrupt:
        _write(sweep(subject, varied, **options, budget=0), output, form, long)
        raise
    files = _write(found, output, form, long)
    if files and not no_figure:
        files |= _draw(found, output, values)
    _report(found, files, as_json)
    if found.rows and not any(row.record.status == "ok" for row in found.rows):
        say(f"every run failed, the first with: {found.rows[0].record.note}")
        click.get_current_context().exit(1)


@contextlib.contextmanager
def _connected(scheduler: str | None) -> Iterator[None]:
    """The dask cluster that somebody runs already, for as long as the block."""
    if scheduler is None:
        yield
        return
    try:
        import distributed
    except ImportError:
        raise MissingExtraError("--scheduler needs more packages: pip install 'porism[sweep]'") from None
    where = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        client = distributed.Client(**where)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise PorismError(f"--scheduler {scheduler} cannot be reached: {str(error).partition(chr(10))[0]}") from None
    with client:
        yield


def _write(found: Sweep, output: Path, form: str, long: bool) -> dict[str, str]:
    """The table of what is finished; no file where nothing is."""
    from porism.sweep_table import write_sweep_table

    if not found.rows:
        return {}
    path = output / f"{found.stem}.{form}"
    write_sweep_table(path, found.long if long else found.table)
    return {"table": str(path)}


def _draw(found: Sweep, output: Path, values: tuple[str, ...]) -> dict[str, str]:
    from porism.sweep_figure import render_sweep

    if not any(row.record.status == "ok" for row in found.rows):
        return {}
    try:
        svg, png = render_sweep(found, output, values)
    except PorismError as error:
        if values and not isinstance(error, MissingExtraError):
            raise
        say(f"no figure: {error}")  # the table is there
        return {}
    return {"svg": str(svg), "png": str(png)}


def _report(found: Sweep, files: dict[str, str], as_json: bool) -> None:
    statuses = dict(Counter(found.table["status"].tolist())) if found.rows else {}
    if as_json:
        counts = {"points": found.points, "repeats": found.repeats, "remaining": found.remaining, "runs": statuses}
        print_json({"sweep": found.stem, **counts, "files": files})
        return
    words = [f"{count} {status}" for status, count in statuses.items()]
    words += [f"{found.remaining} remain"] if found.remaining else []
    click.echo(f"{found.points} points, {found.points * found.repeats} runs: {', '.join(words)}")
    for path in files.values():
        click.echo(f"  {path}")
