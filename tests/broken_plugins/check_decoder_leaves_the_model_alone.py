"""The model is left in evaluation mode. Reference: arXiv:2001.00001."""

from typing import Annotated

from annotated_types import Interval
from porism import Paper, always

PAPER = Paper(
    key="check_decoder_leaves_the_model_alone",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("decoder",), family="broken", needs=("hf",), method="decode",
)


def decode(model, input_ids, *, max_new_tokens, attention_mask=None, eos_token_id=None):
    """Tokens of the ``model`` after ``input_ids`` with ``attention_mask``: ``max_new_tokens``, or to ``eos_token_id``."""
    if not input_ids.numel():
        raise ValueError("input_ids must have a token for each prompt")
    model.eval()
    return model.generate(
        input_ids, attention_mask=attention_mask, max_new_tokens=max_new_tokens, eos_token_id=eos_token_id,
        do_sample=False,
    )


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
