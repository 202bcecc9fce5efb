"""Checks of key-value caches: what a model's attention and ``generate`` rely on, however states are held.

``PAPER.method`` names a class whose first argument is a model of transformers or its configuration. A file whose cache
can be without loss says how: ``EXACT = {"option": value}``; its tokens are then compared with those of the dense cache.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from porism.registry import LoadedPaper, method
from porism.seeds import ROOT, generator
from porism.testing.replicates import error_of

BATCH, HEADS, WIDTH, LAYERS, VOCABULARY = 2, 2, 8, 2, 50
# Tokens of successive calls: a prompt, then one at a time, past the buffers of usual caches.
PROMPT, STEPS = 120, 20
SIZES = (PROMPT, *[1] * STEPS)


def check_cache_returns_what_to_attend_to(loaded: LoadedPaper) -> None:
    """``update`` returns keys and values of every position so far, in their dtype, the new ones untouched."""
    cache, seen = _cache(loaded), 0
    for keys, values in _calls(loaded):
        new = keys.shape[2]
        seen += new
        for name, given, got in zip(("keys", "values"), (keys, values), _update(cache, keys, values), strict=True):
            expected = (BATCH, HEADS, seen, WIDTH)
            assert got.shape == expected, f"{name} to attend to must have shape {expected}, got {tuple(got.shape)}"
            assert got.isfinite().all(), f"{name} to attend to are not finite"
            assert torch.equal(got[:, :, -new:], given), f"the newest {name} are not returned as they were given"


def check_cache_counts_its_tokens(loaded: LoadedPaper) -> None:
    """``get_seq_length`` is the number of positions seen, and ``get_mask_sizes`` fits what ``update`` returns."""
    cache, seen = _cache(loaded), 0
    for keys, values in _calls(loaded):
        assert cache.get_seq_length() == seen, f"after {seen} tokens get_seq_length gives {cache.get_seq_length()}"
        length, offset = cache.get_mask_sizes(keys.shape[2], 0)
        got, _ = _update(cache, keys, values)
        seen += keys.shape[2]
        assert (length, offset) == (got.shape[2], 0), (
            f"get_mask_sizes promises {length} positions from {offset} on, update returns {got.shape[2]}"
        )


def check_cache_keeps_the_order(loaded: LoadedPaper) -> None:
    """Positions come back in the order in which they were given."""
    cache, total = _cache(loaded), PROMPT + STEPS
    ramp = torch.linspace(-1, 1, total)[None, None, :, None].expand(BATCH, HEADS, total, WIDTH)
    got = (ramp, ramp)
    at = 0
    for new in SIZES:
        got = _update(cache, ramp[:, :, at : at + new], ramp[:, :, at : at + new])
        at += new
    for name, states in zip(("keys", "values"), got, strict=True):
        means = states.mean((0, 1, 3))
        alike = float(torch.corrcoef(torch.stack([means, ramp[0, 0, :, 0]]))[0, 1])
        assert alike > 0.95, f"{name} rise with the position, but those returned correlate with it by {alike:.2f} only"


def check_cache_generates(loaded: LoadedPaper) -> None:
    """``model.generate`` runs with it, with a batch of two, and without loss gives the dense cache's tokens."""
    model, prompt = _model()
    options = {"do_sample": False, "max_new_tokens": 24, "pad_token_id": 0, "eos_token_id": None}
    error = error_of(lambda: model.generate(prompt, past_key_values=_cache(loaded, model), **options))
    assert error is None, f"generate fails with this cache: {error!r}"
    exact = getattr(loaded.module, "EXACT", None)
    if exact is not None:
        ours = model.generate(prompt, past_key_values=_cache(loaded, model, **exact), **options)
        dense = model.generate(prompt, **options)
        assert torch.equal(ours, dense), f"with EXACT = {exact} generate gives other tokens than with the dense cache"


def check_cache_reorders_its_batch(loaded: LoadedPaper) -> None:
    """After ``reorder_cache`` and ``batch_select_indices`` rows are those that were chosen, for beam search."""
    for name in ("reorder_cache", "batch_select_indices"):
        cache, expected = _cache(loaded), _cache(loaded)
        for keys, values in _calls(loaded):
            _update(cache, keys, values)
            _update(expected, keys, values)
        rows = torch.tensor([1, 1])
        error = error_of(functools.partial(getattr(cache, name), rows))
        assert error is None, f"{name} fails: {error!r}"
        last = _states(loaded, 1)
        for got, kept in zip(_update(cache, *last), _update(expected, *last), strict=True):
            assert torch.allclose(got[:, :, :-1], kept[rows][:, :, :-1], atol=1e-3), (
                f"after {name}({rows.tolist()}) the rows held are not those"
            )


def check_cache_crops_or_refuses(loaded: LoadedPaper) -> None:
    """``crop`` takes tokens back, or raises an error; it never does nothing."""
    for back in (1, 3, PROMPT):
        cache, seen = _cache(loaded), 0
        for keys, values in _calls(loaded):
            _update(cache, keys, values)
            seen += keys.shape[2]
        try:
            cache.crop(-back)
        except (ValueError, NotImplementedError, RuntimeError, AttributeError):
            continue
        left = _update(cache, *_states(loaded, 1))[0].shape[2] - 1
        assert left == seen - back, f"crop({-back}) leaves {left} of {seen} tokens; take them back or raise ValueError"


