"""Small integers packed without a gap, so that what is said of a format's bits is what lies on the disk."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from porism.errors import ParameterError

Bits = Annotated[int, Interval(ge=1, le=16)]

# Codes unpacked at a time; a multiple of 8, so that every chunk begins with a whole byte.
_CHUNK = 1 << 16


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take.

    Examples
    --------
    >>> packed_bytes(10, 3)
    4
    """
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: Bits) -> Tensor:
    """Pack integers below ``2**bits``, low bits first.

    Parameters
    ----------
    codes
        Any shape and integer dtype, values in [0, 2**bits).
    bits
        Width of a code.

    Returns
    -------
    Tensor of uint8, shape (packed_bytes(codes.numel(), bits),)
        On the device of ``codes``.

    Raises
    ------
    ParameterError
        If a code does not fit, or is no integer.

    Examples
    --------
    >>> pack(torch.tensor([1, 2, 3, 0]), 2)
    tensor([57], dtype=torch.uint8)
    """
    _check_bits(bits)
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ParameterError(f"codes must be integers, got {codes.dtype}")
    flat = codes.reshape(-1)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < 2**bits:
        raise ParameterError(f"codes must be in [0, {2**bits}), got {int(flat.min())} to {int(flat.max())}")
    if bits == 8:
        return flat.to(torch.uint8)
    chunks = [_pack_chunk(flat[start : start + _CHUNK], bits) for start in range(0, flat.numel(), _CHUNK)]
    return torch.cat(chunks) if chunks else flat.new_empty(0, dtype=torch.uint8)


def unpack(packed: Tensor, bits: Bits, count: int) -> Tensor:
    """The first ``count`` codes of what :func:`pack` made, shape (count,), uint8 up to 8 bits and int32 above.

    Raises
    ------
    ParameterError
        If ``packed`` is not as long as ``count`` codes are.

    Examples
    --------
    >>> unpack(torch.tensor([57], dtype=torch.uint8), 2, 4)
    tensor([1, 2, 3, 0], dtype=torch.uint8)
    """
    _check_bits(bits)
    if packed.dtype != torch.uint8 or packed.shape != (packed_bytes(count, bits),):
        raise ParameterError(
            f"packed must be uint8 of {packed_bytes(count, bits)} bytes for {count} codes of {bits} bits, "
            f"got {packed.dtype} of shape {tuple(packed.shape)}"
        )
    if bits == 8:
        return packed.clone()
    step = _CHUNK * bits // 8
    chunks = [_unpack_chunk(packed[start : start + step], bits) for start in range(0, packed.numel(), step)]
    dtype = torch.uint8 if bits <= 8 else torch.int32
    return torch.cat(chunks)[:count] if chunks else packed.new_empty(0, dtype=dtype)


def _check_bits(bits: int) -> None:
    if not (isinstance(bits, int) and 1 <= bits <= 16):
        raise ParameterError(f"bits must be int in [1, 16], got {bits!r}")


def _pack_chunk(codes: Tensor, bits: int) -> Tensor:
    if 8 % bits == 0:  # whole codes in a byte
        a_byte = 8 // bits
        padded = torch.nn.functional.pad(codes.to(torch.uint8), (0, -codes.numel() % a_byte)).view(-1, a_byte)
        packed = padded[:, 0].clone()
        for place in range(1, a_byte):
            packed |= padded[:, place] << (place * bits)
        return packed
    places = torch.arange(bits, device=codes.device, dtype=torch.int32)
    flat = ((codes.to(torch.int32)[:, None] >> places) & 1).to(torch.uint8).reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    shifted: Tensor = padded << torch.arange(8, device=codes.device, dtype=torch.uint8)
    return shifted.sum(1, dtype=torch.uint8)


def _unpack_chunk(packed: Tensor, bits: int) -> Tensor:
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
        codes: Tensor = (packed[:, None] >> shifts) & (2**bits - 1)
        return codes.reshape(-1)
    eight = torch.arange(8, device=packed.device, dtype=torch.uint8)
    flat = ((packed[:, None] >> eight) & 1).reshape(-1)
    whole = flat[: flat.numel() // bits * bits].view(-1, bits).to(torch.int32)
    codes = (whole << torch.arange(bits, device=packed.device, dtype=torch.int32)).sum(1, dtype=torch.int32)
    return codes.to(torch.uint8) if bits <= 8 else codes
