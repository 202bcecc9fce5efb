"""Parts of a model that each member has for itself, and passes of one member or of all in one.

Where a pass meets the first such part, the batch is repeated for each member; from there on the first axis is
(members x batch), and every part acts on its members' rows. Everything before is computed once.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porism.errors import ParameterError, did_you_mean
from porism.surgery import replace


@dataclasses.dataclass
class Pass:
    """One pass through a model: of one member, or of all for None; whether the batch has been repeated yet."""

    member: int | None
    rows: int
    repeated: bool = False


class Members(nn.Module):
    """One module for each member, in the place of the one that it was.

    Parameters
    ----------
    modules
        Of the members, in order; the first argument and the output (or its first entry) have the batch first.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(modules)
        self.current: Pass | None = None

    def __getattr__(self, name: str) -> Any:
        """What the model reads from the module whose place this is, such as a layer's kind of attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("members")[0], name)

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """Apply one member's module, or each one to its rows of (members x batch, ...)."""
        if self.current is None:
            raise ParameterError("the parts of members are run by the ensemble, not by the model that they are in")
        if self.current.member is not None:
            return self.members[self.current.member](x, *args, **options)
        count = len(self.members)
        parts = x.chunk(count) if self.current.repeated and len(x) == count * self.current.rows else [x] * count
        self.current.repeated = True
        found = [member(part, *args, **options) for member, part in zip(self.members, parts, strict=True)]
        if isinstance(found[0], Tensor):
            return torch.cat(found)
        return (torch.cat([output[0] for output in found]), *found[0][1:])


def give_each_member(model: nn.Module, names: Sequence[str], members: int, *, redraw: bool) -> None:
    """Put :class:`Members` in the place of submodules; the first member keeps what is there, the others have copies.

    Parameters
    ----------
    model
        Changed in place.
    names
        Of submodules, as in ``model.named_modules()``.
    members
        How many.
    redraw
        Whether the copies' weights are drawn anew, from torch's global generator, as the model draws its own.

    Raises
    ------
    ParameterError
        If there is no such submodule, or its class does not say how to draw its weights.
    """
    known = dict(model.named_modules())
    for name in names:
        if not name or name not in known:
            raise ParameterError(f"model has no submodule {name!r}{did_you_mean(name, list(known))}")
        copies = [copy.deepcopy(known[name]) for _ in range(members - 1)]
        if redraw:
            for fresh in copies:
                _draw_weights(model, fresh, name)
        replace(model, name, Members([known[name], *copies]))


def check_apart(names: Sequence[str]) -> None:
    """Raise a ParameterError if one of the submodules is named twice or lies within another."""
    for one, other in itertools.permutations(names, 2):
        if f"{other}.".startswith(f"{one}."):
            raise ParameterError(f"heads and own must not overlap: {other!r} is part of {one!r}")


def _draw_weights(model: nn.Module, fresh: nn.Module, name: str) -> None:
    for module in fresh.modules():
        if hasattr(model, "_init_weights"):  # a model of transformers
            model._init_weights(module)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ParameterError(f"{name!r} has a {type(module).__name__} without reset_parameters; pass it as own=")


@contextlib.contextmanager
def selected(model: nn.Module, member: int | None, rows: int) -> Iterator[None]:
    """A pass of one member, or of all for None, on a batch of so many rows."""
    parts = parts_of(model)
    current = Pass(member, rows)
    for part in parts:
        part.current = current
    try:
        yield
    finally:
        for part in parts:
            part.current = None


def parts_of(model: nn.Module) -> list[Members]:
    """The parts that each member has for itself."""
    return [module for module in model.modules() if isinstance(module, Members)]


def batch_of(inputs: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Rows of the first tensor among what a model is called with."""
    rows = next((len(x) for x in (*inputs, *options.values()) if isinstance(x, Tensor) and x.dim()), None)
    if rows is None:
        raise ParameterError("the model must be called with a tensor whose first axis is the batch")
    return rows


def only_member(model: nn.Module, member: int) -> nn.Module:
    """A copy of the model with one member's parts in their places, an ordinary model again."""
    single = copy.deepcopy(model)
    for name, module in list(single.named_modules()):
        if isinstance(module, Members):
            replace(single, name, module.members[member])
    return single


@contextlib.contextmanager
def seeded(device: torch.device, *names: int) -> Iterator[None]:
    """torch's generators of the CPU and of ``device`` by a hash of non-negative integers; as before at the end."""
    seed = int(np.random.SeedSequence(names).generate_state(1, np.uint64)[0] >> 1)
    backend = getattr(torch, device.type, None) if device.type not in ("cpu", "meta") else None
    devices = [] if backend is None else [backend.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices, device_type="cuda" if backend is None else device.type):
        torch.default_generator.manual_seed(seed)
        if backend is not None:
            with backend.device(devices[0]):
                backend.manual_seed(seed)
        yield