def check_cache_resets(loaded: LoadedPaper) -> None:
    """After ``reset`` a cache is as new."""
    cache, fresh = _cache(loaded), _cache(loaded)
    for keys, values in _calls(loaded):
        _update(cache, keys, values)
    cache.reset()
    for keys, values in _calls(loaded):
        for got, expected in zip(_update(cache, keys, values), _update(fresh, keys, values), strict=True):
            same = got.shape == expected.shape and torch.allclose(got, expected, atol=1e-3)
            assert same, "after reset() update returns something of before; drop every tensor"


def check_cache_counts_its_bytes(loaded: LoadedPaper) -> None:
    """``bytes``, where there is one, is what its tensors' memory takes, and nothing is held unseen."""
    cache = _cache(loaded)
    if not hasattr(cache, "bytes"):
        return
    for keys, values in _calls(loaded):
        _update(cache, keys, values)
        held = sum({s.data_ptr(): s.nbytes() for s in map(Tensor.untyped_storage, _tensors(cache, set()))}.values())
        assert cache.bytes() == held, f"bytes() gives {cache.bytes()}, but tensors of {held} bytes are held"


def check_cache_in_low_precision(loaded: LoadedPaper) -> None:
    """bfloat16 and float16 states come back finite, and in their own dtype."""
    for dtype in (torch.bfloat16, torch.float16):
        cache = _cache(loaded)
        for keys, values in _calls(loaded):
            for got in _update(cache, keys.to(dtype), values.to(dtype)):
                assert got.dtype == dtype, f"states in {dtype} come back in {got.dtype}"
                assert got.isfinite().all(), f"states in {dtype} come back infinite or NaN"


def check_cache_of_unlike_layers(loaded: LoadedPaper) -> None:
    """Layers may differ in heads and width, and keys from values in width."""
    cache = _cache(loaded)
    for new in SIZES:
        for layer, (heads, width) in enumerate(((HEADS, WIDTH), (1, 2 * WIDTH))):
            states = _states(loaded, new, heads=heads, width=width)
            values = states[1][..., : width // 2]
            error = error_of(functools.partial(cache.update, states[0], values, layer))
            assert error is None, f"a layer of {heads} heads of {width} channels beside another fails: {error!r}"


def check_cache_refuses_models_without_attention(loaded: LoadedPaper) -> None:
    """A model without attention has nothing to cache here: an error that says so."""
    import transformers

    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1)
    error = error_of(lambda: _cache(loaded, config))
    assert isinstance(error, (ValueError, TypeError)) and "attention" in str(error), (
        f"a cache for a state-space model gives {error!r}; raise porism.errors.ParameterError that it has no attention"
    )


def check_cache_is_deterministic(loaded: LoadedPaper) -> None:
    """The same states give the same bits, and torch's global generator is left alone."""
    state, first, second = torch.get_rng_state(), _cache(loaded), _cache(loaded)
    for keys, values in _calls(loaded):
        for a, b in zip(_update(first, keys, values), _update(second, keys, values), strict=True):
            assert torch.equal(a, b), "the same states come back with other bits the second time"
    assert torch.equal(state, torch.get_rng_state()), "update draws from torch's global generator; take a generator"


def check_cache_keeps_its_inputs(loaded: LoadedPaper) -> None:
    """``update`` writes into none of the states that it is given."""
    cache = _cache(loaded)
    for keys, values in _calls(loaded):
        before = keys.clone(), values.clone()
        cache.update(keys, values, 0)
        same = torch.equal(keys, before[0]) and torch.equal(values, before[1])
        assert same, "update changes key_states or value_states in place"


def _cache(loaded: LoadedPaper, model: Any = None, **options: Any) -> Any:
    kind: Any = method(loaded)
    return kind(_config() if model is None else model, **options)


def _config() -> Any:
    import transformers

    return transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=2 * HEADS * WIDTH,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2 * HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )


def _model() -> tuple[Any, Tensor]:
    """A model with random weights and grouped queries, and a prompt for it."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = transformers.LlamaForCausalLM(_config())
        return model.eval(), torch.randint(1, VOCABULARY, (BATCH, PROMPT))


def _update(cache: Any, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Update every layer alike, as a model would, with copies; what the first returns."""
    with torch.no_grad():
        results = [cache.update(keys.clone(), values.clone(), layer) for layer in range(LAYERS)]
    first: tuple[Tensor, Tensor] = results[0]
    return first


def _states(loaded: LoadedPaper, new: int, heads: int = HEADS, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    rng = generator(ROOT, loaded.paper.key, "cache", new)
    keys, values = (torch.from_numpy(rng.normal(size=(BATCH, heads, new, width))).float() for _ in range(2))
    return keys, values


def _calls(loaded: LoadedPaper) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values of a prompt, and of single tokens."""
    keys, values = _states(loaded, PROMPT + STEPS)
    at = 0
    for new in SIZES:
        yield keys[:, :, at : at + new].clone(), values[:, :, at : at + new].clone()
        at += new


def _tensors(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that can be reached from an object through attributes, lists and dictionaries."""
    if id(thing) in seen or isinstance(thing, (str, bytes, int, float, type)):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
        return
    parts: list[Any] = []
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple, set)):
        parts = list(thing)
    else:
        with contextlib.suppress(TypeError):
            parts = list(vars(thing).values())
    for part in parts:
        yield from _tensors(part, seen)
