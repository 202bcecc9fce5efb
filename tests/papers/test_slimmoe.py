"""SlimMoE: which experts are found, what their neurons are worth, what is cut, and that a slimmed model loads again."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from porism.compress import compress, load
from porism.errors import ParameterError
from porism_plugins.moe._engine import Experts, FeedForward, MoE, TopKRouter
from porism_plugins.moe._slimmoe_loss import distillation, logits_of, own_labels, scores, top_distillation
from porism_plugins.moe._slimmoe_margins import Classifier
from porism_plugins.moe._slimmoe_method import distil, widths
from porism_plugins.moe._slimmoe_sites import largest, narrow, sites
from porism_plugins.moe.slimmoe import slimmoe

transformers = pytest.importorskip("transformers")

SIZE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral": ("intermediate_size", {"num_local_experts": 4}),
    "Qwen2Moe": ("moe_intermediate_size", {"num_experts": 4, "shared_expert_intermediate_size": 12}),
    "Qwen3Moe": ("moe_intermediate_size", {"num_experts": 4, "head_dim": 8, "mlp_only_layers": [0]}),
    "Phimoe": ("intermediate_size", {"num_local_experts": 4}),
    "Olmoe": ("intermediate_size", {"num_experts": 4}),
}


def tiny(kind: str, **more: Any) -> Any:
    """A model of transformers with random weights and experts of 32 neurons."""
    width, options = TINY[kind]
    whole = {"num_experts_per_tok": 2, "intermediate_size": 24, **SIZE, **SPECIAL, **options, width: 32, **more}
    config = getattr(transformers, f"{kind}Config")(**whole)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def rows(count: int = 12, *, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 6)))


def classifier(*, experts: int = 4, inner: int = 8, classes: int = 20) -> Classifier:
    return Classifier(np.random.default_rng(0), experts=experts, inner=inner, classes=classes)


IDS = torch.from_numpy(np.random.default_rng(0).integers(40, size=(3, 9)))


@pytest.mark.parametrize("kind", TINY)
def test_a_slimmed_checkpoint_loads_again_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    small: Any = slimmoe(model, calibration=[{"input_ids": IDS}], remaining=0.25, steps=4)
    small.save_pretrained(tmp_path)
    again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert torch.equal(again(IDS).logits, small(IDS).logits)
    assert (getattr(again.config, TINY[kind][0]), again.config.slimmed_from) == (8, 32)
    assert {site.inner for site in sites(again).values()} == {8}
    removed = sum(site.experts * 24 * 3 * 16 for site in sites(model).values())
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in small.parameters()) == removed


def test_a_loaded_model_remembers_what_it_was_slimmed_from(tmp_path: Path) -> None:
    teacher, batches = tiny("Mixtral"), [{"input_ids": IDS}]
    slimmoe(teacher, calibration=batches, remaining=0.5, steps=2).save_pretrained(tmp_path)
    half = type(teacher).from_pretrained(tmp_path)
    assert sites(slimmoe(half, calibration=batches, remaining=0.5, steps=2))["model.layers.0.mlp.experts"].inner == 16
    quarter = slimmoe(half, calibration=batches, remaining=0.25, steps=2, teacher=teacher)
    assert sites(quarter)["model.layers.0.mlp.experts"].inner == 8 and quarter.config.slimmed_from == 32


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_cut_experts_compute_by_every_implementation_of_transformers(implementation: str) -> None:
    small: Any = slimmoe(tiny("Mixtral"), calibration=[{"input_ids": IDS}], remaining=0.5, steps=0)
    expected = small(IDS).logits
    small.set_experts_implementation(implementation)
    torch.testing.assert_close(small(IDS).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_porism_compress_writes_a_slimmed_model_that_transformers_reads(tmp_path: Path) -> None:
    tiny("Mixtral").save_pretrained(tmp_path / "model")
    np.savez(tmp_path / "ids.npz", input_ids=np.random.default_rng(0).integers(40, size=(12, 8)))
    options = {"remaining": 0.25, "steps": 4, "stages": 2}
    compress(
        tmp_path / "model", "slimmoe", tmp_path / "small", options=options, calibrate=tmp_path / "ids.npz", window=8
    )
    ours, theirs = load(tmp_path / "small"), transformers.MixtralForCausalLM.from_pretrained(tmp_path / "small")
    assert torch.equal(ours(IDS).logits, theirs(IDS).logits) and theirs.config.intermediate_size == 8


def test_fused_experts_are_cut_to_what_their_kernels_can_multiply() -> None:
    """torch's grouped product, which transformers uses, wants rows of whole 16 bytes."""
    batches = [{"input_ids": IDS}]
    for share, inner in ((0.6, 16), (0.8, 24), (0.25, 8)):
        small: Any = slimmoe(tiny("Mixtral"), calibration=batches, remaining=share, steps=3, stages=3)
        assert sites(small)["model.layers.1.mlp.experts"].inner == inner
        assert bool(small.bfloat16()(IDS).logits.isfinite().all())
    with pytest.raises(ParameterError, match=r"remaining=0\.1 leaves 3 of 32 neurons"):
        slimmoe(tiny("Mixtral"), calibration=batches, remaining=0.1)
    assert widths(64, 24, 3, 8) == [48, 32, 24]


