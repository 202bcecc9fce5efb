"""Checks of compressors: what anybody relies on who puts a published one on a model of his own.

A compressor is called as ``method(model, remaining=..., calibration=...)``, as far as its signature has these names
(:class:`porism.kinds.protocols.Compressor`). What the checks call it with can be given in the paper's file, each by a
function of a generator: ``example_model(rng)``, ``example_inputs(rng)`` (what that model is called with),
``example_calibration(rng)`` (a list of batches) and ``example_options(rng)`` (further keyword arguments by name).
"""

from __future__ import annotations

import copy
import functools
import math
import unittest
from typing import Any

import torch
from torch import Tensor, nn

from porism.kinds import models
from porism.registry import LoadedPaper
from porism.surgery import is_linear
from porism.testing.replicates import error_of


def check_compressor_keeps_the_interface(loaded: LoadedPaper) -> None:
    """The result is a module that gives finite outputs of the same shapes and dtypes for the same inputs."""
    models.keeps_the_interface(loaded)


def check_compressor_meets_its_budget(loaded: LoadedPaper) -> None:
    """Of the weights of linear layers ``remaining`` stays, up to one weight a matrix, and not far less.

    Without ``remaining``, the tensors that the result keeps take fewer bytes than the model's.
    """
    model = models.model_of(loaded)
    if not models.takes(loaded, "remaining"):
        before, after = _bytes(model), _bytes(models.made(loaded))
        assert after < before, f"the compressed model's state takes {after:,} bytes, the model's {before:,}"
        return
    linear: list[Any] = [module for module in model.modules() if is_linear(module)]
    weights = sum(_nonzero(module.weight) for module in linear)
    others = _nonzeros(model) - weights
    for remaining in (models.REMAINING, 0.3):
        kept, allowed = _nonzeros(models.made(loaded, remaining=remaining)) - others, remaining * weights + len(linear)
        assert kept <= allowed, f"remaining={remaining} leaves {kept:,} of {weights:,} weights, more than asked for"
        assert kept >= allowed / 2, f"remaining={remaining} leaves {kept:,} of {weights:,} weights, far fewer than that"


def check_compressor_at_full_budget_changes_nothing(loaded: LoadedPaper) -> None:
    """With ``remaining=1`` the outputs are those of the model, bit for bit."""
    models.needs(loaded, "remaining")
    before, after = (
        models.outputs_of(loaded, models.model_of(loaded)),
        models.outputs_of(loaded, models.made(loaded, remaining=1.0)),
    )
    assert models.equal(before, after), "remaining=1.0 changes the outputs; return the model as it is"


def check_compressor_twice_is_no_more(loaded: LoadedPaper) -> None:
    """Compressing what was compressed is refused with a ValueError, or keeps as many weights as before."""
    models.needs(loaded, "remaining")
    once = models.made(loaded)
    count = _nonzeros(once)
    try:
        twice = models.made_of(loaded, once)
    except ValueError:
        return
    kept = _nonzeros(twice)
    slack = sum(1 for module in once.modules() if is_linear(module))
    assert kept >= count - slack, (
        f"a second call leaves {kept:,} of the {count:,} numbers of the first; "
        "count remaining= from the original size, or refuse"
    )


def check_compressor_keeps_dtype_and_device(loaded: LoadedPaper) -> None:
    """A bfloat16 model gives one that computes in bfloat16, with its parameters in that dtype and where they were."""
    model = models.model_of(loaded).to(torch.bfloat16)
    error = error_of(lambda: models.made_of(loaded, copy.deepcopy(model), dtype=torch.bfloat16))
    assert error is None, f"a bfloat16 model fails: {error!r}; compute in float32 inside and cast back"
    compressed = models.made_of(loaded, model, dtype=torch.bfloat16)
    other = {
        n: p.dtype for n, p in compressed.named_parameters() if p.is_floating_point() and p.dtype != torch.bfloat16
    }
    assert not other, f"parameters of a bfloat16 model come back as {other}; cast them back"
    outputs = models.outputs_of(loaded, compressed, torch.bfloat16)
    dtypes = {t.dtype for t in outputs if t.is_floating_point()}
    assert dtypes <= {torch.bfloat16}, f"a bfloat16 model compressed gives outputs in {dtypes}"


def check_compressor_survives_its_state_dict(loaded: LoadedPaper) -> None:
    """Saved as safetensors and loaded into a copy whose tensors were all overwritten, the result computes the same."""
    models.survives_its_state_dict(loaded)


