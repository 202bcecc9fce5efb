"""Divergences on logits: the chunked core, fused heads, and parts of the vocabulary, against float64 autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from porism.divergences.evaluate import divergence_log_space  # noqa: E402
from porism.divergences.generators import Generator, generator  # noqa: E402
from porism.errors import ParameterError  # noqa: E402
from porism.kernels import sweep as sweep_module  # noqa: E402
from porism.kernels.fused_linear import fused_linear_divergence  # noqa: E402
from porism.kernels.logits import divergence_logits  # noqa: E402
from porism.kernels.vocabulary import sampled_divergence_logits, top_k_divergence_logits  # noqa: E402
from porism.testing import strategies  # noqa: E402

PLAIN = ["kl", "reverse_kl", "jeffreys", "js", "tv", "squared_hellinger", "pearson_chi2", "neyman_chi2", "triangular"]
ALL = [generator(name) for name in PLAIN]
ALL += [generator("alpha", alpha=alpha) for alpha in (-1.0, 0.0, 1e-9, 0.3, 0.99, 1.0, 1.5)]
ALL += [
    generator("generalised_js", weight=0.1),
    generator("skew_kl", skew=0.2),
    generator("skew_kl", skew=0.2).swapped(),
]
FEW = [generator("kl"), generator("js"), generator("tv"), generator("alpha", alpha=0.3)]
generators = pytest.mark.parametrize("f", ALL, ids=lambda f: f"{f.name}{dict(f.parameters)}")
few = pytest.mark.parametrize("f", FEW, ids=lambda f: f.name)
MASKED = -math.inf


def normal(*shape, seed=0, dtype=torch.float64, scale=2.0):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def with_gradients(function, *inputs, upstream=None):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    values = function(*inputs)
    values.backward(torch.ones_like(values) if upstream is None else upstream.to(values.dtype))
    return values.detach(), *(x.grad for x in inputs)


def agree(got, wanted, tolerance):
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        scale = b.abs().max().clip(min=1e-3) if b.numel() else 1
        assert bool(((a.double() - b).abs() <= tolerance * scale).all())


@generators
def test_equals_float64_autograd(f):
    p, q = normal(3, 5, 17), normal(3, 5, 17, seed=1)
    upstream = normal(3, 5, seed=2)
    wanted = with_gradients(lambda p, q: divergence_log_space(f, p, q), p, q, upstream=upstream)
    agree(with_gradients(lambda p, q: divergence_logits(f, p, q), p, q, upstream=upstream), wanted, 1e-12)


@generators
def test_gradcheck(f):
    p, q = normal(2, 4).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, q: divergence_logits(f, p, q, temperature=1.7), (p, q))


@few
def test_float32_on_a_vocabulary(f):
    p, q = (normal(4, 32000, seed=seed, dtype=torch.float32, scale=1) for seed in (0, 1))
    wanted = with_gradients(lambda p, q: divergence_log_space(f, p, q), p.double(), q.double())
    got = with_gradients(lambda p, q: divergence_logits(f, p, q), p, q)
    for a, b in zip(got, wanted, strict=True):
        assert float((a.double() - b).norm() / b.norm()) < 1e-6


def test_equals_torch_distributions():
    p, q = normal(6, 9), normal(6, 9, seed=1)
    peer = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    assert torch.allclose(divergence_logits(generator("kl"), p, q), peer, rtol=0, atol=1e-12)
    assert torch.allclose(divergence_logits(generator("reverse_kl"), q, p), peer, rtol=0, atol=1e-12)


@few
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(f, dtype):
    p, q = normal(6, 50, dtype=dtype), normal(6, 50, seed=1, dtype=dtype)
    values, to_p, to_q = with_gradients(lambda p, q: divergence_logits(f, p, q), p, q)
    wanted = with_gradients(lambda p, q: divergence_log_space(f, p, q), p.double(), q.double())
    assert values.dtype == torch.float32
    assert to_p.dtype == to_q.dtype == dtype
    agree([values], wanted[:1], 2e-6)
    agree([to_p, to_q], wanted[1:], 1e-2)


@few
def test_shapes_strides_and_chunks(f, monkeypatch):
    p, q = normal(4, 6, 11), normal(4, 6, 11, seed=1)
    whole = divergence_logits(f, p, q)
    monkeypatch.setattr(sweep_module, "CHUNK_BYTES", 200)  # two rows at a time
    assert torch.equal(divergence_logits(f, p, q), whole)
    for cut in (
        lambda x: x[:, :-1],
        lambda x: x.transpose(0, 1),
        lambda x: x[::2, 1::2],
        lambda x: x.mT,
        lambda x: x[0, 0],
    ):
        wanted = with_gradients(lambda p, q, cut=cut: divergence_log_space(f, cut(p), cut(q)), p, q)
        agree(with_gradients(lambda p, q, cut=cut: divergence_logits(f, cut(p), cut(q)), p, q), wanted, 1e-12)
    expanded = with_gradients(lambda p, q: divergence_logits(f, p, q), p[:1, :1], q)
    agree(expanded, with_gradients(lambda p, q: divergence_log_space(f, p, q), p[:1, :1], q), 1e-12)


def test_empty_batch_and_single_entry():
    f = generator("kl")
    values, to_p, _ = with_gradients(lambda p, q: divergence_logits(f, p, q), torch.zeros(0, 3), torch.zeros(0, 3))
    assert values.shape == (0,)
    assert to_p.shape == (0, 3)
    assert divergence_logits(f, torch.tensor([3.0]), torch.tensor([-2.0])) == 0


@few
def test_only_what_is_needed_and_twice_where_it_is_retained(f):
    p, q = normal(3, 8), normal(3, 8, seed=1).requires_grad_()
    loss = divergence_logits(f, p, q).sum() * 3
    loss.backward(retain_graph=True)
    first, q.grad = q.grad.clone(), None
    loss.backward()
    assert torch.equal(q.grad, first)
    assert p.grad is None
    with torch.no_grad():
        assert not divergence_logits(f, p, q).requires_grad
    with pytest.raises(RuntimeError):
        torch.autograd.grad(torch.autograd.grad(divergence_logits(f, p, q).sum(), q, create_graph=True)[0].sum(), q)


@generators
def test_masks_give_the_limits(f):
    p = torch.tensor([[0.0, 1.0, MASKED], [0.0, MASKED, 1.0], [0.0, 1.0, 2.0], [MASKED, 0.0, 0.0], [0.0, 3.0, 1.0]])
    q = torch.tensor([[1.0, 0.5, MASKED], [1.0, 0.0, 2.0], [MASKED, 1.0, 2.0], [0.0, MASKED, MASKED], [0.0, 1.0, 2.0]])
    values, to_p, to_q = with_gradients(lambda p, q: divergence_logits(f, p, q), p, q)
    a, b = torch.softmax(p.double(), -1), torch.softmax(q.double(), -1)
    agree([values.nan_to_num(posinf=99.0)], [f.divergence(a, b).nan_to_num(posinf=99.0)], 1e-5)
    infinite = torch.isinf(values)
    assert infinite.tolist()[1:4] == [math.isinf(f.at_zero), math.isinf(f.slope_at_infinity), math.isinf(f.bound)]
    exact = with_gradients(lambda p, q: divergence_log_space(f, p, q), p.double(), q.double())
    for got, wanted, logits in ((to_p, exact[1], p), (to_q, exact[2], q)):
        agree([got[~infinite]], [wanted[~infinite]], 1e-5)
        assert (got[infinite] == 0).all()
        assert (got[torch.isinf(logits)].abs() < 1e-5).all()


@generators
def test_large_logits(f):
    p, q = torch.tensor([[1e4, 0.0, -1e4], [1e4, 9999.0, 0.0]]), torch.tensor([[1e4, 0.0, -1e4], [9999.0, 1e4, 0.0]])
    values, to_p, to_q = with_gradients(lambda p, q: divergence_logits(f, p, q), p, q)
    assert abs(float(values[0])) < 1e-6
    assert torch.isfinite(to_p).all()
    assert torch.isfinite(to_q).all()
    if math.isfinite(float(values[1])):  # chi-squared overflows on no row: the third entries are alike
        assert torch.allclose(values[1].double(), divergence_logits(f, p[1, :2].double(), q[1, :2].double()), rtol=1e-5)


def test_user_generator():
    sympy = pytest.importorskip("sympy")
    mine = Generator.from_sympy(lambda t: (t - 1) ** 2 / (t + 1) / 2, name="half a triangle")
    p, q = normal(3, 8), normal(3, 8, seed=1)
    assert sympy is not None
    wanted = [x / 2 for x in with_gradients(lambda p, q: divergence_logits(generator("triangular"), p, q), p, q)]
    agree(with_gradients(lambda p, q: divergence_logits(mine, p, q), p, q), wanted, 1e-12)


@given(strategies.logits(rows=2, classes=(2, 5), magnitude=1e30), st.sampled_from(ALL))
def test_non_negative_shift_invariant_and_zero_sum_gradient(drawn, f):
    p, q = torch.from_numpy(drawn).split(1)
    values, to_p, to_q = with_gradients(lambda p, q: divergence_logits(f, p, q), p, q)
    assert float(values[0]) >= -1e-9
    if float(values[0]) < 1e6:
        for gradient in (to_p, to_q):
            assert abs(float(gradient.sum())) <= 1e-9 * max(1.0, float(gradient.abs().max()))


@given(strategies.torch_modules(outputs=(2, 5), dtype=torch.float64), st.sampled_from(ALL))
def test_gradients_in_the_weights_of_modules_equal_autograd(drawn: strategies.SmallModule, f):
    parameters = list(drawn.module.parameters())
    teacher = normal(len(drawn.inputs), drawn.module(drawn.inputs).shape[-1], seed=5)

    def gradients(divergence):
        loss = divergence(f, teacher, drawn.module(drawn.inputs)).sum()
        return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    agree(gradients(divergence_logits), gradients(divergence_log_space), 1e-9)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"p_logits": torch.tensor([[0.0, math.nan]])}, "p_logits must not contain NaN"),
        ({"q_logits": torch.tensor([[0.0, math.inf]])}, "q_logits must not contain NaN or inf"),
        ({"q_logits": torch.tensor([[MASKED, MASKED]])}, "q_logits has a row of -inf alone"),
        ({"q_logits": torch.zeros(1, 3)}, "q_logits"),
        ({"p_logits": torch.zeros(3, 2), "q_logits": torch.zeros(2, 2)}, "do not broadcast"),
        ({"p_logits": torch.tensor(0.0)}, "p_logits must have logits"),
        ({"p_logits": torch.zeros(1, 2, dtype=torch.int64)}, "p_logits must be"),
        ({"q_logits": np.zeros((1, 2))}, "q_logits must be"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_bad_logits(change, name):
    arguments = {"p_logits": torch.zeros(1, 2), "q_logits": torch.zeros(1, 2), **change}
    with pytest.raises(ParameterError, match=name):
        divergence_logits(generator("js"), arguments.pop("p_logits"), arguments.pop("q_logits"), **arguments)


# From hidden states


def heads(dtype=torch.float64):
    return [
        normal(3, 5, 8, dtype=dtype), normal(40, 8, seed=1, dtype=dtype, scale=1), normal(40, seed=2, dtype=dtype),
        normal(3, 5, 6, seed=3, dtype=dtype), normal(40, 6, seed=4, dtype=dtype, scale=1), normal(40, seed=5, dtype=dtype),
    ]  # fmt: skip


def fused(f, reduction, mask, **options):
    return lambda hs, ws, bs, ht, wt, bt: fused_linear_divergence(
        hs, ws, ht, wt, kind=f, bias_s=bs, bias_t=bt, reduction=reduction, mask=mask, chunk=4, **options
    )


def unfused(f, reduction, mask, temperature=1.0):
    def loss(hs, ws, bs, ht, wt, bt):
        values = divergence_log_space(f, (ht @ wt.T + bt) / temperature, (hs @ ws.T + bs) / temperature)
        values = values if mask is None else torch.where(mask, values, 0.0)
        count = values.numel() if mask is None else int(mask.sum())
        return values if reduction == "none" else values.sum() / (count if reduction == "mean" else 1)

    return loss


@few
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("masked", [False, True])
def test_fused_heads_equal_autograd(f, reduction, masked):
    mask = normal(3, 5, seed=9) > 0 if masked else None
    upstream = normal(3, 5, seed=8) if reduction == "none" else torch.tensor(-1.5)
    wanted = with_gradients(unfused(f, reduction, mask, 2.0), *heads(), upstream=upstream)
    agree(with_gradients(fused(f, reduction, mask, temperature=2.0), *heads(), upstream=upstream), wanted, 1e-11)
    agree(
        with_gradients(fused(f, reduction, mask, temperature=2.0), *heads(torch.float32), upstream=upstream),
        wanted,
        1e-5,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fused_heads_in_low_precision(dtype):
    f = generator("kl")
    got = with_gradients(fused(f, "mean", None), *heads(dtype))
    agree(got, with_gradients(unfused(f, "mean", None), *(x.double() for x in heads(dtype))), 0.05)
    assert {x.dtype for x in got[1:]} == {dtype}


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_fused_backward_twice_and_gradients_where_needed(reduction):
    hs, ws, _, ht, wt, _ = heads()
    ws.requires_grad_()
    loss = fused_linear_divergence(hs, ws, ht, wt, kind="js", reduction=reduction).sum()
    loss.backward(retain_graph=True)
    first, ws.grad = ws.grad.clone(), None
    loss.backward()
    assert torch.allclose(ws.grad, first, rtol=1e-14)
    assert wt.grad is None
    with torch.no_grad():
        assert not fused_linear_divergence(hs, ws, ht, wt).requires_grad


def test_fused_teacher_is_p_and_autocast_is_left_out():
    hs, ws, _, ht, wt, _ = heads(torch.float32)
    peer = torch.nn.functional.kl_div(
        torch.log_softmax(hs @ ws.T, -1).flatten(0, 1),
        torch.softmax(ht @ wt.T, -1).flatten(0, 1),
        reduction="batchmean",
    )
    assert torch.allclose(fused_linear_divergence(hs, ws, ht, wt), peer, rtol=1e-5)
    exact = fused_linear_divergence(hs, ws, ht, wt, kind="alpha", alpha=0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fused_linear_divergence(hs, ws, ht, wt, kind=generator("alpha", alpha=0.3)), exact)


def test_fused_without_tokens():
    hs, ws, _, ht, wt, _ = heads()
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    loss, to_hidden = with_gradients(lambda h: fused_linear_divergence(h, ws, ht, wt, mask=nothing), hs)
    assert float(loss) == 0
    assert (to_hidden == 0).all()
    assert fused_linear_divergence(hs[:0], ws, ht[:0], wt, reduction="none").shape == (0, 5)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"hidden_s": torch.zeros(3, 7)}, "hidden_s"),
        ({"hidden_t": torch.zeros(4, 6)}, "hidden_t"),
        ({"W_t": torch.zeros(41, 6)}, "W_t"),
        ({"W_s": torch.zeros(8)}, "W_s"),
        ({"bias_s": torch.zeros(3)}, "bias_s"),
        ({"mask": torch.zeros(3)}, "mask"),
        ({"reduction": "batchmean"}, "reduction"),
        ({"chunk": 0}, "chunk"),
        ({"kind": "kll"}, "kll"),
        ({"kind": "alpha"}, "alpha"),
        ({"kind": generator("alpha", alpha=2.0), "alpha": 3.0}, "alpha"),
        ({"hidden_s": torch.full((3, 8), math.nan)}, "hidden_s @ W_s.T"),
    ],
)
def test_bad_heads(change, name):
    arguments = {
        "hidden_s": torch.zeros(3, 8), "W_s": torch.zeros(40, 8), "hidden_t": torch.zeros(3, 6), "W_t": torch.zeros(40, 6),
    }  # fmt: skip
    with pytest.raises(ParameterError, match=name):
        fused_linear_divergence(**{**arguments, **change})


# Parts of the vocabulary


@given(st.integers(1, 12), st.integers(0, 99), st.sampled_from(ALL))
def test_top_k_is_a_lower_bound(k, seed, f):
    p, q = normal(3, 12, seed=seed), normal(3, 12, seed=seed + 100)
    full = divergence_logits(f, p, q)
    lumped = top_k_divergence_logits(f, p, q, k=k)
    truncated = top_k_divergence_logits(f, p, q, k=k, tail="truncated")
    slack = 1e-10 * (1 + full)
    assert bool((truncated <= lumped + slack).all())
    assert bool((lumped <= full + slack).all())
    if k == 12:
        assert torch.allclose(truncated, full, rtol=1e-10)
        assert torch.allclose(lumped, full, rtol=1e-10)


@few
@pytest.mark.parametrize("tail", ["lumped", "truncated"])
def test_top_k_gradients(f, tail):
    p, q = normal(2, 6).requires_grad_(), normal(2, 6, seed=1).requires_grad_()
    for k in (2, 6):
        assert torch.autograd.gradcheck(lambda p, q, k=k: top_k_divergence_logits(f, p, q, k=k, tail=tail), (p, q))
    masked = p.detach().clone()
    masked[:, 2:] = MASKED  # nothing is left for the bucket
    values, to_p, _ = with_gradients(
        lambda p, q: top_k_divergence_logits(generator("js"), p, q, k=3, tail=tail), masked, q
    )
    assert torch.isfinite(values).all()
    assert torch.isfinite(to_p).all()


@few
def test_sampled_vocabulary_is_unbiased(f):
    p, q = normal(3, 60), normal(3, 60, seed=1)
    rng = np.random.default_rng(0)
    repeats, shape = 3000, (3000, 3, 60)
    estimates, _, to_q = with_gradients(
        lambda p, q: sampled_divergence_logits(f, p, q, samples=4, rng=rng), p.expand(shape), q.expand(shape)
    )
    exact, _, gradient = with_gradients(lambda p, q: divergence_logits(f, p, q), p, q)
    assert (estimates >= -1e-12).all()
    for draws, wanted in ((estimates, exact), (to_q, gradient)):
        error = (draws.mean(0) - wanted).abs()
        assert bool((error <= 5 * draws.std(0) / math.sqrt(repeats) + 1e-12).all())


def test_sampled_vocabulary_repeats_and_skips_masked_entries():
    f = generator("js")
    p, q = normal(4, 9, dtype=torch.bfloat16), normal(4, 9, seed=1, dtype=torch.bfloat16)
    p[:, 3], q[:, 3] = MASKED, MASKED
    first, second = (sampled_divergence_logits(f, p, q, samples=50, rng=np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()


def test_bad_parts_of_the_vocabulary():
    f, logits = generator("kl"), torch.zeros(2, 3)
    for k in (0, 4):
        with pytest.raises(ParameterError, match="k must"):
            top_k_divergence_logits(f, logits, logits, k=k)
    with pytest.raises(ParameterError, match="tail"):
        top_k_divergence_logits(f, logits, logits, k=1, tail="cut")
    with pytest.raises(ParameterError, match="samples"):
        sampled_divergence_logits(f, logits, logits, samples=0, rng=np.random.default_rng(0))
    with pytest.raises(ParameterError, match="NaN"):
        sampled_divergence_logits(f, logits * math.nan, logits, samples=1, rng=np.random.default_rng(0))
