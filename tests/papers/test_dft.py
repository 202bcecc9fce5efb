"""DFT against the naive formula and autograd in float64, on models, in parts, and with what users do wrong."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from porism.errors import ParameterError
from porism.seeds import generator
from porism_plugins.tune import _dft_experiments as measure
from porism_plugins.tune import _dft_margins as margins
from porism_plugins.tune import _dft_world as world
from porism_plugins.tune import _engine as engine
from porism_plugins.tune.dft import DFTLoss, dft_step, draw_negatives

Tensor = torch.Tensor


def llama(**options: object) -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.3, bos_token_id=None, eos_token_id=3, pad_token_id=0, **options,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval()


PROMPTS = [torch.tensor([5, 6]), torch.tensor([7, 8, 9, 10])]
ANSWERS = [torch.tensor([11, 12, 3]), torch.tensor([4, 3])]
LEFT_PADDED = {
    "input_ids": torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
}


def batch(model: nn.Module, count: int = 3) -> dict[str, Tensor]:
    negatives = draw_negatives(model, LEFT_PADDED, count=count, max_new_tokens=6, seed=1)
    return engine.collate(PROMPTS, ANSWERS) | negatives | {"index": torch.tensor([4, 1])}


def scores(seed: int = 0, prompts: int = 4, negatives: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return margins.scores(generator("dft", seed), prompts, negatives, 3.0)


def gradients(model: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    return found


def naive(answers, negatives, reference, u, tau, gamma):
    """Steps 3 to 5 of the card with plain numbers: new u, and the surrogate whose gradient is the estimator."""
    loss, kept, plain = 0, [], negatives.detach()
    for i in range(len(answers)):
        ratios = [math.exp(float(plain[i, j]) / tau) / math.exp(float(reference[i, j])) for j in range(plain.shape[1])]
        kept.append((1 - gamma) * u[i] + gamma * sum(ratios) / len(ratios))
        loss = loss - answers[i] + sum(r / kept[i] * s for r, s in zip(ratios, negatives[i], strict=True)) / len(ratios)
    return kept, loss / len(answers)


@pytest.mark.parametrize("variant", ["dft", "dft2"])
@pytest.mark.parametrize("gamma", [1.0, 0.85, 0.2])
def test_gradients_are_those_of_the_naive_formula(variant, gamma):
    loss, u = DFTLoss(4, variant=variant, temperature=0.7, factor=gamma), [1.0] * 4
    for seed in range(3):
        answers, negatives, reference = scores(seed)
        answers.requires_grad_(), negatives.requires_grad_()
        used = reference if variant == "dft" else None
        value = loss(answers, negatives, used, torch.arange(4))
        plain = reference if variant == "dft" else torch.zeros_like(reference)
        u, surrogate = naive(answers, negatives, plain.detach(), u, 0.7, gamma)
        for ours, theirs in zip(
            torch.autograd.grad(value, [answers, negatives]),
            torch.autograd.grad(surrogate, [answers, negatives]),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)  # the averages are kept in float32
        np.testing.assert_allclose(loss.normaliser.log_mean.exp(), u, rtol=1e-5)
        expected = (0.7 * torch.tensor(u).double().log() - answers).mean()
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_without_an_average_the_gradient_is_autograds_of_the_log_form():
    answers, negatives, reference = scores()
    negatives.requires_grad_()
    ours = torch.autograd.grad(DFTLoss(temperature=0.4)(answers, negatives, reference), negatives)[0]
    ratios = (negatives / 0.4).exp() / reference.exp()
    theirs = torch.autograd.grad((0.4 * ratios.mean(1).log() - answers).mean(), negatives)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_samples_of_the_base_estimate_the_exact_gradient():
    """Many draws, with 1 / P_0, come to the sum over all answers at a temperature that is not 1."""
    rng = generator("dft", "samples")
    base, x = world.random_weights(rng), world.prompts(rng, 3)
    weights = (base + world.random_weights(rng, 0.2)).requires_grad_()
    all_scores, reference = world.log_likelihoods(weights, x), world.log_likelihoods(base, x)
    answers, drawn = torch.tensor([3, 60, 17]), world.draw(rng, reference, 40_000)
    right = all_scores.gather(1, answers[:, None])[:, 0]
    loss = DFTLoss(temperature=0.8)(right, all_scores.gather(1, drawn), reference.gather(1, drawn))
    exact = world.objective(all_scores, answers, 0.8)
    assert abs(float((loss - exact).detach())) < 0.03
    ours, theirs = (torch.autograd.grad(one, weights, retain_graph=True)[0] for one in (loss, exact))
    assert (ours - theirs).norm() < 0.03 * theirs.norm()


def test_the_world_has_all_answers_once():
    rng = generator("dft", "world")
    likelihoods = world.log_likelihoods(world.random_weights(rng), world.prompts(rng, 5)).exp()
    torch.testing.assert_close(likelihoods.sum(1), torch.ones(5).double())
    assert likelihoods.shape == (5, 64)
    drawn = world.draw(rng, likelihoods.log(), 4000)
    shares = torch.stack([torch.bincount(row, minlength=64) / 4000 for row in drawn])
    assert float((shares - likelihoods).abs().max()) < 0.05


def test_the_factor_falls_on_a_cosine_and_waits_for_accumulation():
    loss = DFTLoss(4, factor=0.8, anneal=4, accumulation=2)
    found = []
    for _ in range(12):
        found.append(loss.current_factor())
        loss(*scores(), torch.arange(4))
    by_hand = [0.8 + 0.1 * (1 + math.cos(math.pi * k / 4)) for k in range(4)] + [0.8, 0.8]
    np.testing.assert_allclose(found, np.repeat(by_hand, 2))


def test_evaluation_moves_neither_the_averages_nor_the_factor():
    loss = DFTLoss(4, anneal=10)
    loss(*scores(), torch.arange(4))
    before = copy.deepcopy(loss.state_dict())
    loss.eval()
    loss(*scores(1), torch.arange(4))
    loss(*scores(1))
    assert all(torch.equal(before[name], tensor) for name, tensor in loss.state_dict().items())


def test_a_resumed_run_goes_on_bit_for_bit():
    straight, first = DFTLoss(4, anneal=5), DFTLoss(4, anneal=5)
    for step in range(3):
        for loss in (straight, first):
            loss(*scores(step), torch.tensor([0, 2, 1, 3]))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = DFTLoss(4, anneal=5)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for step in range(3, 6):
        assert torch.equal(straight(*scores(step), torch.arange(4)), second(*scores(step), torch.arange(4)))


@given(st.integers(0, 2**32), st.sampled_from(["dft", "dft2"]))
def test_the_order_of_negatives_and_of_prompts_is_nothing(seed, variant):
    rng = np.random.default_rng(seed)
    answers, negatives, reference = margins.scores(rng, 4, 3, 2.0)
    rows, columns = torch.from_numpy(rng.permutation(4)), torch.from_numpy(rng.permutation(3))
    values = []
    for a, n, r, index in (
        (answers, negatives, reference, torch.arange(4)),
        (answers[rows], negatives[rows][:, columns], reference[rows][:, columns], rows),
    ):
        values.append(DFTLoss(4, variant=variant)(a, n, r if variant == "dft" else None, index))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("size", [1e3, 1e4, 1e6])
def test_huge_scores_stay_finite(size):
    answers, negatives, reference = (size * s.float() for s in scores())
    negatives.requires_grad_()
    value = DFTLoss(4)(answers, negatives, reference, torch.arange(4))
    value.backward()
    assert value.isfinite() and negatives.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_computed_in_float32(dtype):
    answers, negatives, reference = (s.to(dtype) for s in scores())
    value = DFTLoss(4)(answers, negatives, reference, torch.arange(4))
    expected = DFTLoss(4)(answers.float(), negatives.float(), reference.float(), torch.arange(4))
    assert value.dtype == torch.float32 and torch.equal(value, expected)


def test_a_store_keeps_float32_whatever_the_loss_is_cast_to():
    loss = DFTLoss(4)
    loss(*scores(), torch.arange(4))
    before = loss.normaliser.log_mean.clone()
    for cast in (loss.bfloat16(), loss.half(), loss.double()):
        assert cast.normaliser.log_mean.dtype == torch.float32 and torch.equal(cast.normaliser.log_mean, before)


def log(*values: float) -> Tensor:
    return torch.tensor(values).double().log()


def test_an_average_is_the_linear_one():
    store, linear = engine.MovingLogMean(3, initial=0.0), np.ones(3)
    rng = generator("dft", "linear")
    for _ in range(20):
        index, values, factor = int(rng.integers(3)), float(rng.gamma(2)), float(rng.uniform(0.1, 1))
        store(torch.tensor([index]), log(values), factor=factor)
        linear[index] = (1 - factor) * linear[index] + factor * values
    np.testing.assert_allclose(store.log_mean.exp(), linear, rtol=1e-5)


def test_an_example_that_occurs_twice_is_updated_once_with_the_mean():
    store = engine.MovingLogMean(3, initial=0.0)
    new = store(torch.tensor([2, 0, 2]), log(1.0, 4.0, 5.0), factor=0.5)
    np.testing.assert_allclose(new.exp(), [2.0, 2.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(store.log_mean.exp(), [2.5, 1.0, 2.0], rtol=1e-6)
    assert store.updated.tolist() == [1, 0, 1]


def test_the_first_estimate_may_be_the_start():
    store = engine.MovingLogMean(2)
    new = [float(store(torch.tensor([0]), log(v), factor=0.5).exp()) for v in (8.0, 4.0)]
    np.testing.assert_allclose(new, [8.0, 6.0], rtol=1e-6)


def test_a_stale_average_starts_anew_and_a_fresh_one_does_not():
    store = engine.MovingLogMean(2, initial=0.0, forget_after=2)
    visits = [(0, 3.0), (1, 3.0), (0, 6.0), (1, 3.0), (1, 3.0), (0, 10.0)]
    new = [float(store(torch.tensor([i]), log(v), factor=0.5).exp()) for i, v in visits]
    # Example 0: from 1 to 2, after two updates still fresh to 4, after three stale: the estimate alone.
    np.testing.assert_allclose([new[0], new[2], new[5]], [2.0, 4.0, 10.0], rtol=1e-6)


def test_no_gradient_and_no_graph_stay_in_the_store():
    answers, negatives, reference = scores()
    loss = DFTLoss(4)
    for _ in range(2):
        loss(answers, negatives.requires_grad_(), reference, torch.arange(4)).backward()
    assert not loss.normaliser.log_mean.requires_grad


def test_sequence_likelihoods_are_transformers_loss():
    model, data = llama(), engine.collate(PROMPTS, ANSWERS)
    with torch.no_grad():
        ours = engine.model_log_likelihoods(model, data, average=True)
        for row in range(2):
            theirs = model(**{name: tensor[row : row + 1] for name, tensor in data.items()}).loss
            torch.testing.assert_close(ours[row], -theirs)
        sums = engine.model_log_likelihoods(model, data, rows=1)
    torch.testing.assert_close(sums, ours * torch.tensor([3.0, 2.0]))


def test_prompt_and_padding_contribute_nothing():
    model, data = llama(), engine.collate(PROMPTS, ANSWERS)
    logits = torch.randn(2, 6, 30, generator=torch.Generator().manual_seed(0), requires_grad=True)
    engine.sequence_log_likelihoods(logits, data["labels"]).sum().backward()
    used = logits.grad.abs().sum(-1) > 0
    assert used.int().tolist() == [[0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0]]
    other = engine.collate(PROMPTS, ANSWERS, pad=29)
    with torch.no_grad():
        torch.testing.assert_close(*(engine.model_log_likelihoods(model, one) for one in (data, other)))


@pytest.mark.parametrize("variant", ["dft", "dft2"])
@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_parts_of_a_llama_give_the_gradient_of_the_whole(variant, rows):
    model = llama().double()
    data = batch(model)
    losses = [DFTLoss(5, variant=variant, temperature=0.6) for _ in range(2)]
    whole = dft_step(model, losses[0], data)
    whole.backward()
    expected = gradients(model)
    value = dft_step(model, losses[1], data, rows=rows)
    torch.testing.assert_close(value, whole.detach(), rtol=1e-12, atol=0)
    for ours, theirs in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    assert torch.equal(losses[0].normaliser.log_mean, losses[1].normaliser.log_mean)
    assert int(losses[1].calls) == 1


def test_the_scale_of_a_step_in_parts_is_that_of_its_gradient():
    model = llama().double()
    data = batch(model)
    plain = dft_step(model, DFTLoss(5), data, rows=2)
    expected = gradients(model)
    assert torch.equal(dft_step(model, DFTLoss(5), data, rows=2, scale=0.25), plain)
    torch.testing.assert_close(gradients(model)[0], expected[0] / 4)


def test_parts_hold_fewer_graphs():
    model, data, largest = llama(), None, []
    data = batch(model, count=8)
    model.register_forward_pre_hook(
        lambda module, args, kwargs: largest.append(len(kwargs["input_ids"]) * torch.is_grad_enabled()),
        with_kwargs=True,
    )
    dft_step(model, DFTLoss(5), data, rows=3)
    assert max(largest) == 3 and sum(largest) == 18


def test_dropout_is_noticed():
    model = llama(attention_dropout=0.5).train()
    data = batch(model)
    with pytest.raises(ParameterError, match="dropout"):
        dft_step(model, DFTLoss(5), data, rows=2)


def test_negatives_have_the_likelihood_that_generate_gave_them():
    model = llama()
    data = draw_negatives(model, LEFT_PADDED, count=20, max_new_tokens=5, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = model.generate(
            **LEFT_PADDED, do_sample=True, top_k=0, temperature=1.0, max_new_tokens=5, num_return_sequences=20,
            pad_token_id=0, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    steps = torch.stack(drawn.logits, 1).log_softmax(-1)
    tokens = drawn.sequences[:, 4:]
    each = steps.gather(2, tokens[..., None])[..., 0]
    counted = torch.cat([torch.ones(40, 1), ((tokens == 3).cumsum(1) == 0)[:, :-1].float()], 1)
    torch.testing.assert_close(data["reference"].flatten(), (each * counted).sum(1), rtol=1e-4, atol=1e-4)
    assert bool(((tokens == 3).any(1) & (counted.sum(1) < 5)).any())  # some have ended
    kept = data["negative_labels"].flatten(0, 1)
    assert [row[row != -100].tolist() for row in kept] == [
        row[: int(n)].tolist() for row, n in zip(tokens, counted.sum(1), strict=True)
    ]


def test_drawing_is_repeatable_and_leaves_torch_and_the_model_alone():
    model, state = llama().train(), torch.get_rng_state()
    first, second = (draw_negatives(model, LEFT_PADDED, max_new_tokens=4, seed=2) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.get_rng_state()) and model.training
    other = draw_negatives(model, LEFT_PADDED, max_new_tokens=4, seed=3)
    assert not torch.equal(first["reference"], other["reference"])


def test_before_training_log_u_is_zero_with_drawn_negatives():
    model, loss = llama(), DFTLoss(5)
    value = dft_step(model, loss, batch(model))
    torch.testing.assert_close(loss.normaliser.log_mean, torch.zeros(5), atol=1e-5, rtol=0)
    sft = -engine.model_log_likelihoods(model, engine.collate(PROMPTS, ANSWERS)).mean()
    torch.testing.assert_close(value, sft, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["dft", "dft2"])
def test_a_llama_learns_its_answers_in_bfloat16(variant):
    model = llama().bfloat16()
    data, loss = batch(model), DFTLoss(5, variant=variant, anneal=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    margins_seen = []
    for _ in range(8):
        optimizer.zero_grad()
        dft_step(model, loss, data, rows=4)
        optimizer.step()
        with torch.no_grad():
            right = engine.model_log_likelihoods(model, data)
            flat = {n: data[f"negative_{n}"].flatten(0, 1) for n in ("input_ids", "attention_mask", "labels")}
            margins_seen.append(float(right.mean() - engine.model_log_likelihoods(model, flat).mean()))
    assert margins_seen[-1] > margins_seen[0] + 3


def test_a_batch_of_one_works_as_any():
    model, loss = llama(), DFTLoss(5)
    data = {name: tensor[:1] for name, tensor in batch(model, count=1).items()}
    assert dft_step(model, loss, data).isfinite()


def changed(**entries: Tensor | None) -> dict[str, Tensor]:
    data = batch(llama(), count=2) | entries
    return {name: tensor for name, tensor in data.items() if tensor is not None}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"labels": torch.full((2, 6), -100)}, "labels must keep"),
        ({"labels": torch.full((2, 6), 30)}, "vocabulary"),
        ({"labels": torch.full((2, 5), 3)}, "labels must have shape"),
        ({"index": torch.tensor([0, 5])}, r"index must be in \[0, 5\)"),
        ({"index": torch.tensor([-1, 0])}, r"index must be in \[0, 5\)"),
        ({"index": torch.tensor([0.0, 1.0])}, "index must be integers"),
        ({"index": torch.tensor([0])}, "index must be integers of shape"),
        ({"index": None}, "index must say"),
        ({"reference": None}, "reference must be the negatives"),
        ({"reference": torch.full((2, 2), torch.nan)}, "reference must be finite"),
        ({"reference": torch.zeros(2, 3)}, "reference must have the shape"),
        ({"negative_input_ids": None}, "'negative_input_ids'"),
        ({"negative_input_ids": torch.zeros(2, 0, 4, dtype=torch.long)}, "at least one negative"),
        ({"negative_input_ids": torch.zeros(2, 4, dtype=torch.long)}, "negative_input_ids must have shape"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_batches_are_named(entries, message):
    with pytest.raises(ParameterError, match=message):
        dft_step(llama(), DFTLoss(5), changed(**entries))


def test_a_model_that_gives_nan_is_named_before_anything_is_kept():
    model, loss = llama(), DFTLoss(5)
    data = batch(model)
    before = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(ParameterError, match=r"answers must be finite.*nan"):
        dft_step(model, loss, data)
    assert all(torch.equal(before[name], tensor) for name, tensor in loss.state_dict().items())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DFTLoss(variant="dft3"), "variant"),
        (lambda: DFTLoss(temperature=0.0), "temperature"),
        (lambda: DFTLoss(factor=0.0), "factor"),
        (lambda: DFTLoss(factor=1.1), "factor"),
        (lambda: DFTLoss(-1), "examples"),
        (lambda: DFTLoss(3, accumulation=0), "accumulation"),
        (lambda: DFTLoss(3, forget_after=0), "forget_after"),
        (lambda: DFTLoss()(*scores()[:2], scores()[2], torch.arange(4)), "index needs"),
        (lambda: DFTLoss(variant="dft2")(*scores()), "reference must be None"),
        (lambda: DFTLoss()(torch.zeros(0), torch.zeros(0, 2), torch.zeros(0, 2)), "answers must have shape"),
        (lambda: DFTLoss()(torch.zeros(2), torch.zeros(2, 0), torch.zeros(2, 0)), "at least one"),
        (lambda: DFTLoss()(torch.zeros(2), torch.full((2, 1), -torch.inf), torch.zeros(2, 1)), "negatives must be f"),
        (lambda: draw_negatives(llama(), {"input_ids": torch.zeros(2, 0, dtype=torch.long)}), "prompts must have"),
        (lambda: draw_negatives(llama(), LEFT_PADDED, count=0), "count"),
        (lambda: draw_negatives(llama(), {"input_ids": torch.ones(1, 2, dtype=torch.long),
                                          "attention_mask": torch.tensor([[1, 0]])}), "on the left"),
        (lambda: engine.collate([], []), "not none"),
        (lambda: engine.collate(PROMPTS, [torch.tensor([1]), torch.tensor([], dtype=torch.long)]), r"answers\[1\]"),
        (lambda: dft_step(llama(), DFTLoss(5), batch(llama()), rows=0), "rows must be"),
    ],
)  # fmt: skip
def test_bad_options_are_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


@pytest.mark.parametrize("method", ["sft", "spin", "dft", "dft2"])
def test_every_way_of_fine_tuning_improves_on_the_base(method):
    rng = generator("dft", "improves")
    task = world.task(rng)
    *_, weights = measure.finetuned(task, rng, measure.Arm(method), learning_rate=0.01)
    before, after = (measure.judged(w, task.base, *task.test) for w in (task.base, weights))
    assert after.accuracy > before.accuracy + 0.1 and after.margin > before.margin + 0.5
