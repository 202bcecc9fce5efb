"""AdaLoRA and the engine of adapters: peft's own numbers step by step, freed memory, resuming, export, and bad input."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.surgery import matrix
from porism_plugins.peft import _engine as engine
from porism_plugins.peft._budget import RankBudget
from porism_plugins.peft._engine import adapter_bytes, adapters, dense, merge, unmerge
from porism_plugins.peft._schedule import cubic, keep_largest
from porism_plugins.peft._sensitivity import Layout, Magnitude, UpperConfidence
from porism_plugins.peft._svd import SVDLinear
from porism_plugins.peft.adalora import adalora, penalty, to_peft

TOKENS = torch.arange(24).view(4, 6)
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny(kind: str = "llama", **options):
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=32, **options)
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, **options,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6))


X, Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 6


def optimiser(model: nn.Module, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=lr)


def step(model, optimizer, budget=None, gamma: float = 0.01) -> torch.Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(X), Y) + penalty(model, weight=gamma)
    loss.backward()
    optimizer.step()
    if budget is not None:
        budget.step()
    return loss


def run(steps: int = 40, **options):
    model = adalora(mlp(), rank=4, target_rank=2)
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=40, **options)
    for _ in range(steps):
        step(model, optimizer, budget)
    return model, optimizer, budget


def twins(target_r: int = 2, init_r: int = 4, total: int = 30, tfinal: int = 8, delta: int = 3, task_type="CAUSAL_LM"):
    """The same adapters at the same start, ours and peft's, in evaluation mode, with their optimisers."""
    import peft

    base = tiny()
    config = peft.AdaLoraConfig(
        init_r=init_r, target_r=target_r, lora_alpha=16, tinit=3, tfinal=tfinal, deltaT=delta, total_step=total,
        orth_reg_weight=0.3, target_modules=LLAMA, task_type=task_type,
    )  # fmt: skip
    theirs = peft.get_peft_model(copy.deepcopy(base), config).eval()
    ours = adalora(base, rank=init_r, target_rank=target_r)
    modules = dict(theirs.base_model.model.named_modules())
    with torch.no_grad():
        for name, layer in adapters(ours).items():
            layer.scale = 16 / (init_r + 1e-5)  # peft's divisor
            for factor in ("lora_A", "lora_B", "lora_E"):
                getattr(layer, factor).copy_(getattr(modules[name], factor)["default"])
    budget = RankBudget(ours, total_steps=total, warmup=3, cooldown=tfinal, interval=delta)
    return ours, theirs, budget, {name: modules[name] for name in adapters(ours)}


def test_every_step_agrees_with_peft():
    """Scores, masks, singular values and outputs; with peft's divisor and penalty, and its steps counted from 1."""
    ours, theirs, budget, modules = twins()
    optimizers = optimiser(ours), optimiser(theirs)
    allocator, masks = theirs.base_model.rankallocator, 0
    for count in range(1, 31):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = ours(TOKENS, labels=TOKENS).loss + penalty(ours, weight=0.3, form="mean")
        loss.backward()
        expected = theirs(input_ids=TOKENS, labels=TOKENS).loss
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
        for optimizer in optimizers:
            optimizer.step()
        budget.step()
        theirs.base_model.update_and_allocate(count)
        if count < 22:
            for key, average in (("importance", allocator.exp_avg_ipt), ("uncertainty", allocator.exp_avg_unc)):
                names = {id(p): n for n, p in theirs.base_model.model.named_parameters()}
                pairs = {id(p): (n, f) for n, m in modules.items() for f in ("lora_A", "lora_B", "lora_E")
                         for p in [getattr(m, f)["default"]]}  # fmt: skip
                flat = dict(zip(map(id, budget.layout.parameters), split(budget, key), strict=True))
                for which, (name, factor) in pairs.items():
                    mine = flat[id(getattr(adapters(ours)[name], factor))]
                    torch.testing.assert_close(mine, average[names[which]], rtol=1e-2, atol=1e-7)
        pattern = theirs.peft_config["default"].rank_pattern
        if count >= 22 or (count > 3 and count % 3 == 0):
            masks += 1
            found = {name: kept.tolist() for name, kept in budget.kept.items()}
            assert found == {name.removesuffix(".lora_E.default"): kept for name, kept in pattern.items()}
            assert sum(budget.ranks().values()) == budget.triplets(count)
        for name, module in modules.items():
            mine = adapters(ours)[name].lora_E
            torch.testing.assert_close(mine, module.lora_E["default"], rtol=1e-2, atol=2e-5)
    assert masks >= 14 and sum(budget.ranks().values()) == 14 * 2
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS).logits, theirs(input_ids=TOKENS).logits, rtol=1e-3, atol=1e-3)


