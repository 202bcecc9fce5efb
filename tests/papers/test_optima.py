"""OPTIMA: the bandit against its plain definition and on arms that change; rounds on small models and in the Trainer."""

from __future__ import annotations

import copy
import io
import json
import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.kinds.protocols import StepLearner
from porism.seeds import generator
from porism_plugins.distill import _optima_experiments as measure
from porism_plugins.distill import _optima_margins as margins
from porism_plugins.distill import _optima_worlds as worlds
from porism_plugins.distill._engine import Custom, Distillation, Logits, Task
from porism_plugins.distill.optima import OPTIMA, DiscountedThompson


def bandit(arms: int = 3, seed: object = 0, **options: object) -> DiscountedThompson:
    return DiscountedThompson(arms, generator("optima", seed), **options)


class Naive:
    """The card's formulas with histories kept whole: counts, sums, and the noise pooled over arms."""

    def __init__(self, arms: int, discount: float) -> None:
        self.arms, self.discount, self.history = arms, discount, []

    def statistics(self) -> tuple[np.ndarray, np.ndarray, float]:
        weights = self.discount ** np.arange(len(self.history))[::-1]
        arms, rewards = (np.array(values) for values in zip(*self.history, strict=True))
        counts = np.array([weights[arms == arm].sum() for arm in range(self.arms)])
        sums = np.array([(weights * rewards)[arms == arm].sum() for arm in range(self.arms)])
        means = np.divide(sums, counts, out=np.zeros(self.arms), where=counts > 0)
        scatter = (weights * (rewards - means[arms]) ** 2).sum()
        freedom = sum(
            weights[arms == a].sum() - (weights[arms == a] ** 2).sum() / weights[arms == a].sum() for a in set(arms)
        )
        return counts, means, math.sqrt(scatter / freedom) if freedom > 1e-12 else math.inf


@given(
    discount=st.floats(0.05, 1),
    history=st.lists(st.tuples(st.integers(0, 3), st.floats(-10, 10)), min_size=1, max_size=30),
)
def test_statistics_are_those_of_the_whole_history(discount, history):
    ours, naive = bandit(4, discount=discount), Naive(4, discount)
    for arm, reward in history:
        ours.update(arm, reward)
        naive.history.append((arm, reward))
    counts, means, noise = naive.statistics()
    np.testing.assert_allclose(ours.counts, counts, rtol=1e-9)
    np.testing.assert_allclose(ours.means, means, rtol=1e-6, atol=1e-9)
    if math.isfinite(noise) and noise > 1e-3:
        np.testing.assert_allclose(ours.noise(), noise, rtol=1e-4)


def test_without_discount_counts_are_pulls_and_the_noise_is_the_pooled_standard_deviation():
    ours, rng = bandit(2, discount=1.0), generator("optima", "pooled")
    rewards = {0: rng.normal(size=7), 1: rng.normal(5, 1, size=4)}
    for arm, values in rewards.items():
        for value in values:
            ours.update(arm, value)
    assert ours.counts.tolist() == ours.pulls.tolist() == [7, 4]
    np.testing.assert_allclose(ours.means, [values.mean() for values in rewards.values()])
    pooled = sum(((values - values.mean()) ** 2).sum() for values in rewards.values()) / (11 - 2)
    np.testing.assert_allclose(ours.noise(), math.sqrt(pooled))


def test_means_survive_weights_that_underflow():
    ours = bandit(2, discount=0.5)
    ours.update(0, 3.0)
    for _ in range(1200):
        ours.update(1, 1.0)
    assert ours.counts[0] == 0 and ours.means.tolist() == [3.0, 1.0] and math.isfinite(ours.choose())
    ours.update(0, 7.0)
    assert ours.means[0] == 7.0


def test_samples_are_normal_about_the_means_with_the_stated_deviations():
    ours = bandit(2, discount=0.9)
    for arm, reward in ((0, 0.0), (0, 1.0), (1, 0.6), (1, 0.2), (0, 0.5)):
        ours.update(arm, reward)
    a, b = ours.deviations()
    np.testing.assert_allclose([a, b], ours.noise() / np.sqrt(ours.counts))
    expected = 0.5 * (1 + math.erf((ours.means[0] - ours.means[1]) / math.hypot(a, b) / math.sqrt(2)))
    share = np.mean([ours.choose() == 0 for _ in range(4000)])
    assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 4000)


