"""What the checks of compressors and of adapters share: both take any torch module and return one.

The method is called as ``method(model, ...)``. What it is called with can be given in the paper's file, each by a
function of a generator: ``example_model(rng)``, ``example_inputs(rng)`` (what that model is called with),
``example_calibration(rng)`` (a list of batches) and ``example_options(rng)`` (further keyword arguments by name).
"""

from __future__ import annotations

import copy
import functools
import inspect
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


def keeps_the_interface(loaded: LoadedPaper) -> None:
    """The result is a module that gives finite outputs of the same shapes and dtypes for the same inputs."""
    result = made(loaded)
    assert isinstance(result, nn.Module), f"the method returns a torch.nn.Module, got {type(result).__name__}"
    before, after = outputs_of(loaded, model_of(loaded)), outputs_of(loaded, result)
    shapes = [[(tuple(t.shape), t.dtype) for t in outputs] for outputs in (before, after)]
    assert shapes[0] == shapes[1], f"for the same inputs the outputs were {shapes[0]} and are {shapes[1]}"
    assert all(bool(t.isfinite().all()) for t in after), "outputs of the result are not finite"


def survives_its_state_dict(
    loaded: LoadedPaper, prepare: Callable[[nn.Module], nn.Module] = lambda model: model
) -> None:
    """Saved as safetensors and loaded into a copy whose tensors were all overwritten, the result computes the same."""
    from safetensors.torch import load, save

    result = prepare(made(loaded))
    expected = outputs_of(loaded, result)
    saved: list[bytes] = []
    error = error_of(lambda: saved.append(save(dict(result.state_dict()))))
    assert error is None, f"the state_dict is not saved as safetensors: {error}; make tensors contiguous and separate"
    overwritten = copy.deepcopy(result)
    _overwrite(overwritten)
    error = error_of(lambda: overwritten.load_state_dict(load(saved[0])))
    assert error is None, f"the result does not load its own state_dict: {error}"
    assert equal(expected, outputs_of(loaded, overwritten)), (
        "the state_dict misses what the outputs depend on; register tensors as nn.Parameter or with register_buffer"
    )


def keeps_the_mode(loaded: LoadedPaper) -> None:
    """Each module that is still there trains or evaluates as before."""
    for training in (True, False):
        model = model_of(loaded).train(training)
        modes = {name: not training if number % 2 else training for number, name in enumerate(leaves(model))}
        for name, mode in modes.items():
            model.get_submodule(name).train(mode)
        after = {name: module.training for name, module in made_of(loaded, model).named_modules()}
        changed = [name for name, mode in modes.items() if after.get(name, mode) != mode]
        assert not changed, f"{', '.join(changed)} trained before and evaluates now, or the other way round"


def keeps_global_state(loaded: LoadedPaper) -> None:
    """Nothing global changes: no generator, dtype, thread count or gradient mode."""
    made(loaded)  # libraries may be imported now, and some of them draw numbers then
    with preserved() as changed:
        made(loaded)
    assert not changed, f"the call changes {', '.join(changed)}; draw from a torch.Generator, and undo what you set"


def keeps_its_input(loaded: LoadedPaper) -> None:
    """The model that is passed in is left as it was, unless it is the very one that comes back, as documented.

    One that works in place returns its argument, and has the words "in place" in its docstring; or it has an
    option ``inplace``, which is false.
    """
    model = model_of(loaded)
    before = _snapshot(model)
    result = made_of(loaded, model)
    if result is model:
        says_so = "in place" in " ".join((method(loaded).__doc__ or "").split()).lower()
        assert says_so and not takes(loaded, "inplace"), (
            "the model is changed in place; work on copy.deepcopy(model) unless inplace=True, or say so there"
        )
        return
    after = _snapshot(model)
    assert before[0] == after[0], "the model that was passed in has other modules now; work on copy.deepcopy(model)"
    changed = [name for name, tensor in before[1].items() if not torch.equal(tensor, after[1][name])]
    assert not changed, f"{', '.join(changed)} of the model that was passed in changed; work on copy.deepcopy(model)"
    assert before[2] == after[2], "parameters of the model that was passed in are frozen or unfrozen, or have gradients"


def leaves_no_hooks(loaded: LoadedPaper) -> None:
    """Neither the model nor the result has a hook that was not there, also after a calibration that failed."""
    model = model_of(loaded)
    result = made_of(loaded, model)
    assert not _hooks(model) and not _hooks(result), f"hooks are left on {', '.join(_hooks(model) or _hooks(result))}"
    if takes(loaded, "calibration"):
        model = model_of(loaded)
        error_of(lambda: made_of(loaded, model, calibration=[object()]))
        assert not _hooks(model), f"after a calibration that failed hooks are left on {', '.join(_hooks(model))}"


def names_unknown_layers(loaded: LoadedPaper) -> None:
    """Patterns that match no layer raise a ValueError which lists layers that there are; they never do nothing."""
    needs(loaded, "include")
    error = error_of(lambda: made_of(loaded, model_of(loaded), include=["no_such_layer"]))
    names = [name for name in leaves(model_of(loaded)) if is_linear(model_of(loaded).get_submodule(name))]
    good = isinstance(error, ValueError) and any(name in str(error) for name in names)
    assert good, f"include=['no_such_layer'] gives {error!r}; raise porism.errors.ParameterError listing what there is"


