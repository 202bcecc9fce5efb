"""A training step of adalora beside peft's AdaLoRA, plain LoRA and full fine-tuning; what freeing the triplets saves.

Run by hand: ``OMP_NUM_THREADS=1 python tests/benchmarks/adapters.py``.
"""

from __future__ import annotations

import copy
import os
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import peft
import torch
import transformers
from timing import interleaved, table
from torch import nn

from porism_plugins.peft._budget import RankBudget
from porism_plugins.peft._engine import adapter_bytes
from porism_plugins.peft.adalora import adalora, penalty

RANK, TARGET = 12, 4
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BERT = ["query", "key", "value", "dense"]


def llama() -> Any:
    """Four layers of width 256."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=512,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def bert() -> Any:
    """Four layers of width 256, which predict masked characters."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8, vocab_size=512,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config)


Step = Callable[[], None]


def stepper(model: nn.Module, batch: dict[str, Any], add: Callable[[], Any], after: Callable[[int], None]) -> Step:
    """Forward, backward, AdamW and what comes after it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        optimizer.zero_grad()
        (model(**batch).loss + add()).backward()
        optimizer.step()
        after(count)

    return step


def ours(base: nn.Module, batch: dict[str, Any], names: list[str], *, finish: bool = False) -> Step:
    """A mask at every step, as peft does it by default."""
    model = adalora(
        base, rank=RANK, target_rank=TARGET, include=[f"*.encoder.*.{n}" if n == "dense" else n for n in names]
    )
    budget = RankBudget(model, total_steps=100_000, warmup=0, cooldown=1, interval=1)
    if finish:
        stepper(model, batch, lambda: penalty(model, form="mean"), lambda _: budget.step())()
        before = adapter_bytes(model)
        budget.finish()
        print(f"adapters: {before:,} bytes before, {adapter_bytes(model):,} after finish()")
    return stepper(model, batch, lambda: penalty(model, form="mean"), lambda _: budget.step())


def peers(base: nn.Module, batch: dict[str, Any], names: list[str]) -> dict[str, Step]:
    """peft's two; AdaLoRA adds its penalty itself."""
    layers = [n for n, m in base.named_modules() if isinstance(m, nn.Linear) and n.rpartition(".")[2] in names
              and not n.startswith("cls")]  # fmt: skip
    ada = peft.AdaLoraConfig(
        init_r=RANK, target_r=TARGET, lora_alpha=16, total_step=100_000, tfinal=1, target_modules=layers
    )
    model = peft.get_peft_model(copy.deepcopy(base), ada)
    lora = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=TARGET, target_modules=layers))
    return {
        # Through PeftModel itself no penalty would be added, for want of a task type.
        "peft AdaLoRA": stepper(model.base_model, batch, lambda: 0, lambda t: model.base_model.update_and_allocate(t)),
        f"peft LoRA, rank {TARGET}": stepper(lora, batch, lambda: 0, lambda _: None),
    }


def main() -> None:
    """Print every table."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for title, base, names in (("Llama", llama(), LLAMA), ("BERT", bert(), BERT)):
        for rows, length in ((8, 128), (4, 32)):
            ids = torch.randint(512, (rows, length), generator=torch.Generator().manual_seed(0))
            batch = {"input_ids": ids, "labels": ids}
            calls = {"porism": ours(base, batch, names), "porism after finish()": ours(base, batch, names, finish=True)}
            calls |= peers(base, batch, names)
            calls["full fine-tuning"] = stepper(copy.deepcopy(base), batch, lambda: 0, lambda _: None)
            before = os.getloadavg()[0]
            seconds = interleaved(calls, repeats=15)
            load = f"load {before:.1f} to {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(table(f"{title}, 4 layers of width 256, {rows} x {length} tokens, {load}", seconds))
            overhead = statistics.median(seconds["porism"]) - statistics.median(seconds[f"peft LoRA, rank {TARGET}"])
            print(f"above LoRA: {1000 * overhead:.1f} ms\n")


if __name__ == "__main__":
    main()
