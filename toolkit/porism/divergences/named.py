"""The f-divergences by their names, between probabilities or densities."""

from __future__ import annotations

from porism.arrays import Array
from porism.divergences.generators import Generator, generator
from porism.errors import ParameterError

_TV = generator("tv")
_SQUARED_HELLINGER = generator("squared_hellinger")
_PEARSON_CHI2 = generator("pearson_chi2")
_NEYMAN_CHI2 = generator("neyman_chi2")
_TRIANGULAR = generator("triangular")


def f_divergence(
    generator: Generator | str,
    p: Array,
    q: Array,
    *,
    axis: int = -1,
    weights: Array | None = None,
    normalize: bool = False,
    **parameters: float,
) -> Array:
    """D_f(p||q) = sum q f(p/q) + f'(inf) p(q = 0), the divergence of any generator.

    Parameters
    ----------
    generator
        A :class:`Generator`, or the name of one of the table with its ``**parameters``.
    p, q
        numpy arrays, torch tensors or nested lists; probabilities along ``axis``, other axes broadcast. float16,
        bfloat16 and integers are computed in float32 or the default float.
    axis
        The axis that is summed.
    weights
        Quadrature weights or a base measure along the axis, not negative; p and q are densities then, and
        ``sum(weights * p) = 1``. Shape ``(n,)`` or any that broadcasts.
    normalize
        Divide p and q by their sums instead of checking that they are 1.

    Returns
    -------
    Array
        Without ``axis``, from 0 to ``generator.bound``. Where only q has mass it adds q f(0), where only p has it
        p f'(inf): ``inf`` if these limits are. Small distances keep their relative precision. Tensors carry
        gradients; where f has an infinite one-sided slope at a zero the gradient is zero.

    Raises
    ------
    ParameterError
        For NaN, infinite or negative entries, sums that are not 1 (without ``normalize``), an empty axis, shapes
        that do not broadcast, mixed libraries or devices.

    Notes
    -----
    Csiszár 1967; Ali and Silvey 1966. Terms are those of the canonical f, with f(1) = f'(1) = 0, so that none is
    negative and sums that miss 1 by rounding do no harm.

    Examples
    --------
    >>> round(float(f_divergence("alpha", [0.5, 0.5], [0.25, 0.75], alpha=2)), 6)
    0.166667
    >>> float(f_divergence("kl", [0.5, 0.5], [1.0, 0.0]))
    inf
    """
    return resolve(generator, parameters).divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def resolve(chosen: Generator | str, parameters: dict[str, float]) -> Generator:
    """The generator itself, or the one of the table by name and parameters."""
    if not isinstance(chosen, Generator):
        return generator(chosen, **parameters)
    if parameters:
        raise ParameterError(f"{chosen.name} has its parameters already, got {', '.join(parameters)}")
    return chosen


def tv_distance(p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False) -> Array:
    """Total variation distance sum |p - q|/2.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis, weights, normalize
        As for :func:`f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, 1]; 1 for disjoint supports.

    Raises
    ------
    ParameterError
        As :func:`f_divergence`.

    Notes
    -----
    A metric, and the largest difference of probability over events. Its gradient is the sign's, 0 at ties.

    Examples
    --------
    >>> round(float(tv_distance([0.5, 0.5], [0.25, 0.75])), 6)
    0.25
    """
    return _TV.divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def squared_hellinger(
    p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Squared Hellinger distance sum (sqrt p - sqrt q)^2 / 2 = 1 - sum sqrt(p q).

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis, weights, normalize
        As for :func:`f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, 1]; 1 for disjoint supports.

    Raises
    ------
    ParameterError
        As :func:`f_divergence`.

    Notes
    -----
    Its square root is a metric. Some authors leave the half out.

    Examples
    --------
    >>> round(float(squared_hellinger([0.5, 0.5], [0.25, 0.75])), 6)
    0.034074
    """
    return _SQUARED_HELLINGER.divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def pearson_chi2(p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False) -> Array:
    """Pearson's chi-squared divergence sum (p - q)^2 / q.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis, weights, normalize
        As for :func:`f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, inf]; ``inf`` where p has mass and q has none.

    Raises
    ------
    ParameterError
        As :func:`f_divergence`.

    Notes
    -----
    Pearson 1900, with q expected and p observed.

    Examples
    --------
    >>> round(float(pearson_chi2([0.5, 0.5], [0.25, 0.75])), 6)
    0.333333
    """
    return _PEARSON_CHI2.divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def neyman_chi2(p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False) -> Array:
    """Neyman's chi-squared divergence sum (p - q)^2 / p.

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis, weights, normalize
        As for :func:`f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, inf]; ``inf`` where q has mass and p has none.

    Raises
    ------
    ParameterError
        As :func:`f_divergence`.

    Notes
    -----
    ``pearson_chi2`` with its arguments swapped.

    Examples
    --------
    >>> round(float(neyman_chi2([0.5, 0.5], [0.25, 0.75])), 6)
    0.25
    """
    return _NEYMAN_CHI2.divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def alpha_divergence(
    p: Array, q: Array, *, alpha: float, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Amari's divergence (sum p^a q^(1-a) - 1)/(a (a - 1)).

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    alpha
        Any finite number: 0 is KL(q||p), 1 is KL(p||q), 1/2 four times the squared Hellinger distance, 2 half of
        Pearson's and -1 half of Neyman's chi-squared; continuous through all of them.
    axis, weights, normalize
        As for :func:`f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, 1/(a(1-a))] for 0 < a < 1, else in [0, inf]; ``inf`` where q has mass and p has
        none (a <= 0) or where p has mass and q has none (a >= 1).

    Raises
    ------
    ParameterError
        As :func:`f_divergence`, and for alpha out of its range.

    Notes
    -----
    Amari 2009; his own parameter is 2a - 1, up to its sign. The alpha-divergence of preference optimisation, with
    f'(t) = (1 - t^-c)/c, has a = 1 - c. D_a(p||q) = D_{1-a}(q||p).

    Examples
    --------
    >>> round(float(alpha_divergence([0.5, 0.5], [0.25, 0.75], alpha=0.5)), 6)
    0.136297
    """
    return generator("alpha", alpha=alpha).divergence(p, q, axis=axis, weights=weights, normalize=normalize)


def triangular_discrimination(
    p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
) -> Array:
    """Triangular discrimination sum (p - q)^2 / (p + q).

    Parameters
    ----------
    p, q
        Probabilities along ``axis``, or densities if ``weights`` are given; other axes broadcast.
    axis, weights, normalize
        As for :func:`f_divergence`.

    Returns
    -------
    Array
        Without ``axis``, in [0, 2]; 2 for disjoint supports.

    Raises
    ------
    ParameterError
        As :func:`f_divergence`.

    Notes
    -----
    Topsøe 2000. Le Cam's divergence is half of it; its square root is a metric.

    Examples
    --------
    >>> round(float(triangular_discrimination([0.5, 0.5], [0.25, 0.75])), 6)
    0.133333
    """
    return _TRIANGULAR.divergence(p, q, axis=axis, weights=weights, normalize=normalize)
