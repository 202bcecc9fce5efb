"""Exact planning when nature chooses the transitions: robust values, worst kernels, value and policy iteration.

A Markov decision process with finitely many states S and actions A, costs to be minimised, and a transition row for
each pair that nature draws from an uncertainty set around the nominal one, for each pair on its own
((s, a)-rectangular). Kernels are stored compactly, as successors and their probabilities, so that one backup costs
O(S A b log b) with b successors; a dense kernel is taken as well.

Robust dynamic programming: Iyengar 2005, Nilim and El Ghaoui 2005.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from porism.arrays import check_finite, check_number
from porism.errors import ParameterError, PorismError
from porism_sims.robust_mdp.uncertainty import Uncertainty, check_distributions, solve_inner

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

# Residuals below this share of the largest value are rounding, and so are gains below it.
ROUNDING = 1e-13
_MOST_ROUNDS = 1000
# Probabilities that a backup looks at together.
_BLOCK = 2**15


class Kernel(NamedTuple):
    """Transition probabilities, as successors (S, A, b) and their ``probabilities`` (S, A, b)."""

    successors: Indices
    probabilities: Array

    def mean(self, values: Array) -> Array:
        """Expected value of the next state, shape (S, A)."""
        return np.vecdot(self.probabilities, values[self.successors])

    def dense(self, states: int | None = None) -> Array:
        """The kernel as an array of shape (S, A, S); ``states`` says how many there are if these are not all rows."""
        rows, actions, _ = self.successors.shape
        columns = states or rows
        places = np.arange(rows * actions).reshape(rows, actions, 1) * columns + self.successors
        dense = np.bincount(places.ravel(), self.probabilities.ravel(), rows * actions * columns)
        return dense.reshape(rows, actions, columns)

    def under(self, policy: Array) -> Array:
        """The chain (S, S) of the states when the policy (S, A) acts."""
        states = len(self.successors)
        places = np.arange(states)[:, None, None] * states + self.successors
        weights = policy[..., None] * self.probabilities
        return np.bincount(places.ravel(), weights.ravel(), states**2).reshape(states, states)


@dataclass(frozen=True, eq=False)
class MDP:
    """A Markov decision process with costs.

    Parameters
    ----------
    costs
        Cost of each state and action, finite, shape (S, A).
    kernel
        Nominal transitions: a dense array of shape (S, A, S), or a :class:`Kernel`, whose rows may be padded with
        successors of probability 0.
    discount
        In [0, 1).

    Raises
    ------
    ParameterError
        If there are no states or no actions, shapes do not fit, rows are no distributions, a row names a successor
        twice, or the discount is not in [0, 1).

    Examples
    --------
    >>> kernel = np.full((2, 1, 2), 0.5)
    >>> mdp = MDP([[0.0], [1.0]], kernel, 0.9)
    >>> evaluate(mdp, Uncertainty("tv", 0.1), np.ones((2, 1))).values.round(3)
    array([5.4, 6.4])
    """

    costs: Array
    kernel: Kernel
    discount: float

    def __post_init__(self) -> None:
        costs = np.array(self.costs, dtype=float)
        if costs.ndim != 2 or 0 in costs.shape:
            raise ParameterError(f"costs must have shape (states, actions), one of each at least, got {costs.shape}")
        check_finite(costs=costs)
        kernel = self.kernel if isinstance(self.kernel, Kernel) else compress(self.kernel)
        _check_kernel(kernel, costs.shape)
        object.__setattr__(self, "costs", costs)
        object.__setattr__(self, "kernel", kernel)
        object.__setattr__(self, "discount", check_number("discount", self.discount, at_least=0, below=1))

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of states and of actions."""
        return self.costs.shape[0], self.costs.shape[1]

    def restricted(self, actions: ArrayLike) -> MDP:
        """The process that has one action in each state, those given with shape (S,)."""
        chosen = np.arange(len(self.costs)), np.asarray(actions)
        costs, successors, probabilities = (part[chosen][:, None] for part in (self.costs, *self.kernel))
        return MDP(costs, Kernel(successors, probabilities), self.discount)


class Evaluation(NamedTuple):
    """What a policy costs when nature does its worst.

    Attributes
    ----------
    values, q
        Robust values, shape (S,), and robust state-action values, shape (S, A).
    kernel
        Worst transitions for these values.
    rounds
        Linear systems solved.
    """

    values: Array
    q: Array
    kernel: Kernel
    rounds: int


