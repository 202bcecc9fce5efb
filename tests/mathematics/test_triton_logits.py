"""The Triton kernel: against float64 in Triton's interpreter, and compiled for a real device without one.

The interpreter must be chosen before Triton is first imported, which another test may have done; so the tests
that need it run in a Python process of their own, started by the one test at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
in_interpreter = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter, in its own process")

FORMS = {
    "kl": {}, "reverse_kl": {}, "jeffreys": {}, "js": {}, "generalised_js": {"weight": 0.3}, "skew_kl": {"skew": 0.2},
    "tv": {}, "squared_hellinger": {}, "pearson_chi2": {}, "neyman_chi2": {}, "triangular": {},
}  # fmt: skip
ALPHAS = [-1.0, 0.0, 0.01, 0.3, 0.99, 1.0, 2.0]
CASES = [*FORMS.items(), *(("alpha", {"alpha": alpha}) for alpha in ALPHAS)]
cases = pytest.mark.parametrize(("name", "parameters"), CASES, ids=lambda value: str(value))


def swept(generator, p_logits, q_logits, needs=(True, True), scale=1.0, overwrite=False):
    from porism.kernels.triton_logits import sweep_rows

    values = torch.empty(len(p_logits), 1)
    targets = [
        (x if overwrite else torch.full_like(x, float("nan"))) if need else None
        for x, need in zip((p_logits, q_logits), needs, strict=True)
    ]
    sweep_rows(generator, scale, p_logits, q_logits, values, *targets)
    return values.squeeze(-1), *targets


def reference(generator, p_logits, q_logits, scale=1.0):
    """Float64, by autograd through the generator's terms."""
    from porism.divergences.evaluate import divergence_log_space

    p, q = (x.double().requires_grad_() for x in (p_logits, q_logits))
    values = divergence_log_space(generator, p * scale, q * scale)
    values.sum().backward()
    return values.detach(), p.grad, q.grad


def close(got, wanted, tolerance=1e-6):
    scale = wanted.abs().max().clip(min=1e-3)
    assert float(((got.double() - wanted) / scale).abs().max()) < tolerance


@in_interpreter
@cases
def test_values_and_gradients_equal_float64(name, parameters):
    from porism.divergences.generators import generator

    rng = torch.Generator().manual_seed(0)
    f = generator(name, **parameters)
    for rows, size in [(3, 7), (2, 64), (1, 1)]:
        p, q = (torch.randn(rows, size, generator=rng) for _ in range(2))
        for got, wanted in zip(swept(f, p, q), reference(f, p, q), strict=True):
            close(got, wanted, 2e-5 if "skew" in parameters else 4e-6)  # a small difference of logarithms


@in_interpreter
def test_rows_longer_than_a_block(monkeypatch):
    from porism.divergences.generators import generator
    from porism.kernels import triton_logits

    monkeypatch.setattr(triton_logits, "LARGEST_BLOCK", 32)
    rng = torch.Generator().manual_seed(1)
    p, q = (3 * torch.randn(3, 101, generator=rng) for _ in range(2))
    p[0, :64] = -float("inf")  # whole blocks are masked
    for f in (generator("js"), generator("tv")):
        for got, wanted in zip(swept(f, p, q, scale=0.5), reference(f, p, q, scale=0.5), strict=True):
            close(got, wanted)


@in_interpreter
def test_large_logits_and_masked_entries():
    from porism.divergences.generators import generator

    masked = -float("inf")
    p = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1.0, masked], [0.0, masked, 1.0], [0.0, 1.0, 2.0]])
    q = torch.tensor([[9.999e3, 0.0, -1e4], [1.0, 0.0, masked], [1.0, 0.0, 2.0], [masked, 1.0, 2.0]])
    for name in ("kl", "reverse_kl", "js", "tv"):
        values, to_p, to_q = swept(generator(name), p, q)
        wanted = reference(generator(name), p, q)
        infinite = torch.isinf(wanted[0])
        assert torch.equal(torch.isinf(values), infinite)
        close(values[~infinite], wanted[0][~infinite])
        for got, exact in ((to_p, wanted[1]), (to_q, wanted[2])):
            close(got[~infinite], exact[~infinite])
            assert (got[infinite] == 0).all()


@in_interpreter
def test_nan_and_rows_without_a_distribution_give_nan():
    from porism.divergences.generators import generator

    p = torch.tensor([[float("nan"), 0.0], [-float("inf")] * 2, [float("inf"), 0.0], [0.0, 0.0]])
    values = swept(generator("js"), p, torch.zeros(4, 2))[0]
    assert torch.isnan(values).tolist() == [True, True, True, False]


@in_interpreter
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_strides_and_gradients_over_the_logits(dtype):
    from porism.divergences.generators import generator

    rng = torch.Generator().manual_seed(2)
    p, q = (torch.randn(33, 8, generator=rng).to(dtype).T[::2] for _ in range(2))
    f = generator("kl")
    wanted = reference(f, p, q)
    values, none, to_q = swept(f, p, q, needs=(False, True))
    assert none is None
    close(values, wanted[0], 1e-5)
    close(to_q, wanted[2], 1e-2)
    over = q.clone()
    assert torch.equal(swept(f, p, over, needs=(False, True), overwrite=True)[2], to_q)
    assert torch.equal(over, to_q)


@in_interpreter
def test_no_rows():
    from porism.divergences.generators import generator

    assert swept(generator("kl"), torch.zeros(0, 5), torch.zeros(0, 5))[0].shape == (0,)


def test_generators_of_ones_own_have_no_device_form():
    sympy = pytest.importorskip("sympy")
    from porism.divergences.generators import Generator, generator
    from porism.kernels.triton_logits import device_form

    assert device_form(Generator.from_sympy(lambda t: t * sympy.log(t), name="kl")) is None
    assert all(device_form(generator(name, **parameters)) is not None for name, parameters in CASES)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter replaces the compiler")
@pytest.mark.parametrize("name", ["kl", "alpha", "skew_kl"])
def test_kernel_compiles_for_a_gpu(name, tmp_path, monkeypatch):
    """Triton's compiler and its assembler need no device."""
    import triton
    from triton.backends.compiler import GPUTarget

    from porism.divergences.generators import generator
    from porism.kernels.triton_logits import device_form, sweep_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kind = generator(name, **dict(CASES).get(name, {}))
    names = sweep_kernel.arg_names
    constants = {"FORM": device_form(kind), "NEED_P": False, "NEED_Q": True, "BLOCK": 1024}
    signature = dict.fromkeys(constants, "constexpr")
    for key in names:
        if key not in constants:
            pointer = key in ("p_logits", "q_logits", "p_gradient", "q_gradient")
            number = key in ("scale", "parameter", "at_zero", "at_infinity")
            signature[key] = "*bf16" if pointer else "*fp32" if key == "values" else "fp32" if number else "i32"
    source = triton.compiler.ASTSource(sweep_kernel, {key: signature[key] for key in names}, constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="this is it")
def test_in_the_interpreter():
    """Run the tests above that are marked for it."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
