"""Verification of drafted tokens by the target's probabilities, such that what comes out has the target's law.

Leviathan et al. (arXiv:2211.17192) and Chen et al. (arXiv:2302.01318) for chains; the sequential rejection of SpecInfer
(arXiv:2305.09781) for trees. One step is enough to see why it is exact: x drawn from q is accepted with probability
min(1, p(x) / q(x)), so token x leaves this way with probability min(p(x), q(x)). Otherwise, with probability
1 - sum min(p, q) = sum max(p - q, 0), a token is drawn from max(p - q, 0) normalised, so that x leaves this way with
probability max(p(x) - q(x), 0). The two add up to p(x). The second part takes any way of drawing from the normalised
max(p - q, 0): another sibling, drawn from some q' and verified against it, is one.

These are functions of one row. Every random decision is one call of :func:`accepts` or :func:`draws`, so that a test
can put an enumeration in their place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from porism.errors import ParameterError


class Verified(NamedTuple):
    """What verification leaves: ``accepted``, the indices of draft tokens in order, and the ``token`` after them."""

    accepted: list[int]
    token: int


def verify_chain(
    target_probs: Tensor, draft_probs: Tensor | None, draft_tokens: Tensor, generator: torch.Generator
) -> Verified:
    """Accept the longest prefix that sequential rejection leaves, and draw the token after it.

    Parameters
    ----------
    target_probs
        The target's distributions after the context and after each draft token, shape (n + 1, vocabulary).
    draft_probs
        The distributions that the tokens were drawn from, shape (n, vocabulary); None if they were not drawn.
    draft_tokens
        int64 of shape (n,).
    generator
        Of every random decision.

    Returns
    -------
    Verified
        Its law, over draft tokens from ``draft_probs`` and the generator, is that of tokens drawn from the target.

    Raises
    ------
    ParameterError
        If shapes do not fit, a token is out of range, or has probability 0 under the draft that gave it.

    Examples
    --------
    >>> p = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    >>> verify_chain(p, p[:1], torch.tensor([1]), torch.Generator().manual_seed(0))
    Verified(accepted=[0], token=0)
    """
    _check(target_probs, draft_probs, draft_tokens)
    for i, ratio in enumerate(_ratios(target_probs[:-1], draft_probs, draft_tokens)):
        if not accepts(ratio, generator):
            q = None if draft_probs is None else draft_probs[i]
            return Verified(list(range(i)), draws(residual(target_probs[i], q, int(draft_tokens[i])), generator))
    return Verified(list(range(len(draft_tokens))), draws(target_probs[-1], generator))


def verify_tree(
    target_probs: Tensor,
    draft_probs: Tensor | None,
    draft_tokens: Tensor,
    parents: Tensor,
    generator: torch.Generator,
) -> Verified:
    """Walk down a tree of draft tokens: siblings are tried in their order, each against what the ones before left.

    Parameters
    ----------
    target_probs
        The target's distributions after the context and after each node, shape (n + 1, vocabulary).
    draft_probs
        Shape (n, vocabulary): the distribution that a node was drawn from, *given* its earlier siblings. Drawn
        independently, siblings share one; drawn without replacement, the earlier ones are missing from it. None if
        nodes were not drawn, as the most probable tokens are not.
    draft_tokens, parents
        int64 of shape (n,); a parent comes before its children, and -1 is the context.
    generator
        Of every random decision.

    Returns
    -------
    Verified
        As of :func:`verify_chain`; ``accepted`` is a path from the context down.

    Raises
    ------
    ParameterError
        As of :func:`verify_chain`, or if a parent does not come before its child.
    """
    _check(target_probs, draft_probs, draft_tokens)
    below = children(parents.tolist())
    tokens = draft_tokens.tolist()
    path: list[int] = []
    node, p = -1, target_probs[0]
    while True:
        for child in below[node]:
            q = None if draft_probs is None else draft_probs[child]
            if accepts(_ratio(p, q, tokens[child]), generator):
                path.append(child)
                node, p = child, target_probs[child + 1]
                break
            p = residual(p, q, tokens[child])
        else:
            return Verified(path, draws(p, generator))


def verify_greedy(target_tokens: list[int], draft_tokens: list[int], parents: list[int]) -> Verified:
    """The limit of temperature 0: accept what the target's most probable tokens are.

    ``target_tokens`` are those after the context and after each node, n + 1 of them.

    Examples
    --------
    >>> verify_greedy([5, 7, 1, 2], [4, 5, 6], [-1, -1, 1])
    Verified(accepted=[1], token=1)
    """
    below = children(parents)
    path: list[int] = []
    node = -1
    while True:
        wanted = target_tokens[node + 1]
        node = next((child for child in below[node] if draft_tokens[child] == wanted), -2)
        if node == -2:
            return Verified(path, wanted)
        path.append(node)


def residual(p: Tensor, q: Tensor | None, token: int) -> Tensor:
    """What is left of p after ``token``, drawn from q, was rejected: max(p - q, 0), normalised; shape (vocabulary,).

    Where q covers p but for rounding, nothing is left, and p itself stands in: it was rejected by rounding.
    """
    if q is None:
        left = p.clone()
        left[token] = 0
    else:
        left = (p - q.to(p)).clamp_min_(0)
    total = left.sum()
    return left / total if total > 0 else p


def accepts(probability: float, generator: torch.Generator) -> bool:
    """True with a probability; above 1 it counts as 1."""
    uniform = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
    return bool(uniform < probability)


def draws(probabilities: Tensor, generator: torch.Generator) -> int:
    """One token of a distribution of shape (vocabulary,)."""
    return int(torch.multinomial(probabilities.to(generator.device), 1, generator=generator))


def children(parents: list[int]) -> dict[int, list[int]]:
    """The children of each node and of the context, -1.

    Raises
    ------
    ParameterError
        If a parent does not come before its child.
    """
    below: dict[int, list[int]] = {node: [] for node in range(-1, len(parents))}
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise ParameterError(f"parents must come before their children, or be -1; node {node} has parent {parent}")
        below[parent].append(node)
    return below


def _ratio(p: Tensor, q: Tensor | None, token: int) -> float:
    return _ratios(p[None], None if q is None else q[None], torch.tensor([token]))[0]


def _ratios(p: Tensor, q: Tensor | None, tokens: Tensor) -> list[float]:
    index = tokens[:, None]
    ours = p.gather(1, index.to(p.device))[:, 0].tolist()
    theirs = [1.0] * len(tokens) if q is None else q.gather(1, index.to(q.device))[:, 0].tolist()
    for token, probability in zip(tokens.tolist(), theirs, strict=True):
        if not probability > 0:
            raise ParameterError(f"draft_tokens: token {token} has probability {probability} under its draft_probs")
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def _check(target_probs: Tensor, draft_probs: Tensor | None, tokens: Tensor) -> None:
    if tokens.ndim != 1 or target_probs.ndim != 2 or len(target_probs) != len(tokens) + 1:
        raise ParameterError(
            "target_probs must have shape (n + 1, vocabulary) for draft_tokens of shape (n,), "
            f"got {tuple(target_probs.shape)} and {tuple(tokens.shape)}"
        )
    if draft_probs is not None and draft_probs.shape != target_probs[:-1].shape:
        raise ParameterError(
            f"draft_probs must have shape {tuple(target_probs[:-1].shape)}, got {tuple(draft_probs.shape)}; "
            "draft and target must share a vocabulary"
        )
    if len(tokens) and not (int(tokens.min()) >= 0 and int(tokens.max()) < target_probs.shape[1]):
        raise ParameterError(
            f"draft_tokens must lie in [0, {target_probs.shape[1]}), the target's vocabulary; "
            f"got {int(tokens.min())} to {int(tokens.max())}"
        )
