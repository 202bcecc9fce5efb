"""The distillation engine against loops written by hand, in transformers' Trainer, and with what users do wrong."""

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
from porism_plugins.distill import _layers
from porism_plugins.distill._engine import (
    Attentions,
    Custom,
    Distillation,
    Logits,
    States,
    Task,
    match_layers,
    ramp,
    state_of,
)  # fmt: skip
from porism_plugins.distill._losses import js_divergence, reverse_kl_divergence
from porism_plugins.distill._states import mean_squared_error

Tensor = torch.Tensor
SIZE = {"num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.3}
IDS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 0, 0], [4, 2, 0, 0, 0, 0]])
MASK = (IDS > 0).long()


def made(build: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def llama(layers: int = 2, width: int = 16, seed: int = 0, **options: Any) -> Any:
    sizes = {"vocab_size": 30, "hidden_size": width, "num_hidden_layers": layers, "use_cache": False}
    config = transformers.LlamaConfig(**(SIZE | sizes | options))
    return made(lambda: transformers.LlamaForCausalLM(config), seed)


def bert(layers: int = 2, width: int = 16, seed: int = 0, **options: Any) -> Any:
    sizes = {"vocab_size": 30, "hidden_size": width, "num_hidden_layers": layers, "num_labels": 3}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**(SIZE | sizes | still | options))
    return made(lambda: transformers.BertForSequenceClassification(config), seed)


def mlps(*widths: int, seed: int = 0) -> nn.Sequential:
    return mlp([4, *widths, 3], np.random.default_rng(seed))


def batch(**entries: Any) -> dict[str, Any]:
    labels = IDS.masked_fill(MASK == 0, -100)
    labels[:, :2] = -100  # a prompt
    return {"input_ids": IDS, "attention_mask": MASK, "labels": labels} | entries


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys() and ours
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=tolerance, msg=name)


def by_hand(student: nn.Module, teacher: nn.Module, data: dict[str, Tensor], projections: list[nn.Linear]) -> Tensor:
    """Task + 0.5 T^2 KL + 2 MSE of two layers, with nothing of the engine's."""
    with torch.no_grad():
        theirs = teacher(input_ids=data["input_ids"], attention_mask=data["attention_mask"], output_hidden_states=True)
    ours = student(**data, output_hidden_states=True)
    kept = data["labels"][:, 1:] != -100
    log_p, q = (F.log_softmax(o.logits[:, :-1][kept] / 2, -1) for o in (ours, theirs))
    kl = F.kl_div(log_p, q, reduction="batchmean", log_target=True)
    states = 0.0
    for ours_at, theirs_at, projection in zip((1, 2), (2, 4), projections, strict=True):
        difference = projection(ours.hidden_states[ours_at]) - theirs.hidden_states[theirs_at]
        states = states + difference[data["attention_mask"].bool()].square().mean() / 2
    return ours.loss + 0.5 * 4 * kl + 2 * states


