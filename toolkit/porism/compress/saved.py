"""The folder that ``porism compress`` writes, and the model that comes back from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from porism import __version__
from porism.compress.checkpoint import hollow, transformers
from porism.compress.layers import Changes, rebuild
from porism.compress.methods import Method, method_of
from porism.compress.offload import emptied, fill
from porism.compress.source import Source, check_names, factory
from porism.compress.tensors import Stored, stored_in
from porism.errors import ParameterError, PorismError
from porism.fingerprint import code_hash
from porism.home import writing
from porism.registry import find

FORMAT = 1


def load(folder: Path | str, *, model: str | None = None, paper: str | None = None, device: str = "cpu") -> nn.Module:
    """The model that ``porism compress`` or :func:`porism.compress.compress` wrote, with its weights in memory.

    Parameters
    ----------
    folder
        What was given as the output.
    model
        The factory, ``package.module:function`` or ``path/to/file.py:function``, if the model came from one: code is
        never run because a file says so.
    paper
        The path of the paper's file, if it is not installed; else it is found by its key.
    device
        Where to put it.

    Returns
    -------
    torch.nn.Module
        In evaluation mode. Compressed layers are of the classes in the paper's ``LAYERS``, all others ordinary.

    Raises
    ------
    PorismError
        If the folder is none of these, is damaged or of a newer format, or the paper is not installed.
    """
    built, stored, record = assembled(Path(folder), model=model, paper=paper, device=device)
    fill(built, stored, device)
    trainable = record.get("trainable")
    if isinstance(trainable, list):
        for name, parameter in built.named_parameters():
            parameter.requires_grad_(name in trainable)
    return built.eval()


def assembled(
    folder: Path, *, model: str | None = None, paper: str | None = None, device: str = "cpu"
) -> tuple[nn.Module, dict[str, Stored], dict[str, Any]]:
    """The model without its weights, where these lie, and what ``porism.json`` says."""
    record = read_record(folder)
    changed = Changes(record["layers"], record["attributes"])
    layers: Mapping[str, type[Any]] = {}
    if any(layer.get("class") not in ("Linear", "Conv1D") for layer in changed.layers.values()):
        layers = _method(record, paper).layers
    built = _base(folder, record, model)
    rebuild(built, changed, layers, record["key"])
    emptied(built, device)
    stored = {name: item for file in record["files"] for name, item in stored_in(folder / Path(file).name).items()}
    check_names(built, stored, folder)
    return built.eval(), stored, record


def read_record(folder: Path) -> dict[str, Any]:
    """``porism.json`` of a folder.

    Raises
    ------
    ParameterError
        If there is none, or it is damaged or of a newer format.
    """
    path = folder / "porism.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParameterError(f"{folder} has no porism.json: not a folder that porism compress wrote") from error
    except (ValueError, OSError) as error:
        raise ParameterError(f"{path} is damaged: {error}") from error
    wanted = {"format": int, "key": str, "layers": dict, "attributes": dict, "files": list, "model": dict}
    if not isinstance(record, dict) or any(not isinstance(record.get(n), t) for n, t in wanted.items()):
        raise ParameterError(f"{path} is damaged: it must have {', '.join(wanted)}")
    if record["format"] > FORMAT:
        raise ParameterError(f"{path} is of format {record['format']}, newer than this porism {__version__} reads")
    return record


def write_record(
    folder: Path, source: Source, method: Method, changed: Changes, files: list[str], *, options: Mapping[str, Any],
    patterns: Mapping[str, Any], trainable: list[str] | None,
) -> None:  # fmt: skip
    """Write ``porism.json``."""
    entry, paper = find(method.key), method.loaded.paper
    by_name: dict[str, Any] = {name: parameter.default for name, parameter in method.parameters.items()}
    by_name |= dict.fromkeys(method.optional) | dict(options)
    checkpoint = source.checkpoint
    kind = (
        {"kind": "factory", "reference": source.name}
        if checkpoint is None
        else {"kind": "transformers", "architecture": checkpoint.architecture}
    )
    write_json(
        folder / "porism.json",
        {
            "format": FORMAT,
            "porism": __version__,
            "key": paper.key,
            "title": paper.title,
            "paper": paper.ref,
            "code": code_hash(method.loaded.path, entry.module),
            "installed": not method.key.endswith(".py"),
            "options": by_name,
            **patterns,
            "model": kind,
            "layers": changed.layers,
            "attributes": changed.attributes,
            "trainable": trainable,
            "files": files,
        },
    )


def write_json(path: Path, content: Any) -> None:
    """Write an object as JSON, indented."""
    with writing(path):
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _method(record: Mapping[str, Any], paper: str | None) -> Method:
    if paper is None and not record.get("installed", True):
        raise ParameterError(f"{record['key']} came from a file of its own; give it as paper='path/to/file.py'")
    try:
        found = method_of(paper or record["key"])
    except PorismError as error:
        raise ParameterError(f"the layers of {record['key']} are needed to load this: {error}") from error
    if found.loaded.paper.key != record["key"]:
        raise ParameterError(f"this was compressed by {record['key']}, and {paper} is {found.loaded.paper.key}")
    return found


def _base(folder: Path, record: Mapping[str, Any], model: str | None) -> nn.Module:
    if record["model"].get("kind") == "factory":
        if model is None:
            reference = record["model"].get("reference")
            raise ParameterError(
                f"the model came from a factory; give it again as model={reference!r}, if you trust it"
            )
        return factory(model)()
    config = transformers().AutoConfig.from_pretrained(folder, local_files_only=True)
    built: nn.Module = hollow(config, str(record["model"].get("architecture")))
    return built
