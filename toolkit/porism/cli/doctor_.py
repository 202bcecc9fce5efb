"""``porism doctor``: what is here, what is missing, what is broken and why."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from porism import __version__
from porism.cli.output import print_json
from porism.errors import MissingExtraError
from porism.home import cache_folder, home
from porism.scan import Entry

# What importing one paper may take, torch and transformers on a loaded machine included.
IMPORT_SECONDS = 120.0


@click.command("doctor", help="Look at the environment and at broken plugins. Example: porism doctor --json")
@click.option("--imports/--no-imports", default=True, help="Import every paper to see whether it works.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(imports: bool, as_json: bool) -> None:
    """Exit with 1 when a plugin is broken."""
    from porism.paper import EXTRAS
    from porism.registry import distributions_of, listing

    found = listing()
    broken = [{"where": b.where, "reason": b.reason, "details": b.details} for b in found.broken]
    waiting = _waiting(found.entries.values()) if imports else {}
    if imports:
        broken += _broken_imports(entry for key, entry in found.entries.items() if key not in waiting)
    extras = {extra: {name: _version(name) for name in distributions_of(extra)} for extra in EXTRAS}
    folders = {"records and verdicts": str(home()), "cache": cache_folder()}
    facts = {
        "porism": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": _gpu(),
        "browser": next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "none"),
    }
    if as_json:
        print_json(
            {
                **facts,
                "extras": extras,
                "folders": folders,
                "papers": len(found.entries),
                "waiting": list(waiting.values()),
                "broken": broken,
            }
        )
    else:
        for name, value in facts.items():
            click.echo(f"{name:8} {value}")
        for extra, versions in extras.items():
            missing = [name for name, number in versions.items() if number is None]
            have = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
            remark = f"; missing {', '.join(missing)}: pip install 'porism[{extra}]'" if missing else ""
            click.echo(f"extra {extra}: {have or 'nothing'}{remark}")
        for name, folder in folders.items():
            click.echo(f"{name}: {folder} ({'writable' if _writable(folder) else 'NOT writable'})")
        click.echo(f"{len(found.entries)} papers, {len(waiting)} wait for an extra, {len(broken)} broken")
        for line in waiting.values():
            click.echo(line)
        for item in broken:
            click.echo(f"\nbroken: {item['where']}\n  {item['reason']}")
            if item["details"]:
                click.echo("    " + item["details"].strip().replace("\n", "\n    "))
    if broken:
        click.get_current_context().exit(1)


def _waiting(entries: Iterable[Entry]) -> dict[str, str]:
    """What to install for the papers that miss an extra, by key."""
    from porism.registry import require_extras

    found = {}
    for entry in entries:
        try:
            require_extras(entry.paper)
        except MissingExtraError as error:
            found[entry.paper.key] = str(error)
    return found


def _broken_imports(entries: Iterable[Entry]) -> list[dict[str, str]]:
    """What cannot be imported, and why; tried in a process of its own, which foreign code may hang or end."""
    from porism.sandbox import Sandbox

    found = []
    with Sandbox() as sandbox:
        for entry in entries:
            task = {"do": "import", "key": entry.paper.key if entry.module else entry.path}
            for event in sandbox.run(task, time_limit=IMPORT_SECONDS):
                if reason := _reason(event):
                    found.append({"where": entry.path, "reason": reason, "details": event.get("details", "")})
    return found


def _reason(event: Mapping[str, Any]) -> str:
    """Why an import failed, or nothing."""
    if event["event"] == "timeout":
        return f"its import does not end within {IMPORT_SECONDS:g} s"
    if event["event"] == "died":
        return f"its import ends the process: {event['note']}"
    return str(event["reason"]) if event["event"] == "broken" else ""


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _gpu() -> str:
    if _version("torch") is None:
        return "unknown (torch is not installed)"
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def _writable(folder: str) -> bool:
    """Whether the folder, or the nearest parent that exists, can be written."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK)
