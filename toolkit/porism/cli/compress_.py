"""``porism compress``: a published compressor on a model of one's own, with flags from its signature."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from porism.cli.arguments import _Ranged, complete_keys
from porism.cli.output import number, print_json, say
from porism.errors import ParameterError, PorismError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class _Bytes(click.ParamType[int]):
    """A size such as 2GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?)(i?)B?\s*", value, re.IGNORECASE)
        if not found:
            raise ParameterError(f"--memory takes a size such as 2GB or 500MiB, got {value!r}")
        unit = _UNITS[found[2].upper()]
        if found[3]:
            unit = 1024 ** list(_UNITS).index(found[2].upper())
        return int(float(found[1]) * unit)


class _Command(click.Command):
    """A command that has the flags of the method named by ``--with`` as well."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the method first, so that an unknown flag is known to be one before any model is loaded."""
        key = _method_in(args)
        if key is not None:
            ctx.meta["porism.flags"] = _flags_of(key, taken={o for p in self.params for o in p.opts})
        elif not {"-h", "--help"} & set(args) and args:
            from porism.compress.methods import compressors

            raise PorismError(f"--with KEY says by which method; compressors here: {', '.join(compressors())}")
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own options and the method's."""
        return [*super().get_params(ctx), *ctx.meta.get("porism.flags", [])]


@click.command(
    "compress",
    cls=_Command,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress a model of your own by a published method, measured and verified. "
    "Example: porism compress ./my-llama --with loftq --bits 4 --calibrate text.txt -o small. "
    "`porism compress --with KEY --help` lists the flags of one method.",
)
@click.argument("model", metavar="MODEL")
@click.option("--with", "key", metavar="KEY", required=True, shell_complete=complete_keys, help="A compressor's key.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--calibrate", type=click.Path(path_type=Path), help="Text, or inputs as .npz or .safetensors.")
@click.option("--evaluate", type=click.Path(path_type=Path), help="Data to judge by (default: a fifth of --calibrate).")
@click.option("--include", multiple=True, metavar="PATTERN", help="Layers to compress, such as '*.q_proj'; repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Layers to leave alone; repeatable.")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of a module factory, as .safetensors.")
@click.option("--window", type=int, default=128, show_default=True, help="Tokens in a row of text.")
@click.option("--samples", type=int, help="Rows to calibrate with (default: all if the method trains, else 128).")
@click.option("--batch-size", type=int, default=8, show_default=True, help="Rows at a time.")
@click.option("--memory", type=_Bytes(), help="Read a model layer by layer if its double is more, such as 2GB.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--overwrite", is_flag=True, help="Replace an older output, once the new one is complete.")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON document.")
@click.pass_context
def command(
    ctx: click.Context, /, model: str, key: str, output: Path, include: tuple[str, ...], exclude: tuple[str, ...],
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Compress one model."""
    from porism.compress import compress

    flags = {parameter.name for parameter in ctx.meta.get("porism.flags", ())}
    options = {str(n)[len(_PREFIX) :]: given.pop(n) for n in list(given) if n in flags}
    options = {name: value for name, value in options.items() if value is not None}
    _quiet()
    report = compress(
        model, key, output, options=options, include=list(include) or None, exclude=list(exclude) or None,
        progress=say, **given,
    )  # fmt: skip
    if as_json:
        print_json(report)
        return
    for line in _summary(report):
        click.echo(line)
    click.echo(str((output / "report.html").absolute()))


_PREFIX = "method_"


def _method_in(args: Sequence[str]) -> str | None:
    for place, argument in enumerate(args):
        if argument == "--with" and place + 1 < len(args):
            return args[place + 1]
        if argument.startswith("--with="):
            return argument.partition("=")[2]
    return None


def _flags_of(key: str, taken: set[str]) -> list[click.Parameter]:
    from porism.compress.methods import method_of

    method = method_of(key)
    flags: list[click.Parameter] = []
    for parameter in method.parameters.values():
        flag = f"--{parameter.name.replace('_', '-')}"
        if flag in taken:
            raise PorismError(
                f"{key} has an option {flag}, which porism compress keeps for itself; call it from Python"
            )
        default = "none" if parameter.name in method.optional else str(parameter.default)
        bare: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if parameter.type is bool else {}
        flags.append(
            click.Option(
                [flag, f"{_PREFIX}{parameter.name}"],
                type=_Ranged(parameter),
                help=f"{parameter.help_text} (default {default})",
                **bare,
            )
        )
    return flags


def _summary(report: dict[str, Any]) -> list[str]:
    from porism.compress.report import count, four, percent, size

    def line(name: str, before: str, after: str, ratio: float | None = None) -> str:
        return f"{name}\t{before}\t{after}" + (f"\t{percent(ratio)}" if ratio is not None else "")

    lines = [line("", "before", "after")]
    for name, how in (("bytes", size), ("parameters", count), ("nonzeros", count), ("flops", count)):
        pair = report[name]
        ratio = pair["after"] / pair["before"] if pair["before"] else None
        lines.append(line(name, how(pair["before"]), how(pair["after"]), ratio))
    time, quality = report["latency"], report["quality"]
    lines.append(line("latency", f"{number(time['before_ms'])} ms", f"{number(time['after_ms'])} ms", time["ratio"]))
    if quality["after"] is not None:
        lines.append(line(quality["measure"], four(quality["before"]), four(quality["after"])))
    lines.append(f"loaded again in a fresh process: the same bits on {report['verified']} batches")
    return lines


def _quiet() -> None:
    """No progress bars of transformers between our own lines."""
    import contextlib

    with contextlib.suppress(ImportError):
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
