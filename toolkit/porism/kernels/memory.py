"""Keeping memory that was freed, so that the next chunk's temporaries are not paged in anew."""

from __future__ import annotations

import torch

LARGEST_BLOCK = 31 << 20


def keep_freed_memory() -> None:
    """Free a block that is never touched: call it before a loop over chunks on the CPU.

    glibc returns memory beyond twice the largest block of up to 32 MB that was ever mapped and freed; where that is
    less than a chunk's temporaries, every one of them is paged in anew, which takes longer than the arithmetic.
    Other allocators do not care.
    """
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8)
