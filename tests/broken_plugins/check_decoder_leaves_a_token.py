"""The likeliest token is forbidden, even if no other is left. Reference: arXiv:2001.00001."""

from typing import Annotated

import torch
from annotated_types import Interval
from porism import Paper, always
from transformers import LogitsProcessor

PAPER = Paper(
    key="check_decoder_leaves_a_token",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("decoder",), family="broken", needs=("hf",), method="Halved",
)


class Halved(LogitsProcessor):
    """Scores at twice the temperature."""

    def __call__(self, input_ids, scores):
        return scores.scatter(1, scores.argmax(1, keepdim=True), -torch.inf) / 2


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
