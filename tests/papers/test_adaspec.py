"""AdaSPEC: the loss against a plain one, its budget, bad input, distilling saved pairs, and text that stays the target's."""

from __future__ import annotations

import copy
import functools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from porism.errors import ParameterError
from porism.testbeds import corpus, tiny_llama, windows
from porism_plugins.spec import _adaspec_experiments as measure
from porism_plugins.spec._engine import speculative_generate
from porism_plugins.spec.adaspec import (
    AdaSPECLoss,
    acceptance,
    distil_draft,
    greedy_acceptance,
    kept_count,
    select_tokens,
    token_gaps,
)

IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 4, 3, 5]])


def logits(*shape: int, seed: int = 0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(2 * rng.normal(size=shape)) for _ in range(3)]


def labels(*shape: int, seed: int = 0, ignored: float = 0.3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.where(rng.random(shape) < ignored, -100, rng.integers(7, size=shape)))


def llama(layers: int = 1, seed: int = 0, **options) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        small = {
            "vocab_size": 20,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "eos_token_id": None,
        }
        return LlamaForCausalLM(LlamaConfig(**{**small, "num_hidden_layers": layers, **options})).eval()


def plain(draft, target, reference, labels, kept, average="kept"):
    """The card's steps 4 to 6, on copies in float64."""
    counted = labels.flatten() != -100
    q, p, r = (one.flatten(0, -2)[counted].log_softmax(-1) for one in (draft, target, reference))
    losses, other = (F.kl_div(one, p, log_target=True, reduction="none").sum(-1) for one in (q, r))
    gaps = (losses - other).detach()
    mask = gaps >= torch.quantile(gaps, 1 - kept) - 1e-12
    return losses[mask].sum() / (mask.sum() if average == "kept" else len(mask))


def distil(draft, target, batches=({"input_ids": IDS},), **options):
    return distil_draft(draft, target, batches, **{"learning_rate": 1e-2, **options})


@pytest.mark.parametrize("average", ["kept", "supervised"])
@pytest.mark.parametrize("kept", [0.1, 0.4, 0.75, 1.0])
@pytest.mark.parametrize("shape", [(40,), (5, 8), (2, 3, 6)])
def test_value_and_gradient_are_those_of_plain_torch(shape, kept, average):
    (draft, target, reference), y = logits(*shape, 7), labels(*shape)
    ours, theirs = draft.clone().requires_grad_(), draft.clone().requires_grad_()
    value = AdaSPECLoss(kept, average=average)(ours, target, reference, y)
    expected = plain(theirs, target, reference, y, kept, average)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert not ours.grad[y == -100].any()


@given(st.integers(1, 200), st.decimals("0.01", 1, places=2), st.integers(0, 100))
def test_the_budget_is_that_of_the_quantile_and_ties_only_add(tokens, kept, seed):
    """Of the integers below N, those from (1 - k)(N - 1) on, in exact arithmetic."""
    above = [i for i in range(tokens) if i >= (1 - Fraction(kept)) * (tokens - 1)]
    rng = np.random.default_rng(seed)
    chosen = select_tokens(torch.from_numpy(rng.permutation(tokens)).double(), float(kept))
    assert int(chosen.sum()) == len(above) == kept_count(tokens, float(kept)) >= 1
    tied = torch.from_numpy(rng.integers(3, size=tokens)).double()
    mask = select_tokens(tied, float(kept))
    assert int(mask.sum()) >= len(above)
    assert not mask.any() or tied[mask].min() > (tied[~mask].max() if not mask.all() else -1)


def test_a_fraction_is_the_decimal_it_is_written_as():
    assert (1 - 0.7) * 10 > 3  # what a quantile in floating point stumbles over
    assert kept_count(11, 0.7) == 8


def test_equal_draft_and_reference_keep_every_token():
    draft, target, _ = logits(9, 7)
    assert select_tokens(token_gaps(draft, target, draft)[1], 0.1).all()


def test_count_divides_instead_of_the_batchs_own_number():
    (draft, target, reference), y = logits(30, 7), labels(30)
    parts = [AdaSPECLoss(0.4, average=average)(draft, target, reference, y, count)
             for average, count in (("kept", None), ("supervised", None), ("kept", 50))]  # fmt: skip
    supervised = int((y != -100).sum())
    kept = kept_count(supervised, 0.4)
    torch.testing.assert_close(parts[0] * kept, parts[1] * supervised)
    torch.testing.assert_close(parts[0] * kept, parts[2] * 50)


def test_only_the_draft_gets_a_gradient():
    given = [one.requires_grad_() for one in logits(9, 7)]
    AdaSPECLoss()(*given, labels(9)).backward()
    assert [one.grad is not None for one in given] == [True, False, False]


