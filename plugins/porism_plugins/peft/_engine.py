"""What papers on fine-tuning with few parameters share: linear layers with a trainable increment, put into any model.

A paper writes a subclass of :class:`Adapter` that says what its increment is, and feeds :func:`adapt` with a function
from a layer to it. Everything else is here: choosing and freezing layers, merging, taking adapters out, counting bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.surgery import HEADS, linear_layers, matrix, replace, set_matrix


class Adapter(nn.Module):
    """A frozen linear layer with a trainable increment of its matrix.

    A subclass registers its parameters and writes :meth:`delta`; where that is cheaper, :meth:`add_increment` as well.

    Parameters
    ----------
    base
        ``nn.Linear`` or ``Conv1D``; the same module, not a copy.
    """

    merged_weight: Tensor  # a buffer while merged

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.out_features, self.in_features = matrix(base).shape
        self.train(base.training)

    def delta(self) -> Tensor:
        """The increment, shape (out_features, in_features)."""
        raise NotImplementedError

    def add_increment(self, x: Tensor, y: Tensor) -> Tensor:
        """``y`` plus what the increment makes of ``x``, in the dtype of ``y``."""
        delta = self.delta()
        return y + F.linear(x.to(delta.dtype), delta).to(y.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        if self.merged:
            return F.linear(x, self.merged_weight, self.bias)
        return self.add_increment(x, self.base(x))

    @property
    def weight(self) -> Tensor:
        """The matrix that the layer multiplies by, in the dtype of the frozen one, without a gradient."""
        weight = matrix(self.base).detach()
        return (weight.to(self._wide()) + self.delta().detach()).to(weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's."""
        found: Any = self.base.bias
        return found

    @property
    def merged(self) -> bool:
        """Whether the layer computes with one matrix, through which no gradient reaches the adapter."""
        return "merged_weight" in self._buffers

    def merge(self) -> None:
        """Compute with one dense matrix; the frozen one is kept beside it, so that :meth:`unmerge` is exact."""
        self.register_buffer("merged_weight", self.weight, persistent=False)

    def unmerge(self) -> None:
        """Drop the dense matrix of :meth:`merge`."""
        if self.merged:
            del self.merged_weight

    def own_parameters(self) -> list[nn.Parameter]:
        """Those of the adapter, without the frozen layer's."""
        return list(self.parameters(recurse=False))

    def nbytes(self) -> int:
        """Bytes of the adapter's own parameters."""
        return sum(parameter.nbytes for parameter in self.own_parameters())

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.in_features}, {self.out_features}"

    def _wide(self) -> torch.dtype:
        return torch.promote_types(matrix(self.base).dtype, torch.float32)


def adapt(
    model: nn.Module, make: Callable[[str, nn.Module], Adapter], *, include: Sequence[str] = ("*",),
    exclude: Sequence[str] = HEADS, also_train: Sequence[str] = (), inplace: bool = False,
) -> nn.Module:  # fmt: skip
    """Put an adapter in the place of each linear layer that is chosen, and freeze all else.

    Parameters
    ----------
    model
        Left alone unless ``inplace``.
    make
        From a layer's name and the layer to an adapter around it. It must refuse before it changes anything.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`; output heads are left alone unless ``exclude`` is given.
    also_train
        Patterns of modules that stay trainable as they are, such as a new ``classifier``.
    inplace
        Change the model itself instead of a copy.

    Raises
    ------
    ParameterError
        If a pattern matches nothing, or a layer is tied, on the meta device, quantised, not finite, itself the model,
        or has an adapter already. Nothing is changed then.
    """
    model = model if inplace else copy.deepcopy(model)
    if taken := [name for name, module in model.named_modules() if isinstance(module, Adapter)]:
        raise ParameterError(f"model has adapters already, at {taken[0]}; merge them with dense(model) first")
    layers = linear_layers(model, include=include, exclude=exclude)
    if "" in layers:
        raise ParameterError("model is itself a linear layer, which cannot be replaced; wrap it in nn.Sequential")
    for name, layer in layers.items():
        if not bool(matrix(layer).isfinite().all()):
            raise ParameterError(f"{name}.weight must be finite, got NaN or infinity")
    trained = [module for pattern in also_train for module in _named(model, pattern)]
    made = {name: make(name, layer) for name, layer in layers.items()}
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    for name, adapter in made.items():
        adapter.base.requires_grad_(False)
        replace(model, name, adapter)
    return model


def _named(model: nn.Module, pattern: str) -> Iterator[nn.Module]:
    """Modules whose name, or the end of it, matches."""
    found = [m for name, m in model.named_modules() if fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")]
    if not found:
        there = ", ".join(name for name, _ in model.named_children())
        raise ParameterError(f"also_train: no module matches {pattern!r}; there are: {there}")
    yield from found


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """The adapters of a model by name, shared ones once.

    Raises
    ------
    ParameterError
        If there are none.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, Adapter)}
    if not found:
        raise ParameterError("model has no adapters; put them in first")
    return found


def merge(model: nn.Module) -> nn.Module:
    """Let each adapted layer compute with one dense matrix, in place: as fast as the model without adapters.

    The frozen matrices stay beside the merged ones, at their price in memory, so that :func:`unmerge` restores the
    model bit for bit in every dtype, and a ``state_dict`` is the same whether merged or not. Do not train merged.
    """
    for layer in adapters(model).values():
        layer.merge()
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Undo :func:`merge`, in place and exactly."""
    for layer in adapters(model).values():
        layer.unmerge()
    return model


@torch.no_grad()
def dense(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The model with ordinary layers again, whose weights hold the increments; a copy unless ``inplace``."""
    model = model if inplace else copy.deepcopy(model)
    for name, layer in adapters(model).items():
        set_matrix(layer.base, layer.weight)
        layer.base.train(layer.training)
        replace(model, name, layer.base)
    return model


def adapter_bytes(model: nn.Module) -> int:
    """Bytes of the parameters of all adapters."""
    return sum(layer.nbytes() for layer in adapters(model).values())
