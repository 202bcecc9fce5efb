"""The modules of :func:`porism.testing.strategies.small_module`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Tokens of a vocabulary, positions of a sequence, and pixels along a side.
VOCABULARY, POSITIONS, SIDE = 5, 3, 4


class Tied(nn.Module):
    """One layer that is used twice, and a last one: parameters that get gradients from two places."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.shared = nn.Linear(width, width)
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """From (batch, width) to (batch, outputs)."""
        output: Tensor = self.last(self.shared(torch.tanh(self.shared(x))))
        return output


class Residual(nn.Module):
    """A block of layer norm, linear and ReLU beside a shortcut, and a last layer."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """From (batch, width) to (batch, outputs)."""
        output: Tensor = self.last(x + self.block(x))
        return output


class Attention(nn.Module):
    """Self-attention with one head over a few positions, averaged, and a last layer."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """From (batch, positions, width) to (batch, outputs)."""
        scores = self.queries(x) @ self.keys(x).mT / x.shape[-1] ** 0.5
        output: Tensor = self.last((scores.softmax(-1) @ self.values(x)).mean(-2))
        return output


class Bag(nn.Module):
    """The mean of the tokens' embeddings, and a last layer."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.last = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """From (batch, positions) to (batch, outputs)."""
        output: Tensor = self.last(self.embedding(tokens).mean(-2))
        return output


def build(family: str, width: int, outputs: int, generator: torch.Generator) -> nn.Module:
    """A module of the family with weights from the generator; torch's global one stays where it is."""
    with torch.random.fork_rng(devices=[]):  # constructors draw weights of their own
        module = _construct(family, width, outputs)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    return module


def inputs_for(family: str, batch: int, width: int, generator: torch.Generator) -> Tensor:
    """A batch that a module of the family takes."""
    match family:
        case "embedding":
            return torch.randint(VOCABULARY, (batch, POSITIONS), generator=generator)
        case "convolution":
            return torch.randn(batch, 1, SIDE, SIDE, generator=generator)
        case "attention":
            return torch.randn(batch, POSITIONS, width, generator=generator)
    return torch.randn(batch, width, generator=generator)


def _construct(family: str, width: int, outputs: int) -> nn.Module:
    match family:
        case "mlp":
            return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs))
        case "tied":
            return Tied(width, outputs)
        case "residual":
            return Residual(width, outputs)
        case "convolution":
            head = nn.Linear(width * SIDE**2, outputs)
            return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), head)
        case "embedding":
            return Bag(width, outputs)
        case "attention":
            return Attention(width, outputs)
    return nn.Linear(width, outputs)
