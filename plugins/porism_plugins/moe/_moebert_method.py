"""The method of :mod:`porism_plugins.moe.moebert`: importance, split, routing, distillation."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism_plugins.moe._engine import Experts, MoE
from porism_plugins.moe._moebert_distil import distil
from porism_plugins.moe._moebert_routing import (
    BITS,
    Kind,
    frequencies,
    pattern_frequencies,
    record_ids,
    router,
    token_embedding,
)
from porism_plugins.moe._moebert_sites import Site, sites
from porism_plugins.moe._moebert_split import Loss, dealt, importance, task_loss


def moebert(
    model: nn.Module, /, *, calibration: Iterable[Any], experts: Annotated[int, Interval(ge=1)] = 4,
    expert_width: Annotated[float, Interval(gt=0, le=1)] = 0.25, shared: Annotated[float, Interval(ge=0, le=1)] = 2 / 3,
    routing: Kind = "hash", steps: Annotated[int, Interval(ge=0)] = 1000,
    learning_rate: Annotated[float, Interval(gt=0)] = 5e-5, distillation: Annotated[float, Interval(ge=0)] = 5.0,
    balance: Annotated[float, Interval(ge=0)] = 0.0, loss: Loss = task_loss,
    seed: Annotated[int, Interval(ge=0)] = 0, inplace: bool = False, include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """Split a trained model's feed-forward networks into experts, one of which each token visits, and distil into that.

    Parameters
    ----------
    model
        Fine-tuned; left alone unless ``inplace``. It is the start and the teacher.
    calibration
        Batches, for importance and training, over and over: pairs (inputs, labels), or mappings with labels that a
        transformers model is called with. They must be on the model's device, and in its dtype.
    experts
        N, of each network.
    expert_width
        Neurons of an expert as a share of the network's, rounded.
    shared
        Share of an expert's neurons that all experts have: the most important ones; the next are dealt out in turn.
    routing
        ``"hash"``: a random table of token ids for each network. ``"balanced"``: tables that even out how often ids
        occur in the calibration. ``"gate"``: learnt, with the weight ``balance`` of its balance loss. Models without an
        embedding of token ids are hashed by the signs of the network's input along eight random directions.
    steps, learning_rate
        Of Adam, falling linearly to 0. With 0 steps the model is split and not trained.
    distillation
        Weight of the layer-wise distance to the teacher.
    loss
        ``loss(model, batch)``, a mean over samples, for batches of any other form.
    seed
        Of tables, gates and dropout.
    inplace
        Change the model itself instead of a copy; the teacher is a copy then.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`; a network is converted if both of its layers match.

    Raises
    ------
    ParameterError
        For options out of range, batches that are empty or give a loss that is not finite, models without a known
        feed-forward network, and networks with too few neurons for the split.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8), nn.Linear(8, 2))
    >>> batches = [(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 3))]
    >>> small = moebert(model, calibration=batches, steps=5)
    >>> small[0].experts.experts, small[0].experts.inner
    (4, 6)
    """
    for name, value, lower in (("steps", steps, 0), ("experts", experts, 1), ("seed", seed, 0)):
        Parameter(name, int, value, low=lower).validate(value)
    Parameter("learning_rate", float, 5e-5, low=0.0, low_open=True).validate(learning_rate)
    Parameter("distillation", float, 5.0, low=0.0).validate(distillation)
    if routing not in ("hash", "balanced", "gate"):
        raise ParameterError(f"routing must be 'hash', 'balanced' or 'gate', got {routing!r}")
    batches = list(calibration)
    found = sites(model, include=include, exclude=exclude)
    score = importance(model, found, batches, loss)
    teacher = copy.deepcopy(model) if inplace else model
    student = model if inplace else copy.deepcopy(model)
    convert(
        student, score, batches, experts=experts, expert_width=expert_width, shared=shared, routing=routing,
        balance=balance, rng=np.random.default_rng(seed), include=include, exclude=exclude,
    )  # fmt: skip
    if steps:
        distil(
            student, teacher, batches, found, steps=steps, learning_rate=learning_rate, weight=distillation,
            loss=loss, seed=seed,
        )  # fmt: skip
    return student


def convert(
    model: nn.Module, score: Mapping[str, Tensor], batches: Sequence[Any], *, experts: int = 4,
    expert_width: float = 0.25, shared: float = 2 / 3, routing: Kind = "hash", balance: float = 0.0,
    rng: np.random.Generator, include: Sequence[str] = ("*",), exclude: Sequence[str] = (),
) -> None:  # fmt: skip
    """Split the networks of a model, in place, by any score of their neurons: the step before training."""
    Parameter("expert_width", float, 0.25, low=0.0, high=1.0, low_open=True).validate(expert_width)
    Parameter("shared", float, 0.5, low=0.0, high=1.0).validate(shared)
    Parameter("balance", float, 0.0, low=0.0).validate(balance)
    found = sites(model, include=include, exclude=exclude)
    neurons = {name: deal(site, score[name], experts, expert_width, shared) for name, site in found.items()}
    shares = _shares(model, found, batches, routing)
    source = record_ids(model) if routing != "gate" else None
    for name, site in found.items():
        gate = router(routing, site, experts, rng, source=source, shares=shares[name], balance=balance)
        layer = MoE(Experts.from_neurons(site.network, neurons[name]), gate)
        for ours, theirs in (
            (layer.experts.up, site.network.up.weight),
            (layer.experts.down, site.network.down.weight),
        ):
            ours.requires_grad_(theirs.requires_grad)
        site.put(model, layer.train(model.get_submodule(site.up).training))


def deal(site: Site, score: Tensor, experts: int, expert_width: float, shared: float) -> Tensor:
    """The neurons of each expert of one network."""
    inner = max(1, round(expert_width * site.network.up.out_features))
    return dealt(score, experts=experts, inner=inner, shared=round(shared * inner))


def _shares(
    model: nn.Module, found: Mapping[str, Site], batches: Sequence[Any], routing: Kind
) -> dict[str, np.ndarray]:
    """How often each id of each network's table occurs; zeros where it does not matter."""
    embedding = token_embedding(model)
    if routing != "balanced":
        return dict.fromkeys(found, np.zeros(2**BITS if embedding is None else embedding[1].num_embeddings))
    if embedding is not None:
        return dict.fromkeys(found, frequencies(model, batches))
    return pattern_frequencies(model, found, batches)
