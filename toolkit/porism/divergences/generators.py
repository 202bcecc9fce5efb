"""A generator f of an f-divergence, with everything that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from porism.arrays import Array, Namespace, check_axis, check_not_nan, check_number, floating
from porism.divergences import evaluate
from porism.divergences._arrays import check_defined
from porism.divergences._facts import FACTS
from porism.divergences._table import FUNCTIONS
from porism.divergences.parts import Functions, Limits
from porism.errors import MissingExtraError, ParameterError, did_you_mean

if TYPE_CHECKING:
    import sympy


@dataclass(frozen=True)
class Generator:
    """A convex f on t >= 0 with f(1) = 0 and f'(1) = 0, and D_f(p||q) = E_q[f(p/q)] + f'(inf) p(q = 0).

    Get one by :func:`generator` or :meth:`from_sympy`. The parameter of a family, such as ``alpha``, is fixed in it.

    Attributes
    ----------
    name, title
        Its key in the table, and what people call it.
    parameters
        Values of the family's parameter by name; empty for most.
    limits
        f(0), f(t)/t at infinity, f'(0), and f - t f' at infinity.
    curvature
        f''(1): near q, ``D_f = curvature / 2 * sum((p - q)**2 / q)``. Infinite at the corner of total variation.
    symmetric
        Whether D_f(p||q) = D_f(q||p) for all p, q.
    latex
        ``f``, ``derivative``, ``second_derivative``, ``conjugate``, ``curvature``, ``reward`` (the implicit reward
        of a policy regularised by this divergence, up to a constant) and ``variational``, from the symbols that
        the code was derived from.

    Examples
    --------
    >>> kl = generator("kl")
    >>> kl.curvature, kl.at_zero, kl.slope_at_infinity, kl.bound
    (1.0, 1.0, inf, inf)
    >>> round(float(kl.divergence([0.5, 0.5], [0.25, 0.75])), 6)
    0.143841
    """

    name: str
    functions: Functions = field(repr=False)
    limits: Limits = field(repr=False)
    curvature: float = field(repr=False)
    series: tuple[float, ...] = field(repr=False)
    title: str = field(default="", repr=False)
    parameters: Mapping[str, float] = field(default_factory=dict, hash=False)
    latex: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    symmetric: bool = field(default=False, repr=False)
    swap: Generator | tuple[str, Mapping[str, float]] | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def from_sympy(f: Callable[[sympy.Symbol], sympy.Expr], *, name: str) -> Generator:
        """Derive a generator from an expression of your own; takes a second, so keep the result.

        Parameters
        ----------
        f
            Called with a positive sympy symbol t; returns a convex expression of it alone that is 0 at t = 1.
            A multiple of t - 1 is subtracted so that the slope at 1 is 0 too; no divergence changes by that.
        name
            How it is called in errors and prints.

        Raises
        ------
        ParameterError
            If f has other symbols, if f(1) is not 0, or if f is not convex; it says which.
        MissingExtraError
            Without sympy.

        Examples
        --------
        >>> import sympy
        >>> mine = Generator.from_sympy(lambda t: t * sympy.log(t), name="mine")
        >>> round(float(mine.divergence([0.5, 0.5], [0.25, 0.75])), 6)
        0.143841
        >>> Generator.from_sympy(lambda t: sympy.log(t), name="hollow")
        Traceback (most recent call last):
        porism.errors.ParameterError: f of 'hollow' must be convex on t > 0, but f''(t) = -1/t**2 is negative at t = 1
        """
        try:
            from porism.divergences.own import compiled
        except ImportError:
            raise MissingExtraError("a generator of your own needs sympy: pip install 'porism[theory]'") from None
        return compiled(f, name)

    @property
    def at_zero(self) -> float:
        """f(0): what q loses per unit of mass where p has none."""
        return self.limits.at_zero

    @property
    def slope_at_infinity(self) -> float:
        """f'(inf), the limit of f(t)/t: what p loses per unit of mass where q has none."""
        return self.limits.slope_at_infinity

    @property
    def bound(self) -> float:
        """The largest value, f(0) + f'(inf), which mutually singular p and q have."""
        return self.at_zero + self.slope_at_infinity

    def f(self, t: Array) -> Array:
        """f at t >= 0, with its limits at 0 and infinity, exact to relative precision near t = 1."""
        xp, t = _nonnegative(t)
        return evaluate.f_at(self, t, xp)

    def derivative(self, t: Array) -> Array:
        """f' at t >= 0, with its limits at 0 and infinity."""
        xp, t = _nonnegative(t)
        return evaluate.derivative_at(self, t, xp)

    def second_derivative(self, t: Array) -> Array:
        """f'' at t > 0."""
        xp, t = _nonnegative(t)
        with evaluate.quiet():
            return self.functions.second_derivative(t, xp, **self.parameters)

    def conjugate(self, u: Array) -> Array:
        """f*(u) = sup over t >= 0 of u t - f(t); ``inf`` for u beyond f'(inf).

        Where no elementary form exists (Jeffreys, skew KL and most of your own), f'(t) = u is solved
        numerically to full precision; first and second gradients are right.
        """
        xp, (u,) = floating(u=u)
        check_not_nan(u=u)
        return evaluate.conjugate(self, u, xp)

    def link(self, ratio: Array, *, beta: float = 1.0) -> Array:
        """The implicit reward ``beta f'(ratio)`` of a policy, with ratio = policy/reference.

        It is the reward, up to a constant per prompt, whose optimal policy under the penalty
        ``beta D_f(policy||reference)`` is the given one: Wang et al. 2023, "Beyond Reverse KL", theorem 1.
        """
        return check_number("beta", beta) * self.derivative(ratio)

    def perspective(self, log_p: Array, log_q: Array, p: Array, q: Array, xp: Namespace) -> tuple[Array, Array, Array]:
        """``q f(p/q)``, ``p f'(p/q)`` and ``q (f - t f')(p/q)`` elementwise from finite logarithms.

        For fast loops: nothing is checked, ``xp`` is the arrays' namespace, and entries with probability zero
        are the caller's to treat, by :attr:`at_zero` and :attr:`slope_at_infinity`.
        """
        return self.functions.perspective(log_p, log_q, p, q, xp, **self.parameters)

    def divergence(
        self, p: Array, q: Array, *, axis: int = -1, weights: Array | None = None, normalize: bool = False
    ) -> Array:
        """D_f(p||q) of probabilities, or of densities with ``weights``; as :func:`porism.divergences.f_divergence`."""
        return evaluate.divergence(self, p, q, axis=axis, weights=weights, normalize=normalize)

    def divergence_logits(self, p_logits: Array, q_logits: Array, *, axis: int = -1) -> Array:
        """D_f(softmax(p_logits)||softmax(q_logits)); as :func:`porism.divergences.f_divergence_logits`."""
        return evaluate.divergence_logits(self, p_logits, q_logits, axis=axis)

    def swapped(self) -> Generator:
        """The generator t f(1/t), whose divergence of (p, q) is this one's of (q, p)."""
        if self.symmetric:
            return self
        if isinstance(self.swap, tuple):
            name, parameters = self.swap
            return generator(name, **parameters)
        return _swapped(self) if self.swap is None else self.swap

    def variational_bound(
        self, t_p: Array, t_q: Array, *, p_weights: Array | None = None, q_weights: Array | None = None, axis: int = -1
    ) -> Array:
        """E_p[T] - E_q[f*(T)], which is at most D_f(p||q), and equal for T = f'(p/q).

        Parameters
        ----------
        t_p, t_q
            Values of the critic T on samples of p and of q, or on their supports with ``p_weights``, ``q_weights``.
        p_weights, q_weights
            Probabilities of these points; equal ones if None.
        axis
            The axis of the samples.

        Notes
        -----
        Nguyen, Wainwright and Jordan 2010. ``-inf`` where T exceeds f'(inf) on a sample of q. The bound holds for
        expectations; the mean over samples scatters around it. NaN is refused, as are infinities that leave inf - inf.
        """
        xp, (t_p, t_q, p_weights, q_weights) = floating(
            optional=("p_weights", "q_weights"), t_p=t_p, t_q=t_q, p_weights=p_weights, q_weights=q_weights
        )
        check_axis(axis, t_p=t_p)
        check_axis(axis, t_q=t_q)
        check_not_nan(t_p=t_p, t_q=t_q)
        on_p = evaluate.mean(xp, t_p, p_weights, axis, names=("p_weights", "t_p"))
        on_q = evaluate.mean(xp, self.conjugate(t_q), q_weights, axis, names=("q_weights", "t_q"))
        with evaluate.quiet():
            bound = on_p - on_q
        check_defined("t_p and t_q", bound)
        return bound


