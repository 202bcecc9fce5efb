"""The tied encoder-decoder score network for data on a subspace, trained by denoising score matching.

Chen, Huang, Zhao, Wang (arXiv:2302.07194), the class S_NN: s(x, t) = (V f(V'x, t) - x) / noise(t) with orthonormal V
of shape (D, d) and a ReLU network f on R^d x time. Process and times are those of :mod:`porism_sims.diffusion.process`.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from porism.arrays import check_count, check_finite, check_generator, check_number
from porism.errors import ParameterError
from porism_sims.diffusion.process import Score

Array = NDArray[np.float64]


class TiedScoreNetwork(nn.Module):
    """The score (V f(V'x, t) - x) / noise(t); ``forward`` takes x of shape (n, D) and times of shape (n,).

    With latent = D the encoder is a rotation and f an unstructured network of as many layers: the plain competitor.

    Parameters
    ----------
    ambient, latent
        D and d <= D.
    width, layers
        Of the hidden layers of f, whose input is (V'x, log noise).
    generator
        Draws the initial weights.

    Raises
    ------
    ParameterError
        If a size is not a whole number in its range.

    Examples
    --------
    >>> network = TiedScoreNetwork(8, 2, generator=torch.Generator().manual_seed(0))
    >>> network(torch.zeros(3, 8, dtype=torch.float64), torch.ones(3, dtype=torch.float64)).shape
    torch.Size([3, 8])
    """

    def __init__(
        self, ambient: int, latent: int, *, width: int = 64, layers: int = 2, generator: torch.Generator
    ) -> None:
        super().__init__()
        check_count("latent", latent, 1, check_count("ambient", ambient, 1))
        self.free_basis = nn.Parameter(torch.empty(ambient, latent, dtype=torch.float64))
        nn.init.orthogonal_(self.free_basis, generator=generator)
        sizes = [latent + 1, *[check_count("width", width, 1)] * check_count("layers", layers, 1), latent]
        parts: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layer = nn.Linear(inputs, outputs, dtype=torch.float64, device="meta").to_empty(device="cpu")
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
            parts += [layer, nn.ReLU()]
        nn.init.zeros_(layer.weight)  # f starts as the identity, which is no saddle in V as f = 0 would be
        self.body = nn.Sequential(*parts[:-1])

    def basis(self) -> Tensor:
        """V, the orthonormal factor of the free matrix, shape (D, d)."""
        return torch.linalg.qr(self.free_basis).Q

    def denoised(self, x: Tensor, t: Tensor) -> Tensor:
        """V f(V'x, t), the estimate of signal times the expected X_0, shape (n, D)."""
        basis = self.basis()
        coordinates, level = x @ basis, torch.log(-torch.expm1(-t))
        return (coordinates + self.body(torch.cat([coordinates, level[:, None]], dim=1))) @ basis.T

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The score at points (n, D) and times (n,)."""
        return (self.denoised(x, t) - x) / -torch.expm1(-t)[:, None]

    def as_score(self) -> Score:
        """The network for numpy points (n, D) and one time, as the samplers call it; without gradients."""

        def score(points: Array, t: float) -> Array:
            x = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
            with torch.no_grad():
                return self(x, x.new_full((len(x),), t)).numpy()

        return score


def train_score(
    rng: np.random.Generator,
    points: Array,
    latent: int,
    *,
    stop: float = 0.01,
    start: float = 6.0,
    noise_draws: int | None = None,
    width: int = 64,
    steps: int = 1000,
    batch: int = 256,
    learning_rate: float = 1e-2,
) -> TiedScoreNetwork:
    """Train a :class:`TiedScoreNetwork` by denoising score matching with Adam and a cosine schedule.

    The loss is noise(t) |s(X_t, t) + Z / sqrt(noise)|^2 = |V f - signal X_0|^2 / noise, with log t uniform between
    ``stop`` and ``start``.

    Parameters
    ----------
    rng
        Draws weights, noise and batches.
    points
        Training set X_0, shape (n, D).
    latent
        d, at most D.
    stop, start
        Early-stopping time t0 > 0 and the largest time.
    noise_draws
        Pairs of a time and a noise per training point, drawn once; None draws new ones in every step, which
        integrates the noise out: then any n >= d points on a subspace show it exactly.
    width, steps, batch, learning_rate
        Of the network, and of the training.

    Raises
    ------
    ParameterError
        For points of another shape or not finite, times out of order, and counts or rates that are not positive.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> network = train_score(rng, rng.standard_normal((50, 1)) @ [[1.0, 0.0, 0.0]], 1, steps=200)
    >>> abs(network.basis()[0, 0].item()) > 0.9
    True
    """
    check_generator(rng)
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or 0 in points.shape:
        raise ParameterError(f"points must have shape (n, D), not empty, got {points.shape}")
    check_finite(points=points)
    check_number("start", start, above=check_number("stop", stop, above=0))
    check_count("steps", steps, 1), check_count("batch", batch, 1)
    check_number("learning_rate", learning_rate, above=0)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
    network = TiedScoreNetwork(points.shape[1], latent, width=width, generator=generator)
    x0 = torch.from_numpy(points)

    def draw_noise(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        uniform = torch.rand(shape[0], generator=generator, dtype=torch.float64)
        return stop * (start / stop) ** uniform, torch.randn(shape, generator=generator, dtype=torch.float64)

    if noise_draws is not None:
        x0 = x0.repeat(check_count("noise_draws", noise_draws, 1), 1)
        fixed = draw_noise(x0.shape)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x0), (batch,), generator=generator)
        t, z = draw_noise((batch, x0.shape[1])) if noise_draws is None else (part[rows] for part in fixed)
        clean, noise = torch.exp(-t / 2)[:, None] * x0[rows], -torch.expm1(-t)[:, None]
        loss = (torch.sum((network.denoised(clean + noise.sqrt() * z, t) - clean) ** 2, dim=1) / noise[:, 0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network
