"""The method of :mod:`porism_plugins.quant.loftq`: checks, widths and quantisers for the alternation of each layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism_plugins.quant._alternation import decompose, mixed_precision, qlora
from porism_plugins.quant._engine import HEADS, Layer, Quantiser, chosen, quantise_linears
from porism_plugins.quant._low_rank import factors

OPTIONS = (
    Parameter("bits", float, 4.0, low=2, high=8),
    Parameter("rank", int, 16, low=1),
    Parameter("rounds", int, 5, low=0),
    Parameter("keep", str, "last", choices=("last", "best")),
    Parameter("svd", str, "auto", choices=("auto", "full", "randomised")),
    Parameter("seed", int, 0, low=0, high=2**63 - 1),
)


def loftq(
    model: nn.Module, /, *, bits: float = 4, rank: int = 16, rounds: int = 5, levels: str = "normal",
    scale: str = "absmax", block_size: int = 64, mixed: bool = False, keep: str = "last", svd: str = "auto",
    seed: int = 0, inplace: bool = False, include: Sequence[str] = ("*",), exclude: Sequence[str] = HEADS,
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
    for option, value in zip(OPTIONS, (bits, rank, rounds, keep, svd, seed), strict=True):
        option.validate(value)
    if bits != int(bits) and not mixed:
        raise ParameterError(f"bits must be whole unless mixed, got {bits:g}")
    layers = chosen(model, include=include, exclude=exclude)
    if small := [name for name, layer in layers.items() if min(layer.weight.shape) < rank]:
        raise ParameterError(f"rank must be at most the smaller side of each matrix, got {rank}; exclude {small[0]}")
    widths = mixed_precision(list(layers), bits) if mixed else dict.fromkeys(layers, int(bits))
    quantisers = {b: Quantiser(b, levels, block_size, scale) for b in set(widths.values())}
    generator = torch.Generator().manual_seed(seed)

    def fit(name: str, weight: Tensor) -> Layer:
        if rounds == 0:
            return qlora(weight, quantisers[widths[name]], rank, generator)

        def low_rank(residual: Tensor) -> tuple[Tensor, Tensor]:
            return factors(residual, rank, generator, svd=svd)

        return decompose(weight, quantisers[widths[name]], low_rank, rounds=rounds, keep=keep).layer

    return quantise_linears(model if inplace else copy.deepcopy(model), fit, include=include, exclude=exclude)
