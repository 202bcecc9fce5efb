"""Where a model keeps the weights of its experts: found, scored neuron by neuron, and cut.

Known are the layers of :mod:`porism_plugins.moe._engine`, the fused experts of transformers (parameters of three axes,
``gate_up_proj`` and ``down_proj``) and an ``nn.ModuleList`` called ``experts`` of feed-forward networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from porism.errors import ParameterError
from porism_plugins.moe._engine import Experts, feed_forward

# Fused experts run by torch's grouped product, whose rows must be multiples of 16 bytes, in half precision too.
_ALIGNED = 8
# Numbers of a module that say how many neurons an expert has, as transformers names them.
_WIDTHS = ("intermediate_dim", "intermediate_size", "ffn_dim")


class Part(NamedTuple):
    """A tensor whose axis ``axis`` runs over neurons: ``blocks`` times, gates before what they multiply.

    ``expert`` is whose it is; None says that the first axis runs over experts.
    """

    module: nn.Module
    attribute: str
    axis: int
    blocks: int = 1
    expert: int | None = None

    @property
    def tensor(self) -> nn.Parameter:
        """The parameter as it is now."""
        found: nn.Parameter = getattr(self.module, self.attribute)
        return found

    def by_neuron(self, values: Tensor) -> Tensor:
        """Sums of values shaped like the tensor over all but its neurons, shape (experts or 1, inner)."""
        stacked = values[None] if self.expert is not None else values
        axis = self.axis + (self.expert is not None)
        others = [a for a in range(1, stacked.dim()) if a != axis]
        sums = stacked.sum(others) if others else stacked
        return sums.view(len(sums), self.blocks, -1).sum(1)


class Site(NamedTuple):
    """The experts of one layer: ``holder`` is the module that has them, ``parts`` are the tensors of their neurons.

    The number of neurons left must be a multiple of ``multiple``.
    """

    holder: nn.Module
    parts: tuple[Part, ...]
    experts: int
    inner: int
    multiple: int = 1

    @property
    def original(self) -> int:
        """Neurons that an expert had before it was ever slimmed."""
        return int(getattr(self.holder, "slimmed_from", self.inner))

    def zeros(self) -> Tensor:
        """A zero for each neuron, (experts, inner), where the weights are, in float32 at least."""
        weight = self.parts[0].tensor
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.zeros(self.experts, self.inner, dtype=dtype, device=weight.device)

    def summed(self, values: Sequence[Tensor]) -> Tensor:
        """Sums over each neuron's slices of values shaped like the parts' tensors, (experts, inner)."""
        total = self.zeros()
        for part, value in zip(self.parts, values, strict=True):
            rows = slice(None) if part.expert is None else slice(part.expert, part.expert + 1)
            total[rows] += part.by_neuron(value.to(total.dtype))
        return total

    def magnitude(self) -> Tensor:
        """Euclidean norm of each neuron's weights, (experts, inner)."""
        return self.summed([wide(part.tensor.detach()).square() for part in self.parts]).sqrt()


def sites(model: nn.Module) -> dict[str, Site]:
    """The experts of each layer by the name of the module that holds them.

    Raises
    ------
    ParameterError
        If there are none (the error lists what looks like experts), or weights are on the meta device, no floating
        numbers, not finite, or shared between experts.

    Examples
    --------
    >>> from porism_plugins.moe._engine import MoE, TopKRouter
    >>> model = nn.Sequential(MoE(Experts(4, 8, 16), TopKRouter(8, 4)))
    >>> sites(model)["0.experts"].inner
    16
    """
    found = {name: site for name, module in model.named_modules() if (site := _site(name, module)) is not None}
    if not found:
        raise ParameterError(
            f"model has no experts that are known here; there are: {_what_there_is(model)}. Known are layers MoE of "
            "porism_plugins.moe, experts of transformers with gate_up_proj of shape (experts, 2 inner, width) and "
            "down_proj, and an nn.ModuleList `experts` of feed-forward networks"
        )
    owners: dict[int, str] = {}
    for name, site in found.items():
        for part in site.parts:
            _check(f"{name}: {part.attribute}", part.tensor)
            if owners.setdefault(id(part.tensor), name) != name or _repeated(site):
                raise ParameterError(f"{name} shares weights between experts, which cannot be cut one by one")
    return found


