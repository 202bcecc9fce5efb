"""Feed-forward networks inside a model, and how an expert layer takes their place.

Known are BERT's layers in transformers (with residual and LayerNorm inside the experts), torch's
``TransformerEncoderLayer``, ``Linear, activation, Linear`` inside a ``Sequential``, and what
:func:`porism_plugins.moe._feed_forward.feed_forward` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.surgery import linear_layers
from porism_plugins.moe._engine import FeedForward, MoE, feed_forward


class Site(NamedTuple):
    """A feed-forward network of a model.

    ``up`` and ``down`` are the names of its linear layers, ``entry`` and ``block`` those of the modules whose input and
    output distillation compares; ``put(model, layer)`` replaces the network by a mixture of experts. ``batch_axis`` is
    that of samples in what flows in.
    """

    network: FeedForward
    up: str
    down: str
    entry: str
    block: str
    put: Callable[[nn.Module, MoE], None]
    batch_axis: int = 0


def sites(model: nn.Module, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()) -> dict[str, Site]:
    """The feed-forward networks whose linear layers all match, by the name of what holds them.

    Raises
    ------
    ParameterError
        As :func:`porism.surgery.linear_layers`, or if no feed-forward network is made of these layers.
    """
    layers = linear_layers(model, include=include, exclude=exclude)
    found: dict[str, Site] = {}
    for name, module in model.named_modules():
        for key, site in _sites_in(name, module).items():
            if site.up in layers and site.down in layers and not any(_inside(name, other) for other in found):
                found[key] = site
    if not found:
        raise ParameterError(
            "model has no feed-forward network among the layers that match; known are BERT's layers, "
            "nn.TransformerEncoderLayer, Linear-activation-Linear of equal outer widths in nn.Sequential, and gated "
            f"networks as Llama's. It has the linear layers {', '.join(list(layers)[:12])}"
        )
    return found


class ExpertOutput(nn.Module):
    """BERT's output layer with experts: LayerNorm_e(x + dropout(FFN_e(x))), each expert with a LayerNorm of its own."""

    def __init__(self, layer: MoE, norm: nn.LayerNorm, dropout: nn.Module) -> None:
        super().__init__()
        count = layer.experts.experts
        self.layer, self.dropout, self.eps = layer, dropout, norm.eps
        self.norm_weight = nn.Parameter(norm.weight.detach().repeat(count, 1))
        self.norm_bias = nn.Parameter(norm.bias.detach().repeat(count, 1))

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """Apply it to the attention's output, which ``hidden_states`` and ``input_tensor`` both are."""
        total = input_tensor + self.dropout(self.layer(hidden_states))
        expert = self.layer.routing.index.view(total.shape[:-1])
        normal = F.layer_norm(total, total.shape[-1:], eps=self.eps)
        return normal * self.norm_weight[expert] + self.norm_bias[expert]


def _sites_in(name: str, module: nn.Module) -> Mapping[str, Site]:
    at = f"{name}." if name else ""
    if hasattr(module, "intermediate") and hasattr(getattr(module, "output", None), "LayerNorm"):
        return {name: _bert(at, module)}
    if isinstance(module, nn.TransformerEncoderLayer):
        axis = 0 if module.self_attn.batch_first else 1
        return {name: Site(feed_forward(module), f"{at}linear1", f"{at}linear2", name, name, _into_encoder(name), axis)}
    if isinstance(module, nn.Sequential):
        return _in_sequential(at, module)
    try:
        network = feed_forward(module)
    except ParameterError:
        return {}
    names = {id(child): child_name for child_name, child in module.named_modules()}
    up, down = (f"{at}{names[id(layer)]}" for layer in (network.up, network.down))
    return {name: Site(network, up, down, name, name, _in_place_of(name))}


def _bert(at: str, module: Any) -> Site:
    intermediate, output = module.intermediate, module.output
    network = FeedForward(intermediate.dense, output.dense, intermediate.intermediate_act_fn)

    def put(model: nn.Module, layer: MoE) -> None:
        block: Any = model.get_submodule(at[:-1])
        old = block.output
        block.output = ExpertOutput(layer, old.LayerNorm, old.dropout).train(old.training)
        block.intermediate = nn.Identity().train(block.intermediate.training)

    return Site(network, f"{at}intermediate.dense", f"{at}output.dense", at[:-1], at[:-1], put)


def _into_encoder(name: str) -> Callable[[nn.Module, MoE], None]:
    def put(model: nn.Module, layer: MoE) -> None:
        block: Any = model.get_submodule(name)
        training = block.linear1.training
        block.linear1, block.linear2, block.dropout = layer, nn.Identity(), nn.Identity()
        block.linear2.train(training), block.dropout.train(training)
        block.activation, block.activation_relu_or_gelu = _same, 0  # 0 keeps torch off its fused path
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoder):  # experts take no nested tensors
                module.use_nested_tensor = module.enable_nested_tensor = False

    return put


def _in_sequential(at: str, module: nn.Sequential) -> dict[str, Site]:
    """Each ``Linear, activation, Linear`` of equal outer widths, from the first on, no layer twice."""
    found: dict[str, Site] = {}
    parts = [(number, part) for number, part in enumerate(module) if not isinstance(part, nn.Dropout)]
    start = 0
    while start + 2 < len(parts):
        (first, up), (_, activation), (last, down) = parts[start : start + 3]
        fits = isinstance(up, nn.Linear) and isinstance(down, nn.Linear) and not isinstance(activation, nn.Linear)
        if fits and up.in_features == down.out_features and up.out_features == down.in_features:
            put = _into_sequential(at, first, last)
            start_name, end_name = f"{at}{first}", f"{at}{last}"
            network = FeedForward(up, down, activation)
            found[start_name] = Site(network, start_name, end_name, start_name, end_name, put)
            start += 3
        else:
            start += 1
    return found


def _into_sequential(at: str, first: int, last: int) -> Callable[[nn.Module, MoE], None]:
    def put(model: nn.Module, layer: MoE) -> None:
        holder: Any = model.get_submodule(at[:-1])
        holder[first] = layer
        for number in range(first + 1, last + 1):
            holder[number] = nn.Identity().train(holder[number].training)

    return put


def _in_place_of(name: str) -> Callable[[nn.Module, MoE], None]:
    def put(model: nn.Module, layer: MoE) -> None:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)

    return put


def _same(x: Tensor) -> Tensor:
    return x


def _inside(name: str, other: str) -> bool:
    return name.startswith(f"{other}.") if other else True
