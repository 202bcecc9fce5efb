"""What is to be compressed: a folder of transformers, or a function that builds a torch module."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from porism.compress import checkpoint as checkpoints
from porism.compress.checkpoint import Checkpoint
from porism.compress.offload import fill
from porism.compress.tensors import Stored, stored_in
from porism.errors import ParameterError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Source:
    """A model that can be built again and again; ``checkpoint`` is None for a factory."""

    name: str
    build: Callable[[], nn.Module]
    checkpoint: Checkpoint | None = None
    weights: Path | None = None

    def whole(self) -> nn.Module:
        """The model with its weights, in evaluation mode."""
        if self.checkpoint is not None:
            model: nn.Module = checkpoints.whole(self.checkpoint)
            return model
        model = self.build()
        if self.weights is not None:
            fill_all(model, stored_in(self.weights), self.weights)
        return model.eval()

    def nbytes(self) -> int:
        """Bytes of the model's tensors."""
        if self.checkpoint is not None:
            return self.checkpoint.nbytes
        return sum(tensor.nbytes for tensor in self.build().state_dict().values())


def open_source(model: str, weights: str | Path | None = None) -> Source:
    """A folder with ``config.json``, ``package.module:function`` or ``path/to/file.py:function``.

    Raises
    ------
    ParameterError
        If it is none of these; nothing is downloaded.
    """
    path = Path(model)
    if path.is_dir():
        if weights is not None:
            raise ParameterError(f"--weights is for a module factory; {path} has weights of its own")
        return Source(model, build=_no_factory, checkpoint=checkpoints.open_checkpoint(path))
    if ":" in model and not path.exists():
        return Source(model, build=factory(model), weights=None if weights is None else Path(weights))
    if path.exists():
        raise ParameterError(f"{model} is a file; give the folder that save_pretrained wrote, or {model}:FUNCTION")
    raise ParameterError(
        f"there is no folder {model}; nothing is downloaded, so fetch a model of the hub first "
        "(hf download NAME --local-dir FOLDER) and give the folder, or a factory as package.module:function"
    )


def factory(reference: str) -> Callable[[], nn.Module]:
    """The function that ``package.module:function`` or ``path/to/file.py:function`` names; it is imported now.

    Raises
    ------
    ParameterError
        If there is no such module or function, importing it fails, or it builds no ``torch.nn.Module``.
    """
    where, _, name = reference.rpartition(":")
    try:
        with _here_on_path():
            module = _module_of_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:  # whatever stands in the file
        raise ParameterError(f"{reference}: {where} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ParameterError(f"{reference}: {where} has no function {name!r}{did_you_mean(name, vars(module))}")

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                model = function()
            except Exception as error:
                raise ParameterError(f"{reference}() fails: {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise ParameterError(f"{reference}() gives {type(model).__name__}, which is no torch.nn.Module")
        return model

    return build


def fill_all(model: nn.Module, stored: dict[str, Stored], place: Path, device: str = "cpu") -> nn.Module:
    """Read every tensor of the model's state, in place, or say which ones are missing or do not fit."""
    check_names(model, stored, place)
    return fill(model, stored, device)


def check_names(model: nn.Module, stored: dict[str, Stored], place: Path) -> None:
    """Refuse tensors that are missing, too many or of another shape.

    Raises
    ------
    ParameterError
        Naming ``place`` and the first of them.
    """
    expected = model.state_dict()
    pointers = {id(t): n for n, t in _tensors(model) if n in stored}
    everything = dict(_tensors(model))
    missing = [n for n in expected if n not in stored and id(everything.get(n)) not in pointers]
    shapes = [n for n in expected if n in stored and stored[n].shape != tuple(expected[n].shape)]
    unknown = [n for n in stored if n not in expected]
    for wrong, what in ((missing, "lacks"), (unknown, "has what the model has not:"), (shapes, "has other shapes for")):
        if wrong:
            raise ParameterError(f"{place} {what} {', '.join(wrong[:4])}{' and more' if len(wrong) > 4 else ''}")


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


@contextlib.contextmanager
def _here_on_path() -> Iterator[None]:
    """Modules of the current folder can be imported, as by ``python -m``."""
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())


def _module_of_file(path: Path) -> object:
    name = f"porism_factory_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.exists():
        raise FileNotFoundError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _no_factory() -> nn.Module:
    raise AssertionError("a checkpoint is built from its configuration")
