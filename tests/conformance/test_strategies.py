"""Strategies of arguments and arrays draw what they promise, reach the corners, and shrink to something readable."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Interval
from hypothesis import Phase, given, settings
from hypothesis import find as search

from porism import always, figure
from porism.errors import ParameterError
from porism.parameters import bind, parameters_of
from porism.testing import strategies
from porism.testing.strategies import distributions, logits, parameters, rngs, samples

# Without the phase that explains what of an example matters, which takes ten times as long.
find = partial(search, settings=settings(max_examples=2000, phases=(Phase.generate, Phase.shrink)))


def simulate(
    rng: np.random.Generator,
    *,
    steps: Annotated[int, Interval(gt=1, le=12)] = 3,
    ridge: Annotated[float, Interval(gt=0, lt=1)] = 0.5,
    mode: Literal["slow", "fast"] = "slow",
    noisy: bool = True,
) -> None: ...


@given(parameters(simulate))
def test_parameters_are_in_their_ranges(drawn: dict) -> None:
    assert bind(parameters_of(simulate), drawn) == drawn
    assert set(drawn) == {"steps", "ridge", "mode", "noisy"}


def test_parameters_of_claims_and_figures() -> None:
    claim = always("A claim", where="here")(simulate)
    drawing = figure("A figure", where="here")(simulate)
    for owner in (claim, drawing):
        assert find(parameters(owner), lambda drawn: drawn["steps"] > 5)["steps"] == 6


def test_parameters_without_a_range() -> None:
    def bad(rng: np.random.Generator, *, name: str = "x") -> None: ...

    with pytest.raises(ParameterError, match="name"):
        parameters(bad)


@given(logits(dtype=np.float32, rows=(2, 5), classes=(3, 4), magnitude=500.0))
def test_logits_keep_their_promises(drawn: np.ndarray) -> None:
    assert drawn.dtype == np.float32
    assert 2 <= drawn.shape[0] <= 5
    assert 3 <= drawn.shape[1] <= 4
    assert np.abs(drawn).max() <= 500


@given(logits(dtype=np.float16, magnitude=6e4))
def test_half_precision_logits_are_finite(drawn: np.ndarray) -> None:
    assert drawn.dtype == np.float16
    assert np.isfinite(drawn).all()


def test_logits_reach_extremes_and_ties() -> None:
    np.testing.assert_array_equal(find(logits(), lambda x: np.abs(x).max() > 1e3), [[0.0, 1e4]])
    assert find(logits(), lambda x: x[0, 0] == x[0, 1] != 0).shape == (1, 2)
    assert find(logits(), lambda x: 0 < x[0, 0] < 1 and len(x) == 2).shape == (2, 2)


@given(logits(rows=3, classes=2, masked=True))
def test_masked_logits_leave_one_in_each_row(drawn: np.ndarray) -> None:
    assert drawn.shape == (3, 2)
    assert np.isfinite(drawn).any(axis=1).all()
    assert (np.isfinite(drawn) | np.isneginf(drawn)).all()


@pytest.mark.parametrize("magnitude", [0.1, 0.3, 7.7])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_magnitude_between_two_floats_is_kept(magnitude: float, dtype: Any) -> None:
    drawn = find(logits(magnitude=magnitude, dtype=dtype), lambda x: float(x.max()) > magnitude * 0.999)
    assert drawn.max() <= magnitude


def test_masked_logits_reach_masks() -> None:
    np.testing.assert_array_equal(find(logits(masked=True), lambda x: np.isneginf(x).any()), [[0, -np.inf]])


@given(distributions())
def test_distributions_sum_to_one(drawn: np.ndarray) -> None:
    assert ((drawn == 0) | (drawn >= 1e-300 / 8)).all()
    np.testing.assert_allclose(drawn.sum(axis=1), 1, rtol=1e-14)


@given(distributions(zeros=False))
def test_distributions_without_zeros(drawn: np.ndarray) -> None:
    assert (drawn > 1e-14).all()


def test_distributions_reach_corners() -> None:
    np.testing.assert_array_equal(find(distributions(), lambda p: p.max() == 1), [[1, 0]])
    assert find(distributions(), lambda p: 0 < p.min() < 1e-200).shape == (1, 2)
    assert find(distributions(), lambda p: len(p) == 2 and p.shape[1] == 3).tolist() == [[1 / 3] * 3] * 2


def test_pairs_of_distributions_may_be_disjoint_or_equal() -> None:
    pairs = distributions(rows=2, classes=(2, 4))
    np.testing.assert_array_equal(find(pairs, lambda x: (x[0] * x[1] == 0).all()), [[1, 0], [0, 1]])
    np.testing.assert_array_equal(
        find(pairs, lambda x: x.shape == (2, 3) and (x[0] == x[1]).all()), np.full((2, 3), 1 / 3)
    )


@given(samples(points=(2, 5), dimension=(1, 3), magnitude=50.0))
def test_samples_keep_their_promises(drawn: np.ndarray) -> None:
    assert drawn.dtype == np.float64
    assert 2 <= drawn.shape[0] <= 5 and 1 <= drawn.shape[1] <= 3
    assert np.abs(drawn).max() <= 50
    assert not np.signbit(drawn[drawn == 0]).any()


def test_samples_reach_ties_and_extremes() -> None:
    plane = samples(points=(1, 4), dimension=2, magnitude=5.0)
    np.testing.assert_array_equal(find(plane, lambda x: np.abs(x).max() == 5), [[0, 5]])
    np.testing.assert_array_equal(
        find(plane, lambda x: len(x) == 2 and x.all() and (x[0] == x[1]).all()), np.ones((2, 2))
    )
    close = find(plane, lambda x: len(x) == 2 and 0 < np.abs(x[0] - x[1]).max() < 1e-6)
    assert np.abs(close[0] - close[1]).max() <= 5e-9
    assert 0 < find(samples(), lambda x: 0 < np.abs(x).min() < 1e-200)[0] < 1e-200
    np.testing.assert_array_equal(find(samples(points=3), lambda x: True), np.zeros(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: logits(rows=0), "rows must be a whole number of at least 1, got 0"),
        (lambda: logits(classes=(3, 2)), r"classes must be \(smallest, largest\) in this order"),
        (lambda: logits(classes=(1, 2, 3)), "classes must be one number or two"),
        (lambda: logits(rows=True), "rows must be a whole number"),
        (lambda: logits(magnitude=0.0), "magnitude must be a number above 0"),
        (lambda: logits(magnitude=1e5, dtype=np.float16), "magnitude must be a number above 0 and at most 65504"),
        (lambda: logits(magnitude=1e-300, dtype=np.float32), "magnitude must not vanish in float32"),
        (lambda: logits(dtype=np.int64), "dtype must be a floating type"),
        (lambda: distributions(rows=1.5), "rows must be a whole number"),
        (lambda: distributions(classes=(0, 2)), "classes must be a whole number of at least 1, got 0"),
        (lambda: samples(points=0), "points must be a whole number of at least 1"),
        (lambda: samples(dimension=(2, 1)), "dimension must be"),
        (lambda: samples(magnitude=np.inf), "magnitude must be a number above 0 and at most"),
    ],
)
def test_bad_options_are_named(make: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()


def test_importing_strategies_is_light_and_every_name_is_there() -> None:
    code = (
        "import sys, porism.testing.strategies as s; "
        "s.torch_modules(), s.manifolds_with_points(), s.graphs(); "
        "assert not {'torch', 'networkx', 'sympy', 'scipy'} & {*sys.modules}, 'heavy'; "
        "import porism.geometry, torch; "
        "assert all(callable(getattr(s, name)) for name in s.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert strategies.__all__ == sorted(strategies.__all__)


def test_generators_are_fresh_and_shown_by_their_seed() -> None:
    seen = []

    @given(rngs())
    def draws(rng: np.random.Generator) -> None:
        seen.append(rng.random())
        assert len(seen) < 3

    with pytest.raises(AssertionError) as raised:
        draws()
    assert "default_rng(" in "".join(raised.value.__notes__)
