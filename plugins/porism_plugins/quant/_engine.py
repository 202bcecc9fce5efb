"""What quantisation papers share: linear layers on packed codes with a low-rank term, put into any torch model.

A paper feeds :func:`quantise_linears` with its own quantiser, or with a function from a layer's name and matrix to
codes and factors. The result is an ordinary module: it trains its factors, moves, saves and loads as others do.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.surgery import linear_layers, matrix, replace
from porism_plugins.quant._quantisers import Quantised, Quantiser

__all__ = ["Layer", "Quantised", "Quantiser", "QuantizedLinear", "quantise_linears"]

# Output heads, which the papers leave alone.
HEADS = ("lm_head", "embed_out", "classifier", "score", "qa_outputs")


class Layer(NamedTuple):
    """A quantised matrix and the factors of a low-rank term, (out, rank) times (rank, in), or None."""

    quantised: Quantised
    lora_B: Tensor | None = None
    lora_A: Tensor | None = None


Fit = Callable[[str, Tensor], Layer]


class QuantizedLinear(nn.Module):
    """A linear layer whose frozen matrix is packed codes and scales, with a trainable low-rank term of scale 1.

    ``y = x (Q + lora_B lora_A)' + bias``. The dense matrix exists only within a forward or backward pass.

    Parameters
    ----------
    in_features, out_features
        As of :class:`torch.nn.Linear`.
    quantiser
        How codes become numbers.
    rank
        Of the low-rank term; 0 for none.
    bias
        Whether there is one.
    dtype
        Of bias, factors and the dense matrix; scales stay float32 wherever the module is moved or cast.
    conv1d
        Whether it stands for a transposed ``Conv1D``; only :func:`dequantised` asks.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 32))
    >>> _ = quantise_linears(model, Quantiser(bits=4))
    >>> model[0].nbytes(), model(torch.zeros(2, 64)).shape  # 1024 of codes, 128 of scales, 128 of bias
    (1280, torch.Size([2, 32]))
    """

    codes: Tensor
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
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.quantiser, self.dtype, self.conv1d = quantiser, dtype, conv1d
        count, place = in_features * out_features, {"dtype": dtype, "device": device}
        blocks = -(-count // quantiser.block_size)
        packed = quantiser.nbytes(count) - 4 * blocks
        self.register_buffer("codes", torch.zeros(packed, dtype=torch.uint8, device=device))
        self.register_buffer("scales", torch.zeros(blocks, device=device))
        self.bias = nn.Parameter(torch.zeros(out_features, **place)) if bias else None
        self.lora_A = nn.Parameter(torch.zeros(rank, in_features, **place)) if rank else None
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, **place)) if rank else None

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

    def nbytes(self) -> int:
        """Bytes of codes, scales, bias and factors."""
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        y = _Frozen.apply(x, self)
        if self.lora_A is not None and self.lora_B is not None:
            y = y + F.linear(F.linear(x, self.lora_A), self.lora_B)
        return y if self.bias is None else y + self.bias

    def options(self) -> dict[str, Any]:
        """What, beside the state dict, rebuilds the layer; JSON can hold it."""
        return {
            "quantiser": dataclasses.asdict(self.quantiser), "rank": self.rank, "bias": self.bias is not None,
            "dtype": str(self.dtype).removeprefix("torch."), "conv1d": self.conv1d,
        }  # fmt: skip

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.in_features}, {self.out_features}, bits={self.quantiser.bits}, rank={self.rank}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Cast factors and bias, not the scales, which would lose digits."""
        scales = self.scales
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.codes.device)).dtype
        super()._apply(fn, recurse)
        if self.scales.dtype != scales.dtype:
            self.scales = scales.to(self.scales.device)
        return self


