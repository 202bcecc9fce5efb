"""What a draft proposes for one row: tokens, how they hang together, and the distributions they were drawn from."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from porism.errors import ParameterError


class Proposal(NamedTuple):
    """A chain or tree of draft tokens, each after its parent.

    Parameters
    ----------
    tokens
        n token ids; none at all is allowed.
    parents
        n places in ``tokens`` of what comes before each, -1 for the context; None for a chain.
    probabilities
        The distribution that each token was drawn from given its earlier siblings, shape (n, vocabulary); None if the
        tokens were chosen and not drawn. Which tokens are proposed must not depend on tokens drawn and put aside.
    """

    tokens: list[int]
    parents: list[int] | None = None
    probabilities: Tensor | None = None


def chain(n: int) -> list[int]:
    """The parents of a chain of n tokens."""
    return list(range(-1, n - 1))


def is_chain(parents: list[int]) -> bool:
    """Whether each node's parent is the node before it."""
    return all(parent == node - 1 for node, parent in enumerate(parents))


def depths(parents: list[int]) -> list[int]:
    """How many nodes there are above each, itself included: 1 for a child of the context.

    Examples
    --------
    >>> depths([-1, -1, 1])
    [1, 1, 2]
    """
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent < 0 else found[parent] + 1)
    return found


def path_to(node: int, parents: list[int]) -> list[int]:
    """The nodes from the context down to a node, itself included."""
    path = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


def checked(given: Any, limit: int, vocabulary: int) -> Proposal:
    """A proposal with its parents written out, no deeper than ``limit``.

    Raises
    ------
    ParameterError
        If a token is out of range, a parent does not come before its child, or probabilities are none.
    """
    if not isinstance(given, Proposal):
        raise ParameterError(f"draft must propose a Proposal for each row, got {type(given).__name__}")
    tokens = [int(token) for token in given.tokens]
    wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise ParameterError(f"draft: token {wrong} is out of the target's vocabulary, [0, {vocabulary})")
    parents = chain(len(tokens)) if given.parents is None else [int(parent) for parent in given.parents]
    if len(parents) != len(tokens):
        raise ParameterError(f"draft: parents must be one for each of {len(tokens)} tokens, got {len(parents)}")
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise ParameterError(f"draft: parents must come before their children; node {node} has parent {parent}")
    _check_probabilities(given.probabilities, len(tokens), vocabulary)
    return _shallow(Proposal(tokens, parents, given.probabilities), limit)


def _shallow(proposal: Proposal, limit: int) -> Proposal:
    """Without the nodes deeper than ``limit``."""
    parents = proposal.parents or []
    kept = [node for node, depth in enumerate(depths(parents)) if depth <= limit]
    if len(kept) == len(parents):
        return proposal
    place = {node: i for i, node in enumerate(kept)} | {-1: -1}
    probabilities = None if proposal.probabilities is None else proposal.probabilities[kept]
    return Proposal([proposal.tokens[node] for node in kept], [place[parents[node]] for node in kept], probabilities)


def _check_probabilities(probabilities: Tensor | None, n: int, vocabulary: int) -> None:
    if probabilities is None:
        return
    if tuple(probabilities.shape) != (n, vocabulary):
        raise ParameterError(
            f"draft: probabilities must have shape ({n}, {vocabulary}), one of the target's vocabulary for each token, "
            f"got {tuple(probabilities.shape)}"
        )
    sums = probabilities.sum(-1)
    if n and not (
        bool((probabilities >= 0).all()) and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-4).all())
    ):
        raise ParameterError("draft: probabilities must be at least 0 and add up to 1 for each token")
