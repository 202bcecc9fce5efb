"""A linear layer whose matrix is stored in some smaller form: what all compressed layers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenLinear(nn.Module):
    """``y = x W' + bias`` with a frozen matrix W that is decoded in each forward and each backward pass.

    A subclass takes the arguments below, registers its tensors, ``codes`` among them, and says in :meth:`backbone` what
    matrix they mean and in :meth:`options` what else rebuilds it.

    Parameters
    ----------
    in_features, out_features
        As of :class:`torch.nn.Linear`.
    bias
        Whether there is one.
    dtype
        Of the bias and of the dense matrix.
    conv1d
        Whether it stands for a transposed ``Conv1D``, as it is put back when it is made dense.
    """

    # Buffers that keep their dtype wherever the module is moved or cast, as they would lose digits.
    keeps: ClassVar[tuple[str, ...]] = ()
    # Of a trainable low-rank term.
    rank = 0
    codes: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        conv1d: bool = False,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dtype, self.conv1d = in_features, out_features, dtype, conv1d
        empty = nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device)) if bias else None
        self.register_parameter("bias", empty)  # its place in the order, also where it is put in later

    @classmethod
    def from_options(
        cls, in_features: int, out_features: int, *, device: torch.device | str | None = None, **options: Any
    ) -> Self:
        """An empty layer of what :meth:`options` said, to be filled by ``load_state_dict``."""
        dtype = getattr(torch, options.pop("dtype"))
        return cls(in_features, out_features, dtype=dtype, device=device, **options)

    def options(self) -> dict[str, Any]:
        """What, beside the state dict, rebuilds the layer; JSON can hold it."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"bias": self.bias is not None, "dtype": dtype, "conv1d": self.conv1d}

    def backbone(self) -> Tensor:
        """The stored matrix, shape (out_features, in_features), in the layer's dtype."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The matrix that the layer multiplies by, without a gradient."""
        return self.backbone()

    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        y = self.product(x)
        return y if self.bias is None else y + self.bias

    def product(self, x: Tensor) -> Tensor:
        """x W' with the stored matrix, whose backward pass gives x its gradient."""
        y: Tensor = _Decoded.apply(x, self)
        return y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: self._buffers[name] for name in self.keeps}
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.codes.device)).dtype
        super()._apply(fn, recurse)
        for name, exact in before.items():
            cast = self._buffers[name]
            if cast.dtype != exact.dtype:
                self._buffers[name] = exact.to(cast.device)
        return self


class _Decoded(torch.autograd.Function):
    """x W', where the backward pass decodes again rather than keep a dense matrix of every layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.backbone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.backbone().to(gradient.dtype), None
