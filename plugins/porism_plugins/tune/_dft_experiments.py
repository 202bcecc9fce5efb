"""What the claims and figures of DFT measure in the world of :mod:`_dft_world`: estimators, and fine-tuning."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from porism import Paired, paired
from porism.metrics import accuracy
from porism_plugins.tune import _dft_world as world
from porism_plugins.tune._dft_loss import DFTLoss

# Adam's, the best on validation prompts for every arm alike.
LEARNING_RATES = (0.01, 0.03, 0.1)
EPOCHS, BATCH = 8, 16


class Arm(NamedTuple):
    """A way of fine-tuning: ``"sft"``, ``"spin"`` (DPO against the same negatives), ``"dft"`` or ``"dft2"``."""

    method: str = "dft"
    temperature: float | None = None
    factor: float | None = None
    negatives: int = 2
    beta: float = 0.1


class Scores(NamedTuple):
    """On held-out prompts: share of right answers, log-likelihoods of these and of the base's wrong ones."""

    accuracy: float
    right: float
    wrong: float

    @property
    def margin(self) -> float:
        """Log-likelihood ratio of right over wrong answers, in nats."""
        return self.right - self.wrong


def judged(weights: Tensor, base: Tensor, x: Tensor, y: Tensor) -> Scores:
    """Exact: wrong answers are averaged with the base model's probabilities."""
    with torch.no_grad():
        scores = world.log_likelihoods(weights, x)
        wrong = world.log_likelihoods(base, x).scatter(1, y[:, None], -math.inf).softmax(1)
        right = scores.gather(1, y[:, None])[:, 0]
        return Scores(accuracy(scores.argmax(1), y), float(right.mean()), float((wrong * scores).sum(1).mean()))