class Plan(NamedTuple):
    """An optimal policy against the worst transitions.

    Attributes
    ----------
    values, q
        Optimal robust values, shape (S,), and state-action values, shape (S, A).
    policy
        Deterministic, as rows of zeros and a one, shape (S, A).
    rounds
        Improvements (policy iteration) or backups (value iteration).
    residual
        Largest ``|T values - values|``.
    """

    values: Array
    q: Array
    policy: Array
    rounds: int
    residual: float


def compress(kernel: ArrayLike) -> Kernel:
    """The compact form of a dense kernel of shape (S, A, S), with as many successors as the fullest row has.

    Examples
    --------
    >>> compress(np.eye(3)[:, None]).successors[:, 0, 0]
    array([0, 1, 2])
    """
    dense = np.asarray(kernel, dtype=float)
    if dense.ndim != 3 or dense.shape[0] != dense.shape[2] or 0 in dense.shape:
        raise ParameterError(f"kernel must have shape (states, actions, states), got {dense.shape}")
    width = max(1, int(np.count_nonzero(dense, axis=-1).max()))
    successors = np.argsort(dense == 0, axis=-1, kind="stable")[..., :width]
    return Kernel(successors, np.take_along_axis(dense, successors, axis=-1))


def worst_kernel(mdp: MDP, uncertainty: Uncertainty, values: Array) -> Kernel:
    """The transitions in the uncertainty set with the largest mean of ``values``, shape (S,), for all pairs at once."""
    return _worst(mdp.kernel, uncertainty, values)