def generator(name: str, **parameters: float) -> Generator:
    """Look up a generator of the table, with its family's parameter.

    Parameters
    ----------
    name
        One of ``kl``, ``reverse_kl``, ``jeffreys``, ``js``, ``generalised_js`` (``weight``, of p, between 0 and 1),
        ``skew_kl`` (``skew`` of q in the mixture, in (0, 1]), ``tv``, ``squared_hellinger``, ``pearson_chi2``,
        ``neyman_chi2``, ``alpha`` (any finite ``alpha``, Amari's with f''(1) = 1), ``triangular``.
    **parameters
        The family's parameter.

    Raises
    ------
    ParameterError
        For a name that is no string or not known, a missing or unknown parameter, or one out of its range.

    Examples
    --------
    >>> generator("alpha", alpha=0.5).bound
    4.0
    >>> generator("pearson")
    Traceback (most recent call last):
    porism.errors.ParameterError: no f-divergence is called 'pearson'; did you mean 'pearson_chi2'?
    """
    if not isinstance(name, str):
        raise ParameterError(f"generator must be a Generator or a name such as 'kl', got {name!r:.80}")
    if name not in FACTS:
        hint = did_you_mean(name.lower(), FACTS) or f"; there are {', '.join(FACTS)}"
        raise ParameterError(f"no f-divergence is called {name!r}{hint}")
    facts = FACTS[name]
    values = _checked(name, facts.parameter, parameters)
    swap: tuple[str, dict[str, float]] | None = None
    if facts.swap is not None:
        other, change = facts.swap
        swap = other, {key: change(value) if change else value for key, value in values.items()}
    return Generator(
        name=name,
        functions=FUNCTIONS[name],
        limits=Limits(*(float(value) for value in facts.limits(**values))),
        curvature=float(facts.curvature(**values)),
        series=tuple(float(c) for c in facts.series(**values)),
        title=facts.title,
        parameters=values,
        latex=facts.latex,
        symmetric=swap is not None and swap[0] == name and _close(swap[1], values),
        swap=swap,
    )


