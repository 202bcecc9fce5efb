"""A round of LoftQ on one layer beside the full SVD and a naive nearest level; times, errors, bytes on the disk.

python tests/benchmarks/quantisation.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from timing import interleaved, table
from torch import Tensor, nn

from porism_plugins.quant._alternation import decompose
from porism_plugins.quant._engine import quantise_linears, save
from porism_plugins.quant._low_rank import full_svd, randomised_svd
from porism_plugins.quant._quantisers import Quantiser

SIDE, RANK, BITS = 1024, 16, 4


def main() -> None:
    """Print every table."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(SIDE, SIDE, generator=generator)
    quantiser = Quantiser(bits=BITS)

    def randomised(residual: Tensor) -> tuple[Tensor, Tensor]:
        return randomised_svd(residual, RANK, generator)

    def full(residual: Tensor) -> tuple[Tensor, Tensor]:
        return full_svd(residual, RANK)

    rounds = {
        "porism": lambda: decompose(weight, quantiser, randomised, rounds=1),
        "full SVD and distances to all levels, as the reference": lambda: reference_round(weight, quantiser),
    }
    print(table(f"one round, {SIDE} x {SIDE}, rank {RANK}, NF{BITS}", interleaved(rounds)))
    quantised = quantiser.quantise(weight)
    parts = {
        "porism": lambda: quantiser.quantise(weight),
        "distances to all levels": lambda: naive_codes(weight, quantiser),
        "dequantise": quantised.dequantise,
        "randomised SVD": lambda: randomised(weight),
        "full SVD": lambda: full(weight),
    }
    print(table("its parts", interleaved(parts)))
    print("| bits | rounds | error, full SVD | error, randomised | ratio |\n|--:|--:|--:|--:|--:|")
    for bits in (2, 4):
        for number in (1, 5):
            exact, ours = (
                decompose(weight, Quantiser(bits=bits), fit, rounds=number).errors[-1] for fit in (full, randomised)
            )
            print(f"| {bits} | {number} | {exact:.5f} | {ours:.5f} | {ours / exact:.4f} |")
    print("\n| bits | bytes on the disk | theory | ratio |\n|--:|--:|--:|--:|")
    for bits in range(2, 9):
        size, theory = bytes_on_disk(bits), int(SIDE * SIDE * (bits + 32 / 64) / 8)
        print(f"| {bits} | {size:,} | {theory:,} | {size / theory:.4f} |")


def reference_round(weight: Tensor, quantiser: Quantiser) -> tuple[Tensor, Tensor]:
    """As in the authors' code: a distance to every level, and the SVD of the whole residual."""
    codes, scales = naive_codes(weight, quantiser)
    levels = torch.tensor(quantiser.table)
    residual = weight - (levels[codes] * scales).view_as(weight)
    return full_svd(residual, RANK)


def naive_codes(weight: Tensor, quantiser: Quantiser) -> tuple[Tensor, Tensor]:
    """Codes, (blocks, size), and scales, (blocks, 1)."""
    blocks = weight.view(-1, quantiser.block_size)
    scales = blocks.abs().amax(1, keepdim=True)
    return ((blocks / scales)[..., None] - torch.tensor(quantiser.table)).abs().argmin(-1), scales


def bytes_on_disk(bits: int) -> int:
    """Of a saved layer without bias or factors."""
    model = quantise_linears(nn.Sequential(nn.Linear(SIDE, SIDE, bias=False)), Quantiser(bits=bits))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(model, path)
        return path.stat().st_size


if __name__ == "__main__":
    main()
