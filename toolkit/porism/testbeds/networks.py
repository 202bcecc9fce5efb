"""Small ReLU networks whose weights come from a generator that is passed in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """A torch generator on the CPU, seeded by a draw from ``rng``."""
    return torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))


def mlp(widths: Sequence[int], rng: np.random.Generator) -> nn.Sequential:
    """A ReLU network with these layer widths, input and output included.

    Weights and biases are uniform on +-1/sqrt(fan_in), as :class:`torch.nn.Linear` draws them.

    Examples
    --------
    >>> mlp([64, 8, 10], np.random.default_rng(0))(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """
    generator = torch_generator(rng)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layer = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")  # no draw from the global generator
        for weights in layer.parameters():
            nn.init.uniform_(weights, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
