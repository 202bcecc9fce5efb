"""Strategies of graphs, events, manifolds and torch modules: promises, corners, simplest examples, bad options."""

from __future__ import annotations

import ast
from functools import partial
from typing import Any, get_args

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import find as search
from hypothesis import strategies as st

from porism.errors import ParameterError
from porism.geometry import AffineSubspace, Ellipsoid, Product, Sphere, Stiefel
from porism.testing.strategies import (
    EventSequence,
    PointsOnManifold,
    SmallModule,
    event_sequences,
    graphs,
    manifolds,
    manifolds_with_points,
    small_module,
    torch_modules,
)
from porism.testing.strategies.modules import ModuleFamily
from porism.testing.strategies.surfaces import ManifoldFamily
from porism.transport import wasserstein_1d

# Without the phase that explains what of an example matters, which takes ten times as long.
find = partial(search, settings=settings(max_examples=2000, phases=(Phase.generate, Phase.shrink)))
FAMILIES: tuple[Any, ...] = get_args(ModuleFamily)
SURFACES: tuple[Any, ...] = get_args(ManifoldFamily)


# Graphs


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("directed", [False, True])
@given(data=st.data(), loops=st.booleans(), weighted=st.booleans())
def test_graphs_keep_their_promises(
    directed: bool, connected: bool, data: st.DataObject, loops: bool, weighted: bool
) -> None:
    options = {"directed": directed, "connected": connected, "loops": loops, "weighted": weighted}
    drawn = data.draw(graphs(nodes=(1, 5), **options))
    assert drawn.dtype == np.float64 and drawn.shape == (len(drawn), len(drawn)) and len(drawn) <= 5
    edges = drawn[drawn != 0]
    assert ((edges >= 1e-9) & (edges <= 1e3)).all() if weighted else (edges == 1).all()
    if not loops:
        assert (np.diag(drawn) == 0).all()
    if not directed:
        np.testing.assert_array_equal(drawn, drawn.T)
    if connected:
        graph = nx.from_numpy_array(drawn, create_using=nx.DiGraph)
        assert nx.is_strongly_connected(graph)


def test_graphs_reach_their_corners() -> None:
    four = graphs(nodes=4, connected=True)
    assert nx.is_path(nx.from_numpy_array(find(four, lambda x: True)), range(4))
    assert find(four, lambda x: x.sum() == 6 and x.sum(axis=0).max() == 3).max() == 1  # a star
    assert find(four, lambda x: x.sum() == 12).sum() == 12
    assert nx.is_bipartite(nx.from_numpy_array(find(four, lambda x: x.sum() == 8 and (x.sum(axis=0) == 2).all())))
    assert find(graphs(nodes=3), lambda x: x[0].sum() == 0 and x.sum() > 0).sum() == 2
    assert find(graphs(loops=True), lambda x: x.sum() > 0).tolist() == [[1]]
    weighted = graphs(nodes=3, weighted=True, directed=True)
    assert find(weighted, lambda x: x[0, 1] == x[1, 2] not in (0, 1)).max() <= 1e3  # a tie
    assert find(weighted, lambda x: 0 < x.max() < 1e-6).max() == 1e-9
    one_way = find(graphs(nodes=2, directed=True), lambda x: x.any())
    assert one_way.sum() == 1
    cycle = find(graphs(nodes=3, directed=True, connected=True), lambda x: True)
    np.testing.assert_array_equal(cycle, np.roll(np.eye(3), 1, axis=1))


# Events


@pytest.mark.parametrize("horizon", [None, 1e-3, 20.0])
@given(data=st.data(), ties=st.booleans())
def test_event_sequences_keep_their_promises(horizon: float | None, data: st.DataObject, ties: bool) -> None:
    drawn = data.draw(event_sequences(events=(0, 6), types=(1, 2), ties=ties, horizon=horizon))
    assert drawn.times.shape == drawn.types.shape and len(drawn.times) <= 6
    assert drawn.times.dtype == np.float64 and drawn.types.dtype == np.int64
    steps = np.diff(drawn.times, prepend=0.0)
    assert (steps >= 0).all() if ties else (steps > 0).all()
    assert drawn.horizon > 0 and np.isfinite(drawn.horizon)
    assert not len(drawn.times) or drawn.times[-1] <= drawn.horizon
    assert horizon is None or drawn.horizon == horizon
    assert ((drawn.types >= 0) & (drawn.types < 2)).all()


