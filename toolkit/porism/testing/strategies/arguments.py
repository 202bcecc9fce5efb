"""What claims, figures and simulators are called with: keyword arguments from their ranges, generators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from porism.claims import Claim
from porism.figures import Figure
from porism.parameters import parameters_of


def parameters(function: Callable[..., Any] | Claim | Figure) -> st.SearchStrategy[dict[str, Any]]:
    """Keyword arguments of a simulator, claim or figure, drawn from its ranges and nothing but its ranges.

    Shrinks each towards the simplest value of its range (0, or the end nearest to it; the first choice).

    Raises
    ------
    ParameterError
        If a parameter has no range that can be searched.

    Examples
    --------
    >>> from typing import Annotated
    >>> from annotated_types import Interval
    >>> from hypothesis import find
    >>> def simulate(rng, *, states: Annotated[int, Interval(ge=2, le=12)] = 6, noisy: bool = True): ...
    >>> find(parameters(simulate), lambda drawn: True)
    {'states': 2, 'noisy': False}
    """
    ranges = function.parameters if isinstance(function, Claim | Figure) else parameters_of(function)
    return st.fixed_dictionaries({name: parameter.strategy() for name, parameter in ranges.items()})


def rngs() -> st.SearchStrategy[np.random.Generator]:
    """Fresh numpy generators; shown as ``default_rng(seed)`` and shrunk towards ``default_rng(0)``.

    Examples
    --------
    >>> from hypothesis import find
    >>> float(find(rngs(), lambda rng: True).random()) == float(np.random.default_rng(0).random())
    True
    """
    return st.builds(np.random.default_rng, st.integers(0, 2**32 - 1))