def test_experts_that_are_not_known_are_refused_with_what_there_is() -> None:
    with pytest.raises(ParameterError, match="no experts that are known here; there are: Sequential, Linear"):
        slimmoe(nn.Sequential(nn.Linear(2, 2)), calibration=[torch.ones(1, 2)])
    config = transformers.GptOssConfig(
        intermediate_size=8, num_local_experts=4, num_experts_per_tok=2, head_dim=8, **SIZE, **SPECIAL
    )
    with pytest.raises(ParameterError, match=r"model\.layers\.0\.mlp\.experts \(GptOssExperts\)"):
        slimmoe(transformers.GptOssForCausalLM(config), calibration=[{"input_ids": IDS}])


def test_a_width_that_shared_experts_depend_on_is_refused_before_training() -> None:
    ranks = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    size = {**SIZE, **SPECIAL, "num_key_value_heads": 2, "first_k_dense_replace": 0, "intermediate_size": 24}
    config = transformers.DeepseekV3Config(moe_intermediate_size=32, **size, **ranks, **experts)
    with pytest.raises(ParameterError, match=r"moe_intermediate_size also sizes.*shared_experts"):
        slimmoe(transformers.DeepseekV3ForCausalLM(config), calibration=[{"input_ids": IDS}])


def test_the_distillation_loss_has_no_slope_at_the_teacher_and_own_labels_have() -> None:
    few, many = classifier(classes=5), classifier(classes=20)
    flat = scores(few, few, sites(few), [rows()], distillation(8))
    assert max(float(score.max()) for score in flat.values()) < 1e-13
    truncated = scores(many, many, sites(many), [rows()], distillation(8))
    assert min(float(score.max()) for score in truncated.values()) > 1e-4
    useful = scores(few, few, sites(few), [rows()], own_labels(0))
    assert min(float(score.max()) for score in useful.values()) > 1e-3


def test_the_first_stage_is_scored_by_own_labels_and_the_next_by_distillation(monkeypatch: pytest.MonkeyPatch) -> None:
    from porism_plugins.moe import _slimmoe_method as method

    used: list[str] = []
    for name in ("own_labels", "distillation"):
        plain = getattr(method, name)
        monkeypatch.setattr(method, name, lambda *a, name=name, plain=plain: used.append(name) or plain(*a))
    slimmoe(classifier(), calibration=[rows()], remaining=0.25, stages=2, steps=2)
    assert used[0] == "own_labels" and used.count("own_labels") == 1


def test_scores_are_those_of_a_loop_over_neurons() -> None:
    model, x = classifier(), rows()
    found = scores(model, model, sites(model), [x], lambda s, t, b: s(b)[:, 0].mean())["mixtures.1.experts"]
    experts: Any = model.mixtures[1].experts
    model(x)[:, 0].mean().backward()
    products = {name: p.detach() * p.grad for name, p in experts.named_parameters()}
    gate, up = products["up"].chunk(2, 1)
    gate_bias, up_bias = products["up_bias"].chunk(2, 1)
    expected = gate.sum(2) + up.sum(2) + products["down"].sum(1) + gate_bias + up_bias
    torch.testing.assert_close(found, expected.abs())


def test_an_expert_without_tokens_has_scores_of_zero_and_is_cut_like_the_others() -> None:
    model = classifier()
    with torch.no_grad():
        model.mixtures[0].router.weight[3] = 0
        model.mixtures[0].router.weight[:3] *= 0.1
        model.mixtures[0].router.weight[:3, 0] += 100
    x = rows().abs()
    found = scores(model, model, sites(model), [x], own_labels(0))["mixtures.0.experts"]
    assert (found[3] == 0).all() and (found[:2] > 0).any()
    assert sites(slimmoe(model, calibration=[x], remaining=0.5, steps=2))["mixtures.0.experts"].inner == 4


def test_a_neuron_that_does_nothing_goes_first_and_changes_nothing() -> None:
    model, x = classifier(), rows()
    with torch.no_grad():
        for mixture in model.mixtures:
            mixture.experts.down[:, :, ::2] = 0  # a column of zeros
    small = slimmoe(model, calibration=[x], remaining=0.5, steps=0, stages=1)
    torch.testing.assert_close(small(x), model(x))