def test_before_any_arm_was_played_twice_all_are_equally_likely():
    ours = bandit(2)
    ours.update(0, 100.0)
    ours.update(1, 0.0)
    assert ours.noise() == math.inf
    assert 400 < sum(ours.choose() for _ in range(1000)) < 600


def test_without_exploration_the_largest_recent_mean_is_played():
    ours = bandit(2, discount=0.5, exploration=0.0)
    for arm, reward in ((0, 1.0), (1, 0.9), (0, 0.0), (0, 0.0)):
        ours.update(arm, reward)
    assert {ours.choose() for _ in range(20)} == {1}


def test_an_arm_left_alone_is_tried_again():
    ours = bandit(2, discount=0.8)
    rng = generator("optima", "alone")
    margins.run(ours, np.stack([rng.normal(0, 0.1, 300), rng.normal(0.15, 0.1, 300)], 1))
    assert ours.pulls[0] > 10
    for reward in rng.normal(0.15, 0.1, 30):
        ours.update(1, reward)
    assert ours.counts[0] < 0.05 and math.isfinite(ours.noise())
    assert ours.deviations()[0] == pytest.approx(ours.noise() / math.sqrt(0.05))


def test_the_order_of_the_warm_up_is_drawn():
    orders = {tuple(margins.run(bandit(3, seed), np.zeros((3, 3)))) for seed in range(30)}
    assert len(orders) == 6


def test_choosing_twice_in_warm_up_is_one_round():
    ours = bandit(3, warm_up=2)
    assert ours.choose() == ours.choose()
    played = margins.run(ours, np.zeros((6, 3)))
    assert sorted(played) == [0, 0, 1, 1, 2, 2]


def test_a_bandit_is_a_step_learner():
    ours, plain = bandit(3, "step"), bandit(3, "step")
    assert isinstance(ours, StepLearner)
    table = generator("optima", "table").normal(size=(40, 3))
    chosen = [ours.step()]
    for row in table[:-1]:
        chosen.append(ours.step(row[chosen[-1]]))
    assert chosen == margins.run(plain, table)


def test_a_saved_bandit_goes_on_with_the_same_choices():
    table = generator("optima", "saved").normal(size=(60, 3))
    for half in (1, 30):  # in warm-up and after it
        whole, first, second = bandit(), bandit(), bandit(3, "other")
        expected = margins.run(whole, table)
        margins.run(first, table[:half])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert margins.run(second, table[half:]) == expected[half:]


@pytest.mark.parametrize("kind", ["abrupt", "drifting"])
def test_discounting_gains_where_arms_change(kind):
    gains = []
    for child in generator("optima", "gains", kind).spawn(10):
        ours, plain = (
            worlds.mean_reward(copy.deepcopy(child), kind=kind, name=name) for name in ("discounted", "plain")
        )
        gains.append(ours - plain)
    assert np.median(gains) > 0.02


@pytest.mark.parametrize("kind", ["abrupt", "drifting", "decaying", "fixed"])
def test_it_gains_more_than_uniform_choice_in_every_world(kind):
    for child in generator("optima", "uniform", kind).spawn(3):
        ours, theirs = (worlds.played(copy.deepcopy(child), kind, name) for name in ("discounted", "uniform"))
        assert ours.expected.sum() > theirs.expected.sum()
        assert (ours.best >= ours.expected - 1e-12).all() and ours.expected.min() >= 0 and ours.best.max() <= 1


def test_worlds_change_their_best_arm_when_they_say_so():
    means = worlds.world("abrupt", generator("optima", "changes"))
    best = [int(means(now, np.zeros(4)).argmax()) for now in range(worlds.ROUNDS)]
    changes = [now for now in range(1, worlds.ROUNDS) if best[now] != best[now - 1]]
    assert changes == [100, 200, 300]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bandit(0), "arms"),
        (lambda: bandit(2.0), "arms"),
        (lambda: DiscountedThompson(2, 0), "rng must be a numpy Generator"),
        (lambda: bandit(discount=0.0), "discount"),
        (lambda: bandit(discount=1.1), "discount"),
        (lambda: bandit(exploration=-1.0), "exploration"),
        (lambda: bandit(least_count=0.0), "least_count"),
        (lambda: bandit(warm_up=0), "warm_up"),
        (lambda: bandit().update(3, 0.0), "arm must be in"),
        (lambda: bandit().update(-1, 0.0), "arm must be in"),
        (lambda: bandit().update(0, math.nan), "reward must be finite"),
        (lambda: bandit().step(1.0), "reward must be given"),
        (lambda: bandit(2).load_state_dict(bandit(3).state_dict()), "of 2 arms, got 3"),
        (lambda: bandit().load_state_dict({"counts": []}), "missing: squares"),
        (lambda: DiscountedThompson(3, np.random.Generator(np.random.MT19937(0))).load_state_dict(
            bandit().state_dict()), "generator MT19937"),
    ],
)  # fmt: skip
def test_bad_options_of_the_bandit_are_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


