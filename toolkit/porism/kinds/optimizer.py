"""Checks of optimisers: what training loops, schedulers and checkpoints rely on, whatever the rule of the step.

Problems are convex quadratics in parameters of several shapes; every optimiser is made as ``Method(params, lr=...)``.
"""

from __future__ import annotations

import copy
import io
import math
import unittest
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porism.registry import LoadedPaper, method
from porism.seeds import ROOT, generator
from porism.testing.replicates import error_of
from porism.testing.state import preserved

SHAPES = ((6, 4), (4, 6), (5,), (2, 3, 2))
LR, STEPS = 0.01, 4


def check_optimizer_is_a_torch_optimizer(loaded: LoadedPaper) -> None:
    """The method is a ``torch.optim.Optimizer`` class, and its groups hold the parameters and lr."""
    kind: Any = method(loaded)
    assert isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer), (
        "an optimizer's PAPER.method names a subclass of torch.optim.Optimizer, for schedulers and scalers ask for it"
    )
    parameters = _parameters()
    groups = _optimizer(loaded, parameters).param_groups
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert held == set(map(id, parameters)), "param_groups must hold the parameters that were given, and no others"
    assert all(group.get("lr") == LR for group in groups), f"every group must hold lr={LR:g} as it was given"


def check_optimizer_decreases_a_quadratic(loaded: LoadedPaper) -> None:
    """At one of the usual learning rates, falling linearly to 0, 200 steps quarter a convex quadratic."""
    ratios = {}
    for lr in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        parameters = _parameters()
        optimizer = _optimizer(loaded, parameters, lr=lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 200)
        first = float(_distance(parameters).detach())
        for _ in range(200):
            _step(optimizer, parameters)
            schedule.step()
        ratios[lr] = float(_distance(parameters).detach()) / first
    finite = [ratio for ratio in ratios.values() if math.isfinite(ratio)]
    shown = ", ".join(f"{ratio:.3g} at lr={lr:g}" for lr, ratio in ratios.items())
    assert min(finite, default=math.inf) < 0.25, (
        f"after 200 steps a convex quadratic is at these multiples of its first value: {shown}; it should be below 1/4 "
        "at one of them, so look at the step's sign"
    )


def check_optimizer_survives_its_state_dict(loaded: LoadedPaper) -> None:
    """A new optimiser with another one's saved state and parameters goes on bit for bit."""
    error = error_of(lambda: _goes_on(loaded, torch.float32))
    assert error is None, f"load_state_dict of its own state_dict, or a step after it, raises {error!r}"
    assert _goes_on(loaded, torch.float32), (
        "a restored optimizer goes on differently; keep all that steps depend on in self.state and self.param_groups, "
        "nothing on self"
    )


def check_optimizer_restores_low_precision(loaded: LoadedPaper) -> None:
    """With parameters in bfloat16 as well: torch casts a state in float32 to the parameter's type on loading it."""
    if error_of(lambda: _goes_on(loaded, torch.float32)) or not _goes_on(loaded, torch.float32):
        raise unittest.SkipTest("it is not restored in float32 either")
    assert _goes_on(loaded, torch.bfloat16), (
        "with parameters in bfloat16 a restored optimizer goes on differently, as torch rounds its state to bfloat16; "
        "after super().load_state_dict(...) put the saved tensors back into self.state"
    )


def check_optimizer_saves_plain_state(loaded: LoadedPaper) -> None:
    """A saved state is read by ``torch.load(weights_only=True)``, which runs no code."""
    parameters = _parameters()
    optimizer = _optimizer(loaded, parameters)
    _steps(optimizer, parameters)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    error = error_of(lambda: torch.load(file, weights_only=True))
    assert error is None, (
        f"the saved state is not plain: {str(error).splitlines()[0]}; keep tensors, numbers, strings, lists and dicts"
    )


def check_optimizer_respects_param_groups(loaded: LoadedPaper) -> None:
    """A group's own lr counts for its parameters, and for them only: with 0 they stay."""
    still, moving = _parameters(), _parameters()
    optimizer = _optimizer(loaded, [{"params": still, "lr": 0.0}, {"params": moving}])
    before = _copies(still), _copies(moving)
    _steps(optimizer, [*still, *moving])
    assert _equal(still, before[0]), "a group with lr=0 moves; read group['lr'], not self.defaults['lr']"
    assert _all_moved(moving, before[1]), "beside a group with lr=0 the others do not move; read each group's own lr"


