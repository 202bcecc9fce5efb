"""A model that reads the rows of a batch a few tokens at a time, and takes back what was only drafted.

Rows are lists of tokens of any length. What a row has read stands in slots of the cache: its first ``base`` tokens in
the slots of their own number, then those of the last calls in any order, drafts among them. When rows grow, the slots
on their way are moved together and the rest is cropped. Masks hide what is not a row's own, and positions are those in
the row: so a row is computed as it would be alone.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from porism.errors import ParameterError
from porism_plugins.spec._proposal import Proposal, depths, is_chain, path_to


@dataclasses.dataclass
class Row:
    """What a row has read: ``base`` tokens, then those with slots in ``tail``, then drafts with ``slots`` of theirs."""

    base: int = 0
    tail: list[int] = dataclasses.field(default_factory=list)
    drafts: list[int] = dataclasses.field(default_factory=list)
    parents: list[int] = dataclasses.field(default_factory=list)
    slots: list[int] = dataclasses.field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens read, without drafts."""
        return self.base + len(self.tail)

    def follow(self, sequence: Sequence[int]) -> None:
        """Take drafts over that the row went on with, but for its last token, and forget the others."""
        node = -1
        while self.length < len(sequence) - 1:
            token = sequence[self.length]
            below = (i for i, parent in enumerate(self.parents) if parent == node and self.drafts[i] == token)
            node = next(below, -2)
            if node == -2:
                break
            self.tail.append(self.slots[node])
        self.drafts, self.parents, self.slots = [], [], []