def finetuned(task: world.Task, rng: np.random.Generator, arm: Arm, *, learning_rate: float,
              epochs: int = EPOCHS) -> Iterator[Tensor]:  # fmt: skip
    """Weights after each epoch; every epoch draws fresh negatives from the base, as the paper has it."""
    x, y = task.train
    weights = task.base.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=learning_rate)
    anneal = epochs * (len(x) // BATCH) // 2
    loss = None
    if arm.method.startswith("dft"):
        loss = DFTLoss(len(x), variant=arm.method, temperature=arm.temperature, factor=arm.factor, anneal=anneal)
    reference = world.log_likelihoods(task.base, x)
    for _ in range(epochs):
        negatives = world.draw(rng, reference, arm.negatives)
        for rows in torch.from_numpy(rng.permutation(len(x))).split(BATCH):
            scores = world.log_likelihoods(weights, x[rows])
            right, sampled = scores.gather(1, y[rows, None])[:, 0], scores.gather(1, negatives[rows])
            before = reference[rows].gather(1, negatives[rows])
            if loss is not None:
                per = world.LENGTH if loss.average else 1
                value = loss(right / per, sampled / per, None if loss.average else before, rows)
            elif arm.method == "spin":
                gain = (right - reference[rows].gather(1, y[rows, None])[:, 0])[:, None] - (sampled - before)
                value = -F.logsigmoid(arm.beta * gain).mean()
            else:
                value = -right.mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        yield weights.detach().clone()


def tuned(rng: np.random.Generator, arm: Arm, *, by: str, train: int = 128) -> Scores:
    """Test scores at the learning rate whose last epoch is best on validation prompts by ``by``."""
    task, tries = world.task(rng, train=train), []
    for learning_rate in LEARNING_RATES:
        *_, weights = finetuned(task, copy.deepcopy(rng), arm, learning_rate=learning_rate)
        tries.append((getattr(judged(weights, task.base, *task.validation), by), weights))
    best = max(tries, key=lambda one: one[0])[1]
    return judged(best, task.base, *task.test)


def after_equal_steps(rng: np.random.Generator, arm: Arm, *, by: str, learning_rate: float = 0.03) -> float:
    """Test score at one learning rate, which is the same for every arm."""
    task = world.task(rng)
    *_, weights = finetuned(task, rng, arm, learning_rate=learning_rate)
    return float(getattr(judged(weights, task.base, *task.test), by))


class Estimates(NamedTuple):
    """Mean and root mean square over prompts and visits of log u less the exact logarithm of the sum."""

    bias: float
    error: float


def estimates(rng: np.random.Generator, *, factor: float = 0.85, negatives: int = 2, temperature: float = 0.7,
              sampler: float = 1.0, visits: int = 60, prompts: int = 100) -> Estimates:  # fmt: skip
    """Of a model at some distance from the base that does not learn; the first half of the visits is left out.

    ``sampler`` is the temperature at which negatives are drawn, while 1 / P_0 stays that of the plain base.
    """
    base, x = world.random_weights(rng), world.prompts(rng, prompts)
    scores = world.log_likelihoods(base + world.random_weights(rng, 0.3), x)
    exact, reference = (scores / temperature).logsumexp(1), world.log_likelihoods(base, x)
    law = world.tempered(base, x, sampler)
    loss, index, errors = (
        DFTLoss(prompts, temperature=temperature, factor=factor, initial=None),
        torch.arange(prompts),
        [],
    )
    for visit in range(visits):
        drawn = world.draw(rng, law, negatives)
        loss(scores[:, 0], scores.gather(1, drawn), reference.gather(1, drawn), index)
        if 2 * visit >= visits:
            errors.append(loss.normaliser.log_mean - exact)
    off = torch.stack(errors)
    return Estimates(float(off.mean()), float(off.square().mean().sqrt()))


def alignment(rng: np.random.Generator, *, factor: float, negatives: int = 2, temperature: float = 0.7,
              learning_rate: float = 1e-3, steps: int = 50) -> float:  # fmt: skip
    """Mean cosine along a training run between the gradient of a batch and that of its F summed over all answers."""
    task = world.task(rng, train=32)
    (x, y), weights = task.train, task.base.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=learning_rate)
    loss, reference, cosines = (
        DFTLoss(len(x), temperature=temperature, factor=factor),
        world.log_likelihoods(task.base, x),
        [],
    )
    for _ in range(steps):
        rows = torch.from_numpy(rng.permutation(len(x))[:BATCH])
        drawn = world.draw(rng, reference[rows], negatives)
        scores = world.log_likelihoods(weights, x[rows])
        (exact,) = torch.autograd.grad(world.objective(scores, y[rows], temperature), weights, retain_graph=True)
        optimizer.zero_grad()
        right = scores.gather(1, y[rows, None])[:, 0]
        loss(right, scores.gather(1, drawn), reference[rows].gather(1, drawn), rows).backward()
        cosines.append(float(F.cosine_similarity(weights.grad.flatten(), exact.flatten(), dim=0)))
        optimizer.step()
    return float(np.mean(cosines))


def against_sft(rng: np.random.Generator, method: str, *, by: str) -> Paired:
    """A method and SFT after the same steps at the same learning rate."""

    def arm(rng: np.random.Generator, method: str) -> float:
        return after_equal_steps(rng, Arm(method), by=by)

    return paired(arm, rng, ours={"method": method}, theirs={"method": "sft"})


def tuned_against(rng: np.random.Generator, *, ours: dict[str, Any], theirs: dict[str, Any], by: str,
                  better: Literal["higher", "lower"] = "higher", train: int = 128) -> Paired:  # fmt: skip
    """Two arms at their most accurate learning rates, compared by one score."""

    def arm(rng: np.random.Generator, **options: Any) -> float:
        return float(getattr(tuned(rng, Arm(**options), by="accuracy", train=train), by))

    return paired(arm, rng, ours=ours, theirs=theirs, better=better)


def compared(rng: np.random.Generator, negatives: int, temperature: float, factor: float,
             learning_rate: float) -> dict[str, float]:  # fmt: skip
    """Accuracy and margin of DFT with these options and of SFT."""
    arms = {"DFT": Arm("dft", temperature, factor, negatives), "SFT": Arm("sft")}
    return {f"{by}, {name}": after_equal_steps(copy.deepcopy(rng), arm, by=by, learning_rate=learning_rate)
            for name, arm in arms.items() for by in ("accuracy", "margin")}  # fmt: skip
