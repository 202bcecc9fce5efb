"""COSMOS against its equations one by one, torch's AdamW and Muon, and the ways in which users break optimisers."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from porism.errors import ParameterError
from porism_plugins.optim import _baselines as baselines
from porism_plugins.optim import _cosmos_experiments as measure
from porism_plugins.optim import _engine as engine
from porism_plugins.optim.cosmos import COSMOS, matrix_and_other_parameters


def gradients(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def model(seed: int = 0) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Embedding(20, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 20)
    )
    with torch.no_grad():
        for number, parameter in enumerate(layers.parameters()):
            parameter.copy_(0.3 * gradients(*parameter.shape, seed=seed + number))
    return layers


def train(net: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int, seed: int = 0) -> None:
    codes = torch.from_numpy(np.random.default_rng(seed).integers(20, size=(steps, 2, 16)))
    for x, y in codes:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x).float(), y).backward()
        optimizer.step()


def reference(
    found: np.ndarray, *, rank, variant="paper", lr=1e-2, betas=(0.9, 0.95), gamma=0.2, ratio=0.1, eps=1e-8, decay=0.0
):
    """The paper's steps one by one in numpy, with all second moments as full matrices, from W = 1."""
    beta1, beta2 = betas
    m, n = found.shape[1:]
    w, momentum, second = np.ones((m, n)), np.zeros((m, n)), 0.0
    a, b, c = 3.4445, -4.7750, 2.0315
    for t, g in enumerate(found, 1):
        square = g.T @ g
        if variant == "paper":
            momentum = beta1 * momentum + (1 - beta1) * g
            ahead, correction = momentum, 1 - beta1**t
        else:
            momentum = beta1 * momentum + g
            ahead, correction = (g + beta1 * momentum) / (1 + beta1 * (1 - beta1**t) / (1 - beta1)), 1.0
        if t == 1:
            u = np.linalg.eigh(square)[1][:, ::-1][:, :rank]
            s = (1 - beta2) * u.T @ square @ u
        else:
            before = beta2 * u @ s @ u.T + (1 - beta2) * square
            q, r = np.linalg.qr(before @ u)
            u = q * np.sign(np.diag(r))
            s = u.T @ before @ u
        second = beta2 * second + (1 - beta2) * (g @ u) ** 2
        leading = (ahead @ u / correction) / (np.sqrt(second / (1 - beta2**t)) + eps) @ u.T
        rest = ahead - ahead @ u @ u.T
        x = rest / np.linalg.norm(rest)
        for _ in range(5):
            y = x @ x.T
            x = a * x + (b * y + c * y @ y) @ x
        total = leading + gamma * math.sqrt(m * n) * x / np.linalg.norm(x)
        size = ratio * lr
        w = (1 - (size if variant == "paper" else lr) * decay) * w - size * math.sqrt(m * n) * total / np.linalg.norm(
            total
        )
    return w


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_equals_the_paper_step_by_step(shape, variant, decay):
    found = gradients(6, *shape)
    weights = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    optimizer = COSMOS([weights], lr=1e-2, rank=3, variant=variant, weight_decay=decay)
    for gradient in found:
        weights.grad = gradient
        optimizer.step()
    expected = reference(found.numpy(), rank=3, variant=variant, decay=decay)
    np.testing.assert_allclose(weights.detach().numpy(), expected, atol=1e-12)


def test_at_full_rank_it_is_one_sided_soap_with_steps_of_fixed_size():
    found = gradients(1, 7, 5)
    step = measure.follow(COSMOS, found, rank=5, lr=1e-2).weights[-1]
    soap = measure.follow(baselines.SOAP, found, sides="right", lr=1e-2).weights[-1]
    torch.testing.assert_close(step / step.norm(), soap / soap.norm())


def test_at_rank_zero_it_is_the_orthogonalised_momentum():
    found = gradients(3, 7, 5)
    path = measure.follow(COSMOS, found, rank=0, lr=1e-2)
    step, expected = path.weights[-1] - path.weights[-2], -engine.newton_schulz(path.state["momentum"])
    torch.testing.assert_close(step / step.norm(), expected / expected.norm())


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"maximize": True}, {"betas": (0.5, 0.6), "eps": 1e-3}])
@pytest.mark.parametrize("foreach", [None, True, False])
def test_what_is_no_matrix_steps_as_torch_does(options, foreach):
    ours, theirs = ([nn.Parameter(gradients(*shape)) for shape in ((3,), (2, 3, 4), (), (1, 5))] for _ in range(2))
    optimizers = (
        COSMOS(ours, foreach=foreach, **options),
        torch.optim.AdamW(theirs, **{"betas": (0.9, 0.95), "weight_decay": 0.0} | options),
    )
    for step in range(4):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            for number, parameter in enumerate(parameters):
                parameter.grad = gradients(*parameter.shape, seed=step + 10 * number)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