def split(budget: RankBudget, key: str) -> list[torch.Tensor]:
    sizes = [p.numel() for p in budget.layout.parameters]
    return [
        part.view(p.shape) for part, p in zip(budget.state[key].split(sizes), budget.layout.parameters, strict=True)
    ]


def test_peft_without_a_task_type_trains_without_the_penalty():
    losses = [twins(task_type=task)[1](input_ids=TOKENS, labels=TOKENS).loss for task in (None, "CAUSAL_LM")]
    assert losses[1] - losses[0] > 0.5


def test_where_peft_departs_from_the_paper():
    """What our docs say of peft 0.21.2 is so: no stop at equal ranks, ties, freed memory, the last mask, the start."""
    _, theirs, _, modules = twins(target_r=4)
    theirs(input_ids=TOKENS, labels=TOKENS).loss.backward()
    with pytest.raises(RuntimeError, match="kthvalue"):
        theirs.base_model.update_and_allocate(6)
    assert all(not m.lora_E["default"].any() for m in modules.values()), "lambda starts at zero since some version"

    _, theirs, _, modules = twins(total=30, tfinal=0)
    before = sum(p.numel() for n, p in theirs.named_parameters() if "lora_" in n)
    optimizer = optimiser(theirs)
    for count in range(30):
        optimizer.zero_grad()
        theirs(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        theirs.base_model.update_and_allocate(count)
    assert sum(int((m.lora_E["default"] != 0).sum()) for m in modules.values()) > 14 * 2, "steps from 0 end early"
    assert before == sum(p.numel() for n, p in theirs.named_parameters() if "lora_" in n), "nothing is freed"

    allocator = theirs.base_model.rankallocator
    for values in allocator.exp_avg_unc.values():
        values.zero_()
    allocator.mask_to_budget(theirs.base_model.model, 28)
    assert not any(m.lora_E["default"].any() for m in modules.values()), "equal scores all go"


def test_equal_ranks_take_nothing_away():
    model = adalora(mlp(), rank=4, target_rank=4)
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=20, interval=1)
    for _ in range(20):
        step(model, optimizer, budget)
        assert sum(budget.ranks().values()) == budget.triplets(budget.steps) == 12
    bytes_before = adapter_bytes(model)
    budget.finish(optimizer)
    assert adapter_bytes(model) == bytes_before


@given(st.integers(1, 60), st.data())
def test_ties_go_by_order_and_the_count_is_exact(size, data):
    scores = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=size, max_size=size)))
    count = data.draw(st.integers(0, size))
    kept = keep_largest(scores, count)
    assert int(kept.sum()) == count
    if 0 < count < size:
        assert scores[kept].min() >= scores[~kept].max()
        equal = scores == scores[kept].min()
        assert kept[equal].tolist() == sorted(kept[equal].tolist(), reverse=True)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20), st.integers(1, 40), st.integers(0, 20))
def test_the_schedule_is_the_paper_s(final, more, warmup, between, cooldown):
    from fractions import Fraction

    total = warmup + between + cooldown
    for t in range(1, total + 1):
        left = min(max(1 - Fraction(t - warmup, between), 0), 1) if t > warmup else 1
        expected = int(final + more * Fraction(left) ** 3)
        assert cubic(t, total, warmup=warmup, cooldown=cooldown, initial=final + more, final=final) == expected


def test_scores_are_those_of_a_loop_over_triplets():
    """Eq. 8 to 11 and 7 as they are printed, with layers of several shapes."""
    model = adalora(mlp(), rank=3, target_rank=1)
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=40, warmup=19)
    layers = list(adapters(model).values())
    mean, spread = ({p: torch.zeros_like(p) for layer in layers for p in layer.triplets()} for _ in range(2))
    for _ in range(5):
        step(model, optimizer, budget)
        for p in mean:
            now = (p.detach() * p.grad).abs()
            mean[p] = 0.85 * mean[p] + 0.15 * now
            spread[p] = 0.85 * spread[p] + 0.15 * (now - mean[p]).abs()
    expected = []
    for layer in layers:
        right, left, values = ((mean[p] * spread[p]) for p in layer.triplets())
        expected += [float(values[i, 0] + left[:, i].mean() + right[i].mean()) for i in range(3)]
    found = budget.criterion.score(budget.layout, budget.layout.gather(budget.layout.parameters), budget.state)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("form", ["squared", "mean"])