class WithoutLastNorm(nn.Module):
    """transformers' last hidden state is normalised once more; blocks are compared as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_loss_and_gradients_are_those_of_a_loop_written_by_hand():
    student, teacher = llama(2, 16), llama(4, 24, seed=1)
    student.model.norm = teacher.model.norm = WithoutLastNorm()
    terms = [Task(), Logits(0.5, temperature=2.0), States([1, 2], [2, 4], weight=2.0)]
    distillation = Distillation(student, teacher, terms)
    found = distillation(batch())
    found.loss.backward()
    ours = gradients(distillation)
    filters = list(distillation.signals["states"].filters)
    expected = by_hand(student, teacher, batch(), filters)
    expected.backward()
    torch.testing.assert_close(found.loss, expected, rtol=1e-6, atol=1e-6)
    assert_same_gradients(ours, gradients(distillation))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert set(found.parts) == {"task", "logits", "states"} and not any(p.requires_grad for p in found.parts.values())
    total = found.parts["task"] + 0.5 * found.parts["logits"] + 2 * found.parts["states"]
    torch.testing.assert_close(total, found.loss.detach())


def test_any_two_modules_distil_by_names():
    student, teacher = mlps(8), mlps(16, 16, seed=1)
    x, y = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    terms = [Task(), Logits(), States(["1"], ["3"])]
    distillation = Distillation(student, teacher, terms, example=x)
    found = distillation(x, labels=y)
    (projection,) = distillation.signals["states"].filters
    inner, target = student[:2](x), teacher[:4](x)
    kl = F.kl_div(student(x).log_softmax(-1), teacher(x).log_softmax(-1), reduction="batchmean", log_target=True)
    expected = F.cross_entropy(student(x), y) + kl + F.mse_loss(projection(inner), target)
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.output, student(x))


def test_parameters_and_state_are_the_students_and_its_filters():
    student, teacher = llama(2, 16), llama(4, 24, seed=1)
    fixed = nn.Linear(24, 8)
    distillation = Distillation(student, teacher, [States([2], [4], teacher_filter=fixed)])
    found = {id(p) for p in distillation.parameters()}
    assert {id(p) for p in student.parameters()} < found
    assert not found & {id(p) for p in [*teacher.parameters(), *fixed.parameters()]}
    assert len(found) == len(list(student.parameters())) + 2
    state = distillation.state_dict()
    assert all(name.startswith(("student.", "signals.")) for name in state)
    other = Distillation(llama(2, 16, seed=5), teacher, [States([2], [4], teacher_filter=fixed)], seed=5)
    other.load_state_dict(state)
    torch.testing.assert_close(other(batch()).loss, distillation(batch()).loss)
    distillation.double()
    assert teacher.dtype == fixed.weight.dtype == torch.float64


def test_hooks_are_gone_after_a_call_and_after_a_failure():
    student, teacher = llama(), llama(seed=1)
    before = hooks(student), hooks(teacher)  # transformers has none of its own here
    distillation = Distillation(student, teacher, [States([1], [1])])
    distillation(batch())
    assert (hooks(student), hooks(teacher)) == before
    for data in ({"input_ids": IDS, "attention_mask": MASK[:, :2]}, {"input_ids": IDS + 1000}):
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            distillation(data)
        assert (hooks(student), hooks(teacher)) == before


def test_a_call_within_a_call_captures_its_own():
    student, teacher = llama(), llama(seed=1)
    inner, seen = Distillation(student, teacher, [States([1], [1])]), []

    def look(student: Any, teacher: Any, data: Any) -> Tensor:
        seen.append(inner(data).loss)
        return state_of(student.layers["model.layers.0"], "x").mean()

    outer = Distillation(student, teacher, [Custom("nested", look, student_layers=[1])])
    torch.testing.assert_close(outer(batch()).loss, outer(batch()).loss)
    torch.testing.assert_close(seen[0], inner(batch()).loss)


def test_a_model_can_teach_itself():
    model = llama().train()
    distillation = Distillation(model, model, [Logits(), States([1, 2], [1, 2])])
    found = distillation(batch())
    assert float(found.loss) == pytest.approx(0, abs=1e-6) and model.training
    found.loss.backward()


def test_the_teacher_runs_in_evaluation_mode_and_keeps_its_own():
    teacher = bert(hidden_dropout_prob=0.5).train()
    teacher.bert.eval()
    distillation = Distillation(bert(seed=1), teacher, [Logits()])
    data = {"input_ids": IDS, "attention_mask": MASK}
    assert torch.equal(distillation(data).loss, distillation(data).loss)
    assert teacher.training and not teacher.bert.training
    assert torch.is_grad_enabled()


def test_equal_models_have_no_loss_and_zero_weights_are_plain_fine_tuning():
    student = llama()
    terms = [Task(), Logits(weight=0.0), States([1], [1], weight=0.0)]

    def never(data: Any) -> Any:
        raise AssertionError("the teacher is not needed")

    distillation = Distillation(student, llama(seed=1), terms, teacher_inputs=never)
    loss = distillation(batch()).loss
    loss.backward()
    ours = gradients(student)
    expected = student(**batch()).loss
    expected.backward()
    assert torch.equal(loss, expected)
    assert all(torch.equal(ours[name], grad) for name, grad in gradients(student).items())
    twins = Distillation(llama(), llama(), [Logits(), States([1, 2], [1, 2])])
    assert float(twins(batch()).loss) == pytest.approx(0, abs=1e-6)


def test_ignored_labels_and_padding_do_not_count():
    student, teacher = llama(), llama(seed=1)
    distillation = Distillation(student, teacher, [Logits(), States([1, 2], [1, 2])])
    expected = distillation(batch()).loss
    other = batch(input_ids=IDS.where(MASK == 1, 17))
    torch.testing.assert_close(distillation(other).loss, expected)
    counted = Distillation(student, teacher, [States([1, 2], [1, 2], mask=None)])
    assert not torch.isclose(counted(other).loss, counted(batch()).loss)
    labels = batch()["labels"].clone()
    labels[0, 3] = -100
    assert not torch.isclose(Distillation(student, teacher, [Logits()])(batch(labels=labels)).loss,
                             Distillation(student, teacher, [Logits()])(batch()).loss)  # fmt: skip


def test_without_labels_every_position_but_padding_counts():
    student, teacher = llama(), llama(seed=1)
    data = {"input_ids": IDS, "attention_mask": MASK}
    ours, theirs = (m(**data).logits[MASK.bool()].log_softmax(-1) for m in (student, teacher))
    expected = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    torch.testing.assert_close(Distillation(student, teacher, [Logits()])(data).loss, expected)


def test_what_stands_at_padding_may_be_nan():
    states, targets = torch.zeros(1, 3, 2, requires_grad=True), torch.ones(1, 3, 2)
    targets[0, 2] = torch.nan
    loss = mean_squared_error(states, targets, torch.tensor([[1, 1, 0]]))
    loss.backward()
    assert float(loss) == 1 and states.grad[0].tolist() == [[-0.5, -0.5], [-0.5, -0.5], [0.0, 0.0]]


@pytest.mark.parametrize("family", ["llama", "bert", "mlp"])
def test_all_labels_ignored_give_zero_and_a_zero_gradient(family):
    if family == "mlp":
        student, teacher, inputs = mlps(8), mlps(8, seed=1), (torch.ones(2, 4),)
        entries = {"labels": torch.tensor([-100, -100])}
    else:
        build = llama if family == "llama" else bert
        student, teacher, inputs = build(), build(seed=1), ()
        labels = torch.full_like(IDS, -100) if family == "llama" else torch.full((3,), -100)
        entries = batch(labels=labels)
    found = Distillation(student, teacher, [Task(), Logits(temperature=2.0)])(*inputs, **entries)
    found.loss.backward()
    assert float(found.loss.detach()) == 0
    assert all(not p.grad.abs().any() for p in student.parameters() if p.grad is not None)


def test_a_batch_of_one_and_a_batch_without_a_mask():
    student, teacher = bert(), bert(4, seed=1)
    distillation = Distillation(student, teacher, [Task(), Logits(), States([1, 2], [2, 4])])
    one = {"input_ids": IDS[:1], "labels": torch.tensor([1])}
    full = one | {"attention_mask": torch.ones_like(IDS[:1])}
    torch.testing.assert_close(distillation(one).loss, distillation(full).loss)


def test_permuting_the_batch_changes_nothing():
    distillation = Distillation(llama(), llama(seed=1), [Task(), Logits(), States([1], [1])])
    moved = {name: tensor[[2, 0, 1]] for name, tensor in batch().items()}
    torch.testing.assert_close(distillation(moved).loss, distillation(batch()).loss)


def test_cached_logits_take_the_teachers_place():
    student, teacher = llama(), llama(seed=1)
    cached = teacher(input_ids=IDS, attention_mask=MASK).logits.detach()
    expected = Distillation(student, teacher, [Task(), Logits()])(batch()).loss
    alone = Distillation(student, None, [Task(), Logits()])
    torch.testing.assert_close(alone(batch(teacher_logits=cached)).loss, expected)
    torch.testing.assert_close(alone(**batch(), teacher_logits=cached).loss, expected)
    with pytest.raises(ParameterError, match="teacher_logits"):
        alone(batch())


@pytest.mark.parametrize(("student_dtype", "teacher_dtype"), [("bfloat16", "float32"), ("float32", "float16"),
                                                             ("float32", "float64")])  # fmt: skip
def test_precisions_may_differ(student_dtype, teacher_dtype):
    student, teacher = llama().to(getattr(torch, student_dtype)), llama(4, 24, seed=1).to(getattr(torch, teacher_dtype))
    distillation = Distillation(student, teacher, [Task(), Logits(), States([1, 2], [2, 4])])
    found = distillation(batch())
    found.loss.backward()
    exact = Distillation(llama(), llama(4, 24, seed=1), [Task(), Logits(), States([1, 2], [2, 4])])(batch())
    for name in ("logits", "states"):
        assert found.parts[name].dtype == torch.promote_types(student.dtype, teacher.dtype) or name == "states"
        torch.testing.assert_close(found.parts[name].float(), exact.parts[name], rtol=0.05, atol=0.05)
    assert all(p.grad.isfinite().all() for p in student.parameters())


def test_attention_maps():
    student, teacher = (llama(layers, seed=layers, attn_implementation="eager") for layers in (2, 4))
    found = Distillation(student, teacher, [Attentions([1, 2], [2, 4])])(batch())
    with torch.no_grad():
        ours, theirs = (
            m(input_ids=IDS, attention_mask=MASK, output_attentions=True).attentions for m in (student, teacher)
        )
    kept = MASK.bool()[:, None].expand(3, 2, 6)
    expected = sum(F.mse_loss(a[kept], b[kept]) / 2 for a, b in zip(ours, theirs[1::2], strict=True))
    torch.testing.assert_close(found.loss.detach(), expected)
    found.loss.backward()
    assert student.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    wide = llama(2, 16, seed=3, attn_implementation="eager", num_attention_heads=4)
    assert float(Distillation(student, wide, [Attentions([1], [1])])(batch()).loss) > 0
    encoder = bert(attn_implementation="eager"), bert(seed=1, attn_implementation="eager")
    rows = Attentions([1], [1], distance=lambda p, q: (p - q).abs().sum(-1).mean())
    assert float(Distillation(*encoder, [rows])(batch(labels=torch.tensor([0, 1, 2]))).loss) > 0
    with pytest.raises(ParameterError, match="eager"):
        Distillation(llama(), llama(seed=1), [Attentions([1], [1])])(batch())


def test_filters_one_for_all_or_one_for_each():
    student, teacher = llama(), llama(seed=1)
    shared, pair = nn.Linear(16, 4), [nn.Linear(16, 4), nn.Linear(16, 4)]
    distillation = Distillation(student, teacher, [States([1, 2], [1, 2], student_filter=shared, teacher_filter=pair)])
    distillation(batch()).loss.backward()
    assert shared.weight.grad is not None and all(one.weight.grad is None for one in pair)
    linear = Distillation(student, teacher, [States([1], [1], student_filter="linear")])
    assert linear.signals["states"].filters[0].weight.shape == (16, 16)
    plain = Distillation(student, teacher, [States([1], [1])])
    assert not list(plain.signals.parameters())


def test_projections_come_from_the_seed_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    term, models = States([1], [1]), (llama(), llama(2, 24, seed=1))
    first, again, other = (Distillation(*models, [term], seed=s).signals["states"].filters[0].weight for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_weights_follow_the_progress():
    terms = [Task(ramp(0.0, 1.0)), Logits(lambda progress: 1 - progress)]
    distillation = Distillation(llama(), llama(seed=1), terms)
    with pytest.raises(ParameterError, match="progress"):
        distillation(batch())
    distillation.progress = 0.25
    assert distillation.weights() == {"task": 0.25, "logits": 0.75}
    found = distillation(batch())
    torch.testing.assert_close(found.loss.detach(), 0.25 * found.parts["task"] + 0.75 * found.parts["logits"])
    distillation.progress = 1.0
    assert set(distillation(batch()).parts) == {"task"}
    distillation.progress = 1.5
    with pytest.raises(ParameterError, match=r"\[0, 1\]"):
        distillation(batch())


@pytest.mark.parametrize("divergence", [reverse_kl_divergence, js_divergence])
def test_other_divergences_and_temperatures(divergence):
    student, teacher = mlps(8), mlps(8, seed=1)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    found = Distillation(student, teacher, [Logits(3.0, temperature=2.0, divergence=divergence)])(x)
    torch.testing.assert_close(found.loss, 3 * 4 * divergence(student(x) / 2, teacher(x) / 2))


def test_a_task_of_ones_own_and_multi_label_targets():
    student, teacher = mlps(8), mlps(8, seed=1)
    x, y = torch.ones(2, 4), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    terms = [Task(loss=lambda output, labels: F.binary_cross_entropy_with_logits(output, labels)), Logits()]
    found = Distillation(student, teacher, terms)(x, labels=y)
    torch.testing.assert_close(found.parts["task"], F.binary_cross_entropy_with_logits(student(x), y).detach())


def test_vocabularies_of_other_lengths_need_a_word_from_the_user():
    student, teacher = llama(), llama(seed=1, vocab_size=32)
    with pytest.raises(ParameterError, match="30 and 32 classes"):
        Distillation(student, teacher, [Logits()])(batch())
    found = Distillation(student, teacher, [Logits(classes=30)])(batch())
    cached = teacher(input_ids=IDS, attention_mask=MASK).logits[..., :30].detach()
    torch.testing.assert_close(found.loss, Distillation(student, None, [Logits()])(batch(teacher_logits=cached)).loss)
    with pytest.raises(ParameterError, match="at most 30"):
        Distillation(student, teacher, [Logits(classes=31)])(batch())


def test_layers_are_matched_over_the_whole_depth():
    student, teacher = bert(2), llama(6)
    assert match_layers(student, teacher) == (("bert.encoder.layer.0", "bert.encoder.layer.1"),
                                              ("model.layers.2", "model.layers.5"))  # fmt: skip
    assert match_layers(student, teacher, "last")[1] == ("model.layers.4", "model.layers.5")
    assert match_layers(student, teacher, count=1)[1] == ("model.layers.5",)
    assert _layers.layer_names(teacher, [1, -1, "model.norm"]) == ("model.layers.0", "model.layers.5", "model.norm")
    distillation = Distillation(student, bert(5), [States(*match_layers(student, bert(5)))])
    assert distillation.signals["states"].teacher_modules == ("bert.encoder.layer.1", "bert.encoder.layer.4")


def test_checkpointed_gradients_are_the_same():
    student, teacher = llama().train(), llama(seed=1)
    distillation = Distillation(student, teacher, [Logits(), States([1, 2], [1, 2])])
    distillation(batch()).loss.backward()
    expected = gradients(student)
    student.gradient_checkpointing_enable({"use_reentrant": False})
    distillation(batch()).loss.backward()
    assert_same_gradients(gradients(student), expected)


def test_a_copy_has_models_of_its_own():
    distillation = Distillation(llama(), llama(2, 24, seed=1), [Logits(), States([1], [1])])
    other = copy.deepcopy(distillation)
    assert other.teacher is not distillation.teacher and other.student is not distillation.student
    torch.testing.assert_close(other(batch()).loss, distillation(batch()).loss)


def rows(count: int) -> list[dict[str, Tensor]]:
    made = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        ids = torch.randint(1, 30, (6,), generator=made)
        labels = ids.clone()
        labels[: number % 4] = -100  # so that parts of a step have unequal numbers of labels
        found.append({"input_ids": ids, "attention_mask": torch.ones(6, dtype=torch.long), "labels": labels})
    return found


def train(tmp_path: Any, distillation: Distillation, data: Any, *, attach: bool, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=options.pop("max_steps", 3), learning_rate=0.1, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0.0, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True, **options,
    )  # fmt: skip
    trainer = transformers.Trainer(model=distillation.student, args=arguments, train_dataset=data, eval_dataset=data)
    if attach:
        distillation.attach(trainer)
    else:
        trainer.compute_loss = distillation.compute_loss
    trainer.train()
    return trainer


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_in_transformers_trainer_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, family):
    data = rows(8) if family == "llama" else [
        {**row, "labels": torch.tensor(number % 3)} for number, row in enumerate(rows(8))
    ]  # fmt: skip
    build = llama if family == "llama" else bert
    weights = []
    for size, accumulation in ((8, 1), (2, 4)):
        distillation = Distillation(build(), build(seed=1), [Task(), Logits(temperature=2.0), States([1], [2])])
        if family == "llama":  # hidden states have as many positions in every part; labels have not
            distillation = Distillation(build(), build(seed=1), [Task(), Logits(temperature=2.0)])
        train(tmp_path, distillation, data, attach=False, per_device_train_batch_size=size,
              gradient_accumulation_steps=accumulation)  # fmt: skip
        weights.append(distillation.student.state_dict())
    start = build().state_dict()
    moved = max(float((weights[0][name] - start[name]).abs().max()) for name in start)
    apart = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in start)
    assert moved > 1e-3 and apart < 1e-5


def test_in_transformers_trainer_filters_train_and_schedules_run(tmp_path):
    seen: list[float] = []

    def weight(progress: float) -> float:
        seen.append(progress)
        return 1.0

    distillation = Distillation(llama(), llama(2, 24, seed=1), [Task(), States([1], [1], weight=weight)])
    before = distillation.signals["states"].filters[0].weight.clone()
    trainer = train(tmp_path, distillation, rows(8), attach=True, max_steps=4)
    assert seen == [0.0, 0.25, 0.5, 0.75]
    assert not torch.equal(before, distillation.signals["states"].filters[0].weight)
    metrics = trainer.evaluate()
    assert np.isfinite(metrics["eval_loss"])
    assert trainer.predict(rows(2)).predictions.shape == (2, 6, 30)
    with pytest.raises(ParameterError, match="optimizer"):
        Distillation(trainer.model, llama(2, 24), [States([1], [1])]).attach(trainer)


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.module(*args, **options)


def test_compute_loss_runs_the_wrapper_and_refuses_other_models():
    distillation = Distillation(llama(), llama(seed=1), [Task(), Logits(), States([1], [1])])
    wrapper, ran = Wrapper(distillation.student), []
    wrapper.register_forward_hook(lambda *_: ran.append(1))
    loss, output = distillation.compute_loss(wrapper, batch(), return_outputs=True)
    torch.testing.assert_close(loss, distillation(batch()).loss)
    assert ran == [1] and output.logits.shape == (3, 6, 30)
    with pytest.raises(ParameterError, match="student of this distillation"):
        distillation.compute_loss(llama(), batch())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


T5 = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "num_layers": 2, "num_heads": 2, "d_ff": 16}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Distillation(llama(), llama(), []), "at least one"),
        (lambda: Distillation(llama(), llama(), [Logits(), Logits()]), "names of their own"),
        (lambda: Distillation(llama(), llama(), [Logits(name="a.b")]), "a dot"),
        (lambda: Distillation(llama(), llama(), [Logits(-1.0)]), "weight of logits"),
        (lambda: Logits(temperature=0.0), "temperature"),
        (lambda: Logits(classes=0), "classes"),
        (lambda: ramp(0, 1, begin=1.0), "begin"),
        (lambda: Distillation(llama(), llama(4), [States([3], [3])]), "student has no layer 3; it has 1 to 2"),
        (lambda: Distillation(llama(), llama(4), [States([0], [1])]), "no layer 0"),
        (lambda: Distillation(llama(), llama(), [States(["model.layer.1"], [1])]), "did you mean 'model.layers.1'"),
        (lambda: Distillation(llama(), llama(), [States([1], ["nothing"])]), "there are: model, "),
        (lambda: Distillation(llama(), llama(), [States([1, 2], [1])]), "as many"),
        (lambda: Distillation(llama(), llama(), [States("model.norm", [1])]), "list of names"),
        (lambda: Distillation(llama(), llama(), [States([1], [1], student_filter="mlp")]), "student_filter"),
        (lambda: Distillation(llama(), llama(), [States([1], [1], teacher_filter=[])]), "teacher_filter"),
        (lambda: Distillation(llama(), None, [States([1], [1])]), "teacher is None"),
        (lambda: Distillation(mlps(8), mlps(16), [States([1], [1])]), "layers can be numbered only"),
        (lambda: Distillation(mlps(8), mlps(16), [States(["1"], ["1"])])(torch.ones(1, 4)), "8 wide and .* 16"),
        (lambda: Distillation(mlps(8), mlps(8), [States(["1"], ["1"], student_filter="linear")]), "example"),
        (lambda: Distillation(mlps(8), mlps(8), [Task()])(torch.ones(1, 4)), "needs labels"),
        (lambda: Distillation(mlps(8), mlps(8), [Task()])(torch.ones(2, 4), labels=torch.tensor([1])), "labels must be"),
        (lambda: Distillation(mlps(8), mlps(8), [Logits(0.0)])(torch.ones(1, 4)), "nothing is left"),
        (lambda: Distillation(Twice(), Twice(), [States(["layer"], ["layer"])])(torch.ones(1, 4)), "more than once"),
        (lambda: Distillation(Twice(), Twice(), [States(["unused"], ["unused"])])(torch.ones(1, 4)), "did not run"),
        (lambda: Distillation(llama().to("meta"), llama(), [Logits()]), "student has weights on the meta device"),
        (lambda: Distillation(llama(), llama().to("meta"), [Logits()]), "teacher has weights on the meta device"),
        (lambda: Distillation(llama(), llama(), [Logits()])(batch(labels=IDS[:, :3])), "labels must"),
        (lambda: Distillation(llama(), llama(), [Logits(mask="labels2"), States([1], [1], mask="other")])(
            batch(other=MASK[:, :2])), "other must have shape"),
        (lambda: Distillation(llama(), llama(), [Attentions(["model.norm"], [1])])(batch()), "eager"),
        (lambda: match_layers(llama(), llama(4), count=3), "count"),
        (lambda: match_layers(llama(), llama(4), "first"), "how"),
        (lambda: _layers.block_names(transformers.T5ForConditionalGeneration(transformers.T5Config(**T5))), "decoder"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()