def check_optimizer_adds_param_groups(loaded: LoadedPaper) -> None:
    """Parameters added after some steps move from then on, and the others go on."""
    first, later = _parameters(), _parameters()
    optimizer = _optimizer(loaded, first)
    _steps(optimizer, first)
    error = error_of(lambda: optimizer.add_param_group({"params": later, "lr": LR}))
    assert error is None, f"add_param_group raises {error!r}"
    before = _copies([*first, *later])
    error = error_of(lambda: _steps(optimizer, [*first, *later]))
    assert error is None, f"after add_param_group a step raises {error!r}; make a parameter's state at its first step"
    assert _all_moved([*first, *later], before), "after add_param_group not all parameters move"


def check_optimizer_skips_missing_gradients(loaded: LoadedPaper) -> None:
    """A parameter whose gradient is None stays as it is, at first and after steps."""
    parameters = _parameters()
    optimizer = _optimizer(loaded, parameters)
    for when in ("before any gradient", "after steps and zero_grad()"):
        before = _copies(parameters)
        error = error_of(optimizer.step)
        assert error is None, f"{when} a step raises {error!r}; skip parameters whose grad is None"
        assert _equal(parameters, before), f"{when} parameters whose grad is None move; skip them"
        _steps(optimizer, parameters)
        optimizer.zero_grad()
        assert all(p.grad is None for p in parameters), "zero_grad() must set gradients to None, as torch's own does"
    before = _copies(parameters)
    _gradients(parameters, 0)
    parameters[0].grad = None
    optimizer.step()
    assert torch.equal(parameters[0], before[0]), "one parameter without a gradient moves beside others with one"


def check_optimizer_follows_its_scheduler(loaded: LoadedPaper) -> None:
    """A scheduler that sets lr to 0 stops all movement, and one that raises it again starts it."""
    parameters = _parameters()
    optimizer = _optimizer(loaded, parameters)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step == 1 else 1.0)
    _step(optimizer, parameters)
    for moves in (False, True):
        schedule.step()
        before = _copies(parameters)
        _step(optimizer, parameters)
        assert moves or _equal(parameters, before), "with lr=0 from a scheduler it moves; read group['lr'] in each step"
        assert not moves or _all_moved(parameters, before), "after a scheduler has raised lr from 0 it does not move"


def check_optimizer_calls_its_closure(loaded: LoadedPaper) -> None:
    """``step(closure)`` evaluates the closure with gradients on, uses them, and returns its loss."""
    parameters = _parameters()
    optimizer, before = _optimizer(loaded, parameters), _copies(parameters)
    calls: list[bool] = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = _distance(parameters)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        return float(loss.detach()) + 12.5

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls, "step(closure) does not call the closure"
    assert all(calls), "the closure runs without gradients; call it under torch.enable_grad()"
    assert loss is not None and 12.5 <= float(loss) < math.inf, f"step(closure) must return the loss, got {loss!r}"
    assert _all_moved(parameters, before), "step(closure) does not step on the gradients that the closure makes"


def check_optimizer_keeps_gradients(loaded: LoadedPaper) -> None:
    """A step writes into no gradient, which may be accumulated further, clipped or logged."""
    parameters = _parameters()
    optimizer = _optimizer(loaded, parameters)
    for step in range(STEPS):
        gradients = _gradients(parameters, step)
        optimizer.step()
        kept = all(p.grad is not None and torch.equal(p.grad, g) for p, g in zip(parameters, gradients, strict=True))
        assert kept, "step changes gradients in place; use grad.add(...) instead of grad.add_(...)"


