"""f-divergences on logits and from hidden states beside naive torch, torch.distributions and Liger."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from timing import Workload

from porism.divergences import fused_linear_divergence, generator

TOKENS, VOCABULARY, WIDTH = 1024, 32000, 512
KINDS: dict[str, dict[str, float]] = {"kl": {}, "reverse_kl": {}, "js": {}, "tv": {}, "alpha": {"alpha": 0.3}}
Loss = Callable[..., torch.Tensor]


def naive(kind: str, p_logits: torch.Tensor, q_logits: torch.Tensor, alpha: float = 0.3) -> torch.Tensor:
    """What people write: log_softmax (of half precision in float32) and autograd."""
    a, b = (torch.log_softmax(x, -1, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (p_logits, q_logits))
    if kind == "kl":
        return (a.exp() * (a - b)).sum(-1)
    if kind == "reverse_kl":
        return (b.exp() * (b - a)).sum(-1)
    if kind == "tv":
        return 0.5 * (a.exp() - b.exp()).abs().sum(-1)
    if kind == "js":
        m = torch.logaddexp(a, b) - math.log(2)
        return 0.5 * (a.exp() * (a - m)).sum(-1) + 0.5 * (b.exp() * (b - m)).sum(-1)
    return ((alpha * a + (1 - alpha) * b).exp().sum(-1) - 1) / (alpha * (alpha - 1))


def categorical(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """torch.distributions."""
    of = torch.distributions.Categorical
    return torch.distributions.kl_divergence(of(logits=p_logits), of(logits=q_logits))


def from_logits(kind: str) -> dict[str, Loss]:
    """Losses of (teacher logits, student logits) by name."""
    f = generator(kind, **KINDS[kind])
    losses: dict[str, Loss] = {"porism": f.divergence_logits, "naive torch": functools.partial(naive, kind)}
    return losses | ({"torch.distributions": categorical} if kind == "kl" else {})


def from_hidden(kind: str) -> dict[str, Loss]:
    """Losses of (teacher hidden, teacher head, student hidden, student head) by name."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    # its beta = 0 is KL(teacher || student); uncompiled, as everything here
    beta = {"kl": 0.0, "js": 0.5}[kind]
    liger = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, compiled=False, chunk_size=128
    )
    return {
        "porism": lambda ht, wt, hs, ws: fused_linear_divergence(hs, ws, ht, wt, kind=kind),
        "naive torch": lambda ht, wt, hs, ws: naive(kind, ht @ wt.T, hs @ ws.T).mean(),
        "liger, uncompiled": lambda ht, wt, hs, ws: liger(
            hs, ws, ht, wt, torch.zeros(len(hs), dtype=torch.long, device=hs.device)
        ),
    }


def workloads() -> Iterator[Workload]:
    """What is measured: forward and backward, gradients to the student."""
    tensors = logits()
    for kind in KINDS:
        title = f"{kind} on logits, {TOKENS:,} x {VOCABULARY:,}, float32, forward and backward"
        yield title, {name: functools.partial(step, loss, tensors) for name, loss in from_logits(kind).items()}
    tensors = heads()
    for kind in ("kl", "js"):
        title = f"{kind} from hidden states, {TOKENS:,} x {WIDTH}, head {VOCABULARY:,} x {WIDTH}, float32"
        yield title, {name: functools.partial(step, loss, tensors) for name, loss in from_hidden(kind).items()}


def logits() -> list[torch.Tensor]:
    """Of the teacher, and of the student."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(TOKENS, VOCABULARY, generator=draw) for _ in range(2)]


def heads() -> list[torch.Tensor]:
    """Hidden states and weights, of the teacher and of the student, whose logits have a standard deviation near 1."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(TOKENS, 1.0), (VOCABULARY, WIDTH**-0.5)] * 2
    return [scale * torch.randn(rows, WIDTH, generator=draw) for rows, scale in shapes]


def step(loss: Loss, tensors: list[torch.Tensor]) -> None:
    """One forward and backward, with gradients to the second half of the tensors."""
    half = len(tensors) // 2
    leaves = [tensor.detach().requires_grad_() for tensor in tensors[half:]]
    loss(*tensors[:half], *leaves).sum().backward()


def memory() -> str:
    """Peak megabytes beyond the inputs, gradients included, each in a process of its own; a table."""
    rows = ["| extra peak memory, MB (the gradients are 131 and 68) | porism | naive torch |", "|---|--:|--:|"]
    for where, kind in (("logits", "kl"), ("logits", "js"), ("hidden", "kl"), ("hidden", "js")):
        rows.append(f"| {kind} from {where} | {peak(where, kind, 'porism')} | {peak(where, kind, 'naive torch')} |")
    return "\n".join(rows)


def peak(where: str, kind: str, name: str) -> str:
    """Megabytes, from a fresh process."""
    code = f"import logits; logits.print_peak({where!r}, {kind!r}, {name!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return done.stdout.split()[-1]


def print_peak(where: str, kind: str, name: str) -> None:
    """What :func:`peak` runs."""
    tensors, loss = (logits(), from_logits(kind)[name]) if where == "logits" else (heads(), from_hidden(kind)[name])
    small = [tensor[:8] if len(tensor) == TOKENS else tensor for tensor in tensors]
    loss(*small)  # a small run first: libraries' own buffers are not the loss's
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    before = highest()
    step(loss, tensors)
    print(f"{highest() - before:.0f}")


def highest() -> float:
    """The largest resident set so far, in MB. (getrusage would count the parent's, inherited through fork.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
