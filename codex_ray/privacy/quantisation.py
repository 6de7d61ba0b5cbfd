"""Fixed point: every sum is one of integers modulo 2^32, which no order or grouping changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from codex_ray.types import WORD_BITS, Residues

LARGEST: int = 2 ** (WORD_BITS - 1) - 1


@dataclass(frozen=True)
class FixedPoint:
    """A grid on which `summands` vectors over [-bound, bound] add up without wrapping.

    Attributes:
        bound: largest absolute coordinate of one summand, in the units of the update.
        summands: the most vectors that are ever added.
    """

    bound: float
    summands: int

    @property
    def levels(self) -> int:
        """Largest absolute integer of one summand: summands * levels < 2^31."""
        return LARGEST // self.summands

    @property
    def step(self) -> float:
        """The grid's resolution, in the units of the update."""
        return self.bound / self.levels

    def encode(self, vector: torch.Tensor) -> Residues:
        """`vector` [d] rounded to the nearest grid point, as residues [d]; outliers meet the bound.

        A coordinate that is no number becomes 0: whether one was there must not show in the sum.
        """
        scaled = torch.nan_to_num(vector.double() / self.step, nan=0.0).round()
        words = scaled.clamp(-self.levels, self.levels).to(torch.int32)
        return words.numpy().view(np.uint32)

    def decode(self, total: Residues) -> torch.Tensor:
        """The sum [d] as float64, from residues read as signed integers."""
        return torch.from_numpy(total.view(np.int32).astype(np.float64)) * self.step

    def rounding_norm(self, dimension: int) -> float:
        """The most that rounding adds to the Euclidean norm of a vector [dimension]."""
        return self.step / 2 * float(np.sqrt(dimension))
