"""RoPE-PSD against formulas by hand and plain language modelling, on padded batches, and with what users do wrong."""

from __future__ import annotations

import copy
import io
import math
import tempfile

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from porism.errors import ParameterError
from porism_plugins.arch import _rope_psd_experiments as measure
from porism_plugins.arch import _rope_psd_margins as margins
from porism_plugins.arch import _rope_psd_recall as recall
from porism_plugins.arch._rope_psd_views import PERTURBATIONS, View, draw_view
from porism_plugins.arch.rope_psd import RoPEPerturbedSelfDistillation, RoPEPSDLoss, cyclic_shift, suffix_jump

VOCABULARY = 30
SIZE = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def built(config: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).train()


def llama(**options: object) -> nn.Module:
    return built(transformers.LlamaConfig(**{**SIZE, "max_position_embeddings": 128, **options}))


def gpt2(**options: object) -> nn.Module:
    options = {"n_positions": 128, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **options}
    return built(transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, **options))


def tokens(rows: int = 3, length: int = 20, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def batch(ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    if mask is None:
        return {"input_ids": ids, "labels": ids}
    first = mask.cumsum(1) == 1  # a token before padding predicts it, which nobody wants
    return {"input_ids": ids, "labels": ids.masked_fill((mask == 0) | first, -100), "attention_mask": mask}


def padded(ids: Tensor, *, left: int = 0, right: int = 0) -> dict[str, Tensor]:
    rows = len(ids)
    sides = [torch.zeros(rows, left, dtype=torch.long), ids, torch.zeros(rows, right, dtype=torch.long)]
    mask = torch.cat([sides[0], torch.ones_like(ids), sides[2]], 1)
    return batch(torch.cat(sides, 1), mask)


def psd(weight: float = 0.5, *, seed: int = 0, **options: object) -> RoPEPerturbedSelfDistillation:
    return RoPEPerturbedSelfDistillation(weight, generator=torch.Generator().manual_seed(seed), **options)


def gradients(model: nn.Module, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters())))


def calls_of(model: nn.Module, objective: nn.Module, data: dict[str, Tensor]) -> list[dict[str, object]]:
    calls: list[dict[str, object]] = []
    handle = model.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    objective(model, data)
    handle.remove()
    return calls


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_term_is_the_divergence_by_hand(direction):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 4, 6, generator=generator, dtype=torch.float64) for _ in "ab")
    compared = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    log_p, log_q = (log_p, log_q) if direction == "reverse" else (log_q, log_p)
    each = (log_p.exp() * (log_p - log_q)).sum(-1)
    expected = (each[0, 2:].mean() + each[1, 1:].mean()) / 2  # a sequence with nothing to compare does not count
    torch.testing.assert_close(RoPEPSDLoss(direction)(student, teacher, compared), expected)


def test_the_term_has_a_right_gradient_with_and_without_a_fixed_teacher():
    generator = torch.Generator().manual_seed(1)
    sides = [torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in "ab"]
    for direction in ("reverse", "forward"):
        assert torch.autograd.gradcheck(lambda s, d=direction: RoPEPSDLoss(d)(s, sides[1]), sides[:1])
        assert torch.autograd.gradcheck(lambda s, t, d=direction: RoPEPSDLoss(d, detach=False)(s, t), sides)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype):
    generator = torch.Generator().manual_seed(1)
    student, teacher = ((5 * torch.randn(2, 3, 500, generator=generator)).to(dtype) for _ in "ab")
    value = RoPEPSDLoss()(student.requires_grad_(), teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, RoPEPSDLoss()(student.float(), teacher.float()))
    value.backward()
    assert student.grad.dtype == dtype and student.grad.isfinite().all()