def test_cutting_experts_leaves_the_first_routing_and_the_number_of_experts() -> None:
    model, x = classifier(), rows()
    small: Any = slimmoe(model, calibration=[x], remaining=0.3, steps=0)
    before, after = model.mixtures[0].router(x), small.mixtures[0].router(x)
    assert torch.equal(before.index, after.index) and torch.equal(before.scale, after.scale)
    assert [m.experts.experts for m in small.mixtures] == [4, 4] and small.mixtures[1].router.k == 2


def test_widths_fall_geometrically_to_the_target_and_no_further() -> None:
    assert widths(6400, 448, 3) == [2638, 1087, 448]
    assert widths(8, 8, 2) == [8, 8] and widths(2, 1, 5)[-1] == 1
    for inner, target, stages in ((48, 12, 2), (7, 3, 4), (100, 1, 6)):
        path = widths(inner, target, stages)
        assert path[-1] == target and sorted(path, reverse=True) == path and len(path) == stages


def test_remaining_1_is_the_model_and_trains_nothing() -> None:
    model = classifier()
    same = slimmoe(model, calibration=[rows()], remaining=1.0, steps=5)
    assert same is not model and torch.equal(same(rows()), model(rows()))


@pytest.mark.parametrize(("share", "inner"), [(0.5, 4), (0.3, 2), (0.01, 1), (0.99, 7)])
def test_the_share_is_rounded_down_to_one_neuron_at_least(share: float, inner: int) -> None:
    small = slimmoe(classifier(), calibration=[rows()], remaining=share, steps=0)
    assert {site.inner for site in sites(small).values()} == {inner}


def test_plain_modules_stacked_experts_and_no_gates_are_cut_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    stacked = Experts(3, 6, 8, activation=F.relu, generator=generator)
    listed = nn.ModuleDict({"experts": nn.ModuleList(stacked.to_modules())})
    one, two = sites(nn.Sequential(stacked))["0"], sites(listed)["experts"]
    torch.testing.assert_close(one.magnitude(), two.magnitude())
    stays = largest(one.magnitude(), 3)
    narrow(one, stays)
    narrow(two, stays)
    for ours, theirs in zip(stacked.to_modules(), listed["experts"], strict=True):
        assert isinstance(theirs, FeedForward)
        x = torch.ones(2, 6)
        assert torch.equal(ours(x), theirs(x)) and theirs.up.out_features == theirs.down.in_features == 3


def test_stages_train_on_their_share_of_the_batches_in_order() -> None:
    seen: list[tuple[int, float]] = []

    def loss(model: Any, batch: Tensor) -> Tensor:
        seen.append((model.mixtures[0].experts.inner, float(batch[0, 0])))
        return model(batch).square().mean()

    batches = [rows(seed=seed) for seed in range(3)]
    slimmoe(classifier(), calibration=batches, remaining=0.25, stages=2, steps=5, split=[3, 2], loss=loss)
    firsts = [float(batch[0, 0]) for batch in batches]
    assert seen == list(zip([4, 4, 4, 2, 2], firsts + firsts[:2], strict=True))


def test_repair_brings_the_student_nearer_to_the_teacher() -> None:
    model, batches = classifier(classes=8), [rows(256, seed=seed) for seed in range(8)]
    for mixture in model.mixtures:
        mixture.experts.down.data *= 6  # so that experts matter
    options = {"calibration": batches, "remaining": 0.25, "learning_rate": 5e-3}
    students = (model, slimmoe(model, steps=0, **options), slimmoe(model, steps=100, **options))
    with torch.no_grad():
        held_out, loss = rows(200, seed=99), distillation(8)
        least, cut, repaired = (float(loss(student, model, held_out)) for student in students)
    assert 0 < repaired - least < 0.7 * (cut - least)


def test_the_loss_is_the_plain_sum_and_with_enough_classes_the_whole_cross_entropy() -> None:
    teacher, student = (torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 12))) for seed in (0, 1))
    total = 0.0
    for theirs, ours in zip(teacher.softmax(-1), student.log_softmax(-1), strict=True):
        best = theirs.argsort(descending=True)[:8]
        total -= float((theirs[best] / theirs[best].sum() * ours[best]).sum()) / 5
    assert math.isclose(float(top_distillation(student, teacher)), total, rel_tol=1e-12)
    torch.testing.assert_close(
        top_distillation(student, teacher, top=99), F.cross_entropy(student, teacher.softmax(-1))
    )
    with pytest.raises(ParameterError, match="one shape"):
        top_distillation(student, teacher[:, :4])
    with pytest.raises(ParameterError, match="top"):
        top_distillation(student, teacher, top=0)


