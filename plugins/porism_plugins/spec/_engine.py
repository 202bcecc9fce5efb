"""Speculative generation: a draft proposes, the target verifies in one call, and the output has the target's law.

Leviathan, Kalman and Matias (arXiv:2211.17192), Chen et al. (arXiv:2302.01318); trees after Miao et al.
(arXiv:2305.09781). What decides is in :mod:`porism_plugins.spec._verify`; a paper of this family brings a draft
(:mod:`porism_plugins.spec._drafts`), or a verification of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from porism.errors import ParameterError
from porism.surgery import evaluating
from porism_plugins.spec import _verify as verify
from porism_plugins.spec._drafts import Context, Draft, ModelDraft, as_draft
from porism_plugins.spec._proposal import Proposal, checked, depths, is_chain, path_to
from porism_plugins.spec._reader import Reader, config_of
from porism_plugins.spec._scores import Scores
from porism_plugins.spec._statistics import Statistics


class Result(NamedTuple):
    """``sequences``, int64 of shape (batch, prompt + new) as ``generate`` returns them, and ``statistics``."""

    sequences: Tensor
    statistics: Statistics


@dataclasses.dataclass
class _Row:
    tokens: list[int]
    new: list[int]
    generator: torch.Generator | None
    finished: bool = False


def speculative_generate(
    target: Any,
    input_ids: Tensor,
    *,
    draft: Any,
    max_new_tokens: int,
    draft_length: int = 4,
    logits_processor: Iterable[Any] | None = None,
    do_sample: bool = False,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    attention_mask: Tensor | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    stopping_criteria: Iterable[Callable[[Tensor, Any], Any]] | None = None,
    use_cache: bool = True,
) -> Result:
    """Generate what the target would, with fewer calls of the target.

    Parameters
    ----------
    target
        A causal language model of transformers.
    input_ids
        Prompts, int64 of shape (batch, length), padded on either side.
    draft
        A model with the same vocabulary, a :class:`porism_plugins.spec._drafts.Draft`, or a function
        ``(tokens, length, generator) -> tokens`` of one row.
    max_new_tokens
        Tokens for each row at most, at least 1.
    draft_length
        Tokens that a draft is deep at most, at least 1.
    logits_processor
        A ``LogitsProcessorList`` for the target and for the draft. Each row is given to it without padding.
    do_sample
        False: the most probable token, as ``generate(do_sample=False)``. True: tokens are drawn.
    generator
        Where ``do_sample``: one that seeds a generator for each row, or one for each row. A row's tokens depend on its
        own generator only.
    attention_mask
        1 for tokens, 0 for padding, shape (batch, length).
    eos_token_id
        One or several tokens that end a row; None: those of ``target.generation_config``; ``()``: none.
    pad_token_id
        What stands behind a row that ended; None: that of ``target.generation_config``, or the first that ends a row.
    stopping_criteria
        Functions of transformers ``(input_ids, scores)``, asked after each token of each row with ``scores`` None.
    use_cache
        Whether the target keeps keys and values; without them it reads everything anew at every call.

    Returns
    -------
    Result
        The prompts with what was generated, and what it cost.

    Raises
    ------
    ParameterError
        If an argument is out of its range, vocabularies differ, a model cannot be read this way, logits are NaN, or a
        draft proposes what is none.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 20}
    >>> target, draft = (LlamaForCausalLM(LlamaConfig(**small, num_hidden_layers=n)) for n in (2, 1))
    >>> prompt = torch.tensor([[3, 4, 5]])
    >>> ours = speculative_generate(target, prompt, draft=draft, max_new_tokens=6, eos_token_id=())
    >>> ours.sequences.shape, ours.statistics.new_tokens
    (torch.Size([1, 9]), [6])
    """
    _check_numbers(max_new_tokens=max_new_tokens, draft_length=draft_length)
    proposer, vocabulary = as_draft(draft), config_of(target, "target").vocab_size
    _check_vocabularies(proposer, vocabulary)
    prompts = _prompts(input_ids, attention_mask, vocabulary)
    generators = _generators(generator, len(prompts), do_sample)
    rows = [_Row(prompt, [], own) for prompt, own in zip(prompts, generators, strict=True)]
    ends = _ends(target, eos_token_id)
    scores, criteria = Scores(logits_processor), list(stopping_criteria or ())
    reader = Reader(target, use_cache=use_cache)
    statistics = Statistics(drafted=[[] for _ in rows], accepted=[[] for _ in rows])
    getattr(proposer, "begin", lambda: None)()
    before = proposer.calls
    with torch.no_grad(), evaluating(target):
        while alive := [r for r, row in enumerate(rows) if not row.finished]:
            lengths = [min(draft_length, max_new_tokens - len(rows[r].new) - 1) for r in alive]
            context = Context(
                rows=alive,
                sequences=[rows[r].tokens for r in alive],
                lengths=lengths,
                generators=[g for r in alive if (g := rows[r].generator) is not None] or None,
                scores=scores,
            )
            proposals = _propose(proposer, context, vocabulary)
            logits = reader.read(alive, context.sequences, proposals)
            getattr(proposer, "observe", lambda *_: None)(context, proposals, logits)
            for r, proposal, row_logits in zip(alive, proposals, logits, strict=True):
                verified = _verified(rows[r], proposal, row_logits, scores)
                found = [*(proposal.tokens[node] for node in verified.accepted), verified.token]
                taken = _append(rows[r], found, max_new_tokens, ends, criteria, reader.device)
                accepted = min(taken, len(verified.accepted))
                # What stands behind the row's end was not tested.
                statistics.drafted[r].append(_depth(proposal) if taken == len(found) else accepted)
                statistics.accepted[r].append(accepted)
    statistics.target_calls, statistics.draft_calls = reader.calls, proposer.calls - before
    statistics.new_tokens = [len(row.new) for row in rows]
    return Result(_joined(input_ids, rows, _pad(target, pad_token_id, ends)), statistics)


def _propose(draft: Draft, context: Context, vocabulary: int) -> list[Proposal]:
    """Proposals for every row, none for one that has a single token to go."""
    asked = [i for i, length in enumerate(context.lengths) if length > 0]
    proposals = [Proposal([], [])] * len(context.rows)
    if not asked:
        return proposals
    part = context.select(asked)
    given = draft.propose(part)
    if len(given) != len(asked):
        raise ParameterError(f"draft must give a proposal for each of {len(asked)} rows, got {len(given)}")
    for i, proposal in zip(asked, given, strict=True):
        proposals[i] = checked(proposal, context.lengths[i], vocabulary)
    return proposals


def _verified(row: _Row, proposal: Proposal, logits: Tensor, scores: Scores) -> verify.Verified:
    parents = proposal.parents or []
    nodes = range(-1, len(parents))
    prefixes = ((row.tokens, [proposal.tokens[above] for above in path_to(node, parents)]) for node in nodes)
    if row.generator is None:
        return verify.verify_greedy(scores.greedy(logits, prefixes, "target"), proposal.tokens, parents)
    law, tokens = scores.probabilities(logits, prefixes, "target"), torch.tensor(proposal.tokens, dtype=torch.long)
    if is_chain(parents):
        return verify.verify_chain(law, proposal.probabilities, tokens, row.generator)
    return verify.verify_tree(law, proposal.probabilities, tokens, torch.tensor(parents), row.generator)


def _append(row: _Row, found: list[int], limit: int, ends: list[int], criteria: list[Any], device: torch.device) -> int:
    """Append tokens up to the one that ends the row, and return how many."""
    for count, token in enumerate(found, 1):
        row.tokens.append(token)
        row.new.append(token)
        ids = torch.tensor([row.tokens], device=device) if criteria else None
        stopped = any(bool(torch.as_tensor(stop(ids, None)).all()) for stop in criteria)
        if token in ends or stopped or len(row.new) == limit:
            row.finished = True
            return count
    return len(found)


def _depth(proposal: Proposal) -> int:
    return max(depths(proposal.parents or []), default=0)


def _prompts(input_ids: Tensor, attention_mask: Tensor | None, vocabulary: int) -> list[list[int]]:
    """The tokens of each row, without padding."""
    if input_ids.ndim != 2 or input_ids.is_floating_point() or not len(input_ids):
        raise ParameterError(f"input_ids must be integers of shape (batch, length), got {tuple(input_ids.shape)}")
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if mask.shape != input_ids.shape:
        raise ParameterError(
            f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, got {tuple(mask.shape)}"
        )
    prompts = [ids[kept].tolist() for ids, kept in zip(input_ids, mask.to(input_ids.device).bool(), strict=True)]
    if not all(prompts):
        raise ParameterError("input_ids: a prompt is empty; give each row at least one token")
    wrong = next((token for prompt in prompts for token in prompt if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise ParameterError(f"input_ids: token {wrong} is out of the target's vocabulary, [0, {vocabulary})")
    return prompts


def _generators(given: Any, batch: int, do_sample: bool) -> Sequence[torch.Generator | None]:
    if not do_sample:
        return [None] * batch
    if isinstance(given, torch.Generator):
        seeds = torch.randint(2**63 - 1, (batch,), generator=given, device=given.device).tolist()
        return [torch.Generator(given.device).manual_seed(seed) for seed in seeds]
    if given is None or len(given) != batch or not all(isinstance(g, torch.Generator) for g in given):
        raise ParameterError(f"generator must be a torch.Generator, or one for each of {batch} rows, where do_sample")
    return list(given)


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ParameterError(f"{name} must be int and at least 1, got {value!r}")


def _check_vocabularies(draft: Draft, vocabulary: int) -> None:
    if not isinstance(draft, ModelDraft):
        return
    theirs = config_of(draft.model, "draft").vocab_size
    if theirs != vocabulary:
        raise ParameterError(f"draft has a vocabulary of {theirs} tokens, target of {vocabulary}; they must share one")


def _ends(target: Any, given: int | Sequence[int] | None) -> list[int]:
    if given is None:
        given = getattr(getattr(target, "generation_config", None), "eos_token_id", None)
    if given is None:
        return []
    return [given] if isinstance(given, int) else [int(token) for token in given]


def _pad(target: Any, given: int | None, ends: list[int]) -> int:
    own = getattr(getattr(target, "generation_config", None), "pad_token_id", None)
    return next((token for token in (given, own, *ends) if token is not None), 0)


def _joined(input_ids: Tensor, rows: list[_Row], pad: int) -> Tensor:
    longest = max(len(row.new) for row in rows)
    new = torch.tensor([row.new + [pad] * (longest - len(row.new)) for row in rows], dtype=input_ids.dtype)
    return torch.cat([input_ids, new.to(input_ids.device)], 1)
