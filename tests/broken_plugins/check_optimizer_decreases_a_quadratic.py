"""It climbs. Reference: arXiv:2001.00001."""

from typing import Annotated

import torch
from annotated_types import Interval
from porism import Paper, always

PAPER = Paper(
    key="check_optimizer_decreases_a_quadratic",
    title="A broken paper", authors=("Ada Author",), year=2020, ref="arXiv:2001.00001",
    kinds=("optimizer",), family="broken", needs=("torch",), method="Method",
)


class Method(torch.optim.Optimizer):
    """Gradient descent on params at the rate lr, with momentum."""

    def __init__(self, params, lr=1e-3):
        if not 0 <= lr < float("inf"):
            raise ValueError(f"lr must be a number of at least 0, got {lr}")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(0.5).add_(parameter.grad)
                parameter.add_(group["lr"] * state["momentum"])
        return loss


@always("Squares are not negative", where="Sec. 1")
def squares(rng, *, x: Annotated[float, Interval(ge=-1, le=1)] = 0.5) -> float:
    return x * x + 1e-9
