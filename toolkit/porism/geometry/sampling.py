"""Exact sampling by rejection, with every bound checked where it is used."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from porism.arrays import check_callable, check_count, check_generator
from porism.errors import ParameterError
from porism.geometry.checks import positive, real
from porism.geometry.protocol import Density, Points

# Bounds are certified up to rounding; proposals per wanted point after which a density counts as zero.
_ROUNDING = 1e-9
_PATIENCE = 100_000


def accept_reject(
    rng: np.random.Generator,
    n: int,
    propose: Callable[[int], Points],
    density: Callable[[Points], Points],
    bound: float,
    name: str,
) -> Points:
    """Draw n points whose density with respect to the proposal is proportional to ``density``.

    Parameters
    ----------
    rng
        Source of randomness for the acceptance.
    n
        How many points.
    propose
        Takes m and returns ``(m, D)`` proposals.
    density
        Takes proposals and returns ``(m,)`` values between 0 and ``bound``.
    bound
        What the density nowhere exceeds. Each proposal checks it.
    name
        What an error calls the density.

    Returns
    -------
    points
        ``(n, D)``, independent and exactly distributed if the bound holds everywhere.

    Raises
    ------
    ParameterError
        If a value is negative, NaN or above the bound, or if nearly nothing is accepted.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = accept_reject(rng, 20_000, lambda m: rng.uniform(size=(m, 1)), lambda u: u[:, 0], 1.0, "density")
    >>> bool(abs(x.mean() - 2 / 3) < 0.01)
    True
    """
    kept: list[Points] = [propose(0)]
    found = proposed = 0
    while found < n:
        rate = max(found, 1) / max(proposed, 1)
        batch = propose(min(int(1.1 * (n - found) / rate) + 16, 1_000_000))
        values = density(batch)
        if values.shape != batch.shape[:1]:
            raise ParameterError(f"{name} must return shape {batch.shape[:1]} for {batch.shape}, got {values.shape}")
        if not bool((values >= 0).all()):
            raise ParameterError(f"{name} must not be negative or NaN")
        if not bool((values <= bound * (1 + _ROUNDING)).all()):
            raise ParameterError(f"{name} reaches {float(values.max()):.6g}, above {name}_bound {bound:.6g}")
        accepted = batch[rng.uniform(size=len(batch)) * bound < values]
        kept.append(accepted)
        found += len(accepted)
        proposed += len(batch)
        if found < proposed / _PATIENCE - 10:
            raise ParameterError(f"{name} is too small against {name}_bound: {found} of {proposed} were accepted")
    return np.concatenate(kept)[:n]


def draw(
    rng: np.random.Generator,
    n: int,
    uniform: Callable[[int], Points],
    density: Density | None,
    density_bound: float | None,
) -> Points:
    """Draw n uniform points, or points with an unnormalised ``density`` by rejection from them.

    Parameters
    ----------
    rng
        Source of randomness, the one that ``uniform`` uses.
    n
        How many points.
    uniform
        Takes m and returns ``(m, D)`` points, uniform on the manifold.
    density, density_bound
        As in :meth:`porism.geometry.Manifold.sample`; both or neither.

    Returns
    -------
    points
        ``(n, D)``.

    Raises
    ------
    ParameterError
        For an rng that is no Generator, a density without a bound, a bound without a density, a density that is no
        function or does not return finite numbers, and as :func:`accept_reject` does.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> draw(rng, 3, lambda m: rng.uniform(size=(m, 1)), None, None).shape
    (3, 1)
    """
    n = check_count("n", n, 0)
    check_generator(rng)
    if density is None:
        if density_bound is not None:
            raise ParameterError("density_bound is given without density")
        return uniform(n)
    if density_bound is None:
        raise ParameterError("density_bound must be given with density: a number that the density nowhere exceeds")
    check_callable(density=density)
    bound = positive("density_bound", density_bound)
    return accept_reject(rng, n, uniform, lambda x: real("density", density(x)), bound, "density")
