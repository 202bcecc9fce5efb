"""Small torch modules with inputs that fit. Torch is imported when one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from hypothesis import strategies as st

from porism.arrays import check_count
from porism.errors import ParameterError
from porism.testing.strategies._options import Sizes, names, one_of, size_range

if TYPE_CHECKING:
    import torch

ModuleFamily = Literal["linear", "mlp", "tied", "residual", "convolution", "embedding", "attention"]


class SmallModule(NamedTuple):
    """A module and a batch that it takes.

    Attributes
    ----------
    module
        Maps ``inputs`` to shape (batch, outputs).
    inputs
        Floating of the module's dtype, or int64 tokens; the first axis is the batch.
    recipe
        The call that makes both again, which is also how they are shown.
    """

    module: torch.nn.Module
    inputs: torch.Tensor
    recipe: str

    def __repr__(self) -> str:
        return self.recipe


def torch_modules(
    *,
    families: ModuleFamily | tuple[ModuleFamily, ...] | None = None,
    batch: Sizes = (1, 4),
    width: Sizes = (1, 4),
    outputs: Sizes = (1, 4),
    dtype: torch.dtype | None = None,
) -> st.SearchStrategy[SmallModule]:
    """Small modules with seeded weights and a batch that fits; neither moves torch's global generator.

    Parameters
    ----------
    families
        Some of those of :func:`small_module`; None is all.
    batch, width, outputs
        How many, or the smallest and largest number: examples, features in the middle, columns of the output.
    dtype
        Of weights and inputs; None is ``torch.float32``.

    Returns
    -------
    strategy of :class:`SmallModule`
        Shrinks to ``torch.nn.Linear`` of one feature with seed 0. Inputs are at times all alike, or zero.

    Raises
    ------
    ParameterError
        For an unknown family, sizes below 1, or a dtype that is not floating.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(torch_modules(), lambda drawn: True)
    small_module('linear', seed=0, batch=1, width=1, outputs=1, inputs='random', dtype=torch.float32)
    """
    chosen = names("families", families, get_args(ModuleFamily))
    sizes = {"batch": batch, "width": width, "outputs": outputs}
    ranges = {name: st.integers(*size_range(name, size, 1)) for name, size in sizes.items()}
    _check_dtype(dtype)
    return st.builds(
        small_module,
        st.sampled_from(chosen),
        seed=st.integers(0, 2**32 - 1),
        **ranges,
        inputs=st.sampled_from(get_args(Inputs)),
        dtype=st.just(dtype),
    )


Inputs = Literal["random", "alike", "zero"]


def small_module(
    family: ModuleFamily,
    *,
    seed: int = 0,
    batch: int = 1,
    width: int = 1,
    outputs: int = 1,
    inputs: Inputs = "random",
    dtype: torch.dtype | None = None,
) -> SmallModule:
    """A module of :func:`torch_modules`: the same arguments give the same bits.

    Parameters
    ----------
    family
        ``"linear"``; ``"mlp"`` with one hidden layer and tanh; ``"tied"``, one layer used twice; ``"residual"``, layer
        norm, linear and ReLU beside a shortcut; ``"convolution"`` of images of one channel; ``"embedding"`` of tokens,
        averaged; ``"attention"`` of three positions. All end in a linear layer.
    seed
        Of the weights, Gaussian with variance one over the number of columns, and of the inputs.
    batch, width, outputs
        Examples, features in the middle, columns of the output.
    inputs
        ``"random"`` (standard normal, or tokens), ``"alike"`` (every example is the first one), or ``"zero"``.
    dtype
        Of weights and inputs; None is ``torch.float32``.

    Raises
    ------
    ParameterError
        For an unknown family or inputs, sizes below 1, a negative seed, or a dtype that is not floating.

    Examples
    --------
    >>> drawn = small_module("mlp", seed=3, batch=2, width=4, outputs=5)
    >>> drawn.module(drawn.inputs).shape
    torch.Size([2, 5])
    """
    one_of("family", family, get_args(ModuleFamily))
    one_of("inputs", inputs, get_args(Inputs))
    check_count("seed", seed, 0, 2**64 - 1)
    for name, size in {"batch": batch, "width": width, "outputs": outputs}.items():
        check_count(name, size, 1)
    _check_dtype(dtype)
    import torch

    from porism.testing.strategies._torch_modules import build, inputs_for

    dtype = torch.float32 if dtype is None else dtype
    generator = torch.Generator().manual_seed(seed)
    module = build(family, width, outputs, generator).to(dtype)
    drawn = inputs_for(family, batch, width, generator)
    if inputs == "alike":
        drawn = drawn[:1].expand_as(drawn).clone()
    elif inputs == "zero":
        drawn = torch.zeros_like(drawn)
    recipe = (
        f"small_module({family!r}, seed={seed}, batch={batch}, width={width}, outputs={outputs}, "
        f"inputs={inputs!r}, dtype={dtype})"
    )
    return SmallModule(module, drawn.to(dtype) if drawn.is_floating_point() else drawn, recipe)


def _check_dtype(dtype: torch.dtype | None) -> None:
    if dtype is not None and not getattr(dtype, "is_floating_point", False):
        raise ParameterError(f"dtype must be a floating torch dtype such as torch.float64, got {dtype!r:.80}")
