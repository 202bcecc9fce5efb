"""A two-layer feed-forward network as a module, and such networks inside the modules of others."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism_plugins.moe._grouped import Activation

# What gate, up and down are called in transformers' Llama, its older Mixtral, and torch's encoder layer.
_NAMES = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"), (None, "linear1", "linear2"), (None, "up", "down"))


class FeedForward(nn.Module):
    """One expert as an ordinary module: ``down(act(up x))``, or ``down(act(gate x) * up x)`` where it has a gate.

    Parameters
    ----------
    up, down
        ``nn.Linear`` of shapes (d to inner) and (inner to d).
    activation
        A function of a tensor, or a module.
    gate
        ``nn.Linear`` of up's shape, or None.

    Examples
    --------
    >>> import torch
    >>> FeedForward(nn.Linear(4, 8), nn.Linear(8, 4), F.gelu)(torch.ones(2, 4)).shape
    torch.Size([2, 4])
    """

    def __init__(self, up: nn.Linear, down: nn.Linear, activation: Activation, gate: nn.Linear | None = None) -> None:
        super().__init__()
        self.up, self.down, self.activation, self.gate = up, down, activation, gate

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network to x of shape (..., d)."""
        up = self.up(x)
        down: Tensor = self.down(self.activation(up) if self.gate is None else self.activation(self.gate(x)) * up)
        return down


def feed_forward(module: nn.Module) -> FeedForward:
    """See a module as a feed-forward network; its linear layers are the module's own.

    Known are :class:`FeedForward`, ``nn.Sequential(Linear, activation, Linear)`` with dropout anywhere, modules with
    ``gate_proj``, ``up_proj``, ``down_proj`` (Llama, Phi), ``w1``, ``w3``, ``w2`` (Mixtral), ``linear1`` and
    ``linear2`` (torch's encoder layer).

    Raises
    ------
    ParameterError
        If it is none of these.
    """
    if isinstance(module, FeedForward):
        return module
    if isinstance(module, nn.Sequential):
        parts = [part for part in module if not isinstance(part, nn.Dropout)]
        if len(parts) == 3 and isinstance(parts[0], nn.Linear) and isinstance(parts[2], nn.Linear):
            return FeedForward(parts[0], parts[2], parts[1])
    for names in _NAMES:
        gate, up, down = (getattr(module, name, None) if name else None for name in names)
        if isinstance(up, nn.Linear) and isinstance(down, nn.Linear) and (gate is not None) == (names[0] is not None):
            activation = getattr(module, "act_fn", None) or getattr(module, "activation", None) or F.silu
            return FeedForward(up, down, activation, gate)
    raise ParameterError(
        f"{type(module).__name__} is not known as a feed-forward network; pass "
        "FeedForward(up, down, activation, gate) of its linear layers"
    )


def dense(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with copies of these, and no draw from the global generator."""
    layer = nn.Linear(*reversed(weight.shape), bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
