"""What COSMOS's claims measure, and its faulty variants for their controls.

Gradients of single matrices are float64 of shape (steps, m, n); trajectories start at 0.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from porism import Paired
from porism_plugins.optim import _engine as engine
from porism_plugins.optim import _workloads as workloads
from porism_plugins.optim._cosmos_engine import COSMOS
from porism_plugins.optim._workloads import Make

DIGITS_RATES, DIGITS_STEPS = (1e-2, 3e-2, 1e-1), 300
LANGUAGE_RATES, LANGUAGE_STEPS = (3e-3, 1e-2, 3e-2), 100


class Path(NamedTuple):
    """Positions of a matrix before and after each step, (steps + 1, m, n), and the state that is left."""

    weights: Tensor
    state: dict[str, Tensor]


def gradients(rng: np.random.Generator, rows: int, columns: int, steps: int) -> Tensor:
    """Normal gradients around a common mean, with columns' scales from 1 to 1/10 in random directions."""
    turn, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    covariance = np.geomspace(1, 0.1, columns)[:, None] * turn
    noise = rng.normal(size=(1 + steps, rows, columns))
    return torch.from_numpy((noise[0] + noise[1:]) @ covariance)


def follow(make: Make, gradients: Tensor, **options: Any) -> Path:
    """Let an optimiser step on given gradients."""
    weights = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = make([{"params": [weights], "matrix": True}], **options)
    path = [weights.detach().clone()]
    for gradient in gradients:
        weights.grad = gradient
        optimizer.step()
        path.append(weights.detach().clone())
    return Path(torch.stack(path), dict(optimizer.state[weights]))


def basis_error(make: Make, gradients: Tensor, *, rank: int) -> float:
    """How far U is from orthonormal, and S and V are from positive semi-definite, relative to their sizes."""
    state = follow(make, gradients, rank=rank).state
    basis, spectrum = state["basis"], state["spectrum"]
    apart = (basis.mT @ basis - torch.eye(basis.shape[-1])).abs().max()
    values = torch.linalg.eigvalsh(spectrum)
    skew = (spectrum - spectrum.mT).abs().max()
    return float(max(apart, (skew - values.min()) / values.max(), -state["second_moment"].min()))


def size_error(make: Make, gradients: Tensor, *, size: float, **options: Any) -> float:
    """Largest relative deviation of the steps' root mean square from ``size``."""
    steps = follow(make, gradients, **options).weights.diff(dim=0)
    return float((steps.square().mean((-2, -1)).sqrt() / size - 1).abs().max())


def path_error(first: Tensor, second: Tensor) -> float:
    """Largest distance of two paths' ends, relative to the length of one step."""
    return float((first[-1] - second[-1]).norm() / (first[1] - first[0]).norm())


def act(turn: Tensor, x: Tensor, side: Literal["columns", "rows"]) -> Tensor:
    """Rotate the columns or the rows of matrices."""
    return x @ turn if side == "columns" else turn @ x


def rotation(rng: np.random.Generator, size: int) -> Tensor:
    """A random orthogonal matrix."""
    return engine.thin_qr(torch.from_numpy(rng.normal(size=(size, size))))


def parts_error(make: Make, gradients: Tensor, *, rank: int, of: str) -> float:
    """1 - cosine between the last step's part outside U and what Newton-Schulz makes of ``of``, also outside U.

    ``of`` is the ``"rest"`` of the momentum outside U, of which nothing may come out inside U, or all ``"momentum"``.
    """
    path = follow(make, gradients, rank=rank)
    basis, momentum, step = path.state["basis"], path.state["momentum"], path.weights[-2] - path.weights[-1]

    def outside(x: Tensor) -> Tensor:
        return x - x @ basis @ basis.mT

    orthogonal = engine.newton_schulz(outside(momentum) if of == "rest" else momentum)
    leak = float((orthogonal @ basis).norm() / orthogonal.norm())
    return max(leak, 1 - torch.cosine_similarity(outside(step).flatten(), outside(orthogonal).flatten(), dim=0).item())


def angles(
    rng: np.random.Generator, *, steps: int, gap: float, stored: bool = True, size: int = 64, rank: int = 8
) -> np.ndarray:
    """Largest principal angle in degrees between U and the true leading space, after each step, (steps,).

    Rows of gradients are normal, and ``rank`` leading directions have ``gap`` times the standard deviation of the
    others. The gradient before the first step has other leading directions, as if the training had turned since.
    ``stored=False`` makes every U from the first one, as one of the released files does.
    """
    turns = rotation(rng, size), rotation(rng, size)
    scales = torch.ones(size, dtype=torch.float64)
    scales[:rank] = gap
    noise = torch.from_numpy(rng.normal(size=(1 + steps, size, size)))
    weights = torch.nn.Parameter(torch.zeros(size, size, dtype=torch.float64))
    optimizer, first, found = COSMOS([{"params": [weights], "matrix": True}], rank=rank), None, []
    for t, sample in enumerate(noise):
        weights.grad = sample * scales @ turns[t > 0]
        optimizer.step()
        basis = optimizer.state[weights]["basis"]
        first = basis.clone() if first is None else first
        if not stored:
            basis = engine.thin_qr(weights.grad.mT @ (weights.grad @ first))
        cosines = torch.linalg.svdvals(turns[1][:rank] @ basis)
        found.append(float(torch.rad2deg(torch.acos(cosines.min().clamp(0, 1)))))
    return np.array(found[1:])


def cosmos(*, rank: int = 8, gamma: float = 0.2) -> Make:
    """COSMOS at the rank of the experiments."""
    return functools.partial(COSMOS, rank=rank, gamma=gamma)


def against(
    loss: Callable[[np.random.Generator, Make], float], rng: np.random.Generator, ours: Make, *theirs: Make
) -> Paired:
    """Our loss and the best of theirs, on the same data, batches and initial weights."""
    first, *others = (loss(copy.deepcopy(rng), make) for make in (ours, *theirs))
    rng.random()
    return Paired(first, min(others), "lower")


def digits_loss(rng: np.random.Generator, make: Make) -> float:
    """Logarithm to base 10 of the final training loss at the best learning rate."""
    problem = workloads.digits_problem(rng, steps=DIGITS_STEPS, width=64)
    run = workloads.tuned(problem, make, steps=DIGITS_STEPS, rates=DIGITS_RATES)
    return float(np.log10(max(run.judge, 1e-12)))


def language_loss(rng: np.random.Generator, make: Make) -> float:
    """Test loss in nats a character at the learning rate that does best on the validation topics."""
    problem = workloads.language_problem(rng, steps=LANGUAGE_STEPS, width=32)
    return workloads.tuned(problem, make, steps=LANGUAGE_STEPS, rates=LANGUAGE_RATES).judge


class LooseBasis(COSMOS):
    """COSMOS with columns of length 1 in place of an orthonormal basis."""

    def tracked(self, batch: engine.Batch, beta2: float) -> tuple[Tensor, Tensor, Tensor]:
        """Divide columns by their lengths instead of taking the QR factor."""
        basis, spectrum, _ = super().tracked(batch, beta2)
        if batch.step > 1:
            gradient, old = batch.gradients, batch.stacked("basis")
            power = torch.lerp(old @ batch.stacked("spectrum"), gradient.mT @ (gradient @ old), 1 - beta2)
            basis = power / power.norm(dim=-2, keepdim=True)
        return basis, spectrum, batch.gradients @ basis
