"""Sums of Gaussian kernels over all pairs of two samples, with their gradients in the same pass.

The three sums of a maximum mean discrepancy never hold a whole Gram matrix: a block of it is one matrix
product (the squared norms ride along as two more columns), one exponential in place, and one or two products
that give the row sums and the gradient together. Of a sample with itself only half of the blocks are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from porism.errors import ParameterError

# Rows and columns of a block. 512 is a tenth faster on an idle machine, but a busy one makes the threads wait
# for each other at every operation, of which 1024 needs a quarter.
_BLOCK = 1024
_BLOCK_CUDA = 8192
# Above this squared norm (in bandwidths) the expanded square cancels too much for float32.
_LARGEST_FLOAT32 = 256.0


def gaussian_pair_sums(
    x: Tensor, y: Tensor, x_weights: Tensor, y_weights: Tensor, bandwidths: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The sums over pairs that every Gaussian MMD consists of, differentiable once in the points and weights.

    Parameters
    ----------
    x, y
        Samples, shapes (n, d) and (m, d), of one floating dtype and device.
    x_weights, y_weights
        Shapes (n,) and (m,), of any sign.
    bandwidths
        The kernel is :math:`k(x, y) = \sum_\sigma \exp(-|x-y|^2 / (2 \sigma^2))`.

    Returns
    -------
    within_x, within_y, between
        :math:`\sum_{i \ne j} a_i a_j k(x_i, x_j)`, the same for y, and :math:`\sum_{ij} a_i b_j k(x_i, y_j)`, in
        float64, because a discrepancy is a small difference of them.

    Raises
    ------
    ParameterError
        If the squared distances overflow in units of the narrowest bandwidth.

    Notes
    -----
    float32 points with a norm (after centring) of more than 16 of the narrowest bandwidths are computed in
    float64, since the expanded square would cancel.

    Examples
    --------
    >>> x, a = torch.tensor([[0.0], [1.0]]), torch.ones(2)
    >>> [round(float(total), 4) for total in gaussian_pair_sums(x, x[:1], a, a[:1], [1.0])]
    [1.2131, 0.0, 1.6065]
    """
    if not torch.is_grad_enabled():
        x, y, x_weights, y_weights = (values.detach() for values in (x, y, x_weights, y_weights))
    within_x, within_y, between = _PairSums.apply(x, y, x_weights, y_weights, tuple(bandwidths))  # type: ignore[no-untyped-call]
    return within_x, within_y, between


