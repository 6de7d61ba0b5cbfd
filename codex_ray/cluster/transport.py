"""The seam over Ray: chunks of clients, two in flight a host, every wait with a deadline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import ray
from ray.exceptions import RayError

from codex_ray.cluster.causes import cause_of
from codex_ray.cluster.hosts import as_frame, as_raw
from codex_ray.cluster.inherited import inline_bytes
from codex_ray.cluster.packing import Costs, Pool
from codex_ray.cluster.roll_call import RollCall
from codex_ray.cluster.trip import Trip
from codex_ray.errors import HostLost
from codex_ray.federation.parcels import Parcel
from codex_ray.federation.transport import Frames, work_here
from codex_ray.types import ClientId, Stage
from codex_ray.wire import Frame, kind_of

IN_FLIGHT: Final = 2
ALIKE: Final = 2
"""Up to so many frames go through the object store, if all clients together get no more."""
GLANCE: Final = 0.5
"""Seconds after which a trip looks whether a host that was away is back."""


class RayTransport:
    """Exchanges frames with clients on Ray actors.

    Between the training task and the last message of a round a client stays on one host, because
    its update and its keys are there and nowhere else. With as many hosts as clients, client i is
    always on host i. Otherwise a client is trained by whichever host has room, and what hosts tell
    of the time that it took decides in which order, and nothing else.

    A host that is lost while clients train has others do its part of the trip. One that is lost
    later takes keys along that nobody else has: until the survivor set is final the round starts
    over.
    """

    def __init__(
        self,
        hosts: Sequence[Any],
        *,
        population: int,
        deadline: float,
        costs: Costs | None = None,
        together: int = 1,
        part: int = 1,
        term: int = 0,
        another: Callable[[int], Any] | None = None,
        asked_again: bool = False,
    ) -> None:
        """A seam to those actors; `wait` has to be called before the first exchange.

        Args:
            hosts: the actors.
            population: how many clients there are.
            deadline: seconds after which a silent host counts as lost.
            costs: what is known of the time that clients take; nothing, if it is left out.
            together: how many clients a host trains in one program.
            part: of how many a program can be made up, without that any of it is padding.
            term: which coordinator of the run this is, from 0.
            another: starts a host in place of one that keeps failing, by its number.
            asked_again: whether a client that sends its summand along with its training is asked
                something more in the round, be it by the simulator.
        """
        self._hosts = RollCall(hosts, term=term, another=another)
        self._pinned = population <= len(hosts)
        self._deadline = deadline
        self._costs = costs or Costs(population)
        self._together, self._part = together, part
        self._asked_again = asked_again
        self._place: dict[ClientId, int] = {}
        self._warm: set[int] = set()
        self._trip: Trip | None = None
        self.lost: frozenset[ClientId] = frozenset()

    @property
    def width(self) -> int:
        """As many machines as there are hosts."""
        return len(self._hosts)

    @property
    def hosts(self) -> list[Any]:
        """The host actors by number, present or away."""
        return [self._hosts.actor(number) for number in range(self.width)]

    @property
    def places(self) -> Mapping[ClientId, int]:
        """On which host each client of the attempt under way is."""
        return self._place

    def wait(self, *, at_least: int | None = None) -> None:
        """Returns when so many hosts are built and answer; all of them, if no number is given.

        Those that come later are given work as soon as they do. Where each client has a host of its
        own, all of them are needed, whatever the number.

        Raises:
            ClusterError: they are not, in time; the message says what the cluster has.
            ClusterError: a host cannot be built, for the reason that it gives.
        """
        wanted = len(self._hosts) if at_least is None or self._pinned else at_least
        self._hosts.wait(at_least=wanted, deadline=self._deadline)

    def exchange(self, outbox: Frames) -> dict[ClientId, bytes]:
        """The clients' replies, in the order in which hosts finish.

        Raises:
            HostLost: a host died, or was silent past the deadline, before the survivor set was
                final, and nobody else can do its part.
            ClusterError: no host comes back before the deadline, or hosts keep failing.
        """
        self.lost = frozenset()
        if not outbox:
            return {}
        trip = self._trip = self._prepare(outbox)
        self._fill(trip)
        heard = time.monotonic()
        while trip.waiting or trip.again:
            if not trip.waiting:
                self._hosts.wait(at_least=1, deadline=self._deadline)
                self._fill(trip)
                heard = time.monotonic()
                continue
            glance = GLANCE if self._hosts.away else self._deadline
            left = heard + self._deadline - time.monotonic()
            done, _ = ray.wait(list(trip.waiting), timeout=max(0.0, min(glance, left)))
            if done:
                heard = time.monotonic()
            elif heard + self._deadline <= time.monotonic():
                self._give_up(trip)
                heard = time.monotonic()
            for ref in done:
                self._receive(ref, trip)
            if (self._hosts.away and self._hosts.look()) or trip.again:
                self._fill(trip)
        self.lost = frozenset(trip.lost)
        return trip.inbox

    @property
    def progress(self) -> dict[str, Any]:
        """How far the exchange under way is: its stage, clients asked and heard, hosts away."""
        trip = self._trip
        return {
            "stage": "" if trip is None else trip.stage.name.lower(),
            "asked": 0 if trip is None else len(trip.outbox),
            "heard": 0 if trip is None else len(trip.inbox),
            "hosts": self.width,
            "away": self._hosts.away,
        }

    def _prepare(self, outbox: Frames) -> Trip:
        """The exchange before anything is out: whoever is not bound to a host is in the pool."""
        stage = kind_of(next(iter(outbox.values()))).stage
        clients = sorted(outbox)
        if stage is Stage.TRAIN:  # they may all have been lost when it was too late to try again
            self.wait(at_least=1)
            self._place.clear()  # of the attempt before, which nothing is asked of any more
        trip = Trip(
            stage,
            outbox,
            _shared(outbox),
            [deque() for _ in range(self.width)],
            asked_again=self._asked_again,
        )
        if stage is Stage.TRAIN and not self._pinned:
            hosts = max(1, len(self._hosts.present))
            trip.pool = Pool(
                clients, self._costs, hosts=hosts, together=self._together, part=self._part
            )
            return trip
        if stage is Stage.TRAIN:
            self._place |= {client: client for client in clients}
        held: list[list[ClientId]] = [[] for _ in range(self.width)]
        for client in clients:
            held[self._place[client]].append(client)
        for queue, chunk in zip(trip.own, held, strict=True):
            if chunk:
                queue.append(tuple(chunk))
        for host in self._hosts.away:
            self._abandon(host, trip, "it is away")
        return trip

    def _fill(self, trip: Trip) -> None:
        """Gives every host something to do, as far as there is something."""
        busy = [host for host, _, _ in trip.waiting.values()]
        for flight in range(IN_FLIGHT):
            for host in self._hosts.present:
                if busy.count(host) <= flight:
                    self._submit(host, trip)

    def _submit(self, host: int, trip: Trip) -> None:
        """Gives the host its next chunk, if there is one for it."""
        if trip.pool is not None:
            trip.pool.hosts = len(self._hosts.present)
        chunk = trip.next_for(host)
        if not chunk:
            return
        if trip.pool is not None:
            self._place |= dict.fromkeys(chunk, host)
        actor, ticket = self._hosts.actor(host), self._hosts.ticket(host)
        if trip.shared:
            alike: dict[int, list[ClientId]] = {}
            for client in chunk:
                alike.setdefault(id(trip.outbox[client]), []).append(client)
            frames = [trip.shared[frame] for frame in alike]
            ref = actor.broadcast.remote(ticket, list(alike.values()), *frames)
        else:
            parcel = Parcel({client: trip.outbox[client] for client in chunk})
            ref = actor.handle.remote(ticket, as_raw(parcel.to_bytes()))
        trip.waiting[ref] = (host, ticket, chunk)

    def _receive(self, ref: Any, trip: Trip) -> None:
        """Takes what a host has sent, or that it is lost, and keeps it busy."""
        host, ticket, chunk = trip.waiting.pop(ref)
        try:
            parcel = Parcel.read(as_frame(ray.get(ref, timeout=self._deadline)))
        except RayError as error:
            cause = cause_of(error)
            if not isinstance(cause, HostLost):
                raise cause from error
            if ticket == self._hosts.ticket(host):
                self._lose(host, trip, str(cause))
            begun = "is restarting" not in str(error)
            trip.without(chunk, f"host {host}: {cause}", begun=begun)
            return
        trip.take(parcel)
        if ticket != self._hosts.ticket(host):  # it was lost while this was on its way
            if trip.pool is not None:
                trip.undo_chunk(chunk, f"host {host} is gone")
            return
        self._hosts.did(host)
        if trip.pool is not None:
            trip.done.setdefault(host, []).append(chunk)
            trip.pool.done(host, chunk, time.monotonic())
        if trip.stage is Stage.TRAIN and host in self._warm:
            self._costs.learn(chunk, parcel.seconds)
        self._warm.add(host)  # its first chunk took what it took to warm up
        self._submit(host, trip)

    def _lose(self, host: int, trip: Trip, cause: str) -> None:
        """Does without a host, as far as that can be.

        Raises:
            HostLost: it cannot.
        """
        self._hosts.lost(host, cause)
        self._warm.discard(host)
        trip.undo(host)
        self._abandon(host, trip, cause)

    def _abandon(self, host: int, trip: Trip, cause: str) -> None:
        """Gives up what only this host could still do."""
        while trip.own[host]:
            trip.go_without(set(trip.own[host].popleft()), f"host {host}: {cause}")

    def _give_up(self, trip: Trip) -> None:
        """Does without every host that still owes something: each has been silent for so long.

        Raises:
            HostLost: that cannot be.
        """
        silent = sorted({host for host, _, _ in trip.waiting.values()})
        reason = f"hosts {silent} gave no answer for {self._deadline:g} s"
        waiting, trip.waiting = trip.waiting, {}
        for host in silent:
            self._hosts.hung(host, reason)
        for host in silent:
            self._lose(host, trip, reason)
        for _, _, chunk in waiting.values():
            trip.without(chunk, reason)

    def work(self, tasks: Sequence[Frame]) -> list[bytes]:
        """The result of each piece of the server's own work, from whichever host it fell to.

        A piece whose host is lost is done here: it needs nothing that only the host had.
        """
        well = [self._hosts.actor(number) for number in self._hosts.present]
        if not well:
            return [work_here(task) for task in tasks]
        refs = [
            well[number % len(well)].work.remote(_plain(task)) for number, task in enumerate(tasks)
        ]
        results = []
        for ref, task in zip(refs, tasks, strict=True):
            try:
                results.append(ray.get(ref, timeout=self._deadline))
            except RayError as error:
                cause = cause_of(error)
                if not isinstance(cause, HostLost):
                    raise cause from error
                results.append(work_here(task))
        return results

    def recover(self) -> None:
        """Returns as soon as the round can be tried again, by the hosts that are there.

        Raises:
            ClusterError: no host comes back before the deadline.
        """
        self._place.clear()
        self._warm.clear()
        self.wait(at_least=1)

    def close(self) -> None:
        """Ends the host actors."""
        self._hosts.end()


def _shared(outbox: Frames) -> dict[int, Any]:
    """Large frames that go to everyone, by id, each put into the object store once; else none.

    They are two where some of a cohort fall silent before their summand: those hear of less.
    """
    distinct: dict[int, Frame] = {}
    for frame in outbox.values():
        distinct[id(frame)] = frame
        if len(distinct) > ALIKE:
            return {}
    if max(map(len, distinct.values())) < inline_bytes():
        return {}
    return {key: ray.put(np.frombuffer(frame, dtype=np.uint8)) for key, frame in distinct.items()}


def _plain(frame: Frame) -> bytes:
    return frame if isinstance(frame, bytes) else bytes(frame)
