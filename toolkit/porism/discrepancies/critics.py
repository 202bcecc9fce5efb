"""Integral probability metrics from below, by a critic that is trained on one half of the data and judged on the other.

Needs torch. A critic belongs to its class exactly, by construction; so its difference of means under the two
laws is a lower bound of the metric, and its difference on the held-out halves an unbiased estimate of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from porism.arrays import Array, check_count, check_generator, check_number
from porism.discrepancies.radial import median_bandwidth
from porism.discrepancies.samples import clouds
from porism.errors import ParameterError


class CriticBound(NamedTuple):
    """What a trained critic certifies.

    ``value`` is its mean over the held-out x less that over the held-out y: given the critic, an unbiased
    estimate, with ``standard_error``, of a number that is not above the metric. It may be negative.
    ``x_held_out`` and ``y_held_out`` are the rows judged; between their empirical measures the metric is at
    least ``value`` for certain.
    """

    value: float
    standard_error: float
    critic: Callable[[Tensor], Tensor]
    x_held_out: Tensor
    y_held_out: Tensor


def neural_ipm(
    x: Array,
    y: Array,
    *,
    rng: np.random.Generator,
    width: int = 64,
    depth: int = 2,
    lipschitz: float = 1.0,
    steps: int = 200,
    learning_rate: float = 0.03,
) -> CriticBound:
    """Lower bound of the neural-network distance of two laws, over ReLU networks with bounded weights.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), or (n,) and (m,) for d = 1, at least four of each; finite.
    rng
        Splits the samples and draws the first weights.
    width, depth
        Units of a hidden layer and number of hidden layers.
    lipschitz
        Lipschitz constant of the class in the Euclidean norm: rows of the first layer have at most this length,
        rows of later layers an absolute sum of at most one.
    steps, learning_rate
        Of Adam on the training half.

    Returns
    -------
    CriticBound
        A lower bound of the supremum over the class, hence also of ``lipschitz`` times W_1. How far below the
        supremum training ended is not known.

    Raises
    ------
    ParameterError
        For NaN, infinities, fewer than four points, sizes or constants that are not positive, and an ``rng`` that
        is no numpy Generator.

    Notes
    -----
    S. Arora et al., *Generalization and Equilibrium in Generative Adversarial Nets* (2017), definition 2.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> found = neural_ipm(rng.normal(size=200) + 3, rng.normal(size=200), rng=rng, steps=50)
    >>> 2.5 < found.value < 3.5
    True
    """
    width, depth, steps = check_count("width", width, 1), check_count("depth", depth, 1), check_count("steps", steps, 1)
    lipschitz = check_number("lipschitz", lipschitz, above=0, below=math.inf)
    learning_rate = check_number("learning_rate", learning_rate, above=0, below=math.inf)
    (x_train, y_train), (x_held, y_held) = _halves(x, y, rng)
    sizes = [x_train.shape[1], *[width] * depth, 1]
    pooled = torch.cat([x_train, y_train])
    centre = pooled.mean(0)
    spread = float((pooled - centre).square().sum(1).mean().sqrt()) or 1.0
    check_number("the spread of x and y", spread, below=math.inf)
    network = _Network(sizes, lipschitz, centre, spread, rng, x_train.dtype)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    best, kept = -math.inf, network.state()
    for _ in range(steps):
        optimiser.zero_grad()
        with torch.enable_grad():
            gain = network(x_train).mean() - network(y_train).mean()
            (-gain / spread).backward()
        if float(gain.detach()) > best:
            best, kept = float(gain.detach()), network.state()
        optimiser.step()
    network.load(kept)
    return _judged(network, x_held, y_held)


def holder_ipm_bound(
    x: Array,
    y: Array,
    smoothness: float,
    *,
    rng: np.random.Generator,
    frequencies: int = 64,
    steps: int = 100,
    learning_rate: float = 0.05,
) -> CriticBound:
    r"""Lower bound of the integral probability metric of a Holder ball of any positive order.

    The critics are cosines of one direction, :math:`\cos(\omega \cdot x + b) / N(\omega)`, divided by a bound
    of their Holder norm; a convex combination of them would do no better.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), or (n,) and (m,) for d = 1, at least four of each; finite.
    smoothness
        The order s > 0. With k < s <= k + 1 the norm is the largest supremum of the derivatives of order 0 to
        k plus the Holder constant of order s - k of those of order k. Up to order one
        :func:`~porism.discrepancies.ipm.holder_ipm` is exact on samples.
    rng
        Splits the samples and draws the first frequencies.
    frequencies
        How many are tried; each is improved.
    steps, learning_rate
        Of Adam on the training half.

    Returns
    -------
    CriticBound
        A lower bound of the supremum over the Holder ball; the gap to it is not known.

    Raises
    ------
    ParameterError
        For a smoothness or learning rate that is not positive, NaN, infinities, fewer than four points, and an
        ``rng`` that is no numpy Generator.

    Notes
    -----
    :math:`N(\omega) = \max(1, |\omega|^k) + 2^{1 - (s - k)} |\omega|^s`, from
    :math:`|\cos u - \cos v| \le \min(2, |u - v|)`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> found = holder_ipm_bound(rng.normal(size=200) + 3, rng.normal(size=200), 1.0, rng=rng)
    >>> 0.6 < found.value < 1.2
    True
    """
    smoothness = check_number("smoothness", smoothness, above=0, below=math.inf)
    learning_rate = check_number("learning_rate", learning_rate, above=0, below=math.inf)
    frequencies, steps = check_count("frequencies", frequencies, 1), check_count("steps", steps, 0)
    (x_train, y_train), (x_held, y_held) = _halves(x, y, rng)
    d = x_train.shape[1]
    drawn = rng.standard_normal((frequencies, d)) / median_bandwidth(x_train, y_train)
    omega = torch.tensor(drawn, dtype=x_train.dtype, device=x_train.device, requires_grad=True)
    optimiser = torch.optim.Adam([omega], lr=learning_rate)
    best, kept, phase = -math.inf, omega.detach()[0], omega.detach()[0, 0]
    for _ in range(steps + 1):
        optimiser.zero_grad()
        with torch.enable_grad():
            real = torch.cos(x_train @ omega.T).mean(0) - torch.cos(y_train @ omega.T).mean(0)
            imaginary = torch.sin(x_train @ omega.T).mean(0) - torch.sin(y_train @ omega.T).mean(0)
            gains = (real.square() + imaginary.square() + 1e-30).sqrt() / _holder_norm(omega, smoothness)
            (-gains.sum()).backward()  # type: ignore[no-untyped-call]
        top = int(gains.detach().argmax())
        if float(gains[top].detach()) > best:
            best, kept = float(gains[top].detach()), omega[top].detach().clone()
            phase = -torch.atan2(imaginary[top].detach(), real[top].detach())
        optimiser.step()
    norm = _holder_norm(kept[None], smoothness)[0]
    return _judged(lambda points: torch.cos(points @ kept + phase) / norm, x_held, y_held)


class _Network(torch.nn.Module):
    """A ReLU network whose Lipschitz constant is bounded by how its weights are read."""

    def __init__(
        self,
        sizes: Sequence[int],
        lipschitz: float,
        centre: Tensor,
        spread: float,
        rng: np.random.Generator,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.lipschitz, self.centre, self.spread = lipschitz, centre, spread

        def parameter(*shape: int) -> torch.nn.Parameter:
            drawn = rng.standard_normal(shape) / math.sqrt(shape[-1])
            return torch.nn.Parameter(torch.tensor(drawn, dtype=dtype, device=centre.device))

        self.weights = torch.nn.ParameterList([parameter(out, into) for into, out in pairwise(sizes)])
        self.biases = torch.nn.ParameterList([parameter(out) for out in sizes[1:]])

    def forward(self, points: Tensor) -> Tensor:
        """Values, shape (n,)."""
        hidden = (points - self.centre) / self.spread
        last = len(self.weights) - 1
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            size = weight.norm(dim=1) if k == 0 else weight.abs().sum(1)
            hidden = hidden @ (weight / size.clamp_min(1)[:, None]).T + bias
            hidden = hidden if k == last else hidden.relu()
        return hidden[:, 0] * (self.spread * self.lipschitz)

    def state(self) -> list[Tensor]:
        """A copy of the parameters."""
        return [parameter.detach().clone() for parameter in self.parameters()]

    def load(self, state: list[Tensor]) -> None:
        """Take the parameters back."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), state, strict=True):
                parameter.copy_(value)


def _holder_norm(omega: Tensor, smoothness: float) -> Tensor:
    order = math.ceil(smoothness) - 1
    length = (omega.square().sum(1) + 1e-30).sqrt()
    return (length**order).clamp_min(1) + 2 ** (1 - smoothness + order) * length**smoothness


def _halves(x: Array, y: Array, rng: np.random.Generator) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    check_generator(rng)
    _, x, y, _, _ = clouds(x, y)
    first, second = [], []
    for name, values in (("x", x), ("y", y)):
        tensor = torch.as_tensor(values).detach()
        if tensor.shape[0] < 4:
            raise ParameterError(f"{name} needs at least four points, it has {tensor.shape[0]}")
        order = torch.as_tensor(rng.permutation(tensor.shape[0]), device=tensor.device)
        first.append(tensor[order[::2]])
        second.append(tensor[order[1::2]])
    return (first[0], first[1]), (second[0], second[1])


def _judged(critic: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> CriticBound:
    with torch.no_grad():
        over_x, over_y = critic(x).double(), critic(y).double()
    error = math.sqrt(float(over_x.var()) / len(over_x) + float(over_y.var()) / len(over_y))
    return CriticBound(float(over_x.mean() - over_y.mean()), error, critic, x, y)
