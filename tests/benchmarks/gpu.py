"""The CUDA cores, ours against naive torch and (where installed) Liger: prints a table and writes it to a file.

    python tests/benchmarks/gpu.py --out benchmarks-gpu.json

Needs a CUDA device; without one it says so and leaves with status 0. Times are medians in ms between CUDA events,
forward and backward, peers interleaved; memory is the allocator's peak beyond the inputs. Gradients are checked
against float64 on a few rows before anything is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from logits import KINDS, naive
from sinkhorn import competitors, samples

Row = dict[str, Any]
Loss = Callable[..., torch.Tensor]


def measure(losses: dict[str, Loss], tensors: list[torch.Tensor], repeats: int) -> dict[str, tuple[float, float]]:
    """Median ms and peak MB of each loss; gradients go to the second half of the tensors."""
    half = len(tensors) // 2
    times: dict[str, list[float]] = {name: [] for name in losses}
    memory: dict[str, float] = {}
    for repeat in range(repeats + 3):  # three to compile and warm up
        for name, loss in losses.items():
            leaves = [tensor.detach().requires_grad_() for tensor in tensors[half:]]
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            try:
                start.record()
                loss(*tensors[:half], *leaves).backward()
                end.record()
                torch.cuda.synchronize()
            except torch.cuda.OutOfMemoryError:
                times[name], memory[name] = [math.nan], math.nan
                continue
            memory[name] = (torch.cuda.max_memory_allocated() - before) / 1e6
            if repeat >= 3:
                times[name].append(start.elapsed_time(end))
    return {name: (statistics.median(times[name]), memory[name]) for name in losses}


def check() -> None:
    """Triton's values and gradients on the device, against float64 autograd."""
    from porism.divergences.generators import generator
    from porism.kernels.logits import divergence_logits

    for kind, parameters in KINDS.items():
        inputs = [torch.randn(4, 32000, device="cuda").requires_grad_() for _ in range(2)]
        exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
        divergence_logits(generator(kind, **parameters), *inputs).sum().backward()
        naive64(kind, *exact).sum().backward()
        for got, wanted in zip(inputs, exact, strict=True):
            assert got.grad is not None and wanted.grad is not None
            error = float((got.grad.double() - wanted.grad).norm() / wanted.grad.norm())
            print(f"gradient of {kind}: relative error {error:.1e}")
            if error > 1e-5:
                raise SystemExit(f"the gradient of {kind} is wrong")


def naive64(kind: str, p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """The generator's own terms in float64."""
    from porism.divergences.evaluate import divergence_log_space
    from porism.divergences.generators import generator

    values: torch.Tensor = divergence_log_space(generator(kind, **KINDS[kind]), p_logits, q_logits)
    return values


def logits_rows(tokens: int, vocabulary: int, repeats: int) -> list[Row]:
    """From logits, gradient to the student's."""
    from porism.divergences.generators import generator
    from porism.kernels.logits import divergence_logits

    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        tensors = [torch.randn(tokens, vocabulary, device="cuda", dtype=dtype) for _ in range(2)]
        for kind, parameters in KINDS.items():
            f = generator(kind, **parameters)
            losses: dict[str, Loss] = {
                "naive": lambda p, q, kind=kind: naive(kind, p, q).sum(),
                "ours": lambda p, q, f=f: divergence_logits(f, p, q).sum(),
            }
            if kind in ("kl", "js") and importlib.util.find_spec("liger_kernel") is not None:
                losses["liger"] = liger_logits(kind)
            what = f"logits {tokens} x {vocabulary} {str(dtype).removeprefix('torch.')} {kind}"
            rows += [
                {"what": what, "by": by, "ms": ms, "MB": mb}
                for by, (ms, mb) in measure(losses, tensors, repeats).items()
            ]
    return rows


def liger_logits(kind: str) -> Loss:
    """Liger's kernels take log-probabilities of the student."""
    from liger_kernel.transformers import LigerJSD, LigerKLDIVLoss

    if kind == "kl":
        kl = LigerKLDIVLoss(reduction="sum", log_target=True)
        return lambda p, q: kl(torch.log_softmax(q, -1), torch.log_softmax(p, -1))  # type: ignore[no-any-return]
    js = LigerJSD(beta=0.5)
    return lambda p, q: js(torch.log_softmax(q, -1), torch.log_softmax(p, -1))  # type: ignore[no-any-return]


def hidden_rows(tokens: int, vocabulary: int, width: int, repeats: int) -> list[Row]:
    """From hidden states, gradients to the student's hidden states and head."""
    from porism.kernels.fused_linear import fused_linear_divergence

    shapes = [(tokens, width), (vocabulary, width)] * 2
    tensors = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) / width**0.25 for shape in shapes]
    rows = []
    for kind in ("kl", "js"):
        losses: dict[str, Loss] = {
            "naive": lambda ht, wt, hs, ws, kind=kind: naive(kind, ht @ wt.T, hs @ ws.T).mean(),
            "ours": lambda ht, wt, hs, ws, kind=kind: fused_linear_divergence(hs, ws, ht, wt, kind=kind),
        }
        if importlib.util.find_spec("liger_kernel") is not None:
            from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

            peer = LigerFusedLinearJSDLoss(
                weight_hard_loss=0.0, weight_soft_loss=1.0, beta={"kl": 0.0, "js": 0.5}[kind]
            )
            labels = torch.zeros(tokens, dtype=torch.long, device="cuda")
            losses["liger"] = lambda ht, wt, hs, ws, peer=peer, labels=labels: peer(hs, ws, ht, wt, labels)
        what = f"hidden {tokens} x {width}, vocabulary {vocabulary}, bfloat16 {kind}"
        rows += [
            {"what": what, "by": by, "ms": ms, "MB": mb} for by, (ms, mb) in measure(losses, tensors, repeats).items()
        ]
    return rows


def sinkhorn_rows(repeats: int) -> list[Row]:
    """Batched debiased divergences, gradient in one sample."""
    losses: dict[str, Loss] = {
        name: lambda x, y, value=value: value(x, y).sum()  # type: ignore[misc]
        for name, value in competitors().items()
    }
    seen = measure(losses, list(samples("cuda")), repeats)
    return [{"what": "64 Sinkhorn divergences", "by": by, "ms": ms, "MB": mb} for by, (ms, mb) in seen.items()]


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "sinkhorn": sinkhorn_rows,
    "logits": lambda repeats: logits_rows(4096, 128 * 1024, repeats),
    "hidden": lambda repeats: hidden_rows(4096, 128 * 1024, 4096, repeats),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=None, help="also write the table, as JSON with the hardware named")
    parser.add_argument("--only", choices=sorted(PARTS), action="append", help="parts to run; all by default")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device is at hand: nothing was measured")
        return
    torch.manual_seed(0)
    check()
    hardware = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "triton": getattr(__import__("triton"), "__version__", None) if importlib.util.find_spec("triton") else None,
    }  # fmt: skip
    print(hardware)
    rows: list[Row] = []
    for part in arguments.only or PARTS:
        for row in PARTS[part](arguments.repeats):
            print(f"{row['what']:60}{row['by']:>44}{row['ms']:10.2f} ms{row['MB']:10.0f} MB", flush=True)
            rows.append(row)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"hardware": hardware, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
