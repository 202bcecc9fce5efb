"""Checks of adapters: what anybody relies on who fine-tunes a model of his own through a published one.

An adapter is called as ``method(model, ...)`` and returns the model with few trainable numbers. Examples come from the
paper's file as for compressors (:mod:`porism.kinds.models`). What the model was before is asked of one that is no
compressor as well.
"""

from __future__ import annotations

import copy
import unittest
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from porism.kinds import models
from porism.registry import LoadedPaper
from porism.surgery import evaluating
from porism.testing.replicates import error_of

# Of the training that the checks do.
STEPS, LEARNING_RATE = 10, 1e-2


def check_adapter_keeps_the_interface(loaded: LoadedPaper) -> None:
    """The result is a module that gives finite outputs of the same shapes and dtypes for the same inputs."""
    models.keeps_the_interface(loaded)


def check_adapter_starts_at_the_model(loaded: LoadedPaper) -> None:
    """Before training the outputs are those of the model, bit for bit."""
    if "compressor" in loaded.paper.kinds:
        raise unittest.SkipTest("a compressor as well, whose outputs may change")
    before, after = _flat(loaded, models.model_of(loaded)), _flat(loaded, models.made(loaded))
    assert models.equal(before, after), "the outputs differ before training; start the increment at exactly zero"


def check_adapter_trains_few_parameters(loaded: LoadedPaper) -> None:
    """Something is trained, fewer numbers than the model has, and none of its own matrices."""
    model = models.model_of(loaded)
    trained = [p for p in models.made(loaded).parameters() if p.requires_grad]
    count, total = sum(p.numel() for p in trained), sum(p.numel() for p in model.parameters())
    assert 0 < count < total, f"{count:,} numbers train, of a model of {total:,}; train the adapters alone"
    own = [name for name, p in model.named_parameters() if p.dim() > 1 and any(_same(p, other) for other in trained)]
    assert not own, f"{', '.join(own)} of the model trains; freeze it by requires_grad_(False)"


def check_adapter_learns(loaded: LoadedPaper) -> None:
    """Each trainable parameter gets a gradient, a few steps of Adam lower a loss, and nothing that is frozen moves."""
    result = models.made(loaded)
    frozen = {name: p.detach().clone() for name, p in result.named_parameters() if not p.requires_grad}
    losses = _train(loaded, result)
    missed = [name for name, p in result.named_parameters() if p.requires_grad and p.grad is None]
    assert not missed, f"no gradient reaches {', '.join(missed)}"
    moved = [name for name, p in result.named_parameters() if name in frozen and not torch.equal(p, frozen[name])]
    assert not moved, f"training moves {', '.join(moved)}, which is frozen"
    assert losses[-1] < losses[0], f"{STEPS} steps of Adam take the loss from {losses[0]:g} to {losses[-1]:g}"


def check_adapter_keeps_dtype_and_device(loaded: LoadedPaper) -> None:
    """A bfloat16 model gives one that computes in bfloat16, and can be trained."""
    model = models.model_of(loaded).to(torch.bfloat16)
    result: list[nn.Module] = []
    error = error_of(lambda: result.append(models.made_of(loaded, model, dtype=torch.bfloat16)))
    assert error is None, f"a bfloat16 model fails: {error!r}; cast inputs to the adapter's dtype, and its outputs back"
    error = error_of(lambda: _train(loaded, result[0], torch.bfloat16, steps=1))
    assert error is None, f"a bfloat16 model does not train: {error!r}; cast inputs to the adapter's dtype and back"
    outputs = models.outputs_of(loaded, result[0], torch.bfloat16)
    dtypes = {t.dtype for t in outputs if t.is_floating_point()}
    assert dtypes <= {torch.bfloat16}, f"a bfloat16 model with adapters gives outputs in {dtypes}"


def check_adapter_survives_its_state_dict(loaded: LoadedPaper) -> None:
    """Saved as safetensors and loaded into a copy with all tensors overwritten, a trained one computes the same."""
    models.survives_its_state_dict(loaded, lambda model: _trained(loaded, model))


