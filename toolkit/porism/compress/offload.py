"""Models whose weights stay on the disk: each module reads its own when it is called and drops them after.

Between calls a parameter is one NaN seen as a whole matrix, which takes no memory: it has shape, dtype and device for
whoever asks, and a module that computes with another's weights behind its back gives NaN, which is noticed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from porism.compress.tensors import Stored, read


def placeholder(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor like this one that takes no memory: NaN everywhere, or zero where the dtype has no NaN."""
    fill = math.nan if tensor.is_floating_point() else 0
    return torch.full((), fill, dtype=tensor.dtype, device=device).expand(tensor.shape)


def emptied(model: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """Put placeholders where tensors are on the meta device, in place; tied parameters stay tied, buffers move."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in made:
                    empty = placeholder(parameter, device)
                    made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = placeholder(buffer, device) if buffer.is_meta else buffer.to(device)
    return model


@contextlib.contextmanager
def reading(model: nn.Module, stored: Mapping[str, Stored]) -> Iterator[nn.Module]:
    """Within the block modules of an emptied model compute with what ``stored`` has under their names."""
    aliases = _aliases(model, stored)
    with contextlib.ExitStack() as stack:
        for prefix, module in model.named_modules():
            own = [
                (slot, key, stored[found])
                for slot in (module._parameters, module._buffers)
                for key, tensor in slot.items()
                if tensor is not None and (found := aliases.get(f"{prefix}.{key}".lstrip(".")))
            ]
            if own:
                before, after = _hooks(own)
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after, always_call=True).remove)
        yield model


def fill(model: nn.Module, stored: Mapping[str, Stored], device: torch.device | str = "cpu") -> nn.Module:
    """Read every tensor of an emptied model into memory, in place; tied parameters are read once."""
    aliases = _aliases(model, stored)
    made: dict[str, Any] = {}
    for prefix, module in model.named_modules():
        for slot in (module._parameters, module._buffers):
            for key, tensor in slot.items():
                found = aliases.get(f"{prefix}.{key}".lstrip("."))
                if tensor is not None and found:
                    if found not in made:
                        made[found] = _like(tensor, stored[found], device, tensor.requires_grad)
                    slot[key] = made[found]
    return model


def _aliases(model: nn.Module, stored: Mapping[str, Stored]) -> dict[str, str]:
    """For each tensor of the model the name under which it is stored, which may be that of a tied one."""
    names: dict[int, list[str]] = {}
    everything = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in everything:
        names.setdefault(id(tensor), []).append(name)
    found: dict[str, str] = {}
    for group in names.values():
        first = next((name for name in group if name in stored), None)
        if first is not None:
            found |= dict.fromkeys(group, first)
    return found


def _like(tensor: Tensor, item: Stored, device: torch.device | str, requires_grad: bool = False) -> Tensor:
    """The stored tensor in the dtype of the model's, as transformers casts what it loads."""
    values = read(item).to(device)
    if tensor.is_floating_point() and values.is_floating_point():
        values = values.to(tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=requires_grad and values.is_floating_point())
    return values


def _hooks(own: list[tuple[dict[str, Any], str, Stored]]) -> tuple[Callable[..., None], Callable[..., None]]:
    empty: list[Tensor] = []

    def before(module: nn.Module, inputs: Any) -> None:
        empty[:] = [slot[key] for slot, key, _ in own]
        for slot, key, item in own:
            slot[key] = _like(slot[key], item, slot[key].device)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        for (slot, key, _), tensor in zip(own, empty, strict=True):
            slot[key] = tensor

    return before, after
