"""Drafts: a small model, what the text itself repeats, or any function of one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.surgery import evaluating
from porism_plugins.spec import _verify as verify
from porism_plugins.spec._proposal import Proposal, path_to
from porism_plugins.spec._reader import Reader
from porism_plugins.spec._scores import Scores


@dataclasses.dataclass(frozen=True)
class Context:
    """What a draft is asked: one entry of each list for each row that still runs."""

    rows: list[int]  # which rows of the batch
    sequences: list[list[int]]  # their tokens, prompt first, without padding; not to be changed
    lengths: list[int]  # how many tokens deep a proposal may be
    generators: list[torch.Generator] | None  # None where decoding is greedy
    scores: Scores  # the processors, which draft and target share

    def select(self, places: list[int]) -> Context:
        """The context of some of the rows, by their places here."""
        return Context(
            rows=[self.rows[i] for i in places],
            sequences=[self.sequences[i] for i in places],
            lengths=[self.lengths[i] for i in places],
            generators=None if self.generators is None else [self.generators[i] for i in places],
            scores=self.scores,
        )


@runtime_checkable
class Draft(Protocol):
    """What proposes tokens. ``calls`` counts its forward passes, or how often it was asked.

    It may also have ``begin()``, called before a batch, and ``observe(context, proposals, logits)``, called after each
    call of the target with its logits after the context and after each proposed token, (n + 1, vocabulary) for a row.
    """

    calls: int

    def propose(self, context: Context) -> list[Proposal]:
        """Return one proposal for each row, which may be empty."""
        ...


class ModelDraft:
    """Drafts of a smaller causal language model with the target's vocabulary.

    Parameters
    ----------
    model
        A causal language model of transformers.
    widths
        How many children a token gets at each depth, 1 beyond the end: the most probable tokens where decoding is
        greedy, else tokens drawn without replacement.
    expand
        ``"first"``: only the first of the siblings gets children, so that siblings cost the draft nothing;
        ``"all"``: every one of them.
    use_cache
        Whether the draft keeps its keys and values.
    """

    def __init__(
        self,
        model: Any,
        *,
        widths: Sequence[int] = (),
        expand: Literal["first", "all"] = "first",
        use_cache: bool = True,
    ) -> None:
        if any(width < 1 for width in widths):
            raise ParameterError(f"widths must be at least 1, got {tuple(widths)}")
        if expand not in ("first", "all"):
            raise ParameterError(f"expand must be 'first' or 'all', got {expand!r}")
        self.model, self.widths, self.expand, self.use_cache, self.calls = model, tuple(widths), expand, use_cache, 0
        self.begin()

    def begin(self) -> None:
        """Forget every row."""
        self._reader = Reader(self.model, use_cache=self.use_cache, name="draft")

    def propose(self, context: Context) -> list[Proposal]:
        """Grow each row's tree level by level, one call of the model a level."""
        trees = [_Growing() for _ in context.rows]
        with evaluating(self.model):
            for depth in range(max(context.lengths)):
                before = self._reader.calls
                logits = self._reader.read(context.rows, context.sequences, [tree.expanded() for tree in trees])
                self.calls += self._reader.calls - before
                for r, tree in enumerate(trees):
                    if depth < context.lengths[r]:
                        self._grow(tree, depth, logits[r], context, r)
        return [tree.proposal() for tree in trees]

    def _grow(self, tree: _Growing, depth: int, logits: Tensor, context: Context, r: int) -> None:
        """Give children to the nodes whose logits these are."""
        nodes = tree.inner[-len(logits) :] if depth else [-1]
        width = self.widths[depth] if depth < len(self.widths) else 1
        prefixes = ((context.sequences[r], tree.path(node)) for node in nodes)
        if context.generators is None:
            scores = context.scores(logits, prefixes)
            best = scores.topk(min(width, scores.shape[1])).indices.tolist()
            families = [[tree.add(token, node) for token in row] for node, row in zip(nodes, best, strict=True)]
        else:
            law = context.scores.probabilities(logits, prefixes, "draft")
            families = [tree.draw(q, n, width, context.generators[r]) for n, q in zip(nodes, law, strict=True)]
        if depth + 1 < context.lengths[r]:
            tree.inner += [child for family in families for child in (family if self.expand == "all" else family[:1])]


