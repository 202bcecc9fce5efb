"""Speculative decoding beside ``model.generate``: calls of the target, and time for the same greedy text.

Run by hand: ``python tests/benchmarks/decoding.py``. The first run trains two models of characters, for a minute.
"""

from __future__ import annotations

import copy
import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from timing import interleaved
from torch import Tensor, nn

from porism.testbeds import corpus, tiny_llama
from porism_plugins.spec._drafts import ModelDraft, PromptLookup
from porism_plugins.spec._engine import speculative_generate

NEW, LENGTH, PROMPT, PROMPTS = 96, 4, 64, 4


class Counting:
    """How often a model is called inside the block."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls = model, 0

    def __enter__(self) -> Counting:
        self.handle = self.model.register_forward_pre_hook(self.count)
        return self

    def count(self, *_: Any) -> None:
        """Count one call."""
        self.calls += 1

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()


def assistant(draft: nn.Module, **options: Any) -> nn.Module:
    """The draft as an assistant of ``generate``, with settings of its own on the same modules."""
    helper = copy.copy(draft)
    helper.generation_config = copy.deepcopy(draft.generation_config)
    helper.generation_config.update(**options)
    return helper


def ways(target: Any, draft: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """Greedy text of a prompt by everything that is compared.

    No ``pad_token_id``: the assistant would take that token for padding where the prompt has it.
    """
    equal = assistant(
        draft, num_assistant_tokens=LENGTH, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )
    default = assistant(draft)

    def generate(prompt: Tensor, **options: Any) -> Tensor:
        return target.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=NEW,
            **options,
        )

    def ours(prompt: Tensor, proposer: Any, length: int = LENGTH) -> Tensor:
        return speculative_generate(target, prompt, draft=proposer, max_new_tokens=NEW, draft_length=length).sequences

    return {
        "porism, comb of two": lambda p: ours(p, ModelDraft(draft, widths=(2,) * LENGTH)),
        "porism, comb of four": lambda p: ours(p, ModelDraft(draft, widths=(4,) * LENGTH)),
        "porism, chain": lambda p: ours(p, draft),
        f"generate, assisted, {LENGTH} tokens without threshold": lambda p: generate(p, assistant_model=equal),
        "generate, assisted, its defaults": lambda p: generate(p, assistant_model=default),
        "generate, greedy": generate,
        "porism, prompt lookup 8": lambda p: ours(p, PromptLookup(), 8),
        "generate, prompt lookup 8": lambda p: generate(p, prompt_lookup_num_tokens=8),
    }


def report(title: str, target: Any, draft: Any, prompts: list[Tensor]) -> Iterator[str]:
    """Calls of the target, tokens a second, and our time in turn by each other's."""
    calls = ways(target, draft)
    texts = [calls["generate, greedy"](prompt) for prompt in prompts]
    seconds = interleaved({name: lambda way=way: [way(p) for p in prompts] for name, way in calls.items()}, repeats=5)
    yield f"### {title}: {len(prompts)} prompts of {PROMPT}, {NEW} new tokens each"
    yield "| what | calls of the target | of the draft | tokens/s | time, porism's comb of two / it | text |"
    yield "|---|--:|--:|--:|--:|---|"
    for name, way in calls.items():
        with Counting(target) as big, Counting(draft.lm_head) as small:
            same = all(torch.equal(way(prompt), text) for prompt, text in zip(prompts, texts, strict=True))
        ratio = statistics.median(a / b for a, b in zip(seconds["porism, comb of two"], seconds[name], strict=True))
        rate = len(prompts) * NEW / statistics.median(seconds[name])
        yield f"| {name} | {big.calls} | {small.calls or ''} | {rate:.0f} | {ratio:.2f} | {'same' if same else 'DIFFERS'} |"


def batches(target: Any, draft: Any, prompts: list[Tensor]) -> str:
    """A batch against its rows one by one."""
    together = torch.cat(prompts)
    options = {"draft": draft, "max_new_tokens": NEW, "draft_length": LENGTH}
    seconds = interleaved(
        {
            "batch": lambda: speculative_generate(target, together, **options),
            "rows": lambda: [speculative_generate(target, p, **options) for p in prompts],
        },
        repeats=5,
    )
    ratio = statistics.median(a / b for a, b in zip(seconds["batch"], seconds["rows"], strict=True))
    return f"A batch of {len(prompts)} takes {ratio:.2f} of the time of its rows."


def wide(draft: Any) -> Any:
    """The draft in front of many layers that add nothing: an aligned pair whose target costs much more."""
    config = copy.deepcopy(draft.config)
    config.num_hidden_layers = 12
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        deep = type(draft)(config).eval()
    deep.load_state_dict(draft.state_dict(), strict=False)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in deep.model.layers[draft.config.num_hidden_layers :]:
            for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                weight.copy_(0.02 * torch.randn(weight.shape, generator=noise))
    return deep


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = corpus(np.random.default_rng(0))
    target, draft = tiny_llama(text.train), tiny_llama(text.train, hidden=32, layers=1, seed=1)
    tokens = torch.from_numpy(text.test)
    prompts = [tokens[None, start : start + PROMPT] for start in range(0, 1000 * PROMPTS, 1000)]
    print(f"load of the machine: {', '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    for line in report("trained Llama, 2 layers of 96, draft 1 layer of 32", target, draft, prompts):
        print(line)
    for line in report("12 layers of 96, draft its first 2", wide(target), target, prompts):
        print(line)
    print(batches(wide(target), target, prompts))