def test_the_penalty_and_its_gradient_are_those_of_autograd(form):
    model = adalora(mlp(), rank=3, target_rank=1)
    with torch.no_grad():
        for number, layer in enumerate(adapters(model).values()):
            for p in layer.triplets():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    vectors = [(layer.lora_A, layer.lora_B) for layer in adapters(model).values()]
    norms = [torch.linalg.matrix_norm(g - torch.eye(3)) for a, b in vectors for g in (a @ a.T, b.T @ b)]
    plain = sum(n.square() for n in norms) if form == "squared" else sum(norms) / len(norms)
    leaves = [p for pair in vectors for p in pair]
    expected = torch.autograd.grad(0.7 * plain, leaves)
    value = penalty(model, weight=0.7, form=form)
    torch.testing.assert_close(value, 0.7 * plain)
    for mine, theirs in zip(torch.autograd.grad(value, leaves), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_penalty_of_orthonormal_vectors_is_zero_and_pulls_nowhere():
    model = adalora(nn.Sequential(nn.Linear(6, 6)), rank=3, target_rank=1)
    with torch.no_grad():
        model[0].lora_A.copy_(torch.eye(6)[:3])
        model[0].lora_B.copy_(torch.eye(6)[:, :3])
    for form in ("squared", "mean"):
        value = penalty(model, weight=1.0, form=form)
        gradients = torch.autograd.grad(value, [model[0].lora_A, model[0].lora_B])
        assert value == 0 and not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_transformers_model_starts_exactly_where_it_was_and_then_moves(kind):
    base = tiny(kind)
    model = adalora(base, rank=4, target_rank=2)
    assert torch.equal(base(TOKENS).logits, model(TOKENS).logits)
    assert "lm_head" not in adapters(model) and len(adapters(model)) == {"llama": 14, "gpt2": 8}[kind]
    before = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=6, warmup=1, cooldown=2, interval=1)
    for _ in range(6):
        optimizer.zero_grad()
        (model(TOKENS, labels=TOKENS).loss + penalty(model)).backward()
        optimizer.step()
        budget.step()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
    assert not torch.equal(base(TOKENS).logits, model(TOKENS).logits)
    layer = next(iter(adapters(model).values()))
    expected = matrix(layer.base) + layer.scale * layer.lora_B @ torch.diag(layer.lora_E[:, 0]) @ layer.lora_A
    torch.testing.assert_close(layer.weight, expected)


def test_the_last_mask_is_set_without_a_cooldown():
    model, _, budget = run(cooldown=0, interval=7)
    assert sum(budget.ranks().values()) == 6
    assert sum(int((layer.lora_E != 0).sum()) for layer in adapters(model).values()) <= 6


def test_the_kept_triplets_do_not_change_in_the_cooldown():
    model, optimizer, budget = run(steps=20)
    kept = {name: mask.clone() for name, mask in budget.kept.items()}
    for _ in range(20):
        step(model, optimizer, budget)
        assert all(torch.equal(mask, kept[name]) for name, mask in budget.kept.items())
        assert all(not layer.lora_E[~kept[name]].any() for name, layer in adapters(model).items())


def test_finish_frees_memory_and_training_goes_on_as_if_it_had_not():
    """The optimiser's moments are cut along; with a graph of the last step still alive."""
    plain, plain_optimizer, plain_budget = run(steps=25)
    model, optimizer, budget = run(steps=24)
    loss = step(model, optimizer, budget)  # a graph that refers to the old shapes
    before, moments = adapter_bytes(model), sum(t.nbytes for s in optimizer.state.values() for t in s.values())
    assert budget.finish(optimizer) is model and loss.requires_grad
    assert adapter_bytes(model) < 0.6 * before
    assert sum(t.nbytes for s in optimizer.state.values() for t in s.values()) < 0.6 * moments
    assert sum(layer.rank for layer in adapters(model).values()) == 6
    for _ in range(10):
        step(model, optimizer, budget, gamma=0.0)
        step(plain, plain_optimizer, plain_budget, gamma=0.0)
    torch.testing.assert_close(model(X), plain(X), rtol=1e-4, atol=1e-5)


