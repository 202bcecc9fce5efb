"""Two claims have one name, so the first is lost. Reference: arXiv:2001.00001."""

from typing import Annotated

from annotated_types import Interval
from porism import Paper, always

PAPER = Paper(
    key="check_names_are_used_once",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("pipeline",), family="broken", method="double",
)


def double(x: float) -> float:
    """Double ``x``."""
    return 2 * x


@always("Doubling keeps the sign", where="Sec. 1")
def keeps_sign(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return double(x) * x + 1e-9


@always("Doubling moves away from zero", where="Sec. 2")
def keeps_sign(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return abs(double(x)) - abs(x) + 1e-9