def test_the_objective_is_its_parts_by_hand():
    model, data = llama(), batch(tokens())
    calls = calls_of(model, psd(), data)
    usual, other = model(**data), model(**{**calls[1], "labels": None})
    log_p, log_q = other.logits.log_softmax(-1), usual.logits.detach().log_softmax(-1)
    each = (log_p.exp() * (log_p - log_q)).sum(-1)
    jumped = calls[1]["position_ids"] > torch.arange(20)
    consistency = torch.stack([row[keep].mean() for row, keep in zip(each, jumped, strict=True)]).mean()
    parts = psd(0.7)(model, data)
    assert torch.equal(parts.clm, usual.loss.detach())
    torch.testing.assert_close(parts.consistency, consistency.detach())
    torch.testing.assert_close(parts.loss, usual.loss + 0.7 * consistency)
    for ours, by_hand in zip(
        gradients(model, parts.loss), gradients(model, usual.loss + 0.7 * consistency), strict=True
    ):
        torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-6)


def test_only_labelled_compares_the_predictions_of_labels_in_the_suffix():
    model, ids = llama(), tokens(1)
    labels = torch.full_like(ids, -100)
    labels[0, [2, 18, 19]] = ids[0, [2, 18, 19]]
    data = {"input_ids": ids, "labels": labels}
    call = calls_of(model, psd(split=(0.5, 0.5)), data)[1]
    with torch.no_grad():
        usual, other = model(input_ids=ids).logits, model(**call).logits
    expected = RoPEPSDLoss()(other[:, 17:19], usual[:, 17:19])
    torch.testing.assert_close(psd(split=(0.5, 0.5), only_labelled=True)(model, data).consistency, expected)
    data["labels"] = torch.full_like(ids, -100)
    assert psd(only_labelled=True)(model, data).loss == 0


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"max_offset": 0}], ids=["no weight", "no jump"])
@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_without_weight_or_jump_it_is_language_modelling_bit_for_bit(options, side):
    model = llama()
    data = batch(tokens()) if side == "none" else padded(tokens(), **{side: 4})
    parts = psd(**options)(model, data)
    usual = model(**data).loss
    assert torch.equal(parts.loss, usual) and parts.consistency == 0
    for ours, plain in zip(gradients(model, parts.loss), gradients(model, usual), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_before_the_split_nothing_changes_bit_for_bit(attention):
    model = llama(attn_implementation=attention)
    data = batch(tokens())
    call = calls_of(model, psd(), data)[1]
    with torch.no_grad():
        usual, other = model(**data).logits, model(**call).logits
    kept = call["position_ids"] == torch.arange(20)
    assert 6 <= int(kept.sum()) <= 54 and torch.equal(usual[kept], other[kept])
    assert not torch.isclose(usual[~kept], other[~kept]).all(-1).any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_mask_stays_causal_and_whole_in_the_second_pass(attention):
    """Every output depends on the tokens up to it, and on no later one; transformers by itself would cut at the jump."""
    model, ids = llama(attn_implementation=attention), tokens(1)
    call = calls_of(model, psd(), batch(ids))[1]
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    call = {**{k: v for k, v in call.items() if k != "input_ids"}, "inputs_embeds": embeddings}

    def reached(**changes: object) -> list[list[bool]]:
        logits = model(**{**call, **changes}).logits[0].square().sum(-1)
        return [torch.autograd.grad(one, embeddings, retain_graph=True)[0][0].any(-1).tolist() for one in logits]

    causal = torch.ones(20, 20).tril().bool().tolist()
    assert reached() == causal
    assert reached(attention_mask=None) != causal


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(perturbation, side):
    model = llama()
    for seed in range(3):
        plain = psd(seed=seed, perturbation=perturbation, max_offset=9)(model, batch(tokens()))
        other = psd(seed=seed, perturbation=perturbation, max_offset=9)(model, padded(tokens(), **{side: 5}))
        torch.testing.assert_close(other.consistency, plain.consistency, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.clm, plain.clm, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(gradients(model, plain.loss), gradients(model, other.loss), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_ids_labels_and_masks_are_never_altered():
    model, data = llama(), padded(tokens(), left=2, right=3)
    before = {name: tensor.clone() for name, tensor in data.items()}
    first, second = calls_of(model, psd(), data)
    assert all(torch.equal(before[name], data[name]) for name in before)
    assert torch.equal(second["attention_mask"], data["attention_mask"]) and second["input_ids"] is data["input_ids"]
    assert "labels" not in second and "position_ids" not in first


def test_jumps_are_the_named_ones():
    assert suffix_jump(5, 0, 3).tolist() == [3, 4, 5, 6, 7] and suffix_jump(3, 3, 9).tolist() == [0, 1, 2]
    assert cyclic_shift(4, 1).tolist() == [1, 2, 3, 0]


def drawn(attended: Tensor, seed: int, **options: object) -> View:
    usual = torch.arange(attended.shape[1]).expand(attended.shape)
    return draw_view(attended, usual, torch.Generator().manual_seed(seed), split=(0.1, 0.9), **options)


@given(length=st.integers(1, 40), largest=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_a_drawn_jump_is_one_jump_within_its_bounds(length, largest, seed):
    attended = torch.ones(2, length, dtype=torch.bool)
    view = drawn(attended, seed, perturbation="suffix", largest_offset=largest)
    for positions, compared in zip(*view, strict=True):
        split, moved = length - int(compared.sum()), positions - torch.arange(length)
        offset = int(moved[-1]) if split < length else largest
        assert compared.tolist() == [i >= split for i in range(length)]
        assert torch.equal(positions, suffix_jump(length, split, offset))
        assert split == length == 1 or math.ceil(length / 10) <= split <= math.floor(9 * length / 10)
        assert min(1, largest) <= offset <= largest


def test_splits_and_offsets_are_uniform_and_each_sequence_has_its_own():
    attended = torch.ones(4000, 20, dtype=torch.bool)
    view = drawn(attended, 0, perturbation="suffix", largest_offset=8)
    splits, offsets = 20 - view.compared.sum(1), view.positions[:, -1] - 19
    for found, values in ((splits, range(2, 19)), (offsets, range(1, 9))):
        counts = torch.bincount(found)[list(values)].double()
        assert counts.sum() == 4000 and found.min() == values[0] and found.max() == values[-1]
        expected = 4000 / len(values)
        assert float(((counts - expected) ** 2 / expected).sum()) < 2 * len(values) + 20


@pytest.mark.parametrize("perturbation", ["cyclic", "permutation"])
def test_other_views_give_each_position_once(perturbation):
    attended = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]).bool()
    view = drawn(attended, 0, perturbation=perturbation, largest_offset=0)
    assert sorted(view.positions[0, 2:].tolist()) == list(range(2, 7))
    assert sorted(view.positions[1, :4].tolist()) == list(range(4))
    assert torch.equal(view.compared, attended)


def test_a_split_at_the_end_compares_nothing_and_one_at_the_start_finds_no_difference():
    model, data = llama(), batch(tokens())
    assert psd(split=(1.0, 1.0))(model, data).consistency == 0
    whole = psd(split=(0.0, 0.0))(model, data)
    assert abs(whole.consistency) < 1e-6  # a global shift


def test_a_sequence_of_one_token_has_nothing_to_compare():
    model = llama()
    parts = psd()(model, batch(tokens(2, 1)))
    assert parts.consistency == 0 and parts.loss == 0
    parts.loss.backward()


def test_a_batch_of_one_and_rows_of_padding_alone_work():
    model = llama()
    assert psd()(model, batch(tokens(1))).consistency > 0
    data = batch(tokens(2), torch.tensor([[1] * 20, [0] * 20]))
    alone = psd()(model, batch(tokens(2)[:1]))
    torch.testing.assert_close(psd()(model, data).consistency, alone.consistency, rtol=1e-4, atol=1e-5)


def test_with_all_labels_ignored_only_the_consistency_is_left():
    model, ids = llama(), tokens()
    parts = psd()(model, {"input_ids": ids, "labels": torch.full_like(ids, -100)})
    assert parts.clm == 0 and parts.consistency > 0
    torch.testing.assert_close(parts.loss, 0.5 * parts.consistency)
    assert all(gradient.isfinite().all() for gradient in gradients(model, parts.loss))


def test_a_full_average_is_the_suffix_average_times_its_share():
    model, data = llama(), batch(tokens(1))
    call = calls_of(model, psd(), data)[1]
    with torch.no_grad():
        usual, other = model(**data).logits, model(**call).logits
    share = float((call["position_ids"] > torch.arange(20)).double().mean())
    torch.testing.assert_close(RoPEPSDLoss()(other, usual), share * psd()(model, data).consistency)


def test_dropout_is_the_same_in_both_views():
    model, data = llama(attention_dropout=0.5), batch(tokens())
    torch.manual_seed(3)
    assert psd(max_offset=0)(model, data).consistency == 0
    after = torch.get_rng_state()
    torch.manual_seed(3)
    model(**data)
    assert torch.equal(after, torch.get_rng_state())  # as after one pass
    assert not torch.equal(model(**data).logits, model(**data).logits)  # and there is dropout


def test_evaluation_is_language_modelling_and_draws_nothing():
    model, data, objective = llama().eval(), batch(tokens()), psd()
    state = objective.generator.get_state()
    assert torch.equal(objective.compute_loss(model, data), model(**data).loss)
    assert torch.equal(state, objective.generator.get_state())
    model.train()
    assert objective.compute_loss(model, data) > model(**data).loss


def test_a_resumed_run_draws_what_the_first_one_would_have_drawn():
    model, data = llama(), batch(tokens())
    first = psd(seed=5)
    first(model, data)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = psd(seed=6)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(first(model, data).loss, second(model, data).loss)
    assert not torch.equal(psd(seed=5)(model, data).loss, psd(seed=6)(model, data).loss)


def test_accumulated_batches_are_one_large_batch():
    """Over parts with unequal numbers of labels, as Trainer adds them up."""
    model, ids = llama(), tokens(2)
    labels = ids.clone()
    labels[1, :12] = -100
    parts = [{"input_ids": ids[i : i + 1], "labels": labels[i : i + 1]} for i in range(2)]
    items = torch.tensor(19 + 8)
    objective = psd()
    losses = [objective.compute_loss(model, part, num_items_in_batch=items) for part in parts]
    consistencies = [one(model, part).consistency for one in [psd()] for part in parts]
    usual = model(input_ids=ids, labels=labels).loss
    expected = usual + 0.5 * (19 * consistencies[0] + 8 * consistencies[1]) / 27
    torch.testing.assert_close(sum(losses), expected)


def test_trainer_takes_it_for_its_own(tmp_path):
    model, ids = llama(), tokens(8)
    rows = [{"input_ids": row, "labels": row} for row in ids]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=2, report_to="none",
        use_cpu=True, disable_tqdm=True, save_strategy="no", eval_strategy="steps", eval_steps=3, learning_rate=0.01,
    )  # fmt: skip
    before = copy.deepcopy(model)
    objective = psd()
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.compute_loss = objective.compute_loss
    trainer.train()
    assert not torch.equal(before.lm_head.weight, model.lm_head.weight)
    with torch.no_grad():
        usual = model.eval()(input_ids=ids, labels=ids).loss
    assert math.isclose(trainer.evaluate()["eval_loss"], float(usual), rel_tol=1e-3)


def test_a_saved_model_in_bfloat16_learns_to_agree():
    with tempfile.TemporaryDirectory() as folder:
        llama().save_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).train()
    objective, data = psd(weight=5.0), batch(tokens())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    for _ in range(30):
        parts = objective(model, data)
        optimizer.zero_grad()
        parts.loss.backward()
        optimizer.step()
        found.append(float(parts.consistency))
    assert np.mean(found[-10:]) < 0.8 * np.mean(found[:10])


