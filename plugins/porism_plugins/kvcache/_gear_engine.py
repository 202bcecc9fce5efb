"""The decomposition of GEAR: what it stores of one block."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from porism_plugins.kvcache import _engine as engine
from porism_plugins.kvcache import _parts as parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class GEARCodec:
    """One block of keys or values as D + L + S: quantised, low-rank and sparse. Options as :class:`GEARCache`."""

    bits: int = 4
    rank: int = 4
    sparsity: float = 0.02
    group: int = 0
    passes: int = 3
    storage: Literal["half", "model"] = "half"
    decode_rank: int = 2
    decode_tokens: int = 0
    key_axis: parts.Axis = "channel"

    def compress(self, states: Tensor, role: engine.Role) -> dict[str, Tensor]:
        """Outliers, then a quantiser of the rest, then the low-rank part of what both miss."""
        axis, storage = self._axis(role), self._storage(states.dtype)
        sparse = parts.outliers(states, share=self.sparsity, axis=axis, storage=storage)
        mean = states.mean((1, 4) if axis == "token" else 3, keepdim=True)
        rest = states.clone()
        parts.put(sparse, rest, axis=axis, values=mean)
        stored = parts.quantise(rest, bits=self.bits, axis=axis, group=self.group, storage=storage)
        parts.dequantise(stored, rest, bits=self.bits, axis=axis, group=self.group)
        residual = rest.neg_().add_(states)
        parts.put(sparse, residual, axis=axis, values=residual.new_zeros(()))
        rank = self.decode_rank if states.shape[-2] <= self.decode_tokens else self.rank
        return stored | sparse | parts.low_rank(residual, rank=rank, passes=self.passes, storage=storage)

    def decompress(self, stored: dict[str, Tensor], out: Tensor, role: engine.Role) -> None:
        """Write D + S + L; outliers are exact up to L, which is not masked."""
        axis = self._axis(role)
        parts.dequantise(stored, out, bits=self.bits, axis=axis, group=self.group)
        parts.put(stored, out, axis=axis)
        parts.add_low_rank(stored, out)

    def _axis(self, role: engine.Role) -> parts.Axis:
        return self.key_axis if role == "keys" else "token"

    def _storage(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float16 if self.storage == "half" else dtype
