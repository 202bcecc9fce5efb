"""OPTIMA on any pair of models: a distillation in rounds, each of which matches the modules that a bandit chose."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from annotated_types import Interval
from torch import nn

from porism.errors import ParameterError, did_you_mean
from porism.parameters import validated
from porism.surgery import evaluating
from porism_plugins.distill._engine import Distillation, Distilled, Logits, States, Task
from porism_plugins.distill._layers import Layer
from porism_plugins.distill._optima_bandit import Discount, DiscountedThompson, Exploration, LeastCount, WarmUp
from porism_plugins.distill._signals import Term

# By name of the module: layers of the student and as many of the teacher, by name or number.
Modules = Mapping[str, tuple[Sequence[Layer], Sequence[Layer]]]
Arms = Literal["modules", "subsets"] | Sequence[Sequence[str]]
Weight = Annotated[float, Interval(gt=0, le=1e6)]
Steps = Annotated[int, Interval(ge=1, le=1_000_000)]
Criterion = Literal["total", "base"]
Unselected = Literal["free", "frozen"]
Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]
_MOST_SUBSETS = 10


class Bandit(Protocol):
    """What chooses: :class:`DiscountedThompson`, or anything with these members."""

    def choose(self) -> int:
        """The arm to play next."""
        ...

    def update(self, arm: int, reward: float) -> None:
        """Take in the reward of an arm."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        ...


class Round(NamedTuple):
    """One round: the number of its arm, and the criterion on the probe batch before and after it."""

    arm: int
    before: float
    after: float

    @property
    def reward(self) -> float:
        """By how much the criterion fell."""
        return self.before - self.after


