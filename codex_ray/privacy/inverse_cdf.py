"""Whole numbers from uniform bits: the value drawn is how many steps of a table the bits reach.

A symmetric distribution over the integers is a table of its distribution function times 2^192, made
from integers alone, so that no rounding of a platform's arithmetic shows in what is drawn. A draw
is a 192-bit uniform word, of which hardly any bit is looked at: the first 16 to 22 point into a
guide that knows almost every value; a draw that they leave open reads on to 64 bits, and one that
64 leave open (about once in 10^16 draws) to the end.

A vector of n draws takes the first bits of all of them from the stream, then the next bits of the
open ones, in order: what is drawn depends on the stream and n alone. How many are open is the only
thing that the time and the bytes read tell of the values.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.errors import PrivacyError
from codex_ray.randomness import Stream

Draws: TypeAlias = npt.NDArray[np.int32]
_Words: TypeAlias = npt.NDArray[np.uint64]

BITS = 192
"""Bits of a draw, and of a step of the table."""
TAIL_BITS = 192
"""Values beyond which there is less than 2^-192 on either side are never drawn."""
PRECISION = 384
"""Bits after the point in the integers from which tables are made."""
TOTAL_VARIATION = 2.0**-140
"""Bound on the distance from the distribution asked for; see `InverseCdf`."""
WIDEST = 1e5
"""The largest standard deviation, in steps of the grid.

Its table takes 10^8 bytes, and making it ten times as many and six seconds.
"""

_OPEN = np.int32(1 << 30)
_NARROW, _WIDE = 16, 22


class InverseCdf:
    """A symmetric distribution over the integers, to draw from.

    Its distance in total variation from the one asked for is below 2^-140, for standard deviations
    up to WIDEST, where at most N = 2^22 values can be drawn. It is at most the sum of the tails cut
    off (2 x 2^-192), of the steps rounded down (N 2^-192), and of what the weights are wrong by
    (2^-150, see who makes them).
    """

    def __init__(self, weights: Sequence[int]) -> None:
        """Build the table.

        Args:
            weights: integers [K + 1] in proportion to the probabilities of 0, 1, ..., K; so are
                those of -1, ..., -K.
        """
        self.farthest = len(weights) - 1
        so_far = list(accumulate(weights))
        total = 2 * so_far[-1] - weights[0]
        # P(X <= k) = 1/2 + P(X = 0)/2 + P(0 < X <= k), and P(X <= -k - 1) = 1 - P(X <= k).
        reciprocal = (1 << (BITS + total.bit_length())) // total
        upper = [
            (so_far[-1] - weights[0] + below) * reciprocal >> total.bit_length()
            for below in so_far[:-1]
        ]
        raw = b"".join(
            [((1 << BITS) - step).to_bytes(BITS // 8) for step in reversed(upper)]
            + [step.to_bytes(BITS // 8) for step in upper]
        )
        limbs = np.frombuffer(raw, ">u8").reshape(-1, BITS // 64)  # [2 K, 3]
        self._steps: _Words = limbs[:, 0].astype(np.uint64)  # where a value ends, the first 64 bits
        self._raw = raw
        self._guide_bits = _guide_bits(weights[0] / total)
        self._guide = self._make_guide()

    def draw(self, count: int, stream: Stream) -> Draws:
        """`count` independent values [count]."""
        if self._guide_bits == _NARROW:
            first = np.frombuffer(stream.bytes(2 * count), "<u2")
            at, width = first, 16
        else:
            first = np.frombuffer(stream.bytes(4 * count), "<u4")
            at, width = first >> np.uint32(32 - self._guide_bits), 32
        drawn: Draws = np.take(self._guide, at, mode="wrap")  # nothing wraps; "raise" is slower
        is_open = np.flatnonzero(drawn == _OPEN)
        if is_open.size:
            above = first[is_open].astype(np.uint64) << np.uint64(64 - width)
            below = stream.words(is_open.size) >> np.uint64(width)
            drawn[is_open] = self._read_on(above | below, stream)
        return drawn

    def step(self, k: int) -> int:
        """P(X <= k) times 2^192, rounded to an integer, for -K <= k < K."""
        start = (k + self.farthest) * BITS // 8
        return int.from_bytes(self._raw[start : start + BITS // 8])

    def _read_on(self, words: _Words, stream: Stream) -> npt.NDArray[np.int64]:
        """The values of open draws by their first 64 bits [n]; those still open read 128 more."""
        reached = np.searchsorted(self._steps, words, side="right")
        # Below the first step nothing is equal: that the index wraps around there does no harm.
        for i in np.flatnonzero(self._steps[reached - 1] == words):
            word = int(words[i]) << (BITS - 64) | int.from_bytes(stream.bytes((BITS - 64) // 8))
            below = range(-self.farthest, self.farthest)
            reached[i] = bisect_right(below, word, key=self.step)
        return reached - self.farthest

    def _make_guide(self) -> Draws:
        """For each value of the first bits what is drawn, if the others do not matter."""
        size = 1 << self._guide_bits
        ends = (self._steps >> np.uint64(64 - self._guide_bits)).astype(np.int64)
        within = np.bincount(ends, minlength=size)  # steps with these first bits
        value = np.cumsum(within) - self.farthest
        # A step at the very start of a stretch leaves it undecided here: rare, and still right.
        return np.where(within == 0, value, _OPEN).astype(np.int32)


def check_width(deviation: float) -> None:
    """Accept a standard deviation.

    Raises:
        PrivacyError: it is not a positive number, or so large that the table would be.
    """
    if not 0 < deviation <= WIDEST:
        raise PrivacyError(
            f"integer noise of standard deviation {deviation:g} steps: it must be above 0 and at "
            f"most {WIDEST:g}, as the table of a wider one outgrows memory: take a coarser grid"
        )


def _guide_bits(highest: float) -> int:
    """As many first bits as leave about 5 % of the draws open, if the highest probability is this.

    Above 16 they are looked up in a guide that no fast cache holds, and above 22 in none at all.
    """
    wanted = math.ceil(-math.log2(highest)) + 6
    return min(max(_NARROW, wanted), _WIDE)
