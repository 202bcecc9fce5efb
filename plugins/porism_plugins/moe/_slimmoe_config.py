"""The configuration of a slimmed transformers model, so that what ``save_pretrained`` writes loads again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from porism.errors import ParameterError
from porism_plugins.moe._slimmoe_sites import Site

# What configurations call the width of an expert, the more particular name first.
_NAMES = ("moe_intermediate_size", "intermediate_size")


def configured(model: nn.Module) -> list[nn.Module]:
    """The models of transformers in a model, outermost ones."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if hasattr(module, "save_pretrained") and hasattr(module, "config") and not inside:
            found[name] = module
    return list(found.values())


def original_width(model: nn.Module, site: Site) -> int:
    """Neurons that a site's experts had at first, which a checkpoint remembers in its configuration."""
    inside = [m for m in configured(model) if any(module is site.holder for module in m.modules())]
    remembered = [getattr(_text(module.config), "slimmed_from", None) for module in inside]
    return next((int(width) for width in remembered if width), site.original)


def set_widths(model: nn.Module, found: Mapping[str, Site], inner: int) -> None:
    """Write the present width of the experts into the configurations, in place, with the one that they had at first."""
    for module in configured(model):
        first = next(site for site in found.values() if any(m is site.holder for m in module.modules()))
        _write(module.config, inner, first.original)


def check_configurable(model: nn.Module, found: Mapping[str, Site], inner: int) -> None:
    """Make sure, before anything is trained, that a model built from the new configuration has the slimmed shapes.

    Raises
    ------
    ParameterError
        If it has others: where the same number sizes shared experts or dense layers, or experts of unequal widths.
    """
    for name, module in ((type(module).__name__, module) for module in configured(model)):
        config: Any = copy.deepcopy(module.config)
        mine = {part.tensor: site for site in found.values() for part in site.parts}
        if not any(parameter in mine for parameter in module.parameters()):
            continue
        key = _write(config, inner, inner)
        wanted = {label: _cut(tensor, mine.get(tensor), inner) for label, tensor in module.named_parameters()}
        built = {label: tuple(tensor.shape) for label, tensor in _empty(module, config).named_parameters()}
        if wrong := [label for label, shape in wanted.items() if built.get(label) != shape]:
            raise ParameterError(
                f"{name} cannot be slimmed to {inner} neurons so that it loads again: config.{key} also sizes "
                f"{', '.join(wrong[:6])}"
            )


def _write(config: Any, inner: int, original: int) -> str:
    text = _text(config)
    key = next((name for name in _NAMES if isinstance(getattr(text, name, None), int)), None)
    if key is None:
        raise ParameterError(f"{type(config).__name__} has none of {', '.join(_NAMES)} to say how wide experts are")
    setattr(text, key, inner)
    text.slimmed_from = getattr(text, "slimmed_from", None) or original
    return key


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _cut(tensor: nn.Parameter, site: Site | None, inner: int) -> tuple[int, ...]:
    shape = list(tensor.shape)
    if site is not None:
        part = next(part for part in site.parts if part.tensor is tensor)
        shape[part.axis] = part.blocks * inner
    return tuple(shape)


def _empty(module: nn.Module, config: Any) -> nn.Module:
    """The same class from a configuration, without numbers, and without a draw from global generators."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        built: nn.Module = type(module)(config)
    return built
