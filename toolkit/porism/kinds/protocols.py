"""The interface of each kind, as its ecosystem has it: nothing here is porism's own invention.

A method need not inherit from any of these. Whether it has the members is checked by
``check_method_fits_its_kind``; what they must do is checked by the module of the kind, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class Loss(Protocol):
    """A :class:`torch.nn.Module` class whose constructor needs no argument.

    The first argument of ``forward`` is what is trained, such as logits of shape (N, C). Further ones named
    ``target...`` or ``label...`` are class indices of shape (N,), ``teacher...`` and ``reference...`` are
    not differentiated. A loss that takes anything else has ``example_inputs(rng, *, batch)`` in its file,
    which returns the tensors of one call by name.
    """

    def forward(self, logits: Tensor, targets: Tensor, /) -> Tensor:
        """Return the loss: a finite scalar, averaged over samples by default."""
        ...


@runtime_checkable
class Optimizer(Protocol):
    """A :class:`torch.optim.Optimizer` class: ``Method(model.parameters(), lr=...)``."""

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step from the gradients that stand in the parameters."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on after a restart."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state."""
        ...


@runtime_checkable
class Compressor(Protocol):
    """A function from a torch module to a smaller one.

    Options by these names mean the same everywhere: ``remaining``, the share of the linear layers' weights that stays,
    in (0, 1]; ``bits`` of a weight; ``rank``; ``calibration``, an iterable of batches, each what the model is called
    with (:func:`porism.surgery.call`) or, where it is trained, a pair of that and labels; ``include`` and ``exclude``,
    patterns of :func:`porism.surgery.linear_layers`; ``inplace``, false by default. Every option has a default, but for
    the calibration. The checks of :mod:`porism.kinds.compressor` take examples from the paper's file:
    ``example_model(rng)``, ``example_inputs(rng)``, ``example_calibration(rng)``, ``example_options(rng)``.
    """

    def __call__(self, model: nn.Module, /, **options: Any) -> nn.Module:
        """Return a module with the same inputs and outputs and fewer parameters, bits or operations."""
        ...


@runtime_checkable
class LayerCompressor(Protocol):
    """``compress_layer`` in the file of a compressor that decides layer by layer and trains nothing.

    ``porism compress`` calls it on one layer of a checkpoint after the other. The options are the method's own, but for
    the model, the calibration, the patterns and ``inplace``. The method calls it too, so that both give the same bits.
    """

    def __call__(self, name: str, weight: Tensor, second_moment: Tensor | None, /, **options: Any) -> nn.Module:
        """Return what takes the place of a layer, without a bias: a ``nn.Linear``, or one of the file's ``LAYERS``.

        ``weight`` is float32 of shape (out, in); ``second_moment`` is the mean of x_j^2 over the calibration's tokens,
        float32 of shape (in,), or None where there is no calibration.
        """
        ...


