"""What SlimMoE's claims measure: a small language model with experts slimmed or dropped, before and after repair."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.divergences import kl_divergence_logits
from porism.testbeds import windows
from porism.testbeds.language import ALPHABET
from porism_plugins.moe._engine import Experts
from porism_plugins.moe._slimmoe_loss import Objective, distillation, own_labels, scores, top_distillation
from porism_plugins.moe._slimmoe_method import distil, widths
from porism_plugins.moe._slimmoe_models import EXPERTS, INNER, LENGTH, CharacterMoE, teacher
from porism_plugins.moe._slimmoe_sites import largest, narrow, sites

Score = Literal["own labels", "text", "top 8", "magnitude", "activation", "random"]
Cut = Literal["drop", "own labels", "text", "top 8", "magnitude", "activation", "random"]
Judged = Literal["kl", "nll", "top 8"]
Loss = Literal["top 8", "all", "text"]
# Called with the student and the number of steps that it has been trained for.
Look = Callable[["CharacterMoE", int], None]
TEACHERS, BATCH, SCORED, STEPS, RATE, TARGET = 2, 4, 16, 40, 3e-3, 12


class World(NamedTuple):
    """A teacher, batches to score and to train on, windows (n, length) to judge by, and a seed."""

    model: CharacterMoE
    scored: list[dict[str, Tensor]]
    trained: list[dict[str, Tensor]]
    held_out: Tensor
    seed: int


def world(rng: np.random.Generator, *, steps: int = STEPS) -> World:
    """One of two teachers, with text drawn for this replicate."""
    model, text, test = teacher(int(rng.integers(TEACHERS)))

    def drawn(count: int) -> list[dict[str, Tensor]]:
        rows = (torch.from_numpy(windows(rng, text, batch=BATCH, length=LENGTH)) for _ in range(count))
        return [{"input_ids": ids, "labels": ids} for ids in rows]

    held_out = torch.from_numpy(windows(rng, test, batch=32, length=LENGTH))
    return World(model, drawn(SCORED), drawn(steps), held_out, int(rng.integers(2**31)))


def text_loss(student: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of the next character, without the routers' losses."""
    logits = student(batch["input_ids"]).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())


def objective(rule: Loss) -> Objective:
    """A loss to train with: the likeliest eight characters of the teacher, all of them, or the text."""
    return text_loss if rule == "text" else distillation(8 if rule == "top 8" else len(ALPHABET))


def worth(at: World, student: CharacterMoE, score: Score) -> Tensor:
    """A score of each neuron by any rule, shape (experts, inner)."""
    if score == "random":
        return torch.rand(EXPERTS, student.moe.experts.inner, generator=torch.Generator().manual_seed(at.seed))
    if score == "magnitude":
        return sites(student)["moe.experts"].magnitude()
    if score == "activation":
        return activations(student, at.scored)
    rule = own_labels(at.seed) if score == "own labels" else objective(score)
    return scores(student, at.model, sites(student), at.scored, rule)["moe.experts"]