def test_wrapped_models_are_looked_into():
    import peft

    model = peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    parts = psd()(model, batch(tokens()))
    parts.loss.backward()
    assert parts.consistency > 0
    with pytest.raises(ParameterError, match="beyond the model's 128 positions"):
        psd(max_offset=109)(model, batch(tokens()))


@pytest.mark.slow
def test_a_compiled_model_gives_the_same():
    plain, compiled = (psd()(model, batch(tokens())) for model in (llama(), torch.compile(llama(), backend="eager")))
    torch.testing.assert_close(compiled.loss, plain.loss)


def test_learned_positions_work_within_their_table():
    model = gpt2()
    assert psd()(model, batch(tokens())).consistency > 0
    assert psd()(model, padded(tokens(), left=3)).consistency > 0
    with pytest.raises(ParameterError, match="max_offset=109 moves 20 tokens beyond"):
        psd(max_offset=109)(model, batch(tokens()))
    psd(split=(0.5, 0.5), max_offset=108)(model, batch(tokens()))
    psd(split=(0.5, 0.5), max_offset=108)(model, padded(tokens(), right=5))  # padding stays within the table


def test_the_default_jump_is_the_length_or_what_there_is_room_for():
    model, largest = llama(max_position_embeddings=25), []
    for seed in range(30):
        call = calls_of(model, psd(seed=seed), batch(tokens()))[1]
        largest.append(int(call["position_ids"].max()))
    assert max(largest) == 24
    with pytest.raises(
        ParameterError, match="max_offset of at least 1 moves 20 tokens beyond the model's 20 positions"
    ):
        psd()(llama(max_position_embeddings=20), batch(tokens()))
    assert psd(max_position=64)(llama(max_position_embeddings=20), batch(tokens())).consistency > 0
    assert psd(perturbation="cyclic")(llama(max_position_embeddings=20), batch(tokens())).consistency > 0


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}


