"""Pieces of which compressed blocks are made: a packed quantiser, exact outliers, a low-rank residual.

States have shape (batch, heads, spans, tokens, width); everything stored begins with (batch, heads or 1, spans), so
that spans of one length are concatenated and batches selected without knowing what a tensor means. ``axis`` says what a
scale is shared along: ``"channel"`` (the tokens of one channel, for keys, whose channels differ in size and offset) or
``"token"`` (the channels of one token, for values).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from porism.errors import ParameterError
from porism.packing import pack, unpack

Axis = Literal["channel", "token"]


def groups(states: Tensor, axis: Axis, group: int) -> tuple[Tensor, tuple[int, ...]]:
    """A view with one more axis, and the axes along which a scale is shared.

    ``group`` counts the tokens of a channel's group, or the channels of a token's; 0 is all of them, for a token
    those of every head. A group that does not divide is made smaller until it does.

    Examples
    --------
    >>> view, shared = groups(torch.zeros(1, 2, 1, 6, 8), "channel", 3)
    >>> view.shape, shared
    (torch.Size([1, 2, 1, 2, 3, 8]), (4,))
    """
    tokens, width = states.shape[-2:]
    if axis == "channel":
        return states.unflatten(-2, (-1, math.gcd(group, tokens) if group else tokens)), (4,)
    return states.unflatten(-1, (-1, math.gcd(group, width) if group else width)), (5,) if group else (1, 4, 5)


def quantise(states: Tensor, *, bits: int, axis: Axis, group: int, storage: torch.dtype) -> dict[str, Tensor]:
    """Round to ``2**bits`` levels between each group's least and greatest value: packed codes, scale and zero.

    Zero is rounded down and scale up to what is stored, so no value lies outside of its levels and each is within half
    a scale of its code.

    Raises
    ------
    ParameterError
        If a value is not finite, or too large for ``storage``.
    """
    view, shared = groups(states, axis, group)
    zero = _below(view.amin(shared, keepdim=True), storage)
    levels = 2**bits - 1
    scale = -_below((zero.to(view.dtype) - view.amax(shared, keepdim=True)) / levels, storage)
    _check_finite(scale, zero)
    step = scale.to(view.dtype)
    codes = ((view - zero.to(view.dtype)) / torch.where(step > 0, step, 1)).round_().clamp_(0, levels)
    return {"codes": _pack(codes.to(torch.uint8).reshape(*states.shape[:3], -1), bits), "scale": scale, "zero": zero}


def dequantise(stored: dict[str, Tensor], out: Tensor, *, bits: int, axis: Axis, group: int) -> None:
    """Write what :func:`quantise` stored into ``out``, float32 or float64, of the states' shape."""
    count = out.shape[-2] * out.shape[-1]
    out.copy_(_unpack(stored["codes"], bits)[..., :count].reshape(out.shape))
    view, _ = groups(out, axis, group)
    zero, scale = stored["zero"].to(out.dtype), stored["scale"].to(out.dtype)
    if axis == "channel":
        torch.addcmul(zero, view, scale, out=view)
    else:  # torch has vector instructions for one number a row in two steps, not in one
        view.mul_(scale).add_(zero)


