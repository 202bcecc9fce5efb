"""What TempNet's claims measure: synthetic logits, a tiny Llama, digits of changing contrast, and halves of digits."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from porism.testbeds import corpus, digits, mlp, tiny_llama, windows
from porism_plugins.tune._tempnet_contrastive import ContrastiveTempNetLoss
from porism_plugins.tune._tempnet_generation import train_tempnet
from porism_plugins.tune._tempnet_loss import TempNetLoss
from porism_plugins.tune._tempnet_networks import FeatureTempNet, LogitTempNet
from porism_plugins.tune._tempnet_temperature import optimal_temperature

Rng = np.random.Generator
# Of the global temperature, of which the best on validation data is taken.
TEMPERATURES = tuple(np.geomspace(0.25, 4, 17).tolist())
# Of rho, as shares of log V, chosen by the same data.
SHARES = (0.6, 0.7, 0.8, 0.9)
LABELLED = tuple[Tensor, Tensor]


class Constant(nn.Module):
    """The ablation: one temperature for all contexts, learned by the same loss."""

    def __init__(self, tau_min: float, tau_max: float) -> None:
        super().__init__()
        self.tau_min, self.tau_max, self.q = tau_min, tau_max, nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """The same number for every row."""
        return (self.tau_min + (self.tau_max - self.tau_min) * self.q.sigmoid()).expand(inputs.shape[:-1])


@contextlib.contextmanager
def seeded(rng: Rng) -> Iterator[None]:
    """torch's global generator, for initial weights and dropout, from ``rng``; as before at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63 - 1)))
        yield


def network(kind: str, classes: int, *, tau_max: float = 4.0) -> nn.Module:
    """``"published"``, ``"scale"`` (it sees the norm as well) or ``"constant"``."""
    if kind == "constant":
        return Constant(0.05, tau_max)
    return LogitTempNet(classes, hidden=64, tau_min=0.05, tau_max=tau_max, scale=kind == "scale")


def fitted(rng: Rng, kind: str, logits: Tensor, rho: float, *, steps: int = 500, rate: float = 2e-2,
           batch: int = 128) -> nn.Module:  # fmt: skip
    """A network trained on rows of logits that do not change."""
    with seeded(rng):
        net = network(kind, logits.shape[-1])
        rows = (logits[torch.from_numpy(rng.integers(len(logits), size=batch))] for _ in itertools.count())
        train_tempnet(nn.Identity(), net, rows, rho=rho, steps=steps, learning_rate=rate)
    return net


def synthetic(rng: Rng, rows: int, *, scale: float = 1.0, classes: int = 50) -> Tensor:
    """sign(g) |g|^a times 2 times a factor; a is uniform on [0.5, 2.5], the factor log-uniform on [1/scale, scale]."""
    g, power = rng.normal(size=(rows, classes)), rng.uniform(0.5, 2.5, size=(rows, 1))
    factor = np.exp(rng.uniform(-1, 1, size=(rows, 1)) * math.log(scale))
    return torch.from_numpy(2 * factor * np.sign(g) * np.abs(g) ** power).float()


def nll(logits: Tensor, y: Tensor, tau: Tensor | float) -> float:
    """Mean negative log-likelihood of labels at temperatures, in nats."""
    return float(F.cross_entropy(logits / (tau[:, None] if isinstance(tau, Tensor) else tau), y))


def entropies(logits: Tensor, tau: Tensor | float) -> Tensor:
    """Of softmax(z / tau) for each row, in nats."""
    log_q = (logits / (tau[:, None] if isinstance(tau, Tensor) else tau)).log_softmax(-1)
    return -(log_q.exp() * log_q).sum(-1)


@torch.no_grad()
def said(net: nn.Module, logits: Tensor) -> Tensor:
    """The temperatures of a network."""
    tau: Tensor = net(logits)
    return tau


class Frozen(NamedTuple):
    """Logits and labels of a frozen model: to train the network by, to choose by, and to test on."""

    train: LABELLED
    validation: LABELLED
    test: LABELLED


