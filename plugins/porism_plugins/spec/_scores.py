"""From logits to the scores and probabilities that tokens are chosen by, the same way for target and draft."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import transformers
from torch import Tensor
from transformers import LogitsProcessorList

from porism.errors import ParameterError

# Processors whose result depends on the scores alone, so that all positions can be given to them at once.
CONTEXT_FREE = (
    transformers.TemperatureLogitsWarper,
    transformers.TopKLogitsWarper,
    transformers.TopPLogitsWarper,
    transformers.MinPLogitsWarper,
    transformers.TypicalLogitsWarper,
    transformers.EpsilonLogitsWarper,
    transformers.EtaLogitsWarper,
)

# Tokens before a position: what one row has, and the way down a tree.
Prefix = tuple[Sequence[int], Sequence[int]]


class Scores:
    """Logits through a list of processors of transformers.

    Parameters
    ----------
    processors
        A ``LogitsProcessorList``, an iterable of processors, or None.
    """

    def __init__(self, processors: Iterable[transformers.LogitsProcessor] | None) -> None:
        self.processors = LogitsProcessorList(processors or ())
        self._at_once = all(type(processor) in CONTEXT_FREE for processor in self.processors)

    def __call__(self, logits: Tensor, prefixes: Iterable[Prefix]) -> Tensor:
        """Scores of n positions, shape (n, vocabulary), float32 (float64 of float64 logits).

        ``prefixes`` are the tokens before each position; they are asked for only if a processor looks at them.
        """
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not self.processors:
            return scores
        if self._at_once:
            none = torch.zeros(len(scores), 1, dtype=torch.long, device=scores.device)
            return self.processors(none, scores)
        return torch.cat(list(self._one_by_one(scores, prefixes)))

    def probabilities(self, logits: Tensor, prefixes: Iterable[Prefix], whose: str) -> Tensor:
        """Softmax of the scores.

        Raises
        ------
        ParameterError
            If the logits of ``whose`` model are NaN or infinite, or every token is forbidden.
        """
        result = self(logits, prefixes).softmax(-1)
        if bool(result[:, 0].isnan().any()):  # one NaN or +inf, or -inf throughout, makes the row NaN
            raise _unusable(whose)
        return result

    def greedy(self, logits: Tensor, prefixes: Iterable[Prefix], whose: str) -> list[int]:
        """The token of the largest score at each position, the first of equals; raises as :meth:`probabilities`."""
        largest, tokens = self(logits, prefixes).max(-1)
        if not bool(largest.isfinite().all()):
            raise _unusable(whose)
        return [int(token) for token in tokens.tolist()]

    def _one_by_one(self, scores: Tensor, prefixes: Iterable[Prefix]) -> Iterator[Tensor]:
        for row, (before, path) in zip(scores, prefixes, strict=True):
            ids = torch.tensor([[*before, *path]], dtype=torch.long, device=scores.device)
            yield self.processors(ids, row[None].clone())


def _unusable(whose: str) -> ParameterError:
    return ParameterError(
        f"{whose}: logits are NaN or infinite, or logits_processor forbids every token; check weights and processors"
    )
