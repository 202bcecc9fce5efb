"""What quantisation papers share: linear layers in a smaller form, put into any torch model, saved and loaded.

A paper feeds :func:`quantise_linears` with its own quantiser, or :func:`compress_linears` with a function from a
layer's name and matrix to the layer that takes its place. The result is an ordinary module: it moves, saves and loads
as others do.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.seeds import derive_seed
from porism.surgery import HEADS, linear_layers, matrix, replace, set_matrix
from porism_plugins.quant._frozen import FrozenLinear
from porism_plugins.quant._quantisers import Quantised, Quantiser

__all__ = [
    "FrozenLinear", "Layer", "Quantised", "Quantiser", "QuantizedLinear", "compress_linears",
    "quantise_linears",
]  # fmt: skip


class Layer(NamedTuple):
    """A quantised matrix and the factors of a low-rank term, (out, rank) times (rank, in), or None."""

    quantised: Quantised
    lora_B: Tensor | None = None
    lora_A: Tensor | None = None


# From a layer's name and its matrix, float32 of shape (out, in), to what takes its place, without a bias.
Fit = Callable[[str, Tensor], Layer | nn.Module]


class QuantizedLinear(FrozenLinear):
    """A linear layer whose frozen matrix is packed codes and scales, with a trainable low-rank term of scale 1.

    ``y = x (Q + lora_B lora_A)' + bias``. The dense matrix exists only within a forward or backward pass.

    Parameters
    ----------
    in_features, out_features, bias, conv1d
        As of :class:`FrozenLinear`.
    quantiser
        How codes become numbers.
    rank
        Of the low-rank term; 0 for none.
    dtype
        Of bias, factors and the dense matrix; scales stay float32 wherever the module is moved or cast.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 32))
    >>> _ = quantise_linears(model, Quantiser(bits=4))
    >>> model[0].nbytes(), model(torch.zeros(2, 64)).shape  # 1024 of codes, 128 of scales, 128 of bias
    (1280, torch.Size([2, 32]))
    """

    keeps = ("scales",)
    scales: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        quantiser: Quantiser,
        rank: int = 0,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        conv1d: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, dtype=dtype, device=device, conv1d=conv1d)
        self.quantiser, self.rank = quantiser, rank
        count, place = in_features * out_features, {"dtype": dtype, "device": device}
        blocks = -(-count // quantiser.block_size)
        packed = quantiser.nbytes(count) - 4 * blocks
        self.register_buffer("codes", torch.zeros(packed, dtype=torch.uint8, device=device))
        self.register_buffer("scales", torch.zeros(blocks, device=device))
        self.lora_A = nn.Parameter(torch.zeros(rank, in_features, **place)) if rank else None
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, **place)) if rank else None

    @classmethod
    def of(cls, layer: Layer) -> Self:
        """The module of codes and factors, float32 without a bias."""
        (codes, scales, (out_features, in_features), quantiser), lora_B, lora_A = layer
        rank = 0 if lora_A is None else len(lora_A)
        new = cls(in_features, out_features, quantiser=quantiser, rank=rank, bias=False, device=codes.device)
        tensors = {"codes": codes, "scales": scales, "lora_A": lora_A, "lora_B": lora_B}
        new.load_state_dict({name: tensor for name, tensor in tensors.items() if tensor is not None})
        return new

    @classmethod
    def from_options(
        cls, in_features: int, out_features: int, *, device: torch.device | str | None = None, **options: Any
    ) -> Self:
        """An empty layer of what :meth:`options` said, to be filled by ``load_state_dict``."""
        options["quantiser"] = Quantiser.of(options["quantiser"])
        return super().from_options(in_features, out_features, device=device, **options)

    def options(self) -> dict[str, Any]:
        """What, beside the state dict, rebuilds the layer; JSON can hold it."""
        return {"quantiser": dataclasses.asdict(self.quantiser), "rank": self.rank, **super().options()}

    def backbone(self) -> Tensor:
        """The quantised matrix, shape (out_features, in_features), in the layer's dtype."""
        shape = self.out_features, self.in_features
        return self.quantiser.dequantise(self.codes, self.scales, shape).to(self.dtype)

    @property
    def weight(self) -> Tensor:
        """The matrix that the layer multiplies by, low-rank term included, without a gradient."""
        if self.lora_A is None or self.lora_B is None:
            return self.backbone()
        return self.backbone() + self.lora_B.detach() @ self.lora_A.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        y = self.product(x)
        if self.lora_A is not None and self.lora_B is not None:
            y = y + F.linear(F.linear(x, self.lora_A), self.lora_B)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.in_features}, {self.out_features}, bits={self.quantiser.bits}, rank={self.rank}"


def quantise_linears(
    model: nn.Module, fit: Quantiser | Fit, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = HEADS
) -> nn.Module:
    """Replace linear layers by quantised ones, in place and one after the other, and freeze all but their factors.

    Parameters
    ----------
    model
        Any module with linear layers or ``Conv1D``.
    fit
        A quantiser, or a function of a layer's name and its matrix, float32 of shape (out, in), to a :class:`Layer`.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`; output heads are left alone unless ``exclude`` is given.

    Raises
    ------
    ParameterError
        If no layer matches, or one is tied, on the meta device, itself the model, or not finite. Nothing is changed
        then.
    """
    chosen(model, include=include, exclude=exclude)
    model.requires_grad_(False)
    one: Fit = (lambda name, weight: Layer(fit.quantise(weight))) if isinstance(fit, Quantiser) else fit
    compress_linears(model, one, include=include, exclude=exclude)
    for layer in quantised_layers(model).values():
        for factor in (getattr(layer, name, None) for name in ("lora_A", "lora_B")):
            if factor is not None:
                factor.requires_grad_(True)
    return model


