"""GEAR: a key-value cache of few bits, with a low-rank matrix and a few exact entries that repair it.

Keys are quantised along channels and values along tokens; the largest and smallest entries of each channel or token are
kept exactly, and each head's remaining error is replaced by its projection on a few directions. New tokens wait in full
precision, and a block of them is compressed once. Kang et al., 2024, arXiv:2403.05527.

*Paper and code.* The released code only simulates: its tensors stay full, and one of its quantisers has ``b**2 - 1``
levels, right for 2 and 4 bits only. Here codes are packed, and what is stored (scales, factors, outliers) is rounded to
half precision *before* the error is measured that the low-rank part repairs. There as many entries are taken of a key's
channel as of a value's token; here the share is of the vector's own length, to the nearest whole number, hence none of
a channel's 20 tokens at 2 %. So blocks are of 128 tokens (theirs of 20), as the residual of ``QuantizedCache``. The
random start of the power iteration is one for all heads, from a generator of its own. Keys are compressed after their
rotation.

*What the checks find.* Each part helps and both help more, at equal bits. At equal *bytes* a plain quantiser with
one bit more and groups of 64 is better, on synthetic keys as on a trained model. Three passes capture 95 % of what
the best low-rank matrix would, give or take a percent: the error of a quantiser has a flat spectrum.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Interval

from porism import Paired, Paper, Table, always, figure, proved, typically, validated
from porism.drawing import columns
from porism_plugins.kvcache import _engine as engine
from porism_plugins.kvcache import _gear_experiments as experiments
from porism_plugins.kvcache import _parts as parts
from porism_plugins.kvcache._gear_engine import GEARCodec

PAPER = Paper(
    key="gear", title="GEAR: An Efficient KV Cache Compression Recipe for Near-Lossless Generative Inference of LLM",
    authors=("Hao Kang", "Qingru Zhang", "Souvik Kundu", "Geonhwa Jeong", "Zaoxing Liu", "Tushar Krishna", "Tuo Zhao"),
    year=2024, ref="arXiv:2403.05527", kinds=("cache",), family="kvcache", needs=("hf",),
    tags=("quantisation", "low rank", "generation"), method="GEARCache",
)  # fmt: skip

Bits = Annotated[int, Interval(ge=1, le=8)]
Rank = Annotated[int, Interval(ge=0, le=256)]
Share = Annotated[float, Interval(ge=0, le=1)]
Backbone = Literal["kcvt", "kivi"]
Entry = Annotated[float, Interval(ge=-3, le=3)]
Size = Annotated[int, Interval(ge=2, le=64)]
# Without loss: every entry is an outlier, of blocks whose length is even.
EXACT = {"sparsity": 1.0, "rank": 0, "storage": "model", "buffer": 2}


class GEARCache(engine.BlockCache):
    """A drop-in ``past_key_values`` for decoders of transformers, in under half of a 16-bit cache's memory.

    Parameters
    ----------
    model
        A model of transformers or its configuration. Layers with sliding or linear attention keep their usual caches.
    bits
        Of a code.
    rank, decode_rank
        Of the low-rank part of a long prompt, and of a block of at most ``buffer`` tokens; 0 for none.
    sparsity
        Share of entries kept exactly; 0 for none.
    backbone, group
        ``"kcvt"`` shares a scale along a whole key channel of the block and along a value token; ``"kivi"`` along
        ``group`` tokens or channels, and blocks are multiples of ``group`` tokens.
    buffer
        Tokens that wait in full precision for their block.
    passes
        Of the power iteration.
    storage
        Precision of scales, factors and outliers: float16, or the model's own.

    Raises
    ------
    ParameterError
        For options out of range, models without full attention, and states that are not finite.

    Examples
    --------
    >>> from transformers import LlamaConfig
    >>> config = LlamaConfig(num_hidden_layers=1)
    >>> cache, states = GEARCache(config), torch.ones(1, 32, 256, 128)
    >>> keys, values = cache.update(states, states, 0)
    >>> round(2 * 2 * states.numel() / cache.bytes(), 1)  # bytes of a 16-bit cache over ours
    3.0
    """

    @validated
    def __init__(
        self, model: Any, *, bits: Bits = 4, rank: Rank = 4, sparsity: Share = 0.02, backbone: Backbone = "kcvt",
        group: Annotated[int, Interval(ge=1, le=4096)] = 64, buffer: Annotated[int, Interval(ge=1, le=4096)] = 128,
        decode_rank: Rank = 2, passes: Annotated[int, Interval(ge=1, le=20)] = 3,
        storage: Literal["half", "model"] = "half",
    ) -> None:  # fmt: skip
        kivi = backbone == "kivi"
        self.codec = GEARCodec(
            bits=bits, rank=rank, sparsity=sparsity, group=group if kivi else 0, passes=passes, storage=storage,
            decode_rank=min(rank, decode_rank), decode_tokens=buffer,
        )  # fmt: skip
        multiple = group if kivi else 1
        super().__init__(model, lambda: engine.BlockCacheLayer(self.codec, buffer=buffer, multiple=multiple))


def variant(model: Any, bits: int, group: int) -> GEARCache:
    """The quantiser alone, in groups of tokens and channels."""
    return GEARCache(model, bits=bits, group=group, backbone="kivi", rank=0, sparsity=0.0)


@proved("A projection takes its own square off the error's: R less its part along a unit vector has the norm |R|^2 - "
        "|u'R|^2, so the low-rank part never harms", where="Sec. 3, low-rank", control={"factor": 2})  # fmt: skip
def projection_never_harms(
    *, a: Entry = 1.0, b: Entry = 0.5, c: Entry = -1.0, d: Entry = 2.0, angle: Entry = 0.7, factor: Literal[1, 2] = 1
) -> Any:
    import sympy

    residual, u = sympy.Matrix([[a, b], [c, d]]), sympy.Matrix([sympy.cos(angle), sympy.sin(angle)])
    square = lambda m: sum(entry**2 for entry in m)  # noqa: E731
    return sympy.Eq(square(residual - factor * u * (u.T * residual)), square(residual) - square(u.T * residual))


@always("Outside of the exact entries, a value is at most half a step from its code", where="Sec. 3, Eq. 2",
        control={"half": 0.25})  # fmt: skip
def half_a_step(rng: np.random.Generator, *, bits: Bits = 4, tokens: Size = 40, width: Size = 16,
                offset: Annotated[float, Interval(ge=-100, le=100)] = 2.0, axis: parts.Axis = "channel",
                half: Literal[0.5, 0.25] = 0.5) -> float:  # fmt: skip
    """Of one step, with what float64 arithmetic adds."""
    x = torch.from_numpy(rng.normal(size=(1, 2, 1, tokens, width)) + offset)
    options = {"bits": bits, "axis": axis, "group": 0}
    stored, out = parts.quantise(x, storage=torch.float16, **options), torch.empty_like(x)
    parts.dequantise(stored, out, **options)
    wrong, _ = parts.groups((out - x).abs(), axis, 0)
    return half + 1e-9 - float((wrong / stored["scale"].double()).max())


@always("Reordering the heads reorders what comes back, and no head's error grows by its low-rank part",
        where="Sec. 3, Algorithm 1", control={"sign": -1})  # fmt: skip
def heads_are_alike(rng: np.random.Generator, *, tokens: Size = 40, width: Size = 16, rank: Size = 2,
                    passes: Annotated[int, Interval(ge=1, le=6)] = 2, sign: Literal[1, -1] = 1) -> float:  # fmt: skip
    residual = torch.from_numpy(rng.normal(size=(1, 3, 1, tokens, width)))
    factors = lambda r: parts.low_rank(r, rank=rank, passes=passes, storage=torch.float64)  # noqa: E731
    low, order = (f := factors(residual))["left"] @ f["right"].mT, [2, 0, 1]
    moved = (f := factors(residual[:, order]))["left"] @ f["right"].mT
    kept = (residual.square().sum((-2, -1)) - (residual - sign * low).square().sum((-2, -1))).min()
    return 1e-9 + min(float(kept), -float((moved - low[:, order]).abs().max()))


@typically("Outliers and low rank together are better than either alone", where="Sec. 3, Fig. 2", at_least=0.1,
           control={"repair": "outliers"},
           scale="256 keys of 2 heads of 64 channels, 2 bits, log of the error")  # fmt: skip
def parts_work_together(rng: np.random.Generator, *, bits: Annotated[int, Interval(ge=2, le=4)] = 2,
                        repair: Literal["both", "outliers"] = "both") -> Paired:  # fmt: skip
    keys = experiments.synthetic(rng)
    errors = {n: experiments.error(GEARCodec(bits=bits, **o), keys) for n, o in experiments.VARIANTS.items()}
    ours = errors.pop("GEAR")
    return Paired(np.log(ours if repair == "both" else errors["+ outliers"]), np.log(min(errors.values())), "lower")


@typically("Keys whose channels have offsets are better quantised by channel than by token", where="Sec. 3, backbone",
           at_least=0.3, control={"offset": 0.0, "scale": "token"},
           scale="256 keys of 2 heads of 64 channels without spikes, 2 bits, log of the error")  # fmt: skip
def keys_by_channel(rng: np.random.Generator, *, offset: Annotated[float, Interval(ge=0, le=10)] = 2.0,
                    scale: Literal["channel", "token"] = "channel") -> Paired:  # fmt: skip
    keys = experiments.synthetic(rng, offset=offset, spikes=0.0)
    plain = {"bits": 2, "rank": 0, "sparsity": 0.0}
    ours, theirs = (experiments.error(GEARCodec(key_axis=axis, **plain), keys) for axis in (scale, "token"))
    return Paired(np.log(ours), np.log(theirs), "lower")


@typically("Three passes of the power iteration capture 95 % of what the best low-rank matrix does", where="Sec. 3",
           control={"passes": 1}, scale="residual of 256 keys of 2 heads of 64 channels at 2 bits, rank 4")  # fmt: skip
def power_iteration_suffices(rng: np.random.Generator, *, passes: Annotated[int, Interval(ge=1, le=20)] = 3) -> float:
    residual = experiments.residual(GEARCodec(bits=2, rank=0), experiments.synthetic(rng))
    right = parts.low_rank(residual, rank=4, passes=passes, storage=residual.dtype)["right"]
    return float(right.square().sum() / torch.linalg.svdvals(residual)[..., :4].square().sum()) - 0.95


@typically("In the same bytes, attention's output is nearer to the exact one than with the best plain quantiser",
           where="Table 1", at_least=0.05, control={"rank": 0, "sparsity": 0.0}, cap=32, time_limit=300,
           scale="trained 2-layer model, 256 characters, 4 bits; the quantiser chooses bits and groups")  # fmt: skip
def better_in_equal_bytes(rng: np.random.Generator, *, bits: Annotated[int, Interval(ge=2, le=6)] = 4, rank: Rank = 4,
                          sparsity: Share = 0.02) -> Paired:  # fmt: skip
    """The quantiser has the bytes of GEAR at its defaults; the control has the same bits and no repair."""
    ids = experiments.excerpt(rng, experiments.CONTEXT + experiments.AFTER)
    _, limit = experiments.attention_error(ids, lambda model: GEARCache(model, bits=bits))
    ours, _ = experiments.attention_error(ids, lambda model: GEARCache(model, bits=bits, rank=rank, sparsity=sparsity))
    return Paired(np.log(ours), np.log(experiments.best_quantiser(ids, variant, limit)[0]), "lower")


@typically("Over 200 tokens a model strays less from the exact one than with a quantiser of as many bits",
           where="Fig. 1", at_least=0.2, control={"rank": 0, "sparsity": 0.0}, cap=32, time_limit=300,
           scale="trained 2-layer model, same text for both, 2 bits, blocks of 32, log of the mean KL")  # fmt: skip
def strays_less(rng: np.random.Generator, *, rank: Rank = 4, sparsity: Share = 0.02) -> Paired:
    ids, fixed = experiments.excerpt(rng, 264), {"bits": 2, "buffer": 32}
    ours = experiments.surprise(ids, lambda m: GEARCache(m, rank=rank, sparsity=sparsity, **fixed)).mean()
    theirs = experiments.surprise(ids, lambda m: GEARCache(m, rank=0, sparsity=0.0, **fixed)).mean()
    return Paired(np.log(ours), np.log(theirs), "lower")


@figure("Error against bytes of every part of GEAR at 2, 3, 4, 6 and 8 bits, and of a plain quantiser in groups of 64: "
        "in the same bytes the plain one is better.", where="Table 1")  # fmt: skip
def error_of_bytes(rng: np.random.Generator, *, tokens: Annotated[int, Interval(ge=16, le=4096)] = 256) -> Table:
    keys, ids, rows = experiments.synthetic(rng, tokens=tokens), experiments.excerpt(rng, 288), []
    for bits in (2, 3, 4, 6, 8):
        for name, options in (experiments.VARIANTS | {"quantised, groups of 64": None}).items():
            make = (lambda m: variant(m, bits, 64)) if options is None else lambda m: GEARCache(m, bits=bits, **options)  # noqa: B023
            codec = make(experiments.language_model()[0]).codec
            share = experiments.size(codec, keys) / (2 * keys.numel())
            rows.append((name, "keys", bits, share, experiments.error(codec, keys)))
            wrong, size = experiments.attention_error(ids, make)
            rows.append((name, "attention", bits, size / experiments.HALF_BYTES, wrong))
    return columns("variant panel bits share error", rows)


error_of_bytes.draw(experiments.draw_error_of_bytes)


@figure("KL to the exact model while a trained model reads the same text with a cache of 2 and of 4 bits, blocks of 32 "
        "tokens, mean over excerpts.", where="Fig. 1")  # fmt: skip
def straying(rng: np.random.Generator, *, excerpts: Annotated[int, Interval(ge=1, le=100)] = 3) -> Table:
    texts, rows = [experiments.excerpt(rng, 264) for _ in range(excerpts)], []
    for bits in (2, 4):
        for name, options in experiments.VARIANTS.items():
            make = lambda m: GEARCache(m, bits=bits, buffer=32, **options)  # noqa: B023, E731
            mean = np.mean([experiments.surprise(ids, make) for ids in texts], 0)
            rows += [(bits, name, position, kl) for position, kl in enumerate(mean.tolist())]
    return columns("bits variant position kl", rows)


straying.draw(experiments.draw_surprise)


def demo(rng: np.random.Generator, *, bits: Bits = 4, rank: Rank = 4, sparsity: Share = 0.02) -> dict[str, float]:
    """Bytes of a 16-bit cache over ours, and the error of attention's output, on a trained model's text."""
    ids = experiments.excerpt(rng, experiments.CONTEXT + experiments.AFTER)
    wrong, size = experiments.attention_error(ids, lambda m: GEARCache(m, bits=bits, rank=rank, sparsity=sparsity))
    return {"times smaller": experiments.HALF_BYTES / size, "error": wrong}
