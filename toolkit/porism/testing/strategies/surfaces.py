"""The manifolds of :mod:`porism.geometry`, and points on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from porism.errors import ParameterError
from porism.testing.strategies._options import Sizes, names, numbers, size_range
from porism.testing.strategies.arguments import rngs

if TYPE_CHECKING:
    from porism.geometry import Manifold

Array = NDArray[np.float64]
ManifoldFamily = Literal[
    "sphere", "torus", "ellipsoid", "revolution torus", "stiefel", "swiss roll", "subspace", "product"
]

# How far apart points are that nearly coincide, as a share of the manifold's reach.
NEARLY = 1e-6


class PointsOnManifold(NamedTuple):
    """A manifold of dimension d in R^D and points on it.

    Attributes
    ----------
    manifold
        One of :mod:`porism.geometry`.
    points
        On the manifold up to rounding, shape (n, D).
    """

    manifold: Manifold
    points: Array


def manifolds(
    *, families: ManifoldFamily | tuple[ManifoldFamily, ...] | None = None, bounded: bool = False
) -> st.SearchStrategy[Manifold]:
    """Manifolds of :mod:`porism.geometry`: small and large, round and flat, thin ellipsoids and tight tori.

    Parameters
    ----------
    families
        Some of ``"sphere"``, ``"torus"`` (flat), ``"ellipsoid"``, ``"revolution torus"``, ``"stiefel"``,
        ``"swiss roll"``, ``"subspace"``, ``"product"`` (of two of the first two and subspaces); None is all.
    bounded
        Without subspaces and products with them, so that the volume is finite and there is a uniform distribution.

    Returns
    -------
    strategy of :class:`porism.geometry.Manifold`
        Of dimension at most 6, with lengths from 0.1 to 10. Shrinks to the unit circle, or the first of the families
        in the order above with sizes 1.

    Raises
    ------
    ParameterError
        For an unknown family, or subspaces that are to be bounded.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(manifolds(), lambda drawn: True)
    Sphere(dimension=1, radius=1.0)
    >>> find(manifolds(families="product"), lambda drawn: True)
    Product(Sphere(dimension=1, radius=1.0), Sphere(dimension=1, radius=1.0))
    """
    chosen = names("families", families, get_args(ManifoldFamily))
    if bounded and families is not None and "subspace" in chosen:
        raise ParameterError("families must not have 'subspace' when bounded")
    return st.deferred(lambda: _manifolds(chosen, bounded))  # scipy is imported when one is drawn


def manifolds_with_points(
    *,
    families: ManifoldFamily | tuple[ManifoldFamily, ...] | None = None,
    bounded: bool = False,
    points: Sizes = (1, 6),
) -> st.SearchStrategy[PointsOnManifold]:
    """Manifolds with points on them: random ones, poles, points that coincide or nearly do, opposite ones.

    Parameters
    ----------
    families, bounded
        As for :func:`manifolds`.
    points
        How many, or the smallest and largest number.

    Returns
    -------
    strategy of :class:`PointsOnManifold`
        Nearly coincident points are about 1e-6 of the reach apart. Shrinks to the simplest manifold with few points,
        all of them the projection of the first coordinate vector.

    Raises
    ------
    ParameterError
        As for :func:`manifolds`, and for fewer than one point.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(manifolds_with_points(), lambda drawn: True)
    PointsOnManifold(manifold=Sphere(dimension=1, radius=1.0), points=array([[1., 0.]]))
    """
    return _with_points(manifolds(families=families, bounded=bounded), size_range("points", points, 1))


def _manifolds(families: list[str], bounded: bool) -> st.SearchStrategy[Manifold]:
    from porism import geometry

    length, tied = st.floats(0.1, 10.0), numbers(0.1, 10.0, 1.0)
    small = st.integers(1, 3)
    spheres = st.builds(geometry.Sphere, small, length)
    tori = st.builds(geometry.Torus, small, length)
    flat = _subspaces()
    factors = st.one_of(spheres, tori) if bounded else st.one_of(spheres, tori, flat)
    known: dict[str, st.SearchStrategy[Manifold]] = {
        "sphere": spheres,
        "torus": tori,
        "ellipsoid": st.builds(geometry.Ellipsoid, st.lists(tied, min_size=2, max_size=4).map(tuple)),
        "revolution torus": st.builds(
            lambda minor, ratio: geometry.RevolutionTorus(ratio * minor, minor), length, numbers(1.1, 10.0, 2.0)
        ),
        "stiefel": st.integers(2, 3).flatmap(lambda n: st.builds(geometry.Stiefel, st.just(n), st.integers(1, n))),
        "swiss roll": st.builds(
            lambda start, turn, height, pitch: geometry.SwissRoll(start, start + turn, height, pitch),
            numbers(0.0, 10.0),
            *(length, length, length),
        ),
        "subspace": st.nothing() if bounded else flat,
        "product": st.builds(geometry.Product, factors, factors),
    }
    return st.one_of([known[family] for family in families])


@st.composite
def _subspaces(draw: st.DrawFn) -> Manifold:
    """Subspaces that are graphs over the first coordinates, which makes their bases independent."""
    from porism.geometry import AffineSubspace

    ambient = draw(st.integers(1, 4))
    dimension = draw(st.integers(1, ambient))
    slopes = [[draw(numbers(-10.0, 10.0, 0.0, 1.0)) for _ in range(dimension)] for _ in range(ambient - dimension)]
    offset = draw(st.lists(numbers(-10.0, 10.0, 0.0), min_size=ambient, max_size=ambient))
    return AffineSubspace(np.vstack([np.eye(dimension), np.array(slopes).reshape(-1, dimension)]), offset)


@st.composite
def _with_points(
    draw: st.DrawFn, manifold_strategy: st.SearchStrategy[Manifold], points: tuple[int, int]
) -> PointsOnManifold:
    manifold = draw(manifold_strategy)
    axes, rng, found = np.eye(manifold.ambient_dimension), draw(rngs()), np.empty((0, manifold.ambient_dimension))
    for _ in range(draw(st.integers(*points))):
        kinds = ["pole", "random"] if not len(found) else ["pole", "random", "same", "near", "opposite"]
        # The axis is drawn for every kind: an example of fewer choices would count as simpler than a pole.
        kind, axis = draw(st.sampled_from(kinds)), draw(st.sampled_from([*axes, *-axes]))
        match kind:
            case "pole":
                point = axis
            case "random":
                point = _random(manifold, rng)
            case "same":
                found = np.concatenate([found, found[:1]])
                continue
            case "near":
                point = found[0] + NEARLY * min(manifold.reach, 1.0) * axis
            case _:
                point = -found[0]
        found = np.concatenate([found, manifold.project(point)[None]])
    return PointsOnManifold(manifold, found)


def _random(manifold: Manifold, rng: np.random.Generator) -> Array:
    if np.isfinite(manifold.volume):
        return manifold.sample(rng, 1).ravel()
    return rng.standard_normal(manifold.ambient_dimension)
