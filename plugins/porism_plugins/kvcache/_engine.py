"""What key-value caches share: new tokens wait in full precision, and blocks of them are compressed once.

A cache of this family is a :class:`Codec`, which turns a span of keys or values into small tensors and back. When
tokens are read, one layer's blocks are decompressed into the tensor that its attention reads, which is gone with it:
between steps nothing but the compressed blocks and the waiting tokens is held. Keys arrive after their rotation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import (
    DYNAMIC_LAYER_TYPE_MAPPING,
    Cache,
    CacheLayerMixin,
    get_layer_types_and_kwargs,
)

from porism.errors import ParameterError

Role = Literal["keys", "values"]
ROLES: tuple[Role, Role] = ("keys", "values")
_COMPRESSED = "full_attention"


class Codec(Protocol):
    """How a block is compressed."""

    def compress(self, states: Tensor, role: Role) -> dict[str, Tensor]:
        """Tensors that stand for ``states`` (batch, heads, 1, tokens, width), and own their memory.

        Each begins with (batch, heads or 1, 1).
        """
        ...

    def decompress(self, stored: dict[str, Tensor], out: Tensor, role: Role) -> None:
        """Write the states into ``out`` (batch, heads, spans, tokens, width), float32 or float64, a strided view."""
        ...


@dataclasses.dataclass
class Run:
    """Consecutive spans of one length, side by side in the tensors' third axis."""

    tokens: int
    stored: dict[Role, dict[str, Tensor]]

    @property
    def length(self) -> int:
        """Tokens in all of its spans."""
        return self.tokens * next(iter(self.stored["keys"].values())).shape[2]

    def joins(self, other: Run) -> bool:
        """Whether the spans of another run can stand beside these."""
        return self.tokens == other.tokens and self._form() == other._form()

    def join(self, other: Run) -> None:
        """Append the spans of another run; only stored bytes move."""
        for role, stored in self.stored.items():
            self.stored[role] = {name: torch.cat([t, other.stored[role][name]], 2) for name, t in stored.items()}

    def _form(self) -> list[Any]:
        return [
            (role, name, tensor.dtype, tensor.shape[:2], tensor.shape[3:])
            for role, stored in self.stored.items()
            for name, tensor in stored.items()
        ]


