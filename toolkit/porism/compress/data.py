"""Calibration and evaluation data from files: text for language models, arrays for any other."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porism.compress.checkpoint import TOKENIZER_FILES, Checkpoint, transformers
from porism.errors import ParameterError, PorismError

# Share of a file that is kept back for evaluation where no other file is given, and the most that is used of it.
HELD_OUT, HELD_OUT_MOST = 0.2, 256
# Windows or rows that a method sees which does not train on them.
CALIBRATION = 128


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows of inputs by name, all of one length; ``labels`` are a row's class, or None.

    With one unnamed input (``""``) the model is called with it, otherwise with keyword arguments.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None = None
    language: bool = False

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, chosen: Any) -> Data:
        """Some of the rows."""
        index = torch.as_tensor(np.asarray(chosen, dtype=np.int64))
        labels = None if self.labels is None else self.labels[index]
        return Data({name: tensor[index] for name, tensor in self.inputs.items()}, labels, self.language)

    def batches(self, size: int, device: torch.device | str = "cpu") -> list[Any]:
        """What the model is called with, without labels."""
        split = {name: torch.split(tensor.to(device), size) for name, tensor in self.inputs.items()}
        if "" in split:
            return list(split[""])
        constant = {"use_cache": False} if self.language else {}
        count = len(next(iter(split.values())))
        return [{name: parts[i] for name, parts in split.items()} | constant for i in range(count)]

    def labels_of(self, size: int) -> list[Tensor] | None:
        """The labels of :meth:`batches`."""
        return None if self.labels is None else list(torch.split(self.labels, size))

    def training(self, size: int, device: torch.device | str) -> list[Any]:
        """Batches with labels, as methods want them that train: mappings with labels, or pairs."""
        batches = self.batches(size, device)
        if self.language:
            return [{**batch, "labels": batch["input_ids"]} for batch in batches]
        labels = self.labels_of(size)
        if labels is None:
            return batches
        pairs = zip(batches, labels, strict=True)
        return [
            {**batch, "labels": label.to(device)} if isinstance(batch, Mapping) else (batch, label.to(device))
            for batch, label in pairs
        ]


def read_data(path: Path, model: nn.Module, checkpoint: Checkpoint | None, *, window: int) -> Data:
    """Data from a file: text, or ``.npz`` and ``.safetensors`` with inputs by name and perhaps ``labels``.

    Raises
    ------
    ParameterError
        If the file cannot be read, is empty, holds numbers that are not finite, has another number of labels than
        rows, or is text for a model that takes none.
    """
    language = checkpoint is not None and checkpoint.task == "language"
    if path.suffix in (".npz", ".safetensors"):
        return _arrays(path, model, checkpoint, window=window)
    if not language or checkpoint is None:
        raise ParameterError(
            f"{path}: text is for language models; give .npz or .safetensors with inputs by name and labels"
        )
    tokens = _encoded(_text(path), path, checkpoint)
    return _windows(torch.from_numpy(tokens), path, checkpoint, window)


def example_data(checkpoint: Checkpoint) -> Data:
    """Random inputs of the right form, to verify and time a checkpoint without any data."""
    rng, config = np.random.default_rng(0), checkpoint.config
    if checkpoint.architecture.endswith("ForImageClassification"):
        side = config.image_size if isinstance(config.image_size, Sequence) else (config.image_size, config.image_size)
        pixels = rng.normal(size=(4, int(getattr(config, "num_channels", 3)), *side)).astype(np.float32)
        return Data({"pixel_values": torch.from_numpy(pixels)})
    length = min(32, int(getattr(config, "max_position_embeddings", 32)))
    ids = torch.from_numpy(rng.integers(config.vocab_size, size=(4, length)))
    return Data({"input_ids": ids}, language=checkpoint.task == "language")


def divided(data: Data, *, held_out: bool) -> tuple[Data, Data]:
    """Calibration and evaluation: the last fifth of a text, a fifth of the rows drawn at random, or all for both.

    Raises
    ------
    ParameterError
        If there are too few rows to keep some back.
    """
    order = np.arange(len(data)) if data.language else np.random.default_rng(0).permutation(len(data))
    if not held_out:
        return data.rows(order), data.rows(order)
    if len(data) < 2:
        what = "window" if data.language else "row"
        raise ParameterError(f"calibration has one {what}, so that none can be held out; give more, or --evaluate FILE")
    cut = min(len(data) - 1, round(len(data) * (1 - HELD_OUT)))
    return data.rows(order[:cut]), data.rows(_spread(order[cut:], HELD_OUT_MOST))


def sampled(data: Data, most: int) -> Data:
    """At most so many rows, drawn at random without looking at them."""
    return data if len(data) <= most else data.rows(np.random.default_rng(1).permutation(len(data))[:most])


def in_dtype(data: Data, dtype: torch.dtype) -> Data:
    """Floating inputs in the model's dtype."""
    inputs = {name: t.to(dtype) if t.is_floating_point() else t for name, t in data.inputs.items()}
    return dataclasses.replace(data, inputs=inputs)


