"""Checks of compressors: what anybody relies on who puts a published one on a model of his own.

A compressor is called as ``method(model, remaining=..., calibration=...)``, as far as its signature has these names
(:class:`porism.kinds.protocols.Compressor`). What the checks call it with can be given in the paper's file, each by a
function of a generator: ``example_model(rng)``, ``example_inputs(rng)`` (what that model is called with),
``example_calibration(rng)`` (a list of batches) and ``example_options(rng)`` (further keyword arguments by name).
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import unittest
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from porism.registry import LoadedPaper, method
from porism.seeds import ROOT, generator
from porism.surgery import call, evaluating, is_linear
from porism.testing.replicates import error_of
from porism.testing.state import preserved

# The example model of files that have none: two layers of these widths.
WIDTHS = (16, 32, 8)
# The share that the checks ask for.
REMAINING = 0.5


def check_compressor_keeps_the_interface(loaded: LoadedPaper) -> None:
    """The result is a module that gives finite outputs of the same shapes and dtypes for the same inputs."""
    compressed = _compressed(loaded)
    assert isinstance(compressed, nn.Module), f"a compressor returns a torch.nn.Module, got {type(compressed).__name__}"
    before, after = _outputs(loaded, _model(loaded)), _outputs(loaded, compressed)
    shapes = [[(tuple(t.shape), t.dtype) for t in outputs] for outputs in (before, after)]
    assert shapes[0] == shapes[1], f"for the same inputs the outputs were {shapes[0]} and are {shapes[1]}"
    assert all(bool(t.isfinite().all()) for t in after), "outputs of the compressed model are not finite"


def check_compressor_meets_its_budget(loaded: LoadedPaper) -> None:
    """Of the weights of linear layers ``remaining`` stays, up to one weight a matrix, and not far less.

    Without ``remaining``, the tensors that the result keeps take fewer bytes than the model's.
    """
    model = _model(loaded)
    if not _takes(loaded, "remaining"):
        before, after = _bytes(model), _bytes(_compressed(loaded))
        assert after < before, f"the compressed model's state takes {after:,} bytes, the model's {before:,}"
        return
    linear: list[Any] = [module for module in model.modules() if is_linear(module)]
    weights = sum(_nonzero(module.weight) for module in linear)
    others = _nonzeros(model) - weights
    for remaining in (REMAINING, 0.3):
        kept, allowed = _nonzeros(_compressed(loaded, remaining=remaining)) - others, remaining * weights + len(linear)
        assert kept <= allowed, f"remaining={remaining} leaves {kept:,} of {weights:,} weights, more than asked for"
        assert kept >= allowed / 2, f"remaining={remaining} leaves {kept:,} of {weights:,} weights, far fewer than that"


def check_compressor_at_full_budget_changes_nothing(loaded: LoadedPaper) -> None:
    """With ``remaining=1`` the outputs are those of the model, bit for bit."""
    _needs(loaded, "remaining")
    before, after = _outputs(loaded, _model(loaded)), _outputs(loaded, _compressed(loaded, remaining=1.0))
    assert _equal(before, after), "remaining=1.0 changes the outputs; return the model as it is"


def check_compressor_twice_is_no_more(loaded: LoadedPaper) -> None:
    """Compressing what was compressed is refused with a ValueError, or keeps as many weights as before."""
    _needs(loaded, "remaining")
    once = _compressed(loaded)
    count = _nonzeros(once)
    try:
        twice = _call(loaded, once)
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
    model = _model(loaded).to(torch.bfloat16)
    error = error_of(lambda: _call(loaded, copy.deepcopy(model), dtype=torch.bfloat16))
    assert error is None, f"a bfloat16 model fails: {error!r}; compute in float32 inside and cast back"
    compressed = _call(loaded, model, dtype=torch.bfloat16)
    other = {
        n: p.dtype for n, p in compressed.named_parameters() if p.is_floating_point() and p.dtype != torch.bfloat16
    }
    assert not other, f"parameters of a bfloat16 model come back as {other}; cast them back"
    outputs = _outputs(loaded, compressed, torch.bfloat16)
    dtypes = {t.dtype for t in outputs if t.is_floating_point()}
    assert dtypes <= {torch.bfloat16}, f"a bfloat16 model compressed gives outputs in {dtypes}"


def check_compressor_survives_its_state_dict(loaded: LoadedPaper) -> None:
    """Saved as safetensors and loaded into a copy whose tensors were all overwritten, the result computes the same."""
    from safetensors.torch import load, save

    compressed = _compressed(loaded)
    expected = _outputs(loaded, compressed)
    saved: list[bytes] = []
    error = error_of(lambda: saved.append(save(dict(compressed.state_dict()))))
    assert error is None, f"the state_dict is not saved as safetensors: {error}; make tensors contiguous and separate"
    overwritten = copy.deepcopy(compressed)
    _overwrite(overwritten)
    error = error_of(lambda: overwritten.load_state_dict(load(saved[0])))
    assert error is None, f"the result does not load its own state_dict: {error}"
    assert _equal(expected, _outputs(loaded, overwritten)), (
        "the state_dict misses what the outputs depend on; register tensors as nn.Parameter or with register_buffer"
    )


def check_compressor_keeps_the_mode(loaded: LoadedPaper) -> None:
    """Each module that is still there trains or evaluates as before."""
    for training in (True, False):
        model = _model(loaded).train(training)
        modes = {name: not training if number % 2 else training for number, name in enumerate(_leaves(model))}
        for name, mode in modes.items():
            model.get_submodule(name).train(mode)
        after = {name: module.training for name, module in _call(loaded, model).named_modules()}
        changed = [name for name, mode in modes.items() if after.get(name, mode) != mode]
        assert not changed, f"{', '.join(changed)} trained before and evaluates now, or the other way round"


def check_compressor_keeps_global_state(loaded: LoadedPaper) -> None:
    """Nothing global changes: no generator, dtype, thread count or gradient mode."""
    _compressed(loaded)  # libraries may be imported now, and some of them draw numbers then
    with preserved() as changed:
        _compressed(loaded)
    assert not changed, f"compressing changes {', '.join(changed)}; draw from a torch.Generator, and undo what you set"


def check_compressor_is_deterministic(loaded: LoadedPaper) -> None:
    """The same model and calibration give the same bits, whatever torch's global generator has drawn before."""
    results = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            results.append(_outputs(loaded, _compressed(loaded)))
    assert _equal(*results), "two calls give models that compute differently; take a seed, and no global generator"


