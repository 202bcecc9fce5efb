"""A linear layer with an increment in the form of a singular value decomposition, and the penalty that keeps it so."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.parameters import Parameter
from porism.surgery import matrix
from porism_plugins.peft._engine import Adapter, adapters

# Standard deviation of the singular vectors' entries at the start, as in the released code.
START = 0.02
Form = Literal["squared", "mean"]


class SVDLinear(Adapter):
    """``W + scale * lora_B diag(lora_E) lora_A``: P is ``lora_B``, lambda ``lora_E`` and Q ``lora_A``, as in peft.

    Parameters
    ----------
    base
        The frozen layer.
    rank, target_rank
        Triplets at the start, and how many of them a budget may leave this layer on average.
    alpha
        The increment enters with ``scale = alpha / rank``, of the rank at the start for good.
    generator
        Of the entries of P and Q, N(0, 0.02^2), on the CPU; lambda is zero.

    Notes
    -----
    Parameters are at least float32, whatever the layer is; the product is cast to the layer's dtype.
    """

    def __init__(
        self, base: nn.Module, *, rank: int, target_rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__(base)
        weight = matrix(base)
        self.initial_rank, self.target_rank, self.scale = rank, target_rank, alpha / rank
        place: dict[str, Any] = {"dtype": self._wide(), "device": weight.device}
        for name, shape in (("lora_A", (rank, self.in_features)), ("lora_B", (self.out_features, rank))):
            start = torch.empty(shape).normal_(std=START, generator=generator)
            self.register_parameter(name, nn.Parameter(start.to(**place)))
        self.lora_E = nn.Parameter(torch.zeros(rank, 1, **place))

    @property
    def rank(self) -> int:
        """Triplets that take memory."""
        return len(self.lora_E)

    def factors(self) -> tuple[Tensor, Tensor]:
        """B of shape (out_features, rank) and A of shape (rank, in_features), whose product is the increment."""
        return self.lora_B, self.lora_A * (self.lora_E * self.scale)

    def delta(self) -> Tensor:
        """The increment, shape (out_features, in_features)."""
        left, right = self.factors()
        return left @ right

    def add_increment(self, x: Tensor, y: Tensor) -> Tensor:
        """As in :class:`Adapter`, through the rank."""
        if not self.rank:
            return y
        rows = x.reshape(-1, self.in_features).to(self.lora_A.dtype)
        inner = F.linear(rows, self.lora_A * self.lora_E)
        if inner.dtype != y.dtype:
            return y + self.scale * F.linear(inner, self.lora_B).view(y.shape).to(y.dtype)
        return torch.addmm(y.reshape(-1, self.out_features), inner, self.lora_B.T, alpha=self.scale).view(y.shape)

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """``lora_A``, ``lora_B`` and ``lora_E``."""
        return self.lora_A, self.lora_B, self.lora_E

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, rank={self.rank}"

    def get_extra_state(self) -> Tensor:
        """What a ``state_dict`` holds beside the parameters: the scale and the rank at the start."""
        return torch.tensor([self.scale, self.initial_rank], dtype=torch.float64, device=self.lora_E.device)

    def set_extra_state(self, state: Tensor) -> None:
        """Take both up, so that freed triplets enter as they were trained, whatever rank the layer was made with."""
        self.scale, self.initial_rank = float(state[0]), int(state[1])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take the rank of what is loaded, which may have been freed."""
        found = state_dict.get(f"{prefix}lora_E")
        if found is not None and len(found) < self.rank:
            for name, dim in (("lora_A", 0), ("lora_B", 1), ("lora_E", 0)):
                resize(getattr(self, name), dim, torch.arange(len(found)))
        super()._load_from_state_dict(state_dict, prefix, *rest)


@torch.no_grad()
def resize(parameter: Tensor, dim: int, kept: Tensor) -> None:
    """Keep these indices of a dimension; the parameter stays the same object and gives its memory back."""
    data = parameter.data.index_select(dim, kept.to(parameter.device)).contiguous()
    parameter.grad = None
    # A graph that is still referred to, by last step's loss, holds a node that expects the old shape; torch makes a new
    # one only if the dtype changes.
    other = torch.float32 if data.dtype == torch.float64 else torch.float64
    parameter.data = torch.empty(0, dtype=other, device=data.device)
    parameter.data = data


def penalty(model: nn.Module, *, weight: float = 0.1, form: Form = "squared") -> Tensor:
    """What to add to the loss so that singular vectors stay orthonormal (Eq. 4): a scalar with a gradient.

    Parameters
    ----------
    model
        With :class:`SVDLinear` layers.
    weight
        gamma, at least 0.
    form
        ``"squared"`` is the paper's: the sum over layers of ||P'P - I||_F^2 + ||QQ' - I||_F^2. ``"mean"`` is that of
        the released code and of peft: the mean over all P and Q of the norm, not squared.

    Examples
    --------
    >>> from porism_plugins.peft.adalora import adalora
    >>> model = adalora(nn.Sequential(nn.Linear(8, 8)), rank=2, target_rank=1)
    >>> penalty(model, weight=1.0).item() < 4.0  # nearly 1 for each row of P' and of Q
    True
    """
    Parameter("weight", float, 0.1, low=0.0).validate(weight)
    if form not in ("squared", "mean"):
        raise ParameterError(f"form must be 'squared' or 'mean', got {form!r}")
    layers = [layer for layer in adapters(model).values() if isinstance(layer, SVDLinear) and layer.rank]
    if not layers:
        raise ParameterError("model has no singular vectors left to penalise")
    vectors = [factor for layer in layers for factor in (layer.lora_A, layer.lora_B)]
    value: Tensor = _Penalty.apply(form, *vectors)  # type: ignore[no-untyped-call]
    return weight * value


class _Penalty(torch.autograd.Function):
    """Value and gradient at once, for all matrices of one shape together: a few operations for any number of layers."""

    @staticmethod
    def forward(ctx: Any, form: Form, *vectors: Tensor) -> Tensor:
        groups: dict[Any, list[int]] = defaultdict(list)
        for number, factor in enumerate(vectors):
            # lora_A has its vectors in rows and comes first, lora_B in columns.
            groups[factor.shape, factor.device, factor.dtype, number % 2].append(number)
        total, slopes = torch.zeros((), device=vectors[0].device), []
        for (_, _, dtype, columns), members in groups.items():
            factors = torch.stack([vectors[number] for number in members])
            factors = factors.to(torch.promote_types(dtype, torch.float32))
            excess = factors.mT @ factors if columns else factors @ factors.mT
            excess.diagonal(dim1=1, dim2=2).sub_(1)
            value = excess.square().sum((1, 2))
            if form == "mean":
                value = value.sqrt()
                # Where the norm is zero it has no derivative, and no pull either.
                excess = excess / (2 * value.clamp(min=torch.finfo(value.dtype).tiny))[:, None, None]
            slope = factors @ excess if columns else excess @ factors
            slopes.append(slope.mul_(4 if form == "squared" else 4 / len(vectors)).to(dtype))
            total = total + value.sum().to(total.device)
        ctx.save_for_backward(*slopes)
        ctx.order = [number for members in groups.values() for number in members]
        return total if form == "squared" else total / len(vectors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        groups = (slope * gradient.to(slope) for slope in ctx.saved_tensors)
        found = dict(zip(ctx.order, (one for group in groups for one in group.unbind()), strict=True))
        return None, *(found[number] for number in range(len(found)))