def check_optimizer_steps_in_place(loaded: LoadedPaper) -> None:
    """A step keeps each parameter's memory, type and place as a leaf, on which modules and views rely."""
    parameters = _parameters()
    optimizer = _optimizer(loaded, parameters)
    before = [(p.data_ptr(), p.dtype) for p in parameters]
    _steps(optimizer, parameters)
    assert [(p.data_ptr(), p.dtype) for p in parameters] == before, (
        "step gives parameters other memory or another type; update them by p.add_(...) or p.copy_(...)"
    )
    assert all(p.is_leaf and p.requires_grad for p in parameters), (
        "after a step a parameter is no leaf that requires a gradient; decorate step with torch.no_grad()"
    )


def check_optimizer_is_deterministic(loaded: LoadedPaper) -> None:
    """The same gradients give the same bits, and nothing global changes."""
    ends = []
    for _ in range(2):
        parameters = _parameters()
        optimizer = _optimizer(loaded, parameters)
        with preserved() as changed:
            _steps(optimizer, parameters)
        assert not changed, f"a step changes {', '.join(changed)}; draw from a torch.Generator of your own"
        ends.append(parameters)
    assert _equal(*ends), "two runs on the same gradients differ; draw from a torch.Generator with a fixed seed"


def check_optimizer_in_low_precision(loaded: LoadedPaper) -> None:
    """Parameters in bfloat16 stay finite and in bfloat16, also with small gradients, and move."""
    for size in (1.0, 1e-4):
        parameters = [nn.Parameter(p.detach().bfloat16()) for p in _parameters()]
        optimizer, before = _optimizer(loaded, parameters, lr=0.1), _copies(parameters)
        error = error_of(lambda: _steps(optimizer, parameters, size=size))  # noqa: B023 - called at once
        assert error is None, f"parameters in bfloat16 raise {error!r}; compute in float32 and copy_ the result"
        assert all(p.dtype == torch.bfloat16 for p in parameters), "parameters in bfloat16 become another type"
        assert all(bool(p.isfinite().all()) for p in parameters), (
            f"with gradients of size {size:g}, parameters in bfloat16 are not finite after {STEPS} steps; "
            "keep the state in float32"
        )
        moved = _all_moved(parameters, before)
        assert moved or size < 1, "parameters in bfloat16 do not move with lr=0.1; compute in float32"


def check_optimizer_of_zero_gradients(loaded: LoadedPaper) -> None:
    """Gradients of 0 from the start leave everything finite, also the steps that come after them."""
    parameters = _parameters()
    optimizer = _optimizer(loaded, parameters)
    _steps(optimizer, parameters, size=0.0)
    assert _finite(parameters), "gradients of 0 make parameters that are not finite; guard the division"
    _steps(optimizer, parameters)
    assert _finite(parameters), "steps after gradients of 0 make parameters that are not finite; guard the division"


def check_optimizer_of_any_shape(loaded: LoadedPaper) -> None:
    """Parameters with no axis, one, two of any length, more, and with no element at all, all step."""
    for shape in ((), (1,), (1, 1), (1, 7), (7, 1), (2, 9), (9, 2), (3, 2, 2, 2), (0, 3)):
        parameters = [nn.Parameter(torch.zeros(shape))]
        optimizer, moved = _optimizer(loaded, parameters), False
        for step in range(STEPS):
            _gradients(parameters, step)
            error = error_of(optimizer.step)
            assert error is None, f"a parameter of shape {shape} raises {error!r}"
            moved = moved or bool(parameters[0].any())
        assert _finite(parameters), f"a parameter of shape {shape} is not finite after {STEPS} steps"
        assert moved or not parameters[0].numel(), f"a parameter of shape {shape} does not move"


def check_optimizer_of_strided_gradients(loaded: LoadedPaper) -> None:
    """Parameters and gradients that are not contiguous step as contiguous ones do."""
    plain, strided = _parameters(), _parameters()
    for parameter in strided:
        parameter.data = _strided(parameter.data)
    optimizers = _optimizer(loaded, plain), _optimizer(loaded, strided)
    for step in range(STEPS):
        _gradients(plain, step)
        for parameter, gradient in zip(strided, _gradients(strided, step), strict=True):
            parameter.grad = _strided(gradient)
        optimizers[0].step()
        error = error_of(optimizers[1].step)
        assert error is None, f"gradients that are not contiguous raise {error!r}; use reshape instead of view"
    close = all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, strided, strict=True))
    assert close, "parameters and gradients that are not contiguous step differently"


