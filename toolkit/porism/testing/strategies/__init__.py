"""Hypothesis strategies for what papers and methods take, for property tests of one's own.

Every strategy draws what it promises and nothing else, reaches the corners (zeros, ties, extremes, points that
coincide), and shrinks to the simplest example there is. Options that make no sense raise
:class:`~porism.errors.ParameterError` where the strategy is made. Sizes are a number, or the smallest and the largest.
"""

from __future__ import annotations

from porism.testing.strategies.arguments import parameters, rngs
from porism.testing.strategies.arrays import distributions, logits, samples
from porism.testing.strategies.chains import stochastic_matrices
from porism.testing.strategies.decisions import (
    FiniteMDP,
    UncertaintySet,
    kernel_sets,
    mdps,
    uncertainty_sets,
)
from porism.testing.strategies.modules import SmallModule, small_module, torch_modules
from porism.testing.strategies.structures import EventSequence, event_sequences, graphs
from porism.testing.strategies.surfaces import PointsOnManifold, manifolds, manifolds_with_points

__all__ = [
    "EventSequence",
    "FiniteMDP",
    "PointsOnManifold",
    "SmallModule",
    "UncertaintySet",
    "distributions",
    "event_sequences",
    "graphs",
    "kernel_sets",
    "logits",
    "manifolds",
    "manifolds_with_points",
    "mdps",
    "parameters",
    "rngs",
    "samples",
    "small_module",
    "stochastic_matrices",
    "torch_modules",
    "uncertainty_sets",
]
