"""Which neurons of a trained feed-forward network matter, and how they are dealt out to experts."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.surgery import call, evaluating
from porism_plugins.moe._moebert_sites import Site

Loss = Callable[[nn.Module, Any], Tensor]


def task_loss(model: nn.Module, batch: Any) -> Tensor:
    """The mean loss of a batch: a pair ``(inputs, labels)``, or a mapping with labels for a transformers model."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        output = call(model, batch[0])
        return F.cross_entropy(getattr(output, "logits", output), batch[1])
    if isinstance(batch, Mapping) and "labels" in batch and "labels" in inspect.signature(model.forward).parameters:
        found: Tensor | None = call(model, batch).loss
        if found is not None:
            return found
    raise ParameterError("calibration: give pairs (inputs, labels), mappings with labels, or say how by loss=")


def importance(
    model: nn.Module, found: Mapping[str, Site], calibration: Iterable[Any], loss: Loss = task_loss
) -> dict[str, Tensor]:
    """Importance of the neurons of each network: sum over samples of |w1_j . dL/dw1_j + w2_j . dL/dw2_j|.

    The gradient of each sample comes out of one backward pass a batch: for neuron j with pre-activation z_j and output
    h_j the bracket is sum_t (z_jt - b_j) dL/dz_jt + h_jt dL/dh_jt over the sample's tokens t.

    Parameters
    ----------
    model
        Run in evaluation mode; its mode, weights and gradients are left alone.
    found
        Of :func:`porism_plugins.moe._moebert_sites.sites`.
    calibration
        Batches. Samples are the first axis of what flows into the networks; with ``nn.TransformerEncoderLayer`` the
        second one, unless ``batch_first``.
    loss
        ``loss(model, batch)``, a mean over samples.

    Returns
    -------
    dict
        float32 tensors of shape (D,), at least 0, by name.

    Raises
    ------
    ParameterError
        For no batch, a loss or scores that are not finite, and networks that no gradient reaches.
    """
    scores: dict[str, Tensor] = {}
    batches = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.enable_grad())
        kept: dict[str, tuple[Tensor, Tensor]] = {}
        for name, site in found.items():
            for handle in _watch(model, name, site, kept):
                stack.callback(handle.remove)
        for batch in calibration:
            kept.clear()
            value = loss(model, batch)
            if not bool(value.isfinite()):
                raise ParameterError(f"calibration: the loss is {value.item()} at batch {batches}")
            if missed := [name for name in found if name not in kept]:
                raise ParameterError(f"calibration never reached {', '.join(missed[:12])}; exclude them")
            flat = [tensor for pair in kept.values() for tensor in pair]
            gradients = torch.autograd.grad(value, flat, allow_unused=True)
            for number, (name, site) in enumerate(found.items()):
                score = _score(site, kept[name], gradients[2 * number : 2 * number + 2], name)
                scores[name] = scores.get(name, 0) + score
            batches += 1
    if not batches:
        raise ParameterError("calibration batches are empty; give at least one")
    if bad := [name for name, score in scores.items() if not bool(score.isfinite().all())]:
        raise ParameterError(f"calibration: importance in {', '.join(bad[:12])} is not finite")
    return scores


def _watch(model: nn.Module, name: str, site: Site, kept: dict[str, tuple[Tensor, Tensor]]) -> list[Any]:
    """Keep the pre-activations and outputs of the neurons, as parts of the graph."""
    before: dict[str, Tensor] = {}

    def after_up(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        before["z"] = output if output.requires_grad else output.detach().requires_grad_()
        return before["z"]

    def before_down(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept[name] = (before["z"], inputs[0])

    up, down = model.get_submodule(site.up), model.get_submodule(site.down)
    return [up.register_forward_hook(after_up), down.register_forward_pre_hook(before_down)]


def _score(site: Site, kept: tuple[Tensor, Tensor], gradients: tuple[Tensor | None, ...], name: str) -> Tensor:
    if any(gradient is None for gradient in gradients):
        raise ParameterError(f"calibration: no gradient reaches {name}; exclude it")
    z, h = (tensor.detach().float() for tensor in kept)
    bias = site.network.up.bias
    incoming = z if bias is None else z - bias.detach().float()
    products = incoming * gradients[0].float() + h * gradients[1].float()
    samples = products.movedim(site.batch_axis, 0) if products.dim() > 2 else products
    per_sample = samples.reshape(len(samples), -1, samples.shape[-1]).sum(1)
    return len(samples) * per_sample.abs().sum(0)  # the loss is a mean over samples


def magnitude(site: Site) -> Tensor:
    """Norm of a neuron's incoming weights times that of its outgoing ones, the order without data."""
    network = site.network
    return network.up.weight.detach().float().norm(dim=1) * network.down.weight.detach().float().norm(dim=0)


def dealt(score: Tensor, *, experts: int, inner: int, shared: int) -> Tensor:
    """Neurons of each expert, int64 of shape (experts, inner): the ``shared`` best in all, the next dealt out in turn.

    Raises
    ------
    ParameterError
        If there are too few neurons, or more shared ones than an expert has.

    Examples
    --------
    >>> dealt(torch.tensor([9., 8, 7, 6, 5, 4]), experts=2, inner=3, shared=1)
    tensor([[0, 1, 3],
            [0, 2, 4]])
    """
    if not 0 <= shared <= inner:
        raise ParameterError(f"shared must be from 0 to an expert's {inner} neurons, got {shared}")
    needed = shared + experts * (inner - shared)
    if needed > len(score):
        raise ParameterError(f"experts need {needed} different neurons and there are {len(score)}; share more of them")
    order = score.argsort(descending=True, stable=True)
    own = order[shared:needed].view(-1, experts).t()
    return torch.cat([order[:shared].expand(experts, -1), own], 1)
