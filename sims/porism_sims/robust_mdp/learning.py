"""Robust values of a policy from samples of the nominal chain alone.

Robust temporal differences need nature's part of the backup without the nominal probabilities; for contamination it is
``radius max V``, so one sampled successor gives an unbiased backup. The other sets are nonlinear in the nominal
distribution: there the transitions are counted and the estimated process is evaluated (a plug-in, biased by the
sampling error).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from porism.arrays import check_count, check_generator, check_number
from porism.errors import ParameterError
from porism_sims.robust_mdp.mirror_descent import Estimate
from porism_sims.robust_mdp.planning import MDP, Evaluation, Kernel, check_policy, evaluate
from porism_sims.robust_mdp.uncertainty import Uncertainty

Array = NDArray[np.float64]
Sampling = Literal["generative", "online"]
# Which estimates a transition is for, as an index into (runs, S, A), and the states it led to.
Move = tuple[Any, NDArray[np.intp]]


class Estimates(NamedTuple):
    """State-action values as they were learned.

    Attributes
    ----------
    samples
        Transitions seen so far at each checkpoint, shape (checkpoints,).
    q
        Estimates, shape (checkpoints, runs, S, A).
    """

    samples: NDArray[np.int64]
    q: Array


def robust_td(
    rng: np.random.Generator,
    mdp: MDP,
    uncertainty: Uncertainty,
    policy: ArrayLike,
    *,
    samples: int | Sequence[int],
    sampling: Sampling = "generative",
    exploration: float = 0.2,
    runs: int = 1,
    q: ArrayLike | None = None,
) -> Estimates:
    """Robust temporal-difference learning for a contamination set, several independent runs at once.

    The estimate of a visited pair moves by ``1 / (1 + (1 - discount) n / 2)``, n its earlier visits, towards
    ``cost + discount ((1 - radius) V(next) + radius max V)`` with ``V(s) = sum_a policy(a | s) q(s, a)``. The mean
    over next actions is exact, so behaviour may explore.

    Parameters
    ----------
    rng
        Draws the transitions.
    mdp
        Whose nominal kernel is sampled.
    uncertainty
        Of kind contamination with full support; radius 0 of any kind is plain expected SARSA.
    policy
        The policy to be evaluated, shape (S, A).
    samples
        Number of transitions in a run, or increasing checkpoints.
    sampling
        ``"generative"``: sweeps in which every pair is sampled once, so samples are rounded up to a whole sweep.
        ``"online"``: one trajectory, from a random state, that takes a uniform action with probability
        ``exploration`` and otherwise follows the policy.
    exploration
        In (0, 1]; of online sampling.
    runs
        Independent runs.
    q
        First estimate, shape (S, A); zeros if left out.

    Raises
    ------
    ParameterError
        If the set cannot be learned from single samples, or an argument is out of its range.

    Examples
    --------
    >>> from porism_sims.robust_mdp.environments import river_swim
    >>> mdp, start = river_swim(discount=0.5)
    >>> nature, policy = Uncertainty("contamination", 0.1), np.full((6, 2), 0.5)
    >>> learned = robust_td(np.random.default_rng(0), mdp, nature, policy, samples=60_000).q[-1, 0]
    >>> bool(np.abs(learned - evaluate(mdp, nature, policy).q).max() < 0.02)
    True
    """
    check_generator(rng)
    if uncertainty.radius > 0 and (uncertainty.kind, uncertainty.support) != ("contamination", "full"):
        raise ParameterError(
            f"uncertainty must be of kind contamination with full support, got {uncertainty}; plug_in takes every set"
        )
    policy, runs = check_policy(mdp, policy), check_count("runs", runs, 1)
    checkpoints = np.atleast_1d(samples)
    check_count("samples", checkpoints[0], 1)
    if np.any(np.diff(checkpoints) <= 0):
        raise ParameterError(f"samples must increase, got {samples!r:.80}")
    if sampling not in ("generative", "online"):
        raise ParameterError(f"sampling must be one of generative, online, got {sampling!r}")
    first = np.zeros(mdp.shape) if q is None else np.asarray(q, dtype=float)
    if first.shape != mdp.shape:
        raise ParameterError(f"q must have shape {mdp.shape}, got {first.shape}")
    check_number("exploration", exploration, above=0, at_most=1)
    behaviour = (1 - exploration) * policy + exploration / mdp.shape[1]
    moves = _sweeps(rng, mdp, runs) if sampling == "generative" else _walks(rng, mdp, behaviour, runs)
    estimate, visits, seen, kept = np.tile(first, (runs, 1, 1)), np.zeros((runs, *mdp.shape)), 0, []
    costs = np.broadcast_to(mdp.costs, estimate.shape)
    for checkpoint in checkpoints:
        while seen < checkpoint:
            where, following = next(moves)
            values = np.vecdot(policy, estimate)
            arrived = np.take_along_axis(values, following.reshape(runs, -1), axis=1)
            backup = (1 - uncertainty.radius) * arrived + uncertainty.radius * values.max(axis=1, keepdims=True)
            target = costs[where] + mdp.discount * backup.reshape(following.shape)
            estimate[where] += (target - estimate[where]) / (1 + 0.5 * (1 - mdp.discount) * visits[where])
            visits[where] += 1
            seen += following.size // runs
        kept.append(estimate.copy())
    return Estimates(checkpoints, np.array(kept))


def td_estimate(rng: np.random.Generator, mdp: MDP, uncertainty: Uncertainty, **settings: Any) -> Estimate:
    """An estimate for SRPMD that learns by :func:`robust_td`, each time from where the last time ended.

    Parameters
    ----------
    rng, mdp, uncertainty, **settings
        As :func:`robust_td` has them; ``samples`` are spent in each iteration.

    Examples
    --------
    >>> from porism_sims.robust_mdp.environments import river_swim
    >>> from porism_sims.robust_mdp.mirror_descent import mirror_descent, step_sizes
    >>> mdp, start = river_swim(discount=0.8)
    >>> nature = Uncertainty("contamination", 0.05)
    >>> learner = td_estimate(np.random.default_rng(0), mdp, nature, samples=6_000)
    >>> run = mirror_descent(mdp, nature, step_sizes("geometric", iterations=30, growth=1.25), estimate=learner)
    >>> bool(run.values[-1] @ start < run.values[0] @ start)
    True
    """
    last = [np.zeros(mdp.shape)]

    def estimate(policy: Array, evaluation: Evaluation) -> Array:
        last.append(robust_td(rng, mdp, uncertainty, policy, q=last.pop(), **settings).q[-1, 0])
        return last[0]

    return estimate


def plug_in(
    rng: np.random.Generator, mdp: MDP, uncertainty: Uncertainty, policy: ArrayLike, *, samples_per_pair: int
) -> Array:
    """Robust state-action values of the process whose nominal kernel is estimated by counting, shape (S, A).

    Takes every uncertainty set; its error is of the order ``samples_per_pair ** -0.5``.

    Examples
    --------
    >>> from porism_sims.robust_mdp.environments import river_swim
    >>> mdp, start = river_swim(discount=0.5)
    >>> nature, policy = Uncertainty("kl", 0.1), np.full((6, 2), 0.5)
    >>> learned = plug_in(np.random.default_rng(0), mdp, nature, policy, samples_per_pair=10_000)
    >>> bool(np.abs(learned - evaluate(mdp, nature, policy).q).max() < 0.02)
    True
    """
    check_generator(rng)
    check_count("samples_per_pair", samples_per_pair, 1)
    counts = rng.multinomial(samples_per_pair, mdp.kernel.probabilities / mdp.kernel.probabilities.sum(-1)[..., None])
    kernel = Kernel(mdp.kernel.successors, counts / samples_per_pair)
    return evaluate(MDP(mdp.costs, kernel, mdp.discount), uncertainty, policy).q


def _sweeps(rng: np.random.Generator, mdp: MDP, runs: int) -> Iterator[Move]:
    """Every pair once in every run, and the successors drawn for them."""
    states, actions = np.indices(mdp.shape, sparse=True)
    cumulative = _cumulative(mdp.kernel.probabilities)
    while True:
        place = np.sum(cumulative <= rng.random((runs, *mdp.shape, 1)), axis=-1)
        yield np.s_[:], mdp.kernel.successors[states, actions, place]


def _walks(rng: np.random.Generator, mdp: MDP, behaviour: Array, runs: int) -> Iterator[Move]:
    """One trajectory a run: the pair it is at, and where it goes."""
    cumulative, choice, every = _cumulative(mdp.kernel.probabilities), _cumulative(behaviour), np.arange(runs)
    state = rng.integers(len(mdp.costs), size=runs)
    while True:
        chosen, drawn = rng.random((2, runs, 1))
        action = np.sum(choice[state] <= chosen, axis=1)
        following = mdp.kernel.successors[state, action, np.sum(cumulative[state, action] <= drawn, axis=1)]
        yield (every, state, action), following
        state = following


def _cumulative(probabilities: Array) -> Array:
    """Distribution functions; rounding leaves no gap above the last entry that has mass."""
    cumulative = np.cumsum(probabilities, axis=-1)
    cumulative[cumulative > 1 - 1e-9] = np.inf
    return cumulative
