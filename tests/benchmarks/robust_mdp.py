"""Robust planning beside a vectorised dense backup, linear programs and value iteration.

``python tests/benchmarks/robust_mdp.py`` prints the tables; the growth with the number of successors comes last.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread, for us and for the baselines

from collections.abc import Callable, Iterator

import numpy as np
from scipy.optimize import linprog
from timing import Workload, interleaved, table

from porism_sims.robust_mdp.environments import garnet
from porism_sims.robust_mdp.planning import MDP, policy_iteration, robust_q, value_iteration
from porism_sims.robust_mdp.uncertainty import Uncertainty

STATES, ACTIONS, SUCCESSORS, DISCOUNT = 200, 10, 20, 0.95
NATURE = Uncertainty("tv", 0.1)


def workloads() -> Iterator[Workload]:
    """What is measured: a title, and calls by name; ours is called porism."""
    rng = np.random.default_rng(0)
    mdp = problem(rng, SUCCESSORS)
    values, dense = rng.random(STATES), mdp.kernel.dense()
    title = f"Garnet({STATES}, {ACTIONS}, {SUCCESSORS}), TV 0.1, discount {DISCOUNT}, float64"
    yield (
        f"twenty robust Bellman backups, as planning makes them, {title}",
        {
            "porism": lambda: twenty(lambda: robust_q(mdp, NATURE, values)),
            "dense, vectorised, one argsort": lambda: twenty(lambda: dense_backup(mdp.costs, dense, values)),
            "HiGHS, 20 of the 40,000 linear programs": lambda: [program(row, values) for row in dense[:20, 0]],
        },
    )
    yield (
        f"robust optimal plan, {title}",
        {
            "porism": lambda: policy_iteration(mdp, NATURE),
            "porism, value iteration to 1e-8": lambda: value_iteration(mdp, NATURE),
            "policy iteration, dense backups": lambda: dense_policy_iteration(mdp.costs, dense),
        },
    )
    for kind in ("contamination", "linf", "chi2", "kl"):
        nature = Uncertainty(kind, 0.1, "nominal")  # type: ignore[arg-type]
        calls = {"porism": lambda n=nature: twenty(lambda: robust_q(mdp, n, values))}
        yield f"twenty backups with {kind} 0.1, nominal support", calls


def twenty(call: Callable[[], object]) -> None:
    """The same call twenty times."""
    for _ in range(20):
        call()


def problem(rng: np.random.Generator, successors: int) -> MDP:
    """The Garnet problem of the tables, with this many successors."""
    return garnet(rng, states=STATES, actions=ACTIONS, successors=successors, discount=DISCOUNT).mdp


def dense_worst(kernel: np.ndarray, values: np.ndarray, radius: float = 0.1) -> np.ndarray:
    """Worst kernel of a total-variation set, from one sort of all states for every row."""
    order = np.argsort(values)
    ranked = kernel[..., order]
    moved = np.minimum(radius, 1 - ranked[..., -1:])
    removed = np.minimum(np.cumsum(ranked[..., :-1], axis=-1), moved)
    ranked[..., :-1] -= np.diff(removed, axis=-1, prepend=0)
    ranked[..., -1:] += moved
    worst = np.empty_like(kernel)
    worst[..., order] = ranked
    return worst


def dense_backup(costs: np.ndarray, kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The same backup without use of the support."""
    return costs + DISCOUNT * dense_worst(kernel, values) @ values


def dense_policy_iteration(costs: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Policy iteration whose evaluation backs up every action."""
    values, every, chosen = np.zeros(STATES), np.arange(STATES), np.argmin(costs, axis=1)
    while True:
        while True:
            worst = dense_worst(kernel, values)
            q = costs + DISCOUNT * worst @ values
            if np.max(np.abs(q[every, chosen] - values)) < 1e-12:
                break
            values = np.linalg.solve(np.eye(STATES) - DISCOUNT * worst[every, chosen], costs[every, chosen])
        better = q.min(axis=1) < values - 1e-12
        if not better.any():
            return values
        chosen = np.where(better, q.argmin(axis=1), chosen)


def program(nominal: np.ndarray, values: np.ndarray, radius: float = 0.1) -> float:
    """Worst mean of a total-variation set as a linear program: what is added to each state, and what is taken."""
    ones = np.ones(STATES)
    bounds = [(0, None)] * STATES + [(0, p) for p in nominal]
    balance, limit = np.concatenate([ones, -ones])[None], np.concatenate([ones, 0 * ones])[None]
    found = linprog(np.concatenate([-values, values]), limit, [radius], balance, [0], bounds)
    return float(nominal @ values - found.fun)


def growth() -> str:
    """Times of one backup against the number of successors b, and against b log b."""
    rng, nature = np.random.default_rng(0), Uncertainty("tv", 0.1)
    values = rng.random(STATES)
    lines = [
        "### one backup by the number of successors b",
        "",
        "| b | ms (best) | ns / (S A b log2 b) |",
        "|--:|--:|--:|",
    ]
    for successors in (5, 10, 20, 40, 80, 160):
        mdp = problem(rng, successors)
        times = interleaved({"porism": lambda m=mdp: robust_q(m, nature, values)}, repeats=15)["porism"]
        work = STATES * ACTIONS * successors * np.log2(successors)
        lines.append(f"| {successors} | {1000 * min(times):.3g} | {1e9 * min(times) / work:.3g} |")
    return "\n".join(lines) + "\n"


def check() -> None:
    """What is compared agrees."""
    rng = np.random.default_rng(0)
    mdp = problem(rng, SUCCESSORS)
    values, dense = rng.random(STATES), mdp.kernel.dense()
    ours = robust_q(mdp, NATURE, values)
    assert np.max(np.abs(ours - dense_backup(mdp.costs, dense, values))) < 1e-12
    programs = mdp.costs[:20, 0] + DISCOUNT * np.array([program(row, values) for row in dense[:20, 0]])
    assert np.max(np.abs(ours[:20, 0] - programs)) < 1e-9
    plan = policy_iteration(mdp, NATURE)
    assert plan.residual < 1e-12
    assert np.max(np.abs(plan.values - dense_policy_iteration(mdp.costs, dense))) < 1e-10


if __name__ == "__main__":
    check()
    for title, calls in workloads():
        print(table(title, interleaved(calls)))
    print(growth())
