"""SinKD against a naive float64 reference, POT, exact assignment, and the ways in which users break losses.

The bracket of the claim ``entropic_bias``: after the last column step the plan P has column sums 1 and row sums r, and
it is diag(u) K diag(v), hence the minimiser of <P, D> - epsilon H(P) over all plans with these sums. With H the entropy,
0 <= H <= B log B for any such plan (each column is a distribution over B rows), so

    OT(r, 1) <= <P, D> <= OT(r, 1) + epsilon B log B.

D is the L1 distance, a metric bounded by 2, so moving the student's masses from r to 1 costs at most
2 |r - 1|_1 / 2, and the triangle inequality gives |OT(r, 1) - OT(1, 1)| <= |r - 1|_1. OT(1, 1) is the assignment cost
(Birkhoff). Dividing by B gives the claim. At finite iterations the loss can lie below the assignment cost:
``test_unconverged_loss_can_be_below_the_assignment_cost``.
"""

from __future__ import annotations

import copy
import functools
import io
import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from porism.errors import ParameterError
from porism.seeds import generator
from porism.testing import strategies
from porism.transport import sinkhorn
from porism_plugins.distill import _engine as engine
from porism_plugins.distill import _losses as losses
from porism_plugins.distill import _sinkd_experiments as measure
from porism_plugins.distill import _sinkd_mixture as mixture
from porism_plugins.distill import _sinkd_models as models
from porism_plugins.distill import sinkd
from porism_plugins.distill.sinkd import SinKDLoss


def logits(*shape: int, spread: float = 2.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=spread, size=(2, *shape)))


def naive(student: np.ndarray, teacher: np.ndarray, temperature=2.0, epsilon=0.1, iterations=20) -> float:
    """The paper's steps, on K itself and with loops."""

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z / temperature - (z / temperature).max())
        return e / e.sum()

    p, q = [softmax(z) for z in student], [softmax(z) for z in teacher]
    d = np.array([[np.abs(a - b).sum() for b in q] for a in p])
    k = np.exp(-d / epsilon)
    for _ in range(iterations):
        k = k / k.sum(1, keepdims=True)
        k = k / k.sum(0, keepdims=True)
    return float((k * d).sum() / len(d))


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.7}, {"epsilon": 0.5}, {"iterations": 1}, {"epsilon": 0.05, "iterations": 3}],
)
def test_equals_the_paper_step_by_step(options):
    student, teacher = logits(6, 5)
    expected = naive(student.numpy(), teacher.numpy(), **options)
    assert SinKDLoss(**options)(student, teacher).item() == pytest.approx(expected, abs=1e-13)


def test_survives_where_the_kernel_underflows():
    student, teacher = logits(6, 5, spread=30.0)
    with np.errstate(all="ignore"):
        assert math.isnan(naive(student.numpy(), teacher.numpy(), epsilon=0.001))
    assert math.isfinite(SinKDLoss(epsilon=0.001)(student, teacher))
    assert math.isfinite(SinKDLoss(epsilon=0.001)(student.float(), teacher.float()))
    for case in range(5):
        assert sinkd.entropic_bias(generator("t", case), spread=30.0, epsilon=0.001) > 0


def test_sum_is_the_scale_of_the_released_code():
    student, teacher = logits(6, 5)
    total = SinKDLoss(reduction="sum")(student, teacher)
    torch.testing.assert_close(total, 6 * SinKDLoss()(student, teacher))


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 1.0])
def test_agrees_with_pot_at_convergence(epsilon):
    student, teacher = logits(12, 7)
    loss = SinKDLoss(epsilon=epsilon, iterations=1000)
    cost = loss.cost(student, teacher)[0].numpy()
    uniform = np.full(12, 1 / 12)
    plan = ot.sinkhorn(uniform, uniform, cost, epsilon, method="sinkhorn_log", numItermax=10_000, stopThr=1e-13)
    assert loss(student, teacher).item() == pytest.approx((plan * cost).sum(), abs=1e-9)
    np.testing.assert_allclose(loss.plan(torch.from_numpy(cost)).numpy() / 12, plan, atol=1e-9)


