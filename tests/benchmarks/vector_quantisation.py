"""A round of weighted k-means beside scikit-learn's, decoding beside a dense layer, the peak of memory, bytes on disk.

python tests/benchmarks/vector_quantisation.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from timing import interleaved, table
from torch import Tensor, nn

from porism_plugins.quant import _codebooks as books
from porism_plugins.quant._engine import save
from porism_plugins.quant._nowag_normalise import mask, scores
from porism_plugins.quant.nowag import compress_layer, nowag

SIDE, SUBVECTOR, CODES = 1024, 4, 256
LARGE = 4096


def main() -> None:
    """Print every table."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="sklearn")
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(SIDE * SIDE // SUBVECTOR, SUBVECTOR, generator=generator)
    start = vectors[:CODES].clone()
    print(table(f"5 rounds, {len(vectors):,} vectors of {SUBVECTOR}, {CODES} centres", rounds(vectors, start, 5)))
    print(paper_round(generator))
    print(quality(vectors[:20_000], start))
    weight = torch.randn(SIDE, SIDE, generator=generator)
    layer = compress_layer("0", weight, torch.ones(SIDE), subvector=SUBVECTOR, iterations=1, init="random")
    dense, x = nn.Linear(SIDE, SIDE, bias=False), torch.randn(128, SIDE, generator=generator)
    with torch.no_grad():
        calls = {"porism": lambda: layer(x), "dense": lambda: dense(x), "decode alone": layer.backbone}
        print(table(f"128 tokens through {SIDE} x {SIDE}, {SUBVECTOR} inputs a code", interleaved(calls)))
        masks = {
            "porism": lambda: mask(scores(weight, torch.ones(SIDE), "normalised"), 0.5, "unstructured"),
            "2:4": lambda: mask(scores(weight, torch.ones(SIDE), "normalised"), 0.5, "2:4"),
        }
        print(table(f"NoWag-P, {SIDE} x {SIDE}", interleaved(masks)))
    print("| bits, subvector | bytes on the disk | theory | ratio |\n|---|--:|--:|--:|")
    for bits, subvector in ((1, 8), (2, 4), (2, 6), (4, 2)):
        size, theory = bytes_on_disk(bits, subvector), bytes_in_theory(bits, subvector)
        print(f"| {bits}, {subvector} | {size:,} | {theory:,} | {size / theory:.4f} |")
    print(f"\n{peak(LARGE)}")


def rounds(vectors: Tensor, start: Tensor, count: int) -> dict[str, list[float]]:
    """Seconds of ours with and without weights, and of scikit-learn's two, which know no weight a coordinate."""
    ones, inputs = torch.ones(1, SUBVECTOR), torch.rand(SIDE // SUBVECTOR, SUBVECTOR) + 0.1
    options = {"init": start.numpy(), "n_init": 1, "max_iter": count}
    return interleaved(
        {
            "porism": lambda: books._lloyd(books.Points(vectors, inputs), start.clone(), count, True),
            "porism, equal weights": lambda: books._lloyd(books.Points(vectors, ones), start.clone(), count, True),
            "sklearn KMeans": lambda: KMeans(CODES, tol=0, algorithm="lloyd", **options).fit(vectors.numpy()),
            "sklearn MiniBatchKMeans": lambda: MiniBatchKMeans(CODES, random_state=0, **options).fit(vectors.numpy()),
        },
        repeats=5,
    )


def paper_round(generator: torch.Generator) -> str:
    """One round at the paper's setting, 4,096 centres of 6."""
    vectors, weights = torch.randn(SIDE * 170, 6, generator=generator), torch.rand(170, 6, generator=generator)
    points, codes = books.Points(vectors, weights), torch.full((SIDE * 170,), -1, dtype=torch.int32)
    codebook = vectors[:LARGE].clone()
    calls = {
        "porism": lambda: books._assign(points, codebook, codes),
        "means": lambda: books._means(points, codes, codebook),
        "k-means++": lambda: books._start(points, LARGE, torch.Generator().manual_seed(0), "k-means++"),
    }
    return table("assignment of a round at 4,096 centres of 6, 1,020 x 1,024 weights", interleaved(calls, repeats=3))


def quality(vectors: Tensor, start: Tensor) -> str:
    """Loss after at most 100 rounds over scikit-learn's from the same centres."""
    ours = books._lloyd(books.Points(vectors, torch.ones(1, SUBVECTOR)), start.clone(), 100, True).losses[-1]
    full = KMeans(CODES, init=start.numpy(), n_init=1, max_iter=100, tol=0).fit(vectors.numpy()).inertia_
    small = MiniBatchKMeans(CODES, init=start.numpy(), n_init=1, random_state=0).fit(vectors.numpy()).inertia_
    return f"loss over sklearn's from the same centres: KMeans {ours / full:.4f}, MiniBatchKMeans {ours / small:.4f}\n"


def bytes_in_theory(bits: int, subvector: int) -> int:
    """Codes, a codebook and scales of 16 bits."""
    return (SIDE * SIDE * bits + 16 * 2 ** (bits * subvector) * subvector + 16 * 2 * SIDE) // 8


def bytes_on_disk(bits: int, subvector: int) -> int:
    """Of a saved layer without bias."""
    model = nn.Sequential(nn.Linear(SIDE, SIDE, bias=False))
    options = {"bits": bits, "subvector": subvector, "iterations": 0, "init": "random"}
    small = nowag(model, calibration=[torch.ones(1, SIDE)], **options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(small, path)
        return path.stat().st_size


def peak(side: int) -> str:
    """Memory beyond the layer itself, in a process of its own: a round with 4,096 centres of 6, and a forward pass."""
    command = [sys.executable, __file__, "--peak", str(side)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure_peak(side: int) -> None:
    """Print by how much the process grew, over the bytes of the layer."""
    torch.set_num_threads(1)
    small = torch.randn(256, 240)
    warm = compress_layer("0", small, torch.ones(240), subvector=4, iterations=1)
    warm(torch.ones(1, 240))
    weight = torch.randn(side, side)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    layer = compress_layer("0", weight, torch.ones(side), iterations=1)
    after, ended = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with torch.no_grad():
        layer(torch.ones(1, side))
    forward = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{side} x {side}, 4,096 centres of 6, one round in {ended - begun:.0f} s: "
        f"{(after - before) * 1024 / weight.nbytes:.2f} times the layer beside it; "
        f"{(forward - before) * 1024 / weight.nbytes:.2f} with a forward pass"
    )


if __name__ == "__main__":
    measure_peak(int(sys.argv[2])) if sys.argv[1:2] == ["--peak"] else main()
