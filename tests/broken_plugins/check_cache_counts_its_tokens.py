"""The number of tokens is forgotten. Reference: arXiv:2001.00001."""

from typing import Annotated

from annotated_types import Interval
from porism import Paper, always
from transformers import DynamicCache

PAPER = Paper(
    key="check_cache_counts_its_tokens",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("cache",), family="broken", needs=("hf",), method="Dense",
)


class Dense(DynamicCache):
    """Keeps all that ``model`` has read."""

    def __init__(self, model):
        config = getattr(model, "config", model)
        if not hasattr(config, "num_attention_heads"):
            raise ValueError("model must have attention")
        super().__init__(config=config)

    def get_seq_length(self, layer_idx=0):
        return 0


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
