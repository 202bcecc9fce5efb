"""``porism explore``: hunt counterexamples, find where an effect is weakest, or leave a theorem's ranges."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porism.cli.arguments import check_jobs, complete_keys, subjects_of
from porism.cli.output import interval, number, print_json, say
from porism.cli.progress import progress_bar
from porism.errors import PorismError

if TYPE_CHECKING:
    from porism.check import Subject
    from porism.explore import Finding

_BUDGET = "5m"


@click.command("explore", help="Hunt counterexamples. Example: porism explore label_shift --cases 1000")
@click.argument("key", metavar="KEY[.CLAIM]", shell_complete=complete_keys)
@click.option("--cases", type=click.IntRange(min=1), help="Cases for each claim; 500 unless told.")
@click.option("--budget", metavar="TIME", help=f"Stop after 90s, 30m or 2h; {_BUDGET} unless told.")
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
    budget: str | None,
    beyond: bool,
    rays: int | None,
    output: Path | None,
    seed: int | None,
    jobs: int,
    as_json: bool,
) -> None:
    """Search the ranges of all claims; exit with 1 when a counterexample was found."""
    if beyond and (cases is not None or budget is not None):
        raise PorismError("--cases and --budget are for searching inside the ranges; --beyond takes --rays")
    if not beyond and (rays is not None or output is not None):
        raise PorismError("--rays and --output are for --beyond")
    (subject,) = subjects_of([key])
    if beyond:
        _beyond(subject, rays or 8, output or Path("figures"), seed or 0, jobs, as_json)
    else:
        _inside(subject, cases or 500, budget or _BUDGET, seed, jobs, as_json)


def _inside(subject: Subject, cases: int, budget: str, seed: int | None, jobs: int, as_json: bool) -> None:
    from porism.budget import seconds_of
    from porism.explore import INTERRUPTED, explore
    from porism.home import home

    seconds = seconds_of(budget)
    with progress_bar(home() / "records") as report:
        findings = explore(subject, cases=cases, root=seed, jobs=jobs, budget=seconds, progress=report)
    if as_json:
        print_json([finding.to_json() for finding in findings])
    for finding in findings if not as_json else ():
        _print(subject.key, finding)
    if left := sorted(set(subject.loaded.claims) - {finding.claim for finding in findings}):
        say(f"left out, having no parameter beside the control's switch: {', '.join(left)}")
    if any(finding.note == INTERRUPTED for finding in findings):
        raise KeyboardInterrupt
    if any(finding.counterexample for finding in findings):
        click.get_current_context().exit(1)


def _print(key: str, finding: Finding) -> None:
    name = f"{key}.{finding.claim}"
    if finding.weakest is None:
        click.echo(f"{finding.claim}: {finding.sentence} (smallest margin {number(finding.smallest)})")
    else:
        weak = finding.weakest
        judged = f"effect {number(weak.effect)} {interval(weak.low, weak.high)} in {weak.replicates} fresh replicates"
        click.echo(f"{finding.claim}: {finding.sentence}{f' ({judged})' if weak.replicates else ''}")
        if weak.replicates:
            click.echo(f"  {_command(name, weak.parameters)}")
    if finding.counterexample is not None:
        example = finding.counterexample
        point = {"case": example["case"], "seed": example["root"], **example["parameters"]}
        click.echo(f"  {_command(name, point)}")


def _command(name: str, flags: Mapping[str, Any]) -> str:
    words = [f"--{flag.replace('_', '-')} {shlex.quote(str(value))}" for flag, value in flags.items()]
    return f"porism run {name} {' '.join(words)}"


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
