"""Manifolds in R^D: sampling, projection, tangents, curvature, reach, and geodesics where they are closed.

For simulations of theory: data on a low-dimensional set, rates of manifold learning, constants with the reach in them.
:class:`Manifold` states what each of them offers. Everything is numpy float64.
"""

from __future__ import annotations

from porism.geometry.curvature import estimate_reach, largest_curvature, scalar_curvature
from porism.geometry.ellipsoid import Ellipsoid
from porism.geometry.parametrised import Parametrised
from porism.geometry.product import Product
from porism.geometry.protocol import Manifold
from porism.geometry.sphere import Sphere
from porism.geometry.stiefel import Stiefel
from porism.geometry.subspace import AffineSubspace, LinearSubspace
from porism.geometry.swiss_roll import SwissRoll
from porism.geometry.torus import RevolutionTorus, Torus

__all__ = [
    "AffineSubspace",
    "Ellipsoid",
    "LinearSubspace",
    "Manifold",
    "Parametrised",
    "Product",
    "RevolutionTorus",
    "Sphere",
    "Stiefel",
    "SwissRoll",
    "Torus",
    "estimate_reach",
    "largest_curvature",
    "scalar_curvature",
]
