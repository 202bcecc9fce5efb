"""How far a pair of Sinkhorn potentials is from the optimum: the dual value, a primal value, both in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from porism.kernels.sinkhorn import Problem, exponents


@dataclass(frozen=True)
class Certificate:
    """Bounds of the optimal value (B,), the violation of the marginals (B,), and what gradients need.

    ``row_sums`` and ``column_sums`` are the plan's marginals over the weights; ``plan`` is there if asked for.
    """

    lower: Tensor
    upper: Tensor
    marginal_error: Tensor
    row_sums: Tensor
    column_sums: Tensor
    plan: Tensor | None


def certify(problem: Problem, epsilon: float, f: Tensor, g: Tensor, *, with_plan: bool = False) -> Certificate:
    """Bounds from weak duality: the dual value at (f, g), and the cost of a feasible plan made from theirs.

    A plan P of rows and columns that are too heavy is scaled down to P' (Altschuler, Weed and Rigollet 2017,
    algorithm 2); the mass t that is then missing is a product of the missing marginals, R. The plan P' + t R is
    feasible, and by convexity its value is at most that of its two normalised parts, which need no logarithm of
    a matrix. Penalised marginals need no scaling.
    """
    hard_f, hard_g = (math.isinf(rho) for rho in problem.rho)
    if hard_g and not hard_f:
        turned = Problem(problem.cost.transpose(1, 2), problem.b, problem.a, problem.rho[::-1])
        back = certify(turned, epsilon, g, f, with_plan=with_plan)
        plan = None if back.plan is None else back.plan.transpose(1, 2)
        return Certificate(back.lower, back.upper, back.marginal_error, back.column_sums, back.row_sums, plan)
    a, b, cost = problem.a, problem.b, problem.cost
    rows, columns, reduced = torch.empty_like(a), torch.zeros_like(b), torch.zeros_like(b)
    scale = torch.ones_like(a)  # what each row of P is multiplied by
    plan = torch.empty_like(cost) if with_plan else None
    for i, j, exponent in exponents(cost, f, g, epsilon):
        # two points without weight may be as near as they like
        power = exponent.clamp_(max=650).exp_()
        columns[i] += torch.bmm(a[i, j].unsqueeze(1), power).squeeze(1)
        rows[i, j] = power.mul_(b[i].unsqueeze(1)).sum(2)
        if hard_f:
            scale[i, j] = rows[i, j].reciprocal() if not hard_g else rows[i, j].clamp(min=1).reciprocal()
            reduced[i] += torch.bmm((a[i, j] * scale[i, j]).unsqueeze(1), power).squeeze(1)
        if plan is not None:
            plan[i, j] = power.mul_(a[i, j, None])
    column_mass = reduced if hard_f else b * columns
    lower = _dual(problem, epsilon, f, g, (a * rows).sum(1))
    upper = (_rounded if hard_g else _penalised)(problem, epsilon, f, g, a * rows * scale, column_mass, scale)
    violation = torch.zeros_like(lower)
    for weights, sums, side, rho in ((a, rows, f, problem.rho[0]), (b, columns, g, problem.rho[1])):
        violation += (weights * (sums - torch.exp(-side / rho)).abs()).sum(1)
    # a rounding error of float64 may put the bounds the wrong way round
    return Certificate(lower, upper.maximum(lower), violation, rows, columns, plan)


def _dual(problem: Problem, epsilon: float, f: Tensor, g: Tensor, mass: Tensor) -> Tensor:
    value = -epsilon * (mass - problem.a.sum(1) * problem.b.sum(1))
    for weights, side, rho in ((problem.a, f, problem.rho[0]), (problem.b, g, problem.rho[1])):
        value = value + (weights * (side if math.isinf(rho) else -rho * torch.expm1(-side / rho))).sum(1)
    return value


def _rounded(
    problem: Problem, epsilon: float, f: Tensor, g: Tensor, row_mass: Tensor, column_mass: Tensor, scale: Tensor
) -> Tensor:
    """The value's upper bound for two hard marginals."""
    a, b, cost = problem.a, problem.b, problem.cost
    # exact g leaves no column too heavy but for rounding, so that one factor for all of them is tight enough
    heaviest = (column_mass / torch.where(b > 0, b, 1)).amax(1, keepdim=True).clamp(min=1)
    row_mass, column_mass = row_mass / heaviest, column_mass / heaviest
    mass = row_mass.sum(1)
    value = (row_mass * (f + epsilon * scale.log())).sum(1) + (column_mass * g).sum(1)
    value = value - epsilon * mass * (heaviest[:, 0].log() + mass.log())
    missing_a, missing_b = (a - row_mass).clamp(min=0), (b - column_mass).clamp(min=0)
    missing = (missing_a.sum(1) + missing_b.sum(1)) / 2
    share_a, share_b = (part / part.sum(1, keepdim=True).clamp(min=1e-300) for part in (missing_a, missing_b))
    product = _bilinear(share_a, cost, share_b)
    for share, weights in ((share_a, a), (share_b, b)):
        product = product + epsilon * torch.special.xlogy(share, share / torch.where(share > 0, weights, 1)).sum(1)
    return value + torch.where(missing > 1e-300, missing * product, 0)


def _penalised(
    problem: Problem, epsilon: float, f: Tensor, g: Tensor, row_mass: Tensor, column_mass: Tensor, scale: Tensor
) -> Tensor:
    """The value's upper bound where at least the second marginal is penalised: the plan itself is feasible."""
    a, b = problem.a, problem.b
    value = (row_mass * (f + epsilon * scale.log())).sum(1) + (column_mass * g).sum(1)
    value = value - epsilon * (row_mass.sum(1) - a.sum(1) * b.sum(1))
    for weights, mass, rho in ((a, row_mass, problem.rho[0]), (b, column_mass, problem.rho[1])):
        if not math.isinf(rho):
            ratio = mass / torch.where(weights > 0, weights, 1)
            value = value + rho * (torch.special.xlogy(mass, ratio) - mass + weights).sum(1)
    return value


def _bilinear(left: Tensor, cost: Tensor, right: Tensor) -> Tensor:
    """sum_ij left_i C_ij right_j, infinite where forbidden pairs have weight."""
    finite = cost
    blocked = torch.isinf(cost.flatten(1).amax(1))
    if bool(blocked.any()):
        forbidden = cost.isinf()
        finite = torch.where(forbidden, 0, cost)
        used = torch.einsum("bi,bij,bj->b", left, forbidden.double(), right)
        blocked = used > 0
    value = torch.bmm(torch.bmm(left.unsqueeze(1).to(cost.dtype), finite), right.unsqueeze(2).to(cost.dtype))
    return torch.where(blocked, math.inf, value[:, 0, 0].double())
