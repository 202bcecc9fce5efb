"""The mixture-of-experts engine against a plain loop in float64, transformers' Mixtral, and tables worked out by hand."""

from __future__ import annotations

import contextlib
import copy
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, MixtralConfig
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from porism.errors import ParameterError
from porism.testing import checks_for
from porism_plugins.moe import _grouped
from porism_plugins.moe._engine import (
    Experts,
    FeedForward,
    HashRouter,
    Load,
    MoE,
    RandomRouter,
    TokenIds,
    TopKRouter,
    auxiliary_loss,
    balance_loss,
    balanced_table,
    feed_forward,
    layers,
    limited,
    loads,
    random_table,
)

D, INNER, N = 6, 5, 4


def made(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def experts_of(dtype: torch.dtype = torch.float64, count: int = N, **options: Any) -> Experts:
    return Experts(count, D, INNER, generator=made(), **options).to(dtype)


def inputs(tokens: int, k: int, *, seed: int = 1, count: int = N) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, different experts for each, and factors."""
    generator = made(seed)
    x = torch.randn(tokens, D, generator=generator, dtype=torch.float64)
    index = torch.rand(tokens, count, generator=generator).argsort(1)[:, :k]
    return x, index, torch.rand(tokens, k, generator=generator, dtype=torch.float64)


def gradients(call: Any, x: torch.Tensor, experts: Experts) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)
    found = torch.autograd.grad((call(x) * weights).sum(), [x, *experts.parameters()])
    return list(found)


@given(
    tokens=st.integers(1, 40),
    k=st.integers(1, N),
    gated=st.booleans(),
    bias=st.booleans(),
    scaled=st.booleans(),
    drop=st.booleans(),
)
def test_groups_are_the_loop_in_value_and_gradient(
    tokens: int, k: int, gated: bool, bias: bool, scaled: bool, drop: bool
) -> None:
    experts = experts_of(gated=gated, bias=bias, activation=F.silu)
    x, index, scale = inputs(tokens, k)
    if drop:
        index[::3, 0] = -1
    x.requires_grad_()
    factors = scale if scaled else None
    torch.testing.assert_close(experts(x, index, factors), experts.reference(x, index, factors), rtol=1e-12, atol=1e-13)
    if bool((index >= 0).any()):
        ours = gradients(lambda x: experts(x, index, factors), x, experts)
        theirs = gradients(lambda x: experts.reference(x, index, factors), x, experts)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("gated", [False, True])
def test_gradients_are_those_of_finite_differences(gated: bool) -> None:
    experts = experts_of(gated=gated)
    x, index, scale = inputs(5, 2)
    index[0, 1] = -1

    def call(x: torch.Tensor, scale: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in experts.named_parameters()]
        return torch.func.functional_call(experts, dict(zip(names, weights, strict=True)), (x, index, scale))

    weights = [p.detach().requires_grad_() for p in experts.parameters()]
    assert torch.autograd.gradcheck(call, (x.requires_grad_(), scale.requires_grad_(), *weights))


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("tokens", [301, 20])
def test_single_precision_is_double_precision_rounded(
    onednn: bool, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With oneDNN's products and with torch's own."""
    if onednn and not _grouped._ONEDNN:
        pytest.skip("this torch has no oneDNN operator")
    monkeypatch.setattr(_grouped, "_ONEDNN", onednn)
    monkeypatch.setattr(_grouped, "_FEWEST_PRODUCTS", 0)
    exact = experts_of(gated=True)
    single = copy.deepcopy(exact).float()
    x, index, scale = inputs(tokens, 2)
    rounded = x.float().requires_grad_()
    x.requires_grad_()
    torch.testing.assert_close(
        single(rounded, index, scale).double(), exact.reference(x, index, scale), rtol=1e-5, atol=1e-6
    )
    ours = gradients(lambda x: single(x, index, scale), rounded, single)
    theirs = gradients(lambda x: exact.reference(x, index, scale), x, exact)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


def test_onednn_takes_rows_and_weights_of_any_stride() -> None:
    x, weight = torch.randn(40, 24, generator=made())[::2, ::2], torch.randn(12, 7, generator=made(1)).t()
    if not _grouped._ONEDNN:
        pytest.skip("this torch has no oneDNN operator")
    expected = F.linear(x.double(), weight.double()).float()
    torch.testing.assert_close(_grouped._product(x, weight), expected)


@pytest.mark.parametrize("gated", [False, True])
def test_the_grouped_product_of_torch_is_the_same(gated: bool) -> None:
    """What runs on CUDA; here on the CPU, where torch has it for single precision too."""
    experts = Experts(N, 16, 32, gated=gated, generator=made())
    x = torch.randn(50, 16, generator=made(1)).requires_grad_()
    index = torch.randint(N - 1, (50, 1), generator=made(2))
    sizes = torch.bincount(index.flatten(), minlength=N).tolist()
    order = index.flatten().argsort(stable=True)

    def found(x: torch.Tensor) -> torch.Tensor:
        (rows,) = _grouped._grouped_product(x, order, sizes, experts.stacked)
        return torch.zeros_like(x).index_add(0, order, rows)

    torch.testing.assert_close(found(x), experts.reference(x, index))
    torch.testing.assert_close(
        gradients(found, x, experts), gradients(lambda x: experts.reference(x, index), x, experts), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_expert_without_tokens_has_a_gradient_of_zero(dtype: torch.dtype) -> None:
    experts = experts_of(dtype)
    x, _, _ = inputs(12, 1)
    index = torch.tensor([[0], [2]] * 6)
    experts(x.to(dtype), index).square().sum().backward()
    for name, parameter in experts.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert not parameter.grad[[1, 3]].any() and parameter.grad[[0, 2]].any(), name


def test_no_token_at_all_and_all_dropped_give_zeros_that_can_be_trained_through() -> None:
    experts = experts_of()
    for x, index in ((torch.zeros(0, D), torch.zeros(0, 1)), (torch.ones(3, D), torch.full((3, 2), -1))):
        output = experts(x.double(), index.long())
        assert output.shape == x.shape and not output.any()
        output.sum().backward()
        assert not any(p.grad.any() for p in (experts.up, experts.down) if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_and_is_near(dtype: torch.dtype) -> None:
    exact = experts_of(gated=True)
    low = copy.deepcopy(exact).to(dtype)
    x, index, scale = inputs(30, 2)
    output = low(x.to(dtype), index, scale)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact(x, index, scale), rtol=0.05, atol=0.05)


def test_mixtral_gives_the_same_numbers() -> None:
    """transformers' block with its own weights, router and all."""
    config = MixtralConfig(hidden_size=16, intermediate_size=24, num_local_experts=N, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    block = MixtralSparseMoeBlock(config).eval()
    for number, parameter in enumerate(block.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=made(number))
    weights = _grouped.Stacked(block.experts.gate_up_proj, block.experts.down_proj, None, None, F.silu, True)
    layer = MoE(Experts.from_stacked(weights), TopKRouter(16, N, k=2, renormalise=True))
    layer.router.weight.data.copy_(block.gate.weight)
    x = torch.randn(3, 7, 16, generator=made(9))
    torch.testing.assert_close(layer(x), block(x))


@pytest.mark.parametrize(
    "network",
    [
        lambda: nn.Sequential(nn.Linear(D, INNER), nn.GELU(), nn.Dropout(0.0), nn.Linear(INNER, D)),
        lambda: nn.Sequential(nn.Linear(D, INNER, bias=False), nn.ReLU(), nn.Linear(INNER, D)),
        lambda: FeedForward(nn.Linear(D, INNER), nn.Linear(INNER, D), F.relu, nn.Linear(D, INNER)),
        lambda: LlamaMLP(LlamaConfig(hidden_size=D, intermediate_size=INNER, num_attention_heads=1)),
    ],
    ids=["sequential", "one bias", "gated", "llama"],
)
def test_modules_become_experts_and_come_back(network: Any) -> None:
    modules = [network() for _ in range(3)]
    experts = Experts.from_modules(modules)
    x = torch.randn(9, D, generator=made())
    index = torch.arange(9)[:, None] % 3
    expected = torch.stack([modules[row % 3](x[row]) for row in range(9)])
    torch.testing.assert_close(experts(x, index), expected)
    back = experts.to_modules()
    torch.testing.assert_close(torch.stack([back[row % 3](x[row]) for row in range(9)]), expected)


def test_the_feed_forward_part_of_an_encoder_layer_is_found() -> None:
    layer = nn.TransformerEncoderLayer(D, 2, INNER, dropout=0.0, activation="gelu").eval()
    x = torch.randn(4, D, generator=made())
    torch.testing.assert_close(feed_forward(layer)(x), layer._ff_block(x))


def test_what_is_no_feed_forward_network_is_refused() -> None:
    with pytest.raises(ParameterError, match="Conv1d"):
        feed_forward(nn.Conv1d(1, 1, 1))
    with pytest.raises(ParameterError, match="at least one"):
        Experts.from_modules([])
    wide, narrow = (nn.Sequential(nn.Linear(D, n), nn.ReLU(), nn.Linear(n, D)) for n in (4, 5))
    with pytest.raises(ParameterError, match="one shape"):
        Experts.from_modules([wide, narrow])
    other = nn.Sequential(nn.Linear(D, 4), nn.GELU(), nn.Linear(4, D))
    with pytest.raises(ParameterError, match="activation"):
        Experts.from_modules([wide, other])


@pytest.mark.parametrize("gated", [False, True])
def test_all_neurons_shared_out_add_up_to_the_whole(gated: bool) -> None:
    """The halves of a network's neurons, as two experts that every token visits, give its output and one bias more."""
    gate = nn.Linear(D, 8) if gated else None
    network = FeedForward(nn.Linear(D, 8), nn.Linear(8, D), F.silu, gate)
    neurons = torch.randperm(8, generator=made()).view(2, 4)
    experts = Experts.from_neurons(network, neurons)
    x = torch.randn(5, D, generator=made(1))
    both = experts(x, torch.tensor([[0, 1]] * 5))
    torch.testing.assert_close(both, network(x) + network.down.bias)
    again = experts.narrowed(torch.arange(4).repeat(2, 1))
    torch.testing.assert_close(again(x, torch.tensor([[0, 1]] * 5)), both)
    with pytest.raises(ParameterError, match="0 to 7"):
        Experts.from_neurons(network, neurons + 1)
    with pytest.raises(ParameterError, match=r"\(2, kept\)"):
        experts.narrowed(torch.zeros(3, 1, dtype=torch.int64))


def test_the_balance_loss_is_one_where_even_and_n_where_all_go_to_one() -> None:
    uniform = torch.full((8, N), 1 / N)
    index = torch.tensor([[0], [1]] * 4)
    assert balance_loss(uniform, index).item() == pytest.approx(1)
    sure = F.one_hot(torch.zeros(8, dtype=torch.int64), N).float()
    assert balance_loss(sure, torch.zeros(8, 1, dtype=torch.int64)).item() == pytest.approx(N)
    probabilities = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    expected = 2 * (0.5 * 2 / 3 + 0.5 / 3)
    assert balance_loss(probabilities, probabilities.argmax(1, keepdim=True)).item() == pytest.approx(expected)


def test_descending_the_balance_loss_evens_the_load() -> None:
    router = TopKRouter(D, N, balance=1.0, generator=made())
    x = torch.randn(400, D, generator=made(1)) + 2.0  # tokens with a mean favour one expert
    before = Load(torch.bincount(router(x).index.flatten(), minlength=N)).balance
    optimiser = torch.optim.Adam(router.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        router(x).loss.backward()
        optimiser.step()
    assert Load(torch.bincount(router(x).index.flatten(), minlength=N)).balance > 2 * before


def test_the_gate_of_one_expert_scales_by_its_probability_and_learns() -> None:
    router = TopKRouter(D, N, generator=made())
    x, _, _ = inputs(5, 1)
    routing = router(x.float())
    probabilities = F.linear(x.float(), router.weight).softmax(-1)
    torch.testing.assert_close(routing.scale, probabilities.amax(-1, keepdim=True))
    routing.scale.sum().backward()
    assert router.weight.grad.any()
    assert routing.loss is None


def test_the_z_loss_is_the_square_of_the_log_denominator() -> None:
    router = TopKRouter(D, N, z=0.5)
    assert router(torch.ones(3, D)).loss.item() == pytest.approx(0.5 * np.log(N) ** 2)


@pytest.mark.parametrize("frequencies", [np.arange(30.0), 1 / np.arange(1, 31) ** 2, np.zeros(30)])
def test_a_balanced_table_is_as_even_as_its_most_frequent_token_allows(frequencies: np.ndarray) -> None:
    table = balanced_table(frequencies, N, np.random.default_rng(0)).numpy()
    load = np.bincount(table, weights=frequencies, minlength=N)
    tokens = np.bincount(table, minlength=N)
    if frequencies.any():
        assert load.max() - load.min() <= frequencies.max() + 1e-12
    else:
        assert tokens.max() - tokens.min() <= 1
    assert balanced_table(frequencies, N, np.random.default_rng(0)).equal(torch.from_numpy(table))


def test_a_random_table_is_uniform_and_depends_on_its_generator() -> None:
    table = random_table(4000, N, np.random.default_rng(0))
    counts = torch.bincount(table, minlength=N)
    assert (counts - 1000).abs().max() < 5 * np.sqrt(4000 * 0.25 * 0.75)
    assert not table.equal(random_table(4000, N, np.random.default_rng(1)))


def test_hash_routing_is_saved_with_the_weights() -> None:
    layer = MoE(experts_of(torch.float32), HashRouter(random_table(50, N, np.random.default_rng(0))))
    other = MoE(experts_of(torch.float32), HashRouter(random_table(50, N, np.random.default_rng(1))))
    x, ids = torch.randn(2, 9, D, generator=made()), torch.randint(50, (2, 9), generator=made())
    assert not torch.equal(layer(x, ids), other(x, ids))
    other.load_state_dict(load(save(layer.state_dict())))
    assert torch.equal(layer(x, ids), other(x, ids))
    assert torch.equal(layer.routing.index[:, 0], layer.router.table[ids.flatten()])


def test_hash_routing_asks_for_ids_that_fit() -> None:
    source = TokenIds()
    layer = MoE(experts_of(torch.float32), HashRouter(torch.tensor([0, 1, 2]), source=source))
    x = torch.zeros(2, 3, D)
    with pytest.raises(ParameterError, match="token_ids is needed"):
        layer(x)
    for ids in (torch.full((2, 3), 3), torch.full((2, 3), -1), torch.zeros(3, 2, dtype=torch.int64)):
        with pytest.raises(ParameterError, match="token_ids must"):
            layer(x, ids)
    source.ids = torch.tensor([[0, 1, 2], [2, 1, 0]])
    assert layer(x).shape == x.shape
    assert layer.load.tokens.tolist() == [2, 2, 2, 0]
    copied = copy.deepcopy(layer)
    copied.router.source.ids = source.ids
    assert copied(x).shape == x.shape and copied.router.source is not source
    with pytest.raises(ParameterError, match="table"):
        HashRouter(torch.tensor([-1, 0]))


@pytest.mark.parametrize(("per", "different"), [("token", 20), ("sequence", 4), ("pass", 1)])
def test_random_routing_draws_as_often_as_it_says(per: Any, different: int) -> None:
    router = RandomRouter(1000, per=per, generator=made())
    index = router(torch.zeros(4, 5, D)).index
    assert index.shape == (20, 1)
    assert len(index.unique()) == different
    if per == "sequence":
        assert all(len(rows.unique()) == 1 for rows in index.view(4, 5))
    assert not torch.equal(index, router(torch.zeros(4, 5, D)).index)


def test_random_routing_uses_its_own_generator_and_copies_go_on_alone() -> None:
    before = torch.get_rng_state()
    router = RandomRouter(N, k=2, generator=made())
    copied = copy.deepcopy(router)
    x = torch.zeros(4000, D)
    first = router(x)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.index, copied(x).index)
    assert (first.index[:, 0] != first.index[:, 1]).all()
    assert (torch.bincount(first.index.flatten()) - 2000).abs().max() < 5 * np.sqrt(4000 * 0.25)
    assert (first.scale == 0.5).all()


@given(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=1, max_size=12), st.integers(1, 5))
def test_no_expert_takes_more_than_its_capacity(choices: list[list[int]], capacity: int) -> None:
    """Against a count by hand: all first choices in the order of tokens, then the second ones."""
    index = torch.tensor(choices)
    expected = torch.full_like(index, -1)
    taken = [0, 0, 0]
    for choice in range(2):
        for token in range(len(index)):
            expert = int(index[token, choice])
            if taken[expert] < capacity:
                expected[token, choice] = expert
            taken[expert] += 1
    assert torch.equal(limited(index, 3, capacity), expected)


def test_dropped_tokens_pass_by_and_are_counted() -> None:
    table = HashRouter(torch.tensor([0, 1, 2, 3]))
    layer = MoE(experts_of(torch.float32), table, capacity_factor=1.0)
    ids = torch.tensor([0, 0, 0, 0, 0, 1, 2, 3])
    x = torch.randn(8, D, generator=made())
    output = layer(x, ids)
    assert not output[2:5].any() and output[[0, 1, 5, 6, 7]].any(1).all()
    assert layer.load.tokens.tolist() == [2, 1, 1, 1] and layer.load.dropped == 3
    assert layer.load.share_dropped == pytest.approx(3 / 8)
    assert layer.load.balance == pytest.approx(1.25 / 2)
    assert layer.load.plus(layer.load).dropped == 6
    output.sum().backward()


def test_loads_and_losses_of_a_whole_model_are_collected() -> None:
    router = TopKRouter(D, N, balance=0.1, generator=made())
    model = nn.Sequential(MoE(experts_of(torch.float32), router), nn.ReLU(), MoE(experts_of(torch.float32), router))
    assert auxiliary_loss(model).item() == 0
    model(torch.randn(7, D, generator=made()))
    assert [name for name, _ in layers(model)] == ["0", "2"]
    assert all(int(load.tokens.sum()) == 7 for load in loads(model).values())
    loss = auxiliary_loss(model)
    assert loss.item() == pytest.approx(sum(layer.routing.loss.item() for _, layer in layers(model)))
    loss.backward()
    assert router.weight.grad is not None


def test_a_layer_can_be_copied_after_a_pass_with_a_graph() -> None:
    layer = MoE(experts_of(torch.float32), TopKRouter(D, N, balance=1.0, generator=made()))
    x = torch.randn(4, 3, D, generator=made())
    output = layer(x)
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(x), output)
    with pytest.raises(ParameterError, match="has not been called"):
        _ = copy.deepcopy(layer).load


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Experts(0, D, INNER), "experts"),
        (lambda: Experts(N, D, 1.5), "inner"),
        (lambda: TopKRouter(D, N, k=N + 1), "k must"),
        (lambda: RandomRouter(N, per="batch", generator=made()), "per"),
        (lambda: MoE(experts_of(), nn.Identity(), capacity_factor=0.0), "capacity_factor"),
        (lambda: balanced_table([1.0, -1.0], N, np.random.default_rng(0)), "frequencies"),
        (lambda: MoE(experts_of(), TopKRouter(D, N))(torch.zeros(2, D + 1)), "x must have shape"),
    ],
)
def test_bad_arguments_are_named(make: Any, named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        make()


LAYER_PAPER = '''
"""The engine's layer as a paper. Reference: arXiv:2001.00001."""

from typing import Annotated

import torch
from annotated_types import Interval
from porism import Paper, always
from porism.testbeds import torch_generator
from porism_plugins.moe._engine import Experts, HashRouter, MoE, RandomRouter, TopKRouter, random_table

PAPER = Paper(
    key="engine_layer", title="A layer", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("layer",), family="moe", needs=("torch",), method="MoE",
)
MoE.rows_are_independent = ROUTER != "random"


def example_layer(rng):
    generator = torch_generator(rng)
    router = {
        "gate": lambda: TopKRouter(16, 4, k=2, balance=0.1, generator=generator),
        "hash": lambda: HashRouter(random_table(10, 4, rng)),
        "random": lambda: RandomRouter(4, generator=generator),
    }[ROUTER]()
    return MoE(Experts(4, 16, 8, generator=generator), router)


def example_inputs(rng, *, batch):
    x = torch.from_numpy(rng.normal(size=(batch, 3, 16))).float()
    return {"x": x, "token_ids": torch.from_numpy(rng.integers(10, size=(batch, 3)))}


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
'''


@pytest.mark.parametrize("router", ["gate", "hash", "random"])
def test_the_layer_keeps_what_networks_rely_on(router: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check of kind ``layer``, with each router."""
    monkeypatch.setattr(MoE, "rows_are_independent", False, raising=False)
    paper = tmp_path / "engine_layer.py"
    paper.write_text(LAYER_PAPER.replace("ROUTER", repr(router)).lstrip())
    checks = [check for check in checks_for(str(paper)) if check.name.startswith("check_layer")]
    assert len(checks) > 12
    for check in checks:
        with contextlib.suppress(unittest.SkipTest):
            check(str(paper))
