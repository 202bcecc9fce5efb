"""Gradients of entropic transport: by the envelope theorem, by the implicit function theorem, and by unrolling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from porism.kernels.sinkhorn import Problem
from porism.transport._sinkhorn_certificate import Certificate


class _EnvelopeValue(torch.autograd.Function):
    """The dual value, whose gradient at optimal potentials is that of the dual function with the potentials fixed."""

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, a: Tensor, b: Tensor, value: Tensor, plan: Tensor, slope_a: Tensor, slope_b: Tensor
    ) -> Tensor:
        """Hand on the value; ``plan``, ``slope_a`` and ``slope_b`` are its gradients."""
        ctx.save_for_backward(plan, slope_a, slope_b)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the stored gradients."""
        plan, slope_a, slope_b = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            (grad.to(plan.dtype)[:, None, None] * plan) if wanted[0] else None,
            grad[:, None] * slope_a if wanted[1] else None,
            grad[:, None] * slope_b if wanted[2] else None,
            *(None,) * 4,
        )


def envelope_value(problem: Problem, epsilon: float, f: Tensor, g: Tensor, certificate: Certificate) -> Tensor:
    """The certified dual value (B,), float64, with its gradients in the problem's cost and weights."""
    slopes = []
    for side, sums, other, rho in (
        (f, certificate.row_sums, problem.b, problem.rho[0]),
        (g, certificate.column_sums, problem.a, problem.rho[1]),
    ):
        slope = side if math.isinf(rho) else -rho * torch.expm1(-side / rho)
        slopes.append(slope - epsilon * (sums - other.sum(1, keepdim=True)))
    value: Tensor = _EnvelopeValue.apply(  # type: ignore[no-untyped-call]
        problem.cost, problem.a, problem.b, certificate.lower, certificate.plan, *[slope.detach() for slope in slopes]
    )
    return value


class _ImplicitPotentials(torch.autograd.Function):
    """Optimal potentials as functions of cost and weights, differentiated through their optimality conditions."""

    @staticmethod
    def forward(
        ctx: Any,
        cost: Tensor,
        a: Tensor,
        b: Tensor,
        f: Tensor,
        g: Tensor,
        epsilon: float,
        rho: tuple[float, float],
    ) -> tuple[Tensor, Tensor]:
        """Hand on the potentials."""
        ctx.save_for_backward(cost, a, b, f, g)
        ctx.epsilon, ctx.rho = epsilon, rho
        return f.clone(), g.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_f: Tensor, grad_g: Tensor) -> tuple[Tensor | None, ...]:
        """Solve the adjoint of df + k Q dg = k Q dC - k eps E db and its twin, with Q the row-normalised plan."""
        cost, a, b, f, g = ctx.saved_tensors
        epsilon, rho = ctx.epsilon, ctx.rho
        damping_f, damping_g = (1 / (1 + epsilon / r) for r in rho)
        power = torch.exp(((f.unsqueeze(2) + g.unsqueeze(1) - cost) / epsilon).clamp(max=650))
        over_rows = damping_f * power / torch.einsum("bij,bj->bi", power, b).unsqueeze(2)
        over_columns = damping_g * power / torch.einsum("bij,bi->bj", power, a).unsqueeze(1)
        rows, columns = over_rows * b.unsqueeze(1), over_columns * a.unsqueeze(2)
        batch, n, m = cost.shape
        one_n, one_m = (torch.eye(size, dtype=a.dtype, device=a.device).expand(batch, -1, -1) for size in (n, m))
        system = torch.cat([torch.cat([one_n, rows], 2), torch.cat([columns.transpose(1, 2), one_m], 2)], 1).transpose(
            1, 2
        )
        if all(map(math.isinf, rho)):  # (1, -1) moves no plan: the functions of f and g that are used ignore it
            null = torch.cat([torch.ones_like(a), -torch.ones_like(b)], 1)
            system = system + null.unsqueeze(2) * null.unsqueeze(1) / (n + m)
        adjoint = torch.linalg.solve(system, torch.cat([grad_f, grad_g], 1))
        left, right = adjoint[:, :n], adjoint[:, n:]
        grad_cost = left.unsqueeze(2) * rows + right.unsqueeze(1) * columns
        grad_a = -epsilon * torch.einsum("bij,bj->bi", over_columns, right)
        grad_b = -epsilon * torch.einsum("bij,bi->bj", over_rows, left)
        return grad_cost.to(cost.dtype), grad_a, grad_b, None, None, None, None


def implicit_potentials(problem: Problem, epsilon: float, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The potentials with their gradients; solving for these takes (n + m)^3 operations, in the backward pass."""
    f, g = _ImplicitPotentials.apply(  # type: ignore[no-untyped-call]
        problem.cost, problem.a, problem.b, f, g, epsilon, problem.rho
    )
    return balanced_gauge(problem, f, g)


def balanced_gauge(problem: Problem, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Of the potentials (f + t, g - t) of one plan those with <a, f> = <b, g>; penalised ones are unique."""
    if not all(map(math.isinf, problem.rho)):
        return f, g
    shift = ((problem.b * g).sum(1, keepdim=True) - (problem.a * f).sum(1, keepdim=True)) / 2
    return f + shift, g - shift


def unrolled(problem: Problem, epsilon: float, iterations: int, tolerance: float) -> tuple[Tensor, Tensor, Tensor, int]:
    """Potentials, value and number of iterations in the log domain that autograd records.

    All problems run until the last of them has converged.
    """
    cost, a, b = problem.cost.double(), problem.a, problem.b
    damping_f, damping_g = (1 / (1 + epsilon / rho) for rho in problem.rho)
    log_a, log_b = (torch.where(w > 0, torch.where(w > 0, w, 1).log(), -math.inf) for w in (a, b))
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    used, done = 0, False
    while used < iterations and not done:
        used += 1
        new = -damping_f * epsilon * ((g.unsqueeze(1) - cost) / epsilon + log_b.unsqueeze(1)).logsumexp(2)
        error = (a * torch.expm1((f - new).detach() / epsilon).abs()).sum(1)
        if problem.symmetric:
            f = g = (f + new) / 2
        else:
            f = new
            g = -damping_g * epsilon * ((f.unsqueeze(2) - cost) / epsilon + log_a.unsqueeze(2)).logsumexp(1)
        done = tolerance > 0 and bool((error <= tolerance).all())
    power = ((f.unsqueeze(2) + g.unsqueeze(1) - cost) / epsilon).clamp(max=650).exp()
    value = -epsilon * (torch.einsum("bi,bij,bj->b", a, power, b) - a.sum(1) * b.sum(1))
    for weights, side, rho in ((a, f, problem.rho[0]), (b, g, problem.rho[1])):
        value = value + (weights * (side if math.isinf(rho) else -rho * torch.expm1(-side / rho))).sum(1)
    return f, g, value, used
