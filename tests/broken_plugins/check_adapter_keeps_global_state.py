"""Torch's global generator is seeded. Reference: arXiv:2001.00001."""

import copy
from typing import Annotated

import torch
from annotated_types import Interval
from porism import Paper, always
from porism.errors import ParameterError
from porism.surgery import linear_layers, replace
from torch import nn

PAPER = Paper(
    key="check_adapter_keeps_global_state",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("adapter",), family="broken", needs=("torch",), method="adapt",
)


class Adapted(nn.Module):
    def __init__(self, base, rank, generator):
        super().__init__()
        self.base = base
        place = {"dtype": base.weight.dtype, "device": base.weight.device}
        start = torch.randn(rank, base.in_features, generator=generator)
        self.down = nn.Parameter(start.to(**place) / rank)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, **place))
        self.train(base.training)

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


def adapt(model, /, *, rank=4, seed=0, include=("*",)):
    """Put a low-rank increment into each linear layer of a model.

    rank is that of the increments, seed of their start, include patterns of layers.
    """
    if not (isinstance(rank, int) and rank > 0):
        raise ParameterError(f"rank must be a whole number from 1 on, got {rank}")
    model = copy.deepcopy(model)
    layers = linear_layers(model, include=include)
    generator = torch.manual_seed(seed)
    model.requires_grad_(False)
    for name, layer in layers.items():
        replace(model, name, Adapted(layer, rank, generator))
    return model


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
