"""Which nodes of a directed graph lead to which, for the strategies that promise connections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Support = NDArray[np.bool_]


def reach(support: Support) -> Support:
    """Whether row i leads to column j in any number of steps, none included; shape (n, n).

    Examples
    --------
    >>> reach(np.array([[False, True], [False, False]]))
    array([[ True,  True],
           [False,  True]])
    """
    steps: Support = np.linalg.matrix_power(support | np.eye(len(support), dtype=bool), len(support))
    return steps


def strongly_connected(support: Support) -> bool:
    """Whether each node leads to each other."""
    return bool(reach(support).all())
