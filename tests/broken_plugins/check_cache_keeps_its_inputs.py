"""The states given are cleared. Reference: arXiv:2001.00001."""

from typing import Annotated

from annotated_types import Interval
from porism import Paper, always
from transformers import DynamicCache

PAPER = Paper(
    key="check_cache_keeps_its_inputs",
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

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        result = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        key_states.zero_()
        return result


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