def test_a_refused_reward_changes_nothing():
    ours = bandit()
    ours.update(0, 1.0)
    before = ours.state_dict()
    with pytest.raises(ParameterError, match="finite"):
        ours.update(1, math.inf)
    assert ours.state_dict() == before


@pytest.fixture
def world() -> measure.World:
    return measure.branches_world(generator("optima", "world"))


def rounds_of(optima: OPTIMA, world: measure.World, steps: int, seed: object = "data") -> None:
    measure.fit(optima, measure.batches(world, generator("optima", seed), steps=steps))


def test_rewards_are_falls_of_one_criterion_and_add_up(world):
    optima = measure.build(world, "OPTIMA", generator("optima", 1))
    start = optima.criterion()
    rounds_of(optima, world, 6 * measure.ROUND)
    assert len(optima.rounds) == 6 and optima.bandit.pulls.sum() == 6 and optima.bandit.pulls.min() >= 1
    np.testing.assert_allclose(sum(one.reward for one in optima.rounds), start - optima.criterion(), rtol=1e-6)
    assert optima.shares() == pytest.approx(dict(zip(measure.NAMES, optima.bandit.pulls / 6, strict=True)))


def test_the_loss_of_a_round_is_base_and_chosen_modules_with_their_sums(world):
    layers = {"one": ([f"branches.{n}" for n in measure.NAMES[:2]],) * 2, "two": (["branches.third"],) * 2}
    base = [Task(0.5, loss=F.mse_loss), Custom("output", measure.outputs, weight=2.0)]
    optima = OPTIMA(world.student, world.teacher, layers, world.probe, base=base, weight=3.0)
    seen = set()
    for _ in range(2):
        found = optima(world.test)
        assert set(found.parts) == {"task", "output", *optima.arm} and len(optima.arm) == 1
        pairs = {"one": 2, "two": 1}[optima.arm[0]]
        expected = 0.5 * found.parts["task"] + 2 * found.parts["output"] + 3 * pairs * found.parts[optima.arm[0]]
        torch.testing.assert_close(found.loss, expected)
        seen |= {optima.arm[0]}
        for _ in range(10):
            optima.step()
    assert seen == {"one", "two"}
    both = Distillation(world.student, world.teacher, base)(world.probe).loss.item()
    with torch.no_grad():
        for name, (ours, _) in layers.items():
            states = optima.signals[name]
            missed = [
                F.mse_loss(filter(_states(world.student, layer, world)), _states(world.teacher, layer, world))
                for filter, layer in zip(states.filters, ours, strict=True)
            ]
            both += 3 * sum(map(float, missed))
    assert optima.criterion() == pytest.approx(both, rel=1e-5)


def _states(model: nn.Module, layer: str, world: measure.World) -> torch.Tensor:
    part = measure.NAMES.index(layer.removeprefix("branches."))
    return model.get_submodule(layer)(world.probe["input"].split(measure.INPUTS, 1)[part])


def test_the_criterion_may_be_the_base_terms_alone(world):
    optima = OPTIMA(world.student, world.teacher, {"one": (["branches.first"],) * 2}, world.probe, criterion="base",
                    base=[Task(loss=F.mse_loss)])  # fmt: skip
    expected = F.mse_loss(world.student(world.probe["input"]), world.probe["labels"])
    assert optima.criterion() == pytest.approx(expected.item())


def test_the_criterion_leaves_mode_gradients_and_generators_alone(world):
    optima = measure.build(world, "OPTIMA", generator("optima", 2))
    optima.student.train()
    state = torch.get_rng_state()
    optima.criterion()
    assert optima.student.training and torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in optima.parameters())


