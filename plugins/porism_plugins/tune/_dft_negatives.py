"""Negatives for discriminative fine-tuning, drawn with ``generate`` of a transformers model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import evaluating
from porism_plugins.tune._engine import collate, model_log_likelihoods


def draw_negatives(
    model: Any, prompts: Mapping[str, Tensor], *, count: int = 2, max_new_tokens: int = 320, temperature: float = 1.0,
    top_p: float = 1.0, top_k: int = 0, seed: int = 0, rows: int = 16, **options: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Answers that the model itself gives to a batch of prompts, with their log-likelihoods under it.

    Parameters
    ----------
    model
        A transformers model with ``generate``; it is put in evaluation mode meanwhile.
    prompts
        ``input_ids`` and, if padded, ``attention_mask``, shape (B, T), padded on the left as ``generate`` wants them.
    count
        Answers to each prompt.
    max_new_tokens
        Tokens of an answer at most; the first end-of-sequence token belongs to it.
    temperature, top_p, top_k
        Of the sampler. By default it is the model's own distribution, the one in which ``reference`` is exact; the
        paper has 0.7, 1.0 and 50, and keeps the plain log-likelihood.
    seed
        Of the draws; torch's global generators are left as they were.
    rows
        Sequences in one pass for ``reference``.
    options
        Further ones of ``generate``.

    Returns
    -------
    dict
        ``negative_input_ids``, ``negative_attention_mask`` and ``negative_labels``, int64 of shape (B, count, S),
        padded on the right, and ``reference``, float32 of shape (B, count).

    Raises
    ------
    ParameterError
        For counts below 1, and prompts that are not two-dimensional, empty or padded on the right.
    """
    for name, value in (("count", count), ("max_new_tokens", max_new_tokens), ("rows", rows)):
        Parameter(name, int, 1, low=1).validate(value)
    ids = prompts["input_ids"]
    if ids.dim() != 2 or not ids.numel():
        raise ParameterError(f"prompts must have input_ids of shape (B, T), not empty, got {tuple(ids.shape)}")
    mask = prompts.get("attention_mask", torch.ones_like(ids))
    if mask.shape != ids.shape or not bool(mask[:, -1].all()):
        raise ParameterError("prompts must be padded on the left: the last column of attention_mask must be ones")
    options = {"temperature": temperature, "top_p": top_p, "top_k": top_k, **options}
    end, pad = _special(model)
    with evaluating(model), torch.no_grad(), torch.random.fork_rng([ids.device] if ids.is_cuda else []):
        torch.manual_seed(seed)
        drawn = model.generate(input_ids=ids, attention_mask=mask, do_sample=True, max_new_tokens=max_new_tokens,
                               num_return_sequences=count, pad_token_id=pad, **options)  # fmt: skip
        answers = [_until_end(row, end) for row in drawn[:, ids.shape[1] :]]
        starts = [row[kept.bool()] for row, kept in zip(ids, mask, strict=True) for _ in range(count)]
        batch = collate(starts, answers, pad=pad, device=ids.device)
        reference = model_log_likelihoods(model, batch, rows=rows)
    shaped = {f"negative_{name}": tensor.view(len(ids), count, -1) for name, tensor in batch.items()}
    return shaped | {"reference": reference.view(len(ids), count)}


def _special(model: Any) -> tuple[list[int], int]:
    """The ids that end a sequence, none for some models, and the one that pads."""
    config = model.generation_config
    end = config.eos_token_id
    ends = [] if end is None else [end] if isinstance(end, int) else list(end)
    pad = config.pad_token_id
    return ends, pad if pad is not None else (ends or [0])[0]


def _until_end(tokens: Tensor, ends: list[int]) -> Tensor:
    """A row up to and including its first end."""
    found = torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype, device=tokens.device)).nonzero()
    return tokens[: int(found[0]) + 1] if len(found) else tokens
