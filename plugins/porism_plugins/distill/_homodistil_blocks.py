"""Feed-forward blocks of a model, and taking neurons out of them for good.

A neuron of a block is a row of every matrix that writes the hidden axis, with its bias, and a column of the one that
reads it. Blocks are found by the names that transformers uses, and in ``nn.Sequential`` from one linear layer to the
next over element-wise modules.
"""

from __future__ import annotations

import bisect
import collections
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.surgery import linear_layers, matrix

# Layers whose outputs are the hidden axis, and the one whose inputs are, by their names below a common parent.
_NAMES = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("fc1",), "fc2"),
    (("c_fc",), "c_proj"),
    (("intermediate.dense",), "output.dense"),
    (("lin1",), "lin2"),
)
_ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Dropout, nn.Identity)
# What configurations of transformers call the width of a block.
_CONFIG = ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim")


class Block(NamedTuple):
    """Names of the layers that write a hidden axis (their outputs) and of the one that reads it (its inputs)."""

    writers: tuple[str, ...]
    reader: str


def feed_forward_blocks(
    model: nn.Module, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> list[Block]:
    """Blocks all of whose layers match the patterns of :func:`porism.surgery.linear_layers`, are trained, and run once.

    Raises
    ------
    ParameterError
        If there is none; as :func:`porism.surgery.linear_layers`.

    Examples
    --------
    >>> feed_forward_blocks(nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3)))
    [Block(writers=('0',), reader='2')]
    """
    layers = linear_layers(model, include=include, exclude=exclude)
    places = collections.Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    usable = {n: m for n, m in layers.items() if m.weight.requires_grad and places[id(m)] == 1}
    found = [block for block in _candidates(model) if all(name in usable for name in (*block.writers, block.reader))]
    if not found:
        raise ParameterError(
            "no feed-forward block has all its layers among " + ", ".join(list(layers)[:12]) + "; blocks are known by "
            "the names of transformers' Llama, BERT, ViT and GPT-2, and in nn.Sequential; frozen and shared layers "
            "are left alone"
        )  # fmt: skip
    for block in found:
        widths = {matrix(usable[n]).shape[0] for n in block.writers} | {matrix(usable[block.reader]).shape[1]}
        if len(widths) > 1:
            raise ParameterError(f"{block.reader} does not read what {', '.join(block.writers)} write; exclude them")
    return found


def _candidates(model: nn.Module) -> Iterator[Block]:
    names = {name for name, _ in model.named_modules()}
    for parent, module in model.named_modules():
        prefix = f"{parent}." if parent else ""
        for writers, reader in _NAMES:
            if all(f"{prefix}{child}" in names for child in (*writers, reader)):
                yield Block(tuple(f"{prefix}{child}" for child in writers), f"{prefix}{reader}")
                break
        if isinstance(module, nn.Sequential):
            before = ""
            for child, layer in module._modules.items():  # named_children() leaves out repetitions
                if isinstance(layer, nn.Linear):
                    if before:
                        yield Block((before,), f"{prefix}{child}")
                    before = f"{prefix}{child}"
                elif not isinstance(layer, _ELEMENTWISE):
                    before = ""


def width_of(model: nn.Module, block: Block) -> int:
    """Neurons that a block has now."""
    return matrix(model.get_submodule(block.reader)).shape[1]


def first_shape(layer: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a layer before any of its neurons were taken out."""
    outputs, inputs = getattr(layer, "first_shape", matrix(layer).shape)
    return int(outputs), int(inputs)


def first_width(model: nn.Module, block: Block) -> int:
    """Neurons that a block had before any were taken out."""
    return first_shape(model.get_submodule(block.reader))[1]


def kept_count(width: int, share: float | Fraction) -> int:
    """Neurons that stay of so many: rounded up, at least one.

    Examples
    --------
    >>> kept_count(10, 0.25), kept_count(10, Fraction(1, 5)), kept_count(3, 0.01)
    (3, 2, 1)
    """
    exact = share if isinstance(share, Fraction) else Fraction(repr(float(share)))  # floats would gain a neuron
    return max(math.ceil(exact * width), 1)


def width_share(model: nn.Module, blocks: Sequence[Block], remaining: float) -> Fraction:
    """The largest common share of neurons at which the blocks keep ``remaining`` of their layers' first weights.

    Raises
    ------
    ParameterError
        If one neuron a block is more than that.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> width_share(model, feed_forward_blocks(model), 0.4)
    Fraction(1, 3)
    """
    widths = [first_width(model, block) for block in blocks]
    shares = sorted({Fraction(kept, width) for width in set(widths) for kept in range(1, width + 1)})
    total = _weights(model, blocks, Fraction(1))
    fitting = bisect.bisect_right(
        shares, Fraction(repr(float(remaining))) * total, key=lambda share: _weights(model, blocks, share)
    )
    if not fitting:
        least = math.ceil(1000 * _weights(model, blocks, shares[0]) / total) / 1000
        raise ParameterError(f"remaining={remaining} is less than one neuron a block; it must be at least {least}")
    return shares[fitting - 1]


def _weights(model: nn.Module, blocks: Sequence[Block], share: Fraction) -> int:
    """Weights of the blocks' layers with this share of the neurons."""
    shapes = {n: list(first_shape(model.get_submodule(n))) for block in blocks for n in (*block.writers, block.reader)}
    for block in blocks:
        kept = kept_count(first_width(model, block), share)
        shapes[block.reader][1] = kept
        for name in block.writers:
            shapes[name][0] = kept
    return sum(outputs * inputs for outputs, inputs in shapes.values())


def neuron_sums(model: nn.Module, block: Block, of: Callable[[nn.Parameter], Tensor]) -> Tensor:
    """Sum of ``of(parameter)``, a number for each entry, over the parameters of each neuron, in float32 or wider."""
    total: Any = 0.0
    for name in block.writers:
        layer: Any = model.get_submodule(name)
        total = total + _wide(of(layer.weight)).sum(1 - _axis(layer, 0))
        if layer.bias is not None and layer.bias.requires_grad:
            total = total + _wide(of(layer.bias))
    reader: Any = model.get_submodule(block.reader)
    return total + _wide(of(reader.weight)).sum(1 - _axis(reader, 1))


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


@torch.no_grad()
def keep_neurons(model: nn.Module, block: Block, kept: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Take all neurons but these (increasing indices) out of a block in place, and out of an optimiser's state."""
    before = width_of(model, block)
    for name in (*block.writers, block.reader):
        layer: Any = model.get_submodule(name)
        layer.first_shape = first_shape(layer)
        axis = 1 if name == block.reader else 0
        layer.weight = _kept(layer.weight, _axis(layer, axis), kept, optimizer)
        if axis == 0 and layer.bias is not None:
            layer.bias = _kept(layer.bias, 0, kept, optimizer)
        outputs, inputs = matrix(layer).shape
        for attribute, size in (("out_features", outputs), ("in_features", inputs), ("nf", outputs), ("nx", inputs)):
            if hasattr(layer, attribute):
                setattr(layer, attribute, size)
    owner: Any = model.get_submodule(block.reader.rpartition(".")[0])
    if getattr(owner, "intermediate_size", None) == before:
        owner.intermediate_size = len(kept)


def _kept(old: nn.Parameter, axis: int, kept: Tensor, optimizer: torch.optim.Optimizer | None) -> nn.Parameter:
    """Some lines of a parameter as a new one, which takes its place in the optimiser with its share of the state."""
    lines = kept.to(old.device)
    new = nn.Parameter(old.index_select(axis, lines).contiguous(), requires_grad=old.requires_grad)
    for group in optimizer.param_groups if optimizer is not None else ():
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    if optimizer is not None and old in optimizer.state:
        optimizer.state[new] = {
            name: value.index_select(axis, lines) if isinstance(value, Tensor) and value.shape == old.shape else value
            for name, value in optimizer.state.pop(old).items()
        }
    return new


def update_config(model: nn.Module, blocks: Sequence[Block], before: Mapping[Block, int]) -> None:
    """Write the new width into a transformers model's config, if all blocks agree and it says their width."""
    config: Any = getattr(model, "config", None)
    widths = {(before[block], width_of(model, block)) for block in blocks}
    if config is None or len(widths) != 1:
        return
    ((old, new),) = widths
    for name in _CONFIG:
        if hasattr(config, name) and getattr(config, name) in (old, None):
            setattr(config, name, new)


def _axis(layer: nn.Module, axis: int) -> int:
    """An axis of (outputs, inputs) in the layer's own weight."""
    return axis if isinstance(layer, nn.Linear) else 1 - axis