def test_a_layer_without_triplets_is_its_base():
    model = adalora(mlp(), rank=4, target_rank=1)
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=10, budget=1, interval=1)
    for _ in range(10):
        step(model, optimizer, budget)
    budget.finish(optimizer)
    empty = [layer for layer in adapters(model).values() if not layer.rank]
    assert len(empty) == 2 and all(layer.nbytes() == 0 for layer in empty)
    step(model, optimizer, budget)
    inputs = torch.ones(3, empty[0].in_features)
    assert torch.equal(empty[0](inputs), empty[0].base(inputs))


def test_an_optimiser_whose_state_cannot_be_cut_is_refused_before_anything_changes():
    model, _, budget = run(steps=25)
    optimizer = torch.optim.Adafactor([p for p in model.parameters() if p.requires_grad])
    step(model, optimizer, budget)
    before = adapter_bytes(model)
    with pytest.raises(ParameterError, match="optimizer: its row_var has shape"):
        budget.finish(optimizer)
    assert adapter_bytes(model) == before


@pytest.mark.parametrize("at", [3, 15, 30])
def test_a_resumed_run_has_the_same_bits(at, tmp_path):
    expected, *_ = run(interval=3)
    model, optimizer, budget = run(steps=at, interval=3)
    torch.save({"m": model.state_dict(), "o": optimizer.state_dict(), "b": budget.state_dict()}, tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt")
    model = adalora(mlp(), rank=4, target_rank=2, seed=5)
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=40, interval=3)
    model.load_state_dict(saved["m"])
    optimizer.load_state_dict(saved["o"])
    budget.load_state_dict(saved["b"])
    for _ in range(40 - at):
        step(model, optimizer, budget)
    assert torch.equal(model(X), expected(X))


def test_a_freed_run_is_resumed_too():
    model, optimizer, budget = run(steps=25)
    budget.finish(optimizer)
    again = adalora(mlp(), rank=5, target_rank=2, alpha=3.0)  # the state knows its scale and ranks
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(X), model(X)) and adapter_bytes(again) == adapter_bytes(model)
    second = RankBudget(again, total_steps=40)
    second.load_state_dict(budget.state_dict())
    assert second.ranks() == budget.ranks()
    other = optimiser(again)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(5):
        step(model, optimizer, budget)
        step(again, other, second)
    assert torch.equal(again(X), model(X))


def test_a_state_of_another_model_is_refused():
    _, _, budget = run(steps=5)
    other = RankBudget(adalora(mlp(), rank=3, target_rank=2), total_steps=40)
    with pytest.raises(ParameterError, match="state_dict has layers with ranks"):
        other.load_state_dict(budget.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merging_agrees_and_unmerging_is_exact(dtype):
    model, *_ = run()
    model, x = model.to(dtype), X.to(dtype)
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = model(x)
        merged = merge(model)(x)
        tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}[dtype]
        torch.testing.assert_close(merged, before, rtol=tolerance, atol=tolerance)
        assert merged.dtype == dtype and model.state_dict().keys() == saved.keys()
        assert torch.equal(unmerge(model)(x), before)
        assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
        ordinary = dense(model)
        assert torch.equal(ordinary(x), merged) and type(ordinary[0]) is nn.Linear
        assert torch.equal(model(x), before), "dense works on a copy"


def test_conv1d_is_merged_and_made_ordinary_too():
    model = adalora(tiny("gpt2"), rank=4, target_rank=2)
    with torch.no_grad():
        for layer in adapters(model).values():
            layer.lora_E.normal_(generator=torch.Generator().manual_seed(0))
        expected = model(TOKENS).logits
        torch.testing.assert_close(merge(model)(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)
        ordinary = dense(unmerge(model))
    assert type(ordinary.transformer.h[0].attn.c_attn).__name__ == "Conv1D"
    torch.testing.assert_close(ordinary(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_train_float32_adapters(dtype):
    model = adalora(mlp().to(dtype), rank=4, target_rank=2)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=20, interval=1)
    for _ in range(20):
        optimizer.zero_grad()
        output = model(X.to(dtype))
        (F.cross_entropy(output.float(), Y) + penalty(model)).backward()
        optimizer.step()
        budget.step()
    assert output.dtype == dtype and budget.skipped == 0 and sum(budget.ranks().values()) == 6


def test_half_precision_adapters_have_float32_scores():
    model = adalora(mlp(), rank=4, target_rank=2).bfloat16()
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=20, interval=1)
    for _ in range(20):
        optimizer.zero_grad()
        (F.cross_entropy(model(X.bfloat16()).float(), Y) + penalty(model)).backward()
        optimizer.step()
        budget.step()
    assert budget.state["importance"].dtype == torch.float32 and sum(budget.ranks().values()) == 6


def test_autocast_trains():
    model = adalora(mlp(), rank=4, target_rank=2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(X), Y) + penalty(model)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_loads_the_export_and_computes_the_same(kind, tmp_path):
    import peft

    base = tiny(kind)
    model = adalora(base, rank=4, target_rank=2)
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=8, warmup=1, cooldown=2, interval=1)
    for _ in range(8):
        optimizer.zero_grad()
        (model(TOKENS, labels=TOKENS).loss + penalty(model)).backward()
        optimizer.step()
        budget.step()
    to_peft(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of missing keys
        adapted = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(adapted(TOKENS).logits, model(TOKENS).logits, rtol=1e-4, atol=1e-4)
    ranks = {n.removeprefix("base_model.model."): m.r["default"] for n, m in adapted.named_modules() if hasattr(m, "r")}
    assert ranks == {name: rank for name, rank in budget.ranks().items() if rank}
    budget.finish()
    to_peft(model, tmp_path / "freed")
    again = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "freed")
    with torch.no_grad():
        torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits, rtol=1e-4, atol=1e-4)


