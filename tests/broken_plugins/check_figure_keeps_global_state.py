"""A figure changes how numpy prints, for whoever comes after it. Reference: arXiv:2001.00001."""

from typing import Annotated

import numpy as np
from annotated_types import Interval
from porism import Paper, always, figure

PAPER = Paper(
    key="check_figure_keeps_global_state",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("pipeline",), family="broken", method="double",
)


def double(x: float) -> float:
    """Double ``x``."""
    return 2 * x


@always("Doubling keeps the sign", where="Sec. 1")
def keeps_sign(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return double(x) * x + 1e-9


@figure("Noise", where="Fig. 1")
def noise(rng) -> dict[str, np.ndarray]:
    np.set_printoptions(precision=2)
    return {"x": np.arange(5), "y": rng.normal(size=5)}


@noise.draw
def _(table, ax):
    ax.plot(table["x"], table["y"])
