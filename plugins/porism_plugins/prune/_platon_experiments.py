"""What the claims and figures of PLATON measure: digits, a noisy regression, and masks that come and go."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.drawing import columns, log_axes, plot_by
from porism.figures import Table
from porism.metrics import accuracy
from porism.testbeds import digits, mlp
from porism_plugins.prune._engine import Criterion, Pruner, cubic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTHS = (64, 128, 64, 10)
DENSE_STEPS, STEPS = 200, 1500


def batches(rng: np.random.Generator, samples: int, batch_size: int, steps: int) -> Tensor:
    """Rows of each step, (steps, batch_size), epoch by epoch; what is left of an epoch is dropped."""
    size = min(batch_size, samples)
    each = samples // size
    epochs = [rng.permutation(samples)[: each * size].reshape(each, size) for _ in range(-(-steps // each))]
    return torch.from_numpy(np.concatenate(epochs)[:steps])


def train(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor, pruner: Pruner | None = None, *,
          loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy, lr: float = 1e-3) -> Iterator[int]:  # fmt: skip
    """Adam, one step for each batch of rows, whose number is yielded; with a pruner it ends at the pruner's budget."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    for step, batch in enumerate(rows):
        optimizer.zero_grad()
        loss(model(x[batch]), y[batch]).backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()
        yield step
    if pruner is not None:
        pruner.finish()


def run(steps: Iterator[int]) -> None:
    """Do all steps."""
    collections.deque(steps, maxlen=0)


class Task(NamedTuple):
    """A dense network trained on 800 digits for 200 steps, the digits, and the batches of the steps with pruning."""

    dense: nn.Module
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    rows: Tensor

    def pruner(self, model: nn.Module, criterion: Criterion, remaining: float) -> Pruner:
        """One with the card's schedule: 1/15 of the steps warm-up, 4/15 cooldown."""
        steps = len(self.rows)
        return Pruner(
            model, criterion, remaining=remaining, total_steps=steps, warmup=steps // 15, cooldown=4 * steps // 15
        )


def digits_task(rng: np.random.Generator, *, batch_size: int = 32, steps: int = STEPS) -> Task:
    """The task of the claims: an MLP 64-128-64-10."""
    data = digits(rng, train=800, validation=0)
    x, y, x_test, y_test = map(torch.from_numpy, (data.x_train, data.y_train, data.x_test, data.y_test))
    dense = mlp(WIDTHS, rng)
    run(train(dense, x, y, batches(rng, len(x), 32, DENSE_STEPS)))
    return Task(dense, x, y, x_test, y_test, batches(rng, len(x), batch_size, steps))


def pruned_accuracy(task: Task, criterion: Criterion, remaining: float) -> float:
    """Test accuracy after pruning by a criterion."""
    model = copy.deepcopy(task.dense)
    run(train(model, task.x, task.y, task.rows, task.pruner(model, criterion, remaining)))
    with torch.no_grad():
        return accuracy(model(task.x_test).argmax(-1), task.y_test)


def accuracies(
    rng: np.random.Generator, criteria: Iterable[Criterion], remaining: float, *, batch_size: int = 32,
    steps: int = STEPS,
) -> list[float]:  # fmt: skip
    """By criterion, all from the same dense network and batches."""
    task = digits_task(rng, batch_size=batch_size, steps=steps)
    return [pruned_accuracy(task, criterion, remaining) for criterion in criteria]


def gain_of_noise(rng: np.random.Generator, ours: Criterion, theirs: Criterion, remaining: float) -> float:
    """By how much the gain of ours is larger with batches of 4 than with all 800 digits; 600 steps each."""
    gains = []
    for batch_size, same in ((4, copy.deepcopy(rng)), (800, rng)):
        first, second = accuracies(same, [ours, theirs], remaining, batch_size=batch_size, steps=600)
        gains.append(first - second)
    return gains[0] - gains[1]


def mean_returns(rng: np.random.Generator, criteria: Iterable[Criterion], remaining: float) -> list[float]:
    """Mean over masks of :func:`returns`, by criterion."""
    task = digits_task(rng)
    return [float(np.mean([back for _, back in returns(task, c, remaining)])) for c in criteria]