def test_columns_sum_to_one_and_rows_nearly():
    loss = SinKDLoss()
    plan = loss.plan(loss.cost(*logits(32, 10, spread=8.0)))[0]
    torch.testing.assert_close(plan.sum(0), torch.ones(32, dtype=torch.float64))
    assert 1e-4 < (plan.sum(1) - 1).abs().max() < 0.5


def test_one_sample_gives_the_l1_distance():
    student, teacher = logits(1, 9)
    expected = (student.div(2).softmax(-1) - teacher.div(2).softmax(-1)).abs().sum()
    torch.testing.assert_close(SinKDLoss()(student, teacher), expected)


def test_groups_of_one_are_the_sample_wise_variant_and_groups_do_not_mix():
    student, teacher = logits(6, 5)
    pairs = (student.div(2).softmax(-1) - teacher.div(2).softmax(-1)).abs().sum(-1)
    torch.testing.assert_close(SinKDLoss(group_size=1)(student, teacher), pairs.mean())
    halves = (SinKDLoss()(student[:3], teacher[:3]) + SinKDLoss()(student[3:], teacher[3:])) / 2
    torch.testing.assert_close(SinKDLoss(group_size=3)(student, teacher), halves)


def test_without_regularisation_in_the_limit_of_much_it_is_the_mean_pairwise_cost():
    student, teacher = logits(8, 5)
    loss = SinKDLoss(epsilon=1000.0)
    assert loss(student, teacher).item() == pytest.approx(loss.cost(student, teacher).mean().item(), abs=1e-3)


def test_unconverged_loss_can_be_below_the_assignment_cost():
    student, teacher = logits(24, 10, spread=8.0)
    loss = SinKDLoss(epsilon=0.01, iterations=3)
    cost = loss.cost(student, teacher)[0]
    assert loss(student, teacher) < cost[linear_sum_assignment(cost)].mean() - 0.05


def test_plan_of_two_samples_is_a_logistic_switch_between_the_pairings():
    # P_11 / P_12 squared is the cross ratio K_11 K_22 / (K_12 K_21), which scaling leaves alone.
    cost = torch.tensor([[0.3, 1.1], [0.6, 0.2]], dtype=torch.float64)
    expected = torch.sigmoid((cost[0, 1] + cost[1, 0] - cost[0, 0] - cost[1, 1]) / (2 * 0.1))
    torch.testing.assert_close(SinKDLoss(iterations=1000).plan(cost)[0, 0], expected)


@given(st.integers(1, 8).flatmap(lambda n: strategies.logits(rows=2 * n, classes=(1, 5), magnitude=1e3)))
def test_lies_in_its_range_and_forgets_constants(drawn):
    student, teacher = torch.from_numpy(drawn).chunk(2)
    value = SinKDLoss()(student, teacher).item()
    assert -1e-9 <= value <= 2 + 1e-9
    shifted = student + torch.arange(len(student), dtype=torch.float64)[:, None]
    assert SinKDLoss()(shifted, teacher).item() == pytest.approx(value, abs=1e-9)


def test_doubling_the_batch_doubles_the_converged_sum():
    student, teacher = logits(5, 4)
    loss = SinKDLoss(reduction="sum", iterations=1000)
    doubled = loss(student.repeat(2, 1), teacher.repeat(2, 1))
    assert doubled.item() == pytest.approx(2 * loss(student, teacher).item(), abs=1e-9)


@pytest.mark.parametrize("options", [{}, {"iterations": 1}, {"group_size": 2}, {"reduction": "sum"}])
def test_gradient(options):
    student, teacher = logits(4, 3)
    loss = SinKDLoss(**options)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher), student.requires_grad_())