def check_compressor_keeps_its_input(loaded: LoadedPaper) -> None:
    """The model that is passed in is left as it was, unless it is the very one that comes back, as documented.

    A compressor that works in place returns its argument, and has the words "in place" in its docstring; or it has an
    option ``inplace``, which is false.
    """
    model = _model(loaded)
    before = _snapshot(model)
    result = _call(loaded, model)
    if result is model:
        says_so = "in place" in " ".join((method(loaded).__doc__ or "").split()).lower()
        assert says_so and not _takes(loaded, "inplace"), (
            "the model is changed in place; work on copy.deepcopy(model) unless inplace=True, or say so there"
        )
        return
    after = _snapshot(model)
    assert before[0] == after[0], "the model that was passed in has other modules now; work on copy.deepcopy(model)"
    changed = [name for name, tensor in before[1].items() if not torch.equal(tensor, after[1][name])]
    assert not changed, f"{', '.join(changed)} of the model that was passed in changed; work on copy.deepcopy(model)"
    assert before[2] == after[2], "parameters of the model that was passed in are frozen or unfrozen, or have gradients"


def check_compressor_leaves_no_hooks(loaded: LoadedPaper) -> None:
    """Neither the model nor the result has a hook that was not there, also after a calibration that failed."""
    model = _model(loaded)
    result = _call(loaded, model)
    assert not _hooks(model) and not _hooks(result), f"hooks are left on {', '.join(_hooks(model) or _hooks(result))}"
    if _takes(loaded, "calibration"):
        model = _model(loaded)
        error_of(lambda: _call(loaded, model, calibration=[object()]))
        assert not _hooks(model), f"after a calibration that failed hooks are left on {', '.join(_hooks(model))}"


