"""Optimisers to compare with: AdamW, Muon and SOAP, each with the same split and the same AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from porism.parameters import Parameter
from porism_plugins.optim import _engine as engine

BETAS = (0.9, 0.95)


class AdamW(engine.MatrixOptimizer):
    """:class:`torch.optim.AdamW`: nothing is a matrix. State of a matrix: 2 m n."""

    def __init__(
        self, params: Any, lr: float = 1e-3, *, betas: tuple[float, float] = BETAS, eps: float = 1e-8,
        weight_decay: float = 0.0, maximize: bool = False, foreach: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach
        )

    def is_matrix(self, parameter: Tensor, group: Mapping[str, Any]) -> bool:
        """Never."""
        return False


class Muon(engine.MatrixOptimizer):
    """:class:`torch.optim.Muon` with Nesterov momentum, its steps scaled to AdamW's. State of a matrix: m n.

    K. Jordan, *Muon: An optimizer for hidden layers in neural networks*, 2024; scale of arXiv:2502.16982.
    """

    options: ClassVar = (Parameter("momentum", float, 0.95, low=0.0, high=1.0, high_open=True),)

    def __init__(
        self, params: Any, lr: float = 1e-3, *, momentum: float = 0.95, betas: tuple[float, float] = BETAS,
        eps: float = 1e-8, weight_decay: float = 0.0, maximize: bool = False, foreach: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr=lr, momentum=momentum, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize,
            foreach=foreach,
        )  # fmt: skip

    def new_state(self, shape: torch.Size, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """One momentum."""
        return {"momentum": shape}

    def matrix_step(self, batch: engine.Batch, group: Mapping[str, Any]) -> None:
        """Orthogonalise the momentum, looking ahead."""
        gradients, beta = batch.gradients, group["momentum"]
        momentum = batch.stacked("momentum").lerp(gradients, 1 - beta)
        batch.store(momentum=momentum)
        direction = engine.newton_schulz(gradients.lerp(momentum, beta))
        lr = float(group["lr"])
        scale = 0.2 * math.sqrt(max(gradients.shape[-2:]))
        batch.move(direction, lr=lr * scale, shrink=lr * group["weight_decay"])


class SOAP(engine.MatrixOptimizer):
    """Adam in the eigenbasis of Shampoo's preconditioners. State of a matrix: 2 m n + 2 m^2 + 2 n^2.

    N. Vyas et al., *SOAP: Improving and stabilizing Shampoo using Adam*, arXiv:2409.11321. The first step, which the
    released code skips, is taken. ``sides="right"`` rotates columns only, with 2 m n + 2 n^2.
    """

    options: ClassVar = (
        Parameter("frequency", int, 10, low=1),
        Parameter("sides", str, "both", choices=("both", "right")),
    )

    def __init__(
        self, params: Any, lr: float = 1e-3, *, frequency: int = 10, sides: str = "both",
        betas: tuple[float, float] = BETAS, eps: float = 1e-8, weight_decay: float = 0.0, maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr=lr, frequency=frequency, sides=sides, betas=betas, eps=eps, weight_decay=weight_decay,
            maximize=maximize, foreach=foreach,
        )  # fmt: skip

    def new_state(self, shape: torch.Size, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Both moments of Adam, the second one rotated; a covariance and its eigenbasis for each side."""
        m, n = shape
        right = {"right_covariance": (n, n), "right_basis": (n, n)}
        left = {"left_covariance": (m, m), "left_basis": (m, m)} if group["sides"] == "both" else {}
        return {"exp_avg": shape, "exp_avg_sq": shape, **right, **left}

    def matrix_step(self, batch: engine.Batch, group: Mapping[str, Any]) -> None:
        """Adam on rotated gradients."""
        gradients, (beta1, beta2) = batch.gradients, group["betas"]
        momentum = batch.stacked("exp_avg").lerp(gradients, 1 - beta1)
        right = self._basis(batch, group, "right", gradients.mT @ gradients)
        both = group["sides"] == "both"
        left = self._basis(batch, group, "left", gradients @ gradients.mT) if both else None

        def rotated(x: Tensor) -> Tensor:
            return (x if left is None else left.mT @ x) @ right

        second = batch.stacked("exp_avg_sq").lerp(rotated(gradients).square(), 1 - beta2)
        batch.store(exp_avg=momentum, exp_avg_sq=second)
        corrected = (second / (1 - beta2**batch.step)).sqrt() + group["eps"]
        direction = rotated(momentum) / (1 - beta1**batch.step) / corrected @ right.mT
        lr = float(group["lr"])
        batch.move(direction if left is None else left @ direction, lr=lr, shrink=lr * group["weight_decay"])

    def _basis(self, batch: engine.Batch, group: Mapping[str, Any], side: str, square: Tensor) -> Tensor:
        """Follow the covariance of one side; its basis is renewed by one power step every ``frequency`` steps."""
        covariance = batch.stacked(f"{side}_covariance").lerp(square, 1 - group["betas"][1])
        basis = batch.stacked(f"{side}_basis")
        if batch.step == 1:
            basis = torch.linalg.eigh(covariance).eigenvectors.flip(-1)
        elif batch.step % group["frequency"] == 0:
            basis = engine.thin_qr(covariance @ basis)
        batch.store(**{f"{side}_covariance": covariance, f"{side}_basis": basis})
        return basis
