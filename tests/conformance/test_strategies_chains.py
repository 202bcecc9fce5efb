"""Strategies of chains and decision problems: their promises by networkx and by definition, corners, simplest examples."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import networkx as nx
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import find as search
from hypothesis import strategies as st

from porism.errors import ParameterError
from porism.testing.strategies import (
    FiniteMDP,
    UncertaintySet,
    kernel_sets,
    mdps,
    stochastic_matrices,
    uncertainty_sets,
)
from porism.testing.strategies.chains import Chain
from porism_sims.robust_mdp import planning, uncertainty

# Without the phase that explains what of an example matters, which takes ten times as long.
find = partial(search, settings=settings(max_examples=2000, phases=(Phase.generate, Phase.shrink)))
CHAINS: tuple[Any, ...] = get_args(Chain)


def digraph(matrix: np.ndarray) -> nx.DiGraph:
    return nx.from_numpy_array(matrix > 0, create_using=nx.DiGraph)


def leads_to_an_absorbing_state(matrix: np.ndarray) -> bool:
    absorbing = np.flatnonzero(np.diag(matrix) == 1)
    found = {state for target in absorbing for state in nx.ancestors(digraph(matrix), target)} | {*absorbing}
    return len(found) == len(matrix)


HOLDS = {
    "any": lambda matrix: True,
    "irreducible": lambda matrix: nx.is_strongly_connected(digraph(matrix)),
    "ergodic": lambda matrix: nx.is_strongly_connected(digraph(matrix)) and nx.is_aperiodic(digraph(matrix)),
    "absorbing": leads_to_an_absorbing_state,
}


@pytest.mark.parametrize("chain", CHAINS)
@given(data=st.data())
def test_chains_keep_their_promises(chain: Any, data: st.DataObject) -> None:
    matrix = data.draw(stochastic_matrices(rows=(1, 5), chain=chain))
    assert matrix.shape == (len(matrix), len(matrix)) and len(matrix) <= 5
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-14)
    assert matrix.min() >= 0
    assert matrix[matrix > 0].min() >= 1e-12 / 5 / 2
    assert HOLDS[chain](matrix)


@pytest.mark.parametrize("chain", ["any", "irreducible", "ergodic"])
@given(data=st.data())
def test_doubly_stochastic_chains_keep_their_promises(chain: Any, data: st.DataObject) -> None:
    matrix = data.draw(stochastic_matrices(rows=(1, 4), chain=chain, doubly=True))
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=1e-14)
    assert matrix.min() >= 0
    assert HOLDS[chain](matrix)


@given(stochastic_matrices(rows=(2, 3), columns=(1, 4)))
def test_channels_have_their_shape(matrix: np.ndarray) -> None:
    assert 2 <= matrix.shape[0] <= 3 and 1 <= matrix.shape[1] <= 4
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-14)


@pytest.mark.parametrize("doubly", [False, True])
@given(data=st.data())
def test_matrices_without_zeros(doubly: bool, data: st.DataObject) -> None:
    matrix = data.draw(stochastic_matrices(rows=(1, 4), zeros=False, doubly=doubly))
    assert matrix.min() >= 1e-12 / 4 / 2


@pytest.mark.parametrize("chain", CHAINS)
def test_simplest_chains(chain: Any) -> None:
    np.testing.assert_array_equal(find(stochastic_matrices(chain=chain), lambda x: True), [[1]])
    simplest = find(stochastic_matrices(rows=3, chain=chain), lambda x: True)
    first = [1, 0, 0] if chain == "absorbing" else [1 / 3] * 3
    np.testing.assert_array_equal(simplest, [first, [1 / 3] * 3, [1 / 3] * 3])


def test_simplest_doubly_stochastic_matrices() -> None:
    np.testing.assert_array_equal(find(stochastic_matrices(rows=3, doubly=True), lambda x: True), np.eye(3))
    cycle = find(stochastic_matrices(rows=3, doubly=True, chain="irreducible"), lambda x: np.trace(x) == 0)
    assert {*cycle.ravel()} == {0, 1}


@pytest.mark.slow
def test_chains_reach_their_corners() -> None:
    whole = stochastic_matrices(rows=3)
    np.testing.assert_array_equal(find(whole, lambda x: (np.sort(x) == [0, 0, 1]).all()), [[1, 0, 0]] * 3)
    assert np.trace(find(whole, lambda x: np.trace(x) == 3)) == 3  # nothing but absorbing states
    near = find(stochastic_matrices(rows=2, chain="ergodic"), lambda x: max(x[0, 1], x[1, 0]) < 1e-11)
    np.testing.assert_allclose(near, np.eye(2), atol=1e-11)
    periodic = find(stochastic_matrices(rows=3, chain="irreducible"), lambda x: not nx.is_aperiodic(digraph(x)))
    assert np.count_nonzero(periodic) < 6
    slow = find(stochastic_matrices(rows=3, chain="absorbing"), lambda x: 0 < np.sort(1 - np.diag(x))[1] < 1e-11)
    assert leads_to_an_absorbing_state(slow)
    uniform = find(stochastic_matrices(rows=2, doubly=True), lambda x: x.min() > 0)
    np.testing.assert_array_equal(uniform, np.full((2, 2), 0.5))


@given(mdps(states=(1, 3), actions=(1, 2), discount=(0.1, 0.95), magnitude=7.0))
def test_mdps_keep_their_promises(drawn: FiniteMDP) -> None:
    states, actions = drawn.rewards.shape
    assert states <= 3 and actions <= 2
    assert drawn.transitions.shape == (states, actions, states)
    np.testing.assert_allclose(drawn.transitions.sum(axis=-1), 1, rtol=1e-14)
    assert drawn.transitions.min() >= 0 and drawn.start.min() >= 0
    assert drawn.start.shape == (states,) and drawn.start.sum() == pytest.approx(1)
    assert np.abs(drawn.rewards).max() <= 7
    assert 0.1 <= drawn.discount <= 0.95
    np.testing.assert_array_equal(drawn.costs, -drawn.rewards)
    assert not np.signbit(drawn.costs[drawn.costs == 0]).any()
    assert {x.dtype for x in (drawn.transitions, drawn.rewards, drawn.start)} == {np.dtype(float)}


@given(mdps(zeros=False))
def test_mdps_without_zeros_are_ergodic(drawn: FiniteMDP) -> None:
    assert drawn.transitions.min() >= 1e-12 / 4 / 2


@given(mdps(), uncertainty_sets())
def test_simulators_take_what_is_drawn(drawn: FiniteMDP, nature: UncertaintySet) -> None:
    mdp = planning.MDP(drawn.costs, drawn.transitions, drawn.discount)
    assert uncertainty.Uncertainty(*nature).radius == nature.radius
    assert planning.robust_q(mdp, uncertainty.Uncertainty(*nature), np.zeros(mdp.shape[0])).shape == mdp.shape


@pytest.mark.slow
def test_mdps_reach_their_corners() -> None:
    simplest = find(mdps(), lambda drawn: True)
    assert [x.tolist() for x in (simplest.transitions, simplest.rewards, simplest.start)] == [[[[1]]], [[0]], [1]]
    assert simplest.discount == 0
    small = mdps(states=2, actions=2)
    stays = find(small, lambda m: (m.transitions[1] == [0, 1]).all())
    np.testing.assert_array_equal(stays.transitions[1], [[0, 1]] * 2)
    tied = find(
        small, lambda m: m.rewards[0, 0] == m.rewards[0, 1] != 0 and (m.transitions[:, 0] == m.transitions[:, 1]).all()
    )
    assert abs(tied.rewards[0, 0]) == 1
    assert find(small, lambda m: (np.sort(m.transitions) == [0, 1]).all()).discount == 0
    assert find(small, lambda m: m.discount == 0.99).rewards.tolist() == [[0, 0], [0, 0]]
    assert find(small, lambda m: 1 in m.start).start.tolist() == [1, 0]


def test_kinds_are_those_of_the_simulator() -> None:
    seen = {find(uncertainty_sets(kinds=kind), lambda drawn: True).kind for kind in get_args(uncertainty.Kind)}
    assert seen == {*get_args(uncertainty.Kind)}
    with pytest.raises(ParameterError, match="did you mean 'tv'"):
        uncertainty_sets(kinds="tvs")  # type: ignore[arg-type]


@given(uncertainty_sets(kinds=("tv", "kl"), radius=(0.1, 3.0), supports="nominal"))
def test_uncertainty_sets_keep_their_promises(drawn: UncertaintySet) -> None:
    assert drawn.kind in ("tv", "kl") and drawn.support == "nominal"
    assert 0.1 <= drawn.radius <= 3


def test_uncertainty_sets_reach_their_corners() -> None:
    assert find(uncertainty_sets(), lambda drawn: True) == ("contamination", 0, "full")
    assert find(uncertainty_sets(), lambda drawn: drawn.kind == "kl" and 0 < drawn.radius < 1e-9).radius == 1e-12
    assert (
        find(uncertainty_sets(), lambda drawn: drawn.radius == 1 and drawn.support == "nominal").kind == "contamination"
    )


@given(st.data(), mdps(states=(1, 3), actions=(1, 2)), st.floats(0, 1))
def test_kernel_sets_keep_their_promises(data: st.DataObject, mdp: FiniteMDP, radius: float) -> None:
    kernels = data.draw(kernel_sets(mdp.transitions, kernels=(1, 3), radius=radius))
    assert 1 <= len(kernels) <= 3 and kernels.shape[1:] == mdp.transitions.shape
    np.testing.assert_array_equal(kernels[0], mdp.transitions)
    np.testing.assert_allclose(kernels.sum(axis=-1), 1, rtol=1e-14)
    assert kernels.min() >= 0
    assert (np.abs(kernels - mdp.transitions).sum(axis=-1) / 2 <= radius + 1e-14).all()


def test_kernel_sets_reach_their_corners() -> None:
    nominal = np.array([[[0.5, 0.5]], [[0.0, 1.0]]])
    sets = kernel_sets(nominal, radius=0.5)
    np.testing.assert_array_equal(find(sets, lambda x: True), nominal[None])
    far = find(sets, lambda x: (np.abs(x - nominal).sum(axis=-1) == 0.5).any())
    assert len(far) == 2
    assert len(find(sets, lambda x: len(x) == 2 and (x[0] == x[1]).all())) == 2


@given(mdps(states=(2, 3)).flatmap(lambda m: st.tuples(st.just(m), kernel_sets(m.transitions, kernels=(2, 3)))))
def test_the_rectangular_hull_is_at_least_as_bad_as_each_kernel(pair: tuple[FiniteMDP, np.ndarray]) -> None:
    mdp, kernels = pair
    assume(mdp.discount < 1)
    value = np.zeros(len(mdp.start))
    for _ in range(5):
        worst = (kernels @ value).min(axis=0)
        for kernel in kernels:
            assert (worst <= kernel @ value + 1e-12).all()
        value = (mdp.rewards + mdp.discount * worst).max(axis=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stochastic_matrices(rows=0), "rows must be a whole number of at least 1"),
        (lambda: stochastic_matrices(columns=0), "columns must be a whole number of at least 1"),
        (lambda: stochastic_matrices(chain="aperiodic"), "chain must be one of any, irreducible, ergodic, absorbing"),
        (lambda: stochastic_matrices(columns=3, chain="ergodic"), "columns must be None"),
        (lambda: stochastic_matrices(columns=3, doubly=True), "columns must be None"),
        (lambda: stochastic_matrices(chain="absorbing", zeros=False), "chain must not be 'absorbing'"),
        (lambda: stochastic_matrices(chain="absorbing", doubly=True), "chain must not be 'absorbing'"),
        (lambda: mdps(states=0), "states must be a whole number of at least 1"),
        (lambda: mdps(actions=(2, 1)), "actions must be"),
        (lambda: mdps(discount=1.5), "discount must be a number at least 0 and at most 1, got 1.5"),
        (lambda: mdps(discount=(0.9, 0.1)), r"discount must be \(least, greatest\) in this order"),
        (lambda: mdps(magnitude=-1), "magnitude must be a number at least 0"),
        (lambda: uncertainty_sets(kinds=()), "kinds must be some of contamination, tv, l1, linf, chi2, kl, got none"),
        (lambda: uncertainty_sets(supports="whole"), "supports must be some of full, nominal, got 'whole'"),
        (lambda: uncertainty_sets(radius=2.0), "radius must be a number at least 0 and at most 1"),
        (lambda: uncertainty_sets(kinds="kl", radius=-1.0), "radius must be a number at least 0"),
        (lambda: kernel_sets([[0.5, 0.6]]), "nominal must have rows"),
        (lambda: kernel_sets([[np.nan, 1.0]]), "nominal must have rows"),
        (lambda: kernel_sets(1.0), "nominal must have shape"),
        (lambda: kernel_sets([1.0], kernels=0), "kernels must be a whole number of at least 1"),
        (lambda: kernel_sets([1.0], radius=1.1), "radius must be a number at least 0 and at most 1"),
    ],
)
def test_bad_options_are_named(make: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()
