"""Compressing a checkpoint layer by layer, so that memory holds one layer and the calibration activations."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from porism.compress.checkpoint import Checkpoint, by_module, dtype_of, hollow
from porism.compress.data import Data
from porism.compress.layers import Changes, numbers_in, options_of
from porism.compress.methods import Method
from porism.compress.offload import emptied, reading
from porism.compress.report import layer_row
from porism.compress.shards import shard, shards_of
from porism.compress.tensors import Stored, read
from porism.errors import ParameterError, PorismError
from porism.surgery import input_statistics, is_linear, linear_layers, matrix


def can_stream(method: Method, options: Mapping[str, Any]) -> str:
    """Why a method cannot go layer by layer, or nothing."""
    if method.one_layer is None:
        return f"{method.loaded.paper.key} must see the whole model (its file has no compress_layer)"
    takes = inspect.signature(method.one_layer).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values()):
        return ""
    foreign = [name for name in options if name not in takes]
    return f"{method.loaded.paper.key} cannot go layer by layer with --{foreign[0]}" if foreign else ""


def hollow_source(checkpoint: Checkpoint, device: str) -> tuple[nn.Module, dict[str, Stored]]:
    """The original model without its weights, and where they lie."""
    model = hollow(checkpoint.config, checkpoint.architecture, dtype_of(checkpoint))
    stored = by_module(checkpoint, model)
    return emptied(model, device), stored


def second_moments(
    model: nn.Module, stored: Mapping[str, Stored], layers: Mapping[str, nn.Module], data: Data, *,
    batch_size: int, device: str,
) -> dict[str, Tensor]:  # fmt: skip
    """Mean of x_j^2 over the rows that flow into each layer, summed in float64; float32 of shape (in,)."""

    def accumulate(before: Tensor | None, x: Tensor) -> Tensor:
        count = x.new_full((1,), len(x), dtype=torch.float64)
        total = torch.cat([x.square().sum(0, dtype=torch.float64), count])
        return total if before is None else before + total

    with reading(model, stored):
        found = input_statistics(model, layers, data.batches(batch_size, device), accumulate)
    return {name: (total[:-1] / total[-1]).float() for name, total in found.items()}


@dataclasses.dataclass
class Written:
    """What going layer by layer has written so far.

    ``changes`` and ``rows`` as :mod:`porism.compress.layers` and the report have them, ``totals`` numbers and non-zeros
    before and after, ``trainable`` the parameters of new layers that the method leaves trainable.
    """

    changes: Changes = dataclasses.field(default_factory=lambda: Changes({}, {}))
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    totals: dict[str, list[int]] = dataclasses.field(default_factory=lambda: {"before": [0, 0], "after": [0, 0]})
    trainable: list[str] = dataclasses.field(default_factory=list)

    def keep(self, tensor: Tensor) -> None:
        """Count a tensor that is written as it was."""
        if tensor.is_floating_point():
            self._count("before", tensor.numel(), int(tensor.count_nonzero()))
            self._count("after", tensor.numel(), int(tensor.count_nonzero()))

    def replace(self, name: str, weight: Tensor, new: Any, *, listed: bool) -> None:
        """Take in a layer that came in the place of one with this matrix; ``listed`` if it is of the paper's classes.

        Its bias is a tensor of its own in the checkpoint, and counted as such.
        """
        self.rows.append(layer_row(name, weight, new))
        bias = (0, 0) if new.bias is None else (new.bias.numel(), int(new.bias.count_nonzero()))
        numbers, nonzeros = numbers_in(new)
        self._count("before", weight.numel(), int(weight.count_nonzero()))
        self._count("after", numbers - bias[0], nonzeros - bias[1])
        if listed:
            self.changes.layers[name] = {"class": type(new).__name__, **options_of(new)}
            own = [key for key, p in new.named_parameters() if p.requires_grad and key != "bias"]
            self.trainable += [f"{name}.{key}" for key in own]

    def in_order_of(self, layers: Iterable[str]) -> Written:
        """The same in the order of the model, which need not be that of its files."""
        place = {name: number for number, name in enumerate(layers)}
        return Written(
            Changes(dict(sorted(self.changes.layers.items(), key=lambda item: place[item[0]])), {}),
            sorted(self.rows, key=lambda row: place[row["name"]]),
            self.totals,
            sorted(self.trainable, key=lambda name: place[name.rpartition(".")[0]]),
        )

    def _count(self, side: str, numbers: int, nonzeros: int) -> None:
        total = self.totals[side]
        total[0], total[1] = total[0] + numbers, total[1] + nonzeros


def compress_layers(
    staging: Path, checkpoint: Checkpoint, method: Method, *, options: Mapping[str, Any],
    patterns: Mapping[str, list[str]], calibration: Data | None, batch_size: int, device: str,
    progress: Callable[[str], None],
) -> Written:  # fmt: skip
    """Read, compress and write one tensor after the other."""
    model, stored = hollow_source(checkpoint, device)
    layers = linear_layers(model, **patterns)
    moments: Mapping[str, Tensor] = {}
    if calibration is not None:
        progress("calibrating layer by layer")
        moments = second_moments(model, stored, layers, calibration, batch_size=batch_size, device=device)
    targets = _targets(model, stored, layers)
    expected = model.state_dict()
    written = Written()
    for file in shards_of(checkpoint):
        with shard(staging, file) as writer:
            for name, item in stored.items():
                if item.path.name != file:
                    continue
                tensor = read(item)
                if tensor.is_floating_point():
                    tensor = tensor.to(expected[name].dtype)
                if name not in targets:
                    written.keep(tensor)
                    writer.add(name, tensor)
                    continue
                layer, prefix = targets[name], name.removesuffix("weight")
                progress(f"{layer}: {method.loaded.paper.key}")
                new = _compressed(layer, layers[layer], tensor, method, moments.get(layer), options, device)
                bias = stored.get(f"{prefix}bias")
                new.bias = None if bias is None else nn.Parameter(read(bias), requires_grad=False)
                weight = _upright(tensor, layers[layer])
                written.replace(layer, weight, new, listed=type(new) in method.layers.values())
                for key, value in _state(new, layers[layer]).items():
                    writer.add(f"{prefix}{key}", value)
    return written.in_order_of(layers)


def _upright(weight: Tensor, layer: nn.Module) -> Tensor:
    """A matrix (out, in) from how the layer stores it, or the other way round: ``Conv1D`` has it transposed."""
    return weight if isinstance(layer, nn.Linear) else weight.T


def _state(new: Any, old: nn.Module) -> dict[str, Tensor]:
    """The tensors of a new layer as the checkpoint has them, without the bias, which it has already."""
    tensors = {key: value for key, value in new.state_dict().items() if key != "bias"}
    return {"weight": _upright(tensors["weight"], old)} if type(new) is nn.Linear else tensors


def _targets(model: nn.Module, stored: Mapping[str, Stored], layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """The layers by the name under which their weight is stored; a shared layer may be stored under another name."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(f"{name}.weight")
    found = {}
    for layer, module in layers.items():
        name = next((name for name in names[id(module)] if name in stored), None)
        if name is None:
            raise PorismError(f"{layer}.weight is not in the checkpoint under that name; exclude it")
        found[name] = layer
    return found


@torch.no_grad()
def _compressed(
    name: str, old: nn.Module, tensor: Tensor, method: Method, moment: Tensor | None, options: Mapping[str, Any],
    device: str,
) -> Any:  # fmt: skip
    weight = _upright(tensor, old).to(device).float().contiguous()
    if not bool(weight.isfinite().all()):
        raise ParameterError(f"{name}.weight must be finite, got NaN or infinity")
    assert method.one_layer is not None
    new = method.one_layer(name, weight, moment, **options)
    ordinary = type(new) is nn.Linear
    if not ordinary and type(new) not in method.layers.values():
        raise PorismError(
            f"{method.loaded.paper.key} made a {type(new).__name__} of {name}, which is not in its file's LAYERS; "
            "this is a fault of the plugin"
        )
    if not is_linear(old) or (new.out_features, new.in_features) != tuple(matrix(old).shape):
        raise PorismError(f"{method.loaded.paper.key} made {name} another shape; this is a fault of the plugin")
    if not ordinary and not isinstance(old, nn.Linear):
        new.conv1d = True
    return new.to(tensor.dtype)
