"""Finding, measuring and replacing the linear layers of any torch model, as every compressor and adapter must.

``torch.nn.Linear`` and the transposed ``Conv1D`` of transformers count as linear layers. Names are those of
``model.named_modules()``, patterns those of a shell: ``*.q_proj``, ``model.layers.[0-3].mlp.*``.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from porism.errors import ParameterError, did_you_mean

# Output heads, as transformers names them: papers leave them alone.
HEADS = ("lm_head", "embed_out", "classifier", "score", "qa_outputs")
# How many names an error lists.
_SHOWN = 12


def linear_layers(
    model: nn.Module, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> dict[str, nn.Module]:
    """The linear layers whose names match a pattern, in the model's order, shared ones once.

    Parameters
    ----------
    model
        Any module.
    include, exclude
        Patterns; a layer is taken if one of the first and none of the second matches. A pattern also matches the end
        of a name: ``q_proj`` finds ``model.layers.0.self_attn.q_proj``.

    Returns
    -------
    dict
        Layers by name. With the default pattern those are left out whose weight is tied to another module's (an output
        head to its embedding), as changing one would change both.

    Raises
    ------
    ParameterError
        If nothing matches (the error lists what there is), or if a layer that is named by ``include`` is tied, on the
        meta device, or not floating (already quantised).

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> list(linear_layers(model, exclude=["2"]))
    ['0']
    """
    if isinstance(include, str) or isinstance(exclude, str):
        raise ParameterError("include and exclude must be lists of patterns, not one string")
    everything = {name: module for name, module in model.named_modules() if is_linear(module)}
    chosen = {n: m for n, m in everything.items() if _matches(n, include) and not _matches(n, exclude)}
    if not chosen:
        known = list(everything)
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        hint = did_you_mean(include[0], known) if include else ""
        there = ", ".join(known[:_SHOWN]) + more if known else "none"
        raise ParameterError(
            f"no linear layer matches {list(include)} without {list(exclude)}{hint}; there are: {there}"
        )
    tied = _tied(model)
    if list(include) == ["*"]:
        chosen = {name: module for name, module in chosen.items() if name not in tied}
    for name, module in chosen.items():
        weight = module.weight
        if name in tied:
            raise ParameterError(f"{name}.weight is tied to {tied[name]}; exclude it, or untie the two first")
        if weight.is_meta:
            raise ParameterError(f"{name}.weight is on the meta device, which holds no numbers; load the weights first")
        if not weight.is_floating_point():
            raise ParameterError(f"{name}.weight is {weight.dtype}, already quantised; start from floating weights")
    return chosen


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix: ``nn.Linear`` or transformers' ``Conv1D``."""
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def matrix(module: nn.Module) -> Tensor:
    """The weight of a linear layer as (outputs, inputs), a view of its parameter.

    Examples
    --------
    >>> matrix(nn.Linear(3, 2)).shape
    torch.Size([2, 3])
    """
    weight: Any = module.weight
    found: Tensor = weight.T if _is_conv1d(module) else weight
    return found


@torch.no_grad()
def set_matrix(module: nn.Module, values: Tensor) -> None:
    """Write (outputs, inputs) into the weight of a linear layer, in its own dtype and place."""
    matrix(module).copy_(values)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` where ``name`` is, wherever the same layer occurs in the model.

    Raises
    ------
    ParameterError
        If there is no such module, or it is the model itself.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> replace(model, "0", nn.Identity())
    >>> model[0]
    Identity()
    """
    names = dict(model.named_modules())
    if not name or name not in names:
        raise ParameterError(f"no module {name!r} to replace{did_you_mean(name, names)}")
    old = names[name]
    for parent in list(model.modules()):
        for child, found in list(parent._modules.items()):  # named_children() leaves out repetitions
            if found is old:
                setattr(parent, child, module)


@torch.no_grad()
def input_statistics(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Any],
    accumulate: Callable[[Tensor | None, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Run calibration batches and accumulate a statistic of what flows into each layer.

    Parameters
    ----------
    model
        Run in evaluation mode; its mode is put back.
    layers
        Layers by name, of :func:`linear_layers`.
    batches
        What the model is called with: a mapping of keyword arguments, a tuple of positional ones, or one tensor.
    accumulate
        ``accumulate(before, inputs) -> after`` with ``before`` None at first and ``inputs`` of shape (rows, features),
        float32.

    Raises
    ------
    ParameterError
        If there is no batch, if a layer is never called, or if what flows into it is not finite.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3))
    >>> mean = lambda before, x: x.sum(0) if before is None else before + x.sum(0)
    >>> input_statistics(model, linear_layers(model), [torch.ones(4, 2)], mean)["0"]
    tensor([4., 4.])
    """
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            if not bool(rows.isfinite().all()):
                raise ParameterError(f"calibration: what flows into {name} is not finite (NaN or infinite activations)")
            found[name] = accumulate(found.get(name), rows)

        return look

    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(watch(name)).remove)
        ran = 0
        for batch in batches:
            call(model, batch)
            ran += 1
    if not ran:
        raise ParameterError("calibration batches are empty; give at least one")
    if missed := [name for name in layers if name not in found]:
        raise ParameterError(
            f"calibration never reached {', '.join(missed[:_SHOWN])}; exclude them, or calibrate with inputs that do"
        )
    return found


def call(model: nn.Module, batch: Any) -> Any:
    """Call a model with a mapping of keyword arguments, a tuple of positional ones, or one tensor."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for every module in the block, each put back to its own mode after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _is_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D, told without importing transformers."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(name, f"*.{p}") for p in patterns)


def _tied(model: nn.Module) -> dict[str, str]:
    """Linear layers whose weight is another module's parameter as well, with that parameter's name."""
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((f"{name}.{parameter_name}".lstrip("."), module))
    tied = {}
    for shared in owners.values():
        for name, module in shared:
            others = [other for other, owner in shared if owner is not module]
            if others and is_linear(module) and name.endswith("weight"):
                tied[name.rpartition(".")[0]] = others[0]
    return tied