def test_newton_schulz_is_that_of_torch(shape):
    theirs = pytest.importorskip("torch.optim._muon")._zeropower_via_newtonschulz
    x = gradients(*shape, dtype=torch.float32)
    expected = theirs(x, engine.NEWTON_SCHULZ, 5, 1e-7)
    torch.testing.assert_close(engine.newton_schulz(x, dtype=torch.bfloat16).bfloat16(), expected, atol=0.02, rtol=0.05)
    values = torch.linalg.svdvals(engine.newton_schulz(x, dtype=torch.float32))
    assert values.min() > 0.65 and values.max() < 1.25


def test_our_muon_is_that_of_torch_up_to_its_rounding():
    muon = pytest.importorskip("torch.optim._muon").Muon
    ours, theirs = nn.Parameter(torch.zeros(32, 24)), nn.Parameter(torch.zeros(32, 24))
    optimizers = (
        baselines.Muon([ours], lr=0.1),
        muon([theirs], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    )
    for gradient in gradients(4, 32, 24, dtype=torch.float32):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient
            optimizer.step()
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("size", [512, 700])
@pytest.mark.parametrize("add", [False, True])
def test_half_of_a_symmetric_product_is_all_of_it(size, add):
    x = gradients(size, 40)
    extra = x @ x.mT if add else None
    whole = torch.full((size, size), math.nan, dtype=x.dtype)
    scales = {"add": extra, "beta": 0.5, "alpha": 2.0} if add else {}
    engine.symmetric_product(x, x.mT, out=whole, **scales)
    torch.testing.assert_close(whole, (2.0 if add else 1.0) * x @ x.mT + (0.5 * extra if add else 0))


@given(rows=st.integers(2, 12), columns=st.integers(2, 12), rank=st.integers(1, 12))
def test_the_first_basis_is_the_leading_eigenspace(rows, columns, rank):
    x, rank = gradients(rows, columns, seed=rows), min(rank, rows, columns)
    basis = engine.leading_right_vectors(x, rank)
    expected = torch.linalg.svd(x)[2][:rank].mT
    torch.testing.assert_close(basis @ basis.mT, expected @ expected.mT, atol=1e-7, rtol=0)


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_of_one_shape_step_alike_together_and_alone(variant, dtype):
    start = [gradients(9, 6, seed=s, dtype=dtype) for s in range(4)]
    ends = []
    for foreach in (True, False, None):
        parameters = [nn.Parameter(x.clone()) for x in start]
        optimizer = COSMOS(parameters, lr=0.1, rank=3, variant=variant, foreach=foreach)
        for step in range(4):
            for number, parameter in enumerate(parameters[: 4 - (step == 2)]):  # one is left behind by a step
                parameter.grad = gradients(9, 6, seed=50 + step + 10 * number, dtype=dtype)
            parameters[-1].grad = None if step == 2 else parameters[-1].grad
            optimizer.step()
        ends.append(torch.stack([p.detach() for p in parameters]))
    for other in ends[1:]:
        torch.testing.assert_close(other, ends[0], atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", [COSMOS, baselines.SOAP, baselines.Muon, baselines.AdamW])
def test_goes_on_bit_for_bit_after_a_restart(dtype, make):
    first = model().to(dtype)
    optimizer = make(matrix_and_other_parameters(first), lr=0.02)
    train(first, optimizer, steps=3)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = model(seed=5).to(dtype)
    second.load_state_dict(saved["model"])
    restored = make(matrix_and_other_parameters(second), lr=0.7)
    restored.load_state_dict(saved["optimizer"])
    for net, found in ((first, optimizer), (second, restored)):
        train(net, found, steps=3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_loaded_state_is_a_copy_in_float32():
    net = model().bfloat16()
    optimizer = COSMOS(matrix_and_other_parameters(net), lr=0.02)
    train(net, optimizer, steps=1)
    other = COSMOS(matrix_and_other_parameters(net))
    other.load_state_dict(optimizer.state_dict())
    for parameter in net.parameters():
        for name, value in other.state[parameter].items():
            assert value.dtype == torch.float32
            assert name == "step" or value.data_ptr() != optimizer.state[parameter][name].data_ptr()


def test_bfloat16_weights_are_stepped_in_float32_and_rounded_once():
    start, found = gradients(16, 12).bfloat16(), gradients(3, 16, 12).bfloat16()
    low, high = nn.Parameter(start.clone()), nn.Parameter(start.float())
    optimizers = COSMOS([low], lr=0.5, weight_decay=0.1), COSMOS([high], lr=0.5, weight_decay=0.1)
    for gradient in found[:1]:
        for parameter, optimizer in zip((low, high), optimizers, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    assert torch.equal(low, high.bfloat16())


def test_the_split_follows_the_modules():
    net = model()
    groups = matrix_and_other_parameters(net)
    assert [group["matrix"] for group in groups] == [True, False]
    assert {id(p) for p in groups[0]["params"]} == {id(net[1].weight), id(net[3].weight)}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


def test_the_split_of_transformers_keeps_tied_and_untied_heads_apart():
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 30,
    }
    for tied in (False, True):
        llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=tied))
        matrices, others = matrix_and_other_parameters(llama)
        assert len(matrices["params"]) == 7
        assert id(llama.lm_head.weight) in {id(p) for p in others["params"]}
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30))
    assert len(matrix_and_other_parameters(gpt)[0]["params"]) == 4  # Conv1D too


