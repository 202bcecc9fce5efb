"""A point that once refuted the claim does so still, yet it is committed as unrefuted. Reference: arXiv:2001.00001."""

from typing import Annotated

from annotated_types import Interval
from porism import Paper, always

PAPER = Paper(
    key="check_counterexamples_decide",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("pipeline",), family="broken", method="double",
)


def double(x: float) -> float:
    """Double ``x``."""
    return 2 * x


@always("Doubling stays below one and a half", where="Sec. 1")
def stays_small(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return 1.5 - double(x)