def test_gradient_flows_through_the_plan():
    student, teacher = logits(4, 3)
    loss = SinKDLoss()
    student.requires_grad_()
    (whole,) = torch.autograd.grad(loss(student, teacher), student)
    cost = loss.cost(student, teacher)
    (cost_only,) = torch.autograd.grad((loss.plan(cost.detach()) * cost).sum() / 4, student)
    assert (whole - cost_only).abs().max() > 1e-3


def test_teacher_gets_no_gradient():
    student, teacher = (z.requires_grad_() for z in logits(4, 3).unbind())
    SinKDLoss()(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


def test_ties_have_gradient_zero():
    student = logits(1, 5)[0].requires_grad_()
    SinKDLoss()(student, student.detach().clone()).backward()
    assert torch.equal(student.grad, torch.zeros_like(student))
    same = torch.zeros(4, 5, requires_grad=True)
    SinKDLoss()(same, torch.zeros(4, 5)).backward()
    assert torch.equal(same.grad, torch.zeros(4, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    student, teacher = logits(16, 10, spread=20.0).to(dtype)
    student.requires_grad_()
    loss = SinKDLoss()(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad.dtype == dtype
    assert torch.isfinite(student.grad).all()
    torch.testing.assert_close(loss, SinKDLoss()(student.detach().float(), teacher.float()))


def test_autocast_changes_nothing():
    student, teacher = logits(16, 10).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = SinKDLoss()(student, teacher)
    torch.testing.assert_close(inside, SinKDLoss()(student, teacher), rtol=0, atol=0)


def test_extreme_logits_stay_finite():
    student = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 1e4]], requires_grad=True)
    loss = SinKDLoss()(student, -student.detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_leading_axes_are_samples_whatever_the_layout():
    student, teacher = logits(2, 3, 5)
    flat = SinKDLoss()(student.reshape(6, 5), teacher.reshape(6, 5))
    torch.testing.assert_close(SinKDLoss()(student, teacher), flat)
    strided = student.transpose(0, 2).contiguous().transpose(0, 2)
    assert not strided.is_contiguous()
    torch.testing.assert_close(SinKDLoss()(strided, teacher), flat)
    torch.testing.assert_close(SinKDLoss()(student[0, 0], teacher[0, 0]), SinKDLoss()(student[0, :1], teacher[0, :1]))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 5), r"student_logits and teacher_logits must have one shape"),
        (torch.zeros(4, 3), torch.zeros(3), r"one shape, got \(4, 3\) and \(3,\)"),
        (torch.zeros(0, 3), torch.zeros(0, 3), r"student_logits must .* not be empty"),
        (torch.zeros(4, 0), torch.zeros(4, 0), r"student_logits must .* not be empty"),
        (torch.tensor(1.0), torch.tensor(1.0), r"student_logits must have shape"),
        (torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, 3), r"student_logits must be floating"),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool), r"teacher_logits must be floating"),
        (torch.zeros(4, 3), torch.zeros(4, 3, device="meta"), r"must be on one device"),
    ],
)
def test_bad_logits(student, teacher, message):
    with pytest.raises(ParameterError, match=message):
        SinKDLoss()(student, teacher)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"temperature": "2"},
        {"epsilon": -0.1},
        {"epsilon": 0.0},
        {"iterations": 0},
        {"iterations": 2.5},
        {"reduction": "none"},
        {"group_size": -1},
    ],
)
def test_bad_options_are_named(options):
    with pytest.raises(ParameterError, match=next(iter(options))):
        SinKDLoss(**options)


@pytest.mark.parametrize("group_size", [1, 2, 4, 5, 6, 100])
def test_what_is_left_of_the_groups_is_a_smaller_group(group_size):
    student, teacher = logits(6, 3)
    parts = zip(student.split(group_size), teacher.split(group_size), strict=True)
    expected = sum(SinKDLoss(reduction="sum")(*part) for part in parts) / 6
    torch.testing.assert_close(SinKDLoss(group_size=group_size)(student, teacher), expected)