def test_frozen_parameters_and_named_exceptions_are_left_out_of_the_matrices():
    net = model()
    net[1].weight.requires_grad_(False)
    (others,) = matrix_and_other_parameters(net, other=["3.*"])
    assert others["matrix"] is False
    with pytest.raises(ParameterError, match=r"other: .*'7\.\*'"):
        matrix_and_other_parameters(net, other=["7.*"])
    with pytest.raises(ParameterError, match="no parameter that requires a gradient"):
        matrix_and_other_parameters(net.requires_grad_(False))


def test_by_shape_long_and_thin_parameters_are_no_matrices():
    shapes = {
        (4, 5): True,
        (10_000, 2): True,
        (10_001, 2): False,
        (1, 5): False,
        (5, 1): False,
        (3, 3, 3): False,
        (7,): False,
    }
    for shape, matrix in shapes.items():
        weights = nn.Parameter(torch.zeros(shape))
        weights.grad = torch.ones(shape)
        optimizer = COSMOS([weights], rank=1)
        optimizer.step()
        assert ("basis" in optimizer.state[weights]) is matrix, shape


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_the_state_is_smaller_than_the_others_as_the_paper_counts(shape):
    (m, n), r = shape, 4
    counts = {}
    for name, make in {
        "cosmos": COSMOS,
        "soap": baselines.SOAP,
        "muon": baselines.Muon,
        "adamw": baselines.AdamW,
    }.items():
        weights = nn.Parameter(torch.zeros(shape))
        weights.grad = torch.ones(shape)
        optimizer = make([weights], **({"rank": r} if name == "cosmos" else {}))
        optimizer.step()
        counts[name] = engine.counted(optimizer)
    assert counts == {
        "cosmos": (m + r) * (n + r),
        "soap": 2 * m * n + 2 * m * m + 2 * n * n,
        "muon": m * n,
        "adamw": 2 * m * n,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_zero_gradients_neither_move_nor_spoil_anything(dtype):
    weights = nn.Parameter(gradients(6, 4, dtype=dtype))
    start, optimizer = weights.detach().clone(), COSMOS([weights], lr=0.1, rank=2)
    for _ in range(3):
        weights.grad = torch.zeros_like(weights)
        optimizer.step()
    assert torch.equal(weights, start)
    for seed in range(3):
        weights.grad = gradients(6, 4, seed=seed, dtype=dtype)
        optimizer.step()
    assert weights.isfinite().all() and not torch.equal(weights, start)


def test_gradients_of_low_rank_leave_no_rest_that_is_rounding_error():
    found = gradients(4, 9, 1, dtype=torch.float32) @ gradients(1, 6, dtype=torch.float32)
    path = measure.follow(COSMOS, found, rank=2)
    basis = torch.linalg.svd(found[0])[2][:1].mT
    steps = path.weights.diff(dim=0)
    assert (steps - steps @ basis @ basis.mT).norm() < 1e-3 * steps.norm()


def test_gradients_are_not_written_to():
    for variant in ("paper", "code"):
        weights = nn.Parameter(torch.zeros(6, 4))
        weights.grad = gradients(6, 4, dtype=torch.float32)
        before = weights.grad.clone()
        optimizer = COSMOS([weights], variant=variant, maximize=variant == "code")
        optimizer.step()
        optimizer.step()
        assert torch.equal(weights.grad, before)


def test_climbing_is_descending_with_gradients_turned_round():
    found = gradients(3, 6, 4)
    up = measure.follow(COSMOS, found, rank=2, maximize=True).weights
    torch.testing.assert_close(up, measure.follow(COSMOS, -found, rank=2).weights)


def test_an_interrupted_basis_update_would_be_seen():
    """The state's U and S move at every step; the older released file computes them and throws them away."""
    states = [measure.follow(COSMOS, gradients(t, 6, 5), rank=2).state for t in (1, 2, 3)]
    for name in ("basis", "spectrum"):
        assert not torch.equal(states[0][name], states[1][name])
        assert not torch.equal(states[1][name], states[2][name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be"),
        ({"lr": float("nan")}, "lr must be"),
        ({"lr": "fast"}, "lr must be"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be"),
        ({"betas": (-0.1, 0.9)}, r"betas\[0\] must be"),
        ({"betas": 0.9}, "betas must be two numbers"),
        ({"betas": (0.9, 0.95, 0.95)}, "betas must be two numbers"),
        ({"rank": -1}, "rank must be"),
        ({"rank": 2.5}, "rank must be"),
        ({"gamma": -0.1}, "gamma must be"),
        ({"matrix_lr_ratio": -1.0}, "matrix_lr_ratio must be"),
        ({"eps": -1e-8}, "eps must be"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"variant": "newer"}, "variant must be"),
    ],
)
def test_options_out_of_range_are_refused_by_name_also_in_a_group(options, message):
    weights = nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(ParameterError, match=message):
        COSMOS([weights], **options)
    optimizer = COSMOS([nn.Parameter(torch.zeros(2))])
    with pytest.raises(ParameterError, match=message):
        optimizer.add_param_group({"params": [weights], **options})
    assert len(optimizer.param_groups) == 1


def test_parameters_and_gradients_that_it_cannot_step_on_are_refused():
    with pytest.raises(ParameterError, match="must be real"):
        COSMOS([nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64))])
    with pytest.raises(ParameterError, match="2 axes"):
        COSMOS([{"params": [nn.Parameter(torch.zeros(3))], "matrix": True}])
    with pytest.raises(ValueError, match="empty parameter list"):
        COSMOS([])
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ParameterError, match="sparse"):
        COSMOS(embedding.parameters()).step()
    weights = nn.Parameter(torch.zeros(3, 3))
    weights.grad = torch.full((3, 3), math.nan)
    with pytest.raises(ParameterError, match="first gradient of a matrix of shape \\(3, 3\\) is not finite"):
        COSMOS([weights]).step()


