"""What a model computes on the evaluation data: its quality, and a hash of every bit of its outputs."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.compress.data import Data
from porism.errors import ParameterError
from porism.metrics import accuracy
from porism.surgery import call, evaluating


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """``value`` of the ``measure`` (None where there is none), and a SHA-256 of the outputs of each batch."""

    measure: str
    value: float | None
    digests: tuple[str, ...]


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, *, batch_size: int, device: torch.device | str = "cpu") -> Evaluation:
    """Run the evaluation data through a model in evaluation mode; its mode is put back.

    Perplexity for language models, accuracy where the data have labels and the outputs are classes, nothing else.

    Raises
    ------
    ParameterError
        If outputs are not finite.
    """
    digests: list[str] = []
    nats, tokens = 0.0, 0
    predicted: list[Tensor] = []
    with evaluating(model):
        for number, batch in enumerate(data.batches(batch_size, device)):
            output = output_of(call(model, batch))
            if not bool(output.isfinite().all()):
                raise ParameterError(f"evaluation: outputs of batch {number} are not finite (NaN or infinity)")
            digests.append(digest(output))
            if data.language:
                for logits, ids in zip(output, batch["input_ids"], strict=True):  # a row at a time, for memory
                    nats += float(F.cross_entropy(logits[:-1].float(), ids[1:], reduction="none").double().sum())
                    tokens += len(ids) - 1
            elif data.labels is not None and output.dim() == 2:
                predicted.append(output.argmax(-1).cpu())
    if data.language:
        return Evaluation("perplexity", math.exp(min(nats / tokens, 700.0)), tuple(digests))
    if predicted and data.labels is not None:
        return Evaluation("accuracy", float(accuracy(torch.cat(predicted), data.labels)), tuple(digests))
    return Evaluation("relative output change", None, tuple(digests))


@torch.no_grad()
def relative_change(
    before: nn.Module, after: nn.Module, data: Data, *, batch_size: int, device: torch.device | str
) -> float:
    """Root of the squared change of the outputs over the squared outputs."""
    change, size = 0.0, 0.0
    with evaluating(before), evaluating(after):
        for batch in data.batches(batch_size, device):
            old, new = output_of(call(before, batch)).double(), output_of(call(after, batch)).double()
            change += float((new - old).square().sum())
            size += float(old.square().sum())
    return math.sqrt(change / size) if size else math.inf if change else 0.0


def output_of(output: Any) -> Tensor:
    """The tensor that is judged: logits if there are some, else the first tensor."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    for part in parts:
        if isinstance(part, Tensor):
            return part
    raise ParameterError(f"the model returns {type(output).__name__}, in which there is no tensor to judge")


def digest(tensor: Tensor) -> str:
    """SHA-256 of the bits of a tensor, with its dtype and shape."""
    plain = tensor.detach().cpu().contiguous()
    whole = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)};".encode())
    whole.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return whole.hexdigest()
