"""A constant in a list, which nothing moves. Reference: arXiv:2001.00001."""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import nn

from porism import Paper, always

PAPER = Paper(
    key="check_layer_casts_whole",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("layer",), family="broken", needs=("torch",), method="Layer",
)


class Layer(nn.Module):
    """A linear map of rows (N, 16) and a tanh."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)
        self.constants = [torch.full((8,), 0.5)]

    def forward(self, x):
        return torch.tanh(self.linear(x)) * self.constants[0].to(x)


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
