"""Balanced low-rank factors of a residual: by the full SVD, by a randomised one, and at random as a control."""

from __future__ import annotations

import torch
from torch import Tensor

# Directions beyond the rank, and passes over the matrix there and back, of the randomised SVD.
OVERSAMPLING, PASSES = 16, 2
# The randomised SVD is the faster one where the smaller side is so many times the rank.
WIDE = 8


def balanced(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """lora_B = U sqrt(S) of shape (out, rank) and lora_A = sqrt(S) V' of shape (rank, in)."""
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


def full_svd(residual: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors there are, by Eckart and Young.

    Examples
    --------
    >>> full_svd(torch.diag(torch.tensor([4.0, 1.0])), 1)[0].abs()
    tensor([[2.],
            [0.]])
    """
    return balanced(*torch.linalg.svd(residual, full_matrices=False), rank)


def randomised_svd(residual: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Nearly the best factors in a few products with thin matrices (Halko, Martinsson and Tropp 2011, Alg. 4.4).

    The generator must be on the CPU; the matrix may be anywhere.

    Examples
    --------
    >>> matrix = torch.ones(40, 30)
    >>> lora_B, lora_A = randomised_svd(matrix, 1, torch.Generator().manual_seed(0))
    >>> bool(((lora_B @ lora_A) - matrix).abs().max() < 1e-5)
    True
    """
    width = min(rank + OVERSAMPLING, *residual.shape)
    probe = torch.randn(residual.shape[1], width, generator=generator).to(residual)
    basis = torch.linalg.qr(residual @ probe).Q
    for _ in range(PASSES):
        there = torch.linalg.qr((basis.T @ residual).T).Q
        basis = torch.linalg.qr(residual @ there).Q
    u, s, vh = torch.linalg.svd(basis.T @ residual, full_matrices=False)
    return balanced(basis @ u[:, :rank], s, vh, rank)


def factors(residual: Tensor, rank: int, generator: torch.Generator, *, svd: str = "auto") -> tuple[Tensor, Tensor]:
    """By ``"full"`` or ``"randomised"`` SVD, or by whichever is faster for ``"auto"``."""
    randomised = min(residual.shape) >= WIDE * rank if svd == "auto" else svd == "randomised"
    return randomised_svd(residual, rank, generator) if randomised else full_svd(residual, rank)


def random_factors(residual: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Factors whose product has the norm of :func:`full_svd`'s and a random direction: what an ablation puts in."""
    lora_B, lora_A = (
        torch.randn(*shape, generator=generator) for shape in ((len(residual), rank), (rank, residual.shape[1]))
    )
    best_B, best_A = full_svd(residual, rank)
    root = ((best_B @ best_A).norm() / (lora_B @ lora_A).norm()).sqrt()
    return root * lora_B, root * lora_A