def robust_q(mdp: MDP, uncertainty: Uncertainty, values: Array) -> Array:
    """One robust backup: cost plus discounted worst mean of ``values`` (S,) for each state and action, shape (S, A).

    Its minimum over actions is the robust Bellman operator.
    """
    successors, probabilities = mdp.kernel
    # Some states at a time: what is computed on the way then stays in the processor's cache.
    states = max(1, _BLOCK // successors[0].size)
    parts = (Kernel(successors[i : i + states], probabilities[i : i + states]) for i in range(0, len(values), states))
    worst = [_worst(part, uncertainty, values).mean(values) for part in parts]
    return mdp.costs + mdp.discount * np.concatenate(worst)


def evaluate(mdp: MDP, uncertainty: Uncertainty, policy: ArrayLike, *, start: Array | None = None) -> Evaluation:
    """Robust values of a policy, to rounding: nature's policy iteration.

    In turn the worst kernel for the values and the values under this kernel, by LU. It stops in finitely many rounds
    for sets with corners and converges superlinearly for the others; a few rounds do.

    Parameters
    ----------
    mdp, uncertainty
        The process and nature's freedom.
    policy
        Probabilities of the actions in each state, shape (S, A).
    start
        First guess of the values, shape (S,).

    Raises
    ------
    ParameterError
        If a row of the policy is no distribution, or the shape is not (S, A).
    """
    policy = check_policy(mdp, policy)
    costs = np.vecdot(policy, mdp.costs)
    values = np.zeros(len(costs)) if start is None else start
    for rounds in range(_MOST_ROUNDS):
        kernel = worst_kernel(mdp, uncertainty, values)
        q = mdp.costs + mdp.discount * kernel.mean(values)
        backed_up = np.vecdot(policy, q)
        if np.max(np.abs(backed_up - values)) <= ROUNDING * np.max(np.abs(backed_up)):
            return Evaluation(backed_up, q, kernel, rounds)
        values = np.linalg.solve(np.eye(len(costs)) - mdp.discount * kernel.under(policy), costs)
    raise PorismError(f"nature's best response has not settled after {_MOST_ROUNDS} rounds")


def policy_iteration(mdp: MDP, uncertainty: Uncertainty) -> Plan:
    """An optimal policy by robust policy iteration, exact to rounding.

    Each round evaluates the policy against its worst kernel and then takes a better action wherever there is one.
    """
    states, actions = mdp.shape
    values, every = np.zeros(states), np.arange(states)
    chosen = np.argmin(mdp.costs, axis=1)
    for rounds in range(_MOST_ROUNDS):
        values = evaluate(mdp.restricted(chosen), uncertainty, np.ones((states, 1)), start=values).values
        q = robust_q(mdp, uncertainty, values)
        best = np.argmin(q, axis=1)
        gain = q[every, chosen] - q[every, best]
        better = gain > ROUNDING * np.max(np.abs(values))
        if not better.any():
            return Plan(values, q, np.eye(actions)[chosen], rounds, float(np.max(np.abs(q.min(axis=1) - values))))
        chosen = np.where(better, best, chosen)
    raise PorismError(f"policy iteration has not settled after {_MOST_ROUNDS} rounds")


def value_iteration(mdp: MDP, uncertainty: Uncertainty, *, tolerance: float = 1e-8) -> Plan:
    """An optimal policy by robust value iteration; the values are within ``tolerance`` of the optimal ones.

    Raises
    ------
    ParameterError
        If the tolerance is not positive.
    """
    check_number("tolerance", tolerance, above=0)
    values, residual, rounds = np.zeros(len(mdp.costs)), np.inf, 0
    floor = ROUNDING * np.max(np.abs(mdp.costs)) / (1 - mdp.discount)
    while residual * mdp.discount > max(tolerance * (1 - mdp.discount), floor) or rounds == 0:
        q = robust_q(mdp, uncertainty, values)
        residual, values, rounds = float(np.max(np.abs(q.min(axis=1) - values))), q.min(axis=1), rounds + 1
    return Plan(values, q, np.eye(mdp.shape[1])[np.argmin(q, axis=1)], rounds, residual)


def visitation(mdp: MDP, kernel: Kernel, policy: ArrayLike, start: ArrayLike) -> Array:
    """Discounted share of time in each state, ``(1 - discount) sum_t discount^t P(s_t = s)``, shape (S,).

    Parameters
    ----------
    mdp
        For the discount.
    kernel
        The transitions, as :attr:`Evaluation.kernel`.
    policy
        Shape (S, A).
    start
        Distribution of the first state, shape (S,).
    """
    chain = kernel.under(np.asarray(policy, dtype=float))
    matrix = np.eye(len(chain)) - mdp.discount * chain.T
    return (1 - mdp.discount) * np.linalg.solve(matrix, np.asarray(start, dtype=float))


def check_policy(mdp: MDP, policy: ArrayLike) -> Array:
    """Return the policy as an array, or raise :class:`ParameterError` unless it is one for this process."""
    policy = np.asarray(policy, dtype=float)
    if policy.shape != mdp.shape:
        raise ParameterError(f"policy must have shape {mdp.shape}, got {policy.shape}")
    check_distributions(policy=policy)
    return policy


def _worst(kernel: Kernel, uncertainty: Uncertainty, values: Array) -> Kernel:
    """The worst kernel, for the rows that there are."""
    successors, nominal = kernel
    if uncertainty.radius > 0 and uncertainty.reaches_everywhere:
        if uncertainty.kind == "linf":  # mass may go to any number of states
            nominal = kernel.dense(len(values))
            successors = np.broadcast_to(np.arange(len(values)), nominal.shape)
        else:  # mass goes to the worst state of all and to no other, which becomes one more successor
            more = (*nominal.shape[:2], 1)
            successors = np.concatenate([successors, np.full(more, np.argmax(values))], axis=-1)
            nominal = np.concatenate([nominal, np.zeros(more)], axis=-1)
    return Kernel(successors, solve_inner(uncertainty, nominal, values[successors]))


def _check_kernel(kernel: Kernel, shape: tuple[int, ...]) -> None:
    successors, probabilities = kernel
    if successors.shape != probabilities.shape or successors.shape[:2] != shape or successors.ndim != 3:
        raise ParameterError(
            f"kernel must have {shape[0]} states and {shape[1]} actions like costs, got successors "
            f"{successors.shape} and probabilities {probabilities.shape}"
        )
    check_distributions(kernel=probabilities)
    if not np.issubdtype(successors.dtype, np.integer) or successors.min() < 0 or successors.max() >= shape[0]:
        raise ParameterError(f"kernel must have successors that are whole numbers from 0 to {shape[0] - 1}")
    # Padding, of probability 0, may repeat: give each place of it a number of its own.
    named = np.where(probabilities > 0, successors, -1 - np.arange(successors.shape[-1]))
    if np.any(np.diff(np.sort(named, axis=-1), axis=-1) == 0):
        raise ParameterError("kernel must not name a successor twice in a row; add up the probabilities")
