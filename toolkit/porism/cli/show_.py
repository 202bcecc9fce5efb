"""``porism show``: one paper, whole."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import click

from porism.cli.arguments import complete_keys, subjects_of
from porism.cli.output import interval, number, print_json, print_table


@click.command("show", help="What a paper is, how to call it, its claims and verdicts. Example: porism show sinkd")
@click.argument("key", metavar="KEY[.CLAIM]", shell_complete=complete_keys)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(key: str, as_json: bool) -> None:
    """Show one paper."""
    from porism.ledger import current_verdicts
    from porism.registry import method

    (subject,) = subjects_of([key])
    loaded, paper = subject.loaded, subject.loaded.paper
    rows = current_verdicts(subject)
    if as_json:
        print_json(
            {"paper": dataclasses.asdict(paper), "module": loaded.module.__name__, "claims": [_claim(r) for r in rows]}
        )
        return
    click.echo(f"{paper.title}\n{', '.join(paper.authors)} ({paper.year}) {paper.url}")
    click.echo(f"kind {', '.join(paper.kinds)} · family {paper.family} · {loaded.path}\n")
    click.echo(inspect.getdoc(loaded.module) or "")
    if paper.method:
        target = method(loaded)
        lone_file = subject.key.endswith(".py")
        call = (
            f'porism.load("{subject.key}").module'
            if lone_file
            else f"from {loaded.module.__name__} import {paper.method}"
        )
        click.echo(f"\n{call}\n{paper.method}{_signature(target)}")
    click.echo("")
    print_table(
        ("claim", "rung", "outcome", "effect", "control", "sentence"),
        [
            (
                row.claim.name,
                row.claim.rung,
                row.state,
                _effect(row.verdict),
                row.verdict.control.outcome if row.verdict and row.verdict.control else "–",
                row.claim.text,
            )
            for row in rows
        ],
        title="Claims",
    )
    for row in rows:
        for other in row.elsewhere:
            click.echo(f"{row.claim.name} under root seed {other.root}: {other.outcome}, {other.reason}")
    for figure in loaded.figures.values():
        click.echo(f"figure {figure.name}: {figure.caption}")
    click.echo(f"\n{paper.bibtex}")


def _signature(target: object) -> str:
    try:
        return str(inspect.signature(target)) if callable(target) else ""
    except (TypeError, ValueError):
        return "(...)"


def _effect(verdict: Any) -> str:
    if verdict is None:
        return "–"
    if verdict.rung == "typically":
        return f"{number(verdict.main.effect)} {interval(verdict.main.low, verdict.main.high)}"
    return f"{verdict.main.cases} cases"


def _claim(row: Any) -> dict[str, Any]:
    return {
        "name": row.claim.name,
        "where": row.claim.where,
        **row.claim.wording,
        "state": row.state,
        "verdict": row.verdict.to_json() if row.verdict else None,
        "otherwise_under_other_seeds": [other.to_json() for other in row.elsewhere],
    }
