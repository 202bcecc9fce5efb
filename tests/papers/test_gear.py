"""GEAR's parts against plain arithmetic, the dense cache, and the ways in which users break caches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, DynamicCache, LlamaConfig, LlamaForCausalLM, MambaConfig, MistralConfig, T5Config

from porism.errors import ParameterError
from porism.packing import packed_bytes
from porism_plugins.kvcache import _engine as engine
from porism_plugins.kvcache import _parts as parts
from porism_plugins.kvcache._gear_engine import GEARCodec
from porism_plugins.kvcache.gear import EXACT, GEARCache

CONFIG = LlamaConfig(
    vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
GREEDY = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def states(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def back(codec: GEARCodec, x: torch.Tensor, role: engine.Role) -> torch.Tensor:
    out = torch.empty_like(x)
    codec.decompress(codec.compress(x, role), out, role)
    return out


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(CONFIG).eval()


def prompt(length: int, batch: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(1, 50, (batch, length)))


def filled(tokens: int, **options) -> GEARCache:
    cache = GEARCache(CONFIG, **options)
    for layer in range(2):
        cache.update(
            states(2, 2, tokens, 16, dtype=torch.float32), states(2, 2, tokens, 16, seed=1, dtype=torch.float32), layer
        )
    return cache


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("axis", ["channel", "token"])
def test_the_quantiser_is_the_textbooks(bits, axis):
    x = states(2, 3, 1, 12, 8)
    options = {"bits": bits, "axis": axis, "group": 0}
    out = torch.empty_like(x)
    parts.dequantise(parts.quantise(x, storage=torch.float64, **options), out, **options)
    shared = (3,) if axis == "channel" else (1, 4)
    low, high = x.amin(shared, keepdim=True), x.amax(shared, keepdim=True)
    step = (high - low) / (2**bits - 1)
    torch.testing.assert_close(out, ((x - low) / step).round() * step + low, atol=1e-12, rtol=0)


@given(bits=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8]), count=st.integers(1, 40))
def test_codes_come_back_in_the_least_number_of_bytes(bits, count):
    codes = torch.from_numpy(np.random.default_rng(count).integers(0, 2**bits, (2, 3, 1, count))).to(torch.uint8)
    packed = parts._pack(codes, bits)
    assert torch.equal(parts._unpack(packed, bits)[..., :count], codes)
    unit = 8 // np.gcd(8, bits)
    assert packed.shape[-1] == packed_bytes(-(-count // unit) * unit, bits)


@pytest.mark.parametrize("role", engine.ROLES)
def test_all_outliers_or_all_directions_lose_nothing(role):
    x = states(2, 3, 1, 12, 8)
    torch.testing.assert_close(back(GEARCodec(sparsity=1.0, rank=0, storage="model"), x, role), x, atol=0, rtol=0)
    torch.testing.assert_close(back(GEARCodec(sparsity=0.0, rank=8, storage="model"), x, role), x)


def test_no_entry_is_an_outlier_twice_where_all_are_equal():
    found = parts.outliers(torch.ones(1, 1, 1, 12, 3), share=1.0, axis="channel", storage=torch.float16)
    assert torch.equal(found["indices"].long().sort(3).values, torch.arange(12).view(12, 1).expand(1, 1, 1, 12, 3))


@pytest.mark.parametrize("offset", [0.0, 3.3, -1000.1])
def test_no_value_lies_outside_of_the_levels_as_stored(offset):
    x = states(1, 2, 1, 50, 8) + offset
    stored = parts.quantise(x, bits=8, axis="channel", group=0, storage=torch.float16)
    low = stored["zero"].double()[:, :, :, 0]
    assert (low <= x).all() and (x <= low + 255 * stored["scale"].double()[:, :, :, 0]).all()


@pytest.mark.parametrize("role", engine.ROLES)
def test_outliers_are_the_extremes_of_their_vector_and_exact(role):
    x = states(1, 2, 1, 50, 8)
    codec = GEARCodec(sparsity=0.2, rank=0, storage="model")
    same = back(codec, x, role) == x
    vectors = (x[0, :, 0].mT if role == "keys" else x[0, :, 0].transpose(0, 1).reshape(1, 50, 16)).sort(-1).values
    kept = vectors.shape[-1] // 10 if role == "keys" else 2
    low, high = vectors[..., kept - 1], vectors[..., -kept]
    bounds = (low[:, None], high[:, None]) if role == "keys" else (low[0, None, :, None], high[0, None, :, None])
    assert same[0, :, 0][(x[0, :, 0] <= bounds[0]) | (x[0, :, 0] >= bounds[1])].all()


def test_the_low_rank_part_is_the_svds_when_the_power_iteration_runs_on():
    u, _, v = torch.linalg.svd(states(2, 3, 1, 20, 8), full_matrices=False)
    sizes = 0.5 ** torch.arange(8, dtype=torch.float64)
    factors = parts.low_rank(u * sizes @ v, rank=3, passes=200, storage=torch.float64)
    torch.testing.assert_close(factors["left"] @ factors["right"].mT, u[..., :3] * sizes[:3] @ v[..., :3, :])


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_the_power_iteration_neither_vanishes_nor_overflows(scale):
    x = scale * states(1, 1, 1, 20, 8, dtype=torch.float32)
    factors = parts.low_rank(x, rank=8, passes=3, storage=torch.float32)
    torch.testing.assert_close(factors["left"] @ factors["right"].mT, x, atol=1e-5 * scale, rtol=1e-3)


@given(offset=st.floats(-60, 60), scale=st.floats(0.01, 10))
def test_shift_and_scale_pass_through_the_quantiser(offset, scale):
    x, codec = states(1, 2, 1, 20, 8), GEARCodec(rank=0, sparsity=0.0, storage="model")
    torch.testing.assert_close(back(codec, scale * x + offset, "keys"), scale * back(codec, x, "keys") + offset)


@pytest.mark.parametrize("backbone", ["kcvt", "kivi"])
@pytest.mark.parametrize("role", engine.ROLES)
def test_blocks_joined_come_back_as_they_would_alone(backbone, role):
    codec = GEARCache(CONFIG, backbone=backbone, group=8).codec
    blocks = [states(2, 3, 1, 24, 16, seed=seed) for seed in range(3)]
    runs = [engine.Run(24, {role: codec.compress(block, role)}) for block in blocks]
    joined = {name: torch.cat([run.stored[role][name] for run in runs], 2) for name in runs[0].stored[role]}
    holder = torch.full((2, 3, 100, 16), 7.0, dtype=torch.float64)
    codec.decompress(joined, holder[:, :, 5:77].unflatten(2, (3, 24)), role)
    torch.testing.assert_close(holder[:, :, 5:77], torch.cat([back(codec, b, role)[:, :, 0] for b in blocks], 2))
    assert (holder[:, :, :5] == 7).all() and (holder[:, :, 77:] == 7).all()


def test_a_block_is_compressed_once_and_its_bytes_stay():
    cache = filled(40, buffer=32)
    before = {name: t.clone() for name, t in cache.layers[0].tensors() if "waiting" not in name}
    first = cache.update(*(states(2, 2, 1, 16, dtype=torch.float32) for _ in range(2)), 0)[0]
    for _ in range(40):
        last = cache.update(*(states(2, 2, 1, 16, dtype=torch.float32) for _ in range(2)), 0)[0]
    after = {}
    for name, tensor in cache.layers[0].tensors():
        after.setdefault(name, tensor)
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    assert torch.equal(first[:, :, :40], last[:, :, :40])
    assert [(run.tokens, run.length) for run in cache.layers[0].runs] == [(40, 40), (32, 32)]


def test_bytes_are_those_of_the_formula():
    cache = filled(100, buffer=64)
    keys = 100 * 16 * 4 // 8 + 16 * 2 * 2 + 2 * 16 * (2 + 1) + 4 * (100 + 16) * 2
    values_of_a_head = 100 * 16 * 4 // 8 + 4 * (100 + 16) * 2
    values_of_a_token = 2 * 2  # round(32 * 0.01) outliers are none
    assert cache.bytes() == 2 * 2 * (2 * (keys + values_of_a_head) + 100 * values_of_a_token)


def test_half_of_a_16_bit_cache_and_less_at_real_sizes():
    config = LlamaConfig(num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8, hidden_size=512)
    cache = GEARCache(config)
    x = states(1, 8, 1000, 64, dtype=torch.float32)
    cache.update(x, x, 0)
    assert 2 * 2 * x.numel() / cache.bytes() > 2.2


def test_without_loss_generate_gives_the_dense_caches_tokens(model):
    for ids in (prompt(30), prompt(31, batch=3)):
        ours = model.generate(ids, past_key_values=GEARCache(model, **EXACT), max_new_tokens=24, **GREEDY)
        assert torch.equal(ours, model.generate(ids, max_new_tokens=24, **GREEDY))


def test_without_loss_beam_search_and_padding_give_the_dense_caches_tokens(model):
    ids, mask = prompt(30), torch.ones(2, 30, dtype=torch.long)
    mask[0, :7] = 0
    options = {"attention_mask": mask, "num_beams": 3, "max_new_tokens": 20, **GREEDY}
    ours = model.generate(ids, past_key_values=GEARCache(model, **EXACT), **options)
    assert torch.equal(ours, model.generate(ids, **options))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_stay_near_the_exact_ones(model, attention):
    model.set_attn_implementation(attention)
    ids = prompt(60)
    with torch.no_grad():
        exact = model(ids).logits[:, 40:]
        distance = {}
        for bits in (2, 8):
            cache = GEARCache(model, bits=bits, buffer=16)
            model(ids[:, :40], past_key_values=cache)
            got = torch.cat([model(part, past_key_values=cache).logits for part in ids[:, 40:].split(1, 1)], 1)
            distance[bits] = float((got - exact).norm() / exact.norm())
    assert distance[8] < 0.02 < distance[2] < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_decompressed_in_float32(dtype):
    x = states(1, 2, 150, 16).to(dtype)
    cache = GEARCache(CONFIG, bits=8)
    cache.update(x, x, 0)
    keys, values = cache.update(x[:, :, :1], x[:, :, :1], 0)
    assert keys.dtype == values.dtype == dtype
    assert (keys[:, :, :150] - x).abs().max() < 0.03


def test_sliding_layers_keep_their_own_cache():
    cache = GEARCache(
        LlamaConfig(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"], sliding_window=8)
    )
    assert [type(layer).__name__ for layer in cache.layers] == ["BlockCacheLayer", "DynamicSlidingWindowLayer"]


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (MambaConfig(num_hidden_layers=1), "attention"),
        (T5Config(num_layers=1), "EncoderDecoderCache"),
        (BertConfig(num_hidden_layers=1), "decoder"),
        (torch.nn.Linear(2, 2), "transformers"),
        (MistralConfig(num_hidden_layers=1, sliding_window=4), "full attention"),
    ],
    ids=["state space", "encoder-decoder", "encoder", "plain module", "sliding only"],
)
def test_what_cannot_be_compressed_is_refused(config, word):
    with pytest.raises(ParameterError, match=word):
        GEARCache(config)


@pytest.mark.parametrize(
    "options",
    [{"bits": 0}, {"bits": 9}, {"sparsity": 1.1}, {"rank": -1}, {"buffer": 0}, {"passes": 0}, {"backbone": "other"}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ParameterError, match=next(iter(options))):
        GEARCache(CONFIG, **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_states_that_cannot_be_stored_are_refused(bad):
    x = states(1, 2, 150, 16, dtype=torch.float32)
    x[0, 0, 3, 3] = bad
    with pytest.raises(ParameterError, match="finite"):
        GEARCache(CONFIG, sparsity=0.0).update(x, x, 0)


def test_outliers_that_cannot_be_stored_are_refused():
    x = states(1, 2, 150, 16, dtype=torch.float32)
    x[0, 0, 3, 3] = 1e6
    with pytest.raises(ParameterError, match="finite"):
        GEARCache(CONFIG).update(x, torch.ones_like(x), 0)


def test_another_batch_needs_another_cache():
    with pytest.raises(ParameterError, match="key_states must be"):
        filled(10).update(*(states(3, 2, 1, 16, dtype=torch.float32) for _ in range(2)), 0)


def test_crop_takes_back_what_waits_and_refuses_the_rest():
    cache = filled(40, buffer=32)
    cache.update(*(states(2, 2, 5, 16, dtype=torch.float32) for _ in range(2)), 0)
    cache.layers[0].crop(-5)
    assert cache.get_seq_length() == 40
    with pytest.raises(ParameterError, match="compressed"):
        cache.layers[0].crop(-1)
    with pytest.raises(ParameterError, match="negative"):
        cache.crop(3)


def test_gradients_of_the_prompt_pass_and_nothing_fails_without_no_grad(model):
    cache = GEARCache(model, buffer=8)
    model(prompt(20), past_key_values=cache).logits.sum().backward()
    model(prompt(3), past_key_values=cache).logits.sum().backward()
    assert not any(tensor.requires_grad for layer in cache.layers for _, tensor in layer.tensors())
    model.zero_grad()


def test_agrees_with_the_dense_cache_while_tokens_wait(model):
    dense, ours = DynamicCache(config=CONFIG), GEARCache(model)
    with torch.no_grad():
        for part in prompt(60).split(20, 1):
            torch.testing.assert_close(
                model(part, past_key_values=ours).logits, model(part, past_key_values=dense).logits, atol=0, rtol=0
            )
