"""Curvature of a loss by Hessian-vector products (torch): no Hessian is ever formed.

A loss is a function without arguments that returns a scalar of the parameters, as an optimiser's closure. It must be
deterministic: fix the batch and switch dropout off. Vectors are flat, the parameters' entries in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from porism.arrays import check_callable, check_count, check_generator, check_number
from porism.errors import ParameterError
from porism.metrics._checks import check_tensor

Loss: TypeAlias = Callable[[], Tensor]


def hessian_operator(loss: Loss, parameters: Iterable[Tensor]) -> Callable[[Tensor], Tensor]:
    """Product with the Hessian at the present parameters, the gradient's graph being built once.

    Parameters
    ----------
    loss
        Returns a scalar.
    parameters
        Leaf tensors that require a gradient, of one dtype and device, such as ``model.parameters()``; those the loss
        does not use have zero rows.

    Returns
    -------
    Callable
        Maps a flat vector of shape (entries,) to the Hessian times it. It holds the graph until it is dropped.

    Raises
    ------
    ParameterError
        For parameters that are empty, mixed, no leaves, or require no gradient, and a loss that is no function of them
        with a finite scalar as its value.

    Notes
    -----
    Pearlmutter, Neural Computation 1994; here by reverse mode twice, about the cost of two gradients.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hessian_operator(lambda: w[0] ** 2 * w[1], [w])(torch.tensor([1.0, 0.0]))
    tensor([4., 2.])
    """
    check_callable(loss=loss)
    given = _leaves(parameters)
    value = loss()
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ParameterError("loss must return a scalar tensor")
    check_tensor(loss=value)
    gradients: tuple[Tensor, ...] = ()
    if value.requires_grad:
        gradients = torch.autograd.grad(value.reshape(()), given, create_graph=True, allow_unused=True)
    if all(g is None for g in gradients):
        raise ParameterError("loss must depend on the parameters")
    used = [(g, p) for g, p in zip(gradients, given, strict=True) if g is not None and g.requires_grad]
    sizes = [p.numel() for p in given]

    def product(vector: Tensor) -> Tensor:
        check_tensor(vector=vector)
        if vector.shape != (sum(sizes),):
            raise ParameterError(f"vector must have shape ({sum(sizes)},), got {tuple(vector.shape)}")
        parts = dict(zip(map(id, given), torch.split(vector.to(given[0]), sizes), strict=True))
        if not used:
            return torch.zeros_like(vector)
        rows = torch.autograd.grad(
            [g for g, _ in used],
            given,
            grad_outputs=[parts[id(p)].reshape(p.shape) for _, p in used],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([row.reshape(-1) for row in rows]).detach()

    return product


def hessian_vector_product(loss: Loss, parameters: Iterable[Tensor], vector: Tensor) -> Tensor:
    """Hessian of a loss times one vector.

    Parameters
    ----------
    loss, parameters
        As for :func:`hessian_operator`, which is the thing to use for many vectors.
    vector
        Shape (entries,).

    Returns
    -------
    Tensor
        Shape (entries,), detached.

    Raises
    ------
    ParameterError
        As :func:`hessian_operator`, or for a vector of another shape, or not of finite real numbers.

    Examples
    --------
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hessian_vector_product(lambda: (w**3).sum(), [w], torch.tensor([1.0, 1.0]))
    tensor([ 6., 12.])
    """
    return hessian_operator(loss, parameters)(vector)


def sharpness(
    loss: Loss, parameters: Iterable[Tensor], *, k: int = 1, tolerance: float = 0.0, rng: np.random.Generator
) -> np.ndarray:
    """Largest eigenvalues of the Hessian, by Lanczos.

    Parameters
    ----------
    loss, parameters
        As for :func:`hessian_operator`.
    k
        How many, from 1 to the number of entries.
    tolerance
        Relative accuracy of the eigenvalues, at least 0 and below 1; 0 is machine precision of the parameters' dtype.
    rng
        Draws the first vector.

    Returns
    -------
    numpy.ndarray
        Shape (k,), algebraically largest first; negative ones are possible at a maximum or saddle.

    Raises
    ------
    ParameterError
        As :func:`hessian_operator`, or for k or a tolerance out of range, or an rng that is no Generator.

    Notes
    -----
    ARPACK's implicitly restarted Lanczos, by :func:`scipy.sparse.linalg.eigsh`.

    Examples
    --------
    >>> w = torch.ones(3, requires_grad=True, dtype=torch.float64)
    >>> scale = torch.tensor([1.0, 2.0, 5.0])
    >>> sharpness(lambda: (scale * w**2).sum() / 2, [w], k=2, rng=np.random.default_rng(0)).round(10).tolist()
    [5.0, 2.0]
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    check_generator(rng)
    tolerance = check_number("tolerance", tolerance, at_least=0, below=1)
    product, like, size = _operator(loss, parameters)
    k = check_count("k", k, 1, size)
    start = rng.standard_normal(size)
    if k == size or not bool(product(_tensor(start, like)).any()):
        # all eigenvalues, which Lanczos cannot give, or a Hessian that is zero, where it has no first step
        matrix = np.stack([_numpy(product(row)) for row in torch.eye(size).to(like)]) if k == size else None
        return np.zeros(k) if matrix is None else np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1].copy()

    def apply(vector: np.ndarray) -> np.ndarray:
        return _numpy(product(_tensor(vector.reshape(-1), like)))

    # float32 products have float32 noise, below which ARPACK would not converge
    noise = tolerance if like.dtype == torch.float64 else max(tolerance, 10 * float(torch.finfo(like.dtype).eps))
    operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)
    values = eigsh(operator, k=k, which="LA", v0=start, tol=noise, return_eigenvectors=False)
    return np.sort(values)[::-1].copy()


