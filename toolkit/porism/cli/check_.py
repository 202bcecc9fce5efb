"""``porism check``: settle claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from porism.cli.arguments import check_jobs, complete_keys, subjects_of
from porism.cli.output import interval, number, print_json, print_table, say
from porism.cli.progress import progress_bar
from porism.errors import PorismError

if TYPE_CHECKING:
    from porism.verdicts import Verdict


@click.command("check", help="Run replicates until every claim is settled. Example: porism check sinkd --jobs 2")
@click.argument("keys", nargs=-1, metavar="KEY[.CLAIM]...", shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every paper installed here.")
@click.option("--budget", metavar="TIME", help="Stop after 90s, 30m or 2h, having settled as many claims as possible.")
@click.option("--jobs", type=int, default=-1, callback=check_jobs, help="Workers; -1 for one a core.")
@click.option("--engine", default="loky", help="serial, loky, dask or ray.", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Root seed of every replicate.", show_default=True)
@click.option("--commit", is_flag=True, help="Append the verdicts to the file that ships with the paper.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def command(
    keys: tuple[str, ...],
    everything: bool,
    budget: str | None,
    jobs: int,
    engine: str,
    seed: int,
    commit: bool,
    as_json: bool,
) -> None:
    """Check papers; exit with 1 when a verdict contradicts the committed one or is void."""
    from porism.budget import seconds_of
    from porism.check import check
    from porism.engines import ENGINES
    from porism.home import home
    from porism.ledger import differences, summarise_ledger
    from porism.verdicts import append_verdicts, verdict_file

    if engine not in ENGINES:
        raise PorismError(f"--engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if everything == bool(keys):
        raise PorismError("name the papers to check, or give --all")
    seconds = seconds_of(budget) if budget else None
    subjects = _installed() if everything else subjects_of(keys)
    with progress_bar(home() / "records") as report:
        verdicts = check(subjects, engine=engine, jobs=jobs, root=seed, budget=seconds, progress=report)

    found = differences(subjects, verdicts)
    unsettled = sum(len(s.loaded.claims) for s in subjects) - len(verdicts)
    if commit:
        for subject in subjects:
            own = [v for v in verdicts if v.paper == subject.loaded.paper.key]
            append_verdicts(verdict_file(subject.loaded.path), own)
    if as_json:
        changes = [difference.to_json() for difference in found]
        print_json({"verdicts": [v.to_json() for v in verdicts], "differences": changes, "unsettled": unsettled})
    else:
        _print(verdicts)
        summary = summarise_ledger(verdicts)
        counts = ", ".join(f"{n} {outcome}" for outcome, n in summary.outcomes.items()) or "no claims"
        click.echo(f"{counts}; {summary.survivors} of the {summary.tested} sampled claims here survive e-BH at 5 % FDR")
    for difference in found:
        if difference.kind != "new":
            say("\n  ".join([difference.sentence, *difference.records]))
    if new := sum(difference.kind == "new" for difference in found):
        say(f"{new} of the {len(verdicts)} claims had no committed verdict")
    if unsettled:
        say(f"{unsettled} claims are not settled yet; the same command goes on where this one stopped")
    if any(difference.alarming for difference in found) or any(v.outcome == "void" for v in verdicts):
        click.get_current_context().exit(1)


def _installed() -> list[Any]:
    """Every paper that can be loaded; the others are named and left out."""
    from porism.check import Subject
    from porism.registry import listing

    found = listing()
    for broken in found.broken:
        say(f"broken: {broken.where}: {broken.reason}")
    subjects = []
    for key in found.entries:
        try:
            subjects.append(Subject.of(key))
        except PorismError as error:
            say(f"left out: {error}")
    return subjects


def _print(verdicts: Sequence[Verdict]) -> None:
    rows = []
    for v in verdicts:
        effect = number(v.main.effect)
        if v.rung == "typically":
            effect += f" {interval(v.main.low, v.main.high)}"
        elif v.main.effect is not None:
            effect = f"min {effect}"
        control = "–" if v.control is None else v.control.outcome
        rows.append((f"{v.paper}.{v.claim}", v.rung, v.outcome, effect, number(v.main.e_value), control, v.reason))
    print_table(("claim", "rung", "outcome", "effect", "e-value", "control", "reason"), rows)