def _spread(order: np.ndarray, most: int) -> np.ndarray:
    return order if len(order) <= most else order[np.linspace(0, len(order) - 1, most).astype(int)]


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is no text in UTF-8") from error
    except OSError as error:
        raise ParameterError(f"cannot read {path}: {error.strerror}") from error
    if not text.strip():
        raise ParameterError(f"calibration: {path} is empty")
    return text


def _encoded(text: str, path: Path, checkpoint: Checkpoint) -> np.ndarray:
    from porism.testbeds.language import ALPHABET, encode

    if any((checkpoint.folder / name).exists() for name in TOKENIZER_FILES if "token" in name or "vocab" in name):
        try:
            tokenizer = transformers().AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
            return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ParameterError(f"the tokenizer of {checkpoint.folder} cannot be loaded: {reason}") from error
    if checkpoint.config.vocab_size == len(ALPHABET):
        return encode(text)
    raise ParameterError(
        f"{checkpoint.folder} has no tokenizer for {path}, and its vocabulary of {checkpoint.config.vocab_size} is not "
        f"that of the testbeds' {len(ALPHABET)} characters; save one there, or give input_ids as .npz or .safetensors"
    )


def _windows(tokens: Tensor, path: Path, checkpoint: Checkpoint, window: int) -> Data:
    most = getattr(checkpoint.config, "max_position_embeddings", None)
    if isinstance(most, int) and window > most:
        raise ParameterError(f"--window must be at most {most}, the positions of the model, got {window}")
    if len(tokens) < window:
        raise ParameterError(
            f"{path} has {len(tokens)} tokens, fewer than one window of {window}; give more text or a smaller --window"
        )
    return Data({"input_ids": tokens[: len(tokens) // window * window].reshape(-1, window)}, language=True)


def _arrays(path: Path, model: nn.Module, checkpoint: Checkpoint | None, *, window: int) -> Data:
    tensors = _tensors(path)
    labels = tensors.pop("labels", None)
    if not tensors:
        raise ParameterError(f"{path} has no inputs beside labels; name them as the model's forward does")
    if empty := [name for name, tensor in tensors.items() if tensor.dim() == 0 or not len(tensor)]:
        raise ParameterError(f"calibration: {path} has no rows in {empty[0]}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ParameterError(f"calibration: {name} in {path} is not finite (NaN or infinity)")
    language = checkpoint is not None and checkpoint.task == "language"
    if language and checkpoint is not None and set(tensors) == {"input_ids"}:
        ids = tensors["input_ids"].long()
        if bool((ids < 0).any()) or int(ids.max()) >= checkpoint.config.vocab_size:
            raise ParameterError(f"{path}: input_ids must be in [0, {checkpoint.config.vocab_size})")
        return _windows(ids, path, checkpoint, window) if ids.dim() == 1 else Data({"input_ids": ids}, language=True)
    data = Data(_named(tensors, model, path), None if labels is None else labels.reshape(-1).long(), language)
    counts = {len(tensor) for tensor in data.inputs.values()} | (
        {len(data.labels)} if data.labels is not None else set()
    )
    if len(counts) > 1:
        raise ParameterError(
            f"{path} has arrays of {' and '.join(map(str, sorted(counts)))} rows; give one label a row"
        )
    return data


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from porism.compress.tensors import read, stored_in

        return {name: read(item) for name, item in stored_in(path).items()}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise ParameterError(f"cannot read {path}: {' '.join(str(error).split())}") from error


def _named(tensors: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Arrays by the names of the model's arguments; one array alone may have any name."""
    known = list(inspect.signature(model.forward).parameters)
    if len(tensors) == 1 and not set(tensors) <= set(known):
        return {"": next(iter(tensors.values()))}
    if unknown := [name for name in tensors if name not in known]:
        raise PorismError(
            f"{path}: {type(model).__name__} takes no {unknown[0]!r}; its arguments are {', '.join(known[:8])}"
        )
    return tensors
