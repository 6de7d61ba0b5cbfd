"""Fixed point: every sum is one of integers modulo 2^bits, which no order or grouping changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from codex_ray.types import WORD_BITS, Residues, word_type
from codex_ray.types import reduce as reduce_words


@dataclass(frozen=True)
class FixedPoint:
    """Whole multiples of a step, as residues modulo 2^bits.

    Attributes:
        step: the grid's resolution, in the units of the update.
        levels: largest absolute integer of one summand.
        bits: the modulus is 2^bits.
    """

    step: float
    levels: int
    bits: int = WORD_BITS

    @classmethod
    def without_wrap(cls, bound: float, *, summands: int, bits: int = WORD_BITS) -> FixedPoint:
        """The finest grid over [-bound, bound] on which no sum of `summands` vectors can wrap.

        That is levels * summands < 2^(bits - 1), whatever the vectors are.

        Raises:
            ValueError: there are so many summands that not one level is left to each.
        """
        levels = largest_level(summands=summands, bits=bits)
        if levels < 1:
            raise ValueError(f"{summands} summands leave no level in {bits} bits")
        return cls(bound / levels, levels, bits)

    def scaled(self, vectors: torch.Tensor) -> torch.Tensor:
        """The vectors [..., d] in steps, float64, not yet rounded.

        An outlier meets the outermost level. A coordinate that is no number becomes 0: whether one
        was there must not show in the sum.
        """
        steps = torch.nan_to_num_(vectors.double() / self.step, nan=0.0)
        return steps.clamp_(-self.levels, self.levels)

    def residues(self, integers: torch.Tensor) -> Residues:
        """Integers [..., d] below 2^31, held as float64, as residues [..., d] modulo 2^bits.

        They are reduced where they are, and leave that device once, as words.
        """
        words = integers.to(torch.int32)
        if self.bits == 16:
            words = words.to(torch.int16)  # the low half of two's complement
        elif self.bits < WORD_BITS:
            words.bitwise_and_((1 << self.bits) - 1)
        here: Residues = words.cpu().numpy().view(word_type(self.bits))
        return here

    def total(self, integers: torch.Tensor) -> Residues:
        """The sum [d] of integers [n, d] below 2^31, held as float64, modulo 2^bits.

        They are added where they are, and one vector of words leaves that device. In float64 the
        sum of up to 2^22 of them is exact, so it does not depend on the order either.
        """
        return self.wrapped(integers.sum(dim=0))

    def wrapped(self, total: torch.Tensor) -> Residues:
        """Integers [..., d] below 2^53, held as float64, as residues [..., d] modulo 2^bits."""
        # First to the integers of least magnitude that are the same modulo 2^bits.
        half, whole = 2.0 ** (self.bits - 1), 2.0**self.bits
        return self.residues((total + half).remainder_(whole).sub_(half))

    def integers(self, residues: Residues) -> torch.Tensor:
        """Residues [d] as the integers of least magnitude [d], in float64."""
        if self.bits == 16:
            return torch.from_numpy(residues.view(np.int16).astype(np.float64))
        # Shifted up and down again, so that the sign bit of the residue becomes the word's.
        spare = WORD_BITS - self.bits
        signed = (residues << np.uint32(spare)).view(np.int32) >> np.int32(spare)
        return torch.from_numpy(signed.astype(np.float64))

    def decode(self, total: Residues) -> torch.Tensor:
        """The sum [d] in the units of the update, float64."""
        return self.integers(total) * self.step


def largest_level(*, summands: int, bits: int) -> int:
    """The largest integer that so many summands may each have without their sum wrapping."""
    return ((1 << (bits - 1)) - 1) // summands


def no_words(length: int, *, bits: int) -> Residues:
    """The sum [length] of nobody."""
    return np.zeros(length, dtype=word_type(bits))


def no_summands(count: int, length: int, *, bits: int) -> Residues:
    """Room for so many summands [count, length], each of zeros."""
    return np.zeros((count, length), dtype=word_type(bits))


def added(summands: Residues | Sequence[Residues], *, bits: int) -> Residues:
    """The sum [length] of the summands [n, length] modulo 2^bits."""
    total: Residues = np.add.reduce(summands, axis=0, dtype=word_type(bits))
    return reduce_words(total, bits)
