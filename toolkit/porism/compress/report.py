"""The report of one run: its numbers as JSON, and a page that needs no other file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from porism.compress.layers import numbers_in
from porism.compress.saved import write_json
from porism.home import writing
from porism.surgery import is_linear, matrix


@torch.no_grad()
def layer_row(name: str, before: Tensor, after: Any) -> dict[str, Any]:
    """One row of the table of layers: what the weight was, (out, in), and the module that stands there now."""
    weight = matrix(after) if is_linear(after) else after.weight
    numbers, nonzeros = numbers_in(after)
    error = relative_error(before, weight) if weight.shape == before.shape else None
    bias = 0 if after.bias is None else after.bias.nbytes
    return {
        "name": name,
        "class": type(after).__name__,
        "shape_before": list(before.shape),
        "shape_after": list(weight.shape),
        "bytes_before": before.numel() * before.element_size() + bias,
        "bytes_after": sum(tensor.nbytes for tensor in after.state_dict().values()),
        "parameters": numbers,
        "nonzeros": nonzeros,
        "error": error,
    }


def relative_error(before: Tensor, after: Tensor) -> float:
    """Frobenius norm of the change over that of the matrix, some rows at a time, so that it takes no memory.

    Examples
    --------
    >>> relative_error(torch.eye(4), 1.5 * torch.eye(4))
    0.5
    """
    change = size = 0.0
    for old, new in zip(torch.split(before, 64), torch.split(after, 64), strict=True):
        old, new = old.double(), new.to(old.device).double()
        change += float((new - old).square().sum())
        size += float(old.square().sum())
    return math.sqrt(change / size) if size else 0.0


def layer_rows(before: nn.Module, after: nn.Module) -> list[dict[str, Any]]:
    """The rows of all linear layers whose module or weight changed."""
    now = dict(after.named_modules())
    found = []
    for name, old in before.named_modules():
        new = now.get(name)
        if not is_linear(old) or new is None:
            continue
        same = type(new) is type(old) and matrix(new).shape == matrix(old).shape
        if not (same and torch.equal(matrix(new), matrix(old))):
            found.append(layer_row(name, matrix(old), new))
    return found


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.html``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    write_json(folder / "report.json", report)
    environment = Environment(
        loader=PackageLoader("porism.compress"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"size": size, "count": count, "short": short, "four": four, "percent": percent}
    style = files("porism.report").joinpath("assets", "report.css").read_text(encoding="utf-8")
    page = environment.get_template("report.html").render(report=report, style=style)
    with writing(folder / "report.html"):
        (folder / "report.html").write_text(page, encoding="utf-8")


def size(number: float) -> str:
    """Bytes in three digits, powers of 1000.

    Examples
    --------
    >>> size(999), size(1_234_567)
    ('999 B', '1.23 MB')
    """
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def count(number: float) -> str:
    """A count in three digits.

    Examples
    --------
    >>> count(12), count(1_234_567)
    ('12', '1.23 M')
    """
    return _scaled(number, ("", "k", "M", "G", "T")).strip()


def short(number: float | None) -> str:
    """A number in three significant digits, a dash where there is none."""
    return "–" if number is None else f"{number:.3g}"


def four(number: float | None) -> str:
    """A number in four significant digits, for a quality."""
    return "–" if number is None else f"{number:.4g}"


def percent(number: float | None) -> str:
    """A share as a percentage."""
    return "–" if number is None else f"{100 * number:.1f} %"


def _scaled(number: float, units: tuple[str, ...]) -> str:
    value, unit = float(number), 0
    while abs(value) >= 999.5 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {units[unit]}"