@pytest.mark.parametrize("projections", [True, False])
def test_what_is_not_chosen_stands_still_where_it_should(projections):
    margin = {
        unselected: margins.stands_still(
            generator("optima", "still"), decay=0.1, steps=1, unselected=unselected, projections=projections
        )
        for unselected in ("frozen", "free")
    }
    assert margin["frozen"] == 0.5
    assert margin["free"] == 0.5 if projections else margin["free"] < 0


def test_what_was_frozen_learns_again_and_what_the_user_froze_does_not(world):
    optima = measure.build(world, "round-robin", generator("optima", 3), unselected="frozen")
    fixed = optima.student.branches["first"][0].weight.requires_grad_(False)
    moving = [p for p in optima.student.parameters() if p.requires_grad]
    optima(world.test)
    assert not all(parameter.requires_grad for parameter in moving)
    for _ in range(measure.ROUND):
        optima.step()
    assert all(parameter.requires_grad for parameter in moving) and not fixed.requires_grad


def test_arms_may_be_subsets_or_listed(world):
    modules = {name: ([f"branches.{name}"],) * 2 for name in measure.NAMES}
    base = [Task(loss=F.mse_loss)]
    subsets = OPTIMA(world.student, world.teacher, modules, world.probe, base=base, arms="subsets")
    assert len(set(subsets.arms)) == 7 and subsets.arms[-1] == measure.NAMES
    listed = OPTIMA(world.student, world.teacher, modules, world.probe, base=base, arms=[["third", "first"]])
    listed(world.test)
    assert listed.arm == ("third", "first")


def test_accumulated_batches_belong_to_one_step(world):
    optima = measure.build(world, "OPTIMA", generator("optima", 4))
    for _ in range(measure.ROUND - 1):
        optima(world.test), optima(world.test)
        assert optima.step() is None
    assert optima.step().arm == optima.rounds[0].arm and optima.arm == ()