def narrow(site: Site, neurons: Tensor) -> None:
    """Cut the experts to these neurons, in place: int64 of shape (experts, kept), each row in the order wanted.

    Parameters are new ones, in their dtype and where they were; those that were frozen still are.

    Raises
    ------
    ParameterError
        If the shape is another, or a neuron does not exist.
    """
    if neurons.dim() != 2 or len(neurons) != site.experts or not neurons.shape[1]:
        raise ParameterError(f"neurons must have shape ({site.experts}, kept), got {tuple(neurons.shape)}")
    if int(neurons.min()) < 0 or int(neurons.max()) >= site.inner:
        raise ParameterError(f"neurons must be from 0 to {site.inner - 1}")
    site.holder.slimmed_from = site.original  # type: ignore[assignment]
    for part in site.parts:
        old = part.tensor
        new = nn.Parameter(_selected(part, old.detach(), neurons.to(old.device), site.inner), old.requires_grad)
        setattr(part.module, part.attribute, new)
    for module in {id(part.module): part.module for part in site.parts}.values():
        _resize(module, site.inner, neurons.shape[1])


def largest(scores: Tensor, kept: int) -> Tensor:
    """The ``kept`` neurons of the largest scores of each expert, in ascending order; the first of equal ones.

    Examples
    --------
    >>> largest(torch.tensor([[3.0, 1, 2], [0, 0, 0]]), 2)
    tensor([[0, 2],
            [0, 1]])
    """
    return scores.argsort(dim=1, descending=True, stable=True)[:, :kept].sort(dim=1).values


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _site(name: str, module: nn.Module) -> Site | None:
    if isinstance(module, Experts):
        blocks = 1 + module.gated
        parts = [Part(module, "up", 1, blocks), Part(module, "down", 2)]
        if module.up_bias is not None:
            parts.append(Part(module, "up_bias", 1, blocks))
        return Site(module, tuple(parts), module.experts, module.inner)
    if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "experts" and len(module):
        return _listed(module)
    return _fused(module)


def _fused(module: Any) -> Site | None:
    up, down = (vars(module)["_parameters"].get(name) for name in ("gate_up_proj", "down_proj"))
    if up is None or down is None or up.dim() != 3 or down.dim() != 3:
        return None
    count, width, inner = down.shape
    if getattr(module, "is_transposed", False) or tuple(up.shape) != (count, 2 * inner, width):
        return None
    if {"gate_up_proj_bias", "down_proj_bias"} & vars(module)["_parameters"].keys():
        return None
    return Site(module, (Part(module, "gate_up_proj", 1, 2), Part(module, "down_proj", 2)), count, inner, _ALIGNED)


def _listed(modules: nn.ModuleList) -> Site | None:
    try:
        networks = [feed_forward(module) for module in modules]
    except ParameterError:
        return None
    inner = networks[0].down.in_features
    if any(network.down.in_features != inner for network in networks):
        return None
    parts: list[Part] = []
    for expert, network in enumerate(networks):
        for layer in (network.gate, network.up):
            if layer is not None:
                parts.append(Part(layer, "weight", 0, 1, expert))
                if layer.bias is not None:
                    parts.append(Part(layer, "bias", 0, 1, expert))
        parts.append(Part(network.down, "weight", 1, 1, expert))
    return Site(modules, tuple(parts), len(networks), inner)


def _selected(part: Part, tensor: Tensor, neurons: Tensor, inner: int) -> Tensor:
    """The slices of these neurons, contiguous."""
    if part.expert is not None:
        return tensor.index_select(part.axis, neurons[part.expert]).contiguous()
    rows = torch.cat([neurons + block * inner for block in range(part.blocks)], 1)
    shape = [1] * tensor.dim()
    shape[0], shape[part.axis] = rows.shape
    sizes = list(tensor.shape)
    sizes[part.axis] = rows.shape[1]
    return tensor.gather(part.axis, rows.view(shape).expand(sizes)).contiguous()


def _resize(module: nn.Module, old: int, new: int) -> None:
    """Let a module's own numbers say its new width."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    for name in _WIDTHS:
        if vars(module).get(name) == old:
            setattr(module, name, new)


def _repeated(site: Site) -> bool:
    return len({id(part.tensor) for part in site.parts}) < len(site.parts)


def _check(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise ParameterError(f"{name} is on the meta device, which holds no numbers; load the weights first")
    if not tensor.is_floating_point():
        raise ParameterError(f"{name} is {tensor.dtype}, already quantised; start from floating weights")
    if not bool(tensor.isfinite().all()):
        raise ParameterError(f"{name} must be finite, got NaN or infinity")


def _what_there_is(model: nn.Module) -> str:
    """Modules that look like experts, else the kinds of module that the model has."""
    names = [f"{name} ({type(module).__name__})" for name, module in model.named_modules() if _looks_like(name, module)]
    kinds: Mapping[str, None] = dict.fromkeys(type(module).__name__ for module in model.modules())
    shown: Iterator[str] = iter(names or kinds)
    return ", ".join(name for name, _ in zip(shown, range(12), strict=False))


def _looks_like(name: str, module: nn.Module) -> bool:
    return name.rpartition(".")[2] == "experts" or "expert" in type(module).__name__.lower()
