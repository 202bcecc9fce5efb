"""TempNet against brentq, dense formulas and finite differences, without dense copies, and the ways users break it."""

from __future__ import annotations

import copy
import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import nn
from torch.nn import functional as F

from porism.errors import ParameterError
from porism.seeds import generator
from porism.testing import strategies
from porism_plugins.tune import _tempnet_experiments as measure
from porism_plugins.tune import _tempnet_temperature as exact
from porism_plugins.tune import tempnet as paper
from porism_plugins.tune.tempnet import (
    ContrastiveTempNetLoss,
    FeatureTempNet,
    LogitTempNet,
    TempNetLogitsProcessor,
    TempNetLoss,
    optimal_temperature,
    train_tempnet,
)

LABELS = torch.tensor([0, 2, 1, 4])


def logits(*shape: int, spread: float = 2.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=spread, size=shape))


def tempnet(classes: int = 5, seed: int = 0, **options) -> LogitTempNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LogitTempNet(classes, **{"hidden": 6, **options}).double().eval()


def used(z: np.ndarray, tau: float) -> float:
    """KL(softmax(z / tau) || uniform), by numpy."""
    q = np.exp(z / tau - (z / tau).max())
    q /= q.sum()
    return float(np.sum(q * np.log(np.maximum(q, 1e-300) * len(z))))


def naive_tau(net: LogitTempNet, z: torch.Tensor) -> torch.Tensor:
    """The card's step 2, on one dense tensor."""
    unit = F.normalize(z.detach() - z.detach().amax(-1, keepdim=True), dim=-1)
    h = net.mix(net.project(unit).sigmoid())
    w = (h / net.log_sharpness.exp()).softmax(-1)
    q = ((w - 1 / h.shape[-1]) * h) @ net.weight + net.bias
    return (net.tau_max - net.tau_min) * q.sigmoid() + net.tau_min


