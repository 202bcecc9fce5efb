"""Small decision problems on which robust planning is tried: random ones, and five with a story.

Costs are in [0, 1] and minimised. Each function returns a :class:`Problem`: the process and where it starts.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray
from scipy.stats import poisson

from porism.errors import ParameterError
from porism.parameters import validated
from porism_sims.robust_mdp.planning import MDP, Kernel

Array = NDArray[np.float64]
Discount = Annotated[float, Interval(ge=0, lt=1)]
States = Annotated[int, Interval(ge=1, le=5000)]
Actions = Annotated[int, Interval(ge=1, le=500)]


class Problem(NamedTuple):
    """A process, and the distribution of its first state, shape (S,)."""

    mdp: MDP
    start: Array


@validated
def garnet(
    rng: np.random.Generator,
    *,
    states: States = 30,
    actions: Actions = 5,
    successors: States = 4,
    discount: Discount = 0.9,
) -> Problem:
    """A random process: uniform costs, Dirichlet(1) probabilities on successors drawn without replacement.

    The family is that of Archibald, McKinnon and Thomas 1995; the start is uniform.

    Raises
    ------
    ParameterError
        If there are more successors than states, or a parameter is out of its range.

    Examples
    --------
    >>> garnet(np.random.default_rng(0), states=6, actions=2, successors=3).mdp.kernel.successors.shape
    (6, 2, 3)
    """
    if successors > states:
        raise ParameterError(f"successors must not exceed states, {states}, got {successors}")
    costs = rng.random((states, actions))
    reached = np.argsort(rng.random((states, actions, states)), axis=-1)[..., :successors]
    probabilities = rng.dirichlet(np.ones(successors), size=(states, actions))
    return Problem(MDP(costs, Kernel(reached, probabilities), discount), np.full(states, 1 / states))


@validated
def gridworld(
    *,
    size: Annotated[int, Interval(ge=3, le=40)] = 4,
    slip: Annotated[float, Interval(ge=0, le=1)] = 0.1,
    discount: Discount = 0.9,
) -> Problem:
    """A square grid to be crossed along a cliff, from the lower left corner to the lower right one.

    Every step costs 0.1 and every step from a cliff cell 1; the goal is absorbing and free. The cliff is the lower
    edge between start and goal. With probability ``slip`` the move goes to one of the two sides instead; walls hold.

    Parameters
    ----------
    size
        Cells along a side; the states are the cells, row by row from the top.
    slip
        Probability of a move to the side.
    discount
        Of the process.
    """
    cells = np.arange(size**2)
    row, column = np.divmod(cells, size)
    moves = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # up, right, down, left

    def target(direction: int) -> NDArray[np.intp]:
        down, right = moves[direction % 4]
        return np.clip(row + down, 0, size - 1) * size + np.clip(column + right, 0, size - 1)

    kernel = np.zeros((size**2, 4, size**2))
    for action in range(4):
        for turn, share in ((0, 1 - slip), (1, slip / 2), (-1, slip / 2)):
            kernel[cells, action, target(action + turn)] += share
    goal, first = size**2 - 1, size**2 - size
    costs = np.full((size**2, 4), 0.1)
    costs[first + 1 : goal] = 1.0
    costs[goal], kernel[goal], kernel[goal, :, goal] = 0.0, 0.0, 1.0
    return Problem(MDP(costs, kernel, discount), np.eye(size**2)[first])


@validated
def inventory(
    *,
    capacity: Annotated[int, Interval(ge=1, le=200)] = 9,
    demand: Annotated[float, Interval(gt=0, le=200)] = 3.0,
    order_cost: Annotated[float, Interval(ge=0, le=100)] = 1.0,
    holding_cost: Annotated[float, Interval(ge=0, le=100)] = 0.5,
    lost_sale_cost: Annotated[float, Interval(gt=0, le=100)] = 5.0,
    discount: Discount = 0.9,
) -> Problem:
    """Stock of 0 to ``capacity`` units, orders that arrive at once, and demand that is lost when there is no stock.

    Demand is Poisson, cut off at the capacity. Orders beyond the room left are cut. Costs are divided by the largest.

    Parameters
    ----------
    capacity
        Largest stock; there are as many states and actions and one more.
    demand
        Mean of the demand in a period before it is cut off.
    order_cost, holding_cost, lost_sale_cost
        For each unit ordered, in stock after the order, and demanded in vain.
    discount
        Of the process.
    """
    levels = np.arange(capacity + 1)
    chance = poisson.pmf(levels, demand)
    chance[-1] = 1 - chance[:-1].sum()
    after = np.minimum(levels[:, None] + levels, capacity)
    left = after[..., None] - levels
    kernel = np.zeros((*after.shape, capacity + 1))
    for sold, share in enumerate(chance):
        np.add.at(kernel, (*np.indices(after.shape), np.maximum(left[..., sold], 0)), share)
    costs = order_cost * (after - levels[:, None]) + holding_cost * after
    costs = costs + lost_sale_cost * np.maximum(-left, 0) @ chance
    return Problem(MDP(costs / costs.max(), kernel, discount), np.full(capacity + 1, 1 / (capacity + 1)))


@validated
def machine_replacement(*, discount: Discount = 0.9) -> Problem:
    """A machine that wears out in eight stages and two ways of being repaired; wait (0) or repair (1).

    The model of Delage and Mannor 2010 (Figure 3), its costs divided by 20: the last stage costs 20, a repair 2, a
    long repair 10. States 0 to 7 are the stages, 8 the repair, 9 the long repair. It starts new.
    """
    kernel = np.zeros((10, 2, 10))
    for stage in range(8):
        worn = min(stage + 1, 7)
        for action, to, chance in ((0, stage, 0.2), (0, worn, 0.8), (1, worn, 0.3), (1, 8, 0.6), (1, 9, 0.1)):
            kernel[stage, action, to] += chance
    kernel[8, 0, [8, 0]], kernel[8, 1, 8] = (0.2, 0.8), 1.0
    kernel[9, 0, 9], kernel[9, 1, [8, 9]] = 1.0, (0.6, 0.4)
    costs = np.repeat([[0.0], [1.0], [0.1], [0.5]], [7, 1, 1, 1], axis=0)
    return Problem(MDP(np.tile(costs, 2), kernel, discount), np.eye(10)[0])


@validated
def river_swim(*, discount: Discount = 0.9) -> Problem:
    """Six places along a river: drift down (0) surely, or swim up (1) against the current.

    The model of Strehl and Littman 2008 with the probabilities of Osband, Russo and Van Roy 2013. Rewards become
    costs ``1 - reward``: 0.995 for drifting at the lower end, 0 for swimming at the upper one, else 1. It starts at
    the lower end.
    """
    kernel, places = np.zeros((6, 2, 6)), np.arange(6)
    kernel[places, 0, np.maximum(places - 1, 0)] = 1.0
    for place in range(6):
        for step, chance in ((-1, 0.05), (0, 0.6), (1, 0.35)):
            kernel[place, 1, np.clip(place + step, 0, 5)] += chance
    kernel[0, 1, [0, 1]], kernel[5, 1, [4, 5]] = (0.4, 0.6), (0.4, 0.6)
    costs = np.ones((6, 2))
    costs[0, 0], costs[5, 1] = 0.995, 0.0
    return Problem(MDP(costs, kernel, discount), np.eye(6)[0])


@validated
def kink(*, discount: Discount = 0.9) -> Problem:
    """Two states whose values are equal at one policy, where the worst kernel flips and the objective has a kink.

    Every transition leads to either state with probability 1/2. State 0 costs 1/2; in state 1 the first action is free
    and the second costs 1. At the policy that takes the second with probability x in state 1 and a total-variation
    set of radius r the mean robust value is ``((x + 1/2)/2 + discount r |x - 1/2|) / (1 - discount)``.

    Examples
    --------
    >>> kink().mdp.costs
    array([[0.5, 0.5],
           [0. , 1. ]])
    """
    return Problem(MDP([[0.5, 0.5], [0.0, 1.0]], np.full((2, 2, 2), 0.5), discount), np.full(2, 0.5))


Name = Literal["garnet", "gridworld", "inventory", "machine replacement", "river swim"]


def problem(rng: np.random.Generator, name: Name, *, discount: float = 0.9) -> Problem:
    """One of the problems by its name, at its default size; ``rng`` draws the Garnet and is not used otherwise.

    Raises
    ------
    ParameterError
        If there is none of this name.

    Examples
    --------
    >>> problem(np.random.default_rng(0), "river swim").mdp.shape
    (6, 2)
    """
    match name:
        case "garnet":
            return garnet(rng, discount=discount)
        case "gridworld":
            return gridworld(discount=discount)
        case "inventory":
            return inventory(discount=discount)
        case "machine replacement":
            return machine_replacement(discount=discount)
        case "river swim":
            return river_swim(discount=discount)
    raise ParameterError(
        f"name must be one of garnet, gridworld, inventory, machine replacement, river swim, got {name!r}"
    )
