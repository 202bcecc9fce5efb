"""Margins of what must always hold for the loss of DFT."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from porism.testbeds import torch_generator
from porism_plugins.tune import _dft_world as world
from porism_plugins.tune._dft_loss import DFTLoss, dft_step

PROMPTS = 3


def scores(rng: np.random.Generator, prompts: int, negatives: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-likelihoods in float64: of answers (prompts,), of negatives and of these in the reference, both (.., m)."""
    shapes = (prompts,), (prompts, negatives), (prompts, negatives)
    return tuple(torch.from_numpy(-np.abs(rng.normal(scale=spread, size=shape))) for shape in shapes)  # type: ignore[return-value]


def gradient(loss: DFTLoss, answers: Tensor, negatives: Tensor, *others: Tensor) -> Tensor:
    """Of the loss in the negatives' scores."""
    leaf = negatives.clone().requires_grad_()
    return torch.autograd.grad(loss(answers, leaf, *others), leaf)[0]


def enumeration(rng: np.random.Generator, *, temperature: float, spread: float, used: float) -> float:
    """Gradients in a model's weights: of the loss with each answer once as a negative, and of F summed over all."""
    base, x = world.random_weights(rng, spread), world.prompts(rng, PROMPTS)
    weights = base.clone().requires_grad_()
    all_scores = world.log_likelihoods(weights, x)
    answers = torch.from_numpy(rng.integers(world.ANSWERS, size=PROMPTS))
    uniform = torch.full_like(all_scores, -math.log(world.ANSWERS)).detach()
    loss = DFTLoss(temperature=used)(all_scores.gather(1, answers[:, None])[:, 0], all_scores, uniform)
    ours = torch.autograd.grad(loss, weights, retain_graph=True)[0]
    exact = torch.autograd.grad(world.objective(all_scores, answers, temperature), weights)[0]
    return 1e-9 - float((ours - exact).norm() / exact.norm())


def weight_sum(rng: np.random.Generator, *, negatives: int, spread: float, temperature: float, factor: float) -> float:
    """Distance from 1 of the mean weight of a prompt's negatives, where a history lies behind them."""
    loss = DFTLoss(PROMPTS, temperature=temperature, factor=factor)
    index = torch.arange(PROMPTS)
    loss(*scores(rng, PROMPTS, negatives, spread), index)
    pulls = gradient(loss, *scores(rng, PROMPTS, negatives, spread), index)
    return 1e-9 - float((PROMPTS * pulls.sum(1) - 1).abs().max())


def start(rng: np.random.Generator, *, negatives: int, spread: float, temperature: float, factor: float) -> float:
    """How far a loss of an untrained model is from SFT's, its log u from 0 and its weights from 1."""
    loss = DFTLoss(PROMPTS, temperature=temperature, factor=factor)
    answers, drawn, _ = scores(rng, PROMPTS, negatives, spread)
    index = torch.arange(PROMPTS)
    pulls = gradient(loss, answers, drawn, drawn, index)
    off = [
        pulls * PROMPTS * negatives - 1,
        loss.normaliser.log_mean,
        loss(answers, drawn, drawn, index) + answers.mean(),
    ]
    return 1e-6 - max(float(one.abs().max()) for one in off)


def between(rng: np.random.Generator, *, spread: float, factor: float, visits: int, keep: str) -> float:
    """How far inside the interval from the old average to the estimate the new one lies, at the worst visit."""
    loss, old, worst = DFTLoss(1, factor=factor), 0.0, math.inf
    for _ in range(visits):
        answers, negatives, reference = scores(rng, 1, 2, spread)
        estimate = float((negatives - reference).logsumexp(1)) - math.log(2)
        loss(answers, negatives, reference, torch.tensor([0]))
        new = float(loss.normaliser.log_mean) if keep == "share" else np.logaddexp(old, estimate + math.log(factor))
        worst, old = min(worst, new - min(old, estimate), max(old, estimate) - new), float(new)
    return worst + 1e-5


def shift(rng: np.random.Generator, *, spread: float, factor: float, size: float, where: str) -> float:
    """Change of the gradient when a constant of each prompt is added to its log-weights, and to its log u."""
    answers, negatives, reference = scores(rng, PROMPTS, 3, spread)
    constants, index, found = torch.from_numpy(rng.normal(scale=size, size=PROMPTS)), torch.arange(PROMPTS), []
    before = torch.from_numpy(rng.normal(size=PROMPTS))
    for moved in (torch.zeros_like(constants), constants):
        loss = DFTLoss(PROMPTS, factor=factor)
        loss.normaliser.log_mean.copy_(before + (moved if where == "both" else 0))
        found.append(gradient(loss, answers, negatives, reference - moved[:, None], index))
    return 1e-5 - float((found[1] / found[0] - 1).abs().max())


def heaviest(rng: np.random.Generator, *, negatives: int, spread: float, factor: float, bound: str) -> float:
    """How far the largest weight stays below m / factor, with any history."""
    loss = DFTLoss(PROMPTS, factor=factor)
    loss.normaliser.log_mean.copy_(torch.from_numpy(rng.normal(scale=10 * spread, size=PROMPTS)))
    pulls = gradient(loss, *scores(rng, PROMPTS, negatives, spread), torch.arange(PROMPTS))
    allowed = negatives / factor if bound == "m / factor" else 1.0
    return allowed * (1 + 1e-5) - float(pulls.max()) * PROMPTS * negatives


class Bigrams(nn.Module):
    """A language model in which a token depends on the one before only; float64."""

    def __init__(self, rng: np.random.Generator, vocabulary: int = 6) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.from_numpy(rng.normal(size=(vocabulary, vocabulary))))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table[input_ids]


def random_batch(
    rng: np.random.Generator, *, negatives: int, length: int = 5, vocabulary: int = 6
) -> dict[str, Tensor]:
    """Tokens for :func:`dft_step`, with the first two as prompt and ends of the answers ignored at random."""
    made = torch_generator(rng)
    batch = {}
    for prefix, shape in (("", (PROMPTS, length)), ("negative_", (PROMPTS, negatives, length))):
        ids = torch.randint(vocabulary, shape, generator=made)
        ends = torch.randint(3, length + 1, (*shape[:-1], 1), generator=made)
        place = torch.arange(length)
        batch |= {f"{prefix}input_ids": ids, f"{prefix}labels": ids.where((place >= 2) & (place < ends), -100)}
    reference = torch.from_numpy(rng.normal(size=(PROMPTS, negatives)))
    return batch | {"reference": reference, "index": torch.arange(PROMPTS)}


def parts(rng: np.random.Generator, *, negatives: int, rows: int, variant: str, normaliser: str) -> float:
    """Relative distance of a gradient that comes part by part from that of the whole batch."""
    model, batch = Bigrams(rng), random_batch(rng, negatives=negatives)
    dft_step(model, DFTLoss(PROMPTS, variant=variant), batch).backward()  # type: ignore[arg-type]
    whole, model.table.grad = model.table.grad, None
    if normaliser == "of all":
        dft_step(model, DFTLoss(PROMPTS, variant=variant), batch, rows=rows)  # type: ignore[arg-type]
    else:
        for j in range(negatives):  # as gradient accumulation over the negatives would have it
            one = {name: tensor[:, j : j + 1] if name.startswith(("negative", "reference")) else tensor
                   for name, tensor in batch.items()}  # fmt: skip
            dft_step(model, DFTLoss(PROMPTS, variant=variant), one, rows=rows, scale=1 / negatives)  # type: ignore[arg-type]
    return 1e-10 - float((model.table.grad - whole).norm() / whole.norm())