@pytest.mark.parametrize("steps", [7, 8])
def test_a_saved_run_goes_on_bit_for_bit(world, steps):
    """In the middle of a round, and between two."""
    data = list(measure.batches(world, generator("optima", "resume"), steps=20))
    runs = []
    for resumed in (False, True):
        optima = measure.build(world, "OPTIMA", generator("optima", 5), unselected="frozen")
        optimizer = torch.optim.SGD(optima.parameters(), lr=0.05)
        for number, batch in enumerate(data):
            if resumed and number == steps:
                file = io.BytesIO()
                torch.save(optima.state_dict(), file)
                file.seek(0)
                optima = measure.build(world, "OPTIMA", generator("optima", 5), unselected="frozen")
                optima.load_state_dict(torch.load(file, weights_only=True))
                optimizer = torch.optim.SGD(optima.parameters(), lr=0.05)
            optimizer.zero_grad()
            optima(batch).loss.backward()
            optimizer.step()
            optima.step()
        runs.append(optima)
    assert runs[0].rounds == runs[1].rounds and len(runs[0].rounds) == 5
    pairs = zip(runs[0].student.parameters(), runs[1].student.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_copy_chooses_for_itself(world):
    optima = measure.build(world, "OPTIMA", generator("optima", 6))
    twin = copy.deepcopy(optima)
    twin(world.test)
    assert twin.arm and not optima.arm and not any(optima.weights()[name] for name in measure.NAMES)


def test_weights_of_base_terms_may_be_functions(world):
    base = [Task(loss=F.mse_loss, weight=lambda progress: 1 - progress)]
    optima = OPTIMA(world.student, world.teacher, {"one": (["branches.first"],) * 2}, world.probe, base=base, steps=1)
    for progress in (0.0, 0.5):
        optima.progress = progress
        optima(world.test)
        optima.progress = 0.9  # later in the round; it is judged by the weights of its start
        found = optima.step()
        assert found.before == found.after and optima.progress == 0.9
    assert optima.rounds[0].before != optima.rounds[1].before


def bert(layers: int, width: int, **options: object) -> transformers.BertForSequenceClassification:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, num_labels=3, **options,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(layers)
        return transformers.BertForSequenceClassification(config)


IDS = torch.randint(1, 30, (8, 6), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": IDS[:, 0] % 3}
PARTS = {"lower": (["bert.embeddings", 1], ["bert.embeddings", 2]), "upper": ([2], [4])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounds_on_transformers_of_other_widths_and_dtypes(dtype):
    teacher = bert(4, 16).to(dtype).eval()
    before = copy.deepcopy(teacher.state_dict())
    optima = OPTIMA(bert(2, 8), teacher, PARTS, BATCH, steps=2, discount=0.8)
    optimizer = torch.optim.AdamW(optima.parameters(), lr=1e-2)
    start = optima.criterion()
    for _ in range(12):
        optima(BATCH).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        optima.step()
    assert len(optima.rounds) == 6 and optima.criterion() < start
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_dropout_does_not_enter_the_criterion():
    optima = OPTIMA(bert(2, 8).train(), bert(4, 16).train(), PARTS, BATCH)
    state = torch.get_rng_state()
    assert optima.criterion() == optima.criterion()
    assert torch.equal(state, torch.get_rng_state()) and optima.student.training and optima.teacher.training


def test_in_the_trainer_rounds_are_of_optimiser_steps(tmp_path):
    student = bert(2, 8)
    optima = OPTIMA(student, bert(4, 16).eval(), PARTS, BATCH, steps=2)
    data = [{name: tensor[row] for name, tensor in BATCH.items()} for row in range(8)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2, report_to=[],
        save_strategy="no", use_cpu=True, learning_rate=1e-2, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model=student, args=arguments, train_dataset=data)
    optima.attach(trainer)
    filters = {name: [p.clone() for p in optima.signals[name].parameters()] for name in PARTS}
    trainer.train()
    assert len(optima.rounds) == 3 and {one.arm for one in optima.rounds[:2]} == {0, 1}
    for name in PARTS:
        for old, new in zip(filters[name], optima.signals[name].parameters(), strict=True):
            assert not torch.equal(old, new)


def build(world: measure.World, modules: object = None, **options: object) -> OPTIMA:
    modules = {"one": (["branches.first"], ["branches.first"])} if modules is None else modules
    probe = options.pop("probe", world.probe)
    return OPTIMA(world.student, world.teacher, modules, probe, **{"base": [Task(loss=F.mse_loss)], **options})


def wrong_probe(world: measure.World) -> dict[str, torch.Tensor]:
    return {**world.probe, "labels": torch.full_like(world.probe["labels"], torch.nan)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: build(w, {}), "modules must be a mapping"),
        (lambda w: build(w, ["branches.first"]), "modules must be a mapping"),
        (lambda w: build(w, {"one": ["branches.first"]}), r"modules\['one'\] must be"),
        (lambda w: build(w, {"one": (["branches.frist"],) * 2}), "no layer 'branches.frist'"),
        (lambda w: build(w, {"one": (["branches.first"], ["branches.first", "head"])}), "as many"),
        (lambda w: build(w, {"task": (["branches.first"],) * 2}), "names of base terms"),
        (lambda w: build(w, probe=w.probe["input"]), "probe must be a mapping"),
        (lambda w: build(w, arms="pairs"), "arms must be"),
        (lambda w: build(w, arms=[]), "arms must be"),
        (lambda w: build(w, arms=["one"]), "an arm must be a list"),
        (lambda w: build(w, arms=[["ohne"]]), "'ohne'"),
        (lambda w: build(w, {f"m{n}": (["branches.first"],) * 2 for n in range(11)}, arms="subsets"), "at most 10"),
        (lambda w: build(w, steps=0), "steps"),
        (lambda w: build(w, weight=0.0), "weight"),
        (lambda w: build(w, discount=2.0), "discount"),
        (lambda w: build(w, unselected="masked"), "unselected"),
        (lambda w: build(w, criterion="own"), "criterion"),
        (lambda w: build(w).step(), "step\\(\\) comes after a batch"),
        (lambda w: build(w, probe=wrong_probe(w)).begin(), "criterion must be finite"),
        (lambda w: build(w, base=[Logits(weight=-1.0)]), "weight"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(world, call, message):
    with pytest.raises(ParameterError, match=message):
        call(world)


def test_one_module_has_the_gradient_of_layerwise_distillation():
    assert margins.one_module(generator("optima", "one"), weight=2.0, used=2.0) > 0
