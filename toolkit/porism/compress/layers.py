"""What a compressed model has in place of an ordinary one's modules: written as JSON, and put back from it.

Nothing is ever imported by a name that stands in the JSON: classes come from the paper's own ``LAYERS``, or are the
linear layers of torch and transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from porism.errors import ParameterError, PorismError, did_you_mean
from porism.surgery import is_linear, matrix, replace

_MODULE_STATE = {"training"}


@dataclasses.dataclass(frozen=True)
class Changes:
    """How a model differs from the one that its configuration or factory builds.

    ``layers``: by name, what stands there instead (class, sizes, options). ``attributes``: whole numbers of other
    modules that changed, such as a number of heads.
    """

    layers: dict[str, dict[str, Any]]
    attributes: dict[str, dict[str, int]]

    @property
    def ordinary(self) -> bool:
        """Whether the model is just as its configuration says."""
        return not self.layers and not self.attributes


def changes(model: nn.Module, original: nn.Module, layers: Mapping[str, type[Any]], key: str) -> Changes:
    """Compare a compressed model with a fresh one of the same configuration or factory.

    Raises
    ------
    PorismError
        If the model has modules that cannot be rebuilt: neither ordinary nor among the paper's ``LAYERS``.
    """
    before, after = dict(original.named_modules()), dict(model.named_modules())
    special = {name: module for name, module in after.items() if type(module) in layers.values()}
    found = {name: _special(module) for name, module in special.items()}
    attributes: dict[str, dict[str, int]] = {}
    inside = tuple(f"{name}." for name in special)
    for name, module in after.items():
        if name in special or (inside and name.startswith(inside)):
            continue
        old: Any = before.get(name)
        if type(old) is not type(module):
            raise PorismError(
                f"{key} put {type(module).__name__} where {name or 'the model'} was, not one of its file's LAYERS, "
                "so that it could not be loaded again; this is a fault of the plugin"
            )
        if is_linear(module):
            if (matrix(module).shape, module.bias is None) != (matrix(old).shape, old.bias is None):
                found[name] = _linear(module)
        elif numbers := _numbers_that_differ(module, old):
            attributes[name] = numbers
    return Changes(found, attributes)


def rebuild(model: nn.Module, found: Changes, layers: Mapping[str, type[Any]], key: str) -> nn.Module:
    """Put the modules of :func:`changes` into a fresh model, in place; new ones are on the meta device.

    Raises
    ------
    ParameterError
        If a module is of a class that the paper does not list, or the model has no such place.
    """
    places = dict(model.named_modules())
    for name, record in found.layers.items():
        if name not in places:
            raise ParameterError(f"the model has no layer {name!r}{did_you_mean(name, places)}; it is another model")
        replace(model, name, _built(record, layers, key).train(places[name].training))
    for name, numbers in found.attributes.items():
        for attribute, value in numbers.items():
            old = vars(places.get(name, nn.Module())).get(attribute)
            if not _is_whole(old) or not _is_whole(value):
                raise ParameterError(f"the model has no number {name}.{attribute}; it is another model")
            setattr(places[name], attribute, value)
    return model


def options_of(layer: Any) -> dict[str, Any]:
    """A compressed layer's own description: what :func:`rebuild` gives to ``from_options``."""
    return {"in_features": layer.in_features, "out_features": layer.out_features, "options": layer.options()}


def numbers_in(module: nn.Module) -> tuple[int, int]:
    """Numbers that a module holds itself, and how many are not zero; codes count as the weights they stand for.

    Examples
    --------
    >>> layer = nn.Linear(2, 3)
    >>> _ = nn.init.zeros_(layer.bias)
    >>> numbers_in(layer)
    (9, 6)
    """
    tensors = list(module.state_dict().values())
    floating = [t for t in tensors if t.is_floating_point()]
    count, nonzero = sum(t.numel() for t in floating), sum(int(t.count_nonzero()) for t in floating)
    if len(floating) < len(tensors) and hasattr(module, "options"):
        weight: Tensor = module.weight  # type: ignore[assignment]
        count, nonzero = count + weight.numel(), nonzero + int(weight.count_nonzero())
    return count, nonzero


def _special(module: Any) -> dict[str, Any]:
    return {"class": type(module).__name__, **options_of(module)}


def _linear(module: nn.Module) -> dict[str, Any]:
    outputs, inputs = matrix(module).shape
    kind = "Linear" if isinstance(module, nn.Linear) else "Conv1D"
    weight: Any = module.weight
    dtype = str(weight.dtype).removeprefix("torch.")
    options = {"bias": module.bias is not None, "dtype": dtype}
    return {"class": kind, "in_features": inputs, "out_features": outputs, "options": options}


def _built(record: Mapping[str, Any], layers: Mapping[str, type[Any]], key: str) -> nn.Module:
    name, inputs, outputs = record["class"], int(record["in_features"]), int(record["out_features"])
    options = dict(record["options"])
    if name in layers:
        built: nn.Module = layers[name].from_options(inputs, outputs, device="meta", **options)
        return built
    if name not in ("Linear", "Conv1D"):
        known = ", ".join(layers) or "none"
        raise ParameterError(f"{key} has no layer class {name!r} (its LAYERS: {known}); written by another version?")
    dtype = getattr(torch, options["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ParameterError(f"there is no dtype {options['dtype']!r}")
    if name == "Conv1D":
        from transformers.pytorch_utils import Conv1D

        with torch.device("meta"):
            conv: Any = Conv1D
            transposed: nn.Module = conv(outputs, inputs).to(dtype)
        return transposed
    return nn.Linear(inputs, outputs, bias=bool(options["bias"]), device="meta", dtype=dtype)


def _numbers_that_differ(module: nn.Module, old: nn.Module) -> dict[str, int]:
    mine, theirs = vars(module), vars(old)
    return {
        name: value
        for name, value in mine.items()
        if name not in _MODULE_STATE and not name.startswith("_") and _is_whole(value)
        and _is_whole(theirs.get(name)) and theirs[name] != value
    }  # fmt: skip


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
