"""large_lr: landscapes against finite differences and sympy, descent against a plain loop, the laws against series and
simulation, networks against autograd one at a time and dense Hessians."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from porism.errors import ParameterError
from porism_sims.large_steps import factorised as sim
from porism_sims.large_steps import landscapes as land
from porism_sims.large_steps import networks as nets
from porism_theory.optimization import _engine as theory
from porism_theory.optimization import _large_lr_experiments as experiments

SEEDS = st.integers(0, 2**32 - 1)
S = sympy.Symbol("s", real=True)
# Each landscape with its formula, written once more.
LANDSCAPES = {
    "pseudo-Huber": (land.power(1.0), sympy.sqrt(1 + (S - 1) ** 2) - 1),
    "power 1.5": (land.power(1.5, 2.0), ((1 + (S - 2) ** 2) ** sympy.Rational(3, 4) - 1) / sympy.Rational(3, 2)),
    "square": (land.square(-1.0), (S + 1) ** 2 / 2),
    "quartic": (land.power(4.0), (S - 1) ** 2 / 2 + (S - 1) ** 4 / 4),
    "log cosh": (land.log_cosh(0.5), sympy.log(sympy.cosh(S - sympy.Rational(1, 2)))),
    "tanh": (land.tanh_square(0.5), (sympy.tanh(S) - sympy.tanh(sympy.Rational(1, 2))) ** 2 / 2),
    "rescaled": (land.rescaled(land.tanh_square(0.5), height=3.0, width=2.0),
                 3 * (sympy.tanh(S / 2) - sympy.tanh(sympy.Rational(1, 2))) ** 2 / 2),
}  # fmt: skip


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_states(seed: int, count: int) -> tuple[Any, Any, Any]:
    """Weights of either sign and step sizes over two decades."""
    source = rng(seed)
    return *source.normal(0, 3, (2, count)), 10 ** source.uniform(-2, 0, count)


# Landscapes


@pytest.mark.parametrize("name", LANDSCAPES)
def test_landscapes_have_the_derivatives_they_say(name: str) -> None:
    landscape, formula = LANDSCAPES[name]
    points = np.linspace(-4, 4, 41)
    for order, function in enumerate((landscape.value, landscape.slope, landscape.bend)):
        expected = [float(sympy.diff(formula, S, order).subs(S, point).evalf(30)) for point in points]
        np.testing.assert_allclose(function(points), expected, rtol=1e-11, atol=1e-12)
    derivatives = [
        float(sympy.diff(formula, S, n).subs(S, sympy.nsimplify(landscape.minimiser)).evalf(30)) for n in range(5)
    ]
    given = [0, 0, landscape.curvature, landscape.third, landscape.fourth]
    np.testing.assert_allclose(given, derivatives, atol=1e-12)


@pytest.mark.parametrize("name", LANDSCAPES)
def test_landscapes_fall_to_their_minimum_and_rise_after_it(name: str) -> None:
    landscape = LANDSCAPES[name][0]
    offsets = np.geomspace(1e-6, 20, 200)
    assert np.all(landscape.slope(landscape.minimiser + offsets) >= 0)
    assert np.all(landscape.slope(landscape.minimiser - offsets) <= 0)
    assert landscape.value(np.array(landscape.minimiser)) == 0


def test_huber_is_a_square_with_tangents() -> None:
    bowl = land.huber(2.0, 1.0)
    s = np.array([-4.0, -1.0, 1.5, 3.0, 6.0])
    np.testing.assert_allclose(bowl.value(s), [8.0, 2.0, 0.125, 2.0, 8.0])
    np.testing.assert_allclose(bowl.slope(s), [-2, -2, 0.5, 2, 2])
    assert land.log_cosh().value(np.array(1e4)) == pytest.approx(9999 - np.log(2))


# One step


@pytest.mark.parametrize("name", LANDSCAPES)
def test_one_step_identities_hold_to_rounding(name: str) -> None:
    """Claim 1 of the card: 1000 random states, relative to the terms that are summed."""
    landscape = LANDSCAPES[name][0]
    x, y, h = random_states(1, 1000)
    path = sim.follow(landscape, x, y, step_size=h, steps=1)
    s, u, d = path.product[0], path.squared_norm[0], path.imbalance[0]
    pull = h * landscape.slope(s)
    scale = (1 + pull**2) * u + abs(pull) * u
    np.testing.assert_array_less(abs(path.imbalance[1] - (1 - pull**2) * d) / scale, 1e-13)
    np.testing.assert_array_less(abs(path.product[1] - ((1 + pull**2) * s - pull * u)) / scale, 1e-13)
    np.testing.assert_array_less(abs(path.squared_norm[1] - ((1 + pull**2) * u - 4 * pull * s)) / scale, 1e-13)
    np.testing.assert_allclose(u**2, d**2 + 4 * s**2, rtol=1e-12)


@given(SEEDS, st.sampled_from(sorted(LANDSCAPES)))
def test_signs_and_order_of_the_weights_do_not_matter(seed: int, name: str) -> None:
    landscape = LANDSCAPES[name][0]
    x, y, h = random_states(seed, 20)
    paths = [sim.follow(landscape, *start, step_size=h, steps=20) for start in ((x, y), (-x, -y), (y, x))]
    for other in paths[1:]:
        np.testing.assert_array_equal(other.product, paths[0].product)
    np.testing.assert_array_equal(paths[2].imbalance, -paths[0].imbalance)


def test_no_imbalance_stays_none_and_its_sign_stays_below_slope_one() -> None:
    x, _, h = random_states(2, 50)
    assert not sim.follow(land.log_cosh(), x, x, step_size=h, steps=50).imbalance.any()
    x, y = rng(3).normal(0, 3, (2, 50))
    path = sim.follow(land.log_cosh(), x, y, step_size=0.99, steps=50)
    kept = abs(path.imbalance) > 1e-9  # beside rounding
    assert np.all((np.sign(path.imbalance) == np.sign(path.imbalance[0]))[kept])


@given(SEEDS, st.sampled_from(sorted(LANDSCAPES)))
def test_hessians_are_second_differences(seed: int, name: str) -> None:
    landscape = LANDSCAPES[name][0]
    at, eps = rng(seed).normal(0, 1, 2), 1e-4

    def gradient(w: Any) -> Any:
        return landscape.slope(w[0] * w[1]) * w[::-1]

    columns = [(gradient(at + e) - gradient(at - e)) / (2 * eps) for e in eps * np.eye(2)]
    expected = np.linalg.eigvalsh((np.array(columns) + np.array(columns).T) / 2)
    np.testing.assert_allclose(sim.hessian_eigenvalues(landscape, *at), expected, atol=1e-5 * (1 + abs(expected).max()))


def test_at_a_minimum_the_hessian_is_flat_along_the_hyperbola() -> None:
    for landscape, _ in LANDSCAPES.values():
        x, y = sim.weights(10.0, landscape.minimiser)
        expected = [0, 10 * landscape.curvature]
        np.testing.assert_allclose(sim.hessian_eigenvalues(landscape, x, y), expected, atol=1e-12)


# Descent


@given(st.floats(0.01, 1e6), st.floats(-0.5, 0.5))
def test_weights_have_the_norm_and_the_product_asked_for(squared_norm: float, share: float) -> None:
    x, y = sim.weights(squared_norm, share * squared_norm)
    assert x >= abs(y) - 1e-12 * abs(x)
    assert x**2 + y**2 == pytest.approx(squared_norm, rel=1e-7)
    assert x * y == pytest.approx(share * squared_norm, rel=1e-12)


def one_run(landscape: land.Landscape, x: float, y: float, h: float, steps: int) -> tuple[Any, ...]:
    """The loop as one writes it first, looking at what happens at every 50th step."""
    products = [x * y]
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, steps + 1):
            pull = h * landscape.slope(np.float64(x * y))
            x, y = x - pull * y, y - pull * x
            products.append(x * y)
            if step % 50 == 0 or step == steps:
                if not abs(x) + abs(y) <= 1e8:
                    return x, y, "diverged", step, -np.inf, np.inf
                if abs(landscape.slope(np.float64(x * y))) * np.hypot(x, y) < 1e-11:
                    return x, y, "converged", step, min(products), max(products)
    return x, y, "unfinished", steps, min(products), max(products)


@pytest.mark.parametrize("degree", [1.0, 2.0, 2.5])
def test_descent_is_the_plain_loop(degree: float) -> None:
    bowl, x, y, h = land.power(degree), *random_states(4, 40)
    runs = sim.descend(bowl, x, y, step_size=h / 5, steps=330)
    assert "converged" in runs.status
    assert ("diverged" in runs.status) == (degree >= 2)
    for run in range(40):
        expected = one_run(bowl, x[run], y[run], h[run] / 5, 330)
        found = tuple(column[run] for column in runs)
        assert found[2:4] == expected[2:4]
        if found[2] != "diverged":
            np.testing.assert_allclose(found[:2] + found[4:], expected[:2] + expected[4:], rtol=1e-12, atol=1e-12)


def test_runs_do_not_feel_each_other_and_repeat() -> None:
    x, y, h = random_states(5, 9000)  # more than are held in the cache at once
    many = sim.descend(land.power(1.5), x, y, step_size=h / 3, steps=200)
    for first in (0, 8190):
        part = slice(first, first + 5)
        few = sim.descend(land.power(1.5), x[part], y[part], step_size=h[part] / 3, steps=200)
        for one, all_of_them in zip(few, many, strict=True):
            np.testing.assert_array_equal(one, all_of_them[part])


def test_paths_and_runs_agree() -> None:
    bowl, x, y, h = land.power(2.0), *random_states(6, 30)
    path = sim.follow(bowl, x, y, step_size=h / 20, steps=100, every=1)
    runs = sim.descend(bowl, x, y, step_size=h / 20, steps=100, tolerance=1e-300)
    np.testing.assert_array_equal(runs.x * runs.y, path.product[-1])
    np.testing.assert_array_equal(runs.lowest, path.product.min(axis=0))
    np.testing.assert_allclose(runs.peak(bowl), path.loss.max(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(runs.squared_norm, path.squared_norm[-1])
    np.testing.assert_array_equal(sim.follow(bowl, x, y, step_size=h / 20, steps=99, every=7).loss, path.loss[:99:7])


def test_small_steps_are_gradient_flow() -> None:
    x, y = sim.weights(10.0, [-2.0, 3.0])
    drifts = []
    for h in (4e-3, 2e-3, 1e-3):
        path = sim.follow(land.power(1.5), x, y, step_size=h, steps=round(4 / h))
        assert np.all(np.diff(path.loss, axis=0) <= 1e-15)
        drifts.append(abs(path.imbalance[-1] / path.imbalance[0] - 1))
    np.testing.assert_allclose(np.divide(drifts[:2], drifts[1:]), 2, rtol=0.02)


def test_the_simulator_repeats_and_names_bad_input() -> None:
    first, second = (sim.simulate(rng(7), degree=1.5, step_ratio=3.0, starts=5) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    lost = sim.simulate(rng(8), degree=3.0, step_ratio=6.0)
    assert lost["diverged"].all() and not lost["converged"].any()
    assert np.isnan(lost["final_ratio"]).all() and np.isinf(lost["catapult"]).all()
    with pytest.raises(ParameterError, match="largest must be at least smallest"):
        sim.simulate(rng(), smallest=90.0)
    with pytest.raises(ParameterError, match="degree"):
        sim.simulate(rng(), degree=0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: land.power(0.0), "degree must be a number above 0"),
        (lambda: land.power(2.0, 0.0), "minimiser must not be 0"),
        (lambda: land.tanh_square(np.inf), "minimiser"),
        (lambda: land.huber(-1.0), "threshold"),
        (lambda: land.rescaled(land.square(), width=0.0), "width"),
        (lambda: sim.weights(1.0, 1.0), "squared_norm must be positive and at least twice"),
        (lambda: sim.weights(np.nan, 0.0), "squared_norm must be finite"),
        (lambda: sim.descend(land.square(), 1.0, 2.0, step_size=0.0), "step_size must be positive"),
        (lambda: sim.descend(land.square(), np.inf, 2.0, step_size=0.1), "x must be finite"),
        (lambda: sim.descend(land.square(), 1.0, 2.0, step_size=np.nan), "step_size must be finite"),
        (lambda: sim.descend(land.square(), np.ones(2), np.ones(3), step_size=0.1), "must broadcast"),
        (lambda: sim.descend(land.square(), np.ones((2, 2)), 1.0, step_size=0.1), "one dimension"),
        (lambda: sim.descend(land.square(), 1.0, 1.0, step_size=0.1, steps=0), "steps"),
        (lambda: sim.descend(land.square(), 1.0, 1.0, step_size=0.1, tolerance=0.0), "tolerance"),
        (lambda: sim.follow(land.square(), 1.0, 1.0, step_size=0.1, every=0), "every"),
        (lambda: nets.problem(np.ones((2, 3)), np.ones(2)), "inputs and targets must have shapes"),
        (lambda: nets.problem(np.ones((2, 3, 1)), np.ones((2, 3)), degree=-1.0), "degree must be in"),
        (lambda: nets.problem(np.full((2, 3, 1), np.nan), np.ones((2, 3))), "finite"),
        (lambda: nets.problem(np.ones((2, 3, 1)), np.ones((2, 3)), activation="sine"), "activation"),  # type: ignore[arg-type]
        (lambda: nets.random_weights(rng(), (3,)), "widths"),
        (lambda: nets.random_weights(rng(), (3, 4), gains=(1.0,)), "gains"),
        (lambda: nets.train(rng(), *small_network(), step_size=-1.0), "step_size"),
        (lambda: nets.train(rng(), *small_network(), step_size=0.1, steps=150), "multiple of every"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        call()


# Laws


@pytest.mark.parametrize("name", ["power 1.5", "log cosh", "tanh", "square"])
def test_the_edge_expansion_is_the_series_of_the_step(name: str) -> None:
    landscape, formula = LANDSCAPES[name]
    s_star, h = sympy.nsimplify(landscape.minimiser), sympy.Rational(1, 10)
    e, k = sympy.Symbol("e"), sympy.diff(formula, S, 2).subs(S, s_star)
    u = sympy.sqrt((2 / (h * k)) ** 2 - 4 * s_star**2 + 4 * S**2)
    pull = h * sympy.diff(formula, S)
    step = ((1 + pull**2) * S - pull * u - s_star).subs(S, s_star + e)
    coefficients = [float((sympy.diff(step, e, n).subs(e, 0) / sympy.factorial(n)).evalf(30)) for n in range(4)]
    derivatives = (landscape.curvature, landscape.third, landscape.fourth)
    found = theory.edge_expansion(*derivatives, landscape.minimiser, 0.1)
    np.testing.assert_allclose([0, -1, *found], coefficients, rtol=1e-9, atol=1e-12)


def test_flip_coefficients_and_deficits_of_the_families() -> None:
    for degree, deficit in {1.0: 1.0, 1.25: 4 / 3, 1.5: 2.0, 1.75: 4.0}.items():
        assert theory.flip_coefficient(land.power(degree, 1.5), 0.1) == pytest.approx(2 - degree + 2e-4 * 1.5**2)
        assert theory.deficit(land.power(degree)) == pytest.approx(deficit)
    assert theory.deficit(land.log_cosh()) == pytest.approx(1.5)
    assert theory.small_step_coefficient(land.tanh_square()) == pytest.approx(24 * np.tanh(0.5) ** 2 + 8 / 3)
    assert theory.flip_coefficient(land.tanh_square(), 1e-3) == pytest.approx(7.79, rel=1e-3)


@pytest.mark.parametrize("degree", [1.0, 1.5])
def test_the_sign_of_chi_is_that_of_a_stable_two_cycle(degree: float) -> None:
    """Just above the edge, D held: the cycle has e^2 = mu / chi."""
    h, excess = 0.05, 1e-3
    imbalance = np.sqrt(((2 + excess) / h) ** 2 - 4)
    e = np.array([0.02, 0.04])
    for _ in range(20_000):
        e = sim.second_iterate(land.power(degree), e, imbalance=imbalance, step_size=h)
    once = sim.second_iterate(land.power(degree), e, imbalance=imbalance, step_size=h)
    np.testing.assert_allclose(once, e, rtol=1e-9)
    np.testing.assert_allclose(e**2, excess / (2 - degree), rtol=0.01)


def test_the_mirror_law_has_its_second_order() -> None:
    for excess in (0.03, 0.06):
        seen = experiments.landing(rng(9), land.square(), np.full(4, 2 + excess), step_size=0.002)
        second = (4 - (2 + excess) - seen.ratio) / excess**2
        np.testing.assert_allclose(second, 2 / 3, rtol=0.1)
        np.testing.assert_allclose(seen.ratio, theory.mirrored(2 + excess, order=2), atol=2 * excess**3)
        height = seen.height / theory.catapult_height(2 + excess, 0.002)
        np.testing.assert_allclose((height - 1) / excess, 2 / 3, rtol=0.1)


def test_the_square_loss_has_the_scaled_map_that_its_invariant_is_of() -> None:
    h, w, mu = 1e-6, np.array([0.3, -0.2]), 0.1
    x, y = sim.weights((2 + mu) / h, 1 + w / h)
    path = sim.follow(land.square(), x, y, step_size=h, steps=1)
    np.testing.assert_allclose(h * (path.product[1] - 1), (w**2 - mu - 1) * w, atol=1e-5)
    np.testing.assert_allclose(h * path.squared_norm[1] - 2, mu - (2 - mu) * w**2, atol=1e-5)


@pytest.mark.parametrize("bowl", [land.square(), land.power(2.5), land.power(1.5), land.power(4.0, 2.0)])
def test_two_cycles_are_where_they_are_said_to_be(bowl: land.Landscape) -> None:
    h = 0.05
    e = brentq(lambda e: h * float(bowl.slope(np.float64(bowl.minimiser + e))) - np.sqrt(2), 1e-3, 1e4, xtol=1e-14)
    u = np.sqrt(2) * (bowl.minimiser + 2 * e)
    path = sim.follow(bowl, *sim.weights(u, bowl.minimiser + e), step_size=h, steps=2)
    np.testing.assert_allclose(path.product[:, 0] - bowl.minimiser, [e, -e, e], rtol=1e-8)
    np.testing.assert_allclose(path.squared_norm[:, 0], [u, np.sqrt(2) * (2 * e - bowl.minimiser), u], rtol=1e-8)
    if bowl.bend(np.array(7.0)) == 1:
        assert h * u == pytest.approx(4 + np.sqrt(2) * h)


def test_the_critical_step_is_the_cycle_far_away() -> None:
    assert theory.critical_step(2.0, 50.0) == pytest.approx(4 / 50)
    assert theory.critical_step(1.0, 50.0) == pytest.approx(np.sqrt(2))
    for degree in (1.5, 2.5, 3.0):
        bowl, e = land.power(degree, 1e-3), 1e4
        h = np.sqrt(2) / float(bowl.slope(np.float64(bowl.minimiser + e)))
        assert theory.critical_step(degree, np.sqrt(2) * (1e-3 + 2 * e)) == pytest.approx(h, rel=1e-6)


@pytest.mark.parametrize("degree", [1.75, 2.0, 2.25])
def test_runs_are_lost_on_the_other_side_of_the_two_cycle(degree: float) -> None:
    shares = [experiments.lost_share(rng(10), degree=degree, step_share=share, law="2-cycle") for share in (0.9, 1.5)]
    assert shares[0] == 0
    assert shares[1] > 0.8


# Networks


def small_network(degree: float = 2.0, networks: int = 3, **choices: Any) -> tuple[Any, nets.Problem]:
    task = nets.problem(*nets.wave(rng(11), networks=networks, points=7), degree=degree, **choices)
    return nets.random_weights(rng(12), (3, 5, 4), networks=networks), task


def loss_of_one(weights: Any, task: nets.Problem, network: int) -> torch.Tensor:
    """Written out for one network."""
    hidden = task.inputs[network]
    for matrix in weights[:-1]:
        hidden = hidden @ matrix.T
        if task.normalisation == "batch":
            hidden = torch.nn.functional.batch_norm(hidden, None, None, training=True, eps=1e-5)
        hidden = {"tanh": torch.tanh, "relu": torch.relu, "linear": lambda z: z}[task.activation](hidden)
    r, degree = (hidden @ weights[-1].T)[:, 0] - task.targets[network], task.degree[network]
    return (((1 + r**2) ** (degree / 2) - 1) / degree).mean()


CHOICES = [
    {"activation": activation, "normalisation": normalisation}
    for activation in ("tanh", "relu", "linear")
    for normalisation in ("none", "batch")
]


@pytest.mark.parametrize("choices", CHOICES, ids=lambda c: "-".join(c.values()))
def test_networks_train_together_as_they_do_alone(choices: Any) -> None:
    weights, task = small_network(np.array([1.0, 2.0, 4.0]), **choices)  # type: ignore[arg-type]
    sizes = np.array([0.1, 0.05, 0.01])
    history = nets.train(rng(), weights, task, step_size=sizes, steps=40, every=20)
    for network in range(3):
        own = [matrix[network].clone().requires_grad_() for matrix in weights]
        optimiser = torch.optim.SGD(own, lr=float(sizes[network]))
        losses = []
        for _ in range(41):
            loss = loss_of_one(own, task, network)
            losses.append(loss.item())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        np.testing.assert_allclose(history.loss[:, network], losses[::20], rtol=1e-9)


@pytest.mark.parametrize("choices", CHOICES[:2], ids=lambda c: "-".join(c.values()))
def test_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian(choices: Any) -> None:
    weights, task = small_network(1.0, **choices)
    shapes = [matrix.shape[1:] for matrix in weights]
    flat = torch.stack([torch.cat([m[n].reshape(-1) for m in weights]) for n in range(3)])

    def loss(vector: torch.Tensor, network: int) -> torch.Tensor:
        parts = torch.split(vector, [int(np.prod(shape)) for shape in shapes])
        return loss_of_one([p.reshape(s) for p, s in zip(parts, shapes, strict=True)], task, network)

    dense = [torch.func.hessian(loss)(flat[n], n) for n in range(3)]
    expected = [float(torch.linalg.eigvalsh((h + h.T) / 2)[-1]) for h in dense]
    np.testing.assert_allclose(nets.largest_curvatures(rng(), weights, task), expected, rtol=1e-4)


def test_lanczos_is_within_a_percent_on_a_wider_network() -> None:
    task = nets.problem(*nets.classes(rng(13), points=60, features=24))
    weights = nets.random_weights(rng(14), (24, 60, 60))
    parameters = [matrix.requires_grad_() for matrix in weights]
    product = nets_product(parameters, task)
    vector = torch.from_numpy(rng(15).normal(size=sum(p.numel() for p in parameters)))
    for _ in range(300):
        vector = product(vector)
        vector = vector / vector.norm()
    expected = float(vector @ product(vector))
    assert nets.largest_curvatures(rng(16), weights, task)[0] == pytest.approx(expected, rel=0.01)


def nets_product(parameters: Any, task: nets.Problem) -> Any:
    """Central differences of the gradient: no second derivative of autograd's is used."""
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])

    def gradient(at: torch.Tensor) -> torch.Tensor:
        parts = torch.split(at, [p.numel() for p in parameters])
        own = [part.reshape(p.shape).requires_grad_() for part, p in zip(parts, parameters, strict=True)]
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(nets.losses(own, task).sum(), own)])

    return lambda v: (gradient(flat + 1e-4 * v) - gradient(flat - 1e-4 * v)) / 2e-4