class OPTIMA(Distillation):
    """Distillation that in each round of steps matches the hidden states of the modules that help most at present.

    Call it with a batch for the loss, and ``step()`` after each step of the optimiser::

        optima = OPTIMA(student, teacher, {"image": ([2], [4]), "text": (["text.1"], ["text.3"])}, probe=batch)
        optimizer = torch.optim.AdamW(optima.parameters())
        for batch in batches:
            optima(batch).loss.backward()
            optimizer.step(), optimizer.zero_grad(), optima.step()

    The base terms are always on. After ``steps`` steps the round's reward is by how much the criterion fell on the
    probe batch; one criterion serves all arms.

    Parameters
    ----------
    student, teacher
        As of :class:`Distillation`.
    modules
        Layers by name of the module, such as image encoder and text encoder. A module's loss is the sum of the mean
        squared errors of its layers' states, through projections where widths differ.
    probe
        The batch on which rounds are judged, a mapping of what the student is called with, and labels. It should not
        be trained on, and be large enough that its loss says something. Also tells the layers' widths.
    base
        Terms that are always on; None: the task's loss, and logits at temperature 2.
    weight
        Of the chosen modules' losses beside the base terms.
    arms
        ``"modules"``; ``"subsets"``, all that are not empty, of at most 10 modules; or lists of names.
    steps
        Optimiser steps of a round.
    criterion
        ``"total"``: base terms and the losses of all modules; ``"base"``: base terms alone.
    unselected
        ``"free"``: modules that were not chosen go on learning from the base terms, and with them what is left of
        their old gradients in the optimiser's moments. ``"frozen"``: parameters of the layers named in ``modules``
        stand still for the round, whatever the optimiser, as they require no gradient. Projections of modules not
        chosen always stand still.
    discount, exploration, least_count, warm_up
        Of :class:`DiscountedThompson`.
    bandit
        Another one in its place.
    teacher_inputs, seed
        As of :class:`Distillation`; the seed is also the bandit's.

    Attributes
    ----------
    arms
        Names of the modules of each arm.
    rounds
        What happened, a :class:`Round` each.
    bandit
        The bandit. State of both, and of a round under way, is in ``state_dict()``.

    Raises
    ------
    ParameterError
        For no modules, arms of unknown modules, layers that are not there or not as many, values out of range.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, modules: Modules, probe: Mapping[str, Any], *,
        base: Sequence[Term] | None = None, weight: Weight = 1.0, arms: Arms = "modules", steps: Steps = 10,
        criterion: Criterion = "total", unselected: Unselected = "free", discount: Discount = 0.95,
        exploration: Exploration = 1.0, least_count: LeastCount = 0.05, warm_up: WarmUp = 1,
        bandit: Bandit | None = None, teacher_inputs: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        seed: Seed = 0,
    ) -> None:  # fmt: skip
        _check_numbers(weight=weight, steps=steps, criterion=criterion, unselected=unselected, seed=seed)
        _check_modules(modules, probe)
        selected: set[str] = set()
        terms = [*([Task(), Logits(temperature=2.0)] if base is None else base)]
        if taken := [term.name for term in terms if term.name in modules]:
            raise ParameterError(f"modules must not have the names of base terms, got {taken}")
        for name, layers in modules.items():
            pairs = weight * len(layers[0])  # a term averages over its pairs, a module's loss is their sum
            terms.append(States(*layers, weight=_Switch(selected, name, pairs), name=name))
        super().__init__(student, teacher, terms, example=probe, teacher_inputs=teacher_inputs, seed=seed)
        self.arms = _arms(arms, list(modules))
        self.bandit: Bandit = bandit or DiscountedThompson(
            len(self.arms), np.random.default_rng(seed), discount=discount, exploration=exploration,
            least_count=least_count, warm_up=warm_up,
        )  # fmt: skip
        self.progress, self.rounds, self.probe = 0.0, list[Round](), dict(probe)
        self._modules_of, self._selected, self._steps = dict.fromkeys(modules), selected, steps
        self._judged_by, self._unselected = criterion, unselected
        self._arm, self._before, self._done, self._began_at = -1, 0.0, 0, 0.0
        self._frozen: list[nn.Parameter] = []

    @property
    def arm(self) -> tuple[str, ...]:
        """The modules that are matched in the present round; empty before the first batch of a round."""
        return self.arms[self._arm] if self._arm >= 0 else ()

    def forward(self, *inputs: Any, **batch: Any) -> Distilled:
        """As :meth:`Distillation.forward`; the first call after a round begins the next.

        Raises
        ------
        ParameterError
            As there, and if the criterion is not finite.
        """
        self.begin()
        return super().forward(*inputs, **batch)

    def begin(self) -> None:
        """Choose the modules of a round, unless one is under way."""
        if self._arm >= 0:
            return
        self._began_at = float(self.progress() if callable(self.progress) else self.progress)
        before = self.criterion()
        self._arm, self._before, self._done = self.bandit.choose(), before, 0
        self._select()

    def step(self) -> Round | None:
        """Count a step of the optimiser. At the end of a round judge it, tell the bandit, and return it.

        Raises
        ------
        ParameterError
            If no batch came before, or the criterion is not finite.
        """
        if self._arm < 0:
            raise ParameterError("step() comes after a batch: call the distillation, then the optimiser, then step()")
        self._done += 1
        if self._done < self._steps:
            return None
        found = Round(self._arm, self._before, self.criterion())
        self.bandit.update(found.arm, found.reward)
        self.rounds.append(found)
        self._arm = -1
        self._release()
        return found

    @torch.no_grad()
    def criterion(self) -> float:
        """What rounds are judged by, on the probe batch, in evaluation mode; weights are those of the round's start.

        Raises
        ------
        ParameterError
            If it is not finite.
        """
        chosen, progress = set(self._selected), self.progress
        self._selected.clear()
        self._selected.update(self._modules_of if self._judged_by == "total" else ())
        self.progress = self._began_at
        try:
            with evaluating(self.student):
                value = float(super().forward(self.probe).loss)
        finally:
            self._selected.clear()
            self._selected.update(chosen)
            self.progress = progress
        if not np.isfinite(value):
            raise ParameterError(f"the criterion must be finite on the probe batch, it is {value}")
        return value

    def shares(self) -> dict[str, float]:
        """Share of the rounds so far in which each module was matched."""
        rounds = max(len(self.rounds), 1)
        return {name: sum(name in self.arms[one.arm] for one in self.rounds) / rounds for name in self._modules_of}

    def attach(self, trainer: Any) -> None:
        """Make a ``transformers.Trainer`` of the student distil in rounds of its optimiser steps.

        Raises
        ------
        ParameterError
            As :meth:`Distillation.attach`; for several processes, as each would choose for itself.
        """
        from transformers import TrainerCallback

        if trainer.accelerator.num_processes > 1:
            raise ParameterError("OPTIMA runs in one process only, as each of several would choose for itself")
        optima = self

        class Rounds(TrainerCallback):
            def on_step_begin(self, *args: Any, **options: Any) -> None:
                optima.begin()

            def on_step_end(self, *args: Any, **options: Any) -> None:
                optima.step()

        super().attach(trainer)
        self.probe = {n: v.to(trainer.args.device) if torch.is_tensor(v) else v for n, v in self.probe.items()}
        trainer.add_callback(Rounds())

    def get_extra_state(self) -> dict[str, Any]:
        """The bandit, the rounds, and the round under way; a part of ``state_dict()``."""
        return {"bandit": self.bandit.state_dict(), "rounds": [list(one) for one in self.rounds], "arm": self._arm,
                "before": self._before, "done": self._done, "began_at": self._began_at}  # fmt: skip

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.bandit.load_state_dict(state["bandit"])
        self.rounds = [Round(*one) for one in state["rounds"]]
        self._arm, self._before, self._done = state["arm"], state["before"], state["done"]
        self._began_at = state["began_at"]
        self._select()

    def _select(self) -> None:
        """Switch the losses of the present arm on, those of others off, and still what stands still."""
        self._release()
        self._selected.update(self.arm)
        if not self.arm:
            return
        others = [name for name in self._modules_of if name not in self.arm]
        for parameter in _parameters(self.signals[name] for name in others):
            parameter.grad = None  # without a gradient no optimiser moves it, be it by momentum or by decay
        if self._unselected == "frozen":
            moving = set(_parameters(self._layers_of(self.arm)))
            self._frozen = [p for p in _parameters(self._layers_of(others)) if p.requires_grad and p not in moving]
            for parameter in self._frozen:
                parameter.requires_grad_(False)
                parameter.grad = None

    def _release(self) -> None:
        self._selected.clear()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []

    def _layers_of(self, names: Sequence[str]) -> Iterator[nn.Module]:
        for name in names:
            yield from map(self.student.get_submodule, self.signals[name].student_modules)


def _parameters(modules: Any) -> list[nn.Parameter]:
    return list(dict.fromkeys(parameter for module in modules for parameter in module.parameters()))


@dataclasses.dataclass(frozen=True, eq=False)
class _Switch:
    """The weight of a module's loss, 0 unless it is selected; a copied distillation has switches of its own."""

    selected: set[str]
    name: str
    weight: float

    def __call__(self, progress: float) -> float:
        return self.weight if self.name in self.selected else 0.0