def check_optimizer_rejects_a_bad_lr(loaded: LoadedPaper) -> None:
    """A learning rate that is negative or not a number raises a ValueError that names lr."""
    for lr in (-1.0, math.nan):
        error = error_of(lambda: _optimizer(loaded, _parameters(), lr=lr))  # noqa: B023 - called at once
        hint = "raise porism.errors.ParameterError or ValueError naming lr"
        assert error is not None, f"lr={lr:g} is accepted; {hint}"
        named = isinstance(error, ValueError) and ("lr" in str(error) or "learning rate" in str(error).lower())
        assert named, f"lr={lr:g} raises {error!r}, which does not name it; {hint}"


def check_optimizer_on_cuda(loaded: LoadedPaper) -> None:
    """On a GPU parameters and state stay there, and steps agree with the CPU's."""
    if not torch.cuda.is_available():
        raise unittest.SkipTest("no CUDA device")
    here = _parameters()
    there = [nn.Parameter(p.detach().cuda()) for p in here]
    optimizer = _optimizer(loaded, there)
    _steps(_optimizer(loaded, here), here)
    error = error_of(lambda: _steps(optimizer, there))
    assert error is None, f"on CUDA a step raises {error!r}; make the state on the parameter's device"
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.detach().cpu(), a.detach(), rtol=0.05, atol=0.1 * LR)


def _goes_on(loaded: LoadedPaper, dtype: torch.dtype) -> bool:
    """Whether a restored optimiser takes the same steps as the one that was saved."""
    parameters = [nn.Parameter(parameter.detach().to(dtype)) for parameter in _parameters()]
    optimizer = _optimizer(loaded, parameters)
    _steps(optimizer, parameters)
    twins = _copies(parameters)
    restored = _optimizer(loaded, twins, lr=7 * LR)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _steps(optimizer, parameters, seed=1)
    _steps(restored, twins, seed=1)
    return _equal(parameters, twins)


def _optimizer(loaded: LoadedPaper, parameters: Any, lr: float = LR) -> torch.optim.Optimizer:
    kind: Callable[..., torch.optim.Optimizer] = method(loaded)  # type: ignore[assignment]
    return kind(parameters, lr=lr)


def _parameters() -> list[nn.Parameter]:
    """New parameters of several shapes, the same at each call."""
    rng = generator(ROOT, "optimizer", "parameters")
    return [nn.Parameter(torch.from_numpy(rng.normal(size=shape)).float()) for shape in SHAPES]


def _copies(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(parameter.detach().clone()) for parameter in parameters]


def _strided(tensor: Tensor) -> Tensor:
    """A copy with its axes the other way round in memory, and a gap after each number."""
    back = tuple(reversed(range(tensor.ndim)))
    turned = tensor.permute(back)
    return torch.stack([turned, turned], dim=-1)[..., 0].permute(back)


def _distance(parameters: list[nn.Parameter]) -> Tensor:
    """Sum of weighted squares of the distances to 1, with a condition of 10."""
    total = torch.zeros(())
    for parameter in parameters:
        weights = torch.linspace(0.2, 2.0, parameter.numel()).reshape(parameter.shape)
        total = total + (weights * (parameter - 1).square()).sum()
    return total


def _step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(_distance(parameters))
    optimizer.step()


def _gradients(parameters: list[nn.Parameter], step: int, *, seed: int = 0, size: float = 1.0) -> list[Tensor]:
    """Give every parameter a random gradient, and return copies."""
    rng: np.random.Generator = generator(ROOT, "optimizer", seed, step)
    for parameter in parameters:
        parameter.grad = torch.from_numpy(np.asarray(size * rng.normal(size=parameter.shape))).to(parameter)
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def _steps(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], *, seed: int = 0, size: float = 1.0
) -> None:
    for step in range(STEPS):
        _gradients(parameters, step, seed=seed, size=size)
        optimizer.step()


def _equal(first: list[nn.Parameter], second: list[nn.Parameter]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _all_moved(parameters: list[nn.Parameter], before: list[nn.Parameter]) -> bool:
    return not any(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


def _finite(parameters: list[nn.Parameter]) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in parameters)
