"""f-divergences on logits and from hidden states, ours against naive torch, interleaved in one process.

Prints milliseconds (median and least of the repeats) for forward and backward, the ratio of medians, and the
extra peak memory in MB, each measured as the growth of the resident set in a process of its own. Run by
``make benchmark``; ``python tests/benchmarks/logits.py --repeats 3`` for a quick look.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from porism.divergences.generator import generator
from porism.kernels.fused_linear import fused_linear_divergence
from porism.kernels.logits import divergence_logits

TOKENS, VOCABULARY, WIDTH = 1024, 32000, 512
KINDS: dict[str, dict[str, float]] = {"kl": {}, "reverse_kl": {}, "js": {}, "tv": {}, "alpha": {"alpha": 0.3}}
Loss = Callable[..., torch.Tensor]


def naive(kind: str, p_logits: torch.Tensor, q_logits: torch.Tensor, alpha: float = 0.3) -> torch.Tensor:
    """What people write: log_softmax and autograd."""
    a, b = torch.log_softmax(p_logits, -1), torch.log_softmax(q_logits, -1)
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


def logits_rows() -> dict[str, tuple[Loss, Loss]]:
    """Name: (naive, ours), both of (p_logits, q_logits)."""
    rows: dict[str, tuple[Loss, Loss]] = {}
    for kind, parameters in KINDS.items():
        f = generator(kind, **parameters)
        rows[kind] = (
            lambda p, q, kind=kind: naive(kind, p, q).sum(),
            lambda p, q, f=f: divergence_logits(f, p, q).sum(),
        )
    rows["kl, torch.distributions"] = (lambda p, q: categorical(p, q).sum(), rows["kl"][1])
    return rows


def hidden_rows() -> dict[str, tuple[Loss, Loss]]:
    """Name: (peer, ours), both of (hidden_t, W_t, hidden_s, W_s)."""
    rows: dict[str, tuple[Loss, Loss]] = {}
    for kind, parameters in {"kl": {}, "js": {}}.items():
        rows[f"from hidden, {kind}"] = (
            lambda ht, wt, hs, ws, kind=kind: naive(kind, ht @ wt.T, hs @ ws.T).mean(),
            lambda ht, wt, hs, ws, kind=kind, more=parameters: fused_linear_divergence(
                hs, ws, ht, wt, kind=kind, **more
            ),
        )
    if importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        # its beta = 0 is KL(teacher || student); uncompiled, as everything here
        liger = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=128
        )

        def peer(ht: torch.Tensor, wt: torch.Tensor, hs: torch.Tensor, ws: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = liger(hs, ws, ht, wt, torch.zeros(len(hs), dtype=torch.long))
            return loss

        rows["from hidden, kl, liger"] = (peer, rows["from hidden, kl"][1])
    return rows


def inputs(hidden: bool) -> list[torch.Tensor]:
    """Logits, or hidden states and heads whose logits have a standard deviation of about 1; the student's last."""
    torch.manual_seed(0)
    if not hidden:
        return [torch.randn(TOKENS, VOCABULARY) for _ in range(2)]
    teacher = [torch.randn(TOKENS, WIDTH), torch.randn(VOCABULARY, WIDTH) / WIDTH**0.5]
    return [*teacher, torch.randn(TOKENS, WIDTH), torch.randn(VOCABULARY, WIDTH) / WIDTH**0.5]


def seconds(loss: Loss, tensors: list[torch.Tensor]) -> float:
    """One forward and backward, with gradients to the second half of the tensors."""
    half = len(tensors) // 2
    leaves = [tensor.requires_grad_() for tensor in tensors[half:]]
    start = time.perf_counter()
    loss(*tensors[:half], *leaves).backward()
    elapsed = time.perf_counter() - start
    for leaf in leaves:
        leaf.grad = None
    return elapsed


def peak(name: str, which: int) -> float:
    """Growth of the resident set by one forward and backward, in MB, in a fresh process."""
    code = f"import sys; sys.path.insert(0, {__file__.rpartition('/')[0]!r}); import logits; logits.print_peak({name!r}, {which})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def print_peak(name: str, which: int) -> None:
    """What :func:`peak` runs."""
    hidden = name.startswith("from hidden")
    tensors = inputs(hidden)
    loss = {**logits_rows(), **hidden_rows()}[name][which]
    half = len(tensors) // 2
    # A small run first: libraries' own buffers are not the loss's.
    small = [tensor[:8] if i % 2 == 0 or not hidden else tensor for i, tensor in enumerate(tensors)]
    loss(*(x.clone().requires_grad_(i >= half) for i, x in enumerate(small)))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    before = highest()
    seconds(loss, tensors)
    print(highest() - before)


def highest() -> float:
    """The largest resident set so far, in MB. (getrusage would count the parent's, inherited through fork.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    print(f"{TOKENS} tokens, {VOCABULARY} entries, hidden {WIDTH}, float32, {torch.get_num_threads()} threads, ms")
    print(f"{'':26}{'peer':>14}{'ours':>14}{'ratio':>8}{'peer MB':>9}{'ours MB':>9}")
    for rows, hidden in ((logits_rows(), False), (hidden_rows(), True)):
        tensors = inputs(hidden)
        for name, losses in rows.items():
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(repeats + 1):  # the first is a warm-up
                for loss, list_ in zip(losses, times, strict=True):
                    list_.append(1e3 * seconds(loss, tensors))
            medians = [statistics.median(list_[1:]) for list_ in times]
            shown = "".join(f"{f'{m:.0f} ({min(list_[1:]):.0f})':>14}" for m, list_ in zip(medians, times, strict=True))
            memory = "".join(f"{peak(name, which):9.0f}" for which in (0, 1))
            print(f"{name:26}{shown}{medians[1] / medians[0]:8.2f}{memory}", flush=True)


if __name__ == "__main__":
    main()