def test_a_cost_matrix_needs_whole_groups():
    with pytest.raises(ParameterError, match="group_size must divide the number of samples 6, got 4"):
        SinKDLoss(group_size=4).cost(*logits(6, 3))


@pytest.mark.parametrize("group_size", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_masked_tokens_change_neither_loss_nor_gradient(group_size, dtype):
    student, teacher = logits(2, 4, 5)
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0]]).to(dtype)
    keep = mask.bool()
    first, second = (student.clone().requires_grad_() for _ in range(2))
    loss = SinKDLoss(group_size=group_size)
    values = loss(first, teacher, mask), loss(second[keep], teacher[keep])
    torch.testing.assert_close(*values)
    for value in values:
        value.backward()
    torch.testing.assert_close(first.grad, second.grad)
    assert not first.grad[~keep].any() and first.grad[keep].abs().sum(-1).all()
    noise = torch.where(keep[..., None], teacher, 1e4)
    torch.testing.assert_close(loss(student, noise, mask), values[0])
    assert not torch.isclose(loss(student, teacher), values[0])


def test_infinite_logits_of_padding_do_no_harm():
    student, teacher = logits(2, 3, 5)
    student[0, 2] = math.nan
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert SinKDLoss()(student, teacher, mask).isfinite()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(2, 3), r"mask must keep a sample, got none of 6: all labels ignored"),
        (torch.ones(2), r"mask must have shape \(2, 3\)"),
        (torch.ones(2, 3, 5), r"mask must have shape \(2, 3\)"),
        (torch.ones(2, 3, device="meta"), r"mask must have shape .* on cpu, got .* on meta"),
        (torch.tensor([[1, 5, -100], [1, 2, 3]]), r"zeros and ones; of labels it is labels != -100"),
    ],
    ids=["all out", "too short", "one a class", "elsewhere", "labels"],
)
def test_bad_masks(mask, message):
    with pytest.raises(ParameterError, match=message):
        SinKDLoss()(*logits(2, 3, 5), mask)


def naive_between_classes(p: np.ndarray, q: np.ndarray, cost: np.ndarray, epsilon: float, iterations: int) -> float:
    """Sinkhorn's scalings of one sample, on K itself."""
    plan = np.exp(-cost / epsilon)
    for _ in range(iterations):
        plan = plan * (p / plan.sum(1))[:, None]
        plan = plan * (q / plan.sum(0))
    return float((plan * cost).sum())


@pytest.mark.parametrize("iterations", [1, 20])
def test_sample_wise_equals_sinkhorn_sample_by_sample(iterations):
    student, teacher = logits(4, 5)
    cost = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0))) / 2
    p, q = (z.div(2).softmax(-1).numpy() for z in (student, teacher))
    expected = np.mean([naive_between_classes(a, b, cost, 0.3, iterations) for a, b in zip(p, q, strict=True)])
    found = sinkd.sample_wise_loss(student, teacher, torch.from_numpy(cost), epsilon=0.3, iterations=iterations)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_sample_wise_agrees_with_pot_at_convergence():
    student, teacher = logits(3, 6)
    cost = torch.from_numpy(np.random.default_rng(1).uniform(0, 2, size=(6, 6)))
    found = sinkd.sample_wise_loss(student, teacher, cost, iterations=1000)
    p, q = (z.div(2).softmax(-1).numpy() for z in (student, teacher))
    options = {"method": "sinkhorn_log", "numItermax": 100_000, "stopThr": 1e-13}
    plans = [ot.sinkhorn(a / a.sum(), b / b.sum(), cost.numpy(), 0.1, **options) for a, b in zip(p, q, strict=True)]
    assert found.item() == pytest.approx(np.mean([(plan * cost.numpy()).sum() for plan in plans]), abs=1e-8)


