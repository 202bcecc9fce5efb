"""Algorithm 1 of LoftQ on one matrix, QLoRA's start for comparison, and which layers get how many bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from porism.errors import ParameterError
from porism_plugins.quant._engine import Layer, Quantiser

# A residual of shape (out, in) to lora_B, (out, rank), and lora_A, (rank, in).
LowRank = Callable[[Tensor], tuple[Tensor, Tensor]]


class Decomposition(NamedTuple):
    """A layer, and the relative Frobenius errors ||W - Q - A B'|| / ||W|| before and after each round.

    ``errors[0]`` is QLoRA's, of Q alone.
    """

    layer: Layer
    errors: tuple[float, ...]


@torch.no_grad()
def decompose(
    weight: Tensor, quantiser: Quantiser, low_rank: LowRank, *, rounds: int = 5, keep: str = "last"
) -> Decomposition:
    """Alternate ``rounds`` >= 1 times between quantising and a low-rank fit (Algorithm 1).

    Parameters
    ----------
    weight
        W, float32 of shape (out, in).
    quantiser
        q_N.
    low_rank
        The fit of a residual; the paper's is the truncated SVD with balanced factors (Eq. 8).
    rounds
        T.
    keep
        ``"last"`` round, or the ``"best"``, so that the error falls in T.

    Examples
    --------
    >>> from porism_plugins.quant._low_rank import full_svd
    >>> weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    >>> errors = decompose(weight, Quantiser(bits=4), lambda residual: full_svd(residual, 8), rounds=2).errors
    >>> errors[0] > errors[1] > errors[2]
    True
    """
    norm = float(weight.norm()) or 1.0
    target, layer, errors = weight, None, []
    for _ in range(rounds):
        quantised = quantiser.quantise(target)  # Q_t = q_N(W - A_{t-1} B_{t-1}'), Eq. 7
        residual = weight - quantised.dequantise()
        if not errors:
            errors.append(float(residual.norm()) / norm)
        lora_B, lora_A = low_rank(residual)  # A_t and B_t transposed, Eq. 8
        product = lora_B @ lora_A
        error = float((residual - product).norm()) / norm
        if layer is None or keep == "last" or error < min(errors[1:]):
            layer = Layer(quantised, lora_B, lora_A)
        errors.append(error)
        target = weight - product
    assert layer is not None
    return Decomposition(layer, tuple(errors))


def qlora(weight: Tensor, quantiser: Quantiser, rank: int, generator: torch.Generator) -> Layer:
    """QLoRA's start: the nearest codes, ``lora_B`` zero and ``lora_A`` uniform on +-1/sqrt(in), as peft draws it."""
    lora_A = torch.rand(rank, weight.shape[1], generator=generator).to(weight)
    lora_A = (2 * lora_A - 1) * weight.shape[1] ** -0.5
    return Layer(quantiser.quantise(weight), weight.new_zeros(len(weight), rank), lora_A)


def mixed_precision(names: Sequence[str], bits: float) -> dict[str, int]:
    """4 bits for the layers of the first floor(L (bits - 2) / 2) of L blocks, 2 for the others.

    A block is what shares a name up to its first number: ``model.layers.3.self_attn.q_proj`` is of ``model.layers.3``.

    Examples
    --------
    >>> mixed_precision(["h.0.q", "h.0.v", "h.1.q", "h.2.q", "h.10.q"], 2.5)
    {'h.0.q': 4, 'h.0.v': 4, 'h.1.q': 2, 'h.2.q': 2, 'h.10.q': 2}
    """
    if not 2 <= bits <= 4:
        raise ParameterError(f"bits must be from 2 to 4 on average when mixed, got {bits:g}")
    blocks = {name: _block(name) for name in names}
    order = list(dict.fromkeys(blocks.values()))
    first = set(order[: math.floor(len(order) * (bits - 2) / 2)])
    return {name: 4 if block in first else 2 for name, block in blocks.items()}


def _block(name: str) -> str:
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: number + 1])
