"""Policy mirror descent on robust decision processes: one step a state, against the worst kernel of the policy.

In each state the next policy minimises ``step <q, p> + D(p, policy)``, with ``q`` the robust state-action values and
D the KL divergence or half the squared Euclidean distance (Li and Lan 2022, arXiv:2209.10579; RPMD). An estimate in
place of ``q`` gives the stochastic method, SRPMD. Every policy on the way is evaluated exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from porism.arrays import check_finite, check_number
from porism.errors import ParameterError
from porism.parameters import validated
from porism_sims.robust_mdp.environments import Name, problem
from porism_sims.robust_mdp.planning import MDP, Evaluation, check_policy, evaluate, policy_iteration
from porism_sims.robust_mdp.uncertainty import Kind, Support, Uncertainty

Array = NDArray[np.float64]
Geometry = Literal["kl", "euclidean"]
Schedule = Literal["constant", "linear", "geometric"]
# From an exact evaluation of the current policy to what stands in for its robust state-action values.
Estimate = Callable[[Array, Evaluation], Array]

# Steps stop growing here, far beyond where they act like policy iteration and short of overflow.
LARGEST_STEP = 1e100


class Trajectory(NamedTuple):
    """A run of mirror descent, K iterations long.

    Attributes
    ----------
    values
        Exact robust values of the policies, shape (K + 1, S).
    policies
        Shape (K + 1, S, A).
    log_policies
        Their logarithms; in the KL geometry finite even where a probability is too small to be represented, so that no
        action is ever shut out.
    step_sizes
        Shape (K,).
    errors
        Largest error of the state-action values that each step used, shape (K,).
    """

    values: Array
    policies: Array
    log_policies: Array
    step_sizes: Array
    errors: Array


def step_sizes(schedule: Schedule, *, iterations: int, step_size: float = 1.0, growth: float = 1.0) -> Array:
    """Step sizes of ``iterations`` iterations: ``step_size`` times 1, ``k + 1`` or ``growth^k``.

    Raises
    ------
    ParameterError
        If the schedule is unknown, or the step size or the growth is not positive and finite.

    Examples
    --------
    >>> step_sizes("geometric", iterations=3, growth=2.0)
    array([1., 2., 4.])
    """
    for name, value in (("step_size", step_size), ("growth", growth)):
        check_finite(**{name: np.asarray(check_number(name, value, above=0))})
    k = np.arange(iterations, dtype=float)
    if schedule not in ("constant", "linear", "geometric"):
        raise ParameterError(f"schedule must be one of constant, linear, geometric, got {schedule!r}")
    logs = {"constant": 0 * k, "linear": np.log(k + 1), "geometric": k * np.log(growth)}[schedule]
    return np.exp(np.clip(np.log(step_size) + logs, -np.log(LARGEST_STEP), np.log(LARGEST_STEP)))


def entropic_step(log_policy: Array, q: Array, step_size: float) -> Array:
    """Mirror step with the KL divergence, from log-probabilities (S, A) to log-probabilities."""
    moved = log_policy - step_size * (q - q.min(axis=-1, keepdims=True))
    return moved - logsumexp(moved, axis=-1, keepdims=True)


def euclidean_step(policy: Array, q: Array, step_size: float) -> Array:
    """Mirror step with half the squared Euclidean distance: a projected gradient step in each state."""
    return project(policy - step_size * (q - q.min(axis=-1, keepdims=True)))


def project(points: ArrayLike) -> Array:
    """Euclidean projection of each row on the simplex, by sorting.

    Examples
    --------
    >>> project([1.0, 0.5, -3.0])
    array([0.75, 0.25, 0.  ])
    """
    points = np.asarray(points, dtype=float)
    points = points - points.max(axis=-1, keepdims=True)
    ranked = -np.sort(-points, axis=-1)
    thresholds = (np.cumsum(ranked, axis=-1) - 1) / np.arange(1, points.shape[-1] + 1)
    kept = np.sum(ranked > thresholds, axis=-1, keepdims=True)
    projected = np.maximum(points - np.take_along_axis(thresholds, kept - 1, axis=-1), 0)
    return projected / projected.sum(axis=-1, keepdims=True)


def exact(policy: Array, evaluation: Evaluation) -> Array:
    """The robust state-action values themselves."""
    return evaluation.q


def mirror_descent(
    mdp: MDP,
    uncertainty: Uncertainty,
    steps: Array,
    *,
    geometry: Geometry = "kl",
    estimate: Estimate = exact,
    policy: ArrayLike | None = None,
) -> Trajectory:
    """Run RPMD with the given steps, or SRPMD with an estimate of the state-action values.

    Parameters
    ----------
    mdp, uncertainty
        The process and nature's freedom.
    steps
        Step sizes, positive, shape (K,), as :func:`step_sizes` gives them.
    geometry
        ``"kl"`` or ``"euclidean"``.
    estimate
        ``estimate(policy, evaluation)`` returns what the step uses for the robust state-action values, shape (S, A);
        the exact evaluation is there to be disturbed, or to be ignored by a learner.
    policy
        Where to start, shape (S, A), inside the simplex for KL; uniform if left out.

    Raises
    ------
    ParameterError
        If a step is not positive and finite, the geometry is unknown, the policy's rows are no distributions, or a
        start for KL has zeros.

    Examples
    --------
    >>> from porism_sims.robust_mdp.environments import river_swim
    >>> mdp, start = river_swim()
    >>> run = mirror_descent(mdp, Uncertainty("tv", 0.1), step_sizes("geometric", iterations=40, growth=1.5))
    >>> bool(np.all(np.diff(run.values, axis=0) <= 1e-12))
    True
    """
    steps = np.asarray(steps, dtype=float)
    check_finite(steps=steps)
    if steps.ndim != 1 or not np.all(steps > 0):
        raise ParameterError("steps must be positive, one for each iteration")
    if geometry not in ("kl", "euclidean"):
        raise ParameterError(f"geometry must be one of kl, euclidean, got {geometry!r}")
    current = check_policy(mdp, np.full(mdp.shape, 1 / mdp.shape[1]) if policy is None else policy)
    if geometry == "kl" and not np.all(current > 0):
        raise ParameterError("policy must be inside the simplex for the KL geometry, got a probability of 0")
    with np.errstate(divide="ignore"):
        logs = np.log(current)
    evaluation = evaluate(mdp, uncertainty, current)
    values, policies, log_policies, errors = [evaluation.values], [current], [logs], []
    for step in steps:
        q = estimate(current, evaluation)
        errors.append(np.max(np.abs(q - evaluation.q)))
        if geometry == "kl":
            logs = entropic_step(logs, q, step)
            current = np.exp(logs)
            current /= current.sum(axis=1, keepdims=True)
        else:
            current = euclidean_step(current, q, step)
            with np.errstate(divide="ignore"):
                logs = np.log(current)
        evaluation = evaluate(mdp, uncertainty, current, start=evaluation.values)
        values.append(evaluation.values)
        policies.append(current)
        log_policies.append(logs)
    return Trajectory(*map(np.array, (values, policies, log_policies, steps, errors)))


def gaussian_noise(rng: np.random.Generator, scale: float) -> Estimate:
    """The exact values plus independent normal errors of deviation ``scale``, for :func:`mirror_descent`."""
    return lambda policy, evaluation: evaluation.q + scale * rng.standard_normal(policy.shape)


@validated
def simulate(
    rng: np.random.Generator,
    *,
    environment: Name = "garnet",
    discount: Annotated[float, Interval(ge=0, le=0.999)] = 0.9,
    uncertainty: Kind = "tv",
    radius: Annotated[float, Interval(ge=0, le=10)] = 0.2,
    support: Support = "full",
    geometry: Geometry = "kl",
    schedule: Schedule = "geometric",
    step_size: Annotated[float, Interval(gt=0, le=1e6)] = 1.0,
    growth: Annotated[float, Interval(gt=0, le=1e6)] = 1 / 0.9,
    noise: Annotated[float, Interval(ge=0, le=100)] = 0.0,
    iterations: Annotated[int, Interval(ge=1, le=10_000)] = 60,
) -> dict[str, Array]:
    """Robust policy mirror descent on one problem, with the exact gap to the optimal policy.

    Parameters
    ----------
    rng
        Draws the Garnet problem and the noise.
    environment
        The problem, at its default size.
    discount
        Of the problem.
    uncertainty, radius, support
        Nature's set, as :class:`~porism_sims.robust_mdp.uncertainty.Uncertainty` has them.
    geometry
        Divergence of the mirror step.
    schedule, step_size, growth
        As :func:`step_sizes` has them.
    noise
        Standard deviation of normal errors in the state-action values; 0 is RPMD, more is SRPMD.
    iterations
        Number of steps.

    Returns
    -------
    dict of str to ndarray
        ``gap``: mean robust value over the start minus the optimal one, and ``nominal``: mean value under the nominal
        kernel, after 0, 1, ... iterations, shape (iterations + 1,); ``step_size``, shape (iterations,).

    Raises
    ------
    ParameterError
        For a parameter out of its range.

    Examples
    --------
    >>> run = simulate(np.random.default_rng(0), environment="inventory", iterations=30)
    >>> bool(run["gap"][-1] < 0.05 * run["gap"][0])
    True
    """
    mdp, start = problem(rng, environment, discount=discount)
    nature = Uncertainty(uncertainty, radius, support)
    steps = step_sizes(schedule, iterations=iterations, step_size=step_size, growth=growth)
    run = mirror_descent(mdp, nature, steps, geometry=geometry, estimate=gaussian_noise(rng, noise))
    optimum = policy_iteration(mdp, nature).values
    nominal = [start @ evaluate(mdp, Uncertainty(), policy).values for policy in run.policies]
    return {"gap": (run.values - optimum) @ start, "nominal": np.array(nominal), "step_size": run.step_sizes}
