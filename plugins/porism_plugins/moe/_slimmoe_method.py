"""The method of :mod:`porism_plugins.moe.slimmoe`: a plan of widths; at each one scores, a cut, distillation."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor, nn

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import evaluating
from porism_plugins.moe._slimmoe_config import check_configurable, original_width, set_widths
from porism_plugins.moe._slimmoe_loss import Objective, distillation, finite, logits_of, own_labels, scores
from porism_plugins.moe._slimmoe_sites import Site, largest, narrow, sites


def slimmoe(
    model: nn.Module, /, *, calibration: Iterable[Any], remaining: Annotated[float, Interval(gt=0, le=1)] = 0.25,
    stages: Annotated[int, Interval(ge=1)] = 2, steps: Annotated[int, Interval(ge=0)] = 1000,
    learning_rate: Annotated[float, Interval(gt=0)] = 1e-3, top: Annotated[int, Interval(ge=1)] = 8,
    split: Sequence[float] | None = None, scored: Annotated[int, Interval(ge=1)] = 32,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    loss: Callable[[nn.Module, Any], Tensor] | None = None, teacher: nn.Module | None = None,
    seed: Annotated[int, Interval(ge=0)] = 0, inplace: bool = False,
) -> nn.Module:  # fmt: skip
    """Make every expert of every mixture-of-experts layer narrower, in stages, each repaired by distillation.

    Parameters
    ----------
    model
        Left alone unless ``inplace``. It is the start, and the teacher.
    calibration
        Batches that the model is called with, used over and over in their order: tensors, mappings of keyword
        arguments, or pairs of what the model is called with and labels. Labels are not looked at, unless by ``loss``;
        positions where ``attention_mask`` is 0 are left out. They must be on the model's device, and in its dtype.
    remaining
        Share of an expert's neurons that stays, in (0, 1], rounded down and at least one; of what it had at first,
        where the model was slimmed before. Fused experts of transformers are cut to multiples of 8, at least 8, which
        their kernels want. At 1, or where experts are that narrow already, nothing is done.
    stages
        Cuts; widths fall geometrically. 1 is one-shot pruning. Stages that would cut nothing are skipped.
    steps
        Batches trained on in all; 0 is pruning alone.
    learning_rate
        At the start of each stage; it falls linearly to 0 within the stage.
    top
        Of the teacher's classes, how many are learnt from.
    split
        Share of the steps of each stage, equal ones by default.
    scored
        Batches at most that neurons are scored on at each stage.
    optimizer
        Called with the parameters and ``lr``.
    loss
        ``loss(model, batch)`` to train with instead of distillation; scores stay as they are.
    teacher
        Another teacher than the model: what a slimmed model came from, to slim it further.
    seed
        Of dropout and of the labels drawn for the first scores.
    inplace
        Change the model itself instead of a copy; the teacher is a copy then. An error in training leaves it cut.

    Returns
    -------
    Module
        With the same router, experts and layers; ordinary modules. A transformers model's configuration says its width.

    Raises
    ------
    ParameterError
        For options out of range, models without experts that are known here, configurations that could not say the new
        width, batches that are empty, a loss that is not finite, layers that no gradient reaches.

    Examples
    --------
    >>> from porism_plugins.moe._engine import Experts, MoE, TopKRouter
    >>> generator = torch.Generator().manual_seed(0)
    >>> layer = MoE(Experts(4, 8, 16, generator=generator), TopKRouter(8, 4, generator=generator))
    >>> batch = torch.randn(20, 8, generator=generator)
    >>> slimmoe(nn.Sequential(layer), calibration=[batch], remaining=0.25, steps=4)[0].experts
    Experts(experts=4, width=8, inner=4, gated=False)
    """
    _check(
        remaining=remaining, stages=stages, steps=steps, learning_rate=learning_rate, top=top, scored=scored, seed=seed
    )
    shares = _shares(split, stages)
    batches = list(calibration)
    if not batches:
        raise ParameterError("calibration batches are empty; give at least one")
    found = sites(model)
    plan = {
        name: widths(site.inner, _target(model, site, remaining), stages, site.multiple) for name, site in found.items()
    }
    if all(path[-1] == found[name].inner for name, path in plan.items()):
        return model if inplace else copy.deepcopy(model)
    check_configurable(model, found, next(iter(plan.values()))[-1])
    teacher = teacher or (copy.deepcopy(model) if inplace else model)
    student = model if inplace else copy.deepcopy(model)
    trained = itertools.cycle(batches)
    for stage, count in enumerate(_whole(shares, steps)):
        loss_of_scores = own_labels(seed) if coincide(student, teacher, batches[0]) else distillation(top)
        now = sites(student)
        worth = scores(student, teacher, now, batches[:scored], loss_of_scores)
        for name, site in now.items():
            narrow(site, largest(worth[name], plan[name][stage]))
        objective: Objective = distillation(top) if loss is None else _alone(loss)
        distil(student, teacher, itertools.islice(trained, count), objective, steps=count,
               learning_rate=learning_rate, optimizer=optimizer, seed=seed + stage)  # fmt: skip
    now = sites(student)
    set_widths(student, now, next(iter(now.values())).inner)
    return student


def widths(inner: int, target: int, stages: int, multiple: int = 1) -> list[int]:
    """Neurons after each stage: a geometric path from ``inner`` to ``target``, rounded to multiples.

    Examples
    --------
    >>> widths(48, 12, 2)
    [24, 12]
    """
    path = (inner * (target / inner) ** (stage / stages) for stage in range(1, stages))
    return [min(inner, max(target, multiple * round(width / multiple))) for width in path] + [target]


def distil(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Any], objective: Objective, *, steps: int,
    learning_rate: float, optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW, seed: int = 0,
) -> list[float]:  # fmt: skip
    """Train the student in place on these batches, the rate falling linearly to 0, and return the losses.

    Modules of the student train and are put back to their own mode, the teacher evaluates; torch's global generators
    are left as they were. The routers' own losses are not added, which would move the routing.

    Raises
    ------
    ParameterError
        If nothing can be trained, weights are float16, or a loss is not finite.
    """
    moving = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not steps:
        return []
    if not moving:
        raise ParameterError("model has no parameter that requires a gradient; unfreeze it, or ask for steps=0")
    if any(parameter.dtype == torch.float16 for parameter in moving):
        raise ParameterError("model is float16, too narrow to be trained in; use bfloat16 or float32, or steps=0")
    method = optimizer(moving, lr=learning_rate)
    rate = torch.optim.lr_scheduler.LambdaLR(method, lambda step: 1 - step / steps)
    devices = sorted({p.device.index for p in moving if p.is_cuda})
    losses = []
    with torch.random.fork_rng(devices=devices), evaluating(student), evaluating(teacher), torch.enable_grad():
        student.train()
        torch.manual_seed(seed)
        for step, batch in enumerate(batches):
            method.zero_grad()
            value = finite(objective(student, teacher, batch), step)
            value.backward()
            method.step()
            rate.step()
            losses.append(value.detach())
    method.zero_grad()
    return [float(value) for value in losses]


@torch.no_grad()
def coincide(student: nn.Module, teacher: nn.Module, batch: Any) -> bool:
    """Whether both give the same logits for a batch, bit for bit."""
    with evaluating(student), evaluating(teacher):
        ours, theirs = logits_of(student, batch), logits_of(teacher, batch)
    return ours.shape == theirs.shape and bool(torch.equal(ours, theirs))


def _alone(loss: Callable[[nn.Module, Any], Tensor]) -> Objective:
    return lambda student, teacher, batch: loss(student, batch)


def _target(model: nn.Module, site: Site, remaining: float) -> int:
    original = original_width(model, site)
    wanted = math.floor(remaining * original + 1e-9)
    if remaining == 1 or wanted >= site.inner:
        return site.inner
    if wanted < site.multiple and site.multiple > 1:
        raise ParameterError(
            f"remaining={remaining} leaves {wanted} of {original} neurons; fused experts need {site.multiple} at least"
        )
    return max(1, wanted - wanted % site.multiple)


def _shares(split: Sequence[float] | None, stages: int) -> list[float]:
    shares = [1.0] * stages if split is None else list(split)
    if len(shares) != stages or not all(math.isfinite(s) and s >= 0 for s in shares) or sum(shares) <= 0:
        raise ParameterError(f"split must hold {stages} shares from 0 on, one for each stage, got {split!r}")
    return [share / sum(shares) for share in shares]


def _whole(shares: Sequence[float], steps: int) -> Iterator[int]:
    """Steps of each stage, whole numbers with the right sum."""
    ends = [round(steps * share) for share in itertools.accumulate(shares)]
    return (end - start for start, end in zip([0, *ends], ends, strict=False))


def _check(**options: Any) -> None:
    lowest: Mapping[str, int] = {"stages": 1, "steps": 0, "top": 1, "scored": 1, "seed": 0}
    for name, low in lowest.items():
        Parameter(name, int, low, low=low).validate(options[name])
    Parameter("remaining", float, 0.5, low=0.0, high=1.0, low_open=True).validate(options["remaining"])
    Parameter("learning_rate", float, 1e-3, low=0.0, low_open=True).validate(options["learning_rate"])