class _Growing:
    """A tree while it grows; ``inner`` are the nodes that have children or get them next."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.probabilities: list[Tensor] = []
        self.inner: list[int] = []

    def path(self, node: int) -> list[int]:
        return [self.tokens[above] for above in path_to(node, self.parents)]

    def add(self, token: int, parent: int) -> int:
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1

    def draw(self, q: Tensor, parent: int, width: int, generator: torch.Generator) -> list[int]:
        """Children drawn without replacement, fewer if fewer tokens have any probability."""
        family = []
        for _ in range(width):
            token = verify.draws(q, generator)
            self.probabilities.append(q)
            family.append(self.add(token, parent))
            left = q.clone()
            left[token] = 0
            if not left.any():
                break
            q = left / left.sum()
        return family

    def expanded(self) -> Proposal:
        """What the draft itself has to read."""
        place = {node: i for i, node in enumerate(self.inner)} | {-1: -1}
        return Proposal([self.tokens[n] for n in self.inner], [place[self.parents[n]] for n in self.inner])

    def proposal(self) -> Proposal:
        return Proposal(self.tokens, self.parents, torch.stack(self.probabilities) if self.probabilities else None)


class PromptLookup:
    """The tokens that followed the last occurrence of the row's last few tokens; nothing where there is none.

    Parameters
    ----------
    longest
        Tokens to look for, at least 1; where they did not occur before, one fewer, down to one.
    """

    def __init__(self, longest: int = 3) -> None:
        if longest < 1:
            raise ParameterError(f"longest must be at least 1, got {longest}")
        self.longest, self.calls = longest, 0

    def propose(self, context: Context) -> list[Proposal]:
        """Look up each row in itself."""
        self.calls += 1
        return [Proposal(self._lookup(s, n)) for s, n in zip(context.sequences, context.lengths, strict=True)]

    def _lookup(self, sequence: list[int], length: int) -> list[int]:
        tokens = np.asarray(sequence)
        for size in range(min(self.longest, len(tokens) - 1), 0, -1):
            windows = np.lib.stride_tricks.sliding_window_view(tokens[:-1], size)
            (found,) = np.nonzero((windows == tokens[-size:]).all(1))
            if len(found):
                start = int(found[-1]) + size
                return sequence[start : start + length]
        return []


class FunctionDraft:
    """A function ``(tokens, length, generator) -> tokens`` or :class:`Proposal`, asked row by row.

    ``tokens`` is the row so far, int64 of shape (n,), ``generator`` None where decoding is greedy. Tokens that are
    returned without probabilities count as chosen, not drawn.
    """

    def __init__(self, function: Callable[[Tensor, int, torch.Generator | None], Any]) -> None:
        self.function, self.calls = function, 0

    def propose(self, context: Context) -> list[Proposal]:
        """Ask the function about each row."""
        return [self._ask(context, r) for r in range(len(context.rows))]

    def _ask(self, context: Context, r: int) -> Proposal:
        self.calls += 1
        generator = None if context.generators is None else context.generators[r]
        given = self.function(torch.tensor(context.sequences[r]), context.lengths[r], generator)
        return given if isinstance(given, Proposal) else Proposal([int(token) for token in given])


def as_draft(draft: Any) -> Draft:
    """A :class:`Draft` from one, from a model, or from a function.

    Raises
    ------
    ParameterError
        If it is none of these.
    """
    if isinstance(draft, Draft):
        return draft
    if isinstance(draft, nn.Module):
        return ModelDraft(draft)
    if callable(draft):
        return FunctionDraft(draft)
    raise ParameterError(f"draft must be a model, a function or have propose(context), got {type(draft).__name__}")
