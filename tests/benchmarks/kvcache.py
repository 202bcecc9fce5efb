"""Decoding with a compressed cache beside transformers' dense and quantised ones, in turn at every single token."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, QuantizedCache

from porism_plugins.kvcache.gear import GEARCache

CONFIG = LlamaConfig(
    vocab_size=8192, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8,
    max_position_embeddings=8192,
)  # fmt: skip


def caches() -> dict[str, Callable[[], object]]:
    """Empty caches by name; transformers' quantised ones if their backends are installed."""
    found: dict[str, Callable[[], object]] = {
        "dense": lambda: DynamicCache(config=CONFIG),
        "gear": lambda: GEARCache(CONFIG),
        "gear, buffer 64": lambda: GEARCache(CONFIG, buffer=64),
        "quantise only": lambda: GEARCache(CONFIG, rank=0, sparsity=0.0),
    }
    for backend, axis in (("quanto", 0), ("hqq", 1)):
        make = functools.partial(QuantizedCache, backend, CONFIG, nbits=4, axis_key=axis, axis_value=axis)
        try:
            make()
        except (ImportError, RuntimeError):
            continue
        found[f"QuantizedCache {backend}"] = make
    return found


@torch.no_grad()
def step_seconds(prompt: int, new: int, repeats: int) -> dict[str, list[float]]:
    """The least seconds of each of ``new`` steps over the repeats, all caches in turn at each step."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    ids = torch.randint(0, CONFIG.vocab_size, (1, prompt + new))
    best = {name: [float("inf")] * new for name in caches()}
    for _ in range(repeats):
        held = {name: make() for name, make in caches().items()}
        for cache in held.values():
            model(ids[:, :prompt], past_key_values=cache)
        for step in range(new):
            for name, cache in held.items():
                start = time.perf_counter()
                model(ids[:, prompt + step : prompt + step + 1], past_key_values=cache)
                best[name][step] = min(best[name][step], time.perf_counter() - start)
    return best


def main() -> None:
    """Print a table for each size."""
    print(
        f"33.7 M-parameter Llama, 8 layers, float32, batch 1, {torch.get_num_threads()} threads; load", os.getloadavg()
    )
    for prompt, new, repeats in ((64, 128, 7), (1024, 16, 5)):
        seconds = step_seconds(prompt, new, repeats)
        print(f"\n### Prompt {prompt}, {new} new tokens\n\n| cache | tokens/s | of dense |\n|---|--:|--:|")
        dense = sum(seconds["dense"])
        for name, times in seconds.items():
            print(f"| {name} | {new / sum(times):.1f} | {dense / sum(times):.3f} |")


if __name__ == "__main__":
    main()
