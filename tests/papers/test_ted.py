"""TED's two stages on modules and on transformers models, against formulas by hand, and with what users do wrong."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.testbeds import mlp
from porism_plugins.distill import _ted_experiments as measure
from porism_plugins.distill import _ted_filters as stage_one
from porism_plugins.distill.ted import prepare, ted

IDS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 0, 0], [4, 2, 0, 0, 0, 0]])
MASK = (IDS > 0).long()
QUICK: dict[str, Any] = {"filter_steps": 3, "steps": 3, "learning_rate": 1e-2}


def transformer(family: str, layers: int = 2, width: int = 16, seed: int = 0, **options: Any) -> Any:
    sizes = {"vocab_size": 30, "hidden_size": width, "num_hidden_layers": layers, "num_labels": 3, "pad_token_id": 0,
             "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.3} | options  # fmt: skip
    config = (transformers.BertConfig if "Bert" in family else transformers.LlamaConfig)(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, family)(config).eval()


def mlps() -> tuple[nn.Module, nn.Module]:
    return mlp([4, 6, 6, 3], np.random.default_rng(0)), mlp([4, 9, 9, 3], np.random.default_rng(1))


def pairs(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    made = torch.Generator().manual_seed(0)
    return [(torch.randn(5, 4, generator=made), torch.arange(5) % 3) for _ in range(count)]


def batch(labels: Any = None, **entries: Any) -> dict[str, Any]:
    labels = torch.tensor([0, 1, 2]) if labels is None else labels
    return {"input_ids": IDS, "attention_mask": MASK, "labels": labels} | entries


LAYERS = (["1", "3"], ["1", "3"])


def heads(model: nn.Module, example: Any, layers: Any, **options: Any) -> stage_one.FilterHeads:
    made = torch.Generator().manual_seed(0)
    return stage_one.FilterHeads(model, layers, example, **({"width": 5, "generator": made} | options))


def test_stage_one_is_the_mean_of_the_cross_entropies():
    student, _ = mlps()
    x, y = pairs()[0]
    found = heads(student, (x, y), ["1", "3"])
    losses = [F.cross_entropy(head(filter(student[: place + 1](x))), y)
              for place, filter, head in zip((1, 3), found.filters, found.heads, strict=True)]  # fmt: skip
    torch.testing.assert_close(found(input=x, labels=y).loss, torch.stack(losses).mean())
    torch.testing.assert_close(found(input=x, labels=y).parts, torch.stack(losses).detach())


def test_stage_one_moves_filters_and_heads_only():
    model = transformer("BertForSequenceClassification").train()
    before = copy.deepcopy(model.state_dict())
    found = heads(model, batch(), [1, 2])
    start = copy.deepcopy(found.state_dict())
    losses = stage_one.fit_filters(found, [batch()], steps=10, learning_rate=0.02)
    assert losses[-1] < losses[0] and len(losses) == 10
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(not torch.equal(start[name], value) for name, value in found.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and model.training
    assert not any("companions" in name or "bert" in name for name in found.state_dict())


@pytest.mark.parametrize("family", ["BertForSequenceClassification", "LlamaForSequenceClassification"])
def test_a_sequence_is_read_at_its_first_token_or_at_its_last_that_is_not_padding(family):
    model = transformer(family)
    found = heads(model, batch(), [2])
    (state,), _ = found.read(batch())
    places = [0, 0, 0] if "Bert" in family else [5, 3, 1]
    expected = found.heads[0](found.filters[0](state[torch.arange(3), places]))
    torch.testing.assert_close(found(**batch()).loss, F.cross_entropy(expected, torch.tensor([0, 1, 2])))
    for pool, column in (("first", 0), ("last", 5)):
        other = heads(model, batch(attention_mask=None), [2], pool=pool)
        torch.testing.assert_close(other._chosen(state, torch.zeros(3), {}), state[:, column])


def test_language_models_read_every_token_and_masked_ones_what_is_masked():
    labels = IDS.masked_fill(MASK == 0, -100)
    causal, masked = transformer("LlamaForCausalLM"), transformer("BertForMaskedLM")
    for model, logits, kept in ((causal, slice(0, -1), slice(1, None)), (masked, slice(None), slice(None))):
        found = heads(model, batch(labels), [1, 2])
        states, _ = found.read(batch(labels))
        values = [F.cross_entropy(head(filter(s))[:, logits].flatten(0, 1), labels[:, kept].flatten())
                  for s, filter, head in zip(states, found.filters, found.heads, strict=True)]  # fmt: skip
        torch.testing.assert_close(found(**batch(labels)).loss, torch.stack(values).mean())


def test_labels_may_be_numbers_or_several():
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert float(stage_one.task_loss(logits, torch.tensor([1.0, 1.0]), shift=False)) == 2
    several = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = F.binary_cross_entropy_with_logits(logits, several)
    torch.testing.assert_close(stage_one.task_loss(logits, several, shift=False), expected)
    assert float(stage_one.task_loss(logits, torch.tensor([-100, -100]), shift=False)) == 0


def test_stage_two_is_the_papers_loss():
    student, teacher = mlps()
    prepared = prepare(student, teacher, pairs(), layers=LAYERS, filter_steps=3, temperature=3.0, logits_weight=0.5,
                       states_weight=2.0)  # fmt: skip
    x, y = pairs()[0]
    signal = prepared.distillation.signals["states"]
    layers = 0.0
    for place, ours, theirs in zip((1, 3), signal.filters, signal.targets, strict=True):
        layers = layers + (ours(student[: place + 1](x)) - theirs(teacher[: place + 1](x))).square().mean() / 2
    log_p, log_q = ((model(x) / 3).log_softmax(-1) for model in (student, teacher))
    kl = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    expected = F.cross_entropy(student(x), y) + 0.5 * 9 * kl + 2 * layers
    torch.testing.assert_close(prepared.distillation(x, labels=y).loss, expected)
    assert ours.weight.shape == (9, 6) and theirs.weight.shape == (9, 9)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_student_learns_and_its_teacher_stays(kind):
    student, teacher = mlps()
    before = copy.deepcopy(teacher.state_dict())
    found = ted(student, teacher, pairs(), layers=LAYERS, kind=kind, width=7, filter_steps=15, steps=30,
                filter_learning_rate=0.02, learning_rate=0.02)  # fmt: skip
    assert found.student is student and not student.training
    assert np.mean(found.losses[-5:]) < np.mean(found.losses[:5])
    assert found.teacher_filter_losses[-1] < found.teacher_filter_losses[0]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())


def test_the_same_seed_gives_the_same_bits_and_torch_is_left_alone():
    state = torch.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        student, teacher = (transformer("BertForSequenceClassification", layers) for layers in (1, 3))
        ted(student, teacher, [batch()], seed=seed, **QUICK)  # with dropout
        found.append(student.state_dict()["bert.encoder.layer.0.output.dense.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(state, torch.get_rng_state())


def test_padding_counts_only_if_asked():
    models = [transformer("BertForSequenceClassification", width=width) for width in (16, 24)]
    losses = {}
    for padding in ("masked", "counted"):
        distillation = prepare(*models, [batch()], filter_steps=0, padding=padding).distillation
        losses[padding] = [float(distillation(batch(input_ids=IDS.where(MASK == 1, other))).parts["states"])
                           for other in (0, 17)]  # fmt: skip
    assert losses["masked"][0] == pytest.approx(losses["masked"][1], rel=1e-5)
    assert losses["counted"][0] != pytest.approx(losses["counted"][1], rel=1e-3)


def test_a_saved_pair_is_distilled_saved_and_loaded(tmp_path):
    for name, layers, width in (("teacher", 4, 24), ("student", 2, 16)):
        transformer("BertForSequenceClassification", layers, width).save_pretrained(tmp_path / name)
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    student, teacher = load(tmp_path / "student"), load(tmp_path / "teacher")
    prepared = prepare(student, teacher, [batch()], filter_steps=0)
    assert prepared.distillation.signals["states"].teacher_modules[0] == "bert.encoder.layer.1"
    ted(student, teacher, [batch()], **QUICK)
    student.save_pretrained(tmp_path / "taught")
    again = load(tmp_path / "taught")
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    torch.testing.assert_close(again(**inputs).logits, student(**inputs).logits)  # no filter is needed
    assert not any("filter" in name for name in student.state_dict())


def test_continual_pre_training():
    student, teacher = (transformer("LlamaForCausalLM", layers) for layers in (1, 2))
    found = ted(
        student, teacher, [batch(IDS.masked_fill(MASK == 0, -100))], filter_steps=3, steps=30, learning_rate=1e-2
    )
    assert found.losses[-1] < found.losses[0]


@pytest.mark.parametrize("learned", ["both", "teacher", "student", "none"])
def test_whose_filters_are_learned(learned):
    prepared = prepare(*mlps(), pairs(), layers=LAYERS, filter_steps=2, learned=learned)
    assert bool(prepared.student_filter_losses) == (learned in ("both", "student"))
    assert bool(prepared.teacher_filter_losses) == (learned in ("both", "teacher"))


def test_models_that_name_their_input_otherwise():
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlps()[1]

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.inner(pixels)

    found = ted(mlps()[0], Other(), pairs(), layers=(["1"], ["inner.3"]), **QUICK)
    assert len(found.losses) == 3


def test_bfloat16_models_are_distilled():
    student, teacher = (transformer("BertForSequenceClassification", 1).bfloat16() for _ in range(2))
    assert np.isfinite(ted(student, teacher, [batch()], **QUICK).losses).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ted(*mlps(), []), "batches are empty"),
        (lambda: ted(*mlps(), pairs()), "layers can be numbered only"),
        (lambda: ted(*mlps(), pairs(), layers=(["1"], ["9"])), "teacher has no layer '9'"),
        (lambda: ted(*mlps(), pairs(), layers=(["1", "3"], ["1"])), "as many"),
        (lambda: ted(*mlps(), [torch.ones(2, 4)], layers=LAYERS), "batches must be mappings"),
        (lambda: ted(*mlps(), [{"input": torch.ones(2, 4)}], layers=LAYERS), "must have labels"),
        (lambda: ted(*mlps(), pairs(), layers=LAYERS, kind="cubic"), "kind"),
        (lambda: ted(*mlps(), pairs(), layers=LAYERS, width=0), "width"),
        (lambda: ted(*mlps(), pairs(), layers=LAYERS, states_weight=-1.0), "weight of states"),
        (lambda: ted(*mlps(), pairs(), layers=LAYERS, temperature=0.0), "temperature"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


@pytest.mark.slow
def test_all_arms_of_the_comparison_start_alike_and_learn():
    world = measure.digits_world(np.random.default_rng(3))
    before = measure.score(world.student, *world.test)
    found = {arm: measure.taught(world, arm, np.random.default_rng(4), weights=(1.0,)) for arm in ("KD", "LWD", "TED")}
    assert all(result.test > before for result in found.values())
    assert measure.score(world.teacher, *world.test) > before
    assert found["TED"].gap < 1 and np.isnan(found["KD"].gap)