def _close(left: Mapping[str, float], right: Mapping[str, float]) -> bool:
    return all(math.isclose(left[key], right[key], abs_tol=1e-15) for key in right)


def _checked(name: str, known: tuple[str, float, float, str] | None, given: Mapping[str, Any]) -> dict[str, float]:
    wanted = [] if known is None else [known[0]]
    for key in given:
        if key not in wanted:
            raise ParameterError(f"{name} has no parameter {key!r}{did_you_mean(key, wanted)}")
    if known is None:
        return {}
    key, low, high, closed = known
    if key not in given:
        raise ParameterError(f"{name} needs its parameter {key}")
    value = check_number(key, given[key])
    above = value >= low if closed[0] == "[" else value > low
    below = value <= high if closed[1] == "]" else value < high
    if not (above and below):
        raise ParameterError(f"{key} must lie in {closed[0]}{low:g}, {high:g}{closed[1]}, got {value}")
    return {key: value}


def _swapped(original: Generator) -> Generator:
    """t f(1/t) of a generator whose swap has no name."""
    inner, given = original.functions, original.parameters

    def f(t: Array, xp: Namespace) -> Array:
        return t * inner.f(1 / t, xp, **given)

    def derivative(t: Array, xp: Namespace) -> Array:
        return inner.f(1 / t, xp, **given) - inner.derivative(1 / t, xp, **given) / t

    def second_derivative(t: Array, xp: Namespace) -> Array:
        return inner.second_derivative(1 / t, xp, **given) / t**3

    def perspective(log_p: Array, log_q: Array, p: Array, q: Array, xp: Namespace) -> tuple[Array, Array, Array]:
        term, p_slope, q_slope = inner.perspective(log_q, log_p, q, p, xp, **given)
        return term, q_slope, p_slope

    limits = original.limits
    return replace(
        original,
        name=f"swapped {original.name}",
        title=f"{original.title}, arguments swapped",
        functions=Functions(f, derivative, second_derivative, None, perspective),
        limits=Limits(*(limits[i] for i in (1, 0, 3, 2))),
        series=evaluate.swapped_series(original.series),
        parameters={},
        latex={},
        swap=original,
    )


def _nonnegative(t: Array) -> tuple[Namespace, Array]:
    xp, (t,) = floating(t=t)
    check_not_nan(t=t)
    if bool((t < 0).any()):
        raise ParameterError("t is a ratio of probabilities and must not be negative")
    return xp, t
