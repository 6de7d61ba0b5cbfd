"""The discrete Gaussian over the integers, sampled by table from 64 uniform bits.

The table holds the distribution function times 2^64, from exponentials of 40 digits, as integers:
so no rounding of a platform's arithmetic shows in what is drawn. A value's probability is exact to
2^-64. Sixteen bits decide almost every draw; those that they leave open (0.1 %) read 48 more.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from codex_ray.randomness import Stream

_PI = Decimal("3.14159265358979323846264338327950288419717")
_BITS = 64
_GUIDE_BITS = 16
_OPEN = np.int32(1 << 30)
"""Marks the 16-bit words that do not decide a draw."""


@lru_cache(maxsize=8)
def discrete_gaussian(width_squared: str) -> DiscreteGaussian:
    """The distribution with weight exp(-pi k^2 / width^2) at k; its table is built once."""
    return DiscreteGaussian(Decimal(width_squared))


class DiscreteGaussian:
    """A distribution to draw from. Its variance is below width^2 / (2 pi), and almost that."""

    def __init__(self, width_squared: Decimal) -> None:
        """Build the table; `width_squared` is a decimal, so that everyone builds the same."""
        self.sigma = math.sqrt(float(width_squared / (2 * _PI)))
        with localcontext() as context:
            context.prec = 40
            weights = [Decimal(1)]
            while weights[-1] > Decimal(2) ** -(_BITS + 4):
                weights.append((-_PI * len(weights) ** 2 / width_squared).exp())
            self.farthest = len(weights) - 1
            line = weights[:0:-1] + weights
            total, so_far, steps = sum(line), Decimal(0), []
            for weight in line[:-1]:
                so_far += weight
                steps.append(min(int(so_far / total * 2**_BITS), 2**_BITS - 1))
        self._steps = np.array(steps, dtype=np.uint64)  # [2 farthest]: where a value ends

    def draw(self, count: int, stream: Stream) -> npt.NDArray[np.int32]:
        """`count` independent values."""
        words = np.frombuffer(stream.bytes(2 * count), dtype="<u2")
        drawn = np.take(self._guide, words, mode="wrap")  # Nothing wraps, but nothing is checked.
        undecided = np.flatnonzero(drawn == _OPEN)
        if undecided.size:
            below = stream.words(undecided.size) >> np.uint64(_GUIDE_BITS)
            above = words[undecided].astype(np.uint64) << np.uint64(_BITS - _GUIDE_BITS)
            drawn[undecided] = self._look_up(above | below)
        return drawn

    @cached_property
    def _guide(self) -> npt.NDArray[np.int32]:
        """For each first 16 bits [65536] the value, where it does not depend on the others."""
        first = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(_BITS - _GUIDE_BITS)
        last = first + np.uint64((1 << (_BITS - _GUIDE_BITS)) - 1)
        lowest, highest = self._look_up(first), self._look_up(last)
        return np.where(lowest == highest, lowest, _OPEN).astype(np.int32)

    def _look_up(self, uniform: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._steps, uniform, side="right") - self.farthest
