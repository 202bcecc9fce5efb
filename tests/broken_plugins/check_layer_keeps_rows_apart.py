"""Its rows look at the mean of the batch. Reference: arXiv:2001.00001."""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import nn

from porism import Paper, always

PAPER = Paper(
    key="check_layer_keeps_rows_apart",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("layer",), family="broken", needs=("torch",), method="Layer",
)


class Layer(nn.Module):
    """A linear map of rows (N, 16) and a tanh."""

    rows_are_independent = True

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x):
        return torch.tanh(self.linear(x - x.mean(0) / 2))


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