def test_event_sequences_reach_their_corners() -> None:
    simplest = find(event_sequences(), lambda drawn: True)
    assert (len(simplest.times), simplest.horizon) == (0, 1)
    many = find(event_sequences(events=3, horizon=8.0), lambda drawn: True)
    np.testing.assert_array_equal(many.times, [2, 4, 6])
    tied = find(event_sequences(ties=True), lambda drawn: len(set(drawn.times)) < len(drawn.times))
    assert len(tied.times) == 2
    assert find(event_sequences(ties=True), lambda drawn: 0 in drawn.times).times.tolist() == [0]
    assert find(event_sequences(), lambda drawn: drawn.horizon in drawn.times).times.tolist() == [1]
    burst = find(event_sequences(events=2), lambda drawn: drawn.times[1] - drawn.times[0] < 1e-4)
    assert 0 < burst.times[1] - burst.times[0] < 1.1e-6
    assert find(event_sequences(), lambda drawn: {*drawn.types} == {0, 2}).types.tolist() in ([0, 2], [2, 0])
    assert find(event_sequences(), lambda drawn: drawn.horizon > 999).times.tolist() == []


@given(event_sequences(events=4, horizon=3.0), event_sequences(events=4, ties=True, horizon=3.0))
def test_counting_processes_are_as_far_apart_as_their_events(one: EventSequence, two: EventSequence) -> None:
    """The area between two counting processes with n events each is n times the transport of the times."""
    changes = np.sort(np.concatenate([[0.0], one.times, two.times, [3.0]]))
    counted = [np.searchsorted(events.times, changes[:-1], side="right") for events in (one, two)]
    area = (np.abs(counted[0] - counted[1]) * np.diff(changes)).sum()
    assert area == pytest.approx(4 * float(wasserstein_1d(one.times, two.times)), abs=1e-12)


# Manifolds


@pytest.mark.parametrize("family", SURFACES)
@given(data=st.data())
def test_manifolds_and_points_keep_their_promises(family: Any, data: st.DataObject) -> None:
    manifold, points = data.draw(manifolds_with_points(families=family, points=(1, 4)))
    assert 1 <= manifold.dimension <= 6
    assert points.shape == (len(points), manifold.ambient_dimension) and 1 <= len(points) <= 4
    assert points.dtype == np.float64
    size = max(1.0, float(np.abs(points).max()))
    np.testing.assert_allclose(manifold.distance(points), 0, atol=1e-12 * size)
    assert manifold.tangent_basis(points).shape[-1] == manifold.dimension  # near enough to be taken for points on it


@given(manifolds(bounded=True))
def test_bounded_manifolds_can_be_sampled(manifold: Any) -> None:
    assert np.isfinite(manifold.volume)
    assert manifold.sample(np.random.default_rng(0), 2).shape == (2, manifold.ambient_dimension)


def test_every_family_has_its_simplest_member() -> None:
    shown = {family: repr(find(manifolds(families=family), lambda drawn: True)) for family in SURFACES}
    assert shown["sphere"] == "Sphere(dimension=1, radius=1.0)"
    assert shown["ellipsoid"] == "Ellipsoid(axes=(1.0, 1.0))"
    assert shown["stiefel"] == "Stiefel(n=2, k=1)"
    assert shown["revolution torus"] == "RevolutionTorus(major=2.0, minor=1.0)"
    assert shown["swiss roll"] == "SwissRoll(start=0.0, end=1.0, height=1.0, pitch=1.0)"
    assert len({*shown.values()}) == len(SURFACES)


def test_manifolds_reach_their_corners() -> None:
    assert find(manifolds(), lambda m: isinstance(m, Product) and not np.isfinite(m.volume)).ambient_dimension <= 4
    thin = find(manifolds(families="ellipsoid"), lambda m: max(m.axes) >= 100 * min(m.axes))
    assert isinstance(thin, Ellipsoid) and len(thin.axes) == 2
    assert find(manifolds(), lambda m: isinstance(m, Stiefel) and m.n == m.k == 3) == Stiefel(3, 3)
    assert find(manifolds(), lambda m: isinstance(m, AffineSubspace) and m.dimension == 2).ambient_dimension == 2
    tight = find(manifolds(families="revolution torus"), lambda m: m.major <= 1.1 * m.minor)
    assert tight.minor == 1


def test_points_on_manifolds_reach_their_corners() -> None:
    circles = manifolds_with_points(families="sphere", points=(1, 3))

    def gap(drawn: PointsOnManifold) -> float:
        return float(np.linalg.norm(drawn.points[0] - drawn.points[-1]))

    assert find(circles, lambda drawn: True).points.tolist() == [[1, 0]]
    assert find(circles, lambda drawn: len(drawn.points) == 2 and gap(drawn) == 0).points.tolist() == [[1, 0]] * 2
    assert 0 < gap(find(circles, lambda drawn: 0 < gap(drawn) < 1e-4)) < 2e-6
    opposite = find(circles, lambda drawn: gap(drawn) == 2 * drawn.manifold.reach)
    assert opposite.points.tolist() == [[1, 0], [-1, 0]]
    random = find(circles, lambda drawn: 0.1 < abs(drawn.points[0, 0]) < 0.9)
    assert isinstance(random.manifold, Sphere) and len(random.points) == 1
    assert find(circles, lambda drawn: drawn.points[0, 0] == 0).points.tolist() == [[0, 1]]