class BlockCacheLayer(CacheLayerMixin):
    """One attention layer's cache.

    Parameters
    ----------
    codec
        Compresses and decompresses a block.
    buffer
        Tokens that wait in full precision until there are this many; then they are compressed as one block.
    multiple
        A block's tokens are a multiple of this; the newest others go on waiting.
    """

    is_sliding = False
    is_croppable = False  # only the waiting tokens can be taken back

    def __init__(self, codec: Codec, *, buffer: int, multiple: int = 1) -> None:
        super().__init__()
        self.codec, self.buffer, self.multiple = codec, buffer, multiple
        self.runs: list[Run] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take over dtype, device and shapes from the first states."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (states[:, :, :0].detach().clone() for states in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add states (batch, heads, new, width) and return all of them, in order; what is new is returned exactly.

        Gradients stop at tokens of earlier calls.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._check(key_states, value_states)
        result = self._with("keys", key_states), self._with("values", value_states)
        with torch.no_grad():
            self.keys = torch.cat([self.keys, key_states], -2)
            self.values = torch.cat([self.values, value_states], -2)
            if self.keys.shape[-2] >= self.buffer:
                self._compress()
        return result

    def get_seq_length(self) -> int:
        """Tokens held, compressed or waiting."""
        return self._compressed() + (self.keys.shape[-2] if self.is_initialized else 0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what the next :meth:`update` returns."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No limit: -1."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = None
        self.runs, self.is_initialized = [], False

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the newest tokens, given as a negative number, as long as they still wait.

        Raises
        ------
        ParameterError
            For a positive number, and for more tokens than wait: a block is compressed once and never again.
        """
        if tokens_to_remove > 0:
            raise ParameterError(f"tokens_to_remove must be 0 or negative, got {tokens_to_remove}")
        waiting = self.keys.shape[-2] if self.is_initialized else 0
        if -tokens_to_remove > waiting:
            raise ParameterError(
                f"tokens_to_remove must be at least {-waiting}, got {tokens_to_remove}: older tokens are compressed; "
                "make the buffer longer than what you take back"
            )
        if tokens_to_remove:
            self._map(lambda t: t[:, :, : waiting + tokens_to_remove].clone(), waiting_only=True)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Select rows of the batch, as beam search does."""
        self._map(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        self._map(lambda t: t[indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        self._map(lambda t: t.repeat_interleave(repeats, 0))

    def offload(self) -> None:
        """Move everything to the CPU."""
        self._map(lambda t: t.to("cpu"))

    def prefetch(self) -> None:
        """Move everything back to where it came from."""
        self._map(lambda t: t.to(self.device))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor held, with its name: ``keys.codes`` and so on, the waiting tokens as ``keys.waiting``."""
        for role in ROLES if self.is_initialized else ():
            yield f"{role}.waiting", getattr(self, role)
            for run in self.runs:
                yield from ((f"{role}.{name}", tensor) for name, tensor in run.stored[role].items())

    def _with(self, role: Role, new: Tensor) -> Tensor:
        """All states: blocks decompressed, then those that wait, then the new."""
        waiting: Tensor = getattr(self, role)
        start = self._compressed()
        if not start:
            return torch.cat([waiting, new], -2) if waiting.shape[-2] else new
        end = start + waiting.shape[-2]
        result = new.new_empty(*new.shape[:2], end + new.shape[-2], new.shape[-1])
        at = 0
        for run in self.runs:
            part = result[:, :, at : at + run.length].unflatten(2, (-1, run.tokens))
            wide = torch.promote_types(part.dtype, torch.float32)
            target = part if part.dtype == wide else torch.empty(part.shape, dtype=wide, device=part.device)
            with torch.no_grad():
                self.codec.decompress(run.stored[role], target, role)
                if target is not part:
                    part.copy_(target)
            at += run.length
        result[:, :, start:end] = waiting
        result[:, :, end:] = new
        return result

    def _compress(self) -> None:
        """Make a block of as many waiting tokens as the multiple allows."""
        tokens = self.keys.shape[-2] // self.multiple * self.multiple
        if not tokens:
            return
        wide = torch.promote_types(self.dtype, torch.float32)
        stored = {role: self.codec.compress(getattr(self, role)[:, :, None, :tokens].to(wide), role) for role in ROLES}
        run = Run(tokens, stored)
        if self.runs and self.runs[-1].joins(run):
            self.runs[-1].join(run)
        else:
            self.runs.append(run)
        self._map(lambda t: t[:, :, tokens:].clone(), waiting_only=True)

    def _compressed(self) -> int:
        return sum(run.length for run in self.runs)

    def _map(self, change: Callable[[Tensor], Tensor], *, waiting_only: bool = False) -> None:
        if not self.is_initialized:
            return
        self.keys, self.values = change(self.keys), change(self.values)
        for run in () if waiting_only else self.runs:
            run.stored = {role: {n: change(t) for n, t in stored.items()} for role, stored in run.stored.items()}

    def _check(self, key_states: Tensor, value_states: Tensor) -> None:
        for name, new, held in (("key_states", key_states, self.keys), ("value_states", value_states, self.values)):
            if new.shape[:2] != held.shape[:2] or new.shape[3:] != held.shape[3:] or new.dtype != held.dtype:
                raise ParameterError(
                    f"{name} must be {held.dtype} of shape ({held.shape[0]}, {held.shape[1]}, new, {held.shape[-1]}) "
                    f"as before, got {new.dtype} of shape {tuple(new.shape)}; use a new cache for other inputs"
                )


class BlockCache(Cache):
    """A cache of :class:`BlockCacheLayer` for the layers with full attention, and of what transformers uses for others.

    Parameters
    ----------
    model
        A model of transformers, or its configuration.
    layer
        Makes one compressed layer.

    Raises
    ------
    ParameterError
        If there is nothing to compress: no configuration, no layer with full attention, or an encoder.
    """

    def __init__(self, model: Any, layer: Callable[[], BlockCacheLayer]) -> None:
        types, options = get_layer_types_and_kwargs(_decoder_config(model))
        if _COMPRESSED not in types:
            raise ParameterError(f"model must have layers with full attention, got {', '.join(sorted(set(types)))}")
        pairs = zip(types, options, strict=True)
        super().__init__(
            layers=[layer() if t == _COMPRESSED else DYNAMIC_LAYER_TYPE_MAPPING[t](**kw) for t, kw in pairs]
        )

    def breakdown(self) -> dict[str, int]:
        """Bytes held by name: codes, scales, factors, outliers and their indices, tokens that wait."""
        sizes: dict[str, int] = {}
        for layer in self.layers:
            for name, tensor in _tensors(layer):
                sizes[name] = sizes.get(name, 0) + tensor.nbytes
        return sizes

    def bytes(self) -> int:
        """Bytes held between steps, to the byte; attention takes one layer's dense states besides, while it runs."""
        return sum(self.breakdown().values())


def _tensors(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """What a layer holds; others than ours hold plain keys and values, and recurrent ones their states."""
    if isinstance(layer, BlockCacheLayer):
        yield from layer.tensors()
        return
    for name, held in vars(layer).items():
        tensors = held.values() if isinstance(held, dict) else [held]
        yield from ((f"other.{name}", tensor) for tensor in tensors if isinstance(tensor, Tensor))


def _decoder_config(model: Any) -> Any:
    config = getattr(model, "config", model)
    if not hasattr(config, "get_text_config"):
        raise ParameterError(
            f"model must be a model of transformers or its configuration, got {type(model).__name__}; other modules "
            "keep no cache of this kind"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ParameterError(
            f"model must be a decoder, got encoder-decoder {config.model_type!r}; wrap two caches in transformers' "
            "EncoderDecoderCache"
        )
    text = config.get_text_config(decoder=True)
    if not hasattr(text, "use_cache") or not getattr(text, "is_decoder", True):
        raise ParameterError(f"model must be a decoder with a cache, got {config.model_type!r}, which reads none")
    if not hasattr(text, "num_attention_heads"):
        raise ParameterError(f"model must have attention, got {config.model_type!r} without attention heads")
    return text
