"""LoSparse against its steps in float64 by hand, exact starts and budgets, compact layers of any kind, and bad input."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from porism.errors import ParameterError
from porism.seeds import generator
from porism.surgery import matrix
from porism.testbeds import mlp
from porism_plugins.prune import _losparse_experiments as measure
from porism_plugins.prune import _losparse_invariants as invariant
from porism_plugins.prune import _losparse_layer as layers_
from porism_plugins.prune import losparse as paper
from porism_plugins.prune._criteria import Magnitude
from porism_plugins.prune._engine import Pruner
from porism_plugins.prune._losparse_layer import DecomposedLinear, LowRankSparseLinear, dense
from porism_plugins.prune._losparse_method import chosen, plan, row_pruner
from porism_plugins.prune._masks import line_masks
from porism_plugins.prune._training import finetune
from porism_plugins.prune._upper_confidence import UpperConfidence
from porism_plugins.prune.losparse import losparse


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return mlp((16, 32, 24, 4), generator("losparse", "net")).to(dtype)


def data(dtype: torch.dtype = torch.float32, steps: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = generator("losparse", "data")
    return [
        (torch.from_numpy(rng.normal(size=(5, 16))).to(dtype), torch.from_numpy(rng.integers(4, size=5)))
        for _ in range(steps)
    ]


def small(model: nn.Module | None = None, **options) -> nn.Module:
    calls = {"remaining": 0.5, "low_rank": 0.1, "calibration": data(), "steps": 60, "learning_rate": 0.01}
    return losparse(model or network(), **calls | options)


def compact_layers(model: nn.Module) -> dict[str, LowRankSparseLinear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LowRankSparseLinear)}


def by_hand(W, b, batches, *, rank, kept_numbers, warmup, cooldown, interval, beta1=0.85, lr=0.1):
    """Steps 2 to 7 of the card for softmax regression, in numpy and with loops."""
    u, s, vh = np.linalg.svd(W)
    U, V = u[:, :rank] * np.sqrt(s[:rank]), np.sqrt(s[:rank])[:, None] * vh[:rank]
    S, total, inputs = W - U @ V, len(batches), W.shape[1]
    window, importance = np.zeros_like(S), np.zeros_like(S)
    p = (kept_numbers + 0.5) / S.size
    for t, (x, y) in enumerate(batches):
        x, y = x.numpy(), y.numpy()
        z = x @ (U @ V + S).T + b
        g = np.exp(z - z.max(1, keepdims=True))
        g /= g.sum(1, keepdims=True)
        g[np.arange(len(y)), y] -= 1
        g /= len(y)
        G = g.T @ x
        U, V, S, b = U - lr * G @ V.T, V - lr * U.T @ G, S - lr * G, b - lr * g.sum(0)
        local = t % interval
        if local == 0:
            importance = beta1 * importance + (1 - beta1) * window
            window = np.abs(S * G)
        else:
            window = (window * local + np.abs(S * G)) / (local + 1)
        if t <= warmup or (t < total - cooldown and t % interval):
            continue
        left = max(0.0, 1 - (t - warmup) / (total - warmup - cooldown)) if t < total - cooldown else 0.0
        rows = math.floor((p + (1 - p) * left**3) * S.size / inputs)
        S = S.copy()
        S[np.argsort(-importance.mean(1), kind="stable")[rows:]] = 0
    return U, V, S, b


def test_equals_the_paper_step_by_step():
    model, batches = nn.Sequential(nn.Linear(16, 12)).double(), data(torch.float64, steps=60)
    W, b = model[0].weight.detach().numpy().copy(), model[0].bias.detach().numpy().copy()
    options = {"warmup": 12, "cooldown": 15, "interval": 4}
    U, V, S, b = by_hand(W, b, batches, rank=2, kept_numbers=5 * 16, **options)
    layers_.decompose(model, ["0"], {"0": 2})
    pruner = row_pruner(model, UpperConfidence(beta2=1.0, interval=4), ["0"], 80.5 / 192, total_steps=60, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        pruner.step()
    signs = np.sign((model[0].U.detach().numpy() * U).sum(0))
    np.testing.assert_allclose(model[0].U.detach().numpy(), signs * U, atol=1e-12)
    np.testing.assert_allclose(model[0].V.detach().numpy(), signs[:, None] * V, atol=1e-12)
    np.testing.assert_allclose(model[0].sparse.weight.detach().numpy(), S, atol=1e-12)
    np.testing.assert_allclose(model[0].bias.detach().numpy(), b, atol=1e-12)
    assert (S != 0).any(1).sum() == 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_the_start_is_the_layer(rank, dtype):
    layer = mlp((16, 12), generator("losparse", "start"))[0].to(dtype)
    split = DecomposedLinear(layer, rank)
    exact, sparse = layer.weight.detach().double(), split.sparse.weight.detach().double()
    step, wide = torch.finfo(dtype).eps, torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    lost = (split.U.double() @ split.V.double() + sparse - exact).abs().max()
    assert lost <= step * sparse.abs().max() + 16 * wide, "only S is rounded, not what U V lacks"
    assert split.weight.dtype == dtype and split.bias is layer.bias
    x = torch.ones(3, 16, dtype=dtype)
    torch.testing.assert_close(split(x), layer(x), rtol=20 * step, atol=20 * step)
    if rank == 12:
        assert sparse.abs().max() <= 16 * step, "sums of 12 products, all below 1, are all that rounding leaves"


@given(st.floats(0.01, 0.99), st.integers(2, 60), st.integers(2, 60), st.floats(0.01, 1))
def test_ranks_hold_the_share_and_no_more_than_another_rank(share, rows, inputs, most):
    rank = layers_.rank_of(rows, inputs, share, most)
    if rank:
        assert share * rows * inputs <= rank * (rows + inputs) + 1e-9
        assert (rank - 1) * (rows + inputs) < share * rows * inputs
        assert rank * (rows + inputs) < rows * inputs and rows + inputs <= most * rows * inputs
    else:
        whole = math.ceil(share * rows * inputs / (rows + inputs)) * (rows + inputs) >= rows * inputs
        assert whole or rows + inputs > most * rows * inputs


@pytest.mark.parametrize("structure", ["row", "column"])
@pytest.mark.parametrize(("remaining", "low_rank"), [(0.5, 0.1), (0.3, 0.0), (0.35, 0.25), (0.77, 0.05)])
def test_the_budget_is_met_but_for_one_line(remaining, low_rank, structure):
    before, after = network(), small(remaining=remaining, low_rank=low_rank, structure=structure)
    weights = [layer.weight.numel() for layer in before if isinstance(layer, nn.Linear)]
    numbers = invariant.counted(after)
    assert numbers <= remaining * sum(weights)
    merged = sum(1 for layer in after if isinstance(layer, nn.Linear))
    if not merged:
        assert numbers > remaining * sum(weights) - 32, "no line is longer than 32"
    stored = sum(p.numel() for p in after.parameters()) - sum(
        layer.bias.numel() for layer in before if isinstance(layer, nn.Linear)
    )
    assert stored == numbers


def test_lines_compete_by_their_mean_and_stop_where_the_next_does_not_fit():
    scores = {"long": torch.tensor([[1.0, 1, 1, 1], [3, 3, 3, 3]]), "short": torch.tensor([[2.0], [4.0], [0.5]])}
    kept = {share: [m[:, 0].int().tolist() for m in line_masks(scores, share).values()] for share in (0.5, 0.54, 0.55)}
    assert kept[0.5] == [[0, 1], [0, 1, 0]], "1 + 4 of 5.5"
    assert kept[0.54] == [[0, 1], [0, 1, 0]]
    assert kept[0.55] == [[0, 1], [1, 1, 0]], "6 of 6.05"
    columns = line_masks({"a": torch.tensor([[1.0, 5.0], [1.0, 0.0]])}, 0.5, "column")["a"]
    assert columns.tolist() == [[False, True], [False, True]]
    ties = line_masks({"a": torch.ones(4, 2)}, 0.5)["a"][:, 0]
    assert ties.tolist() == [True, True, False, False]
    with pytest.raises(ParameterError, match="scores are NaN"):
        line_masks({"a": torch.full((2, 2), math.nan)}, 0.5)


def test_the_function_is_smoothed_sensitivity_in_the_engine():
    by_parts = network()
    layers = chosen(by_parts)
    ranks, share = plan(layers, remaining=0.5, low_rank=0.1)
    layers_.decompose(by_parts, layers, ranks)
    pruner = row_pruner(by_parts, UpperConfidence(beta2=1.0), layers, share, total_steps=60)
    layers_.compact(finetune(by_parts, data(), pruner, learning_rate=0.01))
    whole = small()
    assert all(torch.equal(value, by_parts.state_dict()[name]) for name, value in whole.state_dict().items())


def test_masks_are_whole_rows_at_every_step():
    model = network()
    layers = chosen(model)
    ranks, share = plan(layers, remaining=0.4, low_rank=0.1)
    layers_.decompose(model, layers, ranks)
    pruner = row_pruner(model, UpperConfidence(beta2=1.0), layers, share, total_steps=60)
    optimizer, kept = torch.optim.Adam(model.parameters(), lr=0.01), []
    for x, y in data(steps=60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        masked = pruner.steps > pruner.warmup and (pruner.steps % 10 == 0 or pruner.steps >= 60 - pruner.cooldown)
        pruner.step()
        if masked:
            rows = [(layer.weight != 0).sum(1) for layer in pruner.layers.values()]
            assert all(set(row.tolist()) <= {0, layer.weight.shape[1]} for row, layer in
                       zip(rows, pruner.layers.values(), strict=True))  # fmt: skip
            kept.append(sum(int(row.sum()) for row in rows))
    assert kept == sorted(kept, reverse=True) and kept[-1] < kept[0], "fewer from mask to mask"


@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 3, 16), (0, 16), (1, 1, 1, 16)])
@pytest.mark.parametrize("structure", ["row", "column"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rank", "kept"), [(2, 3), (0, 3), (2, 0), (0, 0)])
def test_compact_layers_take_any_batch(shape, structure, bias, rank, kept):
    rng = generator("losparse", "layer")
    layer = LowRankSparseLinear(16, 12, rank=rank, kept=kept, structure=structure, bias=bias)
    for tensor in layer.parameters():
        tensor.data.copy_(torch.from_numpy(rng.normal(size=tensor.shape)))
    layer.lines.copy_(torch.from_numpy(rng.permutation(12)[:kept]))
    x = torch.from_numpy(rng.normal(size=shape)).float().requires_grad_()
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    layer(x).square().sum().backward()
    assert x.grad.shape == x.shape and layer.inner.grad.shape == layer.inner.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    if dtype == torch.float16:  # Adamax divides by what underflows there; only the layer is tried
        layer = nn.Sequential(nn.Linear(16, 12)).to(dtype)
        layers_.decompose(layer, ["0"], {"0": 2})
        layer[0].sparse.weight.data[3:] = 0
        after = layers_.compact(layer)
    else:
        after = small(network(dtype), calibration=data(dtype))
    assert {p.dtype for p in after.parameters()} == {dtype}
    assert after(torch.ones(2, 16, dtype=dtype)).dtype == dtype
    assert compact_layers(after)


def test_autocast_and_half():
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(torch.ones(2, 3, 16))
    assert out.dtype == torch.bfloat16
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert half(torch.ones(2, 16, dtype=torch.bfloat16)).isfinite().all()
    assert all(layer.lines.dtype == torch.int32 for layer in compact_layers(half).values())
    assert all(layer.options()["dtype"] == "bfloat16" for layer in compact_layers(half).values())


def test_layers_are_rebuilt_from_options_and_state():
    model = small(structure="column")
    for layer in compact_layers(model).values():
        options = json.loads(json.dumps(layer.options()))
        empty = LowRankSparseLinear.from_options(layer.in_features, layer.out_features, **options)
        empty.load_state_dict(load(save(dict(layer.state_dict()))))
        x = torch.ones(2, layer.in_features)
        assert torch.equal(empty(x), layer(x)) and torch.equal(empty.weight, layer.weight)
        assert empty.options() == layer.options()
        assert layer.nbytes() == 4 * (layer.kept_weights + layer.out_features + layer.kept)
    assert (LowRankSparseLinear,) == paper.LAYERS
    meta = LowRankSparseLinear.from_options(8, 4, device="meta", rank=1, kept=2)
    assert meta.inner.is_meta and meta.lines.is_meta


def test_dense_gives_ordinary_layers_that_compute_the_same():
    model, x = small(), torch.from_numpy(generator("losparse", "x").normal(size=(7, 16))).float()
    merged = dense(model)
    assert all(type(layer) in (nn.Linear, nn.ReLU) for layer in merged)
    torch.testing.assert_close(merged(x), model(x), rtol=1e-5, atol=1e-5)
    assert compact_layers(model), "the model itself is left alone"
    with pytest.raises(ParameterError, match="no layer of factors and rows"):
        dense(merged)


def test_a_kept_row_that_sums_to_zero_stays():
    model = nn.Sequential(nn.Linear(4, 6))
    layers_.decompose(model, ["0"], {"0": 1})
    model[0].sparse.weight.data.zero_()
    model[0].sparse.weight.data[2, :2] = torch.tensor([1.0, -1.0])
    layer = layers_.compact(model)[0]
    assert layer.lines.tolist() == [2] and layer.inner[1].tolist() == [1, -1, 0, 0]


def test_layers_that_would_grow_become_dense_or_have_no_factors():
    assert layers_.rank_of(1, 256, 0.05) == 0 and layers_.rank_of(2, 2, 0.99) == 0
    model = nn.Sequential(nn.Linear(8, 8))
    layers_.decompose(model, ["0"], {"0": 2})
    before = model(torch.eye(8))
    assert type(layers_.compact(model)[0]) is nn.Linear, "32 + 64 numbers are more than 64"
    torch.testing.assert_close(model(torch.eye(8)), before, rtol=1e-5, atol=1e-6)
    after = small(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), remaining=0.2, low_rank=0.1)
    assert after[2].rank == 0, "rank 1 would take 36 of 128"


def test_output_heads_embeddings_and_poolers_are_left_alone():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body = nn.Embedding(16, 16), nn.Linear(16, 16)
            self.pooler, self.lm_head = nn.ModuleDict({"dense": nn.Linear(16, 16)}), nn.Linear(16, 4, bias=False)
            self.lm_head.weight = nn.Parameter(self.embed.weight[:4].detach().clone())

    assert list(chosen(Model())) == ["body"]
    assert list(chosen(Model(), exclude=["body"])) == ["pooler.dense", "lm_head"]


def test_the_function_trains_a_copy_and_leaves_the_rest_of_the_world_alone():
    model = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.Linear(32, 4))
    model[:2].eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    runs = [small(model) for _ in range(2)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, runs[1].state_dict()[name]) for name, value in runs[0].state_dict().items())
    assert not torch.equal(runs[0][0].bias, model[0].bias), "it is trained"
    assert [m.training for m in runs[0]] == [False, False, True]
    assert all(p.grad is None for p in runs[0].parameters())
    assert small(model, inplace=True, remaining=1.0) is model and type(model[0]) is nn.Linear
    other = small(model, seed=1)
    assert not torch.equal(runs[0][0].bias, other[0].bias), "dropout depends on the seed"
    assert small(model, inplace=True) is model and compact_layers(model)


def test_a_whole_budget_changes_nothing():
    model = network()
    after = small(model, remaining=1.0, low_rank=0.0)
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_shared_layer_is_compressed_once_and_stays_shared():
    layer = nn.Linear(16, 16)
    after = small(nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(16, 4)), include=["0"])
    assert after[0] is after[2] and isinstance(after[0], LowRankSparseLinear)


def test_compressing_twice_is_refused_where_nothing_is_left():
    once = small(exclude=["4"], remaining=0.3)
    assert len(compact_layers(once)) == 2
    with pytest.raises(ParameterError, match="no linear layer matches"):
        small(once, exclude=["4"])


def test_frozen_layers_are_left_alone_or_named():
    model = network()
    model[0].requires_grad_(False)
    after = small(model)
    assert type(after[0]) is nn.Linear and torch.equal(after[0].weight, model[0].weight)
    with pytest.raises(ParameterError, match="0: frozen"):
        small(model, include=["0"])


def test_weights_that_cannot_be_compressed_are_named():
    tied = nn.Sequential(nn.Embedding(4, 16), nn.Linear(16, 4, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ParameterError, match=r"1\.weight is tied to 0\.weight"):
        small(tied, include=["1"])
    with pytest.raises(ParameterError, match="meta"):
        small(network().to("meta"))
    quantised = network()
    quantised[0].weight = nn.Parameter(torch.zeros(32, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ParameterError, match="already quantised"):
        small(quantised)
    with pytest.raises(ParameterError, match="model is itself a linear layer"):
        small(nn.Linear(16, 4))
    bad = network()
    bad[2].weight.data[0, 0] = math.nan
    with pytest.raises(ParameterError, match=r"2\.weight must be finite"):
        small(bad)

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ParameterError, match="no gradient has reached unused"):
        small(Unused())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remaining": 0.0}, r"remaining must be float in \(0, 1\], got 0.0"),
        ({"remaining": 1.01}, "remaining"),
        ({"remaining": math.nan}, "remaining"),
        ({"remaining": "half"}, "remaining"),
        ({"low_rank": -0.1}, "low_rank"),
        ({"low_rank": math.nan}, "low_rank"),
        ({"low_rank": 1.0}, "low_rank"),
        ({"low_rank": 0.6}, r"low_rank must be at most remaining 0.5"),
        ({"low_rank": 0.5}, r"low_rank=0.5 takes 736 of 1376 weights, .* allows 688; lower low_rank"),
        ({"structure": "block"}, "structure must be 'row' or 'column'"),
        ({"steps": 0}, "total_steps|warmup and cooldown"),
        ({"steps": 20}, "warmup and cooldown must be less than total_steps 20 together, got 20"),
        ({"interval": 0}, "interval"),
        ({"warmup": -1}, "warmup"),
        ({"cooldown": 2.5}, "cooldown"),
        ({"beta1": 1.0}, "beta1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"calibration": []}, "calibration batches are empty"),
        ({"calibration": [torch.zeros(2, 16)]}, r"calibration: give pairs \(inputs, labels\)"),
        (
            {"calibration": [(torch.full((2, 16), math.nan), torch.tensor([0, 1]))]},
            "calibration: the loss is nan at step 0",
        ),
        ({"include": ["attention.*"]}, r"no linear layer matches .* there are: 0, 2, 4"),
        ({"include": "0"}, "must be lists of patterns"),
    ],
)
def test_bad_options_are_named_and_leave_the_model_alone(options, message):
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ParameterError, match=message):
        small(model, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_units_of_a_pruner_are_checked():
    with pytest.raises(ParameterError, match="unit must be"):
        Pruner(network(), Magnitude(), remaining=0.5, total_steps=60, unit="block")
    with pytest.raises(ParameterError, match="unit='row' goes with scope='global'"):
        Pruner(network(), Magnitude(), remaining=0.5, total_steps=60, unit="row", scope="layer")
    with pytest.raises(ParameterError, match="without structured"):
        Pruner(network(), Magnitude(), remaining=0.5, total_steps=60, unit="row", structured=True)


def test_conv1d_layers_of_gpt2():
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=30, n_positions=16)
        ).eval()
    ids = torch.arange(12).view(2, 6)
    split = copy.deepcopy(model)
    names = list(chosen(split))
    layers_.decompose(split, names, dict.fromkeys(names, 2))
    with torch.no_grad():
        torch.testing.assert_close(split(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    after = small(model, calibration=[{"input_ids": ids}])
    layers = compact_layers(after)
    assert set(layers) <= set(names) and all(layer.options()["conv1d"] for layer in layers.values())
    numbers = sum(matrix(dict(model.named_modules())[name]).numel() for name in names)
    merged = sum(matrix(after.get_submodule(n)).numel() for n in names if n not in layers)
    assert numbers * 0.5 - 64 < sum(layer.kept_weights for layer in layers.values()) + merged <= numbers * 0.5
    again = dense(after)
    assert type(again.transformer.h[0].attn.c_attn).__name__ == "Conv1D"
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, after(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_llama_generates_and_its_head_is_left_alone():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    ids = torch.arange(12).view(2, 6)
    after = small(model, calibration=[{"input_ids": ids}], steps=40).eval()
    assert type(after.lm_head) is nn.Linear and isinstance(after.model.layers[0].mlp.up_proj, LowRankSparseLinear)
    cached = after.generate(ids, max_new_tokens=4, do_sample=False, use_cache=True)
    assert torch.equal(cached, after.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False))


def test_out_proj_of_torch_attention_trains_through_its_weight():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 4)

        def forward(self, x):
            x = x[:, None]
            return self.head(self.attention(x, x, x)[0][:, 0])

    after = small(Attends(), include=["attention.out_proj"])
    assert isinstance(after.attention.out_proj, LowRankSparseLinear)
    assert after.eval()(torch.ones(2, 16)).isfinite().all()


def test_experiments_give_rivals_the_same_budget():
    task = measure.digits_task(generator("losparse", "task"), steps=60)
    total = 0.15 * (64 * 256 + 256 * 256)
    for arm in paper.ARMS:
        model = measure.compressed(task, arm, remaining=0.15, low_rank=0.05)
        numbers = invariant.counted(model) - 2560
        assert total - 256 < numbers <= total if arm != "low rank only" else total <= numbers < total + 320 + 512
        assert measure.held_out_accuracy(task, model) > 0.2


def test_claims_run_small():
    rng = generator("losparse", "claims")
    assert paper.mask_meets_the_budget(rng) > 0
    assert paper.compact_is_masked(rng) > 0 > paper.compact_is_masked(rng, alive="sum")
    assert paper.budget_is_met(rng) > 0 > paper.budget_is_met(rng, rule="rank for free")
    assert paper.fan_in_is_no_merit(rng) > 0
    found = measure.errors(measure.made_up(rng))
    assert found["both"] < found["low rank only"] < found["rows only"]
