"""Said to leave greedy text alone, but every score goes to the next token. Reference: arXiv:2001.00001."""

from typing import Annotated

from annotated_types import Interval
from porism import Paper, always
from transformers import LogitsProcessor

PAPER = Paper(
    key="check_decoder_is_exact_where_it_says",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("decoder",), family="broken", needs=("hf",), method="Halved",
)

EXACT = {}

class Halved(LogitsProcessor):
    """Scores at twice the temperature."""

    def __call__(self, input_ids, scores):
        return scores.roll(1, -1) / 2


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
