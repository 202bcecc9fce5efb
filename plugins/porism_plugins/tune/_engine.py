"""What losses over whole answers share: labels, sequence log-likelihoods, exact accumulation, per-example averages.

Labels are those of transformers: the input ids where a token belongs to the answer, ``IGNORED`` at prompt and padding;
the label at position t is predicted at position t - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError

IGNORED = -100
# By how much, relative to 1 and the score, two passes over the same sequences may differ, by kernel or low precision.
REPEATABLE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def collate(
    prompts: Sequence[Tensor], answers: Sequence[Tensor], *, pad: int = 0, device: torch.device | str | None = None
) -> dict[str, Tensor]:
    """Prompts and their answers as one batch, padded on the right.

    Parameters
    ----------
    prompts, answers
        As many tensors of token ids, each of shape (length,); an answer has at least one token.
    pad
        Id that fills the rows; it is masked in ``attention_mask`` and in ``labels``.

    Returns
    -------
    dict
        ``input_ids``, ``attention_mask`` and ``labels``, int64 of shape (B, T).

    Raises
    ------
    ParameterError
        For no or unequally many sequences, an empty prompt or answer.

    Examples
    --------
    >>> collate([torch.tensor([5, 6]), torch.tensor([7])], [torch.tensor([1]), torch.tensor([2])])["labels"]
    tensor([[-100, -100,    1],
            [-100,    2, -100]])
    """
    if not prompts or len(prompts) != len(answers):
        raise ParameterError(f"answers must be as many as prompts and not none, got {len(answers)} and {len(prompts)}")
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        for name, tokens in (("prompts", prompt), ("answers", answer)):
            if tokens.dim() != 1 or not tokens.numel():
                raise ParameterError(f"{name}[{row}] must have shape (length,), not empty, got {tuple(tokens.shape)}")
    rows = [torch.cat([p, a]).long() for p, a in zip(prompts, answers, strict=True)]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    place = torch.arange(ids.shape[1], device=ids.device)
    starts, ends = (torch.tensor([[len(one)] for one in many], device=ids.device) for many in (prompts, rows))
    labels = ids.where((starts <= place) & (place < ends), IGNORED)
    batch = {"input_ids": ids, "attention_mask": (place < ends).long(), "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def token_log_likelihoods(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each label, 0 where it is ignored, and the mask of those that are not; both (B, T - 1).

    Parameters
    ----------
    logits
        Shape (B, T, V); half precision is computed in float32.
    labels
        Token ids or ``IGNORED``, shape (B, T).

    Raises
    ------
    ParameterError
        For shapes that do not fit and for labels outside the vocabulary.

    Examples
    --------
    >>> token_log_likelihoods(torch.zeros(1, 3, 4), torch.tensor([[0, -100, 2]]))[1]
    tensor([[False,  True]])
    """
    if logits.dim() != 3 or labels.shape != logits.shape[:2] or labels.shape[-1] < 2:
        shapes = f"{tuple(labels.shape)} beside logits of shape {tuple(logits.shape)}"
        raise ParameterError(f"labels must have shape (B, T), T at least 2, and logits (B, T, V), got {shapes}")
    targets = labels[:, 1:]
    kept = targets != IGNORED
    if bool((kept & ((targets < 0) | (targets >= logits.shape[-1]))).any()):
        raise ParameterError(f"labels must be {IGNORED} or in [0, {logits.shape[-1]}), the model's vocabulary")
    wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(wide.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"), kept


def sequence_log_likelihoods(logits: Tensor, labels: Tensor, *, average: bool = False) -> Tensor:
    """Log-likelihood of each row's answer, shape (B,): the sum over its tokens or, with ``average``, their mean.

    Raises
    ------
    ParameterError
        As :func:`token_log_likelihoods`, and if all labels of a row are ignored.

    Examples
    --------
    >>> sequence_log_likelihoods(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]))
    tensor([-2.7726])
    """
    tokens, kept = token_log_likelihoods(logits, labels)
    lengths = kept.sum(1)
    if not bool(lengths.all()):
        row = int((lengths == 0).nonzero()[0])
        raise ParameterError(f"labels must keep at least one token a row after the first, row {row} ignores all")
    return tokens.sum(1) / lengths if average else tokens.sum(1)


def model_log_likelihoods(
    model: nn.Module, batch: Mapping[str, Tensor], *, average: bool = False, rows: int | None = None
) -> Tensor:
    """:func:`sequence_log_likelihoods` of a model on ``input_ids``, ``labels`` and, if there, ``attention_mask``.

    Parameters
    ----------
    model
        Called with ids and mask by name; returns logits (B, T, V) or, as transformers does, an object with them.
    rows
        Sequences in one forward pass, all of them by default; with gradients this saves no memory.
    """
    labels = batch["labels"]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
    parts = range(0, len(labels), rows or len(labels))
    found = []
    for start in parts:
        part = slice(start, start + (rows or len(labels)))
        output: Any = model(**{name: tensor[part] for name, tensor in inputs.items()})
        found.append(sequence_log_likelihoods(getattr(output, "logits", output), labels[part], average=average))
    return torch.cat(found)


def accumulate_gradient(
    score: Callable[[slice], Tensor], objective: Callable[[Tensor], Tensor], *, count: int, rows: int
) -> Tensor:
    """Add the gradient of ``objective(scores)`` to the parameters, with the graph of ``rows`` sequences at a time.

    A first pass without graphs takes all scores, the objective gives its gradient in them, and a second pass pulls each
    part back: exactly the gradient of the whole batch, whatever the objective mixes, for one more forward pass.

    Parameters
    ----------
    score
        Scores of the sequences of a slice, shape (length of the slice,); the same in both passes.
    objective
        A scalar from the scores of all, shape (count,). Called once, so that it may keep a state.
    count, rows
        How many sequences there are, and how many to a part.

    Returns
    -------
    Tensor
        The value of the objective, detached.

    Raises
    ------
    ParameterError
        If ``rows`` is below 1, or if the second pass has other scores than the first, as under dropout; earlier parts
        have then added their gradients.
    """
    if rows < 1:
        raise ParameterError(f"rows must be at least 1, got {rows}")
    parts = [slice(start, min(start + rows, count)) for start in range(0, count, rows)]
    with torch.no_grad():
        scores = torch.cat([score(part) for part in parts])
    scores.requires_grad_()
    value = objective(scores)
    (pull,) = torch.autograd.grad(value, scores)
    for part in parts:
        again, before = score(part), scores.detach()[part]
        if bool(((again - before).abs() > _tolerance(again) * (1 + before.abs())).any()):
            raise ParameterError("score must repeat itself; switch dropout off, for instance with model.eval()")
        (again * pull[part]).sum().backward()
    return value.detach()


def _tolerance(scores: Tensor) -> float:
    """Autocast and half-precision models give float32 scores that repeat to fewer digits only."""
    low = torch.is_autocast_enabled(scores.device.type)
    return REPEATABLE[torch.bfloat16] if low else REPEATABLE[scores.dtype]


class MovingLogMean(nn.Module):
    """For each of ``examples`` a moving average, kept as its logarithm in float32 whatever the module is cast to.

    Parameters
    ----------
    examples
        How many there are; indices are 0 to ``examples - 1``.
    initial
        Logarithm that the averages start from; None lets an example start from its first estimate.
    forget_after
        An average that was not updated for more than so many updates is stale, and starts anew from the next estimate.

    Examples
    --------
    >>> average = MovingLogMean(3, initial=0.0)
    >>> average(torch.tensor([2]), torch.tensor([math.log(3.0)]), factor=0.5).exp()  # (1 + 3) / 2
    tensor([2.])
    """

    def __init__(self, examples: int, *, initial: float | None = None, forget_after: int | None = None) -> None:
        super().__init__()
        if examples < 1 or (forget_after is not None and forget_after < 1):
            raise ParameterError(f"examples and forget_after must be at least 1, got {examples} and {forget_after}")
        self.examples, self.initial, self.forget_after = examples, initial, forget_after
        self.register_buffer("log_mean", torch.full((examples,), initial or 0.0, dtype=torch.float32))
        self.register_buffer("updated", torch.zeros(examples, dtype=torch.int64))  # number of the update; 0 is never
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        exact = self.log_mean
        super()._apply(fn, recurse)
        if self.log_mean.dtype != torch.float32:
            self.log_mean = exact.to(device=self.log_mean.device, dtype=torch.float32)
        return self

    def forward(self, index: Tensor, log_estimates: Tensor, *, factor: float) -> Tensor:
        """Logarithms of ``(1 - factor) * average + factor * estimate``, shape (B,); they are kept in training mode.

        Parameters
        ----------
        index
            Examples, integers of shape (B,). Estimates of one that occurs twice are averaged first.
        log_estimates
            Logarithms of shape (B,); no gradient flows through them.
        factor
            Weight of the new estimate, in (0, 1].

        Raises
        ------
        ParameterError
            For a factor out of range, and indices that are not integers of that shape in range.
        """
        if not 0 < factor <= 1:
            raise ParameterError(f"factor must be in (0, 1], got {factor}")
        check_index(index, len(log_estimates), self.examples)
        rows, place = index.unique(return_inverse=True)
        estimates = _log_group_means(log_estimates.detach(), place, len(rows))
        fresh = estimates if factor == 1 else torch.logaddexp(
            self.log_mean[rows].to(estimates.dtype) + math.log1p(-factor), estimates + math.log(factor)
        )  # fmt: skip
        new = torch.where(self._restarts(rows), estimates, fresh)
        if self.training:
            self.updates += 1
            self.log_mean[rows] = new.to(torch.float32)
            self.updated[rows] = self.updates
        return new[place]

    def _restarts(self, rows: Tensor) -> Tensor:
        """Which examples take the estimate alone: those never seen if there is no initial value, and stale ones."""
        unseen = self.updated[rows] == 0
        restarts = unseen if self.initial is None else torch.zeros_like(unseen)
        if self.forget_after is not None:
            restarts = restarts | (~unseen & (self.updates + 1 - self.updated[rows] > self.forget_after))
        return restarts


def check_index(index: Tensor, batch: int, examples: int) -> None:
    """Raise ParameterError unless ``index`` has shape (batch,) and integers in [0, examples)."""
    if index.shape != (batch,) or index.is_floating_point() or index.dtype == torch.bool:
        raise ParameterError(f"index must be integers of shape ({batch},), got {index.dtype} {tuple(index.shape)}")
    if bool(((index < 0) | (index >= examples)).any()):
        low, high = int(index.min()), int(index.max())
        raise ParameterError(f"index must be in [0, {examples}), the examples of the data set, got {low} to {high}")


def _log_group_means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Logarithm of the mean of exp(values) within each group, shape (groups,)."""
    largest = torch.full((groups,), -math.inf, dtype=values.dtype, device=values.device)
    largest = largest.scatter_reduce(0, group, values, "amax")
    zeros = torch.zeros_like(largest)
    sums = zeros.index_add(0, group, (values - largest[group]).exp())
    return largest + (sums / zeros.index_add(0, group, torch.ones_like(values))).log()
