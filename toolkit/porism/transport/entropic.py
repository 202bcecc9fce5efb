"""Entropic optimal transport: Sinkhorn's algorithm, batched, with certified gaps and exact gradients.

The problem is OT_eps(a, b) = min_P <C, P> + eps KL(P || a x b) over plans P with marginals a and b, or with penalties
rho KL(P1 || a) in their place. Everything is computed in torch (``pip install 'porism[torch]'``); numpy arrays are
taken and given back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from porism.arrays import Array
from porism.errors import ParameterError
from porism.kernels.sinkhorn import Problem, Solution, solve
from porism.transport import _sinkhorn_arguments as arguments
from porism.transport._sinkhorn_certificate import Certificate, certify
from porism.transport._sinkhorn_gradients import balanced_gauge, envelope_value, implicit_potentials, unrolled
from porism.transport._sinkhorn_results import SinkhornDivergence, SinkhornResult, round_towards
from porism.transport.costs import Cost, pairwise_costs

Gradient = Literal["implicit", "unroll"]


def sinkhorn(
    cost: Array,
    a: Array | None = None,
    b: Array | None = None,
    *,
    epsilon: float,
    iterations: int = 1000,
    tolerance: float = 1e-6,
    unbalanced: float | tuple[float, float] | None = None,
    gradient: Gradient = "implicit",
    accelerate: bool = True,
) -> SinkhornResult:
    """Solve entropic transport for given costs.

    Parameters
    ----------
    cost
        Costs (..., n, m), float32 or float64; ``inf`` forbids a pair.
    a, b
        Weights (..., n) and (..., m), not negative, zeros allowed; of sum 1 unless ``unbalanced``. None: uniform.
    epsilon
        The regularisation, above 0, in units of the cost; at most 1e12 times the largest, beyond which rounding
        leaves nothing of the value.
    iterations
        At most this many updates of both potentials.
    tolerance
        A problem stops when |P1 - a|_1 is at most this, or eight rounding errors of the dtype.
    unbalanced
        Strength rho of a KL penalty in place of each marginal constraint, or a pair; ``inf`` keeps a constraint.
    gradient
        ``"implicit"``: the value by the envelope theorem, the potentials and the plan by solving their linearised
        optimality conditions, right at convergence. ``"unroll"``: backpropagate through plain iterations in the
        log domain, right for what these return, with memory for each of them.
    accelerate
        Over-relaxation and, for a wide range of costs, first stages of larger epsilon. Without, iteration k is the
        k-th of the textbook, and a tolerance of 0 runs all of them.

    Returns
    -------
    SinkhornResult
        Value, certified gap, potentials, plan.

    Raises
    ------
    ParameterError
        For NaN, negative weights, sums other than 1, shapes that do not fit, mixed backends, options out of range,
        or a point with weight all of whose pairs are forbidden.

    Notes
    -----
    Cuturi 2013 for the iteration; potentials f = -eps log sum_j b_j exp((g_j - C_ij) / eps) and likewise g. Sums and
    certificates are in float64 for float32 costs too, so small epsilon does not cost precision. Derivatives in the
    weights of a hard marginal are defined up to a constant, which directions of sum zero do not see.

    Examples
    --------
    Two points that may stay or swap at cost 1, eps = 1: the value is log 2 - log(1 + exp(-1)).

    >>> import numpy as np
    >>> solved = sinkhorn(np.array([[0.0, 1.0], [1.0, 0.0]]), epsilon=1.0)
    >>> round(float(solved.value), 6)
    0.379885
    >>> solved.plan().round(4)
    array([[0.3655, 0.1345],
           [0.1345, 0.3655]])
    """
    epsilon, iterations, tolerance = arguments.check_options(epsilon, iterations, tolerance, gradient)
    rho = arguments.penalties(unbalanced)
    numpy, (cost, a, b) = arguments.tensors(cost=cost, a=a, b=b)
    batch, cost = arguments.cost_batch(cost)
    a, b = _weights(a, b, batch, cost, math.isinf(min(rho)), epsilon)
    return (
        _Solver(epsilon, iterations, tolerance, gradient, accelerate, batch, numpy)
        .solve(Problem(cost, a, b, rho))
        .result
    )


def entropic_ot(
    x: Array,
    y: Array,
    *,
    a: Array | None = None,
    b: Array | None = None,
    epsilon: float,
    cost: Cost = "sqeuclidean",
    iterations: int = 1000,
    tolerance: float = 1e-6,
    unbalanced: float | tuple[float, float] | None = None,
    gradient: Gradient = "implicit",
    accelerate: bool = True,
) -> SinkhornResult:
    """Solve entropic transport between samples; it is biased: OT_eps(a, a) is not 0.

    Parameters
    ----------
    x, y
        Points (..., n, d) and (..., m, d).
    a, b
        Weights (..., n) and (..., m); None: uniform.
    epsilon, iterations, tolerance, unbalanced, gradient, accelerate
        As for :func:`sinkhorn`.
    cost
        ``"sqeuclidean"``, ``"euclidean"``, or a function of tensors (B, n, d) and (B, m, d) to (B, n, m).

    Returns
    -------
    SinkhornResult
        Its value has gradients in ``x``, ``y``, ``a`` and ``b``.

    Raises
    ------
    ParameterError
        As :func:`sinkhorn` does, naming ``x`` or ``y`` where these do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> float(entropic_ot(np.zeros((1, 1)), np.full((1, 1), 3.0), epsilon=0.1).value)
    9.0
    """
    epsilon, iterations, tolerance = arguments.check_options(epsilon, iterations, tolerance, gradient)
    rho = arguments.penalties(unbalanced)
    numpy, (x, y, a, b) = arguments.tensors(x=x, y=y, a=a, b=b)
    batch, x, y = arguments.points(x, y)
    _, costs = arguments.cost_batch(pairwise_costs(x, y, cost))
    a, b = _weights(a, b, batch, costs, math.isinf(min(rho)), epsilon)
    return (
        _Solver(epsilon, iterations, tolerance, gradient, accelerate, batch, numpy)
        .solve(Problem(costs, a, b, rho))
        .result
    )


def sinkhorn_divergence(
    x: Array,
    y: Array,
    *,
    a: Array | None = None,
    b: Array | None = None,
    epsilon: float,
    cost: Cost = "sqeuclidean",
    iterations: int = 1000,
    tolerance: float = 1e-6,
    unbalanced: float | None = None,
    gradient: Gradient = "implicit",
    accelerate: bool = True,
) -> SinkhornDivergence:
    """Debiased entropic transport between samples: at least 0, and 0 only for equal measures.

    Parameters
    ----------
    x, y
        Points (..., n, d) and (..., m, d).
    a, b
        Weights (..., n) and (..., m); None: uniform.
    epsilon, iterations, tolerance, gradient, accelerate
        As for :func:`sinkhorn`.
    cost
        As for :func:`entropic_ot`; a function must be symmetric.
    unbalanced
        Strength of a KL penalty in place of both marginal constraints.

    Returns
    -------
    SinkhornDivergence
        Its value has gradients in ``x``, ``y``, ``a`` and ``b``.

    Raises
    ------
    ParameterError
        As :func:`entropic_ot` does, and for a cost function that is not symmetric.

    Notes
    -----
    Feydy et al. 2019, "Interpolating between optimal transport and MMD using Sinkhorn divergences", equation 3;
    penalised marginals add eps (sum a - sum b)^2 / 2, Sejourne et al. 2019, definition 4. As eps falls to 0 it tends
    to the transport cost, as eps grows to half the energy-distance form of the kernel -C. The terms of a sample with
    itself have one potential, found by averaged updates f <- (f + T f) / 2.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0]])
    >>> round(float(sinkhorn_divergence(x, x + 1, epsilon=0.5).value), 6)
    1.0
    """
    epsilon, iterations, tolerance = arguments.check_options(epsilon, iterations, tolerance, gradient)
    if isinstance(unbalanced, tuple):
        raise ParameterError("unbalanced must be one number: the terms of a sample with itself have one penalty")
    rho = arguments.penalties(unbalanced)
    numpy, (x, y, a, b) = arguments.tensors(x=x, y=y, a=a, b=b)
    batch, x, y = arguments.points(x, y)
    _, costs = arguments.cost_batch(pairwise_costs(x, y, cost))
    a, b = _weights(a, b, batch, costs, math.isinf(rho[0]), epsilon)
    solver = _Solver(epsilon, iterations, tolerance, gradient, accelerate, batch, numpy)
    cross = solver.solve(Problem(costs, a, b, rho))
    self_x, self_y = (solver.solve(Problem(_self_cost(z, cost), w, w, rho, True)) for z, w in ((x, a), (y, b)))
    debias = epsilon / 2 * (a.sum(1) - b.sum(1)).square() if unbalanced is not None else 0
    value = cross.value - (self_x.value + self_y.value) / 2 + debias
    bound = value.detach() - (self_x.gap + self_y.gap) / 2
    dtype = costs.dtype
    return SinkhornDivergence(
        solver.finish(value, dtype),
        solver.finish(round_towards(bound, dtype, -math.inf), dtype),
        solver.finish(round_towards((value + cross.gap).detach(), dtype, math.inf), dtype),
        cross.result,
        self_x.result,
        self_y.result,
    )


def _weights(
    a: Tensor | None, b: Tensor | None, batch: tuple[int, ...], cost: Tensor, sum_to_one: bool, epsilon: float
) -> tuple[Tensor, Tensor]:
    wide_a = arguments.weights("a", a, batch, cost[..., 0], sum_to_one=sum_to_one)
    wide_b = arguments.weights("b", b, batch, cost[..., 0, :], sum_to_one=sum_to_one)
    arguments.check_allowed(cost.detach(), wide_a.detach(), wide_b.detach(), epsilon)
    return wide_a, wide_b


def _self_cost(points: Tensor, cost: Cost) -> Tensor:
    _, costs = arguments.cost_batch(pairwise_costs(points, None, cost))
    if callable(cost):
        values = costs.detach()
        if not torch.allclose(values, values.transpose(1, 2), rtol=1e-4, atol=1e-6 * float(values.abs().amax())):
            raise ParameterError("cost must be symmetric: cost(x, x) differs from its transpose")
    return costs


@dataclass(frozen=True)
class _Solved:
    """What one problem gave: float64 value with gradients, gap, and what the user sees."""

    value: Tensor
    gap: Tensor
    result: SinkhornResult


@dataclass(frozen=True)
class _Solver:
    """The options of one call."""

    epsilon: float
    iterations: int
    tolerance: float
    gradient: Gradient
    accelerate: bool
    batch: tuple[int, ...]
    numpy: bool

    def solve(self, problem: Problem) -> _Solved:
        """Iterate without gradients, certify, attach gradients."""
        fixed = Problem(problem.cost.detach(), problem.a.detach(), problem.b.detach(), problem.rho, problem.symmetric)
        wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (problem.cost, problem.a, problem.b))
        f, g, value = None, None, None
        if wanted and self.gradient == "unroll":
            f, g, value, used = unrolled(problem, self.epsilon, self.iterations, self.tolerance)
            steps = torch.full((len(f),), used, device=f.device)
            solution = Solution(f.detach(), g.detach(), steps, torch.zeros_like(steps, dtype=torch.bool))
        else:
            solution = solve(
                fixed,
                self.epsilon,
                iterations=self.iterations,
                tolerance=self.tolerance,
                accelerate=self.accelerate,
            )
        implicit = wanted and value is None
        certificate = certify(fixed, self.epsilon, solution.f, solution.g, with_plan=implicit)
        if f is None or g is None or value is None:
            value, f, g = certificate.lower, solution.f, solution.g
            if implicit:
                value = envelope_value(problem, self.epsilon, f, g, certificate)
                f, g = implicit_potentials(problem, self.epsilon, f, g)
        f, g = balanced_gauge(problem, f, g)
        return _Solved(
            value, certificate.upper - certificate.lower, self._result(problem, f, g, value, certificate, solution)
        )

    def _result(
        self, problem: Problem, f: Tensor, g: Tensor, value: Tensor, certificate: Certificate, solution: Solution
    ) -> SinkhornResult:
        dtype = problem.cost.dtype
        low = round_towards(certificate.lower, dtype, -math.inf)
        gap = round_towards(certificate.upper, dtype, math.inf) - low
        shown = value + (low.double() - certificate.lower)  # rounded down, with the gradients of the value
        finish = self.finish
        return SinkhornResult(
            finish(shown, dtype),
            finish(round_towards(gap, dtype, math.inf), dtype),
            finish(f, dtype),
            finish(g, dtype),
            finish(certificate.marginal_error, dtype),
            finish(solution.iterations, torch.int64),
            finish(solution.converged | (certificate.marginal_error <= self.tolerance), torch.bool),
            (problem.cost, problem.a, problem.b, self.epsilon, f, g, finish),
        )

    def finish(self, value: Tensor, dtype: torch.dtype) -> Any:
        """The user's batch shape, dtype and backend."""
        shaped = value.to(dtype).reshape((*self.batch, *value.shape[1:]))
        return shaped.detach().numpy()[()] if self.numpy else shaped