def test_without_supervised_tokens_loss_and_gradient_are_zero():
    draft, target, reference = logits(2, 3, 7)
    draft.requires_grad_()
    value = AdaSPECLoss()(draft, target, reference, torch.full((2, 3), -100))
    value.backward()
    assert value == 0 and draft.grad.shape == draft.shape and not draft.grad.any()


def test_what_is_ignored_may_be_anything():
    (draft, target, reference), y = logits(10, 7), labels(10)
    expected = AdaSPECLoss()(draft, target, reference, y)
    for one in (draft, target, reference):
        one[y == -100] = torch.nan
    draft.requires_grad_()
    value = AdaSPECLoss()(draft, target, reference, y)
    value.backward()
    assert torch.equal(value, expected) and draft.grad.isfinite().all()


@pytest.mark.parametrize("dtypes", [("bfloat16",) * 3, ("float16",) * 3, ("float32", "bfloat16", "float16")])
def test_low_and_mixed_precision(dtypes):
    (draft, target, reference), y = logits(50, 7), labels(50)
    given = [one.to(getattr(torch, name)) for one, name in zip((draft, target, reference), dtypes, strict=True)]
    expected = AdaSPECLoss()(*(one.double() for one in given), y)
    given[0].requires_grad_()
    value = AdaSPECLoss()(*given, y)
    value.backward()
    assert value.dtype == torch.float32 and given[0].grad.dtype == given[0].dtype
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_vocabulary_that_all_models_mask_does_not_exist():
    (draft, target, reference), y = logits(12, 5), labels(12, ignored=0) % 5
    padded = [F.pad(one, (0, 3), value=-torch.inf) for one in (draft, target, reference)]
    torch.testing.assert_close(AdaSPECLoss()(*padded, y), AdaSPECLoss()(draft, target, reference, y))


def test_acceptance_is_the_overlap_and_greedy_acceptance_one_likeliest_token():
    draft, target, _ = logits(30, 7)
    p, q = target.softmax(-1), draft.softmax(-1)
    torch.testing.assert_close(acceptance(draft, target), torch.minimum(p, q).sum(-1))
    assert torch.equal(greedy_acceptance(draft, target), p.argmax(-1) == q.argmax(-1))


