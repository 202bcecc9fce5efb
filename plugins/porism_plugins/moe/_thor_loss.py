"""Two passes with fresh experts, and the symmetric divergence that ties them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from porism.divergences import f_divergence_logits
from porism.errors import ParameterError
from porism.parameters import Parameter

IGNORED = -100


def thor_loss(
    first_logits: Tensor,
    second_logits: Tensor,
    labels: Tensor,
    *,
    alpha: Annotated[float, Interval(ge=0, le=1e6)] = 5.0,
    smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
    items: Any = None,
) -> Tensor:
    """The sum of both passes' label-smoothed cross entropies, plus ``alpha`` times :func:`consistency_of`.

    All three are summed over the labelled tokens and divided by one number, so that ``alpha`` means the same whatever
    the batch.

    Parameters
    ----------
    first_logits, second_logits
        Of two passes over the same inputs, shape (..., C). Gradients flow to both.
    labels
        int64 of shape (...), classes from 0 to C - 1, or -100 where a token does not count.
    alpha
        Weight of the consistency.
    smoothing
        Share of the target that is spread evenly over all classes.
    items
        Divide by this instead of by the number of labelled tokens: ``num_items_in_batch`` of ``transformers.Trainer``.

    Returns
    -------
    Tensor
        A scalar, at least 0; float32 for half precision. 0, with a gradient of 0, if no token is labelled.

    Raises
    ------
    ParameterError
        If shapes do not agree, labels are out of range, or logits of labelled tokens are not finite.

    Examples
    --------
    >>> logits, labels = torch.zeros(2, 3, 4), torch.tensor([[0, 1, -100], [2, -100, -100]])
    >>> thor_loss(logits, logits, labels)
    tensor(2.7726)
    """
    Parameter("alpha", float, 5.0, low=0.0).validate(alpha)
    Parameter("smoothing", float, 0.1, low=0.0, high=1.0, high_open=True).validate(smoothing)
    _check(first_logits, second_logits, labels)
    kept = labels != IGNORED
    targets = labels[kept]
    first, second = (_finite(logits[kept], name) for logits, name in
                     ((first_logits, "first_logits"), (second_logits, "second_logits")))  # fmt: skip
    if not len(targets):
        return first.sum() + second.sum()
    terms = [F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing) for logits in (first, second)]
    total = terms[0] + terms[1] + alpha * 0.5 * f_divergence_logits("jeffreys", first, second).sum()
    return total / (len(targets) if items is None else items)


def consistency_of(first_logits: Tensor, second_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Half of KL(p||q) + KL(q||p) of two predictions with logits (..., C), averaged over the rows that count.

    Examples
    --------
    >>> consistency_of(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(0.3808)
    """
    if first_logits.shape != second_logits.shape:
        raise ParameterError(
            f"second_logits must have the shape of first_logits, {tuple(first_logits.shape)}, "
            f"got {tuple(second_logits.shape)}"
        )
    if mask is not None:
        first_logits, second_logits = first_logits[mask], second_logits[mask]
    if not first_logits.numel():
        return first_logits.sum()
    return 0.5 * f_divergence_logits("jeffreys", first_logits, second_logits).mean()  # type: ignore[no-any-return]


class Step(NamedTuple):
    """The loss of a step, and the outputs of its passes: two in training mode, one otherwise."""

    loss: Tensor
    outputs: tuple[Any, ...]


def thor_step(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    alpha: float = 5.0,
    smoothing: float = 0.1,
    dropout: Literal["fresh", "shared"] = "fresh",
    shift: bool | None = None,
    items: Any = None,
) -> Step:
    """Call a model twice and return its THOR loss; in evaluation mode once, and return the plain cross entropy.

    Parameters
    ----------
    model
        Called with keyword arguments, gives logits (..., C), or an output that has them as ``logits``.
    batch
        Arguments of the model, with ``labels``.
    alpha, smoothing, items
        As in :func:`thor_loss`.
    dropout
        ``"fresh"`` in each pass, as in the paper; ``"shared"`` gives both passes torch's same random numbers, so that
        only the experts differ.
    shift
        Whether position t predicts label t + 1; by default for transformers' causal language models only.

    Raises
    ------
    ParameterError
        As :func:`thor_loss`, or if the batch has no labels.
    """
    if batch.get("labels") is None:
        raise ParameterError("batch must hold labels")
    if dropout not in ("fresh", "shared"):
        raise ParameterError(f"dropout must be 'fresh' or 'shared', got {dropout!r}")
    labels: Tensor = batch["labels"]
    moved = _predicts_next(model) if shift is None else shift
    # A decoder makes its inputs of labels; others would compute a loss that nobody reads, or that rejects labels.
    inputs = dict(batch) if _reads_labels(model, batch) else {k: v for k, v in batch.items() if k != "labels"}
    if not model.training:
        output = model(**inputs)
        logits, targets = _aligned(_logits(output), labels, moved)
        # Twice the cross entropy of one pass, halved: no other definition of the mean over labelled tokens.
        value = thor_loss(logits, logits, targets, alpha=0.0, smoothing=0.0, items=items) / 2
        return Step(value, (output,))
    outputs = _twice(model, inputs, dropout)
    (first, targets), (second, _) = (_aligned(_logits(output), labels, moved) for output in outputs)
    return Step(thor_loss(first, second, targets, alpha=alpha, smoothing=smoothing, items=items), outputs)


def _twice(model: nn.Module, inputs: Mapping[str, Any], dropout: str) -> tuple[Any, Any]:
    if dropout == "fresh":
        return model(**inputs), model(**inputs)
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        first = model(**inputs)
    return first, model(**inputs)


def _aligned(logits: Tensor, labels: Tensor, moved: bool) -> tuple[Tensor, Tensor]:
    return (logits[..., :-1, :], labels[..., 1:]) if moved else (logits, labels)


def _logits(output: Any) -> Tensor:
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ParameterError(f"model must return logits or an output that has them, got {type(output).__name__}")
    return logits


def _predicts_next(model: nn.Module) -> bool:
    """By the rule of transformers' Trainer, also behind a wrapper for several devices."""
    inner: Any = getattr(model, "module", model)
    if _has_decoder(inner):
        return False
    return getattr(getattr(inner, "loss_function", None), "__name__", "") == "ForCausalLMLoss"


def _reads_labels(model: nn.Module, batch: Mapping[str, Any]) -> bool:
    return _has_decoder(getattr(model, "module", model)) and "decoder_input_ids" not in batch


def _has_decoder(model: Any) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _check(first: Tensor, second: Tensor, labels: Tensor) -> None:
    if first.dim() < 2 or not first.is_floating_point():
        raise ParameterError(f"first_logits must be floating, shape (..., classes), got {tuple(first.shape)}")
    if second.shape != first.shape:
        raise ParameterError(
            f"second_logits must have the shape of first_logits, {tuple(first.shape)}, got {tuple(second.shape)}"
        )
    if labels.shape != first.shape[:-1] or labels.is_floating_point():
        raise ParameterError(f"labels must be integers of shape {tuple(first.shape[:-1])}, got {tuple(labels.shape)}")
    known = labels[labels != IGNORED]
    if len(known) and not 0 <= int(known.min()) <= int(known.max()) < first.shape[-1]:
        raise ParameterError(
            f"labels must be from 0 to {first.shape[-1] - 1}, or {IGNORED}, "
            f"got {int(known.min())} to {int(known.max())}"
        )


def _finite(logits: Tensor, name: str) -> Tensor:
    if not bool(logits.isfinite().all()):
        raise ParameterError(f"{name} must be finite where a token is labelled")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
