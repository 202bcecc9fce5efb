"""A model to first order in its parameters (torch): neural tangent kernel and Fisher information.

A model is a function ``model(parameters, x)`` of a dictionary of tensors and a batch of shape (n, ...) that returns
outputs of shape (n, k), each row a function of its own example. For a module that is
``lambda parameters, x: torch.func.functional_call(module, parameters, (x,))``. Pass part of the module's parameters
(``functional_call`` keeps the others as they are) to get a block of the Fisher matrix. Flat vectors hold the
entries of the dictionary in its order. Fisher information is that of the softmax of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch.func import jacrev, jvp, vjp, vmap

from porism.arrays import check_callable
from porism.errors import ParameterError
from porism.metrics._checks import check_tensor

Parameters: TypeAlias = Mapping[str, Tensor]
Model: TypeAlias = Callable[[dict[str, Tensor], Tensor], Tensor]


def jacobian(model: Model, parameters: Parameters, x: Tensor) -> Tensor:
    """Derivative of each output of each example in all parameters.

    Parameters
    ----------
    model, parameters
        See the module's text.
    x
        Batch, shape (n, ...).

    Returns
    -------
    Tensor
        Shape (n, k, entries); all of it is held in memory.

    Raises
    ------
    ParameterError
        For what is no tensor of finite real numbers, an empty batch or dictionary, or outputs of a shape other than
        (n, k).

    Examples
    --------
    >>> model = lambda p, x: x @ p["w"]
    >>> jacobian(model, {"w": torch.ones(2, 1)}, torch.tensor([[3.0, 4.0]]))
    tensor([[[3., 4.]]])
    """
    weights = _check(model, parameters, x)

    def single(p: dict[str, Tensor], row: Tensor) -> Tensor:
        return model(p, row[None])[0]

    parts = vmap(jacrev(single), in_dims=(None, 0))(weights, x)
    return torch.cat([parts[name].flatten(2) for name in weights], dim=-1)


def empirical_ntk(model: Model, parameters: Parameters, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Neural tangent kernel at the present parameters, ``J(x) J(y)^T``.

    Parameters
    ----------
    model, parameters
        See the module's text.
    x, y
        Batches, shapes (n, ...) and (m, ...); without y, x is compared with itself.

    Returns
    -------
    Tensor
        Shape (n, m, k, k). Its trace over the last two axes is the usual scalar kernel.

    Raises
    ------
    ParameterError
        As :func:`jacobian`.

    Notes
    -----
    Jacot, Gabriel, Hongler, NeurIPS 2018. The Jacobians are contracted one parameter tensor at a time.

    Examples
    --------
    >>> model = lambda p, x: x @ p["w"]
    >>> empirical_ntk(model, {"w": torch.ones(2, 1)}, torch.tensor([[3.0, 4.0]]))
    tensor([[[[25.]]]])
    """
    weights = _check(model, parameters, x)
    if y is not None:
        _check(model, parameters, y, "y")

    total: Tensor | None = None
    for name in weights:

        def single(part: Tensor, row: Tensor, name: str = name) -> Tensor:
            return model({**weights, name: part}, row[None])[0]

        rows = vmap(jacrev(single), in_dims=(None, 0))
        left = rows(weights[name], x).flatten(2)
        right = left if y is None else rows(weights[name], y).flatten(2)
        term = torch.einsum("nkp,mlp->nmkl", left, right)
        total = term if total is None else total + term
    return cast(Tensor, total)