@pytest.mark.parametrize("rho", [0.05, 0.5, 1.2, 1.6])
def test_exact_temperature_agrees_with_brentq(rho):
    z = logits(20, 5)
    found = optimal_temperature(z, rho, tau_min=1e-4, tau_max=1e4)
    expected = [brentq(lambda tau, row=row: used(row, tau) - rho, 1e-4, 1e4, xtol=1e-13) for row in z.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@given(strategies.logits(rows=(1, 6), classes=(1, 7), magnitude=1e3), st.floats(1e-3, 3))
def test_exact_temperature_is_the_best_of_a_grid(drawn, rho):
    z = torch.from_numpy(drawn).double()
    tau = optimal_temperature(z, rho, tau_min=0.1, tau_max=3.0)
    assert ((tau >= 0.1) & (tau <= 3.0)).all()

    def value(tau):
        scaled = z / tau[:, None]
        return tau * (scaled.logsumexp(-1) - math.log(z.shape[-1]) + rho)

    for other in np.geomspace(0.1, 3.0, 40):
        assert (value(tau) <= value(torch.full_like(tau, other)) + 1e-9 * (1 + z.abs().amax(-1))).all()


def test_exact_temperature_stops_at_its_bounds_and_leaves_masked_classes_out():
    z = torch.tensor([[0.0, 1e-3], [0.0, 1e3], [5.0, 5.0]])
    assert optimal_temperature(z, 0.3).tolist() == [0.01, 2.0, 0.01]
    padded = F.pad(logits(3, 4), (0, 2), value=-math.inf)
    torch.testing.assert_close(optimal_temperature(padded, 0.7), optimal_temperature(padded[:, :4], 0.7))
    assert optimal_temperature(torch.tensor([[1.0, -math.inf]]), 0.3) == 0.01
    assert optimal_temperature(logits(2, 3, 4), 0.7).shape == (2, 3)


def test_chunks_of_rows_change_nothing(monkeypatch):
    z, y, net = logits(7, 5).requires_grad_(), torch.arange(7) % 5, tempnet()
    whole = TempNetLoss(net, rho=0.8)(z, y)
    gradients = torch.autograd.grad(whole, [z, *net.parameters()])
    expected = optimal_temperature(z, 0.8)
    monkeypatch.setattr(exact, "CHUNK", 10)
    parts = TempNetLoss(net, rho=0.8)(z, y)
    torch.testing.assert_close(parts, whole)
    for a, b in zip(torch.autograd.grad(parts, [z, *net.parameters()]), gradients, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(optimal_temperature(z, 0.8), expected)


@pytest.mark.parametrize("ignored", [False, True])
def test_network_and_loss_agree_with_dense_formulas(ignored):
    z, net, y = logits(4, 5).requires_grad_(), tempnet(), LABELS.clone()
    if ignored:
        y[1] = -100
    tau = naive_tau(net, z)
    torch.testing.assert_close(net(z), tau)
    dense = tau * F.cross_entropy(z / tau[:, None], y, reduction="none") + tau * (0.8 - math.log(5)) * (y >= 0)
    dense = dense.sum() / (y >= 0).sum()
    loss = TempNetLoss(net, rho=0.8)(z, y)
    torch.testing.assert_close(loss, dense)
    weights = list(net.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, [z, *weights]), torch.autograd.grad(dense, [z, *weights]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("temperature", [None, 0.7])
def test_gradient_of_solved_and_fixed_temperatures(temperature):
    loss = TempNetLoss(temperature, rho=0.8)
    assert torch.autograd.gradcheck(lambda z: loss(z, LABELS), logits(4, 5).requires_grad_())


def test_networks_gradient_is_zero_where_it_says_the_exact_temperature():
    z, rho = logits(1, 5), 0.8
    best = float(optimal_temperature(z, rho))
    net = tempnet(tau_min=best / 2, tau_max=3 * best / 2)  # sigmoid(0) is in the middle
    with torch.no_grad():
        net.weight.zero_()
    TempNetLoss(net, rho=rho)(z, LABELS[:1]).backward()
    assert abs(float(net.bias.grad)) < 1e-12
    for bias, sign in ((-1.0, -1), (1.0, 1)):  # too cold: the gradient warms it up, and the other way round
        with torch.no_grad():
            net.bias.fill_(bias)
        net.zero_grad()
        TempNetLoss(net, rho=rho)(z, LABELS[:1]).backward()
        assert sign * float(net.bias.grad) > 1e-3


def test_exact_temperatures_are_the_least_loss_of_all():
    z = logits(4, 5)
    least = TempNetLoss(rho=0.8)(z, LABELS)
    assert all(least <= TempNetLoss(tau, rho=0.8)(z, LABELS) for tau in (0.2, 0.7, 1.0, 2.0))
    assert least <= TempNetLoss(tempnet(), rho=0.8)(z, LABELS)
    gaps = (z - z.gather(-1, LABELS[:, None])).double()
    assert gaps.mean() < least < gaps.amax(-1).mean()  # uniform and the largest are the extremes of the ball


def test_labels_do_not_enter_the_temperature():
    z, net = logits(4, 5), tempnet()
    gradients = []
    for y in (LABELS, (LABELS + 1) % 5):
        net.zero_grad()
        TempNetLoss(net, rho=0.8)(z, y).backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_ignored_and_masked_rows_may_hold_anything():
    z, y = logits(4, 5).requires_grad_(), LABELS.clone()
    broken = z.detach().clone()
    broken[1] = math.nan
    broken.requires_grad_()
    y[1] = -100
    mask = torch.tensor([1, 0, 1, 1])
    for source in (None, 0.7, tempnet(), nn.Sequential(nn.Linear(5, 1).double(), nn.Softplus(), nn.Flatten(0))):
        loss = TempNetLoss(source, rho=0.8)
        keep = [0, 2, 3]
        expected = loss(z[keep], LABELS[keep])
        for found in (loss(broken, y), loss(broken, LABELS, mask=mask)):
            torch.testing.assert_close(found, expected)
        gradient = torch.autograd.grad(loss(broken, y), broken)[0]
        assert gradient.isfinite().all() and not gradient[1].any()
    each = TempNetLoss(0.7, rho=0.8, reduction="none")(broken, y)
    assert each.shape == (4,) and each[1] == 0
    torch.testing.assert_close(each.sum(), TempNetLoss(0.7, rho=0.8, reduction="sum")(broken, y))


def test_all_labels_ignored_give_zero_and_a_zero_gradient():
    for shape in ((4, 5), (2, 3, 5)):
        z = logits(*shape).requires_grad_()
        for reduction in ("mean", "sum"):
            loss = TempNetLoss(tempnet(), reduction=reduction)(z, torch.full(shape[:-1], -100))
            assert loss == 0
            assert not torch.autograd.grad(loss, z)[0].any()
    assert TempNetLoss()(z, torch.full((2, 3), -100)).isfinite()
    assert torch.equal(TempNetLoss(reduction="none")(z, torch.full((2, 3), -100)), torch.zeros(2, 3).double())
    assert TempNetLoss()(logits(0, 5), torch.zeros(0, dtype=torch.long)) == 0


def test_next_token_is_the_shifted_loss():
    z, labels, net = logits(2, 4, 5), torch.tensor([[0, 1, 2, 3], [4, 3, -100, 1]]), tempnet()
    loss = TempNetLoss(net, rho=0.8)
    expected = loss(z[:, :-1], labels[:, 1:])
    torch.testing.assert_close(loss.next_token(z, labels), expected)
    torch.testing.assert_close(loss.next_token(z, labels, 10), expected * 5 / 10)


def test_a_class_at_minus_infinity_does_not_exist():
    z = logits(4, 5)
    padded = F.pad(z, (0, 3), value=-math.inf).requires_grad_()
    for temperature in (None, 0.7):
        loss = TempNetLoss(temperature, rho=0.8)
        torch.testing.assert_close(loss(padded, LABELS), loss(z, LABELS))
        assert torch.autograd.grad(loss(padded, LABELS), padded)[0].isfinite().all()
    assert tempnet(8)(padded).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    z, net = logits(4, 5, spread=20.0).to(dtype).requires_grad_(), tempnet().float()
    loss = TempNetLoss(net, rho=0.8)(z, LABELS)
    loss.backward()
    assert loss.dtype == torch.float32 and z.grad.dtype == dtype and z.grad.isfinite().all()
    torch.testing.assert_close(loss, TempNetLoss(net, rho=0.8)(z.detach().float(), LABELS))
    half = copy.deepcopy(net).to(dtype)
    torch.testing.assert_close(half(z), net(z), rtol=0.05, atol=0)
    assert (half.tau_min, half.tau_max) == (0.01, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(TempNetLoss(net, rho=0.8)(z, LABELS), loss)


def test_no_second_tensor_of_the_size_of_the_logits_is_kept():
    z = torch.randn(64, 50_000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    net = tempnet(50_000).float()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = TempNetLoss(net)(z, torch.arange(64))
    weights = {p.untyped_storage().data_ptr() for p in [z, *net.parameters()]}
    assert sum(size for place, size in kept.items() if place not in weights) < z.nbytes / 100
    loss.backward()
    assert z.grad.any()


@pytest.mark.parametrize("options", [{}, {"scale": True}, {"tau_min": 0.3, "tau_max": 0.3}])
def test_state_dict_restores_weights_and_bounds(options):
    z, saved = logits(4, 5), tempnet(seed=1, **options)
    with torch.no_grad():
        for weight in saved.parameters():
            weight.add_(0.1)
    buffer = io.BytesIO()
    torch.save(saved.state_dict(), buffer)
    buffer.seek(0)
    restored = tempnet(scale=options.get("scale", False))
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(restored(z), saved(z))
    assert torch.equal(copy.deepcopy(saved)(z), saved(z))
    if options.get("tau_min"):
        assert torch.equal(restored(z), torch.full((4,), 0.3, dtype=torch.float64))


def test_only_the_network_with_a_norm_tells_scales_apart():
    z = logits(4, 5)
    torch.testing.assert_close(tempnet()(3 * z), tempnet()(z))
    net = tempnet(scale=True)
    with torch.no_grad():
        net.scale.fill_(1.0)
    assert (net(3 * z) > net(z)).all()


def test_dropout_is_off_where_it_is_used():
    net = tempnet().train()
    z = logits(4, 5)
    assert not torch.equal(net(z), net(z))
    processor = TempNetLogitsProcessor(net)
    assert torch.equal(processor(None, z), processor(None, z))


def test_features_network_agrees_with_the_card():
    with torch.random.fork_rng(devices=[]):
        net = FeatureTempNet(6, prototypes=7).double().eval()
    x = logits(4, 6)
    p = net.project(x).sigmoid() @ (net.prototypes / net.prototypes.norm(dim=-1, keepdim=True)).T
    q = ((p / 0.01).softmax(-1) - 1 / 7) * p.sigmoid()
    torch.testing.assert_close(net(x), 0.045 * q.sum(-1).sigmoid() + 0.005, atol=1e-8, rtol=1e-6)
    loss = TempNetLoss(net, rho=0.8)
    expected = TempNetLoss(_Given(net(x)), rho=0.8)(logits(4, 5), LABELS)
    torch.testing.assert_close(loss(logits(4, 5), LABELS, inputs=x), expected)


class _Given(nn.Module):
    def __init__(self, tau):
        super().__init__()
        self.tau = tau

    def forward(self, inputs):
        return self.tau


def test_contrastive_loss_is_the_robust_loss_of_both_directions():
    s = logits(6, 6, spread=0.3).requires_grad_()
    tau = torch.linspace(0.2, 0.7, 6, dtype=torch.float64).requires_grad_()
    loss = ContrastiveTempNetLoss(_Given(tau), 0.4, rho=0.9)(s, torch.zeros(6, 1))
    sides, off = [], ~torch.eye(6, dtype=torch.bool)
    for matrix, t in ((s, tau), (s.T, torch.full((6,), 0.4))):
        h = (matrix - matrix.diagonal()[:, None]).masked_fill(~off, -1e9)
        sides.append((t * ((h / t[:, None]).logsumexp(-1) - math.log(5) + 0.9)).mean())
    dense = sum(sides) / 2
    torch.testing.assert_close(loss, dense)
    for ours, theirs in zip(torch.autograd.grad(loss, (s, tau)), torch.autograd.grad(dense, (s, tau)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_contrastive_temperatures_that_are_solved_for():
    s = logits(6, 6, spread=0.3)
    solved = ContrastiveTempNetLoss(rho=0.9, tau_min=0.01, tau_max=2.0)
    assert all(solved(s) <= ContrastiveTempNetLoss(tau, tau, rho=0.9)(s) for tau in (0.1, 0.3, 1.0))
    assert torch.autograd.gradcheck(solved, s.requires_grad_())


def test_contrastive_averages_follow_the_paper_step_by_step():
    loss, gamma, tau = ContrastiveTempNetLoss(0.3, 0.3, rho=0.9, samples=9, momentum=0.4), 0.4, 0.3
    sums, indices = {}, torch.tensor([1, 4, 8, 0])
    for step in range(3):
        s = logits(4, 4, spread=0.3, seed=step)
        loss(s, indices=indices)
        for i, place in enumerate(indices.tolist()):
            g = sum(math.exp((s[i, j] - s[i, i]) / tau) for j in range(4) if j != i)
            sums[place] = g if place not in sums else (1 - gamma) * sums[place] + gamma * g
    for place, value in sums.items():
        assert float(loss.log_sums[0, place].exp()) == pytest.approx(value, rel=1e-5)
    assert loss.log_sums[:, [2, 3, 5, 6, 7]].isnan().all()
    again = ContrastiveTempNetLoss(0.3, 0.3, rho=0.9, samples=9, momentum=0.4)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(loss(s, indices=indices), again(s, indices=indices))
    assert torch.equal(loss.eval()(s), ContrastiveTempNetLoss(0.3, 0.3, rho=0.9)(s))


def test_contrastive_averages_neither_underflow_nor_overflow():
    loss = ContrastiveTempNetLoss(0.005, 0.005, samples=4)
    s = torch.eye(4).requires_grad_()
    loss(-s, indices=torch.arange(4))  # exp(200), and then exp(-200) for a long time
    for _ in range(300):
        value = loss(s, indices=torch.arange(4))
    assert value.isfinite() and torch.autograd.grad(value, s)[0].isfinite().all()


def test_contrastive_masks_and_permutations():
    s, same = logits(6, 6, spread=0.3), torch.arange(6) % 3
    loss = ContrastiveTempNetLoss(0.3, 0.3, rho=0.9)
    negatives = same[:, None] != same
    far = s.masked_fill(~negatives & ~torch.eye(6, dtype=torch.bool), -1e9)
    rescaled = loss(far) + 0.3 * math.log(5 / 4)  # as many negatives less in the mean
    torch.testing.assert_close(loss(s, negatives=negatives), rescaled)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss(s[order][:, order]), loss(s))
    assert loss(s.requires_grad_(), negatives=torch.zeros(6, 6, dtype=torch.bool)) == 0
    assert loss(s.detach().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("z", "y", "options", "message"),
    [
        (torch.zeros(4, 5), torch.zeros(3, dtype=torch.long), {}, r"targets must be classes of shape \(4,\)"),
        (torch.zeros(4, 5), torch.zeros(4), {}, "targets must be classes"),
        (torch.zeros(4, 5), torch.tensor([0, 1, 2, 5]), {}, r"targets must be in 0\.\.4"),
        (torch.zeros(4, 5), torch.tensor([0, 1, 2, -1]), {}, r"targets must be in 0\.\.4"),
        (torch.zeros(4, 5, dtype=torch.long), LABELS, {}, "logits must be a floating"),
        (torch.zeros(4, 0), LABELS, {}, "V >= 1"),
        (torch.full((4, 5), math.nan), LABELS, {}, "NaN"),
        (torch.full((4, 5), math.nan), LABELS, {"temperature": 1.0}, "NaN"),
        (torch.full((4, 5), math.inf), LABELS, {"temperature": 1.0}, "inf"),
        (torch.full((4, 5), math.nan), LABELS, {"temperature": tempnet().float()}, "NaN"),
        (torch.zeros(4, 6), LABELS, {"temperature": tempnet().float()}, "5 classes"),
        (torch.zeros(4, 5), LABELS, {"temperature": nn.Flatten(0)}, r"shape \(4,\), one number a row"),
        (torch.zeros(4, 5), LABELS, {"temperature": _Given(torch.tensor([1.0, 0.0, 1.0, 1.0]))}, "positive"),
        (torch.zeros(4, 5), LABELS, {"temperature": _Given(torch.tensor([1.0, -2.0, 1.0, 1.0]))}, "positive"),
        (torch.zeros(4, 5), LABELS, {"rho": 8.5}, r"rho must be at most log\(5\) = 1\.609"),
    ],
)
def test_bad_inputs_are_named(z, y, options, message):
    with pytest.raises(ParameterError, match=message):
        TempNetLoss(**options)(z, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TempNetLoss(0.0), "temperature must be positive"),
        (lambda: TempNetLoss(math.nan), "temperature must be positive"),
        (lambda: TempNetLoss(rho=-1.0), "rho must be positive"),
        (lambda: TempNetLoss(tau_min=2.0, tau_max=1.0), "tau_min"),
        (lambda: TempNetLoss(reduction="max"), "reduction"),
        (lambda: LogitTempNet(5, tau_min=0.0), "tau_min"),
        (lambda: LogitTempNet(0), "classes"),
        (lambda: LogitTempNet(5, dropout=1.0), "dropout"),
        (lambda: FeatureTempNet(5, prototypes=0), "prototypes"),
        (lambda: ContrastiveTempNetLoss(-0.1), "rows must be positive"),
        (lambda: ContrastiveTempNetLoss(momentum=0.0), "momentum"),
        (lambda: ContrastiveTempNetLoss(samples=1), "samples"),
        (lambda: ContrastiveTempNetLoss()(torch.zeros(1, 1)), r"B >= 2, got \(1, 1\)"),
        (lambda: ContrastiveTempNetLoss()(torch.zeros(2, 3)), "similarity must have shape"),
        (lambda: ContrastiveTempNetLoss()(torch.full((2, 2), math.nan)), "similarity must be finite"),
        (lambda: ContrastiveTempNetLoss(samples=5)(torch.eye(2)), "indices must be integers"),
        (lambda: ContrastiveTempNetLoss(samples=5)(torch.eye(2), indices=torch.tensor([0, 5])), r"in 0\.\.4"),
        (lambda: ContrastiveTempNetLoss(FeatureTempNet(3))(torch.eye(2)), "row_features must be given"),
        (lambda: ContrastiveTempNetLoss(1.0, 1.0)(torch.eye(2), negatives=torch.ones(2)), "negatives must have"),
        (lambda: optimal_temperature(torch.full((1, 2), -math.inf), 0.5), "finite number in every row"),
        (lambda: optimal_temperature(torch.zeros(1, 2), 0.0), "rho"),
        (lambda: FeatureTempNet(3)(torch.zeros(2, 4)), "width 3"),
        (lambda: TempNetLogitsProcessor(tempnet())(None, torch.zeros(1, 7)), "5 classes"),
        (lambda: train_tempnet(nn.Identity(), tempnet(), [torch.zeros(2, 5)], steps=2), "batches end after 1 of 2"),
        (lambda: train_tempnet(nn.Identity(), tempnet(), [], learning_rate=0.0), "learning_rate"),
        (lambda: TempNetLoss()(torch.zeros(4, 5), LABELS, mask=torch.ones(3)), "mask must have the shape"),
        (lambda: TempNetLoss()(torch.zeros(4, 5), LABELS, inputs=torch.ones(3, 2)), "one row for each target"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


def test_a_frozen_language_model_generates_with_its_temperature_network():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, net = transformers.LlamaForCausalLM(config).train(), LogitTempNet(20, hidden=8)
        before = copy.deepcopy(model.state_dict())
        batch = {"input_ids": torch.arange(12).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
        batch["attention_mask"][1, 4:] = 0
        losses = train_tempnet(model, net, itertools.repeat(batch), steps=60, learning_rate=3e-2)
        assert losses[-5:].mean() < losses[:5].mean()
        assert model.training and not net.training
        assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
        options = {"max_new_tokens": 5, "logits_processor": [TempNetLogitsProcessor(net)]}
        prompt = torch.arange(3)[None]
        greedy = model.eval().generate(prompt, do_sample=False, **options)
        assert torch.equal(greedy, model.generate(prompt, do_sample=False, max_new_tokens=5))
        scores = model.generate(prompt, do_sample=False, output_scores=True, output_logits=True,
                                return_dict_in_generate=True, **options)  # fmt: skip
        for scored, raw in zip(scores.scores, scores.logits, strict=True):
            torch.testing.assert_close(scored, raw / net(raw)[:, None])
        assert model.generate(prompt.repeat(2, 1), do_sample=True, **options).shape == (2, 8)


def test_training_leaves_the_global_generator_alone_and_gives_the_same_bits():
    before, z = torch.get_rng_state(), logits(50, 5).float()
    runs = [measure.said(measure.fitted(generator("t"), "published", z, 0.8, steps=5), z) for _ in range(2)]
    assert torch.equal(*runs)
    assert torch.equal(before, torch.get_rng_state())


def test_constant_network_learns_the_one_temperature_that_is_best_on_average():
    z, rho = logits(200, 5).float(), 0.8
    net = measure.fitted(generator("t"), "constant", z, rho, steps=600, batch=200)
    taus = np.linspace(0.1, 4, 400)
    best = min(taus, key=lambda tau: float(TempNetLoss(float(tau), rho=rho)(z, torch.zeros(200, dtype=torch.long))))
    assert float(measure.said(net, z)[0]) == pytest.approx(best, abs=0.15)


def test_claims_on_one_replicate():
    for claim in (paper.within_bounds, paper.convex_in_temperature, paper.dual_equals_primal, paper.gradients,
                  paper.proportional_temperature, paper.cross_entropy_is_a_case):  # fmt: skip
        assert claim(generator("t", claim.name)) > 0, claim.name
        if claim is not paper.convex_in_temperature:  # whose control fails at some points only
            assert claim(generator("t", claim.name), **claim.arm("control")) < 0, claim.name
    assert min(paper.convex_in_temperature(generator("t", n), scaled=False) for n in range(20)) < 0
