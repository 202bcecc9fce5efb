"""PLATON against the paper's steps in float64 by hand, exact masks, resumed runs, heads taken out, and bad input."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from porism.errors import ParameterError
from porism.seeds import generator
from porism.surgery import linear_layers
from porism.testbeds import mlp
from porism_plugins.prune import _engine as engine
from porism_plugins.prune import _platon_experiments as measure
from porism_plugins.prune import _structured as structured
from porism_plugins.prune import platon as paper
from porism_plugins.prune._criteria import Magnitude, Movement, Sensitivity
from porism_plugins.prune._masks import keep_largest, kept_count, masks_of
from porism_plugins.prune._upper_confidence import UpperConfidence
from porism_plugins.prune._wanda import wanda
from porism_plugins.prune.platon import platon


def network(dtype: torch.dtype = torch.float32, seed: str = "net") -> nn.Sequential:
    return mlp((6, 8, 4), generator("platon", seed)).to(dtype)


def data(dtype: torch.dtype = torch.float32, steps: int = 60) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = generator("platon", "data")
    return [
        (torch.from_numpy(rng.normal(size=(5, 6))).to(dtype), torch.from_numpy(rng.integers(4, size=5)))
        for _ in range(steps)
    ]


def train(model, batches, pruner, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        pruner.step()
    return model


def by_hand(w, b, batches, *, remaining, warmup, cooldown, interval, beta1=0.85, beta2=0.95, lr=0.1):
    """Steps 1 to 7 for softmax regression, in numpy and with loops."""
    total, n = len(batches), w.size
    window, importance, uncertainty = (np.zeros_like(w) for _ in range(3))
    for t, (x, y) in enumerate(batches):
        x, y = x.numpy(), y.numpy()
        z = x @ w.T + b
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        gw, gb = p.T @ x / len(y), p.mean(0)
        w, b = w - lr * gw, b - lr * gb
        s, local = np.abs(w * gw), t % interval
        if local == 0:
            importance = beta1 * importance + (1 - beta1) * window
            uncertainty = beta2 * uncertainty + (1 - beta2) * np.abs(window - importance)
            window = s
        else:
            window = (window * local + s) / (local + 1)
        if t <= warmup:
            continue
        if t < total - cooldown:
            if t % interval:
                continue
            r = remaining + (1 - remaining) * (1 - (t - warmup) / (total - warmup - cooldown)) ** 3
        else:
            r = remaining
        k = math.floor(n * (1 - r))
        w = w.copy()
        w.flat[np.argsort((importance * uncertainty).ravel(), kind="stable")[:k]] = 0
    return w, b, importance, uncertainty


def test_equals_the_paper_step_by_step():
    model, batches = nn.Linear(6, 4).double(), data(torch.float64)
    w, b = model.weight.detach().numpy().copy(), model.bias.detach().numpy().copy()
    options = {"remaining": 0.25, "warmup": 12, "cooldown": 15, "interval": 4}
    expected = by_hand(w, b, batches, **options)
    pruner = engine.Pruner(model, UpperConfidence(interval=4), total_steps=len(batches), **options)
    train(model, batches, pruner, torch.optim.SGD(model.parameters(), lr=0.1))
    np.testing.assert_allclose(model.weight.detach().numpy(), expected[0], atol=1e-14)
    np.testing.assert_allclose(model.bias.detach().numpy(), expected[1], atol=1e-14)
    for name, average in zip(("importance", "uncertainty"), expected[2:], strict=True):
        np.testing.assert_allclose(pruner.state[""][name].numpy(), average, atol=1e-15)
    assert torch.count_nonzero(model.weight) == 6


@given(st.integers(1, 500), st.integers(1, 1000))
def test_the_count_is_that_of_exact_decimals(total, thousandths):
    assert kept_count(total, thousandths / 1000) == -(-total * thousandths // 1000)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
def test_ties_are_kept_in_their_order(values, drawn):
    kept = drawn.draw(st.integers(0, len(values)))
    mask = keep_largest(torch.tensor(values, dtype=torch.float32), kept)
    best = sorted(range(len(values)), key=lambda place: (-values[place], place))[:kept]
    assert mask.nonzero()[:, 0].tolist() == sorted(best)


@pytest.mark.parametrize("scores", ["normal", "sorted", "two values", "heavy tails", "zeros and few"])
@pytest.mark.parametrize("share", [0.0001, 0.03, 0.5, 0.97])
def test_large_masks_agree_with_a_sort(scores, share):
    rng, n = generator("platon", scores), 400_000
    x = {
        "normal": lambda: rng.normal(size=n),
        "sorted": lambda: np.sort(rng.normal(size=n)),
        "two values": lambda: rng.integers(2, size=n).astype(float),
        "heavy tails": lambda: rng.standard_cauchy(size=n) ** 3,
        "zeros and few": lambda: np.where(rng.random(n) < 0.01, rng.random(n), 0.0),
    }[scores]()
    values = torch.from_numpy(x).float()
    mask, kept = keep_largest(values, int(n * share)), int(n * share)
    order = torch.argsort(values, descending=True, stable=True)[:kept]
    expected = torch.zeros(n, dtype=torch.bool).index_fill_(0, order, True)
    assert torch.equal(mask, expected)


def test_scopes_are_a_threshold_over_all_a_matrix_or_a_row():
    scores = {"a": torch.tensor([[9.0, 8.0], [7.0, 6.0]]), "b": torch.tensor([[1.0, 2.0], [4.0, 3.0]])}
    assert [m.int().tolist() for m in masks_of(scores, 0.5, "global").values()] == [[[1, 1], [1, 1]], [[0, 0], [0, 0]]]
    assert [m.int().tolist() for m in masks_of(scores, 0.5, "layer").values()] == [[[1, 1], [0, 0]], [[0, 0], [1, 1]]]
    assert [m.int().tolist() for m in masks_of(scores, 0.5, "row").values()] == [[[1, 0], [1, 0]], [[0, 1], [1, 0]]]
    ties = masks_of({"a": torch.tensor([[1.0, 1, 1, 1], [1, 2, 1, 1]])}, 0.5, "row")["a"]
    assert ties.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


def test_magnitude_is_that_of_torch():
    layer = nn.Linear(30, 20)
    theirs = copy.deepcopy(layer)
    torch_prune.remove(torch_prune.l1_unstructured(theirs, "weight", 0.7), "weight")
    ours = engine.prune(layer, lambda weight, _: weight.abs(), remaining=0.3)
    assert torch.equal(ours.weight, theirs.weight)
    model, other = network(), network()
    pairs = [(layer, "weight") for layer in other if isinstance(layer, nn.Linear)]
    torch_prune.global_unstructured(pairs, pruning_method=torch_prune.L1Unstructured, amount=0.6)
    ours = engine.prune(model, lambda weight, _: weight.abs(), remaining=0.4, scope="global")
    assert all(torch.equal(ours[n].weight, other[n].weight) for n in (0, 2))


def test_wanda_is_magnitude_times_the_norm_of_the_input_within_rows():
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.tensor([[1.0, 10.0, 0.1, 1.0], [1.0, 0.0, 0.1, 2.0]])
    pruned = wanda(model, remaining=0.5, calibration=[x[:1], x[1:]])[0].weight
    scores = model[0].weight.abs() * x.norm(dim=0)
    expected = torch.where(scores >= scores.topk(2).values[:, 1:], model[0].weight, torch.zeros(()))
    assert torch.equal(pruned, expected)


@pytest.mark.parametrize("criterion", [UpperConfidence(), Magnitude(), Movement(), Sensitivity()], ids=repr)
@pytest.mark.parametrize("remaining", [0.03, 0.2, 0.77])
def test_the_budget_is_met_exactly(criterion, remaining):
    model = network()
    pruner = engine.Pruner(model, criterion, remaining=remaining, total_steps=60)
    train(model, data(), pruner)
    before = copy.deepcopy(model.state_dict())
    assert pruner.finish() is model
    zeros = sum(int((layer.weight == 0).sum()) for layer in pruner.layers.values())
    assert zeros == 80 - kept_count(80, remaining)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the last mask stands"
    assert type(model[0]) is nn.Linear and not model[0]._forward_pre_hooks


def test_finish_before_the_end_meets_the_budget_too():
    model = network()
    pruner = engine.Pruner(model, UpperConfidence(), remaining=0.1, total_steps=1000)
    train(model, data(), pruner).state_dict()
    pruner.finish()
    assert sum(int(torch.count_nonzero(layer.weight)) for layer in pruner.layers.values()) == 8


def test_zeros_come_back_during_training_and_can_be_held_after():
    model, batches = network(), data()
    pruner = engine.Pruner(model, Magnitude(), remaining=0.5, total_steps=60, warmup=0, cooldown=1, interval=30)
    train(model, batches[:31], pruner)
    assert (model[0].weight == 0).any() or (model[2].weight == 0).any()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, batches[31:32], pruner, optimizer)
    assert sum(int(torch.count_nonzero(layer.weight)) for layer in pruner.layers.values()) > 60, "but for dead units"
    pruner.finish()
    held = engine.hold_zeros(model)
    train(held, batches, engine.Pruner(nn.Linear(1, 1), Magnitude(), remaining=1.0, total_steps=99))
    assert sum(int(torch.count_nonzero(model[n].weight)) for n in (0, 2)) == 40


def test_a_resumed_run_is_the_same_bit_for_bit():
    batches = data()

    def start():
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        return model, optimizer, engine.Pruner(model, UpperConfidence(), remaining=0.2, total_steps=60)

    model, optimizer, pruner = start()
    train(model, batches[:27], pruner, optimizer)
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), pruner.state_dict()], buffer)
    train(model, batches[27:], pruner, optimizer)
    buffer.seek(0)
    resumed = start()
    for what, state in zip(resumed, torch.load(buffer, weights_only=True), strict=True):
        what.load_state_dict(state)
    train(resumed[0], batches[27:], resumed[2], resumed[1])
    assert all(torch.equal(value, resumed[0].state_dict()[name]) for name, value in model.state_dict().items())


def test_a_state_of_another_model_is_refused():
    model = network()
    pruner = engine.Pruner(model, UpperConfidence(), remaining=0.2, total_steps=60)
    train(model, data()[:3], pruner)
    with pytest.raises(ParameterError, match=r"importance of 0 has shape|window of 0 has shape"):
        engine.Pruner(nn.Sequential(nn.Linear(3, 3)), UpperConfidence(), remaining=0.2, total_steps=60).load_state_dict(
            pruner.state_dict()
        )
    with pytest.raises(ParameterError, match="a layer '0' that is not pruned"):
        engine.Pruner(nn.Linear(6, 8), UpperConfidence(), remaining=0.2, total_steps=60).load_state_dict(
            pruner.state_dict()
        )


def test_layers_without_gradients_are_left_alone_and_not_counted():
    model = network()
    model[0].weight.requires_grad_(False)
    pruner = engine.Pruner(model, UpperConfidence(), remaining=0.25, total_steps=60)
    before = model[0].weight.clone()
    train(model, data(), pruner).state_dict()
    assert torch.equal(model[0].weight, before)
    assert torch.count_nonzero(model[2].weight) == 8

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x):
            return self.used(x)

    model = Unused()
    train(model, data(), engine.Pruner(model, UpperConfidence(), remaining=0.25, total_steps=60))
    assert (torch.count_nonzero(model.used.weight), torch.count_nonzero(model.unused.weight)) == (6, 24)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    model = network(dtype)
    pruner = engine.Pruner(model, UpperConfidence(), remaining=0.1, total_steps=60)
    train(model, data(dtype), pruner)
    assert {p.dtype for p in model.parameters()} == {dtype}
    kinds = {value.dtype for state in pruner.state.values() for value in state.values()}
    assert kinds == {torch.promote_types(dtype, torch.float32)}
    assert sum(int(torch.count_nonzero(layer.weight)) for layer in pruner.layers.values()) <= 8


def test_half_precision_products_do_not_underflow():
    weight = torch.full((2, 2), 1e-3, dtype=torch.float16, requires_grad=True)
    state: dict[str, torch.Tensor] = {}
    Sensitivity().update(weight, torch.full((2, 2), 1e-6, dtype=torch.float16), state, 0)
    assert (state["sensitivity"] > 0).all()


def test_the_function_trains_a_copy_and_leaves_the_rest_of_the_world_alone():
    model, batches = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4)), data(steps=8)
    model[1].eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    runs = [platon(model, remaining=0.2, calibration=batches, steps=60, learning_rate=0.01) for _ in range(2)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, runs[1].state_dict()[name]) for name, value in runs[0].state_dict().items())
    assert not torch.equal(runs[0][0].bias, model[0].bias), "it is trained"
    assert [m.training for m in runs[0]] == [True, False, True]
    assert all(p.grad is None for p in runs[0].parameters())
    assert platon(model, remaining=1.0, calibration=batches, inplace=True) is model
    other = platon(model, remaining=0.2, calibration=batches, steps=60, learning_rate=0.01, seed=1)
    assert not torch.equal(runs[0][0].bias, other[0].bias), "dropout depends on the seed"


def test_an_iterator_of_batches_is_used_over_and_over():
    model, batches = network(), data(steps=3)
    ours = [platon(model, remaining=0.2, calibration=c, steps=60) for c in (batches, iter(batches))]
    assert torch.equal(ours[0][0].weight, ours[1][0].weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remaining": 0.0}, r"remaining must be float in \(0, 1\], got 0.0"),
        ({"remaining": 1.01}, "remaining"),
        ({"remaining": math.nan}, "remaining"),
        ({"remaining": "half"}, "remaining"),
        ({"steps": 0}, "total_steps|warmup and cooldown"),
        ({"steps": 20}, "warmup and cooldown must be less than total_steps 20 together, got 20"),
        ({"interval": 0}, "interval"),
        ({"warmup": -1}, "warmup"),
        ({"cooldown": 2.5}, "cooldown"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": 2.0}, "beta2"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"calibration": []}, "calibration batches are empty"),
        ({"calibration": [torch.zeros(2, 6)]}, r"calibration: give pairs \(inputs, labels\)"),
        (
            {"calibration": [(torch.full((2, 6), math.nan), torch.tensor([0, 1]))]},
            "calibration: the loss is nan at step 0",
        ),
        ({"include": ["attention.*"]}, r"no linear layer matches .* there are: 0, 2"),
        ({"include": "0"}, "must be lists of patterns"),
        ({"structured": True, "include": ["0"]}, "structured: no channels or heads known among 0"),
    ],
)
def test_bad_options_are_named(options, message):
    given_ = {"remaining": 0.5, "calibration": data(steps=2), "steps": 60} | options
    with pytest.raises(ParameterError, match=message):
        platon(network(), **given_)


def test_weights_that_cannot_be_pruned_are_named():
    tied = nn.Sequential(nn.Embedding(4, 6), nn.Linear(6, 4, bias=False), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert list(engine.Pruner(tied, Magnitude(), remaining=0.5, total_steps=60).layers) == ["2"]
    with pytest.raises(ParameterError, match=r"1\.weight is tied to 0\.weight"):
        engine.Pruner(tied, Magnitude(), remaining=0.5, total_steps=60, include=["1"])
    with pytest.raises(ParameterError, match="meta"):
        engine.Pruner(network().to("meta"), Magnitude(), remaining=0.5, total_steps=60)
    frozen = network()
    frozen[2].requires_grad_(False)
    with pytest.raises(ParameterError, match="2: frozen"):
        engine.Pruner(frozen, Magnitude(), remaining=0.5, total_steps=60, include=["2"])
    with pytest.raises(ParameterError, match="scope must be"):
        engine.Pruner(network(), Magnitude(), remaining=0.5, total_steps=60, scope="column")
    with pytest.raises(ParameterError, match="no gradient has reached"):
        engine.Pruner(network(), Magnitude(), remaining=0.5, total_steps=60).finish()
    with pytest.raises(ParameterError, match="scores are NaN"):
        engine.prune(network(), lambda weight, _: weight * math.nan, remaining=0.5)


def test_a_shared_layer_is_pruned_once():
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    pruned = engine.prune(model, lambda weight, _: weight.abs(), remaining=0.5)
    assert pruned[0] is pruned[2] and torch.count_nonzero(pruned[0].weight) == 18


def test_channels_taken_out_compute_what_zeroed_ones_do():
    model = mlp((6, 8, 10, 4), generator("platon", "channels"))
    x = torch.from_numpy(generator("platon", "x").normal(size=(5, 6))).float()
    small = engine.prune(model, lambda weight, _: weight.abs(), remaining=0.5, structured=True)
    assert [tuple(small[n].weight.shape) for n in (0, 2, 4)] == [(4, 6), (5, 4), (4, 5)]
    assert [(small[n].in_features, small[n].out_features) for n in (0, 2, 4)] == [(6, 4), (4, 5), (5, 4)]
    layers = linear_layers(model)
    blocks = structured.blocks_of(model, layers)
    groups = structured.group_masks(blocks, {n: m.weight.detach().abs() for n, m in layers.items()}, 0.5)
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for block in blocks:  # what leaves a channel counts, whatever flows into it
            zeroed.get_submodule(block.parts[-1].layer).weight[:, ~groups[block.name]] = 0
    torch.testing.assert_close(small(x), zeroed(x))
    assert model[0].weight.shape == (8, 6)


def test_structured_training_ends_small():
    model = network()
    pruner = engine.Pruner(model, UpperConfidence(), remaining=0.5, total_steps=60, structured=True)
    train(model, data(), pruner)
    alive = model[0].weight.abs().sum(1) > 0
    assert alive.sum() == 4
    expected, x = model(torch.ones(1, 6)), torch.ones(1, 6)
    dead_bias = (nn.functional.relu(model[0].bias) * ~alive) @ model[2].weight.T  # columns are zero as well
    assert not dead_bias.any()
    torch.testing.assert_close(pruner.finish()(x), expected)
    assert model[0].weight.shape == (4, 6) and model[2].weight.shape == (4, 4)


def test_heads_of_a_grouped_query_llama(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=True, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.arange(12).view(2, 6)
    small = engine.prune(model, lambda weight, _: weight.abs(), remaining=0.5, structured=True)
    attention = small.model.layers[1].self_attn
    shapes = [tuple(getattr(attention, f"{name}_proj").weight.shape) for name in "qkvo"]
    assert shapes == [(16, 32), (8, 32), (8, 32), (32, 16)]
    assert attention.q_proj.bias.shape == (16,)
    layers = linear_layers(model)
    blocks = structured.blocks_of(model, layers)
    zeroed = copy.deepcopy(model)
    copies = linear_layers(zeroed)
    groups = structured.group_masks(blocks, {n: m.weight.detach().abs() for n, m in layers.items()}, 0.5)
    engine.apply_masks(copies, structured.weight_masks(blocks, copies, groups))
    with torch.no_grad():
        torch.testing.assert_close(small(tokens).logits, zeroed(tokens).logits)
        cached = small.generate(tokens[:1], max_new_tokens=4, do_sample=False, use_cache=True)
        plain = small.generate(tokens[:1], max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)
    assert (small.config.num_attention_heads, small.config.num_key_value_heads, small.config.intermediate_size) == (
        2,
        1,
        12,
    )
    small.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, small(tokens).logits)
    assert model.config.num_key_value_heads == 2, "the model's own config is left alone"


def test_a_transformers_model_needs_no_labels_and_no_loss():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    pruned = platon(
        model, remaining=0.2, calibration=[{"input_ids": torch.arange(12).view(2, 6)}], steps=50, exclude=["lm_head"]
    )
    layers = linear_layers(pruned, exclude=["lm_head"])
    total = sum(layer.weight.numel() for layer in layers.values())
    assert sum(int(torch.count_nonzero(layer.weight)) for layer in layers.values()) == kept_count(total, 0.2)
    assert pruned.lm_head.weight.all()


def test_attention_with_norms_over_all_heads_is_refused():
    class Attention(nn.Module):
        head_dim = 4

        def __init__(self):
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(8, 8) for _ in range(4))
            self.q_norm = nn.LayerNorm(8)

    with pytest.raises(ParameterError, match=r"q_norm\.weight of 8 numbers would not fit fewer heads"):
        engine.prune(Attention(), lambda weight, _: weight.abs(), remaining=0.5, structured=True)


def test_demo_and_claims_run_small():
    rng = generator("platon", "claims")
    assert paper.budget_is_exact(rng, criterion="movement") > 0 > paper.budget_is_exact(rng, rule="<")
    assert paper.whole_budget_changes_nothing(rng) > 0 > paper.whole_budget_changes_nothing(rng, remaining=0.5)
    found = measure.accuracies(rng, [UpperConfidence(), Sensitivity()], 0.05, steps=150)
    assert found[0] > found[1] > 0.2
