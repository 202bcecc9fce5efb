"""``porism explore``: hunt counterexamples."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from porism.cli.arguments import check_jobs, complete_keys, subjects_of
from porism.cli.output import number, print_json, progress_bar
from porism.errors import PorismError

if TYPE_CHECKING:
    from porism.check import Subject


@click.command("explore", help="Hunt counterexamples. Example: porism explore label_shift --cases 1000")
@click.argument("key", metavar="KEY[.CLAIM]", shell_complete=complete_keys)
@click.option("--cases", type=click.IntRange(min=1), help="Cases for each claim; 500 unless told.")
@click.option("--beyond", is_flag=True, help="Leave the theorem's ranges, and draw where its claims really stop.")
@click.option(
    "--rays", type=click.IntRange(min=1), help="With --beyond: rays for each parameter and side; 8 unless told."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="With --beyond: folder of the figures; figures.")
@click.option("--seed", type=click.IntRange(min=0), help="Root seed; by default one not explored before.")
@click.option("--jobs", type=int, default=-1, callback=check_jobs, help="Workers; -1 for one a core.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(
    key: str,
    cases: int | None,
    beyond: bool,
    rays: int | None,
    output: Path | None,
    seed: int | None,
    jobs: int,
    as_json: bool,
) -> None:
    """Search the ranges of `always` and `proved` claims; exit with 1 when a counterexample was found."""
    if beyond and cases is not None:
        raise PorismError("--cases is for searching inside the ranges; --beyond takes --rays")
    if not beyond and (rays is not None or output is not None):
        raise PorismError("--rays and --output are for --beyond")
    (subject,) = subjects_of([key])
    if beyond:
        _beyond(subject, rays or 8, output or Path("figures"), seed or 0, jobs, as_json)
    else:
        _inside(subject, cases or 500, seed, jobs, as_json)


def _inside(subject: Subject, cases: int, seed: int | None, jobs: int, as_json: bool) -> None:
    from porism.explore import explore

    with progress_bar() as report:
        findings = explore(subject, cases=cases, root=seed, jobs=jobs, progress=report)
    if as_json:
        print_json([finding.to_json() for finding in findings])
    for finding in findings if not as_json else ():
        click.echo(f"{finding.claim}: {finding.sentence} (smallest margin {number(finding.smallest)})")
        if finding.counterexample is not None:
            flags = {
                "case": finding.counterexample["case"],
                "seed": finding.counterexample["root"],
                **finding.counterexample["parameters"],
            }
            words = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in flags.items()]
            click.echo(f"  porism run {subject.key}.{finding.claim} {' '.join(words)}")
    if any(finding.counterexample for finding in findings):
        click.get_current_context().exit(1)


def _beyond(subject: Subject, rays: int, output: Path, seed: int, jobs: int, as_json: bool) -> None:
    from porism.beyond import explore_beyond
    from porism.beyond_figure import render_beyond

    with progress_bar() as report:
        found = explore_beyond(subject, rays=rays, root=seed, jobs=jobs, progress=report)
    documents = []
    for one in found:
        files = render_beyond(subject.loaded.paper.key, one, output)
        documents += [boundary.to_json() | {"figure": str(files.svg)} for boundary in one.boundaries]
        for boundary in one.boundaries if not as_json else ():
            click.echo(f"{boundary.claim}: {boundary.sentence}")
        if not as_json:
            click.echo(f"  {files.svg}\n  {files.png}\n  {files.csv}")
    if as_json:
        print_json(documents)
