"""Two numberings of one sequence's tokens: the usual one, and one that a language model must not mind."""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from porism.errors import ParameterError

Perturbation = Literal["suffix", "cyclic", "permutation", "none"]
PERTURBATIONS = get_args(Perturbation)
# transformers takes the frequencies of these from the largest position, so the two views would not share them.
_MOVING_SCALINGS = ("dynamic", "longrope")


class View(NamedTuple):
    """Position ids, and the tokens whose predictions are compared; both of shape (batch, length)."""

    positions: Tensor
    compared: Tensor


def suffix_jump(length: int, split: int, offset: int) -> Tensor:
    """Positions 0, 1, ... of which those from ``split`` on are moved away by ``offset``; int64 of shape (length,).

    Examples
    --------
    >>> suffix_jump(5, 3, 10)
    tensor([ 0,  1,  2, 13, 14])
    """
    positions = torch.arange(length)
    return positions + offset * (positions >= split)


def cyclic_shift(length: int, shift: int) -> Tensor:
    """Positions 0, 1, ... turned by ``shift``; int64 of shape (length,).

    Examples
    --------
    >>> cyclic_shift(5, 2)
    tensor([2, 3, 4, 0, 1])
    """
    return (torch.arange(length) + shift) % length


def draw_view(
    attended: Tensor,
    usual: Tensor,
    generator: torch.Generator,
    *,
    perturbation: Perturbation,
    largest_offset: int,
    split: tuple[float, float],
) -> View:
    """Number each sequence's tokens anew, from the first to the last one that is attended.

    Parameters
    ----------
    attended
        Which tokens are not padding, boolean of shape (batch, length).
    usual
        Positions of the standard view, int64 of shape (batch, length).
    generator
        On the CPU; every sequence takes a split and an offset of its own from it.
    perturbation
        ``"suffix"`` jumps, ``"cyclic"`` turns, ``"permutation"`` shuffles, ``"none"`` gives every token one position.
    largest_offset
        Of a suffix jump, at least 0; offsets are uniform on 1 to this, and 0 if it is 0.
    split
        Shares of a sequence's length between which the suffix begins, in [0, 1].

    Returns
    -------
    View
        On the device of ``attended``. A sequence too short to be split has nothing to compare.
    """
    positions = usual.cpu().clone()
    compared = torch.zeros(attended.shape, dtype=torch.bool)
    for row, kept in enumerate(attended.cpu()):
        tokens = kept.nonzero()[:, 0]
        if not len(tokens):
            continue
        span = slice(int(tokens[0]), int(tokens[-1]) + 1)
        numbers, begin = _renumbered(positions[row, span], generator, perturbation, largest_offset, split)
        positions[row, span] = numbers
        # Nothing attends to what pads the right, but a table of positions may be looked up.
        positions[row, span.stop :] = numbers.max()
        compared[row, span.start + begin : span.stop] = True
    return View(positions.to(attended.device), compared.to(attended.device) & attended)


def _renumbered(
    usual: Tensor,
    generator: torch.Generator,
    perturbation: Perturbation,
    largest_offset: int,
    split: tuple[float, float],
) -> tuple[Tensor, int]:
    """Positions of one sequence's tokens, and the first token that is compared."""
    length = len(usual)
    if perturbation == "suffix":
        # Rounded first, as a product of shares may be 1 + 2e-16.
        low, high = math.ceil(round(split[0] * length, 9)), math.floor(round(split[1] * length, 9))
        begin = _uniform(low, high, generator) if low <= high else length
        offset = _uniform(min(1, largest_offset), largest_offset, generator)
        return usual + suffix_jump(length, begin, offset) - torch.arange(length), begin
    if perturbation == "cyclic":
        return usual[cyclic_shift(length, _uniform(min(1, length - 1), length - 1, generator))], 0
    if perturbation == "permutation":
        return usual[torch.randperm(length, generator=generator)], 0
    return usual[:1].expand(length), 0


def _uniform(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def check_model(model: nn.Module, perturbation: str) -> None:
    """Raise :class:`ParameterError` unless the model takes positions, and means the same by them in both views."""
    inner = _innermost(model)
    arguments = inspect.signature(inner.forward).parameters
    if "position_ids" not in arguments:
        raise ParameterError(f"model must take position_ids, which {type(inner).__name__}.forward does not")
    config = getattr(inner, "config", None)
    for scaling in _scalings(config):
        if scaling in _MOVING_SCALINGS:
            raise ParameterError(
                f"model has RoPE scaling {scaling!r}, whose frequencies depend on the largest position, so that the "
                "views would not share them; train with a fixed one, such as 'linear', 'yarn' or 'llama3'"
            )
    attention = str(getattr(config, "_attn_implementation", None) or "")
    if "flash" in attention and perturbation != "suffix":
        raise ParameterError(
            f"perturbation {perturbation!r} needs attn_implementation 'sdpa' or 'eager': {attention!r} takes every "
            "token at the smallest position for the first one of a packed document"
        )


def offset_within(model: nn.Module, length: int, max_offset: int | None, max_position: int | None) -> int:
    """Largest offset of a suffix jump for sequences of up to ``length`` tokens.

    Raises
    ------
    ParameterError
        If positions would leave the model's range, or if there is no room for any offset.
    """
    config = getattr(_innermost(model), "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = max_position if max_position is not None else getattr(config, "max_position_embeddings", None)
    if size is None:
        return max_offset if max_offset is not None else length
    room = int(size) - length
    if (max_offset is not None and max_offset > room) or (max_offset is None and room < 1):
        asked = "max_offset of at least 1" if max_offset is None else f"max_offset={max_offset}"
        raise ParameterError(
            f"{asked} moves {length} tokens beyond the model's {size} positions; take shorter sequences, or pass "
            "max_position if its RoPE scaling supports more"
        )
    return max_offset if max_offset is not None else min(length, room)


def _innermost(model: nn.Module) -> Any:
    """The transformers model within wrappers of DistributedDataParallel, torch.compile and peft."""
    inner: Any = model
    for name in ("module", "_orig_mod"):
        inner = getattr(inner, name, inner)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def _scalings(config: Any) -> list[str]:
    """Types of RoPE scaling; a model may have one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [entry for entry in parameters.values() if isinstance(entry, dict)]
    return [str(entry.get("rope_type") or entry.get("type")) for entry in [parameters, *nested]]