def test_padding_and_labels_are_not_learnt_from() -> None:
    model = tiny("Mixtral")
    mask = torch.ones_like(IDS)
    mask[0, 5:] = 0
    assert len(logits_of(model, {"input_ids": IDS, "attention_mask": mask, "labels": IDS})) == int(mask.sum())
    assert len(logits_of(model, {"input_ids": IDS})) == IDS.numel()
    assert len(logits_of(model, (IDS, torch.zeros(3)))) == IDS.numel()


def test_frozen_weights_are_cut_and_stay_frozen_and_untrained() -> None:
    model = classifier()
    model.mixtures[0].experts.up.requires_grad_(False)
    small: Any = slimmoe(model, calibration=[rows()], remaining=0.5, steps=5, learning_rate=0.1)
    up = small.mixtures[0].experts.up
    stays = torch.isin(up[0, :, 0], model.mixtures[0].experts.up[0, :, 0])
    assert not up.requires_grad and up.grad is None and bool(stays.all())
    frozen = classifier().requires_grad_(False)
    with pytest.raises(ParameterError, match="requires a gradient"):
        slimmoe(frozen, calibration=[rows()], remaining=0.5, steps=5)


def test_in_place_the_teacher_is_what_the_model_was() -> None:
    model = classifier()
    copied = slimmoe(copy.deepcopy(model), calibration=[rows()], remaining=0.5, steps=3)
    assert slimmoe(model, calibration=[rows()], remaining=0.5, steps=3, inplace=True) is model
    assert torch.equal(model(rows()), copied(rows()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_cut_as_the_same_numbers_in_single(dtype: torch.dtype) -> None:
    half = classifier().to(dtype)
    wide = copy.deepcopy(half).float()
    stays = [largest(sites(model)["mixtures.0.experts"].magnitude(), 3) for model in (half, wide)]
    assert torch.equal(*stays)
    steps = 2 if dtype == torch.bfloat16 else 0
    small: Any = slimmoe(half, calibration=[rows().to(dtype)], remaining=0.5, steps=steps)
    assert {p.dtype for p in small.parameters()} == {dtype} and bool(small(rows().to(dtype)).isfinite().all())


def test_training_in_float16_is_refused_as_adam_would_divide_by_zero() -> None:
    with pytest.raises(ParameterError, match="float16"):
        slimmoe(classifier().half(), calibration=[rows().half()], remaining=0.5, steps=2)


def test_losses_of_routers_are_not_added() -> None:
    model = classifier()
    router = TopKRouter(6, 4, k=2, renormalise=True, balance=100.0).double()
    router.weight.data.copy_(model.mixtures[0].router.weight)
    other = copy.deepcopy(model)
    other.mixtures[0] = MoE(other.mixtures[0].experts, router)
    first, second = (slimmoe(each, calibration=[rows()], remaining=0.5, steps=3) for each in (model, other))
    assert torch.equal(first(rows()), second(rows()))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"remaining": 0.0}, "remaining"),
        ({"stages": 0}, "stages"),
        ({"steps": -1}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"top": 0}, "top"),
        ({"scored": 0}, "scored"),
        ({"split": [1.0]}, "split"),
        ({"split": [-1.0, 2.0]}, "split"),
        ({"calibration": []}, "calibration"),
        ({"calibration": [rows() * math.nan]}, "calibration"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_impossible_options_are_named(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ParameterError, match=word):
        slimmoe(classifier(), **{"calibration": [rows()], "remaining": 0.5, "steps": 2, **options})


def test_weights_that_cannot_be_cut_are_named() -> None:
    for spoil, word in ((lambda p: p.data.fill_(math.inf), "finite"), (lambda p: None, "meta")):
        model = classifier()
        if word == "meta":
            model = model.to("meta")
        spoil(model.mixtures[0].experts.up)
        with pytest.raises(ParameterError, match=word):
            slimmoe(model, calibration=[rows()], remaining=0.5)
    shared = FeedForward(nn.Linear(6, 8), nn.Linear(8, 6), F.relu)
    with pytest.raises(ParameterError, match="shares weights"):
        sites(nn.ModuleDict({"experts": nn.ModuleList([shared, shared])}))
    one = Experts(2, 6, 8)
    other = Experts(2, 6, 8)
    other.up = one.up
    with pytest.raises(ParameterError, match="shares weights"):
        sites(nn.ModuleList([one, other]))


def test_a_teacher_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ParameterError, match="one shape"):
        slimmoe(classifier(), calibration=[rows()], remaining=0.5, steps=2, teacher=classifier(classes=7))


def test_losses_of_training_come_back_and_global_state_stays() -> None:
    model = classifier()
    state = torch.random.get_rng_state()
    found = distil(classifier(), model, [rows()] * 3, distillation(8), steps=3, learning_rate=0.01)
    assert len(found) == 3 and torch.equal(state, torch.random.get_rng_state())
