"""Margins of what must always hold for the two views of RoPE-PSD, on a small random Llama."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from porism.testbeds import torch_generator
from porism_plugins.arch._rope_psd_loss import RoPEPerturbedSelfDistillation, RoPEPSDLoss
from porism_plugins.arch._rope_psd_views import suffix_jump

VOCABULARY, LENGTH, ROWS = 20, 16, 2


def llama(rng: np.random.Generator) -> Any:
    """Two layers with large random weights, so that positions matter."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=4096, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**62)))
        return LlamaForCausalLM(config)


def tokens(rng: np.random.Generator) -> Tensor:
    """Random ids, shape (2, 16)."""
    return torch.from_numpy(rng.integers(VOCABULARY, size=(ROWS, LENGTH)))


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor, positions: Tensor, **options: Any) -> Tensor:
    """Of one pass with these positions and a mask that says that all tokens are one document."""
    options = {"attention_mask": torch.ones_like(ids), "use_cache": False, **options}
    return model(input_ids=ids, position_ids=positions.expand_as(ids), **options).logits


def second_call(model: nn.Module, ids: Tensor, objective: RoPEPerturbedSelfDistillation) -> dict[str, Any]:
    """What the objective calls the model with in the perturbed view."""
    calls: list[dict[str, Any]] = []
    handle = model.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    objective(model, {"input_ids": ids, "labels": ids})
    handle.remove()
    return calls[1]


def shift(rng: np.random.Generator, *, by: int, moved_from: int) -> float:
    """Largest change of a logit, in units of their standard deviation, when positions from some token on move."""
    model, ids = llama(rng), tokens(rng)
    usual = logits(model, ids, torch.arange(LENGTH))
    moved = logits(model, ids, suffix_jump(LENGTH, moved_from, by))
    return 1e-3 - float((moved - usual).abs().max() / usual.std())


def causality(rng: np.random.Generator, *, split: int, by: int, jump_at: int) -> float:
    """Largest change of a logit before the split when positions jump at ``jump_at``; 1e-30 less it."""
    model, ids = llama(rng), tokens(rng)
    usual = logits(model, ids, torch.arange(LENGTH))
    moved = logits(model, ids, suffix_jump(LENGTH, jump_at, by))
    return 1e-30 - float((moved - usual)[:, :split].abs().max())


def reach(rng: np.random.Generator, *, by: int, mask: str) -> float:
    """How much the last token's logits depend on the first token in the perturbed view, less a rounding error."""
    model, ids = llama(rng), tokens(rng)
    objective = RoPEPerturbedSelfDistillation(max_offset=by, generator=torch_generator(rng))
    call = second_call(model, ids, objective)
    call = call if mask == "explicit" else {**call, "attention_mask": None}
    other = torch.cat([(ids[:, :1] + 1) % VOCABULARY, ids[:, 1:]], 1)
    with torch.no_grad():
        before, after = (model(**{**call, "input_ids": row}).logits[:, -1] for row in (ids, other))
    return float((after - before).abs().amax(1).min()) - 1e-9


def no_jump(rng: np.random.Generator, *, weight: float, offset: int) -> float:
    """Largest distance of a gradient from that of language modelling; 1e-30 less it."""
    model, ids = llama(rng), tokens(rng)
    objective = RoPEPerturbedSelfDistillation(weight, max_offset=offset, generator=torch_generator(rng))
    found = []
    for value in (objective(model, {"input_ids": ids, "labels": ids}).loss, model(input_ids=ids, labels=ids).loss):
        found.append(torch.autograd.grad(value, list(model.parameters())))
    return 1e-30 - max(float((ours - plain).abs().max()) for ours, plain in zip(*found, strict=True))


def teacher_gradient(rng: np.random.Generator, *, spread: float, direction: Any, detach: bool) -> float:
    """Norm of the gradient in the standard view's logits; 1e-30 less it."""
    sides = [torch.from_numpy(rng.normal(scale=spread, size=(2, 3, 5))).requires_grad_() for _ in "ab"]
    value = RoPEPSDLoss(direction, detach=detach)(*sides)
    gradient = torch.autograd.grad(value, sides, allow_unused=True)[1]
    return 1e-30 - (0.0 if gradient is None else float(gradient.norm()))


def positionless(rng: np.random.Generator, *, perturbation: Any, frequencies: str) -> float:
    """Consistency of a Llama whose rotations are switched off, or on; 1e-9 less it."""
    model, ids = llama(rng), tokens(rng)
    if frequencies == "zero":
        model.model.rotary_emb.inv_freq.zero_()
    objective = RoPEPerturbedSelfDistillation(perturbation=perturbation, generator=torch_generator(rng))
    return 1e-9 - float(objective(model, {"input_ids": ids, "labels": ids}).consistency)
