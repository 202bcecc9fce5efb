"""AdaLoRA's criterion for a singular triplet, those it is compared with, and how entries add up to triplets."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from porism.parameters import Parameter
from porism_plugins.peft._svd import SVDLinear

State = dict[str, Tensor]


class Layout:
    """Every entry of all adapters in one vector: equal shapes side by side, so that few operations serve any model.

    Parameters
    ----------
    layers
        Of a model, in its order; the vector is on the device of the first.
    """

    def __init__(self, layers: Sequence[SVDLinear]) -> None:
        self.parameters: list[Tensor] = []
        self.device = layers[0].lora_E.device
        # Of each group of equal vectors: where it is, its shape, the dimension to average, and its triplets' places.
        self._groups: list[tuple[slice, tuple[int, ...], int, Tensor]] = []
        starts = [0]
        for layer in layers:
            starts.append(starts[-1] + layer.rank)
        self.triplets, end = starts[-1], 0
        for name, dim in (("lora_A", 2), ("lora_B", 1)):
            groups: dict[torch.Size, list[int]] = defaultdict(list)
            for number, layer in enumerate(layers):
                groups[getattr(layer, name).shape].append(number)
            for shape, members in groups.items():
                self.parameters += [getattr(layers[number], name) for number in members]
                places = torch.cat([torch.arange(starts[number], starts[number + 1]) for number in members])
                size = len(members) * shape.numel()
                where = slice(end, end + size)
                self._groups.append((where, (len(members), *shape), dim, places.to(self.device)))
                end += size
        self.parameters += [layer.lora_E for layer in layers]
        self.size = end + self.triplets

    def gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """One vector, in float32 at least: a product of two small half-precision numbers is zero."""
        here = all(tensor.device == self.device for tensor in tensors)
        flat = torch.cat([t.reshape(-1) for t in (tensors if here else [t.to(self.device) for t in tensors])])
        return flat.to(torch.promote_types(flat.dtype, torch.float32))

    def values(self, entries: Tensor) -> Tensor:
        """Those of lambda, shape (triplets,), layer by layer."""
        return entries[-self.triplets :]

    def by_triplet(self, entries: Tensor) -> Tensor:
        """The entry of lambda and the means over those of both singular vectors (Eq. 7), shape (triplets,)."""
        total = self.values(entries).clone()
        for where, shape, dim, places in self._groups:
            total[places] += entries[where].view(shape).mean(dim).flatten()
        return total


@dataclasses.dataclass(frozen=True)
class UpperConfidence:
    """The smoothed sensitivity |w dL/dw| of an entry times the smoothed uncertainty of that (Eq. 8 to 11).

    Of the weight after the optimiser's step and the gradient before it, as in the released code.

    Parameters
    ----------
    beta1, beta2
        Of the running averages of sensitivity and uncertainty, in [0, 1); at ``beta2 = 1`` the sensitivity alone ranks.

    Notes
    -----
    Two numbers a parameter, in float32 at least. Both start at 0, without correction.
    """

    beta1: float = 0.85
    beta2: float = 0.85

    def __post_init__(self) -> None:
        Parameter("beta1", float, 0.85, low=0.0, high=1.0, high_open=True).validate(self.beta1)
        Parameter("beta2", float, 0.85, low=0.0, high=1.0).validate(self.beta2)

    def update(self, weights: Tensor, gradients: Tensor, state: State) -> None:
        """Average |w dL/dw|, and then its distance from that average."""
        sensitivity = torch.mul(weights, gradients).abs_()
        if not state:
            state.update({key: torch.zeros_like(sensitivity) for key in ("importance", "uncertainty")})
        state["importance"].lerp_(sensitivity, 1 - self.beta1)
        state["uncertainty"].lerp_(sensitivity.sub_(state["importance"]).abs_(), 1 - self.beta2)

    def score(self, layout: Layout, weights: Tensor, state: State) -> Tensor:
        """I times U of every entry, by triplet."""
        entries = state["importance"] if self.beta2 == 1 else state["importance"] * state["uncertainty"]
        return layout.by_triplet(entries)


class Magnitude:
    """|lambda|, the criterion of the paper's ablation; nothing is remembered."""

    def update(self, weights: Tensor, gradients: Tensor, state: State) -> None:
        """Nothing to do."""

    def score(self, layout: Layout, weights: Tensor, state: State) -> Tensor:
        """|lambda|."""
        return layout.values(weights).abs()