# Modules


@given(torch_modules(batch=(1, 3), width=(1, 3), outputs=(1, 3)))
def test_modules_keep_their_promises(drawn: SmallModule) -> None:
    output = drawn.module(drawn.inputs)
    assert output.dtype == torch.float32 and output.ndim == 2
    assert output.shape[0] == len(drawn.inputs) <= 3 and output.shape[1] <= 3
    assert torch.isfinite(output).all()
    output.square().sum().backward()
    for parameter in drawn.module.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


def made_by(recipe: str) -> SmallModule:
    """What a person gets who copies the recipe: a call of ``small_module`` with literals and one dtype of torch."""
    call: Any = ast.parse(recipe, mode="eval").body
    assert call.func.id == "small_module"
    options = {
        keyword.arg: getattr(torch, keyword.value.attr)
        if isinstance(keyword.value, ast.Attribute)
        else ast.literal_eval(keyword.value)
        for keyword in call.keywords
    }
    return small_module(*map(ast.literal_eval, call.args), **options)


@given(torch_modules(dtype=torch.float64))
def test_a_recipe_makes_the_same_module_again(drawn: SmallModule) -> None:
    assert repr(drawn) == drawn.recipe
    again = made_by(repr(drawn))
    assert torch.equal(again.inputs, drawn.inputs)
    assert torch.equal(again.module(again.inputs), drawn.module(drawn.inputs))
    assert {p.dtype for p in drawn.module.parameters()} == {torch.float64}


@pytest.mark.parametrize("family", FAMILIES)
def test_making_modules_leaves_the_global_generator_alone_and_does_not_depend_on_it(family: Any) -> None:
    outputs = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        drawn = small_module(family, seed=3, batch=2, width=3, outputs=2)
        outputs.append(drawn.module(drawn.inputs))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*outputs)
    other = small_module(family, seed=4, batch=2, width=3, outputs=2)
    assert not torch.equal(other.module(other.inputs), outputs[0])


def test_modules_reach_every_family_and_shrink_to_one_number() -> None:
    for family in FAMILIES:
        drawn = find(torch_modules(), lambda drawn, family=family: f"'{family}'" in drawn.recipe)
        assert drawn.recipe == (
            f"small_module('{family}', seed=0, batch=1, width=1, outputs=1, inputs='random', dtype=torch.float32)"
        )
    alike = find(torch_modules(), lambda drawn: len(drawn.inputs) == 2 and torch.equal(*drawn.inputs))
    assert "inputs='alike'" in alike.recipe
    zero = find(torch_modules(families="mlp"), lambda drawn: not drawn.inputs.any())
    assert zero.recipe.startswith("small_module('mlp', seed=0, batch=1, width=1")


def test_failures_show_the_recipe() -> None:
    @given(torch_modules())
    def fails(drawn: SmallModule) -> None:
        raise AssertionError

    with pytest.raises(AssertionError) as raised:
        fails()
    notes = "".join(raised.value.__notes__)
    assert "small_module('linear', seed=0" in notes or "family='linear'" in notes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graphs(nodes=0), "nodes must be a whole number of at least 1"),
        (lambda: event_sequences(events=-1), "events must be a whole number of at least 0"),
        (lambda: event_sequences(types=0), "types must be a whole number of at least 1"),
        (lambda: event_sequences(horizon=0.0), "horizon must be a number above 0"),
        (lambda: event_sequences(horizon=np.inf), "horizon must be a number above 0"),
        (lambda: manifolds(families="spere"), "families must be some of sphere, .*did you mean 'sphere'"),
        (lambda: manifolds(families=("sphere", "subspace"), bounded=True), "families must not have 'subspace'"),
        (lambda: manifolds_with_points(points=0), "points must be a whole number of at least 1"),
        (lambda: torch_modules(families="lstm"), "families must be some of linear, mlp"),
        (lambda: torch_modules(width=0), "width must be a whole number of at least 1"),
        (lambda: torch_modules(dtype=torch.int64), "dtype must be a floating torch dtype"),
        (lambda: torch_modules(dtype="float32"), "dtype must be a floating torch dtype"),
        (lambda: small_module("lstm"), "family must be one of linear, mlp"),
        (lambda: small_module("mlp", seed=-1), "seed must be a whole number of at least 0"),
        (lambda: small_module("mlp", batch=0), "batch must be a whole number of at least 1"),
        (lambda: small_module("mlp", inputs="ones"), "inputs must be one of random, alike, zero"),
    ],
)
def test_bad_options_are_named(make: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()