def compress_linears(
    model: nn.Module, fit: Fit, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = HEADS
) -> nn.Module:
    """Replace linear layers by what ``fit`` returns, in place and one after the other, and freeze nothing.

    Arguments and errors are those of :func:`quantise_linears`. Where ``fit`` returns an ``nn.Linear``, its numbers are
    written into the layer that is there.
    """
    for name, old in chosen(model, include=include, exclude=exclude).items():
        found = fit(name, matrix(old).detach().float().contiguous())
        replace(model, name, succeed(old, QuantizedLinear.of(found) if isinstance(found, Layer) else found))
    return model


def succeed(old: nn.Module, new: nn.Module) -> nn.Module:
    """``new``, made without a bias in float32, with the bias, dtype, device, mode and orientation of ``old``."""
    if isinstance(new, nn.Linear):
        set_matrix(old, new.weight)
        return old
    weight: Any = old.weight
    new.to(device=weight.device, dtype=weight.dtype)
    new.bias = old.bias  # the same parameter, which may be shared
    new.conv1d = not isinstance(old, nn.Linear)
    return new.train(old.training)


def layer_generator(seed: int, name: str) -> torch.Generator:
    """A generator of one layer, so that its numbers are the same whichever layers are compressed beside it."""
    return torch.Generator().manual_seed(derive_seed(seed, name) % 2**63)


def chosen(model: nn.Module, *, include: Sequence[str], exclude: Sequence[str]) -> dict[str, nn.Module]:
    """The layers that :func:`quantise_linears` would replace, with every reason against it checked."""
    layers = linear_layers(model, include=include, exclude=exclude)
    if "" in layers:
        raise ParameterError("model is itself a linear layer, which cannot be replaced; wrap it in nn.Sequential")
    for name, layer in layers.items():
        if not bool(matrix(layer).isfinite().all()):
            raise ParameterError(f"{name}.weight must be finite, got NaN or infinity")
    return layers


def quantised_layers(model: nn.Module) -> dict[str, FrozenLinear]:
    """The layers of a model in a smaller form, by name.

    Raises
    ------
    ParameterError
        If there are none.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, FrozenLinear)}
    if not layers:
        raise ParameterError("model has no quantised layer; quantise it first")
    return layers


def dequantised(model: nn.Module, *, merge: bool = True) -> nn.Module:
    """A copy with ordinary dense layers; ``merge`` adds the low-rank terms, which are dropped otherwise."""
    dense = copy.deepcopy(model)
    for name, layer in quantised_layers(dense).items():
        replace(dense, name, _dense_layer(layer, layer.weight if merge else layer.backbone()))
    return dense


def save(model: nn.Module, path: str | Path) -> None:
    """Write a quantised model's tensors, and what rebuilds its layers, into one safetensors file."""
    layers = {name: [type(layer).__name__, layer.options()] for name, layer in quantised_layers(model).items()}
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    save_model(model, str(path), metadata={"quantised": json.dumps(layers), "trainable": json.dumps(trainable)})


def load(model: nn.Module, path: str | Path, *, layers: Sequence[type[FrozenLinear]] = (QuantizedLinear,)) -> nn.Module:
    """Turn a model of the same architecture, before quantisation, into the one that :func:`save` wrote, in place.

    Parameters
    ----------
    model
        Of the same architecture; its numbers are overwritten.
    path
        The file.
    layers
        Classes of the layers in it: ``LAYERS`` of the paper that made them.

    Raises
    ------
    ParameterError
        If the file holds no quantised model, or one of other layers or other classes.
    """
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata() or {}
    if "quantised" not in metadata:
        raise ParameterError(f"{path} holds no quantised model; it must be written by save")
    classes, modules = {layer.__name__: layer for layer in layers}, dict(model.named_modules())
    for name, (kind, options) in json.loads(metadata["quantised"]).items():
        if name not in modules:
            raise ParameterError(f"model has no layer {name!r}, which {path} has; give one of the same architecture")
        if kind not in classes:
            raise ParameterError(f"layers must have the class {kind} of {name!r}, got {', '.join(classes)}")
        old: Any = modules[name]
        out_features, in_features = matrix(old).shape
        new = classes[kind].from_options(in_features, out_features, device=old.weight.device, **options)
        replace(model, name, new.train(old.training))
    load_model(model, str(path))
    trainable = set(json.loads(metadata["trainable"]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return model


def _dense_layer(layer: FrozenLinear, weight: Tensor) -> nn.Module:
    if layer.conv1d:
        from transformers.pytorch_utils import Conv1D  # two seconds to import

        with torch.device("meta"):
            dense: Any = Conv1D(layer.out_features, layer.in_features)
    else:
        dense = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    dense.weight = nn.Parameter(weight.T.contiguous() if layer.conv1d else weight, requires_grad=False)
    dense.bias = layer.bias
    return dense.train(layer.training)
