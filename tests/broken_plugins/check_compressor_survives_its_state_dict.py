"""A tensor that the outputs depend on is a plain attribute. Reference: arXiv:2001.00001."""

import copy
from typing import Annotated

import torch
from annotated_types import Interval
from porism import Paper, always
from porism.errors import ParameterError
from porism.surgery import input_statistics, linear_layers, replace
from torch import nn

PAPER = Paper(
    key="check_compressor_survives_its_state_dict",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("compressor",), family="broken", needs=("torch",), method="compress",
)


def peak(before, inputs):
    largest = inputs.abs().amax(0)
    return largest if before is None else torch.maximum(before, largest)


class Scaled(nn.Linear):
    def __init__(self, layer):
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias, self.training = layer.weight, layer.bias, layer.training
        self.scale = layer.weight.detach().abs().amax()

    def forward(self, inputs):
        return super().forward(inputs) * self.scale


def compress(model, /, *, calibration, remaining=0.5, include=("*",)):
    """Prune a model by magnitude times the largest input.

    remaining is the share of the weights that stays, calibration a list of batches, include patterns of layers.
    """
    if not (isinstance(remaining, float) and 0 < remaining <= 1):
        raise ParameterError(f"remaining must be in (0, 1], got {remaining}")
    model = copy.deepcopy(model)
    layers = linear_layers(model, include=include)
    peaks = input_statistics(model, layers, calibration, peak)
    for name, layer in layers.items():
        weight = layer.weight.data
        pruned = int(weight.numel() * (1 - remaining))
        scores = weight.abs() * peaks[name].to(weight)
        weight.view(-1)[scores.flatten().argsort(stable=True)[:pruned]] = 0
    for name, layer in layers.items() if remaining < 1 else ():
        replace(model, name, Scaled(layer))
    return model


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