@functools.cache
def _language_model() -> tuple[Any, Any]:
    text = corpus(np.random.default_rng(0))
    return text, tiny_llama(text.train)


def language(rng: Rng) -> Frozen:
    """Windows of the manual, and what a tiny Llama says after 32 or more characters; 3,800, 1,900 and 3,800 rows."""
    text, model = _language_model()

    @torch.no_grad()
    def rows(codes: np.ndarray, count: int) -> LABELLED:
        x = torch.from_numpy(windows(rng, codes, batch=count, length=128))
        logits = model(x, use_cache=False).logits[:, 32:-1]
        return logits.flatten(0, 1), x[:, 33:].flatten()

    return Frozen(rows(text.train, 40), rows(text.validation, 20), rows(text.test, 40))


def contrasts(rng: Rng) -> Frozen:
    """A classifier of 800 digits at full contrast, frozen, on digits whose contrast is uniform on [0.2, 1]."""
    data = digits(rng, train=800, validation=400)
    x, y, model = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train), mlp((64, 64, 10), rng)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    for rows in torch.from_numpy(rng.integers(800, size=(300, 64))):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

    @torch.no_grad()
    def faded(images: np.ndarray, labels: np.ndarray) -> LABELLED:
        factor = rng.uniform(0.2, 1.0, size=(len(images), 1)).astype(np.float32)
        return model(torch.from_numpy(images * factor)), torch.from_numpy(labels)

    half = len(data.x_validation) // 2
    return Frozen(
        faded(data.x_validation[:half], data.y_validation[:half]),
        faded(data.x_validation[half:], data.y_validation[half:]),
        faded(data.x_test, data.y_test),
    )


def distorted(rng: Rng, *, classes: int = 50, scale: float = 3.0) -> Frozen:
    """Right logits of spread 2 times a factor of each context, log-uniform on [1/scale, scale]; 3,000, 1,000, 3,000."""

    def rows(count: int) -> LABELLED:
        right = rng.normal(scale=2.0, size=(count, classes))
        labels = (right + rng.gumbel(size=right.shape)).argmax(-1)  # a draw from softmax(right)
        factor = np.exp(rng.uniform(-1, 1, size=(count, 1)) * math.log(scale))
        return torch.from_numpy(factor * right).float(), torch.from_numpy(labels)

    return Frozen(rows(3000), rows(1000), rows(3000))


def best_global(task: Frozen) -> float:
    """Test NLL at the one of :data:`TEMPERATURES` that is best on validation data."""
    tau = min(TEMPERATURES, key=lambda tau: nll(*task.validation, tau))
    return nll(*task.test, tau)


def best_network(rng: Rng, task: Frozen, kind: str, shares: Iterable[float] = SHARES) -> float:
    """Test NLL at the temperatures of the network whose rho is best on validation data."""
    tries = []
    for share in shares:
        logits = task.train[0]
        net = fitted(copy.deepcopy(rng), kind, logits, share * math.log(logits.shape[-1]))
        scores = [nll(*part, said(net, part[0])) for part in (task.validation, task.test)]
        tries.append((scores[0], scores[1]))
    return min(tries)[1]


def closeness(rng: Rng, kind: str, logits: Tensor, fresh: Tensor, rho: float, *, steps: int) -> tuple[float, float]:
    """Spearman correlation with the exact temperatures of fresh logits, and the median relative error."""
    tau = said(fitted(rng, kind, logits, rho, steps=steps), fresh).double()
    exact = optimal_temperature(fresh, rho, tau_min=0.05, tau_max=4.0)
    correlation = 0.0 if bool((tau == tau[0]).all()) else float(stats.spearmanr(tau, exact)[0])
    return correlation, float(((tau - exact).abs() / exact).median())


