"""Blockwise quantisers of 2 to 8 bits: tables of levels, scales, nearest levels, and what they weigh in bytes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any, Literal, NamedTuple, Self

import torch
from scipy.special import ndtri
from torch import Tensor

from porism.errors import ParameterError
from porism.packing import pack, packed_bytes, unpack
from porism.parameters import Parameter

# The probability of NormalFloat's outermost level, of QLoRA's released tables.
OFFSET = 0.9677083
# Equal cells of [-1, 1] in which nearest levels are looked up: seven times as fast as a binary search.
_CELLS = 1 << 12
_OPTIONS = (
    Parameter("bits", int, 4, low=2, high=8),
    Parameter("block_size", int, 64, low=1, high=1 << 20),
    Parameter("scale", str, "absmax", choices=("absmax", "moments")),
)


def normal_float(bits: int) -> tuple[float, ...]:
    """NormalFloat of ``2**bits`` levels in [-1, 1]: quantiles of the normal, with an exact 0, and one more above it.

    Examples
    --------
    >>> [round(level, 4) for level in normal_float(2)]
    [-1.0, 0.0, 0.3379, 1.0]
    """
    half = 2 ** (bits - 1)
    above, below = (
        [float(ndtri(OFFSET + (0.5 - OFFSET) * step / steps)) for step in range(steps)] for steps in (half, half - 1)
    )
    return tuple(sorted(level / above[0] for level in [*above, 0.0, *(-level for level in below)]))


def uniform(bits: int) -> tuple[float, ...]:
    """``2**bits`` equally spaced levels from -1 to 1; 0 is none of them.

    Examples
    --------
    >>> [round(level, 4) for level in uniform(2)]
    [-1.0, -0.3333, 0.3333, 1.0]
    """
    last = 2**bits - 1
    return tuple(2 * step / last - 1 for step in range(last + 1))


TABLES = {"normal": normal_float, "uniform": uniform}


class Quantised(NamedTuple):
    """A matrix as packed codes, uint8, and float32 scales, one for each block of its rows laid end to end."""

    codes: Tensor
    scales: Tensor
    shape: tuple[int, int]
    quantiser: Quantiser

    def dequantise(self) -> Tensor:
        """The matrix, float32."""
        return self.quantiser.dequantise(self.codes, self.scales, self.shape)


@dataclasses.dataclass(frozen=True)
class Quantiser:
    """Each number becomes the nearest of ``2**bits`` levels times the scale of its block.

    Parameters
    ----------
    bits
        Width of a code, 2 to 8.
    levels
        ``"normal"``, ``"uniform"``, or ``2**bits`` increasing numbers of your own in [-1, 1].
    block_size
        Numbers that share a scale; the last block of a matrix may be shorter.
    scale
        ``"absmax"``, the largest magnitude of the block, never clips. ``"moments"`` is mean + 2.5 standard deviations,
        of LoftQ's uniform variant; it clips what lies beyond.

    Raises
    ------
    ParameterError
        If an option is out of its range.

    Examples
    --------
    >>> quantised = Quantiser(bits=2).quantise(torch.tensor([[0.1, -2.0, 0.6]]))
    >>> quantised.dequantise()
    tensor([[ 0.0000, -2.0000,  0.6758]])
    """

    bits: int = 4
    levels: str | tuple[float, ...] = "normal"
    block_size: int = 64
    scale: Literal["absmax", "moments"] = "absmax"

    def __post_init__(self) -> None:
        for option in _OPTIONS:
            option.validate(getattr(self, option.name))
        if isinstance(self.levels, str):
            if self.levels not in TABLES:
                raise ParameterError(f"levels must be one of {', '.join(TABLES)} or numbers, got {self.levels!r}")
            return
        object.__setattr__(self, "levels", tuple(map(float, self.levels)))  # a list, where it was read from JSON
        increasing = all(a < b for a, b in itertools.pairwise(self.levels))
        if len(self.levels) != 2**self.bits or not increasing or max(map(abs, self.levels)) > 1:
            raise ParameterError(f"levels must be {2**self.bits} increasing numbers in [-1, 1] for {self.bits} bits")

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """The quantiser of these options, as :func:`dataclasses.asdict` gives them."""
        return cls(**options)

    @property
    def table(self) -> tuple[float, ...]:
        """The levels, increasing."""
        return TABLES[self.levels](self.bits) if isinstance(self.levels, str) else self.levels

    def nbytes(self, count: int) -> int:
        """Bytes of ``count`` numbers: packed codes and float32 scales."""
        return packed_bytes(count, self.bits) + 4 * -(-count // self.block_size)

    def quantise(self, weight: Tensor) -> Quantised:
        """Quantise a matrix of any size and floating dtype, where it lies.

        Raises
        ------
        ParameterError
            If it is no matrix, or holds a NaN or an infinity.
        """
        if weight.dim() != 2 or not weight.is_floating_point():
            raise ParameterError(f"weight must be a floating matrix, got {weight.dtype} of shape {tuple(weight.shape)}")
        codes, scales = self.encode(weight)
        return Quantised(pack(codes, self.bits), scales, (weight.shape[0], weight.shape[1]), self)

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, uint8 of shape (weight.numel(),), and scales, float32 of shape (blocks,)."""
        flat = weight.detach().float().reshape(-1)
        blocks, tail = self._blocks(flat)
        scales = torch.cat([self._scales(part) for part in (blocks, tail) if part.numel()]) if len(flat) else flat
        if not bool(scales.isfinite().all()):
            raise ParameterError("weight must be finite, got NaN or infinity")
        divisors = torch.where(scales == 0, 1, scales)
        return _nearest(self._scaled(flat, divisors, torch.div), self), scales

    def decode(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Numbers, float32, of what :meth:`encode` gave."""
        table = _lookup(self, codes.device).levels
        return self._scaled(table.index_select(0, codes.int()), scales, torch.mul)

    def dequantise(self, codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
        """The matrix of packed codes, float32."""
        return self.decode(unpack(codes, self.bits, math.prod(shape)), scales).view(shape)

    def _blocks(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The whole blocks, and the shorter last one, as rows."""
        whole = len(flat) // self.block_size * self.block_size
        return flat[:whole].view(-1, self.block_size), flat[whole:].view(1, -1)

    def _scales(self, blocks: Tensor) -> Tensor:
        if self.scale == "absmax":
            return blocks.abs().amax(1)
        deviation = blocks.std(1) if blocks.shape[1] > 1 else torch.zeros_like(blocks[:, 0])
        return blocks.mean(1) + 2.5 * deviation

    def _scaled(self, flat: Tensor, scales: Tensor, by: Any) -> Tensor:
        """Each block multiplied or divided by its scale."""
        scaled = torch.empty_like(flat)
        for part, out in zip(self._blocks(flat), self._blocks(scaled), strict=True):
            if part.numel():
                its = scales[: len(part)] if out.data_ptr() == scaled.data_ptr() else scales[-1:]
                by(part, its[:, None], out=out)
        return scaled


class _Lookup(NamedTuple):
    """Levels, the midpoints between them, and for each cell of [-1, 1] its first code and the midpoint within it."""

    levels: Tensor
    midpoints: Tensor
    first: Tensor | None
    within: Tensor


@functools.lru_cache(maxsize=64)
def _lookup(quantiser: Quantiser, device: torch.device) -> _Lookup:
    levels = torch.tensor(quantiser.table, dtype=torch.float64)
    midpoints = (levels[1:] + levels[:-1]) / 2
    edges = torch.arange(_CELLS + 1, dtype=torch.float64) * (2 / _CELLS) - 1
    below = torch.searchsorted(midpoints, edges)  # midpoints below each edge
    within = torch.cat([midpoints, midpoints.new_tensor([math.inf])])[below[:-1]]
    single = bool((below.diff() <= 1).all())
    first = below[:-1].to(torch.uint8).to(device) if single else None
    return _Lookup(levels.float().to(device), midpoints.float().to(device), first, within.float().to(device))


def _nearest(values: Tensor, quantiser: Quantiser) -> Tensor:
    """Codes of the nearest levels, uint8; of two equally near the lower."""
    lookup = _lookup(quantiser, values.device)
    if lookup.first is None:  # levels of one's own that lie closer than the cells
        return torch.bucketize(values, lookup.midpoints, out_int32=True).to(torch.uint8)
    cells = ((values + 1) * (_CELLS / 2)).clamp_(0, _CELLS - 1).to(torch.int32)
    above = values > lookup.within.index_select(0, cells)
    return lookup.first.index_select(0, cells) + above.to(torch.uint8)
