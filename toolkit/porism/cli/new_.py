"""``porism new``: a third party's package in one command."""

from __future__ import annotations

from pathlib import Path

import click

from porism.cli.output import print_json


@click.command("new", help="Start a package of your own with one paper in it. Example: porism new hello --kind loss")
@click.argument("key")
@click.option("--kind", required=True, help="What your method is to its user, such as loss, simulator or estimator.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(), help="Where to make the folder.")
@click.option("--json", "as_json", is_flag=True, help="The path as one JSON document.")
def command(key: str, kind: str, output: Path, as_json: bool) -> None:
    """Write the package and say what to do next."""
    from porism.home import writing
    from porism.scaffold import new

    with writing(output):
        folder = new(key, kind, output)
    if as_json:
        print_json({"folder": str(folder)})
        return
    click.echo(f"{folder} is ready:\n  pip install -e {folder}\n  porism check {key}\n  pytest {folder}")
