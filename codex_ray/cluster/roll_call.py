"""Which hosts answer: a lost one is waited for beside the work, and replaced if it keeps failing.

Ray starts a dead actor anew, on its node or on another. Until it answers, a host is away and gets
nothing to do. One that is lost again and again without having done a piece of work is not started
anew any more: another takes its number, wherever there is room. A host that cannot be built ends a
run that has not begun; later on the others go on without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from codex_ray.cluster.causes import cause_of
from codex_ray.errors import ClusterError
from codex_ray.records.json_logs import HOST_LOST, HOST_REPLACED

LOG = logging.getLogger(__name__)
LOSSES: Final = 3
"""How often a host is lost with nothing done in between until another takes its place."""
REPLACED: Final = 3
"""How often a number gets another host, with nothing done in between, until the run ends."""
SHORTEST: Final = 0.1
"""Seconds until a host that did not answer is asked again; each time twice as many."""
LONGEST: Final = 5.0
TICKETS: Final = 2**20
"""How many tickets a coordinator has for each host."""
LOOK: Final = 0.05
"""Seconds between two looks of one who has nothing else to do."""


@dataclass
class _Entry:
    """What is known of the host of one number.

    Attributes:
        actor: its handle.
        ticket: that it works on. Each time that it is lost it gets another, so that nothing from
            before is done after it is back; it may have been out of reach and not dead.
        away: whether it does not answer, or has not yet.
        asked: the call that it answers when it is back; None until it is asked again.
        again: when that is, on the monotonic clock.
        pause: seconds until the time after that.
        losses: how often it was lost since it last did something.
        replaced: how often another has taken its place since then.
        given_up: whether no host can be built under this number, and none is tried any more.
        cause: what was last heard of it.
    """

    actor: Any
    ticket: int
    away: bool = True
    asked: Any = None
    again: float = 0.0
    pause: float = SHORTEST
    losses: int = 0
    replaced: int = 0
    given_up: bool = False
    cause: str = field(default="it has not started", repr=False)


class RollCall:
    """The hosts of a run by number, and who of them can be given something to do."""

    def __init__(
        self,
        hosts: Sequence[Any],
        *,
        term: int = 0,
        another: Callable[[int], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """All of them are away until they are looked for.

        Args:
            hosts: the actors.
            term: which coordinator of the run this is, from 0.
            another: starts a new host under a number; None, where there are no others.
            clock: tells seconds.
        """
        self._entries = [_Entry(actor, ticket=term * TICKETS) for actor in hosts]
        self._another = another
        self._clock = clock
        self._begun = term > 0

    def __len__(self) -> int:
        return len(self._entries)

    def actor(self, number: int) -> Any:
        """The handle of a host, present or away."""
        return self._entries[number].actor

    def ticket(self, number: int) -> int:
        """What a host has to be shown with each piece of work."""
        return self._entries[number].ticket

    @property
    def present(self) -> list[int]:
        """The numbers of the hosts that answer."""
        return [number for number, entry in enumerate(self._entries) if not entry.away]

    @property
    def away(self) -> list[int]:
        """The numbers of those that do not."""
        return [number for number, entry in enumerate(self._entries) if entry.away]

    def did(self, number: int) -> None:
        """Notes that a host has done a piece of work: it is no host that keeps failing."""
        self._entries[number].losses = self._entries[number].replaced = 0

    def lost(self, number: int, cause: str) -> None:
        """Notes that a host is gone, once for each time."""
        entry = self._entries[number]
        if entry.away:
            return
        LOG.warning("host %d is lost: %s", number, cause, extra={"event": HOST_LOST})
        entry.away, entry.cause, entry.pause = True, cause, SHORTEST
        entry.asked, entry.again = None, 0.0
        entry.ticket += 1
        self._failed(number)

    def hung(self, number: int, cause: str) -> None:
        """Notes that a host is silent: its process does not die by itself."""
        with suppress(RayError):
            ray.kill(self._entries[number].actor, no_restart=False)
        self.lost(number, cause)

    def look(self) -> list[int]:
        """The hosts that are back since the last look. It does not wait.

        Raises:
            ClusterError: a host cannot be built, for the reason that it gives, before the run has
                begun; later on that no host can.
        """
        back = []
        for number, entry in enumerate(self._entries):
            if not entry.away or entry.given_up:
                continue
            if entry.asked is None and self._clock() >= entry.again:
                entry.asked = entry.actor.ready.remote(entry.ticket)
            if entry.asked is None or not ray.wait([entry.asked], timeout=0)[0]:
                continue
            if self._heard(number):
                back.append(number)
        return back

    def _heard(self, number: int) -> bool:
        """Takes the answer of a host that was away; whether it is back."""
        entry = self._entries[number]
        asked, entry.asked = entry.asked, None
        try:
            ray.get(asked)
        except RayTaskError as error:
            raise cause_of(error) from error
        except RayError as error:
            if "creation task" in str(error):
                self._unbuilt(number, error)
                return False
            entry.cause = str(cause_of(error))
            entry.again, entry.pause = self._clock() + entry.pause, min(LONGEST, 2 * entry.pause)
            if not isinstance(error, ActorUnavailableError):  # which only tells to ask later
                self._failed(number)
            return False
        entry.away, entry.pause = False, SHORTEST
        return True

    def _unbuilt(self, number: int, error: RayError) -> None:
        """Has another host tried at once: Ray does not start one anew whose constructor raised.

        Raises:
            ClusterError: the run has not begun, or no number is left that a host could have.
        """
        entry = self._entries[number]
        said = str(error).strip().splitlines()[-1].removeprefix("codex_ray.errors.")
        entry.cause = f"host {number} cannot be built: {said}"
        others = [one for one in self._entries if one is not entry and not one.given_up]
        if not self._begun:
            raise ClusterError(entry.cause) from error
        if self._another is not None and entry.replaced < REPLACED:
            entry.losses = LOSSES - 1
            self._failed(number)
        elif others:
            entry.given_up = True
            LOG.warning("%s: the run goes on without it", entry.cause)
        else:
            raise ClusterError(entry.cause) from error

    def _failed(self, number: int) -> None:
        """Counts a loss; one too many, and another host is started under this number.

        Raises:
            ClusterError: that has been tried often enough.
        """
        entry = self._entries[number]
        entry.losses += 1
        if entry.losses < LOSSES:
            return
        entry.replaced += 1
        if entry.replaced > REPLACED or self._another is None:
            raise ClusterError(f"host {number} keeps dying: {entry.cause}")
        with suppress(RayError):
            ray.kill(entry.actor, no_restart=True)
        event = {"event": HOST_REPLACED}
        LOG.warning("host %d keeps failing: another takes its place", number, extra=event)
        entry.actor, entry.losses, entry.asked, entry.again = self._another(number), 0, None, 0.0

    def wait(self, *, at_least: int, deadline: float) -> list[int]:
        """Returns those that came, when so many hosts are present.

        Raises:
            ClusterError: they are not in time, and the message says what the cluster has; or one
                that is needed cannot be built, for the reason that it gives.
        """
        expires, came = self._clock() + deadline, list[int]()
        while True:
            came += self.look()
            if len(self.present) >= at_least:
                self._begun = True
                return came
            unbuilt = [entry.cause for entry in self._entries if entry.given_up]
            if len(self) - len(unbuilt) < at_least:
                raise ClusterError(unbuilt[-1])
            asked = [entry.asked for entry in self._entries if entry.away and entry.asked]
            if self._clock() > expires:
                raise ClusterError(self._missing(at_least, deadline))
            if asked:
                ray.wait(asked, timeout=LOOK)
            else:
                time.sleep(LOOK)

    def _missing(self, at_least: int, deadline: float) -> str:
        have = ray.cluster_resources()
        number = self.away[0]
        return (
            f"host {number} did not start within {deadline:g} s ({self._entries[number].cause}), "
            f"and {at_least} are needed: the cluster has {have.get('CPU', 0):g} CPUs and "
            f"{have.get('memory', 0) / 2**30:.1f} GiB: lower cluster.hosts or add nodes"
        )

    def end(self) -> None:
        """Ends them all."""
        for entry in self._entries:
            ray.kill(entry.actor, no_restart=True)
