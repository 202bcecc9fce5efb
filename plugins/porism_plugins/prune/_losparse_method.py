"""The method of :mod:`porism_plugins.prune.losparse`: what the budget buys, decomposition, pruning, what is left."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any

from annotated_types import Interval
from torch import nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import HEADS, matrix
from porism_plugins.prune._engine import Criterion, Pruner, schedule, trained_layers
from porism_plugins.prune._losparse_layer import Structure, compact, decompose, rank_of
from porism_plugins.prune._masks import check_remaining
from porism_plugins.prune._training import Loss, finetune, task_loss
from porism_plugins.prune._upper_confidence import UpperConfidence

# What the paper leaves alone.
HEADS_AND_POOLERS = (*HEADS, "pooler.*")


def losparse(
    model: nn.Module, /, *, remaining: Annotated[float, Interval(gt=0, le=1)] = 0.2,
    low_rank: Annotated[float, Interval(ge=0, lt=1)] = 0.05, calibration: Iterable[Any], loss: Loss = task_loss,
    steps: Annotated[int, Interval(ge=1)] = 1000, learning_rate: Annotated[float, Interval(gt=0)] = 9e-5,
    beta1: Annotated[float, Interval(ge=0, lt=1)] = 0.85, interval: Annotated[int, Interval(ge=1)] = 10,
    warmup: int | None = None, cooldown: int | None = None, structure: Structure = "row",
    seed: Annotated[int, Interval(ge=0)] = 0, inplace: bool = False, include: Sequence[str] = ("*",),
    exclude: Sequence[str] = HEADS_AND_POOLERS,
) -> nn.Module:  # fmt: skip
    """Fine-tune a model with LoSparse and return it with :class:`LowRankSparseLinear` for its linear layers.

    Parameters
    ----------
    model
        Left alone unless ``inplace``; its linear layers are compressed, all of its trainable parameters are trained.
    remaining
        Share of the weights of these layers that stays, low-rank part included, in (0, 1]. At 1 there is nothing to
        do, and nothing is trained.
    low_rank
        Share of each matrix that its factors take, in [0, ``remaining``]; ranks are rounded up, for which the rows
        pay. Matrices of which one rank would take more than ``remaining`` get no factors. 0 is structured pruning.
    calibration
        Batches to train on, over and over: pairs (inputs, labels), or mappings that a transformers model is called
        with. They must be on the model's device, and in its dtype.
    loss
        ``loss(model, batch)``, a scalar, for batches of any other form, or to learn from a teacher.
    steps, learning_rate
        Of Adamax.
    beta1, interval
        Of the smoothed sensitivity |S dL/dS|, as :class:`UpperConfidence`; masks are due at each interval.
    warmup, cooldown
        See :class:`porism_plugins.prune._engine.Pruner`.
    structure
        Whether rows (output neurons) or columns of S are pruned.
    seed
        Of dropout.
    inplace
        Change the model itself instead of a copy. An error in training leaves it decomposed.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`; tied weights, output heads and poolers are left alone by
        default, and so are frozen layers.

    Raises
    ------
    ParameterError
        For options out of range, a ``low_rank`` whose ranks leave ``remaining`` no room, empty batches, a loss that is
        not finite, layers that cannot be compressed, and layers that no gradient reaches.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 2))
    >>> batches = [(torch.ones(2, 40), torch.tensor([0, 1]))]
    >>> small = losparse(model, remaining=0.3, low_rank=0.1, calibration=batches, steps=60, exclude=["2"])
    >>> small[0].rank, small[0].kept, small[0].kept_weights  # of 2400: 3 (40 + 60) + 10 * 40, 20 fewer than 720
    (3, 10, 700)
    """
    check_remaining(remaining)
    Parameter("learning_rate", float, 9e-5, low=0.0, low_open=True).validate(learning_rate)
    if structure not in ("row", "column"):
        raise ParameterError(f"structure must be 'row' or 'column', got {structure!r}")
    schedule(steps, warmup=warmup, cooldown=cooldown, interval=interval)
    criterion = UpperConfidence(beta1, 1.0, interval)
    model = model if inplace else copy.deepcopy(model)
    layers = chosen(model, include=include, exclude=exclude)
    ranks, share = plan(layers, remaining=remaining, low_rank=low_rank)
    if remaining == 1.0:
        return model
    decompose(model, layers, ranks)
    pruner = row_pruner(
        model, criterion, layers, share, total_steps=steps, warmup=warmup, cooldown=cooldown, interval=interval,
        structure=structure,
    )  # fmt: skip
    finetune(model, calibration, pruner, loss=loss, learning_rate=learning_rate, seed=seed)
    if missed := [name for name in layers if sparse_name(name) not in pruner.state]:
        raise ParameterError(f"calibration: no gradient has reached {', '.join(missed[:12])}; exclude them")
    return compact(model, structure)


def chosen(
    model: nn.Module, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = HEADS_AND_POOLERS
) -> dict[str, nn.Module]:
    """The layers that are replaced, with every reason against it checked."""
    layers = trained_layers(model, include=include, exclude=exclude)
    if "" in layers:
        raise ParameterError("model is itself a linear layer, which cannot be replaced; wrap it in nn.Sequential")
    for name, layer in layers.items():
        if not bool(matrix(layer).isfinite().all()):
            raise ParameterError(f"{name}.weight must be finite, got NaN or infinity")
    return layers


def plan(layers: Mapping[str, nn.Module], *, remaining: float, low_rank: float) -> tuple[dict[str, int], float]:
    """Ranks by layer, and the share of S that is left for rows.

    Raises
    ------
    ParameterError
        If the factors of these ranks take more than ``remaining`` of the weights.
    """
    Parameter("low_rank", float, 0.05, low=0.0, high=1.0, high_open=True).validate(low_rank)
    if low_rank > remaining:
        raise ParameterError(f"low_rank must be at most remaining {remaining}, of which it is a part, got {low_rank}")
    shapes = {name: tuple(matrix(layer).shape) for name, layer in layers.items()}
    ranks = {name: rank_of(*shape, low_rank, most=remaining) for name, shape in shapes.items()}
    total = sum(out * inputs for out, inputs in shapes.values())
    spent = sum(ranks[name] * sum(shape) for name, shape in shapes.items())
    left = math.floor(Fraction(repr(float(remaining))) * total) - spent
    if left < 0:
        raise ParameterError(
            f"low_rank={low_rank} takes {spent} of {total} weights, as ranks are whole numbers, and remaining="
            f"{remaining} allows {left + spent}; lower low_rank"
        )
    return ranks, (left + 0.5) / total  # half a weight more, so that rounding loses none


def sparse_name(name: str) -> str:
    """Where S is of a layer that was decomposed."""
    return f"{name}.sparse"


def row_pruner(
    model: nn.Module, criterion: Criterion, layers: Iterable[str], share: float, *, structure: Structure = "row",
    **options: Any,
) -> Pruner:  # fmt: skip
    """A pruner of lines of S in decomposed layers; ``options`` as of :class:`Pruner`."""
    return Pruner(model, criterion, remaining=share, unit=structure, include=[*map(sparse_name, layers)], **options)