def test_a_scaling_that_depends_on_the_largest_position_is_refused_and_a_fixed_one_is_not():
    with pytest.raises(ParameterError, match="RoPE scaling 'dynamic'"):
        psd()(llama(rope_parameters=DYNAMIC), batch(tokens()))
    assert psd()(llama(rope_parameters=YARN), batch(tokens())).consistency > 0
    psd(0.0)(llama(rope_parameters=DYNAMIC), batch(tokens()))  # one view only


def test_a_scaling_of_one_type_of_layer_is_found():
    model = llama()
    fixed = {"rope_type": "default", "rope_theta": 10000.0}
    model.config.rope_parameters = {"full_attention": {**DYNAMIC, "rope_type": "longrope"}, "sliding_attention": fixed}
    with pytest.raises(ParameterError, match="RoPE scaling 'longrope'"):
        psd()(model, batch(tokens()))


def test_flash_attention_is_refused_where_it_would_see_packed_documents():
    model = llama()
    model.config._attn_implementation = "flash_attention_2"
    for perturbation in ("cyclic", "permutation", "none"):
        with pytest.raises(ParameterError, match="packed document"):
            psd(perturbation=perturbation)(model, batch(tokens()))


class Positionless(nn.Module):
    def forward(self, input_ids: Tensor, labels: Tensor | None = None, use_cache: bool = False) -> Tensor:
        return input_ids


