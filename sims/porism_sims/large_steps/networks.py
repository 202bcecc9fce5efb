"""Full-batch gradient descent with large steps on small networks (torch), many networks at once.

A step of one small network leaves a core idle, so weights carry a first axis ``networks``: the gradient of the summed
losses is each network's own, and each has its own data, step size and degree of loss. One loop trains them all. What
diverges is reported, not raised.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from porism.arrays import check_count, check_generator
from porism.errors import ParameterError
from porism.metrics import sharpness

Array = NDArray[np.float64]
Activation = Literal["tanh", "relu", "linear"]
Normalisation = Literal["none", "batch"]

_ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "linear": lambda z: z}
# A network is lost when its loss exceeds this or is no number.
_BOUND = 1e8
# Batch normalisation adds this to variances.
_EPSILON = 1e-5
# Relative accuracy of the sharpness.
_ACCURACY = 1e-4


class Problem(NamedTuple):
    """Regressions, one for each network, and what the networks compute.

    Attributes
    ----------
    inputs, targets
        Float64, of shapes (networks, points, features) and (networks, points).
    degree
        Shape (networks,): the loss of a residual r is ``((1 + r^2)^(degree/2) - 1) / degree``, averaged over points;
        1 is pseudo-Huber, 2 half the square, 4 ``r^2/2 + r^4/4``.
    activation
        Of the hidden layers; the last layer is linear. There are no biases.
    normalisation
        ``"batch"``: before its activation every hidden unit gets mean 0 and variance 1 over the points.
    """

    inputs: Tensor
    targets: Tensor
    degree: Tensor
    activation: Activation = "tanh"
    normalisation: Normalisation = "none"

    def of(self, network: int) -> Problem:
        """The problem of one network."""
        one = slice(network, network + 1)
        return self._replace(inputs=self.inputs[one], targets=self.targets[one], degree=self.degree[one])


def problem(
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    degree: ArrayLike = 2.0,
    activation: Activation = "tanh",
    normalisation: Normalisation = "none",
) -> Problem:
    """Check and complete a :class:`Problem`; ``degree`` is one positive number or one for each network.

    Raises
    ------
    ParameterError
        For shapes that disagree, values that are not finite, and unknown names.

    Examples
    --------
    >>> problem(np.ones((2, 5, 3)), np.zeros((2, 5)), degree=1.0).degree.tolist()
    [1.0, 1.0]
    """
    x, y = (torch.as_tensor(np.asarray(a, float)) for a in (inputs, targets))
    if x.ndim != 3 or x.numel() == 0 or y.shape != x.shape[:2]:
        raise ParameterError(
            "inputs and targets must have shapes (networks, points, features), (networks, points), "
            f"got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    degrees = np.asarray(degree, float)
    if degrees.shape not in ((), (len(x),)) or not np.all((degrees > 0) & (degrees <= 16)):
        raise ParameterError("degree must be in (0, 16], one number or one for each network")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ParameterError("inputs and targets must be finite")
    if activation not in _ACTIVATIONS:
        raise ParameterError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
    if normalisation not in ("none", "batch"):
        raise ParameterError(f"normalisation must be one of none, batch, got {normalisation!r}")
    return Problem(x, y, torch.as_tensor(np.broadcast_to(degrees, len(x)).copy()), activation, normalisation)


def wave(rng: np.random.Generator, *, networks: int = 1, points: int = 10, features: int = 3) -> tuple[Array, Array]:
    """Standard normal inputs, and as targets the sine of the sum of their entries.

    Returns
    -------
    inputs, targets
        Shapes (networks, points, features) and (networks, points).
    """
    inputs = check_generator(rng).standard_normal((networks, points, features))
    return inputs, np.sin(inputs.sum(axis=-1))


def classes(
    rng: np.random.Generator, *, networks: int = 1, points: int = 200, features: int = 64
) -> tuple[Array, Array]:
    """Two Gaussian classes with labels +-1 whose standard deviations fall as those of pictures do, k-th as 1/k.

    Returns
    -------
    inputs, targets
        Shapes (networks, points, features), of mean square about 1, and (networks, points).
    """
    check_generator(rng)
    scale = 1 / np.arange(1, features + 1)
    scale *= np.sqrt(features / np.sum(scale**2))
    labels = rng.choice([-1.0, 1.0], size=(networks, points))
    shift = rng.standard_normal((networks, 1, features)) / np.sqrt(features)
    return scale * (rng.standard_normal((networks, points, features)) + labels[..., None] * shift), labels


def random_weights(
    rng: np.random.Generator, widths: Sequence[int], *, networks: int = 1, gains: Sequence[float] | None = None
) -> list[Tensor]:
    """Gaussian weights of variance ``gain^2 / fan-in``.

    Parameters
    ----------
    rng
        Draws them.
    widths
        Features, then the width of each hidden layer; the output has width 1.
    networks
        How many.
    gains
        One for each layer; 1 unless told.

    Returns
    -------
    list of Tensor
        Float64, shapes (networks, width, width before).

    Raises
    ------
    ParameterError
        For fewer than two widths, widths below 1, or as many gains as there are no layers.

    Examples
    --------
    >>> [tuple(matrix.shape) for matrix in random_weights(np.random.default_rng(0), (3, 20), networks=4)]
    [(4, 20, 3), (4, 1, 20)]
    """
    check_generator(rng)
    if len(widths) < 2 or min(widths) < 1:
        raise ParameterError(f"widths must be at least two positive numbers, got {tuple(widths)}")
    gains = (1.0,) * len(widths) if gains is None else gains
    if len(gains) != len(widths):
        raise ParameterError(f"gains must be {len(widths)} numbers, one for each layer, got {len(gains)}")
    shapes = zip([*widths[1:], 1], widths, gains, strict=True)
    return [torch.as_tensor(rng.standard_normal((networks, n, m)) * gain / np.sqrt(m)) for n, m, gain in shapes]


def predictions(weights: Sequence[Tensor], task: Problem) -> Tensor:
    """Outputs of every network at its own inputs, shape (networks, points)."""
    hidden = task.inputs
    for matrix in weights[:-1]:
        hidden = hidden @ matrix.mT
        if task.normalisation == "batch":
            hidden = hidden - hidden.mean(1, keepdim=True)
            hidden = hidden / (hidden.square().mean(1, keepdim=True) + _EPSILON).sqrt()
        hidden = _ACTIVATIONS[task.activation](hidden)
    return (hidden @ weights[-1].mT)[..., 0]


def losses(weights: Sequence[Tensor], task: Problem) -> Tensor:
    """Mean loss over its points of every network, shape (networks,)."""
    square = (predictions(weights, task) - task.targets).square()
    return torch.expm1(task.degree[:, None] / 2 * torch.log1p(square)).mean(1) / task.degree


def largest_curvatures(rng: np.random.Generator, weights: Sequence[Tensor], task: Problem) -> Array:
    """The sharpness of every network by Lanczos, shape (networks,); no number where a loss is not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> task = problem(*wave(rng, networks=2))
    >>> largest_curvatures(rng, random_weights(rng, (3, 20), networks=2), task).shape
    (2,)
    """
    found = np.full(len(task.targets), np.nan)
    for network in np.flatnonzero(np.isfinite(losses(weights, task).detach().numpy())):
        own = [matrix[network : network + 1].detach().clone().requires_grad_() for matrix in weights]
        alone = task.of(network)
        # the closure is used within this turn of the loop
        found[network] = sharpness(lambda: losses(own, alone).sum(), own, tolerance=_ACCURACY, rng=rng)[0]  # noqa: B023
    return found


def layer_imbalance(weights: Sequence[Tensor]) -> Array:
    """How unequal weights are before and after hidden units: the sum over units of ``| |in|^2 - |out|^2 |``.

    Gradient flow conserves every term where the activation is linear or relu and there is no normalisation.

    Returns
    -------
    array of shape (networks,)
    """
    differences = [a.square().sum(2) - b.square().sum(1) for a, b in itertools.pairwise(weights)]
    return torch.cat(differences, dim=1).abs().sum(1).detach().numpy()


class History(NamedTuple):
    """What a training saw: arrays of shape (records, networks), the first record before the first step.

    Attributes
    ----------
    step
        Shape (records,).
    loss, curvature, imbalance
        Mean loss, sharpness and :func:`layer_imbalance`; no numbers where sharpness was not asked for, where a network
        is lost, and after the record at which the last one is.
    diverged
        Shape (networks,).
    """

    step: NDArray[np.int64]
    loss: Array
    curvature: Array
    imbalance: Array
    diverged: NDArray[np.bool_]


def train(
    rng: np.random.Generator,
    weights: Sequence[Tensor],
    task: Problem,
    *,
    step_size: ArrayLike,
    steps: int = 6000,
    every: int = 100,
    spectra: Literal["always", "last"] = "always",
) -> History:
    """Descend from ``weights``, which are left as they are, and record every ``every``-th step.

    Parameters
    ----------
    rng
        Draws the first vectors of Lanczos.
    weights, task
        As :func:`random_weights` and :func:`problem` make them.
    step_size
        Positive; one for all or one for each network.
    steps, every
        At least 1; ``steps`` is a multiple of ``every``.
    spectra
        When sharpness is computed: at every record, or at the last.

    Raises
    ------
    ParameterError
        For numbers out of range.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> task, start = problem(*wave(rng), degree=1.0), random_weights(rng, (3, 20))
    >>> train(rng, start, task, step_size=0.1, steps=200).loss[:, 0].round(2).tolist()
    [0.18, 0.07, 0.02]
    """
    check_generator(rng)
    check_count("steps", steps, check_count("every", every, 1))
    sizes = torch.as_tensor(np.broadcast_to(np.asarray(step_size, float), len(task.targets)).copy())
    if steps % every or not bool((sizes > 0).all() & torch.isfinite(sizes).all()):
        raise ParameterError("steps must be a multiple of every, and step_size positive and finite")
    own = [matrix.detach().clone().requires_grad_() for matrix in weights]
    recorded = np.arange(0, steps + 1, every)
    loss, curvature, imbalance = np.full((3, recorded.size, len(sizes)), np.nan)
    for record in range(recorded.size):
        if record:
            _steps(own, task, sizes[:, None, None], every)
        loss[record], imbalance[record] = losses(own, task).detach().numpy(), layer_imbalance(own)
        lost = ~(loss[record] <= _BOUND)
        if lost.all():
            break
        if spectra == "always" or record == recorded.size - 1:
            curvature[record] = largest_curvatures(rng, own, task)
    return History(recorded, loss, curvature, imbalance, lost)


def _steps(weights: list[Tensor], task: Problem, step_size: Tensor, count: int) -> None:
    """Descend in place; the losses' slopes at the outputs are written out, which saves autograd half its work."""
    points = task.targets.shape[1]
    exponent = task.degree[:, None] / 2 - 1
    for _ in range(count):
        outputs = predictions(weights, task)
        residuals = (outputs - task.targets).detach()
        slopes = residuals * (1 + residuals.square()) ** exponent / points
        gradients = torch.autograd.grad(outputs, weights, slopes)
        with torch.no_grad():
            for matrix, gradient in zip(weights, gradients, strict=True):
                matrix -= step_size * gradient
