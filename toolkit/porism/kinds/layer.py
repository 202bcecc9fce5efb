"""Checks of layers: what a network relies on that has one inside, whatever it computes.

A layer is made by ``example_layer(rng)`` of the paper's file, or by calling the class without arguments. It is called
with the tensors of ``example_inputs(rng, *, batch)``, in their order; without one, with a tensor of shape (batch, 16).
"""

from __future__ import annotations

import copy
import unittest
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from porism.kinds.models import tensors_in
from porism.registry import LoadedPaper, method
from porism.seeds import ROOT, generator
from porism.testing.replicates import error_of
from porism.testing.state import preserved

BATCH, WIDTH = 6, 16


def check_layer_output_is_finite(loaded: LoadedPaper) -> None:
    """``forward`` returns tensors of finite numbers, the floating ones in the dtype of the floating inputs."""
    outputs = _outputs(_layer(loaded), _inputs(loaded))
    assert outputs, "forward returns no tensor; return a tensor, or a tuple or mapping of them"
    assert all(bool(t.isfinite().all()) for t in outputs), "outputs of normal inputs are not finite"
    dtypes = {t.dtype for t in outputs if t.is_floating_point()}
    assert dtypes <= {torch.float32}, f"float32 inputs give outputs in {dtypes}; make new tensors in the inputs' dtype"


def check_layer_passes_gradients(loaded: LoadedPaper) -> None:
    """A finite gradient, not zero, reaches the first floating input, and a finite one every trainable parameter."""
    layer, inputs = _layer(loaded), _inputs(loaded)
    first = _first(inputs)
    _backward(layer, inputs)
    assert first.grad is not None and bool(first.grad.any()), "no gradient reaches the first floating input"
    assert first.grad.isfinite().all(), "the gradient in the first floating input is not finite"
    trainable = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    missing = [name for name, p in trainable.items() if p.grad is None]
    assert not missing, f"no gradient reaches {', '.join(missing)}; what one pass leaves out gets a gradient of zeros"
    assert all(bool(p.grad.isfinite().all()) for p in trainable.values() if p.grad is not None), (
        "gradients in parameters are not finite"
    )
    assert not trainable or any(bool(p.grad.any()) for p in trainable.values() if p.grad is not None), (
        "all gradients in parameters are zero; nothing could be learned"
    )


def check_layer_gradient_is_right(loaded: LoadedPaper) -> None:
    """In float64 the gradient in the first floating input agrees with finite differences."""
    layer, inputs = _layer(loaded).double(), _cast(_inputs(loaded, batch=2), torch.float64)
    name = _first_name(inputs)

    def call(x: Tensor) -> tuple[Tensor, ...]:
        outputs = _outputs(copy.deepcopy(layer), {**inputs, name: x})  # a copy, whose generators stand where they stood
        return tuple(t for t in outputs if t.is_floating_point() and t.requires_grad)

    error = error_of(lambda: torch.autograd.gradcheck(call, inputs[name].detach().requires_grad_()))
    assert error is None, f"the gradient is not that of the output: {str(error).splitlines()[0]}"


def check_layer_is_deterministic(loaded: LoadedPaper) -> None:
    """Two layers from the same generator give the same bits for the same inputs, whatever was drawn elsewhere."""
    results = []
    for seed in (1, 2):
        layer = _layer(loaded)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            results.append(_outputs(layer, _inputs(loaded)))
    assert _equal(*results), "equal layers give different outputs; draw from a generator that the layer is given"


def check_layer_keeps_global_state(loaded: LoadedPaper) -> None:
    """Nothing global changes in a pass and its gradient: no generator, dtype, thread count or gradient mode."""
    layer = _layer(loaded)
    with preserved():  # libraries may be imported in a first pass, and some of them draw numbers then
        _backward(copy.deepcopy(layer), _inputs(loaded))
    with preserved() as changed:
        _backward(layer, _inputs(loaded))
    assert not changed, f"a pass changes {', '.join(changed)}; draw from a torch.Generator, and undo what you set"


def check_layer_keeps_its_inputs(loaded: LoadedPaper) -> None:
    """``forward`` writes into none of its inputs."""
    inputs = _inputs(loaded)
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    _outputs(_layer(loaded), inputs)
    changed = [name for name in inputs if not torch.equal(inputs[name], before[name])]
    assert not changed, f"forward changes {', '.join(changed)} in place"