def test_an_increment_of_zero_is_not_exported(tmp_path):
    with pytest.raises(ParameterError, match="nothing to export"):
        to_peft(adalora(mlp(), rank=2, target_rank=1), tmp_path)


def test_a_module_used_twice_has_one_adapter():
    shared = nn.Linear(8, 8)
    model = adalora(nn.Sequential(shared, nn.ReLU(), shared), rank=2, target_rank=1)
    assert list(adapters(model)) == ["0"] and model[0] is model[2]
    assert RankBudget(model, total_steps=10).initial == 2


def test_tied_weights_are_left_alone_and_refused_by_name():
    base = tiny(tie_word_embeddings=True)
    assert "lm_head" not in adapters(adalora(base, rank=2, target_rank=1, exclude=[]))
    with pytest.raises(ParameterError, match=r"lm_head.weight is tied"):
        adalora(base, rank=2, target_rank=1, include=["lm_head"], exclude=[])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank"), ({"rank": 1.5}, "rank"), ({"target_rank": 0}, "target_rank"),
        ({"rank": 4, "target_rank": 5}, "target_rank must be at most rank 4, got 5"),
        ({"alpha": 0.0}, "alpha"), ({"alpha": float("nan")}, "alpha"), ({"seed": -1}, "seed"),
        ({"rank": 9, "target_rank": 2}, r"rank must be at most the smaller side.*0\.weight is 12 x 8; exclude 0"),
        ({"rank": 2, "target_rank": 1, "include": ["q_proj"]}, "no linear layer matches.*there are: 0, 2, 4"),
        ({"rank": 2, "target_rank": 1, "also_train": ["head"]}, "also_train: no module matches 'head'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_bad_options_are_refused_and_change_nothing(options, message):
    model = mlp()
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    with pytest.raises(ParameterError, match=message):
        adalora(model, inplace=True, **options)
    assert before == [(name, p.requires_grad) for name, p in model.named_parameters()]


def test_weights_without_numbers_are_refused():
    with pytest.raises(ParameterError, match="meta device"):
        adalora(mlp().to("meta"), rank=2, target_rank=1)
    broken = mlp()
    broken[2].weight.data[0, 0] = float("nan")
    with pytest.raises(ParameterError, match=r"2\.weight must be finite"):
        adalora(broken, rank=2, target_rank=1)
    with pytest.raises(ParameterError, match=r"wrap it in nn\.Sequential"):
        adalora(nn.Linear(4, 4), rank=2, target_rank=1)
    with pytest.raises(ParameterError, match="has adapters already, at 0"):
        adalora(adalora(mlp(), rank=2, target_rank=1), rank=2, target_rank=1)


def test_quantised_layers_are_not_adapted_silently():
    from porism_plugins.quant.loftq import loftq

    with pytest.raises(ParameterError, match="no linear layer matches"):
        adalora(loftq(mlp(), rank=2, exclude=[]), rank=2, target_rank=1)
    codes = nn.Linear(4, 4)
    codes.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ParameterError, match="already quantised"):
        adalora(nn.Sequential(codes), rank=2, target_rank=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget"), ({"budget": 13}, "budget"), ({"budget": 2.5}, "budget"),
        ({"total_steps": 0}, "total_steps"), ({"interval": 0}, "interval"), ({"warmup": -1}, "warmup"),
        ({"warmup": 20, "cooldown": 20}, "must be less than total_steps 40 together, got 20 [+] 20"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_budgets_out_of_range_are_refused(options, message):
    model = adalora(mlp(), rank=4, target_rank=2)
    with pytest.raises(ParameterError, match=message):
        RankBudget(model, **{"total_steps": 40, **options})


def test_budgets_and_penalties_of_other_models_are_refused():
    for call in (lambda: RankBudget(mlp(), total_steps=9), lambda: penalty(mlp()), lambda: merge(mlp())):
        with pytest.raises(ParameterError, match="model has no adapters"):
            call()
    model = adalora(mlp(), rank=2, target_rank=1)
    for options in ({"weight": -1.0}, {"weight": float("nan")}, {"form": "cubed"}):
        with pytest.raises(ParameterError, match=r"weight|form"):
            penalty(model, **options)
    for options in ({"beta1": 1.0}, {"beta1": -0.1}, {"beta2": 1.1}):
        with pytest.raises(ParameterError, match="beta"):
            UpperConfidence(**options)


def test_steps_without_a_gradient_and_merged_steps_are_errors():
    model = adalora(mlp(), rank=4, target_rank=2)
    budget = RankBudget(model, total_steps=10)
    with pytest.raises(ParameterError, match=r"no adapter has a gradient.*before zero_grad"):
        budget.step()
    F.cross_entropy(model(X), Y).backward()
    merge(model)
    with pytest.raises(ParameterError, match="unmerge"):
        budget.step()
    assert budget.steps == 0


def test_a_layer_that_no_gradient_reaches_goes_first():
    model = adalora(mlp(), rank=4, target_rank=2)
    optimizer, budget = optimiser(model), RankBudget(model, total_steps=20, budget=8, interval=1)
    for _ in range(20):
        optimizer.zero_grad()
        model[2:](torch.ones(5, 12)).square().sum().backward()
        optimizer.step()
        budget.step()
    assert budget.ranks() == {"0": 0, "2": 4, "4": 4}


def test_gradients_that_are_not_finite_leave_the_scores_alone():
    model, _, budget = run(steps=3)
    state = {key: value.clone() for key, value in budget.state.items()}
    for value in (float("nan"), float("inf")):
        adapters(model)["2"].lora_A.grad[0, 0] = value
        budget.step()
    assert budget.skipped == 2 and all(torch.equal(budget.state[key], value) for key, value in state.items())


def test_a_training_that_diverged_is_an_error_at_the_next_mask():
    model, optimizer, budget = run(steps=9)
    with torch.no_grad():
        adapters(model)["2"].lora_B[0, 0] = float("nan")
    with pytest.raises(ParameterError, match="not finite at step 10: the training has diverged"):
        step(model, optimizer, budget)


def test_a_head_stays_trainable_if_asked():
    model = adalora(mlp(), rank=2, target_rank=1, exclude=["4"], also_train=["4"])
    assert [n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n] == ["4.weight", "4.bias"]


def test_a_criterion_of_one_s_own_decides():
    """Magnitude through the same budget: the largest |lambda| stay."""
    model, optimizer, budget = run(steps=19, criterion=Magnitude(), cooldown=20, interval=1)
    optimizer.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    values = torch.cat([layer.lora_E.detach().flatten().abs() for layer in adapters(model).values()])
    budget.step()
    kept = torch.cat(list(budget.kept.values()))
    assert torch.equal(kept, keep_largest(values, 6))


def test_layers_on_several_devices_share_one_vector():
    """Scores are gathered where the first layer is; here both are the CPU, so only shapes and order are told apart."""
    layers = [
        layer for layer in adapters(adalora(mlp(), rank=3, target_rank=1)).values() if isinstance(layer, SVDLinear)
    ]
    layout = Layout(layers)
    entries = torch.zeros(layout.size)
    entries[-layout.triplets :] = torch.arange(9.0)
    assert torch.equal(layout.by_triplet(entries), torch.arange(9.0))


def test_the_next_paper_needs_only_its_increment():
    """An adapter of a few lines, put in, trained, merged and made ordinary by the engine."""

    class Scaled(engine.Adapter):
        def __init__(self, base):
            super().__init__(base)
            self.gain = nn.Parameter(torch.zeros(self.out_features))

        def delta(self):
            return self.gain[:, None] * matrix(self.base)

    base = mlp()
    model = engine.adapt(base, lambda name, layer: Scaled(layer))
    assert torch.equal(model(X), base(X))
    optimizer = optimiser(model)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(dense(model)(X), model(X), rtol=1e-4, atol=1e-5)