def test_a_learning_rate_may_be_a_tensor_and_names_may_be_given():
    ends = []
    for lr in (0.01, torch.tensor(0.01, dtype=torch.float64)):
        net = model()
        optimizer = COSMOS(net.named_parameters(), lr=lr)
        train(net, optimizer, steps=2)
        ends.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert optimizer.param_groups[0]["param_names"][0] == "0.weight"
    torch.testing.assert_close(*ends)


def test_a_copied_optimizer_goes_on_alike():
    net = model()
    optimizer = COSMOS(matrix_and_other_parameters(net), lr=0.02)
    train(net, optimizer, steps=2)
    twin, other = copy.deepcopy((net, optimizer))
    train(net, optimizer, steps=2, seed=3)
    train(twin, other, steps=2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_accelerate_and_a_scheduler_take_it_as_it_is():
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    net = model()
    optimizer = COSMOS(matrix_and_other_parameters(net), lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.02, 0.01], total_steps=3, cycle_momentum=False)
    prepared, wrapped, schedule = accelerator.prepare(net, optimizer, schedule)
    before = [p.detach().clone() for p in prepared.parameters()]
    codes = torch.arange(20)
    for _ in range(2):
        accelerator.backward(nn.functional.cross_entropy(prepared(codes), codes.flip(0)))
        wrapped.step()
        schedule.step()
        wrapped.zero_grad()
    assert all(not torch.equal(a, b) for a, b in zip(before, prepared.parameters(), strict=True))
    assert optimizer.param_groups[0]["lr"] != 0.02


def test_it_trains():
    net = model()
    optimizer = COSMOS(matrix_and_other_parameters(net), lr=0.03, rank=4)
    codes = torch.arange(20)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(codes), codes.flip(0))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
