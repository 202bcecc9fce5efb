"""What optimisers of matrices share: which parameters are matrices, AdamW for the rest, saved states, linear algebra.

A paper's optimiser is a :class:`MatrixOptimizer` with two methods: ``new_state``, the tensors that it keeps for one
matrix, and ``matrix_step``, what it does to a batch of matrices of one shape. ``_baselines.py`` has two of them.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from porism.errors import ParameterError, did_you_mean
from porism.parameters import Parameter

# Of the quintic X <- a X + b (X X') X + c (X X')^2 X, by Keller Jordan; its slope at 0 is as steep as can be.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# By shape alone a matrix with more rows than this is taken for an embedding or an output head, as by COSMOS's authors.
MOST_ROWS = 10_000
# Numbers in one batch of matrices: on the CPU larger ones are faster one by one, and a stack is a copy.
LARGEST_BATCH = {"cpu": 2**18, "cuda": 2**26}
LARGE = 256, 512  # from here on the CPU multiplies in bfloat16, where it can, and only half of symmetric products

OPTIONS = (
    Parameter("lr", float, 1e-3, low=0.0),
    Parameter("eps", float, 1e-8, low=0.0),
    Parameter("weight_decay", float, 0.0, low=0.0),
)


class Batch(NamedTuple):
    """Matrices of one shape, type, device and age, as :meth:`MatrixOptimizer.matrix_step` gets them.

    ``gradients`` are stacked, (batch, m, n), or (m, n) for a single matrix, whose products are faster; float32 or
    float64, negated for ``maximize``. They may share memory with the parameters' own and must not be written to.
    ``step`` counts from 1.
    """

    parameters: list[Tensor]
    gradients: Tensor
    states: list[dict[str, Tensor]]
    step: int

    def stacked(self, name: str) -> Tensor:
        """One tensor of all states, (batch, ...); of a single matrix it is the state itself."""
        return stack([state[name] for state in self.states])

    def store(self, **values: Tensor) -> None:
        """Write stacked tensors back into the states, unless they are the states themselves."""
        for name, stacked in values.items():
            for state, value in zip(self.states, self._each(stacked), strict=True):
                if state[name] is not value:
                    state[name].copy_(value)

    def move(self, direction: Tensor, *, lr: float, shrink: float) -> None:
        """W <- (1 - shrink) W - lr direction, rounded once where W has low precision."""
        for parameter, along in zip(self.parameters, self._each(direction), strict=True):
            if parameter.dtype == along.dtype:
                parameter.mul_(1 - shrink).sub_(along, alpha=lr)
            else:
                parameter.copy_(parameter.to(along.dtype).mul_(1 - shrink).sub_(along, alpha=lr))

    def _each(self, stacked: Tensor) -> Sequence[Tensor]:
        return [stacked] if len(self.parameters) == 1 else stacked.unbind()


class MatrixOptimizer(torch.optim.Optimizer):
    """A :class:`torch.optim.Optimizer` that steps on matrices by ``matrix_step`` and by AdamW on everything else.

    Parameters
    ----------
    params
        Tensors, or groups; a group may say ``"matrix": True`` or ``False`` for all its parameters, as
        :func:`matrix_and_other_parameters` does. Otherwise a parameter is a matrix if it has two axes longer than 1
        and at most 10,000 rows.
    defaults
        At least lr, betas, eps, weight_decay, maximize and foreach, of which AdamW for the rest takes the same.

    Raises
    ------
    ParameterError
        If an option, also one of a group, is out of range, a parameter is complex, or ``"matrix": True`` stands for a
        parameter that has not two axes. By ``step``, if a gradient is sparse, or a matrix's first one is not finite.
    """

    options: ClassVar[Sequence[Parameter]] = ()

    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, {"matrix": None, **defaults})

    def new_state(self, shape: torch.Size, group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what is kept for one matrix; it starts at 0, in float32 or the parameter's float64."""
        raise NotImplementedError

    def matrix_step(self, batch: Batch, group: Mapping[str, Any]) -> None:
        """Move a batch of matrices by one step, and update their states."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; what is wrong is refused before anything changes."""
        group = {**self.defaults, **param_group}
        check_options((*OPTIONS, *self.options), group)
        params = [param_group["params"]] if isinstance(param_group["params"], Tensor) else [*param_group["params"]]
        for tensor in (param[1] if isinstance(param, tuple) else param for param in params):
            if isinstance(tensor, Tensor) and tensor.is_complex():
                raise ParameterError(f"params must be real, got {tensor.dtype} of shape {tuple(tensor.shape)}")
            if group["matrix"] and tensor.ndim != 2:
                raise ParameterError(f"params of a group with matrix=True must have 2 axes, got {tuple(tensor.shape)}")
        super().add_param_group({**param_group, "params": params})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step, and return what ``closure`` does, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices, others = self._with_gradients(group)
            adamw_step(others, [self.state[parameter] for parameter in others], group)
            for batch in self._batches(matrices, group):
                self.matrix_step(batch, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; unlike torch's own it stays in float32 where the parameters are bfloat16."""
        super().load_state_dict(state_dict)
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(saved, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if name != "step":
                    self.state[parameter][name] = value.to(parameter.device, copy=True)

    def is_matrix(self, parameter: Tensor, group: Mapping[str, Any]) -> bool:
        """Whether ``matrix_step`` or AdamW moves this parameter: what the group says, or else its shape."""
        if group["matrix"] is not None:
            return bool(group["matrix"])
        return parameter.ndim == 2 and min(parameter.shape) > 1 and len(parameter) <= MOST_ROWS

    def _with_gradients(self, group: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Matrices and other parameters that have a gradient, with a state each."""
        kinds: tuple[list[Tensor], list[Tensor]] = [], []
        for parameter in group["params"]:
            if parameter.grad is None or not parameter.numel():
                continue
            if parameter.grad.is_sparse:
                raise ParameterError(
                    f"the gradient of a parameter of shape {tuple(parameter.shape)} is sparse; "
                    "make the embedding with sparse=False, or give it to torch.optim.SparseAdam"
                )
            matrix = self.is_matrix(parameter, group)
            state = self.state[parameter]
            if not state:
                full = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
                shapes = self.new_state(parameter.shape, group) if matrix else full
                state["step"] = torch.zeros(())  # on the CPU, as torch keeps it
                for name, shape in shapes.items():
                    state[name] = torch.zeros(shape, dtype=state_dtype(parameter), device=parameter.device)
            kinds[not matrix].append(parameter)
        return kinds

    def _batches(self, matrices: list[Tensor], group: Mapping[str, Any]) -> Iterable[Batch]:
        together: dict[Any, list[Tensor]] = {}
        for number, parameter in enumerate(matrices):
            step = self.state[parameter]["step"].add_(1).item()
            alone = number if group["foreach"] is False else None
            key = (parameter.shape, parameter.dtype, parameter.grad.dtype, parameter.device, step, alone)
            together.setdefault(key, []).append(parameter)
        for (shape, _, _, device, step, _), alike in together.items():
            limit = LARGEST_BATCH.get(device.type, LARGEST_BATCH["cpu"])
            size = len(alike) if group["foreach"] else max(1, limit // shape.numel())
            for first in range(0, len(alike), size):
                chosen = alike[first : first + size]
                gradients = stack([parameter.grad for parameter in chosen]).to(state_dtype(chosen[0]))
                yield Batch(
                    chosen,
                    -gradients if group["maximize"] else gradients,
                    [self.state[parameter] for parameter in chosen],
                    int(step),
                )


def state_dtype(parameter: Tensor) -> torch.dtype:
    """Float32, and float64 for what is float64: second moments have no digits left in half precision."""
    return torch.promote_types(parameter.dtype, torch.float32)


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Like :func:`torch.stack`, but a single tensor as it is."""
    return tensors[0] if len(tensors) == 1 else torch.stack(tuple(tensors))


def check_options(options: Iterable[Parameter], group: Mapping[str, Any]) -> None:
    """Raise :class:`ParameterError` naming the first option of a group that is out of its range."""
    for option in options:
        value = group[option.name]
        option.validate(value.item() if isinstance(value, Tensor) and value.numel() == 1 else value)
    betas = group["betas"]
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ParameterError(f"betas must be two numbers, got {betas!r}")
    for number, beta in enumerate(betas):
        Parameter(f"betas[{number}]", float, 0.9, low=0.0, high=1.0, high_open=True).validate(beta)


def adamw_step(parameters: list[Tensor], states: list[dict[str, Tensor]], group: Mapping[str, Any]) -> None:
    """One step of AdamW in place, by torch's own function; low precision is stepped in float32 and rounded once."""
    if not parameters:
        return
    dtypes = [state_dtype(parameter) for parameter in parameters]
    weights = [parameter.to(dtype) for parameter, dtype in zip(parameters, dtypes, strict=True)]
    gradients = [parameter.grad.to(dtype) for parameter, dtype in zip(parameters, dtypes, strict=True)]
    adamw(
        weights,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        foreach=group["foreach"],
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )
    for parameter, weight in zip(parameters, weights, strict=True):
        if weight is not parameter:
            parameter.copy_(weight)


def matrix_and_other_parameters(model: nn.Module, *, other: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Split a model's trainable parameters into two groups: matrices of hidden layers, and the rest.

    The rest are embeddings and whatever is tied to them, the output head, and what has not two axes: biases, norms,
    convolutions. The head is what the model's ``get_output_embeddings`` returns, as transformers have it, or else the
    ``nn.Linear`` registered last.

    Parameters
    ----------
    model
        Any module.
    other
        Patterns such as ``"*.router.*"`` of further names that belong to the rest.

    Returns
    -------
    list of dict
        Groups for an optimiser, ``{"params": [...], "matrix": True}`` and ``{"params": [...], "matrix": False}``;
        an empty one is left out.

    Raises
    ------
    ParameterError
        If a pattern matches no parameter, or nothing is trainable.

    Examples
    --------
    >>> model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 50))
    >>> [[tuple(p.shape) for p in group["params"]] for group in matrix_and_other_parameters(model)]
    [[(16, 8)], [(50, 8), (16,), (16,), (16,), (50, 16), (50,)]]
    """
    named = dict(model.named_parameters())
    for pattern in other:
        if not fnmatch.filter(named, pattern):
            raise ParameterError(f"other: no parameter matches {pattern!r}{did_you_mean(pattern, named)}")
    apart = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    apart |= {id(named[name]) for pattern in other for name in fnmatch.filter(named, pattern)}
    head = output_head(model)
    if head is not None:
        apart |= {id(parameter) for parameter in head.parameters()}
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for parameter in named.values():
        if parameter.requires_grad:
            groups[parameter.ndim == 2 and id(parameter) not in apart].append(parameter)
    if not any(groups.values()):
        raise ParameterError("model has no parameter that requires a gradient")
    return [{"params": params, "matrix": matrix} for matrix, params in groups.items() if params]


def output_head(model: nn.Module) -> nn.Module | None:
    """The layer that makes a model's outputs, or None if it has no ``nn.Linear`` at all."""
    ask = getattr(model, "get_output_embeddings", None)
    head = ask() if callable(ask) else None
    if isinstance(head, nn.Module):
        return head
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if len(linear) > 1 else None


def counted(optimizer: torch.optim.Optimizer) -> int:
    """How many numbers an optimiser keeps, its counters of steps left out."""
    states = optimizer.state.values()
    return sum(v.numel() for state in states for k, v in state.items() if isinstance(v, Tensor) and k != "step")


def newton_schulz(x: Tensor, *, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """Bring the singular values of matrices near 1, to about [0.68, 1.2], and keep their singular vectors.

    Parameters
    ----------
    x
        Matrices, (..., m, n), of any size but 0, which stays 0.
    steps
        Iterations.
    dtype
        To compute in; by default bfloat16 on CUDA, and for large matrices on processors that multiply in it.

    Returns
    -------
    Tensor
        Of the shape and type of ``x``.

    Examples
    --------
    >>> newton_schulz(torch.diag(torch.tensor([3.0, 2.0, 1.0]))).diagonal()
    tensor([1.1220, 0.6846, 0.6983])
    """
    tall = x.shape[-2] > x.shape[-1]
    norm = torch.linalg.matrix_norm(x, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    y = torch.div(x, norm, out=x.new_empty(x.shape, dtype=dtype or multiplying_dtype(x)))
    y = y.mT if tall else y
    next_y, gram, polynomial = torch.empty_like(y), *(y.new_empty(*y.shape[:-1], y.shape[-2]) for _ in range(2))
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):  # into the same memory: to get new pages takes longer than to fill them
        symmetric_product(y, y.mT, out=gram)
        symmetric_product(gram, gram.mT, add=gram, beta=b, alpha=c, out=polynomial)
        y, next_y = plus_product(y, polynomial, y, beta=a, out=next_y), y
    return (y.mT if tall else y).to(x.dtype)


def multiplying_dtype(x: Tensor) -> torch.dtype:
    """Bfloat16 for float32 where that multiplies faster, and the dtype of ``x`` elsewhere."""
    if x.dtype != torch.float32:
        return x.dtype
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    faster = x.is_cuda or (x.device.type == "cpu" and min(x.shape[-2:]) >= LARGE[0] and supported())
    return torch.bfloat16 if faster else torch.float32


def plus_product(
    add: Tensor, x: Tensor, y: Tensor, *, beta: float = 1.0, alpha: float = 1.0, out: Tensor | None = None
) -> Tensor:
    """Return beta add + alpha x y, fused, of matrices or batches of them."""
    fused = torch.addmm if x.ndim == 2 else torch.baddbmm
    return fused(add, x, y, beta=beta, alpha=alpha, out=out)


def symmetric_product(
    x: Tensor, y: Tensor, *, add: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0, out: Tensor
) -> Tensor:
    """Return beta add + alpha x y where that is symmetric, in ``out``; of large ones only 10/16 is multiplied."""
    size, add = x.shape[-2], out if add is None else add  # with beta = 0 it is not read
    if x.is_cuda or x.ndim > 2 or size < LARGE[1]:
        return plus_product(add, x, y, beta=beta, alpha=alpha, out=out)
    width = math.ceil(size / 4)
    for low in range(0, size, width):
        high = min(low + width, size)
        strip = out[low:high, :high]
        torch.addmm(add[low:high, :high], x[low:high], y[:, :high], beta=beta, alpha=alpha, out=strip)
        out[:low, low:high].copy_(strip[:, :low].T)
    return out


def thin_qr(x: Tensor) -> Tensor:
    """Orthonormal basis of the columns of (..., n, r), r <= n, with the signs that make diag R >= 0.

    Examples
    --------
    >>> thin_qr(torch.tensor([[0.0], [-3.0]]))
    tensor([[-0.],
            [-1.]])
    """
    q, r = torch.linalg.qr(x)
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q).unsqueeze(-2)


def leading_right_vectors(x: Tensor, rank: int) -> Tensor:
    """Orthonormal eigenvectors of x'x with its largest eigenvalues, (..., n, rank), from the smaller Gram matrix.

    Raises
    ------
    ParameterError
        If ``x`` is not finite.
    """
    if not x.isfinite().all():
        raise ParameterError(f"the first gradient of a matrix of shape {tuple(x.shape[-2:])} is not finite")
    x = x / x.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)  # lest squares overflow
    if x.shape[-2] < x.shape[-1]:
        left = torch.linalg.eigh(x @ x.mT).eigenvectors[..., -rank:].flip(-1)
        return thin_qr(x.mT @ left)
    return thin_qr(torch.linalg.eigh(x.mT @ x).eigenvectors[..., -rank:].flip(-1))
