"""The layers of any torch model by name or number: finding, matching, and reading what they give."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from porism.errors import ParameterError, did_you_mean

# The name of a module, or a block of a transformers model counted from 1, from the end if negative.
Layer = str | int
# How many names an error lists.
_SHOWN = 12
_ATTENTION = ("attn", "attention")


def block_names(model: nn.Module) -> list[str]:
    """Names of a model's blocks in their order: the members of its longest ``nn.ModuleList``.

    Of a transformers model it is the list with as many members as the configuration has layers.

    Raises
    ------
    ParameterError
        If there is no such list, or more than one (encoder and decoder): name the layers then.

    Examples
    --------
    >>> block_names(nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])}))
    ['layers.0', 'layers.1']
    """
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    outer = {n: m for n, m in lists.items() if not any(n.startswith(f"{other}.") for other in lists)}
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    longest = depth or max((len(m) for m in outer.values()), default=0)
    found = [n for n, m in outer.items() if len(m) == longest]
    if len(found) != 1:
        sizes = ", ".join(f"{n} ({len(m)})" for n, m in outer.items()) or "none"
        said = f" of the configuration's {depth} layers" if depth else ""
        raise ParameterError(f"layers can be numbered only where one list holds them{said}; name them; lists: {sizes}")
    return [f"{found[0]}.{number}" for number in range(longest)]


def layer_names(model: nn.Module, layers: Sequence[Layer], *, of: str = "model") -> tuple[str, ...]:
    """Names of modules for names and numbers: k is the k-th block, what transformers calls ``hidden_states[k]``.

    Only the last one differs, in models that normalise it once more after the last block.

    Raises
    ------
    ParameterError
        For names and numbers that are not there; the error lists what is.

    Examples
    --------
    >>> layer_names(nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])}), [1, -1, "layers"])
    ('layers.0', 'layers.1', 'layers')
    """
    if isinstance(layers, str) or not layers:
        raise ParameterError(f"layers of the {of} must be a list of names or numbers, not empty, got {layers!r}")
    known = [name for name, _ in model.named_modules() if name]
    names = []
    for layer in layers:
        if isinstance(layer, int):
            blocks = block_names(model)
            if not 1 <= abs(layer) <= len(blocks):
                raise ParameterError(f"the {of} has no layer {layer}; it has 1 to {len(blocks)}")
            names.append(blocks[layer - 1 if layer > 0 else layer])
        elif layer in known:
            names.append(layer)
        else:
            raise ParameterError(
                f"the {of} has no layer {layer!r}{did_you_mean(layer, known)}; there are: {_list(known)}"
            )
    return tuple(names)


def attention_names(model: nn.Module, layers: Sequence[Layer], *, of: str = "model") -> tuple[str, ...]:
    """As :func:`layer_names`, where a number means the attention inside of that block.

    Raises
    ------
    ParameterError
        As :func:`layer_names`, and for a block without a child whose name says attention.
    """
    names = []
    for layer, name in zip(layers, layer_names(model, layers, of=of), strict=True):
        if isinstance(layer, int):
            children = [child for child, _ in model.get_submodule(name).named_children()]
            found = [child for child in children if any(word in child.lower() for word in _ATTENTION)]
            if not found:
                raise ParameterError(f"{name} of the {of} has no attention among {_list(children)}; name the module")
            name = f"{name}.{found[0]}"
        names.append(name)
    return tuple(names)


def match_layers(
    student: nn.Module, teacher: nn.Module, how: Literal["uniform", "last"] = "uniform", *, count: int | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which layers to compare, for ``States(*match_layers(student, teacher))``.

    Parameters
    ----------
    student, teacher
        Models whose blocks :func:`block_names` finds.
    how
        ``"uniform"`` spreads the pairs over the whole depth of each, with the last block of both among them;
        ``"last"`` takes the last blocks.
    count
        Pairs, by default as many as the shallower model has blocks.

    Raises
    ------
    ParameterError
        For a way or a count that is not possible.

    Examples
    --------
    >>> deep, flat = (nn.ModuleDict({"h": nn.ModuleList([nn.Identity() for _ in range(n)])}) for n in (6, 2))
    >>> match_layers(flat, deep)
    (('h.0', 'h.1'), ('h.2', 'h.5'))
    """
    depths = [block_names(student), block_names(teacher)]
    most = min(map(len, depths))
    pairs = most if count is None else count
    if not 1 <= pairs <= most:
        raise ParameterError(f"count must be in [1, {most}], the layers of the shallower model, got {count}")
    if how == "uniform":
        chosen = [tuple(names[k * len(names) // pairs - 1] for k in range(1, pairs + 1)) for names in depths]
    elif how == "last":
        chosen = [tuple(names[-pairs:]) for names in depths]
    else:
        raise ParameterError(f"how must be 'uniform' or 'last', got {how!r}")
    return chosen[0], chosen[1]


@contextlib.contextmanager
def capturing(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What modules return while the model runs in the block, by name; no hook outlives it.

    Raises
    ------
    ParameterError
        If a module runs more than once, as layers with shared weights do, or at the end of the block not at all.

    Examples
    --------
    >>> model = nn.Sequential(nn.Identity(), nn.ReLU())
    >>> with capturing(model, ["0"]) as outputs:
    ...     _ = model(torch.tensor([-1.0]))
    >>> outputs
    {'0': tensor([-1.])}
    """
    names, found = list(names), dict[str, Any]()

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if name in found:
                raise ParameterError(f"{name} runs more than once in one pass, so it has no one output to compare")
            found[name] = output

        return hook

    with contextlib.ExitStack() as hooks:
        for name in dict.fromkeys(names):
            hooks.callback(model.get_submodule(name).register_forward_hook(keep(name)).remove)
        yield found
    if missed := [name for name in names if name not in found]:
        raise ParameterError(f"{_list(missed)} did not run; name layers that the model calls")


def state_of(output: Any, name: str) -> Tensor:
    """The hidden state in what a module returned: a tensor, the first of a tuple, or a ``last_hidden_state``."""
    state = getattr(output, "last_hidden_state", output[0] if isinstance(output, tuple | list) and output else output)
    if not isinstance(state, Tensor) or not state.is_floating_point():
        raise ParameterError(f"{name} gives no floating hidden state, but {type(state).__name__}")
    return state


def attention_of(output: Any, name: str) -> Tensor:
    """The probabilities (B, heads, T, T) that an attention module of transformers returns second."""
    maps = output[1] if isinstance(output, tuple | list) and len(output) > 1 else None
    if not isinstance(maps, Tensor) or maps.dim() != 4:
        raise ParameterError(
            f"{name} gives no attention probabilities; load the model with attn_implementation='eager', "
            "or call model.set_attn_implementation('eager')"
        )
    return maps


def logits_of(output: Any, of: str) -> Tensor:
    """The logits in what a model returned: a tensor, ``output.logits``, or the first of a tuple.

    Raises
    ------
    ParameterError
        If there are none.
    """
    if isinstance(output, tuple | list) and output:
        output = output[0]
    elif isinstance(output, dict) and "logits" in output:
        output = output["logits"]
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.dim() < 2:
        raise ParameterError(f"the {of}'s output has no logits (B, ..., classes), it is {type(output).__name__}")
    return logits


def width_of(model: nn.Module) -> int | None:
    """Width of a transformers model's hidden states, None for other modules."""
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    return width if isinstance(width, int) else None


def device_of(model: nn.Module) -> torch.device | None:
    """Where a model's first parameter or buffer is."""
    return next((t.device for tensors in (model.parameters(), model.buffers()) for t in tensors), None)


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
