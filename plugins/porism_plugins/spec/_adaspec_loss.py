"""The loss of AdaSPEC: forward KL on the tokens where a draft lags its reference most; acceptance of drafts."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from porism.divergences import kl_divergence_logits, tv_distance_logits
from porism.errors import ParameterError
from porism.parameters import Parameter

IGNORED = -100
Average = Literal["kept", "supervised"]


def kept_count(tokens: int, kept: float) -> int:
    """How many of so many tokens are kept where no two gaps are equal: N - ceil((1 - k)(N - 1)), at least 1 of N >= 1.

    The fraction counts as the decimal that it is written as, so that no rounding of 1 - k adds or drops a token.

    Examples
    --------
    >>> [kept_count(n, 0.4) for n in (0, 1, 2, 5, 10, 100)]
    [0, 1, 1, 2, 4, 40]
    """
    return tokens - math.ceil((1 - Fraction(str(kept))) * (tokens - 1)) if tokens else 0


def select_tokens(gaps: Tensor, kept: float) -> Tensor:
    """Those whose gap is at least the (1 - k) quantile of all, linearly interpolated; equal gaps stand or fall as one.

    Parameters
    ----------
    gaps
        KL of the draft less KL of the reference, finite, shape (N,).
    kept
        Fraction k in (0, 1].

    Returns
    -------
    Tensor
        bool of shape (N,), with :func:`kept_count` trues, more only where gaps are equal.

    Examples
    --------
    >>> select_tokens(torch.tensor([0.3, -0.1, 0.0, 0.9, 0.2]), 0.4)
    tensor([ True, False, False,  True, False])
    """
    if not len(gaps):
        return torch.zeros_like(gaps, dtype=torch.bool)
    lowest = gaps.kthvalue(len(gaps) - kept_count(len(gaps), kept) + 1).values
    return gaps >= lowest


class AdaSPECLoss(nn.Module):
    """Forward KL from target to draft, over the fraction of tokens where the draft lags the reference most.

    Token i has the gap KL(p_i || q_i) - KL(p_i || r_i) of target p, draft q and reference r. Tokens whose gap is at
    least the batch's (1 - kept) quantile are trained on; the others get no gradient. The selection itself has none.

    Parameters
    ----------
    kept
        Fraction k of the supervised tokens that is trained on, in (0, 1]; 1 is distillation of all tokens.
    average
        What the sum over kept tokens is divided by: ``"kept"``, their number; ``"supervised"``, that of all supervised
        tokens, which makes a gradient about k times as large. The released trainer does the second where its trainer
        counts tokens; optimisers that normalise gradients, as Adam, hardly notice.

    Raises
    ------
    ParameterError
        For options out of range; in ``forward`` for shapes, devices or labels that do not fit, logits that are NaN or
        infinite, a count below 1, and tokens that the draft or the reference masks and the target does not.

    Examples
    --------
    >>> target, draft = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    >>> loss = AdaSPECLoss(kept=0.5)
    >>> loss(draft, target, torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))  # the first can be learned
    tensor(0.3278)
    """

    def __init__(self, kept: float = 0.4, *, average: Average = "kept") -> None:
        super().__init__()
        Parameter("kept", float, 0.4, low=0.0, high=1.0, low_open=True).validate(kept)
        Parameter("average", str, "kept", choices=get_args(Average)).validate(average)
        self.kept, self.average = kept, average

    def forward(
        self, draft_logits: Tensor, target_logits: Tensor, reference_logits: Tensor, labels: Tensor,
        count: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the loss, a scalar; half precision is computed and returned in float32.

        Parameters
        ----------
        draft_logits
            Shape (..., V): the only ones that get a gradient.
        target_logits, reference_logits
            Of the same shape.
        labels
            Integers of shape (...): -100 at a position that does not count, in [0, V) at one that does. Nothing is
            shifted: the label of a position is the token after it.
        count
            What to divide by instead of ``average`` says, such as the tokens of all accumulated batches.

        Notes
        -----
        A batch without supervised tokens has the loss 0 and a gradient of zeros. What is held for backward is one
        gradient of ``draft_logits`` in its own dtype; rows are copied only where some do not count.
        """
        draft, target, reference = _supervised(draft_logits, target_logits, reference_logits, labels)
        if count is not None and count < 1:
            raise ParameterError(f"count must be at least 1, got {count}")
        if not len(draft):
            return draft.sum().to(torch.promote_types(draft.dtype, torch.float32))
        losses = kl_divergence_logits(target, draft)
        chosen = self.select(losses.detach(), _gaps(losses.detach(), target, reference))
        if count is None:
            count = int(chosen.sum()) if self.average == "kept" else len(chosen)
        return losses[chosen].sum() / count

    def select(self, losses: Tensor, gaps: Tensor) -> Tensor:
        """Which tokens are trained on, bool of shape (N,), from their losses and gaps; an ablation overrides this."""
        return select_tokens(gaps, self.kept)


