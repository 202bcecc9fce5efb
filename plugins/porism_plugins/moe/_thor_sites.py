"""From the feed-forward networks of a model to stochastic experts and back.

LayerNorms stay outside and shared, as in the paper. Known are the names of :data:`_PLAIN` and :data:`_GATED`, and
``Linear, activation, Linear`` in ``nn.Sequential``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import is_linear, linear_layers, matrix, replace
from porism.testbeds import torch_generator
from porism_plugins.moe._engine import Experts
from porism_plugins.moe._grouped import Activation, Stacked
from porism_plugins.moe._thor_layer import Inference, Per, StochasticExperts

# up, down, activation, and dropout between the two, as attributes of the module that holds them.
_PLAIN = (
    ("intermediate.dense", "output.dense", "intermediate.intermediate_act_fn", None),  # BERT, RoBERTa, ELECTRA
    ("fc1", "fc2", "activation_fn", "activation_dropout"),  # BART, Marian, M2M100, OPT, ViT, CLIP
    ("linear1", "linear2", "activation", "dropout"),  # torch's encoder and decoder layers
    ("wi", "wo", "act", "dropout"),  # T5
    ("lin1", "lin2", "activation", None),  # DistilBERT
    ("c_fc", "c_proj", "act", None),  # GPT-2
    ("dense_h_to_4h", "dense_4h_to_h", "act", None),  # GPT-NeoX, Falcon
    ("up", "down", "activation", None),  # FeedForward of the engine
)
# gate, up, down, activation and dropout of down(dropout(act(gate x) * up x)).
_GATED = (
    ("gate_proj", "up_proj", "down_proj", "act_fn", None),  # Llama, Qwen, Gemma, Mistral
    ("wi_0", "wi_1", "wo", "act", "dropout"),  # T5 1.1, mT5, UL2
)


class Site(NamedTuple):
    """A feed-forward network: names of its host and of its linear layers in the model, and what else must move."""

    host: str
    up: str
    down: str
    activation: str
    gate: str | None = None
    dropout: str | None = None
    batch_axis: int = 0

    @property
    def place(self) -> str:
        """Name of the module in whose place experts stand."""
        return self.up if self.gate is None else self.host

    @property
    def linear(self) -> tuple[str, ...]:
        """Names of the linear layers."""
        return (self.up, self.down) if self.gate is None else (self.gate, self.up, self.down)


def with_stochastic_experts(
    model: nn.Module, /, *, rng: np.random.Generator, experts: Annotated[int, Interval(ge=1)] = 2,
    every: Annotated[int, Interval(ge=1)] = 2, start: Literal["copies", "fresh"] = "copies",
    noise: Annotated[float, Interval(ge=0)] = 0.1, training: Per = "pass", inference: Inference = "sequence",
    inplace: bool = False, include: Sequence[str] = ("*",), exclude: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """Put N stochastic experts in the place of a model's feed-forward networks.

    Parameters
    ----------
    model
        Left alone unless ``inplace``.
    rng
        Of noise or fresh weights, and of each layer's draws.
    experts
        N. With one expert the model stays the function it was, and the loss is R-Drop's.
    every
        Of the networks that match, the first, and every so many after it, in encoder and decoder each; 1 is all.
    start
        ``"copies"``: the first expert is the network itself, the others are copies with noise. ``"fresh"``: all are
        drawn uniformly on +-1/sqrt(fan_in), as for training from scratch.
    noise
        Standard deviation of a copy's noise, as a share of that of each weight tensor.
    training, inference
        As in :class:`porism_plugins.moe.thor.StochasticExperts`.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`; a network is taken if all of its linear layers match.

    Raises
    ------
    ParameterError
        For options out of range, patterns that match nothing, or a model without a known network.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8), nn.Linear(8, 2))
    >>> with_stochastic_experts(model, rng=np.random.default_rng(0), experts=4)[0].router
    StochasticRouter(experts=4, training='pass', inference='sequence')
    """
    for name, value, low in (("experts", experts, 1), ("every", every, 1)):
        Parameter(name, int, value, low=low).validate(value)
    Parameter("noise", float, 0.1, low=0.0).validate(noise)
    if start not in ("copies", "fresh"):
        raise ParameterError(f"start must be 'copies' or 'fresh', got {start!r}")
    chosen = _every(sites(model, include=include, exclude=exclude), every)
    found = model if inplace else copy.deepcopy(model)
    for site in chosen:
        weights = _stacked(found, site)
        stack = Experts.from_stacked(_repeated(weights, experts))
        _vary(stack, start, noise, torch_generator(rng))
        layer = StochasticExperts(
            stack, generator=torch_generator(rng), training=training, inference=inference, batch_axis=site.batch_axis
        )
        up = found.get_submodule(site.up)
        layer.requires_grad_(up.weight.requires_grad).train(up.training)
        _put(found, site, layer)
    return found


def single_expert(model: nn.Module, original: nn.Module, *, expert: int = 0) -> nn.Module:
    """A copy of ``original`` with the weights of its converted and trained ``model``, and one expert of each layer.

    It has the original's class, size and speed, and is saved as that: what inference with ``expert`` computes.

    Raises
    ------
    ParameterError
        If the model was not made from one like the original, or there is no such expert.
    """
    found = copy.deepcopy(original)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, StochasticExperts)}
    converted = [site for site in sites(found) if site.place in layers]
    if not layers or len(converted) < len(layers):
        raise ParameterError("original must be the model that was converted, with a network for each layer of experts")
    state = model.state_dict()
    mine = {name for site in converted for name in site.linear}
    shared = {n: t for n, t in found.state_dict().items() if n.rpartition(".")[0] not in mine}
    if missing := [n for n, t in shared.items() if n not in state or state[n].shape != t.shape]:
        raise ParameterError(f"original must be the model that was converted; {missing[0]} differs")
    found.load_state_dict({n: state[n] for n in shared}, strict=False)
    for site in converted:
        experts = layers[site.place].experts
        if not 0 <= expert < experts.experts:
            raise ParameterError(f"expert must be from 0 to {experts.experts - 1}, got {expert!r}")
        _write(found, site, experts, expert)
    return found


def sites(model: nn.Module, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()) -> list[Site]:
    """The feed-forward networks all of whose linear layers match, in the model's order."""
    layers = linear_layers(model, include=include, exclude=exclude)
    found = [site for name, module in model.named_modules() for site in _sites_in(name, module)]
    taken = [site for site in found if all(name in layers for name in site.linear)]
    if not taken:
        known = ", ".join(site.host or "the model itself" for site in found[:12]) or "none"
        raise ParameterError(f"no feed-forward network has all of its linear layers matched; known ones: {known}")
    return taken


def _sites_in(name: str, module: nn.Module) -> Iterator[Site]:
    at = f"{name}." if name else ""
    if isinstance(module, nn.Sequential):
        yield from _in_sequential(name, module)
    for up, down, activation, dropout in _PLAIN:
        if _mirrored(module, up, down) and _found(module, activation) is not None and not _found(module, "gate"):
            first = not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
            axis = 0 if first or module.self_attn.batch_first else 1
            inner = f"{at}{dropout}" if dropout and _found(module, dropout) is not None else None
            yield Site(name, f"{at}{up}", f"{at}{down}", f"{at}{activation}", None, inner, axis)
    for gate, up, down, activation, dropout in _GATED:
        if _mirrored(module, up, down) and is_linear(_found(module, gate)) and name:
            inner = f"{at}{dropout}" if dropout else None
            yield Site(name, f"{at}{up}", f"{at}{down}", f"{at}{activation}", f"{at}{gate}", inner)


def _in_sequential(name: str, module: nn.Sequential) -> Iterator[Site]:
    """Each ``Linear, activation, Linear`` of mirrored widths, no layer twice; dropout may stand before the last."""
    at = f"{name}." if name else ""
    parts = list(module._modules)
    start = 0
    while start + 2 < len(parts):
        end = start + 3 if start + 3 < len(parts) and isinstance(module[start + 2], nn.Dropout) else start + 2
        plain = not is_linear(module[start + 1])
        if plain and _mirrored(module, parts[start], parts[end]):
            dropout = f"{at}{parts[start + 2]}" if end == start + 3 else None
            yield Site(name, f"{at}{parts[start]}", f"{at}{parts[end]}", f"{at}{parts[start + 1]}", None, dropout, 0)
            start = end
        start += 1


def _mirrored(module: nn.Module, up: str, down: str) -> bool:
    """Whether both are linear layers, there and back between the same widths."""
    first, second = _found(module, up), _found(module, down)
    if not (is_linear(first) and is_linear(second)):
        return False
    return matrix(first).shape == matrix(second).shape[::-1]


def _found(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def _every(found: list[Site], every: int) -> list[Site]:
    """Every so many of those whose names differ in numbers only: the layers of one stack."""
    seen: dict[str, int] = {}
    chosen = []
    for site in found:
        stack = ".".join("*" if part.isdigit() else part for part in site.place.split("."))
        seen[stack] = seen.get(stack, -1) + 1
        if seen[stack] % every == 0:
            chosen.append(site)
    return chosen


def _stacked(model: nn.Module, site: Site) -> Stacked:
    """The weights of one network, with a first axis of length 1."""
    layers = [model.get_submodule(name) for name in site.linear]
    if len({layer.weight.dtype for layer in layers}) > 1:
        raise ParameterError(f"{site.host}: its linear layers must be of one dtype")
    *ups, down = layers
    biases = [layer.bias for layer in ups]
    return Stacked(
        torch.cat([matrix(layer) for layer in ups])[None],
        matrix(down)[None],
        None if biases[0] is None else torch.cat(biases)[None],
        None if down.bias is None else down.bias[None],
        _activation(model, site),
        site.gate is not None,
    )


def _repeated(weights: Stacked, count: int) -> Stacked:
    tensors = (None if t is None else t.expand(count, *t.shape[1:]) for t in weights[:4])
    return Stacked(*tensors, weights.activation, weights.gated)


class Activated(nn.Module):
    """An activation with the dropout that follows it."""

    def __init__(self, activation: Activation, p: float) -> None:
        super().__init__()
        self.activation, self.p = activation, p

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        return F.dropout(self.activation(x), self.p, self.training)


def _activation(model: nn.Module, site: Site) -> Activation:
    activation: Activation = _found(model, site.activation)
    dropout = _found(model, site.dropout) if site.dropout else 0.0
    p = float(getattr(dropout, "p", dropout))
    return Activated(activation, p) if p else activation


@torch.no_grad()
def _vary(experts: Experts, start: str, noise: float, generator: torch.Generator) -> None:
    """Noise on all experts but the first, or fresh weights for all."""
    for name, weights in experts.named_parameters(recurse=False):
        if start == "fresh":
            fan_in = experts.width if name.startswith("up") else experts.inner
            drawn = (2 * torch.rand(weights.shape, generator=generator) - 1) * fan_in**-0.5
            weights.copy_(drawn)
        elif noise and weights.shape[0] > 1:
            deviation = weights[0].float().std(correction=0)
            drawn = torch.randn(weights[1:].shape, generator=generator).to(weights.device)
            weights[1:] += (noise * deviation * drawn).to(weights.dtype)


class Passed(nn.Identity):
    """In the place of a layer that experts have taken over; T5 asks such a layer for its ``weight``."""

    weight = None


def _put(model: nn.Module, site: Site, layer: StochasticExperts) -> None:
    if site.gate is not None:
        replace(model, site.host, layer)
        return
    _set(model, site.up, layer)
    for name in (site.activation, site.down, *([site.dropout] if site.dropout else [])):
        old = _found(model, name)
        _set(model, name, 0.0 if isinstance(old, float | int) else Passed().train(layer.training))
    host: Any = model.get_submodule(site.host)
    if isinstance(host, nn.TransformerEncoderLayer):
        host.activation_relu_or_gelu = 0  # keeps torch off its fused path, which reads linear1.weight
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = module.enable_nested_tensor = False


def _set(model: nn.Module, name: str, value: Any) -> None:
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    if isinstance(holder, nn.Sequential):
        holder[list(holder._modules).index(child)] = value
    else:
        setattr(holder, child, value)


@torch.no_grad()
def _write(model: nn.Module, site: Site, experts: Experts, expert: int) -> None:
    ups = site.linear[:-1]
    up_bias, down_bias = experts.up_bias, experts.down_bias
    for number, name in enumerate(ups):
        layer = model.get_submodule(name)
        rows = slice(number * experts.inner, (number + 1) * experts.inner)
        matrix(layer).copy_(experts.up[expert, rows])
        if up_bias is not None:
            layer.bias.copy_(up_bias[expert, rows])
    down = model.get_submodule(site.down)
    matrix(down).copy_(experts.down[expert])
    if down_bias is not None:
        down.bias.copy_(down_bias[expert])
