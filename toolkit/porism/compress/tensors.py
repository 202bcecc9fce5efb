"""Safetensors files read one tensor at a time into memory of our own, and written as their tensors come.

Reading by ``read`` and not by ``mmap`` keeps what a process holds to what it uses; writing through a spool beside the
final file needs no list of shapes beforehand.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from torch import Tensor

from porism.errors import ParameterError, PorismError
from porism.home import writing

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CHUNK = 1 << 24
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: ``nbytes`` bytes of a file from ``start`` on."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int


def stored_in(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by name, none of them read.

    Raises
    ------
    ParameterError
        If the file is missing, cut off or damaged; the message names it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found = {name: _entry(path, item, 8 + length) for name, item in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error) or type(error).__name__
        raise ParameterError(f"cannot read {path}: {reason}") from error
    if found and max(item.start + item.nbytes for item in found.values()) > size:
        raise ParameterError(f"cannot read {path}: it is cut off; its header speaks of more than its {size:,} bytes")
    return found


def _entry(path: Path, item: Mapping[str, Any], base: int) -> Stored:
    if item["dtype"] not in _DTYPES:
        raise ValueError(f"it has tensors of type {item['dtype']}, which are not known here")
    dtype, shape = _DTYPES[item["dtype"]], tuple(int(n) for n in item["shape"])
    start, end = (int(n) for n in item["data_offsets"])
    if start < 0 or min(shape, default=0) < 0 or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("its header is damaged: sizes and shapes do not agree")
    return Stored(path, dtype, shape, base + start, end - start)


def read(stored: Stored) -> Tensor:
    """One tensor, in memory of its own.

    Raises
    ------
    ParameterError
        If the file cannot be read or ends too early.
    """
    flat = torch.empty(stored.nbytes, dtype=torch.uint8)  # aligned as torch aligns, so that products give the same bits
    try:
        with stored.path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            view, done = memoryview(flat.numpy()), 0  # type: ignore[arg-type]
            while done < stored.nbytes:
                got = file.readinto(view[done:])
                if not got:
                    raise ParameterError(f"cannot read {stored.path}: it is cut off")
                done += got
    except OSError as error:
        raise ParameterError(f"cannot read {stored.path}: {error.strerror}") from error
    return flat.view(stored.dtype).reshape(stored.shape)


class ShardWriter:
    """Writes one safetensors file from tensors that come one after the other; whole once :meth:`close` returns.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> with ShardWriter(path) as writer:
    ...     writer.add("x", torch.arange(3))
    >>> read(stored_in(path)["x"])
    tensor([0, 1, 2])
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spool_path = path.with_name(f".{path.name}.spool")
        self._items: dict[str, Stored] = {}
        with writing(path):
            self._spool: IO[bytes] = self._spool_path.open("w+b", buffering=0)
        self._end = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor; it may be freed after."""
        if tensor.dtype not in _NAMES:
            raise PorismError(f"{name} is {tensor.dtype}, which safetensors cannot hold")
        if name in self._items:
            raise PorismError(f"{self.path} would hold {name} twice")
        plain = tensor.detach().cpu().contiguous()
        flat: Any = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b""
        view = memoryview(flat)
        self._items[name] = Stored(self._spool_path, plain.dtype, tuple(plain.shape), self._end, len(view))
        self._end += len(view)
        with writing(self.path):
            while len(view):
                view = view[self._spool.write(view) :]

    def close(self) -> None:
        """Bring the tensors into the order of their widths, so that each is aligned, and write the file."""
        order = sorted(self._items, key=lambda name: (-self._items[name].dtype.itemsize, name))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        place = 0
        for name in order:
            item = self._items[name]
            offsets = [place, place + item.nbytes]
            header[name] = {"dtype": _NAMES[item.dtype], "shape": list(item.shape), "data_offsets": offsets}
            place += item.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with writing(self.path):
            self._spool.close()
            with self.path.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                for name in order:
                    for piece in _pieces(self._items[name]):
                        file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            self._spool_path.unlink()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._spool.close()


def _pieces(stored: Stored) -> Iterator[bytes]:
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.start)
        left = stored.nbytes
        while left:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                raise ParameterError(f"cannot read {stored.path}: it is cut off")
            left -= len(piece)
            yield piece
