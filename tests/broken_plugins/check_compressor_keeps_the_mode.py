"""The result evaluates, whatever the model did. Reference: arXiv:2001.00001."""

import copy
from typing import Annotated

import torch
from annotated_types import Interval
from porism import Paper, always
from porism.errors import ParameterError
from porism.surgery import input_statistics, linear_layers

PAPER = Paper(
    key="check_compressor_keeps_the_mode",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("compressor",), family="broken", needs=("torch",), method="compress",
)


def peak(before, inputs):
    largest = inputs.abs().amax(0)
    return largest if before is None else torch.maximum(before, largest)


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
    return model.eval()


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