def check_compressor_names_unknown_layers(loaded: LoadedPaper) -> None:
    """Patterns that match no layer raise a ValueError which lists layers that there are; they never do nothing."""
    _needs(loaded, "include")
    error = error_of(lambda: _call(loaded, _model(loaded), include=["no_such_layer"]))
    names = [name for name in _leaves(_model(loaded)) if is_linear(_model(loaded).get_submodule(name))]
    good = isinstance(error, ValueError) and any(name in str(error) for name in names)
    assert good, f"include=['no_such_layer'] gives {error!r}; raise porism.errors.ParameterError listing what there is"


def check_compressor_refuses_impossible_budgets(loaded: LoadedPaper) -> None:
    """A budget out of its range raises a ValueError or TypeError that names it."""
    impossible: Mapping[str, tuple[Any, ...]] = {
        "remaining": (0.0, -0.1, 1.5, math.nan, math.inf, "much"),
        "bits": (0, -1, 1.5, 99),
        "rank": (0, -1, 1.5),
    }
    asked = [name for name in impossible if _takes(loaded, name)]
    if not asked:
        raise unittest.SkipTest(f"the method has none of {', '.join(impossible)}")
    for name in asked:
        for value in impossible[name]:
            error = error_of(functools.partial(_call, loaded, _model(loaded), **{name: value}))
            assert isinstance(error, (ValueError, TypeError)) and name in str(error), (
                f"{name}={value!r} gives {error!r}; raise porism.errors.ParameterError naming {name} and its range"
            )


def check_compressor_refuses_bad_calibration(loaded: LoadedPaper) -> None:
    """No batch, or numbers in one that are not finite, raise a ValueError that speaks of calibration."""
    _needs(loaded, "calibration")
    for what, calibration in {
        "empty": [],
        "NaN": [_map(torch.full_like, b, math.nan) for b in _calibration(loaded)],
    }.items():
        if what == "NaN" and not any(t.is_floating_point() for batch in calibration for t in _tensors(batch)):
            continue
        error = error_of(functools.partial(_call, loaded, _model(loaded), calibration=calibration))
        assert isinstance(error, ValueError) and "calibration" in str(error), (
            f"calibration that is {what} gives {error!r}; raise porism.errors.ParameterError saying so"
        )


def check_compressor_refuses_weights_without_numbers(loaded: LoadedPaper) -> None:
    """A model on the meta device raises a ValueError that says so."""
    error = error_of(lambda: _call(loaded, _model(loaded).to("meta")))
    assert isinstance(error, ValueError) and "meta" in str(error), (
        f"a model on the meta device gives {error!r}; take the layers of porism.surgery.linear_layers, which refuses it"
    )


def check_compressor_on_cuda(loaded: LoadedPaper) -> None:
    """On a GPU the result stays there and gives finite outputs."""
    if not torch.cuda.is_available():
        raise unittest.SkipTest("no CUDA device")
    error = error_of(lambda: _call(loaded, _model(loaded).cuda(), device="cuda"))
    assert error is None, f"on CUDA the compressor fails: {error!r}; make new tensors on the device of the weights"
    compressed = _call(loaded, _model(loaded).cuda(), device="cuda")
    elsewhere = [name for name, tensor in compressed.state_dict().items() if not tensor.is_cuda]
    assert not elsewhere, f"a model on CUDA comes back with {', '.join(elsewhere)} elsewhere"
    outputs = _outputs(loaded, compressed, device="cuda")
    assert all(t.is_cuda and bool(t.isfinite().all()) for t in outputs), "outputs on CUDA are elsewhere or not finite"


def _example(loaded: LoadedPaper, name: str, default: Callable[[Any], Any]) -> Any:
    """What the paper's file gives as an example, or the default, of a generator named after it."""
    return getattr(loaded.module, f"example_{name}", default)(generator(ROOT, loaded.paper.key, "compressor", name))


