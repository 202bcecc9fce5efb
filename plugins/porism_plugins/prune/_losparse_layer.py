"""Linear layers as U V + S: dense while S is pruned in training, and with what is left of S gathered afterwards."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.surgery import matrix, replace

Structure = Literal["row", "column"]


def rank_of(out_features: int, in_features: int, share: float, most: float = 1.0) -> int:
    """Rank whose factors hold a ``share`` of a matrix's numbers, rounded up.

    It is 0 for matrices so small that rank 1 alone would hold more than a share of ``most``, and where the factors
    would hold no fewer numbers than the matrix.

    Examples
    --------
    >>> rank_of(256, 256, 0.05), rank_of(10, 256, 0.05), rank_of(10, 256, 0.05, most=0.1)  # of rank 6.4 and 0.48
    (7, 1, 0)
    """
    sides, weights = out_features + in_features, out_features * in_features
    rank = math.ceil(Fraction(repr(float(share))) * weights / sides)
    return rank if sides <= most * weights and rank * sides < weights else 0


def factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U of shape (out, rank) and V of shape (rank, in) with the best product; each has the singular values' roots.

    Examples
    --------
    >>> U, V = factors(torch.diag(torch.tensor([4.0, 1.0])), 1)
    >>> U @ V
    tensor([[4., 0.],
            [0., 0.]])
    """
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


class DecomposedLinear(nn.Module):
    """A linear layer in training: y = U V x + S x + b, with S an ``nn.Linear`` of the old shape that can be pruned.

    It starts with the best factors of this rank and S the whole residual, so that it computes what the layer did.

    Examples
    --------
    >>> layer = nn.Linear(6, 4)
    >>> torch.testing.assert_close(DecomposedLinear(layer, 2)(torch.ones(6)), layer(torch.ones(6)))
    """

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        weight = matrix(layer).detach()
        self.out_features, self.in_features = weight.shape
        self.rank, self.conv1d = rank, not isinstance(layer, nn.Linear)
        exact = weight.to(_wide(weight.dtype))
        U, V = (factor.to(weight.dtype) for factor in factors(exact, rank)) if rank else _empty(weight)
        self.U, self.V = nn.Parameter(U), nn.Parameter(V)
        residual = exact - U.to(exact.dtype) @ V.to(exact.dtype)  # of the rounded factors
        self.sparse = _linear(residual.to(weight.dtype), layer.bias)  # type: ignore[arg-type]
        self.train(layer.training)

    @property
    def bias(self) -> nn.Parameter | None:
        """The old layer's own."""
        return self.sparse.bias

    @property
    def weight(self) -> Tensor:
        """U V + S, shape (out_features, in_features)."""
        return _product(self.U, self.V, self.sparse.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        y = self.sparse(x)
        return y + F.linear(F.linear(x, self.V), self.U) if self.rank else y

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.in_features}, {self.out_features}, rank={self.rank}"


class LowRankSparseLinear(nn.Module):
    """A linear layer whose matrix is a product of thin factors plus a few whole rows (or columns).

    One matrix product makes the factors' hidden units and the outputs of the kept rows, another adds the former up. No
    dense matrix is made, and no buffer is kept between calls.

    Parameters
    ----------
    in_features, out_features, bias
        As of :class:`torch.nn.Linear`.
    rank
        Of the product; 0 for none.
    kept
        Number of rows, or of columns, of the sparse part.
    structure
        ``"row"`` (an output neuron) or ``"column"``.
    dtype
        Name or dtype of the parameters.
    conv1d
        Whether it stands for a transposed ``Conv1D``; only :func:`dense` asks.

    Attributes
    ----------
    inner
        V, and below it the kept rows, shape (rank + kept, in_features).
    outer
        U, and beside it the kept columns, shape (out_features, rank + kept).
    lines
        Which rows or columns are kept, int32 of shape (kept,).

    Examples
    --------
    >>> layer = LowRankSparseLinear(64, 32, rank=2, kept=3)
    >>> layer.kept_weights, layer.nbytes(), layer(torch.zeros(5, 7, 64)).shape  # 2 (64 + 32) + 3 * 64; 12 of indices
    (384, 1676, torch.Size([5, 7, 32]))
    """

    lines: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, rank: int, kept: int, structure: Structure = "row",
        bias: bool = True, dtype: torch.dtype | str = torch.float32, device: torch.device | str | None = None,
        conv1d: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features, self.out_features, self.rank, self.kept = in_features, out_features, rank, kept
        self.structure, self.conv1d = structure, conv1d
        place: Any = {"dtype": getattr(torch, dtype) if isinstance(dtype, str) else dtype, "device": device}
        below, beside = (kept, 0) if structure == "row" else (0, kept)
        self.inner = nn.Parameter(torch.zeros(rank + below, in_features, **place))
        self.outer = nn.Parameter(torch.zeros(out_features, rank + beside, **place))
        self.bias = nn.Parameter(torch.zeros(out_features, **place)) if bias else None
        self.register_buffer("lines", torch.zeros(kept, dtype=torch.int32, device=device))

    @classmethod
    def from_options(
        cls, in_features: int, out_features: int, *, device: torch.device | str | None = None, **options: Any
    ) -> LowRankSparseLinear:
        """An empty layer by what :meth:`options` says, for ``load_state_dict`` to fill."""
        return cls(in_features, out_features, device=device, **options)

    def options(self) -> dict[str, Any]:
        """What, beside the state dict, rebuilds the layer; JSON can hold it."""
        return {
            "rank": self.rank, "kept": self.kept, "structure": self.structure, "bias": self.bias is not None,
            "dtype": str(self.inner.dtype).removeprefix("torch."), "conv1d": self.conv1d,
        }  # fmt: skip

    @property
    def kept_weights(self) -> int:
        """Numbers in U, V and the kept lines, without bias and indices."""
        return self.inner.numel() + self.outer.numel()

    def nbytes(self) -> int:
        """Bytes of parameters, bias included, and indices."""
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    @property
    def weight(self) -> Tensor:
        """The matrix that the layer multiplies by, shape (out_features, in_features)."""
        V, rows = self.inner.split([self.rank, len(self.inner) - self.rank])
        U, columns = self.outer.split([self.rank, self.outer.shape[1] - self.rank], dim=1)
        sparse, axis = (rows, 0) if self.structure == "row" else (columns, 1)
        empty = sparse.new_zeros(self.out_features, self.in_features)
        return _product(U, V, empty.index_add(axis, self.lines, sparse))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        hidden = F.linear(x, self.inner)
        if self.structure == "column":
            return F.linear(torch.cat([hidden, x.index_select(-1, self.lines)], -1), self.outer, self.bias)
        y = F.linear(hidden[..., : self.rank], self.outer, self.bias)
        return y.index_add(-1, self.lines, hidden[..., self.rank :].to(y.dtype)) if self.kept else y

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, kept={self.kept} {self.structure}s"


