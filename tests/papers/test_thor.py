"""THOR against the written-out formula and R-Drop, on models of many kinds, and with what users do wrong."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from porism.errors import ParameterError
from porism.seeds import generator
from porism_plugins.moe import _thor_experiments as measure
from porism_plugins.moe import _thor_margins as margins
from porism_plugins.moe import _thor_world as world
from porism_plugins.moe._engine import Experts
from porism_plugins.moe.thor import (
    StochasticExperts,
    consistency_of,
    inferring,
    reseed,
    set_inference,
    single_expert,
    stochastic_layers,
    thor_loss,
    thor_step,
    with_stochastic_experts,
)

Tensor = torch.Tensor
IDS = torch.tensor([[5, 6, 7, 8, 2], [9, 5, 2, 0, 0]])
LABELS = torch.tensor([[5, 6, 7, 8, 2], [9, 5, 2, -100, -100]])
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def rng(*names: object) -> np.random.Generator:
    return generator("thor", *names)


def bart() -> nn.Module:
    sides = {f"{side}_{what}": value for side in ("encoder", "decoder")
             for what, value in (("layers", 3), ("ffn_dim", 24), ("attention_heads", 2))}  # fmt: skip
    config = transformers.BartConfig(
        vocab_size=30, d_model=16, max_position_embeddings=16, activation_dropout=0.2, decoder_start_token_id=2,
        forced_eos_token_id=2, **sides, **ENDS,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config)


def t5(**options: str) -> nn.Module:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2,
                              decoder_start_token_id=0, pad_token_id=0, **options)
    )  # fmt: skip


MODELS = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=30, **SIZES)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=30, **SIZES)),
    "bart": bart,
    "t5": t5,
    "t5 gated": lambda: t5(feed_forward_proj="gated-gelu"),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=3, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
    "distilbert": lambda: transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(vocab_size=30, dim=16, hidden_dim=24, n_layers=3, n_heads=2)
    ),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(vocab_size=30, ffn_dim=24, word_embed_proj_dim=16, hidden_size=16, num_hidden_layers=3,
                               num_attention_heads=2, **ENDS)
    ),
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(image_size=16, patch_size=8, **SIZES)),
}  # fmt: skip


def model(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name]().eval()


def batch(name: str) -> dict[str, Tensor]:
    if name == "vit":
        return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 256).view(2, 3, 16, 16)}
    return {"input_ids": IDS} | ({"labels": LABELS} if name.startswith(("bart", "t5")) else {})


def perceptron() -> nn.Sequential:
    widths = (8, 24, 8, 24, 8, 5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def layer(experts: int = 4, name: object = 0, **options: object) -> StochasticExperts:
    draws = torch.Generator().manual_seed(7)
    return StochasticExperts(Experts(experts, 8, 12, generator=draws), generator=draws, **options)


X = torch.linspace(-1, 1, 3 * 5 * 8).view(3, 5, 8)


def logits(*shape: int, name: object = 0) -> Tensor:
    return torch.from_numpy(rng("logits", name).normal(size=shape)).requires_grad_()


def naive(first: Tensor, second: Tensor, labels: Tensor, alpha: float, smoothing: float) -> Tensor:
    """Token by token: steps 3 to 5 of the paper."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for p_row, q_row, label in zip(first.reshape(-1, 4), second.reshape(-1, 4), labels.flatten().tolist(), strict=True):
        if label == -100:
            continue
        p, q, count = p_row.softmax(0), q_row.softmax(0), count + 1
        target = torch.full((4,), smoothing / 4, dtype=torch.float64)
        target[label] += 1 - smoothing
        total = total - (target * p.log()).sum() - (target * q.log()).sum()
        total = total + alpha * 0.5 * sum((p[v] - q[v]) * (p[v].log() - q[v].log()) for v in range(4))
    return total / count