def spread_of_entropy(rng: Rng, kind: str, share: float) -> tuple[float, float]:
    """Standard deviation over contexts of the entropy at a network's temperatures, and at one with the same mean."""
    task = language(rng)
    net, logits = fitted(rng, kind, task.train[0], share * math.log(96)), task.test[0]
    ours = entropies(logits, said(net, logits))
    low, high = 0.02, 50.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if entropies(logits, middle).mean() < ours.mean() else (low, middle)
    return float(ours.std()), float(entropies(logits, middle).std())


def halves(rng: Rng, kind: str, values: Iterable[float], *, steps: int = 80) -> float:
    """Recall at 1 of the other half, both ways, in three groups of 299 held-out digits; the value is chosen on 300.

    Two encoders 32-64-32 are trained from scratch on 600 digits by batches of 100, with each value: a fixed temperature
    (``kind="fixed"``), or rho for ``"network"`` or ``"constant"`` temperatures in [0.01, 0.5].
    """
    data, tries = digits(rng, train=600, validation=300), []
    x, validation, test = (torch.from_numpy(a) for a in (data.x_train, data.x_validation, data.x_test))
    rows = torch.from_numpy(np.stack([rng.choice(600, 100, replace=False) for _ in range(steps)]))
    for value in values:
        own = copy.deepcopy(rng)
        top, bottom = mlp((32, 64, 32), own), mlp((32, 64, 32), own)
        with seeded(own):
            loss = _contrastive(kind, value)
            groups = [[*top.parameters(), *bottom.parameters()], list(loss.parameters())]
            optimizer = torch.optim.Adam([{"params": group} for group in groups if group], lr=3e-3, fused=True)
            for batch in rows:
                similarity, a, b = similarities(top, bottom, x[batch])
                optimizer.zero_grad()
                loss(similarity, a, b).backward()
                optimizer.step()
        found = [_recall(top, bottom, part) for part in test.chunk(3)]
        tries.append((_recall(top, bottom, validation), float(np.mean(found))))
    return max(tries, key=lambda scores: scores[0])[1]


def similarities(top: nn.Module, bottom: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of the features of all halves, and both features."""
    a, b = F.normalize(top(x[:, :32]), dim=-1), F.normalize(bottom(x[:, 32:]), dim=-1)
    return a @ b.T, a, b


def _contrastive(kind: str, value: float) -> ContrastiveTempNetLoss:
    if kind == "fixed":
        return ContrastiveTempNetLoss(value, value, rho=1.0)
    sides = (Constant(0.01, 0.5) if kind == "constant" else FeatureTempNet(32, prototypes=64, tau_min=0.01, tau_max=0.5)
             for _ in range(2))  # fmt: skip
    return ContrastiveTempNetLoss(*sides, rho=value)


@torch.no_grad()
def _recall(top: nn.Module, bottom: nn.Module, x: Tensor) -> float:
    s, own = similarities(top, bottom, x)[0], torch.arange(len(x))
    return float(((s.argmax(1) == own).double().mean() + (s.argmax(0) == own).double().mean()) / 2)


def joint_accuracy(rng: Rng, kind: str, values: Iterable[float], *, steps: int = 250) -> float:
    """Test accuracy of an MLP 64-32-10 trained on 100 digits; the value is chosen on 300 others.

    Values are fixed temperatures of cross-entropy (``kind="fixed"``) or shares of log V as rho.
    """
    data, tries = digits(rng, train=100, validation=300), []
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    others = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in
              ((data.x_validation, data.y_validation), (data.x_test, data.y_test))]  # fmt: skip
    rows = torch.from_numpy(rng.integers(100, size=(steps, 32)))
    for value in values:
        own = copy.deepcopy(rng)
        model = mlp((64, 32, 10), own)
        with seeded(own):
            rho = (1.0 if kind == "fixed" else value) * math.log(10)
            loss = TempNetLoss(value if kind == "fixed" else network(kind, 10), rho=rho)
            optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=3e-3, fused=True)
            for batch in rows:
                optimizer.zero_grad()
                loss(model(x[batch]), y[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            tries.append(tuple(float((model(a).argmax(-1) == b).double().mean()) for a, b in others))
    return max(tries, key=lambda scores: scores[0])[1]
