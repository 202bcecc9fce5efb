"""One symbolic generator, everything derived: the table of the reference, conjugates, limits, swaps, a user's own."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sympy
import torch

from porism.divergences import Generator, f_divergence, generator
from porism.divergences._facts import FACTS
from porism.errors import ParameterError

ROOT = Path(__file__).parents[2]
LOG2 = math.log(2)

# name, parameters, f, f', f*, f''(1), bound, symmetric: the reference's table, typed in by hand
TABLE = [
    ("kl", {}, lambda t: t * np.log(t) - t + 1, np.log, lambda u: np.exp(u) - 1, 1, math.inf, False),
    ("reverse_kl", {}, lambda t: t - 1 - np.log(t), lambda t: 1 - 1 / t, lambda u: -np.log(1 - u), 1, math.inf, False),
    ("jeffreys", {}, lambda t: (t - 1) * np.log(t), lambda t: np.log(t) + 1 - 1 / t, None, 2, math.inf, True),
    (
        "js",
        {},
        lambda t: (t * np.log(t) - (1 + t) * np.log((1 + t) / 2)) / 2,
        lambda t: np.log(2 * t / (1 + t)) / 2,
        lambda u: -np.log(2 - np.exp(2 * u)) / 2,
        0.25,
        LOG2,
        True,
    ),
    (
        "generalised_js",
        {"weight": 0.3},
        lambda t: 0.3 * t * np.log(t) - (0.3 * t + 0.7) * np.log(0.3 * t + 0.7),
        lambda t: 0.3 * np.log(t / (0.3 * t + 0.7)),
        lambda u: -0.7 * np.log((1 - 0.3 * np.exp(u / 0.3)) / 0.7),
        0.21,
        -0.3 * math.log(0.3) - 0.7 * math.log(0.7),
        False,
    ),
    (
        "skew_kl",
        {"skew": 0.4},
        lambda t: t * np.log(t / (0.6 * t + 0.4)) + 0.4 * (1 - t),
        lambda t: np.log(t / (0.6 * t + 0.4)) + 0.4 / (0.6 * t + 0.4) - 0.4,
        None,
        0.16,
        -math.log(0.6),
        False,
    ),
    (
        "tv",
        {},
        lambda t: abs(t - 1) / 2,
        lambda t: np.sign(t - 1) / 2,
        lambda u: np.maximum(u, -0.5),
        math.inf,
        1,
        True,
    ),
    (
        "squared_hellinger",
        {},
        lambda t: (np.sqrt(t) - 1) ** 2 / 2,
        lambda t: (1 - t**-0.5) / 2,
        lambda u: u / (1 - 2 * u),
        0.25,
        1,
        True,
    ),
    (
        "pearson_chi2",
        {},
        lambda t: (t - 1) ** 2,
        lambda t: 2 * (t - 1),
        lambda u: np.where(u >= -2, u + u**2 / 4, -1),
        2,
        math.inf,
        False,
    ),
    (
        "neyman_chi2",
        {},
        lambda t: (t - 1) ** 2 / t,
        lambda t: 1 - t**-2.0,
        lambda u: 2 - 2 * np.sqrt(1 - u),
        2,
        math.inf,
        False,
    ),
    (
        "triangular",
        {},
        lambda t: (t - 1) ** 2 / (t + 1),
        lambda t: 1 - 4 / (t + 1) ** 2,
        lambda u: np.where(u >= -3, 4 - u - 4 * np.sqrt(1 - u), -1),
        1,
        2,
        True,
    ),
]


def amari(a: float):
    return (
        "alpha",
        {"alpha": a},
        lambda t: (t**a - a * t - (1 - a)) / (a * (a - 1)),
        lambda t: (t ** (a - 1) - 1) / (a - 1),
        lambda u: (np.maximum(0, 1 + (a - 1) * u) ** (a / (a - 1)) - 1) / a,
        1,
        1 / (a * (1 - a)) if 0 < a < 1 else math.inf,
        a == 0.5,
    )


ROWS = [*TABLE, *(amari(a) for a in (-1.5, 0.03, 0.3, 0.5, 0.96, 1.5, 3.0))]
row = pytest.mark.parametrize(
    ("name", "given", "f", "slope", "conjugate", "curvature", "bound", "symmetric"),
    ROWS,
    ids=[f"{r[0]}{list(r[1].values())}" for r in ROWS],
)
T = np.concatenate([np.geomspace(1e-4, 1e4, 60), 1 + np.linspace(-0.4, 0.4, 41)])


def grid(g: Generator) -> np.ndarray:
    top = min(g.slope_at_infinity, 2.5)
    return np.concatenate([np.linspace(-4, top - 1e-3, 40), [0.0, top - 1e-7]])


@row
def test_the_table_of_the_reference(name, given, f, slope, conjugate, curvature, bound, symmetric):
    g = generator(name, **given)
    np.testing.assert_allclose(g.f(T), f(T), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(g.functions.f(T, np, **g.parameters), f(T), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(g.derivative(T), slope(T), rtol=1e-9, atol=1e-13)
    assert g.curvature == pytest.approx(curvature, rel=1e-12)
    assert g.bound == pytest.approx(bound, rel=1e-12)
    assert g.symmetric is symmetric
    if conjugate is not None:
        u = grid(g)
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(g.conjugate(u), conjugate(u), rtol=1e-8, atol=1e-12)


@row
def test_conjugate_by_brute_force(name, given, f, slope, conjugate, curvature, bound, symmetric):
    g = generator(name, **given)
    u = np.minimum(grid(g), g.slope_at_infinity - 1e-2)
    t = np.concatenate([[0.0], np.geomspace(1e-12, 1e12, 60001)])
    lines = u[:, None] * t - np.where(t > 0, g.f(t), g.at_zero)
    best = lines.max(axis=1)
    np.testing.assert_allclose(g.conjugate(u), best, rtol=2e-6, atol=2e-6)
    assert (g.conjugate(u) >= best - 1e-9 * (1 + abs(best))).all()
    if g.slope_at_infinity < math.inf:
        assert g.conjugate(g.slope_at_infinity + 1e-6) == math.inf


@row
def test_limits_and_differences(name, given, f, slope, conjugate, curvature, bound, symmetric):
    g = generator(name, **given)
    for limit, probe in ((g.at_zero, lambda e: g.f(e)), (g.slope_at_infinity, lambda e: g.f(1 / e) * e)):
        with np.errstate(all="ignore"):
            values = [float(probe(10.0**-k)) for k in (60, 120, 240)]
        if limit == math.inf:
            assert values[0] > 2 and (values[2] > 1.5 * values[0] or values[2] == math.inf)
        else:
            slow = abs(values[2] - limit)
            assert slow < 1e-6 or slow < 1e-1 * abs(values[0] - limit)
    h = 1e-6 * T
    np.testing.assert_allclose((g.f(T + h) - g.f(T - h)) / (2 * h), g.derivative(T), rtol=1e-4, atol=1e-6)
    if name != "tv":
        np.testing.assert_allclose(
            (g.derivative(T + h) - g.derivative(T - h)) / (2 * h), g.second_derivative(T), rtol=1e-4, atol=1e-6
        )
        assert float(g.second_derivative(1.0)) == pytest.approx(g.curvature)
    assert g.f(0.0) == g.at_zero
    assert g.f(math.inf) == (math.inf if g.slope_at_infinity else g.at_zero)


@row
def test_swap(name, given, f, slope, conjugate, curvature, bound, symmetric):
    g = generator(name, **given)
    other = g.swapped()
    np.testing.assert_allclose(other.f(T), T * g.f(1 / T), rtol=1e-9, atol=1e-13)
    assert (other.at_zero, other.slope_at_infinity) == pytest.approx((g.slope_at_infinity, g.at_zero))
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), size=(2, 4))
    p[0] = np.clip(p[0], 0, None) * (np.arange(5) != 1)
    p[0] /= p[0].sum()
    q[1] = q[1] * (np.arange(5) != 2)
    q[1] /= q[1].sum()
    np.testing.assert_allclose(other.divergence(q, p), g.divergence(p, q), rtol=1e-9)
    np.testing.assert_allclose(other.swapped().divergence(p, q), g.divergence(p, q), rtol=1e-9)


@row
def test_variational_bound_is_tight_at_the_derivative_and_below_elsewhere(
    name, given, f, slope, conjugate, curvature, bound, symmetric
):
    g = generator(name, **given)
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(6) * 2, size=2)
    d = float(g.divergence(p, q))
    best = g.derivative(p / q)
    assert float(g.variational_bound(best, best, p_weights=p, q_weights=q)) == pytest.approx(d, rel=1e-8)
    for scale in (0.01, 0.2):
        critic = best + scale * rng.normal(size=6)
        assert float(g.variational_bound(critic, critic, p_weights=p, q_weights=q)) <= d + 1e-12


@row
def test_log_space_forms(name, given, f, slope, conjugate, curvature, bound, symmetric):
    g = generator(name, **given)
    rng = np.random.default_rng(2)
    p, q = rng.dirichlet(np.ones(50), size=2)
    term, p_slope, q_slope = g.perspective(np.log(p), np.log(q), p, q, np)
    t = p / q
    np.testing.assert_allclose(term, q * f(t), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(p_slope, p * slope(t), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(q_slope, q * (f(t) - t * slope(t)), rtol=1e-9, atol=1e-13)
    a, b = torch.tensor([-120.0, -60.0, -300.0]), torch.tensor([-60.0, -120.0, -300.0])  # float32 underflow
    for part in g.perspective(a, b, a.exp(), b.exp(), torch):
        assert not torch.isnan(part).any()


@pytest.mark.parametrize("name", ["jeffreys", "skew_kl", "kl", "alpha", "triangular"])
def test_conjugate_has_gradients(name):
    g = generator(name, **{"skew_kl": {"skew": 0.4}, "alpha": {"alpha": 1.7}}.get(name, {}))
    u = torch.tensor([-0.4, -0.1, 0.05, 0.09], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(g.conjugate, u) and torch.autograd.gradgradcheck(g.conjugate, u)
    (slope,) = torch.autograd.grad(g.conjugate(u).sum(), u)
    np.testing.assert_allclose(g.derivative(slope.numpy()), u.detach().numpy(), atol=1e-9)  # (f*)' inverts f'


def test_the_alpha_family_is_continuous_in_alpha():
    rng = np.random.default_rng(3)
    p, q = rng.dirichlet(np.ones(8), size=2)
    for alpha in (0.0, 1.0, 0.05, -0.05, 0.95, 1.05):
        here = float(f_divergence("alpha", p, q, alpha=alpha))
        for step in (1e-9, -1e-9):
            assert float(f_divergence("alpha", p, q, alpha=alpha + step)) == pytest.approx(here, rel=1e-7)
    u = np.linspace(-1, 0.5, 7)
    for alpha, name in ((1.0, "kl"), (0.0, "reverse_kl")):
        for step in (0, 1e-10):
            np.testing.assert_allclose(
                generator("alpha", alpha=alpha + step).conjugate(u), generator(name).conjugate(u), rtol=1e-8, atol=1e-12
            )


def test_generators_can_be_keys_and_travel_to_workers():
    import pickle

    g = generator("alpha", alpha=0.3)
    twin = pickle.loads(pickle.dumps(g))  # noqa: S301
    assert twin == g and len({g, twin, generator("alpha", alpha=0.4)}) == 2
    assert g.swapped() == generator("alpha", alpha=0.7)


def test_the_link_is_the_reward_of_the_optimal_policy():
    ratio = np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(generator("reverse_kl").link(ratio, beta=0.1), 0.1 * (1 - 1 / ratio))
    np.testing.assert_allclose(generator("kl").link(ratio), np.log(ratio))
    assert generator("kl").latex["reward"].startswith(r"r = \beta \left[ \log")


def test_small_f_keeps_its_digits_near_one():
    for name in set(FACTS) - {"tv", "generalised_js", "skew_kl", "alpha"}:
        g = generator(name)
        for gap in (1e-9, -1e-7, 1e-4):
            exact = sympy_value(name, 1 + sympy.Float(gap, 60))
            assert float(g.f(1 + gap)) == pytest.approx(exact, rel=3 * 2.3e-16 / abs(gap) + 1e-12)


def sympy_value(name: str, at: sympy.Expr) -> float:
    from porism.divergences.declared import DECLARATIONS, t

    f = next(d for d in DECLARATIONS if d.name == name).canonical()
    return float(f.subs(t, at).evalf(60))


def test_the_committed_files_are_what_the_generator_writes():
    from porism.divergences.emit import generated

    for path, text in generated().items():
        assert path.read_text() == text, f"run python -m porism.divergences.derive, {path.name} is stale"


def test_importing_divergences_is_light():
    code = "import sys, porism.divergences as d; d.kl_divergence; print([m for m in ('torch', 'sympy', 'scipy', 'ot') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generator("kll"), "did you mean 'kl'"),
        (lambda: generator("alpha"), "alpha needs its parameter alpha"),
        (lambda: generator("alpha", alhpa=1.0), "did you mean 'alpha'"),
        (lambda: generator("kl", alpha=1.0), "no parameter 'alpha'"),
        (lambda: generator("generalised_js", weight=1.0), "weight must lie in (0, 1)"),
        (lambda: generator("skew_kl", skew=0.0), "skew must lie in (0, 1]"),
        (lambda: generator("alpha", alpha=math.nan), "alpha must be a number"),
        (lambda: generator("alpha", alpha=math.inf), "alpha must lie in"),
        (lambda: generator("kl").f(-1.0), "t is a ratio"),
        (lambda: generator("kl").conjugate(math.nan), "u must not contain NaN"),
        (lambda: f_divergence(generator("kl"), [0.5, 0.5], [0.5, 0.5], alpha=1.0), "has its parameters already"),
        (lambda: Generator.from_sympy(lambda t: sympy.log(t), name="a"), "must be convex"),
        (lambda: Generator.from_sympy(lambda t: t**2, name="a"), "must be 0 at t = 1"),
        (lambda: Generator.from_sympy(lambda t: sympy.Symbol("s") * (t - 1) ** 2, name="a"), "depend on t alone"),
        (lambda: Generator.from_sympy(lambda t: -abs(t - 1), name="a"), "its slope falls around t = 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ParameterError) as error:
        call()
    assert message in str(error.value)


def mine(name: str):
    if name == "fifth":  # of no family of the table
        return Generator.from_sympy(lambda t: (t - 1) ** 4 + t * sympy.log(t), name=name)
    if name == "corner":
        return Generator.from_sympy(lambda t: sympy.Max(t - 2, 0), name=name)
    return Generator.from_sympy(lambda t: -2 * sympy.log(t), name=name)


def test_a_generator_of_your_own_equals_the_one_of_the_table():
    g, twin = mine("log"), generator("reverse_kl")
    rng = np.random.default_rng(4)
    p, q = rng.dirichlet(np.ones(9), size=2)
    assert float(g.divergence(p, q)) == pytest.approx(2 * float(twin.divergence(p, q)), rel=1e-12)
    assert float(g.divergence_logits(np.log(p), np.log(q))) == pytest.approx(
        2 * float(twin.divergence(p, q)), rel=1e-12
    )
    np.testing.assert_allclose(g.conjugate([-1.0, 0.5]), 2 * twin.conjugate([-0.5, 0.25]), rtol=1e-12)
    tensors = torch.tensor(p), torch.tensor(q)
    assert float(g.divergence(*tensors)) == pytest.approx(float(g.divergence(p, q)), rel=1e-12)
    assert (g.at_zero, g.slope_at_infinity, g.curvature) == (math.inf, 2, 2)


def test_ends_of_the_domains():
    np.testing.assert_array_equal(generator("tv").f([0, 0.5, 1, 3, math.inf]), [0.5, 0.25, 0, 1, math.inf])
    np.testing.assert_array_equal(generator("kl").derivative([0, 1, math.inf]), [-math.inf, 0, math.inf])
    np.testing.assert_array_equal(generator("neyman_chi2").conjugate([-3, 1.0, 1.1]), [-2, 2, math.inf])
    np.testing.assert_array_equal(generator("pearson_chi2").conjugate([-5, -2, -1, 3]), [-1, -1, -0.75, 5.25])
    np.testing.assert_array_equal(generator("triangular").conjugate([-5, -3, 0, 1, 1.1]), [-1, -1, 0, 3, math.inf])
    np.testing.assert_array_equal(generator("alpha", alpha=-1.0).conjugate([0.5, 0.6]), [1, math.inf])
    assert generator("js").conjugate(LOG2 / 2) == generator("reverse_kl").conjugate(1.0) == math.inf
    assert generator("js").conjugate(np.float32([-0.5])).dtype == np.float32
    assert float(generator("kl").f(1e300)) == pytest.approx(1e300 * (math.log(1e300) - 1))


@pytest.mark.parametrize("name", ["fifth", "corner"])
def test_your_own_on_logits_of_tensors(name):
    g = mine(name)
    p, q = (torch.tensor(x, requires_grad=True) for x in np.random.default_rng(5).normal(size=(2, 3, 7)))
    torch.testing.assert_close(g.divergence_logits(p, q), g.divergence(p.softmax(-1), q.softmax(-1)))
    assert torch.autograd.gradcheck(g.divergence_logits, (p, q))


@pytest.mark.parametrize("name", ["fifth", "corner"])
def test_generators_of_no_family(name):
    g = mine(name)
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.5, 0.3])
    t = p / q
    if name == "fifth":
        expected = (q * ((t - 1) ** 4 + t * np.log(t))).sum()
        assert (g.at_zero, g.slope_at_infinity) == (2, math.inf)
    else:
        expected = (q * np.maximum(t - 2, 0)).sum()
        assert (g.at_zero, g.slope_at_infinity, g.curvature) == (0, 1, 0)
    assert float(g.divergence(p, q)) == pytest.approx(expected, rel=1e-10)
    assert float(g.divergence(torch.tensor(p), torch.tensor(q))) == pytest.approx(expected, rel=1e-10)
    best = g.derivative(t)
    assert float(g.variational_bound(best, best, p_weights=p, q_weights=q)) == pytest.approx(expected, rel=1e-6)
    assert float(g.swapped().divergence(q, p)) == pytest.approx(expected, rel=1e-9)
