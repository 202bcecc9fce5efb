"""Where each tensor of the result goes: into files sharded as the original's, with an index where there are several."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from porism.compress.checkpoint import TOKENIZER_FILES, Checkpoint
from porism.compress.saved import write_json
from porism.compress.tensors import ShardWriter, stored_in
from porism.home import writing

# Weights of models that only porism can load have other names than transformers looks for: what it does not find in a
# file it fills with random numbers.
_ORDINARY, _SPECIAL = "model", "compressed"


def shards_of(checkpoint: Checkpoint | None) -> list[str]:
    """The original's files by name, in order."""
    if checkpoint is None:
        return ["model.safetensors"]
    return list(dict.fromkeys(item.path.name for item in checkpoint.stored.values()))


@contextlib.contextmanager
def shard(folder: Path, name: str) -> Iterator[ShardWriter]:
    """A writer of one file of the result."""
    with ShardWriter(folder / _name(name, ordinary=False)) as writer:
        yield writer


def write_model(folder: Path, model: nn.Module, homes: Mapping[str, str], shards: list[str]) -> None:
    """Write a model that is in memory; ``homes`` says which file a tensor of the original was in."""
    layers = {name.rpartition(".")[0]: file for name, file in homes.items()}
    state = model.state_dict()
    for file in shards:
        with shard(folder, file) as writer:
            for name in _once(model, state):
                module = name.rpartition(".")[0]
                if homes.get(name, layers.get(module, shards[0])) == file:
                    writer.add(name, state[name])


def finish(folder: Path, shards: list[str], checkpoint: Checkpoint | None, *, ordinary: bool) -> list[str]:
    """Give the files their names, write the index, copy the tokenizer; returns the names."""
    files = [_name(name, ordinary=ordinary) for name in shards]
    with writing(folder):
        for name, file in zip(shards, files, strict=True):
            (folder / _name(name, ordinary=False)).rename(folder / file)
        if checkpoint is not None:
            for name in TOKENIZER_FILES:
                if (checkpoint.folder / name).is_file():
                    shutil.copyfile(checkpoint.folder / name, folder / name)
    if len(files) > 1:
        places = {name: item for file in files for name, item in stored_in(folder / file).items()}
        total = sum(item.nbytes for item in places.values())
        index = {"metadata": {"total_size": total}, "weight_map": {n: item.path.name for n, item in places.items()}}
        prefix = _ORDINARY if ordinary else _SPECIAL
        write_json(folder / f"{prefix}.safetensors.index.json", index)
    return files


def _name(name: str, *, ordinary: bool) -> str:
    return name if ordinary else name.replace(_ORDINARY, _SPECIAL, 1)


def _once(model: nn.Module, state: Mapping[str, Tensor]) -> Iterable[str]:
    """Names of the state's tensors, shared ones once."""
    named = [*model.named_parameters(), *model.named_buffers()]  # without repetitions
    kept = {name for name, _ in named}
    repeated = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    repeated |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return [name for name in state if name in kept or name not in repeated]