def returns(task: Task, criterion: Criterion, remaining: float) -> list[tuple[int, float]]:
    """After each mask between warm-up and cooldown: the step, and the share of the last mask's zeros that are back."""
    model, found, before = copy.deepcopy(task.dense), [], None
    pruner = task.pruner(model, criterion, remaining)
    for step in train(model, task.x, task.y, task.rows, pruner):
        if step > pruner.warmup and step % pruner.interval == 0 and step < pruner.total_steps - pruner.cooldown:
            zero = torch.cat([layer.weight.flatten() == 0 for layer in pruner.layers.values()])
            if before is not None:
                found.append((step, float((before & ~zero).sum() / before.sum())))
            before = zero
    return found


def recovered_share(rng: np.random.Generator, criteria: Iterable[Criterion], *, batch_size: int = 8,
                    noise: float = 5.0) -> list[float]:  # fmt: skip
    """F1 of the support of a linear regression pruned to its 20 active features of 200, by criterion.

    400 samples, active coefficients +-1, labels with noise of this standard deviation beside a signal of sqrt 20.
    """
    truth = np.zeros(200)
    truth[rng.choice(200, 20, replace=False)] = rng.choice([-1.0, 1.0], 20)
    x = rng.normal(size=(400, 200))
    y = x @ truth + noise * rng.normal(size=400)
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y).float()[:, None]
    start, rows, found = mlp((200, 1), rng), batches(rng, 400, batch_size, STEPS), []
    for criterion in criteria:
        model = copy.deepcopy(start)
        pruner = Pruner(model, criterion, remaining=0.1, total_steps=STEPS, warmup=100, cooldown=400)
        run(train(model, x, y, rows, pruner, loss=F.mse_loss, lr=1e-2))
        chosen = model[0].weight[0] != 0
        found.append(float((chosen.numpy() & (truth != 0)).sum() / 20))
    return found


def accuracy_table(rng: np.random.Generator, criteria: Mapping[str, Criterion], shares: Sequence[float], *,
                   replicates: int, steps: int) -> Table:  # fmt: skip
    """Columns ``criterion``, ``remaining``, ``replicate`` and ``accuracy`` in percent."""
    rows = []
    for replicate, child in enumerate(rng.spawn(replicates)):
        task = digits_task(child, steps=steps)
        rows += [(name, share, replicate, 100 * pruned_accuracy(task, criterion, share))
                 for name, criterion in criteria.items() for share in shares]  # fmt: skip
    return columns("criterion remaining replicate accuracy", rows)


def draw_accuracies(table: Table, left: Axes, right: Axes) -> None:
    """Means over replicates against the share that stays, and the differences from magnitude with single replicates."""
    shares = np.unique(table["remaining"])
    values = {name: np.array([table["accuracy"][(table["criterion"] == name) & (table["remaining"] == share)]
                              for share in shares]) for name in dict.fromkeys(table["criterion"].tolist())}  # fmt: skip
    for number, (name, accuracies) in enumerate(values.items()):
        left.plot(shares, accuracies.mean(1), "o-", color=f"C{number}", markersize=3, label=name)
        difference = accuracies - values["magnitude"]
        right.plot(shares, difference.mean(1), "o-", color=f"C{number}", markersize=3)
        right.plot(shares, difference, ".", color=f"C{number}", markersize=5, alpha=0.5)
    for axes, label in ((left, "test accuracy in %"), (right, "points above magnitude")):
        log_axes(axes, x=tuple(shares.tolist()))
        axes.set(xlabel="share of the weights that stays", ylabel=label)
    left.legend()
    right.set_ylim(-6, 3)


def churn_table(rng: np.random.Generator, criteria: Mapping[str, Criterion], *, remaining: float, steps: int) -> Table:
    """Columns ``criterion``, ``step``, ``share`` of the schedule and ``back``, see :func:`returns`."""
    task = digits_task(rng, steps=steps)
    rows = [(name, step, cubic(step, steps, warmup=steps // 15, cooldown=4 * steps // 15, remaining=remaining), back)
            for name, criterion in criteria.items() for step, back in returns(task, criterion, remaining)]  # fmt: skip
    return columns("criterion step share back", rows)


def draw_churn(table: Table, left: Axes, right: Axes) -> None:
    """The schedule, and what comes back at each mask."""
    one = table["criterion"] == table["criterion"][0]
    left.plot(table["step"][one], 100 * table["share"][one], "k")
    left.set(xlabel="step", ylabel="share that stays, %", ylim=(0, 100))
    plot_by(right, {**table, "percent": 100 * table["back"]}, "step", "percent", "criterion", ".")
    right.set_yscale("symlog", linthresh=0.01)
    right.set(xlabel="step", ylabel="zeros back after the next mask, %", ylim=(-0.002, 100))
    right.legend()
