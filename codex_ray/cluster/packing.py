"""Which clients a host trains next: by what they have taken so far, the longest first.

A host with room gets a share of what is left. So chunks are large at first, and small when it
matters who ends last (guided self-scheduling, Polychronopoulos and Kuck 1987); the last ones are
cut so that all hosts end together. What a client takes is learnt from what whole chunks took, and
decides where it is trained and nothing else: every assignment gives the same updates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from codex_ray.types import ClientId

LEAST: Final = 0.05
"""Seconds of work that are worth a call, which costs about a millisecond."""
SLIGHT: Final = 0.01
"""Seconds of work for which a host that is busy is not called once more."""
SHARE: Final = 3
"""A chunk is one part in so many of what is left for each host."""
UNTIMED: Final = 8
"""Chunks a host has at the most while nothing is timed yet."""
STEP: Final = 0.5
"""How far an estimate moves towards what was measured."""
MOST: Final = 4.0
"""An estimate never moves by a larger factor in one step: a machine may be busy with others."""


class Costs:
    """Seconds of training by client, as far as they are known.

    Hosts tell what a chunk took. It is put down to the clients in it in proportion to what was
    expected of each, and a client that comes in many chunks is told apart from the others in time.
    """

    def __init__(self, population: int, *, records: Sequence[int] | None = None) -> None:
        """Nothing is known of so many clients, or only how many records each has."""
        # Whoever has no records takes some time too.
        self._guess = np.ones(1) if records is None else 1.0 + np.asarray(records, np.float64)
        self._alike = records is None
        self._found = np.full(population, np.nan, dtype=np.float32)
        self._seconds = 0.0
        self._units = 0.0

    @property
    def timed(self) -> bool:
        """Whether anything was timed; until then costs are in no unit."""
        return self._units > 0

    def of(self, clients: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """What each client's training is expected to take [n]."""
        pace = self._seconds / self._units if self.timed else 1.0
        found = self._found[clients].astype(np.float64)
        return np.where(np.isnan(found), pace * self._guesses(clients), found)

    def learn(self, chunk: Sequence[ClientId], seconds: float) -> None:
        """Takes into account that a chunk of these clients took so many seconds."""
        clients = np.array(chunk, dtype=np.int64)
        expected = self.of(clients)
        total = float(expected.sum())
        if seconds <= 0 or total <= 0:
            return
        ratio = seconds / total
        towards = 1 + STEP * (min(MOST, max(1 / MOST, ratio)) - 1)
        new = np.isnan(self._found[clients])
        self._found[clients] = expected * np.where(new, ratio, towards)
        self._seconds += seconds
        self._units += float(self._guesses(clients).sum())

    def _guesses(self, clients: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.ones(len(clients)) if self._alike else self._guess[clients]


@dataclass
class _Load:
    """What a host has been given and has not done yet, with what it is expected to take.

    Attributes:
        chunks: in the order in which it does them.
        since: when it began with the first of them.
    """

    chunks: dict[tuple[ClientId, ...], float] = field(default_factory=dict)
    since: float = 0.0

    def left(self, now: float) -> float:
        """Seconds that it is still expected to take."""
        first = next(iter(self.chunks.values()), 0.0)
        return sum(self.chunks.values()) - min(first, now - self.since)


class Pool:
    """The clients of a trip that no host has yet, longest first.

    Attributes:
        hosts: how many are there to do them, which may change.
    """

    def __init__(
        self,
        clients: Sequence[ClientId],
        costs: Costs,
        *,
        hosts: int,
        together: int = 1,
        part: int = 1,
    ) -> None:
        """All of them. Of a small cohort every host gets its part, so no more is lost with one.

        Args:
            clients: of the trip.
            costs: what is known of the time that they take.
            hosts: how many are there to do them.
            together: how many clients a host trains in one program, if there are enough.
            part: of how many a program can be made up, without that any of it is padding.
        """
        everyone = np.array(clients, dtype=np.int64)
        worth = costs.of(everyone)
        order = np.lexsort((everyone, -worth))
        self._queue: list[ClientId] = everyone[order].tolist()
        self._worth: list[float] = worth[order].tolist()
        self._at = 0
        self.hosts = hosts
        self._part = min(part, together)
        self._together = min(together, max(1, math.ceil(len(clients) / hosts)))
        self._left = sum(self._worth)
        self._timed = costs.timed
        least = self._left / hosts
        self._least = min(LEAST, least) if costs.timed else least / UNTIMED
        self._loads: dict[int, _Load] = {}

    def take(self, host: int, now: float) -> tuple[ClientId, ...]:
        """The next chunk for this host, in increasing order of the clients.

        It is empty when none are left; or when others will be done with the rest by the time when
        this host is done with what it has.

        Args:
            host: which one asks.
            now: the time, in seconds of any clock.
        """
        load = self._loads.setdefault(host, _Load())
        share = max(self._least, self._left / (SHARE * self.hosts))
        level = self._level(load, now)
        if load.chunks and level < SLIGHT:
            return ()
        last = level < share + self._least / 2
        share = max(min(SLIGHT, self._least), level) if last else share
        together = self._part if last else self._together
        first, worth = self._at, 0.0
        while self._at < len(self._queue):
            cost = self._worth[self._at]
            whole = (self._at - first) % together == 0
            if self._at > first and whole and worth + cost / 2 > share:
                break
            worth += cost
            self._at += 1
        self._left -= worth
        chunk = tuple(sorted(self._queue[first : self._at]))
        if chunk:
            load.since = load.since if load.chunks else now
            load.chunks[chunk] = worth
        return chunk

    def done(self, host: int, chunk: tuple[ClientId, ...], now: float) -> None:
        """The host has done a chunk, and begins with its next one."""
        load = self._loads.get(host)
        if load is not None and load.chunks.pop(chunk, None) is not None:
            load.since = now

    def gone(self, host: int) -> None:
        """The host is lost, with whatever it had: that is no matter of this pool any more."""
        self._loads.pop(host, None)

    def _level(self, load: _Load, now: float) -> float:
        """Seconds of work with which a host would end when all of them could end at once."""
        if not self._timed:
            return math.inf  # What is expected is in no unit yet.
        everybody = sum(other.left(now) for other in self._loads.values())
        return (self._left + everybody) / self.hosts - load.left(now)