def hessian_trace(
    loss: Loss, parameters: Iterable[Tensor], *, probes: int = 100, rng: np.random.Generator
) -> tuple[float, float]:
    """Trace of the Hessian, by random signs.

    Parameters
    ----------
    loss, parameters
        As for :func:`hessian_operator`.
    probes
        Number of products, at least 2.
    rng
        Draws the signs.

    Returns
    -------
    trace, standard_error
        Unbiased estimate, exact for a diagonal Hessian, and its standard error.

    Raises
    ------
    ParameterError
        As :func:`hessian_operator`, or for fewer than two probes, or an rng that is no Generator.

    Notes
    -----
    Hutchinson, Communications in Statistics 1990: the variance is ``2 sum_(i != j) H_ij^2 / probes``.

    Examples
    --------
    >>> w = torch.ones(3, requires_grad=True)
    >>> hessian_trace(lambda: (w**2).sum(), [w], probes=2, rng=np.random.default_rng(0))
    (6.0, 0.0)
    """
    check_generator(rng)
    probes = check_count("probes", probes, 2)
    product, like, size = _operator(loss, parameters)
    values = np.empty(probes)
    for i in range(probes):
        signs = 2.0 * rng.integers(0, 2, size) - 1
        values[i] = signs @ _numpy(product(_tensor(signs, like)))
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(probes))


def spectral_density(
    loss: Loss, parameters: Iterable[Tensor], *, steps: int = 30, probes: int = 8, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Distribution of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

    Parameters
    ----------
    loss, parameters
        As for :func:`hessian_operator`.
    steps
        Lanczos steps for each probe, at least 1; fewer are made where the Krylov space ends.
    probes
        Random starts, at least 1.
    rng
        Draws the starts.

    Returns
    -------
    nodes, weights
        Shape (total,), sorted nodes and weights that sum to 1: ``weights @ f(nodes)`` estimates the mean of f over
        the eigenvalues, without bias for polynomials of degree up to ``2 steps - 1``. Convolve with a Gaussian to
        draw a density.

    Raises
    ------
    ParameterError
        As :func:`hessian_operator`, or for numbers below 1, or an rng that is no Generator.

    Notes
    -----
    Ubaru, Chen, Saad, SIAM Journal on Matrix Analysis 2017; Ghorbani, Krishnan, Xiao, ICML 2019. Every new vector
    is orthogonalised against all before it, so ``steps`` vectors are held.

    Examples
    --------
    >>> w = torch.ones(2, requires_grad=True, dtype=torch.float64)
    >>> scale = torch.tensor([1.0, 3.0])
    >>> loss = lambda: (scale * w**2).sum() / 2
    >>> nodes, weights = spectral_density(loss, [w], probes=1, rng=np.random.default_rng(0))
    >>> nodes.round(10).tolist(), round(float(weights.sum()), 10)
    ([1.0, 3.0], 1.0)
    """
    from scipy.linalg import eigh_tridiagonal

    check_generator(rng)
    steps, probes = check_count("steps", steps, 1), check_count("probes", probes, 1)
    product, like, size = _operator(loss, parameters)
    nodes, weights = [], []
    for _ in range(probes):
        diagonal, beside = _lanczos(product, _tensor(rng.standard_normal(size), like), min(steps, size))
        values, vectors = eigh_tridiagonal(diagonal, beside)
        nodes.append(values)
        weights.append(vectors[0] ** 2 / probes)
    order = np.argsort(np.concatenate(nodes), kind="stable")
    return np.concatenate(nodes)[order], np.concatenate(weights)[order]


def _lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal and subdiagonal of the tridiagonal matrix; shorter than ``steps`` if the Krylov space ends."""
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    scale = 0.0
    for _ in range(steps):
        image = product(basis[-1])
        diagonal.append(float(image @ basis[-1]))
        scale = max(scale, float(image.norm()))
        held = torch.stack(basis)
        for _ in range(2):  # once leaves the rounding errors of the first subtraction
            image = image - held.T @ (held @ image)
        length = float(image.norm())
        if len(diagonal) == steps or length <= 10 * torch.finfo(start.dtype).eps * scale * len(start) ** 0.5:
            break
        beside.append(length)
        basis.append(image / length)
    return np.array(diagonal), np.array(beside)


def _operator(loss: Loss, parameters: Iterable[Tensor]) -> tuple[Callable[[Tensor], Tensor], Tensor, int]:
    """The Hessian, a tensor of its dtype and device, and its size."""
    given = _leaves(parameters)
    return hessian_operator(loss, given), given[0], sum(p.numel() for p in given)


def _leaves(parameters: Iterable[Tensor]) -> list[Tensor]:
    # a tensor is iterable too, but its rows are new tensors, on which no loss depends
    if isinstance(parameters, Tensor | Mapping) or not isinstance(parameters, Iterable):
        raise ParameterError(f"parameters must be a list of leaf tensors, got {type(parameters).__name__}")
    given = list(parameters)
    if not all(isinstance(p, Tensor) and p.is_leaf for p in given):
        raise ParameterError("parameters must be a list of leaf tensors, not numbers or results of operations")
    if sum(p.numel() for p in given) == 0:
        raise ParameterError("parameters must hold at least one entry")
    if any(p.is_complex() or not p.requires_grad for p in given):
        raise ParameterError("parameters must all be real and require a gradient")
    if len({(p.dtype, p.device) for p in given}) > 1:
        raise ParameterError("parameters must have one dtype and device")
    if len({id(p) for p in given}) < len(given):
        raise ParameterError("parameters must not hold a tensor twice")
    return given


def _tensor(vector: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(vector)).to(like)


def _numpy(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().double().numpy())
