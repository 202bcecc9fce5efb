"""What LoftQ's claims and figures measure: errors of Gaussian matrices, and a classifier of digits that is adapted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism import Paired, paired
from porism.metrics import accuracy
from porism.testbeds import digits, mlp, torch_generator
from porism_plugins.quant._alternation import Decomposition, decompose, qlora
from porism_plugins.quant._engine import Layer, Quantiser, quantise_linears
from porism_plugins.quant._low_rank import full_svd, random_factors

RANK, ROUNDS = 8, 5
# Of the adapters; the best on a validation set is taken, for every start alike.
LEARNING_RATES = (0.003, 0.01)
SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "one pixel": lambda images: F.pad(images[..., 1:], (0, 1)),
    "quarter turn": lambda images: images.rot90(1, (1, 2)),
}


def gaussian(rng: np.random.Generator, rows: int = 128, columns: int = 128) -> Tensor:
    """A standard normal matrix, float32."""
    return torch.from_numpy(rng.normal(size=(rows, columns)).astype(np.float32))


def alternate(
    weight: Tensor,
    rng: np.random.Generator,
    *,
    bits: int,
    rank: int,
    rounds: int = ROUNDS,
    fit: str = "svd",
    keep: str = "last",
) -> Decomposition:
    """LoftQ with NormalFloat of ``bits`` bits, ``fit`` by the full SVD or ``"random"``, the ablation."""
    generator = torch_generator(rng)

    def low_rank(residual: Tensor) -> tuple[Tensor, Tensor]:
        if fit == "random":
            return random_factors(residual, rank, generator)
        return full_svd(residual, rank)

    return decompose(weight, Quantiser(bits=bits), low_rank, rounds=rounds, keep=keep)


class Task(NamedTuple):
    """Images, (n, 64) float32, and labels, to adapt to, to choose the learning rate by, and to test on."""

    adapt: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def trained(rng: np.random.Generator, shift: str = "none") -> tuple[nn.Module, Task, Task]:
    """A network trained on 600 digits, and two tasks of other digits: as they are, and after a ``shift``."""
    data = digits(rng, train=900, validation=300)
    parts = ((data.x_train, data.y_train), (data.x_validation, data.y_validation), (data.x_test, data.y_test))
    (x, y), *others = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in parts]
    first, adapt = (x[:600], y[:600]), (x[600:], y[600:])
    task = Task(adapt, *others)
    shifted = Task(*((SHIFTS[shift](images.view(-1, 8, 8)).reshape(-1, 64), labels) for images, labels in task))
    model = mlp((64, 128, 128, 10), rng)
    return fit(model, first, rng, steps=300, learning_rate=0.003), task, shifted


def quantised(model: nn.Module, rng: np.random.Generator, *, bits: int, start: str) -> nn.Module:
    """A copy with quantised hidden layers and factors by ``"loftq"``, ``"qlora"`` or ``"random"`` ones."""
    generator = torch_generator(copy.deepcopy(rng))

    def layer(name: str, weight: Tensor) -> Layer:
        if start == "qlora":
            return qlora(weight, Quantiser(bits=bits), RANK, generator)
        rounds, how = (1, "random") if start == "random" else (ROUNDS, "svd")
        return alternate(weight, rng, bits=bits, rank=RANK, rounds=rounds, fit=how).layer

    return quantise_linears(copy.deepcopy(model), layer, exclude=["4"])


def adapted(model: nn.Module, task: Task, rng: np.random.Generator, *, steps: int = 300) -> float:
    """Test accuracy after training the factors, at the learning rate that is best on the validation set."""
    tries = []
    for learning_rate in LEARNING_RATES:
        one = fit(copy.deepcopy(model), task.adapt, copy.deepcopy(rng), steps=steps, learning_rate=learning_rate)
        tries.append((score(one, task.validation), score(one, task.test)))
    return max(tries, key=lambda scores: scores[0])[1]


def compared(
    rng: np.random.Generator, *, start: str = "loftq", bits: int = 2, shift: str = "none", after: bool = True
) -> Paired:
    """Accuracies of ``start`` and of QLoRA from the same trained network, after training the factors or before."""

    def arm(rng: np.random.Generator, start: str) -> float:
        model, task, shifted = trained(rng, shift)
        model = quantised(model, rng, bits=bits, start=start)
        return adapted(model, shifted, rng) if after else score(model, task.test)

    return paired(arm, rng, ours={"start": start}, theirs={"start": "qlora"})


def fit(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    rng: np.random.Generator,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 50,
) -> nn.Module:
    """Train what is trainable by Adam on the cross-entropy of random batches."""
    generator, (x, y) = torch_generator(rng), data
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(free, lr=learning_rate, foreach=False)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch_size,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model


@torch.no_grad()
def score(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Accuracy of the class with the largest logit."""
    return accuracy(model(data[0]).argmax(-1), data[1])


def bits_per_weight(bits: int, side: int, rank: int, block_size: int = 64) -> float:
    """Storage of a square matrix: codes, float32 scales and float16 factors, in bits a weight."""
    return 8 * Quantiser(bits=bits, block_size=block_size).nbytes(side * side) / side**2 + 32 * rank / side


def plain_error(weight: Tensor, bits: int, block_size: int = 64) -> float:
    """Relative Frobenius error of NormalFloat alone."""
    quantiser = Quantiser(bits=bits, block_size=block_size)
    return float((weight - quantiser.quantise(weight).dequantise()).norm() / weight.norm())


def error(weight: Tensor, layer: Layer) -> float:
    """Relative Frobenius error of a layer with factors."""
    product = layer.lora_B @ layer.lora_A
    return float((weight - layer.quantised.dequantise() - product).norm() / weight.norm())
