"""What the claims and figures of GEAR measure: synthetic keys, and a trained model of characters with any cache."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from porism.divergences import kl_divergence_logits
from porism.testbeds import corpus
from porism.testbeds.trained import tiny_llama
from porism_plugins.kvcache import _engine as engine

# Bits and group sizes that the quantiser alone may choose from.
CHOICES = tuple(itertools.product(range(2, 9), (4, 8, 16, 32, 64, 128)))
CONTEXT, AFTER = 256, 32
# Of keys and values of the context in 16 bits: two layers of two heads of 64 channels.
HALF_BYTES = 2 * 2 * 2 * 2 * 64 * CONTEXT


def synthetic(
    rng: np.random.Generator, *, tokens: int = 256, width: int = 64, heads: int = 2, offset: float = 2.0,
    spikes: float = 0.01,
) -> Tensor:  # fmt: skip
    """Keys (1, heads, 1, tokens, width): rank 6, noise, log-normal scales and offsets by channel, some entries x 6."""
    low = rng.normal(size=(heads, tokens, 6)) @ rng.normal(size=(heads, 6, width)) / np.sqrt(6)
    x = low + 0.1 * rng.normal(size=low.shape)
    x = x * np.exp(0.5 * rng.normal(size=(heads, 1, width))) + offset * rng.normal(size=(heads, 1, width))
    x = np.where(rng.random(x.shape) < spikes, 6 * x, x)
    return torch.from_numpy(x)[None, :, None]


def error(codec: engine.Codec, states: Tensor, role: engine.Role = "keys") -> float:
    """Relative error of what a codec gives back, in the Frobenius norm."""
    stored, out = codec.compress(states, role), torch.empty_like(states)
    codec.decompress(stored, out, role)
    return float((out - states).norm() / states.norm())


def residual(codec: engine.Codec, states: Tensor) -> Tensor:
    """What a codec misses of keys."""
    stored, out = codec.compress(states, "keys"), torch.empty_like(states)
    codec.decompress(stored, out, "keys")
    return states - out


def size(codec: engine.Codec, states: Tensor, role: engine.Role = "keys") -> int:
    """Bytes that a codec stores."""
    return sum(tensor.nbytes for tensor in codec.compress(states, role).values())


@functools.cache
def language_model() -> tuple[Any, np.ndarray]:
    """A trained model of characters whose heads have 64 channels, and text that it has not seen."""
    text = corpus(np.random.default_rng(0))
    return tiny_llama(text.train, hidden=256, steps=120), text.test


def excerpt(rng: np.random.Generator, length: int) -> Tensor:
    """Unseen text, codes of shape (1, length)."""
    _, text = language_model()
    start = int(rng.integers(len(text) - length))
    return torch.from_numpy(np.asarray(text[start : start + length], dtype=np.int64))[None]


@torch.no_grad()
def attention_error(ids: Tensor, make: Callable[[Any], Any]) -> tuple[float, int]:
    """Relative error of the attention layers' outputs for the last tokens, after the first went through a cache; and
    the cache's bytes before them."""
    model, _ = language_model()
    from transformers import DynamicCache

    outputs, sizes = [], []
    for cache in (DynamicCache(config=model.config), make(model)):
        model(ids[:, :CONTEXT], past_key_values=cache)
        sizes.append(cache.bytes() if isinstance(cache, engine.BlockCache) else 0)
        outputs.append(torch.cat(list(_attention_outputs(model, ids[:, CONTEXT:], cache))))
    dense, ours = outputs
    return float((ours - dense).norm() / dense.norm()), sizes[1]


def _attention_outputs(model: Any, ids: Tensor, cache: Any) -> Iterator[Tensor]:
    found: list[Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda _, inputs, output: found.append(output[0]))
        for layer in model.model.layers
    ]
    try:
        model(ids, past_key_values=cache)
    finally:
        for hook in hooks:
            hook.remove()
    yield from found


def best_quantiser(ids: Tensor, make: Callable[[Any, int, int], Any], limit: int) -> tuple[float, int, tuple[int, int]]:
    """Least attention error of a quantiser alone over :data:`CHOICES` in at most ``limit`` bytes; bytes and choice."""
    model, _ = language_model()
    found = []
    for bits, group in CHOICES:
        cache = make(model, bits, group)
        with torch.no_grad():
            model(ids[:, :CONTEXT], past_key_values=cache)
        if 0.8 * limit <= cache.bytes() <= limit:
            wrong, size = attention_error(ids, lambda model, b=bits, g=group: make(model, b, g))
            found.append((wrong, size, (bits, group)))
    return min(found)


@torch.no_grad()
def surprise(ids: Tensor, make: Callable[[Any], Any], *, prompt: int = 64, chunk: int = 4) -> np.ndarray:
    """KL(exact || with the cache) in nats at each token after the prompt, both read the same text; shape (tokens,)."""
    model, _ = language_model()
    exact = model(ids).logits[:, prompt:]
    cache = make(model)
    model(ids[:, :prompt], past_key_values=cache)
    steps = [model(part, past_key_values=cache).logits for part in ids[:, prompt:].split(chunk, 1)]
    return kl_divergence_logits(exact[0], torch.cat(steps, 1)[0]).clamp_min(0).numpy()


# The parts of GEAR that are left out, by name.
VARIANTS: dict[str, dict[str, Any]] = {
    "quantised": {"rank": 0, "sparsity": 0.0},
    "+ outliers": {"rank": 0},
    "+ low rank": {"sparsity": 0.0},
    "GEAR": {},
}


def draw_error_of_bytes(table: Any, left: Any, right: Any) -> None:
    """One line for each variant, by what its cache takes of a 16-bit one; on the right beside the best quantiser."""
    for axes, panel in ((left, "keys"), (right, "attention")):
        for variant in dict.fromkeys(table["variant"].tolist()):
            rows = (table["variant"] == variant) & (table["panel"] == panel)
            axes.plot(table["share"][rows], table["error"][rows], "o-", markersize=4, label=variant)
        axes.set(yscale="log", xlabel="bytes of a 16-bit cache")
    left.set_ylabel("relative error of synthetic keys")
    right.set_ylabel("relative error of attention's output")
    left.legend()


def draw_surprise(table: Any, left: Any, right: Any) -> None:
    """KL by position, smoothed over 20 tokens, at 2 and at 4 bits."""
    for axes, bits in ((left, 2), (right, 4)):
        for variant in dict.fromkeys(table["variant"].tolist()):
            rows = (table["variant"] == variant) & (table["bits"] == bits)
            smooth = np.convolve(table["kl"][rows], np.full(20, 1 / 20), mode="valid")
            axes.plot(table["position"][rows][: len(smooth)] + 10, smooth, label=variant)
        axes.set(yscale="log", xlabel="tokens decoded", title=f"{bits} bits")
    left.set_ylabel("KL to the exact model in nats")
    left.legend()