@torch.no_grad()
def token_gaps(draft_logits: Tensor, target_logits: Tensor, reference_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The loss KL(p || q) of each token and its gap to the reference, both (...), for logits of shape (..., V).

    Examples
    --------
    >>> target, draft = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> token_gaps(draft, target, target)
    (tensor([0.3278]), tensor([0.3278]))
    """
    losses = kl_divergence_logits(target_logits, draft_logits)
    return losses, _gaps(losses, target_logits, reference_logits)


@torch.no_grad()
def acceptance(draft_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Probability that speculative sampling accepts the draft's token: 1 - TV(p, q), the overlap of the two laws.

    Parameters
    ----------
    draft_logits, target_logits
        Shape (..., V).

    Returns
    -------
    Tensor
        Shape (...), in [0, 1], at least 1 - sqrt(KL(p || q) / 2) by Pinsker's inequality.

    Examples
    --------
    >>> acceptance(torch.zeros(2), torch.tensor([0.75, 0.25]).log())
    tensor(0.7500)
    """
    return 1 - tv_distance_logits(target_logits, draft_logits)


@torch.no_grad()
def greedy_acceptance(draft_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Whether greedy decoding accepts the draft's token: both have one likeliest token; bool of shape (...)."""
    return draft_logits.argmax(-1) == target_logits.argmax(-1)


@torch.no_grad()
def _gaps(losses: Tensor, target: Tensor, reference: Tensor) -> Tensor:
    gaps = losses - kl_divergence_logits(target, reference)
    if not bool(gaps.isfinite().all()):
        raise ParameterError(
            "draft_logits and reference_logits must not be -inf where target_logits are not: the KL is infinite"
        )
    return gaps


def _supervised(draft: Tensor, target: Tensor, reference: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three logits where the label counts, shape (N, V), once everything fits; a view if all of them do."""
    given = {"target_logits": target, "reference_logits": reference}
    if draft.ndim < 1 or not draft.is_floating_point() or not draft.shape[-1]:
        raise ParameterError(f"draft_logits must be floating of shape (..., V), got {draft.dtype} {tuple(draft.shape)}")
    for name, logits in given.items():
        if logits.shape != draft.shape:
            raise ParameterError(
                f"{name} must have the shape of draft_logits, {tuple(draft.shape)}, got {tuple(logits.shape)}; "
                "the models must share a vocabulary"
            )
    if labels.shape != draft.shape[:-1] or labels.is_floating_point():
        raise ParameterError(
            f"labels must be integers of shape {tuple(draft.shape[:-1])}, got {labels.dtype} {tuple(labels.shape)}"
        )
    for name, tensor in {**given, "labels": labels}.items():
        if tensor.device != draft.device:
            raise ParameterError(f"{name} must be on {draft.device} as draft_logits, got {tensor.device}")
    counted = labels.flatten() != IGNORED
    seen = labels.flatten()[counted]
    if len(seen) and not 0 <= int(seen.min()) <= int(seen.max()) < draft.shape[-1]:
        raise ParameterError(
            f"labels must be {IGNORED} or in [0, {draft.shape[-1]}), got {int(seen.min())} to {int(seen.max())}"
        )
    rows = [draft.flatten(0, -2), target.detach().flatten(0, -2), reference.detach().flatten(0, -2)]
    if len(seen) < len(counted):
        rows = [logits[counted] for logits in rows]
    for name, logits in zip(("draft_logits", *given), rows, strict=True):
        if not bool(logits.amax(-1).isfinite().all()):
            raise ParameterError(f"{name} must not be NaN, inf or -inf throughout where labels count")
    return rows[0], rows[1], rows[2]
