"""The method of :mod:`porism_plugins.peft.adalora`: its options, checked before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Interval
from torch import nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import HEADS, matrix
from porism_plugins.peft._engine import Adapter, adapt
from porism_plugins.peft._svd import SVDLinear

Rank = Annotated[int, Interval(ge=1, le=1_000_000)]
OPTIONS = (
    Parameter("rank", int, 12, low=1),
    Parameter("target_rank", int, 8, low=1),
    Parameter("alpha", float, 16.0, low=0.0, low_open=True),
    Parameter("seed", int, 0, low=0, high=2**63 - 1),
)


def adalora(
    model: nn.Module, /, *, rank: Rank = 12, target_rank: Rank = 8,
    alpha: Annotated[float, Interval(gt=0, le=1_000_000)] = 16.0, seed: Annotated[int, Interval(ge=0)] = 0,
    inplace: bool = False, include: Sequence[str] = ("*",), exclude: Sequence[str] = HEADS,
    also_train: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """Give the linear layers of a model increments P diag(lambda) Q to train, and freeze the rest (Eq. 3).

    It computes exactly what it did until it is trained: lambda is zero. Train with :func:`penalty` in the loss and a
    :class:`RankBudget` after the optimiser, which brings the triplets down to the target.

    Parameters
    ----------
    model
        Its layers may be ``nn.Linear`` or ``Conv1D``, in any floating dtype, on any device.
    rank
        Triplets of each layer at the start, r_0; about 1.5 times the target in the paper.
    target_rank
        Triplets of a layer on average at the end, at most ``rank``. At ``rank`` no triplet is ever taken away.
    alpha
        Increments enter with alpha / rank, of the rank at the start for good.
    seed
        Of the entries of P and Q, N(0, 0.02^2).
    inplace
        Change the model itself instead of a copy.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`; tied weights and output heads are left alone by default.
    also_train
        Patterns of modules that stay trainable as they are, such as a new ``classifier``.

    Returns
    -------
    torch.nn.Module
        With :class:`SVDLinear` layers, whose ``lora_A``, ``lora_B`` and ``lora_E`` train.

    Raises
    ------
    ParameterError
        If an option is out of its range, no layer matches, or one is tied, on the meta device, quantised, not finite,
        or smaller than the rank. The model is as it was then.

    Examples
    --------
    >>> model = adalora(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), rank=3, target_rank=2)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad][:3]
    ['0.lora_A', '0.lora_B', '0.lora_E']
    """
    for option, value in zip(OPTIONS, (rank, target_rank, alpha, seed), strict=True):
        option.validate(value)
    if target_rank > rank:
        raise ParameterError(f"target_rank must be at most rank {rank}, got {target_rank}")
    generator = torch.Generator().manual_seed(seed)

    def make(name: str, layer: nn.Module) -> Adapter:
        if min(matrix(layer).shape) < rank:
            raise ParameterError(
                f"rank must be at most the smaller side of each matrix, got {rank}, but {name}.weight is "
                f"{' x '.join(map(str, matrix(layer).shape))}; exclude {name}"
            )
        return SVDLinear(layer, rank=rank, target_rank=target_rank, alpha=alpha, generator=generator)

    return adapt(model, make, include=include, exclude=exclude, also_train=also_train, inplace=inplace)
