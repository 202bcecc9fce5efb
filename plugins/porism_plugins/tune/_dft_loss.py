"""The loss of discriminative fine-tuning over log-likelihoods, and a step of a model that bounds its memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism_plugins.tune._engine import MovingLogMean, accumulate_gradient, model_log_likelihoods

Variant = Literal["dft", "dft2"]
# Temperature and floor of the moving average's factor.
DEFAULTS: dict[str, tuple[float, float]] = {"dft": (1.0, 0.85), "dft2": (0.3, 0.9)}
SEQUENCES = ("input_ids", "attention_mask", "labels")


class DFTLoss(nn.Module):
    """Discriminative likelihood of an answer among sampled negatives; its value estimates the paper's objective.

    The gradient is that of step 5: each negative is pushed down with weight exp(a - log u), where u is the prompt's
    moving average of exp(a). Weights and average carry no gradient, so that only for ``factor=1`` is it the
    derivative of the value.

    Parameters
    ----------
    examples
        Prompts in the training set, for the moving average; 0 takes the normaliser from the batch's negatives alone.
    variant
        ``"dft"``: scores are log-likelihoods, negatives are weighted by 1 / P_0 and need ``reference``. ``"dft2"``:
        scores are log-likelihoods by token (``average``), and there is no reference.
    temperature
        tau > 0; 1.0 and 0.3 by variant.
    factor
        Weight of the newest estimate in the moving average, in (0, 1]; 0.85 and 0.9 by variant.
    anneal
        Optimiser steps over which the weight falls from 1 to ``factor`` on a cosine; the paper has half of all. 0 is a
        constant weight.
    accumulation
        Calls in training mode to one optimiser step.
    initial
        Where log u starts: 0 as in the paper, or None for a prompt's first estimate.
    forget_after
        See :class:`porism_plugins.tune._engine.MovingLogMean`.

    Raises
    ------
    ParameterError
        For options out of range; in ``forward`` for shapes that do not fit, no negatives, values that are not finite,
        a reference that is missing or out of place, and an index that is missing or out of range.

    Examples
    --------
    >>> loss = DFTLoss()
    >>> answers, negatives = torch.tensor([-2.0]), torch.tensor([[-3.0, -5.0]])
    >>> loss(answers, negatives, negatives)  # before training the normaliser is 1
    tensor(2.)
    """

    def __init__(
        self, examples: int = 0, *, variant: Variant = "dft", temperature: float | None = None,
        factor: float | None = None, anneal: int = 0, accumulation: int = 1, initial: float | None = 0.0,
        forget_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        Parameter("variant", str, "dft", choices=get_args(Variant)).validate(variant)
        tau, floor = DEFAULTS[variant]
        self.variant = variant
        self.temperature = tau if temperature is None else temperature
        self.factor = floor if factor is None else factor
        self.anneal, self.accumulation, self.examples = anneal, accumulation, examples
        Parameter("temperature", float, tau, low=1e-3, high=1e3).validate(self.temperature)
        Parameter("factor", float, floor, low=0.0, high=1.0, low_open=True).validate(self.factor)
        for name, value, low in (("examples", examples, 0), ("anneal", anneal, 0), ("accumulation", accumulation, 1)):
            Parameter(name, int, low, low=low).validate(value)
        store = {"initial": initial, "forget_after": forget_after}
        self.normaliser = MovingLogMean(examples, **store) if examples else None
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    @property
    def average(self) -> bool:
        """Whether scores are means over an answer's tokens instead of sums."""
        return self.variant == "dft2"

    def current_factor(self) -> float:
        """Weight of the newest estimate at the next call (step 6)."""
        step = int(self.calls) // self.accumulation
        if step >= self.anneal:
            return self.factor
        return self.factor + (1 - self.factor) * (1 + math.cos(math.pi * step / self.anneal)) / 2

    def forward(
        self, answers: Tensor, negatives: Tensor, reference: Tensor | None = None, index: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a scalar; half precision is computed and returned in float32.

        Parameters
        ----------
        answers
            Scores of the given answers, shape (B,): log-likelihoods, by token for ``"dft2"``.
        negatives
            Scores of m sampled answers to each prompt, shape (B, m).
        reference
            Log-likelihoods of the negatives under the model that drew them, shape (B, m), for ``"dft"`` only.
        index
            The prompts' places in the training set, integers of shape (B,), if there is a moving average. In
            evaluation mode nothing is kept, and without it the batch's negatives alone normalise.
        """
        reference = self._checked(answers, negatives, reference)
        dtype = torch.promote_types(torch.promote_types(answers.dtype, negatives.dtype), torch.float32)
        answers, negatives = answers.to(dtype), negatives.to(dtype)
        log_weights = negatives.detach() / self.temperature - reference.detach().to(dtype)
        log_normaliser = self._log_normaliser(log_weights, index)
        weights = (log_weights - log_normaliser[:, None]).exp()
        pull = (weights * (negatives - negatives.detach())).mean(1)  # zero, but for its gradient
        return (self.temperature * log_normaliser + pull - answers).mean()

    def _log_normaliser(self, log_weights: Tensor, index: Tensor | None) -> Tensor:
        estimates = log_weights.logsumexp(1) - math.log(log_weights.shape[1])
        if self.normaliser is None:
            if index is not None:
                raise ParameterError("index needs a moving average: build the loss with examples=len(dataset)")
            return estimates
        if index is None:
            if self.training:
                raise ParameterError("index must say which of the examples these are, as the loss is in training mode")
            return estimates
        updated = self.normaliser(index.to(self.normaliser.log_mean.device), estimates, factor=self.current_factor())
        if self.training:
            self.calls += 1
        return updated

    def _checked(self, answers: Tensor, negatives: Tensor, reference: Tensor | None) -> Tensor:
        """The reference, zeros for ``"dft2"``, once all three are what they must be."""
        if answers.dim() != 1 or not answers.numel():
            raise ParameterError(f"answers must have shape (B,), not empty, got {tuple(answers.shape)}")
        if negatives.dim() != 2 or len(negatives) != len(answers):
            raise ParameterError(f"negatives must have shape ({len(answers)}, m), got {tuple(negatives.shape)}")
        if not negatives.shape[1]:
            raise ParameterError("negatives must be at least one to each answer, got none")
        if (reference is None) != (self.variant == "dft2"):
            wanted = "the negatives' log-likelihoods for 'dft'" if reference is None else "None for 'dft2'"
            raise ParameterError(f"reference must be {wanted}")
        given = {"answers": answers, "negatives": negatives} | ({} if reference is None else {"reference": reference})
        for name, tensor in given.items():
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                raise ParameterError(f"{name} must be finite floating-point log-likelihoods, got {_flaw(tensor)}")
        if reference is None:
            return torch.zeros_like(negatives)
        if reference.shape != negatives.shape:
            shapes = f"{tuple(negatives.shape)}, got {tuple(reference.shape)}"
            raise ParameterError(f"reference must have the shape of negatives {shapes}")
        return reference


def dft_step(
    model: nn.Module, loss: DFTLoss, batch: Mapping[str, Tensor], *, rows: int | None = None, scale: float = 1.0
) -> Tensor:
    """Loss of a model on a batch; with ``rows`` the gradient is added too, at the memory of so many sequences.

    Parameters
    ----------
    model
        See :func:`porism_plugins.tune._engine.model_log_likelihoods`.
    batch
        ``input_ids``, ``labels`` and, if any, ``attention_mask`` of shape (B, T); the same after ``negative_`` of shape
        (B, m, S), as :func:`draw_negatives` returns them, with ``reference`` and ``index`` as the loss needs them.
    rows
        None returns a loss to call ``backward`` on. A number calls it here, part by part, and returns the detached
        loss: exactly the same gradient, for one more forward pass.
    scale
        Multiplies the gradient of a step with ``rows``, as 1 / accumulation.

    Raises
    ------
    ParameterError
        For missing entries, and as the loss and the engine.
    """
    answers, negatives, count = _sequences(batch)
    extra = {name: batch[name] for name in ("reference", "index") if name in batch}
    if loss.variant == "dft2":
        extra.pop("reference", None)
    size = len(answers["labels"])

    def objective(scores: Tensor) -> Tensor:
        return loss(scores[:size], scores[size:].view(size, count), **extra)

    if rows is None:
        parts = [model_log_likelihoods(model, part, average=loss.average) for part in (answers, negatives)]
        return objective(torch.cat(parts))

    def score(part: slice) -> Tensor:
        """Answers first, then negatives; a part may hold both."""
        pieces = [(answers, part.start, min(part.stop, size)), (negatives, max(part.start - size, 0), part.stop - size)]
        found = [model_log_likelihoods(model, {name: tensor[low:high] for name, tensor in one.items()},
                                       average=loss.average) for one, low, high in pieces if low < high]  # fmt: skip
        return torch.cat(found)

    value = accumulate_gradient(score, lambda s: scale * objective(s), count=size * (1 + count), rows=rows)
    return value / scale


def _sequences(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """The answers, the negatives as rows of one batch, and how many of these belong to an answer."""
    for name in ("input_ids", "labels", "negative_input_ids", "negative_labels"):
        if name not in batch:
            raise ParameterError(f"batch must have {name!r}; it has {', '.join(sorted(batch))}")
    shape = batch["negative_input_ids"].shape
    if len(shape) != 3 or shape[0] != len(batch["input_ids"]):
        raise ParameterError(
            f"negative_input_ids must have shape ({len(batch['input_ids'])}, m, S), got {tuple(shape)}"
        )
    if not shape[1]:
        raise ParameterError("negative_input_ids must hold at least one negative to each answer, got none")
    answers = {name: batch[name] for name in SEQUENCES if name in batch}
    negatives = {name: batch[f"negative_{name}"].flatten(0, 1) for name in SEQUENCES if f"negative_{name}" in batch}
    return answers, negatives, shape[1]


def _flaw(tensor: Tensor) -> Any:
    if not tensor.is_floating_point():
        return tensor.dtype
    return f"{tensor[~tensor.isfinite()][0].item()} among them"
