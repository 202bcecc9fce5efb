"""Batched Sinkhorn iterations as matrix-vector products that are as stable as the log domain.

The potentials are kept in float64 beside K = exp((f + g - C) / epsilon), which holds them *absorbed*: an iteration is
two products with K that move scalings u and v, and whenever these leave a safe range they are absorbed into the
potentials and K is formed anew (Schmitzer, "Stabilized sparse scaling algorithms for entropy regularized transport
problems", SIAM J. Sci. Comput. 2019, algorithm 2). A block of iterations that still overflows is taken back and
repeated in the log domain. Successive over-relaxation with a factor read off the observed rate (Thibault et al.,
"Overrelaxed Sinkhorn-Knopp algorithm", Algorithms 2021) saves most of the iterations of slow problems.

This module works on tensors that :mod:`porism.transport.entropic` has checked, and computes no gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from porism.kernels._relaxation import Relaxation, relaxed
from porism.kernels.memory import keep_freed_memory

CHECK_EVERY = 10  # iterations between two looks at the errors, which cost as much as half an iteration
_BLOCK = 1 << 18  # entries of K that are formed at a time: few enough for the cache, enough to pay for the calls
_TRANSPOSED = 1 << 18  # problems with fewer entries keep K transposed too: row-vector products are 10x faster
_COMPACT = 0.5  # converged problems are dropped when fewer than this share is left
_FIRST_STAGE, _STAGE_FACTOR, _STAGE_ITERATIONS = 0.01, 4.0, 5  # in units of the largest cost; next epsilon by factor
# |log| of the scalings that is absorbed, and that a block of iterations is taken back for. What underflowed in K
# stays below the precision of the sums while two scalings keep to the second limit.
_SOFT_LIMIT = {torch.float32: 9.0, torch.float64: 70.0}
_HARD_LIMIT = {torch.float32: 32.0, torch.float64: 300.0}


@dataclass(frozen=True)
class Problem:
    """Transport problems of one size.

    Parameters
    ----------
    cost
        (B, n, m); ``inf`` forbids a pair.
    a, b
        Weights (B, n) and (B, m), zero allowed; float64.
    rho
        Strengths of the two marginals' KL penalties; ``inf`` is a hard constraint.
    symmetric
        The cost is symmetric and ``a`` is ``b``: one potential, from averaged updates.
    """

    cost: Tensor
    a: Tensor
    b: Tensor
    rho: tuple[float, float] = (math.inf, math.inf)
    symmetric: bool = False

    def keep(self, index: Tensor) -> Problem:
        """The problems at ``index`` alone."""
        return Problem(self.cost[index], self.a[index], self.b[index], self.rho, self.symmetric)


@dataclass
class Solution:
    """Float64 potentials (B, n) and (B, m), the iterations that each problem took, and whether it got there."""

    f: Tensor
    g: Tensor
    iterations: Tensor
    converged: Tensor

    def store(self, where: Tensor, f: Tensor, g: Tensor, iterations: int, converged: Tensor) -> None:
        """Note how the problems at ``where`` stand."""
        self.f[where], self.g[where] = f, g
        self.iterations[where], self.converged[where] = iterations, converged


def solve(
    problem: Problem,
    epsilon: float,
    *,
    iterations: int,
    tolerance: float,
    log_domain: bool = False,
    accelerate: bool = True,
) -> Solution:
    """Iterate until each problem's marginal error is at most ``tolerance``, or ``iterations`` times.

    Parameters
    ----------
    problem
        What to solve.
    epsilon
        The regularisation, above 0.
    iterations
        Upper bound; one iteration updates both potentials.
    tolerance
        Bound on |P1 - a|_1 after an update of g (for penalised marginals: on the a-weighted relative change of f).
    log_domain
        Use log-sum-exp throughout: the slow reference, and what CUDA devices run.
    accelerate
        Allow over-relaxation and first stages of larger epsilon. Without, iteration k is the k-th of the textbook.

    Returns
    -------
    Solution
        The last potentials.

    Examples
    --------
    >>> cost = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    >>> half = torch.full((1, 2), 0.5, dtype=torch.float64)
    >>> solved = solve(Problem(cost, half, half), 0.5, iterations=100, tolerance=1e-9)
    >>> bool(solved.converged)
    True
    """
    keep_freed_memory()
    if accelerate:  # below the rounding errors nothing is left to gain
        tolerance = max(tolerance, 8 * torch.finfo(problem.cost.dtype).eps)
    with torch.no_grad():
        f, g, used = _start(problem, epsilon, iterations) if accelerate else (*_half_steps(problem, epsilon), 1)
        engine = (_LogDomain if log_domain or problem.cost.is_cuda else _Scaling)(problem, epsilon, f, g)
        batch, device = len(f), f.device
        solution = Solution(f.clone(), g.clone(), torch.full((batch,), used), torch.zeros(batch, dtype=torch.bool))
        solution.iterations, solution.converged = solution.iterations.to(device), solution.converged.to(device)
        active = torch.arange(batch, device=device)
        relaxation = Relaxation(batch, problem.cost)
        factor = None
        while used < iterations:
            count = min(CHECK_EVERY, iterations - used)
            engine.shift(_best_shift(engine.problem, engine.f, engine.g))
            error = engine.run(count, factor)
            used += count
            done = (error <= tolerance) & (tolerance > 0)
            factor = relaxation.update(error, count) if accelerate and not problem.symmetric else None
            if used >= iterations or int((~done).sum()) <= _COMPACT * len(done):
                solution.store(active, engine.f, engine.exact_g, used, done)
                if used >= iterations or bool(done.all()):
                    break
                stay = (~done).nonzero()[:, 0]
                active = active[stay]
                engine.keep(stay)
                relaxation.keep(stay)
                factor = None if factor is None else factor[stay]
        return solution


def soft_minimum(potential: Tensor, cost: Tensor, weights: Tensor, epsilon: float, dim: int) -> Tensor:
    """-epsilon log sum_j w_j exp((potential_j - C_ij) / epsilon), summed over axis ``dim`` (1 or 2) of the cost."""
    if cost.is_cuda and _has_triton():
        from porism.kernels import triton_sinkhorn

        return triton_sinkhorn.soft_minimum(potential, cost, weights, epsilon, dim)
    other = 3 - dim
    exponent = (potential.unsqueeze(other) - cost).div_(epsilon).add_(weights.log().unsqueeze(other))
    return -epsilon * exponent.logsumexp(dim)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def exponents(cost: Tensor, f: Tensor, g: Tensor, epsilon: float) -> Iterator[tuple[slice, slice, Tensor]]:
    """(f + g - C) / epsilon in float64, in pieces that fit the cache: slices of problems, of rows, and the numbers.

    The pieces share one buffer, which the caller may change.
    """
    batch, n, m = cost.shape
    problems, rows = min(batch, max(1, _BLOCK // (n * m))), min(n, max(1, _BLOCK // m))
    f, g = (f / epsilon).unsqueeze(2), (g / epsilon).unsqueeze(1)
    buffer = torch.empty(problems * rows * m, dtype=torch.float64, device=cost.device)
    for i in range(0, batch, problems):
        for j in range(0, n, rows):
            where = slice(i, i + problems), slice(j, j + rows)
            piece = cost[where]
            exponent = buffer[: piece.numel()].view(piece.shape)
            yield *where, exponent.copy_(piece).mul_(-1 / epsilon).add_(f[where]).add_(g[where[0]])


class _LogDomain:
    """Iterations by log-sum-exp, from float64 potentials."""

    def __init__(self, problem: Problem, epsilon: float, f: Tensor, g: Tensor) -> None:
        self.problem, self.epsilon, self.f, self.g, self.exact_g = problem, epsilon, f, g, g
        self.damping_f, self.damping_g = (1 / (1 + epsilon / rho) for rho in problem.rho)

    def run(self, count: int, relaxation: Tensor | None) -> Tensor:
        """Iterate; the marginal error that is left in each problem."""
        problem, factor = self.problem, 1.0 if relaxation is None else relaxation[:, 0].double()
        new = self._exact_f()
        for _ in range(count):
            if problem.symmetric:
                self.f = self.g = self.exact_g = (self.f + new) / 2
            else:
                self.f = self.f + factor * (new - self.f)
                self.exact_g = self.damping_g * soft_minimum(self.f, problem.cost, problem.a, self.epsilon, 1)
                self.g = self.g + factor * (self.exact_g - self.g)
            new = self._exact_f()
        errors = ((self.f, new, problem.a), (self.g, self.exact_g, problem.b))
        rows, columns = ((torch.expm1(((x - y) / self.epsilon).clamp_(max=500)).abs() * w).sum(1) for x, y, w in errors)
        return rows + columns if relaxation is not None else rows

    def _exact_f(self) -> Tensor:
        return self.damping_f * soft_minimum(self.g, self.problem.cost, self.problem.b, self.epsilon, 2)

    def shift(self, by: Tensor | None) -> None:
        """Move f up and g down."""
        if by is not None:
            self.f, self.g = self.f + by, self.g - by

    def keep(self, index: Tensor) -> None:
        """Drop the other problems."""
        self.problem = self.problem.keep(index)
        self.f, self.g, self.exact_g = self.f[index], self.g[index], self.exact_g[index]


class _Scaling:
    """Iterations by products with K, in the dtype of the cost; ``f`` and ``g`` are current after every run.

    So is ``exact_g``, the exact update that ``g`` was relaxed from: the one to end with.
    """

    def __init__(self, problem: Problem, epsilon: float, f: Tensor, g: Tensor) -> None:
        cost = problem.cost
        self.problem, self.epsilon = problem, epsilon
        self.a, self.b = problem.a.unsqueeze(1).to(cost.dtype), problem.b.unsqueeze(1).to(cost.dtype)
        self.matrix = torch.empty_like(cost, memory_format=torch.contiguous_format)
        self.transposed = self.matrix if problem.symmetric else None
        if not problem.symmetric and cost.shape[1] * cost.shape[2] <= _TRANSPOSED:
            self.transposed = torch.empty_like(self.matrix.transpose(1, 2), memory_format=torch.contiguous_format)
        self.f, self.g, self.exact_g = f, g, g
        self.u, self.v, self.exact_v = torch.ones_like(self.a), torch.ones_like(self.b), torch.ones_like(self.b)
        self.next_u: Tensor | None = None
        self.fade_f: Tensor | None = None
        self.fade_g: Tensor | None = None
        self._absorb(f, g)

    def run(self, count: int, relaxation: Tensor | None) -> Tensor:
        """As :meth:`_LogDomain.run`, which takes over for this block where the scalings leave the safe range."""
        dtype = self.matrix.dtype
        error = self._iterate(count, relaxation)
        scalings = (self.u,) if self.problem.symmetric else (self.u, self.v)
        ends = [float(end) for s in scalings for end in torch.aminmax(s)]
        drift = max(abs(math.log(end)) if 0 < end < math.inf else math.inf for end in ends)
        if drift < _HARD_LIMIT[dtype]:
            self.f = self.absorbed_f + self.epsilon * _log(self.u)
            self.g, self.exact_g = (
                self.f if self.problem.symmetric else self.absorbed_g + self.epsilon * _log(v)
                for v in (self.v, self.exact_v)
            )
        else:
            safe = _LogDomain(self.problem, self.epsilon, self.f, self.g)
            error = safe.run(count, None)
            self.f, self.g, self.exact_g = safe.f, safe.g, safe.exact_g
        if not drift < _SOFT_LIMIT[dtype]:
            self._absorb(self.f, self.g)
        return error

    def _iterate(self, count: int, relaxation: Tensor | None) -> Tensor:
        for _ in range(count):
            u, self.next_u = self._exact_u() if self.next_u is None else self.next_u, None
            if self.problem.symmetric:
                self.u = self.v = self.exact_v = u.mul_(self.u).sqrt_()
                continue
            self.u = relaxed(self.u, u, relaxation)
            self.exact_v = self._exact(self._columns(self.u * self.a), self.fade_g, self.problem.rho[1])
            self.v = relaxed(self.v, self.exact_v, relaxation)
        self.next_u = self._exact_u()  # measures the error, and is the first half of the next iteration
        error: Tensor = (self.u / self.next_u).sub_(1).abs_().mul_(self.a).sum((1, 2)).double()
        if relaxation is not None:  # the last exact update will move no more than this between the rows
            error += (self.v / self.exact_v).sub_(1).abs_().mul_(self.b).sum((1, 2)).double()
        return error

    def _exact_u(self) -> Tensor:
        return self._exact(self._rows(self.v * self.b), self.fade_f, self.problem.rho[0])

    def _exact(self, sums: Tensor, fade: Tensor | None, rho: float) -> Tensor:
        if fade is None:
            return sums.reciprocal_()
        return sums.pow_(-1 / (1 + self.epsilon / rho)).mul_(fade)

    # for large problems numpy's BLAS: twice as fast as torch's on some processors, level on the others
    def _rows(self, vector: Tensor) -> Tensor:
        if self.transposed is not None:
            return torch.bmm(vector, self.transposed)
        return torch.from_numpy(self.matrix.numpy() @ vector.transpose(1, 2).numpy()).transpose(1, 2)

    def _columns(self, vector: Tensor) -> Tensor:
        if self.transposed is not None:
            return torch.bmm(vector, self.matrix)
        return torch.from_numpy(vector.numpy() @ self.matrix.numpy())

    def _absorb(self, f: Tensor, g: Tensor) -> None:
        cost, epsilon = self.problem.cost, self.epsilon
        # only pairs of two nearly weightless points reach the bound: it keeps zero times infinity away
        bound = math.log(torch.finfo(cost.dtype).max) / 2
        for problems, rows, exponent in exponents(cost, f, g, epsilon):
            power = self.matrix[problems, rows].copy_(exponent).clamp_(max=bound).exp_()
            if self.transposed is not None and not self.problem.symmetric:
                self.transposed[problems, :, rows] = power.transpose(1, 2)
        self.absorbed_f, self.absorbed_g = f, g
        self.u, self.v = torch.ones_like(self.a), torch.ones_like(self.b)
        self.next_u = None
        self.fade_f, self.fade_g = (
            None if math.isinf(rho) else torch.exp(-side / (rho + epsilon)).unsqueeze(1).to(cost.dtype)
            for rho, side in zip(self.problem.rho, (f, g), strict=True)
        )

    def shift(self, by: Tensor | None) -> None:
        """Move f up and g down."""
        if by is not None:
            self.f, self.g, self.next_u = self.f + by, self.g - by, None
            scale = torch.exp(by / self.epsilon).unsqueeze(1)
            self.u, self.v = (self.u * scale).to(self.u.dtype), (self.v / scale).to(self.v.dtype)

    def keep(self, index: Tensor) -> None:
        """Drop the other problems."""
        self.problem = self.problem.keep(index)
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name != "transposed":
                setattr(self, name, value[index])
        if self.transposed is not None:
            self.transposed = self.matrix if self.problem.symmetric else self.transposed[index]


def _log(scaling: Tensor) -> Tensor:
    """Float64 logarithm (B, n) of (B, 1, n), by numpy, which wakes no threads for a few thousand numbers."""
    return torch.from_numpy(np.log(scaling.squeeze(1).double().numpy()))


def _best_shift(problem: Problem, f: Tensor, g: Tensor) -> Tensor | None:
    """The t of the largest dual value at (f + t, g - t), which leaves the plan alone; for penalised marginals."""
    rho_f, rho_g = problem.rho
    if problem.symmetric or (math.isinf(rho_f) and math.isinf(rho_g)):
        return None
    mass_f = (problem.a.log() - f / rho_f).logsumexp(1, keepdim=True)
    mass_g = (problem.b.log() - g / rho_g).logsumexp(1, keepdim=True)
    return (mass_f - mass_g) / (1 / rho_f + 1 / rho_g)


def _start(problem: Problem, epsilon: float, iterations: int) -> tuple[Tensor, Tensor, int]:
    """Potentials to begin with and the iterations spent on them: stages of larger epsilon for a wide cost."""
    cost = problem.cost
    if not all(map(math.isinf, problem.rho)):  # a penalised potential may be far from any unpenalised one
        return *_half_steps(problem, epsilon), 1
    smallest, largest = map(float, torch.aminmax(cost))
    if math.isinf(largest):
        largest = float(torch.where(cost.isinf(), smallest, cost).amax())
    largest = max(abs(smallest), abs(largest))
    stages = math.floor(math.log(max(_FIRST_STAGE * largest / epsilon, 1)) / math.log(_STAGE_FACTOR))
    stages = min(stages, iterations // (4 * _STAGE_ITERATIONS))
    g: Tensor | None = None
    for stage in range(stages, 0, -1):
        engine = (_LogDomain if cost.is_cuda else _Scaling)(
            problem, epsilon * _STAGE_FACTOR**stage, *_tight(problem, g)
        )
        engine.run(_STAGE_ITERATIONS, None)
        g = engine.g.to(cost.dtype)
    return *_tight(problem, g), stages * _STAGE_ITERATIONS


def _tight(problem: Problem, g: Tensor | None) -> tuple[Tensor, Tensor]:
    """The c-transforms of g, or of zero: f + g <= C, with an equality in every row and column.

    So no row or column of K = exp((f + g - C) / epsilon) loses its largest entry, one, at any epsilon: the first
    update moves a potential by at most epsilon log(1 / smallest weight), and no later one moves it by more.
    """
    cost = problem.cost
    # points without weight are nobody's nearest
    off_a, off_b = (torch.where(w > 0, 0, math.inf).to(cost.dtype) for w in (problem.a, problem.b))
    f = _hard_minimum(cost, off_b if g is None else off_b - g, 2)
    g = _hard_minimum(cost, off_a - f, 1)
    if problem.symmetric:
        f = (f + g) / 2
    elif bool(off_a.any()):  # rows without weight had no say in g
        f = _hard_minimum(cost, off_b - g, 2)
    return f.double(), f.double() if problem.symmetric else g.double()


def _hard_minimum(cost: Tensor, by: Tensor, dim: int) -> Tensor:
    """min_j C_ij + by_j over axis ``dim``, a few problems at a time to stay in cache."""
    step, by = max(1, _BLOCK // (cost.shape[1] * cost.shape[2])), by.unsqueeze(3 - dim)
    starts = range(0, len(cost), step)
    return torch.cat([(cost[i : i + step] + by[i : i + step]).amin(dim) for i in starts])


def _half_steps(problem: Problem, epsilon: float) -> tuple[Tensor, Tensor]:
    """The first iteration of the textbook; any potentials may be absorbed, so the precision of the cost will do."""
    cost = problem.cost
    a, b = problem.a.to(cost.dtype), problem.b.to(cost.dtype)
    damping_f, damping_g = (1 / (1 + epsilon / rho) for rho in problem.rho)
    f = damping_f * soft_minimum(torch.zeros_like(b), cost, b, epsilon, 2)
    if problem.symmetric:
        f = f.div_(2).double()
        return f, f
    return f.double(), (damping_g * soft_minimum(f, cost, a, epsilon, 1)).double()
