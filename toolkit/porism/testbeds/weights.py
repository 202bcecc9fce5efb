"""Weights of a model that is trained once for each machine and read from the cache after."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from torch import nn

from porism.parameters import Value
from porism.source import normalise
from porism.testbeds import training
from porism.testbeds.cache import cached

Model = TypeVar("Model", bound=nn.Module)


def trained_once(
    name: str,
    build: Callable[[], Model],
    batches: Callable[[np.random.Generator], Iterable[Any]],
    *,
    seed: int,
    steps: int,
    learning_rate: float,
    key: Mapping[str, Value],
) -> Model:
    """Build a model, and train it by :func:`porism.testbeds.train` unless the cache has its weights.

    One thread on the CPU. The same arguments give the same bits, whatever ran before; the caller's random state,
    threads and gradient mode stay as they were.

    Parameters
    ----------
    name
        Begins the name of the file in the cache, ``[a-z][a-z0-9_-]*``.
    build
        Makes the model with its initial weights; ``seed`` is torch's while it runs.
    batches
        Given a generator of ``seed``, what to train on.
    seed, steps, learning_rate
        As in :func:`porism.testbeds.train`.
    key
        What else identifies the weights: a configuration, a :func:`digest` of the data. The code of ``build`` and
        ``batches``, the versions of torch and transformers and the kind of processor are added.

    Returns
    -------
    Module
        In evaluation mode, new at each call.

    Raises
    ------
    ParameterError
        As :func:`porism.testbeds.train` and :func:`porism.testbeds.cached`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.value = nn.Parameter(torch.zeros(1))
    ...     def forward(self, x):
    ...         return SimpleNamespace(loss=((x - self.value) ** 2).mean())
    >>> threes = lambda rng: (torch.full((1,), 3.0) for _ in range(100))
    >>> trained_once("mean", Mean, threes, seed=0, steps=100, learning_rate=0.1, key={}).value.item() > 2
    True
    """

    def fit() -> dict[str, np.ndarray]:
        training.train(model, batches(np.random.default_rng(seed)), steps=steps, learning_rate=learning_rate)
        return {label: weight.numpy() for label, weight in model.state_dict().items()}

    whole = {**key, "seed": seed, "steps": steps, "learning_rate": learning_rate, **_environment(build, batches)}
    with _alone(seed):
        model = build()
        weights = cached(name, fit, key=whole)
        model.load_state_dict({label: torch.from_numpy(weight) for label, weight in weights.items()})
    return model.eval()


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of the values, dtypes and shapes of arrays, for a key.

    Examples
    --------
    >>> digest(np.arange(3)) == digest(np.arange(3)) != digest(np.arange(3.0))
    True
    """
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.dtype.str} {array.shape};".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


@contextlib.contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread on the CPU, gradients on, random numbers from the seed; all as before at the end."""
    threads = torch.get_num_threads()
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _environment(*functions: Callable[..., Any]) -> dict[str, str]:
    """What changes bits beside the arguments: the code, the libraries, the processor's vector instructions."""
    files = {function.__code__.co_filename for function in functions if hasattr(function, "__code__")}
    sources = [Path(file) for file in sorted({*files, __file__, training.__file__}) if Path(file).is_file()]
    code = "\n".join(normalise(source.read_text(encoding="utf-8")) for source in sources)
    return {
        "code": hashlib.sha256(code.encode()).hexdigest(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
