"""Decision problems: finite Markov decision processes, and what nature may do to their transitions."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import ArrayLike, NDArray

from porism.arrays import check_number
from porism.errors import ParameterError
from porism.testing.strategies._options import Numbers, Sizes, names, number_range, numbers, size_range
from porism.testing.strategies.arrays import normalised
from porism.testing.strategies.chains import row_weights, stochastic_rows

Array = NDArray[np.float64]
UncertaintyKind = Literal["contamination", "tv", "l1", "linf", "chi2", "kl"]
Support = Literal["full", "nominal"]


class FiniteMDP(NamedTuple):
    """A Markov decision process with S states and A actions, as arrays that every library takes.

    Attributes
    ----------
    transitions
        Probability of the next state, by state and action, shape (S, A, S).
    rewards
        Expected reward of each state and action, shape (S, A).
    discount
        Of the process.
    start
        Distribution of the first state, shape (S,).
    """

    transitions: Array
    rewards: Array
    discount: float
    start: Array

    @property
    def costs(self) -> Array:
        """The rewards with the other sign, shape (S, A)."""
        return 0.0 - self.rewards  # 0 and not -0


class UncertaintySet(NamedTuple):
    """A set of distributions around each nominal row, for each state and action on its own ((s, a)-rectangular).

    Attributes
    ----------
    kind
        ``"contamination"``: ``(1 - radius) nominal + radius q`` with any ``q``; otherwise what is at most the radius:
        ``"tv"`` half the L1 distance, ``"l1"`` the L1 distance, ``"linf"`` the largest change of a probability,
        ``"chi2"`` ``sum (p - nominal)^2 / nominal``, ``"kl"`` ``KL(p || nominal)`` in nats.
    radius
        At least 0.
    support
        ``"full"``: mass may go to every state; ``"nominal"``: only to those that have some.
    """

    kind: UncertaintyKind
    radius: float
    support: Support


def mdps(
    *,
    states: Sizes = (1, 4),
    actions: Sizes = (1, 3),
    discount: Numbers = (0.0, 0.99),
    magnitude: float = 1.0,
    zeros: bool = True,
) -> st.SearchStrategy[FiniteMDP]:
    """Finite Markov decision processes: with ties, tied actions, deterministic transitions and absorbing states.

    Simulators of this project take one as ``MDP(drawn.costs, drawn.transitions, drawn.discount)``; libraries that want
    shape (A, S, S) take ``drawn.transitions.swapaxes(0, 1)``.

    Parameters
    ----------
    states, actions
        How many, or the smallest and largest number of each.
    discount
        One, or the least and the greatest, in [0, 1].
    magnitude
        Largest absolute reward.
    zeros
        Whether a probability may be exactly 0. Without zeros every policy visits every state again and again, and the
        smallest transition probability is 1e-12 over the number of states.

    Returns
    -------
    strategy of :class:`FiniteMDP`
        Shrinks to few states and actions, uniform transitions, no rewards, the least discount, a uniform start.

    Raises
    ------
    ParameterError
        For sizes below 1, a discount outside [0, 1], or a magnitude that is negative or not finite.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(mdps(states=2, actions=1), lambda drawn: True)
    FiniteMDP(transitions=array([[[0.5, 0.5]],
    <BLANKLINE>
           [[0.5, 0.5]]]), rewards=array([[0.],
           [0.]]), discount=0.0, start=array([0.5, 0.5]))
    """
    return _mdps(
        size_range("states", states, 1),
        size_range("actions", actions, 1),
        number_range("discount", discount, at_least=0, at_most=1),
        check_number("magnitude", magnitude, at_least=0, at_most=float(np.finfo(float).max)),
        zeros,
    )


def uncertainty_sets(
    *,
    kinds: UncertaintyKind | tuple[UncertaintyKind, ...] | None = None,
    radius: Numbers = (0.0, 1.0),
    supports: Support | tuple[Support, ...] | None = None,
) -> st.SearchStrategy[UncertaintySet]:
    """Sets of distributions around a nominal one: every kind, with radii that are 0, tiny, and the largest.

    Simulators of this project take one as ``Uncertainty(*drawn)``.

    Parameters
    ----------
    kinds, supports
        Some of those of :class:`UncertaintySet`; None is all.
    radius
        One, or the least and the greatest, not negative; with contamination at most 1.

    Returns
    -------
    strategy of :class:`UncertaintySet`
        Shrinks to the first kind that is allowed, in the order above, with the least radius.

    Raises
    ------
    ParameterError
        For an unknown kind or support, or a radius out of its range.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(uncertainty_sets(), lambda drawn: True)
    UncertaintySet(kind='contamination', radius=0.0, support='full')
    """
    chosen = names("kinds", kinds, get_args(UncertaintyKind))
    most = 1.0 if "contamination" in chosen else float(np.finfo(float).max)
    radii = number_range("radius", radius, at_least=0, at_most=most)
    where = names("supports", supports, get_args(Support))
    # 1e-12, where a radius is easily lost in rounding
    parts = st.sampled_from(chosen), numbers(*radii, radii[0], 1e-12), st.sampled_from(where)
    return st.builds(UncertaintySet, *parts)


def kernel_sets(nominal: ArrayLike, *, kernels: Sizes = (1, 4), radius: float = 1.0) -> st.SearchStrategy[Array]:
    """Finite sets of transitions around nominal ones: ``mdps().flatmap(lambda m: kernel_sets(m.transitions))``.

    Taken (s, a)-rectangularly, nature chooses one of the K rows for each state and action on its own; taken as they
    are, it chooses one kernel.

    Parameters
    ----------
    nominal
        Transitions, shape (S, A, S) or any (..., S) with rows that are distributions.
    kernels
        How many, or the smallest and largest number, the nominal one among them.
    radius
        In [0, 1]. Each is ``(1 - share) nominal + share q`` with shares of at most the radius, so that no row is
        further than the radius from the nominal one in total variation.

    Returns
    -------
    strategy of ndarrays of shape (K, S, A, S)
        The nominal kernel is the first. There are kernels that occur twice, and shares of 0 and of the radius.
        Shrinks to the nominal one alone.

    Raises
    ------
    ParameterError
        For a nominal array whose rows are no distributions, sizes below 1, or a radius out of its range.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(kernel_sets([[[1.0]]]), lambda drawn: True)
    array([[[[1.]]]])
    """
    centre = np.array(nominal, dtype=np.float64)
    if centre.ndim == 0 or centre.size == 0:
        raise ParameterError(f"nominal must have shape (..., states), one state at least, got {centre.shape}")
    if not bool((centre >= 0).all()) or bool((np.abs(centre.sum(axis=-1) - 1) > 1e-9).any()):
        raise ParameterError("nominal must have rows that are not negative and sum to 1")
    return _kernel_sets(
        centre, size_range("kernels", kernels, 1), check_number("radius", radius, at_least=0, at_most=1)
    )


@st.composite
def _mdps(
    draw: st.DrawFn,
    states: tuple[int, int],
    actions: tuple[int, int],
    discount: tuple[float, float],
    magnitude: float,
    zeros: bool,
) -> FiniteMDP:
    count, choices = draw(st.integers(*states)), draw(st.integers(*actions))
    # Drawn at the largest size and cut, so that hypothesis can take out states and actions and leave the rest; cut from
    # the front, as what it cannot simplify it moves to the end.
    most = states[1], actions[1], states[1]
    weights = draw(row_weights(most[0] * most[1], most[2], zeros=zeros)).reshape(most)[-count:, -choices:, -count:]
    transitions = normalised(weights.reshape(-1, count)).reshape(weights.shape)
    reward = numbers(-magnitude, magnitude, 0.0, magnitude).map(lambda x: x + 0.0)  # no -0.0
    rewards = draw(npst.arrays(np.float64, most[:2], elements=reward, fill=st.nothing()))[-count:, -choices:]
    if zeros:
        absorbing = np.array(draw(st.lists(st.sampled_from([False, False, True]), min_size=most[0], max_size=most[0])))
        transitions[absorbing[-count:]] = np.eye(count)[absorbing[-count:], None]
    if draw(st.booleans()):  # the last action is the first one again
        transitions[:, -1], rewards[:, -1] = transitions[:, 0], rewards[:, 0]
    start = normalised(draw(row_weights(1, most[0], zeros=zeros))[:, -count:])[0]
    return FiniteMDP(transitions, rewards, draw(numbers(*discount)), start)


@st.composite
def _kernel_sets(draw: st.DrawFn, nominal: Array, kernels: tuple[int, int], radius: float) -> Array:
    rows, states = nominal.size // nominal.shape[-1], nominal.shape[-1]
    members = [nominal]
    for _ in range(1, draw(st.integers(*kernels))):
        share = draw(numbers(0.0, radius))
        other = draw(stochastic_rows(rows, states, zeros=True)).reshape(nominal.shape)
        members.append((1 - share) * nominal + share * other)
    return np.stack(members)
