"""The CUDA half-step against float64, in triton's interpreter, which needs a process of its own.

Whether triton interprets is decided when it is first imported, so that this file runs itself as a script.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def half_steps() -> None:
    """Sizes around the blocks', both axes, both dtypes, weights with zeros, strided costs."""
    import torch

    from porism.kernels import triton_sinkhorn
    from porism.kernels.sinkhorn import soft_minimum

    torch.manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        for batch, n, m in ((2, 17, 130), (1, 16, 128), (1, 1, 1)):
            full = 10 * torch.rand(batch, m, n, dtype=dtype).transpose(1, 2)
            for cost in (full, full.contiguous()):
                for dim in (1, 2):
                    size = cost.shape[3 - dim], cost.shape[dim]
                    potential = torch.randn(batch, size[1], dtype=torch.float64)
                    weights = torch.rand_like(potential)
                    weights[0, : size[1] // 2] = 0
                    for epsilon in (2.0, 1e-3):
                        ours = triton_sinkhorn.soft_minimum(potential, cost, weights, epsilon, dim)
                        exact = soft_minimum(potential, cost.double(), weights, epsilon, dim)
                        assert ours.shape == (batch, size[0]) and ours.dtype == torch.float64
                        assert float((ours - exact).abs().max()) <= tolerance * epsilon * 10 + 1e-14


def extremes() -> None:
    """Forbidden pairs, a far point without weight, costs beyond the range of exp."""
    import torch

    from porism.kernels import triton_sinkhorn

    cost = torch.tensor([[[0.0, math.inf, 3e4], [1e5, 2e5, math.inf]]])
    ours = triton_sinkhorn.soft_minimum(torch.zeros(1, 3), cost, torch.tensor([[0.5, 0.5, 0.0]]), 0.1, 2)
    assert torch.allclose(ours, torch.tensor([[0.1 * math.log(2), 1e5 + 0.1 * math.log(2)]]))
    ours = triton_sinkhorn.soft_minimum(torch.tensor([[1e4, 0.0]]), cost, torch.tensor([[0.0, 1.0]]), 0.1, 1)
    assert torch.allclose(ours[:, :2], torch.tensor([[1e5, 2e5]])) and ours[0, 2] == math.inf


def solves() -> None:
    """The whole solver with this half-step, as it runs on CUDA, against the matrix products of the CPU."""
    import torch

    from porism.kernels import sinkhorn, triton_sinkhorn

    torch.manual_seed(0)
    cost = torch.cdist(torch.randn(2, 9, 2), torch.randn(2, 7, 2)).square()
    a, b = torch.rand(2, 9, dtype=torch.float64), torch.rand(2, 7, dtype=torch.float64)
    problem = sinkhorn.Problem(cost, a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True))
    options = {"iterations": 60, "tolerance": 1e-5}
    want = sinkhorn.solve(problem, 0.5, **options)
    sinkhorn.soft_minimum = triton_sinkhorn.soft_minimum
    ours = sinkhorn.solve(problem, 0.5, log_domain=True, **options)
    assert bool(ours.converged.all())
    shift = (want.f - ours.f).mean(1, keepdim=True)
    assert torch.allclose(ours.f + shift, want.f, atol=3e-5) and torch.allclose(ours.g - shift, want.g, atol=3e-5)


if __name__ == "__main__":
    half_steps()
    extremes()
    solves()
