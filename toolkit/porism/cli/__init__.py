"""The command line: each command is a module of this package, imported when it is called."""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from typing import Any

import click

from porism import __version__
from porism.errors import PorismError, did_you_mean

# One line each, so that `porism --help` imports no command.
COMMANDS = {
    "list": "Papers installed here, at once.",
    "show": "What a paper is, how to call it, its claims and last verdicts.",
    "check": "Run replicates until every claim is settled.",
    "explore": "Hunt counterexamples to a paper's claims.",
    "figure": "Regenerate figures: table, SVG and PNG.",
    "run": "Run a simulator, a demo, or one case of a claim.",
    "sweep": "Run a simulator or a claim over a grid, on this machine or a cluster.",
    "compress": "Compress a model of your own by a published method, measured and verified.",
    "report": "Write the static HTML report.",
    "new": "Start a package of your own with one paper in it.",
    "doctor": "Look at the environment and at broken plugins.",
}


class LazyGroup(click.Group):
    """Resolves a command by importing ``porism.cli.<name>_`` and taking its ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, or fail with the closest name."""
        if cmd_name not in COMMANDS:
            raise PorismError(f"no command {cmd_name!r}{did_you_mean(cmd_name, COMMANDS)} (`porism --help` shows all)")
        command: click.Command = importlib.import_module(f"porism.cli.{cmd_name}_").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that stops early (`porism list | head`) is no error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from :data:`COMMANDS`, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="porism")
def app() -> None:
    """Published methods and theory, with claims that a machine checks.

    Try: porism list · porism show sinkd · porism check sinkd
    """


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning is one line for the person at the terminal, without the place in our code."""
    click.echo(f"porism: {message}", err=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line and exit code 2, never a traceback."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the names of files need not be text
    try:
        # Click returns the code of ctx.exit() when it does not exit itself.
        result: Any = app.main(arguments, prog_name="porism", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"porism: {' '.join(error.format_message().split())}", err=True)
        sys.exit(2)
    except PorismError as error:
        click.echo(f"porism: {error}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("porism: stopped; what was finished is kept, run the same command again to go on", err=True)
        sys.exit(130)
