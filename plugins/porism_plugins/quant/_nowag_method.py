"""The method of :mod:`porism_plugins.quant.nowag`: checks, calibration, and what becomes of one matrix."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.parameters import bind, parameters_of, validated
from porism.surgery import HEADS, input_statistics, matrix
from porism_plugins.quant import _nowag_normalise as nw
from porism_plugins.quant._codebooks import CodebookLinear, Init, Points, weighted_kmeans
from porism_plugins.quant._engine import chosen, compress_linears, layer_generator

Mode = Literal["vq", "prune"]
Bits = Annotated[int, Interval(ge=1, le=8)]
Subvector = Annotated[int, Interval(ge=1, le=16)]
Remaining = Annotated[float, Interval(gt=0, le=1)]
Iterations = Annotated[int, Interval(ge=0)]
Restarts = Annotated[int, Interval(ge=1)]
Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]

# Options of the other mode, which must stay as they are.
_FOREIGN = {
    "vq": ("remaining", "pattern"),
    "prune": ("bits", "subvector", "iterations", "restarts", "init", "seed"),
}


def nowag(
    model: nn.Module, /, *, calibration: Iterable[Any], mode: Mode = "vq", bits: Bits = 2, subvector: Subvector = 6,
    remaining: Remaining = 0.5, pattern: str = "unstructured", objective: nw.Objective = "normalised",
    iterations: Iterations = 100, restarts: Restarts = 1, init: Init = "k-means++", seed: Seed = 0,
    inplace: bool = False, include: Sequence[str] = ("*",), exclude: Sequence[str] = HEADS,
) -> nn.Module:  # fmt: skip
    """Compress the linear layers of a model without training: NoWag-VQ by default, NoWag-P by ``mode="prune"``.

    Parameters
    ----------
    model
        Its layers may be ``nn.Linear`` or ``Conv1D``, in float32, bfloat16 or float16, on any device.
    calibration
        Batches that the model is called with; they say how large each input of a layer is.
    mode
        ``"vq"`` puts a codebook for subvectors of each matrix, ``"prune"`` sets weights to zero.
    bits
        Of a weight, in vector quantisation; the codebook has 2**(bits * subvector) rows, 65,536 at most.
    subvector
        Consecutive inputs that share a code.
    remaining
        In pruning, share of the weights of each matrix that stays, in (0, 1].
    pattern
        In pruning, ``"unstructured"``: the largest of the whole matrix. ``"row"``: of each row. ``"2:4"`` or any other
        N:M: N of M consecutive inputs, which says the share itself.
    objective
        What a squared error weighs: ``"normalised"`` is the paper's, the mean square of the input; ``"output"`` puts
        the squared norms back in, so that it is the error of the layer's output.
    iterations
        Most rounds of k-means.
    restarts
        Runs of k-means, of which the best is kept.
    init
        ``"k-means++"`` or ``"random"``.
    seed
        Of k-means.
    inplace
        Change ``model`` layer by layer, rather than a copy.
    include, exclude
        Patterns of :func:`porism.surgery.linear_layers`; tied weights and output heads are left alone by default.

    Returns
    -------
    torch.nn.Module
        With :class:`~porism_plugins.quant._codebooks.CodebookLinear` layers, or with the layers it had and zeros in
        them; the weights that stay are what they were, bit for bit.

    Raises
    ------
    ParameterError
        If an option is out of its range or of the other mode, no layer matches, one is tied, on the meta device, not
        finite, or too small for the codebook, or if the calibration is empty, not finite or misses a layer. The model
        is as it was then.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> batches = [torch.rand(8, 64)]
    >>> nowag(model, calibration=batches, subvector=3)[0]
    CodebookLinear(64, 64, subvector=3, code_bits=6)
    >>> int(nowag(model, calibration=batches, mode="prune", pattern="2:4")[0].weight.count_nonzero())
    2048
    """
    options: dict[str, Any] = {
        "mode": mode, "bits": bits, "subvector": subvector, "remaining": remaining, "pattern": pattern,
        "objective": objective, "iterations": iterations, "restarts": restarts, "init": init, "seed": seed,
    }  # fmt: skip
    _check(options)
    for name, layer in chosen(model, include=include, exclude=exclude).items():
        _check_size(name, *matrix(layer).shape, options)
    model = model if inplace else copy.deepcopy(model)
    layers = chosen(model, include=include, exclude=exclude)
    sums = input_statistics(model, layers, calibration, squares)

    def fit(name: str, weight: Tensor) -> nn.Module:
        return compress_layer(name, weight, sums[name][:-1] / sums[name][-1], **options)

    return compress_linears(model, fit, include=include, exclude=exclude)


@validated
@torch.no_grad()
def compress_layer(
    name: str, weight: Tensor, second_moment: Tensor | None, *, mode: Mode = "vq", bits: Bits = 2,
    subvector: Subvector = 6, remaining: Remaining = 0.5, pattern: str = "unstructured",
    objective: nw.Objective = "normalised", iterations: Iterations = 100, restarts: Restarts = 1,
    init: Init = "k-means++", seed: Seed = 0,
) -> nn.Module:  # fmt: skip
    """What :func:`nowag` makes of one matrix, without a bias.

    Parameters
    ----------
    name
        Of the layer; with ``seed`` it decides the random numbers.
    weight
        float32, shape (out, in).
    second_moment
        Mean square of each input over the calibration's tokens, shape (in,).
    mode, bits, subvector, remaining, pattern, objective, iterations, restarts, init, seed
        Of :func:`nowag`.

    Returns
    -------
    CodebookLinear or torch.nn.Linear

    Raises
    ------
    ParameterError
        If an option is out of its range or of the other mode, the matrix is too small, or the moments are missing,
        not finite or negative.

    Examples
    --------
    >>> compress_layer("0", torch.eye(4), torch.ones(4), mode="prune", remaining=0.25).weight.count_nonzero()
    tensor(4)
    """
    options = {"mode": mode, "bits": bits, "subvector": subvector, "remaining": remaining, "pattern": pattern,
               "iterations": iterations, "restarts": restarts, "init": init, "seed": seed}  # fmt: skip
    _check(options)
    _check_size(name, *weight.shape, options)
    if second_moment is None or second_moment.shape != weight.shape[1:]:
        raise ParameterError(f"{name}: second_moment must be the mean square of {weight.shape[1]} inputs; calibrate")
    h = second_moment.float().to(weight.device)
    if not bool(((h >= 0) & h.isfinite()).all()):
        raise ParameterError(f"{name}: second_moment of the calibration must be finite and at least 0")
    if mode == "prune":
        return pruned(weight, nw.mask(nw.scores(weight, h, objective), remaining, pattern))
    return quantised(
        weight, h, subvector=subvector, code_bits=bits * subvector, objective=objective, iterations=iterations,
        restarts=restarts, init=init, generator=layer_generator(seed, name),
    )  # fmt: skip


def pruned(weight: Tensor, mask: Tensor) -> nn.Linear:
    """An ordinary layer of the weights within a mask, the others zero."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight * mask, requires_grad=False)
    return layer


