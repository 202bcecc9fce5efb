"""The stacked weights of many feed-forward experts, from ordinary modules and back."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism_plugins.moe._feed_forward import FeedForward, dense, feed_forward
from porism_plugins.moe._grouped import Activation, Stacked, by_group, by_loop


class Experts(nn.Module):
    """N two-layer networks with their weights stacked: any activation, with or without gates and biases.

    Parameters
    ----------
    experts
        N, from 1 on.
    width
        d, of inputs and outputs.
    inner
        Neurons of an expert.
    activation
        A function of a tensor, or a module.
    gated
        Whether an expert is ``down(act(gate x) * up x)``, as in Mixtral and Phi.
    bias
        Whether both layers have one.
    generator
        Of the initial weights, uniform on +-1/sqrt(fan_in). Without one they are zero, to be filled.

    Examples
    --------
    >>> experts = Experts(4, 8, 16, generator=torch.Generator().manual_seed(0))
    >>> experts(torch.ones(3, 8), torch.tensor([[0], [3], [0]])).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        experts: int,
        width: int,
        inner: int,
        *,
        activation: Activation = F.gelu,
        gated: bool = False,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"experts": experts, "width": width, "inner": inner}.items():
            if not isinstance(value, int) or value < 1:
                raise ParameterError(f"{name} must be a whole number from 1 on, got {value!r}")
        self.activation, self.gated = activation, gated
        rows = (1 + gated) * inner
        self.up = nn.Parameter(torch.zeros(experts, rows, width))
        self.down = nn.Parameter(torch.zeros(experts, width, inner))
        self.up_bias = nn.Parameter(torch.zeros(experts, rows)) if bias else None
        self.down_bias = nn.Parameter(torch.zeros(experts, width)) if bias else None
        if generator is not None:
            for tensors, fan_in in (((self.up, self.up_bias), width), ((self.down, self.down_bias), inner)):
                for tensor in tensors:
                    if tensor is not None:
                        nn.init.uniform_(tensor, -(fan_in**-0.5), fan_in**-0.5, generator=generator)

    @property
    def experts(self) -> int:
        """N."""
        return self.up.shape[0]

    @property
    def width(self) -> int:
        """d, of inputs and outputs."""
        return self.up.shape[2]

    @property
    def inner(self) -> int:
        """Neurons of an expert."""
        return self.down.shape[2]

    @property
    def stacked(self) -> Stacked:
        """The weights as functions take them."""
        return Stacked(self.up, self.down, self.up_bias, self.down_bias, self.activation, self.gated)

    def forward(self, x: Tensor, index: Tensor, scale: Tensor | None = None) -> Tensor:
        """Send rows to their experts and add up what comes back.

        Parameters
        ----------
        x
            Shape (T, d).
        index
            int64 of shape (T, k): the experts of each row, 0 to N - 1; -1 is a choice that was dropped and adds
            nothing.
        scale
            Factors of the outputs, shape (T, k); all ones if None.

        Returns
        -------
        Tensor of shape (T, d)
            In the dtype of x. An expert without rows gets a gradient of zero.
        """
        return by_group(x, index, scale, self.stacked)

    def reference(self, x: Tensor, index: Tensor, scale: Tensor | None = None) -> Tensor:
        """The same by a plain loop over experts: the oracle of the tests, and what ``forward`` is timed against."""
        return by_loop(x, index, scale, self.stacked)

    @classmethod
    def from_stacked(cls, weights: Stacked) -> Experts:
        """Take copies of these weights, in their dtype and where they are."""
        count, width, inner = weights.down.shape
        experts = cls(count, width, inner, activation=copy.deepcopy(weights.activation), gated=weights.gated)
        for name in ("up", "down", "up_bias", "down_bias"):
            tensor = getattr(weights, name)
            setattr(experts, name, None if tensor is None else nn.Parameter(tensor.detach().clone().contiguous()))
        return experts

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module]) -> Experts:
        """Stack copies of the weights of feed-forward modules of one shape.

        Raises
        ------
        ParameterError
            If there is none, one is not known (:func:`feed_forward`), or they differ in shape, dtype, biases or
            activation.

        Examples
        --------
        >>> first, second = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2))
        >>> Experts.from_modules([first, second]).experts
        2
        """
        networks = [feed_forward(module) for module in modules]
        if not networks:
            raise ParameterError("modules must hold at least one feed-forward network")
        kinds = {_kind(network) for network in networks}
        if len(kinds) > 1:
            raise ParameterError(f"modules must be of one shape, dtype and activation, got {sorted(map(str, kinds))}")
        parts = [_stacked(network) for network in networks]
        tensors = (
            None if values[0] is None else torch.cat(values)
            for values in zip(*(part[:4] for part in parts), strict=True)
        )
        return cls.from_stacked(Stacked(*tensors, parts[0].activation, parts[0].gated))

    def to_modules(self) -> list[FeedForward]:
        """Each expert as a module of its own, with copies of its weights."""
        return [self._module(expert) for expert in range(self.experts)]

    @classmethod
    def from_neurons(cls, module: nn.Module, neurons: Tensor) -> Experts:
        """Experts that are made of the neurons of one feed-forward module, which several of them may share.

        Parameters
        ----------
        module
            Any that :func:`feed_forward` knows.
        neurons
            int64 of shape (N, inner): the neurons of each expert.

        Returns
        -------
        Experts
            With the rows of ``up`` and the columns of ``down`` of their neurons, and the whole bias of ``down`` each.

        Examples
        --------
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> Experts.from_neurons(network, torch.tensor([[0, 1, 2], [0, 3, 4]])).inner
        3
        """
        whole = _stacked(feed_forward(module))
        count = len(neurons)
        tensors = (None if t is None else t.expand(count, *t.shape[1:]) for t in whole[:4])
        return cls.from_stacked(_selected(Stacked(*tensors, whole.activation, whole.gated), neurons))

    def narrowed(self, neurons: Tensor) -> Experts:
        """Copies of the experts with these neurons only: int64 of shape (N, kept)."""
        return Experts.from_stacked(_selected(self.stacked, neurons))

    def _module(self, expert: int) -> FeedForward:
        up, down = self.up[expert], self.down[expert]
        up_bias = None if self.up_bias is None else self.up_bias[expert]
        down_bias = None if self.down_bias is None else self.down_bias[expert]
        if not self.gated:
            return FeedForward(dense(up, up_bias), dense(down, down_bias), self.activation)
        gate, up = up.chunk(2)
        gate_bias, up_bias = (None, None) if up_bias is None else up_bias.chunk(2)
        return FeedForward(dense(up, up_bias), dense(down, down_bias), self.activation, dense(gate, gate_bias))

    def extra_repr(self) -> str:
        """Sizes, as printing a model shows them."""
        return f"experts={self.experts}, width={self.width}, inner={self.inner}, gated={self.gated}"


