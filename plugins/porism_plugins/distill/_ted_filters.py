"""Stage I of TED: filters on the layers of a frozen model, each taught by a head of its own to solve the task."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.surgery import evaluating
from porism.testbeds import train
from porism_plugins.distill._layers import Layer, capturing, layer_names, logits_of, state_of
from porism_plugins.distill._outputs import shifts_labels
from porism_plugins.distill._signals import IGNORED, Companions
from porism_plugins.distill._states import projection

Kind = Literal["linear", "mlp"]
Pool = Literal["auto", "first", "last"]


class Losses(NamedTuple):
    """The mean over the filters, to differentiate, and each filter's own, detached, shape (K,)."""

    loss: Tensor
    parts: Tensor


class FilterHeads(Companions):
    """Filters on layers of a frozen model, and heads that predict the task from what each lets through.

    The model runs in evaluation mode without a graph. It is neither among the parameters nor in the state dict, so
    nothing that trains this module can move it.

    Parameters
    ----------
    model
        Called with batches without labels; gives logits.
    layers
        Names or numbers of layers, as :func:`layer_names` reads them.
    example
        A batch with labels, for the widths and the number of classes.
    width
        Width of what the filters let through.
    kind
        ``"linear"``, or ``"mlp"`` of two layers with a GELU between.
    pool
        Which token stands for a sequence where there is one label for each: the first, the last that is not padding,
        or ``"auto"``: the last for models with a ``score`` layer (decoders of transformers), else the first.
    generator
        Of the initial weights.

    Raises
    ------
    ParameterError
        For layers that are not there, and batches without labels.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], example: Any, *, width: int, kind: Kind = "linear",
                 pool: Pool = "auto", generator: torch.Generator) -> None:  # fmt: skip
        super().__init__([model])
        self.names, self.shift = layer_names(model, layers), shifts_labels(model)
        self.last = pool == "last" or (pool == "auto" and hasattr(model, "score"))
        states, logits = self.read(keyword_batch(model, example))
        self.filters = nn.ModuleList(
            make_filter(state.shape[-1], width, kind, generator, like=model) for state in states
        )
        labels = labels_of(keyword_batch(model, example))
        pooled = labels.dim() < 2 and states[0].dim() > 2
        self.heads = nn.ModuleList(_head(width, logits.shape[-1], pooled, generator, model) for _ in states)

    @torch.no_grad()
    def read(self, batch: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
        """States of the layers and the logits of the frozen model."""
        model = self.companions[0]
        with evaluating(model), capturing(model, self.names) as found:
            output = model(**{name: value for name, value in batch.items() if name != "labels"})
        return [state_of(found[name], name) for name in self.names], logits_of(output, "model")

    def forward(self, **batch: Any) -> Losses:
        """Mean over the filters of the task's loss of their heads."""
        labels, (states, _) = labels_of(batch), self.read(batch)
        losses = torch.stack([
            task_loss(head(self._chosen(filter(state), labels, batch)), labels, shift=self.shift)
            for filter, head, state in zip(self.filters, self.heads, states, strict=True)
        ])  # fmt: skip
        return Losses(losses.mean(), losses.detach())

    def _chosen(self, state: Tensor, labels: Tensor, batch: dict[str, Any]) -> Tensor:
        """The positions that the head sees: all where each has a label, else one token of each sequence."""
        if state.dim() < 3 or (labels.dim() > 1 and not labels.is_floating_point()):
            return state
        mask = batch.get("attention_mask")
        if not self.last:
            return state[:, 0]
        if mask is None:
            return state[:, -1]
        place = torch.arange(state.shape[1], device=state.device)
        return state[torch.arange(len(state), device=state.device), (place * mask).argmax(1)]


def make_filter(inputs: int, outputs: int, kind: Kind, generator: torch.Generator, *, like: nn.Module) -> nn.Module:
    """A linear filter, or one of two layers, drawn from the generator.

    Examples
    --------
    >>> make_filter(4, 2, "mlp", torch.Generator(), like=nn.Linear(1, 1))(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """
    if kind == "linear":
        return projection(inputs, outputs, generator, like=like)
    if kind != "mlp":
        raise ParameterError(f"kind must be 'linear' or 'mlp', got {kind!r}")
    first, last = (projection(inputs, width, generator, like=like) for width in (inputs, outputs))
    return nn.Sequential(first, nn.GELU(), last)


def task_loss(logits: Tensor, labels: Tensor, *, shift: bool) -> Tensor:
    """Cross-entropy of classes or tokens; squared error of one number; binary cross-entropy of several.

    Parameters
    ----------
    logits
        Shape (B, C), or (B, T, C) with a label for each position.
    labels
        Integers with -100 where ignored, or floats of shape (B,) or (B, C).
    shift
        Whether a position predicts the label of the next.
    """
    if labels.is_floating_point():
        single = labels.dim() == 1
        return F.mse_loss(logits[..., 0], labels) if single else F.binary_cross_entropy_with_logits(logits, labels)
    if shift and labels.dim() > 1:
        logits, labels = logits[:, :-1], labels[:, 1:]
    if labels.shape != logits.shape[:-1]:
        shapes = f"{tuple(labels.shape)} beside logits of shape {tuple(logits.shape)}"
        raise ParameterError(f"labels must be one for each row of the logits, got shape {shapes}")
    losses = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return losses / (labels != IGNORED).sum().clamp(min=1)


def fit_filters(heads: FilterHeads, batches: Iterable[Any], *, steps: int, learning_rate: float) -> list[float]:
    """Train filters and heads, the batches over and over; the mean loss of each step."""
    model = heads.companions[0]
    keyword = (keyword_batch(model, batch) for batch in itertools.cycle(batches))
    return train(heads, keyword, steps=steps, learning_rate=learning_rate, weight_decay=0.0).tolist()


def keyword_batch(model: nn.Module, batch: Any) -> dict[str, Any]:
    """A batch by names: a mapping as it is, a pair of inputs and labels by the name of the model's first argument."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return {first_argument(model): batch[0], "labels": batch[1]}
    try:
        return dict(batch)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"batches must be mappings or pairs (inputs, labels), got {type(batch).__name__}"
        ) from error


def first_argument(model: nn.Module) -> str:
    """The name of what a model is called with first.

    Examples
    --------
    >>> first_argument(nn.Sequential())
    'input'
    """
    return next(iter(inspect.signature(model.forward).parameters))


def labels_of(batch: dict[str, Any]) -> Tensor:
    """The labels of a batch.

    Raises
    ------
    ParameterError
        If it has none.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        raise ParameterError("batches must have labels: filters are taught by the task")
    return labels


def _head(width: int, classes: int, pooled: bool, generator: torch.Generator, like: nn.Module) -> nn.Module:
    last = projection(width, classes, generator, like=like)
    return nn.Sequential(projection(width, width, generator, like=like), nn.Tanh(), last) if pooled else last
