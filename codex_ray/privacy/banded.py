"""Noise with a memory of some rounds: C has b bands, so a client's participations never meet.

Banded matrix factorisation (Choquette-Choo et al. 2023, arXiv:2306.08153) in its Toeplitz form
(McKenna 2024, arXiv:2405.15913). The more bands, the less error, up to the separation of the
schedule; as many vectors of past noise are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field

from codex_ray.errors import ConfigError
from codex_ray.privacy.correlated import Aim, Floats, inverse, loss, square_root
from codex_ray.privacy.schedule import Schedule
from codex_ray.types import Component

BLOCK = 1 << 15
"""Coordinates that are worked on at a time, so that they stay in the processor's cache."""


class Banded(Component):
    """Noise that takes back some of the noise of the last bands - 1 rounds."""

    kind: Literal["banded"] = "banded"
    bands: int = Field(
        ge=1,
        description="Bands of the matrix, at most the sampler's separation; as many vectors of the "
        "model's size are kept. 1 is independent noise.",
    )

    def fit(self, schedule: Schedule, *, aim: Aim = "mean") -> BandedFactor:
        """The matrix of so many bands with the least error.

        Raises:
            ConfigError: bands reach from one participation of a client to its next.
        """
        if self.bands > schedule.separation:
            raise ConfigError(
                f"federation.mechanism.correlation.bands is {self.bands}, but the sampler lets a "
                f"client take part again after {schedule.separation} rounds: lower it to that"
            )
        return _fitted(min(self.bands, schedule.rounds), schedule, aim)


@dataclass(frozen=True)
class BandedFactor:
    """A matrix C whose first column is `entries`, from 1 on, and then zero."""

    entries: tuple[float, ...]

    @property
    def kept(self) -> int:
        """A vector for each band below the diagonal."""
        return len(self.entries) - 1

    def column(self, count: int) -> Floats:
        """The entries, and zeros behind them [count]."""
        found = np.zeros(count)
        found[: len(self.entries)] = self.entries[:count]
        return found

    def undone(self, count: int) -> Floats:
        """The first column of C^-1 [count]."""
        return inverse(np.array(self.entries), count)

    def memory(self, dimension: int) -> BandedMemory:
        """The noise before round 0: none."""
        return BandedMemory(self.entries, dimension)


class BandedMemory:
    """The last rows of C^-1 z, in a ring [bands - 1, d]."""

    def __init__(self, entries: tuple[float, ...], dimension: int) -> None:
        self._entries = entries
        self._ring = np.zeros((len(entries) - 1, dimension))
        self._rounds = 0

    def follow(self, fresh: Floats) -> Floats:
        """z_t - c_1 y_{t-1} - c_2 y_{t-2} - ..., where y are the rows before [d].

        Subtracted one after the other, element by element, so that it has the same bits on every
        machine and after every resume.
        """
        found, kept = fresh.copy(), len(self._ring)
        lags = range(1, min(kept, self._rounds) + 1)
        for start in range(0, len(found), BLOCK):
            part = slice(start, start + BLOCK)
            for lag in lags:
                found[part] -= self._entries[lag] * self._ring[(self._rounds - lag) % kept, part]
        if kept:
            self._ring[self._rounds % kept] = found
        self._rounds += 1
        return found


@lru_cache(maxsize=32)
def _fitted(bands: int, schedule: Schedule, aim: Aim) -> BandedFactor:
    """The entries with the least error, by L-BFGS from those of the square root of A."""

    def objective(below: Floats) -> tuple[float, Floats]:
        column = np.zeros(schedule.rounds)
        column[0], column[1:bands] = 1.0, below
        undone = inverse(column[:bands], schedule.rounds)
        value, gradient = loss(column, undone, schedule, meet=False, aim=aim)
        return value, gradient[1:bands]

    if bands == 1:
        return BandedFactor((1.0,))
    from scipy.optimize import minimize  # slow to import, and most runs fit nothing

    found = minimize(objective, square_root(bands)[1:], jac=True, method="L-BFGS-B")
    return BandedFactor((1.0, *(float(entry) for entry in found.x)))