def check_layer_of_a_batch_of_one(loaded: LoadedPaper) -> None:
    """One sample gives finite outputs in training and in evaluation, as the last batch of an epoch may be one."""
    for training in (True, False):
        layer, inputs = _layer(loaded).train(training), _inputs(loaded, batch=1)
        outputs: list[Tensor] = []
        error = error_of(lambda: outputs.extend(_outputs(layer, inputs)))  # noqa: B023 - called at once
        assert error is None, f"a batch of one raises {error!r}"
        assert all(bool(t.isfinite().all()) for t in outputs), "a batch of one gives outputs that are not finite"


def check_layer_in_low_precision(loaded: LoadedPaper) -> None:
    """In bfloat16 and float16 outputs are of that dtype, and they and all gradients are finite."""
    for dtype in (torch.bfloat16, torch.float16):
        layer, inputs = _layer(loaded).to(dtype), _cast(_inputs(loaded), dtype)
        outputs: list[Tensor] = []
        error = error_of(lambda: outputs.extend(_backward(layer, inputs)))  # noqa: B023 - called at once
        assert error is None, f"in {dtype} the layer raises {error!r}; make new tensors in the inputs' dtype"
        found = {t.dtype for t in outputs if t.is_floating_point()}
        assert found <= {dtype}, f"inputs in {dtype} give outputs in {found}; cast back what is computed in float32"
        gradients = [_first(inputs).grad, *(p.grad for p in layer.parameters())]
        finite = all(bool(t.isfinite().all()) for t in (*outputs, *gradients) if t is not None)
        assert finite, f"in {dtype} outputs or gradients are not finite; compute in float32 inside forward"


def check_layer_of_strided_inputs(loaded: LoadedPaper) -> None:
    """Inputs that are not contiguous give what contiguous ones do."""
    layer, inputs = _layer(loaded), _inputs(loaded)
    strided = {name: _strided(tensor) for name, tensor in inputs.items()}
    expected = _outputs(copy.deepcopy(layer), inputs)
    found: list[Tensor] = []
    error = error_of(lambda: found.extend(_outputs(layer, strided)))
    assert error is None, f"inputs that are not contiguous raise {error!r}; use reshape instead of view"
    close = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
    assert close, "inputs that are not contiguous give other outputs"


def check_layer_keeps_rows_apart(loaded: LoadedPaper) -> None:
    """Where the class says ``rows_are_independent = True``, evaluating rows one by one gives what the batch gives."""
    if not getattr(method(loaded), "rows_are_independent", False):
        raise unittest.SkipTest("the class does not say rows_are_independent = True")
    layer, inputs = _layer(loaded).eval(), _inputs(loaded)
    whole = _outputs(layer, inputs)
    for row in range(BATCH):
        alone = _outputs(layer, {name: tensor[row : row + 1] for name, tensor in inputs.items()})
        close = all(torch.allclose(a[row : row + 1], b, atol=1e-5) for a, b in zip(whole, alone, strict=True))
        assert close, f"row {row} alone gives another output than in its batch, and rows_are_independent is true"


def check_layer_respects_its_mode(loaded: LoadedPaper) -> None:
    """A pass leaves the mode of every module as it was, and in evaluation no parameter or buffer changes."""
    for training in (True, False):
        layer = _layer(loaded).train(training)
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        _outputs(layer, _inputs(loaded))
        turned = [name or "the layer" for name, module in layer.named_modules() if module.training != training]
        assert not turned, f"a pass turns the mode of {', '.join(turned)}"
        after = layer.state_dict()
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        assert training or not changed, f"in evaluation a pass changes {', '.join(changed)}; update only in training"


def check_layer_survives_its_state_dict(loaded: LoadedPaper) -> None:
    """Saved as safetensors and loaded into a copy whose tensors were all overwritten, a layer computes the same."""
    from safetensors.torch import load, save

    layer = _layer(loaded)
    restored = copy.deepcopy(layer)
    for module in restored.modules():
        plain = [value for value in vars(module).values() if isinstance(value, Tensor)]
        for tensor in (*module._parameters.values(), *module._buffers.values(), *plain):
            if tensor is not None:
                tensor.detach().zero_()
    error = error_of(lambda: restored.load_state_dict(load(save(dict(layer.state_dict())))))
    assert error is None, f"the state_dict does not go through safetensors: {error}"
    assert _equal(_outputs(layer, _inputs(loaded)), _outputs(restored, _inputs(loaded))), (
        "the state_dict misses what the outputs depend on; register tensors as nn.Parameter or with register_buffer"
    )