@pytest.mark.parametrize(("alpha", "smoothing"), [(5.0, 0.1), (0.0, 0.0), (1.0, 0.3)])
def test_the_loss_and_its_gradients_are_those_of_the_formula(alpha, smoothing):
    first, second = logits(2, 3, 4, name="a"), logits(2, 3, 4, name="b")
    labels = torch.tensor([[0, 3, -100], [1, -100, 2]])
    ours = thor_loss(first, second, labels, alpha=alpha, smoothing=smoothing)
    theirs = naive(first, second, labels, alpha, smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(value, [first, second]) for value in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_padding_may_hold_anything_and_no_label_at_all_is_zero():
    first, second = logits(2, 3, 4, name="a"), logits(2, 3, 4, name="b")
    labels = torch.tensor([[0, 3, -100], [1, 2, -100]])
    expected = thor_loss(first, second, labels)
    broken = torch.where((labels == -100)[..., None], torch.nan, first).detach().requires_grad_()
    value = thor_loss(broken, second, labels)
    assert torch.equal(value, expected)
    assert torch.autograd.grad(value, broken)[0].isfinite().all()
    nothing = thor_loss(first, second, torch.full((2, 3), -100))
    assert nothing.item() == 0 and not torch.autograd.grad(nothing, first)[0].any()


def test_alpha_means_the_same_for_any_batch_and_items_divide_the_sum():
    first, second, labels = logits(2, 4, name="a"), logits(2, 4, name="b"), torch.tensor([0, 3])
    once = thor_loss(first, second, labels)
    twice = thor_loss(first.repeat(2, 1), second.repeat(2, 1), labels.repeat(2))
    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(thor_loss(first, second, labels, items=torch.tensor(8)), once / 4)


def test_half_precision_and_extreme_logits_stay_finite():
    first, second = (1e4 * logits(3, 4, name=name).detach() for name in "ab")
    labels = torch.tensor([0, 1, 2])
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        leaf = first.to(dtype).requires_grad_()
        value = thor_loss(leaf, second.to(dtype), labels)
        assert value.isfinite() and torch.autograd.grad(value, leaf)[0].isfinite().all()
    assert thor_loss(first.bfloat16(), second.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second_logits": torch.zeros(2, 3, 5)}, "second_logits"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, "labels must be integers of shape"),
        ({"labels": torch.full((2, 3), 4)}, "labels must be from 0 to 3"),
        ({"labels": torch.full((2, 3), -1)}, "labels must be from 0 to 3"),
        ({"first_logits": torch.full((2, 3, 4), torch.nan)}, "first_logits must be finite"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"smoothing": 1.0}, "smoothing"),
    ],
)
def test_bad_input_of_the_loss_is_named(change, message):
    good = {"first_logits": torch.zeros(2, 3, 4), "second_logits": torch.zeros(2, 3, 4),
            "labels": torch.zeros(2, 3, dtype=torch.int64)}  # fmt: skip
    with pytest.raises(ParameterError, match=message):
        thor_loss(**good | change)


def test_the_consistency_has_a_mask_and_needs_equal_shapes():
    p, q = logits(2, 4, name="a"), logits(2, 4, name="b")
    assert torch.equal(consistency_of(p, q, torch.tensor([True, False])), consistency_of(p[:1], q[:1]))
    assert float(consistency_of(p, q, torch.zeros(2, dtype=torch.bool))) == 0
    with pytest.raises(ParameterError, match="second_logits"):
        consistency_of(p, q[:1])


def drawn(module: StochasticExperts, passes: int = 12) -> list[int]:
    found = []
    for _ in range(passes):
        module(X)
        found += module.routing.index.flatten().tolist()[:1]
    return found


def test_draws_come_from_the_layers_generator_and_from_nowhere_else():
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = drawn(layer())
    assert drawn(layer()) == first and len(set(first)) > 1
    assert torch.equal(torch.get_rng_state(), state)


def test_experts_are_drawn_equally_often():
    router = layer(3, training="token").router
    counts = torch.bincount(router(torch.zeros(100, 90, 8)).index.flatten(), minlength=3)
    assert (counts - 3000).abs().max() < 150  # 3.4 standard deviations


