"""The optimiser of COSMOS, Liu et al., 2025, arXiv:2502.17410; steps 1 to 7 are those of its Algorithm 1.

For a matrix W (m, n) with gradient G and rank r: momentum M (m, n), basis U (n, r), spectrum S (r, r), second moment V
(m, r). G'G is never formed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from porism.parameters import Parameter
from porism_plugins.optim import _engine as engine
from porism_plugins.optim._engine import matrix_and_other_parameters

__all__ = ["COSMOS", "matrix_and_other_parameters"]

# In units of rounding and of the momentum's size: what is smaller is rounding error, which either part would blow up.
NEGLIGIBLE = 256


class COSMOS(engine.MatrixOptimizer):
    """SOAP inside the leading eigenspace of each matrix's gradients, Muon outside, and AdamW for what is no matrix.

    A step moves a matrix by entries of root mean square ``matrix_lr_ratio * lr``, whatever the gradient's size, and so
    does not shrink near an optimum: let a scheduler lower lr. Biases, embeddings and the head step by lr as in AdamW.

    Parameters
    ----------
    params
        Tensors, or groups: :func:`matrix_and_other_parameters` makes them from a model. What has two axes longer than 1
        and at most 10,000 rows is a matrix, unless its group says ``"matrix": True`` or ``False``.
    lr
        Learning rate of AdamW.
    betas
        Decay of the momentum and of both second moments.
    rank
        Leading directions, at most as many as a matrix's shorter side; 0 gives Muon with steps of fixed size.
    gamma
        Root mean square of the orthogonalised rest beside the leading part, whose entries are about 1.
    matrix_lr_ratio
        Size of a matrix's step in units of lr.
    eps
        Added to the root of second moments.
    weight_decay
        Decoupled, times the step's own size.
    variant
        ``"paper"``, or ``"code"`` for the released file, with Nesterov's look ahead.
    maximize
        Climb instead.
    foreach
        Whether matrices of one shape step together; None lets small ones.

    Raises
    ------
    ParameterError
        For options out of range, complex parameters, sparse gradients, and a first gradient that is not finite.

    Notes
    -----
    The state is float32, float64 for float64; a bfloat16 weight is stepped in float32 and rounded once, so steps below
    half its precision are lost. Directions in which the momentum is rounding error are left out. The 5 iterations of
    Newton-Schulz run in bfloat16 where that is faster.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 3))
    >>> optimizer = COSMOS(matrix_and_other_parameters(model), lr=1e-2, rank=4)
    >>> before = model[0].weight.detach().clone()
    >>> model(torch.ones(1, 8)).sum().backward()
    >>> optimizer.step()
    >>> (model[0].weight - before).square().mean().sqrt()
    tensor(0.0010, grad_fn=<SqrtBackward0>)
    """

    options: ClassVar = (
        Parameter("rank", int, 64, low=0),
        Parameter("gamma", float, 0.2, low=0.0),
        Parameter("matrix_lr_ratio", float, 0.1, low=0.0),
        Parameter("variant", str, "paper", choices=("paper", "code")),
    )

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-3, *, betas: tuple[float, float] = (0.9, 0.95), rank: int = 64,
        gamma: float = 0.2, matrix_lr_ratio: float = 0.1, eps: float = 1e-8, weight_decay: float = 0.0,
        variant: Literal["paper", "code"] = "paper", maximize: bool = False, foreach: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr=lr, betas=betas, rank=rank, gamma=gamma, matrix_lr_ratio=matrix_lr_ratio, eps=eps,
            weight_decay=weight_decay, variant=variant, maximize=maximize, foreach=foreach,
        )  # fmt: skip

    def new_state(self, shape: torch.Size, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """M, U, S and V; (m + r) (n + r) numbers together."""
        (m, n), r = shape, min(group["rank"], *shape)
        return {"momentum": shape, "basis": (n, r), "spectrum": (r, r), "second_moment": (m, r)}

    def matrix_step(self, batch: engine.Batch, group: Mapping[str, Any]) -> None:
        """Steps 1 to 7."""
        gradient, (beta1, beta2), t = batch.gradients, group["betas"], batch.step
        momentum, code = batch.stacked("momentum"), group["variant"] == "code"
        if code:  # a plain sum, whose weights add up to (1 - beta1^t) / (1 - beta1), and a look ahead
            momentum.mul_(beta1).add_(gradient)
            ahead = gradient.add(momentum, alpha=beta1).div_(1 + beta1 * (1 - beta1**t) / (1 - beta1))
        else:
            momentum.lerp_(gradient, 1 - beta1)  # step 1
            ahead = momentum
        basis, spectrum, projected = self.tracked(batch, beta2)  # step 2
        second = batch.stacked("second_moment").lerp(projected.square(), 1 - beta2)  # step 3
        batch.store(momentum=momentum, basis=basis, spectrum=spectrum, second_moment=second)
        inside = ahead @ basis
        floor = NEGLIGIBLE * torch.finfo(ahead.dtype).eps * torch.linalg.matrix_norm(ahead, keepdim=True)
        root = (second / (1 - beta2**t)).sqrt_().add_(group["eps"])
        leading = inside / (1 if code else 1 - beta1**t) / root  # step 4, A = leading U'
        leading = torch.where(torch.linalg.vector_norm(inside, dim=-2, keepdim=True) > floor, leading, 0.0)
        direction = self.rest(ahead, inside, basis, floor, group["gamma"])  # step 5
        direction = normalised_(engine.plus_product(direction, leading, basis.mT, out=direction))  # steps 6 and 7
        lr = float(group["lr"])
        matrix_lr = group["matrix_lr_ratio"] * lr
        batch.move(direction, lr=matrix_lr, shrink=(lr if code else matrix_lr) * group["weight_decay"])

    def tracked(self, batch: engine.Batch, beta2: float) -> tuple[Tensor, Tensor, Tensor]:
        """Step 2: U, (..., n, r), and S, (..., r, r), after one power step with this gradient G; and G U."""
        gradient, basis, spectrum = batch.gradients, batch.stacked("basis"), batch.stacked("spectrum")
        if not basis.shape[-1]:
            return basis, spectrum, gradient @ basis
        if batch.step == 1:
            new = engine.leading_right_vectors(gradient, basis.shape[-1])
        else:
            power = gradient.mT @ (gradient @ basis)
            new = engine.thin_qr(torch.lerp(basis @ spectrum, power, 1 - beta2))
        turn, projected = basis.mT @ new, gradient @ new  # S is 0 at first, whatever turns it
        spectrum = torch.lerp(turn.mT @ spectrum @ turn, projected.mT @ projected, 1 - beta2)
        return new, (spectrum + spectrum.mT) / 2, projected  # symmetric, lest rounding builds up

    def rest(self, ahead: Tensor, inside: Tensor, basis: Tensor, floor: Tensor, gamma: float) -> Tensor:
        """Step 5 and its weight in step 6: the orthogonalised rest with entries of RMS gamma, or 0 if there is none."""
        if not gamma or basis.shape[-1] == basis.shape[-2]:
            return torch.zeros_like(ahead)
        rest = engine.plus_product(ahead, inside, basis.mT, alpha=-1)
        keep = torch.linalg.matrix_norm(rest, keepdim=True) > floor
        return normalised_(engine.newton_schulz(rest), gamma * keep)


def normalised_(x: Tensor, size: float | Tensor = 1.0) -> Tensor:
    """Scale matrices in place so that their entries have root mean square ``size``; 0 stays 0."""
    norm = torch.linalg.matrix_norm(x, keepdim=True)
    return x.mul_(torch.where(norm > 0, size * (x.shape[-2] * x.shape[-1]) ** 0.5 / norm, 0.0))