def test_batch_normalisation_makes_hidden_weights_scale_invariant() -> None:
    weights, task = small_network(normalisation="batch")
    scaled = [weights[0] * 100, weights[1] * 100, weights[2]]
    big = [weights[0] * 1e4, weights[1] * 1e4, weights[2]]  # beside the epsilon in the variance
    np.testing.assert_allclose(nets.predictions(scaled, task), nets.predictions(big, task), rtol=1e-6, atol=1e-6)
    plain = task._replace(normalisation="none")
    assert not torch.allclose(nets.predictions(scaled, plain), nets.predictions(weights, plain))


@pytest.mark.parametrize(("activation", "kept"), [("relu", True), ("linear", True), ("tanh", False)])
def test_gradient_flow_keeps_the_imbalance_of_homogeneous_networks(activation: Any, kept: bool) -> None:
    weights, task = small_network(activation=activation)
    drifts = []
    for steps in (500, 1000):
        history = nets.train(rng(), weights, task, step_size=10 / steps, steps=steps, every=steps, spectra="last")
        drifts.append(abs(history.imbalance[-1] / history.imbalance[0] - 1).max())
    assert (drifts[1] < 0.6 * drifts[0] < 0.02) == kept


def test_training_leaves_its_start_alone_repeats_and_reports_what_is_lost() -> None:
    weights, task = small_network(4.0)
    copies = [matrix.clone() for matrix in weights]
    settings = {"step_size": np.array([0.01, 100.0, 0.01]), "steps": 100, "every": 50}
    first, second = (nets.train(rng(), weights, task, **settings) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))
    assert first.diverged.tolist() == [False, True, False]
    assert np.isnan(first.curvature[-1, 1]) and np.isfinite(first.curvature[-1, [0, 2]]).all()
    assert nets.train(rng(), weights, task, step_size=100.0, steps=100, every=50).diverged.all()
