"""Matrices of costs between the points of two samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from porism.arrays import check_finite
from porism.errors import ParameterError

# A function of points (..., n, d) and (..., m, d) with values (..., n, m), in torch.
Cost: TypeAlias = Literal["sqeuclidean", "euclidean"] | Callable[[Tensor, Tensor], Tensor]


class _SquaredDistances(torch.autograd.Function):
    """|x - y|^2 by one matrix product, with the gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, same: bool) -> Tensor:
        """x and y are centred, which keeps the cancellation small."""
        ctx.save_for_backward(x, y)
        lengths = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
        squares = lengths.baddbmm_(x, y.transpose(-1, -2), alpha=-2).clamp_(min=0)
        if same:
            squares.diagonal(dim1=1, dim2=2).zero_()
        return squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """2 sum_j G_ij (x_i - y_j), and its twin."""
        x, y = ctx.saved_tensors
        grad_x = 2 * (grad.sum(2, keepdim=True) * x - torch.bmm(grad, y)) if ctx.needs_input_grad[0] else None
        turned = grad.transpose(1, 2)
        grad_y = 2 * (turned.sum(2, keepdim=True) * y - torch.bmm(turned, x)) if ctx.needs_input_grad[1] else None
        return grad_x, grad_y, None


def cost_matrix(x: Tensor, y: Tensor | None = None, cost: Cost = "sqeuclidean") -> Tensor:
    """Costs between all pairs of points.

    Parameters
    ----------
    x
        Points (B, n, d).
    y
        Points (B, m, d); None for ``x`` itself, whose cost to itself is then exactly zero.
    cost
        ``"sqeuclidean"``, ``"euclidean"``, or a function of ``x`` and ``y``.

    Returns
    -------
    Tensor
        (B, n, m), of the dtype of the points.

    Raises
    ------
    ParameterError
        If the points are not finite floating tensors of these shapes, the cost is not known, or a function's result
        has another shape.

    Notes
    -----
    The squared distances come from one matrix product of centred points: their absolute error is some epsilons of
    the dtype times the squared diameter. Distances are exact to rounding, with gradient 0 at ties.

    Examples
    --------
    >>> cost_matrix(torch.tensor([[[0.0], [3.0]]]), torch.tensor([[[1.0]]]))
    tensor([[[1.],
             [4.]]])
    """
    for name, points in (("x", x), *(() if y is None else (("y", y),))):
        if not isinstance(points, Tensor) or not points.is_floating_point() or points.ndim != 3:
            got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
            raise ParameterError(f"{name} must be a floating tensor of shape (B, n, d), got {got}")
        check_finite(**{name: points.detach()})
    if y is not None and (x.shape[::2] != y.shape[::2] or x.dtype != y.dtype or x.device != y.device):
        raise ParameterError(
            f"x and y must have one dtype, one device, and shapes (B, n, d) and (B, m, d);"
            f" they are {tuple(x.shape)}, {x.dtype} and {tuple(y.shape)}, {y.dtype}"
        )
    return pairwise_costs(x, y, cost)


def pairwise_costs(x: Tensor, y: Tensor | None, cost: Cost) -> Tensor:
    """:func:`cost_matrix` of points that were checked."""
    other = x if y is None else y
    if callable(cost):
        costs = cost(x, other)
        expected = (*x.shape[:-1], other.shape[-2])
        if not isinstance(costs, Tensor) or costs.shape != expected:
            got = tuple(costs.shape) if isinstance(costs, Tensor) else type(costs).__name__
            raise ParameterError(f"cost must return a tensor of shape {tuple(expected)}, got {got}")
        return costs
    if cost == "euclidean":
        return torch.cdist(x, other, compute_mode="donot_use_mm_for_euclid_dist")
    if cost != "sqeuclidean":
        raise ParameterError(f"cost must be 'sqeuclidean', 'euclidean' or a function, got {cost!r}")
    centre = x.detach().mean(1, keepdim=True)
    squares: Tensor = _SquaredDistances.apply(x - centre, other - centre, y is None)  # type: ignore[no-untyped-call]
    return squares