PACKED = torch.cat([torch.arange(8), torch.arange(12)]).expand(3, -1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "batch must have input_ids .* and labels"),
        ({"input_ids": None}, "batch must have input_ids .* and labels"),
        ({"labels": torch.zeros(3, 19, dtype=torch.long)}, "labels must have shape"),
        ({"attention_mask": torch.ones(3, 1, 20, 20)}, "attention_mask must have shape"),
        ({"position_ids": PACKED}, "packed documents"),
        ({"position_ids": torch.zeros(3, 3, 20, dtype=torch.long)}, "packed documents"),
        ({"past_key_values": transformers.DynamicCache()}, "past_key_values"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_batches_are_named(changes, message):
    data = {name: value for name, value in (batch(tokens()) | changes).items() if value is not None}
    with pytest.raises(ParameterError, match=message):
        psd()(llama(), data)


def test_positions_of_a_padded_batch_are_no_packed_documents():
    data = padded(tokens(), left=3)
    data["position_ids"] = (data["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert psd()(llama(), data).consistency > 0


def test_a_model_without_positions_is_named():
    with pytest.raises(ParameterError, match=r"position_ids, which Positionless\.forward does not"):
        psd()(Positionless(), batch(tokens()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psd(-1.0), "weight"),
        (lambda: psd(math.inf), "weight"),
        (lambda: psd(max_offset=-1), "max_offset"),
        (lambda: psd(max_offset=1.5), "max_offset"),
        (lambda: psd(max_position=0), "max_position"),
        (lambda: psd(split=(0.9, 0.1)), "split"),
        (lambda: psd(split=(0.1, 1.1)), "split"),
        (lambda: psd(perturbation="shuffle"), "perturbation"),
        (lambda: psd(direction="sideways"), "direction"),
        (lambda: RoPEPSDLoss()(torch.zeros(2, 3), torch.zeros(2, 3)), "perturbed_logits"),
        (lambda: RoPEPSDLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)), "teacher_logits"),
        (lambda: RoPEPSDLoss()(*[torch.zeros(2, 3, 4)] * 2, torch.ones(2, 3)), "compared must be boolean"),
        (lambda: RoPEPSDLoss()(*[torch.zeros(2, 3, 4)] * 2, torch.ones(3, 2).bool()), "compared must be boolean"),
    ],
    ids=range(13),
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


def test_the_first_layers_scores_move_with_the_jump_only_between_prefix_and_suffix():
    model, ids = llama(attn_implementation="eager"), tokens(1)
    scores = []
    for positions in (torch.arange(20), suffix_jump(20, 8, 30)):
        with torch.no_grad():
            mask = torch.ones_like(ids)
            out = model(input_ids=ids, position_ids=positions[None], attention_mask=mask, output_attentions=True)
        scores.append(out.attentions[0][0].log())
    change = (scores[1] - scores[0])[:, 8:]
    own = change[..., 8:].nan_to_num()  # within the suffix all change by the row's normaliser alone
    row = own[..., :1]
    torch.testing.assert_close(own.tril(), row.expand_as(own).tril(), rtol=0, atol=1e-3)
    assert (change[..., :8] - row).abs().max() > 0.1


def test_sequences_ask_for_the_facts_in_the_slots_that_are_named():
    rng = np.random.default_rng(0)
    asked = recall.evidence(rng, 30, 0.8, 400, 2)
    assert (asked[:, 0] != asked[:, 1]).all() and abs((asked >= 20).mean() - 0.8) < 0.05
    data = recall.sequences(rng, asked, 30)
    ids = data["input_ids"].numpy()
    row = np.arange(400)[:, None]
    facts, questions, right = ids[row, asked], ids[:, 30::2], ids[:, 31::2]
    assert (facts // recall.VALUES == questions - recall.QUESTION).all()
    assert (facts % recall.VALUES == right - recall.ANSWER).all()
    assert ((ids[:, :30] < recall.QUESTION).sum(1) == recall.FACTS).all()
    labels = data["labels"].numpy()
    assert (labels[:, 31::2] == right).all() and (labels != -100).sum() == right.size


def test_arms_of_a_comparison_see_the_same_data():
    both = measure.compared(lambda rng, arm: float(rng.random()), np.random.default_rng(0), measure.PSD, measure.CLM)
    assert both.ours == both.theirs


def test_the_margins_have_teeth():
    rng = np.random.default_rng(0)
    assert margins.reach(copy.deepcopy(rng), by=50, mask="explicit") > 0 >= margins.reach(rng, by=50, mask="inferred")