def test_sample_wise_at_one_price_is_groups_of_one():
    student, teacher = logits(4, 5)
    found = sinkd.sample_wise_loss(student, teacher, epsilon=0.1, iterations=1000)
    torch.testing.assert_close(found, SinKDLoss(group_size=1)(student, teacher), rtol=0, atol=1e-6)


def test_sample_wise_gradient_mask_and_bad_costs():
    student, teacher = logits(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()
    assert torch.autograd.gradcheck(
        lambda z: sinkd.sample_wise_loss(z, teacher, None, mask, iterations=3), student.requires_grad_()
    )
    found = sinkd.sample_wise_loss(student, teacher.requires_grad_(), None, mask)
    torch.testing.assert_close(found, sinkd.sample_wise_loss(student[mask], teacher[mask]))
    found.backward()
    assert teacher.grad is None
    for cost in (torch.ones(3, 3), -torch.ones(4, 4), torch.full((4, 4), math.inf)):
        with pytest.raises(ParameterError, match=r"class_cost must be \(4, 4\)"):
            sinkd.sample_wise_loss(student, teacher, cost)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_agrees_with_the_cores_transport_at_convergence(epsilon):
    loss = SinKDLoss(epsilon=epsilon, iterations=1000)
    cost = loss.cost(*logits(12, 7))
    solved = sinkhorn(cost, epsilon=epsilon, iterations=100_000, tolerance=1e-12)
    torch.testing.assert_close(loss.plan(cost) / 12, solved.plan(), rtol=0, atol=1e-9)


def test_plugs_into_the_engine_with_labels_ignored():
    student, teacher = (torch.nn.Linear(3, 5).double() for _ in range(2))
    x, labels = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 3))), torch.tensor([0, 1, -100, 2, -100, 4])
    loss = SinKDLoss(temperature=1.0)
    terms = [engine.Task(loss=torch.nn.CrossEntropyLoss()), engine.Logits(weight=0.5, divergence=loss)]
    found = engine.Distillation(student, teacher, terms)(x, labels=labels)
    torch.testing.assert_close(found.parts["logits"], loss(student(x), teacher(x), labels != -100).detach())


def test_behaves_as_a_module():
    student, teacher = logits(4, 3)
    loss = SinKDLoss(epsilon=0.3)
    assert not loss.state_dict()
    assert not list(loss.parameters())
    loss.load_state_dict({})
    again = copy.deepcopy(loss)
    assert torch.equal(again(student, teacher), loss(student, teacher))
    buffer = io.BytesIO()
    torch.save(loss, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(student, teacher), loss(student, teacher))


def test_can_be_traced_without_a_graph_break():
    student, teacher = logits(4, 3)
    compiled = torch.compile(SinKDLoss(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(student, teacher), SinKDLoss()(student, teacher))


def test_mixed_objective_anneals_and_mixes():
    student, teacher = logits(4, 3)
    labels = torch.tensor([0, 2, 1, 1])
    extra = SinKDLoss()
    for progress, temperature in ((0.0, 3.0), (0.5, 2.0), (1.0, 1.0)):
        p, log_q = (teacher / temperature).softmax(-1), (student / temperature).log_softmax(-1)
        expected = 0.2 * torch.nn.functional.cross_entropy(student, labels) - 0.8 * (p * log_q).sum(-1).mean()
        mixed = losses.mixed_objective(student, teacher, labels, progress, alpha=0.8, beta=0.5, extra=extra)
        torch.testing.assert_close(mixed, expected + 0.5 * extra(student, teacher))


def test_divergences():
    student, teacher = logits(4, 3)
    p, q = teacher.softmax(-1), student.softmax(-1)
    m = (p + q) / 2

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a / b).log()).sum(-1).mean()

    torch.testing.assert_close(losses.kl_divergence(student, teacher), kl(p, q))
    torch.testing.assert_close(losses.reverse_kl_divergence(student, teacher), kl(q, p))
    torch.testing.assert_close(losses.js_divergence(student, teacher), (kl(p, m) + kl(q, m)) / 2)
    distance = functools.partial(torch.cdist, p=1)
    cost = distance(q, p) / 2
    torch.testing.assert_close(measure.batch_variation(student, teacher), cost[linear_sum_assignment(cost)].mean())