def check_layer_casts_whole(loaded: LoadedPaper) -> None:
    """``to(torch.float64)`` casts every floating tensor that the layer holds, and so ``to(device)`` moves them."""
    layer = _layer(loaded).to(torch.float64)
    left = [name for name, tensor in _held(layer) if tensor.is_floating_point() and tensor.dtype != torch.float64]
    assert not left, f"to(torch.float64) leaves {', '.join(left)} behind; register tensors with register_buffer"


def check_layer_is_copied_whole(loaded: LoadedPaper) -> None:
    """After a pass and its gradient, ``copy.deepcopy`` works, shares no tensor, and the copy computes the same."""
    layer = _layer(loaded)
    _backward(layer, _inputs(loaded))
    copies: list[nn.Module] = []
    error = error_of(lambda: copies.append(copy.deepcopy(layer)))
    assert error is None, f"copy.deepcopy after a pass raises {error!r}; keep no tensor of the graph on self"
    ours = {tensor.untyped_storage().data_ptr() for _, tensor in _held(layer) if tensor.numel()}
    shared = [name for name, t in _held(copies[0]) if t.numel() and t.untyped_storage().data_ptr() in ours]
    assert not shared, f"the copy shares {', '.join(shared)} with the layer"
    assert _equal(_outputs(layer, _inputs(loaded)), _outputs(copies[0], _inputs(loaded))), "the copy computes otherwise"


def check_layer_on_cuda(loaded: LoadedPaper) -> None:
    """On a GPU outputs stay there and agree with the CPU's."""
    if not torch.cuda.is_available():
        raise unittest.SkipTest("no CUDA device")
    expected = _outputs(_layer(loaded), _inputs(loaded))
    inputs = {name: tensor.cuda() for name, tensor in _inputs(loaded).items()}
    found: list[Tensor] = []
    error = error_of(lambda: found.extend(_outputs(_layer(loaded).cuda(), inputs)))
    assert error is None, f"on CUDA the layer raises {error!r}; make new tensors on the device of the inputs"
    assert all(t.is_cuda for t in found), "inputs on CUDA give outputs elsewhere"
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-4)


def _layer(loaded: LoadedPaper) -> nn.Module:
    """A new layer in training mode, the same at each call, drawn without moving the global generator."""
    kind: Any = method(loaded)
    example = getattr(loaded.module, "example_layer", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = kind() if example is None else example(generator(ROOT, loaded.paper.key, "layer"))
    assert isinstance(layer, nn.Module), f"a layer is a torch.nn.Module, got {type(layer).__name__}"
    return layer.train()


def _inputs(loaded: LoadedPaper, batch: int = BATCH) -> dict[str, Tensor]:
    """Tensors for one call of ``forward`` by name, with rows as the first axis."""
    rng = generator(ROOT, loaded.paper.key, "layer inputs", batch)
    example = getattr(loaded.module, "example_inputs", None)
    if example is not None:
        return dict(example(rng, batch=batch))
    return {"x": torch.from_numpy(rng.normal(size=(batch, WIDTH))).float()}


def _outputs(layer: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    return list(tensors_in(layer(*inputs.values())))


def _backward(layer: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Outputs of a pass, and with it gradients in the parameters and the first floating input."""
    _first(inputs).requires_grad_()
    outputs = _outputs(layer, inputs)
    graph = [t for t in outputs if t.requires_grad]
    assert graph, "outputs depend on neither inputs nor parameters as far as torch can see; do not detach them"
    weights = [torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype, device=t.device).view(t.shape) for t in graph]
    torch.autograd.backward(graph, weights)
    return outputs


def _first_name(inputs: Mapping[str, Tensor]) -> str:
    return next(name for name, tensor in inputs.items() if tensor.is_floating_point())


def _first(inputs: Mapping[str, Tensor]) -> Tensor:
    return inputs[_first_name(inputs)]


def _cast(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def _strided(tensor: Tensor) -> Tensor:
    """A copy with its axes the other way round in memory, and a gap after each number."""
    back = tuple(reversed(range(tensor.ndim)))
    turned = tensor.permute(back)
    return torch.stack([turned, turned], dim=-1)[..., 0].permute(back)


def _held(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that modules hold, by name: parameters, buffers, and those in plain attributes and lists."""
    for prefix, module in layer.named_modules():
        for name, value in (module._parameters | module._buffers | vars(module)).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                for tensor in tensors_in(value):
                    yield f"{prefix}.{name}".lstrip("."), tensor


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))