def check_adapter_is_copied_whole(loaded: LoadedPaper) -> None:
    """What is done to a deep copy does not reach the model, and the copy follows its own parameters."""
    result = _trained(loaded, models.made(loaded))
    before = models.outputs_of(loaded, result)
    twin = _trained(loaded, copy.deepcopy(result))
    good = models.equal(before, models.outputs_of(loaded, result)) and not models.equal(
        before, models.outputs_of(loaded, twin)
    )
    assert good, "a deep copy computes with the parameters it was copied from; keep them as attributes of its modules"


def check_adapter_keeps_the_mode(loaded: LoadedPaper) -> None:
    """Each module that is still there trains or evaluates as before."""
    models.keeps_the_mode(loaded)


def check_adapter_keeps_global_state(loaded: LoadedPaper) -> None:
    """Nothing global changes: no generator, dtype, thread count or gradient mode."""
    models.keeps_global_state(loaded)


def check_adapter_is_deterministic(loaded: LoadedPaper) -> None:
    """The same model gives the same adapters, whatever torch's global generator has drawn before."""
    results = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            results.append([p.detach().clone() for p in models.made(loaded).parameters() if p.requires_grad])
    assert models.equal(*results), "two calls start at different adapters; take a seed, and no global generator"


def check_adapter_keeps_its_input(loaded: LoadedPaper) -> None:
    """The model that is passed in is left as it was, unless it is the very one that comes back, as documented.

    An adapter that works in place returns its argument, and has the words "in place" in its docstring; or it has an
    option ``inplace``, which is false.
    """
    models.keeps_its_input(loaded)


def check_adapter_leaves_no_hooks(loaded: LoadedPaper) -> None:
    """Neither the model nor the result has a hook that was not there."""
    models.leaves_no_hooks(loaded)


def check_adapter_names_unknown_layers(loaded: LoadedPaper) -> None:
    """Patterns that match no layer raise a ValueError which lists layers that there are; they never do nothing."""
    models.names_unknown_layers(loaded)


def check_adapter_refuses_impossible_ranks(loaded: LoadedPaper) -> None:
    """A rank that is none raises a ValueError or TypeError that names the option."""
    models.refuses(loaded, {"rank": (0, -1, 1.5), "target_rank": (0, -1, 1.5)})


def check_adapter_refuses_weights_without_numbers(loaded: LoadedPaper) -> None:
    """A model on the meta device raises a ValueError that says so."""
    models.refuses_weights_without_numbers(loaded)


def check_adapter_on_cuda(loaded: LoadedPaper) -> None:
    """On a GPU the result stays there and trains."""
    if not torch.cuda.is_available():
        raise unittest.SkipTest("no CUDA device")
    result = models.made_of(loaded, models.model_of(loaded).cuda(), device="cuda")
    elsewhere = [name for name, tensor in result.state_dict().items() if not tensor.is_cuda]
    assert not elsewhere, f"a model on CUDA comes back with {', '.join(elsewhere)} elsewhere"
    error = error_of(lambda: _train(loaded, result, device="cuda"))
    assert error is None, f"on CUDA the adapter does not train: {error!r}"


def _flat(loaded: LoadedPaper, model: nn.Module) -> list[Tensor]:
    """Outputs without their shapes and dtypes, of which another check speaks."""
    return [output.flatten().double() for output in models.outputs_of(loaded, model)]


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def _train(
    loaded: LoadedPaper, model: nn.Module, dtype: torch.dtype = torch.float32, device: str = "cpu", steps: int = STEPS
) -> list[float]:
    """Take the outputs of the example inputs towards zero; the losses before each step, and gradients of the last."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with evaluating(model):
            loss = torch.stack([t.double().square().mean() for t in _floating(loaded, model, dtype, device)]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def _trained(loaded: LoadedPaper, model: nn.Module) -> nn.Module:
    _train(loaded, model)
    return model


def _floating(loaded: LoadedPaper, model: nn.Module, dtype: torch.dtype, device: str) -> Iterator[Tensor]:
    yield from (t for t in models.called(loaded, model, dtype, device) if t.is_floating_point())
