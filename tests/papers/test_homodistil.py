"""HomoDistil against its steps by hand, neurons taken out of transformers models, saved models, and bad input."""

from __future__ import annotations

import copy
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.seeds import generator
from porism.testbeds import mlp
from porism_plugins.distill import _homodistil_blocks as blocks
from porism_plugins.distill import _homodistil_experiments as measure
from porism_plugins.distill import homodistil as paper
from porism_plugins.distill._homodistil_method import gap
from porism_plugins.distill._homodistil_path import Homotopy, sensitivity, shrinking
from porism_plugins.distill.homodistil import homodistil

IDS = torch.arange(12).view(2, 6)
KINDS = ("bert", "llama", "gpt2", "vit")


def network(*widths: int) -> nn.Sequential:
    return mlp(widths or (6, 16, 12, 4), generator("homodistil", "net"))


def data(dtype: torch.dtype = torch.float32) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = generator("homodistil", "data")
    return [(torch.from_numpy(rng.normal(size=(5, 6))).to(dtype), torch.from_numpy(rng.integers(4, size=5)))
            for _ in range(4)]  # fmt: skip


def tiny(kind: str):
    """A model of transformers with two blocks 16 wide and 24 neurons in each, and a batch of its own."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    make = {
        "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=20, **sizes)),
        "llama": lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(vocab_size=20, num_key_value_heads=1, bos_token_id=0, eos_token_id=1, **sizes)),
        "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_inner=24, n_positions=16, bos_token_id=0,
            eos_token_id=1)),
        "vit": lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **sizes)),
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make[kind]().eval()
    if kind == "vit":
        pixels = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
        return model, {"pixel_values": pixels, "labels": torch.tensor([0, 2])}
    return model, {"input_ids": IDS, "labels": IDS, "attention_mask": torch.ones_like(IDS)}


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_taken_out_compute_what_zeroed_ones_do(kind):
    model, batch = tiny(kind)
    zeroed, kept = copy.deepcopy(model), torch.tensor([0, 3, 4, 9, 23])
    found = blocks.feed_forward_blocks(model)
    assert len(found) == 2 and {blocks.width_of(model, block) for block in found} == {24}
    for block in found:
        gone = sorted(set(range(24)) - set(kept.tolist()))
        weight = blocks.matrix(zeroed.get_submodule(block.reader)).detach()
        weight[:, gone] = 0
        blocks.keep_neurons(model, block, kept)
        assert blocks.width_of(model, block) == 5 and blocks.first_width(model, block) == 24
    torch.testing.assert_close(logits(model, batch), logits(zeroed, batch), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrowed_transformers_model_is_saved_and_loaded_as_an_ordinary_one(kind, tmp_path):
    model, batch = tiny(kind)
    before, history = copy.deepcopy(model.state_dict()), []
    small = homodistil(model, remaining=0.25, calibration=[batch], steps=12, interval=2, history=history)
    found = blocks.feed_forward_blocks(small)
    assert {blocks.width_of(small, block) for block in found} == {6}
    assert history[0].gap == pytest.approx(0, abs=1e-6) and history[-1].gap > 1e-6
    assert [point.step for point in history] == [0, 2, 4, 6, 8, 10, 12] and history[-1].width == 0.25
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(logits(small, batch), logits(model, batch))
    small.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again, batch), logits(small, batch), atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["mlp", "llama", "gpt2"])
def test_a_neuron_is_worth_the_sum_over_its_weights_and_bias(kind):
    if kind == "mlp":
        model = network()
        F.cross_entropy(model(data()[0][0]), data()[0][1]).backward()
        first, second = model[0], model[2]
        rows, columns = [first.weight, first.bias[:, None]], [second.weight]
        grads = [first.weight.grad, first.bias.grad[:, None]], [second.weight.grad]
    else:
        model, batch = tiny(kind)
        model(**batch).loss.backward()
        layer = (model.model.layers[0] if kind == "llama" else model.transformer.h[0]).mlp
        if kind == "llama":
            ws = [layer.gate_proj.weight, layer.up_proj.weight]
            rows, columns, grads = ws, [layer.down_proj.weight], ([w.grad for w in ws], [layer.down_proj.weight.grad])
        else:
            w, b, v = layer.c_fc.weight, layer.c_fc.bias, layer.c_proj.weight
            rows, columns, grads = [w.T, b[:, None]], [v.T], ([w.grad.T, b.grad[:, None]], [v.grad.T])
    expected = sum((w * g).abs().sum(1) for w, g in zip(rows, grads[0], strict=True))
    expected = expected + sum((w * g).abs().sum(0) for w, g in zip(columns, grads[1], strict=True))
    found = blocks.neuron_sums(model, blocks.feed_forward_blocks(model)[0], sensitivity)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.slow
def test_porism_compress_writes_and_loads_the_result(tmp_path):
    from porism.compress import compress, load

    model, batch = tiny("llama")
    options = {"remaining": 0.5, "steps": 6, "interval": 1}
    model.save_pretrained(tmp_path / "model")
    np.savez(tmp_path / "text.npz", input_ids=generator("homodistil", "ids").integers(20, size=(12, 8)))
    compress(tmp_path / "model", "homodistil", tmp_path / "small", options=options, calibrate=tmp_path / "text.npz")
    assert (tmp_path / "small" / "model.safetensors").exists(), "an ordinary model, which from_pretrained reads"
    loaded = load(tmp_path / "small")
    again = type(model).from_pretrained(tmp_path / "small").eval()
    assert again.config.intermediate_size == 12 == loaded.model.layers[1].mlp.up_proj.out_features
    assert torch.equal(logits(again, batch), logits(loaded, batch))


@given(st.lists(st.integers(1, 30), min_size=2, max_size=4), st.floats(0.05, 1))
def test_the_widest_common_share_within_the_budget(widths, remaining):
    model = mlp([3, *widths, 2], np.random.default_rng(0))
    found = blocks.feed_forward_blocks(model)
    total = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))

    def weights(share: Fraction) -> int:
        kept = [3, *(max(math.ceil(share * width), 1) for width in widths), 2]
        return sum(a * b for a, b in itertools.pairwise(kept))

    try:
        share = blocks.width_share(model, found, remaining)
    except ParameterError:
        assert weights(Fraction(1, 1000)) > remaining * total
        return
    assert weights(share) <= remaining * total
    assert share == 1 or weights(share + Fraction(1, 100_000)) > remaining * total


def test_the_schedule_is_one_then_cubic_then_the_budget():
    share = [float(shrinking(t, begin=10, end=30, final=0.2)) for t in range(41)]
    assert share[:11] == [1.0] * 11 and share[30:] == [0.2] * 11
    np.testing.assert_allclose(share[20], 0.2 + 0.8 * 0.125)
    assert all(a >= b for a, b in itertools.pairwise(share))
    assert shrinking(0, begin=0, end=0, final=0.5) == 0.5, "one shot"


def test_the_smoothed_score_decides_and_removed_neurons_never_return():
    model = network(6, 8, 4)
    path = Homotopy(model, width=0.5, total_steps=4, begin=0.0, end=1.0, interval=2, smoothing=0.5)
    gradients, expected = generator("homodistil", "g"), torch.zeros(8)
    weights = model[0].weight.detach().clone()
    for _ in range(4):
        for parameter in model.parameters():
            parameter.grad = torch.from_numpy(gradients.normal(size=parameter.shape)).float()
        found = blocks.neuron_sums(model, path.blocks[0], sensitivity)
        alive = [int((weights == row).all(1).nonzero()) for row in model[0].weight.detach()]
        expected[alive] = 0.5 * expected[alive] + 0.5 * found
        path.observe()
        path.narrow()
        kept = len(model[0].weight)
        best = sorted(sorted(alive, key=lambda n: -float(expected[n]))[:kept])
        torch.testing.assert_close(model[0].weight.detach(), weights[best])
    assert model[0].out_features == 4


def test_a_second_call_counts_from_the_first_size():
    options = {"calibration": data(), "steps": 12, "interval": 2}
    half = homodistil(network(), remaining=0.5, **options)
    again, quarter = homodistil(half, remaining=0.5, **options), homodistil(half, remaining=0.25, **options)
    direct = homodistil(network(), remaining=0.25, **options)
    sizes = [[m.out_features for m in model if isinstance(m, nn.Linear)] for model in (half, again, quarter, direct)]
    assert sizes[0] == sizes[1] and sizes[2] == sizes[3] and sizes[2] < sizes[1]


def test_a_loss_of_ones_own_is_the_default_one_written_out():
    options = {"remaining": 0.5, "steps": 12, "interval": 2, "learning_rate": 1e-2}
    default = homodistil(network(), calibration=data(), **options)
    own = homodistil(network(), calibration=data(), loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]), **options)
    torch.testing.assert_close(default[0].weight, own[0].weight)
    alone = homodistil(network(), calibration=[x for x, _ in data()], loss=lambda m, x: m(x).square().mean(), **options)
    assert alone[0].out_features < 16


def test_states_and_attention_are_compared_where_asked():
    model, batch = tiny("bert")
    model.set_attn_implementation("eager")
    options = {"remaining": 0.5, "calibration": [batch], "steps": 6, "interval": 1, "learning_rate": 1e-2}
    with_states, without, attentions = (
        homodistil(model, **options, states_weight=w, attentions_weight=a) for w, a in ((9.0, 0), (0, 0), (0, 9.0))
    )
    weights = [m.bert.embeddings.word_embeddings.weight for m in (with_states, without, attentions)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[2], weights[1])


def test_in_place_is_the_same_model_and_modes_are_kept():
    model, reference = network().eval(), network()
    reference[1].eval()
    options = {"remaining": 0.5, "calibration": data(), "steps": 6, "interval": 1}
    assert homodistil(model, inplace=True, **options) is model and not model[0].training
    small = homodistil(reference, **options)
    assert small[0].training and not small[1].training and reference[0].out_features == 16
    assert torch.equal(small[0].weight, model[0].weight)
    assert homodistil(model, remaining=1.0, calibration=data(), inplace=True)[0].weight is model[0].weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    small = homodistil(network().to(dtype), remaining=0.5, calibration=data(dtype), steps=6, interval=1)
    assert {p.dtype for p in small.parameters()} == {dtype} and small(data(dtype)[0][0]).isfinite().all()


def test_halves_that_adamw_cannot_train_are_refused():
    with pytest.raises(ParameterError, match="float16 weights"):
        homodistil(network().half(), remaining=0.5, calibration=data(torch.float16), steps=6, interval=1)


def test_a_path_without_anything_observed_is_refused():
    path = Homotopy(network(), width=0.5, total_steps=1, begin=0.0, end=0.0)
    with pytest.raises(ParameterError, match="nothing tells the neurons of 2 apart"):
        path.narrow()


def test_shared_and_frozen_layers_are_left_alone():
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6))
    assert blocks.feed_forward_blocks(model) == [blocks.Block(("4",), "6")]
    with pytest.raises(ParameterError, match="no feed-forward block"):  # what 0 writes is the output as well
        blocks.feed_forward_blocks(nn.Sequential(shared, nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), shared))
    model[4].weight.requires_grad_(False)
    with pytest.raises(ParameterError, match="no feed-forward block has all its layers among 0, 4, 6"):
        blocks.feed_forward_blocks(model)
    normed = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    with pytest.raises(ParameterError, match="no feed-forward block"):
        blocks.feed_forward_blocks(normed)


def test_layers_that_do_not_fit_one_another_are_refused():
    model = nn.ModuleDict({"fc1": nn.Linear(4, 8), "fc2": nn.Linear(4, 8)})
    with pytest.raises(ParameterError, match="fc2 does not read what fc1 write"):
        blocks.feed_forward_blocks(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remaining": 0.0}, "remaining"),
        ({"remaining": 0.01}, r"remaining=0.01 is less than one neuron a block; it must be at least 0.0"),
        ({"steps": 0}, "total_steps"),
        ({"interval": 0}, "interval"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"begin": 0.8}, "begin and end must have begin <= end, got 0.8 and 0.7"),
        ({"end": 1.5}, "end"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"calibration": []}, "calibration batches are empty"),
        ({"calibration": [(torch.full((2, 6), math.nan), torch.tensor([0, 1]))]}, "calibration: batch 0 has NaN"),
        ({"calibration": [object()]}, r"calibration: give pairs \(inputs, labels\)"),
        ({"calibration": [torch.zeros(2, 6)]}, "a Task term needs labels"),
        ({"task_weight": 0.0}, "task_weight"),
        ({"logits_weight": -1.0}, "weight of logits"),
        ({"loss": lambda model, batch: model(batch[0]).sum() * math.inf}, "calibration: the loss is"),
        ({"include": ["no_such"]}, "no linear layer matches"),
    ],
)
def test_bad_input_is_named(options, message):
    options = {"calibration": data(), "steps": 20, "interval": 1, "remaining": 0.5, **options}
    with pytest.raises(ParameterError, match=message):
        homodistil(network(), **options)


def test_the_gap_counts_what_has_labels_only():
    model, batch = tiny("bert")
    model.double()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.bert.embeddings.position_embeddings.weight[2:4, 0] += 1.0
    seen = batch["labels"].clone()
    one = {"input_ids": IDS, "labels": torch.where(torch.arange(6) == 2, seen, -100)}
    p, q = (logits(m, {"input_ids": IDS})[:, 2].log_softmax(-1) for m in (model, other))
    expected = float((p.exp() * (p - q)).sum(-1).mean())
    assert gap(other.train(), model, one) == pytest.approx(expected, rel=1e-4) and other.training


def test_claims_run_small():
    rng = generator("homodistil", "claims")
    world = measure.digits_world(rng)
    gradual = measure.journey(world, "gradual", rng, width=0.25, steps=30, every=10)
    assert gradual.points[0].gap == pytest.approx(0, abs=1e-6) and gradual.widths == (32, 32)
    assert [point.step for point in gradual.points] == [0, 10, 20, 30]
    assert measure.journey(world, "global", rng, width=0.25, steps=30).widths != (128, 128)
    assert paper.taking_out_is_masking(rng) > 0 > paper.taking_out_is_masking(rng, moments="forgotten")
    assert paper.widths_follow_the_schedule(rng) > 0 > paper.widths_follow_the_schedule(rng, scope="global")