@torch.no_grad()
def activations(student: CharacterMoE, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Root of the sum of squares of each neuron's output over the tokens of its expert, (experts, inner)."""
    experts, total = student.moe.experts, torch.zeros(EXPERTS, student.moe.experts.inner)

    def look(module: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        for expert in range(EXPERTS):
            gate, up = F.linear(inputs[0][(inputs[1] == expert).any(1)], experts.up[expert]).chunk(2, -1)
            total[expert] += (F.silu(gate) * up).square().sum(0)

    handle = experts.register_forward_pre_hook(look)
    for batch in batches:
        student(batch["input_ids"])
    handle.remove()
    return total.sqrt()


def slimmed(at: World, student: CharacterMoE, kept: int, score: Score = "own labels") -> CharacterMoE:
    """The student with so many neurons an expert, in place."""
    narrow(sites(student)["moe.experts"], largest(worth(at, student, score), kept))
    return student


@torch.no_grad()
def dropped(at: World, kept: int) -> CharacterMoE:
    """A copy of the teacher with the experts that its router gives most weight to, and the router cut to these."""
    student = copy.deepcopy(at.model)
    weights = torch.zeros(EXPERTS)
    for batch in at.scored:
        student(batch["input_ids"])
        routing = student.moe.routing
        weights.index_add_(0, routing.index.flatten(), routing.scale.flatten())
    stays = weights.topk(kept).indices.sort().values
    student.moe.experts = Experts.from_stacked(
        student.moe.experts.stacked._replace(up=student.moe.experts.up[stays], down=student.moe.experts.down[stays])
    )
    student.moe.router.weight = nn.Parameter(student.moe.router.weight[stays].clone())
    return student


def repaired(at: World, student: CharacterMoE, *, loss: Loss = "top 8", part: tuple[int, int] | None = None,
             look: Look | None = None) -> CharacterMoE:  # fmt: skip
    """The student after the batches from one step to another, all by default, in place; looked at before each."""
    start, end = part or (0, len(at.trained))

    def batches() -> Iterator[dict[str, Tensor]]:
        for step in range(start, end):
            if look is not None:
                look(student, step)
            yield at.trained[step]

    distil(student, at.model, batches(), objective(loss), steps=end - start, learning_rate=RATE)
    return student


def staged(at: World, stages: int, *, loss: Loss = "top 8", look: Look | None = None) -> CharacterMoE:
    """Cuts in so many stages, the batches shared out evenly: the method, on text drawn beforehand."""
    student = copy.deepcopy(at.model)
    ends = np.linspace(0, len(at.trained), stages + 1).round().astype(int).tolist()
    for stage, width in enumerate(widths(INNER, TARGET, stages)):
        slimmed(at, student, width, "own labels" if stage == 0 else "top 8")
        repaired(at, student, loss=loss, part=(ends[stage], ends[stage + 1]), look=look)
    if look is not None:
        look(student, len(at.trained))
    return student


@torch.no_grad()
def judged(at: World, student: CharacterMoE, by: Judged) -> float:
    """On held-out text, in nats a character: KL from the teacher, from its likeliest eight, or what the text costs."""
    logits, theirs = student(at.held_out).logits, at.model(at.held_out).logits
    if by == "kl":
        return float(kl_divergence_logits(theirs, logits).mean())
    if by == "top 8":
        rows = theirs.flatten(0, 1)
        entropy = torch.distributions.Categorical(logits=rows.topk(8).values).entropy().mean()
        return float(top_distillation(logits.flatten(0, 1), rows) - entropy)
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), at.held_out[:, 1:].flatten()))


def cut(at: World, rule: Cut) -> CharacterMoE:
    """A quarter of the experts' numbers: whole experts less, or slimmed by a score."""
    if rule == "drop":
        return dropped(at, EXPERTS * TARGET // INNER)
    return slimmed(at, copy.deepcopy(at.model), TARGET, rule)


def before_repair(rng: np.random.Generator, *, rule: Cut, by: Judged = "kl") -> float:
    """What is lost by a cut alone."""
    at = world(rng, steps=0)
    return judged(at, cut(at, rule), by)


def after_repair(rng: np.random.Generator, *, rule: Cut = "own labels", loss: Loss = "top 8",
                 by: Judged = "top 8") -> float:  # fmt: skip
    """What is lost after a cut in one go and all steps."""
    at = world(rng)
    return judged(at, repaired(at, cut(at, rule), loss=loss), by)


def after_stages(rng: np.random.Generator, *, stages: int, steps: int = 60, by: Judged = "top 8") -> float:
    """What is lost after so many stages and the same steps."""
    at = world(rng, steps=steps)
    return judged(at, staged(at, stages), by)


def compared(rng: np.random.Generator, *, stages: int, steps: int) -> dict[str, float]:
    """What the text costs each of them."""
    at = world(rng, steps=steps)
    students = {
        "teacher": at.model,
        "experts dropped": cut(at, "drop"),
        "slimmed": cut(at, "own labels"),
        "dropped and repaired": repaired(at, cut(at, "drop")),
        "slimmed in stages": staged(at, stages),
    }
    return {f"NLL, {name}": judged(at, student, "nll") for name, student in students.items()}
