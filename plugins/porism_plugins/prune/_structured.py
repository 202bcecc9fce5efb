"""Pruning of whole channels and attention heads, which are taken out so that the model gets smaller and faster.

A block is a set of matrices that share a hidden axis: rows of some, columns of one. A group is what goes together: a
channel of a multilayer perceptron, or a key-value head with all query heads that read it. Blocks are found by the names
that transformers uses, and in ``nn.Sequential`` from one linear layer to the next over element-wise modules. Each
block keeps the same share of its groups, so that all layers of a model stay alike and its config can say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.surgery import matrix
from porism_plugins.prune._masks import keep_largest, kept_count

# Layers whose rows are the hidden axis, the one whose columns are, by the names below a common parent.
_CHANNELS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("fc1",), "fc2"),
    (("c_fc",), "c_proj"),
    (("intermediate.dense",), "output.dense"),
    (("lin1",), "lin2"),
)
_HEADS = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("self.query", "self.key", "self.value", "output.dense"),
    ("attention.query", "attention.key", "attention.value", "output.dense"),
)
_ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Dropout, nn.Identity)


@dataclasses.dataclass(frozen=True)
class Part:
    """One matrix of a block: group g is the slice [g size, (g + 1) size) of axis 0 (rows) or 1 (columns)."""

    layer: str
    axis: int
    size: int


@dataclasses.dataclass(frozen=True)
class Block:
    """Matrices with a hidden axis of ``groups`` groups in common; ``heads`` says that they are attention heads."""

    name: str
    parts: tuple[Part, ...]
    groups: int
    heads: bool = False


def blocks_of(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[Block]:
    """Blocks all of whose matrices are among ``layers``.

    Raises
    ------
    ParameterError
        If there is none.

    Examples
    --------
    >>> from porism.surgery import linear_layers
    >>> model = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> [(part.layer, part.axis) for part in blocks_of(model, linear_layers(model))[0].parts]
    [('0', 0), ('2', 1)]
    """
    found: dict[str, Block] = {}
    taken: set[tuple[str, int]] = set()
    for block in _candidates(model, layers):
        places = {(part.layer, part.axis) for part in block.parts}
        if not places & taken:
            found[block.name] = block
            taken |= places
    if not found:
        raise ParameterError(
            "structured: no channels or heads known among " + ", ".join(list(layers)[:12])
            + "; blocks are known by the names of transformers' Llama, BERT and ViT, and in nn.Sequential"
        )  # fmt: skip
    return list(found.values())


def _candidates(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[Block]:
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        for *rows, column in _HEADS:
            if all(f"{prefix}{child}" in layers for child in (*rows, column)):
                yield _heads(f"{prefix}heads", [f"{prefix}{c}" for c in rows], f"{prefix}{column}", model, layers)
        for rows_, column in _CHANNELS:
            if all(f"{prefix}{child}" in layers for child in (*rows_, column)):
                yield _channels(f"{prefix}channels", [f"{prefix}{c}" for c in rows_], f"{prefix}{column}", layers)
        if isinstance(module, nn.Sequential):
            yield from _sequential(prefix, module, layers)


def _channels(name: str, rows: Sequence[str], column: str, layers: Mapping[str, nn.Module]) -> Block:
    parts = (*(Part(row, 0, 1) for row in rows), Part(column, 1, 1))
    return Block(name, parts, matrix(layers[column]).shape[1])


def _heads(name: str, rows: Sequence[str], column: str, model: nn.Module, layers: Mapping[str, nn.Module]) -> Block:
    attention = _owner(model, rows[0])
    width = head_width(attention)
    known = {row.rpartition(".")[2] for row in (*rows, column)}
    for other, parameter in attention.named_parameters():
        if other.partition(".")[0] not in known and parameter.numel() != width:
            raise ParameterError(
                f"{name}: {other} of {parameter.numel()} numbers would not fit fewer heads; exclude them"
            )
    query, key, value = (matrix(layers[row]).shape[0] for row in rows)
    groups = key // width
    if key != value or query % key or key % width:
        raise ParameterError(f"{name}: {query} query, {key} key and {value} value rows are no heads of width {width}")
    sizes = (query // groups, width, width)
    parts = (*(Part(row, 0, size) for row, size in zip(rows, sizes, strict=True)), Part(column, 1, query // groups))
    return Block(name, parts, groups, heads=True)


def _sequential(prefix: str, module: nn.Sequential, layers: Mapping[str, nn.Module]) -> Iterator[Block]:
    before = ""
    for child, layer in module.named_children():
        name = f"{prefix}{child}"
        if isinstance(layer, nn.Linear):
            if before in layers and name in layers:
                yield _channels(f"{before} to {name}", [before], name, layers)
            before = name
        elif not isinstance(layer, _ELEMENTWISE):
            before = ""


def head_width(attention: nn.Module) -> int:
    """Width of a head of an attention module of transformers."""
    for name in ("head_dim", "attention_head_size"):
        if hasattr(attention, name):
            return int(getattr(attention, name))
    raise ParameterError(f"{type(attention).__name__} says no width of its heads (head_dim or attention_head_size)")


def group_masks(blocks: Sequence[Block], scores: Mapping[str, Tensor], remaining: float) -> dict[str, Tensor]:
    """By block, which groups stay: those with the largest sum of scores, ceil(remaining groups) in each block.

    A block that lacks a score is left out.
    """
    return {
        block.name: keep_largest(sum(_sums(part, scores[part.layer], block.groups) for part in block.parts),
                                 kept_count(block.groups, remaining))
        for block in blocks
        if all(part.layer in scores for part in block.parts)
    }  # fmt: skip


def _sums(part: Part, scores: Tensor, groups: int) -> Tensor:
    wide = scores if part.axis == 0 else scores.T
    return wide.reshape(groups, -1).sum(1).cpu()


def weight_masks(
    blocks: Sequence[Block], layers: Mapping[str, nn.Module], groups: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Masks of matrices, as a matrix may be columns of one block and rows of the next."""
    masks: dict[str, Tensor] = {}
    for block in blocks:
        for part in block.parts if block.name in groups else ():
            weight = matrix(layers[part.layer])
            lines = groups[block.name].repeat_interleave(part.size).to(weight.device)
            wide = lines[:, None] if part.axis == 0 else lines[None, :]
            masks[part.layer] = masks.get(part.layer, torch.ones_like(weight, dtype=torch.bool)) & wide
    return masks


