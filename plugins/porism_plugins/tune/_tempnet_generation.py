"""A temperature network beside a frozen model: training it alone, and generating with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.surgery import call, evaluating
from porism_plugins.tune._tempnet_loss import TempNetLoss
from porism_plugins.tune._tempnet_networks import LogitTempNet
from porism_plugins.tune._tempnet_temperature import check_positive


def train_tempnet(
    model: nn.Module, tempnet: nn.Module, batches: Iterable[Any], *, rho: float | None = None, steps: int = 1000,
    learning_rate: float = 1e-4,
) -> np.ndarray:  # fmt: skip
    """Train a temperature network on what a frozen model says; the network is changed in place.

    No labels are needed: the label enters the robust loss by a term without the temperature. Logged losses are those
    of the likeliest class as the label.

    Parameters
    ----------
    model
        Gives logits (..., V), or an output that has them. Run without gradient in evaluation mode; nothing of it moves.
    tempnet
        A :class:`LogitTempNet`, or another module from logits (N, V) to temperatures (N,).
    batches
        What the model is called with (:func:`porism.surgery.call`), at least ``steps``; places where an
        ``attention_mask`` is 0 are left out.
    rho
        As in :class:`TempNetLoss`.
    steps, learning_rate
        Of Adam.

    Returns
    -------
    ndarray of float64, shape (steps,)
        The loss of each batch before its step. The network is in evaluation mode.

    Raises
    ------
    ParameterError
        For options out of range, too few batches, and logits that are not finite.

    Examples
    --------
    >>> tempnet = LogitTempNet(3, hidden=4)
    >>> train_tempnet(nn.Linear(2, 3), tempnet, itertools.repeat(torch.ones(5, 2)), steps=2).shape
    (2,)
    """
    check_positive("learning_rate", learning_rate)
    check_positive("steps", steps)
    loss, found = TempNetLoss(tempnet, rho=rho), []
    optimizer = torch.optim.Adam(tempnet.parameters(), lr=learning_rate)
    tempnet.train()
    with evaluating(model):
        for batch in itertools.islice(batches, steps):
            with torch.no_grad():
                output = call(model, batch)
                logits = output if isinstance(output, Tensor) else output.logits
            mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
            value = loss(
                logits, logits.argmax(-1), mask=mask if mask is None or mask.dim() == logits.dim() - 1 else None
            )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            found.append(float(value.detach()))
    tempnet.eval()
    if len(found) < steps:
        raise ParameterError(f"batches end after {len(found)} of {steps} steps")
    return np.array(found)


class TempNetLogitsProcessor(transformers.LogitsProcessor):
    """Divides the scores of each step by the temperature that the network says: ``generate(logits_processor=[...])``.

    Put it first, so that it sees the logits it was trained on. The likeliest token stays the same, so it changes
    sampling and beam search, and greedy decoding not at all. The network is put in evaluation mode.

    Parameters
    ----------
    tempnet
        From scores (batch, V) to temperatures (batch,), on the device of the scores.

    Examples
    --------
    >>> processor = TempNetLogitsProcessor(LogitTempNet(3))
    >>> processor(torch.tensor([[0]]), torch.tensor([[0.0, 2.0, 1.0]])).argmax()
    tensor(1)
    """

    def __init__(self, tempnet: nn.Module) -> None:
        self.tempnet = tempnet.eval()

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of shape (batch, V) over their temperatures; -inf stays."""
        if isinstance(self.tempnet, LogitTempNet) and self.tempnet.classes != scores.shape[-1]:
            raise ParameterError(f"scores must have {self.tempnet.classes} classes, got shape {tuple(scores.shape)}")
        tau: Tensor = self.tempnet(scores)
        return scores / tau[:, None].to(scores.dtype)
