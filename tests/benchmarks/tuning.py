"""Time and memory of a step of DFT beside SFT and DPO on the same sequences.

Run by hand: ``python tests/benchmarks/tuning.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timing import interleaved, table
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from porism_plugins.tune._engine import model_log_likelihoods
from porism_plugins.tune.dft import DFTLoss, dft_step

PROMPTS, NEGATIVES, LENGTH, VOCABULARY = 4, 2, 128, 8000


def peak(call: Callable[[], object]) -> float:
    """MB that autograd holds at most for backward, counted as storages that its graph saves."""
    held: dict[int, int] = {}
    largest = 0

    def save(tensor: Tensor) -> Tensor:
        nonlocal largest
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        largest = max(largest, sum(held.values()))
        return tensor

    def load(tensor: Tensor) -> Tensor:
        held.clear()  # backward has begun, the next part starts anew
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, load):
        call()
    return largest / 1e6


def main() -> None:
    """Print both tables."""
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
                         num_attention_heads=8)  # fmt: skip
    model, made = LlamaForCausalLM(config), torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (PROMPTS, LENGTH), generator=made)
    negatives = torch.randint(VOCABULARY, (PROMPTS, NEGATIVES, LENGTH), generator=made)
    reference = torch.full((PROMPTS, NEGATIVES), -9.0 * LENGTH)
    batch = {"input_ids": ids, "labels": ids, "negative_input_ids": negatives, "negative_labels": negatives,
             "reference": reference, "index": torch.arange(PROMPTS)}  # fmt: skip
    loss = DFTLoss(PROMPTS)

    def sft() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    def dpo() -> None:
        """Against each negative, with stored log-likelihoods of the reference."""
        right = model_log_likelihoods(model, batch)
        flat = negatives.flatten(0, 1)
        wrong = model_log_likelihoods(model, {"input_ids": flat, "labels": flat}).view(PROMPTS, NEGATIVES)
        (-F.logsigmoid(0.1 * (right[:, None] + 9.0 * LENGTH - (wrong - reference)))).mean().backward()

    calls = {
        "porism": lambda: dft_step(model, loss, batch).backward(),
        "porism, 4 sequences at a time": lambda: dft_step(model, loss, batch, rows=4),
        "porism, 1 sequence at a time": lambda: dft_step(model, loss, batch, rows=1),
        "SFT, without the negatives": sft,
        "DPO against the same negatives": dpo,
    }
    title = f"a step of {PROMPTS} prompts, {NEGATIVES} negatives each, {LENGTH} tokens, vocabulary {VOCABULARY}"
    print(table(title, interleaved(calls, repeats=5)))
    print("| what | MB saved for backward |\n|---|--:|")
    for name, call in calls.items():
        print(f"| {name} | {peak(call):.0f} |")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    main()