def refuses_weights_without_numbers(loaded: LoadedPaper) -> None:
    """A model on the meta device raises a ValueError that says so."""
    error = error_of(lambda: made_of(loaded, model_of(loaded).to("meta")))
    assert isinstance(error, ValueError) and "meta" in str(error), (
        f"a model on the meta device gives {error!r}; take the layers of porism.surgery.linear_layers, which refuses it"
    )


def refuses(loaded: LoadedPaper, impossible: Mapping[str, tuple[Any, ...]]) -> None:
    """Each of these values raises a ValueError or TypeError that names its option."""
    asked = [name for name in impossible if takes(loaded, name)]
    if not asked:
        raise unittest.SkipTest(f"the method has none of {', '.join(impossible)}")
    for name in asked:
        for value in impossible[name]:
            error = error_of(functools.partial(made_of, loaded, model_of(loaded), **{name: value}))
            assert isinstance(error, (ValueError, TypeError)) and name in str(error), (
                f"{name}={value!r} gives {error!r}; raise porism.errors.ParameterError naming {name} and its range"
            )


def example(loaded: LoadedPaper, name: str, default: Callable[[Any], Any]) -> Any:
    """What the paper's file gives as an example, or the default, of a generator named after it."""
    return getattr(loaded.module, f"example_{name}", default)(generator(ROOT, loaded.paper.key, "model", name))


def model_of(loaded: LoadedPaper) -> nn.Module:
    """The example model, the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = example(loaded, "model", lambda rng: _two_layers())
    return model


def _two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(*WIDTHS[:2]), nn.ReLU(), nn.Linear(*WIDTHS[1:]))


def calibration_of(loaded: LoadedPaper) -> list[Any]:
    """The example batches."""
    return list(example(loaded, "calibration", lambda rng: [_rows(rng), _rows(rng)]))


def _rows(rng: Any) -> Tensor:
    return torch.from_numpy(rng.normal(size=(4, WIDTHS[0]))).float()


def made(loaded: LoadedPaper, **options: Any) -> nn.Module:
    """The method on the example model."""
    return made_of(loaded, model_of(loaded), **options)


def made_of(
    loaded: LoadedPaper, model: nn.Module, *, dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any
) -> nn.Module:
    """The method on a model, with the examples for what the options do not say."""
    given: dict[str, Any] = dict(example(loaded, "options", lambda rng: {}))
    if takes(loaded, "remaining"):
        given["remaining"] = REMAINING
    if takes(loaded, "calibration"):
        given["calibration"] = [moved(batch, dtype, device) for batch in calibration_of(loaded)]
    compress: Any = method(loaded)
    result: nn.Module = compress(model, **given | options)
    return result


def takes(loaded: LoadedPaper, name: str) -> bool:
    """Whether the method has an option of this name."""
    return name in inspect.signature(method(loaded)).parameters  # type: ignore[arg-type]


def needs(loaded: LoadedPaper, name: str) -> None:
    """Skip the check if it has not."""
    if not takes(loaded, name):
        raise unittest.SkipTest(f"the method has no option {name}")


@torch.no_grad()
def outputs_of(
    loaded: LoadedPaper, model: nn.Module, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Tensor]:
    """The tensors that a model returns for the example inputs, in evaluation mode."""
    with evaluating(model):
        return called(loaded, model, dtype, device)


def called(loaded: LoadedPaper, model: nn.Module, dtype: torch.dtype, device: str) -> list[Tensor]:
    """The tensors that a model returns for the example inputs, with a gradient."""
    return list(tensors_in(call(model, moved(example(loaded, "inputs", _rows), dtype, device))))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a batch or an output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def mapped(function: Callable[..., Tensor], batch: Any, *arguments: Any) -> Any:
    """A batch with a function applied to its floating tensors."""
    if isinstance(batch, Mapping):
        return {name: mapped(function, item, *arguments) for name, item in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(mapped(function, item, *arguments) for item in batch)
    return function(batch, *arguments) if isinstance(batch, Tensor) and batch.is_floating_point() else batch


def moved(batch: Any, dtype: torch.dtype, device: str) -> Any:
    """A batch on a device, its floating tensors in a dtype."""
    if isinstance(batch, Mapping):
        return {name: moved(item, dtype, device) for name, item in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(moved(item, dtype, device) for item in batch)
    return batch.to(device, dtype if batch.is_floating_point() else None) if isinstance(batch, Tensor) else batch


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether both hold the same bits."""
    return len(first) == len(second) and all(map(torch.equal, first, second))


@torch.no_grad()
def _overwrite(model: nn.Module) -> None:
    """Zero every tensor that modules hold, registered or not."""
    for module in model.modules():
        plain = [value for value in vars(module).values() if isinstance(value, Tensor)]
        for tensor in (*module._parameters.values(), *module._buffers.values(), *plain):
            if tensor is not None:
                tensor.zero_()


def leaves(model: nn.Module) -> list[str]:
    """Names of the modules that hold no others."""
    return [name for name, module in model.named_modules() if name and not list(module.children())]


def _hooks(model: nn.Module) -> list[str]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [name or "the model" for name, m in model.named_modules() if any(getattr(m, kind) for kind in kinds)]


def _snapshot(model: nn.Module) -> tuple[list[Any], dict[str, Tensor], list[Any]]:
    """Modules by name and type, tensors, and what is trained."""
    modules = [(name, type(module)) for name, module in model.named_modules()]
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return modules, tensors, [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