def test_what_one_draw_is_for():
    for mode, axis, same in (("pass", 0, (0, 1)), ("sequence", 0, (1,)), ("sequence", 1, (0,)), ("token", 0, ())):
        router = layer(4, inference=mode, batch_axis=axis).eval().router
        index = router(torch.zeros(20, 30, 8)).index.view(20, 30)
        for over in (0, 1):
            assert bool((index == index.select(over, 0).unsqueeze(over)).all()) == (over in same)


def test_a_resumed_run_draws_what_it_would_have_drawn_and_looking_changes_nothing():
    straight, first = layer(), layer()
    drawn(straight), drawn(first)
    drawn(first.eval())
    first.train()
    second = layer()
    second.load_state_dict(first.state_dict())
    expected = drawn(straight)
    assert drawn(second) == expected and drawn(first) == expected


def test_a_copy_goes_on_by_itself():
    one = layer()
    other = copy.deepcopy(one)
    first = drawn(one)
    assert drawn(other) == first


def test_reseeding_makes_evaluation_repeatable():
    module = with_stochastic_experts(perceptron(), rng=rng(), experts=4, noise=1.0, inference="token").eval()
    x, found = X.view(-1, 8), []
    for seed in (1, 1, 2):
        reseed(module, np.random.default_rng(seed))
        found.append(module(x))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_average_is_the_mean_of_the_single_experts():
    module = layer().eval()
    each = []
    for expert in range(4):
        with inferring(module, expert):
            each.append(module(X))
    assert module.router.inference == "sequence"
    with inferring(module, "average"):
        torch.testing.assert_close(module(X), torch.stack(each).mean(0))


def test_experts_that_were_not_drawn_get_no_gradient():
    module = layer()
    module(X).sum().backward()
    idle = module.load.tokens == 0
    assert idle.sum() == 3
    assert not module.experts.up.grad[idle].any() and module.experts.up.grad[~idle].any()


def test_batches_of_one_and_half_precision():
    for mode in ("pass", "sequence", "token", "average", 3):
        module = layer(inference=mode).bfloat16().eval()
        assert module(X[:1, :1].bfloat16()).dtype == torch.bfloat16


def test_gradient_checkpointing_is_refused_as_it_would_draw_again():
    x = X.clone().requires_grad_()
    value = checkpoint(layer(), x, use_reentrant=False).sum()
    with pytest.raises(ParameterError, match="gradient checkpointing"):
        value.backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"inference": "best"}, "inference"), ({"inference": 4}, "inference"), ({"inference": True}, "inference"),
     ({"training": "average"}, "training")],
)  # fmt: skip
def test_bad_modes_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        layer(**options)


def test_layers_need_a_generator_and_models_need_layers():
    with pytest.raises(ParameterError, match="generator"):
        StochasticExperts(Experts(2, 8, 12), generator=None)
    with pytest.raises(ParameterError, match="no stochastic experts"):
        set_inference(perceptron(), 0)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_first_expert_is_the_model_itself_and_any_can_be_taken_out(name):
    plain, inputs = model(name), batch(name)
    before = copy.deepcopy(plain.state_dict())
    converted = with_stochastic_experts(plain, rng=rng(name), experts=3, noise=0.5, inference=0)
    assert len(stochastic_layers(converted)) == (4 if name.startswith(("bart", "t5")) else 2)
    torch.testing.assert_close(converted(**inputs).logits, plain(**inputs).logits, rtol=1e-5, atol=1e-6)
    set_inference(converted, 2)
    other = converted(**inputs).logits
    assert not torch.allclose(other, plain(**inputs).logits, atol=1e-6)
    exported = single_expert(converted, plain, expert=2)
    assert type(exported) is type(plain)
    torch.testing.assert_close(exported(**inputs).logits, other, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(before[key], value) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("exclude", [(), ("layers.0.*",)])
@pytest.mark.filterwarnings("ignore::UserWarning")
@torch.no_grad()
def test_torchs_encoder_keeps_off_its_fused_path(batch_first, exclude):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first), 3).eval()
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[0, 3:] = True
    x, seen = (X, ~hidden) if batch_first else (X.transpose(0, 1), ~hidden.t())
    converted = with_stochastic_experts(plain, rng=rng(), exclude=exclude, inference=0)
    found, expected = (m(x, src_key_padding_mask=hidden)[seen] for m in (converted, plain))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert {module.router.batch_axis for module in stochastic_layers(converted).values()} == {0 if batch_first else 1}


