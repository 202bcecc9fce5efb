"""LoftQ and the quantisation engine: published tables, naive references, peft's own loader, and bad input."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from porism.errors import ParameterError
from porism.seeds import generator
from porism.surgery import matrix
from porism_plugins.quant import _engine as engine
from porism_plugins.quant import loftq as paper
from porism_plugins.quant._alternation import decompose, mixed_precision, qlora
from porism_plugins.quant._engine import Layer, QuantizedLinear, quantise_linears
from porism_plugins.quant._low_rank import full_svd, random_factors, randomised_svd
from porism_plugins.quant._quantisers import Quantiser, normal_float, uniform
from porism_plugins.quant.loftq import loftq, to_peft

# The NF4 table that bitsandbytes has in its kernels.
BITSANDBYTES_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def svd(rank: int):
    return lambda residual: full_svd(residual, rank)


def mlp() -> nn.Sequential:
    """Two layers to quantise, with sides that divide into nothing."""
    model = nn.Sequential(nn.Linear(37, 51), nn.ReLU(), nn.Linear(51, 23))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(gaussian(*parameter.shape, seed=number) / 6)
    return model


def tiny(kind: str, **options):
    import transformers

    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=32, **options)
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, **options,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


TOKENS = torch.arange(12).view(2, 6)


def test_nf4_is_the_published_table():
    np.testing.assert_allclose(normal_float(4), BITSANDBYTES_NF4, atol=1e-7)


@pytest.mark.parametrize("bits", range(2, 9))
def test_tables_hold_both_ends_and_normal_floats_zero(bits):
    for table in (normal_float(bits), uniform(bits)):
        assert len(table) == 2**bits and (table[0], table[-1]) == (-1, 1)
        assert all(a < b for a, b in itertools.pairwise(table))
    assert sum(level > 0 for level in normal_float(bits)) == 2 ** (bits - 1) and 0.0 in normal_float(bits)


def naive(weight: np.ndarray, quantiser: Quantiser) -> np.ndarray:
    """Blocks and levels with loops, in float64."""
    flat = weight.astype(np.float64).reshape(-1)
    for start in range(0, len(flat), quantiser.block_size):
        block = flat[start : start + quantiser.block_size]
        deviation = block.std(ddof=1) if len(block) > 1 else 0.0
        scale = abs(block).max() if quantiser.scale == "absmax" else block.mean() + 2.5 * deviation
        levels = np.array(quantiser.table) * scale
        block[:] = [levels[np.argmin(abs(levels - value))] for value in block]
    return flat.reshape(weight.shape)


@given(
    st.integers(2, 8), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(0, 10**6),
    st.sampled_from(["normal", "uniform"]), st.sampled_from(["absmax", "moments"]),
)  # fmt: skip
def test_each_weight_becomes_the_nearest_level_of_its_block(bits, rows, columns, block_size, seed, levels, scale):
    weight = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    quantiser = Quantiser(bits=bits, levels=levels, block_size=block_size, scale=scale)
    ours = quantiser.quantise(torch.from_numpy(weight)).dequantise().numpy()
    expected = naive(weight, quantiser)
    # Two levels may be equally near up to rounding, so distances are compared.
    np.testing.assert_allclose(abs(ours - weight), abs(expected - weight), atol=1e-5 * (1 + abs(weight).max()))


def test_levels_closer_than_the_lookup_cells_are_found_as_well():
    levels = (-1.0, -0.5, 0.5, 0.5001)
    quantised = Quantiser(bits=2, levels=levels, block_size=4).quantise(torch.tensor([[1.0, 0.5, 0.50004, -0.4]]))
    torch.testing.assert_close(quantised.dequantise(), torch.tensor([[0.5001, 0.5, 0.5, -0.5]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-45, 1e36])
def test_constant_blocks_survive(value):
    weight = torch.full((3, 5), value)
    for scale in ("absmax", "moments"):
        dense = Quantiser(bits=2, block_size=4, scale=scale).quantise(weight).dequantise()
        torch.testing.assert_close(dense, weight)


@pytest.mark.parametrize("bits", range(2, 9))
def test_bytes_are_counted_exactly(bits):
    quantiser = Quantiser(bits=bits)
    quantised = quantiser.quantise(gaussian(37, 51))
    assert quantised.codes.nbytes + quantised.scales.nbytes == quantiser.nbytes(37 * 51)
    assert quantiser.nbytes(1024 * 1024) == 1024 * 1024 * (bits + 0.5) / 8


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bytes_on_the_disk_are_within_two_per_cent_of_theory(bits, tmp_path):
    model = nn.Sequential(nn.Linear(512, 512, bias=False))
    quantise_linears(model, Quantiser(bits=bits))
    engine.save(model, tmp_path / "model.safetensors")
    theory = 512 * 512 * (bits + 32 / 64) / 8
    assert theory <= (tmp_path / "model.safetensors").stat().st_size <= 1.02 * theory


def test_alternation_equals_the_paper_step_by_step():
    weight, quantiser = gaussian(24, 32), Quantiser(bits=2, block_size=16)
    (quantised, lora_B, lora_A), errors = decompose(weight, quantiser, svd(3), rounds=3)
    w, product = weight.double().numpy(), 0.0
    for _ in range(3):
        q = naive((w - product).astype(np.float32), quantiser)
        u, s, vh = np.linalg.svd(w - q)
        product = (u[:, :3] * s[:3]) @ vh[:3]
    np.testing.assert_allclose(quantised.dequantise(), q, atol=1e-5)
    np.testing.assert_allclose(lora_B @ lora_A, product, atol=1e-4)
    assert errors[-1] == pytest.approx(np.linalg.norm(w - q - product) / np.linalg.norm(w), rel=1e-4)


def test_known_exception_at_two_bits_the_error_rises_and_the_best_round_is_kept():
    weight, quantiser = gaussian(128, 128), Quantiser(bits=2)
    last, best = (decompose(weight, quantiser, svd(16), rounds=10, keep=keep) for keep in ("last", "best"))
    assert last.errors == best.errors
    assert last.errors[-1] > 1.02 * min(last.errors)

    def error(layer: Layer) -> float:
        return float((weight - layer.quantised.dequantise() - layer.lora_B @ layer.lora_A).norm() / weight.norm())

    assert error(last.layer) == pytest.approx(last.errors[-1], rel=1e-5)
    assert error(best.layer) == pytest.approx(min(best.errors), rel=1e-5)


@pytest.mark.parametrize(("bits", "rounds"), [(2, 1), (4, 1), (2, 5), (4, 5)])
def test_randomised_svd_is_within_one_per_cent_of_the_full_one(bits, rounds):
    weight, quantiser, rng = gaussian(512, 384), Quantiser(bits=bits), torch.Generator().manual_seed(0)
    full = decompose(weight, quantiser, svd(16), rounds=rounds).errors[-1]
    randomised = decompose(weight, quantiser, lambda r: randomised_svd(r, 16, rng), rounds=rounds).errors[-1]
    assert randomised <= 1.01 * full


def test_randomised_svd_is_exact_on_a_matrix_of_low_rank():
    low = gaussian(90, 5) @ gaussian(5, 70, seed=1)
    lora_B, lora_A = randomised_svd(low, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(lora_B @ lora_A, low, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lora_B.T @ lora_B, lora_A @ lora_A.T, atol=1e-3, rtol=1e-3)


def test_random_factors_have_the_norm_of_the_best():
    residual = gaussian(20, 30)
    best, other = (b @ a for b, a in (full_svd(residual, 4), random_factors(residual, 4, torch.Generator())))
    torch.testing.assert_close(other.norm(), best.norm())


def test_qlora_is_round_zero():
    weight, quantiser = gaussian(24, 32), Quantiser(bits=2)
    layer = qlora(weight, quantiser, 3, torch.Generator().manual_seed(0))
    assert not layer.lora_B.any() and 0.1 < layer.lora_A.abs().max() <= 32**-0.5
    model = nn.Sequential(nn.Linear(32, 24, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(weight)
    torch.testing.assert_close(loftq(model, bits=2, rank=3, rounds=0)[0].weight, layer.quantised.dequantise())


def test_a_layer_computes_with_its_matrix_and_differentiates_it():
    layer = loftq(mlp(), bits=3, rank=4)[0]
    x = gaussian(2, 5, 37).requires_grad_()
    y = layer(x)
    dense = x @ (layer.backbone() + layer.lora_B @ layer.lora_A).T + layer.bias
    torch.testing.assert_close(y, dense)
    inputs = [x, layer.lora_A, layer.lora_B]
    ours, theirs = (torch.autograd.grad(out.square().sum(), inputs) for out in (y, dense))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_no_dense_matrix_waits_for_the_backward_pass():
    layer = loftq(nn.Sequential(nn.Linear(256, 256)), bits=2, rank=2)[0]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layer(gaussian(3, 256).requires_grad_())
    assert max(saved) < 256 * 256


def test_only_the_factors_train_and_training_them_leaves_the_codes():
    model = loftq(mlp(), bits=2, rank=4)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B"}
    codes, x, y = model[0].codes.clone(), gaussian(64, 37), gaussian(64, 23, seed=9)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    assert torch.equal(model[0].codes, codes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_quantised_in_single_precision_and_given_back(dtype):
    half = mlp().to(dtype)
    model = loftq(half, bits=4, rank=4)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model[0].scales.dtype == torch.float32
    assert model(gaussian(3, 37).to(dtype)).dtype == dtype
    reference = loftq(copy.deepcopy(half).float(), bits=4, rank=4)
    assert torch.equal(model[0].codes, reference[0].codes)


def test_casting_and_moving_keep_the_scales_exact():
    model = loftq(mlp(), bits=4, rank=4)
    scales = model[0].scales.clone()
    model.bfloat16()
    assert model(gaussian(3, 37).bfloat16()).dtype == torch.bfloat16
    model.double().to("cpu")
    assert torch.equal(model[0].scales, scales) and model[0].weight.dtype == torch.float64
    empty = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    x = gaussian(3, 37).double()
    assert torch.equal(empty(x), model(x))


def test_autocast_computes_in_half_precision():
    model, x = loftq(mlp(), bits=4, rank=4), gaussian(8, 37).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    y.float().sum().backward()
    torch.testing.assert_close(y.float(), model(x), rtol=0.05, atol=0.05)
    assert x.grad.isfinite().all()


@pytest.mark.slow
def test_it_can_be_compiled():
    model = loftq(mlp(), bits=4, rank=4)
    compiled, x = torch.compile(model, backend="eager"), gaussian(3, 37)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("levels", ["normal", tuple(np.linspace(-1, 0.9, 8))])
def test_a_saved_model_loads_into_a_fresh_one(levels, tmp_path):
    model, path = mlp(), tmp_path / "model.safetensors"
    rng = torch.Generator().manual_seed(0)
    quantise_linears(model, lambda name, w: qlora(w, Quantiser(bits=3, levels=levels, block_size=32), 4, rng))
    engine.save(model, path)
    again = engine.load(mlp(), path)
    x = gaussian(3, 37)
    assert torch.equal(again(x), model(x))
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    with pytest.raises(ParameterError, match="same architecture"):
        engine.load(nn.Sequential(nn.Linear(37, 51)), path)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_loads_the_export_and_computes_the_same(kind, tmp_path):
    import peft

    model = loftq(tiny(kind), bits=2, rank=4, rounds=3)
    with torch.no_grad():
        expected = model(TOKENS).logits
    backbone = to_peft(model, tmp_path)
    base = type(model).from_pretrained(backbone)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
        with loaded.disable_adapter():
            assert (loaded(TOKENS).logits - expected).abs().max() > 1e-3
    assert sum(p.numel() for p in loaded.parameters() if p.requires_grad) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    config = peft.LoraConfig.from_pretrained(tmp_path)
    assert config.lora_alpha == config.r == 4


def test_peft_reads_layers_of_different_ranks_and_names_that_end_alike(tmp_path):
    import peft

    model = nn.Sequential(nn.Linear(32, 24), nn.Sequential(nn.Linear(24, 20), nn.Linear(20, 16)), nn.Linear(16, 12))
    rng = torch.Generator().manual_seed(0)
    ranks = {"0": 3, "1.1": 5}

    def fit(name: str, weight: torch.Tensor) -> Layer:
        return Layer(Quantiser(bits=2).quantise(weight), *random_factors(weight, ranks[name], rng))

    quantise_linears(model, fit, include=["0", "1.1"], exclude=["1.0"])
    x = gaussian(3, 32)
    expected = model(x)
    backbone = to_peft(model, tmp_path)
    base = nn.Sequential(nn.Linear(32, 24), nn.Sequential(nn.Linear(24, 20), nn.Linear(20, 16)), nn.Linear(16, 12))
    from safetensors.torch import load_file

    base.load_state_dict(load_file(backbone / "model.safetensors"))
    torch.testing.assert_close(peft.PeftModel.from_pretrained(base, tmp_path)(x), expected)


def test_export_without_factors_is_refused(tmp_path):
    model = quantise_linears(mlp(), Quantiser())
    with pytest.raises(ParameterError, match="none with a low-rank term"):
        to_peft(model, tmp_path)
    with pytest.raises(ParameterError, match="no quantised layer"):
        to_peft(mlp(), tmp_path)


def test_merging_gives_ordinary_layers_of_the_same_outputs():
    model = loftq(tiny("gpt2"), bits=3, rank=4)
    dense = engine.dequantised(model)
    assert not any(isinstance(m, QuantizedLinear) for m in dense.modules())
    assert {type(m).__name__ for m in dense.modules()} == {type(m).__name__ for m in tiny("gpt2").modules()}
    with torch.no_grad():
        torch.testing.assert_close(dense(TOKENS).logits, model(TOKENS).logits, rtol=1e-4, atol=1e-5)


def test_a_language_model_generates_with_its_head_left_alone():
    model = loftq(tiny("llama"), bits=4, rank=4)
    assert type(model.lm_head) is nn.Linear and len(engine.quantised_layers(model)) == 14
    generated = model.generate(TOKENS, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert generated.shape == (2, 9)


def test_conv1d_is_quantised_as_the_matrix_that_it_is():
    model = tiny("gpt2")
    before = matrix(model.transformer.h[0].attn.c_attn).clone()
    layer = loftq(model, bits=8, rank=4).transformer.h[0].attn.c_attn
    assert layer.weight.shape == before.shape == (96, 32)
    assert (layer.weight - before).norm() < 0.01 * before.norm()


def test_a_shared_layer_stays_shared():
    shared = nn.Linear(32, 32)
    model = loftq(nn.Sequential(shared, nn.ReLU(), shared), bits=4, rank=4)
    assert isinstance(model[0], QuantizedLinear) and model[0] is model[2]


def test_tied_weights_are_left_alone_and_refused_by_name():
    model = tiny("llama", tie_word_embeddings=True)
    assert loftq(model, bits=4, rank=4, exclude=[]).lm_head.weight is not None
    with pytest.raises(ParameterError, match="tied"):
        loftq(model, bits=4, rank=4, include=["lm_head"], exclude=[])


def test_the_model_is_copied_unless_inplace():
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    assert loftq(model, rank=4) is not model
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert loftq(model, rank=4, inplace=True) is model
    assert isinstance(model[0], QuantizedLinear)


def test_a_seed_gives_one_result_and_the_global_generator_is_left_alone():
    model = nn.Sequential(nn.Linear(200, 200))
    state = torch.get_rng_state()
    first, second, other = (loftq(model, bits=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0].lora_A, second[0].lora_A) and not torch.equal(first[0].lora_A, other[0].lora_A)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits"),
        ({"bits": 9}, "bits"),
        ({"bits": 3.5}, "bits must be whole unless mixed"),
        ({"bits": 5, "mixed": True}, "bits must be from 2 to 4"),
        ({"bits": math.nan}, "bits"),
        ({"bits": "4"}, "bits"),
        ({"rank": 0}, "rank"),
        ({"rank": 24}, "rank must be at most the smaller side of each matrix, got 24; exclude 2"),
        ({"rank": 2.5}, "rank"),
        ({"rounds": -1}, "rounds"),
        ({"levels": "log"}, "levels"),
        ({"scale": "max"}, "scale"),
        ({"block_size": 0}, "block_size"),
        ({"keep": "first"}, "keep"),
        ({"svd": "none"}, "svd"),
        ({"seed": -1}, "seed"),
        ({"include": ["nothing"]}, "no linear layer matches .* there are: 0, 2"),
        ({"include": "0"}, "lists of patterns"),
    ],
)
def test_bad_options_are_named_and_change_nothing(options, message):
    model = mlp()
    with pytest.raises(ParameterError, match=message):
        loftq(model, **({"rank": 4, "inplace": True} | options))
    assert not any(isinstance(m, QuantizedLinear) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_named_before_anything_changes(value):
    model = mlp()
    with torch.no_grad():
        model[2].weight[3, 4] = value
    with pytest.raises(ParameterError, match=r"2\.weight must be finite"):
        loftq(model, rank=4, inplace=True)
    assert type(model[0]) is nn.Linear
    with pytest.raises(ParameterError, match="weight must be finite"):
        Quantiser().quantise(model[2].weight)


def test_meta_weights_bare_layers_and_quantised_models_are_refused():
    with pytest.raises(ParameterError, match="meta"):
        loftq(mlp().to("meta"), rank=4)
    with pytest.raises(ParameterError, match="itself a linear layer"):
        loftq(nn.Linear(8, 8), rank=4)
    with pytest.raises(ParameterError, match="no linear layer"):
        loftq(loftq(mlp(), rank=4), rank=4)
    with pytest.raises(ParameterError, match="floating matrix"):
        Quantiser().quantise(torch.zeros(3))
    with pytest.raises(ParameterError, match="4 increasing numbers"):
        Quantiser(bits=2, levels=(0.0, 0.0, 1.0, 1.0))


def test_all_zero_weights_stay_zero():
    model = nn.Sequential(nn.Linear(32, 32))
    nn.init.zeros_(model[0].weight)
    quantised = loftq(model, bits=2, rank=4)
    assert not quantised[0].weight.any() and quantised[0].lora_A.isfinite().all()


def test_mixed_precision_goes_by_order_and_not_by_substrings():
    names = [f"model.layers.{layer}.{part}" for layer in range(12) for part in ("q_proj", "mlp.up")]
    widths = mixed_precision(names, 2.25)
    assert [name for name, bits in widths.items() if bits == 4] == names[:2]
    assert set(mixed_precision(names, 4).values()) == {4} and set(mixed_precision(names, 2).values()) == {2}
    model = loftq(nn.Sequential(*(nn.Linear(16, 16) for _ in range(4))), bits=3, mixed=True, rank=2)
    assert [layer.quantiser.bits for layer in model] == [4, 4, 2, 2]


def test_layers_stay_json_and_deep_copies_compute_the_same():
    model = loftq(mlp(), bits=2, rank=4)
    assert json.loads(json.dumps(model[0].options()))["quantiser"]["bits"] == 2
    x = gaussian(3, 37)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_claims_on_one_replicate():
    for claim in (paper.below_qlora, paper.alternation_helps, paper.two_bits_rise_again, paper.bits_beat_rank):
        for arm, sign in (("main", 1), ("control", -1)):
            effect, _ = claim.effect(claim(generator("t", claim.name), **claim.arm(arm)))
            assert sign * (effect - claim.at_least) > 0, (claim.name, arm)


def test_demo():
    scores = paper.demo(generator("t"))
    assert scores["full precision"] > scores["LoftQ"] > scores["QLoRA"] > 0.5


def test_every_file_of_the_export_has_its_name(tmp_path: Path):
    to_peft(loftq(mlp(), rank=4), tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "backbone/model.safetensors"}
