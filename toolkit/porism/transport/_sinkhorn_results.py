"""What the functions of entropic transport return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from porism.arrays import Array


@dataclass(frozen=True)
class SinkhornResult:
    """A solution of entropic transport, or of a batch.

    Attributes
    ----------
    value
        The dual value, a lower bound of OT_eps; shape of the batch.
    gap
        The optimum lies in [value, value + gap]. It is infinite if the plan cannot avoid a forbidden pair.
    f, g
        Potentials (..., n) and (..., m), with <a, f> = <b, g> where both marginals are hard.
    marginal_error
        |P1 - a|_1 + |P'1 - b|_1; for a penalised marginal the distance to a exp(-f / rho).
    iterations, converged
        What each problem took, and whether it reached the tolerance.
    """

    value: Array
    gap: Array
    f: Array
    g: Array
    marginal_error: Array
    iterations: Array
    converged: Array
    _problem: tuple[Any, ...] = field(repr=False)

    def plan(self) -> Array:
        """The plan a_i b_j exp((f_i + g_j - C_ij) / eps), (..., n, m), computed anew on every call."""
        cost, a, b, epsilon, f, g, finish = self._problem
        # two points without weight may be as near as they like
        power = ((f.unsqueeze(2) + g.unsqueeze(1) - cost) / epsilon).clamp(max=650).exp()
        return finish(a.unsqueeze(2) * power * b.unsqueeze(1), cost.dtype)


@dataclass(frozen=True)
class SinkhornDivergence:
    """A debiased divergence S_eps = OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2, or a batch.

    Attributes
    ----------
    value
        From the three dual values; shape of the batch.
    lower, upper
        The exact S_eps of the costs as they were computed lies between these, by the gaps of the parts. (Costs of
        float32 points are rounded to float32 before that.)
    cross, self_x, self_y
        The three parts, each a :class:`SinkhornResult`.
    """

    value: Array
    lower: Array
    upper: Array
    cross: SinkhornResult
    self_x: SinkhornResult
    self_y: SinkhornResult

    @property
    def gap(self) -> Array:
        """Length of the interval that holds the exact value."""
        return self.upper - self.lower


def round_towards(value: Tensor, dtype: torch.dtype, towards: float) -> Tensor:
    """Float64 values in ``dtype``, rounded towards an infinity, so that bounds stay bounds."""
    if dtype == torch.float64:
        return value
    near = value.to(dtype)
    beyond = torch.nextafter(near, torch.full_like(near, towards))
    wrong = near > value if towards < 0 else near < value
    return torch.where(wrong, beyond, near)