@validated
def _check_numbers(*, weight: Weight = 1.0, steps: Steps = 10, criterion: Criterion = "total",
                   unselected: Unselected = "free", seed: Seed = 0) -> None:  # fmt: skip
    """Raise :class:`ParameterError` for what is out of its range."""


def _check_modules(modules: Modules, probe: Mapping[str, Any]) -> None:
    if not isinstance(modules, Mapping) or not modules:
        raise ParameterError(f"modules must be a mapping from names to layers, not empty, got {modules!r}")
    for name, layers in modules.items():
        if isinstance(layers, str) or not isinstance(layers, Sequence) or len(layers) != 2:
            raise ParameterError(f"modules[{name!r}] must be (student layers, teacher layers), got {layers!r}")
    if not isinstance(probe, Mapping):
        raise ParameterError(f"probe must be a mapping of the student's inputs and labels, got {type(probe).__name__}")


def _arms(given: Arms, names: list[str]) -> tuple[tuple[str, ...], ...]:
    if given == "modules":
        return tuple((name,) for name in names)
    if given == "subsets":
        if len(names) > _MOST_SUBSETS:
            raise ParameterError(f"arms='subsets' are for at most {_MOST_SUBSETS} modules, got {len(names)}; list them")
        return tuple(itertools.chain(*(itertools.combinations(names, n + 1) for n in range(len(names)))))
    if isinstance(given, str) or not given:
        raise ParameterError(f"arms must be 'modules', 'subsets' or lists of modules' names, got {given!r}")
    for arm in given:
        if isinstance(arm, str) or not arm:
            raise ParameterError(f"an arm must be a list of modules' names, not empty, got {arm!r}")
        if unknown := [name for name in arm if name not in names]:
            raise ParameterError(f"arms must be of modules, got {unknown[0]!r}{did_you_mean(unknown[0], names)}")
    return tuple(tuple(dict.fromkeys(arm)) for arm in given)
