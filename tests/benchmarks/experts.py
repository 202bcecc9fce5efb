"""Experts by groups beside a loop over experts and transformers' own, forward and with gradients.

Every call has a routing that none had before, as in training. Run by hand: ``python tests/benchmarks/experts.py``, with
the number of threads, or numbers, as arguments.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import torch
from timing import interleaved, table
from torch import Tensor
from torch.nn import functional as F
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from porism_plugins.moe import _grouped
from porism_plugins.moe._engine import Experts

EXPERTS, TOKENS, WIDTH = 16, 4096, 256


def routings(k: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Experts and factors of every token, new ones at each call; drawn beforehand, so that drawing is not timed."""
    generator = torch.Generator().manual_seed(0)
    drawn = [
        (
            torch.rand(TOKENS, EXPERTS, generator=generator).argsort(1)[:, :k].contiguous(),
            torch.rand(TOKENS, k, generator=generator),
        )
        for _ in range(64)
    ]
    endless = itertools.cycle(drawn)
    return lambda: next(endless)


def theirs(inner: int, implementation: str) -> MixtralExperts:
    """transformers' experts of Mixtral, with random weights."""
    config = MixtralConfig(hidden_size=WIDTH, intermediate_size=inner, num_local_experts=EXPERTS)
    config._experts_implementation = implementation
    experts = MixtralExperts(config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=WIDTH**-0.5)
    return experts


def by_torch(experts: Experts) -> Callable[..., Tensor]:
    """Our groups, with torch's own product in place of oneDNN's."""

    def call(*arguments: Tensor) -> Tensor:
        there, _grouped._ONEDNN = _grouped._ONEDNN, False
        try:
            return experts(*arguments)
        finally:
            _grouped._ONEDNN = there

    return call


def contestants(inner: int, gated: bool) -> dict[str, Callable[..., Tensor]]:
    """What is compared; without a gate transformers has nothing to compare with."""
    activation = F.silu if gated else F.gelu
    generator = torch.Generator().manual_seed(0)
    ours = Experts(EXPERTS, WIDTH, inner, gated=gated, bias=not gated, activation=activation, generator=generator)
    if gated:
        eager, grouped = theirs(inner, "eager"), theirs(inner, "grouped_mm")
        for peer in (eager, grouped):
            peer.gate_up_proj.data.copy_(ours.up.data), peer.down_proj.data.copy_(ours.down.data)
        peers: dict[str, Callable[..., Tensor]] = {
            "transformers, eager (a loop over experts)": eager,
            "transformers, grouped_mm": grouped,
        }
    else:
        peers = {"loop over experts": ours.reference}
    return {"porism": ours, "porism, torch's product": by_torch(ours), **peers}


def with_gradients(call: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
    """Forward and backward."""
    call(*arguments).square().mean().backward()


def main() -> None:
    """Print a table for each size."""
    x = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    for threads in [int(argument) for argument in sys.argv[1:]] or [1, 2]:
        torch.set_num_threads(threads)
        for gated, inner, k in itertools.product((False, True), (512, 1024), (1, 2)):
            calls, draw = contestants(inner, gated), routings(k)
            title = f"{threads} thread(s), {'gated, ' if gated else ''}inner width {inner}, top-{k}"
            with torch.no_grad():
                forward = {name: lambda call=call, draw=draw: call(x, *draw()) for name, call in calls.items()}
                print(table(f"forward: {title}", interleaved(forward, repeats=9)), flush=True)
            both = {
                name: lambda call=call, draw=draw: with_gradients(call, (x, *draw())) for name, call in calls.items()
            }
            print(table(f"forward and backward: {title}", interleaved(both, repeats=5)), flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
