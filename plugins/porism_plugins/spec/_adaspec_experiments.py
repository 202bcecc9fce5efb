"""What the claims and figures of AdaSPEC measure on text: drafts of one layer for a tiny Llama, and real decoding."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from porism import Paired
from porism.divergences import kl_divergence_logits
from porism.testbeds import corpus, tiny_llama, torch_generator, train, trained_once, windows
from porism_plugins.spec._adaspec_loss import AdaSPECLoss, acceptance, greedy_acceptance, select_tokens, token_gaps
from porism_plugins.spec._engine import speculative_generate

Way = Literal["top", "random", "bottom", "hardest"]
STARTS, WIDTH, LENGTH, POOL, BATCH, STEPS, LEARNING_RATE = 3, 24, 64, 512, 8, 80, 2e-3


class Text(NamedTuple):
    """Windows (n, length) to train on and to judge by, with the target's logits (n, length, 96)."""

    target: Any
    windows: Tensor
    logits: Tensor
    held_out: Tensor
    held_out_logits: Tensor


class Start(NamedTuple):
    """A small model as pretraining left it, logits (n, length, 96) of its copy that was distilled on all tokens, and
    how far it lags that copy on held-out text, (m, length - 1)."""

    draft: Any
    logits: Tensor
    held_out_gaps: Tensor


class Quality(NamedTuple):
    """Of a draft on held-out text: mean 1 - TV, greedy agreement, and KL where the loss would train and where not."""

    accepted: float
    greedy: float
    kept: float
    left: float


class Chosen(AdaSPECLoss):
    """AdaSPEC, or as many tokens chosen another way: at random, by the smallest gaps, by the largest loss alone."""

    def __init__(self, kept: float, way: Way, generator: torch.Generator) -> None:
        super().__init__(kept)
        self.way, self.generator = way, generator

    def select(self, losses: Tensor, gaps: Tensor) -> Tensor:
        """Other scores in the place of the gaps."""
        noise = torch.rand(gaps.shape, generator=self.generator)
        scores = {"top": gaps, "random": noise, "bottom": -gaps, "hardest": losses}[self.way]
        return select_tokens(scores, self.kept)


class Distilling(nn.Module):
    """A draft beside logits made once: called with rows of the windows, gives the loss as transformers does."""

    def __init__(self, draft: Any, loss: AdaSPECLoss, ids: Tensor, target: Tensor, reference: Tensor) -> None:
        super().__init__()
        self.draft = draft
        self.fixed = (loss, ids, target, reference)  # no part of the state

    def forward(self, rows: Tensor) -> SimpleNamespace:
        """Every position counts but the last, whose next token is outside of the window."""
        loss, ids, target, reference = self.fixed
        logits = self.draft(ids[rows], use_cache=False).logits
        return SimpleNamespace(loss=loss(logits[:, :-1], target[rows, :-1], reference[rows, :-1], ids[rows, 1:]))


@functools.cache
def text() -> Text:
    """The manual, and a target that was trained on it."""
    data, rng = corpus(np.random.default_rng(0)), np.random.default_rng(1)
    target = tiny_llama(data.train)
    shown, kept_back = (torch.from_numpy(windows(rng, part, batch=count, length=LENGTH))
                        for part, count in ((data.train, POOL), (data.test, 128)))  # fmt: skip
    return Text(target, shown, logits_of(target, shown), kept_back, logits_of(target, kept_back))


@functools.cache
def _start(seed: int) -> Start:
    """A draft that was pretrained on the manual, and the copy of it that is the reference."""
    data = text()
    pretrained = functools.partial(tiny_llama, corpus(np.random.default_rng(0)).train, seed=seed, hidden=WIDTH,
                                   layers=1, length=LENGTH)  # fmt: skip

    def build() -> Distilling:
        return Distilling(pretrained(), AdaSPECLoss(1.0), data.windows, data.logits, data.logits)

    reference = trained_once("adaspec-reference", build, batches, seed=seed, steps=STEPS, learning_rate=LEARNING_RATE,
                             key={"start": seed}).draft  # fmt: skip
    draft, judge = pretrained(), data.held_out_logits[:, :-1]
    before, after = (logits_of(model, data.held_out)[:, :-1] for model in (draft, reference))
    return Start(draft, logits_of(reference, data.windows), token_gaps(before, judge, after)[1])


def batches(rng: np.random.Generator) -> Iterator[Tensor]:
    """Rows of the windows, without end."""
    while True:
        yield torch.from_numpy(rng.integers(POOL, size=BATCH))


@torch.no_grad()
def logits_of(model: Any, ids: Tensor) -> Tensor:
    """Logits (n, length, 96) of windows."""
    return torch.cat([model(part, use_cache=False).logits for part in ids.split(64)])


def fresh(rng: np.random.Generator) -> Start:
    """One of the starts, with a draft of its own."""
    start = _start(int(rng.integers(STARTS)))
    return start._replace(draft=copy.deepcopy(start.draft))