def _model(loaded: LoadedPaper) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = _example(loaded, "model", lambda rng: _two_layers())
    return model


def _two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(*WIDTHS[:2]), nn.ReLU(), nn.Linear(*WIDTHS[1:]))


def _calibration(loaded: LoadedPaper) -> list[Any]:
    return list(_example(loaded, "calibration", lambda rng: [_rows(rng), _rows(rng)]))


def _rows(rng: Any) -> Tensor:
    return torch.from_numpy(rng.normal(size=(4, WIDTHS[0]))).float()


def _compressed(loaded: LoadedPaper, **options: Any) -> nn.Module:
    return _call(loaded, _model(loaded), **options)


def _call(
    loaded: LoadedPaper, model: nn.Module, *, dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any
) -> nn.Module:
    """The method on a model, with the examples for what the options do not say."""
    given: dict[str, Any] = dict(_example(loaded, "options", lambda rng: {}))
    if _takes(loaded, "remaining"):
        given["remaining"] = REMAINING
    if _takes(loaded, "calibration"):
        given["calibration"] = [_moved(batch, dtype, device) for batch in _calibration(loaded)]
    compress: Any = method(loaded)
    result: nn.Module = compress(model, **given | options)
    return result


def _takes(loaded: LoadedPaper, name: str) -> bool:
    return name in inspect.signature(method(loaded)).parameters  # type: ignore[arg-type]


def _needs(loaded: LoadedPaper, name: str) -> None:
    if not _takes(loaded, name):
        raise unittest.SkipTest(f"the method has no option {name}")


@torch.no_grad()
def _outputs(
    loaded: LoadedPaper, model: nn.Module, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Tensor]:
    inputs = _moved(_example(loaded, "inputs", _rows), dtype, device)
    with evaluating(model):
        return list(_tensors(call(model, inputs)))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a batch or an output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _map(function: Callable[..., Tensor], batch: Any, *arguments: Any) -> Any:
    """A batch with a function applied to its floating tensors."""
    if isinstance(batch, Mapping):
        return {name: _map(function, item, *arguments) for name, item in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_map(function, item, *arguments) for item in batch)
    return function(batch, *arguments) if isinstance(batch, Tensor) and batch.is_floating_point() else batch


def _moved(batch: Any, dtype: torch.dtype, device: str) -> Any:
    if isinstance(batch, Mapping):
        return {name: _moved(item, dtype, device) for name, item in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_moved(item, dtype, device) for item in batch)
    return batch.to(device, dtype if batch.is_floating_point() else None) if isinstance(batch, Tensor) else batch


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def _nonzero(tensor: Tensor) -> int:
    return int(torch.count_nonzero(tensor))


def _nonzeros(model: nn.Module) -> int:
    """Numbers other than 0 in matrices, each tensor once; biases are too few to count."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers()) if t.dim() > 1}
    return sum(_nonzero(tensor) for tensor in tensors.values())


def _bytes(model: nn.Module) -> int:
    tensors = {t.untyped_storage().data_ptr(): t for t in model.state_dict().values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


@torch.no_grad()
def _overwrite(model: nn.Module) -> None:
    """Zero every tensor that modules hold, registered or not."""
    for module in model.modules():
        plain = [value for value in vars(module).values() if isinstance(value, Tensor)]
        for tensor in (*module._parameters.values(), *module._buffers.values(), *plain):
            if tensor is not None:
                tensor.zero_()


def _leaves(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if name and not list(module.children())]


def _hooks(model: nn.Module) -> list[str]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [name or "the model" for name, m in model.named_modules() if any(getattr(m, kind) for kind in kinds)]


def _snapshot(model: nn.Module) -> tuple[list[Any], dict[str, Tensor], list[Any]]:
    """Modules by name and type, tensors, and what is trained."""
    modules = [(name, type(module)) for name, module in model.named_modules()]
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return modules, tensors, [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