def fisher_matrix(model: Model, parameters: Parameters, x: Tensor) -> Tensor:
    """Fisher information of the softmax model, mean over the batch, as a matrix.

    Parameters
    ----------
    model, parameters
        See the module's text.
    x
        Batch, shape (n, ...).

    Returns
    -------
    Tensor
        Shape (entries, entries): ``mean_i J_i^T (diag p_i - p_i p_i^T) J_i``, which is the expectation of the
        outer product of the log-likelihood's gradient over labels drawn from the model. For few entries only.

    Raises
    ------
    ParameterError
        As :func:`jacobian`.

    Notes
    -----
    Martens, "New insights and perspectives on the natural gradient method", JMLR 2020, section 8.

    Examples
    --------
    >>> model = lambda p, x: x @ p["w"]
    >>> fisher_matrix(model, {"w": torch.zeros(1, 2)}, torch.tensor([[2.0]])).round(decimals=4)
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    rows = _weighted_scores(model, parameters, x).flatten(0, 1)
    return rows.T @ rows / len(x)


def fisher_diagonal(model: Model, parameters: Parameters, x: Tensor) -> dict[str, Tensor]:
    """Diagonal of :func:`fisher_matrix`, exact: the expectation over labels is a sum, not a sample.

    Parameters
    ----------
    model, parameters
        See the module's text.
    x
        Batch, shape (n, ...).

    Returns
    -------
    dict of Tensor
        A tensor like each parameter, not negative.

    Raises
    ------
    ParameterError
        As :func:`jacobian`.

    Examples
    --------
    >>> model = lambda p, x: x @ p["w"]
    >>> fisher_diagonal(model, {"w": torch.zeros(1, 2)}, torch.tensor([[2.0]]))["w"].round(decimals=4)
    tensor([[1., 1.]])
    """
    scores = _weighted_scores(model, parameters, x)
    return _unflatten((scores**2).sum(dim=(0, 1)) / len(x), parameters)


def fisher_vector_product(model: Model, parameters: Parameters, x: Tensor, vector: Tensor) -> Tensor:
    """Fisher matrix times a vector, without Jacobian or matrix: one forward and one reverse pass.

    Parameters
    ----------
    model, parameters
        See the module's text.
    x
        Batch, shape (n, ...).
    vector
        Shape (entries,).

    Returns
    -------
    Tensor
        Shape (entries,).

    Raises
    ------
    ParameterError
        As :func:`jacobian`, or for a vector of another shape, or not of finite real numbers.

    Notes
    -----
    The Gauss-Newton product of the softmax cross-entropy, to which the Fisher matrix is equal: Schraudolph, Neural
    Computation 2002.

    Examples
    --------
    >>> model = lambda p, x: x @ p["w"]
    >>> fisher_vector_product(model, {"w": torch.zeros(1, 2)}, torch.tensor([[2.0]]), torch.tensor([1.0, 0.0]))
    tensor([ 1., -1.])
    """
    weights = _check(model, parameters, x)
    check_tensor(vector=vector)
    tangent = _unflatten(vector, parameters)

    def outputs(p: dict[str, Tensor]) -> Tensor:
        return model(p, x)

    logits, change = cast(tuple[Tensor, Tensor], jvp(outputs, (weights,), (tangent,)))
    p = torch.softmax(logits, dim=-1)
    curved = p * (change - (p * change).sum(dim=-1, keepdim=True)) / len(x)
    pull = cast(Callable[[Tensor], tuple[dict[str, Tensor]]], vjp(outputs, weights)[1])
    (back,) = pull(curved)
    return torch.cat([back[name].reshape(-1) for name in weights])


def empirical_fisher_matrix(model: Model, parameters: Parameters, x: Tensor, labels: Tensor) -> Tensor:
    """Mean outer product of the gradients of the log-likelihood of the observed labels.

    Parameters
    ----------
    model, parameters
        See the module's text.
    x
        Batch, shape (n, ...).
    labels
        Whole numbers from 0 to k - 1, shape (n,).

    Returns
    -------
    Tensor
        Shape (entries, entries). It is not the Fisher matrix unless the labels follow the model: Kunstner,
        Hennig, Balles, NeurIPS 2019.

    Raises
    ------
    ParameterError
        As :func:`jacobian`, or for labels of another length or out of range.

    Examples
    --------
    >>> model = lambda p, x: x @ p["w"]
    >>> empirical_fisher_matrix(model, {"w": torch.zeros(1, 2)}, torch.tensor([[2.0]]), torch.tensor([0]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    scores = _observed_scores(model, parameters, x, labels)
    return scores.T @ scores / len(x)


def empirical_fisher_diagonal(model: Model, parameters: Parameters, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Mean squared gradient of the log-likelihood of the observed labels, as elastic weight consolidation uses.

    Parameters
    ----------
    model, parameters
        See the module's text.
    x
        Batch, shape (n, ...).
    labels
        Whole numbers from 0 to k - 1, shape (n,).

    Returns
    -------
    dict of Tensor
        A tensor like each parameter, the diagonal of :func:`empirical_fisher_matrix`.

    Raises
    ------
    ParameterError
        As :func:`empirical_fisher_matrix`.

    Examples
    --------
    >>> model = lambda p, x: x @ p["w"]
    >>> empirical_fisher_diagonal(model, {"w": torch.zeros(1, 2)}, torch.tensor([[2.0]]), torch.tensor([0]))["w"]
    tensor([[1., 1.]])
    """
    scores = _observed_scores(model, parameters, x, labels)
    return _unflatten((scores**2).mean(dim=0), parameters)


def _weighted_scores(model: Model, parameters: Parameters, x: Tensor) -> Tensor:
    """Rows ``sqrt(p_ic) d log p_ic``, shape (n, k, entries), whose outer products sum to n times the Fisher matrix."""
    slopes = jacobian(model, parameters, x)
    p = torch.softmax(model(dict(parameters), x), dim=-1)
    centred = slopes - torch.einsum("nk,nkp->np", p, slopes)[:, None]
    return p.sqrt()[..., None] * centred


def _observed_scores(model: Model, parameters: Parameters, x: Tensor, labels: Tensor) -> Tensor:
    """Gradients of the log-likelihood of the observed labels, shape (n, entries); no Jacobian is held."""
    weights = _check(model, parameters, x)
    classes = model(weights, x).shape[-1]
    check_tensor(labels=labels)
    if labels.shape != (len(x),):
        raise ParameterError(f"labels must have shape ({len(x)},), got {tuple(labels.shape)}")
    if labels.is_floating_point() or not bool(((labels >= 0) & (labels < classes)).all()):
        raise ParameterError(f"labels must be whole numbers from 0 to {classes - 1}")

    def log_likelihood(p: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        return torch.log_softmax(model(p, row[None])[0], dim=-1).gather(0, label[None].long())[0]

    parts = vmap(torch.func.grad(log_likelihood), in_dims=(None, 0, 0))(weights, x, labels)
    return torch.cat([parts[name].flatten(1) for name in weights], dim=-1)


def _unflatten(vector: Tensor, parameters: Parameters) -> dict[str, Tensor]:
    sizes = [value.numel() for value in parameters.values()]
    if vector.shape != (sum(sizes),):
        raise ParameterError(f"vector must have shape ({sum(sizes)},), got {tuple(vector.shape)}")
    parts = zip(parameters.items(), torch.split(vector, sizes), strict=True)
    return {name: part.reshape(value.shape).to(value) for (name, value), part in parts}


def _check(model: Model, parameters: Parameters, x: Tensor, name: str = "x") -> dict[str, Tensor]:
    """The parameters without history, after a look at everything's types and shapes."""
    check_callable(model=model)
    if not isinstance(parameters, Mapping) or not parameters:
        raise ParameterError("parameters must be a dictionary that holds at least one tensor")
    check_tensor(**{f"parameters[{key!r}]": value for key, value in parameters.items()}, **{name: x})
    weights = {key: value.detach() for key, value in parameters.items()}
    if not all(value.is_floating_point() and value.numel() for value in weights.values()):
        raise ParameterError("parameters must be of floating dtype and not empty")
    if x.ndim == 0 or len(x) == 0:
        raise ParameterError(f"{name} must hold at least one example, its shape is {tuple(x.shape)}")
    outputs = model(weights, x[:1])
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 1:
        kind = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ParameterError(f"model must return outputs of shape (n, k), got {kind} for one example")
    return weights