class Reader:
    """Reads sequences, and drafts after them, with a causal language model of transformers.

    Parameters
    ----------
    model
        A causal language model in evaluation mode.
    use_cache
        Whether keys and values are kept between calls; without them every call reads everything.
    name
        The argument that error messages name.

    Raises
    ------
    ParameterError
        If the model is an encoder-decoder, or keeps a state that cannot be taken back.
    """

    def __init__(self, model: Any, *, use_cache: bool = True, name: str = "target") -> None:
        self.model, self.name, self.use_cache, self.calls = model, name, use_cache, 0
        self.config = config_of(model, name)
        self.device = next(model.parameters()).device
        self._accepts = set(inspect.signature(model.forward).parameters)
        if use_cache and "past_key_values" not in self._accepts:
            raise ParameterError(f"{name}: {type(model).__name__} takes no past_key_values; give use_cache=False")
        self._whole = all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.config).layers)
        if use_cache and not self._whole:
            raise ParameterError(
                f"{name}: {type(model).__name__} has sliding or recurrent layers, whose state cannot be taken back; "
                "give use_cache=False"
            )
        self._forget([])

    def read(self, rows: Sequence[int], sequences: Sequence[Sequence[int]], trees: Sequence[Proposal]) -> list[Tensor]:
        """Read what is new, and return the logits there.

        Parameters
        ----------
        rows
            Names of the rows; those that a call leaves out are forgotten.
        sequences
            The tokens of each row. From one call to the next either every row grows or none does.
        trees
            The drafts after each row. While rows do not grow, trees may grow at their end.

        Returns
        -------
        list of Tensor
            Of shape (new, vocabulary) for each row: after its last token if it grew, then after each new draft.
        """
        self._select(rows)
        if not self.use_cache:
            self._forget(rows)
        elif any(state.length < len(sequence) for state, sequence in zip(self.states, sequences, strict=True)):
            self._settle(sequences)
        past, fresh, wanted = self.real.shape[1], [], []
        for state, sequence, tree in zip(self.states, sequences, trees, strict=True):
            new = len(tree.tokens) - len(state.drafts)
            fresh.append([*sequence[state.length :], *tree.tokens[len(state.drafts) :]])
            wanted.append(new + (state.length < len(sequence)))
        width = max(map(len, fresh))
        ids, positions = torch.zeros(2, len(fresh), width, dtype=torch.long)
        real = torch.zeros(len(fresh), width, dtype=torch.bool)
        for r, (state, sequence, tree, new_ids) in enumerate(zip(self.states, sequences, trees, fresh, strict=True)):
            ids[r, : len(new_ids)] = torch.tensor(new_ids, dtype=torch.long)
            places = _places(state, len(sequence), tree)
            positions[r, : len(new_ids)] = torch.tensor(places, dtype=torch.long)
            real[r, : len(new_ids)] = True
            _note(state, len(sequence), tree, past)
        self.real = torch.cat([self.real, real], 1)
        keep = width - min(len(new_ids) - want for new_ids, want in zip(fresh, wanted, strict=True))
        logits = self._forward(ids, positions, self._mask(past), keep)
        start = width - logits.shape[1]
        return [
            logits[r, len(new_ids) - want - start : len(new_ids) - start]
            for r, (new_ids, want) in enumerate(zip(fresh, wanted, strict=True))
        ]

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None, keep: int) -> Tensor:
        options = {
            "attention_mask": None if mask is None else mask.to(self.device),
            "position_ids": positions.to(self.device),
            "logits_to_keep": keep,
            "use_cache": self.use_cache,
            "past_key_values": self.cache,
        }
        self.calls += 1
        with torch.no_grad():
            output = self.model(ids.to(self.device), **{k: v for k, v in options.items() if k in self._accepts})
        if self.cache is not None and self.cache.get_seq_length() != self.real.shape[1]:
            raise ParameterError(
                f"{self.name}: {type(self.model).__name__} did not fill its cache; give use_cache=False"
            )
        logits: Tensor = output.logits
        return logits

    def _mask(self, past: int) -> Tensor | None:
        """None if nothing is hidden, (batch, slots) if no row has siblings, else (batch, 1, new, slots) to add."""
        if all(is_chain(state.parents) for state in self.states):
            return None if self.cache is not None and bool(self.real.all()) else self.real.long()
        self._must_read_trees()
        width = self.real.shape[1] - past
        allowed = torch.zeros(len(self.states), width, past + width, dtype=torch.bool)
        # Padding sees itself: where nothing is seen, float16 scores can all be -inf, and NaN spreads from their values.
        allowed[:, torch.arange(width), past + torch.arange(width)] = True
        for r, state in enumerate(self.states):
            known = torch.zeros(past + width, dtype=torch.bool)
            known[: state.base] = True
            known[[slot for slot in state.tail if slot < past]] = True
            for slot in (slot for slot in state.tail if slot >= past):
                known[slot] = True
                allowed[r, slot - past] = known
            for node, slot in enumerate(state.slots):
                if slot >= past:
                    allowed[r, slot - past] = known
                    allowed[r, slot - past, [state.slots[above] for above in path_to(node, state.parents)]] = True
        dtype = next(self.model.parameters()).dtype
        hidden = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)  # attention may go on in float32
        return torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, hidden)[:, None]

    def _must_read_trees(self) -> None:
        attention = getattr(self.config, "_attn_implementation", "eager")
        if "position_ids" not in self._accepts or not self._whole or attention not in ("eager", "sdpa"):
            raise ParameterError(
                f"{self.name}: {type(self.model).__name__} cannot read trees of drafts, which takes position_ids, "
                "attention over everything, and attn_implementation 'eager' or 'sdpa'; draft chains"
            )

    def _settle(self, sequences: Sequence[Sequence[int]]) -> None:
        """Keep the slots on each row's way and let go of the others."""
        for state, sequence in zip(self.states, sequences, strict=True):
            state.follow(sequence)
        lengths = [state.length for state in self.states]
        first, longest, past = min(state.base for state in self.states), max(lengths), self.real.shape[1]
        if any(state.tail != list(range(state.base, state.length)) for state in self.states):
            index = torch.zeros(len(lengths), longest - first, dtype=torch.long)
            for r, state in enumerate(self.states):
                kept = [*range(first, state.base), *state.tail]
                index[r, : len(kept)] = torch.tensor(kept, dtype=torch.long)
            self._move(index, first)
        if self.cache is not None and past:
            self.cache.crop(longest - past)
        self.real = torch.arange(longest) < torch.tensor(lengths)[:, None]
        for state in self.states:
            state.base, state.tail = state.length, []

    def _move(self, index: Tensor, first: int) -> None:
        """Put the slots of ``index``, shape (batch, n), in the places from ``first`` on."""
        assert self.cache is not None
        for layer in self.cache.layers:
            for states in (layer.keys, layer.values):
                at = index.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
                states[:, :, first : first + index.shape[1]] = states.gather(2, at)

    def _select(self, rows: Sequence[int]) -> None:
        """Keep some of the rows; start anew if there are others."""
        if list(rows) == self.rows:
            return
        if not set(rows) <= set(self.rows):
            self._forget(rows)
            return
        kept = [self.rows.index(row) for row in rows]
        self.states, self.real = [self.states[i] for i in kept], self.real[kept]
        if self.cache is not None and self.real.shape[1]:
            self.cache.batch_select_indices(torch.tensor(kept, device=self.device))
        self.rows = list(rows)

    def _forget(self, rows: Sequence[int]) -> None:
        self.rows, self.states = list(rows), [Row() for _ in rows]
        self.real = torch.zeros(len(self.rows), 0, dtype=torch.bool)
        self.cache = DynamicCache(config=self.config) if self.use_cache else None


def config_of(model: Any, name: str) -> Any:
    """The configuration of a causal language model's text part.

    Raises
    ------
    ParameterError
        If this is no model of transformers, or an encoder-decoder.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "forward") or not hasattr(config, "get_text_config"):
        raise ParameterError(f"{name} must be a causal language model of transformers, got {type(model).__name__}")
    if config.is_encoder_decoder:
        raise ParameterError(f"{name}: {type(model).__name__} is an encoder-decoder; give a decoder-only model")
    return config.get_text_config(decoder=True)


def _places(state: Row, length: int, tree: Proposal) -> list[int]:
    """Positions of what is new to a row."""
    below = depths(tree.parents or [])[len(state.drafts) :]
    return [*range(state.length, length), *(length - 1 + depth for depth in below)]


def _note(state: Row, length: int, tree: Proposal, past: int) -> None:
    """Note what a row is about to read, in slots from ``past`` on."""
    pending, old = length - state.length, len(state.drafts)
    state.tail += range(past, past + pending)
    state.drafts += tree.tokens[old:]
    state.parents += (tree.parents or [])[old:]
    state.slots += range(past + pending, past + pending + len(tree.tokens) - old)
