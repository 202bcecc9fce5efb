"""Layers of factors and rows beside dense ones, and a small Llama before and after, each in turn in one process.

Run by hand: ``python tests/benchmarks/low_rank_sparse.py``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from timing import interleaved
from torch import nn

from porism.surgery import linear_layers, replace
from porism_plugins.prune._losparse_layer import DecomposedLinear, LowRankSparseLinear, factors, rank_of
from porism_plugins.prune._losparse_method import HEADS_AND_POOLERS

SHARES, TOKENS, LOW_RANK = (0.1, 0.2, 0.5), (1, 128), 0.05
# Outputs and inputs: two squares, and the layers of a Llama of width 768 with grouped-query attention.
SHAPES = ((1024, 1024), (2048, 2048), (768, 768), (256, 768), (2048, 768), (768, 2048), (96, 96))
# Calls that are timed as one, so that a short one is as long as the clock needs.
TOTAL_SECONDS = 0.02


def compacted(out_features: int, in_features: int, remaining: float, structure: str = "row") -> LowRankSparseLinear:
    """A layer of a twentieth low rank and otherwise random rows."""
    rank = rank_of(out_features, in_features, LOW_RANK)
    line, lines = (in_features, out_features) if structure == "row" else (out_features, in_features)
    kept = int((remaining * out_features * in_features - rank * (out_features + in_features)) / line)
    layer = LowRankSparseLinear(in_features, out_features, rank=rank, kept=kept, structure=structure)
    for tensor in layer.parameters():
        nn.init.normal_(tensor)
    layer.lines.copy_(torch.randperm(lines)[:kept].sort().values)
    return layer


def times_of(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds a call, each called in turn as often as makes it long enough."""
    longest = max(statistics.median(times) for times in interleaved(calls, repeats=3).values())
    often = max(1, int(TOTAL_SECONDS / longest))

    def repeated(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(often):
                call()

        return run

    found = interleaved({name: repeated(call) for name, call in calls.items()}, repeats=9)
    return {name: [seconds / often for seconds in times] for name, times in found.items()}


def rows() -> Iterator[str]:
    """One line for each shape and number of tokens; a ratio below 1 is faster than dense."""
    yield "| outputs x inputs | tokens | dense, us |" + "".join(f" {share:.0%} kept, ratio |" for share in SHARES)
    yield "|---|--:|--:|" + "--:|" * len(SHARES)
    for out_features, in_features in SHAPES:
        dense = nn.Linear(in_features, out_features)
        layers = {f"{share}": compacted(out_features, in_features, share) for share in SHARES}
        for tokens in TOKENS:
            x = torch.randn(tokens, in_features)
            calls = {name: (lambda layer=layer, x=x: layer(x)) for name, layer in ({"dense": dense} | layers).items()}
            found = times_of(calls)
            ratios = [
                statistics.median(a / b for a, b in zip(found[name], found["dense"], strict=True)) for name in layers
            ]
            yield (f"| {out_features} x {in_features} | {tokens} | {1e6 * statistics.median(found['dense']):.0f} |"
                   + "".join(f" {ratio:.2f} |" for ratio in ratios))  # fmt: skip


def columns() -> str:
    """Columns instead of rows, 1024 x 1024 and 20 % kept."""
    row, column, dense = compacted(1024, 1024, 0.2), compacted(1024, 1024, 0.2, "column"), nn.Linear(1024, 1024)
    lines = []
    for tokens in TOKENS:
        x = torch.randn(tokens, 1024)
        found = times_of({"row": lambda x=x: row(x), "column": lambda x=x: column(x), "dense": lambda x=x: dense(x)})
        ratios = {name: statistics.median(a / b for a, b in zip(found[name], found["dense"], strict=True))
                  for name in ("row", "column")}  # fmt: skip
        lines.append(f"{tokens} tokens, 20 % of 1024 x 1024: rows {ratios['row']:.2f}, columns {ratios['column']:.2f}")
    return "\n".join(lines)


def llama() -> Iterator[str]:
    """A whole forward pass of four layers of width 768, dense and with 10, 20 and 50 % of each layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=1000, hidden_size=768, intermediate_size=2048, num_hidden_layers=4,
                         num_attention_heads=12, num_key_value_heads=4)  # fmt: skip
    models = {"dense": LlamaForCausalLM(config).eval()}
    for share in SHARES:
        models[f"{share:.0%}"] = model = LlamaForCausalLM(config).eval()
        for name, layer in linear_layers(model, exclude=HEADS_AND_POOLERS).items():
            new = compacted(*layer.weight.shape, share)
            new.bias = None
            replace(model, name, new)
    for tokens in TOKENS:
        ids = torch.zeros(1, tokens, dtype=torch.long)
        calls = {name: (lambda model=model, ids=ids: model(ids, use_cache=False)) for name, model in models.items()}
        found = times_of(calls)
        for name in models:
            ratio = statistics.median(a / b for a, b in zip(found[name], found["dense"], strict=True))
            yield f"| {tokens} | {name} | {1e3 * statistics.median(found[name]):.1f} | {ratio:.2f} |"


def start() -> str:
    """Seconds to decompose a layer, nearly all of it the SVD."""
    seconds = []
    layer = nn.Linear(1024, 1024)
    for _ in range(3):
        begin = time.perf_counter()
        DecomposedLinear(layer, rank_of(1024, 1024, LOW_RANK))
        middle = time.perf_counter()
        factors(layer.weight.detach(), 26)
        seconds.append((middle - begin, time.perf_counter() - middle))
    whole, svd = (statistics.median(times) for times in zip(*seconds, strict=True))
    return f"decomposing 1024 x 1024: {1000 * whole:.0f} ms, of which the SVD {1000 * svd:.0f}"


def main() -> None:
    """Print every table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():
        print("\n".join(rows()), columns(), sep="\n\n")
        print("\n| tokens | kept | ms | ratio |\n|--:|---|--:|--:|", *llama(), sep="\n")
    print("\n" + start())


if __name__ == "__main__":
    main()