def test_every_second_layer_of_encoder_and_decoder_each():
    names = list(stochastic_layers(with_stochastic_experts(model("bart"), rng=rng())))
    assert names == [f"model.{side}.layers.{n}.fc1" for side in ("encoder", "decoder") for n in (0, 2)]
    every = with_stochastic_experts(model("bart"), rng=rng(), every=1, include=["decoder.layers.*"])
    assert list(stochastic_layers(every)) == [f"model.decoder.layers.{n}.fc1" for n in range(3)]


def test_how_experts_start():
    plain = perceptron()
    for start, noise, same in (("copies", 0.0, True), ("copies", 0.1, False), ("fresh", 0.0, False)):
        (up,) = (m.experts.up for m in stochastic_layers(
            with_stochastic_experts(plain, rng=rng(), experts=3, start=start, noise=noise)).values())  # fmt: skip
        assert torch.equal(up[0], up[1]) == same
        assert torch.equal(up[0], plain[0].weight) == (start == "copies")
        spread = float((up[1] - up[0]).std() / plain[0].weight.std())
        assert spread == pytest.approx({("copies", 0.0): 0, ("copies", 0.1): 0.1, ("fresh", 0.0): 2**0.5}[start, noise],
                                       rel=0.25)  # fmt: skip


def test_frozen_networks_stay_frozen_and_in_place_means_in_place():
    plain = perceptron().requires_grad_(False).eval()
    converted = with_stochastic_experts(plain, rng=rng(), inplace=True)
    assert converted is plain and isinstance(plain[0], StochasticExperts) and not plain[0].training
    assert not any(p.requires_grad for p in converted.parameters())


def test_dropout_between_the_layers_moves_into_the_experts():
    plain = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 8))
    converted = with_stochastic_experts(plain, rng=rng(), experts=1)
    found = []
    for module in (plain, converted):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            found.append(module(X.view(-1, 8)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"experts": 0}, "experts"), ({"every": 0}, "every"), ({"noise": -1.0}, "noise"), ({"start": "zeros"}, "start"),
     ({"include": ["nothing"]}, "no linear layer matches"), ({"include": ["4"]}, "no feed-forward network"),
     ({"inference": 2}, "inference")],
)  # fmt: skip
def test_bad_conversions_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        with_stochastic_experts(nn.Sequential(*perceptron()[:4], nn.Linear(24, 5)), rng=rng(), **options)


def test_taking_out_an_expert_needs_the_model_that_was_converted():
    converted = with_stochastic_experts(perceptron(), rng=rng())
    with pytest.raises(ParameterError, match="original"):
        single_expert(perceptron(), perceptron())
    with pytest.raises(ParameterError, match="original"):
        single_expert(converted, nn.Sequential(*perceptron(), nn.Linear(5, 5)))
    with pytest.raises(ParameterError, match="expert must be"):
        single_expert(converted, perceptron(), expert=2)


def seeded(call):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return call()


def test_one_expert_is_r_drop_on_a_model_with_dropout():
    plain = model("bert").train()
    converted = with_stochastic_experts(plain, rng=rng(), experts=1)
    inputs = {"input_ids": IDS, "labels": LABELS}
    ours = seeded(lambda: thor_step(converted, inputs, alpha=3.0).loss)
    passes = seeded(lambda: [plain(input_ids=IDS).logits for _ in "ab"])
    kept = LABELS != -100
    theirs = margins.r_drop(*(p[kept].double() for p in passes), LABELS[kept], alpha=3.0)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_with_shared_dropout_only_experts_tell_passes_apart():
    inputs = {"input_ids": IDS, "labels": LABELS}
    for experts, alike in ((1, True), (4, False)):
        module = with_stochastic_experts(model("bert"), rng=rng(), experts=experts, noise=1.0, training="token").train()
        first, second = thor_step(module, inputs, dropout="shared").outputs
        assert torch.allclose(first.logits, second.logits) == alike
    fresh = thor_step(with_stochastic_experts(model("bert"), rng=rng(), experts=1).train(), inputs).outputs
    assert not torch.allclose(fresh[0].logits, fresh[1].logits)