def drafted(rng: np.random.Generator, *, kept: float = 0.4, way: Way = "top", steps: int = STEPS) -> Start:
    """A start whose draft was trained; ``kept=1`` is distillation of all tokens."""
    start, data = fresh(rng), text()
    loss = Chosen(kept, way, torch_generator(rng))
    model = Distilling(start.draft, loss, data.windows, data.logits, start.logits)
    train(model, batches(rng), steps=steps, learning_rate=LEARNING_RATE)
    return start


def judged(start: Start, kept: float = 0.4) -> Quality:
    """Of a trained start; what the loss would train on is told by the gaps that the draft had before."""
    data = text()
    ours, theirs = logits_of(start.draft, data.held_out)[:, :-1], data.held_out_logits[:, :-1]
    losses, chosen = kl_divergence_logits(theirs, ours).flatten(), select_tokens(start.held_out_gaps.flatten(), kept)
    return Quality(
        float(acceptance(ours, theirs).mean()), float(greedy_acceptance(ours, theirs).float().mean()),
        float(losses[chosen].mean()), float(losses[~chosen].mean()),
    )  # fmt: skip


def alike(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """Generators that draw the same numbers, the last of them ``rng`` itself."""
    return [*(copy.deepcopy(rng) for _ in range(count - 1)), rng]


def gain(rng: np.random.Generator, ours: dict[str, Any], theirs: dict[str, Any]) -> Paired:
    """Acceptance after two ways of training on common random numbers; trained once where they are one way."""
    arms = [ours] if ours == theirs else [ours, theirs]
    values = [judged(drafted(same, **arm)).accepted for arm, same in zip(arms, alike(rng, len(arms)), strict=True)]
    return Paired(values[0], values[-1])


def direction(rng: np.random.Generator, ways: tuple[Way, ...]) -> float:
    """The smaller of the steps down in acceptance from each way of choosing tokens to the next."""
    values = [judged(drafted(same, way=way)).accepted for way, same in zip(ways, alike(rng, len(ways)), strict=True)]
    return float(-np.diff(values).max())


def moved(rng: np.random.Generator, kept: float) -> float:
    """By how much less KL is left than by all tokens where the gap was large, or more elsewhere: the smaller one."""
    ours, theirs = (judged(drafted(same, kept=f)) for f, same in zip((kept, 1.0), alike(rng, 2), strict=True))
    return min(theirs.kept - ours.kept, ours.left - theirs.left)


class Decoded(NamedTuple):
    """Of speculative sampling: the share of tested drafts that was accepted, and means over these positions of
    1 - TV(p, q), of sum p q, and of new tokens a call."""

    measured: float
    overlap: float
    coincidence: float
    tokens_per_call: float


def decoded(draft: Any, rng: np.random.Generator, *, rows: int = 8, tokens: int = 64, length: int = 4) -> Decoded:
    """Of continuations of held-out text by the target."""
    data = text()
    prompts = data.held_out[torch.from_numpy(rng.integers(len(data.held_out), size=rows)), :16]
    return decode(draft, data.target, prompts, rng, tokens=tokens, length=length)


def decode(draft: Any, target: Any, prompts: Tensor, rng: np.random.Generator, *, tokens: int, length: int) -> Decoded:
    """Continue prompts (rows, n) by speculative sampling, and compare what was accepted with what the laws say."""
    found, statistics = speculative_generate(target, prompts, draft=draft, max_new_tokens=tokens, draft_length=length,
                                             do_sample=True, generator=torch_generator(rng))  # fmt: skip
    tested = torch.zeros(found.shape, dtype=torch.bool)
    for row in range(len(prompts)):
        at = prompts.shape[1] - 1  # the position whose logits are of the next token
        for drafts, accepted in zip(statistics.drafted[row], statistics.accepted[row], strict=True):
            tested[row, at : at + min(accepted + 1, drafts)] = True
            at += accepted + 1
    ours, theirs = (logits_of(model, found)[tested] for model in (draft, target))
    coincidence = (ours.softmax(-1) * theirs.softmax(-1)).sum(-1).mean()
    return Decoded(statistics.acceptance_rate, float(acceptance(ours, theirs).mean()), float(coincidence),
                   statistics.tokens_per_call)  # fmt: skip


def compared(rng: np.random.Generator, *, kept: float, steps: int) -> dict[str, float]:
    """Of AdaSPEC and of all tokens after the same steps: what is accepted, and what decoding gains."""
    found = {}
    for name, fraction in (("AdaSPEC", kept), ("all tokens", 1.0)):
        start = drafted(copy.deepcopy(rng), kept=fraction, steps=steps)
        quality, real = judged(start), decoded(start.draft, np.random.default_rng(0))
        found |= {f"1 - TV, {name}": quality.accepted, f"greedy agreement, {name}": quality.greedy,
                  f"tokens per call, {name}": real.tokens_per_call}  # fmt: skip
    return found