def test_training_is_deterministic_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    runs = [measure.distil_digits(generator("t"), measure.arms("SinKD", SinKDLoss()), epochs=2) for _ in range(2)]
    assert runs[0] == runs[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_arms_share_data_teacher_and_weights():
    plain = functools.partial(losses.mixed_objective, beta=0.0)
    scores = measure.distil_digits(generator("t"), {"first": plain, "second": plain}, epochs=2)
    assert scores["first"] == scores["second"]


def test_claims_on_one_replicate():
    refuted = [sinkd.fewer_steps, sinkd.stronger_pull, sinkd.useful_gradient, sinkd.loses_fewer_modes]
    for claim, sign in ((sinkd.pairing_is_lost, 1), *((claim, -1) for claim in refuted)):
        effect, _ = claim.effect(claim(generator("t", claim.name), **claim.arm("main")))
        assert sign * (effect - claim.at_least) > 0, claim.name


@pytest.mark.slow
def test_a_student_that_can_hold_the_teacher_is_fitted_by_every_loss_of_single_samples():
    places = torch.tensor([0.3, 0.6], dtype=torch.float64)
    target = mixture.bump(places, torch.full_like(places, math.log(0.08)))
    teacher = mixture.Teachers(target.log_softmax(-1), places, places)
    for name in set(mixture.LOSSES) - {"SinKD"}:  # which may exchange the two
        found = mixture.faults(mixture.fitted(generator("t"), target, mixture.LOSSES[name], steps=400), teacher)
        assert found.distance < 0.1, name


def test_mixtures_are_what_they_say():
    teacher = mixture.teachers(generator("t"), contexts=50, separation=8.0, share=0.7)
    masses = teacher.logits.softmax(-1)
    torch.testing.assert_close(masses.sum(-1), torch.ones(50, dtype=torch.float64))
    near = (mixture.POSITIONS - teacher.major[:, None]).abs() < 4 * mixture.WIDTH
    torch.testing.assert_close((masses * near).sum(-1), torch.full((50,), 0.7, dtype=torch.float64), atol=0.01, rtol=0)
    perfect = mixture.faults(teacher.logits, teacher)
    assert perfect.lost == 0 and perfect.minor == pytest.approx(1) and perfect.distance == pytest.approx(0, abs=1e-9)
    assert perfect.between < 0.06
    collapsed = mixture.faults(mixture.bump(teacher.major, torch.full((50,), math.log(mixture.WIDTH))), teacher)
    assert collapsed.lost == 0.5 and collapsed.minor < 0.01 and collapsed.distance == pytest.approx(0.3, abs=0.01)
    middle = mixture.bump((teacher.major + teacher.minor) / 2, torch.full((50,), math.log(mixture.WIDTH)))
    assert mixture.faults(middle, teacher).between > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_small_transformers_learn_from_their_teacher(kind):
    task = models.TASKS[kind](generator("t", kind))
    before = task.test(task.student)
    (objective, _) = models.objectives("SinKD")
    learned = models.distilled(generator("t", 1), task, objective)
    assert task.test(learned) > before + 0.05
    assert task.test(task.student) == before  # every arm starts from the same student
    again = models.distilled(generator("t", 1), task, objective)
    assert task.test(again) == task.test(learned)


def test_demo():
    scores = sinkd.demo(generator("t"), labels=40)
    assert set(scores) == {"CE", "CE+SinKD", "CE+KD", "CE+KD+SinKD"}
    assert all(0.2 < score <= 1 for score in scores.values())