class _PairSums(torch.autograd.Function):
    """Computes the gradients in the forward pass, where the blocks are at hand."""

    # A backward of a backward is refused: the gradients are constants to it.

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, bandwidths: tuple[float, ...]) -> Any:
        dtype = x.dtype
        narrowest = min(bandwidths)
        # Centring leaves the kernel as it is and keeps the squares small; the scale makes one exponent of all.
        centre = (x.mean(0) + y.mean(0)) / 2
        points = [(x - centre) / narrowest, (y - centre) / narrowest]
        if dtype == torch.float32 and max(float(z.square().sum(1).max()) for z in points) > _LARGEST_FLOAT32:
            points = [z.double() for z in points]
        rates = [(narrowest / bandwidth) ** 2 for bandwidth in bandwidths]
        masses = [a.to(points[0].dtype), b.to(points[0].dtype)]
        need = [ctx.needs_input_grad[0] or ctx.needs_input_grad[2], ctx.needs_input_grad[1] or ctx.needs_input_grad[3]]
        sides = [_Side(z, w, needed, rates) for z, w, needed in zip(points, masses, need, strict=True)]
        xx, yy = _within(sides[0], rates), _within(sides[1], rates)
        xy, yx = _between(sides[0], sides[1], rates)
        left, right = a.double(), b.double()
        totals = [left @ xx[:, -1], right @ yy[:, -1], left @ xy[:, -1]]
        if not math.isfinite(float(totals[0] + totals[1] + totals[2])):
            raise ParameterError(f"bandwidth {narrowest:g} is too small: squared distances overflow in its units")
        kept = []
        for side, own, other in ((sides[0], xx, xy), (sides[1], yy, yx)):
            if side.needed:
                # d/dx_i of sum_j v_i w_j exp(-r^2/2) is v_i sum_j w_j k (x_j - x_i), in units of the bandwidth
                kept += [side.gradient(own, 2.0, narrowest, dtype), side.gradient(other, 1.0, narrowest, dtype)]
                kept += [(2 * own[:, -1]).to(dtype), other[:, -1].to(dtype)]
        ctx.save_for_backward(*kept)
        ctx.need = need
        return tuple(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_xx, grad_yy, grad_xy = grads
        kept = list(ctx.saved_tensors)
        result: list[Tensor | None] = [None, None, None, None, None]
        for k, grad_own in ((0, grad_xx), (1, grad_yy)):
            if ctx.need[k]:
                points_own, points_other, weights_own, weights_other = kept[:4]
                kept = kept[4:]
                result[k] = grad_own * points_own + grad_xy * points_other
                result[2 + k] = grad_own * weights_own + grad_xy * weights_other
        return tuple(result)


class _Side:
    """One sample, its exponents' factors, and what the products with a block of the kernel are summed against."""

    def __init__(self, points: Tensor, weights: Tensor, needed: bool, rates: list[float]) -> None:
        norms = points.square().sum(1, keepdim=True) / -2
        ones = torch.ones_like(norms)
        # left @ right.T = x.y - |x|^2/2 - |y|^2/2, the exponent
        self.left = torch.cat([points, norms, ones], dim=1)
        self.right = torch.cat([points, ones, norms], dim=1)
        self.points, self.weights, self.needed = points, weights, needed
        self.column = weights[:, None]
        # What a block of the kernel is multiplied by: weighted points, and ones for the sums of slope and kernel.
        self.summands = torch.cat([points * self.column, self.column, self.column], dim=1)
        self.several = len(rates) > 1

    def empty(self, width: int) -> Tensor:
        # Thousands of small positive numbers: adding the blocks up in float32 would cost a digit.
        return self.points.new_zeros(self.points.shape[0], width, dtype=torch.float64)

    def gradient(self, sums: Tensor, factor: float, narrowest: float, dtype: torch.dtype) -> Tensor:
        d = self.points.shape[1]
        return ((sums[:, :d] - sums[:, d, None] * self.points) * (factor / narrowest) * self.column).to(dtype)


def _within(side: _Side, rates: list[float]) -> Tensor:
    """Row sums over all other points of the same sample: slope-weighted points, slopes, kernel."""
    sums = side.empty(side.points.shape[1] + 2)
    blocks = _blocks(side.points)
    for p, rows in enumerate(blocks):
        for columns in blocks[p:]:
            block = side.left[rows] @ side.right[columns].T
            if rows == columns:
                block.fill_diagonal_(-torch.inf)
            _add(block, sums, side, rows, sums if rows != columns else None, side, columns, rates)
    return sums


def _between(x: _Side, y: _Side, rates: list[float]) -> tuple[Tensor, Tensor]:
    """The same over the points of the other sample, for both."""
    width = x.points.shape[1] + 2
    over_y, over_x = x.empty(width), y.empty(width)
    for rows in _blocks(x.points):
        for columns in _blocks(y.points):
            block = x.left[rows] @ y.right[columns].T
            _add(block, over_y, x, rows, over_x, y, columns, rates)
    return over_y, over_x


def _add(
    block: Tensor,
    to_rows: Tensor,
    x: _Side,
    rows: slice,
    to_columns: Tensor | None,
    y: _Side,
    columns: slice,
    rates: list[float],
) -> None:
    """Turn exponents into kernels and add what they give to the sums of the rows and of the columns."""
    if not x.several:
        kernel = slope = block.exp_()
    else:
        kernel, slope = torch.zeros_like(block), torch.zeros_like(block)
        for rate in rates:
            term = torch.exp(block * rate)
            kernel += term
            slope.add_(term, alpha=rate)
    _reduce(kernel, slope, to_rows[rows], x.needed, y, columns)
    if to_columns is not None:
        turned = kernel.T
        _reduce(turned, turned if kernel is slope else slope.T, to_columns[columns], y.needed, x, rows)


def _reduce(kernel: Tensor, slope: Tensor, sums: Tensor, needed: bool, other: _Side, where: slice) -> None:
    if needed and kernel is slope:
        sums += kernel @ other.summands[where]
        return
    if needed:
        sums[:, :-1] += slope @ other.summands[where, :-1]
    sums[:, -1] += kernel @ other.weights[where]


def _blocks(points: Tensor) -> list[slice]:
    size = _BLOCK if points.device.type == "cpu" else _BLOCK_CUDA
    return [slice(k, min(k + size, points.shape[0])) for k in range(0, points.shape[0], size)]
