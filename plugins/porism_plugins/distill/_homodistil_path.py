"""The path of HomoDistil: how wide the student is at each step, and which neurons it loses there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism_plugins.distill._homodistil_blocks import (
    Block,
    feed_forward_blocks,
    first_width,
    keep_neurons,
    kept_count,
    neuron_sums,
    width_of,
)

Scope = Literal["local", "global"]


class Point(NamedTuple):
    """A place on the path: steps done, share of the neurons still there, KL(teacher || student) in nats."""

    step: int
    width: float
    gap: float


def shrinking(step: int, *, begin: int, end: int, final: float | Fraction, power: int = 3) -> float | Fraction:
    """Share of the neurons that stays after ``step`` steps: 1 up to ``begin``, ``final`` from ``end`` on.

    Between them what is still to go is as the cube of the time left: fast at first, ever slower.

    Examples
    --------
    >>> [round(float(shrinking(t, begin=20, end=60, final=0.2)), 3) for t in (0, 20, 40, 60, 99)]
    [1.0, 1.0, 0.3, 0.2, 0.2]
    """
    if step >= end:
        return final
    if step <= begin:
        return 1.0
    return final + (1 - final) * (1 - (step - begin) / (end - begin)) ** power


def sensitivity(parameter: nn.Parameter) -> Tensor:
    """First-order change of the loss if an entry were zero, |w dL/dw|; 0 without a gradient."""
    if parameter.grad is None:
        return torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
    dtype = torch.promote_types(parameter.dtype, torch.float32)  # products of halves underflow
    return (parameter.detach().to(dtype) * parameter.grad.to(dtype)).abs()


class Homotopy:
    """Narrow a model in a training loop: ``observe()`` after ``backward()``, ``narrow(optimizer)`` after its step.

    Neurons are taken out for good, so that every step is faster than the one before; the optimiser keeps what it knows
    of those that stay. A network with the removed neurons masked in its forward pass would be the same.

    Parameters
    ----------
    model
        Its feed-forward blocks are narrowed in place.
    width
        Share of the neurons of each block that stays, in (0, 1], of those it had before any were taken out.
    total_steps
        Steps of training.
    begin, end
        Shares of the steps between which neurons go, ``0 <= begin <= end <= 1``. If equal, all go at once.
    interval
        Steps between removals.
    smoothing
        Of the scores, which are averaged over steps: ``new = smoothing * old + (1 - smoothing) * score``.
    score
        ``score(parameter)``, one number for each entry; a neuron's is the sum over its weights and bias.
    scope
        ``"global"`` lets all blocks compete, so that their widths differ; an ablation.
    power
        Of the time left in the schedule.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`.

    Raises
    ------
    ParameterError
        For options out of range, and if there is no block.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> optimizer, path = torch.optim.AdamW(model.parameters()), Homotopy(model, width=0.25, total_steps=40)
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(2, 4)).square().sum().backward()
    ...     path.observe()
    ...     optimizer.step()
    ...     path.narrow(optimizer)
    >>> model[0].out_features, path.width
    (2, 0.25)
    """

    def __init__(
        self, model: nn.Module, *, width: float | Fraction, total_steps: int, begin: float = 0.05, end: float = 0.7,
        interval: int = 10, smoothing: float = 0.85, score: Callable[[nn.Parameter], Tensor] = sensitivity,
        scope: Scope = "local", power: int = 3, include: Sequence[str] = ("*",), exclude: Sequence[str] = (),
    ) -> None:  # fmt: skip
        check_path(total_steps=total_steps, begin=begin, end=end, interval=interval, smoothing=smoothing)
        Parameter("width", float, 1.0, low=0.0, low_open=True, high=1.0).validate(float(width))
        if scope not in ("local", "global"):
            raise ParameterError(f"scope must be 'local' or 'global', got {scope!r}")
        self.model, self.final, self.interval, self.smoothing = model, width, interval, smoothing
        self.score, self.scope, self.power = score, scope, power
        self.blocks = feed_forward_blocks(model, include=include, exclude=exclude)
        self.begin, self.end, self.steps = round(begin * total_steps), round(end * total_steps), 0
        self.scores: dict[Block, Tensor] = {}

    @property
    def width(self) -> float:
        """Share of all neurons that is still there."""
        first = sum(first_width(self.model, block) for block in self.blocks)
        return sum(width_of(self.model, block) for block in self.blocks) / first

    @torch.no_grad()
    def observe(self) -> None:
        """Take in the gradients that stand in the parameters, before the optimiser's step.

        Raises
        ------
        ParameterError
            If they are not finite.
        """
        for block in self.blocks:
            found = neuron_sums(self.model, block, self.score)
            if not bool(found.isfinite().all()):
                raise ParameterError(f"scores of {block.reader} are not finite; weights or gradients are not")
            before = self.scores.get(block, torch.zeros_like(found))
            self.scores[block] = self.smoothing * before + (1 - self.smoothing) * found

    def narrow(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Count a step, after the optimiser's, and take neurons out if it is time to.

        Raises
        ------
        ParameterError
            If neurons are to go, and nothing that was observed tells them apart.
        """
        self.steps += 1
        if self.steps < self.end and (self.steps <= self.begin or (self.steps - self.begin) % self.interval):
            return
        share = shrinking(self.steps, begin=self.begin, end=self.end, final=self.final, power=self.power)
        counts = {block: kept_count(first_width(self.model, block), share) for block in self.blocks}
        chosen = self._best_of_all(counts) if self.scope == "global" else self._best(counts)
        for block, kept in chosen.items():
            keep_neurons(self.model, block, kept, optimizer)
            self.scores[block] = self.scores[block][kept]

    def _best(self, counts: dict[Block, int]) -> dict[Block, Tensor]:
        """In each block, those with the largest scores; of equal ones those that come first."""
        short = {block: count for block, count in counts.items() if count < width_of(self.model, block)}
        for block in short:
            if block not in self.scores or not bool(self.scores[block].any()):
                raise ParameterError(
                    f"nothing tells the neurons of {block.reader} apart: all scores are 0. A student that is its "
                    "teacher has no gradient but that of the task; give the task a weight, and call observe()"
                )
        return {block: _largest(self.scores[block], count) for block, count in short.items()}

    def _best_of_all(self, counts: dict[Block, int]) -> dict[Block, Tensor]:
        """As many of all blocks together, but one a block."""
        scores = [self.scores[block] for block in self.blocks]
        firsts = [score == score.max() for score in scores]
        ranked = torch.cat([torch.where(first, torch.inf, score) for first, score in zip(firsts, scores, strict=True)])
        kept = torch.zeros(len(ranked), dtype=torch.bool, device=ranked.device)
        kept[_largest(ranked, min(sum(counts.values()), len(ranked)))] = True
        parts = kept.split([len(score) for score in scores])
        return {block: part.nonzero()[:, 0] for block, part in zip(self.blocks, parts, strict=True)}


def check_path(*, total_steps: int, begin: float, end: float, interval: int, smoothing: float) -> None:
    """Raise :class:`ParameterError` for what makes no path."""
    Parameter("total_steps", int, 1, low=1).validate(total_steps)
    Parameter("interval", int, 1, low=1).validate(interval)
    Parameter("smoothing", float, 0.0, low=0.0, high=1.0, high_open=True).validate(smoothing)
    for name, value in (("begin", begin), ("end", end)):
        Parameter(name, float, 0.0, low=0.0, high=1.0).validate(value)
    if begin > end:
        raise ParameterError(f"begin and end must have begin <= end, got {begin} and {end}")


def _largest(scores: Tensor, count: int) -> Tensor:
    return scores.argsort(descending=True, stable=True)[:count].sort().values
