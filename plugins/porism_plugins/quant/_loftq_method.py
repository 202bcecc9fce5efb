"""The method of :mod:`porism_plugins.quant.loftq`: checks, widths and quantisers for the alternation of each layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Interval
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import bind, parameters_of, validated
from porism.surgery import HEADS
from porism_plugins.quant._alternation import decompose, mixed_precision, qlora
from porism_plugins.quant._engine import (
    Quantiser,
    QuantizedLinear,
    chosen,
    layer_generator,
    quantise_linears,
)
from porism_plugins.quant._low_rank import factors

Bits = Annotated[float, Interval(ge=2, le=8)]
Rank = Annotated[int, Interval(ge=1)]
Rounds = Annotated[int, Interval(ge=0)]
Levels = Literal["normal", "uniform"]
Scale = Literal["absmax", "moments"]
BlockSize = Annotated[int, Interval(ge=1, le=1 << 20)]
Keep = Literal["last", "best"]
Svd = Literal["auto", "full", "randomised"]
Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]


def loftq(
    model: nn.Module, /, *, bits: Bits = 4.0, rank: Rank = 16, rounds: Rounds = 5, levels: Levels = "normal",
    scale: Scale = "absmax", block_size: BlockSize = 64, mixed: bool = False, keep: Keep = "last", svd: Svd = "auto",
    seed: Seed = 0, inplace: bool = False, include: Sequence[str] = ("*",), exclude: Sequence[str] = HEADS,
) -> nn.Module:  # fmt: skip
    """Quantise the linear layers of a model, each with trainable factors that make up for the loss (Algorithm 1).

    Parameters
    ----------
    model
        Its layers may be ``nn.Linear`` or ``Conv1D``, in float32, bfloat16 or float16, on any device.
    bits
        2 to 8 bits of a code, whole unless ``mixed``; a float32 scale a block adds 32 / ``block_size`` of a bit.
    rank
        Of the factors, at most the smaller side of each matrix.
    rounds
        T; 0 is QLoRA, with one factor zero and the other random.
    levels, scale
        ``"normal"`` with ``"absmax"`` is NormalFloat, ``"uniform"`` with ``"moments"`` the paper's uniform variant.
    block_size
        Weights that share a scale.
    mixed
        4 bits for the first blocks of the model and 2 for the rest, ``bits`` on average.
    keep
        ``"last"`` is the paper's; ``"best"`` returns the round of lowest error.
    svd
        ``"full"``, ``"randomised"``, or by ``"auto"`` the latter where the smaller side is at least 8 times the rank.
    seed
        Of the randomised SVD and of QLoRA's factor.
    inplace
        Change ``model`` layer by layer, rather than a copy.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`; tied weights and output heads are left alone by default.

    Returns
    -------
    torch.nn.Module
        Only ``lora_A`` and ``lora_B`` of its :class:`~porism_plugins.quant._engine.QuantizedLinear` layers train. They
        enter with scale 1. :func:`to_peft` exports it.

    Raises
    ------
    ParameterError
        If an option is out of its range, no layer matches, or one is tied, on the meta device, not finite, or smaller
        than the rank. The model is as it was then.

    Examples
    --------
    >>> model = loftq(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), bits=2, rank=4)
    >>> model[0], [name for name, p in model.named_parameters() if p.requires_grad][:2]
    (QuantizedLinear(64, 64, bits=2, rank=4), ['0.lora_A', '0.lora_B'])
    """
    options: dict[str, Any] = {
        "bits": bits, "rank": rank, "rounds": rounds, "levels": levels, "scale": scale, "block_size": block_size,
        "keep": keep, "svd": svd, "seed": seed,
    }  # fmt: skip
    bind(parameters_of(compress_layer), options)
    layers = chosen(model, include=include, exclude=exclude)
    if small := [name for name, layer in layers.items() if min(layer.weight.shape) < rank]:
        raise ParameterError(f"rank must be at most the smaller side of each matrix, got {rank}; exclude {small[0]}")
    _check_whole(bits, mixed=mixed)
    widths = mixed_precision(list(layers), bits) if mixed else dict.fromkeys(layers, bits)

    def fit(name: str, weight: Tensor) -> nn.Module:
        return compress_layer(name, weight, None, **options | {"bits": widths[name]})

    return quantise_linears(model if inplace else copy.deepcopy(model), fit, include=include, exclude=exclude)


@validated
def compress_layer(
    name: str, weight: Tensor, second_moment: Tensor | None = None, *, bits: Bits = 4.0, rank: Rank = 16,
    rounds: Rounds = 5, levels: Levels = "normal", scale: Scale = "absmax", block_size: BlockSize = 64,
    keep: Keep = "last", svd: Svd = "auto", seed: Seed = 0,
) -> QuantizedLinear:  # fmt: skip
    """What :func:`loftq` makes of one matrix, without a bias.

    Parameters
    ----------
    name
        Of the layer; with ``seed`` it decides the random numbers.
    weight
        float32, shape (out, in).
    second_moment
        Not needed.
    bits, rank, rounds, levels, scale, block_size, keep, svd, seed
        Of :func:`loftq`; without its ``mixed``, where widths depend on all layers.

    Raises
    ------
    ParameterError
        If an option is out of its range, or the matrix is smaller than the rank.

    Examples
    --------
    >>> import torch
    >>> compress_layer("0", torch.ones(64, 32), bits=2, rank=4).nbytes()  # 512 of codes, 128 of scales, 1536 of factors
    2176
    """
    _check_whole(bits, mixed=False)
    if min(weight.shape) < rank:
        raise ParameterError(f"rank must be at most the smaller side of each matrix, got {rank}; exclude {name}")
    quantiser, generator = Quantiser(int(bits), levels, block_size, scale), layer_generator(seed, name)

    def low_rank(residual: Tensor) -> tuple[Tensor, Tensor]:
        return factors(residual, rank, generator, svd=svd)

    if rounds == 0:
        return QuantizedLinear.of(qlora(weight, quantiser, rank, generator))
    return QuantizedLinear.of(decompose(weight, quantiser, low_rank, rounds=rounds, keep=keep).layer)


def _check_whole(bits: float, *, mixed: bool) -> None:
    if bits != int(bits) and not mixed:
        raise ParameterError(f"bits must be whole unless mixed, got {bits:g}")