@pytest.mark.parametrize("name", ["bert", "llama", "bart", "t5"])
def test_in_evaluation_a_step_is_one_pass_and_the_models_own_loss(name):
    plain = model(name)
    inputs = {"input_ids": IDS, "attention_mask": (IDS != 0).long(), "labels": LABELS}
    step = thor_step(plain, inputs)
    assert len(step.outputs) == 1
    torch.testing.assert_close(step.loss, plain(**inputs).loss)


def test_a_step_trains_all_experts_in_time():
    module = with_stochastic_experts(model("llama"), rng=rng(), experts=2, every=1).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    before = {name: layer.experts.up.detach().clone() for name, layer in stochastic_layers(module).items()}
    losses = []
    for _ in range(12):
        step = thor_step(module, {"input_ids": IDS, "labels": LABELS})
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(step.loss.item())
    assert losses[-1] < losses[0]
    for name, found in stochastic_layers(module).items():
        assert bool((found.experts.up != before[name]).flatten(1).any(1).all())


def test_steps_need_labels_and_logits():
    with pytest.raises(ParameterError, match="labels"):
        thor_step(model("bert"), {"input_ids": IDS})
    with pytest.raises(ParameterError, match="dropout"):
        thor_step(model("bert"), {"input_ids": IDS, "labels": LABELS}, dropout="none")
    with pytest.raises(ParameterError, match="logits"):
        thor_step(model("bert").bert, {"input_ids": IDS, "labels": LABELS})


@torch.no_grad()
def test_weights_and_draws_survive_a_file(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    saved = with_stochastic_experts(model("bert"), rng=rng("a"), experts=3, training="token").train()
    seeded(lambda: saved(input_ids=IDS))
    safetensors.save_model(saved, str(tmp_path / "model.safetensors"))
    loaded = with_stochastic_experts(model("bert"), rng=rng("b"), experts=3, training="token").train()
    safetensors.load_model(loaded, str(tmp_path / "model.safetensors"))
    found, expected = (seeded(lambda m=m: m(input_ids=IDS).logits) for m in (loaded, saved))
    assert torch.equal(found, expected)


def test_translations_follow_from_language_and_words_alone():
    task = world.task(rng("world"), train=3000)
    rows = torch.cat([task.x, task.y], 1)
    sentences, both = torch.unique(task.x, dim=0), torch.unique(rows, dim=0)
    assert len(sentences) == len(both) < 3000
    language = task.x[:, 0] - world.WORDS
    assert sorted(language.unique().tolist()) == list(range(world.LANGUAGES))
    words = task.x[0, 1:]
    assert len({tuple(y) for x, y in zip(task.x[:, 1:], task.y.tolist(), strict=True) if torch.equal(x, words)}) > 1


def test_arms_share_data_and_weights_and_are_what_they_say():
    ours, theirs = (world.Translator(kind, 2, rng("arm")) for kind in ("stochastic", "gate"))
    shared = {name: p for name, p in ours.named_parameters() if "feed_forward" not in name}
    others = dict(theirs.named_parameters())
    assert shared and all(torch.equal(p, others[name]) for name, p in shared.items())
    extra = sum(p.numel() for p in theirs.parameters()) - sum(p.numel() for p in ours.parameters())
    assert extra == 2 * world.WIDTH  # the gate's own
    loss = F.cross_entropy(ours(torch.zeros(2, 5, dtype=torch.int64)).flatten(0, 1), torch.zeros(8, dtype=torch.int64))
    assert loss.isfinite()


def test_a_trained_arm_is_judged_the_same_twice():
    arm = measure.THOR._replace(updates=3, sentences=16)
    measure.trained.cache_clear()
    first = measure.trained(1, arm)
    measure.trained.cache_clear()
    assert measure.trained(1, arm) == first