@torch.no_grad()
def shrink(model: nn.Module, blocks: Sequence[Block], groups: Mapping[str, Tensor]) -> nn.Module:
    """Take the groups out whose mask is false, in place; the config of a transformers model follows if it can."""
    for block in blocks:
        if block.name not in groups:
            continue
        for part in block.parts:
            lines = groups[block.name].repeat_interleave(part.size).nonzero()[:, 0]
            _slice(model.get_submodule(part.layer), part.axis, lines)
        if block.heads:
            _recount_heads(_owner(model, block.parts[0].layer), block, int(groups[block.name].sum()))
    _recount_config(model, blocks, groups)
    return model


def _slice(layer: Any, axis: int, lines: Tensor) -> None:
    """Keep some rows (with their biases) or columns of a linear layer."""
    weight = layer.weight
    kept = weight.index_select(axis if isinstance(layer, nn.Linear) else 1 - axis, lines.to(weight.device)).contiguous()
    layer.weight = nn.Parameter(kept, requires_grad=weight.requires_grad)
    if axis == 0 and layer.bias is not None:
        bias = layer.bias
        layer.bias = nn.Parameter(bias[lines.to(bias.device)].clone(), requires_grad=bias.requires_grad)
    outputs, inputs = matrix(layer).shape
    for name, value in (("out_features", outputs), ("in_features", inputs), ("nf", outputs), ("nx", inputs)):
        if hasattr(layer, name):
            setattr(layer, name, value)


def _recount_heads(attention: Any, block: Block, kept: int) -> None:
    query, key = block.parts[0].size, block.parts[1].size
    counts = {"num_heads": kept * query // key, "num_attention_heads": kept * query // key, "num_key_value_heads": kept,
              "all_head_size": kept * query}  # fmt: skip
    for name, value in counts.items():
        if isinstance(getattr(attention, name, None), int):
            setattr(attention, name, value)


def _recount_config(model: nn.Module, blocks: Sequence[Block], groups: Mapping[str, Tensor]) -> None:
    """Write the new sizes into the config, where all blocks of a sort agree and it has a name for them."""
    config: Any = getattr(model, "config", None)
    if config is None:
        return
    for heads in (True, False):
        chosen = [block for block in blocks if block.heads is heads and block.name in groups]
        kept = {int(groups[block.name].sum()) for block in chosen}
        sizes = {tuple(part.size for part in block.parts) for block in chosen}
        if len(kept) != 1 or len(sizes) != 1:
            continue
        (count,), (query, key, *_) = kept, *sizes
        if not heads and hasattr(config, "intermediate_size"):
            config.intermediate_size = count
        if heads and hasattr(config, "num_key_value_heads"):
            config.head_dim, config.num_key_value_heads = key, count
            config.num_attention_heads = count * query // key


def _owner(model: nn.Module, layer: str) -> nn.Module:
    return model.get_submodule(layer.rpartition(".")[0])