def _stacked(network: FeedForward) -> Stacked:
    """The weights of one network, with a first axis of length 1."""
    ups = [network.up] if network.gate is None else [network.gate, network.up]
    biases = [layer.bias for layer in ups]
    down_bias = network.down.bias
    return Stacked(
        torch.cat([layer.weight for layer in ups])[None],
        network.down.weight[None],
        None if biases[0] is None else torch.cat(biases)[None],
        None if down_bias is None else down_bias[None],
        network.activation,
        network.gate is not None,
    )


def _selected(weights: Stacked, neurons: Tensor) -> Stacked:
    count, _, inner = weights.down.shape
    if neurons.dim() != 2 or len(neurons) != count or neurons.shape[1] == 0:
        raise ParameterError(f"neurons must have shape ({count}, kept) with kept from 1 on, got {tuple(neurons.shape)}")
    if int(neurons.min()) < 0 or int(neurons.max()) >= inner:
        raise ParameterError(f"neurons must be from 0 to {inner - 1}, got {int(neurons.min())} to {int(neurons.max())}")
    neurons = neurons.to(weights.up.device)
    each = torch.arange(count, device=neurons.device)[:, None]
    rows = torch.cat([neurons, neurons + inner], 1) if weights.gated else neurons
    return weights._replace(
        up=weights.up[each, rows],
        down=weights.down.transpose(1, 2)[each, neurons].transpose(1, 2),
        up_bias=None if weights.up_bias is None else weights.up_bias[each, rows],
    )


def _kind(network: FeedForward) -> tuple[object, ...]:
    """What networks must have in common to be stacked."""
    layers = [layer for layer in (network.gate, network.up, network.down) if layer is not None]
    activation = network.activation
    shapes = tuple((tuple(layer.weight.shape), layer.bias is not None, str(layer.weight.dtype)) for layer in layers)
    return (shapes, repr(activation) if isinstance(activation, nn.Module) else getattr(activation, "__name__", ""))
