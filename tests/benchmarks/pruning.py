"""Masks, the steps of a pruner and structured pruning beside torch.nn.utils.prune and plain training.

Run by hand: ``python tests/benchmarks/pruning.py``.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
from timing import Workload, interleaved, table
from torch import nn
from torch.nn.utils import prune as torch_prune

from porism_plugins.prune._engine import Pruner, prune
from porism_plugins.prune._masks import keep_largest
from porism_plugins.prune._upper_confidence import UpperConfidence

WIDTH, REMAINING = 4096, 0.2


def workloads() -> Iterator[Workload]:
    """What is measured against a peer."""
    layer = nn.Linear(WIDTH, WIDTH, bias=False)
    magnitudes = layer.weight.detach().abs()

    def theirs() -> object:
        return torch_prune.L1Unstructured(1 - REMAINING).compute_mask(layer.weight.detach(), torch.ones(WIDTH, WIDTH))

    def peer() -> None:
        torch_prune.remove(torch_prune.l1_unstructured(copy.deepcopy(layer), "weight", 1 - REMAINING), "weight")

    yield (
        f"mask of {WIDTH} x {WIDTH}, 20 % stay",
        {
            "porism": lambda: keep_largest(magnitudes, int(REMAINING * magnitudes.numel())),
            "torch.nn.utils.prune, L1Unstructured.compute_mask": theirs,
            "numpy.partition": lambda: np.partition(magnitudes.view(-1).numpy(), int(0.8 * magnitudes.numel())),
        },
    )
    yield (
        "the layer pruned, as a copy",
        {
            "porism": lambda: prune(layer, lambda weight, _: weight.abs(), remaining=REMAINING),
            "torch.nn.utils.prune.l1_unstructured and remove": peer,
            "the copy alone": lambda: copy.deepcopy(layer),
        },
    )
    yield steps()


def steps() -> Workload:
    """One training step with and without a pruner, between masks and with one."""
    model, x = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(4))), torch.ones(32, 1024)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    pruner = Pruner(model, UpperConfidence(), remaining=REMAINING, total_steps=10**9, warmup=0, cooldown=0)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    def at(place: int) -> None:
        step()
        pruner.steps = 1000 + place
        pruner.step()

    return "an AdamW step of four layers of 1024 x 1024, batch 32", {
        "porism": lambda: at(1),
        "porism, with a mask": lambda: at(0),
        "without a pruner": step,
    }


def llama() -> str:
    """Seconds to take half the heads and channels out of a grouped-query Llama of four layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=1000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=4,
                         num_attention_heads=16, num_key_value_heads=4)  # fmt: skip
    model, tokens, seconds = LlamaForCausalLM(config).eval(), torch.zeros(1, 64, dtype=torch.long), []
    for _ in range(5):
        start = time.perf_counter()
        small = prune(model, lambda weight, _: weight.abs(), remaining=0.5, structured=True)
        seconds.append(time.perf_counter() - start)
    with torch.no_grad():
        times = interleaved({"porism": lambda: small(tokens), "before": lambda: model(tokens)})
    counts = [sum(parameter.numel() for parameter in m.parameters()) for m in (model, small)]
    return (
        f"Llama, 4 layers, 16 heads on 4 key-value heads, {counts[0]:,} parameters to {counts[1]:,}: "
        f"{statistics.median(seconds):.2f} s\n\n" + table("its forward pass of 64 tokens", times)
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for title, calls in workloads():
        print(table(title, interleaved(calls, repeats=5)))
    print(llama())