def outliers(states: Tensor, *, share: float, axis: Axis, storage: torch.dtype) -> dict[str, Tensor]:
    """The ``share/2`` largest and as many smallest entries along each channel or token (of all heads), to the nearest
    whole number of entries; nothing if that is none.

    ``indices`` are in the smallest integers that hold them.
    """
    vectors = states if axis == "channel" else states.permute(0, 2, 3, 1, 4).flatten(3)[:, None]
    dim = -2 if axis == "channel" else -1
    length = vectors.shape[dim]
    tail = min(int(length * share / 2 + 0.5), length // 2)
    if not tail:
        return {}
    largest = vectors.topk(tail, dim, sorted=False).indices
    rest = vectors.scatter(dim, largest, torch.inf)  # no entry twice, even where all are equal
    index = torch.cat([largest, rest.topk(tail, dim, largest=False, sorted=False).indices], dim)
    small = torch.uint8 if length <= 256 else torch.int16 if length <= 2**15 else torch.int32
    values = vectors.gather(dim, index).to(storage)
    _check_finite(values)
    return {"outliers": values, "indices": index.to(small)}


def put(stored: dict[str, Tensor], out: Tensor, *, axis: Axis, values: Tensor | None = None) -> None:
    """Write outliers to their places in ``out``, or ``values`` there that broadcast to their shape."""
    if "indices" not in stored:
        return
    index = stored["indices"].long()
    source = (stored["outliers"] if values is None else values).to(out.dtype).expand(index.shape)
    if axis == "channel":
        out.scatter_(-2, index, source)
        return
    batch, head, span, token, _ = out.stride()
    spans, tokens, width = out.shape[2:]
    place = index // width
    place = torch.add(index, place, alpha=head - width, out=place)
    if spans == 1 or span == tokens * token:  # as in a cache, where spans follow one another
        starts = torch.arange(0, spans * tokens * token, token, device=out.device)
    else:
        starts = (torch.arange(spans) * span)[:, None] + torch.arange(tokens) * token
    place += starts.view(spans, tokens, 1).to(out.device)
    if out.shape[0] > 1:
        place += torch.arange(0, out.shape[0] * batch, batch, device=out.device).view(-1, 1, 1, 1, 1)
    flat = out.as_strided((out.untyped_storage().nbytes() // out.element_size() - out.storage_offset(),), (1,))
    flat.scatter_(0, place.flatten(), source.flatten())


def low_rank(residual: Tensor, *, rank: int, passes: int, storage: torch.dtype) -> dict[str, Tensor]:
    """Factors of a projection of each head's residual on ``rank`` directions, by power iteration.

    The start is the same uniform numbers for every head and call, drawn from a generator of its own.

    Examples
    --------
    >>> residual = torch.arange(12.0).view(1, 1, 1, 4, 3)  # of rank 2
    >>> factors = low_rank(residual, rank=2, passes=2, storage=torch.float32)
    >>> bool(torch.allclose(factors["left"] @ factors["right"].mT, residual, atol=1e-4))
    True
    """
    rank = min(rank, *residual.shape[-2:])
    if not rank:
        return {}
    size = residual.abs().amax((-2, -1), keepdim=True)
    residual = residual / torch.where(size > 0, size, 1)  # powers of it neither vanish nor overflow
    start = torch.rand(residual.shape[-1], rank, generator=torch.Generator().manual_seed(0))
    right = start.to(residual)
    for step in range(passes):
        last = step == passes - 1
        right = torch.linalg.qr(right).Q  # in every pass, or the columns of many passes are all alike
        left = residual @ right
        left = torch.linalg.qr(left).Q if last else left
        right = residual.mT @ left
    return {"left": left.to(storage), "right": (right * size).to(storage)}


def add_low_rank(stored: dict[str, Tensor], out: Tensor) -> None:
    """Add the product of the factors to ``out``."""
    if "left" in stored:
        out.add_(stored["left"].to(out.dtype) @ stored["right"].mT.to(out.dtype))


def _check_finite(*stored: Tensor) -> None:
    for tensor in stored:
        if not bool(tensor.isfinite().all()):
            largest = torch.finfo(tensor.dtype).max
            raise ParameterError(f"states to compress must be finite and below {largest:g} in size, got others")


def _below(values: Tensor, storage: torch.dtype) -> Tensor:
    """The nearest stored number that is not above, or the one below that."""
    info = torch.finfo(storage)
    near = values.to(storage)
    lower = (values - values.abs() * info.eps - info.smallest_normal * info.eps).to(storage)
    return torch.where(near.to(values.dtype) > values, lower, near)


def _pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (..., count) as whole bytes; where a byte holds several, they come from as many stretches of the codes, so
    that each stretch is read in one go."""
    unit = 8 // math.gcd(8, bits)
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % unit))
    if 8 % bits == 0:
        padded = padded.unflatten(-1, (unit, -1)).mT.flatten(-2)
    return pack(padded, bits).view(*codes.shape[:-1], -1)


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """What :func:`_pack` was given, and its padding."""
    if bits == 8:
        return packed
    if 8 % bits:
        return unpack(packed.flatten(), bits, packed.numel() * 8 // bits).view(*packed.shape[:-1], -1)
    stretches = 8 // bits
    codes = packed.new_empty(*packed.shape[:-1], stretches, packed.shape[-1])
    for place, stretch in enumerate(codes.unbind(-2)):
        if place:
            torch.bitwise_right_shift(packed, place * bits, out=stretch)
        torch.bitwise_and(stretch if place else packed, 2**bits - 1, out=stretch)
    return codes.flatten(-2)