def three() -> dict[str, torch.Tensor]:
    names = ("draft_logits", "target_logits", "reference_logits")
    return {**dict(zip(names, logits(4, 7), strict=True)), "labels": torch.tensor([1, 2, 3, -100])}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_logits": torch.zeros(4, 8)}, "target_logits .* share a vocabulary"),
        ({"reference_logits": torch.zeros(3, 7)}, "reference_logits must have the shape"),
        ({"labels": torch.tensor([1, 2, 3])}, "labels must be integers of shape"),
        ({"labels": torch.tensor([1.0, 2, 3, 4])}, "labels must be integers"),
        ({"labels": torch.tensor([1, 2, 7, -100])}, r"labels must be -100 or in \[0, 7\)"),
        ({"labels": torch.tensor([1, 2, -1, -100])}, r"labels must be -100 or in \[0, 7\)"),
        ({"draft_logits": torch.full((4, 7), torch.nan)}, "draft_logits must not be NaN"),
        ({"target_logits": torch.full((4, 7), torch.inf)}, "target_logits must not be NaN"),
        ({"reference_logits": torch.full((4, 7), -torch.inf)}, "reference_logits must not be NaN"),
        ({"draft_logits": torch.tensor([-torch.inf] + 6 * [0.0]).repeat(4, 1)}, "must not be -inf where target"),
        ({"draft_logits": torch.zeros(4, 7, dtype=torch.long)}, "draft_logits must be floating"),
        ({"labels": torch.zeros(4, dtype=torch.long, device="meta")}, "labels must be on cpu"),
        ({"count": 0}, "count must be at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_inputs_are_named(changes, message):
    with pytest.raises(ParameterError, match=message):
        AdaSPECLoss()(**three() | changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdaSPECLoss(0.0), "kept"),
        (lambda: AdaSPECLoss(1.1), "kept"),
        (lambda: AdaSPECLoss(average="all"), "average"),
        (lambda: distil(llama(), llama(2), epochs=0), "epochs"),
        (lambda: distil(llama(), llama(2), learning_rate=0.0), "learning_rate"),
        (lambda: distil(llama(), llama(2), []), "at least one token that counts"),
        (lambda: distil(llama(), llama(2), [{"input_ids": IDS, "labels": torch.full_like(IDS, -100)}]), "at least one"),
        (lambda: distil(llama(), llama(2), [{"labels": IDS}]), "input_ids"),
        (lambda: distil(llama(), llama(2), [{"input_ids": IDS[:, :1]}]), "T at least 2"),
        (lambda: distil(llama(), llama(2), [{"input_ids": IDS, "labels": IDS[:1]}]), "labels must have the shape"),
        (lambda: distil(llama(vocab_size=21), llama(2)), "share a vocabulary"),
        (lambda: distil(llama().requires_grad_(False), llama(2)), "no parameter that requires"),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


def test_distilling_is_a_hand_written_loop():
    """Labels are shifted, the reference is a copy that saw the same batches, Adam has the given rate."""
    draft, target = llama(), llama(2, seed=1)
    batches = [{"input_ids": IDS}, {"input_ids": IDS.flip(1)}]
    expected = {}
    for name, kept in (("reference", 1.0), ("draft", 0.4)):
        model = copy.deepcopy(draft)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for batch in batches * 2:
            with torch.no_grad():
                p = target(**batch).logits[:, :-1]
                r = expected["reference"](**batch).logits[:, :-1] if kept < 1 else p
            loss = plain(model(**batch).logits[:, :-1], p, r, batch["input_ids"][:, 1:], kept)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected[name] = model
    result = distil(draft, target, iter(batches), epochs=2)
    for ours, model in ((draft, expected["draft"]), (result.reference, expected["reference"])):
        for a, b in zip(ours.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert result.losses.shape == result.reference_losses.shape == (4,)


def test_only_the_draft_moves_and_modes_stay():
    draft, target, reference = llama(), llama(2, seed=1).train(), llama(seed=2).train()
    draft.lm_head.weight.requires_grad_(False)
    before = copy.deepcopy((draft, target, reference))
    result = distil(draft, target, reference=reference, optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    assert result.reference is reference and not len(result.reference_losses)
    for ours, old in zip((target, reference), before[1:], strict=True):
        assert all(
            torch.equal(a, b) and a.grad is None for a, b in zip(ours.parameters(), old.parameters(), strict=True)
        )
    moved = {
        n for (n, a), b in zip(draft.named_parameters(), before[0].parameters(), strict=True) if not torch.equal(a, b)
    }
    assert moved == {n for n, _ in draft.named_parameters()} - {"lm_head.weight"}
    assert not draft.training and target.training and reference.training


def test_target_and_reference_run_without_dropout():
    target, reference = (llama(2, seed=seed, attention_dropout=0.5).train() for seed in (1, 2))
    state = torch.get_rng_state()
    first, second = (distil(llama(), target, reference=reference).losses for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


def test_padding_teaches_nothing():
    """A row that is padded behind its end gives the steps of the row alone."""
    target, mask = llama(2, seed=1), torch.tensor([[1, 1, 1, 0, 0]])
    drafts = llama(), llama()
    reference = llama(seed=2)
    distil(drafts[0], target, [{"input_ids": IDS[:1, :3]}], reference=reference, kept=1.0)
    distil(drafts[1], target, [{"input_ids": IDS[:1], "attention_mask": mask}], reference=reference, kept=1.0)
    for a, b in zip(*(draft.parameters() for draft in drafts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_pair_is_distilled_and_decodes_the_targets_text(tmp_path, dtype):
    data = corpus(np.random.default_rng(0))
    tiny_llama(data.train, hidden=48, steps=150).save_pretrained(tmp_path / "target")
    tiny_llama(data.train, hidden=24, layers=1, steps=150, seed=1).save_pretrained(tmp_path / "draft")
    target, draft = (AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=dtype) for name in ("target", "draft"))
    rng = np.random.default_rng(0)
    batches = [{"input_ids": torch.from_numpy(windows(rng, data.train, batch=8, length=48))} for _ in range(15)]
    seen = torch.from_numpy(windows(rng, data.test, batch=16, length=48))

    def accepted() -> float:
        return float(acceptance(measure.logits_of(draft, seen), measure.logits_of(target, seen)).mean())

    before = accepted()
    distil_draft(draft, target, batches, learning_rate=3e-3)
    assert accepted() > before + 0.005
    if dtype == torch.float32:
        draft.save_pretrained(tmp_path / "distilled")
        draft, prompt = AutoModelForCausalLM.from_pretrained(tmp_path / "distilled"), seen[:1, :24]
        found = speculative_generate(target, prompt, draft=draft, max_new_tokens=24)
        text = target.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False)
        assert torch.equal(found.sequences, text)
        assert found.statistics.target_calls < 24


@pytest.mark.parametrize(("draft", "exact"), [(llama(2), True), (llama(seed=3, initializer_range=0.3), False)])
def test_decoding_is_compared_at_the_positions_it_tested(draft, exact):
    """A draft that is the target is accepted throughout; one that is not, as often as the laws overlap there."""
    found = measure.decode(draft, llama(2), IDS.repeat(30, 1), np.random.default_rng(0), tokens=20, length=4)
    if exact:
        assert found.measured == 1 and found.overlap == pytest.approx(1, abs=1e-5) and found.tokens_per_call == 5
    else:
        assert 0.4 < found.overlap < 0.9 and abs(found.measured - found.overlap) < 0.04  # 900 positions or more
