"""When who is killed: drawn from a seed, every kind of target at every trip, runs apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from codex_ray.cluster.kills import WHOM, Kill, Whom
from codex_ray.federation.faults import Trip
from codex_ray.randomness import Randomness, Stream
from codex_ray.types import Stage

APART: Final = 2
"""Rounds from one kill of a run to the next: what the one takes is over before the other."""
SOAKED: Final = 10
"""The same in a soak."""
COORDINATORS: Final = 5
"""One kill of a soak in so many is the coordinator's."""

Trips = Mapping[int, Sequence[Stage]]
"""The trips of each round of a run, in their order."""


@dataclass(frozen=True)
class Schedule:
    """The kills of each run, one run after the other.

    Attributes:
        runs: their kills, in the order of rounds; numbers go on from run to run.
    """

    runs: tuple[tuple[Kill, ...], ...]

    @property
    def kills(self) -> int:
        """How many there are."""
        return sum(len(run) for run in self.runs)


def every_kind(count: int, *, seed: int, trips: Trips, hosts: int) -> Schedule:
    """So many kills, of every target at every trip before any comes again, in as few runs as fit.

    A target that comes to the same trip again is killed at the other moment: after the frames went
    out, if it was before.

    Args:
        count: of kills.
        seed: by which rounds, hosts, moments and the order are drawn.
        trips: that the rounds have when nobody is killed.
        hosts: among which one is drawn.
    """
    stream = Randomness.of(seed).public.stream("chaos")
    stages = sorted({stage for those in trips.values() for stage in those})
    kinds = [(whom, stage) for whom in WHOM for stage in stages]
    order: list[int] = []
    while len(order) < count:
        order += stream.permutation(len(kinds)).tolist()
    first = stream.uniform(len(kinds)) < 0.5
    queue = []
    for at, kind in enumerate(order[:count]):
        whom, stage = kinds[kind]
        queue.append((whom, stage, bool(first[kind]) ^ bool(at // len(kinds) % 2)))
    runs: list[tuple[Kill, ...]] = []
    number = 1
    while queue:
        placed = _placed(queue, stream, trips=trips, hosts=hosts, number=number)
        number += len(placed)
        runs.append(placed)
    return Schedule(tuple(runs))


def soak(*, seed: int, trips: Trips, hosts: int) -> Schedule:
    """One run with a kill in every tenth round: hosts, and a coordinator now and then."""
    stream = Randomness.of(seed).public.stream("soak")
    kills: list[Kill] = []
    for round in range(SOAKED, len(trips), SOAKED):
        number = len(kills) + 1
        whom: Whom = "coordinator" if number % COORDINATORS == 0 else "host"
        stage = trips[round][_drawn(stream, len(trips[round]))]
        after = stream.uniform(1)[0] < 0.5
        kills.append(_kill(number, round, stage, whom, host=_drawn(stream, hosts), after=after))
    return Schedule((tuple(kills),))


def _placed(
    queue: list[tuple[Whom, Stage, bool]],
    stream: Stream,
    *,
    trips: Trips,
    hosts: int,
    number: int,
) -> tuple[Kill, ...]:
    """The kills of one run, taken off the queue: each in a round of its own that has its trip."""
    offset = _drawn(stream, APART)
    slots = [round for round in sorted(trips) if round % APART == offset] or sorted(trips)
    free = [slots[i] for i in stream.permutation(len(slots))]
    found = []
    for whom, stage, after in tuple(queue):
        round = next((one for one in free if stage in trips[one]), None)
        if round is None:
            continue
        free.remove(round)
        queue.remove((whom, stage, after))
        found.append(_kill(0, round, stage, whom, host=_drawn(stream, hosts), after=after))
    ordered = sorted(found, key=lambda kill: kill.round)
    return tuple(kill.model_copy(update={"number": number + i}) for i, kill in enumerate(ordered))


def _kill(number: int, round: int, stage: Stage, whom: Whom, *, host: int, after: bool) -> Kill:
    """The kill; at the last trip it is the host with the fewest clients.

    No round is tried again after its first unmask request. One that loses more shares there than
    its protocol can do without is abandoned: so it has to be, and it would end the comparison.
    """
    return Kill(
        number=max(1, number),
        round=round,
        trip=cast(Trip, stage.name.lower()),
        whom=whom,
        host=None if stage is Stage.UNMASK else host,
        after=bool(after),
    )


def _drawn(stream: Stream, count: int) -> int:
    """A number below `count`."""
    return min(count - 1, int(stream.uniform(1)[0] * count))