def decompose(model: nn.Module, layers: Iterable[str], ranks: Mapping[str, int]) -> nn.Module:
    """Replace layers by :class:`DecomposedLinear` of these ranks, in place; the model computes what it did."""
    modules = dict(model.named_modules())
    for name in layers:
        replace(model, name, DecomposedLinear(modules[name], ranks[name]))
    return model


def compact(model: nn.Module, structure: Structure = "row") -> nn.Module:
    """Replace each :class:`DecomposedLinear` by what is left of it, in place.

    That is a :class:`LowRankSparseLinear`, or an ordinary layer where factors and kept lines hold no fewer numbers.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, DecomposedLinear):
            replace(model, name, _compacted(layer, structure))
    return model


def dense(model: nn.Module) -> nn.Module:
    """A copy with ordinary layers, whose weights are U V + S: nothing special to save, and no faster.

    Raises
    ------
    ParameterError
        If there is nothing to merge.
    """
    model = copy.deepcopy(model)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, DecomposedLinear | LowRankSparseLinear)}
    if not layers:
        raise ParameterError("model has no layer of factors and rows; compress it first")
    for name, layer in layers.items():
        replace(model, name, _ordinary(layer))
    return model


@torch.no_grad()
def _compacted(layer: DecomposedLinear, structure: Structure) -> nn.Module:
    sparse, weights = layer.sparse.weight, layer.in_features * layer.out_features
    lines = (sparse != 0).any(1 if structure == "row" else 0).nonzero()[:, 0]  # a sum could cancel
    length = layer.in_features if structure == "row" else layer.out_features
    if layer.rank * (layer.in_features + layer.out_features) + len(lines) * length >= weights:
        return _ordinary(layer)
    new = LowRankSparseLinear(
        layer.in_features, layer.out_features, rank=layer.rank, kept=len(lines), structure=structure, bias=False,
        dtype=sparse.dtype, device=sparse.device, conv1d=layer.conv1d,
    )  # fmt: skip
    new.lines.copy_(lines)
    rows, columns = (sparse[lines], sparse[:, :0]) if structure == "row" else (sparse[:0], sparse[:, lines])
    new.inner.copy_(torch.cat([layer.V, rows]))
    new.outer.copy_(torch.cat([layer.U, columns], 1))
    new.bias = layer.bias
    return new.train(layer.training)


@torch.no_grad()
def _ordinary(layer: DecomposedLinear | LowRankSparseLinear) -> nn.Module:
    if not layer.conv1d:
        return _linear(layer.weight, layer.bias).train(layer.training)
    from transformers.pytorch_utils import Conv1D  # two seconds to import

    with torch.device("meta"):
        new: Any = Conv1D(layer.out_features, layer.in_features)
    new.weight, new.bias = nn.Parameter(layer.weight.T.contiguous()), layer.bias
    return new.train(layer.training)


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    out_features, in_features = weight.shape
    layer = nn.Linear(in_features, out_features, bias=False, device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), bias
    return layer


def _product(U: Tensor, V: Tensor, sparse: Tensor) -> Tensor:
    """U V + S, summed in float32 at least."""
    wide = _wide(sparse.dtype)
    return (U.to(wide) @ V.to(wide) + sparse.to(wide)).to(sparse.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _empty(weight: Tensor) -> tuple[Tensor, Tensor]:
    return weight.new_zeros(len(weight), 0), weight.new_zeros(0, weight.shape[1])
