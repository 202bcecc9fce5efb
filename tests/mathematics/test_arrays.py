"""What functions of arrays accept, and what they say to the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from porism.arrays import check_axis, check_finite, check_not_nan, floating, probabilities
from porism.errors import ParameterError


def test_half_precision_and_integers_become_floats_that_can_be_summed() -> None:
    _, (p, q) = floating(p=torch.ones(2, dtype=torch.bfloat16), q=torch.ones(2, dtype=torch.float16))
    assert p.dtype == q.dtype == torch.float32
    _, (p, nothing, q) = floating(optional=("nothing",), p=np.float16([1]), nothing=None, q=[1, 2])
    assert p.dtype == q.dtype == np.float64 and nothing is None
    assert floating(p=np.arange(3))[1][0].dtype == np.float64
    assert floating(p=torch.arange(3))[1][0].dtype == torch.float32


def test_nothing_is_copied_or_cut_from_the_graph_without_need() -> None:
    given = torch.ones(3, requires_grad=True)
    assert floating(p=given)[1][0] is given
    half = torch.ones(3, dtype=torch.float16, requires_grad=True)
    floating(p=half)[1][0].sum().backward()
    assert half.grad is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: floating(p=np.ones(3), q=torch.ones(3)), "p is numpy and q is torch"),
        (lambda: floating(p=torch.ones(3), q=torch.ones(3, device="meta")), "p is cpu and q is meta"),
        (lambda: floating(p=["a"]), "p must be an array of real numbers"),
        (lambda: floating(p=np.ones(2) * 1j), "p must be real numbers"),
        (lambda: check_not_nan(p=np.array([np.nan])), "p must not contain NaN"),
        (lambda: check_finite(p=torch.tensor([np.inf])), "p must be finite"),
        (lambda: check_axis(1, p=np.ones(3)), "p has shape (3,), which has no axis 1"),
        (lambda: check_axis(-1, p=np.ones((2, 0))), "p is empty along axis -1"),
        (lambda: check_axis(-1, p=np.ones(3), q=np.ones(1)), "p is 3 and q is 1"),
        (lambda: check_axis(-1, p=np.ones((2, 3)), q=np.ones((4, 3))), "their shapes do not broadcast"),
        (lambda: probabilities(np, axis=-1, p=np.array([1.5, -0.5])), "p must not be negative"),
        (lambda: probabilities(np, axis=-1, p=np.array([0.5, 0.6])), "p must sum to 1 along axis -1, a sum is 1.1"),
        (lambda: probabilities(np, axis=-1, p=np.zeros(2), normalize=True), "p sums to zero"),
        (lambda: probabilities(np, axis=-1, weights=-np.ones(2), p=np.ones(2)), "weights must not be negative"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        call()
    assert message in str(caught.value)


def test_weights_make_densities_of_probabilities() -> None:
    (p,) = probabilities(np, axis=0, weights=np.array([0.5, 0.5]), p=np.array([0.5, 1.5]))
    assert p.tolist() == [0.5, 1.5]
    (p,) = probabilities(np, axis=0, weights=np.array([0.5, 0.5]), p=np.array([1.0, 3.0]), normalize=True)
    assert p.tolist() == [0.5, 1.5]


def test_an_empty_batch_is_no_mistake() -> None:
    assert probabilities(np, axis=-1, p=np.ones((0, 3)))[0].shape == (0, 3)


def test_extended_precision_becomes_double() -> None:
    _, (x,) = floating(x=np.array([1 / 3], dtype=np.longdouble))
    assert x.dtype == np.float64
    assert x[0] == 1 / 3
