"""What the distillation engine costs beside a loop written by hand, for logits and two hidden matches.

Run by hand: ``python tests/benchmarks/distillation.py``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from timing import interleaved, table
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from porism_plugins.distill._engine import Distillation, Logits, States, Task

BATCH, LENGTH, TURNS = 8, 64, 15
Call = Callable[[], object]


def language_models(vocabulary: int) -> tuple[str, Call, Call]:
    """A Llama of 2 layers from one of 4, every token labelled."""

    def llama(layers: int, hidden: int) -> LlamaForCausalLM:
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=hidden,
                                            intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=4))  # fmt: skip

    student, teacher = llama(2, 96), llama(4, 192).eval()
    ids = torch.randint(vocabulary, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "use_cache": False}
    ours, theirs = _pair(student, teacher, batch, lambda logits: logits[:, :-1].flatten(0, 1), 2, 4)
    return f"Llama, 2 layers of 96 from 4 of 192, vocabulary {vocabulary}, {BATCH} x {LENGTH} tokens", ours, theirs


def classifiers() -> tuple[str, Call, Call]:
    """A BERT of 2 layers from one of 4, with padding."""

    def bert(layers: int, hidden: int) -> BertForSequenceClassification:
        return BertForSequenceClassification(BertConfig(vocab_size=1000, hidden_size=hidden, num_labels=5,
                                                        intermediate_size=2 * hidden, num_hidden_layers=layers,
                                                        num_attention_heads=4))  # fmt: skip

    student, teacher = bert(2, 128), bert(4, 256).eval()
    ids = torch.randint(1000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(LENGTH) < torch.arange(LENGTH, LENGTH - 4 * BATCH, -4)[:, None]).long()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(BATCH) % 5}
    ours, theirs = _pair(student, teacher, batch, lambda logits: logits, 2, 4)
    return f"BERT, 2 layers of 128 from 4 of 256, {BATCH} x {LENGTH} tokens, a quarter of it padding", ours, theirs


def _pair(student: torch.nn.Module, teacher: torch.nn.Module, batch: dict[str, Tensor],
          rows: Callable[[Tensor], Tensor], middle: int, last: int) -> tuple[Call, Call]:  # fmt: skip
    """A step of the engine and one written by hand, from the same projections; backward is part of both."""
    distillation = Distillation(student, teacher, [Task(), Logits(temperature=2.0), States([1, 2], [middle, last])])
    projections = list(distillation.signals["states"].filters)
    inputs = {name: value for name, value in batch.items() if name != "labels"}

    def engine() -> None:
        distillation.zero_grad()
        distillation(batch).loss.backward()

    def by_hand() -> None:
        distillation.zero_grad()
        kept: dict[str, list[Tensor]] = {"student": [], "teacher": []}
        blocks = {"student": _blocks(student, (1, 2)), "teacher": _blocks(teacher, (middle, last))}
        handles = [
            block.register_forward_hook(lambda module, args, output, to=kept[name]: to.append(output))
            for name, found in blocks.items()
            for block in found
        ]
        with torch.no_grad():
            target = teacher(**inputs)
        output = student(**batch)
        for handle in handles:
            handle.remove()
        log_p, log_q = ((rows(one.logits) / 2).log_softmax(-1) for one in (output, target))
        loss = output.loss + 4 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
        mask = batch["attention_mask"].bool()
        for project, state, goal in zip(projections, kept["student"], kept["teacher"], strict=True):
            difference = (project(state) - goal) * mask[..., None]
            loss = loss + difference.square().sum() / (mask.sum() * goal.shape[-1]) / 2
        loss.backward()

    return engine, by_hand


def _blocks(model: torch.nn.Module, numbers: tuple[int, int]) -> list[torch.nn.Module]:
    blocks = model.model.layers if hasattr(model, "model") else model.bert.encoder.layer
    return [blocks[number - 1] for number in numbers]


def main() -> None:
    """Print a table and the median of the ratios for each pair of models."""
    for title, engine, by_hand in (language_models(96), language_models(16_000), classifiers()):
        seconds = interleaved({"porism": engine, "by hand": by_hand}, repeats=TURNS)
        print(table(title, seconds))
        ratio = statistics.median(a / b for a, b in zip(seconds["porism"], seconds["by hand"], strict=True))
        print(f"overhead: {100 * (ratio - 1):+.1f} %\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    main()