class _Frozen(torch.autograd.Function):
    """x Q', where the backward pass dequantises again rather than keep a dense matrix of every layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.backbone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.backbone().to(gradient.dtype), None


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
    layers = chosen(model, include=include, exclude=exclude)
    model.requires_grad_(False)
    for name, old in layers.items():
        values = matrix(old).detach().float()
        found = Layer(fit.quantise(values)) if isinstance(fit, Quantiser) else fit(name, values)
        replace(model, name, _quantised_layer(old, found))
    return model


def chosen(model: nn.Module, *, include: Sequence[str], exclude: Sequence[str]) -> dict[str, nn.Module]:
    """The layers that :func:`quantise_linears` would replace, with every reason against it checked."""
    layers = linear_layers(model, include=include, exclude=exclude)
    if "" in layers:
        raise ParameterError("model is itself a linear layer, which cannot be replaced; wrap it in nn.Sequential")
    for name, layer in layers.items():
        if not bool(matrix(layer).isfinite().all()):
            raise ParameterError(f"{name}.weight must be finite, got NaN or infinity")
    return layers


def quantised_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantised layers of a model by name.

    Raises
    ------
    ParameterError
        If there are none.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}
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
    """Write a quantised model's tensors and the options of its layers into one safetensors file."""
    options = {name: layer.options() for name, layer in quantised_layers(model).items()}
    save_model(model, str(path), metadata={"quantised": json.dumps(options)})


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Turn a model of the same architecture, before quantisation, into the one that :func:`save` wrote, in place.

    Raises
    ------
    ParameterError
        If the file holds no quantised model, or one of other layers.
    """
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata() or {}
    if "quantised" not in metadata:
        raise ParameterError(f"{path} holds no quantised model; it must be written by save")
    modules = dict(model.named_modules())
    for name, options in json.loads(metadata["quantised"]).items():
        if name not in modules:
            raise ParameterError(f"model has no layer {name!r}, which {path} has; give one of the same architecture")
        old = modules[name]
        out_features, in_features = matrix(old).shape
        dtype, quantiser = getattr(torch, options.pop("dtype")), Quantiser.of(options.pop("quantiser"))
        device = old.weight.device
        new = QuantizedLinear(in_features, out_features, quantiser=quantiser, dtype=dtype, device=device, **options)
        replace(model, name, new.train(old.training))
    model.requires_grad_(False)
    load_model(model, str(path))
    for layer in quantised_layers(model).values():
        _train_factors(layer)
    return model


def _quantised_layer(old: nn.Module, found: Layer) -> QuantizedLinear:
    quantised, lora_B, lora_A = found
    rank = 0 if lora_A is None else len(lora_A)
    out_features, in_features = matrix(old).shape
    weight: Any = old.weight
    bias: Any = old.bias
    new = QuantizedLinear(
        in_features, out_features, quantiser=quantised.quantiser, rank=rank, bias=bias is not None,
        dtype=weight.dtype, device=weight.device, conv1d=not isinstance(old, nn.Linear),
    )  # fmt: skip
    new.codes.copy_(quantised.codes)
    new.scales.copy_(quantised.scales)
    new.requires_grad_(False)
    if bias is not None:
        new.bias = bias  # the same parameter, which may be shared
    if rank:
        new.lora_A.copy_(lora_A)
        new.lora_B.copy_(lora_B)
        _train_factors(new)
    return new.train(old.training)


def _train_factors(layer: QuantizedLinear) -> None:
    for factor in (layer.lora_A, layer.lora_B):
        if factor is not None:
            factor.requires_grad_(True)


def _dense_layer(layer: QuantizedLinear, weight: Tensor) -> nn.Module:
    if layer.conv1d:
        from transformers.pytorch_utils import Conv1D  # two seconds to import

        with torch.device("meta"):
            dense: Any = Conv1D(layer.out_features, layer.in_features)
    else:
        dense = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    dense.weight = nn.Parameter(weight.T.contiguous() if layer.conv1d else weight, requires_grad=False)
    dense.bias = layer.bias
    return dense.train(layer.training)
