"""How much of a GPU's memory a host needs, and how it is kept to its part of it.

Ray hands out fractions of a GPU and keeps nobody to them: a host that takes more than its own makes
another one fail. So what a host needs is measured before hosts are given fractions, and each of
them is held to its own afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

SPARE: Final = 1.25
"""A part of a GPU is larger than what was measured by this much: clients differ."""
PARTS: Final = 100


@dataclass(frozen=True)
class Footprint:
    """What one host was seen to need of a GPU.

    Attributes:
        context: bytes that CUDA itself takes for each process.
        held: bytes that its tensors, and what the allocator keeps beside them, took at the most.
        total: bytes of the GPU.
    """

    context: int
    held: int
    total: int

    @classmethod
    def measured(cls) -> Footprint:
        """That of this process until now; nobody else may be using its GPU."""
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        context = max(0, total - free - torch.cuda.memory_reserved())
        return cls(context=context, held=torch.cuda.max_memory_reserved(), total=total)

    @property
    def part(self) -> float:
        """The part of a GPU to reserve for a host, in whole hundredths; it may be above 1."""
        return math.ceil(PARTS * (self.context + SPARE * self.held) / self.total) / PARTS

    def limit(self, part: float) -> float:
        """What tensors may take of all memory, so that a host stays within `part` of it."""
        return part - self.context / self.total


def keep_within(limit: float) -> None:
    """Has allocations of this process fail beyond a part of its GPU's memory, its context's apart.

    Args:
        limit: a fraction of all memory, above 0.
    """
    if torch.cuda.is_available():  # a host that has none says so when it trains
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit))