@runtime_checkable
class CompressedLayer(Protocol):
    """A class in ``LAYERS`` of a compressor's file: a module that takes the place of an ordinary linear layer.

    It also has ``in_features``, ``out_features``, ``bias``, ``state_dict`` and ``load_state_dict``, and a property
    ``weight``, the matrix (out, in) that it multiplies by. Its class method
    ``from_options(in_features, out_features, *, device=None, **options)`` builds an empty one.
    """

    def options(self) -> dict[str, Any]:
        """What, beside the state, rebuilds it; JSON can hold it, with ``bias``, ``dtype`` and ``conv1d`` among it."""
        ...

    def nbytes(self) -> int:
        """Bytes of its tensors."""
        ...

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x of shape (..., in_features)."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """A function that leaves a torch module with few trainable parameters."""

    def __call__(self, model: nn.Module, /, **options: Any) -> nn.Module:
        """Return the module with adapters; before training it computes what it did."""
        ...


@runtime_checkable
class Cache(Protocol):
    """A ``transformers.Cache`` class."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any) -> tuple[Tensor, Tensor]:
        """Add new keys and values, shape (batch, heads, new, width); return those to attend to."""
        ...

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions seen."""
        ...


@runtime_checkable
class Layer(Protocol):
    """A :class:`torch.nn.Module` class used inside a network.

    The checks of :mod:`porism.kinds.layer` make one by ``example_layer(rng)`` of the paper's file, or by a constructor
    that needs no argument, and call it with the tensors of ``example_inputs(rng, *, batch)``, a mapping in the order of
    ``forward``; without one, with a tensor of shape (batch, 16). A class whose rows do not look at each other in
    evaluation says ``rows_are_independent = True``. What draws numbers takes a generator of its own.
    """

    def forward(self, *inputs: Tensor) -> Any:
        """Return a tensor, or a tuple or mapping of them, in the dtype of the inputs."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """A ``transformers.LogitsProcessor`` class, or a function that generates.

    An instance of the class is called as ``processor(input_ids, scores)`` with tokens (batch, length) and scores
    (batch, vocabulary), and returns scores like these; ``-inf`` forbids a token. The function is called as
    ``method(model, input_ids, *, max_new_tokens, attention_mask, eos_token_id)``, the last two if at all, and with a
    ``generator`` of torch where its signature has one; it returns tokens (batch, length + new), or what has them as
    ``sequences``. What is behind a row's end is ``model.generation_config.pad_token_id``, or what ended it.

    The checks of :mod:`porism.kinds.decoder` take examples from the paper's file: ``example_model(rng)``, a causal
    language model of transformers, by default a tiny Llama of 50 tokens with random weights; ``example_options(rng)``,
    what the class is built with or the function further called with. ``EXACT = {"option": value}`` in the file says
    that with these options greedy text is that of ``generate(do_sample=False)``.
    """

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """``(input_ids, scores) -> scores``, or ``(model, input_ids, ...) -> ids``."""
        ...


@runtime_checkable
class Selector(Protocol):
    """A function from data to what is worth keeping of it."""

    def __call__(self, *data: Any, **options: Any) -> NDArray[Any]:
        """Return indices of the rows to keep, or a weight for each row."""
        ...


@runtime_checkable
class Estimator(Protocol):
    """A scikit-learn estimator class whose constructor needs no argument and only stores what it is given."""

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn from X of shape (n, d) and y of shape (n,), and return the estimator."""
        ...

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return one value for each row."""
        ...

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        ...

    def set_params(self, **params: Any) -> Self:
        """Change some of them, and return the estimator."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A learning rule over a stream, as scikit-learn has it."""

    def partial_fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn from one more batch, and return the learner."""
        ...


@runtime_checkable
class StepLearner(Protocol):
    """A learning rule over a stream that acts: bandits, control, online convex optimisation."""

    def step(self, *observation: Any) -> Any:
        """Take in one observation and return the next action or state."""
        ...


@runtime_checkable
class Process(Protocol):
    """A stochastic process."""

    def sample(self, rng: np.random.Generator, **options: Any) -> Any:
        """Draw a path."""
        ...

    def log_likelihood(self, path: Any) -> float:
        """Logarithm of the density of a path."""
        ...


@runtime_checkable
class Simulator(Protocol):
    """A function of a generator and of keyword parameters with ranges, which it checks itself.

    It is decorated with :func:`porism.validated`, so that a number out of range gives a
    :class:`porism.errors.ParameterError` from Python as well as from the command line. One that draws nothing
    has the tag ``"deterministic"``.
    """

    def __call__(self, rng: np.random.Generator, /, **parameters: Any) -> Mapping[str, NDArray[Any]]:
        """Return finite arrays or numbers by name."""
        ...


@runtime_checkable
class Pipeline(Protocol):
    """Several models or tools composed behind one call."""

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the pipeline."""
        ...


# The interfaces of each kind; one of them is enough.
INTERFACES: Mapping[str, tuple[type, ...]] = {
    "loss": (Loss,),
    "optimizer": (Optimizer,),
    "compressor": (Compressor,),
    "adapter": (Adapter,),
    "cache": (Cache,),
    "layer": (Layer,),
    "decoder": (Decoder,),
    "selector": (Selector,),
    "estimator": (Estimator,),
    "learner": (Learner, StepLearner),
    "process": (Process,),
    "simulator": (Simulator,),
    "pipeline": (Pipeline,),
}


def members(interface: type) -> list[str]:
    """The methods that an interface asks for.

    Examples
    --------
    >>> members(Process)
    ['sample', 'log_likelihood']
    """
    return [name for name, value in vars(interface).items() if callable(value) and _asked_for(name)]


def _asked_for(name: str) -> bool:
    return name == "__call__" or not name.startswith("_")