def check_compressor_keeps_the_mode(loaded: LoadedPaper) -> None:
    """Each module that is still there trains or evaluates as before."""
    models.keeps_the_mode(loaded)


def check_compressor_keeps_global_state(loaded: LoadedPaper) -> None:
    """Nothing global changes: no generator, dtype, thread count or gradient mode."""
    models.keeps_global_state(loaded)


def check_compressor_is_deterministic(loaded: LoadedPaper) -> None:
    """The same model and calibration give the same bits, whatever torch's global generator has drawn before."""
    results = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            results.append(models.outputs_of(loaded, models.made(loaded)))
    assert models.equal(*results), "two calls give models that compute differently; take a seed, no global generator"


def check_compressor_keeps_its_input(loaded: LoadedPaper) -> None:
    """The model that is passed in is left as it was, unless it is the very one that comes back, as documented.

    A compressor that works in place returns its argument, and has the words "in place" in its docstring; or it has an
    option ``inplace``, which is false.
    """
    models.keeps_its_input(loaded)


def check_compressor_leaves_no_hooks(loaded: LoadedPaper) -> None:
    """Neither the model nor the result has a hook that was not there, also after a calibration that failed."""
    models.leaves_no_hooks(loaded)


def check_compressor_names_unknown_layers(loaded: LoadedPaper) -> None:
    """Patterns that match no layer raise a ValueError which lists layers that there are; they never do nothing."""
    models.names_unknown_layers(loaded)


def check_compressor_refuses_impossible_budgets(loaded: LoadedPaper) -> None:
    """A budget out of its range raises a ValueError or TypeError that names it."""
    models.refuses(
        loaded,
        {
            "remaining": (0.0, -0.1, 1.5, math.nan, math.inf, "much"),
            "bits": (0, -1, 1.5, 99),
            "rank": (0, -1, 1.5),
        },
    )


def check_compressor_refuses_bad_calibration(loaded: LoadedPaper) -> None:
    """No batch, or numbers in one that are not finite, raise a ValueError that speaks of calibration."""
    models.needs(loaded, "calibration")
    for what, calibration in {
        "empty": [],
        "NaN": [models.mapped(torch.full_like, b, math.nan) for b in models.calibration_of(loaded)],
    }.items():
        if what == "NaN" and not any(t.is_floating_point() for batch in calibration for t in models.tensors_in(batch)):
            continue
        error = error_of(functools.partial(models.made_of, loaded, models.model_of(loaded), calibration=calibration))
        assert isinstance(error, ValueError) and "calibration" in str(error), (
            f"calibration that is {what} gives {error!r}; raise porism.errors.ParameterError saying so"
        )


def check_compressor_refuses_weights_without_numbers(loaded: LoadedPaper) -> None:
    """A model on the meta device raises a ValueError that says so."""
    models.refuses_weights_without_numbers(loaded)


def check_compressor_on_cuda(loaded: LoadedPaper) -> None:
    """On a GPU the result stays there and gives finite outputs."""
    if not torch.cuda.is_available():
        raise unittest.SkipTest("no CUDA device")
    error = error_of(lambda: models.made_of(loaded, models.model_of(loaded).cuda(), device="cuda"))
    assert error is None, f"on CUDA the compressor fails: {error!r}; make new tensors on the device of the weights"
    compressed = models.made_of(loaded, models.model_of(loaded).cuda(), device="cuda")
    elsewhere = [name for name, tensor in compressed.state_dict().items() if not tensor.is_cuda]
    assert not elsewhere, f"a model on CUDA comes back with {', '.join(elsewhere)} elsewhere"
    outputs = models.outputs_of(loaded, compressed, device="cuda")
    assert all(t.is_cuda and bool(t.isfinite().all()) for t in outputs), "outputs on CUDA are elsewhere or not finite"


def _nonzero(tensor: Tensor) -> int:
    return int(torch.count_nonzero(tensor))


def _nonzeros(model: nn.Module) -> int:
    """Numbers other than 0 in matrices, each tensor once; biases are too few to count."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers()) if t.dim() > 1}
    return sum(_nonzero(tensor) for tensor in tensors.values())


def _bytes(model: nn.Module) -> int:
    tensors = {t.untyped_storage().data_ptr(): t for t in model.state_dict().values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())