def quantised(
    weight: Tensor, h: Tensor, *, subvector: int, code_bits: int, generator: torch.Generator,
    objective: nw.Objective = "normalised", normalised: bool = True, **options: Any,
) -> CodebookLinear:  # fmt: skip
    """Codes of a matrix; ``normalised=False`` leaves the norms in, for an ablation. Options of ``weighted_kmeans``."""
    padding = -len(h) % subvector  # of zeros, which weigh nothing
    if normalised:
        values, rows, columns = nw.normalise(weight, padding)
    else:
        values, rows, columns = F.pad(weight, (0, padding)), weight.new_ones(len(weight)), torch.ones_like(h)
    weights = F.pad(nw.floored(nw.input_weights(h, columns, objective)), (0, padding)).view(-1, subvector)
    masses = rows.square().repeat_interleave(len(weights)) if objective == "output" else None
    points = Points(values.reshape(-1, subvector), weights, masses)
    codebook, codes, _ = weighted_kmeans(points, 2**code_bits, generator, **options)
    return CodebookLinear.of(codebook, codes, rows, columns)


def squares(before: Tensor | None, inputs: Tensor) -> Tensor:
    """Sums of squares of each input, and the number of rows after them, as ``porism compress`` adds them up."""
    total = torch.cat([inputs.square().sum(0), inputs.new_tensor([len(inputs)])])
    return total if before is None else before + total


def _check(options: dict[str, Any]) -> None:
    """Ranges, and that nothing was asked of the mode that is not on."""
    known = parameters_of(compress_layer)
    bind(known, options)
    mode = options["mode"]
    for name in _FOREIGN[mode]:
        if options[name] != known[name].default:
            other = "prune" if mode == "vq" else "vq"
            raise ParameterError(f"{name} is an option of mode={other!r} and means nothing with mode={mode!r}")
    if (code_bits := options["bits"] * options["subvector"]) > 16:
        raise ParameterError(f"bits times subvector must be at most 16, got {code_bits}")
    groups = nw.group_of(options["pattern"])
    if groups and options["remaining"] not in (known["remaining"].default, groups[0] / groups[1]):
        raise ParameterError(f"remaining is {groups[0]}/{groups[1]} by the pattern, got {options['remaining']:g}")


def _check_size(name: str, outputs: int, inputs: int, options: dict[str, Any]) -> None:
    """That a matrix has as many subvectors as there are codes, or whole groups."""
    bits, subvector = options["bits"], options["subvector"]
    codes, count = 2 ** (bits * subvector), outputs * -(-inputs // subvector)
    if options["mode"] == "vq" and codes > count:
        raise ParameterError(
            f"subvector={subvector} at bits={bits} needs {codes} codes, more than the {count} subvectors of {name}; "
            "take a smaller subvector, or exclude it"
        )
    groups = nw.group_of(options["pattern"])
    if groups and inputs % groups[1]:
        raise ParameterError(f"pattern {options['pattern']} needs inputs in groups of {groups[1]}; exclude {name}")
