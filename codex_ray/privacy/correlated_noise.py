"""The noise of a whole run, handed out round by round: row t of C^-1 z is a function of the seed.

A row depends on the fresh noise z of all rounds before, each from its own stream. A process keeps
what it needs of them in memory, and where it lacks that (a seeded run that goes on, a round asked
for out of turn) it draws them again from round 0: with the same bits. Nothing of it is ever written
to disk, since whoever has it can take the noise off what was released.

A run whose noise comes from the operating system cannot draw it again. When it goes on in a new
process, its noise begins anew with that round. That costs accuracy, as what was added before is
never taken back, and no privacy: in the matrix with both runs' blocks on its diagonal a client's
columns are parts of those in C, so they are no longer, and where they meet they meet less.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from codex_ray.privacy.correlated import Factor, Floats, Memory, stretch
from codex_ray.privacy.schedule import Schedule
from codex_ray.randomness import SeedTree, Stream

RELEASE: Final = "release"
"""The streams of fresh noise are those that a release without correlation draws from."""


class CorrelatedStream(Stream):
    """A round's stream for its release, whose normals are correlated with those of past rounds.

    Attributes:
        deviation: of one normal; other than those of a plain stream they are not of variance 1.
    """

    def __init__(self, key: bytes, noise: CorrelatedNoise, number: int) -> None:
        super().__init__(key)
        self._noise, self._round = noise, number
        self._drawn = False
        self.deviation = noise.deviation(number)

    def normal(self, count: int) -> npt.NDArray[np.float64]:
        """The round's noise [count]: a row of C^-1 z, stretched; `count` is the model's dimension.

        Raises:
            ValueError: of another length, or for a second time.
        """
        if self._drawn or count != self._noise.dimension:
            raise ValueError(
                f"{count} normals asked of a round's correlated noise: it has "
                f"{self._noise.dimension}, once"
            )
        self._drawn = True
        return self._noise.row(self._round)


class CorrelatedNoise:
    """The rows of C^-1 z for z of standard deviation `stretch`, one for each round.

    Attributes:
        dimension: d, the length of a row.
        stretch: how much larger it is than independent noise of the same price.
    """

    def __init__(
        self,
        factor: Factor,
        schedule: Schedule,
        *,
        secret: SeedTree,
        dimension: int,
        first: int | None = 0,
    ) -> None:
        """`first` is the round at which the noise begins: 0 unless earlier noise is lost.

        None is the first round that is asked for.
        """
        self.dimension = dimension
        self.stretch = stretch(factor.column(schedule.rounds), schedule)
        self._factor, self._secret = factor, secret
        self._first, self._rounds = first, schedule.rounds
        self._squares = np.cumsum(factor.undone(schedule.rounds) ** 2)
        self._memory: Memory = factor.memory(dimension)
        self._next = first or 0
        self._last: Floats | None = None

    def stream(self, number: int) -> CorrelatedStream:
        """What the release of round `number` draws its noise from.

        Raises:
            ValueError: a round before the first, or beyond the schedule.
        """
        if self._first is None:
            self._first = self._next = number
        if not self._first <= number < self._rounds:
            raise ValueError(
                f"round {number} has no noise: it goes from {self._first} to {self._rounds - 1}"
            )
        return CorrelatedStream(self._secret.key(RELEASE, number), self, number)

    def deviation(self, number: int) -> float:
        """The standard deviation of every entry of the row of round `number`."""
        return self.stretch * math.sqrt(float(self._squares[number - (self._first or 0)]))

    def row(self, number: int) -> Floats:
        """The noise [d] of round `number`, the same however often and in which order it is asked.

        Asked round after round it costs one draw each; otherwise all rounds before it are drawn
        again.
        """
        if number < self._next - 1:
            self._memory, self._next = self._factor.memory(self.dimension), self._first or 0
        while self._next <= number:
            fresh = self._secret.stream(RELEASE, self._next).normal(self.dimension)
            self._last = self._memory.follow(fresh)
            self._next += 1
        assert self._last is not None  # The loop ran, now or in the call before.
        return self._last * self.stretch
