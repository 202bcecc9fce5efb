"""Vector quantisation: weighted k-means over subvectors, and linear layers that keep packed codes and a codebook.

The next paper feeds :func:`weighted_kmeans` with its own vectors and weights, and :meth:`CodebookLinear.of` with what
comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from porism.errors import ParameterError
from porism.packing import pack, packed_bytes, unpack
from porism_plugins.quant._frozen import FrozenLinear

Init = Literal["k-means++", "random"]

# Distances held at a time: 2 MB stay in a processor's cache; a GPU wants more at once.
_DISTANCES = {"cpu": 1 << 19}
_ELSEWHERE = 1 << 26
# Vectors whose coordinates are added up at a time.
_ADDED = 1 << 18
# Codes packed and unpacked at a time; a multiple of 8, so that each chunk ends with a whole byte.
_UNPACKED = 1 << 16
# k-means++ draws its k centres from a random subset of so many times k vectors.
_CANDIDATES = 4


class Clusters(NamedTuple):
    """Centres, (k, d); the code of each vector, (n,) int32; and the loss of each round's assignment."""

    codebook: Tensor
    codes: Tensor
    losses: tuple[float, ...]


class Points(NamedTuple):
    """Vectors, (n, d) float32, and what their coordinates weigh.

    Vector i weighs ``weights[i % len(weights)]``, of shape (m, d), times ``masses[i]``, of shape (n,) or None: a matrix
    cut into subvectors has as many rows of weights as a row of it has subvectors.
    """

    vectors: Tensor
    weights: Tensor
    masses: Tensor | None = None

    def of(self, part: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Vectors, their weights and their masses, shape (part, 1), at some places."""
        masses = 1.0 if self.masses is None else self.masses[part, None]
        return self.vectors[part], self.weights[part % len(self.weights)], masses

    def parts(self, size: int) -> Iterator[Tensor]:
        """All places, ``size`` at a time."""
        count, size = len(self.vectors), max(1, size)
        for start in range(0, count, size):
            yield torch.arange(start, min(start + size, count), device=self.vectors.device)


@torch.no_grad()
def weighted_kmeans(
    points: Points,
    k: int,
    generator: torch.Generator,
    *,
    iterations: int = 100,
    restarts: int = 1,
    init: Init = "k-means++",
    reseed: bool = True,
) -> Clusters:
    """Codes and centres that lower the sum over vectors and coordinates of weight times squared distance.

    Distances come from one matrix product for each chunk of vectors. A centre that nobody is assigned to moves to the
    vector that is worst off, which cannot raise the loss.

    Parameters
    ----------
    points
        Vectors and weights, at least 0.
    k
        Centres, at most as many as vectors.
    generator
        On the CPU; the points may be anywhere. On a GPU sums are added in any order, so that bits may differ.
    iterations
        At most so many rounds; it ends before if assignments repeat.
    restarts
        Runs from other centres; the one of lowest loss is returned.
    init
        ``"k-means++"`` on a random subset of 4 k vectors, or ``"random"`` vectors.
    reseed
        Whether centres without a vector move.

    Raises
    ------
    ParameterError
        If there are fewer vectors than centres.

    Examples
    --------
    >>> points = Points(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[1.0], [3.0], [1.0]]))
    >>> weighted_kmeans(points, 2, torch.Generator().manual_seed(0)).codebook.sort(0).values
    tensor([[0.7500],
            [9.0000]])
    """
    if not 1 <= k <= len(points.vectors):
        raise ParameterError(f"k must be from 1 to {len(points.vectors)}, the number of vectors, got {k}")
    found = [_lloyd(points, _start(points, k, generator, init), iterations, reseed) for _ in range(restarts)]
    return min(found, key=lambda clusters: clusters.losses[-1])


def _start(points: Points, k: int, generator: torch.Generator, init: Init) -> Tensor:
    """Initial centres."""
    vectors = points.vectors
    order = torch.randperm(len(vectors), generator=generator)
    if init == "random":
        return vectors[order[:k].to(vectors.device)].clone()
    some, weights, masses = points.of(order[: _CANDIDATES * k].to(vectors.device))
    weights = weights * masses
    draws = torch.rand(k, generator=generator, dtype=torch.float64).to(vectors.device)
    centres = torch.empty_like(some[:k])
    nearest = some.new_full((len(some),), torch.inf)
    chosen = torch.zeros((), dtype=torch.int64, device=vectors.device)
    for number in range(k):
        if number:
            reach = nearest.cumsum(0, dtype=torch.float64)
            chosen = torch.searchsorted(reach, draws[number] * reach[-1], right=True).clamp_(max=len(some) - 1)
        centres[number] = some[chosen]
        nearest = torch.minimum(nearest, (weights * (some - some[chosen]).square()).sum(1))
    return centres


def _lloyd(points: Points, codebook: Tensor, iterations: int, reseed: bool) -> Clusters:
    codes = torch.full((len(points.vectors),), -1, dtype=torch.int32, device=codebook.device)
    losses = []
    for number in range(iterations + 1):
        changed, costs = _assign(points, codebook, codes)
        losses.append(float(costs.sum(dtype=torch.float64)))
        if not changed or number == iterations:
            break
        codebook = _means(points, codes, codebook)
        if reseed:
            empty = (torch.bincount(codes, minlength=len(codebook)) == 0).nonzero()[:, 0]
            worst = costs.topk(len(empty)).indices
            codebook[empty] = points.vectors[worst]
    return Clusters(codebook, codes, tuple(losses))


def _assign(points: Points, codebook: Tensor, codes: Tensor) -> tuple[bool, Tensor]:
    """Write the nearest centres into ``codes``; returns whether any changed, and what each vector costs."""
    both = torch.cat([-2 * codebook, codebook.square()], 1).T.contiguous()
    changed, costs = False, torch.empty_like(points.vectors[:, 0])
    for part in points.parts(_DISTANCES.get(codebook.device.type, _ELSEWHERE) // len(codebook)):
        vectors, weights, masses = points.of(part)
        new = _least(torch.cat([weights * vectors, weights], 1) @ both)
        changed = changed or not torch.equal(new, codes[part])
        codes[part] = new
        # Not the smallest distance plus what it lacks, where digits cancel.
        costs[part] = (masses * weights * (vectors - codebook[new]).square()).sum(1)
    return changed, costs


def _least(distances: Tensor) -> Tensor:
    """The first of the smallest in each row, int32; on the CPU by numpy, which is ten times as fast as torch."""
    if distances.device.type == "cpu":
        return torch.from_numpy(distances.numpy().argmin(1).astype("int32"))
    return distances.argmin(1).to(torch.int32)


def _means(points: Points, codes: Tensor, codebook: Tensor) -> Tensor:
    """Weighted means, coordinate by coordinate; one that weighs nothing stays where it was."""
    k, d = codebook.shape
    sums = torch.zeros(2, k, d, dtype=torch.float64, device=codebook.device)
    for part in points.parts(_ADDED):
        vectors, weights, masses = points.of(part)
        weights = weights * masses
        for which, values in enumerate((weights * vectors, weights)):
            for place in range(d):
                sums[which, :, place] += torch.bincount(codes[part], values[:, place], k)
    return torch.where(sums[1] > 0, (sums[0] / sums[1]).to(codebook.dtype), codebook)


class CodebookLinear(FrozenLinear):
    """A linear layer whose frozen matrix is ``row_scales x codebook[codes] x column_scales``.

    Each row is cut into subvectors, each of which is a code of ``code_bits`` bits. Codebook and scales have 16 bits,
    as float16 in models of any dtype: bfloat16 would lose three more bits of each.

    Parameters
    ----------
    in_features, out_features, bias, dtype, conv1d
        As of :class:`~porism_plugins.quant._frozen.FrozenLinear`.
    subvector
        Consecutive inputs that share a code.
    code_bits
        Bits of a code; the codebook has ``2**code_bits`` rows.

    Examples
    --------
    >>> layer = CodebookLinear(64, 32, subvector=4, code_bits=8, bias=False)
    >>> layer.nbytes(), layer(torch.zeros(2, 64)).shape  # 512 of codes, 2048 of codebook, 192 of scales
    (2752, torch.Size([2, 32]))
    """

    keeps = ("codebook", "row_scales", "column_scales")
    codebook: Tensor
    row_scales: Tensor
    column_scales: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        subvector: int,
        code_bits: int,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        conv1d: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, dtype=dtype, device=device, conv1d=conv1d)
        self.subvector, self.code_bits = subvector, code_bits
        half: dict[str, Any] = {"dtype": torch.float16, "device": device}
        packed = packed_bytes(self.count, code_bits)
        self.register_buffer("codes", torch.zeros(packed, dtype=torch.uint8, device=device))
        self.register_buffer("codebook", torch.zeros(2**code_bits, subvector, **half))
        self.register_buffer("row_scales", torch.zeros(out_features, **half))
        self.register_buffer("column_scales", torch.zeros(in_features, **half))

    @property
    def count(self) -> int:
        """Subvectors of the matrix, the last of each row padded."""
        return self.out_features * -(-self.in_features // self.subvector)

    @classmethod
    def of(cls, codebook: Tensor, codes: Tensor, rows: Tensor, columns: Tensor) -> Self:
        """The layer of a codebook, (2**code_bits, subvector), codes in row order, and positive scales; no bias.

        Raises
        ------
        ParameterError
            If the scales are too far apart for float16.
        """
        code_bits, subvector = (len(codebook) - 1).bit_length(), codebook.shape[1]
        new = cls(len(columns), len(rows), subvector=subvector, code_bits=code_bits, bias=False, device=codes.device)
        # A power of two moves from one to the other, so that neither leaves the range of float16.
        between = torch.exp2(((rows.max() / columns.max()).log2() / 2).round())
        tensors = {
            "codes": torch.cat([pack(part, code_bits) for part in codes.split(_UNPACKED)]),
            "codebook": codebook,
            "row_scales": rows / between,
            "column_scales": columns * between,
        }
        new.load_state_dict(tensors)
        if not all(bool(tensor.isfinite().all()) for tensor in new.state_dict().values()):
            raise ParameterError("weight has norms that float16 cannot hold; scale it to an ordinary size first")
        return new

    def options(self) -> dict[str, Any]:
        """What, beside the state dict, rebuilds the layer; JSON can hold it."""
        return {"subvector": self.subvector, "code_bits": self.code_bits, **super().options()}

    def backbone(self) -> Tensor:
        """The matrix of the codes, shape (out_features, in_features), in the layer's dtype."""
        vectors = self.codebook.new_empty(self.count, self.subvector)
        packed = self.codes.split(_UNPACKED * self.code_bits // 8)
        for part, out in zip(packed, vectors.split(_UNPACKED), strict=True):
            codes = unpack(part, self.code_bits, len(out))
            out.copy_(self.codebook.index_select(0, codes.int()))
        dense = vectors.view(self.out_features, -1)[:, : self.in_features].float()
        return dense.mul_(self.row_scales.float()[:, None]).mul_(self.column_scales.float()).to(self.dtype)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.in_features}, {self.out_features}, subvector={self.subvector}, code_bits={self.code_bits}"
